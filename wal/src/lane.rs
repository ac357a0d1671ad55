//! One lane: a set of segments, one of them the head, the others needed, free or being prepared.
//!
//! Owns where the next record goes, when a segment may be used again, and the preparation of spares beside
//! serving. It does not know what a record contains beyond the highest index it speaks about.
//!
//! A segment is free when its highest index is covered by the checkpoint; it is written again only when no
//! write to it is in flight, because a stuck old write could land on top of a new record.

use crate::config::Config;
use crate::entry::Index;
use crate::io::{Directory, IoId, IoOperation, Requests};
use crate::planted::{Bug, planted};
use crate::record::{self, Header, Kind, Place, Salt};
use crate::segment::{Prewrite, Segment};
use crate::{BLOCK_BYTES, Term};

/// Where the next record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

/// A creation on its way.
#[derive(Clone, Copy, Debug)]
struct Creation {
    number: u64,
    create: IoId,
    done_at: IoId,
}

/// Invariants: segment numbers are unique and below `number_next`; the head's segment exists, is usable and
/// is not free.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) id: u16,
    pub(crate) generation: u32,
    /// Written to; otherwise it is only drained.
    pub(crate) active: bool,
    pub(crate) head: Option<Head>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) number_next: u64,
    pub(crate) records_in_flight: u32,
    creation: Option<Creation>,
    space_retry_at: Option<u64>,
}

/// A place for a record and what its write has to wait for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Placed {
    pub(crate) place: Place,
    pub(crate) after: Option<IoId>,
}

impl Lane {
    pub(crate) fn new(id: u16, generation: u32, active: bool) -> Lane {
        Lane {
            id,
            generation,
            active,
            head: None,
            segments: Vec::new(),
            number_next: 1,
            records_in_flight: 0,
            creation: None,
            space_retry_at: None,
        }
    }

    pub(crate) fn segment_mut(&mut self, number: u64) -> Option<&mut Segment> {
        self.segments
            .iter_mut()
            .find(|segment| segment.number == number)
    }

    fn segment(&self, number: u64) -> Option<&Segment> {
        self.segments
            .iter()
            .find(|segment| segment.number == number)
    }

    /// Takes a place for a record of `bytes` that speaks about `highest`; `None` if no segment is ready.
    pub(crate) fn place(&mut self, bytes: u64, highest: Index) -> Option<Placed> {
        let head = match self.head {
            Some(head) if self.fits(head, bytes) => head,
            _ => self.next_head(bytes)?,
        };
        self.head = Some(Head {
            segment: head.segment,
            offset: head.offset + bytes,
        });
        self.records_in_flight += 1;
        let lane = self.id;
        let segment = self
            .segment_mut(head.segment)
            .expect("the head's segment exists");
        segment.highest = segment.highest.max(highest);
        segment.writes_in_flight += 1;
        let after = segment.blocked_by(head.offset, bytes);
        if head.offset <= segment.written_to {
            segment.written_to = segment.written_to.max(head.offset + bytes);
        }
        Some(Placed {
            place: Place {
                lane,
                segment: head.segment,
                offset: head.offset,
            },
            after,
        })
    }

    fn fits(&self, head: Head, bytes: u64) -> bool {
        self.segment(head.segment)
            .is_some_and(|segment| head.offset + bytes <= segment.capacity())
    }

