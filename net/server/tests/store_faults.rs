//! What a member does about a store that cannot be written, or that comes back damaged: on a simulated
//! disk, one fault at a time.

#[path = "member/life.rs"]
mod life;
mod member;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use engine::auth::{AuthorizedOperation, Identity as Caller, Policy, authorize};
use engine::command::*;
use engine::key::{End, KeyRange};
use life::run_to_end;
use member::{answer, small};
use reactor::World;
use reactor::sim::{DiskFault, DiskOperation, HostId, PlannedFault, Simulation, SimulationOptions};
use ringd::log::Logger;
use ringd::node::{Failure, Node, NodeOptions, WriteError};

const KEYS: usize = 200;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn options() -> NodeOptions {
    let mut options = small();
    // All keys; and two pages of each shard, which count as four operations each.
    options.checkpoints.operations = KEYS as u64 + 4 * 2 * 4;
    options.store.segment_bytes_first = 64 << 10;
    options.store.piece_bytes = 4 << 10;
    options.store.tail_bytes_max = 0;
    options.store.value_cache_bytes = 16 << 10;
    options
}

fn key(number: usize) -> Bytes {
    Bytes::from(format!("key-{number:04}"))
}

fn value(number: usize) -> Bytes {
    Bytes::from(vec![b'a' + (number % 26) as u8; 900])
}

async fn execute(node: &Node, operation: Operation) -> Result<Reply, WriteError> {
    Ok(answer(node, operation).await?.reply)
}

async fn put(node: &Node, number: usize, prev_kv: bool) -> Result<Reply, WriteError> {
    let put = Put {
        key: key(number),
        value: value(number),
        lease: LeaseId::NONE,
        prev_kv,
        ignore_value: false,
        ignore_lease: false,
    };
    execute(node, Operation::Write(Command::Put(put))).await
}

async fn delete(node: &Node, number: usize) -> Result<Reply, WriteError> {
    let delete = DeleteRange {
        range: KeyRange::single(key(number)),
        prev_kv: false,
    };
    execute(node, Operation::Write(Command::DeleteRange(delete))).await
}

async fn read(node: &Node, number: usize) -> Result<Option<Bytes>, WriteError> {
    let range = Range::all(KeyRange::single(key(number)));
    let Reply::Range(reply) = execute(node, Operation::Range(range)).await? else {
        unreachable!("a range answers a range")
    };
    Ok(reply.kvs.into_iter().next().map(|kv| kv.value))
}

async fn fill(node: &Node) {
    for number in 0..KEYS {
        put(node, number, false).await.expect("written");
    }
}

async fn open(world: &World, options: &NodeOptions) -> Node {
    let opened = Node::open(world.clone(), options.clone(), Rc::new(Logger::silent())).await;
    let node = opened.unwrap_or_else(|error| panic!("{error}"));
    node.ready().await.expect("ready");
    node
}

/// Waits until a checkpoint of this life is published.
async fn published(world: &World, node: &Node) {
    for _ in 0..100 {
        if node.home().expect("home").checkpoint_status().count > 0 {
            return;
        }
        world.sleep(Duration::from_millis(100)).await;
    }
    panic!(
        "no checkpoint: {:?}",
        node.home().expect("home").checkpoint_status()
    );
}

struct Machine {
    simulation: Simulation,
    host: HostId,
}

impl Machine {
    fn new() -> Machine {
        let mut hardware = SimulationOptions::calm();
        hardware.disk.late_write_most = Duration::from_millis(5);
        let mut simulation = Simulation::new(1, hardware);
        let host = simulation.add_host("member");
        Machine { simulation, host }
    }

    /// Runs `life` to its end, then kills the process.
    fn live<F: Future<Output = ()> + 'static>(&mut self, life: impl FnOnce(World) -> F) {
        run_to_end(&mut self.simulation, self.host, life);
    }

    fn plan(&mut self, operation: DiskOperation, path: &str, errno: i32, repeat: bool) {
        let fault = PlannedFault {
            operation,
            path_contains: path.to_owned(),
            after: 0,
            repeat,
            fault: DiskFault::Error(errno),
        };
        self.simulation.plan_fault(self.host, fault);
    }

    /// A member with all keys in a published checkpoint and nothing after it.
    fn filled() -> Machine {
        let mut machine = Machine::new();
        machine.live(|world| async move {
            let node = open(&world, &options()).await;
            fill(&node).await;
            published(&world, &node).await;
        });
        machine
    }

    /// Damages the event records of shard 0 in the middle of its first segment.
    fn damage_events(&mut self) {
        let path = "/data/shard-00/0000000000000001.events";
        let paths = [path, "/data/shard-00/0000000000000000.events"];
        let hit = paths.iter().any(|path| {
            let bytes = [0xff; 64];
            (0..4).all(|block| {
                self.simulation
                    .damage(self.host, path, 8192 + block * 1024, &bytes)
            })
        });
        assert!(hit, "shard 0 has an event segment");
    }
}

