//! `lease grant|revoke|timetolive|list|keep-alive`.

use std::rc::Rc;

use grpc::Method;
use grpc::proto::etcdserverpb::{
    LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse,
    LeaseTimeToLiveRequest,
};

use crate::client::lease::{self, KeepAlive};
use crate::client::{Failure, Repeat};
use crate::context::Context;
use crate::exit::{self, Exit, arguments};
use crate::go::number;
use crate::out;
use crate::print::Format;
use crate::print::leases::{Remaining, Revoked};

/// The lease that the only argument names.
fn id(context: &Context, missing: &str) -> Result<i64, Exit> {
    match context.arguments() {
        [id] => match number::signed(id, 16) {
            Ok(id) => Ok(id),
            Err(error) => arguments(format!("bad lease ID arg ({error}), expecting ID in Hex")),
        },
        _ => arguments(missing),
    }
}

fn failed(what: &str, failure: &Failure) -> Exit {
    match failure {
        Failure::Unreachable(_) => Exit::failed(exit::ERROR, failure),
        _ => Exit::new(exit::ERROR, format!("failed to {what} lease ({failure})")),
    }
}

fn connection(failure: &Failure) -> Exit {
    Exit::failed(exit::CONNECTION, failure)
}

pub(super) async fn grant(mut context: Context) -> Result<(), Exit> {
    let [ttl] = context.arguments() else {
        return arguments("lease grant command needs TTL argument");
    };
    let ttl = match number::signed(ttl, 10) {
        Ok(ttl) => ttl,
        Err(error) => return arguments(format!("bad TTL ({error})")),
    };
    let (client, printer) = context.connect().await?;
    let answer = lease::grant(&client, ttl, context.deadline()).await;
    printer.print(&answer.map_err(|failure| failed("grant", &failure))?)
}

pub(super) async fn revoke(mut context: Context) -> Result<(), Exit> {
    let id = id(&context, "lease revoke command needs 1 argument")?;
    let (client, printer) = context.connect().await?;
    let answer: Result<LeaseRevokeResponse, _> = client
        .unary(
            Method::LeaseRevoke,
            &LeaseRevokeRequest { id },
            Repeat::Safe,
            context.deadline(),
        )
        .await;
    printer.print(&Revoked(
        id,
        answer.map_err(|failure| failed("revoke", &failure))?,
    ))
}

pub(super) async fn time_to_live(mut context: Context) -> Result<(), Exit> {
    const MISSING: &str = "lease timetolive command needs lease ID as argument";
    if context.arguments().len() != 1 {
        return arguments(MISSING);
    }
    let (client, printer) = context.connect().await?;
    let id = id(&context, MISSING)?;
    let keys = context.invocation.truth("keys");
    let request = LeaseTimeToLiveRequest { id, keys };
    let answer = client
        .unary(Method::LeaseTimeToLive, &request, Repeat::Safe, None)
        .await;
    let answer = answer.map_err(|failure| connection(&failure))?;
    printer.print(&Remaining { answer, keys })
}

pub(super) async fn list(mut context: Context) -> Result<(), Exit> {
    let (client, printer) = context.connect().await?;
    let answer: Result<LeaseLeasesResponse, _> = client
        .unary(
            Method::LeaseLeases,
            &LeaseLeasesRequest {},
            Repeat::Safe,
            None,
        )
        .await;
    printer.print(&answer.map_err(|failure| connection(&failure))?)
}

pub(super) async fn keep_alive(mut context: Context) -> Result<(), Exit> {
    let id = id(
        &context,
        "lease keep-alive command needs lease ID as argument",
    )?;
    let (client, printer) = context.connect().await?;
    if context.invocation.truth("once") {
        let answer = lease::renew_once(&client, id).await;
        return printer.print(&answer.map_err(|failure| connection(&failure))?);
    }
    let mut lease = KeepAlive::new(Rc::new(client), id);
    while let Some(answer) = lease
        .renewed()
        .await
        .map_err(|failure| connection(&failure))?
    {
        printer.print(&answer)?;
    }
    if printer.format == Format::Simple {
        out::line(&format!("lease {id:016x} expired or revoked."));
    }
    Ok(())
}
