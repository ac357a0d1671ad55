//! Starts that have much to replay: on a simulated disk, with leaves that are not in memory.

#[path = "member/life.rs"]
mod life;
mod member;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use engine::command::*;
use engine::key::KeyRange;
use engine::shard::shard_of;
use life::run_to_end;
use member::{answer, small};
use reactor::World;
use reactor::sim::{DiskFault, DiskOperation, HostId, PlannedFault, Simulation, SimulationOptions};
use ringd::log::Logger;
use ringd::node::{Node, NodeOptions, WriteError};

const SHARDS: u16 = 4;
/// Keys of about a kilobyte: a dozen of them fill a leaf.
const KEYS: usize = 800;
const EIO: i32 = 5;

fn options() -> NodeOptions {
    let mut options = small();
    options.checkpoints.dirty_percent = 100;
    options.store.page_cache_bytes = 64 << 20;
    options
}

/// Neighbours in number are far apart in the tree.
fn key(number: usize) -> Bytes {
    let mixed = number * 389 % KEYS;
    Bytes::from(format!("key-{mixed:04}-{}", "x".repeat(1000)))
}

fn put_of(key: Bytes, value: &'static str) -> Put {
    Put {
        key,
        value: Bytes::from_static(value.as_bytes()),
        lease: LeaseId::NONE,
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    }
}

async fn write(node: &Node, command: Command) {
    let written = answer(node, Operation::Write(command)).await;
    written.expect("written");
}

async fn read(node: &Node, key: Bytes) -> Result<Option<Bytes>, WriteError> {
    let range = Operation::Range(Range::all(KeyRange::single(key)));
    let Reply::Range(reply) = answer(node, range).await?.reply else {
        unreachable!("a range answers a range")
    };
    Ok(reply.kvs.into_iter().next().map(|kv| kv.value))
}

async fn open(world: &World, options: &NodeOptions) -> Node {
    let opened = Node::open(world.clone(), options.clone(), Rc::new(Logger::silent())).await;
    let node = opened.unwrap_or_else(|error| panic!("{error}"));
    node.ready().await.expect("ready");
    node
}

struct Machine {
    simulation: Simulation,
    host: HostId,
}

impl Machine {
    /// A member with all keys in a published checkpoint and nothing after it.
    fn filled() -> Machine {
        let mut simulation = Simulation::new(1, SimulationOptions::calm());
        let host = simulation.add_host("member");
        let mut machine = Machine { simulation, host };
        machine.live(|world| async move {
            let mut options = options();
            options.checkpoints.stop_dirty_bytes_max = u64::MAX;
            let node = open(&world, &options).await;
            for number in 0..KEYS {
                write(&node, Command::Put(put_of(key(number), "old"))).await;
            }
            node.stop().await;
        });
        machine
    }

    /// Runs `life` to its end, then kills the process.
    fn live<F: Future<Output = ()> + 'static>(&mut self, life: impl FnOnce(World) -> F) {
        run_to_end(&mut self.simulation, self.host, life);
    }

    /// Has each key overwritten, with an entry of its own, and no checkpoint made.
    fn overwritten(&mut self) {
        self.live(|world| async move {
            let node = open(&world, &options()).await;
            let status = node.home().expect("home").checkpoint_status();
            assert!(status.index > 0, "the keys are in a checkpoint");
            for number in 0..KEYS {
                write(&node, Command::Put(put_of(key(number), "new"))).await;
            }
            let count = node.home().expect("home").checkpoint_status().count;
            assert_eq!(count, 0, "all of it is to be replayed");
        });
    }

    /// How long a start takes.
    fn start(&mut self, options: NodeOptions) -> Duration {
        let took = Rc::new(Cell::new(Duration::ZERO));
        let slot = took.clone();
        self.live(move |world| async move {
            let began = world.now();
            let node = open(&world, &options).await;
            slot.set(world.now().since(began));
            for number in 0..KEYS {
                let value = Bytes::from_static(b"new");
                assert_eq!(read(&node, key(number)).await, Ok(Some(value)), "{number}");
            }
            assert_eq!(node.failure(), None);
        });
        took.get()
    }
}

#[test]
fn a_start_loads_what_many_small_entries_need_together() {
    const DELAY: Duration = Duration::from_millis(40);
    let mut machine = Machine::filled();
    machine.overwritten();
    let quick = machine.start(options());
    let slow = machine.start(NodeOptions {
        load_delay_max: DELAY,
        ..options()
    });
    // The leaves of a shard one after the other would take a multiple of that.
    assert!(slow < quick + 8 * DELAY, "{slow:?} instead of {quick:?}");
}

#[test]
fn a_start_with_hardly_a_cache_comes_to_the_same() {
    let mut machine = Machine::filled();
    machine.overwritten();
    for pages in [4, 16, 40] {
        let mut options = options();
        options.store.page_cache_bytes = u64::from(SHARDS) * pages * (16 << 10);
        machine.start(options);
    }
}

#[test]
fn what_only_another_branch_would_touch_may_be_damaged() {
    let keys = |shard| {
        let keys = (0..KEYS).map(key);
        keys.filter(move |key| shard_of(key, SHARDS) == shard)
    };
    let mut machine = Machine::filled();
    machine.live(|world| async move {
        let node = open(&world, &options()).await;
        for (taken, other) in keys(0).zip(keys(3)) {
            let txn = Txn {
                compare: vec![Compare {
                    range: KeyRange::single(taken.clone()),
                    relation: Relation::Greater,
                    target: CompareTarget::Mod(0),
                }],
                success: vec![TxnOperation::Put(put_of(taken, "new"))],
                failure: vec![TxnOperation::Put(put_of(other, "never"))],
            };
            write(&node, Command::Txn(txn)).await;
        }
    });
    // The manifest is read from there, too.
    let unreadable = PlannedFault {
        operation: DiskOperation::Read,
        path_contains: "shard-03/pages".to_owned(),
        after: 1,
        repeat: true,
        fault: DiskFault::Error(EIO),
    };
    machine.simulation.plan_fault(machine.host, unreadable);
    machine.live(|world| async move {
        let node = open(&world, &options()).await;
        for taken in keys(0) {
            let value = Bytes::from_static(b"new");
            assert_eq!(read(&node, taken).await, Ok(Some(value)));
        }
        for other in keys(3).take(3) {
            let found = read(&node, other).await;
            assert!(matches!(found, Err(WriteError::Damaged(_))), "{found:?}");
        }
        assert_eq!(node.failure(), None);
    });
}
