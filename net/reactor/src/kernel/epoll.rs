//! epoll(7), edge-triggered.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::check;

/// Events that one wait returns at most.
const EVENTS_MAX: usize = 256;

/// What became possible on a descriptor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readiness {
    /// The number given at registration.
    pub(crate) tag: u64,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
    /// The peer closed its sending half, or the connection failed: reads will end without a further edge.
    pub(crate) ended: bool,
}

/// An epoll instance.
pub(crate) struct Epoll {
    descriptor: OwnedFd,
    events: Vec<libc::epoll_event>,
    /// Whether the kernel has epoll_pwait2 (Linux 5.11); without it waits are rounded up to milliseconds.
    precise: bool,
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Epoll> {
        // SAFETY: epoll_create1(2) takes no pointers.
        let descriptor = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the descriptor was just created and nobody else owns it.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX];
        Ok(Epoll {
            descriptor,
            events,
            precise: true,
        })
    }

    /// Reports edges of the descriptor under `tag` until it is closed.
    pub(crate) fn register(&self, descriptor: RawFd, tag: u64) -> io::Result<()> {
        let events = (libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET) as u32;
        let mut event = libc::epoll_event { events, u64: tag };
        // SAFETY: `event` outlives the call (epoll_ctl(2)).
        check(unsafe {
            libc::epoll_ctl(
                self.descriptor.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                descriptor,
                &mut event,
            )
        })?;
        Ok(())
    }

    /// Reports the descriptor no more, although it stays open.
    pub(crate) fn unregister(&self, descriptor: RawFd) -> io::Result<()> {
        // SAFETY: the event may be null for this operation (epoll_ctl(2), Linux 2.6.9).
        check(unsafe {
            libc::epoll_ctl(
                self.descriptor.as_raw_fd(),
                libc::EPOLL_CTL_DEL,
                descriptor,
                std::ptr::null_mut(),
            )
        })?;
        Ok(())
    }

    /// Waits for events, at most `timeout` (for ever if `None`), and returns how many there are.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        if self.precise {
            match self.wait_precisely(timeout) {
                Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => self.precise = false,
                result => return result,
            }
        }
        let milliseconds = match timeout {
            None => -1,
            Some(timeout) => timeout
                .as_nanos()
                .div_ceil(1_000_000)
                .try_into()
                .unwrap_or(libc::c_int::MAX),
        };
        let (pointer, length) = (self.events.as_mut_ptr(), self.events.len() as libc::c_int);
        // SAFETY: the pointer and length describe `events` (epoll_wait(2)).
        let count = check(unsafe {
            libc::epoll_wait(self.descriptor.as_raw_fd(), pointer, length, milliseconds)
        })?;
        Ok(count as usize)
    }

    fn wait_precisely(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let time = timeout.map(|timeout| libc::timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(timeout.subsec_nanos()),
        });
        let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let (pointer, length) = (self.events.as_mut_ptr(), self.events.len() as libc::c_int);
        // SAFETY: the pointer and length describe `events`; `time` is null or points at a value that outlives the
        // call; a null signal mask changes nothing (epoll_pwait2(2)).
        let count = check(unsafe {
            libc::epoll_pwait2(
                self.descriptor.as_raw_fd(),
                pointer,
                length,
                time,
                std::ptr::null(),
            )
        })?;
        Ok(count as usize)
    }

    /// Event `index` of the last wait.
    pub(crate) fn event(&self, index: usize) -> Readiness {
        let libc::epoll_event { events, u64: tag } = self.events[index];
        let any = |mask: libc::c_int| events & mask as u32 != 0;
        Readiness {
            tag,
            readable: any(libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR),
            writable: any(libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLERR),
            ended: any(libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR),
        }
    }
}
