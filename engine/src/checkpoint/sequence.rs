//! The order of a checkpoint, from the reservation of its id to the moment it counts.
//!
//! ```text
//! begin → ids reserved → freeze → frozen, and image durable of each shard → superblock durable → published
//! ```
//!
//! Owns which step may follow which, and which ids are used. It does nothing by itself: who composes
//! log, coordinator and shards reports what happened, and executes the [`Action`]s in the order in which
//! they come. When a checkpoint is worth its writes is none of its business.

use std::collections::{BTreeMap, VecDeque};

use super::{ManifestRef, Section};
use crate::coordinator::FrozenState;
use crate::planted::{Bug, planted};

/// What has to be done next for a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make durable in the superblock that ids up to this one may be in use; then report
    /// [`Sequence::ids_reserved`].
    ReserveIds {
        /// The last of them.
        through: u64,
    },
    /// Freeze all shards between two entries; then report [`Sequence::frozen`], and
    /// [`Sequence::image_durable`] for each shard.
    Freeze {
        /// Number of the checkpoint.
        id: u32,
    },
    /// Write the superblock so that it names the checkpoint; then report
    /// [`Sequence::superblock_durable`].
    WriteSuperblock {
        /// Number of the checkpoint.
        id: u32,
        /// The images contain the entries up to this index.
        index: u64,
        /// Term of that entry.
        term: u64,
        /// What the superblock says of the state machine.
        section: Section,
    },
    /// The checkpoint counts: tell all shards, which give back what only the older images had.
    Publish {
        /// Number of the checkpoint.
        id: u32,
        /// The log starts after this index.
        index: u64,
    },
}

/// Where the checkpoint under way is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// There is none.
    Idle,
    /// Ids are being reserved.
    Reserving,
    /// The shards fix their images and write them.
    Writing(Images),
    /// The superblock is being written.
    Publishing { id: u32, index: u64 },
}

/// The images of a checkpoint that is being written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Images {
    id: u32,
    /// What they contain, once all are fixed. A shard may have written its own before that.
    fixed: Option<Fixed>,
    /// By shard, once they are durable.
    manifests: BTreeMap<u16, ManifestRef>,
}

/// What the images of a checkpoint contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fixed {
    frozen: FrozenState,
    term: u64,
    shards: u16,
}

/// The checkpoints of one member in one life, one after the other.
///
/// Invariants:
/// - Never two checkpoints at once.
/// - An id is frozen only when the superblock has it reserved, and never twice, not by two lives either:
///   ids ascend from the last one that an earlier life reserved.
/// - The superblock names a checkpoint only when the images of all shards are durable, with the index,
///   the state and the references of one and the same freeze.
/// - A checkpoint is published only when the superblock that names it is durable.
#[derive(Clone, Debug)]
pub struct Sequence {
    ids_per_reservation: u64,
    next_id: u64,
    /// The superblock has the ids up to here reserved.
    reserved: u64,
    stage: Stage,
    /// The log takes nothing more.
    closed: bool,
    /// References of the last checkpoint of this life; empty before the first.
    named: Vec<ManifestRef>,
    actions: VecDeque<Action>,
}

impl Sequence {
    /// After checkpoint `id`, with ids up to `reserved` used up or lost; 0 is none. One write of the
    /// superblock reserves `ids_per_reservation` more.
    ///
    /// # Panics
    /// If a reservation would be empty.
    pub fn new(id: u64, reserved: u64, ids_per_reservation: u64) -> Sequence {
        assert!(ids_per_reservation > 0, "a reservation of no id");
        let used = match planted(Bug::CheckpointIdReused) {
            true => id,
            false => reserved.max(id),
        };
        Sequence {
            ids_per_reservation,
            next_id: used + 1,
            reserved,
            stage: Stage::Idle,
            closed: false,
            named: Vec::new(),
            actions: VecDeque::new(),
        }
    }

    /// Whether no checkpoint is under way.
    pub fn is_idle(&self) -> bool {
        self.stage == Stage::Idle
    }

