//! Bytes of the event log that were read back from the disk.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use bytes::Bytes;

use super::segment::Place;

/// What an entry takes beside its bytes.
pub(super) const ENTRY_BYTES: u64 = 128;
/// An entry survives at most this many rounds of the hand without being used again.
const USES_MAX: u8 = 3;

/// Mixes the two numbers of a place. Places are not chosen by clients, so it needs no secret.
#[derive(Debug, Default)]
pub(super) struct PlaceHasher(u64);

impl PlaceHasher {
    fn mix(&mut self, number: u64) {
        // The odd constant is 2^64 divided by the golden ratio.
        self.0 = (self.0.rotate_left(32) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for PlaceHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.mix(u64::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.mix(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.mix(number);
    }
}

#[derive(Debug)]
struct Entry {
    place: Place,
    bytes: Bytes,
    /// Memory that the entry takes.
    charge: u64,
    uses: u8,
}

/// A bounded cache of bytes by place; eviction by CLOCK with a small use count.
///
/// Invariants: `slot_of` names exactly the occupied slots; `bytes` is the sum of their charges and at most
/// `bytes_max`, unless a single entry is larger: the newest entry always stays until the next one comes,
/// so that a request which needs it goes on.
#[derive(Debug)]
pub(super) struct Cache {
    slots: Vec<Option<Entry>>,
    free: Vec<usize>,
    slot_of: HashMap<Place, usize, BuildHasherDefault<PlaceHasher>>,
    hand: usize,
    bytes: u64,
    bytes_max: u64,
}

impl Cache {
    pub(super) fn new(bytes_max: u64) -> Self {
        Cache {
            slots: Vec::new(),
            free: Vec::new(),
            slot_of: HashMap::default(),
            hand: 0,
            bytes: 0,
            bytes_max,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// The bytes at `place`, counting the use.
    pub(super) fn get(&mut self, place: Place) -> Option<&Bytes> {
        let slot = *self.slot_of.get(&place)?;
        let entry = self.slots[slot].as_mut()?;
        entry.uses = (entry.uses + 1).min(USES_MAX);
        Some(&entry.bytes)
    }

    /// The bytes at `place`.
    pub(super) fn peek(&self, place: Place) -> Option<&Bytes> {
        let slot = *self.slot_of.get(&place)?;
        self.slots[slot].as_ref().map(|entry| &entry.bytes)
    }

    /// Takes in `bytes`, which take `memory` bytes, in place of what was there. They were asked for.
    pub(super) fn insert(&mut self, place: Place, bytes: Bytes, memory: u64) {
        self.take_in(place, bytes, memory, 1);
    }

    /// Takes in `bytes` that nobody has asked for: they are the first to go.
    ///
    /// What would take more than a small part of the cache is not worth what has to go for it.
    pub(super) fn insert_unused(&mut self, place: Place, bytes: Bytes) {
        let memory = bytes.len() as u64;
        if memory + ENTRY_BYTES <= self.bytes_max / 8 {
            self.take_in(place, bytes, memory, 0);
        }
    }

    /// Takes in `bytes`, which take `memory` bytes: they go in the order in which they came, unless they
    /// are used.
    pub(super) fn insert_passing(&mut self, place: Place, bytes: Bytes, memory: u64) {
        self.take_in(place, bytes, memory, 0);
    }

    fn take_in(&mut self, place: Place, bytes: Bytes, memory: u64, uses: u8) {
        self.remove(place);
        let charge = memory + ENTRY_BYTES;
        while self.bytes + charge > self.bytes_max && !self.slot_of.is_empty() {
            self.evict();
        }
        let entry = Entry {
            place,
            bytes,
            charge,
            uses,
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = Some(entry);
                slot
            }
            None => {
                self.slots.push(Some(entry));
                self.slots.len() - 1
            }
        };
        self.slot_of.insert(place, slot);
        self.bytes += charge;
    }

    pub(super) fn remove(&mut self, place: Place) {
        if let Some(slot) = self.slot_of.remove(&place) {
            self.vacate(slot);
        }
    }

    fn vacate(&mut self, slot: usize) {
        if let Some(entry) = self.slots[slot].take() {
            self.bytes -= entry.charge;
            self.free.push(slot);
        }
    }

    /// Moves the hand until an entry has gone.
    fn evict(&mut self) {
        loop {
            let slot = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            match &mut self.slots[slot] {
                Some(entry) if entry.uses > 0 => entry.uses -= 1,
                Some(entry) => {
                    self.slot_of.remove(&entry.place);
                    return self.vacate(slot);
                }
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(len: usize) -> Bytes {
        Bytes::from(vec![7; len])
    }

    #[test]
    fn stays_within_its_bound_and_keeps_what_is_used() {
        let mut cache = Cache::new(100 * (ENTRY_BYTES + 72));
        for round in 0..50u64 {
            for offset in 0..40 {
                cache.insert((round + 2, offset * 8), bytes(72), 72);
                assert!(cache.bytes() <= cache.bytes_max());
                if cache.get((0, 0)).is_none() {
                    assert_eq!(round, 0, "an entry in use was evicted");
                    cache.insert((0, 0), bytes(72), 72);
                }
            }
        }
        assert_eq!(cache.slot_of.len(), 100);
        assert_eq!(cache.slots.len(), 100);
    }

    #[test]
    fn the_newest_entry_stays_however_large() {
        let mut cache = Cache::new(1000);
        cache.insert((2, 0), bytes(10), 10);
        cache.insert((2, 8), bytes(5000), 5000);
        assert!(cache.get((2, 0)).is_none());
        assert_eq!(cache.get((2, 8)).map(Bytes::len), Some(5000));
        cache.insert((2, 16), bytes(10), 10);
        assert!(cache.peek((2, 8)).is_none());
        cache.remove((2, 16));
        assert_eq!(cache.bytes(), 0);
    }
}
