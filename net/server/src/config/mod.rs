//! Configuration: etcd's flags and `ETCD_*` variables, checked as a whole before anything is touched.
//!
//! Grammar as Go's flag package: one or two dashes, `=` or a separate argument, booleans without
//! one. A flag and its variable at the same time are refused, as etcd does.

pub mod compaction;
pub mod duration;
pub mod flags;
pub mod sizes;
pub mod url;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use compaction::AutoCompaction;
use flags::{FLAGS, Flag, Kind, Support};
pub use sizes::Sizes;
use url::Url;

use crate::cores::CORES_MAX;
use crate::cores::placement::Placement;

/// Largest `--max-request-bytes`: an entry is never split, and a record holds at most 16 MiB.
pub const REQUEST_BYTES_LIMIT: u64 = 10 << 20;
/// Quota when `--quota-backend-bytes` is 0.
pub const QUOTA_BYTES_DEFAULT: u64 = 2 << 30;
const ELECTION_TIMEOUT_MAX: Duration = Duration::from_secs(50);
const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);
const SCRUB_INTERVAL_MIN: Duration = Duration::from_secs(1);
/// The longest pause between two moves of `--placement=random`.
const RANDOM_PLACEMENT_PAUSE_MAX: Duration = Duration::from_millis(20);

/// Which driver the reactor uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoDriver {
    /// io_uring, or the fallback where the kernel refuses it.
    Auto,
    /// io_uring or nothing.
    Uring,
    /// epoll and threads.
    Fallback,
}

/// How much `/metrics` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsDetail {
    /// Everything but what is next.
    Basic,
    /// Also how long calls take, by method.
    Extensive,
}

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

/// Where log lines go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
}

/// A checked configuration of one member.
#[derive(Clone, Debug)]
pub struct Config {
    /// Human name.
    pub name: String,
    /// Directory of all data.
    pub data_dir: PathBuf,
    /// Client listeners.
    pub listen_client_urls: Vec<Url>,
    /// URLs announced to clients.
    pub advertise_client_urls: Vec<Url>,
    /// Listeners for metrics and health alone.
    pub listen_metrics_urls: Vec<Url>,
    /// How much `/metrics` shows.
    pub metrics: MetricsDetail,
    /// Peer listeners.
    pub listen_peer_urls: Vec<Url>,
    /// URLs announced to peers; they decide the member id.
    pub initial_advertise_peer_urls: Vec<Url>,
    /// Salt of the ids.
    pub initial_cluster_token: String,
    /// The data directory has to be there already.
    pub initial_cluster_existing: bool,
    /// Size at which NOSPACE is raised; `None` is off.
    pub quota_bytes: Option<u64>,
    /// What is compacted without being asked.
    pub auto_compaction: Option<AutoCompaction>,
    /// Largest request, bytes.
    pub max_request_bytes: usize,
    /// Most operations in a transaction.
    pub max_txn_ops: usize,
    /// Most open streams on one connection.
    pub max_concurrent_streams: u32,
    /// Election timeout.
    pub election_timeout: Duration,
    /// Heartbeat interval.
    pub heartbeat_interval: Duration,
    /// Period of watch progress notifications.
    pub watch_progress_interval: Duration,
    /// Shortest allowed distance of client pings.
    pub keepalive_min_time: Duration,
    /// Period of the server's pings; zero is off.
    pub keepalive_interval: Duration,
    /// Wait for a ping's answer.
    pub keepalive_timeout: Duration,
    /// Severity below which lines are dropped.
    pub log_level: LogLevel,
    /// Where log lines go.
    pub log_output: LogOutput,
    /// The reactor's driver.
    pub io_driver: IoDriver,
    /// Cores to run on; none: as many as the process may use, which the binary finds out.
    pub cores: Option<u16>,
    /// How shards are spread over the cores.
    pub placement: Placement,
    /// Sizes and distances that have no flag in etcd.
    pub sizes: Sizes,
    /// How long it takes to read everything once in search of damage; zero is never.
    pub scrub_interval: Duration,
    /// Memory that the process may use, in bytes: no flag, the binary finds out. 0 is unknown.
    pub memory_bytes: u64,
    /// Things worth a warning in the log: ignored flags, unknown variables.
    pub warnings: Vec<String>,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Request {
    /// Run a member.
    Serve(Box<Config>),
    /// `--version`.
    Version,
    /// `--help`.
    Help,
}

/// All that is wrong with a command line, one sentence each.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<String>);

impl std::fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

/// Reads arguments (without the program's name) and the environment.
///
/// # Errors
/// Every mistake at once.
pub fn parse(
    arguments: &[String],
    environment: &[(String, String)],
) -> Result<Request, ConfigErrors> {
    let mut values = Values::default();
    values.read_arguments(arguments);
    if values.help {
        return Ok(Request::Help);
    }
    if values
        .given
        .get("version")
        .is_some_and(|value| value == "true")
    {
        return Ok(Request::Version);
    }
    values.read_environment(environment);
    values.refuse_unsupported();
    let config = values.into_config()?;
    Ok(Request::Serve(Box::new(config)))
}

/// Flag values as text, with the mistakes found so far.
#[derive(Default)]
struct Values {
    given: BTreeMap<&'static str, String>,
    help: bool,
    errors: Vec<String>,
    warnings: Vec<String>,
}

impl Values {
    fn read_arguments(&mut self, arguments: &[String]) {
        let mut rest = arguments.iter().peekable();
        while let Some(argument) = rest.next() {
            let Some(body) = argument
                .strip_prefix("--")
                .or_else(|| argument.strip_prefix('-'))
            else {
                self.errors
                    .push(format!("'{argument}' is not a valid flag"));
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
                Some(value) => self.set(flag, value),
                None => self
                    .errors
                    .push(format!("flag needs an argument: --{name}")),
            }
        }
    }

