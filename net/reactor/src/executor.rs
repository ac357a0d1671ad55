//! Runs the tasks of one core. Safe code that knows no kernel.
//!
//! Three run queues by [`Class`]. The highest class with work is polled first; after a bounded number of
//! consecutive polls of one class the next lower class with work gets one poll, so nobody starves. A turn ends
//! after [`TURN_POLLS_MAX`] polls, or when background work has used up its time slice, so that completions are
//! reaped in between.
//!
//! A waker belongs to its task's slot and may travel to any thread. On its own core, inside a turn, waking is a
//! flag and a queue push; from anywhere else it goes through a locked queue and interrupts the driver. A late wake
//! for a slot that has a new task only causes a spurious poll.
//!
//! Invariants
//! - a vacant slot has no future; an occupied one has its future unless it is being polled right now
//! - no cell is borrowed while foreign code (a future, a destructor, a waker) runs

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use crate::driver::RemoteWake;
use crate::time::Timestamp;

/// Polls of one turn, after which the driver is asked for completions.
pub(crate) const TURN_POLLS_MAX: u32 = 128;

/// Consecutive polls of one class after which a waiting lower class gets one.
pub(crate) const CONSECUTIVE_POLLS_MAX: u32 = 32;

/// Background work after which the driver is asked for completions.
pub(crate) const BACKGROUND_SLICE: Duration = Duration::from_millis(1);

const CLASSES: usize = 3;

/// What a task is for, which decides when it runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// Consensus and the log: everything else waits for these.
    Consensus = 0,
    /// Requests of clients.
    Request = 1,
    /// Work that nobody waits for; it should call [`crate::World::yield_if_due`] now and then.
    Background = 2,
}

impl Class {
    fn from_index(index: u8) -> Class {
        match index {
            0 => Class::Consensus,
            1 => Class::Request,
            _ => Class::Background,
        }
    }
}

/// What a panic in a task that is not contained does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PanicPolicy {
    /// The process stops: shared state of the core may be half changed.
    Abort,
    /// The panic continues out of [`crate::World::run_ready`]: for tests and the simulation.
    Propagate,
}

/// What a turn left behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TurnOutcome {
    /// Tasks are still runnable.
    Busy,
    /// Nothing to run before a completion, a remote wake, or this timer.
    Idle {
        /// Earliest timer, if any.
        until: Option<Timestamp>,
    },
}

/// Names a task: its slot, and which of the slot's successive tasks it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TaskId {
    slot: u32,
    generation: u64,
}

thread_local! {
    /// The run queues of the world whose turn it is on this thread.
    static CURRENT: RefCell<Option<Rc<Ready>>> = const { RefCell::new(None) };
}

/// Gives each core of the process an identity that wakers can compare.
static NEXT_CORE: AtomicU64 = AtomicU64::new(1);

/// Run queues of one core; only its own thread sees them.
struct Ready {
    core: u64,
    queues: RefCell<[VecDeque<u32>; CLASSES]>,
}

impl Ready {
    fn push(&self, class: Class, slot: u32) {
        self.queues.borrow_mut()[class as usize].push_back(slot);
    }
}

/// Wakes that came from outside of the core's turn.
struct RemoteQueue {
    slots: Mutex<Vec<(Class, u32)>>,
    /// Whether `slots` may hold something: spares the core the lock.
    pending: AtomicBool,
    driver: Arc<dyn RemoteWake>,
}

impl RemoteQueue {
    fn push(&self, class: Class, slot: u32) {
        self.slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((class, slot));
        self.pending.store(true, Ordering::Release);
        self.driver.wake();
    }
}

/// The shared half of a task's waker.
struct TaskWake {
    core: u64,
    slot: u32,
    /// Class of the present task.
    class: AtomicU8,
    /// The slot is in a queue already.
    queued: AtomicBool,
    remote: Arc<RemoteQueue>,
}

impl Wake for TaskWake {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let class = Class::from_index(self.class.load(Ordering::Relaxed));
        let pushed = CURRENT.try_with(|current| match &*current.borrow() {
            Some(ready) if ready.core == self.core => {
                ready.push(class, self.slot);
                true
            }
            _ => false,
        });
        if pushed != Ok(true) {
            self.remote.push(class, self.slot);
        }
    }
}

type TaskFuture = Pin<Box<dyn Future<Output = ()>>>;

struct TaskSlot {
    generation: u64,
    occupied: bool,
    contained: bool,
    /// Cancelled while it was being polled.
    cancelled: bool,
    class: Class,
    future: Option<TaskFuture>,
    wake: Arc<TaskWake>,
    waker: Option<Waker>,
    /// Tasks that wait for this one to end.
    watchers: Vec<Waker>,
}

