//! Writes the seeds of every target below the folder that is given: `<folder>/<target>/seed-<n>`. With
//! `--list` it names the targets instead.

use std::ffi::OsStr;
use std::path::Path;

use crate::TARGETS;

/// Does what the command line says and ends the process.
pub fn run_and_exit() {
    std::process::exit(run())
}

fn run() -> i32 {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("usage: seeds <folder> | --list");
        return 2;
    };
    if folder == "--list" {
        TARGETS.iter().for_each(|(name, _)| println!("{name}"));
        return 0;
    }
    match write(&folder) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("seeds: {error}");
            1
        }
    }
}

fn write(folder: &OsStr) -> std::io::Result<()> {
    for (target, seeds) in TARGETS {
        let folder = Path::new(folder).join(target);
        std::fs::create_dir_all(&folder)?;
        for (number, seed) in seeds().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}
