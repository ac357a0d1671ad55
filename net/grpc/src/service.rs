//! What the edge needs from the rest of the server, and what it tells about a call.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;

use crate::method::Method;
use crate::parts::UnaryAnswer;
use crate::status::{Code, Status};
use crate::stream::{RequestStream, ResponseSink};

/// A request that is not gRPC: HTTP/1.1, or an HTTP/2 request without a gRPC content type.
pub type HttpRequest = http::Request<Bytes>;

/// The answer to an [`HttpRequest`]; `content-length` is added.
pub type HttpResponse = http::Response<Bytes>;

/// What answers calls. Futures run inside their connection's future: dropped when the call is
/// cancelled, its deadline passes, or the connection ends.
pub trait Service: 'static {
    /// Answers one message with one message. `message` is unframed and decompressed, at most
    /// [`Limits::message_bytes_max`] long; the answer is encoded protobuf, whole or in parts.
    fn unary(
        self: Rc<Self>,
        context: CallContext,
        method: Method,
        message: Bytes,
    ) -> impl Future<Output = Result<UnaryAnswer, Status>>;

    /// Serves a method that streams. The stream ends with the status that is returned.
    fn stream(
        self: Rc<Self>,
        context: CallContext,
        method: Method,
        requests: RequestStream,
        responses: ResponseSink,
    ) -> impl Future<Output = Result<(), Status>>;

    /// Answers a plain HTTP request.
    fn http(self: Rc<Self>, request: HttpRequest) -> impl Future<Output = HttpResponse>;

    /// Told what happens to the calls of a method, for whoever counts. A request that is refused before it is whole, or
    /// names no method, is not told of.
    fn note(&self, _method: Method, _event: CallEvent) {}
}

/// Something that happened to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallEvent {
    /// Its service begins: the message of a unary call is there.
    Started,
    /// Messages came from the caller.
    Received(Messages),
    /// Messages left for the caller.
    Sent(Messages),
    /// It has ended.
    Handled {
        /// As what.
        code: Code,
        /// Since it started.
        nanos: u64,
    },
}

/// How many messages, and their length without framing and compression.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// How many.
    pub count: u64,
    /// Of all of them.
    pub bytes: u64,
}

impl Messages {
    /// One message of `bytes` bytes.
    pub fn one(bytes: usize) -> Messages {
        Messages {
            count: 1,
            bytes: bytes as u64,
        }
    }
}

/// Time as the connection sees it: the reactor's, or a test's.
pub trait Clock: Clone + 'static {
    /// Monotonic nanoseconds.
    fn now_nanos(&self) -> u64;

    /// Completes once `now_nanos` has reached `nanos`.
    fn sleep_until(&self, nanos: u64) -> impl Future<Output = ()> + 'static;
}

impl Clock for reactor::World {
    fn now_nanos(&self) -> u64 {
        self.now().nanos()
    }

    fn sleep_until(&self, nanos: u64) -> impl Future<Output = ()> + 'static {
        reactor::World::sleep_until(self, reactor::Timestamp(nanos))
    }
}

/// What the caller said about a call besides its message.
#[derive(Clone, Debug)]
pub struct CallContext {
    /// Who called: the address of the other side, for logs.
    pub peer: Rc<str>,
    /// Value of `token`, else of `authorization` without its `Bearer ` prefix.
    pub token: Option<Bytes>,
    /// `hasleader: true`: refuse when no leader is known.
    pub requires_leader: bool,
    /// `client-api-version`, if it is valid UTF-8 as it must be.
    pub client_api_version: Option<HeaderValue>,
    /// The call came through the JSON gateway, so a client certificate says nothing about its user.
    pub through_gateway: bool,
    /// When the caller gives up, on the connection's clock. The connection ends the call by itself.
    pub deadline_nanos: Option<u64>,
    /// Begins when the server stops; long streams should end then.
    pub shutdown: Shutdown,
}

