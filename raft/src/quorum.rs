//! Majorities and pairs of majorities: who has won, and what is committed.
//!
//! Owns the arithmetic only; it knows neither terms nor logs. An empty majority agrees with
//! everything, which is what makes a joint configuration with one empty half a plain one.

use crate::types::{LogIndex, MemberId};

/// The outcome of counting votes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VoteResult {
    /// More answers decide.
    Pending,
    /// No quorum is possible any more.
    Lost,
    /// A quorum said yes.
    Won,
}

/// Groups up to this size are counted without allocation.
const INLINE_VOTERS_MAX: usize = 16;

/// A set of voters of which more than half decide.
///
/// Invariant: sorted, without duplicates, without member 0.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Majority {
    voters: Vec<MemberId>,
}

impl Majority {
    /// The majority of `voters`, in any order.
    #[must_use]
    pub fn new(voters: &[MemberId]) -> Majority {
        let mut voters = voters.to_vec();
        voters.sort_unstable();
        voters.dedup();
        Majority { voters }
    }

    /// The voters in ascending order.
    #[must_use]
    pub fn voters(&self) -> &[MemberId] {
        &self.voters
    }

    /// True if nobody votes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.voters.is_empty()
    }

    /// True if `member` votes.
    #[must_use]
    pub fn contains(&self, member: MemberId) -> bool {
        self.voters.binary_search(&member).is_ok()
    }

    /// How many are needed; 0 if nobody votes.
    #[must_use]
    pub fn quorum(&self) -> usize {
        if self.voters.is_empty() {
            0
        } else {
            self.voters.len() / 2 + 1
        }
    }

    pub(crate) fn insert(&mut self, member: MemberId) {
        if let Err(place) = self.voters.binary_search(&member) {
            self.voters.insert(place, member);
        }
    }

    pub(crate) fn remove(&mut self, member: MemberId) {
        if let Ok(place) = self.voters.binary_search(&member) {
            self.voters.remove(place);
        }
    }

    /// The highest index that a quorum has reached; `None` (everything) if nobody votes.
    ///
    /// `reached` gives what a voter has, 0 if nothing is known.
    pub fn committed(&self, mut reached: impl FnMut(MemberId) -> LogIndex) -> Option<LogIndex> {
        if self.voters.is_empty() {
            return None;
        }
        let mut inline = [LogIndex(0); INLINE_VOTERS_MAX];
        let mut spilled = Vec::new();
        let slots: &mut [LogIndex] = if self.voters.len() <= INLINE_VOTERS_MAX {
            &mut inline[..self.voters.len()]
        } else {
            spilled.resize(self.voters.len(), LogIndex(0));
            &mut spilled
        };
        for (slot, voter) in slots.iter_mut().zip(&self.voters) {
            *slot = reached(*voter);
        }
        slots.sort_unstable();
        // Ascending: the quorum-th from the end has a quorum at or above it.
        Some(slots[slots.len() - self.quorum()])
    }

    /// Counts votes; `vote` gives what a voter answered, if it did.
    pub fn vote(&self, mut vote: impl FnMut(MemberId) -> Option<bool>) -> VoteResult {
        let (mut yes, mut missing) = (0, 0);
        for voter in &self.voters {
            match vote(*voter) {
                Some(true) => yes += 1,
                Some(false) => {}
                None => missing += 1,
            }
        }
        if yes >= self.quorum() {
            VoteResult::Won
        } else if yes + missing >= self.quorum() {
            VoteResult::Pending
        } else {
            VoteResult::Lost
        }
    }
}

/// Two majorities that both have to agree while the membership changes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Joint {
    /// The configuration that stays.
    pub incoming: Majority,
    /// The configuration that is being left; empty outside a joint change.
    pub outgoing: Majority,
}

impl Joint {
    /// True if `member` votes in either half.
    #[must_use]
    pub fn contains(&self, member: MemberId) -> bool {
        self.incoming.contains(member) || self.outgoing.contains(member)
    }

