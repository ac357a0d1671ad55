//! Insertion and removal, with the splits and merges that they cause.

use std::ops::Range;

use super::{Pages, Path, Position, Tree};
use crate::page::{
    CHILD_BYTES, HEADER_BYTES, PAGE_BYTES, Page, PageKind, SLOT_BYTES, SlotId, Swip, common_prefix,
};
use crate::planted::{Bug, planted};

/// Pages that fill less than this merge with a neighbour.
const UNDERFULL_BYTES: usize = PAGE_BYTES * 35 / 100;
/// A merged page fills at most this much, so that it does not split at once.
const MERGED_BYTES_MAX: usize = PAGE_BYTES * 3 / 4;

impl Tree {
    /// Stores `payload` under `key` and adds `live` to the counts above it. `position` is the key's.
    /// Returns the leaf.
    pub(crate) fn write(
        &mut self,
        pages: &mut Pages,
        mut position: Position,
        key: &[u8],
        payload: &[u8],
        live: i32,
    ) -> SlotId {
        loop {
            let leaf = position.leaf;
            match position.cell {
                Ok(cell) if pages[leaf].fits_replacement(cell, payload.len()) => {
                    pages.edit(leaf, |page| page.replace(cell, payload));
                    break;
                }
                Err(cell) if pages[leaf].fits(key, payload.len()) => {
                    pages.edit(leaf, |page| page.insert(cell, key, payload));
                    break;
                }
                _ => {
                    self.split(pages, &position, key);
                    position = self.find_resident(pages, key);
                }
            }
        }
        adjust_live(pages, &position.path, live);
        position.leaf
    }

    /// Adds `key` to a tree of keys without payload; its path is resident.
    pub(crate) fn add_member(&mut self, pages: &mut Pages, key: &[u8]) {
        let position = self.find_resident(pages, key);
        assert!(position.cell.is_err(), "a member that is there already");
        self.write(pages, position, key, &[], 1);
    }

    /// Removes `key`, which is there and counts as live; its path is resident.
    pub(crate) fn remove_member(&mut self, pages: &mut Pages, key: &[u8]) {
        let position = self.find_resident(pages, key);
        let cell = position.cell.expect("a member that is there");
        pages.edit(position.leaf, |page| page.remove(cell));
        adjust_live(pages, &position.path, -1);
        self.merge_upwards(pages, &position);
    }

    /// Puts a payload that is not longer under `key`, or removes the key, which does not count as live.
    /// `position` is the key's.
    pub(crate) fn shrink(
        &mut self,
        pages: &mut Pages,
        position: &Position,
        payload: Option<&[u8]>,
    ) {
        let cell = position.cell.expect("a key that is there");
        pages.edit(position.leaf, |page| match payload {
            Some(payload) => page.replace(cell, payload),
            None => page.remove(cell),
        });
        self.merge_upwards(pages, position);
    }

    /// Splits the leaf of `position` and whatever has no room for the new separators.
    fn split(&mut self, pages: &mut Pages, position: &Position, key: &[u8]) {
        let mut left = position.leaf;
        let (mut separator, mut right) = split_leaf(pages, position, key);
        for &(parent, child) in position.path.steps().iter().rev() {
            let child = usize::from(child);
            let left_live = pages[left].live();
            let reference = child_payload(right, pages[right].live());
            pages.edit(parent, |page| page.set_child_live(child, left_live));
            if pages[parent].fits(&separator, CHILD_BYTES) {
                pages.edit(parent, |page| page.insert(child, &separator, &reference));
                pages.set_parent(right, Some(parent));
                return;
            }
            let (parent_separator, parent_right) = split_inner(pages, parent);
            let half = if separator < parent_separator {
                parent
            } else {
                parent_right
            };
            let at = pages[half].search(&separator).expect_err("a new separator");
            pages.edit(half, |page| page.insert(at, &separator, &reference));
            pages.set_parent(right, Some(half));
            (left, right, separator) = (parent, parent_right, parent_separator);
        }
        let mut root = Page::new(PageKind::Inner, pages[left].level() + 1, b"", None);
        root.set_child(0, Swip::Resident(left));
        root.set_child_live(0, pages[left].live());
        root.insert(0, &separator, &child_payload(right, pages[right].live()));
        let root = pages.add(root, None);
        pages.adopt(root);
        self.root = Swip::Resident(root);
    }

