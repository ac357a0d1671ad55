//! Files that bbolt has written; `golden/nested.go` says how.

mod support;

use bolt::Database;
use support::{Line, lines};

const NESTED: [(&[u8], u32, bool); 2] = [
    (include_bytes!("golden/nested-1024.db"), 1024, true),
    (include_bytes!("golden/nested-2048.db"), 2048, false),
];

fn filled(depth: usize, numbers: impl Iterator<Item = u8>, bytes: usize) -> Vec<Line> {
    let line = |number| {
        (
            depth,
            format!("key-{number:05}").into_bytes(),
            vec![number; bytes],
        )
    };
    numbers.map(line).collect()
}

fn bucket(depth: usize, name: &str) -> Line {
    (depth, name.as_bytes().to_vec(), b"bucket".to_vec())
}

#[test]
fn buckets_inside_buckets_overflow_pages_and_free_lists() {
    for (file, page_bytes, has_freelist) in NESTED {
        let mut expected = vec![bucket(0, "many")];
        expected.extend(filled(1, (0..40).chain(100..120), 20));
        expected.push((1, b"long".to_vec(), vec![0; 3 * page_bytes as usize]));
        expected.extend([bucket(0, "nothing"), bucket(0, "outer"), bucket(1, "inner")]);
        expected.extend(filled(2, 0..60, 20));
        expected.push(bucket(2, "small"));
        expected.extend(filled(3, 0..2, 5));
        expected.push((1, b"key-00000".to_vec(), Vec::new()));
        expected.extend(filled(1, 1..3, 10));
        let database = Database::open(file, file.len() as u64).expect("a file");
        assert_eq!(database.meta().page_bytes, page_bytes);
        assert_eq!(database.meta().freelist.is_some(), has_freelist);
        assert_eq!(lines(file).expect("a sound file"), expected);
    }
}

#[test]
fn the_free_list_is_held_against_what_is_in_use() {
    let (file, page_bytes, _) = NESTED[0];
    let meta = *Database::open(file, file.len() as u64)
        .expect("a file")
        .meta();
    let list = (meta.freelist.expect("a free list") * u64::from(page_bytes)) as usize;
    let check = |at: usize, bytes: &[u8], part: &str| {
        let mut damaged = file.to_vec();
        damaged[list + at..list + at + bytes.len()].copy_from_slice(bytes);
        let error = lines(&damaged).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    };
    check(8, &[2], "no free list");
    check(10, &[0xff, 0x0f], "free pages in");
    let elsewhere = [0xff, 0xff, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 0, 0, 0];
    check(10, &elsewhere, "65280 free pages in");
    check(10, &[1, 0], "neither in use nor in the free list");
    check(
        16,
        &meta.root.to_le_bytes(),
        "is free, and something else too",
    );
    check(16, &meta.pages.to_le_bytes(), "free page");
    check(16, &[1, 0, 0, 0, 0, 0, 0, 0], "free page 1 of");
    check(12, &[1], "is free, and something else too");
}

#[test]
fn the_second_meta_page_is_found_at_any_page_size() {
    for (file, page_bytes, _) in NESTED {
        let expected = lines(file).expect("a sound file");
        let mut damaged = file.to_vec();
        damaged[16..80].fill(0);
        let database = Database::open(&damaged[..], file.len() as u64).expect("the second");
        assert_eq!(database.meta().page_bytes, page_bytes);
        // It may be the older one, whose pages the last transaction has not touched.
        let older = lines(&damaged).expect("a sound older state");
        assert!(older.len() >= expected.len(), "{page_bytes}");
    }
}
