//! Single behaviours of the background work.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use diskio::FileName;

use super::host::Host;
use super::*;
use crate::command::LeaseId;
use crate::compaction::{COLLECT_BELOW_PERCENT, COLLECT_ON_DEMAND_PERCENT, Maintained};
use crate::events::SegmentKind;
use crate::planted::{Bug, with};
use crate::revision::Revision;
use crate::step::{Need, Step};

/// A store whose segments are small, and how far its revisions are.
struct Life {
    host: Host,
    main: i64,
}

impl Life {
    fn new(seed: u64) -> Life {
        Life::compacted(seed, CompactionWay::Cheaper)
    }

    fn compacted(seed: u64, compaction_way: CompactionWay) -> Life {
        let config = StoreConfig {
            compaction_way,
            segment_bytes_first: 16 << 10,
            segment_bytes_max: 64 << 10,
            piece_bytes: 8 << 10,
            tail_bytes_max: 0,
            value_cache_bytes: 256 << 10,
            ..StoreConfig::new(0, seed)
        };
        Life {
            host: Host::new(config, seed),
            main: 1,
        }
    }

    fn put(&mut self, key: &str, value: &[u8]) {
        self.main += 1;
        let revision = Revision {
            main: self.main,
            sub: 0,
        };
        let key = key.as_bytes();
        self.host
            .settle(|store| store.put(revision, key, value, LeaseId::NONE));
    }

    fn delete(&mut self, key: &str) {
        self.main += 1;
        let revision = Revision {
            main: self.main,
            sub: 0,
        };
        assert!(
            self.host
                .settle(|store| store.delete(revision, key.as_bytes()))
        );
    }

    fn value(&mut self, key: &str) -> Option<Bytes> {
        let version = self
            .host
            .settle(|store| store.get(key.as_bytes(), i64::MAX))?;
        Some(self.host.settle(|store| store.value_of(&version)))
    }

    /// All background work that is due, with the disk's help.
    fn maintain(&mut self, percent: u64) {
        for _ in 0..1_000_000 {
            match self.host.settle(|store| store.maintain(percent)) {
                Maintained::Working => {}
                Maintained::Blocked => {
                    self.host.turn();
                }
                Maintained::Idle => return,
            }
        }
        panic!("background work that never ends");
    }

    fn checkpoint(&mut self) {
        assert!(self.host.freeze());
        self.host.finish_checkpoint();
        for _ in 0..1000 {
            self.host.turn();
        }
    }

    /// Compacts to the newest revision and does what follows from it. A segment that is emptied may make
    /// another one worth it, and each leaves with the checkpoint after.
    fn reclaim(&mut self, percent: u64) {
        self.host.store.compact(self.main);
        for _ in 0..3 {
            self.checkpoint();
            self.maintain(percent);
        }
        self.checkpoint();
    }

    fn event_bytes_on_disk(&self) -> u64 {
        let files = self.host.disk.file_list().into_iter();
        let events = files.filter(|(file, _)| matches!(file, FileName::Events { .. }));
        events.map(|(_, bytes)| bytes).sum()
    }
}

/// Records whose padding is a tenth of them are not emptied again and again because of it.
#[test]
fn tiny_records_that_are_all_live_stay_where_they_are() {
    let mut life = Life::new(3);
    for key in 0..3000 {
        life.put(&format!("{key:04}"), b"12345");
    }
    life.reclaim(COLLECT_ON_DEMAND_PERCENT);
    let files = life.host.disk.file_list();
    for _ in 0..5 {
        life.reclaim(COLLECT_ON_DEMAND_PERCENT);
    }
    assert_eq!(life.host.disk.file_list(), files, "copied again");
    // Half of them go, and with them their room.
    for key in 0..3000 {
        if key % 2 == 0 {
            life.delete(&format!("{key:04}"));
        }
    }
    life.put("more", b"");
    for _ in 0..3 {
        life.reclaim(COLLECT_ON_DEMAND_PERCENT);
    }
    let sizes = life.host.store.sizes();
    assert!(sizes.bytes < 3000 * 64, "{sizes:?}");
    life.host.check();
}

