//! `ringd inspect`: what stands in the files of a stopped node, read-only.
//!
//! Reads the superblock's copies, the checkpoint they name with the manifest of each shard, and every
//! record of the log, intact or not, and shows them as text or as JSON (`--json`; fields may be added,
//! never change their meaning). Exits with the data code when something is damaged, so that scripts can
//! ask. The salt is secret and not shown.

mod checkpoint;

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use wal::inspect::{self, CopyReport, RecordReport, RecordState};
use wal::io::segment_number;
use wal::superblock::Superblock;

use crate::exit::{self, Exit};
use checkpoint::CheckpointFound;

const USAGE: &str = "usage: ringd inspect [--json] DATA-DIR";

/// Runs the command with the arguments after its name.
///
/// # Errors
/// Wrong arguments, unreadable files, or damage that was found and printed.
pub fn run(arguments: &[String]) -> Result<(), Exit> {
    let mut as_json = false;
    let mut directory = None;
    for argument in arguments {
        match argument.as_str() {
            "--json" => as_json = true,
            flag if flag.starts_with('-') => return Err(Exit::config(USAGE)),
            path if directory.is_none() => directory = Some(PathBuf::from(path)),
            _ => return Err(Exit::config(USAGE)),
        }
    }
    let Some(directory) = directory else {
        return Err(Exit::config(USAGE));
    };
    let found = read(&directory)?;
    let text = match as_json {
        true => format!("{}\n", found.to_json()),
        false => found.to_text(),
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever reads it has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        written => written.map_err(|error| Exit::system(error.to_string()))?,
    }
    match found.damage() {
        0 => Ok(()),
        count => Err(Exit {
            code: exit::DATA,
            message: format!("{count} damaged places found"),
        }),
    }
}

/// Everything found in a data directory.
struct Found {
    copies: Vec<CopyReport>,
    checkpoint: Option<CheckpointFound>,
    segments: Vec<Segment>,
}

struct Segment {
    path: String,
    bytes: u64,
    records: Vec<RecordReport>,
}

fn read(directory: &Path) -> Result<Found, Exit> {
    let copies = inspect::superblock_copies(&read_file(&directory.join("superblock"))?);
    let Some(superblock) = inspect::newest(&copies) else {
        return Ok(Found {
            copies,
            checkpoint: None,
            segments: Vec::new(),
        });
    };
    let salt = superblock.salt;
    let checkpoint = checkpoint::read(directory, superblock);
    let mut segments = Vec::new();
    for (lane, name) in segment_files(&directory.join("wal"))? {
        let path = format!("wal/lane-{lane:02}/{name}");
        let file = read_file(&directory.join(&path))?;
        let number = segment_number(&name).unwrap_or(0);
        let records = inspect::segment_records(lane, number, &file, salt);
        segments.push(Segment {
            path,
            bytes: file.len() as u64,
            records,
        });
    }
    Ok(Found {
        copies,
        checkpoint,
        segments,
    })
}

fn segment_files(log: &Path) -> Result<Vec<(u16, String)>, Exit> {
    let mut files = Vec::new();
    for lane in names(log)? {
        let Some(number) = lane
            .strip_prefix("lane-")
            .and_then(|n| n.parse::<u16>().ok())
        else {
            continue;
        };
        let segments = names(&log.join(&lane))?;
        let segments = segments
            .into_iter()
            .filter(|name| segment_number(name).is_some());
        files.extend(segments.map(|name| (number, name)));
    }
    files.sort();
    Ok(files)
}

fn names(directory: &Path) -> Result<Vec<String>, Exit> {
    let failed = |error| Exit::system(format!("{}: {error}", directory.display()));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        names.push(
            entry
                .map_err(failed)?
                .file_name()
                .to_string_lossy()
                .into_owned(),
        );
    }
    Ok(names)
}

fn read_file(path: &Path) -> Result<Vec<u8>, Exit> {
    std::fs::read(path).map_err(|error| Exit::system(format!("{}: {error}", path.display())))
}

fn state_name(state: RecordState) -> &'static str {
    match state {
        RecordState::Intact => "intact",
        RecordState::BadBody => "bad-body",
        RecordState::Misdirected => "misdirected",
        RecordState::Newer { .. } => "newer-format",
    }
}

impl Found {
    fn damage(&self) -> usize {
        let copies = self
            .copies
            .iter()
            .filter(|copy| copy.content.is_err())
            .count();
        let damaged = |record: &&RecordReport| record.state != RecordState::Intact;
        copies
            + self.checkpoint.as_ref().map_or(0, CheckpointFound::damage)
            + self
                .segments
                .iter()
                .flat_map(|s| &s.records)
                .filter(damaged)
                .count()
    }

