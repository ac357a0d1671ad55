//! What is asked of the server: which call, on which key, and what its answer means.

use crate::http2::RequestHead;
use crate::load::{Calls, Verdict};
use crate::message;
use crate::random::Random;

const KEY_PREFIX: &[u8] = b"/ringbench/";
const KEY_DIGITS: usize = 16;

/// The kind of call that a load run sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Puts every key once, in order; ends by itself.
    Load,
    /// Puts of random keys.
    Put,
    /// Reads of random keys.
    Get {
        /// Whether the answer may be stale.
        serializable: bool,
    },
    /// Updates as an API server writes them: a transaction that compares the key's last change.
    CompareAndSet {
        /// Share of updates that are sent with an outdated revision on purpose.
        conflicts_percent: u8,
    },
}

/// The keys, with what the client knows of them.
///
/// Invariant: `revisions[i]` is the last change of key `i` that a response has shown, 0 for none.
#[derive(Debug)]
pub struct KeySpace {
    revisions: Vec<i64>,
    value: Vec<u8>,
    written: u64,
}

impl KeySpace {
    /// `key_count` keys whose values have `value_bytes` random bytes.
    pub fn new(key_count: usize, value_bytes: usize, seed: u64) -> Self {
        assert!(key_count > 0, "a key space needs a key");
        let mut random = Random::new(seed);
        Self {
            revisions: vec![0; key_count],
            value: (0..value_bytes).map(|_| random.bits() as u8).collect(),
            written: 0,
        }
    }

    /// Number of keys.
    pub fn key_count(&self) -> usize {
        self.revisions.len()
    }

    /// A value that differs from all values before it.
    fn next_value(&mut self) -> &[u8] {
        self.written += 1;
        let stamp = self.written.to_le_bytes();
        let len = stamp.len().min(self.value.len());
        self.value[..len].copy_from_slice(&stamp[..len]);
        &self.value
    }
}

/// The name of key number `index`.
pub fn key_name(index: usize) -> [u8; KEY_PREFIX.len() + KEY_DIGITS] {
    let mut name = [b'0'; KEY_PREFIX.len() + KEY_DIGITS];
    name[..KEY_PREFIX.len()].copy_from_slice(KEY_PREFIX);
    let mut rest = index;
    for digit in name[KEY_PREFIX.len()..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    name
}

/// One workload over `slots` calls in flight.
#[derive(Debug)]
pub struct Workload<'a> {
    kind: Kind,
    head: RequestHead,
    keys: &'a mut KeySpace,
    /// The key that each slot's call in flight concerns.
    current: Vec<usize>,
    loaded: usize,
    random: Random,
}

impl<'a> Workload<'a> {
    /// A workload of `kind` for at most `slots` calls in flight.
    pub fn new(kind: Kind, keys: &'a mut KeySpace, slots: usize, seed: u64) -> Self {
        let path = match kind {
            Kind::Load | Kind::Put => message::PUT,
            Kind::Get { .. } => message::RANGE,
            Kind::CompareAndSet { .. } => message::TXN,
        };
        Self {
            kind,
            head: RequestHead::new(path),
            keys,
            current: vec![0; slots],
            loaded: 0,
            random: Random::new(seed),
        }
    }
}

impl Calls for Workload<'_> {
    fn head(&self) -> &RequestHead {
        &self.head
    }

    fn next(&mut self, slot: usize, request: &mut Vec<u8>) -> bool {
        let key_count = self.keys.key_count();
        let key = match self.kind {
            Kind::Load if self.loaded == key_count => return false,
            Kind::Load => {
                self.loaded += 1;
                self.loaded - 1
            }
            Kind::Put | Kind::Get { .. } => self.random.below(key_count as u64) as usize,
            // Each slot has its own keys, so a conflict is one that the workload asked for.
            Kind::CompareAndSet { .. } => {
                let slots = self.current.len().min(key_count);
                let own = key_count / slots;
                slot % slots + slots * self.random.below(own as u64) as usize
            }
        };
        self.current[slot] = key;
        let name = key_name(key);
        match self.kind {
            Kind::Load | Kind::Put => message::put(&name, self.keys.next_value(), request),
            Kind::Get { serializable } => message::range(&name, serializable, request),
            Kind::CompareAndSet { conflicts_percent } => {
                let known = self.keys.revisions[key];
                let outdated = self.random.below(100) < u64::from(conflicts_percent);
                let revision = if outdated { known - 1 } else { known };
                let value = self.keys.next_value();
                message::compare_and_set(&name, revision.max(0), value, request);
            }
        }
        true
    }

    fn judge(&mut self, slot: usize, body: &[u8]) -> Verdict {
        let key = self.current[slot];
        match self.kind {
            Kind::Load | Kind::Put => match message::read_put(body) {
                Some(answer) if answer.revision > 0 => {
                    self.keys.revisions[key] = answer.revision;
                    Verdict::Done
                }
                _ => Verdict::Wrong,
            },
            Kind::Get { .. } => match message::read_range(body) {
                Some(answer) if answer.revision > 0 && answer.key_values == 1 => Verdict::Done,
                _ => Verdict::Wrong,
            },
            Kind::CompareAndSet { .. } => match message::read_txn(body) {
                Some(answer) if answer.succeeded => {
                    self.keys.revisions[key] = answer.revision;
                    Verdict::Done
                }
                Some(answer) if answer.revision > 0 => {
                    self.keys.revisions[key] = answer.modified;
                    Verdict::Conflict
                }
                _ => Verdict::Wrong,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_names_have_one_length_and_keep_the_order() {
        assert_eq!(&key_name(42), b"/ringbench/0000000000000042");
        assert!(key_name(99) < key_name(100));
    }

    #[test]
    fn slots_of_compare_and_set_share_no_key() {
        let mut keys = KeySpace::new(100, 8, 1);
        let kind = Kind::CompareAndSet {
            conflicts_percent: 0,
        };
        let mut workload = Workload::new(kind, &mut keys, 7, 1);
        let mut request = Vec::new();
        for turn in 0..1000 {
            let slot = turn % 7;
            assert!(workload.next(slot, &mut request));
            assert_eq!(workload.current[slot] % 7, slot);
            assert!(workload.current[slot] < 100);
        }
    }

    #[test]
    fn a_load_ends_after_every_key_once() {
        let mut keys = KeySpace::new(3, 8, 1);
        let mut workload = Workload::new(Kind::Load, &mut keys, 2, 1);
        let mut request = Vec::new();
        let sent: Vec<bool> = (0..4).map(|_| workload.next(0, &mut request)).collect();
        assert_eq!(sent, [true, true, true, false]);
    }
}
