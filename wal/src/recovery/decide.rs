//! The decision: what the log is, whether its end is torn or faulty, and where it goes on.
//!
//! Pure. Rules, as in `docs/internals/log.md`:
//! 1. Records below the epoch floor or of another lane generation are dead, as data and as evidence.
//! 2. An epoch kills **entries** of older epochs from its start on; entries at or below the checkpoint are
//!    covered. Records are never dropped whole, because they straddle both borders.
//! 3. Per index the highest `wseq` holds; from the checkpoint on the chain of terms must fit; the first
//!    misfit is the cut.
//! 4. Evidence is what says "durable up to": watermarks of records and beacons, a header without its body
//!    too, the clean mark, the start of the stored epoch. A later epoch limits it to before its start.
//! 5. All evidence satisfied: torn, the log ends at the cut. Otherwise faulty.

use super::error::Faulty;
use super::scan::Find;
use crate::entry::{Entry, EpochMark, Index, Term};
use crate::io::FileName;
use crate::planted::{Bug, planted};
use crate::record::{self, Header, Kind, Place};
use crate::superblock::{COPY_OFFSETS, Superblock};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Where a piece of evidence stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Superblock,
    Record(Place),
}

/// "The log was durable up to `index`."
#[derive(Clone, Copy, Debug)]
struct Evidence {
    epoch: u64,
    index: Index,
    /// `None`: a later epoch cut it, so nothing is known about the term.
    term: Option<Term>,
    source: Source,
}

/// The newest record for one index.
struct Candidate {
    wseq: u64,
    prev_term: Term,
    entry: Entry,
}

/// Everything found, collected while scanning.
pub(crate) struct Findings {
    checkpoint_index: Index,
    epoch_floor: u64,
    candidates: BTreeMap<Index, Candidate>,
    /// Bodies are decoded when all epochs are known.
    records: Vec<(Header, Option<Bytes>)>,
    witnesses: Vec<(Header, Place)>,
    bad_bodies: Vec<Header>,
    pub(crate) records_seen: u64,
}

/// What recovery concluded.
pub(crate) struct Decision {
    pub(crate) entries: Vec<Entry>,
    pub(crate) end: Index,
    pub(crate) end_term: Term,
    pub(crate) epochs: Vec<EpochMark>,
    pub(crate) epoch_max: u64,
    pub(crate) wseq_max: u64,
    pub(crate) term_max: Term,
    pub(crate) commit_hint: Index,
    /// Highest index that evidence speaks about.
    pub(crate) watermark: Index,
    pub(crate) faulty: Option<Faulty>,
}

impl Findings {
    pub(crate) fn new(superblock: &Superblock) -> Findings {
        Findings {
            checkpoint_index: superblock.checkpoint_index,
            epoch_floor: superblock.epoch_floor,
            candidates: BTreeMap::new(),
            records: Vec::new(),
            witnesses: Vec::new(),
            bad_bodies: Vec::new(),
            records_seen: 0,
        }
    }

    /// Whether the entries of this record may matter, so that its body has to be kept.
    pub(crate) fn keeps(&self, header: &Header) -> bool {
        header.kind == Kind::Entries
            && self.admits(header)
            && header.last_index() > self.checkpoint_index
    }

    fn admits(&self, header: &Header) -> bool {
        header.epoch >= self.epoch_floor
    }

    /// Takes a find of a lane with this generation.
    pub(crate) fn add(&mut self, find: Find, lane_generation: u32) {
        match find {
            Find::Record { header, .. } if header.kind == Kind::Footer => {}
            Find::Record { header, body } if header.lane_generation == lane_generation => {
                self.records_seen += 1;
                self.records.push((header, body));
            }
            // A header is evidence even if its body is bad or it lies at the wrong place.
            Find::BadBody { header } if header.lane_generation == lane_generation => {
                self.witnesses.push((header, header.place));
                self.bad_bodies.push(header);
            }
            Find::Misdirected { header, at } if header.kind != Kind::Footer => {
                self.witnesses.push((header, at));
            }
            _ => {}
        }
    }

