//! The structured log in the field names of etcd's own, so that harnesses that wait for a line find it.
//!
//! A core makes the text of a line and puts it into a bounded queue for each output; a thread of the output writes
//! it. So a slow pipe or disk never holds up a core: when a queue is full lines are dropped, and the next line that
//! gets through says how many.
//!
//! Reading order: [`line`] (how a line looks), this module (who writes one), [`output`] (the threads), [`file`]
//! (files and their rotation).

pub mod file;
pub mod limit;
pub mod line;
pub mod output;

use std::panic::Location;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::config::{LogFormat, LogLevel, LogOptions, LogOutput};
use file::LogFile;
use output::{Queue, Writer};

/// The outputs of a process; every core makes its logger of them.
#[derive(Clone, Debug)]
pub struct Outputs {
    level: LogLevel,
    format: LogFormat,
    queues: Vec<Queue>,
}

/// The threads that write; to be finished when the process ends.
#[derive(Debug)]
pub struct Writers(Vec<Writer>);

impl Outputs {
    /// Opens every output and starts its thread.
    ///
    /// # Errors
    /// A file cannot be opened; the text names the flag and the file.
    pub fn open(options: &LogOptions) -> Result<(Outputs, Writers), String> {
        let mut queues = Vec::new();
        let mut writers = Vec::new();
        for output in &options.outputs {
            let (queue, writer) = match output {
                LogOutput::Stderr => output::start("stderr", std::io::stderr(), options.format),
                LogOutput::Stdout => output::start("stdout", std::io::stdout(), options.format),
                LogOutput::File(path) => {
                    let file = LogFile::open(path, options.rotation).map_err(|error| {
                        let path = path.display();
                        format!("--log-outputs: cannot open the log file {path}: {error}")
                    })?;
                    output::start("file", file, options.format)
                }
            }
            .map_err(|error| format!("cannot start a thread for the log: {error}"))?;
            queues.push(queue);
            writers.push(writer);
        }
        let outputs = Outputs {
            level: options.level,
            format: options.format,
            queues,
        };
        Ok((outputs, Writers(writers)))
    }

    /// A core's logger; `unix_time` stamps its lines.
    pub fn logger(&self, unix_time: impl Fn() -> Duration + 'static) -> Logger {
        Logger {
            level: self.level,
            format: self.format,
            sink: Sink::Queues(self.queues.clone()),
            unix_time: Box::new(unix_time),
        }
    }

    /// A logger for what runs on no core.
    pub fn system_logger(&self) -> Logger {
        self.logger(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            since.unwrap_or_default()
        })
    }
}

impl Writers {
    /// Waits until everything is written that was logged, at most so long.
    pub fn finish(self, limit: Duration) {
        for writer in self.0 {
            writer.finish(limit);
        }
    }
}

/// Where and what to log. One per core; cheap to share behind an `Rc`.
pub struct Logger {
    level: LogLevel,
    format: LogFormat,
    sink: Sink,
    unix_time: Box<dyn Fn() -> Duration>,
}

/// Who takes the lines.
enum Sink {
    Nobody,
    Queues(Vec<Queue>),
    Function(Box<dyn Fn(&str)>),
}

impl Logger {
    /// A logger that drops every line: simulated nodes are judged by what they do.
    pub fn silent() -> Self {
        Logger {
            level: LogLevel::Fatal,
            format: LogFormat::Json,
            sink: Sink::Nobody,
            unix_time: Box::new(|| Duration::ZERO),
        }
    }

    /// A logger that hands every line to `take`, stamped with the beginning of time.
    pub fn with(take: impl Fn(&str) + 'static) -> Self {
        Logger {
            level: LogLevel::Debug,
            format: LogFormat::Json,
            sink: Sink::Function(Box::new(take)),
            unix_time: Box::new(|| Duration::ZERO),
        }
    }

    /// Whether lines of this level are written: for those whose fields cost something.
    pub fn writes(&self, level: LogLevel) -> bool {
        level >= self.level && !matches!(self.sink, Sink::Nobody)
    }

    /// Writes one line.
    #[track_caller]
    pub fn line(&self, level: LogLevel, message: &str, fields: &[(&str, Value)]) {
        if !self.writes(level) {
            return;
        }
        let head = line::Head {
            level,
            unix_time: (self.unix_time)(),
            place: Location::caller(),
            message,
        };
        let text = line::text(self.format, &head, fields);
        match &self.sink {
            Sink::Nobody => {}
            Sink::Queues(queues) => {
                let text: std::sync::Arc<str> = text.into();
                for queue in queues {
                    queue.push(text.clone());
                }
            }
            Sink::Function(take) => take(&text),
        }
    }

    /// A line at debug level.
    #[track_caller]
    pub fn debug(&self, message: &str, fields: &[(&str, Value)]) {
        self.line(LogLevel::Debug, message, fields);
    }

    /// A line at info level.
    #[track_caller]
    pub fn info(&self, message: &str, fields: &[(&str, Value)]) {
        self.line(LogLevel::Info, message, fields);
    }

    /// A line at warn level.
    #[track_caller]
    pub fn warn(&self, message: &str, fields: &[(&str, Value)]) {
        self.line(LogLevel::Warn, message, fields);
    }

    /// A line at error level.
    #[track_caller]
    pub fn error(&self, message: &str, fields: &[(&str, Value)]) {
        self.line(LogLevel::Error, message, fields);
    }
}
