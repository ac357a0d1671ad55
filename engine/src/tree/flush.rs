//! Freezing the dirty pages and encoding their images, run by run.
//!
//! ```text
//! dirty ──freeze──▶ flushing ──next_run──▶ writing ──run_written──▶ clean
//!   ▲                  │ a change: its image is encoded and kept first │
//!   └──────────────────┴───────────────────────────────────────────────┘
//! ```

use std::collections::BTreeMap;

use super::frame::State;
use super::pool::{Pages, set_reference};
use crate::image::{Allocator, Extent};
use crate::page::{BLOCK_BYTES, PageRef, SlotId, Swip, self_address};
use crate::planted::{Bug, planted};

/// A run is written at once and has at most this many blocks.
pub(crate) const RUN_BLOCKS_MAX: u64 = 32;

/// A frozen page.
#[derive(Clone, Copy, Debug)]
struct Member {
    /// Where it was at the freeze.
    slot: SlotId,
    image: PageRef,
}

/// Frozen pages whose images stand one behind the other.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// Position of the first member.
    first: usize,
    members: usize,
    address: u64,
    blocks: u64,
}

/// The frozen pages of the checkpoint under way.
#[derive(Debug, Default)]
pub(super) struct Flush {
    members: Vec<Member>,
    runs: Vec<Run>,
    /// Runs that were handed out.
    next: usize,
    /// Runs that were written.
    written: usize,
    /// Members of runs that were written.
    members_written: usize,
    /// Images that were encoded before their run was due, by position of the member.
    kept: BTreeMap<usize, Vec<u8>>,
}

impl Flush {
    pub(super) fn unwritten(&self) -> usize {
        self.members.len() - self.members_written
    }

    pub(super) fn has(&self, position: u32, image: Option<PageRef>) -> bool {
        let member = self.members.get(position as usize);
        member.is_some_and(|member| Some(member.image) == image)
    }

    fn push(&mut self, slot: SlotId, image: PageRef) {
        let blocks = u64::from(image.blocks);
        match self.runs.last_mut() {
            Some(run)
                if run.address + run.blocks == image.address
                    && run.blocks + blocks <= RUN_BLOCKS_MAX =>
            {
                run.blocks += blocks;
                run.members += 1;
            }
            _ => self.runs.push(Run {
                first: self.members.len(),
                members: 1,
                address: image.address,
                blocks,
            }),
        }
        self.members.push(Member { slot, image });
    }
}

/// A run to write.
#[derive(Debug)]
pub(crate) struct EncodedRun {
    /// Names it when it is written.
    pub(crate) number: usize,
    /// First block.
    pub(crate) address: u64,
    pub(crate) bytes: Vec<u8>,
}

impl Pages {
    /// Fixes the dirty pages as they are: each gets the place of its next image. Encodes nothing.
    ///
    /// Returns the images that the tree did not need any more before this.
    pub(crate) fn freeze(&mut self, generation: u32, allocator: &mut Allocator) -> Vec<Extent> {
        assert!(self.is_flushed(), "two checkpoints at once");
        self.flush = Flush::default();
        let mut queues: [Vec<SlotId>; 4] = Default::default();
        for slot in std::mem::take(&mut self.dirty) {
            let frame = self.frame_mut(slot);
            let blocks = usize::from(frame.blocks);
            let former = frame.image.take();
            self.dead.extend(former);
            queues[blocks - 1].push(slot);
        }
        let dead: Vec<Extent> = self.dead.drain(..).map(Extent::of).collect();
        if planted(Bug::EarlyExtentFree) {
            dead.iter().for_each(|&extent| allocator.free(extent));
        }
        let (frames, flush) = (&mut self.frames, &mut self.flush);
        allocator.place(queues, |slot, extent| {
            let image = PageRef {
                address: extent.block,
                blocks: extent.blocks as u8,
                generation,
            };
            let frame = &mut frames[slot.0 as usize];
            frame.image = Some(image);
            frame.state = State::Flushing;
            frame.position = flush.members.len() as u32;
            flush.push(slot, image);
        });
        match planted(Bug::EarlyExtentFree) {
            true => Vec::new(),
            false => dead,
        }
    }

