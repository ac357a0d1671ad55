//! What went wrong on purpose, counted; and a fingerprint of everything that was decided.

use std::fmt;

macro_rules! fault_kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident = $name:literal,)+) => {
        /// The kinds of trouble that the simulation makes.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum FaultKind {
            $($(#[doc = $doc])+ $kind,)+
        }

        impl FaultKind {
            /// All kinds, in order.
            pub const ALL: &'static [FaultKind] = &[$(FaultKind::$kind),+];

            /// The name printed in reports.
            pub fn name(self) -> &'static str {
                match self { $(FaultKind::$kind => $name),+ }
            }
        }
    };
}

fault_kinds! {
    /// A host's process was killed.
    Kill = "kill",
    /// A host lost its power.
    PowerCut = "power cut",
    /// At a power cut, a sector that no sync covered had reached the medium.
    SectorKept = "un-synced sector kept",
    /// At a power cut, a sector that no sync covered was lost.
    SectorLost = "un-synced sector lost",
    /// At a power cut, a sector that no sync covered became garbage.
    SectorTorn = "un-synced sector torn",
    /// At a power cut, a new file length that no sync covered was lost.
    LengthLost = "un-synced length lost",
    /// At a power cut, a create, rename or unlink that no directory sync covered survived.
    EntryKept = "un-synced directory entry kept",
    /// At a power cut, a create, rename or unlink that no directory sync covered was lost.
    EntryLost = "un-synced directory entry lost",
    /// A write was in flight when the power went.
    WriteCutInFlight = "write in flight at a power cut",
    /// A write of a killed process landed after its death.
    WriteLandedLate = "write landed after kill",
    /// A write of a killed process landed in part.
    WriteLandedPartly = "write landed in part after kill",
    /// A write of a killed process never landed.
    WriteDropped = "write dropped by kill",
    /// A read failed.
    ReadError = "read EIO",
    /// A write failed.
    WriteError = "write EIO",
    /// A sync failed.
    SyncError = "sync EIO",
    /// The disk was full.
    NoSpace = "ENOSPC",
    /// A read returned fewer bytes than were asked for.
    ShortRead = "short read",
    /// A write took fewer bytes than it was given.
    ShortWrite = "short write",
    /// An operation ended with `EINTR`.
    Interrupted = "EINTR",
    /// An operation ended with `EAGAIN`.
    TryAgain = "EAGAIN",
    /// A disk operation took much longer than usual.
    DiskSlow = "slow disk operation",
    /// A whole disk stood still for a while.
    DiskStall = "disk stall",
    /// A file's lock was held by someone else.
    Locked = "file locked",
    /// A sync reported success and made nothing durable.
    SyncedWriteLost = "synced write lost",
    /// A write reported success and changed nothing.
    WriteVanished = "write vanished",
    /// A write landed at another place of its file.
    WriteMisdirected = "write misdirected",
    /// A stored bit flipped.
    BitRot = "bit rot",
    /// A send took fewer bytes than it was given.
    ShortSend = "short send",
    /// A receive returned fewer bytes than were there.
    ShortReceive = "short receive",
    /// Bytes took much longer than usual.
    NetworkSlow = "slow network",
    /// Bytes waited for a partition to heal.
    PartitionHeld = "held by partition",
    /// A connection was reset.
    Reset = "connection reset",
    /// Nobody listened.
    ConnectRefused = "connect refused",
    /// The other host did not answer.
    ConnectTimedOut = "connect timed out",
    /// A core was not scheduled for a while.
    CoreStall = "core stall",
    /// The wall clock jumped.
    WallClockJump = "wall clock jump",
    /// An operation was cancelled while in flight.
    Cancelled = "operation cancelled",
}

/// How often each fault happened. Sums over seeds with [`Coverage::merge`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Coverage {
    counts: Vec<u64>,
}

impl Default for Coverage {
    fn default() -> Coverage {
        Coverage {
            counts: vec![0; FaultKind::ALL.len()],
        }
    }
}

impl Coverage {
    /// How often `kind` happened.
    pub fn count(&self, kind: FaultKind) -> u64 {
        self.counts[kind as usize]
    }

    /// The kinds that never happened.
    pub fn missing(&self) -> Vec<FaultKind> {
        FaultKind::ALL
            .iter()
            .copied()
            .filter(|&kind| self.count(kind) == 0)
            .collect()
    }

    /// Adds what `other` counted.
    pub fn merge(&mut self, other: &Coverage) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    pub(crate) fn hit(&mut self, kind: FaultKind) {
        self.counts[kind as usize] += 1;
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &kind in FaultKind::ALL {
            writeln!(formatter, "{:>12}  {}", self.count(kind), kind.name())?;
        }
        Ok(())
    }
}

/// A running hash over every decision and completion: two runs are the same run if their hashes are equal.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    hash: u64,
    steps: u64,
}

impl Trace {
    pub(crate) fn new(seed: u64) -> Trace {
        let mut trace = Trace {
            hash: 0x243F_6A88_85A3_08D3,
            steps: 0,
        };
        trace.add(seed);
        trace
    }

    pub(crate) fn add(&mut self, value: u64) {
        self.steps += 1;
        self.hash = (self.hash ^ value)
            .wrapping_mul(0x9FB2_1C65_1E98_DF25)
            .rotate_left(29);
        self.hash ^= self.hash >> 32;
    }

    pub(crate) fn add_bytes(&mut self, bytes: &[u8]) {
        self.add(bytes.len() as u64);
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.add(u64::from_le_bytes(word.try_into().expect("eight bytes")));
        }
        let mut last = [0; 8];
        last[..words.remainder().len()].copy_from_slice(words.remainder());
        self.add(u64::from_le_bytes(last));
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up_and_print() {
        let mut first = Coverage::default();
        first.hit(FaultKind::Kill);
        let mut second = Coverage::default();
        second.hit(FaultKind::Kill);
        second.hit(FaultKind::BitRot);
        first.merge(&second);
        assert_eq!(first.count(FaultKind::Kill), 2);
        assert_eq!(first.missing().len(), FaultKind::ALL.len() - 2);
        assert!(first.to_string().contains("2  kill\n"));
    }

    #[test]
    fn the_hash_depends_on_order_and_content() {
        let hash = |values: &[u64]| {
            let mut trace = Trace::new(1);
            values.iter().for_each(|&value| trace.add(value));
            trace.hash()
        };
        assert_ne!(hash(&[1, 2]), hash(&[2, 1]));
        assert_ne!(hash(&[]), hash(&[0]));
        assert_eq!(hash(&[1, 2]), hash(&[1, 2]));
    }
}
