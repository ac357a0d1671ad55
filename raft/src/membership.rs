//! Who the members are, and how a change of membership turns one configuration into the next.
//!
//! Owns the rules of a change; it does not know when a change may be proposed (`node`). A change
//! takes effect when its entry is applied.
//!
//! ```text
//!   plain ──simple (at most one voter differs)──▶ plain
//!   plain ──enter──▶ joint: incoming && outgoing ──leave──▶ plain
//! ```
//!
//! Source: Raft thesis §4.3 (arbitrary changes through joint consensus).

use std::fmt;

use crate::progress::{Progress, ProgressTable};
use crate::quorum::Joint;
use crate::types::{LogIndex, MemberId};

/// The members and their parts.
///
/// Invariants: learners are no voters of either half; a member of `learners_next` votes in the
/// outgoing half; `learners_next` and `auto_leave` are empty outside a joint configuration.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Configuration {
    /// Who decides.
    pub voters: Joint,
    /// Who only receives; ascending.
    pub learners: Vec<MemberId>,
    /// Voters of the outgoing half that become learners when it is left; ascending.
    pub learners_next: Vec<MemberId>,
    /// The leader leaves the joint configuration by itself once it is applied.
    pub auto_leave: bool,
}

impl Configuration {
    /// A plain configuration.
    #[must_use]
    pub fn new(voters: &[MemberId], learners: &[MemberId]) -> Configuration {
        let mut learners = learners.to_vec();
        learners.sort_unstable();
        learners.dedup();
        Configuration {
            voters: Joint {
                incoming: crate::quorum::Majority::new(voters),
                ..Joint::default()
            },
            learners,
            ..Configuration::default()
        }
    }

    /// True during a change that needs two majorities.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.voters.outgoing.is_empty()
    }

    /// True if `member` is part of it in any way.
    #[must_use]
    pub fn contains(&self, member: MemberId) -> bool {
        self.voters.contains(member) || self.learners.binary_search(&member).is_ok()
    }

    /// True if `member` is the only one that has a vote.
    #[must_use]
    pub fn is_sole_voter(&self, member: MemberId) -> bool {
        self.voters.incoming.voters() == [member] && self.voters.outgoing.is_empty()
    }

    /// Panics if an invariant does not hold.
    pub fn check(&self) {
        for learner in &self.learners {
            assert!(!self.voters.contains(*learner), "{learner} in {self}");
        }
        for next in &self.learners_next {
            assert!(self.voters.outgoing.contains(*next), "{next} in {self}");
            assert!(!self.learners.contains(next), "{next} in {self}");
        }
        if !self.is_joint() {
            assert!(self.learners_next.is_empty(), "learners_next in {self}");
            assert!(!self.auto_leave, "auto_leave in {self}");
        }
    }
}

struct Ids<'a>(&'a [MemberId]);

impl fmt::Display for Ids<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(")?;
        for (place, id) in self.0.iter().enumerate() {
            if place > 0 {
                write!(f, " ")?;
            }
            write!(f, "{}", id.0)?;
        }
        write!(f, ")")
    }
}

/// The form of etcd's log lines.
impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "voters={}", Ids(self.voters.incoming.voters()))?;
        if self.is_joint() {
            write!(f, "&&{}", Ids(self.voters.outgoing.voters()))?;
        }
        if !self.learners.is_empty() {
            write!(f, " learners={}", Ids(&self.learners))?;
        }
        if !self.learners_next.is_empty() {
            write!(f, " learners_next={}", Ids(&self.learners_next))?;
        }
        if self.auto_leave {
            write!(f, " autoleave")?;
        }
        Ok(())
    }
}

/// What happens to one member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ChangeKind {
    /// It votes.
    AddVoter = 0,
    /// It is no member any more.
    Remove = 1,
    /// Data about it changes, its part does not.
    Update = 2,
    /// It receives and has no vote.
    AddLearner = 3,
}

/// One step of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// What.
    pub kind: ChangeKind,
    /// To whom; changes of member 0 are ignored.
    pub member: MemberId,
}

/// Whether a change goes through a joint configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Transition {
    /// Only if more than one member changes; left automatically.
    #[default]
    Auto = 0,
    /// Always; left automatically.
    JointImplicit = 1,
    /// Always; left by an empty change.
    JointExplicit = 2,
}

/// A change of the membership, as proposed and logged.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ConfChange {
    /// How.
    pub transition: Transition,
    /// What; none leaves a joint configuration.
    pub changes: Vec<Change>,
}

