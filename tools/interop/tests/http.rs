//! `/version`, `/health`, `/livez` and `/readyz` of ringd beside etcd's: codes, headers, texts.

use std::time::{Duration, Instant};

use interop::programs::Kind;
use interop::server::{Launch, Server, TemporaryDirectory};
use interop::web::{WebAnswer, ask, get};
use ringbench::client::Client;
use ringbench::server::free_port;

/// A server and its listener for metrics.
struct Subject {
    server: Server,
    metrics: String,
    _directory: TemporaryDirectory,
}

impl Subject {
    fn start(kind: Kind) -> Subject {
        let directory = TemporaryDirectory::new();
        let metrics = free_port().unwrap().to_string();
        let server = Launch::new(kind, directory.path())
            .argument(format!("--listen-metrics-urls=http://{metrics}"))
            .start();
        // The cluster's version is decided a moment after the first answer.
        let begin = Instant::now();
        while get(&server.endpoint(), "/version").contains("not_decided") {
            assert!(begin.elapsed() < Duration::from_secs(10), "no version");
            std::thread::sleep(Duration::from_millis(5));
        }
        Subject {
            server,
            metrics,
            _directory: directory,
        }
    }

    /// Raises or clears an alarm of member 0: `ACTIVATE` is 1, `DEACTIVATE` 2; `NOSPACE` 1, `CORRUPT` 2.
    fn alarm(&self, action: u8, alarm: u8) {
        let mut client = Client::open(&self.server.address()).unwrap();
        let path = "/etcdserverpb.Maintenance/Alarm";
        client
            .call(path, |message| {
                message.extend([0, 0, 0, 0, 4, 8, action, 24, alarm])
            })
            .unwrap();
    }

    /// What both listeners answer.
    fn answers(&self, method: &str, target: &str) -> [WebAnswer; 2] {
        [&self.server.endpoint(), &self.metrics].map(|address| {
            let answer = ask(address, method, target);
            comparable(answer.unwrap_or_else(|error| panic!("{method} {target}: {error}")))
        })
    }
}

/// Without what differs from one answer to the next.
fn comparable(mut answer: WebAnswer) -> WebAnswer {
    answer.headers.remove("date");
    // A matter of the HTTP library.
    for name in ["connection", "transfer-encoding"] {
        answer.headers.remove(name);
    }
    // etcd shows checks in the order of a hash table.
    if answer.body.starts_with('[') {
        let mut lines: Vec<&str> = answer.body.lines().collect();
        lines.sort_unstable();
        answer.body = lines.join("\n");
    }
    answer
}

const TARGETS: &[&str] = &[
    "/version",
    "/health",
    "/health?serializable=true",
    "/health?exclude=NOSPACE",
    "/health?exclude=NOSPACE&exclude=CORRUPT",
    "/health?exclude=%4eOSPACE&serializable=true",
    "/health?exclude=CORRUPT&serializable=true",
    "/health/",
    "/livez",
    "/livez?verbose",
    "/livez?exclude=serializable_read&verbose",
    "/livez/serializable_read",
    "/livez/linearizable_read",
    "/livez/",
    "/readyz",
    "/readyz?verbose",
    "/readyz?verbose=false",
    "/readyz?verbose&exclude=data_corruption",
    "/readyz?verbose&exclude=data_corruption&exclude=non_learner",
    "/readyz?verbose&exclude=data_corruption,non_learner",
    "/readyz?verbose&exclude=nothing&exclude=",
    "/readyz?exclude=%zz&verbose",
    "/readyz?exclude=data_corruption;verbose",
    "/readyz/data_corruption",
    "/readyz/data_corruption?verbose&exclude=data_corruption",
    "/readyz/serializable_read?verbose",
    "/readyz/linearizable_read",
    "/readyz/non_learner?verbose",
    "/readyz/nothing",
    "/",
    "/nothing",
    "/metrics/",
    "/debug/pprof/",
];

#[test]
fn health_and_version_are_answered_as_by_etcd() {
    let ringd = Subject::start(Kind::under_test());
    let etcd = Subject::start(Kind::Etcd);
    let mut compared = 0;
    let mut compare = |state: &str, method: &str, target: &str| {
        let [client, metrics] = ringd.answers(method, target);
        let [etcd_client, etcd_metrics] = etcd.answers(method, target);
        assert_eq!(client, etcd_client, "{state}: {method} {target}");
        assert_eq!(
            metrics, etcd_metrics,
            "{state}: {method} {target} of metrics"
        );
        compared += 2;
    };
    for target in TARGETS {
        compare("healthy", "GET", target);
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "HEAD"] {
        for target in [
            "/version",
            "/health",
            "/livez",
            "/readyz?verbose",
            "/readyz/data_corruption",
            "/nothing",
        ] {
            compare("healthy", method, target);
        }
    }
    // One after the other: of several etcd names any.
    for (state, alarm) in [("full", 1), ("corrupt", 2)] {
        ringd.alarm(1, alarm);
        etcd.alarm(1, alarm);
        for target in TARGETS {
            compare(state, "GET", target);
        }
        ringd.alarm(2, alarm);
        etcd.alarm(2, alarm);
    }
    compare("healthy again", "GET", "/readyz?verbose");
    compare("healthy again", "GET", "/health");
    assert!(compared > 250, "{compared}");
}

#[test]
fn metrics_are_answered_whatever_the_method_as_by_etcd() {
    let ringd = Subject::start(Kind::under_test());
    for method in ["GET", "POST"] {
        for answer in ringd.answers(method, "/metrics") {
            assert_eq!(answer.code, 200);
            let kind = &answer.headers["content-type"];
            assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
            assert!(answer.body.contains("\netcd_server_has_leader 1\n"));
        }
    }
    let [head, _] = ringd.answers("HEAD", "/metrics");
    assert_eq!((head.code, head.body.as_str()), (200, ""));
}
