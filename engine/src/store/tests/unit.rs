//! Single behaviours of the store.

use bytes::Bytes;
use diskio::FileName;

use super::host::Host;
use super::*;
use crate::command::LeaseId;
use crate::key::{End, KeyRange};
use crate::revision::Revision;

fn main(main: i64) -> Revision {
    Revision { main, sub: 0 }
}

fn put(store: &mut Store, revision: i64, key: &str, value: &str) -> Version {
    settle(store, |store| {
        store.put(
            main(revision),
            key.as_bytes(),
            value.as_bytes(),
            LeaseId::NONE,
        )
    })
}

#[test]
fn an_empty_store_is_small() {
    let mut store = Store::new(StoreConfig::new(0, 1));
    let sizes = store.sizes();
    assert!(sizes.bytes < 200 * 1024, "{sizes:?}");
    assert_eq!(store.get(b"a", 1).ready(), Some(None));
    store.check();
}

#[test]
fn a_store_may_move_to_its_core() {
    fn is_send<T: Send>(_: &T) {}
    is_send(&Store::new(StoreConfig::new(0, 1)));
}

#[test]
fn versions_count_from_the_creation() {
    let mut store = Store::new(StoreConfig::new(0, 1));
    let first = put(&mut store, 2, "a", "1");
    let second = put(&mut store, 3, "a", "2");
    assert_eq!((first.create, first.version), (2, 1));
    assert_eq!((second.create, second.version), (2, 2));
    assert!(settle(&mut store, |store| store.delete(main(4), b"a")));
    assert!(!settle(&mut store, |store| store.delete(main(5), b"a")));
    let third = put(&mut store, 5, "a", "3");
    assert_eq!((third.create, third.version), (5, 1));
    for (at, version) in [
        (1, None),
        (2, Some(first)),
        (3, Some(second)),
        (4, None),
        (9, Some(third)),
    ] {
        assert_eq!(
            settle(&mut store, |store| store.get(b"a", at)),
            version,
            "at {at}"
        );
    }
    store.check();
}

#[test]
fn equal_content_has_an_equal_hash_wherever_it_stands() {
    let mut one = Store::new(StoreConfig::new(0, 1));
    let mut other = Store::new(StoreConfig::new(5, 2));
    put(&mut other, 2, "b", "elsewhere first");
    let hashes = [
        put(&mut one, 3, "a", "v").hash,
        put(&mut other, 3, "a", "v").hash,
    ];
    assert_eq!(hashes[0], hashes[1]);
    assert_ne!(hashes[0], put(&mut one, 4, "a", "v").hash);
}

#[test]
fn values_larger_than_a_segment_are_kept() {
    let config = StoreConfig {
        segment_bytes_first: 4096,
        ..StoreConfig::new(0, 1)
    };
    let mut store = Store::new(config);
    let value = vec![7; 3 << 20];
    let version = settle(&mut store, |store| {
        store.put(main(2), b"k", &value, LeaseId::NONE)
    });
    assert_eq!(settle(&mut store, |store| store.value(version.loc)), value);
    store.check();
}

#[test]
fn ascending_keys_fill_their_pages() {
    let mut store = Store::new(StoreConfig::new(0, 1));
    for number in 0..20_000 {
        put(&mut store, 2 + number, &format!("key-{number:08}"), "");
    }
    store.check();
    // A last page has no upper fence and so no prefix: it shrinks when it gets one.
    let sums = store.pages.sums();
    let fill = sums.used_bytes as f64 / (sums.pages * PAGE_BYTES as u64) as f64;
    assert!(fill > 0.7, "pages are {fill} full");
}

#[test]
fn an_emptied_lease_tree_shrinks_to_its_root() {
    let mut store = Store::new(StoreConfig::new(0, 1));
    for number in 0..5_000i64 {
        let key = format!("key-{number:08}").into_bytes();
        let lease = LeaseId(1 + number % 3);
        let put = store.put(main(2 + number), &key, b"", lease);
        assert!(put.ready().is_some());
    }
    store.check();
    let pages = store.pages.sums().pages;
    for number in 0..5_000i64 {
        let key = format!("key-{number:08}").into_bytes();
        let put = store.put(main(6_000 + number), &key, b"", LeaseId::NONE);
        assert!(put.ready().is_some());
    }
    store.check();
    assert_eq!(
        store
            .leases
            .find(&mut store.pages, b"x")
            .ready()
            .map(|found| found.cell),
        Some(Err(0))
    );
    assert!(
        store.pages.sums().pages < pages * 2,
        "{pages} pages before, {} now",
        store.pages.sums().pages
    );
}

