//! Watch requests, and watch answers put together from events that were encoded once.

use std::ops::Range;

use bytes::Bytes;
use engine::command::KeyValue;
use engine::key::KeyRange;

use super::reply::{Header, exactly, key_value_len, put_key_value};
use super::request::{decode, key_range};
use super::wire::{
    bytes_len, delimited_len, integer_len, put_bytes, put_integer, put_varint, varint_len,
};
use crate::batch::MessageBatch;
use crate::frame::PREFIX_BYTES;
use crate::proto::etcdserverpb::{
    WatchRequest as WatchRequestMessage, watch_create_request::FilterType,
    watch_request::RequestUnion,
};
use crate::status::Status;

/// What a client asks on a watch stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchRequest {
    /// A new watcher.
    Create(WatchCreate),
    /// The end of one.
    Cancel {
        /// Which one.
        watch_id: i64,
    },
    /// Say how far the whole stream is.
    Progress,
    /// None of the above; passed over.
    Empty,
}

/// A watcher to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchCreate {
    /// Keys to watch; empty ranges are refused by the watch itself, not here.
    pub range: KeyRange,
    /// First revision wanted; 0 is the next one, negative is refused by the watch itself.
    pub start_revision: i64,
    /// Tell progress when nothing happens.
    pub progress_notify: bool,
    /// Leave out puts.
    pub no_put: bool,
    /// Leave out deletes.
    pub no_delete: bool,
    /// Events carry the previous key-value.
    pub prev_kv: bool,
    /// Wanted id; 0 lets the server choose.
    pub watch_id: i64,
    /// Large answers may be split.
    pub fragment: bool,
}

impl WatchRequest {
    /// Reads a message of the client's side of a watch stream.
    ///
    /// # Errors
    /// `Internal` if the bytes are no such message.
    pub fn decode(message: Bytes) -> Result<WatchRequest, Status> {
        let request: WatchRequestMessage = decode(message)?;
        Ok(match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => {
                let has = |filter: FilterType| create.filters.contains(&(filter as i32));
                let (no_put, no_delete) = (has(FilterType::Noput), has(FilterType::Nodelete));
                // An empty key is the first key there can be.
                let key = if create.key.is_empty() {
                    Bytes::from_static(&[0])
                } else {
                    create.key
                };
                WatchRequest::Create(WatchCreate {
                    range: key_range(key, create.range_end),
                    start_revision: create.start_revision,
                    progress_notify: create.progress_notify,
                    no_put,
                    no_delete,
                    prev_kv: create.prev_kv,
                    watch_id: create.watch_id,
                    fragment: create.fragment,
                })
            }
            Some(RequestUnion::CancelRequest(cancel)) => WatchRequest::Cancel {
                watch_id: cancel.watch_id,
            },
            Some(RequestUnion::ProgressRequest(_)) => WatchRequest::Progress,
            None => WatchRequest::Empty,
        })
    }
}

/// Field of `WatchResponse.watch_id`.
const WATCH_ID: u8 = 2;
/// Tag of `WatchResponse.events`.
const EVENTS_TAG: u8 = 11 << 3 | 2;

/// One event as it stands in a [`WatchAnswer`], tag and length included: made once, shared by all
/// watchers that see it in the same form (with or without `prev_kv`).
///
/// A tombstone's `kv` has its key and mod revision only.
pub fn encode_event(tombstone: bool, kv: &KeyValue, prev_kv: Option<&KeyValue>) -> Bytes {
    let content_len = integer_len(u64::from(tombstone))
        + delimited_len(key_value_len(kv))
        + prev_kv.map_or(0, |prev| delimited_len(key_value_len(prev)));
    exactly(1 + varint_len(content_len as u64) + content_len, |out| {
        out.push(EVENTS_TAG);
        put_varint(out, content_len as u64);
        put_integer(out, 1, u64::from(tombstone));
        put_key_value(out, 2, kv);
        if let Some(prev) = prev_kv {
            put_key_value(out, 3, prev);
        }
    })
}

