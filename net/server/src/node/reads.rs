//! Reads: fan out over the shards at one revision, merge, answer.
//!
//! Any core can read: shards that live there are asked at once, others over the links, all of them before the
//! first answer is waited for.
//!
//! A linearizable read of a one-voter group needs no round: once the member leads and an entry of
//! its own term is applied, everything acknowledged is visible here, and it stays the only one that
//! can acknowledge.

use std::collections::VecDeque;
use std::time::Duration;

use engine::auth::Authorized;
use engine::command::{CommandError, Range, Reply, Txn};
use engine::read::{EventRead, HashRead, LeaseKeysRead, RangeRead, resolve_revision};
use engine::shard::{ShardReply, ShardRequest};
use engine::txn::ReadTxn;

use super::{Answer, Node, State, WriteError};
use crate::cores::call::{Call, Response, Waiter};
use crate::local::{Waiting, one_shot};
use crate::shards::Asked;

/// A shard that travels is asked for again at once so many times, and then after a pause each time.
const YIELDS: u32 = 8;
const TRAVEL_PAUSE: Duration = Duration::from_micros(50);

impl Node {
    /// Waits until a linearizable read may begin.
    pub(super) async fn confirm_leadership(&self) -> Result<(), WriteError> {
        if self.state() == State::Starting {
            self.reached(State::Serving).await;
        }
        match self.state() {
            State::Serving | State::Stopping => Ok(()),
            _ => Err(WriteError::Stopped),
        }
    }

    pub(super) async fn range(&self, range: &Authorized<Range>) -> Result<Answer, WriteError> {
        let answer = self.range_up_to(range, usize::MAX).await?;
        Ok(answer.expect("no answer has more bytes than there can be"))
    }

    /// Reads a range; nothing if it turns out to have more than `bytes_max` bytes of keys and values.
    pub(super) async fn range_up_to(
        &self,
        range: &Authorized<Range>,
        bytes_max: usize,
    ) -> Result<Option<Answer>, WriteError> {
        let began = self.0.world.now();
        let read = self.read_range(range, bytes_max).await;
        let metrics = self.metrics();
        metrics.range_operations.increment();
        let took = self.0.world.now().since(began);
        metrics.ranges[usize::from(read.is_ok())].observe_time(took);
        read
    }

    async fn read_range(
        &self,
        range: &Authorized<Range>,
        bytes_max: usize,
    ) -> Result<Option<Answer>, WriteError> {
        if !range.serializable {
            self.confirm_leadership().await?;
        }
        loop {
            // Before the revision, which is then not below it.
            let compacted = self.compact_revision();
            let header = self.header();
            let at =
                resolve_revision(range, header.revision, compacted).map_err(WriteError::Command)?;
            let mut read = RangeRead::new(range, at, self.0.shards.count());
            if !self
                .fan_out_until(&mut read, |read| read.bytes() > bytes_max)
                .await?
            {
                return Ok(None);
            }
            match read.finish() {
                Ok(reply) => {
                    return Ok(Some(Answer {
                        header,
                        reply: Reply::Range(reply),
                    }));
                }
                // A compaction overtook a read of what was the newest revision: read again, once
                // what it waits for had its turn.
                Err(CommandError::Compacted) if range.revision <= 0 => {
                    self.0.world.yield_now().await;
                }
                Err(error) => return Err(WriteError::Command(error)),
            }
        }
    }

    pub(super) async fn read_txn(&self, txn: &Authorized<Txn>) -> Result<Answer, WriteError> {
        self.confirm_leadership().await?;
        loop {
            // Before the revision, which is then not below it.
            let compacted = self.compact_revision();
            let header = self.header();
            let shards = self.0.shards.count();
            let mut read = ReadTxn::new(txn, header.revision, compacted, shards);
            self.fan_out(&mut read).await?;
            // A compaction that may not be visible yet overtook the read: read again, once what it
            // waits for had its turn.
            if read.is_overtaken() {
                self.0.world.yield_now().await;
                continue;
            }
            let reply = read.finish().map_err(WriteError::Command)?;
            let ranges = reply.responses.len() as u64;
            self.metrics().range_operations.add(ranges);
            return Ok(Answer {
                header,
                reply: Reply::Txn(reply),
            });
        }
    }

    /// Carries the requests of a read to the shards and their answers back until it has no more.
    pub(super) async fn fan_out<R: FanOut>(&self, read: &mut R) -> Result<(), WriteError> {
        self.fan_out_until(read, |_| false).await.map(|_| ())
    }

