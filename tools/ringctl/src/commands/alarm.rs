//! `alarm list|disarm`.

use grpc::Method;
use grpc::proto::etcdserverpb::alarm_request::AlarmAction;
use grpc::proto::etcdserverpb::{AlarmRequest, AlarmResponse};

use crate::client::Repeat;
use crate::context::Context;
use crate::exit::{Exit, arguments};

pub(super) async fn list(mut context: Context) -> Result<(), Exit> {
    if !context.arguments().is_empty() {
        return arguments("alarm list command accepts no arguments");
    }
    let (client, printer) = context.connect().await?;
    let request = AlarmRequest::default();
    let answer: AlarmResponse = client
        .unary(Method::Alarm, &request, Repeat::Safe, context.deadline())
        .await?;
    printer.print(&answer)
}

pub(super) async fn disarm(mut context: Context) -> Result<(), Exit> {
    if !context.arguments().is_empty() {
        return arguments("alarm disarm command accepts no arguments");
    }
    let (client, printer) = context.connect().await?;
    let deadline = context.deadline();
    let active: AlarmResponse = client
        .unary(
            Method::Alarm,
            &AlarmRequest::default(),
            Repeat::Safe,
            deadline,
        )
        .await?;
    let mut disarmed = AlarmResponse::default();
    for alarm in active.alarms {
        let request = AlarmRequest {
            action: AlarmAction::Deactivate.into(),
            member_id: alarm.member_id,
            alarm: alarm.alarm,
        };
        let answer: AlarmResponse = client
            .unary(Method::Alarm, &request, Repeat::Never, deadline)
            .await?;
        disarmed.alarms.extend(answer.alarms);
    }
    printer.print(&disarmed)
}
