//! Scripted cases: what random lives meet too seldom, step by step, with the rule and without it.

use wal::io::{FileName, IoOperation, Target};
use wal::testing::{Bug, Promise, Script, Violation, with_planted};
use wal::{AcceptedLoss, Index, OpenError, WalEvent, inspect};

type Checked = Result<(), Violation>;

fn broken(promise: Promise, what: impl ToString) -> Checked {
    let what = what.to_string();
    Err(Violation { promise, what })
}

/// The script passes; without the rule it breaks `promise`.
fn needs(bug: Bug, promise: Promise, script: fn() -> Checked) {
    assert_eq!(script(), Ok(()));
    let violation = with_planted(Some(bug), script).expect_err("the missing rule is not noticed");
    println!("{bug:?}: {violation}");
    assert_eq!(violation.promise, promise);
}

fn segment(number: u64) -> FileName {
    FileName::Segment { lane: 0, number }
}

/// Whether the operation concerns a segment of the log.
fn on_a_segment(operation: &IoOperation) -> bool {
    matches!(operation.target(), Target::File(FileName::Segment { .. }))
}

/// A new member of term 1.
fn member() -> Script {
    let mut script = Script::new();
    script.open().expect("an empty directory opens");
    script.term(1);
    script
}

/// Where the record that starts at `first` in `epoch` stands in the first segment: offset and length.
fn record_at(script: &Script, first: u64, epoch: u64) -> (u64, u64) {
    let bytes = script.disk.bytes(segment(1), 0, 1 << 20);
    let copies = script.disk.bytes(FileName::Superblock, 0, 1 << 20);
    let copies = inspect::superblock_copies(&copies);
    let salt = inspect::newest(&copies).expect("a superblock").salt;
    let records = inspect::segment_records(0, 1, &bytes, salt);
    let headers = records.iter().filter_map(|record| record.header);
    let mut wanted =
        headers.filter(|header| header.first_index.0 == first && header.epoch == epoch);
    let header = wanted.next().expect("the record is there");
    (header.place.offset, header.record_bytes())
}

/// A synced write of a conflict's new entries is lost after the next recovery confirmed them: the older
/// entries chain up to the confirmed index, with wrong terms.
fn lost_write_uncovers_older_entries() -> Checked {
    let mut script = member();
    script.append(1, &[1]);
    script.finish();
    script.append(2, &[1, 1]);
    script.finish();
    let before = script.disk.clone();
    script.term(2);
    script.append(2, &[2, 2]);
    script.finish();
    assert_eq!(Script::durable(&script.events()), 3);
    script.kill();
    assert_eq!(script.open().expect("intact").terms, [1, 2, 2]);
    script.kill();
    let (offset, bytes) = record_at(&script, 2, 2);
    script.lose_write(&before, segment(1), offset, bytes);
    match script.open() {
        Err(OpenError::Faulty(faulty)) => {
            assert_eq!(faulty.last_missing, Index(3));
            Ok(())
        }
        Ok(found) => broken(
            Promise::LossReported,
            format!("[1, 2, 2] promised, {:?} found", found.terms),
        ),
        Err(error) => broken(Promise::LossReported, error),
    }
}

#[test]
fn a_watermark_needs_its_term() {
    needs(
        Bug::WatermarkWithoutTerm,
        Promise::LossReported,
        lost_write_uncovers_older_entries,
    );
}

