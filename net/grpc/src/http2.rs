//! One HTTP/2 connection: `h2`, the calls on it, and its clocks, in one future.
//!
//! Each turn polls what asked for it: the connection (which reads, hands over new requests and writes
//! what was answered), then the calls that were woken, then the connection again if the calls sent
//! something, until nothing is left. Whatever a turn writes leaves in one piece.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use h2::server::Connection;
use h2::{Ping, PingPong, Reason};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::call::{Call, End, Environment, Finished, NEVER};
use crate::connection::until;
use crate::frame::{AssemblyBudget, Frame};
use crate::service::{Clock, Limits, Service};
use crate::transport::{Traffic, Transport};
use crate::wake::{CallWaker, ConnectionWaker, HousekeepingWaker, Wakes};

/// New requests taken per turn; the rest waits for the next one, behind other connections.
const ACCEPTS_PER_TURN: u32 = 128;

/// Rounds of "connection, then calls" per turn.
const ROUNDS_PER_TURN: u32 = 8;

/// Messages being assembled on one connection, in longest messages.
const ASSEMBLED_MESSAGES_MAX: usize = 4;

/// What unread small DATA frames may cost on one connection, in `h2`'s measure (256 bytes less the
/// payload each). Its own default would cut off a client that creates a few thousand watches or
/// keeps a few thousand leases alive in one burst.
const SMALL_FRAMES_BYTES_MAX: usize = 8 << 20;

/// Frames without work that a peer may send at once, and per second.
const IDLE_FRAMES_BURST: u32 = 10_000;
const IDLE_FRAMES_PER_SECOND: u32 = 10_000;

/// From the end of the drain time until the connection is cut.
const CUT_AFTER_DRAIN: Duration = Duration::from_millis(200);

/// Serves HTTP/2 on `transport` until the peer leaves, breaks a rule, or the server stops.
pub(crate) async fn serve<S, C, IO>(environment: Environment<S, C>, transport: Transport<IO>)
where
    S: Service,
    C: Clock,
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let traffic = transport.traffic();
    let limits = Rc::clone(&environment.limits);
    let handshake = builder(&limits).handshake::<_, Frame>(transport);
    // The preface is here already, so this waits for nothing but the socket's buffer. Boxed, so that
    // its room is given back afterwards.
    let timeout = environment.clock.now_nanos() + nanos(limits.preface_timeout);
    let handshake = Box::pin(until(&environment.clock, timeout, handshake)).await;
    let Some(Ok(connection)) = handshake else {
        return;
    };
    let mut driver = Driver::new(environment, connection, traffic);
    poll_fn(|cx| driver.poll(cx)).await;
}

fn builder(limits: &Limits) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .max_frame_size(16 * 1024)
        .max_header_list_size(limits.header_list_bytes_max)
        .max_concurrent_streams(limits.streams_max)
        .initial_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_send_buffer_size(limits.stream_send_bytes_max)
        .data_frame_budget(SMALL_FRAMES_BYTES_MAX)
        .max_pending_accept_reset_streams(limits.resets_burst as usize);
    builder
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(NEVER)
}

/// One place for a call; the waker stays when the call goes.
struct Slot {
    call: Option<Call>,
    signal: Arc<CallWaker>,
    waker: Waker,
}

/// Tokens that are spent by events and come back with time.
struct Budget {
    left: u64,
    burst: u64,
    per_second: u64,
    refilled_at: u64,
}

impl Budget {
    fn new(burst: u32, per_second: u32, now: u64) -> Self {
        let (burst, per_second) = (u64::from(burst), u64::from(per_second));
        Budget {
            left: burst,
            burst,
            per_second,
            refilled_at: now,
        }
    }

    /// `false` if there is not enough left.
    fn spend(&mut self, count: u64, now: u64) -> bool {
        if count > self.left {
            let elapsed = now.saturating_sub(self.refilled_at);
            let earned = u128::from(elapsed) * u128::from(self.per_second) / 1_000_000_000;
            let left = u128::from(self.left) + earned;
            self.left = left.min(u128::from(self.burst)) as u64;
            self.refilled_at = now;
        }
        let enough = count <= self.left;
        self.left = self.left.saturating_sub(count);
        enough
    }

    fn earn(&mut self, count: u64) {
        self.left = (self.left + count).min(self.burst);
    }
}

