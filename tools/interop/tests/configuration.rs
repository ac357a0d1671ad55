//! Bad flags, variables, files and directories; the log.
//!
//! A refusal names what is wrong, ends with the documented code, and changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use interop::programs::{Kind, etcd_program};
use interop::server::{Launch, Server, TemporaryDirectory};
use ringbench::server::read_once;
use rustix::process::Signal;
use serde_json::Value;

/// A refused start ends within this time.
const REFUSAL: Duration = Duration::from_secs(5);
/// Exit codes as `docs/OPERATIONS.md` tells them.
const CHECK: i32 = 1;
const USAGE: i32 = 64;
const DATA: i32 = 65;
const SYSTEM: i32 = 71;

/// Runs a test against ringd alone: what it checks is not etcd's behaviour.
fn ringd_only() -> bool {
    let ringd = Kind::under_test() == Kind::Ringd;
    if !ringd {
        eprintln!("skipped: concerns ringd alone");
    }
    ringd
}

/// Everything below a folder: path, mode, owner, time of change, content.
fn contents(folder: &Path) -> BTreeMap<PathBuf, (u32, u32, i64, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let path = entry.path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let content = match metadata.is_file() {
                true => fs::read(&path).unwrap(),
                false => Vec::new(),
            };
            if metadata.is_dir() {
                folders.push(path.clone());
            }
            let changed = metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec();
            found.insert(path, (metadata.mode(), metadata.uid(), changed, content));
        }
    }
    found
}

