//! `role add|delete|get|list|grant-permission|revoke-permission`.

use grpc::Method;
use grpc::proto::authpb::Permission;
use grpc::proto::authpb::permission::Type;
use grpc::proto::etcdserverpb::{
    AuthRoleAddRequest, AuthRoleAddResponse, AuthRoleDeleteRequest, AuthRoleDeleteResponse,
    AuthRoleGetRequest, AuthRoleGrantPermissionRequest, AuthRoleGrantPermissionResponse,
    AuthRoleListRequest, AuthRoleListResponse, AuthRoleRevokePermissionRequest,
    AuthRoleRevokePermissionResponse,
};

use crate::client::Repeat;
use crate::context::Context;
use crate::exit::{Exit, arguments};
use crate::prefix::{OPEN_END, prefix_end};
use crate::print::auth::{Done, Role};

fn name(context: &Context, command: &str) -> Result<String, Exit> {
    match context.arguments() {
        [name] => Ok(name.clone()),
        _ => arguments(format!(
            "role {command} command requires role name as its argument"
        )),
    }
}

/// Key and range end that `<key> [endkey]` and the flags mean.
fn range(context: &Context, words: &[String]) -> Result<(Vec<u8>, Vec<u8>), Exit> {
    let (prefix, from) = (
        context.invocation.truth("prefix"),
        context.invocation.truth("from-key"),
    );
    let key = words[0].as_bytes();
    let exclusive = "--from-key and --prefix flags are mutually exclusive";
    if key.is_empty() {
        if prefix && from {
            return arguments(exclusive);
        }
        let end = if prefix || from { OPEN_END } else { b"" };
        return Ok((OPEN_END.to_vec(), end.to_vec()));
    }
    let end = match words.get(1) {
        None if prefix && from => return arguments(exclusive),
        None if prefix => prefix_end(key),
        None if from => OPEN_END.to_vec(),
        None => Vec::new(),
        Some(_) if prefix => return arguments("unexpected endkey argument with --prefix flag"),
        Some(_) if from => return arguments("unexpected endkey argument with --from-key flag"),
        Some(end) => end.as_bytes().to_vec(),
    };
    Ok((key.to_vec(), end))
}

pub(super) async fn add(mut context: Context) -> Result<(), Exit> {
    let name = name(&context, "add")?;
    let (client, printer) = context.connect().await?;
    let request = AuthRoleAddRequest { name: name.clone() };
    let answer: AuthRoleAddResponse = client
        .unary(Method::RoleAdd, &request, Repeat::Never, None)
        .await?;
    printer.print(&Done {
        simple: format!("Role {name} created").into_bytes(),
        header: answer.header,
    })
}

pub(super) async fn delete(mut context: Context) -> Result<(), Exit> {
    let role = name(&context, "delete")?;
    let (client, printer) = context.connect().await?;
    let request = AuthRoleDeleteRequest { role: role.clone() };
    let answer: AuthRoleDeleteResponse = client
        .unary(Method::RoleDelete, &request, Repeat::Never, None)
        .await?;
    printer.print(&Done {
        simple: format!("Role {role} deleted").into_bytes(),
        header: answer.header,
    })
}

pub(super) async fn get(mut context: Context) -> Result<(), Exit> {
    let role = name(&context, "get")?;
    let (client, printer) = context.connect().await?;
    let request = AuthRoleGetRequest { role: role.clone() };
    let answer = client
        .unary(Method::RoleGet, &request, Repeat::Safe, None)
        .await?;
    printer.print(&Role(role, answer))
}

pub(super) async fn list(mut context: Context) -> Result<(), Exit> {
    if !context.arguments().is_empty() {
        return arguments("role list command requires no arguments");
    }
    let (client, printer) = context.connect().await?;
    let answer: AuthRoleListResponse = client
        .unary(
            Method::RoleList,
            &AuthRoleListRequest {},
            Repeat::Safe,
            None,
        )
        .await?;
    printer.print(&answer)
}

pub(super) async fn grant_permission(mut context: Context) -> Result<(), Exit> {
    let [name, kind, keys @ ..] = context.arguments() else {
        return arguments(
            "role grant command requires role name, permission type, and key [endkey] as its argument",
        );
    };
    if keys.is_empty() {
        return arguments(
            "role grant command requires role name, permission type, and key [endkey] as its argument",
        );
    }
    let Some(kind_number) = Type::from_str_name(&kind.to_uppercase()) else {
        return arguments(format!("invalid permission type: {kind}"));
    };
    let (key, range_end) = range(&context, keys)?;
    let request = AuthRoleGrantPermissionRequest {
        name: name.clone(),
        perm: Some(Permission {
            perm_type: kind_number.into(),
            key: key.into(),
            range_end: range_end.into(),
        }),
    };
    let (client, printer) = context.connect().await?;
    let answer: AuthRoleGrantPermissionResponse = client
        .unary(Method::RoleGrantPermission, &request, Repeat::Never, None)
        .await?;
    printer.print(&Done {
        simple: format!("Role {} updated", request.name).into_bytes(),
        header: answer.header,
    })
}

pub(super) async fn revoke_permission(mut context: Context) -> Result<(), Exit> {
    const MISSING: &str =
        "role revoke-permission command requires role name and key [endkey] as its argument";
    let [role, keys @ ..] = context.arguments() else {
        return arguments(MISSING);
    };
    let Some(shown) = keys.first() else {
        return arguments(MISSING);
    };
    let (key, range_end) = range(&context, keys)?;
    let simple = match &range_end[..] {
        b"" => format!("Permission of key {shown} is revoked from role {role}").into_bytes(),
        OPEN_END => {
            format!("Permission of range [{shown}, <open ended> is revoked from role {role}")
                .into_bytes()
        }
        end => {
            let mut text = format!("Permission of range [{shown}, ").into_bytes();
            text.extend_from_slice(end);
            text.extend_from_slice(format!(") is revoked from role {role}").as_bytes());
            text
        }
    };
    let request = AuthRoleRevokePermissionRequest {
        role: role.clone(),
        key: key.into(),
        range_end: range_end.into(),
    };
    let (client, printer) = context.connect().await?;
    let answer: AuthRoleRevokePermissionResponse = client
        .unary(Method::RoleRevokePermission, &request, Repeat::Never, None)
        .await?;
    printer.print(&Done {
        simple,
        header: answer.header,
    })
}