/// The records of an epoch are covered by a checkpoint and their segment is deleted, the next one is lost
/// with the power: nothing but the floor says that the older watermark beyond is dead.
fn checkpoint_outlives_its_epoch() -> Checked {
    let mut script = Script::new();
    script.config.free_segments_max = 2;
    script.open().expect("an empty directory opens");
    script.term(1);
    // Three segments of term 1: two of low indexes, then the highest ones and their beacon.
    for index in 1..=14 {
        script.append(index, &[1]);
        script.finish();
    }
    for first in [15, 19, 23, 27, 31, 35] {
        script.append(first, &[1; 4]);
        script.finish();
    }
    script.idle();
    // A conflict: the new entries fill the fourth segment.
    script.term(2);
    for index in 15..=21 {
        script.append(index, &[2]);
        script.finish();
    }
    assert_eq!(Script::durable(&script.events()), 38);
    let image = script.image(21, 2);
    script.append(22, &[2]);
    script.wal().checkpoint(image);
    script.finish_where(|operation| {
        !on_a_segment(operation) || matches!(operation, IoOperation::Delete { .. })
    });
    let names = script.disk.file_list();
    assert!(!names.iter().any(|(file, _)| *file == segment(4)));
    script.power_cut();
    match script.open() {
        Ok(found) => {
            assert_eq!(found.superblock.checkpoint_index, Index(21));
            assert_eq!(found.entries, []);
            Ok(())
        }
        Err(error) => broken(Promise::NoFalseAlarm, error),
    }
}

#[test]
fn a_checkpoint_needs_its_floor() {
    needs(
        Bug::NoFloor,
        Promise::NoFalseAlarm,
        checkpoint_outlives_its_epoch,
    );
}

/// A received state replaces the log. `eager` appends before it is durable, which the log refuses.
fn snapshot_replaces(eager: bool) -> Checked {
    let mut script = member();
    script.append(1, &[1, 1, 1]);
    script.finish();
    script.term(2);
    let image = script.image(10, 2);
    script.wal().install_snapshot(image);
    script.poll();
    if eager {
        script.append(11, &[2]);
        script.finish_where(on_a_segment);
    }
    let acknowledged = Script::durable(&script.events());
    script.power_cut();
    match script.open() {
        Ok(found) if found.terms.len() as u64 >= acknowledged.min(3) => Ok(()),
        Ok(found) => broken(
            Promise::AcknowledgedKept,
            format!("{:?} found", found.terms),
        ),
        Err(error) => broken(Promise::NoFalseAlarm, error),
    }
}

#[test]
fn nothing_is_submitted_before_a_replacing_snapshot() {
    assert_eq!(snapshot_replaces(false), Ok(()));
    let eager = || snapshot_replaces(true);
    let violation = with_planted(Some(Bug::NoSubmissionPauseAtSnapshot), eager).unwrap_err();
    assert_eq!(violation.promise, Promise::NoFalseAlarm);
}

/// Whoever drives the log sleeps until its deadline: one that has passed and cannot be met keeps it awake.
/// [`Script::poll`] looks.
#[test]
fn no_deadline_is_named_while_nothing_may_be_submitted() {
    // A state replaces the log, its superblock is on its way, and a beacon was due meanwhile.
    let mut script = member();
    script.append(1, &[1, 1]);
    script.finish();
    let image = script.image(10, 1);
    assert!(script.wal().next_deadline().is_some(), "a beacon is due");
    script.wal().install_snapshot(image);
    script.pass();
    assert_eq!(script.wal().next_deadline(), None);
    // The last sequence number is used, more are on their way.
    let mut without_number = 0;
    for count in 1..9 {
        let mut script = member();
        script.config.writes_in_flight_max = 1;
        script.config.wseq_reserve = 3;
        script.kill();
        script.open().expect("intact");
        for index in 1..=count {
            script.append(index, &[1]);
            script.finish_where(on_a_segment);
        }
        script.pass();
        script.finish_where(on_a_segment);
        let wal = script.wal();
        let missing = wal.durable_index() == Index(count) && wal.evidence_index() < Index(count);
        without_number += u32::from(missing);
    }
    assert!(without_number > 0, "no beacon was left without a number");
}

