//! The Watch stream: requests of the client on one side, what the hub has to show on the other.
//!
//! One future serves both: it sends only when the peer has room, and asks the hub only then, so a
//! client that does not read costs the cursors of its watchers and nothing more.

use std::cell::OnceCell;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;
use engine::watch::{CreateError, Output, SharedEvent, WatchId, WatchSpec};
use grpc::mapping::watch::WatchCreate;
use grpc::mapping::{Header, WatchAnswer, WatchRequest, encode_event};
use grpc::status::{COMPACTED, WATCH_DUPLICATE_ID, WATCH_RANGE_EMPTY};
use grpc::{CallContext, RequestStream, ResponseSink, Status};

use super::{EtcdService, data_loss, wire_header};
use crate::node::WatchStream;

/// Events of one answer end with the revision that brings them to this many bytes.
const ANSWER_BYTES: usize = 512 * 1024;

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
                Turn::Output(Some(output)) => self.watch_output(output, &mut responses).await?,
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

    async fn watch_output(
        &self,
        output: Output,
        responses: &mut ResponseSink,
    ) -> Result<(), Status> {
        let header = wire_header(self.node.header());
        match output {
            Output::Events {
                watch,
                events,
                prev_kv,
                fragment,
                revision,
            } => {
                let header = Header { revision, ..header };
                let events: Vec<Bytes> = events.iter().map(|e| encoding(e, prev_kv)).collect();
                let answer = WatchAnswer {
                    header,
                    watch_id: watch.0,
                    ..WatchAnswer::default()
                };
                if fragment {
                    return self.send_fragments(answer, &events, responses).await;
                }
                responses
                    .send(
                        WatchAnswer {
                            events: &events,
                            ..answer
                        }
                        .encode(),
                    )
                    .await
            }
            Output::Compacted {
                watch,
                compact_revision,
            } => {
                let answer = WatchAnswer {
                    // No revision: the watcher never reached one.
                    header: Header {
                        revision: 0,
                        ..header
                    },
                    watch_id: watch.0,
                    canceled: true,
                    compact_revision,
                    ..WatchAnswer::default()
                };
                responses.send(answer.encode()).await
            }
            Output::Progress { watch, revision } => {
                let answer = WatchAnswer {
                    header: Header { revision, ..header },
                    watch_id: watch.map_or(-1, |watch| watch.0),
                    ..WatchAnswer::default()
                };
                responses.send(answer.encode()).await
            }
            Output::CatchUp(_) => unreachable!("the stream reads history by itself"),
        }
    }

    /// Splits an answer that is larger than a request may be, between events.
    async fn send_fragments(
        &self,
        answer: WatchAnswer<'_>,
        events: &[Bytes],
        responses: &mut ResponseSink,
    ) -> Result<(), Status> {
        let mut start = 0;
        let mut bytes = 0;
        for (at, event) in events.iter().enumerate() {
            if at > start && bytes + event.len() > self.fragment_bytes {
                let part = WatchAnswer {
                    fragment: true,
                    events: &events[start..at],
                    ..answer
                };
                responses.send(part.encode()).await?;
                (start, bytes) = (at, 0);
            }
            bytes += event.len();
        }
        responses
            .send(
                WatchAnswer {
                    events: &events[start..],
                    ..answer
                }
                .encode(),
            )
            .await
    }
}

/// An event's encoding, made by the first stream that shows it.
fn encoding(event: &Rc<SharedEvent>, prev_kv: bool) -> Bytes {
    let slot: &OnceCell<Bytes> = &event.encoded[usize::from(prev_kv)];
    let encode = || {
        let previous = if prev_kv {
            event.event.prev_kv.as_ref()
        } else {
            None
        };
        encode_event(event.event.tombstone, &event.event.kv, previous)
    };
    slot.get_or_init(encode).clone()
}
