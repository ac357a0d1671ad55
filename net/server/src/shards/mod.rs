//! The shards that live on this core: their requests, what they load, and their background I/O.
//!
//! The coordinator's requests to a shard are executed one after the other; reads beside them, each on
//! its own. When a page or a record is not in memory the request waits, is tried again once it was
//! read, and changed nothing in between. Requests that need the same bytes share one read.
//!
//! Bytes that turn out damaged are read once more. If they stay so, the request that needs them is
//! answered [`ShardReply::Damaged`] and all others go on; the coordinator's own requests cannot be
//! passed over, so damage that one of them meets is kept for the node, which stops.
//!
//! What the shards write is polled by the node's background task in small slices; completions come
//! back through [`Shards::complete`]. Slices of upkeep (`upkeep`) and steps of the scrub (`scrub`) are asked for
//! in the same way.

mod scrub;
mod upkeep;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use engine::image::{Dirty, ReadRequest, ShardEvent};
use engine::shard::{Damage, Shard, ShardReply, ShardRequest};
use engine::step::{Need, Step};
use engine::store::Sizes;
use reactor::{Class, World};
use wal::io::{IoId, IoRequest};

use crate::disk::{Disk, IoResult};
use crate::local::{Flag, Responder, Waiting, one_shot};
use scrub::Scrub;
pub use scrub::Scrubbed;
use upkeep::Upkeep;
pub use upkeep::Upkept;

/// Most reads of one shard at a time; further ones wait.
const LOADS_MAX: usize = 64;
/// No more reads than this are begun ahead of time, so that they never take all the room.
const HINTED_LOADS_MAX: usize = LOADS_MAX / 2;

/// One shard and what is under way in it.
///
/// Invariants:
/// - `changes` is in the order of the coordinator; of its elements at most the first was begun;
/// - whoever waits is in `loads` or in `queue`, once;
/// - while somebody is `favoured`, no load is begun for another read or the upkeep.
struct Host {
    shard: Shard,
    changes: VecDeque<ShardRequest>,
    /// The first change waits for a load.
    change_waits: bool,
    /// The need of the first change whose bytes were damaged once.
    change_suspects: Option<Need>,
    /// What was loaded for the first change last.
    change_loaded: Option<Need>,
    reads: BTreeMap<u64, WaitingRead>,
    last_ticket: u64,
    /// Reads under way, with those who wait for them.
    loads: BTreeMap<Need, Vec<Waiter>>,
    /// Loads that wait for room.
    queue: VecDeque<(Need, Waiter)>,
    /// A read, or the upkeep, that lost what was loaded for it before it could use it.
    favoured: Option<Waiter>,
    upkeep: Upkeep,
    scrub: Scrub,
}

/// Who waits for a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiter {
    /// The first of the changes.
    Change,
    /// The read with this ticket.
    Read(u64),
    /// The upkeep.
    Upkeep,
    /// The scrub.
    Scrub,
}

impl Waiter {
    /// How urgent a load for it is.
    fn class(self) -> Class {
        match self {
            Waiter::Change | Waiter::Read(_) => Class::Request,
            Waiter::Upkeep | Waiter::Scrub => Class::Background,
        }
    }
}

/// A read that waits.
struct WaitingRead {
    request: ShardRequest,
    responder: Responder<ShardReply>,
    /// What was loaded for it.
    loaded: BTreeSet<Need>,
    /// What was damaged once.
    suspects: Option<Need>,
}

/// The shards of one core.
pub struct Shards {
    world: World,
    disk: Disk,
    hosts: Vec<RefCell<Host>>,
    replies: RefCell<VecDeque<(u16, ShardReply)>>,
    /// Raised when a reply to the coordinator waits and nobody is there to take it at once.
    replied: Rc<Flag>,
    /// The pipeline waits for completions before it changes more.
    held_back: Cell<bool>,
    /// Raised when a shard may have something to write.
    background: Flag,
    /// Raised when there may be upkeep to do.
    upkeep: Flag,
    /// What the upkeep could not read and leaves alone.
    upkeep_damage: RefCell<Vec<Damage>>,
    /// What stops the coordinator.
    damage: RefCell<Option<Damage>>,
    /// Longest artificial time a load takes; simulated worlds draw from it.
    load_delay_max: Cell<Duration>,
    /// Records may be declared missing that are in memory, and perhaps nowhere else yet.
    declares_missing: Cell<bool>,
}

