//! The boundary between a core's executor and what carries out its operations.
//!
//! The executor allots an [`OpKey`] per operation, hands the driver an [`Op`] that owns its buffers, and
//! later takes back one [`Completion`] per key: also for a cancelled operation, so that the buffer is
//! always returned by the driver and by nobody else. Drivers report raw outcomes: a short read, a short
//! write, `EINTR` and `EAGAIN` are ordinary, and [`crate::File`] and [`crate::Stream`] deal with them. So the
//! simulation can inject each of them under the very code that runs in production.
//!
//! Contract of every driver
//! - exactly one completion per submitted operation; the key is free for reuse once it is delivered
//! - operations on one file may complete in any order; nothing is ordered except a write and the sync
//!   that the same [`Op::Write`] asks for
//! - `Close` waits until the handle's other operations are reaped; on a socket it cancels them first
//! - an `Accept` that is cancelled loses no connection: what was accepted stays with the listener
//! - handles are never reused

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::buffer::{AlignedBuffer, ReceiveBuffer};
pub use crate::detached::Detached;
use crate::file::OpenOptions;
use crate::net::{Address, Signal};
use crate::time::Timestamp;

/// Names one operation in flight on one core.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OpKey {
    /// Slot in the executor's operation table; drivers may use it to index tables of their own.
    pub index: u32,
    /// Counts the uses of the slot.
    pub generation: u32,
}

impl OpKey {
    /// The key as one number, for a driver that carries it as user data.
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// Inverse of [`OpKey::to_bits`].
    pub fn from_bits(bits: u64) -> OpKey {
        OpKey {
            index: bits as u32,
            generation: (bits >> 32) as u32,
        }
    }
}

/// An open file, listener or socket as its driver names it. Never reused by the driver that issued it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Handle(pub u64);

/// What a core asks its driver to do. Buffers and paths are owned.
#[derive(Debug)]
pub enum Op {
    /// Opens or creates a file → [`Outcome::Opened`].
    Open {
        /// Where it is.
        path: PathBuf,
        /// How to open it.
        options: OpenOptions,
    },
    /// Reads up to `buffer.len()` bytes → [`Outcome::Read`].
    Read {
        /// File to read.
        file: Handle,
        /// Destination.
        buffer: AlignedBuffer,
        /// First byte of the file.
        offset: u64,
        /// First byte of the buffer to fill (the remainder of an earlier short read).
        start: usize,
    },
    /// Writes `buffer[start..]` at `offset` → [`Outcome::Wrote`].
    Write {
        /// File to write.
        file: Handle,
        /// Source.
        buffer: AlignedBuffer,
        /// First byte of the file.
        offset: u64,
        /// First byte of the buffer to write.
        start: usize,
        /// Sync the file's data after the write succeeded in full.
        sync: bool,
    },
    /// Makes the file's data durable (`fdatasync`) → [`Outcome::Done`].
    Sync {
        /// File to sync.
        file: Handle,
    },
    /// Length of the file → [`Outcome::Length`].
    Length {
        /// File to ask.
        file: Handle,
    },
    /// Renames atomically, replacing `to` → [`Outcome::Done`].
    Rename {
        /// Present name.
        from: PathBuf,
        /// New name.
        to: PathBuf,
    },
    /// Removes a file → [`Outcome::Done`].
    RemoveFile {
        /// The file.
        path: PathBuf,
    },
    /// Creates a directory and its missing parents; existing ones are fine → [`Outcome::Done`].
    CreateDirAll {
        /// The directory.
        path: PathBuf,
    },
    /// Makes the directory's entries durable → [`Outcome::Done`].
    SyncDir {
        /// The directory.
        path: PathBuf,
    },
    /// Names and lengths of the entries, sorted by name → [`Outcome::Listed`].
    ListDir {
        /// The directory.
        path: PathBuf,
    },
    /// Binds and listens → [`Outcome::Listening`].
    Listen {
        /// Port 0 lets the kernel choose.
        address: Address,
    },
    /// Next connection of a listener → [`Outcome::Connected`].
    Accept {
        /// The listener.
        listener: Handle,
    },
    /// Opens a connection → [`Outcome::Connected`].
    Connect {
        /// Where to.
        address: Address,
    },
    /// Waits for bytes → [`Outcome::Received`]; empty means the peer closed its sending half.
    Receive {
        /// The socket; at most one receive is outstanding.
        socket: Handle,
    },
    /// Sends `buffer[start..]` or a part of it → [`Outcome::Sent`].
    Send {
        /// The socket; at most one send is outstanding.
        socket: Handle,
        /// Source.
        buffer: Vec<u8>,
        /// First byte to send.
        start: usize,
    },
    /// Closes the sending half → [`Outcome::Done`].
    Shutdown {
        /// The socket.
        socket: Handle,
    },
    /// Closes a file, listener or socket → [`Outcome::Done`].
    Close {
        /// What to close.
        handle: Handle,
    },
    /// Waits for the next SIGTERM, SIGINT or SIGHUP → [`Outcome::Signal`].
    Signal,
}

