//! One copy of the superblock as bytes. See `docs/internals/superblock.md`.

use super::{COPY_BYTES, LaneSlot, LaneState, Salvaged, Superblock, VERSION};
use crate::config::LANES_MAX;
use crate::entry::{Index, Term, Vote, Watermark};
use std::fmt;
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: [u8; 8] = *b"ringd-sb";
const LANES_OFFSET: usize = 224;
const SECTION_LENGTH_OFFSET: usize = LANES_OFFSET + 8 * LANES_MAX as usize;
const SECTION_OFFSET: usize = SECTION_LENGTH_OFFSET + 8;
const SUM_OFFSET: usize = COPY_BYTES as usize - 8;

pub(super) const SECTION_BYTES_MAX: usize = SUM_OFFSET - SECTION_OFFSET;

/// Why a copy is not usable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopyError {
    /// Shorter than a copy: the file ends before it.
    Short {
        /// Bytes that are there.
        bytes: usize,
    },
    /// Only zeros: never written, or lost.
    Zeros,
    /// Does not begin as a superblock does.
    Magic,
    /// The checksum does not fit the content.
    Sum {
        /// Sum in the copy.
        stored: u64,
        /// Sum of the content.
        computed: u64,
    },
    /// Intact, but written by a newer build.
    Newer {
        /// Its format version.
        version: u32,
        /// Its feature bits.
        features: u32,
        /// Its sequence number.
        seq: u64,
    },
    /// Intact, but a field has a value that no build writes.
    Field {
        /// Offset of the field in the copy, in bytes.
        offset: usize,
        /// Name of the field.
        name: &'static str,
    },
}

impl fmt::Display for CopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CopyError::Short { bytes } => write!(f, "only {bytes} bytes are there"),
            CopyError::Zeros => f.write_str("only zeros"),
            CopyError::Magic => f.write_str("not a superblock"),
            CopyError::Sum { stored, computed } => {
                write!(f, "checksum is {stored:016x}, content has {computed:016x}")
            }
            CopyError::Newer {
                version, features, ..
            } => {
                write!(f, "format version {version}, features {features:#x}")
            }
            CopyError::Field { offset, name } => write!(f, "bad {name} at byte {offset}"),
        }
    }
}

/// Bytes of one copy; all four copies of a write are equal.
///
/// # Panics
/// If the engine's section is longer than [`super::SECTION_BYTES_MAX`].
pub fn encode(superblock: &Superblock) -> Vec<u8> {
    assert!(
        superblock.section.len() <= SECTION_BYTES_MAX,
        "engine section of {} bytes exceeds {SECTION_BYTES_MAX}",
        superblock.section.len()
    );
    let mut copy = vec![0; COPY_BYTES as usize];
    copy[..8].copy_from_slice(&MAGIC);
    put_u32(&mut copy, 8, VERSION);
    let (vote_kind, vote) = match superblock.vote {
        Vote::None => (0, 0),
        Vote::For(member) => (1, member),
        Vote::Unknown => (2, 0),
    };
    let clean = superblock.clean.unwrap_or_default();
    let salvaged = superblock.salvaged.unwrap_or_default();
    for (offset, value) in [
        (16, superblock.seq),
        (24, superblock.cluster_id),
        (32, superblock.member_id),
        (40, superblock.salt),
        (48, superblock.term.0),
        (56, vote),
        (72, superblock.epoch),
        (80, superblock.epoch_start.0),
        (88, superblock.epoch_start_term.0),
        (96, superblock.epoch_floor),
        (104, superblock.wseq_reserved),
        (112, clean.index.0),
        (120, clean.term.0),
        (128, clean.epoch),
        (136, superblock.checkpoint_id),
        (144, superblock.checkpoint_index.0),
        (152, superblock.checkpoint_term.0),
        (160, superblock.checkpoint_ids_reserved),
        (168, salvaged.first.0),
        (176, salvaged.last.0),
    ] {
        put_u64(&mut copy, offset, value);
    }
    copy[64] = vote_kind;
    copy[65] = superblock.shards;
    copy[66] = u8::from(superblock.clean.is_some());
    put_u32(&mut copy, 68, salvaged.count);
    for (lane, slot) in superblock.lanes.iter().enumerate() {
        put_u32(&mut copy, LANES_OFFSET + 8 * lane, slot.generation);
        copy[LANES_OFFSET + 8 * lane + 4] = match slot.state {
            LaneState::Retired => 0,
            LaneState::Active => 1,
            LaneState::Draining => 2,
        };
    }
    put_u32(
        &mut copy,
        SECTION_LENGTH_OFFSET,
        superblock.section.len() as u32,
    );
    copy[SECTION_OFFSET..SECTION_OFFSET + superblock.section.len()]
        .copy_from_slice(&superblock.section);
    let sum = xxh3_64(&copy[..SUM_OFFSET]);
    put_u64(&mut copy, SUM_OFFSET, sum);
    copy
}

