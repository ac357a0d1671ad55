//! Bounded mailboxes between two cores (or two tasks of one).
//!
//! A message costs a few atomic operations; a sleeping receiver is woken once per batch, not per message. Capacity is
//! reserved before a message is made, so that a full mailbox refuses work instead of queueing it elsewhere.
//!
//! Invariants
//! - `free` + reserved permits + queued messages = capacity
//! - whoever sleeps has stored its waker *before* its last look at the queue, so no message or slot is missed

use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use crossbeam_queue::ArrayQueue;
use crossbeam_utils::CachePadded;

/// A mailbox for `capacity` messages.
///
/// # Panics
/// If `capacity` is 0.
pub fn channel<T: Send>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        queue: ArrayQueue::new(capacity),
        free: CachePadded::new(AtomicUsize::new(capacity)),
        receiver: Sleepers::default(),
        senders: Sleepers::default(),
        closed: AtomicBool::new(false),
    });
    let sender = Sender {
        shared: Arc::clone(&shared),
        one_thread: PhantomData,
    };
    (
        sender,
        Receiver {
            shared,
            one_thread: PhantomData,
        },
    )
}

/// The other side is gone; the message comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the other side of the mailbox is gone")
    }
}

impl std::error::Error for Closed {}

/// Why [`Sender::try_send`] did not take a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TrySendError<T> {
    /// No free slot.
    Full(T),
    /// The receiver is gone.
    Closed(T),
}

struct Shared<T> {
    queue: ArrayQueue<T>,
    free: CachePadded<AtomicUsize>,
    receiver: Sleepers,
    senders: Sleepers,
    closed: AtomicBool,
}

/// Tasks of one side that sleep. The lock is only taken around sleeping.
#[derive(Default)]
struct Sleepers {
    any: CachePadded<AtomicBool>,
    wakers: Mutex<Vec<Waker>>,
}

impl Sleepers {
    /// Stores the waker; the caller must look at its condition once more afterwards.
    fn register(&self, waker: &Waker) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        if !wakers.iter().any(|known| known.will_wake(waker)) {
            wakers.push(waker.clone());
        }
        self.any.store(true, Ordering::Relaxed);
        drop(wakers);
        // Pairs with the fence in `wake`: either it sees `any`, or the caller's next look sees the change.
        fence(Ordering::SeqCst);
    }

    fn wake(&self) {
        fence(Ordering::SeqCst);
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        let wakers = {
            let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
            self.any.store(false, Ordering::Relaxed);
            std::mem::take(&mut *wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl<T> Shared<T> {
    fn try_reserve(&self) -> bool {
        let take = |free: usize| free.checked_sub(1);
        self.free
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, take)
            .is_ok()
    }

    fn release(&self, count: usize) {
        self.free.fetch_add(count, Ordering::Release);
        self.senders.wake();
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Drops what nobody will receive.
    fn clear(&self) {
        while self.queue.pop().is_some() {}
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.receiver.wake();
        self.senders.wake();
    }
}

/// The sending side. Several tasks of its core may share it.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
    /// One thread at a time: not `Sync`.
    one_thread: PhantomData<Cell<()>>,
}

/// A reserved slot: sending into it cannot fail for lack of space. Dropping it frees the slot.
pub struct Permit<'a, T> {
    shared: &'a Shared<T>,
    used: bool,
}

impl<T: Send> Sender<T> {
    /// Waits for a free slot.
    ///
    /// # Errors
    /// `Closed` if the receiver is gone.
    pub async fn reserve(&self) -> Result<Permit<'_, T>, Closed> {
        poll_fn(|context| self.poll_reserve(context)).await
    }

    /// Like [`Sender::reserve`], for hand-written futures.
    pub fn poll_reserve(&self, context: &Context<'_>) -> Poll<Result<Permit<'_, T>, Closed>> {
        let shared = &*self.shared;
        if shared.is_closed() {
            return Poll::Ready(Err(Closed));
        }
        if !shared.try_reserve() {
            shared.senders.register(context.waker());
            if shared.is_closed() {
                return Poll::Ready(Err(Closed));
            }
            if !shared.try_reserve() {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(Permit {
            shared,
            used: false,
        }))
    }

    /// A free slot, or nothing: never waits.
    pub fn try_reserve(&self) -> Option<Permit<'_, T>> {
        let shared = &*self.shared;
        // Built only when it is due: dropping a permit frees a slot.
        (!shared.is_closed() && shared.try_reserve()).then(|| Permit {
            shared,
            used: false,
        })
    }

    /// Sends when there is space.
    ///
    /// # Errors
    /// `Closed` if the receiver is gone; the message is dropped.
    pub async fn send(&self, message: T) -> Result<(), Closed> {
        self.reserve().await?.send(message);
        Ok(())
    }

    /// Sends if there is space now.
    ///
    /// # Errors
    /// The message and why it was not taken.
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        if self.shared.is_closed() {
            return Err(TrySendError::Closed(message));
        }
        match self.try_reserve() {
            Some(permit) => permit.send(message),
            None => return Err(TrySendError::Full(message)),
        }
        Ok(())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl<T> Permit<'_, T> {
    /// Sends into the reserved slot. If the receiver is gone meanwhile the message is dropped.
    pub fn send(mut self, message: T) {
        self.used = true;
        let pushed = self.shared.queue.push(message);
        assert!(pushed.is_ok(), "a permit without a free slot");
        self.shared.receiver.wake();
        // The fence in `wake` stands between the push and this look, as one stands between the receiver's end and its
        // last look: one of the two drops the message.
        if self.shared.is_closed() {
            self.shared.clear();
        }
    }
}

impl<T> Drop for Permit<'_, T> {
    fn drop(&mut self) {
        if !self.used {
            self.shared.release(1);
        }
    }
}

