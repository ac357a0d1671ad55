//! Many watchers of one key: how soon the last one hears of a put, and what each delivery costs.

use std::io;
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;

use super::{MEBIBYTE, SETTLE};
use crate::figures::{Better, Figures, Goal, Launch, Sides};
use crate::http2::{Address, Completion, Connection, RequestHead, Windows};
use crate::message::{self, WatchRequest};
use crate::poller::Poller;
use crate::process;
use crate::server::Server;
use crate::statistics::percentile;

const EXAMPLES: &str = "Examples:
  ringbench watchers --b target/release/ringd --a bench/etcd/bin/etcd --stalled 10
  ringbench watchers --b target/release/ringd --watchers 1000 --connections 10 --puts 20
  each watcher on a stream of its own:
    ringbench watchers --b target/release/ringd --a bench/etcd/bin/etcd --streams 100";

const KEY: &[u8] = b"/ringbench/watched";
/// A put that has not reached all watchers within this time ends the run.
const DELIVERY_LIMIT: Duration = Duration::from_secs(60);
const NAP: Duration = Duration::from_millis(100);
const LATENCY_NANOS_MAX: u64 = 120_000_000_000;
/// The token of the connection that puts.
const PUT_TOKEN: u32 = u32::MAX;

/// Watchers of one key over several connections: time to the last delivery, server CPU per event.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Watchers {
    #[command(flatten)]
    sides: Sides,
    /// Watchers, spread evenly.
    #[arg(long, default_value_t = 10_000)]
    watchers: usize,
    /// Connections of the watchers.
    #[arg(long, default_value_t = 100)]
    connections: usize,
    /// Watch streams on each connection.
    #[arg(long, default_value_t = 1)]
    streams: usize,
    /// Measured puts, each sent when the last one has reached everybody.
    #[arg(long, default_value_t = 200)]
    puts: usize,
    /// Puts before.
    #[arg(long, default_value_t = 20)]
    warm_up_puts: usize,
    /// Milliseconds between a last delivery and the next put.
    #[arg(long, default_value_t = 5)]
    pause_millis: u64,
    /// Bytes of each value.
    #[arg(long, default_value_t = 128)]
    value_bytes: usize,
    /// Measure again beside this many connections with as many watchers each that never read.
    #[arg(long, default_value_t = 0)]
    stalled: usize,
}

/// The connections of a run; the last one puts.
struct Herd {
    connections: Vec<Connection>,
    poller: Poller,
    ready: Vec<usize>,
    completions: Vec<Completion>,
}

/// What arrived in one turn.
#[derive(Debug, Default, Clone, Copy)]
struct Arrived {
    created: u64,
    events: u64,
    put: bool,
}

impl Herd {
    fn open(address: &Address, count: usize) -> io::Result<Self> {
        let mut poller = Poller::new()?;
        let mut connections = Vec::with_capacity(count);
        for _ in 0..count {
            let mut connection = Connection::open(address)?;
            poller.add(&mut connection)?;
            connections.push(connection);
        }
        Ok(Self {
            connections,
            poller,
            ready: Vec::new(),
            completions: Vec::new(),
        })
    }

    fn flush_all(&mut self) -> io::Result<()> {
        for (index, connection) in self.connections.iter_mut().enumerate() {
            self.poller.flush(index, connection)?;
        }
        Ok(())
    }

    fn put(&mut self, value: &[u8], request: &mut Vec<u8>) -> io::Result<()> {
        message::put(KEY, value, request);
        let index = self.connections.len() - 1;
        let connection = &mut self.connections[index];
        connection.send(&RequestHead::new(message::PUT), request, PUT_TOKEN);
        self.poller.flush(index, connection)
    }

    /// Waits for something and reads it; `each` learns how many events came at the same moment.
    fn turn(&mut self, mut each: impl FnMut(u64)) -> io::Result<Arrived> {
        let mut arrived = Arrived::default();
        self.poller.wait(NAP, &mut self.ready)?;
        for index in self.ready.drain(..) {
            let connection = &mut self.connections[index];
            connection.receive(&mut self.completions)?;
            let mut events = 0;
            for completion in self.completions.drain(..) {
                events += take(&completion, &mut arrived)?;
                connection.recycle(completion.body);
            }
            each(events);
            arrived.events += events;
            self.poller.flush(index, connection)?;
        }
        Ok(arrived)
    }
}

