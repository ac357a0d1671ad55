//! What `lock` and `elect` have in common: a key that lives as long as a lease, and waiting for one's turn
//! in the order in which such keys were created.

use std::rc::Rc;

use bytes::Bytes;
use grpc::Method;
use grpc::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use grpc::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use grpc::proto::etcdserverpb::request_op::Request;
use grpc::proto::etcdserverpb::response_op::Response;
use grpc::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, RangeRequest, RangeResponse,
    RequestOp, TxnRequest, TxnResponse,
};
use grpc::proto::mvccpb::event::EventType;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::client::lease::{self, KeepAlive};
use crate::client::watch::{Seen, Spec, Watch};
use crate::client::{Client, Failure, Repeat};
use crate::exit::{self, Exit};
use crate::prefix::prefix_end;

/// Life of a session unless told otherwise, in seconds.
pub(super) const TTL: i64 = 60;

/// A key of ours that waits for its turn.
#[derive(Debug)]
pub(super) struct Place {
    client: Rc<Client>,
    prefix: Vec<u8>,
    /// The key.
    pub(super) key: Bytes,
    /// The revision that created it.
    pub(super) revision: i64,
}

/// A request of a transaction.
fn operation(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

impl Place {
    /// Queues up below `name` with a value, under a new lease that the second value keeps alive.
    pub(super) async fn take(
        client: Rc<Client>,
        name: &str,
        value: &str,
        ttl: i64,
    ) -> Result<(Self, KeepAlive), Failure> {
        let lease = lease::grant(&client, ttl, None).await?.id;
        let keep = KeepAlive::new(client.clone(), lease);
        let prefix = format!("{name}/").into_bytes();
        let key = Bytes::from(format!("{name}/{lease:x}"));
        let put = PutRequest {
            key: key.clone(),
            value: value.to_owned().into(),
            lease,
            ..PutRequest::default()
        };
        let get = RangeRequest {
            key: key.clone(),
            ..RangeRequest::default()
        };
        let request = TxnRequest {
            compare: vec![created(&key, 0)],
            success: vec![operation(Request::RequestPut(put))],
            failure: vec![operation(Request::RequestRange(get))],
        };
        let answer: TxnResponse = client
            .unary(Method::Txn, &request, Repeat::Never, None)
            .await?;
        let there = answer
            .responses
            .into_iter()
            .find_map(|answer| match answer.response {
                Some(Response::ResponseRange(range)) => {
                    range.kvs.into_iter().next().map(|kv| kv.create_revision)
                }
                _ => None,
            });
        let revision = there
            .or(answer.header.map(|header| header.revision))
            .unwrap_or_default();
        Ok((
            Self {
                client,
                prefix,
                key,
                revision,
            },
            keep,
        ))
    }

    /// Waits until every key that was created before is gone.
    pub(super) async fn turn(&self) -> Result<(), Failure> {
        loop {
            let request = RangeRequest {
                key: self.prefix.clone().into(),
                range_end: prefix_end(&self.prefix).into(),
                limit: 1,
                sort_order: SortOrder::Descend.into(),
                sort_target: SortTarget::Create.into(),
                max_create_revision: self.revision - 1,
                ..RangeRequest::default()
            };
            let before: RangeResponse = self
                .client
                .unary(Method::Range, &request, Repeat::Safe, None)
                .await?;
            let Some(kv) = before.kvs.first() else {
                return Ok(());
            };
            let from = before.header.map_or(0, |header| header.revision);
            deleted(&self.client, kv.key.clone(), from).await?;
        }
    }

    /// What our key holds now.
    pub(super) async fn read(&self) -> Result<RangeResponse, Failure> {
        let request = RangeRequest {
            key: self.key.clone(),
            ..RangeRequest::default()
        };
        self.client
            .unary(Method::Range, &request, Repeat::Safe, None)
            .await
    }

    /// Gives the place up.
    pub(super) async fn leave(&self) -> Result<(), Failure> {
        let delete = DeleteRangeRequest {
            key: self.key.clone(),
            ..DeleteRangeRequest::default()
        };
        let request = TxnRequest {
            compare: vec![created(&self.key, self.revision)],
            success: vec![operation(Request::RequestDeleteRange(delete))],
            failure: Vec::new(),
        };
        let _: TxnResponse = self
            .client
            .unary(Method::Txn, &request, Repeat::Never, None)
            .await?;
        Ok(())
    }

    /// Deletes the key whoever wrote it.
    pub(super) async fn unlock(&self) -> Result<(), Failure> {
        let request = DeleteRangeRequest {
            key: self.key.clone(),
            ..DeleteRangeRequest::default()
        };
        let _: DeleteRangeResponse = self
            .client
            .unary(Method::DeleteRange, &request, Repeat::Never, None)
            .await?;
        Ok(())
    }
}

/// `create("key") = revision`.
fn created(key: &Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Compare::default()
    }
}

/// Waits until `key` is deleted at `from` or later.
async fn deleted(client: &Rc<Client>, key: Bytes, from: i64) -> Result<(), Failure> {
    let mut watch = Watch::new(client.clone());
    watch
        .add(Spec {
            key,
            revision: from,
            ..Spec::default()
        })
        .await?;
    loop {
        match watch.next().await? {
            Seen::Answer(_, answer)
                if answer
                    .events
                    .iter()
                    .any(|event| event.r#type == EventType::Delete as i32) =>
            {
                return Ok(());
            }
            Seen::Answer(..) => {}
            Seen::Ended(_, reason) => {
                let reason = reason.unwrap_or("lost watcher waiting for delete".to_owned());
                return Err(Failure::Configuration(reason));
            }
        }
    }
}

/// SIGINT and SIGTERM, caught from now on.
#[derive(Debug)]
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Catches both.
    pub(super) fn catch() -> Result<Self, Exit> {
        let catch = |kind| signal(kind).map_err(|error| Exit::new(exit::IO, error.to_string()));
        Ok(Self {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
        })
    }

    /// Waits for one of them.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// What a wait that a signal ended is called.
pub(super) const CANCELED: &str = "context canceled";
