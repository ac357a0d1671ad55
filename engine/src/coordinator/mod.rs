//! Turns committed entries into waves of work for the shards.
//!
//! Owns, on the sequencer: the revision, the compact revision, the lease table, alarms, members, the
//! cluster version and the apply hash. It knows neither keys nor values beyond the requests in hand
//! and asks for no clock: what it does is a function of the entries alone.
//!
//! ```text
//! entry → wave: evaluate (read-only, in parallel) → number (prefix sum) → apply → … → Published
//! ```
//!
//! A wave holds requests of one entry whose keys lie in one shard each. A wave without requests to
//! evaluate goes straight to apply; one for a single shard is evaluated, numbered and applied there
//! in one message, one request after the other. A wave over several shards is cut before a request
//! that must be evaluated and touches a key that an earlier one of the wave writes, or that reads at
//! a revision of the wave itself. Requests over several shards run alone: gather, decide, scatter.
//!
//! Invariants:
//! - At most one request per shard is under way.
//! - `applied` moves only between entries, after all shards of the entry have answered; answers and
//!   events up to it are released with it and not before.
//! - Cutting, the number of shards and the order of their answers change no outcome, no event and
//!   no apply hash.
//! - A freeze reaches every shard between the same two entries; nothing of the later one was sent
//!   before all shards have answered it.

mod ahead;
mod alone;
mod attachment;
mod freeze;
mod meta;
mod restoring;
mod wave;

use std::collections::VecDeque;

use bytes::Bytes;

use crate::command::*;
use crate::defect::Defect;
use crate::entry::{EntryError, EntryReader, EntryRequest};
use crate::lease::{LeaseChange, LeaseTable};
use crate::shard::{SHARDS_MAX, ShardReply, ShardRequest, Tally};

use alone::Alone;
pub use freeze::FrozenState;
pub use meta::Alarms;
use meta::Meta;
pub use restoring::RestoredState;
use restoring::Restoring;
use wave::{Router, Wave};

/// Settings of the coordinator.
#[derive(Clone, Copy, Debug)]
pub struct CoordinatorConfig {
    /// Shards of this data directory, a power of two up to `SHARDS_MAX`.
    pub shards: u16,
}

/// How far the state machine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last log index whose effects are visible.
    pub index: u64,
    /// The store's revision after it.
    pub revision: i64,
}

/// What the shell has to do.
#[derive(Debug)]
pub enum CoordinatorOutput {
    /// Send `request` to `shard`; bring the answer to [`Coordinator::on_reply`].
    Shard {
        /// Which.
        shard: u16,
        /// What to send.
        request: ShardRequest,
    },
    /// An entry is done: release answers and events.
    Published(Published),
    /// Every shard has fixed its image: write and publish them.
    Frozen(FrozenState),
}

/// The effects of one entry, all visible from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Position of the state machine now.
    pub applied: Applied,
    /// Requests of the entry.
    pub requests: u32,
    /// What executing the entry again costs: one for each change of a key, and one for each request that changes
    /// none.
    pub operations: u64,
    /// One per request, in the order of the entry; none if nobody waits for them.
    pub outcomes: Vec<Outcome>,
    /// First main revision that became visible; nothing did if it is above `events_to`.
    pub events_from: i64,
    /// Last main revision that became visible.
    pub events_to: i64,
    /// Leases that came and went, in order.
    pub lease_changes: Vec<LeaseChange>,
    /// The compact revision, if it moved.
    pub compacted: Option<i64>,
    /// Alarms were raised or cleared.
    pub alarms_changed: bool,
}

/// What became of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Log index of its entry.
    pub index: u64,
    /// Place in the entry.
    pub position: u32,
    /// The proposer's number for it.
    pub request_id: u64,
    /// Member that proposed it.
    pub origin_member: u64,
    /// The store's revision right after it: what its answer's header carries.
    pub revision: i64,
    /// The answer.
    pub result: Result<Reply, CommandError>,
}

/// The state machine's front: see the module.
#[derive(Debug)]
pub struct Coordinator {
    shards: u16,
    meta: Meta,
    entries: VecDeque<(u64, VecDeque<EntryRequest>)>,
    last_pushed: u64,
    outbox: VecDeque<CoordinatorOutput>,
    entry: Option<EntryRun>,
    stage: Stage,
    under_way: u16,
    applied: Applied,
    apply_hash: u64,
    router: Router,
    spare_wave: Option<Wave>,
    /// The checkpoint to freeze for before the next entry.
    freeze_wanted: Option<u32>,
    /// Nobody waits for answers to entries up to this one.
    unanswered_through: u64,
    /// What a shard did not take of a restore.
    restore_fault: Option<String>,
    defect: Defect,
}

