//! Which leases exist.
//!
//! Owned by the sequencer and equal on every member. It knows no deadline: those live with the
//! leader, and expiry arrives as a command. Which keys hang on a lease is known by the shards: a
//! key is attached to the lease of its newest version, so overwriting or deleting it detaches it.

use std::collections::BTreeMap;

use crate::command::LeaseId;

/// The granted leases with their times to live.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseTable {
    ttls: BTreeMap<LeaseId, i64>,
}

/// A change of the table, for whoever keeps the deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    /// A lease now exists.
    Granted {
        /// Which.
        id: LeaseId,
        /// Its time to live, seconds.
        ttl: i64,
    },
    /// A lease is gone, and its keys with it.
    Revoked {
        /// Which.
        id: LeaseId,
    },
}

impl LeaseTable {
    /// Whether `id` may be attached to a key.
    pub fn contains(&self, id: LeaseId) -> bool {
        self.ttls.contains_key(&id)
    }

    /// Granted time to live of `id`, seconds.
    pub fn ttl(&self, id: LeaseId) -> Option<i64> {
        self.ttls.get(&id).copied()
    }

    /// All leases with their times to live, by id.
    pub fn iter(&self) -> impl Iterator<Item = (LeaseId, i64)> + '_ {
        self.ttls.iter().map(|(id, ttl)| (*id, *ttl))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ttls.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ttls.is_empty()
    }

    /// Adds a lease; `false` if the id is in use.
    pub(crate) fn grant(&mut self, id: LeaseId, ttl: i64) -> bool {
        if self.contains(id) {
            return false;
        }
        self.ttls.insert(id, ttl);
        true
    }

    /// Removes a lease; `false` if there is none.
    pub(crate) fn revoke(&mut self, id: LeaseId) -> bool {
        self.ttls.remove(&id).is_some()
    }
}
