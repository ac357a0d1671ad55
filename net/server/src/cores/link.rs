//! Calls from one core to another: a mailbox of requests one way and a mailbox of responses back.
//!
//! A caller takes a slot *before* its request leaves, and keeps it until it has taken the response, so whoever
//! answers never waits, and no cycle of waiting cores can close, however small the links are. What finds no slot
//! waits in order at the caller; that queue is bounded by who asks. Requests arrive in the order of the calls.
//!
//! ```text
//! caller  call ─► slot free? ─► outbox ═► requests  ═► callee
//!          │ no: queue   ▲                                │ answers, at once or later
//!          └─────────────┴──── responses ◄═ outbox ◄──────┘
//! ```
//!
//! What a core has to say to another gathers in an *outbox* and travels as one *parcel*: when there is enough of it, when
//! the core [flushes](Caller::flush) because it is through with something, or when the task that waits for
//! `wanted` does. A message between cores costs a few cache lines that change their owner, however much it
//! carries. Buffers travel back with the parcels of the other way, to be filled again.
//!
//! Knows nothing of what is asked. One thread uses each end.
//!
//! Invariants:
//! - calls under way = tickets given out ≤ capacity, and a parcel carries one at least, so no mailbox of that
//!   capacity is ever full;
//! - what is in an outbox has raised `wanted` since the last flush;
//! - a call is answered once: with a response, or with none if its callee dropped it or is gone.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use reactor::mailbox::{Receiver, Sender, TrySendError, channel};

use crate::local::Flag;
use crate::planted::{Bug, planted};

/// An outbox with so much in it does not wait for more: the other core may have nothing to do.
const PARCEL_MAX: usize = 32;

/// Names a call while it is under way.
type Ticket = u32;

type Request<Q> = (Ticket, Q);
type Response<R> = (Ticket, Option<R>);

/// What travels as one message.
struct Parcel<A, B> {
    /// One at least, in order.
    items: VecDeque<A>,
    /// A buffer of the other way, to be filled again.
    emptied: VecDeque<B>,
}

/// The calling end, on its way to its core.
pub struct CallerEnd<Q, R> {
    requests: Sender<Parcel<Request<Q>, Response<R>>>,
    responses: Receiver<Parcel<Response<R>, Request<Q>>>,
    capacity: usize,
}

/// The answering end, on its way to its core.
pub struct CalleeEnd<Q, R> {
    requests: Receiver<Parcel<Request<Q>, Response<R>>>,
    responses: Sender<Parcel<Response<R>, Request<Q>>>,
    capacity: usize,
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
        capacity,
    };
    (caller, callee)
}

/// What is to be sent one way: `A`s, with the buffers of the `B`s that came.
struct Outbox<A: Send, B: Send> {
    sender: Sender<Parcel<A, B>>,
    items: RefCell<VecDeque<A>>,
    /// What `items` is next.
    spare: RefCell<VecDeque<A>>,
    emptied: RefCell<VecDeque<B>>,
    /// Raised when somebody should flush.
    wanted: Rc<Flag>,
}

impl<A: Send, B: Send> Outbox<A, B> {
    fn new(sender: Sender<Parcel<A, B>>, wanted: Rc<Flag>) -> Outbox<A, B> {
        Outbox {
            sender,
            items: RefCell::default(),
            spare: RefCell::default(),
            emptied: RefCell::default(),
            wanted,
        }
    }

    fn push(&self, item: A) {
        let count = {
            let mut items = self.items.borrow_mut();
            items.push_back(item);
            items.len()
        };
        if count >= PARCEL_MAX {
            self.flush();
        } else if count == 1 {
            self.wanted.raise();
        }
    }

