//! One run of the model: a seed decides everything.

mod follow;

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use engine::auth::AuthorizedOperation;
use engine::command::*;
use engine::coordinator::Published;
use engine::entry::{EntryBuilder, RequestHead};
use engine::key::KeyRange;
use engine::lease::LeaseChange;
use engine::shard::EventsRequest;
use engine::store::{Event, MissingHook, RangeSet};
use engine::testing::{
    Defect, DiskConfig, List, Node, NodeConfig, Oracle, Random, Snapshot, Workload, authorized,
};

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) runs: u64,
    pub(crate) requests: u64,
    pub(crate) reads: u64,
    pub(crate) events: u64,
    pub(crate) replayed: u64,
    pub(crate) needs: u64,
    pub(crate) checkpoints: u64,
    pub(crate) crashes: u64,
    /// Slices of background work.
    pub(crate) slices: u64,
    pub(crate) hashes: u64,
    pub(crate) snapshots: u64,
    /// Ranges that were read in pieces to their end.
    pub(crate) lists: u64,
    /// Those of them that a compaction has made unreadable for others.
    pub(crate) lists_compacted: u64,
    /// Pages and pieces that were read back.
    pub(crate) scrubbed: u64,
    /// Events read by those who follow the history.
    pub(crate) followed: u64,
    /// Those of them that a compaction overtook.
    pub(crate) overtaken: u64,
    /// Entries replayed without answers.
    pub(crate) unanswered: u64,
    /// Runs by the number of shards: 1, 2, 4, 8, 16.
    pub(crate) shards: [u64; 5],
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Counts) {
        self.runs += other.runs;
        self.requests += other.requests;
        self.reads += other.reads;
        self.events += other.events;
        self.replayed += other.replayed;
        self.needs += other.needs;
        self.checkpoints += other.checkpoints;
        self.crashes += other.crashes;
        self.slices += other.slices;
        self.hashes += other.hashes;
        self.snapshots += other.snapshots;
        self.lists += other.lists;
        self.lists_compacted += other.lists_compacted;
        self.scrubbed += other.scrubbed;
        self.followed += other.followed;
        self.overtaken += other.overtaken;
        self.unanswered += other.unanswered;
        for (count, other) in self.shards.iter_mut().zip(other.shards) {
            *count += other;
        }
    }
}

struct Run {
    random: Random,
    workload: Workload,
    oracle: Oracle,
    node: Node,
    /// Executes the same entries in another shape, and as it likes leaves all garbage where it is.
    shadow: Node,
    /// Entries with the apply hash after each.
    entries: Vec<(Bytes, u64)>,
    counts: Counts,
    request_id: u64,
    /// Ranges that are read in pieces while entries are executed, with the answers due.
    lists: Vec<(Range, List, RangeReply, i64)>,
    /// With what it has to have.
    snapshot: Option<(Snapshot, Vec<Event>)>,
    followers: Vec<follow::Follower>,
}

/// Most of them at a time.
const LISTS_MAX: usize = 4;

/// A request's id, what it asked, and the oracle's revision and answer.
type Expected = (u64, Command, (i64, Result<Reply, CommandError>));

type Checked = Result<(), String>;

fn equal<T: PartialEq + Debug>(what: &str, found: &T, expected: &T) -> Checked {
    if found == expected {
        return Ok(());
    }
    Err(format!(
        "{what} differs\n   engine: {found:?}\n   oracle: {expected:?}"
    ))
}

fn config(random: &mut Random, defect: Defect) -> NodeConfig {
    let one_in = [4, 20, 200][random.index(3)];
    NodeConfig {
        shards: 1 << random.below(5),
        seed: random.bits(),
        missing: (!random.one_in(4)).then(|| MissingHook {
            seed: random.bits(),
            one_in,
            rearm_after: 2000,
        }),
        defect,
    }
}

/// Three of four nodes have a disk, with room for next to nothing in memory.
fn node(random: &mut Random, defect: Defect) -> Node {
    let config = config(random, defect);
    if random.one_in(4) {
        return Node::new(config);
    }
    let disk = DiskConfig {
        checkpoint_every: 1 + random.below(20),
        page_cache_bytes: random.below(30) << 14,
        tail_bytes_max: random.below(20_000),
        value_cache_bytes: 1 << random.below(22),
        piece_bytes: 4096 << random.below(3),
    };
    Node::with_disk(config, disk)
}

