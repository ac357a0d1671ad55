//! gRPC's framing of messages inside HTTP/2 data: a flag byte, four bytes of length, the message.
//!
//! ```text
//! 0        1                 5
//! | flag   | length (BE u32) | length bytes …
//! ```

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::Read;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use h2::RecvStream;
use http::HeaderValue;

use crate::status::{Code, Status};

/// Bytes before each message.
pub(crate) const PREFIX_BYTES: usize = 5;

/// First allocation for a message that arrives in pieces; it grows with what really arrives.
const ASSEMBLY_BYTES_FIRST: usize = 64 * 1024;

/// The length of a message of `bytes` bytes as its prefix says it.
///
/// # Errors
/// `ResourceExhausted` if it does not fit into four bytes.
pub(crate) fn announced(bytes: u64) -> Result<u32, Status> {
    u32::try_from(bytes).map_err(|_| {
        Status::new(
            Code::ResourceExhausted,
            format!("grpc: message too large ({bytes} bytes)"),
        )
    })
}

/// A message on its way out, or a part of one: prefix and payload, neither copied before the write buffer.
///
/// Invariant: `payload` is empty only if there is no `rest`.
pub(crate) struct Frame {
    prefix: [u8; PREFIX_BYTES],
    prefix_taken: u8,
    payload: Bytes,
    /// Buffers behind `payload`.
    rest: Option<Box<Rest>>,
    pending: Option<Rc<Cell<usize>>>,
}

/// Buffers, none of them empty, and how many bytes they have together.
struct Rest {
    buffers: VecDeque<Bytes>,
    bytes: usize,
}

impl Frame {
    /// Frames `message`.
    ///
    /// # Errors
    /// `ResourceExhausted` if it does not fit into four bytes of length.
    pub(crate) fn message(message: Bytes) -> Result<Self, Status> {
        let [a, b, c, d] = announced(message.len() as u64)?.to_be_bytes();
        Ok(Frame {
            prefix: [0, a, b, c, d],
            prefix_taken: 0,
            payload: message,
            rest: None,
            pending: None,
        })
    }

    /// Frames a message that consists of `buffers`.
    ///
    /// # Errors
    /// As for [`Frame::message`].
    pub(crate) fn chain(buffers: Vec<Bytes>) -> Result<Self, Status> {
        let bytes: usize = buffers.iter().map(Bytes::len).sum();
        Ok(Frame::part(Some(announced(bytes as u64)?), buffers))
    }

    /// A part of a message, which consists of `buffers`; before the first one goes the message's length.
    pub(crate) fn part(message_bytes: Option<u32>, buffers: Vec<Bytes>) -> Self {
        let mut frame = Frame::raw(Bytes::new());
        if let Some(length) = message_bytes {
            let [a, b, c, d] = length.to_be_bytes();
            (frame.prefix, frame.prefix_taken) = ([0, a, b, c, d], 0);
        }
        let mut buffers = VecDeque::from(buffers);
        buffers.retain(|buffer| !buffer.is_empty());
        frame.payload = buffers.pop_front().unwrap_or_default();
        if !buffers.is_empty() {
            let bytes = buffers.iter().map(Bytes::len).sum();
            frame.rest = Some(Box::new(Rest { buffers, bytes }));
        }
        frame
    }

    /// Data that is not gRPC.
    pub(crate) fn raw(data: Bytes) -> Self {
        Frame {
            prefix: [0; PREFIX_BYTES],
            prefix_taken: PREFIX_BYTES as u8,
            payload: data,
            rest: None,
            pending: None,
        }
    }

    /// Counts the frame's bytes in `pending` until they are taken or dropped.
    pub(crate) fn counted(mut self, pending: &Rc<Cell<usize>>) -> Self {
        pending.set(pending.get() + self.remaining());
        self.pending = Some(Rc::clone(pending));
        self
    }

    fn uncount(&self, count: usize) {
        if let Some(pending) = &self.pending {
            pending.set(pending.get() - count);
        }
    }
}

impl Buf for Frame {
    fn remaining(&self) -> usize {
        let rest = self.rest.as_ref().map_or(0, |rest| rest.bytes);
        PREFIX_BYTES - usize::from(self.prefix_taken) + self.payload.len() + rest
    }

