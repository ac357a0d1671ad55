//! What is not gRPC: `/version`, `/health`, `/livez`, `/readyz` and `/metrics`, on the client port and, but for the
//! first, on the listeners for metrics.

use std::rc::Rc;

use bytes::Bytes;
use grpc::{
    CallContext, Code, HttpRequest, HttpResponse, Method as Call, RequestStream, ResponseSink,
    Service, Status, UnaryAnswer,
};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW,
    CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, StatusCode};

use super::maintenance::STORAGE_VERSION;
use super::{ETCD_VERSION, EtcdService, health};
use crate::metrics;
use crate::node::Node;

/// Value of `x-content-type-options`.
pub(super) const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

impl EtcdService {
    pub(super) async fn http_answer(&self, request: &HttpRequest) -> HttpResponse {
        let path = request.uri().path();
        let mut answer = if request.method() == Method::OPTIONS {
            // A browser that asks for permission, of whatever.
            HttpResponse::new(Bytes::new())
        } else if path == "/version" {
            match request.method() {
                &Method::GET => self.version_answer().await,
                _ => method_not_allowed(),
            }
        } else {
            observation(&self.node, request).await
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
}

/// What `--listen-metrics-urls` answer: metrics and health, and nothing else.
pub struct MetricsService {
    node: Node,
}

impl MetricsService {
    /// Of `node`.
    pub fn new(node: Node) -> Rc<MetricsService> {
        Rc::new(MetricsService { node })
    }
}

fn refused() -> Status {
    Status::fixed(
        Code::Unimplemented,
        "ringd: a listener for metrics serves no client requests",
    )
}

impl Service for MetricsService {
    async fn unary(
        self: Rc<Self>,
        _context: CallContext,
        _method: Call,
        _message: Bytes,
    ) -> Result<UnaryAnswer, Status> {
        Err(refused())
    }

    async fn stream(
        self: Rc<Self>,
        _context: CallContext,
        _method: Call,
        _requests: RequestStream,
        _responses: ResponseSink,
    ) -> Result<(), Status> {
        Err(refused())
    }

    async fn http(self: Rc<Self>, request: HttpRequest) -> HttpResponse {
        observation(&self.node, &request).await
    }
}

/// Metrics and health.
async fn observation(node: &Node, request: &HttpRequest) -> HttpResponse {
    let is_get = request.method() == Method::GET;
    match request.uri().path() {
        // As etcd, whatever the method is.
        "/metrics" => metrics_answer(node).await,
        "/health" if is_get => health::health(node, request).await,
        "/health" => method_not_allowed(),
        path if health::is_check(path) && !is_get => method_not_allowed(),
        _ => match health::checks(node, request).await {
            Some(answer) => answer,
            None => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        },
    }
}

async fn metrics_answer(node: &Node) -> HttpResponse {
    let mut answer = text(StatusCode::OK, metrics::page(node).await);
    let kind = HeaderValue::from_static(metrics::text::CONTENT_TYPE);
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

fn method_not_allowed() -> HttpResponse {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    answer
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static("GET"));
    answer
}

pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> HttpResponse {
    let mut answer = HttpResponse::new(body.into());
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(CONTENT_TYPE, plain);
    if !status.is_success() {
        headers.insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
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

/// The parameters of a query. Malformed ones are passed over, as in etcd.
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(super) fn of(request: &HttpRequest) -> Parameters {
        Parameters::parse(request.uri().query().unwrap_or(""))
    }

    fn parse(query: &str) -> Parameters {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.filter(|pair| !pair.contains(';'));
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let pairs = pairs.filter_map(|(name, value)| Some((unescape(name)?, unescape(value)?)));
        Parameters(pairs.collect())
    }

    /// Whether `name` is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// Whether `name` is there with this value.
    pub(super) fn any(&self, name: &str, value: &str) -> bool {
        self.0
            .iter()
            .any(|(key, found)| key == name && found == value)
    }

    /// The first value of `name`.
    pub(super) fn first(&self, name: &str) -> Option<&str> {
        let mut values = self.0.iter().filter(|(key, _)| key == name);
        values.next().map(|(_, value)| value.as_str())
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

    #[test]
    fn parameters_may_have_no_value_and_malformed_ones_are_passed_over() {
        let check = |query: &str, expected: &[(&str, &str)]| {
            let found = Parameters::parse(query).0;
            let found: Vec<_> = found.iter().map(|(k, v)| (&k[..], &v[..])).collect();
            assert_eq!(found, expected, "{query}");
        };
        check("", &[]);
        check("verbose", &[("verbose", "")]);
        check(
            "verbose&exclude=a&exclude=b",
            &[("verbose", ""), ("exclude", "a"), ("exclude", "b")],
        );
        check("%zz&a=%zz&b=1&c=1;d=2&&e=%20", &[("b", "1"), ("e", " ")]);
    }
}
