//! Range, RangeStream, Put, DeleteRange, Txn, Compact; LeaseRevoke, which is one of them in kind.

use bytes::Bytes;
use engine::command::{Operation, Range, Reply};
use engine::key::{End, KeyRange};
use grpc::mapping::reply::{RangeEnd, encode_range_chunk};
use grpc::mapping::request::decode;
use grpc::mapping::{encode_reply, operation};
use grpc::proto::etcdserverpb::CompactionRequest;
use grpc::{CallContext, Method, RequestStream, ResponseSink, Status};

use super::{EtcdService, wire_header, write_status};

/// Keys in the first chunk of a streamed range.
const STREAM_KEYS_FIRST: i64 = 10;
/// Most keys in a chunk.
const STREAM_KEYS_MAX: i64 = 10_000;

impl EtcdService {
    /// A unary request that is one operation on the store.
    pub(super) async fn store_operation(
        &self,
        context: &CallContext,
        method: Method,
        message: Bytes,
    ) -> Result<Bytes, Status> {
        let operation = operation(method, message, &self.limits)?;
        let answer = self.execute(context, operation).await?;
        Ok(encode_reply(&wire_header(answer.header), &answer.reply))
    }

    /// A compaction; a physical one is answered when this member has dropped what it makes unreadable.
    pub(super) async fn compact(
        &self,
        context: &CallContext,
        message: Bytes,
    ) -> Result<Bytes, Status> {
        let request: CompactionRequest = decode(message.clone())?;
        let answer = self.store_operation(context, Method::Compact, message);
        let answer = answer.await?;
        if request.physical {
            self.node.compacted().await.map_err(write_status)?;
        }
        Ok(answer)
    }

    /// A range in chunks at one revision. Chunks aim at half a message: their key count doubles
    /// while they stay small and halves when they do not.
    pub(super) async fn range_stream(
        &self,
        context: &CallContext,
        mut requests: RequestStream,
        mut responses: ResponseSink,
    ) -> Result<(), Status> {
        let Some(message) = requests.next().await? else {
            return Ok(());
        };
        let Operation::Range(asked) = operation(Method::RangeStream, message, &self.limits)? else {
            unreachable!("a streamed range is a range")
        };
        // The count is that of the first read; it also pins the revision of all chunks.
        let counted = Range {
            count_only: true,
            ..asked.clone()
        };
        let answer = self.execute(context, Operation::Range(counted)).await?;
        let Reply::Range(total) = answer.reply else {
            unreachable!("a range answers a range")
        };
        let header = wire_header(answer.header);
        let revision = if asked.revision > 0 {
            asked.revision
        } else {
            header.revision
        };
        let mut left = match asked.limit {
            limit if limit > 0 => limit.min(total.count),
            _ => total.count,
        };
        if asked.count_only {
            left = 0;
        }
        let more = !asked.count_only && left < total.count;
        let mut range = asked.range.clone();
        let mut chunk_keys = STREAM_KEYS_FIRST;
        loop {
            let kvs = if left == 0 {
                Vec::new()
            } else {
                let chunk = Range {
                    range: range.clone(),
                    revision,
                    limit: left.min(chunk_keys),
                    serializable: true,
                    ..asked.clone()
                };
                let answer = self.execute(context, Operation::Range(chunk)).await?;
                let Reply::Range(reply) = answer.reply else {
                    unreachable!("a range answers a range")
                };
                reply.kvs
            };
            left = if kvs.is_empty() {
                0
            } else {
                left - kvs.len() as i64
            };
            let end = RangeEnd {
                header,
                more,
                count: total.count,
            };
            let last = (left == 0).then_some(end);
            let message = encode_range_chunk(&kvs, last);
            let bytes = message.len();
            responses.send(message).await?;
            if left == 0 {
                return Ok(());
            }
            if let Some(kv) = kvs.last() {
                range = after(&asked.range, &kv.key);
            }
            chunk_keys = if bytes < self.limits.write_bytes_max / 2 {
                (chunk_keys * 2).min(STREAM_KEYS_MAX)
            } else if bytes > self.limits.write_bytes_max {
                (chunk_keys / 2).max(1)
            } else {
                chunk_keys
            };
        }
    }
}

/// The part of `range` behind `key`.
fn after(range: &KeyRange, key: &Bytes) -> KeyRange {
    let mut start = Vec::with_capacity(key.len() + 1);
    start.extend_from_slice(key);
    start.push(0);
    let start = Bytes::from(start);
    let end = match &range.end {
        // Nothing lies behind the only key: an empty range.
        End::Single => End::Before(start.clone()),
        end => end.clone(),
    };
    KeyRange { start, end }
}
