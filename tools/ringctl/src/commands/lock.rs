//! `lock`.

use std::io::{self, ErrorKind};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::rc::Rc;

use tokio::process::Command;

use crate::context::Context;
use crate::exit::{self, Exit, arguments};
use crate::go::quote::quote;

use super::session::{CANCELED, Place, Signals, TTL};

pub(super) async fn run(mut context: Context) -> Result<(), Exit> {
    let [name, command @ ..] = context.arguments() else {
        return arguments("lock takes a lock name argument and an optional command to execute");
    };
    let (name, command) = (name.clone(), command.to_vec());
    let ttl = match context.invocation.number("ttl") {
        ttl if ttl > 0 => ttl,
        _ => TTL,
    };
    let (client, printer) = context.connect().await?;
    let mut signals = Signals::catch()?;
    let (place, keep) = Place::take(Rc::new(client), &name, "", ttl).await?;
    let expired = keep.hold();
    tokio::pin!(expired);
    tokio::select! {
        turn = place.turn() => turn?,
        () = signals.next() => {
            place.unlock().await?;
            return Err(Exit::new(exit::ERROR, CANCELED));
        }
        () = &mut expired => return Err(Exit::new(exit::ERROR, "mutex: session is expired")),
    }
    let held = place.read().await?;
    if held.kvs.is_empty() {
        let text = if command.is_empty() {
            "lock lost on init"
        } else {
            "mutex: session is expired"
        };
        return Err(Exit::new(exit::ERROR, text));
    }
    if let [program, words @ ..] = &command[..] {
        let running = Command::new(program)
            .args(words)
            .env("ETCD_LOCK_KEY", name_of(&place))
            .env(
                "ETCD_LOCK_REV",
                held.header.map_or(0, |header| header.revision).to_string(),
            )
            .status();
        tokio::pin!(running);
        // The command goes on when the lease is lost; it cannot know better than its user.
        let ran = tokio::select! {
            ran = &mut running => ran,
            () = &mut expired => running.await,
        };
        let unlocked = place.unlock().await;
        ended(program, ran)?;
        return Ok(unlocked?);
    }
    printer.print(&held)?;
    tokio::select! {
        () = signals.next() => Ok(place.unlock().await?),
        () = &mut expired => Err(Exit::new(exit::ERROR, "session expired")),
    }
}

fn name_of(place: &Place) -> String {
    String::from_utf8_lossy(&place.key).into_owned()
}

fn ended(program: &str, ran: io::Result<ExitStatus>) -> Result<(), Exit> {
    match ran {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            // A command that a signal ended has no code; Go makes it -1.
            let code = status
                .code()
                .and_then(|code| u8::try_from(code).ok())
                .unwrap_or(u8::MAX);
            Err(Exit::new(code, status_text(status)))
        }
        Err(error) => Err(Exit::new(exit::ERROR, start_text(program, &error))),
    }
}

/// How a command ended, as Go words it.
pub(super) fn status_text(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => {
            let name = match signal {
                1 => "hangup".to_owned(),
                2 => "interrupt".to_owned(),
                3 => "quit".to_owned(),
                6 => "aborted".to_owned(),
                9 => "killed".to_owned(),
                11 => "segmentation fault".to_owned(),
                13 => "broken pipe".to_owned(),
                14 => "alarm clock".to_owned(),
                15 => "terminated".to_owned(),
                other => format!("signal {other}"),
            };
            format!("signal: {name}")
        }
        (None, None) => "exit status -1".to_owned(),
    }
}

/// Why a command did not start, as Go words it.
pub(super) fn start_text(program: &str, error: &io::Error) -> String {
    let error_text = crate::client::channel::os_text(error);
    match error.kind() {
        ErrorKind::NotFound if !program.contains('/') => {
            format!(
                "exec: {}: executable file not found in $PATH",
                quote(program.as_bytes())
            )
        }
        _ => format!("fork/exec {program}: {error_text}"),
    }
}
