//! Keys and half-open key ranges.

use bytes::Bytes;

/// Where a range ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// The range is the single key `start`.
    Single,
    /// Before this key (exclusive). At or below `start` the range is empty.
    Before(Bytes),
    /// Unbounded: every key ≥ `start`.
    Unbounded,
}

/// A canonical half-open range of keys `[start, end)`. The only form in which ranges are passed,
/// checked and executed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyRange {
    /// First key that may belong to the range.
    pub start: Bytes,
    /// Where it ends.
    pub end: End,
}

impl KeyRange {
    /// The range of exactly `key`.
    pub fn single(key: Bytes) -> Self {
        KeyRange {
            start: key,
            end: End::Single,
        }
    }

    /// From etcd's pair: empty `range_end` is the single key, `"\0"` is "from `key` on".
    pub fn from_wire(key: Bytes, range_end: Bytes) -> Self {
        let end = match range_end.as_ref() {
            [] => End::Single,
            [0] => End::Unbounded,
            _ => End::Before(range_end),
        };
        KeyRange { start: key, end }
    }

    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            End::Single => key == self.start.as_ref(),
            End::Before(end) => key >= self.start.as_ref() && key < end.as_ref(),
            End::Unbounded => key >= self.start.as_ref(),
        }
    }

    /// Whether no key can lie in the range.
    pub fn is_empty(&self) -> bool {
        matches!(&self.end, End::Before(end) if end.as_ref() <= self.start.as_ref())
    }
}
