//! Starting, refusing to start, and stopping.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use interop::programs::{Kind, etcd_program};
use interop::server::{Launch, Server, TemporaryDirectory};
use ringbench::http2::Address;
use ringbench::server::read_once;
use rustix::process::Signal;

/// A refused start ends within this time.
const REFUSAL: Duration = Duration::from_secs(5);
/// A stop with open watches ends within this time.
const STOP: Duration = Duration::from_secs(2);

/// Runs a test against ringd alone: what it checks is not etcd's behaviour.
fn ringd_only() -> bool {
    let ringd = Kind::under_test() == Kind::Ringd;
    if !ringd {
        eprintln!("skipped: concerns ringd alone");
    }
    ringd
}

fn etcdctl(server: &Server, words: &[&str]) -> Output {
    Command::new(etcd_program("etcdctl"))
        .arg(format!("--endpoints={}", server.endpoint()))
        .args(words)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn put_and_get(server: &Server) {
    let put = etcdctl(server, &["put", "key", "value"]);
    assert!(put.status.success(), "{put:?}");
    let get = etcdctl(server, &["get", "key", "--print-value-only"]);
    assert_eq!(
        String::from_utf8_lossy(&get.stdout).trim(),
        "value",
        "{get:?}"
    );
}

/// Starts with one more flag and returns what the refusal says.
fn refusal(launch: &Launch) -> String {
    let mut server = launch.spawn();
    match server.wait(REFUSAL) {
        Ok(status) => {
            assert!(!status.success(), "accepted: {}", server.log());
            server.log()
        }
        Err(_) => panic!("still running after {REFUSAL:?}: {}", server.log()),
    }
}

#[test]
fn what_is_not_there_yet_is_refused_by_name() {
    if !ringd_only() {
        return;
    }
    let directory = TemporaryDirectory::new();
    for flag in [
        "--cert-file=/tmp/cert.pem",
        "--key-file=/tmp/key.pem",
        "--trusted-ca-file=/tmp/ca.pem",
        "--client-cert-auth",
        "--auto-tls",
        "--peer-auto-tls",
        "--peer-cert-file=/tmp/cert.pem",
        "--peer-client-cert-auth=true",
        "--listen-client-urls=https://127.0.0.1:0",
        "--listen-peer-urls=https://127.0.0.1:0",
        "--initial-cluster=default=http://127.0.0.1:1,other=http://127.0.0.1:2",
        "--initial-cluster-state=existing",
        "--discovery-srv=example.com",
        "--force-new-cluster",
        "--unsafe-no-fsync",
        "--auth-token=jwt,pub-key=/tmp/a,sign-method=RS256",
    ] {
        let launch = Launch::new(Kind::Ringd, directory.path()).argument(flag);
        let said = refusal(&launch);
        let name = flag.trim_start_matches('-').split('=').next().unwrap();
        assert!(
            said.contains(name),
            "{flag} was refused without its name:\n{said}"
        );
    }
}

#[test]
fn an_unknown_flag_is_refused_with_the_nearest_name() {
    if !ringd_only() {
        return;
    }
    let directory = TemporaryDirectory::new();
    for (flag, nearest) in [
        ("--data-dri=x", "data-dir"),
        (
            "-listen-client-url=http://127.0.0.1:1",
            "listen-client-urls",
        ),
        ("--heartbeat-intervall=100", "heartbeat-interval"),
    ] {
        let said = refusal(&Launch::new(Kind::Ringd, directory.path()).argument(flag));
        assert!(
            said.contains(nearest),
            "{flag} does not suggest {nearest}:\n{said}"
        );
    }
}

#[test]
fn default_values_pass_in_every_form() {
    let directory = TemporaryDirectory::new();
    let server = Launch::new(Kind::under_test(), directory.path())
        .argument("-log-level")
        .argument("warn")
        .argument("--heartbeat-interval=100")
        .argument("-election-timeout=1000")
        .argument("--quota-backend-bytes")
        .argument("8589934592")
        .argument("--max-request-bytes=1572864")
        .argument("--snapshot-count=10000")
        .argument("--initial-cluster-token=etcd-cluster")
        .argument("--auto-compaction-retention=0")
        .argument("--pre-vote=true")
        .argument("--client-cert-auth=false")
        .argument("--logger=zap")
        .environment("ETCD_MAX_TXN_OPS", "128")
        .environment("ETCD_INITIAL_CLUSTER_STATE", "new")
        .start();
    put_and_get(&server);
}

#[test]
fn the_environment_sets_flags_and_conflicts_are_refused() {
    let directory = TemporaryDirectory::new();
    let launch = Launch::new(Kind::under_test(), directory.path());
    let server = launch.clone().environment("ETCD_MAX_TXN_OPS", "1").start();
    let operations = "\nput a 1\nput b 2\n\n\n";
    let mut txn = Command::new(etcd_program("etcdctl"))
        .arg(format!("--endpoints={}", server.endpoint()))
        .arg("txn")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    txn.stdin
        .take()
        .unwrap()
        .write_all(operations.as_bytes())
        .unwrap();
    let output = txn.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("too many operations in txn request"),
        "{said}"
    );
    drop(server);
    let both = launch
        .environment("ETCD_HEARTBEAT_INTERVAL", "100")
        .argument("--heartbeat-interval=100");
    let said = refusal(&both);
    assert!(said.contains("ETCD_HEARTBEAT_INTERVAL"), "{said}");
}

