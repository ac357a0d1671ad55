//! One leaf or branch, checked as far as it can be alone.

use crate::error::ReadError;
use crate::format::{
    BRANCH, BUCKET_BYTES, ELEMENT_BYTES, IS_BUCKET, KEY_BYTES_MAX, LEAF, PAGE_HEADER_BYTES,
    PageHeader, u32_at, u64_at,
};

/// The most that one leaf or branch may have, overflow pages included. bbolt keeps up to four values in a leaf
/// that is longer than a page, so this allows values of 32 MiB.
pub const NODE_BYTES_MAX: u64 = 128 << 20;

/// The bytes of a leaf or branch: its run of pages, or a page inside a bucket's value.
///
/// Invariants, from [`Node::check`] on: the elements' headers and data lie inside `bytes`, the data of each element
/// begin where those of the one before end, keys are not empty and strictly ascending.
#[derive(Debug)]
pub(crate) struct Node {
    bytes: Vec<u8>,
    /// The page that holds it, and where in the file it begins.
    pub(crate) place: Place,
    pub(crate) is_leaf: bool,
    pub(crate) count: usize,
}

/// Where a node stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) page: u64,
    pub(crate) offset: u64,
}

impl Place {
    /// `what` is wrong at `at` bytes behind the beginning.
    pub(crate) fn damaged(self, at: usize, what: impl Into<String>) -> ReadError {
        ReadError::Damaged {
            page: self.page,
            offset: self.offset.saturating_add(at as u64),
            what: what.into(),
        }
    }
}

/// A value of a leaf, or the bucket that stands in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Value,
    /// A bucket whose tree begins at this page.
    Bucket {
        root: u64,
    },
    /// A bucket whose only leaf is in the value.
    InlineBucket,
}

impl Node {
    /// Checks `bytes`, which are all pages of the node. The header's id and overflow have been looked at.
    pub(crate) fn check(bytes: Vec<u8>, place: Place) -> Result<Self, ReadError> {
        if bytes.len() < PAGE_HEADER_BYTES {
            let what = format!("{} bytes are no page", bytes.len());
            return Err(place.damaged(0, what));
        }
        let header = PageHeader::decode(&bytes);
        let is_leaf = match header.flags {
            LEAF => true,
            BRANCH => false,
            flags => return Err(place.damaged(8, format!("flags {flags:#x}, no leaf or branch"))),
        };
        let node = Self {
            bytes,
            place,
            is_leaf,
            count: usize::from(header.count),
        };
        let data = PAGE_HEADER_BYTES + node.count * ELEMENT_BYTES;
        if data > node.bytes.len() {
            let what = format!("{} elements in {} bytes", node.count, node.bytes.len());
            return Err(place.damaged(10, what));
        }
        if !is_leaf && node.count == 0 {
            return Err(place.damaged(10, "a branch without children"));
        }
        node.check_elements(data)?;
        Ok(node)
    }

    fn check_elements(&self, data: usize) -> Result<(), ReadError> {
        let mut free_from = data;
        for index in 0..self.count {
            let at = Self::element(index);
            let (begin, key, value) = self.extent(index);
            let end = begin.saturating_add(key).saturating_add(value);
            if begin != free_from || end > self.bytes.len() {
                let what = format!(
                    "element {index} lies at {begin}..{end}, the one before ends at {free_from}, the page at {}",
                    self.bytes.len()
                );
                return Err(self.place.damaged(at, what));
            }
            if key == 0 || key > KEY_BYTES_MAX {
                let what = format!("element {index} has a key of {key} bytes");
                return Err(self.place.damaged(at, what));
            }
            if index > 0 && self.key(index - 1) >= self.key(index) {
                let what = format!("key {index} is not above key {}", index - 1);
                return Err(self.place.damaged(begin, what));
            }
            if self.is_leaf {
                self.check_kind(index, at, value)?;
            }
            free_from = end;
        }
        Ok(())
    }

    fn check_kind(&self, index: usize, at: usize, value: usize) -> Result<(), ReadError> {
        let flags = u32_at(&self.bytes, at);
        if flags & !IS_BUCKET != 0 {
            let what = format!("element {index} has flags {flags:#x}");
            return Err(self.place.damaged(at, what));
        }
        if flags == IS_BUCKET && value < BUCKET_BYTES {
            let what = format!("element {index} is a bucket of {value} bytes");
            return Err(self.place.damaged(at, what));
        }
        Ok(())
    }

    /// Where the header of an element begins.
    fn element(index: usize) -> usize {
        PAGE_HEADER_BYTES + index * ELEMENT_BYTES
    }

    /// Where an element's data begins, and the lengths of key and value. Nothing is checked.
    fn extent(&self, index: usize) -> (usize, usize, usize) {
        let at = Self::element(index);
        let field = |offset: usize| u32_at(&self.bytes, at + offset) as usize;
        if self.is_leaf {
            (at + field(4), field(8), field(12))
        } else {
            (at + field(0), field(4), 0)
        }
    }

    pub(crate) fn key(&self, index: usize) -> &[u8] {
        let (begin, key, _) = self.extent(index);
        &self.bytes[begin..begin + key]
    }

    /// The value of a leaf's element.
    pub(crate) fn value(&self, index: usize) -> &[u8] {
        let (begin, key, value) = self.extent(index);
        &self.bytes[begin + key..begin + key + value]
    }

    /// Where an element's data begins, for a message.
    pub(crate) fn data_offset(&self, index: usize) -> usize {
        self.extent(index).0
    }

    /// The page that a branch's element names.
    pub(crate) fn child(&self, index: usize) -> u64 {
        u64_at(&self.bytes, Self::element(index) + 8)
    }

    /// What a leaf's element is.
    pub(crate) fn kind(&self, index: usize) -> Kind {
        if u32_at(&self.bytes, Self::element(index)) != IS_BUCKET {
            return Kind::Value;
        }
        match u64_at(self.value(index), 0) {
            0 => Kind::InlineBucket,
            root => Kind::Bucket { root },
        }
    }

    /// The leaf inside a bucket's value.
    pub(crate) fn inline(&self, index: usize) -> Result<Self, ReadError> {
        let (begin, key, _) = self.extent(index);
        let at = begin + key + BUCKET_BYTES;
        let place = Place {
            page: self.place.page,
            offset: self.place.offset + at as u64,
        };
        let bytes = self.value(index)[BUCKET_BYTES..].to_vec();
        let node = Self::check(bytes, place)?;
        let header = PageHeader::decode(&node.bytes);
        if !node.is_leaf || header.id != 0 || header.overflow != 0 {
            let what = format!("a page inside a bucket's value that is no leaf: {header:?}");
            return Err(place.damaged(0, what));
        }
        if let Some(index) = (0..node.count).find(|index| node.kind(*index) != Kind::Value) {
            let at = Self::element(index);
            return Err(place.damaged(at, "a bucket inside a page inside a bucket's value"));
        }
        Ok(node)
    }

    /// Gives the memory back for another node.
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}
