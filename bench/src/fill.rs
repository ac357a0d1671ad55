//! Writing many keys and reading them back: the calls of a load, of overwriting, and of checking.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::http2::RequestHead;
use crate::keys::{Content, Keys};
use crate::load::{self, Calls, Outcome, Plan, Verdict};
use crate::message;
use crate::random::Random;
use crate::timeline::Timeline;

/// A load says how far it is this often.
const PROGRESS_STEPS: u64 = 10;

/// A request to end calls that would go on for ever; clones are the same request.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks for the end.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the end was asked for.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Asks for the end when it is dropped, so that a failure on one thread ends the others too.
#[derive(Debug)]
pub struct StopOnDrop<'a>(pub &'a Stop);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.ask();
    }
}

/// Puts every key once, in the order of their numbers, one or several in a transaction.
#[derive(Debug)]
pub struct Fill {
    head: RequestHead,
    keys: Keys,
    content: Content,
    batch: u64,
    next: u64,
    failed: bool,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Fill {
    /// Puts `batch` keys by each call: 1 is a plain put, more are a transaction.
    pub fn new(keys: Keys, content: Content, batch: u64) -> Self {
        let path = if batch == 1 {
            message::PUT
        } else {
            message::TXN
        };
        Self {
            head: RequestHead::new(path),
            keys,
            content,
            batch: batch.max(1),
            next: 0,
            failed: false,
            key: Vec::new(),
            value: Vec::new(),
        }
    }

    /// Puts all keys by `plan`'s connections, as fast as the server takes them.
    ///
    /// # Errors
    /// A put failed, or not all were answered within `limit`.
    pub fn run(mut self, plan: &Plan, limit: Duration) -> io::Result<Outcome> {
        let plan = Plan {
            duration: limit,
            ..plan.clone()
        };
        let outcome = load::run(&plan, &mut self)?;
        outcome.refuse_failures("loading")?;
        if self.next < self.keys.count {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!(
                    "{} of {} keys were loaded within {} s",
                    self.next,
                    self.keys.count,
                    limit.as_secs()
                ),
            ));
        }
        Ok(outcome)
    }
}

impl Calls for Fill {
    fn head(&self) -> &RequestHead {
        &self.head
    }

    fn next(&mut self, _slot: usize, request: &mut Vec<u8>) -> bool {
        let first = self.next;
        let count = self.batch.min(self.keys.count - first);
        if count == 0 || self.failed {
            return false;
        }
        self.next += count;
        let step = (self.keys.count / PROGRESS_STEPS).max(1);
        if self.keys.count > 1_000_000 && first / step != self.next / step {
            eprintln!("  {} of {} keys", self.next, self.keys.count);
        }
        if self.batch == 1 {
            self.keys.name(first, &mut self.key);
            self.content.write(first, 0, &mut self.value);
            message::put(&self.key, &self.value, request);
        } else {
            message::put_many(count as usize, request, |at, key, value| {
                self.keys.name(first + at as u64, key);
                self.content.write(first + at as u64, 0, value);
            });
        }
        true
    }

    fn judge(&mut self, _slot: usize, body: &[u8]) -> Verdict {
        let answer = if self.batch == 1 {
            message::read_put(body)
        } else {
            message::read_txn(body).filter(|answer| answer.succeeded)
        };
        match answer {
            Some(answer) if answer.revision > 0 => Verdict::Done,
            _ => Verdict::Wrong,
        }
    }

    fn refused(&mut self) {
        self.failed = true;
    }
}

/// Puts random ones of the keys again and again.
#[derive(Debug)]
pub struct Overwrite {
    head: RequestHead,
    keys: Keys,
    content: Content,
    random: Random,
    generation: u64,
    left: u64,
    stop: Stop,
    timeline: Option<Timeline>,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Overwrite {
    /// Puts until `stop` is asked.
    pub fn new(keys: Keys, content: Content, seed: u64, stop: &Stop) -> Self {
        Self {
            head: RequestHead::new(message::PUT),
            keys,
            content,
            random: Random::new(seed),
            generation: 0,
            left: u64::MAX,
            stop: stop.clone(),
            timeline: None,
            key: Vec::new(),
            value: Vec::new(),
        }
    }

    /// Ends after `count` puts at the latest.
    #[must_use]
    pub fn at_most(mut self, count: u64) -> Self {
        self.left = count;
        self
    }

    /// Keeps what happened when.
    #[must_use]
    pub fn with_timeline(mut self, timeline: Timeline) -> Self {
        self.timeline = Some(timeline);
        self
    }

    /// What happened when, empty if it was not kept.
    pub fn into_timeline(self) -> Timeline {
        self.timeline.unwrap_or_default()
    }
}

impl Calls for Overwrite {
    fn head(&self) -> &RequestHead {
        &self.head
    }

