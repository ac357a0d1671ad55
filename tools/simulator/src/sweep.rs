//! The sweep of storage faults: every 64 bytes of every file of a small data directory are damaged in
//! three ways, and the real node is opened on each.
//!
//! Three base images: after a clean stop, after a kill while idle, after a kill under load. The only
//! acceptable outcomes are a member with everything that was acknowledged, equal in revision and apply
//! hash, or a start that is refused with file, offset and what is missing. One class is listed and
//! counted instead: groups above every piece of durable evidence (`docs/internals/log.md`) can be
//! damaged without anybody knowing that they were there. That are the ones in flight at a kill under
//! load, and the last group when one exchange hits both it and the only record that speaks of it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use engine::auth::{Identity as Caller, Policy, authorize};
use engine::command::{Command, LeaseId, Operation, Put};
use engine::testing::{Defect, Node as Engine, NodeConfig};
use reactor::sim::{Crash, DiskImage, Latency, Simulation, SimulationOptions};
use reactor::{Class, World};
use ringd::identity::Identity;
use ringd::log::Logger;
use ringd::node::{Node, NodeOptions};

use crate::plan::DATA_DIR;
use crate::truth;

/// How many bytes one fault damages.
pub const PIECE_BYTES: usize = 64;
/// Writes in a base image.
const WRITES: usize = 160;

/// How the process that left a base image ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BaseKind {
    /// Clean stop.
    CleanStop,
    /// Kill after a while without load.
    IdleKill,
    /// Kill under load.
    LoadKill,
}

/// All kinds.
pub const BASE_KINDS: [BaseKind; 3] = [BaseKind::CleanStop, BaseKind::IdleKill, BaseKind::LoadKill];

/// What is done to 64 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Damage {
    /// One bit is flipped.
    Flip,
    /// They become zeros.
    Zero,
    /// They are exchanged with 64 others of the same file.
    Swap,
}

/// All kinds of damage.
pub const DAMAGES: [Damage; 3] = [Damage::Flip, Damage::Zero, Damage::Swap];

/// A data directory to damage, with what must be found in it.
pub struct Base {
    kind: BaseKind,
    image: DiskImage,
    options: NodeOptions,
    /// Revision and apply hash of a member that recovered the log up to an index, by the index of
    /// the entry of its own above it.
    states: BTreeMap<u64, (i64, u64)>,
    /// Highest log index that was acknowledged or seen.
    acknowledged: u64,
    /// Highest log index that durable evidence speaks of.
    evidence: u64,
}

/// What the sweep found for one base image and one kind of damage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Faults.
    pub faults: u64,
    /// Everything was there.
    pub intact: u64,
    /// Refused, with file, offset and what is missing.
    pub refused: u64,
    /// The listed class: acknowledged, above every piece of durable evidence, and gone in silence.
    pub listed: u64,
    /// The same, because one exchange hit the last group and the only evidence of it.
    pub listed_with_evidence: u64,
    /// Violations.
    pub wrong: Vec<String>,
}

/// The log sizes of a base image: two-digit blocks, so that the sweep takes minutes.
fn options() -> NodeOptions {
    let identity = Identity {
        cluster_id: 0x0c10_57e4,
        member_id: 0x3e3b_e401,
    };
    let mut options = NodeOptions::new(PathBuf::from(DATA_DIR), identity);
    options.log.segment_bytes = 48 << 10;
    options.log.record_bytes_max = 32 << 10;
    options.log.batch_bytes_target = 8 << 10;
    options.log.prewrite_bytes = 16 << 10;
    options.log.prewrite_gap_bytes = 8 << 10;
    options.log.scan_read_bytes = 48 << 10;
    options
}

fn quick() -> SimulationOptions {
    let mut options = SimulationOptions::calm();
    options.disk.late_write_most = Duration::from_millis(1);
    options
}

