//! Reading a snapshot file.

use prost::Message;
use sha2::{Digest, Sha256};

use super::message::{KeyValue, Lease};
use super::name;
use super::revision::RevisionKey;
use super::state::State;
use super::status::Status;
use crate::database::{Database, Source};
use crate::error::{ReadError, shown};
use crate::walk::{Item, Walk};

/// Bytes of the sum behind the database.
pub const SUM_BYTES: u64 = 32;
/// A database is a multiple of this, so what is left over shows the sum.
const SECTOR_BYTES: u64 = 512;
/// The sum is computed over pieces of so many bytes.
const PIECE_BYTES: u64 = 256 << 10;

/// A snapshot file, or the database of an etcd that has stopped.
#[derive(Debug)]
pub struct Snapshot<S> {
    database: Database<S>,
    /// Bytes before the sum.
    summed_bytes: u64,
    has_sum: bool,
}

/// Why the sum does not vouch for a file.
#[derive(Debug, thiserror::Error)]
pub enum SumError {
    /// There is none. A database that was copied from a data directory has none.
    #[error("the snapshot has no hash at its end")]
    Missing,
    /// It is that of other bytes.
    #[error("the snapshot was changed: its hash is {stored}, of its bytes {computed}")]
    Wrong {
        /// At the end of the file, in hexadecimal digits.
        stored: String,
        /// Of the bytes before.
        computed: String,
    },
    /// The file could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl<S: Source> Snapshot<S> {
    /// Opens the file of `bytes` bytes behind `source`. Like etcdutl it takes a sum to be there where the length
    /// leaves 32 when divided by 512.
    ///
    /// # Errors
    /// No database, or a cut one, or one that has not etcd's buckets `key` and `meta`.
    pub fn open(source: S, bytes: u64) -> Result<Self, ReadError> {
        let has_sum = bytes % SECTOR_BYTES == SUM_BYTES;
        let summed_bytes = if has_sum { bytes - SUM_BYTES } else { bytes };
        let mut database = Database::open(source, summed_bytes)?;
        for bucket in [name::KEY, name::META] {
            if database.bucket(bucket)?.is_none() {
                return Err(content(
                    bucket,
                    b"",
                    "the bucket is missing: no etcd wrote this file",
                ));
            }
        }
        Ok(Self {
            database,
            summed_bytes,
            has_sum,
        })
    }

    /// Reads the whole file and compares the sum at its end with that of the bytes before.
    ///
    /// # Errors
    /// The sum is another one, or there is none, or reading fails.
    pub fn check_sum(&mut self) -> Result<(), SumError> {
        if !self.has_sum {
            return Err(SumError::Missing);
        }
        let mut sum = Sha256::new();
        let mut piece = vec![0; PIECE_BYTES.min(self.summed_bytes) as usize];
        let mut offset = 0;
        while offset < self.summed_bytes {
            let bytes = PIECE_BYTES.min(self.summed_bytes - offset) as usize;
            self.database.read(offset, &mut piece[..bytes])?;
            sum.update(&piece[..bytes]);
            offset += bytes as u64;
        }
        let mut stored = [0; SUM_BYTES as usize];
        self.database.read(offset, &mut stored)?;
        let computed = sum.finalize();
        if computed.as_slice() == stored {
            return Ok(());
        }
        Err(SumError::Wrong {
            stored: digits(&stored),
            computed: digits(&computed),
        })
    }

    /// The figures of the file; everything is read and checked.
    ///
    /// # Errors
    /// What is damaged, or is not etcd's.
    pub fn status(&mut self) -> Result<Status, ReadError> {
        Status::read(&mut self.database)
    }

    /// Everything but keys and leases.
    ///
    /// # Errors
    /// What is damaged in the buckets that are read, or is not etcd's.
    pub fn state(&mut self) -> Result<State, ReadError> {
        State::read(self)
    }

    /// All versions of all keys, in the order of their revisions.
    ///
    /// # Errors
    /// What is damaged on the way to them.
    pub fn versions(&mut self) -> Result<Versions<'_, S>, ReadError> {
        Ok(Versions {
            walk: self.database.bucket(name::KEY)?,
            last: None,
        })
    }

    /// All leases, in the order of their ids.
    ///
    /// # Errors
    /// What is damaged on the way to them.
    pub fn leases(&mut self) -> Result<Leases<'_, S>, ReadError> {
        Ok(Leases {
            walk: self.database.bucket(name::LEASE)?,
        })
    }

    /// Calls `each` with the entries of a bucket, if it is there.
    pub(crate) fn each(
        &mut self,
        bucket: &[u8],
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), String>,
    ) -> Result<(), ReadError> {
        let mut walk = self.database.bucket(bucket)?;
        while let Some((key, value)) = next_entry(bucket, &mut walk)? {
            each(key, value).map_err(|what| content(bucket, key, &what))?;
        }
        Ok(())
    }
}