/// The entry that is being executed.
#[derive(Debug)]
struct EntryRun {
    index: u64,
    requests: VecDeque<EntryRequest>,
    outcomes: Vec<Outcome>,
    revision_before: i64,
    compacted_before: i64,
    tally: Tally,
}

#[derive(Debug)]
enum Stage {
    Idle,
    Wave(Wave),
    Alone(Alone),
    Freezing(FrozenState),
    Restoring(Restoring),
}

impl Coordinator {
    /// The state machine before the first entry.
    pub fn new(config: CoordinatorConfig) -> Self {
        Coordinator::standing_at(config, 0, Meta::default(), 0)
    }

    /// The state machine after entry `index`.
    fn standing_at(config: CoordinatorConfig, index: u64, meta: Meta, apply_hash: u64) -> Self {
        let CoordinatorConfig { shards } = config;
        assert!(shards.is_power_of_two(), "{shards} shards");
        assert!(shards <= SHARDS_MAX, "{shards} shards");
        Coordinator {
            shards,
            entries: VecDeque::new(),
            last_pushed: index,
            outbox: VecDeque::new(),
            entry: None,
            stage: Stage::Idle,
            under_way: 0,
            applied: Applied {
                index,
                revision: meta.revision,
            },
            meta,
            apply_hash,
            router: Router::default(),
            spare_wave: None,
            freeze_wanted: None,
            unanswered_through: 0,
            restore_fault: None,
            defect: Defect::None,
        }
    }

    /// Breaks a rule on purpose.
    #[cfg(feature = "testing")]
    pub fn plant(&mut self, defect: Defect) {
        self.defect = defect;
    }

    /// Takes a committed entry; an empty one is a leader's no-op. Entries come without gaps.
    ///
    /// # Errors
    /// The entry cannot be read: the member has to stop.
    pub fn push_entry(&mut self, index: u64, data: Bytes) -> Result<(), EntryError> {
        assert!(
            self.last_pushed == 0 || index == self.last_pushed + 1,
            "entry {index} follows {}",
            self.last_pushed
        );
        let requests = if data.is_empty() {
            VecDeque::new()
        } else {
            EntryReader::new(data)?.collect::<Result<_, _>>()?
        };
        self.last_pushed = index;
        self.entries.push_back((index, requests));
        Ok(())
    }

    /// The keys that the last entry pushed names, with their shards, in its order: what they need may be
    /// loaded while the entries before it are executed. Ranges are named by their first keys, and of transactions
    /// both branches.
    pub fn for_each_key_ahead(&self, each: &mut dyn FnMut(u16, &Bytes)) {
        if let Some((_, requests)) = self.entries.back() {
            ahead::for_each_key(requests, self.shards, each);
        }
    }

    /// Entries pushed and not yet published; the caller bounds them.
    pub fn waiting(&self) -> usize {
        self.entries.len() + usize::from(self.entry.is_some())
    }

    /// The next thing to do, if any can be done before another answer comes.
    pub fn poll(&mut self) -> Option<CoordinatorOutput> {
        loop {
            if let Some(output) = self.outbox.pop_front() {
                return Some(output);
            }
            if !self.advance() {
                return None;
            }
        }
    }

    /// Takes the answer of `shard` to the last request it was sent.
    pub fn on_reply(&mut self, shard: u16, reply: ShardReply) {
        assert!(self.under_way > 0, "shard {shard} was not asked");
        self.under_way -= 1;
        match &mut self.stage {
            Stage::Wave(wave) => wave.on_reply(shard, reply),
            Stage::Alone(alone) => alone.on_reply(shard, reply),
            Stage::Freezing(_) => freeze::on_reply(shard, &reply),
            Stage::Restoring(restoring) => restoring.on_reply(shard, reply),
            Stage::Idle => unreachable!("nothing was asked"),
        }
    }

    /// Says that nobody waits for the answers to entries up to `index`: a start executes them again. They are
    /// published without outcomes, and values that only an answer needs are not read for them. Their effects
    /// are the same. Who replaces entries of its log before they are executed says a lower index then.
    pub fn skip_answers(&mut self, index: u64) {
        self.unanswered_through = index;
    }

