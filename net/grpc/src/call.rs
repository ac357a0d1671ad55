//! One request on an HTTP/2 connection, from its headers to its answer.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method as HttpMethod, Request, StatusCode};

use crate::answer;
use crate::frame::{AssemblyBudget, Encoding, Frame, MessageReader, ReadError};
use crate::method::{Method, Shape};
use crate::parts::UnaryAnswer;
use crate::service::{
    CallContext, CallEvent, Clock, HttpRequest, HttpResponse, Limits, Messages, Service, Shutdown,
};
use crate::status::{CONTEXT_DEADLINE_EXCEEDED, Code, INVALID_CLIENT_API_VERSION, STOPPED, Status};
use crate::stream::{RequestStream, ResponseSink, SendSide, Tally};

/// What the calls of a connection share.
pub(crate) struct Environment<S, C> {
    pub(crate) service: Rc<S>,
    pub(crate) clock: C,
    pub(crate) limits: Rc<Limits>,
    pub(crate) shutdown: Shutdown,
    pub(crate) peer: Rc<str>,
}

/// A deadline that never comes.
pub(crate) const NEVER: u64 = u64::MAX;

/// A call in progress.
pub(crate) struct Call {
    stage: Stage,
    /// What is told of it; none of a plain request, and of a unary call before its message is there.
    told: Option<Told>,
    /// When the call is ended from outside; [`NEVER`] if it is not.
    expires_at: u64,
}

/// A call that was told of as started.
#[derive(Clone, Copy)]
struct Told {
    method: Method,
    started_nanos: u64,
}

impl Told {
    fn start<S: Service, C: Clock>(method: Method, environment: &Environment<S, C>) -> Told {
        environment.service.note(method, CallEvent::Started);
        Told {
            method,
            started_nanos: environment.clock.now_nanos(),
        }
    }

    fn handled<S: Service, C: Clock>(self, code: Code, environment: &Environment<S, C>) {
        let nanos = environment
            .clock
            .now_nanos()
            .saturating_sub(self.started_nanos);
        let handled = CallEvent::Handled { code, nanos };
        environment.service.note(self.method, handled);
    }
}

type Answer<T> = Pin<Box<dyn Future<Output = T>>>;

enum Stage {
    /// The one message of a unary call has not arrived entirely.
    Gathering(Box<Gathering>),
    Unary {
        respond: SendResponse<Frame>,
        answer: Answer<Result<UnaryAnswer, Status>>,
    },
    Stream {
        side: Rc<SendSide>,
        received: Tally,
        answer: Answer<Result<(), Status>>,
    },
    /// The body of a plain request has not arrived entirely.
    Body(Box<Body>),
    Http {
        respond: SendResponse<Frame>,
        head_only: bool,
        answer: Answer<HttpResponse>,
    },
    Done,
}

struct Gathering {
    respond: SendResponse<Frame>,
    reader: MessageReader,
    message: Option<Bytes>,
    method: Method,
    context: CallContext,
    /// The server's own limit for the arrival of the message counts.
    limited: bool,
}

struct Body {
    respond: SendResponse<Frame>,
    parts: Parts,
    stream: RecvStream,
    received: BytesMut,
}

/// How a call came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finished {
    /// It was answered.
    Answered,
    /// The caller reset it or has gone.
    Lost,
}

/// Why a call is ended from outside.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    /// Its deadline passed.
    Expired,
    /// The server stops.
    Stopped,
}

