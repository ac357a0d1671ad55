//! `/health`, `/livez` and `/readyz`: texts, codes and headers as etcd's.

use std::time::Duration;

use bytes::Bytes;
use engine::auth::{Identity, Policy, authorize};
use engine::command::{AlarmKind, Operation, Range};
use engine::key::KeyRange;
use grpc::{HttpRequest, HttpResponse};
use http::StatusCode;
use http::header::X_CONTENT_TYPE_OPTIONS;

use super::http::{NOSNIFF, Parameters, text};
use super::write_status;
use crate::metrics::HealthCheck;
use crate::node::Node;

/// How long a read that is a check may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The answer to `/health`: JSON that calls itself text.
pub(super) async fn health(node: &Node, request: &HttpRequest) -> HttpResponse {
    let parameters = Parameters::of(request);
    let reason = unhealthy_because(node, &parameters).await;
    let metrics = &node.board().metrics.member;
    let body = |health, reason| {
        // The fields stand in this order.
        serde_json::json!({ "health": health, "reason": reason }).to_string()
    };
    match reason {
        None => {
            metrics.health_successes.increment();
            text(StatusCode::OK, body("true", ""))
        }
        Some(reason) => {
            metrics.health_failures.increment();
            let body = body("false", &reason);
            let fields = [
                ("output", body.as_str().into()),
                ("status-code", 503.into()),
            ];
            node.logger().warn("/health error", &fields);
            text(StatusCode::SERVICE_UNAVAILABLE, body + "\n")
        }
    }
}

async fn unhealthy_because(node: &Node, parameters: &Parameters) -> Option<String> {
    let serializable = parameters.first("serializable") == Some("true");
    let Ok(alarms) = node.alarms().await else {
        return Some("RAFT NO LEADER".to_owned());
    };
    for (_, kind) in alarms {
        let name = alarm_name(kind);
        if !parameters.any("exclude", name) {
            return Some(format!("ALARM {name}"));
        }
    }
    if !serializable && !node.has_leader() {
        return Some("RAFT NO LEADER".to_owned());
    }
    let read = read(node, serializable).await;
    read.err().map(|error| format!("RANGE ERROR:{error}"))
}

fn alarm_name(kind: AlarmKind) -> &'static str {
    match kind {
        AlarmKind::NoSpace => "NOSPACE",
        AlarmKind::Corrupt => "CORRUPT",
    }
}

/// The answer to `/livez`, `/readyz` and their single checks; none if `path` is neither.
pub(super) async fn checks(node: &Node, request: &HttpRequest) -> Option<HttpResponse> {
    let path = request.uri().path();
    let all = HealthCheck::ALL.into_iter();
    let (question, single) = split(path)?;
    let parameters = Parameters::of(request);
    let checks: Vec<HealthCheck> = match single {
        // Whoever asks for one check gets it, whatever is excluded.
        Some(single) => vec![single],
        None => all
            .filter(|check| check.question() == question)
            .filter(|check| !parameters.any("exclude", check.name()))
            .collect(),
    };
    let mut details = String::new();
    let mut failed = false;
    for check in checks {
        let result = run(node, check).await;
        let results = &node.board().metrics.member;
        results.check(check).note(result.is_ok());
        match result {
            Ok(()) => details.push_str(&format!("[+]{} ok\n", check.name())),
            Err(error) => {
                failed = true;
                details.push_str(&format!("[-]{} failed: {error}\n", check.name()));
            }
        }
    }
    if failed {
        let fields = [
            ("path", path.into()),
            ("reason", details.as_str().into()),
            ("status-code", 503.into()),
        ];
        node.logger().warn("Health check error", &fields);
        return Some(text(StatusCode::SERVICE_UNAVAILABLE, details + "\n"));
    }
    if !parameters.has("verbose") {
        details.clear();
    }
    let mut answer = text(StatusCode::OK, details + "ok\n");
    answer.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    Some(answer)
}

/// Whether `path` is one of [`checks`].
pub(super) fn is_check(path: &str) -> bool {
    split(path).is_some()
}

/// The question that `path` is, and the one check of it that is asked for.
fn split(path: &str) -> Option<(&'static str, Option<HealthCheck>)> {
    for question in ["livez", "readyz"] {
        let Some(rest) = path
            .strip_prefix('/')
            .and_then(|p| p.strip_prefix(question))
        else {
            continue;
        };
        if rest.is_empty() {
            return Some((question, None));
        }
        let single = HealthCheck::ALL.into_iter().find(|check| {
            check.question() == question && rest.strip_prefix('/') == Some(check.name())
        })?;
        return Some((question, Some(single)));
    }
    None
}

async fn run(node: &Node, check: HealthCheck) -> Result<(), String> {
    match check {
        HealthCheck::LiveSerializableRead | HealthCheck::ReadySerializableRead => {
            read(node, true).await
        }
        HealthCheck::ReadyLinearizableRead => read(node, false).await,
        HealthCheck::ReadyDataCorruption => {
            let alarms = node.alarms().await;
            let alarms = alarms.map_err(|error| write_status(error).message.into_owned())?;
            match alarms.iter().any(|(_, kind)| *kind == AlarmKind::Corrupt) {
                true => Err("alarm activated: CORRUPT".to_owned()),
                false => Ok(()),
            }
        }
        // The only member there is votes.
        HealthCheck::ReadyNonLearner => Ok(()),
    }
}

/// Reads something, or says why that was not possible.
async fn read(node: &Node, serializable: bool) -> Result<(), String> {
    let range = Range {
        limit: 1,
        serializable,
        ..Range::all(KeyRange::single(Bytes::from_static(b"health")))
    };
    let operation = Operation::Range(range);
    let operation = authorize(operation, &Identity::Member, &Policy::Disabled)
        .map_err(|error| error.to_string())?;
    let read = node.execute(operation);
    match node.world().timeout(READ_TIMEOUT, read).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(write_status(error).message.into_owned()),
        Err(_) => Err("context deadline exceeded".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_a_question_or_one_of_its_checks() {
        let check = |path: &str, expected: Option<(&'static str, Option<HealthCheck>)>| {
            assert_eq!(split(path), expected, "{path}");
        };
        check("/livez", Some(("livez", None)));
        check("/readyz", Some(("readyz", None)));
        let live = HealthCheck::LiveSerializableRead;
        check("/livez/serializable_read", Some(("livez", Some(live))));
        let ready = HealthCheck::ReadyNonLearner;
        check("/readyz/non_learner", Some(("readyz", Some(ready))));
        check("/livez/non_learner", None);
        check("/livez/", None);
        check("/readyz/nothing", None);
        check("/readyznon_learner", None);
        check("livez", None);
    }
}
