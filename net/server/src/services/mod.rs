//! The etcd v3 services of a node: from a decoded message to the node and back.
//!
//! Each file serves one gRPC service; what is not there yet answers `Unimplemented` by name. The
//! only way to the store is [`EtcdService::execute`], which authorises the operation first.

mod cluster;
mod contest;
mod election;
mod health;
mod http;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod slow;
mod snapshot;
mod watch;

pub use http::MetricsService;

use std::rc::Rc;

use bytes::Bytes;
use engine::auth::{Authorized, AuthorizedOperation, Identity, Policy, authorize};
use engine::command::{Operation, Range};
use engine::shard::Damage;
use grpc::mapping::{Header, RequestLimits};
use grpc::{
    CallContext, CallEvent, Code, HttpRequest, HttpResponse, Method, RequestStream, ResponseSink,
    Service, Shutdown, Status, UnaryAnswer, status,
};

use crate::log::limit::LineLimit;
use crate::node::{self, Answer, Node, WriteError};
pub(crate) use maintenance::STORAGE_VERSION;

/// The release of etcd whose surface is covered; what version queries answer.
pub const ETCD_VERSION: &str = "3.7.3";
/// The cluster version that goes with it.
pub const CLUSTER_VERSION: &str = "3.7.0";

/// Serves the client API of one node.
pub struct EtcdService {
    node: Node,
    limits: RequestLimits,
    /// Watch answers that may be split are split above this.
    fragment_bytes: usize,
    shutdown: Shutdown,
    slow_calls: LineLimit,
    slow_reads: LineLimit,
}

impl EtcdService {
    /// The services of `node`.
    pub fn new(node: Node, limits: RequestLimits, shutdown: Shutdown) -> Rc<EtcdService> {
        let fragment_bytes = limits.write_bytes_max + 512 * 1024;
        Rc::new(EtcdService {
            node,
            limits,
            fragment_bytes,
            shutdown,
            slow_calls: LineLimit::default(),
            slow_reads: LineLimit::default(),
        })
    }

    /// Authorises an operation and executes it.
    async fn execute(&self, context: &CallContext, operation: Operation) -> Result<Answer, Status> {
        // Authentication is off: whoever calls is nobody in particular, and a token that a client
        // still carries is not looked at, as in etcd.
        let _ = &context.token;
        let operation = authorize(operation, &Identity::Anonymous, &Policy::Disabled)
            .map_err(|_| status::PERMISSION_DENIED)?;
        self.node.execute(operation).await.map_err(write_status)
    }

    /// Authorises a range.
    fn authorize_range(
        &self,
        context: &CallContext,
        range: Range,
    ) -> Result<Authorized<Range>, Status> {
        let _ = &context.token;
        let operation = Operation::Range(range);
        let operation = authorize(operation, &Identity::Anonymous, &Policy::Disabled)
            .map_err(|_| status::PERMISSION_DENIED)?;
        match operation.split() {
            AuthorizedOperation::Range(range) => Ok(range),
            _ => unreachable!("a range stays a range"),
        }
    }

    /// The header of an answer that reads nothing of the store.
    fn header(&self) -> Header {
        wire_header(self.node.header())
    }

    fn note_client(&self, context: &CallContext, is_stream: bool) {
        let version = context.client_api_version.as_ref();
        let version = version.map(|version| version.as_bytes());
        self.node.metrics().note_client(is_stream, version);
    }

    fn check_leader(&self, context: &CallContext) -> Result<(), Status> {
        if context.requires_leader && !self.node.has_leader() {
            return Err(status::NO_LEADER);
        }
        Ok(())
    }
}

/// A node's header as the mapping writes it.
fn wire_header(header: node::Header) -> Header {
    Header {
        cluster_id: header.cluster_id,
        member_id: header.member_id,
        revision: header.revision,
        raft_term: header.raft_term,
    }
}

/// The header as a protobuf struct, for answers that are encoded by prost.
fn proto_header(header: Header) -> Option<grpc::proto::etcdserverpb::ResponseHeader> {
    Some(grpc::proto::etcdserverpb::ResponseHeader {
        cluster_id: header.cluster_id,
        member_id: header.member_id,
        revision: header.revision,
        raft_term: header.raft_term,
    })
}