/// See [`Snapshot::versions`].
#[derive(Debug)]
pub struct Versions<'d, S> {
    walk: Option<Walk<'d, S>>,
    /// Main and sub revision of the version before.
    last: Option<(i64, i64)>,
}

impl<S: Source> Versions<'_, S> {
    /// The next version: strictly above the one before, with a revision of at least 1. A deletion has only its
    /// key; the others have the main revision as theirs, were created at or before it, and count from 1. One without
    /// key and without anything else is a revision at which nothing changed.
    ///
    /// # Errors
    /// A rule is broken. There is nothing behind it then.
    pub fn next_version(&mut self) -> Result<Option<(RevisionKey, KeyValue)>, ReadError> {
        let Some((key, value)) = next_entry(name::KEY, &mut self.walk)? else {
            return Ok(None);
        };
        let checked =
            check_version(key, value, self.last).map_err(|what| content(name::KEY, key, &what));
        match checked {
            Ok((revision, _)) => self.last = Some((revision.main, revision.sub)),
            Err(_) => self.walk = None,
        }
        checked.map(Some)
    }
}

fn check_version(
    key: &[u8],
    value: &[u8],
    last: Option<(i64, i64)>,
) -> Result<(RevisionKey, KeyValue), String> {
    let revision = RevisionKey::decode(key)?;
    let version =
        KeyValue::decode(value).map_err(|error| format!("not the message expected: {error}"))?;
    if revision.main < 1 {
        return Err(format!("revision {}", revision.main));
    }
    if last == Some((revision.main, revision.sub)) {
        return Err(format!("revision {} {} twice", revision.main, revision.sub));
    }
    if value.is_empty() && !revision.tombstone {
        return Ok((revision, version));
    }
    if version.key.is_empty() {
        return Err("a version without a key".to_owned());
    }
    let is_version = version.mod_revision == revision.main
        && (1..=version.mod_revision).contains(&version.create_revision)
        && version.version >= 1;
    if !revision.tombstone && !is_version {
        return Err(format!(
            "create revision {}, revision {}, version {}",
            version.create_revision, version.mod_revision, version.version
        ));
    }
    Ok((revision, version))
}

/// See [`Snapshot::leases`].
#[derive(Debug)]
pub struct Leases<'d, S> {
    walk: Option<Walk<'d, S>>,
}

impl<S: Source> Leases<'_, S> {
    /// The next lease.
    ///
    /// # Errors
    /// It is damaged, or stands under another id. There is nothing behind it then.
    pub fn next_lease(&mut self) -> Result<Option<Lease>, ReadError> {
        let Some((key, value)) = next_entry(name::LEASE, &mut self.walk)? else {
            return Ok(None);
        };
        let checked =
            Lease::decode(value).map_err(|error| format!("not the message expected: {error}"));
        let checked = checked.and_then(|lease| match lease.id.to_be_bytes() == key {
            true => Ok(Some(lease)),
            false => Err(format!("it is lease {:x}", lease.id)),
        });
        let checked = checked.map_err(|what| content(name::LEASE, key, &what));
        if checked.is_err() {
            self.walk = None;
        }
        checked
    }
}

/// A key and its value.
type Entry<'a> = (&'a [u8], &'a [u8]);

/// The next entry of a bucket that has no buckets in it, or of one that is not there.
fn next_entry<'a, S: Source>(
    bucket: &[u8],
    walk: &'a mut Option<Walk<'_, S>>,
) -> Result<Option<Entry<'a>>, ReadError> {
    let Some(walk) = walk else {
        return Ok(None);
    };
    match walk.next()? {
        Some(Item::Entry { key, value }) => Ok(Some((key, value))),
        Some(Item::Bucket { name, .. }) => Err(no_bucket(bucket, name)),
        Some(Item::End) | None => Ok(None),
    }
}

/// A bucket stands where etcd has a value.
pub(super) fn no_bucket(bucket: &[u8], name: &[u8]) -> ReadError {
    content(bucket, name, "a bucket, where etcd has values only")
}

/// An entry is not what etcd puts there.
pub(super) fn content(bucket: &[u8], key: &[u8], what: &str) -> ReadError {
    ReadError::Content {
        bucket: shown(bucket),
        key: digits(key),
        what: what.to_owned(),
    }
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
