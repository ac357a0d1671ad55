//! The sum of the hashes of what is readable: HashKV.
//!
//! Counted are the versions and tombstones with C < main ≤ R, and of each key the newest version with
//! main ≤ C unless that is a tombstone. A pass of the compaction to C drops none of them, and what it has
//! not dropped yet is not counted, so its progress does not show. A sum does not depend on the order of
//! keys, so neither do the number of shards and the shape of their trees.

use bytes::Bytes;

use super::LEAVES_PER_SLICE;
use crate::mvcc::versions::{self, Entry};
use crate::page::{SlotId, Swip};
use crate::planted::{Bug, planted};
use crate::step::{Step, ready};
use crate::tree::{Pages, Place, Tree};

/// A slice of the sum over one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashRequest {
    /// Keys from this one on.
    pub from: Bytes,
    /// Main revision R.
    pub at: i64,
    /// The compact revision C that counts; another one of the shard refuses the request.
    pub compacted: i64,
}

/// Answer to a [`HashRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HashPart {
    /// Sum of the event hashes, modulo 2^64.
    pub sum: u64,
    /// Where the next slice begins, if there is one.
    pub resume: Option<Bytes>,
}

/// Adds up a slice.
pub(crate) fn slice(tree: &mut Tree, pages: &mut Pages, request: &HashRequest) -> Step<HashPart> {
    let mut part = HashPart::default();
    let mut from = request.from.to_vec();
    for _ in 0..LEAVES_PER_SLICE {
        match add_leaf(tree, pages, &from, request) {
            Step::Ready((sum, next)) => {
                part.sum = part.sum.wrapping_add(sum);
                match next {
                    Some(next) => from = next,
                    None => return Step::Ready(part),
                }
            }
            // What was added up is an answer.
            Step::Need(_) if from.as_slice() > request.from.as_ref() => break,
            Step::Need(need) => return Step::Need(need),
        }
    }
    part.resume = Some(Bytes::from(from));
    Step::Ready(part)
}

/// The sum over the keys of a leaf from `from` on, and where the next leaf begins.
fn add_leaf(
    tree: &mut Tree,
    pages: &mut Pages,
    from: &[u8],
    request: &HashRequest,
) -> Step<(u64, Option<Vec<u8>>)> {
    let position = ready!(tree.find(pages, from));
    let leaf = position.leaf;
    let mut sum = 0u64;
    for cell in position.cell.unwrap_or_else(|cell| cell)..pages[leaf].len() {
        sum = sum.wrapping_add(ready!(of_key(pages, leaf, cell, request)));
    }
    let next = pages[leaf].high().map(<[u8]>::to_vec);
    Step::Ready((sum, next))
}

fn of_key(pages: &mut Pages, leaf: SlotId, cell: usize, request: &HashRequest) -> Step<u64> {
    let mut sum = Sum::default();
    let list = versions::list(pages[leaf].payload(cell));
    let mut through = sum.add(versions::compact::entries(&list), request);
    let mut place = Place::Cell { slot: leaf, cell };
    while !through && pages.swip(place) != Swip::Absent {
        let slot = ready!(pages.follow(place));
        for run in (0..pages[slot].len()).rev() {
            let list = versions::list(pages[slot].payload(run));
            through = through || sum.add(versions::compact::entries(&list), request);
        }
        place = Place::Link { slot };
    }
    Step::Ready(sum.sum)
}

#[derive(Default)]
struct Sum {
    sum: u64,
}

impl Sum {
    /// Adds entries, newest to oldest; answers whether older ones do not count.
    fn add(&mut self, entries: impl Iterator<Item = Entry>, request: &HashRequest) -> bool {
        for entry in entries {
            let main = entry.version.modified.main;
            let readable = main > request.compacted;
            if main <= request.at && (readable || !entry.tombstone) {
                self.sum = self.sum.wrapping_add(u64::from(entry.version.hash));
            }
            if !readable && !planted(Bug::HashCountsCompacted) {
                return true;
            }
        }
        false
    }
}

/// What is answered for a sum over all shards.
pub(crate) fn fold(sum: u64) -> u32 {
    (sum ^ (sum >> 32)) as u32
}