    /// Merges the leaf of `position` and its ancestors with neighbours while they are underfull.
    ///
    /// A neighbour that is not in memory is left alone: merging is never worth a load.
    fn merge_upwards(&mut self, pages: &mut Pages, position: &Position) {
        let mut slot = position.leaf;
        for &(parent, child) in position.path.steps().iter().rev() {
            if pages[slot].used() >= UNDERFULL_BYTES {
                break;
            }
            let child = usize::from(child);
            let with_left = child
                .checked_sub(1)
                .is_some_and(|left| merge(pages, parent, left));
            if !with_left && !merge(pages, parent, child) {
                break;
            }
            slot = parent;
        }
        while let Swip::Resident(root) = self.root {
            if pages[root].level() == 0 || !pages[root].is_empty() {
                break;
            }
            self.root = pages[root].child(0);
            pages.remove(root);
            if let Swip::Resident(child) = self.root {
                pages.set_parent(child, None);
            }
        }
    }
}

fn adjust_live(pages: &mut Pages, path: &Path, live: i32) {
    if live == 0 {
        return;
    }
    for &(slot, child) in path.steps() {
        let child = usize::from(child);
        let adjusted = pages[slot].child_live(child).checked_add_signed(live);
        let adjusted = adjusted.expect("between 0 and 2^32 live keys");
        pages.edit(slot, |page| page.set_child_live(child, adjusted));
    }
}

fn child_payload(slot: SlotId, live: u32) -> [u8; CHILD_BYTES] {
    let mut payload = [0; CHILD_BYTES];
    let (reference, count) = payload.split_at_mut(CHILD_BYTES - 4);
    reference.copy_from_slice(&Swip::Resident(slot).encode());
    count.copy_from_slice(&live.to_le_bytes());
    payload
}

/// The shortest key above `left` and not above `right`.
fn shortest_separator(left: &[u8], right: &[u8]) -> Vec<u8> {
    right[..common_prefix(left, right) + 1].to_vec()
}

/// Cells that are within a sixteenth of the middle, by bytes, of the page; never the first, so that
/// both halves get something.
fn middle_window(page: &Page) -> Range<usize> {
    let bytes = |index: usize| page.cell(index).len() + SLOT_BYTES;
    let total: usize = (0..page.len()).map(bytes).sum();
    let (low, high) = (total / 2 - total / 16, total / 2 + total / 16);
    let (mut before, mut start, mut end) = (0, page.len() - 1, page.len());
    for index in 0..page.len() {
        if before >= low {
            start = start.min(index);
        }
        if before > high {
            end = index;
            break;
        }
        before += bytes(index);
    }
    let start = start.max(1).min(page.len() - 1);
    start..end.max(start + 1)
}

/// Splits a leaf at the shortest separator near its middle, or behind its last cell when the tree
/// grows at its end. Returns the separator and the new right page.
fn split_leaf(pages: &mut Pages, position: &Position, key: &[u8]) -> (Vec<u8>, SlotId) {
    let page = &pages[position.leaf];
    let appending = position.cell == Err(page.len()) && page.high().is_none();
    let at = match appending {
        true => append_point(page, key),
        false => middle_window(page)
            .min_by_key(|&index| common_prefix(page.suffix(index - 1), page.suffix(index)))
            .expect("a window is never empty"),
    };
    let separator = match at < page.len() {
        true => shortest_separator(&page.key(at - 1), &page.key(at)),
        false => shortest_separator(&page.key(at - 1), key),
    };
    let mut left = Page::new(page.kind(), 0, page.low(), Some(&separator));
    let mut right = Page::new(page.kind(), 0, &separator, page.high());
    left.append_from(page, 0..at);
    let lost = usize::from(planted(Bug::SplitLosesMiddleKey) && at < page.len());
    right.append_from(page, at + lost..page.len());
    pages.replace(position.leaf, left);
    let right = pages.add(right, position.path.parent());
    pages.adopt(right);
    (separator, right)
}

