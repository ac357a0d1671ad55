//! Many leases that fall due together, while puts go on.

use std::io;
use std::time::{Duration, Instant};

use clap::Args;

use super::{FILL_CONNECTIONS, FILL_STREAMS, fill, seconds};
use crate::client::{Client, WatchStream, malformed};
use crate::figures::{Better, Figures, Goal, Launch, Sides};
use crate::fill::{Overwrite, Stop, StopOnDrop};
use crate::http2::RequestHead;
use crate::keys::{Content, Keys, Naming};
use crate::load::{self, Calls, Pacing, Plan, Verdict};
use crate::message::{self, ListKind, WatchRequest};
use crate::process;
use crate::server::Server;
use crate::statistics::percentile;
use crate::timeline::Timeline;

const EXAMPLES: &str = "Examples:
  ringbench leases --b target/release/ringd --a bench/etcd/bin/etcd
  ringbench leases --b target/release/ringd --leases 2000 --horizon 12 --before 4";

const PREFIX: &str = "/leased/";
const FIRST_LEASE: i64 = 1 << 32;
const PUT_CONNECTIONS: usize = 4;
const PUT_STREAMS: usize = 16;
const PUT_KEYS: u64 = 10_000;
/// What lies between the last attached key and the first puts.
const MARGIN: Duration = Duration::from_secs(1);
/// The puts go on for this long after the last key is gone.
const AFTER: Duration = Duration::from_secs(1);
const SLICE: Duration = Duration::from_millis(100);

/// Leases with a key each that fall due within one second: when the last key is gone, and what puts notice.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Leases {
    #[command(flatten)]
    sides: Sides,
    /// Leases.
    #[arg(long, default_value_t = 100_000)]
    leases: usize,
    /// Seconds from the first grant to the time at which all are due; each gets the TTL that ends there.
    #[arg(long, default_value_t = 60.0)]
    horizon: f64,
    /// Seconds of puts before the leases are due, for the comparison.
    #[arg(long, default_value_t = 10.0)]
    before: f64,
    /// Puts per second that are due, before and while.
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
    /// Bytes of each put's value.
    #[arg(long, default_value_t = 1024)]
    value_bytes: usize,
    /// Seconds after the due time at which waiting for the keys is given up.
    #[arg(long, default_value_t = 300.0)]
    patience: f64,
}

/// When a lease ends, as far as its client can know.
#[derive(Debug, Clone, Copy)]
struct Due {
    /// The grant cannot have happened before its request was sent.
    earliest: Instant,
    /// Nor after its answer came.
    latest: Instant,
}

/// Grants every lease so that it ends at `end` or less than a second later.
struct Grant {
    head: RequestHead,
    end: Instant,
    next: usize,
    ttl: Vec<i64>,
    current: Vec<usize>,
    due: Vec<Due>,
}

impl Grant {
    fn new(leases: usize, slots: usize, end: Instant) -> Self {
        let never = Due {
            earliest: end,
            latest: end,
        };
        Self {
            head: RequestHead::new(message::LEASE_GRANT),
            end,
            next: 0,
            ttl: vec![0; leases],
            current: vec![0; slots],
            due: vec![never; leases],
        }
    }
}

impl Calls for Grant {
    fn head(&self) -> &RequestHead {
        &self.head
    }

    fn next(&mut self, slot: usize, request: &mut Vec<u8>) -> bool {
        let lease = self.next;
        if lease == self.ttl.len() {
            return false;
        }
        self.next += 1;
        let now = Instant::now();
        let ttl = self.end.saturating_duration_since(now).as_secs() + 1;
        self.current[slot] = lease;
        self.ttl[lease] = ttl as i64;
        self.due[lease].earliest = now + Duration::from_secs(ttl);
        message::lease_grant(FIRST_LEASE + lease as i64, ttl as i64, request);
        true
    }

    fn judge(&mut self, slot: usize, body: &[u8]) -> Verdict {
        let lease = self.current[slot];
        let ttl = self.ttl[lease];
        self.due[lease].latest = Instant::now() + Duration::from_secs(ttl as u64);
        // A server may lengthen short TTLs, and then they do not fall due together.
        match message::read_grant(body) {
            Some(granted) if granted == ttl => Verdict::Done,
            _ => Verdict::Wrong,
        }
    }
}

/// Puts the key of every lease.
struct Attach {
    head: RequestHead,
    next: usize,
    leases: usize,
}

impl Calls for Attach {
    fn head(&self) -> &RequestHead {
        &self.head
    }

    fn next(&mut self, _slot: usize, request: &mut Vec<u8>) -> bool {
        if self.next == self.leases {
            return false;
        }
        let key = format!("{PREFIX}{}", self.next);
        let lease = FIRST_LEASE + self.next as i64;
        message::put_with_lease(key.as_bytes(), b"", lease, request);
        self.next += 1;
        true
    }

    fn judge(&mut self, _slot: usize, body: &[u8]) -> Verdict {
        match message::read_put(body) {
            Some(answer) if answer.revision > 0 => Verdict::Done,
            _ => Verdict::Wrong,
        }
    }
}

