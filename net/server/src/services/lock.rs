//! Lock and Unlock.

use std::rc::Rc;

use bytes::Bytes;
use engine::command::Reply;
use grpc::mapping::request::decode;
use grpc::proto::etcdserverpb::{DeleteRangeRequest, RangeRequest};
use grpc::proto::v3lockpb as pb;
use grpc::{CallContext, Method, Status};

use super::contest::contest_error;
use super::{EtcdService, encoded, proto_header, wire_header};

impl EtcdService {
    /// Answers when the caller's key is the oldest one under the name.
    pub(super) async fn lock(
        self: &Rc<Self>,
        context: &CallContext,
        message: Bytes,
    ) -> Result<Bytes, Status> {
        let request: pb::LockRequest = decode(message)?;
        let lease = self.session(context, request.lease).await?;
        let entered = self.enter(context, &request.name, lease, Bytes::new());
        let entered = entered.await?;
        let candidate = entered.candidate;
        let mut header = entered.header;
        if !entered.is_first {
            let withdrawal = self.withdrawing(context, &candidate);
            self.wait_for_turn(context, &candidate).await?;
            let own = RangeRequest {
                key: candidate.key.clone(),
                ..RangeRequest::default()
            };
            let answer = self.ask(context, Method::Range, &own).await?;
            // The lease may have ended while its turn came.
            if !matches!(&answer.reply, Reply::Range(range) if range.count > 0) {
                return Err(contest_error("mutex: session is expired"));
            }
            header = wire_header(answer.header);
            withdrawal.never();
        }
        Ok(encoded(&pb::LockResponse {
            header: proto_header(header),
            key: candidate.key,
        }))
    }

    /// Deletes the key, whoever has it.
    pub(super) async fn unlock(
        &self,
        context: &CallContext,
        message: Bytes,
    ) -> Result<Bytes, Status> {
        let request: pb::UnlockRequest = decode(message)?;
        let delete = DeleteRangeRequest {
            key: request.key,
            ..DeleteRangeRequest::default()
        };
        let answer = self.ask(context, Method::DeleteRange, &delete).await?;
        Ok(encoded(&pb::UnlockResponse {
            header: proto_header(wire_header(answer.header)),
        }))
    }
}
