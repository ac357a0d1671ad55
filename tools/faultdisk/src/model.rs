//! Clients that overwrite, delete, compact and lease, and the memory of what they were told.
//!
//! Each lane has one request under way and keys of its own, so that the order of the changes of a key is
//! known. When the server dies each lane has at most one change of unknown outcome; the next life tells
//! which of them happened, and from then on they count. Every change makes one revision, so that the store's
//! revision counts them exactly.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use ringbench::http2::{Address, Completion, Connection, RequestHead};
use ringbench::message::{self, PREFIX_BYTES};
use ringbench::random::Random;

use crate::member::Member;
use crate::wire::{self, Caller, Field, Request};

const LANES: usize = 16;
const KEYS_PER_LANE: u64 = 24;
/// Keys of leases are above all others.
const LEASE_KEYS: u64 = 1 << 40;
const LEASES_PER_LANE: usize = 3;
const LEASE_SECONDS: i64 = 36_000;
/// Reads of the past after each cut.
const OLD_READS: usize = 24;
/// gRPC's code of a revision that was compacted.
const OUT_OF_RANGE: u32 = 11;

/// A key as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    value: Vec<u8>,
    created: i64,
    modified: i64,
    version: i64,
    lease: i64,
}

/// What a lane asks for.
#[derive(Clone, Debug)]
enum Change {
    Put {
        key: u64,
        value: Vec<u8>,
        lease: i64,
    },
    Delete {
        key: u64,
    },
    Compact {
        revision: i64,
    },
    Grant {
        lease: i64,
    },
    Revoke {
        lease: i64,
    },
    Hash {
        revision: i64,
    },
}

/// A sum over the store as it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hash {
    revision: i64,
    compacted: i64,
    hash: i64,
}

/// What is known of a key: its states by revision, and where the order of things is not known.
#[derive(Debug, Default)]
struct Key {
    states: Vec<(i64, Option<Version>)>,
    /// Between these revisions, the last one included, it may have been either.
    unclear: Option<(i64, i64)>,
}

impl Key {
    fn now(&self) -> Option<&Version> {
        self.states.last().and_then(|(_, state)| state.as_ref())
    }

    fn at(&self, revision: i64) -> Option<&Version> {
        let past = self.states.iter().rev();
        let mut past = past.skip_while(|(from, _)| *from > revision);
        past.next().and_then(|(_, state)| state.as_ref())
    }
}

#[derive(Debug, Default)]
struct Lane {
    waits_for: Option<Change>,
    leases: Vec<i64>,
}

/// See the module.
pub struct Model {
    random: Random,
    keys: BTreeMap<u64, Key>,
    lanes: Vec<Lane>,
    /// Changes that are known to have happened.
    changes: i64,
    revision_max: i64,
    /// The highest compaction that was answered; 0 is none.
    compacted: i64,
    hash: Option<Hash>,
    /// Hashes that were equal after a cut.
    hashes_equal: u64,
    next: u64,
}

type Outcome = io::Result<()>;

fn wrong(what: String) -> io::Error {
    io::Error::other(what)
}

impl Model {
    /// Of an empty store.
    pub fn new(seed: u64) -> Model {
        Model {
            random: Random::new(seed),
            keys: BTreeMap::new(),
            lanes: (0..LANES).map(|_| Lane::default()).collect(),
            changes: 0,
            revision_max: 1,
            compacted: 0,
            hash: None,
            hashes_equal: 0,
            next: 1,
        }
    }

    /// Changes that are known to have happened, and hashes that were found equal.
    pub fn counts(&self) -> (i64, u64) {
        (self.changes, self.hashes_equal)
    }