impl Call {
    /// Starts what `request` asks for; a request that is refused is answered at once and `None`
    /// returned.
    pub(crate) fn start<S: Service, C: Clock>(
        request: Request<RecvStream>,
        respond: SendResponse<Frame>,
        environment: &Environment<S, C>,
        budget: &AssemblyBudget,
    ) -> Option<Call> {
        let (parts, body) = request.into_parts();
        if !is_grpc(&parts) {
            return Call::plain(parts, body, respond, environment);
        }
        // A query is part of a method's name, which makes it unknown.
        let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
        let accepted = Method::from_path(path)
            .map_err(|unknown| Status::new(Code::Unimplemented, unknown.to_string()))
            .and_then(|method| Ok((method, CallHead::read(&parts.headers)?)));
        let (method, head) = match accepted {
            Ok(accepted) => accepted,
            Err(status) => {
                answer::error(respond, &status);
                return None;
            }
        };
        let expires_at = match head.timeout {
            // As etcd: a call that comes too late is refused before its message is looked at.
            Some(Duration::ZERO) => {
                answer::error(respond, &CONTEXT_DEADLINE_EXCEEDED);
                return None;
            }
            Some(timeout) => after(&environment.clock, timeout),
            None => NEVER,
        };
        let reader = MessageReader::new(
            body,
            head.encoding,
            environment.limits.message_bytes_max,
            budget.clone(),
        );
        let context = head.context(environment, expires_at);
        let mut told = None;
        let stage = if method.shape() == Shape::Unary {
            Stage::Gathering(Box::new(Gathering {
                respond,
                reader,
                message: None,
                method,
                context,
                limited: false,
            }))
        } else {
            told = Some(Told::start(method, environment));
            let side = SendSide::new(respond);
            let received = Tally::default();
            let service = Rc::clone(&environment.service);
            let requests = RequestStream::new(reader, received.clone());
            let responses = ResponseSink::new(Rc::clone(&side));
            let answer = Box::pin(service.stream(context, method, requests, responses));
            Stage::Stream {
                side,
                received,
                answer,
            }
        };
        Some(Call {
            stage,
            told,
            expires_at,
        })
    }

    fn plain<S: Service, C: Clock>(
        parts: Parts,
        stream: RecvStream,
        respond: SendResponse<Frame>,
        environment: &Environment<S, C>,
    ) -> Option<Call> {
        if Method::from_path(parts.uri.path()).is_ok() {
            let found = parts.headers.get(http::header::CONTENT_TYPE);
            let found = found.map_or(&b""[..], HeaderValue::as_bytes);
            let text = format!(
                "invalid gRPC request content-type {:?}",
                String::from_utf8_lossy(found)
            );
            let response = answer::refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
            answer::http(respond, response, false);
            return None;
        }
        let body = Body {
            respond,
            parts,
            stream,
            received: BytesMut::new(),
        };
        let expires_at = after(&environment.clock, environment.limits.message_timeout);
        Some(Call {
            stage: Stage::Body(Box::new(body)),
            told: None,
            expires_at,
        })
    }

    /// When the call wants to be ended.
    pub(crate) fn expires_at(&self) -> u64 {
        self.expires_at
    }

    /// Whether it waits for its message without a limit of the server's own.
    pub(crate) fn wants_limit(&self) -> bool {
        matches!(&self.stage, Stage::Gathering(gathering) if !gathering.limited)
    }

    /// Ends the call no later than `at`, as long as it waits for its message.
    pub(crate) fn limit_gathering(&mut self, at: u64) {
        if let Stage::Gathering(gathering) = &mut self.stage {
            gathering.limited = true;
            self.expires_at = self.expires_at.min(at);
        }
    }

    /// Moves the call on; ready when it has ended.
    pub(crate) fn poll<S: Service, C: Clock>(
        &mut self,
        environment: &Environment<S, C>,
        cx: &mut Context<'_>,
    ) -> Poll<Finished> {
        let polled = self.poll_stages(environment, cx);
        if polled == Poll::Ready(Finished::Lost) {
            self.abandon(environment);
        }
        polled
    }

    /// Tells that the call has ended, if that was not told.
    fn ended<S: Service, C: Clock>(&mut self, code: Code, environment: &Environment<S, C>) {
        if let Some(told) = self.told.take() {
            told.handled(code, environment);
        }
    }

    /// The caller is gone.
    pub(crate) fn abandon<S: Service, C: Clock>(&mut self, environment: &Environment<S, C>) {
        self.tell_messages(environment);
        self.ended(Code::Canceled, environment);
    }