    /// Whether a record of `bytes` has a place now.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        self.head.is_some_and(|head| self.fits(head, bytes))
            || self
                .segments
                .iter()
                .any(|segment| may_be_next(segment, bytes))
    }

    /// The next segment to write: one whose blocks were all written once before, if there is one.
    fn next_head(&mut self, bytes: u64) -> Option<Head> {
        let segment = self
            .segments
            .iter_mut()
            .filter(|segment| may_be_next(segment, bytes))
            .min_by_key(|segment| (segment.written_to < segment.capacity(), segment.number))?;
        segment.free = false;
        segment.highest = Index(0);
        Some(Head {
            segment: segment.number,
            offset: 0,
        })
    }

    /// A record's write is over.
    pub(crate) fn landed(&mut self, place: Place) {
        self.records_in_flight -= 1;
        if let Some(segment) = self.segment_mut(place.segment) {
            segment.writes_in_flight -= 1;
        }
    }

    /// Frees every segment that speaks about nothing above `covered`. The head stays: it is past it.
    pub(crate) fn recycle(&mut self, covered: Index) {
        let head = self.head.filter(|_| self.active).map(|head| head.segment);
        for segment in &mut self.segments {
            if segment.highest <= covered && Some(segment.number) != head {
                segment.free = true;
            }
        }
    }

    /// A received state replaced the log at `index`: nothing here speaks about more.
    pub(crate) fn replaced(&mut self, index: Index) {
        for segment in &mut self.segments {
            segment.highest = segment.highest.min(index);
        }
    }

    /// All segments are free: a lane that is not active can be given up.
    pub(crate) fn is_drained(&self) -> bool {
        self.segments
            .iter()
            .all(|segment| segment.free && segment.writes_in_flight == 0)
    }

    /// Removes free segments: all of a lane that was given up, otherwise those beyond the limit and those
    /// that are too short to be used.
    pub(crate) fn delete_unneeded(&mut self, config: &Config, requests: &mut Requests<'_>) {
        let mut keep = if self.active {
            config.free_segments_max
        } else {
            0
        };
        let lane = self.id;
        self.segments.retain(|segment| {
            let idle = segment.writes_in_flight == 0 && segment.prewrite.is_none();
            if !segment.free || !segment.usable || !idle {
                return true;
            }
            let long_enough = segment.capacity() >= config.record_bytes_max;
            if long_enough && keep > 0 {
                keep -= 1;
                return true;
            }
            let file = segment.file(lane);
            requests.push(Vec::new(), IoOperation::Delete { file });
            false
        });
    }

    /// Starts what is missing of the spares: at most one creation and one piece of zeros at a time.
    pub(crate) fn prepare(
        &mut self,
        now_nanos: u64,
        config: &Config,
        salt: Salt,
        requests: &mut Requests<'_>,
    ) {
        if !self.active {
            return;
        }
        self.create_spare(now_nanos, config, requests);
        if self
            .segments
            .iter()
            .all(|segment| segment.prewrite.is_none())
        {
            self.prewrite(config, salt, requests);
        }
    }

    fn create_spare(&mut self, now_nanos: u64, config: &Config, requests: &mut Requests<'_>) {
        if self.space_retry_at.is_some_and(|at| now_nanos < at) {
            return;
        }
        self.space_retry_at = None;
        let spares = self
            .segments
            .iter()
            .filter(|segment| segment.free && segment.bytes >= config.segment_bytes)
            .count() as u64;
        let wanted = u64::from(config.spare_segments) + u64::from(self.head.is_none());
        if self.creation.is_some() || spares >= wanted {
            return;
        }
        let segment = Segment::new(self.number_next, config.segment_bytes);
        self.number_next += 1;
        let (file, len) = (segment.file(self.id), segment.bytes);
        let create = requests.push(Vec::new(), IoOperation::Create { file, len });
        let sync = requests.push(vec![create], IoOperation::Sync { file });
        let done_at = if planted(Bug::NoDirectorySync) {
            sync
        } else {
            requests.push(
                vec![sync],
                IoOperation::SyncDirectory(Directory::Lane(self.id)),
            )
        };
        self.creation = Some(Creation {
            number: segment.number,
            create,
            done_at,
        });
        self.segments.push(segment);
    }

    /// Writes the next piece of zeros: ahead of the head first, then into spares.
    fn prewrite(&mut self, config: &Config, salt: Salt, requests: &mut Requests<'_>) {
        let (lane, head) = (self.id, self.head);
        let is_head = |segment: &Segment| head.is_some_and(|head| head.segment == segment.number);
        let Some(segment) = self
            .segments
            .iter_mut()
            .filter(|segment| segment.usable && !segment.footer)
            .filter(|segment| is_head(segment) || segment.free && segment.writes_in_flight == 0)
            .min_by_key(|segment| (!is_head(segment), segment.number))
        else {
            return;
        };
        let file = segment.file(lane);
        let ahead = match head {
            Some(head) if is_head(segment) => head.offset + config.prewrite_gap_bytes,
            _ => 0,
        };
        let from = segment.written_to.max(ahead);
        if from >= segment.capacity() {
            segment.footer = true;
            let place = Place {
                lane,
                segment: segment.number,
                offset: segment.capacity(),
            };
            let data = footer(place, self.generation, salt);
            let (offset, len) = (place.offset, data.len() as u64);
            segment.prewrite = Some(zeros(requests, file, offset, len, data));
            return;
        }
        let to = (from + config.prewrite_bytes).min(segment.capacity());
        let data = vec![0; (to - from) as usize];
        segment.prewrite = Some(zeros(requests, file, from, to - from, data));
    }

    /// Takes a completed request of the lane's own; false if it is not one.
    pub(crate) fn complete(&mut self, id: IoId) -> bool {
        if let Some(creation) = self.creation
            && creation.done_at == id
        {
            self.creation = None;
            if let Some(segment) = self.segment_mut(creation.number) {
                segment.usable = true;
            }
            return true;
        }
        for segment in &mut self.segments {
            if let Some(prewrite) = segment.prewrite
                && prewrite.sync == id
            {
                segment.written_to = segment.written_to.max(prewrite.to);
                segment.prewrite = None;
                return true;
            }
        }
        false
    }

    /// If `id` is the creation of a segment: forgets the segment and tries again later. Returns its number.
    pub(crate) fn creation_failed(&mut self, id: IoId, retry_at: u64) -> Option<u64> {
        let creation = self.creation.filter(|creation| creation.create == id)?;
        self.creation = None;
        self.space_retry_at = Some(retry_at);
        self.segments
            .retain(|segment| segment.number != creation.number);
        Some(creation.number)
    }

    pub(crate) fn space_retry_at(&self) -> Option<u64> {
        self.space_retry_at
    }

    /// Tests call this after every step.
    pub(crate) fn check(&self) {
        for segment in &self.segments {
            assert!(segment.number < self.number_next);
        }
        if let Some(head) = self.head.filter(|_| self.active) {
            let segment = self.segment(head.segment).expect("the head exists");
            assert!(segment.usable);
            assert!(!segment.free);
            assert!(head.offset <= segment.capacity());
        }
    }
}