    /// Works until `until` says so, the connection breaks or the server refuses a change. `until` is called
    /// after each exchange.
    ///
    /// # Errors
    /// An answer that cannot be.
    pub fn work(&mut self, member: &Member, mut until: impl FnMut() -> bool) -> Outcome {
        let Ok(mut connection) = Connection::open(&Address::Tcp(member.address())) else {
            return Ok(());
        };
        let mut completions: Vec<Completion> = Vec::new();
        while !until() {
            for lane in 0..LANES {
                if self.lanes[lane].waits_for.is_none() {
                    let change = self.draw(lane);
                    let (path, message) = encode(&change);
                    connection.send(&RequestHead::new(path), &message, lane as u32);
                    self.lanes[lane].waits_for = Some(change);
                }
            }
            let alive = connection.flush().is_ok() && connection.receive(&mut completions).is_ok();
            for completion in completions.drain(..) {
                if completion.code != 0 {
                    // The server ends, or the connection has.
                    return Ok(());
                }
                let lane = completion.token as usize;
                let body = completion.body.get(PREFIX_BYTES..).unwrap_or_default();
                self.take(lane, body)?;
                connection.recycle(completion.body);
            }
            if !alive {
                return Ok(());
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }

    fn draw(&mut self, lane: usize) -> Change {
        let choice = self.random.below(100);
        let recent = self.revision_max - self.random.below(300) as i64;
        if lane == 0 && choice < 4 && recent > self.compacted {
            return Change::Compact { revision: recent };
        }
        if lane == 1 && choice < 3 && self.revision_max > self.compacted {
            let revision = self.revision_max;
            return Change::Hash { revision };
        }
        if lane < 4 && (4..8).contains(&choice) {
            let leases = &self.lanes[lane].leases;
            if leases.len() == LEASES_PER_LANE {
                return Change::Revoke { lease: leases[0] };
            }
            self.next += 1;
            let lease = (LANES as u64 * self.next + lane as u64) as i64;
            return Change::Grant { lease };
        }
        let bare = |lease: &&i64| !self.keys.contains_key(&(LEASE_KEYS + **lease as u64));
        if let Some(lease) = self.lanes[lane].leases.iter().find(bare).copied() {
            let key = LEASE_KEYS + lease as u64;
            let value = self.value();
            return Change::Put { key, value, lease };
        }
        let key = LANES as u64 * self.random.below(KEYS_PER_LANE) + lane as u64;
        let is_there = self.keys.get(&key).is_some_and(|key| key.now().is_some());
        if choice >= 85 && is_there {
            return Change::Delete { key };
        }
        let value = self.value();
        let lease = 0;
        Change::Put { key, value, lease }
    }

    /// A value that no other change has.
    fn value(&mut self) -> Vec<u8> {
        self.next += 1;
        let mut value = format!("{:012}", self.next).into_bytes();
        let len = [20, 200, 700, 700, 3000][self.random.below(5) as usize];
        let next = self.next;
        value.resize_with(len, || b'a' + (next % 26) as u8);
        value
    }

    fn take(&mut self, lane: usize, body: &[u8]) -> Outcome {
        let Some(change) = self.lanes[lane].waits_for.take() else {
            return Err(wrong(format!("lane {lane} was answered twice")));
        };
        match &change {
            Change::Compact { revision } => self.compacted = self.compacted.max(*revision),
            Change::Hash { revision } => self.hash = Some(hash_of(*revision, body)),
            _ => {
                let revision = wire::revision(body);
                self.happened(lane, &change, revision)?;
            }
        }
        Ok(())
    }

    /// Notes that a change has made `revision`.
    fn happened(&mut self, lane: usize, change: &Change, revision: i64) -> Outcome {
        let modified = match change {
            Change::Put { key, value, lease } => {
                let entry = self.keys.entry(*key).or_default();
                let before = entry.now();
                let version = Version {
                    value: value.clone(),
                    created: before.map_or(revision, |before| before.created),
                    modified: revision,
                    version: before.map_or(1, |before| before.version + 1),
                    lease: *lease,
                };
                entry.states.push((revision, Some(version)));
                Some(*key)
            }
            Change::Delete { key } => {
                let entry = self.keys.entry(*key).or_default();
                entry.states.push((revision, None));
                Some(*key)
            }
            Change::Grant { lease } => {
                self.lanes[lane].leases.push(*lease);
                None
            }
            Change::Revoke { lease } => {
                self.lanes[lane].leases.retain(|other| other != lease);
                let key = LEASE_KEYS + *lease as u64;
                match self.keys.get_mut(&key) {
                    Some(entry) if entry.now().is_some() => {
                        entry.states.push((revision, None));
                        Some(key)
                    }
                    _ => None,
                }
            }
            Change::Compact { .. } | Change::Hash { .. } => None,
        };
        if let Some(key) = modified {
            self.changes += 1;
            let states = &self.keys[&key].states;
            let former = states.len().checked_sub(2).map_or(1, |at| states[at].0);
            if revision <= former {
                return Err(wrong(format!(
                    "a change of key {key} made revision {revision}, the one before {former}"
                )));
            }
        }
        self.revision_max = self.revision_max.max(revision);
        Ok(())
    }

    /// Compares the store with what was promised, and learns which unanswered changes have happened.
    ///
    /// # Errors
    /// What is lost, or there without reason.
    pub fn verify(&mut self, member: &Member) -> Outcome {
        let mut caller = Caller::open(member.address())?;
        let leases = leases(&mut caller)?;
        let (revision, found) = all_keys(&mut caller)?;
        for lane in 0..LANES {
            if let Some(change) = self.lanes[lane].waits_for.take() {
                self.resolve(lane, &change, revision, &found, &leases)?;
            }
        }
        for (key, known) in &self.keys {
            if known.now() != found.get(key) {
                return Err(wrong(format!(
                    "ACKNOWLEDGED CHANGE LOST: key {key} was {:?}; now it is {:?}",
                    known.now(),
                    found.get(key)
                )));
            }
        }
        if let Some(key) = found.keys().find(|key| !self.keys.contains_key(key)) {
            return Err(wrong(format!("nobody put key {key}: {:?}", found[key])));
        }
        let mut granted: Vec<i64> = self
            .lanes
            .iter()
            .flat_map(|lane| lane.leases.clone())
            .collect();
        granted.sort_unstable();
        if granted != leases {
            return Err(wrong(format!("leases were {granted:?}; now {leases:?}")));
        }
        if revision != self.changes + 1 || revision < self.revision_max {
            return Err(wrong(format!(
                "{} changes have happened up to revision {}, the store is at {revision}",
                self.changes, self.revision_max
            )));
        }
        self.revision_max = revision;
        self.verify_past(&mut caller)
    }

    /// Whether a change without an answer has happened.
    fn resolve(
        &mut self,
        lane: usize,
        change: &Change,
        revision: i64,
        found: &BTreeMap<u64, Version>,
        leases: &[i64],
    ) -> Outcome {
        match change {
            Change::Put { key, value, .. } => match found.get(key) {
                Some(version) if version.value == *value => {
                    self.happened(lane, change, version.modified)
                }
                _ => Ok(()),
            },
            Change::Delete { key } if !found.contains_key(key) => {
                self.happened_at_some_time(lane, change, *key, revision)
            }
            Change::Grant { lease } if leases.contains(lease) => self.happened(lane, change, 1),
            Change::Revoke { lease } if !leases.contains(lease) => {
                let key = LEASE_KEYS + *lease as u64;
                self.happened_at_some_time(lane, change, key, revision)
            }
            // A compaction is looked at with the hash.
            _ => Ok(()),
        }
    }

    /// A deletion leaves no trace of its revision.
    fn happened_at_some_time(
        &mut self,
        lane: usize,
        change: &Change,
        key: u64,
        revision: i64,
    ) -> Outcome {
        let entry = self.keys.entry(key).or_default();
        let former = entry.states.last().map_or(1, |(former, _)| *former);
        entry.unclear = Some((former, revision));
        self.happened(lane, change, revision)
    }

    /// Reads of the past, the compaction, and the hash from before the cut.
    fn verify_past(&mut self, caller: &mut Caller) -> Outcome {
        let now = ask_hash(caller, self.revision_max)?
            .map_err(|error| wrong(format!("hash of the newest revision: {error:?}")))?;
        if now.compacted < self.compacted {
            return Err(wrong(format!(
                "compacted at {}, and now at {}",
                self.compacted, now.compacted
            )));
        }
        self.compacted = now.compacted;
        if self.compacted > 1 {
            let refused = read_at(caller, 0, self.compacted - 1)?;
            if !matches!(refused, Err((OUT_OF_RANGE, _))) {
                return Err(wrong(format!(
                    "compacted at {}, and below it {refused:?} is read",
                    self.compacted
                )));
            }
        }
        if let Some(before) = self.hash.filter(|hash| hash.compacted == now.compacted) {
            match ask_hash(caller, before.revision)? {
                Ok(hash) if hash == before => self.hashes_equal += 1,
                other => return Err(wrong(format!("the hash was {before:?}; now {other:?}"))),
            }
        }
        let numbers: Vec<u64> = self.keys.keys().copied().collect();
        for _ in 0..OLD_READS.min(numbers.len()) {
            let key = numbers[self.random.below(numbers.len() as u64) as usize];
            let least = self.compacted.max(1);
            let span = (self.revision_max - least + 1) as u64;
            let revision = least + self.random.below(span) as i64;
            let known = &self.keys[&key];
            if known
                .unclear
                .is_some_and(|(from, to)| (from..=to).contains(&revision))
            {
                continue;
            }
            let found = read_at(caller, key, revision)?;
            if found.as_ref().ok().map(Option::as_ref) != Some(known.at(revision)) {
                return Err(wrong(format!(
                    "key {key} at revision {revision} was {:?}; now {found:?}",
                    known.at(revision)
                )));
            }
        }
        Ok(())
    }
}

fn name(key: u64) -> Vec<u8> {
    format!("/model/{key:016}").into_bytes()
}

fn encode(change: &Change) -> (&'static str, Vec<u8>) {
    let mut message = Vec::new();
    match change {
        Change::Put { key, value, lease } => {
            message::put_with_lease(&name(*key), value, *lease, &mut message);
            (message::PUT, message)
        }
        Change::Delete { key } => {
            let request = Request::default().bytes(1, &name(*key));
            (wire::DELETE, request.finish())
        }
        Change::Compact { revision } => {
            let request = Request::default().number(1, *revision);
            (message::COMPACT, request.finish())
        }
        Change::Grant { lease } => {
            message::lease_grant(*lease, LEASE_SECONDS, &mut message);
            (message::LEASE_GRANT, message)
        }
        Change::Revoke { lease } => {
            let request = Request::default().number(1, *lease);
            (wire::LEASE_REVOKE, request.finish())
        }
        Change::Hash { revision } => {
            let request = Request::default().number(1, *revision);
            (wire::HASH_KV, request.finish())
        }
    }
}

fn hash_of(revision: i64, body: &[u8]) -> Hash {
    Hash {
        revision,
        hash: wire::number(body, 2),
        // -1 before the first one.
        compacted: wire::number(body, 3).max(0),
    }
}

fn ask_hash(caller: &mut Caller, revision: i64) -> io::Result<Result<Hash, (u32, String)>> {
    let request = Request::default().number(1, revision);
    let answer = caller.call(wire::HASH_KV, request)?;
    Ok(answer.map(|body| hash_of(revision, &body)))
}

fn leases(caller: &mut Caller) -> io::Result<Vec<i64>> {
    let answer = caller.call(wire::LEASES, Request::default())?;
    let body = answer.map_err(|error| wrong(format!("leases: {error:?}")))?;
    let mut leases = Vec::new();
    for (field, lease) in wire::fields(&body) {
        if let (2, Field::Bytes(lease)) = (field, lease) {
            leases.push(wire::number(lease, 1));
        }
    }
    leases.sort_unstable();
    Ok(leases)
}

fn version_of(kv: &[u8]) -> Option<(u64, Version)> {
    let name = std::str::from_utf8(wire::bytes(kv, 1)).ok()?;
    let key = name.strip_prefix("/model/")?.parse().ok()?;
    let version = Version {
        value: wire::bytes(kv, 5).to_vec(),
        created: wire::number(kv, 2),
        modified: wire::number(kv, 3),
        version: wire::number(kv, 4),
        lease: wire::number(kv, 6),
    };
    Some((key, version))
}

fn all_keys(caller: &mut Caller) -> io::Result<(i64, BTreeMap<u64, Version>)> {
    let request = Request::default().bytes(1, b"/model/").bytes(2, b"/model0");
    let answer = caller.call(message::RANGE, request)?;
    let body = answer.map_err(|error| wrong(format!("all keys: {error:?}")))?;
    let mut keys = BTreeMap::new();
    for (field, kv) in wire::fields(&body) {
        if let (2, Field::Bytes(kv)) = (field, kv) {
            keys.extend(version_of(kv));
        }
    }
    Ok((wire::revision(&body), keys))
}

fn read_at(
    caller: &mut Caller,
    key: u64,
    revision: i64,
) -> io::Result<Result<Option<Version>, (u32, String)>> {
    let request = Request::default().bytes(1, &name(key)).number(4, revision);
    let answer = caller.call(message::RANGE, request)?;
    Ok(answer.map(|body| version_of(wire::bytes(&body, 2)).map(|(_, version)| version)))
}
