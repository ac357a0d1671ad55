//! Sending a workload and recording what it costs.
//!
//! One thread, non-blocking sockets, any number of connections × streams. A *closed* loop sends a
//! stream's next call when the last one has ended; it shows capacity and the latency of an
//! unqueued call, and hides queueing. An *open* loop sends by a schedule, whatever the server does;
//! its latencies count from the time at which a call was due.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::http2::{Address, Completion, Connection, RequestHead};
use crate::poller::Poller;
use crate::process::{self, MachineTime, Memory};
use crate::random::Random;

/// Longest latency that is told apart from longer ones.
const LATENCY_NANOS_MAX: u64 = 120_000_000_000;
const LATENCY_DIGITS: u8 = 3;
/// How long a run waits for the last answers.
const DRAIN: Duration = Duration::from_secs(10);
/// In a sleeping wait the end of the run is noticed at least this often.
const NAP: Duration = Duration::from_millis(20);

/// The duration of a run that something else ends.
const LONG: Duration = Duration::from_secs(7 * 24 * 3600);

/// How a call ended, from the view of who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The call did what it asked for.
    Done,
    /// A compare-and-set found a newer change and read it.
    Conflict,
    /// The answer does not fit the question.
    Wrong,
}

/// The calls of a run: what is asked, and what the answers mean.
///
/// Each of the run's slots has at most one call in flight.
pub trait Calls {
    /// The headers of the next calls.
    fn head(&self) -> &RequestHead;

    /// Writes the next call of `slot` to `request`; false when there is nothing left to send.
    fn next(&mut self, slot: usize, request: &mut Vec<u8>) -> bool;

    /// Judges the answer to the call in flight of `slot`.
    fn judge(&mut self, slot: usize, body: &[u8]) -> Verdict;

    /// Learns that the server refused a call or answered wrongly.
    fn refused(&mut self) {}

    /// Learns when a call of the recorded time was due and how long it took.
    fn timed(&mut self, due: Instant, latency: Duration) {
        _ = (due, latency);
    }
}

/// When calls are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pacing {
    /// Each stream sends its next call when its last one ended.
    Closed,
    /// Calls are due at this mean rate, at random distances, whatever the answers do.
    Open {
        /// Calls per second over all streams.
        rate: f64,
    },
}

/// One run of a workload.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The server.
    pub address: Address,
    /// Connections.
    pub connections: usize,
    /// Calls in flight on each connection.
    pub streams: usize,
    /// Time before anything is recorded.
    pub warm_up: Duration,
    /// Time that is recorded.
    pub duration: Duration,
    /// When calls are sent.
    pub pacing: Pacing,
    /// Whether the client polls its sockets without ever sleeping, which removes its own wake-up from
    /// every latency; right when it has a processor of its own.
    pub spin: bool,
    /// The server's process, for its processor time and memory.
    pub server_pid: Option<u32>,
    /// Seed of the schedule.
    pub seed: u64,
}

impl Plan {
    /// A closed loop without end that records from the start.
    pub fn new(address: &Address, connections: usize, streams: usize) -> Self {
        Self {
            address: address.clone(),
            connections,
            streams,
            warm_up: Duration::ZERO,
            duration: LONG,
            pacing: Pacing::Closed,
            spin: false,
            server_pid: None,
            seed: 1,
        }
    }

    /// Calls in flight over all connections.
    pub fn slots(&self) -> usize {
        self.connections * self.streams
    }
}

/// What one run has shown.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Calls that ended in the recorded time and did what they asked for, conflicts included.
    pub operations: u64,
    /// Those of `operations` that were conflicts.
    pub conflicts: u64,
    /// Calls that failed, by gRPC code and text.
    pub failures: BTreeMap<(u32, String), u64>,
    /// The recorded time.
    pub elapsed: Duration,
    /// Latencies in nanoseconds.
    pub latencies: Histogram<u64>,
    /// Processor time of the server in the recorded time.
    pub server_cpu: Option<Duration>,
    /// The server's memory at the end.
    pub server_memory: Option<Memory>,
    /// Processor time of the client in the recorded time.
    pub client_cpu: Duration,
    /// Processor time that neither server nor client used, hypervisor included.
    pub foreign_cpu: Duration,
}

impl Outcome {
    /// Calls per second.
    pub fn rate(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }

    /// Microseconds of server processor time per call.
    pub fn server_micros_per_operation(&self) -> Option<f64> {
        let cpu = self.server_cpu?;
        Some(cpu.as_secs_f64() * 1e6 / self.operations.max(1) as f64)
    }

