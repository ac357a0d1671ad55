//! The mapping against prost: hand-written answers byte for byte, and etcd's checks one by one.

use bytes::Bytes;
use engine::command::{
    AlarmKind, Command, CompareTarget, KeyValue, LeaseId, Operation, RangeReply, Relation, Reply,
    SortOrder, SortTarget, TxnOperation, TxnReply,
};
use engine::key::{End, KeyRange};
use engine::read::Listed;
use grpc::mapping::list::{list_chunk, list_end, list_head, list_piece, listed_len};
use grpc::mapping::reply::{RangeEnd, encode_range_chunk};
use grpc::mapping::watch::WatchCreate;
use grpc::mapping::{
    AlarmOperation, Header, RequestLimits, WatchAnswer, WatchAnswers, WatchRequest, encode_event,
    encode_reply, operation,
};
use grpc::proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, CompactionRequest, CompactionResponse, Compare,
    DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest, LeaseGrantResponse, PutRequest,
    PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, RequestOp, ResponseHeader,
    ResponseOp, TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest as WatchMessage,
    WatchResponse, compare, request_op, response_op, watch_request,
};
use grpc::proto::mvccpb;
use grpc::status::{
    DUPLICATE_KEY, EMPTY_KEY, INVALID_SORT_OPTION, KEY_NOT_FOUND, LEASE_PROVIDED,
    LEASE_TTL_TOO_LARGE, RANGE_STREAM_FILTERS, RANGE_STREAM_SORT, REQUEST_TOO_LARGE, TOO_MANY_OPS,
    VALUE_PROVIDED,
};
use grpc::{Code, Method, Status};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;

// ---- answers ----

fn bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        Just(Bytes::new()),
        vec(any::<u8>(), 1..20).prop_map(Bytes::from),
        (100usize..300).prop_map(|len| Bytes::from(vec![1; len])),
    ]
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![Just(0), 1i64..300, any::<i64>()]
}

prop_compose! {
    fn key_value()(
        key in bytes(),
        value in bytes(),
        create_revision in number(),
        mod_revision in number(),
        version in number(),
        lease in number().prop_map(LeaseId),
    ) -> KeyValue {
        KeyValue { key, value, create_revision, mod_revision, version, lease }
    }
}

prop_compose! {
    fn header()(
        cluster_id in any::<u64>(),
        member_id in any::<u64>(),
        // Around the places where the length of a revision changes.
        revision in prop_oneof![2i64..10, 126i64..131, 16_382i64..16_388, 1i64..i64::MAX],
        raft_term in any::<u64>(),
    ) -> Header {
        Header { cluster_id, member_id, revision, raft_term }
    }
}

fn operation_reply() -> impl Strategy<Value = Reply> {
    let leaf = prop_oneof![
        prop::option::of(key_value()).prop_map(|prev_kv| Reply::Put { prev_kv }),
        (prop_oneof![Just(0), 1i64..9], vec(key_value(), 0..3))
            .prop_map(|(deleted, prev_kvs)| Reply::DeleteRange { deleted, prev_kvs }),
        (vec(key_value(), 0..4), any::<bool>(), number())
            .prop_map(|(kvs, more, count)| Reply::Range(RangeReply { kvs, more, count })),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        (any::<bool>(), vec(inner, 0..6)).prop_map(|(succeeded, responses)| {
            Reply::Txn(TxnReply {
                succeeded,
                responses,
            })
        })
    })
}

fn header_message(header: &Header) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        cluster_id: header.cluster_id,
        member_id: header.member_id,
        revision: header.revision,
        raft_term: header.raft_term,
    })
}

fn key_value_message(kv: &KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key.clone(),
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        value: kv.value.clone(),
        lease: kv.lease.0,
    }
}

fn key_value_messages(kvs: &[KeyValue]) -> Vec<mvccpb::KeyValue> {
    kvs.iter().map(key_value_message).collect()
}

/// How etcd fills the headers inside a transaction, step by step.
struct Execution {
    begin: i64,
    changed: bool,
}

