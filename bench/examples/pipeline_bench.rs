//! Measures entries through the coordinator and four shards on one thread:
//! `cargo run --release -p ringbench --example pipeline_bench [millions of requests]`.
//!
//! Prints the CPU time per request of decoding, coordinating and storing, next to the store's own cost
//! for the same puts, for entries of 64 puts, 64 compare-and-sets and one put of 256 bytes.

use bytes::Bytes;
use engine::auth::{Identity, Policy, authorize_command};
use engine::command::*;
use engine::coordinator::{Coordinator, CoordinatorConfig, CoordinatorOutput, Published};
use engine::entry::{EntryBuilder, RequestHead};
use engine::key::KeyRange;
use engine::revision::Revision;
use engine::shard::{Shard, shard_of};
use engine::step::Step;
use engine::store::{Store, StoreConfig};

const SHARDS: u16 = 4;
const KEYS: u64 = 100_000;
const VALUE_BYTES: usize = 256;

fn key(number: u64) -> Bytes {
    let scattered = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    Bytes::from(format!(
        "/registry/leases/kube-node-lease/{:012}",
        scattered % KEYS
    ))
}

fn put(number: u64, value: &Bytes) -> Put {
    Put {
        key: key(number),
        value: value.clone(),
        lease: LeaseId::NONE,
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    }
}

/// CPU time of this process so far.
fn cpu_nanos() -> f64 {
    let schedstat = std::fs::read_to_string("/proc/self/schedstat");
    let schedstat = schedstat.expect("Linux counts the CPU time of a process");
    let nanos = schedstat.split_whitespace().next();
    nanos
        .and_then(|text| text.parse().ok())
        .expect("nanoseconds come first")
}

fn ready<T>(step: Step<T>) -> T {
    match step {
        Step::Ready(value) => value,
        Step::Need(need) => panic!("everything is in memory, yet {need:?} is missing"),
    }
}

struct Pipeline {
    coordinator: Coordinator,
    shards: Vec<Shard>,
    index: u64,
}

impl Pipeline {
    fn new() -> Self {
        let shard = |number| Shard::new(StoreConfig::new(number, 7));
        Pipeline {
            coordinator: Coordinator::new(CoordinatorConfig { shards: SHARDS }),
            shards: (0..SHARDS).map(shard).collect(),
            index: 0,
        }
    }

    fn apply(&mut self, entry: Bytes) -> Published {
        self.index += 1;
        let pushed = self.coordinator.push_entry(self.index, entry);
        pushed.expect("the entry was just built");
        loop {
            match self.coordinator.poll().expect("the shards answer at once") {
                CoordinatorOutput::Published(published) => return published,
                CoordinatorOutput::Frozen(_) => unreachable!("nobody asked for a freeze"),
                CoordinatorOutput::Shard { shard, request } => {
                    let reply = ready(self.shards[usize::from(shard)].handle(&request));
                    self.coordinator.on_reply(shard, reply);
                }
            }
        }
    }
}

/// Builds entries of `per_entry` commands; answers them with the time that took per command.
fn build(count: u64, per_entry: u64, command: impl Fn(u64) -> Command) -> (Vec<Bytes>, f64) {
    let commands = (0..count).map(|number| {
        authorize_command(command(number), &Identity::Anonymous, &Policy::Disabled)
            .expect("authentication is off")
    });
    let commands: Vec<_> = commands.collect();
    let started = cpu_nanos();
    let mut builder = EntryBuilder::new();
    let mut entries = Vec::new();
    for (number, command) in commands.iter().enumerate() {
        let head = RequestHead {
            request_id: number as u64,
            origin_member: 1,
        };
        builder.push(head, command);
        if u64::from(builder.count()) == per_entry {
            entries.push(builder.finish());
        }
    }
    let nanos = (cpu_nanos() - started) / count as f64;
    (entries, nanos)
}

fn run(name: &str, pipeline: &mut Pipeline, entries: &[Bytes], count: u64) {
    let started = cpu_nanos();
    let mut failed = 0;
    for entry in entries {
        let published = pipeline.apply(entry.clone());
        let refused = published.outcomes.iter().filter(|outcome| {
            !matches!(
                outcome.result,
                Ok(Reply::Put { .. }
                    | Reply::Txn(TxnReply {
                        succeeded: true,
                        ..
                    }))
            )
        });
        failed += refused.count();
    }
    let nanos = (cpu_nanos() - started) / count as f64;
    println!("{name:<44} {nanos:8.0} ns per request  ({failed} of {count} changed nothing)");
}

fn main() {
    let millions = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let count = (millions.unwrap_or(0.5_f64) * 1e6) as u64 / 64 * 64;
    let value = Bytes::from(vec![7; VALUE_BYTES]);

    let mut stores: Vec<Store> = (0..SHARDS)
        .map(|number| Store::new(StoreConfig::new(number, 7)))
        .collect();
    for round in 0..2 {
        let puts: Vec<Put> = (0..count).map(|number| put(number, &value)).collect();
        let started = cpu_nanos();
        for (number, put) in puts.iter().enumerate() {
            let revision = Revision {
                main: 2 + (round * count as usize + number) as i64,
                sub: 0,
            };
            let store = &mut stores[usize::from(shard_of(&put.key, SHARDS))];
            ready(store.put(revision, &put.key, &put.value, LeaseId::NONE));
        }
        let nanos = (cpu_nanos() - started) / count as f64;
        println!(
            "{:<44} {nanos:8.0} ns per request",
            format!("store alone, round {round}")
        );
    }
    drop(stores);

    let mut pipeline = Pipeline::new();
    let (entries, nanos) = build(count, 64, |number| Command::Put(put(number, &value)));
    println!(
        "{:<44} {nanos:8.0} ns per request",
        "encoding entries of 64 puts"
    );
    run(
        "entries of 64 puts, round 0",
        &mut pipeline,
        &entries,
        count,
    );
    run(
        "entries of 64 puts, round 1",
        &mut pipeline,
        &entries,
        count,
    );
    let (entries, _) = build(count, 1, |number| Command::Put(put(number, &value)));
    run("entries of 1 put", &mut pipeline, &entries, count);
    drop(pipeline);

    let compare_and_set = |number: u64, mod_revision: i64| {
        let put = put(number, &value);
        let range = KeyRange::single(put.key.clone());
        Command::Txn(Txn {
            compare: vec![Compare {
                range: range.clone(),
                relation: Relation::Greater,
                target: CompareTarget::Mod(mod_revision),
            }],
            success: vec![TxnOperation::Put(put)],
            failure: vec![TxnOperation::Range(Range::all(range))],
        })
    };
    let mut pipeline = Pipeline::new();
    let (entries, nanos) = build(count, 64, |number| compare_and_set(number, -1));
    println!(
        "{:<44} {nanos:8.0} ns per request",
        "encoding entries of 64 compare-and-sets"
    );
    run(
        "entries of 64 compare-and-sets, round 0",
        &mut pipeline,
        &entries,
        count,
    );
    run(
        "entries of 64 compare-and-sets, round 1",
        &mut pipeline,
        &entries,
        count,
    );
    let (entries, _) = build(count, 64, |number| compare_and_set(number, i64::MAX - 1));
    run(
        "64 compare-and-sets that fail",
        &mut pipeline,
        &entries,
        count,
    );
    let (entries, _) = build(count, 1, |number| compare_and_set(number, -1));
    run(
        "entries of 1 compare-and-set",
        &mut pipeline,
        &entries,
        count,
    );
}
