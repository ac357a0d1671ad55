//! Which descriptor a handle stands for, how listeners come about, and when it may be closed.
//!
//! Invariants
//! - a handle is issued once: its slot may be used again, its generation not
//! - the descriptor stays open while `flying > 0`; once closing, no operation starts on it

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::sync::Arc;

use slab::Slab;

use super::socket::Mode;
use super::{file, socket};
use crate::driver::{Handle, Listening, OpKey};
use crate::net::Address;

/// Handles of one driver with the driver's own state `S` per handle.
pub(crate) struct Descriptors<S> {
    slots: Slab<Descriptor<S>>,
    generation: u32,
}

/// An open file, listener or socket.
pub(crate) struct Descriptor<S> {
    generation: u32,
    /// Shared with file threads that use it right now.
    pub(crate) file: Arc<OwnedFd>,
    /// Operations in the kernel.
    pub(crate) flying: u32,
    /// The `Close` that waits for them.
    pub(crate) closing: Option<OpKey>,
    /// A unix socket's file, removed with its listener.
    pub(crate) socket_file: Option<PathBuf>,
    pub(crate) state: S,
}

impl<S> Descriptor<S> {
    pub(crate) fn raw(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Whether a `Close` can be carried out now.
    fn is_closable(&self) -> bool {
        self.closing.is_some() && self.flying == 0
    }
}

impl<S> Descriptors<S> {
    pub(crate) fn new() -> Descriptors<S> {
        Descriptors {
            slots: Slab::new(),
            generation: 0,
        }
    }

    pub(crate) fn insert(&mut self, file: OwnedFd, state: S) -> Handle {
        self.generation = self.generation.wrapping_add(1);
        let descriptor = Descriptor {
            generation: self.generation,
            file: Arc::new(file),
            flying: 0,
            closing: None,
            socket_file: None,
            state,
        };
        let slot = self.slots.insert(descriptor);
        Handle(u64::from(self.generation) << 32 | slot as u64)
    }

    /// The descriptor, unless it is closed or closing.
    pub(crate) fn open(&mut self, handle: Handle) -> io::Result<&mut Descriptor<S>> {
        match self.find(handle) {
            Some(descriptor) if descriptor.closing.is_none() => Ok(descriptor),
            _ => Err(io::Error::from_raw_os_error(libc::EBADF)),
        }
    }

    /// The descriptor, also while it is closing.
    pub(crate) fn find(&mut self, handle: Handle) -> Option<&mut Descriptor<S>> {
        let slot = handle.0 as u32 as usize;
        let generation = (handle.0 >> 32) as u32;
        self.slots
            .get_mut(slot)
            .filter(|descriptor| descriptor.generation == generation)
    }

    pub(crate) fn remove(&mut self, handle: Handle) -> Option<Descriptor<S>> {
        self.find(handle)?;
        Some(self.slots.remove(handle.0 as u32 as usize))
    }

    /// The descriptor itself if nothing uses it; the handle is void then.
    pub(crate) fn take_idle(&mut self, handle: Handle) -> Option<OwnedFd> {
        let descriptor = self.find(handle)?;
        let shared = Arc::strong_count(&descriptor.file) > 1;
        if descriptor.flying > 0 || descriptor.closing.is_some() || shared {
            return None;
        }
        Arc::into_inner(self.remove(handle)?.file)
    }

    /// Binds and listens.
    pub(crate) fn listen(
        &mut self,
        address: &Address,
        mode: Mode,
        state: S,
    ) -> io::Result<Listening> {
        let (listener, local) = socket::listen(address, mode)?;
        let handle = self.insert(listener, state);
        if let Address::Unix(path) = address {
            self.open(handle)?.socket_file = Some(path.clone());
        }
        Ok(Listening { handle, local })
    }

    /// Length of an open file.
    pub(crate) fn length(&mut self, handle: Handle) -> io::Result<u64> {
        file::length(self.open(handle)?.file.as_fd())
    }

    /// Carries out a `Close` whose time has come, except for closing the descriptor: whose it is, and the
    /// descriptor.
    pub(crate) fn take_closable(&mut self, handle: Handle) -> Option<(OpKey, Arc<OwnedFd>)> {
        let key = self.find(handle)?.closing?;
        if !self.find(handle)?.is_closable() {
            return None;
        }
        let descriptor = self.remove(handle)?;
        if let Some(path) = descriptor.socket_file {
            // A successor may have removed or replaced it: not an error of this close.
            std::fs::remove_file(path).ok();
        }
        Some((key, descriptor.file))
    }
}

impl<S> Drop for Descriptors<S> {
    fn drop(&mut self) {
        for path in self
            .slots
            .iter()
            .filter_map(|(_, descriptor)| descriptor.socket_file.as_ref())
        {
            // A successor may have removed it already.
            std::fs::remove_file(path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::wake::new_event;

    #[test]
    fn a_handle_is_never_reused() {
        let mut descriptors = Descriptors::new();
        let first = descriptors.insert(new_event().unwrap().into(), ());
        assert!(descriptors.open(first).is_ok());
        descriptors.remove(first).unwrap();
        let second = descriptors.insert(new_event().unwrap().into(), ());
        assert_ne!(first, second);
        assert!(descriptors.open(first).is_err());
        assert!(descriptors.remove(first).is_none());
        assert!(descriptors.open(second).is_ok());
    }

    #[test]
    fn nothing_starts_on_a_closing_handle() {
        let mut descriptors = Descriptors::new();
        let handle = descriptors.insert(new_event().unwrap().into(), ());
        let descriptor = descriptors.open(handle).unwrap();
        descriptor.flying = 1;
        descriptor.closing = Some(OpKey {
            index: 0,
            generation: 1,
        });
        assert!(!descriptor.is_closable());
        descriptor.flying = 0;
        assert!(descriptor.is_closable());
        assert!(descriptors.open(handle).is_err());
        assert!(descriptors.find(handle).is_some());
    }
}
