//! What is known about the entries after the checkpoint: terms, what was submitted, what is durable.
//!
//! Owns the rule that makes acknowledgements safe: only the contiguous durable prefix of the **current**
//! log counts, and a completion counts only for entries that are still the ones it wrote. It keeps runs of
//! terms, not entries, so its size does not grow with the log.

use crate::entry::{Index, Term};
use crate::planted::{Bug, planted};

/// One submitted record that has entries.
#[derive(Clone, Copy, Debug)]
struct Flight {
    wseq: u64,
    first: Index,
    /// Last entry that is still the one this record carries; falls with a truncation.
    last: Index,
    /// Last entry at submission; read only by a planted bug.
    last_submitted: Index,
    landed: bool,
}

/// Invariants: `base ≤ durable ≤ submitted ≤ last`; `runs` cover `(base, last]` with rising first indexes;
/// no flight reaches beyond `submitted`.
#[derive(Debug)]
pub(crate) struct Tail {
    base: Index,
    base_term: Term,
    runs: Vec<(Index, Term)>,
    last: Index,
    submitted: Index,
    durable: Index,
    flights: Vec<Flight>,
}

impl Tail {
    /// An empty log after `base`.
    pub(crate) fn new(base: Index, base_term: Term) -> Tail {
        Tail {
            base,
            base_term,
            runs: Vec::new(),
            last: base,
            submitted: base,
            durable: base,
            flights: Vec::new(),
        }
    }

    /// Takes what recovery found: present, submitted and durable.
    pub(crate) fn restore(&mut self, index: Index, term: Term) {
        self.push(index, term);
        self.submitted = index;
        self.durable = index;
    }

    pub(crate) fn base(&self) -> Index {
        self.base
    }

    pub(crate) fn last(&self) -> Index {
        self.last
    }

    pub(crate) fn submitted(&self) -> Index {
        self.submitted
    }

    /// End of the contiguous durable prefix.
    pub(crate) fn durable(&self) -> Index {
        if planted(Bug::AcknowledgePastHole) {
            let landed = self.flights.iter().filter(|flight| flight.landed);
            return landed
                .map(|flight| flight.last)
                .fold(self.durable, Index::max);
        }
        self.durable
    }

    /// Term of an entry in `[base, last]`.
    pub(crate) fn term_at(&self, index: Index) -> Term {
        assert!(index >= self.base, "{index} is below {}", self.base);
        assert!(index <= self.last, "{index} is above {}", self.last);
        if index == self.base {
            return self.base_term;
        }
        let run = self.runs.partition_point(|(first, _)| *first <= index);
        self.runs[run - 1].1
    }

    /// Appends the next entry.
    pub(crate) fn push(&mut self, index: Index, term: Term) {
        assert_eq!(index, self.last.next(), "entries are contiguous");
        self.last = index;
        if self.runs.last().is_none_or(|(_, last)| *last != term) {
            self.runs.push((index, term));
        }
    }

    /// Drops every entry from `from` on. Completions of records that carried them no longer count for them.
    pub(crate) fn truncate(&mut self, from: Index) {
        assert!(from > self.base, "{from} is not above {}", self.base);
        let end = from.previous();
        self.last = self.last.min(end);
        self.submitted = self.submitted.min(end);
        self.durable = self.durable.min(end);
        while self.runs.last().is_some_and(|(first, _)| *first > end) {
            self.runs.pop();
        }
        for flight in &mut self.flights {
            flight.last = flight.last.min(end);
        }
    }

    /// The next entries up to `last` went out in record `wseq`.
    pub(crate) fn submit(&mut self, wseq: u64, last: Index) {
        let first = self.submitted.next();
        assert!(last >= first, "an empty group");
        assert!(last <= self.last, "{last} is above {}", self.last);
        self.submitted = last;
        self.flights.push(Flight {
            wseq,
            first,
            last,
            last_submitted: last,
            landed: false,
        });
    }

    /// Record `wseq` is durable.
    pub(crate) fn complete(&mut self, wseq: u64) {
        for flight in &mut self.flights {
            if flight.wseq == wseq {
                flight.landed = true;
                if planted(Bug::StaleCompletion) {
                    flight.last = flight.last_submitted.min(self.submitted);
                }
            }
        }
        // Few records are in flight, so looking through all of them each time is the cheapest way.
        while let Some(flight) = self.flights.iter().find(|flight| {
            flight.landed && flight.first <= self.durable.next() && flight.last > self.durable
        }) {
            self.durable = flight.last;
        }
        let durable = self.durable;
        self.flights.retain(|flight| {
            !(flight.landed && (flight.last <= durable || flight.last < flight.first))
        });
    }

    /// Everything up to `index` is contained in a durable image: the log starts after it.
    pub(crate) fn rebase(&mut self, index: Index, term: Term) {
        if index <= self.base {
            return;
        }
        assert!(index <= self.last, "{index} is above {}", self.last);
        let reaches = self
            .runs
            .partition_point(|(first, _)| *first <= index.next());
        self.runs.drain(..reaches.saturating_sub(1));
        self.base = index;
        self.base_term = term;
        self.submitted = self.submitted.max(index);
        self.durable = self.durable.max(index);
        if self.last == index {
            self.runs.clear();
        }
        self.complete(0);
    }

    /// Tests call this after every step.
    pub(crate) fn check(&self) {
        assert!(self.base <= self.durable);
        assert!(self.durable <= self.submitted);
        assert!(self.submitted <= self.last);
        assert!(self.runs.windows(2).all(|pair| pair[0].0 < pair[1].0));
        for flight in &self.flights {
            assert!(flight.last <= self.submitted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(terms: &[u64]) -> Tail {
        let mut tail = Tail::new(Index(0), Term(0));
        for (position, term) in terms.iter().enumerate() {
            tail.push(Index(position as u64 + 1), Term(*term));
        }
        tail
    }

    #[test]
    fn only_the_contiguous_prefix_counts() {
        let mut tail = tail(&[1, 1, 1, 2]);
        tail.submit(10, Index(2));
        tail.submit(11, Index(4));
        tail.complete(11);
        assert_eq!(tail.durable(), Index(0));
        tail.complete(10);
        assert_eq!(tail.durable(), Index(4));
        tail.check();
    }

    #[test]
    fn stale_completion_counts_nothing() {
        let mut tail = tail(&[1, 1, 1]);
        tail.submit(10, Index(3));
        tail.truncate(Index(2));
        tail.push(Index(2), Term(2));
        tail.push(Index(3), Term(2));
        tail.submit(11, Index(3));
        tail.complete(10);
        assert_eq!(tail.durable(), Index(1));
        tail.complete(11);
        assert_eq!(tail.durable(), Index(3));
        assert_eq!(tail.term_at(Index(1)), Term(1));
        assert_eq!(tail.term_at(Index(3)), Term(2));
        tail.check();
    }

    #[test]
    fn rebase_keeps_terms_above() {
        let mut tail = tail(&[1, 1, 2, 2, 3]);
        tail.submit(1, Index(5));
        tail.rebase(Index(3), Term(2));
        assert_eq!(tail.term_at(Index(3)), Term(2));
        assert_eq!(tail.term_at(Index(4)), Term(2));
        assert_eq!(tail.term_at(Index(5)), Term(3));
        assert_eq!(tail.durable(), Index(3));
        tail.complete(1);
        assert_eq!(tail.durable(), Index(5));
        tail.rebase(Index(5), Term(3));
        assert_eq!(tail.term_at(Index(5)), Term(3));
        tail.check();
    }
}
