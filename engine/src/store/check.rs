//! Asserting the invariants of a whole store.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Store;
use crate::command::LeaseId;
use crate::events::Record;
use crate::image::ReadRequest;
use crate::mvcc::versions::{self, Entry};
use crate::page::{Page, PageKind, PageRef, SlotId, Swip};
use crate::step::Need;

/// Brings bytes from the disk.
type Read<'a> = &'a mut dyn FnMut(ReadRequest) -> Bytes;

/// A walk over the pages, and what it adds up.
#[derive(Default)]
struct Walk<'a> {
    read: Option<Read<'a>>,
    /// Pages that could not be looked at.
    absent: u64,
    /// Record bytes by raw segment id.
    live_bytes: BTreeMap<u64, u64>,
    /// Lease members that must be there.
    members: Vec<Vec<u8>>,
    event_hashes: u64,
    pages: u64,
    used_bytes: u64,
    blocks: u64,
    /// Images of the pages.
    images: Vec<PageRef>,
}

/// A page that is still to be visited, with what its parent says about it.
struct Visit {
    swip: Swip,
    parent: Option<SlotId>,
    level: Option<u8>,
    low: Vec<u8>,
    high: Option<Vec<u8>>,
    live: Option<u32>,
}

impl Store {
    /// Asserts every invariant of pages, cells, events and leases in memory. Costs a walk over all of it.
    ///
    /// # Panics
    /// When one is broken.
    pub fn check(&self) {
        if let Err(broken) = self.verify(None) {
            panic!("shard {}: {broken}", self.shard);
        }
    }

    /// Asserts every invariant, of what is on disk too: `read` brings it. Costs a walk over everything.
    ///
    /// # Panics
    /// When one is broken.
    pub fn check_all(&self, read: &mut dyn FnMut(ReadRequest) -> Bytes) {
        if let Err(broken) = self.verify(Some(read)) {
            panic!("shard {}: {broken}", self.shard);
        }
    }

    /// What [`Store::check`] asserts.
    pub(crate) fn verify(&self, read: Option<Read<'_>>) -> Result<(), String> {
        self.log.verify()?;
        self.pages.verify_counts()?;
        let mut walk = Walk {
            read,
            ..Walk::default()
        };
        let live = self.verify_tree(self.tree.root(), PageKind::Leaf, &mut walk)?;
        if !matches!(self.tree.root(), Swip::Disk(_)) || walk.read.is_some() {
            require_equal("live keys", live, self.live_keys)?;
        }
        let mut expected = std::mem::take(&mut walk.members);
        expected.sort();
        self.verify_tree(self.leases.root(), PageKind::KeySet, &mut walk)?;
        if walk.absent > 0 {
            return Ok(());
        }
        if walk.members != expected {
            let (got, expected) = (walk.members.len(), expected.len());
            return Err(format!(
                "lease tree: {got} members, {expected} live keys with leases"
            ));
        }
        let sums = self.pages.sums();
        require_equal("pages", walk.pages, sums.pages)?;
        require_equal("used page bytes", walk.used_bytes, sums.used_bytes)?;
        require_equal("page blocks", walk.blocks, sums.blocks)?;
        require_equal("event hashes", walk.event_hashes, self.event_hashes)?;
        self.verify_images(&mut walk.images)?;
        for (segment, live_bytes) in self.log.live_bytes_of_segments() {
            let sum = walk.live_bytes.remove(&segment.raw()).unwrap_or_default();
            require_equal("live bytes of a segment", live_bytes, sum)?;
        }
        match walk.live_bytes.first_key_value() {
            Some((segment, _)) => Err(format!("versions in segment {segment}, which is not there")),
            None => Ok(()),
        }
    }

