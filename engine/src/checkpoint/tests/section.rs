//! The bytes of the section.

use crate::checkpoint::*;
use proptest::prelude::*;

fn section(shards: usize) -> Section {
    Section {
        revision: 0x0102_0304,
        compact_revision: 77,
        apply_hash: 0xfedc_ba98_7654_3210,
        manifests: (0..shards as u64)
            .map(|shard| ManifestRef {
                block: 1 + shard,
                bytes: 4096 + shard as u32,
                sum: shard << 40 | 5,
            })
            .collect(),
    }
}

#[test]
fn the_layout_is_the_documented_one() {
    let bytes = section(1).encode();
    let expected: [u8; 56] = [
        1, 0, 1, 0, 0, 0, 0, 0, // version, shards, zeros
        4, 3, 2, 1, 0, 0, 0, 0, // revision
        77, 0, 0, 0, 0, 0, 0, 0, // compact revision
        0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe, // apply hash
        1, 0, 0, 0, 0, 0, 0, 0, // block
        0, 16, 0, 0, 0, 0, 0, 0, // length, zeros
        5, 0, 0, 0, 0, 0, 0, 0, // checksum
    ];
    assert_eq!(bytes, expected);
}

#[test]
fn sections_round_trip_up_to_the_longest() {
    for shards in [1, 4, 64] {
        let section = section(shards);
        let bytes = section.encode();
        assert!(bytes.len() <= SECTION_BYTES_MAX);
        assert_eq!(Section::decode(&bytes), Ok(section));
    }
    assert_eq!(section(64).encode().len(), SECTION_BYTES_MAX);
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let intact = section(2).encode();
    let refused = |at: usize, value: u8| {
        let mut bytes = intact.clone();
        bytes[at] = value;
        Section::decode(&bytes).expect_err("refused")
    };
    for (at, value, what) in [
        (0, 0, "version"),
        (2, 3, "shards"),
        (3, 1, "shards"),
        (4, 1, "reserved bytes"),
        (15, 0x80, "revision"),
        (23, 0x40, "compact revision"),
        (41, 0, "manifest length"),
        (44, 1, "reserved bytes"),
    ] {
        let error = refused(at, value);
        assert!(
            matches!(error, CheckpointError::Invalid { what: found, .. } if found == what),
            "{at}: {error}"
        );
    }
    assert!(matches!(
        refused(0, 2),
        CheckpointError::NewerVersion { version: 2, .. }
    ));
    for len in 0..intact.len() {
        let refused = Section::decode(&intact[..len]);
        assert!(matches!(refused, Err(CheckpointError::Truncated { .. })));
    }
    let mut longer = intact.clone();
    longer.push(0);
    let refused = Section::decode(&longer);
    assert!(matches!(
        refused,
        Err(CheckpointError::Trailing { count: 1, .. })
    ));
}

proptest! {
    #[test]
    fn whatever_is_accepted_encodes_to_itself(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        shape in any::<bool>(),
    ) {
        // Most random bytes fail at the version.
        if shape && bytes.len() > 8 {
            bytes[..8].copy_from_slice(&[1, 0, 1, 0, 0, 0, 0, 0]);
        }
        if let Ok(section) = Section::decode(&bytes) {
            prop_assert_eq!(section.encode(), bytes);
        }
    }
}