/// A node in memory; half of them never drop anything.
fn shadow(random: &mut Random, defect: Defect) -> Node {
    let mut node = Node::new(NodeConfig {
        missing: None,
        ..config(random, defect)
    });
    if random.one_in(2) {
        node.stop_maintenance();
    }
    node
}

/// Runs one seed; an error says what differed.
pub(crate) fn run(seed: u64, defect: Defect) -> Result<Counts, String> {
    let mut random = Random::new(seed);
    let keys = [3, 8, 20, 60][random.index(4)];
    let mut run = Run {
        workload: Workload::new(random.bits(), keys),
        oracle: Oracle::new(),
        node: node(&mut random, defect),
        shadow: shadow(&mut random, defect),
        entries: Vec::new(),
        counts: Counts::default(),
        request_id: 0,
        lists: Vec::new(),
        snapshot: None,
        followers: Vec::new(),
        random,
    };
    let entries = 40 + run.random.below(120);
    for _ in 0..entries {
        run.entry()?;
        if run.random.one_in(3) {
            run.hash()?;
        }
        for _ in 0..run.random.below(6) {
            run.read()?;
        }
        run.lists()?;
        run.snapshot()?;
        run.follow()?;
        if run.random.one_in(90) {
            run.restart(defect)?;
        }
        if run.random.one_in(30) {
            run.crash()?;
        }
    }
    run.whole_history()?;
    run.node.maintain_all();
    run.node.check();
    run.end_lists()?;
    run.node.maintain_all();
    run.node.check();
    run.whole_history()?;
    run.hash()?;
    run.restart(defect)?;
    run.hash()?;
    run.node.check();
    run.scrub()?;
    run.leave();
    run.counts.runs = 1;
    run.counts.shards[run.node.coordinator().shards().trailing_zeros() as usize] = 1;
    Ok(run.counts)
}

impl Run {
    /// Draws an entry, executes it on both sides and compares.
    fn entry(&mut self) -> Checked {
        let most = [1, 1, 4, 20, 70][self.random.index(5)];
        let is_no_op = self.random.one_in(40);
        let count = if is_no_op {
            0
        } else {
            1 + self.random.below(most)
        };
        let mut builder = EntryBuilder::new();
        let mut expected = Vec::new();
        for _ in 0..count {
            let command = self.workload.command(&self.oracle);
            self.request_id += 1;
            let head = RequestHead {
                request_id: self.request_id,
                origin_member: 5,
            };
            let operation = authorized(Operation::Write(command.clone()));
            let AuthorizedOperation::Write(authorized) = operation else {
                return Err("a write stays a write".into());
            };
            builder.push(head, &authorized);
            let answer = self.oracle.apply(&command);
            expected.push((self.request_id, command, answer));
        }
        self.counts.requests += count;
        let entry = if is_no_op {
            Bytes::new()
        } else {
            builder.finish()
        };
        let from = self.node.coordinator().applied().revision;
        let leases_before: Vec<_> = self.node.coordinator().leases().iter().collect();
        let published = self.execute(&entry)?;
        self.compare(&published, from, &expected)?;
        self.compare_state(&published, leases_before)?;
        self.visible(&published)?;
        let shadowed = self.shadow.apply(entry.clone());
        shadowed.map_err(|error| error.to_string())?;
        let hash = self.node.coordinator().apply_hash();
        let shadow = self.shadow.coordinator().apply_hash();
        equal("apply hash of another shape", &shadow, &hash)?;
        self.entries.push((entry, hash));
        Ok(())
    }

    /// Executes an entry; meanwhile the published state stays readable and does not move.
    fn execute(&mut self, entry: &Bytes) -> Result<Published, String> {
        let before = self.node.coordinator().applied();
        let pushed = self.node.push(entry.clone());
        pushed.map_err(|error| error.to_string())?;
        loop {
            if let Some(published) = self.node.turn() {
                return Ok(published);
            }
            equal("applied", &self.node.coordinator().applied(), &before)?;
            let readable = self.oracle.compact_revision() <= before.revision;
            if readable && self.random.one_in(12) {
                self.read_while_busy(before.revision)?;
            }
        }
    }

