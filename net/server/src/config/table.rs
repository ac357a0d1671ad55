//! Every flag of etcd 3.7 by name, with its type, default and key in the configuration file, and what ringd does
//! with it; then what former releases had, then ringd's own. `docs/CONFIGURATION.md` is made of this table.

use super::flags::{Flag, Kind, ignored, later, no_effect, refused, removed, works};

const TLS: &str = "TLS is not supported yet";
const AUTH: &str = "authentication is not supported yet";
const DISCOVERY: &str = "discovery is not supported yet";
const ONE_MEMBER: &str = "a member alone has nobody to agree or compare with";
const TRACING: &str = "distributed tracing is not supported yet";
const BBOLT: &str = "there is no bbolt backend to tune";
const COMPACTION: &str = "compaction paces itself by what the core has to do";

/// Every flag, etcd's in alphabetical order, then ringd's.
pub const FLAGS: &[Flag] = &[
    works(
        "advertise-client-urls",
        Kind::List,
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
    later("auto-tls", Kind::Bool, "false", TLS).key("client-transport-security.auto-tls"),
    no_effect("backend-batch-interval", Kind::Duration, "0", BBOLT),
    no_effect("backend-batch-limit", Kind::Integer, "0", BBOLT),
    no_effect("backend-bbolt-freelist-type", Kind::Text, "map", BBOLT).allowed(&["array", "map"]),
    later("bcrypt-cost", Kind::Integer, "10", AUTH),
    no_effect(
        "bootstrap-defrag-threshold-megabytes",
        Kind::Integer,
        "0",
        BBOLT,
    ),
    later("cert-file", Kind::Text, "", TLS).key("client-transport-security.cert-file"),
    later("cipher-suites", Kind::List, "", TLS),
    later("client-cert-allowed-hostname", Kind::List, "", TLS)
        .key("client-transport-security.allowed-hostname"),
    later("client-cert-auth", Kind::Bool, "false", TLS)
        .key("client-transport-security.client-cert-auth"),
    later("client-cert-file", Kind::Text, "", TLS)
        .key("client-transport-security.client-cert-file"),
    later("client-crl-file", Kind::Text, "", TLS).no_key(),
    later("client-key-file", Kind::Text, "", TLS).key("client-transport-security.client-key-file"),
    no_effect("compact-hash-check-time", Kind::Duration, "1m", ONE_MEMBER),
    no_effect("compaction-batch-limit", Kind::Integer, "1000", COMPACTION),
    no_effect(
        "compaction-sleep-interval",
        Kind::Duration,
        "10ms",
        COMPACTION,
    ),
    works(
        "config-file",
        Kind::Text,
        "",
        "YAML or JSON file with the configuration; all other flags and variables are ignored then",
    )
    .no_key(),
    no_effect("corrupt-check-time", Kind::Duration, "0s", ONE_MEMBER),
    later(
        "cors",
        Kind::List,
        "*",
        "restrictions of browsers' requests come with the JSON gateway",
    ),
    works(
        "data-dir",
        Kind::Text,
        "",
        "directory of all data (default: NAME.etcd)",
    ),
    later("discovery-cacert", Kind::Text, "", DISCOVERY)
        .key("discovery-config.client.secure.cacert"),
    later("discovery-cert", Kind::Text, "", DISCOVERY).key("discovery-config.client.secure.cert"),
    later("discovery-dial-timeout", Kind::Duration, "2s", DISCOVERY)
        .key("discovery-config.client.dial-timeout"),
    later("discovery-endpoints", Kind::List, "", DISCOVERY)
        .key("discovery-config.client.endpoints"),
    later("discovery-fallback", Kind::Text, "exit", DISCOVERY).no_key(),
    later(
        "discovery-insecure-skip-tls-verify",
        Kind::Bool,
        "false",
        DISCOVERY,
    )
    .key("discovery-config.client.secure.insecure-skip-tls-verify"),
    later(
        "discovery-insecure-transport",
        Kind::Bool,
        "true",
        DISCOVERY,
    )
    .key("discovery-config.client.secure.insecure-transport"),
    later("discovery-keepalive-time", Kind::Duration, "2s", DISCOVERY)
        .key("discovery-config.client.keepalive-time"),
    later(
        "discovery-keepalive-timeout",
        Kind::Duration,
        "6s",
        DISCOVERY,
    )
    .key("discovery-config.client.keepalive-timeout"),
    later("discovery-key", Kind::Text, "", DISCOVERY).key("discovery-config.client.secure.key"),
    later("discovery-password", Kind::Text, "", DISCOVERY)
        .key("discovery-config.client.auth.password"),
    later("discovery-request-timeout", Kind::Duration, "5s", DISCOVERY)
        .key("discovery-config.client.request-timeout"),
    later("discovery-srv", Kind::Text, "", DISCOVERY),
    later("discovery-srv-name", Kind::Text, "", DISCOVERY),
    later("discovery-token", Kind::Text, "", DISCOVERY).key("discovery-config.token"),
    later("discovery-user", Kind::Text, "", DISCOVERY).key("discovery-config.client.auth.username"),
    no_effect(
        "distributed-tracing-address",
        Kind::Text,
        "localhost:4317",
        "distributed tracing is not supported yet, and enabling it is refused",
    ),
    no_effect(
        "distributed-tracing-instance-id",
        Kind::Text,
        "",
        "distributed tracing is not supported yet, and enabling it is refused",
    ),
    no_effect(
        "distributed-tracing-sampling-rate",
        Kind::Integer,
        "0",
        "distributed tracing is not supported yet, and enabling it is refused",
    ),
    no_effect(
        "distributed-tracing-service-name",
        Kind::Text,
        "etcd",
        "distributed tracing is not supported yet, and enabling it is refused",
    ),
    no_effect("downgrade-check-time", Kind::Duration, "5s", ONE_MEMBER),
    works(
        "election-timeout",
        Kind::Integer,
        "1000",
        "election timeout, milliseconds; also sets the shortest lease",
    ),
    later("enable-distributed-tracing", Kind::Bool, "false", TRACING),
    no_effect(
        "enable-grpc-gateway",
        Kind::Bool,
        "true",
        "the JSON gateway is not there yet: it is off either way",
    ),
    works(
        "enable-log-rotation",
        Kind::Bool,
        "false",
        "rotate the log file; exactly one of the outputs is a file",
    ),
    refused(
        "enable-pprof",
        Kind::Bool,
        "false",
        "there is no Go profiler to serve",
    ),
    works(
        "feature-gates",
        Kind::Text,
        "",
        "comma-separated GATE=true or GATE=false; see the list of gates",
    ),
    later(
        "force-new-cluster",
        Kind::Bool,
        "false",
        "clusters of several members are not supported yet, so there is none to be cut down to one",
    ),
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
    later(
        "host-whitelist",
        Kind::List,
        "*",
        "restrictions of browsers' requests come with the JSON gateway",
    ),
    works(
        "initial-advertise-peer-urls",
        Kind::List,
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
    no_effect(
        "initial-election-tick-advance",
        Kind::Bool,
        "true",
        ONE_MEMBER,
    ),
    later("key-file", Kind::Text, "", TLS).key("client-transport-security.key-file"),
    later(
        "listen-client-http-urls",
        Kind::List,
        "",
        "HTTP on listeners of its own is not supported yet",
    ),
    works(
        "listen-client-urls",
        Kind::List,
        "http://localhost:2379",
        "client listeners (http:// or unix://)",
    ),
    works(
        "listen-metrics-urls",
        Kind::List,
        "",
        "further listeners that answer /metrics, /health, /livez and /readyz and nothing else",
    ),
    works(
        "listen-peer-urls",
        Kind::List,
        "http://localhost:2380",
        "peer listeners",
    ),
    works("log-format", Kind::Text, "json", "json or console"),
    works(
        "log-level",
        Kind::Text,
        "info",
        "debug, info, warn, error, panic or fatal",
    ),
    works(
        "log-outputs",
        Kind::List,
        "default",
        "default, stderr, stdout or files; several with commas",
    ),
    works(
        "log-rotation-config-json",
        Kind::Text,
        "{\"maxsize\":100,\"maxage\":0,\"maxbackups\":0,\"localtime\":false,\"compress\":false}",
        "how: maxsize (MB), maxage (days), maxbackups, localtime, compress",
    ),
    works("logger", Kind::Text, "zap", "only zap: structured lines"),
    works(
        "max-concurrent-streams",
        Kind::Integer,
        "4294967295",
        "most open streams on one connection",
    ),
    no_effect("max-learners", Kind::Integer, "1", ONE_MEMBER),
    works(
        "max-request-bytes",
        Kind::Integer,
        "1572864",
        "largest request, at most 10 MiB",
    ),
    no_effect(
        "max-snapshots",
        Kind::Integer,
        "5",
        "a checkpoint replaces the one before it; there are no snapshot files",
    ),
    works(
        "max-txn-ops",
        Kind::Integer,
        "128",
        "most operations in a transaction",
    ),
    no_effect(
        "max-wals",
        Kind::Integer,
        "5",
        "log segments are kept as long as they are needed",
    ),
    later(
        "memory-mlock",
        Kind::Bool,
        "false",
        "locking memory is not supported yet",
    ),
    works(
        "metrics",
        Kind::Text,
        "basic",
        "basic or extensive: the latter adds how long calls take, by method",
    ),
    works("name", Kind::Text, "default", "human name of this member"),
    later("peer-auto-tls", Kind::Bool, "false", TLS).key("peer-transport-security.auto-tls"),
    later("peer-cert-allowed-cn", Kind::List, "", TLS).key("peer-transport-security.allowed-cn"),
    later("peer-cert-allowed-hostname", Kind::List, "", TLS)
        .key("peer-transport-security.allowed-hostname"),
    later("peer-cert-file", Kind::Text, "", TLS).key("peer-transport-security.cert-file"),
    later("peer-client-cert-auth", Kind::Bool, "false", TLS)
        .key("peer-transport-security.client-cert-auth"),
    later("peer-client-cert-file", Kind::Text, "", TLS)
        .key("peer-transport-security.client-cert-file"),
    later("peer-client-key-file", Kind::Text, "", TLS)
        .key("peer-transport-security.client-key-file"),
    later("peer-crl-file", Kind::Text, "", TLS).no_key(),
    later("peer-key-file", Kind::Text, "", TLS).key("peer-transport-security.key-file"),
    later(
        "peer-skip-client-san-verification",
        Kind::Bool,
        "false",
        TLS,
    )
    .key("peer-transport-security.skip-client-san-verification"),
    later("peer-trusted-ca-file", Kind::Text, "", TLS)
        .key("peer-transport-security.trusted-ca-file"),
    no_effect("pre-vote", Kind::Bool, "true", ONE_MEMBER),
    works(
        "quota-backend-bytes",
        Kind::Integer,
        "0",
        "size at which the NOSPACE alarm is raised; 0 is 2 GiB, negative is off",
    ),
    no_effect("raft-read-timeout", Kind::Duration, "5s", ONE_MEMBER).no_key(),
    no_effect("raft-write-timeout", Kind::Duration, "5s", ONE_MEMBER).no_key(),
    later("self-signed-cert-validity", Kind::Integer, "1", TLS),
    no_effect(
        "snapshot-catchup-entries",
        Kind::Integer,
        "5000",
        ONE_MEMBER,
    ),
    no_effect(
        "snapshot-count",
        Kind::Integer,
        "10000",
        "checkpoints follow the changes and the log; see --checkpoint-requests",
    ),
    later(
        "socket-reuse-address",
        Kind::Bool,
        "false",
        "socket options are not supported yet",
    )
    .key("socket-options.reuse-address"),
    later(
        "socket-reuse-port",
        Kind::Bool,
        "false",
        "socket options are not supported yet",
    )
    .key("socket-options.reuse-port"),
    no_effect("strict-reconfig-check", Kind::Bool, "true", ONE_MEMBER),
    later("tls-max-version", Kind::Text, "", TLS),
    later("tls-min-version", Kind::Text, "TLS1.2", TLS),
    later("trusted-ca-file", Kind::Text, "", TLS).key("client-transport-security.trusted-ca-file"),
    refused(
        "unsafe-no-fsync",
        Kind::Bool,
        "false",
        "ringd never acknowledges what is not durable",
    ),
    no_effect(
        "v2-deprecation",
        Kind::Text,
        "write-only-drop-data",
        "there is no v2 store; etcd 3.7 ignores the value, too",
    )
    .allowed(&[
        "write-only",
        "write-only-skip-check",
        "write-only-drop-data",
        "gone",
    ]),
    works("version", Kind::Bool, "false", "print the version and exit").no_key(),
    later(
        "wal-dir",
        Kind::Text,
        "",
        "a log on its own device is not supported yet",
    ),
    works(
        "warning-apply-duration",
        Kind::Duration,
        "100ms",
        "a request that takes longer to be committed and applied, or to be read, is logged",
    ),
    works(
        "warning-unary-request-duration",
        Kind::Duration,
        "300ms",
        "a call that takes longer from its arrival to its answer is logged; 0s is the default",
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
        "ringd, for tests: changes and changeless requests between two checkpoints; 0 is 330000",
    ),
    works(
        "checkpoint-log-bytes",
        Kind::Integer,
        "0",
        "ringd, for tests: log between two checkpoints; 0 follows the memory",
    ),
];
