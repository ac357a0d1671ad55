//! Random operations on the real store and on the model, every answer compared.

use bytes::Bytes;

use super::host::{Ends, Host};
use super::model::Model;
use super::{Random, budget};
use crate::command::{KeyValue, LeaseId};
use crate::compaction::{HashRequest, Maintained};
use crate::key::{End, KeyRange};
use crate::page::PAGE_BYTES;
use crate::revision::Revision;
use crate::store::*;

/// What the keys of a run look like.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keys {
    /// A few keys with long histories.
    Hot,
    /// Paths with common prefixes.
    Paths,
    /// Keys up to the maximum that differ late.
    Long,
    /// Any bytes, many of them short.
    Bytes,
}

const KEYS: [Keys; 4] = [Keys::Hot, Keys::Paths, Keys::Long, Keys::Bytes];
const LEASES: u64 = 6;

/// What a run has beside the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Around {
    /// Nothing: all is in memory.
    Nothing,
    /// A disk, checkpoints, a small cache and crashes.
    Disk,
    /// The same, and anything clean may be missing at any time.
    DiskAndMissing,
}

/// A change that is done again after a crash.
#[derive(Clone, Debug)]
enum Change {
    Put(Revision, Vec<u8>, Vec<u8>, LeaseId),
    Delete(Revision, Vec<u8>),
    Compact(i64),
}

/// The real store and the model, in step.
pub(super) struct Pair {
    pub(super) host: Host,
    model: Model,
    random: Random,
    keys: Keys,
    around: Around,
    revision: Revision,
    changes: Vec<Change>,
    /// Changes that the images have: of the one that counts, and of the one under way.
    in_image: usize,
    in_frozen: usize,
    /// Compactions are frequent.
    compacts: bool,
    ends: Ends,
}

impl Pair {
    pub(super) fn new(seed: u64, keys: Keys, around: Around) -> Self {
        let mut random = Random(seed);
        let hook = MissingHook {
            seed,
            one_in: 10 + random.below(300) as u32,
            rearm_after: 2000,
        };
        let config = StoreConfig {
            segment_bytes_first: 4096,
            segment_bytes_max: 256 * 1024,
            piece_bytes: 4096 << random.below(4),
            page_cache_bytes: PAGE_BYTES as u64 * (4 + random.below(40)),
            tail_bytes_max: random.below(100_000),
            value_cache_bytes: 1 << (20 + random.below(3)),
            collection_bytes_max: 1 << (10 + random.below(10)),
            compaction_way: match seed / 3 % 3 {
                0 => CompactionWay::Cheaper,
                1 => CompactionWay::Events,
                _ => CompactionWay::Pages,
            },
            missing: (around == Around::DiskAndMissing).then_some(hook),
            ..StoreConfig::new(3, seed)
        };
        let revision = Revision { main: 1, sub: 0 };
        Pair {
            host: Host::new(config, seed),
            model: Model::default(),
            random,
            keys,
            around,
            revision,
            changes: Vec::new(),
            in_image: 0,
            in_frozen: 0,
            compacts: !seed.is_multiple_of(3),
            ends: Ends::default(),
        }
    }

    fn key(&mut self) -> Vec<u8> {
        let random = &mut self.random;
        match self.keys {
            Keys::Hot => format!("hot/{}", random.below(12)).into_bytes(),
            Keys::Paths => {
                let namespace = random.below(20);
                let name = random.below(150).wrapping_mul(0x9e37_79b9) & 0xffff_ffff;
                format!("/registry/pods/namespace-{namespace}/pod-{name:08x}").into_bytes()
            }
            Keys::Long => {
                let mut key = vec![b'k'; 1600];
                let number = random.below(400);
                key.extend_from_slice(format!("{number:03}").as_bytes());
                if number.is_multiple_of(3) {
                    key.resize(crate::command::KEY_BYTES_MAX, b'x');
                }
                if number.is_multiple_of(7) {
                    key[0] = b'a' + (number % 26) as u8;
                }
                key
            }
            Keys::Bytes => {
                let len = 1 + random.below(6);
                (0..len)
                    .map(|_| [0, 1, b'a', b'b', 0xff][random.below(5) as usize])
                    .collect()
            }
        }
    }