    fn set(&mut self, flag: &'static Flag, value: String) {
        let value = if flag.kind == Kind::Bool {
            match value.as_str() {
                "1" | "t" | "T" | "true" | "TRUE" | "True" => "true".to_owned(),
                "0" | "f" | "F" | "false" | "FALSE" | "False" => "false".to_owned(),
                _ => {
                    self.errors.push(format!(
                        "invalid boolean value {value:?} for --{} (true or false)",
                        flag.name
                    ));
                    return;
                }
            }
        } else {
            value
        };
        self.given.insert(flag.name, value);
    }

    fn read_environment(&mut self, environment: &[(String, String)]) {
        for (variable, value) in environment {
            let Some(tail) = variable.strip_prefix("ETCD_") else {
                continue;
            };
            if matches!(tail, "VERSION" | "UNSUPPORTED_ARCH") {
                continue;
            }
            let name = tail.to_ascii_lowercase().replace('_', "-");
            let Some(flag) = flags::find(&name) else {
                self.warnings.push(format!(
                    "unrecognized environment variable {variable}={value}"
                ));
                continue;
            };
            if self.given.contains_key(flag.name) {
                self.errors.push(format!(
                    "conflicting environment variable {variable:?} is shadowed by corresponding \
                     command-line flag (either unset environment variable or disable flag)"
                ));
                continue;
            }
            self.set(flag, value.clone());
        }
    }

    fn refuse_unsupported(&mut self) {
        let mut errors = Vec::new();
        for (name, value) in &self.given {
            let Some(flag) = flags::find(name) else {
                continue;
            };
            match flag.support {
                Support::Works => {}
                Support::IgnoredByEtcd => self.warnings.push(format!(
                    "--{name} is a legacy flag without effect, as in etcd"
                )),
                Support::Removed(instead) => errors.push(format!("--{name}: {instead}")),
                Support::DefaultOnly(why) => {
                    if !same_value(flag, value) {
                        errors.push(format!(
                            "--{name}={value} is refused: {why} (only the default {:?} passes)",
                            flag.default
                        ));
                    }
                }
            }
        }
        self.errors.extend(errors);
    }