    fn compare(&mut self, published: &Published, from: i64, expected: &[Expected]) -> Checked {
        let index = self.entries.len() as u64 + 1;
        equal("applied index", &published.applied.index, &index)?;
        equal("outcomes", &published.outcomes.len(), &expected.len())?;
        for (position, (outcome, (id, command, answer))) in
            published.outcomes.iter().zip(expected).enumerate()
        {
            let found = (outcome.revision, outcome.result.clone());
            if found != *answer {
                let what = format!("outcome {position} of entry {index}, {command:?},");
                return equal(&what, &found, answer);
            }
            equal("request id", &outcome.request_id, id)?;
            equal("position", &(outcome.position as usize), &position)?;
            equal("index", &outcome.index, &index)?;
        }
        let revision = self.oracle.revision();
        equal("applied revision", &published.applied.revision, &revision)?;
        equal("events from", &published.events_from, &(from + 1))?;
        equal("events to", &published.events_to, &revision)
    }

    fn compare_state(&self, published: &Published, leases_before: Vec<(LeaseId, i64)>) -> Checked {
        let coordinator = self.node.coordinator();
        let oracle = &self.oracle;
        let compacted = coordinator.compact_revision();
        equal("compacted", &compacted, &oracle.compact_revision())?;
        if let Some(revision) = published.compacted {
            equal("published compaction", &revision, &compacted)?;
        }
        let leases: Vec<_> = coordinator.leases().iter().collect();
        equal("leases", &leases, &oracle.leases())?;
        let mut followed: std::collections::BTreeMap<_, _> = leases_before.into_iter().collect();
        for change in &published.lease_changes {
            match change {
                LeaseChange::Granted { id, ttl } => followed.insert(*id, *ttl),
                LeaseChange::Revoked { id } => followed.remove(id),
            };
        }
        let followed: Vec<_> = followed.into_iter().collect();
        equal("leases by their changes", &followed, &oracle.leases())?;
        let alarms: Vec<_> = coordinator.alarms().iter().collect();
        equal("alarms", &alarms, &oracle.alarms())?;
        let members: Vec<_> = coordinator.members().cloned().collect();
        equal("members", &members, &oracle.members())?;
        let version = coordinator.cluster_version();
        equal("cluster version", &version, &oracle.cluster_version())
    }

    /// The events that an entry made visible.
    fn visible(&mut self, published: &Published) -> Checked {
        let (from, to) = (published.events_from, published.events_to);
        if from <= to && from >= self.oracle.compact_revision() {
            self.history(from, to)?;
        }
        Ok(())
    }

    /// The hash of some readable revision, of two nodes that have little in common.
    fn hash(&mut self) -> Checked {
        self.counts.hashes += 1;
        let compacted = self.oracle.compact_revision();
        let newest = self.oracle.revision();
        let at = match self.random.below(3) {
            0 => newest,
            1 => self.random.between(compacted.max(1), newest),
            _ => compacted.max(1),
        };
        let (found, expected) = (self.node.hash(at), self.shadow.hash(at));
        equal("hash", &found, &expected)
            .map_err(|difference| format!("{difference}\n   at {at}, compacted {compacted}"))?;
        if compacted > 1 {
            let below = self.node.hash(compacted - 1);
            equal("hash below", &below, &Err(CommandError::Compacted))?;
            let history = self.node.events(EventsRequest {
                from: compacted - 1,
                to: newest,
                ranges: None,
                prev_kv: false,
                bytes_max: 1,
                pin: None,
            });
            let refused = history.map(|chunk| chunk.next);
            equal("history below", &refused, &Err(CommandError::Compacted))?;
        }
        Ok(())
    }

    fn scrub(&mut self) -> Checked {
        let scrubbed = self.node.scrub().map_err(|damage| damage.to_string())?;
        self.counts.scrubbed += scrubbed;
        Ok(())
    }

    /// Goes on with a snapshot, whose expectation is what there was when it began.
    fn snapshot(&mut self) -> Checked {
        if self.snapshot.is_none() && self.random.one_in(25) {
            // Mostly with less memory than it has places.
            let places_max = [3, 50, 1 << 20][self.random.index(3)];
            let begun = self.node.begin_snapshot(places_max);
            self.snapshot = Some((begun, self.oracle.snapshot()));
        }
        for _ in 0..self.random.below(12) {
            self.go_on_with_snapshot()?;
        }
        Ok(())
    }