/// Whether a segment can become the head for a record of `bytes`.
fn may_be_next(segment: &Segment, bytes: u64) -> bool {
    segment.free
        && segment.usable
        && segment.capacity() >= bytes
        && (segment.writes_in_flight == 0 || planted(Bug::RecycleUnderWrite))
}

/// One piece of a segment's preparation and the flush that settles its cost beside serving.
fn zeros(
    requests: &mut Requests<'_>,
    file: crate::io::FileName,
    offset: u64,
    len: u64,
    data: Vec<u8>,
) -> Prewrite {
    let write = requests.push(Vec::new(), IoOperation::Write { file, offset, data });
    let sync = requests.push(vec![write], IoOperation::Sync { file });
    Prewrite {
        write,
        sync,
        from: offset,
        to: offset + len,
    }
}

/// The record in a segment's last block that says that every block before it was written once.
fn footer(place: Place, lane_generation: u32, salt: Salt) -> Vec<u8> {
    let header = Header {
        kind: Kind::Footer,
        place,
        lane_generation,
        wseq: 0,
        epoch: 0,
        epoch_start: Index(1),
        first_index: Index(0),
        count: 0,
        body_bytes: 0,
        prev_term: Term(0),
        last_term: Term(0),
        durable_index: Index(0),
        durable_term: Term(0),
        commit_hint: Index(0),
        body_sum: 0,
    };
    let bytes = record::encode(header, &[], salt);
    assert_eq!(bytes.len() as u64, BLOCK_BYTES);
    bytes
}
