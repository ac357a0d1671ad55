//! Waking a core that sleeps in the kernel.

use std::fs::File;
use std::io;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::sync::atomic::{AtomicU8, Ordering};

use super::check;
use crate::driver::RemoteWake;

const RUNNING: u8 = 0;
const PARKED: u8 = 1;
const NOTIFIED: u8 = 2;

/// An event counter that other threads raise, and whether its core sleeps.
///
/// A wake costs one atomic swap while the core runs, and a write to the eventfd only when it sleeps.
pub(crate) struct WakeEvent {
    state: AtomicU8,
    event: File,
}

impl WakeEvent {
    pub(crate) fn new() -> io::Result<WakeEvent> {
        Ok(WakeEvent {
            state: AtomicU8::new(RUNNING),
            event: new_event()?,
        })
    }

    /// The descriptor that becomes readable.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Announces that the core is about to sleep; false if somebody woke it since the last [`WakeEvent::unpark`].
    pub(crate) fn park(&self) -> bool {
        self.state
            .compare_exchange(RUNNING, PARKED, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// The core runs again and will look at everything that others left for it.
    pub(crate) fn unpark(&self) {
        self.state.store(RUNNING, Ordering::SeqCst);
    }

    /// Whether somebody woke the core since the last [`WakeEvent::unpark`].
    pub(crate) fn is_notified(&self) -> bool {
        self.state.load(Ordering::Acquire) == NOTIFIED
    }

    /// Resets the counter.
    pub(crate) fn drain(&self) {
        drain_event(&self.event);
    }
}

impl RemoteWake for WakeEvent {
    fn wake(&self) {
        if self.state.swap(NOTIFIED, Ordering::SeqCst) == PARKED {
            raise_event(&self.event);
        }
    }
}

/// A non-blocking event counter.
pub(crate) fn new_event() -> io::Result<File> {
    // SAFETY: eventfd(2) takes no pointers.
    let descriptor = check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
    // SAFETY: the descriptor was just created and nobody else owns it.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

/// Makes the event readable.
pub(crate) fn raise_event(mut event: &File) {
    // The write can only fail on a counter at its maximum, which is readable as well.
    event.write_all(&1u64.to_ne_bytes()).ok();
}

/// Makes the event unreadable.
pub(crate) fn drain_event(mut event: &File) {
    let mut count = [0; 8];
    // Fails if the counter is zero already.
    event.read_exact(&mut count).ok();
}