    fn text(&self, name: &str) -> String {
        match self.given.get(name) {
            Some(value) => value.clone(),
            None => flags::find(name)
                .map(|flag| flag.default.to_owned())
                .unwrap_or_default(),
        }
    }

    fn integer(&mut self, name: &str, allowed: std::ops::RangeInclusive<i64>) -> i64 {
        let text = self.text(name);
        match text.parse::<i64>() {
            Ok(value) if allowed.contains(&value) => value,
            Ok(value) => {
                self.errors.push(format!(
                    "--{name}={value} is out of range ({}..={})",
                    allowed.start(),
                    allowed.end()
                ));
                *allowed.start()
            }
            Err(_) => {
                self.errors.push(format!(
                    "invalid value {text:?} for --{name}: not an integer"
                ));
                *allowed.start()
            }
        }
    }

    fn duration(&mut self, name: &str) -> Duration {
        let text = self.text(name);
        duration::parse_duration(&text).unwrap_or_else(|error| {
            self.errors.push(format!("--{name}: {error}"));
            Duration::ZERO
        })
    }

    fn urls(&mut self, name: &str) -> Vec<Url> {
        let text = self.text(name);
        url::parse_list(&text).unwrap_or_else(|error| {
            self.errors.push(format!("--{name}: {error}"));
            Vec::new()
        })
    }

    /// URLs of a listener: each has to name an address of this machine.
    fn listeners(&mut self, name: &str) -> Vec<Url> {
        let urls = self.urls(name);
        for url in &urls {
            if let Err(error) = url.endpoint() {
                self.errors.push(format!("--{name}: {error}"));
            }
        }
        urls
    }

    fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> T {
        let text = self.text(name);
        match choices.iter().find(|(label, _)| *label == text) {
            Some((_, value)) => *value,
            None => {
                let labels: Vec<_> = choices.iter().map(|(label, _)| *label).collect();
                self.errors.push(format!(
                    "--{name}={text} is not one of {}",
                    labels.join(", ")
                ));
                choices[0].1
            }
        }
    }

