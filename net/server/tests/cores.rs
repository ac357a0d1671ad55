//! A member on several simulated cores: every core answers the same, watches are woken wherever they are, shards
//! move with their files, and it ends as one.

mod member;

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use engine::command::*;
use engine::key::KeyRange;
use engine::shard::shard_of;
use engine::watch::{Output, WatchSpec};
use member::{answer, small};
use reactor::sim::{DiskFault, DiskOperation, HostId, PlannedFault, Simulation, SimulationOptions};
use reactor::{Class, OpenOptions, World};
use ringd::cores::placement::Placement;
use ringd::cores::seats;
use ringd::local::{Flag, one_shot};
use ringd::log::Logger;
use ringd::node::{Node, NodeOptions, WriteError};

fn options() -> NodeOptions {
    let mut options = small();
    options.placement = Placement::Gathered;
    options
}

fn put_of(key: &str, value: &str) -> Operation {
    Operation::Write(Command::Put(Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        lease: LeaseId::NONE,
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    }))
}

/// The revision of the answer.
async fn put(node: &Node, key: &str, value: &str) -> i64 {
    let answer = answer(node, put_of(key, value)).await.expect("written");
    answer.header.revision
}

fn everything() -> KeyRange {
    KeyRange::from_wire(Bytes::from_static(b"\0"), Bytes::from_static(b"\0"))
}

/// Header revision and all keys with their values.
async fn list(node: &Node) -> (i64, Vec<(Bytes, Bytes)>) {
    let range = Operation::Range(Range::all(everything()));
    let answer = answer(node, range).await.expect("read");
    let Reply::Range(reply) = answer.reply else {
        unreachable!("a range answers a range")
    };
    let pairs = reply.kvs.into_iter().map(|kv| (kv.key, kv.value));
    (answer.header.revision, pairs.collect())
}

/// Something to do on a core.
type Job = Box<dyn FnOnce(Node)>;

/// A core as the test sees it. What is to be done on it is brought by a flag, which wakes it.
#[derive(Clone)]
struct Core {
    node: Node,
    jobs: Rc<Jobs>,
}

#[derive(Default)]
struct Jobs {
    waiting: RefCell<Vec<Job>>,
    flag: Flag,
}

impl std::ops::Deref for Core {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl Core {
    fn start(node: Node) -> Core {
        let jobs = Rc::new(Jobs::default());
        let (taken, worker) = (jobs.clone(), node.clone());
        drop(node.world().spawn(Class::Request, async move {
            loop {
                taken.flag.wait().await;
                for job in taken.waiting.take() {
                    job(worker.clone());
                }
            }
        }));
        Core { node, jobs }
    }
}

struct Machine {
    simulation: Simulation,
    host: HostId,
    /// The nodes of all cores that are ready.
    nodes: Rc<RefCell<Vec<Option<Core>>>>,
}

impl Machine {
    fn new(seed: u64) -> Machine {
        let mut simulation = Simulation::new(seed, SimulationOptions::calm());
        let host = simulation.add_host("member");
        let nodes = Rc::default();
        Machine {
            simulation,
            host,
            nodes,
        }
    }

    /// Runs `life` on the first core with all cores, to its end; then kills the process. The simulation has one
    /// thread, so a test may use another core for what does not wait, and wait there with [`on`].
    fn live<F: Future<Output = ()> + 'static>(
        &mut self,
        cores: u16,
        capacity: usize,
        options: &NodeOptions,
        life: impl FnOnce(World, Vec<Core>) -> F + 'static,
    ) {
        *self.nodes.borrow_mut() = vec![None; usize::from(cores)];
        let mut seats = seats(cores, capacity).into_iter();
        let home = seats.next().expect("a home");
        let (nodes, home_options) = (self.nodes.clone(), options.clone());
        let ended = Rc::new(Cell::new(false));
        let end = ended.clone();
        self.simulation.start_core(self.host, |world| async move {
            let logger = Rc::new(Logger::silent());
            let opened = Node::open_home(world.clone(), home, home_options, logger).await;
            let node = opened.unwrap_or_else(|error| panic!("{error}"));
            node.ready().await.expect("ready");
            nodes.borrow_mut()[0] = Some(Core::start(node));
            while nodes.borrow().iter().any(Option::is_none) {
                world.sleep(Duration::from_micros(10)).await;
            }
            let all = nodes.borrow().iter().flatten().cloned().collect();
            life(world, all).await;
            end.set(true);
        });
        for seat in seats {
            let (nodes, options) = (self.nodes.clone(), options.clone());
            self.simulation.start_core(self.host, |world| async move {
                let logger = Rc::new(Logger::silent());
                let core = usize::from(seat.core());
                let node = Node::join(world, seat, options, logger)
                    .await
                    .expect("home opened");
                node.ready().await.expect("ready");
                nodes.borrow_mut()[core] = Some(Core::start(node.clone()));
                node.ended().await;
            });
        }
        for _ in 0..20_000_000 {
            if ended.get() {
                self.nodes.borrow_mut().clear();
                self.simulation.crash(self.host, reactor::sim::Crash::Kill);
                self.simulation.run_for(Duration::from_millis(20));
                return;
            }
            self.simulation.step();
        }
        panic!("the life has no end");
    }
}

