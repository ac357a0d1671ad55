//! `check perf` and `check datascale`: loads against a real cluster, and what is left tidied up.

pub(super) mod datascale;
pub(super) mod load;
pub(super) mod perf;
mod statistics;

use std::rc::Rc;
use std::time::Duration;

use grpc::Method;
use grpc::proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DefragmentRequest, DefragmentResponse,
    DeleteRangeRequest, DeleteRangeResponse, RangeRequest, RangeResponse,
};
use tokio::time::Instant;

use crate::client::{Client, Config, Deadline, Failure, Repeat};
use crate::context::client;
use crate::exit::{self, Exit};
use crate::go::quote::quote;
use crate::out;
use crate::prefix::prefix_range;

/// How long tidying up may take, each step of it.
const TIDY: Duration = Duration::from_secs(30);

/// The one-letter name of a load.
fn size(name: &str) -> Result<&'static str, Exit> {
    match name {
        "s" | "small" => Ok("s"),
        "m" | "medium" => Ok("m"),
        "l" | "large" => Ok("l"),
        "xl" | "xLarge" => Ok("xl"),
        _ => Err(Exit::new(
            exit::FEATURE,
            format!("unknown load option {name}"),
        )),
    }
}

fn tidy_deadline() -> Deadline {
    Some(Instant::now() + TIDY)
}

/// So many clients, each with its own connections.
async fn connect(config: &Config, clients: usize) -> Result<Vec<Rc<Client>>, Exit> {
    let mut connected = Vec::with_capacity(clients);
    for _ in 0..clients {
        connected.push(Rc::new(client(config.clone()).await?));
    }
    Ok(connected)
}

/// Refuses to work where there are keys already.
async fn refuse_keys(client: &Client, prefix: &str, hint: &str) -> Result<(), Exit> {
    let (key, range_end) = prefix_range(prefix.as_bytes());
    let request = RangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        limit: 1,
        ..RangeRequest::default()
    };
    let answer: RangeResponse = client
        .unary(Method::Range, &request, Repeat::Safe, None)
        .await?;
    if answer.kvs.is_empty() {
        return Ok(());
    }
    let quoted = quote(prefix.as_bytes());
    Err(Exit::new(
        exit::INPUT,
        format!("prefix {quoted} has keys. Delete with {hint} first"),
    ))
}

/// Deletes the keys; gives the revision of the deletion.
async fn delete(client: &Client, prefix: &str, deadline: Deadline) -> Result<i64, Failure> {
    let (key, range_end) = prefix_range(prefix.as_bytes());
    let request = DeleteRangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        prev_kv: false,
    };
    let answer: DeleteRangeResponse = client
        .unary(Method::DeleteRange, &request, Repeat::Never, deadline)
        .await?;
    Ok(answer.header.map_or(0, |header| header.revision))
}

async fn compact(client: &Client, revision: i64) -> Result<(), Exit> {
    out::line(&format!("Compacting with revision {revision}"));
    let request = CompactionRequest {
        revision,
        physical: true,
    };
    let _: CompactionResponse = client
        .unary(Method::Compact, &request, Repeat::Never, tidy_deadline())
        .await?;
    out::line(&format!("Compacted with revision {revision}"));
    Ok(())
}

async fn defragment(config: &Config) -> Result<(), Exit> {
    for endpoint in &config.endpoints {
        let quoted = quote(endpoint.as_bytes());
        out::line(&format!("Defragmenting {quoted}"));
        let client = client(config.only(endpoint)).await?;
        let request = DefragmentRequest {};
        let _: DefragmentResponse = client
            .unary(Method::Defragment, &request, Repeat::Never, tidy_deadline())
            .await?;
        out::line(&format!("Defragmented {quoted}"));
    }
    Ok(())
}

/// Prints what calls failed of; `false` if none did.
fn print_errors(errors: &std::collections::BTreeMap<String, u64>) -> bool {
    if errors.is_empty() {
        return false;
    }
    out::line("FAIL: too many errors");
    for (error, count) in errors {
        out::line(&format!("FAIL: ERROR({error}) -> {count}"));
    }
    true
}
