//! What is written is read back, whatever the sizes are.

mod support;

use std::collections::BTreeMap;

use bolt::{Database, Item, Plan, WriteError, Writer};
use proptest::prelude::*;
use support::{Buckets, expected_lines, lines, plan, records, try_write, write};

/// The pages of `file` as `bbolt check` sees them: id, flags, count, overflow of each run, by its first page.
fn runs(file: &[u8], first: u64, end: u64) -> BTreeMap<u64, (u16, u16, u32)> {
    let mut runs = BTreeMap::new();
    let mut page = first;
    while page < end {
        let at = page as usize * 4096;
        let header = &file[at..at + 16];
        let id = u64::from_le_bytes(header[..8].try_into().expect("8 bytes"));
        if id == 0 {
            break;
        }
        let overflow = u32::from_le_bytes(header[12..].try_into().expect("4 bytes"));
        let field = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        assert_eq!(id, page);
        runs.insert(page, (field(8), field(10), overflow));
        page += 1 + u64::from(overflow);
    }
    runs
}

fn check(buckets: &Buckets) {
    let file = write(buckets);
    assert_eq!(lines(&file).expect("a sound file"), expected_lines(buckets));
    let root = Database::open(&file[..], file.len() as u64)
        .expect("a file")
        .meta()
        .root;
    for (page, (flags, count, _)) in runs(&file, 2, root) {
        assert!(flags == 1 || flags == 2, "page {page}");
        let least = if flags == 1 { 2 } else { 1 };
        assert!(count >= least, "page {page} has {count} elements");
    }
}

fn one_bucket(records: support::Records) -> Buckets {
    vec![(b"key".to_vec(), records)]
}

#[test]
fn a_file_without_buckets() {
    check(&Vec::new());
}

#[test]
fn sizes_at_which_something_changes() {
    // Inline and not, one leaf and two, one branch and two, a full branch and one more, three levels.
    for count in [
        0, 1, 2, 20, 21, 22, 60, 61, 62, 118, 119, 120, 121, 122, 240, 241, 242,
    ] {
        check(&one_bucket(records(count, 20)));
        check(&one_bucket(records(count, 70_000)));
    }
}

#[test]
fn three_levels_of_branches() {
    // Keys so long that a branch has three children.
    let long = |number: u32| {
        let mut key = vec![b'k'; 900];
        key.extend_from_slice(&number.to_be_bytes());
        (key, vec![1; 65_000])
    };
    check(&one_bucket((0..40).map(long).collect()));
}

#[test]
fn the_longest_key_and_a_long_value() {
    let longest = vec![b'k'; bolt::KEY_BYTES_MAX];
    check(&one_bucket(vec![(longest, vec![1; 3 << 20])]));
}

#[test]
fn many_records_in_pieces_of_bounded_size() {
    let buckets = one_bucket(records(30_000, 100));
    let mut writer = Writer::new(plan(&buckets));
    let mut written = 0;
    writer.bucket(b"key").expect("the bucket");
    for (key, value) in &buckets[0].1 {
        while !writer.wants_records() {
            let piece = writer.take().expect("a piece");
            assert!(piece.len() <= 512 << 10, "{}", piece.len());
            written += piece.len() as u64;
        }
        writer.push(key, value).expect("a record");
    }
    writer.finish();
    while let Some(piece) = writer.take() {
        written += piece.len() as u64;
    }
    assert_eq!(written, writer.file_bytes());
}

#[test]
fn a_plan_of_more_than_comes_leaves_free_space() {
    let buckets = one_bucket(records(500, 300));
    let mut generous = plan(&buckets);
    generous
        .bucket(b"key")
        .expect("a name")
        .add_many(9_000, 9_000_000, 40);
    generous
        .bucket(b"unused")
        .expect("a name")
        .add_many(9_000, 9_000_000, 40);
    let file = try_write(generous, &buckets).expect("less than planned");
    assert!(file.len() > 18_000_000);
    let mut expected = expected_lines(&buckets);
    expected.push((0, b"unused".to_vec(), b"bucket".to_vec()));
    assert_eq!(lines(&file).expect("a sound file"), expected);
}

