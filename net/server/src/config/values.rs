//! Values as text with the place each comes from, the mistakes found so far, and typed looks at them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::Value as Json;

use super::duration::parse_duration;
use super::file::{self, Entry, Value};
use super::flags::{self, Flag, Kind, Support};
use super::logs::LogLevel;
use super::url::Url;
use super::{Notice, gates};

/// Flag values as text, with the mistakes found so far.
#[derive(Default)]
pub(super) struct Values {
    given: BTreeMap<&'static str, Given>,
    /// The configuration file's path, as errors show it.
    file: String,
    /// `--help` was among the arguments.
    pub(super) help: bool,
    pub(super) errors: Vec<String>,
    pub(super) notices: Vec<Notice>,
}

struct Given {
    text: String,
    source: Source,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Argument,
    Variable,
    File { line: usize },
}

impl Values {
    pub(super) fn read_arguments(&mut self, arguments: &[String]) {
        let mut rest = arguments.iter().peekable();
        while let Some(argument) = rest.next() {
            if argument == "--" {
                let positional = rest.map(|argument| not_a_flag(argument));
                self.errors.extend(positional);
                return;
            }
            let Some(body) = argument
                .strip_prefix("--")
                .or_else(|| argument.strip_prefix('-'))
                .filter(|body| !body.is_empty())
            else {
                self.errors.push(not_a_flag(argument));
                continue;
            };
            let (name, inline) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            if matches!(name, "h" | "help") {
                self.help = true;
                continue;
            }
            let Some(flag) = flags::find(name) else {
                self.errors.push(unknown_flag(name));
                // A value that belongs to the unknown flag is not a mistake of its own.
                if inline.is_none() && rest.peek().is_some_and(|next| !next.starts_with('-')) {
                    rest.next();
                }
                continue;
            };
            let value = match (inline, flag.kind) {
                (Some(value), _) => Some(value),
                (None, Kind::Bool) => Some("true".to_owned()),
                (None, _) => rest.next().cloned(),
            };
            match value {
                Some(value) => self.set(flag, value, Source::Argument),
                None => self
                    .errors
                    .push(format!("flag needs an argument: --{name}")),
            }
        }
    }

    pub(super) fn read_environment(&mut self, environment: &[(String, String)]) {
        for (variable, value) in environment {
            let Some(tail) = variable.strip_prefix("ETCD_") else {
                continue;
            };
            if tail == "UNSUPPORTED_ARCH" {
                continue;
            }
            if tail == "VERSION" {
                let fields = [("key", variable), ("value", value)];
                self.warn("cannot set special environment variable", &fields);
                continue;
            }
            let name = tail.to_ascii_lowercase().replace('_', "-");
            let Some(flag) = flags::find(&name) else {
                // Without its value, which may be somebody's secret.
                let fields = [("environment-variable", variable)];
                self.warn("unrecognized environment variable", &fields);
                continue;
            };
            if self.given.contains_key(flag.name) {
                self.errors.push(format!(
                    "conflicting environment variable {variable:?} is shadowed by corresponding \
                     command-line flag (either unset environment variable or disable flag)"
                ));
                continue;
            }
            self.set(flag, value.clone(), Source::Variable);
            if self.given.contains_key(flag.name) {
                self.notices.push(Notice {
                    level: LogLevel::Info,
                    message: "recognized and used environment variable".to_owned(),
                    fields: vec![
                        ("variable-name", variable.as_str().into()),
                        ("variable-value", shown(flag, value).into()),
                    ],
                });
            }
        }
    }

    /// Forgets what was given and takes a file's keys instead.
    pub(super) fn read_file(&mut self, path: &str, text: &str) {
        let ignored = std::mem::take(&mut self.given).into_keys();
        let ignored = ignored.filter(|name| *name != "config-file");
        self.file = path.to_owned();
        self.notices.push(Notice {
            level: LogLevel::Info,
            message: "loaded server configuration, other configuration command line flags and environment \
                      variables will be ignored if provided"
                .to_owned(),
            fields: vec![
                ("path", path.into()),
                ("ignored", ignored.collect::<Vec<_>>().into()),
            ],
        });
        match file::parse(text) {
            Ok(entries) => {
                for entry in entries {
                    self.take_entry(entry);
                }
            }
            Err(mistakes) => {
                let mistakes = mistakes.into_iter();
                let texts =
                    mistakes.map(|mistake| format!("{path}:{}: {}", mistake.line, mistake.what));
                self.errors.extend(texts);
            }
        }
    }

