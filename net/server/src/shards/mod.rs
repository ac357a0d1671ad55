//! The shards that live on this core: their requests, what they load, and their background I/O.
//!
//! The coordinator's requests to a shard are executed one after the other, whether it is on this core or
//! asks from another one; reads beside them, each on its own. When a page or a record is not in memory the
//! request waits, is tried again once it was read, and changed nothing in between. Requests that need the same
//! bytes share one read.
//!
//! Bytes that turn out damaged are read once more. If they stay so, the request that needs them is
//! answered [`ShardReply::Damaged`] and all others go on; the coordinator's own requests cannot be
//! passed over, so damage that one of them meets is kept for the node, which stops.
//!
//! Nobody waits for what is loaded ahead, for entries to come (`ahead`) or because a request hinted at it.
//!
//! A shard may leave for another core (`travel`): whoever asks for it here is sent on.
//!
//! What the shards write is polled by the node's background task in small slices; completions come
//! back through [`Shards::complete`]. Slices of upkeep (`upkeep`) and steps of the scrub (`scrub`) are asked for
//! in the same way.

mod ahead;
mod scrub;
mod travel;
mod upkeep;

use std::cell::{Cell, RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::image::ShardEvent;
use engine::shard::{Damage, Shard, ShardReply, ShardRequest};
use engine::step::{Need, Step};
use reactor::{Class, World};
use wal::io::{IoId, IoRequest};

use crate::cores::call::{CallAnswer, Response};
use crate::cores::{Board, Gauges};
use crate::disk::{Disk, IoResult};
use crate::local::{Changed, Flag, Responder, Waiting, one_shot};
use ahead::KeysAhead;
use scrub::Scrub;
pub use scrub::Scrubbed;
pub use travel::TravellingShard;
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
    changes: VecDeque<(ShardRequest, ChangeOrigin)>,
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
    /// What entries to come will need.
    ahead: KeysAhead,
    /// A read, or the upkeep, that lost what was loaded for it before it could use it.
    favoured: Option<Waiter>,
    upkeep: Upkeep,
    scrub: Scrub,
    /// It is to leave: nothing more is begun.
    leaving: bool,
}

/// Who sent a request of the coordinator.
enum ChangeOrigin {
    /// The coordinator on this core.
    Here,
    /// The one on another core.
    There(CallAnswer),
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
    core: u16,
    board: Arc<Board>,
    /// By shard; those that live here.
    hosts: Vec<RefCell<Option<Box<Host>>>>,
    replies: RefCell<VecDeque<(u16, ShardReply)>>,
    /// Raised when a reply to the coordinator waits and nobody is there to take it at once, and when changes may go on.
    replied: Rc<Flag>,
    /// The pipeline waits for completions before it changes more.
    held_back: Cell<bool>,
    /// A shard's changes have stopped outrunning the disk.
    caught_up: Cell<bool>,
    /// Raised when a shard may have something to write.
    background: Flag,
    /// Raised when there may be upkeep to do.
    upkeep: Flag,
    /// The upkeep of a shard has begun or ended something.
    upkeep_news: Cell<bool>,
    /// Raised when a shard has come.
    populated: Rc<Flag>,
    /// Notified when a shard that is to leave may be able to.
    departure: Changed,
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
    /// The shard lives on another core, or is about to: ask there, or once more.
    Elsewhere(ShardRequest),
}

/// Where a core's shards are.
pub struct Place {
    /// The core's world.
    pub world: World,
    /// Its number.
    pub core: u16,
    /// Words for all cores.
    pub board: Arc<Board>,
    /// The disk with the files of its shards.
    pub disk: Disk,
}

