//! Snapshots: the whole store at one revision as a file, made while it is taken.
//!
//! A snapshot is the newest visible revision when it began. It holds a pin at the compact revision of that
//! moment, in all shards, so that neither what is alive there nor the history since can go; the pin goes with it,
//! however it ends. What it reads and in which order: `engine::read::SnapshotRead`. Nothing is read before
//! what was read is taken, so a client that is slow holds it back.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bolt::etcd::{
    AlarmMember, ConfState, KeyValue, Lease, Member, RevisionKey, SnapshotPlan, SnapshotWriter,
    State,
};
use engine::command::{AlarmKind, LeaseId};
use engine::lease::LeaseTable;
use engine::read::SnapshotRead;
use engine::store::Event;
use reactor::{Class, Task};

use super::lists::{ASKED_MAX, Asked, Pin, Pinned};
use super::sequencer::Moment;
use super::{Node, WriteError};
use crate::local::Changed;
use crate::services::STORAGE_VERSION;

/// Snapshots of a core at the same time; further ones wait. Each takes about 50 MiB.
const SNAPSHOTS_MAX: usize = 2;
/// A snapshot that takes longer may be overtaken by a compaction.
const PIN_TIME_MAX: Duration = Duration::from_secs(60 * 60);
/// Pieces that are made before they are taken.
const PIECES_AHEAD_MAX: usize = 2;
/// When the end of an entry is looked for again.
const MOMENT_PAUSE: Duration = Duration::from_micros(200);
/// Leases that are taken from the table at once.
const LEASES_AT_ONCE: usize = 1024;

/// Snapshots of one core.
#[derive(Default)]
pub(super) struct Snapshots {
    running: Cell<usize>,
    ended: Changed,
}

/// The right to make a snapshot; given back when dropped.
struct Place(Node);

impl Drop for Place {
    fn drop(&mut self) {
        let snapshots = &self.0.0.snapshots;
        snapshots.running.set(snapshots.running.get() - 1);
        snapshots.ended.notify();
    }
}

/// A snapshot that is being made; ends when dropped.
pub struct Snapshot {
    handover: Rc<Handover>,
    task: Task,
}

/// What the task that makes a snapshot hands to whoever takes it.
#[derive(Default)]
struct Handover {
    file_bytes: Cell<Option<u64>>,
    pieces: RefCell<VecDeque<Vec<u8>>>,
    end: RefCell<Option<Result<(), SnapshotError>>>,
    changed: Changed,
}

/// The making of a snapshot.
struct Making {
    node: Node,
    revision: i64,
    read: SnapshotRead,
    asked: Asked,
    events: std::vec::IntoIter<Event>,
    /// Main revision of the last version that was written.
    last_main: i64,
    leases: LeaseTable,
    part: Part,
    writer: SnapshotWriter,
    /// Let go of last.
    _pin: Pin,
    _place: Place,
}

/// What is written next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Versions,
    /// From this one on. The file has ids as unsigned numbers: those below 0 are the last.
    Leases(LeaseId),
    Nothing,
}

/// Why a snapshot is not finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SnapshotError {
    /// As for any read.
    Read(WriteError),
    /// It took so long that its pin was let go, and a compaction came.
    Overtaken,
    /// The file cannot be written: what.
    Format(String),
}

impl From<WriteError> for SnapshotError {
    fn from(error: WriteError) -> Self {
        SnapshotError::Read(error)
    }
}

impl Node {
    /// Begins a snapshot, once there is room for a further one. It is made in the background, so that what clients wait
    /// for comes first, and a few pieces ahead of what is taken.
    pub fn snapshot(&self) -> Snapshot {
        self.note_request();
        let handover = Rc::new(Handover::default());
        let (node, into) = (self.clone(), handover.clone());
        let task = self.0.world.spawn(Class::Background, async move {
            let end = into.fill(&node).await;
            *into.end.borrow_mut() = Some(end);
            into.changed.notify();
        });
        Snapshot { handover, task }
    }

    async fn begin_snapshot(&self) -> Result<Making, SnapshotError> {
        let snapshots = &self.0.snapshots;
        let has_room = || snapshots.running.get() < SNAPSHOTS_MAX;
        snapshots.ended.until(has_room).await;
        snapshots.running.set(snapshots.running.get() + 1);
        let place = Place(self.clone());
        loop {
            let moment = self.moment().await?;
            let compacted = moment.compact_revision.max(0);
            let pinned = Pinned {
                at: compacted,
                still: true,
                time_max: PIN_TIME_MAX,
            };
            // A compaction that came since was quicker.
            if let Some(pin) = self.pin(pinned).await? {
                return self.snapshot_of(moment, pin, place).await;
            }
            self.0.world.yield_now().await;
        }
    }

