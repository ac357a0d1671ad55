//! Protobuf messages as Go's JSON.

use grpc::proto::authpb::Permission;
use grpc::proto::etcdserverpb::response_op::Response;
use grpc::proto::etcdserverpb::{
    AlarmMember, DeleteRangeResponse, DowngradeInfo, Member, PutResponse, RangeResponse,
    ResponseHeader, ResponseOp, StatusResponse, TxnResponse,
};
use grpc::proto::mvccpb::{Event, KeyValue};

use crate::go::json::{Object, array, base64, string};

/// An answer's header, if there is one, as its first field.
pub(crate) fn with_header(header: Option<&ResponseHeader>) -> Object {
    Object::new().option("header", header.map(|header| flat(Some(header)).end()))
}

/// The fields of a header without an object around them.
pub(crate) fn flat(header: Option<&ResponseHeader>) -> Object {
    let header = header.copied().unwrap_or_default();
    Object::new()
        .nonzero("cluster_id", header.cluster_id)
        .nonzero("member_id", header.member_id)
        .nonzero("revision", header.revision)
        .nonzero("raft_term", header.raft_term)
}

/// A header with its ids in hexadecimal.
pub(crate) fn hex_header(header: Option<&ResponseHeader>) -> String {
    let Some(header) = header else {
        return "null".to_owned();
    };
    Object::new()
        .string("cluster_id", &format!("{:x}", header.cluster_id))
        .string("member_id", &format!("{:x}", header.member_id))
        .nonzero("revision", header.revision)
        .nonzero("raft_term", header.raft_term)
        .end()
}

/// A key with its value.
pub(crate) fn key_value(kv: &KeyValue) -> String {
    Object::new()
        .bytes("key", &kv.key)
        .nonzero("create_revision", kv.create_revision)
        .nonzero("mod_revision", kv.mod_revision)
        .nonzero("version", kv.version)
        .bytes("value", &kv.value)
        .nonzero("lease", kv.lease)
        .end()
}

/// An event.
pub(crate) fn event(event: &Event) -> String {
    Object::new()
        .nonzero("type", event.r#type)
        .option("kv", event.kv.as_ref().map(key_value))
        .option("prev_kv", event.prev_kv.as_ref().map(key_value))
        .end()
}

/// What a range read has found.
pub(crate) fn range(answer: &RangeResponse) -> String {
    with_header(answer.header.as_ref())
        .list("kvs", &answer.kvs, key_value)
        .flag("more", answer.more)
        .nonzero("count", answer.count)
        .end()
}

/// What a put has done.
pub(crate) fn put(answer: &PutResponse) -> String {
    with_header(answer.header.as_ref())
        .option("prev_kv", answer.prev_kv.as_ref().map(key_value))
        .end()
}

/// What a deletion has done.
pub(crate) fn delete(answer: &DeleteRangeResponse) -> String {
    with_header(answer.header.as_ref())
        .nonzero("deleted", answer.deleted)
        .list("prev_kvs", &answer.prev_kvs, key_value)
        .end()
}

/// What a transaction has done.
pub(crate) fn transaction(answer: &TxnResponse) -> String {
    with_header(answer.header.as_ref())
        .flag("succeeded", answer.succeeded)
        .list("responses", &answer.responses, operation)
        .end()
}

fn operation(answer: &ResponseOp) -> String {
    let inner = match &answer.response {
        Some(Response::ResponseRange(answer)) => {
            Object::new().raw("response_range", &range(answer))
        }
        Some(Response::ResponsePut(answer)) => Object::new().raw("response_put", &put(answer)),
        Some(Response::ResponseDeleteRange(answer)) => {
            Object::new().raw("response_delete_range", &delete(answer))
        }
        Some(Response::ResponseTxn(answer)) => {
            Object::new().raw("response_txn", &transaction(answer))
        }
        None => Object::new(),
    };
    Object::new().raw("Response", &inner.end()).end()
}

/// A member.
pub(crate) fn member(member: &Member) -> String {
    let id = Object::new().nonzero("ID", member.id);
    member_behind(id, member)
}

/// A member with its id in hexadecimal.
pub(crate) fn hex_member(member: &Member) -> String {
    let id = Object::new().string("ID", &format!("{:x}", member.id));
    member_behind(id, member)
}

fn member_behind(id: Object, member: &Member) -> String {
    let text = |text: &String| string(text);
    id.nonempty("name", &member.name)
        .list("peerURLs", &member.peer_ur_ls, text)
        .list("clientURLs", &member.client_ur_ls, text)
        .flag("isLearner", member.is_learner)
        .end()
}

/// An alarm.
pub(crate) fn alarm(alarm: &AlarmMember) -> String {
    Object::new()
        .nonzero("memberID", alarm.member_id)
        .nonzero("alarm", alarm.alarm)
        .end()
}

/// The state of a member.
pub(crate) fn status(status: &StatusResponse) -> String {
    let downgrade = |info: &DowngradeInfo| {
        Object::new()
            .flag("enabled", info.enabled)
            .nonempty("targetVersion", &info.target_version)
            .end()
    };
    with_header(status.header.as_ref())
        .nonempty("version", &status.version)
        .nonzero("dbSize", status.db_size)
        .nonzero("leader", status.leader)
        .nonzero("raftIndex", status.raft_index)
        .nonzero("raftTerm", status.raft_term)
        .nonzero("raftAppliedIndex", status.raft_applied_index)
        .list("errors", &status.errors, |error| string(error))
        .nonzero("dbSizeInUse", status.db_size_in_use)
        .flag("isLearner", status.is_learner)
        .nonempty("storageVersion", &status.storage_version)
        .nonzero("dbSizeQuota", status.db_size_quota)
        .option(
            "downgradeInfo",
            status.downgrade_info.as_ref().map(downgrade),
        )
        .end()
}

/// What a role may do.
pub(crate) fn permission(permission: &Permission) -> String {
    Object::new()
        .nonzero("permType", permission.perm_type)
        .bytes("key", &permission.key)
        .bytes("range_end", &permission.range_end)
        .end()
}

/// Byte strings, `null` for none.
pub(crate) fn byte_strings<B: AsRef<[u8]>>(items: &[B]) -> String {
    if items.is_empty() {
        "null".to_owned()
    } else {
        array(items, |bytes| base64(bytes.as_ref()))
    }
}
