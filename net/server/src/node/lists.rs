//! Large lists: ranges whose answers are made while they are sent.
//!
//! Owns the pins that hold their revisions in the shards, and lets go of them: when the list is dropped,
//! however it ended, or when it has taken too long. Refuses to know what answers look like on the wire.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use engine::auth::Authorized;
use engine::command::{CommandError, Range};
use engine::read::{
    ListEnd, ListOrder, ListRead, ListValues, Listed, OutlineRead, resolve_revision, sort_outline,
};
use engine::shard::{PinId, ShardReply, ShardRequest};
use reactor::{Class, Timestamp};

use super::leases::wait_for;
use super::{Answer, Header, Node, State, WriteError};
use crate::local::{Changed, Flag, one_shot};

/// Answers with more bytes of keys and values than this are not held in memory, by default.
pub(super) const WHOLE_BYTES_MAX: usize = 1 << 20;
/// A list that takes longer may be overtaken by a compaction.
const PIN_TIME_MAX: Duration = Duration::from_secs(10 * 60);
/// Lists of a core that hold a revision at the same time. Further ones wait, without an error as they would in etcd:
/// each takes about two MiB. The pins of 16 cores fit into a shard.
pub const LISTS_MAX: usize = 64;
/// Requests of one list under way.
pub(super) const ASKED_MAX: usize = 64;
/// Bits of a pin's number that count; above them stands the core.
const PIN_COUNT_BITS: u32 = 48;
/// Pieces are gathered up to this many bytes.
const PIECE_BYTES: usize = 64 << 10;

/// The pins of a node's lists.
pub(super) struct Lists {
    /// Number of the last pin; the core stands in its upper bits.
    last: Cell<u64>,
    /// When each pin goes, whatever became of its read.
    pins: RefCell<BTreeMap<PinId, Timestamp>>,
    /// Pins that the shards still have.
    released: RefCell<Vec<PinId>>,
    work: Flag,
    /// Notified when a further list may begin.
    room: Changed,
}

/// A pinned revision; let go when dropped.
pub(super) struct Pin {
    node: Node,
    pub(super) id: PinId,
}

/// What is pinned.
#[derive(Clone, Copy)]
pub(super) struct Pinned {
    /// Main revision.
    pub(super) at: i64,
    /// Records stay where they are, and it does not go on without.
    pub(super) still: bool,
    /// So long at most.
    pub(super) time_max: Duration,
}

impl Lists {
    /// Of one core; the pins of all have different numbers.
    pub(super) fn of_core(core: u16) -> Lists {
        Lists {
            last: Cell::new(u64::from(core) << PIN_COUNT_BITS),
            pins: RefCell::default(),
            released: RefCell::default(),
            work: Flag::default(),
            room: Changed::default(),
        }
    }

    /// The pin that goes first, and when, in nanoseconds.
    fn first_end(&self) -> Option<(u64, PinId)> {
        let pins = self.pins.borrow();
        pins.iter().map(|(id, until)| (until.nanos(), *id)).min()
    }
}

impl Pin {
    async fn ask_shards(self, pinned: Pinned) -> Result<Option<Pin>, WriteError> {
        let (node, id) = (&self.node, self.id);
        let Pinned { at, still, .. } = pinned;
        for shard in 0..node.0.shards.count() {
            match node.ask(shard, ShardRequest::Pin { id, at, still }).await? {
                ShardReply::Refused => return Ok(None),
                ShardReply::Pinned(false) if still => return Err(WriteError::TooManyRequests),
                _ => {}
            }
        }
        Ok(Some(self))
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let lists = &self.node.0.lists;
        if lists.pins.borrow_mut().remove(&self.id).is_some() {
            lists.released.borrow_mut().push(self.id);
            lists.work.raise();
            lists.room.notify();
        }
    }
}

/// The answer to a range.
pub enum Ranged {
    /// All of it.
    Whole(Answer),
    /// It is large: its keys come piece by piece.
    List(List),
}

/// A large range at a revision that is held for it.
pub struct List {
    node: Node,
    range: Authorized<Range>,
    at: i64,
    header: Header,
    pin: Pin,
    /// The sorted outline, where the answer is not in key order.
    outline: Vec<Listed>,
    /// The last key of an answer that its limit cuts, once the outline is known.
    last: Option<Bytes>,
}

