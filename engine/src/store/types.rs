//! What the store is asked and what it answers.

use bytes::Bytes;
use thiserror::Error;

use crate::command::{KeyValue, LeaseId};
use crate::events::{Loc, RecordError};
use crate::key::{End, KeyRange};
use crate::page::{PageError, PageRef};
use crate::revision::Revision;
use crate::step::Need;

/// Settings of one shard's store.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Number of the shard, part of each page's self address.
    pub shard: u16,
    /// The data directory's secret salt: page checksums start from it.
    pub salt: u64,
    /// Bytes of the first event segment; a multiple of 8.
    pub segment_bytes_first: u32,
    /// Segments double up to this many bytes.
    pub segment_bytes_max: u32,
    /// Events are written in pieces of this many bytes, or of one record if that is larger; a multiple
    /// of 4096.
    pub piece_bytes: u32,
    /// Written events stay in memory up to this many bytes, newest first to stay.
    pub tail_bytes_max: u64,
    /// Records that were read back from disk stay in memory up to this many bytes.
    pub value_cache_bytes: u64,
    /// Pages in memory, 16 KiB each: clean leaves and overflow pages leave when there are more.
    pub page_cache_bytes: u64,
    /// Live records of a segment that is emptied are copied in batches of about this many bytes, each in key
    /// order.
    pub collection_bytes_max: u64,
    /// How compactions find their keys.
    pub compaction_way: CompactionWay,
    /// Declares clean pages and values missing, to exercise every caller's retry.
    pub missing: Option<MissingHook>,
}

impl StoreConfig {
    /// The settings of a real shard.
    pub fn new(shard: u16, salt: u64) -> Self {
        StoreConfig {
            shard,
            salt,
            segment_bytes_first: 1 << 20,
            segment_bytes_max: 64 << 20,
            piece_bytes: 128 << 10,
            tail_bytes_max: 8 << 20,
            value_cache_bytes: 32 << 20,
            page_cache_bytes: 64 << 20,
            collection_bytes_max: 16 << 20,
            compaction_way: CompactionWay::Cheaper,
            missing: None,
        }
    }
}

/// How a compaction finds the keys from which it takes something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CompactionWay {
    /// By the pages that have changed or by the events, whichever are fewer.
    #[default]
    Cheaper,
    /// By the events, always.
    Events,
    /// By the pages, always.
    Pages,
}

/// Test mode: makes pages and values missing until they are loaded.
#[derive(Clone, Copy, Debug)]
pub struct MissingHook {
    /// Seed of the draws.
    pub seed: u64,
    /// One access in this many finds its page or value missing; at least 1.
    pub one_in: u32,
    /// A page that was loaded stays for at least twice this many further accesses, and each time
    /// twice as long, so that a request of many steps ends. A value is missing once only.
    pub rearm_after: u32,
}

/// One version of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Revision of the key's creation.
    pub create: i64,
    /// Revision of this change.
    pub modified: Revision,
    /// Changes since creation, 1 at creation.
    pub version: i64,
    /// Attached lease.
    pub lease: LeaseId,
    /// Where the event record, and with it the value, is.
    pub loc: Loc,
    /// Hash of the version's logical content.
    pub hash: u32,
}

/// A read of the keys of `range` in key order.
#[derive(Clone, Copy, Debug)]
pub struct Scan<'a> {
    /// Keys to read.
    pub range: &'a KeyRange,
    /// Only keys behind this one: the last key of the previous chunk.
    pub after: Option<&'a [u8]>,
    /// Main revision to read at.
    pub at: i64,
    /// Most items, at least 1; `usize::MAX` is no limit.
    pub limit: usize,
    /// The chunk ends with the item that brings keys and values to this many bytes.
    pub bytes_max: usize,
    /// Bring the values.
    pub values: bool,
    /// The scan is a large one: what is loaded for it is not kept for others, and what its next chunk
    /// wants is hinted at.
    pub passing: bool,
}

/// Answer to a [`Scan`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScanChunk {
    /// Key, version and value (empty without `values`) in key order. May hold fewer than `limit`
    /// items although the range goes on; never empty if `more`.
    pub items: Vec<(Bytes, Version, Bytes)>,
    /// The scan stopped before the end of the range; go on behind the last item. There may be no
    /// further key.
    pub more: bool,
}