#[test]
fn overwriting_the_same_keys_takes_no_more_room() {
    let mut life = Life::new(1);
    let mut sizes = Vec::new();
    for round in 0..30u8 {
        for key in 0..200 {
            life.put(&format!("key-{key}"), &[round; 500]);
        }
        life.reclaim(COLLECT_BELOW_PERCENT);
        sizes.push((life.host.store.sizes(), life.event_bytes_on_disk()));
    }
    life.host.check();
    let live = 200 * 560;
    let (early, late) = (&sizes[..20], &sizes[20..]);
    let largest = |sizes: &[(Sizes, u64)]| {
        let each = sizes.iter().map(|(sizes, disk)| sizes.bytes + disk);
        each.max().expect("some rounds")
    };
    assert!(largest(late) <= largest(early) + (64 << 10), "{sizes:?}");
    let (last, disk) = sizes[29];
    assert!(last.bytes < 4 * live && disk < 5 * live, "{last:?}, {disk}");
    for key in 0..200 {
        let value = life.value(&format!("key-{key}"));
        assert_eq!(value, Some(Bytes::from(vec![29; 500])));
    }
}

#[test]
fn space_returns_after_deletions() {
    let mut life = Life::new(2);
    for key in 0..4_000 {
        life.put(&format!("key-{key:05}"), &[7; 300]);
    }
    life.checkpoint();
    let full = life.host.store.sizes();
    for key in (0..4_000).filter(|key| key % 20 != 0) {
        life.delete(&format!("key-{key:05}"));
    }
    life.put("last", b"x");
    life.reclaim(COLLECT_ON_DEMAND_PERCENT);
    let left = life.host.store.sizes();
    assert_eq!(left.keys, 201);
    assert!(left.bytes < full.bytes / 4, "{full:?} to {left:?}");
    let pages = life.host.store.pages.sums().pages;
    assert!(pages < 12, "{pages} pages for 201 keys");
    life.host.check();
    life.host.crash();
    life.host.check();
    for key in (0..4_000).step_by(20) {
        let value = life.value(&format!("key-{key:05}"));
        assert_eq!(value, Some(Bytes::from(vec![7; 300])));
    }
}

/// The keys of the settled records as they stand one behind the other.
fn settled_keys(life: &mut Life) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    let mut place = None;
    while let Some((next, need)) = life.host.store.log.written_piece_behind(place) {
        place = Some(next);
        let (kind, segment, mut offset) = next;
        let Need::Bytes { len, .. } = need else {
            panic!("{need:?} of a piece");
        };
        let end = offset + len;
        while kind == SegmentKind::Settled
            && offset < end
            && let Some(cursor) = life.host.store.log.cursor_at(segment, offset)
        {
            let (key, len) = life.host.settle(|store| {
                store.log.read(cursor, i64::MAX).map(|found| {
                    let (loc, record) = found.expect("a record");
                    (record.key.to_vec(), loc.len)
                })
            });
            keys.push(key);
            offset += len.next_multiple_of(8);
        }
    }
    keys
}

#[test]
fn settled_records_stand_in_key_order() {
    let mut life = Life::new(3);
    let mut random = Random(3);
    let mut numbers: Vec<u64> = (0..400).collect();
    for index in (1..numbers.len()).rev() {
        numbers.swap(index, random.below(index as u64 + 1) as usize);
    }
    for number in numbers {
        life.put(&format!("key-{number:03}"), &[1; 200]);
        life.put("overwritten", &[2; 300]);
    }
    life.reclaim(COLLECT_BELOW_PERCENT);
    let keys = settled_keys(&mut life);
    assert!(keys.len() > 200, "{} records were settled", keys.len());
    let breaks = keys.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert!(breaks <= 8, "{breaks} breaks: one per emptied segment");
    life.host.check();
}

#[test]
fn a_pass_by_events_goes_on_behind_a_crash() {
    let mut life = Life::compacted(4, CompactionWay::Events);
    for round in 0..4 {
        for key in 0..1_500 {
            life.put(&format!("key-{key}"), &[round; 20]);
        }
    }
    life.host.store.compact(life.main);
    for _ in 0..20 {
        life.host
            .settle(|store| store.maintain(COLLECT_BELOW_PERCENT));
    }
    let reached = life.host.store.pass.next();
    assert!(reached.main > 1 && !life.host.store.pass.is_done());
    life.checkpoint();
    life.host.crash();
    assert_eq!(life.host.store.pass.next().main, reached.main);
    life.maintain(0);
    life.host.check();
    let live = life.host.store.log.live_bytes();
    assert_eq!(live, (0..1_500).map(record_bytes).sum::<u64>());
}