impl Execution {
    fn revision(&self) -> i64 {
        self.begin + i64::from(self.changed)
    }

    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            revision: self.revision(),
            ..Default::default()
        })
    }

    fn run(&mut self, reply: &Reply) -> ResponseOp {
        let response = match reply {
            Reply::Put { prev_kv } => {
                self.changed = true;
                response_op::Response::ResponsePut(PutResponse {
                    header: self.header(),
                    prev_kv: prev_kv.as_ref().map(key_value_message),
                })
            }
            Reply::DeleteRange { deleted, prev_kvs } => {
                self.changed |= *deleted > 0;
                response_op::Response::ResponseDeleteRange(DeleteRangeResponse {
                    header: self.header(),
                    deleted: *deleted,
                    prev_kvs: key_value_messages(prev_kvs),
                })
            }
            Reply::Range(range) => response_op::Response::ResponseRange(RangeResponse {
                header: self.header(),
                kvs: key_value_messages(&range.kvs),
                more: range.more,
                count: range.count,
            }),
            Reply::Txn(txn) => response_op::Response::ResponseTxn(TxnResponse {
                header: Some(ResponseHeader::default()),
                succeeded: txn.succeeded,
                responses: txn.responses.iter().map(|reply| self.run(reply)).collect(),
            }),
            other => panic!("{other:?} inside a transaction"),
        };
        ResponseOp {
            response: Some(response),
        }
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

/// The answer as prost writes it.
fn expected(header: &Header, reply: &Reply) -> Vec<u8> {
    let header_message = header_message(header);
    match reply {
        Reply::Put { prev_kv } => PutResponse {
            header: header_message,
            prev_kv: prev_kv.as_ref().map(key_value_message),
        }
        .encode_to_vec(),
        Reply::DeleteRange { deleted, prev_kvs } => DeleteRangeResponse {
            header: header_message,
            deleted: *deleted,
            prev_kvs: key_value_messages(prev_kvs),
        }
        .encode_to_vec(),
        Reply::Range(range) => RangeResponse {
            header: header_message,
            kvs: key_value_messages(&range.kvs),
            more: range.more,
            count: range.count,
        }
        .encode_to_vec(),
        Reply::Txn(txn) => {
            let begin = header.revision - i64::from(changes(reply));
            let mut execution = Execution {
                begin,
                changed: false,
            };
            TxnResponse {
                header: header_message,
                succeeded: txn.succeeded,
                responses: txn
                    .responses
                    .iter()
                    .map(|reply| execution.run(reply))
                    .collect(),
            }
            .encode_to_vec()
        }
        Reply::LeaseGrant { id, ttl } => LeaseGrantResponse {
            header: header_message,
            id: id.0,
            ttl: *ttl,
            error: String::new(),
        }
        .encode_to_vec(),
        Reply::Alarm { alarms } => AlarmResponse {
            header: header_message,
            alarms: alarms
                .iter()
                .map(|&(member_id, kind)| AlarmMember {
                    member_id,
                    alarm: kind as i32,
                })
                .collect(),
        }
        .encode_to_vec(),
        Reply::Compact | Reply::LeaseRevoke | Reply::Done => CompactionResponse {
            header: header_message,
        }
        .encode_to_vec(),
    }
}

/// `RINGD_TEST_BUDGET` times as many cases as usual.
fn cases(usual: u32) -> ProptestConfig {
    let budget = std::env::var("RINGD_TEST_BUDGET")
        .ok()
        .and_then(|text| text.parse().ok());
    ProptestConfig::with_cases(usual.saturating_mul(budget.unwrap_or(1)))
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn answers_are_what_prost_would_write(header in header(), reply in operation_reply()) {
        prop_assert_eq!(encode_reply(&header, &reply), expected(&header, &reply));
    }

    #[test]
    fn watch_answers_are_what_prost_would_write(
        header in header(),
        watch_id in number(),
        flags in any::<[bool; 3]>(),
        compact_revision in number(),
        cancel_reason in prop_oneof![Just(String::new()), "[a-z ]{1,200}"],
        events in vec((any::<bool>(), key_value(), prop::option::of(key_value())), 0..4),
    ) {
        let [created, canceled, fragment] = flags;
        let encoded: Vec<Bytes> = events
            .iter()
            .map(|(tombstone, kv, prev_kv)| encode_event(*tombstone, kv, prev_kv.as_ref()))
            .collect();
        let answer = WatchAnswer {
            header,
            watch_id,
            created,
            canceled,
            compact_revision,
            cancel_reason: &cancel_reason,
            fragment,
            events: &encoded,
        };
        let message = WatchResponse {
            header: header_message(&header),
            watch_id,
            created,
            canceled,
            compact_revision,
            cancel_reason: cancel_reason.clone(),
            fragment,
            events: events
                .iter()
                .map(|(tombstone, kv, prev_kv)| mvccpb::Event {
                    r#type: i32::from(*tombstone),
                    kv: Some(key_value_message(kv)),
                    prev_kv: prev_kv.as_ref().map(key_value_message),
                })
                .collect(),
        };
        prop_assert_eq!(answer.encode(), message.encode_to_vec());
    }

    #[test]
    fn answers_that_leave_together_are_the_answers_one_by_one(
        answers in vec((header(), vec(number(), 1..6), vec(bytes(), 0..3), any::<bool>()), 1..6),
        room in prop_oneof![Just(0usize), 0usize..2000],
        take_after in 0usize..20,
    ) {
        let mut together = WatchAnswers::default();
        let (mut out, mut expected, mut count) = (Vec::new(), Vec::new(), 0);
        for (header, ids, values, canceled) in answers {
            let events: Vec<Bytes> = values
                .into_iter()
                .map(|value| encode_event(false, &KeyValue { value, ..KeyValue::default() }, None))
                .collect();
            let answer = |watch_id| WatchAnswer {
                header,
                watch_id,
                canceled,
                events: &events,
                ..WatchAnswer::default()
            };
            for (at, watch_id) in ids.iter().enumerate() {
                let message = answer(*watch_id).encode();
                expected.push(0);
                expected.extend((message.len() as u32).to_be_bytes());
                expected.extend(&message);
                // What was taken cannot be repeated.
                if at == 0 || count == take_after + 1 {
                    together.push(&answer(*watch_id)).unwrap();
                    together.reserve_repeats(ids.len() - 1, room);
                } else {
                    together.repeat(*watch_id).unwrap();
                }
                if count == take_after {
                    out.extend(together.take().into_bytes());
                    prop_assert_eq!(together.byte_count(), 0);
                }
                count += 1;
            }
        }
        out.extend(together.take().into_bytes());
        prop_assert_eq!(out, expected);
    }

    #[test]
    fn range_chunks_are_what_prost_would_write(
        kvs in vec(key_value(), 0..4),
        last in prop::option::of((header(), any::<bool>(), number())),
    ) {
        let last = last.map(|(header, more, count)| RangeEnd { header, more, count });
        let range_response = RangeResponse {
            header: last.as_ref().and_then(|end| header_message(&end.header)),
            kvs: key_value_messages(&kvs),
            more: last.as_ref().is_some_and(|end| end.more),
            count: last.as_ref().map_or(0, |end| end.count),
        };
        let message = RangeStreamResponse { range_response: Some(range_response) };
        prop_assert_eq!(encode_range_chunk(&kvs, last), message.encode_to_vec());
    }

    #[test]
    fn lists_are_the_bytes_of_whole_answers(
        header in header(),
        kvs in vec((key_value(), 0usize..3000, any::<bool>()), 0..12),
        more in any::<bool>(),
        count in number(),
        cut in 0usize..12,
    ) {
        let kvs: Vec<KeyValue> = kvs
            .into_iter()
            .map(|(kv, len, is_long)| match is_long {
                true => KeyValue { value: Bytes::from(vec![len as u8; len]), ..kv },
                false => kv,
            })
            .collect();
        let listed = |kv: &KeyValue| Listed { kv: kv.clone(), value_bytes: kv.value.len() as u32 };
        let list: Vec<Listed> = kvs.iter().map(listed).collect();
        let (first, second) = list.split_at(cut.min(list.len()));
        let mut pieces = vec![list_head(&header)];
        pieces.extend(list_piece(first));
        pieces.extend(list_piece(second));
        pieces.push(list_end(more, count));
        let reply = Reply::Range(RangeReply { kvs: kvs.clone(), more, count });
        prop_assert_eq!(pieces.concat(), encode_reply(&header, &reply));

        // Measured before the values are there.
        let outline = list.iter().map(|listed| {
            let kv = KeyValue { value: Bytes::new(), ..listed.kv.clone() };
            listed_len(&Listed { kv, ..*listed })
        });
        let measured = list_head(&header).len() + outline.sum::<usize>() + list_end(more, count).len();
        prop_assert_eq!(measured, pieces.concat().len());

        let end = RangeEnd { header, more, count };
        let chunk = encode_range_chunk(&kvs, Some(end));
        prop_assert_eq!(list_chunk(&list, Some(&end)).concat(), chunk);
        prop_assert_eq!(list_chunk(&list, None).concat(), encode_range_chunk(&kvs, None));
    }

    #[test]
    fn no_bytes_make_a_request_panic(
        method in prop::sample::select(Method::ALL),
        message in vec(any::<u8>(), 0..200),
    ) {
        let message = Bytes::from(message);
        drop(operation(method, message.clone(), &RequestLimits::default()));
        drop(WatchRequest::decode(message.clone()));
        drop(AlarmOperation::decode(message));
    }
}

#[test]
fn other_answers_are_what_prost_would_write() {
    let header = Header {
        cluster_id: 7,
        member_id: 1 << 60,
        revision: 300,
        raft_term: 2,
    };
    for reply in [
        Reply::Compact,
        Reply::LeaseRevoke,
        Reply::Done,
        Reply::LeaseGrant {
            id: LeaseId(1 << 62),
            ttl: 60,
        },
        Reply::Alarm { alarms: vec![] },
        Reply::Alarm {
            alarms: vec![(1, AlarmKind::NoSpace), (u64::MAX, AlarmKind::Corrupt)],
        },
    ] {
        assert_eq!(
            encode_reply(&header, &reply),
            expected(&header, &reply),
            "{reply:?}"
        );
    }
    assert_eq!(header.encode(), expected(&header, &Reply::Done));
}

// ---- requests ----

fn put(key: &str) -> PutRequest {
    PutRequest {
        key: key.to_owned().into(),
        value: "v".into(),
        ..Default::default()
    }
}

fn range(key: &str) -> RangeRequest {
    RangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    }
}