/// Cells that stay in a last leaf which `key` is appended to: as many as fit beside the new fence.
fn append_point(page: &Page, key: &[u8]) -> usize {
    let mut at = page.len();
    let mut used = page.used() + key.len();
    while used > PAGE_BYTES {
        at -= 1;
        used -= page.cell(at).len() + SLOT_BYTES;
    }
    at
}

/// Splits an inner page; the separator in the middle moves up.
fn split_inner(pages: &mut Pages, slot: SlotId) -> (Vec<u8>, SlotId) {
    let page = &pages[slot];
    let window = middle_window(page);
    let at = window
        .min_by_key(|&index| page.suffix(index).len())
        .expect("a window is never empty");
    let separator = page.key(at);
    let mut left = Page::new(PageKind::Inner, page.level(), page.low(), Some(&separator));
    left.set_child(0, page.child(0));
    left.set_child_live(0, page.child_live(0));
    left.append_from(page, 0..at);
    let mut right = Page::new(PageKind::Inner, page.level(), &separator, page.high());
    right.set_child(0, page.child(at + 1));
    right.set_child_live(0, page.child_live(at + 1));
    right.append_from(page, at + 1..page.len());
    pages.replace(slot, left);
    let right = pages.add(right, None);
    pages.adopt(right);
    (separator, right)
}

/// Merges children `left` and `left + 1` of `parent` if both are in memory and fit one page.
fn merge(pages: &mut Pages, parent: SlotId, left: usize) -> bool {
    if left + 1 >= pages[parent].children() {
        return false;
    }
    let (Swip::Resident(left_slot), Swip::Resident(right_slot)) =
        (pages[parent].child(left), pages[parent].child(left + 1))
    else {
        return false;
    };
    let (left_page, right_page) = (&pages[left_slot], &pages[right_slot]);
    let (low, high) = (left_page.low(), right_page.high());
    let fences = low.len() + high.map_or(0, <[u8]>::len);
    let prefix_len = high.map_or(0, |high| common_prefix(low, high));
    let separator = pages[parent].key(left);
    let pulled_down = match left_page.kind() {
        PageKind::Inner => 2 + separator.len() - prefix_len + CHILD_BYTES + SLOT_BYTES,
        _ => 0,
    };
    let cells = left_page.merged_bytes(right_page, prefix_len) + pulled_down;
    let bytes_max = match left_page.is_empty() || right_page.is_empty() {
        true => PAGE_BYTES,
        false => MERGED_BYTES_MAX,
    };
    if HEADER_BYTES + fences + cells > bytes_max {
        return false;
    }
    let mut merged = Page::new(left_page.kind(), left_page.level(), low, high);
    if left_page.kind() == PageKind::Inner {
        merged.set_child(0, left_page.child(0));
        merged.set_child_live(0, left_page.child_live(0));
        merged.append_from(left_page, 0..left_page.len());
        let mut payload = [0; CHILD_BYTES];
        payload.copy_from_slice(right_page.first_child_bytes());
        merged.insert(merged.len(), &separator, &payload);
    } else {
        merged.append_from(left_page, 0..left_page.len());
    }
    merged.append_from(right_page, 0..right_page.len());
    let live = match planted(Bug::MergeForgetsCount) {
        true => left_page.live(),
        false => merged.live(),
    };
    pages.replace(left_slot, merged);
    pages.adopt(left_slot);
    pages.remove(right_slot);
    pages.edit(parent, |page| {
        page.set_child_live(left, live);
        page.remove(left);
    });
    true
}
