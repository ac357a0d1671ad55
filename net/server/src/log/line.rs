//! How a line looks: as a JSON object with etcd's keys in etcd's order, or for a person's eyes.

use std::fmt::Write;
use std::panic::Location;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

use crate::config::{LogFormat, LogLevel};

/// What every line has.
pub struct Head<'a> {
    /// Severity.
    pub level: LogLevel,
    /// When it was written.
    pub unix_time: Duration,
    /// Where in the code.
    pub place: &'a Location<'a>,
    /// What happened.
    pub message: &'a str,
}

/// The text of one line, its end included.
pub fn text(format: LogFormat, head: &Head, fields: &[(&str, Value)]) -> String {
    let time = humantime::format_rfc3339_micros(UNIX_EPOCH + head.unix_time);
    let (level, place) = (level_name(head.level), place(head.place));
    let mut text = String::with_capacity(256);
    match format {
        LogFormat::Json => {
            let message = quoted(head.message);
            write_all(
                &mut text,
                format_args!(
                    "{{\"level\":\"{level}\",\"ts\":\"{time}\",\"caller\":\"{place}\",\"msg\":{message}"
                ),
            );
            for (name, value) in fields {
                write_all(&mut text, format_args!(",{}:{value}", quoted(name)));
            }
            text.push_str("}\n");
        }
        LogFormat::Console => {
            let message = head.message;
            write_all(
                &mut text,
                format_args!("{time}\t{level}\t{place}\t{message}"),
            );
            for (number, (name, value)) in fields.iter().enumerate() {
                let between = if number == 0 { "\t{" } else { ", " };
                write_all(
                    &mut text,
                    format_args!("{between}{}: {value}", quoted(name)),
                );
            }
            text.push_str(if fields.is_empty() { "\n" } else { "}\n" });
        }
    }
    text
}

/// A text as JSON.
fn quoted(text: &str) -> Value {
    Value::from(text)
}

fn write_all(text: &mut String, arguments: std::fmt::Arguments) {
    if text.write_fmt(arguments).is_err() {
        unreachable!("a string takes everything");
    }
}

/// File and line, with the folder around the file.
fn place(location: &Location) -> String {
    let file = location.file();
    let from = file.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at + 1);
    format!("{}:{}", &file[from..], location.line())
}

fn level_name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Debug => "debug",
        LogLevel::Info => "info",
        LogLevel::Warn => "warn",
        LogLevel::Error => "error",
        LogLevel::Fatal => "fatal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: LogFormat, fields: &[(&str, Value)]) -> String {
        let head = Head {
            level: LogLevel::Warn,
            unix_time: Duration::from_micros(1_500_000),
            place: Location::caller(),
            message: "a \"line\"",
        };
        let text = text(format, &head, fields);
        text.replace(&format!(":{}", head.place.line()), ":LINE")
    }

    #[test]
    fn both_formats() {
        let fields = [("path", Value::from("a\nb")), ("count", Value::from(3))];
        let json = "{\"level\":\"warn\",\"ts\":\"1970-01-01T00:00:01.500000Z\",\"caller\":\"log/line.rs:LINE\",\
                    \"msg\":\"a \\\"line\\\"\",\"path\":\"a\\nb\",\"count\":3}\n";
        assert_eq!(line(LogFormat::Json, &fields), json);
        let console = "1970-01-01T00:00:01.500000Z\twarn\tlog/line.rs:LINE\ta \"line\"";
        assert_eq!(line(LogFormat::Console, &[]), format!("{console}\n"));
        let fields = line(LogFormat::Console, &fields);
        assert_eq!(
            fields,
            format!("{console}\t{{\"path\": \"a\\nb\", \"count\": 3}}\n")
        );
    }
}
