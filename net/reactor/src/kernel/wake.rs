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
        // Not a mere store: a wake that this overwrites must be read, or what was left before it might not be seen.
        self.state.swap(RUNNING, Ordering::AcqRel);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::thread;

    /// How often the event was written since it was drained last.
    fn writes(event: &WakeEvent) -> u64 {
        let mut count = [0; 8];
        match (&event.event).read_exact(&mut count) {
            Ok(()) => u64::from_ne_bytes(count),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                0
            }
        }
    }

    #[test]
    fn only_the_first_wake_of_a_sleeping_core_costs_a_system_call() {
        let event = WakeEvent::new().unwrap();
        for _ in 0..3 {
            (0..100).for_each(|_| event.wake());
            assert_eq!(writes(&event), 0, "the core runs");
            assert!(event.is_notified());
            assert!(!event.park(), "it was woken meanwhile");
            event.unpark();
            assert!(event.park());
            (0..100).for_each(|_| event.wake());
            assert_eq!(writes(&event), 1);
            event.unpark();
        }
    }

    /// A sleeper that is not woken makes this test hang.
    #[test]
    fn no_wake_is_lost() {
        const WAKERS: u64 = 2;
        const ROUNDS: u64 = 50_000;
        let event = Arc::new(WakeEvent::new().unwrap());
        let left = Arc::new(AtomicU64::new(0));
        let wakers: Vec<_> = (0..WAKERS)
            .map(|_| {
                let (event, left) = (Arc::clone(&event), Arc::clone(&left));
                thread::spawn(move || {
                    for _ in 0..ROUNDS {
                        left.fetch_add(1, Ordering::Relaxed);
                        event.wake();
                    }
                })
            })
            .collect();
        let mut seen = 0;
        let mut sleeps = 0;
        while seen < WAKERS * ROUNDS {
            if event.park() {
                sleeps += 1;
                while writes(&event) == 0 {
                    std::hint::spin_loop();
                }
            }
            event.unpark();
            seen = left.load(Ordering::Relaxed);
        }
        assert!(sleeps > 0);
        wakers.into_iter().for_each(|waker| waker.join().unwrap());
    }
}
