//! The scrub of a whole member on a simulated disk: it finds what is damaged, and nothing else.

#[path = "member/life.rs"]
mod life;
#[path = "member/lines.rs"]
mod lines;
mod member;

use std::time::Duration;

use bytes::Bytes;
use engine::auth::{AuthorizedOperation, Identity as Caller, Policy, authorize};
use engine::command::*;
use engine::key::{End, KeyRange};
use life::run_to_end;
use lines::{Lines, matching, open};
use member::{answer, small};
use reactor::World;
use reactor::sim::{HostId, Simulation, SimulationOptions};
use ringd::node::{Node, NodeOptions, WriteError};

const KEYS: usize = 300;
const ROUND: Duration = Duration::from_secs(20);

fn options() -> NodeOptions {
    let mut options = small();
    options.scrub_interval = ROUND;
    options.checkpoints.operations = 150;
    options.store.segment_bytes_first = 32 << 10;
    options.store.segment_bytes_max = 64 << 10;
    options.store.piece_bytes = 4 << 10;
    options.store.tail_bytes_max = 0;
    options.store.value_cache_bytes = 16 << 10;
    options.store.page_cache_bytes = 1 << 20;
    options
}

fn key(number: usize) -> Bytes {
    Bytes::from(format!("{:0>200}", format!("key-{number:04}")))
}

fn value(number: usize, round: usize) -> Bytes {
    Bytes::from(vec![b'a' + ((number + 7 * round) % 26) as u8; 900])
}

async fn put(node: &Node, number: usize, round: usize) {
    let put = Put {
        key: key(number),
        value: value(number, round),
        lease: LeaseId::NONE,
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    };
    let put = answer(node, Operation::Write(Command::Put(put))).await;
    put.map(drop).expect("written");
}

async fn read(node: &Node, number: usize) -> Result<Option<Bytes>, WriteError> {
    let range = Range::all(KeyRange::single(key(number)));
    let Reply::Range(reply) = answer(node, Operation::Range(range)).await?.reply else {
        unreachable!("a range answers a range")
    };
    Ok(reply.kvs.into_iter().next().map(|kv| kv.value))
}

async fn compact(node: &Node) {
    let revision = node.applied().revision;
    let compacted = answer(node, Operation::Write(Command::Compact { revision })).await;
    compacted.map(drop).expect("compacted");
}

const DAMAGED: &str = "stored data is damaged; only requests that need it fail";

struct Machine {
    simulation: Simulation,
    host: HostId,
    lines: Lines,
}

impl Machine {
    fn new(seed: u64, hardware: SimulationOptions) -> Machine {
        let mut simulation = Simulation::new(seed, hardware);
        let host = simulation.add_host("member");
        Machine {
            simulation,
            host,
            lines: Lines::default(),
        }
    }

    /// Runs `life` to its end, then kills the process.
    fn live<F: Future<Output = ()> + 'static>(&mut self, life: impl FnOnce(World, Lines) -> F) {
        let lines = self.lines.clone();
        run_to_end(&mut self.simulation, self.host, |world| life(world, lines));
    }

    /// A member with all keys in a published checkpoint.
    fn filled() -> Machine {
        let mut machine = Machine::new(1, SimulationOptions::calm());
        machine.live(|world, lines| async move {
            let node = open(&world, &options(), &lines).await;
            for number in 0..KEYS {
                put(&node, number, 0).await;
            }
            world.sleep(Duration::from_secs(3)).await;
            assert!(node.home().expect("home").checkpoint_status().count > 0);
        });
        machine
    }

    /// Flips a bit in the middle of the file's first block that holds something; where.
    fn flip(&mut self, path: &str, from: u64) -> u64 {
        let image = self.simulation.disk_image(self.host);
        let image = image.read(path).expect("the file");
        let block = (from as usize..image.len())
            .step_by(4096)
            .find(|at| image[*at..*at + 4096].iter().any(|byte| *byte != 0));
        let at = block.expect("something is in it") + 2048;
        let flipped = [image[at] ^ 1];
        let hit = self.simulation.damage(self.host, path, at as u64, &flipped);
        assert!(hit, "{path}");
        at as u64
    }
}

