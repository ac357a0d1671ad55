//! Changing keys.

use super::{Store, Version};
use crate::command::{KEY_BYTES_MAX, LeaseId};
use crate::events::Record;
use crate::mvcc::versions::{self, Entry, List};
use crate::page::{Page, PageKind, SlotId, Swip};
use crate::planted::{Bug, planted};
use crate::revision::Revision;
use crate::step::{Step, ready};
use crate::tree::{Pages, Place, Position, Tree};

/// Bytes that a new cell takes at most beside its key and its older versions.
const NEWEST_BYTES_MAX: usize = 128;

impl Store {
    /// Stores `value` under `key`. Create revision and version follow from what is there.
    ///
    /// `revision` is above all that this store has seen; `key` has 1 to `KEY_BYTES_MAX` bytes.
    pub fn put(
        &mut self,
        revision: Revision,
        key: &[u8],
        value: &[u8],
        lease: LeaseId,
    ) -> Step<Version> {
        assert_key(key);
        let position = ready!(self.tree.find(&mut self.pages, key));
        let former = self.newest(&position);
        ready!(self.enter_overflow(&position));
        let live = former.and_then(Entry::live);
        let former_lease = live.map_or(LeaseId::NONE, |version| version.lease);
        ready!(self.enter_leases(key, former_lease, lease));

        let record = Record {
            tombstone: false,
            revision,
            create: live.map_or(revision.main, |version| version.create),
            version: live.map_or(1, |version| version.version + 1),
            lease,
            key,
            value,
        };
        let created = i32::from(live.is_none());
        let version = self.record(position, &record, created);
        self.move_lease(key, former_lease, lease);
        Step::Ready(version)
    }

    /// Deletes `key` by a tombstone; `false` if it is not there, and then nothing is recorded.
    ///
    /// `revision` is above all that this store has seen.
    pub fn delete(&mut self, revision: Revision, key: &[u8]) -> Step<bool> {
        assert_key(key);
        let position = ready!(self.tree.find(&mut self.pages, key));
        let Some(former) = self.newest(&position).and_then(Entry::live) else {
            return Step::Ready(false);
        };
        ready!(self.enter_overflow(&position));
        ready!(self.enter_leases(key, former.lease, LeaseId::NONE));

        let record = Record {
            tombstone: true,
            revision,
            create: former.create,
            version: former.version,
            lease: LeaseId::NONE,
            key,
            value: &[],
        };
        self.record(position, &record, -1);
        self.move_lease(key, former.lease, LeaseId::NONE);
        Step::Ready(true)
    }

    pub(super) fn newest(&self, position: &Position) -> Option<Entry> {
        let cell = position.cell.ok()?;
        Some(versions::list(self.pages[position.leaf].payload(cell)).newest)
    }

    /// Makes sure that the overflow page is there if older versions may have to move to it.
    pub(super) fn enter_overflow(&mut self, position: &Position) -> Step<()> {
        let Ok(cell) = position.cell else {
            return Step::Ready(());
        };
        let page = &self.pages[position.leaf];
        let payload = page.payload(cell);
        let key_len = page.prefix().len() + page.suffix(cell).len();
        let may_spill = versions::may_become_overfull(key_len, payload.len() + NEWEST_BYTES_MAX);
        if may_spill && versions::list(payload).overflow != Swip::Absent {
            ready!(self.pages.follow(Place::Cell {
                slot: position.leaf,
                cell
            }));
        }
        Step::Ready(())
    }

    /// Makes sure that the leaves of the lease tree that will change are there.
    pub(super) fn enter_leases(&mut self, key: &[u8], former: LeaseId, lease: LeaseId) -> Step<()> {
        if former == lease {
            return Step::Ready(());
        }
        for id in [former, lease] {
            if id != LeaseId::NONE {
                ready!(self.leases.find(&mut self.pages, &member(id, key)));
            }
        }
        Step::Ready(())
    }

