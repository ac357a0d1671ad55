//! Everything in a snapshot but keys and leases: small, and known before the first byte is written.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use serde::{Deserialize, Deserializer, Serialize};

use super::message::AlarmMember;
use super::name;
use super::revision::RevisionKey;
use super::snapshot::Snapshot;
use crate::database::Source;
use crate::error::ReadError;

/// Where the log and the cluster stood.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// Raft index of the last applied entry: `consistent_index`. Not written if 0.
    pub consistent_index: u64,
    /// Its term: `term`. Not written if 0.
    pub term: u64,
    /// Voters and learners: `confState`.
    pub conf_state: Option<ConfState>,
    /// The compaction that was begun last: `scheduledCompactRev`.
    pub scheduled_compact_revision: Option<i64>,
    /// The compaction that has ended last: `finishedCompactRev`. Versions below it that it did not drop may be read.
    pub finished_compact_revision: Option<i64>,
    /// The version whose layout this is: `storageVersion`, as `3.7.0`.
    pub storage_version: Option<String>,
    /// The lowest version of all members.
    pub cluster_version: Option<String>,
    /// A downgrade that is going on.
    pub downgrade: Option<Downgrade>,
    /// The members.
    pub members: Vec<Member>,
    /// Ids that never come back.
    pub members_removed: BTreeSet<u64>,
    /// Raised alarms.
    pub alarms: BTreeSet<AlarmMember>,
    /// Whether clients have to authenticate; [`None`] if that was never changed.
    pub auth_enabled: Option<bool>,
    /// Changes of users and roles; [`None`] if there is no number.
    pub auth_revision: Option<u64>,
    /// Messages `authpb.User` by name, as they are.
    pub auth_users: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Messages `authpb.Role` by name, as they are.
    pub auth_roles: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Who takes part in consensus.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfState {
    /// Voters.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_null")]
    pub voters: Vec<u64>,
    /// Learners.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_null")]
    pub learners: Vec<u64>,
    /// Voters before the change that is going on.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_null")]
    pub voters_outgoing: Vec<u64>,
    /// Voters that become learners when the change has ended.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_null")]
    pub learners_next: Vec<u64>,
    /// The change ends by itself.
    #[serde(deserialize_with = "or_null")]
    pub auto_leave: bool,
}

/// A downgrade of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Downgrade {
    /// To which version; empty if there is none.
    #[serde(rename = "target-version")]
    pub target_version: String,
    /// Whether it is going on.
    pub enabled: bool,
}

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// Where the other members reach it.
    #[serde(rename = "peerURLs", deserialize_with = "or_null")]
    pub peer_urls: Vec<String>,
    /// Only receives.
    #[serde(rename = "isLearner", skip_serializing_if = "is_false")]
    pub is_learner: bool,
    /// Its name; empty until it has started.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where clients reach it.
    #[serde(
        rename = "clientURLs",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "or_null"
    )]
    pub client_urls: Vec<String>,
}

fn is_false(value: &bool) -> bool {
    !*value
}

/// Go writes an empty list, and a pointer to nothing, as null.
fn or_null<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// The records of one bucket, in order.
pub(crate) type Records = BTreeMap<Vec<u8>, Vec<u8>>;

impl State {
    /// The compaction below which nothing can be read, or 0.
    pub fn compact_revision(&self) -> i64 {
        self.finished_compact_revision.unwrap_or(0)
    }

    /// The least revision that the store has whatever keys there are: as etcd, the compactions tell it when
    /// everything up to them was deleted.
    pub fn revision_min(&self) -> i64 {
        let scheduled = self.scheduled_compact_revision.unwrap_or(0);
        self.compact_revision().max(scheduled).max(1)
    }

    /// All records of all buckets but `key` and `lease`.
    pub(crate) fn records(&self) -> Vec<(&'static [u8], Records)> {
        let hexadecimal = |id: &u64| format!("{id:x}").into_bytes();
        let alarms = self
            .alarms
            .iter()
            .map(|alarm| (alarm.encode_to_vec(), Vec::new()));
        let member = |member: &Member| (hexadecimal(&member.id), json(member));
        let removed = |id| (hexadecimal(id), b"removed".to_vec());
        vec![
            (name::ALARM, alarms.collect()),
            (name::AUTH, self.auth_records()),
            (name::AUTH_ROLES, self.auth_roles.clone()),
            (name::AUTH_USERS, self.auth_users.clone()),
            (name::CLUSTER, self.cluster_records()),
            (name::MEMBERS, self.members.iter().map(member).collect()),
            (
                name::MEMBERS_REMOVED,
                self.members_removed.iter().map(removed).collect(),
            ),
            (name::META, self.meta_records()),
        ]
    }

    fn auth_records(&self) -> Records {
        let enabled = self.auth_enabled.map(|enabled| vec![u8::from(enabled)]);
        let revision = self
            .auth_revision
            .map(|number| number.to_be_bytes().to_vec());
        present([("authEnabled", enabled), ("authRevision", revision)])
    }

    fn cluster_records(&self) -> Records {
        let version = self.cluster_version.clone().map(String::into_bytes);
        let downgrade = self.downgrade.as_ref().map(json);
        present([("clusterVersion", version), ("downgrade", downgrade)])
    }

