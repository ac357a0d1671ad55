//! Hand-over between tasks of one core: a one-shot reply and a wake flag. Not thread-safe by
//! design; what crosses cores goes through `reactor::mailbox`.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

struct Slot<T> {
    value: Option<T>,
    waker: Option<Waker>,
    closed: bool,
}

/// The side that answers, once. Dropping it unanswered ends the wait with `None`.
pub struct Responder<T>(Rc<RefCell<Slot<T>>>);

/// The side that waits for the answer.
pub struct Waiting<T>(Rc<RefCell<Slot<T>>>);

/// A one-shot pair.
pub fn one_shot<T>() -> (Responder<T>, Waiting<T>) {
    let slot = Rc::new(RefCell::new(Slot {
        value: None,
        waker: None,
        closed: false,
    }));
    (Responder(slot.clone()), Waiting(slot))
}

impl<T> Responder<T> {
    /// Hands over the answer; it is dropped if nobody waits any more.
    pub fn answer(self, value: T) {
        self.0.borrow_mut().value = Some(value);
    }

    /// Whether somebody still waits for the answer.
    pub fn is_awaited(&self) -> bool {
        Rc::strong_count(&self.0) > 1
    }
}

impl<T> Drop for Responder<T> {
    fn drop(&mut self) {
        let waker = {
            let mut slot = self.0.borrow_mut();
            slot.closed = true;
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Future for Waiting<T> {
    /// `None` when the other side went away without an answer.
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut slot = self.0.borrow_mut();
        if let Some(value) = slot.value.take() {
            return Poll::Ready(Some(value));
        }
        if slot.closed {
            return Poll::Ready(None);
        }
        slot.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// A wake flag for one waiting task: raised flags are remembered, several raises are one.
#[derive(Default)]
pub struct Flag {
    raised: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Flag {
    /// Raises the flag and wakes the task that waits for it.
    pub fn raise(&self) {
        if !self.raised.replace(true)
            && let Some(waker) = self.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }

    /// Waits until the flag is raised and lowers it.
    pub fn wait(&self) -> FlagWait<'_> {
        FlagWait(self)
    }
}

/// Future of [`Flag::wait`].
pub struct FlagWait<'a>(&'a Flag);

impl Future for FlagWait<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.0.raised.replace(false) {
            return Poll::Ready(());
        }
        *self.0.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }
}

/// Wakes any number of tasks that wait for a state to change; they look again by themselves.
#[derive(Default)]
pub struct Changed {
    wakers: RefCell<Vec<Waker>>,
}

impl Changed {
    /// Wakes everybody who waits.
    pub fn notify(&self) {
        for waker in self.wakers.take() {
            waker.wake();
        }
    }

    /// Waits until `condition` holds, looking again after each change.
    pub fn until<F: Fn() -> bool>(&self, condition: F) -> Until<'_, F> {
        Until {
            changed: self,
            condition,
        }
    }
}

/// Future of [`Changed::until`].
pub struct Until<'a, F> {
    changed: &'a Changed,
    condition: F,
}

impl<F: Fn() -> bool + Unpin> Future for Until<'_, F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if (self.condition)() {
            return Poll::Ready(());
        }
        self.changed
            .wakers
            .borrow_mut()
            .push(context.waker().clone());
        Poll::Pending
    }
}