    /// The replicated state behind some entry, not before this call.
    async fn moment(&self) -> Result<Moment, WriteError> {
        loop {
            let moment = self.at_home(|home| home.moment()).await?;
            if let Some(moment) = moment {
                return Ok(moment);
            }
            self.0.world.sleep(MOMENT_PAUSE).await;
        }
    }

    /// Measures what there is and begins the file.
    async fn snapshot_of(
        &self,
        moment: Moment,
        pin: Pin,
        place: Place,
    ) -> Result<Making, SnapshotError> {
        let revision = moment.applied.revision;
        let shards = self.0.shards.count();
        let compacted = moment.compact_revision;
        let mut read = SnapshotRead::new(compacted, revision, pin.id, shards);
        let mut asked = Asked::default();
        let measure = loop {
            if read.is_overtaken() {
                return Err(SnapshotError::Overtaken);
            }
            if let Some(measure) = read.measure() {
                break measure;
            }
            self.read_on(&mut read, &mut asked).await?;
        };
        let mut plan = SnapshotPlan::new(self.state_in_file(&moment));
        // One more than there are: a revision at which nothing changed.
        plan.add_versions(measure.records + 1, measure.bytes);
        plan.add_leases(moment.leases.len() as u64);
        let writer = SnapshotWriter::new(plan).map_err(format_error)?;
        Ok(Making {
            node: self.clone(),
            revision,
            read,
            asked,
            events: Vec::new().into_iter(),
            last_main: compacted,
            leases: moment.leases,
            part: Part::Versions,
            writer,
            _pin: pin,
            _place: place,
        })
    }

    /// Asks what can be asked, and takes an answer.
    async fn read_on(
        &self,
        read: &mut SnapshotRead,
        asked: &mut Asked,
    ) -> Result<(), SnapshotError> {
        while asked.len() < ASKED_MAX
            && let Some((shard, request)) = read.poll()
        {
            asked.push(self, shard, request);
        }
        let (shard, reply) = asked.next().await?;
        read.on_reply(shard, reply);
        self.0.world.yield_if_due().await;
        Ok(())
    }

    /// What the file says beside keys and leases.
    fn state_in_file(&self, moment: &Moment) -> State {
        let compacted = (moment.compact_revision > 0).then_some(moment.compact_revision);
        let id = self.0.identity.member_id;
        let attributes = moment.members.iter().find(|member| member.member == id);
        let member = Member {
            id,
            peer_urls: self.0.options.peer_urls.clone(),
            is_learner: false,
            name: attributes.map_or_else(String::new, |member| member.name.clone()),
            client_urls: attributes.map_or_else(Vec::new, |member| member.client_urls.clone()),
        };
        let alarm = |&(member_id, kind): &(u64, AlarmKind)| AlarmMember {
            member_id,
            alarm: kind as i32,
        };
        State {
            consistent_index: moment.applied.index,
            term: moment.term,
            conf_state: Some(ConfState {
                voters: vec![id],
                ..ConfState::default()
            }),
            scheduled_compact_revision: compacted,
            finished_compact_revision: compacted,
            storage_version: Some(STORAGE_VERSION.to_owned()),
            cluster_version: moment.cluster_version.clone(),
            members: vec![member],
            alarms: moment.alarms.iter().map(alarm).collect(),
            ..State::default()
        }
    }
}

impl Handover {
    /// Makes a snapshot; no more of it than there is room for.
    async fn fill(&self, node: &Node) -> Result<(), SnapshotError> {
        let mut making = node.begin_snapshot().await?;
        self.file_bytes.set(Some(making.writer.file_bytes()));
        self.changed.notify();
        while let Some(piece) = making.next().await? {
            let has_room = || self.pieces.borrow().len() < PIECES_AHEAD_MAX;
            self.changed.until(has_room).await;
            self.pieces.borrow_mut().push_back(piece);
            self.changed.notify();
        }
        Ok(())
    }

    /// How it ended, if it did.
    fn ended(&self) -> Option<Result<(), SnapshotError>> {
        self.end.borrow().clone()
    }
}

impl Snapshot {
    /// Bytes of the whole file, with the sum at its end.
    ///
    /// # Errors
    /// `Stopped`, `Damaged`; `TooManyRequests` if there are too many pins.
    pub async fn file_bytes(&self) -> Result<u64, SnapshotError> {
        let Handover { changed, .. } = &*self.handover;
        let bytes = || self.handover.file_bytes.get();
        changed
            .until(|| bytes().is_some() || self.handover.ended().is_some())
            .await;
        match (bytes(), self.handover.ended()) {
            (Some(bytes), _) => Ok(bytes),
            (None, Some(Err(error))) => Err(error),
            (None, _) => unreachable!("a snapshot has a size before it ends"),
        }
    }

