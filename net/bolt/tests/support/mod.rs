//! Files in memory: written as a server would, read into lists that can be compared.
#![allow(unreachable_pub, dead_code, reason = "each test program uses its part")]

use bolt::{Database, Item, Plan, ReadError, WriteError, Writer};

/// One bucket with its records.
pub type Records = Vec<(Vec<u8>, Vec<u8>)>;

/// Top-level buckets, in order.
pub type Buckets = Vec<(Vec<u8>, Records)>;

/// The exact plan of `buckets`.
pub fn plan(buckets: &Buckets) -> Plan {
    let mut plan = Plan::new();
    for (name, records) in buckets {
        let bucket = plan.bucket(name).expect("a name");
        for (key, value) in records {
            bucket.add(key.len(), value.len());
        }
    }
    plan
}

/// What a writer gives out for `buckets` with this plan, taken whenever it wants no more.
pub fn try_write(plan: Plan, buckets: &Buckets) -> Result<Vec<u8>, WriteError> {
    let mut writer = Writer::new(plan);
    let mut file = Vec::new();
    for (name, records) in buckets {
        writer.bucket(name)?;
        for (key, value) in records {
            writer.push(key, value)?;
            while !writer.wants_records() {
                file.extend(writer.take().expect("bytes that are too many"));
            }
        }
    }
    writer.finish();
    while let Some(piece) = writer.take() {
        file.extend(piece);
    }
    assert!(writer.is_done());
    assert_eq!(file.len() as u64, writer.file_bytes());
    Ok(file)
}

/// The file of `buckets`.
pub fn write(buckets: &Buckets) -> Vec<u8> {
    try_write(plan(buckets), buckets).expect("a plan that fits")
}

/// Depth, key, and value or the word bucket.
pub type Line = (usize, Vec<u8>, Vec<u8>);

/// Everything in `file` as lines: one for each bucket, entry and end.
pub fn lines(file: &[u8]) -> Result<Vec<Line>, ReadError> {
    let mut database = Database::open(file, file.len() as u64)?;
    let mut walk = database.walk();
    let mut lines = Vec::new();
    let mut inside = 0;
    while let Some(item) = walk.next()? {
        match item {
            Item::Bucket { name, depth } => {
                assert_eq!(depth, inside);
                inside += 1;
                lines.push((depth, name.to_vec(), b"bucket".to_vec()));
            }
            Item::Entry { key, value } => lines.push((inside, key.to_vec(), value.to_vec())),
            Item::End => inside -= 1,
        }
    }
    assert_eq!(inside, 0);
    Ok(lines)
}

/// What [`lines`] says of the file of `buckets`.
pub fn expected_lines(buckets: &Buckets) -> Vec<Line> {
    let mut lines = Vec::new();
    for (name, records) in buckets {
        lines.push((0, name.clone(), b"bucket".to_vec()));
        let records = records.iter().cloned();
        lines.extend(records.map(|(key, value)| (1, key, value)));
    }
    lines
}

/// `count` records with 17-byte keys and values of `value_bytes`.
pub fn records(count: u64, value_bytes: usize) -> Records {
    let record = |number: u64| {
        let mut key = number.to_be_bytes().to_vec();
        key.extend_from_slice(b"_\0\0\0\0\0\0\0\0");
        (key, vec![number as u8; value_bytes])
    };
    (0..count).map(record).collect()
}
