//! Listeners, streams and signals.
//!
//! A [`Stream`] has one send and at most one receive in flight. What tasks write during a turn is collected and
//! leaves in one send when the turn's tasks have run; what they write while a send is in flight leaves in the next
//! one. Received bytes are lent from the driver's pool, so an idle connection owns no buffer.

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

use crate::buffer::ReceiveBuffer;
use crate::detached::DetachedStream;
use crate::driver::{Connected, Handle, Listening, Op, OpKey, Outcome};
use crate::executor::Class;
use crate::world::{CompletionSink, Operation, World, unexpected};

/// Unsent bytes above which a stream takes no more from its writer.
pub(crate) const UNSENT_BYTES_MAX: usize = 128 << 10;

/// How long the unsent bytes of a dropped stream may take before the connection is cut.
pub(crate) const LINGER: Duration = Duration::from_secs(5);

/// First and longest pause after an `accept` that failed for lack of resources.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(5);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Where a socket listens or connects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// An IP address and port.
    Tcp(SocketAddr),
    /// A unix socket's path; empty for the unnamed end of a connection.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(formatter, "{address}"),
            Address::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Tcp(address)
    }
}

/// A listening socket.
pub struct Listener {
    world: World,
    handle: Handle,
    local: Address,
    /// Outlives a dropped `accept()` future, so that no connection is lost with it.
    accepting: RefCell<Option<Operation>>,
}

impl Listener {
    pub(crate) fn new(world: World, listening: Listening) -> Listener {
        let Listening { handle, local } = listening;
        Listener {
            world,
            handle,
            local,
            accepting: RefCell::new(None),
        }
    }

    /// The address it listens on, with the port that was chosen.
    pub fn local_address(&self) -> &Address {
        &self.local
    }

    /// The next connection. One task at a time. Lack of descriptors or memory is waited out with growing pauses;
    /// a connection that died in the queue is skipped.
    ///
    /// # Errors
    /// Those that leave the listener useless.
    pub async fn accept(&self) -> io::Result<Stream> {
        let mut pause = ACCEPT_PAUSE_MIN;
        loop {
            let error = match self.accept_once().await {
                Ok(connected) => return Ok(Stream::new(self.world.clone(), connected)),
                Err(error) => error,
            };
            match accept_failure(&error) {
                AcceptFailure::Connection => {}
                AcceptFailure::Resources => {
                    self.world.sleep(pause).await;
                    pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
                }
                AcceptFailure::Listener => return Err(error),
            }
        }
    }

    async fn accept_once(&self) -> io::Result<Connected> {
        let outcome = poll_fn(|context| {
            let mut accepting = self.accepting.borrow_mut();
            let operation = accepting.get_or_insert_with(|| {
                self.world.operate(Op::Accept {
                    listener: self.handle,
                })
            });
            let outcome = ready!(Pin::new(operation).poll(context));
            *accepting = None;
            Poll::Ready(outcome)
        })
        .await;
        match outcome {
            Outcome::Connected(result) => result,
            other => unexpected(&other),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.take();
        self.world.close(self.handle);
    }
}

/// What a failed accept says about the next one.
#[derive(Debug, PartialEq, Eq)]
enum AcceptFailure {
    /// Only that connection.
    Connection,
    /// Descriptors or memory ran out: later.
    Resources,
    /// The listener itself.
    Listener,
}

fn accept_failure(error: &io::Error) -> AcceptFailure {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
            AcceptFailure::Resources
        }
        // accept(2): errors of the new connection that are passed on by the call.
        Some(
            libc::ECONNABORTED
            | libc::EINTR
            | libc::EAGAIN
            | libc::EPROTO
            | libc::EPERM
            | libc::ENETDOWN
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH,
        ) => AcceptFailure::Connection,
        _ => AcceptFailure::Listener,
    }
}

/// A connected socket with tokio's I/O traits.
///
/// A write is taken into memory up to [`UNSENT_BYTES_MAX`] and sent from there; a send's error is reported by a later
/// write, flush or shutdown. Dropping the stream sends what was written (within [`LINGER`]) and closes. To be sure
/// that the kernel has everything, wait for `shutdown`.
pub struct Stream {
    core: Rc<StreamCore>,
    receiving: Option<Operation>,
    received: ReceiveBuffer,
    /// Bytes of `received` that were consumed.
    consumed: usize,
    ended: bool,
    shutting: Option<Operation>,
    shut: bool,
}

/// The half of a stream that completions reach.
struct StreamCore {
    world: World,
    handle: Handle,
    peer: Address,
    send: RefCell<SendState>,
}

/// Invariants
/// - `flying` is set exactly while a send operation is in the driver
/// - `listed` or `flying` whenever `pending` has bytes and `failed` is not set
#[derive(Default)]
struct SendState {
    pending: Vec<u8>,
    flying: Option<OpKey>,
    listed: bool,
    failed: Option<i32>,
    /// The owner is gone: close when everything is sent.
    orphaned: bool,
    closed: bool,
    wakers: Vec<Waker>,
}