    /// Tells of the messages of a stream that have passed.
    fn tell_messages<S: Service, C>(&self, environment: &Environment<S, C>) {
        let (Stage::Stream { side, received, .. }, Some(told)) = (&self.stage, self.told) else {
            return;
        };
        if let Some(messages) = received.take() {
            let service = &environment.service;
            service.note(told.method, CallEvent::Received(messages));
        }
        if let Some(messages) = side.sent().take() {
            environment
                .service
                .note(told.method, CallEvent::Sent(messages));
        }
    }

    fn poll_stages<S: Service, C: Clock>(
        &mut self,
        environment: &Environment<S, C>,
        cx: &mut Context<'_>,
    ) -> Poll<Finished> {
        loop {
            match &mut self.stage {
                Stage::Gathering(gathering) => {
                    let message = ready!(gathering.poll(cx));
                    let Stage::Gathering(gathering) = self.take() else {
                        return Poll::Ready(Finished::Lost);
                    };
                    match message {
                        Ok(message) => {
                            self.expires_at = gathering.context.deadline_nanos.unwrap_or(NEVER);
                            let timed = self.expires_at != NEVER;
                            if timed && self.expires_at <= environment.clock.now_nanos() {
                                answer::error(gathering.respond, &CONTEXT_DEADLINE_EXCEEDED);
                                return Poll::Ready(Finished::Answered);
                            }
                            self.run_unary(*gathering, message, environment);
                        }
                        Err(ReadError::Refused(status)) => {
                            answer::error(gathering.respond, &status);
                            return Poll::Ready(Finished::Answered);
                        }
                        Err(ReadError::Gone) => return Poll::Ready(Finished::Lost),
                    }
                }
                Stage::Unary { respond, answer } => {
                    let Poll::Ready(result) = answer.as_mut().poll(cx) else {
                        return respond.poll_reset(cx).map(|_| Finished::Lost);
                    };
                    let Stage::Unary { respond, .. } = self.take() else {
                        return Poll::Ready(Finished::Lost);
                    };
                    let message = match result {
                        Ok(UnaryAnswer::Parts(parts)) => {
                            let side = SendSide::new(respond);
                            let answer = parts.start(Rc::clone(&side));
                            self.stage = Stage::Stream {
                                side,
                                received: Tally::default(),
                                answer,
                            };
                            continue;
                        }
                        Ok(UnaryAnswer::Message(message)) => Ok(message),
                        Err(status) => Err(status),
                    };
                    if let (Ok(message), Some(told)) = (&message, self.told) {
                        let sent = CallEvent::Sent(Messages::one(message.len()));
                        environment.service.note(told.method, sent);
                    }
                    self.ended(code_of(&message), environment);
                    answer::unary(respond, message);
                    return Poll::Ready(Finished::Answered);
                }
                Stage::Stream { side, answer, .. } => {
                    let polled = answer.as_mut().poll(cx);
                    let side = Rc::clone(side);
                    self.tell_messages(environment);
                    let Poll::Ready(result) = polled else {
                        return side.poll_reset(cx).map(|()| Finished::Lost);
                    };
                    self.ended(code_of(&result), environment);
                    side.finish(result);
                    return Poll::Ready(Finished::Answered);
                }
                Stage::Body(body) => {
                    let bytes_max = environment.limits.message_bytes_max;
                    let complete = ready!(body.poll(bytes_max, cx));
                    let Stage::Body(body) = self.take() else {
                        return Poll::Ready(Finished::Lost);
                    };
                    match complete {
                        Ok(()) => self.run_http(*body, environment),
                        Err(Some(response)) => {
                            answer::http(body.respond, response, false);
                            return Poll::Ready(Finished::Answered);
                        }
                        Err(None) => return Poll::Ready(Finished::Lost),
                    }
                }
                Stage::Http {
                    respond, answer, ..
                } => {
                    let Poll::Ready(response) = answer.as_mut().poll(cx) else {
                        return respond.poll_reset(cx).map(|_| Finished::Lost);
                    };
                    if let Stage::Http {
                        respond, head_only, ..
                    } = self.take()
                    {
                        answer::http(respond, response, head_only);
                    }
                    return Poll::Ready(Finished::Answered);
                }
                Stage::Done => return Poll::Ready(Finished::Lost),
            }
        }
    }

