use super::*;

fn arguments(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn serve(line: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let environment: Vec<_> = environment
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    match parse(&arguments(line), &environment)? {
        Request::Serve(config) => Ok(*config),
        other => panic!("{other:?}"),
    }
}

fn refused(line: &str, part: &str) {
    let error = serve(line, &[]).unwrap_err().to_string();
    assert!(error.contains(part), "{line}: {error}");
}

#[test]
fn no_flags_are_a_working_node_on_loopback() {
    let config = serve("", &[]).unwrap();
    assert_eq!(config.data_dir, PathBuf::from("default.etcd"));
    assert_eq!(
        config.listen_client_urls[0].as_str(),
        "http://localhost:2379"
    );
    assert_eq!(config.quota_bytes, Some(QUOTA_BYTES_DEFAULT));
    assert_eq!(config.max_request_bytes, 1_572_864);
}

#[test]
fn go_grammar() {
    let config = serve(
        "-name a --data-dir=/d -log-level warn --quota-backend-bytes 8589934592 \
         --watch-progress-notify-interval 1s --pre-vote --strict-reconfig-check=true \
         --snapshot-count 10000 --compact-hash-check-time 60s",
        &[
            ("ETCD_MAX_TXN_OPS", "256"),
            ("ETCD_VERSION", "x"),
            ("ETCD_NOPE", "1"),
        ],
    )
    .unwrap();
    assert_eq!(config.name, "a");
    assert_eq!(config.log_level, LogLevel::Warn);
    assert_eq!(config.quota_bytes, Some(8_589_934_592));
    assert_eq!(config.max_txn_ops, 256);
    assert_eq!(config.watch_progress_interval, Duration::from_secs(1));
    assert_eq!(config.warnings.len(), 1);
}

#[test]
fn automatic_compaction() {
    let config = serve("", &[]).unwrap();
    assert_eq!(config.auto_compaction, None);
    let config = serve("--auto-compaction-retention 5m", &[]).unwrap();
    let period = Duration::from_secs(300);
    let expected = Some(AutoCompaction::Periodic(period));
    assert_eq!(config.auto_compaction, expected);
    let environment = [("ETCD_AUTO_COMPACTION_MODE", "revision")];
    let config = serve("--auto-compaction-retention=1000", &environment).unwrap();
    let expected = Some(AutoCompaction::Revision(1000));
    assert_eq!(config.auto_compaction, expected);
}

#[test]
fn the_command_line_of_kubernetes_tests() {
    let config = serve(
        "--data-dir /d --listen-client-urls unix:///d/etcd.sock --advertise-client-urls \
         http://127.0.0.111:0 --listen-peer-urls http://127.0.0.1:0 -log-level warn \
         --quota-backend-bytes 8589934592 --watch-progress-notify-interval 1s",
        &[],
    )
    .unwrap();
    assert_eq!(
        config.listen_client_urls[0].endpoint().unwrap(),
        url::Endpoint::Unix("/d/etcd.sock".into())
    );
}

#[test]
fn refused_by_name() {
    refused("--cert-file x", "--cert-file=x is refused: TLS");
    refused(
        "--initial-cluster a=http://1.1.1.1:1,b=http://1.1.1.2:1 --name a",
        "several members",
    );
    refused(
        "--listen-client-urls https://1.1.1.1:1 --advertise-client-urls http://1.1.1.1:1",
        "TLS",
    );
    refused("--unsafe-no-fsync", "never acknowledges");
    refused("--data-dirr x", "did you mean --data-dir?");
    refused("--experimental-memory-mlock", "now --memory-mlock");
    refused("--discovery x", "v2 discovery");
    refused(
        "--listen-client-urls http://127.0.0.1:1",
        "--advertise-client-urls is required",
    );
    refused("--max-request-bytes 99999999", "out of range");
    refused(
        "--heartbeat-interval 500 --election-timeout 1000",
        "5 times",
    );
    refused("--election-timeout 60000", "too long");
    refused("put a b", "'put' is not a valid flag");
    refused("--name", "needs an argument");
    refused(
        "--initial-cluster default=http://localhost:9",
        "does not match",
    );
    refused("--watch-progress-notify-interval 1ms", "below");
    refused("--auto-tls", "TLS");
    refused("--auto-compaction-mode hourly", "auto-compaction-mode");
    refused("--auto-compaction-retention 1x", "unit");
    refused("--io-driver x", "not one of auto, io_uring, fallback");
}

#[test]
fn small_sizes_for_tests() {
    let config = serve("", &[]).unwrap();
    assert_eq!(config.sizes, Sizes::default());
    assert_eq!(config.scrub_interval, Duration::from_secs(24 * 3600));
    assert_eq!(config.sizes.log(), wal::Config::default());
    let config = serve(
        "--checkpoint-requests 300 --checkpoint-log-bytes 262144 --event-segment-bytes 32768 \
         --log-segment-bytes 6291456 --page-cache-bytes 4194304 --value-cache-bytes 65536 \
         --event-tail-bytes 4096 --scrub-interval 0",
        &[],
    )
    .unwrap();
    let sizes = config.sizes;
    let memory_bytes = 64 << 30;
    let checkpoints = sizes.checkpoints(memory_bytes);
    assert_eq!(
        (checkpoints.operations, checkpoints.log_bytes),
        (300, 256 << 10)
    );
    let store = sizes.store(memory_bytes);
    assert_eq!(
        (store.segment_bytes_first, store.segment_bytes_max),
        (32 << 10, 32 << 10)
    );
    assert_eq!(store.piece_bytes, 4 << 10);
    assert_eq!(
        (store.page_cache_bytes, store.value_cache_bytes),
        (4 << 20, 64 << 10)
    );
    assert_eq!(store.tail_bytes_max, 4 << 10);
    sizes.log().check();
    assert_eq!(sizes.log().segment_bytes, 6 << 20);
    assert!(config.scrub_interval.is_zero());
    for (line, part) in [
        ("--checkpoint-requests -1", "out of range"),
        ("--checkpoint-log-bytes 100", "out of range"),
        ("--event-segment-bytes 33000", "multiple of 4096"),
        ("--event-segment-bytes 4096", "out of range"),
        ("--log-segment-bytes 4096", "out of range"),
        ("--log-segment-bytes 4194304", "is below 5242880"),
        ("--page-cache-bytes 1", "out of range"),
        ("--value-cache-bytes x", "not an integer"),
        ("--event-tail-bytes 1", "out of range"),
        ("--scrub-interval 1ms", "0 is never"),
        ("--scrub-interval x", "--scrub-interval"),
    ] {
        refused(line, part);
    }
}

#[test]
fn a_placement_of_shards() {
    assert_eq!(serve("", &[]).unwrap().placement, Placement::ByLoad);
    for (text, placement) in [
        ("load", Placement::ByLoad),
        ("gathered", Placement::Gathered),
        ("spread", Placement::Spread),
    ] {
        let config = serve(&format!("--placement {text}"), &[]).unwrap();
        assert_eq!(config.placement, placement);
    }
    let random = serve("", &[("ETCD_PLACEMENT", "random")]).unwrap();
    assert!(matches!(random.placement, Placement::Random { .. }));
    refused("--placement x", "not one of load, gathered, spread, random");
}

#[test]
fn a_number_of_cores() {
    assert_eq!(serve("", &[]).unwrap().cores, None);
    assert_eq!(serve("--cores auto", &[]).unwrap().cores, None);
    assert_eq!(serve("--cores 1", &[]).unwrap().cores, Some(1));
    assert_eq!(serve("--cores=64", &[]).unwrap().cores, Some(64));
    for line in ["--cores 0", "--cores 65", "--cores -1", "--cores two"] {
        refused(line, "neither auto nor a number from 1 to 64");
    }
}

#[test]
fn all_mistakes_at_once() {
    let errors = serve("--nope --cert-file x --max-txn-ops many", &[]).unwrap_err();
    assert_eq!(errors.0.len(), 3, "{errors}");
}

#[test]
fn flag_and_variable_conflict() {
    let error = serve("--name a", &[("ETCD_NAME", "b")])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("conflicting environment variable \"ETCD_NAME\""),
        "{error}"
    );
}

#[test]
fn version_and_help_win_over_mistakes() {
    assert!(matches!(
        parse(&arguments("--version"), &[]),
        Ok(Request::Version)
    ));
    assert!(matches!(
        parse(&arguments("-h --nope"), &[]),
        Ok(Request::Help)
    ));
}
