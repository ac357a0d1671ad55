//! One client connection: bytes in, completions out.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;

use super::hpack::{self, Decoder};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD_BYTES: usize = 9;
/// Every stream and the connection start with this window (RFC 9113 §6.9.2).
const WINDOW_BYTES_DEFAULT: i64 = 65_535;
const FRAME_BYTES_DEFAULT: usize = 16_384;
const READ_BYTES: usize = 256 << 10;

/// The code of a [`Completion`] whose call ended without a gRPC status: stream reset or bad answer.
pub const TRANSPORT_ERROR: u32 = 1000;

mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
}

mod flag {
    pub(super) const END_STREAM: u8 = 1;
    pub(super) const ACK: u8 = 1;
    pub(super) const END_HEADERS: u8 = 4;
    pub(super) const PADDED: u8 = 8;
    pub(super) const PRIORITY: u8 = 32;
}

mod setting {
    pub(super) const ENABLE_PUSH: u16 = 2;
    pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(super) const MAX_FRAME_SIZE: u16 = 5;
}

/// Where a server listens for clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix://") {
            return Ok(Self::Unix(PathBuf::from(path)));
        }
        let host = text.strip_prefix("http://").unwrap_or(text);
        host.parse()
            .map(Self::Tcp)
            .map_err(|error| format!("`{text}` is not HOST:PORT with a numeric host: {error}"))
    }
}

/// How many bytes a server may send ahead of what has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// On each stream.
    pub stream_bytes: u32,
    /// On the whole connection.
    pub connection_bytes: u32,
}

impl Windows {
    /// Larger than nearly every response of the workloads, so streams need no updates.
    pub const WIDE: Self = Self {
        stream_bytes: 16 << 20,
        connection_bytes: 64 << 20,
    };
    /// What HTTP/2 starts with: a client that does not read stops the server soon.
    pub const NARROW: Self = Self {
        stream_bytes: WINDOW_BYTES_DEFAULT as u32,
        connection_bytes: WINDOW_BYTES_DEFAULT as u32,
    };
}

/// The number of one stream of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamId(u32);

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    fn open(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => {
                let socket = TcpStream::connect(address)?;
                socket.set_nodelay(true)?;
                socket.set_nonblocking(true)?;
                Ok(Self::Tcp(socket))
            }
            Address::Unix(path) => {
                let socket = UnixStream::connect(path)?;
                socket.set_nonblocking(true)?;
                Ok(Self::Unix(socket))
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(buffer),
            Self::Unix(socket) => socket.read(buffer),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write(bytes),
            Self::Unix(socket) => socket.write(bytes),
        }
    }
}

/// The encoded header block of one method; the same bytes serve every call.
#[derive(Debug, Clone)]
pub struct RequestHead(Vec<u8>);

impl RequestHead {
    /// The headers of a call of `path`, for example `/etcdserverpb.KV/Put`.
    pub fn new(path: &str) -> Self {
        let mut block = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("user-agent", "ringbench"),
        ] {
            hpack::encode_literal(name, value, &mut block);
        }
        Self(block)
    }
}

/// The end of one call, or one message of a call whose answer is a stream.
#[derive(Debug)]
pub struct Completion {
    /// What the caller named the call.
    pub token: u32,
    /// The gRPC status code, 0 for success, or [`TRANSPORT_ERROR`].
    pub code: u32,
    /// The text beside a code other than 0.
    pub message: String,
    /// The response with its five-byte gRPC prefix; empty when the call failed or a stream ended.
    pub body: Vec<u8>,
    /// Whether the call is over; false for each message of a stream.
    pub end: bool,
}

/// A call that has been sent and not completed.
#[derive(Debug, Default)]
struct Exchange {
    token: u32,
    done: bool,
    /// Whether more request messages may follow.
    open: bool,
    /// Whether the answer's messages are handed out one by one.
    streaming: bool,
    /// Bytes of the answer that no window update has given back.
    received_bytes: u32,
    code: Option<u32>,
    message: String,
    body: Vec<u8>,
    send_window: i64,
    /// What of the request flow control has held back so far.
    unsent: Vec<u8>,
}

/// One connection with any number of calls in flight.
///
/// Invariants: stream `2 i + 1` of the connection is entry `i - closed` of `exchanges`; the first entry is
/// not done; `blocked` names the streams with `unsent` bytes, oldest first.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    input: Vec<u8>,
    input_begin: usize,
    input_end: usize,
    output: Vec<u8>,
    output_begin: usize,
    decoder: Decoder,
    header_block: Vec<u8>,
    header_flags: u8,
    exchanges: VecDeque<Exchange>,
    closed: u32,
    in_flight: usize,
    blocked: VecDeque<u32>,
    send_window: i64,
    stream_window: i64,
    frame_bytes_max: usize,
    windows: Windows,
    received_bytes: u32,
    spare_bodies: Vec<Vec<u8>>,
}

