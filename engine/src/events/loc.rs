//! Where an event record is.

use std::fmt;

/// Which log a segment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentClass {
    /// A segment of the shard's event log.
    Event,
    /// A segment of the write-ahead log, so that a value may live there only.
    WriteAhead,
}

/// A segment's number with its class in the lowest bit, as it is stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(u64);

impl SegmentId {
    /// The event segment `number`.
    pub fn event(number: u64) -> Self {
        SegmentId(number << 1)
    }

    /// From the stored form; every value is valid.
    pub fn from_raw(raw: u64) -> Self {
        SegmentId(raw)
    }

    /// The stored form.
    pub fn raw(self) -> u64 {
        self.0
    }

    /// Number inside its class.
    pub fn number(self) -> u64 {
        self.0 >> 1
    }

    /// Class of the segment.
    pub fn class(self) -> SegmentClass {
        match self.0 & 1 {
            0 => SegmentClass::Event,
            _ => SegmentClass::WriteAhead,
        }
    }
}

impl fmt::Debug for SegmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} segment {}", self.class(), self.number())
    }
}

/// Place of one event record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Loc {
    /// Segment that holds the record.
    pub segment: SegmentId,
    /// Where the record starts, bytes, a multiple of 8.
    pub offset: u32,
    /// Bytes of the record without its padding: header, key and value.
    pub len: u32,
}