    fn into_config(mut self) -> Result<Config, ConfigErrors> {
        let name = self.text("name");
        if self.given.contains_key("listen-client-urls")
            && !self.given.contains_key("advertise-client-urls")
        {
            self.errors.push(
                "--advertise-client-urls is required when --listen-client-urls is set explicitly"
                    .to_owned(),
            );
        }
        let data_dir = match self.text("data-dir") {
            dir if dir.is_empty() => PathBuf::from(format!("{name}.etcd")),
            dir => PathBuf::from(dir),
        };
        let initial_advertise_peer_urls = self.urls("initial-advertise-peer-urls");
        self.check_initial_cluster(&name, &initial_advertise_peer_urls);
        let quota = self.integer("quota-backend-bytes", i64::MIN..=i64::MAX);
        let heartbeat = self.integer("heartbeat-interval", 1..=i64::from(u32::MAX));
        let election = self.integer("election-timeout", 1..=i64::from(u32::MAX));
        self.check_timeouts(heartbeat, election);
        let max_request_bytes = self.integer("max-request-bytes", 1..=REQUEST_BYTES_LIMIT as i64);
        let config = Config {
            data_dir,
            listen_client_urls: self.listeners("listen-client-urls"),
            advertise_client_urls: self.urls("advertise-client-urls"),
            listen_metrics_urls: match self.text("listen-metrics-urls") {
                none if none.is_empty() => Vec::new(),
                _ => self.listeners("listen-metrics-urls"),
            },
            metrics: self.choice(
                "metrics",
                &[
                    ("basic", MetricsDetail::Basic),
                    ("extensive", MetricsDetail::Extensive),
                ],
            ),
            listen_peer_urls: self.listeners("listen-peer-urls"),
            initial_advertise_peer_urls,
            initial_cluster_token: self.text("initial-cluster-token"),
            initial_cluster_existing: self.choice(
                "initial-cluster-state",
                &[("new", false), ("existing", true)],
            ),
            quota_bytes: match quota {
                0 => Some(QUOTA_BYTES_DEFAULT),
                quota => u64::try_from(quota).ok(),
            },
            auto_compaction: self.auto_compaction(),
            max_request_bytes: max_request_bytes as usize,
            max_txn_ops: self.integer("max-txn-ops", 1..=65_536) as usize,
            max_concurrent_streams: self.integer("max-concurrent-streams", 1..=i64::from(u32::MAX))
                as u32,
            election_timeout: Duration::from_millis(election as u64),
            heartbeat_interval: Duration::from_millis(heartbeat as u64),
            watch_progress_interval: self.progress_interval(),
            keepalive_min_time: self.duration("grpc-keepalive-min-time"),
            keepalive_interval: self.duration("grpc-keepalive-interval"),
            keepalive_timeout: self.duration("grpc-keepalive-timeout"),
            log_level: self.choice(
                "log-level",
                &[
                    ("info", LogLevel::Info),
                    ("debug", LogLevel::Debug),
                    ("warn", LogLevel::Warn),
                    ("error", LogLevel::Error),
                    ("dpanic", LogLevel::Fatal),
                    ("panic", LogLevel::Fatal),
                    ("fatal", LogLevel::Fatal),
                ],
            ),
            log_output: self.choice(
                "log-outputs",
                &[
                    ("default", LogOutput::Stderr),
                    ("stderr", LogOutput::Stderr),
                    ("stdout", LogOutput::Stdout),
                ],
            ),
            io_driver: self.choice(
                "io-driver",
                &[
                    ("auto", IoDriver::Auto),
                    ("io_uring", IoDriver::Uring),
                    ("fallback", IoDriver::Fallback),
                ],
            ),
            cores: self.cores(),
            placement: self.placement(),
            sizes: self.sizes(max_request_bytes as u64),
            scrub_interval: self.scrub_interval(),
            memory_bytes: 0,
            warnings: std::mem::take(&mut self.warnings),
            name,
        };
        if self.errors.is_empty() {
            Ok(config)
        } else {
            Err(ConfigErrors(self.errors))
        }
    }

    /// `--initial-cluster` must be this member and nobody else, with the URLs it advertises.
    fn check_initial_cluster(&mut self, name: &str, advertised: &[Url]) {
        let text = self.text("initial-cluster");
        if text.is_empty() {
            return;
        }
        let mut urls = Vec::new();
        for pair in text.split(',') {
            let Some((member, url)) = pair.split_once('=') else {
                self.errors
                    .push(format!("--initial-cluster: {pair:?} is not NAME=URL"));
                return;
            };
            if member.trim() != name {
                self.errors.push(format!(
                    "--initial-cluster names the member {member:?} beside {name:?}: \
                     clusters of several members are not supported yet"
                ));
                return;
            }
            match Url::parse(url) {
                Ok(url) => urls.push(url),
                Err(error) => self.errors.push(format!("--initial-cluster: {error}")),
            }
        }
        let matched = urls.len() == advertised.len()
            && urls
                .iter()
                .all(|url| advertised.iter().any(|other| other.same_place(url)));
        if self.errors.is_empty() && !matched {
            self.errors.push(format!(
                "--initial-cluster={text} does not match --initial-advertise-peer-urls={}",
                self.text("initial-advertise-peer-urls")
            ));
        }
    }

    fn check_timeouts(&mut self, heartbeat: i64, election: i64) {
        if election < 5 * heartbeat {
            self.errors.push(format!(
                "--election-timeout[{election}ms] should be at least as 5 times as \
                 --heartbeat-interval[{heartbeat}ms]"
            ));
        }
        if election > ELECTION_TIMEOUT_MAX.as_millis() as i64 {
            self.errors.push(format!(
                "--election-timeout[{election}ms] is too long, and should be set less than 50000ms"
            ));
        }
    }

