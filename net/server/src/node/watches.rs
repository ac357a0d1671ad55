//! Watches of a member: one task reads what became visible and publishes it to the hub; each stream
//! pulls what it is to be shown.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;

use engine::command::CommandError;
use engine::read::EventRead;
use engine::shard::{Damage, EventsRequest};
use engine::store::{Event, RangeSet};
use engine::watch::{CatchUp, CreateError, Output, StreamId, WatchHub, WatchId, WatchSpec};

use super::{Node, State, WriteError};
use crate::local::Flag;

/// Bytes of events read for the live watchers in one go.
const LIVE_READ_BYTES: usize = 4 << 20;

/// The hub of a core with the wakers of its streams.
pub(super) struct Watches {
    hub: RefCell<WatchHub>,
    wakers: RefCell<BTreeMap<StreamId, Waker>>,
    /// The open streams; those that need damaged history end with it.
    streams: RefCell<BTreeMap<StreamId, Option<Damage>>>,
    /// Raised when something became visible.
    visible: Flag,
    /// What became visible is being read for the hub.
    publishing: Cell<bool>,
    woken: RefCell<Vec<StreamId>>,
}

impl Watches {
    pub(super) fn new(revision: i64, compact_revision: i64) -> Watches {
        let mut hub = WatchHub::new(revision);
        hub.compacted(compact_revision);
        Watches {
            hub: RefCell::new(hub),
            wakers: RefCell::default(),
            streams: RefCell::default(),
            visible: Flag::default(),
            publishing: Cell::new(false),
            woken: RefCell::default(),
        }
    }

    /// Something became visible.
    pub(super) fn published(&self) {
        self.visible.raise();
    }

    /// Lets every stream look again.
    pub(super) fn wake_all(&self) {
        self.visible.raise();
        for waker in std::mem::take(&mut *self.wakers.borrow_mut()).into_values() {
            waker.wake();
        }
    }

    /// Ends the streams that are open now: what became visible cannot be read back.
    fn end_all(&self, damage: &Damage) {
        for ended in self.streams.borrow_mut().values_mut() {
            ended.get_or_insert_with(|| damage.clone());
        }
        for waker in std::mem::take(&mut *self.wakers.borrow_mut()).into_values() {
            waker.wake();
        }
    }

    fn wake_streams(&self) {
        let mut woken = self.woken.borrow_mut();
        self.hub.borrow_mut().take_woken(&mut woken);
        let mut wakers = self.wakers.borrow_mut();
        for stream in woken.drain(..) {
            if let Some(waker) = wakers.remove(&stream) {
                waker.wake();
            }
        }
    }
}

/// One client's watch stream. Dropping it ends its watchers.
pub struct WatchStream {
    node: Node,
    id: StreamId,
}

impl Node {
    /// Opens a watch stream.
    pub fn open_watch_stream(&self) -> WatchStream {
        let id = self.0.watches.hub.borrow_mut().open_stream();
        let mut streams = self.0.watches.streams.borrow_mut();
        if streams.is_empty() {
            self.0.board.core(self.0.core).set_has_streams(true);
            self.catch_up_with_nobody();
        }
        streams.insert(id, None);
        drop(streams);
        self.show_watches();
        WatchStream {
            node: self.clone(),
            id,
        }
    }

    /// Shows how many streams and watchers there are.
    fn show_watches(&self) {
        let watches = &self.0.watches;
        let metrics = self.metrics();
        metrics
            .watch_streams
            .set(watches.streams.borrow().len() as u64);
        let watchers = watches.hub.borrow().watcher_count();
        metrics.watchers.set(watchers as u64);
    }

    /// The task that publishes what became visible, in order.
    pub(super) async fn run_watches(&self) {
        loop {
            self.0.watches.visible.wait().await;
            if self.state() >= State::Stopped {
                return;
            }
            self.0.watches.publishing.set(true);
            let published = self.publish_visible().await;
            self.0.watches.publishing.set(false);
            if published.is_err() {
                return;
            }
        }
    }