#[test]
fn a_range_set_is_the_union_of_its_ranges() {
    let mut random = Random(9);
    for _ in 0..2_000 {
        let word = |random: &mut Random| {
            let len = random.below(3);
            (0..len)
                .map(|_| b'a' + random.below(3) as u8)
                .collect::<Vec<u8>>()
        };
        let ranges: Vec<KeyRange> = (0..random.below(5))
            .map(|_| KeyRange {
                start: word(&mut random).into(),
                end: match random.below(3) {
                    0 => End::Single,
                    1 if random.one_in(4) => End::Unbounded,
                    _ => End::Before(word(&mut random).into()),
                },
            })
            .collect();
        let set = RangeSet::new(ranges.clone());
        for _ in 0..20 {
            let mut key = word(&mut random);
            if random.one_in(3) {
                key.push(0);
            }
            let expected = ranges.iter().any(|range| range.contains(&key));
            assert_eq!(set.contains(&key), expected, "{key:?} in {ranges:?}");
        }
    }
}

/// A store that was just opened, and its root, which is on disk.
fn with_root_on_disk() -> (Host, PageRef) {
    let mut host = Host::new(StoreConfig::new(0, 1), 1);
    put(&mut host.store, 2, "a", "1");
    host.freeze();
    host.finish_checkpoint();
    host.reopen();
    match host.store.get(b"a", 1) {
        Step::Need(Need::Page(reference)) => (host, reference),
        other => panic!("{other:?}"),
    }
}

#[test]
fn damaged_and_foreign_pages_are_refused_on_load() {
    let (mut host, reference) = with_root_on_disk();
    let need = Need::Page(reference);
    let image = host.read(host.store.read_of(&need)).to_vec();
    let store = &mut host.store;
    for at in (0..image.len()).step_by(97) {
        let mut damaged = image.clone();
        damaged[at] ^= 0x10;
        let loaded = store.load(&need, Some(damaged.into()));
        assert!(
            matches!(loaded, Err(LoadError::Page { .. })),
            "byte {at}: {loaded:?}"
        );
    }
    assert_eq!(store.get(b"a", 1), Step::Need(need));
    store
        .load(&need, Some(image.into()))
        .expect("the right image");
    assert_eq!(store.get(b"a", 1), Step::Ready(None));
}

#[test]
fn bytes_of_a_page_that_is_no_longer_referred_to_are_dropped() {
    let (mut host, reference) = with_root_on_disk();
    let need = Need::Page(reference);
    host.settle(|store| store.get(b"a", 1));
    host.settle(|store| store.put(main(3), b"a", b"2", LeaseId::NONE));
    let garbage = Bytes::from(vec![0; reference.blocks as usize * BLOCK_BYTES]);
    assert_eq!(host.store.load(&need, Some(garbage)), Ok(()));
}

/// Whether an image that an older checkpoint wrote to the same blocks is refused.
fn stale_image_is_refused() -> bool {
    let (mut host, reference) = with_root_on_disk();
    let image = host.read(host.store.read_of(&Need::Page(reference)));
    let newer = PageRef {
        generation: reference.generation + 1,
        ..reference
    };
    host.store.tree.set_root(Swip::Disk(newer));
    host.store.load(&Need::Page(newer), Some(image)).is_err()
}

#[test]
fn a_stale_generation_is_refused() {
    use crate::planted::{Bug, with};
    assert!(stale_image_is_refused());
    assert!(
        !with(Bug::StaleGenerationAccepted, stale_image_is_refused),
        "the bug shows"
    );
}

