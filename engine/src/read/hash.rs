//! The hash of what is readable, over all shards.

use bytes::Bytes;

use crate::command::CommandError;
use crate::compaction::{HashRequest, fold};
use crate::shard::{ShardReply, ShardRequest};

/// The hash of the keys of all shards at one revision: equal on every member, whatever its shards, caches
/// and checkpoints are and however far its compaction got.
///
/// Each shard is asked for one slice after the other; shards go on side by side.
#[derive(Debug)]
pub struct HashRead {
    at: i64,
    compacted: i64,
    lanes: Vec<Lane>,
    sum: u64,
    refused: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Lane {
    Resume(Bytes),
    Asked,
    Through,
}

impl HashRead {
    /// Reads at main revision `at`, which is published and not below `compacted`, the published compact
    /// revision (−1 or 0 for none).
    pub fn new(at: i64, compacted: i64, shards: u16) -> Self {
        let lanes = (0..shards).map(|_| Lane::Resume(Bytes::new()));
        HashRead {
            at,
            compacted,
            lanes: lanes.collect(),
            sum: 0,
            refused: false,
        }
    }

    /// The next request to send, if any can be sent now.
    pub fn poll(&mut self) -> Option<(u16, ShardRequest)> {
        if self.refused {
            return None;
        }
        let resumable = |lane: &Lane| matches!(lane, Lane::Resume(_));
        let shard = self.lanes.iter().position(resumable)?;
        let lane = std::mem::replace(&mut self.lanes[shard], Lane::Asked);
        let Lane::Resume(from) = lane else {
            unreachable!("the lane was found resumable");
        };
        let request = HashRequest {
            from,
            at: self.at,
            compacted: self.compacted,
        };
        Some((shard as u16, ShardRequest::Hash(request)))
    }

    /// Takes the answer of `shard`.
    pub fn on_reply(&mut self, shard: u16, reply: ShardReply) {
        let lane = &mut self.lanes[usize::from(shard)];
        assert_eq!(*lane, Lane::Asked, "shard {shard} was not asked");
        *lane = Lane::Through;
        match reply {
            ShardReply::Hash(part) => {
                self.sum = self.sum.wrapping_add(part.sum);
                if let Some(from) = part.resume {
                    *lane = Lane::Resume(from);
                }
            }
            ShardReply::Refused => self.refused = true,
            reply => unreachable!("a hash never gets {reply:?}"),
        }
    }

    /// Whether nothing is under way and nothing is left to ask.
    pub fn is_done(&self) -> bool {
        let asked = self.lanes.contains(&Lane::Asked);
        !asked && (self.refused || self.lanes.iter().all(|lane| *lane == Lane::Through))
    }

    /// The hash; only when [`is_done`](Self::is_done).
    ///
    /// # Errors
    /// `Compacted` if a compaction overtook it. Begin again with the compact revision published since; only
    /// if that is above `at` the client is refused.
    pub fn finish(self) -> Result<u32, CommandError> {
        assert!(self.is_done(), "a hash is finished once it is done");
        match self.refused {
            true => Err(CommandError::Compacted),
            false => Ok(fold(self.sum)),
        }
    }
}