/// Tasks and run queues of one core.
pub(crate) struct Executor {
    ready: Rc<Ready>,
    remote: Arc<RemoteQueue>,
    tasks: RefCell<Vec<TaskSlot>>,
    vacant: RefCell<Vec<u32>>,
    policy: PanicPolicy,
    stopped: Cell<bool>,
    live: Cell<usize>,
}

/// Marks the core as the one whose turn it is on this thread.
struct Turn {
    previous: Option<Rc<Ready>>,
}

impl Turn {
    fn enter(ready: &Rc<Ready>) -> Turn {
        Turn {
            previous: CURRENT.replace(Some(Rc::clone(ready))),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        CURRENT.set(self.previous.take());
    }
}

impl Executor {
    pub(crate) fn new(driver: Arc<dyn RemoteWake>, policy: PanicPolicy) -> Executor {
        let core = NEXT_CORE.fetch_add(1, Ordering::Relaxed);
        let queues = RefCell::new([const { VecDeque::new() }; CLASSES]);
        let slots = Mutex::new(Vec::new());
        Executor {
            ready: Rc::new(Ready { core, queues }),
            remote: Arc::new(RemoteQueue {
                slots,
                pending: AtomicBool::new(false),
                driver,
            }),
            tasks: RefCell::new(Vec::new()),
            vacant: RefCell::new(Vec::new()),
            policy,
            stopped: Cell::new(false),
            live: Cell::new(0),
        }
    }

    /// Tasks that have not ended.
    pub(crate) fn live(&self) -> usize {
        self.live.get()
    }

    /// Queues a new task. After [`Executor::stop`] the future is dropped at once.
    pub(crate) fn spawn(&self, class: Class, contained: bool, future: TaskFuture) -> TaskId {
        if self.stopped.get() {
            drop(future);
            return TaskId {
                slot: 0,
                generation: u64::MAX,
            };
        }
        let id = self.occupy(class, contained, future);
        self.live.set(self.live.get() + 1);
        self.ready.push(class, id.slot);
        id
    }

    fn occupy(&self, class: Class, contained: bool, future: TaskFuture) -> TaskId {
        let mut tasks = self.tasks.borrow_mut();
        let slot = match self.vacant.borrow_mut().pop() {
            Some(slot) => slot,
            None => {
                let slot = u32::try_from(tasks.len()).expect("fewer than 2^32 tasks");
                tasks.push(TaskSlot {
                    generation: 0,
                    occupied: false,
                    contained: false,
                    cancelled: false,
                    class,
                    future: None,
                    wake: self.new_wake(slot),
                    waker: None,
                    watchers: Vec::new(),
                });
                slot
            }
        };
        let task = &mut tasks[slot as usize];
        assert!(
            !task.occupied && task.future.is_none(),
            "slot {slot} is free"
        );
        // The old waker's allocation is used again unless somebody still holds a clone of it.
        if Arc::strong_count(&task.wake) > 2 {
            task.wake = self.new_wake(slot);
            task.waker = None;
        }
        if task.waker.is_none() {
            task.waker = Some(Waker::from(Arc::clone(&task.wake)));
        }
        task.wake.class.store(class as u8, Ordering::Relaxed);
        task.wake.queued.store(true, Ordering::Relaxed);
        task.generation += 1;
        task.occupied = true;
        task.contained = contained;
        task.cancelled = false;
        task.class = class;
        task.future = Some(future);
        TaskId {
            slot,
            generation: task.generation,
        }
    }

    fn new_wake(&self, slot: u32) -> Arc<TaskWake> {
        Arc::new(TaskWake {
            core: self.ready.core,
            slot,
            class: AtomicU8::new(Class::Background as u8),
            queued: AtomicBool::new(false),
            remote: Arc::clone(&self.remote),
        })
    }

    /// Ends the task: its future is dropped now, or after the poll it is in.
    pub(crate) fn cancel(&self, id: TaskId) {
        let future = {
            let mut tasks = self.tasks.borrow_mut();
            let Some(task) = tasks.get_mut(id.slot as usize) else {
                return;
            };
            if !task.occupied || task.generation != id.generation {
                return;
            }
            task.cancelled = true;
            task.future.take()
        };
        if let Some(future) = future {
            drop(future);
            self.finish(id.slot);
        }
    }

    /// Whether the task has ended; if not, `waker` is called when it does.
    pub(crate) fn poll_finished(&self, id: TaskId, waker: Option<&Waker>) -> bool {
        let mut tasks = self.tasks.borrow_mut();
        let Some(task) = tasks.get_mut(id.slot as usize) else {
            return true;
        };
        if !task.occupied || task.generation != id.generation {
            return true;
        }
        if let Some(waker) = waker
            && !task.watchers.iter().any(|known| known.will_wake(waker))
        {
            task.watchers.push(waker.clone());
        }
        false
    }

