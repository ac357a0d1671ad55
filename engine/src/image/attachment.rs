//! What the coordinator keeps with an image.

use bytes::Bytes;

/// Opaque bytes in parts, so that whoever owns them shares them instead of copying them at a freeze.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment {
    parts: Vec<Bytes>,
}

impl Attachment {
    /// The parts, one behind the other.
    pub fn new(parts: Vec<Bytes>) -> Attachment {
        Attachment { parts }
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.parts.iter().all(Bytes::is_empty)
    }

    /// The parts.
    pub fn parts(&self) -> &[Bytes] {
        &self.parts
    }

    /// All bytes in one piece.
    pub fn to_bytes(&self) -> Bytes {
        Bytes::from(self.parts.concat())
    }
}

impl From<Bytes> for Attachment {
    fn from(bytes: Bytes) -> Attachment {
        Attachment::new(vec![bytes])
    }
}