    fn go_on_with_snapshot(&mut self) -> Checked {
        let Some((snapshot, _)) = &mut self.snapshot else {
            return Ok(());
        };
        let Some((measure, found)) = self.node.go_on_with_snapshot(snapshot) else {
            return Ok(());
        };
        let Some((_, expected)) = self.snapshot.take() else {
            return Ok(());
        };
        self.counts.snapshots += 1;
        if found.len() != expected.len() {
            return equal("snapshot", &found, &expected);
        }
        for (found, expected) in found.iter().zip(&expected) {
            equal("event of a snapshot", found, expected)?;
        }
        let bytes = |event: &Event| (event.kv.key.len() + event.kv.value.len()) as u64;
        let bytes: u64 = found.iter().map(bytes).sum();
        match (found.len() as u64) <= measure.records && bytes <= measure.bytes {
            true => Ok(()),
            false => Err(format!(
                "{} records, {bytes} bytes: {measure:?}",
                found.len()
            )),
        }
    }

    fn whole_history(&mut self) -> Checked {
        let from = self.oracle.compact_revision().max(1);
        self.history(from, self.oracle.revision())
    }

    /// Reads `from..=to` in chunks and compares.
    fn history(&mut self, from: i64, to: i64) -> Checked {
        let ranges: Option<Vec<KeyRange>> = self
            .random
            .one_in(2)
            .then(|| (0..2).map(|_| self.workload.keys()).collect());
        let prev_kv = self.random.one_in(2);
        let bytes_max = [1, 200, 1 << 20][self.random.index(3)];
        let set = ranges.clone().map(|ranges| Arc::new(RangeSet::new(ranges)));
        let mut found = Vec::new();
        let mut next = from;
        while next <= to {
            let chunk = self.node.events(EventsRequest {
                from: next,
                to,
                ranges: set.clone(),
                prev_kv,
                bytes_max,
                pin: None,
            });
            let chunk = chunk.map_err(|error| format!("history from {next}: {error:?}"))?;
            if chunk.next <= next {
                return Err(format!("history stands still at {next}"));
            }
            next = chunk.next;
            found.extend(chunk.events);
        }
        let expected = self.oracle.events(from, to, ranges.as_deref(), prev_kv);
        self.counts.events += expected.len() as u64;
        if found.len() != expected.len() {
            return equal("history", &found, &expected);
        }
        for (found, expected) in found.iter().zip(&expected) {
            equal("event", found, expected)?;
        }
        Ok(())
    }

    fn read(&mut self) -> Checked {
        self.counts.reads += 1;
        match self.random.below(10) {
            0 => {
                let lease = self.workload.lease();
                let found = self.node.lease_keys(lease);
                equal("lease keys", &found, &self.oracle.keys_of_lease(lease))
            }
            1 => {
                let txn = self.workload.read_txn(&self.oracle);
                let operation = authorized(Operation::ReadTxn(txn.clone()));
                let AuthorizedOperation::ReadTxn(authorized) = operation else {
                    return Err("a read stays a read".into());
                };
                let found = self.node.read_txn(&authorized);
                let expected = self.oracle.read_txn(&txn);
                equal("transaction", &found, &expected)
                    .map_err(|difference| format!("{difference}\n   {txn:?}"))
            }
            2 => {
                let first = self.oracle.compact_revision().max(1);
                let from = self.random.between(first, self.oracle.revision());
                let to = self.random.between(from, self.oracle.revision());
                self.history(from, to.min(from + 30))
            }
            _ => {
                let range = self.workload.range(&self.oracle);
                let operation = authorized(Operation::Range(range.clone()));
                let AuthorizedOperation::Range(authorized) = operation else {
                    return Err("a range stays a range".into());
                };
                let found = self.node.range(&authorized);
                let expected = self.oracle.range(&range);
                equal("range", &found, &expected)
                    .map_err(|difference| format!("{difference}\n   {range:?}"))
            }
        }
    }

    /// Begins to read a range in pieces, goes on with others, or lets go of one.
    fn lists(&mut self) -> Checked {
        if self.lists.len() < LISTS_MAX && self.random.one_in(3) {
            self.begin_list()?;
        }
        if !self.lists.is_empty() && self.random.one_in(20) {
            let chosen = self.random.index(self.lists.len());
            let (_, list, ..) = self.lists.swap_remove(chosen);
            self.node.leave_list(list);
        }
        for _ in 0..self.random.below(8) {
            if self.lists.is_empty() {
                return Ok(());
            }
            let chosen = self.random.index(self.lists.len());
            self.go_on_with(chosen)?;
        }
        Ok(())
    }

