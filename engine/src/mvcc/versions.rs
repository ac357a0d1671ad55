//! The version list of a key: the newest in full, older ones as differences, newest to oldest.
//!
//! ```text
//! flags u8 | newest: main v, sub v, main−create v, version v, [lease v], loc, hash u32 | [overflow 12]
//! older…:  flags u8 | Δmain v, sub v, [tombstone: main−create v, version v], [lease v], loc, hash u32
//! loc = segment v | offset/8 v | len v
//! ```
//! Create revision and version of an older entry follow from its newer neighbour: one less inside a
//! generation; a tombstone carries those of the generation that it closed. A run of an overflow page
//! has the same form without the overflow reference.

pub(crate) mod compact;

use super::varint;
use crate::command::LeaseId;
use crate::events::{Loc, SegmentId};
use crate::page::{CELL_BYTES_MAX, SWIP_BYTES, Swip};
use crate::planted::{Bug, planted};
use crate::revision::Revision;
use crate::store::Version;

/// Older versions beyond this many bytes move to overflow pages.
const OLDER_BYTES_MAX: usize = 1024;
/// Older versions that stay in the cell when the others move.
const OLDER_BYTES_KEPT: usize = 256;

mod newest_flag {
    pub(super) const TOMBSTONE: u8 = 1;
    pub(super) const LEASE: u8 = 2;
    pub(super) const OVERFLOW: u8 = 4;
    pub(super) const ALL: u8 = 7;
}

mod older_flag {
    pub(super) const TOMBSTONE: u8 = 1;
    pub(super) const FIRST: u8 = 2;
    pub(super) const LEASE_DIFFERS: u8 = 4;
    pub(super) const ALL: u8 = 7;
}

/// One version, or the tombstone that ends a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The key was deleted here; create revision and version are those of the closed generation.
    pub(crate) tombstone: bool,
    /// Its revisions, lease (none of a tombstone), place and hash.
    pub(crate) version: Version,
}

impl Entry {
    fn is_first_of_generation(&self) -> bool {
        !self.tombstone && self.version.version == 1
    }

    /// The version, unless this is a tombstone.
    pub(crate) fn live(self) -> Option<Version> {
        (!self.tombstone).then_some(self.version)
    }
}

/// What a search inside one list gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The newest entry that is old enough.
    Entry(Entry),
    /// Every entry here is too new; older ones may stand behind this reference.
    Older(Swip),
}

/// A parsed list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct List<'a> {
    pub(crate) newest: Entry,
    pub(crate) overflow: Swip,
    /// Encoded older entries.
    older: &'a [u8],
}

/// Whether the key of this payload is live at the newest revision.
pub(crate) fn is_live(payload: &[u8]) -> bool {
    payload[0] & newest_flag::TOMBSTONE == 0
}

/// Whether this payload has an overflow reference.
pub(crate) fn has_overflow(payload: &[u8]) -> bool {
    payload[0] & newest_flag::OVERFLOW != 0
}

/// Parses a payload; `None` if it is malformed. Older entries are parsed when they are walked.
#[inline(always)]
pub(crate) fn parse(payload: &[u8]) -> Option<List<'_>> {
    let mut rest = payload;
    let flags = take_byte(&mut rest)?;
    let main = take_i64(&mut rest)?;
    let sub = u32::try_from(varint::take(&mut rest)?).ok()?;
    let create = main.checked_sub(take_i64(&mut rest)?)?;
    let version = take_i64(&mut rest)?;
    let lease = match flags & newest_flag::LEASE {
        0 => LeaseId::NONE,
        _ => LeaseId(varint::take(&mut rest)? as i64),
    };
    let loc = take_loc(&mut rest)?;
    let hash = take_u32(&mut rest)?;
    let overflow = match flags & newest_flag::OVERFLOW {
        0 => Swip::Absent,
        _ => {
            let (swip, behind) = rest.split_at_checked(SWIP_BYTES)?;
            rest = behind;
            Swip::decode(swip)?
        }
    };
    let modified = Revision { main, sub };
    let version = Version {
        create,
        modified,
        version,
        lease,
        loc,
        hash,
    };
    let tombstone = flags & newest_flag::TOMBSTONE != 0;
    Some(List {
        newest: Entry { tombstone, version },
        overflow,
        older: rest,
    })
}

/// Parses a payload that was written here or checked when its page was decoded.
#[inline(always)]
pub(crate) fn list(payload: &[u8]) -> List<'_> {
    parse(payload).expect("a checked version list")
}

