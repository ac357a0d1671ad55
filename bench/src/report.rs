//! Results as text for people and as JSON for programs.

use serde_json::{Value, json};

use crate::load::{Outcome, Pacing, Plan};

/// The percentiles that every report shows.
const PERCENTILES: [(&str, f64); 5] = [
    ("p50", 50.0),
    ("p90", 90.0),
    ("p99", 99.0),
    ("p99.9", 99.9),
    ("p99.99", 99.99),
];
const MEBIBYTE: f64 = 1048576.0;

/// One run as lines of text.
pub fn text(name: &str, plan: &Plan, outcome: &Outcome) -> String {
    let pacing = match plan.pacing {
        Pacing::Closed => "closed loop".to_owned(),
        Pacing::Open { rate } => format!("open loop, {rate} calls/s due"),
    };
    let mut lines = vec![format!(
        "{name}  {} connections × {} streams, {pacing}, {:.1} s",
        plan.connections,
        plan.streams,
        outcome.elapsed.as_secs_f64(),
    )];
    let failures: u64 = outcome.failures.values().sum();
    lines.push(format!(
        "  calls      {} ({:.0}/s), {} conflicts, {failures} failed",
        outcome.operations,
        outcome.rate(),
        outcome.conflicts,
    ));
    let mut latency = String::from("  latency   ");
    for (name, percentile) in PERCENTILES {
        latency += &format!(" {name} {:.0} µs ", outcome.latency_micros(percentile));
    }
    latency += &format!(" max {:.0} µs", outcome.latencies.max() as f64 / 1e3);
    lines.push(latency);
    if let Some(micros) = outcome.server_micros_per_operation() {
        let memory = outcome.server_memory.unwrap_or_default();
        lines.push(format!(
            "  server     {micros:.1} µs processor time/call, {:.0} MiB resident, {:.0} MiB at most",
            memory.resident_bytes as f64 / MEBIBYTE,
            memory.resident_bytes_max as f64 / MEBIBYTE,
        ));
    }
    let spinning = if plan.spin {
        " (polling without sleep)"
    } else {
        ""
    };
    lines.push(format!(
        "  client     {:.2} µs processor time/call{spinning}; others used {:.1} % of the machine",
        client_micros(outcome),
        foreign_percent(outcome),
    ));
    for ((code, message), count) in &outcome.failures {
        lines.push(format!("  failed     {count} × code {code}: {message}"));
    }
    lines.join("\n")
}

/// One run as JSON.
pub fn json(name: &str, plan: &Plan, outcome: &Outcome) -> Value {
    let percentiles: serde_json::Map<String, Value> = PERCENTILES
        .iter()
        .map(|(name, at)| ((*name).to_owned(), json!(outcome.latency_micros(*at))))
        .collect();
    let failures: Vec<Value> = outcome
        .failures
        .iter()
        .map(|((code, message), count)| json!({"code": code, "message": message, "count": count}))
        .collect();
    json!({
        "workload": name,
        "connections": plan.connections,
        "streams": plan.streams,
        "rate_due": match plan.pacing { Pacing::Closed => Value::Null, Pacing::Open { rate } => json!(rate) },
        "seconds": outcome.elapsed.as_secs_f64(),
        "operations": outcome.operations,
        "conflicts": outcome.conflicts,
        "failures": failures,
        "rate": outcome.rate(),
        "latency_micros": percentiles,
        "latency_micros_max": outcome.latencies.max() as f64 / 1e3,
        "server_cpu_micros_per_operation": outcome.server_micros_per_operation(),
        "server_resident_bytes": outcome.server_memory.map(|memory| memory.resident_bytes),
        "server_resident_bytes_max": outcome.server_memory.map(|memory| memory.resident_bytes_max),
        "client_cpu_micros_per_operation": client_micros(outcome),
        "foreign_cpu_percent": foreign_percent(outcome),
    })
}

fn client_micros(outcome: &Outcome) -> f64 {
    outcome.client_cpu.as_secs_f64() * 1e6 / outcome.operations.max(1) as f64
}

/// Share of the machine that neither server nor client used.
pub fn foreign_percent(outcome: &Outcome) -> f64 {
    let processors = std::fs::read_to_string("/proc/stat")
        .map(|stat| {
            stat.lines()
                .skip(1)
                .take_while(|line| line.starts_with("cpu"))
                .count()
        })
        .unwrap_or_default()
        .max(1);
    outcome.foreign_cpu.as_secs_f64() * 100.0 / (outcome.elapsed.as_secs_f64() * processors as f64)
}
