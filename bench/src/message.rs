//! The few protobuf messages of etcd's KV service that the workloads send and read.
//!
//! Field numbers are those of etcd's published API. Requests are appended with the five-byte gRPC
//! prefix; responses are read in place without building objects.

/// Bytes before each gRPC message: one flag, four of length.
pub const PREFIX_BYTES: usize = 5;

/// `/etcdserverpb.KV/Put`.
pub const PUT: &str = "/etcdserverpb.KV/Put";
/// `/etcdserverpb.KV/Range`.
pub const RANGE: &str = "/etcdserverpb.KV/Range";
/// `/etcdserverpb.KV/Txn`.
pub const TXN: &str = "/etcdserverpb.KV/Txn";

/// Replaces `message` with a put of one key.
pub fn put(key: &[u8], value: &[u8], message: &mut Vec<u8>) {
    begin(message);
    put_fields(key, value, message);
    finish(message);
}

/// Replaces `message` with a read of one key at the newest revision.
pub fn range(key: &[u8], serializable: bool, message: &mut Vec<u8>) {
    begin(message);
    bytes_field(1, key, message);
    if serializable {
        varint_field(7, 1, message);
    }
    finish(message);
}

/// Replaces `message` with the transaction that an API server sends for an update: if `key` was last
/// changed at `revision` (0: does not exist) put it, else read it.
pub fn compare_and_set(key: &[u8], revision: i64, value: &[u8], message: &mut Vec<u8>) {
    /// `Compare.target`: the revision of the last change.
    const TARGET_MOD: u64 = 2;
    begin(message);
    nested_field(1, message, |compare| {
        varint_field(2, TARGET_MOD, compare);
        bytes_field(3, key, compare);
        // Member of a oneof: present even when it is 0.
        varint_field(6, revision as u64, compare);
    });
    nested_field(2, message, |success| {
        nested_field(2, success, |request| put_fields(key, value, request));
    });
    nested_field(3, message, |failure| {
        nested_field(1, failure, |request| bytes_field(1, key, request));
    });
    finish(message);
}

/// What a workload wants to know of a response.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answer {
    /// `header.revision`.
    pub revision: i64,
    /// `TxnResponse.succeeded`.
    pub succeeded: bool,
    /// `mod_revision` of the first key-value in a range answer, also inside a transaction's first reply.
    pub modified: i64,
    /// Number of key-values in a range answer.
    pub key_values: u32,
}

/// Reads the response of a put: only its header.
pub fn read_put(body: &[u8]) -> Option<Answer> {
    read(body, |number, payload, answer| {
        if let (1, Payload::Bytes(header)) = (number, payload) {
            answer.revision = revision_of(header);
        }
    })
}

/// Reads the response of a range.
pub fn read_range(body: &[u8]) -> Option<Answer> {
    read(body, |number, payload, answer| match (number, payload) {
        (1, Payload::Bytes(header)) => answer.revision = revision_of(header),
        (2, Payload::Bytes(key_value)) => take_key_value(key_value, answer),
        _ => {}
    })
}

/// Reads the response of [`compare_and_set`].
pub fn read_txn(body: &[u8]) -> Option<Answer> {
    read(body, |number, payload, answer| match (number, payload) {
        (1, Payload::Bytes(header)) => answer.revision = revision_of(header),
        (2, Payload::Number(succeeded)) => answer.succeeded = succeeded != 0,
        (3, Payload::Bytes(reply)) => {
            for (_, range) in Fields(reply).filter(|(number, _)| *number == 1) {
                let Payload::Bytes(range) = range else {
                    continue;
                };
                for (number, payload) in Fields(range) {
                    if let (2, Payload::Bytes(key_value)) = (number, payload) {
                        take_key_value(key_value, answer);
                    }
                }
            }
        }
        _ => {}
    })
}

fn read(body: &[u8], mut take: impl FnMut(u64, Payload<'_>, &mut Answer)) -> Option<Answer> {
    let mut answer = Answer::default();
    for (number, payload) in Fields(body.get(PREFIX_BYTES..)?) {
        take(number, payload, &mut answer);
    }
    Some(answer)
}

fn revision_of(header: &[u8]) -> i64 {
    number_in(header, 3)
}

fn take_key_value(key_value: &[u8], answer: &mut Answer) {
    if answer.key_values == 0 {
        answer.modified = number_in(key_value, 3);
    }
    answer.key_values += 1;
}

fn number_in(message: &[u8], wanted: u64) -> i64 {
    Fields(message)
        .find_map(|field| match field {
            (number, Payload::Number(value)) if number == wanted => Some(value as i64),
            _ => None,
        })
        .unwrap_or_default()
}

fn begin(message: &mut Vec<u8>) {
    message.clear();
    message.extend_from_slice(&[0; PREFIX_BYTES]);
}

fn finish(message: &mut [u8]) {
    let len = (message.len() - PREFIX_BYTES) as u32;
    message[1..PREFIX_BYTES].copy_from_slice(&len.to_be_bytes());
}

fn put_fields(key: &[u8], value: &[u8], message: &mut Vec<u8>) {
    bytes_field(1, key, message);
    bytes_field(2, value, message);
}

fn varint(mut value: u64, message: &mut Vec<u8>) {
    while value >= 128 {
        message.push(value as u8 | 128);
        value >>= 7;
    }
    message.push(value as u8);
}

fn varint_field(number: u64, value: u64, message: &mut Vec<u8>) {
    varint(number << 3, message);
    varint(value, message);
}

fn bytes_field(number: u64, bytes: &[u8], message: &mut Vec<u8>) {
    varint(number << 3 | 2, message);
    varint(bytes.len() as u64, message);
    message.extend_from_slice(bytes);
}

/// Writes a message field whose length is known only after its content.
fn nested_field(number: u64, message: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
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
enum Payload<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Fields of one message in order; ends at the first malformed one.
struct Fields<'a>(&'a [u8]);

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_is_prefixed_and_encoded() {
        let mut message = Vec::new();
        put(b"k", b"vv", &mut message);
        assert_eq!(message, b"\0\0\0\0\x07\x0a\x01k\x12\x02vv");
    }

    #[test]
    fn a_missing_revision_is_still_sent() {
        let mut message = Vec::new();
        compare_and_set(b"k", 0, b"v", &mut message);
        let compare = Fields(&message[PREFIX_BYTES..])
            .next()
            .map(|(_, field)| field);
        let Some(Payload::Bytes(compare)) = compare else {
            panic!("no compare");
        };
        assert_eq!(compare, b"\x10\x02\x1a\x01k\x30\x00");
    }

    #[test]
    fn a_failed_compare_tells_the_present_revision() {
        // header { revision: 9 }, responses { response_range { kvs { key: "k", mod_revision: 7 } } }
        let body = b"\0\0\0\0\0\x0a\x02\x18\x09\x1a\x09\x0a\x07\x12\x05\x0a\x01k\x18\x07";
        assert_eq!(
            read_txn(body),
            Some(Answer {
                revision: 9,
                succeeded: false,
                modified: 7,
                key_values: 1
            })
        );
    }
}
