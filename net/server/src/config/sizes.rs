//! ringd's own sizes and distances. They follow the memory and have good defaults; small ones make checkpoints,
//! collections and evictions frequent, which is what tests want.

use crate::node::{CheckpointOptions, StoreSizes};

/// Segments are whole blocks.
const BLOCK_BYTES: u64 = 4096;
const SEGMENT_BYTES_MAX: i64 = 1 << 30;
/// An entry of many requests is at most this long before its last request.
const ENTRY_BYTES: u64 = 2 << 20;
/// A piece of events, where segments are small.
const PIECES_PER_SEGMENT: u32 = 8;

/// What the flags say; `None` is the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Operations between two checkpoints.
    pub checkpoint_requests: Option<u64>,
    /// Bytes of entries between two checkpoints.
    pub checkpoint_log_bytes: Option<u64>,
    /// Length of a new log segment.
    pub log_segment_bytes: Option<u64>,
    /// Longest event segment.
    pub event_segment_bytes: Option<u32>,
    /// Newest events in memory.
    pub event_tail_bytes: Option<u64>,
    /// Pages in memory.
    pub page_cache_bytes: Option<u64>,
    /// Values in memory that were read back.
    pub value_cache_bytes: Option<u64>,
}

impl Sizes {
    /// The log's settings.
    pub fn log(&self) -> wal::Config {
        let default = wal::Config::default();
        let Some(segment_bytes) = self.log_segment_bytes else {
            return default;
        };
        wal::Config {
            segment_bytes,
            record_bytes_max: default.record_bytes_max.min(segment_bytes - BLOCK_BYTES),
            ..default
        }
    }

    /// The store's settings, for a process that may use so much memory.
    pub fn store(&self, memory_bytes: u64) -> StoreSizes {
        let mut sizes = StoreSizes::for_memory(memory_bytes);
        if let Some(bytes) = self.event_segment_bytes {
            sizes.segment_bytes_max = bytes;
            sizes.segment_bytes_first = sizes.segment_bytes_first.min(bytes);
            sizes.piece_bytes = sizes.piece_bytes.min(bytes / PIECES_PER_SEGMENT);
        }
        let set = |size: &mut u64, bytes: Option<u64>| *size = bytes.unwrap_or(*size);
        set(&mut sizes.tail_bytes_max, self.event_tail_bytes);
        set(&mut sizes.page_cache_bytes, self.page_cache_bytes);
        set(&mut sizes.value_cache_bytes, self.value_cache_bytes);
        sizes
    }

    /// When checkpoints are made, in a process that may use so much memory.
    pub fn checkpoints(&self, memory_bytes: u64) -> CheckpointOptions {
        let options = CheckpointOptions::for_memory(memory_bytes);
        CheckpointOptions {
            operations: self.checkpoint_requests.unwrap_or(options.operations),
            log_bytes: self.checkpoint_log_bytes.unwrap_or(options.log_bytes),
            ..options
        }
    }
}

impl super::Values {
    /// Reads and checks the flags; requests have at most `request_bytes_max` bytes.
    pub(super) fn sizes(&mut self, request_bytes_max: u64) -> Sizes {
        Sizes {
            checkpoint_requests: self.size("checkpoint-requests", 1, i64::MAX),
            checkpoint_log_bytes: self.size("checkpoint-log-bytes", 4 << 10, i64::MAX),
            log_segment_bytes: self.log_segment_bytes(request_bytes_max),
            event_segment_bytes: self
                .segment_bytes("event-segment-bytes", 32 << 10)
                .map(|bytes| bytes as u32),
            event_tail_bytes: self.size("event-tail-bytes", 4 << 10, i64::MAX),
            page_cache_bytes: self.size("page-cache-bytes", 4 << 20, i64::MAX),
            value_cache_bytes: self.size("value-cache-bytes", 64 << 10, i64::MAX),
        }
    }

    fn log_segment_bytes(&mut self, request_bytes_max: u64) -> Option<u64> {
        let bytes = self.segment_bytes("log-segment-bytes", 4 << 20)?;
        let least = ENTRY_BYTES + 2 * request_bytes_max;
        if bytes < least {
            let label = self.label("log-segment-bytes");
            self.errors.push(format!(
                "{label}={bytes} is below {least}: an entry with a request of \
                 --max-request-bytes={request_bytes_max} has to fit"
            ));
        }
        Some(bytes)
    }

    /// The length of a segment; 0 is the default.
    fn segment_bytes(&mut self, name: &str, least: i64) -> Option<u64> {
        let bytes = self.size(name, least, SEGMENT_BYTES_MAX)?;
        if bytes % BLOCK_BYTES != 0 {
            let label = self.label(name);
            self.errors.push(format!(
                "{label}={bytes} is not a multiple of {BLOCK_BYTES}"
            ));
        }
        Some(bytes)
    }

    /// A number from `least` to `most`; 0 is the default.
    fn size(&mut self, name: &str, least: i64, most: i64) -> Option<u64> {
        match self.text(name).as_str() {
            "0" => None,
            _ => Some(self.integer(name, least..=most) as u64),
        }
    }
}
