//! Clients that keep leases, and a monitor that asks for them all the time.
//!
//! The rules: a lease never ends before its time to live has passed since its last successful renewal
//! was *sent*, and it ends within that time plus some slack after the renewal was *answered*; a lease
//! that is gone stays gone; a restart gives every lease its full time again.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use engine::command::{Command, LeaseId, Put};
use reactor::World;
use ringd::node::{Home, Node};

use crate::clients::perform;
use crate::history::{Action, Outcome, TrackedLease};
use crate::member::{Busy, Phase, Shared};

/// How late an expiry may be: the disk stalls, loads take time.
const SLACK: u64 = 4_000_000_000;
/// What found no room is tried again after a second, by the log and by who asked for it.
const SHORTAGE_SLACK: u64 = 3_000_000_000;
const SECOND: u64 = 1_000_000_000;
const MONITOR_INTERVAL: Duration = Duration::from_millis(20);

/// Grants leases, renews them for a while, then revokes or leaves them.
pub async fn run_lease_keeper(world: World, node: Node, shared: Rc<Shared>, client: usize) {
    let _busy = Busy::new(&shared);
    while shared.wants_more() {
        let Some(id) = grant(&world, &node, &shared, client).await else {
            world.sleep(Duration::from_millis(100)).await;
            continue;
        };
        let put = Put {
            key: Bytes::from(format!("lease/{id}")),
            value: Bytes::from(format!("kept-{id}")),
            lease: LeaseId(id),
            prev_kv: false,
            ignore_value: false,
            ignore_lease: false,
        };
        perform(&node, &shared, client, Action::Write(Command::Put(put))).await;
        let renewals = shared.clients.borrow_mut()[client].random.below(4);
        for _ in 0..renewals {
            let ttl = shared.history.borrow().leases[&id].ttl as u64;
            let nanos = shared.clients.borrow_mut()[client]
                .random
                .below(ttl * SECOND);
            world.sleep(Duration::from_nanos(nanos)).await;
            if !shared.wants_more() || !renew(&world, &node, &shared, id).await {
                break;
            }
        }
        if shared.clients.borrow_mut()[client].random.below(3) == 0 {
            if let Some(lease) = shared.history.borrow_mut().leases.get_mut(&id) {
                lease.revoke_asked = true;
            }
            let revoke = Action::Write(Command::LeaseRevoke { id: LeaseId(id) });
            perform(&node, &shared, client, revoke).await;
        }
        if shared.phase.get() == Phase::Failed {
            return;
        }
    }
}

async fn grant(world: &World, node: &Node, shared: &Shared, client: usize) -> Option<i64> {
    let id = shared.next_lease.get();
    shared.next_lease.set(id + 1);
    let ttl = 1 + shared.clients.borrow_mut()[client].random.below(3) as i64;
    let asked = shared.now(world);
    let command = Command::LeaseGrant {
        id: LeaseId(id),
        ttl,
    };
    let outcome = perform(node, shared, client, Action::Write(command)).await;
    if !matches!(outcome, Outcome::Answered { .. }) {
        return None;
    }
    let lease = TrackedLease {
        ttl,
        not_before: asked + ttl as u64 * SECOND,
        renewed_by: shared.now(world),
        revoke_asked: false,
        gone: false,
    };
    shared.history.borrow_mut().leases.insert(id, lease);
    Some(id)
}

/// Renews; false when the lease is gone.
async fn renew(world: &World, node: &Node, shared: &Shared, id: i64) -> bool {
    let now = shared.now(world);
    let Ok(renewed) = node.keep_alive(LeaseId(id)).await else {
        return false;
    };
    let mut history = shared.history.borrow_mut();
    match renewed {
        Some(ttl) => {
            history.lease_renewed(id, now, shared.now(world));
            let granted = history.leases[&id].ttl;
            if ttl != granted {
                history.violation(format!("lease {id} of {granted} s was renewed for {ttl} s"));
            }
            true
        }
        // Its expiry may be on its way through the log; that it ends is seen by the monitor.
        None => {
            // The question may have been on its way for a while, to another core.
            let now = shared.now(world);
            let lease = &history.leases[&id];
            if !lease.revoke_asked && !lease.gone && now < lease.not_before {
                let early = lease.not_before - now;
                history.violation(format!("lease {id} was not renewed, {early} ns too early"));
            }
            false
        }
    }
}

/// Asks for every tracked lease again and again.
pub async fn run_lease_monitor(world: World, node: Node, shared: Rc<Shared>) {
    while matches!(shared.phase.get(), Phase::Serving | Phase::Quiet) {
        let now = shared.now(&world);
        let ids: Vec<i64> = shared.history.borrow().leases.keys().copied().collect();
        for id in ids {
            let home = node.home().expect("the monitor is at home");
            check_lease(&home, &shared, id, now);
        }
        world.sleep(MONITOR_INTERVAL).await;
    }
}

fn check_lease(home: &Home, shared: &Shared, id: i64, now: u64) {
    let status = home.lease_status(LeaseId(id));
    let mut history = shared.history.borrow_mut();
    let lease = history.leases[&id].clone();
    let Some(status) = status else {
        return history.lease_is_gone(id, now, "the monitor");
    };
    if lease.gone {
        return history.violation(format!("lease {id} is there again after it had ended"));
    }
    if status.granted_ttl != lease.ttl || status.remaining_ttl > lease.ttl {
        history.violation(format!("lease {id} of {} s answers {status:?}", lease.ttl));
    }
    // Where something is short, the expiry waits for it in the log.
    let shortage = shared.plan.shortage.map_or(0, |shortage| {
        shortage.time.as_nanos() as u64 + SHORTAGE_SLACK
    });
    let due = lease.renewed_by + lease.ttl as u64 * SECOND + SLACK + shortage;
    if now > due && !lease.revoke_asked {
        let late = now - due;
        history.violation(format!(
            "lease {id} of {} s is {late} ns overdue",
            lease.ttl
        ));
    }
}