    fn begin_list(&mut self) -> Checked {
        let range = self.workload.range(&self.oracle);
        let operation = authorized(Operation::Range(range.clone()));
        let AuthorizedOperation::Range(authorized) = operation else {
            return Err("a range stays a range".into());
        };
        let expected = self.oracle.range(&range);
        match (self.node.list(authorized), expected) {
            (Ok(None), _) => Ok(()),
            (Ok(Some(list)), Ok(expected)) => {
                let at = match range.revision {
                    revision if revision > 0 => revision,
                    _ => self.oracle.revision(),
                };
                self.lists.push((range, list, expected, at));
                Ok(())
            }
            (found, expected) => {
                let found = found.map(|_| ()).map_err(Some);
                equal("list", &found, &expected.map(|_| ()).map_err(Some))
            }
        }
    }

    fn go_on_with(&mut self, chosen: usize) -> Checked {
        let (_, list, ..) = &mut self.lists[chosen];
        let Some(found) = self.node.go_on(list) else {
            return Ok(());
        };
        let (range, _, expected, at) = self.lists.swap_remove(chosen);
        self.counts.lists += 1;
        self.counts.lists_compacted += u64::from(at < self.oracle.compact_revision());
        equal("list", &found, &Ok(expected))
            .map_err(|difference| format!("{difference}\n   {range:?} at {at}"))
    }

    fn end_lists(&mut self) -> Checked {
        while self.snapshot.is_some() {
            self.go_on_with_snapshot()?;
        }
        while !self.lists.is_empty() {
            self.go_on_with(0)?;
        }
        Ok(())
    }

    /// Reads the published state while shards are ahead of it.
    fn read_while_busy(&mut self, published: i64) -> Checked {
        self.counts.reads += 1;
        let range = Range {
            revision: published,
            ..self.workload.range(&self.oracle)
        };
        let operation = authorized(Operation::Range(range.clone()));
        let AuthorizedOperation::Range(authorized) = operation else {
            return Err("a range stays a range".into());
        };
        let found = self.node.range(&authorized);
        equal("busy range", &found, &self.oracle.range(&range))
            .map_err(|difference| format!("{difference}\n   {range:?}"))
    }

    /// Replays all entries into a node of another shape and goes on with that one.
    fn restart(&mut self, defect: Defect) -> Checked {
        let mut node = node(&mut self.random, defect);
        let unanswered = self.random.below(self.entries.len() as u64 + 1);
        node.skip_answers(unanswered);
        for (number, (entry, hash)) in self.entries.iter().enumerate() {
            let applied = node.apply(entry.clone());
            let applied = applied.map_err(|error| error.to_string())?;
            self.counts.replayed += u64::from(applied.requests);
            if (number as u64) < unanswered {
                self.counts.unanswered += 1;
                equal("answers to nobody", &applied.outcomes.len(), &0)?;
            }
            let found = node.coordinator().apply_hash();
            equal("apply hash", &found, hash)
                .map_err(|difference| format!("entry {number}: {difference}"))?;
        }
        let applied = self.node.coordinator().applied();
        equal(
            "applied after replay",
            &node.coordinator().applied(),
            &applied,
        )?;
        self.leave();
        self.lists.clear();
        self.snapshot = None;
        self.node = node;
        Ok(())
    }

    /// Counts what the node did before it goes.
    fn leave(&mut self) {
        self.counts.needs += self.node.needs();
        self.counts.checkpoints += self.node.checkpoints();
        self.counts.slices += self.node.slices();
    }

    /// The node ends between two entries or in the middle of one, and replays what it lost.
    fn crash(&mut self) -> Checked {
        self.counts.crashes += 1;
        self.lists.clear();
        self.snapshot = None;
        let applied = self.node.coordinator().applied();
        let mut next = self.node.crash() as usize;
        while let Some((entry, hash)) = self.entries.get(next) {
            if self.random.one_in(60) {
                // Half of it.
                let pushed = self.node.push(entry.clone());
                pushed.map_err(|error| error.to_string())?;
                for _ in 0..self.random.below(40) {
                    self.node.turn();
                }
                next = self.node.crash() as usize;
                continue;
            }
            let replayed = self.node.apply(entry.clone());
            let replayed = replayed.map_err(|error| error.to_string())?;
            self.counts.replayed += replayed.outcomes.len() as u64;
            let found = self.node.coordinator().apply_hash();
            equal("apply hash", &found, hash)
                .map_err(|difference| format!("entry {next} after a crash: {difference}"))?;
            next += 1;
        }
        let found = self.node.coordinator().applied();
        equal("applied after a crash", &found, &applied)
    }
}
