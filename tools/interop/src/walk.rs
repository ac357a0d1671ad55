//! A walk: a list of `etcdctl` calls, one per line, whose outputs are compared between two servers.
//!
//! ```text
//! # a comment
//! put fruit/apple 'two words'       one call; words as in a shell, single quotes
//! @new get a --stream               only with a client that is not the distribution's old one
//! @lease ONE lease grant 60         the granted id becomes $ONE
//! @input 'a\nb\n' txn               standard input of the call
//! @sorted lease list                lines in no promised order
//! @env NAME=value get a             the call with an environment variable
//! @watch W watch --prefix a --rev=2 starts a watch in the background
//! @typed W 'watch a\n' watch -i      the same with standard input, which stays open
//! @until W 4                        waits until it has printed four lines
//! @end W                            ends it; its output is compared
//! @stop W                           asks it to end (SIGTERM); output and exit status are compared
//! ```
//!
//! `$MEMBER` is the member's id, `$DIRECTORY` a folder of the walk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::normalise::Normaliser;
use crate::server::Server;

/// How long a watch may take to print what is expected of it.
const WATCH: Duration = Duration::from_secs(10);

/// Which etcdctl walks.
#[derive(Debug, Clone)]
pub struct Client {
    /// The program.
    pub program: PathBuf,
    /// Whether lines marked `@new` are for it.
    pub new: bool,
}

/// Begins what an `@until` shows when its watch has not printed enough.
pub const TOO_FEW_LINES: &str = "too few lines";

/// What one line of a walk has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The line.
    pub line: String,
    /// Output, errors and exit status after normalisation.
    pub shown: String,
}

/// Walks through `script` on one server.
///
/// # Panics
/// The script is malformed, or the client cannot be run.
pub fn walk(script: &str, client: &Client, server: &Server, directory: &Path) -> Vec<Step> {
    let mut walker = Walker::new(client, server, directory);
    script
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter_map(|line| walker.step(line))
        .collect()
}

/// The differences between two walks, as text; empty when there are none.
pub fn differences(left: &[Step], right: &[Step], names: [&str; 2]) -> String {
    assert_eq!(
        left.len(),
        right.len(),
        "the same script has the same steps"
    );
    left.iter()
        .zip(right)
        .filter(|(left, right)| left != right)
        .map(|(left, right)| {
            format!(
                "--- {}\n{}:\n{}\n{}:\n{}\n",
                left.line, names[0], left.shown, names[1], right.shown
            )
        })
        .collect()
}

struct Walker<'a> {
    client: &'a Client,
    endpoint: String,
    directory: &'a Path,
    normaliser: Normaliser,
    variables: BTreeMap<String, String>,
    watches: BTreeMap<String, Watch>,
}