    fn meta_records(&self) -> Records {
        let number = |number: u64| (number > 0).then(|| number.to_be_bytes().to_vec());
        let revision = |main: Option<i64>| {
            let mut bytes = Vec::new();
            let revision = RevisionKey {
                main: main?,
                sub: 0,
                tombstone: false,
            };
            revision.encode(&mut bytes);
            Some(bytes)
        };
        present([
            ("confState", self.conf_state.as_ref().map(json)),
            ("consistent_index", number(self.consistent_index)),
            (
                "finishedCompactRev",
                revision(self.finished_compact_revision),
            ),
            (
                "scheduledCompactRev",
                revision(self.scheduled_compact_revision),
            ),
            (
                "storageVersion",
                self.storage_version.clone().map(String::into_bytes),
            ),
            ("term", number(self.term)),
        ])
    }

    /// Reads everything but keys and leases. Entries with names that etcd 3.7 does not know mean nothing.
    pub(crate) fn read<S: Source>(snapshot: &mut Snapshot<S>) -> Result<Self, ReadError> {
        let mut state = Self::default();
        snapshot.each(name::META, |key, value| state.take_meta(key, value))?;
        snapshot.each(name::CLUSTER, |key, value| match key {
            b"clusterVersion" => text(value).map(|text| state.cluster_version = Some(text)),
            b"downgrade" => from_json(value).map(|downgrade| state.downgrade = Some(downgrade)),
            _ => Ok(()),
        })?;
        snapshot.each(name::MEMBERS, |key, value| {
            let member: Member = from_json(value)?;
            if member.id != id(key)? {
                return Err(format!("the member's id is {:x}", member.id));
            }
            state.members.push(member);
            Ok(())
        })?;
        snapshot.each(name::MEMBERS_REMOVED, |key, _| {
            state.members_removed.insert(id(key)?);
            Ok(())
        })?;
        snapshot.each(name::ALARM, |key, _| {
            let alarm = AlarmMember::decode(key).map_err(|error| error.to_string())?;
            state.alarms.insert(alarm);
            Ok(())
        })?;
        snapshot.each(name::AUTH, |key, value| match (key, value) {
            (b"authEnabled", [flag @ 0..=1]) => {
                state.auth_enabled = Some(*flag == 1);
                Ok(())
            }
            (b"authEnabled", value) => Err(format!("{} instead of 0 or 1", value.escape_ascii())),
            (b"authRevision", value) => {
                number(value).map(|number| state.auth_revision = Some(number))
            }
            _ => Ok(()),
        })?;
        for (bucket, into) in [
            (name::AUTH_USERS, &mut state.auth_users),
            (name::AUTH_ROLES, &mut state.auth_roles),
        ] {
            snapshot.each(bucket, |key, value| {
                into.insert(key.to_vec(), value.to_vec());
                Ok(())
            })?;
        }
        Ok(state)
    }

    fn take_meta(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let revision = || RevisionKey::decode(value).map(|revision| Some(revision.main));
        match key {
            b"consistent_index" => self.consistent_index = number(value)?,
            b"term" => self.term = number(value)?,
            b"confState" => self.conf_state = Some(from_json(value)?),
            b"scheduledCompactRev" => self.scheduled_compact_revision = revision()?,
            b"finishedCompactRev" => self.finished_compact_revision = revision()?,
            b"storageVersion" => self.storage_version = Some(text(value)?),
            _ => {}
        }
        Ok(())
    }
}

fn present<const N: usize>(records: [(&str, Option<Vec<u8>>); N]) -> Records {
    let records = records.into_iter();
    records
        .filter_map(|(key, value)| Some((key.as_bytes().to_vec(), value?)))
        .collect()
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("numbers, texts and lists are always JSON")
}

fn from_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("not the JSON expected: {error}"))
}

fn text(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| format!("no text: {}", bytes.escape_ascii()))
}

fn number(bytes: &[u8]) -> Result<u64, String> {
    let bytes =
        <[u8; 8]>::try_from(bytes).map_err(|_| format!("a number of {} bytes", bytes.len()))?;
    Ok(u64::from_be_bytes(bytes))
}

/// An id in hexadecimal digits, as few as it has.
fn id(key: &[u8]) -> Result<u64, String> {
    let digits = std::str::from_utf8(key).unwrap_or_default();
    let id = u64::from_str_radix(digits, 16).ok();
    id.filter(|id| format!("{id:x}") == digits)
        .ok_or_else(|| "no id in hexadecimal digits".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_gos() {
        let member = br#"{"id":3319814642761637952,"peerURLs":["http://a:1"],"name":"default","clientURLs":["http://a:2"]}"#;
        let decoded: Member = from_json(member).expect("a member");
        assert_eq!(json(&decoded), member);
        let learner: Member =
            from_json(br#"{"id":1,"peerURLs":null,"isLearner":true}"#).expect("a learner");
        assert_eq!(
            json(&learner),
            br#"{"id":1,"peerURLs":[],"isLearner":true}"#
        );
        let conf_state = br#"{"voters":[3319814642761637952],"auto_leave":false}"#;
        let decoded: ConfState = from_json(conf_state).expect("a state");
        assert_eq!(json(&decoded), conf_state);
        let downgrade = br#"{"target-version":"3.6.0","enabled":true}"#;
        let decoded: Downgrade = from_json(downgrade).expect("a downgrade");
        assert_eq!(json(&decoded), downgrade);
    }

    #[test]
    fn ids_have_digits_only() {
        assert_eq!(id(b"2e1259d415f2a040"), Ok(3_319_814_642_761_637_952));
        for wrong in [
            &b""[..],
            b"01",
            b"A",
            b"+1",
            b"-1",
            b"x",
            b"11112222333344445",
            b"\xff",
        ] {
            assert!(id(wrong).is_err(), "{}", wrong.escape_ascii());
        }
    }
}