    /// Applies the rules.
    pub(crate) fn decide(mut self, superblock: &Superblock) -> Decision {
        let epochs = self.epochs(superblock);
        self.collect_candidates(&epochs);
        let entries = self.chain(superblock);
        let (end, end_term) = entries.last().map_or(
            (superblock.checkpoint_index, superblock.checkpoint_term),
            |entry| (entry.index, entry.term),
        );
        let evidence = self.evidence(superblock, &epochs);
        let log = Log {
            superblock,
            entries: &entries,
        };
        let faulty = self.judge(&log, &evidence);
        let headers = || self.headers();
        let hint = headers().filter(|header| self.admits(header));
        let seen = headers().map(|header| header.epoch).max().unwrap_or(0);
        let stored = superblock.epoch.max(superblock.epoch_floor);
        Decision {
            end,
            end_term,
            epoch_max: stored.max(seen),
            wseq_max: headers().map(|header| header.wseq).max().unwrap_or(0),
            term_max: headers()
                .map(|header| header.last_term)
                .max()
                .unwrap_or(Term(0)),
            commit_hint: hint
                .map(|header| header.commit_hint)
                .max()
                .unwrap_or(Index(0))
                .min(end)
                .max(superblock.checkpoint_index),
            watermark: evidence
                .iter()
                .map(|evidence| evidence.index)
                .max()
                .unwrap_or(Index(0)),
            epochs,
            entries,
            faulty,
        }
    }

    fn headers(&self) -> impl Iterator<Item = &Header> {
        let records = self.records.iter().map(|(header, _)| header);
        records.chain(self.witnesses.iter().map(|(header, _)| header))
    }

    fn epochs(&self, superblock: &Superblock) -> Vec<EpochMark> {
        let mut epochs = vec![EpochMark {
            epoch: superblock.epoch,
            start: superblock.epoch_start,
        }];
        epochs.extend(self.headers().map(|header| EpochMark {
            epoch: header.epoch,
            start: header.epoch_start,
        }));
        epochs.sort_unstable_by_key(|mark| (mark.epoch, mark.start));
        epochs.dedup();
        epochs
    }

    fn collect_candidates(&mut self, epochs: &[EpochMark]) {
        for (header, body) in &self.records {
            let Some(body) = body else { continue };
            if header.epoch < self.epoch_floor {
                continue;
            }
            let limit = limit(epochs, header.epoch);
            if planted(Bug::PerRecordFilters)
                && (header.first_index <= self.checkpoint_index || header.last_index() >= limit)
            {
                continue;
            }
            let mut prev_term = header.prev_term;
            for entry in record::entries(header, body) {
                let (index, term) = (entry.index, entry.term);
                let newest = self
                    .candidates
                    .get(&index)
                    .is_none_or(|candidate| header.wseq > candidate.wseq);
                if index > self.checkpoint_index && index < limit && newest {
                    let candidate = Candidate {
                        wseq: header.wseq,
                        prev_term,
                        entry,
                    };
                    self.candidates.insert(index, candidate);
                }
                prev_term = term;
            }
        }
    }

    /// Entries after the checkpoint as far as the chain of terms fits.
    fn chain(&mut self, superblock: &Superblock) -> Vec<Entry> {
        let mut entries = Vec::new();
        let (mut index, mut term) = (superblock.checkpoint_index, superblock.checkpoint_term);
        for (candidate_index, candidate) in std::mem::take(&mut self.candidates) {
            let fits = candidate.prev_term == term || planted(Bug::NoTermChain);
            if candidate_index != index.next() || !fits {
                break;
            }
            (index, term) = (candidate_index, candidate.entry.term);
            entries.push(candidate.entry);
        }
        entries
    }

    fn evidence(&self, superblock: &Superblock, epochs: &[EpochMark]) -> Vec<Evidence> {
        let mut evidence = Vec::new();
        if planted(Bug::NoWatermark) {
            return evidence;
        }
        let mut add = |epoch: u64, index: Index, term: Term, source: Source| {
            if epoch < superblock.epoch_floor {
                return;
            }
            let limit = if planted(Bug::UnscopedWatermark) {
                Index(u64::MAX)
            } else {
                limit(epochs, epoch)
            };
            let cut = index >= limit;
            let unscoped = cut || planted(Bug::WatermarkWithoutTerm);
            evidence.push(Evidence {
                epoch,
                index: if cut { limit.previous() } else { index },
                term: (!unscoped).then_some(term),
                source,
            });
        };
        let records = self
            .records
            .iter()
            .map(|(header, _)| (header, header.place));
        let witnesses = self.witnesses.iter().map(|(header, at)| (header, *at));
        for (header, at) in records.chain(witnesses) {
            if header.kind == Kind::Beacon && planted(Bug::BeaconIgnored) {
                continue;
            }
            let (mut index, term) = (header.durable_index, header.durable_term);
            if planted(Bug::CommitHintInWatermark) {
                index = index.max(header.commit_hint);
            }
            add(header.epoch, index, term, Source::Record(at));
        }
        if let Some(clean) = superblock.clean {
            add(clean.epoch, clean.index, clean.term, Source::Superblock);
        }
        add(
            superblock.epoch,
            superblock.epoch_start.previous(),
            superblock.epoch_start_term,
            Source::Superblock,
        );
        evidence
    }