    /// The next bytes of the file; none at its end. The sum is a piece of its own, the last one.
    ///
    /// # Errors
    /// There will be no more of it.
    pub async fn next(&self) -> Result<Option<Vec<u8>>, SnapshotError> {
        let Handover {
            pieces, changed, ..
        } = &*self.handover;
        changed
            .until(|| !pieces.borrow().is_empty() || self.handover.ended().is_some())
            .await;
        let piece = pieces.borrow_mut().pop_front();
        changed.notify();
        match (piece, self.handover.ended()) {
            (Some(piece), _) => Ok(Some(piece)),
            (None, Some(end)) => end.map(|()| None),
            (None, None) => unreachable!("there is a piece, or the end"),
        }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.task.cancel();
    }
}

impl Making {
    /// The next bytes of the file; none at its end.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, SnapshotError> {
        loop {
            while self.part != Part::Nothing && self.writer.wants_records() {
                self.push().await?;
            }
            if let Some(piece) = self.writer.take() {
                self.node.0.world.yield_if_due().await;
                return Ok(Some(piece));
            }
            if self.writer.is_done() {
                return Ok(None);
            }
            if self.part != Part::Nothing {
                self.push().await?;
            }
        }
    }

    /// Writes the next records.
    async fn push(&mut self) -> Result<(), SnapshotError> {
        match self.part {
            Part::Versions => self.push_versions().await,
            Part::Leases(first) => self.push_leases(first),
            Part::Nothing => Ok(()),
        }
    }

    async fn push_versions(&mut self) -> Result<(), SnapshotError> {
        for event in self.events.by_ref() {
            let (revision, version) = in_file(event);
            self.last_main = revision.main;
            let pushed = self.writer.push_version(revision, &version);
            pushed.map_err(format_error)?;
            if !self.writer.wants_records() {
                return Ok(());
            }
        }
        if self.read.has_some() {
            self.events = self.read.take().into_iter();
            return Ok(());
        }
        if self.read.is_overtaken() {
            return Err(SnapshotError::Overtaken);
        }
        if !self.read.is_done() {
            return self.node.read_on(&mut self.read, &mut self.asked).await;
        }
        if self.last_main < self.revision && self.revision > 1 {
            // Where nothing changed, as behind a restore that raised the revision.
            let revision = RevisionKey {
                main: self.revision,
                sub: 0,
                tombstone: false,
            };
            let nothing = KeyValue::default();
            let pushed = self.writer.push_version(revision, &nothing);
            pushed.map_err(format_error)?;
        }
        self.part = Part::Leases(LeaseId(0));
        Ok(())
    }

    fn push_leases(&mut self, first: LeaseId) -> Result<(), SnapshotError> {
        let is_positive = |id: LeaseId| id.0 >= 0;
        let mut next = first;
        let mut pushed = 0;
        let leases = self.leases.iter_from(first);
        let leases = leases.take_while(|(id, _)| is_positive(*id) == is_positive(first));
        for (id, ttl) in leases.take(LEASES_AT_ONCE) {
            let lease = Lease {
                id: id.0,
                ttl,
                remaining_ttl: 0,
            };
            self.writer.push_lease(&lease).map_err(format_error)?;
            next = LeaseId(id.0.wrapping_add(1));
            pushed += 1;
        }
        // The next id of the greatest one is the least.
        let is_over = pushed < LEASES_AT_ONCE || is_positive(next) != is_positive(first);
        self.part = match is_over {
            false => Part::Leases(next),
            true if is_positive(first) => Part::Leases(LeaseId(i64::MIN)),
            true => Part::Nothing,
        };
        if self.part == Part::Nothing {
            self.writer.finish();
        }
        Ok(())
    }
}

fn format_error(error: bolt::WriteError) -> SnapshotError {
    SnapshotError::Format(error.to_string())
}

/// A change as the file has it.
fn in_file(event: Event) -> (RevisionKey, KeyValue) {
    let revision = RevisionKey {
        main: event.revision.main,
        sub: i64::from(event.revision.sub),
        tombstone: event.tombstone,
    };
    let kv = event.kv;
    let version = match event.tombstone {
        true => KeyValue {
            key: kv.key,
            ..KeyValue::default()
        },
        false => KeyValue {
            key: kv.key,
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
            value: kv.value,
            lease: kv.lease.0,
        },
    };
    (revision, version)
}
