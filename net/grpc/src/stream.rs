//! The two sides of a streaming call, as a service sees them.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::SendStream;
use h2::server::SendResponse;

use crate::answer;
use crate::batch::MessageBatch;
use crate::frame::{Frame, MessageReader, PREFIX_BYTES, ReadError};
use crate::service::Messages;
use crate::status::{CONTEXT_CANCELED, Status};

/// The caller's messages.
pub struct RequestStream {
    reader: MessageReader,
    /// What came since the call was looked at last.
    received: Tally,
}

/// Messages that passed and were not told of yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally(Rc<Cell<Messages>>);

impl Tally {
    fn add(&self, messages: Messages) {
        let Messages { count, bytes } = self.0.get();
        self.0.set(Messages {
            count: count + messages.count,
            bytes: bytes + messages.bytes,
        });
    }

    /// What passed since the last call, if anything did.
    pub(crate) fn take(&self) -> Option<Messages> {
        let messages = self.0.take();
        (messages.count > 0).then_some(messages)
    }
}

impl RequestStream {
    pub(crate) fn new(reader: MessageReader, received: Tally) -> Self {
        RequestStream { reader, received }
    }

    /// The next message, or `None` once the caller has ended its side.
    ///
    /// # Errors
    /// What the caller did wrong, or `Canceled` if it is gone; either way there is nothing more to
    /// read, and the error is what the call should end with.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// [`RequestStream::next`] as a poll, for loops that wait on several things.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        let read = self.reader.poll_next(cx);
        if let Poll::Ready(Ok(Some(message))) = &read {
            self.received.add(Messages::one(message.len()));
        }
        read.map_err(|error| match error {
            ReadError::Refused(status) => status,
            ReadError::Gone => CONTEXT_CANCELED,
        })
    }
}

/// The caller's end of the answers.
///
/// A message that is sent waits in the connection until the peer's flow control and the socket take
/// it. [`ResponseSink::ready`] returns only when everything sent before has been granted its place in
/// the peer's window, so a sender that builds each answer after `ready` holds at most one of them:
/// a slow peer makes it wait, not queue.
pub struct ResponseSink {
    side: Rc<SendSide>,
}

/// The sending half of a stream, shared by the sink and by the call that ends it.
pub(crate) struct SendSide {
    state: RefCell<SendState>,
    pending: Rc<Cell<usize>>,
    /// What was sent since the call was looked at last.
    sent: Tally,
}

enum SendState {
    /// No header has been sent: an error can still go out alone.
    Unanswered(SendResponse<Frame>),
    /// Messages may follow.
    Open(SendStream<Frame>),
    /// Ended or lost.
    Closed,
}

impl ResponseSink {
    pub(crate) fn new(side: Rc<SendSide>) -> Self {
        ResponseSink { side }
    }

    /// Sends the headers, if they have not gone out with a message already, so that a caller which
    /// waits for them learns that the stream is open.
    ///
    /// # Errors
    /// `Canceled` if the caller is gone.
    pub fn open(&mut self) -> Result<(), Status> {
        self.side.with_open(|_| Ok(()))
    }

    /// Waits until the next message would be sent rather than queued.
    ///
    /// # Errors
    /// `Canceled` if the caller is gone.
    pub async fn ready(&mut self) -> Result<(), Status> {
        poll_fn(|cx| self.poll_ready(cx)).await
    }