/// Why the bytes of a logged change cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConfChangeCorrupt {
    /// Offset of the field.
    pub offset_bytes: usize,
    /// What is wrong with it.
    pub what: &'static str,
}

impl fmt::Display for ConfChangeCorrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "membership change: {} at byte {}",
            self.what, self.offset_bytes
        )
    }
}

impl std::error::Error for ConfChangeCorrupt {}

/// Bound of the steps in one change.
pub const CHANGES_MAX: usize = 1024;
const CHANGE_BYTES: usize = 9;
const FORMAT: u8 = 1;

impl ConfChange {
    /// A change of one member.
    #[must_use]
    pub fn single(kind: ChangeKind, member: MemberId) -> ConfChange {
        ConfChange {
            transition: Transition::Auto,
            changes: vec![Change { kind, member }],
        }
    }

    /// True if it leaves a joint configuration.
    #[must_use]
    pub fn leaves_joint(&self) -> bool {
        self.transition == Transition::Auto && self.changes.is_empty()
    }

    /// If it enters a joint configuration: whether that is left automatically.
    #[must_use]
    pub fn enters_joint(&self) -> Option<bool> {
        if self.transition == Transition::Auto && self.changes.len() <= 1 {
            return None;
        }
        Some(self.transition != Transition::JointExplicit)
    }

    /// The payload of its entry; empty for the plain leave. Layout: `docs/internals/consensus.md`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.changes.len() <= CHANGES_MAX, "too many changes");
        if self.leaves_joint() {
            return Vec::new();
        }
        let mut bytes = vec![FORMAT, self.transition as u8];
        bytes.extend_from_slice(&(self.changes.len() as u16).to_le_bytes());
        for change in &self.changes {
            bytes.push(change.kind as u8);
            bytes.extend_from_slice(&change.member.0.to_le_bytes());
        }
        bytes
    }

    /// Reads the payload of an entry.
    ///
    /// # Errors
    /// `ConfChangeCorrupt` for anything `encode` does not write.
    pub fn decode(bytes: &[u8]) -> Result<ConfChange, ConfChangeCorrupt> {
        let corrupt = |offset_bytes, what| Err(ConfChangeCorrupt { offset_bytes, what });
        if bytes.is_empty() {
            return Ok(ConfChange::default());
        }
        let Some((head, body)) = bytes.split_first_chunk::<4>() else {
            return corrupt(bytes.len(), "short header");
        };
        if head[0] != FORMAT {
            return corrupt(0, "unknown format");
        }
        let transition = match head[1] {
            0 => Transition::Auto,
            1 => Transition::JointImplicit,
            2 => Transition::JointExplicit,
            _ => return corrupt(1, "unknown transition"),
        };
        let count = usize::from(u16::from_le_bytes([head[2], head[3]]));
        if count > CHANGES_MAX || body.len() != count * CHANGE_BYTES {
            return corrupt(2, "count does not fit the length");
        }
        let mut changes = Vec::with_capacity(count);
        for (place, step) in body.chunks_exact(CHANGE_BYTES).enumerate() {
            let kind = match step[0] {
                0 => ChangeKind::AddVoter,
                1 => ChangeKind::Remove,
                2 => ChangeKind::Update,
                3 => ChangeKind::AddLearner,
                _ => return corrupt(4 + place * CHANGE_BYTES, "unknown step"),
            };
            let mut id = [0; 8];
            id.copy_from_slice(&step[1..]);
            changes.push(Change {
                kind,
                member: MemberId(u64::from_le_bytes(id)),
            });
        }
        let change = ConfChange {
            transition,
            changes,
        };
        if change.leaves_joint() {
            return corrupt(2, "a leave is written as no bytes");
        }
        Ok(change)
    }
}

/// Why a change cannot be made. The configuration is unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChangeError {
    /// A joint configuration is not left yet.
    AlreadyJoint,
    /// A simple change during a joint configuration.
    SimpleWhileJoint,
    /// Nothing to leave.
    NotJoint,
    /// A joint configuration whose outgoing half would be empty.
    NoVoters,
    /// More than one voter would change in one step.
    TooManyVoters,
    /// Nobody would vote.
    RemovedAllVoters,
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ChangeError::AlreadyJoint => "config is already joint",
            ChangeError::SimpleWhileJoint => "can't apply simple config change in joint config",
            ChangeError::NotJoint => "can't leave a non-joint config",
            ChangeError::NoVoters => "can't make a zero-voter config joint",
            ChangeError::TooManyVoters => {
                "more than one voter changed without entering joint config"
            }
            ChangeError::RemovedAllVoters => "removed all voters",
        })
    }
}

