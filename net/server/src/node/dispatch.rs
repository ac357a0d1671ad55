//! The coordinator's way to the shards, wherever they live.
//!
//! Requests go to shards of other cores first, all of a round in one message, and then to those of this one, so that
//! all work at the same time; replies come together again. A shard that is about to move is *held*: its requests wait here, and go out in their order once it
//! lives somewhere again.
//!
//! Invariant: of the requests to one shard at most one is under way (the coordinator's own rule), so
//! neither links nor moves can change their order.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use engine::shard::{Damage, ShardReply, ShardRequest};
use wal::io::IoId;

use crate::cores::call::{Call, Links, Response, Waiter};
use crate::cores::{Board, HOME};
use crate::disk::IoResult;
use crate::local::{Changed, Flag};
use crate::shards::Shards;

/// See the module.
pub(super) struct Dispatch {
    shards: Rc<Shards>,
    links: Rc<Links>,
    board: Arc<Board>,
    lanes: RefCell<Vec<Lane>>,
    /// For shards of this core.
    here: RefCell<VecDeque<(u16, ShardRequest)>>,
    /// From other cores.
    replies: RefCell<VecDeque<(u16, ShardReply)>>,
    /// Damage that a request met on another core.
    damage: RefCell<Option<Damage>>,
    /// Raised when the pipeline has something to do.
    work: Rc<Flag>,
    /// Notified when a held shard has nothing under way.
    settled: Changed,
}

/// The way to one shard.
#[derive(Debug, Default)]
struct Lane {
    under_way: usize,
    /// Requests that wait while the shard is held.
    held: Option<VecDeque<ShardRequest>>,
}

impl Dispatch {
    pub(super) fn new(
        shards: Rc<Shards>,
        links: Rc<Links>,
        board: Arc<Board>,
        work: Rc<Flag>,
    ) -> Dispatch {
        let lanes = (0..shards.count()).map(|_| Lane::default()).collect();
        Dispatch {
            shards,
            links,
            board,
            lanes: RefCell::new(lanes),
            here: RefCell::default(),
            replies: RefCell::default(),
            damage: RefCell::default(),
            work,
            settled: Changed::default(),
        }
    }

    /// Takes the coordinator's next request to a shard; it is on its way after [`Dispatch::begin`].
    pub(super) fn send(&self, shard: u16, request: ShardRequest) {
        {
            let mut lanes = self.lanes.borrow_mut();
            let lane = &mut lanes[usize::from(shard)];
            if let Some(held) = &mut lane.held {
                held.push_back(request);
                return;
            }
            lane.under_way += 1;
        }
        match self.board.owner(shard) {
            HOME => self.here.borrow_mut().push_back((shard, request)),
            core => {
                let waiter = Waiter::Coordinator(shard);
                self.links
                    .call(core, waiter, Call::Change { shard, request });
            }
        }
    }

    /// Sends what goes to other cores, and then executes what is for the shards of this one.
    pub(super) fn begin(&self) {
        self.links.flush();
        loop {
            let Some((shard, request)) = self.here.borrow_mut().pop_front() else {
                return;
            };
            self.shards.send(shard, request);
        }
    }

    /// Takes the response to a request that went to another core.
    pub(super) fn take_response(&self, shard: u16, response: Option<Response>) {
        match response {
            Some(Response::Shard(ShardReply::Damaged(damage))) => {
                *self.damage.borrow_mut() = Some(damage);
            }
            Some(Response::Shard(reply)) => self.replies.borrow_mut().push_back((shard, reply)),
            Some(_) => panic!("the coordinator's request met no shard {shard}"),
            // The core is gone, and the member with it.
            None => return,
        }
        // Whether a checkpoint is due is looked at where it begins.
        self.shards.wake_background();
        self.work.raise();
    }

    /// Whether it helps to say what entries to come will need.
    pub(super) fn looks_ahead(&self) -> bool {
        self.shards.lack_pages()
    }

    /// Entry `index` will touch `key`. Shards on other cores are not told: they leave when a member serves, and what
    /// reads much ahead is its start.
    pub(super) fn note_ahead(&self, shard: u16, index: u64, key: &Bytes) {
        self.shards.note_ahead(shard, index, key);
    }

    /// Lets the shards load what was noted, except for entries up to `applied`.
    pub(super) fn load_ahead(&self, applied: u64) {
        self.shards.load_ahead(applied);
    }

    /// The next reply of any shard.
    pub(super) fn next_reply(&self) -> Option<(u16, ShardReply)> {
        let local = self.shards.next_reply();
        let reply = local.or_else(|| self.replies.borrow_mut().pop_front())?;
        let mut lanes = self.lanes.borrow_mut();
        let lane = &mut lanes[usize::from(reply.0)];
        lane.under_way -= 1;
        if lane.held.is_some() && lane.under_way == 0 {
            self.settled.notify();
        }
        Some(reply)
    }

    /// The damage that a request met, if one did: the state machine cannot go on.
    pub(super) fn damage(&self) -> Option<Damage> {
        self.shards
            .damage()
            .or_else(|| self.damage.borrow().clone())
    }

    /// Whether changes outrun a disk: then none should be made until requests complete, which wakes the
    /// pipeline.
    pub(super) fn hold_back(&self) -> bool {
        let behind = self.board.is_behind(self.shards.count());
        self.shards.note_held_back(behind);
        behind
    }

    /// Takes the result of a request that a shard of this core emitted.
    pub(super) fn complete(&self, shard: u16, id: IoId, result: IoResult) {
        self.shards.complete(shard, id, result);
    }

    /// Holds back what the coordinator asks of `shard`, and waits until nothing is under way in it.
    pub(super) async fn hold(&self, shard: u16) {
        let at = usize::from(shard);
        self.lanes.borrow_mut()[at]
            .held
            .get_or_insert_with(VecDeque::new);
        let settled = || self.lanes.borrow()[at].under_way == 0;
        self.settled.until(settled).await;
    }

    /// Sends what waits for `shard`, which lives where the board says.
    pub(super) fn release(&self, shard: u16) {
        let held = self.lanes.borrow_mut()[usize::from(shard)].held.take();
        for request in held.into_iter().flatten() {
            self.send(shard, request);
        }
        self.work.raise();
    }
}