/// When the keys went.
#[derive(Debug, Default)]
struct Gone {
    count: usize,
    early: u64,
    earliest_by: Duration,
    last: Option<Instant>,
    /// Seconds from the latest time at which each was due.
    delays: Vec<f64>,
}

impl Gone {
    fn take(&mut self, key: &[u8], due: &[Due], now: Instant) {
        let lease = std::str::from_utf8(key)
            .ok()
            .and_then(|key| key.strip_prefix(PREFIX))
            .and_then(|digits| digits.parse::<usize>().ok());
        let Some(due) = lease.and_then(|lease| due.get(lease)) else {
            return;
        };
        self.count += 1;
        self.last = Some(now);
        let early_by = due.earliest.saturating_duration_since(now);
        if !early_by.is_zero() {
            self.early += 1;
            self.earliest_by = self.earliest_by.max(early_by);
        }
        let delay = now.saturating_duration_since(due.latest);
        self.delays.push(delay.as_secs_f64());
    }
}

impl Leases {
    /// Measures and prints.
    ///
    /// # Errors
    /// A server fails or answers wrongly, or is too slow for the horizon.
    pub fn run(&self) -> io::Result<()> {
        let title = format!(
            "leases: {} with a key each, due together; {} puts/s",
            self.leases, self.rate
        );
        let table = self.sides.run(title, |launch| self.measure(launch))?;
        self.sides.print(&table);
        Ok(())
    }

    fn measure(&self, launch: &Launch) -> io::Result<Figures> {
        let mut figures = Figures::default();
        let server = launch.start()?;
        let keys = Keys {
            naming: Naming::Sequential,
            count: PUT_KEYS,
        };
        let content = Content {
            bytes: self.value_bytes,
            seed: self.sides.seed,
        };
        fill(&server, keys, content, 1)?;
        let watch = Client::open(server.address())?.watch(WatchRequest {
            key: PREFIX.as_bytes(),
            prefix: true,
            from_revision: 0,
        })?;
        let end = Instant::now() + seconds(self.horizon)?;
        let due = self.prepare(&server, end, &mut figures)?;
        let puts_begin = end.checked_sub(seconds(self.before)?);
        let wait = puts_begin.map(|begin| begin.saturating_duration_since(Instant::now() + MARGIN));
        let Some(wait) = wait.filter(|wait| !wait.is_zero()) else {
            return Err(io::Error::other(
                "the leases were not granted in time: choose a longer --horizon",
            ));
        };
        std::thread::sleep(wait);

        let stop = Stop::default();
        let cpu_before = process::cpu_time(server.pid())?;
        let (timeline, gone) = std::thread::scope(|scope| {
            let puts = scope.spawn(|| {
                let plan = Plan {
                    pacing: Pacing::Open { rate: self.rate },
                    ..Plan::new(server.address(), PUT_CONNECTIONS, PUT_STREAMS)
                };
                let mut calls = Overwrite::new(keys, content, self.sides.seed, &stop)
                    .with_timeline(Timeline::new(SLICE));
                let outcome = load::run(&plan, &mut calls)?;
                outcome.refuse_failures("putting")?;
                Ok::<_, io::Error>(calls.into_timeline())
            });
            let stopper = StopOnDrop(&stop);
            let gone = self.follow(&server, watch, &due);
            std::thread::sleep(AFTER);
            drop(stopper);
            let timeline = puts
                .join()
                .map_err(|_| io::Error::other("the puts panicked"))??;
            Ok::<_, io::Error>((timeline, gone?))
        })?;
        let cpu = process::cpu_time(server.pid())? - cpu_before;
        self.add_gone(&due, &gone, &mut figures);
        self.add_puts(&due, &gone, &timeline, &mut figures);
        let used = cpu.as_secs_f64();
        figures.add("server CPU, puts and expiry", "s", used, Better::Lower);
        server.stop()?;
        Ok(figures)
    }

    /// Grants the leases and puts their keys.
    fn prepare(
        &self,
        server: &Server,
        end: Instant,
        figures: &mut Figures,
    ) -> io::Result<Vec<Due>> {
        eprintln!("  grant");
        let plan = Plan::new(server.address(), FILL_CONNECTIONS, FILL_STREAMS);
        let mut grant = Grant::new(self.leases, plan.slots(), end);
        let outcome = load::run(&plan, &mut grant)?;
        outcome.refuse_failures("granting (a TTL that the server changes counts as failed)")?;
        figures.add("grants", "1/s", outcome.rate(), Better::Higher);
        eprintln!("  attach");
        let mut attach = Attach {
            head: RequestHead::new(message::PUT),
            next: 0,
            leases: self.leases,
        };
        let outcome = load::run(&plan, &mut attach)?;
        outcome.refuse_failures("attaching")?;
        figures.add("keys attached", "1/s", outcome.rate(), Better::Higher);
        Ok(grant.due)
    }