/// Something that must have moved on by a certain time.
#[derive(Clone, Copy)]
struct Progress {
    seen: u64,
    by: u64,
}

/// Invariants
/// - a slot is in `free` exactly if it has no call
/// - `timer` is armed for `armed_at`, which is no later than anything that is due
struct Driver<S, C, IO>
where
    S: Service,
    C: Clock,
    IO: AsyncRead + AsyncWrite + Unpin,
{
    environment: Environment<S, C>,
    connection: Connection<Transport<IO>, Frame>,
    traffic: Rc<Traffic>,
    wakes: Arc<Wakes>,
    connection_waker: Waker,
    housekeeping_waker: Waker,
    slots: Vec<Slot>,
    free: Vec<u32>,
    woken: Vec<u32>,
    assembly: AssemblyBudget,
    resets: Budget,
    idle_frames: Budget,
    timer: Option<Pin<Box<dyn Future<Output = ()>>>>,
    armed_at: u64,
    shutdown: Option<Pin<Box<dyn Future<Output = ()>>>>,
    stopping: Stopping,
    /// The peer broke the rules and was told so.
    cut_off: bool,
    keepalive: Keepalive,
    unit_due: Option<Progress>,
    write_due: Option<Progress>,
}

/// How far a shutdown is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stopping {
    No,
    /// Calls may finish until then.
    Draining {
        until: u64,
    },
    /// Everything was ended; the connection is cut then.
    Closing {
        until: u64,
    },
}

struct Keepalive {
    pings: Option<PingPong>,
    /// When the peer was heard last, as of the last turn.
    heard_at: u64,
    /// The peer was pinged after silence; by then it must have been heard.
    pong_by: Option<u64>,
}

/// Whether the connection goes on.
#[derive(PartialEq, Eq)]
enum Outcome {
    GoesOn,
    Ended,
}

impl<S, C, IO> Drop for Driver<S, C, IO>
where
    S: Service,
    C: Clock,
    IO: AsyncRead + AsyncWrite + Unpin,
{
    fn drop(&mut self) {
        for call in self.slots.iter_mut().filter_map(|slot| slot.call.as_mut()) {
            call.abandon(&self.environment);
        }
    }
}