/// Every byte of a manifest and every file of an image matters: the shard does not open without.
#[test]
fn a_damaged_image_is_refused_by_file_and_offset() {
    let mut host = Host::new(StoreConfig::new(0, 1), 1);
    for number in 0..3_000 {
        put(
            &mut host.store,
            2 + number,
            &format!("key-{number}"),
            "value",
        );
    }
    host.freeze();
    host.finish_checkpoint();
    let (_, manifest) = host.image.expect("published");
    let pages = FileName::Pages { shard: 0 };
    let start = manifest.block * BLOCK_BYTES as u64;
    let intact = host.disk.bytes(pages, start, u64::from(manifest.bytes));
    for at in (0..intact.len()).step_by(61) {
        let mut damaged = intact.clone();
        damaged[at] ^= 4;
        host.disk.overwrite(pages, start, damaged);
        let refused = host.try_reopen().expect_err("damaged").to_string();
        let place = format!("shard-00/pages at byte {start}:");
        assert!(refused.starts_with(&place), "{refused}");
        assert!(refused.contains("salvage"), "{refused}");
    }
    host.disk.overwrite(pages, start, intact);
    host.reopen();
    host.check();
}

#[test]
fn memory_of_pages_stays_bounded() {
    let config = StoreConfig {
        page_cache_bytes: 40 * PAGE_BYTES as u64,
        ..StoreConfig::new(0, 1)
    };
    let mut host = Host::new(config, 1);
    for number in 0..60_000u64 {
        let key = format!("key-{:08}", number.wrapping_mul(0x9e37_79b9) % 100_000);
        let revision = main(2 + number as i64);
        host.settle(|store| store.put(revision, key.as_bytes(), b"v", LeaseId::NONE));
        let dirty = host.store.dirty();
        if dirty.dirty_bytes > dirty.cache_bytes * 2 / 5 {
            host.freeze();
        }
        host.turn();
        if dirty.dirty_bytes > dirty.cache_bytes {
            host.finish_checkpoint();
        }
    }
    host.freeze();
    host.finish_checkpoint();
    for _ in 0..100 {
        host.turn();
    }
    let sums = host.store.pages.sums();
    let resident = host.store.pages.resident();
    assert!(sums.pages > 80, "{sums:?}");
    assert!(resident <= 40 + 1, "{resident} pages in memory");
    host.check();
}

/// Whatever request fails: nothing is emitted afterwards, no image comes to count, and what counted before
/// opens.
#[test]
fn a_failed_request_ends_all_writing() {
    let mut failures = 0;
    for after in 0..60 {
        let mut host = Host::new(StoreConfig::new(0, 1), after);
        put(&mut host.store, 2, "a", "1");
        if after % 2 == 0 {
            host.freeze();
            host.finish_checkpoint();
        }
        let before = host.image;
        for number in 3..2_000 {
            put(&mut host.store, number, &format!("key-{number}"), "value");
        }
        host.disk.fail_after(after / 2, diskio::sim::Fate::Lost);
        host.freeze();
        for _ in 0..1_000 {
            host.turn();
        }
        host.disk.heal();
        let Some(failed) = host.failed.take() else {
            continue;
        };
        failures += 1;
        let of_shard = failed.starts_with("shard-00") || failed.starts_with(".: ");
        assert!(of_shard, "{failed}");
        let mut out = Vec::new();
        host.store.poll(&mut out);
        assert_eq!((out, host.image), (Vec::new(), before));
        host.crash();
        let expected = before.map(|_| 2);
        let found = host.settle(|store| store.get(b"a", 5));
        assert_eq!(found.map(|version| version.modified.main), expected);
        host.check();
    }
    assert!(failures > 10, "{failures} failures");
}

#[test]
fn damage_names_file_and_offset() {
    let (mut host, reference) = with_root_on_disk();
    let need = Need::Page(reference);
    let garbage = Bytes::from(vec![1; reference.blocks as usize * BLOCK_BYTES]);
    let error = host.store.load(&need, Some(garbage)).expect_err("damaged");
    let damage = host.store.damage(&error).to_string();
    let place = format!(
        "shard-00/pages at offset {}:",
        reference.address * BLOCK_BYTES as u64
    );
    assert!(damage.starts_with(&place), "{damage}");
    assert!(damage.contains("checksum"), "{damage}");
}
