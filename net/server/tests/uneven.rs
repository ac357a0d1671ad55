//! A member whose changes fall on one shard alone, on a simulated disk.

mod member;

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use engine::command::*;
use engine::shard::shard_of;
use member::{answer, small};
use reactor::sim::{RunEnd, Simulation, SimulationOptions};
use ringd::log::Logger;
use ringd::node::Node;

/// Shards of a new data directory.
const SHARDS: u16 = 4;
/// One shard may have 2 MiB of pages, and waits for a checkpoint with three quarters of them dirty.
const PAGE_CACHE_BYTES: u64 = 8 << 20;
/// Keys fill the pages: these are more than 2 MiB.
const KEYS: usize = 1500;
/// All of it takes far less.
const DEADLINE_NANOS: u64 = 600_000_000_000;

/// Long keys of the first shard.
fn keys() -> impl Iterator<Item = Bytes> {
    let key = |number: usize| Bytes::from(format!("{number:07}-{}", "k".repeat(1500)));
    let keys = (0..).map(key);
    keys.filter(|key| shard_of(key, SHARDS) == 0).take(KEYS)
}

/// The other shards are clean, so that little of all page caches together is dirty.
#[test]
fn one_full_shard_gets_its_checkpoint() {
    let mut simulation = Simulation::new(1, SimulationOptions::default());
    let host = simulation.add_host("member");
    let answered = Rc::new(Cell::new(0));
    let count = answered.clone();
    let mut options = small();
    options.store.page_cache_bytes = PAGE_CACHE_BYTES;
    options.checkpoints.log_bytes = u64::MAX;
    simulation.start_core(host, move |world| async move {
        let logger = Rc::new(Logger::silent());
        let node = Node::open(world, options, logger).await.expect("opens");
        node.ready().await.expect("serves");
        for key in keys() {
            let put = Put {
                key,
                value: Bytes::new(),
                lease: LeaseId::NONE,
                prev_kv: false,
                ignore_value: false,
                ignore_lease: false,
            };
            let put = Operation::Write(Command::Put(put));
            answer(&node, put).await.expect("a put");
            count.set(count.get() + 1);
        }
        assert!(
            node.home().expect("home").checkpoint_status().count > 0,
            "more than fits was kept"
        );
    });
    let end = simulation.run_until(DEADLINE_NANOS, || answered.get() == KEYS);
    assert_eq!(
        (end, answered.get()),
        (RunEnd::Condition, KEYS),
        "changes wait for good"
    );
}