/// Runs `work` on `core` and waits for it here.
async fn on<T: 'static, F: Future<Output = T> + 'static>(
    core: &Core,
    work: impl FnOnce(Node) -> F + 'static,
) -> T {
    let (responder, waiting) = one_shot();
    let job = move |node: Node| {
        let world = node.world().clone();
        let work = work(node);
        drop(world.spawn(Class::Request, async move { responder.answer(work.await) }));
    };
    core.jobs.waiting.borrow_mut().push(Box::new(job));
    core.jobs.flag.raise();
    waiting.await.expect("the core lives")
}

#[test]
fn every_core_answers_the_same() {
    for (cores, capacity) in [(2, 1), (4, 1), (4, 1024)] {
        let mut machine = Machine::new(7);
        machine.live(cores, capacity, &options(), move |_, nodes| async move {
            let home = nodes[0].home().expect("home");
            for (turn, spread) in [false, true].into_iter().enumerate() {
                if spread {
                    for shard in 0..4 {
                        let moved = home.move_shard(shard, shard % cores).await;
                        assert_eq!(moved, shard % cores != 0, "shard {shard}");
                    }
                }
                for (number, node) in nodes.iter().enumerate() {
                    for key in 0..20 {
                        let key = format!("{turn}-{number}-{key}");
                        let revision = on(node, |node| async move { put(&node, &key, "v").await });
                        let revision = revision.await;
                        for other in &nodes {
                            let seen = other.header().revision;
                            assert!(seen >= revision, "{seen} after {revision}");
                        }
                    }
                }
                let expected = list(&nodes[0]).await;
                assert_eq!(expected.1.len(), (turn + 1) * 20 * usize::from(cores));
                let hash = nodes[0].hash_kv(0).await.expect("hashed").hash;
                for node in &nodes {
                    let listed = on(node, |node| async move { list(&node).await }).await;
                    assert_eq!(listed, expected);
                    let found = on(node, |node| async move { node.hash_kv(0).await }).await;
                    assert_eq!(found.expect("hashed").hash, hash);
                    let status = on(node, |node| async move { node.status().await }).await;
                    assert_eq!(
                        status.expect("answered").applied_index,
                        nodes[0].applied().index
                    );
                }
            }
            assert_eq!(home.moves(), 4 - u64::from(4 / cores));
        });
    }
}

/// Writes that wait for a checkpoint must leave a way home for the report that its images are durable.
#[test]
fn writers_of_another_core_wait_for_its_checkpoints() {
    const WRITERS: usize = 260;
    const PUTS: usize = 20;
    let mut machine = Machine::new(11);
    let mut options = options();
    // Three quarters of a shard's 2 MiB may be dirty.
    options.store.page_cache_bytes = 8 << 20;
    options.checkpoints.log_bytes = u64::MAX;
    options.log.record_bytes_max = 2 << 20;
    options.log.segment_bytes = 4 << 20;
    machine.live(2, 1, &options, |world, nodes| async move {
        let home = nodes[0].home().expect("home");
        assert!(home.move_shard(0, 1).await);
        let done = Rc::new(Cell::new(0));
        for writer in 0..WRITERS {
            let done = done.clone();
            drop(world.spawn(Class::Request, {
                // Most of them at home, where they need no link.
                let core = nodes[usize::from(writer < 4)].clone();
                async move {
                    on(&core, move |node| async move {
                        // Long keys fill pages.
                        let key = |number| format!("{number:07}-{}", "k".repeat(1500));
                        let keys = (writer..).step_by(WRITERS).map(key);
                        let here = |key: &String| shard_of(key.as_bytes(), 4) == 0;
                        for key in keys.filter(here).take(PUTS) {
                            put(&node, &key, "").await;
                        }
                    })
                    .await;
                    done.set(done.get() + 1);
                }
            }));
        }
        while done.get() < WRITERS {
            world.sleep(Duration::from_millis(1)).await;
        }
        assert!(home.checkpoint_status().count > 1);
    });
}

