//! Watching keys, across lost connections.
//!
//! Several watchers share one stream. The server numbers them in the order in which they were created,
//! so the answers to creations are matched first come, first served. After a lost connection each watcher
//! is created again behind the last event it has shown.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use grpc::Method;
use grpc::proto::etcdserverpb::watch_request::RequestUnion;
use grpc::proto::etcdserverpb::{
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use grpc::proto::mvccpb::Event;
use tokio::time::sleep;

use super::channel::Call;
use super::status::{Code, Status};
use super::{Client, Failure};

/// Pause before the stream is opened again.
const PAUSE: Duration = Duration::from_millis(100);
/// The id that stands for all watchers of the stream, or for none.
const EVERY_WATCHER: i64 = -1;

/// What is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spec {
    /// First key.
    pub(crate) key: Bytes,
    /// Empty: that key alone.
    pub(crate) range_end: Bytes,
    /// First revision, 0 for now.
    pub(crate) revision: i64,
    /// Whether events carry what was before.
    pub(crate) prev_kv: bool,
    /// Whether the server reports its revision now and then.
    pub(crate) progress: bool,
}

/// The number of a watcher, in the order of [`Watch::add`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Watcher(usize);

/// What happened.
#[derive(Debug)]
pub(crate) enum Seen {
    /// An answer for a watcher: events, progress, or the end because of a compaction.
    Answer(Watcher, WatchResponse),
    /// A watcher has ended; the text says why, if the server did.
    Ended(Watcher, Option<String>),
}

#[derive(Debug)]
struct State {
    spec: Spec,
    /// The id on the current stream.
    id: Option<i64>,
    over: bool,
}

/// A stream with its watchers.
#[derive(Debug)]
pub(crate) struct Watch {
    client: Rc<Client>,
    call: Option<Call>,
    watchers: Vec<State>,
    creating: VecDeque<usize>,
    seen: VecDeque<Seen>,
}

impl Watch {
    /// A stream without watchers; it opens with the first.
    pub(crate) fn new(client: Rc<Client>) -> Self {
        Self {
            client,
            call: None,
            watchers: Vec::new(),
            creating: VecDeque::new(),
            seen: VecDeque::new(),
        }
    }

    /// Begins to watch.
    pub(crate) async fn add(&mut self, spec: Spec) -> Result<Watcher, Failure> {
        let at = self.watchers.len();
        self.watchers.push(State {
            spec,
            id: None,
            over: false,
        });
        if self.call.is_some() {
            self.create(at)?;
        } else {
            self.open().await?;
        }
        Ok(Watcher(at))
    }

    /// Asks for the server's revision; it comes as an answer without events to every watcher.
    pub(crate) async fn request_progress(&mut self) -> Result<(), Failure> {
        if self.call.is_none() {
            self.open().await?;
        }
        Ok(self.send(RequestUnion::ProgressRequest(WatchProgressRequest {}))?)
    }

    /// Waits for what happens next. May be dropped without losing anything.
    pub(crate) async fn next(&mut self) -> Result<Seen, Failure> {
        loop {
            if let Some(seen) = self.seen.pop_front() {
                return Ok(seen);
            }
            let Some(call) = &mut self.call else {
                self.open().await?;
                continue;
            };
            let status = match call.next::<WatchResponse>().await {
                Ok(Some(answer)) => {
                    self.sort(answer);
                    continue;
                }
                Ok(None) => Status::new(Code::UNAVAILABLE, "the server ended the stream"),
                Err(status) => status,
            };
            self.call = None;
            // No leader is for the caller to know; anything else passes.
            if status.code != Code::UNAVAILABLE || status.message == "etcdserver: no leader" {
                return Err(status.into());
            }
            self.client.disconnect();
            sleep(PAUSE).await;
        }
    }

    async fn open(&mut self) -> Result<(), Failure> {
        self.call = Some(self.client.start(Method::Watch, None).await?);
        self.creating.clear();
        for at in 0..self.watchers.len() {
            self.watchers[at].id = None;
            if !self.watchers[at].over {
                self.create(at)?;
            }
        }
        Ok(())
    }

    fn create(&mut self, at: usize) -> Result<(), Status> {
        let spec = self.watchers[at].spec.clone();
        self.creating.push_back(at);
        self.send(RequestUnion::CreateRequest(WatchCreateRequest {
            key: spec.key,
            range_end: spec.range_end,
            start_revision: spec.revision,
            progress_notify: spec.progress,
            prev_kv: spec.prev_kv,
            ..WatchCreateRequest::default()
        }))
    }

    fn send(&mut self, request: RequestUnion) -> Result<(), Status> {
        let bytes_max = self.client.send_bytes_max();
        let request = WatchRequest {
            request_union: Some(request),
        };
        match &mut self.call {
            Some(call) => call.send(&request, bytes_max),
            None => Ok(()),
        }
    }

    fn sort(&mut self, answer: WatchResponse) {
        if answer.created {
            self.created(&answer);
        } else if answer.watch_id == EVERY_WATCHER {
            for (at, _) in self
                .watchers
                .iter()
                .enumerate()
                .filter(|(_, watcher)| watcher.id.is_some())
            {
                self.seen
                    .push_back(Seen::Answer(Watcher(at), answer.clone()));
            }
        } else if let Some(at) = self
            .watchers
            .iter()
            .position(|watcher| watcher.id == Some(answer.watch_id))
        {
            self.answered(at, answer);
        }
    }

    fn created(&mut self, answer: &WatchResponse) {
        let Some(at) = self.creating.pop_front() else {
            return;
        };
        let refused = answer.watch_id == EVERY_WATCHER
            || (answer.canceled && !answer.cancel_reason.is_empty());
        if refused {
            self.watchers[at].over = true;
            self.seen
                .push_back(Seen::Ended(Watcher(at), Some(answer.cancel_reason.clone())));
            return;
        }
        let watcher = &mut self.watchers[at];
        watcher.id = Some(answer.watch_id);
        if watcher.spec.revision == 0 {
            watcher.spec.revision = answer
                .header
                .as_ref()
                .map_or(0, |header| header.revision + 1);
        }
    }

    fn answered(&mut self, at: usize, answer: WatchResponse) {
        let watcher = &mut self.watchers[at];
        if answer.canceled {
            watcher.over = true;
            watcher.id = None;
            if answer.compact_revision != 0 {
                self.seen.push_back(Seen::Answer(Watcher(at), answer));
            }
            self.seen.push_back(Seen::Ended(Watcher(at), None));
            return;
        }
        let last = answer
            .events
            .iter()
            .filter_map(|event: &Event| event.kv.as_ref())
            .map(|kv| kv.mod_revision)
            .max();
        let progress = answer.header.as_ref().map(|header| header.revision);
        if let Some(last) = last.or(progress) {
            watcher.spec.revision = last + 1;
        }
        self.seen.push_back(Seen::Answer(Watcher(at), answer));
    }
}