fn put_op(key: &str) -> RequestOp {
    RequestOp {
        request: Some(request_op::Request::RequestPut(put(key))),
    }
}

fn range_op(key: &str) -> RequestOp {
    RequestOp {
        request: Some(request_op::Request::RequestRange(range(key))),
    }
}

fn delete_op(key: &str, range_end: &str) -> RequestOp {
    let request = DeleteRangeRequest {
        key: key.to_owned().into(),
        range_end: range_end.to_owned().into(),
        prev_kv: false,
    };
    RequestOp {
        request: Some(request_op::Request::RequestDeleteRange(request)),
    }
}

fn txn_op(txn: TxnRequest) -> RequestOp {
    RequestOp {
        request: Some(request_op::Request::RequestTxn(txn)),
    }
}

fn txn(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
    TxnRequest {
        compare: vec![],
        success,
        failure,
    }
}

fn decode(method: Method, message: &impl Message) -> Result<Operation, Status> {
    operation(
        method,
        message.encode_to_vec().into(),
        &RequestLimits::default(),
    )
}

fn check_refused(method: Method, message: &impl Message, expected: &Status) {
    assert_eq!(decode(method, message).as_ref(), Err(expected));
}

#[test]
fn puts_are_checked_in_order() {
    let check = |message: PutRequest, expected: &Status| {
        check_refused(Method::Put, &message, expected);
    };
    let all_wrong = PutRequest {
        value: "v".into(),
        lease: 1,
        ignore_value: true,
        ignore_lease: true,
        ..Default::default()
    };
    check(all_wrong.clone(), &EMPTY_KEY);
    check(
        PutRequest {
            key: "k".into(),
            ..all_wrong.clone()
        },
        &VALUE_PROVIDED,
    );
    let lease_wrong = PutRequest {
        key: "k".into(),
        value: Bytes::new(),
        ..all_wrong
    };
    check(lease_wrong.clone(), &LEASE_PROVIDED);
    let fine = PutRequest {
        lease: 0,
        ..lease_wrong
    };
    let Ok(Operation::Write(Command::Put(fine))) = decode(Method::Put, &fine) else {
        panic!("refused");
    };
    assert!(fine.ignore_value && fine.ignore_lease);
    let long = PutRequest {
        key: vec![1; 2049].into(),
        ..Default::default()
    };
    let Err(status) = decode(Method::Put, &long) else {
        panic!("accepted")
    };
    assert_eq!(status.code, Code::InvalidArgument);
    assert_eq!(
        status.message,
        "etcdserver: key is too long: 2049 bytes, at most 2048 are stored"
    );
    let longest = PutRequest {
        key: vec![1; 2048].into(),
        ..Default::default()
    };
    assert!(decode(Method::Put, &longest).is_ok());
    let large = PutRequest {
        key: "k".into(),
        value: vec![0; 1536 * 1024].into(),
        ..put("k")
    };
    check(large, &REQUEST_TOO_LARGE);
}

