//! Reading keys at a revision.

use std::ops::Range;

use bytes::Bytes;

use super::{Scan, ScanChunk, Store, Version};
use crate::command::{KeyValue, LeaseId};
use crate::events::Loc;
use crate::key::{End, KeyRange};
use crate::mvcc::versions::{self, Entry, Found};
use crate::page::{Page, SlotId, Swip};
use crate::step::{Need, Step, ready};
use crate::tree::Place;

/// An older count walks the events since, unless the range has fewer keys than this part of them.
const EVENTS_PER_KEY_SCANNED: u64 = 2;

/// Start and exclusive end of a scan.
struct Bounds {
    start: Vec<u8>,
    end: Option<Vec<u8>>,
}

fn successor(key: &[u8]) -> Vec<u8> {
    let mut successor = Vec::with_capacity(key.len() + 1);
    successor.extend_from_slice(key);
    successor.push(0);
    successor
}

impl Bounds {
    /// The keys of `range` behind `after`.
    fn new(range: &KeyRange, after: Option<&[u8]>) -> Self {
        let start = match after {
            Some(after) if after >= range.start.as_ref() => successor(after),
            _ => range.start.to_vec(),
        };
        let end = match &range.end {
            End::Unbounded => None,
            End::Before(end) => Some(end.to_vec()),
            End::Single => Some(successor(&range.start)),
        };
        Bounds { start, end }
    }

    fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// Cells of a leaf that lie before the end.
    fn end_in(&self, page: &Page) -> usize {
        match &self.end {
            Some(end) if page.covers(end) => page.search(end).unwrap_or_else(|cell| cell),
            Some(end) if end.as_slice() < page.low() => 0,
            _ => page.len(),
        }
    }

    /// Where the scan goes on behind a leaf; `None` if it is over.
    fn next_leaf(&self, page: &Page) -> Option<Vec<u8>> {
        let high = page.high()?;
        let over = self.end.as_ref().is_some_and(|end| end.as_slice() <= high);
        (!over).then(|| high.to_vec())
    }
}

/// A chunk under construction. The keys of one leaf share a buffer.
#[derive(Default)]
struct Collector {
    items: Vec<(Bytes, Version, Bytes)>,
    bytes: usize,
    /// Keys of the current leaf, whose items do not have them yet.
    keys: Vec<u8>,
    /// Where each of them ends.
    ends: Vec<usize>,
}

impl Collector {
    fn is_full(&self, query: &Scan<'_>) -> bool {
        self.items.len() >= query.limit.max(1)
            || (self.bytes >= query.bytes_max && !self.items.is_empty())
    }

    #[inline]
    fn push(&mut self, page: &Page, cell: usize, version: Version, value: Bytes) {
        let start = self.keys.len();
        page.key_into(cell, &mut self.keys);
        self.bytes += self.keys.len() - start + value.len();
        self.ends.push(self.keys.len());
        self.items.push((Bytes::new(), version, value));
    }

    /// Gives the items of the current leaf their keys.
    fn end_leaf(&mut self) {
        let keys = Bytes::from(std::mem::take(&mut self.keys));
        let first = self.items.len() - self.ends.len();
        let mut start = 0;
        for (item, end) in self.items[first..].iter_mut().zip(self.ends.drain(..)) {
            item.0 = keys.slice(start..end);
            start = end;
        }
    }

    fn finish(mut self, more: bool) -> ScanChunk {
        self.end_leaf();
        ScanChunk {
            items: self.items,
            more,
        }
    }
}

impl Store {
    /// The newest version of `key` with main ≤ `at`; `None` if absent or deleted.
    pub fn get(&mut self, key: &[u8], at: i64) -> Step<Option<Version>> {
        let position = ready!(self.tree.find(&mut self.pages, key));
        match position.cell {
            Ok(cell) => self.version_at(position.leaf, cell, at),
            Err(_) => Step::Ready(None),
        }
    }

    /// The value of the record at `loc`. If no record stands there, `load` refuses what is brought.
    pub fn value(&mut self, loc: Loc) -> Step<Bytes> {
        self.log.value(loc, None)
    }

    /// The value of a version. The value of another record in its place is not given.
    pub fn value_of(&mut self, version: &Version) -> Step<Bytes> {
        self.log.value(version.loc, Some(version.modified))
    }

    /// What the last scan or walk will need beside what it asked for, in the order of places: worth loading
    /// together with it. An error of `load` for one of these concerns nobody yet.
    pub fn take_hints(&mut self) -> Vec<Need> {
        self.log.take_hints()
    }

