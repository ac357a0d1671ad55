//! Measures one shard's store:
//! `cargo run --release -p ringbench --example store_bench [keys] [value bytes]`.
//!
//! Prints the CPU time per operation over Kubernetes-looking keys in random order, the memory of the
//! index per key (pages without values), and what an empty store takes. One thread, nothing missing.

use std::hint::black_box;

use bytes::Bytes;
use engine::command::LeaseId;
use engine::key::{End, KeyRange};
use engine::revision::Revision;
use engine::step::Step;
use engine::store::{Counted, EventQuery, Scan, Store, StoreConfig};

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

fn ready<T>(step: Step<T>) -> T {
    step.ready().expect("nothing is missing")
}

fn report(what: &str, count: u64, unit: &str, run: impl FnOnce()) {
    let start = cpu_nanos();
    run();
    let nanos = (cpu_nanos() - start) as f64 / count as f64;
    println!("{what:<44} {nanos:>10.0} ns/{unit}");
}

/// CPU time of this process so far: other processes do not disturb it, except through the caches.
fn cpu_nanos() -> u64 {
    let times = std::fs::read_to_string("/proc/self/schedstat").expect("Linux");
    times
        .split_whitespace()
        .next()
        .and_then(|nanos| nanos.parse().ok())
        .expect("a number")
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .expect("a memory size");
    line.split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse().ok())
        .expect("a number")
}

fn main() {
    let argument = |index, default| {
        std::env::args()
            .nth(index)
            .map_or(default, |text| text.parse().expect("a number"))
    };
    let keys: u32 = argument(1, 1_000_000);
    let value_bytes: u32 = argument(2, 1024);
    let value = vec![0x5a; value_bytes as usize];
    let keys_64 = u64::from(keys);

    let before = resident_kib();
    let empty: Vec<Store> = (0..64)
        .map(|shard| Store::new(StoreConfig::new(shard, 7)))
        .collect();
    println!(
        "empty store: {} KiB resident",
        (resident_kib() - before).div_ceil(64)
    );
    drop(empty);

    let mut store = Store::new(StoreConfig::new(0, 7));
    let names: Vec<Vec<u8>> = (0..keys).map(key).collect();
    let mut main = 1;
    let mut put = |store: &mut Store, key: &[u8]| {
        main += 1;
        black_box(ready(store.put(
            Revision { main, sub: 0 },
            key,
            &value,
            LeaseId::NONE,
        )));
    };
    report("put, new keys", keys_64, "put", || {
        names.iter().for_each(|key| put(&mut store, key))
    });
    let index_bytes = |store: &Store, puts: u64| {
        let record =
            |key: &Vec<u8>| (48 + key.len() as u64 + value.len() as u64).next_multiple_of(8);
        let records: u64 = names.iter().map(record).sum::<u64>() * puts;
        (store.sizes().bytes - records) as f64 / f64::from(keys)
    };
    println!(
        "{:<44} {:>10.1} B/key",
        "index, one version",
        index_bytes(&store, 1)
    );
    report("put, present keys", keys_64, "put", || {
        (0..keys).for_each(|i| put(&mut store, &names[(scatter(i) % keys) as usize]));
    });
    let newest = i64::from(keys) * 2 + 1;
    let middle = i64::from(keys) + 1;
    println!(
        "{:<44} {:>10.1} B/key",
        "index, two versions",
        index_bytes(&store, 2)
    );

    for (what, at) in [("get, newest", newest), ("get, old", middle)] {
        report(what, keys_64, "get", || {
            for i in 0..keys {
                let key = &names[(scatter(i ^ 0x55) % keys) as usize];
                black_box(ready(store.get(key, at)));
            }
        });
    }
    report("get with value, newest", keys_64, "get", || {
        for i in 0..keys {
            let key = &names[(scatter(i ^ 0x77) % keys) as usize];
            let version = ready(store.get(key, newest)).expect("present");
            black_box(ready(store.value(version.loc)));
        }
    });

    let all = KeyRange {
        start: Bytes::new(),
        end: End::Unbounded,
    };
    for (what, at, values) in [
        ("scan, keys only, newest", newest, false),
        ("scan, keys only, old", middle, false),
        ("scan with values, newest", newest, true),
    ] {
        report(what, keys_64, "key", || {
            let mut after: Option<Bytes> = None;
            loop {
                let query = Scan {
                    range: &all,
                    after: after.as_deref(),
                    at,
                    limit: usize::MAX,
                    bytes_max: 128 * 1024,
                    values,
                    passing: false,
                };
                let chunk = ready(store.scan(&query));
                after = chunk.items.last().map(|(key, _, _)| key.clone());
                black_box(&chunk);
                if !chunk.more {
                    break;
                }
            }
        });
    }
    let namespaces: Vec<KeyRange> = (0..211)
        .map(|namespace| {
            let start = format!("/registry/pods/namespace-{namespace:03}/");
            let end = format!("/registry/pods/namespace-{namespace:03}0");
            KeyRange {
                start: start.into(),
                end: End::Before(end.into()),
            }
        })
        .collect();
    for (what, at) in [
        ("count, newest", newest),
        ("count, 1000 revisions ago", newest - 1000),
    ] {
        report(what, 20 * 211, "count", || {
            for range in std::iter::repeat_n(&namespaces, 20).flatten() {
                let mut from = None;
                while let Counted::Part(next) = ready(store.count(range, at, from.as_ref())) {
                    from = Some(next);
                }
                black_box(from);
            }
        });
    }
    report("events", keys_64 * 2, "event", || {
        let mut from = 0;
        while from <= newest {
            let query = EventQuery {
                from,
                to: newest,
                ranges: None,
                prev_kv: false,
                bytes_max: 1 << 20,
                passing: false,
            };
            let chunk = ready(store.events(&query));
            from = black_box(&chunk).next;
        }
    });
    store.check();
    report("delete", keys_64 / 2, "delete", || {
        for (index, key) in names.iter().take(keys as usize / 2).enumerate() {
            let revision = Revision {
                main: newest + 1 + index as i64,
                sub: 0,
            };
            black_box(ready(store.delete(revision, key)));
        }
    });
    let hot = b"/registry/leases/kube-system/hot";
    let first = newest + keys_64 as i64;
    report("put, one key over and over", keys_64 / 2, "put", || {
        for main in first..first + keys_64 as i64 / 2 {
            let revision = Revision { main, sub: 0 };
            black_box(ready(store.put(revision, hot, b"holder", LeaseId(7))));
        }
    });
    report("get of its oldest version", 1_000, "get", || {
        (0..1_000).for_each(|_| {
            black_box(ready(store.get(hot, first)));
        });
    });
}
