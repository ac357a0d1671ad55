//! The few protobuf messages of etcd's API that the workloads send and read.
//!
//! Field numbers are those of etcd's published API. Requests are appended with the five-byte gRPC
//! prefix; responses are read in place without building objects.

mod wire;

use wire::{Fields, Payload, begin, bytes_field, finish, nested_field, varint_field};

/// Bytes before each gRPC message: one flag, four of length.
pub const PREFIX_BYTES: usize = 5;

/// `/etcdserverpb.KV/Put`.
pub const PUT: &str = "/etcdserverpb.KV/Put";
/// `/etcdserverpb.KV/Range`.
pub const RANGE: &str = "/etcdserverpb.KV/Range";
/// `/etcdserverpb.KV/Txn`.
pub const TXN: &str = "/etcdserverpb.KV/Txn";
/// `/etcdserverpb.KV/RangeStream`.
pub const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";
/// `/etcdserverpb.KV/Compact`.
pub const COMPACT: &str = "/etcdserverpb.KV/Compact";
/// `/etcdserverpb.Watch/Watch`.
pub const WATCH: &str = "/etcdserverpb.Watch/Watch";
/// `/etcdserverpb.Lease/LeaseGrant`.
pub const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";

/// `/etcdserverpb.Maintenance/Snapshot`.
pub const SNAPSHOT: &str = "/etcdserverpb.Maintenance/Snapshot";

/// Replaces `message` with one that has no fields.
pub fn nothing(message: &mut Vec<u8>) {
    begin(message);
    finish(message);
}

/// Bytes of the file in one part of a snapshot.
pub fn snapshot_bytes(body: &[u8]) -> u64 {
    let mut fields = Fields(body.get(PREFIX_BYTES..).unwrap_or_default());
    let blob = fields.find_map(|field| match field {
        (3, Payload::Bytes(blob)) => Some(blob.len() as u64),
        _ => None,
    });
    blob.unwrap_or(0)
}

/// Replaces `message` with a put of one key.
pub fn put(key: &[u8], value: &[u8], message: &mut Vec<u8>) {
    begin(message);
    put_fields(key, value, message);
    finish(message);
}

/// Replaces `message` with a put of one key that lives as long as `lease`.
pub fn put_with_lease(key: &[u8], value: &[u8], lease: i64, message: &mut Vec<u8>) {
    begin(message);
    put_fields(key, value, message);
    varint_field(3, lease as u64, message);
    finish(message);
}

/// Replaces `message` with a transaction of `count` puts; `next` gives each key and value in turn.
pub fn put_many(
    count: usize,
    message: &mut Vec<u8>,
    mut next: impl FnMut(usize, &mut Vec<u8>, &mut Vec<u8>),
) {
    let (mut key, mut value) = (Vec::new(), Vec::new());
    begin(message);
    for at in 0..count {
        next(at, &mut key, &mut value);
        nested_field(2, message, |success| {
            nested_field(2, success, |request| put_fields(&key, &value, request));
        });
    }
    finish(message);
}

/// Whether a list answers with key-values or with their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListKind {
    /// All key-values.
    Full,
    /// Only their number.
    Count,
}

/// Replaces `message` with a read of all keys that begin with `prefix`, at the newest revision.
pub fn list(prefix: &[u8], kind: ListKind, message: &mut Vec<u8>) {
    begin(message);
    bytes_field(1, prefix, message);
    bytes_field(2, &range_end(prefix), message);
    if kind == ListKind::Count {
        varint_field(9, 1, message);
    }
    finish(message);
}

/// Replaces `message` with a compaction that is answered when it has been done.
pub fn compact(revision: i64, message: &mut Vec<u8>) {
    begin(message);
    varint_field(1, revision as u64, message);
    varint_field(2, 1, message);
    finish(message);
}

/// Replaces `message` with a new lease of a chosen id.
pub fn lease_grant(id: i64, ttl_seconds: i64, message: &mut Vec<u8>) {
    begin(message);
    varint_field(1, ttl_seconds as u64, message);
    varint_field(2, id as u64, message);
    finish(message);
}

/// What a watcher is to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchRequest<'a> {
    /// One key, or the begin of all keys.
    pub key: &'a [u8],
    /// Whether `key` is the begin of all keys.
    pub prefix: bool,
    /// The first revision; 0 is what comes next.
    pub from_revision: i64,
}

/// Replaces `message` with the request of one more watcher on a stream.
pub fn watch_create(request: WatchRequest<'_>, message: &mut Vec<u8>) {
    begin(message);
    nested_field(1, message, |create| {
        bytes_field(1, request.key, create);
        if request.prefix {
            bytes_field(2, &range_end(request.key), create);
        }
        if request.from_revision > 0 {
            varint_field(3, request.from_revision as u64, create);
        }
    });
    finish(message);
}

/// The first key behind all that begin with `prefix`.
fn range_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // etcd's name for the end of the key space.
    vec![0]
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

/// What a list answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Listed {
    /// Number of key-values in the answer.
    pub key_values: u64,
    /// Number of keys in the range, as the server counts.
    pub count: i64,
}