    fn range(&mut self) -> KeyRange {
        let start = Bytes::from(self.key());
        let end = match self.random.below(10) {
            0 => End::Single,
            1 => End::Unbounded,
            _ => End::Before(Bytes::from(self.key())),
        };
        let start = if self.random.one_in(10) {
            Bytes::new()
        } else {
            start
        };
        KeyRange { start, end }
    }

    fn at(&mut self) -> i64 {
        let newest = self.revision.main;
        let at = match self.random.below(4) {
            0 => newest,
            1 => (newest - self.random.below(20) as i64).max(0),
            2 => newest + 5,
            _ => self.random.below(newest as u64 + 1) as i64,
        };
        at.max(self.model.compacted())
    }

    fn value(&mut self) -> Vec<u8> {
        let len = match self.random.below(200) {
            0 => 70_000,
            1..10 => 3_000,
            _ => self.random.below(120),
        };
        vec![self.random.next() as u8; len as usize]
    }

    fn lease(&mut self) -> LeaseId {
        match self.random.below(3) {
            0 => LeaseId(0x7000_0000_0000 + self.random.below(LEASES) as i64),
            _ => LeaseId::NONE,
        }
    }

    fn next_revision(&mut self) -> Revision {
        self.revision = match self.random.one_in(5) {
            true if self.revision.sub < u32::MAX => Revision {
                sub: self.revision.sub + 1,
                ..self.revision
            },
            _ => Revision {
                main: self.revision.main + 1 + i64::from(self.random.one_in(9)),
                sub: 0,
            },
        };
        self.revision
    }

    /// One random operation.
    pub(super) fn step(&mut self) {
        match self.random.below(1000) {
            0..420 => self.put(),
            420..540 => self.delete(),
            540..900 => self.get(),
            900..930 => self.count(),
            930..960 => self.scan(),
            960..980 => self.events(),
            980..994 => self.leases(),
            994..998 => self.hash(),
            _ => self.compact(),
        }
        if self.compacts && self.random.one_in(60) {
            self.compact();
        }
        for _ in 0..self.random.below(3) {
            self.maintain();
        }
        if self.around != Around::Nothing {
            self.background();
        }
    }

    /// Some of the disk's work, a freeze at times, a crash now and then.
    fn background(&mut self) {
        for _ in 0..self.random.below(4) {
            if self.host.turn() {
                self.in_image = self.in_frozen;
                self.ends.checkpoints += 1;
            }
        }
        if self.random.one_in(40) && self.host.freeze() {
            self.in_frozen = self.changes.len();
        }
        if self.random.one_in(900) {
            self.host.disk.limit_room(Some(0));
        }
        if self.random.one_in(700) {
            self.crash();
        }
        assert_eq!(self.host.failed, None);
    }

    /// Crashes at times again while the lost changes are being done again.
    fn crash(&mut self) {
        self.host.crash();
        self.ends.crashes += 1;
        let mut next = self.in_image;
        while next < self.changes.len() {
            let change = self.changes[next].clone();
            self.redo(&change);
            next += 1;
            if self.random.one_in(2) {
                self.slice();
            }
            for _ in 0..self.random.below(3) {
                if self.host.turn() {
                    self.in_image = self.in_frozen;
                    self.ends.checkpoints += 1;
                }
            }
            if self.random.one_in(100) && self.host.freeze() {
                self.in_frozen = next;
            }
            if self.random.one_in(1500) {
                self.host.crash();
                self.ends.crashes += 1;
                next = self.in_image;
            }
        }
    }

    fn redo(&mut self, change: &Change) {
        match change {
            Change::Put(revision, key, value, lease) => {
                self.host
                    .settle(|store| store.put(*revision, key, value, *lease));
            }
            Change::Delete(revision, key) => {
                self.host.settle(|store| store.delete(*revision, key));
            }
            Change::Compact(revision) => self.host.store.compact(*revision),
        }
    }

    fn put(&mut self) {
        let (key, value, lease) = (self.key(), self.value(), self.lease());
        let revision = self.next_revision();
        let version = self
            .host
            .settle(|store| store.put(revision, &key, &value, lease));
        self.model.put(revision, &key, &value, lease);
        self.changes
            .push(Change::Put(revision, key.clone(), value, lease));
        let expected = self.model.key_value(&key, i64::MAX);
        assert_eq!(
            self.key_value(&key, version, true),
            expected.expect("just put")
        );
    }