    /// The images of all pages have blocks of their own.
    fn verify_images(&self, images: &mut [PageRef]) -> Result<(), String> {
        images.sort();
        for pair in images.windows(2) {
            if pair[0].address + u64::from(pair[0].blocks) > pair[1].address {
                return Err(format!("{:?} overlaps {:?}", pair[0], pair[1]));
            }
        }
        let allocator = self.image.allocator();
        for image in images.iter() {
            let mut blocks = image.address..image.address + u64::from(image.blocks);
            if !blocks.all(|block| allocator.is_used(block)) {
                return Err(format!("{image:?} stands on free blocks"));
            }
        }
        Ok(())
    }

    /// A page of this reference, decoded if it is on disk and can be read.
    fn page_behind(
        &self,
        swip: Swip,
        parent: Option<SlotId>,
        walk: &mut Walk<'_>,
    ) -> Result<Option<Page>, String> {
        match swip {
            Swip::Resident(slot) => {
                self.pages.verify_frame(slot, parent)?;
                walk.images.extend(self.pages.image(slot));
                Ok(Some(self.pages[slot].clone()))
            }
            Swip::Disk(reference) => {
                walk.images.push(reference);
                let Some(read) = &mut walk.read else {
                    walk.absent += 1;
                    return Ok(None);
                };
                let image = read(self.read_of(&Need::Page(reference)));
                Page::decode(&image, &self.pages.expectation(reference))
                    .map(Some)
                    .map_err(|error| format!("{reference:?}: {error}"))
            }
            Swip::Absent => Err("a reference to no page".to_owned()),
        }
    }

    /// Visits every page of a tree; returns the number of live keys.
    fn verify_tree(
        &self,
        root: Swip,
        leaves: PageKind,
        walk: &mut Walk<'_>,
    ) -> Result<u64, String> {
        let mut total = 0;
        let root = Visit {
            swip: root,
            parent: None,
            level: None,
            low: Vec::new(),
            high: None,
            live: None,
        };
        let mut visits = vec![root];
        while let Some(visit) = visits.pop() {
            let Some(page) = self.page_behind(visit.swip, visit.parent, walk)? else {
                total += u64::from(visit.live.unwrap_or_default());
                continue;
            };
            self.verify_page(&page, &visit, leaves)
                .map_err(|what| format!("{page:?}: {what}"))?;
            walk.count(&page);
            let slot = slot_of(visit.swip);
            match page.kind() {
                PageKind::Inner => push_children(&page, slot, &mut visits),
                PageKind::KeySet => {
                    total += page.len() as u64;
                    walk.members
                        .extend((0..page.len()).map(|cell| page.key(cell)));
                }
                PageKind::Leaf => {
                    total += u64::from(page.live());
                    for cell in 0..page.len() {
                        self.verify_key(&page, slot, cell, walk)
                            .map_err(|what| format!("key {:?}: {what}", page.key(cell)))?;
                    }
                }
                PageKind::Overflow => return Err("an overflow page in a tree".to_owned()),
            }
        }
        Ok(total)
    }

    fn verify_page(&self, page: &Page, visit: &Visit, leaves: PageKind) -> Result<(), String> {
        page.verify()?;
        if page.low() != visit.low || page.high() != visit.high.as_deref() {
            return Err("fences are not the parent's separators".to_owned());
        }
        if visit.level.is_some_and(|level| level != page.level()) {
            return Err(format!("level below {:?}", visit.level));
        }
        if page.kind() != PageKind::Inner && page.kind() != leaves {
            return Err("a page of the other tree".to_owned());
        }
        match visit.live {
            Some(live) if live != page.live() => Err(format!(
                "{} live keys, the parent counts {live}",
                page.live()
            )),
            _ => Ok(()),
        }
    }