    /// The voters of both halves in ascending order, each once.
    pub fn voters(&self) -> impl Iterator<Item = MemberId> + '_ {
        let (mut left, mut right) = (self.incoming.voters(), self.outgoing.voters());
        std::iter::from_fn(move || {
            let next = match (left.first(), right.first()) {
                (Some(a), Some(b)) => *a.min(b),
                (Some(a), None) => *a,
                (None, Some(b)) => *b,
                (None, None) => return None,
            };
            if left.first() == Some(&next) {
                left = &left[1..];
            }
            if right.first() == Some(&next) {
                right = &right[1..];
            }
            Some(next)
        })
    }

    /// The highest index that quorums of both halves have reached; `None` if both are empty.
    pub fn committed(&self, mut reached: impl FnMut(MemberId) -> LogIndex) -> Option<LogIndex> {
        let incoming = self.incoming.committed(&mut reached);
        let outgoing = self.outgoing.committed(&mut reached);
        match (incoming, outgoing) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, None) => one,
            (None, other) => other,
        }
    }

    /// Won if both halves are won, lost if either is lost.
    pub fn vote(&self, mut vote: impl FnMut(MemberId) -> Option<bool>) -> VoteResult {
        let incoming = self.incoming.vote(&mut vote);
        let outgoing = self.outgoing.vote(&mut vote);
        match (incoming, outgoing) {
            (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
            (VoteResult::Won, VoteResult::Won) => VoteResult::Won,
            _ => VoteResult::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    /// By definition: the highest value that more than half of the voters have reached.
    fn naive_committed(voters: &[(MemberId, LogIndex)]) -> Option<LogIndex> {
        voters
            .iter()
            .map(|(_, candidate)| *candidate)
            .filter(|candidate| {
                let supporters = voters.iter().filter(|(_, has)| has >= candidate).count();
                supporters * 2 > voters.len()
            })
            .max()
            .or((!voters.is_empty()).then_some(LogIndex(0)))
    }

    /// By definition: try every way in which the missing votes can fall.
    fn naive_vote(votes: &[Option<bool>]) -> VoteResult {
        if votes.is_empty() {
            return VoteResult::Won;
        }
        let missing: Vec<usize> = (0..votes.len()).filter(|i| votes[*i].is_none()).collect();
        let (mut can_win, mut can_lose) = (false, false);
        for world in 0..1_u32 << missing.len() {
            let mut filled = votes.to_vec();
            for (bit, place) in missing.iter().enumerate() {
                filled[*place] = Some(world >> bit & 1 == 1);
            }
            let yes = filled.iter().filter(|vote| **vote == Some(true)).count();
            if yes * 2 > votes.len() {
                can_win = true;
            } else {
                can_lose = true;
            }
        }
        match (can_win, can_lose) {
            (true, false) => VoteResult::Won,
            (false, _) => VoteResult::Lost,
            (true, true) => VoteResult::Pending,
        }
    }

    fn draw_majority(random: &mut Random) -> Majority {
        let count = random.below(10) as usize;
        let voters: Vec<MemberId> = (0..count).map(|_| MemberId(1 + random.below(12))).collect();
        Majority::new(&voters)
    }

    #[test]
    fn agrees_with_the_definition() {
        let mut random = Random::new(7);
        for _ in 0..50_000 {
            let joint = Joint {
                incoming: draw_majority(&mut random),
                outgoing: draw_majority(&mut random),
            };
            let reached: Vec<LogIndex> = (0..13).map(|_| LogIndex(random.below(6))).collect();
            let votes: Vec<Option<bool>> = (0..13)
                .map(|_| [None, Some(true), Some(false)][random.below(3) as usize])
                .collect();
            let mut halves = Vec::new();
            let mut results = Vec::new();
            for half in [&joint.incoming, &joint.outgoing] {
                let pairs: Vec<(MemberId, LogIndex)> = half
                    .voters()
                    .iter()
                    .map(|voter| (*voter, reached[voter.0 as usize]))
                    .collect();
                let expected = naive_committed(&pairs);
                assert_eq!(half.committed(|id| reached[id.0 as usize]), expected);
                halves.push(expected);
                let cast: Vec<Option<bool>> = half
                    .voters()
                    .iter()
                    .map(|voter| votes[voter.0 as usize])
                    .collect();
                let expected = naive_vote(&cast);
                assert_eq!(half.vote(|id| votes[id.0 as usize]), expected);
                results.push(expected);
            }
            let both = halves.iter().flatten().min().copied();
            assert_eq!(joint.committed(|id| reached[id.0 as usize]), both);
            let result = if results.contains(&VoteResult::Lost) {
                VoteResult::Lost
            } else if results == [VoteResult::Won, VoteResult::Won] {
                VoteResult::Won
            } else {
                VoteResult::Pending
            };
            assert_eq!(joint.vote(|id| votes[id.0 as usize]), result);
        }
    }

    #[test]
    fn more_voters_than_fit_inline() {
        let voters: Vec<MemberId> = (1..=21).map(MemberId).collect();
        let majority = Majority::new(&voters);
        assert_eq!(majority.quorum(), 11);
        assert_eq!(majority.committed(|id| LogIndex(id.0)), Some(LogIndex(11)));
    }

    #[test]
    fn joint_voters_come_once_and_in_order() {
        let joint = Joint {
            incoming: Majority::new(&[MemberId(3), MemberId(1)]),
            outgoing: Majority::new(&[MemberId(2), MemberId(3)]),
        };
        let all: Vec<u64> = joint.voters().map(|id| id.0).collect();
        assert_eq!(all, [1, 2, 3]);
    }
}
