//! Copying the records of a key to the settled segments.

use super::{Parts, chain, versions_of};
use crate::events::{Loc, Record};
use crate::mvcc::versions::{self, Entry};
use crate::page::{Page, SlotId, Swip};
use crate::planted::{Bug, planted};
use crate::revision::Revision;
use crate::step::{Step, ready};
use crate::store::write_cell;
use crate::tree::{Place, Position};

/// A record of a segment that is being emptied.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) key: Vec<u8>,
    pub(super) revision: Revision,
    pub(super) loc: Loc,
    pub(super) bytes: Vec<u8>,
}

/// Whether a version may still name the record at `loc`. An overflow page is not loaded to know for sure.
pub(super) fn may_be_live(
    parts: &mut Parts<'_>,
    key: &[u8],
    revision: Revision,
    loc: Loc,
) -> Step<bool> {
    let position = ready!(parts.tree.find(parts.pages, key));
    let Ok(cell) = position.cell else {
        return Step::Ready(false);
    };
    let payload = parts.pages[position.leaf].payload(cell);
    let mut oldest = Revision::default();
    for version in versions_of(payload) {
        if version.modified == revision {
            return Step::Ready(version.loc == loc);
        }
        oldest = version.modified;
    }
    Step::Ready(revision < oldest && versions::has_overflow(payload))
}

/// Copies those of `candidates`, all of one key, that versions of the key name, and renames them there.
pub(super) fn settle_key(parts: &mut Parts<'_>, candidates: &[Candidate]) -> Step<SlotId> {
    let key = candidates[0].key.as_slice();
    let position = ready!(parts.tree.find(parts.pages, key));
    let leaf = position.leaf;
    let Ok(cell) = position.cell else {
        return Step::Ready(leaf);
    };
    let payload = parts.pages[leaf].payload(cell);
    let oldest_here = versions_of(payload).last().expect("at least one version");
    let older = |candidate: &Candidate| candidate.revision < oldest_here.modified;
    if versions::has_overflow(payload) && candidates.iter().any(older) {
        let chain = ready!(chain::enter_all(parts.pages, leaf, cell));
        settle_chain(parts, candidates, chain, Place::Cell { slot: leaf, cell });
    }
    settle_cell(parts, candidates, &position, key);
    Step::Ready(leaf)
}

fn settle_cell(parts: &mut Parts<'_>, candidates: &[Candidate], position: &Position, key: &[u8]) {
    let cell = position.cell.expect("a cell that was found");
    let payload = parts.pages[position.leaf].payload(cell).to_vec();
    if let Some(renamed) = settle_list(parts, candidates, &payload) {
        write_cell(parts.tree, parts.pages, *position, key, renamed, 0);
    }
}

/// Does so in all runs of the overflow pages.
fn settle_chain(
    parts: &mut Parts<'_>,
    candidates: &[Candidate],
    mut chain: Vec<SlotId>,
    cell: Place,
) {
    let mut index = 0;
    while index < chain.len() {
        let slot = chain[index];
        let mut run = 0;
        while run < parts.pages[slot].len() {
            let payload = parts.pages[slot].payload(run).to_vec();
            let Some(renamed) = settle_list(parts, candidates, &payload) else {
                run += 1;
                continue;
            };
            let mut at = (slot, run);
            while !chain::replace_run(parts.pages, at.0, at.1, &renamed) {
                chain = resident_chain(parts, cell);
                at = place_of_run(parts, &chain, &payload);
            }
            if at.0 == slot {
                run = at.1 + 1;
            } else {
                // The older half moved away, this run with it; it is visited in its turn.
                run = 0;
            }
        }
        index += 1;
    }
}

fn resident_chain(parts: &mut Parts<'_>, cell: Place) -> Vec<SlotId> {
    let Place::Cell { slot, cell } = cell else {
        panic!("a chain begins at a cell");
    };
    let mut chain = Vec::new();
    let mut place = Place::Cell { slot, cell };
    while let Swip::Resident(slot) = parts.pages.swip(place) {
        chain.push(slot);
        place = Place::Link { slot };
    }
    chain
}

/// Where the run `payload` stands.
fn place_of_run(parts: &Parts<'_>, chain: &[SlotId], payload: &[u8]) -> (SlotId, usize) {
    let run_of = |page: &Page| (0..page.len()).find(|&run| page.payload(run) == payload);
    let found = chain
        .iter()
        .find_map(|&slot| Some((slot, run_of(&parts.pages[slot])?)));
    found.expect("a run that moved with its page's older half")
}

/// The list with the places of the copies, if it names any of the candidates.
fn settle_list(parts: &mut Parts<'_>, candidates: &[Candidate], payload: &[u8]) -> Option<Vec<u8>> {
    let mut renamed = Vec::new();
    let changed = versions::compact::relocate(
        payload,
        |entry| {
            let candidate = candidate_of(candidates, entry)?;
            let record = Record::parse(&candidate.bytes).expect("a record that was checked");
            let copy = parts.log.settle(&record);
            parts.log.release(entry.version.loc);
            Some(copy)
        },
        &mut renamed,
    );
    changed.then_some(renamed)
}

fn candidate_of<'a>(candidates: &'a [Candidate], entry: &Entry) -> Option<&'a Candidate> {
    if planted(Bug::CollectionForgetsPlace) && entry.version.version > 1 {
        return candidates.last();
    }
    let revision = entry.version.modified;
    let found = candidates.binary_search_by_key(&revision, |candidate| candidate.revision);
    let candidate = &candidates[found.ok()?];
    (candidate.loc == entry.version.loc).then_some(candidate)
}
