//! A device that fails one request, and one that is full.
//!
//! After a failed request the log reports it once and then nothing more: what it acknowledged before is
//! found by the next process. A full device only delays.

use super::promise::{Checked, Promise, broken};
use super::world::{Style, World};
use super::{Fate, Random};

/// What the runs met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FailureCounts {
    /// Runs in which a request failed.
    pub failures: u64,
    /// Those in which it was one of the running log.
    pub poisoned: u64,
    /// What was attempted, in order and with repetitions.
    pub verbs: Vec<&'static str>,
    /// Times that a segment found no space.
    pub no_space: u64,
}

/// One life in which the n-th request fails, for a random n, and the next opening.
///
/// # Errors
/// The first broken promise.
pub fn failing_request(
    seed: u64,
    style: Style,
    enumerate: bool,
    counts: &mut FailureCounts,
) -> Checked<()> {
    let mut random = Random::new(seed ^ 0xE10);
    let mut world = World::new(seed, style, false);
    let lives = random.below(3);
    if lives > 0 {
        world.run(lives)?;
    }
    world.enumerate(enumerate);
    let fate = [Fate::Kept, Fate::Lost, Fate::Torn(1), Fate::Torn(!1)][random.below(4) as usize];
    let early = random.percent(30);
    let after = random.below(if early { 40 } else { 200 });
    world.disk.fail_after(after, fate);
    world.life()?;
    if world.poisoned {
        // Time and completions bring nothing more.
        world.settle()?;
        counts.poisoned += 1;
    }
    if let Some(verb) = world.disk.failed() {
        counts.failures += 1;
        counts.verbs.push(verb);
    }
    world.crash_at_random();
    world.run(1)
}

/// One life on a device that has no room for further segments, then room again.
///
/// # Errors
/// The first broken promise, also if something that was appended never becomes durable.
pub fn scarce_space(seed: u64, style: Style, counts: &mut FailureCounts) -> Checked<()> {
    let mut random = Random::new(seed ^ 0x5BACE);
    let mut world = World::new(seed, style, false);
    world.run(1)?;
    world.never_stops = true;
    let lengths = world.disk.file_list().into_iter().map(|(_, length)| length);
    let room = lengths.sum::<u64>() + random.below(2) * world.config.segment_bytes;
    world.disk.limit_room(Some(room));
    world.life()?;
    counts.no_space += world.no_space;
    if random.percent(50) {
        world.disk.limit_room(None);
        for _ in 0..20 {
            world.settle()?;
        }
        if !world.all_is_durable() {
            return broken(Promise::Progress, "entries wait although there is room");
        }
    }
    world.crash_at_random();
    world.disk.limit_room(None);
    world.run(1)
}
