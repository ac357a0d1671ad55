//! Clients that speak gRPC over HTTP/2 through the simulated network, to the real services.
//!
//! They live on a host of their own and survive no crash of the member but the loss of their
//! connections. What they ask for is drawn from fewer shapes than in the other runs: what matters here
//! is that nothing between the socket and the node changes, loses or repeats a request.

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use engine::command::{
    Command, CommandError, Compare, CompareTarget, DeleteRange, KeyValue, LeaseId, Put, Range,
    RangeReply, Relation, Reply, Txn, TxnOperation, TxnReply,
};
use engine::key::{End, KeyRange};
use grpc::mapping::RequestLimits;
use grpc::proto::etcdserverpb as pb;
use grpc::proto::mvccpb;
use grpc::{Limits, Shutdown};
use h2::client::SendRequest;
use http::Request;
use prost::Message;
use reactor::{Address, Class, Stream, World};
use ringd::node::Node;
use ringd::services::EtcdService;

use crate::history::{Action, Outcome};
use crate::member::{Busy, Phase, Shared};

/// How long a client waits for an answer before it calls the outcome unknown.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the member listens: the first host of a simulation has this address.
fn address() -> Address {
    Address::Tcp(SocketAddr::from((Ipv4Addr::new(10, 0, 0, 1), 2379)))
}

/// The services of one core.
pub fn service(node: &Node, shutdown: &Shutdown) -> Rc<EtcdService> {
    EtcdService::new(node.clone(), RequestLimits::default(), shutdown.clone())
}

/// Serves the client API of `node`; accepts for all cores.
pub fn serve(world: &World, node: &Node, shutdown: &Shutdown) {
    let (world, node, shutdown) = (world.clone(), node.clone(), shutdown.clone());
    let service = service(&node, &shutdown);
    let spawner = world.clone();
    drop(spawner.spawn(Class::Request, async move {
        let listener = world.listen(&address()).await.expect("the address is free");
        let mut accepted = 0;
        while let Ok(stream) = listener.accept().await {
            // In turn, so that few connections meet all cores.
            let core = accepted % node.board().cores();
            accepted += 1;
            if let Some(stream) = node.hand_over(stream, core) {
                serve_stream(&world, &node, stream, &service, &shutdown);
            }
        }
    }));
}

/// Serves one connection on its core.
pub fn serve_stream(
    world: &World,
    node: &Node,
    stream: Stream,
    service: &Rc<EtcdService>,
    shutdown: &Shutdown,
) {
    let peer = Rc::from(stream.peer_address().to_string());
    let (clock, node, service) = (world.clone(), node.clone(), service.clone());
    let (limits, shutdown) = (Rc::new(Limits::default()), shutdown.clone());
    drop(world.spawn(Class::Request, async move {
        grpc::serve_connection(clock, stream, peer, service, limits, shutdown).await;
        node.connection_ended();
    }));
}

/// The first task of the clients' core.
pub async fn run_clients(world: World, shared: Rc<Shared>) {
    for client in 0..shared.plan.clients {
        let run = run_client(world.clone(), shared.clone(), client);
        drop(world.spawn(Class::Request, run));
    }
}

async fn run_client(world: World, shared: Rc<Shared>, client: usize) {
    let _busy = Busy::new(&shared);
    while shared.phase.get() == Phase::Opening || shared.wants_more() {
        if shared.phase.get() == Phase::Serving
            && let Some(mut connection) = connect(&world).await
        {
            while shared.wants_more() {
                let action = draw(&shared, client);
                if !perform(&world, &shared, client, &mut connection, action).await {
                    break;
                }
            }
        }
        world.sleep(Duration::from_millis(2)).await;
    }
}

async fn connect(world: &World) -> Option<SendRequest<Bytes>> {
    let stream = world.connect(&address()).await.ok()?;
    let (requests, connection) = h2::client::handshake(stream).await.ok()?;
    drop(world.spawn(Class::Request, async move {
        let _ended_with_the_member = connection.await;
    }));
    Some(requests)
}

/// Asks and notes; false when the connection is of no more use.
async fn perform(
    world: &World,
    shared: &Shared,
    client: usize,
    connection: &mut SendRequest<Bytes>,
    action: Action,
) -> bool {
    shared.operations.set(shared.operations.get() + 1);
    let ticket = shared
        .history
        .borrow_mut()
        .invoke(client, action.clone(), 0);
    let asked = world.timeout(PATIENCE, ask(connection, &action)).await;
    let outcome = asked.ok().flatten();
    let usable = outcome.is_some();
    let outcome = outcome.unwrap_or(Outcome::Unknown);
    shared
        .history
        .borrow_mut()
        .complete(ticket, outcome, u64::MAX);
    usable
}