    async fn publish_visible(&self) -> Result<(), WriteError> {
        loop {
            let applied = self.0.board.visible.revision();
            self.note_compaction();
            let query = self.0.watches.hub.borrow_mut().live_query(applied);
            let Some(query) = query else {
                self.0.watches.wake_streams();
                return Ok(());
            };
            let mut from = query.from;
            while from <= query.to {
                let read = self
                    .read_events(
                        from,
                        query.to,
                        &query.ranges,
                        query.prev_kv,
                        LIVE_READ_BYTES,
                    )
                    .await;
                let (events, next) = match read {
                    Ok(read) => read,
                    // Compacted before it was shown: whoever wanted it is told so.
                    Err(WriteError::Command(CommandError::Compacted)) => {
                        if from >= self.compact_revision() {
                            // The shards are ahead of what is visible: once what that waits for had its turn.
                            self.0.world.yield_now().await;
                        }
                        self.note_compaction();
                        self.0.watches.hub.borrow_mut().skip_to_compacted();
                        break;
                    }
                    // Nobody can be shown a gap. Once these streams are gone the hub goes on behind it.
                    Err(WriteError::Damaged(damage)) => {
                        self.0.logger.error(
                            "watch streams end: history is damaged",
                            &[("damage", damage.to_string().into())],
                        );
                        self.0.watches.end_all(&damage);
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                };
                self.0.watches.hub.borrow_mut().publish(next - 1, events);
                self.0.watches.wake_streams();
                from = next;
            }
        }
    }

    /// Events of all shards in (main, sub) order, and the first revision not covered.
    async fn read_events(
        &self,
        from: i64,
        to: i64,
        ranges: &Arc<RangeSet>,
        prev_kv: bool,
        bytes_max: usize,
    ) -> Result<(Vec<Event>, i64), WriteError> {
        let request = EventsRequest {
            from,
            to,
            ranges: Some(ranges.clone()),
            prev_kv,
            bytes_max,
            pin: None,
        };
        let mut read = EventRead::new(request, self.0.shards.count());
        self.fan_out(&mut read).await?;
        let chunk = read.finish().map_err(WriteError::Command)?;
        Ok((chunk.events, chunk.next))
    }

    /// Nobody told the hub what became visible while it had no streams, and nobody needs to be shown it.
    fn catch_up_with_nobody(&self) {
        if self.0.watches.publishing.get() {
            return;
        }
        let revision = self.0.board.visible.revision();
        let query = self.0.watches.hub.borrow_mut().live_query(revision);
        assert!(query.is_none(), "a hub without watchers asks for {query:?}");
    }

    /// Lets the hub know what was compacted.
    fn note_compaction(&self) {
        let revision = self.compact_revision();
        self.0.watches.hub.borrow_mut().compacted(revision);
    }

    pub(super) async fn run_progress(&self) {
        let interval = self.0.options.watch_progress_interval;
        while self.state() <= State::Serving {
            // Up to a tenth more, so that the notes of many members do not fall together.
            let jitter = self.0.world.random_u64() % (interval.as_nanos() as u64 / 10).max(1);
            let wait = interval + std::time::Duration::from_nanos(jitter);
            self.0.world.sleep(wait).await;
            self.0.watches.hub.borrow_mut().tick_progress();
            self.0.watches.wake_streams();
        }
    }
}

impl WatchStream {
    /// Creates a watcher and answers its id with the revision of the creation answer.
    ///
    /// # Errors
    /// See [`CreateError`].
    pub fn create(&self, spec: WatchSpec) -> Result<(WatchId, i64), CreateError> {
        let revision = self.node.0.board.visible.revision();
        self.node.note_compaction();
        let id = self
            .node
            .0
            .watches
            .hub
            .borrow_mut()
            .create(self.id, spec, revision)?;
        self.node.show_watches();
        Ok((id, revision))
    }

    /// Ends a watcher; `false` if there is none with this id.
    pub fn cancel(&self, id: WatchId) -> bool {
        let was_there = self.node.0.watches.hub.borrow_mut().cancel(self.id, id);
        self.node.show_watches();
        was_there
    }

    /// Asks for a progress note of the whole stream.
    pub fn request_progress(&self) {
        let applied = self.node.0.board.visible.revision();
        self.node
            .0
            .watches
            .hub
            .borrow_mut()
            .request_progress(self.id, applied);
        self.node.0.watches.visible.raise();
    }

    /// The damage that ended the stream, if that is why it ended.
    pub fn damage(&self) -> Option<Damage> {
        let streams = self.node.0.watches.streams.borrow();
        streams.get(&self.id).cloned().flatten()
    }

