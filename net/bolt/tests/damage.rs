//! Files that somebody else wrote, or that were damaged on the way.

mod support;

use bolt::{Database, ReadError};
use support::{Buckets, expected_lines, lines, records, write};

const PAGE: usize = 4096;

/// Two buckets with a branch and leaves each, a small one, an empty one: about 150 KiB.
fn buckets() -> Buckets {
    vec![
        (b"empty".to_vec(), Vec::new()),
        (b"first".to_vec(), records(1_200, 40)),
        (b"second".to_vec(), records(700, 90)),
        (b"small".to_vec(), records(3, 16)),
    ]
}

/// The first page with these flags, in bytes.
fn find(file: &[u8], flags: u16) -> usize {
    let wanted = flags.to_le_bytes();
    (2..file.len() / PAGE)
        .map(|page| page * PAGE)
        .find(|at| file[at + 8..at + 10] == wanted && file[*at..*at + 8] != [0; 8])
        .expect("a page of this kind")
}

const BRANCH: u16 = 1;
const LEAF: u16 = 2;

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

fn u64_at(file: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(file[at..at + 8].try_into().expect("8 bytes"))
}

/// Plants `damage` and expects an error that says `part`.
fn refused(part: &str, damage: impl Fn(&mut Vec<u8>)) {
    let mut file = write(&buckets());
    damage(&mut file);
    let error = lines(&file).expect_err(part);
    let text = error.to_string();
    assert!(text.contains(part), "{part}: {text}");
    if let ReadError::Damaged { page, offset, .. } = error {
        assert!(text.contains(&format!("page {page} is damaged at offset {offset}")));
        assert!(offset / PAGE as u64 >= page, "{text}");
    }
}

#[test]
fn each_rule_for_branches() {
    let element = |file: &[u8], index: usize| find(file, BRANCH) + 16 + index * 16;
    refused("two uses", |file| {
        let at = element(file, 0);
        let own = u64_at(file, find(file, BRANCH));
        put(file, at + 8, &own.to_le_bytes());
    });
    refused("two uses", |file| {
        let (first, second) = (element(file, 0), element(file, 1));
        let child = u64_at(file, first + 8);
        put(file, second + 8, &child.to_le_bytes());
    });
    for page in [0_u64, 1, 40_000, u64::MAX] {
        refused("refers to page", |file| {
            let at = element(file, 1);
            put(file, at + 8, &page.to_le_bytes());
        });
    }
    refused("no leaf or branch", |file| {
        let at = find(file, BRANCH);
        put(file, at + 8, &[3]);
    });
    refused("says that it is page", |file| {
        let at = find(file, BRANCH);
        put(file, at, &[0xff]);
    });
    refused("run behind the end", |file| {
        let at = find(file, BRANCH);
        put(file, at + 12, &u32::MAX.to_le_bytes());
    });
    refused("a branch without children", |file| {
        let at = find(file, BRANCH);
        put(file, at + 10, &[0, 0]);
    });
    refused("elements in", |file| {
        let at = find(file, BRANCH);
        put(file, at + 10, &[0xff, 0xff]);
    });
    refused("is not above key", |file| {
        let at = element(file, 1);
        let begin = at + u32::from_le_bytes(file[at..at + 4].try_into().expect("4 bytes")) as usize;
        put(file, begin, &[0; 17]);
    });
    refused("below its separator", |file| {
        let at = element(file, 0);
        let begin = at + u32::from_le_bytes(file[at..at + 4].try_into().expect("4 bytes")) as usize;
        file[begin + 16] += 1;
    });
    refused("not below the next separator", |file| {
        let at = element(file, 1);
        let begin = at + u32::from_le_bytes(file[at..at + 4].try_into().expect("4 bytes")) as usize;
        file[begin + 7] -= 1;
    });
}

