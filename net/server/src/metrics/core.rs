//! What each core counts: calls, reads, watches, its disk and its calls to other cores.

use grpc::{CallEvent, Code, Method};

use super::instrument::{Bounds, Counter, Gauge, Histogram, doubling};

/// How long calls take: the bounds of gRPC's own libraries.
pub static HANDLING: Bounds = Bounds {
    upper: &[
        5_000_000,
        10_000_000,
        25_000_000,
        50_000_000,
        100_000_000,
        250_000_000,
        500_000_000,
        1_000_000_000,
        2_500_000_000,
        5_000_000_000,
        10_000_000_000,
    ],
    per_unit: 1_000_000_000,
};
/// How long requests take: etcd's bounds, from a millisecond on.
pub static REQUESTS: Bounds = Bounds {
    upper: &doubling::<14>(1_000_000),
    per_unit: 1_000_000_000,
};
/// How long ranges and applies take: etcd's bounds, from a tenth of a millisecond on.
pub static RANGES: Bounds = Bounds {
    upper: &doubling::<20>(100_000),
    per_unit: 1_000_000_000,
};
/// How long flushes take. Etcd's bounds begin at a millisecond, which a good disk never needs: these begin four
/// doublings below and end at the same.
pub static FLUSHES: Bounds = Bounds {
    upper: &doubling::<18>(62_500),
    per_unit: 1_000_000_000,
};
/// How many of them are below etcd's.
pub const FLUSHES_BELOW_ETCD: usize = 4;
/// How long calls between cores take, from a microsecond on.
pub static HOPS: Bounds = Bounds {
    upper: &doubling::<18>(1_000),
    per_unit: 1_000_000_000,
};
/// How long hashing takes: etcd's bounds.
pub static HASHES: Bounds = Bounds {
    upper: &doubling::<15>(10_000_000),
    per_unit: 1_000_000_000,
};

/// One call between cores in so many is timed.
const HOPS_PER_SAMPLE: u64 = 64;
/// Minor versions of clients that are told apart.
const CLIENT_MINORS: usize = 32;

/// What one core counts. Only it writes, unless a field says otherwise.
#[derive(Debug)]
#[repr(align(128))]
pub struct CoreMetrics {
    methods: Box<[MethodMetrics]>,
    /// Calls by minor version of the client, the last for all others: those with one answer, and streams.
    client_requests: [Box<[Counter]>; 2],
    /// Bytes of messages from clients.
    pub received_bytes: Counter,
    /// Bytes of messages to clients.
    pub sent_bytes: Counter,
    /// Ranges, failed ones and others.
    pub ranges: [Histogram; 2],
    /// Range operations, those in transactions that only read among them.
    pub range_operations: Counter,
    /// Events sent to watchers.
    pub watch_events: Counter,
    /// Open watch streams.
    pub watch_streams: Gauge,
    /// Watchers.
    pub watchers: Gauge,
    /// Hashes of the newest revision.
    pub hash: Histogram,
    /// Hashes at a revision.
    pub hash_at_revision: Histogram,
    /// By kind of file.
    files: [FileMetrics; FileKind::ALL.len()],
    /// Calls to other cores, by core.
    calls: Box<[Counter]>,
    /// How long calls to other cores take, of those that were timed.
    pub hops: Histogram,
}

/// What is counted of one method.
#[derive(Debug)]
pub struct MethodMetrics {
    /// Calls that began.
    pub started: Counter,
    /// Messages that came.
    pub received: Counter,
    /// Messages that left.
    pub sent: Counter,
    /// Calls that ended, by code.
    pub handled: [Counter; Code::ALL.len()],
    /// How long they took.
    pub handling: Histogram,
    /// How long failed requests and others took, of methods that etcd times.
    pub requests: Option<[Histogram; 2]>,
}

/// Files of the data directory that are counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Segments of the log: what somebody waits for.
    Log,
    /// Segments of the log that are made ready to be written to, beside serving.
    LogAhead,
    /// Pages and events of shards.
    Store,
    /// The superblock.
    Superblock,
}