impl std::error::Error for ChangeError {}

/// The membership and what the leader knows about each member, changed together.
///
/// Invariant: exactly the members of the configuration have a progress, and it says "learner"
/// for exactly the learners.
#[derive(Clone, Debug)]
pub struct Membership {
    /// The configuration in force.
    pub configuration: Configuration,
    /// One entry per member.
    pub progress: ProgressTable,
    in_flight_messages_max: usize,
    in_flight_bytes_max: u64,
}

impl Membership {
    /// The membership of `configuration`; every member is to be probed before `next`.
    #[must_use]
    pub fn new(
        configuration: Configuration,
        next: LogIndex,
        in_flight_messages_max: usize,
        in_flight_bytes_max: u64,
    ) -> Membership {
        let mut membership = Membership {
            configuration,
            progress: ProgressTable::default(),
            in_flight_messages_max,
            in_flight_bytes_max,
        };
        let voters: Vec<MemberId> = membership.configuration.voters.voters().collect();
        for voter in voters {
            membership.track(voter, next, false);
        }
        for learner in membership.configuration.learners.clone() {
            membership.track(learner, next, true);
        }
        membership
    }

    /// Applies a logged change; new members are probed before `next`.
    ///
    /// # Errors
    /// `ChangeError`; nothing has changed.
    pub fn apply(&mut self, change: &ConfChange, next: LogIndex) -> Result<(), ChangeError> {
        if change.leaves_joint() {
            self.leave_joint()
        } else if let Some(auto_leave) = change.enters_joint() {
            self.enter_joint(auto_leave, &change.changes, next)
        } else {
            self.simple(&change.changes, next)
        }
    }

    /// Changes at most one voter and any number of learners.
    ///
    /// # Errors
    /// `ChangeError`; nothing has changed.
    pub fn simple(&mut self, changes: &[Change], next: LogIndex) -> Result<(), ChangeError> {
        if self.configuration.is_joint() {
            return Err(ChangeError::SimpleWhileJoint);
        }
        let mut changed = self.clone();
        changed.take(changes, next)?;
        let before = &self.configuration.voters.incoming;
        let after = &changed.configuration.voters.incoming;
        let left = before.voters().iter().filter(|id| !after.contains(**id));
        let joined = after.voters().iter().filter(|id| !before.contains(**id));
        if left.count() + joined.count() > 1 {
            return Err(ChangeError::TooManyVoters);
        }
        *self = changed;
        Ok(())
    }

    /// Makes the present voters the outgoing half and changes the incoming one.
    ///
    /// # Errors
    /// `ChangeError`; nothing has changed.
    pub fn enter_joint(
        &mut self,
        auto_leave: bool,
        changes: &[Change],
        next: LogIndex,
    ) -> Result<(), ChangeError> {
        if self.configuration.is_joint() {
            return Err(ChangeError::AlreadyJoint);
        }
        if self.configuration.voters.incoming.is_empty() {
            return Err(ChangeError::NoVoters);
        }
        let mut changed = self.clone();
        changed.configuration.voters.outgoing = changed.configuration.voters.incoming.clone();
        changed.take(changes, next)?;
        changed.configuration.auto_leave = auto_leave;
        *self = changed;
        Ok(())
    }

    /// Drops the outgoing half.
    ///
    /// # Errors
    /// `NotJoint`.
    pub fn leave_joint(&mut self) -> Result<(), ChangeError> {
        if !self.configuration.is_joint() {
            return Err(ChangeError::NotJoint);
        }
        let outgoing = std::mem::take(&mut self.configuration.voters.outgoing);
        for learner in std::mem::take(&mut self.configuration.learners_next) {
            self.set_learner(learner);
        }
        for member in outgoing.voters() {
            if !self.configuration.contains(*member) {
                self.progress.remove(*member);
            }
        }
        self.configuration.auto_leave = false;
        Ok(())
    }

    fn take(&mut self, changes: &[Change], next: LogIndex) -> Result<(), ChangeError> {
        for change in changes.iter().filter(|change| change.member.0 != 0) {
            match change.kind {
                ChangeKind::AddVoter => self.add_voter(change.member, next),
                ChangeKind::AddLearner => self.add_learner(change.member, next),
                ChangeKind::Remove => self.remove(change.member),
                ChangeKind::Update => {}
            }
        }
        if self.configuration.voters.incoming.is_empty() {
            return Err(ChangeError::RemovedAllVoters);
        }
        Ok(())
    }

