//! Pinning a core's thread to a processor.

use std::io;

use super::check;

/// Keeps the calling thread on processor `processor`.
pub(crate) fn pin_thread(processor: usize) -> io::Result<()> {
    // SAFETY: an all-zero `cpu_set_t` is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    if processor >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the index is within the set, checked above.
    unsafe { libc::CPU_SET(processor, &mut set) };
    // SAFETY: the pointer and size describe `set`; 0 is the calling thread (sched_setaffinity(2)).
    check(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) })?;
    Ok(())
}