    /// Whether it has come to the server's own limit for the arrival of its message, not to its deadline.
    fn is_late(&self) -> bool {
        matches!(&self.stage, Stage::Gathering(gathering)
            if gathering.context.deadline_nanos != Some(self.expires_at))
    }

    fn take(&mut self) -> Stage {
        std::mem::replace(&mut self.stage, Stage::Done)
    }

    fn run_unary<S: Service, C: Clock>(
        &mut self,
        gathering: Gathering,
        message: Bytes,
        environment: &Environment<S, C>,
    ) {
        let Gathering {
            respond,
            method,
            context,
            ..
        } = gathering;
        self.told = Some(Told::start(method, environment));
        let service = Rc::clone(&environment.service);
        service.note(method, CallEvent::Received(Messages::one(message.len())));
        let answer = Box::pin(service.unary(context, method, message));
        self.stage = Stage::Unary { respond, answer };
    }

    fn run_http<S: Service, C>(&mut self, body: Body, environment: &Environment<S, C>) {
        self.expires_at = NEVER;
        let head_only = body.parts.method == HttpMethod::HEAD;
        let request = HttpRequest::from_parts(body.parts, body.received.freeze());
        let answer = Box::pin(Rc::clone(&environment.service).http(request));
        self.stage = Stage::Http {
            respond: body.respond,
            head_only,
            answer,
        };
    }

    /// Ends the call without its service: what runs is dropped, the caller told why.
    pub(crate) fn end<S: Service, C: Clock>(&mut self, end: End, environment: &Environment<S, C>) {
        let status = match end {
            End::Expired if self.is_late() => Status::fixed(
                Code::DeadlineExceeded,
                "grpc: the request did not arrive in time",
            ),
            End::Expired => CONTEXT_DEADLINE_EXCEEDED,
            End::Stopped => STOPPED,
        };
        self.tell_messages(environment);
        self.ended(status.code, environment);
        match self.take() {
            Stage::Gathering(gathering) => answer::error(gathering.respond, &status),
            Stage::Unary { respond, answer } => {
                drop(answer);
                answer::error(respond, &status);
            }
            Stage::Stream { side, answer, .. } => {
                drop(answer);
                side.finish(Err(status));
            }
            Stage::Body(mut body) => body.respond.send_reset(Reason::CANCEL),
            Stage::Http { mut respond, .. } => respond.send_reset(Reason::CANCEL),
            Stage::Done => {}
        }
    }
}

impl Gathering {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, ReadError>> {
        self.reader.poll_single(&mut self.message, cx)
    }
}

impl Body {
    /// Ready with an answer if the body is refused, with `None` if the peer is gone.
    fn poll(
        &mut self,
        bytes_max: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Option<HttpResponse>>> {
        while !self.stream.is_end_stream() {
            let data = match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => data,
                Some(Err(_)) => return Poll::Ready(Err(None)),
                None => break,
            };
            if self.received.len() + data.len() > bytes_max {
                let text = format!("the request body is larger than {bytes_max} bytes");
                let response = answer::refusal(StatusCode::PAYLOAD_TOO_LARGE, text);
                return Poll::Ready(Err(Some(response)));
            }
            if self
                .stream
                .flow_control()
                .release_capacity(data.len())
                .is_err()
            {
                return Poll::Ready(Err(None));
            }
            self.received.extend_from_slice(&data);
        }
        Poll::Ready(Ok(()))
    }
}

fn code_of<T>(result: &Result<T, Status>) -> Code {
    result.as_ref().err().map_or(Code::Ok, |status| status.code)
}

fn is_grpc(parts: &Parts) -> bool {
    parts.method == HttpMethod::POST
        && parts
            .headers
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|value| {
                matches!(
                    value.as_bytes().strip_prefix(b"application/grpc"),
                    Some([] | [b'+' | b';', ..])
                )
            })
}

fn after<C: Clock>(clock: &C, duration: Duration) -> u64 {
    clock
        .now_nanos()
        .saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(NEVER))
}