/// The superblock in one copy.
///
/// # Errors
/// Says what is wrong with the copy; [`CopyError::Newer`] only for one that is intact.
pub fn decode(copy: &[u8]) -> Result<Superblock, CopyError> {
    if copy.len() < COPY_BYTES as usize {
        return Err(CopyError::Short { bytes: copy.len() });
    }
    let copy = &copy[..COPY_BYTES as usize];
    if copy.iter().all(|byte| *byte == 0) {
        return Err(CopyError::Zeros);
    }
    if copy[..8] != MAGIC {
        return Err(CopyError::Magic);
    }
    let (stored, computed) = (get_u64(copy, SUM_OFFSET), xxh3_64(&copy[..SUM_OFFSET]));
    if stored != computed {
        return Err(CopyError::Sum { stored, computed });
    }
    let (version, features) = (get_u32(copy, 8), get_u32(copy, 12));
    if version > VERSION || features != 0 {
        return Err(CopyError::Newer {
            version,
            features,
            seq: get_u64(copy, 16),
        });
    }
    let bad = |offset, name| CopyError::Field { offset, name };
    if version == 0 {
        return Err(bad(8, "version"));
    }
    let vote = match (copy[64], get_u64(copy, 56)) {
        (0, 0) => Vote::None,
        (1, member) => Vote::For(member),
        (2, 0) => Vote::Unknown,
        _ => return Err(bad(64, "vote")),
    };
    let clean = match copy[66] {
        0 => None,
        1 => Some(Watermark {
            index: Index(get_u64(copy, 112)),
            term: Term(get_u64(copy, 120)),
            epoch: get_u64(copy, 128),
        }),
        _ => return Err(bad(66, "clean")),
    };
    let salvaged = match get_u32(copy, 68) {
        0 => None,
        count => Some(Salvaged {
            count,
            first: Index(get_u64(copy, 168)),
            last: Index(get_u64(copy, 176)),
        }),
    };
    let mut lanes = [LaneSlot::default(); LANES_MAX as usize];
    for (lane, slot) in lanes.iter_mut().enumerate() {
        let offset = LANES_OFFSET + 8 * lane;
        slot.generation = get_u32(copy, offset);
        slot.state = match copy[offset + 4] {
            0 => LaneState::Retired,
            1 => LaneState::Active,
            2 => LaneState::Draining,
            _ => return Err(bad(offset + 4, "lane state")),
        };
    }
    let section_bytes = get_u32(copy, SECTION_LENGTH_OFFSET) as usize;
    if section_bytes > SECTION_BYTES_MAX {
        return Err(bad(SECTION_LENGTH_OFFSET, "section length"));
    }
    let epoch_start = Index(get_u64(copy, 80));
    if epoch_start == Index(0) {
        return Err(bad(80, "epoch start"));
    }
    Ok(Superblock {
        seq: get_u64(copy, 16),
        cluster_id: get_u64(copy, 24),
        member_id: get_u64(copy, 32),
        salt: get_u64(copy, 40),
        shards: copy[65],
        term: Term(get_u64(copy, 48)),
        vote,
        lanes,
        epoch: get_u64(copy, 72),
        epoch_start,
        epoch_start_term: Term(get_u64(copy, 88)),
        epoch_floor: get_u64(copy, 96),
        wseq_reserved: get_u64(copy, 104),
        clean,
        checkpoint_id: get_u64(copy, 136),
        checkpoint_index: Index(get_u64(copy, 144)),
        checkpoint_term: Term(get_u64(copy, 152)),
        checkpoint_ids_reserved: get_u64(copy, 160),
        salvaged,
        section: copy[SECTION_OFFSET..SECTION_OFFSET + section_bytes].to_vec(),
    })
}

fn put_u32(copy: &mut [u8], offset: usize, value: u32) {
    copy[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_u64(copy: &mut [u8], offset: usize, value: u64) {
    copy[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
}

fn get_u32(copy: &[u8], offset: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&copy[offset..offset + 4]);
    u32::from_le_bytes(bytes)
}

fn get_u64(copy: &[u8], offset: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&copy[offset..offset + 8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NewDirectory;
    use proptest::prelude::*;

    fn superblock() -> Superblock {
        Superblock::new(&NewDirectory {
            cluster_id: 1,
            member_id: 2,
            salt: 3,
            shards: 4,
        })
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut copy = encode(&superblock());
        put_u32(&mut copy, 8, VERSION + 1);
        let sum = xxh3_64(&copy[..SUM_OFFSET]);
        put_u64(&mut copy, SUM_OFFSET, sum);
        let newer = CopyError::Newer {
            version: VERSION + 1,
            features: 0,
            seq: 1,
        };
        assert_eq!(decode(&copy), Err(newer));
    }

    proptest! {
        #[test]
        fn copies_round_trip(numbers in any::<[u64; 12]>(), section in proptest::collection::vec(any::<u8>(), 0..=SECTION_BYTES_MAX), some in any::<bool>(), flip in 0..COPY_BYTES as usize) {
            let mut content = superblock();
            content.seq = numbers[0];
            content.term = Term(numbers[1]);
            content.vote = if some { Vote::For(numbers[2]) } else { Vote::Unknown };
            content.lanes[5] = LaneSlot { generation: numbers[3] as u32, state: LaneState::Draining };
            content.epoch = numbers[4];
            content.epoch_start = Index(numbers[5].max(1));
            content.clean = some.then_some(Watermark { index: Index(numbers[6]), term: Term(numbers[7]), epoch: numbers[8] });
            content.checkpoint_index = Index(numbers[9]);
            content.salvaged = some.then_some(Salvaged { count: 1, first: Index(numbers[10]), last: Index(numbers[11]) });
            content.section = section;
            let mut copy = encode(&content);
            prop_assert_eq!(decode(&copy), Ok(content));
            copy[flip] ^= 1;
            prop_assert!(decode(&copy).is_err());
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..5000), fix in any::<bool>()) {
            let mut bytes = bytes;
            if fix {
                bytes.resize(COPY_BYTES as usize, 7);
                bytes[..8].copy_from_slice(&MAGIC);
                put_u32(&mut bytes, 8, VERSION);
                put_u32(&mut bytes, 12, 0);
                let sum = xxh3_64(&bytes[..SUM_OFFSET]);
                put_u64(&mut bytes, SUM_OFFSET, sum);
            }
            let outcome = decode(&bytes);
            prop_assert!(outcome.is_ok() || !outcome.unwrap_err().to_string().is_empty());
            crate::inspect::superblock_copies(&bytes);
        }
    }
}
