//! Which watchers see a key: single keys by lookup, ranges by an interval tree.
//!
//! The tree is an array sorted by start with the greatest end of each subtree beside it, rebuilt
//! when ranges changed since the last question: a burst of creations costs one rebuild.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::key::{End, KeyRange};
use crate::store::RangeSet;

/// Exclusive end of a range; `None` is unbounded and greater than every key.
type RangeEnd = Option<Bytes>;

#[derive(Debug)]
struct Interval {
    start: Bytes,
    end: RangeEnd,
    /// Greatest end in the subtree of this element.
    end_max: RangeEnd,
    slots: Vec<u32>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct RangeIndex {
    single: BTreeMap<Bytes, BTreeSet<u32>>,
    ranges: BTreeMap<(Bytes, RangeEnd), BTreeSet<u32>>,
    tree: Vec<Interval>,
    tree_is_stale: bool,
    set: Option<Arc<RangeSet>>,
    /// Reused by the caller of [`RangeIndex::stab`].
    pub(super) found: Vec<u32>,
}

impl RangeIndex {
    pub(super) fn is_empty(&self) -> bool {
        self.single.is_empty() && self.ranges.is_empty()
    }

    pub(super) fn insert(&mut self, slot: u32, range: &KeyRange) {
        let fresh = match key_of(range) {
            Key::Single(key) => {
                let slots = self.single.entry(key).or_default();
                slots.insert(slot);
                slots.len() == 1
            }
            Key::Range(key) => {
                let slots = self.ranges.entry(key).or_default();
                slots.insert(slot);
                self.tree_is_stale = true;
                slots.len() == 1
            }
        };
        if fresh {
            self.set = None;
        }
    }

    pub(super) fn remove(&mut self, slot: u32, range: &KeyRange) {
        match key_of(range) {
            Key::Single(key) => {
                if let Some(slots) = self.single.get_mut(&key) {
                    slots.remove(&slot);
                    if slots.is_empty() {
                        self.single.remove(&key);
                        self.set = None;
                    }
                }
            }
            Key::Range(key) => {
                self.tree_is_stale = true;
                if let Some(slots) = self.ranges.get_mut(&key) {
                    slots.remove(&slot);
                    if slots.is_empty() {
                        self.ranges.remove(&key);
                        self.set = None;
                    }
                }
            }
        }
    }

    /// All watched keys.
    pub(super) fn ranges(&mut self) -> Arc<RangeSet> {
        let (single, ranges) = (&self.single, &self.ranges);
        let set = self.set.get_or_insert_with(|| {
            let keys = single.keys().map(|key| KeyRange::single(key.clone()));
            let ranges = ranges.keys().map(|(start, end)| KeyRange {
                start: start.clone(),
                end: end.clone().map_or(End::Unbounded, End::Before),
            });
            Arc::new(keys.chain(ranges).collect())
        });
        Arc::clone(set)
    }

    /// Adds the slots whose range holds `key`.
    pub(super) fn stab(&mut self, key: &Bytes, found: &mut Vec<u32>) {
        if let Some(slots) = self.single.get(key) {
            found.extend(slots);
        }
        if self.tree_is_stale {
            self.rebuild();
        }
        // The implicit tree over tree[low..high] has its root in the middle.
        let mut open = vec![(0, self.tree.len())];
        while let Some((low, high)) = open.pop() {
            if low >= high {
                continue;
            }
            let middle = (low + high) / 2;
            let interval = &self.tree[middle];
            if !is_before(key, &interval.end_max) {
                continue;
            }
            open.push((low, middle));
            if interval.start <= *key {
                if is_before(key, &interval.end) {
                    found.extend(&interval.slots);
                }
                open.push((middle + 1, high));
            }
        }
    }

    fn rebuild(&mut self) {
        self.tree_is_stale = false;
        self.tree.clear();
        for ((start, end), slots) in &self.ranges {
            self.tree.push(Interval {
                start: start.clone(),
                end: end.clone(),
                end_max: end.clone(),
                slots: slots.iter().copied().collect(),
            });
        }
        // Children before parents: subtrees by ascending size, found by walking the ranges once.
        let mut order = vec![(0, self.tree.len())];
        let mut next = 0;
        while next < order.len() {
            let (low, high) = order[next];
            next += 1;
            if high - low > 1 {
                let middle = (low + high) / 2;
                order.extend([(low, middle), (middle + 1, high)]);
            }
        }
        for (low, high) in order.into_iter().rev() {
            if low >= high {
                continue;
            }
            let middle = (low + high) / 2;
            for (low, high) in [(low, middle), (middle + 1, high)] {
                if low < high {
                    let child = self.tree[(low + high) / 2].end_max.clone();
                    let own = &mut self.tree[middle].end_max;
                    if is_greater(&child, own) {
                        *own = child;
                    }
                }
            }
        }
    }
}

enum Key {
    Single(Bytes),
    Range((Bytes, RangeEnd)),
}

fn key_of(range: &KeyRange) -> Key {
    match &range.end {
        End::Single => Key::Single(range.start.clone()),
        End::Before(end) => Key::Range((range.start.clone(), Some(end.clone()))),
        End::Unbounded => Key::Range((range.start.clone(), None)),
    }
}

fn is_before(key: &Bytes, end: &RangeEnd) -> bool {
    end.as_ref().is_none_or(|end| key < end)
}

fn is_greater(a: &RangeEnd, b: &RangeEnd) -> bool {
    match (a, b) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(a), Some(b)) => a > b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range() -> impl Strategy<Value = KeyRange> {
        let key = || proptest::collection::vec(0u8..4, 1..4).prop_map(Bytes::from);
        (key(), key(), 0..3).prop_map(|(a, b, kind)| match kind {
            0 => KeyRange::single(a),
            1 => KeyRange {
                start: a,
                end: End::Unbounded,
            },
            _ => KeyRange {
                start: a.clone().min(b.clone()),
                end: End::Before(a.max(b)),
            },
        })
    }

    proptest! {
        #[test]
        fn equals_a_linear_search(
            ranges in proptest::collection::vec(range(), 0..40),
            removed in proptest::collection::vec(any::<bool>(), 40),
            keys in proptest::collection::vec(proptest::collection::vec(0u8..4, 1..4), 20),
        ) {
            let mut index = RangeIndex::default();
            for (slot, range) in ranges.iter().enumerate() {
                index.insert(slot as u32, range);
            }
            for phase in 0..2 {
                for key in &keys {
                    let key = Bytes::copy_from_slice(key);
                    let mut found = Vec::new();
                    index.stab(&key, &mut found);
                    found.sort_unstable();
                    let expected: Vec<u32> = (0..ranges.len())
                        .filter(|slot| phase == 0 || !removed[*slot])
                        .filter(|slot| ranges[*slot].contains(&key))
                        .map(|slot| slot as u32)
                        .collect();
                    prop_assert_eq!(index.ranges().contains(&key), !expected.is_empty());
                    prop_assert_eq!(found, expected);
                }
                for (slot, range) in ranges.iter().enumerate() {
                    if phase == 0 && removed[slot] {
                        index.remove(slot as u32, range);
                    }
                }
            }
        }
    }
}