#[test]
fn damaged_values_fail_their_readers_and_nobody_else() {
    let mut machine = Machine::filled();
    machine.damage_events();
    let damaged = Rc::new(RefCell::new(Vec::new()));
    let found = damaged.clone();
    machine.live(|world| async move {
        let node = open(&world, &options()).await;
        for number in 0..KEYS {
            match read(&node, number).await {
                Ok(found) => assert_eq!(found, Some(value(number))),
                Err(WriteError::Damaged(damage)) => {
                    assert!(damage.file.starts_with("shard-00/"), "{damage}");
                    assert!(damage.offset >= 8192 - 4096, "{damage}");
                    found.borrow_mut().push(number);
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        // Everything else goes on, writes to the same keys too.
        for number in 0..KEYS {
            put(&node, number, false).await.expect("written");
            assert_eq!(read(&node, number).await, Ok(Some(value(number))));
        }
        assert_eq!(node.failure(), None);
    });
    let damaged = damaged.borrow();
    assert!((1..20).contains(&damaged.len()), "{damaged:?}");
}

#[test]
fn a_list_over_damaged_values_ends_with_the_damage() {
    let mut machine = Machine::filled();
    machine.damage_events();
    machine.live(|world| async move {
        let node = open(&world, &options()).await;
        let range = Range::all(KeyRange {
            start: key(0),
            end: End::Unbounded,
        });
        let range = Operation::Range(range);
        let range = authorize(range, &Caller::Member, &Policy::Disabled).expect("allowed");
        let AuthorizedOperation::Range(range) = range.split() else {
            unreachable!("a range stays a range")
        };
        let mut list = node.list(range).await.expect("begun");
        let mut outlined = 0;
        let end = list.outline(|_| outlined += 1).await;
        let end = end.expect("keys and lengths stand elsewhere");
        assert_eq!((outlined, end.keys), (KEYS, KEYS));
        let mut body = list.values(end.keys);
        let mut keys = 0;
        let damage = loop {
            match body.next().await {
                Ok(Some(piece)) => {
                    for listed in piece {
                        assert_eq!(listed.kv.key, key(keys));
                        assert_eq!(listed.kv.value, value(keys));
                        keys += 1;
                    }
                }
                Ok(None) => panic!("the damage was not met"),
                Err(error) => break error,
            }
        };
        let WriteError::Damaged(damage) = damage else {
            panic!("{damage:?}");
        };
        assert!(damage.file.starts_with("shard-00/"), "{damage}");
        assert!(keys < KEYS);
        drop(body);
        world.sleep(Duration::from_millis(10)).await;
        assert_eq!(node.pins(), 0);
        assert_eq!(node.failure(), None);
    });
}

#[test]
fn a_write_that_needs_damaged_bytes_stops_the_member() {
    let mut machine = Machine::filled();
    machine.damage_events();
    machine.live(|world| async move {
        let node = open(&world, &options()).await;
        let mut number = 0;
        while read(&node, number).await.is_ok() {
            number += 1;
        }
        assert_eq!(
            put(&node, number, true).await.err(),
            Some(WriteError::Stopped)
        );
        let what = node.failed().await;
        assert!(
            what.contains("shard-00/") && what.contains("offset"),
            "{what}"
        );
        assert!(matches!(node.failure(), Some(Failure::Damaged(_))));
        assert_eq!(put(&node, 0, false).await.err(), Some(WriteError::Stopped));
    });
}

#[test]
fn a_full_disk_delays_a_checkpoint_and_raises_the_alarm() {
    for (operation, path) in [
        (DiskOperation::Open, "shard-01/pages"),
        (DiskOperation::Write, "shard-02"),
    ] {
        let mut machine = Machine::new();
        machine.plan(operation, path, ENOSPC, true);
        let node_of_life: Rc<RefCell<Option<Node>>> = Rc::default();
        let node_slot = node_of_life.clone();
        let core = machine
            .simulation
            .start_core(machine.host, |world| async move {
                let node = open(&world, &options()).await;
                *node_slot.borrow_mut() = Some(node.clone());
                for number in 0..2 * KEYS {
                    // Once the alarm stands, nothing that grows is taken; deletes are.
                    let refused = Err(WriteError::Command(CommandError::NoSpace));
                    let answer = put(&node, number % KEYS, false).await.map(|_| ());
                    if answer == refused {
                        delete(&node, number % KEYS)
                            .await
                            .expect("deletes make room");
                    } else {
                        answer.expect("written");
                    }
                }
                world.sleep(Duration::from_secs(3)).await;
                assert_eq!(node.home().expect("home").checkpoint_status().count, 0);
                let alarm = (0x3e, AlarmKind::NoSpace);
                assert_eq!(node.home().expect("home").alarms(), [alarm]);
            });
        let started = machine.simulation.now();
        while !machine.simulation.main_ended(core) {
            machine.simulation.step();
        }
        assert!(machine.simulation.now() - started < 10_000_000_000);
        // There is room again: what waits goes on by itself.
        machine.simulation.clear_planned_faults(machine.host);
        machine.simulation.run_for(Duration::from_secs(3));
        let node = node_of_life.borrow().clone().expect("opened");
        assert_eq!(node.failure(), None);
        assert!(
            node.home().expect("home").checkpoint_status().count > 0,
            "{:?}",
            node.home().expect("home").checkpoint_status()
        );
        assert!(
            !node.home().expect("home").alarms().is_empty(),
            "the room may be gone again"
        );
        machine.simulation.run_for(Duration::from_secs(5));
        assert_eq!(node.home().expect("home").alarms(), []);
    }
}

#[test]
fn a_full_disk_of_the_log_raises_the_alarm_and_room_clears_it() {
    let mut machine = Machine::new();
    let hardware = Rc::new(RefCell::new(None));
    let slot = hardware.clone();
    let core = machine
        .simulation
        .start_core(machine.host, |world| async move {
            let mut options = options();
            options.checkpoints.operations = u64::MAX;
            let node = open(&world, &options).await;
            put(&node, 0, false).await.expect("written");
            *slot.borrow_mut() = Some(node);
        });
    while !machine.simulation.main_ended(core) {
        machine.simulation.step();
    }
    machine.plan(DiskOperation::Open, "wal/", ENOSPC, true);
    let node: Node = hardware.borrow().clone().expect("opened");
    let writer = node.clone();
    drop(node.world().spawn(reactor::Class::Request, async move {
        let mut number = 0;
        while put(&writer, number % KEYS, false).await.is_ok() {
            number += 1;
        }
    }));
    machine.simulation.run_for(Duration::from_secs(20));
    let alarm = (0x3e, AlarmKind::NoSpace);
    assert_eq!(node.home().expect("home").alarms(), [alarm]);
    machine.simulation.clear_planned_faults(machine.host);
    machine.simulation.run_for(Duration::from_secs(8));
    assert_eq!(node.home().expect("home").alarms(), []);
    assert_eq!(node.failure(), None);
}

#[test]
fn a_failed_write_or_flush_of_a_shard_ends_the_member() {
    for operation in [DiskOperation::Write, DiskOperation::Sync] {
        let mut machine = Machine::new();
        machine.plan(operation, "shard-03/pages", EIO, false);
        machine.live(|world| async move {
            let node = open(&world, &options()).await;
            let mut number = 0;
            while put(&node, number % KEYS, false).await.is_ok() {
                number += 1;
                assert!(number < 10 * KEYS, "the fault was not noticed");
            }
            let what = node.failed().await;
            assert!(what.contains("shard-03/pages"), "{what}");
            assert!(matches!(node.failure(), Some(Failure::Store(_))));
        });
        machine.live(|world| async move {
            let node = open(&world, &options()).await;
            for number in 0..KEYS {
                assert_eq!(read(&node, number).await, Ok(Some(value(number))));
            }
        });
    }
}

#[test]
fn an_idle_member_makes_a_checkpoint() {
    let mut options = options();
    options.checkpoints.operations = u64::MAX;
    options.checkpoints.idle = Duration::from_secs(20);
    Machine::new().live(|world| async move {
        let node = open(&world, &options).await;
        put(&node, 0, false).await.expect("written");
        world.sleep(Duration::from_secs(15)).await;
        assert_eq!(node.home().expect("home").checkpoint_status().count, 0);
        world.sleep(Duration::from_secs(10)).await;
        assert_eq!(node.home().expect("home").checkpoint_status().count, 1);
        world.sleep(Duration::from_secs(60)).await;
        assert_eq!(
            node.home().expect("home").checkpoint_status().count,
            1,
            "nothing new to write"
        );
    });
}

#[test]
fn a_clean_stop_makes_a_checkpoint_if_little_is_dirty() {
    for (most, expected) in [(16 << 20, true), (1, false), (0, false)] {
        let mut options = options();
        options.checkpoints.operations = u64::MAX;
        options.checkpoints.stop_dirty_bytes_max = most;
        let again = options.clone();
        let mut machine = Machine::new();
        machine.live(|world| async move {
            let node = open(&world, &options).await;
            fill(&node).await;
            let began = world.now();
            node.stop().await;
            assert!(world.now().since(began) < Duration::from_secs(1));
        });
        machine.live(|world| async move {
            let node = open(&world, &again).await;
            assert_eq!(
                node.home().expect("home").checkpoint_status().index > 0,
                expected
            );
            assert_eq!(read(&node, 7).await, Ok(Some(value(7))));
        });
    }
}

#[test]
fn a_member_whose_manifest_is_damaged_says_where() {
    let mut machine = Machine::filled();
    let path = "/data/shard-00/pages";
    for block in 0..64 {
        machine
            .simulation
            .damage(machine.host, path, block * 4096 + 100, &[0x55; 8]);
    }
    machine.live(|world| async move {
        let opened = Node::open(world, options(), Rc::new(Logger::silent())).await;
        let Err(error) = opened else {
            panic!("opened from a damaged manifest");
        };
        let text = error.to_string();
        assert!(text.contains("shard-00/pages at byte "), "{text}");
        assert!(text.contains("restore this member"), "{text}");
    });
}
