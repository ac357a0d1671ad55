//! Pieces on their way to the disk, and the table of an image.

use super::*;
use crate::store::StoreConfig;

fn filled(config: &StoreConfig, count: i64, len: usize) -> EventLog {
    let mut log = EventLog::new(config);
    for main in 0..count {
        log.append(&record(2 + main, &vec![5; len]));
    }
    log
}

fn table_of(log: &EventLog) -> Vec<u8> {
    log.frozen_table()
}

#[test]
fn segments_double_and_pieces_are_aligned() {
    let config = StoreConfig {
        segment_bytes_first: 16 * 1024,
        segment_bytes_max: 1 << 20,
        ..StoreConfig::new(0, SALT)
    };
    let mut log = EventLog::new(&config);
    let values: Vec<Vec<u8>> = (0..3_000).map(|i| vec![i as u8; i % 1_000]).collect();
    let revision = |index: usize| 2 + 3 * index as i64;
    let locs: Vec<Loc> = values
        .iter()
        .enumerate()
        .map(|(index, value)| log.append(&record(revision(index), value)))
        .collect();
    log.verify().expect("a valid log");
    let capacities: Vec<u32> = log
        .history
        .segments
        .iter()
        .map(|found| found.capacity)
        .collect();
    assert!(capacities.len() > 3, "{capacities:?}");
    assert!(
        capacities
            .windows(2)
            .all(|pair| pair[1] == (pair[0] * 2).min(1 << 20))
    );
    let files = Files::new();
    for (index, (&loc, value)) in locs.iter().zip(&values).enumerate() {
        let found = files.value(&mut log, loc).expect("in memory");
        assert_eq!(found, value);
        for main in [revision(index) - 2, revision(index)] {
            let (found, _) = files.walk(&mut log, main, 1);
            assert_eq!(found[0].0, loc, "seek {main}");
        }
    }
    assert!(files.walk(&mut log, revision(3_000), 1).0.is_empty());
}

#[test]
fn a_value_of_a_sealed_piece_is_not_copied() {
    let mut log = EventLog::new(&StoreConfig::new(0, SALT));
    let files = Files::new();
    let loc = log.append(&record(2, &[1; 500]));
    let open = files.value(&mut log, loc).expect("in memory");
    log.freeze();
    let first = files.value(&mut log, loc).expect("in memory");
    let second = files.value(&mut log, loc).expect("in memory");
    assert_eq!(first.as_ptr(), second.as_ptr());
    assert_ne!(first.as_ptr(), open.as_ptr());
}

#[test]
fn pieces_leave_the_memory_only_when_they_are_written() {
    let mut log = filled(&small(), 500, 100);
    let mut files = Files::new();
    let pieces = log.history.tail.next();
    let full = log.memory_bytes();
    assert!(log.history.tail.get(0).is_some(), "nothing is written yet");
    files.poll(&mut log, 2);
    assert_eq!(files.pending.len(), 1, "no write before the file is there");
    files.execute(&mut log, 0);
    files.poll(&mut log, 8);
    assert_eq!(files.pending.len(), 3, "two pieces, then the next file");
    files.execute(&mut log, 1);
    assert!(log.history.tail.get(0).is_some(), "first in, first out");
    files.execute(&mut log, 0);
    assert!(log.history.tail.get(1).is_none() && log.history.tail.get(2).is_some());
    files.drain(&mut log);
    assert!(log.memory_bytes() < full / 4);
    assert!(
        log.history.tail.get(pieces - 1).is_some(),
        "the open piece stays"
    );
    log.freeze();
    assert!(!log.is_frozen_written());
    files.drain(&mut log);
    assert!(log.is_frozen_written());
    assert!(log.history.tail.get(pieces - 1).is_none());
}

