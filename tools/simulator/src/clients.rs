//! Clients that read and write: they draw an operation, ask the node, and note what they are told.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use engine::auth::{Authorized, AuthorizedOperation, Identity, Policy, authorize};
use engine::command::{
    AlarmKind, Command, CommandError, Compare, CompareTarget, LeaseId, Operation, Put, Range,
    RangeReply, Relation, Reply, Txn, TxnOperation,
};
use engine::key::KeyRange;
use engine::testing::Workload;
use reactor::World;
use reactor::sim::Random;
use ringd::node::{Answer, Node, Ranged, WriteError};

use crate::history::{Action, Outcome};
use crate::member::{Busy, Phase, Shared};

/// How long a client waits that was refused for want of room.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);

/// A client's own random draws; they go on in the next life.
pub struct ClientState {
    /// Draws requests.
    pub workload: Workload,
    /// Draws everything else.
    pub random: Random,
}

/// One client, until the life's operations are used up or the node stops.
pub async fn run_client(world: World, node: Node, shared: Rc<Shared>, client: usize) {
    let _busy = Busy::new(&shared);
    while shared.wants_more() {
        pause(&world, &shared, client).await;
        if !shared.wants_more() {
            return;
        }
        let action = draw(&shared, client);
        let patience = draw_patience(&shared, client);
        let outcome = match patience {
            None => perform(&node, &shared, client, action).await,
            // A client that gives up drops its request wherever it is.
            Some(patience) => {
                let performed = perform(&node, &shared, client, action);
                world
                    .timeout(patience, performed)
                    .await
                    .unwrap_or(Outcome::Unknown)
            }
        };
        if let (Outcome::Answered { revision, .. }, true) = (&outcome, patience.is_none())
            && shared.clients.borrow_mut()[client].random.below(12) == 0
        {
            compare_and_set(&node, &shared, client, *revision).await;
        }
        shared.sample_hash(&node);
        if shared.phase.get() == Phase::Failed {
            return;
        }
        if outcome == Outcome::Failed(CommandError::NoSpace) {
            // Refusals come at once: without a pause they would be all that a life does.
            world.sleep(REFUSED_PAUSE).await;
        }
    }
}

async fn pause(world: &World, shared: &Shared, client: usize) {
    let most = shared.plan.pause_most.as_nanos() as u64;
    let nanos = {
        let random = &mut shared.clients.borrow_mut()[client].random;
        match random.below(200) {
            0 => random.below(600_000_000),
            _ if most == 0 => return,
            _ => random.below(most),
        }
    };
    world.sleep(Duration::from_nanos(nanos)).await;
}

fn draw_patience(shared: &Shared, client: usize) -> Option<Duration> {
    let random = &mut shared.clients.borrow_mut()[client].random;
    (random.below(40) == 0).then(|| Duration::from_nanos(random.below(1_000_000)))
}

/// The next operation of a client.
pub fn draw(shared: &Shared, client: usize) -> Action {
    let history = shared.history.borrow();
    let mut clients = shared.clients.borrow_mut();
    let ClientState { workload, random } = &mut clients[client];
    match random.below(20) {
        0..12 => loop {
            if let Some(command) = client_command(workload.command(&history.shadow), shared) {
                return Action::Write(command);
            }
        },
        12..18 => Action::Range(workload.range(&history.shadow)),
        18 => Action::ReadTxn(workload.read_txn(&history.shadow)),
        _ => Action::LeaseKeys(workload.lease()),
    }
}

/// Makes a drawn command one that clients send, and unlike every other where it can be.
fn client_command(command: Command, shared: &Shared) -> Option<Command> {
    match command {
        // The member's own business.
        Command::LeaseExpire { .. }
        | Command::MemberAttributes(_)
        | Command::ClusterVersion(_)
        // Would end the run: nothing is executed any more.
        | Command::Alarm { alarm: Some(AlarmKind::Corrupt), activate: true, .. } => None,
        Command::LeaseGrant { id, ttl } => Some(Command::LeaseGrant { id, ttl: 1 + ttl % 4 }),
        Command::Put(mut put) => {
            mark_put(&mut put, shared);
            Some(Command::Put(put))
        }
        Command::Txn(mut txn) => {
            mark_txn(&mut txn, shared);
            txn.compare.push(always_true(shared.nonce()));
            Some(Command::Txn(txn))
        }
        other => Some(other),
    }
}

fn mark_put(put: &mut Put, shared: &Shared) {
    if put.ignore_value {
        return;
    }
    let nonce = shared.nonce();
    let mut value = format!("{:03}-{nonce}-", nonce * 7919 % 1000).into_bytes();
    value.extend_from_slice(&put.value);
    if nonce % 23 == 0 {
        value.resize(1 << 10, b'x');
    }
    put.value = Bytes::from(value);
}