impl<'a> List<'a> {
    /// The entries behind the newest, newest to oldest.
    pub(crate) fn older(&self) -> Older<'a> {
        Older {
            rest: self.older,
            newer: self.newest,
        }
    }

    /// The newest entry with main ≤ `at`.
    pub(crate) fn find(&self, at: i64) -> Found {
        let at = if planted(Bug::VersionSearchOffByOne) {
            at - 1
        } else {
            at
        };
        if self.newest.version.modified.main <= at {
            return Found::Entry(self.newest);
        }
        let mut older = self.older();
        match older.find(|entry| entry.version.modified.main <= at) {
            Some(entry) => Found::Entry(entry),
            None => Found::Older(self.overflow),
        }
    }
}

/// Walks older entries.
pub(crate) struct Older<'a> {
    rest: &'a [u8],
    newer: Entry,
}

impl Older<'_> {
    /// The next older entry, `None` at the end.
    fn step(&mut self) -> Result<Option<Entry>, &'static str> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let mut rest = self.rest;
        let entry = take_older(&mut rest, &self.newer).ok_or("an older version is malformed")?;
        self.rest = rest;
        self.newer = entry;
        Ok(Some(entry))
    }
}

impl Iterator for Older<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        self.step().expect("a checked version list")
    }
}

fn take_older(rest: &mut &[u8], newer: &Entry) -> Option<Entry> {
    let flags = take_byte(rest)?;
    let main = newer.version.modified.main.checked_sub(take_i64(rest)?)?;
    let sub = u32::try_from(varint::take(rest)?).ok()?;
    let tombstone = flags & older_flag::TOMBSTONE != 0;
    let (create, version) = if tombstone {
        (main.checked_sub(take_i64(rest)?)?, take_i64(rest)?)
    } else if newer.tombstone {
        (newer.version.create, newer.version.version)
    } else {
        (newer.version.create, newer.version.version - 1)
    };
    let lease = match (tombstone, flags & older_flag::LEASE_DIFFERS) {
        (true, _) => LeaseId::NONE,
        (false, 0) => newer.version.lease,
        (false, _) => LeaseId(varint::take(rest)? as i64),
    };
    let loc = take_loc(rest)?;
    let hash = take_u32(rest)?;
    let modified = Revision { main, sub };
    Some(Entry {
        tombstone,
        version: Version {
            create,
            modified,
            version,
            lease,
            loc,
            hash,
        },
    })
}

#[inline]
fn take_byte(rest: &mut &[u8]) -> Option<u8> {
    let (&byte, behind) = rest.split_first()?;
    *rest = behind;
    Some(byte)
}

#[inline]
fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    let (bytes, behind) = rest.split_first_chunk::<4>()?;
    *rest = behind;
    Some(u32::from_le_bytes(*bytes))
}

#[inline]
fn take_i64(rest: &mut &[u8]) -> Option<i64> {
    i64::try_from(varint::take(rest)?).ok()
}

#[inline]
fn take_loc(rest: &mut &[u8]) -> Option<Loc> {
    let segment = SegmentId::from_raw(varint::take(rest)?);
    let offset = u32::try_from(varint::take(rest)?.checked_mul(8)?).ok()?;
    let len = u32::try_from(varint::take(rest)?).ok()?;
    Some(Loc {
        segment,
        offset,
        len,
    })
}

fn put_loc(out: &mut Vec<u8>, loc: Loc) {
    assert!(loc.offset.is_multiple_of(8), "record at {}", loc.offset);
    varint::put(out, loc.segment.raw());
    varint::put(out, u64::from(loc.offset / 8));
    varint::put(out, u64::from(loc.len));
}

fn put_newest(out: &mut Vec<u8>, entry: &Entry, overflow: Swip) {
    let version = &entry.version;
    let mut flags = 0;
    if entry.tombstone {
        flags |= newest_flag::TOMBSTONE;
    }
    if version.lease != LeaseId::NONE {
        flags |= newest_flag::LEASE;
    }
    if overflow != Swip::Absent {
        flags |= newest_flag::OVERFLOW;
    }
    out.push(flags);
    varint::put(out, version.modified.main as u64);
    varint::put(out, u64::from(version.modified.sub));
    varint::put(out, (version.modified.main - version.create) as u64);
    varint::put(out, version.version as u64);
    if version.lease != LeaseId::NONE {
        varint::put(out, version.lease.0 as u64);
    }
    put_loc(out, version.loc);
    out.extend_from_slice(&version.hash.to_le_bytes());
    if overflow != Swip::Absent {
        out.extend_from_slice(&overflow.encode());
    }
}

