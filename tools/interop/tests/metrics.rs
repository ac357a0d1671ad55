//! A real Prometheus scrapes the server: what etcd's dashboards and alerts ask for is there and moves when it should,
//! and the page of metrics is what `docs/METRICS.md` says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use interop::programs::{Kind, etcd_program, prometheus, root};
use interop::server::{Launch, Server, TemporaryDirectory};
use interop::web::{ask, get};
use ringbench::server::free_port;
use serde_json::Value;

/// What Prometheus takes to start, and to scrape twice.
const SCRAPED: Duration = Duration::from_secs(20);
const SCRAPE_INTERVAL: &str = "200ms";

/// Every metric that a query of etcd's mixin names.
const MIXIN: [&str; 21] = [
    "etcd_disk_backend_commit_duration_seconds_bucket",
    "etcd_disk_wal_fsync_duration_seconds_bucket",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_network_client_grpc_received_bytes_total",
    "etcd_network_client_grpc_sent_bytes_total",
    "etcd_network_peer_received_bytes_total",
    "etcd_network_peer_round_trip_time_seconds_bucket",
    "etcd_network_peer_sent_bytes_total",
    "etcd_network_peer_sent_failures_total",
    "etcd_server_has_leader",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_applied_total",
    "etcd_server_proposals_committed_total",
    "etcd_server_proposals_failed_total",
    "etcd_server_proposals_pending",
    "etcd_server_quota_backend_bytes",
    "grpc_server_handled_total",
    "grpc_server_handling_seconds_bucket",
    "grpc_server_started_total",
    "process_resident_memory_bytes",
];

/// Of a member without others these have no series, as in etcd.
const OF_PEERS: &str = "etcd_network_peer_";

fn start(kind: Kind, directory: &TemporaryDirectory) -> Server {
    let launch = Launch::new(kind, directory.path()).argument("--metrics=extensive");
    match kind {
        // So that files of the store are flushed soon.
        Kind::Ringd => launch.argument("--checkpoint-requests=4").start(),
        Kind::Etcd => launch.start(),
    }
}

/// A running Prometheus; ended when the value is dropped.
struct Prometheus {
    child: Child,
    address: String,
    log: std::path::PathBuf,
}

impl Prometheus {
    /// One that scrapes `target`.
    fn start(target: &str, directory: &TemporaryDirectory) -> Prometheus {
        let config = directory.path().join("prometheus.yml");
        let text = format!(
            "global:\n  scrape_interval: {SCRAPE_INTERVAL}\nscrape_configs:\n  - job_name: etcd\n    \
             static_configs:\n      - targets: ['{target}']\n"
        );
        fs::write(&config, text).unwrap();
        let address = free_port().unwrap().to_string();
        let log = directory.path().join("prometheus.log");
        let file = fs::File::create(&log).unwrap();
        let child = Command::new(prometheus("prometheus"))
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.path().join("tsdb").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        Prometheus {
            child,
            address,
            log,
        }
    }

    /// The series that `query` finds, with their values.
    fn query(&self, query: &str) -> Vec<(Value, f64)> {
        let target = format!("/api/v1/query?query={}", escape(query));
        let answer: Value = match ask(&self.address, "GET", &target) {
            Ok(answer) => serde_json::from_str(&answer.body).unwrap_or_default(),
            // It is starting.
            Err(_) => return Vec::new(),
        };
        let series = answer["data"]["result"].as_array().cloned();
        let value = |series: &Value| series["value"][1].as_str()?.parse::<f64>().ok();
        let series = series.unwrap_or_default();
        series
            .iter()
            .filter_map(|series| Some((series["metric"].clone(), value(series)?)))
            .collect()
    }

    /// The sum of what `query` finds.
    fn sum(&self, query: &str) -> f64 {
        self.query(query).iter().map(|(_, value)| value).sum()
    }