    fn to_json(&self) -> Value {
        let copies = self.copies.iter().map(|copy| {
            json!({
                "copy": copy.copy,
                "offset": copy.offset,
                "intact": copy.content.is_ok(),
                "error": copy.content.as_ref().err().map(ToString::to_string),
                "superblock": copy.content.as_ref().ok().map(superblock_json),
            })
        });
        let segments = self.segments.iter().map(|segment| {
            json!({
                "file": segment.path,
                "bytes": segment.bytes,
                "records": segment.records.iter().map(record_json).collect::<Vec<_>>(),
            })
        });
        json!({
            "copies": copies.collect::<Vec<_>>(),
            "checkpoint": self.checkpoint.as_ref().map(CheckpointFound::to_json),
            "segments": segments.collect::<Vec<_>>(),
        })
    }

    fn to_text(&self) -> String {
        let mut text = String::new();
        for copy in &self.copies {
            let content = match &copy.content {
                Ok(superblock) => superblock_text(superblock),
                Err(error) => format!("DAMAGED: {error}"),
            };
            text.push_str(&format!(
                "superblock copy {} at {}: {content}\n",
                copy.copy, copy.offset
            ));
        }
        if let Some(checkpoint) = &self.checkpoint {
            checkpoint.append_text(&mut text);
        }
        for segment in &self.segments {
            text.push_str(&format!("{} ({} bytes)\n", segment.path, segment.bytes));
            for record in &segment.records {
                text.push_str(&format!("  {}\n", record_text(record)));
            }
        }
        text
    }
}

fn superblock_json(superblock: &Superblock) -> Value {
    json!({
        "seq": superblock.seq,
        "cluster_id": format!("{:x}", superblock.cluster_id),
        "member_id": format!("{:x}", superblock.member_id),
        "shards": superblock.shards,
        "term": superblock.term.0,
        "vote": format!("{:?}", superblock.vote),
        "epoch": superblock.epoch,
        "epoch_start": superblock.epoch_start.0,
        "epoch_floor": superblock.epoch_floor,
        "clean_index": superblock.clean.map(|mark| mark.index.0),
        "checkpoint_id": superblock.checkpoint_id,
        "checkpoint_index": superblock.checkpoint_index.0,
        "checkpoint_ids_reserved": superblock.checkpoint_ids_reserved,
        "salvaged": superblock.salvaged.as_ref().map(|salvaged| format!("{salvaged:?}")),
    })
}

fn superblock_text(superblock: &Superblock) -> String {
    let clean = match superblock.clean {
        Some(mark) => format!("clean stop at {}", mark.index),
        None => "not stopped cleanly".to_owned(),
    };
    format!(
        "seq {}, member {:x} of cluster {:x}, term {}, vote {:?}, epoch {} from {}, checkpoint {}, {clean}",
        superblock.seq,
        superblock.member_id,
        superblock.cluster_id,
        superblock.term,
        superblock.vote,
        superblock.epoch,
        superblock.epoch_start,
        superblock.checkpoint_index,
    )
}

fn record_json(record: &RecordReport) -> Value {
    let header = record.header.as_ref().map(|header| {
        json!({
            "kind": format!("{:?}", header.kind).to_lowercase(),
            "bytes": header.record_bytes(),
            "wseq": header.wseq,
            "epoch": header.epoch,
            "epoch_start": header.epoch_start.0,
            "first_index": header.first_index.0,
            "count": header.count,
            "last_term": header.last_term.0,
            "durable_index": header.durable_index.0,
            "commit_hint": header.commit_hint.0,
        })
    });
    let entries = record.entries.iter().map(|entry| {
        json!({
            "index": entry.index.0,
            "term": entry.term.0,
            "kind": entry.kind,
            "bytes": entry.data.len(),
        })
    });
    json!({
        "offset": record.offset,
        "state": state_name(record.state),
        "header": header,
        "entries": entries.collect::<Vec<_>>(),
    })
}

fn record_text(record: &RecordReport) -> String {
    let state = match record.state {
        RecordState::Intact => String::new(),
        state => format!(" DAMAGED ({})", state_name(state)),
    };
    let Some(header) = &record.header else {
        return format!("{:>9}:{state}", record.offset);
    };
    let content = match header.count {
        0 => "no entries".to_owned(),
        _ => format!("entries {}..{}", header.first_index, header.last_index()),
    };
    format!(
        "{:>9}: {content}, term {}, {} bytes, wseq {}, epoch {}, durable to {}{state}",
        record.offset,
        header.last_term,
        header.record_bytes(),
        header.wseq,
        header.epoch,
        header.durable_index,
    )
}
