//! A store that is plain ordered maps: what the real one is compared with.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::command::{KeyValue, LeaseId};
use crate::events::{Loc, Record, SegmentId};
use crate::key::KeyRange;
use crate::revision::Revision;
use crate::store::{Event, Version};

#[derive(Clone, Debug)]
struct Change {
    tombstone: bool,
    version: Version,
    value: Bytes,
}

/// One shard's data.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// Changes of each key, oldest first.
    keys: BTreeMap<Bytes, Vec<Change>>,
    log: Vec<(Bytes, Change)>,
    leases: BTreeSet<(LeaseId, Bytes)>,
    compacted: i64,
    live: u64,
}

impl Model {
    fn change(&self, key: &[u8], at: i64) -> Option<&Change> {
        let changes = self.keys.get(key)?;
        let behind = changes.partition_point(|change| change.version.modified.main <= at);
        let change = &changes[behind.checked_sub(1)?];
        (!change.tombstone).then_some(change)
    }

    /// The key-value of `key` at `at`.
    pub(super) fn key_value(&self, key: &[u8], at: i64) -> Option<KeyValue> {
        let change = self.change(key, at)?;
        Some(KeyValue {
            key: Bytes::copy_from_slice(key),
            value: change.value.clone(),
            create_revision: change.version.create,
            mod_revision: change.version.modified.main,
            version: change.version.version,
            lease: change.version.lease,
        })
    }

    /// Every key-value of `range` at `at`.
    pub(super) fn scan(&self, range: &KeyRange, at: i64) -> Vec<KeyValue> {
        let keys = self.keys.range(range.start.clone()..).map(|(key, _)| key);
        let keys = keys.take_while(|key| range.contains(key));
        keys.filter_map(|key| self.key_value(key, at)).collect()
    }

    /// Live keys of `range` at `at`.
    pub(super) fn count(&self, range: &KeyRange, at: i64) -> i64 {
        let keys = self.keys.range(range.start.clone()..).map(|(key, _)| key);
        let keys = keys.take_while(|key| range.contains(key));
        keys.filter(|key| self.change(key, at).is_some()).count() as i64
    }

    pub(super) fn put(&mut self, revision: Revision, key: &[u8], value: &[u8], lease: LeaseId) {
        let previous = self.change(key, i64::MAX).map(|change| change.version);
        let version = Version {
            create: previous.map_or(revision.main, |previous| previous.create),
            modified: revision,
            version: previous.map_or(1, |previous| previous.version + 1),
            lease,
            loc: Loc {
                segment: SegmentId::event(1),
                offset: 0,
                len: 0,
            },
            hash: 0,
        };
        if let Some(previous) = previous {
            self.leases
                .remove(&(previous.lease, Bytes::copy_from_slice(key)));
        } else {
            self.live += 1;
        }
        if lease != LeaseId::NONE {
            self.leases.insert((lease, Bytes::copy_from_slice(key)));
        }
        self.record(
            key,
            Change {
                tombstone: false,
                version,
                value: Bytes::copy_from_slice(value),
            },
        );
    }

    pub(super) fn delete(&mut self, revision: Revision, key: &[u8]) -> bool {
        let Some(previous) = self.change(key, i64::MAX).map(|change| change.version) else {
            return false;
        };
        self.leases
            .remove(&(previous.lease, Bytes::copy_from_slice(key)));
        self.live -= 1;
        let version = Version {
            modified: revision,
            lease: LeaseId::NONE,
            ..previous
        };
        self.record(
            key,
            Change {
                tombstone: true,
                version,
                value: Bytes::new(),
            },
        );
        true
    }

    fn record(&mut self, key: &[u8], change: Change) {
        let key = Bytes::copy_from_slice(key);
        self.log.push((key.clone(), change.clone()));
        self.keys.entry(key).or_default().push(change);
    }

    pub(super) fn keys_of_lease(&self, lease: LeaseId) -> Vec<Bytes> {
        let attached = self.leases.range((lease, Bytes::new())..);
        let attached = attached.take_while(|(id, _)| *id == lease);
        attached.map(|(_, key)| key.clone()).collect()
    }

    /// All events of `from..=to` whose keys `wanted` admits.
    pub(super) fn events(
        &self,
        (from, to): (i64, i64),
        wanted: impl Fn(&[u8]) -> bool,
        prev_kv: bool,
    ) -> Vec<Event> {
        let first = self
            .log
            .partition_point(|(_, c)| c.version.modified.main < from);
        let changes = self.log[first..].iter();
        let changes = changes.take_while(|(_, change)| change.version.modified.main <= to);
        changes
            .filter(|(key, _)| wanted(key))
            .map(|(key, change)| {
                let revision = change.version.modified;
                let before = revision.main - 1;
                let created = !change.tombstone && change.version.version == 1;
                let asked = prev_kv && !created && before >= self.compacted;
                let prev_kv = if asked {
                    self.key_value(key, before)
                } else {
                    None
                };
                let mut kv = KeyValue {
                    key: key.clone(),
                    mod_revision: revision.main,
                    ..KeyValue::default()
                };
                if !change.tombstone {
                    kv.value = change.value.clone();
                    kv.create_revision = change.version.create;
                    kv.version = change.version.version;
                    kv.lease = change.version.lease;
                }
                Event {
                    tombstone: change.tombstone,
                    revision,
                    kv,
                    prev_kv,
                }
            })
            .collect()
    }

    pub(super) fn compact(&mut self, revision: i64) {
        self.compacted = self.compacted.max(revision);
    }

    pub(super) fn compacted(&self) -> i64 {
        self.compacted
    }

    /// The sum of the event hashes of what is readable from the compact revision to `at`.
    pub(super) fn hash(&self, at: i64) -> u64 {
        let mut sum = 0u64;
        for (key, changes) in &self.keys {
            let old = changes
                .iter()
                .rposition(|change| change.version.modified.main <= self.compacted);
            for (index, change) in changes.iter().enumerate() {
                let main = change.version.modified.main;
                let readable = main > self.compacted || Some(index) == old && !change.tombstone;
                if readable && main <= at {
                    sum = sum.wrapping_add(u64::from(hash_of(key, change)));
                }
            }
        }
        sum
    }

    /// The sum of the event hashes of what a finished pass leaves: all above the compact revision, and of
    /// each key the newest up to there, unless that is a tombstone below.
    pub(super) fn retained(&self) -> u64 {
        let mut sum = 0u64;
        for (key, changes) in &self.keys {
            let behind =
                changes.partition_point(|change| change.version.modified.main <= self.compacted);
            let newest = behind.checked_sub(1).map(|old| &changes[old]);
            let kept =
                newest.filter(|old| !old.tombstone || old.version.modified.main == self.compacted);
            for change in changes[behind..].iter().chain(kept) {
                sum = sum.wrapping_add(u64::from(hash_of(key, change)));
            }
        }
        sum
    }

    pub(super) fn live(&self) -> u64 {
        self.live
    }
}

fn hash_of(key: &[u8], change: &Change) -> u32 {
    let version = &change.version;
    let record = Record {
        tombstone: change.tombstone,
        revision: version.modified,
        create: version.create,
        version: version.version,
        lease: version.lease,
        key,
        value: &change.value,
    };
    record.event_hash()
}
