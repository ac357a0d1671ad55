//! Protobuf's encoding, as much as the messages here need, and the five-byte gRPC prefix.

use super::PREFIX_BYTES;

pub(super) fn begin(message: &mut Vec<u8>) {
    message.clear();
    message.extend_from_slice(&[0; PREFIX_BYTES]);
}

pub(super) fn finish(message: &mut [u8]) {
    let len = (message.len() - PREFIX_BYTES) as u32;
    message[1..PREFIX_BYTES].copy_from_slice(&len.to_be_bytes());
}

fn varint(mut value: u64, message: &mut Vec<u8>) {
    while value >= 128 {
        message.push(value as u8 | 128);
        value >>= 7;
    }
    message.push(value as u8);
}

pub(super) fn varint_field(number: u64, value: u64, message: &mut Vec<u8>) {
    varint(number << 3, message);
    varint(value, message);
}

pub(super) fn bytes_field(number: u64, bytes: &[u8], message: &mut Vec<u8>) {
    varint(number << 3 | 2, message);
    varint(bytes.len() as u64, message);
    message.extend_from_slice(bytes);
}

/// Writes a message field whose length is known only after its content.
pub(super) fn nested_field(number: u64, message: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    varint(number << 3 | 2, message);
    // Three bytes carry lengths below 2 MiB; a longer encoding of a small number is valid protobuf.
    let at = message.len();
    message.extend_from_slice(&[0; 3]);
    write(message);
    let len = message.len() - at - 3;
    assert!(
        len < 1 << 21,
        "a message of {len} bytes needs a longer length"
    );
    message[at] = (len & 127) as u8 | 128;
    message[at + 1] = (len >> 7 & 127) as u8 | 128;
    message[at + 2] = (len >> 14) as u8;
}

#[derive(Clone, Copy)]
pub(super) enum Payload<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Fields of one message in order; ends at the first malformed one.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(first & 127) << shift;
            if first & 128 == 0 {
                return Some(value);
            }
        }
        None
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Payload<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let tag = self.varint()?;
        let payload = match tag & 7 {
            0 => Payload::Number(self.varint()?),
            2 => {
                let len = self.varint()? as usize;
                let bytes = self.0.get(..len)?;
                self.0 = &self.0[len..];
                Payload::Bytes(bytes)
            }
            _ => return None,
        };
        Some((tag >> 3, payload))
    }
}
