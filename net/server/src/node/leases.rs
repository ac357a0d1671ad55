//! Leases of a member: deadlines live here, in the leader's memory, on the monotonic clock; grants,
//! revokes and expiries travel through the log.

use engine::command::{Command, LEASES_PER_EXPIRE_MAX, LeaseId};
use engine::lease::LeaseChange;
use engine::read::LeaseKeysRead;

use super::{Home, Node, State, WriteError};
use crate::planted::{Bug, planted};
use bytes::Bytes;

/// What is known of one lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseStatus {
    /// Seconds it was granted for.
    pub granted_ttl: i64,
    /// Seconds left, rounded up to what a client may rely on.
    pub remaining_ttl: i64,
}

impl Node {
    /// Renews a lease; its TTL in seconds, or `None` if there is no such lease.
    ///
    /// # Errors
    /// `Stopped` if home is gone.
    pub async fn keep_alive(&self, id: LeaseId) -> Result<Option<i64>, WriteError> {
        self.at_home(move |home| home.keep_alive(id)).await
    }

    /// What is known of a lease.
    ///
    /// # Errors
    /// `Stopped` if home is gone.
    pub async fn lease_status(&self, id: LeaseId) -> Result<Option<LeaseStatus>, WriteError> {
        self.at_home(move |home| home.lease_status(id)).await
    }

    /// Ids of all leases, ascending.
    ///
    /// # Errors
    /// `Stopped` if home is gone.
    pub async fn leases(&self) -> Result<Vec<LeaseId>, WriteError> {
        self.at_home(Home::leases).await
    }

    /// Keys attached to a lease, in key order.
    ///
    /// # Errors
    /// `Stopped` when the node ends meanwhile.
    pub async fn keys_of_lease(&self, id: LeaseId) -> Result<Vec<Bytes>, WriteError> {
        let mut read = LeaseKeysRead::new(id, self.0.shards.count());
        self.fan_out(&mut read).await?;
        Ok(read.finish())
    }
}

impl Home {
    pub(super) fn take_lease_changes(&self, changes: &[LeaseChange]) {
        if changes.is_empty() {
            return;
        }
        let now = self.0.world.now().nanos();
        let metrics = &self.0.board.metrics.member;
        let mut leases = self.parts.leases.borrow_mut();
        for change in changes {
            match *change {
                LeaseChange::Granted { id, ttl } => {
                    leases.granted(id, ttl, now);
                    metrics.leases_granted.increment();
                    metrics.lease_seconds.observe(ttl.max(0) as u64);
                }
                LeaseChange::Revoked { id } => {
                    leases.revoked(id);
                    metrics.leases_revoked.increment();
                }
            }
        }
        self.parts.lease_work.raise();
    }

    /// As [`Node::keep_alive`].
    fn keep_alive(&self, id: LeaseId) -> Option<i64> {
        if planted(Bug::ForgetRenewal) {
            return self.parts.leases.borrow().granted_ttl(id);
        }
        let now = self.0.world.now().nanos();
        let renewed = self.parts.leases.borrow_mut().renew(id, now);
        if renewed.is_some() {
            self.0.board.metrics.member.leases_renewed.increment();
        }
        renewed
    }

    /// As [`Node::leases`].
    pub fn leases(&self) -> Vec<LeaseId> {
        self.parts.leases.borrow().ids()
    }

    /// As [`Node::lease_status`].
    pub fn lease_status(&self, id: LeaseId) -> Option<LeaseStatus> {
        let now = self.0.world.now().nanos();
        let leases = self.parts.leases.borrow();
        let granted_ttl = leases.granted_ttl(id)?;
        let remaining_ttl = leases.remaining_seconds(id, now)?;
        Some(LeaseStatus {
            granted_ttl,
            remaining_ttl,
        })
    }

    /// Proposes the expiry of leases when their deadline has passed, in groups.
    pub(super) async fn run_leases(&self) {
        loop {
            if self.state() > State::Serving {
                return;
            }
            if self.state() == State::Serving {
                let now = self.0.world.now().nanos();
                let due = self
                    .parts
                    .leases
                    .borrow_mut()
                    .due(now, LEASES_PER_EXPIRE_MAX);
                if !due.is_empty() {
                    self.expire(due).await;
                    continue;
                }
            }
            let deadline = self.parts.leases.borrow().next_deadline();
            wait_for(&self.0.world, &self.parts.lease_work, deadline).await;
        }
    }

    /// One expiry command; leases of a command that did not get through are due again.
    async fn expire(&self, ids: Vec<LeaseId>) {
        let command = Command::LeaseExpire { ids: ids.clone() };
        let expired = self.write_as_member(command).await;
        if expired.is_ok() {
            let metrics = &self.0.board.metrics.member;
            metrics.leases_expired.add(ids.len() as u64);
        }
        if let Err(error) = expired {
            self.0.logger.warn(
                "lease expiry was not taken and is tried again",
                &[
                    ("leases", ids.len().into()),
                    ("error", format!("{error:?}").into()),
                ],
            );
            let now = self.0.world.now().nanos();
            self.parts.leases.borrow_mut().expiry_failed(&ids, now);
        }
    }
}

/// Waits until `flag` is raised or the monotonic clock reaches `deadline_nanos`.
pub(super) async fn wait_for(
    world: &reactor::World,
    flag: &crate::local::Flag,
    deadline_nanos: Option<u64>,
) {
    let Some(nanos) = deadline_nanos else {
        flag.wait().await;
        return;
    };
    // A deadline that has passed and cannot be met yet must not keep the core from what it waits for.
    if world.now().nanos() >= nanos {
        return world.yield_now().await;
    }
    let mut sleep = world.sleep_until(reactor::Timestamp(nanos));
    let mut raised = flag.wait();
    std::future::poll_fn(|context| {
        use std::future::Future;
        let slept = std::pin::Pin::new(&mut sleep).poll(context).is_ready();
        if slept || std::pin::Pin::new(&mut raised).poll(context).is_ready() {
            return std::task::Poll::Ready(());
        }
        std::task::Poll::Pending
    })
    .await;
}
