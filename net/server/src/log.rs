//! The structured log: one JSON object a line, in the field names of etcd's own log, so that
//! harnesses that wait for a line find it.
//!
//! Lines are written with one call each and never block on anything but the output itself. A line
//! that cannot be written is lost: there is nowhere left to say so.

use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Map, Value};

use crate::config::{LogLevel, LogOutput};

/// Where and what to log. One per core; cheap to share behind an `Rc`.
pub struct Logger {
    level: LogLevel,
    sink: Sink,
    unix_time: Box<dyn Fn() -> Duration>,
}

/// Who takes the lines.
enum Sink {
    Nobody,
    Output(LogOutput),
    Function(Box<dyn Fn(&str)>),
}

impl Logger {
    /// A logger that writes lines of `level` and above; `unix_time` stamps them.
    pub fn new(
        level: LogLevel,
        output: LogOutput,
        unix_time: impl Fn() -> Duration + 'static,
    ) -> Self {
        Logger {
            level,
            sink: Sink::Output(output),
            unix_time: Box::new(unix_time),
        }
    }

    /// A logger that drops every line: simulated nodes are judged by what they do.
    pub fn silent() -> Self {
        Logger {
            level: LogLevel::Fatal,
            sink: Sink::Nobody,
            unix_time: Box::new(|| Duration::ZERO),
        }
    }

    /// A logger that hands every line to `take`, stamped with the beginning of time.
    pub fn with(take: impl Fn(&str) + 'static) -> Self {
        Logger {
            level: LogLevel::Debug,
            sink: Sink::Function(Box::new(take)),
            unix_time: Box::new(|| Duration::ZERO),
        }
    }

    /// Writes one line.
    pub fn line(&self, level: LogLevel, message: &str, fields: &[(&str, Value)]) {
        if level < self.level || matches!(self.sink, Sink::Nobody) {
            return;
        }
        let time = humantime::format_rfc3339_micros(UNIX_EPOCH + (self.unix_time)()).to_string();
        let mut object = Map::new();
        object.insert("level".to_owned(), Value::from(level_name(level)));
        object.insert("ts".to_owned(), Value::from(time));
        object.insert("msg".to_owned(), Value::from(message));
        for (name, value) in fields {
            object.insert((*name).to_owned(), value.clone());
        }
        let mut text = Value::Object(object).to_string();
        text.push('\n');
        let written = match &self.sink {
            Sink::Nobody => Ok(()),
            Sink::Output(LogOutput::Stderr) => std::io::stderr().lock().write_all(text.as_bytes()),
            Sink::Output(LogOutput::Stdout) => std::io::stdout().lock().write_all(text.as_bytes()),
            Sink::Function(take) => {
                take(&text);
                Ok(())
            }
        };
        drop(written);
    }

    /// A line at info level.
    pub fn info(&self, message: &str, fields: &[(&str, Value)]) {
        self.line(LogLevel::Info, message, fields);
    }

    /// A line at warn level.
    pub fn warn(&self, message: &str, fields: &[(&str, Value)]) {
        self.line(LogLevel::Warn, message, fields);
    }

    /// A line at error level.
    pub fn error(&self, message: &str, fields: &[(&str, Value)]) {
        self.line(LogLevel::Error, message, fields);
    }
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
