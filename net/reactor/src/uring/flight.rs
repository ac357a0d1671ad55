//! What is in the kernel, and to whom it belongs.

use std::io;
use std::os::fd::OwnedFd;

use crate::buffer::AlignedBuffer;
use crate::driver::{Handle, OpKey, Outcome};
use crate::kernel::socket::KernelAddress;
use crate::net::Address;

/// An operation in the kernel with all memory that it uses. Stays in the table until its last completion is reaped.
pub(super) enum Flight {
    Read {
        key: OpKey,
        file: Handle,
        buffer: AlignedBuffer,
    },
    Write(WriteFlight),
    Sync {
        key: OpKey,
        file: Handle,
    },
    /// Multishot: posts a completion per connection.
    Accept {
        listener: Handle,
    },
    Connect {
        key: OpKey,
        socket: OwnedFd,
        peer: Address,
        _raw: Box<KernelAddress>,
    },
    Receive {
        key: OpKey,
        socket: Handle,
    },
    Send {
        key: OpKey,
        socket: Handle,
        buffer: Vec<u8>,
    },
    Close {
        key: OpKey,
    },
    /// The signal event became readable.
    Signal,
}

/// A write, and the sync that is linked to it.
pub(super) struct WriteFlight {
    pub(super) key: OpKey,
    pub(super) file: Handle,
    pub(super) buffer: AlignedBuffer,
    pub(super) start: usize,
    pub(super) written: Option<io::Result<usize>>,
    /// Whether a sync was asked for, and its result once it is there.
    pub(super) sync: Option<Option<io::Result<()>>>,
}

/// Which completion of a flight: a write with a linked sync has two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    First,
    LinkedSync,
}

/// The wake event became readable.
pub(super) const WAKE_TAG: u64 = u64::MAX;

/// A cancellation: what it ended completes by itself.
pub(super) const CANCEL_TAG: u64 = u64::MAX - 1;

/// The user data of a flight's completion.
pub(super) fn tag(flight: usize, part: Part) -> u64 {
    (flight as u64) << 1 | u64::from(part == Part::LinkedSync)
}

/// Inverse of [`tag`].
pub(super) fn untag(tag: u64) -> (usize, Part) {
    let part = if tag & 1 == 1 {
        Part::LinkedSync
    } else {
        Part::First
    };
    ((tag >> 1) as usize, part)
}

impl Flight {
    /// The operation that waits for it, if a single one does.
    pub(super) fn key(&self) -> Option<OpKey> {
        match self {
            Flight::Read { key, .. }
            | Flight::Write(WriteFlight { key, .. })
            | Flight::Sync { key, .. }
            | Flight::Connect { key, .. }
            | Flight::Receive { key, .. }
            | Flight::Send { key, .. }
            | Flight::Close { key } => Some(*key),
            Flight::Accept { .. } | Flight::Signal => None,
        }
    }

    /// Whether ending it early is safe: file operations always run to their end.
    pub(super) fn is_cancellable(&self) -> bool {
        matches!(
            self,
            Flight::Connect { .. } | Flight::Receive { .. } | Flight::Send { .. }
        )
    }

    /// The handle that must stay open until it is reaped.
    pub(super) fn handle(&self) -> Option<Handle> {
        match self {
            Flight::Read { file, .. } | Flight::Sync { file, .. } => Some(*file),
            Flight::Write(write) => Some(write.file),
            Flight::Accept { listener } => Some(*listener),
            Flight::Receive { socket, .. } | Flight::Send { socket, .. } => Some(*socket),
            Flight::Connect { .. } | Flight::Close { .. } | Flight::Signal => None,
        }
    }
}

impl WriteFlight {
    /// Notes one completion; whether it was the last.
    pub(super) fn note(&mut self, part: Part, result: io::Result<usize>) -> bool {
        match part {
            Part::First => self.written = Some(result),
            Part::LinkedSync => self.sync = Some(Some(result.map(drop))),
        }
        self.written.is_some() && !matches!(self.sync, Some(None))
    }

    /// The outcome, once all completions were noted. The kernel cancels the sync after a short or failed write.
    pub(super) fn outcome(self) -> Outcome {
        let written = self
            .written
            .unwrap_or_else(|| Err(io::ErrorKind::Other.into()));
        let whole = written
            .as_ref()
            .is_ok_and(|&count| self.start + count == self.buffer.len());
        let synced = self.sync.flatten().filter(|_| whole);
        Outcome::Wrote {
            buffer: self.buffer,
            written,
            synced,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_keep_the_part_and_spare_the_reserved_ones() {
        for flight in [0, 1, 77, u32::MAX as usize] {
            for part in [Part::First, Part::LinkedSync] {
                assert_eq!(untag(tag(flight, part)), (flight, part));
                assert!(tag(flight, part) < CANCEL_TAG);
            }
        }
    }

    fn write(sync: bool) -> WriteFlight {
        WriteFlight {
            key: OpKey {
                index: 0,
                generation: 0,
            },
            file: Handle(0),
            buffer: AlignedBuffer::zeroed(100),
            start: 40,
            written: None,
            sync: sync.then_some(None),
        }
    }

    fn errno(number: i32) -> io::Error {
        io::Error::from_raw_os_error(number)
    }

    #[test]
    fn a_linked_write_says_which_half_failed() {
        let run = |written, synced| {
            let mut flight = write(true);
            assert!(!flight.note(Part::First, written));
            assert!(flight.note(Part::LinkedSync, synced));
            let Outcome::Wrote {
                written, synced, ..
            } = flight.outcome()
            else {
                unreachable!()
            };
            (
                written.ok(),
                synced.map(|result| result.map_err(|error| error.raw_os_error())),
            )
        };
        assert_eq!(run(Ok(60), Ok(0)), (Some(60), Some(Ok(()))));
        assert_eq!(
            run(Ok(60), Err(errno(libc::EIO))),
            (Some(60), Some(Err(Some(libc::EIO))))
        );
        assert_eq!(run(Ok(59), Err(errno(libc::ECANCELED))), (Some(59), None));
        assert_eq!(
            run(Err(errno(libc::EIO)), Err(errno(libc::ECANCELED))),
            (None, None)
        );
    }

    #[test]
    fn a_bare_write_has_one_completion() {
        let mut flight = write(false);
        assert!(flight.note(Part::First, Ok(60)));
        assert!(matches!(
            flight.outcome(),
            Outcome::Wrote {
                written: Ok(60),
                synced: None,
                ..
            }
        ));
    }
}
