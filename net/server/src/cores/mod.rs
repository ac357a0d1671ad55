//! The cores of a member and what they have in common.
//!
//! Core 0 is *home*: sequencer, consensus, log, coordinator, leases and checkpoints live there. Every core
//! serves connections, watches and reads, and hosts the shards that were given to it. Cores exchange
//! messages over [`link`]s; besides, they share the [`Board`]: words that one core writes and all may read.
//!
//! A member has a [`Seat`] per core, made all at once by [`seats`] and taken to its thread by each core.
//!
//! Invariants of the board:
//! - home stores what is visible *before* any answer or wake that tells of it leaves home;
//! - the words of a shard are written by the core that it lives on, and by nobody while it travels;
//! - a shard's owner changes after the new one can answer for it.

pub mod call;
pub mod link;
pub mod placement;
#[cfg(test)]
mod tests;

use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU8, AtomicU16, AtomicU64, AtomicUsize, Ordering, fence,
};
use std::sync::{Arc, OnceLock};

use engine::coordinator::Applied;
use engine::image::Dirty;
use engine::shard::SHARDS_MAX;
use engine::store::Sizes;

use crate::metrics::Metrics;
use crate::node::{Failure, State};
use call::{Call, Response};
use link::{CalleeEnd, CallerEnd, link};

/// Most cores of a member: no more than there can be shards.
pub const CORES_MAX: u16 = SHARDS_MAX;
/// Calls under way on each link unless somebody asks for another number.
pub const LINK_CAPACITY: usize = 1024;
/// The core where the sequencer is.
pub const HOME: u16 = 0;

/// One core's ends of all links, and the board.
pub struct Seat {
    pub(crate) core: u16,
    /// By core; none to itself.
    pub(crate) callers: Vec<Option<CallerEnd<Call, Response>>>,
    pub(crate) callees: Vec<Option<CalleeEnd<Call, Response>>>,
    /// For what home may let wait; none at home.
    pub(crate) patient: Option<CallerEnd<Call, Response>>,
    /// Those of all other cores; only at home.
    pub(crate) patients: Vec<CalleeEnd<Call, Response>>,
    pub(crate) board: Arc<Board>,
}

impl Seat {
    /// Which core it is for; 0 is home.
    pub fn core(&self) -> u16 {
        self.core
    }
}

/// Seats for `cores` cores, whose links carry up to `capacity` calls at a time.
///
/// # Panics
/// If there is no core, there are more than [`CORES_MAX`], or the capacity is 0.
pub fn seats(cores: u16, capacity: usize) -> Vec<Seat> {
    assert!((1..=CORES_MAX).contains(&cores), "{cores} cores");
    let board = Arc::new(Board::new(cores));
    let ends = || (0..cores).map(|_| None).collect();
    let mut seats: Vec<Seat> = (0..cores)
        .map(|core| Seat {
            core,
            callers: ends(),
            callees: (0..cores).map(|_| None).collect(),
            patient: None,
            patients: Vec::new(),
            board: board.clone(),
        })
        .collect();
    for from in 1..usize::from(cores) {
        let (caller, callee) = link(capacity);
        seats[from].patient = Some(caller);
        seats[usize::from(HOME)].patients.push(callee);
    }
    for from in 0..usize::from(cores) {
        for to in (0..usize::from(cores)).filter(|to| *to != from) {
            let (caller, callee) = link(capacity);
            seats[from].callers[to] = Some(caller);
            seats[to].callees[from] = Some(callee);
        }
    }
    seats
}

/// What all cores of a member may read at any time.
pub struct Board {
    /// What is visible, written by home.
    pub visible: Visible,
    /// By shard.
    owners: [AtomicU16; SHARDS_MAX as usize],
    gauges: [Gauges; SHARDS_MAX as usize],
    cores: Vec<CoreGauges>,
    /// What the cores count.
    pub metrics: Metrics,
}

impl Board {
    fn new(cores: u16) -> Board {
        Board {
            visible: Visible::default(),
            owners: std::array::from_fn(|_| AtomicU16::new(HOME)),
            gauges: std::array::from_fn(|_| Gauges::default()),
            cores: (0..cores).map(|_| CoreGauges::default()).collect(),
            metrics: Metrics::new(cores),
        }
    }

    /// How many cores there are.
    pub fn cores(&self) -> u16 {
        self.cores.len() as u16
    }

    /// Where `shard` lives, or lived a moment ago.
    pub fn owner(&self, shard: u16) -> u16 {
        self.owners[usize::from(shard)].load(Ordering::Acquire)
    }

    /// `shard` can be asked on `core` from now on.
    pub fn set_owner(&self, shard: u16, core: u16) {
        self.owners[usize::from(shard)].store(core, Ordering::Release);
    }

