//! The order of a checkpoint: as written down, and in every order in which the world may answer.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::checkpoint::{Action, ManifestRef, Sequence};
use crate::coordinator::{Applied, FrozenState};
use crate::planted::{Bug, with_planted};

const SHARDS: u16 = 2;

fn frozen(id: u32) -> FrozenState {
    FrozenState {
        id,
        applied: Applied {
            index: u64::from(id) * 10,
            revision: i64::from(id) * 100,
        },
        apply_hash: u64::from(id) * 1000,
        compact_revision: -1,
    }
}

fn manifest(shard: u16, id: u32) -> ManifestRef {
    ManifestRef {
        block: u64::from(id) * 8 + u64::from(shard),
        bytes: 4096,
        sum: u64::from(id),
    }
}

/// Writes inputs and the actions that follow, one per line.
struct Transcript {
    sequence: Sequence,
    text: String,
}

impl Transcript {
    fn input(&mut self, name: &str, input: impl FnOnce(&mut Sequence)) {
        input(&mut self.sequence);
        writeln!(self.text, "{name}").expect("a string");
        while let Some(action) = self.sequence.next_action() {
            let line = match action {
                Action::ReserveIds { through } => format!("reserve ids through {through}"),
                Action::Freeze { id } => format!("freeze {id}"),
                Action::WriteSuperblock {
                    id,
                    index,
                    term,
                    section,
                } => {
                    let (revision, hash) = (section.revision, section.apply_hash);
                    let blocks = section.manifests.iter().map(|manifest| manifest.block);
                    let blocks: Vec<u64> = blocks.collect();
                    format!(
                        "name {id}: index {index} term {term} revision {revision} hash {hash} at {blocks:?}"
                    )
                }
                Action::Publish { id, index } => format!("publish {id}, log from {index}"),
            };
            writeln!(self.text, "  → {line}").expect("a string");
        }
    }

    fn begin(&mut self) {
        self.input("begin", |sequence| {
            sequence.begin();
        });
    }

    fn frozen(&mut self, id: u32) {
        let name = format!("frozen {id}");
        self.input(&name, |sequence| sequence.frozen(frozen(id), 7, SHARDS));
    }

    fn image(&mut self, shard: u16, id: u32) {
        let name = format!("image {id} of shard {shard}");
        let manifest = manifest(shard, id);
        self.input(&name, |sequence| {
            sequence.image_durable(shard, id, manifest);
        });
    }

    fn reserved(&mut self, through: u64) {
        let name = format!("reserved {through}");
        self.input(&name, |sequence| sequence.ids_reserved(through));
    }

    fn superblock(&mut self, id: u64) {
        let name = format!("superblock {id}");
        self.input(&name, |sequence| sequence.superblock_durable(id));
    }
}

#[test]
fn two_checkpoints_and_a_closed_log_go_as_written_down() {
    let mut transcript = Transcript {
        sequence: Sequence::new(4, 9, 1),
        text: String::new(),
    };
    transcript.begin();
    transcript.begin();
    transcript.reserved(10);
    transcript.begin();
    transcript.frozen(10);
    transcript.image(1, 10);
    transcript.begin();
    transcript.image(0, 10);
    transcript.begin();
    transcript.superblock(10);
    transcript.begin();
    transcript.reserved(11);
    transcript.frozen(11);
    transcript.image(0, 11);
    transcript.input("close", Sequence::close);
    transcript.image(1, 11);
    transcript.begin();
    assert_eq!(
        transcript.text,
        "\
begin
  → reserve ids through 10
begin
reserved 10
  → freeze 10
begin
frozen 10
image 10 of shard 1
begin
image 10 of shard 0
  → name 10: index 100 term 7 revision 1000 hash 10000 at [80, 81]
begin
superblock 10
  → publish 10, log from 100
begin
  → reserve ids through 11
reserved 11
  → freeze 11
frozen 11
image 11 of shard 0
close
image 11 of shard 1
begin
"
    );
}

#[test]
fn ids_end_where_page_headers_have_no_room_for_more() {
    let last = u64::from(u32::MAX);
    let mut sequence = Sequence::new(1, last - 1, 1);
    assert!(sequence.begin());
    sequence.ids_reserved(last);
    let actions: Vec<Action> = std::iter::from_fn(|| sequence.next_action()).collect();
    let reserve = Action::ReserveIds { through: last };
    assert_eq!(actions, [reserve, Action::Freeze { id: u32::MAX }]);
    sequence.frozen(frozen(u32::MAX), 1, 1);
    sequence.image_durable(0, u32::MAX, manifest(0, 1));
    sequence.superblock_durable(last);
    assert!(sequence.is_idle());
    assert!(!sequence.begin());
    assert!(!Sequence::new(1, last, 64).begin());
}

#[test]
#[should_panic(expected = "in place")]
fn a_manifest_where_the_one_stands_that_counts_is_refused() {
    let mut sequence = Sequence::new(0, 0, 2);
    for id in 1..=2 {
        sequence.begin();
        sequence.ids_reserved(2);
        sequence.frozen(frozen(id), 1, 1);
        sequence.image_durable(0, id, manifest(0, 1));
        sequence.superblock_durable(id.into());
    }
}

