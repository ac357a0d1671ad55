//! The Watch stream: requests of the client on one side, what the hub has to show on the other.
//!
//! One future serves both: it sends only when the peer has room, and asks the hub only then, so a
//! client that does not read costs the cursors of its watchers and nothing more.

use std::cell::OnceCell;
use std::rc::Rc;
use std::slice;
use std::task::Poll;

use bytes::Bytes;
use engine::watch::{CreateError, EventList, Output, SharedEvent, WatchId, WatchSpec};
use grpc::mapping::watch::WatchCreate;
use grpc::mapping::{Header, WatchAnswer, WatchAnswers, WatchRequest, encode_event};
use grpc::status::{COMPACTED, WATCH_DUPLICATE_ID, WATCH_RANGE_EMPTY};
use grpc::{CallContext, RequestStream, ResponseSink, Status};

use super::{EtcdService, data_loss, wire_header};
use crate::node::WatchStream;

/// Events of one answer end with the revision that brings them to this many bytes.
const ANSWER_BYTES: usize = 512 * 1024;

/// Answers are gathered into pieces of this size: large enough that a send costs little beside its bytes, small enough
/// that the other streams of a connection hardly wait, and no more than that is held for a client that does not read.
const PIECE_BYTES: usize = 32 * 1024;

enum Turn {
    Request(Option<Bytes>),
    Output(Option<Output>),
}

impl EtcdService {
    pub(super) async fn watch(
        &self,
        context: CallContext,
        mut requests: RequestStream,
        mut responses: ResponseSink,
    ) -> Result<(), Status> {
        let stream = self.node.open_watch_stream();
        responses.open()?;
        // A client may end its side once it has asked for all it wants; its watchers stay.
        let mut asking = true;
        loop {
            responses.ready().await?;
            let requests = asking.then_some(&mut requests);
            match self.watch_turn(&stream, requests).await? {
                Turn::Request(None) => asking = false,
                Turn::Request(Some(message)) => {
                    self.watch_request(&stream, message, &mut responses).await?;
                }
                Turn::Output(Some(output)) => {
                    self.watch_outputs(output, &stream, &mut responses).await?;
                }
                Turn::Output(None) => {
                    if let Some(damage) = stream.damage() {
                        return Err(data_loss(&damage));
                    }
                    debug_assert!(context.shutdown.has_begun() || self.node.is_stopping());
                    return Err(grpc::status::STOPPED);
                }
            }
        }
    }

    /// Whatever comes first; requests go before events.
    async fn watch_turn(
        &self,
        stream: &WatchStream,
        mut requests: Option<&mut RequestStream>,
    ) -> Result<Turn, Status> {
        let mut next = std::pin::pin!(stream.next(ANSWER_BYTES));
        std::future::poll_fn(|context| {
            if let Some(requests) = &mut requests
                && let Poll::Ready(request) = requests.poll_next(context)
            {
                return Poll::Ready(request.map(Turn::Request));
            }
            next.as_mut()
                .poll(context)
                .map(|output| Ok(Turn::Output(output)))
        })
        .await
    }

    async fn watch_request(
        &self,
        stream: &WatchStream,
        message: Bytes,
        responses: &mut ResponseSink,
    ) -> Result<(), Status> {
        match WatchRequest::decode(message)? {
            WatchRequest::Create(create) => {
                let answer = self.watch_create(stream, create);
                responses.send(answer).await
            }
            WatchRequest::Cancel { watch_id } => {
                if !stream.cancel(WatchId(watch_id)) {
                    return Ok(());
                }
                let answer = WatchAnswer {
                    header: self.header(),
                    watch_id,
                    canceled: true,
                    ..WatchAnswer::default()
                };
                responses.send(answer.encode()).await
            }
            WatchRequest::Progress => {
                stream.request_progress();
                Ok(())
            }
            WatchRequest::Empty => Ok(()),
        }
    }

    fn watch_create(&self, stream: &WatchStream, create: WatchCreate) -> Bytes {
        let refused = |reason: &str| {
            WatchAnswer {
                header: self.header(),
                watch_id: -1,
                created: true,
                canceled: true,
                cancel_reason: reason,
                ..WatchAnswer::default()
            }
            .encode()
        };
        if create.start_revision < 0 {
            return refused(&COMPACTED.message);
        }
        let spec = WatchSpec {
            range: create.range,
            start_revision: create.start_revision,
            prev_kv: create.prev_kv,
            no_put: create.no_put,
            no_delete: create.no_delete,
            progress_notify: create.progress_notify,
            fragment: create.fragment,
            id: (create.watch_id != 0).then_some(WatchId(create.watch_id)),
        };
        match stream.create(spec) {
            Ok((id, revision)) => WatchAnswer {
                header: Header {
                    revision,
                    ..self.header()
                },
                watch_id: id.0,
                created: true,
                ..WatchAnswer::default()
            }
            .encode(),
            Err(CreateError::EmptyRange) => refused(WATCH_RANGE_EMPTY),
            Err(CreateError::DuplicateId) => refused(WATCH_DUPLICATE_ID),
        }
    }

