//! Instants of a core's monotonic clock, and the table of pending timers.
//!
//! The table is a binary heap with lazy removal: a dropped [`Sleep`] leaves a dead heap entry, and when
//! dead entries outnumber live ones the heap is rebuilt. It never reads a clock itself.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::future::Future;
use std::ops::Add;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;

use crate::world::World;

/// A point of the monotonic clock, in nanoseconds since an origin that is fixed per process (or simulated host).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Nanoseconds since the clock's origin.
    pub fn nanos(self) -> u64 {
        self.0
    }

    /// Time from `earlier` to `self`; zero if `earlier` is later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Timestamp;

    fn add(self, duration: Duration) -> Timestamp {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Timestamp(self.0.saturating_add(nanos))
    }
}

/// The time given to [`World::timeout`] ran out before the future finished.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the time ran out")
    }
}

impl std::error::Error for Elapsed {}

/// Identifies one registered timer; never reused while its heap entry exists.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct TimerId {
    /// Order of registration: timers of one instant fire in this order.
    sequence: u64,
    slot: usize,
}

struct Timer {
    sequence: u64,
    waker: Waker,
}

/// All pending timers of a core.
///
/// Invariants
/// - each live timer has exactly one heap entry with its sequence number
/// - `dead` is the number of heap entries without a live timer
#[derive(Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Timestamp, TimerId)>>,
    live: Slab<Timer>,
    dead: usize,
    sequence: u64,
}

impl Timers {
    fn insert(&mut self, deadline: Timestamp, waker: Waker) -> TimerId {
        let sequence = self.sequence;
        self.sequence += 1;
        let slot = self.live.insert(Timer { sequence, waker });
        let id = TimerId { sequence, slot };
        self.heap.push(Reverse((deadline, id)));
        id
    }

    fn is_live(&self, id: TimerId) -> bool {
        self.live
            .get(id.slot)
            .is_some_and(|timer| timer.sequence == id.sequence)
    }

    fn update(&mut self, id: TimerId, waker: &Waker) {
        if self.is_live(id) {
            self.live[id.slot].waker.clone_from(waker);
        }
    }

    /// Removes the timer; returns its waker so that the caller drops it outside of any borrow.
    fn remove(&mut self, id: TimerId) -> Option<Waker> {
        if !self.is_live(id) {
            return None;
        }
        let waker = self.live.remove(id.slot).waker;
        self.dead += 1;
        if self.dead > 64 && self.dead > self.live.len() {
            let live = &self.live;
            self.heap.retain(|Reverse((_, id))| {
                live.get(id.slot)
                    .is_some_and(|timer| timer.sequence == id.sequence)
            });
            self.dead = 0;
        }
        Some(waker)
    }

    /// The earliest live deadline.
    pub(crate) fn next_deadline(&mut self) -> Option<Timestamp> {
        while let Some(Reverse((deadline, id))) = self.heap.peek().copied() {
            if self.is_live(id) {
                return Some(deadline);
            }
            self.heap.pop();
            self.dead -= 1;
        }
        None
    }

    /// Takes one timer whose deadline is at or before `now`.
    pub(crate) fn pop_due(&mut self, now: Timestamp) -> Option<Waker> {
        if self.next_deadline()? > now {
            return None;
        }
        let Reverse((_, id)) = self.heap.pop()?;
        Some(self.live.remove(id.slot).waker)
    }

    /// Live timers.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.live.len()
    }

    /// Asserts the invariants of the table.
    #[cfg(test)]
    fn check(&self) {
        assert_eq!(self.heap.len(), self.live.len() + self.dead);
    }
}

/// Waits for an instant. Dropping it removes the timer.
pub struct Sleep {
    world: World,
    deadline: Timestamp,
    timer: Option<TimerId>,
}

impl Sleep {
    pub(crate) fn new(world: World, deadline: Timestamp) -> Sleep {
        Sleep {
            world,
            deadline,
            timer: None,
        }
    }

    /// The instant it waits for.
    pub fn deadline(&self) -> Timestamp {
        self.deadline
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.world.now() >= self.deadline {
            return Poll::Ready(());
        }
        match self.timer {
            Some(id) if self.world.timers().is_live(id) => {
                self.world.timers().update(id, context.waker())
            }
            _ => {
                let id = self
                    .world
                    .timers()
                    .insert(self.deadline, context.waker().clone());
                self.timer = Some(id);
            }
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(id) = self.timer {
            let waker = self.world.timers().remove(id);
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::task::Wake;

    /// Remembers when it was woken last.
    #[derive(Default)]
    struct Bell(AtomicU64);

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn due_timers_come_in_order_of_deadline_then_registration() {
        let mut timers = Timers::default();
        let bells: Vec<_> = (0..4).map(|_| Arc::new(Bell::default())).collect();
        for (bell, deadline) in bells.iter().zip([5, 3, 5, 9]) {
            timers.insert(Timestamp(deadline), Arc::clone(bell).into());
        }
        assert_eq!(timers.next_deadline(), Some(Timestamp(3)));
        for expected in [1, 0, 2] {
            timers.pop_due(Timestamp(5)).unwrap().wake();
            assert_eq!(
                bells[expected].0.swap(0, Ordering::Relaxed),
                1,
                "bell {expected}"
            );
            timers.check();
        }
        assert!(timers.pop_due(Timestamp(5)).is_none());
        assert_eq!(timers.next_deadline(), Some(Timestamp(9)));
    }

    #[test]
    fn removed_timers_do_not_pile_up() {
        let mut timers = Timers::default();
        let kept = timers.insert(Timestamp(1_000_000), Waker::noop().clone());
        for round in 0..100_000u64 {
            let id = timers.insert(Timestamp(round % 977), Waker::noop().clone());
            assert!(timers.remove(id).is_some());
            assert!(timers.remove(id).is_none());
            timers.check();
            assert!(timers.heap.len() < 200, "{} entries", timers.heap.len());
        }
        assert_eq!(timers.len(), 1);
        assert!(timers.is_live(kept));
        assert_eq!(timers.next_deadline(), Some(Timestamp(1_000_000)));
        timers.check();
    }

    #[test]
    fn a_slot_used_again_does_not_answer_to_its_old_name() {
        let mut timers = Timers::default();
        let old = timers.insert(Timestamp(1), Waker::noop().clone());
        timers.remove(old);
        let new = timers.insert(Timestamp(2), Waker::noop().clone());
        assert_eq!(old.slot, new.slot);
        assert!(timers.remove(old).is_none());
        assert!(timers.is_live(new));
        assert_eq!(timers.next_deadline(), Some(Timestamp(2)));
    }
}
