//! Space comes back from a whole member on a simulated disk: after compactions, at the quota, beside damage.

#[path = "member/life.rs"]
mod life;
#[path = "member/lines.rs"]
mod lines;
mod member;

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use engine::command::*;
use engine::key::KeyRange;
use life::run_to_end;
use lines::{Lines, matching, open};
use member::{answer, small};
use reactor::World;
use reactor::sim::{HostId, Simulation, SimulationOptions};
use ringd::config::AutoCompaction;
use ringd::node::{Node, NodeOptions, WriteError};

const KEYS: usize = 200;
const VALUE_BYTES: usize = 900;

/// A member with small files whose checkpoints are for space alone.
fn options() -> NodeOptions {
    let mut options = small();
    options.checkpoints.reclaim_bytes = 32 << 10;
    options.store.segment_bytes_first = 32 << 10;
    options.store.segment_bytes_max = 64 << 10;
    options.store.piece_bytes = 4 << 10;
    options.store.tail_bytes_max = 0;
    options.store.value_cache_bytes = 16 << 10;
    options
}

fn key(number: usize) -> Bytes {
    Bytes::from(format!("key-{number:04}"))
}

fn value(number: usize, round: usize) -> Bytes {
    Bytes::from(vec![b'a' + ((number + 7 * round) % 26) as u8; VALUE_BYTES])
}

async fn execute(node: &Node, operation: Operation) -> Result<Reply, WriteError> {
    Ok(answer(node, operation).await?.reply)
}

async fn put(node: &Node, number: usize, round: usize) -> Result<Reply, WriteError> {
    let put = Put {
        key: key(number),
        value: value(number, round),
        lease: LeaseId::NONE,
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    };
    execute(node, Operation::Write(Command::Put(put))).await
}

async fn delete(node: &Node, number: usize) {
    let delete = DeleteRange {
        range: KeyRange::single(key(number)),
        prev_kv: false,
    };
    let deleted = execute(node, Operation::Write(Command::DeleteRange(delete))).await;
    deleted.expect("deletes are taken always");
}

async fn compact(node: &Node) {
    let revision = node.applied().revision;
    let compact = Operation::Write(Command::Compact { revision });
    execute(node, compact).await.expect("compacted");
}

async fn read(node: &Node, number: usize) -> Result<Option<Bytes>, WriteError> {
    let range = Range::all(KeyRange::single(key(number)));
    let Reply::Range(reply) = execute(node, Operation::Range(range)).await? else {
        unreachable!("a range answers a range")
    };
    Ok(reply.kvs.into_iter().next().map(|kv| kv.value))
}

/// Writes all keys `rounds` times.
async fn fill(node: &Node, rounds: usize) {
    for round in 0..rounds {
        for number in 0..KEYS {
            put(node, number, round).await.expect("written");
        }
    }
}

/// Bytes of all event segments.
async fn event_bytes(world: &World) -> u64 {
    let mut total = 0;
    for shard in 0..4 {
        let path = format!("/data/shard-{shard:02}");
        let names = world.list_dir(Path::new(&path)).await.expect("listed");
        let events = names.iter().filter(|(name, _)| name.ends_with(".events"));
        total += events.map(|(_, bytes)| bytes).sum::<u64>();
    }
    total
}

fn count(lines: &Lines, message: &str) -> usize {
    matching(lines, message).len()
}

struct Machine {
    simulation: Simulation,
    host: HostId,
    lines: Lines,
}

impl Machine {
    fn new() -> Machine {
        let mut hardware = SimulationOptions::calm();
        hardware.disk.late_write_most = Duration::from_millis(5);
        let mut simulation = Simulation::new(1, hardware);
        let host = simulation.add_host("member");
        let lines = Lines::default();
        Machine {
            simulation,
            host,
            lines,
        }
    }

    /// Runs `life` to its end, then kills the process.
    fn live<F: Future<Output = ()> + 'static>(&mut self, life: impl FnOnce(World, Lines) -> F) {
        let lines = self.lines.clone();
        run_to_end(&mut self.simulation, self.host, |world| life(world, lines));
    }
}

#[test]
fn the_directory_shrinks_after_a_compaction_on_an_idle_member() {
    let mut machine = Machine::new();
    machine.live(|world, lines| async move {
        let node = open(&world, &options(), &lines).await;
        fill(&node, 8).await;
        let before = event_bytes(&world).await;
        assert!(before > (8 * KEYS * VALUE_BYTES) as u64, "{before}");
        compact(&node).await;
        world.sleep(Duration::from_secs(20)).await;
        let after = event_bytes(&world).await;
        // Live values, in segments that are at least half full, and each shard's open ones.
        assert!(
            after < (2 * KEYS * VALUE_BYTES) as u64 + 4 * 2 * (64 << 10),
            "{after} of {before}"
        );
        let size = node.home().expect("home").status().size_bytes;
        assert!(size < before / 2, "{size} of {before}");
        assert!(node.home().expect("home").checkpoint_status().count >= 1);
        let checkpoints = node.home().expect("home").checkpoint_status().count;
        world.sleep(Duration::from_secs(120)).await;
        assert_eq!(
            node.home().expect("home").checkpoint_status().count,
            checkpoints,
            "nothing left"
        );
        for message in [
            "compaction begins",
            "compaction ends",
            "segment collection begins",
            "segment collection ends",
            "checkpoint begins",
            "checkpoint ends",
        ] {
            assert!(count(&lines, message) >= 1, "{message}");
        }
        let [begun, ended] =
            ["begins", "ends"].map(|end| count(&lines, &format!("checkpoint {end}")));
        assert_eq!((begun as u64, ended as u64), (checkpoints, checkpoints));
    });
    machine.live(|world, lines| async move {
        let node = open(&world, &options(), &lines).await;
        for number in 0..KEYS {
            assert_eq!(read(&node, number).await, Ok(Some(value(number, 7))));
        }
    });
}

