//! Candidates under one name, which Lock and Election have in common.
//!
//! A candidate is the key `NAME/LEASE` (the lease in hexadecimal) bound to its lease. The oldest key under
//! `NAME/` holds the name; everybody else waits for the key that was created right before its own to go. So an
//! end wakes one candidate, and the order is that of the creations. As in etcd, all of this is ordinary requests of a
//! client: whatever takes keys away hands the name over.

use std::rc::Rc;

use bytes::Bytes;
use engine::command::{LeaseId, Reply, TxnReply};
use engine::key::KeyRange;
use engine::watch::{EventList, Output, WatchSpec};
use grpc::mapping::{Header, operation};
use grpc::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use grpc::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use grpc::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op,
};
use grpc::{CallContext, Code, Method, Status};
use prost::Message;
use reactor::Class;

use super::{EtcdService, data_loss, wire_header};
use crate::node::{Answer, WatchStream};

/// Time to live of the lease that a caller without one gets, seconds.
const SESSION_TTL: i64 = 60;
/// Most bytes of events that are taken from a watch at once, where a revision is not larger.
const CHANGES_BYTES: usize = 64 * 1024;

/// A key in the queue under a name.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// All candidates' keys begin with this.
    pub(super) prefix: Bytes,
    pub(super) key: Bytes,
    pub(super) lease: LeaseId,
    /// The create revision of the key, which is its place in the queue.
    pub(super) created: i64,
}

/// What a watch has shown, with the revision that it was shown at.
pub(super) struct Changes {
    pub(super) events: EventList,
    pub(super) revision: i64,
}

/// How a candidate came in.
pub(super) struct Entered {
    pub(super) candidate: Candidate,
    /// Of the answer that told its place.
    pub(super) header: Header,
    /// Nobody was there before.
    pub(super) is_first: bool,
    /// The value that the key had, if it was there already.
    pub(super) found: Option<Bytes>,
}

/// The prefix of the keys under `name`.
pub(super) fn prefix(name: &[u8]) -> Bytes {
    Bytes::from([name, b"/"].concat())
}

/// The first key behind all that begin with `prefix`, which ends in a slash.
pub(super) fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    Bytes::from(end)
}

/// Asks for the oldest key under `prefix`.
pub(super) fn oldest(prefix: &Bytes) -> RangeRequest {
    RangeRequest {
        key: prefix.clone(),
        range_end: prefix_end(prefix),
        limit: 1,
        sort_order: SortOrder::Ascend as i32,
        sort_target: SortTarget::Create as i32,
        ..RangeRequest::default()
    }
}

/// A key of the form that Go prints: a negative lease has its sign before the digits.
fn candidate_key(prefix: &[u8], lease: LeaseId) -> Bytes {
    let sign = if lease.0 < 0 { "-" } else { "" };
    let suffix = format!("{sign}{:x}", lease.0.unsigned_abs());
    Bytes::from([prefix, suffix.as_bytes()].concat())
}

/// A guard: the key was created at this revision, 0 if it is not there.
pub(super) fn created_at(key: &Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Create as i32,
        key: key.clone(),
        range_end: Bytes::new(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
    }
}

