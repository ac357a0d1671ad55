//! Images of tree pages.
//!
//! What is accepted can be written again and read again, and then stays the same byte for byte.

use engine::page::{BLOCK_BYTES, Expectation, PAGE_BYTES, Page, PageRef};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{SALT, steer, steered};

/// Leaves checksum and number of blocks as the fuzzer has them.
const KEEP_SUM: u8 = 1;
/// Expects another address than the image has.
const ELSEWHERE: u8 = 2;

/// Where the fields stand that the reader compares with its reference.
const BLOCKS: usize = 14;
const ADDRESS: usize = 16;
const GENERATION: usize = 24;

/// Reads `data` as an image: what stands before and behind the marker, with zeros between, because
/// an image has its slots at one end and its cells at the other.
pub fn check(data: &[u8]) {
    let Some((steering, input)) = steered(data) else {
        return;
    };
    let (image, expected) = image_and_expectation(steering, input);
    match Page::decode(&image, &expected) {
        Ok(page) => check_page(&page, &expected),
        Err(error) => drop(error.to_string()),
    }
    let cut = &image[..image.len() - 1];
    assert!(Page::decode(cut, &expected).is_err(), "a cut image");
}

fn image_and_expectation(steering: u8, input: &[u8]) -> (Vec<u8>, Expectation) {
    let mut image = image(input);
    let blocks = (image.len() / BLOCK_BYTES) as u8;
    if steering & KEEP_SUM == 0 {
        image[BLOCKS..BLOCKS + 2].copy_from_slice(&u16::from(blocks).to_le_bytes());
        let sum = xxh3_64_with_seed(&image[8..], SALT);
        image[..8].copy_from_slice(&sum.to_le_bytes());
    }
    let expected = expectation(&image, blocks, steering);
    (image, expected)
}

const MARKER: &[u8] = b"\xfe\xed";

fn image(input: &[u8]) -> Vec<u8> {
    let input = &input[..input.len().min(PAGE_BYTES)];
    let cut = input
        .windows(MARKER.len())
        .position(|bytes| bytes == MARKER);
    let (front, back) = match cut {
        Some(at) => (&input[..at], &input[at + MARKER.len()..]),
        None => (input, &[][..]),
    };
    let used = (front.len() + back.len()).max(1);
    let mut image = vec![0; used.next_multiple_of(BLOCK_BYTES)];
    image[..front.len()].copy_from_slice(front);
    let back_at = image.len() - back.len();
    image[back_at..].copy_from_slice(back);
    image
}

fn expectation(image: &[u8], blocks: u8, steering: u8) -> Expectation {
    let mut address = [0; 8];
    address.copy_from_slice(&image[ADDRESS..ADDRESS + 8]);
    let mut generation = [0; 4];
    generation.copy_from_slice(&image[GENERATION..GENERATION + 4]);
    let address = u64::from_le_bytes(address) ^ u64::from(steering & ELSEWHERE);
    Expectation {
        shard: (address >> 40) as u16,
        salt: SALT,
        reference: PageRef {
            address: address & ((1 << 40) - 1),
            blocks,
            generation: u32::from_le_bytes(generation),
        },
    }
}

fn check_page(page: &Page, expected: &Expectation) {
    assert!(page.used() <= PAGE_BYTES);
    assert!(page.low().starts_with(page.prefix()));
    assert!(
        page.high()
            .is_none_or(|high| high.starts_with(page.prefix()))
    );
    let first = page.encode(SALT);
    let mut reference = expected.reference;
    reference.blocks = page.blocks();
    let expected = Expectation {
        reference,
        ..*expected
    };
    let again = Page::decode(&first, &expected).expect("what was accepted can be written");
    assert_eq!(again.len(), page.len());
    assert_eq!(again.encode(SALT), first);
    drop(format!("{page:?}"));
}

/// An empty page of each kind and one with a cell, all of them valid; then a wrong sum and a wrong place.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    for kind in [1, 2, 3, 6] {
        inputs.push(empty(kind));
        for payload in payloads(kind) {
            inputs.push(one_cell(kind, &payload));
        }
    }
    for input in &inputs {
        let (image, expected) = image_and_expectation(0, input);
        if let Err(error) = Page::decode(&image, &expected) {
            panic!("a seed of kind {} is no page: {error}", image[12]);
        }
    }
    let mut seeds: Vec<Vec<u8>> = inputs.iter().map(|input| steer(0, input)).collect();
    seeds.push(steer(KEEP_SUM, &empty(1)));
    seeds.push(steer(ELSEWHERE, &empty(1)));
    seeds
}

fn header(kind: u8, count: u16, heap_top: u16) -> Vec<u8> {
    let mut header = vec![0; 64];
    header[8..12].copy_from_slice(b"RPG\x01");
    header[12] = kind;
    header[13] = u8::from(kind == 2);
    header[16..24].copy_from_slice(&77u64.to_le_bytes());
    header[24..28].copy_from_slice(&9u32.to_le_bytes());
    header[32..34].copy_from_slice(&count.to_le_bytes());
    header[34..36].copy_from_slice(&heap_top.to_le_bytes());
    // The lower fence, empty, at the end of the image.
    header[40..42].copy_from_slice(&(BLOCK_BYTES as u16).to_le_bytes());
    // Child 0 or the next run: on disk, four blocks.
    if kind == 2 {
        header[48..64].copy_from_slice(&child(70));
    }
    header
}

/// A child reference and the number of live keys below it.
fn child(address: u8) -> [u8; 16] {
    [address, 0, 0, 0, 0, 4, 9, 0, 0, 0, 0, 0, 5, 0, 0, 0]
}

fn empty(kind: u8) -> Vec<u8> {
    header(kind, 0, BLOCK_BYTES as u16)
}

/// What may stand behind a key; the forms are described in `docs/internals/page.md`.
fn payloads(kind: u8) -> Vec<Vec<u8>> {
    const HASH: [u8; 4] = [7, 0, 0, 0];
    // Segment, offset in eights, length.
    const PLACE: [u8; 3] = [2, 8, 60];
    match kind {
        2 => vec![child(71).to_vec()],
        6 => vec![Vec::new()],
        _ => {
            let single = [&[0, 10, 0, 0, 1][..], &PLACE, &HASH].concat();
            let newest = [&[0, 11, 0, 1, 2][..], &PLACE, &HASH].concat();
            let older = [&[2, 1, 0][..], &PLACE, &HASH].concat();
            vec![single, [newest, older].concat()]
        }
    }
}

fn one_cell(kind: u8, payload: &[u8]) -> Vec<u8> {
    let key: &[u8] = if kind == 3 { b"" } else { b"some key" };
    let mut cell = (key.len() as u16).to_le_bytes().to_vec();
    cell.extend_from_slice(key);
    cell.extend_from_slice(payload);
    let top = (BLOCK_BYTES - cell.len()) as u16;
    let mut image = header(kind, 1, top);
    image.extend_from_slice(&top.to_le_bytes());
    image.extend_from_slice(&(cell.len() as u16).to_le_bytes());
    let mut head = [0; 4];
    let head_len = key.len().min(4);
    head[..head_len].copy_from_slice(&key[..head_len]);
    image.extend_from_slice(&u32::from_be_bytes(head).to_le_bytes());
    image.extend_from_slice(MARKER);
    image.extend_from_slice(&cell);
    image
}
