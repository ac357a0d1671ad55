//! Campaign, Proclaim, Leader, Observe, Resign.

use std::rc::Rc;

use bytes::Bytes;
use engine::command::{KeyValue, LeaseId, Reply};
use engine::key::KeyRange;
use grpc::mapping::Header;
use grpc::mapping::request::decode;
use grpc::proto::etcdserverpb::TxnRequest;
use grpc::proto::{mvccpb, v3electionpb as pb};
use grpc::{CallContext, Method, RequestStream, ResponseSink, Status};

use super::contest::{Candidate, contest_error, created_at, oldest, prefix, prefix_end, put_step};
use super::{EtcdService, encoded, proto_header, wire_header};

const NO_LEADER: &str = "election: no leader";
const NOT_LEADER: &str = "election: not leader";
const MISSING_LEADER: &str = "\"leader\" field must be provided";

impl EtcdService {
    /// Answers when the caller is the leader.
    pub(super) async fn campaign(
        self: &Rc<Self>,
        context: &CallContext,
        message: Bytes,
    ) -> Result<Bytes, Status> {
        let request: pb::CampaignRequest = decode(message)?;
        let lease = self.session(context, request.lease).await?;
        let entered = self.enter(context, &request.name, lease, request.value.clone());
        let entered = entered.await?;
        let candidate = entered.candidate;
        let withdrawal = self.withdrawing(context, &candidate);
        if entered.found.is_some_and(|value| value != request.value) {
            self.proclaim_as(context, &candidate, request.value).await?;
        }
        if !entered.is_first {
            self.wait_for_turn(context, &candidate).await?;
        }
        withdrawal.never();
        Ok(encoded(&pb::CampaignResponse {
            header: proto_header(entered.header),
            leader: Some(pb::LeaderKey {
                name: request.name,
                key: candidate.key,
                rev: candidate.created,
                lease: candidate.lease.0,
            }),
        }))
    }

    /// Replaces the leader's value.
    pub(super) async fn proclaim(
        &self,
        context: &CallContext,
        message: Bytes,
    ) -> Result<Bytes, Status> {
        let request: pb::ProclaimRequest = decode(message)?;
        let candidate = named_leader(request.leader)?;
        let header = self.proclaim_as(context, &candidate, request.value).await?;
        Ok(encoded(&pb::ProclaimResponse {
            header: proto_header(header),
        }))
    }

    async fn proclaim_as(
        &self,
        context: &CallContext,
        candidate: &Candidate,
        value: Bytes,
    ) -> Result<Header, Status> {
        let txn = TxnRequest {
            compare: vec![created_at(&candidate.key, candidate.created)],
            success: vec![put_step(&candidate.key, value, candidate.lease)],
            failure: Vec::new(),
        };
        let (header, reply) = self.ask_txn(context, txn).await?;
        match reply.succeeded {
            true => Ok(header),
            false => Err(contest_error(NOT_LEADER)),
        }
    }

    /// The oldest candidate.
    pub(super) async fn leader(
        &self,
        context: &CallContext,
        message: Bytes,
    ) -> Result<Bytes, Status> {
        let request: pb::LeaderRequest = decode(message)?;
        let (header, leader) = self.leader_of(context, &prefix(&request.name)).await?;
        match leader {
            Some(leader) => Ok(leader_response(header, leader)),
            None => Err(contest_error(NO_LEADER)),
        }
    }

    async fn leader_of(
        &self,
        context: &CallContext,
        prefix: &Bytes,
    ) -> Result<(Header, Option<KeyValue>), Status> {
        let answer = self.ask(context, Method::Range, &oldest(prefix)).await?;
        let Reply::Range(range) = answer.reply else {
            unreachable!("a range answers a range")
        };
        Ok((wire_header(answer.header), range.kvs.into_iter().next()))
    }

    /// Gives the leadership back.
    pub(super) async fn resign(
        &self,
        context: &CallContext,
        message: Bytes,
    ) -> Result<Bytes, Status> {
        let request: pb::ResignRequest = decode(message)?;
        let candidate = named_leader(request.leader)?;
        let header = self.withdraw(context, &candidate).await?;
        Ok(encoded(&pb::ResignResponse {
            header: proto_header(header),
        }))
    }

    /// Tells each leader and what it proclaims, from now on.
    pub(super) async fn observe(
        &self,
        context: &CallContext,
        mut requests: RequestStream,
        mut responses: ResponseSink,
    ) -> Result<(), Status> {
        let Some(message) = requests.next().await? else {
            return Ok(());
        };
        let request: pb::LeaderRequest = decode(message)?;
        let prefix = prefix(&request.name);
        // Some clients wait for the headers before anything else.
        responses.open()?;
        loop {
            let (header, leader) = self.leader_of(context, &prefix).await?;
            let found = match leader {
                Some(leader) => Some((header, leader)),
                None => self.first_candidate(&prefix, header).await?,
            };
            let Some((header, leader)) = found else {
                continue;
            };
            let key = leader.key.clone();
            let from = header.revision + 1;
            responses.send(leader_response(header, leader)).await?;
            self.observe_one(key, from, &mut responses).await?;
        }
    }

    /// Waits for the first key under `prefix`, which has none at the header's revision. Nothing if that cannot be
    /// told any more, and is to be looked up again.
    async fn first_candidate(
        &self,
        prefix: &Bytes,
        header: Header,
    ) -> Result<Option<(Header, KeyValue)>, Status> {
        let range = KeyRange::from_wire(prefix.clone(), prefix_end(prefix));
        let stream = self.watching(range, header.revision + 1)?;
        while let Some(changes) = self.changes(&stream).await? {
            let born = changes.events.iter().find(|event| !event.event.tombstone);
            if let Some(born) = born {
                let leader = born.event.kv.clone();
                let revision = leader.mod_revision;
                return Ok(Some((Header { revision, ..header }, leader)));
            }
        }
        Ok(None)
    }

    /// Tells what the leader with this key proclaims until the key is deleted.
    async fn observe_one(
        &self,
        key: Bytes,
        from: i64,
        responses: &mut ResponseSink,
    ) -> Result<(), Status> {
        let stream = self.watching(KeyRange::single(key), from)?;
        while let Some(changes) = self.changes(&stream).await? {
            for event in changes.events.iter() {
                if event.event.tombstone {
                    return Ok(());
                }
                let header = Header {
                    revision: changes.revision,
                    ..self.header()
                };
                let leader = event.event.kv.clone();
                responses.send(leader_response(header, leader)).await?;
            }
        }
        Ok(())
    }
}

/// The leader that a caller says it is.
fn named_leader(leader: Option<pb::LeaderKey>) -> Result<Candidate, Status> {
    let leader = leader.ok_or(contest_error(MISSING_LEADER))?;
    Ok(Candidate {
        prefix: prefix(&leader.name),
        key: leader.key,
        lease: LeaseId(leader.lease),
        created: leader.rev,
    })
}

fn leader_response(header: Header, leader: KeyValue) -> Bytes {
    encoded(&pb::LeaderResponse {
        header: proto_header(header),
        kv: Some(mvccpb::KeyValue {
            key: leader.key,
            create_revision: leader.create_revision,
            mod_revision: leader.mod_revision,
            version: leader.version,
            value: leader.value,
            lease: leader.lease.0,
        }),
    })
}