fn record_bytes(key: u64) -> u64 {
    48 + 20 + format!("key-{key}").len() as u64
}

#[test]
fn a_long_history_goes_in_slices() {
    let mut life = Life::new(5);
    for number in 0..60_000u32 {
        life.put("hot", &number.to_le_bytes());
    }
    let before = life.host.store.pages.sums().pages;
    assert!(before > 40, "{before} pages");
    life.host.store.compact(life.main);
    let mut pages = before;
    let mut largest = 0;
    while !life.host.store.pass.is_done() {
        life.host.settle(|store| store.maintain(0));
        let now = life.host.store.pages.sums().pages;
        largest = largest.max(pages - now);
        pages = now;
    }
    assert_eq!(pages, 2, "both roots");
    assert!(largest <= 17, "{largest} pages in one slice");
    assert_eq!(life.host.store.log.live_bytes(), 48 + 3 + 4);
    life.host.check();
}

/// Damages the block of `file` at `offset`.
fn damage(life: &mut Life, file: FileName, offset: u64) {
    let (block, at) = (
        offset & !(BLOCK_BYTES as u64 - 1),
        offset as usize % BLOCK_BYTES,
    );
    let mut bytes = life.host.disk.bytes(file, block, BLOCK_BYTES as u64);
    bytes[at..]
        .iter_mut()
        .take(64)
        .for_each(|byte| *byte ^= 0x5a);
    life.host.disk.overwrite(file, block, bytes);
}

/// Does background work until it is idle; answers how often something could not be read.
fn maintain_damaged(life: &mut Life) -> u32 {
    let mut damages = 0;
    for _ in 0..100_000 {
        match life.host.store.maintain(COLLECT_BELOW_PERCENT) {
            Step::Ready(Maintained::Idle) => return damages,
            Step::Ready(_) => {
                life.host.turn();
            }
            Step::Need(need) => {
                let bytes = life.host.read(life.host.store.read_of(&need));
                if life.host.store.load(&need, Some(bytes)).is_err() {
                    damages += 1;
                    life.host.store.maintain_without(&need);
                }
            }
        }
    }
    panic!("background work that never ends");
}

#[test]
fn damaged_events_stay_and_nothing_else_is_disturbed() {
    let mut life = Life::new(6);
    for key in 0..600 {
        // Values that are not worth keeping in memory.
        life.put(&format!("key-{key}"), &[9; 40]);
    }
    for _ in 0..3 {
        for key in (0..600).filter(|key| key % 3 != 0) {
            life.put(&format!("key-{key}"), &[8; 40]);
        }
    }
    life.checkpoint();
    let file = FileName::Events {
        shard: 0,
        number: 1,
    };
    let version = life.host.settle(|store| store.get(b"key-90", i64::MAX));
    let loc = version.expect("never replaced").loc;
    assert_eq!(loc.segment.number(), 1);
    damage(&mut life, file, u64::from(loc.offset));
    life.host.store.compact(life.main);
    assert!(maintain_damaged(&mut life) > 0);
    life.checkpoint();
    assert_eq!(maintain_damaged(&mut life), 0, "it is met once");
    life.checkpoint();
    let files = life.host.disk.file_list();
    assert!(files.iter().any(|(found, _)| *found == file), "{files:?}");
    assert!(
        life.host.store.log.settled_bytes() > 0,
        "others were emptied"
    );
    let mut unreadable = 0;
    for key in 0..600 {
        let found = life.host.settle(|store| {
            let key = format!("key-{key}");
            store.get(key.as_bytes(), i64::MAX)
        });
        let version = found.expect("every key is there");
        let intact = loop {
            let need = match life.host.store.value_of(&version) {
                Step::Ready(_) => break true,
                Step::Need(need) => need,
            };
            let bytes = life.host.read(life.host.store.read_of(&need));
            if life.host.store.load(&need, Some(bytes)).is_err() {
                break false;
            }
        };
        unreadable += u32::from(!intact);
    }
    assert_eq!(unreadable, 1, "only what is damaged");
    let damages = scrub(&mut life);
    assert_eq!(damages.len(), 1, "{damages:?}");
    let place = format!("shard-00/0000000000000001.events at offset {}", loc.offset);
    assert!(damages[0].starts_with(&place), "{damages:?}");
}

