//! A real API server of Kubernetes on the server under test.
//!
//! Its build takes minutes, so the test runs once `tools/interop/kubernetes/build` has been run; the
//! scripted replay of its calls in `foreign_clients` needs no such build.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use interop::programs::{Kind, etcd_program, kube_apiserver};
use interop::rounds;
use interop::server::{Launch, Server, TemporaryDirectory};
use serde_json::{Value, json};

const READY: Duration = Duration::from_secs(90);
const WAIT: Duration = Duration::from_secs(30);
/// Crashes of the store below the running API server.
const CRASHES: u32 = 5;
const TOKEN: &str = "interop";
/// `--event-ttl`; the API server asks the store for a little more.
const EVENT_TTL: Duration = Duration::from_secs(5);

struct ApiServer {
    child: Child,
    url: String,
    log: PathBuf,
}

impl ApiServer {
    fn start(program: &Path, store: &Server, directory: &Path) -> Self {
        let key = directory.join("service-account.key");
        let made = Command::new("openssl")
            .args(["genrsa", "-out"])
            .arg(&key)
            .arg("2048")
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(made.success());
        let tokens = directory.join("tokens");
        fs::write(&tokens, format!("{TOKEN},interop,interop,system:masters\n")).unwrap();
        let port = ringbench::server::free_port().unwrap().port();
        let log = directory.join("kube-apiserver.log");
        let file = File::create(&log).unwrap();
        let child = Command::new(program)
            .arg(format!("--etcd-servers=http://{}", store.endpoint()))
            .arg(format!("--secure-port={port}"))
            .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
            .arg(format!(
                "--cert-dir={}",
                directory.join("certificates").display()
            ))
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(format!("--service-account-key-file={}", key.display()))
            .arg(format!(
                "--service-account-signing-key-file={}",
                key.display()
            ))
            .arg(format!("--token-auth-file={}", tokens.display()))
            .args([
                "--authorization-mode=AlwaysAllow",
                "--service-cluster-ip-range=10.0.0.0/24",
            ])
            .arg(format!("--event-ttl={}s", EVENT_TTL.as_secs()))
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        let server = Self {
            child,
            url: format!("https://127.0.0.1:{port}"),
            log,
        };
        server.wait("/readyz", READY, |status, _| status == 200);
        server
    }

    fn request(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--insecure",
            "--max-time",
            "20",
            "--request",
            method,
        ])
        .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
        .args(["--header", "Content-Type: application/json"])
        .args(["--write-out", "\n%{http_code}"])
        .arg(format!("{}{path}", self.url));
        if let Some(body) = body {
            curl.arg("--data-binary").arg(body.to_string());
        }
        let output = curl.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, code) = text.rsplit_once('\n').unwrap_or_default();
        let body = serde_json::from_str(body).unwrap_or_else(|_| Value::from(body));
        (code.parse().unwrap_or_default(), body)
    }

    fn expect(&self, code: u16, method: &str, path: &str, body: Option<&Value>) -> Value {
        let (status, answer) = self.request(method, path, body);
        assert_eq!(status, code, "{method} {path}: {answer}");
        answer
    }

    /// Asks again until `enough`.
    fn wait(&self, path: &str, limit: Duration, enough: impl Fn(u16, &Value) -> bool) -> Value {
        let begin = Instant::now();
        loop {
            let (status, answer) = self.request("GET", path, None);
            if enough(status, &answer) {
                return answer;
            }
            if begin.elapsed() > limit {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(15).collect();
                panic!(
                    "{path} after {limit:?}: {status} {answer}\n{}",
                    tail.join("\n")
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Everything a watch prints in `seconds`.
    fn watch(&self, path: &str, seconds: u32, during: impl FnOnce()) -> Vec<Value> {
        let url = format!("{}{path}&watch=1&timeoutSeconds={seconds}", self.url);
        let child = Command::new("curl")
            .args(["--silent", "--insecure", "--no-buffer"])
            .args(["--header", &format!("Authorization: Bearer {TOKEN}"), &url])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        during();
        let output = child.wait_with_output().unwrap();
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))
            })
            .collect()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        // Both fail only when the process has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const EVENTS: &str = "/api/v1/namespaces/default/events";

fn map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"value": value}})
}

fn types(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .filter_map(|event| event["type"].as_str())
        .collect()
}

#[test]
fn an_api_server_boots_lists_watches_and_expires_events() {
    let built = interop::programs::directory().join("kube-apiserver");
    if !built.exists() {
        eprintln!("skipped: run tools/interop/kubernetes/build first");
        return;
    }
    let directory = TemporaryDirectory::new();
    let mut store = Launch::new(Kind::under_test(), directory.path()).start();
    let api = ApiServer::start(&kube_apiserver(), &store, directory.path());
    api.wait("/api/v1/namespaces/default", WAIT, |status, _| {
        status == 200
    });

    objects(&api);
    pages(&api);
    watches(&api);
    events_expire(&api);

    for crash in 0..rounds(CRASHES) {
        store = store.kill().start();
        check_after_crash(&api, &store, crash);
    }
    drop(store);
}

