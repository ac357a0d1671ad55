//! Requests to bytes.

use bytes::Bytes;

use super::{ENTRY_HEADER_BYTES, ENTRY_VERSION, REQUEST_HEADER_BYTES, RequestHead, code};
use crate::auth::Authorized;
use crate::command::*;
use crate::key::{End, KeyRange};

/// Collects requests into one entry.
///
/// The buffer always holds a whole entry but for the count, which [`finish`](Self::finish) sets.
#[derive(Debug)]
pub struct EntryBuilder {
    buffer: Vec<u8>,
    count: u32,
}

impl Default for EntryBuilder {
    fn default() -> Self {
        EntryBuilder::new()
    }
}

impl EntryBuilder {
    /// An entry without requests.
    pub fn new() -> Self {
        EntryBuilder {
            buffer: vec![0; ENTRY_HEADER_BYTES],
            count: 0,
        }
    }

    /// Appends a request and returns its position in the entry.
    pub fn push(&mut self, head: RequestHead, command: &Authorized<Command>) -> u32 {
        let start = self.buffer.len();
        let user = command.user();
        let user_bytes = u16::try_from(user.len()).expect("user names are bounded at the edge");
        let mut header = [0; REQUEST_HEADER_BYTES];
        header[4] = kind_of(command);
        header[6..8].copy_from_slice(&user_bytes.to_le_bytes());
        header[8..16].copy_from_slice(&head.request_id.to_le_bytes());
        header[16..24].copy_from_slice(&head.origin_member.to_le_bytes());
        header[24..32].copy_from_slice(&command.auth_revision().to_le_bytes());
        self.buffer.extend_from_slice(&header);
        self.buffer.extend_from_slice(user);
        put_command(&mut self.buffer, command);
        let len = count_of(self.buffer.len() - start);
        self.buffer[start..start + 4].copy_from_slice(&len.to_le_bytes());
        let position = self.count;
        self.count += 1;
        position
    }

    /// Requests so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of the entry so far.
    pub fn len_bytes(&self) -> usize {
        self.buffer.len()
    }

    /// Whether there is no request yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Hands out the entry and starts the next one.
    pub fn finish(&mut self) -> Bytes {
        let mut next = Vec::with_capacity(self.buffer.len());
        next.resize(ENTRY_HEADER_BYTES, 0);
        let mut entry = std::mem::replace(&mut self.buffer, next);
        entry[0..2].copy_from_slice(&ENTRY_VERSION.to_le_bytes());
        entry[4..8].copy_from_slice(&self.count.to_le_bytes());
        self.count = 0;
        Bytes::from(entry)
    }
}

fn kind_of(command: &Command) -> u8 {
    match command {
        Command::Put(_) => code::PUT,
        Command::DeleteRange(_) => code::DELETE_RANGE,
        Command::Txn(_) => code::TXN,
        Command::Compact { .. } => code::COMPACT,
        Command::LeaseGrant { .. } => code::LEASE_GRANT,
        Command::LeaseRevoke { .. } => code::LEASE_REVOKE,
        Command::LeaseExpire { .. } => code::LEASE_EXPIRE,
        Command::Alarm { .. } => code::ALARM,
        Command::MemberAttributes(_) => code::MEMBER_ATTRIBUTES,
        Command::ClusterVersion(_) => code::CLUSTER_VERSION,
    }
}

fn put_command(out: &mut Vec<u8>, command: &Command) {
    match command {
        Command::Put(put) => put_put(out, put),
        Command::DeleteRange(delete) => put_delete(out, delete),
        Command::Txn(txn) => put_txn(out, txn),
        Command::Compact { revision } => put_i64(out, *revision),
        Command::LeaseGrant { id, ttl } => {
            put_i64(out, id.0);
            put_i64(out, *ttl);
        }
        Command::LeaseRevoke { id } => put_i64(out, id.0),
        Command::LeaseExpire { ids } => {
            put_u32(out, count_of(ids.len()));
            ids.iter().for_each(|id| put_i64(out, id.0));
        }
        Command::Alarm {
            activate,
            member,
            alarm,
        } => {
            out.push(u8::from(*activate));
            out.push(alarm.map_or(0, |alarm| alarm as u8));
            out.extend_from_slice(&member.to_le_bytes());
        }
        Command::MemberAttributes(attributes) => {
            out.extend_from_slice(&attributes.member.to_le_bytes());
            put_bytes(out, attributes.name.as_bytes());
            put_u32(out, count_of(attributes.client_urls.len()));
            for url in &attributes.client_urls {
                put_bytes(out, url.as_bytes());
            }
        }
        Command::ClusterVersion(version) => put_bytes(out, version.as_bytes()),
    }
}

