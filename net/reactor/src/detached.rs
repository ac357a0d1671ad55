//! Files and streams between two cores.
//!
//! A handle belongs to one core's driver. To change its core the resource leaves that driver, travels as one of these
//! (through a mailbox, say), and enters another. Locks, file positions and bytes that wait in the kernel go with it.
//!
//! Invariants
//! - what is detached has no operation in flight: no driver knows of it
//! - whoever holds it last closes it, also by dropping a mailbox that it waits in

use std::fmt;
use std::os::fd::OwnedFd;

use crate::kernel::socket::Mode;
use crate::net::Address;
use crate::sim::LooseHandle;

/// A resource that has left its driver. Dropping it closes it.
pub struct Detached(pub(crate) Loose);

/// What drivers give and take.
pub(crate) enum Loose {
    File(OwnedFd),
    /// With how it was made: one driver waits in the kernel for its sockets, the other does not.
    Socket(OwnedFd, Mode),
    Simulated(LooseHandle),
}

impl fmt::Debug for Detached {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0 {
            Loose::File(_) => "file",
            Loose::Socket(..) => "socket",
            Loose::Simulated(_) => "simulated handle",
        };
        write!(formatter, "a detached {kind}")
    }
}

/// An open file that belongs to no core: made by [`crate::File::detach`], taken in by [`crate::World::attach_file`].
/// Dropping it closes it.
#[derive(Debug)]
pub struct DetachedFile {
    pub(crate) detached: Detached,
    pub(crate) direct: bool,
}

/// A connection that belongs to no core: made by [`crate::Stream::detach`], taken in by
/// [`crate::World::attach_stream`]. Dropping it closes it.
#[derive(Debug)]
pub struct DetachedStream {
    pub(crate) detached: Detached,
    pub(crate) peer: Address,
}

impl DetachedStream {
    /// The other end.
    pub fn peer_address(&self) -> &Address {
        &self.peer
    }
}

const _: () = {
    const fn assert_send<T: Send>() {}
    assert_send::<DetachedFile>();
    assert_send::<DetachedStream>();
};
