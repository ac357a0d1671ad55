//! Requests to operations, with etcd's checks in etcd's order.

use bytes::Bytes;
use engine::command::{
    AlarmKind, Command, DeleteRange, KEY_BYTES_MAX, LeaseId, Operation, Put, Range, SortOrder,
    SortTarget,
};
use engine::key::{End, KeyRange};

use super::txn;
use crate::method::Method;
use crate::proto::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest,
    LeaseRevokeRequest, PutRequest, RangeRequest, TxnRequest, alarm_request, range_request,
};
use crate::status::{
    Code, EMPTY_KEY, INVALID_SORT_OPTION, LEASE_PROVIDED, LEASE_TTL_TOO_LARGE,
    RANGE_STREAM_FILTERS, RANGE_STREAM_SORT, REQUEST_TOO_LARGE, Status, VALUE_PROVIDED,
};

/// Longest time to live of a lease, seconds.
pub const LEASE_TTL_MAX: i64 = 9_000_000_000;

/// Bounds on requests that an operator sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Most bytes of a request that goes through the log (`--max-request-bytes`).
    pub write_bytes_max: usize,
    /// Most operations per branch of a transaction (`--max-txn-ops`).
    pub txn_operations_max: usize,
}

impl Default for RequestLimits {
    fn default() -> Self {
        RequestLimits {
            write_bytes_max: 1536 * 1024,
            txn_operations_max: 128,
        }
    }
}

/// Reads a protobuf message; `bytes` fields share `message`'s buffer.
///
/// # Errors
/// `Internal`, as a Go server answers, if the bytes are no such message.
pub fn decode<M: prost::Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message).map_err(|error| {
        Status::new(
            Code::Internal,
            format!("grpc: error unmarshalling request: {error}"),
        )
    })
}

/// The operation that a unary request of the KV or Lease service asks for.
///
/// A lease grant with id 0 leaves the choice of the id to the proposer; its time to live is at most
/// [`LEASE_TTL_MAX`] and not yet raised to the minimum.
///
/// # Errors
/// etcd's own for what etcd refuses; `InvalidArgument` with our text for keys that are too long,
/// transactions nested too deeply and numbers no etcd client sends; `Unimplemented` for a method
/// that is no operation.
pub fn operation(
    method: Method,
    message: Bytes,
    limits: &RequestLimits,
) -> Result<Operation, Status> {
    let message_bytes = message.len();
    let operation = match method {
        Method::Put => Operation::Write(Command::Put(put(decode(message)?)?)),
        Method::Range => Operation::Range(range(decode(message)?)?),
        Method::RangeStream => Operation::Range(range_stream(decode(message)?)?),
        Method::DeleteRange => {
            Operation::Write(Command::DeleteRange(delete_range(decode(message)?)?))
        }
        Method::Txn => txn::operation(decode::<TxnRequest>(message)?, limits.txn_operations_max)?,
        Method::Compact => {
            let request: CompactionRequest = decode(message)?;
            Operation::Write(Command::Compact {
                revision: request.revision,
            })
        }
        Method::LeaseGrant => Operation::Write(lease_grant(&decode(message)?)?),
        Method::LeaseRevoke => {
            let request: LeaseRevokeRequest = decode(message)?;
            Operation::Write(Command::LeaseRevoke {
                id: LeaseId(request.id),
            })
        }
        _ => {
            return Err(Status::new(
                Code::Unimplemented,
                format!("{} is not an operation on the store", method.path()),
            ));
        }
    };
    match operation {
        // Checked where etcd checks it: after the fields, and only for what is proposed.
        Operation::Write(_) if message_bytes > limits.write_bytes_max => Err(REQUEST_TOO_LARGE),
        operation => Ok(operation),
    }
}

/// A put.
pub(super) fn put(request: PutRequest) -> Result<Put, Status> {
    check_put(&request)?;
    Ok(Put {
        key: request.key,
        value: request.value,
        lease: LeaseId(request.lease),
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    })
}

/// Refuses what etcd refuses in a put, and keys that are too long to be stored.
pub(super) fn check_put(request: &PutRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(EMPTY_KEY);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(VALUE_PROVIDED);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(LEASE_PROVIDED);
    }
    if request.key.len() > KEY_BYTES_MAX {
        return Err(invalid(format!(
            "etcdserver: key is too long: {} bytes, at most {KEY_BYTES_MAX} are stored",
            request.key.len()
        )));
    }
    Ok(())
}

/// A range.
pub(super) fn range(request: RangeRequest) -> Result<Range, Status> {
    check_range(&request)?;
    Ok(Range {
        sort_order: sort_order(request.sort_order)?,
        sort_target: sort_target(request.sort_target)?,
        range: key_range(request.key, request.range_end),
        limit: request.limit,
        revision: request.revision,
        serializable: request.serializable,
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: request.min_mod_revision,
        max_mod_revision: request.max_mod_revision,
        min_create_revision: request.min_create_revision,
        max_create_revision: request.max_create_revision,
    })
}

/// Refuses what etcd refuses in a range.
pub(super) fn check_range(request: &RangeRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        return Err(EMPTY_KEY);
    }
    sort_order(request.sort_order)?;
    sort_target(request.sort_target)?;
    Ok(())
}