fn put_put(out: &mut Vec<u8>, put: &Put) {
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    let has_lease = put.lease != LeaseId::NONE;
    out.push(
        flag(put.prev_kv, code::PUT_PREV_KV)
            | flag(put.ignore_value, code::PUT_IGNORE_VALUE)
            | flag(put.ignore_lease, code::PUT_IGNORE_LEASE)
            | flag(has_lease, code::PUT_LEASE),
    );
    if has_lease {
        put_i64(out, put.lease.0);
    }
    put_bytes(out, &put.key);
    put_bytes(out, &put.value);
}

fn put_delete(out: &mut Vec<u8>, delete: &DeleteRange) {
    out.push(if delete.prev_kv {
        code::DELETE_PREV_KV
    } else {
        0
    });
    put_range_bounds(out, &delete.range);
}

fn put_txn(out: &mut Vec<u8>, txn: &Txn) {
    put_u32(out, count_of(txn.compare.len()));
    put_u32(out, count_of(txn.success.len()));
    put_u32(out, count_of(txn.failure.len()));
    txn.compare
        .iter()
        .for_each(|compare| put_compare(out, compare));
    for operation in txn.success.iter().chain(&txn.failure) {
        put_operation(out, operation);
    }
}

fn put_operation(out: &mut Vec<u8>, operation: &TxnOperation) {
    match operation {
        TxnOperation::Range(range) => {
            out.push(code::OPERATION_RANGE);
            put_range(out, range);
        }
        TxnOperation::Put(put) => {
            out.push(code::OPERATION_PUT);
            put_put(out, put);
        }
        TxnOperation::DeleteRange(delete) => {
            out.push(code::OPERATION_DELETE_RANGE);
            put_delete(out, delete);
        }
        TxnOperation::Txn(txn) => {
            out.push(code::OPERATION_TXN);
            put_txn(out, txn);
        }
    }
}

fn put_compare(out: &mut Vec<u8>, compare: &Compare) {
    let (target, number) = match &compare.target {
        CompareTarget::Version(number) => (code::TARGET_VERSION, *number),
        CompareTarget::Create(number) => (code::TARGET_CREATE, *number),
        CompareTarget::Mod(number) => (code::TARGET_MOD, *number),
        CompareTarget::Lease(number) => (code::TARGET_LEASE, *number),
        CompareTarget::Value(_) => (code::TARGET_VALUE, 0),
    };
    out.push(target);
    out.push(match compare.relation {
        Relation::Equal => 0,
        Relation::Greater => 1,
        Relation::Less => 2,
        Relation::NotEqual => 3,
    });
    put_range_bounds(out, &compare.range);
    match &compare.target {
        CompareTarget::Value(value) => put_bytes(out, value),
        _ => put_i64(out, number),
    }
}

fn put_range(out: &mut Vec<u8>, range: &Range) {
    let sort = match range.sort_order {
        SortOrder::None => 0u8,
        SortOrder::Ascend => 1,
        SortOrder::Descend => 2,
    };
    let target = match range.sort_target {
        SortTarget::Key => 0u8,
        SortTarget::Version => 1,
        SortTarget::Create => 2,
        SortTarget::Mod => 3,
        SortTarget::Value => 4,
    };
    let numbers = [
        (code::RANGE_LIMIT, range.limit),
        (code::RANGE_REVISION, range.revision),
        (code::RANGE_MIN_MOD, range.min_mod_revision),
        (code::RANGE_MAX_MOD, range.max_mod_revision),
        (code::RANGE_MIN_CREATE, range.min_create_revision),
        (code::RANGE_MAX_CREATE, range.max_create_revision),
    ];
    let switches = [
        (code::RANGE_SORT, sort != 0 || target != 0),
        (code::RANGE_SERIALIZABLE, range.serializable),
        (code::RANGE_KEYS_ONLY, range.keys_only),
        (code::RANGE_COUNT_ONLY, range.count_only),
    ];
    let mut present = 0;
    for (bit, number) in numbers {
        present |= if number != 0 { bit } else { 0 };
    }
    for (bit, on) in switches {
        present |= if on { bit } else { 0 };
    }
    out.extend_from_slice(&present.to_le_bytes());
    put_range_bounds(out, &range.range);
    for (bit, number) in numbers {
        if present & bit != 0 {
            put_i64(out, number);
        }
    }
    if present & code::RANGE_SORT != 0 {
        out.extend_from_slice(&[sort, target]);
    }
}

fn put_range_bounds(out: &mut Vec<u8>, range: &KeyRange) {
    let (end, bytes) = match &range.end {
        End::Single => (code::END_SINGLE, None),
        End::Before(end) => (code::END_BEFORE, Some(end)),
        End::Unbounded => (code::END_UNBOUNDED, None),
    };
    out.push(end);
    put_bytes(out, &range.start);
    if let Some(bytes) = bytes {
        put_bytes(out, bytes);
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_u32(out, count_of(bytes.len()));
    out.extend_from_slice(bytes);
}

fn put_u32(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_i64(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn count_of(count: usize) -> u32 {
    u32::try_from(count).expect("an entry is far below 4 GiB")
}