/// The headers of a call that mean something.
struct CallHead {
    encoding: Encoding,
    timeout: Option<Duration>,
    token: Option<Bytes>,
    requires_leader: bool,
    client_api_version: Option<HeaderValue>,
    through_gateway: bool,
}

impl CallHead {
    /// Reads all of them in one walk.
    fn read(headers: &HeaderMap) -> Result<Self, Status> {
        let mut head = CallHead {
            encoding: Encoding::Identity,
            timeout: None,
            token: None,
            requires_leader: false,
            client_api_version: None,
            through_gateway: false,
        };
        let mut authorization = None;
        for (name, value) in headers {
            match name.as_str() {
                "grpc-encoding" => head.encoding = Encoding::from_header(Some(value))?,
                "grpc-timeout" => head.timeout = Some(parse_timeout(value)?),
                "token" => head.token = Some(Bytes::copy_from_slice(value.as_bytes())),
                "authorization" => authorization = Some(value),
                "hasleader" => head.requires_leader = value.as_bytes() == b"true",
                "client-api-version" => {
                    if std::str::from_utf8(value.as_bytes()).is_err() {
                        return Err(INVALID_CLIENT_API_VERSION);
                    }
                    head.client_api_version = Some(value.clone());
                }
                "grpcgateway-accept" => head.through_gateway = true,
                _ => {}
            }
        }
        if head.token.is_none() {
            head.token = authorization.map(|value| {
                let bytes = value.as_bytes();
                Bytes::copy_from_slice(bytes.strip_prefix(b"Bearer ").unwrap_or(bytes))
            });
        }
        Ok(head)
    }

    fn context<S, C>(self, environment: &Environment<S, C>, expires_at: u64) -> CallContext {
        CallContext {
            peer: Rc::clone(&environment.peer),
            token: self.token,
            requires_leader: self.requires_leader,
            client_api_version: self.client_api_version,
            through_gateway: self.through_gateway,
            deadline_nanos: (expires_at != NEVER).then_some(expires_at),
            shutdown: environment.shutdown.clone(),
        }
    }
}

/// At most eight digits and a unit.
fn parse_timeout(value: &HeaderValue) -> Result<Duration, Status> {
    let malformed = || {
        let text = String::from_utf8_lossy(value.as_bytes());
        Status::new(Code::Internal, format!("malformed grpc-timeout: {text:?}"))
    };
    let [digits @ .., unit] = value.as_bytes() else {
        return Err(malformed());
    };
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return Err(malformed());
    }
    let count = digits
        .iter()
        .fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Ok(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return Err(malformed()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_says() {
        let check = |text: &str, expected: Option<Duration>| {
            let parsed = HeaderValue::from_str(text).map(|value| parse_timeout(&value));
            assert_eq!(parsed.unwrap().ok(), expected, "{text}");
        };
        check("1H", Some(Duration::from_secs(3600)));
        check("2M", Some(Duration::from_secs(120)));
        check("3S", Some(Duration::from_secs(3)));
        check("4m", Some(Duration::from_millis(4)));
        check("5u", Some(Duration::from_micros(5)));
        check("99999999n", Some(Duration::from_nanos(99_999_999)));
        check("0n", Some(Duration::ZERO));
        check("", None);
        check("S", None);
        check("1", None);
        check("1s", None);
        check("-1S", None);
        check("123456789S", None);
        check("1 S", None);
    }

    #[test]
    fn a_token_wins_over_an_authorization() {
        let check = |headers: &[(&'static str, &'static str)], expected: Option<&[u8]>| {
            let headers = headers
                .iter()
                .map(|(name, value)| {
                    let name = http::HeaderName::from_static(name);
                    (name, HeaderValue::from_static(value))
                })
                .collect();
            let head = CallHead::read(&headers).unwrap();
            assert_eq!(head.token.as_deref(), expected);
        };
        check(&[], None);
        check(&[("token", "a.1")], Some(b"a.1"));
        check(&[("authorization", "a.2")], Some(b"a.2"));
        check(&[("authorization", "Bearer a.3")], Some(b"a.3"));
        check(&[("authorization", "a.2"), ("token", "a.1")], Some(b"a.1"));
    }
}