    /// Whether one of the first `shards` shards lives on `core`.
    pub fn has_shards(&self, core: u16, shards: u16) -> bool {
        (0..shards).any(|shard| self.owner(shard) == core)
    }

    /// The words of a shard.
    pub fn gauges(&self, shard: u16) -> &Gauges {
        &self.gauges[usize::from(shard)]
    }

    /// The words of a core.
    pub fn core(&self, core: u16) -> &CoreGauges {
        &self.cores[usize::from(core)]
    }

    /// Sizes of the first `shards` shards together.
    pub fn sizes(&self, shards: u16) -> Sizes {
        let mut total = Sizes::default();
        for gauges in &self.gauges[..usize::from(shards)] {
            let sizes = gauges.sizes();
            total.bytes += sizes.bytes;
            total.bytes_in_use += sizes.bytes_in_use;
            total.keys += sizes.keys;
        }
        total
    }

    /// How much of its page cache only a checkpoint can free, in that of the first `shards` shards that has least
    /// left. Each has a cache of its own, and one that is full keeps the changes of all waiting.
    pub fn fullest(&self, shards: u16) -> Dirty {
        let dirty = self.gauges[..usize::from(shards)].iter().map(Gauges::dirty);
        let share = |dirty: &Dirty| dirty.dirty_bytes * 1024 / dirty.cache_bytes.max(1);
        dirty.max_by_key(share).unwrap_or_default()
    }

    /// How much of the page caches of the first `shards` shards only a checkpoint can free.
    pub fn dirty(&self, shards: u16) -> Dirty {
        let mut total = Dirty::default();
        for gauges in &self.gauges[..usize::from(shards)] {
            let dirty = gauges.dirty();
            total.dirty_bytes += dirty.dirty_bytes;
            total.cache_bytes += dirty.cache_bytes;
        }
        total
    }

    /// Whether changes of one of the first `shards` shards outrun its disk.
    pub fn is_behind(&self, shards: u16) -> bool {
        let gauges = &self.gauges[..usize::from(shards)];
        gauges
            .iter()
            .any(|gauges| gauges.is_behind.load(Ordering::Relaxed))
    }

    /// Whether the passes of all compactions are through, in the first `shards` shards.
    pub fn passes_are_done(&self, shards: u16) -> bool {
        let gauges = &self.gauges[..usize::from(shards)];
        !gauges
            .iter()
            .any(|gauges| gauges.pass_is_due.load(Ordering::Relaxed))
    }

    /// Whether event segments of one of the first `shards` shards are being emptied.
    pub fn is_collecting(&self, shards: u16) -> bool {
        let gauges = &self.gauges[..usize::from(shards)];
        gauges
            .iter()
            .any(|gauges| gauges.is_collecting.load(Ordering::Relaxed))
    }
}

/// What is visible to clients, and how the member is. Home writes it.
#[derive(Default)]
pub struct Visible {
    index: AtomicU64,
    revision: AtomicI64,
    compact_revision: AtomicI64,
    apply_hash: AtomicU64,
    raft_term: AtomicU64,
    has_leader: AtomicBool,
    state: AtomicU8,
    is_short_of_space: AtomicBool,
    is_draining: AtomicBool,
    failure: OnceLock<Failure>,
}

impl Visible {
    /// Store revision: what a header says, and what reads of the newest state name.
    pub fn revision(&self) -> i64 {
        self.revision.load(Ordering::Acquire)
    }

    /// Both parts of what is applied. Of two publications close to each other it may have the index of the
    /// later and the revision of the earlier one.
    pub fn applied(&self) -> Applied {
        let revision = self.revision();
        let index = self.index.load(Ordering::Relaxed);
        Applied { index, revision }
    }

    /// Chain over the effects of what is applied.
    pub fn apply_hash(&self) -> u64 {
        self.apply_hash.load(Ordering::Relaxed)
    }

    /// Reads below are refused; as the coordinator's.
    pub fn compact_revision(&self) -> i64 {
        self.compact_revision.load(Ordering::Acquire)
    }

    /// Term of consensus.
    pub fn raft_term(&self) -> u64 {
        self.raft_term.load(Ordering::Relaxed)
    }

    /// Whether a leader is known.
    pub fn has_leader(&self) -> bool {
        self.has_leader.load(Ordering::Relaxed)
    }

    /// Where the member is in its life.
    pub fn state(&self) -> State {
        State::from_number(self.state.load(Ordering::Acquire))
    }