#[test]
fn a_watcher_on_another_core_is_woken() {
    let mut machine = Machine::new(3);
    machine.live(2, 1, &options(), |world, nodes| async move {
        for watched_from in [&nodes[1], &nodes[0]] {
            let seen = Rc::new(RefCell::new(Vec::new()));
            let told = seen.clone();
            on(watched_from, |node| async move {
                let stream = node.open_watch_stream();
                let spec = WatchSpec {
                    range: everything(),
                    start_revision: 0,
                    prev_kv: false,
                    no_put: false,
                    no_delete: false,
                    progress_notify: false,
                    fragment: false,
                    id: None,
                };
                stream.create(spec).expect("created");
                drop(node.world().spawn(Class::Request, async move {
                    while let Some(output) = stream.next(1 << 20).await {
                        if let Output::Events { events, .. } = output {
                            let revision =
                                |event: &Rc<engine::watch::SharedEvent>| event.event.revision.main;
                            told.borrow_mut().extend(events.iter().map(revision));
                        }
                    }
                }));
            })
            .await;
            for number in 0..10 {
                let revision = put(&nodes[number % 2], "key", "value").await;
                world.sleep(Duration::from_millis(1)).await;
                assert_eq!(seen.borrow().last(), Some(&revision));
            }
        }
    });
}

#[test]
fn a_shard_moves_with_its_files_and_their_locks() {
    let mut machine = Machine::new(5);
    let mut options = options();
    options.checkpoints.operations = 20;
    machine.live(3, 1, &options, |world, nodes| async move {
        let home = nodes[0].home().expect("home");
        let path = Path::new("/data/shard-01/pages");
        let lock = || async {
            let wanted = OpenOptions {
                read: true,
                write: true,
                lock: true,
                ..OpenOptions::default()
            };
            world.open(path, wanted).await.map(drop)
        };
        for round in 0..12 {
            for number in 0..15 {
                put(&nodes[number % 3], &format!("{round}-{number}"), "value").await;
            }
            while !home.move_shard(1, round % 3).await && home.owner(1) != round % 3 {
                world.sleep(Duration::from_millis(1)).await;
            }
            if round > 1 {
                let refused = lock().await.expect_err("the file is locked");
                assert_eq!(refused.kind(), std::io::ErrorKind::ResourceBusy);
            }
        }
        assert!(home.moves() >= 8, "{} moves", home.moves());
        let checkpoints = home.checkpoint_status().count;
        assert!(checkpoints > 3, "{checkpoints} checkpoints");
        on(&nodes[2], |node| async move { node.stop().await }).await;
    });
    // One core opens what three have written.
    machine.live(1, 1, &options, |_, nodes| async move {
        assert_eq!(list(&nodes[0]).await.1.len(), 12 * 15);
    });
}

#[test]
fn a_disk_that_fails_under_another_core_ends_the_member() {
    let mut machine = Machine::new(9);
    let mut options = options();
    options.checkpoints.operations = 30;
    options.placement = Placement::Spread;
    let fault = PlannedFault {
        operation: DiskOperation::Write,
        path_contains: "shard-01/pages".to_owned(),
        after: 0,
        repeat: false,
        fault: DiskFault::Error(5),
    };
    machine.simulation.plan_fault(machine.host, fault);
    machine.live(2, 2, &options, |world, nodes| async move {
        let home = nodes[0].home().expect("home");
        while home.owner(1) != 1 {
            world.sleep(Duration::from_millis(1)).await;
        }
        let mut refused = None;
        for number in 0..1000 {
            let operation = put_of(&format!("key-{number}"), "value");
            let answered = on(&nodes[number % 2], |node| async move {
                answer(&node, operation)
                    .await
                    .map(|answer| answer.header.revision)
            });
            if let Err(error) = answered.await {
                refused = Some(error);
                break;
            }
            world.sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(refused, Some(WriteError::Stopped));
        for node in &nodes {
            let why = on(node, |node| async move { node.failed().await }).await;
            assert!(why.contains("shard-01/pages"), "{why}");
        }
    });
}

#[test]
fn leases_live_at_home_for_every_core() {
    let mut machine = Machine::new(4);
    machine.live(2, 1, &options(), |world, nodes| async move {
        let id = LeaseId(77);
        let grant = Operation::Write(Command::LeaseGrant { id, ttl: 2 });
        on(&nodes[1], |node| async move {
            answer(&node, grant).await.map(drop)
        })
        .await
        .expect("granted");
        for _ in 0..6 {
            world.sleep(Duration::from_millis(700)).await;
            let renewed = on(
                &nodes[1],
                move |node| async move { node.keep_alive(id).await },
            )
            .await;
            assert_eq!(renewed, Ok(Some(2)));
            let listed = on(&nodes[1], |node| async move { node.leases().await }).await;
            assert_eq!(listed, Ok(vec![id]));
        }
        world.sleep(Duration::from_secs(4)).await;
        let found = on(
            &nodes[1],
            move |node| async move { node.lease_status(id).await },
        )
        .await;
        assert_eq!(found, Ok(None));
    });
}
