//! `/version` and `/health` on the client port.

use std::time::Duration;

use bytes::Bytes;
use engine::auth::{Identity, Policy, authorize};
use engine::command::{AlarmKind, Operation, Range};
use engine::key::KeyRange;
use grpc::{HttpRequest, HttpResponse};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, StatusCode};

use super::maintenance::STORAGE_VERSION;
use super::{ETCD_VERSION, EtcdService};

/// How long the health read may take.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

impl EtcdService {
    pub(super) async fn http_answer(&self, request: &HttpRequest) -> HttpResponse {
        let known = matches!(request.uri().path(), "/version" | "/health");
        if !known {
            return text(StatusCode::NOT_FOUND, "404 page not found\n");
        }
        if request.method() != Method::GET {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
            answer
                .headers_mut()
                .insert(http::header::ALLOW, HeaderValue::from_static("GET"));
            return answer;
        }
        match request.uri().path() {
            "/version" => self.version_answer(),
            _ => {
                self.health_answer(request.uri().query().unwrap_or(""))
                    .await
            }
        }
    }

    fn version_answer(&self) -> HttpResponse {
        let cluster = self.cluster_version();
        json(
            StatusCode::OK,
            &serde_json::json!({
                "etcdserver": ETCD_VERSION,
                "etcdcluster": cluster.unwrap_or("not_decided"),
                "storage": if cluster.is_some() { STORAGE_VERSION } else { "unknown" },
            }),
        )
    }

    async fn health_answer(&self, query: &str) -> HttpResponse {
        let parameters = || query.split('&').filter_map(|pair| pair.split_once('='));
        let excludes = |name: &str| parameters().any(|(k, v)| k == "exclude" && v == name);
        let serializable = parameters().any(|(k, v)| k == "serializable" && v == "true");
        for (_, kind) in self.node.alarms() {
            let name = match kind {
                AlarmKind::NoSpace => "NOSPACE",
                AlarmKind::Corrupt => "CORRUPT",
            };
            if !excludes(name) {
                return health(Some(format!("ALARM {name}")));
            }
        }
        if !serializable && !self.node.has_leader() {
            return health(Some("RAFT NO LEADER".to_owned()));
        }
        let range = Range {
            limit: 1,
            serializable,
            ..Range::all(KeyRange::single(Bytes::from_static(b"health")))
        };
        let operation = authorize(
            Operation::Range(range),
            &Identity::Member,
            &Policy::Disabled,
        );
        let Ok(operation) = operation else {
            return health(Some("RANGE ERROR:permission denied".to_owned()));
        };
        match self
            .node
            .world()
            .timeout(HEALTH_TIMEOUT, self.node.execute(operation))
            .await
        {
            Ok(Ok(_)) => health(None),
            Ok(Err(error)) => health(Some(format!("RANGE ERROR:{error:?}"))),
            Err(_) => health(Some("RANGE ERROR:context deadline exceeded".to_owned())),
        }
    }
}

/// 200 without a reason, 503 with one.
fn health(reason: Option<String>) -> HttpResponse {
    let status = if reason.is_none() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let health = if reason.is_none() { "true" } else { "false" };
    json(
        status,
        &serde_json::json!({ "health": health, "reason": reason.unwrap_or_default() }),
    )
}

fn json(status: StatusCode, value: &serde_json::Value) -> HttpResponse {
    let mut answer = text(status, "");
    *answer.body_mut() = Bytes::from(value.to_string());
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn text(status: StatusCode, body: &'static str) -> HttpResponse {
    let mut answer = HttpResponse::new(Bytes::from_static(body.as_bytes()));
    *answer.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, plain);
    answer
}
