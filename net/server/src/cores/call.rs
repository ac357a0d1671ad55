//! What cores ask of each other.

use std::any::Any;
use std::rc::Rc;
use std::sync::Arc;

use engine::auth::Authorized;
use engine::command::Command;
use engine::image::ShardEvent;
use engine::shard::{ShardReply, ShardRequest};
use reactor::{DetachedStream, Timestamp, World};

use super::Board;
use super::link::{Answer, Answers, Callee, CalleeEnd, Caller, CallerEnd};
use crate::identity::Identity;
use crate::local::{Flag, Responder};
use crate::node::{Home, WriteError, WriteOutcome};
use crate::shards::{Scrubbed, TravellingShard};

/// A request from one core to another.
pub enum Call {
    /// A read of a shard, from any core to where it lives.
    Read {
        /// Which.
        shard: u16,
        /// What.
        request: ShardRequest,
    },
    /// The coordinator's next request to a shard, from home to where it lives.
    Change {
        /// Which.
        shard: u16,
        /// What.
        request: ShardRequest,
    },
    /// A client's write, to home.
    Write(Authorized<Command>),
    /// Whatever else is to be looked at or done at home.
    Home(HomeCall),
    /// Answered when the passes of all compactions so far are through; to home.
    Compacted,
    /// What a shard reports of its files, to home.
    ShardEvent {
        /// Which.
        shard: u16,
        /// What.
        event: ShardEvent,
    },
    /// Something to look at; answered at once.
    Notice(Notice),
    /// The member is open: the first call from home.
    Begin(Facts),
    /// Do a step of the scrub; from home.
    Scrub {
        /// In which shard.
        shard: u16,
    },
    /// Serve a connection; from home.
    Connection(DetachedStream),
    /// Begin nothing new in a shard that is to go; from home.
    Prepare {
        /// Which.
        shard: u16,
    },
    /// Let go of a shard; from home.
    Give {
        /// Which.
        shard: u16,
    },
    /// Host a shard; from home.
    Take(Box<TravellingShard>),
}

/// A piece of work that is carried home.
pub type HomeCall = Box<dyn FnOnce(&Home) -> Box<dyn Any + Send> + Send>;

/// Something that the other core should look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// From home: something became visible.
    Visible,
    /// From home: the member's state changed.
    State,
    /// From home: the superblock names the images of this checkpoint.
    Published(u32),
    /// From home: there may be room on the device again.
    RetrySpace,
    /// From home: there may be upkeep to do.
    Upkeep,
    /// To home: a shard's changes no longer outrun the disk.
    CaughtUp,
    /// To home: a checkpoint is due for what was changed.
    Dirty,
    /// To home: the upkeep of a shard began or ended something.
    UpkeepChanged,
}

/// What a core has to know of an open member.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Ids of the member and its cluster.
    pub identity: Identity,
    /// Shards of the data directory.
    pub shards: u16,
}

/// A response to a [`Call`].
pub enum Response {
    /// To a read or a change.
    Shard(ShardReply),
    /// To a read of a shard that lives elsewhere or is about to leave: the request comes back.
    NotHere(ShardRequest),
    /// To a write.
    Written(Result<WriteOutcome, WriteError>),
    /// To a call of home.
    Home(Box<dyn Any + Send>),
    /// To `Scrub`.
    Scrubbed(Scrubbed),
    /// To `Prepare`: whether it can go soon. If not it does not leave.
    Prepared(bool),
    /// To `Give`.
    Given(Box<TravellingShard>),
    /// To everything else.
    Done,
}

/// Who takes a response.
pub(crate) enum Waiter {
    /// A task.
    Task(Responder<Response>),
    /// The coordinator, for this shard.
    Coordinator(u16),
    /// The one that tells this core what became visible.
    Herald(u16),
    /// Nobody.
    Nobody,
}

/// A waiter, and when its call was made if that is timed.
pub(crate) struct Timed {
    pub(crate) waiter: Waiter,
    pub(crate) began: Option<Timestamp>,
}

