//! Reads: fan out over the shards at one revision, merge, answer.
//!
//! A linearizable read of a one-voter group needs no round: once the member leads and an entry of
//! its own term is applied, everything acknowledged is visible here, and it stays the only one that
//! can acknowledge.

use engine::auth::Authorized;
use engine::command::{CommandError, Range, Reply, Txn};
use engine::read::{RangeRead, resolve_revision};
use engine::shard::{ShardReply, ShardRequest};
use engine::txn::ReadTxn;

use super::{Answer, Node, State, WriteError};

impl Node {
    /// Waits until a linearizable read may begin.
    pub(super) async fn confirm_leadership(&self) -> Result<(), WriteError> {
        if self.0.state.get() == State::Starting {
            self.0
                .changed
                .until(|| self.0.state.get() >= State::Serving)
                .await;
        }
        match self.0.state.get() {
            State::Serving | State::Stopping => Ok(()),
            _ => Err(WriteError::Stopped),
        }
    }

    pub(super) async fn range(&self, range: &Authorized<Range>) -> Result<Answer, WriteError> {
        let answer = self.range_up_to(range, usize::MAX).await?;
        Ok(answer.expect("no answer has more bytes than there can be"))
    }

    /// Reads a range; nothing if it turns out to have more than `bytes_max` bytes of keys and values.
    pub(super) async fn range_up_to(
        &self,
        range: &Authorized<Range>,
        bytes_max: usize,
    ) -> Result<Option<Answer>, WriteError> {
        if !range.serializable {
            self.confirm_leadership().await?;
        }
        loop {
            let header = self.header();
            let compacted = self.0.compact_revision.get();
            let at =
                resolve_revision(range, header.revision, compacted).map_err(WriteError::Command)?;
            let mut read = RangeRead::new(range, at, self.0.shards.count());
            while let Some((shard, request)) = read.poll() {
                let reply = self.ask(shard, request).await?;
                read.on_reply(shard, reply);
                if read.bytes() > bytes_max {
                    return Ok(None);
                }
            }
            match read.finish() {
                Ok(reply) => {
                    return Ok(Some(Answer {
                        header,
                        reply: Reply::Range(reply),
                    }));
                }
                // A compaction overtook a read of what was the newest revision: read again, once
                // what it waits for had its turn.
                Err(CommandError::Compacted) if range.revision <= 0 => {
                    self.0.world.yield_now().await;
                }
                Err(error) => return Err(WriteError::Command(error)),
            }
        }
    }

    pub(super) async fn read_txn(&self, txn: &Authorized<Txn>) -> Result<Answer, WriteError> {
        self.confirm_leadership().await?;
        loop {
            let header = self.header();
            let compacted = self.0.compact_revision.get();
            let shards = self.0.shards.count();
            let mut read = ReadTxn::new(txn, header.revision, compacted, shards);
            while let Some((shard, request)) = read.poll() {
                let reply = self.ask(shard, request).await?;
                read.on_reply(shard, reply);
            }
            // A compaction that may not be visible yet overtook the read: read again, once what it
            // waits for had its turn.
            if read.is_overtaken() {
                self.0.world.yield_now().await;
                continue;
            }
            let reply = read.finish().map_err(WriteError::Command)?;
            return Ok(Answer {
                header,
                reply: Reply::Txn(reply),
            });
        }
    }

    pub(super) async fn ask(
        &self,
        shard: u16,
        request: ShardRequest,
    ) -> Result<ShardReply, WriteError> {
        match self.0.shards.ask(shard, request).answer().await {
            Some(ShardReply::Damaged(damage)) => Err(WriteError::Damaged(damage)),
            Some(reply) => Ok(reply),
            None => Err(WriteError::Stopped),
        }
    }
}