fn draw(shared: &Shared, client: usize) -> Action {
    let mut clients = shared.clients.borrow_mut();
    let state = &mut clients[client];
    let key = state.workload.key();
    match state.random.below(10) {
        0..4 => Action::Write(Command::Put(put(key, shared, state.random.below(3) == 0))),
        4..7 => {
            let seen = shared.history.borrow().revision_seen as u64;
            let found = [0, state.random.below(seen + 1) as i64][state.random.index(2)];
            let change = match state.random.below(3) {
                0 => TxnOperation::DeleteRange(DeleteRange {
                    range: KeyRange::single(key.clone()),
                    prev_kv: true,
                }),
                _ => TxnOperation::Put(put(key.clone(), shared, true)),
            };
            let relation = [Relation::Equal, Relation::Less][state.random.index(2)];
            Action::Write(Command::Txn(compare_and_change(
                key, found, relation, change, shared,
            )))
        }
        _ => {
            let history = shared.history.borrow();
            Action::Range(state.workload.range(&history.shadow))
        }
    }
}

fn put(key: Bytes, shared: &Shared, prev_kv: bool) -> Put {
    Put {
        key,
        value: Bytes::from(format!("wire-{}", shared.nonce())),
        lease: LeaseId::NONE,
        prev_kv,
        ignore_value: false,
        ignore_lease: false,
    }
}

/// A transaction like no other: its second guard always holds.
fn compare_and_change(
    key: Bytes,
    found: i64,
    relation: Relation,
    change: TxnOperation,
    shared: &Shared,
) -> Txn {
    let guard = |range, relation, target| Compare {
        range,
        relation,
        target,
    };
    let nonce = KeyRange::single(Bytes::from_static(b"nonce"));
    Txn {
        compare: vec![
            guard(
                KeyRange::single(key.clone()),
                relation,
                CompareTarget::Mod(found),
            ),
            guard(
                nonce,
                Relation::Greater,
                CompareTarget::Version(-1 - shared.nonce()),
            ),
        ],
        success: vec![change],
        failure: vec![TxnOperation::Range(Range::all(KeyRange::single(key)))],
    }
}

/// Asks; nothing when the connection broke or ended.
async fn ask(connection: &mut SendRequest<Bytes>, action: &Action) -> Option<Outcome> {
    let (path, message) = match action {
        Action::Range(range) => ("KV/Range", range_request(range).encode_to_vec()),
        Action::Write(Command::Put(put)) => ("KV/Put", put_request(put).encode_to_vec()),
        Action::Write(Command::Txn(txn)) => ("KV/Txn", txn_request(txn).encode_to_vec()),
        other => panic!("{other:?} is not drawn here"),
    };
    let answer = call(connection, path, &message).await?;
    let message = match answer {
        Ok(message) => message,
        Err(status) => return Some(failure(&status)),
    };
    let (header, reply) = match action {
        Action::Range(_) => {
            let response = pb::RangeResponse::decode(message).ok()?;
            (response.header, Reply::Range(range_reply(response)))
        }
        Action::Write(Command::Put(_)) => {
            let response = pb::PutResponse::decode(message).ok()?;
            (response.header, put_reply(response))
        }
        _ => {
            let response = pb::TxnResponse::decode(message).ok()?;
            (response.header, txn_reply(response)?)
        }
    };
    Some(Outcome::Answered {
        revision: header?.revision,
        reply,
    })
}

/// What a failed call tells of its effect.
fn failure(status: &str) -> Outcome {
    if status.contains("has been compacted") {
        Outcome::Failed(CommandError::Compacted)
    } else if status.contains("is a future revision") {
        Outcome::Failed(CommandError::FutureRevision)
    } else {
        Outcome::Unknown
    }
}