    /// What to send next, once there is something; `None` when the node stops or history that the
    /// stream needs is damaged.
    pub async fn next(&self, bytes_max: usize) -> Option<Output> {
        loop {
            if self.damage().is_some() {
                return None;
            }
            self.node.note_compaction();
            let output = self
                .node
                .0
                .watches
                .hub
                .borrow_mut()
                .poll(self.id, bytes_max);
            match output {
                Some(Output::CatchUp(query)) => {
                    if let Some(output) = self.catch_up(query).await? {
                        return Some(output);
                    }
                }
                Some(output) => return Some(output),
                None => {
                    if self.node.is_stopping() {
                        return None;
                    }
                    self.woken().await;
                }
            }
        }
    }

    /// What to send after that, if it is here: asks for no history and waits for nothing.
    pub fn next_at_hand(&self, bytes_max: usize) -> Option<Output> {
        let mut hub = self.node.0.watches.hub.borrow_mut();
        hub.poll_at_hand(self.id, bytes_max)
    }

    /// Watchers that may have something to be shown.
    pub fn waiting(&self) -> usize {
        self.node.0.watches.hub.borrow().waiting(self.id)
    }

    /// Reads history for one watcher; the outer `None` is a stop. Dropped while it waits, the watcher
    /// is to be polled again.
    async fn catch_up(&self, query: CatchUp) -> Option<Option<Output>> {
        let mut unfinished = UnfinishedCatchUp {
            node: &self.node,
            query: Some(query.clone()),
        };
        let read = self
            .node
            .read_events(
                query.from,
                query.to,
                &query.ranges,
                query.prev_kv,
                query.bytes_max,
            )
            .await;
        if matches!(read, Err(WriteError::Command(CommandError::Compacted)))
            && query.from >= self.node.compact_revision()
        {
            // The shards are ahead: the compaction that took this history is not visible yet, and the
            // client is to be told its revision. Asking again comes to the same until it is.
            drop(unfinished);
            self.node.0.world.yield_now().await;
            return Some(None);
        }
        unfinished.query = None;
        self.node.note_compaction();
        let mut hub = self.node.0.watches.hub.borrow_mut();
        match read {
            Ok((events, next)) => Some(hub.catch_up(&query, events, next)),
            // A compaction overtook the read.
            Err(WriteError::Command(CommandError::Compacted)) => {
                Some(hub.catch_up_compacted(&query))
            }
            Err(WriteError::Damaged(damage)) => {
                let mut streams = self.node.0.watches.streams.borrow_mut();
                streams.insert(self.id, Some(damage));
                None
            }
            Err(_) => None,
        }
    }

    /// Waits until the stream is woken by the hub, a new request, or the end of the node.
    async fn woken(&self) {
        let mut registered = false;
        std::future::poll_fn(|context| {
            if std::mem::replace(&mut registered, true) {
                return std::task::Poll::Ready(());
            }
            let waker = context.waker().clone();
            self.node
                .0
                .watches
                .wakers
                .borrow_mut()
                .insert(self.id, waker);
            // What was woken before the waker was there.
            let mut woken = Vec::new();
            self.node.0.watches.hub.borrow_mut().take_woken(&mut woken);
            let mut pending = true;
            let mut wakers = self.node.0.watches.wakers.borrow_mut();
            for stream in woken {
                pending &= stream != self.id;
                if stream != self.id
                    && let Some(waker) = wakers.remove(&stream)
                {
                    waker.wake();
                }
            }
            if pending {
                std::task::Poll::Pending
            } else {
                std::task::Poll::Ready(())
            }
        })
        .await;
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        let watches = &self.node.0.watches;
        watches.hub.borrow_mut().close_stream(self.id);
        watches.wakers.borrow_mut().remove(&self.id);
        let mut streams = watches.streams.borrow_mut();
        streams.remove(&self.id);
        if streams.is_empty() {
            let board = &self.node.0.board;
            board.core(self.node.0.core).set_has_streams(false);
        }
        drop(streams);
        self.node.show_watches();
    }
}

/// Gives a watcher back to its stream when the read of its history is dropped.
struct UnfinishedCatchUp<'a> {
    node: &'a Node,
    query: Option<CatchUp>,
}

impl Drop for UnfinishedCatchUp<'_> {
    fn drop(&mut self) {
        if let Some(query) = self.query.take() {
            self.node
                .0
                .watches
                .hub
                .borrow_mut()
                .abandon_catch_up(&query);
        }
    }
}