    fn chunk(&self) -> &[u8] {
        match &self.prefix[usize::from(self.prefix_taken)..] {
            [] => &self.payload,
            prefix => prefix,
        }
    }

    fn advance(&mut self, count: usize) {
        self.uncount(count);
        let from_prefix = count.min(PREFIX_BYTES - usize::from(self.prefix_taken));
        self.prefix_taken += from_prefix as u8;
        let mut left = count - from_prefix;
        while left >= self.payload.len()
            && let Some(rest) = &mut self.rest
        {
            left -= self.payload.len();
            self.payload = rest.buffers.pop_front().unwrap_or_default();
            rest.bytes -= self.payload.len();
            if rest.buffers.is_empty() {
                self.rest = None;
            }
        }
        self.payload.advance(left);
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.uncount(self.remaining());
    }
}

/// How the messages of a request are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Not at all.
    Identity,
    /// gzip, where the flag says so.
    Gzip,
}

impl Encoding {
    /// From the `grpc-encoding` header.
    pub(crate) fn from_header(value: Option<&HeaderValue>) -> Result<Self, Status> {
        match value.map(HeaderValue::as_bytes) {
            None | Some(b"" | b"identity") => Ok(Encoding::Identity),
            Some(b"gzip") => Ok(Encoding::Gzip),
            Some(other) => Err(Status::new(
                Code::Unimplemented,
                format!(
                    "grpc: Decompressor is not installed for grpc-encoding {:?}",
                    String::from_utf8_lossy(other)
                ),
            )),
        }
    }
}

/// Bytes of unfinished messages on one connection, so that many half-sent requests cannot add up.
#[derive(Clone)]
pub(crate) struct AssemblyBudget {
    held: Rc<Cell<usize>>,
    bytes_max: usize,
}

impl AssemblyBudget {
    /// Room for `bytes_max` bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        AssemblyBudget {
            held: Rc::default(),
            bytes_max,
        }
    }
}

/// Why no message could be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The peer broke a rule; it gets this answer.
    Refused(Status),
    /// The stream or the connection is gone; nobody is left to answer.
    Gone,
}

/// Reads the messages of one request.
pub(crate) struct MessageReader {
    body: RecvStream,
    /// Received and not yet consumed.
    current: Bytes,
    /// A message that spans several data frames.
    assembly: Option<Assembly>,
    budget: AssemblyBudget,
    encoding: Encoding,
    message_bytes_max: usize,
    ended: bool,
}

struct Assembly {
    compressed: bool,
    length: usize,
    received: BytesMut,
}

impl MessageReader {
    /// Reads from `body`.
    pub(crate) fn new(
        body: RecvStream,
        encoding: Encoding,
        message_bytes_max: usize,
        budget: AssemblyBudget,
    ) -> Self {
        MessageReader {
            body,
            current: Bytes::new(),
            assembly: None,
            budget,
            encoding,
            message_bytes_max,
            ended: false,
        }
    }

    /// The next message, or `None` after the last one.
    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, ReadError>> {
        loop {
            if let Some(message) = self.take_message().map_err(ReadError::Refused)? {
                return Poll::Ready(Ok(Some(message)));
            }
            if self.ended || self.body.is_end_stream() {
                self.ended = true;
                return Poll::Ready(if self.current.is_empty() && self.assembly.is_none() {
                    Ok(None)
                } else {
                    Err(ReadError::Refused(Status::fixed(
                        Code::Internal,
                        "unexpected EOF",
                    )))
                });
            }
            match ready!(self.body.poll_data(cx)) {
                Some(Ok(data)) => self.received(data)?,
                Some(Err(_)) => return Poll::Ready(Err(ReadError::Gone)),
                None => self.ended = true,
            }
        }
    }

