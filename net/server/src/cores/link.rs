//! Calls from one core to another: a mailbox of requests one way and a mailbox of responses back.
//!
//! A caller takes a slot of the response mailbox *before* its request leaves, so whoever answers never
//! waits, and no cycle of waiting cores can close, however small the mailboxes are. What finds no slot waits
//! in order at the caller; that queue is bounded by who asks. Requests arrive in the order of the calls.
//!
//! ```text
//! caller  call ─► slot free? ─► requests  ─► callee
//!          │ no: queue   ▲                     │ answers, at once or later
//!          └─────────────┴──── responses ◄─────┘
//! ```
//!
//! Knows nothing of what is asked. One thread uses each end.
//!
//! Invariants:
//! - calls under way = tickets given out ≤ capacity of either mailbox, so sending never finds one full;
//! - a call is answered once: with a response, or with none if its callee dropped it or is gone.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll};

use reactor::mailbox::{Receiver, Sender, TrySendError, channel};

use crate::planted::{Bug, planted};

/// Names a call while it is under way.
type Ticket = u32;

/// The calling end, on its way to its core.
pub struct CallerEnd<Q, R> {
    requests: Sender<(Ticket, Q)>,
    responses: Receiver<(Ticket, Option<R>)>,
    capacity: usize,
}

/// The answering end, on its way to its core.
pub struct CalleeEnd<Q, R> {
    requests: Receiver<(Ticket, Q)>,
    responses: Sender<(Ticket, Option<R>)>,
}

/// A link with `capacity` calls under way at most.
///
/// # Panics
/// If `capacity` is 0.
pub fn link<Q: Send, R: Send>(capacity: usize) -> (CallerEnd<Q, R>, CalleeEnd<Q, R>) {
    let (request_sender, request_receiver) = channel(capacity);
    let (response_sender, response_receiver) = channel(capacity);
    let caller = CallerEnd {
        requests: request_sender,
        responses: response_receiver,
        capacity,
    };
    let callee = CalleeEnd {
        requests: request_receiver,
        responses: response_sender,
    };
    (caller, callee)
}

/// The calling end on its core. `W` is what the caller keeps for the response.
pub struct Caller<Q, R, W> {
    requests: Sender<(Ticket, Q)>,
    responses: RefCell<Receiver<(Ticket, Option<R>)>>,
    calls: RefCell<Calls<Q, W>>,
}

/// The calls of one caller.
struct Calls<Q, W> {
    /// By ticket.
    under_way: Vec<Option<W>>,
    free: Vec<Ticket>,
    /// Calls that wait for a slot.
    queue: VecDeque<(W, Q)>,
    /// Slots that no call has.
    slots: usize,
    /// The callee is gone.
    closed: bool,
}

impl<Q, W> Calls<Q, W> {
    /// A ticket with its slot for `waiter`, or the waiter back.
    fn begin(&mut self, waiter: W) -> Result<Ticket, W> {
        if self.slots == 0 && !planted(Bug::UnreservedResponse) {
            return Err(waiter);
        }
        self.slots = self.slots.saturating_sub(1);
        let ticket = self.free.pop().unwrap_or_else(|| {
            self.under_way.push(None);
            self.under_way.len() as Ticket - 1
        });
        self.under_way[ticket as usize] = Some(waiter);
        Ok(ticket)
    }

    /// Ends a call: whoever waited, and the slot is free.
    fn end(&mut self, ticket: Ticket) -> W {
        let Some(waiter) = self.under_way[ticket as usize].take() else {
            panic!("call {ticket} was answered twice");
        };
        self.free.push(ticket);
        self.slots += 1;
        waiter
    }

    fn close(&mut self) -> impl Iterator<Item = W> + use<Q, W> {
        self.closed = true;
        let under_way = std::mem::take(&mut self.under_way).into_iter().flatten();
        let queued = std::mem::take(&mut self.queue).into_iter();
        under_way.chain(queued.map(|(waiter, _)| waiter))
    }
}

impl<Q: Send, R: Send, W> Caller<Q, R, W> {
    /// Takes the end over.
    pub fn new(end: CallerEnd<Q, R>) -> Caller<Q, R, W> {
        Caller {
            requests: end.requests,
            responses: RefCell::new(end.responses),
            calls: RefCell::new(Calls {
                under_way: Vec::new(),
                free: Vec::new(),
                queue: VecDeque::new(),
                slots: end.capacity,
                closed: false,
            }),
        }
    }

