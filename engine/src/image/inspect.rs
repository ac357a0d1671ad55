//! What a manifest says, for people who look at the files of a stopped member.

use diskio::FileName;

use super::manifest::{Manifest, ManifestError, VERSION};
use crate::checkpoint::ManifestRef;
use crate::events::EventLog;
use crate::store::StoreConfig;

/// The image of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageReport {
    /// Live keys.
    pub keys: u64,
    /// Pages of the image, and the blocks of 4 KiB that they take.
    pub pages: u64,
    /// Blocks that pages take.
    pub page_blocks: u64,
    /// Bytes of the pages that are filled.
    pub used_bytes: u64,
    /// Blocks of the page file that are in use, manifests included.
    pub file_blocks_used: u64,
    /// Reads below it are refused; 0 for none.
    pub compact_revision: i64,
    /// Bytes that the image keeps for the coordinator.
    pub attachment_bytes: usize,
    /// The event segments.
    pub segments: Vec<SegmentReport>,
}

/// One event segment of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    /// Its file.
    pub file: FileName,
    /// What the image has of it, in bytes, in whole blocks.
    pub valid_bytes: u64,
    /// Bytes of records that the tree still names.
    pub live_bytes: u64,
}

/// Reads the manifest of checkpoint `id` of `shard`, whose bytes stand at `reference`.
///
/// # Errors
/// What is wrong with it, in words.
pub fn read_manifest(
    shard: u16,
    id: u32,
    salt: u64,
    reference: ManifestRef,
    bytes: &[u8],
) -> Result<ImageReport, String> {
    let expected = (shard, id, reference.block, reference.sum);
    let manifest = Manifest::decode(bytes, salt, expected).map_err(|error| match error {
        ManifestError::Newer(version) => {
            format!("format version {version}; this build reads up to {VERSION}")
        }
        ManifestError::Damaged(what) => what.to_owned(),
    })?;
    let log = EventLog::restore(&StoreConfig::new(shard, salt), &manifest.table)
        .map_err(|error| format!("segment table: {error}"))?;
    let segments = log.files().zip(log.live_bytes_of_segments());
    let segments = segments.map(|((file, valid_bytes), (_, live_bytes))| SegmentReport {
        file,
        valid_bytes,
        live_bytes,
    });
    Ok(ImageReport {
        keys: manifest.frozen.keys,
        pages: manifest.frozen.sums.pages,
        page_blocks: manifest.frozen.sums.blocks,
        used_bytes: manifest.frozen.sums.used_bytes,
        file_blocks_used: manifest
            .map
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum(),
        compact_revision: manifest.frozen.compacted,
        attachment_bytes: manifest.attachment.len(),
        segments: segments.collect(),
    })
}