impl SendState {
    fn is_idle(&self) -> bool {
        let sends = self.flying.is_some() || self.listed || !self.pending.is_empty();
        !sends && self.failed.is_none() && !self.closed
    }

    /// Has the task woken when the send in flight completes.
    fn wait(&mut self, context: &Context<'_>) {
        if !self
            .wakers
            .iter()
            .any(|waker| waker.will_wake(context.waker()))
        {
            self.wakers.push(context.waker().clone());
        }
    }
}

/// A stream with bytes to send after this turn's tasks.
pub(crate) struct Unsent {
    core: Rc<StreamCore>,
}

impl Unsent {
    pub(crate) fn start(self) {
        self.core.send.borrow_mut().listed = false;
        StreamCore::start_send(&self.core);
    }
}

impl StreamCore {
    /// Puts the pending bytes into a send if none is in flight.
    fn start_send(core: &Rc<StreamCore>) {
        let mut send = core.send.borrow_mut();
        if send.flying.is_some() || send.pending.is_empty() || send.closed || send.failed.is_some()
        {
            return;
        }
        let spare = core.world.take_bytes();
        let buffer = std::mem::replace(&mut send.pending, spare);
        let op = Op::Send {
            socket: core.handle,
            buffer,
            start: 0,
        };
        send.flying = Some(
            core.world
                .operate_into(op, Rc::clone(core) as Rc<dyn CompletionSink>),
        );
    }

    /// Has `pending` sent at the end of the turn.
    fn send_soon(core: &Rc<StreamCore>, send: &mut SendState) {
        if send.flying.is_none() && !send.listed {
            send.listed = true;
            core.world.send_later(Unsent {
                core: Rc::clone(core),
            });
        }
    }

    /// Waits until everything was sent and the handle is closed.
    async fn closed(&self) {
        poll_fn(|context| {
            let mut send = self.send.borrow_mut();
            if send.closed {
                return Poll::Ready(());
            }
            send.wait(context);
            Poll::Pending
        })
        .await;
    }

    fn close(&self) {
        if !std::mem::replace(&mut self.send.borrow_mut().closed, true) {
            self.world.close(self.handle);
        }
    }
}