    /// Encodes a flushing page before it changes.
    pub(super) fn capture(&mut self, slot: SlotId) {
        if planted(Bug::NoCopyBeforeWrite) {
            return;
        }
        let mut image = Vec::new();
        self.encode(slot, &mut image);
        let position = self.frame(slot).position as usize;
        self.flush.kept.insert(position, image);
    }

    /// Appends the image of a page that is not dirty. Pages in memory that it refers to are named by theirs.
    fn encode(&self, slot: SlotId, images: &mut Vec<u8>) {
        let image = self.frame(slot).image.expect("a frozen page has a place");
        let address = self_address(self.shard(), image.address);
        let mut children = Vec::new();
        self.push_resident_children(slot, &mut children);
        if children.is_empty() {
            return self[slot].encode_as(address, image.generation, self.salt, images);
        }
        let mut page = self[slot].clone();
        for (place, child) in children {
            let reference = match self.frame(child).image {
                Some(image) => Swip::Disk(image),
                None if planted(Bug::NoCopyBeforeWrite) => Swip::Absent,
                None => panic!("a frozen page refers to one that is not"),
            };
            set_reference(&mut page, place, reference);
        }
        page.encode_as(address, image.generation, self.salt, images);
    }

    /// The next run to write, encoded.
    pub(crate) fn next_run(&mut self) -> Option<EncodedRun> {
        let number = self.flush.next;
        let run = *self.flush.runs.get(number)?;
        self.flush.next += 1;
        let mut bytes = Vec::with_capacity(run.blocks as usize * BLOCK_BYTES);
        for position in run.first..run.first + run.members {
            let Member { slot, image } = self.flush.members[position];
            let end = bytes.len() + usize::from(image.blocks) * BLOCK_BYTES;
            match self.flush.kept.remove(&position) {
                Some(kept) => bytes.extend_from_slice(&kept),
                None if planted(Bug::NoCopyBeforeWrite) => {
                    self.encode_what_is_there(slot, image, &mut bytes);
                }
                None => self.encode_due(slot, image, &mut bytes),
            }
            assert_eq!(bytes.len(), end, "an image as long as its place");
        }
        Some(EncodedRun {
            number,
            address: run.address,
            bytes,
        })
    }

    fn encode_due(&mut self, slot: SlotId, image: PageRef, images: &mut Vec<u8>) {
        let frame = self.frame(slot);
        assert_eq!(
            (frame.state, frame.image),
            (State::Flushing, Some(image)),
            "a frozen page changed and its image was not kept"
        );
        self.encode(slot, images);
        self.frame_mut(slot).state = State::Writing;
    }

    /// What a build without copy before write would write.
    fn encode_what_is_there(&mut self, slot: SlotId, image: PageRef, images: &mut Vec<u8>) {
        let frame = self.frame(slot);
        let same = self.slots[slot.0 as usize].is_some()
            && frame.image == Some(image)
            && frame.blocks == image.blocks;
        if !same {
            let end = images.len() + usize::from(image.blocks) * BLOCK_BYTES;
            return images.resize(end, 0);
        }
        if frame.state == State::Flushing {
            self.frame_mut(slot).state = State::Writing;
        }
        self.encode(slot, images);
    }

    /// Notes that run `number` was written.
    pub(crate) fn run_written(&mut self, number: usize) {
        let run = self.flush.runs[number];
        self.flush.written += 1;
        self.flush.members_written += run.members;
        for position in run.first..run.first + run.members {
            let Member { slot, image } = self.flush.members[position];
            let frame = self.frame_mut(slot);
            // The slot may have got another page since, or this one was changed.
            if frame.state == State::Writing && frame.image == Some(image) {
                frame.state = State::Clean;
            }
        }
    }

    /// Whether every run was handed out.
    pub(crate) fn is_handed_out(&self) -> bool {
        self.flush.next == self.flush.runs.len()
    }

    /// Whether every frozen page is written.
    pub(crate) fn is_flushed(&self) -> bool {
        self.flush.written == self.flush.runs.len()
    }
}
