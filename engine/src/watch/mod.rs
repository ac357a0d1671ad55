//! Watches of one core: which watcher has to be shown which event next.
//!
//! Owns the streams and watchers of the core and a bounded tail of recent events. A watcher is a
//! cursor, never a queue: nothing is kept per watcher but the revision it has to see next, and a
//! stream that is not read costs its cursors only. Refuses to know sockets, encodings and clocks.
//!
//! ```text
//! behind ──catch_up()──► pending ──poll()──► synced ──publish() of a matching event──► pending
//!   ▲                       │
//!   └── cursor fell out of the tail ──┘
//! ```
//!
//! - *synced*: every event of the watcher up to `published` was handed out.
//! - *pending*: the tail holds an event for it at or above its cursor.
//! - *behind*: events at or above its cursor are only in the shards' history; the stream's own task
//!   reads them ([`Output::CatchUp`]) and brings them ([`WatchHub::catch_up`]).
//!
//! What is published was read for the ranges that were watched when the read began
//! ([`WatchHub::live_query`]). A watcher is therefore *covered* only from the first revision that no
//! read had begun for when it was created; below, it catches up from history.

mod index;
mod shared;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use crate::key::KeyRange;
use crate::store::{Event, RangeSet};
use index::RangeIndex;
pub use shared::{EventList, SharedEvent};
pub use streams::StreamId;
use streams::{StreamState, Streams};

/// Bytes of recent events kept for watchers that lag a little; the oldest go first.
pub const TAIL_BYTES_MAX: usize = 16 << 20;
/// Bytes asked for in one read of history.
pub const CATCH_UP_BYTES: usize = 1 << 20;

/// What a client calls its watcher; unique on its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WatchId(pub i64);

/// What to watch.
#[derive(Clone, Debug)]
pub struct WatchSpec {
    /// Keys.
    pub range: KeyRange,
    /// First revision to show; 0 is the next one; may lie in the future.
    pub start_revision: i64,
    /// Show the key-value before each event.
    pub prev_kv: bool,
    /// Leave out puts.
    pub no_put: bool,
    /// Leave out deletions.
    pub no_delete: bool,
    /// Show progress from time to time.
    pub progress_notify: bool,
    /// Split large answers.
    pub fragment: bool,
    /// Wanted id; `None` lets the hub choose.
    pub id: Option<WatchId>,
}

/// Why a watcher was not created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateError {
    /// No key lies in the range.
    EmptyRange,
    /// The id is in use on this stream.
    DuplicateId,
}

/// What to send on a stream next.
#[derive(Debug)]
pub enum Output {
    /// Events of one watcher: whole revisions, ascending.
    Events {
        /// Whose.
        watch: WatchId,
        /// What.
        events: EventList,
        /// Show previous key-values.
        prev_kv: bool,
        /// Large answers may be split.
        fragment: bool,
        /// Revision of the header: everything up to it that is not here comes later.
        revision: i64,
    },
    /// The watcher's next revision is compacted; it is gone.
    Compacted {
        /// Whose.
        watch: WatchId,
        /// Reads below are refused.
        compact_revision: i64,
    },
    /// Everything up to `revision` was shown: to one watcher, or to all of the stream.
    Progress {
        /// Whose; `None` answers a request for the whole stream.
        watch: Option<WatchId>,
        /// Up to here.
        revision: i64,
    },
    /// Read history for a watcher, then bring it with [`WatchHub::catch_up`].
    CatchUp(CatchUp),
}

/// A read of history for one watcher.
#[derive(Clone, Debug)]
pub struct CatchUp {
    watcher: WatcherKey,
    /// First revision.
    pub from: i64,
    /// Last revision.
    pub to: i64,
    /// Keys.
    pub ranges: Arc<RangeSet>,
    /// Bring previous key-values.
    pub prev_kv: bool,
    /// Bytes after which a chunk may end.
    pub bytes_max: usize,
}

/// What to read from the shards for the watchers that are synced.
#[derive(Clone, Debug)]
pub struct LiveQuery {
    /// First revision.
    pub from: i64,
    /// Last revision.
    pub to: i64,
    /// Keys that anybody watches.
    pub ranges: Arc<RangeSet>,
    /// Somebody wants previous key-values.
    pub prev_kv: bool,
}

