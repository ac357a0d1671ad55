//! Waiting for several connections at once.

use std::fmt;
use std::io;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

use crate::http2::Connection;

const EVENTS_PER_WAIT: usize = 256;

/// The sockets of a run. A connection is named by the order in which it was added.
///
/// Invariant: `waits_to_write[i]` says whether the kernel was asked to report when socket `i` is writable.
pub struct Poller {
    poll: rustix::fd::OwnedFd,
    waits_to_write: Vec<bool>,
    events: Vec<epoll::Event>,
}

impl fmt::Debug for Poller {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Poller")
            .field("waits_to_write", &self.waits_to_write)
            .finish_non_exhaustive()
    }
}

impl Poller {
    /// A poller of nothing.
    ///
    /// # Errors
    /// The kernel gives no descriptor.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            poll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            waits_to_write: Vec::new(),
            events: Vec::with_capacity(EVENTS_PER_WAIT),
        })
    }

    /// Adds a connection and sends what it has queued.
    ///
    /// # Errors
    /// The socket failed.
    pub fn add(&mut self, connection: &mut Connection) -> io::Result<()> {
        let index = self.waits_to_write.len();
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&self.poll, &*connection, data, epoll::EventFlags::IN)?;
        self.waits_to_write.push(false);
        self.flush(index, connection)
    }

    /// Sends what connection `index` has queued, now or when its socket takes it.
    ///
    /// # Errors
    /// The socket failed.
    pub fn flush(&mut self, index: usize, connection: &mut Connection) -> io::Result<()> {
        connection.flush()?;
        let wants_write = connection.wants_write();
        if wants_write != self.waits_to_write[index] {
            self.waits_to_write[index] = wants_write;
            let mut flags = epoll::EventFlags::IN;
            flags.set(epoll::EventFlags::OUT, wants_write);
            let data = epoll::EventData::new_u64(index as u64);
            epoll::modify(&self.poll, &*connection, data, flags)?;
        }
        Ok(())
    }

    /// Waits at most `timeout` and appends the connections that have something to do to `ready`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn wait(&mut self, timeout: Duration, ready: &mut Vec<usize>) -> io::Result<()> {
        let timeout = Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        self.events.clear();
        match epoll::wait(&self.poll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        ready.extend(self.events.iter().map(|event| event.data.u64() as usize));
        Ok(())
    }
}