    /// Whether nobody waits for the answers of the entry under way.
    fn is_unanswered(&self) -> bool {
        let entry = self.entry.as_ref();
        entry.is_some_and(|entry| entry.index <= self.unanswered_through)
    }

    /// How far the state machine is.
    pub fn applied(&self) -> Applied {
        self.applied
    }

    /// Reads below this are refused; −1 if nothing was compacted.
    pub fn compact_revision(&self) -> i64 {
        self.meta.compacted
    }

    /// Whether no entry is under way: leases, alarms, members and the cluster version are those after `applied`.
    pub fn is_between_entries(&self) -> bool {
        self.entry.is_none()
    }

    /// The leases there are.
    pub fn leases(&self) -> &LeaseTable {
        &self.meta.leases
    }

    /// The alarms raised.
    pub fn alarms(&self) -> &Alarms {
        &self.meta.alarms
    }

    /// Published attributes of the members, by id.
    pub fn members(&self) -> impl Iterator<Item = &MemberAttributes> {
        self.meta.members.values()
    }

    /// The cluster version, once it is set.
    pub fn cluster_version(&self) -> Option<&str> {
        self.meta.cluster_version.as_deref()
    }

    /// Chain over the effects of all entries up to `applied`: equal on all members.
    pub fn apply_hash(&self) -> u64 {
        self.apply_hash
    }

    /// Shards of this data directory.
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// Does what can be done; `false` if only an answer helps.
    fn advance(&mut self) -> bool {
        match std::mem::replace(&mut self.stage, Stage::Idle) {
            Stage::Idle => self.advance_entry(),
            Stage::Wave(wave) => self.advance_wave(wave),
            Stage::Alone(alone) => self.advance_alone(alone),
            Stage::Freezing(frozen) => self.advance_freeze(frozen),
            Stage::Restoring(restoring) => self.advance_restore(restoring),
        }
    }

    /// Between two waves: starts the next one, publishes the entry, or takes the next entry.
    fn advance_entry(&mut self) -> bool {
        match &self.entry {
            Some(entry) if entry.requests.is_empty() => self.publish(),
            Some(_) => self.start(),
            None if self.freeze_wanted.is_some() => self.start_freeze(),
            None => {
                let Some((index, requests)) = self.entries.pop_front() else {
                    return false;
                };
                self.entry = Some(EntryRun {
                    index,
                    outcomes: Vec::with_capacity(requests.len()),
                    requests,
                    revision_before: self.meta.revision,
                    compacted_before: self.meta.compacted,
                    tally: Tally::default(),
                });
            }
        }
        true
    }

    fn send(&mut self, shard: u16, request: ShardRequest) {
        self.under_way += 1;
        self.outbox
            .push_back(CoordinatorOutput::Shard { shard, request });
    }

    /// Ends the entry: its effects become visible in one step.
    fn publish(&mut self) {
        let unanswered = self.is_unanswered();
        let entry = self.entry.take().expect("an entry is under way");
        assert!(self.under_way == 0, "all shards have answered");
        self.applied = Applied {
            index: entry.index,
            revision: self.meta.revision,
        };
        self.apply_hash = self.chain(&entry);
        let (lease_changes, alarms_changed) = self.meta.take_changes();
        let moved = self.meta.compacted != entry.compacted_before;
        // Whoever changes something takes a revision.
        let changing = (self.meta.revision - entry.revision_before) as u64;
        let changeless = (entry.outcomes.len() as u64).saturating_sub(changing);
        self.outbox
            .push_back(CoordinatorOutput::Published(Published {
                applied: self.applied,
                requests: entry.outcomes.len() as u32,
                operations: entry.tally.events + changeless,
                outcomes: match unanswered {
                    true => Vec::new(),
                    false => entry.outcomes,
                },
                events_from: entry.revision_before + 1,
                events_to: self.meta.revision,
                lease_changes,
                compacted: moved.then_some(self.meta.compacted),
                alarms_changed,
            }));
    }

    /// Folds the effects of `entry` into the apply hash.
    fn chain(&self, entry: &EntryRun) -> u64 {
        let mut bytes = [0; 56];
        let fields = [
            self.apply_hash,
            entry.index,
            self.meta.revision as u64,
            self.meta.compacted as u64,
            entry.tally.events,
            entry.tally.sum,
            self.meta.effects,
        ];
        for (field, place) in fields.iter().zip(bytes.chunks_exact_mut(8)) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        xxhash_rust::xxh3::xxh3_64(&bytes)
    }
}

#[cfg(test)]
mod tests;
