//! Asserting the invariants of a whole store.

use std::collections::BTreeMap;

use super::Store;
use crate::command::LeaseId;
use crate::events::Record;
use crate::mvcc::versions::{self, Entry};
use crate::page::{Page, PageKind, Swip};

/// What a walk over the main tree adds up.
#[derive(Default)]
struct Sums {
    /// Record bytes by raw segment id.
    live_bytes: BTreeMap<u64, u64>,
    /// Lease members that must be there.
    members: Vec<Vec<u8>>,
    versions: u64,
    pages: u64,
    used_bytes: u64,
}

/// A page that is still to be visited, with what its parent says about it.
struct Visit {
    swip: Swip,
    level: Option<u8>,
    low: Vec<u8>,
    high: Option<Vec<u8>>,
    live: Option<u32>,
}

impl Store {
    /// Asserts every invariant of pages, cells, events and leases. Costs a walk over everything.
    ///
    /// # Panics
    /// When one is broken.
    pub fn check(&self) {
        if let Err(broken) = self.verify() {
            panic!("shard store: {broken}");
        }
    }

    /// What [`Store::check`] asserts.
    pub(crate) fn verify(&self) -> Result<(), String> {
        self.log.verify()?;
        let mut sums = Sums::default();
        let live = self.verify_tree(self.tree.root(), PageKind::Leaf, &mut sums)?;
        require_equal("live keys", live, self.live_keys)?;
        let mut expected = std::mem::take(&mut sums.members);
        expected.sort();
        self.verify_tree(self.leases.root(), PageKind::KeySet, &mut sums)?;
        if sums.members != expected {
            let (got, expected) = (sums.members.len(), expected.len());
            return Err(format!(
                "lease tree: {got} members, {expected} live keys with leases"
            ));
        }
        require_equal("pages", sums.pages, self.pages.total())?;
        require_equal("used page bytes", sums.used_bytes, self.pages.used_bytes())?;
        for (segment, live_bytes) in self.log.live_bytes_of_segments() {
            let sum = sums.live_bytes.remove(&segment.raw()).unwrap_or_default();
            require_equal("live bytes of a segment", live_bytes, sum)?;
        }
        match sums.live_bytes.first_key_value() {
            Some((segment, _)) => Err(format!("versions in segment {segment}, which is not there")),
            None => Ok(()),
        }
    }

    /// A page of this reference, decoded if it is absent.
    fn page_behind(&self, swip: Swip) -> Result<Page, String> {
        match swip {
            Swip::Resident(slot) => Ok(self.pages[slot].clone()),
            Swip::Disk(reference) => {
                let image = self.pages.kept_image(reference);
                let image = image.ok_or_else(|| format!("{reference:?} has no image"))?;
                Page::decode(image, &self.pages.expectation(reference))
                    .map_err(|error| format!("{reference:?}: {error}"))
            }
            Swip::Absent => Err("a reference to no page".to_owned()),
        }
    }

    /// Visits every page of a tree; returns the number of live keys.
    fn verify_tree(&self, root: Swip, leaves: PageKind, sums: &mut Sums) -> Result<u64, String> {
        let mut total = 0;
        let root = Visit {
            swip: root,
            level: None,
            low: Vec::new(),
            high: None,
            live: None,
        };
        let mut visits = vec![root];
        while let Some(visit) = visits.pop() {
            let page = self.page_behind(visit.swip)?;
            self.verify_page(&page, &visit, leaves)
                .map_err(|what| format!("{page:?}: {what}"))?;
            sums.pages += 1;
            sums.used_bytes += page.used() as u64;
            match page.kind() {
                PageKind::Inner => push_children(&page, &mut visits),
                PageKind::KeySet => {
                    total += page.len() as u64;
                    sums.members
                        .extend((0..page.len()).map(|cell| page.key(cell)));
                }
                PageKind::Leaf => {
                    total += u64::from(page.live());
                    for cell in 0..page.len() {
                        self.verify_key(&page, cell, sums)
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
    fn verify_key(&self, page: &Page, cell: usize, sums: &mut Sums) -> Result<(), String> {
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
            sums.members.push(member);
        }
        let mut entries = vec![newest];
        entries.extend(list.older());
        let mut swip = list.overflow;
        while swip != Swip::Absent {
            let page = self.page_behind(swip)?;
            if page.kind() != PageKind::Overflow || page.low() != key {
                return Err(format!("{page:?} does not hold its older versions"));
            }
            sums.pages += 1;
            sums.used_bytes += page.used() as u64;
            for run in (0..page.len()).rev() {
                let list = versions::check_list(page.payload(run))?;
                entries.push(list.newest);
                entries.extend(list.older());
            }
            swip = page.link();
        }
        for pair in entries.windows(2) {
            versions::check_neighbours(&pair[0], &pair[1])?;
        }
        for entry in &entries {
            self.verify_record(&key, entry)?;
            let loc = entry.version.loc;
            *sums.live_bytes.entry(loc.segment.raw()).or_default() += u64::from(loc.len);
        }
        sums.versions += entries.len() as u64;
        Ok(())
    }

    /// Checks that a version's record says the same.
    fn verify_record(&self, key: &[u8], entry: &Entry) -> Result<(), String> {
        let version = &entry.version;
        let record = self.log.verified_record(version.loc);
        let record = record.map_err(|error| format!("{:?}: {error}", version.loc))?;
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

fn push_children(page: &Page, visits: &mut Vec<Visit>) {
    for child in 0..page.children() {
        let (low, high) = page.fences_of_child(child);
        visits.push(Visit {
            swip: page.child(child),
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