    fn take_entry(&mut self, entry: Entry) {
        let Entry { key, line, value } = entry;
        let place = format!("{}:{line}", self.file);
        if let Some((_, why)) = flags::FILE_ONLY.iter().find(|(only, _)| *only == key) {
            let is_default = match &value {
                Value::Nothing => true,
                Value::Scalar(text) => matches!(text.as_str(), "" | "false" | "0"),
                Value::List(items) => items.is_empty(),
            };
            if !is_default {
                self.errors
                    .push(format!("{place}: {key} is refused: {why}"));
            }
            return;
        }
        let Some(flag) = flags::find_key(&key) else {
            // A section without anything in it.
            let section = format!("{key}.");
            let mut keys = flags::FLAGS.iter().filter_map(Flag::file_key);
            if value != Value::Nothing || !keys.any(|known| known.starts_with(&section)) {
                self.errors.push(unknown_key(&place, &key));
            }
            return;
        };
        if matches!(flag.support, Support::Removed(_)) {
            let fields = [("key", &key), ("place", &place)];
            self.warn(
                "etcd 3.7 does not know this key any more; it is ignored",
                &fields,
            );
            return;
        }
        let text = match value {
            Value::Nothing => return,
            Value::Scalar(text) => text,
            Value::List(items) if flag.kind == Kind::List => items.join(","),
            Value::List(_) => {
                self.errors
                    .push(format!("{place}: {key} takes one value, not a list"));
                return;
            }
        };
        let text = match flag.kind {
            Kind::Duration if text.parse::<u64>().is_ok() => format!("{text}ns"),
            _ => text,
        };
        self.set(flag, text, Source::File { line });
    }

    fn set(&mut self, flag: &'static Flag, value: String, source: Source) {
        let text = match flag.kind {
            Kind::Bool => match boolean(&value) {
                Some(value) => value.to_string(),
                None => {
                    let label = self.label_from(flag, source);
                    self.errors.push(format!(
                        "invalid boolean value {value:?} for {label} (true or false)"
                    ));
                    return;
                }
            },
            _ => value,
        };
        self.given.insert(flag.name, Given { text, source });
    }

    /// What to call a flag in an error: as it was given.
    pub(super) fn label(&self, name: &str) -> String {
        let Some(flag) = flags::find(name) else {
            unreachable!("--{name} is in the table")
        };
        let source = self.given.get(name).map(|given| given.source);
        self.label_from(flag, source.unwrap_or(Source::Argument))
    }

    fn label_from(&self, flag: &Flag, source: Source) -> String {
        match source {
            Source::Argument => format!("--{}", flag.name),
            Source::Variable => flag.variable(),
            Source::File { line } => {
                let key = flag.file_key().unwrap_or(flag.name);
                format!("{}:{line}: {key}", self.file)
            }
        }
    }

    /// Whether a flag, a variable or a key of the file says something.
    pub(super) fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// Whether the configuration comes from a file.
    pub(super) fn has_file(&self) -> bool {
        !self.file.is_empty()
    }

