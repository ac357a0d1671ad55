//! Large range answers, piece by piece: how long they are going to be, and their bytes.
//!
//! Together the pieces are the bytes of [`super::encode_reply`]: the head, key-values in order, the end.
//! Values of some length are not copied: a piece is a chain of buffers.

use bytes::Bytes;
use engine::read::Listed;

use super::reply::{
    Header, RangeEnd, exactly, key_value_len_with, put_key_value_head, put_range_end, range_end_len,
};
use super::wire::{delimited_len, put_bytes, put_delimited, put_integer};

/// From this length on a value is a buffer of its own.
const VALUE_BYTES_CHAINED: usize = 1024;

/// The first piece: the answer's header.
pub fn list_head(header: &Header) -> Bytes {
    header.encode()
}

/// Bytes that a key-value takes, of which only the length of its value needs to be known.
pub fn listed_len(listed: &Listed) -> usize {
    delimited_len(key_value_len_with(&listed.kv, listed.value_bytes as usize))
}

/// The last piece; may be empty.
pub fn list_end(more: bool, count: i64) -> Bytes {
    exactly(range_end_len(more, count), |out| {
        put_range_end(out, more, count);
    })
}

/// A piece: key-values with their values.
pub fn list_piece(piece: &[Listed]) -> Vec<Bytes> {
    let mut chain = Chain::default();
    chain.put(piece);
    chain.finish()
}

/// One message of a streamed range. Only the last one carries a header, `more` and the count.
pub fn list_chunk(piece: &[Listed], last: Option<&RangeEnd>) -> Vec<Bytes> {
    let content_len = last.map_or(0, |end| {
        end.header.len() + range_end_len(end.more, end.count)
    }) + piece.iter().map(listed_len).sum::<usize>();
    let mut chain = Chain::default();
    put_delimited(&mut chain.bytes, 1, content_len);
    if let Some(end) = last {
        end.header.put(&mut chain.bytes);
    }
    chain.put(piece);
    if let Some(end) = last {
        put_range_end(&mut chain.bytes, end.more, end.count);
    }
    chain.finish()
}

/// Buffers under construction.
#[derive(Default)]
struct Chain {
    bytes: Vec<u8>,
    /// Buffers that belong behind so many of `bytes`.
    values: Vec<(usize, Bytes)>,
}

impl Chain {
    fn put(&mut self, piece: &[Listed]) {
        for Listed { kv, .. } in piece {
            put_key_value_head(&mut self.bytes, 2, kv);
            if kv.value.len() < VALUE_BYTES_CHAINED {
                put_bytes(&mut self.bytes, 5, &kv.value);
            } else {
                put_delimited(&mut self.bytes, 5, kv.value.len());
                self.values.push((self.bytes.len(), kv.value.clone()));
            }
            put_integer(&mut self.bytes, 6, kv.lease.0 as u64);
        }
    }

    fn finish(self) -> Vec<Bytes> {
        let bytes = Bytes::from(self.bytes);
        let mut chain = Vec::with_capacity(self.values.len() * 2 + 1);
        let mut from = 0;
        for (to, value) in self.values {
            chain.push(bytes.slice(from..to));
            chain.push(value);
            from = to;
        }
        if from < bytes.len() {
            chain.push(bytes.slice(from..));
        }
        chain
    }
}