impl Base {
    /// Makes the base image of a kind.
    ///
    /// # Panics
    /// If the undamaged member does not work.
    pub fn make(kind: BaseKind) -> Base {
        let mut hardware = quick();
        if kind == BaseKind::LoadKill {
            // Time enough between a write and its successor to be killed in.
            hardware.disk.sync = Latency::micros(400, 600);
        }
        let mut simulation = Simulation::new(0xBA5E + kind as u64, hardware);
        let host = simulation.add_host("member");
        let answered = Rc::new(RefCell::new((0_usize, 0_u64)));
        let told = answered.clone();
        let stop_cleanly = kind == BaseKind::CleanStop;
        let core = simulation.start_core(host, |world| fill(world, told, stop_cleanly));
        let enough = match kind {
            BaseKind::LoadKill => WRITES / 2,
            _ => WRITES,
        };
        while answered.borrow().0 < enough
            || kind == BaseKind::CleanStop && !simulation.main_ended(core)
        {
            simulation.step();
        }
        if kind == BaseKind::IdleKill {
            simulation.run_for(Duration::from_millis(200));
        }
        simulation.crash(host, Crash::Kill);
        simulation.run_for(Duration::from_secs(1));
        let image = simulation.disk_image(host);
        let options = options();
        let opened = truth::open(&image, DATA_DIR, &options.log).expect("the base image is intact");
        let entries: Vec<Bytes> = opened
            .entries
            .iter()
            .map(|entry| entry.data.clone())
            .collect();
        let states =
            (0..=entries.len()).map(|kept| (kept as u64 + 1, state_after(&entries[..kept])));
        let states = states.collect();
        let acknowledged = answered.borrow().1;
        let evidence = truth::evidence(&image, DATA_DIR);
        Base {
            kind,
            image,
            options,
            states,
            acknowledged,
            evidence,
        }
    }

    /// Bytes of all its files.
    pub fn bytes(&self) -> u64 {
        self.image.total_bytes()
    }

    /// Every place of 64 bytes: path and offset.
    fn places(&self) -> Vec<(String, u64)> {
        let mut places = Vec::new();
        for path in self.image.paths() {
            let length = self.image.length(path).unwrap_or(0);
            places.extend(
                (0..length)
                    .step_by(PIECE_BYTES)
                    .map(|at| (path.to_owned(), at)),
            );
        }
        places
    }

    /// The damaged image, or nothing if the damage changes nothing.
    fn damaged(&self, path: &str, offset: u64, damage: Damage) -> Option<DiskImage> {
        let mut before = [0; PIECE_BYTES];
        self.image.read_at(path, offset, &mut before);
        let mut after = before;
        let mut image = self.image.clone();
        match damage {
            Damage::Flip => after[(offset / 64 % 64) as usize] ^= 1 << (offset / 512 % 8),
            Damage::Zero => after = [0; PIECE_BYTES],
            Damage::Swap => {
                let pieces = self.image.length(path)? / PIECE_BYTES as u64;
                // A place far away that differs for every piece.
                let other = (offset / 64 * 7 + pieces / 2 + 1) % pieces * 64;
                self.image.read_at(path, other, &mut after);
                image.write_at(path, other, &before);
            }
        }
        if after == before {
            return None;
        }
        image.write_at(path, offset, &after);
        Some(image)
    }

    fn judge(&self, path: &str, offset: u64, damage: Damage, counts: &mut Counts) {
        counts.faults += 1;
        let Some(image) = self.damaged(path, offset, damage) else {
            counts.intact += 1;
            return;
        };
        let found = open(&image, &self.options);
        let case = || format!("{:?}: {damage:?} at byte {offset} of {path}", self.kind);
        match found {
            Err(message) if names_the_place(&message) => counts.refused += 1,
            Err(message) => {
                counts.wrong.push(format!("{}: refused without a place: {message}", case()));
            }
            // Index, revision and hash include the entry with which every member begins.
            Ok((index, revision, hash)) => match self.states.get(&index) {
                Some(state) if *state != (revision, hash) => counts.wrong.push(format!(
                    "{}: another state at index {index}: revision {revision}, hash {hash:016x}",
                    case()
                )),
                Some(_) if index > self.acknowledged => counts.intact += 1,
                Some(_) if self.kind == BaseKind::LoadKill && index > self.evidence => {
                    counts.listed += 1;
                }
                Some(_)
                    if damage == Damage::Swap && index > truth::evidence(&image, DATA_DIR) =>
                {
                    counts.listed_with_evidence += 1;
                }
                _ => counts.wrong.push(format!(
                    "{}: acknowledged entries {index} to {} are gone in silence; evidence reaches {}",
                    case(),
                    self.acknowledged,
                    self.evidence
                )),
            },
        }
    }
}