    /// [`ResponseSink::ready`] as a poll.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.side.poll_ready(cx)
    }

    /// Waits until there is room, then sends `message`.
    ///
    /// # Errors
    /// `Canceled` if the caller is gone.
    pub async fn send(&mut self, message: Bytes) -> Result<(), Status> {
        self.ready().await?;
        self.send_now(message)
    }

    /// Waits until there is room, then sends a message that consists of `buffers`.
    ///
    /// # Errors
    /// As for [`ResponseSink::send_now`].
    pub async fn send_chain(&mut self, buffers: Vec<Bytes>) -> Result<(), Status> {
        self.ready().await?;
        let bytes = buffers.iter().map(Bytes::len).sum();
        let frame = Frame::chain(buffers)?.counted(&self.side.pending);
        self.side.send(frame, Messages::one(bytes))
    }

    /// Sends `message` without waiting. Meant for after [`ResponseSink::ready`], and for short answers
    /// to the caller's own messages.
    ///
    /// # Errors
    /// `Canceled` if the caller is gone, `ResourceExhausted` if the message is larger than 4 GiB.
    pub fn send_now(&mut self, message: Bytes) -> Result<(), Status> {
        let messages = Messages::one(message.len());
        let frame = Frame::message(message)?.counted(&self.side.pending);
        self.side.send(frame, messages)
    }

    /// Waits until there is room, then sends the messages of `batch` in one piece. The wait is for the first of them,
    /// so a batch counts as one message in what a sender holds.
    ///
    /// # Errors
    /// `Canceled` if the caller is gone.
    pub async fn send_batch(&mut self, batch: MessageBatch) -> Result<(), Status> {
        if batch.is_empty() {
            return Ok(());
        }
        self.ready().await?;
        let messages = batch.messages();
        let frame = Frame::raw(batch.into_bytes()).counted(&self.side.pending);
        self.side.send(frame, messages)
    }

    /// Bytes sent and not yet handed to the socket's write buffer.
    pub fn pending_bytes(&self) -> usize {
        self.side.pending.get()
    }
}

impl SendSide {
    pub(crate) fn new(respond: SendResponse<Frame>) -> Rc<Self> {
        Rc::new(SendSide {
            state: RefCell::new(SendState::Unanswered(respond)),
            pending: Rc::default(),
            sent: Tally::default(),
        })
    }

    /// What was sent and not told of yet.
    pub(crate) fn sent(&self) -> &Tally {
        &self.sent
    }

    /// Sends a frame that holds `messages`.
    fn send(&self, frame: Frame, messages: Messages) -> Result<(), Status> {
        self.with_open(|stream| stream.send_data(frame, false))?;
        self.sent.add(messages);
        Ok(())
    }

    /// A message of `bytes` bytes has left in parts.
    pub(crate) fn message_left(&self, bytes: u64) {
        self.sent.add(Messages { count: 1, bytes });
    }

    /// Runs `action` on the open stream, sending the headers first if they are due.
    pub(crate) fn with_open(
        &self,
        action: impl FnOnce(&mut SendStream<Frame>) -> Result<(), h2::Error>,
    ) -> Result<(), Status> {
        let mut state = self.state.borrow_mut();
        if let SendState::Unanswered(respond) = &mut *state {
            *state = match respond.send_response(answer::head(), false) {
                Ok(stream) => SendState::Open(stream),
                Err(_) => SendState::Closed,
            };
        }
        match &mut *state {
            SendState::Open(stream) => action(stream).map_err(|_| CONTEXT_CANCELED),
            _ => Err(CONTEXT_CANCELED),
        }
    }

    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        match &mut *self.state.borrow_mut() {
            SendState::Unanswered(_) => Poll::Ready(Ok(())),
            SendState::Open(stream) => {
                // More than a prefix, so that what was sent before has its place first.
                stream.reserve_capacity(PREFIX_BYTES + 1);
                if stream.capacity() > 0 {
                    return Poll::Ready(Ok(()));
                }
                match stream.poll_capacity(cx) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(Some(Ok(_))) => Poll::Ready(Ok(())),
                    Poll::Ready(Some(Err(_)) | None) => Poll::Ready(Err(CONTEXT_CANCELED)),
                }
            }
            SendState::Closed => Poll::Ready(Err(CONTEXT_CANCELED)),
        }
    }

    /// Completes when the peer resets the stream.
    pub(crate) fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut *self.state.borrow_mut() {
            SendState::Unanswered(respond) => respond.poll_reset(cx).map(drop),
            SendState::Open(stream) => stream.poll_reset(cx).map(drop),
            SendState::Closed => Poll::Ready(()),
        }
    }

    /// Ends the stream with `result`.
    pub(crate) fn finish(&self, result: Result<(), Status>) {
        match std::mem::replace(&mut *self.state.borrow_mut(), SendState::Closed) {
            SendState::Unanswered(respond) => match result {
                Ok(()) => answer::empty(respond),
                Err(status) => answer::error(respond, &status),
            },
            SendState::Open(stream) => answer::end(stream, result.as_ref().err()),
            SendState::Closed => {}
        }
    }
}
