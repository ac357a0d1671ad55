//! `check datascale`: how much memory does a data set need?

use crate::client::{endpoint::Endpoint, metrics};
use crate::context::Context;
use crate::exit::{self, Exit};
use crate::out;

use super::load::{self, Load};
use super::{compact, connect, defragment, delete, print_errors, refuse_keys, size};

/// A key and its value together.
const PAIR_BYTES: usize = 1024;
const MEGABYTE: f64 = 1024.0 * 1024.0;

pub(in crate::commands) async fn run(mut context: Context) -> Result<(), Exit> {
    let (count, clients) = match size(&context.invocation.text("load"))? {
        "s" => (10_000, 50),
        "m" => (100_000, 200),
        "l" => (1_000_000, 500),
        _ => (3_000_000, 1_000),
    };
    let (config, _) = context.settings().await?;
    let connected = connect(&config, clients).await?;
    let prefix = context.invocation.text("prefix");
    refuse_keys(
        &connected[0],
        &prefix,
        &format!("etcdctl del --prefix {prefix}"),
    )
    .await?;
    let endpoint = Endpoint::parse(&config.endpoints[0]);
    let resident =
        async |when: &str| match metrics::resident_bytes(&endpoint, config.tls.as_ref()).await {
            Ok(bytes) => Ok(bytes),
            Err(error) => {
                out::line(&format!("fetch error: {error}"));
                out::line(&format!(
                    "FAIL: Could not read process_resident_memory_bytes {when} the put operations."
                ));
                Err(Exit::silent(exit::ERROR))
            }
        };
    let before = resident("before").await?;
    out::line(&format!(
        "Start data scale check for work load [{count} key-value pairs, {PAIR_BYTES} bytes per key-value, {clients} concurrent clients]."
    ));
    let load = Load {
        count: Some(count),
        rate: None,
        length: None,
        prefix,
        bytes: (PAIR_BYTES / 2, PAIR_BYTES / 2),
    };
    let (statistics, _) = load::run(&load, &connected).await;
    let after = resident("after").await?;
    let revision = delete(&connected[0], &load.prefix, None).await?;
    if context.invocation.truth("auto-compact") {
        compact(&connected[0], revision).await?;
    }
    if context.invocation.truth("auto-defrag") {
        defragment(&config).await?;
    }
    if print_errors(&statistics.errors) {
        return Err(Exit::silent(exit::ERROR));
    }
    let megabytes = (after - before) / MEGABYTE;
    out::line(&format!(
        "PASS: Approximate system memory used : {megabytes:.2} MB."
    ));
    Ok(())
}
