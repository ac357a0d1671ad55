//! The engine's section of the superblock.
//!
//! Owns its bytes (see `docs/internals/coordinator-state.md`) and the reading and writing of fields that
//! it shares with the coordinator's attachment. It knows neither the superblock nor the manifests that it
//! names. Nothing that is decoded is believed: every field is checked, and no memory is reserved for a
//! count that the bytes cannot hold.

use bytes::{BufMut, BytesMut};
use thiserror::Error;

use crate::shard::SHARDS_MAX;

/// Layout version of the section that is written.
pub const SECTION_VERSION: u16 = 1;

const SECTION_HEADER_BYTES: usize = 32;
const MANIFEST_REF_BYTES: usize = 24;

/// Longest section, in bytes.
pub const SECTION_BYTES_MAX: usize =
    SECTION_HEADER_BYTES + SHARDS_MAX as usize * MANIFEST_REF_BYTES;

/// Where the manifest of a shard's image stands in the shard's page file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ManifestRef {
    /// First block.
    pub block: u64,
    /// Length in bytes.
    pub bytes: u32,
    /// Checksum of these bytes.
    pub sum: u64,
}

/// The engine's section of the superblock: where the state machine stood at the checkpoint, and
/// where the shards' images are. The log index stands in the superblock itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The store's revision.
    pub revision: i64,
    /// Reads below it are refused; −1: nothing was compacted.
    pub compact_revision: i64,
    /// Chain over the effects of all entries up to the checkpoint.
    pub apply_hash: u64,
    /// One per shard.
    pub manifests: Vec<ManifestRef>,
}

/// Why bytes of a checkpoint cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CheckpointError {
    /// Written by a newer version.
    #[error("{part} has layout version {version}, known is {known}: start a newer ringd")]
    NewerVersion {
        /// Section or attachment.
        part: &'static str,
        /// Version found.
        version: u16,
        /// Highest version that is understood.
        known: u16,
    },
    /// The bytes end inside a field.
    #[error("{part} ends at byte {len} inside of {what} at byte {offset}")]
    Truncated {
        /// Section or attachment.
        part: &'static str,
        /// Field.
        what: &'static str,
        /// Where it starts.
        offset: usize,
        /// Bytes there are.
        len: usize,
    },
    /// A field holds what it cannot hold.
    #[error("{part}: {what} before byte {offset} is {value}")]
    Invalid {
        /// Section or attachment.
        part: &'static str,
        /// Field.
        what: &'static str,
        /// Where the field ends.
        offset: usize,
        /// What it holds.
        value: i128,
    },
    /// Bytes behind the last field.
    #[error("{part} has {count} bytes behind its end at byte {offset}")]
    Trailing {
        /// Section or attachment.
        part: &'static str,
        /// Where the last field ends.
        offset: usize,
        /// How many bytes there are behind it.
        count: usize,
    },
}

impl Section {
    /// Bytes for the superblock.
    ///
    /// # Panics
    /// If the number of shards is none that a data directory can have.
    pub fn encode(&self) -> Vec<u8> {
        let shards = self.manifests.len();
        assert!(shards.is_power_of_two(), "{shards} shards");
        assert!(shards <= usize::from(SHARDS_MAX), "{shards} shards");
        let mut out = Vec::with_capacity(SECTION_HEADER_BYTES + shards * MANIFEST_REF_BYTES);
        out.put_u16_le(SECTION_VERSION);
        out.put_u16_le(shards as u16);
        out.put_u32_le(0);
        out.put_i64_le(self.revision);
        out.put_i64_le(self.compact_revision);
        out.put_u64_le(self.apply_hash);
        for manifest in &self.manifests {
            out.put_u64_le(manifest.block);
            out.put_u32_le(manifest.bytes);
            out.put_u32_le(0);
            out.put_u64_le(manifest.sum);
        }
        out
    }