#[test]
fn changes_outrun_a_disk_that_takes_nothing_and_no_other() {
    let mut life = Life::new(10);
    // Nobody polls: nothing is written.
    let mut puts = 0;
    while !life.host.store.is_behind() {
        life.put(&format!("key-{puts:06}"), &[5; 100]);
        puts += 1;
        assert!(puts < 100_000, "memory grows without a bound");
    }
    life.checkpoint();
    assert!(!life.host.store.is_behind());
    for key in 0..4 * puts {
        life.put(&format!("key-{key:06}"), &[6; 100]);
        while life.host.store.is_behind() {
            life.host.freeze();
            life.host.turn();
        }
    }
    life.host.check();
}

#[test]
fn a_pass_ends_behind_a_leaf_that_cannot_be_read() {
    let mut life = Life::new(8);
    life.put("key", b"one");
    life.put("key", b"two");
    life.checkpoint();
    life.host.reopen();
    let file = FileName::Pages { shard: 0 };
    let files = life.host.disk.file_list();
    let (_, length) = files
        .iter()
        .find(|(found, _)| *found == file)
        .expect("pages");
    let blocks = length / BLOCK_BYTES as u64;
    // The manifest was read already; whatever page the pass needs is damaged.
    (0..blocks).for_each(|block| damage(&mut life, file, block * BLOCK_BYTES as u64));
    life.host.store.compact(life.main);
    assert_eq!(maintain_damaged(&mut life), 1, "it is met once");
}

/// A round over the whole disk.
fn scrub(life: &mut Life) -> Vec<String> {
    let mut damages = Vec::new();
    while let Some(target) = life.host.settle(Store::scrub_next) {
        let bytes = life.host.read(life.host.store.read_of(target.need()));
        let found = life.host.store.scrub_check(&target, &bytes);
        damages.extend(found.map(|damage| damage.to_string()));
    }
    damages
}

#[test]
fn a_scrub_finds_every_damaged_page() {
    let mut life = Life::new(7);
    for key in 0..3_000 {
        life.put(&format!("key-{key}"), &[3; 20]);
        life.put("hot", &[4; 20]);
    }
    life.checkpoint();
    assert_eq!(scrub(&mut life), Vec::<String>::new());
    let pages = life.host.store.pages.sums().pages;
    let file = FileName::Pages { shard: 0 };
    let files = life.host.disk.file_list().into_iter();
    let of_pages = files.filter(|(found, _)| *found == file);
    let len: u64 = of_pages.map(|(_, len)| len).sum();
    let mut found = 0;
    for block in 0..len / 4096 {
        let before = life.host.disk.bytes(file, block * 4096, 4096);
        damage(&mut life, file, block * 4096);
        let damages = scrub(&mut life);
        assert!(damages.len() <= 1, "{damages:?}");
        found += damages.len() as u64;
        life.host.disk.overwrite(file, block * 4096, before);
    }
    // Every block of a page counts, the first of each at least; the manifest's are no pages.
    assert!(
        found >= pages,
        "{found} damaged blocks of {pages} pages found"
    );
    assert_eq!(scrub(&mut life), Vec::<String>::new());
}

/// Does background work until the pass is through, without what `refuse` says cannot be had. Answers how many
/// slices that took.
fn pass(life: &mut Life, mut refuse: impl FnMut(&Need) -> bool) -> u32 {
    for slices in 0..10_000 {
        if life.host.store.pass.is_done() {
            return slices;
        }
        // Without collection.
        match life.host.store.maintain(0) {
            Step::Ready(_) => {
                life.host.turn();
            }
            Step::Need(need) if refuse(&need) => life.host.store.maintain_without(&need),
            Step::Need(need) => {
                let bytes = life.host.read(life.host.store.read_of(&need));
                let loaded = life.host.store.load(&need, Some(bytes));
                loaded.expect("intact");
            }
        }
    }
    panic!("a pass that never ends");
}

fn no_events(need: &Need) -> bool {
    assert!(matches!(need, Need::Page(_)), "{need:?} of an event");
    false
}