    /// The version of a leaf cell at a revision.
    #[inline]
    fn version_at(&mut self, leaf: SlotId, cell: usize, at: i64) -> Step<Option<Version>> {
        let list = versions::list(self.pages[leaf].payload(cell));
        if list.newest.version.modified.main < at {
            return Step::Ready(list.newest.live());
        }
        self.former_version_at(leaf, cell, at)
    }

    /// [`Store::version_at`] where the newest version may be too new.
    fn former_version_at(&mut self, leaf: SlotId, cell: usize, at: i64) -> Step<Option<Version>> {
        match versions::list(self.pages[leaf].payload(cell)).find(at) {
            Found::Entry(entry) => Step::Ready(entry.live()),
            Found::Older(Swip::Absent) => Step::Ready(None),
            Found::Older(_) => {
                let entry = ready!(self.overflown_at(leaf, cell, at));
                Step::Ready(entry.and_then(Entry::live))
            }
        }
    }

    /// Looks for a version in the overflow pages of a cell.
    fn overflown_at(&mut self, slot: SlotId, cell: usize, at: i64) -> Step<Option<Entry>> {
        let mut place = Place::Cell { slot, cell };
        while self.pages.swip(place) != Swip::Absent {
            let slot = ready!(self.pages.follow(place));
            if let Some(entry) = find_in_runs(&self.pages[slot], at) {
                return Step::Ready(Some(entry));
            }
            place = Place::Link { slot };
        }
        Step::Ready(None)
    }

    /// The key-value of `key` at a revision.
    pub(super) fn key_value_at(&mut self, key: &[u8], at: i64) -> Step<Option<KeyValue>> {
        let Some(version) = ready!(self.get(key, at)) else {
            return Step::Ready(None);
        };
        let value = ready!(self.value_of(&version));
        Step::Ready(Some(KeyValue {
            key: Bytes::copy_from_slice(key),
            value,
            create_revision: version.create,
            mod_revision: version.modified.main,
            version: version.version,
            lease: version.lease,
        }))
    }

    /// Reads a chunk of keys in key order.
    pub fn scan(&mut self, query: &Scan<'_>) -> Step<ScanChunk> {
        let bounds = Bounds::new(query.range, query.after);
        let mut found = Collector::default();
        if bounds.is_empty() {
            return Step::Ready(ScanChunk::default());
        }
        self.log.clear_hints();
        match self.collect(query, &bounds, &mut found) {
            Step::Ready(more) => Step::Ready(found.finish(more)),
            // What was found is an answer; the caller comes back for the rest.
            Step::Need(_) if !found.items.is_empty() => Step::Ready(found.finish(true)),
            Step::Need(need) => Step::Need(need),
        }
    }

    /// Fills `found`; answers whether it stopped before the end of the range.
    fn collect(&mut self, query: &Scan<'_>, bounds: &Bounds, found: &mut Collector) -> Step<bool> {
        let mut next = Some(bounds.start.clone());
        while let Some(from) = next {
            let position = ready!(self.tree.find(&mut self.pages, &from));
            let leaf = position.leaf;
            let first = position.cell.unwrap_or_else(|cell| cell);
            let end = bounds.end_in(&self.pages[leaf]);
            for cell in first..end {
                if found.is_full(query) {
                    return Step::Ready(true);
                }
                match self.item_at(leaf, cell, query) {
                    Step::Ready(Some((version, value))) => {
                        found.push(&self.pages[leaf], cell, version, value);
                    }
                    Step::Ready(None) => {}
                    Step::Need(need) => {
                        let limit = query.limit.max(1) - found.items.len();
                        self.hint_cells(leaf, cell..end, query, limit);
                        return Step::Need(need);
                    }
                }
            }
            found.end_leaf();
            next = bounds.next_leaf(&self.pages[leaf]);
        }
        Step::Ready(false)
    }

    /// Version and value of a leaf cell as the query wants them.
    fn item_at(
        &mut self,
        leaf: SlotId,
        cell: usize,
        query: &Scan<'_>,
    ) -> Step<Option<(Version, Bytes)>> {
        let Some(version) = ready!(self.version_at(leaf, cell, query.at)) else {
            return Step::Ready(None);
        };
        let value = match query.values {
            true => ready!(self.value_of(&version)),
            false => Bytes::new(),
        };
        Step::Ready(Some((version, value)))
    }

