//! Filling an empty store with the state of another one.
//!
//! The log has no part in this: whoever does it makes a checkpoint behind it, and uses the directory only once that
//! is published.

use crate::command::{AlarmKind, LeaseId};
use crate::shard::{ShardReply, ShardRequest, shard_of};
use crate::store::Event;

use super::{Applied, Coordinator, Stage};

/// What a store has beside its keys.
#[derive(Clone, Debug, Default)]
pub struct RestoredState {
    /// Its revision, not below that of any change.
    pub revision: i64,
    /// Leases with their times to live.
    pub leases: Vec<(LeaseId, i64)>,
    /// Raised alarms.
    pub alarms: Vec<(u64, AlarmKind)>,
}

/// How a restore goes.
#[derive(Debug, Default)]
pub(super) struct Restoring {
    /// The first change that a shard did not take: what is wrong with it.
    fault: Option<String>,
}

impl Coordinator {
    /// Whether nothing is under way: changes of a restore may come.
    pub fn is_idle(&self) -> bool {
        let idle = matches!(self.stage, Stage::Idle);
        idle && self.waiting() == 0 && self.freeze_wanted.is_none() && self.outbox.is_empty()
    }

    /// Gives the shards changes of another store, in the order of their revisions and behind all before.
    ///
    /// # Panics
    /// If something is under way.
    pub fn restore_events(&mut self, events: Vec<Event>) {
        assert!(self.is_idle(), "a restore beside something else");
        let mut parts: Vec<Vec<Event>> = (0..self.shards).map(|_| Vec::new()).collect();
        for event in events {
            let shard = shard_of(&event.kv.key, self.shards);
            parts[usize::from(shard)].push(event);
        }
        for (shard, part) in (0..).zip(parts).filter(|(_, part)| !part.is_empty()) {
            self.send(shard, ShardRequest::Restore(part.into()));
        }
        self.stage = Stage::Restoring(Restoring::default());
    }

    /// Compacts all shards to `revision`.
    ///
    /// # Panics
    /// If something is under way.
    pub fn restore_compaction(&mut self, revision: i64) {
        assert!(self.is_idle(), "a restore beside something else");
        self.meta.compacted = self.meta.compacted.max(revision);
        for shard in 0..self.shards {
            self.send(shard, ShardRequest::Compact(revision));
        }
        self.stage = Stage::Restoring(Restoring::default());
    }

    /// Takes what the store has beside its keys. Answers whether it can be: a lease stands once and is not 0.
    ///
    /// # Panics
    /// If something is under way.
    pub fn restore_state(&mut self, state: RestoredState) -> bool {
        assert!(self.is_idle(), "a restore beside something else");
        self.meta.revision = self.meta.revision.max(state.revision);
        self.applied = Applied {
            revision: self.meta.revision,
            ..self.applied
        };
        let mut leases = state.leases.into_iter();
        let all = leases.all(|(id, ttl)| self.meta.grant(id, ttl).is_ok());
        self.meta.alarms.raised.extend(state.alarms);
        // Nobody follows these changes.
        drop(self.meta.take_changes());
        all
    }

    /// What is wrong with the first change that a shard did not take, once.
    pub fn take_restore_fault(&mut self) -> Option<String> {
        self.restore_fault.take()
    }

    pub(super) fn advance_restore(&mut self, restoring: Restoring) -> bool {
        if self.under_way > 0 {
            self.stage = Stage::Restoring(restoring);
            return false;
        }
        self.restore_fault = self.restore_fault.take().or(restoring.fault);
        true
    }
}

impl Restoring {
    pub(super) fn on_reply(&mut self, shard: u16, reply: ShardReply) {
        match reply {
            ShardReply::Compacted | ShardReply::Restored(Ok(())) => {}
            ShardReply::Restored(Err(fault)) => self.fault = self.fault.take().or(Some(fault)),
            reply => unreachable!("shard {shard} answers a restore with {reply:?}"),
        }
    }
}