    fn delete(&mut self) {
        let key = self.key();
        let revision = self.next_revision();
        let deleted = self.host.settle(|store| store.delete(revision, &key));
        assert_eq!(deleted, self.model.delete(revision, &key));
        self.changes.push(Change::Delete(revision, key));
    }

    fn key_value(&mut self, key: &[u8], version: Version, value: bool) -> KeyValue {
        let value = match value {
            true => self.host.settle(|store| store.value(version.loc)),
            false => Bytes::new(),
        };
        key_value(key, version, value)
    }

    fn get(&mut self) {
        let (key, at) = (self.key(), self.at());
        let version = self.host.settle(|store| store.get(&key, at));
        let got = version.map(|version| self.key_value(&key, version, true));
        assert_eq!(got, self.model.key_value(&key, at), "get {key:?} at {at}");
    }

    fn count(&mut self) {
        let (range, at) = (self.range(), self.at());
        let mut cursor = None;
        let got = loop {
            let counted = self
                .host
                .settle(|store| store.count(&range, at, cursor.as_ref()));
            match counted {
                Counted::Whole(count) => break count,
                Counted::Part(next) => cursor = Some(next),
            }
        };
        assert_eq!(
            got,
            self.model.count(&range, at),
            "count of {range:?} at {at}"
        );
    }

