//! A client that waits: one call at a time, for what a scenario does beside its load.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use crate::http2::{Address, Completion, Connection, RequestHead};
use crate::message::{self, WatchRequest};
use crate::poller::Poller;

/// A call that has no answer after this time has failed: a compaction of a full store takes minutes.
const CALL_LIMIT: Duration = Duration::from_secs(900);
const NAP: Duration = Duration::from_millis(50);

/// One connection.
#[derive(Debug)]
pub struct Client {
    connection: Connection,
    poller: Poller,
    completions: VecDeque<Completion>,
    request: Vec<u8>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// The connection was refused.
    pub fn open(address: &Address) -> io::Result<Self> {
        let mut connection = Connection::open(address)?;
        let mut poller = Poller::new()?;
        poller.add(&mut connection)?;
        Ok(Self {
            connection,
            poller,
            completions: VecDeque::new(),
            request: Vec::new(),
        })
    }

    /// Sends the request that `write` makes and waits for its answer.
    ///
    /// # Errors
    /// The connection was lost, or the call failed or took too long.
    pub fn call(&mut self, path: &str, write: impl FnOnce(&mut Vec<u8>)) -> io::Result<Vec<u8>> {
        write(&mut self.request);
        self.connection
            .send(&RequestHead::new(path), &self.request, 0);
        self.flush()?;
        success(self.wait(CALL_LIMIT)?)
    }

    /// Sends the request that `write` makes and hands each message of its answer to `each`.
    ///
    /// # Errors
    /// The connection was lost, or the call failed or took too long.
    pub fn call_for_stream(
        &mut self,
        path: &str,
        write: impl FnOnce(&mut Vec<u8>),
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        write(&mut self.request);
        let head = RequestHead::new(path);
        self.connection.send_for_stream(&head, &self.request, 0);
        self.flush()?;
        loop {
            let completion = self.wait(CALL_LIMIT)?;
            let end = completion.end;
            let body = success(completion)?;
            if end {
                return Ok(());
            }
            each(&body);
            self.connection.recycle(body);
        }
    }

    /// The newest revision.
    ///
    /// # Errors
    /// As of [`Self::call`].
    pub fn revision(&mut self) -> io::Result<i64> {
        let body = self.call(message::RANGE, |request| {
            message::range(b"ringbench", false, request);
        })?;
        message::read_range(&body)
            .map(|answer| answer.revision)
            .ok_or_else(malformed)
    }

    /// Drops what is older than `revision` and waits until it is done.
    ///
    /// # Errors
    /// As of [`Self::call`].
    pub fn compact(&mut self, revision: i64) -> io::Result<()> {
        self.call(message::COMPACT, |request| {
            message::compact(revision, request)
        })
        .map(|_| ())
    }

    /// Makes this connection a watch stream and waits until the watcher exists.
    ///
    /// # Errors
    /// As of [`Self::call`]; also if the server refuses the watcher.
    pub fn watch(mut self, request: WatchRequest<'_>) -> io::Result<WatchStream> {
        let head = RequestHead::new(message::WATCH);
        let stream = self.connection.open_stream(&head, 0);
        message::watch_create(request, &mut self.request);
        self.connection.send_message(stream, &self.request);
        self.flush()?;
        let mut watch = WatchStream(self);
        let body = watch.next(CALL_LIMIT)?.ok_or_else(timed_out)?;
        match message::read_watch(&body, |_| {}) {
            Some(answer) if answer.created && !answer.canceled => Ok(watch),
            _ => Err(io::Error::other("the server did not create the watcher")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.poller.flush(0, &mut self.connection)
    }

    fn wait(&mut self, limit: Duration) -> io::Result<Completion> {
        self.next(limit)?.ok_or_else(timed_out)
    }

    fn next(&mut self, limit: Duration) -> io::Result<Option<Completion>> {
        let begin = Instant::now();
        let (mut ready, mut completions) = (Vec::new(), Vec::new());
        loop {
            if let Some(completion) = self.completions.pop_front() {
                return Ok(Some(completion));
            }
            let Some(left) = limit.checked_sub(begin.elapsed()) else {
                return Ok(None);
            };
            self.poller.wait(NAP.min(left), &mut ready)?;
            if !ready.is_empty() {
                ready.clear();
                self.connection.receive(&mut completions)?;
                self.completions.extend(completions.drain(..));
                self.flush()?;
            }
        }
    }
}

/// One watcher.
#[derive(Debug)]
pub struct WatchStream(Client);

impl WatchStream {
    /// The next message, if one comes within `limit`.
    ///
    /// # Errors
    /// The connection was lost or the stream ended.
    pub fn next(&mut self, limit: Duration) -> io::Result<Option<Vec<u8>>> {
        let Some(completion) = self.0.next(limit)? else {
            return Ok(None);
        };
        if completion.end {
            let text = format!(
                "the watch stream ended with code {}: {}",
                completion.code, completion.message
            );
            return Err(io::Error::other(text));
        }
        success(completion).map(Some)
    }

    /// Gives a message's buffer back.
    pub fn recycle(&mut self, body: Vec<u8>) {
        self.0.connection.recycle(body);
    }
}

fn success(completion: Completion) -> io::Result<Vec<u8>> {
    match completion.code {
        0 => Ok(completion.body),
        code => Err(io::Error::other(format!(
            "code {code}: {}",
            completion.message
        ))),
    }
}

/// The error for an answer that is not one.
pub fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an answer without meaning")
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}