#[test]
fn overwriting_with_a_compaction_now_and_then_keeps_the_directory_flat() {
    Machine::new().live(|world, lines| async move {
        let node = open(&world, &options(), &lines).await;
        let mut most = 0;
        for round in 0..24 {
            for number in 0..KEYS {
                put(&node, number, round).await.expect("written");
                assert_eq!(read(&node, number).await, Ok(Some(value(number, round))));
            }
            compact(&node).await;
            world.sleep(Duration::from_secs(3)).await;
            most = most.max(event_bytes(&world).await);
        }
        assert!(most < (8 * KEYS * VALUE_BYTES) as u64, "{most}");
    });
}

#[test]
fn upkeep_leaves_damage_alone_and_says_where() {
    const RESTING: std::ops::Range<usize> = KEYS..KEYS + 40;
    let mut machine = Machine::new();
    let mut settings = options();
    settings.checkpoints.operations = 500;
    let life = settings.clone();
    machine.live(|world, lines| async move {
        let node = open(&world, &life, &lines).await;
        // What lives among much that dies, so that its segments have to be read before they can go.
        for number in RESTING {
            put(&node, number, 7).await.expect("written");
        }
        fill(&node, 8).await;
        world.sleep(Duration::from_secs(2)).await;
        assert!(node.home().expect("home").checkpoint_status().count > 0);
    });
    // Neither the first nor the newest records of shard 1.
    let hit = (1..6).any(|number| {
        let path = format!("/data/shard-01/{number:016x}.events");
        (0..4).all(|block| {
            let at = 8192 + block * 1024;
            machine
                .simulation
                .damage(machine.host, &path, at, &[0xff; 64])
        })
    });
    assert!(hit, "shard 1 has event segments");
    machine.live(|world, lines| async move {
        let node = open(&world, &settings, &lines).await;
        let before = event_bytes(&world).await;
        compact(&node).await;
        node.compacted().await.expect("the pass goes on behind it");
        world.sleep(Duration::from_secs(20)).await;
        let message = "stored data is damaged; compaction and collection leave it alone";
        assert!(count(&lines, message) >= 1);
        let told = lines.borrow().iter().find(|l| l.contains(message)).cloned();
        let told = told.expect("it is logged");
        assert!(
            told.contains("\"file\":\"shard-01/") && told.contains("\"offset\":"),
            "{told}"
        );
        let after = event_bytes(&world).await;
        assert!(after < before / 2, "{after} of {before}");
        for number in RESTING {
            assert_eq!(read(&node, number).await, Ok(Some(value(number, 7))));
        }
        for number in 0..KEYS {
            assert_eq!(read(&node, number).await, Ok(Some(value(number, 7))));
            put(&node, number, 8).await.expect("written");
        }
        assert_eq!(node.failure(), None);
    });
}

#[test]
fn the_alarm_goes_when_a_compaction_has_made_room() {
    let mut settings = options();
    settings.quota_bytes = Some(1 << 20);
    let again = settings.clone();
    let mut machine = Machine::new();
    let alarm = (0x3e, AlarmKind::NoSpace);
    machine.live(|world, lines| async move {
        let node = open(&world, &settings, &lines).await;
        let mut number = 0;
        while put(&node, number % KEYS, 0).await.is_ok() {
            number += 1;
            assert!(number < 10 * KEYS, "the quota is never reached");
        }
        world.sleep(Duration::from_secs(10)).await;
        assert_eq!(node.home().expect("home").alarms(), [alarm]);
        for number in 0..KEYS / 2 {
            delete(&node, number).await;
        }
        world.sleep(Duration::from_secs(10)).await;
        assert_eq!(
            node.home().expect("home").alarms(),
            [alarm],
            "nothing was freed yet"
        );
    });
    // What the member raised in a former life it clears in this one.
    machine.live(|world, lines| async move {
        let node = open(&world, &again, &lines).await;
        assert_eq!(node.home().expect("home").alarms(), [alarm]);
        compact(&node).await;
        world.sleep(Duration::from_secs(10)).await;
        assert_eq!(
            node.home().expect("home").alarms(),
            [],
            "{:?}",
            node.home().expect("home").status()
        );
        put(&node, 0, 1).await.expect("written");
        assert_eq!(count(&lines, "alarm cleared"), 1);
        // One that somebody else raises stays.
        let raise = Command::Alarm {
            activate: true,
            member: 0x3e,
            alarm: Some(AlarmKind::NoSpace),
        };
        execute(&node, Operation::Write(raise)).await.expect("done");
        world.sleep(Duration::from_secs(10)).await;
        assert_eq!(node.home().expect("home").alarms(), [alarm]);
    });
}

