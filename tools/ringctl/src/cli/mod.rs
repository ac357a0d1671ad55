//! The command line: which commands and flags there are, how their words are read, what help says.
//!
//! One tree of [`spec::Command`]s is the only description; the parser, help, completions and man pages
//! all read it. The grammar is etcdctl's: flags anywhere, `--flag=value`, `--flag value`, `-wjson`, `--`
//! ends them, commands may be shortened as long as they stay unambiguous.

pub(crate) mod environment;
pub(crate) mod examples;
pub(crate) mod help;
pub(crate) mod parse;
pub(crate) mod shell;
pub(crate) mod spec;
pub(crate) mod suggest;
pub(crate) mod tree;
pub(crate) mod value;