    /// Reads a section.
    ///
    /// # Errors
    /// See [`CheckpointError`].
    pub fn decode(bytes: &[u8]) -> Result<Section, CheckpointError> {
        let mut fields = Fields::new("the engine's section of the superblock", bytes);
        fields.version(SECTION_VERSION)?;
        let shards = fields.u16("shards")?;
        if !shards.is_power_of_two() || shards > SHARDS_MAX {
            return Err(fields.invalid("shards", shards));
        }
        fields.zeros(4)?;
        let revision = fields.i64("revision")?;
        if revision < 1 {
            return Err(fields.invalid("revision", revision));
        }
        let compact_revision = fields.i64("compact revision")?;
        if !(-1..=revision).contains(&compact_revision) {
            return Err(fields.invalid("compact revision", compact_revision));
        }
        let apply_hash = fields.u64("apply hash")?;
        let mut manifests = Vec::with_capacity(usize::from(shards));
        for _ in 0..shards {
            let block = fields.u64("manifest block")?;
            let bytes = fields.u32("manifest length")?;
            if bytes == 0 {
                return Err(fields.invalid("manifest length", bytes));
            }
            fields.zeros(4)?;
            let sum = fields.u64("manifest checksum")?;
            manifests.push(ManifestRef { block, bytes, sum });
        }
        fields.end()?;
        Ok(Section {
            revision,
            compact_revision,
            apply_hash,
            manifests,
        })
    }
}

/// Reads little-endian fields one after the other and never behind the end.
pub(crate) struct Fields<'a> {
    part: &'static str,
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Fields<'a> {
    /// Fields of `bytes`, which error texts call `part`.
    pub(crate) fn new(part: &'static str, bytes: &'a [u8]) -> Self {
        Fields {
            part,
            bytes,
            offset: 0,
        }
    }

    pub(crate) fn invalid(&self, what: &'static str, value: impl Into<i128>) -> CheckpointError {
        CheckpointError::Invalid {
            part: self.part,
            what,
            offset: self.offset,
            value: value.into(),
        }
    }

    fn slice(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], CheckpointError> {
        let rest = &self.bytes[self.offset..];
        let Some(slice) = rest.get(..count) else {
            return Err(CheckpointError::Truncated {
                part: self.part,
                what,
                offset: self.offset,
                len: self.bytes.len(),
            });
        };
        self.offset += count;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], CheckpointError> {
        let mut array = [0; N];
        array.copy_from_slice(self.slice(N, what)?);
        Ok(array)
    }

    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8, CheckpointError> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16, CheckpointError> {
        self.array(what).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, CheckpointError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, CheckpointError> {
        self.array(what).map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self, what: &'static str) -> Result<i64, CheckpointError> {
        self.array(what).map(i64::from_le_bytes)
    }

    /// The leading version, which may not be newer than `known`.
    pub(crate) fn version(&mut self, known: u16) -> Result<(), CheckpointError> {
        match self.u16("version")? {
            0 => Err(self.invalid("version", 0)),
            version if version > known => Err(CheckpointError::NewerVersion {
                part: self.part,
                version,
                known,
            }),
            _ => Ok(()),
        }
    }

    /// `count` bytes that have no meaning yet.
    pub(crate) fn zeros(&mut self, count: usize) -> Result<(), CheckpointError> {
        let slice = self.slice(count, "reserved bytes")?;
        match slice.iter().find(|byte| **byte != 0) {
            None => Ok(()),
            Some(byte) => Err(self.invalid("reserved bytes", *byte)),
        }
    }

    /// A text behind its length.
    pub(crate) fn text(&mut self, what: &'static str) -> Result<String, CheckpointError> {
        let len = self.u32(what)? as usize;
        let slice = self.slice(len, what)?;
        match std::str::from_utf8(slice) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => Err(self.invalid(what, slice[error.valid_up_to()])),
        }
    }

    /// Nothing follows.
    pub(crate) fn end(self) -> Result<(), CheckpointError> {
        match self.bytes.len() - self.offset {
            0 => Ok(()),
            count => Err(CheckpointError::Trailing {
                part: self.part,
                offset: self.offset,
                count,
            }),
        }
    }
}

/// Appends a text behind its length.
pub(crate) fn put_text(out: &mut BytesMut, text: &str) {
    out.put_u32_le(u32::try_from(text.len()).expect("a text of a request"));
    out.put_slice(text.as_bytes());
}
