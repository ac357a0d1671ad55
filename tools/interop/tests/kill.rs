//! kill -9 under load, again and again: nothing acknowledged and nothing that a watcher has seen may
//! be lost, and revisions never go back.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use interop::programs::{Kind, etcd_program};
use interop::rounds;
use interop::server::{Launch, Server, TemporaryDirectory};
use ringbench::http2::{Completion, Connection, RequestHead};
use ringbench::message;
use ringbench::random::Random;

const CYCLES: u32 = 50;
const CONNECTIONS: usize = 4;
const STREAMS: usize = 16;
/// The kill comes at a random time after the first acknowledgement.
const LOAD_MILLIS_MAX: u64 = 200;
/// A restart may take this long, and one second more for so many logged requests.
const RESTART: Duration = Duration::from_secs(1);
const REQUESTS_PER_SECOND_OF_RESTART: u64 = 250_000;

/// A key that was put once, with what is known of it.
type Known = BTreeMap<String, i64>;

#[test]
fn acknowledged_and_watched_puts_survive_kills() {
    let directory = TemporaryDirectory::new();
    let mut server = Launch::new(Kind::under_test(), directory.path()).start();
    let mut random = Random::new(0x6b11);
    let mut acknowledged = Known::new();
    let mut revision = revision(&server);
    let mut slowest = Duration::ZERO;
    let mut watched = 0;
    let cycles = rounds(CYCLES);
    for cycle in 0..cycles {
        let prefix = format!("kill/{cycle:05}/");
        let watch = Watch::start(&server, directory.path(), &prefix, revision + 1);
        let load = Load::new(&server, &prefix);
        let (acked, launch) = load.until_killed(server, &mut random);
        let seen = watch.end();

        server = launch.start();
        if server.age() > 5 * RESTART {
            println!(
                "cycle {cycle}: restarted in {:?}:\n{}",
                server.age(),
                server.log()
            );
        }
        slowest = slowest.max(server.age());
        check_restart(&server, acknowledged.len() + acked.len());
        let stored = stored(&server, &prefix);
        check_stored(&acked, &stored.keys, cycle);
        watched += seen.len();
        for key in &seen {
            assert!(
                stored.keys.contains_key(key),
                "cycle {cycle}: {key} was watched and is lost"
            );
        }
        let newest = acked.values().copied().max().unwrap_or_default();
        assert!(
            stored.revision >= newest.max(revision),
            "cycle {cycle}: revision {} after {newest} was acknowledged and {revision} was seen",
            stored.revision
        );
        revision = stored.revision;
        acknowledged.extend(acked);
    }
    let stored = stored(&server, "kill/");
    check_stored(&acknowledged, &stored.keys, cycles);
    println!(
        "{cycles} kills, {} acknowledged and {watched} watched puts, all there; slowest restart {slowest:?}",
        acknowledged.len()
    );
    assert!(watched > 0, "no watch has seen anything");
    assert!(
        acknowledged.len() > 10 * cycles as usize,
        "too little load to mean anything"
    );
}

fn check_restart(server: &Server, requests: usize) {
    let logged = Duration::from_secs_f64(requests as f64 / REQUESTS_PER_SECOND_OF_RESTART as f64);
    if server.kind() == Kind::Ringd {
        let limit = RESTART + logged;
        assert!(
            server.age() <= limit,
            "restarted in {:?}, limit {limit:?}",
            server.age()
        );
    }
}

fn check_stored(acknowledged: &Known, stored: &Known, cycle: u32) {
    for (key, revision) in acknowledged {
        assert_eq!(
            stored.get(key),
            Some(revision),
            "cycle {cycle}: {key} was acknowledged at revision {revision}"
        );
    }
}

/// 64 puts in flight, each of a key of its own.
struct Load {
    connections: Vec<Connection>,
    head: RequestHead,
    prefix: String,
    sent: Vec<String>,
}

impl Load {
    fn new(server: &Server, prefix: &str) -> Self {
        let connections = (0..CONNECTIONS)
            .map(|_| Connection::open(&server.address()).unwrap())
            .collect();
        Self {
            connections,
            head: RequestHead::new(message::PUT),
            prefix: prefix.to_owned(),
            sent: Vec::new(),
        }
    }