    /// A receiver that is gone shows in the other direction.
    fn flush(&self) {
        if self.items.borrow().is_empty() {
            return;
        }
        let parcel = Parcel {
            items: self.items.replace(self.spare.take()),
            emptied: self.emptied.take(),
        };
        if let Err(TrySendError::Full(parcel)) = self.sender.try_send(parcel) {
            panic!(
                "no message left for {} calls under way on a link",
                parcel.items.len()
            );
        }
    }
}

impl<A: Send, B: Send> Drop for Outbox<A, B> {
    fn drop(&mut self) {
        self.flush();
    }
}

/// What came one way.
struct Inbox<A, B> {
    receiver: Receiver<Parcel<A, B>>,
    arrived: Vec<Parcel<A, B>>,
    items: VecDeque<A>,
}

impl<A: Send, B: Send> Inbox<A, B> {
    fn new(receiver: Receiver<Parcel<A, B>>) -> Inbox<A, B> {
        Inbox {
            receiver,
            arrived: Vec::new(),
            items: VecDeque::new(),
        }
    }

    /// Waits for something to take; answers how much came just now, or nothing if the sender is gone and
    /// all is taken.
    fn poll(&mut self, context: &Context<'_>, outbox: &Outbox<B, A>) -> Poll<Option<usize>> {
        if !self.items.is_empty() {
            return Poll::Ready(Some(0));
        }
        let arrived = &mut self.arrived;
        ready!(self.receiver.poll_receive_batch(context, arrived, 1));
        let Some(parcel) = arrived.pop() else {
            return Poll::Ready(None);
        };
        keep_larger(&outbox.spare, parcel.emptied);
        let emptied = std::mem::replace(&mut self.items, parcel.items);
        keep_larger(&outbox.emptied, emptied);
        Poll::Ready(Some(self.items.len()))
    }
}

fn keep_larger<T>(kept: &RefCell<VecDeque<T>>, buffer: VecDeque<T>) {
    let mut kept = kept.borrow_mut();
    if buffer.capacity() > kept.capacity() {
        *kept = buffer;
    }
}

/// The calling end on its core. `W` is what the caller keeps for the response.
pub struct Caller<Q: Send, R: Send, W> {
    requests: Outbox<Request<Q>, Response<R>>,
    responses: RefCell<Inbox<Response<R>, Request<Q>>>,
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
    /// Whoever waited when the callee turned out to be gone.
    left: VecDeque<W>,
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

    fn close(&mut self) {
        self.closed = true;
        let under_way = std::mem::take(&mut self.under_way);
        self.left.extend(under_way.into_iter().flatten());
        let queued = std::mem::take(&mut self.queue);
        self.left
            .extend(queued.into_iter().map(|(waiter, _)| waiter));
        self.free.clear();
    }
}

impl<Q: Send, R: Send, W> Caller<Q, R, W> {
    /// Takes the end over. `wanted` is raised when [`Caller::flush`] should be called.
    pub fn new(end: CallerEnd<Q, R>, wanted: Rc<Flag>) -> Caller<Q, R, W> {
        Caller {
            requests: Outbox::new(end.requests, wanted),
            responses: RefCell::new(Inbox::new(end.responses)),
            calls: RefCell::new(Calls {
                under_way: Vec::new(),
                free: Vec::new(),
                queue: VecDeque::new(),
                slots: end.capacity,
                left: VecDeque::new(),
                closed: false,
            }),
        }
    }

