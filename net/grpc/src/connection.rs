//! A connection from its first byte: which protocol does the peer speak?
//!
//! HTTP/2 with prior knowledge begins with a fixed preface, HTTP/1 with a method name. Anything else
//! is closed without an answer, as is a peer that does not make itself known in time.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::call::Environment;
use crate::service::{Clock, Limits, Service, Shutdown};
use crate::transport::{PREFACE, Transport};
use crate::{http1, http2};

/// Serves one connection until it ends. `peer` is the other side's address, for logs.
///
/// `io` should collect what is written to it during a turn and send it without being flushed, as the
/// reactor's streams do.
pub async fn serve_connection<S, C, IO>(
    clock: C,
    io: IO,
    peer: Rc<str>,
    service: Rc<S>,
    limits: Rc<Limits>,
    shutdown: Shutdown,
) where
    S: Service,
    C: Clock,
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut io = io;
    let by = clock
        .now_nanos()
        .saturating_add(limits.preface_timeout.as_nanos() as u64);
    let mut head = BytesMut::new();
    let protocol = {
        let known = until(&clock, by, recognise(&mut io, &mut head));
        let mut known = pin!(known);
        let mut stopped = pin!(shutdown.begun());
        poll_fn(|cx| {
            if let Poll::Ready(protocol) = known.as_mut().poll(cx) {
                return Poll::Ready(protocol.flatten());
            }
            stopped.as_mut().poll(cx).map(|()| None)
        })
        .await
    };
    let environment = Environment {
        service,
        clock,
        limits,
        shutdown,
        peer,
    };
    match protocol {
        Some(Protocol::Http2) => {
            // Copied, so that the roomy buffer it was read into goes.
            let replay = Bytes::copy_from_slice(&head);
            drop(head);
            Box::pin(http2::serve(environment, Transport::new(io, replay))).await;
        }
        // Boxed, so that an idle connection does not keep room for the other protocol.
        Some(Protocol::Http1) => Box::pin(http1::serve(environment, io, head, by)).await,
        None => {}
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// Reads until the protocol is clear; `None` if it is none of ours or the peer has gone.
async fn recognise<IO: AsyncRead + Unpin>(io: &mut IO, head: &mut BytesMut) -> Option<Protocol> {
    loop {
        match judge(head) {
            Judgement::Is(protocol) => return Some(protocol),
            Judgement::Unknown => return None,
            Judgement::NeedsMore => {}
        }
        match read_some(io, head).await {
            Ok(count) if count > 0 => {}
            _ => return None,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    Is(Protocol),
    Unknown,
    NeedsMore,
}

fn judge(head: &[u8]) -> Judgement {
    if head.starts_with(PREFACE) {
        return Judgement::Is(Protocol::Http2);
    }
    if PREFACE.starts_with(head) {
        return Judgement::NeedsMore;
    }
    // A method name of at most seven letters and a space.
    match head
        .iter()
        .take(8)
        .position(|byte| !byte.is_ascii_uppercase())
    {
        Some(end) if end > 0 && head[end] == b' ' && !head.starts_with(b"PRI ") => {
            Judgement::Is(Protocol::Http1)
        }
        None if head.len() < 8 => Judgement::NeedsMore,
        _ => Judgement::Unknown,
    }
}

/// Most bytes taken from a stream in one read before its protocol is known, or by HTTP/1.
const READ_BYTES: usize = 2048;

/// Appends what `io` has to `buffer`; 0 at its end.
pub(crate) async fn read_some<IO: AsyncRead + Unpin>(
    io: &mut IO,
    buffer: &mut BytesMut,
) -> io::Result<usize> {
    poll_fn(|cx| {
        let known = buffer.len();
        buffer.resize(known + READ_BYTES, 0);
        let mut target = ReadBuf::new(&mut buffer[known..]);
        let result = Pin::new(&mut *io).poll_read(cx, &mut target);
        let count = target.filled().len();
        buffer.truncate(known + count);
        result.map_ok(|()| count)
    })
    .await
}

/// Runs `future` until `at`; `None` if it did not finish.
pub(crate) async fn until<C: Clock, F: Future>(clock: &C, at: u64, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut timer = pin!(clock.sleep_until(at));
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        timer.as_mut().poll(cx).map(|()| None)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_the_protocol() {
        let check =
            |head: &[u8], expected: Judgement| assert_eq!(judge(head), expected, "{head:?}");
        check(b"", Judgement::NeedsMore);
        check(b"P", Judgement::NeedsMore);
        check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", Judgement::NeedsMore);
        check(PREFACE, Judgement::Is(Protocol::Http2));
        check(b"PRI * HTTP/2.0\r\n\r\nXX", Judgement::Unknown);
        check(b"PU", Judgement::NeedsMore);
        check(b"PUT /", Judgement::Is(Protocol::Http1));
        check(b"GET / HTTP/1.1\r\n", Judgement::Is(Protocol::Http1));
        check(b"OPTIONS ", Judgement::Is(Protocol::Http1));
        check(b"\x16\x03\x01\x02\x00", Judgement::Unknown);
        check(b"get / HTTP/1.1\r\n", Judgement::Unknown);
        check(b"GETGETGETGET", Judgement::Unknown);
        check(b" ", Judgement::Unknown);
    }
}