#[test]
fn each_rule_for_leaves() {
    let element = |file: &[u8], index: usize| find(file, LEAF) + 16 + index * 16;
    refused("has flags 0x2", |file| {
        let at = element(file, 3);
        put(file, at, &[2]);
    });
    refused("the one before ends", |file| {
        let at = element(file, 3);
        file[at + 4] += 1;
    });
    refused("lies at", |file| {
        let at = element(file, 3);
        put(file, at + 12, &u32::MAX.to_le_bytes());
    });
    refused("has a key of 0", |file| {
        let at = element(file, 3);
        put(file, at + 8, &[0]);
    });
    refused("is not above key", |file| {
        let at = element(file, 3);
        let begin =
            at + u32::from_le_bytes(file[at + 4..at + 8].try_into().expect("4 bytes")) as usize;
        put(file, begin, &[0; 17]);
    });
    refused("a leaf without entries", |file| {
        let at = find(file, LEAF);
        put(file, at + 10, &[0, 0]);
    });
    refused("two uses", |file| {
        let at = find(file, LEAF);
        file[at + 12] += 1;
    });
}

#[test]
fn each_rule_for_buckets() {
    let value = |file: &[u8], name: &[u8]| {
        let root = Database::open(file, file.len() as u64)
            .expect("a file")
            .meta()
            .root;
        let begin = root as usize * PAGE;
        let at = file[begin..]
            .windows(name.len())
            .position(|bytes| bytes == name);
        begin + at.expect("the name") + name.len()
    };
    refused("two uses", |file| {
        let first = u64_at(file, value(file, b"first"));
        let at = value(file, b"second");
        put(file, at, &first.to_le_bytes());
    });
    refused("two uses", |file| {
        let root = Database::open(&file[..], file.len() as u64)
            .expect("a file")
            .meta()
            .root;
        let at = value(file, b"first");
        put(file, at, &root.to_le_bytes());
    });
    refused("refers to page 1 ", |file| {
        let at = value(file, b"first");
        put(file, at, &1_u64.to_le_bytes());
    });
    refused("0 bytes are no page", |file| {
        let at = value(file, b"first");
        put(file, at, &0_u64.to_le_bytes());
    });
    refused("no leaf", |file| {
        let at = value(file, b"small");
        put(file, at + 16, &[7]);
    });
    refused("a bucket inside a page inside", |file| {
        let at = value(file, b"small");
        put(file, at + 32, &[1]);
    });
}

#[test]
fn a_damaged_meta_page_gives_way_to_the_other() {
    let buckets = buckets();
    let file = write(&buckets);
    let expected = expected_lines(&buckets);
    for damaged in [0, PAGE] {
        for at in (0..80).map(|at| damaged + at) {
            let mut flipped = file.clone();
            flipped[at] ^= 0x20;
            assert_eq!(
                lines(&flipped).expect("the other one"),
                expected,
                "byte {at}"
            );
        }
    }
    let mut none = file;
    none[20] ^= 1;
    none[PAGE + 20] ^= 1;
    let error = lines(&none).expect_err("no meta page").to_string();
    assert!(error.contains("not a bbolt database"), "{error}");
    assert!(error.contains("format version 3"), "{error}");
}

#[test]
fn a_cut_file_is_refused_wherever_it_is_cut() {
    let file = write(&buckets());
    let mut len = file.len() - 1;
    while len > 512 {
        assert!(lines(&file[..len]).is_err(), "{len} bytes");
        len -= 509;
    }
    for len in 0..200 {
        assert!(lines(&file[..len]).is_err(), "{len} bytes");
    }
    let mut longer = file;
    longer.extend_from_slice(&[7; 32]);
    assert!(
        lines(&longer).is_ok(),
        "what follows the pages means nothing"
    );
}

/// The format has no checksums of pages, so a flip in a value is another value. Nothing panics, and what has
/// another structure is found or still a file by all rules.
#[test]
fn a_flip_anywhere_panics_nowhere() {
    let file = write(&buckets());
    let mut refused = 0;
    let mut at = 0;
    while at < file.len() {
        let mut flipped = file.clone();
        flipped[at] ^= 1 << (at % 8);
        match lines(&flipped) {
            Ok(lines) => assert!(lines.len() > 3),
            Err(error) => {
                refused += 1;
                drop(error.to_string());
            }
        }
        // Every byte of the first headers, then here and there.
        at += if at % PAGE < 128 { 3 } else { 61 };
    }
    assert!(refused > 300, "{refused}");
}
