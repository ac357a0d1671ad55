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
    assert_eq!(config.log.level, LogLevel::Warn);
    assert_eq!(config.quota_bytes, Some(8_589_934_592));
    assert_eq!(config.max_txn_ops, 256);
    assert_eq!(config.watch_progress_interval, Duration::from_secs(1));
    let messages = config.notices.iter().map(|notice| notice.message.as_str());
    let expected = [
        "recognized and used environment variable",
        "cannot set special environment variable",
        "unrecognized environment variable",
    ];
    assert_eq!(messages.collect::<Vec<_>>(), expected);
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

/// A configuration file that is deleted at the end.
struct TemporaryFile(PathBuf);

impl TemporaryFile {
    fn new(name: &str, bytes: impl AsRef<[u8]>) -> TemporaryFile {
        let path = std::env::temp_dir().join(format!("ringd-{name}-{}.yaml", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        TemporaryFile(path)
    }

    fn serve(&self, environment: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
        serve(&format!("--config-file {}", self.0.display()), environment)
    }

    /// The mistakes, without the folder.
    fn mistakes(&self) -> Vec<String> {
        let folder = format!("{}/", self.0.parent().unwrap().display());
        let name = self.0.file_name().unwrap().to_string_lossy().into_owned();
        let errors = self.serve(&[]).unwrap_err().0.into_iter();
        errors
            .map(|error| error.replace(&folder, "").replace(&name, "FILE"))
            .collect()
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

#[test]
fn a_file_replaces_flags_and_variables() {
    let text = "name: from-file\nlisten-client-urls: http://127.0.0.1:7\nwatch-progress-notify-interval: 2000000000\n\
                auto-compaction-retention: 1h\nlog-outputs: [stderr, stdout]\ncores: 2\npeer-transport-security:\n\
                  auto-tls: false\nclient-transport-security:\nproxy: 'off'\nquota-backend-bytes: 7000\nsnapshot-count: 77\n";
    let text = text.replace("auto-tls", "  auto-tls");
    let file = TemporaryFile::new("replaces", text);
    let line = format!("--data-dir /elsewhere --config-file={}", file.0.display());
    let config = serve(&line, &[("ETCD_MAX_TXN_OPS", "7"), ("ETCD_NOPE", "1")]).unwrap();
    assert_eq!(config.name, "from-file");
    assert_eq!(config.data_dir, PathBuf::from("from-file.etcd"));
    assert_eq!(config.max_txn_ops, 128);
    assert_eq!(config.watch_progress_interval, Duration::from_secs(2));
    assert_eq!(config.quota_bytes, Some(7000));
    assert_eq!(config.cores, Some(2));
    assert_eq!(config.log.outputs, [LogOutput::Stderr, LogOutput::Stdout]);
    // As in etcd the advertised URLs keep their default.
    assert_eq!(
        config.advertise_client_urls[0].as_str(),
        "http://localhost:2379"
    );
    let told = format!("{:?}", config.notices);
    for part in [
        "data-dir",
        "etcd 3.7 does not know this key",
        "a flag has no effect here",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let path = file.0.to_string_lossy();
    let by_variable = serve("", &[("ETCD_CONFIG_FILE", &path), ("ETCD_NAME", "b")]).unwrap();
    assert_eq!(by_variable.name, "from-file");
}

#[test]
fn mistakes_in_a_file_name_line_key_value_and_what_is_allowed() {
    let text = "max-txn-ops: many\n\nheartbeat-interval: -1\npre-vote: perhaps\ndata_dir: x\n\
                client-transport-security:\n  cert-file: /x\n  certfile: /x\nlog-level: loud\n\
                listen-client-urls: https://127.0.0.1:1,http://example.org:2\nname: [a]\n\
                watch-progress-notify-interval: 3 parsecs\nexperimental-memory-mlock: true\n\
                client-transport-security.allowed-cn: x\ncores: 99\nfeature-gates: Nope=true\n";
    let file = TemporaryFile::new("mistakes", text);
    let mistakes = file.mistakes();
    let expected = [
        "FILE:4: pre-vote (true or false)",
        "FILE:5: unknown key data_dir (did you mean data-dir?)",
        "FILE:8: unknown key client-transport-security.certfile (did you mean client-transport-security.cert-file?)",
        "FILE:11: name takes one value, not a list",
        "FILE:13: unknown key experimental-memory-mlock (etcd 3.7 has no experimental flags; it is now --memory-mlock)",
        "FILE:14: client-transport-security.allowed-cn is refused: TLS",
        "FILE:7: client-transport-security.cert-file=/x is refused: TLS",
        "FILE:16: feature-gates: unrecognized feature gate: Nope",
        "FILE:3: heartbeat-interval=-1 is out of range (1..=",
        "URL \"https://127.0.0.1:1\": TLS",
        "FILE:10: listen-client-urls: expected IP in URL for binding (http://example.org:2)",
        "invalid value \"many\" for FILE:1: max-txn-ops: not an integer (1..=65536)",
        "FILE:12: watch-progress-notify-interval: ",
        "FILE:9: log-level=loud is not one of info, debug, warn",
        "FILE:15: cores=99",
    ];
    for part in expected {
        let told = mistakes
            .iter()
            .filter(|mistake| mistake.contains(part))
            .count();
        assert_eq!(told, 1, "{part}:\n{}", mistakes.join("\n"));
    }
}

#[test]
fn files_that_are_none() {
    for (bytes, part) in [
        (&b"name: [a\n"[..], "FILE:"),
        (b"\xff\xfename", "is not text (UTF-8): the byte at offset 0"),
        (b"a text", "FILE:1: the file has to hold KEY: VALUE lines"),
        (
            b"name: a\nname: b\n",
            "FILE:2: name stands in line 1 already",
        ),
        (
            &vec![b'#'; file::FILE_BYTES_MAX + 1],
            "longer than 1048576 bytes",
        ),
    ] {
        let file = TemporaryFile::new("none", bytes);
        let mistakes = file.mistakes();
        assert!(mistakes[0].contains(part), "{mistakes:?}");
    }
    refused(
        "--config-file /nonexistent",
        "cannot read --config-file=/nonexistent",
    );
    refused("--config-file /tmp", "cannot read --config-file=/tmp");
}

#[test]
fn flags_without_effect_have_to_be_well_formed() {
    let line =
        "--snapshot-count 5 --pre-vote=false --backend-bbolt-freelist-type array --max-wals=0";
    let config = serve(line, &[]).unwrap();
    assert_eq!(config.notices.len(), 4, "{:?}", config.notices);
    for (line, part) in [
        ("--snapshot-count -5", "out of range"),
        ("--backend-batch-interval 5", "unit"),
        (
            "--backend-bbolt-freelist-type list",
            "not one of array, map",
        ),
        ("--max-learners few", "not an integer"),
    ] {
        refused(line, part);
    }
}

#[test]
fn passwords_are_not_shown() {
    let errors = serve("--discovery-password hunter2", &[]).unwrap_err();
    assert!(!errors.to_string().contains("hunter2"), "{errors}");
}

#[test]
fn the_log() {
    let config = serve("", &[]).unwrap();
    assert_eq!(config.log.outputs, [LogOutput::Stderr]);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.log.rotation, None);
    let line = "--log-outputs stdout,/x/y.log --log-format console --log-level debug --enable-log-rotation";
    let log = serve(line, &[]).unwrap().log;
    let file = LogOutput::File(PathBuf::from("/x/y.log"));
    assert_eq!(log.outputs, [LogOutput::Stdout, file]);
    assert_eq!(
        (log.format, log.level),
        (LogFormat::Console, LogLevel::Debug)
    );
    assert!(log.rotation.is_some());
    for (line, part) in [
        ("--log-outputs default,stdout", "default stands alone"),
        ("--log-outputs systemd/journal", "write to stderr"),
        ("--log-outputs=", "empty"),
        ("--log-format xml", "not one of json, console"),
        ("--log-level loud", "not one of info"),
        ("--logger capnslog", "not one of zap"),
        ("--enable-log-rotation", "exactly one file"),
        (
            "--enable-log-rotation --log-outputs a,b",
            "exactly one file",
        ),
        (
            "--enable-log-rotation --log-outputs a --log-rotation-config-json {",
            "log-rotation-config-json",
        ),
    ] {
        refused(line, part);
    }
}