    /// Refuses to go on with figures over failed calls, which would be worthless.
    ///
    /// # Errors
    /// A call has failed, or none was answered; `what` was under way.
    pub fn refuse_failures(&self, what: &str) -> io::Result<()> {
        match self.failures.iter().next() {
            None if self.operations > 0 => Ok(()),
            None => Err(io::Error::other(format!("{what}: no call was answered"))),
            Some(((code, message), count)) => Err(io::Error::other(format!(
                "{what}: {count} calls failed with code {code}: {message}"
            ))),
        }
    }

    /// A percentile of the latency in microseconds.
    pub fn latency_micros(&self, percentile: f64) -> f64 {
        self.latencies.value_at_percentile(percentile) as f64 / 1e3
    }
}

/// Runs `calls` by `plan`.
///
/// # Errors
/// A connection was refused or lost. Failed calls are no error; they are in the outcome.
pub fn run(plan: &Plan, calls: &mut impl Calls) -> io::Result<Outcome> {
    let mut run = Run::new(plan, calls)?;
    run.drive()?;
    run.outcome()
}

/// Processor times at one moment.
#[derive(Debug, Clone, Copy)]
struct Meter {
    at: Instant,
    server: Option<Duration>,
    client: Duration,
    machine: MachineTime,
}

impl Meter {
    fn read(server_pid: Option<u32>) -> io::Result<Self> {
        Ok(Self {
            at: Instant::now(),
            server: server_pid.map(process::cpu_time).transpose()?,
            client: process::cpu_time(std::process::id())?,
            machine: MachineTime::now()?,
        })
    }
}

struct Run<'a, C> {
    plan: &'a Plan,
    calls: &'a mut C,
    connections: Vec<Connection>,
    poller: Poller,
    /// When the call in flight of each slot was due.
    due: Vec<Instant>,
    idle: Vec<u32>,
    backlog: VecDeque<Instant>,
    next_arrival: Instant,
    schedule: Random,
    request: Vec<u8>,
    completions: Vec<Completion>,
    exhausted: bool,
    in_flight: usize,
    begin: Option<Meter>,
    end: Option<Meter>,
    operations: u64,
    conflicts: u64,
    failures: BTreeMap<(u32, String), u64>,
    latencies: Histogram<u64>,
}

