//! `elect`.

use std::rc::Rc;

use bytes::Bytes;
use grpc::Method;
use grpc::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use grpc::proto::etcdserverpb::{RangeRequest, RangeResponse, ResponseHeader};
use grpc::proto::mvccpb::KeyValue;
use grpc::proto::mvccpb::event::EventType;

use crate::client::lease::{self, KeepAlive};
use crate::client::watch::{Seen, Spec, Watch};
use crate::client::{Client, Failure, Repeat};
use crate::context::Context;
use crate::exit::{self, Exit, arguments};
use crate::prefix::prefix_end;
use crate::print::Printer;

use super::session::{CANCELED, Place, Signals, TTL};

fn error<T>(text: &str) -> Result<T, Exit> {
    Err(Exit::new(exit::ERROR, text))
}

pub(super) async fn run(mut context: Context) -> Result<(), Exit> {
    let words = context.arguments().to_vec();
    let listen = context.invocation.truth("listen");
    if words.is_empty() || words.len() > 2 {
        return arguments(
            "elect takes one election name argument and an optional proposal argument",
        );
    }
    let (client, printer) = context.connect().await?;
    match &words[..] {
        [_] if !listen => arguments("no proposal argument but -l not set"),
        [name] => observe(Rc::new(client), &printer, name).await,
        [_, _, ..] if listen => arguments("proposal given but -l is set"),
        [name, proposal, ..] => campaign(Rc::new(client), &printer, name, proposal).await,
        [] => arguments("elect takes one election name argument and an optional proposal argument"),
    }
}

async fn campaign(
    client: Rc<Client>,
    printer: &Printer,
    name: &str,
    proposal: &str,
) -> Result<(), Exit> {
    let mut signals = Signals::catch()?;
    let (place, keep) = Place::take(client, name, proposal, TTL).await?;
    let expired = keep.hold();
    tokio::pin!(expired);
    tokio::select! {
        turn = place.turn() => turn?,
        () = signals.next() => {
            place.leave().await?;
            return error(CANCELED);
        }
        () = &mut expired => return error("elect: session expired"),
    }
    printer.print(&place.read().await?)?;
    tokio::select! {
        () = signals.next() => Ok(place.leave().await?),
        () = &mut expired => error("elect: session expired"),
    }
}

async fn observe(client: Rc<Client>, printer: &Printer, name: &str) -> Result<(), Exit> {
    let mut signals = Signals::catch()?;
    let lease = lease::grant(&client, TTL, None).await?.id;
    let keep = KeepAlive::new(client.clone(), lease);
    let prefix = format!("{name}/");
    tokio::select! {
        lost = leaders(&client, printer, &prefix) => match lost {
            Ok(()) => error("elect: observer lost"),
            Err(exit) => Err(exit),
        },
        () = signals.next() => Ok(()),
        // Observing goes on without the session, which nothing hangs on.
        () = async { keep.hold().await; std::future::pending().await } => Ok(()),
    }
}

/// Prints each leader and what it proclaims, until watching is no longer possible.
async fn leaders(client: &Rc<Client>, printer: &Printer, prefix: &str) -> Result<(), Exit> {
    loop {
        let Ok((header, leader)) = leader(client, prefix).await else {
            return Ok(());
        };
        let key = leader.key.clone();
        let revision = header.map_or(0, |header| header.revision) + 1;
        show(printer, header, leader)?;
        let mut watch = Watch::new(client.clone());
        if watch
            .add(Spec {
                key,
                revision,
                ..Spec::default()
            })
            .await
            .is_err()
        {
            return Ok(());
        }
        'reign: loop {
            let Ok(Seen::Answer(_, answer)) = watch.next().await else {
                return Ok(());
            };
            for event in answer.events {
                match event.kv {
                    _ if event.r#type == EventType::Delete as i32 => break 'reign,
                    Some(kv) => show(printer, answer.header, kv)?,
                    None => {}
                }
            }
        }
    }
}

fn show(printer: &Printer, header: Option<ResponseHeader>, kv: KeyValue) -> Result<(), Exit> {
    printer.print(&RangeResponse {
        header,
        kvs: vec![kv],
        ..RangeResponse::default()
    })
}

/// The leader's key, or the next that becomes one.
async fn leader(
    client: &Rc<Client>,
    prefix: &str,
) -> Result<(Option<ResponseHeader>, KeyValue), Failure> {
    let range_end = Bytes::from(prefix_end(prefix.as_bytes()));
    let request = RangeRequest {
        key: prefix.to_owned().into(),
        range_end: range_end.clone(),
        limit: 1,
        sort_order: SortOrder::Ascend.into(),
        sort_target: SortTarget::Create.into(),
        ..RangeRequest::default()
    };
    let answer: RangeResponse = client
        .unary(Method::Range, &request, Repeat::Safe, None)
        .await?;
    if let Some(kv) = answer.kvs.into_iter().next() {
        return Ok((answer.header, kv));
    }
    let revision = answer.header.map_or(0, |header| header.revision);
    let mut watch = Watch::new(client.clone());
    watch
        .add(Spec {
            key: request.key,
            range_end,
            revision,
            ..Spec::default()
        })
        .await?;
    loop {
        let answer = match watch.next().await? {
            Seen::Answer(_, answer) => answer,
            Seen::Ended(_, reason) => {
                return Err(Failure::Configuration(reason.unwrap_or_default()));
            }
        };
        let put = answer
            .events
            .into_iter()
            .find(|event| event.r#type == EventType::Put as i32);
        if let Some(kv) = put.and_then(|event| event.kv) {
            let header = answer.header.map(|header| ResponseHeader {
                revision: kv.mod_revision,
                ..header
            });
            return Ok((header, kv));
        }
    }
}
