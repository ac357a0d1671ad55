//! `ringd salvage`: gives up, by name, what a start refused to give up.
//!
//! Without `--accept` it only says what would be lost. With `--accept FIRST..LAST` it accepts exactly
//! that range, which has to be the one that recovery names; the log then ends before it, and the
//! superblock keeps a record of the loss.

use std::path::PathBuf;
use std::rc::Rc;

use reactor::{DriverChoice, RunOptions, World};
use wal::{AcceptedLoss, Index, OpenError, Opened, Opening, WalEvent};

use crate::disk::Disk;
use crate::exit::{self, Exit};
use crate::local::Flag;
use crate::node::run_opening;

const USAGE: &str = "usage: ringd salvage DATA-DIR [--accept FIRST..LAST]";

/// Runs the command with the arguments after its name.
///
/// # Errors
/// Wrong arguments, a directory in use, or a loss that was named and not accepted.
pub fn run(arguments: &[String]) -> Result<(), Exit> {
    let (directory, accepted) = parse(arguments)?;
    let options = RunOptions {
        driver: DriverChoice::Auto,
        ..RunOptions::default()
    };
    let result = reactor::run(&options, |world| salvage(world, directory, accepted));
    match result {
        Ok(result) => result,
        Err(error) => Err(Exit::system(error.to_string())),
    }
}

fn parse(arguments: &[String]) -> Result<(PathBuf, Option<AcceptedLoss>), Exit> {
    let usage = || Exit::config(USAGE);
    let mut arguments = arguments.iter();
    let directory = arguments
        .next()
        .filter(|path| !path.starts_with('-'))
        .ok_or_else(usage)?;
    let accepted = match (arguments.next().map(String::as_str), arguments.next()) {
        (None, _) => None,
        (Some("--accept"), Some(range)) => {
            let (first, last) = range.split_once("..").ok_or_else(usage)?;
            Some(AcceptedLoss {
                first_missing: Index(first.parse().map_err(|_| usage())?),
                last_missing: Index(last.parse().map_err(|_| usage())?),
            })
        }
        _ => return Err(usage()),
    };
    if arguments.next().is_some() {
        return Err(usage());
    }
    Ok((PathBuf::from(directory), accepted))
}

async fn salvage(
    world: World,
    directory: PathBuf,
    accepted: Option<AcceptedLoss>,
) -> Result<(), Exit> {
    let work = Rc::new(Flag::default());
    let disk = Disk::new(world.clone(), directory.clone(), work.clone());
    let mut opening = Opening::new(wal::Config::default(), None);
    if let Some(loss) = accepted {
        opening = opening.accept(loss);
    }
    match run_opening(&disk, opening, &work).await {
        Ok(opened) => {
            match opened.report.accepted {
                Some(loss) => println!(
                    "accepted the loss of entries {} to {}; the log now ends at entry {}",
                    loss.first_missing, loss.last_missing, opened.report.end
                ),
                None => println!(
                    "nothing to salvage: the log is complete to entry {}",
                    opened.report.end
                ),
            }
            close(&world, &disk, opened, &work).await
        }
        Err(OpenError::Faulty(faulty)) => Err(Exit {
            code: exit::DATA,
            message: format!(
                "{faulty}\nto accept exactly this loss: ringd salvage {} --accept {}..{}",
                directory.display(),
                faulty.first_missing,
                faulty.last_missing
            ),
        }),
        Err(error) => Err(Exit {
            code: exit::DATA,
            message: error.to_string(),
        }),
    }
}

/// Closes the log cleanly.
async fn close(world: &World, disk: &Disk, opened: Opened, work: &Rc<Flag>) -> Result<(), Exit> {
    let mut wal = opened.wal;
    let mut requests = Vec::new();
    wal.stop();
    loop {
        let now = world.now().nanos();
        while let Some((id, result)) = disk.next_completion() {
            wal.complete(now, id, result);
        }
        while let Some(event) = wal.next_event() {
            match event {
                WalEvent::Stopped => return Ok(()),
                WalEvent::Poisoned { file, what } => {
                    return Err(Exit::log_failed(format!("{file}: {what}")));
                }
                _ => {}
            }
        }
        wal.poll(now, &mut requests);
        disk.submit(&mut requests);
        work.wait().await;
    }
}
