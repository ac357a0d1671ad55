//! `watch`.

use std::env;
use std::rc::Rc;

use grpc::proto::etcdserverpb::WatchResponse;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::client::Failure;
use crate::client::watch::{Seen, Watch, Watcher};
use crate::context::Context;
use crate::exit::{self, Exit, arguments};
use crate::go::quote::{quote, quote_list};
use crate::go::words;
use crate::out;
use crate::print::Printer;
use crate::print::keys::kind;

use super::watch_words::{FromEnvironment, Wrong, read, read_line};

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";

pub(super) async fn run(mut context: Context) -> Result<(), Exit> {
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let environment = FromEnvironment {
        key: variable("ETCDCTL_WATCH_KEY"),
        range_end: variable("ETCDCTL_WATCH_RANGE_END"),
    };
    if environment.key.is_empty() && !environment.range_end.is_empty() {
        let end = quote(environment.range_end.as_bytes());
        return arguments(format!(
            "ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={end}"
        ));
    }
    if context.invocation.truth("interactive") {
        return interactive(context, &environment).await;
    }
    let behind = context
        .words
        .iter()
        .position(|word| word == "watch")
        .map_or(0, |at| at + 1);
    let words = match read(&context.invocation, &context.words[behind..], &environment) {
        Ok(words) => words,
        Err(wrong) => return arguments(wrong.text()),
    };
    let (client, printer) = context.connect().await?;
    let mut watch = Watch::new(Rc::new(client));
    watch.add(words.spec).await?;
    loop {
        match watch.next().await {
            Ok(Seen::Answer(_, answer)) => show(&printer, &answer, &words.run).await?,
            Ok(Seen::Ended(_, reason)) => {
                if let Some(reason) = reason {
                    canceled(&printer, &reason)?;
                }
                break;
            }
            Err(failure @ Failure::Unreachable(_)) => return Err(failure.into()),
            Err(failure) => {
                canceled(&printer, &failure.to_string())?;
                break;
            }
        }
    }
    Err(Exit::new(
        exit::INTERRUPTED,
        "watch is canceled by the server",
    ))
}

/// Lines from standard input begin watches and ask for progress, until standard input ends.
async fn interactive(mut context: Context, environment: &FromEnvironment) -> Result<(), Exit> {
    let (client, printer) = context.connect().await?;
    let mut watch = Watch::new(Rc::new(client));
    let mut runs: Vec<(Watcher, Vec<String>)> = Vec::new();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    loop {
        tokio::select! {
            line = lines.next_line() => match line {
                Ok(Some(line)) => interpret(&line, &mut watch, &mut runs, environment).await?,
                Ok(None) => return Err(Exit::new(exit::INPUT, "error reading watch request line: EOF")),
                Err(error) => return Err(Exit::new(exit::INPUT, format!("error reading watch request line: {error}"))),
            },
            seen = watch.next(), if !runs.is_empty() => match seen? {
                Seen::Answer(watcher, answer) => {
                    let run = runs.iter().find(|(of, _)| *of == watcher).map_or(&[][..], |(_, run)| run);
                    show(&printer, &answer, run).await?;
                }
                Seen::Ended(watcher, reason) => {
                    if let Some(reason) = reason {
                        canceled(&printer, &reason)?;
                    }
                    runs.retain(|(of, _)| *of != watcher);
                }
            },
        }
    }
}

async fn interpret(
    line: &str,
    watch: &mut Watch,
    runs: &mut Vec<(Watcher, Vec<String>)>,
    environment: &FromEnvironment,
) -> Result<(), Exit> {
    let words = words::split(line).map_err(|error| Exit::new(exit::INPUT, error))?;
    match words.first().map(String::as_str) {
        None => out::error(&format!(
            "Invalid command: {line} (watch and progress supported)"
        )),
        Some("watch") if words.len() < 2 && environment.key.is_empty() => {
            out::error(&format!(
                "Invalid command {line} (command type or key is not provided)"
            ));
        }
        Some("watch") => match read_line(&words, environment) {
            Ok(words) => {
                let watcher = watch.add(words.spec).await?;
                runs.push((watcher, words.run));
            }
            Err(Wrong::Keys(text)) => out::error(&format!("Invalid command {line} ({text})")),
            Err(Wrong::Words(text)) => return arguments(text),
        },
        Some("progress") => watch.request_progress().await?,
        Some(_) => out::error(&format!("Invalid command {line} (only support watch)")),
    }
    Ok(())
}

/// A watch that ended without an answer of its own.
fn canceled(printer: &Printer, reason: &str) -> Result<(), Exit> {
    out::error(&format!("watch was canceled ({reason})"));
    printer.print(&WatchResponse {
        canceled: true,
        ..WatchResponse::default()
    })
}

async fn show(printer: &Printer, answer: &WatchResponse, run: &[String]) -> Result<(), Exit> {
    let revision = answer.header.as_ref().map_or(0, |header| header.revision);
    if answer.canceled {
        out::error(&format!("watch was canceled ({COMPACTED})"));
    } else if answer.events.is_empty() && revision != 0 {
        out::line(&format!("progress notify: {revision}"));
    }
    printer.print(answer)?;
    let [program, words @ ..] = run else {
        return Ok(());
    };
    for event in &answer.events {
        let kv = event.kv.clone().unwrap_or_default();
        let ran = Command::new(program)
            .args(words)
            .env("ETCD_WATCH_REVISION", revision.to_string())
            .env(
                "ETCD_WATCH_EVENT_TYPE",
                quote(kind(event.r#type).as_bytes()),
            )
            .env("ETCD_WATCH_KEY", quote(&kv.key))
            .env("ETCD_WATCH_VALUE", quote(&kv.value))
            .status()
            .await;
        let error = match ran {
            Ok(status) if status.success() => continue,
            Ok(status) => super::lock::status_text(status),
            Err(error) => super::lock::start_text(program, &error),
        };
        out::error(&format!("command {} error ({error})", quote_list(run)));
        return Err(Exit::silent(exit::ERROR));
    }
    Ok(())
}
