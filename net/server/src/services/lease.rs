//! LeaseGrant, LeaseKeepAlive, LeaseTimeToLive, LeaseLeases. (LeaseRevoke is a store operation.)

use bytes::Bytes;
use engine::command::{Command, LeaseId, Operation};
use grpc::mapping::request::decode;
use grpc::mapping::{encode_reply, operation};
use grpc::proto::etcdserverpb as pb;
use grpc::{CallContext, Method, RequestStream, ResponseSink, Status};

use super::{EtcdService, encoded, proto_header, wire_header, write_status};
use crate::node::Answer;

impl EtcdService {
    pub(super) async fn lease_grant(
        &self,
        context: &CallContext,
        message: Bytes,
    ) -> Result<Bytes, Status> {
        let operation = operation(Method::LeaseGrant, message, &self.limits)?;
        let Operation::Write(Command::LeaseGrant { id, ttl }) = operation else {
            unreachable!("a lease grant is a write")
        };
        let answer = self.grant(context, id, ttl).await?;
        Ok(encode_reply(&wire_header(answer.header), &answer.reply))
    }

    /// Grants a lease with the time to live that was asked for, or the shortest there is. Without an id it gets a random
    /// positive one; a collision is answered as such by the store.
    pub(super) async fn grant(
        &self,
        context: &CallContext,
        id: LeaseId,
        ttl: i64,
    ) -> Result<Answer, Status> {
        let id = match id {
            LeaseId::NONE => LeaseId(((self.node.world().random_u64() >> 1) as i64).max(1)),
            chosen => chosen,
        };
        let ttl = ttl.max(self.node.options().lease_ttl_min());
        let grant = Operation::Write(Command::LeaseGrant { id, ttl });
        self.execute(context, grant).await
    }

    pub(super) async fn lease_keep_alive(
        &self,
        mut requests: RequestStream,
        mut responses: ResponseSink,
    ) -> Result<(), Status> {
        while let Some(message) = requests.next().await? {
            let request: pb::LeaseKeepAliveRequest = decode(message)?;
            // A lease that is gone is told by a time to live of 0, not by an error.
            let renewed = self.node.keep_alive(LeaseId(request.id)).await;
            let ttl = renewed.map_err(write_status)?.unwrap_or(0);
            let response = pb::LeaseKeepAliveResponse {
                header: proto_header(self.header()),
                id: request.id,
                ttl,
            };
            responses.send(encoded(&response)).await?;
        }
        Ok(())
    }

    pub(super) async fn lease_time_to_live(&self, message: Bytes) -> Result<Bytes, Status> {
        let request: pb::LeaseTimeToLiveRequest = decode(message)?;
        let id = LeaseId(request.id);
        let found = self.node.lease_status(id).await.map_err(write_status)?;
        let header = proto_header(self.header());
        let Some(lease) = found else {
            let gone = pb::LeaseTimeToLiveResponse {
                header,
                id: request.id,
                ttl: -1,
                ..Default::default()
            };
            return Ok(encoded(&gone));
        };
        let keys = if request.keys {
            self.node.keys_of_lease(id).await.map_err(write_status)?
        } else {
            Vec::new()
        };
        Ok(encoded(&pb::LeaseTimeToLiveResponse {
            header,
            id: request.id,
            ttl: lease.remaining_ttl,
            granted_ttl: lease.granted_ttl,
            keys,
        }))
    }

    pub(super) async fn lease_leases(&self, message: Bytes) -> Result<Bytes, Status> {
        let _request: pb::LeaseLeasesRequest = decode(message)?;
        let leases = self.node.leases().await.map_err(write_status)?;
        let leases = leases.into_iter().map(|id| pb::LeaseStatus { id: id.0 });
        Ok(encoded(&pb::LeaseLeasesResponse {
            header: proto_header(self.header()),
            leases: leases.collect(),
        }))
    }
}