/// What became of an operation. Buffers come back whatever happened.
#[derive(Debug)]
pub enum Outcome {
    /// Of `Open`.
    Opened(io::Result<Opened>),
    /// Of `Read`: bytes read from `start`; 0 is the end of the file.
    Read {
        /// The operation's buffer.
        buffer: AlignedBuffer,
        /// Bytes read.
        result: io::Result<usize>,
    },
    /// Of `Write`.
    Wrote {
        /// The operation's buffer.
        buffer: AlignedBuffer,
        /// Bytes written.
        written: io::Result<usize>,
        /// Result of the sync; `None` if none was asked for, or the write was short or failed.
        synced: Option<io::Result<()>>,
    },
    /// Of `Length`.
    Length(io::Result<u64>),
    /// Of `Sync`, `Rename`, `RemoveFile`, `CreateDirAll`, `SyncDir`, `Shutdown`, `Close`.
    Done(io::Result<()>),
    /// Of `ListDir`.
    Listed(io::Result<Vec<(String, u64)>>),
    /// Of `Listen`.
    Listening(io::Result<Listening>),
    /// Of `Accept` and `Connect`.
    Connected(io::Result<Connected>),
    /// Of `Receive`.
    Received(io::Result<ReceiveBuffer>),
    /// Of `Send`: bytes taken from `start`.
    Sent {
        /// The operation's buffer.
        buffer: Vec<u8>,
        /// Bytes sent.
        result: io::Result<usize>,
    },
    /// Of `Signal`.
    Signal(io::Result<Signal>),
}

impl Outcome {
    /// The handle that a successful outcome carries, if any: what nobody waits for must be closed.
    pub fn handle(&self) -> Option<Handle> {
        match self {
            Outcome::Opened(Ok(opened)) => Some(opened.handle),
            Outcome::Listening(Ok(listening)) => Some(listening.handle),
            Outcome::Connected(Ok(connected)) => Some(connected.handle),
            _ => None,
        }
    }
}

/// An open file.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Its handle.
    pub handle: Handle,
    /// Its length in bytes, after any reservation.
    pub length: u64,
    /// Whether reads and writes bypass the page cache (`OpenOptions::direct` was granted).
    pub direct: bool,
}

/// A listening socket.
#[derive(Clone, Debug)]
pub struct Listening {
    /// Its handle.
    pub handle: Handle,
    /// The address with the port that was chosen.
    pub local: Address,
}

/// A connected socket.
#[derive(Clone, Debug)]
pub struct Connected {
    /// Its handle.
    pub handle: Handle,
    /// The other end.
    pub peer: Address,
}

/// The end of one operation.
#[derive(Debug)]
pub struct Completion {
    /// Which operation.
    pub key: OpKey,
    /// What became of it.
    pub outcome: Outcome,
}

/// How long [`Driver::poll`] may sleep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Park {
    /// Not at all: start what was submitted and reap what is there.
    Poll,
    /// Until a completion, a remote wake or this instant.
    Until(Timestamp),
    /// Until a completion or a remote wake.
    Forever,
}

/// Which driver carries a world.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DriverKind {
    /// io_uring.
    Uring,
    /// epoll and file threads.
    Fallback,
    /// The seeded simulation.
    Simulated,
}

impl fmt::Display for DriverKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            DriverKind::Uring => "io_uring",
            DriverKind::Fallback => "epoll",
            DriverKind::Simulated => "simulated",
        })
    }
}

/// Wakes a parked driver from any thread. Must be cheap when the driver is not parked.
pub trait RemoteWake: Send + Sync {
    /// Makes the current or the next [`Driver::poll`] return.
    fn wake(&self);
}

/// Carries out the operations of one core.
pub trait Driver {
    /// Takes an operation. It may start at once or at the next [`Driver::poll`]; its completion is only ever
    /// delivered by `poll`.
    fn submit(&mut self, key: OpKey, op: Op);

    /// Nobody waits for `key` any more: end it early where that is safe. Its completion is still delivered.
    /// File operations run to their end. Unknown keys are ignored.
    fn cancel(&mut self, key: OpKey);

    /// Takes an open file out of this driver; its handle is void from here on. `None`, and nothing has changed, if
    /// an operation on it has not been reaped.
    fn release_file(&mut self, file: Handle) -> Option<Detached>;

    /// The same for a connected socket.
    fn release_stream(&mut self, socket: Handle) -> Option<Detached>;

    /// Takes in a file that another driver of the same kind has let go.
    ///
    /// # Panics
    /// If a simulated file meets a real driver, another process, or the other way round.
    fn adopt_file(&mut self, file: Detached) -> Handle;

    /// The same for a connected socket.
    ///
    /// # Errors
    /// Of the system calls that make it known; the socket is then closed.
    fn adopt_stream(&mut self, socket: Detached) -> io::Result<Handle>;

    /// Starts what was submitted, sleeps as `park` allows, and appends what completed.
    fn poll(&mut self, park: Park, completions: &mut Vec<Completion>);

    /// The monotonic clock.
    fn now(&self) -> Timestamp;

    /// Time since 1970, as the host's wall clock has it.
    fn unix_time(&self) -> Duration;

    /// Processor time that the core's thread has used, except for looking for work in vain; 0 in the simulation.
    fn processor_nanos(&self) -> u64;

    /// A random number (seeded in the simulation).
    fn random(&mut self) -> u64;

    /// The way to interrupt `poll` from elsewhere.
    fn remote_wake(&self) -> Arc<dyn RemoteWake>;

    /// Which driver this is.
    fn kind(&self) -> DriverKind;

    /// Why the preferred driver is not the one that runs, if so.
    fn refusal(&self) -> Option<&str> {
        None
    }
}
