//! Puts from many connections at once, at a rate or as fast as they are answered.

use std::cell::RefCell;
use std::io::{self, IsTerminal, Write};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use grpc::Method;
use grpc::proto::etcdserverpb::{PutRequest, PutResponse};
use tokio::sync::{Mutex, mpsc};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep_until};

use crate::client::{Client, Repeat};

use super::statistics::Statistics;

/// How far a sender that was late may catch up.
const CATCH_UP: Duration = Duration::from_millis(10);
/// How often progress is shown.
const REFRESH: Duration = Duration::from_millis(500);

/// What to send.
#[derive(Debug)]
pub(super) struct Load {
    /// Puts altogether, if they end by number.
    pub(super) count: Option<u64>,
    /// Puts in a second, if they are held back.
    pub(super) rate: Option<u64>,
    /// When to stop, if they end by time.
    pub(super) length: Option<Duration>,
    /// What every key begins with.
    pub(super) prefix: String,
    /// Length of a key behind the prefix, and of a value.
    pub(super) bytes: (usize, usize),
}

/// Random numbers that need not be secret.
struct Random(u64);

impl Random {
    fn new() -> Self {
        let time = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Self(time.as_nanos() as u64 ^ u64::from(std::process::id()).rotate_left(32) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Sends the load over all clients and waits for the last answer. An interrupt ends it early.
pub(super) async fn run(load: &Load, clients: &[Rc<Client>]) -> (Statistics, Duration) {
    let statistics = Rc::new(RefCell::new(Statistics::default()));
    let (sender, receiver) = mpsc::channel::<PutRequest>(clients.len());
    let receiver = Rc::new(Mutex::new(receiver));
    let begun = Instant::now();
    let tasks = LocalSet::new();
    for client in clients {
        tasks.spawn_local(work(client.clone(), receiver.clone(), statistics.clone()));
    }
    tasks
        .run_until(async {
            tokio::select! {
                () = send(load, sender, begun) => {}
                _ = tokio::signal::ctrl_c() => {}
                () = show(load, &statistics, begun) => {}
            }
        })
        .await;
    tasks.await;
    let took = begun.elapsed();
    (statistics.take(), took)
}

async fn work(
    client: Rc<Client>,
    requests: Rc<Mutex<mpsc::Receiver<PutRequest>>>,
    statistics: Rc<RefCell<Statistics>>,
) {
    loop {
        let Some(request) = requests.lock().await.recv().await else {
            return;
        };
        let begun = Instant::now();
        let answer = client
            .unary::<_, PutResponse>(Method::Put, &request, Repeat::Never, None)
            .await;
        let mut statistics = statistics.borrow_mut();
        match answer {
            Ok(_) => statistics.succeeded(begun.elapsed()),
            Err(failure) => statistics.failed(failure.to_string()),
        }
    }
}

async fn send(load: &Load, sender: mpsc::Sender<PutRequest>, begun: Instant) {
    let mut random = Random::new();
    let value = Bytes::from(vec![0; load.bytes.1]);
    let pause = load
        .rate
        .map(|rate| Duration::from_secs(1) / u32::try_from(rate).unwrap_or(u32::MAX));
    let mut next = begun;
    let mut sent = 0;
    while load.count.is_none_or(|count| sent < count)
        && load.length.is_none_or(|length| begun.elapsed() < length)
    {
        if let Some(pause) = pause {
            sleep_until(next).await;
            let late = Instant::now().checked_sub(CATCH_UP).unwrap_or(begun);
            next = (next + pause).max(late);
        }
        let mut key = load.prefix.clone().into_bytes();
        let end = key.len() + load.bytes.0;
        key.extend_from_slice(&random.next().to_le_bytes());
        key.resize(end, 0);
        let request = PutRequest {
            key: key.into(),
            value: value.clone(),
            ..PutRequest::default()
        };
        if sender.send(request).await.is_err() {
            return;
        }
        sent += 1;
    }
}

/// Shows progress on a terminal, never in a file.
async fn show(load: &Load, statistics: &RefCell<Statistics>, begun: Instant) {
    let mut output = io::stderr();
    if !output.is_terminal() {
        return std::future::pending().await;
    }
    let mut next = begun;
    loop {
        next += REFRESH;
        sleep_until(next).await;
        let done = match (load.count, load.length) {
            (Some(count), _) => format!("{} of {count} puts", statistics.borrow().count()),
            (None, Some(length)) => {
                format!("{} of {} s", begun.elapsed().as_secs(), length.as_secs())
            }
            (None, None) => String::new(),
        };
        // A terminal that is gone ends the program elsewhere.
        write!(output, "\r{done} \r").ok();
    }
}