fn put_older(out: &mut Vec<u8>, newer: &Entry, entry: &Entry) {
    let version = &entry.version;
    let lease_differs = !entry.tombstone && version.lease != newer.version.lease;
    let mut flags = 0;
    if entry.tombstone {
        flags |= older_flag::TOMBSTONE;
    }
    if entry.is_first_of_generation() {
        flags |= older_flag::FIRST;
    }
    if lease_differs {
        flags |= older_flag::LEASE_DIFFERS;
    }
    out.push(flags);
    varint::put(
        out,
        (newer.version.modified.main - version.modified.main) as u64,
    );
    varint::put(out, u64::from(version.modified.sub));
    if entry.tombstone {
        varint::put(out, (version.modified.main - version.create) as u64);
        varint::put(out, version.version as u64);
    }
    if lease_differs {
        varint::put(out, version.lease.0 as u64);
    }
    put_loc(out, version.loc);
    out.extend_from_slice(&version.hash.to_le_bytes());
}

/// Writes the list that has `entry` before everything of `former` to `out`.
pub(crate) fn push(former: Option<&List<'_>>, entry: &Entry, out: &mut Vec<u8>) {
    let Some(former) = former else {
        put_newest(out, entry, Swip::Absent);
        return;
    };
    assert!(
        former.newest.version.modified < entry.version.modified,
        "a version at {:?} behind {:?}",
        former.newest.version.modified,
        entry.version.modified
    );
    put_newest(out, entry, former.overflow);
    put_older(out, entry, &former.newest);
    out.extend_from_slice(former.older);
}

/// Whether a payload of up to `payload_bytes` may have to move older versions out.
pub(crate) fn may_become_overfull(key_bytes: usize, payload_bytes: usize) -> bool {
    2 + key_bytes + payload_bytes + SWIP_BYTES > CELL_BYTES_MAX || payload_bytes > OLDER_BYTES_MAX
}

/// Whether a cell of this key and payload must move older versions out.
pub(crate) fn is_overfull(key: &[u8], payload: &[u8]) -> bool {
    if 2 + key.len() + payload.len() + SWIP_BYTES > CELL_BYTES_MAX {
        return true;
    }
    payload.len() > OLDER_BYTES_MAX && list(payload).older.len() > OLDER_BYTES_MAX
}

/// Splits an overfull list: what stays in the cell, with `overflow` as its reference, and the run
/// that moves out.
pub(crate) fn spill(payload: &[u8], overflow: impl FnOnce(&[u8]) -> Swip) -> Vec<u8> {
    let list = list(payload);
    let mut older = list.older();
    let mut kept_bytes = 0;
    let first_moved = loop {
        let entry = older
            .next()
            .expect("an overfull list has more than it keeps");
        if list.older.len() - older.rest.len() > OLDER_BYTES_KEPT {
            break entry;
        }
        kept_bytes = list.older.len() - older.rest.len();
    };
    let mut run = Vec::with_capacity(payload.len());
    put_newest(&mut run, &first_moved, Swip::Absent);
    run.extend_from_slice(older.rest);
    if planted(Bug::OverflowLosesOldest) {
        run.clear();
        put_newest(&mut run, &first_moved, Swip::Absent);
    }
    let overflow = overflow(&run);
    let mut kept = Vec::with_capacity(payload.len());
    put_newest(&mut kept, &list.newest, overflow);
    kept.extend_from_slice(&list.older[..kept_bytes]);
    kept
}

/// Puts `overflow` in place of the reference in `payload`, which has one.
pub(crate) fn set_overflow(payload: &mut [u8], overflow: Swip) {
    let list = list(payload);
    assert_ne!(list.overflow, Swip::Absent, "a list without overflow");
    let end = payload.len() - list.older.len();
    payload[end - SWIP_BYTES..end].copy_from_slice(&overflow.encode());
}

/// Checks the payload of a leaf cell that comes from disk.
pub(crate) fn check_cell(payload: &[u8]) -> Result<(), &'static str> {
    match check_list(payload)?.overflow {
        Swip::Resident(_) => Err("an overflow reference into memory"),
        _ => Ok(()),
    }
}

