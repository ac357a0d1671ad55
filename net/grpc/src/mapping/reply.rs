//! Engine replies to the bytes of the answer.
//!
//! Each message is measured, then written into a buffer of exactly that size. The two walks visit
//! the same fields in the same order; the buffer's length is asserted at the end.

use bytes::Bytes;
use engine::command::{AlarmKind, KeyValue, RangeReply, Reply, TxnReply};

use super::wire::{bytes_len, delimited_len, integer_len, put_bytes, put_delimited, put_integer};

/// What every answer says about its origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Cluster.
    pub cluster_id: u64,
    /// Member that answers.
    pub member_id: u64,
    /// Store revision of the answer; 0 is left out.
    pub revision: i64,
    /// Raft term of the member.
    pub raft_term: u64,
}

impl Header {
    /// The header inside a transaction: only the revision.
    fn inner(revision: i64) -> Self {
        Header {
            revision,
            ..Header::default()
        }
    }

    fn content_len(&self) -> usize {
        integer_len(self.cluster_id)
            + integer_len(self.member_id)
            + integer_len(self.revision as u64)
            + integer_len(self.raft_term)
    }

    /// Bytes of the header as field 1.
    pub(super) fn len(&self) -> usize {
        delimited_len(self.content_len())
    }

    /// Writes the header as field 1.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_delimited(out, 1, self.content_len());
        put_integer(out, 1, self.cluster_id);
        put_integer(out, 2, self.member_id);
        put_integer(out, 3, self.revision as u64);
        put_integer(out, 4, self.raft_term);
    }

    /// An answer that is nothing but its header.
    pub fn encode(&self) -> Bytes {
        exactly(self.len(), |out| self.put(out))
    }
}

/// The answer to an operation. For a transaction `header.revision` is the revision after it.
pub fn encode_reply(header: &Header, reply: &Reply) -> Bytes {
    let mut revisions = InnerRevisions::of(header.revision, reply);
    let len = body_len(header, reply, &mut revisions.clone());
    exactly(len, |out| put_body(out, header, reply, &mut revisions))
}

/// One chunk of a streamed range. Only the last one carries a header, `more` and the count.
pub fn encode_range_chunk(kvs: &[KeyValue], last: Option<RangeEnd>) -> Bytes {
    let content_len = last.as_ref().map_or(0, |end| end.header.len())
        + kvs
            .iter()
            .map(|kv| delimited_len(key_value_len(kv)))
            .sum::<usize>()
        + last
            .as_ref()
            .map_or(0, |end| range_end_len(end.more, end.count));
    exactly(delimited_len(content_len), |out| {
        put_delimited(out, 1, content_len);
        if let Some(end) = &last {
            end.header.put(out);
        }
        put_key_values(out, 2, kvs);
        if let Some(end) = &last {
            put_range_end(out, end.more, end.count);
        }
    })
}

/// What closes a streamed range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeEnd {
    /// Header, with the revision that was read.
    pub header: Header,
    /// More keys than the limit were there.
    pub more: bool,
    /// Keys in the whole range.
    pub count: i64,
}

/// Runs `write` on a buffer of `len` bytes, which it must fill exactly.
pub(super) fn exactly(len: usize, write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut out = Vec::with_capacity(len);
    write(&mut out);
    assert_eq!(
        out.len(),
        len,
        "the measured and the written length of an answer differ"
    );
    Bytes::from(out)
}

/// Which revision the header of each answer inside a transaction shows: the one before the
/// transaction until its first change, the one after from then on.
#[derive(Clone)]
struct InnerRevisions {
    current: i64,
    after: i64,
}

impl InnerRevisions {
    fn of(after: i64, reply: &Reply) -> Self {
        let before = if changes(reply) { after - 1 } else { after };
        InnerRevisions {
            current: before,
            after,
        }
    }

    /// The revision shown by `reply`, the next one in order.
    fn next(&mut self, reply: &Reply) -> i64 {
        if matches!(reply, Reply::Txn(_)) {
            return 0;
        }
        if changes(reply) {
            self.current = self.after;
        }
        self.current
    }
}

fn changes(reply: &Reply) -> bool {
    match reply {
        Reply::Put { .. } => true,
        Reply::DeleteRange { deleted, .. } => *deleted > 0,
        Reply::Txn(txn) => txn.responses.iter().any(changes),
        _ => false,
    }
}

fn body_len(header: &Header, reply: &Reply, revisions: &mut InnerRevisions) -> usize {
    header.len()
        + match reply {
            Reply::Put { prev_kv } => prev_kv
                .as_ref()
                .map_or(0, |kv| delimited_len(key_value_len(kv))),
            Reply::DeleteRange { deleted, prev_kvs } => {
                integer_len(*deleted as u64) + key_values_len(prev_kvs)
            }
            Reply::Range(range) => {
                key_values_len(&range.kvs) + range_end_len(range.more, range.count)
            }
            Reply::Txn(txn) => txn_len(txn, revisions),
            Reply::LeaseGrant { id, ttl } => integer_len(id.0 as u64) + integer_len(*ttl as u64),
            Reply::Alarm { alarms } => alarms
                .iter()
                .map(|alarm| delimited_len(alarm_len(alarm)))
                .sum(),
            Reply::Compact | Reply::LeaseRevoke | Reply::Done => 0,
        }
}