    fn next(&mut self, _slot: usize, request: &mut Vec<u8>) -> bool {
        if self.left == 0 || self.stop.is_asked() {
            return false;
        }
        self.left -= 1;
        self.generation += 1;
        let index = self.random.below(self.keys.count);
        self.keys.name(index, &mut self.key);
        self.content.write(index, self.generation, &mut self.value);
        message::put(&self.key, &self.value, request);
        true
    }

    fn judge(&mut self, _slot: usize, body: &[u8]) -> Verdict {
        match message::read_put(body) {
            Some(answer) if answer.revision > 0 => Verdict::Done,
            _ => Verdict::Wrong,
        }
    }

    fn timed(&mut self, due: Instant, latency: Duration) {
        if let Some(timeline) = &mut self.timeline {
            timeline.record(due, latency);
        }
    }
}

/// Reads random keys and checks what they hold.
#[derive(Debug)]
pub struct Verify {
    head: RequestHead,
    keys: Keys,
    content: Content,
    random: Random,
    left: u64,
    stop: Stop,
    current: Vec<u64>,
    key: Vec<u8>,
    expected: Vec<u8>,
}

impl Verify {
    /// Reads until `stop` is asked, at most `slots` keys at once.
    pub fn new(keys: Keys, content: Content, seed: u64, slots: usize, stop: &Stop) -> Self {
        Self {
            head: RequestHead::new(message::RANGE),
            keys,
            content,
            random: Random::new(seed),
            left: u64::MAX,
            stop: stop.clone(),
            current: vec![0; slots],
            key: Vec::new(),
            expected: Vec::new(),
        }
    }

    /// Ends after `count` reads at the latest.
    #[must_use]
    pub fn at_most(mut self, count: u64) -> Self {
        self.left = count;
        self
    }
}

impl Calls for Verify {
    fn head(&self) -> &RequestHead {
        &self.head
    }

    fn next(&mut self, slot: usize, request: &mut Vec<u8>) -> bool {
        if self.left == 0 || self.stop.is_asked() {
            return false;
        }
        self.left -= 1;
        let index = self.random.below(self.keys.count);
        self.current[slot] = index;
        self.keys.name(index, &mut self.key);
        message::range(&self.key, false, request);
        true
    }

    fn judge(&mut self, slot: usize, body: &[u8]) -> Verdict {
        let index = self.current[slot];
        match message::first_value(body) {
            Some(value) if self.content.fits(index, value, &mut self.expected) => Verdict::Done,
            _ => Verdict::Wrong,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Naming;

    const KEYS: Keys = Keys {
        naming: Naming::Sequential,
        count: 10,
    };
    const CONTENT: Content = Content { bytes: 16, seed: 1 };

    #[test]
    fn a_fill_ends_after_every_key_and_after_a_failure() {
        let calls = |batch: u64, fails_after: usize| {
            let mut fill = Fill::new(KEYS, CONTENT, batch);
            let mut request = Vec::new();
            let mut calls = 0;
            while fill.next(0, &mut request) {
                calls += 1;
                if calls == fails_after {
                    fill.refused();
                }
            }
            calls
        };
        assert_eq!(calls(1, usize::MAX), 10);
        assert_eq!(calls(4, usize::MAX), 3);
        assert_eq!(calls(1, 2), 2);
    }

    #[test]
    fn a_wrong_value_is_noticed() {
        let mut verify = Verify::new(KEYS, CONTENT, 1, 1, &Stop::default());
        assert!(verify.next(0, &mut Vec::new()));
        let index = verify.current[0];
        let mut value = Vec::new();
        CONTENT.write(index, 5, &mut value);
        // kvs { key: "k", value }
        let mut body = b"\0\0\0\0\0\x12\x15\x0a\x01k\x2a\x10".to_vec();
        body.extend_from_slice(&value);
        assert_eq!(verify.judge(0, &body), Verdict::Done);
        *body.last_mut().unwrap() ^= 1;
        assert_eq!(verify.judge(0, &body), Verdict::Wrong);
        assert_eq!(verify.judge(0, b"\0\0\0\0\0"), Verdict::Wrong);
    }
}