#[test]
fn ranges_keep_every_option() {
    let message = RangeRequest {
        key: "a".into(),
        range_end: "b".into(),
        limit: -1,
        revision: 2,
        sort_order: 2,
        sort_target: 4,
        serializable: true,
        keys_only: true,
        count_only: true,
        min_mod_revision: 3,
        max_mod_revision: 4,
        min_create_revision: 5,
        max_create_revision: 6,
    };
    let Ok(Operation::Range(range)) = decode(Method::Range, &message) else {
        panic!("refused")
    };
    assert_eq!(
        range.range,
        KeyRange {
            start: "a".into(),
            end: End::Before("b".into())
        }
    );
    assert_eq!((range.limit, range.revision), (-1, 2));
    assert_eq!(
        (range.sort_order, range.sort_target),
        (SortOrder::Descend, SortTarget::Value)
    );
    assert!(range.serializable && range.keys_only && range.count_only);
    assert_eq!((range.min_mod_revision, range.max_mod_revision), (3, 4));
    assert_eq!(
        (range.min_create_revision, range.max_create_revision),
        (5, 6)
    );
    let check = |message: RangeRequest, expected: &Status| {
        check_refused(Method::Range, &message, expected);
    };
    check(
        RangeRequest {
            sort_order: 9,
            ..Default::default()
        },
        &EMPTY_KEY,
    );
    check(
        RangeRequest {
            sort_order: 3,
            ..message.clone()
        },
        &INVALID_SORT_OPTION,
    );
    check(
        RangeRequest {
            sort_target: -1,
            ..message.clone()
        },
        &INVALID_SORT_OPTION,
    );
    let stream = |message: RangeRequest, expected: &Status| {
        check_refused(Method::RangeStream, &message, expected);
    };
    stream(message.clone(), &RANGE_STREAM_SORT);
    stream(
        RangeRequest {
            sort_order: 1,
            ..message.clone()
        },
        &RANGE_STREAM_SORT,
    );
    let unsorted = RangeRequest {
        sort_order: 0,
        sort_target: 0,
        ..message
    };
    stream(unsorted, &RANGE_STREAM_FILTERS);
    for (sort_order, sort_target) in [(0, 0), (0, 4), (1, 0)] {
        let message = RangeRequest {
            sort_order,
            sort_target,
            ..range_message("a")
        };
        let Ok(Operation::Range(range)) = decode(Method::RangeStream, &message) else {
            panic!("refused")
        };
        assert_eq!(range.sort_target, SortTarget::Key);
    }
}

