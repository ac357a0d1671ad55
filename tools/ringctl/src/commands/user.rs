//! `user add|delete|get|list|passwd|grant-role|revoke-role`.

use std::io;

use grpc::Method;
use grpc::proto::authpb::UserAddOptions;
use grpc::proto::etcdserverpb::{
    AuthRoleGetRequest, AuthUserAddRequest, AuthUserAddResponse, AuthUserChangePasswordRequest,
    AuthUserChangePasswordResponse, AuthUserDeleteRequest, AuthUserDeleteResponse,
    AuthUserGetRequest, AuthUserGetResponse, AuthUserGrantRoleRequest, AuthUserGrantRoleResponse,
    AuthUserListRequest, AuthUserListResponse, AuthUserRevokeRoleRequest,
    AuthUserRevokeRoleResponse,
};

use crate::client::Repeat;
use crate::context::{Context, ask_secret};
use crate::exit::{Exit, arguments};
use crate::out;
use crate::print::auth::{Done, Role, User};

fn name(context: &Context, command: &str) -> Result<String, Exit> {
    match context.arguments() {
        [name] => Ok(name.clone()),
        _ => arguments(format!(
            "user {command} command requires user name as its argument"
        )),
    }
}

fn pair(context: &Context, missing: &str) -> Result<(String, String), Exit> {
    match context.arguments() {
        [user, role] => Ok((user.clone(), role.clone())),
        _ => arguments(missing),
    }
}

/// Asks twice at the terminal, or takes the first word of standard input.
fn password(context: &Context, name: &str) -> Result<String, Exit> {
    if !context.invocation.truth("interactive") {
        let mut line = String::new();
        let read = io::stdin().read_line(&mut line);
        return match read {
            Ok(_) => Ok(line
                .split_whitespace()
                .next()
                .unwrap_or_default()
                .to_owned()),
            Err(error) => arguments(format!("failed to ask password: {error}")),
        };
    }
    let ask = |prompt: String| match ask_secret(&prompt) {
        Ok(password) => Ok(password),
        Err(error) => arguments(format!("failed to ask password: {error}")),
    };
    let password = ask(format!("Password of {name}: "))?;
    if password.is_empty() {
        return arguments("empty password");
    }
    if ask(format!("Type password of {name} again for confirmation: "))? != password {
        return arguments("given passwords are different");
    }
    Ok(password)
}

pub(super) async fn add(mut context: Context) -> Result<(), Exit> {
    let argument = name(&context, "add")?;
    let no_password = context.invocation.truth("no-password");
    let from_flag = context.invocation.text("new-user-password");
    let (name, password) = if no_password {
        (argument, String::new())
    } else if !from_flag.is_empty() {
        (argument, from_flag)
    } else if let Some((name, password)) = argument.split_once(':') {
        if name.is_empty() {
            return arguments("empty user name is not allowed");
        }
        (name.to_owned(), password.to_owned())
    } else {
        let password = password(&context, &argument)?;
        (argument, password)
    };
    let (client, printer) = context.connect().await?;
    let request = AuthUserAddRequest {
        name: name.clone(),
        password,
        options: Some(UserAddOptions { no_password }),
        ..AuthUserAddRequest::default()
    };
    let answer: AuthUserAddResponse = client
        .unary(Method::UserAdd, &request, Repeat::Never, None)
        .await?;
    printer.print(&Done {
        simple: format!("User {name} created").into_bytes(),
        header: answer.header,
    })
}

pub(super) async fn delete(mut context: Context) -> Result<(), Exit> {
    let name = name(&context, "delete")?;
    let (client, printer) = context.connect().await?;
    let request = AuthUserDeleteRequest { name: name.clone() };
    let answer: AuthUserDeleteResponse = client
        .unary(Method::UserDelete, &request, Repeat::Never, None)
        .await?;
    printer.print(&Done {
        simple: format!("User {name} deleted").into_bytes(),
        header: answer.header,
    })
}

pub(super) async fn get(mut context: Context) -> Result<(), Exit> {
    let name = name(&context, "get")?;
    let (client, printer) = context.connect().await?;
    let request = AuthUserGetRequest { name: name.clone() };
    let answer: AuthUserGetResponse = client
        .unary(Method::UserGet, &request, Repeat::Safe, None)
        .await?;
    if !context.invocation.truth("detail") {
        return printer.print(&User(name, answer));
    }
    out::line(&format!("User: {name}"));
    for role in answer.roles {
        out::line("");
        let request = AuthRoleGetRequest { role: role.clone() };
        let answer = client
            .unary(Method::RoleGet, &request, Repeat::Safe, None)
            .await?;
        printer.print(&Role(role, answer))?;
    }
    Ok(())
}

pub(super) async fn list(mut context: Context) -> Result<(), Exit> {
    if !context.arguments().is_empty() {
        return arguments("user list command requires no arguments");
    }
    let (client, printer) = context.connect().await?;
    let answer: AuthUserListResponse = client
        .unary(
            Method::UserList,
            &AuthUserListRequest {},
            Repeat::Safe,
            None,
        )
        .await?;
    printer.print(&answer)
}

pub(super) async fn password_change(mut context: Context) -> Result<(), Exit> {
    let name = name(&context, "passwd")?;
    let password = password(&context, &name)?;
    let (client, printer) = context.connect().await?;
    let request = AuthUserChangePasswordRequest {
        name,
        password,
        ..AuthUserChangePasswordRequest::default()
    };
    let answer: AuthUserChangePasswordResponse = client
        .unary(Method::UserChangePassword, &request, Repeat::Never, None)
        .await?;
    printer.print(&Done {
        simple: b"Password updated".to_vec(),
        header: answer.header,
    })
}

pub(super) async fn grant_role(mut context: Context) -> Result<(), Exit> {
    const MISSING: &str = "user grant command requires user name and role name as its argument";
    let (user, role) = pair(&context, MISSING)?;
    let (client, printer) = context.connect().await?;
    let simple = format!("Role {role} is granted to user {user}").into_bytes();
    let request = AuthUserGrantRoleRequest { user, role };
    let answer: AuthUserGrantRoleResponse = client
        .unary(Method::UserGrantRole, &request, Repeat::Never, None)
        .await?;
    printer.print(&Done {
        simple,
        header: answer.header,
    })
}

pub(super) async fn revoke_role(mut context: Context) -> Result<(), Exit> {
    const MISSING: &str = "user revoke-role requires user name and role name as its argument";
    let (name, role) = pair(&context, MISSING)?;
    let (client, printer) = context.connect().await?;
    let simple = format!("Role {role} is revoked from user {name}").into_bytes();
    let request = AuthUserRevokeRoleRequest { name, role };
    let answer: AuthUserRevokeRoleResponse = client
        .unary(Method::UserRevokeRole, &request, Repeat::Never, None)
        .await?;
    printer.print(&Done {
        simple,
        header: answer.header,
    })
}