impl<S, C, IO> Driver<S, C, IO>
where
    S: Service,
    C: Clock,
    IO: AsyncRead + AsyncWrite + Unpin,
{
    fn new(
        environment: Environment<S, C>,
        mut connection: Connection<Transport<IO>, Frame>,
        traffic: Rc<Traffic>,
    ) -> Self {
        let wakes = Arc::new(Wakes::default());
        let now = environment.clock.now_nanos();
        let limits = &environment.limits;
        let shutdown: Pin<Box<dyn Future<Output = ()>>> = Box::pin(environment.shutdown.begun());
        let mut driver = Driver {
            wakes: Arc::clone(&wakes),
            connection_waker: Waker::from(Arc::new(ConnectionWaker(Arc::clone(&wakes)))),
            housekeeping_waker: Waker::from(Arc::new(HousekeepingWaker(wakes))),
            slots: Vec::new(),
            free: Vec::new(),
            woken: Vec::new(),
            assembly: AssemblyBudget::new(limits.message_bytes_max * ASSEMBLED_MESSAGES_MAX),
            resets: Budget::new(limits.resets_burst, limits.resets_per_second, now),
            idle_frames: Budget::new(IDLE_FRAMES_BURST, IDLE_FRAMES_PER_SECOND, now),
            timer: None,
            armed_at: NEVER,
            shutdown: Some(shutdown),
            stopping: Stopping::No,
            cut_off: false,
            keepalive: Keepalive {
                pings: connection.ping_pong(),
                heard_at: now,
                pong_by: None,
            },
            unit_due: None,
            write_due: None,
            environment,
            connection,
            traffic,
        };
        driver.arm(driver.silent_at());
        driver.wakes.request_connection();
        driver.poll_shutdown();
        driver
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.wakes.enter(cx.waker());
        for _ in 0..ROUNDS_PER_TURN {
            let mut woken = std::mem::take(&mut self.woken);
            let due = self.wakes.take(&mut woken);
            let idle = !due.connection && !due.housekeeping && woken.is_empty();
            if idle {
                self.woken = woken;
                break;
            }
            if due.housekeeping && self.keep_house() == Outcome::Ended {
                return Poll::Ready(());
            }
            for slot in woken.drain(..) {
                self.poll_call(slot);
            }
            self.woken = woken;
            // After the calls, so that what they sent goes out with this poll.
            if self.poll_connection() == Outcome::Ended {
                return Poll::Ready(());
            }
        }
        if self.traffic.read.get() {
            let now = self.environment.clock.now_nanos();
            self.listen(now);
        }
        self.watch_progress();
        if self.wakes.leave() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Reads, takes over new requests, writes.
    fn poll_connection(&mut self) -> Outcome {
        let waker = self.connection_waker.clone();
        let mut cx = Context::from_waker(&waker);
        for _ in 0..ACCEPTS_PER_TURN {
            let accepted = self.connection.poll_accept(&mut cx);
            if !self.cut_off && !self.within_budgets() {
                self.cut_off = true;
                self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                self.wakes.request_connection();
            }
            match accepted {
                Poll::Pending => return Outcome::GoesOn,
                Poll::Ready(None | Some(Err(_))) => return Outcome::Ended,
                Poll::Ready(Some(Ok((request, respond)))) => {
                    let call = Call::start(request, respond, &self.environment, &self.assembly);
                    if let Some(call) = call {
                        let slot = self.insert(call);
                        self.poll_call(slot);
                    }
                }
            }
        }
        self.wakes.request_connection();
        Outcome::GoesOn
    }

    /// Charges the peer for what it sent; `false` when it has sent too much of it.
    fn within_budgets(&mut self) -> bool {
        let resets = self.traffic.resets.take();
        let idle_frames = self.traffic.idle_frames.take();
        if resets == 0 && idle_frames == 0 {
            return true;
        }
        let now = self.environment.clock.now_nanos();
        self.resets.spend(resets.into(), now) && self.idle_frames.spend(idle_frames.into(), now)
    }

    fn insert(&mut self, call: Call) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = self.slots.len() as u32;
            let signal = CallWaker::new(&self.wakes, slot);
            let waker = Waker::from(Arc::clone(&signal));
            self.slots.push(Slot {
                call: None,
                signal,
                waker,
            });
            slot
        });
        let expires_at = call.expires_at();
        self.slots[slot as usize].call = Some(call);
        self.arm(expires_at);
        slot
    }

    fn poll_call(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.signal.begin();
        let Some(call) = &mut slot.call else {
            return;
        };
        let mut cx = Context::from_waker(&slot.waker);
        if let Poll::Ready(finished) = call.poll(&self.environment, &mut cx) {
            slot.call = None;
            self.free.push(index);
            if finished == Finished::Answered {
                self.resets.earn(1);
            }
        } else if call.wants_limit() {
            let limit = nanos(self.environment.limits.message_timeout);
            let at = self.environment.clock.now_nanos().saturating_add(limit);
            call.limit_gathering(at);
            self.arm(at);
        }
    }

    /// Notices a peer that stopped in the middle of a frame, or that takes nothing more.
    fn watch_progress(&mut self) {
        let limits = &self.environment.limits;
        let clock = &self.environment.clock;
        let watch = |due: Option<Progress>, stuck: bool, seen: u64, timeout: Duration| match due {
            _ if !stuck => None,
            Some(due) if due.seen == seen => Some(due),
            _ => Some(Progress {
                seen,
                by: clock.now_nanos() + nanos(timeout),
            }),
        };
        self.unit_due = watch(
            self.unit_due,
            self.traffic.inside_unit.get(),
            self.traffic.units.get(),
            limits.frame_timeout,
        );
        self.write_due = watch(
            self.write_due,
            self.traffic.write_blocked.get(),
            self.traffic.written.get(),
            limits.write_timeout,
        );
        let by = |due: Option<Progress>| due.map_or(NEVER, |due| due.by);
        self.arm(by(self.unit_due).min(by(self.write_due)));
    }

    /// Makes the timer fire at `at` or earlier.
    fn arm(&mut self, at: u64) {
        if at >= self.armed_at {
            return;
        }
        self.armed_at = at;
        let mut timer: Pin<Box<dyn Future<Output = ()>>> =
            Box::pin(self.environment.clock.sleep_until(at));
        let mut cx = Context::from_waker(&self.housekeeping_waker);
        if timer.as_mut().poll(&mut cx).is_ready() {
            self.housekeeping_waker.wake_by_ref();
        }
        self.timer = Some(timer);
    }

    fn poll_shutdown(&mut self) {
        let mut cx = Context::from_waker(&self.housekeeping_waker);
        if let Some(shutdown) = &mut self.shutdown
            && shutdown.as_mut().poll(&mut cx).is_ready()
        {
            self.shutdown = None;
            let now = self.environment.clock.now_nanos();
            let until = now.saturating_add(nanos(self.environment.limits.drain_timeout));
            self.stopping = Stopping::Draining { until };
            self.connection.graceful_shutdown();
            self.wakes.request_connection();
            self.arm(until);
        }
    }

    /// Timer, shutdown and keepalive.
    fn keep_house(&mut self) -> Outcome {
        self.poll_shutdown();
        let now = self.environment.clock.now_nanos();
        if now >= self.armed_at {
            self.armed_at = NEVER;
            self.timer = None;
        }
        let late = |due: Option<Progress>| due.is_some_and(|due| now >= due.by);
        let stuck = late(self.unit_due) || late(self.write_due);
        if stuck || self.keep_alive(now) == Outcome::Ended || self.drain(now) == Outcome::Ended {
            return Outcome::Ended;
        }
        let mut next = self.keepalive.pong_by.unwrap_or(self.silent_at());
        for progress in [self.unit_due, self.write_due].into_iter().flatten() {
            next = next.min(progress.by);
        }
        if let Stopping::Draining { until } | Stopping::Closing { until } = self.stopping {
            next = next.min(until);
        }
        next = next.min(self.expire_calls(now));
        self.arm(next);
        Outcome::GoesOn
    }

    /// Ends calls whose time is over; answers when the next one's is.
    fn expire_calls(&mut self, now: u64) -> u64 {
        let mut next = NEVER;
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some(call) = &mut slot.call else {
                continue;
            };
            if call.expires_at() > now {
                next = next.min(call.expires_at());
                continue;
            }
            call.end(End::Expired, &self.environment);
            slot.call = None;
            self.free.push(index as u32);
        }
        next
    }

    /// When the peer is pinged if it stays silent.
    fn silent_at(&self) -> u64 {
        let interval = nanos(self.environment.limits.keepalive_interval);
        self.keepalive.heard_at.saturating_add(interval)
    }

    /// Notes whether the peer was heard. Whatever it sends answers a ping.
    fn listen(&mut self, now: u64) {
        if self.traffic.read.take() {
            self.keepalive.heard_at = now;
            self.keepalive.pong_by = None;
        }
    }

    /// Pings a peer that was silent for an interval; ends with one that stays so.
    fn keep_alive(&mut self, now: u64) -> Outcome {
        self.listen(now);
        if let Some(by) = self.keepalive.pong_by {
            return if now < by {
                Outcome::GoesOn
            } else {
                Outcome::Ended
            };
        }
        if now < self.silent_at() {
            return Outcome::GoesOn;
        }
        if let Some(pings) = &mut self.keepalive.pings {
            // Takes the answer to the last ping: without it no other goes out, and that one still asks.
            drop(pings.poll_pong(&mut Context::from_waker(Waker::noop())));
            pings.send_ping(Ping::opaque()).ok();
            let timeout = nanos(self.environment.limits.keepalive_timeout);
            self.keepalive.pong_by = Some(now.saturating_add(timeout));
        }
        Outcome::GoesOn
    }

    /// Moves a shutdown on when its time has come.
    fn drain(&mut self, now: u64) -> Outcome {
        match self.stopping {
            Stopping::Draining { until } if now >= until => {
                for (index, slot) in self.slots.iter_mut().enumerate() {
                    if let Some(mut call) = slot.call.take() {
                        call.end(End::Stopped, &self.environment);
                        self.free.push(index as u32);
                    }
                }
                let until = now + nanos(CUT_AFTER_DRAIN);
                self.stopping = Stopping::Closing { until };
                self.wakes.request_connection();
                Outcome::GoesOn
            }
            Stopping::Closing { until } if now >= until => Outcome::Ended,
            _ => Outcome::GoesOn,
        }
    }
}
