//! How much is done in one go, and what is needed to come to an end.

use bytes::Bytes;
use diskio::{FileName, IoOperation, IoRequest};

use super::host::Host;
use super::*;
use crate::command::{LeaseId, Put};
use crate::key::{End, KeyRange};
use crate::revision::Revision;
use crate::shard::{Ahead, Batch, Get, Item, Shard, ShardRequest, Work};

fn main(main: i64) -> Revision {
    Revision { main, sub: 0 }
}

/// Puts `value` under `key`.
fn put(host: &mut Host, revision: i64, key: &str, value: &[u8]) {
    host.settle(|store| store.put(main(revision), key.as_bytes(), value, LeaseId::NONE));
}

fn checkpoint(host: &mut Host) {
    assert!(host.freeze());
    host.finish_checkpoint();
}

/// Bytes that are to be written to the page file.
fn page_bytes(requests: &[IoRequest]) -> usize {
    let bytes = requests.iter().map(|request| match &request.operation {
        IoOperation::Write {
            file: FileName::Pages { .. },
            data,
            ..
        } => data.len(),
        _ => 0,
    });
    bytes.sum()
}

/// The manifest of a large store comes in slices: the segment table over several calls that emit nothing,
/// then one part per call.
#[test]
fn a_large_manifest_takes_many_calls() {
    const PIECES: i64 = 10_000;
    const LEASE_BYTES: usize = 1 << 20;
    let config = StoreConfig {
        segment_bytes_first: 1 << 20,
        piece_bytes: 4096,
        tail_bytes_max: 0,
        ..StoreConfig::new(0, 1)
    };
    let mut host = Host::new(config, 1);
    for number in 0..PIECES {
        put(&mut host, 2 + number, "key", &[7; 4000]);
        if number % 500 == 0 {
            checkpoint(&mut host);
        }
    }
    checkpoint(&mut host);
    put(&mut host, 2 + PIECES, "key", b"small");
    let attachment = Bytes::from(vec![9; LEASE_BYTES]);
    host.store.freeze(1_000_000, attachment.clone().into());
    let (mut silent, mut largest, mut parts, mut durable) = (0, 0, 0, None);
    for _ in 0..1000 {
        let mut out = Vec::new();
        let goes_on = host.store.poll(&mut out);
        silent += usize::from(goes_on && out.is_empty());
        largest = largest.max(page_bytes(&out));
        parts += usize::from(page_bytes(&out) > 64 << 10);
        let nothing = out.is_empty() && !goes_on;
        host.disk.accept(out);
        if nothing && host.disk.in_flight() > 0 {
            let (id, result) = host.disk.complete(0);
            host.store.complete(id, result);
        }
        durable = durable.or(host.store.next_event());
    }
    assert!(durable.is_some(), "the image is durable");
    assert!(largest <= 128 << 10, "{largest} bytes at once");
    assert!(parts >= LEASE_BYTES / (128 << 10), "{parts} parts");
    // 1024 pieces in each.
    assert!(silent >= 2, "{silent} calls for the table alone");
}

/// Counts in slices; answers the count and how many calls that took.
fn count(host: &mut Host, range: &KeyRange, at: i64) -> (i64, usize) {
    let (mut cursor, mut calls) = (None, 0);
    loop {
        calls += 1;
        match host.settle(|store| store.count(range, at, cursor.as_ref())) {
            Counted::Whole(count) => return (count, calls),
            Counted::Part(next) => cursor = Some(next),
        }
    }
}

/// A count at an old revision reads 16 leaves or 1024 events per call, however many are in memory.
#[test]
fn a_count_at_an_old_revision_takes_many_calls() {
    const KEYS: i64 = 20_000;
    let all = KeyRange {
        start: Bytes::new(),
        end: End::Unbounded,
    };
    let mut host = Host::new(StoreConfig::new(0, 1), 1);
    for number in 0..KEYS {
        put(&mut host, 2 + number, &format!("key-{number:06}"), b"v");
    }
    let leaves = host.store.pages.sums().pages as usize;
    assert!(leaves > 2 * 16, "{leaves} leaves");
    assert_eq!(count(&mut host, &all, 1 + KEYS), (KEYS, 1));
    // By the events since: 5,000 of them.
    let (found, calls) = count(&mut host, &all, 1 + KEYS - 5000);
    assert_eq!(found, KEYS - 5000);
    assert_eq!(calls, 5000usize.div_ceil(1024));
    for number in 0..3 * KEYS {
        let key = format!("key-{:06}", number % KEYS);
        put(&mut host, 2 + KEYS + number, &key, b"w");
    }
    // Leaf by leaf: the events since are more than the keys.
    let leaves = host.store.pages.sums().pages as usize;
    let (found, calls) = count(&mut host, &all, 1 + KEYS);
    assert_eq!(found, KEYS);
    assert!(calls >= leaves / 2 / 16, "{calls} calls for {leaves} pages");
}