/// An answer that is there already, or that comes.
pub enum Asked {
    /// Answered without a wait.
    Ready(ShardReply),
    /// The shard waits for a load.
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
    /// Hosts `shards`, whose files are on `disk`.
    pub fn new(world: World, disk: Disk, shards: Vec<Shard>, replied: Rc<Flag>) -> Rc<Shards> {
        let host = |shard| {
            RefCell::new(Host {
                shard,
                changes: VecDeque::new(),
                change_waits: false,
                change_suspects: None,
                change_loaded: None,
                reads: BTreeMap::new(),
                last_ticket: 0,
                loads: BTreeMap::new(),
                queue: VecDeque::new(),
                favoured: None,
                upkeep: Upkeep::new(),
                scrub: Scrub::default(),
            })
        };
        Rc::new(Shards {
            world,
            disk,
            hosts: shards.into_iter().map(host).collect(),
            replies: RefCell::default(),
            replied,
            held_back: Cell::new(false),
            background: Flag::default(),
            upkeep: Flag::default(),
            upkeep_damage: RefCell::default(),
            damage: RefCell::default(),
            load_delay_max: Cell::new(Duration::ZERO),
            declares_missing: Cell::new(false),
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

    /// Expects needs of the engine's test mode: for what is in memory.
    pub fn expect_declared_missing(&self) {
        self.declares_missing.set(true);
    }

    fn host(&self, shard: u16) -> &RefCell<Host> {
        &self.hosts[usize::from(shard)]
    }

    /// Sends a request of the coordinator; the reply is taken with [`Shards::next_reply`].
    pub fn send(self: &Rc<Self>, shard: u16, request: ShardRequest) {
        let mut host = self.host(shard).borrow_mut();
        host.changes.push_back(request);
        self.run_changes(shard, &mut host);
        self.background.raise();
    }

    /// The next reply to the coordinator.
    pub fn next_reply(&self) -> Option<(u16, ShardReply)> {
        self.replies.borrow_mut().pop_front()
    }

    /// The damage that a request of the coordinator met, if one did: the state machine cannot go on.
    pub fn damage(&self) -> Option<Damage> {
        self.damage.borrow().clone()
    }

    /// Asks a shard on behalf of a task. Only for reads.
    pub fn ask(self: &Rc<Self>, shard: u16, request: ShardRequest) -> Asked {
        let mut host = self.host(shard).borrow_mut();
        let need = match host.shard.handle(&request) {
            Step::Ready(reply) => {
                self.answered(shard, &mut host, &request, &reply);
                return Asked::Ready(reply);
            }
            Step::Need(need) => need,
        };
        let (responder, waiting) = one_shot();
        host.last_ticket += 1;
        let ticket = host.last_ticket;
        let read = WaitingRead {
            request,
            responder,
            loaded: BTreeSet::new(),
            suspects: None,
        };
        host.reads.insert(ticket, read);
        self.want_with_hints(shard, &mut host, need, Waiter::Read(ticket));
        Asked::Waiting(waiting)
    }

    /// What follows from the answer to a read.
    fn answered(
        self: &Rc<Self>,
        shard: u16,
        host: &mut Host,
        request: &ShardRequest,
        reply: &ShardReply,
    ) {
        if request.reads_ahead() {
            self.load_hints(shard, host, Class::Request);
        }
        if let ShardReply::Unpinned { pass_is_due: true } = reply {
            host.upkeep.pass_begins();
            self.upkeep.raise();
        }
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

    /// Executes the coordinator's requests until none is left or one has to wait.
    fn run_changes(self: &Rc<Self>, shard: u16, host: &mut Host) {
        while !host.change_waits
            && let Some(request) = host.changes.front()
        {
            match host.shard.handle(request) {
                Step::Ready(reply) => {
                    if let Some(ShardRequest::Compact(_)) = host.changes.pop_front() {
                        host.upkeep.pass_begins();
                    }
                    host.change_suspects = None;
                    host.change_loaded = None;
                    self.replies.borrow_mut().push_back((shard, reply));
                    self.replied.raise();
                }
                Step::Need(need) => {
                    host.change_waits = true;
                    self.want_with_hints(shard, host, need, Waiter::Change);
                }
            }
        }
    }

    /// Tries a read again.
    fn run_read(self: &Rc<Self>, shard: u16, host: &mut Host, ticket: u64) {
        let Some(read) = host.reads.get_mut(&ticket) else {
            return;
        };
        if !read.responder.is_awaited() {
            host.end_read(ticket);
            return;
        }
        match host.shard.handle(&read.request) {
            Step::Ready(reply) => {
                if let Some(read) = host.end_read(ticket) {
                    self.answered(shard, host, &read.request, &reply);
                    read.responder.answer(reply);
                }
            }
            Step::Need(need) => {
                // It was there and is gone again: the cache is too small for all who read now.
                if read.loaded.contains(&need) && host.favoured.is_none() {
                    host.favoured = Some(Waiter::Read(ticket));
                }
                self.want_with_hints(shard, host, need, Waiter::Read(ticket));
            }
        }
    }

    /// Has `need` read for `waiter`, and what goes with it for nobody yet.
    fn want_with_hints(self: &Rc<Self>, shard: u16, host: &mut Host, need: Need, waiter: Waiter) {
        self.want(shard, host, need, waiter);
        self.load_hints(shard, host, waiter.class());
    }

    /// Begins to load what the last request has hinted at.
    fn load_hints(self: &Rc<Self>, shard: u16, host: &mut Host, class: Class) {
        for hint in host.shard.take_hints() {
            if host.loads.len() < HINTED_LOADS_MAX
                && host.favoured.is_none()
                && !host.loads.contains_key(&hint)
            {
                host.loads.insert(hint, Vec::new());
                self.load(shard, host, hint, class);
            }
        }
    }

    /// Has `need` read for `waiter`.
    fn want(self: &Rc<Self>, shard: u16, host: &mut Host, need: Need, waiter: Waiter) {
        if let Some(waiters) = host.loads.get_mut(&need) {
            waiters.push(waiter);
        } else if host.may_load(waiter) {
            host.loads.insert(need, vec![waiter]);
            self.load(shard, host, need, waiter.class());
        } else {
            host.queue.push_back((need, waiter));
        }
    }

    /// Starts what waited for room.
    fn start_queued(self: &Rc<Self>, shard: u16, host: &mut Host) {
        let mut later = VecDeque::new();
        while let Some((need, waiter)) = host.queue.pop_front() {
            if host.loads.contains_key(&need) || host.may_load(waiter) {
                self.want(shard, host, need, waiter);
            } else {
                later.push_back((need, waiter));
                if host.favoured.is_none() {
                    break;
                }
            }
        }
        later.append(&mut host.queue);
        host.queue = later;
    }

    /// Reads the bytes of `need`, hands them to the shard and lets those go on who wait for them.
    fn load(self: &Rc<Self>, shard: u16, host: &Host, need: Need, class: Class) {
        let read = host.shard.read_of(&need);
        let again = host.has_loaded(&need);
        let shards = self.clone();
        drop(self.world.spawn(class, async move {
            let longest = shards.load_delay_max.get().as_nanos() as u64;
            if longest > 0 {
                let delay = shards.world.random_u64() % longest;
                shards.world.sleep(Duration::from_nanos(delay)).await;
            }
            if !again && shards.was_declared_missing(shard, &need) {
                let mut host = shards.host(shard).borrow_mut();
                return shards.loaded(shard, &mut host, need, None);
            }
            let ReadRequest { file, offset, len } = read;
            let bytes = shards.disk.read(&file, offset, len).await;
            let mut host = shards.host(shard).borrow_mut();
            let damage = match bytes {
                Ok(bytes) => {
                    let loaded = host.shard.load(&need, Some(Bytes::from(bytes)));
                    loaded.err().map(|error| host.shard.damage(&error))
                }
                Err(failure) => Some(Damage {
                    file: file.path(),
                    offset,
                    what: format!("reading {len} bytes failed: {failure}"),
                }),
            };
            shards.loaded(shard, &mut host, need, damage.as_ref());
        }));
    }

    /// Test mode: whether `need` was for a record in memory; the shard then has it again.
    fn was_declared_missing(&self, shard: u16, need: &Need) -> bool {
        self.declares_missing.get()
            && matches!(need, Need::Bytes { .. })
            && self.host(shard).borrow_mut().shard.load(need, None).is_ok()
    }

    fn loaded(self: &Rc<Self>, shard: u16, host: &mut Host, need: Need, damage: Option<&Damage>) {
        for waiter in host.loads.remove(&need).unwrap_or_default() {
            let lost = damage.filter(|_| host.is_damaged_again(waiter, need));
            match (waiter, lost) {
                (Waiter::Change, Some(damage)) => {
                    *self.damage.borrow_mut() = Some(damage.clone());
                    self.replied.raise();
                }
                (Waiter::Change, None) => {
                    host.change_suspects = damage.map(|_| need);
                    host.change_loaded = damage.is_none().then_some(need);
                    host.change_waits = false;
                    self.run_changes(shard, host);
                    self.background.raise();
                    self.wake_blocked_upkeep(host);
                }
                (Waiter::Upkeep, Some(damage)) => self.go_on_without(host, &need, damage),
                (Waiter::Upkeep, None) => {
                    host.upkeep.loaded(need, damage.is_some());
                    self.keep_up(shard, host);
                    self.upkeep.raise();
                }
                (Waiter::Scrub, lost) => host.scrub_loaded(need, damage, lost.is_some()),
                (Waiter::Read(ticket), Some(damage)) => {
                    if let Some(read) = host.end_read(ticket) {
                        read.responder.answer(ShardReply::Damaged(damage.clone()));
                    }
                }
                (Waiter::Read(ticket), None) => {
                    if let Some(read) = host.reads.get_mut(&ticket) {
                        match damage {
                            Some(_) => read.suspects = Some(need),
                            None => {
                                read.loaded.insert(need);
                            }
                        }
                    }
                    self.run_read(shard, host, ticket);
                }
            }
        }
        self.start_queued(shard, host);
    }
}

/// Background I/O.
impl Shards {
    /// Waits until a shard may have something to write.
    pub async fn background_work(&self) {
        self.background.wait().await;
    }

    /// Lets the background task look again.
    pub fn wake_background(&self) {
        self.background.raise();
    }

    /// Lets `shard` do and emit a slice of its background I/O; whether there may be more.
    pub fn poll(&self, shard: u16, requests: &mut Vec<IoRequest>) -> bool {
        let goes_on = self.host(shard).borrow_mut().shard.poll(requests);
        let emitted = !requests.is_empty();
        self.disk.submit(requests);
        emitted || goes_on
    }

    /// Takes the result of a request that a shard emitted.
    pub fn complete(&self, shard: u16, id: IoId, result: IoResult) {
        let mut host = self.host(shard).borrow_mut();
        host.shard.complete(id, result);
        self.wake_blocked_upkeep(&mut host);
        self.background.raise();
        if self.held_back.get() {
            self.replied.raise();
        }
    }

    /// Whether changes outrun the disk: then none should be made until requests complete, which wakes the
    /// pipeline.
    pub fn hold_back(&self) -> bool {
        let behind = |host: &RefCell<Host>| host.borrow().shard.is_behind();
        let behind = self.hosts.iter().any(behind);
        self.held_back.set(behind);
        if behind {
            self.background.raise();
        }
        behind
    }

    /// What `shard` reports.
    pub fn next_event(&self, shard: u16) -> Option<ShardEvent> {
        self.host(shard).borrow_mut().shard.next_event()
    }

    /// The superblock names the images of checkpoint `id`: what only older ones need may go.
    pub fn published(&self, id: u32) {
        for host in &self.hosts {
            host.borrow_mut().shard.published(id);
        }
        self.background.raise();
    }

    /// There may be room on the device again.
    pub fn retry_space(&self) {
        for host in &self.hosts {
            host.borrow_mut().shard.retry_space();
        }
        self.background.raise();
    }

    /// How much of its page cache only a checkpoint can free, in the shard that has least left. Each has a
    /// cache of its own, and one that is full keeps the changes of all waiting.
    pub fn fullest(&self) -> Dirty {
        let dirty = self.hosts.iter().map(|host| host.borrow().shard.dirty());
        let share = |dirty: &Dirty| dirty.dirty_bytes * 1024 / dirty.cache_bytes.max(1);
        dirty.max_by_key(share).unwrap_or_default()
    }

    /// How much of the page caches only a checkpoint can free, in all shards together.
    pub fn dirty(&self) -> Dirty {
        let mut total = Dirty::default();
        for host in &self.hosts {
            let dirty = host.borrow().shard.dirty();
            total.dirty_bytes += dirty.dirty_bytes;
            total.cache_bytes += dirty.cache_bytes;
        }
        total
    }
}

impl Host {
    /// Whether a load may begin for `waiter` now.
    fn may_load(&self, waiter: Waiter) -> bool {
        match (self.favoured, waiter) {
            // One at a time, and everything else waits for it.
            (_, Waiter::Change) => true,
            (None, _) => self.loads.len() < LOADS_MAX,
            (Some(favoured), waiter) => waiter == favoured,
        }
    }

    /// Whether somebody who waits for `need` had it once. In the test mode it is missing in truth then: a
    /// record that is in memory may be a piece of its own, which is not.
    fn has_loaded(&self, need: &Need) -> bool {
        let waiters = self.loads.get(need).into_iter().flatten();
        waiters.into_iter().any(|waiter| match waiter {
            Waiter::Change => self.change_loaded.as_ref() == Some(need),
            Waiter::Scrub => false,
            Waiter::Read(ticket) => {
                let read = self.reads.get(ticket);
                read.is_some_and(|read| read.loaded.contains(need))
            }
            Waiter::Upkeep => self.upkeep.has_loaded(need),
        })
    }

    fn end_read(&mut self, ticket: u64) -> Option<WaitingRead> {
        if self.favoured == Some(Waiter::Read(ticket)) {
            self.favoured = None;
        }
        self.reads.remove(&ticket)
    }

    /// Whether `waiter` has met damage at `need` before. A first time may be a need that was
    /// overtaken, or a read that went wrong on the way.
    fn is_damaged_again(&self, waiter: Waiter, need: Need) -> bool {
        let suspects = match waiter {
            Waiter::Change => self.change_suspects,
            Waiter::Read(ticket) => self.reads.get(&ticket).and_then(|read| read.suspects),
            Waiter::Upkeep => self.upkeep.suspects(),
            Waiter::Scrub => self.scrub_suspects(),
        };
        suspects == Some(need)
    }
}
