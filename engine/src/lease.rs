//! Which leases exist.
//!
//! Owned by the sequencer and equal on every member. It knows no deadline: those live with the
//! leader, and expiry arrives as a command. Which keys hang on a lease is known by the shards: a
//! key is attached to the lease of its newest version, so overwriting or deleting it detaches it.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use crate::command::LeaseId;

/// Bytes of a lease in a run: id and time to live, little-endian.
pub(crate) const LEASE_BYTES: usize = 16;
/// Most bytes of a run: what a change may have to copy.
const RUN_BYTES_MAX: usize = 4096;
/// Neighbouring runs that have no more than this together become one.
const MERGED_BYTES_MAX: usize = RUN_BYTES_MAX / 2;
/// Where the first run begins.
const FIRST: LeaseId = LeaseId(i64::MIN);

/// The granted leases with their times to live.
///
/// They stand in runs of bytes as a checkpoint keeps them. A checkpoint shares the runs, and the first
/// change of a shared one copies it: so a freeze costs a little per run and nothing per lease.
///
/// Invariants: the leases of a run are sorted, none is below the run's name, each below the next run's name;
/// no run but the first is empty, and that one exists if any does.
#[derive(Clone, Debug, Default)]
pub struct LeaseTable {
    runs: BTreeMap<LeaseId, Bytes>,
    count: usize,
}

impl PartialEq for LeaseTable {
    fn eq(&self, other: &LeaseTable) -> bool {
        self.count == other.count && self.iter().eq(other.iter())
    }
}

impl Eq for LeaseTable {}

/// A change of the table, for whoever keeps the deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseChange {
    /// A lease now exists.
    Granted {
        /// Which.
        id: LeaseId,
        /// Its time to live, seconds.
        ttl: i64,
    },
    /// A lease is gone, and its keys with it.
    Revoked {
        /// Which.
        id: LeaseId,
    },
}

impl LeaseTable {
    /// Whether `id` may be attached to a key.
    pub fn contains(&self, id: LeaseId) -> bool {
        self.ttl(id).is_some()
    }

    /// Granted time to live of `id`, seconds.
    pub fn ttl(&self, id: LeaseId) -> Option<i64> {
        let (_, run) = self.run_of(id)?;
        let index = search(run, id).ok()?;
        Some(lease_at(run, index).1)
    }

    /// All leases with their times to live, by id.
    pub fn iter(&self) -> impl Iterator<Item = (LeaseId, i64)> + '_ {
        let runs = self.runs.values();
        runs.flat_map(|run| (0..run.len() / LEASE_BYTES).map(|index| lease_at(run, index)))
    }

    /// The leases from `first` on with their times to live, by id.
    pub fn iter_from(&self, first: LeaseId) -> impl Iterator<Item = (LeaseId, i64)> + '_ {
        let name = self.run_of(first).map_or(first, |(name, _)| name);
        let runs = self.runs.range(name..).map(|(_, run)| run);
        let leases =
            runs.flat_map(|run| (0..run.len() / LEASE_BYTES).map(|index| lease_at(run, index)));
        leases.skip_while(move |(id, _)| *id < first)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The runs, in order.
    pub(crate) fn runs(&self) -> impl Iterator<Item = &Bytes> {
        self.runs.values()
    }

    /// Adds a lease; `false` if the id is in use.
    pub(crate) fn grant(&mut self, id: LeaseId, ttl: i64) -> bool {
        let name = self.run_of(id).map_or(FIRST, |(name, _)| name);
        let run = self.runs.entry(name).or_default();
        let Err(index) = search(run, id) else {
            return false;
        };
        edit(run, |bytes| {
            let (at, end) = (index * LEASE_BYTES, bytes.len());
            bytes.resize(end + LEASE_BYTES, 0);
            bytes.copy_within(at..end, at + LEASE_BYTES);
            bytes[at..at + 8].copy_from_slice(&id.0.to_le_bytes());
            bytes[at + 8..at + LEASE_BYTES].copy_from_slice(&ttl.to_le_bytes());
        });
        if run.len() > RUN_BYTES_MAX {
            // Ids that ascend leave full runs behind.
            let half = match index == run.len() / LEASE_BYTES - 1 {
                true => run.len() - LEASE_BYTES,
                false => run.len() / LEASE_BYTES / 2 * LEASE_BYTES,
            };
            let upper = Bytes::copy_from_slice(&run[half..]);
            edit(run, |bytes| bytes.truncate(half));
            self.runs.insert(lease_at(&upper, 0).0, upper);
        }
        self.count += 1;
        true
    }

    /// Removes a lease; `false` if there is none.
    pub(crate) fn revoke(&mut self, id: LeaseId) -> bool {
        let Some((name, _)) = self.run_of(id) else {
            return false;
        };
        let run = self.runs.get_mut(&name).expect("just found");
        let Ok(index) = search(run, id) else {
            return false;
        };
        edit(run, |bytes| {
            let at = index * LEASE_BYTES;
            bytes.copy_within(at + LEASE_BYTES.., at);
            bytes.truncate(bytes.len() - LEASE_BYTES);
        });
        self.count -= 1;
        self.merge(name);
        true
    }

    /// Joins the run of this name with the one before it if both are small, or it is empty.
    fn merge(&mut self, name: LeaseId) {
        let run = &self.runs[&name];
        let Some((&before, former)) = self.runs.range(..name).next_back() else {
            return;
        };
        if !run.is_empty() && former.len() + run.len() > MERGED_BYTES_MAX {
            return;
        }
        let run = self.runs.remove(&name).expect("just seen");
        let former = self.runs.get_mut(&before).expect("just seen");
        edit(former, |bytes| bytes.extend_from_slice(&run));
    }

    /// The run that has `id`, or would have it.
    fn run_of(&self, id: LeaseId) -> Option<(LeaseId, &Bytes)> {
        let (name, run) = self.runs.range(..=id).next_back()?;
        Some((*name, run))
    }
}