impl Connection {
    /// Connects and queues the preface; the socket never blocks afterwards.
    ///
    /// # Errors
    /// The connection was refused or the socket could not be prepared.
    pub fn open(address: &Address) -> io::Result<Self> {
        Self::open_with(address, Windows::WIDE)
    }

    /// Like [`Self::open`], with other windows.
    ///
    /// # Errors
    /// The connection was refused or the socket could not be prepared.
    pub fn open_with(address: &Address, windows: Windows) -> io::Result<Self> {
        let socket = Socket::open(address).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot reach {address:?}: {error}"))
        })?;
        let mut connection = Self {
            socket,
            input: vec![0; READ_BYTES],
            input_begin: 0,
            input_end: 0,
            output: Vec::with_capacity(READ_BYTES),
            output_begin: 0,
            decoder: Decoder::default(),
            header_block: Vec::new(),
            header_flags: 0,
            exchanges: VecDeque::new(),
            closed: 0,
            in_flight: 0,
            blocked: VecDeque::new(),
            send_window: WINDOW_BYTES_DEFAULT,
            stream_window: WINDOW_BYTES_DEFAULT,
            frame_bytes_max: FRAME_BYTES_DEFAULT,
            windows,
            received_bytes: 0,
            spare_bodies: Vec::new(),
        };
        connection.output.extend_from_slice(PREFACE);
        let settings = [
            (setting::ENABLE_PUSH, 0),
            (setting::INITIAL_WINDOW_SIZE, windows.stream_bytes),
        ];
        connection.frame_head(settings.len() * 6, kind::SETTINGS, 0, 0);
        for (name, value) in settings {
            connection.output.extend_from_slice(&name.to_be_bytes());
            connection.output.extend_from_slice(&value.to_be_bytes());
        }
        let more = windows.connection_bytes - WINDOW_BYTES_DEFAULT as u32;
        if more > 0 {
            connection.window_update(0, more);
        }
        Ok(connection)
    }

    /// Calls that have not completed.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether bytes wait for the socket to become writable.
    pub fn wants_write(&self) -> bool {
        self.output_begin < self.output.len()
    }

    /// Queues one call; `message` carries its five-byte gRPC prefix. Leaves with the next [`Self::flush`].
    pub fn send(&mut self, head: &RequestHead, message: &[u8], token: u32) {
        let (stream, mut exchange) = self.begin(head, token);
        let fits = message.len() as i64 <= self.send_window.min(exchange.send_window);
        if fits && message.len() <= self.frame_bytes_max && self.blocked.is_empty() {
            self.send_window -= message.len() as i64;
            exchange.send_window -= message.len() as i64;
            self.exchanges.push_back(exchange);
            self.frame_head(message.len(), kind::DATA, flag::END_STREAM, stream);
            self.output.extend_from_slice(message);
        } else {
            exchange.unsent.extend_from_slice(message);
            self.exchanges.push_back(exchange);
            self.blocked.push_back(stream);
            self.send_blocked();
        }
    }

    /// Queues one call whose answer is a stream of messages.
    pub fn send_for_stream(&mut self, head: &RequestHead, message: &[u8], token: u32) {
        let (stream, mut exchange) = self.begin(head, token);
        exchange.streaming = true;
        exchange.unsent.extend_from_slice(message);
        self.exchanges.push_back(exchange);
        self.blocked.push_back(stream);
        self.send_blocked();
    }

    /// Opens a call that is a stream in both directions; it stays open as long as the connection.
    pub fn open_stream(&mut self, head: &RequestHead, token: u32) -> StreamId {
        let (stream, mut exchange) = self.begin(head, token);
        exchange.streaming = true;
        exchange.open = true;
        self.exchanges.push_back(exchange);
        StreamId(stream)
    }

    /// Queues one more message on an open stream; nothing happens if the server has ended it.
    pub fn send_message(&mut self, stream: StreamId, message: &[u8]) {
        let Some(exchange) = self.exchange(stream.0) else {
            return;
        };
        let waits = !exchange.unsent.is_empty();
        exchange.unsent.extend_from_slice(message);
        if !waits {
            self.blocked.push_back(stream.0);
        }
        self.send_blocked();
    }

    /// Queues the headers of a new call; its exchange is not in `exchanges` yet.
    fn begin(&mut self, head: &RequestHead, token: u32) -> (u32, Exchange) {
        let stream = (self.closed + self.exchanges.len() as u32) * 2 + 1;
        self.frame_head(head.0.len(), kind::HEADERS, flag::END_HEADERS, stream);
        self.output.extend_from_slice(&head.0);
        self.in_flight += 1;
        let exchange = Exchange {
            token,
            body: self.spare_bodies.pop().unwrap_or_default(),
            send_window: self.stream_window,
            ..Exchange::default()
        };
        (stream, exchange)
    }

    /// Writes queued bytes until all are gone or the socket is full.
    ///
    /// # Errors
    /// The socket failed; the connection is lost.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.output_begin < self.output.len() {
            match self.socket.write(&self.output[self.output_begin..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.output_begin += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        self.output_begin = 0;
        Ok(())
    }

    /// Reads what has arrived and appends the calls that ended to `completions`.
    ///
    /// # Errors
    /// The peer closed the connection, sent GOAWAY or broke the protocol; calls in flight have no outcome.
    pub fn receive(&mut self, completions: &mut Vec<Completion>) -> io::Result<()> {
        loop {
            self.make_room();
            let room = self.input.len() - self.input_end;
            match self.socket.read(&mut self.input[self.input_end..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    self.input_end += read;
                    self.take_frames(completions)?;
                    if read < room {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives a completed call's buffer back, so that the next call allocates nothing.
    pub fn recycle(&mut self, mut body: Vec<u8>) {
        body.clear();
        self.spare_bodies.push(body);
    }

    fn frame_head(&mut self, len: usize, kind: u8, flags: u8, stream: u32) {
        let len = (len as u32).to_be_bytes();
        let stream = stream.to_be_bytes();
        self.output.extend_from_slice(&[
            len[1], len[2], len[3], kind, flags, stream[0], stream[1], stream[2], stream[3],
        ]);
    }

    fn window_update(&mut self, stream: u32, bytes: u32) {
        self.frame_head(4, kind::WINDOW_UPDATE, 0, stream);
        self.output.extend_from_slice(&bytes.to_be_bytes());
    }

    fn make_room(&mut self) {
        if self.input_begin == self.input_end {
            (self.input_begin, self.input_end) = (0, 0);
        } else if self.input_end == self.input.len() {
            self.input.copy_within(self.input_begin..self.input_end, 0);
            self.input_end -= self.input_begin;
            self.input_begin = 0;
        }
    }

    fn take_frames(&mut self, completions: &mut Vec<Completion>) -> io::Result<()> {
        // The buffer is moved out so that handling a frame may change the connection.
        let input = std::mem::take(&mut self.input);
        let mut begin = self.input_begin;
        let mut outcome = Ok(());
        while self.input_end - begin >= FRAME_HEAD_BYTES {
            let head = &input[begin..begin + FRAME_HEAD_BYTES];
            let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            if len > FRAME_BYTES_DEFAULT {
                outcome = Err(violation("a frame above the announced size"));
                break;
            }
            let end = begin + FRAME_HEAD_BYTES + len;
            if end > self.input_end {
                break;
            }
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
            let payload = &input[begin + FRAME_HEAD_BYTES..end];
            outcome = self.take_frame(head[3], head[4], stream, payload, completions);
            begin = end;
            if outcome.is_err() {
                break;
            }
        }
        self.input = input;
        self.input_begin = begin;
        outcome
    }

    fn take_frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        payload: &[u8],
        completions: &mut Vec<Completion>,
    ) -> io::Result<()> {
        match kind {
            kind::DATA => {
                self.account_received(payload.len() as u32);
                let data = without_padding(flags, payload)?;
                self.take_data(stream, payload.len() as u32, data, completions);
                if flags & flag::END_STREAM != 0 {
                    self.finish(stream, completions);
                }
            }
            kind::HEADERS => {
                let mut block = without_padding(flags, payload)?;
                if flags & flag::PRIORITY != 0 {
                    block = block
                        .get(5..)
                        .ok_or_else(|| violation("a short priority"))?;
                }
                if flags & flag::END_HEADERS != 0 {
                    self.take_headers(stream, flags, block, completions)?;
                } else {
                    self.header_flags = flags;
                    self.header_block = block.to_vec();
                }
            }
            kind::CONTINUATION => {
                self.header_block.extend_from_slice(payload);
                if flags & flag::END_HEADERS != 0 {
                    let block = std::mem::take(&mut self.header_block);
                    self.take_headers(stream, self.header_flags, &block, completions)?;
                }
            }
            kind::RST_STREAM => {
                let reason = number(payload)?;
                if let Some(exchange) = self.exchange(stream) {
                    exchange.code = exchange.code.or(Some(TRANSPORT_ERROR));
                    exchange.message = format!("stream reset by the server, code {reason}");
                }
                self.finish(stream, completions);
            }
            kind::SETTINGS if flags & flag::ACK == 0 => self.take_settings(payload)?,
            kind::PING if flags & flag::ACK == 0 => {
                self.frame_head(payload.len(), kind::PING, flag::ACK, 0);
                self.output.extend_from_slice(payload);
            }
            kind::GOAWAY => return Err(violation("the server is going away")),
            kind::WINDOW_UPDATE => {
                let bytes = i64::from(number(payload)? & 0x7fff_ffff);
                if stream == 0 {
                    self.send_window += bytes;
                } else if let Some(exchange) = self.exchange(stream) {
                    exchange.send_window += bytes;
                }
                self.send_blocked();
            }
            _ => {}
        }
        Ok(())
    }

    fn take_data(
        &mut self,
        stream: u32,
        accounted_bytes: u32,
        data: &[u8],
        completions: &mut Vec<Completion>,
    ) {
        let window = self.windows.stream_bytes;
        let Some(exchange) = self.exchange(stream) else {
            return;
        };
        exchange.body.extend_from_slice(data);
        exchange.received_bytes += accounted_bytes;
        let mut received = Vec::new();
        let token = exchange.token;
        if exchange.streaming {
            received = std::mem::take(&mut exchange.body);
        }
        if exchange.received_bytes > window / 2 {
            let bytes = std::mem::take(&mut exchange.received_bytes);
            self.window_update(stream, bytes);
        }
        if received.is_empty() {
            return;
        }
        let mut begin = 0;
        while let Some(len) = message_len(&received[begin..]) {
            let mut body = self.spare_bodies.pop().unwrap_or_default();
            body.extend_from_slice(&received[begin..begin + len]);
            begin += len;
            completions.push(Completion {
                token,
                code: 0,
                message: String::new(),
                body,
                end: false,
            });
        }
        received.drain(..begin);
        if let Some(exchange) = self.exchange(stream) {
            exchange.body = received;
        }
    }

    fn take_headers(
        &mut self,
        stream: u32,
        flags: u8,
        block: &[u8],
        completions: &mut Vec<Completion>,
    ) -> io::Result<()> {
        let (mut code, mut message) = (None, String::new());
        self.decoder
            .decode(block, |name, value| match name {
                b"grpc-status" => {
                    code = std::str::from_utf8(value)
                        .ok()
                        .and_then(|text| text.parse().ok());
                }
                b"grpc-message" => message = percent_decode(value),
                b":status" if value != b"200" => {
                    code = Some(TRANSPORT_ERROR);
                    message = format!("HTTP status {}", String::from_utf8_lossy(value));
                }
                _ => {}
            })
            .map_err(|error| violation(error.0))?;
        if let Some(exchange) = self.exchange(stream)
            && code.is_some()
        {
            exchange.code = code;
            exchange.message = message;
        }
        if flags & flag::END_STREAM != 0 {
            self.finish(stream, completions);
        }
        Ok(())
    }

    fn take_settings(&mut self, payload: &[u8]) -> io::Result<()> {
        for entry in payload.chunks_exact(6) {
            let name = u16::from_be_bytes([entry[0], entry[1]]);
            let value = number(&entry[2..])?;
            match name {
                setting::INITIAL_WINDOW_SIZE => {
                    let change = i64::from(value) - self.stream_window;
                    self.stream_window = i64::from(value);
                    for exchange in &mut self.exchanges {
                        exchange.send_window += change;
                    }
                }
                setting::MAX_FRAME_SIZE => self.frame_bytes_max = value as usize,
                _ => {}
            }
        }
        self.frame_head(0, kind::SETTINGS, flag::ACK, 0);
        self.send_blocked();
        Ok(())
    }

    fn exchange(&mut self, stream: u32) -> Option<&mut Exchange> {
        let at = (stream / 2).checked_sub(self.closed)?;
        self.exchanges
            .get_mut(at as usize)
            .filter(|exchange| !exchange.done)
    }

    fn finish(&mut self, stream: u32, completions: &mut Vec<Completion>) {
        let Some(exchange) = self.exchange(stream) else {
            return;
        };
        exchange.done = true;
        exchange.unsent = Vec::new();
        completions.push(Completion {
            token: exchange.token,
            code: exchange.code.unwrap_or(TRANSPORT_ERROR),
            message: std::mem::take(&mut exchange.message),
            body: std::mem::take(&mut exchange.body),
            end: true,
        });
        self.in_flight -= 1;
        while self.exchanges.front().is_some_and(|first| first.done) {
            self.exchanges.pop_front();
            self.closed += 1;
        }
    }

    /// Sends held-back request bytes as far as the windows allow.
    fn send_blocked(&mut self) {
        for _ in 0..self.blocked.len() {
            if self.send_window <= 0 {
                return;
            }
            let Some(stream) = self.blocked.pop_front() else {
                return;
            };
            let (connection_window, frame_bytes_max) = (self.send_window, self.frame_bytes_max);
            let Some(exchange) = self.exchange(stream) else {
                continue;
            };
            let open = exchange.open;
            let mut unsent = std::mem::take(&mut exchange.unsent);
            let window = connection_window.min(exchange.send_window).max(0) as usize;
            let mut sent = 0;
            while sent < unsent.len() && sent < window {
                let end = (sent + frame_bytes_max).min(unsent.len()).min(window);
                let flags = if end == unsent.len() && !open {
                    flag::END_STREAM
                } else {
                    0
                };
                self.frame_head(end - sent, kind::DATA, flags, stream);
                self.output.extend_from_slice(&unsent[sent..end]);
                sent = end;
            }
            self.send_window -= sent as i64;
            unsent.drain(..sent);
            let finished = unsent.is_empty();
            if let Some(exchange) = self.exchange(stream) {
                exchange.send_window -= sent as i64;
                exchange.unsent = unsent;
            }
            if !finished && self.send_window <= 0 {
                self.blocked.push_front(stream);
            } else if !finished {
                self.blocked.push_back(stream);
            }
        }
    }

    fn account_received(&mut self, bytes: u32) {
        self.received_bytes += bytes;
        if self.received_bytes > self.windows.connection_bytes / 2 {
            let bytes = std::mem::take(&mut self.received_bytes);
            self.window_update(0, bytes);
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            Socket::Tcp(socket) => socket.as_fd(),
            Socket::Unix(socket) => socket.as_fd(),
        }
    }
}

/// Length with its prefix of the message that `bytes` begin with, if it is there to its end.
fn message_len(bytes: &[u8]) -> Option<usize> {
    let length = bytes.get(1..5)?.first_chunk()?;
    let len = 5 + u32::from_be_bytes(*length) as usize;
    (bytes.len() >= len).then_some(len)
}

fn violation(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn number(payload: &[u8]) -> io::Result<u32> {
    payload
        .first_chunk()
        .map(|bytes| u32::from_be_bytes(*bytes))
        .ok_or_else(|| violation("a short frame"))
}

fn without_padding(flags: u8, payload: &[u8]) -> io::Result<&[u8]> {
    if flags & flag::PADDED == 0 {
        return Ok(payload);
    }
    let (padding, rest) = payload
        .split_first()
        .ok_or_else(|| violation("an empty padded frame"))?;
    rest.len()
        .checked_sub(usize::from(*padding))
        .map(|len| &rest[..len])
        .ok_or_else(|| violation("more padding than payload"))
}

/// `grpc-message` carries bytes outside printable ASCII as `%XX`.
fn percent_decode(value: &[u8]) -> String {
    let mut decoded = Vec::with_capacity(value.len());
    let mut at = 0;
    while at < value.len() {
        let escaped = value
            .get(at + 1..at + 3)
            .filter(|_| value[at] == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match escaped {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(value[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_tcp_or_unix() {
        assert_eq!(
            "http://127.0.0.1:2379".parse(),
            Ok(Address::Tcp(([127, 0, 0, 1], 2379).into()))
        );
        assert_eq!(
            "unix:///tmp/a.sock".parse(),
            Ok(Address::Unix(PathBuf::from("/tmp/a.sock")))
        );
        assert!("localhost".parse::<Address>().is_err());
    }

    #[test]
    fn a_message_is_taken_when_it_is_whole() {
        assert_eq!(message_len(b"\0\0\0\0"), None);
        assert_eq!(message_len(b"\0\0\0\0\x02a"), None);
        assert_eq!(message_len(b"\0\0\0\0\x02abc"), Some(7));
        assert_eq!(message_len(b"\0\0\0\0\0"), Some(5));
    }

    #[test]
    fn status_texts_are_unescaped() {
        assert_eq!(percent_decode(b"a%20b%C3%A9%"), "a bé%");
    }

    #[test]
    fn padding_is_removed_and_checked() {
        assert_eq!(without_padding(0, b"abc").unwrap(), b"abc");
        assert_eq!(without_padding(flag::PADDED, b"\x02abc").unwrap(), b"a");
        assert!(without_padding(flag::PADDED, b"\x09abc").is_err());
    }
}
