//! The log as consensus sees it: positions, kinds and lengths, no payloads.
//!
//! ```text
//!   base ──▶ first … applied ≤ commit … last
//!            first … durable        … last      (durable and commit are independent)
//! ```
//!
//! Owns which entries exist and how far they are durable, committed and applied. Does not know
//! why: all decisions are made by its caller.

use std::collections::VecDeque;

use crate::types::{EntryKind, EntryMeta, LogIndex, Position, Term};

#[derive(Clone, Copy, Debug)]
struct Slot {
    term: Term,
    bytes: u64,
    kind: EntryKind,
}

/// Entries after `base`, in memory.
///
/// Invariants:
/// - indexes are contiguous from `base.index + 1`; terms never fall;
/// - `base.index ≤ applied ≤ commit ≤ last`;
/// - `base.index ≤ durable ≤ last`.
#[derive(Clone, Debug)]
pub struct Log {
    base: Position,
    slots: VecDeque<Slot>,
    durable: LogIndex,
    commit: LogIndex,
    applied: LogIndex,
    /// A snapshot that replaces everything before `base` and is not durable yet.
    pending_snapshot: Option<Position>,
}

/// Why restored entries are no log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotALog {
    /// The first entry that does not fit.
    pub index: LogIndex,
}

impl Log {
    /// The log as found on disk: everything in it is durable.
    ///
    /// # Errors
    /// `NotALog` if entries have gaps or falling terms.
    pub fn restore(base: Position, entries: &[EntryMeta]) -> Result<Log, NotALog> {
        let mut log = Log {
            base,
            slots: VecDeque::with_capacity(entries.len().max(64)),
            durable: base.index,
            commit: base.index,
            applied: base.index,
            pending_snapshot: None,
        };
        for entry in entries {
            let last = log.last();
            if entry.index != last.index.next() || entry.term < last.term {
                return Err(NotALog { index: entry.index });
            }
            log.push(entry.term, entry.kind, entry.bytes);
        }
        log.durable = log.last().index;
        Ok(log)
    }

    /// The last entry, or the base if there is none.
    #[must_use]
    pub fn last(&self) -> Position {
        match self.slots.back() {
            Some(slot) => Position {
                index: LogIndex(self.base.index.0 + self.slots.len() as u64),
                term: slot.term,
            },
            None => self.base,
        }
    }

    /// The first index that an entry can be read at.
    #[must_use]
    pub fn first_index(&self) -> LogIndex {
        self.base.index.next()
    }

    /// The position before the first entry.
    #[must_use]
    pub fn base(&self) -> Position {
        self.base
    }

    /// End of the durable prefix.
    #[must_use]
    pub fn durable(&self) -> LogIndex {
        self.durable
    }

    /// Committed on a quorum.
    #[must_use]
    pub fn commit(&self) -> LogIndex {
        self.commit
    }