/// The disk is full: the beacon may have no block to go to, and a checkpoint may give room that nobody could
/// create.
#[test]
fn a_full_disk_is_waited_for_in_peace() {
    let mut without_room = 0;
    for count in 1..30 {
        let mut script = member();
        script.disk.limit_room(Some(0));
        for index in 1..=count {
            script.append(index, &[1]);
            script.finish();
        }
        let durable = script.wal().durable_index().0;
        script.idle();
        script.idle();
        let evidence = script.wal().evidence_index().0;
        without_room += u32::from(durable == count && evidence < count);
        script.checkpoint(durable, 1);
        script.idle();
    }
    assert!(without_room > 0, "no beacon was left without a block");
}

/// A number is free again only if no record with it can ever have gone out.
fn lost_record_keeps_its_number() -> Checked {
    let mut script = member();
    script.append(1, &[1]);
    script.finish();
    script.append(2, &[1]);
    let submitted = highest_number(&mut script, 1);
    script.power_cut();
    assert_eq!(script.open().expect("torn").terms, [1]);
    script.append(2, &[1]);
    script.finish();
    let next = highest_number(&mut script, 1);
    if next > submitted {
        return Ok(());
    }
    broken(
        Promise::SequenceUnique,
        format!("record {next} goes out after record {submitted}"),
    )
}

/// Highest record number that stands on the disk once everything in flight landed.
fn highest_number(script: &mut Script, number: u64) -> u64 {
    let mut disk = script.disk.clone();
    while disk.in_flight() > 0 {
        disk.complete(0).1.expect("the disk is healthy");
    }
    let copies = inspect::superblock_copies(&disk.bytes(FileName::Superblock, 0, 1 << 20));
    let salt = inspect::newest(&copies).expect("a superblock").salt;
    let bytes = disk.bytes(segment(number), 0, 1 << 20);
    let records = inspect::segment_records(0, number, &bytes, salt);
    let headers = records.iter().filter_map(|record| record.header);
    headers.map(|header| header.wseq).max().unwrap_or(0)
}

#[test]
fn a_record_number_is_never_used_again() {
    needs(
        Bug::ReusedWseq,
        Promise::SequenceUnique,
        lost_record_keeps_its_number,
    );
}

#[test]
fn an_idle_log_loses_nothing_in_silence() {
    let mut script = member();
    script.append(1, &[1, 1]);
    script.finish();
    script.append(3, &[1]);
    script.finish();
    script.append(4, &[1]);
    script.finish();
    script.idle();
    assert_eq!(Script::durable(&script.events()), 4);
    let (offset, bytes) = record_at(&script, 4, 1);
    let before = wal::testing::SimDisk::new();
    script.kill();
    script.lose_write(&before, segment(1), offset, bytes);
    let Err(OpenError::Faulty(faulty)) = script.open() else {
        panic!("the loss is not reported");
    };
    assert_eq!(
        (faulty.file.as_str(), faulty.offset),
        ("wal/lane-00/0000000000000001.seg", offset)
    );
    assert_eq!(
        (faulty.first_missing, faulty.last_missing),
        (Index(3), Index(4))
    );
    let other = AcceptedLoss {
        first_missing: Index(1),
        last_missing: Index(4),
    };
    assert!(matches!(
        script.open_accepting(other),
        Err(OpenError::Faulty(_))
    ));
    let loss = AcceptedLoss {
        first_missing: faulty.first_missing,
        last_missing: faulty.last_missing,
    };
    assert_eq!(script.open_accepting(loss).expect("accepted").terms, [1, 1]);
    script.kill();
    let again = script.open().expect("accepted for good");
    assert_eq!(
        again.superblock.salvaged.map(|salvaged| salvaged.count),
        Some(1)
    );
}

#[test]
fn only_what_was_synced_is_durable() {
    let mut script = member();
    script.append(1, &[1]);
    script.finish_where(|operation| matches!(operation, IoOperation::Write { .. }));
    assert_eq!(Script::durable(&script.events()), 0);
    script.power_cut();
    assert_eq!(script.open().expect("torn").terms, [0; 0]);
}

