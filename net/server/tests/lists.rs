//! Large lists of a whole member on a simulated disk: the same bytes as whole answers, at a revision that is
//! held for them.

mod member;

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use engine::auth::{Authorized, AuthorizedOperation, Identity as Caller, Policy, authorize};
use engine::command::*;
use engine::key::{End, KeyRange};
use grpc::mapping::list::{list_end, list_head, list_piece, listed_len};
use grpc::mapping::{Header, encode_reply};
use member::{answer, small};
use reactor::sim::{Simulation, SimulationOptions, Step};
use reactor::{Class, World};
use ringd::log::Logger;
use ringd::node::{LISTS_MAX, List, Node, NodeOptions, Ranged, WriteError};

const KEYS: u64 = 300;

fn options() -> NodeOptions {
    let mut options = small();
    options.checkpoints.operations = 200;
    options.store.segment_bytes_first = 64 << 10;
    options.store.piece_bytes = 8 << 10;
    options.store.tail_bytes_max = 0;
    options.store.value_cache_bytes = 256 << 10;
    options.load_delay_max = Duration::from_micros(300);
    options
}

fn run<F: Future<Output = ()> + 'static>(life: impl FnOnce(World, Node) -> F + 'static) {
    let mut simulation = Simulation::new(5, SimulationOptions::calm());
    let host = simulation.add_host("member");
    let core = simulation.start_core(host, |world| async move {
        let opened = Node::open(world.clone(), options(), Rc::new(Logger::silent())).await;
        let node = opened.unwrap_or_else(|error| panic!("{error}"));
        node.ready().await.expect("ready");
        life(world, node).await;
    });
    for _ in 0..20_000_000 {
        if simulation.main_ended(core) {
            return;
        }
        assert!(!matches!(simulation.step(), Step::Idle));
    }
    panic!("the life does not end");
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("key-{number:04}"))
}

async fn put(node: &Node, world: &World, number: u64, length_max: u64) {
    let len = world.random_u64() % length_max;
    let put = Put {
        key: key(number),
        value: Bytes::from(vec![b'a' + (len % 26) as u8; len as usize]),
        lease: LeaseId::NONE,
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    };
    let put = Operation::Write(Command::Put(put));
    answer(node, put).await.expect("written");
}

async fn fill(node: &Node, world: &World, length_max: u64) {
    for number in 0..KEYS {
        put(node, world, number * 7919 % KEYS, length_max).await;
    }
}

fn authorized(range: Range) -> Authorized<Range> {
    let operation = Operation::Range(range);
    match authorize(operation, &Caller::Member, &Policy::Disabled)
        .expect("allowed")
        .split()
    {
        AuthorizedOperation::Range(range) => range,
        _ => unreachable!("a range stays a range"),
    }
}

fn everything() -> Range {
    Range::all(KeyRange {
        start: Bytes::from_static(b"\0"),
        end: End::Unbounded,
    })
}

fn some_range(world: &World, revision: i64) -> Range {
    let draw = |below: u64| world.random_u64() % below;
    let bound = |on: bool| match on {
        true => draw(revision as u64) as i64,
        false => 0,
    };
    let (start, end) = (draw(KEYS), draw(KEYS));
    let bounds = draw(4);
    Range {
        range: KeyRange {
            start: key(start.min(end)),
            end: match draw(3) {
                0 => End::Unbounded,
                _ => End::Before(key(start.max(end))),
            },
        },
        limit: [0, 0, 1, 7, 100, 10_000][draw(6) as usize],
        revision: bound(draw(3) == 0),
        sort_order: [SortOrder::None, SortOrder::Ascend, SortOrder::Descend][draw(3) as usize],
        sort_target: [
            SortTarget::Key,
            SortTarget::Key,
            SortTarget::Version,
            SortTarget::Create,
            SortTarget::Mod,
        ][draw(5) as usize],
        keys_only: draw(4) == 0,
        min_mod_revision: bound(bounds == 0),
        max_mod_revision: bound(bounds == 1),
        min_create_revision: bound(bounds == 2 && draw(2) == 0),
        max_create_revision: bound(bounds == 2),
        ..everything()
    }
}

fn wire(header: ringd::node::Header) -> Header {
    Header {
        cluster_id: header.cluster_id,
        member_id: header.member_id,
        revision: header.revision,
        raft_term: header.raft_term,
    }
}

/// All bytes of a list's answer, whose length was told before.
async fn encoded(mut list: List) -> Result<Vec<u8>, WriteError> {
    let mut bytes = list_head(&wire(list.header())).to_vec();
    let mut expected = bytes.len();
    let end = list
        .outline(|listed| expected += listed_len(listed))
        .await?;
    let last = list_end(end.more, end.count);
    let mut body = list.values(end.keys);
    while let Some(piece) = body.next().await? {
        assert!(!piece.is_empty());
        bytes.extend(list_piece(&piece).concat());
    }
    bytes.extend_from_slice(&last);
    assert_eq!(bytes.len(), expected + last.len());
    Ok(bytes)
}