fn range_message(key: &str) -> RangeRequest {
    range(key)
}

#[test]
fn long_bounds_are_cut_where_no_key_can_tell() {
    let bounds = |start: Vec<u8>, end: Vec<u8>| {
        let message = RangeRequest {
            key: start.into(),
            range_end: end.into(),
            ..Default::default()
        };
        match decode(Method::Range, &message) {
            Ok(Operation::Range(range)) => range.range,
            other => panic!("{other:?}"),
        }
    };
    let cut = [vec![5; 2048], vec![0]].concat();
    let range = bounds(vec![5; 3000], vec![7; 4000]);
    assert_eq!(range.start, cut);
    assert_eq!(
        range.end,
        End::Before([vec![7; 2048], vec![0]].concat().into())
    );
    // The pagination after a longest key stays as it is.
    assert_eq!(bounds(cut.clone(), vec![6]).start, cut);
    // A single key that is too long is equal to no stored one.
    let single = bounds(vec![5; 3000], vec![]);
    assert_eq!(
        single,
        KeyRange {
            start: cut.into(),
            end: End::Single
        }
    );
    for stored in [
        vec![5; 2048],
        vec![5; 2047],
        [vec![5; 2047], vec![6]].concat(),
    ] {
        assert_eq!(
            range.contains(&stored),
            stored > vec![5; 3000],
            "{}",
            stored.len()
        );
        assert!(!single.contains(&stored));
    }
}