impl FileKind {
    /// All of them.
    pub const ALL: [FileKind; 4] = [
        FileKind::Log,
        FileKind::LogAhead,
        FileKind::Store,
        FileKind::Superblock,
    ];

    /// As a label says it.
    pub fn name(self) -> &'static str {
        match self {
            FileKind::Log => "log",
            FileKind::LogAhead => "log_ahead",
            FileKind::Store => "store",
            FileKind::Superblock => "superblock",
        }
    }
}

/// What is counted of the files of one kind.
#[derive(Debug)]
pub struct FileMetrics {
    /// Flushes. A write and the flush behind it leave as one operation, and count as one.
    pub flushes: Histogram,
    /// Bytes written.
    pub written_bytes: Counter,
    /// Reads.
    pub reads: Counter,
    /// Bytes read.
    pub read_bytes: Counter,
}

impl FileMetrics {
    fn new() -> FileMetrics {
        FileMetrics {
            flushes: Histogram::new(&FLUSHES),
            written_bytes: Counter::default(),
            reads: Counter::default(),
            read_bytes: Counter::default(),
        }
    }
}

fn counters(count: usize) -> Box<[Counter]> {
    (0..count).map(|_| Counter::default()).collect()
}

impl CoreMetrics {
    /// Of one of `cores` cores.
    pub fn new(cores: u16) -> CoreMetrics {
        let methods = Method::ALL.iter().map(|method| MethodMetrics::new(*method));
        CoreMetrics {
            methods: methods.collect(),
            client_requests: std::array::from_fn(|_| counters(CLIENT_MINORS + 1)),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            ranges: std::array::from_fn(|_| Histogram::new(&RANGES)),
            range_operations: Counter::default(),
            watch_events: Counter::default(),
            watch_streams: Gauge::default(),
            watchers: Gauge::default(),
            hash: Histogram::new(&HASHES),
            hash_at_revision: Histogram::new(&HASHES),
            files: std::array::from_fn(|_| FileMetrics::new()),
            calls: counters(usize::from(cores)),
            hops: Histogram::new(&HOPS),
        }
    }

    /// Takes in what happened to a call of `method`.
    pub fn note(&self, method: Method, event: CallEvent) {
        let metrics = self.method(method);
        match event {
            CallEvent::Started => metrics.started.increment(),
            CallEvent::Received(messages) => {
                metrics.received.add(messages.count);
                self.received_bytes.add(messages.bytes);
            }
            CallEvent::Sent(messages) => {
                metrics.sent.add(messages.count);
                self.sent_bytes.add(messages.bytes);
            }
            CallEvent::Handled { code, nanos } => {
                metrics.handled[code as usize].increment();
                metrics.handling.observe(nanos);
                if let Some(requests) = &metrics.requests {
                    requests[usize::from(code == Code::Ok)].observe(nanos);
                }
            }
        }
    }

    /// What is counted of `method`.
    pub fn method(&self, method: Method) -> &MethodMetrics {
        &self.methods[method as usize]
    }

    /// A call of a client that says it speaks version `version` of the API.
    pub fn note_client(&self, is_stream: bool, version: Option<&[u8]>) {
        let minor = version.and_then(minor_of).unwrap_or(CLIENT_MINORS);
        self.client_requests[usize::from(is_stream)][minor].increment();
    }

    /// Calls with one answer or streams, with the minor version of their clients; none is any other.
    pub fn client_requests(&self, is_stream: bool) -> impl Iterator<Item = (Option<usize>, u64)> {
        let counters = &self.client_requests[usize::from(is_stream)];
        counters.iter().enumerate().map(|(minor, counter)| {
            let minor = (minor < CLIENT_MINORS).then_some(minor);
            (minor, counter.value())
        })
    }

    /// What is counted of the files of a kind.
    pub fn files(&self, kind: FileKind) -> &FileMetrics {
        &self.files[kind as usize]
    }

