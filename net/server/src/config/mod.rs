//! Configuration: etcd's flags, `ETCD_*` variables and configuration file, checked as a whole before anything is
//! touched.
//!
//! Grammar as Go's flag package: one or two dashes, `=` or a separate argument, booleans without
//! one. A flag and its variable at the same time are refused, as etcd does; a configuration file replaces both.
//!
//! Reading order: [`flags`] and [`table`] (what there is), [`file`] (the file's language), `values` (where values
//! come from), this module (what they have to be), [`text`] (what is shown of it).

pub mod compaction;
pub mod duration;
pub mod file;
pub mod flags;
pub mod gates;
pub mod logs;
pub mod sizes;
pub mod surroundings;
pub mod table;
pub mod text;
pub mod url;
mod values;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use compaction::AutoCompaction;
pub use logs::{LogFormat, LogLevel, LogOptions, LogOutput, Rotation};
pub use sizes::Sizes;
use url::Url;
use values::Values;

use crate::cores::CORES_MAX;
use crate::cores::placement::Placement;

/// Largest `--max-request-bytes`: an entry is never split, and a record holds at most 16 MiB.
pub const REQUEST_BYTES_LIMIT: u64 = 10 << 20;
/// Quota when `--quota-backend-bytes` is 0.
pub const QUOTA_BYTES_DEFAULT: u64 = 2 << 30;
/// `--warning-unary-request-duration` when it is 0, as in etcd.
const SLOW_CALL_DEFAULT: Duration = Duration::from_millis(300);
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
    /// What is logged, how, and where to.
    pub log: LogOptions,
    /// A request that is longer than this in being committed and applied, or read, is logged.
    pub slow_apply: Duration,
    /// A call that takes longer from its arrival to its answer is logged.
    pub slow_call: Duration,
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
    /// What the log should say about the configuration: where it comes from, what has no effect.
    pub notices: Vec<Notice>,
}

/// A line for the log, which is not there yet when the configuration is read.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// Severity.
    pub level: LogLevel,
    /// Message.
    pub message: String,
    /// Names and values.
    pub fields: Vec<(&'static str, serde_json::Value)>,
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

/// Reads arguments (without the program's name), the environment, and the configuration file that one of them names.
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
    if values.boolean("version") {
        return Ok(Request::Version);
    }
    match config_file(&values, environment) {
        None => values.read_environment(environment),
        Some(path) => match read_file(Path::new(&path)) {
            Ok(text) => values.read_file(&path, &text),
            Err(error) => values.errors.push(error),
        },
    }
    values.check_support();
    let config = values.into_config()?;
    Ok(Request::Serve(Box::new(config)))
}

/// The path that the flag or else the variable names.
fn config_file(values: &Values, environment: &[(String, String)]) -> Option<String> {
    let flag = Some(values.text("config-file")).filter(|path| !path.is_empty());
    flag.or_else(|| {
        let variable = environment
            .iter()
            .find(|(name, _)| name == "ETCD_CONFIG_FILE");
        variable
            .map(|(_, path)| path.clone())
            .filter(|path| !path.is_empty())
    })
}

fn read_file(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let mut bytes = Vec::new();
    let limit = file::FILE_BYTES_MAX as u64 + 1;
    let read = std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    read.map_err(|error: io::Error| format!("cannot read --config-file={shown}: {error}"))?;
    if bytes.len() > file::FILE_BYTES_MAX {
        let most = file::FILE_BYTES_MAX;
        return Err(format!(
            "--config-file={shown} is longer than {most} bytes: is it a configuration?"
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        format!("--config-file={shown} is not text (UTF-8): the byte at offset {good} is wrong")
    })
}

impl Values {
    fn into_config(mut self) -> Result<Config, ConfigErrors> {
        let name = self.text("name");
        if self.is_given("listen-client-urls")
            && !self.is_given("advertise-client-urls")
            && !self.has_file()
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
            log: self.log(),
            slow_apply: self.duration("warning-apply-duration"),
            slow_call: match self.duration("warning-unary-request-duration") {
                Duration::ZERO => SLOW_CALL_DEFAULT,
                duration => duration,
            },
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
            notices: std::mem::take(&mut self.notices),
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
        let label = self.label("initial-cluster");
        let mut urls = Vec::new();
        for pair in text.split(',') {
            let Some((member, url)) = pair.split_once('=') else {
                self.errors
                    .push(format!("{label}: {pair:?} is not NAME=URL"));
                return;
            };
            if member.trim() != name {
                self.errors.push(format!(
                    "{label} names the member {member:?} beside {name:?}: \
                     clusters of several members are not supported yet"
                ));
                return;
            }
            match Url::parse(url) {
                Ok(url) => urls.push(url),
                Err(error) => self.errors.push(format!("{label}: {error}")),
            }
        }
        let matched = urls.len() == advertised.len()
            && urls
                .iter()
                .all(|url| advertised.iter().any(|other| other.same_place(url)));
        if self.errors.is_empty() && !matched {
            self.errors.push(format!(
                "{label}={text} does not match --initial-advertise-peer-urls={}",
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
            let (mode, retention) = (
                self.label("auto-compaction-mode"),
                self.label("auto-compaction-retention"),
            );
            let error = match mode.starts_with("--") && retention.starts_with("--") {
                true => error,
                false => format!("{error} (from {mode} and {retention})"),
            };
            self.errors.push(error);
            None
        })
    }

    fn progress_interval(&mut self) -> Duration {
        let interval = self.duration("watch-progress-notify-interval");
        if interval < PROGRESS_INTERVAL_MIN {
            let label = self.label("watch-progress-notify-interval");
            self.errors.push(format!(
                "{label}={interval:?} is below {PROGRESS_INTERVAL_MIN:?}"
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
            let label = self.label("cores");
            self.errors.push(format!(
                "{label}={text} is neither auto nor a number from 1 to {CORES_MAX}"
            ));
        }
        cores
    }

    fn placement(&mut self) -> Placement {
        let random = Placement::Random {
            pause_max: RANDOM_PLACEMENT_PAUSE_MAX,
        };
        let choices = [
            ("load", Placement::ByLoad),
            ("gathered", Placement::Gathered),
            ("spread", Placement::Spread),
            ("random", random),
        ];
        self.choice("placement", &choices)
    }

    fn scrub_interval(&mut self) -> Duration {
        let interval = self.duration("scrub-interval");
        if !interval.is_zero() && interval < SCRUB_INTERVAL_MIN {
            let label = self.label("scrub-interval");
            self.errors.push(format!(
                "{label}={interval:?} is below {SCRUB_INTERVAL_MIN:?}; 0 is never"
            ));
        }
        interval
    }
}

#[cfg(test)]
mod tests;