/// Slot of a watcher with its generation, so that a stale key finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WatcherKey {
    slot: u32,
    generation: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// Shown everything up to `published`.
    Synced,
    /// Next to be shown `from`, found in the tail.
    Pending { from: i64 },
    /// Next to be shown `from`, found in history.
    Behind { from: i64 },
}

#[derive(Debug)]
struct Watcher {
    stream: StreamId,
    id: WatchId,
    spec: WatchSpec,
    position: Position,
    /// What is published from this revision on includes this watcher's range.
    covered_from: i64,
    /// In its stream's ready queue.
    queued: bool,
    /// Shown something since the last progress tick.
    shown: bool,
    /// A progress note is due as soon as it is synced.
    progress_due: bool,
    generation: u32,
}

#[derive(Debug)]
struct Batch {
    revision: i64,
    events: Vec<Rc<SharedEvent>>,
    bytes: usize,
}

/// The watches of one core.
///
/// Invariants:
/// - `tail` is ascending in revision, holds whole revisions, and nothing above `published`;
/// - a watcher that is not synced is in its stream's ready queue, in `parked`, or in a catch-up
///   whose answer its stream's task brings.
#[derive(Debug, Default)]
pub struct WatchHub {
    streams: Streams,
    watchers: Vec<Option<Watcher>>,
    free: Vec<u32>,
    generation: u32,
    index: RangeIndex,
    prev_kv_watchers: usize,
    tail: VecDeque<Batch>,
    tail_bytes: usize,
    tail_bytes_max: usize,
    /// The tail holds everything that was watched from this revision on.
    tail_from: i64,
    published: i64,
    /// Highest revision that a live query was made for.
    queried: i64,
    compact_revision: i64,
    /// Watchers that wait for the publication of a read that does not cover them.
    parked: Vec<WatcherKey>,
    /// Streams whose progress note waits for a publication.
    progress_waiting: Vec<StreamId>,
    woken: Vec<StreamId>,
}

impl WatchHub {
    /// A hub without streams, at the revision `published`.
    pub fn new(published: i64) -> WatchHub {
        WatchHub {
            published,
            queried: published,
            tail_from: published + 1,
            tail_bytes_max: TAIL_BYTES_MAX,
            ..WatchHub::default()
        }
    }

    /// Opens a stream.
    pub fn open_stream(&mut self) -> StreamId {
        self.streams.open()
    }

    /// Closes a stream and drops its watchers.
    pub fn close_stream(&mut self, stream: StreamId) {
        let Some(state) = self.streams.close(stream) else {
            return;
        };
        for key in state.watchers.into_values() {
            self.remove(key);
        }
    }

    /// Watchers there are.
    pub fn watcher_count(&self) -> usize {
        self.watchers.len() - self.free.len()
    }

    /// Revision up to which events were published.
    pub fn published(&self) -> i64 {
        self.published
    }

