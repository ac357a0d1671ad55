//! The peer port of a member without peers: it answers `/version` and `/members`, as tools ask
//! there, and refuses everything else by name.

use std::rc::Rc;

use bytes::Bytes;
use grpc::{
    CallContext, Code, HttpRequest, HttpResponse, Method, RequestStream, ResponseSink, Service,
    Status, UnaryAnswer,
};
use http::{HeaderValue, StatusCode, header::CONTENT_TYPE};

use crate::node::Node;
use crate::services::{CLUSTER_VERSION, ETCD_VERSION};

/// Serves the peer port.
pub struct PeerService {
    node: Node,
}

impl PeerService {
    /// The peer port of `node`.
    pub fn new(node: Node) -> Rc<PeerService> {
        Rc::new(PeerService { node })
    }
}

fn refused() -> Status {
    Status::new(
        Code::Unimplemented,
        "ringd: the peer port serves no client requests",
    )
}

impl Service for PeerService {
    async fn unary(
        self: Rc<Self>,
        _context: CallContext,
        _method: Method,
        _message: Bytes,
    ) -> Result<UnaryAnswer, Status> {
        Err(refused())
    }

    async fn stream(
        self: Rc<Self>,
        _context: CallContext,
        _method: Method,
        _requests: RequestStream,
        _responses: ResponseSink,
    ) -> Result<(), Status> {
        Err(refused())
    }

    async fn http(self: Rc<Self>, request: HttpRequest) -> HttpResponse {
        let (status, body) = match request.uri().path() {
            "/version" => (
                StatusCode::OK,
                serde_json::json!({ "etcdserver": ETCD_VERSION, "etcdcluster": CLUSTER_VERSION }),
            ),
            "/members" => {
                let members = self.node.members().await.unwrap_or_default();
                let members = members.into_iter().map(|member| {
                    serde_json::json!({
                        "id": member.id,
                        "name": member.name,
                        "peerURLs": member.peer_urls,
                        "clientURLs": member.client_urls,
                    })
                });
                (StatusCode::OK, serde_json::Value::Array(members.collect()))
            }
            _ => (
                StatusCode::NOT_FOUND,
                serde_json::json!({ "error": "ringd: clusters of several members are not supported yet" }),
            ),
        };
        let mut answer = HttpResponse::new(Bytes::from(body.to_string()));
        *answer.status_mut() = status;
        let json = HeaderValue::from_static("application/json");
        answer.headers_mut().insert(CONTENT_TYPE, json);
        answer
    }
}
