//! Unary answers that are too long to be held: one message, sent part by part.
//!
//! The length is announced before the first part, so it must be known exactly. An answer that fails in the
//! middle ends with its status in the trailers and an unfinished message, which no client takes for whole.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;

use crate::frame::{Frame, announced};
use crate::status::{Code, Status};
use crate::stream::SendSide;

/// What a unary call is answered with.
pub enum UnaryAnswer {
    /// Encoded protobuf.
    Message(Bytes),
    /// The same in parts, of which no more exists at a time than the peer keeps up with.
    Parts(MessageParts),
}

impl From<Bytes> for UnaryAnswer {
    fn from(message: Bytes) -> Self {
        UnaryAnswer::Message(message)
    }
}

type Sending = Pin<Box<dyn Future<Output = Result<(), Status>>>>;

/// A message that is made while it is sent.
pub struct MessageParts {
    bytes: u64,
    send: Box<dyn FnOnce(PartSink) -> Sending>,
}

impl MessageParts {
    /// A message of `bytes` bytes, at least one, all of which `send` has to send. What it fails with ends the
    /// call.
    pub fn new<F>(bytes: u64, send: impl FnOnce(PartSink) -> F + 'static) -> Self
    where
        F: Future<Output = Result<(), Status>> + 'static,
    {
        assert!(bytes > 0, "a message without bytes has no parts");
        MessageParts {
            bytes,
            send: Box::new(|sink| Box::pin(send(sink))),
        }
    }

    /// The future that sends it on `side`.
    pub(crate) fn start(self, side: Rc<SendSide>) -> Sending {
        let announced = match announced(self.bytes) {
            Ok(length) => length,
            Err(refused) => return Box::pin(async { Err(refused) }),
        };
        let bytes = self.bytes;
        let left = Rc::new(Cell::new(bytes));
        let sent = (self.send)(PartSink {
            side: Rc::clone(&side),
            announced: Some(announced),
            left: Rc::clone(&left),
        });
        Box::pin(async move {
            sent.await?;
            match left.get() {
                0 => {
                    side.message_left(bytes);
                    Ok(())
                }
                left => Err(Status::new(
                    Code::Internal,
                    format!("grpc: the message ended {left} bytes before its end"),
                )),
            }
        })
    }
}

/// Where the parts of a message go.
pub struct PartSink {
    side: Rc<SendSide>,
    /// The length, until it goes out with the first part.
    announced: Option<u32>,
    left: Rc<Cell<u64>>,
}

impl PartSink {
    /// Waits until the peer has room, then sends a part: a chain of buffers.
    ///
    /// # Errors
    /// `Canceled` if the caller is gone, `Internal` if the message would be longer than announced.
    pub async fn send(&mut self, part: Vec<Bytes>) -> Result<(), Status> {
        poll_fn(|cx| self.side.poll_ready(cx)).await?;
        let bytes: u64 = part.iter().map(|buffer| buffer.len() as u64).sum();
        let Some(left) = self.left.get().checked_sub(bytes) else {
            return Err(Status::fixed(
                Code::Internal,
                "grpc: the message is longer than announced",
            ));
        };
        if bytes == 0 && self.announced.is_none() {
            return Ok(());
        }
        self.left.set(left);
        let frame = Frame::part(self.announced.take(), part);
        self.side.with_open(|stream| stream.send_data(frame, false))
    }
}
