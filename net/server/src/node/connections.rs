//! Connections over the cores: which one serves the next, handing it over, and their end.
//!
//! What a connection is for is the business of the edge; here it is only counted and carried.

use std::cell::RefCell;
use std::collections::VecDeque;

use reactor::{DetachedStream, Stream};

use super::Node;
use crate::cores::HOME;
use crate::cores::call::{Call, Notice, Waiter};
use crate::cores::placement::core_for_connection;

/// Connections that came to this core and are not served yet.
#[derive(Default)]
pub(super) struct Connections {
    waiting: RefCell<VecDeque<Stream>>,
}

impl Node {
    /// The core that should serve the next connection.
    pub fn core_for_connection(&self) -> u16 {
        let board = &self.0.board;
        core_for_connection((0..board.cores()).map(|core| board.core(core).connections()))
    }

    /// Hands a connection to `core`, which counts it from now on. It comes back if that is this core, or if it
    /// cannot leave; then it is counted here.
    pub fn hand_over(&self, stream: Stream, core: u16) -> Option<Stream> {
        let here = self.0.core;
        let stream = match core == here {
            true => stream,
            false => match stream.detach() {
                Ok(detached) => {
                    self.0.board.core(core).connection_comes();
                    let call = Call::Connection(detached);
                    self.0.links.call(core, Waiter::Nobody, call);
                    return None;
                }
                Err(stream) => stream,
            },
        };
        self.0.board.core(here).connection_comes();
        Some(stream)
    }

    /// A connection from another core.
    pub(super) fn take_connection(&self, stream: DetachedStream) {
        match self.0.world.attach_stream(stream) {
            // Nobody asks for connections any more.
            Ok(stream) if self.0.board.visible.is_draining() => {
                drop(stream);
                self.connection_ended();
            }
            Ok(stream) => {
                self.0.connections.waiting.borrow_mut().push_back(stream);
                self.0.load.raise();
                self.0.changed.notify();
            }
            Err(error) => {
                let fields = [("error", error.to_string().into())];
                self.0.logger.warn("cannot take a connection over", &fields);
                self.connection_ended();
            }
        }
    }

    /// The next connection that was handed to this core; `None` when connections are to end.
    pub async fn next_connection(&self) -> Option<Stream> {
        let waiting = &self.0.connections.waiting;
        let something = || !waiting.borrow().is_empty() || self.0.board.visible.is_draining();
        self.0.changed.until(something).await;
        waiting.borrow_mut().pop_front()
    }

    /// A connection that this core counts has ended.
    pub fn connection_ended(&self) {
        self.0.board.core(self.0.core).connection_goes();
        if self.0.board.visible.is_draining() {
            self.0.changed.notify();
            if self.0.core != HOME {
                self.0.links.tell(HOME, Notice::State);
            }
        }
    }

    /// Connections of all cores.
    pub fn connections(&self) -> usize {
        let board = &self.0.board;
        (0..board.cores())
            .map(|core| board.core(core).connections())
            .sum()
    }

    /// Tells all cores that their connections are to end; from home.
    pub fn begin_drain(&self) {
        self.0.board.visible.begin_draining();
        self.0.links.tell_all(Notice::State);
        self.0.changed.notify();
    }

    /// Waits until no core has a connection left.
    pub async fn drained(&self) {
        self.0.changed.until(|| self.connections() == 0).await;
    }
}
