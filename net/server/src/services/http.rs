//! `/version` and `/health` on the client port.

use std::time::Duration;

use bytes::Bytes;
use engine::auth::{Identity, Policy, authorize};
use engine::command::{AlarmKind, Operation, Range};
use engine::key::KeyRange;
use grpc::{HttpRequest, HttpResponse};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW,
    CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, StatusCode};

use super::maintenance::STORAGE_VERSION;
use super::{ETCD_VERSION, EtcdService};

/// How long the health read may take.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

impl EtcdService {
    pub(super) async fn http_answer(&self, request: &HttpRequest) -> HttpResponse {
        let is_get = request.method() == Method::GET;
        let mut answer = match request.uri().path() {
            // A browser that asks for permission, of whatever.
            _ if request.method() == Method::OPTIONS => HttpResponse::new(Bytes::new()),
            "/version" if is_get => self.version_answer().await,
            "/health" if is_get => {
                let query = request.uri().query().unwrap_or("");
                self.health_answer(query).await
            }
            "/version" | "/health" => {
                let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
                answer
                    .headers_mut()
                    .insert(ALLOW, HeaderValue::from_static("GET"));
                answer
            }
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        };
        allow_all_origins(&mut answer);
        answer
    }

    async fn version_answer(&self) -> HttpResponse {
        let cluster = self.cluster_version().await;
        let storage = cluster.map_or("unknown", |_| STORAGE_VERSION);
        let cluster = cluster.unwrap_or("not_decided");
        let mut answer = text(
            StatusCode::OK,
            format!(
                r#"{{"etcdserver":"{ETCD_VERSION}","etcdcluster":"{cluster}","storage":"{storage}"}}"#
            ),
        );
        answer
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        answer
    }

    async fn health_answer(&self, query: &str) -> HttpResponse {
        let parameters: Vec<(String, String)> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .filter_map(|(name, value)| Some((unescape(name)?, unescape(value)?)))
            .collect();
        let excludes = |name: &str| parameters.iter().any(|(k, v)| k == "exclude" && v == name);
        // Only the first one counts.
        let serializable = parameters.iter().find(|(k, _)| k == "serializable");
        let serializable = serializable.is_some_and(|(_, value)| value == "true");
        let Ok(alarms) = self.node.alarms().await else {
            return health(Some("RAFT NO LEADER".to_owned()));
        };
        for (_, kind) in alarms {
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

/// A name or value of a query without its escapes; `None` if they are malformed.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        bytes.push(match first {
            b'+' => b' ',
            b'%' => {
                let digit = |at: usize| char::from(*tail.get(at)?).to_digit(16);
                rest = tail.get(2..)?;
                (digit(0)? * 16 + digit(1)?) as u8
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

/// 200 without a reason, 503 with one. JSON that calls itself text, as etcd's does.
fn health(reason: Option<String>) -> HttpResponse {
    let health = |health, reason| {
        // The fields stand in this order.
        serde_json::json!({ "health": health, "reason": reason }).to_string()
    };
    match reason {
        None => text(StatusCode::OK, health("true", String::new())),
        Some(reason) => text(
            StatusCode::SERVICE_UNAVAILABLE,
            health("false", reason) + "\n",
        ),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> HttpResponse {
    let mut answer = HttpResponse::new(body.into());
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(CONTENT_TYPE, plain);
    if !status.is_success() {
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    answer
}

/// What etcd's default for `--cors` lets browsers do.
fn allow_all_origins(answer: &mut HttpResponse) {
    for (name, value) in [
        (
            ACCESS_CONTROL_ALLOW_METHODS,
            "POST, GET, OPTIONS, PUT, DELETE",
        ),
        (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (
            ACCESS_CONTROL_ALLOW_HEADERS,
            "accept, content-type, authorization",
        ),
    ] {
        let value = HeaderValue::from_static(value);
        answer.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescape("NOSPACE").as_deref(), Some("NOSPACE"));
        assert_eq!(unescape("%4eO+%25").as_deref(), Some("NO %"));
        for malformed in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(unescape(malformed), None, "{malformed}");
        }
    }
}
