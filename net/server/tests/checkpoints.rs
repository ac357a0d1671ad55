//! Checkpoints of a whole member on a simulated disk: it is killed, or loses power, at every step of
//! the way, and must come back with what was acknowledged, and with the state and the apply hash of a
//! member that never made a checkpoint.

mod member;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use engine::command::*;
use engine::key::{End, KeyRange};
use engine::store::MissingHook;
use engine::testing::{Oracle, Workload};
use member::{answer, small};
use reactor::World;
use reactor::sim::{Crash, CrashPoint, HostId, RunEnd, Simulation, SimulationOptions, Step};
use ringd::log::Logger;
use ringd::node::{CheckpointStatus, Node, NodeOptions, WriteError};

/// One more budget runs this many more seeds.
fn budget() -> u64 {
    let budget = std::env::var("RINGD_TEST_BUDGET").ok();
    budget.and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// A small member with a checkpoint every few requests, little memory, and needs where there are none.
fn checkpointing(seed: u64) -> NodeOptions {
    let mut options = small();
    options.checkpoints.operations = 3 + seed % 3;
    options.store.segment_bytes_first = 8 << 10;
    options.store.segment_bytes_max = 32 << 10;
    options.store.piece_bytes = 4 << 10;
    options.store.tail_bytes_max = 16 << 10;
    options.store.value_cache_bytes = 16 << 10;
    options.store.page_cache_bytes = 1 << 20;
    options.missing = seed.is_multiple_of(2).then_some(MissingHook {
        seed,
        one_in: 5,
        rearm_after: 16,
    });
    options
}

/// Commands that a client may send, one after the other.
fn script(seed: u64, count: usize) -> Vec<Command> {
    let mut oracle = Oracle::new();
    let mut workload = Workload::new(seed, 40);
    let mut script = Vec::new();
    while script.len() < count {
        let mut command = workload.command(&oracle);
        match &mut command {
            // Nothing would be executed any more.
            Command::Alarm {
                activate: true,
                alarm: Some(AlarmKind::Corrupt),
                ..
            } => continue,
            // No deadline passes during a test.
            Command::LeaseGrant { ttl, .. } => *ttl += 100_000,
            Command::Put(put) if script.len() % 5 == 0 && !put.ignore_value => {
                put.value = vec![b'x'; 3000].into();
            }
            _ => {}
        }
        // Only what the oracle becomes matters here.
        drop(oracle.apply(&command));
        script.push(command);
    }
    script
}

/// What can be seen of a member.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    index: u64,
    hash: u64,
    compacted: i64,
    /// The keys at every revision that can be read.
    states: BTreeMap<i64, Vec<KeyValue>>,
    leases: Vec<(LeaseId, i64, Vec<bytes::Bytes>)>,
    alarms: Vec<(u64, AlarmKind)>,
}

/// What the tasks of a simulated life tell the test.
#[derive(Default)]
struct Told {
    /// Answers, by position in the script.
    answers: BTreeMap<usize, Result<(i64, Reply), CommandError>>,
    /// State at the beginning of the life, and after the script.
    seen: Vec<Seen>,
    checkpoint: CheckpointStatus,
    failure: Option<String>,
}

async fn execute(node: &Node, operation: Operation) -> Result<(i64, Reply), WriteError> {
    let answer = answer(node, operation).await?;
    Ok((answer.header.revision, answer.reply))
}

async fn look(node: &Node) -> Seen {
    let all = KeyRange {
        start: bytes::Bytes::new(),
        end: End::Unbounded,
    };
    let mut seen = Seen {
        index: node.applied().index,
        hash: node.apply_hash(),
        compacted: node.compact_revision(),
        alarms: node.home().expect("home").alarms(),
        ..Seen::default()
    };
    for revision in node.compact_revision().max(1)..=node.applied().revision {
        let range = Range {
            revision,
            ..Range::all(all.clone())
        };
        let (_, reply) = execute(node, Operation::Range(range))
            .await
            .expect("readable");
        let Reply::Range(reply) = reply else {
            unreachable!("a range answers a range")
        };
        seen.states.insert(revision, reply.kvs);
    }
    for lease in node.home().expect("home").leases() {
        let status = node
            .home()
            .expect("home")
            .lease_status(lease)
            .expect("just listed");
        let keys = node.keys_of_lease(lease).await.expect("readable");
        seen.leases.push((lease, status.granted_ttl, keys));
    }
    seen
}