/// Bounds and times of a connection. The defaults are the ones documented in
/// `docs/internals/grpc.md`.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Longest request message, compressed or not (`--max-request-bytes` plus 512 KiB).
    pub message_bytes_max: usize,
    /// Most streams open at once per connection.
    pub streams_max: u32,
    /// Longest decoded header list, in HTTP/2's measure.
    pub header_list_bytes_max: u32,
    /// Receive window of a stream: how much of a request may arrive unasked.
    pub stream_window_bytes: u32,
    /// Receive window of a connection: what one peer can make the server hold.
    pub connection_window_bytes: u32,
    /// What a stream may have queued below its flow-control window before its sink waits.
    pub stream_send_bytes_max: usize,
    /// From accept to a whole preface or HTTP/1 request head.
    pub preface_timeout: Duration,
    /// For a frame or header block that has begun to arrive.
    pub frame_timeout: Duration,
    /// For the whole message of a unary request, after its headers.
    pub message_timeout: Duration,
    /// For a peer that does not take what is written to it.
    pub write_timeout: Duration,
    /// An HTTP/1 connection without a request is closed after this.
    pub http1_idle_timeout: Duration,
    /// A connection that was silent this long is pinged.
    pub keepalive_interval: Duration,
    /// A ping must be answered within this.
    pub keepalive_timeout: Duration,
    /// From the start of a shutdown until calls that still run are ended.
    pub drain_timeout: Duration,
    /// Resets that a peer may send at once beyond its finished calls.
    pub resets_burst: u32,
    /// Resets per second it may add to that.
    pub resets_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            message_bytes_max: (1536 + 512) * 1024,
            streams_max: 4096,
            header_list_bytes_max: 64 * 1024,
            stream_window_bytes: 256 * 1024,
            connection_window_bytes: 1024 * 1024,
            stream_send_bytes_max: 256 * 1024,
            preface_timeout: Duration::from_secs(5),
            frame_timeout: Duration::from_secs(10),
            message_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(60),
            http1_idle_timeout: Duration::from_secs(60),
            keepalive_interval: Duration::from_secs(2 * 60 * 60),
            keepalive_timeout: Duration::from_secs(20),
            drain_timeout: Duration::from_millis(500),
            resets_burst: 200,
            resets_per_second: 50,
        }
    }
}

/// Tells every connection and stream of a core that the server stops. Begins once, never ends.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(Rc<ShutdownState>);

#[derive(Debug, Default)]
struct ShutdownState {
    begun: Cell<bool>,
    next_waiter: Cell<u64>,
    waiters: RefCell<BTreeMap<u64, Waker>>,
}

impl Shutdown {
    /// Not begun.
    pub fn new() -> Self {
        Shutdown::default()
    }

    /// Begins it; every waiter is woken.
    pub fn begin(&self) {
        self.0.begun.set(true);
        let waiters = self.0.waiters.take();
        for waker in waiters.into_values() {
            waker.wake();
        }
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.0.begun.get()
    }

    /// Completes when it begins.
    pub fn begun(&self) -> impl Future<Output = ()> + 'static {
        let mut waiter = Waiter {
            state: Rc::clone(&self.0),
            id: None,
        };
        poll_fn(move |cx| waiter.poll(cx.waker()))
    }
}

/// One future that waits; leaves the table when dropped.
struct Waiter {
    state: Rc<ShutdownState>,
    id: Option<u64>,
}

impl Waiter {
    fn poll(&mut self, waker: &Waker) -> Poll<()> {
        if self.state.begun.get() {
            return Poll::Ready(());
        }
        let id = *self.id.get_or_insert_with(|| {
            let id = self.state.next_waiter.get();
            self.state.next_waiter.set(id + 1);
            id
        });
        self.state.waiters.borrow_mut().insert(id, waker.clone());
        Poll::Pending
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.state.waiters.borrow_mut().remove(&id);
        }
    }
}
