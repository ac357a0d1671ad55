//! A peer that sends anything, to a whole connection: HTTP/2, HTTP/1, gRPC frames, requests.
//!
//! The connection must come to its end once the peer is gone or silent for good, without turning in
//! circles; and whatever it answers to HTTP/2 is a sequence of whole frames.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use grpc::mapping::{AlarmOperation, Header, RequestLimits, WatchAnswer, WatchRequest, operation};
use grpc::{
    CallContext, Clock, Code, HttpRequest, HttpResponse, Limits, Method, RequestStream,
    ResponseSink, Service, Shutdown, Status, UnaryAnswer,
};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{request, steer, steered};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD_BYTES: usize = 9;
/// What a server may send in one frame unless it is told otherwise, and what one may ask for at most.
const FRAME_BYTES_MAX: usize = (1 << 24) - 1;

/// Begins with the input itself, not with an HTTP/2 preface and empty settings.
const RAW: u8 = 1;
/// The peer falls silent at the end instead of closing.
const SILENT: u8 = 2;
/// The peer takes only so many bytes of answers.
const SLOW: u8 = 4;
/// The server stops half-way.
const STOPS: u8 = 8;
/// Bytes arrive in pieces: their length stands in the highest two bits.
const PIECES: [usize; 4] = [usize::MAX, 1, 9, 1_000];

const SLOW_BYTES: usize = 4_096;
/// By then a silent peer has been pinged in vain, which takes up to two keepalive intervals, and
/// everything else has timed out.
const LONGEST_LIFE_NANOS: u64 = 5 * 60 * 60 * 1_000_000_000;
/// Far more than any input needs: a connection that is polled more often turns in circles.
const POLLS_MAX: usize = 200_000;

/// Sends `data` to a connection.
pub fn check(data: &[u8]) {
    let Some((steering, input)) = steered(data) else {
        return;
    };
    let mut incoming = VecDeque::new();
    if steering & RAW == 0 {
        incoming.push_back([PREFACE, &frame(4, 0, 0, &[])].concat());
    }
    let piece = PIECES[usize::from(steering >> 6)];
    incoming.extend(input.chunks(piece).map(<[u8]>::to_vec));
    let peer = Rc::new(Peer {
        stop_at: (steering & STOPS != 0).then_some(incoming.len() / 2),
        incoming: RefCell::new(incoming),
        silent: steering & SILENT != 0,
        room: Cell::new(match steering & SLOW {
            0 => usize::MAX,
            _ => SLOW_BYTES,
        }),
        answered: RefCell::default(),
        shutdown: Shutdown::new(),
    });
    let time = Time::default();
    let connection = grpc::serve_connection(
        time.clone(),
        Stream(Rc::clone(&peer)),
        Rc::from("fuzz"),
        Rc::new(Answering),
        Rc::new(Limits::default()),
        peer.shutdown.clone(),
    );
    time.run(connection);
    if steering & RAW == 0 {
        check_frames(&peer.answered.borrow());
    }
}

/// Whole frames, the first of them settings; the last may be cut where the peer takes no more.
fn check_frames(mut answered: &[u8]) {
    let mut first = true;
    while answered.len() >= FRAME_HEAD_BYTES {
        let len = usize::from(answered[0]) << 16
            | usize::from(answered[1]) << 8
            | usize::from(answered[2]);
        assert!(len <= FRAME_BYTES_MAX);
        assert!(answered[3] <= 9, "frame of kind {}", answered[3]);
        assert!(!first || answered[3] == 4, "settings come first");
        first = false;
        let end = (FRAME_HEAD_BYTES + len).min(answered.len());
        answered = &answered[end..];
    }
}

/// The other side of the connection.
struct Peer {
    incoming: RefCell<VecDeque<Vec<u8>>>,
    silent: bool,
    room: Cell<usize>,
    answered: RefCell<Vec<u8>>,
    /// The server stops when so many pieces are left.
    stop_at: Option<usize>,
    shutdown: Shutdown,
}

struct Stream(Rc<Peer>);

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut incoming = self.0.incoming.borrow_mut();
        if self.0.stop_at.is_some_and(|left| incoming.len() <= left) && !self.0.shutdown.has_begun()
        {
            self.0.shutdown.begin();
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(piece) = incoming.front_mut() else {
            return match self.0.silent {
                true => Poll::Pending,
                false => Poll::Ready(Ok(())),
            };
        };
        let count = piece.len().min(buffer.remaining());
        buffer.put_slice(&piece[..count]);
        piece.drain(..count);
        if piece.is_empty() {
            incoming.pop_front();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = bytes.len().min(self.0.room.get());
        if count == 0 && !bytes.is_empty() {
            return Poll::Pending;
        }
        self.0.room.set(self.0.room.get() - count);
        self.0
            .answered
            .borrow_mut()
            .extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Virtual time: it moves when nothing else does.
#[derive(Clone, Default)]
struct Time(Rc<TimeState>);

#[derive(Default)]
struct TimeState {
    now: Cell<u64>,
    next_sleeper: Cell<u64>,
    sleepers: RefCell<BTreeMap<(u64, u64), Waker>>,
}

/// Set when the only task wants to be polled again.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Time {
    /// Runs `future` to its end, which must come.
    fn run(&self, future: impl Future<Output = ()>) {
        let mut future = pin!(future);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        for _ in 0..POLLS_MAX {
            if future
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_ready()
            {
                return;
            }
            if woken.0.swap(false, Ordering::Relaxed) {
                continue;
            }
            let next = self.0.sleepers.borrow_mut().pop_first();
            let ((at, _), waker) = next.expect("a connection that waits for nothing");
            self.0.now.set(self.0.now.get().max(at));
            assert!(at < LONGEST_LIFE_NANOS, "a connection without an end");
            waker.wake();
        }
        panic!("a connection that turns in circles");
    }
}

impl Clock for Time {
    fn now_nanos(&self) -> u64 {
        self.0.now.get()
    }

    fn sleep_until(&self, nanos: u64) -> impl Future<Output = ()> + 'static {
        let id = self.0.next_sleeper.get();
        self.0.next_sleeper.set(id + 1);
        let sleep = Sleep {
            time: self.clone(),
            key: (nanos, id),
        };
        poll_fn(move |cx| sleep.poll(cx))
    }
}