    fn warn(&mut self, message: &str, fields: &[(&'static str, &String)]) {
        let fields = fields.iter();
        self.notices.push(Notice {
            level: LogLevel::Warn,
            message: message.to_owned(),
            fields: fields
                .map(|(name, text)| (*name, Json::from(text.as_str())))
                .collect(),
        });
    }

    /// Looks at everything that does not simply work.
    pub(super) fn check_support(&mut self) {
        let names: Vec<&'static str> = self.given.keys().copied().collect();
        for flag in names.into_iter().filter_map(flags::find) {
            let text = self.text(flag.name);
            let label = self.label(flag.name);
            match flag.support {
                Support::Works => {}
                Support::IgnoredByEtcd => {
                    let fields = [("flag", &label)];
                    self.warn("a legacy flag without effect, as in etcd", &fields);
                }
                Support::Removed(instead) => self.errors.push(format!("{label}: {instead}")),
                Support::NoEffect(why) => self.check_no_effect(flag, &text, why),
                Support::Later(why) | Support::Refused(why) => {
                    if !same_value(flag, &text) {
                        let value = shown(flag, &text);
                        self.errors.push(format!(
                            "{label}={value} is refused: {why} (only the default {:?} passes)",
                            flag.default
                        ));
                    }
                }
            }
        }
        if let Err(mistakes) = gates::check(&self.text("feature-gates")) {
            let label = self.label("feature-gates");
            let mistakes = mistakes.into_iter();
            self.errors
                .extend(mistakes.map(|mistake| format!("{label}: {mistake}")));
        }
    }

    fn check_no_effect(&mut self, flag: &'static Flag, text: &str, why: &str) {
        let errors_before = self.errors.len();
        match flag.kind {
            Kind::Integer => drop(self.integer(flag.name, 0..=i64::MAX)),
            Kind::Duration => drop(self.duration(flag.name)),
            Kind::Bool | Kind::Text | Kind::List => {}
        }
        let label = self.label(flag.name);
        if !flag.allowed.is_empty() && !flag.allowed.contains(&text) {
            let allowed = flag.allowed.join(", ");
            self.errors
                .push(format!("{label}={text} is not one of {allowed}"));
        }
        if self.errors.len() == errors_before && !same_value(flag, text) {
            self.notices.push(Notice {
                level: LogLevel::Info,
                message: "a flag has no effect here".to_owned(),
                fields: vec![
                    ("flag", label.into()),
                    ("value", text.into()),
                    ("reason", why.into()),
                ],
            });
        }
    }

    pub(super) fn text(&self, name: &str) -> String {
        match self.given.get(name) {
            Some(given) => given.text.clone(),
            None => flags::find(name)
                .map(|flag| flag.default.to_owned())
                .unwrap_or_default(),
        }
    }

    pub(super) fn boolean(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    pub(super) fn integer(&mut self, name: &str, allowed: RangeInclusive<i64>) -> i64 {
        let (text, label) = (self.text(name), self.label(name));
        let (least, most) = (*allowed.start(), *allowed.end());
        match text.parse::<i64>() {
            Ok(value) if allowed.contains(&value) => return value,
            Ok(value) => self.errors.push(format!(
                "{label}={value} is out of range ({least}..={most})"
            )),
            Err(_) => self.errors.push(format!(
                "invalid value {text:?} for {label}: not an integer ({least}..={most})"
            )),
        }
        least
    }

    pub(super) fn duration(&mut self, name: &str) -> Duration {
        let text = self.text(name);
        parse_duration(&text).unwrap_or_else(|error| {
            let label = self.label(name);
            self.errors.push(format!("{label}: {error}"));
            // Beyond every bound that is looked at from below.
            Duration::MAX
        })
    }

    pub(super) fn urls(&mut self, name: &str) -> Vec<Url> {
        let text = self.text(name);
        let label = self.label(name);
        let mut urls = Vec::new();
        for part in text.split(',') {
            match Url::parse(part) {
                Ok(url) => urls.push(url),
                Err(error) => self.errors.push(format!("{label}: {error}")),
            }
        }
        urls
    }

    /// URLs of a listener: each has to name an address of this machine.
    pub(super) fn listeners(&mut self, name: &str) -> Vec<Url> {
        let urls = self.urls(name);
        let label = self.label(name);
        for url in &urls {
            if let Err(error) = url.endpoint() {
                self.errors.push(format!("{label}: {error}"));
            }
        }
        urls
    }

    pub(super) fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> T {
        let text = self.text(name);
        match choices.iter().find(|(label, _)| *label == text) {
            Some((_, value)) => *value,
            None => {
                let labels: Vec<_> = choices.iter().map(|(label, _)| *label).collect();
                let label = self.label(name);
                self.errors.push(format!(
                    "{label}={text} is not one of {}",
                    labels.join(", ")
                ));
                choices[0].1
            }
        }
    }
}

fn not_a_flag(argument: &str) -> String {
    match argument {
        "gateway" | "grpc-proxy" => format!(
            "ringd has no {argument}; etcd's own works in front of it, with its own command line"
        ),
        _ => format!("'{argument}' is not a valid flag"),
    }
}

fn unknown_flag(name: &str) -> String {
    if let Some(successor) = former_name(name) {
        return format!("flag provided but not defined: --{name} ({successor})");
    }
    match flags::nearest(name) {
        Some(near) => {
            format!("flag provided but not defined: --{name} (did you mean --{near}?)")
        }
        None => format!("flag provided but not defined: --{name} (see --help)"),
    }
}

fn unknown_key(place: &str, key: &str) -> String {
    let hint = match (former_name(key), flags::nearest_key(key)) {
        (Some(successor), _) => successor,
        (None, Some(near)) => format!("did you mean {near}?"),
        (None, None) => "docs/CONFIGURATION.md lists the keys".to_owned(),
    };
    format!("{place}: unknown key {key} ({hint})")
}

/// What became of a flag that was experimental.
fn former_name(name: &str) -> Option<String> {
    let experimental = name.strip_prefix("experimental-")?;
    let gate = match experimental {
        "compact-hash-check-enabled" => Some("CompactHashCheck"),
        "enable-lease-checkpoint" => Some("LeaseCheckpoint"),
        "enable-lease-checkpoint-persist" => Some("LeaseCheckpointPersist"),
        "initial-corrupt-check" => Some("InitialCorruptCheck"),
        "stop-grpc-service-on-defrag" => Some("StopGRPCServiceOnDefrag"),
        "txn-mode-write-with-shared-buffer" => Some("TxnModeWriteWithSharedBuffer"),
        _ => None,
    };
    let now = match (flags::find(experimental), gate) {
        (Some(flag), _) => format!("; it is now --{}", flag.name),
        (None, Some(gate)) => format!("; it is now --feature-gates={gate}=true"),
        (None, None) => String::new(),
    };
    Some(format!("etcd 3.7 has no experimental flags{now}"))
}

/// A value for people's eyes.
fn shown<'text>(flag: &Flag, text: &'text str) -> &'text str {
    if flag.is_secret() {
        "(not shown)"
    } else {
        text
    }
}

/// As Go's flag package reads booleans.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Whether `value` means the same as the flag's default.
fn same_value(flag: &Flag, value: &str) -> bool {
    if value == flag.default {
        return true;
    }
    match flag.kind {
        Kind::Integer => match (value.parse::<i64>(), flag.default.parse::<i64>()) {
            (Ok(value), Ok(default)) => value == default,
            _ => false,
        },
        Kind::Duration => {
            let parse = |text| parse_duration(text).ok();
            parse(value).is_some() && parse(value) == parse(flag.default)
        }
        Kind::Bool | Kind::Text | Kind::List => false,
    }
}