#[test]
fn lists_have_the_bytes_of_whole_answers() {
    run(|world, node| async move {
        fill(&node, &world, 3000).await;
        fill(&node, &world, 100).await;
        fill(&node, &world, 1500).await;
        let revision = node.header().revision;
        for _ in 0..400 {
            let range = some_range(&world, revision);
            let whole = answer(&node, Operation::Range(range.clone())).await;
            let whole = whole.map(|whole| encode_reply(&wire(whole.header), &whole.reply));
            let listed = match node.list(authorized(range.clone())).await {
                Ok(list) => encoded(list).await,
                Err(error) => Err(error),
            };
            assert_eq!(listed.map(Bytes::from), whole, "{range:?}");
        }
        world.sleep(Duration::from_millis(10)).await;
        assert_eq!(node.pins(), 0, "lists that are over hold nothing");
    });
}

#[test]
fn only_large_answers_are_lists() {
    run(|world, node| async move {
        fill(&node, &world, 500).await;
        let small = node.range_or_list(authorized(everything())).await;
        assert!(matches!(small, Ok(Ranged::Whole(_))));
        fill(&node, &world, 20_000).await;
        let large = node.range_or_list(authorized(everything())).await;
        let Ok(Ranged::List(list)) = large else {
            panic!("an answer of 3 MB is a list");
        };
        let whole = answer(&node, Operation::Range(everything())).await;
        let whole = whole.map(|whole| encode_reply(&wire(whole.header), &whole.reply));
        assert_eq!(encoded(list).await.map(Bytes::from), whole);
        // What has to be sorted by its values is held as a whole.
        let by_value = Range {
            sort_target: SortTarget::Value,
            ..everything()
        };
        let by_value = node.range_or_list(authorized(by_value)).await;
        assert!(matches!(by_value, Ok(Ranged::Whole(_))));
    });
}

async fn compact(node: &Node) {
    let revision = node.header().revision;
    let compact = Operation::Write(Command::Compact { revision });
    answer(node, compact).await.expect("compacted");
    node.compacted().await.expect("passed");
}

#[test]
fn a_list_holds_its_revision_while_its_client_stalls() {
    run(|world, node| async move {
        fill(&node, &world, 3000).await;
        let whole = answer(&node, Operation::Range(everything())).await;
        let whole = whole.expect("read");
        let expected = encode_reply(&wire(whole.header), &whole.reply);
        let list = node.list(authorized(everything())).await.expect("begun");
        let gone = node.list(authorized(everything())).await.expect("begun");
        for _ in 0..3 {
            fill(&node, &world, 3000).await;
            compact(&node).await;
            world.sleep(Duration::from_secs(60)).await;
        }
        let held = node.home().expect("home").status().size_in_use_bytes;
        assert_eq!(encoded(list).await.map(Bytes::from), Ok(expected));
        world.sleep(Duration::from_millis(10)).await;
        assert_eq!(node.pins(), 1);
        // Its client goes away: what was held for it goes.
        drop(gone);
        world.sleep(Duration::from_secs(1)).await;
        assert_eq!(node.pins(), 0);
        node.compacted().await.expect("passed");
        let left = node.home().expect("home").status().size_in_use_bytes;
        assert!(left + KEYS * 700 < held, "{held} bytes held, {left} left");
    });
}

#[test]
fn a_list_that_takes_too_long_is_overtaken() {
    run(|world, node| async move {
        fill(&node, &world, 3000).await;
        let mut list = node.list(authorized(everything())).await.expect("begun");
        let end = list.outline(|_| {}).await.expect("read");
        let mut body = list.values(end.keys);
        let first = body.next().await.expect("read").expect("some keys");
        assert!(first.len() < KEYS as usize);
        world.sleep(Duration::from_secs(601)).await;
        assert_eq!(node.pins(), 0);
        // Nobody else needs the revision gone yet.
        assert!(body.next().await.expect("read").is_some());
        fill(&node, &world, 3000).await;
        compact(&node).await;
        let compacted = Err(WriteError::Command(CommandError::Compacted));
        let mut last = body.next().await;
        while let Ok(Some(_)) = last {
            last = body.next().await;
        }
        assert_eq!(last, compacted);
    });
}

#[test]
fn a_list_too_many_waits_until_one_is_over() {
    run(|world, node| async move {
        fill(&node, &world, 3000).await;
        let mut lists = Vec::new();
        for _ in 0..LISTS_MAX {
            lists.push(node.list(authorized(everything())).await.expect("begun"));
        }
        let further = node.clone();
        let waiting = world.spawn_joinable(Class::Request, async move {
            let list = further.list(authorized(everything())).await.expect("begun");
            encoded(list).await.expect("read")
        });
        // Somebody who waits may go away.
        let given_up = node.list(authorized(everything()));
        let given_up = world.timeout(Duration::from_secs(5), given_up).await;
        assert!(given_up.is_err());
        assert_eq!(node.pins(), LISTS_MAX);
        lists.pop();
        let expected = encoded(lists.pop().expect("a list")).await.expect("read");
        assert_eq!(waiting.await, Some(expected));
        drop(lists);
        world.sleep(Duration::from_secs(1)).await;
        assert_eq!(node.pins(), 0);
    });
}