    /// Checks all versions of a key, in the cell and in overflow pages.
    fn verify_key(
        &self,
        page: &Page,
        slot: Option<SlotId>,
        cell: usize,
        walk: &mut Walk<'_>,
    ) -> Result<(), String> {
        let key = page.key(cell);
        let list = versions::check_list(page.payload(cell))?;
        let newest = list.newest;
        if newest.version.modified > self.log.last() {
            return Err(format!(
                "{:?} is newer than the log",
                newest.version.modified
            ));
        }
        if let Some(version) = newest.live()
            && version.lease != LeaseId::NONE
        {
            let mut member = version.lease.0.to_be_bytes().to_vec();
            member.extend_from_slice(&key);
            walk.members.push(member);
        }
        let mut entries = vec![newest];
        entries.extend(list.older());
        let (mut swip, mut parent) = (list.overflow, slot);
        while swip != Swip::Absent {
            let Some(page) = self.page_behind(swip, parent, walk)? else {
                break;
            };
            if page.kind() != PageKind::Overflow || page.low() != key {
                return Err(format!("{page:?} does not hold its older versions"));
            }
            walk.count(&page);
            for run in (0..page.len()).rev() {
                let list = versions::check_list(page.payload(run))?;
                entries.push(list.newest);
                entries.extend(list.older());
            }
            (parent, swip) = (slot_of(swip), page.link());
        }
        for pair in entries.windows(2) {
            versions::check_neighbours(&pair[0], &pair[1])?;
        }
        for entry in &entries {
            self.verify_record(&key, entry, walk)?;
            let loc = entry.version.loc;
            *walk.live_bytes.entry(loc.segment.raw()).or_default() += u64::from(loc.len);
            let hash = u64::from(entry.version.hash);
            walk.event_hashes = walk.event_hashes.wrapping_add(hash);
        }
        Ok(())
    }

    /// Checks that a version's record says the same, if it is in memory or can be read.
    fn verify_record(&self, key: &[u8], entry: &Entry, walk: &mut Walk<'_>) -> Result<(), String> {
        let version = &entry.version;
        let loc = version.loc;
        let bytes;
        let record = if self.log.is_resident(loc) {
            self.log.verified_record(loc)
        } else {
            let Some(read) = &mut walk.read else {
                return Ok(());
            };
            let request = self.read_of(&Need::Bytes {
                segment: loc.segment,
                offset: loc.offset,
                len: loc.len,
            });
            bytes = read(request);
            let start = usize::try_from(u64::from(loc.offset) - request.offset);
            let start = start.map_err(|_| format!("{request:?} for {loc:?}"))?;
            let range = start..start + loc.len as usize;
            let record = bytes.get(range).ok_or("the file ends before it")?;
            Record::decode(record, self.pages.salt())
        };
        let record = record.map_err(|error| format!("{loc:?}: {error}"))?;
        let said = Record {
            tombstone: entry.tombstone,
            revision: version.modified,
            create: version.create,
            version: version.version,
            lease: version.lease,
            key,
            value: record.value,
        };
        if record != said {
            return Err(format!("{version:?} but its record is {record:?}"));
        }
        require_equal(
            "event hash",
            u64::from(record.event_hash()),
            u64::from(version.hash),
        )
    }
}

impl Walk<'_> {
    fn count(&mut self, page: &Page) {
        self.pages += 1;
        self.used_bytes += page.used() as u64;
        self.blocks += u64::from(page.blocks());
    }
}

fn slot_of(swip: Swip) -> Option<SlotId> {
    match swip {
        Swip::Resident(slot) => Some(slot),
        Swip::Disk(_) | Swip::Absent => None,
    }
}

fn push_children(page: &Page, parent: Option<SlotId>, visits: &mut Vec<Visit>) {
    for child in 0..page.children() {
        let (low, high) = page.fences_of_child(child);
        visits.push(Visit {
            swip: page.child(child),
            parent,
            level: Some(page.level() - 1),
            low,
            high,
            live: Some(page.child_live(child)),
        });
    }
    // The stack gives the last one first: keep the leaves in key order.
    let first = visits.len() - page.children();
    visits[first..].reverse();
}

fn require_equal(what: &str, got: u64, expected: u64) -> Result<(), String> {
    if got == expected {
        Ok(())
    } else {
        Err(format!("{what}: {got} instead of {expected}"))
    }
}