    /// Hints at what is missing of the next `limit` items among the cells of a leaf.
    fn hint_cells(&mut self, leaf: SlotId, cells: Range<usize>, query: &Scan<'_>, limit: usize) {
        for cell in cells.take(limit) {
            let list = versions::list(self.pages[leaf].payload(cell));
            let goes_on = match list.find(query.at) {
                Found::Entry(entry) => match entry.live() {
                    Some(version) if query.values => self.log.hint_value(version.loc),
                    _ => true,
                },
                Found::Older(Swip::Disk(reference)) => self.log.hint(Need::Page(reference)),
                Found::Older(_) => true,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Number of live keys of `range` at `at`.
    ///
    /// At the newest revision two descents; at an older one corrected by the events since, or a scan
    /// of the range where that is shorter.
    pub fn count(&mut self, range: &KeyRange, at: i64) -> Step<i64> {
        let bounds = Bounds::new(range, None);
        if bounds.is_empty() {
            return Step::Ready(0);
        }
        if range.end == End::Single {
            return self
                .get(&range.start, at)
                .map(|version| i64::from(version.is_some()));
        }
        let newest = ready!(self.count_newest(&bounds));
        if at >= self.log.last().main {
            return Step::Ready(newest as i64);
        }
        let events = self.log.estimate_after(at);
        if events
            > newest
                .saturating_mul(EVENTS_PER_KEY_SCANNED)
                .saturating_add(64)
        {
            return self.count_by_scan(&bounds, at);
        }
        let change = ready!(self.live_change_after(range, at));
        Step::Ready(newest as i64 - change)
    }

    fn count_newest(&mut self, bounds: &Bounds) -> Step<u64> {
        let before_end = match &bounds.end {
            Some(end) => ready!(self.tree.count_before(&mut self.pages, end)),
            None => self.live_keys,
        };
        let before_start = match bounds.start.is_empty() {
            true => 0,
            false => ready!(self.tree.count_before(&mut self.pages, &bounds.start)),
        };
        assert!(
            before_end >= before_start,
            "{before_end} keys before the end, {before_start}"
        );
        Step::Ready(before_end - before_start)
    }

    fn count_by_scan(&mut self, bounds: &Bounds, at: i64) -> Step<i64> {
        let mut count = 0;
        let mut next = Some(bounds.start.clone());
        while let Some(from) = next {
            let position = ready!(self.tree.find(&mut self.pages, &from));
            let leaf = position.leaf;
            let first = position.cell.unwrap_or_else(|cell| cell);
            for cell in first..bounds.end_in(&self.pages[leaf]) {
                count += i64::from(ready!(self.version_at(leaf, cell, at)).is_some());
            }
            next = bounds.next_leaf(&self.pages[leaf]);
        }
        Step::Ready(count)
    }

    /// Keys of `range` created minus keys deleted after `at`.
    fn live_change_after(&mut self, range: &KeyRange, at: i64) -> Step<i64> {
        let mut change = 0;
        let mut cursor = ready!(self.log.seek(at + 1));
        while let Some((loc, record)) = ready!(self.log.read(cursor, i64::MAX)) {
            if range.contains(record.key) {
                change += match (record.tombstone, record.version) {
                    (true, _) => -1,
                    (false, 1) => 1,
                    (false, _) => 0,
                };
            }
            cursor = self.log.behind(cursor, loc);
        }
        Step::Ready(change)
    }

    /// Keys attached to `lease`, in key order.
    pub fn keys_of_lease(&mut self, lease: LeaseId) -> Step<Vec<Bytes>> {
        let prefix = lease.0.to_be_bytes();
        let mut keys = Vec::new();
        let mut from = prefix.to_vec();
        loop {
            let position = ready!(self.leases.find(&mut self.pages, &from));
            let page = &self.pages[position.leaf];
            for cell in position.cell.unwrap_or_else(|cell| cell)..page.len() {
                let mut member = page.key(cell);
                if !member.starts_with(&prefix) {
                    return Step::Ready(keys);
                }
                keys.push(Bytes::from(member.split_off(prefix.len())));
            }
            match page.high() {
                Some(high) if high <= prefix.as_slice() || high.starts_with(&prefix) => {
                    from = high.to_vec();
                }
                _ => return Step::Ready(keys),
            }
        }
    }
}

/// Searches an overflow page; its runs stand oldest first.
fn find_in_runs(page: &Page, at: i64) -> Option<Entry> {
    let main_of = |run: usize| {
        versions::list(page.payload(run))
            .newest
            .version
            .modified
            .main
    };
    let (mut low, mut high) = (0, page.len());
    while low < high {
        let middle = (low + high) / 2;
        match main_of(middle) <= at {
            true => low = middle + 1,
            false => high = middle,
        }
    }
    // Run `low` begins too new but may end old enough; the one before begins old enough.
    if low < page.len()
        && let Found::Entry(entry) = versions::list(page.payload(low)).find(at)
    {
        return Some(entry);
    }
    let before = low.checked_sub(1)?;
    Some(versions::list(page.payload(before)).newest)
}
