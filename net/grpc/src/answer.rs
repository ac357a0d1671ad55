//! The HTTP/2 shape of answers: headers, data, trailers.
//!
//! A failed send means that the peer has reset the stream or is gone; there is nobody to tell, so it
//! is not an error here.

use bytes::Bytes;
use h2::SendStream;
use h2::server::SendResponse;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::frame::Frame;
use crate::service::HttpResponse;
use crate::status::{Code, Status};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// Headers of an answer that is going to have messages.
pub(crate) fn head() -> Response<()> {
    let mut response = Response::new(());
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// The whole answer of a unary call: headers, one message, trailers.
pub(crate) fn unary(mut respond: SendResponse<Frame>, result: Result<Bytes, Status>) {
    let frame = match result.and_then(Frame::message) {
        Ok(frame) => frame,
        Err(status) => return error(respond, &status),
    };
    if let Ok(mut stream) = respond.send_response(head(), false)
        && stream.send_data(frame, false).is_ok()
    {
        end(stream, None);
    }
}

/// An error without messages: one header frame that ends the stream.
pub(crate) fn error(mut respond: SendResponse<Frame>, status: &Status) {
    let mut response = head();
    put_status(response.headers_mut(), Some(status));
    if status.code == Code::Unimplemented {
        response
            .headers_mut()
            .insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    }
    ignore_lost_peer(respond.send_response(response, true));
}

/// A success without messages, as a stream may end.
pub(crate) fn empty(mut respond: SendResponse<Frame>) {
    let mut response = head();
    put_status(response.headers_mut(), None);
    ignore_lost_peer(respond.send_response(response, true));
}

/// Ends an answer that has begun.
pub(crate) fn end(mut stream: SendStream<Frame>, error: Option<&Status>) {
    let mut trailers = HeaderMap::new();
    put_status(&mut trailers, error);
    ignore_lost_peer(stream.send_trailers(trailers));
}

/// A plain HTTP answer.
pub(crate) fn http(mut respond: SendResponse<Frame>, response: HttpResponse, head_only: bool) {
    let (mut parts, body) = response.into_parts();
    parts
        .headers
        .insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    let ends = head_only || body.is_empty();
    if let Ok(mut stream) = respond.send_response(Response::from_parts(parts, ()), ends)
        && !ends
    {
        ignore_lost_peer(stream.send_data(Frame::raw(body), true));
    }
}

/// A plain HTTP refusal.
pub(crate) fn refusal(status: StatusCode, text: String) -> HttpResponse {
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

fn put_status(headers: &mut HeaderMap, error: Option<&Status>) {
    headers.insert(
        GRPC_STATUS,
        error.map_or(Code::Ok, |status| status.code).header_value(),
    );
    if let Some(status) = error
        && !status.message.is_empty()
    {
        headers.insert(GRPC_MESSAGE, status.header_message());
    }
}

fn ignore_lost_peer<T>(result: Result<T, h2::Error>) {
    drop(result);
}