impl<'a, C: Calls> Run<'a, C> {
    fn new(plan: &'a Plan, calls: &'a mut C) -> io::Result<Self> {
        let mut poller = Poller::new()?;
        let mut connections = Vec::with_capacity(plan.connections);
        for _ in 0..plan.connections {
            let mut connection = Connection::open(&plan.address)?;
            poller.add(&mut connection)?;
            connections.push(connection);
        }
        let now = Instant::now();
        let latencies = Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, LATENCY_DIGITS)
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Self {
            calls,
            connections,
            poller,
            due: vec![now; plan.slots()],
            idle: (0..plan.slots() as u32).rev().collect(),
            backlog: VecDeque::new(),
            next_arrival: now,
            schedule: Random::new(plan.seed),
            request: Vec::new(),
            completions: Vec::new(),
            exhausted: false,
            in_flight: 0,
            begin: None,
            end: None,
            operations: 0,
            conflicts: 0,
            failures: BTreeMap::new(),
            latencies,
            plan,
        })
    }

    fn drive(&mut self) -> io::Result<()> {
        if !self.plan.spin && self.plan.pacing != Pacing::Closed {
            process::wake_exactly()?;
        }
        let started = Instant::now();
        let record_at = started + self.plan.warm_up;
        let stop_at = record_at + self.plan.duration;
        let mut ready = Vec::new();
        if self.plan.warm_up.is_zero() {
            self.begin = Some(Meter::read(self.plan.server_pid)?);
        }
        self.start_calls(started)?;
        loop {
            self.poller.wait(self.nap(), &mut ready)?;
            let mut now = Instant::now();
            for index in ready.drain(..) {
                self.serve(index, &mut now)?;
            }
            if self.begin.is_none() && now >= record_at {
                self.begin = Some(Meter::read(self.plan.server_pid)?);
            }
            if self.end.is_none() && (now >= stop_at || (self.exhausted && self.in_flight == 0)) {
                self.end = Some(Meter::read(self.plan.server_pid)?);
            }
            if self.end.is_some() {
                if self.in_flight == 0 {
                    return Ok(());
                }
                if now > stop_at + DRAIN {
                    let text = format!("{} calls without an answer", self.in_flight);
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
            } else {
                self.start_calls(now)?;
            }
        }
    }

    /// How long the sockets may be waited for.
    fn nap(&self) -> Duration {
        match self.plan.pacing {
            _ if self.plan.spin => Duration::ZERO,
            Pacing::Closed => NAP,
            Pacing::Open { .. } => {
                NAP.min(self.next_arrival.saturating_duration_since(Instant::now()))
            }
        }
    }

    /// Reads one connection and, in a closed loop, sends the next calls on it at once.
    fn serve(&mut self, index: usize, now: &mut Instant) -> io::Result<()> {
        let mut completions = std::mem::take(&mut self.completions);
        self.connections[index].receive(&mut completions)?;
        if !completions.is_empty() {
            *now = Instant::now();
        }
        for completion in completions.drain(..) {
            self.complete(index, completion, *now)?;
        }
        self.completions = completions;
        self.flush(index)
    }

    fn complete(&mut self, index: usize, completion: Completion, now: Instant) -> io::Result<()> {
        let slot = completion.token as usize;
        self.in_flight -= 1;
        let recording = self.begin.is_some() && self.end.is_none();
        let verdict = match completion.code {
            0 => self.calls.judge(slot, &completion.body),
            _ => Verdict::Wrong,
        };
        if verdict == Verdict::Wrong {
            self.calls.refused();
        }
        if recording {
            match verdict {
                Verdict::Done | Verdict::Conflict => {
                    self.operations += 1;
                    self.conflicts += u64::from(verdict == Verdict::Conflict);
                    let latency = now - self.due[slot];
                    self.latencies
                        .saturating_record((latency.as_nanos() as u64).max(1));
                    self.calls.timed(self.due[slot], latency);
                }
                Verdict::Wrong => {
                    let text = match completion.code {
                        0 => "the answer does not fit the question".to_owned(),
                        _ => completion.message,
                    };
                    *self.failures.entry((completion.code, text)).or_default() += 1;
                }
            }
        }
        self.connections[index].recycle(completion.body);
        if self.plan.pacing == Pacing::Closed && self.end.is_none() {
            self.send(slot, now);
        } else {
            self.idle.push(slot as u32);
        }
        Ok(())
    }

    /// Sends what is due: everything idle in a closed loop, the backlog in an open one.
    fn start_calls(&mut self, now: Instant) -> io::Result<()> {
        match self.plan.pacing {
            Pacing::Closed => {
                if self.exhausted || self.idle.is_empty() {
                    return Ok(());
                }
                for slot in std::mem::take(&mut self.idle) {
                    self.send(slot as usize, now);
                }
                (0..self.connections.len()).try_for_each(|index| self.flush(index))
            }
            Pacing::Open { rate } => {
                if self.exhausted {
                    return Ok(());
                }
                while self.next_arrival <= now {
                    self.backlog.push_back(self.next_arrival);
                    let distance = -self.schedule.unit().ln() / rate;
                    self.next_arrival += Duration::from_secs_f64(distance);
                }
                while !self.backlog.is_empty() {
                    let Some(slot) = self.idle.pop() else {
                        break;
                    };
                    let Some(due) = self.backlog.pop_front() else {
                        break;
                    };
                    self.send(slot as usize, due);
                    self.flush(slot as usize % self.connections.len())?;
                }
                Ok(())
            }
        }
    }

    fn send(&mut self, slot: usize, due: Instant) {
        if self.exhausted || !self.calls.next(slot, &mut self.request) {
            self.exhausted = true;
            return;
        }
        self.due[slot] = due;
        self.in_flight += 1;
        let index = slot % self.connections.len();
        self.connections[index].send(self.calls.head(), &self.request, slot as u32);
    }

    fn flush(&mut self, index: usize) -> io::Result<()> {
        self.poller.flush(index, &mut self.connections[index])
    }

    fn outcome(self) -> io::Result<Outcome> {
        let (Some(begin), Some(end)) = (self.begin, self.end) else {
            return Err(io::Error::other("the run ended before its warm-up"));
        };
        let elapsed = end.at - begin.at;
        let server_cpu = end.server.zip(begin.server).map(|(end, begin)| end - begin);
        let client_cpu = end.client - begin.client;
        let busy = end.machine.busy - begin.machine.busy;
        let stolen = end.machine.stolen.saturating_sub(begin.machine.stolen);
        let own = client_cpu + server_cpu.unwrap_or_default();
        Ok(Outcome {
            operations: self.operations,
            conflicts: self.conflicts,
            failures: self.failures,
            elapsed,
            latencies: self.latencies,
            server_cpu,
            server_memory: self.plan.server_pid.map(process::memory).transpose()?,
            client_cpu,
            foreign_cpu: busy.saturating_sub(own) + stolen,
        })
    }
}
