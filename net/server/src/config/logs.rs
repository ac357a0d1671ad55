//! The flags of the log: level, format, outputs, rotation.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

/// Severity below which log lines are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// The default.
    Info,
    /// Something to look at.
    Warn,
    /// Something failed.
    Error,
    /// Only the last words.
    Fatal,
}

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object.
    Json,
    /// Time, level, place and message with tabs between them, then a JSON object of the fields.
    Console,
}

/// Where log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// The end of a file.
    File(PathBuf),
}

/// When a log file is put aside and another one begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Before a line that would make it longer, bytes.
    pub file_bytes_max: u64,
    /// What was put aside is deleted when it is older.
    pub age_max: Option<Duration>,
    /// So many that were put aside are kept.
    pub backups_max: Option<usize>,
    /// What is put aside is compressed with gzip.
    pub compress: bool,
}

/// What is logged, how, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Severity below which lines are dropped.
    pub level: LogLevel,
    /// How a line looks.
    pub format: LogFormat,
    /// Where lines go.
    pub outputs: Vec<LogOutput>,
    /// Rotation of the one file among the outputs.
    pub rotation: Option<Rotation>,
}

/// `maxsize` is in these.
const MEGABYTE: u64 = 1 << 20;
/// A file's length where `maxsize` is 0.
const MEGABYTES_DEFAULT: u64 = 100;
const DAY_SECONDS: u64 = 24 * 3600;

/// `--log-rotation-config-json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct RotationJson {
    maxsize: u32,
    maxage: u32,
    maxbackups: u32,
    localtime: bool,
    compress: bool,
}

/// Reads `--log-rotation-config-json`.
fn rotation(text: &str) -> Result<Rotation, String> {
    const ALLOWED: &str = "allowed: an object with numbers maxsize, maxage and maxbackups, booleans localtime and compress";
    // A list would be read as the fields in their order.
    if !text.trim_start().starts_with('{') {
        return Err(format!("{text:?} is not a JSON object ({ALLOWED})"));
    }
    let json = serde_json::from_str::<RotationJson>(text);
    let json = json.map_err(|error| format!("{error} ({ALLOWED})"))?;
    if json.localtime {
        return Err("localtime=true is refused: names of rotated files tell UTC".to_owned());
    }
    let megabytes = match json.maxsize {
        0 => MEGABYTES_DEFAULT,
        megabytes => u64::from(megabytes),
    };
    let age = Duration::from_secs(u64::from(json.maxage) * DAY_SECONDS);
    Ok(Rotation {
        file_bytes_max: megabytes * MEGABYTE,
        age_max: (!age.is_zero()).then_some(age),
        backups_max: (json.maxbackups > 0).then_some(json.maxbackups as usize),
        compress: json.compress,
    })
}

/// Reads one of `--log-outputs`.
fn output(text: &str) -> Result<LogOutput, String> {
    match text {
        "default" | "stderr" => Ok(LogOutput::Stderr),
        "stdout" => Ok(LogOutput::Stdout),
        "" => Err("an output is empty (default, stderr, stdout or a file)".to_owned()),
        "systemd/journal" => Err(
            "systemd/journal is refused: write to stderr, which a unit's journal takes".to_owned(),
        ),
        path => Ok(LogOutput::File(PathBuf::from(path))),
    }
}

impl super::Values {
    /// Reads and checks the flags of the log.
    pub(super) fn log(&mut self) -> LogOptions {
        self.choice::<()>("logger", &[("zap", ())]);
        let format = [("json", LogFormat::Json), ("console", LogFormat::Console)];
        let levels = [
            ("info", LogLevel::Info),
            ("debug", LogLevel::Debug),
            ("warn", LogLevel::Warn),
            ("error", LogLevel::Error),
            ("dpanic", LogLevel::Fatal),
            ("panic", LogLevel::Fatal),
            ("fatal", LogLevel::Fatal),
        ];
        let outputs = self.log_outputs();
        LogOptions {
            level: self.choice("log-level", &levels),
            format: self.choice("log-format", &format),
            rotation: self.rotation(&outputs),
            outputs,
        }
    }

    fn log_outputs(&mut self) -> Vec<LogOutput> {
        let text = self.text("log-outputs");
        let label = self.label("log-outputs");
        let mut outputs = Vec::new();
        let mut has_default = false;
        for part in text.split(',').map(str::trim) {
            has_default |= part == "default";
            match output(part) {
                Ok(output) if outputs.contains(&output) => {}
                Ok(output) => outputs.push(output),
                Err(error) => self.errors.push(format!("{label}: {error}")),
            }
        }
        if has_default && outputs.len() > 1 {
            self.errors.push(format!(
                "{label}={text}: default stands alone; name stderr beside the others"
            ));
        }
        outputs
    }

    fn rotation(&mut self, outputs: &[LogOutput]) -> Option<Rotation> {
        if !self.boolean("enable-log-rotation") {
            return None;
        }
        let files = outputs.iter();
        let files = files.filter(|output| matches!(output, LogOutput::File(_)));
        if files.count() != 1 {
            let (label, outputs) = (self.label("enable-log-rotation"), self.label("log-outputs"));
            self.errors
                .push(format!("{label} needs exactly one file among {outputs}"));
        }
        let text = self.text("log-rotation-config-json");
        match rotation(&text) {
            Ok(rotation) => Some(rotation),
            Err(error) => {
                let label = self.label("log-rotation-config-json");
                self.errors.push(format!("{label}: {error}"));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotations() {
        let expected = Rotation {
            file_bytes_max: 100 << 20,
            age_max: None,
            backups_max: None,
            compress: false,
        };
        let default = super::super::flags::find("log-rotation-config-json").unwrap();
        assert_eq!(rotation(default.default), Ok(expected));
        assert_eq!(rotation("{}"), Ok(expected));
        let expected = Rotation {
            file_bytes_max: 3 << 20,
            age_max: Some(Duration::from_secs(2 * 24 * 3600)),
            backups_max: Some(4),
            compress: true,
        };
        let text = r#"{"maxsize":3,"maxage":2,"maxbackups":4,"compress":true}"#;
        assert_eq!(rotation(text), Ok(expected));
        for text in [
            "",
            "[]",
            "{\"maxsize\":-1}",
            "{\"size\":1}",
            "{\"localtime\":true}",
        ] {
            assert!(rotation(text).is_err(), "{text}");
        }
    }
}
