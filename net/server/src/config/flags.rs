//! The flag table: every flag of etcd 3.7 by name, type, default and what ringd does with it.
//!
//! A flag that *works* has an effect here. A flag that is *default only* names something that etcd
//! has and ringd does not have yet: its default passes, any other value is refused with the reason;
//! nothing is accepted without effect. ringd's own flags stand at the end.

/// Type of a flag's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `--flag`, `--flag=true`, `--flag=false`; takes no separate argument.
    Bool,
    /// Free text.
    Text,
    /// A decimal integer.
    Integer,
    /// A Go duration.
    Duration,
}

/// What ringd does with a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// Has its effect.
    Works,
    /// Only the default passes; the text says why anything else is refused.
    DefaultOnly(&'static str),
    /// etcd itself ignores it with a warning, and so does ringd.
    IgnoredByEtcd,
    /// etcd 3.7 no longer has it; the text names the successor or says so.
    Removed(&'static str),
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Name without dashes.
    pub name: &'static str,
    /// Type of the value.
    pub kind: Kind,
    /// etcd's default, as text.
    pub default: &'static str,
    /// What ringd does with it.
    pub support: Support,
    /// One line for `--help`; empty for flags that do not work yet.
    pub help: &'static str,
}

const fn works(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag {
        name,
        kind,
        default,
        support: Support::Works,
        help,
    }
}

const fn later(name: &'static str, kind: Kind, default: &'static str, why: &'static str) -> Flag {
    Flag {
        name,
        kind,
        default,
        support: Support::DefaultOnly(why),
        help: "",
    }
}

const fn ignored(name: &'static str) -> Flag {
    Flag {
        name,
        kind: Kind::Text,
        default: "",
        support: Support::IgnoredByEtcd,
        help: "",
    }
}

const fn removed(name: &'static str, instead: &'static str) -> Flag {
    Flag {
        name,
        kind: Kind::Text,
        default: "",
        support: Support::Removed(instead),
        help: "",
    }
}

const TLS: &str = "TLS is not supported yet";
const AUTH: &str = "authentication is not supported yet";
const DISCOVERY: &str = "discovery is not supported yet";
const CLUSTER: &str = "clusters of several members are not supported yet";
const TRACING: &str = "distributed tracing is not supported yet";
const BBOLT: &str = "there is no bbolt backend to tune";
const CORRUPTION: &str = "corruption checks between members are not supported yet";
const COMPACTION: &str = "compaction paces itself by what the core has to do";
const LOGGING: &str = "only JSON lines on standard error or standard output are supported yet";
const HTTP: &str = "not supported yet";

/// Every flag, etcd's in its own order, then ringd's.
pub const FLAGS: &[Flag] = &[
    works(
        "advertise-client-urls",
        Kind::Text,
        "http://localhost:2379",
        "URLs announced to clients",
    ),
    later("auth-token", Kind::Text, "simple", AUTH),
    later("auth-token-ttl", Kind::Integer, "300", AUTH),
    works(
        "auto-compaction-mode",
        Kind::Text,
        "periodic",
        "what the retention counts: periodic (time) or revision",
    ),
    works(
        "auto-compaction-retention",
        Kind::Text,
        "0",
        "history that automatic compaction keeps: a duration, hours or revisions; 0 is off",
    ),
    later("auto-tls", Kind::Bool, "false", TLS),
    later("backend-batch-interval", Kind::Duration, "0", BBOLT),
    later("backend-batch-limit", Kind::Integer, "0", BBOLT),
    later("backend-bbolt-freelist-type", Kind::Text, "map", BBOLT),
    later("bcrypt-cost", Kind::Integer, "10", AUTH),
    later(
        "bootstrap-defrag-threshold-megabytes",
        Kind::Integer,
        "0",
        BBOLT,
    ),
    later("cert-file", Kind::Text, "", TLS),
    later("cipher-suites", Kind::Text, "", TLS),
    later("client-cert-allowed-hostname", Kind::Text, "", TLS),
    later("client-cert-auth", Kind::Bool, "false", TLS),
    later("client-cert-file", Kind::Text, "", TLS),
    later("client-crl-file", Kind::Text, "", TLS),
    later("client-key-file", Kind::Text, "", TLS),
    later("compact-hash-check-time", Kind::Duration, "1m", CORRUPTION),
    later("compaction-batch-limit", Kind::Integer, "1000", COMPACTION),
    later(
        "compaction-sleep-interval",
        Kind::Duration,
        "10ms",
        COMPACTION,
    ),
    later(
        "config-file",
        Kind::Text,
        "",
        "configuration files are not supported yet; use flags or ETCD_* variables",
    ),
    later("corrupt-check-time", Kind::Duration, "0s", CORRUPTION),
    later("cors", Kind::Text, "*", HTTP),
    works(
        "data-dir",
        Kind::Text,
        "",
        "directory of all data (default: NAME.etcd)",
    ),
    later("discovery-cacert", Kind::Text, "", DISCOVERY),
    later("discovery-cert", Kind::Text, "", DISCOVERY),
    later("discovery-dial-timeout", Kind::Duration, "2s", DISCOVERY),
    later("discovery-endpoints", Kind::Text, "", DISCOVERY),
    later("discovery-fallback", Kind::Text, "exit", DISCOVERY),
    later(
        "discovery-insecure-skip-tls-verify",
        Kind::Bool,
        "false",
        DISCOVERY,
    ),
    later(
        "discovery-insecure-transport",
        Kind::Bool,
        "true",
        DISCOVERY,
    ),
    later("discovery-keepalive-time", Kind::Duration, "2s", DISCOVERY),
    later(
        "discovery-keepalive-timeout",
        Kind::Duration,
        "6s",
        DISCOVERY,
    ),
    later("discovery-key", Kind::Text, "", DISCOVERY),
    later("discovery-password", Kind::Text, "", DISCOVERY),
    later("discovery-request-timeout", Kind::Duration, "5s", DISCOVERY),
    later("discovery-srv", Kind::Text, "", DISCOVERY),
    later("discovery-srv-name", Kind::Text, "", DISCOVERY),
    later("discovery-token", Kind::Text, "", DISCOVERY),
    later("discovery-user", Kind::Text, "", DISCOVERY),
    later(
        "distributed-tracing-address",
        Kind::Text,
        "localhost:4317",
        TRACING,
    ),
    later("distributed-tracing-instance-id", Kind::Text, "", TRACING),
    later(
        "distributed-tracing-sampling-rate",
        Kind::Integer,
        "0",
        TRACING,
    ),
    later(
        "distributed-tracing-service-name",
        Kind::Text,
        "etcd",
        TRACING,
    ),
    later("downgrade-check-time", Kind::Duration, "5s", CLUSTER),
    works(
        "election-timeout",
        Kind::Integer,
        "1000",
        "election timeout, milliseconds; also sets the shortest lease",
    ),
    later("enable-distributed-tracing", Kind::Bool, "false", TRACING),
    later(
        "enable-grpc-gateway",
        Kind::Bool,
        "true",
        "the JSON gateway is not there yet, so it cannot be switched off",
    ),
    later("enable-log-rotation", Kind::Bool, "false", LOGGING),
    later(
        "enable-pprof",
        Kind::Bool,
        "false",
        "there is no Go profiler to serve",
    ),
    later(
        "feature-gates",
        Kind::Text,
        "",
        "feature gates are not supported yet",
    ),
    later("force-new-cluster", Kind::Bool, "false", CLUSTER),
    works(
        "grpc-keepalive-interval",
        Kind::Duration,
        "2h",
        "period of the server's own pings, 0 is off",
    ),
    works(
        "grpc-keepalive-min-time",
        Kind::Duration,
        "5s",
        "clients that ping more often are sent away",
    ),
    works(
        "grpc-keepalive-timeout",
        Kind::Duration,
        "20s",
        "wait for a ping's answer before closing",
    ),
    works(
        "heartbeat-interval",
        Kind::Integer,
        "100",
        "heartbeat interval, milliseconds",
    ),
    later("host-whitelist", Kind::Text, "*", HTTP),
    works(
        "initial-advertise-peer-urls",
        Kind::Text,
        "http://localhost:2380",
        "URLs announced to peers; part of the member id",
    ),
    works(
        "initial-cluster",
        Kind::Text,
        "",
        "NAME=URL of this member (one member)",
    ),
    works(
        "initial-cluster-state",
        Kind::Text,
        "new",
        "new, or existing when the data directory is there",
    ),
    works(
        "initial-cluster-token",
        Kind::Text,
        "etcd-cluster",
        "salt of the member and cluster ids",
    ),
    later("initial-election-tick-advance", Kind::Bool, "true", CLUSTER),
    later("key-file", Kind::Text, "", TLS),
    later("listen-client-http-urls", Kind::Text, "", HTTP),
    works(
        "listen-client-urls",
        Kind::Text,
        "http://localhost:2379",
        "client listeners (http:// or unix://)",
    ),
    works(
        "listen-metrics-urls",
        Kind::Text,
        "",
        "further listeners that answer /metrics, /health, /livez and /readyz and nothing else",
    ),
    works(
        "listen-peer-urls",
        Kind::Text,
        "http://localhost:2380",
        "peer listeners",
    ),
    later("log-format", Kind::Text, "json", LOGGING),
    works(
        "log-level",
        Kind::Text,
        "info",
        "debug, info, warn, error, panic or fatal",
    ),
    works(
        "log-outputs",
        Kind::Text,
        "default",
        "default, stderr or stdout",
    ),
    later(
        "log-rotation-config-json",
        Kind::Text,
        "{\"maxsize\":100,\"maxage\":0,\"maxbackups\":0,\"localtime\":false,\"compress\":false}",
        LOGGING,
    ),
    later("logger", Kind::Text, "zap", LOGGING),
    works(
        "max-concurrent-streams",
        Kind::Integer,
        "4294967295",
        "most open streams on one connection",
    ),
    later("max-learners", Kind::Integer, "1", CLUSTER),
    works(
        "max-request-bytes",
        Kind::Integer,
        "1572864",
        "largest request, at most 10 MiB",
    ),
    later(
        "max-snapshots",
        Kind::Integer,
        "5",
        "there are no snapshot files",
    ),
    works(
        "max-txn-ops",
        Kind::Integer,
        "128",
        "most operations in a transaction",
    ),
    later(
        "max-wals",
        Kind::Integer,
        "5",
        "log segments are kept as long as they are needed",
    ),
    later("memory-mlock", Kind::Bool, "false", HTTP),
    works(
        "metrics",
        Kind::Text,
        "basic",
        "basic or extensive: the latter adds how long calls take, by method",
    ),
    works("name", Kind::Text, "default", "human name of this member"),
    later("peer-auto-tls", Kind::Bool, "false", TLS),
    later("peer-cert-allowed-cn", Kind::Text, "", TLS),
    later("peer-cert-allowed-hostname", Kind::Text, "", TLS),
    later("peer-cert-file", Kind::Text, "", TLS),
    later("peer-client-cert-auth", Kind::Bool, "false", TLS),
    later("peer-client-cert-file", Kind::Text, "", TLS),
    later("peer-client-key-file", Kind::Text, "", TLS),
    later("peer-crl-file", Kind::Text, "", TLS),
    later("peer-key-file", Kind::Text, "", TLS),
    later(
        "peer-skip-client-san-verification",
        Kind::Bool,
        "false",
        TLS,
    ),
    later("peer-trusted-ca-file", Kind::Text, "", TLS),
    later("pre-vote", Kind::Bool, "true", CLUSTER),
    works(
        "quota-backend-bytes",
        Kind::Integer,
        "0",
        "size at which the NOSPACE alarm is raised; 0 is 2 GiB, negative is off",
    ),
    later("raft-read-timeout", Kind::Duration, "5s", CLUSTER),
    later("raft-write-timeout", Kind::Duration, "5s", CLUSTER),
    later("self-signed-cert-validity", Kind::Integer, "1", TLS),
    later("snapshot-catchup-entries", Kind::Integer, "5000", CLUSTER),
    later(
        "snapshot-count",
        Kind::Integer,
        "10000",
        "checkpoints are not taken by entry count",
    ),
    later("socket-reuse-address", Kind::Bool, "false", HTTP),
    later("socket-reuse-port", Kind::Bool, "false", HTTP),
    later("strict-reconfig-check", Kind::Bool, "true", CLUSTER),
    later("tls-max-version", Kind::Text, "", TLS),
    later("tls-min-version", Kind::Text, "TLS1.2", TLS),
    later("trusted-ca-file", Kind::Text, "", TLS),
    later(
        "unsafe-no-fsync",
        Kind::Bool,
        "false",
        "ringd never acknowledges what is not durable",
    ),
    later(
        "v2-deprecation",
        Kind::Text,
        "write-only-drop-data",
        "there is no v2 store",
    ),
    works("version", Kind::Bool, "false", "print the version and exit"),
    later(
        "wal-dir",
        Kind::Text,
        "",
        "a log on its own device is not supported yet",
    ),
    later(
        "warning-apply-duration",
        Kind::Duration,
        "100ms",
        "the slow-request log is not supported yet",
    ),
    later(
        "warning-unary-request-duration",
        Kind::Duration,
        "300ms",
        "the slow-request log is not supported yet",
    ),
    works(
        "watch-progress-notify-interval",
        Kind::Duration,
        "10m",
        "period of watch progress notifications",
    ),
    ignored("cluster-active-size"),
    ignored("cluster-remove-delay"),
    ignored("cluster-sync-interval"),
    ignored("config"),
    ignored("force"),
    ignored("max-result-buffer"),
    ignored("max-retry-attempts"),
    ignored("peer-heartbeat-interval"),
    ignored("peer-election-timeout"),
    ignored("retry-interval"),
    ignored("snapshot"),
    ignored("v"),
    ignored("vv"),
    ignored("f"),
    removed("discovery", "etcd 3.7 has no v2 discovery"),
    removed("discovery-proxy", "etcd 3.7 has no v2 discovery"),
    removed("enable-v2", "etcd 3.7 has no v2 API"),
    removed("proxy", "etcd 3.7 has no v2 proxy"),
    removed("proxy-dial-timeout", "etcd 3.7 has no v2 proxy"),
    removed("proxy-failure-wait", "etcd 3.7 has no v2 proxy"),
    removed("proxy-read-timeout", "etcd 3.7 has no v2 proxy"),
    removed("proxy-refresh-interval", "etcd 3.7 has no v2 proxy"),
    removed("proxy-write-timeout", "etcd 3.7 has no v2 proxy"),
    works(
        "io-driver",
        Kind::Text,
        "auto",
        "ringd: auto, io_uring or fallback (epoll and threads)",
    ),
    works(
        "cores",
        Kind::Text,
        "auto",
        "ringd: cores to use, 1 to 64; auto: the processors that the process may use, up to 16",
    ),
    works(
        "placement",
        Kind::Text,
        "load",
        "ringd: shards over cores: load (spread when one core is busy), gathered, spread, or random (for tests)",
    ),
    works(
        "scrub-interval",
        Kind::Duration,
        "24h",
        "ringd: everything is read once in this time in search of damage; 0 is never",
    ),
    works(
        "page-cache-bytes",
        Kind::Integer,
        "0",
        "ringd: tree pages in memory; 0 is half of the memory",
    ),
    works(
        "value-cache-bytes",
        Kind::Integer,
        "0",
        "ringd: values in memory that were read back; 0 is an eighth of the memory",
    ),
    works(
        "event-tail-bytes",
        Kind::Integer,
        "0",
        "ringd, for tests: newest events in memory; 0 is 24 MiB",
    ),
    works(
        "event-segment-bytes",
        Kind::Integer,
        "0",
        "ringd, for tests: longest event segment; 0 is 64 MiB",
    ),
    works(
        "log-segment-bytes",
        Kind::Integer,
        "0",
        "ringd, for tests: length of a log segment; 0 is 32 MiB",
    ),
    works(
        "checkpoint-requests",
        Kind::Integer,
        "0",
        "ringd, for tests: changes and changeless requests between two checkpoints; 0 is 250000",
    ),
    works(
        "checkpoint-log-bytes",
        Kind::Integer,
        "0",
        "ringd, for tests: log between two checkpoints; 0 follows the memory",
    ),
];

/// The row of `name`.
pub fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// The known flag nearest to a name that is not known, if one is near enough to be meant.
pub fn nearest(name: &str) -> Option<&'static str> {
    FLAGS
        .iter()
        .map(|flag| (distance(name, flag.name), flag.name))
        .min()
        .filter(|(distance, _)| *distance <= 1 + name.len() / 3)
        .map(|(_, name)| name)
}

/// Levenshtein distance in bytes; flag names are ASCII.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, byte_a) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, byte_b) in b.bytes().enumerate() {
            let substitute = diagonal + usize::from(byte_a != byte_b);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = FLAGS.iter().map(|flag| flag.name).collect();
        names.sort_unstable();
        let before = names.len();
        names.dedup();
        assert_eq!(names.len(), before);
    }

    #[test]
    fn nearest_name() {
        assert_eq!(nearest("data-dirr"), Some("data-dir"));
        assert_eq!(nearest("listen-client-url"), Some("listen-client-urls"));
        assert_eq!(nearest("qqqqqqqqqq"), None);
    }
}
