//! `endpoint health|status|hashkv`.

use std::time::Instant;

use grpc::Method;
use grpc::proto::etcdserverpb::{
    AlarmRequest, AlarmResponse, HashKvRequest, HashKvResponse, MemberListRequest,
    MemberListResponse, RangeRequest, RangeResponse, StatusRequest, StatusResponse,
};
use tokio::task::LocalSet;

use crate::client::{Client, Config, Deadline, Failure, Repeat};
use crate::context::{Context, client};
use crate::exit::{self, Exit};
use crate::go::duration;
use crate::out;
use crate::print::cluster::alarm_name;
use crate::print::endpoints::{Hash, Health, Status};

/// A key that any client may ask for.
const HEALTH_KEY: &[u8] = b"health";

/// The endpoints that a command is about: those of the flag, or every member's with `--cluster`.
pub(super) async fn chosen(context: &Context, config: &Config) -> Result<Vec<String>, Exit> {
    if !context.invocation.truth("cluster") {
        return Ok(config.endpoints.clone());
    }
    let client = Client::new(config.clone()).await?;
    let request = MemberListRequest { linearizable: true };
    let answer: Result<MemberListResponse, Failure> = client
        .unary(
            Method::MemberList,
            &request,
            Repeat::Safe,
            context.deadline(),
        )
        .await;
    match answer {
        Ok(answer) => Ok(answer
            .members
            .into_iter()
            .flat_map(|member| member.client_ur_ls)
            .collect()),
        Err(failure @ Failure::Unreachable(_)) => Err(failure.into()),
        Err(failure) => {
            let text =
                format!("failed to fetch endpoints from etcd cluster member list: {failure}");
            Err(Exit::new(exit::ERROR, text))
        }
    }
}

pub(super) async fn health(mut context: Context) -> Result<(), Exit> {
    let (config, printer) = context.settings().await?;
    let endpoints = chosen(&context, &config).await?;
    let deadline = context.deadline();
    let asked = LocalSet::new();
    let tasks: Vec<_> = endpoints
        .into_iter()
        .map(|endpoint| {
            asked.spawn_local(check(
                Config {
                    logger: "client",
                    ..config.only(&endpoint)
                },
                endpoint,
                deadline,
            ))
        })
        .collect();
    asked.await;
    let mut healths = Vec::new();
    for task in tasks {
        match task.await {
            Ok(health) => healths.push(health),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    printer.print(&healths)?;
    if healths.iter().all(|health| health.error.is_empty()) {
        return Ok(());
    }
    Err(Exit::new(exit::ERROR, "unhealthy cluster"))
}

async fn check(config: Config, endpoint: String, deadline: Deadline) -> Health {
    let unhealthy = |endpoint: String, took: String, error: String| Health {
        endpoint,
        healthy: false,
        took,
        error,
    };
    let client = match Client::new(config).await {
        Ok(client) => client,
        Err(failure) => return unhealthy(endpoint, String::new(), failure.reason()),
    };
    let begun = Instant::now();
    let request = RangeRequest {
        key: HEALTH_KEY.into(),
        ..RangeRequest::default()
    };
    let answer: Result<RangeResponse, Failure> = client
        .unary(Method::Range, &request, Repeat::Safe, deadline)
        .await;
    let took = duration::show(begun.elapsed());
    match answer {
        // Who may not read this key still got an answer through consensus.
        Err(Failure::Status(status)) if status.message == "etcdserver: permission denied" => {}
        Err(failure) => return unhealthy(endpoint, took, failure.reason()),
        Ok(_) => {}
    }
    let alarms: Result<AlarmResponse, Failure> = client
        .unary(
            Method::Alarm,
            &AlarmRequest::default(),
            Repeat::Safe,
            deadline,
        )
        .await;
    match alarms {
        Err(_) => unhealthy(endpoint, took, "Unable to fetch the alarm list".to_owned()),
        Ok(alarms) if alarms.alarms.is_empty() => Health {
            endpoint,
            healthy: true,
            took,
            error: String::new(),
        },
        Ok(alarms) => {
            let names: String = alarms
                .alarms
                .iter()
                .map(|alarm| alarm_name(alarm.alarm) + " ")
                .collect();
            unhealthy(endpoint, took, format!("Active Alarm(s): {names}"))
        }
    }
}

pub(super) async fn status(mut context: Context) -> Result<(), Exit> {
    let (config, printer) = context.settings().await?;
    let mut answers = Vec::new();
    let mut failed = None;
    for endpoint in chosen(&context, &config).await? {
        let client = client(config.only(&endpoint)).await?;
        let answer: Result<StatusResponse, _> = client
            .unary(
                Method::Status,
                &StatusRequest {},
                Repeat::Safe,
                context.deadline(),
            )
            .await;
        match answer {
            Ok(answer) => answers.push(Status(endpoint, answer)),
            Err(failure) => {
                out::error(&format!(
                    "Failed to get the status of endpoint {endpoint} ({})",
                    failure.reason()
                ));
                failed = Some(failure);
            }
        }
    }
    printer.print(&answers)?;
    match failed {
        None => Ok(()),
        Some(failure) => Err(Exit::silent(Exit::failed(exit::ERROR, &failure).code)),
    }
}

pub(super) async fn hashkv(mut context: Context) -> Result<(), Exit> {
    let (config, printer) = context.settings().await?;
    let revision = context.invocation.number("rev");
    let mut answers = Vec::new();
    let mut failed = None;
    for endpoint in chosen(&context, &config).await? {
        let client = client(config.only(&endpoint)).await?;
        let answer: Result<HashKvResponse, _> = client
            .unary(
                Method::HashKv,
                &HashKvRequest { revision },
                Repeat::Safe,
                context.deadline(),
            )
            .await;
        match answer {
            Ok(answer) => answers.push(Hash(endpoint, answer)),
            Err(failure) => {
                out::error(&format!(
                    "Failed to get the hash of endpoint {endpoint} ({})",
                    failure.reason()
                ));
                failed = Some(failure);
            }
        }
    }
    printer.print(&answers)?;
    failed.map_or(Ok(()), |failure| Err(failure.into()))
}
