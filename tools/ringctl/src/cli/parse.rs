//! Words to a command with its flags and arguments.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::go::quote::{quote, quote_character};

use super::spec::{Command, Flag, Kind};
use super::suggest;
use super::tree::SUGGESTION_ORDER;
use super::value::{self, Value};

/// The way from the root to a command; never empty.
pub(crate) type Path = Vec<&'static Command>;

/// What the words said.
#[derive(Debug, Clone)]
pub(crate) struct Invocation {
    /// From the root to the command.
    pub(crate) path: Path,
    /// What is neither command nor flag.
    pub(crate) arguments: Vec<String>,
    /// Values of the flags that were given.
    given: BTreeMap<&'static str, Value>,
}

/// Why the words are no command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No command of that name below the root.
    UnknownCommand {
        name: String,
        near: Vec<&'static str>,
    },
    /// A flag is wrong; the text says how, the list what may have been meant.
    Flag { text: String, near: Vec<String> },
    /// Help was asked for.
    Help,
}

/// Finds the command below `root` and reads its flags.
///
/// # Errors
/// With the path as far as it was found.
pub(crate) fn parse(
    root: &'static Command,
    global: &'static [Flag],
    words: &[String],
) -> Result<Invocation, (Path, Failure)> {
    let (path, words) = find(root, global, words)?;
    let mut invocation = Invocation {
        path,
        arguments: Vec::new(),
        given: BTreeMap::new(),
    };
    let read = invocation.read(global, &words);
    match read {
        Ok(()) => Ok(invocation),
        Err(failure) => Err((invocation.path, failure)),
    }
}

/// The flags a command knows: its own, what it shares with those above it, and the global ones.
pub(crate) fn known_flags(
    path: &[&'static Command],
    global: &'static [Flag],
) -> Vec<&'static Flag> {
    let own = path.last().map_or(&[][..], |command| command.flags);
    let shared = path.iter().flat_map(|command| command.shared);
    own.iter().chain(shared).chain(global).collect()
}

fn find(
    root: &'static Command,
    global: &'static [Flag],
    words: &[String],
) -> Result<(Path, Vec<String>), (Path, Failure)> {
    let mut path = vec![root];
    let mut words = words.to_vec();
    loop {
        let command = path[path.len() - 1];
        let Some(at) = first_argument(&words, &known_flags(&path, global)) else {
            return Ok((path, words));
        };
        match below(command, &words[at]) {
            Some(below) => {
                words.remove(at);
                path.push(below);
            }
            None if path.len() == 1 => {
                let names = command.commands.iter().map(|below| below.name);
                let mut near = suggest::near(&words[at], names);
                near.sort_by_key(|near| SUGGESTION_ORDER.iter().position(|name| name == near));
                let failure = Failure::UnknownCommand {
                    near,
                    name: words[at].clone(),
                };
                return Err((path, failure));
            }
            None => return Ok((path, words)),
        }
    }
}