fn encoded(message: &impl prost::Message) -> Bytes {
    Bytes::from(message.encode_to_vec())
}

/// What a failed operation looks like on the wire.
fn write_status(error: WriteError) -> Status {
    match error {
        WriteError::Command(error) => Status::from(error),
        WriteError::TooManyRequests => status::TOO_MANY_REQUESTS,
        WriteError::NoLeader => status::NO_LEADER,
        WriteError::TimedOut => status::TIMEOUT,
        WriteError::Stopped => status::STOPPED,
        WriteError::Damaged(damage) => data_loss(&damage),
    }
}

/// The answer to whoever needs bytes that are damaged.
fn data_loss(damage: &Damage) -> Status {
    Status::new(
        Code::DataLoss,
        format!("ringd: stored data is damaged: {damage}"),
    )
}

/// The refusal of what etcd has and this version has not.
fn not_yet(method: Method) -> Status {
    let path = method.path();
    Status::new(
        Code::Unimplemented,
        format!("ringd: {path} is not supported yet"),
    )
}

impl Service for EtcdService {
    async fn unary(
        self: Rc<Self>,
        context: CallContext,
        method: Method,
        message: Bytes,
    ) -> Result<UnaryAnswer, Status> {
        self.note_client(&context, false);
        self.check_leader(&context)?;
        let begun = self.begin_call(method, &message);
        let answer = self.answer(&context, method, message).await;
        self.end_call(&begun, &context, &answer);
        answer
    }

    async fn stream(
        self: Rc<Self>,
        context: CallContext,
        method: Method,
        requests: RequestStream,
        responses: ResponseSink,
    ) -> Result<(), Status> {
        self.note_client(&context, true);
        self.check_leader(&context)?;
        match method {
            Method::Watch => self.watch(context, requests, responses).await,
            Method::LeaseKeepAlive => self.lease_keep_alive(requests, responses).await,
            Method::RangeStream => self.range_stream(&context, requests, responses).await,
            Method::Observe => self.observe(&context, requests, responses).await,
            Method::Snapshot => self.snapshot(requests, responses).await,
            Method::HealthWatch => self.health_watch(context, requests, responses).await,
            _ => Err(not_yet(method)),
        }
    }

    async fn http(self: Rc<Self>, request: HttpRequest) -> HttpResponse {
        self.http_answer(&request).await
    }

    fn note(&self, method: Method, event: CallEvent) {
        self.node.metrics().note(method, event);
    }
}

impl EtcdService {
    async fn answer(
        self: &Rc<Self>,
        context: &CallContext,
        method: Method,
        message: Bytes,
    ) -> Result<UnaryAnswer, Status> {
        let answer = match method {
            Method::Range => return self.range(context, message).await,
            Method::Put | Method::DeleteRange | Method::Txn => {
                self.store_operation(context, method, message).await
            }
            Method::Compact => self.compact(context, message).await,
            Method::LeaseGrant => self.lease_grant(context, message).await,
            Method::LeaseRevoke => self.store_operation(context, method, message).await,
            Method::LeaseTimeToLive => self.lease_time_to_live(message).await,
            Method::LeaseLeases => self.lease_leases(message).await,
            Method::MemberList => self.member_list(message).await,
            Method::Status => self.status(message).await,
            Method::HashKv => self.hash_kv(message).await,
            Method::Hash => self.hash(message).await,
            Method::Alarm => self.alarm(context, message).await,
            Method::Defragment => self.defragment(message),
            Method::MoveLeader => self.move_leader(message),
            Method::Downgrade => self.downgrade(message).await,
            Method::Lock => self.lock(context, message).await,
            Method::Unlock => self.unlock(context, message).await,
            Method::Campaign => self.campaign(context, message).await,
            Method::Proclaim => self.proclaim(context, message).await,
            Method::Leader => self.leader(context, message).await,
            Method::Resign => self.resign(context, message).await,
            Method::HealthCheck => self.health_check(message),
            Method::HealthList => self.health_list(message),
            _ => Err(not_yet(method)),
        };
        answer.map(UnaryAnswer::Message)
    }
}