#[test]
fn transactions_are_checked_level_by_level() {
    let check = |message: TxnRequest, expected: &Status| {
        check_refused(Method::Txn, &message, expected);
    };
    let puts = |count: usize| {
        (0..count)
            .map(|n| put_op(&format!("k{n}")))
            .collect::<Vec<_>>()
    };
    assert!(decode(Method::Txn, &txn(puts(128), puts(128))).is_ok());
    check(txn(puts(129), vec![]), &TOO_MANY_OPS);
    check(txn(vec![], puts(129)), &TOO_MANY_OPS);
    let compare = Compare {
        key: "k".into(),
        ..Default::default()
    };
    let compares = TxnRequest {
        compare: vec![compare.clone(); 129],
        ..Default::default()
    };
    check(compares, &TOO_MANY_OPS);
    // A nested transaction gets what its parent left.
    let nested = |outer: usize, inner: usize| {
        let mut success = puts(outer - 1);
        let inner = (0..inner).map(|n| put_op(&format!("i{n}"))).collect();
        success.push(txn_op(txn(inner, vec![])));
        txn(success, vec![])
    };
    assert!(decode(Method::Txn, &nested(100, 28)).is_ok());
    check(nested(100, 29), &TOO_MANY_OPS);
    // Counting comes before keys, compares before operations, success before failure.
    let empty_compare = TxnRequest {
        compare: vec![Compare::default()],
        success: vec![RequestOp { request: None }],
        failure: vec![],
    };
    check(empty_compare, &EMPTY_KEY);
    let empty_operation = txn(vec![RequestOp { request: None }], vec![put_op("")]);
    check(empty_operation, &KEY_NOT_FOUND);
    check(txn(vec![range_op("a")], vec![put_op("")]), &EMPTY_KEY);
    check(txn(vec![delete_op("", "z")], vec![]), &EMPTY_KEY);
    let deep = |levels: usize| {
        let mut inner = txn(vec![put_op("k")], vec![]);
        for _ in 1..levels {
            inner = txn(vec![txn_op(inner)], vec![]);
        }
        decode(Method::Txn, &inner)
    };
    assert!(deep(8).is_ok());
    let status = deep(9).unwrap_err();
    assert_eq!(status.code, Code::InvalidArgument);
    assert!(status.message.contains("nested too deeply"), "{status:?}");
    let hopeless = deep(200).unwrap_err();
    assert!(hopeless.code == Code::Internal || hopeless.code == Code::InvalidArgument);
}

#[test]
fn keys_written_twice_are_refused() {
    let ok = |message: TxnRequest| {
        assert!(decode(Method::Txn, &message).is_ok(), "{message:?}");
    };
    let refused = |message: TxnRequest| check_refused(Method::Txn, &message, &DUPLICATE_KEY);
    refused(txn(vec![put_op("a"), put_op("a")], vec![]));
    refused(txn(vec![], vec![put_op("a"), put_op("b"), put_op("a")]));
    ok(txn(vec![put_op("a")], vec![put_op("a")]));
    ok(txn(vec![delete_op("a", ""), delete_op("a", "c")], vec![]));
    for success in [
        vec![put_op("b"), delete_op("a", "c")],
        vec![delete_op("a", "c"), put_op("b")],
        vec![delete_op("b", ""), put_op("b")],
        vec![delete_op("a", "b"), delete_op("b", "c"), put_op("b")],
        vec![
            delete_op("a", "b"),
            delete_op("a", "d"),
            delete_op("c", "e"),
            put_op("d"),
        ],
    ] {
        refused(txn(success, vec![]));
    }
    for success in [
        vec![put_op("c"), delete_op("a", "c")],
        vec![put_op("ab"), delete_op("a", "")],
        vec![put_op("b"), delete_op("c", "a")],
        // etcd compares "from the key on" as the plain string "\0": never a collision.
        vec![put_op("b"), delete_op("a", "\0")],
        vec![range_op("a"), put_op("a"), range_op("a")],
    ] {
        ok(txn(success, vec![]));
    }
    // Nested ones count with their parents, whichever of their branches runs.
    let inner = |success: Vec<RequestOp>, failure: Vec<RequestOp>| txn_op(txn(success, failure));
    refused(txn(
        vec![put_op("a"), inner(vec![put_op("a")], vec![])],
        vec![],
    ));
    refused(txn(
        vec![put_op("a"), inner(vec![], vec![put_op("a")])],
        vec![],
    ));
    ok(txn(
        vec![inner(vec![put_op("a")], vec![put_op("a")])],
        vec![],
    ));
    let twice = vec![
        inner(vec![put_op("a")], vec![]),
        inner(vec![], vec![put_op("a")]),
    ];
    refused(txn(twice, vec![]));
    refused(txn(
        vec![put_op("b"), inner(vec![delete_op("a", "c")], vec![])],
        vec![],
    ));
    refused(txn(
        vec![delete_op("a", "c"), inner(vec![], vec![put_op("b")])],
        vec![],
    ));
    // Deletes of one nested transaction concern the nested ones behind it, not those before.
    let delete_first = vec![
        inner(vec![delete_op("a", "c")], vec![]),
        inner(vec![put_op("b")], vec![]),
    ];
    refused(txn(delete_first, vec![]));
    let put_first = vec![
        inner(vec![put_op("b")], vec![]),
        inner(vec![delete_op("a", "c")], vec![]),
    ];
    ok(txn(put_first, vec![]));
}

