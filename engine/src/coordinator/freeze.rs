//! The barrier of a checkpoint: every shard fixes its image between the same two entries.

use super::{Applied, Coordinator, CoordinatorConfig, CoordinatorOutput, Stage, attachment};
use crate::checkpoint::{CheckpointError, ManifestRef, Section};
use crate::image::Attachment;
use crate::shard::{ShardReply, ShardRequest};

/// Where the state machine stood when all shards had fixed their images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrozenState {
    /// Number of the checkpoint.
    pub id: u32,
    /// The images contain this and nothing after it.
    pub applied: Applied,
    /// Chain over the effects of all entries up to there.
    pub apply_hash: u64,
    /// −1: nothing was compacted.
    pub compact_revision: i64,
}

impl FrozenState {
    /// What the superblock says of the checkpoint, once the images are durable.
    pub fn section(&self, manifests: Vec<ManifestRef>) -> Section {
        Section {
            revision: self.applied.revision,
            compact_revision: self.compact_revision,
            apply_hash: self.apply_hash,
            manifests,
        }
    }
}

pub(super) fn on_reply(shard: u16, reply: &ShardReply) {
    let frozen = matches!(reply, ShardReply::Frozen);
    assert!(frozen, "shard {shard} answers a freeze with {reply:?}");
}

impl Coordinator {
    /// Continues as if every entry up to `index` had been pushed and published here.
    ///
    /// # Errors
    /// The attachment cannot be read.
    ///
    /// # Panics
    /// If the section is that of another number of shards.
    pub fn restore(
        config: CoordinatorConfig,
        index: u64,
        section: &Section,
        attachment: &[u8],
    ) -> Result<Self, CheckpointError> {
        assert_eq!(section.manifests.len(), usize::from(config.shards));
        let mut meta = attachment::decode(attachment)?;
        meta.revision = section.revision;
        meta.compacted = section.compact_revision;
        let hash = section.apply_hash;
        Ok(Coordinator::standing_at(config, index, meta, hash))
    }

    /// Freezes all shards as soon as no entry is under way; entries that were pushed and not begun
    /// come after it. Reported by [`CoordinatorOutput::Frozen`].
    ///
    /// # Panics
    /// If another freeze is under way, or the id is 0.
    pub fn freeze(&mut self, id: u32) {
        assert!(id != 0, "checkpoint 0 is none");
        let freezing = matches!(self.stage, Stage::Freezing(_));
        assert!(!freezing, "freeze {id} while another is under way");
        let before = self.freeze_wanted.replace(id);
        assert_eq!(before, None, "freeze {id} before another has begun");
    }

    pub(super) fn start_freeze(&mut self) {
        let id = self.freeze_wanted.take().expect("a freeze is wanted");
        let meta = attachment::encode(&self.meta);
        for shard in 0..self.shards {
            // The first shard keeps what belongs to none.
            let attachment = match shard {
                0 => meta.clone(),
                _ => Attachment::default(),
            };
            self.send(shard, ShardRequest::Freeze { id, attachment });
        }
        self.stage = Stage::Freezing(FrozenState {
            id,
            applied: self.applied,
            apply_hash: self.apply_hash,
            compact_revision: self.meta.compacted,
        });
    }

    pub(super) fn advance_freeze(&mut self, frozen: FrozenState) -> bool {
        if self.under_way > 0 {
            self.stage = Stage::Freezing(frozen);
            return false;
        }
        self.outbox.push_back(CoordinatorOutput::Frozen(frozen));
        true
    }
}
