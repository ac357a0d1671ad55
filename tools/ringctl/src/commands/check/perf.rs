//! `check perf`: does the cluster keep up with a load for a minute?

use std::time::Duration;

use crate::context::Context;
use crate::exit::{self, Exit};
use crate::out;

use super::load::{self, Load};
use super::{compact, connect, defragment, delete, print_errors, refuse_keys, size, tidy_deadline};

/// How long the load lasts.
const LENGTH: Duration = Duration::from_secs(60);
/// The part of the load that must be reached, the slowest call and the deviation that are allowed.
const THROUGHPUT_MIN: f64 = 0.9;
const SLOWEST_SECONDS_MAX: f64 = 0.5;
const DEVIATION_SECONDS_MAX: f64 = 0.1;

pub(in crate::commands) async fn run(mut context: Context) -> Result<(), Exit> {
    let (rate, clients) = match size(&context.invocation.text("load"))? {
        "s" => (150, 50),
        "m" => (1_000, 200),
        "l" => (8_000, 500),
        _ => (15_000, 1_000),
    };
    let (config, _) = context.settings().await?;
    let connected = connect(&config, clients).await?;
    let prefix = context.invocation.text("prefix");
    refuse_keys(
        &connected[0],
        &prefix,
        &format!("'etcdctl del --prefix {prefix}'"),
    )
    .await?;
    let load = Load {
        count: None,
        rate: Some(rate),
        length: Some(LENGTH),
        prefix,
        bytes: (256, 1024),
    };
    let (statistics, took) = load::run(&load, &connected).await;
    match delete(&connected[0], &load.prefix, tidy_deadline()).await {
        Err(failure) => out::line(&format!(
            "FAIL: Cleanup failed during key deletion: ERROR({failure})"
        )),
        Ok(revision) if context.invocation.truth("auto-compact") => {
            compact(&connected[0], revision).await?
        }
        Ok(_) => {}
    }
    if context.invocation.truth("auto-defrag") {
        defragment(&config).await?;
    }
    let mut passed = !print_errors(&statistics.errors);
    let mut verdict = |good: bool, yes: String, no: String| {
        passed &= good;
        out::line(if good { &yes } else { &no });
    };
    let throughput = statistics.count() as f64 / took.as_secs_f64();
    let shown = throughput as u64 + 1;
    verdict(
        throughput / rate as f64 > THROUGHPUT_MIN,
        format!("PASS: Throughput is {shown} writes/s"),
        format!("FAIL: Throughput too low: {shown} writes/s"),
    );
    let slowest = statistics.slowest();
    verdict(
        slowest <= SLOWEST_SECONDS_MAX,
        format!("PASS: Slowest request took {slowest:.6}s"),
        format!("Slowest request took too long: {slowest:.6}s"),
    );
    let deviation = statistics.deviation();
    verdict(
        deviation <= DEVIATION_SECONDS_MAX,
        format!("PASS: Stddev is {deviation:.6}s"),
        format!("Stddev too high: {deviation:.6}s"),
    );
    out::line(if passed { "PASS" } else { "FAIL" });
    if passed {
        Ok(())
    } else {
        Err(Exit::silent(exit::ERROR))
    }
}