#[test]
fn transactions_without_writes_are_reads() {
    let is_read = |message: &TxnRequest| match decode(Method::Txn, message) {
        Ok(Operation::ReadTxn(_)) => true,
        Ok(Operation::Write(Command::Txn(_))) => false,
        other => panic!("{other:?}"),
    };
    assert!(is_read(&txn(vec![], vec![])));
    assert!(is_read(&txn(vec![range_op("a")], vec![range_op("b")])));
    assert!(!is_read(&txn(vec![range_op("a")], vec![put_op("b")])));
    assert!(!is_read(&txn(
        vec![txn_op(txn(vec![range_op("a")], vec![]))],
        vec![]
    )));
    // A read is not limited by the size of requests.
    let long = txn(vec![range_op(&"k".repeat(2 << 20))], vec![]);
    assert!(is_read(&long));
    let large = TxnRequest {
        success: (0..2)
            .map(|n| {
                let value = vec![0; 1 << 20].into();
                let put = PutRequest {
                    value,
                    ..put(&n.to_string())
                };
                RequestOp {
                    request: Some(request_op::Request::RequestPut(put)),
                }
            })
            .collect(),
        ..Default::default()
    };
    check_refused(Method::Txn, &large, &REQUEST_TOO_LARGE);
}

#[test]
fn compares_are_read_as_etcd_reads_them() {
    use compare::TargetUnion;

    let check = |result: i32, target: i32, given: Option<TargetUnion>, expected| {
        let compare = Compare {
            result,
            target,
            key: "k".into(),
            range_end: "\0".into(),
            target_union: given,
        };
        let message = TxnRequest {
            compare: vec![compare],
            ..Default::default()
        };
        let Ok(Operation::ReadTxn(txn)) = decode(Method::Txn, &message) else {
            panic!("refused")
        };
        let compare = txn.compare.into_iter().next().unwrap();
        assert_eq!(
            compare.range,
            KeyRange {
                start: "k".into(),
                end: End::Unbounded
            }
        );
        assert_eq!((compare.relation, compare.target), expected);
    };
    check(
        0,
        0,
        Some(TargetUnion::Version(4)),
        (Relation::Equal, CompareTarget::Version(4)),
    );
    check(
        1,
        1,
        Some(TargetUnion::CreateRevision(5)),
        (Relation::Greater, CompareTarget::Create(5)),
    );
    check(
        2,
        2,
        Some(TargetUnion::ModRevision(0)),
        (Relation::Less, CompareTarget::Mod(0)),
    );
    let value = TargetUnion::Value("v".into());
    check(
        3,
        3,
        Some(value),
        (Relation::NotEqual, CompareTarget::Value("v".into())),
    );
    check(
        0,
        4,
        Some(TargetUnion::Lease(-6)),
        (Relation::Equal, CompareTarget::Lease(-6)),
    );
    // Absent, or of another target: zero.
    check(0, 2, None, (Relation::Equal, CompareTarget::Mod(0)));
    check(
        0,
        3,
        None,
        (Relation::Equal, CompareTarget::Value(Bytes::new())),
    );
    check(
        0,
        2,
        Some(TargetUnion::Version(9)),
        (Relation::Equal, CompareTarget::Mod(0)),
    );
    for (result, target) in [(9, 0), (0, 9)] {
        let compare = Compare {
            result,
            target,
            key: "k".into(),
            ..Default::default()
        };
        let message = TxnRequest {
            compare: vec![compare],
            ..Default::default()
        };
        assert_eq!(
            decode(Method::Txn, &message).unwrap_err().code,
            Code::InvalidArgument
        );
    }
}

#[test]
fn a_transaction_keeps_its_shape() {
    let message = txn(
        vec![
            put_op("a"),
            range_op("a"),
            txn_op(txn(vec![], vec![delete_op("b", "")])),
        ],
        vec![range_op("c")],
    );
    let Ok(Operation::Write(Command::Txn(txn))) = decode(Method::Txn, &message) else {
        panic!("refused");
    };
    let [
        TxnOperation::Put(put),
        TxnOperation::Range(range),
        TxnOperation::Txn(inner),
    ] = txn.success.as_slice()
    else {
        panic!("{:?}", txn.success);
    };
    assert_eq!(
        (put.key.as_ref(), range.range.start.as_ref()),
        (&b"a"[..], &b"a"[..])
    );
    assert!(matches!(
        inner.failure.as_slice(),
        [TxnOperation::DeleteRange(_)]
    ));
    assert!(matches!(txn.failure.as_slice(), [TxnOperation::Range(_)]));
}

