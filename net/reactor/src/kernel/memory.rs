//! What the kernel grants the process: memory and descriptors.

use std::io;

use super::check;

/// Backs new memory of the process with pages of the base size only.
pub(crate) fn disable_huge_pages() -> io::Result<()> {
    let on: libc::c_ulong = 1;
    let unused: libc::c_ulong = 0;
    // SAFETY: PR_SET_THP_DISABLE takes integers only (prctl(2)).
    check(unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, on, unused, unused, unused) })?;
    Ok(())
}

/// Lets the process open as many descriptors as its hard limit allows: the usual soft limit of 1024 is for
/// programs that use select(2).
pub(crate) fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the limit is valid for a write.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the limit is valid for a read.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(())
}
