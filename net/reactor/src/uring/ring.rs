//! The ring itself: set-up, submission, waiting, reaping.

use std::io;
use std::time::Duration;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, squeue};

use crate::kernel::check;

/// Submissions that fit between two enters; more enter in between.
const SUBMISSIONS: u32 = 256;

/// Completions that fit before the kernel keeps them aside.
const COMPLETIONS: u32 = 4096;

/// Enters without progress after which submission is given up.
const ENTERS_MAX: u32 = 1000;

/// A completion as the kernel posted it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Posted {
    pub(super) tag: u64,
    pub(super) result: i32,
    pub(super) flags: u32,
}

/// How long an enter may sleep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wait {
    No,
    AtMost(Duration),
    Forever,
}

/// One io_uring, used by the thread that created it.
pub(super) struct Ring {
    ring: IoUring,
    /// Reaped while making room for submissions.
    early: Vec<Posted>,
}

impl Ring {
    /// # Errors
    /// What the kernel refused and what can be done.
    pub(super) fn new() -> io::Result<Ring> {
        let mut last = None;
        for build in [build_deferred, build_cooperative, build_plain] {
            match build() {
                Ok(ring) => return Ring::checked(ring),
                // An older kernel: fewer flags.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => last = Some(error),
                Err(error) => return Err(explain(&error)),
            }
        }
        Err(last.map_or_else(
            || io::ErrorKind::Unsupported.into(),
            |error| explain(&error),
        ))
    }

    fn checked(mut ring: IoUring) -> io::Result<Ring> {
        let parameters = ring.params();
        if !parameters.is_feature_nodrop() || !parameters.is_feature_ext_arg() {
            let text = "io_uring: the kernel is older than Linux 5.19";
            return Err(io::Error::new(io::ErrorKind::Unsupported, text));
        }
        // Saves the kernel a descriptor look-up per enter; optional.
        ring.submitter().register_ring_fd().ok();
        let _ = &mut ring;
        Ok(Ring {
            ring,
            early: Vec::new(),
        })
    }

    pub(super) fn submitter(&self) -> io_uring::Submitter<'_> {
        self.ring.submitter()
    }

    /// Queues entries so that they enter together: a link between them holds.
    ///
    /// # Safety
    /// All memory that the entries point at stays valid and untouched until their completions are reaped, and their
    /// descriptors stay open until then.
    pub(super) unsafe fn push(&mut self, entries: &[squeue::Entry]) {
        let mut enters = 0;
        loop {
            // SAFETY: passed on to the caller.
            if unsafe { self.ring.submission().push_multiple(entries) }.is_ok() {
                return;
            }
            enters += 1;
            assert!(enters < ENTERS_MAX, "io_uring takes no submissions");
            self.enter(Wait::No);
            let mut early = std::mem::take(&mut self.early);
            self.reap_posted(&mut early);
            self.early = early;
        }
    }

    /// Whether something is there to reap.
    pub(super) fn has_posted(&mut self) -> bool {
        !self.early.is_empty()
            || !self.ring.completion().is_empty()
            || self.ring.submission().taskrun()
    }

    /// Hands queued entries to the kernel and waits for a completion as `wait` allows; at most one system call.
    pub(super) fn enter(&mut self, wait: Wait) {
        let wait = if self.early.is_empty() {
            wait
        } else {
            Wait::No
        };
        let submission = self.ring.submission();
        let idle = submission.is_empty() && !submission.taskrun() && !submission.cq_overflow();
        drop(submission);
        let submitter = self.ring.submitter();
        let result = match wait {
            Wait::No if idle => return,
            Wait::No => submitter.submit_with_args(0, &SubmitArgs::new()),
            Wait::Forever => submitter.submit_and_wait(1),
            Wait::AtMost(time) => {
                let time = Timespec::from(time);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&time))
            }
        };
        let Err(error) = result else { return };
        match error.raw_os_error() {
            // Timed out, interrupted, or completions have to be reaped first: all ordinary.
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => {}
            _ => panic!("io_uring_enter: {error}"),
        }
    }

    /// Appends what the kernel posted.
    pub(super) fn reap(&mut self, into: &mut Vec<Posted>) {
        into.append(&mut self.early);
        self.reap_posted(into);
    }

    fn reap_posted(&mut self, into: &mut Vec<Posted>) {
        let posted = |entry: io_uring::cqueue::Entry| Posted {
            tag: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        };
        into.extend(self.ring.completion().map(posted));
    }
}

/// Completion work runs only inside our own enters (Linux 6.1).
fn build_deferred() -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag();
    builder
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(COMPLETIONS);
    builder.build(SUBMISSIONS)
}

/// Completion work runs when we enter the kernel for whatever reason (Linux 5.19).
fn build_cooperative() -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_coop_taskrun().setup_taskrun_flag();
    builder
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(COMPLETIONS);
    builder.build(SUBMISSIONS)
}

fn build_plain() -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder.setup_clamp().setup_cqsize(COMPLETIONS);
    builder.build(SUBMISSIONS)
}

/// Says what a refused set-up means. Keeps the kind.
fn explain(error: &io::Error) -> io::Error {
    let remedy = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            "forbidden by a seccomp profile (as in most containers) or by sysctl kernel.io_uring_disabled".into()
        }
        Some(libc::ENOSYS) => "this kernel has no io_uring".into(),
        Some(libc::ENOMEM) => format!(
            "not enough memory may be locked: the limit is {}; raise it (ulimit -l, LimitMEMLOCK=, --ulimit memlock=)",
            locked_memory_limit()
        ),
        Some(libc::EMFILE | libc::ENFILE) => "no file descriptor is left; raise the limit (ulimit -n)".into(),
        _ => String::from("the kernel refused it"),
    };
    io::Error::new(error.kind(), format!("io_uring_setup: {error}: {remedy}"))
}

fn locked_memory_limit() -> String {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a valid place for the result (getrlimit(2)).
    match check(unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) }) {
        Ok(_) if limit.rlim_cur == libc::RLIM_INFINITY => "unlimited".into(),
        Ok(_) => format!("{} KiB", limit.rlim_cur >> 10),
        Err(error) => format!("unknown ({error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do() {
        let check = |errno, expected: &str| {
            let text = explain(&io::Error::from_raw_os_error(errno)).to_string();
            assert!(text.contains(expected), "{text}");
        };
        check(libc::EPERM, "seccomp");
        check(libc::ENOSYS, "no io_uring");
        check(libc::ENOMEM, "ulimit -l");
        check(libc::EMFILE, "ulimit -n");
    }
}
