//! Room for what a member stores: the NOSPACE alarm is raised when there is none, and cleared by the same
//! member once there is some again.
//!
//! There is none above the quota, or while the log or a shard is refused room by the disk. There is some
//! again a tenth below where it ran out, so that the alarm does not come and go with every request. An alarm
//! that a client raised stays until a client clears it.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use engine::command::{AlarmKind, Command, CommandError, TxnOperation};
use reactor::{Class, Timestamp};

use super::sequencer::WriteResponder;
use super::{Home, State, WriteError};

/// A disk that was full is taken for full so long after its last refusal; refused requests come again
/// every second.
const FULL_FOR: Duration = Duration::from_secs(4);
/// Most refused requests that wait for their alarm; more are answered at once.
const REFUSED_MAX: usize = 1024;

const NO_SPACE: WriteError = WriteError::Command(CommandError::NoSpace);

/// See the module.
#[derive(Default)]
pub(super) struct Space {
    /// When the disk last refused room.
    refused_at: Cell<Option<Timestamp>>,
    /// Bytes of the database when this member raised the alarm, or found it at its start; none: it has not.
    raised_at_bytes: Cell<Option<u64>>,
    /// An alarm is being proposed or cleared.
    proposing: Cell<bool>,
    /// Those whose refusal has raised the alarm that is being proposed.
    refused: RefCell<Vec<WriteResponder>>,
}

impl Home {
    /// Whether a command fits in, the quota and the disk being what they are.
    pub(super) fn has_room_for(&self, command: &Command) -> bool {
        let cost = growth_bytes(command);
        let quota = self.0.options.quota_bytes;
        let is_over = || quota.is_some_and(|quota| self.sizes().bytes + cost > quota);
        cost == 0 || !(self.disk_is_full() || is_over())
    }

    /// Refuses a request for which there is no room, and raises the alarm. Whoever reads the refusal finds the alarm
    /// raised, unless the disk is full: then nobody knows when the log can take it.
    pub(super) fn refuse_for_space(&self, responder: WriteResponder) {
        self.raise_no_space();
        let mut refused = self.parts.space.refused.borrow_mut();
        let is_told_soon = self.parts.space.proposing.get() && !self.disk_is_full();
        if is_told_soon && refused.len() < REFUSED_MAX {
            refused.push(responder);
        } else {
            drop(refused);
            responder.answer(Err(NO_SPACE));
        }
    }

    fn disk_is_full(&self) -> bool {
        self.parts.space.refused_at.get().is_some()
    }

    /// Lets all cores know whether room has to be made.
    fn show_shortage(&self) {
        let is_short = self.disk_is_full() || self.parts.space.raised_at_bytes.get().is_some();
        let visible = &self.0.board.visible;
        if visible.is_short_of_space() != is_short {
            visible.set_short_of_space(is_short);
            self.wake_upkeep();
        }
    }

    /// The disk has refused room to `who`, which tries again.
    pub(super) fn note_disk_full(&self, who: String) {
        let now = self.0.world.now();
        if self.parts.space.refused_at.replace(Some(now)).is_none() {
            self.0.logger.error(
                "the disk is full: only deletes and compaction are taken",
                &[("refused", who.into())],
            );
        }
        self.raise_no_space();
        self.show_shortage();
    }

    fn alarm_is_raised(&self) -> bool {
        let sequencer = self.parts.sequencer.borrow();
        let own = (self.0.identity.member_id, AlarmKind::NoSpace);
        let mut alarms = sequencer.coordinator().alarms().iter();
        alarms.any(|alarm| alarm == own)
    }

    /// At the start: an alarm that is found was this member's own.
    pub(super) fn take_over_alarm(&self) {
        if self.alarm_is_raised() {
            self.parts.space.raised_at_bytes.set(Some(u64::MAX));
            self.show_shortage();
        }
    }

