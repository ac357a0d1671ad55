//! Reads: keys, chunks of keys, questions, keys of leases.

use bytes::Bytes;

use crate::command::*;
use crate::events::RECORD_HEADER_BYTES;
use crate::shard::batch::read_key;
use crate::shard::request::*;
use crate::shard::{Shard, ShardReply};
use crate::step::{Step, ready};
use crate::store::{Scan, Version};
use crate::txn::{Stored, satisfies};

/// Keys that a guard over a range looks at in one go.
const COMPARE_CHUNK_KEYS: usize = 512;

/// Bytes that a guard over a range looks at in one go.
const COMPARE_CHUNK_BYTES: usize = 1 << 20;

impl Shard {
    pub(super) fn get(&mut self, get: &Get) -> Step<ShardReply> {
        if !self.is_readable(get.at, get.pin) {
            return Step::Ready(ShardReply::Refused);
        }
        read_key(&mut self.store, &get.key, get.at, get.values).map(ShardReply::Value)
    }

    pub(super) fn scan(&mut self, request: &ScanRequest) -> Step<ShardReply> {
        if !self.is_readable(request.at, request.pin) {
            return Step::Ready(ShardReply::Refused);
        }
        let count = if request.count {
            Some(ready!(self.store.count(&request.range, request.at, None)))
        } else {
            None
        };
        let chunk = ready!(self.store.scan(&Scan {
            range: &request.range,
            after: request.after.as_deref(),
            at: request.at,
            limit: request.limit,
            bytes_max: request.bytes_max,
            values: request.values,
            passing: request.pin.is_some(),
        }));
        let resume = chunk.more.then(|| {
            let last = chunk.items.last().expect("a chunk with more is not empty");
            last.0.clone()
        });
        let scanned = chunk.items.len() as i64;
        let within = chunk.items.into_iter().filter(|(_, version, _)| {
            let modified = version.modified.main;
            request.bounds.admit(version.create, modified)
        });
        let mut value_bytes = Vec::new();
        let kvs = within.map(|item| {
            if request.lengths {
                value_bytes.push(value_len(&item.0, &item.1));
            }
            key_value(item)
        });
        Step::Ready(ShardReply::Chunk(ScanReply {
            kvs: kvs.collect(),
            value_bytes,
            scanned,
            resume,
            count,
        }))
    }

    pub(super) fn probe(&mut self, at: i64, questions: &[Question]) -> Step<ShardReply> {
        let found = self
            .findings
            .take(|(kept, kept_at)| *kept_at == at && kept == questions);
        let mut findings: Vec<Finding> = found.unwrap_or_default();
        while let Some(question) = questions.get(findings.len()) {
            let answer = match &question.kind {
                QuestionKind::Exists(key) => {
                    let found = self.store.get(key, at);
                    found.map(|version| (version.is_some(), true))
                }
                QuestionKind::Compare(compare) => self.compare(compare, at),
            };
            let (seen, holds) = match answer {
                Step::Ready(answer) => answer,
                Step::Need(need) => {
                    if !findings.is_empty() {
                        self.findings.keep((questions.to_vec(), at), findings);
                    }
                    return Step::Need(need);
                }
            };
            findings.push(Finding {
                slot: question.slot,
                seen,
                holds,
            });
        }
        Step::Ready(ShardReply::Probed(findings))
    }

    /// Whether there is a key in the guard's range here, and whether all of them satisfy it.
    fn compare(&mut self, compare: &Compare, at: i64) -> Step<(bool, bool)> {
        let values = matches!(compare.target, CompareTarget::Value(_));
        let mut after = self
            .compares
            .take(|(kept, kept_at)| *kept_at == at && kept == compare);
        let mut seen = after.is_some();
        loop {
            let chunk = self.store.scan(&Scan {
                range: &compare.range,
                after: after.as_deref(),
                at,
                limit: COMPARE_CHUNK_KEYS,
                bytes_max: COMPARE_CHUNK_BYTES,
                values,
                passing: false,
            });
            let chunk = match (chunk, after) {
                (Step::Ready(chunk), _) => chunk,
                (Step::Need(need), after) => {
                    if let Some(after) = after {
                        self.compares.keep((compare.clone(), at), after);
                    }
                    return Step::Need(need);
                }
            };
            for (_, version, value) in &chunk.items {
                seen = true;
                if !satisfies(compare, stored(version, value)) {
                    return Step::Ready((true, false));
                }
            }
            match chunk.items.last() {
                Some((last, ..)) if chunk.more => after = Some(last.clone()),
                _ => return Step::Ready((seen, true)),
            }
        }
    }

    pub(super) fn lease_keys(&mut self, leases: &[LeaseId]) -> Step<ShardReply> {
        let newest = self.store.newest_event();
        let found = self
            .lease_keys
            .take(|(kept, kept_at)| *kept_at == newest && kept == leases);
        let mut keys: Vec<Vec<Bytes>> = found.unwrap_or_default();
        while keys.len() < leases.len() {
            match self.store.keys_of_lease(leases[keys.len()]) {
                Step::Ready(of_lease) => keys.push(of_lease),
                Step::Need(need) => {
                    if !keys.is_empty() {
                        self.lease_keys.keep((leases.to_vec(), newest), keys);
                    }
                    return Step::Need(need);
                }
            }
        }
        Step::Ready(ShardReply::LeaseKeys(keys))
    }
}

fn stored<'a>(version: &Version, value: &'a [u8]) -> Stored<'a> {
    Stored {
        version: version.version,
        create: version.create,
        modified: version.modified.main,
        lease: version.lease,
        value,
    }
}

/// Bytes of the value of a version of `key`: what its record has beside header and key.
fn value_len(key: &[u8], version: &Version) -> u32 {
    let others = RECORD_HEADER_BYTES + key.len();
    version.loc.len.saturating_sub(others as u32)
}

fn key_value((key, version, value): (Bytes, Version, Bytes)) -> KeyValue {
    KeyValue {
        key,
        value,
        create_revision: version.create,
        mod_revision: version.modified.main,
        version: version.version,
        lease: version.lease,
    }
}