    /// Creates a watcher; `applied` is the revision that its creation answer names.
    ///
    /// # Errors
    /// See [`CreateError`]; nothing is kept then.
    pub fn create(
        &mut self,
        stream: StreamId,
        spec: WatchSpec,
        applied: i64,
    ) -> Result<WatchId, CreateError> {
        if spec.range.is_empty() {
            return Err(CreateError::EmptyRange);
        }
        let Some(state) = self.streams.get_mut(stream) else {
            return Err(CreateError::DuplicateId);
        };
        let id = match spec.id {
            Some(id) if state.watchers.contains_key(&id) => return Err(CreateError::DuplicateId),
            Some(id) => id,
            None => {
                while state.watchers.contains_key(&WatchId(state.next_id)) {
                    state.next_id += 1;
                }
                state.next_id += 1;
                WatchId(state.next_id - 1)
            }
        };
        let start = if spec.start_revision > 0 {
            spec.start_revision
        } else {
            applied + 1
        };
        let covered_from = self.queried.max(self.published) + 1;
        let position = if start >= covered_from {
            Position::Synced
        } else {
            Position::Behind { from: start }
        };
        self.generation += 1;
        self.prev_kv_watchers += usize::from(spec.prev_kv);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.watchers.push(None);
            self.watchers.len() as u32 - 1
        });
        let key = WatcherKey {
            slot,
            generation: self.generation,
        };
        self.index.insert(slot, &spec.range);
        self.watchers[slot as usize] = Some(Watcher {
            stream,
            id,
            spec: WatchSpec {
                start_revision: start,
                ..spec
            },
            position,
            covered_from,
            queued: false,
            shown: false,
            progress_due: false,
            generation: self.generation,
        });
        state.watchers.insert(id, key);
        if position != Position::Synced {
            self.enqueue(key);
        }
        Ok(id)
    }

    /// Removes a watcher; `false` if there is none with this id.
    pub fn cancel(&mut self, stream: StreamId, id: WatchId) -> bool {
        let Some(state) = self.streams.get_mut(stream) else {
            return false;
        };
        let Some(key) = state.watchers.remove(&id) else {
            return false;
        };
        self.remove(key);
        // Its end may be what a progress request waited for.
        self.wake(stream);
        true
    }

    /// Asks for a progress note for the whole stream: sent once everything up to `applied` is
    /// published and all its watchers are synced. A stream without watchers gets none.
    pub fn request_progress(&mut self, stream: StreamId, applied: i64) {
        let Some(state) = self.streams.get_mut(stream) else {
            return;
        };
        state.progress_requested = (!state.watchers.is_empty()).then_some(applied);
        self.wake(stream);
    }

    /// A progress interval has passed: watchers that want progress and were shown nothing since
    /// the last tick are due a note.
    pub fn tick_progress(&mut self) {
        let mut due = Vec::new();
        for (slot, watcher) in self.watchers.iter_mut().enumerate() {
            let Some(watcher) = watcher else { continue };
            if watcher.spec.progress_notify && !std::mem::replace(&mut watcher.shown, false) {
                watcher.progress_due = true;
                due.push(WatcherKey {
                    slot: slot as u32,
                    generation: watcher.generation,
                });
            }
        }
        for key in due {
            self.enqueue(key);
        }
    }

    /// What has to be read so that everything up to `applied` can be published. `None` when nobody
    /// watches: then `applied` counts as published.
    pub fn live_query(&mut self, applied: i64) -> Option<LiveQuery> {
        if applied <= self.published {
            return None;
        }
        self.queried = applied;
        if self.index.is_empty() {
            self.published = applied;
            self.tail.clear();
            self.tail_bytes = 0;
            self.tail_from = applied + 1;
            return None;
        }
        Some(LiveQuery {
            from: self.published + 1,
            to: applied,
            ranges: self.index.ranges(),
            prev_kv: self.prev_kv_watchers > 0,
        })
    }

    /// Publishes the answer of a [`LiveQuery`]: all its events in (main, sub) order.
    pub fn publish(&mut self, to: i64, events: Vec<Event>) {
        assert!(
            to >= self.published,
            "published {} goes back to {to}",
            self.published
        );
        for event in events {
            let revision = event.revision.main;
            assert!(
                revision > self.published && revision <= to,
                "event outside of its query"
            );
            self.mark(&event, revision);
            let event = SharedEvent::new(event);
            let bytes = event.bytes();
            self.tail_bytes += bytes;
            match self.tail.back_mut() {
                Some(batch) if batch.revision == revision => {
                    batch.events.push(event);
                    batch.bytes += bytes;
                }
                _ => self.tail.push_back(Batch {
                    revision,
                    events: vec![event],
                    bytes,
                }),
            }
        }
        self.published = to;
        while self.tail_bytes > self.tail_bytes_max {
            let Some(oldest) = self.tail.pop_front() else {
                break;
            };
            self.tail_bytes -= oldest.bytes;
            self.tail_from = oldest.revision + 1;
        }
        for key in std::mem::take(&mut self.parked) {
            self.enqueue(key);
        }
        for stream in std::mem::take(&mut self.progress_waiting) {
            self.wake(stream);
        }
    }

    /// What was to be published is compacted already: whoever has not seen it falls behind, and is told
    /// by its next poll.
    pub fn skip_to_compacted(&mut self) {
        let from = self.published + 1;
        let to = self.compact_revision.max(from) - 1;
        let mut behind = Vec::new();
        for (slot, watcher) in self.watchers.iter_mut().enumerate() {
            let Some(watcher) = watcher else { continue };
            if watcher.position == Position::Synced && watcher.spec.start_revision <= to {
                watcher.position = Position::Behind {
                    from: from.max(watcher.spec.start_revision),
                };
                behind.push(WatcherKey {
                    slot: slot as u32,
                    generation: watcher.generation,
                });
            }
        }
        self.publish(to, Vec::new());
        self.tail.clear();
        self.tail_bytes = 0;
        self.tail_from = to + 1;
        for key in behind {
            self.enqueue(key);
        }
    }

    /// Marks the synced watchers of an event's key as pending.
    fn mark(&mut self, event: &Event, revision: i64) {
        let mut found = std::mem::take(&mut self.index.found);
        self.index.stab(&event.kv.key, &mut found);
        for slot in found.drain(..) {
            let Some(watcher) = self.watchers[slot as usize].as_mut() else {
                continue;
            };
            if watcher.position != Position::Synced || !wanted(&watcher.spec, event) {
                continue;
            }
            watcher.position = Position::Pending { from: revision };
            let key = WatcherKey {
                slot,
                generation: watcher.generation,
            };
            watcher.enqueue(key, &mut self.streams, &mut self.woken);
        }
        self.index.found = found;
    }

    /// Reads below `revision` are refused from here on.
    pub fn compacted(&mut self, revision: i64) {
        self.compact_revision = self.compact_revision.max(revision);
    }

    /// Streams that have something to send since the last call.
    pub fn take_woken(&mut self, woken: &mut Vec<StreamId>) {
        for stream in self.woken.drain(..) {
            if let Some(state) = self.streams.get_mut(stream) {
                state.woken = false;
                woken.push(stream);
            }
        }
    }

    /// The next thing to send on a stream, about `bytes_max` bytes of events at most (one revision
    /// is never split). `None`: nothing until the stream is woken again.
    pub fn poll(&mut self, stream: StreamId, bytes_max: usize) -> Option<Output> {
        while let Some(key) = self.streams.get_mut(stream)?.ready.pop_front() {
            if let Some(output) = self.poll_watcher(key, bytes_max) {
                return Some(output);
            }
        }
        self.poll_progress(stream)
    }

    /// As [`WatchHub::poll`], but never asks for a read of history: `None` also when that is what
    /// comes next, and [`WatchHub::poll`] then still finds it.
    pub fn poll_at_hand(&mut self, stream: StreamId, bytes_max: usize) -> Option<Output> {
        while let Some(&key) = self.streams.get(stream)?.ready.front() {
            if self.needs_history(key) {
                return None;
            }
            self.streams.get_mut(stream)?.ready.pop_front();
            if let Some(output) = self.poll_watcher(key, bytes_max) {
                return Some(output);
            }
        }
        self.poll_progress(stream)
    }

    /// Watchers of a stream that may have something to be shown.
    pub fn waiting(&self, stream: StreamId) -> usize {
        self.streams
            .get(stream)
            .map_or(0, |state| state.ready.len())
    }

    fn needs_history(&self, key: WatcherKey) -> bool {
        self.watcher(key)
            .is_some_and(|watcher| match watcher.position {
                Position::Synced => false,
                Position::Pending { from } => from < self.tail_from,
                Position::Behind { .. } => true,
            })
    }

    fn poll_progress(&mut self, stream: StreamId) -> Option<Output> {
        let state = self.streams.get(stream)?;
        let needed = state.progress_requested?;
        if needed > self.published {
            self.progress_waiting.push(stream);
            return None;
        }
        let synced = |key: &WatcherKey| {
            self.watcher(*key)
                .is_some_and(|watcher| watcher.position == Position::Synced)
        };
        if !state.watchers.values().all(synced) {
            return None;
        }
        self.streams.get_mut(stream)?.progress_requested = None;
        Some(Output::Progress {
            watch: None,
            revision: self.published,
        })
    }

    fn poll_watcher(&mut self, key: WatcherKey, bytes_max: usize) -> Option<Output> {
        let (tail_from, compact_revision) = (self.tail_from, self.compact_revision);
        let published = self.published;
        let watcher = find(&mut self.watchers, key)?;
        watcher.queued = false;
        let (id, prev_kv, fragment) = (watcher.id, watcher.spec.prev_kv, watcher.spec.fragment);
        match watcher.position {
            Position::Synced => {
                let due = std::mem::replace(&mut watcher.progress_due, false);
                // A watcher of the future has seen nothing up to `published` yet.
                let reached = watcher.spec.start_revision <= published + 1;
                (due && reached).then_some(Output::Progress {
                    watch: Some(id),
                    revision: published,
                })
            }
            Position::Pending { from } if from >= tail_from => {
                let (events, next) = tail_events(&self.tail, &watcher.spec, from, bytes_max);
                watcher.shown |= !events.is_empty();
                watcher.position = match next {
                    Some(from) => Position::Pending { from },
                    None => Position::Synced,
                };
                if next.is_some() || watcher.progress_due {
                    watcher.enqueue(key, &mut self.streams, &mut self.woken);
                }
                if events.is_empty() {
                    return None;
                }
                Some(Output::Events {
                    watch: id,
                    events,
                    prev_kv,
                    fragment,
                    revision: published,
                })
            }
            Position::Pending { from } | Position::Behind { from } => {
                if from < compact_revision {
                    self.drop_watcher(key);
                    return Some(Output::Compacted {
                        watch: id,
                        compact_revision,
                    });
                }
                watcher.position = Position::Behind { from };
                if from > published {
                    self.settle(key, from);
                    return None;
                }
                let ranges = Arc::new(RangeSet::new([watcher.spec.range.clone()]));
                let (to, bytes_max) = (published, CATCH_UP_BYTES);
                Some(Output::CatchUp(CatchUp {
                    watcher: key,
                    from,
                    to,
                    ranges,
                    prev_kv,
                    bytes_max,
                }))
            }
        }
    }

    /// Brings what a catch-up asked for: `events` in order, and the first revision they do not
    /// cover. Answers what to send, if any of them is wanted.
    pub fn catch_up(&mut self, query: &CatchUp, events: Vec<Event>, next: i64) -> Option<Output> {
        let published = self.published;
        let watcher = self.watcher_mut(query.watcher)?;
        let events: EventList = events
            .into_iter()
            .filter(|event| wanted(&watcher.spec, event))
            .map(SharedEvent::new)
            .collect();
        let (id, prev_kv, fragment) = (watcher.id, watcher.spec.prev_kv, watcher.spec.fragment);
        watcher.shown |= !events.is_empty();
        self.settle(query.watcher, next);
        (!events.is_empty()).then_some(Output::Events {
            watch: id,
            events,
            prev_kv,
            fragment,
            revision: published,
        })
    }

    /// Nobody brings the answer of this catch-up: the watcher asks again with the next poll.
    pub fn abandon_catch_up(&mut self, query: &CatchUp) {
        self.enqueue(query.watcher);
    }

    /// The history that a catch-up asked for is compacted: the watcher is gone.
    pub fn catch_up_compacted(&mut self, query: &CatchUp) -> Option<Output> {
        let id = self.watcher(query.watcher)?.id;
        self.drop_watcher(query.watcher);
        Some(Output::Compacted {
            watch: id,
            compact_revision: self.compact_revision,
        })
    }

    /// Places a watcher that was shown everything below `next`.
    fn settle(&mut self, key: WatcherKey, next: i64) {
        let (published, tail_from) = (self.published, self.tail_from);
        let Some(watcher) = self.watcher_mut(key) else {
            return;
        };
        let stream = watcher.stream;
        if next > published && published + 1 >= watcher.covered_from {
            watcher.position = Position::Synced;
            if watcher.progress_due {
                self.enqueue(key);
            }
        } else if next > published {
            // A read that began before this watcher was created is still to be published.
            watcher.position = Position::Behind { from: next };
            self.parked.push(key);
        } else {
            watcher.position = if next >= tail_from.max(watcher.covered_from) {
                Position::Pending { from: next }
            } else {
                Position::Behind { from: next }
            };
            self.enqueue(key);
        }
        self.wake(stream);
    }

    fn watcher(&self, key: WatcherKey) -> Option<&Watcher> {
        let watcher = self.watchers.get(key.slot as usize)?.as_ref()?;
        (watcher.generation == key.generation).then_some(watcher)
    }

    fn watcher_mut(&mut self, key: WatcherKey) -> Option<&mut Watcher> {
        find(&mut self.watchers, key)
    }

    fn drop_watcher(&mut self, key: WatcherKey) {
        let Some(watcher) = self.watcher(key) else {
            return;
        };
        let (stream, id) = (watcher.stream, watcher.id);
        if let Some(state) = self.streams.get_mut(stream) {
            state.watchers.remove(&id);
        }
        self.remove(key);
        self.wake(stream);
    }

    fn remove(&mut self, key: WatcherKey) {
        if self.watcher(key).is_none() {
            return;
        }
        if let Some(watcher) = self.watchers[key.slot as usize].take() {
            self.prev_kv_watchers -= usize::from(watcher.spec.prev_kv);
            self.index.remove(key.slot, &watcher.spec.range);
            self.free.push(key.slot);
        }
    }

    fn enqueue(&mut self, key: WatcherKey) {
        if let Some(watcher) = find(&mut self.watchers, key) {
            watcher.enqueue(key, &mut self.streams, &mut self.woken);
        }
    }

    fn wake(&mut self, stream: StreamId) {
        if let Some(state) = self.streams.get_mut(stream) {
            wake(stream, state, &mut self.woken);
        }
    }
}

