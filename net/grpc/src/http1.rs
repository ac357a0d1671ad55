//! HTTP/1.1 for `/version`, `/health` and the like: short requests, whole bodies, keep-alive.
//!
//! Bodies need a `content-length`; chunked ones and upgrades are refused.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HeaderName, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method as HttpMethod, Request, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::answer;
use crate::call::Environment;
use crate::connection::{read_some, until};
use crate::service::{Clock, HttpRequest, HttpResponse, Service};

/// Most header fields of a request.
const HEADERS_MAX: usize = 64;

/// Serves requests until one asks to close, the peer leaves or the server stops. `head` was read
/// already; the first request's head must be complete by `by`.
pub(crate) async fn serve<S, C, IO>(
    environment: Environment<S, C>,
    mut io: IO,
    head: BytesMut,
    by: u64,
) where
    S: Service,
    C: Clock,
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut received = head;
    let mut by = by;
    loop {
        let exchange = exchange(&environment, &mut io, &mut received, by).await;
        if !matches!(exchange, Ok(Next::KeepAlive)) || environment.shutdown.has_begun() {
            break;
        }
        by = in_future(&environment, environment.limits.http1_idle_timeout);
    }
    // The peer may be gone; then there is nothing left to close.
    let closing = poll_fn(|cx| Pin::new(&mut io).poll_shutdown(cx));
    let by = in_future(&environment, environment.limits.write_timeout);
    drop(until(&environment.clock, by, closing).await);
}

/// What follows an exchange.
#[derive(PartialEq, Eq)]
enum Next {
    KeepAlive,
    Close,
}

/// Why there was none.
enum Broken {
    /// The peer has gone or was too slow.
    Lost,
    /// It is told why, then the connection is closed.
    Refused(StatusCode, &'static str),
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Broken::Lost
    }
}

fn in_future<S, C: Clock>(environment: &Environment<S, C>, wait: std::time::Duration) -> u64 {
    environment
        .clock
        .now_nanos()
        .saturating_add(wait.as_nanos() as u64)
}

/// One request and its answer.
async fn exchange<S, C, IO>(
    environment: &Environment<S, C>,
    io: &mut IO,
    received: &mut BytesMut,
    by: u64,
) -> Result<Next, Broken>
where
    S: Service,
    C: Clock,
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (request, keep_alive) = match read_request(environment, io, received, by).await {
        Ok(read) => read,
        Err(Broken::Refused(status, text)) => {
            let response = answer::refusal(status, text.to_owned());
            write_response(environment, io, response, false, Next::Close).await?;
            return Ok(Next::Close);
        }
        Err(Broken::Lost) => return Err(Broken::Lost),
    };
    let head_only = request.method() == HttpMethod::HEAD;
    let response = Rc::clone(&environment.service).http(request).await;
    let next = if keep_alive && !environment.shutdown.has_begun() {
        Next::KeepAlive
    } else {
        Next::Close
    };
    write_response(environment, io, response, head_only, next).await
}

async fn read_request<S, C, IO>(
    environment: &Environment<S, C>,
    io: &mut IO,
    received: &mut BytesMut,
    by: u64,
) -> Result<(HttpRequest, bool), Broken>
where
    C: Clock,
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let limits = &environment.limits;
    let (head, head_bytes) = loop {
        if let Some(parsed) = parse_head(received)? {
            break parsed;
        }
        if received.len() > limits.header_list_bytes_max as usize {
            return Err(Broken::Refused(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "the request head is too large\n",
            ));
        }
        receive(environment, io, received, by).await?;
    };
    received.advance(head_bytes);
    let body_bytes = body_length(head.headers())?;
    if body_bytes > limits.message_bytes_max {
        return Err(Broken::Refused(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the request body is too large\n",
        ));
    }
    if received.len() < body_bytes && expects_continue(head.headers()) {
        write_all(environment, io, b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let by = in_future(environment, limits.message_timeout);
    while received.len() < body_bytes {
        receive(environment, io, received, by).await?;
    }
    let keep_alive = keeps_alive(&head);
    let body = received.split_to(body_bytes).freeze();
    Ok((head.map(|()| body), keep_alive))
}

/// Reads something or gives up at `by`, or when the server stops while nothing has arrived.
async fn receive<S, C, IO>(
    environment: &Environment<S, C>,
    io: &mut IO,
    received: &mut BytesMut,
    by: u64,
) -> Result<(), Broken>
where
    C: Clock,
    IO: AsyncRead + Unpin,
{
    let idle = received.is_empty();
    let mut reading = std::pin::pin!(until(&environment.clock, by, read_some(io, received)));
    let mut stopped = std::pin::pin!(environment.shutdown.begun());
    let count = poll_fn(|cx| {
        if let std::task::Poll::Ready(read) = reading.as_mut().poll(cx) {
            return std::task::Poll::Ready(read);
        }
        if idle && stopped.as_mut().poll(cx).is_ready() {
            return std::task::Poll::Ready(None);
        }
        std::task::Poll::Pending
    })
    .await;
    match count {
        Some(Ok(count)) if count > 0 => Ok(()),
        _ => Err(Broken::Lost),
    }
}

/// The request's head and its length, or `None` if it is not complete.
fn parse_head(received: &[u8]) -> Result<Option<(Request<()>, usize)>, Broken> {
    let bad = |text| Broken::Refused(StatusCode::BAD_REQUEST, text);
    let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    let head_bytes = match parsed.parse(received) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Broken::Refused(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "the request has too many header fields\n",
            ));
        }
        Err(_) => return Err(bad("the request head is malformed\n")),
    };
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else {
        return Err(bad("the request line is malformed\n"));
    };
    let version = if parsed.version == Some(0) {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    let mut request = Request::builder()
        .method(method)
        .uri(target)
        .version(version)
        .body(())
        .map_err(|_| bad("the request line is malformed\n"))?;
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_bytes(field.value);
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(bad("a header field is malformed\n"));
        };
        request.headers_mut().append(name, value);
    }
    Ok(Some((request, head_bytes)))
}