/// Changes a run, in place if nobody shares it.
fn edit(run: &mut Bytes, change: impl FnOnce(&mut BytesMut)) {
    let mut bytes = match std::mem::take(run).try_into_mut() {
        Ok(bytes) => bytes,
        Err(shared) => BytesMut::from(&shared[..]),
    };
    change(&mut bytes);
    *run = bytes.freeze();
}

fn lease_at(run: &[u8], index: usize) -> (LeaseId, i64) {
    let field = |at: usize| i64::from_le_bytes(run[at..at + 8].try_into().expect("8 bytes"));
    let at = index * LEASE_BYTES;
    (LeaseId(field(at)), field(at + 8))
}

fn search(run: &[u8], id: LeaseId) -> Result<usize, usize> {
    let (mut low, mut high) = (0, run.len() / LEASE_BYTES);
    while low < high {
        let middle = (low + high) / 2;
        if lease_at(run, middle).0 < id {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    match low < run.len() / LEASE_BYTES && lease_at(run, low).0 == id {
        true => Ok(low),
        false => Err(low),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    fn check(table: &LeaseTable, expected: &BTreeMap<LeaseId, i64>) {
        let expected_list: Vec<_> = expected.iter().map(|(id, ttl)| (*id, *ttl)).collect();
        assert_eq!(table.iter().collect::<Vec<_>>(), expected_list);
        assert_eq!(table.len(), expected.len());
        for (name, run) in &table.runs {
            assert!(run.len() <= RUN_BYTES_MAX, "{} bytes", run.len());
            assert!(!run.is_empty() || *name == FIRST, "{name:?} is empty");
            assert!(run.is_empty() || lease_at(run, 0).0 >= *name);
        }
    }

    #[test]
    fn the_table_is_a_map() {
        for seed in 0..6 {
            let mut random = Random::new(seed);
            let ids = [40, 600, 5000][seed as usize % 3];
            let (mut table, mut model) = (LeaseTable::default(), BTreeMap::new());
            let mut shared = None;
            for step in 0..6000 {
                let id = LeaseId(random.below(ids) as i64 - ids as i64 / 2);
                // The second half takes away.
                if random.below(10) < if step < 3000 { 7 } else { 3 } {
                    let free = !model.contains_key(&id);
                    assert_eq!(table.grant(id, step), free);
                    model.entry(id).or_insert(step);
                } else {
                    assert_eq!(table.revoke(id), model.remove(&id).is_some());
                }
                assert_eq!(table.ttl(id), model.get(&id).copied());
                if random.one_in(500) {
                    check(&table, &model);
                    let kept = shared.replace((table.clone(), model.clone()));
                    if let Some((table, model)) = kept {
                        check(&table, &model);
                    }
                }
            }
            check(&table, &model);
            for id in model.keys() {
                assert!(table.revoke(*id));
            }
            assert!(table.is_empty() && table.runs.len() <= 1);
        }
    }

    /// What a freeze costs: something per run, and afterwards the copy of a run per run that changes.
    #[test]
    fn a_copy_shares_all_runs_and_a_change_copies_one() {
        const LEASES: i64 = 100_000;
        let mut table = LeaseTable::default();
        (0..LEASES).for_each(|id| assert!(table.grant(LeaseId(id), 60)));
        let runs = table.runs.len();
        assert_eq!(
            runs,
            (LEASES as usize * LEASE_BYTES).div_ceil(RUN_BYTES_MAX)
        );
        let frozen: Vec<Bytes> = table.runs().cloned().collect();
        let copied = |table: &LeaseTable| {
            let pairs = table.runs().zip(&frozen);
            let copied = pairs.filter(|(now, then)| now.as_ptr() != then.as_ptr());
            copied.count()
        };
        assert_eq!(copied(&table), 0);
        assert!(table.revoke(LeaseId(77)));
        assert!(table.revoke(LeaseId(78)));
        assert_eq!(copied(&table), 1);
        assert!(table.revoke(LeaseId(LEASES / 2)));
        assert_eq!(copied(&table), 2);
        let bytes: usize = frozen.iter().map(Bytes::len).sum();
        assert_eq!(bytes, LEASES as usize * LEASE_BYTES);
    }
}