    /// Sends `first` and what else is at hand, gathered into pieces of about [`PIECE_BYTES`].
    async fn watch_outputs(
        &self,
        first: Output,
        stream: &WatchStream,
        responses: &mut ResponseSink,
    ) -> Result<(), Status> {
        let metrics = self.node.metrics();
        let count = |output: &Output| {
            if let Output::Events { events, .. } = output {
                metrics.watch_events.add(events.len() as u64);
            }
        };
        let mut answers = Answers::new(wire_header(self.node.header()));
        count(&first);
        answers.add(first, self.fragment_bytes, responses).await?;
        let room = PIECE_BYTES.saturating_sub(answers.encoded.byte_count());
        answers.encoded.reserve_repeats(stream.waiting(), room);
        while answers.encoded.byte_count() < PIECE_BYTES
            && let Some(output) = stream.next_at_hand(ANSWER_BYTES)
        {
            count(&output);
            answers.add(output, self.fragment_bytes, responses).await?;
        }
        responses.send_batch(answers.encoded.take()).await
    }
}

/// Answers that are being gathered, with what the last one showed.
struct Answers {
    header: Header,
    encoded: WatchAnswers,
    last: Option<Shown>,
}

/// What decides the bytes of an answer besides the watch id.
struct Shown {
    events: EventList,
    prev_kv: bool,
    revision: i64,
}

impl Shown {
    fn is_same(&self, other: &Shown) -> bool {
        self.prev_kv == other.prev_kv
            && self.revision == other.revision
            && self.events.is_same(&other.events)
    }
}

impl Answers {
    fn new(header: Header) -> Answers {
        Answers {
            header,
            encoded: WatchAnswers::default(),
            last: None,
        }
    }

    async fn add(
        &mut self,
        output: Output,
        fragment_bytes: usize,
        responses: &mut ResponseSink,
    ) -> Result<(), Status> {
        let header = self.header;
        match output {
            Output::Events {
                watch,
                events,
                prev_kv,
                fragment,
                revision,
            } => {
                let shown = Shown {
                    events,
                    prev_kv,
                    revision,
                };
                if fragment {
                    return self
                        .add_fragments(watch, shown, fragment_bytes, responses)
                        .await;
                }
                if let Some(last) = &self.last
                    && last.is_same(&shown)
                {
                    return self.encoded.repeat(watch.0);
                }
                self.add_events(watch, &shown)?;
                self.last = Some(shown);
                Ok(())
            }
            Output::Compacted {
                watch,
                compact_revision,
            } => self.add_note(&WatchAnswer {
                // No revision: the watcher never reached one.
                header: Header {
                    revision: 0,
                    ..header
                },
                watch_id: watch.0,
                canceled: true,
                compact_revision,
                ..WatchAnswer::default()
            }),
            Output::Progress { watch, revision } => self.add_note(&WatchAnswer {
                header: Header { revision, ..header },
                watch_id: watch.map_or(-1, |watch| watch.0),
                ..WatchAnswer::default()
            }),
            Output::CatchUp(_) => unreachable!("the stream reads history by itself"),
        }
    }

    fn add_note(&mut self, answer: &WatchAnswer<'_>) -> Result<(), Status> {
        self.last = None;
        self.encoded.push(answer)
    }

    fn add_events(&mut self, watch: WatchId, shown: &Shown) -> Result<(), Status> {
        let header = self.header;
        let mut push = |events: &[Bytes]| {
            self.encoded.push(&WatchAnswer {
                header: Header {
                    revision: shown.revision,
                    ..header
                },
                watch_id: watch.0,
                events,
                ..WatchAnswer::default()
            })
        };
        match &shown.events[..] {
            [event] => push(slice::from_ref(encoding(event, shown.prev_kv))),
            events => push(&encodings(events, shown.prev_kv)),
        }
    }

    /// Splits an answer that is larger than a request may be, between events. What is gathered goes out first
    /// wherever it is enough for a piece, so that no more than a fragment and a piece wait here.
    async fn add_fragments(
        &mut self,
        watch: WatchId,
        shown: Shown,
        fragment_bytes: usize,
        responses: &mut ResponseSink,
    ) -> Result<(), Status> {
        self.last = None;
        let events = encodings(&shown.events, shown.prev_kv);
        let answer = WatchAnswer {
            header: Header {
                revision: shown.revision,
                ..self.header
            },
            watch_id: watch.0,
            ..WatchAnswer::default()
        };
        let mut start = 0;
        let mut bytes = 0;
        for (at, event) in events.iter().enumerate() {
            if at > start && bytes + event.len() > fragment_bytes {
                self.encoded.push(&WatchAnswer {
                    fragment: true,
                    events: &events[start..at],
                    ..answer
                })?;
                if self.encoded.byte_count() >= PIECE_BYTES {
                    responses.send_batch(self.encoded.take()).await?;
                }
                (start, bytes) = (at, 0);
            }
            bytes += event.len();
        }
        self.encoded.push(&WatchAnswer {
            events: &events[start..],
            ..answer
        })
    }
}

fn encodings(events: &[Rc<SharedEvent>], prev_kv: bool) -> Vec<Bytes> {
    let encoded = events.iter().map(|event| encoding(event, prev_kv));
    encoded.cloned().collect()
}

/// An event's encoding, made by the first stream that shows it.
fn encoding(event: &SharedEvent, prev_kv: bool) -> &Bytes {
    let slot: &OnceCell<Bytes> = &event.encoded[usize::from(prev_kv)];
    let encode = || {
        let previous = if prev_kv {
            event.event.prev_kv.as_ref()
        } else {
            None
        };
        encode_event(event.event.tombstone, &event.event.kv, previous)
    };
    slot.get_or_init(encode)
}