    pub(super) fn move_lease(&mut self, key: &[u8], former: LeaseId, lease: LeaseId) {
        if former == lease {
            return;
        }
        if former != LeaseId::NONE && !planted(Bug::FormerLeaseKept) {
            self.leases
                .remove_member(&mut self.pages, &member(former, key));
        }
        if lease != LeaseId::NONE {
            self.leases.add_member(&mut self.pages, &member(lease, key));
        }
    }

    /// Appends the event and puts its version before the others of the key.
    pub(super) fn record(&mut self, position: Position, record: &Record<'_>, live: i32) -> Version {
        let version = Version {
            create: record.create,
            modified: record.revision,
            version: record.version,
            lease: record.lease,
            loc: self.log.append(record),
            hash: record.event_hash(),
        };
        self.event_hashes = self.event_hashes.wrapping_add(u64::from(version.hash));
        let entry = Entry {
            tombstone: record.tombstone,
            version,
        };
        let mut payload = std::mem::take(&mut self.scratch);
        payload.clear();
        let former: Option<List<'_>> = position
            .cell
            .ok()
            .map(|cell| versions::list(self.pages[position.leaf].payload(cell)));
        versions::push(former.as_ref(), &entry, &mut payload);
        if let Some(former) = former {
            self.log.supersede(former.newest.version.loc);
        }
        let counted = match planted(Bug::TombstoneKeepsCount) && live < 0 {
            true => 0,
            false => live,
        };
        let (tree, pages) = (&mut self.tree, &mut self.pages);
        let payload = write_cell(tree, pages, position, record.key, payload, counted);
        self.live_keys = self
            .live_keys
            .checked_add_signed(i64::from(live))
            .expect("live keys");
        self.scratch = payload;
        version
    }
}

/// Stores the cell of a key whose position this is and adds `live` to the counts above it; older versions
/// move to overflow pages if there are too many. Returns the payload that was stored.
pub(crate) fn write_cell(
    tree: &mut Tree,
    pages: &mut Pages,
    position: Position,
    key: &[u8],
    mut payload: Vec<u8>,
    live: i32,
) -> Vec<u8> {
    let spills = versions::is_overfull(key, &payload);
    if spills {
        let place = (position.leaf, versions::list(&payload).overflow);
        payload = versions::spill(&payload, |run| store_run(pages, place, key, run));
    }
    let leaf = tree.write(pages, position, key, &payload, live);
    if spills && let Swip::Resident(newest) = versions::list(&payload).overflow {
        // The leaf may have been split on the way, with the former reference still in it.
        pages.set_parent(newest, Some(leaf));
        pages.adopt(newest);
    }
    payload
}

pub(super) fn assert_key(key: &[u8]) {
    assert!(
        !key.is_empty() && key.len() <= KEY_BYTES_MAX,
        "a key of {} bytes",
        key.len()
    );
}

/// A key's name in the lease tree.
fn member(lease: LeaseId, key: &[u8]) -> Vec<u8> {
    let mut member = Vec::with_capacity(8 + key.len());
    member.extend_from_slice(&lease.0.to_be_bytes());
    member.extend_from_slice(key);
    member
}

/// Puts a run into the newest overflow page of a key in a leaf, or into a new one before it. Returns
/// the reference to the page that is the newest now.
fn store_run(pages: &mut Pages, (leaf, overflow): (SlotId, Swip), key: &[u8], run: &[u8]) -> Swip {
    if let Swip::Resident(slot) = overflow
        && pages[slot].fits_run(run.len())
    {
        pages.edit(slot, |page| page.append_run(run));
        return overflow;
    }
    let mut page = Page::new(PageKind::Overflow, 0, key, None);
    page.set_link(overflow);
    page.append_run(run);
    let newest = pages.add(page, Some(leaf));
    pages.adopt(newest);
    Swip::Resident(newest)
}
