//! Measures the background work of one shard's store:
//! `cargo run --release -p ringbench --example maintain_bench [keys] [value bytes]`.
//!
//! Overwrites keys in random order, compacts to the newest revision, and empties the segments. Prints
//! the time per event and per record, the longest slices, and what becomes of the space. One thread;
//! files are memory, and their time does not count.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use diskio::{FileName, IoOperation, IoOutput, IoRequest};
use engine::command::LeaseId;
use engine::compaction::{COLLECT_BELOW_PERCENT, Maintained};
use engine::image::ShardEvent;
use engine::revision::Revision;
use engine::step::Step;
use engine::store::{Store, StoreConfig};

/// A permutation of `0..2^32`, so that keys come in random order without repeating.
fn scatter(index: u32) -> u32 {
    let mixed = (index ^ (index >> 16)).wrapping_mul(0x45d9_f3b5);
    (mixed ^ (mixed >> 15)).wrapping_mul(0x2c1b_3c6d)
}

fn key(index: u32) -> Vec<u8> {
    let name = scatter(index);
    format!(
        "/registry/pods/namespace-{:03}/deployment-{:02}-{name:08x}",
        name % 211,
        name % 37
    )
    .into_bytes()
}

struct Bench {
    store: Store,
    files: BTreeMap<FileName, Vec<u8>>,
    main: i64,
    id: u32,
}

impl Bench {
    /// Executes requests until none comes.
    fn drain(&mut self) {
        loop {
            let mut out = Vec::new();
            self.store.poll(&mut out);
            while let Some(event) = self.store.next_event() {
                match event {
                    ShardEvent::ImageDurable { id, .. } => self.store.published(id),
                    event => panic!("{event:?}"),
                }
            }
            if out.is_empty() {
                return;
            }
            for request in out {
                self.execute(request);
            }
        }
    }

    fn execute(&mut self, request: IoRequest) {
        match request.operation {
            IoOperation::Create { file, .. } => drop(self.files.insert(file, Vec::new())),
            IoOperation::Write { file, offset, data } => {
                let bytes = self.files.get_mut(&file).expect("a created file");
                let end = offset as usize + data.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[offset as usize..end].copy_from_slice(&data);
            }
            IoOperation::Delete { file } => drop(self.files.remove(&file)),
            _ => {}
        }
        self.store.complete(request.id, Ok(IoOutput::None));
    }

    fn checkpoint(&mut self) {
        self.id += 1;
        self.store.freeze(self.id, Bytes::new().into());
        self.drain();
        self.drain();
    }

    fn ready<T>(&mut self, mut call: impl FnMut(&mut Store) -> Step<T>) -> T {
        loop {
            let need = match call(&mut self.store) {
                Step::Ready(value) => return value,
                Step::Need(need) => need,
            };
            let read = self.store.read_of(&need);
            let start = read.offset as usize;
            let bytes = &self.files[&read.file];
            let end = bytes.len().min(start + read.len as usize);
            let bytes = Bytes::copy_from_slice(&bytes[start..end]);
            self.store.load(&need, Some(bytes)).expect("an intact file");
        }
    }

    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.main += 1;
        let revision = Revision {
            main: self.main,
            sub: 0,
        };
        self.ready(|store| store.put(revision, key, value, LeaseId::NONE));
        if self.main % 4096 == 0 {
            self.drain();
        }
    }

    /// Slices until idle: how long each took.
    fn maintain(&mut self, percent: u64) -> Vec<Duration> {
        let mut slices = Vec::new();
        loop {
            let mut took = Duration::ZERO;
            let left = self.ready(|store| {
                let start = Instant::now();
                let left = store.maintain(percent);
                took = start.elapsed();
                left
            });
            slices.push(took);
            match left {
                Maintained::Idle => return slices,
                Maintained::Working if slices.len() % 64 != 0 => {}
                _ => self.drain(),
            }
        }
    }

    fn report(&self, what: &str) {
        let sizes = self.store.sizes();
        let disk: usize = self.files.values().map(Vec::len).sum();
        println!(
            "{what:<24} size {:>7.1} MiB, in use {:>7.1} MiB, files {:>7.1} MiB",
            sizes.bytes as f64 / 1048576.0,
            sizes.bytes_in_use as f64 / 1048576.0,
            disk as f64 / 1048576.0
        );
    }
}

fn main() {
    let argument = |index, default| {
        std::env::args()
            .nth(index)
            .map_or(default, |text| text.parse().expect("a number"))
    };
    let keys: u32 = argument(1, 200_000);
    let value = vec![0x5a; argument(2, 1024) as usize];
    let config = StoreConfig {
        page_cache_bytes: 1 << 30,
        ..StoreConfig::new(0, 7)
    };
    let mut bench = Bench {
        store: Store::new(config),
        files: BTreeMap::new(),
        main: 1,
        id: 0,
    };
    for index in 0..keys {
        bench.put(&key(index), &value);
    }
    bench.checkpoint();
    bench.report("loaded");
    for index in 0..keys {
        bench.put(&key(scatter(index) % keys), &value);
    }
    bench.checkpoint();
    bench.report("overwritten");

    bench.store.compact(bench.main);
    // The longest of all are those in which another process had the core.
    let line = |what: &str, count: u64, mut slices: Vec<Duration>| {
        slices.sort();
        let total: Duration = slices.iter().sum();
        println!(
            "{what:<24} {:>7.0} ns each, {} slices, p99.9 {:.2} ms, longest {:.2} ms",
            total.as_nanos() as f64 / count as f64,
            slices.len(),
            slices[slices.len() * 999 / 1000].as_secs_f64() * 1e3,
            slices[slices.len() - 1].as_secs_f64() * 1e3
        );
    };
    let pass = bench.maintain(0);
    line("pass, per event", bench.main as u64 - 1, pass);
    bench.checkpoint();
    bench.report("compacted");
    let live = bench.store.sizes().keys;
    let collection = bench.maintain(COLLECT_BELOW_PERCENT + 25);
    line("copies, per live key", live, collection);
    bench.checkpoint();
    bench.checkpoint();
    bench.report("collected");
}
