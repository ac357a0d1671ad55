//! The examples of the documentation: what a reader would type, and what must come of it.
//!
//! Examples are the fenced blocks whose kind is `console`. A line that begins with `$ ` is a command, lines with `> `
//! (or a lone `>`) behind it continue it, and all others up to the next command are what it prints. In those, `…` stands for any text
//! within a line, and a line that is nothing but `…` for any lines. A command that is shown without output must succeed;
//! what it prints does not matter.
//!
//! All examples of a page are one session of a shell, in an empty folder and on a network of its own: servers that a page
//! starts have the ports that the page says. A command that starts a server in the background (`ringd … &`) has
//! come to its end when clients can connect.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::programs::{Kind, etcd_program, ringctl, root};

/// A command that is not done by then has failed.
const COMMAND: Duration = Duration::from_secs(30);
/// What ends the output of a command, before its exit code.
const END: &str = "\u{1}the command has ended with";
/// Any text.
const ANY: &str = "…";
/// Ports that servers of the pages listen on for clients.
const CLIENT_PORTS: [u16; 2] = [2379, 12379];

/// A command of a page with what it must print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Where it stands, from 1 on.
    pub line: usize,
    /// What is typed, without the prompts.
    pub command: String,
    /// What it prints.
    pub output: Vec<String>,
}

/// The examples of a page in Markdown.
pub fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for (at, line) in page.lines().enumerate() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if !inside {
        } else if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step {
                line: at + 1,
                command: command.to_owned(),
                output: Vec::new(),
            });
        } else if let Some(step) = steps.last_mut() {
            let more = if line == ">" {
                Some("")
            } else {
                line.strip_prefix("> ")
            };
            match more {
                Some(more) if step.output.is_empty() => {
                    step.command.push('\n');
                    step.command.push_str(more);
                }
                _ => step.output.push(line.to_owned()),
            }
        }
    }
    steps
}

/// Whether a command has printed what its page shows.
pub fn is_shown(expected: &[String], found: &[String]) -> bool {
    match expected.split_first() {
        None => found.is_empty(),
        Some((first, rest)) if first == ANY => {
            (0..=found.len()).any(|skipped| is_shown(rest, &found[skipped..]))
        }
        Some((first, rest)) => {
            found.first().is_some_and(|line| fits(first, line)) && is_shown(rest, &found[1..])
        }
    }
}

/// Whether a line is the expected one, with any text where that has `…`.
fn fits(expected: &str, line: &str) -> bool {
    let (expected, line) = (expected.trim_end(), line.trim_end());
    let Some((head, tail)) = expected.split_once(ANY) else {
        return expected == line;
    };
    let Some(rest) = line.strip_prefix(head) else {
        return false;
    };
    let mut starts = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
    starts.any(|at| fits(tail, &rest[at..]))
}

/// A shell in an empty folder, with the programs and a network of its own. It ends with the value, and whatever it
/// has started.
pub struct Session {
    shell: Child,
    input: ChildStdin,
    lines: Receiver<io::Result<String>>,
}