/// The values of a list.
pub struct ListBody {
    list: List,
    read: ListValues,
    asked: Asked,
}

impl Node {
    /// Reads a range: at once if its answer is small.
    ///
    /// # Errors
    /// As for [`Node::execute`].
    pub async fn range_or_list(&self, range: Authorized<Range>) -> Result<Ranged, WriteError> {
        self.note_request();
        let bytes_max = match ListOrder::of(&range) {
            Some(_) => self.0.options.whole_bytes_max,
            None => usize::MAX,
        };
        match self.range_up_to(&range, bytes_max).await? {
            Some(answer) => Ok(Ranged::Whole(answer)),
            None => Ok(Ranged::List(self.list(range).await?)),
        }
    }

    /// Begins a list, however small it is, once there is room for a further one.
    ///
    /// # Errors
    /// `Compacted`, `FutureRevision`, `Stopped`.
    pub async fn list(&self, range: Authorized<Range>) -> Result<List, WriteError> {
        loop {
            let lists = &self.0.lists;
            let has_room = || lists.pins.borrow().len() < LISTS_MAX;
            lists.room.until(has_room).await;
            // Before the revision, which is then not below it.
            let compacted = self.compact_revision();
            let header = self.header();
            let at = resolve_revision(&range, header.revision, compacted)
                .map_err(WriteError::Command)?;
            let pinned = Pinned {
                at,
                still: false,
                time_max: PIN_TIME_MAX,
            };
            if let Some(pin) = self.pin(pinned).await? {
                return Ok(List {
                    node: self.clone(),
                    range,
                    at,
                    header,
                    pin,
                    outline: Vec::new(),
                    last: None,
                });
            }
            // A compaction that is not visible yet was quicker, as for any range.
            if range.revision > 0 {
                return Err(WriteError::Command(CommandError::Compacted));
            }
            self.0.world.yield_now().await;
        }
    }

    /// Pins a revision in all shards; none if one of them refuses reads there.
    ///
    /// A task of its own asks, and goes on if nobody waits for it any more: a pin is let go of only when no
    /// request for it is under way. One that is overtaken by its release would stay.
    pub(super) async fn pin(&self, pinned: Pinned) -> Result<Option<Pin>, WriteError> {
        let lists = &self.0.lists;
        let id = PinId(lists.last.get() + 1);
        lists.last.set(id.0);
        let until = self.0.world.now().nanos() + pinned.time_max.as_nanos() as u64;
        lists.pins.borrow_mut().insert(id, Timestamp(until));
        let pin = Pin {
            node: self.clone(),
            id,
        };
        // The end of its time may be the first to be waited for.
        lists.work.raise();
        let (responder, waiting) = one_shot();
        drop(self.0.world.spawn(Class::Request, async move {
            responder.answer(pin.ask_shards(pinned).await);
        }));
        waiting.await.ok_or(WriteError::Stopped)?
    }

    /// Pins that hold a revision now.
    pub fn pins(&self) -> usize {
        let lists = &self.0.lists;
        lists.pins.borrow().len() + lists.released.borrow().len()
    }

