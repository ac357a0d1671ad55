//! Deadlines of leases, in the leader's memory.
//!
//! Time is the leader's monotonic clock, passed in as nanoseconds. A lease never ends before its
//! time to live has passed on that clock since its grant or its last renewal; a lease whose expiry
//! was handed out ([`LeaseClock::due`]) cannot be renewed any more. Before [`LeaseClock::start`]
//! nothing is due: the member does not lead yet, and a lease begins anew with its leader.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use crate::command::LeaseId;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug)]
struct Lease {
    ttl: i64,
    deadline_nanos: u64,
    /// Its expiry was handed out.
    expiring: bool,
}

/// See the module.
///
/// Invariant: once started, each lease that is not expiring has an element in `queue` at or before
/// its deadline. Renewals move only the deadline; the element is put back when it is met too early.
#[derive(Debug, Default)]
pub struct LeaseClock {
    leases: BTreeMap<LeaseId, Lease>,
    queue: BinaryHeap<Reverse<(u64, LeaseId)>>,
    started: bool,
}

impl LeaseClock {
    /// A clock without leases, not started.
    pub fn new() -> LeaseClock {
        LeaseClock::default()
    }

    /// The member leads from now on: every lease has its full time to live again.
    pub fn start(&mut self, now_nanos: u64) {
        self.started = true;
        self.queue.clear();
        for (id, lease) in &mut self.leases {
            lease.deadline_nanos = deadline(now_nanos, lease.ttl);
            lease.expiring = false;
            self.queue.push(Reverse((lease.deadline_nanos, *id)));
        }
    }

    /// A lease was granted.
    pub fn granted(&mut self, id: LeaseId, ttl: i64, now_nanos: u64) {
        let deadline_nanos = deadline(now_nanos, ttl);
        self.leases.insert(
            id,
            Lease {
                ttl,
                deadline_nanos,
                expiring: false,
            },
        );
        if self.started {
            self.queue.push(Reverse((deadline_nanos, id)));
        }
    }

    /// A lease is gone.
    pub fn revoked(&mut self, id: LeaseId) {
        self.leases.remove(&id);
    }

    /// Renews a lease and answers its time to live in seconds; `None` if there is no such lease or
    /// its expiry is under way.
    pub fn renew(&mut self, id: LeaseId, now_nanos: u64) -> Option<i64> {
        let lease = self.leases.get_mut(&id).filter(|lease| !lease.expiring)?;
        lease.deadline_nanos = deadline(now_nanos, lease.ttl);
        Some(lease.ttl)
    }

    /// Seconds a lease was granted for.
    pub fn granted_ttl(&self, id: LeaseId) -> Option<i64> {
        self.leases.get(&id).map(|lease| lease.ttl)
    }

    /// Whole seconds a lease has left, 0 when it is about to end.
    pub fn remaining_seconds(&self, id: LeaseId, now_nanos: u64) -> Option<i64> {
        let lease = self.leases.get(&id)?;
        let left = lease.deadline_nanos.saturating_sub(now_nanos) / NANOS_PER_SECOND;
        Some(i64::try_from(left).unwrap_or(i64::MAX))
    }

    /// Ids of all leases, ascending.
    pub fn ids(&self) -> Vec<LeaseId> {
        self.leases.keys().copied().collect()
    }

    /// How many leases there are.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Up to `count_max` leases whose time is over; each is handed out once, until
    /// [`LeaseClock::expiry_failed`].
    pub fn due(&mut self, now_nanos: u64, count_max: usize) -> Vec<LeaseId> {
        let mut due = Vec::new();
        while due.len() < count_max {
            let Some(&Reverse((at, id))) = self.queue.peek() else {
                break;
            };
            if at > now_nanos {
                break;
            }
            self.queue.pop();
            let Some(lease) = self.leases.get_mut(&id).filter(|lease| !lease.expiring) else {
                continue;
            };
            if lease.deadline_nanos > now_nanos {
                self.queue.push(Reverse((lease.deadline_nanos, id)));
            } else {
                lease.expiring = true;
                due.push(id);
            }
        }
        due
    }

    /// The expiry of these leases was not taken: they are due again.
    pub fn expiry_failed(&mut self, ids: &[LeaseId], now_nanos: u64) {
        for id in ids {
            if let Some(lease) = self.leases.get_mut(id) {
                lease.expiring = false;
                self.queue
                    .push(Reverse((now_nanos + NANOS_PER_SECOND / 2, *id)));
            }
        }
    }

    /// When to look again; a renewed lease may not be due then.
    pub fn next_deadline(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse((at, _))| *at)
    }
}

fn deadline(now_nanos: u64, ttl: i64) -> u64 {
    let ttl = u64::try_from(ttl)
        .unwrap_or(0)
        .saturating_mul(NANOS_PER_SECOND);
    now_nanos.saturating_add(ttl)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = NANOS_PER_SECOND;

    fn clock(ttls: &[i64]) -> LeaseClock {
        let mut clock = LeaseClock::new();
        for (id, ttl) in ttls.iter().enumerate() {
            clock.granted(LeaseId(id as i64 + 1), *ttl, 0);
        }
        clock
    }

    #[test]
    fn nothing_is_due_before_the_start_and_nothing_early_after_it() {
        let mut clock = clock(&[5, 7]);
        assert_eq!(clock.due(100 * SECOND, 9), []);
        clock.start(100 * SECOND);
        assert_eq!(clock.due(105 * SECOND - 1, 9), []);
        assert_eq!(clock.due(105 * SECOND, 9), [LeaseId(1)]);
        assert_eq!(clock.due(106 * SECOND, 9), []);
        assert_eq!(clock.next_deadline(), Some(107 * SECOND));
    }

    #[test]
    fn a_renewal_moves_the_deadline_and_an_expiring_lease_is_not_renewed() {
        let mut clock = clock(&[5]);
        clock.start(0);
        assert_eq!(clock.renew(LeaseId(1), 4 * SECOND), Some(5));
        assert_eq!(clock.due(5 * SECOND, 9), []);
        assert_eq!(clock.remaining_seconds(LeaseId(1), 5 * SECOND), Some(4));
        assert_eq!(clock.due(9 * SECOND, 9), [LeaseId(1)]);
        assert_eq!(clock.renew(LeaseId(1), 9 * SECOND), None);
        clock.expiry_failed(&[LeaseId(1)], 9 * SECOND);
        assert_eq!(clock.due(10 * SECOND, 9), [LeaseId(1)]);
        clock.revoked(LeaseId(1));
        assert_eq!(clock.granted_ttl(LeaseId(1)), None);
    }

    #[test]
    fn groups_are_bounded_and_huge_ttls_do_not_overflow() {
        let mut clock = clock(&[1, 1, 1, 9_000_000_000, i64::MAX]);
        clock.start(0);
        assert_eq!(clock.due(SECOND, 2).len(), 2);
        assert_eq!(clock.due(SECOND, 9), [LeaseId(3)]);
        assert_eq!(clock.due(2 * SECOND, 9), []);
    }
}