#[test]
fn a_flipped_bit_in_a_value_is_found_and_all_else_stays_readable() {
    let mut machine = Machine::filled();
    let path = "shard-01/0000000000000001.events";
    let at = machine.flip(&format!("/data/{path}"), 8192);
    machine.live(move |world, lines| async move {
        let node = open(&world, &options(), &lines).await;
        world.sleep(ROUND * 2).await;
        let found = matching(&lines, DAMAGED);
        // Told once a round.
        assert!(!found.is_empty());
        let named = |line: &String| line.contains(&format!("\"file\":\"{path}\""));
        assert!(found.iter().all(named), "{found:?}");
        assert_eq!(
            node.home().expect("home").status().damaged_places,
            1,
            "flipped at {at}"
        );
        assert_eq!(
            node.home().expect("home").alarms(),
            [],
            "nobody else is refused anything"
        );
        let mut damaged = 0;
        for number in 0..KEYS {
            match read(&node, number).await {
                Ok(found) => assert_eq!(found, Some(value(number, 0))),
                Err(WriteError::Damaged(damage)) => {
                    assert_eq!(damage.file, path);
                    damaged += 1;
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        assert_eq!(damaged, 1);
        for number in 0..KEYS {
            put(&node, number, 1).await;
            assert_eq!(read(&node, number).await, Ok(Some(value(number, 1))));
        }
        assert_eq!(node.failure(), None);
    });
}

#[test]
fn a_flipped_bit_in_a_page_is_found() {
    let mut machine = Machine::filled();
    let path = "shard-02/pages";
    // Every block in use, one after the other, until one that an image still names is hit.
    let mut from = 0;
    let found = loop {
        let at = machine.flip(&format!("/data/{path}"), from);
        from = at / 4096 * 4096 + 4096;
        let lines = machine.lines.clone();
        lines.borrow_mut().clear();
        machine.live(move |world, lines| async move {
            let node = open(&world, &options(), &lines).await;
            world.sleep(ROUND * 2).await;
            assert_eq!(node.failure(), None);
        });
        let found = matching(&lines, DAMAGED);
        if !found.is_empty() {
            break found;
        }
        // What was flipped belongs to nobody; flipped back it is out of the way.
        machine.flip(&format!("/data/{path}"), at / 4096 * 4096);
    };
    assert!(found[0].contains(path), "{found:?}");
}

#[test]
fn a_scrub_beside_checkpoints_collections_and_evictions_raises_no_false_alarm() {
    let mut rounds = 0;
    for seed in 1..=6 {
        let mut machine = Machine::new(seed, SimulationOptions::rough(seed));
        machine.live(move |world, lines| async move {
            let mut options = options();
            options.scrub_interval = Duration::from_millis(50);
            options.store.page_cache_bytes = 512 << 10;
            let node = open(&world, &options, &lines).await;
            for round in 0..20 {
                for number in 0..KEYS {
                    put(&node, number, round).await;
                    if number % 3 == 0 {
                        let other = (number * 7 + round) % KEYS;
                        if round > 0 {
                            read(&node, other).await.expect("read").expect("there");
                        }
                    }
                }
                compact(&node).await;
            }
            assert!(node.home().expect("home").checkpoint_status().count > 3);
        });
        let lines = &machine.lines;
        assert_eq!(
            matching(lines, DAMAGED),
            Vec::<String>::new(),
            "seed {seed}"
        );
        assert!(!matching(lines, "segment collection ends").is_empty());
        rounds += matching(lines, "scrub ends").len();
    }
    assert!(rounds >= 6, "{rounds} rounds");
}

/// The keys of a list of the first `limit` keys.
async fn listed(node: &Node, limit: usize) -> Result<Vec<Bytes>, WriteError> {
    let mut range = Range::all(KeyRange {
        start: Bytes::from_static(b"\0"),
        end: End::Unbounded,
    });
    range.limit = limit as i64;
    let authorized = authorize(Operation::Range(range), &Caller::Member, &Policy::Disabled);
    let AuthorizedOperation::Range(range) = authorized.expect("allowed").split() else {
        unreachable!("a range stays a range")
    };
    let mut list = node.list(range).await?;
    let end = list.outline(|_| {}).await?;
    let mut body = list.values(end.keys);
    let mut keys = Vec::new();
    while let Some(piece) = body.next().await? {
        keys.extend(piece.into_iter().map(|listed| listed.kv.key));
    }
    Ok(keys)
}

#[test]
fn a_limited_list_does_not_meet_damage_behind_its_last_key() {
    let mut machine = Machine::filled();
    machine.flip("/data/shard-01/0000000000000001.events", 8192);
    machine.live(move |world, lines| async move {
        let node = open(&world, &options(), &lines).await;
        let mut keys: Vec<(Bytes, usize)> = (0..KEYS).map(|number| (key(number), number)).collect();
        keys.sort();
        let mut place = None;
        for (at, (_, number)) in keys.iter().enumerate() {
            if read(&node, *number).await.is_err() {
                place = Some(at);
            }
        }
        let place = place.expect("one value is damaged");
        assert!(place > 4, "there is little before it");
        for limit in [1, 2, place / 2, place - 1, place] {
            let expected: Vec<Bytes> = keys[..limit].iter().map(|(key, _)| key.clone()).collect();
            let found = listed(&node, limit).await;
            assert_eq!(found, Ok(expected), "limit {limit}, damage at {place}");
        }
        let met = listed(&node, place + 1).await;
        assert!(matches!(met, Err(WriteError::Damaged(_))), "{met:?}");
    });
}
