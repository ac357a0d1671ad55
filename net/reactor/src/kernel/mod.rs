//! System calls that both real drivers share. Each wrapper owns its descriptor and returns `io::Result`.
//!
//! Owns what a call needs (addresses, descriptors, paths); refuses to know about operations and tasks.

pub(crate) mod clock;
pub(crate) mod descriptor;
pub(crate) mod epoll;
pub(crate) mod file;
pub(crate) mod lock;
pub(crate) mod memory;
pub(crate) mod pin;
pub(crate) mod processors;
pub(crate) mod signal;
pub(crate) mod socket;
pub(crate) mod spin;
pub(crate) mod threads;
pub(crate) mod wake;

use std::io;

/// A system call's `-1` as the error it stands for.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// A system call's byte count, or the error that `-1` stands for.
pub(crate) fn check_count(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// What an operation ends with that was taken back.
pub(crate) fn cancelled() -> io::Error {
    io::Error::from_raw_os_error(libc::ECANCELED)
}

/// A ring completion's result: a count, or a negated errno.
pub(crate) fn check_completion(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}
