//! HashKV: the hash of what is readable, over all shards of this member.

use engine::command::CommandError;
use engine::read::HashRead;

use super::{Header, Node, WriteError};

/// The hash of a member's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreHash {
    /// Header at the newest visible revision.
    pub header: Header,
    /// The hash.
    pub hash: u32,
    /// Up to which revision it goes.
    pub revision: i64,
    /// The compact revision that counts; −1 before the first compaction.
    pub compact_revision: i64,
}

impl Node {
    /// The hash of what is readable at `revision`, 0 for the newest visible one. Only this member is asked.
    ///
    /// # Errors
    /// `Compacted`, `FutureRevision`; `Damaged` if a page cannot be read.
    pub async fn hash_kv(&self, revision: i64) -> Result<StoreHash, WriteError> {
        loop {
            // Before the revision, which is then not below it.
            let compact_revision = self.compact_revision();
            let header = self.header();
            if revision > 0 && revision < compact_revision {
                return Err(WriteError::Command(CommandError::Compacted));
            }
            if revision > header.revision {
                return Err(WriteError::Command(CommandError::FutureRevision));
            }
            let at = match revision {
                0 => header.revision,
                revision => revision,
            };
            let mut read = HashRead::new(at, compact_revision, self.0.shards.count());
            self.fan_out(&mut read).await?;
            if let Ok(hash) = read.finish() {
                return Ok(StoreHash {
                    header,
                    hash,
                    revision: at,
                    compact_revision,
                });
            }
            // A compaction that may not be visible yet overtook it.
            self.0.world.yield_now().await;
        }
    }
}
