//! What a core does with the calls of the others, and with their responses.
//!
//! Two tasks for each link: one takes its requests, one its responses. Requests are begun in the order in
//! which they were made; nothing here waits before it has taken all that is there. A third task, for all links, sends what
//! has gathered behind whatever is runnable, so that the requests of one turn travel together.

use std::rc::Rc;

use reactor::Class;

use super::{Node, State};
use crate::cores::HOME;
use crate::cores::call::{Call, CallAnswer, CallsFrom, CallsTo, Notice, Response, Timed, Waiter};
use crate::shards::Asked;

/// Calls that are handled before a look at the clock.
const CALLS_PER_LOOK: usize = 8;

impl Node {
    /// Starts the tasks of all links.
    pub(super) fn start_links(&self, callees: Vec<CallsFrom>) {
        if callees.is_empty() {
            return;
        }
        self.spawn(Class::Request, |node| async move {
            loop {
                node.0.links.flush_is_wanted().await;
                node.0.links.flush();
            }
        });
        for callee in callees {
            self.spawn(Class::Consensus, |node| async move {
                node.run_requests(callee).await;
            });
        }
        for caller in self.0.links.all().map(Rc::clone) {
            self.spawn(Class::Consensus, |node| async move {
                node.run_responses(caller).await;
            });
        }
    }

    async fn run_requests(&self, mut callee: CallsFrom) {
        while std::future::poll_fn(|context| callee.poll_requests(context)).await {
            let mut taken = 0;
            while let Some((answer, call)) = callee.next_request() {
                self.take_call(call, answer);
                taken += 1;
                if taken % CALLS_PER_LOOK == 0 {
                    // A read may be long, and the order has to stay.
                    self.0.world.yield_if_due().await;
                }
            }
            callee.answers().flush();
            self.0.world.yield_now().await;
        }
    }

    async fn run_responses(&self, caller: CallsTo) {
        while std::future::poll_fn(|context| caller.poll_responses(context)).await {
            while let Some((Timed { waiter, began }, response)) = caller.next_response() {
                if let Some(began) = began {
                    let took = self.0.world.now().since(began);
                    self.metrics().hops.observe_time(took);
                }
                self.take_response(waiter, response);
            }
            self.0.world.yield_now().await;
        }
    }

    fn take_response(&self, waiter: Waiter, response: Option<Response>) {
        match (waiter, response) {
            (Waiter::Task(responder), Some(response)) => responder.answer(response),
            (Waiter::Coordinator(shard), response) => {
                if let Some(parts) = &self.0.home {
                    parts.dispatch.take_response(shard, response);
                }
            }
            (Waiter::Herald(core), Some(_)) => {
                if let Some(home) = self.home() {
                    home.herald_is_back(core);
                }
            }
            // Whoever waited sees that nobody answers.
            (Waiter::Task(_) | Waiter::Herald(_), None) | (Waiter::Nobody, _) => {}
        }
    }

    fn take_call(&self, call: Call, answer: CallAnswer) {
        match call {
            Call::Read { shard, request } => {
                self.note_request();
                match self.0.shards.ask(shard, request) {
                    Asked::Ready(reply) => answer.answer(Response::Shard(reply)),
                    Asked::Waiting(waiting) => self.spawn(Class::Request, |_| async move {
                        match waiting.await {
                            Some(reply) => answer.answer(Response::Shard(reply)),
                            None => drop(answer),
                        }
                    }),
                    Asked::Elsewhere(request) => answer.answer(Response::NotHere(request)),
                }
            }
            Call::Change { shard, request } => {
                self.note_request();
                self.0.shards.send_for(shard, request, answer);
            }
            Call::Scrub { shard } => self.spawn(Class::Background, |node| async move {
                answer.answer(Response::Scrubbed(node.0.shards.scrub(shard).await));
            }),
            Call::Prepare { shard } => self.spawn(Class::Consensus, |node| async move {
                answer.answer(Response::Prepared(node.0.shards.prepare(shard).await));
            }),
            Call::Give { shard } => self.spawn(Class::Consensus, |node| async move {
                answer.answer(Response::Given(node.0.shards.give(shard).await));
            }),
            Call::Connection(stream) => {
                self.take_connection(stream);
                answer.answer(Response::Done);
            }
            Call::Take(shard) => {
                self.0.shards.take(shard);
                answer.answer(Response::Done);
            }
            Call::Notice(notice) => {
                self.take_notice(notice);
                answer.answer(Response::Done);
            }
            Call::Begin(_) => unreachable!("core {} has begun", self.0.core),
            call => self.take_call_at_home(call, answer),
        }
    }

    fn take_call_at_home(&self, call: Call, answer: CallAnswer) {
        let Some(home) = self.home() else {
            unreachable!("core {} is not home", self.0.core)
        };
        match call {
            Call::Write(command) => {
                self.note_request();
                home.write_for(&command, answer);
            }
            Call::Home(look) => home.look(look, answer),
            Call::Compacted => self.spawn(Class::Request, |_| async move {
                match home.compacted().await {
                    Ok(()) => answer.answer(Response::Done),
                    Err(_) => drop(answer),
                }
            }),
            Call::ShardEvent { shard, event } => {
                home.take_shard_event(shard, event);
                answer.answer(Response::Done);
            }
            _ => unreachable!("nobody asks home for this"),
        }
    }

    fn take_notice(&self, notice: Notice) {
        match notice {
            Notice::Visible => self.0.watches.published(),
            Notice::State => {
                self.0.changed.notify();
                if self.state() >= State::Stopping {
                    self.0.watches.wake_all();
                    self.0.work.raise();
                    self.0.shards.wake_background();
                    self.0.shards.wake_upkeep();
                }
            }
            Notice::Published(id) => self.0.shards.published(id),
            Notice::RetrySpace => self.0.shards.retry_space(),
            Notice::Upkeep => self.0.shards.wake_upkeep(),
            Notice::CaughtUp => self.0.work.raise(),
            Notice::Dirty => {
                if let Some(home) = self.home() {
                    home.consider_checkpoint();
                }
            }
            Notice::UpkeepChanged => {
                if let Some(home) = self.home() {
                    home.upkeep_changed();
                }
            }
        }
    }

    /// On every core but home: takes completions of the disk, and tells home when changes may go on.
    pub(super) async fn run_disk(&self) {
        while self.state() < State::Stopped {
            self.0.work.wait().await;
            while let Some((id, result)) = self.0.shards.next_completion() {
                let Some(shard) = id.machine().as_shard() else {
                    unreachable!("the log is at home")
                };
                self.0.shards.complete(shard, id, result);
            }
            if self.0.shards.take_caught_up() {
                self.0.links.tell(HOME, Notice::CaughtUp);
            }
        }
    }
}