impl Watcher {
    /// Has its stream look at it.
    fn enqueue(&mut self, key: WatcherKey, streams: &mut Streams, woken: &mut Vec<StreamId>) {
        let Some(state) = streams.get_mut(self.stream) else {
            return;
        };
        if !std::mem::replace(&mut self.queued, true) {
            state.ready.push_back(key);
        }
        wake(self.stream, state, woken);
    }
}

fn find(watchers: &mut [Option<Watcher>], key: WatcherKey) -> Option<&mut Watcher> {
    let watcher = watchers.get_mut(key.slot as usize)?.as_mut()?;
    (watcher.generation == key.generation).then_some(watcher)
}

fn wake(stream: StreamId, state: &mut StreamState, woken: &mut Vec<StreamId>) {
    if !std::mem::replace(&mut state.woken, true) {
        woken.push(stream);
    }
}

/// Events of a watcher in the tail from `from` on, and the first revision left out.
fn tail_events(
    tail: &VecDeque<Batch>,
    spec: &WatchSpec,
    from: i64,
    bytes_max: usize,
) -> (EventList, Option<i64>) {
    let mut events = EventList::new();
    let mut bytes = 0;
    for batch in tail.range(first_at(tail, from)..) {
        if bytes >= bytes_max {
            return (events, Some(batch.revision));
        }
        for event in &batch.events {
            if spec.range.contains(&event.event.kv.key) && wanted(spec, &event.event) {
                bytes += event.bytes();
                events.push(Rc::clone(event));
            }
        }
    }
    (events, None)
}

/// Place of the first batch at or above `from`. Who keeps up wants the last one.
fn first_at(tail: &VecDeque<Batch>, from: i64) -> usize {
    let below = |at: usize| tail.get(at).is_none_or(|batch| batch.revision < from);
    match tail.len() {
        0 => 0,
        len if below(len - 1) => len,
        len if len == 1 || below(len - 2) => len - 1,
        _ => tail.partition_point(|batch| batch.revision < from),
    }
}

fn wanted(spec: &WatchSpec, event: &Event) -> bool {
    event.revision.main >= spec.start_revision
        && !if event.tombstone {
            spec.no_delete
        } else {
            spec.no_put
        }
}