    /// The only message of a unary request: complete once the caller has ended its side.
    pub(crate) fn poll_single(
        &mut self,
        held: &mut Option<Bytes>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Bytes, ReadError>> {
        loop {
            let next = ready!(self.poll_next(cx))?;
            let refused = |text| Err(ReadError::Refused(Status::fixed(Code::Internal, text)));
            return Poll::Ready(match (next, held.take()) {
                (Some(message), None) => {
                    *held = Some(message);
                    continue;
                }
                (None, Some(message)) => Ok(message),
                (None, None) => refused("grpc: the request has no message"),
                (Some(_), Some(_)) => refused("grpc: the request has more than one message"),
            });
        }
    }

    fn received(&mut self, data: Bytes) -> Result<(), ReadError> {
        // The window is given back at once: what is held is bounded by the budget.
        self.body
            .flow_control()
            .release_capacity(data.len())
            .map_err(|_| ReadError::Gone)?;
        if self.current.is_empty() {
            self.current = data;
        } else {
            // Only the rest of a prefix can be left here.
            let mut joined = BytesMut::with_capacity(self.current.len() + data.len());
            joined.extend_from_slice(&self.current);
            joined.extend_from_slice(&data);
            self.current = joined.freeze();
        }
        Ok(())
    }

    fn take_message(&mut self) -> Result<Option<Bytes>, Status> {
        if self.assembly.is_none() {
            let &[flag, a, b, c, d, ..] = self.current.as_ref() else {
                return Ok(None);
            };
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            let compressed = self.check_prefix(flag, length)?;
            self.current.advance(PREFIX_BYTES);
            if self.current.len() >= length {
                let message = self.current.split_to(length);
                return self.decompress(compressed, message).map(Some);
            }
            let received = BytesMut::with_capacity(length.min(ASSEMBLY_BYTES_FIRST));
            self.assembly = Some(Assembly {
                compressed,
                length,
                received,
            });
        }
        self.assemble()
    }

    fn assemble(&mut self) -> Result<Option<Bytes>, Status> {
        let Some(assembly) = &mut self.assembly else {
            return Ok(None);
        };
        let missing = assembly.length - assembly.received.len();
        let piece = self.current.split_to(missing.min(self.current.len()));
        let held = self.budget.held.get() + piece.len();
        if held > self.budget.bytes_max {
            return Err(Status::fixed(
                Code::ResourceExhausted,
                "grpc: too many bytes of unfinished requests on this connection",
            ));
        }
        self.budget.held.set(held);
        assembly.received.extend_from_slice(&piece);
        if assembly.received.len() < assembly.length {
            return Ok(None);
        }
        match self.take_assembly() {
            Some((compressed, message)) => self.decompress(compressed, message).map(Some),
            None => Ok(None),
        }
    }

    fn take_assembly(&mut self) -> Option<(bool, Bytes)> {
        let assembly = self.assembly.take()?;
        self.budget
            .held
            .set(self.budget.held.get() - assembly.received.len());
        Some((assembly.compressed, assembly.received.freeze()))
    }

    /// Refuses a message before anything is allocated for it.
    fn check_prefix(&self, flag: u8, length: usize) -> Result<bool, Status> {
        if flag > 1 {
            return Err(Status::new(
                Code::Internal,
                format!("grpc: received unexpected payload format {flag}"),
            ));
        }
        if length > self.message_bytes_max {
            return Err(Status::new(
                Code::ResourceExhausted,
                format!(
                    "grpc: received message larger than max ({length} vs. {})",
                    self.message_bytes_max
                ),
            ));
        }
        if flag == 1 && self.encoding == Encoding::Identity {
            return Err(Status::fixed(
                Code::Internal,
                "grpc: compressed flag set with identity or empty encoding",
            ));
        }
        Ok(flag == 1)
    }

    fn decompress(&self, compressed: bool, message: Bytes) -> Result<Bytes, Status> {
        if !compressed {
            return Ok(message);
        }
        let mut plain = Vec::new();
        let bytes_max = self.message_bytes_max as u64;
        flate2::bufread::MultiGzDecoder::new(message.as_ref())
            .take(bytes_max + 1)
            .read_to_end(&mut plain)
            .map_err(|error| {
                Status::new(
                    Code::Internal,
                    format!("grpc: failed to decompress the received message: {error}"),
                )
            })?;
        if plain.len() as u64 > bytes_max {
            return Err(Status::new(
                Code::ResourceExhausted,
                format!("grpc: received message after decompression larger than max {bytes_max}"),
            ));
        }
        Ok(Bytes::from(plain))
    }
}

impl Drop for MessageReader {
    fn drop(&mut self) {
        self.take_assembly();
    }
}