/// A read of the change history.
#[derive(Clone, Copy, Debug)]
pub struct EventQuery<'a> {
    /// First main revision.
    pub from: i64,
    /// Last main revision, inclusive.
    pub to: i64,
    /// Only events of these keys.
    pub ranges: Option<&'a RangeSet>,
    /// Bring the key-value before each event.
    pub prev_kv: bool,
    /// The chunk ends with the revision that brings it to this many bytes.
    pub bytes_max: usize,
    /// Everything is read: what is loaded for it is not kept for others.
    pub passing: bool,
}

/// Answer to an [`EventQuery`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventChunk {
    /// Events in (main, sub) order; whole revisions only.
    pub events: Vec<Event>,
    /// First revision that the chunk does not cover: `to + 1` at the end.
    pub next: i64,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key was deleted; then `kv` has the key and the mod revision only.
    pub tombstone: bool,
    /// When.
    pub revision: Revision,
    /// The key-value after the change.
    pub kv: KeyValue,
    /// The key-value before the change's main revision; absent at a creation, if not asked for, or
    /// if that revision is compacted.
    pub prev_kv: Option<KeyValue>,
}

/// How large a shard is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of pages and of valid event records.
    pub bytes: u64,
    /// The part of them that live data fills.
    pub bytes_in_use: u64,
    /// Live keys at the newest revision.
    pub keys: u64,
}

/// Why loaded bytes were refused. The stored image is damaged or not the one asked for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LoadError {
    /// The bytes are not the page that the reference names.
    #[error("{reference:?} is damaged: {error}")]
    Page {
        /// What was asked for.
        reference: PageRef,
        /// What is wrong.
        error: PageError,
    },
    /// The bytes of a value are no record.
    #[error("{need:?} is damaged: {error}")]
    Record {
        /// What was asked for.
        need: Need,
        /// What is wrong.
        error: RecordError,
    },
    /// No bytes came, and the store has none of its own.
    #[error("{need:?} was loaded without bytes")]
    Nothing {
        /// What was asked for.
        need: Need,
    },
}

impl LoadError {
    /// What was asked for and is damaged; may be a part of what the load was for.
    pub fn need(&self) -> Need {
        match self {
            LoadError::Page { reference, .. } => Need::Page(*reference),
            LoadError::Record { need, .. } | LoadError::Nothing { need } => *need,
        }
    }
}

/// A union of key ranges.
///
/// Invariant: the spans are sorted, not empty, and neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// Start and exclusive end; no end: unbounded.
    spans: Vec<(Bytes, Option<Bytes>)>,
}

impl RangeSet {
    /// The union of `ranges`.
    pub fn new(ranges: impl IntoIterator<Item = KeyRange>) -> Self {
        let mut spans: Vec<(Bytes, Option<Bytes>)> = ranges
            .into_iter()
            .filter(|range| !range.is_empty())
            .map(span_of)
            .collect();
        spans.sort_by(|a, b| a.0.cmp(&b.0));
        let mut merged: Vec<(Bytes, Option<Bytes>)> = Vec::with_capacity(spans.len());
        for (start, end) in spans {
            match merged.last_mut() {
                Some((_, None)) => break,
                Some((_, Some(last_end))) if *last_end >= start => match end {
                    None => merged.last_mut().expect("just seen").1 = None,
                    Some(end) if end > *last_end => *last_end = end,
                    Some(_) => {}
                },
                _ => merged.push((start, end)),
            }
        }
        RangeSet { spans: merged }
    }

    /// Whether `key` lies in one of the ranges.
    pub fn contains(&self, key: &[u8]) -> bool {
        let after = self
            .spans
            .partition_point(|(start, _)| start.as_ref() <= key);
        let Some((_, end)) = after.checked_sub(1).map(|index| &self.spans[index]) else {
            return false;
        };
        end.as_ref().is_none_or(|end| key < end.as_ref())
    }

    /// Whether no key lies in the set.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }
}

fn span_of(range: KeyRange) -> (Bytes, Option<Bytes>) {
    let end = match range.end {
        End::Unbounded => None,
        End::Before(end) => Some(end),
        End::Single => {
            let mut successor = Vec::with_capacity(range.start.len() + 1);
            successor.extend_from_slice(&range.start);
            successor.push(0);
            Some(Bytes::from(successor))
        }
    };
    (range.start, end)
}

impl FromIterator<KeyRange> for RangeSet {
    fn from_iter<I: IntoIterator<Item = KeyRange>>(ranges: I) -> Self {
        RangeSet::new(ranges)
    }
}

/// How far a count of keys came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Counted {
    /// All of them: so many.
    Whole(i64),
    /// Ask again from there.
    Part(CountCursor),
}

/// Where a count goes on, and what it came to so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountCursor {
    pub(super) counted: i64,
    pub(super) next: super::count::Next,
}