fn step(request: request_op::Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

/// A put as a step of a transaction.
pub(super) fn put_step(key: &Bytes, value: Bytes, lease: LeaseId) -> RequestOp {
    step(request_op::Request::RequestPut(PutRequest {
        key: key.clone(),
        value,
        lease: lease.0,
        ..PutRequest::default()
    }))
}

/// A deletion of one key as a step of a transaction.
pub(super) fn delete_step(key: &Bytes) -> RequestOp {
    step(request_op::Request::RequestDeleteRange(
        DeleteRangeRequest {
            key: key.clone(),
            ..DeleteRangeRequest::default()
        },
    ))
}

fn range_step(range: RangeRequest) -> RequestOp {
    step(request_op::Request::RequestRange(range))
}

/// An error of these services: their callers see code Unknown and the text, because etcd serves them as a client
/// of its own.
pub(super) fn contest_error(text: &'static str) -> Status {
    Status::fixed(Code::Unknown, text)
}

impl EtcdService {
    /// The lease of a caller: its own, or a new one if it named none.
    pub(super) async fn session(
        &self,
        context: &CallContext,
        lease: i64,
    ) -> Result<LeaseId, Status> {
        if lease != 0 {
            return Ok(LeaseId(lease));
        }
        let granted = self.grant(context, LeaseId::NONE, SESSION_TTL).await?;
        match granted.reply {
            Reply::LeaseGrant { id, .. } => Ok(id),
            _ => unreachable!("a grant answers a grant"),
        }
    }

    /// Sends a request of the KV service as a client would, with all its checks.
    pub(super) async fn ask(
        &self,
        context: &CallContext,
        method: Method,
        request: &impl Message,
    ) -> Result<Answer, Status> {
        let message = Bytes::from(request.encode_to_vec());
        let answered = match operation(method, message, &self.limits) {
            Ok(asked) => self.execute(context, asked).await,
            Err(refused) => Err(refused),
        };
        // What etcd tells itself as a client loses its code.
        answered.map_err(|status| match status.code {
            Code::Unavailable | Code::DataLoss => status,
            _ => Status::new(Code::Unknown, status.message),
        })
    }

    /// A transaction of these services.
    pub(super) async fn ask_txn(
        &self,
        context: &CallContext,
        txn: TxnRequest,
    ) -> Result<(Header, TxnReply), Status> {
        let answer = self.ask(context, Method::Txn, &txn).await?;
        match answer.reply {
            Reply::Txn(reply) => Ok((wire_header(answer.header), reply)),
            _ => unreachable!("a transaction answers a transaction"),
        }
    }

    /// Joins the queue under `name`, or finds the place that the lease has there.
    pub(super) async fn enter(
        &self,
        context: &CallContext,
        name: &[u8],
        lease: LeaseId,
        value: Bytes,
    ) -> Result<Entered, Status> {
        let prefix = prefix(name);
        let key = candidate_key(&prefix, lease);
        let own = RangeRequest {
            key: key.clone(),
            ..RangeRequest::default()
        };
        let txn = TxnRequest {
            compare: vec![created_at(&key, 0)],
            success: vec![put_step(&key, value, lease), range_step(oldest(&prefix))],
            failure: vec![range_step(own), range_step(oldest(&prefix))],
        };
        let (header, reply) = self.ask_txn(context, txn).await?;
        let first_of = |reply: Option<&Reply>| match reply {
            Some(Reply::Range(range)) => range.kvs.first().cloned(),
            _ => None,
        };
        let own = match reply.succeeded {
            true => None,
            false => first_of(reply.responses.first()),
        };
        let created = own
            .as_ref()
            .map_or(header.revision, |kv| kv.create_revision);
        let owner = first_of(reply.responses.get(1));
        Ok(Entered {
            candidate: Candidate {
                prefix,
                key,
                lease,
                created,
            },
            header,
            is_first: owner.is_none_or(|owner| owner.create_revision == created),
            found: own.map(|kv| kv.value),
        })
    }

    /// Waits until every key that was under the prefix before the candidate's is gone.
    pub(super) async fn wait_for_turn(
        &self,
        context: &CallContext,
        candidate: &Candidate,
    ) -> Result<(), Status> {
        loop {
            let before = RangeRequest {
                sort_order: SortOrder::Descend as i32,
                max_create_revision: candidate.created - 1,
                keys_only: true,
                ..oldest(&candidate.prefix)
            };
            let answer = self.ask(context, Method::Range, &before).await?;
            let Reply::Range(range) = answer.reply else {
                unreachable!("a range answers a range")
            };
            let Some(last) = range.kvs.into_iter().next() else {
                return Ok(());
            };
            self.wait_for_end(last.key, answer.header.revision + 1)
                .await?;
        }
    }

    /// Waits until `key` is deleted at `from` or later. Returns early if that can no longer be told.
    async fn wait_for_end(&self, key: Bytes, from: i64) -> Result<(), Status> {
        let stream = self.watching(KeyRange::single(key), from)?;
        while let Some(changes) = self.changes(&stream).await? {
            if changes.events.iter().any(|event| event.event.tombstone) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// A stream with one watcher of `range`.
    pub(super) fn watching(&self, range: KeyRange, from: i64) -> Result<WatchStream, Status> {
        let stream = self.node.open_watch_stream();
        let spec = WatchSpec {
            range,
            start_revision: from,
            prev_kv: false,
            no_put: false,
            no_delete: false,
            progress_notify: false,
            fragment: false,
            id: None,
        };
        let created = stream.create(spec);
        created.map_err(|_| contest_error(grpc::status::WATCH_RANGE_EMPTY))?;
        Ok(stream)
    }

    /// What happened next in what `stream` watches; nothing if a compaction took it.
    pub(super) async fn changes(&self, stream: &WatchStream) -> Result<Option<Changes>, Status> {
        loop {
            match stream.next(CHANGES_BYTES).await {
                Some(Output::Events {
                    events, revision, ..
                }) => return Ok(Some(Changes { events, revision })),
                Some(Output::Compacted { .. }) => return Ok(None),
                Some(_) => {}
                None => {
                    return Err(match stream.damage() {
                        Some(damage) => data_loss(&damage),
                        None => grpc::status::STOPPED,
                    });
                }
            }
        }
    }

    /// Takes the candidate's key away again unless told otherwise: whoever gives up waiting, or is cut off, must
    /// not stay in the queue.
    pub(super) fn withdrawing(
        self: &Rc<Self>,
        context: &CallContext,
        candidate: &Candidate,
    ) -> Withdrawal {
        Withdrawal {
            service: Rc::clone(self),
            context: context.clone(),
            candidate: Some(candidate.clone()),
        }
    }

    /// Deletes the candidate's key if it is still the one that was created.
    pub(super) async fn withdraw(
        &self,
        context: &CallContext,
        candidate: &Candidate,
    ) -> Result<Header, Status> {
        let txn = TxnRequest {
            compare: vec![created_at(&candidate.key, candidate.created)],
            success: vec![delete_step(&candidate.key)],
            failure: Vec::new(),
        };
        Ok(self.ask_txn(context, txn).await?.0)
    }
}

/// See [`EtcdService::withdrawing`].
pub(super) struct Withdrawal {
    service: Rc<EtcdService>,
    context: CallContext,
    candidate: Option<Candidate>,
}

impl Withdrawal {
    /// The candidate stays.
    pub(super) fn never(mut self) {
        self.candidate = None;
    }
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        let Some(candidate) = self.candidate.take() else {
            return;
        };
        let (service, context) = (Rc::clone(&self.service), self.context.clone());
        let world = self.service.node.world().clone();
        drop(world.spawn(Class::Request, async move {
            // If that fails the lease ends the key.
            drop(service.withdraw(&context, &candidate).await);
        }));
    }
}