    /// Calls; never waits. `waiter` comes back with the response from [`Caller::next_response`].
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
        self.requests.push((ticket, request));
        Ok(())
    }

    /// Sends the requests that have gathered.
    pub fn flush(&self) {
        self.requests.flush();
    }

    /// Waits for responses; false when the callee is gone and nobody waits any more.
    pub fn poll_responses(&self, context: &Context<'_>) -> Poll<bool> {
        let mut responses = self.responses.borrow_mut();
        if ready!(responses.poll(context, &self.requests)).is_some() {
            return Poll::Ready(true);
        }
        let mut calls = self.calls.borrow_mut();
        calls.close();
        Poll::Ready(!calls.left.is_empty())
    }

    /// The next waiter with its response, if it has come; no response: the callee dropped the call or is gone.
    pub fn next_response(&self) -> Option<(W, Option<R>)> {
        let next = self.responses.borrow_mut().items.pop_front();
        let Some((ticket, response)) = next else {
            let waiter = self.calls.borrow_mut().left.pop_front()?;
            return Some((waiter, None));
        };
        let waiter = self.calls.borrow_mut().end(ticket);
        self.send_queued();
        Some((waiter, response))
    }

    fn send_queued(&self) {
        loop {
            let request = {
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
            self.requests.push(request);
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
pub struct Callee<Q: Send, R: Send> {
    requests: Inbox<Request<Q>, Response<R>>,
    answers: Answers<Q, R>,
    capacity: usize,
}

/// The answers of one link that are on their way.
pub struct Answers<Q: Send, R: Send>(Rc<Answering<Q, R>>);

impl<Q: Send, R: Send> Clone for Answers<Q, R> {
    fn clone(&self) -> Self {
        Answers(Rc::clone(&self.0))
    }
}

struct Answering<Q: Send, R: Send> {
    outbox: Outbox<Response<R>, Request<Q>>,
    /// Calls that came and are not answered.
    open: Cell<usize>,
}

impl<Q: Send, R: Send> Answers<Q, R> {
    /// Sends the answers that have gathered.
    pub fn flush(&self) {
        self.0.outbox.flush();
    }
}

impl<Q: Send, R: Send> Callee<Q, R> {
    /// Takes the end over. `wanted` is raised when its answers should be flushed.
    pub fn new(end: CalleeEnd<Q, R>, wanted: Rc<Flag>) -> Callee<Q, R> {
        Callee {
            requests: Inbox::new(end.requests),
            answers: Answers(Rc::new(Answering {
                outbox: Outbox::new(end.responses, wanted),
                open: Cell::new(0),
            })),
            capacity: end.capacity,
        }
    }

    /// The answers of this link.
    pub fn answers(&self) -> &Answers<Q, R> {
        &self.answers
    }

    /// Waits for requests. False when the caller is gone.
    ///
    /// # Panics
    /// If the caller has more calls under way than there are slots.
    pub fn poll_requests(&mut self, context: &Context<'_>) -> Poll<bool> {
        let answering = &self.answers.0;
        let Some(came) = ready!(self.requests.poll(context, &answering.outbox)) else {
            return Poll::Ready(false);
        };
        let open = answering.open.get() + came;
        assert!(
            open <= self.capacity,
            "{open} calls under way on a link with slots for {}",
            self.capacity
        );
        answering.open.set(open);
        Poll::Ready(true)
    }

    /// The next request with the right to answer it, if it has come.
    pub fn next_request(&mut self) -> Option<(Answer<Q, R>, Q)> {
        let (ticket, request) = self.requests.items.pop_front()?;
        let answer = Answer {
            answers: self.answers.clone(),
            ticket,
            answered: false,
        };
        Some((answer, request))
    }
}

/// The right to answer one call, whose slot is reserved. Dropped, it tells the caller that there is no
/// response.
pub struct Answer<Q: Send, R: Send> {
    answers: Answers<Q, R>,
    ticket: Ticket,
    answered: bool,
}

impl<Q: Send, R: Send> Answer<Q, R> {
    /// Answers; never waits. The answer leaves with the next flush.
    pub fn answer(mut self, response: R) {
        self.send(Some(response));
    }

    fn send(&mut self, response: Option<R>) {
        self.answered = true;
        let answering = &self.answers.0;
        answering.open.set(answering.open.get() - 1);
        answering.outbox.push((self.ticket, response));
    }
}

impl<Q: Send, R: Send> Drop for Answer<Q, R> {
    fn drop(&mut self) {
        if !self.answered {
            self.send(None);
        }
    }
}