#[test]
fn leases_and_compactions() {
    let grant = |id, ttl| decode(Method::LeaseGrant, &LeaseGrantRequest { id, ttl });
    let expected = Command::LeaseGrant {
        id: LeaseId(5),
        ttl: -3,
    };
    assert_eq!(grant(5, -3), Ok(Operation::Write(expected)));
    assert!(grant(0, 9_000_000_000).is_ok());
    assert_eq!(grant(-1, 9_000_000_001), Err(LEASE_TTL_TOO_LARGE));
    assert_eq!(
        grant(-1, 1).unwrap_err().message,
        "etcdserver: lease id -1 is negative"
    );
    let compact = CompactionRequest {
        revision: 7,
        physical: true,
    };
    assert_eq!(
        decode(Method::Compact, &compact),
        Ok(Operation::Write(Command::Compact { revision: 7 }))
    );
    assert_eq!(
        decode(Method::Status, &compact).unwrap_err().code,
        Code::Unimplemented
    );
}

#[test]
fn alarms_are_listed_or_changed() {
    let decode = |action, alarm| {
        let message = AlarmRequest {
            action,
            member_id: 9,
            alarm,
        };
        AlarmOperation::decode(message.encode_to_vec().into())
    };
    assert_eq!(decode(0, 0), Ok(AlarmOperation::List { alarm: None }));
    assert_eq!(
        decode(0, 1),
        Ok(AlarmOperation::List {
            alarm: Some(AlarmKind::NoSpace)
        })
    );
    let change = |activate, alarm| {
        Ok(AlarmOperation::Change(Command::Alarm {
            activate,
            member: 9,
            alarm,
        }))
    };
    assert_eq!(decode(1, 2), change(true, Some(AlarmKind::Corrupt)));
    assert_eq!(decode(2, 1), change(false, Some(AlarmKind::NoSpace)));
    for (action, alarm) in [(0, 3), (2, 0), (2, 3)] {
        assert_eq!(decode(action, alarm), Ok(AlarmOperation::Nothing));
    }
    for (action, alarm) in [(1, 0), (1, 3), (3, 1)] {
        assert_eq!(
            decode(action, alarm).unwrap_err().code,
            Code::InvalidArgument
        );
    }
}

#[test]
fn watch_requests_are_read() {
    use watch_request::RequestUnion;

    let decode = |union: Option<RequestUnion>| {
        WatchRequest::decode(
            WatchMessage {
                request_union: union,
            }
            .encode_to_vec()
            .into(),
        )
        .unwrap()
    };
    assert_eq!(decode(None), WatchRequest::Empty);
    assert_eq!(
        decode(Some(RequestUnion::CancelRequest(Default::default()))),
        WatchRequest::Cancel { watch_id: 0 }
    );
    assert_eq!(
        decode(Some(RequestUnion::ProgressRequest(Default::default()))),
        WatchRequest::Progress
    );
    let create = WatchCreateRequest {
        key: Bytes::new(),
        range_end: "\0".into(),
        start_revision: -4,
        progress_notify: true,
        filters: vec![1, 1, 77],
        prev_kv: true,
        watch_id: 6,
        fragment: true,
    };
    assert_eq!(
        decode(Some(RequestUnion::CreateRequest(create))),
        WatchRequest::Create(WatchCreate {
            range: KeyRange {
                start: "\0".into(),
                end: End::Unbounded
            },
            start_revision: -4,
            progress_notify: true,
            no_put: false,
            no_delete: true,
            prev_kv: true,
            watch_id: 6,
            fragment: true,
        })
    );
}

#[test]
fn garbage_is_an_internal_error() {
    let status = operation(
        Method::Put,
        Bytes::from_static(&[0xff; 20]),
        &RequestLimits::default(),
    )
    .unwrap_err();
    assert_eq!(status.code, Code::Internal);
    assert!(
        status
            .message
            .starts_with("grpc: error unmarshalling request: "),
        "{status:?}"
    );
}

#[test]
fn requests_share_the_buffer_they_came_in() {
    let message: Bytes = put("some key").encode_to_vec().into();
    let operation = operation(Method::Put, message.clone(), &RequestLimits::default());
    let Ok(Operation::Write(Command::Put(put))) = operation else {
        panic!("refused")
    };
    let place = put.key.as_ptr() as usize;
    let buffer = message.as_ptr() as usize;
    assert!((buffer..buffer + message.len()).contains(&place));
}
