//! The binary under the name `etcdutl`: `snapshot restore` and `snapshot status`, with etcdutl's words, outputs and exit
//! codes.

use std::path::Path;

use bolt::etcd::{Snapshot, StatusFormat};

use crate::exit::{self, Exit};
use crate::restore::{self, SnapshotFile};

/// Anything that went wrong.
const FAILED: u8 = 1;
/// A format that is none, or not for this.
const FORMAT: u8 = 4;
/// Wrong arguments.
const ARGUMENTS: u8 = 128;

const USAGE: &str = "\
usage: etcdutl snapshot restore SNAPSHOT --data-dir DIR [flags]   builds a data directory of ringd
       etcdutl snapshot status SNAPSHOT [-w FORMAT]               prints simple, fields, json or table

ringd restore --help lists the flags of a restore.
";

/// An end that is no success.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// What is printed behind `Error: `.
    pub text: String,
}

impl Failure {
    fn new(code: u8, text: impl Into<String>) -> Failure {
        let text = text.into();
        Failure { code, text }
    }
}

impl From<Exit> for Failure {
    fn from(exit: Exit) -> Failure {
        let code = match exit.code {
            exit::USAGE => ARGUMENTS,
            _ => FAILED,
        };
        Failure::new(code, exit.message)
    }
}

/// Runs the command; answers what to print.
///
/// # Errors
/// The exit code and what is wrong.
pub fn run(arguments: &[String]) -> Result<String, Failure> {
    let (words, format) = global_flags(arguments)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["snapshot", "restore", ref rest @ ..] => {
            let rest: Vec<String> = rest.iter().map(|word| (*word).to_owned()).collect();
            Ok(restore::run(&rest)?)
        }
        ["snapshot", "status", "--help" | "-h"] => Ok(USAGE.to_owned()),
        ["snapshot", "status", path] if !path.starts_with('-') => status(path, &format),
        ["snapshot", "status", flag, ..] if flag.starts_with('-') => {
            Err(Failure::new(FAILED, format!("unknown flag: {flag}")))
        }
        ["snapshot", "status", ..] => Err(Failure::new(
            ARGUMENTS,
            "snapshot status requires exactly one argument: the snapshot file",
        )),
        [] | ["snapshot"] | ["help" | "--help" | "-h", ..] => Ok(USAGE.to_owned()),
        [word, ..] => Err(Failure::new(
            FAILED,
            format!(
                "unknown command \"{word}\" for \"etcdutl\": ringd has snapshot restore and snapshot status"
            ),
        )),
    }
}

/// Takes out the flags that stand anywhere. No file is locked, so `--timeout` waits for nothing.
fn global_flags(arguments: &[String]) -> Result<(Vec<String>, String), Failure> {
    let (mut words, mut format) = (Vec::new(), "simple".to_owned());
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        if !matches!(name, "-w" | "--write-out" | "--timeout") {
            words.push(word.clone());
            continue;
        }
        let value = value.or_else(|| rest.next().cloned());
        let value = value.ok_or_else(|| {
            let what = format!("flag needs an argument: {name}");
            Failure::new(FAILED, what)
        })?;
        if name != "--timeout" {
            format = value;
        }
    }
    Ok((words, format))
}

fn status(path: &str, format: &str) -> Result<String, Failure> {
    let format = match format {
        "simple" => StatusFormat::Simple,
        "fields" => StatusFormat::Fields,
        "json" => StatusFormat::Json,
        "table" => StatusFormat::Table,
        "protobuf" => {
            let what = "protobuf not supported as output format";
            return Err(Failure::new(FORMAT, what));
        }
        _ => return Err(Failure::new(FORMAT, "unsupported output format")),
    };
    let failed = |what: String| Failure::new(FAILED, format!("snapshot {path}: {what}"));
    let opened = SnapshotFile::open(Path::new(path));
    let (file, bytes) = opened.map_err(|error| failed(error.to_string()))?;
    let status = Snapshot::open(file, bytes).and_then(|mut snapshot| snapshot.status());
    let status = status.map_err(|error| failed(error.to_string()))?;
    Ok(status.shown(format))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(line: &str) -> (u8, String) {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let Failure { code, text } = run(&words).expect_err(line);
        (code, text)
    }

    #[test]
    fn wrong_words_have_etcdutls_codes() {
        for (line, code, part) in [
            ("snapshot status", 128, "exactly one argument"),
            ("snapshot status a b", 128, "exactly one argument"),
            ("snapshot status --nope", 1, "unknown flag"),
            ("snapshot status /nowhere", 1, "/nowhere"),
            ("snapshot status / -w=protobuf", 4, "protobuf"),
            ("-w nothing snapshot status /", 4, "unsupported output"),
            ("snapshot status / -w", 1, "needs an argument"),
            ("snapshot restore", 128, "exactly one argument"),
            (
                "snapshot restore /nowhere --data-dir /nowhere/data",
                1,
                "/nowhere",
            ),
            ("defrag", 1, "unknown command \"defrag\""),
        ] {
            let (found, text) = refused(line);
            assert_eq!(found, code, "{line}: {text}");
            assert!(text.contains(part), "{line}: {text}");
        }
    }
}
