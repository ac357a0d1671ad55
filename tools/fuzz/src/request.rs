//! Requests as clients send them, in protobuf.
//!
//! The first byte chooses the message. A command that the edge lets pass must survive the log
//! unchanged: an entry that cannot be read back would stop the member.

use bytes::Bytes;
use engine::command::Operation;
use grpc::Method;
use grpc::mapping::{AlarmOperation, RequestLimits, WatchRequest, operation};
use grpc::proto::etcdserverpb::{
    AlarmRequest, CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest,
    LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCancelRequest,
    WatchCreateRequest, WatchProgressRequest, WatchRequest as WatchMessage, compare, request_op,
    watch_request,
};
use prost::Message;

use crate::entry::through_the_log;
use crate::{steer, steered};

/// Reads `data` as the message that its first byte names.
pub fn check(data: &[u8]) {
    let Some((steering, input)) = steered(data) else {
        return;
    };
    let message = Bytes::copy_from_slice(input);
    let methods = Method::ALL.len();
    match usize::from(steering) % (methods + 2) {
        choice if choice < methods => check_operation(Method::ALL[choice], message),
        choice if choice == methods => drop(WatchRequest::decode(message)),
        _ => {
            if let Ok(AlarmOperation::Change(command)) = AlarmOperation::decode(message) {
                assert_eq!(through_the_log(&command), Ok(command));
            }
        }
    }
}

fn check_operation(method: Method, message: Bytes) {
    let limits = RequestLimits::default();
    if let Ok(Operation::Write(command)) = operation(method, message, &limits) {
        assert_eq!(through_the_log(&command), Ok(command));
    }
}

fn choice_of(method: Method) -> u8 {
    let position = Method::ALL.iter().position(|other| *other == method);
    position.expect("a method is one of all") as u8
}

/// Each message with everything in it.
pub fn seeds() -> Vec<Vec<u8>> {
    let range = RangeRequest {
        key: Bytes::from_static(b"a"),
        range_end: Bytes::from_static(b"\0"),
        limit: 5,
        revision: 4,
        sort_order: 2,
        sort_target: 3,
        serializable: true,
        min_mod_revision: 2,
        ..Default::default()
    };
    let put = put();
    let delete = DeleteRangeRequest {
        key: Bytes::from_static(b"b"),
        range_end: Bytes::from_static(b"c"),
        prev_kv: true,
    };
    let plain = RangeRequest {
        key: Bytes::from_static(b"a"),
        ..Default::default()
    };
    let grant = LeaseGrantRequest { ttl: 60, id: 3 };
    let compact = CompactionRequest {
        revision: 7,
        physical: true,
    };
    let of = |method, message: Vec<u8>| steer(choice_of(method), &message);
    let mut seeds = vec![
        of(Method::Range, range.encode_to_vec()),
        of(Method::RangeStream, plain.encode_to_vec()),
        of(Method::Put, put.encode_to_vec()),
        of(Method::DeleteRange, delete.encode_to_vec()),
        of(Method::Txn, txn(range, put, delete).encode_to_vec()),
        of(Method::Compact, compact.encode_to_vec()),
        of(Method::LeaseGrant, grant.encode_to_vec()),
        of(
            Method::LeaseRevoke,
            LeaseRevokeRequest { id: 3 }.encode_to_vec(),
        ),
    ];
    let after = Method::ALL.len() as u8;
    for message in watches() {
        seeds.push(steer(after, &message.encode_to_vec()));
    }
    let alarm = AlarmRequest {
        action: 1,
        member_id: 8,
        alarm: 1,
    };
    seeds.push(steer(after + 1, &alarm.encode_to_vec()));
    seeds
}

/// A put with a value and a lease.
pub(crate) fn put() -> PutRequest {
    PutRequest {
        key: Bytes::from_static(b"key"),
        value: Bytes::from_static(b"value"),
        lease: 9,
        prev_kv: true,
        ..Default::default()
    }
}

fn txn(range: RangeRequest, put: PutRequest, delete: DeleteRangeRequest) -> TxnRequest {
    let operation = |request| RequestOp {
        request: Some(request),
    };
    let inner = TxnRequest {
        success: vec![operation(request_op::Request::RequestRange(range))],
        ..Default::default()
    };
    let guard = Compare {
        key: Bytes::from_static(b"key"),
        target: 2,
        result: 1,
        target_union: Some(compare::TargetUnion::ModRevision(3)),
        ..Default::default()
    };
    TxnRequest {
        compare: vec![guard],
        success: vec![
            operation(request_op::Request::RequestPut(put)),
            operation(request_op::Request::RequestTxn(inner)),
        ],
        failure: vec![operation(request_op::Request::RequestDeleteRange(delete))],
    }
}

/// One message of each kind that a client sends on a watch stream.
pub(crate) fn watches() -> Vec<WatchMessage> {
    let create = WatchCreateRequest {
        key: Bytes::from_static(b"a"),
        range_end: Bytes::from_static(b"b"),
        start_revision: 3,
        filters: vec![1],
        prev_kv: true,
        fragment: true,
        ..Default::default()
    };
    [
        watch_request::RequestUnion::CreateRequest(create),
        watch_request::RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 1 }),
        watch_request::RequestUnion::ProgressRequest(WatchProgressRequest {}),
    ]
    .into_iter()
    .map(|request| WatchMessage {
        request_union: Some(request),
    })
    .collect()
}