#[test]
fn a_pass_visits_the_pages_that_changed_since_the_last_one_and_reads_no_event() {
    let mut life = Life::new(11);
    for key in 0..20_000 {
        life.put(&format!("key-{key:06}"), b"v");
    }
    life.checkpoint();
    let main = life.main;
    life.put("key", b"another");
    life.host.store.compact(life.main);
    let all = pass(&mut life, no_events);
    let leaves = life.host.store.pages.sums().pages;
    life.checkpoint();
    for round in 0..200 {
        for key in 5000..5050 {
            life.put(&format!("key-{key:06}"), &[b'w', round]);
        }
    }
    life.checkpoint();
    let before = life.host.store.log.live_bytes();
    life.host.store.compact(life.main);
    let few = pass(&mut life, no_events);
    assert!(leaves > 40, "{leaves} leaves");
    let visited = life.host.store.pages.unwritten();
    assert!(visited < 6, "{visited} pages changed by the pass");
    assert!(all > few, "{all} and {few} slices");
    let gone = before - life.host.store.log.live_bytes();
    let record = life.host.store.log.live_bytes() / 20_000;
    assert!(
        gone > 9000 * record,
        "{gone} bytes of {record} and more each"
    );
    life.host.check();
    let old = life.host.store.get(b"key-005000", main);
    assert!(matches!(old, Step::Ready(None)), "{old:?}");
}

#[test]
fn a_pass_goes_on_behind_a_page_that_cannot_be_read() {
    let mut life = Life::new(12);
    for round in 0..3 {
        for key in 0..10_000 {
            life.put(&format!("key-{key:06}"), &[b'v', round]);
        }
    }
    life.checkpoint();
    life.host.reopen();
    let before = life.host.store.log.live_bytes();
    life.host.store.compact(life.main);
    let mut pages = 0;
    pass(&mut life, |need| {
        pages += u32::from(!no_events(need));
        pages == 20
    });
    let gone = before - life.host.store.log.live_bytes();
    let share = gone as f64 / before as f64;
    // Two of three records, but those of one leaf.
    assert!((0.60..0.666).contains(&share), "{share} of {before} bytes");
}

#[test]
fn a_compaction_during_a_pass_by_pages_is_walked_after_it() {
    let mut life = Life::new(13);
    for _ in 0..2 {
        for key in 0..10_000 {
            life.put(&format!("key-{key:06}"), b"v");
        }
    }
    life.host.store.compact(life.main);
    for _ in 0..3 {
        assert!(matches!(
            life.host.store.maintain(COLLECT_BELOW_PERCENT),
            Step::Ready(_)
        ));
    }
    for key in 0..10_000 {
        life.put(&format!("key-{key:06}"), b"v");
    }
    life.host.store.compact(life.main);
    assert!(!life.host.store.pass.is_done());
    pass(&mut life, no_events);
    let mut versions = 0;
    for key in 0..10_000 {
        let found = life
            .host
            .settle(|store| store.get(format!("key-{key:06}").as_bytes(), life.main - 10_000));
        versions += u32::from(found.is_some());
    }
    assert_eq!(versions, 0, "versions below the second compaction");
    life.host.check();
}

/// A tombstone exactly at a compaction stays and goes with the next one, also if its page is frozen while the
/// pass is elsewhere and has not changed since.
fn a_tombstone_at_a_compaction_goes_with_the_next_one() {
    const KEYS: u64 = 10_000;
    let mut life = Life::compacted(14, CompactionWay::Pages);
    life.put("a", b"v");
    for _ in 0..2 {
        for key in 0..KEYS {
            life.put(&format!("key-{key:06}"), b"v");
        }
    }
    life.delete("a");
    life.host.store.compact(life.main);
    let live = life.host.store.log.live_bytes();
    // The first leaves are done.
    while life.host.store.log.live_bytes() > live / 4 * 3 {
        life.host.settle(|store| store.maintain(0));
    }
    assert!(!life.host.store.pass.is_done());
    life.checkpoint();
    pass(&mut life, no_events);
    let tombstone = 48 + 1;
    let record = 48 + 10 + 1;
    let live = life.host.store.log.live_bytes();
    assert_eq!(live, KEYS * record + tombstone);
    // A revision of another shard.
    life.host.store.compact(life.main + 1);
    pass(&mut life, no_events);
    assert_eq!(life.host.store.log.live_bytes(), KEYS * record);
}

#[test]
fn a_page_with_a_tombstone_at_the_target_is_visited_again() {
    a_tombstone_at_a_compaction_goes_with_the_next_one();
    let bug = Bug::ChangedAtTargetSettled;
    let run = AssertUnwindSafe(a_tombstone_at_a_compaction_goes_with_the_next_one);
    let caught = with(bug, || catch_unwind(run));
    assert!(caught.is_err(), "{bug:?} was not found");
}
