//! Calls that take long from their arrival to their answer, with what they asked for; values are not shown.

use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use grpc::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest};
use grpc::{CallContext, Method, Status, UnaryAnswer};
use prost::Message;

use super::EtcdService;
use crate::config::LogLevel;
use crate::config::duration::text_of;

/// So much of a key is shown.
const KEY_BYTES_SHOWN: usize = 128;

/// What a call is remembered by until its answer is there.
pub(super) struct Begun {
    nanos: u64,
    method: Method,
    message: Bytes,
}

impl EtcdService {
    pub(super) fn begin_call(&self, method: Method, message: &Bytes) -> Begun {
        Begun {
            nanos: self.node.world().now().nanos(),
            method,
            message: message.clone(),
        }
    }

    /// Looks how long it took.
    pub(super) fn end_call(
        &self,
        begun: &Begun,
        context: &CallContext,
        answer: &Result<UnaryAnswer, Status>,
    ) {
        let now = self.node.world().now().nanos();
        let took = Duration::from_nanos(now.saturating_sub(begun.nanos));
        let options = self.node.options();
        let logger = self.node.logger();
        let is_read = matches!(begun.method, Method::Range);
        if is_read && took > options.slow_apply {
            self.warn_of_read(begun, took, now);
        }
        // Who waits for a lock or an election waits as long as others hold it.
        let waits = matches!(begun.method, Method::Lock | Method::Campaign);
        let is_slow = took > options.slow_call && !waits;
        let level = match is_slow {
            true => LogLevel::Warn,
            false => LogLevel::Debug,
        };
        if !logger.writes(level) {
            return;
        }
        let Some(left_out) = (match is_slow {
            true => self.slow_calls.take(now),
            false => Some(0),
        }) else {
            return;
        };
        let request = Described::of(begun.method, &begun.message);
        let response_bytes = match answer {
            Ok(UnaryAnswer::Message(bytes)) => bytes.len() as i64,
            Ok(UnaryAnswer::Parts(_)) | Err(_) => -1,
        };
        let begin = UNIX_EPOCH + self.node.world().unix_time().saturating_sub(took);
        let begin = humantime::format_rfc3339_micros(begin).to_string();
        let path = begun.method.path();
        let fields = [
            ("start time", begin.into()),
            ("time spent", text_of(took).into()),
            ("remote", context.peer.as_ref().into()),
            ("response type", path.into()),
            ("request count", request.count.into()),
            ("request size", begun.message.len().into()),
            ("response size", response_bytes.into()),
            ("request content", request.content.into()),
            ("left-out-before", left_out.into()),
        ];
        logger.line(level, "request stats", &fields);
    }

    fn warn_of_read(&self, begun: &Begun, took: Duration, now: u64) {
        let Some(left_out) = self.slow_reads.take(now) else {
            return;
        };
        let request = Described::of(begun.method, &begun.message);
        let expected = self.node.options().slow_apply;
        let fields = [
            ("took", text_of(took).into()),
            ("expected-duration", text_of(expected).into()),
            ("prefix", "read-only range ".into()),
            ("request", request.content.into()),
            ("response", "".into()),
            ("left-out-before", left_out.into()),
        ];
        let logger = self.node.logger();
        logger.warn("apply request took too long", &fields);
    }
}

/// A request for people's eyes.
struct Described {
    /// Of operations; -1 where there is no such number.
    count: i64,
    content: String,
}

impl Described {
    fn of(method: Method, message: &Bytes) -> Described {
        let message = message.clone();
        let described = match method {
            Method::Range => RangeRequest::decode(message).map(|range| Described {
                count: 0,
                content: format!(
                    "{} limit:{} revision:{} serializable:{}",
                    keys(&range.key, &range.range_end),
                    range.limit,
                    range.revision,
                    range.serializable
                ),
            }),
            Method::Put => PutRequest::decode(message).map(|put| Described {
                count: 1,
                content: format!(
                    "{} value_size:{} lease:{}",
                    keys(&put.key, &[]),
                    put.value.len(),
                    put.lease
                ),
            }),
            Method::DeleteRange => DeleteRangeRequest::decode(message).map(|delete| Described {
                count: 0,
                content: keys(&delete.key, &delete.range_end),
            }),
            Method::Txn => TxnRequest::decode(message).map(|txn| Described {
                count: (txn.success.len() + txn.failure.len()) as i64,
                content: format!(
                    "compare:{} success:{} failure:{}",
                    txn.compare.len(),
                    txn.success.len(),
                    txn.failure.len()
                ),
            }),
            _ => return Described::nothing(),
        };
        described.unwrap_or_else(|_| Described::nothing())
    }

    fn nothing() -> Described {
        Described {
            count: -1,
            content: String::new(),
        }
    }
}

fn keys(key: &[u8], range_end: &[u8]) -> String {
    match range_end {
        [] => format!("key:{}", quoted(key)),
        end => format!("key:{} range_end:{}", quoted(key), quoted(end)),
    }
}

fn quoted(key: &[u8]) -> String {
    let shown = &key[..key.len().min(KEY_BYTES_SHOWN)];
    let more = if shown.len() < key.len() { "..." } else { "" };
    format!("\"{}{more}\"", shown.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_not_shown_and_long_keys_are_cut() {
        let put = PutRequest {
            key: b"a\n".to_vec().into(),
            value: b"secret".to_vec().into(),
            ..PutRequest::default()
        };
        let message = Bytes::from(put.encode_to_vec());
        let described = Described::of(Method::Put, &message);
        assert_eq!(described.content, "key:\"a\\n\" value_size:6 lease:0");
        assert_eq!(described.count, 1);
        assert_eq!(quoted(&[b'x'; 500]).len(), KEY_BYTES_SHOWN + 5);
        let described = Described::of(Method::Range, &Bytes::from_static(&[0xff, 0xff]));
        assert_eq!(described.count, -1);
    }
}