/// A calling end on its core.
pub(crate) type CallsTo = Rc<Caller<Call, Response, Timed>>;

/// Where the calls of a core are counted.
pub(crate) struct CountedCalls {
    /// Of this core.
    pub(crate) core: u16,
    pub(crate) board: Arc<Board>,
    /// Times some of them.
    pub(crate) clock: World,
}

/// This core's calls to the others.
///
/// Invariant: what home may let wait (writes that changes are held back from, the end of a pass) has a link of
/// its own. Otherwise it could take all slots, and what ends its wait, such as the report that an image is
/// durable, would find none.
pub(crate) struct Links {
    callers: Vec<Option<CallsTo>>,
    /// To home; none there.
    patient: Option<CallsTo>,
    /// To the calls of the others.
    answers: Vec<Answers<Call, Response>>,
    /// Raised when something is to be flushed.
    wanted: Rc<Flag>,
    counted: CountedCalls,
}

/// The right to answer a call.
pub(crate) type CallAnswer = Answer<Call, Response>;

/// An answering end on its core.
pub(crate) type CallsFrom = Callee<Call, Response>;

impl Call {
    /// Whether home may let it wait for other calls.
    fn is_patient(&self) -> bool {
        matches!(self, Call::Write(_) | Call::Compacted)
    }
}

impl Links {
    /// Brings the ends of a core's links to life.
    pub(crate) fn new(
        callers: Vec<Option<CallerEnd<Call, Response>>>,
        patient: Option<CallerEnd<Call, Response>>,
        callees: impl Iterator<Item = CalleeEnd<Call, Response>>,
        counted: CountedCalls,
    ) -> (Links, Vec<CallsFrom>) {
        let wanted: Rc<Flag> = Rc::default();
        let caller = |end: Option<_>| end.map(|end| Rc::new(Caller::new(end, wanted.clone())));
        let callees: Vec<CallsFrom> = callees
            .map(|end| Callee::new(end, wanted.clone()))
            .collect();
        let links = Links {
            callers: callers.into_iter().map(caller).collect(),
            patient: caller(patient),
            answers: callees.iter().map(|end| end.answers().clone()).collect(),
            wanted: wanted.clone(),
            counted,
        };
        (links, callees)
    }

    /// Sends what has gathered for the other cores.
    pub(crate) fn flush(&self) {
        self.all().for_each(|caller| caller.flush());
        self.answers.iter().for_each(Answers::flush);
    }

    /// Waits until something has gathered that nobody flushes by himself.
    pub(crate) async fn flush_is_wanted(&self) {
        self.wanted.wait().await;
    }

    /// The cores that can be called.
    pub(crate) fn others(&self) -> impl Iterator<Item = u16> {
        let there = |(core, caller): (usize, &Option<_>)| caller.is_some().then_some(core as u16);
        self.callers.iter().enumerate().filter_map(there)
    }

    /// The ends of all links.
    pub(crate) fn all(&self) -> impl Iterator<Item = &CallsTo> {
        self.callers.iter().flatten().chain(&self.patient)
    }

    /// Calls `core`. If that is gone, whoever waits is dropped.
    ///
    /// # Panics
    /// If that is this core.
    pub(crate) fn call(&self, core: u16, waiter: Waiter, call: Call) {
        let caller = match &self.patient {
            Some(patient) if call.is_patient() => patient,
            _ => match &self.callers[usize::from(core)] {
                Some(caller) => caller,
                None => panic!("core {core} calls itself"),
            },
        };
        let CountedCalls {
            core: from,
            board,
            clock,
        } = &self.counted;
        let is_timed = board.metrics.core(*from).note_call(core);
        let began = is_timed.then(|| clock.now());
        drop(caller.call(Timed { waiter, began }, call));
    }

    /// Tells all other cores.
    pub(crate) fn tell_all(&self, notice: Notice) {
        for core in self.others() {
            self.tell(core, notice);
        }
    }

    /// Tells `core`.
    pub(crate) fn tell(&self, core: u16, notice: Notice) {
        self.call(core, Waiter::Nobody, Call::Notice(notice));
    }
}