/// The store crashed below a running API server: what was acknowledged is there, and writes go on.
fn check_after_crash(api: &ApiServer, store: &Server, crash: u32) {
    let answer = api.wait(&format!("{MAPS}/kept"), WAIT, |status, _| status == 200);
    assert_eq!(answer["data"]["value"], "updated");
    let begin = Instant::now();
    let name = map(&format!("after-crash-{crash}"), "x");
    loop {
        let (status, answer) = api.request("POST", MAPS, Some(&name));
        // A write cut off by the crash of its connection may have been done.
        if matches!(status, 201 | 409) {
            break;
        }
        assert!(
            begin.elapsed() < WAIT,
            "crash {crash}: no write: {status} {answer}; a put by etcdctl gives {:?}",
            direct_put(store),
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    api.wait("/readyz", WAIT, |status, _| status == 200);
}

/// Whether the store itself takes a write.
fn direct_put(store: &Server) -> Output {
    Command::new(etcd_program("etcdctl"))
        .arg(format!("--endpoints={}", store.endpoint()))
        .args(["put", "direct", "x"])
        .output()
        .unwrap()
}

fn objects(api: &ApiServer) {
    let created = api.expect(201, "POST", MAPS, Some(&map("kept", "first")));
    api.expect(409, "POST", MAPS, Some(&map("kept", "again")));
    let mut update = map("kept", "updated");
    update["metadata"]["resourceVersion"] = created["metadata"]["resourceVersion"].clone();
    let path = format!("{MAPS}/kept");
    let updated = api.expect(200, "PUT", &path, Some(&update));
    assert_ne!(
        updated["metadata"]["resourceVersion"],
        created["metadata"]["resourceVersion"]
    );
    api.expect(409, "PUT", &path, Some(&update));
    api.expect(404, "GET", &format!("{MAPS}/missing"), None);
    api.expect(201, "POST", MAPS, Some(&map("gone", "x")));
    api.expect(200, "DELETE", &format!("{MAPS}/gone"), None);
    api.expect(404, "GET", &format!("{MAPS}/gone"), None);
}

fn pages(api: &ApiServer) {
    for index in 0..25 {
        api.expect(
            201,
            "POST",
            MAPS,
            Some(&map(&format!("page-{index:02}"), "x")),
        );
    }
    let first = api.expect(200, "GET", &format!("{MAPS}?limit=10"), None);
    let revision = first["metadata"]["resourceVersion"].clone();
    let mut names: Vec<Value> = Vec::new();
    let mut page = first;
    loop {
        let items = page["items"].as_array().unwrap();
        names.extend(items.iter().map(|item| item["metadata"]["name"].clone()));
        assert_eq!(page["metadata"]["resourceVersion"], revision);
        let Some(token) = page["metadata"]["continue"]
            .as_str()
            .filter(|token| !token.is_empty())
        else {
            break;
        };
        page = api.expect(
            200,
            "GET",
            &format!("{MAPS}?limit=10&continue={token}"),
            None,
        );
    }
    let whole = api.expect(200, "GET", MAPS, None);
    let listed: Vec<Value> = whole["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["metadata"]["name"].clone())
        .collect();
    assert!(
        names.len() > 25 && names == listed,
        "{names:?} and {listed:?}"
    );
}

fn watches(api: &ApiServer) {
    let list = api.expect(200, "GET", MAPS, None);
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{MAPS}?resourceVersion={revision}&allowWatchBookmarks=true");
    let events = api.watch(&path, 4, || {
        api.expect(201, "POST", MAPS, Some(&map("watched", "1")));
        api.expect(
            200,
            "PUT",
            &format!("{MAPS}/watched"),
            Some(&map("watched", "2")),
        );
        api.expect(200, "DELETE", &format!("{MAPS}/watched"), None);
    });
    let changes: Vec<&str> = types(&events)
        .into_iter()
        .filter(|kind| *kind != "BOOKMARK")
        .collect();
    assert_eq!(changes, ["ADDED", "MODIFIED", "DELETED"], "{events:?}");

    // A list by a watch: everything that is there, then the bookmark that ends it.
    let path = format!(
        "{MAPS}?sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let events = api.watch(&path, 3, || {});
    let count = list["items"].as_array().unwrap().len();
    let kinds = types(&events);
    assert_eq!(
        kinds.iter().filter(|kind| **kind == "ADDED").count(),
        count,
        "{kinds:?}"
    );
    assert_eq!(kinds.get(count), Some(&"BOOKMARK"), "{kinds:?}");
}

fn events_expire(api: &ApiServer) {
    let event = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": {"name": "short"},
        "involvedObject": {"namespace": "default"}, "reason": "Interop", "message": "expires",
    });
    let seconds = EVENT_TTL.as_secs() as u32 + 5;
    let seen = api.watch(
        &format!("{EVENTS}?fieldSelector=metadata.name=short"),
        seconds,
        || {
            api.expect(201, "POST", EVENTS, Some(&event));
            let created = Instant::now();
            let path = format!("{EVENTS}/short");
            api.wait(&path, EVENT_TTL + Duration::from_secs(5), |status, _| {
                status == 404
            });
            assert!(
                created.elapsed() > EVENT_TTL - Duration::from_secs(1),
                "expired early"
            );
        },
    );
    assert_eq!(types(&seen), ["ADDED", "DELETED"], "{seen:?}");
}
