//! The shards that live on this core, each behind its mailbox.
//!
//! A shard handles its requests in the order in which they arrive. When a page or a value is not in
//! memory the shard's mailbox stands still until it is loaded, and the request is tried again: the
//! engine has changed nothing by then. Replies to the sequencer's coordinator are queued for it;
//! replies to reads wake the task that asked.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use engine::shard::{Shard, ShardReply, ShardRequest};
use engine::step::{Need, Step};
use engine::store::{Sizes, StoreConfig};
use reactor::{Class, World};

use crate::local::{Flag, Responder, Waiting, one_shot};

enum ReplyTo {
    Coordinator,
    Task(Responder<ShardReply>),
}

struct Host {
    shard: Shard,
    mailbox: VecDeque<(ShardRequest, ReplyTo)>,
    loading: bool,
}

/// The shards of one core.
pub struct Shards {
    world: World,
    hosts: Vec<RefCell<Host>>,
    replies: RefCell<VecDeque<(u16, ShardReply)>>,
    /// Raised when a reply to the coordinator waits and nobody is there to take it at once.
    replied: Rc<Flag>,
    /// Longest artificial time a load takes; simulated worlds draw from it.
    load_delay_max: Cell<Duration>,
}

/// An answer that is there already, or that comes.
pub enum Asked {
    /// Answered without a wait.
    Ready(ShardReply),
    /// The shard waits for a load, or has a backlog.
    Waiting(Waiting<ShardReply>),
}

impl Asked {
    /// Waits for the answer; `None` when the node stops first.
    pub async fn answer(self) -> Option<ShardReply> {
        match self {
            Asked::Ready(reply) => Some(reply),
            Asked::Waiting(waiting) => waiting.await,
        }
    }
}

impl Shards {
    /// Empty shards, one per configuration.
    pub fn new(world: World, configs: Vec<StoreConfig>, replied: Rc<Flag>) -> Rc<Shards> {
        let host = |config| {
            RefCell::new(Host {
                shard: Shard::new(config),
                mailbox: VecDeque::new(),
                loading: false,
            })
        };
        Rc::new(Shards {
            world,
            hosts: configs.into_iter().map(host).collect(),
            replies: RefCell::default(),
            replied,
            load_delay_max: Cell::new(Duration::ZERO),
        })
    }

    /// How many shards there are.
    pub fn count(&self) -> u16 {
        self.hosts.len() as u16
    }

    /// Lets loads take up to `delay`, drawn at random.
    pub fn delay_loads(&self, delay: Duration) {
        self.load_delay_max.set(delay);
    }

    /// Sends a request of the coordinator; the reply is taken with [`Shards::next_reply`].
    pub fn send(self: &Rc<Self>, shard: u16, request: ShardRequest) {
        self.hosts[usize::from(shard)]
            .borrow_mut()
            .mailbox
            .push_back((request, ReplyTo::Coordinator));
        self.run(shard);
    }

    /// The next reply to the coordinator.
    pub fn next_reply(&self) -> Option<(u16, ShardReply)> {
        self.replies.borrow_mut().pop_front()
    }

    /// Asks a shard on behalf of a task.
    pub fn ask(self: &Rc<Self>, shard: u16, request: ShardRequest) -> Asked {
        {
            let mut host = self.hosts[usize::from(shard)].borrow_mut();
            if !host.loading && host.mailbox.is_empty() {
                match host.shard.handle(&request) {
                    Step::Ready(reply) => return Asked::Ready(reply),
                    Step::Need(need) => {
                        let (responder, waiting) = one_shot();
                        host.mailbox.push_back((request, ReplyTo::Task(responder)));
                        host.loading = true;
                        drop(host);
                        self.load(shard, need);
                        return Asked::Waiting(waiting);
                    }
                }
            }
        }
        let (responder, waiting) = one_shot();
        self.hosts[usize::from(shard)]
            .borrow_mut()
            .mailbox
            .push_back((request, ReplyTo::Task(responder)));
        self.run(shard);
        Asked::Waiting(waiting)
    }

    /// Sizes of all shards together.
    pub fn sizes(&self) -> Sizes {
        let mut total = Sizes::default();
        for host in &self.hosts {
            // A shard knows its sizes without looking anything up.
            let Step::Ready(ShardReply::Sizes(sizes)) =
                host.borrow_mut().shard.handle(&ShardRequest::Sizes)
            else {
                unreachable!("sizes are always at hand")
            };
            total.bytes += sizes.bytes;
            total.bytes_in_use += sizes.bytes_in_use;
            total.keys += sizes.keys;
        }
        total
    }

    /// Handles what waits in a shard's mailbox until it is empty or something has to be loaded.
    fn run(self: &Rc<Self>, shard: u16) {
        loop {
            let mut host = self.hosts[usize::from(shard)].borrow_mut();
            if host.loading {
                return;
            }
            let Some((request, reply_to)) = host.mailbox.pop_front() else {
                return;
            };
            match host.shard.handle(&request) {
                Step::Ready(reply) => {
                    drop(host);
                    self.deliver(shard, reply, reply_to);
                }
                Step::Need(need) => {
                    host.mailbox.push_front((request, reply_to));
                    host.loading = true;
                    drop(host);
                    self.load(shard, need);
                    return;
                }
            }
        }
    }

    fn deliver(&self, shard: u16, reply: ShardReply, reply_to: ReplyTo) {
        match reply_to {
            ReplyTo::Task(responder) => responder.answer(reply),
            ReplyTo::Coordinator => {
                self.replies.borrow_mut().push_back((shard, reply));
                self.replied.raise();
            }
        }
    }

    /// Brings what a shard needs and lets it go on. Everything is resident in this version, so the
    /// need comes from the hook that declares things missing, and what is brought is the permission
    /// to look again.
    fn load(self: &Rc<Self>, shard: u16, need: Need) {
        let shards = self.clone();
        drop(self.world.spawn(Class::Request, async move {
            let longest = shards.load_delay_max.get().as_nanos() as u64;
            if longest > 0 {
                let delay = shards.world.random_u64() % longest;
                shards.world.sleep(Duration::from_nanos(delay)).await;
            }
            {
                let mut host = shards.hosts[usize::from(shard)].borrow_mut();
                if let Err(error) = host.shard.load(&need, None) {
                    // A resident shard that cannot give what it asked for is our bug.
                    panic!("shard {shard} cannot load {need:?}: {error}");
                }
                host.loading = false;
            }
            shards.run(shard);
        }));
    }
}
