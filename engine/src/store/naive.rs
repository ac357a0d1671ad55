//! A store that is a plain ordered map: what the real one is compared with.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::command::{KeyValue, LeaseId};
use crate::events::{Loc, SegmentId};
use crate::key::KeyRange;
use crate::revision::Revision;
use crate::step::{Need, Step};
use crate::store::types::*;

#[derive(Clone, Debug)]
struct Change {
    tombstone: bool,
    version: Version,
    value: Bytes,
}

/// One shard's data.
#[derive(Debug, Default)]
pub struct Store {
    keys: BTreeMap<Bytes, Vec<Change>>,
    log: Vec<(Bytes, Change)>,
    leases: BTreeSet<(LeaseId, Bytes)>,
    compacted: i64,
    live: u64,
    bytes: u64,
}

impl Store {
    /// An empty store.
    pub fn new(_config: StoreConfig) -> Self {
        Store::default()
    }

    fn change(&self, key: &[u8], at: i64) -> Option<&Change> {
        let changes = self.keys.get(key)?;
        let change = changes
            .iter()
            .rev()
            .find(|change| change.version.modified.main <= at)?;
        (!change.tombstone).then_some(change)
    }

    fn key_value(&self, key: &[u8], at: i64) -> Option<KeyValue> {
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

    /// The newest version of `key` with main ≤ `at`; `None` if absent or deleted.
    pub fn get(&mut self, key: &[u8], at: i64) -> Step<Option<Version>> {
        Step::Ready(self.change(key, at).map(|change| change.version))
    }

    /// The value of the version at `loc`.
    pub fn value(&mut self, loc: Loc) -> Step<Bytes> {
        Step::Ready(self.log[loc.offset as usize / 8].1.value.clone())
    }

    /// Reads a chunk of keys.
    pub fn scan(&mut self, query: &Scan<'_>) -> Step<ScanChunk> {
        let mut chunk = ScanChunk::default();
        let mut bytes = 0;
        for key in self
            .keys
            .range(query.range.start.clone()..)
            .map(|(key, _)| key)
        {
            if query.after.is_some_and(|after| key.as_ref() <= after) {
                continue;
            }
            if !query.range.contains(key) {
                break;
            }
            if chunk.items.len() >= query.limit || bytes >= query.bytes_max {
                chunk.more = true;
                break;
            }
            if let Some(change) = self.change(key, query.at) {
                let value = if query.values {
                    change.value.clone()
                } else {
                    Bytes::new()
                };
                bytes += key.len() + value.len();
                chunk.items.push((key.clone(), change.version, value));
            }
        }
        Step::Ready(chunk)
    }

    /// Live keys of `range` at `at`.
    pub fn count(&mut self, range: &KeyRange, at: i64) -> Step<i64> {
        let keys = self.keys.range(range.start.clone()..).map(|(key, _)| key);
        let keys = keys.take_while(|key| range.contains(key));
        Step::Ready(keys.filter(|key| self.change(key, at).is_some()).count() as i64)
    }

    /// Stores `value` under `key`.
    pub fn put(
        &mut self,
        revision: Revision,
        key: &[u8],
        value: &[u8],
        lease: LeaseId,
    ) -> Step<Version> {
        let previous = self.change(key, i64::MAX).map(|change| change.version);
        let version = Version {
            create: previous.map_or(revision.main, |previous| previous.create),
            modified: revision,
            version: previous.map_or(1, |previous| previous.version + 1),
            lease,
            loc: Loc {
                segment: SegmentId::event(1),
                offset: self.log.len() as u32 * 8,
                len: (48 + key.len() + value.len()) as u32,
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
        Step::Ready(version)
    }

    /// Deletes `key`; `false` if it was not there.
    pub fn delete(&mut self, revision: Revision, key: &[u8]) -> Step<bool> {
        let Some(previous) = self.change(key, i64::MAX).map(|change| change.version) else {
            return Step::Ready(false);
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
        Step::Ready(true)
    }

    fn record(&mut self, key: &[u8], change: Change) {
        self.bytes += (48 + key.len() + change.value.len()) as u64;
        let key = Bytes::copy_from_slice(key);
        self.log.push((key.clone(), change.clone()));
        self.keys.entry(key).or_default().push(change);
    }

    /// Keys attached to `lease`, in key order.
    pub fn keys_of_lease(&mut self, lease: LeaseId) -> Step<Vec<Bytes>> {
        let attached = self.leases.range((lease, Bytes::new())..);
        let attached = attached.take_while(|(id, _)| *id == lease);
        Step::Ready(attached.map(|(_, key)| key.clone()).collect())
    }

    /// Reads a chunk of history.
    pub fn events(&mut self, query: &EventQuery<'_>) -> Step<EventChunk> {
        let mut chunk = EventChunk {
            events: Vec::new(),
            next: query.to + 1,
        };
        let mut bytes = 0;
        let first = self
            .log
            .partition_point(|(_, c)| c.version.modified.main < query.from);
        for (key, change) in &self.log[first..] {
            let revision = change.version.modified;
            if revision.main > query.to {
                break;
            }
            let last = chunk.events.last().map(|event| event.revision.main);
            if bytes >= query.bytes_max && last != Some(revision.main) {
                chunk.next = revision.main;
                break;
            }
            if query.ranges.is_some_and(|ranges| !ranges.contains(key)) {
                continue;
            }
            let before = revision.main - 1;
            let prev_kv = (query.prev_kv && before >= self.compacted)
                .then(|| self.key_value(key, before))
                .flatten();
            let kv = if change.tombstone {
                KeyValue {
                    key: key.clone(),
                    mod_revision: revision.main,
                    ..KeyValue::default()
                }
            } else {
                KeyValue {
                    key: key.clone(),
                    value: change.value.clone(),
                    create_revision: change.version.create,
                    mod_revision: revision.main,
                    version: change.version.version,
                    lease: change.version.lease,
                }
            };
            bytes += kv.key.len() + kv.value.len();
            chunk.events.push(Event {
                tombstone: change.tombstone,
                revision,
                kv,
                prev_kv,
            });
        }
        Step::Ready(chunk)
    }

    /// Notes that reads below `revision` are refused from here on.
    pub fn compact(&mut self, revision: i64) {
        self.compacted = self.compacted.max(revision);
    }

    /// How large the shard is.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            bytes: self.bytes,
            bytes_in_use: self.bytes,
            keys: self.live,
        }
    }

    /// Takes what the shell brings for `need`.
    pub fn load(&mut self, need: &Need, _bytes: Option<Bytes>) -> Result<(), LoadError> {
        Err(LoadError::Nothing { need: *need })
    }

    /// Asserts every invariant.
    pub fn check(&self) {}
}