/// A count at the newest revision follows the counts in inner pages: of a range it loads two ways down.
#[test]
fn a_count_at_the_newest_revision_enters_no_leaf_in_between() {
    const KEYS: i64 = 20_000;
    let mut host = Host::new(StoreConfig::new(0, 1), 1);
    for number in 0..KEYS {
        put(&mut host, 2 + number, &format!("key-{number:06}"), b"v");
    }
    checkpoint(&mut host);
    host.reopen();
    let range = |start: &'static [u8], end: &'static [u8]| KeyRange {
        start: Bytes::from_static(start),
        end: match end {
            b"" => End::Unbounded,
            end => End::Before(Bytes::from_static(end)),
        },
    };
    for (range, keys, pages) in [
        (range(b"", b""), KEYS, 0),
        (range(b"key-0", b"key-1"), 10_000 * KEYS / 20_000 * 2, 3),
        (range(b"key-000", b"key-002"), 2_000, 3),
        (range(b"key-0001", b"key-0199"), 19_800, 2),
    ] {
        let keys = keys.min(KEYS);
        let mut needs = 0;
        let found = host.settle(|store| {
            let step = store.count(&range, i64::MAX, None);
            needs += usize::from(matches!(step, Step::Need(_)));
            step
        });
        assert_eq!(found, Counted::Whole(keys), "{range:?}");
        assert!(needs <= pages, "{needs} pages for {range:?}");
    }
}

/// What a checkpoint made clean leaves memory also where nothing else happens any more.
#[test]
fn an_overshot_cache_shrinks_while_nothing_comes() {
    let config = StoreConfig {
        page_cache_bytes: 40 * PAGE_BYTES as u64,
        ..StoreConfig::new(0, 1)
    };
    let mut host = Host::new(config, 1);
    for number in 0..60_000 {
        put(&mut host, 2 + number, &format!("key-{number:06}"), b"v");
    }
    // All of them are young.
    for number in (0..60_000).step_by(50) {
        let key = format!("key-{number:06}");
        host.settle(|store| store.get(key.as_bytes(), i64::MAX));
    }
    let pages = host.store.pages.resident();
    assert!(pages > 120, "{pages} dirty pages");
    checkpoint(&mut host);
    for _ in 0..1000 {
        assert!(!host.store.poll(&mut Vec::new()));
    }
    let left = host.store.pages.resident();
    assert!(left <= 40, "{left} of {pages} pages");
    host.check();
}

/// A key with more overflow pages than the cache holds is readable at each of its revisions.
#[test]
fn a_history_that_is_larger_than_the_cache_is_readable() {
    const VERSIONS: i64 = 60_000;
    let config = StoreConfig {
        page_cache_bytes: 2 * PAGE_BYTES as u64,
        ..StoreConfig::new(0, 1)
    };
    let mut host = Host::new(config, 1);
    for number in 0..VERSIONS {
        put(&mut host, 2 + number, "key", b"v");
        if number % 4000 == 0 {
            checkpoint(&mut host);
        }
    }
    checkpoint(&mut host);
    let pages = host.store.pages.sums().pages;
    assert!(pages > 40, "{pages} pages");
    host.reopen();
    for at in [VERSIONS, VERSIONS / 2, 2, VERSIONS / 3] {
        let found = host.settle(|store| store.get(b"key", at));
        assert_eq!(found.map(|version| version.modified.main), Some(at));
        host.store.poll(&mut Vec::new());
    }
}

/// A record of the right length at the right place is not the value if its revision is another.
#[test]
fn the_value_of_another_record_is_refused() {
    let config = StoreConfig {
        value_cache_bytes: 0,
        ..StoreConfig::new(0, 1)
    };
    let mut host = Host::new(config, 1);
    for (number, key) in ["a", "b", "c", "d"].into_iter().enumerate() {
        put(&mut host, 2 + number as i64, key, key.as_bytes());
    }
    checkpoint(&mut host);
    host.reopen();
    let versions = ["b", "c"].map(|key| {
        let found = host.settle(|store| store.get(key.as_bytes(), 9));
        found.expect("there").loc
    });
    let store = std::mem::replace(&mut host.store, Store::new(StoreConfig::new(0, 1)));
    let mut shard = Shard::with_store(store);
    let request = ShardRequest::Get(Get {
        key: Bytes::from_static(b"b"),
        at: 9,
        values: true,
        pin: None,
    });
    let Step::Need(need) = shard.handle(&request) else {
        panic!("the value is on the disk");
    };
    let mut bytes = host.read(shard.read_of(&need)).to_vec();
    let [at, other] = versions.map(|loc| loc.offset as usize..(loc.offset + loc.len) as usize);
    bytes.copy_within(other, at.start);
    let loaded = shard.load(&need, Some(bytes.into()));
    let error = loaded.expect_err("the record of another key");
    assert!(shard.damage(&error).what.contains("revision"), "{error:?}");
}