    /// The task that lets the shards know of lists that are over.
    pub(super) async fn run_lists(&self) {
        let lists = &self.0.lists;
        while self.state() < State::Stopped {
            let first = lists.first_end();
            if lists.released.borrow().is_empty() {
                wait_for(&self.0.world, &lists.work, first.map(|(until, _)| until)).await;
            }
            if let Some((until, id)) = first
                && self.0.world.now().nanos() >= until
                && lists.pins.borrow_mut().remove(&id).is_some()
            {
                lists.released.borrow_mut().push(id);
                lists.room.notify();
            }
            for id in lists.released.take() {
                for shard in 0..self.0.shards.count() {
                    if self.ask(shard, ShardRequest::Unpin(id)).await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}

impl List {
    /// Header of the answer.
    pub fn header(&self) -> Header {
        self.header
    }

    /// Walks over everything that the answer is going to show, without the values, and tells how it ends.
    ///
    /// # Errors
    /// `Compacted`, `Damaged`, `Stopped`.
    pub async fn outline(&mut self, mut each: impl FnMut(&Listed)) -> Result<ListEnd, WriteError> {
        let limit = usize::try_from(self.range.limit).ok();
        let limit = limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let is_sorted = ListOrder::of(&self.range) == Some(ListOrder::Outline);
        let shards = self.node.0.shards.count();
        let mut read = ListRead::outline(&self.range, self.at, self.pin.id, shards);
        let mut asked = Asked::default();
        let mut keys = 0;
        while !read.is_done() {
            while let Some((shard, request)) = read.poll() {
                asked.push(&self.node, shard, request);
            }
            let (shard, reply) = asked.next().await?;
            read.on_reply(shard, reply);
            let piece = read.take();
            if is_sorted {
                self.outline.extend(piece);
                continue;
            }
            piece.iter().take(limit - keys).for_each(&mut each);
            keys += piece.len().min(limit - keys);
        }
        let end = read.finish().map_err(WriteError::Command)?;
        self.last = read.last();
        sort_outline(&self.range, &mut self.outline);
        self.outline.iter().for_each(each);
        Ok(end)
    }

    /// The first `keys` keys with what the answer shows of them; after [`List::outline`] in the order of
    /// the answer.
    pub fn values(mut self, keys: usize) -> ListBody {
        let (at, pin) = (self.at, self.pin.id);
        let shards = self.node.0.shards.count();
        let outline = std::mem::take(&mut self.outline);
        let last = self.last.take();
        let read = match outline.is_empty() {
            true => ListValues::Keys(ListRead::values(&self.range, at, pin, shards, keys, last)),
            false => ListValues::Outline(OutlineRead::new(&self.range, at, pin, shards, outline)),
        };
        ListBody {
            list: self,
            read,
            asked: Asked::default(),
        }
    }
}

impl ListBody {
    /// The next keys; none at the end.
    ///
    /// # Errors
    /// `Damaged`, `Stopped`; `Compacted` if the pin was lost and a compaction has overtaken the list.
    pub async fn next(&mut self) -> Result<Option<Vec<Listed>>, WriteError> {
        let (mut piece, mut bytes) = (Vec::new(), 0);
        loop {
            while self.asked.len() < ASKED_MAX
                && let Some((shard, request)) = self.read.poll()
            {
                self.asked.push(&self.list.node, shard, request);
            }
            if self.read.is_overtaken() {
                return Err(WriteError::Command(CommandError::Compacted));
            }
            if self.read.has_some() {
                let more = self.read.take();
                bytes += more.iter().map(Listed::memory).sum::<usize>();
                piece.extend(more);
                if bytes >= PIECE_BYTES {
                    return Ok(Some(piece));
                }
                continue;
            }
            if self.read.is_done() {
                return Ok((!piece.is_empty()).then_some(piece));
            }
            let (shard, reply) = match self.asked.next().await {
                Ok(answered) => answered,
                Err(error) => {
                    self.warn_of(&error);
                    return Err(error);
                }
            };
            self.read.on_reply(shard, reply);
        }
    }

    /// A client that has got a part of the message may not show what came behind it.
    fn warn_of(&self, error: &WriteError) {
        if let WriteError::Damaged(damage) = error {
            self.list.node.0.logger.error(
                "stored data is damaged; a list ended unfinished",
                &[
                    ("file", damage.file.as_str().into()),
                    ("offset", damage.offset.into()),
                    ("error", damage.what.as_str().into()),
                ],
            );
        }
    }
}

type Reply = std::pin::Pin<Box<dyn Future<Output = Result<ShardReply, WriteError>>>>;

/// Requests under way.
#[derive(Default)]
pub(super) struct Asked(Vec<(u16, Reply)>);

impl Asked {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn push(&mut self, node: &Node, shard: u16, request: ShardRequest) {
        let node = node.clone();
        let reply = async move { node.ask(shard, request).await };
        self.0.push((shard, Box::pin(reply)));
    }

    /// The first answer that is there.
    pub(super) async fn next(&mut self) -> Result<(u16, ShardReply), WriteError> {
        assert!(
            !self.0.is_empty(),
            "nothing was asked that could be answered"
        );
        poll_fn(|context| {
            for index in 0..self.0.len() {
                let (shard, reply) = &mut self.0[index];
                if let Poll::Ready(reply) = reply.as_mut().poll(context) {
                    let answered = reply.map(|reply| (*shard, reply));
                    drop(self.0.remove(index));
                    return Poll::Ready(answered);
                }
            }
            Poll::Pending
        })
        .await
    }
}
