//! Reading keys at a revision.

use std::ops::Range;

use bytes::Bytes;

use super::interrupted::{Progress, Question};
use super::{Scan, ScanChunk, Store, Version};
use crate::command::{KeyValue, LeaseId};
use crate::events::{Loc, Reader};
use crate::key::{End, KeyRange};
use crate::mvcc::versions::{self, Entry, Found};
use crate::page::{Page, SlotId, Swip};
use crate::step::{Need, Step, ready};
use crate::tree::{Missing, Place};

/// Of the replacements that a page survives after it was entered, one in so many may be for a leaf ahead.
const KEPT_PER_LEAF_AHEAD: usize = 8;
/// The same for the leaves of entries to come.
const KEPT_PER_LEAF_OF_ENTRIES: usize = 2;

/// Start and exclusive end of a scan.
pub(super) struct Bounds {
    pub(super) start: Vec<u8>,
    pub(super) end: Option<Vec<u8>>,
}

fn reader_of(query: &Scan<'_>) -> Reader {
    match query.passing {
        true => Reader::Passing,
        false => Reader::Point,
    }
}

fn successor(key: &[u8]) -> Vec<u8> {
    let mut successor = Vec::with_capacity(key.len() + 1);
    successor.extend_from_slice(key);
    successor.push(0);
    successor
}

