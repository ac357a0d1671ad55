//! Snapshots of a whole member on a simulated disk: one revision whatever goes on meanwhile, and nothing is held
//! behind their end.

mod member;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bolt::etcd::Snapshot as File;
use bytes::Bytes;
use engine::command::*;
use engine::key::{End, KeyRange};
use member::{answer, small};
use reactor::World;
use reactor::sim::{Simulation, SimulationOptions, Step};
use ringd::log::Logger;
use ringd::node::{Node, NodeOptions, Snapshot, SnapshotError};

const KEYS: u64 = 800;
const LENGTH_MAX: u64 = 3000;

fn options() -> NodeOptions {
    let mut options = small();
    options.checkpoints.operations = 400;
    options.store.segment_bytes_first = 64 << 10;
    options.store.piece_bytes = 8 << 10;
    options.store.tail_bytes_max = 0;
    options.store.value_cache_bytes = 256 << 10;
    options.load_delay_max = Duration::from_micros(300);
    options
}

fn run<F: Future<Output = ()> + 'static>(life: impl FnOnce(World, Node) -> F + 'static) {
    let mut simulation = Simulation::new(11, SimulationOptions::calm());
    let host = simulation.add_host("member");
    let core = simulation.start_core(host, |world| async move {
        let opened = Node::open(world.clone(), options(), Rc::new(Logger::silent())).await;
        let node = opened.unwrap_or_else(|error| panic!("{error}"));
        node.ready().await.expect("ready");
        life(world, node).await;
    });
    for _ in 0..40_000_000 {
        if simulation.main_ended(core) {
            return;
        }
        assert!(!matches!(simulation.step(), Step::Idle));
    }
    panic!("the life does not end");
}

async fn fill(node: &Node, world: &World) {
    for number in 0..KEYS {
        let len = world.random_u64() % LENGTH_MAX;
        let put = Put {
            key: Bytes::from(format!("key-{:04}", number * 7919 % KEYS)),
            value: Bytes::from(vec![b'a' + (len % 26) as u8; len as usize]),
            lease: LeaseId::NONE,
            prev_kv: false,
            ignore_value: false,
            ignore_lease: false,
        };
        let put = Operation::Write(Command::Put(put));
        answer(node, put).await.expect("written");
    }
}

async fn compact(node: &Node, revision: i64) {
    let compact = Operation::Write(Command::Compact { revision });
    answer(node, compact).await.expect("compacted");
}

/// All keys with what is known of them, at a revision.
async fn listed(node: &Node, revision: i64) -> Vec<KeyValue> {
    let range = KeyRange {
        start: Bytes::from_static(b"\0"),
        end: End::Unbounded,
    };
    let range = Range {
        revision,
        ..Range::all(range)
    };
    let answer = answer(node, Operation::Range(range)).await.expect("read");
    let Reply::Range(reply) = answer.reply else {
        unreachable!("a range answers a range")
    };
    reply.kvs
}

/// What is left of a snapshot, behind what was taken of it.
async fn rest(snapshot: &Snapshot, mut file: Vec<u8>) -> Result<Vec<u8>, SnapshotError> {
    while let Some(piece) = snapshot.next().await? {
        file.extend(piece);
    }
    Ok(file)
}

/// Checks a file; answers what is alive in it at each of these revisions.
fn alive(file: &[u8], revisions: &[i64]) -> Vec<Vec<KeyValue>> {
    let mut snapshot = File::open(file, file.len() as u64).expect("a file");
    snapshot.check_sum().expect("its sum");
    let mut versions = snapshot.versions().expect("versions");
    let (mut keys, mut states) = (BTreeMap::new(), Vec::new());
    let mut revisions = revisions.iter().peekable();
    while let Some((revision, version)) = versions.next_version().expect("sound") {
        while revisions.next_if(|at| **at < revision.main).is_some() {
            states.push(keys.values().cloned().collect());
        }
        let kv = KeyValue {
            key: version.key.clone(),
            value: version.value,
            create_revision: version.create_revision,
            mod_revision: version.mod_revision,
            version: version.version,
            lease: LeaseId(version.lease),
        };
        match revision.tombstone {
            true => keys.remove(&version.key),
            false => keys.insert(version.key, kv),
        };
    }
    states.extend(revisions.map(|_| keys.values().cloned().collect()));
    states
}

#[test]
fn a_snapshot_is_one_revision_whatever_goes_on() {
    run(|world, node| async move {
        fill(&node, &world).await;
        fill(&node, &world).await;
        let compacted = node.header().revision - 300;
        compact(&node, compacted).await;
        let newest = node.header().revision;
        let revisions = [compacted, newest - 100, newest];
        let mut expected = Vec::new();
        for revision in revisions {
            expected.push(listed(&node, revision).await);
        }
        let snapshot = node.snapshot();
        let bytes = snapshot.file_bytes().await.expect("measured");
        let first = snapshot.next().await.expect("made").expect("a piece");
        // Its client stalls, while records are overwritten, compacted and their segments emptied.
        for _ in 0..3 {
            fill(&node, &world).await;
            compact(&node, node.header().revision).await;
            world.sleep(Duration::from_secs(60)).await;
        }
        let file = rest(&snapshot, first).await.expect("made");
        assert_eq!(file.len() as u64, bytes);
        assert_eq!(alive(&file, &revisions), expected);
        drop(snapshot);
        world.sleep(Duration::from_secs(1)).await;
        assert_eq!(node.pins(), 0);
    });
}

#[test]
fn a_client_that_goes_away_leaves_nothing() {
    run(|world, node| async move {
        fill(&node, &world).await;
        let gone = node.snapshot();
        gone.file_bytes().await.expect("measured");
        let begun = node.snapshot();
        assert_eq!(node.pins(), 1);
        let first = gone.next().await.expect("made");
        assert!(first.is_some());
        for _ in 0..2 {
            fill(&node, &world).await;
        }
        compact(&node, node.header().revision).await;
        world.sleep(Duration::from_secs(60)).await;
        let held = node.home().expect("home").status().size_in_use_bytes;
        drop((gone, begun));
        node.compacted().await.expect("passed");
        world.sleep(Duration::from_secs(60)).await;
        assert_eq!(node.pins(), 0);
        let left = node.home().expect("home").status().size_in_use_bytes;
        assert!(left < held / 2, "{held} bytes held, {left} left");
        // Further ones have their places.
        for _ in 0..3 {
            let snapshot = node.snapshot();
            rest(&snapshot, Vec::new()).await.expect("made");
        }
    });
}

#[test]
fn a_snapshot_that_takes_too_long_is_overtaken() {
    run(|world, node| async move {
        // More than is made ahead of the client.
        for _ in 0..3 {
            fill(&node, &world).await;
        }
        let snapshot = node.snapshot();
        assert!(snapshot.next().await.expect("made").is_some());
        world.sleep(Duration::from_secs(3601)).await;
        assert_eq!(node.pins(), 0);
        fill(&node, &world).await;
        compact(&node, node.header().revision).await;
        let ended = rest(&snapshot, Vec::new()).await;
        assert_eq!(ended.map(|_| ()), Err(SnapshotError::Overtaken));
    });
}