    /// Waits until `query` finds a number that `is_enough`.
    fn wait(&self, query: &str, is_enough: impl Fn(f64) -> bool) -> f64 {
        let begin = Instant::now();
        loop {
            let found = self.query(query);
            let sum = found.iter().map(|(_, value)| value).sum();
            if !found.is_empty() && is_enough(sum) {
                return sum;
            }
            if begin.elapsed() > SCRAPED {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                panic!("{query} is {found:?} after {SCRAPED:?}; Prometheus says {log}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What it knows of the types of metrics.
    fn types(&self) -> BTreeMap<String, String> {
        let answer = get(&self.address, "/api/v1/metadata");
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let types = answer["data"].as_object().unwrap().iter();
        types
            .map(|(name, found)| (name.clone(), found[0]["type"].as_str().unwrap().to_owned()))
            .collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A value in a query.
fn escape(text: &str) -> String {
    let escaped = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(byte).to_string(),
        other => format!("%{other:02x}"),
    });
    escaped.collect()
}

fn etcdctl(server: &Server, words: &[&str]) -> bool {
    let output = Command::new(etcd_program("etcdctl"))
        .arg(format!("--endpoints={}", server.endpoint()))
        .args(words)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    output.status.success()
}

/// A watch that is open while the value lives.
struct OpenWatch(Child);

impl OpenWatch {
    fn start(server: &Server) -> OpenWatch {
        let child = Command::new(etcd_program("etcdctl"))
            .arg(format!("--endpoints={}", server.endpoint()))
            .args(["watch", "--prefix", "key"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        OpenWatch(child.unwrap())
    }
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Something of everything that is counted.
fn work(server: &Server) {
    for number in 0..8 {
        let key = format!("key{number}");
        assert!(etcdctl(server, &["put", &key, "value"]));
    }
    assert!(etcdctl(server, &["get", "key", "--prefix"]));
    assert!(etcdctl(server, &["del", "key0"]));
    assert!(etcdctl(server, &["lease", "grant", "60"]));
    assert!(
        !etcdctl(server, &["lease", "revoke", "1234"]),
        "no such lease"
    );
    assert!(etcdctl(server, &["compaction", "5", "--physical"]));
    assert!(etcdctl(server, &["endpoint", "hashkv"]));
    get(&server.endpoint(), "/health");
    get(&server.endpoint(), "/readyz");
}

/// What [`work`] and an open watch move, each by this much at least.
const MOVED: &[(&str, f64)] = &[
    ("etcd_server_proposals_committed_total", 12.0),
    ("etcd_server_proposals_applied_total", 12.0),
    (
        "etcd_disk_wal_fsync_duration_seconds_bucket{le=\"+Inf\"}",
        12.0,
    ),
    ("etcd_disk_wal_fsync_duration_seconds_sum", 1e-5),
    ("etcd_disk_backend_commit_duration_seconds_count", 1.0),
    ("etcd_disk_wal_write_bytes_total", 500.0),
    ("etcd_mvcc_put_total", 8.0),
    ("etcd_mvcc_delete_total", 1.0),
    ("etcd_mvcc_range_total", 1.0),
    ("etcd_mvcc_hash_rev_duration_seconds_count", 1.0),
    ("etcd_network_client_grpc_received_bytes_total", 100.0),
    ("etcd_network_client_grpc_sent_bytes_total", 100.0),
    (
        "etcd_server_apply_duration_seconds_count{op=\"Put\",success=\"true\"}",
        8.0,
    ),
    (
        "etcd_server_apply_duration_seconds_count{op=\"LeaseRevoke\",success=\"false\"}",
        1.0,
    ),
    (
        "etcd_server_request_duration_seconds_count{type=\"Put\"}",
        8.0,
    ),
    ("etcd_server_range_duration_seconds_count", 1.0),
    ("etcd_server_client_requests_total{type=\"unary\"}", 13.0),
    ("etcd_server_health_success", 1.0),
    (
        "etcd_server_healthchecks_total{type=\"readyz\",status=\"success\"}",
        4.0,
    ),
    ("etcd_debugging_mvcc_events_total", 9.0),
    ("etcd_debugging_mvcc_watcher_total", 1.0),
    ("etcd_debugging_mvcc_watch_stream_total", 1.0),
    ("etcd_debugging_mvcc_current_revision", 9.0),
    ("etcd_debugging_mvcc_compact_revision", 6.0),
    ("etcd_debugging_mvcc_keys_total", 7.0),
    ("etcd_debugging_lease_granted_total", 1.0),
    ("etcd_debugging_lease_ttl_total_sum", 60.0),
    (
        "grpc_server_started_total{grpc_method=\"Put\",grpc_type=\"unary\"}",
        8.0,
    ),
    (
        "grpc_server_started_total{grpc_method=\"Watch\",grpc_type=\"bidi_stream\"}",
        1.0,
    ),
    (
        "grpc_server_handled_total{grpc_method=\"Put\",grpc_code=\"OK\"}",
        8.0,
    ),
    (
        "grpc_server_handled_total{grpc_method=\"LeaseRevoke\",grpc_code=\"NotFound\"}",
        1.0,
    ),
    (
        "grpc_server_handling_seconds_bucket{grpc_method=\"Put\",le=\"+Inf\"}",
        8.0,
    ),
    ("grpc_server_msg_received_total{grpc_method=\"Watch\"}", 1.0),
    ("grpc_server_msg_sent_total{grpc_method=\"Watch\"}", 2.0),
    ("process_cpu_seconds_total", 0.0),
];

/// The same of ringd's own, and of what moves in larger steps in etcd.
const MOVED_OF_RINGD: &[(&str, f64)] = &[
    (
        "ringd_write_phase_duration_seconds_count{phase=\"queue\"}",
        12.0,
    ),
    (
        "ringd_write_phase_duration_seconds_count{phase=\"log\"}",
        12.0,
    ),
    (
        "ringd_write_phase_duration_seconds_count{phase=\"apply\"}",
        12.0,
    ),
    ("ringd_entry_requests_sum", 12.0),
    ("etcd_mvcc_db_total_size_in_use_in_bytes", 1.0),
    (
        "ringd_disk_flush_duration_seconds_count{core=\"0\",file=\"log\"}",
        12.0,
    ),
    ("ringd_disk_written_bytes_total{file=\"log\"}", 12.0 * 512.0),
    ("ringd_core_grpc_started_total", 13.0),
    ("ringd_core_busy_seconds_total", 1e-6),
    ("ringd_compaction_duration_seconds_count", 1.0),
    ("ringd_checkpoint_duration_seconds_count", 1.0),
    ("ringd_checkpoint_index", 4.0),
    ("ringd_disk_written_bytes_total{file=\"store\"}", 4096.0),
    ("ringd_shard_keys", 7.0),
    ("ringd_leases", 1.0),
];

#[test]
fn prometheus_sees_what_the_mixin_asks_for_move() {
    let directory = TemporaryDirectory::new();
    let kind = Kind::under_test();
    let server = start(kind, &directory);
    let prometheus = Prometheus::start(&server.endpoint(), &directory);
    prometheus.wait("up", |up| up == 1.0);
    prometheus.wait("etcd_server_has_leader", |leader| leader == 1.0);
    let mut moved: Vec<&(&str, f64)> = MOVED.iter().collect();
    if kind == Kind::Ringd {
        moved.extend(MOVED_OF_RINGD);
    }
    let before: Vec<f64> = moved
        .iter()
        .map(|(query, _)| prometheus.sum(query))
        .collect();
    let watch = OpenWatch::start(&server);
    let watching = "etcd_debugging_mvcc_watcher_total";
    prometheus.wait(watching, |watchers| watchers == 1.0);
    work(&server);
    for ((query, by), before) in moved.into_iter().zip(before) {
        prometheus.wait(query, |now| now - before >= *by);
    }
    drop(watch);
    prometheus.wait(watching, |watchers| watchers == 0.0);
    let types = prometheus.types();
    for name in MIXIN {
        let family = name.strip_suffix("_bucket").unwrap_or(name);
        match name.starts_with(OF_PEERS) {
            true if kind == Kind::Ringd => assert!(types.contains_key(family), "{name}"),
            true => {}
            false => assert!(!prometheus.query(name).is_empty(), "{name} has no series"),
        }
    }
}

/// What promtool has to say of a page of metrics.
fn complaints(page: &str) -> BTreeSet<String> {
    let mut child = Command::new(prometheus("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(page.as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    // 3 is said of style; anything else of a page that cannot be read.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{output:?}");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    said.lines().map(str::to_owned).collect()
}

/// Names and types as a page declares them.
fn declared(page: &str) -> BTreeMap<String, String> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let types = types.map(|line| line.split_once(' ').unwrap());
    types
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect()
}

/// Names of the labels of each metric's series, but for a bucket's bound.
fn labels(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let types = declared(page);
    let mut labels: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, inside) = series.split_once('{').unwrap_or((series, ""));
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
            let family = name.strip_suffix(suffix)?;
            (types.get(family)? == "histogram").then_some(family)
        });
        let names = inside.split("=\"").filter_map(|piece| {
            let name = piece.rsplit([',', '{']).next()?;
            (!name.contains(['}', '"'])).then_some(name)
        });
        let names = names.filter(|name| !name.is_empty() && *name != "le");
        let known = labels.entry(family.unwrap_or(name).to_owned()).or_default();
        known.extend(names.map(str::to_owned));
    }
    labels
}

#[test]
fn the_page_is_clean_and_what_is_shared_with_etcd_has_its_types_and_labels() {
    if Kind::under_test() == Kind::Etcd {
        eprintln!("skipped: compares ringd with etcd");
        return;
    }
    let page_of = |kind| {
        let directory = TemporaryDirectory::new();
        let server = start(kind, &directory);
        work(&server);
        get(&server.endpoint(), "/metrics")
    };
    let (ringd, etcd) = (page_of(Kind::Ringd), page_of(Kind::Etcd));
    // promtool does not like some of etcd's names; ours are etcd's there.
    let (ours, etcds) = (complaints(&ringd), complaints(&etcd));
    let new: Vec<_> = ours.difference(&etcds).collect();
    assert!(new.is_empty(), "{new:#?}");
    let (types, etcd_types) = (declared(&ringd), declared(&etcd));
    let (labels, etcd_labels) = (labels(&ringd), labels(&etcd));
    let mut shared = 0;
    for (name, kind) in &types {
        let Some(etcd_kind) = etcd_types.get(name) else {
            // Etcd declares nothing before it has a series.
            let known = [
                "etcd_network_peer_",
                "etcd_debugging_server_alarms",
                "ringd_",
            ];
            assert!(known.iter().any(|known| name.starts_with(known)), "{name}");
            continue;
        };
        shared += 1;
        assert_eq!(kind, etcd_kind, "{name}");
        if let (Some(ours), Some(etcds)) = (labels.get(name), etcd_labels.get(name)) {
            assert_eq!(ours, etcds, "labels of {name}");
        }
    }
    assert!(shared > 50, "{shared} metrics of etcd");
    let page = fs::read_to_string(root().join("docs/METRICS.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let documented: BTreeMap<String, String> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            (cells[0].replace('`', ""), cells[1].to_owned())
        })
        .filter(|(_, kind)| ["counter", "gauge", "histogram"].contains(&kind.as_str()))
        .collect();
    assert_eq!(types, documented, "the page of metrics and docs/METRICS.md");
}