    fn track(&mut self, member: MemberId, next: LogIndex, is_learner: bool) {
        let progress = Progress::new(
            LogIndex(next.0.max(1)),
            is_learner,
            self.in_flight_messages_max,
            self.in_flight_bytes_max,
        );
        self.progress.insert(member, progress);
    }

    fn add_voter(&mut self, member: MemberId, next: LogIndex) {
        match self.progress.of_mut(member) {
            None => self.track(member, next, false),
            Some(progress) => progress.is_learner = false,
        }
        remove_sorted(&mut self.configuration.learners, member);
        remove_sorted(&mut self.configuration.learners_next, member);
        self.configuration.voters.incoming.insert(member);
    }

    fn add_learner(&mut self, member: MemberId, next: LogIndex) {
        if self.progress.of(member).is_none() {
            self.track(member, next, true);
            insert_sorted(&mut self.configuration.learners, member);
            return;
        }
        self.configuration.voters.incoming.remove(member);
        if self.configuration.voters.outgoing.contains(member) {
            // It keeps its vote in the outgoing half until that is left.
            insert_sorted(&mut self.configuration.learners_next, member);
        } else {
            self.set_learner(member);
        }
    }

    fn set_learner(&mut self, member: MemberId) {
        insert_sorted(&mut self.configuration.learners, member);
        if let Some(progress) = self.progress.of_mut(member) {
            progress.is_learner = true;
        }
    }

    fn remove(&mut self, member: MemberId) {
        self.configuration.voters.incoming.remove(member);
        remove_sorted(&mut self.configuration.learners, member);
        remove_sorted(&mut self.configuration.learners_next, member);
        if !self.configuration.voters.outgoing.contains(member) {
            self.progress.remove(member);
        }
    }

    /// Panics if an invariant does not hold.
    pub fn check(&self) {
        self.configuration.check();
        for (member, progress) in self.progress.iter() {
            assert!(self.configuration.contains(member), "progress of {member}");
            let learns = self.configuration.learners.contains(&member);
            assert_eq!(learns, progress.is_learner, "part of {member}");
            progress.check();
        }
        let members =
            self.configuration.voters.voters().count() + self.configuration.learners.len();
        assert_eq!(members, self.progress.count(), "members with a progress");
    }
}

fn insert_sorted(list: &mut Vec<MemberId>, member: MemberId) {
    if let Err(place) = list.binary_search(&member) {
        list.insert(place, member);
    }
}

fn remove_sorted(list: &mut Vec<MemberId>, member: MemberId) {
    if let Ok(place) = list.binary_search(&member) {
        list.remove(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn a_change_reads_back_and_garbage_does_not() {
        let change = ConfChange {
            transition: Transition::JointExplicit,
            changes: vec![
                Change {
                    kind: ChangeKind::AddLearner,
                    member: MemberId(7),
                },
                Change {
                    kind: ChangeKind::Remove,
                    member: MemberId(u64::MAX),
                },
            ],
        };
        let bytes = change.encode();
        assert_eq!(ConfChange::decode(&bytes), Ok(change));
        assert_eq!(ConfChange::decode(&[]), Ok(ConfChange::default()));
        for cut in 1..bytes.len() {
            assert!(ConfChange::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let mut random = Random::new(1);
        for _ in 0..20_000 {
            let mut damaged = bytes.clone();
            let place = random.below(damaged.len() as u64) as usize;
            damaged[place] ^= 1 << random.below(8);
            if let Ok(read) = ConfChange::decode(&damaged) {
                assert_eq!(read.encode(), damaged, "one change, two encodings");
            }
        }
    }

    #[test]
    fn random_changes_keep_the_invariants() {
        let mut random = Random::new(3);
        for _ in 0..200 {
            let start = Configuration::new(&[MemberId(1)], &[]);
            let mut membership = Membership::new(start, LogIndex(1), 4, 100);
            for step in 0..50 {
                let changes: Vec<Change> = (0..random.below(4))
                    .map(|_| Change {
                        kind: [
                            ChangeKind::AddVoter,
                            ChangeKind::AddLearner,
                            ChangeKind::Remove,
                        ][random.below(3) as usize],
                        member: MemberId(random.below(6)),
                    })
                    .collect();
                let transition = [
                    Transition::Auto,
                    Transition::JointImplicit,
                    Transition::JointExplicit,
                ][random.below(3) as usize];
                let change = ConfChange {
                    transition,
                    changes,
                };
                let before = membership.configuration.clone();
                if membership.apply(&change, LogIndex(step)).is_err() {
                    assert_eq!(
                        before, membership.configuration,
                        "a refusal changes nothing"
                    );
                }
                membership.check();
            }
        }
    }
}