    fn until_killed(mut self, server: Server, random: &mut Random) -> (Known, Launch) {
        let mut acknowledged = Known::new();
        for index in 0..CONNECTIONS * STREAMS {
            self.send(index % CONNECTIONS);
        }
        let first = Instant::now();
        while acknowledged.is_empty() {
            assert!(
                first.elapsed() < Duration::from_secs(10),
                "no put is acknowledged"
            );
            self.turn(&mut acknowledged);
        }
        let kill_after = Duration::from_micros(random.below(LOAD_MILLIS_MAX * 1000));
        let begin = Instant::now();
        while begin.elapsed() < kill_after {
            self.turn(&mut acknowledged);
        }
        let launch = server.kill();
        // What left the server before its end counts as acknowledged.
        for index in 0..CONNECTIONS {
            while self.receive(index, &mut acknowledged).is_ok() {}
        }
        (acknowledged, launch)
    }

    fn send(&mut self, index: usize) {
        let key = format!("{}{:06}", self.prefix, self.sent.len());
        let mut request = Vec::new();
        message::put(key.as_bytes(), key.as_bytes(), &mut request);
        self.connections[index].send(&self.head, &request, self.sent.len() as u32);
        self.sent.push(key);
    }

    fn turn(&mut self, acknowledged: &mut Known) {
        for index in 0..CONNECTIONS {
            let completed = self.receive(index, acknowledged).unwrap();
            for _ in 0..completed {
                self.send(index);
            }
            self.connections[index].flush().unwrap();
        }
    }

    fn receive(&mut self, index: usize, acknowledged: &mut Known) -> std::io::Result<usize> {
        let mut completions: Vec<Completion> = Vec::new();
        let outcome = self.connections[index].receive(&mut completions);
        for completion in &completions {
            assert_eq!(completion.code, 0, "a put failed: {}", completion.message);
            let answer = message::read_put(&completion.body).unwrap();
            let key = self.sent[completion.token as usize].clone();
            assert!(acknowledged.insert(key, answer.revision).is_none());
        }
        outcome.map(|()| completions.len())
    }
}

/// A watch by etcdctl: what it prints, a client has seen.
struct Watch {
    child: Child,
    output: std::path::PathBuf,
}

impl Watch {
    fn start(server: &Server, directory: &Path, prefix: &str, revision: i64) -> Self {
        let output = directory.join("watch");
        let file = File::create(&output).unwrap();
        let child = Command::new(etcd_program("etcdctl"))
            .arg(format!("--endpoints={}", server.endpoint()))
            .args(["watch", "--prefix", prefix])
            .arg(format!("--rev={revision}"))
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, output }
    }

    /// Ends the watch and returns the keys it has printed.
    fn end(mut self) -> Vec<String> {
        self.stop();
        let printed = fs::read_to_string(&self.output).unwrap();
        let lines: Vec<&str> = printed.lines().collect();
        lines
            .chunks_exact(3)
            .filter(|event| event[0] == "PUT" && event[1] == event[2])
            .map(|event| event[1].to_owned())
            .collect()
    }
}

impl Watch {
    fn stop(&mut self) {
        // Both fail only when the process has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Stored {
    revision: i64,
    keys: Known,
}

fn stored(server: &Server, prefix: &str) -> Stored {
    let output = Command::new(etcd_program("etcdctl"))
        .arg(format!("--endpoints={}", server.endpoint()))
        .args([
            "get",
            "--prefix",
            prefix,
            "-w",
            "fields",
            "--command-timeout=60s",
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut stored = Stored {
        revision: 0,
        keys: Known::new(),
    };
    let mut key = String::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let Some((name, value)) = line.split_once(" : ") else {
            continue;
        };
        let number = || value.parse::<i64>().unwrap();
        match name {
            "\"Revision\"" => stored.revision = number(),
            "\"Key\"" => key = value.trim_matches('"').to_owned(),
            "\"ModRevision\"" => assert!(stored.keys.insert(key.clone(), number()).is_none()),
            "\"Version\"" => assert_eq!(number(), 1, "{key} was put once"),
            "\"Value\"" => assert_eq!(value.trim_matches('"'), key, "the value of {key}"),
            _ => {}
        }
    }
    stored
}

fn revision(server: &Server) -> i64 {
    stored(server, "nothing").revision
}