    fn auto_compaction(&mut self) -> Option<AutoCompaction> {
        let mode = self.text("auto-compaction-mode");
        let retention = self.text("auto-compaction-retention");
        compaction::parse(&mode, &retention).unwrap_or_else(|error| {
            self.errors.push(error);
            None
        })
    }

    fn progress_interval(&mut self) -> Duration {
        let interval = self.duration("watch-progress-notify-interval");
        if interval < PROGRESS_INTERVAL_MIN {
            self.errors.push(format!(
                "--watch-progress-notify-interval={interval:?} is below {PROGRESS_INTERVAL_MIN:?}"
            ));
        }
        interval
    }

    /// None: as many as the process may use.
    fn cores(&mut self) -> Option<u16> {
        let text = self.text("cores");
        if text == "auto" {
            return None;
        }
        let cores = text.parse::<u16>().ok();
        let cores = cores.filter(|cores| (1..=CORES_MAX).contains(cores));
        if cores.is_none() {
            self.errors.push(format!(
                "--cores={text} is neither auto nor a number from 1 to {CORES_MAX}"
            ));
        }
        cores
    }

    fn placement(&mut self) -> Placement {
        let text = self.text("placement");
        match text.as_str() {
            "load" => Placement::ByLoad,
            "gathered" => Placement::Gathered,
            "spread" => Placement::Spread,
            "random" => Placement::Random {
                pause_max: RANDOM_PLACEMENT_PAUSE_MAX,
            },
            _ => {
                self.errors.push(format!(
                    "--placement={text} is not one of load, gathered, spread, random"
                ));
                Placement::default()
            }
        }
    }

    fn scrub_interval(&mut self) -> Duration {
        let interval = self.duration("scrub-interval");
        if !interval.is_zero() && interval < SCRUB_INTERVAL_MIN {
            self.errors.push(format!(
                "--scrub-interval={interval:?} is below {SCRUB_INTERVAL_MIN:?}; 0 is never"
            ));
        }
        interval
    }
}

fn unknown_flag(name: &str) -> String {
    if let Some(experimental) = name.strip_prefix("experimental-") {
        return match flags::find(experimental) {
            Some(flag) => format!(
                "flag provided but not defined: --{name} (etcd 3.7 has no experimental flags; it is \
                 now --{})",
                flag.name
            ),
            None => format!(
                "flag provided but not defined: --{name} (etcd 3.7 has no experimental flags)"
            ),
        };
    }
    match flags::nearest(name) {
        Some(near) => {
            format!("flag provided but not defined: --{name} (did you mean --{near}?)")
        }
        None => format!("flag provided but not defined: --{name} (see --help)"),
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
            let parse = |text| duration::parse_duration(text).ok();
            parse(value).is_some() && parse(value) == parse(flag.default)
        }
        Kind::Bool | Kind::Text => false,
    }
}

/// The text of `--help`.
pub fn help() -> String {
    let mut text = String::from(
        "ringd: a durable, strongly consistent key-value store that speaks etcd's v3 API\n\n\
         usage:\n  ringd [flags]                      run a node (no flags: loopback, ports 2379 and 2380)\n  \
         ringd inspect [--json] DATA-DIR    show superblock and log of a stopped node\n  \
         ringd salvage DATA-DIR             accept a loss that a start refused, by name\n  \
         ringd --version\n\n\
         Every flag has its variable: --data-dir is ETCD_DATA_DIR.\n\nflags:\n",
    );
    for flag in FLAGS.iter().filter(|flag| flag.support == Support::Works) {
        let default = if flag.default.is_empty() {
            String::new()
        } else {
            format!(" [{}]", flag.default)
        };
        text.push_str(&format!("  --{:<32} {}{default}\n", flag.name, flag.help));
    }
    text.push_str(
        "\nexamples:\n  ringd --data-dir /var/lib/ringd\n  \
         ringd --listen-client-urls http://127.0.0.1:0 --advertise-client-urls http://127.0.0.1:0\n  \
         etcdctl --endpoints 127.0.0.1:2379 put greeting hello\n",
    );
    text
}

#[cfg(test)]
mod tests;