/// One life: opens, looks, executes `commands` of the script, looks again.
async fn live(
    world: World,
    options: NodeOptions,
    script: Rc<Vec<Command>>,
    commands: std::ops::Range<usize>,
    told: Rc<RefCell<Told>>,
) {
    let opened = Node::open(world.clone(), options, Rc::new(Logger::silent())).await;
    let node = match opened {
        Ok(node) => node,
        Err(error) => {
            told.borrow_mut().failure = Some(error.to_string());
            return;
        }
    };
    if let Err(failure) = node.ready().await {
        told.borrow_mut().failure = Some(failure);
        return;
    }
    let seen = look(&node).await;
    told.borrow_mut().seen.push(seen);
    for position in commands {
        let command = Operation::Write(script[position].clone());
        let answer = match execute(&node, command).await {
            Ok(answer) => Ok(answer),
            Err(WriteError::Command(error)) => Err(error),
            Err(error) => {
                told.borrow_mut().failure = Some(format!("{error:?}"));
                return;
            }
        };
        told.borrow_mut().answers.insert(position, answer);
        told.borrow_mut().checkpoint = node.home().expect("home").checkpoint_status();
    }
    // Lets a checkpoint under way come to its end.
    world.sleep(Duration::from_millis(50)).await;
    let seen = look(&node).await;
    let mut told = told.borrow_mut();
    told.seen.push(seen);
    told.checkpoint = node.home().expect("home").checkpoint_status();
}

/// A host and what its lives told.
struct Member {
    simulation: Simulation,
    host: HostId,
    script: Rc<Vec<Command>>,
    options: NodeOptions,
    told: Rc<RefCell<Told>>,
}

impl Member {
    fn new(seed: u64, options: NodeOptions, script: &Rc<Vec<Command>>) -> Member {
        let mut hardware = SimulationOptions::calm();
        hardware.disk.late_write_most = Duration::from_millis(5);
        let mut simulation = Simulation::new(seed, hardware);
        let host = simulation.add_host("member");
        Member {
            simulation,
            host,
            script: script.clone(),
            options,
            told: Rc::default(),
        }
    }

    fn start(&mut self, commands: std::ops::Range<usize>) -> reactor::sim::CoreId {
        let (options, script) = (self.options.clone(), self.script.clone());
        let told = self.told.clone();
        self.simulation.start_core(self.host, |world| {
            live(world, options, script, commands, told)
        })
    }

    /// Runs a life to the end of its commands.
    fn run(&mut self, commands: std::ops::Range<usize>) {
        let core = self.start(commands);
        for _ in 0..4_000_000 {
            if self.simulation.main_ended(core) {
                return;
            }
            assert!(!matches!(
                self.simulation.step(),
                Step::Idle | Step::Crashed(_)
            ));
        }
        panic!("the life does not end");
    }

    /// Runs a life until the planned crash; `false` if it ends before.
    fn run_to_crash(&mut self, commands: std::ops::Range<usize>) -> bool {
        let core = self.start(commands);
        while !self.simulation.main_ended(core) {
            match self.simulation.step() {
                Step::Crashed(_) => {
                    self.rest();
                    return true;
                }
                Step::Idle => return false,
                Step::Ran(_) | Step::Happened => {}
            }
        }
        false
    }

    fn crash(&mut self, crash: Crash) {
        self.simulation.crash(self.host, crash);
        self.rest();
    }

    /// Lets late writes land.
    fn rest(&mut self) {
        let end = self.simulation.run_for(Duration::from_millis(20));
        assert!(matches!(end, RunEnd::Deadline | RunEnd::Idle));
        if !self.simulation.is_up(self.host) {
            self.simulation.restart(self.host);
        }
    }
}

