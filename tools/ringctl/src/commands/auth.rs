//! `auth enable|disable|status`.

use grpc::Method;
use grpc::proto::etcdserverpb::{
    AuthDisableRequest, AuthDisableResponse, AuthEnableRequest, AuthEnableResponse,
    AuthRoleAddRequest, AuthRoleAddResponse, AuthStatusRequest, AuthStatusResponse,
    AuthUserGrantRoleRequest, AuthUserGrantRoleResponse,
};

use crate::client::{Failure, Repeat};
use crate::context::Context;
use crate::exit::{Exit, arguments};
use crate::out;

/// The user and the role that authentication cannot be without.
const ROOT: &str = "root";

fn no_arguments(context: &Context, command: &str) -> Result<(), Exit> {
    if context.arguments().is_empty() {
        return Ok(());
    }
    arguments(format!(
        "auth {command} command does not accept any arguments"
    ))
}

pub(super) async fn status(mut context: Context) -> Result<(), Exit> {
    no_arguments(&context, "status")?;
    let (client, printer) = context.connect().await?;
    let request = AuthStatusRequest {};
    let answer: AuthStatusResponse = client
        .unary(
            Method::AuthStatus,
            &request,
            Repeat::Safe,
            context.deadline(),
        )
        .await?;
    printer.print(&answer)
}

pub(super) async fn enable(mut context: Context) -> Result<(), Exit> {
    no_arguments(&context, "enable")?;
    let (client, _) = context.connect().await?;
    let deadline = context.deadline();
    loop {
        let answer: Result<AuthEnableResponse, _> = client
            .unary(
                Method::AuthEnable,
                &AuthEnableRequest {},
                Repeat::Never,
                deadline,
            )
            .await;
        match answer {
            Ok(_) => break,
            // The role is made on the way.
            Err(Failure::Status(status))
                if status.message == "etcdserver: root user does not have root role" =>
            {
                let request = AuthRoleAddRequest {
                    name: ROOT.to_owned(),
                };
                let _: AuthRoleAddResponse = client
                    .unary(Method::RoleAdd, &request, Repeat::Never, deadline)
                    .await?;
                let request = AuthUserGrantRoleRequest {
                    user: ROOT.to_owned(),
                    role: ROOT.to_owned(),
                };
                let _: AuthUserGrantRoleResponse = client
                    .unary(Method::UserGrantRole, &request, Repeat::Never, deadline)
                    .await?;
            }
            Err(failure) => return Err(failure.into()),
        }
    }
    out::line("Authentication Enabled");
    Ok(())
}

pub(super) async fn disable(mut context: Context) -> Result<(), Exit> {
    no_arguments(&context, "disable")?;
    let (client, _) = context.connect().await?;
    let request = AuthDisableRequest {};
    let _: AuthDisableResponse = client
        .unary(
            Method::AuthDisable,
            &request,
            Repeat::Never,
            context.deadline(),
        )
        .await?;
    out::line("Authentication Disabled");
    Ok(())
}