    /// Calls; never waits. `waiter` comes back with the response from [`Caller::poll_responses`].
    ///
    /// # Errors
    /// The waiter, if the callee is gone.
    pub fn call(&self, waiter: W, request: Q) -> Result<(), W> {
        let ticket = {
            let mut calls = self.calls.borrow_mut();
            if calls.closed {
                return Err(waiter);
            }
            // Nobody overtakes what waits.
            if !calls.queue.is_empty() {
                calls.queue.push_back((waiter, request));
                return Ok(());
            }
            match calls.begin(waiter) {
                Ok(ticket) => ticket,
                Err(waiter) => {
                    calls.queue.push_back((waiter, request));
                    return Ok(());
                }
            }
        };
        self.send(ticket, request);
        Ok(())
    }

    /// A callee that is gone shows when responses are asked for.
    fn send(&self, ticket: Ticket, request: Q) {
        if let Err(TrySendError::Full(_)) = self.requests.try_send((ticket, request)) {
            panic!("call {ticket} has a slot and no room for its request");
        }
    }

    /// Appends up to `max` waiters with their responses; no response: the callee dropped the call or is
    /// gone. False when it is gone and nobody waits any more.
    pub fn poll_responses(
        &self,
        context: &Context<'_>,
        into: &mut Vec<(W, Option<R>)>,
        max: usize,
    ) -> Poll<bool> {
        let mut received = Vec::new();
        let mut responses = self.responses.borrow_mut();
        let count = std::task::ready!(responses.poll_receive_batch(context, &mut received, max));
        if count == 0 {
            let waiters = self.calls.borrow_mut().close();
            into.extend(waiters.map(|waiter| (waiter, None)));
            return Poll::Ready(!into.is_empty());
        }
        {
            let mut calls = self.calls.borrow_mut();
            into.extend(
                received
                    .into_iter()
                    .map(|(ticket, response)| (calls.end(ticket), response)),
            );
        }
        self.send_queued();
        Poll::Ready(true)
    }

    fn send_queued(&self) {
        loop {
            let (ticket, request) = {
                let mut calls = self.calls.borrow_mut();
                let Some((waiter, request)) = calls.queue.pop_front() else {
                    return;
                };
                match calls.begin(waiter) {
                    Ok(ticket) => (ticket, request),
                    Err(waiter) => {
                        calls.queue.push_front((waiter, request));
                        return;
                    }
                }
            };
            self.send(ticket, request);
        }
    }

    /// Calls under way, and calls that wait for a slot.
    pub fn load(&self) -> (usize, usize) {
        let calls = self.calls.borrow();
        let under_way = calls.under_way.len() - calls.free.len();
        (under_way, calls.queue.len())
    }
}

/// The answering end on its core.
pub struct Callee<Q, R> {
    requests: Receiver<(Ticket, Q)>,
    responses: Rc<Sender<(Ticket, Option<R>)>>,
}

impl<Q: Send, R: Send> Callee<Q, R> {
    /// Takes the end over.
    pub fn new(end: CalleeEnd<Q, R>) -> Callee<Q, R> {
        Callee {
            requests: end.requests,
            responses: Rc::new(end.responses),
        }
    }

    /// Appends up to `max` requests with the right to answer them. False when the caller is gone.
    pub fn poll_requests(
        &mut self,
        context: &Context<'_>,
        into: &mut Vec<(Answer<R>, Q)>,
        max: usize,
    ) -> Poll<bool> {
        let mut received = Vec::new();
        let count = std::task::ready!(self.requests.poll_receive_batch(
            context,
            &mut received,
            max
        ));
        into.extend(received.into_iter().map(|(ticket, request)| {
            let answer = Answer {
                responses: Rc::clone(&self.responses),
                ticket,
                answered: false,
            };
            (answer, request)
        }));
        Poll::Ready(count > 0)
    }
}

/// The right to answer one call, whose slot is reserved. Dropped, it tells the caller that there is no
/// response.
pub struct Answer<R: Send> {
    responses: Rc<Sender<(Ticket, Option<R>)>>,
    ticket: Ticket,
    answered: bool,
}

impl<R: Send> Answer<R> {
    /// Answers; never waits.
    pub fn answer(mut self, response: R) {
        self.send(Some(response));
    }

    fn send(&mut self, response: Option<R>) {
        self.answered = true;
        // A caller that is gone needs no response.
        if let Err(TrySendError::Full(_)) = self.responses.try_send((self.ticket, response)) {
            panic!("call {} has no slot for its response", self.ticket);
        }
    }
}

impl<R: Send> Drop for Answer<R> {
    fn drop(&mut self) {
        if !self.answered {
            self.send(None);
        }
    }
}
