//! Spellings that scripts read and that etcdctl takes from Go: numbers, durations, quoted strings and
//! JSON. Nothing here knows a command or a server.

pub(crate) mod duration;
pub(crate) mod json;
pub(crate) mod number;
pub(crate) mod quote;
pub(crate) mod words;