#[test]
fn restarts_from_checkpoints_change_nothing() {
    for seed in 0..3 * budget() {
        let script = Rc::new(script(seed, 120));
        let mut plain = Member::new(seed, small(), &script);
        let mut member = Member::new(seed, checkpointing(seed), &script);
        for start in (0..script.len()).step_by(17) {
            let commands = start..(start + 17).min(script.len());
            for member in [&mut plain, &mut member] {
                member.run(commands.clone());
                member.crash(Crash::Kill);
            }
        }
        let (plain, member) = (plain.told.borrow(), member.told.borrow());
        assert_eq!((&plain.failure, &member.failure), (&None, &None));
        assert_eq!(plain.answers, member.answers, "seed {seed}");
        assert_eq!(plain.seen, member.seen, "seed {seed}");
        assert_eq!(plain.checkpoint, CheckpointStatus::default());
        assert!(member.checkpoint.index > 90, "{:?}", member.checkpoint);
    }
}

/// What a member shows that has just been created.
fn fresh(script: &Rc<Vec<Command>>) -> Seen {
    let mut plain = Member::new(1, small(), script);
    plain.run(0..0);
    let told = plain.told.borrow();
    told.seen[0].clone()
}

/// What a member without checkpoints shows after a restart that found so many commands in the log, and
/// after another one behind the rest of the script.
fn reference(script: &Rc<Vec<Command>>, commands: usize) -> (Seen, Seen) {
    let mut plain = Member::new(1, small(), script);
    plain.run(0..commands);
    plain.crash(Crash::Kill);
    plain.run(commands..script.len());
    plain.crash(Crash::Kill);
    plain.run(0..0);
    let told = plain.told.borrow();
    assert_eq!(told.failure, None);
    (told.seen[2].clone(), told.seen[4].clone())
}

#[test]
fn a_crash_at_any_step_of_a_checkpoint_loses_nothing() {
    const COMMANDS: usize = 25;
    let script = Rc::new(script(77, COMMANDS));
    let fresh = fresh(&script);
    let references: Vec<(Seen, Seen)> = (0..=COMMANDS).map(|n| reference(&script, n)).collect();
    let (mut crashes, mut from_checkpoints) = (0, 0);
    for seed in 0..4 * budget() {
        for point in 1.. {
            let mut member = Member::new(seed, checkpointing(seed), &script);
            let (crash, place) = match (seed + point) % 4 {
                0 => (Crash::Kill, CrashPoint::Submission(point)),
                1 => (Crash::PowerCut, CrashPoint::Completion(point)),
                2 => (Crash::PowerCutAllLost, CrashPoint::Submission(point)),
                _ => (Crash::PowerCut, CrashPoint::Submission(point)),
            };
            member.simulation.plan_crash(member.host, place, crash);
            if !member.run_to_crash(0..COMMANDS) {
                break;
            }
            crashes += 1;
            let acknowledged = member.told.borrow().answers.len();
            let published = member.told.borrow().checkpoint;
            *member.told.borrow_mut() = Told::default();
            member.run(0..0);
            let shown = format!("seed {seed}, {crash:?} at {place:?}, {acknowledged} answered");
            let told = member.told.take();
            assert_eq!(told.failure, None, "{shown}");
            assert!(told.checkpoint.index >= published.index, "{shown}");
            let seen = &told.seen[0];
            let possible = acknowledged..(acknowledged + 2).min(references.len());
            let found = possible
                .into_iter()
                .find(|n| references[*n].0.index == seen.index);
            let Some(done) = found else {
                // The crash came before anything was in the log.
                assert_eq!(acknowledged, 0, "{shown}: restarted at {}", seen.index);
                assert_eq!(seen, &fresh, "{shown}");
                continue;
            };
            assert_eq!(seen, &references[done].0, "{shown}");
            from_checkpoints += u64::from(told.checkpoint.id > 0);
            // What the aborted checkpoint left behind is in nobody's way.
            let mut again = Member::new(seed, checkpointing(seed), &script);
            again.simulation.plan_crash(again.host, place, crash);
            again.run_to_crash(0..COMMANDS);
            again.run(done..COMMANDS);
            again.crash(Crash::Kill);
            again.run(0..0);
            let told = again.told.borrow();
            assert_eq!(told.failure, None, "{shown}");
            assert_eq!(told.seen.last(), Some(&references[done].1), "{shown}");
        }
    }
    assert!(crashes > 1_000, "{crashes} crashes");
    assert!(from_checkpoints > 300, "{from_checkpoints} of {crashes}");
}