impl Session {
    /// A shell whose folder is `home`.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn new(home: &Path) -> Self {
        let programs = home.join(".programs");
        fs::create_dir_all(&programs).unwrap();
        for (name, program) in [
            ("ringd", Kind::Ringd.program()),
            ("ringctl", ringctl()),
            ("etcd", etcd_program("etcd")),
            ("etcdctl", etcd_program("etcdctl")),
            ("etcdutl", etcd_program("etcdutl")),
        ] {
            let program = fs::canonicalize(&program)
                .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
            symlink(program, programs.join(name)).unwrap();
        }
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".to_owned());
        let path = format!("{}:{path}", programs.display());
        let mut command = Command::new("python3");
        command
            .arg(root().join("tools/interop/python/own_loopback.py"))
            .args(["bash", "--noprofile", "--norc"])
            .env_clear()
            .env("HOME", home)
            .env("LANG", "C.UTF-8")
            .env("PATH", path)
            .current_dir(home)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(programs.join("errors")).unwrap());
        let mut shell = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let input = shell.stdin.take().unwrap();
        let output = BufReader::new(shell.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines() {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            shell,
            input,
            lines,
        }
    }

    /// Runs a command and returns what it has printed, errors among it, and its exit code.
    ///
    /// # Errors
    /// It does not end, or the shell has ended.
    pub fn run(&mut self, command: &str) -> Result<(Vec<String>, i32), String> {
        let mut script = format!("{{ {command}\n}} </dev/null 2>&1; code=$?\n");
        if is_server(command) {
            let ports = CLIENT_PORTS.map(|port| port.to_string());
            let named = ports
                .iter()
                .rev()
                .find(|port| command.contains(&format!(":{port}")));
            let port = named.unwrap_or(&ports[0]);
            // Asked for an answer: the socket of a server that was killed accepts for a moment longer.
            script += &format!(
                "until curl --silent --max-time 1 --output /dev/null http://127.0.0.1:{port}/version; do \
                 kill -0 $! 2>/dev/null || break; sleep 0.02; done\n"
            );
        }
        script += &format!("printf '\\n%s %d\\n' '{END}' $code\n");
        self.input
            .write_all(script.as_bytes())
            .map_err(|error| format!("the shell is gone: {error}"))?;
        let mut output = Vec::new();
        loop {
            let line = self
                .lines
                .recv_timeout(COMMAND)
                .map_err(|_| format!("does not end; so far: {output:?}"))?
                .map_err(|error| error.to_string())?;
            let Some(code) = line.strip_prefix(END) else {
                output.push(line);
                continue;
            };
            // The end has a line of its own, whatever the command has ended with.
            if output.last().is_some_and(String::is_empty) {
                output.pop();
            }
            return Ok((output, code.trim().parse().unwrap_or(-1)));
        }
    }
}

/// Whether a command starts a server in the background.
fn is_server(command: &str) -> bool {
    let program = command.split_whitespace().next().unwrap_or("");
    command.trim_end().ends_with('&') && ["ringd", "etcd"].contains(&program)
}

impl Drop for Session {
    fn drop(&mut self) {
        let group = i32::try_from(self.shell.id()).ok().and_then(Pid::from_raw);
        if let Some(group) = group {
            // Fails only if all of it has ended already.
            kill_process_group(group, Signal::KILL).ok();
        }
        self.shell.wait().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn examples_are_found() {
        let page = "text\n```console\n$ one\n$ two \\\n> more\n>\nout\n> out\n```\n```sh\n$ not this\n```\n";
        let found = steps(page);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].line, found[0].command.as_str()), (3, "one"));
        assert_eq!(found[0].output, lines(""));
        assert_eq!(found[1].command, "two \\\nmore\n");
        assert_eq!(found[1].output, lines("out\n> out"));
    }

    #[test]
    fn outputs_are_compared_with_gaps() {
        let check = |expected: &str, found: &str| is_shown(&lines(expected), &lines(found));
        assert!(check("a\nb", "a\nb"));
        assert!(!check("a\nb", "a\nc"));
        assert!(!check("a", "a\nb"));
        assert!(!check("a\nb", "a"));
        assert!(check(
            "lease … granted with TTL(…s)",
            "lease 7f granted with TTL(60s)"
        ));
        assert!(!check("lease … granted", "lease 7f revoked"));
        assert!(check("a\n…\nd", "a\nb\nc\nd"));
        assert!(check("…", ""));
        assert!(!check("…\nd", "a\nb"));
    }

    #[test]
    fn servers_are_told_from_other_commands() {
        assert!(is_server("ringd --data-dir data 2> log &"));
        assert!(!is_server("ringd inspect data"));
        assert!(!is_server("etcdctl watch a &"));
    }
}
