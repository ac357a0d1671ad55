//! What the pool knows about a page beside its bytes.

use crate::page::{PageRef, SlotId};

/// How a page in memory relates to its image on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The image is written and equal.
    Clean,
    /// Changed since the last freeze, or new.
    Dirty,
    /// Frozen as it is: the image has its place, and is not encoded yet.
    Flushing,
    /// The image is encoded and on its way to the disk.
    Writing,
}

/// The parent of a root, and the place of what has none.
pub(super) const NONE: u32 = u32::MAX;

/// A page's frame.
///
/// Invariant: a dirty page's parent is dirty.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    /// The image that the last freeze gave the page, or that it was loaded from; a dirty page's is that
    /// of the image before.
    pub(super) image: Option<PageRef>,
    /// Slot of the page that refers to this one; [`NONE`] for a root.
    pub(super) parent: u32,
    /// Position in the list of dirty pages or of the flush.
    pub(super) position: u32,
    /// Pages that had been placed when this one was last entered.
    pub(super) used_at: u32,
    pub(super) state: State,
    /// Whether it was entered since it was loaded.
    pub(super) entered: bool,
    /// Blocks that an image of the page would take now.
    pub(super) blocks: u8,
}

impl Frame {
    pub(super) fn parent(&self) -> Option<SlotId> {
        (self.parent != NONE).then_some(SlotId(self.parent))
    }
}

pub(super) fn raw(parent: Option<SlotId>) -> u32 {
    parent.map_or(NONE, |slot| slot.0)
}
