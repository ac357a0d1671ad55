//! What a checkpoint leaves beside pages and events: the engine's section of the superblock, the
//! coordinator's attachment, and the manifest of a shard with the table of its event segments.
//!
//! A section that is accepted encodes to the same bytes.

use bytes::Bytes;
use engine::checkpoint::{ManifestRef, Section};
use engine::coordinator::{Coordinator, CoordinatorConfig};
use engine::image::read_manifest;
use engine::shard::{Shard, ShardReply, ShardRequest};
use engine::step::Step;
use engine::store::StoreConfig;
use wal::io::{IoOperation, IoOutput};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{SALT, steer, steered};

/// The input is a section.
const SECTION: u8 = 0;
/// The input is an attachment.
const ATTACHMENT: u8 = 1;
/// The input is a manifest, as any other number says too.
const MANIFEST: u8 = 2;

const ID: u32 = 1;

/// Reads `data` as what its first byte says.
pub fn check(data: &[u8]) {
    let Some((steering, input)) = steered(data) else {
        return;
    };
    match steering {
        SECTION => match Section::decode(input) {
            Ok(section) => assert_eq!(section.encode(), input),
            Err(error) => drop(error.to_string()),
        },
        ATTACHMENT => check_attachment(input),
        steering => check_manifest(steering, input),
    }
}

fn section() -> Section {
    Section {
        revision: 7,
        compact_revision: 3,
        apply_hash: 11,
        manifests: vec![
            ManifestRef {
                block: 16,
                bytes: 4096,
                sum: 5
            };
            4
        ],
    }
}

fn check_attachment(input: &[u8]) {
    let config = CoordinatorConfig { shards: 4 };
    match Coordinator::restore(config, 9, &section(), input) {
        Ok(coordinator) => assert_eq!(coordinator.applied().index, 9),
        Err(error) => drop(error.to_string()),
    }
}

/// The checksum is made right, so that the fields behind it are looked at.
fn check_manifest(block: u8, input: &[u8]) {
    let mut bytes = input.to_vec();
    bytes.resize(bytes.len().next_multiple_of(4096).max(4096), 0);
    let sum = xxh3_64_with_seed(&bytes[8..], SALT);
    bytes[..8].copy_from_slice(&sum.to_le_bytes());
    let reference = ManifestRef {
        block: u64::from(block),
        bytes: bytes.len() as u32,
        sum,
    };
    if let Err(what) = read_manifest(0, ID, SALT, reference, &bytes) {
        assert!(!what.is_empty());
    }
}

/// The manifest of an empty shard, behind the block where it stands, and the other two.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![
        steer(SECTION, &section().encode()),
        steer(ATTACHMENT, &attachment()),
    ];
    seeds.extend(manifest());
    seeds
}

fn attachment() -> Vec<u8> {
    let config = CoordinatorConfig { shards: 1 };
    let mut coordinator = Coordinator::new(config);
    coordinator.freeze(ID);
    while let Some(output) = coordinator.poll() {
        if let engine::coordinator::CoordinatorOutput::Shard {
            request: ShardRequest::Freeze { attachment, .. },
            ..
        } = output
        {
            return attachment.to_bytes().to_vec();
        }
    }
    Vec::new()
}

/// Lets a shard write its image and takes the manifest, the last write before the end, from the requests.
fn manifest() -> Option<Vec<u8>> {
    let mut shard = Shard::new(StoreConfig::new(0, SALT));
    let freeze = ShardRequest::Freeze {
        id: ID,
        attachment: Bytes::from(attachment()).into(),
    };
    let frozen = shard.handle(&freeze);
    assert!(matches!(frozen, Step::Ready(ShardReply::Frozen)));
    let mut last = None;
    let mut requests = Vec::new();
    loop {
        let goes_on = shard.poll(&mut requests);
        if requests.is_empty() && !goes_on {
            break;
        }
        for request in requests.drain(..) {
            if let IoOperation::Write { offset, data, .. } = request.operation {
                last = Some((offset / 4096, data));
            }
            shard.complete(request.id, Ok(IoOutput::None));
        }
    }
    let (block, data) = last?;
    let block = u8::try_from(block)
        .ok()
        .filter(|block| *block >= MANIFEST)?;
    Some(steer(block, &data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_what_they_claim() {
        let seeds = seeds();
        assert_eq!(seeds.len(), 3);
        let (block, bytes) = seeds[2].split_first().expect("a manifest");
        let sum = xxh3_64_with_seed(&bytes[8..], SALT);
        let reference = ManifestRef {
            block: u64::from(*block),
            bytes: bytes.len() as u32,
            sum,
        };
        read_manifest(0, ID, SALT, reference, bytes).expect("a manifest that is accepted");
        seeds.iter().for_each(|seed| check(seed));
    }
}