/// An answer on a watch stream.
#[derive(Clone, Copy, Debug, Default)]
pub struct WatchAnswer<'a> {
    /// Origin and store revision.
    pub header: Header,
    /// Watcher concerned; −1 for the whole stream or a refused create.
    pub watch_id: i64,
    /// First answer of a watcher.
    pub created: bool,
    /// Last answer of a watcher.
    pub canceled: bool,
    /// Set when the watcher asked for a compacted revision.
    pub compact_revision: i64,
    /// Why the watcher was refused or ended.
    pub cancel_reason: &'a str,
    /// More fragments of this answer follow.
    pub fragment: bool,
    /// From [`encode_event`].
    pub events: &'a [Bytes],
}

impl WatchAnswer<'_> {
    /// Bytes of the encoded answer.
    pub fn encoded_len(&self) -> usize {
        self.header.len()
            + integer_len(self.watch_id as u64)
            + integer_len(u64::from(self.created))
            + integer_len(u64::from(self.canceled))
            + integer_len(self.compact_revision as u64)
            + bytes_len(self.cancel_reason.as_bytes())
            + integer_len(u64::from(self.fragment))
            + self.events.iter().map(Bytes::len).sum::<usize>()
    }

    /// The answer's bytes.
    pub fn encode(&self) -> Bytes {
        exactly(self.encoded_len(), |out| {
            self.header.put(out);
            put_integer(out, WATCH_ID, self.watch_id as u64);
            self.put_rest(out);
        })
    }

    /// Writes what follows the watch id.
    fn put_rest(&self, out: &mut Vec<u8>) {
        put_integer(out, 3, u64::from(self.created));
        put_integer(out, 4, u64::from(self.canceled));
        put_integer(out, 5, self.compact_revision as u64);
        put_bytes(out, 6, self.cancel_reason.as_bytes());
        put_integer(out, 7, u64::from(self.fragment));
        for event in self.events {
            out.extend_from_slice(event);
        }
    }
}

/// Answers of one stream that leave together. Answers to watchers that see the same differ in their watch id alone:
/// the first one is encoded, the others are copies of it with another id.
#[derive(Debug, Default)]
pub struct WatchAnswers {
    messages: MessageBatch,
    last: Option<Place>,
}

/// Where the last answer of a batch stands.
#[derive(Clone, Debug)]
struct Place {
    header: Range<usize>,
    /// What follows the watch id.
    rest: Range<usize>,
}

impl WatchAnswers {
    /// Bytes of all answers as they go out.
    pub fn byte_count(&self) -> usize {
        self.messages.byte_count()
    }

    /// Makes room for `count` more answers like the last one, in no more than `bytes_max` bytes.
    pub fn reserve_repeats(&mut self, count: usize, bytes_max: usize) {
        if let Some(last) = &self.last {
            // Ids that fit into a byte or two are the rule; others cost a reallocation.
            let bytes = PREFIX_BYTES + last.header.len() + 3 + last.rest.len();
            self.messages
                .reserve(bytes.saturating_mul(count).min(bytes_max));
        }
    }

    /// Appends an answer.
    ///
    /// # Errors
    /// `ResourceExhausted` if it is larger than 4 GiB.
    pub fn push(&mut self, answer: &WatchAnswer<'_>) -> Result<(), Status> {
        let start = self.messages.byte_count() + PREFIX_BYTES;
        let header = start..start + answer.header.len();
        let mut rest = header.end..header.end;
        self.messages.push(answer.encoded_len(), |out| {
            answer.header.put(out);
            put_integer(out, WATCH_ID, answer.watch_id as u64);
            rest.start = out.len();
            answer.put_rest(out);
            rest.end = out.len();
        })?;
        self.last = Some(Place { header, rest });
        Ok(())
    }

    /// Appends the last answer once more, for another watcher.
    ///
    /// # Errors
    /// `ResourceExhausted` if it is larger than 4 GiB.
    ///
    /// # Panics
    /// If there is no answer yet.
    pub fn repeat(&mut self, watch_id: i64) -> Result<(), Status> {
        let Place { header, rest } = self.last.clone().expect("an answer to repeat");
        let len = header.len() + integer_len(watch_id as u64) + rest.len();
        self.messages.push(len, |out| {
            out.extend_from_within(header);
            put_integer(out, WATCH_ID, watch_id as u64);
            out.extend_from_within(rest);
        })
    }

    /// The answers so far; those that follow begin anew.
    pub fn take(&mut self) -> MessageBatch {
        self.last = None;
        std::mem::take(&mut self.messages)
    }
}