impl Bounds {
    /// The keys of `range` behind `after`.
    pub(super) fn new(range: &KeyRange, after: Option<&[u8]>) -> Self {
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

    pub(super) fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// Cells of a leaf that lie before the end.
    pub(super) fn end_in(&self, page: &Page) -> usize {
        match &self.end {
            Some(end) if page.covers(end) => page.search(end).unwrap_or_else(|cell| cell),
            Some(end) if end.as_slice() < page.low() => 0,
            _ => page.len(),
        }
    }

    /// Where the scan goes on behind a leaf; `None` if it is over.
    pub(super) fn next_leaf(&self, page: &Page) -> Option<Vec<u8>> {
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

    /// Memory that events and values take: those not written yet, and those that the disk has too.
    pub fn event_memory_bytes(&self) -> u64 {
        self.log.memory_bytes()
    }

    /// What the last scan or walk over the history will need beside what it asked for, in the order of
    /// places: worth loading together with it. An error of `load` for one of these concerns nobody yet.
    pub fn take_hints(&mut self) -> Vec<Need> {
        self.log.take_hints()
    }

    /// Forgets the hints of former calls.
    pub(crate) fn begin_hints(&mut self) {
        self.log.begin_hints(Reader::Point);
    }

    /// How many leaves may be loaded ahead: so few that what an operation entered stays while they come.
    pub(crate) fn leaves_ahead(&self) -> usize {
        self.pages.kept() as usize / KEPT_PER_LEAF_AHEAD
    }

    /// Whether some page is not in memory.
    pub(crate) fn lacks_pages(&self) -> bool {
        self.pages.lacks_pages()
    }

    /// How many leaves more may be loaded for entries to come: together with those that wait to be entered so few
    /// that none has to leave before.
    pub(crate) fn room_ahead(&self) -> usize {
        let most = self.pages.kept() as usize / KEPT_PER_LEAF_OF_ENTRIES;
        most.saturating_sub(self.pages.unentered())
    }

    /// What has to be loaded before `key` can be found.
    pub(crate) fn missing_for(&self, key: &[u8]) -> Option<Missing> {
        self.tree.missing_on_the_way(&self.pages, key)
    }

    /// Hints at the leaf of `key` if it is not in memory; `false` if no further hint is taken.
    pub(crate) fn hint_leaf(&mut self, key: &[u8]) -> bool {
        match self.tree.missing_on_the_way(&self.pages, key) {
            Some(missing) => self.log.hint(Need::Page(missing.reference)),
            None => true,
        }
    }

    /// The version of a leaf cell at a revision.
    #[inline]
    pub(super) fn version_at(
        &mut self,
        leaf: SlotId,
        cell: usize,
        at: i64,
    ) -> Step<Option<Version>> {
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
        self.log.begin_hints(reader_of(query));
        match self.collect(query, &bounds, &mut found) {
            Step::Ready(more) => Step::Ready(found.finish(more)),
            // What was found is an answer; the caller comes back for the rest.
            Step::Need(need) if !found.items.is_empty() => {
                self.log.hint(need);
                Step::Ready(found.finish(true))
            }
            Step::Need(need) => {
                let need = self.log.need_ahead(need);
                self.log.remove_hint(need);
                Step::Need(need)
            }
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
                    if query.passing {
                        // What the next chunk is going to want.
                        self.hint_cells(leaf, cell..end, query, query.limit);
                    }
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
            true => {
                let revision = Some(version.modified);
                let reader = reader_of(query);
                ready!(self.log.value_for(reader, version.loc, revision))
            }
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

    /// Keys attached to `lease`, in key order.
    pub fn keys_of_lease(&mut self, lease: LeaseId) -> Step<Vec<Bytes>> {
        // After a change the answer begins anew: it is that of one moment.
        let question = Question::Lease {
            lease,
            newest: self.log.last(),
        };
        let prefix = lease.0.to_be_bytes();
        let (mut keys, mut from) = match self.interrupted.take(&question) {
            Some(Progress::Lease(keys, from)) => (keys, from),
            _ => (Vec::new(), prefix.to_vec()),
        };
        match self.add_keys_of_lease(&prefix, &mut keys, &mut from) {
            Step::Ready(()) => Step::Ready(keys),
            Step::Need(need) => {
                self.interrupted.keep(question, Progress::Lease(keys, from));
                Step::Need(need)
            }
        }
    }

    /// Adds the members that begin with `prefix` leaf by leaf; `from` is where the next leaf begins.
    fn add_keys_of_lease(
        &mut self,
        prefix: &[u8],
        keys: &mut Vec<Bytes>,
        from: &mut Vec<u8>,
    ) -> Step<()> {
        loop {
            let position = ready!(self.leases.find(&mut self.pages, from));
            let page = &self.pages[position.leaf];
            for cell in position.cell.unwrap_or_else(|cell| cell)..page.len() {
                let mut member = page.key(cell);
                if !member.starts_with(prefix) {
                    return Step::Ready(());
                }
                keys.push(Bytes::from(member.split_off(prefix.len())));
            }
            match page.high() {
                Some(high) if high <= prefix || high.starts_with(prefix) => {
                    *from = high.to_vec();
                }
                _ => return Step::Ready(()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Holder;
    use crate::events::tests::Files;
    use crate::revision::Revision;
    use crate::store::{Counted, EventQuery, LoadError, StoreConfig};

    const KEYS: i64 = 600;
    /// With the key and the header a multiple of 8: then the record, which is not padded, is its piece.
    const LARGE_BYTES: usize = 20_005;

    fn key(index: i64) -> String {
        format!("/registry/pods/{:04}", index * 7919 % KEYS)
    }

    fn value(main: i64) -> Vec<u8> {
        vec![main as u8; (main % 700) as usize]
    }

    /// A store of two generations of values, all of them written and none in memory.
    fn cold(value_cache_bytes: u64) -> (Store, Files) {
        let mut store = Store::new(StoreConfig {
            segment_bytes_first: 1 << 16,
            piece_bytes: 8192,
            tail_bytes_max: 0,
            value_cache_bytes,
            ..StoreConfig::new(3, 77)
        });
        for main in 2..2 + 2 * KEYS {
            let revision = Revision { main, sub: 0 };
            let (key, value) = (key(main), value(main));
            let put = store.put(revision, key.as_bytes(), &value, LeaseId::NONE);
            assert!(matches!(put, Step::Ready(_)));
        }
        let mut files = Files::new();
        store.log.freeze();
        files.drain(&mut store.log);
        (store, files)
    }

    /// Repeats `call` until it answers; counts the rounds of loads, hints included.
    fn settle<T>(
        store: &mut Store,
        files: &Files,
        rounds: &mut u64,
        mut call: impl FnMut(&mut Store) -> Step<T>,
    ) -> Result<T, LoadError> {
        loop {
            let step = call(store);
            for hint in store.take_hints() {
                assert!(!matches!(&step, Step::Need(need) if *need == hint));
                files.load(&mut store.log, &hint)?;
            }
            match step {
                Step::Ready(value) => return Ok(value),
                Step::Need(need) => files.load(&mut store.log, &need)?,
            }
            *rounds += 1;
            assert!(*rounds < 100_000, "a call that never ends");
        }
    }

    /// Every key at `at` with its value; the rounds of loads that it took.
    fn scanned(store: &mut Store, files: &Files, at: i64) -> (Vec<(Bytes, Bytes)>, u64) {
        let range = KeyRange {
            start: Bytes::new(),
            end: End::Unbounded,
        };
        let (mut found, mut rounds) = (Vec::new(), 0);
        loop {
            let after = found.last().map(|(key, _): &(Bytes, Bytes)| key.clone());
            let chunk = settle(store, files, &mut rounds, |store| {
                store.scan(&Scan {
                    range: &range,
                    after: after.as_deref(),
                    at,
                    limit: 1_000,
                    bytes_max: 1 << 20,
                    values: true,
                    passing: false,
                })
            });
            let chunk = chunk.expect("undamaged");
            found.extend(chunk.items.into_iter().map(|(key, _, value)| (key, value)));
            if !chunk.more {
                return (found, rounds);
            }
        }
    }

    #[test]
    fn cold_values_are_loaded_together() {
        for value_cache_bytes in [0, 10_000, 200_000, 4 << 20] {
            let (mut store, files) = cold(value_cache_bytes);
            for at in [1 + KEYS, 2 * KEYS + 1] {
                let (found, rounds) = scanned(&mut store, &files, at);
                let mut expected: Vec<(Bytes, Bytes)> = (at + 1 - KEYS..=at)
                    .map(|main| (Bytes::from(key(main)), Bytes::from(value(main))))
                    .collect();
                expected.sort();
                assert_eq!(found, expected, "at {at}");
                let few = rounds < KEYS as u64 / 10;
                assert!(few || value_cache_bytes < 200_000, "{rounds} rounds");
            }
        }
    }

    #[test]
    fn cold_history_is_read_piece_by_piece() {
        for value_cache_bytes in [0, 1 << 20] {
            let (mut store, files) = cold(value_cache_bytes);
            let (mut next, mut rounds, mut events) = (0, 0, Vec::new());
            let to = 2 * KEYS + 1;
            while next <= to {
                let chunk = settle(&mut store, &files, &mut rounds, |store| {
                    store.events(&EventQuery {
                        from: next,
                        to,
                        ranges: None,
                        prev_kv: value_cache_bytes > 0,
                        bytes_max: 20_000,
                        passing: false,
                    })
                });
                let chunk = chunk.expect("undamaged");
                assert!(chunk.next > next);
                next = chunk.next;
                events.extend(chunk.events);
            }
            assert_eq!(events.len() as i64, 2 * KEYS);
            for (event, main) in events.iter().zip(2..) {
                assert_eq!(event.kv.key, key(main).as_bytes());
                assert_eq!(event.kv.value, value(main));
                if let Some(former) = &event.prev_kv {
                    assert_eq!(former.value, value(main - KEYS));
                }
            }
        }
    }

    #[test]
    fn a_place_without_a_record_is_an_error() {
        let (mut store, files) = cold(1 << 20);
        let version = store.get(key(9).as_bytes(), 2 * KEYS + 1).ready();
        let version = version.flatten().expect("a key that was put");
        let mut elsewhere = version.loc;
        elsewhere.offset += 8;
        let mut rounds = 0;
        assert!(
            settle(&mut store, &files, &mut rounds, |store| store
                .value(elsewhere))
            .is_err()
        );
        let other = Version {
            modified: Revision { main: 9, sub: 1 },
            ..version
        };
        assert!(
            settle(&mut store, &files, &mut rounds, |store| store
                .value_of(&other))
            .is_err()
        );
        let right = settle(&mut store, &files, &mut rounds, |store| {
            store.value_of(&version)
        });
        assert_eq!(right, Ok(Bytes::from(value(version.modified.main))));
    }

    /// Reads the last of two changes of one key with the value before it; both are pieces of their own, and the
    /// memory holds neither. Answers the rounds of loads, if it comes to its end within a hundred.
    fn change_and_former_value(holds: bool) -> Option<u64> {
        let mut store = Store::new(StoreConfig {
            piece_bytes: 8192,
            tail_bytes_max: 0,
            value_cache_bytes: 0,
            ..StoreConfig::new(3, 77)
        });
        for main in 2..4 {
            let revision = Revision { main, sub: 0 };
            let put = store.put(revision, b"key", &[main as u8; LARGE_BYTES], LeaseId::NONE);
            assert!(matches!(put, Step::Ready(_)));
        }
        let mut files = Files::new();
        store.log.freeze();
        files.drain(&mut store.log);
        let query = EventQuery {
            from: 3,
            to: 3,
            ranges: None,
            prev_kv: true,
            bytes_max: 1,
            passing: false,
        };
        let mut loaded = std::collections::BTreeSet::new();
        for round in 0..100 {
            let need = match store.events(&query) {
                Step::Ready(chunk) => {
                    let event = chunk.events.first().expect("an event");
                    let former = event.prev_kv.as_ref().expect("a value before it");
                    assert_eq!(event.kv.value, vec![3; LARGE_BYTES]);
                    assert_eq!(former.value, vec![2; LARGE_BYTES]);
                    store.release_held(Holder::Favoured);
                    let most = 2 * 25_000;
                    assert!(store.event_memory_bytes() < most, "it was let go of");
                    return Some(round);
                }
                Step::Need(need) => need,
            };
            if holds && !loaded.insert(need) {
                store.hold(Holder::Favoured, &need);
            }
            files.load(&mut store.log, &need).expect("undamaged");
        }
        None
    }

    #[test]
    fn a_step_that_needs_more_than_the_memory_ends_if_it_is_held() {
        assert_eq!(change_and_former_value(false), None);
        let rounds = change_and_former_value(true).expect("an end");
        assert!(rounds <= 6, "{rounds} rounds");
    }

    fn count(store: &mut Store, files: &Files, range: &KeyRange, at: i64) -> i64 {
        let (mut cursor, mut rounds) = (None, 0);
        loop {
            let counted = settle(store, files, &mut rounds, |store| {
                store.count(range, at, cursor.as_ref())
            });
            match counted.expect("undamaged") {
                Counted::Whole(count) => return count,
                Counted::Part(next) => cursor = Some(next),
            }
        }
    }

    #[test]
    fn reads_longer_than_the_memory_end() {
        let (mut store, files) = cold(0);
        let all = KeyRange {
            start: Bytes::new(),
            end: End::Unbounded,
        };
        let mut rounds = 0;
        // By the events since.
        for (at, live) in [(1 + KEYS, KEYS), (41, 40)] {
            let count = count(&mut store, &files, &all, at);
            assert_eq!(count, live, "at {at}");
        }
        // One revision over many pieces, with the values before it: none of it fits beside the other.
        let main = 2 * KEYS + 2;
        for sub in 0..KEYS as u32 {
            let key = key(i64::from(sub));
            let deleted = store.delete(Revision { main, sub }, key.as_bytes());
            assert_eq!(deleted, Step::Ready(true));
        }
        store.log.freeze();
        let mut files = files;
        files.drain(&mut store.log);
        let chunk = settle(&mut store, &files, &mut rounds, |store| {
            store.events(&EventQuery {
                from: main,
                to: main,
                ranges: None,
                prev_kv: true,
                bytes_max: 1,
                passing: false,
            })
        });
        let events = chunk.expect("undamaged").events;
        assert_eq!(events.len() as i64, KEYS);
        for (event, sub) in events.iter().zip(0..) {
            assert_eq!(event.revision, Revision { main, sub });
            let former = event.prev_kv.as_ref().expect("a key that was there");
            assert_eq!(former.value, value(former.mod_revision));
        }
        // Key by key.
        for (at, live) in [(main - 1, KEYS), (main, 0), (1 + KEYS, KEYS), (41, 40)] {
            let count = count(&mut store, &files, &all, at);
            assert_eq!(count, live, "at {at}");
        }
        assert!(store.interrupted.is_empty(), "every read came to its end");
    }
}
