//! How the kernel backs the process's memory.

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
