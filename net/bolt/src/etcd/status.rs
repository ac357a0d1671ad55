//! What `etcdutl snapshot status` shows.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;

use super::message::KeyValue;
use super::name;
use super::revision::RevisionKey;
use super::snapshot::{content, no_bucket};
use crate::database::{Database, Source};
use crate::error::ReadError;
use crate::walk::Item;

/// The figures of a snapshot, equal to those of etcdutl 3.7 for the same file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// CRC-32C of all names of buckets, keys and values, in order.
    pub hash: u32,
    /// Main revision of the last entry in the bucket `key`, 0 without entries.
    pub revision: i64,
    /// Keys that are not deleted.
    pub total_keys: u64,
    /// Bytes of all pages.
    pub total_bytes: u64,
    /// The version whose layout the database has; empty below 3.6.
    pub version: String,
}

impl Status {
    /// Walks through the whole database. The set of all keys is kept in memory.
    pub(crate) fn read<S: Source>(database: &mut Database<S>) -> Result<Self, ReadError> {
        let mut status = Self {
            hash: 0,
            revision: 0,
            total_keys: 0,
            total_bytes: database.meta().file_bytes(),
            version: String::new(),
        };
        let mut live = BTreeSet::new();
        let mut bucket = Vec::new();
        let mut walk = database.walk();
        while let Some(item) = walk.next()? {
            match item {
                Item::Bucket { name, depth: 0 } => {
                    status.add(name);
                    bucket = name.to_vec();
                }
                Item::Bucket { name, .. } => return Err(no_bucket(&bucket, name)),
                Item::End => bucket.clear(),
                Item::Entry { key, .. } if bucket.is_empty() => {
                    return Err(content(b"", key, "an entry outside all buckets"));
                }
                Item::Entry { key, value } => {
                    status.add(key);
                    status.add(value);
                    if bucket == name::KEY {
                        status.revision = count_key(&mut live, key, value)?;
                    } else if bucket == name::META && key == b"storageVersion" {
                        status.version = canonical_version(value).unwrap_or_default();
                    }
                }
            }
        }
        status.total_keys = live.len() as u64;
        Ok(status)
    }

    fn add(&mut self, bytes: &[u8]) {
        self.hash = crc32c::crc32c_append(self.hash, bytes);
    }
}

/// Counts one version; its main revision.
fn count_key(live: &mut BTreeSet<Bytes>, key: &[u8], value: &[u8]) -> Result<i64, ReadError> {
    let revision = RevisionKey::decode(key).map_err(|what| content(name::KEY, key, &what))?;
    let version = KeyValue::decode(value).map_err(|error| {
        content(
            name::KEY,
            key,
            &format!("not the message expected: {error}"),
        )
    })?;
    if revision.tombstone {
        live.remove(&version.key);
    } else {
        live.insert(version.key);
    }
    Ok(revision.main)
}

/// A semantic version as etcd prints it, [`None`] if it is none.
fn canonical_version(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let numbers_end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, rest) = text.split_at(numbers_end);
    let numbers: Option<Vec<u64>> = numbers.split('.').map(|part| part.parse().ok()).collect();
    match numbers?.as_slice() {
        [major, minor, patch] => Some(format!("{major}.{minor}.{patch}{rest}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_semantic() {
        for (text, shown) in [
            ("3.7.0", Some("3.7.0")),
            ("3.7.0-alpha.0+x", Some("3.7.0-alpha.0+x")),
            ("3.7", None),
            ("", None),
            ("3.x.0", None),
        ] {
            assert_eq!(canonical_version(text.as_bytes()).as_deref(), shown);
        }
    }
}
