//! Writing a snapshot file.

use prost::Message;
use sha2::{Digest, Sha256};

use super::message::{KeyValue, Lease};
use super::name;
use super::revision::RevisionKey;
use super::snapshot::SUM_BYTES;
use super::state::{Records, State};
use crate::error::WriteError;
use crate::plan::{BucketPlan, Plan};
use crate::writer::{Writer, check_lengths};

/// The most that the numbers and tags of a [`KeyValue`] have beside key and value.
const VERSION_BYTES_MAX: usize = 4 * 11 + 2 * 6;
/// The most that a [`Lease`] has.
const LEASE_BYTES_MAX: usize = 3 * 11;

/// What a snapshot is going to hold: the state, and how many versions and leases of what size.
///
/// The order in which versions are planned means nothing. Fewer and smaller ones than planned may come.
#[derive(Debug, Clone)]
pub struct SnapshotPlan {
    state: State,
    plan: Plan,
}

impl SnapshotPlan {
    /// A snapshot of `state`, without keys and leases yet.
    pub fn new(state: State) -> Self {
        let mut planned = Self {
            state,
            plan: Plan::new(),
        };
        for name in name::ALL {
            planned.bucket(name);
        }
        for (name, records) in planned.state.records() {
            let bucket = planned.bucket(name);
            for (key, value) in &records {
                bucket.add(key.len(), value.len());
            }
        }
        planned
    }

    /// One more version, exactly: `version` may have a value of other bytes than the one that comes, but as many.
    pub fn add_version(&mut self, revision: RevisionKey, version: &KeyValue) {
        let bucket = self.bucket(name::KEY);
        bucket.add(revision.bytes(), version.encoded_len());
    }

    /// So many more versions, with so many bytes of keys and values in all. Each is planned with the longest numbers
    /// there are: about 50 bytes too much.
    pub fn add_versions(&mut self, versions: u64, key_and_value_bytes: u64) {
        let each = (RevisionKey::BYTES_MAX + VERSION_BYTES_MAX) as u64;
        let bytes = key_and_value_bytes + versions * each;
        let bucket = self.bucket(name::KEY);
        bucket.add_many(versions, bytes, RevisionKey::BYTES_MAX);
    }

    /// So many more leases.
    pub fn add_leases(&mut self, leases: u64) {
        let bytes = leases * (8 + LEASE_BYTES_MAX as u64);
        self.bucket(name::LEASE).add_many(leases, bytes, 8);
    }

    fn bucket(&mut self, name: &[u8]) -> &mut BucketPlan {
        let bucket = self.plan.bucket(name);
        bucket.expect("etcd's few buckets have short names")
    }

    /// Bytes of the file, exactly, the sum included.
    pub fn file_bytes(&self) -> u64 {
        self.plan.file_bytes() + SUM_BYTES
    }
}

/// A snapshot file that is being written. See [`Writer`] for how to call it; what it keeps in memory is the same.
///
/// ```text
/// push_version for each, in the order of revisions; push_lease for each, in the order of ids; finish
/// between the calls, and after the last until `is_done`: take
/// ```
#[derive(Debug)]
pub struct SnapshotWriter {
    writer: Writer,
    /// What comes after the leases.
    after: Vec<(&'static [u8], Records)>,
    in_leases: bool,
    sum: Option<Sha256>,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl SnapshotWriter {
    /// A writer of exactly `plan.file_bytes()` bytes.
    ///
    /// # Errors
    /// The state has a name or a value that is too long.
    pub fn new(plan: SnapshotPlan) -> Result<Self, WriteError> {
        let mut writer = Writer::new(plan.plan);
        let mut after = Vec::new();
        for (name, records) in plan.state.records() {
            for (key, value) in &records {
                check_lengths(name, key, value)?;
            }
            if name > name::LEASE {
                after.push((name, records));
                continue;
            }
            write_records(&mut writer, name, &records)?;
        }
        writer.bucket(name::KEY)?;
        Ok(Self {
            writer,
            after,
            in_leases: false,
            sum: Some(Sha256::new()),
            key: Vec::new(),
            value: Vec::new(),
        })
    }

    /// Bytes of the whole file, the sum included.
    pub fn file_bytes(&self) -> u64 {
        self.writer.file_bytes() + SUM_BYTES
    }

    /// Appends a version, whose revision is above all before.
    ///
    /// # Errors
    /// Order, length or plan are broken, or leases have come already. The writer is as it was before.
    pub fn push_version(
        &mut self,
        revision: RevisionKey,
        version: &KeyValue,
    ) -> Result<(), WriteError> {
        if self.in_leases {
            return Err(WriteError::Order {
                what: "revision",
                name: format!("{} {}", revision.main, revision.sub),
            });
        }
        self.key.clear();
        revision.encode(&mut self.key);
        self.push(version)
    }

    /// Appends a lease, whose id is above all before, as an unsigned number. No version can follow it.
    ///
    /// # Errors
    /// Order or plan are broken. The lease is not in the file then, and versions have ended all the same.
    pub fn push_lease(&mut self, lease: &Lease) -> Result<(), WriteError> {
        self.begin_leases()?;
        self.key.clear();
        self.key.extend_from_slice(&lease.id.to_be_bytes());
        self.push(lease)
    }

    fn push(&mut self, message: &impl Message) -> Result<(), WriteError> {
        self.value.clear();
        message
            .encode(&mut self.value)
            .expect("a vector has room for a message");
        self.writer.push(&self.key, &self.value)
    }

    fn begin_leases(&mut self) -> Result<(), WriteError> {
        if !self.in_leases {
            self.writer.bucket(name::LEASE)?;
            self.in_leases = true;
        }
        Ok(())
    }

    /// Ends the snapshot: what is left to take is what comes after the leases, free space, and the sum.
    pub fn finish(&mut self) {
        for (name, records) in std::mem::take(&mut self.after) {
            let written = write_records(&mut self.writer, name, &records);
            written.expect("planned and checked at the beginning");
        }
        self.in_leases = true;
        self.writer.finish();
    }

    /// Whether more versions and leases should be pushed before what is there has been taken.
    pub fn wants_records(&self) -> bool {
        self.writer.wants_records()
    }

    /// The next bytes of the file, whatever is there; [`None`] if there are none yet, or none any more. The sum is
    /// a piece of its own, the last one.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        if let Some(piece) = self.writer.take() {
            if let Some(sum) = &mut self.sum {
                sum.update(&piece);
            }
            return Some(piece);
        }
        if !self.writer.is_done() {
            return None;
        }
        let sum = self.sum.take()?;
        Some(sum.finalize().to_vec())
    }

    /// Whether everything has been taken, the sum included.
    pub fn is_done(&self) -> bool {
        self.sum.is_none()
    }
}

fn write_records(writer: &mut Writer, bucket: &[u8], records: &Records) -> Result<(), WriteError> {
    writer.bucket(bucket)?;
    for (key, value) in records {
        writer.push(key, value)?;
    }
    Ok(())
}
