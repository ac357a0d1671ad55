//! `version`, `options`, `completion`, `man`.

use std::path::Path;

use crate::TREE;
use crate::cli::{help, shell};
use crate::context::Context;
use crate::exit::{self, Exit, arguments};
use crate::go::quote::quote;
use crate::out;
use crate::style::Style;

/// The etcd release whose command line this is.
const ETCD_VERSION: &str = "3.7.3";
const API_VERSION: &str = "3.7";

pub(super) fn version(context: &Context) -> Result<(), Exit> {
    match context.style {
        Style::Etcdctl => out::line(&format!("etcdctl version: {ETCD_VERSION}")),
        Style::Ringctl => {
            out::line(&format!("ringctl version: {}", env!("CARGO_PKG_VERSION")));
            out::line(&format!("etcdctl version: {ETCD_VERSION}"));
        }
    }
    out::line(&format!("API version: {API_VERSION}"));
    Ok(())
}

pub(super) fn options() -> Result<(), Exit> {
    out::write(help::options().as_bytes());
    Ok(())
}

pub(super) fn completion(context: &Context) -> Result<(), Exit> {
    let program = context.style.program();
    let fail = |text: String| {
        out::error(&format!("Error: {text}"));
        out::error(&help::usage(program, &context.invocation.path));
        Err(Exit::silent(exit::ERROR))
    };
    let [shell] = context.arguments() else {
        return fail(format!(
            "accepts 1 arg(s), received {}",
            context.arguments().len()
        ));
    };
    match shell::completion(program, &TREE, shell) {
        Some(script) => {
            out::write(&script);
            Ok(())
        }
        None => fail(format!(
            "invalid argument {} for \"{program} completion\"",
            quote(shell.as_bytes())
        )),
    }
}

pub(super) fn man(context: &Context) -> Result<(), Exit> {
    let [folder] = context.arguments() else {
        return arguments("man needs the folder to write into");
    };
    let written = shell::man(context.style.program(), &TREE, Path::new(folder));
    written.map_err(|error| Exit::new(exit::IO, format!("{folder}: {error}")))
}