/// One unary call: the answer's message or the text of its status; nothing if the connection broke.
async fn call(
    connection: &mut SendRequest<Bytes>,
    path: &str,
    message: &[u8],
) -> Option<Result<Bytes, String>> {
    poll_fn(|context| connection.poll_ready(context))
        .await
        .ok()?;
    let request = Request::post(format!("http://10.0.0.1:2379/etcdserverpb.{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .ok()?;
    let (response, mut body) = connection.send_request(request, false).ok()?;
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.put_slice(message);
    body.send_data(frame.freeze(), true).ok()?;
    let response = response.await.ok()?;
    let head = response.headers().clone();
    let mut body = response.into_body();
    let mut received = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.ok()?;
        body.flow_control().release_capacity(data.len()).ok()?;
        received.extend_from_slice(&data);
    }
    let trailers = body.trailers().await.ok()?.unwrap_or(head);
    if trailers.get("grpc-status")?.as_bytes() != b"0" {
        let text = trailers
            .get("grpc-message")
            .map_or(&b""[..], |text| text.as_bytes());
        return Some(Err(String::from_utf8_lossy(text).into_owned()));
    }
    (received.len() >= 5).then(|| Ok(received.freeze().slice(5..)))
}

/// A range as etcd's pair.
fn wire_range(range: &KeyRange) -> (Bytes, Bytes) {
    let end = match &range.end {
        End::Single => Bytes::new(),
        End::Before(end) => end.clone(),
        End::Unbounded => Bytes::from_static(b"\0"),
    };
    (range.start.clone(), end)
}

fn range_request(range: &Range) -> pb::RangeRequest {
    let (key, range_end) = wire_range(&range.range);
    pb::RangeRequest {
        key,
        range_end,
        limit: range.limit,
        revision: range.revision,
        sort_order: range.sort_order as i32,
        sort_target: range.sort_target as i32,
        serializable: range.serializable,
        keys_only: range.keys_only,
        count_only: range.count_only,
        min_mod_revision: range.min_mod_revision,
        max_mod_revision: range.max_mod_revision,
        min_create_revision: range.min_create_revision,
        max_create_revision: range.max_create_revision,
    }
}

fn put_request(put: &Put) -> pb::PutRequest {
    pb::PutRequest {
        key: put.key.clone(),
        value: put.value.clone(),
        lease: put.lease.0,
        prev_kv: put.prev_kv,
        ignore_value: put.ignore_value,
        ignore_lease: put.ignore_lease,
    }
}

fn txn_request(txn: &Txn) -> pb::TxnRequest {
    let operations = |operations: &[TxnOperation]| {
        let operations = operations.iter().map(|operation| pb::RequestOp {
            request: Some(request_operation(operation)),
        });
        operations.collect()
    };
    pb::TxnRequest {
        compare: txn.compare.iter().map(compare).collect(),
        success: operations(&txn.success),
        failure: operations(&txn.failure),
    }
}

fn request_operation(operation: &TxnOperation) -> pb::request_op::Request {
    use pb::request_op::Request::{RequestDeleteRange, RequestPut, RequestRange, RequestTxn};
    match operation {
        TxnOperation::Range(range) => RequestRange(range_request(range)),
        TxnOperation::Put(put) => RequestPut(put_request(put)),
        TxnOperation::Txn(txn) => RequestTxn(txn_request(txn)),
        TxnOperation::DeleteRange(delete) => {
            let (key, range_end) = wire_range(&delete.range);
            RequestDeleteRange(pb::DeleteRangeRequest {
                key,
                range_end,
                prev_kv: delete.prev_kv,
            })
        }
    }
}

fn compare(compare: &Compare) -> pb::Compare {
    use pb::compare::TargetUnion;
    let (key, range_end) = wire_range(&compare.range);
    let (target, union) = match &compare.target {
        CompareTarget::Version(number) => (0, TargetUnion::Version(*number)),
        CompareTarget::Create(number) => (1, TargetUnion::CreateRevision(*number)),
        CompareTarget::Mod(number) => (2, TargetUnion::ModRevision(*number)),
        CompareTarget::Value(value) => (3, TargetUnion::Value(value.clone())),
        CompareTarget::Lease(number) => (4, TargetUnion::Lease(*number)),
    };
    pb::Compare {
        result: compare.relation as i32,
        target,
        key,
        range_end,
        target_union: Some(union),
    }
}

fn key_value(kv: mvccpb::KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key,
        value: kv.value,
        create_revision: kv.create_revision,
        mod_revision: kv.mod_revision,
        version: kv.version,
        lease: LeaseId(kv.lease),
    }
}

fn range_reply(response: pb::RangeResponse) -> RangeReply {
    RangeReply {
        kvs: response.kvs.into_iter().map(key_value).collect(),
        more: response.more,
        count: response.count,
    }
}

fn put_reply(response: pb::PutResponse) -> Reply {
    Reply::Put {
        prev_kv: response.prev_kv.map(key_value),
    }
}

fn txn_reply(response: pb::TxnResponse) -> Option<Reply> {
    use pb::response_op::Response;
    let responses = response.responses.into_iter().map(|operation| {
        Some(match operation.response? {
            Response::ResponseRange(range) => Reply::Range(range_reply(range)),
            Response::ResponsePut(put) => put_reply(put),
            Response::ResponseDeleteRange(delete) => Reply::DeleteRange {
                deleted: delete.deleted,
                prev_kvs: delete.prev_kvs.into_iter().map(key_value).collect(),
            },
            Response::ResponseTxn(txn) => txn_reply(txn)?,
        })
    });
    let responses = responses.collect::<Option<Vec<Reply>>>()?;
    Some(Reply::Txn(TxnReply {
        succeeded: response.succeeded,
        responses,
    }))
}