struct Watch {
    child: Child,
    output: PathBuf,
    /// Open as long as the process is meant to read.
    _input: Option<ChildStdin>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Both fail only when the process has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl<'a> Walker<'a> {
    fn new(client: &'a Client, server: &Server, directory: &'a Path) -> Self {
        let mut walker = Self {
            client,
            endpoint: server.endpoint(),
            directory,
            normaliser: Normaliser::default(),
            variables: BTreeMap::new(),
            watches: BTreeMap::new(),
        };
        walker.normaliser.replace(server.endpoint(), "CLIENT");
        walker.normaliser.replace(server.peer(), "PEER");
        let members = walker.call(&["member", "list", "-w", "json"], None);
        let members: Value = serde_json::from_slice(&members.stdout)
            .unwrap_or_else(|error| panic!("member list -w json: {error}"));
        let id = |value: &Value| {
            value
                .as_u64()
                .unwrap_or_else(|| panic!("no id in {members}"))
        };
        walker
            .normaliser
            .replace_id(id(&members["header"]["cluster_id"]), "CLUSTER");
        let member = id(&members["members"][0]["ID"]);
        walker.normaliser.replace_id(member, "MEMBER");
        let folder = directory.display().to_string();
        walker.normaliser.replace(folder.clone(), "DIRECTORY");
        walker.variables.insert("DIRECTORY".to_owned(), folder);
        walker
            .variables
            .insert("MEMBER".to_owned(), format!("{member:x}"));
        walker
    }

    fn step(&mut self, line: &str) -> Option<Step> {
        let (line, words) = match line.strip_prefix("@new ") {
            Some(_) if !self.client.new => return None,
            Some(rest) => (rest, split(rest)),
            None => (line, split(line)),
        };
        let words: Vec<String> = words
            .into_iter()
            .map(|word| self.substitute(word))
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let shown = match words.as_slice() {
            ["@lease", name, rest @ ..] => self.lease(name, rest),
            ["@input", input, rest @ ..] => {
                let output = self.call(rest, Some(&input.replace("\\n", "\n")));
                self.show(rest, &output)
            }
            ["@sorted", rest @ ..] => {
                let output = self.call(rest, None);
                let shown = self.show(rest, &output);
                let mut lines: Vec<&str> = shown.lines().collect();
                lines.sort_unstable();
                lines.join("\n")
            }
            ["@env", variable, rest @ ..] => {
                let (name, value) = variable
                    .split_once('=')
                    .unwrap_or_else(|| panic!("no variable in: {line}"));
                let mut command = self.command(rest);
                command.env(name, value);
                let output = Self::run(command, None);
                self.show(rest, &output)
            }
            ["@watch", name, rest @ ..] => self.watch(name, None, rest),
            ["@typed", name, input, rest @ ..] => {
                self.watch(name, Some(&input.replace("\\n", "\n")), rest)
            }
            ["@stop", name] => self.stop(name),
            ["@until", name, count] => self.until(name, count),
            ["@end", name] => self.end(name),
            [first, ..] if first.starts_with('@') => panic!("unknown directive: {line}"),
            _ => {
                let output = self.call(&words, None);
                self.show(&words, &output)
            }
        };
        Some(Step {
            line: line.to_owned(),
            shown,
        })
    }

    fn substitute(&self, word: String) -> String {
        self.variables.iter().fold(word, |word, (name, value)| {
            word.replace(&format!("${name}"), value)
        })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.client.program);
        command
            .arg(format!("--endpoints={}", self.endpoint))
            .args(words);
        if !self.client.new {
            command.env("ETCDCTL_API", "3");
        }
        command
    }

    fn call(&self, words: &[&str], input: Option<&str>) -> Output {
        Self::run(self.command(words), input)
    }

    fn run(mut command: Command, input: Option<&str>) -> Output {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        if let (Some(mut pipe), Some(input)) = (child.stdin.take(), input) {
            pipe.write_all(input.as_bytes())
                .unwrap_or_else(|error| panic!("{command:?} does not read its input: {error}"));
        }
        child
            .wait_with_output()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    fn show(&self, words: &[&str], output: &Output) -> String {
        let text = if words.contains(&"protobuf") {
            without_header(&output.stdout)
        } else {
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let text = match words {
            ["endpoint", "status", ..] => blank_columns(&blank_columns(&text, ", "), " │ "),
            _ => text,
        };
        let errors = String::from_utf8_lossy(&output.stderr);
        format!(
            "{}{}{}",
            self.normaliser.apply(&text),
            self.normaliser.apply(&errors),
            output.status
        )
    }

    fn lease(&mut self, name: &str, words: &[&str]) -> String {
        let output = self.call(words, None);
        let text = String::from_utf8_lossy(&output.stdout);
        let id = text
            .split_whitespace()
            .nth(1)
            .and_then(|word| u64::from_str_radix(word, 16).ok())
            .unwrap_or_else(|| panic!("no lease id in {text:?}, {output:?}"));
        self.variables.insert(name.to_owned(), format!("{id:x}"));
        self.normaliser.replace_id(id, &format!("LEASE-{name}"));
        self.show(words, &output)
    }

    fn watch(&mut self, name: &str, input: Option<&str>, words: &[&str]) -> String {
        let path = self.directory.join(format!("watch-{name}"));
        let open = || File::options().create(true).append(true).open(&path);
        let (output, errors) = match (open(), open()) {
            (Ok(output), Ok(errors)) => (output, errors),
            (Err(error), _) | (_, Err(error)) => panic!("{}: {error}", path.display()),
        };
        let mut command = self.command(words);
        command.stdout(output).stderr(errors);
        match input {
            None => command.stdin(Stdio::null()),
            Some(_) => command.stdin(Stdio::piped()),
        };
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.client.program.display()));
        let mut pipe = child.stdin.take();
        if let (Some(pipe), Some(input)) = (&mut pipe, input) {
            pipe.write_all(input.as_bytes())
                .unwrap_or_else(|error| panic!("{words:?} does not read its input: {error}"));
        }
        let watch = Watch {
            child,
            output: path,
            _input: pipe,
        };
        self.watches.insert(name.to_owned(), watch);
        String::new()
    }