/// Adds one message to `arrived` and returns its number of events.
fn take(completion: &Completion, arrived: &mut Arrived) -> io::Result<u64> {
    if completion.code != 0 || completion.end != (completion.token == PUT_TOKEN) {
        return Err(io::Error::other(format!(
            "a call ended with code {}: {}",
            completion.code, completion.message
        )));
    }
    if completion.end {
        arrived.put = true;
        return Ok(0);
    }
    let answer = message::read_watch(&completion.body, |_| {});
    let Some(answer) = answer.filter(|answer| !answer.canceled) else {
        return Err(io::Error::other("the server ended a watcher"));
    };
    arrived.created += u64::from(answer.created);
    Ok(answer.events)
}

/// Queues the creation of `watchers` on `streams` streams of a connection.
fn create(connection: &mut Connection, watchers: usize, streams: usize) {
    let mut request = Vec::new();
    let watch = WatchRequest {
        key: KEY,
        prefix: false,
        from_revision: 0,
    };
    message::watch_create(watch, &mut request);
    let head = RequestHead::new(message::WATCH);
    let streams = streams.clamp(1, watchers.max(1));
    for stream in 0..streams {
        let id = connection.open_stream(&head, 0);
        for _ in (stream..watchers).step_by(streams) {
            connection.send_message(id, &request);
        }
    }
}

/// What a series of puts has shown.
struct Deliveries {
    /// Milliseconds to the last delivery of each put.
    last: Vec<f64>,
    /// Nanoseconds to every delivery.
    each: Histogram<u64>,
    /// Milliseconds to each put's answer.
    answered: Vec<f64>,
    server_cpu: Duration,
    client_cpu: Duration,
}

impl Watchers {
    /// Measures and prints.
    ///
    /// # Errors
    /// A server fails, or a put does not reach everybody.
    pub fn run(&self) -> io::Result<()> {
        if self.watchers == 0 || self.connections == 0 || self.puts == 0 {
            return Err(io::Error::other(
                "watchers, connections and puts must be at least 1",
            ));
        }
        let title = format!(
            "watchers: {} of one key over {} connections × {} streams, {} puts of {} bytes",
            self.watchers, self.connections, self.streams, self.puts, self.value_bytes
        );
        let table = self.sides.run(title, |launch| self.measure(launch))?;
        self.sides.print(&table);
        Ok(())
    }

    fn measure(&self, launch: &Launch) -> io::Result<Figures> {
        let mut figures = Figures::default();
        let server = launch.start()?;
        let mut herd = Herd::open(server.address(), self.connections + 1)?;
        let resident = |server: &Server| -> io::Result<f64> {
            Ok(process::memory(server.pid())?.resident_bytes as f64 / MEBIBYTE)
        };
        let before = resident(&server)?;
        self.create_watchers(&mut herd)?;
        let with_watchers = resident(&server)?;
        self.deliver(&server, &mut herd, self.warm_up_puts)?;
        let deliveries = self.deliver(&server, &mut herd, self.puts)?;
        self.add(&deliveries, "", &mut figures);
        let per_watcher = (with_watchers - before) * MEBIBYTE / self.watchers as f64;
        figures.add("RSS per watcher", "bytes", per_watcher, Better::Lower);

        if self.stalled > 0 {
            eprintln!("  beside {} stalled connections", self.stalled);
            let healthy = resident(&server)?;
            let stalled = self.stall(server.address())?;
            let beside = self.deliver(&server, &mut herd, self.puts)?;
            std::thread::sleep(SETTLE);
            self.add(&beside, ", beside stalled ones", &mut figures);
            figures.add_with_goal(
                "last delivery p99 beside stalled ones / without",
                "times",
                percentile(&beside.last, 99.0) / percentile(&deliveries.last, 99.0),
                Better::Lower,
                Goal::AtMost(1.5),
            );
            let growth = (resident(&server)? - healthy) / self.stalled as f64;
            figures.add("RSS per stalled connection", "MiB", growth, Better::Lower);
            drop(stalled);
        }
        server.stop()?;
        Ok(figures)
    }

    fn create_watchers(&self, herd: &mut Herd) -> io::Result<()> {
        for index in 0..self.connections {
            let share = (index..self.watchers).step_by(self.connections).count();
            create(&mut herd.connections[index], share, self.streams);
        }
        herd.flush_all()?;
        let begin = Instant::now();
        let mut created = 0;
        while created < self.watchers as u64 {
            created += herd.turn(|_| {})?.created;
            if begin.elapsed() > DELIVERY_LIMIT {
                return Err(io::Error::other(format!("only {created} watchers exist")));
            }
        }
        Ok(())
    }

