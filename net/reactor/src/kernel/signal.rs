//! SIGTERM, SIGINT and SIGHUP as events.
//!
//! A handler notes the signal and raises an event counter, which works whichever thread the kernel picks. Handlers
//! stay installed once a core has asked for signals; one core of the process can have them.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use super::{check, wake};
use crate::net::Signal;

const SIGNALS: [(libc::c_int, Signal); 3] = [
    (libc::SIGTERM, Signal::Terminate),
    (libc::SIGINT, Signal::Interrupt),
    (libc::SIGHUP, Signal::HangUp),
];

/// Signals that arrived and were not taken, one bit per entry of `SIGNALS`.
static PENDING: AtomicU32 = AtomicU32::new(0);
/// Whether a core has the signals.
static TAKEN: AtomicBool = AtomicBool::new(false);
/// The event's descriptor for the handler; the file lives in `EVENT` until the process ends.
static DESCRIPTOR: AtomicI32 = AtomicI32::new(-1);
static EVENT: OnceLock<File> = OnceLock::new();

/// A core's right to the signals of the process; given back when dropped.
pub(crate) struct SignalSource {
    event: &'static File,
}

impl SignalSource {
    /// # Errors
    /// `ResourceBusy` if another core has them.
    pub(crate) fn take() -> io::Result<SignalSource> {
        if TAKEN.swap(true, Ordering::AcqRel) {
            let text = "another core of this process receives the signals";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
        }
        match install() {
            Ok(event) => {
                PENDING.store(0, Ordering::Relaxed);
                Ok(SignalSource { event })
            }
            Err(error) => {
                TAKEN.store(false, Ordering::Release);
                Err(error)
            }
        }
    }

    /// The descriptor that is readable when a signal may be pending.
    pub(crate) fn descriptor(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// One signal that arrived. After `None` the descriptor becomes readable with the next one.
    pub(crate) fn next(&self) -> Option<Signal> {
        wake::drain_event(self.event);
        let pending = PENDING.load(Ordering::Acquire);
        let index = (0..SIGNALS.len()).find(|index| pending & 1 << index != 0)?;
        let rest = PENDING.fetch_and(!(1 << index), Ordering::AcqRel) & !(1 << index);
        if rest != 0 {
            wake::raise_event(self.event);
        }
        Some(SIGNALS[index].1)
    }
}

impl Drop for SignalSource {
    fn drop(&mut self) {
        TAKEN.store(false, Ordering::Release);
    }
}

fn install() -> io::Result<&'static File> {
    if let Some(event) = EVENT.get() {
        return Ok(event);
    }
    let event = EVENT.get_or_init({
        let event = wake::new_event()?;
        || event
    });
    DESCRIPTOR.store(event.as_raw_fd(), Ordering::Release);
    for (signal, _) in SIGNALS {
        // SAFETY: an all-zero `sigaction` is a valid value of that plain structure.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = note_signal as extern "C" fn(libc::c_int) as usize;
        action.sa_flags = libc::SA_RESTART;
        // SAFETY: the handler is async-signal-safe (below), and `action` outlives the call (sigaction(2)).
        check(unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) })?;
    }
    Ok(event)
}

/// The handler: only atomics and write(2), which signal-safety(7) permits; errno is kept.
extern "C" fn note_signal(signal: libc::c_int) {
    if let Some(index) = SIGNALS.iter().position(|(number, _)| *number == signal) {
        PENDING.fetch_or(1 << index, Ordering::AcqRel);
    }
    let one = 1u64.to_ne_bytes();
    // SAFETY: `__errno_location` points at this thread's errno; `one` is valid for the 8 bytes that are written.
    unsafe {
        let errno = *libc::__errno_location();
        libc::write(
            DESCRIPTOR.load(Ordering::Acquire),
            one.as_ptr().cast(),
            one.len(),
        );
        *libc::__errno_location() = errno;
    }
}