    /// Follows the deletions until all keys are gone or patience ends.
    fn follow(&self, server: &Server, mut watch: WatchStream, due: &[Due]) -> io::Result<Gone> {
        eprintln!("  wait for the due time");
        let limit = latest(due) + seconds(self.patience)?;
        let mut gone = Gone::default();
        while gone.count < self.leases {
            let left = limit.saturating_duration_since(Instant::now());
            let Some(body) = watch.next(left)? else {
                break;
            };
            let now = Instant::now();
            message::read_watch(&body, |event| {
                if event.deleted {
                    gone.take(event.key, due, now);
                }
            })
            .ok_or_else(malformed)?;
            watch.recycle(body);
        }
        let mut client = Client::open(server.address())?;
        let body = client.call(message::RANGE, |request| {
            message::list(PREFIX.as_bytes(), ListKind::Count, request);
        })?;
        let left = message::read_list(&body, |_, _| {}).ok_or_else(malformed)?;
        if left.count != (self.leases - gone.count) as i64 {
            return Err(io::Error::other(format!(
                "{} deletions were seen but {} of {} keys are left",
                gone.count, left.count, self.leases
            )));
        }
        Ok(gone)
    }

    fn add_gone(&self, due: &[Due], gone: &Gone, figures: &mut Figures) {
        let spread = latest(due) - earliest(due);
        let spread = spread.as_secs_f64();
        figures.add("due times lie within", "s", spread, Better::Neither);
        let left = (self.leases - gone.count) as f64;
        figures.add_with_goal("keys left", "", left, Better::Lower, Goal::AtMost(0.0));
        let early = gone.early as f64;
        figures.add_with_goal(
            "keys gone early",
            "",
            early,
            Better::Lower,
            Goal::AtMost(0.0),
        );
        if gone.early > 0 {
            let millis = gone.earliest_by.as_millis();
            figures.note(format!("a key went {millis} ms before it was due"));
        }
        let last = gone
            .last
            .map_or(f64::NAN, |last| signed_seconds(last, latest(due)));
        let last = if left > 0.0 { f64::NAN } else { last };
        figures.add_with_goal(
            "last key gone after the last was due",
            "s",
            last,
            Better::Lower,
            Goal::AtMost(2.0),
        );
        for percent in [50.0, 99.0] {
            let value = percentile(&gone.delays, percent);
            figures.add(
                &format!("key gone after it was due, p{percent}"),
                "s",
                value,
                Better::Lower,
            );
        }
    }

    fn add_puts(&self, due: &[Due], gone: &Gone, timeline: &Timeline, figures: &mut Figures) {
        let first_due = earliest(due);
        let last_gone = gone.last.unwrap_or(first_due) + SLICE;
        let begin = first_due - Duration::from_secs_f64(self.before) + MARGIN;
        let before = timeline.window(begin, first_due, |_| true);
        let meanwhile = timeline.window(first_due - SLICE, last_gone + SLICE, |_| true);
        figures.add("put p99 before", "µs", before.micros(99.0), Better::Lower);
        figures.add("put p99 while", "µs", meanwhile.micros(99.0), Better::Lower);
        figures.add_with_goal(
            "put p99 while / before",
            "times",
            meanwhile.micros(99.0) / before.micros(99.0),
            Better::Lower,
            Goal::AtMost(2.0),
        );
        figures.add(
            "put slowest while",
            "µs",
            meanwhile.micros(100.0),
            Better::Lower,
        );
        figures.add("puts while", "1/s", meanwhile.rate(), Better::Higher);
    }
}

fn earliest(due: &[Due]) -> Instant {
    let all = due.iter().map(|due| due.earliest);
    all.min().unwrap_or_else(Instant::now)
}

fn latest(due: &[Due]) -> Instant {
    let all = due.iter().map(|due| due.latest);
    all.max().unwrap_or_else(Instant::now)
}

fn signed_seconds(end: Instant, begin: Instant) -> f64 {
    match end.checked_duration_since(begin) {
        Some(after) => after.as_secs_f64(),
        None => -(begin - end).as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_ends_at_the_due_time_or_within_a_second_after() {
        let end = Instant::now() + Duration::from_millis(9_400);
        let mut grant = Grant::new(2, 1, end);
        assert!(grant.next(0, &mut Vec::new()));
        assert_eq!(grant.ttl[0], 10);
        assert!(grant.due[0].earliest >= end);
        assert!(grant.due[0].earliest < end + Duration::from_secs(1));
        // header {}, ID, TTL: 10
        assert_eq!(grant.judge(0, b"\0\0\0\0\x02\x18\x0a"), Verdict::Done);
        assert!(grant.next(0, &mut Vec::new()) && !grant.next(0, &mut Vec::new()));
        assert_eq!(grant.judge(0, b"\0\0\0\0\x02\x18\x0f"), Verdict::Wrong);
    }

    #[test]
    fn an_early_deletion_is_noticed() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let due = [Due {
            earliest: now + second,
            latest: now + 2 * second,
        }; 2];
        let mut gone = Gone::default();
        gone.take(b"/leased/0", &due, now + 3 * second);
        assert_eq!((gone.count, gone.early), (1, 0));
        assert_eq!(gone.delays, [1.0]);
        gone.take(b"/leased/1", &due, now);
        gone.take(b"/leased/2", &due, now);
        assert_eq!((gone.count, gone.early), (2, 1));
        assert_eq!(gone.earliest_by, second);
    }
}
