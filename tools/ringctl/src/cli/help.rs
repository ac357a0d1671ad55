//! Help and usage texts.

use std::fmt::Write;

use super::examples;
use super::parse::Path;
use super::spec::{Command, Flag, Group, Kind};
use super::tree::GLOBAL;

/// Where running text wraps.
const WIDTH: usize = 100;

/// Everything about a command.
pub(crate) fn help(program: &str, path: &Path) -> String {
    let command = path[path.len() - 1];
    let mut text = format!("{}\n", command.about);
    if !command.details.is_empty() {
        text += &format!("\n{}\n", wrap(command.details));
    }
    text += "\n";
    text += &usage(program, path);
    text += &format!(
        "\nUse \"{program} options\" for a list of global command-line options (applies to all commands).\n"
    );
    let examples = examples::of(path);
    if !examples.is_empty() {
        text += "\nExamples:\n";
        for example in examples {
            text += &format!("  {}\n", example.replace(examples::PROGRAM, program));
        }
    }
    text
}

/// How to call a command; also shown behind an error.
pub(crate) fn usage(program: &str, path: &Path) -> String {
    let command = path[path.len() - 1];
    let mut text = String::from("Usage:\n");
    let words = words(program, path);
    match command.action {
        Some(_) if command.arguments.is_empty() => text += &format!("  {words}\n"),
        Some(_) => text += &format!("  {words} {}\n", command.arguments),
        None => text += &format!("  {words} [command]\n"),
    }
    if path.len() == 1 {
        for group in Group::ALL {
            list(&mut text, program, command, group.title(), |below| {
                below.group == group
            });
        }
    } else if !command.commands.is_empty() {
        list(&mut text, program, command, "Available Commands:", |_| true);
    }
    let shared = path.iter().flat_map(|command| command.shared);
    let own: Vec<&Flag> = command.flags.iter().chain(shared).collect();
    text += "\nFlags:\n";
    text += &flags(&own, true);
    text
}

/// The flags of every command.
pub(crate) fn options() -> String {
    let global: Vec<&Flag> = GLOBAL.iter().collect();
    format!(
        "The following options can be passed to any command:\n\n{}",
        flags(&global, false)
    )
}

/// The words that call a command.
pub(crate) fn words(program: &str, path: &Path) -> String {
    path[1..].iter().fold(program.to_owned(), |words, command| {
        format!("{words} {}", command.name)
    })
}

/// Whether the program of that name has the command.
pub(crate) fn visible(program: &str, command: &Command) -> bool {
    !command.own || program != "etcdctl"
}

fn list(
    text: &mut String,
    program: &str,
    command: &Command,
    title: &str,
    wanted: impl Fn(&Command) -> bool,
) {
    *text += &format!("\n{title}\n");
    for below in command
        .commands
        .iter()
        .filter(|below| wanted(below) && visible(program, below))
    {
        *text += &format!("  {:<18} {}\n", below.name, below.about);
    }
}

fn flags(flags: &[&Flag], help: bool) -> String {
    let mut lines: Vec<(String, String)> = flags.iter().map(|flag| line(flag)).collect();
    if help {
        lines.push(("  -h, --help".to_owned(), "show this".to_owned()));
    }
    let width = lines
        .iter()
        .map(|(names, _)| names.len())
        .max()
        .unwrap_or_default();
    lines.iter().fold(String::new(), |mut text, (names, help)| {
        writeln!(text, "{names:<width$}   {help}").expect("a string takes everything");
        text
    })
}

fn line(flag: &Flag) -> (String, String) {
    let letter = flag
        .short
        .map_or("    ".to_owned(), |letter| format!("-{letter}, "));
    let (kind, default) = match flag.kind {
        Kind::Truth => ("", (flag.default == "true").then(|| "true".to_owned())),
        Kind::Text => (
            " string",
            (!flag.default.is_empty()).then(|| format!("\"{}\"", flag.default)),
        ),
        Kind::List => (" strings", Some(format!("[{}]", flag.default))),
        Kind::Number => (
            " int",
            (flag.default != "0").then(|| flag.default.to_owned()),
        ),
        Kind::Unsigned => (" uint", Some(flag.default.to_owned())),
        Kind::Duration => (" duration", Some(flag.default.to_owned())),
    };
    let default = default.map_or(String::new(), |default| format!(" (default {default})"));
    (
        format!("  {letter}--{}{kind}", flag.name),
        format!("{}{default}", flag.help),
    )
}

fn wrap(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is a first line");
        if line.is_empty() {
            *line = word.to_owned();
        } else if line.len() + 1 + word.len() <= WIDTH {
            *line += " ";
            *line += word;
        } else {
            lines.push(word.to_owned());
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::tree::ROOT;
    use super::*;

    static TREE: Command = ROOT;

    #[test]
    fn help_of_every_command_ends_in_examples() {
        fn walk(path: &Path) {
            let text = help("ringctl", path);
            let examples: Vec<&str> = text
                .split_once("\nExamples:\n")
                .unwrap_or_else(|| panic!("no examples: {text}"))
                .1
                .lines()
                .collect();
            assert!((2..=3).contains(&examples.len()), "{text}");
            for below in path[path.len() - 1].commands {
                let mut path = path.clone();
                path.push(below);
                walk(&path);
            }
        }
        walk(&vec![&TREE]);
    }

    #[test]
    fn a_page_of_help() {
        let lease = TREE
            .commands
            .iter()
            .find(|command| command.name == "lock")
            .unwrap();
        let expected = "\
Usage:
  ringctl lock <lockname> [exec-command arg1 arg2 ...]

Flags:
      --ttl int   seconds after which the lock is free when this process has died (default 10)
  -h, --help      show this
";
        assert_eq!(usage("ringctl", &vec![&TREE, lease]), expected);
    }

    #[test]
    fn etcdctl_does_not_list_what_it_has_not() {
        assert!(help("ringctl", &vec![&TREE]).contains("  man "));
        assert!(!help("etcdctl", &vec![&TREE]).contains("  man "));
    }
}
