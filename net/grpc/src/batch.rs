//! Several messages in one piece: framed one after another in one buffer, so that the costs of a send are paid once
//! for all of them. The bytes are those of the messages sent one by one.

use bytes::Bytes;

use crate::frame::{PREFIX_BYTES, announced};
use crate::service::Messages;
use crate::status::Status;

/// Messages that are sent together, in the order of [`MessageBatch::push`].
#[derive(Debug, Default)]
pub struct MessageBatch {
    bytes: Vec<u8>,
    count: u64,
}

impl MessageBatch {
    /// Whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes of all messages with their prefixes.
    pub fn byte_count(&self) -> usize {
        self.bytes.len()
    }

    /// The messages, without their prefixes.
    pub fn messages(&self) -> Messages {
        Messages {
            count: self.count,
            bytes: self.bytes.len() as u64 - self.count * PREFIX_BYTES as u64,
        }
    }

    /// Makes room for `bytes` more at once.
    pub fn reserve(&mut self, bytes: usize) {
        self.bytes.reserve(bytes);
    }

    /// Appends a message of `len` bytes, which `write` appends. Nothing before them may change.
    ///
    /// # Errors
    /// `ResourceExhausted` if the message is larger than 4 GiB.
    pub fn push(&mut self, len: usize, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Status> {
        let length = announced(len as u64)?;
        self.bytes.reserve(PREFIX_BYTES + len);
        // Not compressed.
        self.bytes.push(0);
        self.bytes.extend_from_slice(&length.to_be_bytes());
        let start = self.bytes.len();
        write(&mut self.bytes);
        assert_eq!(
            self.bytes.len() - start,
            len,
            "the measured and the written length of a message differ"
        );
        self.count += 1;
        Ok(())
    }

    /// The framed messages.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from(self.bytes)
    }
}