#[test]
fn no_flags_at_all_is_a_working_node() {
    let directory = TemporaryDirectory::new();
    let program = Kind::under_test().program();
    // A network of its own, because the default ports may be taken in this one.
    let script = format!(
        "ip link set lo up; cd '{}'; '{}' >log 2>&1 & server=$!; \
         for attempt in $(seq 200); do '{ctl}' put key value >/dev/null 2>&1 && break; sleep 0.05; done; \
         '{ctl}' --endpoints=http://localhost:2379 get key --print-value-only; '{ctl}' member list; \
         kill $server; wait $server",
        directory.path().display(),
        program.canonicalize().unwrap().display(),
        ctl = etcd_program("etcdctl").canonicalize().unwrap().display(),
    );
    let output = Command::new("unshare")
        .args(["--net", "--map-root-user", "sh", "-c", &script])
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    let log = fs::read_to_string(directory.path().join("log")).unwrap_or_default();
    assert!(shown.starts_with("value\n"), "{output:?}\n{log}");
    assert!(
        shown.contains(", default, http://localhost:2380, http://localhost:2379"),
        "{shown}"
    );
}

#[test]
fn kubernetes_integration_flags_and_a_unix_socket() {
    let directory = TemporaryDirectory::new();
    let path = directory.path().canonicalize().unwrap().join("etcd.sock");
    let program = Kind::under_test().program();
    let mut child = Command::new(program)
        .arg("--data-dir")
        .arg(directory.path())
        .arg("--listen-client-urls")
        .arg(format!("unix://{}", path.display()))
        .args(["--advertise-client-urls", "http://127.0.0.111:0"])
        .args(["--listen-peer-urls", "http://127.0.0.1:0"])
        .args(["-log-level", "warn", "--quota-backend-bytes", "8589934592"])
        .args(["--watch-progress-notify-interval", "1s"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    let address = Address::Unix(path);
    let ready = loop {
        if read_once(&address).is_ok() {
            break true;
        }
        if begin.elapsed() > Duration::from_secs(20) || child.try_wait().unwrap().is_some() {
            break false;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(ready, "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn port_0_listens_somewhere() {
    let directory = TemporaryDirectory::new();
    let mut child = Command::new(Kind::under_test().program())
        .arg(format!(
            "--data-dir={}",
            directory.path().join("data").display()
        ))
        .arg("--listen-client-urls=http://127.0.0.1:0")
        .arg("--advertise-client-urls=http://127.0.0.1:0")
        .arg("--listen-peer-urls=http://127.0.0.1:0")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    let mut answered = false;
    while !answered && begin.elapsed() < Duration::from_secs(20) {
        answered = listening_ports(child.id())
            .into_iter()
            .any(|port| read_once(&Address::Tcp(SocketAddr::from(([127, 0, 0, 1], port)))).is_ok());
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(answered, "no port of the process answers");
}

/// Ports on which a process listens, from `/proc`.
fn listening_ports(pid: u32) -> Vec<u16> {
    const LISTENING: &str = "0A";
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    let sockets: Vec<String> = descriptors
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter_map(|target| {
            let target = target.to_string_lossy().into_owned();
            Some(
                target
                    .strip_prefix("socket:[")?
                    .strip_suffix(']')?
                    .to_owned(),
            )
        })
        .collect();
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<&str>>())
        .filter(|fields| fields.len() > 9 && fields[3] == LISTENING)
        .filter(|fields| sockets.iter().any(|socket| socket == fields[9]))
        .filter_map(|fields| u16::from_str_radix(fields[1].rsplit(':').next()?, 16).ok())
        .collect()
}

/// A watch of everything by etcdctl, ended with the value.
struct Watch(Child);

impl Watch {
    fn start(server: &Server, output: &Path) -> Self {
        let child = Command::new(etcd_program("etcdctl"))
            .arg(format!("--endpoints={}", server.endpoint()))
            .args(["watch", "--prefix", "", "--rev=1"])
            .stdin(Stdio::null())
            .stdout(fs::File::create(output).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Both fail only when the process has ended already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_stop_with_open_watches_is_clean_and_quick() {
    for signal in [Signal::TERM, Signal::INT] {
        let directory = TemporaryDirectory::new();
        let mut server = Launch::new(Kind::under_test(), directory.path()).start();
        put_and_get(&server);
        let watches: Vec<Watch> = (0..3)
            .map(|number| {
                let output = directory.path().join(format!("watch-{number}"));
                Watch::start(&server, &output)
            })
            .collect();
        // etcd waits for ever for a connection that has not said a byte.
        let ringd = server.kind() == Kind::Ringd;
        let idle = ringd.then(|| TcpStream::connect(server.endpoint()).unwrap());
        wait_for_lines(&directory, 3);
        let asked = Instant::now();
        server.signal(signal);
        let status = server.wait(Duration::from_secs(20)).unwrap();
        let took = asked.elapsed();
        drop(watches);
        drop(idle);
        if ringd {
            assert!(status.success(), "{signal:?}: {status}\n{}", server.log());
            assert!(took <= STOP, "{signal:?}: stopped after {took:?}");
        }
        // A clean stop keeps everything.
        let server = server.kill().start();
        let get = etcdctl(&server, &["get", "key", "--print-value-only"]);
        assert_eq!(String::from_utf8_lossy(&get.stdout).trim(), "value");
    }
}

/// Waits until each of `count` watches has shown the one event.
fn wait_for_lines(directory: &TemporaryDirectory, count: usize) {
    let begin = Instant::now();
    let shown = |number: usize| {
        let path = directory.path().join(format!("watch-{number}"));
        fs::read_to_string(path).unwrap().contains("key\nvalue\n")
    };
    while !(0..count).all(shown) {
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "a watch shows nothing"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn ids_survive_a_restart() {
    let directory = TemporaryDirectory::new();
    let server = Launch::new(Kind::under_test(), directory.path()).start();
    let before = etcdctl(&server, &["member", "list"]);
    let server = server.kill().start();
    let after = etcdctl(&server, &["member", "list"]);
    assert_eq!(before.stdout, after.stdout);
    assert!(!after.stdout.is_empty());
}

#[test]
fn io_uring_refused_is_said_and_survived() {
    let directory = TemporaryDirectory::new();
    let server = Launch::new(Kind::under_test(), directory.path())
        .without_io_uring()
        .start();
    put_and_get(&server);
    if server.kind() == Kind::Ringd {
        let log = server.log();
        assert!(
            log.contains("io_uring"),
            "the log does not say what is missing:\n{log}"
        );
    }
}

#[test]
fn a_directory_in_use_is_refused() {
    if !ringd_only() {
        return;
    }
    let directory = TemporaryDirectory::new();
    let first = Launch::new(Kind::Ringd, directory.path()).start();
    let said = refusal(&first.launch().clone().other_ports());
    let names_it =
        said.contains("another process") || said.contains("in use") || said.contains("locked");
    assert!(names_it, "the refusal does not say why:\n{said}");
    put_and_get(&first);
}

#[test]
fn a_port_in_use_is_refused() {
    let directory = TemporaryDirectory::new();
    let first = Launch::new(Kind::under_test(), directory.path()).start();
    let other = TemporaryDirectory::new();
    let second = Launch::new(Kind::under_test(), other.path())
        .argument(format!("--listen-client-urls=http://{}", first.endpoint()));
    let said = refusal(&second);
    assert!(
        said.contains("address already in use") || said.contains("Address already in use"),
        "{said}"
    );
}

#[test]
fn version_and_health_by_http() {
    let answers = |kind: Kind| {
        let directory = TemporaryDirectory::new();
        let server = Launch::new(kind, directory.path()).start();
        // The cluster's version is decided a moment after the first answer.
        let begin = Instant::now();
        while http_get(&server, "/version").1.contains("not_decided") {
            assert!(
                begin.elapsed() < Duration::from_secs(10),
                "no cluster version"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        ["/version", "/health", "/nothing"].map(|path| http_get(&server, path))
    };
    let json = |(code, body): &(u16, String)| {
        assert_eq!(*code, 200, "{body}");
        serde_json::from_str::<serde_json::Value>(body).unwrap()
    };
    let [version, health, missing] = answers(Kind::under_test());
    let [etcd_version, etcd_health, _] = answers(Kind::Etcd);
    assert_eq!(json(&version), json(&etcd_version));
    assert_eq!(json(&health), json(&etcd_health));
    assert_eq!(missing.0, 404);
}

/// Status code and body of one HTTP/1.1 request.
fn http_get(server: &Server, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(server.endpoint()).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let code = answer.split_whitespace().nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (code, body.to_owned())
}

#[test]
fn a_log_line_says_ready() {
    let directory = TemporaryDirectory::new();
    let server = Launch::new(Kind::under_test(), directory.path()).start();
    let is_it = |line: &&str| line.contains("ready to serve client requests");
    let begin = Instant::now();
    // Lines are written beside the answers.
    while !server.log().lines().any(|line| is_it(&line)) {
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "{}",
            server.log()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    let log = server.log();
    let line = log.lines().find(is_it).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["msg"], "ready to serve client requests");
    assert_eq!(line["level"], "info");
}

#[test]
fn a_directory_in_memory_is_served_with_a_warning() {
    let memory = Path::new("/dev/shm").join(format!("interop-{}", std::process::id()));
    fs::create_dir_all(&memory).unwrap();
    let server = Launch::new(Kind::under_test(), &memory).start();
    put_and_get(&server);
    let log = server.log();
    let ringd = server.kind() == Kind::Ringd;
    drop(server);
    fs::remove_dir_all(&memory).unwrap();
    if ringd {
        assert!(log.contains("\"level\":\"warn\""), "no warning:\n{log}");
    }
}
