//! What the log makes of bytes that are not those it wrote.

use super::*;

/// A log that is wholly on the disk, and its records.
fn written(config: &StoreConfig, lens: &[usize]) -> (EventLog, Files, Vec<(Loc, Revision)>) {
    let mut log = EventLog::new(config);
    let mut files = Files::new();
    let mut records = Vec::new();
    for (index, len) in lens.iter().enumerate() {
        let value = vec![index as u8; *len];
        let record = record(2 + 2 * index as i64, &value);
        records.push((log.append(&record), record.revision));
        if index % 17 == 9 {
            log.freeze();
        }
    }
    log.freeze();
    files.drain(&mut log);
    assert!(log.is_frozen_written());
    (log, files, records)
}

/// The log as after a restart.
fn reopened(config: &StoreConfig, log: &EventLog) -> EventLog {
    let table = log.frozen_table();
    EventLog::restore(config, &table).expect("a table that was written")
}

#[test]
fn every_damaged_byte_of_a_segment_concerns_only_its_record() {
    let lens: Vec<usize> = (0..40).map(|index| index * 37 % 400).collect();
    let (log, mut files, records) = written(&small(), &lens);
    let places: Vec<(FileName, usize)> = files
        .bytes
        .iter()
        .flat_map(|(file, bytes)| (0..bytes.len()).map(|at| (*file, at)))
        .collect();
    let mut concerned = 0;
    for (file, at) in places {
        files.bytes.get_mut(&file).expect("just listed")[at] ^= 1 << (at % 8);
        let holds = |loc: &Loc| {
            let range = loc.offset as usize..(loc.offset + loc.len) as usize;
            log.file(loc.segment.number()) == file && range.contains(&at)
        };
        let mut reopened = reopened(&small(), &log);
        let (found, error) = files.walk(&mut reopened, 0, usize::MAX);
        let hit = records.iter().position(|(loc, _)| holds(loc));
        assert_eq!(error.is_some(), hit.is_some(), "byte {at} of {file:?}");
        let before = hit.unwrap_or(records.len());
        assert_eq!(found.len(), before, "byte {at} of {file:?}");
        if at % 16 == 0 || hit.is_some_and(|hit| hit % 13 == 0) {
            for (index, (loc, _)) in records.iter().enumerate() {
                let value = files.value(&mut reopened, *loc);
                assert_eq!(value.is_err(), hit == Some(index), "byte {at}, {loc:?}");
            }
        }
        if let Some(hit) = hit {
            concerned += 1;
            // A walk that begins in a later piece does not meet it.
            let piece = |loc: &Loc| {
                let (segment, piece) = log.locate(loc.segment, loc.offset, 1).expect("a record");
                segment.pieces_before + piece as u64
            };
            let behind = records
                .iter()
                .position(|(loc, _)| piece(loc) > piece(&records[hit].0));
            if let Some(behind) = behind {
                let main = records[behind].1.main;
                let (found, error) = files.walk(&mut reopened, main, usize::MAX);
                assert_eq!((found.len(), error), (records.len() - behind, None));
            }
        }
        files.bytes.get_mut(&file).expect("just listed")[at] ^= 1 << (at % 8);
    }
    assert_eq!(
        concerned,
        records.iter().map(|(loc, _)| loc.len).sum::<u32>()
    );
}

#[test]
fn what_was_damaged_and_is_no_more_is_read() {
    let (log, mut files, records) = written(&small(), &[100; 60]);
    let mut log = reopened(&small(), &log);
    let (loc, _) = records[5];
    let file = log.file(loc.segment.number());
    let at = loc.offset as usize + 60;
    for _ in 0..3 {
        files.bytes.get_mut(&file).expect("its file")[at] ^= 4;
        let (found, error) = files.walk(&mut log, 0, usize::MAX);
        assert_eq!((found.len(), error.is_some()), (5, true));
        files.bytes.get_mut(&file).expect("its file")[at] ^= 4;
        let (found, error) = files.walk(&mut log, 0, usize::MAX);
        assert_eq!((found.len(), error), (60, None));
        log.windows = Cache::new(0);
    }
}