fn body_length(headers: &HeaderMap) -> Result<usize, Broken> {
    if headers.contains_key(TRANSFER_ENCODING) {
        return Err(Broken::Refused(
            StatusCode::LENGTH_REQUIRED,
            "chunked bodies are not taken; send a content-length\n",
        ));
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = match (lengths.next(), lengths.next()) {
        (None, _) => Some(0),
        (Some(value), None) => value.to_str().ok().and_then(parse_length),
        (Some(_), Some(_)) => None,
    };
    length.ok_or(Broken::Refused(
        StatusCode::BAD_REQUEST,
        "the content-length is malformed\n",
    ))
}

/// Digits only: `usize::from_str` would take a sign.
fn parse_length(text: &str) -> Option<usize> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

fn expects_continue(headers: &HeaderMap) -> bool {
    headers
        .get(EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

fn keeps_alive(request: &Request<()>) -> bool {
    let named = |wanted: &str| {
        request.headers().get_all(CONNECTION).iter().any(|value| {
            value
                .as_bytes()
                .split(|byte| *byte == b',')
                .any(|part| part.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()))
        })
    };
    if request.version() == Version::HTTP_10 {
        named("keep-alive")
    } else {
        !named("close")
    }
}

async fn write_response<S, C, IO>(
    environment: &Environment<S, C>,
    io: &mut IO,
    response: HttpResponse,
    head_only: bool,
    next: Next,
) -> Result<Next, Broken>
where
    C: Clock,
    IO: AsyncWrite + Unpin,
{
    let status = response.status();
    let body: &Bytes = response.body();
    let mut bytes = BytesMut::with_capacity(256 + body.len());
    let reason = status.canonical_reason().unwrap_or("");
    bytes.put_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).as_bytes());
    for (name, value) in response.headers() {
        if name != CONTENT_LENGTH && name != CONNECTION {
            put_field(&mut bytes, name.as_str(), value.as_bytes());
        }
    }
    put_field(
        &mut bytes,
        "content-length",
        body.len().to_string().as_bytes(),
    );
    if next == Next::Close {
        put_field(&mut bytes, "connection", b"close");
    }
    bytes.put_slice(b"\r\n");
    if !head_only {
        bytes.put_slice(body);
    }
    write_all(environment, io, &bytes).await?;
    Ok(next)
}

fn put_field(bytes: &mut BytesMut, name: &str, value: &[u8]) {
    bytes.put_slice(name.as_bytes());
    bytes.put_slice(b": ");
    bytes.put_slice(value);
    bytes.put_slice(b"\r\n");
}

async fn write_all<S, C, IO>(
    environment: &Environment<S, C>,
    io: &mut IO,
    bytes: &[u8],
) -> Result<(), Broken>
where
    C: Clock,
    IO: AsyncWrite + Unpin,
{
    let by = in_future(environment, environment.limits.write_timeout);
    let mut rest = bytes;
    let writing = async {
        while !rest.is_empty() {
            let count = poll_fn(|cx| Pin::new(&mut *io).poll_write(cx, rest)).await?;
            if count == 0 {
                return Err(Broken::Lost);
            }
            rest = &rest[count..];
        }
        poll_fn(|cx| Pin::new(&mut *io).poll_flush(cx)).await?;
        Ok(())
    };
    until(&environment.clock, by, writing)
        .await
        .unwrap_or(Err(Broken::Lost))
}