/// A wave over leaves that are all on the disk has them loaded at once, not one after the other.
#[test]
fn a_wave_loads_its_leaves_together() {
    const KEYS: i64 = 20_000;
    const PUTS: i64 = 25;
    let mut host = Host::new(StoreConfig::new(0, 1), 1);
    for number in 0..KEYS {
        put(&mut host, 2 + number, &format!("key-{number:06}"), b"v");
    }
    checkpoint(&mut host);
    host.reopen();
    let store = std::mem::replace(&mut host.store, Store::new(StoreConfig::new(0, 1)));
    let mut shard = Shard::with_store(store);
    let items = (0..PUTS).map(|number| Item {
        position: number as u32,
        work: Work::Put(Put {
            key: format!("key-{:06}", number * (KEYS / PUTS)).into(),
            value: Bytes::from_static(b"new"),
            lease: LeaseId::NONE,
            prev_kv: false,
            ignore_value: false,
            ignore_lease: false,
        }),
    });
    let batch = Batch {
        base: 1 + KEYS,
        compacted: -1,
        unanswered: false,
        items: items.collect(),
    };
    let request = ShardRequest::Apply {
        batch: std::sync::Arc::new(batch),
        mains: (2 + KEYS..).take(PUTS as usize).collect(),
    };
    let (mut rounds, mut loads) = (0, 0);
    while let Step::Need(need) = shard.handle(&request) {
        rounds += 1;
        let mut needs = shard.take_hints();
        needs.retain(|hint| *hint != need);
        needs.push(need);
        for need in needs {
            loads += 1;
            let bytes = host.read(shard.read_of(&need));
            shard.load(&need, Some(bytes)).expect("intact");
        }
    }
    // The inner pages one after the other, then all leaves.
    assert!(rounds <= 3, "{rounds} rounds");
    assert!(loads > PUTS, "{loads} loads");
}

/// What is loaded for entries to come is no more than the cache keeps until they come, and what was entered
/// makes room for more.
#[test]
fn leaves_ahead_are_bounded_by_the_cache() {
    const KEYS: i64 = 30_000;
    const CACHE_PAGES: usize = 128;
    let config = StoreConfig {
        page_cache_bytes: (CACHE_PAGES * crate::page::PAGE_BYTES) as u64,
        ..StoreConfig::new(0, 1)
    };
    let mut host = Host::new(config, 1);
    let long = |number: i64| format!("key-{number:06}-{}", "x".repeat(200));
    for number in 0..KEYS {
        put(&mut host, 2 + number, &long(number), b"v");
        if number % 5000 == 0 {
            checkpoint(&mut host);
        }
    }
    checkpoint(&mut host);
    host.reopen();
    let store = std::mem::replace(&mut host.store, Store::new(StoreConfig::new(0, 1)));
    let mut shard = Shard::with_store(store);
    assert!(shard.lacks_pages());
    // Each in a leaf of its own.
    let keys: Vec<String> = (0..400).map(|number| long(number * (KEYS / 400))).collect();
    let (mut looked, mut done, mut leaves, mut stops) = (0, 0, 0, 0);
    while done < keys.len() {
        let ahead = match keys.get(looked) {
            Some(key) => shard.look_for(key.as_bytes(), 0),
            None => Ahead::NoRoom,
        };
        match ahead {
            Ahead::Resident => looked += 1,
            Ahead::Inner(need) | Ahead::Leaf(need) => {
                leaves += usize::from(matches!(ahead, Ahead::Leaf(_)));
                let bytes = host.read(shard.read_of(&need));
                shard.load(&need, Some(bytes)).expect("intact");
            }
            Ahead::NoRoom => {
                stops += 1;
                assert!(looked > done, "nothing is loaded ahead");
                let get = ShardRequest::Get(Get {
                    key: keys[done].clone().into(),
                    at: 1 + KEYS,
                    values: false,
                    pin: None,
                });
                let step = shard.handle(&get);
                assert!(
                    matches!(step, Step::Ready(_)),
                    "key {done} of {looked} is gone: {step:?}"
                );
                done += 1;
            }
        }
    }
    assert_eq!(leaves, keys.len(), "each leaf is loaded once");
    assert!(stops >= keys.len(), "{stops} stops");
    // On their way they take room, too.
    assert_eq!(
        shard.look_for(long(20).as_bytes(), usize::MAX),
        Ahead::NoRoom
    );
    shard.check();
    let pages = shard.into_store().pages.resident();
    assert!(pages <= CACHE_PAGES + 2, "{pages} pages");
}
