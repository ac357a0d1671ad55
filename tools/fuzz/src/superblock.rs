//! The four copies of the superblock.
//!
//! What is accepted is what would be written: encoding and decoding again gives the same content.

use wal::inspect::{newest, superblock_copies};
use wal::superblock::{
    COPY_BYTES, COPY_OFFSETS, CopyError, LaneSlot, LaneState, Salvaged, Superblock, decode, encode,
};
use wal::{Index, NewDirectory, Term, Vote, Watermark};
use xxhash_rust::xxh3::xxh3_64;

use crate::{SALT, steer, steered};

const COPY: usize = COPY_BYTES as usize;

/// Leaves the checksum as the fuzzer has it.
const KEEP_SUM: u8 = 1;
/// Takes the input for the file from its beginning, instead of one copy.
const WHOLE_FILE: u8 = 2;

/// Reads `data` as one copy at each of the four places, or as a file.
pub fn check(data: &[u8]) {
    let Some((steering, input)) = steered(data) else {
        return;
    };
    if steering & WHOLE_FILE != 0 {
        let copies = superblock_copies(input);
        assert_eq!(copies.len(), COPY_OFFSETS.len());
        newest(&copies);
        return;
    }
    let mut copy = input[..input.len().min(COPY)].to_vec();
    copy.resize(COPY, 0);
    if steering & KEEP_SUM == 0 {
        repair(&mut copy);
    }
    check_copy(&copy);
    check_file(&copy, usize::from(steering >> 6));
}

fn repair(copy: &mut [u8]) {
    let sum = xxh3_64(&copy[..COPY - 8]);
    copy[COPY - 8..].copy_from_slice(&sum.to_le_bytes());
}

fn check_copy(copy: &[u8]) {
    match decode(copy) {
        Ok(superblock) => {
            let encoded = encode(&superblock);
            assert_eq!(encoded.len(), COPY);
            assert_eq!(decode(&encoded), Ok(superblock));
        }
        Err(error) => drop(error.to_string()),
    }
    let cut = decode(&copy[..COPY - 1]);
    assert!(matches!(cut, Err(CopyError::Short { .. })), "{cut:?}");
}

/// A file that ends inside the copy after `place`, which holds `copy`.
fn check_file(copy: &[u8], place: usize) {
    let offset = COPY_OFFSETS[place] as usize;
    let mut file = vec![0; offset];
    file.extend_from_slice(copy);
    file.extend_from_slice(&[0; 17]);
    let copies = superblock_copies(&file);
    assert_eq!(copies[place].content, decode(copy));
    assert_eq!(newest(&copies).is_some(), decode(copy).is_ok());
}

/// A new directory's superblock, and one with everything in it.
pub fn seeds() -> Vec<Vec<u8>> {
    let new = Superblock::new(&directory());
    let mut full = new.clone();
    full.term = Term(7);
    full.vote = Vote::For(9);
    full.lanes[0] = LaneSlot {
        generation: 3,
        state: LaneState::Active,
    };
    full.lanes[1].state = LaneState::Draining;
    full.clean = Some(Watermark {
        index: Index(5),
        term: Term(7),
        epoch: 2,
    });
    full.salvaged = Some(Salvaged {
        count: 1,
        first: Index(3),
        last: Index(4),
    });
    full.section = b"a section of the engine".to_vec();
    let mut again = encode(&full);
    repair(&mut again);
    assert_eq!(decode(&again), Ok(full.clone()), "the sum is another one");
    let short = b"ringd-sb, but no more".to_vec();
    let images = [encode(&new), encode(&full), short];
    let mut seeds: Vec<Vec<u8>> = images.iter().map(|image| steer(0, image)).collect();
    seeds.push(steer(WHOLE_FILE, &encode(&new)));
    seeds
}

/// The directory of every image that the targets make.
pub(crate) fn directory() -> NewDirectory {
    NewDirectory {
        cluster_id: 1,
        member_id: 2,
        salt: SALT,
        shards: 4,
    }
}
