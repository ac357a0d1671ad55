//! `downgrade validate|enable|cancel`.

use grpc::Method;
use grpc::proto::etcdserverpb::DowngradeRequest;
use grpc::proto::etcdserverpb::downgrade_request::DowngradeAction;

use crate::client::Repeat;
use crate::context::Context;
use crate::exit::{Exit, arguments};
use crate::print::cluster::Downgraded;

fn version(context: &Context) -> Result<String, Exit> {
    match context.arguments() {
        [] => arguments("TARGET_VERSION not provided"),
        [version] if version.is_empty() => arguments("target version not provided"),
        [version] => Ok(version.clone()),
        _ => arguments("too many arguments"),
    }
}

async fn ask(
    mut context: Context,
    action: DowngradeAction,
    version: String,
    step: &'static str,
) -> Result<(), Exit> {
    let (client, printer) = context.connect().await?;
    let request = DowngradeRequest {
        action: action.into(),
        version,
    };
    let answer = client
        .unary(
            Method::Downgrade,
            &request,
            Repeat::Never,
            context.deadline(),
        )
        .await?;
    printer.print(&Downgraded { step, answer })
}

pub(super) async fn validate(context: Context) -> Result<(), Exit> {
    let version = version(&context)?;
    ask(context, DowngradeAction::Validate, version, "validate").await
}

pub(super) async fn enable(context: Context) -> Result<(), Exit> {
    let version = version(&context)?;
    ask(context, DowngradeAction::Enable, version, "enable").await
}

pub(super) async fn cancel(context: Context) -> Result<(), Exit> {
    ask(context, DowngradeAction::Cancel, String::new(), "cancel").await
}