/// The receiving side; one task at a time.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    one_thread: PhantomData<Cell<()>>,
}

impl<T: Send> Receiver<T> {
    /// Appends up to `max` messages to `into`, waiting for the first. Returns how many; 0 when the sender is gone and
    /// everything was received.
    pub async fn receive_batch(&mut self, into: &mut Vec<T>, max: usize) -> usize {
        poll_fn(|context| self.poll_receive_batch(context, into, max)).await
    }

    /// Like [`Receiver::receive_batch`], for hand-written futures.
    pub fn poll_receive_batch(
        &mut self,
        context: &Context<'_>,
        into: &mut Vec<T>,
        max: usize,
    ) -> Poll<usize> {
        assert!(max > 0, "an empty batch was asked for");
        let count = self.try_receive_batch(into, max);
        if count > 0 {
            return Poll::Ready(count);
        }
        self.shared.receiver.register(context.waker());
        // Closed before the last look: nothing can follow it.
        let closed = self.shared.is_closed();
        let count = self.try_receive_batch(into, max);
        if count > 0 || closed {
            Poll::Ready(count)
        } else {
            Poll::Pending
        }
    }

    /// Appends up to `max` messages that are there; never waits.
    pub fn try_receive_batch(&mut self, into: &mut Vec<T>, max: usize) -> usize {
        let before = into.len();
        into.extend(std::iter::from_fn(|| self.shared.queue.pop()).take(max));
        let count = into.len() - before;
        if count > 0 {
            self.shared.release(count);
        }
        count
    }

    /// The next message; `None` when the sender is gone and everything was received.
    pub async fn receive(&mut self) -> Option<T> {
        poll_fn(|context| {
            if let Some(message) = self.try_receive() {
                return Poll::Ready(Some(message));
            }
            self.shared.receiver.register(context.waker());
            let closed = self.shared.is_closed();
            match self.try_receive() {
                Some(message) => Poll::Ready(Some(message)),
                None if closed => Poll::Ready(None),
                None => Poll::Pending,
            }
        })
        .await
    }

    /// The next message if it is there.
    pub fn try_receive(&mut self) -> Option<T> {
        let message = self.shared.queue.pop()?;
        self.shared.release(1);
        Some(message)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.close();
        self.shared.clear();
    }
}
