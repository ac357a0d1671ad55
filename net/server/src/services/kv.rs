//! Range, RangeStream, Put, DeleteRange, Txn, Compact; LeaseRevoke, which is one of them in kind.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use engine::command::{CommandError, Operation, Range, Reply};
use grpc::mapping::list::{list_chunk, list_end, list_head, list_piece, listed_len};
use grpc::mapping::reply::RangeEnd;
use grpc::mapping::request::decode;
use grpc::mapping::{encode_reply, operation};
use grpc::proto::etcdserverpb::CompactionRequest;
use grpc::{
    CallContext, MessageParts, Method, PartSink, RequestStream, ResponseSink, Status, UnaryAnswer,
};

use super::{EtcdService, wire_header, write_status};
use crate::node::{List, ListBody, Ranged, WriteError};

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

    /// A range. A large answer is made while it is sent.
    pub(super) async fn range(
        &self,
        context: &CallContext,
        message: Bytes,
    ) -> Result<UnaryAnswer, Status> {
        let Operation::Range(asked) = operation(Method::Range, message, &self.limits)? else {
            unreachable!("a range is a range")
        };
        let range = self.authorize_range(context, asked)?;
        match self.node.range_or_list(range).await {
            Ok(Ranged::Whole(answer)) => {
                let header = wire_header(answer.header);
                Ok(UnaryAnswer::Message(encode_reply(&header, &answer.reply)))
            }
            Ok(Ranged::List(list)) => in_parts(list).await,
            Err(error) => Err(write_status(error)),
        }
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

    /// A range in messages at one revision, each of which is made when the one before is on its way.
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
        let (mut list, total) = self.counted_list(context, &asked).await?;
        let mut left = match asked.limit {
            limit if limit > 0 => limit.min(total),
            _ => total,
        };
        if asked.count_only {
            left = 0;
        }
        let end = RangeEnd {
            header: wire_header(list.header()),
            more: !asked.count_only && left < total,
            count: total,
        };
        if end.more {
            // So that nothing is read behind the last key.
            list.outline(|_| {}).await.map_err(write_status)?;
        }
        let mut body = list.values(left as usize);
        let mut piece = body.next().await.map_err(write_status)?;
        loop {
            let keys = piece.take().unwrap_or_default();
            left -= keys.len() as i64;
            let is_last = keys.is_empty() || left == 0;
            let message = list_chunk(&keys, is_last.then_some(&end));
            drop(keys);
            let (sent, next) = both(responses.send_chain(message), body.next()).await;
            sent?;
            if is_last {
                return Ok(());
            }
            piece = next.map_err(write_status)?;
        }
    }

    /// The list that `asked` wants, and how many keys its range has at that revision.
    async fn counted_list(
        &self,
        context: &CallContext,
        asked: &Range,
    ) -> Result<(List, i64), Status> {
        loop {
            let counted = Range {
                count_only: true,
                ..asked.clone()
            };
            let answer = self.execute(context, Operation::Range(counted)).await?;
            let Reply::Range(total) = answer.reply else {
                unreachable!("a range answers a range")
            };
            let listed = Range {
                revision: match asked.revision {
                    revision if revision > 0 => revision,
                    _ => answer.header.revision,
                },
                serializable: true,
                ..asked.clone()
            };
            let listed = self.authorize_range(context, listed)?;
            match self.node.list(listed).await {
                Ok(list) => return Ok((list, total.count)),
                // A compaction came in between: count what is there now.
                Err(WriteError::Command(CommandError::Compacted)) if asked.revision <= 0 => {}
                Err(error) => return Err(write_status(error)),
            }
        }
    }
}

/// The answer to a range of which only the outline has been read.
async fn in_parts(mut list: List) -> Result<UnaryAnswer, Status> {
    let head = list_head(&wire_header(list.header()));
    let mut bytes = head.len() as u64;
    let end = list.outline(|listed| bytes += listed_len(listed) as u64);
    let end = end.await.map_err(write_status)?;
    let last = list_end(end.more, end.count);
    bytes += last.len() as u64;
    let body = list.values(end.keys);
    let parts = MessageParts::new(bytes, move |sink| send_parts(sink, head, body, last));
    Ok(UnaryAnswer::Parts(parts))
}

/// Sends a list. While a part waits for the peer the next one is read.
async fn send_parts(
    mut sink: PartSink,
    head: Bytes,
    mut body: ListBody,
    last: Bytes,
) -> Result<(), Status> {
    let mut part = vec![head];
    let mut next = body.next().await;
    while let Some(piece) = next.map_err(write_status)? {
        part.extend(list_piece(&piece));
        drop(piece);
        let sent;
        (sent, next) = both(sink.send(std::mem::take(&mut part)), body.next()).await;
        sent?;
    }
    part.push(last);
    sink.send(part).await
}

/// Runs both to their ends.
async fn both<A: Future, B: Future>(first: A, second: B) -> (A::Output, B::Output) {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let (mut one, mut other) = (None, None);
    poll_fn(|context| {
        if one.is_none()
            && let Poll::Ready(output) = first.as_mut().poll(context)
        {
            one = Some(output);
        }
        if other.is_none()
            && let Poll::Ready(output) = second.as_mut().poll(context)
        {
            other = Some(output);
        }
        match (one.take(), other.take()) {
            (Some(one), Some(other)) => Poll::Ready((one, other)),
            (left, right) => {
                (one, other) = (left, right);
                Poll::Pending
            }
        }
    })
    .await
}