#[test]
fn a_record_of_another_place_is_refused() {
    let (log, mut files, records) = written(&small(), &[100; 200]);
    let copy = |files: &mut Files, from: Loc, to: Loc| {
        let source = &files.bytes[&log.file(from.segment.number())];
        let bytes = source[from.offset as usize..][..from.len as usize].to_vec();
        let target = files.bytes.get_mut(&log.file(to.segment.number()));
        let target = target.expect("its file");
        target[to.offset as usize..][..bytes.len()].copy_from_slice(&bytes);
    };
    // Of another piece: refused by its revision alone.
    let (far, _) = records[150];
    let (loc, revision) = records[3];
    copy(&mut files, far, loc);
    let mut fresh = reopened(&small(), &log);
    assert!(files.value(&mut fresh, loc).is_err());
    // Of the same piece: refused by who knows what to expect, also if it was cached by who did not.
    let (near, _) = records[4];
    copy(&mut files, near, loc);
    let config = StoreConfig {
        value_cache_bytes: 1 << 20,
        ..small()
    };
    let mut fresh = reopened(&config, &log);
    assert!(files.value(&mut fresh, loc).is_ok());
    let known = files.settle(&mut fresh, |log| log.value(loc, Some(revision)));
    assert!(known.is_err(), "{known:?}");
    let (found, error) = files.walk(&mut fresh, 0, usize::MAX);
    assert_eq!(found.len(), 4, "the walk is in order up to the copy");
    let Some(LoadError::Record {
        need: Need::Bytes { offset, .. },
        ..
    }) = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(offset, near.offset, "the error names the first wrong place");
    // Others are not concerned.
    for (loc, revision) in &records[4..] {
        let value = files.settle(&mut fresh, |log| log.value(*loc, Some(*revision)));
        assert!(value.is_ok(), "{loc:?}");
    }
}

#[test]
fn a_place_that_names_no_record_is_refused() {
    let (log, files, records) = written(&small(), &[100; 60]);
    let cold = reopened(&small(), &log);
    let config = StoreConfig {
        tail_bytes_max: u64::MAX,
        ..small()
    };
    let (hot, hot_files, _) = written(&config, &[100; 60]);
    let good = records[20].0;
    let bad = [
        Loc {
            segment: SegmentId::event(0),
            ..good
        },
        Loc {
            segment: SegmentId::event(99),
            ..good
        },
        Loc {
            segment: SegmentId::from_raw(u64::MAX),
            ..good
        },
        Loc {
            segment: SegmentId::from_raw(good.segment.raw() | 1),
            ..good
        },
        Loc {
            offset: good.offset + 8,
            ..good
        },
        Loc {
            offset: good.offset + 3,
            ..good
        },
        Loc {
            offset: u32::MAX - 10,
            ..good
        },
        Loc {
            len: good.len - 1,
            ..good
        },
        Loc {
            len: good.len + 8,
            ..good
        },
        Loc {
            len: u32::MAX,
            ..good
        },
        Loc { len: 0, ..good },
    ];
    for (mut log, files) in [(cold, files), (hot, hot_files)] {
        for loc in bad {
            assert!(files.value(&mut log, loc).is_err(), "{loc:?}");
            // A walk may have brought the piece.
            assert_eq!(files.walk(&mut log, 0, 1).1, None);
            assert!(files.value(&mut log, loc).is_err(), "{loc:?}");
        }
        assert!(files.value(&mut log, good).is_ok());
    }
}

#[test]
fn short_and_missing_bytes_are_refused() {
    let (log, _, records) = written(&small(), &[100, 9_000, 50]);
    let mut log = reopened(&small(), &log);
    for (loc, _) in records {
        let need = need_of(loc);
        let refused = log.load(&need, None);
        assert_eq!(refused, Err(LoadError::Nothing { need }));
        let (_, _, len) = log.read_of(&need).expect("a place of the log");
        for len in [0, 1, 40, len - 4096] {
            let zeros = Bytes::from(vec![0; len as usize]);
            assert!(log.load(&need, Some(zeros)).is_err());
        }
    }
}

/// Test mode says that a piece of one record is missing, and only the record cache has it: the walk that asked
/// for it goes on when that is said to be all.
#[test]
fn a_piece_that_only_the_record_cache_has_comes_without_bytes() {
    let config = StoreConfig {
        piece_bytes: 4096,
        tail_bytes_max: 0,
        ..small()
    };
    // The record's length is a multiple of 8: it ends where its piece ends.
    let value = 8192 - record(2, &[]).encoded_len() % 8;
    let (log, files, records) = written(&config, &[value]);
    let mut log = reopened(&config, &log);
    let (loc, _) = records[0];
    assert_eq!(loc.len % 8, 0);
    files.value(&mut log, loc).expect("intact");
    log.windows.remove((loc.segment.raw(), loc.offset));
    let Step::Ready(cursor) = log.seek(Revision::default()) else {
        panic!("the first record's place is known");
    };
    let Step::Need(need) = log.read(cursor, i64::MAX).map(|found| found.map(|_| ())) else {
        panic!("its piece is not in memory");
    };
    log.load(&need, None).expect("in memory");
    let found = log
        .read(cursor, i64::MAX)
        .map(|found| found.map(|(loc, _)| loc));
    assert_eq!(found, Step::Ready(Some(loc)));
}