/// Revision and apply hash after `entries` and the empty entry with which a member begins.
fn state_after(entries: &[Bytes]) -> (i64, u64) {
    let mut engine = Engine::new(NodeConfig {
        shards: 4,
        seed: 1,
        missing: None,
        defect: Defect::None,
    });
    for entry in entries.iter().chain(&[Bytes::new()]) {
        engine
            .apply(entry.clone())
            .expect("the log's entries can be read");
    }
    let coordinator = engine.coordinator();
    (coordinator.applied().revision, coordinator.apply_hash())
}

/// Whether a refusal names a file, an offset and what is missing or wrong there.
fn names_the_place(message: &str) -> bool {
    let names_file = message.contains("superblock") || message.contains(".seg");
    names_file && message.contains("at byte ") && message.len() > 60
}

/// Opens a member on an image: its applied index, revision and apply hash, or why it refuses.
fn open(image: &DiskImage, options: &NodeOptions) -> Result<(u64, i64, u64), String> {
    let mut simulation = Simulation::new(1, quick());
    let host = simulation.add_host("member");
    simulation.restore_disk(host, image);
    let found = Rc::new(RefCell::new(None));
    let (tell, options) = (found.clone(), options.clone());
    let core = simulation.start_core(host, |world| async move {
        let outcome = match Node::open(world, options, Rc::new(Logger::silent())).await {
            Err(error) => Err(error.to_string()),
            Ok(node) => node.ready().await.map(|()| {
                let applied = node.applied();
                (applied.index, applied.revision, node.apply_hash())
            }),
        };
        *tell.borrow_mut() = Some(outcome);
    });
    while !simulation.main_ended(core) {
        simulation.step();
    }
    let outcome = found.borrow_mut().take();
    outcome.expect("the core's task told before it ended")
}

/// Fills a data directory: puts of different sizes by four clients, all through the node.
async fn fill(world: World, told: Rc<RefCell<(usize, u64)>>, stop_cleanly: bool) {
    let opened = Node::open(world.clone(), options(), Rc::new(Logger::silent())).await;
    let node = opened.unwrap_or_else(|error| panic!("{error}"));
    node.ready().await.unwrap_or_else(|error| panic!("{error}"));
    let clients: Vec<_> = (0..4)
        .map(|client| {
            let (node, told) = (node.clone(), told.clone());
            world.spawn_joinable(Class::Request, async move {
                for number in 0..WRITES / 4 {
                    put(&node, client, number).await;
                    let mut told = told.borrow_mut();
                    told.0 += 1;
                    told.1 = told.1.max(node.applied().index);
                }
            })
        })
        .collect();
    for client in clients {
        client.await;
    }
    if stop_cleanly {
        node.stop().await;
    }
}

async fn put(node: &Node, client: usize, number: usize) {
    let put = Put {
        key: Bytes::from(format!("key/{client}/{}", number % 9)),
        value: Bytes::from(vec![b'a' + client as u8; 30 + number * 37 % 900]),
        lease: LeaseId::NONE,
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    };
    let operation = Operation::Write(Command::Put(put));
    let authorized = authorize(operation, &Caller::Anonymous, &Policy::Disabled);
    let answer = node
        .execute(authorized.expect("authentication is off"))
        .await;
    assert!(answer.is_ok(), "a put on a calm disk failed");
}

/// Sweeps one base image with one kind of damage; `stride` 1 takes every place.
pub fn sweep(base: &Base, damage: Damage, threads: usize, stride: usize) -> Counts {
    let places = base.places();
    let next = AtomicUsize::new(0);
    let total = Mutex::new(Counts::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let mut counts = Counts::default();
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed) * stride.max(1);
                    let Some((path, offset)) = places.get(at) else {
                        break;
                    };
                    base.judge(path, *offset, damage, &mut counts);
                }
                total.lock().expect("no thread panics with it").add(counts);
            });
        }
    });
    let mut counts = total.into_inner().expect("no thread panics with it");
    counts.wrong.sort();
    counts
}

impl Counts {
    fn add(&mut self, other: Counts) {
        self.faults += other.faults;
        self.intact += other.intact;
        self.refused += other.refused;
        self.listed += other.listed;
        self.listed_with_evidence += other.listed_with_evidence;
        self.wrong.extend(other.wrong);
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} faults: {} intact, {} refused, {} listed, {} listed with their evidence, {} silent or wrong",
            self.faults,
            self.intact,
            self.refused,
            self.listed,
            self.listed_with_evidence,
            self.wrong.len()
        )
    }
}
