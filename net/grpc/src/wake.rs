//! Wakers of one connection: which of its parts asked to be polled.
//!
//! A connection is one future with many calls inside. Each part gets its own waker, which notes the
//! part and wakes the connection's task only if the task is not running already. Everything here
//! stays on one core; the mutex is there because a [`Waker`] may be sent anywhere, and is never
//! contended.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

/// What asked to be polled since the last look.
#[derive(Default)]
pub(crate) struct Wakes {
    state: Mutex<WakeState>,
}

#[derive(Default)]
struct WakeState {
    task: Option<Waker>,
    /// The task is being polled and looks at the flags before it returns.
    running: bool,
    connection: bool,
    housekeeping: bool,
    calls: Vec<u32>,
}

impl WakeState {
    fn any(&self) -> bool {
        self.connection || self.housekeeping || !self.calls.is_empty()
    }
}

/// Parts that are not calls.
#[derive(Clone, Copy)]
pub(crate) struct Due {
    /// The HTTP/2 connection itself.
    pub(crate) connection: bool,
    /// Timer, shutdown or keepalive.
    pub(crate) housekeeping: bool,
}

impl Wakes {
    fn lock(&self) -> MutexGuard<'_, WakeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The task starts to run; from here on nothing wakes it.
    pub(crate) fn enter(&self, task: &Waker) {
        let mut state = self.lock();
        state.running = true;
        match &mut state.task {
            Some(known) => known.clone_from(task),
            unknown => *unknown = Some(task.clone()),
        }
    }

    /// The task returns; `true` if something asked meanwhile, so that it must be polled again.
    pub(crate) fn leave(&self) -> bool {
        let mut state = self.lock();
        state.running = false;
        state.any()
    }

    /// Takes what is due, the calls into `calls`.
    pub(crate) fn take(&self, calls: &mut Vec<u32>) -> Due {
        let mut state = self.lock();
        calls.append(&mut state.calls);
        Due {
            connection: std::mem::take(&mut state.connection),
            housekeeping: std::mem::take(&mut state.housekeeping),
        }
    }

    /// Notes that the connection wants another poll; used by the task itself.
    pub(crate) fn request_connection(&self) {
        self.lock().connection = true;
    }

    fn note(&self, note: impl FnOnce(&mut WakeState)) {
        let mut state = self.lock();
        note(&mut state);
        if !state.running
            && let Some(task) = state.task.take()
        {
            drop(state);
            task.wake();
        }
    }
}

/// Waker of the HTTP/2 connection.
pub(crate) struct ConnectionWaker(pub(crate) Arc<Wakes>);

impl Wake for ConnectionWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.note(|state| state.connection = true);
    }
}

/// Waker of the timer, the shutdown and the keepalive.
pub(crate) struct HousekeepingWaker(pub(crate) Arc<Wakes>);

impl Wake for HousekeepingWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.note(|state| state.housekeeping = true);
    }
}

/// Waker of the call in one slot; reused by the calls that follow there.
pub(crate) struct CallWaker {
    wakes: Arc<Wakes>,
    slot: u32,
    queued: AtomicBool,
}

impl CallWaker {
    /// For `slot`.
    pub(crate) fn new(wakes: &Arc<Wakes>, slot: u32) -> Arc<Self> {
        Arc::new(CallWaker {
            wakes: Arc::clone(wakes),
            slot,
            queued: AtomicBool::new(false),
        })
    }

    /// The call is about to be polled: wakes count again from here on.
    pub(crate) fn begin(&self) {
        self.queued.store(false, Ordering::Release);
    }
}

impl Wake for CallWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.wakes.note(|state| state.calls.push(self.slot));
        }
    }
}