// ---- every order ----

/// What is under way outside of the machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    Reserved(u64),
    Frozen(u32),
    Image(u16, u32),
    Superblock(u32),
}

/// The world around one member, with what the promises are about. Also the log and the disk of its lives.
#[derive(Clone)]
struct Around {
    sequence: Sequence,
    under_way: BTreeSet<Answer>,
    /// The superblock says so, durably.
    reserved: u64,
    counts: u32,
    /// Ids that were frozen, in any life.
    used: BTreeSet<u32>,
    images: BTreeSet<(u16, u32)>,
    lives: u32,
}

impl Around {
    fn new() -> Around {
        Around {
            sequence: Sequence::new(0, 0, 2),
            under_way: BTreeSet::new(),
            reserved: 0,
            counts: 0,
            used: BTreeSet::new(),
            images: BTreeSet::new(),
            lives: 1,
        }
    }

    /// Executes what the machine asks for, and judges it.
    fn obey(&mut self) -> Result<(), String> {
        while let Some(action) = self.sequence.next_action() {
            match action {
                Action::ReserveIds { through } => {
                    self.under_way.insert(Answer::Reserved(through));
                }
                Action::Freeze { id } => {
                    if u64::from(id) > self.reserved {
                        return Err(format!("{id} is frozen before it is reserved"));
                    }
                    if !self.used.insert(id) {
                        return Err(format!("{id} is frozen twice"));
                    }
                    // A shard that has nothing to write is done before the others are frozen.
                    let images = (0..SHARDS).map(|shard| Answer::Image(shard, id));
                    self.under_way.extend(images);
                    self.under_way.insert(Answer::Frozen(id));
                }
                Action::WriteSuperblock {
                    id, index, section, ..
                } => {
                    let state = frozen(id);
                    let expected: Vec<_> = (0..SHARDS).map(|shard| manifest(shard, id)).collect();
                    if (index, &section) != (state.applied.index, &state.section(expected)) {
                        return Err(format!("{id} is named as {section:?} at {index}"));
                    }
                    if (0..SHARDS).any(|shard| !self.images.contains(&(shard, id))) {
                        return Err(format!("{id} is named before all its images"));
                    }
                    self.under_way.insert(Answer::Superblock(id));
                }
                Action::Publish { id, .. } if self.counts != id => {
                    return Err(format!("{id} is published and {} counts", self.counts));
                }
                Action::Publish { .. } => {}
            }
        }
        Ok(())
    }

    fn answer(&mut self, answer: &Answer) {
        self.under_way.remove(answer);
        match *answer {
            Answer::Reserved(through) => {
                self.reserved = through;
                self.sequence.ids_reserved(through);
            }
            Answer::Frozen(id) => {
                self.sequence.frozen(frozen(id), 7, SHARDS);
            }
            Answer::Image(shard, id) => {
                self.images.insert((shard, id));
                self.sequence.image_durable(shard, id, manifest(shard, id));
            }
            Answer::Superblock(id) => {
                self.counts = id;
                self.sequence.superblock_durable(id.into());
            }
        }
    }

    /// The next life; what was under way is lost.
    fn crash(&mut self) {
        self.under_way.clear();
        self.lives += 1;
        self.sequence = Sequence::new(self.counts.into(), self.reserved, 2);
    }

    /// Everything that may happen from here on, `depth` steps deep. Answers how many states there are.
    fn explore(&self, depth: u32) -> Result<u64, String> {
        let mut states = 1;
        if depth == 0 {
            return Ok(states);
        }
        let mut go = |change: &dyn Fn(&mut Around)| {
            let mut next = self.clone();
            change(&mut next);
            next.obey()?;
            states += next.explore(depth - 1)?;
            Ok::<(), String>(())
        };
        if self.sequence.is_idle() {
            go(&|next| {
                next.sequence.begin();
            })?;
        } else if !self.sequence.clone().begin() {
            for answer in &self.under_way {
                go(&|next| next.answer(answer))?;
            }
        } else {
            return Err("two checkpoints at once".to_owned());
        }
        if self.lives < 3 {
            go(&|next| next.crash())?;
        }
        go(&|next| next.sequence.close())?;
        Ok(states)
    }
}

const DEPTH: u32 = 13;

#[test]
fn in_every_order_every_promise_is_kept() {
    let states = Around::new().explore(DEPTH).expect("kept");
    assert!(states > 10_000, "{states} states");
}

#[test]
fn every_rule_taken_away_is_found() {
    for (bug, finding) in [
        (Bug::CheckpointIdReused, "is frozen twice"),
        (Bug::IdBeforeReservation, "is frozen before it is reserved"),
        (Bug::SuperblockBeforeImages, "is named"),
        (Bug::PublishedBeforeSuperblock, "is published and"),
    ] {
        let found = with_planted(Some(bug), || Around::new().explore(DEPTH));
        let found = found.expect_err("a broken promise");
        assert!(found.contains(finding), "{bug:?}: {found}");
    }
}