#[test]
fn what_breaks_order_or_plan_is_refused_and_changes_nothing() {
    let mut plan = Plan::new();
    plan.bucket(b"a").expect("a name").add_many(2, 40, 8);
    plan.bucket(b"b").expect("a name").add(1, 1);
    let mut writer = Writer::new(plan);
    let refused = |result: Result<(), WriteError>, part: &str| {
        let text = result.expect_err(part).to_string();
        assert!(text.contains(part), "{text}");
    };
    refused(writer.push(b"k", b""), "no bucket");
    refused(writer.bucket(b"c"), "not in the plan");
    writer.bucket(b"a").expect("the first");
    refused(writer.push(b"", b""), "a key of 0");
    refused(writer.push(b"123456789", b""), "bytes of a key");
    refused(writer.push(b"k", &[0; 40]), "more bytes");
    writer.push(b"k2", b"v").expect("a record");
    refused(writer.push(b"k2", b"v"), "does not come after");
    refused(writer.push(b"k1", b"v"), "does not come after");
    writer.push(b"k3", b"v").expect("a record");
    refused(writer.push(b"k4", b"v"), "more records");
    writer.bucket(b"b").expect("the second");
    refused(writer.bucket(b"b"), "does not come after");
    refused(writer.bucket(b"a"), "does not come after");
    writer.finish();
    refused(writer.bucket(b"b"), "does not come after");
    refused(writer.push(b"k", b""), "no bucket");
    let mut file = Vec::new();
    while let Some(piece) = writer.take() {
        file.extend(piece);
    }
    let record = |key: &[u8]| (key.to_vec(), b"v".to_vec());
    let first = vec![record(b"k2"), record(b"k3")];
    let buckets = vec![(b"a".to_vec(), first), (b"b".to_vec(), Vec::new())];
    assert_eq!(
        lines(&file).expect("a sound file"),
        expected_lines(&buckets)
    );
}

#[test]
fn one_bucket_is_read_without_the_others() {
    let buckets = vec![
        (b"inline".to_vec(), records(3, 3)),
        (b"key".to_vec(), records(3_000, 60)),
        (b"meta".to_vec(), records(1, 3)),
    ];
    let file = write(&buckets);
    let mut database = Database::open(&file[..], file.len() as u64).expect("a file");
    for (name, records) in &buckets {
        let mut walk = database.bucket(name).expect("sound").expect("there");
        for record in records {
            let Some(Item::Entry { key, value }) = walk.next().expect("sound") else {
                panic!("an entry is missing");
            };
            assert_eq!((key, value), (record.0.as_slice(), record.1.as_slice()));
        }
        assert_eq!(walk.next().expect("sound"), None);
        assert_eq!(walk.next().expect("sound"), None);
    }
    assert!(database.bucket(b"other").expect("sound").is_none());
}

fn any_buckets() -> impl Strategy<Value = Buckets> {
    let bytes = |len: std::ops::Range<usize>| proptest::collection::vec(any::<u8>(), len);
    let value = prop_oneof![
        8 => bytes(0..40),
        3 => (any::<u8>(), 0..9_000_usize).prop_map(|(byte, count)| vec![byte; count]),
        1 => (any::<u8>(), 0..1_500_000_usize).prop_map(|(byte, count)| vec![byte; count]),
    ];
    let key = prop_oneof![9 => bytes(1..24), 1 => bytes(1..2_000)];
    let records = proptest::collection::btree_map(key, value, 0..120);
    proptest::collection::btree_map(bytes(1..20), records, 0..6).prop_map(|buckets| {
        let bucket = |(name, records): (_, BTreeMap<_, _>)| (name, records.into_iter().collect());
        buckets.into_iter().map(bucket).collect()
    })
}

fn cases() -> u32 {
    let budget = std::env::var("RINGD_TEST_BUDGET").ok();
    96 * budget.and_then(|budget| budget.parse().ok()).unwrap_or(1)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn random_buckets(buckets in any_buckets()) {
        check(&buckets);
    }

    /// Whatever comes of what was planned, it fits.
    #[test]
    fn some_of_what_was_planned(buckets in any_buckets(), chosen in any::<u64>()) {
        let mut some = buckets.clone();
        for (_, records) in &mut some {
            let mut number = 0;
            records.retain(|_| {
                number += 1;
                chosen >> (number % 64) & 1 == 1
            });
        }
        let file = try_write(plan(&buckets), &some).expect("less than planned");
        assert_eq!(lines(&file).expect("a sound file"), expected_lines(&some));
    }
}
