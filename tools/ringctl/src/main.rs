//! `ringctl`: the command line of ringd and of every etcd v3 server.
//!
//! Called `etcdctl` it is etcdctl: same commands, flags, environment, outputs, exit codes, and the same
//! patience with a server that is not there. Called by its own name it says at once what is wrong and
//! what to do. `docs/RINGCTL.md` lists the differences.
//!
//! ```text
//! words → cli::parse → Context (environment, settings) → commands::run → client → print
//! ```

#![forbid(unsafe_code)]

mod cli;
mod client;
mod commands;
mod context;
mod exit;
mod go;
mod log;
mod out;
mod prefix;
mod print;
mod style;

use std::env;
use std::process::ExitCode;

use cli::help;
use cli::parse::{Failure, Path, parse};
use cli::spec::Command;
use cli::tree::{GLOBAL, ROOT};
use context::Context;
use style::Style;

/// Every command.
static TREE: Command = ROOT;

fn main() -> ExitCode {
    let mut words = Vec::new();
    for word in env::args_os() {
        match word.into_string() {
            Ok(word) => words.push(word),
            Err(word) => {
                out::error(&format!(
                    "Error: the argument {} is no UTF-8 text",
                    word.display()
                ));
                return ExitCode::from(exit::ARGUMENTS);
            }
        }
    }
    let style = Style::of(words.first().map_or("", String::as_str));
    let words = words.get(1..).unwrap_or_default();
    let invocation = match parse(&TREE, GLOBAL, words) {
        Ok(invocation) => invocation,
        Err((path, failure)) => return refuse(style, &path, failure),
    };
    let command = invocation.path[invocation.path.len() - 1];
    let Some(action) = command
        .action
        .filter(|_| help::visible(style.program(), command))
    else {
        out::write(help::help(style.program(), &invocation.path).as_bytes());
        return ExitCode::SUCCESS;
    };
    let context = Context::new(style, invocation, words.to_vec());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let ended = match runtime {
        Ok(runtime) => {
            let ended = runtime.block_on(commands::run(action, context));
            // What still reads standard input would hold the end up.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(exit::Exit::new(exit::IO, error.to_string())),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            if let Some(text) = exit.text {
                out::error(&format!("Error: {text}"));
            }
            ExitCode::from(exit.code)
        }
    }
}

/// Says why the words are no command.
fn refuse(style: Style, path: &Path, failure: Failure) -> ExitCode {
    let program = style.program();
    match failure {
        Failure::Help => {
            out::write(help::help(program, path).as_bytes());
            return ExitCode::SUCCESS;
        }
        Failure::UnknownCommand { name, near } => {
            let name = go::quote::quote(name.as_bytes());
            out::error(&format!("Error: unknown command {name} for \"{program}\""));
            if !near.is_empty() {
                let near: String = near.iter().map(|name| format!("\t{name}\n")).collect();
                out::error(&format!("\nDid you mean this?\n{near}"));
            }
            out::error(&format!("Run '{program} --help' for usage."));
        }
        Failure::Flag { text, near } => {
            out::error(&format!("Error: {text}"));
            if style == Style::Ringctl {
                if !near.is_empty() {
                    out::error(&format!("Did you mean {}?", near.join(" or ")));
                }
                out::error(&format!(
                    "Run '{} --help' for usage.",
                    help::words(program, path)
                ));
            } else {
                out::error(&help::usage(program, path));
            }
        }
    }
    ExitCode::from(exit::ERROR)
}