    /// Connections with watchers that are never read again.
    fn stall(&self, address: &Address) -> io::Result<Vec<Connection>> {
        let share = self.watchers.div_ceil(self.connections);
        let mut stalled = Vec::with_capacity(self.stalled);
        for _ in 0..self.stalled {
            let mut connection = Connection::open_with(address, Windows::NARROW)?;
            create(&mut connection, share, self.streams);
            let begin = Instant::now();
            let mut arrived = Arrived::default();
            let mut completions = Vec::new();
            while arrived.created < share as u64 {
                connection.flush()?;
                connection.receive(&mut completions)?;
                for completion in completions.drain(..) {
                    take(&completion, &mut arrived)?;
                }
                if begin.elapsed() > DELIVERY_LIMIT {
                    return Err(io::Error::other("the stalled watchers were not created"));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            stalled.push(connection);
        }
        Ok(stalled)
    }

    fn deliver(&self, server: &Server, herd: &mut Herd, puts: usize) -> io::Result<Deliveries> {
        let mut deliveries = Deliveries {
            last: Vec::with_capacity(puts),
            each: Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, 3)
                .map_err(|error| io::Error::other(error.to_string()))?,
            answered: Vec::with_capacity(puts),
            server_cpu: process::cpu_time(server.pid())?,
            client_cpu: process::cpu_time(std::process::id())?,
        };
        let mut request = Vec::new();
        let mut value = vec![b'x'; self.value_bytes];
        for number in 0..puts {
            let stamp = (number as u64).to_le_bytes();
            let len = stamp.len().min(value.len());
            value[..len].copy_from_slice(&stamp[..len]);
            let begin = Instant::now();
            herd.put(&value, &mut request)?;
            let mut all = Arrived::default();
            while !all.put || all.events < self.watchers as u64 {
                let arrived = herd.turn(|events| {
                    let nanos = begin.elapsed().as_nanos() as u64;
                    deliveries.each.saturating_record_n(nanos.max(1), events);
                })?;
                let elapsed = begin.elapsed();
                if arrived.put {
                    deliveries.answered.push(elapsed.as_secs_f64() * 1e3);
                }
                if arrived.events > 0 && all.events + arrived.events >= self.watchers as u64 {
                    deliveries.last.push(elapsed.as_secs_f64() * 1e3);
                }
                all.put |= arrived.put;
                all.events += arrived.events;
                if elapsed > DELIVERY_LIMIT {
                    return Err(io::Error::other(format!(
                        "a put reached {} of {} watchers",
                        all.events, self.watchers
                    )));
                }
            }
            std::thread::sleep(Duration::from_millis(self.pause_millis));
        }
        deliveries.server_cpu = process::cpu_time(server.pid())? - deliveries.server_cpu;
        deliveries.client_cpu = process::cpu_time(std::process::id())? - deliveries.client_cpu;
        Ok(deliveries)
    }

    fn add(&self, deliveries: &Deliveries, suffix: &str, figures: &mut Figures) {
        let main = suffix.is_empty();
        let last = |percent: f64| percentile(&deliveries.last, percent);
        let name = format!("last delivery, p50{suffix}");
        figures.add(&name, "ms", last(50.0), Better::Lower);
        if main {
            figures.want("last delivery, p50", Goal::Times(5.0));
        }
        figures.add(
            &format!("last delivery, p99{suffix}"),
            "ms",
            last(99.0),
            Better::Lower,
        );
        for percent in [50.0, 99.0] {
            let millis = deliveries.each.value_at_percentile(percent) as f64 / 1e6;
            figures.add(
                &format!("delivery, p{percent}{suffix}"),
                "ms",
                millis,
                Better::Lower,
            );
        }
        let answered = percentile(&deliveries.answered, 50.0);
        figures.add(
            &format!("put answered, p50{suffix}"),
            "ms",
            answered,
            Better::Lower,
        );
        let events = (deliveries.last.len() * self.watchers).max(1) as f64;
        let server = deliveries.server_cpu.as_secs_f64() * 1e6 / events;
        let name = format!("server CPU per event{suffix}");
        figures.add(&name, "µs", server, Better::Lower);
        if main {
            figures.want("server CPU per event", Goal::Times(8.0));
        }
        let client = deliveries.client_cpu.as_secs_f64() * 1e6 / events;
        figures.add(
            &format!("client CPU per event{suffix}"),
            "µs",
            client,
            Better::Neither,
        );
    }
}