fn put_body(out: &mut Vec<u8>, header: &Header, reply: &Reply, revisions: &mut InnerRevisions) {
    header.put(out);
    match reply {
        Reply::Put { prev_kv } => put_key_values(out, 2, prev_kv.as_slice()),
        Reply::DeleteRange { deleted, prev_kvs } => {
            put_integer(out, 2, *deleted as u64);
            put_key_values(out, 3, prev_kvs);
        }
        Reply::Range(RangeReply { kvs, more, count }) => {
            put_key_values(out, 2, kvs);
            put_range_end(out, *more, *count);
        }
        Reply::Txn(txn) => put_txn(out, txn, revisions),
        Reply::LeaseGrant { id, ttl } => {
            put_integer(out, 2, id.0 as u64);
            put_integer(out, 3, *ttl as u64);
        }
        Reply::Alarm { alarms } => {
            for alarm in alarms {
                put_delimited(out, 2, alarm_len(alarm));
                put_integer(out, 1, alarm.0);
                put_integer(out, 2, alarm.1 as u64);
            }
        }
        Reply::Compact | Reply::LeaseRevoke | Reply::Done => {}
    }
}

fn txn_len(txn: &TxnReply, revisions: &mut InnerRevisions) -> usize {
    integer_len(u64::from(txn.succeeded))
        + txn
            .responses
            .iter()
            .map(|reply| delimited_len(operation_len(reply, revisions)))
            .sum::<usize>()
}

/// Bytes of one `ResponseOp`.
fn operation_len(reply: &Reply, revisions: &mut InnerRevisions) -> usize {
    match operation_field(reply) {
        Some(_) => {
            let header = Header::inner(revisions.next(reply));
            delimited_len(body_len(&header, reply, revisions))
        }
        None => 0,
    }
}

fn put_txn(out: &mut Vec<u8>, txn: &TxnReply, revisions: &mut InnerRevisions) {
    put_integer(out, 2, u64::from(txn.succeeded));
    for reply in &txn.responses {
        put_delimited(out, 3, operation_len(reply, &mut revisions.clone()));
        if let Some(field) = operation_field(reply) {
            let header = Header::inner(revisions.next(reply));
            put_delimited(out, field, body_len(&header, reply, &mut revisions.clone()));
            put_body(out, &header, reply, revisions);
        }
    }
}

/// Field of a reply in `ResponseOp`; other replies do not occur inside transactions.
fn operation_field(reply: &Reply) -> Option<u8> {
    match reply {
        Reply::Range(_) => Some(1),
        Reply::Put { .. } => Some(2),
        Reply::DeleteRange { .. } => Some(3),
        Reply::Txn(_) => Some(4),
        _ => None,
    }
}

fn alarm_len(&(member, kind): &(u64, AlarmKind)) -> usize {
    integer_len(member) + integer_len(kind as u64)
}

pub(super) fn range_end_len(more: bool, count: i64) -> usize {
    integer_len(u64::from(more)) + integer_len(count as u64)
}

pub(super) fn put_range_end(out: &mut Vec<u8>, more: bool, count: i64) {
    put_integer(out, 3, u64::from(more));
    put_integer(out, 4, count as u64);
}

fn key_values_len(kvs: &[KeyValue]) -> usize {
    kvs.iter().map(|kv| delimited_len(key_value_len(kv))).sum()
}

fn put_key_values(out: &mut Vec<u8>, field: u8, kvs: &[KeyValue]) {
    for kv in kvs {
        put_key_value(out, field, kv);
    }
}

/// Bytes of a key-value's content.
pub(super) fn key_value_len(kv: &KeyValue) -> usize {
    key_value_len_with(kv, kv.value.len())
}

/// The same with a value of `value_bytes` bytes.
pub(super) fn key_value_len_with(kv: &KeyValue, value_bytes: usize) -> usize {
    let value_len = match value_bytes {
        0 => 0,
        bytes => delimited_len(bytes),
    };
    bytes_len(&kv.key)
        + integer_len(kv.create_revision as u64)
        + integer_len(kv.mod_revision as u64)
        + integer_len(kv.version as u64)
        + value_len
        + integer_len(kv.lease.0 as u64)
}

/// Writes a key-value as field `field`.
pub(super) fn put_key_value(out: &mut Vec<u8>, field: u8, kv: &KeyValue) {
    put_key_value_head(out, field, kv);
    put_bytes(out, 5, &kv.value);
    put_integer(out, 6, kv.lease.0 as u64);
}

/// Writes it up to its value.
pub(super) fn put_key_value_head(out: &mut Vec<u8>, field: u8, kv: &KeyValue) {
    put_delimited(out, field, key_value_len(kv));
    put_bytes(out, 1, &kv.key);
    put_integer(out, 2, kv.create_revision as u64);
    put_integer(out, 3, kv.mod_revision as u64);
    put_integer(out, 4, kv.version as u64);
}