    /// What ended the member.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.get()
    }

    /// Whether room has to be made.
    pub fn is_short_of_space(&self) -> bool {
        self.is_short_of_space.load(Ordering::Relaxed)
    }

    /// Whether connections are to end.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    pub(crate) fn begin_draining(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn publish(&self, applied: Applied, apply_hash: u64) {
        self.index.store(applied.index, Ordering::Relaxed);
        self.apply_hash.store(apply_hash, Ordering::Relaxed);
        // Whoever sees the revision sees the rest.
        self.revision.store(applied.revision, Ordering::Release);
    }

    pub(crate) fn set_compact_revision(&self, revision: i64) {
        self.compact_revision.store(revision, Ordering::Release);
    }

    pub(crate) fn set_role(&self, raft_term: u64, has_leader: bool) {
        self.raft_term.store(raft_term, Ordering::Relaxed);
        self.has_leader.store(has_leader, Ordering::Relaxed);
    }

    pub(crate) fn set_state(&self, state: State) {
        self.state.store(state as u8, Ordering::Release);
    }

    pub(crate) fn set_short_of_space(&self, is_short: bool) {
        self.is_short_of_space.store(is_short, Ordering::Relaxed);
    }

    /// Keeps the first failure.
    pub(crate) fn set_failure(&self, failure: Failure) {
        self.failure.get_or_init(|| failure);
    }
}

/// Figures of one shard, as of its last piece of work.
#[derive(Default)]
pub struct Gauges {
    bytes: AtomicU64,
    bytes_in_use: AtomicU64,
    keys: AtomicU64,
    dirty_bytes: AtomicU64,
    cache_bytes: AtomicU64,
    is_behind: AtomicBool,
    pass_is_due: AtomicBool,
    is_collecting: AtomicBool,
}

impl Gauges {
    pub(crate) fn set_sizes(&self, sizes: Sizes) {
        self.bytes.store(sizes.bytes, Ordering::Relaxed);
        self.bytes_in_use
            .store(sizes.bytes_in_use, Ordering::Relaxed);
        self.keys.store(sizes.keys, Ordering::Relaxed);
    }

    /// Sizes of the shard.
    pub(crate) fn sizes(&self) -> Sizes {
        Sizes {
            bytes: self.bytes.load(Ordering::Relaxed),
            bytes_in_use: self.bytes_in_use.load(Ordering::Relaxed),
            keys: self.keys.load(Ordering::Relaxed),
        }
    }

    /// How much of its page cache only a checkpoint can free.
    pub(crate) fn dirty(&self) -> Dirty {
        Dirty {
            dirty_bytes: self.dirty_bytes.load(Ordering::Relaxed),
            cache_bytes: self.cache_bytes.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn set_dirty(&self, dirty: Dirty) {
        self.dirty_bytes.store(dirty.dirty_bytes, Ordering::Relaxed);
        self.cache_bytes.store(dirty.cache_bytes, Ordering::Relaxed);
    }

    /// Answers what it was.
    pub(crate) fn set_behind(&self, is_behind: bool) -> bool {
        let was = self.is_behind.load(Ordering::Relaxed);
        if was != is_behind {
            self.is_behind.store(is_behind, Ordering::Relaxed);
        }
        was
    }

    /// Answers whether something is new.
    pub(crate) fn set_upkeep(&self, pass_is_due: bool, is_collecting: bool) -> bool {
        let before = (
            self.pass_is_due.load(Ordering::Relaxed),
            self.is_collecting.load(Ordering::Relaxed),
        );
        self.pass_is_due.store(pass_is_due, Ordering::Relaxed);
        self.is_collecting.store(is_collecting, Ordering::Relaxed);
        before != (pass_is_due, is_collecting)
    }
}

/// Figures of one core.
#[derive(Default)]
pub struct CoreGauges {
    has_streams: AtomicBool,
    connections: AtomicUsize,
    busy_nanos: AtomicU64,
}

impl CoreGauges {
    /// Notes whether watch streams are open. After `true`, either the core sees a revision that home
    /// publishes, or home sees the streams.
    pub(crate) fn set_has_streams(&self, has_streams: bool) {
        self.has_streams.store(has_streams, Ordering::Relaxed);
        // Pairs with the fence in `has_streams`.
        fence(Ordering::SeqCst);
    }

    /// Whether watch streams are open, for home to ask after it has published.
    pub(crate) fn has_streams(&self) -> bool {
        self.has_streams.load(Ordering::Relaxed)
    }

    /// Connections that the core serves or is about to.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn connection_comes(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn connection_goes(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Time that the core has not slept.
    pub(crate) fn busy_nanos(&self) -> u64 {
        self.busy_nanos.load(Ordering::Relaxed)
    }

    pub(crate) fn set_busy_nanos(&self, nanos: u64) {
        self.busy_nanos.store(nanos, Ordering::Relaxed);
    }
}

/// Between publishing and asking who watches; see [`CoreGauges::set_has_streams`].
pub(crate) fn publication_fence() {
    fence(Ordering::SeqCst);
}
