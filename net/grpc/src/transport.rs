//! The byte stream under HTTP/2, with an eye on what passes.
//!
//! Reads replay the bytes that were looked at to tell the protocol, and are followed frame by frame:
//! not to understand them (that is `h2`'s work) but to count what `h2` does not count, and to know
//! whether the peer stopped in the middle of something. Writes pass through; flushing is left to the
//! stream below, which sends what a turn has written in one piece.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What HTTP/2 clients send before their first frame.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const FRAME_HEAD_BYTES: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;

const FLAG_END_STREAM: u8 = 1;
const FLAG_END_HEADERS: u8 = 4;

/// What has passed, shared between the transport inside `h2` and the connection around it.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// Streams reset by the peer since the last look.
    pub(crate) resets: Cell<u32>,
    /// Frames that ask for work without carrying any, since the last look.
    pub(crate) idle_frames: Cell<u32>,
    /// Frames and whole header blocks received.
    pub(crate) units: Cell<u64>,
    /// A frame or a header block has begun and not ended.
    pub(crate) inside_unit: Cell<bool>,
    /// Something was read since the last look.
    pub(crate) read: Cell<bool>,
    /// The peer does not take what is written.
    pub(crate) write_blocked: Cell<bool>,
    /// Bytes written.
    pub(crate) written: Cell<u64>,
}

/// A byte stream that replays and observes.
pub(crate) struct Transport<IO> {
    io: IO,
    replay: Bytes,
    follower: FrameFollower,
    traffic: Rc<Traffic>,
}

impl<IO> Transport<IO> {
    /// `replay` was read from `io` already and begins with the preface.
    pub(crate) fn new(io: IO, replay: Bytes) -> Self {
        Transport {
            io,
            replay,
            follower: FrameFollower::default(),
            traffic: Rc::default(),
        }
    }

    /// What passes from now on.
    pub(crate) fn traffic(&self) -> Rc<Traffic> {
        Rc::clone(&self.traffic)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Transport<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        if this.replay.has_remaining() {
            let count = this.replay.len().min(buffer.remaining());
            buffer.put_slice(&this.replay.split_to(count));
        } else {
            match Pin::new(&mut this.io).poll_read(cx, buffer) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
        }
        this.traffic.read.set(true);
        this.follower
            .follow(&buffer.filled()[before..], &this.traffic);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Transport<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.traffic.write_blocked.set(result.is_pending());
        if let Poll::Ready(Ok(count)) = result {
            self.traffic
                .written
                .set(self.traffic.written.get() + count as u64);
        }
        result
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Finds the frames in a byte stream.
///
/// Invariants: at most one of "inside a head" (`head_len > 0`) and "inside a payload"
/// (`payload_left > 0`) holds; `preface_left` reaches 0 before either.
#[derive(Debug)]
struct FrameFollower {
    preface_left: usize,
    head: [u8; FRAME_HEAD_BYTES],
    head_len: usize,
    payload_left: usize,
    /// A header block without its end.
    inside_block: bool,
}

impl Default for FrameFollower {
    fn default() -> Self {
        FrameFollower {
            preface_left: PREFACE.len(),
            head: [0; FRAME_HEAD_BYTES],
            head_len: 0,
            payload_left: 0,
            inside_block: false,
        }
    }
}

impl FrameFollower {
    fn follow(&mut self, bytes: &[u8], traffic: &Traffic) {
        let mut rest = &bytes[self.preface_left.min(bytes.len())..];
        self.preface_left -= bytes.len() - rest.len();
        while !rest.is_empty() {
            if self.payload_left > 0 {
                let skipped = self.payload_left.min(rest.len());
                self.payload_left -= skipped;
                rest = &rest[skipped..];
                if self.payload_left == 0 {
                    self.end_frame(traffic);
                }
                continue;
            }
            let taken = (FRAME_HEAD_BYTES - self.head_len).min(rest.len());
            self.head[self.head_len..self.head_len + taken].copy_from_slice(&rest[..taken]);
            self.head_len += taken;
            rest = &rest[taken..];
            if self.head_len == FRAME_HEAD_BYTES {
                self.head_len = 0;
                self.begin_frame(traffic);
            }
        }
        let inside = self.head_len > 0 || self.payload_left > 0 || self.inside_block;
        traffic.inside_unit.set(inside);
    }

    fn begin_frame(&mut self, traffic: &Traffic) {
        let [high, middle, low, kind, flags, ..] = self.head;
        self.payload_left = u32::from_be_bytes([0, high, middle, low]) as usize;
        match kind {
            RESET => traffic.resets.set(traffic.resets.get().saturating_add(1)),
            HEADERS | CONTINUATION => self.inside_block = flags & FLAG_END_HEADERS == 0,
            _ => {}
        }
        let idle = match kind {
            // Also when they announce an error: `h2` answers, we only count.
            SETTINGS | PING | PRIORITY => true,
            DATA => self.payload_left == 0 && flags & FLAG_END_STREAM == 0,
            _ => kind > CONTINUATION,
        };
        if idle {
            traffic
                .idle_frames
                .set(traffic.idle_frames.get().saturating_add(1));
        }
        if self.payload_left == 0 {
            self.end_frame(traffic);
        }
    }

    fn end_frame(&mut self, traffic: &Traffic) {
        if !self.inside_block {
            traffic.units.set(traffic.units.get() + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags, 0, 0, 0, 1]);
        bytes.extend(payload);
        bytes
    }

    /// Follows `frames` after a preface, cut into pieces of `step` bytes.
    fn check(frames: &[Vec<u8>], step: usize) -> Traffic {
        let bytes = [PREFACE.to_vec(), frames.concat()].concat();
        let traffic = Traffic::default();
        let mut follower = FrameFollower::default();
        for piece in bytes.chunks(step) {
            follower.follow(piece, &traffic);
        }
        traffic
    }

    #[test]
    fn frames_are_counted_however_they_are_cut() {
        let frames = [
            frame(SETTINGS, 0, &[]),
            frame(HEADERS, 0, &[1, 2, 3]),
            frame(CONTINUATION, FLAG_END_HEADERS, &[4; 300]),
            frame(DATA, 0, &[5; 40]),
            frame(DATA, 0, &[]),
            frame(DATA, FLAG_END_STREAM, &[]),
            frame(RESET, 0, &[0; 4]),
            frame(PING, 0, &[0; 8]),
            frame(77, 0, &[]),
        ];
        for step in [1, 2, 3, 7, 9, 24, 1000] {
            let traffic = check(&frames, step);
            assert_eq!(traffic.resets.get(), 1);
            assert_eq!(traffic.idle_frames.get(), 4);
            assert_eq!(traffic.units.get(), 8);
            assert!(!traffic.inside_unit.get());
        }
    }

    #[test]
    fn unfinished_units_are_seen() {
        let check = |frames: &[Vec<u8>], expected: bool| {
            assert_eq!(check(frames, 5).inside_unit.get(), expected);
        };
        check(&[], false);
        check(&[frame(SETTINGS, 0, &[])], false);
        check(&[frame(SETTINGS, 0, &[])[..4].to_vec()], true);
        check(&[frame(DATA, 0, &[9; 20])[..15].to_vec()], true);
        check(&[frame(HEADERS, 0, &[9; 20])], true);
        check(&[frame(HEADERS, FLAG_END_HEADERS, &[9; 20])], false);
    }
}