/// A streamed range: in the order of its keys and without bounds on revisions. An order of none by
/// another target passes, as in etcd, and is that of the keys.
fn range_stream(request: RangeRequest) -> Result<Range, Status> {
    let mut range = range(request)?;
    match (range.sort_order, range.sort_target) {
        (SortOrder::None, _) => range.sort_target = SortTarget::Key,
        (SortOrder::Ascend, SortTarget::Key) => {}
        _ => return Err(RANGE_STREAM_SORT),
    }
    let bounds = [
        range.min_mod_revision,
        range.max_mod_revision,
        range.min_create_revision,
        range.max_create_revision,
    ];
    if bounds != [0; 4] {
        return Err(RANGE_STREAM_FILTERS);
    }
    Ok(range)
}

/// A range delete.
pub(super) fn delete_range(request: DeleteRangeRequest) -> Result<DeleteRange, Status> {
    check_delete_range(&request)?;
    Ok(DeleteRange {
        range: key_range(request.key, request.range_end),
        prev_kv: request.prev_kv,
    })
}

/// Refuses what etcd refuses in a range delete.
pub(super) fn check_delete_range(request: &DeleteRangeRequest) -> Result<(), Status> {
    if request.key.is_empty() {
        Err(EMPTY_KEY)
    } else {
        Ok(())
    }
}

fn lease_grant(request: &LeaseGrantRequest) -> Result<Command, Status> {
    if request.ttl > LEASE_TTL_MAX {
        return Err(LEASE_TTL_TOO_LARGE);
    }
    if request.id < 0 {
        return Err(invalid(format!(
            "etcdserver: lease id {} is negative",
            request.id
        )));
    }
    Ok(Command::LeaseGrant {
        id: LeaseId(request.id),
        ttl: request.ttl,
    })
}

/// What an alarm request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlarmOperation {
    /// The raised alarms of one kind, or of all.
    List {
        /// Kind; `None` is all.
        alarm: Option<AlarmKind>,
    },
    /// Raise or clear, through the log.
    Change(Command),
    /// List or clear what is never raised: the answer is an empty list.
    Nothing,
}

impl AlarmOperation {
    /// Reads an `AlarmRequest`.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown action, and for raising a kind that does not exist.
    pub fn decode(message: Bytes) -> Result<AlarmOperation, Status> {
        use alarm_request::AlarmAction;

        let request: AlarmRequest = decode(message)?;
        let alarm = match AlarmType::try_from(request.alarm) {
            Ok(AlarmType::Nospace) => Some(AlarmKind::NoSpace),
            Ok(AlarmType::Corrupt) => Some(AlarmKind::Corrupt),
            Ok(AlarmType::None) | Err(_) => None,
        };
        let change = |activate| {
            AlarmOperation::Change(Command::Alarm {
                activate,
                member: request.member_id,
                alarm,
            })
        };
        match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) if request.alarm == AlarmType::None as i32 || alarm.is_some() => {
                Ok(AlarmOperation::List { alarm })
            }
            Ok(AlarmAction::Activate) if alarm.is_none() => Err(invalid(format!(
                "etcdserver: there is no alarm of kind {} to activate",
                request.alarm
            ))),
            Ok(AlarmAction::Activate) => Ok(change(true)),
            Ok(AlarmAction::Deactivate) if alarm.is_some() => Ok(change(false)),
            Ok(AlarmAction::Get | AlarmAction::Deactivate) => Ok(AlarmOperation::Nothing),
            Err(_) => Err(invalid(format!(
                "etcdserver: unknown alarm action {}",
                request.action
            ))),
        }
    }
}

/// A range from the wire, with bounds of at most `KEY_BYTES_MAX + 1` bytes.
///
/// No stored key is longer than `KEY_BYTES_MAX`, so a longer bound lies between the same stored
/// keys as its first `KEY_BYTES_MAX` bytes followed by a zero: cutting it there changes no answer.
pub(super) fn key_range(key: Bytes, range_end: Bytes) -> KeyRange {
    let range = KeyRange::from_wire(cut_bound(key), range_end);
    match range.end {
        End::Before(end) => KeyRange {
            start: range.start,
            end: End::Before(cut_bound(end)),
        },
        _ => range,
    }
}

fn cut_bound(bound: Bytes) -> Bytes {
    if bound.len() <= KEY_BYTES_MAX {
        return bound;
    }
    let mut cut = bound[..KEY_BYTES_MAX].to_vec();
    cut.push(0);
    Bytes::from(cut)
}

/// `InvalidArgument` in our own words.
pub(super) fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Status {
    Status::new(Code::InvalidArgument, message)
}

fn sort_order(value: i32) -> Result<SortOrder, Status> {
    match range_request::SortOrder::try_from(value) {
        Ok(range_request::SortOrder::None) => Ok(SortOrder::None),
        Ok(range_request::SortOrder::Ascend) => Ok(SortOrder::Ascend),
        Ok(range_request::SortOrder::Descend) => Ok(SortOrder::Descend),
        Err(_) => Err(INVALID_SORT_OPTION),
    }
}

fn sort_target(value: i32) -> Result<SortTarget, Status> {
    match range_request::SortTarget::try_from(value) {
        Ok(range_request::SortTarget::Key) => Ok(SortTarget::Key),
        Ok(range_request::SortTarget::Version) => Ok(SortTarget::Version),
        Ok(range_request::SortTarget::Create) => Ok(SortTarget::Create),
        Ok(range_request::SortTarget::Mod) => Ok(SortTarget::Mod),
        Ok(range_request::SortTarget::Value) => Ok(SortTarget::Value),
        Err(_) => Err(INVALID_SORT_OPTION),
    }
}