/// What a program that ends by itself has said, and its code. It has changed nothing below `folder`.
fn refusal(mut command: Command, folder: &Path) -> (String, i32) {
    let before = contents(folder);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let begin = Instant::now();
    let ended = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if begin.elapsed() > REFUSAL {
            child.kill().unwrap();
            break None;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let Output { stdout, stderr, .. } = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
    let status = ended.unwrap_or_else(|| panic!("{command:?} still runs:\n{said}"));
    assert_eq!(
        before,
        contents(folder),
        "{command:?} has changed something:\n{said}"
    );
    let code = status
        .code()
        .unwrap_or_else(|| panic!("{command:?}: {status}\n{said}"));
    (said, code)
}

fn ringd(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(Kind::Ringd.program().canonicalize().unwrap());
    command.args(words).current_dir(folder);
    command
}

#[test]
fn bad_flags_variables_and_urls_are_refused_before_anything_is_made() {
    if !ringd_only() {
        return;
    }
    let directory = TemporaryDirectory::new();
    let folder = directory.path();
    for (flag, parts) in [
        (
            "--max-txn-ops=many",
            &["--max-txn-ops", "\"many\"", "1..=65536"][..],
        ),
        (
            "--max-request-bytes=99999999999",
            &["--max-request-bytes=99999999999", "out of range"],
        ),
        (
            "--pre-vote=perhaps",
            &["--pre-vote", "\"perhaps\"", "true or false"],
        ),
        (
            "--grpc-keepalive-timeout=20",
            &[
                "--grpc-keepalive-timeout",
                "\"20\"",
                "ns, us, ms, s, m or h",
            ],
        ),
        ("--log-level=loud", &["--log-level=loud", "debug"]),
        (
            "--log-outputs=/nonexistent/log",
            &["--log-outputs", "/nonexistent"],
        ),
        ("--log-outputs=.", &["--log-outputs", "is a directory"]),
        (
            "--enable-log-rotation",
            &["--enable-log-rotation", "--log-outputs"],
        ),
        ("--feature-gates=Nope=true", &["--feature-gates", "Nope"]),
        (
            "--listen-peer-urls=127.0.0.1:2380",
            &["--listen-peer-urls", "no scheme", "http://"],
        ),
        (
            "--listen-peer-urls=http://127.0.0.1",
            &["--listen-peer-urls", "no port"],
        ),
        (
            "--listen-peer-urls=http://example.org:1",
            &["--listen-peer-urls", "expected IP"],
        ),
        (
            "--listen-peer-urls=ftp://127.0.0.1:1",
            &["--listen-peer-urls", "http or unix"],
        ),
        (
            "--listen-client-urls=unix:///nonexistent/s",
            &["--listen-client-urls", "/nonexistent"],
        ),
        ("--initial-cluster=a", &["--initial-cluster", "NAME=URL"]),
        (
            "--unheard-of",
            &["flag provided but not defined: --unheard-of"],
        ),
        ("gateway", &["no gateway"]),
        ("stray", &["'stray' is not a valid flag"]),
    ] {
        let words = [flag, "--advertise-client-urls=http://127.0.0.1:1"];
        let (said, code) = refusal(ringd(folder, &words), folder);
        assert_eq!(code, USAGE, "{flag}: {said}");
        for part in parts {
            assert!(
                said.contains(part),
                "{flag} is refused without {part:?}:\n{said}"
            );
        }
    }
    for (variable, value, part) in [
        (
            "ETCD_MAX_TXN_OPS",
            "many",
            "ETCD_MAX_TXN_OPS: not an integer",
        ),
        (
            "ETCD_LISTEN_PEER_URLS",
            "http://[::1",
            "ETCD_LISTEN_PEER_URLS: ",
        ),
        (
            "ETCD_CONFIG_FILE",
            "/nonexistent",
            "/nonexistent: No such file",
        ),
    ] {
        let mut command = ringd(folder, &[]);
        command.env(variable, value);
        let (said, code) = refusal(command, folder);
        assert_eq!(code, USAGE, "{variable}: {said}");
        assert!(said.contains(part), "{variable}={value}:\n{said}");
    }
}

#[test]
fn check_config_tells_every_mistake_at_once_and_makes_nothing() {
    if !ringd_only() {
        return;
    }
    let directory = TemporaryDirectory::new();
    let folder = directory.path();
    let file = "name: a\nname: b\nmax-txn-ops: [1\n";
    fs::write(folder.join("cut.yaml"), file).unwrap();
    fs::write(
        folder.join("bad.yaml"),
        "max-txn-ops: many\ndata_dir: x\ncors: 'null'\n",
    )
    .unwrap();
    fs::write(
        folder.join("good.yaml"),
        "name: a\nmax-txn-ops: 7\nlog-outputs: [stderr]\n",
    )
    .unwrap();
    let check = |words: &[&str]| {
        let words = [&["check-config"], words].concat();
        refusal(ringd(folder, &words), folder)
    };
    let (said, code) = check(&["--nope", "--max-txn-ops=x", "--cert-file=c", "--cores=0"]);
    assert_eq!(code, CHECK, "{said}");
    for part in ["--nope", "--max-txn-ops", "--cert-file", "--cores"] {
        assert!(said.contains(part), "{part}:\n{said}");
    }
    let (said, code) = check(&["--config-file=bad.yaml"]);
    assert_eq!(code, CHECK, "{said}");
    for part in [
        "bad.yaml:1: max-txn-ops",
        "bad.yaml:2: unknown key data_dir",
        "bad.yaml:3: cors",
    ] {
        assert!(said.contains(part), "{part}:\n{said}");
    }
    let (said, code) = check(&["--config-file=cut.yaml"]);
    assert!(code == CHECK && said.contains("cut.yaml:"), "{code} {said}");
    let (said, code) = check(&["--data-dir=good.yaml", "--log-outputs=/nonexistent/x"]);
    assert!(
        said.contains("is not a directory") && said.contains("/nonexistent"),
        "{said}"
    );
    assert_eq!(code, CHECK);
    let (said, code) = check(&["--config-file=good.yaml"]);
    assert!(
        code == 0 && said.contains("the configuration is good"),
        "{code} {said}"
    );
}

#[test]
fn directories_that_cannot_be_used_are_refused_and_stay_as_they_are() {
    if !ringd_only() {
        return;
    }
    const NOBODY: u32 = 65534;
    let directory = TemporaryDirectory::new();
    let folder = directory.path().canonicalize().unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(folder.join("file"), "a file\n").unwrap();
    for (name, mode) in [("locked", 0o700), ("readable", 0o755)] {
        fs::create_dir(folder.join(name)).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    // Somewhere that this user may run it from.
    let program = folder.join("program");
    fs::copy(Kind::Ringd.program(), &program).unwrap();
    let is_root = rustix::process::geteuid().is_root();
    for (path, nobody, parts) in [
        ("file", false, &["--data-dir=", "is not a directory"][..]),
        ("file/below", false, &["--data-dir=", "Not a directory"]),
        ("locked", true, &["--data-dir=", "Permission denied", "rwx"]),
        (
            "readable",
            true,
            &["--data-dir=", "Permission denied", "rwx"],
        ),
        ("locked/below", true, &["--data-dir=", "Permission denied"]),
        (
            "readable/below",
            true,
            &["--data-dir=", "cannot be created", "cannot write to"],
        ),
    ] {
        if nobody && !is_root {
            eprintln!("skipped: {path} needs root, who becomes nobody");
            continue;
        }
        let mut command = Command::new(&program);
        command.arg(format!("--data-dir={}", folder.join(path).display()));
        command.current_dir(&folder);
        if nobody {
            command.uid(NOBODY).gid(NOBODY);
        }
        let (said, code) = refusal(command, &folder);
        assert_eq!(code, SYSTEM, "{path}: {said}");
        for part in parts {
            assert!(
                said.contains(part),
                "{path} is refused without {part:?}:\n{said}"
            );
        }
    }
}

#[test]
fn the_data_of_etcd_stays_as_it_is() {
    if !ringd_only() {
        return;
    }
    let directory = TemporaryDirectory::new();
    let etcd = Launch::new(Kind::Etcd, directory.path()).start();
    drop(etcd);
    let data = contents(directory.path()).into_keys();
    let data = data
        .filter(|path| path.ends_with("member"))
        .find_map(|path| Some(path.parent()?.to_owned()));
    let data = data.expect("etcd's data");
    let (said, code) = refusal(
        ringd(directory.path(), &["--data-dir", &data.to_string_lossy()]),
        &data,
    );
    assert_eq!(code, DATA, "{said}");
    assert!(
        said.contains("the data of etcd") && said.contains("snapshot"),
        "{said}"
    );
}

#[test]
fn a_configuration_file_runs_a_member() {
    let directory = TemporaryDirectory::new();
    let client = free_port();
    let peer = free_port();
    let file = directory.path().join("etcd.yaml");
    let data = directory.path().join("data-of-the-file");
    let text = format!(
        "name: from-the-file\ndata-dir: {}\nlisten-client-urls: http://127.0.0.1:{client}\n\
         advertise-client-urls: http://127.0.0.1:{client}\nlisten-peer-urls: http://127.0.0.1:{peer}\n\
         max-txn-ops: 200\nwatch-progress-notify-interval: 600000000000\nlog-outputs: [stderr]\n\
         peer-transport-security:\n  auto-tls: false\nauto-compaction-retention: \"1\"\n",
        data.display()
    );
    fs::write(&file, text).unwrap();
    let mut server = Command::new(Kind::under_test().program())
        .arg("--config-file")
        .arg(&file)
        .env("ETCD_NAME", "ignored")
        .stdin(Stdio::null())
        .stderr(fs::File::create(directory.path().join("log")).unwrap())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    let address = ringbench::http2::Address::Tcp(([127, 0, 0, 1], client).into());
    while read_once(&address).is_err() && begin.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let members = Command::new(etcd_program("etcdctl"))
        .arg(format!("--endpoints=127.0.0.1:{client}"))
        .args(["member", "list"])
        .output()
        .unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    let shown = String::from_utf8_lossy(&members.stdout);
    let log = fs::read_to_string(directory.path().join("log")).unwrap();
    assert!(shown.contains("from-the-file"), "{members:?}\n{log}");
    assert!(data.is_dir());
    assert!(log.contains("loaded server configuration"), "{log}");
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn etcdctl(server: &Server, words: &[&str]) -> String {
    let output = Command::new(etcd_program("etcdctl"))
        .arg(format!("--endpoints={}", server.endpoint()))
        .args(words)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn lines(text: &str) -> Vec<Value> {
    let parsed = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")));
    parsed.collect()
}

/// Looks at the log until a line with this message is there.
fn wait_for_line(server: &Server, message: &str) -> Value {
    wait_for(server, |line| line["msg"] == message)
}

fn wait_for(server: &Server, is_it: impl Fn(&Value) -> bool) -> Value {
    let begin = Instant::now();
    loop {
        let log = server.log();
        let complete = log.rfind('\n').map_or("", |end| &log[..=end]);
        if let Some(line) = lines(complete).into_iter().find(&is_it) {
            return line;
        }
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "no such line:\n{log}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_normal_life_logs_the_lines_that_harnesses_wait_for_and_no_warning() {
    if !ringd_only() {
        return;
    }
    let directory = TemporaryDirectory::new();
    let mut server = Launch::new(Kind::Ringd, directory.path())
        // A machine under load is slow, which is not what this is about.
        .argument("--warning-apply-duration=1h")
        .argument("--warning-unary-request-duration=1h")
        .start();
    let version = wait_for_line(&server, "enabled capabilities for version");
    assert_eq!(version["cluster-version"], "3.7");
    let published = wait_for_line(&server, "published local member to cluster through raft");
    assert_eq!(published["publish-timeout"], "7s");
    let attributes = format!("{{Name:default ClientURLs:[http://{}]}}", server.endpoint());
    assert_eq!(published["local-member-attributes"], attributes);
    wait_for_line(&server, "ready to serve client requests");
    wait_for_line(
        &server,
        "serving client traffic insecurely; this is strongly discouraged!",
    );
    for words in [
        &["put", "a", "1"][..],
        &["get", "--prefix", ""],
        &["del", "a"],
        &["lease", "grant", "60"],
        &["compaction", "2"],
        &["defrag"],
        &["endpoint", "status"],
        &["endpoint", "health"],
        &["endpoint", "hashkv"],
        &["member", "list"],
        &["alarm", "list"],
    ] {
        etcdctl(&server, words);
    }
    // A request that is refused is the client's business.
    let refused = Command::new(etcd_program("etcdctl"))
        .arg(format!("--endpoints={}", server.endpoint()))
        .args(["get", "a", "--rev=1"])
        .output()
        .unwrap();
    assert!(!refused.status.success());
    server.signal(Signal::TERM);
    assert!(server.wait(Duration::from_secs(10)).unwrap().success());
    for line in lines(&server.log()) {
        let level = line["level"].as_str().unwrap();
        assert!(matches!(level, "info" | "debug"), "{line}");
        for key in ["ts", "caller", "msg"] {
            assert!(line[key].is_string(), "{key}: {line}");
        }
    }
}

#[test]
fn slow_requests_are_logged_with_their_phases() {
    if !ringd_only() {
        return;
    }
    let directory = TemporaryDirectory::new();
    let server = Launch::new(Kind::Ringd, directory.path())
        .argument("--warning-apply-duration=1ns")
        .environment("ETCD_WARNING_UNARY_REQUEST_DURATION", "1ns")
        .start();
    etcdctl(&server, &["put", "a-key", "a-secret"]);
    let entry = wait_for(&server, |line| line["phase-log"].is_string());
    assert_eq!(entry["msg"], "apply request took too long");
    assert_eq!(entry["level"], "warn");
    for key in [
        "took",
        "expected-duration",
        "phase-log",
        "phase-commit",
        "phase-apply",
    ] {
        assert!(
            entry[key].as_str().unwrap().ends_with('s'),
            "{key}: {entry}"
        );
    }
    let begin = Instant::now();
    // One line a second; the first one may be of the test's own look whether the server is there.
    while !server.log().contains("a-key") {
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "{}",
            server.log()
        );
        etcdctl(&server, &["put", "a-key", "a-secret"]);
        std::thread::sleep(Duration::from_millis(100));
    }
    wait_for_line(&server, "request stats");
    assert!(!server.log().contains("a-secret"), "values are not shown");
}

#[test]
fn several_outputs_and_the_console_format() {
    if !ringd_only() {
        return;
    }
    let directory = TemporaryDirectory::new();
    let path = directory.path().join("ringd.log");
    let mut server = Launch::new(Kind::Ringd, directory.path())
        .argument("--log-format=console")
        .argument(format!("--log-outputs=stderr,stdout,{}", path.display()))
        .argument("--enable-log-rotation")
        .start();
    server.signal(Signal::TERM);
    assert!(server.wait(Duration::from_secs(10)).unwrap().success());
    let file = fs::read_to_string(&path).unwrap();
    for line in file.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        assert!(
            fields.len() >= 4 && fields[0].ends_with('Z') && fields[1] == "info",
            "{line}"
        );
    }
    let goodbye = "the log is closed; goodbye";
    assert_eq!(file.matches(goodbye).count(), 1, "{file}");
    assert_eq!(server.log().matches(goodbye).count(), 2, "{}", server.log());
}

#[test]
fn a_pipe_that_nobody_reads_holds_nothing_up() {
    if !ringd_only() {
        return;
    }
    /// More than a pipe holds.
    const REQUESTS: usize = 600;
    let directory = TemporaryDirectory::new();
    let launch = Launch::new(Kind::Ringd, directory.path()).argument("--log-level=debug");
    let mut child = launch
        .command()
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    let address = {
        let client = launch.command();
        let url = client.get_args().find_map(|word| {
            let word = word.to_str()?;
            Some(
                word.strip_prefix("--listen-client-urls=http://")?
                    .to_owned(),
            )
        });
        ringbench::http2::Address::Tcp(url.expect("the client URL").parse().unwrap())
    };
    while read_once(&address).is_err() && begin.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let (done, answered) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for _ in 0..REQUESTS {
            read_once(&address).expect("an answer");
        }
        done.send(()).ok();
    });
    if answered.recv_timeout(Duration::from_secs(30)).is_err() {
        child.kill().unwrap();
        panic!("the member does not answer while nobody reads its log");
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
    let stopped = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(
            stopped.elapsed() < Duration::from_secs(10),
            "it waits for its log"
        );
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success(), "{status}");
    let mut log = Vec::new();
    child.stderr.take().unwrap().read_to_end(&mut log).unwrap();
    let log = String::from_utf8_lossy(&log);
    let told = log.matches("request stats").count();
    assert!(told > 0 && told < REQUESTS, "the pipe was not full: {told}");
}

#[test]
fn a_service_manager_is_told_of_the_beginning_and_the_end() {
    let directory = TemporaryDirectory::new();
    let path = directory.path().canonicalize().unwrap().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let told = || {
        let mut bytes = [0; 256];
        let length = manager.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let mut server = Launch::new(Kind::under_test(), directory.path())
        .environment("NOTIFY_SOCKET", &path.to_string_lossy())
        .start();
    let ready = told();
    assert_eq!(ready.lines().next(), Some("READY=1"));
    // etcd tells nothing of its end.
    if server.kind() == Kind::Ringd {
        server.signal(Signal::TERM);
        assert_eq!(told().lines().next(), Some("STOPPING=1"));
        assert!(server.wait(Duration::from_secs(10)).unwrap().success());
    }
}