    /// In the state machine.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.applied
    }

    /// The snapshot that is being installed.
    #[must_use]
    pub fn pending_snapshot(&self) -> Option<Position> {
        self.pending_snapshot
    }

    /// How far the state machine may go: committed and durable here.
    #[must_use]
    pub fn applicable(&self) -> LogIndex {
        if self.pending_snapshot.is_some() {
            return self.applied;
        }
        self.commit.min(self.durable)
    }

    /// The term at `index`, if that is known.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        self.entry(index).map(|entry| entry.term)
    }

    /// True if the log holds exactly this entry.
    #[must_use]
    pub fn holds(&self, position: Position) -> bool {
        self.term_at(position.index) == Some(position.term)
    }

    /// The entry at `index`.
    #[must_use]
    pub fn entry(&self, index: LogIndex) -> Option<EntryMeta> {
        let offset = index.0.checked_sub(self.base.index.0 + 1)?;
        let slot = self.slots.get(usize::try_from(offset).ok()?)?;
        Some(EntryMeta {
            index,
            term: slot.term,
            kind: slot.kind,
            bytes: slot.bytes,
        })
    }

    /// True if the entry is durable and still the one in the log.
    #[must_use]
    pub fn is_durable(&self, position: Position) -> bool {
        self.pending_snapshot.is_none()
            && position.index <= self.durable
            && (position.index < self.base.index || self.holds(position))
    }

    pub(crate) fn push(&mut self, term: Term, kind: EntryKind, bytes: u64) -> Position {
        assert!(term >= self.last().term, "terms never fall");
        self.slots.push_back(Slot { term, bytes, kind });
        self.last()
    }

    /// Removes the entries from `index` on, which are not committed.
    pub(crate) fn truncate(&mut self, index: LogIndex) {
        assert!(index > self.commit, "truncation of committed entries");
        let keep = (index.0 - self.base.index.0 - 1) as usize;
        self.slots.truncate(keep);
        self.durable = self.durable.min(index.previous());
    }

    /// Notes a durable prefix; false if the report is not about this log or is old.
    pub(crate) fn set_durable(&mut self, position: Position) -> bool {
        if position.index <= self.durable || !self.holds(position) {
            return false;
        }
        self.durable = position.index;
        true
    }

    /// Raises the commit index; false if it was as high.
    pub(crate) fn set_commit(&mut self, commit: LogIndex) -> bool {
        if commit <= self.commit {
            return false;
        }
        assert!(commit <= self.last().index, "commit beyond the log");
        self.commit = commit;
        true
    }

    pub(crate) fn set_applied(&mut self, applied: LogIndex) {
        assert!(applied <= self.commit, "applied beyond commit");
        self.applied = self.applied.max(applied);
    }

    /// Forgets the entries up to `index`, which are applied.
    pub(crate) fn compact(&mut self, index: LogIndex) {
        if index <= self.base.index {
            return;
        }
        assert!(index <= self.applied, "compaction of unapplied entries");
        let term = self.term_at(index).expect("applied entries are known");
        let gone = (index.0 - self.base.index.0) as usize;
        self.slots.drain(..gone);
        self.base = Position { index, term };
        self.durable = self.durable.max(index);
    }

    /// Replaces everything by a snapshot.
    pub(crate) fn install(&mut self, position: Position) {
        assert!(position.index > self.commit, "snapshot of the past");
        self.slots.clear();
        self.base = position;
        self.durable = position.index;
        self.commit = position.index;
        self.applied = position.index;
        self.pending_snapshot = Some(position);
    }

    /// The snapshot is durable; false if another one is pending.
    pub(crate) fn installed(&mut self, position: Position) -> bool {
        if self.pending_snapshot != Some(position) {
            return false;
        }
        self.pending_snapshot = None;
        true
    }

    /// The last index at or below `index` whose term is at most `term`, and its term; the term is
    /// 0 where this log does not reach.
    ///
    /// Skips a whole term per round trip when logs disagree.
    pub(crate) fn find_conflict(&self, index: LogIndex, term: Term) -> Position {
        let mut at = index;
        loop {
            match self.term_at(at) {
                None => {
                    return Position {
                        index: at,
                        term: Term(0),
                    };
                }
                Some(own) if own <= term => {
                    return Position {
                        index: at,
                        term: own,
                    };
                }
                Some(_) if at.0 == 0 => return Position::default(),
                Some(_) => at = at.previous(),
            }
        }
    }

    /// Panics if an invariant does not hold.
    pub fn check(&self) {
        let last = self.last();
        assert!(self.base.index <= self.applied, "{self:?}");
        assert!(self.applied <= self.commit, "{self:?}");
        assert!(self.commit <= last.index, "{self:?}");
        assert!(self.base.index <= self.durable, "{self:?}");
        assert!(self.durable <= last.index, "{self:?}");
        let mut term = self.base.term;
        for slot in &self.slots {
            assert!(slot.term >= term, "terms never fall");
            term = slot.term;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(terms: &[u64]) -> Log {
        let mut log = Log::restore(Position::default(), &[]).expect("empty");
        for term in terms {
            log.push(Term(*term), EntryKind::Normal, 1);
        }
        log.check();
        log
    }

    fn at(index: u64, term: u64) -> Position {
        Position {
            index: LogIndex(index),
            term: Term(term),
        }
    }

    #[test]
    fn durability_reports_are_fenced_by_term() {
        let mut log = log(&[1, 1, 1]);
        assert!(log.set_durable(at(2, 1)));
        log.truncate(LogIndex(2));
        assert_eq!(log.durable(), LogIndex(1));
        log.push(Term(2), EntryKind::Normal, 1);
        assert!(!log.set_durable(at(2, 1)), "the old second entry");
        assert!(log.set_durable(at(2, 2)));
        assert!(!log.set_durable(at(9, 2)), "beyond the end");
        log.check();
    }

    #[test]
    fn conflicts_skip_whole_terms() {
        let log = log(&[1, 1, 4, 4, 4, 6]);
        assert_eq!(log.find_conflict(LogIndex(6), Term(5)), at(5, 4));
        assert_eq!(log.find_conflict(LogIndex(5), Term(3)), at(2, 1));
        assert_eq!(log.find_conflict(LogIndex(9), Term(3)), at(9, 0));
        assert_eq!(log.find_conflict(LogIndex(2), Term(0)), at(0, 0));
    }

    #[test]
    fn compaction_keeps_the_term_at_the_base() {
        let mut log = log(&[1, 2, 3]);
        assert!(log.set_durable(at(3, 3)));
        assert!(log.set_commit(LogIndex(3)));
        log.set_applied(LogIndex(3));
        log.compact(LogIndex(2));
        assert_eq!(log.term_at(LogIndex(2)), Some(Term(2)));
        assert_eq!(log.term_at(LogIndex(1)), None);
        assert_eq!(log.first_index(), LogIndex(3));
        log.check();
    }

    #[test]
    fn gaps_and_falling_terms_are_no_log() {
        let entry = |index, term| EntryMeta {
            index: LogIndex(index),
            term: Term(term),
            kind: EntryKind::Normal,
            bytes: 0,
        };
        let gap = [entry(1, 1), entry(3, 1)];
        let falling = [entry(1, 2), entry(2, 1)];
        for entries in [gap, falling] {
            let index = entries[1].index;
            let refused = Log::restore(Position::default(), &entries);
            assert_eq!(refused.err(), Some(NotALog { index }));
        }
    }
}