impl Shards {
    /// Hosts `shards`, the first of `count` of the member. `replied` is raised when somebody should look.
    pub fn new(place: Place, count: u16, shards: Vec<Shard>, replied: Rc<Flag>) -> Rc<Shards> {
        let hosts = (0..count).map(|_| RefCell::new(None)).collect();
        let here = Rc::new(Shards {
            world: place.world,
            disk: place.disk,
            core: place.core,
            board: place.board,
            hosts,
            replies: RefCell::default(),
            replied,
            held_back: Cell::new(false),
            caught_up: Cell::new(false),
            background: Flag::default(),
            upkeep: Flag::default(),
            upkeep_news: Cell::new(false),
            populated: Rc::default(),
            departure: Changed::default(),
            upkeep_damage: RefCell::default(),
            damage: RefCell::default(),
            load_delay_max: Cell::new(Duration::ZERO),
            declares_missing: Cell::new(false),
        });
        for (number, shard) in shards.into_iter().enumerate() {
            here.settle(number as u16, Host::new(shard, Upkeep::new()));
        }
        here
    }

    /// How many shards the member has.
    pub fn count(&self) -> u16 {
        self.hosts.len() as u16
    }

    /// Raised when a shard has come.
    pub fn population(&self) -> &Rc<Flag> {
        &self.populated
    }

    /// Whether any shard lives here.
    pub fn is_populated(&self) -> bool {
        self.hosts.iter().any(|host| host.borrow().is_some())
    }

    /// Whether `shard` lives here.
    pub fn is_here(&self, shard: u16) -> bool {
        self.hosts[usize::from(shard)].borrow().is_some()
    }

    /// Lets loads take up to `delay`, drawn at random.
    pub fn delay_loads(&self, delay: Duration) {
        self.load_delay_max.set(delay);
    }

    /// Expects needs of the engine's test mode: for what is in memory.
    pub fn expect_declared_missing(&self) {
        self.declares_missing.set(true);
    }