    fn until(&self, name: &str, count: &str) -> String {
        let count: usize = count
            .parse()
            .unwrap_or_else(|_| panic!("`{count}` is no number"));
        let begin = Instant::now();
        loop {
            let lines = self.printed(name).lines().count();
            if lines >= count {
                return String::new();
            }
            if begin.elapsed() > WATCH {
                return format!("{TOO_FEW_LINES}: {lines} of {count} after {WATCH:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn end(&mut self, name: &str) -> String {
        let shown = self.normaliser.apply(&self.printed(name));
        self.watches.remove(name);
        shown
    }

    fn stop(&mut self, name: &str) -> String {
        let mut watch = self
            .watches
            .remove(name)
            .unwrap_or_else(|| panic!("no watch {name}"));
        let id = i32::try_from(watch.child.id()).ok().and_then(Pid::from_raw);
        let id = id.unwrap_or_else(|| panic!("{name} has no process id"));
        kill_process(id, Signal::TERM).unwrap_or_else(|error| panic!("{name}: {error}"));
        let status = watch
            .child
            .wait()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let bytes = fs::read(&watch.output).unwrap_or_default();
        let shown = self.normaliser.apply(&String::from_utf8_lossy(&bytes));
        format!("{shown}{status}")
    }

    fn printed(&self, name: &str) -> String {
        let watch = self
            .watches
            .get(name)
            .unwrap_or_else(|| panic!("no watch {name}"));
        let bytes = fs::read(&watch.output).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Splits at spaces; single quotes hold words together, backslashes mean themselves.
fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for character in line.chars() {
        match character {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(character),
        }
    }
    assert!(!quoted, "an open quote in: {line}");
    words.extend(word);
    words
}

/// What has fewer is no line of `endpoint status`.
const STATUS_COLUMNS_MIN: usize = 9;

/// The simple form of `endpoint status` has no names: columns are known by their place.
fn blank_columns(text: &str, separator: &str) -> String {
    text.lines()
        .map(|line| {
            let columns: Vec<&str> = line.split(separator).collect();
            // Sizes and consensus positions, in the new and in the old release's table.
            let blank: &[usize] = match columns.len() {
                0..STATUS_COLUMNS_MIN => &[],
                STATUS_COLUMNS_MIN..=10 => &[3, 6, 7, 8],
                _ => &[4, 5, 6, 10, 11, 12],
            };
            let columns: Vec<&str> = columns
                .into_iter()
                .enumerate()
                .map(|(at, column)| if blank.contains(&at) { "*" } else { column })
                .collect();
            columns.join(separator) + "\n"
        })
        .collect()
}

/// A protobuf response without its first field, the header with ids and term.
fn without_header(mut message: &[u8]) -> String {
    const HEADER_TAG: u8 = 0x0a;
    let mut shown = String::new();
    if let [HEADER_TAG, len, rest @ ..] = message
        && *len < 128
    {
        message = rest.get(usize::from(*len)..).unwrap_or_default();
    }
    for byte in message {
        shown += &format!("{byte:02x}");
    }
    shown + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_in_a_shell() {
        assert_eq!(split("put 'a b'  '' c\\n"), ["put", "a b", "", "c\\n"]);
    }

    #[test]
    fn status_columns_are_blanked_by_place() {
        assert_eq!(
            blank_columns("e, i, 3.4.23, 20 kB, true, false, 2, 6, 6, \n", ", "),
            "e, i, 3.4.23, *, true, false, *, *, *, \n"
        );
    }
}