#[test]
fn the_hash_stays_through_compactions_and_restarts() {
    let refused = |error| Some(WriteError::Command(error));
    let mut settings = options();
    settings.checkpoints.operations = 500;
    let again = settings.clone();
    let hash = Rc::new(RefCell::new(None));
    let slot = hash.clone();
    let mut machine = Machine::new();
    machine.live(|world, lines| async move {
        let node = open(&world, &settings, &lines).await;
        let empty = node.hash_kv(0).await.expect("hashed");
        assert_eq!((empty.revision, empty.compact_revision), (1, -1));
        // A compaction that has nothing to do ends too.
        let command = Command::Compact { revision: 0 };
        let compacted = execute(&node, Operation::Write(command)).await;
        compacted.expect("passes once");
        let wait = world
            .timeout(Duration::from_secs(5), node.compacted())
            .await;
        assert_eq!(wait.expect("in time"), Ok(()));
        fill(&node, 4).await;
        for number in 0..KEYS / 4 {
            delete(&node, number).await;
        }
        let before = node.hash_kv(0).await.expect("hashed");
        assert_eq!(before.revision, node.applied().revision);
        let earlier = node.hash_kv(before.revision - 1).await.expect("hashed");
        assert_ne!(earlier.hash, before.hash);
        // Of what stays readable the hash is the same before and after the pass.
        let middle = before.revision - 300;
        let command = Command::Compact { revision: middle };
        let compacted = execute(&node, Operation::Write(command)).await;
        compacted.expect("compacted");
        let at_once = node.hash_kv(before.revision).await.expect("hashed");
        node.compacted().await.expect("the pass ends");
        assert!(count(&lines, "compaction ends") >= 1);
        let later = node.hash_kv(before.revision).await.expect("hashed");
        assert_eq!(at_once.hash, later.hash);
        assert_eq!(later.compact_revision, middle);
        world.sleep(Duration::from_secs(10)).await;
        let emptied = node.hash_kv(before.revision).await.expect("hashed");
        assert_eq!(emptied.hash, later.hash);
        assert!(node.hash_kv(middle).await.is_ok());
        let error = node.hash_kv(middle - 1).await.err();
        assert_eq!(error, refused(CommandError::Compacted));
        let error = node.hash_kv(before.revision + 1).await.err();
        assert_eq!(error, refused(CommandError::FutureRevision));
        *slot.borrow_mut() = Some(later);
    });
    machine.live(|world, lines| async move {
        let node = open(&world, &again, &lines).await;
        let before = hash.borrow().expect("hashed");
        let found = node.hash_kv(before.revision).await.expect("hashed");
        assert_eq!(found.hash, before.hash);
        assert_eq!(found.compact_revision, before.compact_revision);
    });
}

#[test]
fn automatic_compactions_by_age_and_by_number() {
    let mut settings = options();
    settings.auto_compaction = Some(AutoCompaction::Periodic(Duration::from_secs(100)));
    Machine::new().live(|world, lines| async move {
        let node = open(&world, &settings, &lines).await;
        // Revision n is made shortly before second n.
        for number in 0..99 {
            put(&node, number, 0).await.expect("written");
            world.sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(node.compact_revision(), -1);
        for number in 0..100 {
            put(&node, number, 1).await.expect("written");
            world.sleep(Duration::from_secs(1)).await;
        }
        // Noted within the first interval's tenth.
        let first = node.compact_revision();
        assert!((1..=12).contains(&first), "{first}");
        world.sleep(Duration::from_secs(30)).await;
        let second = node.compact_revision();
        assert!((first + 80..=first + 120).contains(&second), "{second}");
        // Without further changes the rest follows, once.
        world.sleep(Duration::from_secs(400)).await;
        assert_eq!(node.compact_revision(), node.applied().revision);
        let done = count(&lines, "auto compaction is done");
        world.sleep(Duration::from_secs(400)).await;
        assert_eq!(count(&lines, "auto compaction is done"), done);
    });
    let mut settings = options();
    settings.auto_compaction = Some(AutoCompaction::Revision(50));
    Machine::new().live(|world, lines| async move {
        let node = open(&world, &settings, &lines).await;
        fill(&node, 1).await;
        world.sleep(Duration::from_secs(280)).await;
        assert_eq!(node.compact_revision(), -1);
        world.sleep(Duration::from_secs(30)).await;
        assert_eq!(node.compact_revision(), node.applied().revision - 50);
        assert_eq!(count(&lines, "auto compaction is done"), 1);
    });
}
