//! Replicated state beside the keys, and the commands that change only that.

use std::collections::{BTreeMap, BTreeSet};

use crate::command::*;
use crate::lease::{LeaseChange, LeaseTable};
use crate::txn;

/// The alarms raised: (member, kind).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alarms {
    pub(super) raised: BTreeSet<(u64, AlarmKind)>,
}

impl Alarms {
    /// Whether some member raised `kind`.
    pub fn is_raised(&self, kind: AlarmKind) -> bool {
        self.raised.iter().any(|(_, raised)| *raised == kind)
    }

    /// All of them, by member.
    pub fn iter(&self) -> impl Iterator<Item = (u64, AlarmKind)> + '_ {
        self.raised.iter().copied()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.raised.is_empty()
    }
}

/// Replicated state of the whole store, and what the entry under way changed of it.
#[derive(Debug)]
pub(super) struct Meta {
    /// Revision of the last change.
    pub revision: i64,
    /// −1: nothing was compacted.
    pub compacted: i64,
    pub leases: LeaseTable,
    pub alarms: Alarms,
    pub members: BTreeMap<u64, MemberAttributes>,
    pub cluster_version: Option<String>,
    /// Chain over all changes made here.
    pub effects: u64,
    lease_changes: Vec<LeaseChange>,
    alarms_changed: bool,
}

impl Default for Meta {
    fn default() -> Self {
        Meta {
            revision: 1,
            compacted: -1,
            leases: LeaseTable::default(),
            alarms: Alarms::default(),
            members: BTreeMap::new(),
            cluster_version: None,
            effects: 0,
            lease_changes: Vec::new(),
            alarms_changed: false,
        }
    }
}

impl Meta {
    /// Refuses what an alarm forbids: under CORRUPT all on keys and leases, under NOSPACE what lets
    /// the store grow.
    pub(super) fn admit(&self, command: &Command) -> Result<(), CommandError> {
        if self.alarms.is_empty() {
            return Ok(());
        }
        let on_meta = matches!(
            command,
            Command::Alarm { .. } | Command::MemberAttributes(_) | Command::ClusterVersion(_)
        );
        if self.alarms.is_raised(AlarmKind::Corrupt) && !on_meta {
            return Err(CommandError::Corrupt);
        }
        let grows = match command {
            Command::Put(_) | Command::LeaseGrant { .. } => true,
            Command::Txn(txn) => txn::has_puts(txn),
            _ => false,
        };
        if self.alarms.is_raised(AlarmKind::NoSpace) && grows {
            return Err(CommandError::NoSpace);
        }
        Ok(())
    }

    pub(super) fn take_changes(&mut self) -> (Vec<LeaseChange>, bool) {
        let alarms_changed = std::mem::take(&mut self.alarms_changed);
        (std::mem::take(&mut self.lease_changes), alarms_changed)
    }

    pub(super) fn grant(&mut self, id: LeaseId, ttl: i64) -> Result<Reply, CommandError> {
        if id == LeaseId::NONE {
            return Err(CommandError::LeaseNotFound);
        }
        if !self.leases.grant(id, ttl) {
            return Err(CommandError::LeaseExists);
        }
        self.lease_changes.push(LeaseChange::Granted { id, ttl });
        self.note(1, &[id.0 as u64, ttl as u64]);
        Ok(Reply::LeaseGrant { id, ttl })
    }

    pub(super) fn revoke(&mut self, id: LeaseId) {
        assert!(self.leases.revoke(id), "{id:?} exists");
        self.lease_changes.push(LeaseChange::Revoked { id });
        self.note(2, &[id.0 as u64]);
    }

    /// Checks a compaction and moves the compact revision.
    pub(super) fn compact(&mut self, revision: i64) -> Result<(), CommandError> {
        if revision <= self.compacted {
            return Err(CommandError::Compacted);
        }
        if revision > self.revision {
            return Err(CommandError::FutureRevision);
        }
        self.compacted = revision;
        Ok(())
    }

    pub(super) fn alarm(&mut self, activate: bool, member: u64, kind: Option<AlarmKind>) -> Reply {
        let alarms = if activate {
            let raised = kind.map(|kind| (member, kind));
            self.alarms.raised.extend(raised);
            raised.into_iter().collect()
        } else {
            let concerned = |alarm: &&(u64, AlarmKind)| {
                alarm.0 == member && kind.is_none_or(|kind| alarm.1 == kind)
            };
            let cleared: Vec<_> = self
                .alarms
                .raised
                .iter()
                .filter(concerned)
                .copied()
                .collect();
            for alarm in &cleared {
                self.alarms.raised.remove(alarm);
            }
            cleared
        };
        self.alarms_changed |= !alarms.is_empty();
        for (member, kind) in &alarms {
            self.note(3, &[u64::from(activate), *member, *kind as u64]);
        }
        Reply::Alarm { alarms }
    }

    pub(super) fn publish_member(&mut self, attributes: MemberAttributes) -> Reply {
        self.note(4, &[attributes.member]);
        self.note_text(&attributes.name);
        for url in &attributes.client_urls {
            self.note_text(url);
        }
        self.members.insert(attributes.member, attributes);
        Reply::Done
    }

    pub(super) fn set_cluster_version(&mut self, version: String) -> Reply {
        self.note(5, &[]);
        self.note_text(&version);
        self.cluster_version = Some(version);
        Reply::Done
    }

    fn note(&mut self, what: u64, numbers: &[u64]) {
        for number in std::iter::once(&what).chain(numbers) {
            let bytes = number.to_le_bytes();
            self.effects = xxhash_rust::xxh3::xxh3_64_with_seed(&bytes, self.effects);
        }
    }

    fn note_text(&mut self, text: &str) {
        let seed = self.effects;
        self.effects = xxhash_rust::xxh3::xxh3_64_with_seed(text.as_bytes(), seed);
    }
}
