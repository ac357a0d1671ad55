//! `faultdisk`: runs a command beside a slow disk, and takes the disk down with it.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use faultdisk::disk::Faults;
use faultdisk::mount::FaultyMount;

const USAGE: &str = "usage: faultdisk [--flush-ms N] [--write-ms N] [--mib N] COMMAND ARGUMENT...
Makes an ext4 of N MiB (1024) in memory whose flushes take N ms (20) and whose writes take N ms (0), runs COMMAND with
every {} in its arguments replaced by its directory, and ends as the command did. Needs root, /dev/fuse and a loop device.";

/// What the command line says.
struct Arguments {
    flush: Duration,
    write: Duration,
    mib: usize,
    command: Vec<String>,
}

fn read_arguments(mut arguments: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let (mut flush, mut write, mut mib) = (20, 0, 1024);
    loop {
        let argument = arguments.next().ok_or("there is no command")?;
        let number = match argument.as_str() {
            "--flush-ms" => &mut flush,
            "--write-ms" => &mut write,
            "--mib" => &mut mib,
            flag if flag.starts_with('-') => return Err(format!("unknown flag {flag}")),
            _ => {
                return Ok(Arguments {
                    flush: Duration::from_millis(flush),
                    write: Duration::from_millis(write),
                    mib: mib as usize,
                    command: std::iter::once(argument).chain(arguments).collect(),
                });
            }
        };
        let text = arguments.next().unwrap_or_default();
        *number = text
            .parse::<u64>()
            .map_err(|_| format!("{argument} wants a number, not {text:?}"))?;
    }
}

fn run(arguments: &Arguments) -> std::io::Result<bool> {
    let parent: PathBuf =
        std::env::temp_dir().join(format!("faultdisk-slow-{}", std::process::id()));
    std::fs::create_dir_all(&parent)?;
    let mount = FaultyMount::create(&parent, arguments.mib << 20, 1)?;
    mount.disk().lock().set_faults(Faults {
        flush_delay: arguments.flush,
        write_delay: arguments.write,
        ..Faults::default()
    });
    let directory = mount.directory().display().to_string();
    let words: Vec<String> = arguments
        .command
        .iter()
        .map(|word| word.replace("{}", &directory))
        .collect();
    let status = Command::new(&words[0]).args(&words[1..]).status();
    let counts = mount.disk().lock().counts();
    eprintln!(
        "faultdisk: {} writes, {} flushes",
        counts.writes, counts.flushes
    );
    drop(mount);
    std::fs::remove_dir_all(&parent)?;
    Ok(status?.success())
}

fn main() -> ExitCode {
    let arguments = match read_arguments(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("faultdisk: {error}\n{USAGE}");
            return ExitCode::from(64);
        }
    };
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("faultdisk: {error}");
            ExitCode::from(71)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_before_the_command() {
        let read = |line: &str| read_arguments(line.split(' ').map(str::to_owned));
        let arguments = read("--flush-ms 30 --mib 64 ls -l {}").expect("right");
        assert_eq!(arguments.flush, Duration::from_millis(30));
        assert_eq!((arguments.write, arguments.mib), (Duration::ZERO, 64));
        assert_eq!(arguments.command, ["ls", "-l", "{}"]);
        assert!(read("--mib x ls").is_err());
        assert!(read("--nope 1 ls").is_err());
        assert!(read("--mib 64").is_err());
    }
}