/// Reads the response of a list and hands each key and value to `each`.
pub fn read_list(body: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> Option<Listed> {
    Some(take_list(body.get(PREFIX_BYTES..)?, &mut each))
}

/// Reads one part of a list's answer that comes as a stream.
pub fn read_list_part(body: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> Option<Listed> {
    let mut fields = Fields(body.get(PREFIX_BYTES..)?);
    let range = fields.find_map(|field| match field {
        (1, Payload::Bytes(range)) => Some(range),
        _ => None,
    });
    Some(take_list(range.unwrap_or_default(), &mut each))
}

fn take_list(range: &[u8], each: &mut impl FnMut(&[u8], &[u8])) -> Listed {
    let mut listed = Listed::default();
    for (number, payload) in Fields(range) {
        match (number, payload) {
            (2, Payload::Bytes(key_value)) => {
                listed.key_values += 1;
                each(bytes_in(key_value, 1), bytes_in(key_value, 5));
            }
            (4, Payload::Number(count)) => listed.count = count as i64,
            _ => {}
        }
    }
    listed
}

/// Reads the response of a grant: its time to live in seconds.
pub fn read_grant(body: &[u8]) -> Option<i64> {
    Some(number_in(body.get(PREFIX_BYTES..)?, 3))
}

/// One message of a watch stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WatchAnswer {
    /// The watcher begins with this message.
    pub created: bool,
    /// The watcher ends with this message.
    pub canceled: bool,
    /// `header.revision`.
    pub revision: i64,
    /// Number of events.
    pub events: u64,
}

/// One event of a watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchEvent<'a> {
    /// Whether the key was deleted.
    pub deleted: bool,
    /// The key.
    pub key: &'a [u8],
    /// Revision of the change.
    pub modified: i64,
}

/// Reads one message of a watch stream and hands its events to `each`.
pub fn read_watch(body: &[u8], mut each: impl FnMut(WatchEvent<'_>)) -> Option<WatchAnswer> {
    let mut answer = WatchAnswer::default();
    for (number, payload) in Fields(body.get(PREFIX_BYTES..)?) {
        match (number, payload) {
            (1, Payload::Bytes(header)) => answer.revision = revision_of(header),
            (3, Payload::Number(created)) => answer.created = created != 0,
            (4, Payload::Number(canceled)) => answer.canceled = canceled != 0,
            (11, Payload::Bytes(event)) => {
                answer.events += 1;
                let key_value = bytes_in(event, 2);
                each(WatchEvent {
                    deleted: number_in(event, 1) != 0,
                    key: bytes_in(key_value, 1),
                    modified: number_in(key_value, 3),
                });
            }
            _ => {}
        }
    }
    Some(answer)
}

/// The first value of a range's answer.
pub fn first_value(body: &[u8]) -> Option<&[u8]> {
    Fields(body.get(PREFIX_BYTES..)?).find_map(|field| match field {
        (2, Payload::Bytes(key_value)) => Some(bytes_in(key_value, 5)),
        _ => None,
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

fn bytes_in(message: &[u8], wanted: u64) -> &[u8] {
    Fields(message)
        .find_map(|field| match field {
            (number, Payload::Bytes(bytes)) if number == wanted => Some(bytes),
            _ => None,
        })
        .unwrap_or_default()
}

fn put_fields(key: &[u8], value: &[u8], message: &mut Vec<u8>) {
    bytes_field(1, key, message);
    bytes_field(2, value, message);
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

    #[test]
    fn a_transaction_of_puts_holds_them_in_order() {
        let mut message = Vec::new();
        put_many(2, &mut message, |at, key, value| {
            key.clear();
            value.clear();
            key.push(b'a' + at as u8);
            value.push(b'0' + at as u8);
        });
        let puts: Vec<Vec<u8>> = Fields(&message[PREFIX_BYTES..])
            .filter_map(|(_, operation)| match operation {
                Payload::Bytes(operation) => Some(bytes_in(operation, 2).to_vec()),
                Payload::Number(_) => None,
            })
            .collect();
        assert_eq!(puts, [b"\x0a\x01a\x12\x010", b"\x0a\x01b\x12\x011"]);
    }

    #[test]
    fn a_prefix_ends_behind_its_last_key() {
        assert_eq!(range_end(b"/a/"), b"/a0");
        assert_eq!(range_end(b"a\xff"), b"b");
        assert_eq!(range_end(b"\xff"), [0]);
    }

    #[test]
    fn lists_are_read_whole_and_in_parts() {
        // kvs { key: "k", value: "v" }, count: 3
        let range = b"\x12\x06\x0a\x01k\x2a\x01v\x20\x03";
        let listed = Listed {
            key_values: 1,
            count: 3,
        };
        let mut seen = Vec::new();
        let whole = [b"\0\0\0\0\x0a".as_slice(), range].concat();
        let answer = read_list(&whole, |key, value| {
            seen.push((key.to_vec(), value.to_vec()))
        });
        assert_eq!(answer, Some(listed));
        assert_eq!(seen, [(b"k".to_vec(), b"v".to_vec())]);
        let part = [b"\0\0\0\0\x0c\x0a\x0a".as_slice(), range].concat();
        assert_eq!(read_list_part(&part, |_, _| {}), Some(listed));
        assert_eq!(first_value(&whole), Some(b"v".as_slice()));
    }

    #[test]
    fn events_of_a_watcher_are_read() {
        // header { revision: 9 }, events { type: DELETE, kv { key: "k", mod_revision: 7 } }
        let body = b"\0\0\0\0\x0f\x0a\x02\x18\x09\x5a\x09\x08\x01\x12\x05\x0a\x01k\x18\x07";
        let mut events = Vec::new();
        let answer = read_watch(body, |event| {
            events.push((event.deleted, event.key.to_vec(), event.modified));
        });
        assert_eq!(events, [(true, b"k".to_vec(), 7)]);
        assert_eq!(
            answer.map(|answer| (answer.revision, answer.events)),
            Some((9, 1))
        );
    }
}
