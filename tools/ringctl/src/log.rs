//! Lines that etcdctl writes to standard error in JSON, for scripts that read them.

use std::time::SystemTime;

use crate::go::json::Object;
use crate::out;

/// Writes one line; `more` adds what it says.
pub(crate) fn line(level: &str, logger: &str, message: &str, more: impl FnOnce(Object) -> Object) {
    let time = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
    let object = Object::new()
        .string("level", level)
        .string("ts", &time)
        .nonempty("logger", logger)
        .string("msg", message);
    out::error(&more(object).end());
}