    /// As [`Node::fan_out`]; false if it was left because of `too_much`, which is asked after each answer.
    async fn fan_out_until<R: FanOut>(
        &self,
        read: &mut R,
        too_much: impl Fn(&R) -> bool,
    ) -> Result<bool, WriteError> {
        // Most reads never wait, and then nothing is kept.
        let mut waiting: VecDeque<(u16, Coming)> = VecDeque::new();
        loop {
            while let Some((shard, request)) = read.poll() {
                match self.begin_to_ask(shard, request) {
                    Asking::Answered(reply) => {
                        read.on_reply(shard, undamaged(reply)?);
                        if too_much(read) {
                            return Ok(false);
                        }
                    }
                    Asking::Coming(coming) => waiting.push_back((shard, coming)),
                }
                if R::IS_LONG {
                    self.0.world.yield_if_due().await;
                }
            }
            let Some((shard, coming)) = waiting.pop_front() else {
                return Ok(true);
            };
            let reply = self.answer_to(shard, coming).await?;
            read.on_reply(shard, undamaged(reply)?);
            if too_much(read) {
                return Ok(false);
            }
        }
    }

    /// Asks a shard, wherever it lives.
    pub(super) async fn ask(
        &self,
        shard: u16,
        request: ShardRequest,
    ) -> Result<ShardReply, WriteError> {
        let reply = match self.begin_to_ask(shard, request) {
            Asking::Answered(reply) => reply,
            Asking::Coming(coming) => self.answer_to(shard, coming).await?,
        };
        undamaged(reply)
    }

    fn begin_to_ask(&self, shard: u16, request: ShardRequest) -> Asking {
        match self.0.shards.ask(shard, request) {
            Asked::Ready(reply) => Asking::Answered(reply),
            Asked::Waiting(waiting) => Asking::Coming(Coming::Here(waiting)),
            Asked::Elsewhere(request) => Asking::Coming(self.ask_elsewhere(shard, request)),
        }
    }

    fn ask_elsewhere(&self, shard: u16, request: ShardRequest) -> Coming {
        let owner = self.0.board.owner(shard);
        if owner == self.0.core {
            return Coming::Later(request);
        }
        let (responder, waiting) = one_shot();
        let call = Call::Read { shard, request };
        self.0.links.call(owner, Waiter::Task(responder), call);
        Coming::There(waiting)
    }

    /// Waits for an answer. A shard that is on its way is asked again until it has arrived.
    async fn answer_to(&self, shard: u16, mut coming: Coming) -> Result<ShardReply, WriteError> {
        let mut tries = 0;
        loop {
            let request = match coming {
                Coming::Here(waiting) => return waiting.await.ok_or(WriteError::Stopped),
                Coming::There(waiting) => match waiting.await {
                    Some(Response::Shard(reply)) => return Ok(reply),
                    Some(Response::NotHere(request)) => request,
                    Some(_) => unreachable!("a read is answered by its shard"),
                    None => return Err(WriteError::Stopped),
                },
                Coming::Later(request) => request,
            };
            tries += 1;
            match tries {
                ..YIELDS => self.0.world.yield_now().await,
                _ => self.0.world.sleep(TRAVEL_PAUSE).await,
            }
            coming = match self.begin_to_ask(shard, request) {
                Asking::Answered(reply) => return Ok(reply),
                Asking::Coming(coming) => coming,
            };
        }
    }
}

/// What became of a question to a shard.
enum Asking {
    Answered(ShardReply),
    Coming(Coming),
}

/// An answer that comes.
enum Coming {
    /// From a shard of this core.
    Here(Waiting<ShardReply>),
    /// From another core.
    There(Waiting<Response>),
    /// The shard is on its way.
    Later(ShardRequest),
}

/// A read over shards, as a machine.
pub(super) trait FanOut {
    /// It asks so much that other tasks should run in between.
    const IS_LONG: bool;

    /// The next request to send, if any can be sent now.
    fn poll(&mut self) -> Option<(u16, ShardRequest)>;
    /// Takes the answer of `shard`.
    fn on_reply(&mut self, shard: u16, reply: ShardReply);
}

macro_rules! fan_out {
    ($($read:ty: $is_long:literal),*) => {$(
        impl FanOut for $read {
            const IS_LONG: bool = $is_long;

            fn poll(&mut self) -> Option<(u16, ShardRequest)> {
                <$read>::poll(self)
            }

            fn on_reply(&mut self, shard: u16, reply: ShardReply) {
                <$read>::on_reply(self, shard, reply);
            }
        }
    )*};
}

fan_out!(
    RangeRead: false,
    ReadTxn: false,
    EventRead: false,
    LeaseKeysRead: false,
    HashRead: true
);

fn undamaged(reply: ShardReply) -> Result<ShardReply, WriteError> {
    match reply {
        ShardReply::Damaged(damage) => Err(WriteError::Damaged(damage)),
        reply => Ok(reply),
    }
}