impl CompletionSink for StreamCore {
    fn complete(self: Rc<Self>, outcome: Outcome) {
        let Outcome::Sent { mut buffer, result } = outcome else {
            unexpected(&outcome)
        };
        let mut send = self.send.borrow_mut();
        send.flying = None;
        match result {
            // The remainder goes first, then what was written meanwhile.
            Ok(count) if count < buffer.len() => {
                buffer.drain(..count);
                buffer.append(&mut send.pending);
                std::mem::swap(&mut send.pending, &mut buffer);
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                buffer.append(&mut send.pending);
                std::mem::swap(&mut send.pending, &mut buffer);
            }
            Err(error) => {
                send.failed = Some(error.raw_os_error().unwrap_or(libc::EPIPE));
                send.pending.clear();
            }
        }
        let drained = send.pending.is_empty();
        if drained {
            let pending = std::mem::take(&mut send.pending);
            self.world.give_bytes(pending);
        }
        let orphaned = send.orphaned;
        let wakers = std::mem::take(&mut send.wakers);
        drop(send);
        self.world.give_bytes(buffer);
        if !drained {
            StreamCore::start_send(&self);
        } else if orphaned {
            self.close();
        }
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Stream {
    pub(crate) fn new(world: World, connected: Connected) -> Stream {
        let Connected { handle, peer } = connected;
        let core = Rc::new(StreamCore {
            world,
            handle,
            peer,
            send: RefCell::default(),
        });
        let received = ReceiveBuffer::empty();
        Stream {
            core,
            receiving: None,
            received,
            consumed: 0,
            ended: false,
            shutting: None,
            shut: false,
        }
    }

    /// The other end.
    pub fn peer_address(&self) -> &Address {
        &self.core.peer
    }

    /// Bytes written that the kernel has not taken yet.
    pub fn unsent_bytes(&self) -> usize {
        self.core.send.borrow().pending.len()
    }

    /// Takes the stream from its core, for another one's [`World::attach_stream`].
    ///
    /// # Errors
    /// The stream itself unless it is idle: nothing is being received, sent or shut down, all that was received has
    /// been read, and it has not ended. So a freshly accepted one always is.
    pub fn detach(self) -> Result<DetachedStream, Stream> {
        if !self.is_idle() {
            return Err(self);
        }
        let released = self.core.world.driver().release_stream(self.core.handle);
        let Some(detached) = released else {
            return Err(self);
        };
        // So that dropping the rest of it closes nothing.
        self.core.send.borrow_mut().closed = true;
        let peer = self.core.peer.clone();
        Ok(DetachedStream { detached, peer })
    }

    fn is_idle(&self) -> bool {
        let receives = self.receiving.is_some() || !self.received.is_empty() || self.ended;
        let shuts = self.shutting.is_some() || self.shut;
        !receives && !shuts && self.core.send.borrow().is_idle()
    }

    /// Sends what was written, closes the sending half and then the stream.
    ///
    /// # Errors
    /// Of any earlier send, or of the shutdown.
    pub async fn close(mut self) -> io::Result<()> {
        poll_fn(|context| Pin::new(&mut self).poll_shutdown(context)).await
    }

    /// Space in the pending buffer, or the stream's send error.
    fn poll_space(&self, send: &mut SendState, context: &Context<'_>) -> Poll<io::Result<usize>> {
        if let Some(errno) = send.failed {
            return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
        }
        if send.pending.len() >= UNSENT_BYTES_MAX {
            send.wait(context);
            return Poll::Pending;
        }
        Poll::Ready(Ok(UNSENT_BYTES_MAX - send.pending.len()))
    }
}

impl AsyncBufRead for Stream {
    fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let stream = self.get_mut();
        while stream.consumed == stream.received.len() && !stream.ended {
            let core = &stream.core;
            let operation = stream.receiving.get_or_insert_with(|| {
                core.world.operate(Op::Receive {
                    socket: core.handle,
                })
            });
            let outcome = ready!(Pin::new(operation).poll(context));
            stream.receiving = None;
            let Outcome::Received(result) = outcome else {
                unexpected(&outcome)
            };
            stream.consumed = 0;
            stream.received = ReceiveBuffer::empty();
            match result {
                Ok(buffer) => {
                    stream.ended = buffer.is_empty();
                    stream.received = buffer;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(&stream.received[stream.consumed..]))
    }

    fn consume(self: Pin<&mut Self>, count: usize) {
        let stream = self.get_mut();
        stream.consumed += count;
        assert!(
            stream.consumed <= stream.received.len(),
            "consumed more than was received"
        );
        if stream.consumed == stream.received.len() {
            stream.consumed = 0;
            stream.received = ReceiveBuffer::empty();
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let bytes = ready!(self.as_mut().poll_fill_buf(context))?;
        let count = bytes.len().min(buffer.remaining());
        buffer.put_slice(&bytes[..count]);
        self.consume(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut send = self.core.send.borrow_mut();
        let mut space = ready!(self.poll_space(&mut send, context))?;
        let before = send.pending.len();
        for slice in slices {
            let count = slice.len().min(space);
            send.pending.extend_from_slice(&slice[..count]);
            space -= count;
        }
        let taken = send.pending.len() - before;
        if taken > 0 {
            StreamCore::send_soon(&self.core, &mut send);
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Nothing is held back: pending bytes leave at the end of the turn or with the next completion.
        match self.core.send.borrow().failed {
            Some(errno) => Poll::Ready(Err(io::Error::from_raw_os_error(errno))),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        loop {
            if stream.shut {
                return Poll::Ready(Ok(()));
            }
            if let Some(operation) = &mut stream.shutting {
                let outcome = ready!(Pin::new(operation).poll(context));
                stream.shutting = None;
                stream.shut = true;
                let Outcome::Done(result) = outcome else {
                    unexpected(&outcome)
                };
                return Poll::Ready(result);
            }
            let mut send = stream.core.send.borrow_mut();
            if let Some(errno) = send.failed {
                return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
            }
            if send.flying.is_some() || !send.pending.is_empty() {
                send.wait(context);
                return Poll::Pending;
            }
            drop(send);
            stream.shutting = Some(stream.core.world.operate(Op::Shutdown {
                socket: stream.core.handle,
            }));
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.receiving.take();
        let mut send = self.core.send.borrow_mut();
        send.orphaned = true;
        let sending = send.flying.is_some() || !send.pending.is_empty();
        drop(send);
        if !sending {
            return self.core.close();
        }
        let core = Rc::clone(&self.core);
        self.core.world.spawn(Class::Background, async move {
            // Whether it was sent or not: the connection is closed.
            let sent = core.world.timeout(LINGER, core.closed()).await;
            if sent.is_err() {
                core.close();
            }
        });
    }
}

/// What the operating system asks of the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// SIGTERM: stop in an orderly way.
    Terminate,
    /// SIGINT: the same from a terminal.
    Interrupt,
    /// SIGHUP.
    HangUp,
}

/// The signals of the process as they arrive.
pub struct Signals {
    world: World,
    waiting: Option<Operation>,
}

impl Signals {
    pub(crate) fn new(world: World) -> Signals {
        let waiting = Some(world.operate(Op::Signal));
        Signals { world, waiting }
    }

    /// The next signal.
    ///
    /// # Errors
    /// `ResourceBusy` if another core has the signals.
    pub async fn next(&mut self) -> io::Result<Signal> {
        let world = &self.world;
        let operation = self
            .waiting
            .get_or_insert_with(|| world.operate(Op::Signal));
        let outcome = operation.await;
        // Asked for again at once, so that no signal meets its default action.
        self.waiting = Some(self.world.operate(Op::Signal));
        match outcome {
            Outcome::Signal(result) => result,
            other => unexpected(&other),
        }
    }
}