    /// A call leaves for `core`; answers whether it should be timed.
    pub fn note_call(&self, core: u16) -> bool {
        let counter = &self.calls[usize::from(core)];
        counter.increment();
        counter.value() % HOPS_PER_SAMPLE == 1
    }

    /// Calls that left for `core`.
    pub fn calls_to(&self, core: u16) -> u64 {
        self.calls[usize::from(core)].value()
    }
}

impl MethodMetrics {
    fn new(method: Method) -> MethodMetrics {
        let timed = request_type(method).is_some();
        MethodMetrics {
            started: Counter::default(),
            received: Counter::default(),
            sent: Counter::default(),
            handled: std::array::from_fn(|_| Counter::default()),
            handling: Histogram::new(&HANDLING),
            requests: timed.then(|| std::array::from_fn(|_| Histogram::new(&REQUESTS))),
        }
    }
}

/// What etcd calls a request when it says how long it took; none for what it does not time.
pub fn request_type(method: Method) -> Option<&'static str> {
    Some(match method {
        Method::Range => "Range",
        Method::Put => "Put",
        Method::DeleteRange => "DeleteRange",
        Method::Txn => "Txn",
        Method::Compact => "Compaction",
        Method::LeaseGrant => "LeaseGrant",
        Method::LeaseRevoke => "LeaseRevoke",
        Method::Alarm => "Alarm",
        _ => return None,
    })
}

/// The minor number of `3.minor`. Clients say what they like, so no other text becomes a label.
fn minor_of(version: &[u8]) -> Option<usize> {
    let digits = std::str::from_utf8(version.strip_prefix(b"3.")?).ok()?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let minor = digits.parse::<usize>().ok().filter(|_| plain)?;
    (minor < CLIENT_MINORS && digits == minor.to_string()).then_some(minor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use grpc::Messages;

    #[test]
    fn a_call_is_counted_where_it_belongs() {
        let metrics = CoreMetrics::new(1);
        metrics.note(Method::Put, CallEvent::Started);
        metrics.note(Method::Put, CallEvent::Received(Messages::one(10)));
        let code = Code::ResourceExhausted;
        let nanos = 3_000_000;
        metrics.note(Method::Put, CallEvent::Handled { code, nanos });
        let put = metrics.method(Method::Put);
        assert_eq!((put.started.value(), put.received.value()), (1, 1));
        assert_eq!((put.sent.value(), metrics.received_bytes.value()), (0, 10));
        assert_eq!(put.handled[code as usize].value(), 1);
        assert_eq!(put.handled[Code::Ok as usize].value(), 0);
        let [failed, succeeded] = put.requests.as_ref().unwrap();
        assert_eq!(failed.snapshot().counts[2], 1);
        assert_eq!(succeeded.snapshot().count(), 0);
        assert_eq!(metrics.method(Method::Range).started.value(), 0);
    }

    #[test]
    fn codes_and_methods_stand_at_their_number() {
        for (number, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, number);
        }
        for (number, method) in Method::ALL.iter().enumerate() {
            assert_eq!(*method as usize, number);
        }
        for (number, kind) in FileKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
        }
    }

    #[test]
    fn clients_cannot_make_labels_of_their_own() {
        let check = |version: &str, expected: Option<usize>| {
            assert_eq!(minor_of(version.as_bytes()), expected, "{version}");
        };
        check("3.7", Some(7));
        check("3.31", Some(31));
        check("3.32", None);
        check("3.07", None);
        check("3.+7", None);
        check("3.", None);
        check("2.7", None);
        check("3.7\"", None);
    }

    #[test]
    fn one_call_between_cores_in_many_is_timed() {
        let metrics = CoreMetrics::new(2);
        let timed = (0..HOPS_PER_SAMPLE * 2).filter(|_| metrics.note_call(1));
        assert_eq!(timed.count(), 2);
        assert_eq!(metrics.calls_to(1), HOPS_PER_SAMPLE * 2);
    }
}