/// Checks a run of an overflow page that comes from disk.
pub(crate) fn check_run(payload: &[u8]) -> Result<(), &'static str> {
    if check_list(payload)?.overflow != Swip::Absent {
        return Err("a run with an overflow reference");
    }
    Ok(())
}

/// Checks every rule inside one list.
pub(crate) fn check_list(payload: &[u8]) -> Result<List<'_>, &'static str> {
    if payload
        .first()
        .is_some_and(|flags| flags & !newest_flag::ALL != 0)
    {
        return Err("unknown flags");
    }
    let list = parse(payload).ok_or("the newest version is malformed")?;
    if payload[0] & newest_flag::OVERFLOW != 0 && list.overflow == Swip::Absent {
        return Err("an absent overflow reference");
    }
    check_entry(&list.newest)?;
    let mut older = list.older();
    let mut newer = list.newest;
    loop {
        let flags = older.rest.first().copied().unwrap_or_default();
        let Some(entry) = older.step()? else {
            return Ok(list);
        };
        if flags & !older_flag::ALL != 0 {
            return Err("unknown flags");
        }
        if entry.is_first_of_generation() != (flags & older_flag::FIRST != 0) {
            return Err("a generation that does not start at version 1");
        }
        check_neighbours(&newer, &entry)?;
        newer = entry;
    }
}

/// Checks the rules between a version and the next older one.
pub(crate) fn check_neighbours(newer: &Entry, entry: &Entry) -> Result<(), &'static str> {
    check_entry(entry)?;
    if entry.version.modified >= newer.version.modified {
        return Err("versions out of order");
    }
    if newer.is_first_of_generation() != entry.tombstone {
        return Err("generation and tombstone do not alternate");
    }
    let expected = match (newer.tombstone, entry.tombstone) {
        (_, true) => return Ok(()),
        (true, false) => (newer.version.create, newer.version.version),
        (false, false) => (newer.version.create, newer.version.version - 1),
    };
    if (entry.version.create, entry.version.version) != expected {
        return Err("version is not the number of changes since the creation");
    }
    Ok(())
}

fn check_entry(entry: &Entry) -> Result<(), &'static str> {
    let version = &entry.version;
    if version.create < 1 || version.create > version.modified.main {
        return Err("create revision out of range");
    }
    if version.version < 1 {
        return Err("version out of range");
    }
    if entry.is_first_of_generation() && version.create != version.modified.main {
        return Err("a creation at another revision than its create revision");
    }
    if entry.tombstone && version.lease != LeaseId::NONE {
        return Err("a tombstone with a lease");
    }
    Ok(())
}

/// A list of some versions for tests of pages.
#[cfg(test)]
pub(crate) fn sample(seed: u64) -> Vec<u8> {
    let mut payload = Vec::new();
    for version in 1..=1 + (seed as i64 % 5) {
        let former = std::mem::take(&mut payload);
        let entry = Entry {
            tombstone: false,
            version: Version {
                create: 10,
                modified: Revision {
                    main: 9 + version,
                    sub: 0,
                },
                version,
                lease: LeaseId(seed as i64 % 3),
                loc: Loc {
                    segment: SegmentId::event(1),
                    offset: 64 * seed as u32,
                    len: 60,
                },
                hash: 7,
            },
        };
        let former = (!former.is_empty()).then(|| list(&former));
        push(former.as_ref(), &entry, &mut payload);
    }
    payload
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_lists_are_refused_or_valid() {
        for seed in 0..10 {
            let payload = sample(seed);
            assert!(check_cell(&payload).is_ok());
            for cut in 0..payload.len() {
                // A cut between two versions leaves a valid, shorter list.
                if let Ok(list) = check_list(&payload[..cut]) {
                    assert!(list.older().count() < parse(&payload).expect("valid").older().count());
                }
            }
            for at in 0..payload.len() {
                for byte in 0..=255 {
                    let mut damaged = payload.clone();
                    damaged[at] = byte;
                    if let Ok(list) = check_list(&damaged) {
                        let entries: Vec<Entry> = list.older().collect();
                        assert!(entries.iter().all(|entry| entry.version.version >= 1));
                    }
                }
            }
        }
    }

    #[test]
    fn a_list_gives_every_version_back() {
        let payload = sample(4);
        let list = list(&payload);
        for version in 1..=5 {
            match list.find(9 + version) {
                Found::Entry(entry) => assert_eq!(entry.version.version, version),
                Found::Older(_) => panic!("version {version} is there"),
            }
        }
        assert_eq!(list.find(9), Found::Older(Swip::Absent));
    }
}