fn mark_txn(txn: &mut Txn, shared: &Shared) {
    for operation in txn.success.iter_mut().chain(&mut txn.failure) {
        match operation {
            TxnOperation::Put(put) => mark_put(put, shared),
            TxnOperation::Txn(nested) => mark_txn(nested, shared),
            TxnOperation::Range(_) | TxnOperation::DeleteRange(_) => {}
        }
    }
}

/// A guard that always holds and that no other transaction has.
fn always_true(nonce: i64) -> Compare {
    Compare {
        range: KeyRange::single(Bytes::from_static(b"nonce")),
        relation: Relation::Greater,
        target: CompareTarget::Version(-1 - nonce),
    }
}

/// Reads a key and writes it back if nobody did meanwhile, as most clients of etcd do.
async fn compare_and_set(node: &Node, shared: &Shared, client: usize, _revision: i64) {
    let key = shared.clients.borrow_mut()[client].workload.key();
    let range = Range::all(KeyRange::single(key.clone()));
    let outcome = perform(node, shared, client, Action::Range(range.clone())).await;
    let Outcome::Answered {
        reply: Reply::Range(reply),
        ..
    } = outcome
    else {
        return;
    };
    let found = reply.kvs.first().map_or(0, |kv| kv.mod_revision);
    let nonce = shared.nonce();
    let put = Put {
        key: key.clone(),
        value: Bytes::from(format!("cas-{nonce}")),
        lease: LeaseId::NONE,
        prev_kv: true,
        ignore_value: false,
        ignore_lease: false,
    };
    let unchanged = Compare {
        range: KeyRange::single(key),
        relation: Relation::Equal,
        target: CompareTarget::Mod(found),
    };
    let txn = Txn {
        compare: vec![unchanged],
        success: vec![TxnOperation::Put(put)],
        failure: vec![TxnOperation::Range(range)],
    };
    let mut txn = txn;
    txn.compare.push(always_true(nonce));
    perform(node, shared, client, Action::Write(Command::Txn(txn))).await;
}

/// Asks the node and notes everything.
pub async fn perform(node: &Node, shared: &Shared, client: usize, action: Action) -> Outcome {
    shared.operations.set(shared.operations.get() + 1);
    let ticket = {
        let mut history = shared.history.borrow_mut();
        history.invoke(client, action.clone(), node.applied().index)
    };
    let outcome = ask(node, action).await;
    let mut history = shared.history.borrow_mut();
    history.complete(ticket, outcome.clone(), node.applied().index);
    outcome
}

async fn ask(node: &Node, action: Action) -> Outcome {
    let operation = match action {
        Action::Write(command) => Operation::Write(command),
        Action::Range(range) => Operation::Range(range),
        Action::ReadTxn(txn) => Operation::ReadTxn(txn),
        Action::LeaseKeys(id) => {
            return node
                .keys_of_lease(id)
                .await
                .map_or(Outcome::Unknown, Outcome::Keys);
        }
    };
    let answered = match operation {
        Operation::Range(range) => read_range(node, range).await,
        operation => node.execute(allowed(operation)).await,
    };
    match answered {
        Ok(answer) => Outcome::Answered {
            revision: answer.header.revision,
            reply: answer.reply,
        },
        Err(WriteError::Command(error)) => Outcome::Failed(error),
        Err(WriteError::TooManyRequests) => Outcome::Refused,
        Err(
            WriteError::NoLeader
            | WriteError::TimedOut
            | WriteError::Stopped
            | WriteError::Damaged(_),
        ) => Outcome::Unknown,
    }
}

fn allowed(operation: Operation) -> Authorized<Operation> {
    let authorized = authorize(operation, &Identity::Anonymous, &Policy::Disabled);
    authorized.expect("authentication is off")
}

/// Reads a range as a client does: in parts if its answer is large.
async fn read_range(node: &Node, range: Range) -> Result<Answer, WriteError> {
    let AuthorizedOperation::Range(range) = allowed(Operation::Range(range)).split() else {
        unreachable!("a range stays a range")
    };
    let mut list = match node.range_or_list(range).await? {
        Ranged::Whole(answer) => return Ok(answer),
        Ranged::List(list) => list,
    };
    let header = list.header();
    let end = list.outline(|_| {}).await?;
    let mut body = list.values(end.keys);
    let mut kvs = Vec::new();
    while let Some(piece) = body.next().await? {
        kvs.extend(piece.into_iter().map(|listed| listed.kv));
    }
    let reply = Reply::Range(RangeReply {
        kvs,
        more: end.more,
        count: end.count,
    });
    Ok(Answer { header, reply })
}