    fn host(&self, shard: u16) -> Option<RefMut<'_, Host>> {
        let host = self.hosts[usize::from(shard)].borrow_mut();
        RefMut::filter_map(host, Option::as_deref_mut).ok()
    }

    /// A shard that has something under way, and therefore has not left.
    fn busy_host(&self, shard: u16) -> RefMut<'_, Host> {
        match self.host(shard) {
            Some(host) => host,
            None => panic!("shard {shard} left core {} too early", self.core),
        }
    }

    /// Sends a request of the coordinator on this core; the reply is taken with [`Shards::next_reply`].
    pub fn send(self: &Rc<Self>, shard: u16, request: ShardRequest) {
        self.change(shard, request, ChangeOrigin::Here);
    }

    /// Sends a request of the coordinator on another core; the reply is the answer.
    pub fn send_for(self: &Rc<Self>, shard: u16, request: ShardRequest, answer: CallAnswer) {
        self.change(shard, request, ChangeOrigin::There(answer));
    }

    fn change(self: &Rc<Self>, shard: u16, request: ShardRequest, origin: ChangeOrigin) {
        let mut host = self.busy_host(shard);
        host.changes.push_back((request, origin));
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
        let Some(mut host) = self.host(shard) else {
            return Asked::Elsewhere(request);
        };
        let need = match host.shard.handle(&request) {
            Step::Ready(reply) => {
                self.answered(shard, &mut host, &request, &reply);
                return Asked::Ready(reply);
            }
            Step::Need(_) if host.leaving => return Asked::Elsewhere(request),
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
            self.gauge(shard, host);
            self.upkeep.raise();
        }
    }

    /// Executes the coordinator's requests until none is left or one has to wait.
    fn run_changes(self: &Rc<Self>, shard: u16, host: &mut Host) {
        while !host.change_waits
            && let Some((request, _)) = host.changes.front()
        {
            match host.shard.handle(request) {
                Step::Ready(reply) => {
                    let Some((request, origin)) = host.changes.pop_front() else {
                        unreachable!("a request was executed")
                    };
                    if matches!(request, ShardRequest::Compact(_)) {
                        host.upkeep.pass_begins();
                        self.upkeep.raise();
                    }
                    host.change_suspects = None;
                    host.change_loaded = None;
                    // What the coordinator decides next, it decides knowing these.
                    self.gauge(shard, host);
                    match origin {
                        ChangeOrigin::Here => {
                            self.replies.borrow_mut().push_back((shard, reply));
                            self.replied.raise();
                        }
                        ChangeOrigin::There(answer) => answer.answer(Response::Shard(reply)),
                    }
                }
                Step::Need(need) => {
                    host.change_waits = true;
                    self.want_with_hints(shard, host, need, Waiter::Change);
                }
            }
        }
    }

    /// Ends a member that cannot execute what the coordinator asks for.
    fn change_is_damaged(&self, host: &mut Host, damage: &Damage) {
        // It stays the first of the changes, and nothing follows it.
        let origin = host.changes.front_mut().map(|(_, origin)| origin);
        match origin.map(|origin| std::mem::replace(origin, ChangeOrigin::Here)) {
            Some(ChangeOrigin::There(answer)) => {
                answer.answer(Response::Shard(ShardReply::Damaged(damage.clone())));
            }
            Some(ChangeOrigin::Here) | None => {
                *self.damage.borrow_mut() = Some(damage.clone());
                self.replied.raise();
            }
        }
    }

    /// Writes the figures of a shard to the board.
    fn gauge(&self, shard: u16, host: &mut Host) {
        let gauges: &Gauges = self.board.gauges(shard);
        // A shard knows its sizes without looking anything up.
        let Step::Ready(ShardReply::Sizes(sizes)) = host.shard.handle(&ShardRequest::Sizes) else {
            unreachable!("sizes are always at hand")
        };
        gauges.set_sizes(sizes);
        gauges.set_dirty(host.shard.dirty());
        if gauges.set_upkeep(host.upkeep.is_passing(), host.upkeep.is_collecting()) {
            self.upkeep_news.set(true);
        }
        let is_behind = host.shard.is_behind();
        if gauges.set_behind(is_behind) && !is_behind {
            self.caught_up.set(true);
            self.replied.raise();
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
                if read.loaded.contains(&need) {
                    host.favour(Waiter::Read(ticket), &need);
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
                && !host.leaving
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
                let mut host = shards.busy_host(shard);
                return shards.loaded(shard, &mut host, need, None);
            }
            // What was refused once is read from the disk itself: the kernel may have kept what was wrong.
            let passing = read.passing.filter(|_| !shards.is_suspect(shard, &need));
            let bytes = match passing {
                Some(wanted) => shards.disk.read_passing(&read, wanted).await,
                None => {
                    let bytes = shards.disk.read(&read.file, read.offset, read.len).await;
                    bytes.map(Bytes::from)
                }
            };
            let mut host = shards.busy_host(shard);
            let loaded = bytes.map(|bytes| match passing {
                Some(_) => host.shard.load_passing(&need, bytes),
                None => host.shard.load(&need, Some(bytes)),
            });
            let damage = match loaded {
                Ok(loaded) => loaded.err().map(|error| host.shard.damage(&error)),
                Err(failure) => Some(Damage {
                    file: read.file.path(),
                    offset: read.offset,
                    what: format!("reading {} bytes failed: {failure}", read.len),
                }),
            };
            shards.loaded(shard, &mut host, need, damage.as_ref());
        }));
    }

    /// Whether somebody who waits for `need` has met damage there.
    fn is_suspect(&self, shard: u16, need: &Need) -> bool {
        let host = self.busy_host(shard);
        let mut waiters = host.loads.get(need).into_iter().flatten();
        waiters.any(|waiter| host.is_damaged_again(*waiter, *need))
    }

    /// Test mode: whether `need` was for a record in memory; the shard then has it again.
    fn was_declared_missing(&self, shard: u16, need: &Need) -> bool {
        self.declares_missing.get()
            && matches!(need, Need::Bytes { .. })
            && self.busy_host(shard).shard.load(need, None).is_ok()
    }

    fn loaded(self: &Rc<Self>, shard: u16, host: &mut Host, need: Need, damage: Option<&Damage>) {
        if damage.is_some() {
            host.ahead.clear();
        }
        for waiter in host.loads.remove(&need).unwrap_or_default() {
            let lost = damage.filter(|_| host.is_damaged_again(waiter, need));
            match (waiter, lost) {
                (Waiter::Change, Some(damage)) => self.change_is_damaged(host, damage),
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
        self.go_on_ahead(shard, host);
        self.stir(host);
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

    /// Lets `shard` do and emit a slice of its background I/O, if it is here; whether there may be more.
    pub fn poll(&self, shard: u16, requests: &mut Vec<IoRequest>) -> bool {
        let goes_on = {
            let Some(mut host) = self.host(shard) else {
                return false;
            };
            if host.leaving {
                return false;
            }
            let goes_on = host.shard.poll(requests);
            self.gauge(shard, &mut host);
            goes_on
        };
        let emitted = !requests.is_empty();
        self.disk.submit(requests);
        emitted || goes_on
    }

    /// How often no file could be created for lack of descriptors since the last call.
    pub fn take_lacked_descriptors(&self) -> u64 {
        self.disk.take_lacked_descriptors()
    }

    /// The next completion of the disk.
    pub fn next_completion(&self) -> Option<(IoId, IoResult)> {
        self.disk.next_completion()
    }

    /// Takes the result of a request that a shard emitted.
    pub fn complete(&self, shard: u16, id: IoId, result: IoResult) {
        {
            let mut host = self.busy_host(shard);
            host.shard.complete(id, result);
            self.gauge(shard, &mut host);
            self.wake_blocked_upkeep(&mut host);
            self.stir(&host);
        }
        self.background.raise();
        if self.held_back.get() {
            self.replied.raise();
        }
    }

    /// Changes wait, or do not, because one shard's outrun its disk.
    pub fn note_held_back(&self, behind: bool) {
        self.held_back.set(behind);
        if behind {
            self.background.raise();
        }
    }

    /// Whether a shard's changes have stopped outrunning the disk since the last call.
    pub fn take_caught_up(&self) -> bool {
        self.caught_up.take()
    }

    /// What `shard` reports, if it is here.
    pub fn next_event(&self, shard: u16) -> Option<ShardEvent> {
        self.host(shard)?.shard.next_event()
    }

    /// The superblock names the images of checkpoint `id`: what only older ones need may go.
    pub fn published(&self, id: u32) {
        self.for_each(|shard, host| {
            host.shard.published(id);
            self.gauge(shard, host);
        });
        self.background.raise();
    }

    /// There may be room on the device again.
    pub fn retry_space(&self) {
        self.for_each(|_, host| host.shard.retry_space());
        self.background.raise();
    }

    fn for_each(&self, mut each: impl FnMut(u16, &mut Host)) {
        for shard in 0..self.count() {
            if let Some(mut host) = self.host(shard) {
                each(shard, &mut host);
            }
        }
    }
}

impl Host {
    fn new(shard: Shard, upkeep: Upkeep) -> Host {
        Host {
            shard,
            changes: VecDeque::new(),
            change_waits: false,
            change_suspects: None,
            change_loaded: None,
            reads: BTreeMap::new(),
            last_ticket: 0,
            loads: BTreeMap::new(),
            queue: VecDeque::new(),
            ahead: KeysAhead::default(),
            favoured: None,
            upkeep,
            scrub: Scrub::default(),
            leaving: false,
        }
    }

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

    /// `need` was loaded for `waiter`, and is gone again: the caches are too small for all who read now, or for
    /// `waiter` alone. So it is favoured, if nobody is, and what it needs once more stays.
    fn favour(&mut self, waiter: Waiter, need: &Need) {
        if *self.favoured.get_or_insert(waiter) == waiter {
            self.shard.hold(need);
        }
    }

    /// `waiter` is through; answers whether it was favoured.
    fn unfavour(&mut self, waiter: Waiter) -> bool {
        let was = self.favoured == Some(waiter);
        if was {
            self.favoured = None;
            self.shard.release_held();
        }
        was
    }

    fn end_read(&mut self, ticket: u64) -> Option<WaitingRead> {
        self.unfavour(Waiter::Read(ticket));
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