    /// Proposes the NOSPACE alarm, once at a time.
    fn raise_no_space(&self) {
        if self.alarm_is_raised() || self.parts.space.proposing.get() {
            return;
        }
        let bytes = match self.disk_is_full() {
            true => u64::MAX,
            false => self.sizes().bytes,
        };
        self.parts.space.raised_at_bytes.set(Some(bytes));
        self.show_shortage();
        self.propose_alarm(true);
    }

    fn propose_alarm(&self, activate: bool) {
        self.parts.space.proposing.set(true);
        let home = self.clone();
        drop(self.0.world.spawn(Class::Consensus, async move {
            let alarm = Command::Alarm {
                activate,
                member: home.0.identity.member_id,
                alarm: Some(AlarmKind::NoSpace),
            };
            if home.write_as_member(alarm).await.is_ok() {
                let fields = [("alarm", "NOSPACE".into())];
                match activate {
                    true => home.0.logger.warn("alarm raised", &fields),
                    false => home.0.logger.info("alarm cleared", &fields),
                }
            }
            home.parts.space.proposing.set(false);
            for responder in home.parts.space.refused.take() {
                responder.answer(Err(NO_SPACE));
            }
        }));
    }

    /// Looks whether there is room again. Once a second.
    pub(super) fn consider_space(&self) {
        self.look_for_space();
        self.show_shortage();
    }

    fn look_for_space(&self) {
        let space = &self.parts.space;
        let now = self.0.world.now();
        if let Some(refused_at) = space.refused_at.get()
            && now.since(refused_at) >= FULL_FOR
        {
            space.refused_at.set(None);
            self.0.logger.info("the disk has room again", &[]);
        }
        self.tell_lacked_descriptors();
        if self.state() != State::Serving || space.proposing.get() {
            return;
        }
        let Some(raised_at_bytes) = space.raised_at_bytes.get() else {
            return;
        };
        if !self.alarm_is_raised() {
            // Cleared, by whomever.
            space.raised_at_bytes.set(None);
        } else if !self.disk_is_full()
            && has_room(
                self.sizes().bytes,
                self.0.options.quota_bytes,
                raised_at_bytes,
            )
        {
            self.propose_alarm(false);
        }
    }
}

/// Whether a database that ran into its quota at `raised_at_bytes` has room again.
fn has_room(bytes: u64, quota: Option<u64>, raised_at_bytes: u64) -> bool {
    quota.is_none_or(|quota| bytes + quota / 10 <= raised_at_bytes.min(quota))
}

/// What a command may add to the store, in etcd's estimate; 0 for what frees or leaves it.
fn growth_bytes(command: &Command) -> u64 {
    const PER_PUT_BYTES: u64 = 256;
    const PER_LEASE_BYTES: u64 = 64;
    fn of_branch(operations: &[TxnOperation]) -> u64 {
        operations
            .iter()
            .map(|operation| match operation {
                TxnOperation::Put(put) => PER_PUT_BYTES + (put.key.len() + put.value.len()) as u64,
                TxnOperation::Txn(txn) => of_branch(&txn.success).max(of_branch(&txn.failure)),
                TxnOperation::Range(_) | TxnOperation::DeleteRange(_) => 0,
            })
            .sum()
    }
    match command {
        Command::Put(put) => PER_PUT_BYTES + (put.key.len() + put.value.len()) as u64,
        Command::Txn(txn) => of_branch(&txn.success).max(of_branch(&txn.failure)),
        Command::LeaseGrant { .. } => PER_LEASE_BYTES,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_a_tenth_of_the_quota_below_where_it_ran_out() {
        assert!(has_room(u64::MAX, None, 0));
        assert!(!has_room(95, Some(100), 99));
        assert!(has_room(89, Some(100), 99));
        // Refused far below the quota, for its own size: only what was freed counts.
        assert!(!has_room(60, Some(100), 60));
        assert!(has_room(50, Some(100), 60));
        // The disk was full, or the alarm was found at the start.
        assert!(has_room(90, Some(100), u64::MAX));
        assert!(!has_room(91, Some(100), u64::MAX));
    }
}
