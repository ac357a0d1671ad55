//! MemberList. Changes of membership are refused by name until replication is there.

use bytes::Bytes;
use grpc::Status;
use grpc::mapping::request::decode;
use grpc::proto::etcdserverpb as pb;

use super::{EtcdService, encoded, proto_header, write_status};

impl EtcdService {
    pub(super) async fn member_list(&self, message: Bytes) -> Result<Bytes, Status> {
        // The only member decides alone, so its list is linearizable either way.
        let _request: pb::MemberListRequest = decode(message)?;
        let members = self.node.members().await.map_err(write_status)?;
        let members = members.into_iter().map(|member| pb::Member {
            id: member.id,
            name: member.name,
            peer_ur_ls: member.peer_urls,
            client_ur_ls: member.client_urls,
            is_learner: false,
        });
        let header = grpc::mapping::Header {
            revision: 0,
            ..self.header()
        };
        Ok(encoded(&pb::MemberListResponse {
            header: proto_header(header),
            members: members.collect(),
        }))
    }
}
