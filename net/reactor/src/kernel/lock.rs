//! The exclusive lock of a data file, taken on the file itself.
//!
//! A killed process leaves its lock with the kernel until its last write has landed, which may be seconds after the
//! process is gone. So a lock held by a dead process is waited for, and one held by a live process is refused at once.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::check;

/// How long a dead process's lock is waited for.
const DEAD_HOLDER_WAIT: Duration = Duration::from_secs(30);

/// How long a lock of this very process is waited for: a close may still be on its way.
const OWN_HOLDER_WAIT: Duration = Duration::from_millis(200);

const RETRY_PAUSE: Duration = Duration::from_millis(2);

/// Takes the lock. May block for [`DEAD_HOLDER_WAIT`]: call it on a file thread.
///
/// # Errors
/// `ResourceBusy` naming the process that holds it, `TimedOut` if a dead one does not let go, or of flock(2).
pub(crate) fn lock_exclusively(file: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let began = Instant::now();
    loop {
        // SAFETY: flock(2) takes no pointers.
        match check(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(_) => {}
        }
        let holder = holder_of(file)?;
        let own = holder == Some(std::process::id());
        if let Some(process) = holder.filter(|&process| is_alive(process))
            && (!own || began.elapsed() >= OWN_HOLDER_WAIT)
        {
            return Err(held_by(path, process));
        }
        if began.elapsed() >= DEAD_HOLDER_WAIT {
            return Err(not_released(path, holder));
        }
        thread::sleep(RETRY_PAUSE);
    }
}

fn held_by(path: &Path, process: u32) -> io::Error {
    let text = format!(
        "{} is locked by the running process {process}",
        path.display()
    );
    io::Error::new(io::ErrorKind::ResourceBusy, text)
}

fn not_released(path: &Path, holder: Option<u32>) -> io::Error {
    let holder = holder.map_or("an unknown process".into(), |process| {
        format!("the ended process {process}")
    });
    let text = format!(
        "{} is still locked by {holder} after {} s: a child of it, or its last write, holds the file",
        path.display(),
        DEAD_HOLDER_WAIT.as_secs()
    );
    io::Error::new(io::ErrorKind::TimedOut, text)
}

/// The process that took the lock, if the kernel lists it.
fn holder_of(file: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    // SAFETY: an all-zero `stat` is a valid value of that plain structure.
    let mut status: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `status` is a valid place for the result (fstat(2)).
    check(unsafe { libc::fstat(file.as_raw_fd(), &mut status) })?;
    let identity = format!(
        "{:02x}:{:02x}:{}",
        libc::major(status.st_dev),
        libc::minor(status.st_dev),
        status.st_ino
    );
    Ok(find_holder(&fs::read_to_string("/proc/locks")?, &identity))
}

/// Finds `major:minor:inode` in the text of /proc/locks (proc_locks(5)):
/// `1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF`; waiters have `->` after the number.
///
/// Some file systems (btrfs, overlays) list another device than fstat(2) names: then the inode number decides.
fn find_holder(locks: &str, identity: &str) -> Option<u32> {
    let holders = || {
        locks.lines().filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            if words.next()? != "FLOCK" {
                return None;
            }
            Some((words.nth(2)?.parse().ok()?, words.next()?))
        })
    };
    let inode = |identity: &str| identity.rsplit(':').next().map(str::to_owned);
    let exact = holders().find(|(_, listed)| *listed == identity);
    exact
        .or_else(|| holders().find(|(_, listed)| inode(listed) == inode(identity)))
        .map(|(process, _)| process)
}

/// Whether the process still runs: a zombie does not.
fn is_alive(process: u32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{process}/stat")) else {
        return false;
    };
    // The state follows the name, which stands in parentheses and may itself hold any character.
    let state = status
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, Some('Z' | 'X' | 'x') | None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_holder_among_locks_of_other_kinds() {
        let locks = "1: POSIX  ADVISORY  WRITE 10 fe:00:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 11 fe:00:78 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 12 fe:00:77 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 13 fe:00:77 0 EOF\n\
                     4: FLOCK\n";
        assert_eq!(find_holder(locks, "fe:00:77"), Some(12));
        assert_eq!(
            find_holder(locks, "00:1f:78"),
            Some(11),
            "another device, the same inode"
        );
        assert_eq!(find_holder(locks, "fe:00:79"), None);
        assert_eq!(find_holder("", "fe:00:77"), None);
    }

    #[test]
    fn knows_the_living() {
        assert!(is_alive(std::process::id()));
        assert!(!is_alive(u32::MAX));
    }
}