    fn judge(&self, log: &Log<'_>, evidence: &[Evidence]) -> Option<Faulty> {
        let (satisfied, violated): (Vec<&Evidence>, Vec<&Evidence>) = evidence
            .iter()
            .partition(|evidence| log.satisfies(evidence));
        let worst = violated.iter().max_by_key(|evidence| evidence.index)?;
        let newest_violated = violated.iter().map(|evidence| evidence.epoch).max()?;
        let confirmed = satisfied
            .iter()
            .filter(|evidence| evidence.term.is_some() && evidence.epoch >= newest_violated)
            .map(|evidence| evidence.index)
            .max()
            .unwrap_or(Index(0))
            .max(log.superblock.checkpoint_index);
        let lowest_violated = violated.iter().map(|evidence| evidence.index).min()?;
        let keeps = confirmed
            .min(lowest_violated.previous())
            .min(log.end())
            .max(log.superblock.checkpoint_index);
        let (file, offset, what) = self.locate(log, worst);
        let (evidence_file, evidence_offset) = match worst.source {
            Source::Superblock => (FileName::Superblock.path(), COPY_OFFSETS[0]),
            Source::Record(place) => (path(place), place.offset),
        };
        Some(Faulty {
            first_missing: confirmed.next(),
            last_missing: worst.index.max(confirmed.next()),
            file,
            offset,
            what,
            evidence_file,
            evidence_offset,
            evidence_term: worst.term.unwrap_or(Term(0)),
            keeps,
        })
    }

    /// Where the first entry that does not fit should stand, and what is wrong there.
    fn locate(&self, log: &Log<'_>, worst: &Evidence) -> (String, u64, String) {
        let wanted = log.end().next();
        let covers =
            |header: &Header| header.first_index <= wanted && wanted <= header.last_index();
        if let Some(header) = self
            .bad_bodies
            .iter()
            .filter(|header| covers(header))
            .max_by_key(|header| header.wseq)
        {
            let what = format!(
                "the record of entries {} to {} has a damaged body",
                header.first_index,
                header.last_index()
            );
            return (path(header.place), header.place.offset, what);
        }
        let newest = |records: &mut dyn Iterator<Item = &Header>| {
            records
                .max_by_key(|header| header.wseq)
                .map(|header| (header.place, header.record_bytes()))
        };
        let headers = || self.records.iter().map(|(header, _)| header);
        if worst.index <= log.end() {
            let mut holding = headers().filter(|header| {
                header.first_index <= worst.index && worst.index <= header.last_index()
            });
            if let Some((place, _)) = newest(&mut holding) {
                let what = format!("entry {} is of another term than it was", worst.index);
                return (path(place), place.offset, what);
            }
        }
        let end = log.end();
        let what = format!("no intact record of entry {wanted} is found");
        let mut ending = headers().filter(|header| header.last_index() == end && end.0 > 0);
        if let Some((place, bytes)) = newest(&mut ending) {
            return (path(place), place.offset + bytes, what);
        }
        match worst.source {
            Source::Record(place) => (path(place), 0, what),
            Source::Superblock => {
                let lane = log
                    .superblock
                    .lanes
                    .iter()
                    .position(|lane| lane.generation > 0)
                    .unwrap_or(0) as u16;
                (
                    path(Place {
                        lane,
                        segment: 1,
                        offset: 0,
                    }),
                    0,
                    what,
                )
            }
        }
    }
}

/// The log as chained, for looking up terms.
struct Log<'a> {
    superblock: &'a Superblock,
    entries: &'a [Entry],
}

impl Log<'_> {
    fn end(&self) -> Index {
        let checkpoint = self.superblock.checkpoint_index;
        Index(checkpoint.0 + self.entries.len() as u64)
    }

    fn satisfies(&self, evidence: &Evidence) -> bool {
        let checkpoint = self.superblock.checkpoint_index;
        if evidence.index <= checkpoint {
            return true;
        }
        let position = (evidence.index.0 - checkpoint.0 - 1) as usize;
        match (self.entries.get(position), evidence.term) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(entry), Some(term)) => entry.term == term,
        }
    }
}

/// First index that a later epoch than `epoch` kills.
fn limit(epochs: &[EpochMark], epoch: u64) -> Index {
    let later = epochs.partition_point(|mark| mark.epoch <= epoch);
    epochs[later..]
        .iter()
        .map(|mark| mark.start)
        .min()
        .unwrap_or(Index(u64::MAX))
}

fn path(place: Place) -> String {
    FileName::Segment {
        lane: place.lane,
        number: place.segment,
    }
    .path()
}