struct Sleep {
    time: Time,
    key: (u64, u64),
}

impl Sleep {
    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        if self.time.now_nanos() >= self.key.0 {
            return Poll::Ready(());
        }
        let mut sleepers = self.time.0.sleepers.borrow_mut();
        sleepers.insert(self.key, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.time.0.sleepers.borrow_mut().remove(&self.key);
    }
}

/// Reads every request and answers with as little as the method allows.
struct Answering;

impl Service for Answering {
    async fn unary(
        self: Rc<Self>,
        _: CallContext,
        method: Method,
        message: Bytes,
    ) -> Result<UnaryAnswer, Status> {
        match method {
            Method::Alarm => drop(AlarmOperation::decode(message)?),
            Method::MemberList => {}
            // Never answered: ends with its deadline or with the connection.
            Method::Lock => std::future::pending().await,
            _ => drop(operation(method, message, &RequestLimits::default())?),
        }
        Ok(Header::default().encode().into())
    }

    async fn stream(
        self: Rc<Self>,
        context: CallContext,
        method: Method,
        mut requests: RequestStream,
        mut responses: ResponseSink,
    ) -> Result<(), Status> {
        match method {
            Method::Watch => {
                while let Some(message) = requests.next().await? {
                    WatchRequest::decode(message)?;
                    responses.send(WatchAnswer::default().encode()).await?;
                }
                Ok(())
            }
            Method::Snapshot => {
                for _ in 0..16 {
                    responses.send(Bytes::from_static(&[7; 10_000])).await?;
                }
                Ok(())
            }
            Method::RangeStream => Err(Status::new(Code::Unknown, "50 % \u{e9}")),
            _ => {
                responses.open()?;
                context.shutdown.begun().await;
                Err(grpc::status::STOPPED)
            }
        }
    }

    async fn http(self: Rc<Self>, request: HttpRequest) -> HttpResponse {
        http::Response::new(Bytes::from(request.uri().to_string()))
    }
}

/// A frame with its head.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![len[1], len[2], len[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A header block without any compression.
fn headers(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

fn call(stream: u32, path: &str, more: &[(&str, &str)], messages: &[Vec<u8>]) -> Vec<u8> {
    let mut fields = vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "fuzz"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    fields.extend_from_slice(more);
    let mut bytes = frame(1, 4, stream, &headers(&fields));
    for message in messages {
        let mut framed = vec![0];
        framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
        framed.extend_from_slice(message);
        bytes.extend(frame(0, 0, stream, &framed));
    }
    bytes.extend(frame(0, 1, stream, &[]));
    bytes
}

/// Calls, streams, resets and pings; HTTP/1; what is none of these.
pub fn seeds() -> Vec<Vec<u8>> {
    let put = vec![request::put().encode_to_vec()];
    let watches: Vec<Vec<u8>> = request::watches()
        .iter()
        .map(Message::encode_to_vec)
        .collect();
    let unary = call(1, "/etcdserverpb.KV/Put", &[], &put);
    let late = call(
        3,
        "/v3lockpb.Lock/Lock",
        &[("grpc-timeout", "5S"), ("token", "t")],
        &put,
    );
    let watch = call(
        5,
        "/etcdserverpb.Watch/Watch",
        &[("hasleader", "true")],
        &watches,
    );
    let snapshot = call(7, "/etcdserverpb.Maintenance/Snapshot", &[], &[Vec::new()]);
    let unknown = call(9, "/x.Y/Z", &[("grpc-encoding", "gzip")], &put);
    let reset = frame(3, 0, 3, &[0, 0, 0, 8]);
    let ping = frame(6, 0, 0, b"8 bytes.");
    let window = frame(8, 0, 0, &[0, 0, 255, 255]);
    let settings = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1]);
    let goaway = frame(7, 0, 0, &[0; 8]);
    let together = [
        &settings, &unary, &late, &reset, &watch, &ping, &snapshot, &window, &unknown, &goaway,
    ];
    let together: Vec<u8> = together.into_iter().flatten().copied().collect();
    let raw = [
        b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
        b"POST /v3/kv/put HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n{}{}".to_vec(),
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM".to_vec(),
        [PREFACE, &settings, &unary].concat(),
    ];
    let mut seeds: Vec<Vec<u8>> = raw.iter().map(|input| steer(RAW, input)).collect();
    seeds.extend([&unary, &late, &watch, &snapshot, &unknown].map(|call| steer(0, call)));
    seeds.push(steer(SILENT, &late));
    seeds.push(steer(SLOW, &together));
    seeds.push(steer(STOPS | 2 << 6, &together));
    seeds.push(steer(1 << 6, &together));
    seeds
}