    fn scan(&mut self) {
        let (range, at) = (self.range(), self.at());
        let limit = [1, 7, 100, usize::MAX][self.random.below(4) as usize];
        let bytes_max = [1, 500, 100_000, usize::MAX][self.random.below(4) as usize];
        let values = self.random.one_in(2);
        let passing = self.random.one_in(2);
        let mut expected = self.model.scan(&range, at);
        expected.truncate(200);
        let mut got: Vec<KeyValue> = Vec::new();
        let mut after: Option<Bytes> = None;
        loop {
            let chunk = self.host.settle(|store| {
                let after = after.as_deref();
                store.scan(&Scan {
                    range: &range,
                    after,
                    at,
                    limit,
                    bytes_max,
                    values,
                    passing,
                })
            });
            assert!(
                chunk.items.len() <= limit,
                "{} items of {limit}",
                chunk.items.len()
            );
            after = chunk.items.last().map(|(key, _, _)| key.clone());
            let items = chunk.items.into_iter();
            got.extend(items.map(|(key, version, value)| key_value(&key, version, value)));
            if !chunk.more || got.len() >= 200 {
                break;
            }
            assert!(after.is_some(), "an empty chunk that promises more");
        }
        got.truncate(200);
        if !values {
            expected.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        assert_eq!(got, expected, "scan of {range:?} at {at}");
    }

    fn events(&mut self) {
        let from = self.random.below(self.revision.main as u64 + 2) as i64;
        let from = from.max(self.model.compacted());
        let to = from + self.random.below(150) as i64;
        let ranges: RangeSet = (0..1 + self.random.below(4))
            .map(|_| self.range())
            .collect();
        let ranges = (!self.random.one_in(3)).then_some(ranges);
        let prev_kv = self.random.one_in(2);
        let bytes_max = [1, 300, 20_000, usize::MAX][self.random.below(4) as usize];
        let mut got = Vec::new();
        let mut next = from;
        while next <= to {
            let chunk = self.host.settle(|store| {
                let ranges = ranges.as_ref();
                store.events(&EventQuery {
                    from: next,
                    to,
                    ranges,
                    prev_kv,
                    bytes_max,
                    passing: false,
                })
            });
            assert!(chunk.next > next, "no progress at {next}");
            let whole = |event: &Event| (next..chunk.next).contains(&event.revision.main);
            assert!(
                chunk.events.iter().all(whole),
                "parts of revisions in {next}..{}",
                chunk.next
            );
            next = chunk.next;
            got.extend(chunk.events);
        }
        let wanted = |key: &[u8]| ranges.as_ref().is_none_or(|ranges| ranges.contains(key));
        let expected = self.model.events((from, to), wanted, prev_kv);
        assert_eq!(got, expected, "events of {from}..={to}");
    }

    fn leases(&mut self) {
        let lease = LeaseId(0x7000_0000_0000 + self.random.below(LEASES + 1) as i64 - 1);
        let got = self.host.settle(|store| store.keys_of_lease(lease));
        assert_eq!(got, self.model.keys_of_lease(lease), "keys of {lease:?}");
        if self.random.one_in(8) {
            for key in got {
                let revision = self.next_revision();
                assert!(self.host.settle(|store| store.delete(revision, &key)));
                assert!(self.model.delete(revision, &key));
                self.changes.push(Change::Delete(revision, key.to_vec()));
            }
        }
    }

    /// A slice of background work, with what it must leave.
    fn maintain(&mut self) {
        self.slice();
        let store = &self.host.store;
        if store.compact_revision() == self.model.compacted()
            && store.pass.is_done()
            && self.random.one_in(10)
        {
            assert_eq!(store.event_hashes, self.model.retained(), "versions left");
        }
        if self.random.one_in(4)
            && let Some(target) = self.host.settle(Store::scrub_next)
        {
            let bytes = self.host.read(self.host.store.read_of(target.need()));
            let damage = self.host.store.scrub_check(&target, &bytes);
            assert_eq!(damage, None, "of {target:?}");
            self.ends.scrubbed += 1;
        }
    }

    fn slice(&mut self) {
        let percent = [30, 50, 90, 100][self.random.below(4) as usize];
        let left = self.host.settle(|store| store.maintain(percent));
        self.ends.slices += u64::from(left == Maintained::Working);
    }

    fn hash(&mut self) {
        let (at, compacted) = (self.at(), self.model.compacted());
        let mut sum = 0u64;
        let mut from = Some(Bytes::new());
        while let Some(start) = from {
            let request = HashRequest {
                from: start,
                at,
                compacted,
            };
            let part = self.host.settle(|store| store.hash(&request));
            sum = sum.wrapping_add(part.sum);
            from = part.resume;
            if self.random.one_in(2) {
                self.maintain();
            }
        }
        assert_eq!(sum, self.model.hash(at), "hash at {at} above {compacted}");
    }

    fn compact(&mut self) {
        let compacted = self.model.compacted();
        let above = self
            .random
            .below((self.revision.main - compacted) as u64 + 1) as i64;
        let revision = compacted + above;
        // Whatever comes behind a compaction has a main revision of its own.
        self.revision.sub = u32::MAX;
        self.host.store.compact(revision);
        self.model.compact(revision);
        self.changes.push(Change::Compact(revision));
        assert_eq!(self.host.store.sizes().keys, self.model.live());
    }
}

fn key_value(key: &[u8], version: Version, value: Bytes) -> KeyValue {
    KeyValue {
        key: Bytes::copy_from_slice(key),
        value,
        create_revision: version.create,
        mod_revision: version.modified.main,
        version: version.version,
        lease: version.lease,
    }
}

/// Runs `operations` of one seed with full checks in between.
pub(super) fn run(seed: u64, keys: Keys, around: Around, operations: u64) -> Ends {
    let mut pair = Pair::new(seed, keys, around);
    for operation in 1..=operations {
        pair.step();
        if operation.is_multiple_of(operations / 4) {
            pair.host.check();
        }
    }
    pair.ends.settled = pair.host.store.log.settled_bytes();
    pair.ends
}

fn runs(around: Around, seeds: u64) {
    let mut all = Ends::default();
    for seed in 0..seeds * budget() {
        for keys in KEYS {
            let ends = run(seed, keys, around, 8_000);
            all.checkpoints += ends.checkpoints;
            all.crashes += ends.crashes;
            all.slices += ends.slices;
            all.scrubbed += ends.scrubbed;
            all.settled += ends.settled;
        }
    }
    let had_a_disk = all.checkpoints > 0 && all.crashes > 0;
    println!("{around:?}: {all:?}");
    assert_eq!(had_a_disk, around != Around::Nothing, "{all:?}");
    assert!(all.slices > 0, "{all:?}");
    assert!(
        !had_a_disk || all.settled > 0 && all.scrubbed > 0,
        "{all:?}"
    );
}

#[test]
fn equals_the_model() {
    runs(Around::Nothing, 6);
}

#[test]
fn equals_the_model_across_checkpoints_evictions_and_crashes() {
    runs(Around::Disk, 5);
}

#[test]
fn equals_the_model_when_anything_may_be_missing() {
    runs(Around::DiskAndMissing, 5);
}
