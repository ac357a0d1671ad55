//! The words of a watch: keys, and behind `--` a command to run for each event.

use crate::cli::parse::{Failure, Invocation, parse};
use crate::cli::spec::{Action, Command, Group};
use crate::cli::tree::WATCH;
use crate::client::watch::Spec;
use crate::prefix::prefix_range;

const NUMBER: &str = "bad number of arguments";
const CONFLICT: &str = "bad number of arguments (found conflicting environment key)";
const SEPARATOR: &str = "bad number of arguments (found separator --, but no commands)";

/// A line of interactive mode.
static LINE: Command = Command::commands("", Group::Keys, "", LINES);
const LINES: &[Command] = &[Command::action("watch", Group::Keys, Action::Watch, "").flags(WATCH)];

/// Keys from the environment.
#[derive(Clone, Debug, Default)]
pub(super) struct FromEnvironment {
    /// `ETCDCTL_WATCH_KEY`, empty if unset.
    pub(super) key: String,
    /// `ETCDCTL_WATCH_RANGE_END`, empty if unset.
    pub(super) range_end: String,
}

/// What is watched, and what is run for each event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Words {
    /// What is watched.
    pub(super) spec: Spec,
    /// A program with its arguments; empty for none.
    pub(super) run: Vec<String>,
}

/// Why words are no watch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// The words themselves.
    Words(String),
    /// What is to be watched; a line of interactive mode may be typed again.
    Keys(String),
}

impl Wrong {
    /// The text.
    pub(super) fn text(self) -> String {
        match self {
            Wrong::Words(text) | Wrong::Keys(text) => text,
        }
    }
}

fn words_are_wrong<T>(text: &str) -> Result<T, Wrong> {
    Err(Wrong::Words(text.to_owned()))
}

/// Takes a call apart. `words` are all words behind `watch`.
pub(super) fn read(
    invocation: &Invocation,
    words: &[String],
    environment: &FromEnvironment,
) -> Result<Words, Wrong> {
    let run = words
        .iter()
        .position(|word| word == "--")
        .map(|at| &words[at + 1..]);
    if run.is_some_and(<[String]>::is_empty) {
        return words_are_wrong(SEPARATOR);
    }
    if run.is_none() && words.is_empty() && environment.key.is_empty() {
        return words_are_wrong(NUMBER);
    }
    let run = run.unwrap_or_default();
    let before = invocation.arguments.len().saturating_sub(run.len());
    let mut keys = invocation.arguments[..before].to_vec();
    if !environment.key.is_empty() {
        if !keys.is_empty() {
            return words_are_wrong(CONFLICT);
        }
        keys.push(environment.key.clone());
        keys.extend(Some(environment.range_end.clone()).filter(|end| !end.is_empty()));
    }
    let run = run.to_vec();
    Ok(Words {
        spec: spec(invocation, &keys)?,
        run,
    })
}

/// Takes a line of interactive mode apart.
pub(super) fn read_line(words: &[String], environment: &FromEnvironment) -> Result<Words, Wrong> {
    let invocation = parse(&LINE, &[], words).map_err(|(_, failure)| {
        Wrong::Words(match failure {
            Failure::Flag { text, .. } => text,
            Failure::UnknownCommand { .. } => {
                "args[0] must be 'watch' for interactive calls".to_owned()
            }
            Failure::Help => "pflag: help requested".to_owned(),
        })
    })?;
    read(&invocation, &words[1..], environment)
}

fn spec(invocation: &Invocation, keys: &[String]) -> Result<Spec, Wrong> {
    let prefix = invocation.truth("prefix");
    let (key, range_end) = match keys {
        [] => return words_are_wrong(NUMBER),
        [_, _] if prefix => {
            let text = "`range_end` and `--prefix` are mutually exclusive";
            return Err(Wrong::Keys(text.to_owned()));
        }
        [key, ..] if prefix => prefix_range(key.as_bytes()),
        [key, end] => (key.as_bytes().to_vec(), end.as_bytes().to_vec()),
        [key, ..] => (key.as_bytes().to_vec(), Vec::new()),
    };
    Ok(Spec {
        key: key.into(),
        range_end: range_end.into(),
        revision: invocation.number("rev"),
        prev_kv: invocation.truth("prev-kv"),
        progress: invocation.truth("progress-notify"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn check(line: &str, key: &str, end: &str, run: &[&str]) -> Spec {
        let read = read_line(&words(line), &FromEnvironment::default()).unwrap();
        assert_eq!(
            (&read.spec.key[..], &read.spec.range_end[..]),
            (key.as_bytes(), end.as_bytes()),
            "{line}"
        );
        assert_eq!(read.run, run, "{line}");
        read.spec
    }

    #[test]
    fn keys_flags_and_commands() {
        check("watch a", "a", "", &[]);
        check("watch a b --rev 3", "a", "b", &[]);
        let spec = check("watch --prefix a --prev-kv --rev 3", "a", "b", &[]);
        assert!(spec.prev_kv && spec.revision == 3);
        check("watch a -- echo echo", "a", "", &["echo", "echo"]);
        check("watch a b --rev 3 -- echo -n", "a", "b", &["echo", "-n"]);
    }

    #[test]
    fn wrong_words() {
        let check = |line: &str, expected: &str| {
            assert_eq!(
                read_line(&words(line), &FromEnvironment::default())
                    .unwrap_err()
                    .text(),
                expected,
                "{line}"
            );
        };
        check("watch", NUMBER);
        check("watch --rev 1", NUMBER);
        check("watch a --", SEPARATOR);
        check(
            "watch a b --prefix",
            "`range_end` and `--prefix` are mutually exclusive",
        );
        check("watch a --foo", "unknown flag: --foo");
    }

    #[test]
    fn keys_from_the_environment() {
        let environment = FromEnvironment {
            key: "a".into(),
            range_end: "b".into(),
        };
        let read = read_line(&words("watch -- echo x"), &environment).unwrap();
        assert_eq!(
            (&read.spec.key[..], &read.spec.range_end[..]),
            (&b"a"[..], &b"b"[..])
        );
        assert_eq!(read.run, ["echo", "x"]);
        assert_eq!(
            read_line(&words("watch c"), &environment)
                .unwrap_err()
                .text(),
            CONFLICT
        );
        assert_eq!(
            read_line(&words("watch c -- echo"), &environment)
                .unwrap_err()
                .text(),
            CONFLICT
        );
    }
}