    /// What to do next.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Begins a checkpoint. `false` if none can begin: one is under way, the log is closed, or ids have
    /// come to the end of what page headers have room for.
    pub fn begin(&mut self) -> bool {
        if self.closed || !self.is_idle() {
            return false;
        }
        if self.next_id <= self.reserved {
            self.freeze();
            return true;
        }
        let through = self.reserved + self.ids_per_reservation;
        if through > u64::from(u32::MAX) {
            return false;
        }
        self.actions.push_back(Action::ReserveIds { through });
        self.stage = Stage::Reserving;
        if planted(Bug::IdBeforeReservation) {
            self.reserved = through;
            self.freeze();
        }
        true
    }

    fn freeze(&mut self) {
        let id = self.next_id as u32;
        self.next_id += 1;
        self.stage = Stage::Writing(Images {
            id,
            fixed: None,
            manifests: BTreeMap::new(),
        });
        self.actions.push_back(Action::Freeze { id });
    }

    /// The superblock is durable that has ids up to `through` reserved.
    pub fn ids_reserved(&mut self, through: u64) {
        self.reserved = self.reserved.max(through);
        if self.stage == Stage::Reserving {
            self.stage = Stage::Idle;
            self.begin();
        }
    }

    /// All of this member's `shards` have fixed their images; the entry at the index has this `term`.
    ///
    /// # Panics
    /// If another freeze was asked for, or none.
    pub fn frozen(&mut self, frozen: FrozenState, term: u64, shards: u16) {
        let id = frozen.id;
        let images = match &mut self.stage {
            Stage::Writing(images) if images.id == id && images.fixed.is_none() => images,
            stage => panic!("images {id} are fixed in {stage:?}"),
        };
        images.fixed = Some(Fixed {
            frozen,
            term,
            shards,
        });
        self.name();
    }

    /// Every byte of a shard's image of checkpoint `id` is durable.
    ///
    /// # Panics
    /// If the shards are not writing this checkpoint, or `shard` reports it twice, or its manifest stands
    /// where the one stands that counts.
    pub fn image_durable(&mut self, shard: u16, id: u32, manifest: ManifestRef) {
        let images = match &mut self.stage {
            Stage::Writing(images) if images.id == id => images,
            _ if planted(Bug::SuperblockBeforeImages) => return,
            stage => panic!("shard {shard} wrote image {id} in {stage:?}"),
        };
        if let Some(counts) = self.named.get(usize::from(shard)) {
            assert_ne!(counts.block, manifest.block, "shard {shard} wrote in place");
        }
        let before = images.manifests.insert(shard, manifest);
        assert_eq!(before, None, "shard {shard} wrote image {id} twice");
        self.name();
    }

    /// Has the superblock written if all images are there.
    fn name(&mut self) {
        let Stage::Writing(Images {
            id,
            fixed: Some(fixed),
            manifests,
        }) = &self.stage
        else {
            return;
        };
        let (id, index) = (*id, fixed.frozen.applied.index);
        let of_shard = |shard| match manifests.get(&shard) {
            None if planted(Bug::SuperblockBeforeImages) && !manifests.is_empty() => {
                self.named.get(usize::from(shard)).copied()
            }
            manifest => manifest.copied(),
        };
        let manifests: Option<Vec<ManifestRef>> = (0..fixed.shards).map(of_shard).collect();
        let Some(manifests) = manifests else {
            return;
        };
        if self.closed {
            // The next life starts from the last checkpoint that counts.
            return;
        }
        self.named.clone_from(&manifests);
        self.actions.push_back(Action::WriteSuperblock {
            id,
            index,
            term: fixed.term,
            section: fixed.frozen.section(manifests),
        });
        self.stage = Stage::Publishing { id, index };
        if planted(Bug::PublishedBeforeSuperblock) {
            self.publish(id, index);
        }
    }

    /// The superblock that names checkpoint `id` is durable.
    ///
    /// # Panics
    /// If it is another one that is being named, or none.
    pub fn superblock_durable(&mut self, id: u64) {
        match self.stage {
            Stage::Publishing { id: named, index } if u64::from(named) == id => {
                self.publish(named, index);
            }
            _ if planted(Bug::PublishedBeforeSuperblock) => {}
            _ => panic!("checkpoint {id} counts in {:?}", self.stage),
        }
    }

    fn publish(&mut self, id: u32, index: u64) {
        self.stage = Stage::Idle;
        self.actions.push_back(Action::Publish { id, index });
    }

    /// The log takes nothing more: what was handed to it may still become durable, nothing else begins.
    pub fn close(&mut self) {
        self.closed = true;
    }
}
