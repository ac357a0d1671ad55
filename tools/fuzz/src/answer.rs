//! Answers written by hand against prost.
//!
//! Whatever the engine replies, prost must be able to read the answer, and write the same bytes.

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use engine::command::{AlarmKind, KeyValue, LeaseId, RangeReply, Reply, TxnReply};
use grpc::mapping::reply::{RangeEnd, encode_range_chunk};
use grpc::mapping::{Header, WatchAnswer, encode_event, encode_reply};
use grpc::proto::etcdserverpb::{
    AlarmResponse, DeleteRangeResponse, LeaseGrantResponse, PutResponse, RangeResponse,
    RangeStreamResponse, TxnResponse, WatchResponse,
};
use prost::Message;

/// Deepest nesting of transactions that the edge lets pass.
const DEPTH_MAX: usize = 8;

#[derive(Arbitrary, Debug)]
struct RawHeader {
    cluster_id: u64,
    member_id: u64,
    revision: u32,
    raft_term: u64,
}

#[derive(Arbitrary, Debug)]
struct RawKeyValue {
    key: Vec<u8>,
    value: Vec<u8>,
    create_revision: i64,
    mod_revision: i64,
    version: i64,
    lease: i64,
}

#[derive(Arbitrary, Debug)]
enum RawReply {
    Put(Option<RawKeyValue>),
    DeleteRange(u8, Vec<RawKeyValue>),
    Range(Vec<RawKeyValue>, bool, i64),
    Txn(bool, Vec<RawReply>),
    LeaseGrant(i64, i64),
    Alarm(Vec<(u64, bool)>),
}

#[derive(Arbitrary, Debug)]
struct RawWatch {
    watch_id: i64,
    flags: [bool; 3],
    compact_revision: i64,
    cancel_reason: String,
    events: Vec<(bool, RawKeyValue, Option<RawKeyValue>)>,
}

#[derive(Arbitrary, Debug)]
enum Raw {
    Reply(RawHeader, RawReply),
    Chunk(Vec<RawKeyValue>, Option<(RawHeader, bool, i64)>),
    Watch(RawHeader, RawWatch),
}

/// Encodes the answer that `data` describes and reads it back.
pub fn check(data: &[u8]) {
    match Raw::arbitrary(&mut Unstructured::new(data)) {
        Ok(Raw::Reply(raw, reply)) => {
            if let Some(reply) = self::reply(reply, DEPTH_MAX, true) {
                check_reply(&encode_reply(&header(&raw), &reply), &reply);
            }
        }
        Ok(Raw::Chunk(kvs, end)) => {
            let end = end.map(|(raw, more, count)| RangeEnd {
                header: header(&raw),
                more,
                count,
            });
            same::<RangeStreamResponse>(&encode_range_chunk(&key_values(kvs), end));
        }
        Ok(Raw::Watch(raw, watch)) => check_watch(header(&raw), watch),
        Err(_) => {}
    }
}

/// Prost reads `answer` and writes the same bytes.
fn same<M: Message + Default>(answer: &Bytes) -> M {
    let message = M::decode(answer.clone()).expect("an answer that can be read");
    assert_eq!(message.encode_to_vec(), answer.as_ref());
    message
}

fn check_reply(answer: &Bytes, reply: &Reply) {
    match reply {
        Reply::Put { .. } => drop(same::<PutResponse>(answer)),
        Reply::DeleteRange { deleted, .. } => {
            assert_eq!(same::<DeleteRangeResponse>(answer).deleted, *deleted);
        }
        Reply::Range(range) => {
            assert_eq!(same::<RangeResponse>(answer).kvs.len(), range.kvs.len());
        }
        Reply::Txn(txn) => {
            let responses = same::<TxnResponse>(answer).responses;
            assert_eq!(responses.len(), txn.responses.len());
        }
        Reply::LeaseGrant { .. } => drop(same::<LeaseGrantResponse>(answer)),
        Reply::Alarm { .. } => drop(same::<AlarmResponse>(answer)),
        Reply::Compact | Reply::LeaseRevoke | Reply::Done => {}
    }
}

fn check_watch(header: Header, raw: RawWatch) {
    let events: Vec<Bytes> = raw
        .events
        .into_iter()
        .map(|(tombstone, kv, prev)| {
            let prev = prev.map(key_value);
            encode_event(tombstone, &key_value(kv), prev.as_ref())
        })
        .collect();
    let answer = WatchAnswer {
        header,
        watch_id: raw.watch_id,
        created: raw.flags[0],
        canceled: raw.flags[1],
        compact_revision: raw.compact_revision,
        cancel_reason: &raw.cancel_reason,
        fragment: raw.flags[2],
        events: &events,
    };
    let encoded = answer.encode();
    assert_eq!(encoded.len(), answer.encoded_len());
    assert_eq!(same::<WatchResponse>(&encoded).events.len(), events.len());
}

/// An answer's revision is at least 1, and 2 behind a change.
fn header(raw: &RawHeader) -> Header {
    Header {
        cluster_id: raw.cluster_id,
        member_id: raw.member_id,
        revision: i64::from(raw.revision) + 2,
        raft_term: raw.raft_term,
    }
}

fn key_value(raw: RawKeyValue) -> KeyValue {
    KeyValue {
        key: Bytes::from(raw.key),
        value: Bytes::from(raw.value),
        create_revision: raw.create_revision,
        mod_revision: raw.mod_revision,
        version: raw.version,
        lease: LeaseId(raw.lease),
    }
}

fn key_values(raw: Vec<RawKeyValue>) -> Vec<KeyValue> {
    raw.into_iter().map(key_value).collect()
}

/// `None` for what cannot be: too deep, or an answer that never stands in a transaction.
fn reply(raw: RawReply, levels_left: usize, outermost: bool) -> Option<Reply> {
    Some(match raw {
        RawReply::Put(prev) => Reply::Put {
            prev_kv: prev.map(key_value),
        },
        RawReply::DeleteRange(deleted, prev) => Reply::DeleteRange {
            deleted: i64::from(deleted),
            prev_kvs: key_values(prev),
        },
        RawReply::Range(kvs, more, count) => Reply::Range(RangeReply {
            kvs: key_values(kvs),
            more,
            count,
        }),
        RawReply::Txn(succeeded, inner) if levels_left > 0 => Reply::Txn(TxnReply {
            succeeded,
            responses: inner
                .into_iter()
                .map(|raw| reply(raw, levels_left - 1, false))
                .collect::<Option<_>>()?,
        }),
        RawReply::LeaseGrant(id, ttl) if outermost => Reply::LeaseGrant {
            id: LeaseId(id),
            ttl,
        },
        RawReply::Alarm(alarms) if outermost => Reply::Alarm {
            alarms: alarms
                .into_iter()
                .map(|(member, corrupt)| {
                    let kind = match corrupt {
                        true => AlarmKind::Corrupt,
                        false => AlarmKind::NoSpace,
                    };
                    (member, kind)
                })
                .collect(),
        },
        RawReply::Txn(..) | RawReply::LeaseGrant(..) | RawReply::Alarm(..) => return None,
    })
}

/// Patterns that lead to each kind of answer.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for choice in 0..12u8 {
        let mut seed = vec![choice.wrapping_mul(22); 40];
        for (position, byte) in seed.iter_mut().enumerate().skip(4) {
            *byte = byte.wrapping_mul(7).wrapping_add(position as u8 * 3);
        }
        seed.extend_from_slice(&[1; 120]);
        seeds.push(seed);
    }
    seeds
}