#[test]
fn the_newest_values_stay_when_their_pieces_leave_if_they_are_worth_it() {
    let config = StoreConfig {
        tail_bytes_max: 8 << 10,
        value_cache_bytes: 1 << 20,
        ..small()
    };
    let mut log = EventLog::new(&config);
    let mut files = Files::new();
    let large: Vec<Loc> = (1..=20)
        .map(|main| log.append(&record(main, &[7; 300])))
        .collect();
    let small: Vec<Loc> = (21..=40)
        .map(|main| log.append(&record(main, b"tiny")))
        .collect();
    // Some are replaced while they are in the tail, some when they have left it.
    large[..5].iter().for_each(|loc| log.supersede(*loc));
    for main in 41..=200 {
        log.append(&record(main, &[8; 300]));
    }
    log.freeze();
    files.drain(&mut log);
    large[5..10].iter().for_each(|loc| log.supersede(*loc));
    for (index, loc) in large.iter().enumerate() {
        assert_eq!(log.is_resident(*loc), index >= 10, "large value {index}");
    }
    for loc in &small {
        assert!(
            !log.is_resident(*loc),
            "{loc:?} costs more than it is worth"
        );
    }
    for loc in large.iter().chain(&small) {
        assert!(files.value(&mut log, *loc).is_ok());
    }
}

#[test]
fn a_full_disk_is_tried_again_and_a_broken_one_is_not() {
    let mut log = filled(&small(), 100, 100);
    let mut files = Files::new();
    log.freeze();
    files.poll(&mut log, 1);
    for _ in 0..3 {
        let done = files.fail(&mut log, 0, IoFailure::NoSpace);
        assert_eq!(done, Completed::NoSpace);
        files.poll(&mut log, 8);
        assert!(files.pending.is_empty(), "nothing before the retry");
        log.retry_space();
        files.poll(&mut log, 8);
        assert_eq!(files.pending.len(), 1);
    }
    files.execute(&mut log, 0);
    files.poll(&mut log, 8);
    let done = files.fail(&mut log, 0, IoFailure::NoSpace);
    assert_eq!(done, Completed::NoSpace);
    log.retry_space();
    files.drain(&mut log);
    assert!(log.is_frozen_written());

    for main in 200..300 {
        log.append(&record(main, &[6; 100]));
    }
    files.poll(&mut log, 8);
    let failure = IoFailure::Other {
        errno: 5,
        text: "Input/output error".to_owned(),
    };
    let done = files.fail(&mut log, 0, failure);
    let Completed::Failed { file, what } = done else {
        panic!("{done:?}");
    };
    assert!(files.bytes.contains_key(&file), "{file:?}");
    assert!(what.contains("Input/output error (errno 5)"), "{what}");
    files.pending.clear();
    log.retry_space();
    log.poll(
        &mut Requests::background(&mut files.ids, &mut files.pending),
        8,
    );
    assert!(files.pending.is_empty(), "nothing after a failure");
    let stranger = IoIds::new(Machine::shard(4)).next_id();
    assert_eq!(log.complete(stranger, Ok(())), Completed::NotMine);
}

#[test]
fn files_are_synced_until_an_image_is_durable() {
    let mut log = filled(&small(), 100, 100);
    let mut files = Files::new();
    let name = |number| FileName::Events { shard: 3, number };
    assert!(log.files_to_sync().is_empty() && !log.created_files());
    log.freeze();
    files.drain(&mut log);
    let first = log.files_to_sync();
    assert_eq!(first, [name(1), name(2)]);
    assert!(log.created_files());
    assert_eq!(
        log.files_to_sync(),
        first,
        "the image did not become durable"
    );
    // What is written behind the syncs belongs to the next image.
    for main in 200..210 {
        log.append(&record(main, &[6; 100]));
    }
    log.freeze();
    files.drain(&mut log);
    log.published();
    assert_eq!(log.created_files(), files.bytes.len() > 2);
    let last = *files.bytes.keys().last().expect("files");
    assert_eq!(log.files_to_sync(), [last]);
    log.published();
    assert!(log.files_to_sync().is_empty() && !log.created_files());
}

