//! `get`, `put`, `del`.

use std::io;

use grpc::Method;
use grpc::proto::etcdserverpb::{
    DeleteRangeResponse, PutResponse, RangeRequest, RangeResponse, RangeStreamResponse,
};

use crate::client::{Client, Deadline, Failure, Repeat};
use crate::context::Context;
use crate::exit::{Exit, arguments};
use crate::print::Format;

use super::request;

pub(super) async fn get(mut context: Context) -> Result<(), Exit> {
    let request = request::get(&context.invocation)?;
    let (client, mut printer) = context.connect().await?;
    let deadline = context.deadline();
    let answer = if context.invocation.truth("stream") {
        pieces(&client, &request, deadline).await?
    } else {
        client
            .unary(Method::Range, &request, Repeat::Safe, deadline)
            .await?
    };
    if request.count_only && printer.format != Format::Fields {
        return arguments("--count-only is only for `--write-out=fields`");
    }
    if context.invocation.truth("print-value-only") {
        if printer.format != Format::Simple {
            return arguments("print-value-only is only for `--write-out=simple`");
        }
        printer = printer.value_only();
    }
    printer.print(&answer)
}

/// An answer in pieces, put together: keys add up, all else stands in the last piece.
async fn pieces(
    client: &Client,
    request: &RangeRequest,
    deadline: Deadline,
) -> Result<RangeResponse, Failure> {
    let mut whole = RangeResponse::default();
    let mut call = client.start(Method::RangeStream, deadline).await?;
    call.send(request, client.send_bytes_max())?;
    call.finish()?;
    while let Some(piece) = call.next::<RangeStreamResponse>().await? {
        let piece = piece.range_response.unwrap_or_default();
        whole.header = piece.header.or(whole.header);
        whole.kvs.extend(piece.kvs);
        whole.more |= piece.more;
        whole.count = whole.count.max(piece.count);
    }
    Ok(whole)
}

pub(super) async fn put(mut context: Context) -> Result<(), Exit> {
    let request = request::put(&context.invocation, Some(&mut io::stdin().lock()))?;
    let (client, printer) = context.connect().await?;
    let answer: PutResponse = client
        .unary(Method::Put, &request, Repeat::Never, context.deadline())
        .await?;
    printer.print(&answer)
}

pub(super) async fn del(mut context: Context) -> Result<(), Exit> {
    let request = request::del(&context.invocation)?;
    let (client, printer) = context.connect().await?;
    let answer: DeleteRangeResponse = client
        .unary(
            Method::DeleteRange,
            &request,
            Repeat::Never,
            context.deadline(),
        )
        .await?;
    printer.print(&answer)
}
