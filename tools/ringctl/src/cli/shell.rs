//! Completions and man pages, from the command tree through clap.

use std::io;
use std::path::Path as File;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction};
use clap_complete::Shell;

use super::examples;
use super::help::visible;
use super::parse::Path;
use super::spec::{Command, Flag, Kind};
use super::tree::GLOBAL;

/// The shells for which there are completions.
pub(crate) const SHELLS: [&str; 4] = ["bash", "zsh", "fish", "powershell"];

/// The completion script for a shell, `None` for an unknown one.
pub(crate) fn completion(
    program: &'static str,
    root: &'static Command,
    shell: &str,
) -> Option<Vec<u8>> {
    let shell = match shell {
        "bash" => Shell::Bash,
        "zsh" => Shell::Zsh,
        "fish" => Shell::Fish,
        "powershell" => Shell::PowerShell,
        _ => return None,
    };
    let mut script = Vec::new();
    clap_complete::generate(
        shell,
        &mut command(program, &vec![root]),
        program,
        &mut script,
    );
    Some(script)
}

/// Writes a man page for each command into `folder`.
///
/// # Errors
/// The folder cannot be written.
pub(crate) fn man(program: &'static str, root: &'static Command, folder: &File) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(command(program, &vec![root]), folder)
}

fn command(program: &'static str, path: &Path) -> clap::Command {
    let below = path[path.len() - 1];
    let root = path.len() == 1;
    let name = if root { program } else { below.name };
    let mut command = clap::Command::new(name)
        .about(below.about)
        .disable_help_subcommand(true)
        .after_help(examples_text(program, path));
    if !below.details.is_empty() {
        command = command.long_about(format!("{}\n\n{}", below.about, below.details));
    }
    if root {
        command = command
            .version(env!("CARGO_PKG_VERSION"))
            .args(GLOBAL.iter().map(|flag| argument(flag).global(true)));
    }
    command = command
        .args(below.flags.iter().map(argument))
        .args(below.shared.iter().map(|flag| argument(flag).global(true)));
    if below.name == "completion" {
        command = command.arg(Arg::new("shell").value_parser(PossibleValuesParser::new(SHELLS)));
    } else if below.action.is_some() && !below.arguments.is_empty() {
        command = command.arg(
            Arg::new("arguments")
                .value_name("ARGUMENTS")
                .num_args(0..)
                .help(below.arguments),
        );
    }
    for next in below.commands.iter().filter(|next| visible(program, next)) {
        let mut path = path.clone();
        path.push(next);
        command = command.subcommand(self::command(program, &path));
    }
    command
}

fn argument(flag: &'static Flag) -> Arg {
    let mut argument = Arg::new(flag.name).long(flag.name).help(flag.help);
    if let Some(letter) = flag.short {
        argument = argument.short(letter);
    }
    if !flag.values.is_empty() {
        argument = argument.value_parser(PossibleValuesParser::new(flag.values));
    }
    match flag.kind {
        Kind::Truth => argument.action(ArgAction::SetTrue),
        Kind::List => argument.action(ArgAction::Append),
        _ => argument.action(ArgAction::Set),
    }
}

fn examples_text(program: &str, path: &Path) -> String {
    let examples = examples::of(path)
        .iter()
        .map(|example| format!("  {}", example.replace(examples::PROGRAM, program)));
    format!("Examples:\n{}", examples.collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::super::tree::ROOT;
    use super::*;

    static TREE: Command = ROOT;

    #[test]
    fn clap_accepts_the_tree() {
        command("ringctl", &vec![&TREE]).debug_assert();
    }

    #[test]
    fn every_shell_completes_commands_and_flags() {
        for shell in SHELLS {
            let script = String::from_utf8(completion("ringctl", &TREE, shell).unwrap()).unwrap();
            for word in ["ringctl", "timetolive", "write-out", "protobuf"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
        assert!(completion("ringctl", &TREE, "tcsh").is_none());
    }

    #[test]
    fn every_command_has_a_man_page() {
        let folder = std::env::temp_dir().join(format!("ringctl-man-{}", std::process::id()));
        man("ringctl", &TREE, &folder).unwrap();
        let page = std::fs::read_to_string(folder.join("ringctl-lease-grant.1")).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        assert!(page.contains("Examples:"), "{page}");
    }
}