#[test]
fn a_clean_stop_is_remembered() {
    let mut script = member();
    script.append(1, &[1, 1]);
    script.wal().stop();
    script.finish();
    assert!(script.events().contains(&WalEvent::Stopped));
    script.power_cut();
    assert_eq!(script.open().expect("clean").terms, [1, 1]);
}

/// Every request of a short life fails once: nothing is reported durable afterwards, and what was reported
/// before is found.
#[test]
fn every_failed_request_poisons() {
    let mut poisoned = 0;
    for after in 0..60 {
        let mut script = member();
        script.append(1, &[1, 1]);
        script.finish();
        script.disk.fail_after(after, wal::testing::Fate::Torn(1));
        for index in 3..9 {
            script.append(index, &[1]);
            script.finish();
        }
        script.term(2);
        script.idle();
        let events = script.events();
        let durable = Script::durable(&events);
        if script.disk.failed().is_some() {
            let Some(WalEvent::Poisoned { file, what }) = events.last() else {
                panic!("request {after}: {events:?}");
            };
            assert!(!file.is_empty());
            assert!(
                what.contains("failed: Input/output error (errno 5)"),
                "{what}"
            );
            assert_eq!(script.wal().next_deadline(), None);
            poisoned += 1;
        } else {
            assert_eq!(durable, 8);
        }
        script.disk.heal();
        script.kill();
        let found = script
            .open()
            .expect("the next process finds a healthy disk");
        assert!(found.terms.len() as u64 >= durable);
    }
    println!("{poisoned} requests failed");
    assert!(poisoned > 15);
}

#[test]
fn a_full_device_is_named_and_refuses_no_retry() {
    let mut script = Script::new();
    script.disk.limit_room(Some(0));
    let error = script.open().expect_err("there is no room");
    assert!(
        error
            .to_string()
            .starts_with("superblock.new at byte 0: create failed: no space left"),
        "{error}"
    );
    script.disk.limit_room(None);
    script.open().expect("there is room");
    script.term(1);
    script.disk.limit_room(Some(0));
    for index in 1..40 {
        script.append(index, &[1]);
        script.finish();
    }
    let events = script.events();
    let full = events
        .iter()
        .any(|event| matches!(event, WalEvent::NoSpace { .. }));
    assert!(full);
    assert!(Script::durable(&events) < 39);
    script.disk.limit_room(None);
    script.idle();
    script.idle();
    assert_eq!(Script::durable(&script.events()), 39);
}

#[test]
fn inspect_shows_a_real_image() {
    let mut script = member();
    script.append(1, &[1, 1, 1]);
    script.finish();
    script.term(2);
    script.append(3, &[2]);
    script.finish();
    script.idle();
    script.kill();
    let copies = script.disk.bytes(FileName::Superblock, 0, 1 << 20);
    let copies = inspect::superblock_copies(&copies);
    assert!(copies.iter().all(|copy| copy.content == copies[0].content));
    let superblock = inspect::newest(&copies).expect("a superblock");
    assert_eq!(superblock.term.0, 2);
    let bytes = script.disk.bytes(segment(1), 0, 1 << 20);
    let records = inspect::segment_records(0, 1, &bytes, superblock.salt);
    let shown: Vec<(u64, Vec<(u64, u64)>)> = records
        .iter()
        .filter_map(|record| {
            let header = record.header?;
            assert_eq!(record.state, inspect::RecordState::Intact);
            let entries = record.entries.iter();
            let entries = entries.map(|entry| (entry.index.0, entry.term.0));
            (header.kind != wal::record::Kind::Footer).then(|| (header.epoch, entries.collect()))
        })
        .collect();
    let expected = [
        (1, vec![(1, 1), (2, 1), (3, 1)]),
        (2, vec![(3, 2)]),
        (2, vec![]),
    ];
    assert_eq!(shown, expected);
    let data = &records[1].entries[0].data;
    assert_eq!(*data, Script::entry(3, 2).data);
    let found = script.open().expect("intact");
    assert_eq!(found.terms, [1, 1, 2]);
}
