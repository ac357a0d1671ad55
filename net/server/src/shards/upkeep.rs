//! Upkeep of the shards: passes of compactions, and emptying event segments, a slice at a time.
//!
//! A pass goes before the emptying: what it drops makes segments cheaper to empty. What a slice needs is
//! read in the background. Damage that it meets is noted for the log, and left alone from then on.

use std::collections::BTreeSet;
use std::rc::Rc;

use engine::compaction::Maintained;
use engine::shard::Damage;
use engine::step::{Need, Step};

use super::{Host, Shards, Waiter};

/// How far the upkeep of one shard is.
pub(super) struct Upkeep {
    /// The pass of a compaction may have something left to do.
    pass_is_due: bool,
    /// Segments with a smaller part of live bytes are emptied, in percent.
    percent: u64,
    /// A load is under way or waits.
    waits: bool,
    /// Copies wait for the disk, or a changing request is in the middle of its work.
    blocked: bool,
    /// A segment is being emptied, as far as is known.
    collecting: bool,
    /// What was loaded since the last slice that did something.
    loaded: BTreeSet<Need>,
    /// What was damaged once.
    suspects: Option<Need>,
}

impl Upkeep {
    /// Of a shard that may have been opened in the middle of a pass.
    pub(super) fn new() -> Upkeep {
        Upkeep {
            pass_is_due: true,
            percent: 0,
            waits: false,
            blocked: false,
            collecting: false,
            loaded: BTreeSet::new(),
            suspects: None,
        }
    }

    pub(super) fn is_passing(&self) -> bool {
        self.pass_is_due
    }

    pub(super) fn is_collecting(&self) -> bool {
        self.collecting
    }

    pub(super) fn pass_begins(&mut self) {
        self.pass_is_due = true;
    }

    pub(super) fn loaded(&mut self, need: Need, damaged: bool) {
        self.waits = false;
        self.suspects = damaged.then_some(need);
        if !damaged {
            self.loaded.insert(need);
        }
    }

    pub(super) fn has_loaded(&self, need: &Need) -> bool {
        self.loaded.contains(need)
    }

    pub(super) fn suspects(&self) -> Option<Need> {
        self.suspects
    }

    fn did_something(&mut self) {
        self.loaded.clear();
        self.suspects = None;
    }
}

/// What a slice of upkeep did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upkept {
    /// There is nothing to do.
    Idle,
    /// Nothing before something was read or written; the flag is raised then.
    Waiting,
    /// Something of a compaction's pass.
    Passing,
    /// Something of emptying a segment.
    Collecting,
}

impl Shards {
    /// Waits until there may be upkeep to do.
    pub async fn upkeep_work(&self) {
        self.upkeep.wait().await;
    }

    /// Lets the upkeep look again.
    pub fn wake_upkeep(&self) {
        self.upkeep.raise();
    }

    /// Does a slice of the upkeep of `shard`, at most about a millisecond long. Segments with a smaller part
    /// of live bytes than `percent` are emptied.
    pub fn maintain(self: &Rc<Self>, shard: u16, percent: u64) -> Upkept {
        let Some(mut host) = self.host(shard) else {
            return Upkept::Idle;
        };
        host.upkeep.percent = percent;
        let upkept = self.keep_up(shard, &mut host);
        self.gauge(shard, &mut host);
        if upkept != Upkept::Idle {
            // What was copied waits to be written.
            self.background.raise();
        }
        upkept
    }

    /// Whether the upkeep of a shard began or ended something since the last call.
    pub fn take_upkeep_news(&self) -> bool {
        self.upkeep_news.take()
    }

    /// Damage that the upkeep met since the last call, and leaves alone.
    pub fn take_upkeep_damage(&self) -> Vec<Damage> {
        self.upkeep_damage.take()
    }

    pub(super) fn keep_up(self: &Rc<Self>, shard: u16, host: &mut Host) -> Upkept {
        if host.upkeep.waits {
            return Upkept::Waiting;
        }
        if host.leaving {
            self.step_back(shard, host);
            return Upkept::Waiting;
        }
        let passing = host.upkeep.pass_is_due;
        // No further segment is begun before the pass is through.
        let percent = if passing { 0 } else { host.upkeep.percent };
        let need = match host.shard.maintain(percent) {
            Step::Ready(done) => {
                if host.unfavour(Waiter::Upkeep) {
                    self.start_queued(shard, host);
                }
                return host.upkeep.done(done, passing);
            }
            Step::Need(need) => need,
        };
        host.upkeep.waits = true;
        if host.upkeep.has_loaded(&need) {
            host.favour(Waiter::Upkeep, &need);
        }
        self.want_with_hints(shard, host, need, Waiter::Upkeep);
        Upkept::Waiting
    }

    /// The upkeep does not go on before the shard has left: nobody is to wait for it.
    pub(super) fn step_back(self: &Rc<Self>, shard: u16, host: &mut Host) {
        if !host.upkeep.waits && host.unfavour(Waiter::Upkeep) {
            self.start_queued(shard, host);
        }
    }

    pub(super) fn wake_blocked_upkeep(&self, host: &mut Host) {
        if std::mem::take(&mut host.upkeep.blocked) {
            self.upkeep.raise();
        }
    }

    pub(super) fn go_on_without(&self, host: &mut Host, need: &Need, damage: &Damage) {
        host.shard.maintain_without(need);
        host.upkeep.waits = false;
        host.upkeep.did_something();
        host.unfavour(Waiter::Upkeep);
        self.upkeep_damage.borrow_mut().push(damage.clone());
        self.upkeep.raise();
    }
}

impl Upkeep {
    fn done(&mut self, done: Maintained, passing: bool) -> Upkept {
        self.blocked = done == Maintained::Blocked;
        match done {
            Maintained::Blocked => return Upkept::Waiting,
            Maintained::Idle if !passing => {
                self.did_something();
                self.collecting = false;
                return Upkept::Idle;
            }
            Maintained::Idle => self.pass_is_due = false,
            Maintained::Working => {}
        }
        self.did_something();
        match passing {
            true => Upkept::Passing,
            false => {
                self.collecting = true;
                Upkept::Collecting
            }
        }
    }
}
