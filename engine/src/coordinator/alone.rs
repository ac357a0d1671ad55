//! Requests that run with nothing beside them: over several shards, or changing what all see.

use bytes::Bytes;

use super::{Coordinator, EntryRun, Stage};
use crate::command::*;
use crate::defect::Defect;
use crate::entry::EntryRequest;
use crate::revision::Revision;
use crate::shard::{Change, ShardReply, ShardRequest, Tally, Write, shard_of};
use crate::txn::{TxnRun, delete_as_txn};

/// The request under way.
#[derive(Debug)]
pub(super) struct Alone {
    /// Place in the entry.
    position: u32,
    work: AloneWork,
}

#[derive(Debug)]
enum AloneWork {
    /// A transaction, or a range delete in the shape of one.
    Txn { run: Box<TxnRun>, delete: bool },
    /// The keys of leases that are gone are being gathered, one list per lease.
    Gather { keys: Vec<Vec<Bytes>>, reply: Reply },
    /// The keys of the leases are being deleted.
    Scatter { tally: Tally, reply: Reply },
    /// The shards are told the compact revision.
    Compact,
    /// Nothing was to do.
    Settled(Result<Reply, CommandError>),
}

impl Alone {
    pub(super) fn on_reply(&mut self, shard: u16, reply: ShardReply) {
        match (&mut self.work, reply) {
            (AloneWork::Txn { run, .. }, reply) => run.on_reply(shard, reply),
            (AloneWork::Gather { keys, .. }, ShardReply::LeaseKeys(found)) => {
                for (keys, found) in keys.iter_mut().zip(found) {
                    keys.extend(found);
                }
            }
            (AloneWork::Scatter { tally, .. }, ShardReply::Written(applied)) => {
                tally.add(applied.tally);
            }
            (AloneWork::Compact, ShardReply::Compacted) => {}
            (work, reply) => unreachable!("{work:?} never gets {reply:?}"),
        }
    }
}

impl Coordinator {
    pub(super) fn start_alone(&mut self, entry: &mut EntryRun, request: EntryRequest) -> Alone {
        let work = match request.command {
            Command::Txn(txn) => self.start_txn(txn, false),
            Command::DeleteRange(delete) => self.start_txn(delete_as_txn(delete), true),
            Command::Compact { revision } => match self.meta.compact(revision) {
                Ok(()) => {
                    self.send_all(&ShardRequest::Compact(revision));
                    AloneWork::Compact
                }
                Err(error) => AloneWork::Settled(Err(error)),
            },
            Command::LeaseRevoke { id } => self.start_revoke(vec![id], Reply::LeaseRevoke),
            Command::LeaseExpire { ids } => self.start_revoke(ids, Reply::Done),
            command => unreachable!("{command:?} runs in a wave"),
        };
        entry.outcomes[request.position as usize].revision = self.meta.revision;
        Alone {
            position: request.position,
            work,
        }
    }

    fn start_txn(&self, txn: Txn, delete: bool) -> AloneWork {
        let missing = self.missing_leases(&txn);
        let (current, compacted) = (self.meta.revision, self.meta.compacted);
        let run = TxnRun::new(txn, current, compacted, missing, self.shards, self.defect);
        AloneWork::Txn {
            run: Box::new(run),
            delete,
        }
    }

    /// Asks for the keys of those of `ids` that exist.
    fn start_revoke(&mut self, ids: Vec<LeaseId>, reply: Reply) -> AloneWork {
        let mut leases: Vec<LeaseId> = Vec::with_capacity(ids.len());
        for id in ids {
            if self.meta.leases.contains(id) {
                self.meta.revoke(id);
                leases.push(id);
            }
        }
        if leases.is_empty() {
            return AloneWork::Settled(Ok(reply));
        }
        self.send_all(&ShardRequest::LeaseKeys(leases.clone()));
        AloneWork::Gather {
            keys: vec![Vec::new(); leases.len()],
            reply,
        }
    }

    fn send_all(&mut self, request: &ShardRequest) {
        for shard in 0..self.shards {
            self.send(shard, request.clone());
        }
    }

    pub(super) fn advance_alone(&mut self, mut alone: Alone) -> bool {
        if let AloneWork::Txn { run, .. } = &mut alone.work {
            while let Some((shard, request)) = run.poll() {
                self.send(shard, request);
            }
        }
        if self.under_way > 0 {
            let sent = !self.outbox.is_empty();
            self.stage = Stage::Alone(alone);
            return sent;
        }
        let position = alone.position;
        match alone.work {
            AloneWork::Txn { run, delete } => {
                let outcome = run.finish();
                self.meta.revision += i64::from(outcome.wrote);
                let reply = outcome.result.map(|reply| answer(reply, delete));
                self.settle(position, outcome.tally, reply);
            }
            AloneWork::Gather { keys, reply } => {
                self.scatter(keys);
                self.stage = Stage::Alone(Alone {
                    position,
                    work: AloneWork::Scatter {
                        tally: Tally::default(),
                        reply,
                    },
                });
            }
            AloneWork::Scatter { tally, reply } => self.settle(position, tally, Ok(reply)),
            AloneWork::Compact => self.settle(position, Tally::default(), Ok(Reply::Compact)),
            AloneWork::Settled(result) => self.settle(position, Tally::default(), result),
        }
        true
    }

    /// Deletes the keys of each lease under a main revision of its own, in key order.
    fn scatter(&mut self, keys_of_leases: Vec<Vec<Bytes>>) {
        let mut by_shard: Vec<Vec<Write>> = vec![Vec::new(); usize::from(self.shards)];
        let mut shared = None;
        for mut keys in keys_of_leases {
            if keys.is_empty() {
                continue;
            }
            keys.sort();
            if self.defect != Defect::ExpirySharesRevision || shared.is_none() {
                self.meta.revision += 1;
                shared = Some(0);
            }
            let first = shared.filter(|_| self.defect == Defect::ExpirySharesRevision);
            let first = first.unwrap_or(0);
            for (sub, key) in (first..).zip(&keys) {
                by_shard[usize::from(shard_of(key, self.shards))].push(Write {
                    slot: 0,
                    revision: Revision {
                        main: self.meta.revision,
                        sub,
                    },
                    change: Change::Delete {
                        key: key.clone(),
                        prev_kv: false,
                    },
                });
            }
            shared = Some(first + keys.len() as u32);
        }
        for (shard, writes) in (0..).zip(by_shard) {
            if !writes.is_empty() {
                self.send(shard, ShardRequest::Write(writes));
            }
        }
    }

    fn settle(&mut self, position: u32, tally: Tally, result: Result<Reply, CommandError>) {
        let entry = self.entry.as_mut().expect("an entry is under way");
        entry.tally.add(tally);
        let outcome = &mut entry.outcomes[position as usize];
        outcome.revision = self.meta.revision;
        outcome.result = result;
    }
}

fn answer(mut reply: TxnReply, delete: bool) -> Reply {
    if delete {
        reply.responses.pop().expect("one operation, one answer")
    } else {
        Reply::Txn(reply)
    }
}