    fn finish(&self, slot: u32) {
        let watchers = {
            let mut tasks = self.tasks.borrow_mut();
            let task = &mut tasks[slot as usize];
            task.occupied = false;
            std::mem::take(&mut task.watchers)
        };
        self.vacant.borrow_mut().push(slot);
        self.live.set(self.live.get() - 1);
        watchers.into_iter().for_each(Waker::wake);
    }

    /// Runs `inside` with this core as the current one of the thread, so that wakes stay local.
    pub(crate) fn within<T>(&self, inside: impl FnOnce() -> T) -> T {
        let _turn = Turn::enter(&self.ready);
        inside()
    }

    /// Moves wakes from other threads into the run queues.
    pub(crate) fn drain_remote(&self) {
        if !self.remote.pending.load(Ordering::Acquire) {
            return;
        }
        self.remote.pending.store(false, Ordering::Relaxed);
        let mut slots = self
            .remote
            .slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (class, slot) in slots.drain(..) {
            self.ready.push(class, slot);
        }
    }

    /// Whether any task is runnable.
    pub(crate) fn is_busy(&self) -> bool {
        self.ready
            .queues
            .borrow()
            .iter()
            .any(|queue| !queue.is_empty())
    }

    /// Polls runnable tasks until none is left or the turn's bound is reached.
    pub(crate) fn run(&self, now: impl Fn() -> Timestamp) {
        let _turn = Turn::enter(&self.ready);
        let mut background_since = None;
        let mut consecutive = 0;
        let mut previous = Class::Consensus;
        for _ in 0..TURN_POLLS_MAX {
            let Some((class, slot)) = self.next(previous, consecutive) else {
                return;
            };
            consecutive = if class == previous {
                consecutive + 1
            } else {
                1
            };
            previous = class;
            if class == Class::Background && background_since.is_none() {
                background_since = Some(now());
            }
            self.poll_task(slot);
            if let (Class::Background, Some(since)) = (class, background_since)
                && now().since(since) >= BACKGROUND_SLICE
            {
                return;
            }
        }
    }

    /// The next slot to poll: the highest class, unless it has had its share and a lower one waits.
    fn next(&self, previous: Class, consecutive: u32) -> Option<(Class, u32)> {
        let mut queues = self.ready.queues.borrow_mut();
        let mut order = (0..CLASSES).filter(|&class| !queues[class].is_empty());
        let highest = order.next()?;
        let exhausted = highest == previous as usize && consecutive >= CONSECUTIVE_POLLS_MAX;
        let class = if exhausted {
            order.next().unwrap_or(highest)
        } else {
            highest
        };
        let slot = queues[class].pop_front()?;
        Some((Class::from_index(class as u8), slot))
    }

    fn poll_task(&self, slot: u32) {
        let (mut future, waker) = {
            let mut tasks = self.tasks.borrow_mut();
            let task = &mut tasks[slot as usize];
            // Not a mere store: whoever found it set has left something that this poll must see.
            task.wake.queued.swap(false, Ordering::AcqRel);
            // A late wake for a task that has ended, or one that is being polled further up the stack.
            let Some(future) = task.future.take() else {
                return;
            };
            (
                future,
                task.waker.take().expect("an occupied slot has its waker"),
            )
        };
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            future.as_mut().poll(&mut Context::from_waker(&waker))
        }));
        let (ended, panic) = match outcome {
            Ok(Poll::Pending) => (false, None),
            Ok(Poll::Ready(())) => (true, None),
            Err(panic) => (true, Some(panic)),
        };
        let contained = {
            let mut tasks = self.tasks.borrow_mut();
            let task = &mut tasks[slot as usize];
            task.waker = Some(waker);
            if !ended && !task.cancelled {
                task.future = Some(future);
                return;
            }
            task.contained
        };
        drop(future);
        self.finish(slot);
        if let Some(panic) = panic
            && !contained
        {
            self.panicked(panic);
        }
    }

    fn panicked(&self, panic: Box<dyn Any + Send>) {
        match self.policy {
            PanicPolicy::Propagate => resume_unwind(panic),
            // The panic hook has printed the message and the place already.
            PanicPolicy::Abort => std::process::abort(),
        }
    }

    /// Drops every task, also those that are spawned meanwhile.
    pub(crate) fn stop(&self) {
        self.stopped.set(true);
        let _turn = Turn::enter(&self.ready);
        let mut slot = 0;
        loop {
            let id = {
                let tasks = self.tasks.borrow();
                let Some(task) = tasks.get(slot) else { break };
                TaskId {
                    slot: slot as u32,
                    generation: task.generation,
                }
            };
            self.cancel(id);
            slot += 1;
        }
        self.ready
            .queues
            .borrow_mut()
            .iter_mut()
            .for_each(VecDeque::clear);
    }
}