#[test]
fn the_table_is_that_of_the_freeze() {
    let mut log = filled(&small(), 100, 100);
    log.freeze();
    let table = table_of(&log);
    let loc = log.append(&record(500, b"later"));
    log.release(loc);
    let first = log.history.segments[0].pieces[0];
    let len = record(2, &[5; 100]).encoded_len() as u32;
    log.release(Loc {
        segment: SegmentId::event(1),
        offset: first.offset,
        len,
    });
    assert_eq!(table_of(&log), table);
    let mut restored = EventLog::restore(&small(), &table).expect("a table");
    restored.verify().expect("a valid log");
    assert_eq!(restored.last().main, 101);
    assert_eq!(restored.live_bytes(), 100 * u64::from(len));
    assert_eq!(table_of(&restored), table);
    let loc = restored.append(&record(500, b"later"));
    assert_eq!(loc.offset % 4096, 0, "behind the image's blocks");
    log.freeze();
    assert_ne!(table_of(&log), table);
    let empty = EventLog::new(&small());
    let restored = EventLog::restore(&small(), &table_of(&empty)).expect("a table");
    assert_eq!(restored.files().count(), 0);
}

#[test]
fn garbage_for_a_table_never_panics() {
    let mut log = filled(&small(), 300, 100);
    log.freeze();
    let table = table_of(&log);
    for len in 0..table.len() {
        let cut = EventLog::restore(&small(), &table[..len]);
        assert!(cut.is_err(), "cut at {len}");
    }
    let longer = [&table[..], &[0]].concat();
    assert!(EventLog::restore(&small(), &longer).is_err());
    let mut accepted = 0;
    let mut attempt = |bytes: &[u8]| {
        if let Ok(log) = EventLog::restore(&small(), bytes) {
            log.verify().expect("what is accepted is valid");
            accepted += 1;
        }
    };
    for at in 0..table.len() {
        for byte in 0..=255 {
            let mut damaged = table.clone();
            damaged[at] = byte;
            attempt(&damaged);
        }
    }
    let mut state = 1u64;
    for _ in 0..20_000 {
        let mut bytes = vec![1];
        for _ in 0..state % 60 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            bytes.push((state >> 56) as u8 >> (state >> 40 & 7));
        }
        state = state.wrapping_add(1);
        attempt(&bytes);
    }
    assert!(accepted >= table.len(), "the table itself, once per byte");
}

/// The place of a record is found as by a search through all pieces, whatever their lengths.
#[test]
fn the_piece_of_a_record_is_found_by_arithmetic() {
    let regular = vec![900; 2000];
    let irregular: Vec<usize> = (0..2000).map(|index| index * index % 9000).collect();
    for (lens, freezes) in [(&regular, 0), (&irregular, 0), (&irregular, 37)] {
        let config = StoreConfig {
            segment_bytes_first: 1 << 20,
            piece_bytes: 16 << 10,
            ..StoreConfig::new(0, SALT)
        };
        let mut log = EventLog::new(&config);
        for (index, len) in lens.iter().enumerate() {
            log.append(&record(2 + index as i64, &vec![1; *len]));
            if freezes > 0 && index % freezes == 0 {
                log.freeze();
            }
        }
        let (mut guessed, mut all) = (0, 0);
        for segment in &log.history.segments {
            let end = segment.padded_end();
            for offset in (0..end + 9000).step_by(56) {
                let holds = |piece: &Piece| (piece.offset..piece.end()).contains(&offset);
                let expected = segment.pieces.iter().position(holds);
                assert_eq!(segment.piece_at(offset), expected, "byte {offset} of {end}");
                all += usize::from(expected.is_some());
                guessed += usize::from(expected.is_some() && segment.guess(offset) == expected);
            }
        }
        let every = lens == &regular;
        assert!(
            guessed == all || !every,
            "{guessed} of {all} by the first guess"
        );
    }
}