/// The place of the first word that is neither a flag nor a flag's value.
fn first_argument(words: &[String], flags: &[&'static Flag]) -> Option<usize> {
    let mut at = 0;
    while let Some(word) = words.get(at) {
        if word == "--" {
            return None;
        }
        let takes_next = !word.contains('=')
            && match word.strip_prefix("--") {
                Some(name) => !flags
                    .iter()
                    .any(|flag| flag.name == name && flag.kind == Kind::Truth),
                None if word.starts_with('-') && word.len() == 2 => {
                    let letter = word.chars().nth(1);
                    !flags
                        .iter()
                        .any(|flag| flag.short == letter && flag.kind == Kind::Truth)
                }
                None => false,
            };
        if takes_next {
            // What would be the last word's value is no command.
            if at + 2 >= words.len() {
                return None;
            }
            at += 2;
        } else if word.is_empty() || word.starts_with('-') {
            at += 1;
        } else {
            return Some(at);
        }
    }
    None
}

/// The command of that name, or the only one that begins with it.
fn below(command: &'static Command, name: &str) -> Option<&'static Command> {
    if let Some(exact) = command.commands.iter().find(|below| below.name == name) {
        return Some(exact);
    }
    let mut beginning = command
        .commands
        .iter()
        .filter(|below| below.name.starts_with(name));
    match (beginning.next(), beginning.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}

fn fail<T>(text: String) -> Result<T, Failure> {
    Err(Failure::Flag {
        text,
        near: Vec::new(),
    })
}

impl Invocation {
    fn read(&mut self, global: &'static [Flag], words: &[String]) -> Result<(), Failure> {
        let flags = known_flags(&self.path, global);
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if word == "--" {
                self.arguments.extend(words.by_ref().cloned());
            } else if let Some(long) = word.strip_prefix("--") {
                self.long(&flags, word, long, &mut words)?;
            } else if word.len() > 1 && word.starts_with('-') {
                self.letters(&flags, &word[1..], &mut words)?;
            } else {
                self.arguments.push(word.clone());
            }
        }
        Ok(())
    }

    fn long<'a>(
        &mut self,
        flags: &[&'static Flag],
        word: &str,
        long: &str,
        words: &mut impl Iterator<Item = &'a String>,
    ) -> Result<(), Failure> {
        if long.starts_with(['-', '=']) {
            return fail(format!("bad flag syntax: {word}"));
        }
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (long, None),
        };
        let Some(flag) = flags.iter().find(|flag| flag.name == name) else {
            if name == "help" {
                return Err(Failure::Help);
            }
            let near = suggest::near(name, flags.iter().map(|flag| flag.name));
            return Err(Failure::Flag {
                text: format!("unknown flag: --{name}"),
                near: near.iter().map(|name| format!("--{name}")).collect(),
            });
        };
        match (value, flag.kind) {
            (Some(value), _) => self.set_given(flag, value),
            (None, Kind::Truth) => self.set_given(flag, "true"),
            (None, _) => match words.next() {
                Some(value) => self.set_given(flag, value),
                None => fail(format!("flag needs an argument: --{name}")),
            },
        }
    }

    fn letters<'a>(
        &mut self,
        flags: &[&'static Flag],
        letters: &str,
        words: &mut impl Iterator<Item = &'a String>,
    ) -> Result<(), Failure> {
        let mut rest = letters;
        while let Some(letter) = rest.chars().next() {
            let shown = rest;
            rest = &rest[letter.len_utf8()..];
            let Some(flag) = flags.iter().find(|flag| flag.short == Some(letter)) else {
                if letter == 'h' {
                    return Err(Failure::Help);
                }
                return fail(format!(
                    "unknown shorthand flag: {} in -{shown}",
                    quote_character(letter)
                ));
            };
            if let Some(value) = rest.strip_prefix('=') {
                return self.set_given(flag, value);
            }
            if flag.kind == Kind::Truth {
                self.set_given(flag, "true")?;
                continue;
            }
            if !rest.is_empty() {
                return self.set_given(flag, rest);
            }
            return match words.next() {
                Some(value) => self.set_given(flag, value),
                None => fail(format!(
                    "flag needs an argument: {} in -{shown}",
                    quote_character(letter)
                )),
            };
        }
        Ok(())
    }

    fn set_given(&mut self, flag: &'static Flag, text: &str) -> Result<(), Failure> {
        let Err(error) = self.set(flag, text) else {
            return Ok(());
        };
        let name = match flag.short {
            Some(letter) => format!("-{letter}, --{}", flag.name),
            None => format!("--{}", flag.name),
        };
        fail(format!(
            "invalid argument {} for \"{name}\" flag: {error}",
            quote(text.as_bytes())
        ))
    }

    /// Sets a flag. A list that was given before grows.
    pub(crate) fn set(&mut self, flag: &'static Flag, text: &str) -> Result<(), String> {
        let value = value::read(flag, text)?;
        match (self.given.get_mut(flag.name), value) {
            (Some(Value::List(items)), Value::List(more)) => items.extend(more),
            (_, value) => {
                self.given.insert(flag.name, value);
            }
        }
        Ok(())
    }

    /// Whether the flag was given, by word or by environment.
    pub(crate) fn given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    fn value(&self, name: &str) -> Value {
        if let Some(value) = self.given.get(name) {
            return value.clone();
        }
        let flag = known_flags(&self.path, super::tree::GLOBAL)
            .into_iter()
            .find(|flag| flag.name == name)
            .unwrap_or_else(|| panic!("the command has no flag --{name}"));
        value::read(flag, flag.default)
            .unwrap_or_else(|error| panic!("default of --{name}: {error}"))
    }

    /// A flag's value as it would be typed.
    pub(crate) fn shown(&self, name: &str) -> String {
        match self.value(name) {
            Value::Truth(value) => value.to_string(),
            Value::Text(text) => text,
            Value::List(items) => format!("[{}]", items.join(",")),
            Value::Number(number) => number.to_string(),
            Value::Unsigned(number) => number.to_string(),
            Value::Duration(duration) => crate::go::duration::show(duration),
        }
    }

    /// A flag that is on or off.
    pub(crate) fn truth(&self, name: &str) -> bool {
        matches!(self.value(name), Value::Truth(true))
    }

    /// A flag that takes a text.
    pub(crate) fn text(&self, name: &str) -> String {
        match self.value(name) {
            Value::Text(text) => text,
            other => panic!("--{name} is no text: {other:?}"),
        }
    }

    /// A flag that takes a list.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Value::List(items) => items,
            other => panic!("--{name} is no list: {other:?}"),
        }
    }

    /// A flag that takes a number.
    pub(crate) fn number(&self, name: &str) -> i64 {
        match self.value(name) {
            Value::Number(number) => number,
            other => panic!("--{name} is no number: {other:?}"),
        }
    }

    /// A flag that takes a number without a sign.
    pub(crate) fn unsigned(&self, name: &str) -> u64 {
        match self.value(name) {
            Value::Unsigned(number) => number,
            other => panic!("--{name} is no number: {other:?}"),
        }
    }

    /// A flag that takes a span of time.
    pub(crate) fn duration(&self, name: &str) -> Duration {
        match self.value(name) {
            Value::Duration(duration) => duration,
            other => panic!("--{name} is no duration: {other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::{GLOBAL, ROOT};
    use super::*;

    fn read(line: &str) -> Result<Invocation, (Path, Failure)> {
        static TREE: Command = ROOT;
        let words: Vec<String> = line
            .split(' ')
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect();
        parse(&TREE, GLOBAL, &words)
    }

    fn check(line: &str, command: &str, arguments: &[&str]) -> Invocation {
        let invocation = read(line).unwrap();
        let names: Vec<&str> = invocation.path[1..]
            .iter()
            .map(|command| command.name)
            .collect();
        assert_eq!(names.join(" "), command, "{line}");
        assert_eq!(invocation.arguments, arguments, "{line}");
        invocation
    }

    fn check_failure(line: &str, expected: &str) {
        match read(line).unwrap_err().1 {
            Failure::Flag { text, .. } => assert_eq!(text, expected),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn flags_stand_anywhere() {
        let invocation = check(
            "--endpoints a,b get k -w json --prefix e --endpoints=c",
            "get",
            &["k", "e"],
        );
        assert_eq!(invocation.list("endpoints"), ["a", "b", "c"]);
        assert_eq!(invocation.text("write-out"), "json");
        assert!(invocation.truth("prefix"));
        assert!(!invocation.truth("keys-only"));
        assert!(invocation.truth("insecure-transport"));
        assert_eq!(
            invocation.duration("command-timeout"),
            Duration::from_secs(5)
        );
        assert!(!invocation.given("command-timeout"));
    }

    #[test]
    fn every_way_to_give_a_value() {
        for line in [
            "get k -wjson",
            "get k -w=json",
            "get k -w json",
            "get k --write-out=json",
            "-w json get k",
        ] {
            assert_eq!(
                check(line, "get", &["k"]).text("write-out"),
                "json",
                "{line}"
            );
        }
        assert!(!check("get k --prefix=false", "get", &["k"]).truth("prefix"));
        assert_eq!(check("get k --rev 0x10", "get", &["k"]).number("rev"), 16);
        check("put k -- -v --w", "put", &["k", "-v", "--w"]);
        check("put k -", "put", &["k", "-"]);
    }

    #[test]
    fn commands_may_be_short() {
        check("mem li", "member list", &[]);
        check("lease time 1f", "lease timetolive", &["1f"]);
        check("lease nothing", "lease", &["nothing"]);
        check("", "", &[]);
        check("endpoint --cluster status", "endpoint status", &[]);
    }

    #[test]
    fn wrong_flags() {
        check_failure("get --foo a", "unknown flag: --foo");
        check_failure("get a -x", "unknown shorthand flag: 'x' in -x");
        check_failure("get a --rev", "flag needs an argument: --rev");
        check_failure("get a -w", "flag needs an argument: 'w' in -w");
        check_failure("get --=a", "bad flag syntax: --=a");
        check_failure(
            "get a --rev=x",
            "invalid argument \"x\" for \"--rev\" flag: strconv.ParseInt: parsing \"x\": invalid syntax",
        );
        check_failure(
            "lock x --ttl -w",
            "invalid argument \"-w\" for \"--ttl\" flag: strconv.ParseInt: parsing \"-w\": invalid syntax",
        );
        assert_eq!(read("get --help").unwrap_err().1, Failure::Help);
        assert_eq!(read("-h").unwrap_err().1, Failure::Help);
    }

    #[test]
    fn unknown_words_have_neighbours() {
        let (path, failure) = read("gett a").unwrap_err();
        assert_eq!(path.len(), 1);
        assert_eq!(
            failure,
            Failure::UnknownCommand {
                name: "gett".to_owned(),
                near: vec!["get"]
            }
        );
        let Failure::UnknownCommand { near, .. } = read("e health").unwrap_err().1 else {
            panic!("three commands begin with it");
        };
        assert_eq!(near, ["get", "del", "endpoint", "elect"]);
        let Failure::Flag { near, .. } = read("get --prefx a").unwrap_err().1 else {
            panic!("a flag is wrong");
        };
        assert_eq!(near, ["--prefix"]);
    }
}
