//! `member add|list|promote|remove|update` and `move-leader`.

use grpc::Method;
use grpc::proto::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse, MoveLeaderRequest, StatusRequest, StatusResponse,
};
use prost::Message;

use crate::client::Repeat;
use crate::context::{Context, client};
use crate::exit::{self, Exit, arguments};
use crate::go::number;
use crate::go::quote::quote;
use crate::out;
use crate::print::cluster::{Changed, Moved};
use crate::print::{Format, Printer};

use super::request::serializable;

/// The member that the only argument names.
fn id(context: &Context) -> Result<u64, Exit> {
    match context.arguments() {
        [id] => match number::unsigned(id, 16) {
            Ok(id) => Ok(id),
            Err(error) => arguments(format!("bad member ID arg ({error}), expecting ID in Hex")),
        },
        _ => arguments("member ID is not provided"),
    }
}

fn peer_urls(context: &Context) -> Result<Vec<String>, Exit> {
    match context.invocation.text("peer-urls") {
        empty if empty.is_empty() => arguments("member peer urls not provided"),
        urls => {
            let urls: Vec<String> = urls.split(',').map(str::to_owned).collect();
            match urls.iter().find_map(|url| fault(url.trim())) {
                Some(text) => Err(Exit::new(exit::ERROR, text)),
                None => Ok(urls),
            }
        }
    }
}

/// Why a text is no address of a member.
fn fault(url: &str) -> Option<String> {
    let scheme = url.split(':').next().unwrap_or_default();
    match url.split_once("://") {
        Some(("http" | "https", address)) => {
            let (host, path) = match address.split_once('/') {
                Some((host, _)) => (host, true),
                None => (address, false),
            };
            let has_port = host
                .rsplit_once(':')
                .is_some_and(|(name, _)| !name.contains(':') || name.ends_with(']'));
            if !has_port {
                Some(format!(
                    "URL address does not have the form \"host:port\": {url}"
                ))
            } else if path {
                Some(format!("URL must not contain a path: {url}"))
            } else {
                None
            }
        }
        _ if matches!(scheme, "unix" | "unixs") => None,
        _ => Some(format!(
            "URL scheme must be http, https, unix, or unixs: {url}"
        )),
    }
}

/// Asks for a change of the members.
async fn change<Q: Message, A: Message + Default>(
    context: &mut Context,
    method: Method,
    request: &Q,
) -> Result<(A, Printer), Exit> {
    let (client, printer) = context.connect().await?;
    let deadline = context.deadline();
    let answer = client.unary(method, request, Repeat::Never, deadline);
    Ok((answer.await?, printer))
}

pub(super) async fn add(mut context: Context) -> Result<(), Exit> {
    let name = match context.arguments() {
        [] => return arguments("member name not provided"),
        [name] => name.clone(),
        words => {
            let urls = words
                .iter()
                .filter(|word| word.to_lowercase().starts_with("http"));
            let hints: String = urls
                .map(|url| format!(", did you mean --peer-urls={url}"))
                .collect();
            return arguments(format!("too many arguments{hints}"));
        }
    };
    let request = MemberAddRequest {
        peer_ur_ls: peer_urls(&context)?,
        is_learner: context.invocation.truth("learner"),
    };
    let (answer, printer): (MemberAddResponse, _) =
        change(&mut context, Method::MemberAdd, &request).await?;
    printer.print(&answer)?;
    if printer.format == Format::Simple {
        let added = answer.member.as_ref().map_or(0, |member| member.id);
        let members = answer.members.iter().flat_map(|member| {
            let name = if member.id == added {
                &name
            } else {
                &member.name
            };
            member
                .peer_ur_ls
                .iter()
                .map(move |url| format!("{name}={url}"))
        });
        let members = members.collect::<Vec<_>>().join(",");
        let urls = context.invocation.text("peer-urls");
        out::line("");
        for (variable, value) in [
            ("ETCD_NAME", name.as_str()),
            ("ETCD_INITIAL_CLUSTER", &members),
            ("ETCD_INITIAL_ADVERTISE_PEER_URLS", &urls),
            ("ETCD_INITIAL_CLUSTER_STATE", "existing"),
        ] {
            out::line(&format!("{variable}={}", quote(value.as_bytes())));
        }
    }
    Ok(())
}

pub(super) async fn list(mut context: Context) -> Result<(), Exit> {
    let linearizable = !serializable(&context.invocation.text("consistency"))?;
    let (client, printer) = context.connect().await?;
    let request = MemberListRequest { linearizable };
    let answer: MemberListResponse = client
        .unary(
            Method::MemberList,
            &request,
            Repeat::Safe,
            context.deadline(),
        )
        .await?;
    printer.print(&answer)
}

pub(super) async fn remove(mut context: Context) -> Result<(), Exit> {
    let id = id(&context)?;
    let request = MemberRemoveRequest { id };
    let (answer, printer): (MemberRemoveResponse, _) =
        change(&mut context, Method::MemberRemove, &request).await?;
    printer.print(&Changed {
        id,
        done: "removed from",
        header: answer.header,
        members: answer.members,
    })
}

pub(super) async fn update(mut context: Context) -> Result<(), Exit> {
    let id = id(&context)?;
    let request = MemberUpdateRequest {
        id,
        peer_ur_ls: peer_urls(&context)?,
    };
    let (answer, printer): (MemberUpdateResponse, _) =
        change(&mut context, Method::MemberUpdate, &request).await?;
    printer.print(&Changed {
        id,
        done: "updated in",
        header: answer.header,
        members: answer.members,
    })
}

pub(super) async fn promote(mut context: Context) -> Result<(), Exit> {
    let id = id(&context)?;
    let request = MemberPromoteRequest { id };
    let (answer, printer): (MemberPromoteResponse, _) =
        change(&mut context, Method::MemberPromote, &request).await?;
    printer.print(&Changed {
        id,
        done: "promoted in",
        header: answer.header,
        members: answer.members,
    })
}

pub(super) async fn move_leader(mut context: Context) -> Result<(), Exit> {
    let target = match context.arguments() {
        [id] => match number::unsigned(id, 16) {
            Ok(id) => id,
            Err(error) => return arguments(error),
        },
        _ => return arguments("move-leader command needs 1 argument"),
    };
    let (config, printer) = context.settings().await?;
    let deadline = context.deadline();
    for endpoint in &config.endpoints {
        let client = client(config.only(endpoint)).await?;
        let status: StatusResponse = client
            .unary(Method::Status, &StatusRequest {}, Repeat::Safe, deadline)
            .await?;
        if status
            .header
            .is_some_and(|header| header.member_id == status.leader)
        {
            let request = MoveLeaderRequest { target_id: target };
            let answer = client
                .unary(Method::MoveLeader, &request, Repeat::Never, deadline)
                .await?;
            return printer.print(&Moved {
                from: status.leader,
                to: target,
                answer,
            });
        }
    }
    arguments(format!(
        "no leader endpoint given at [{}]",
        config.endpoints.join(" ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_members() {
        for good in ["http://a:1", "https://[::1]:2", "unix://x", "unixs:///x"] {
            assert_eq!(fault(good), None);
        }
        let check = |url: &str, what: &str| {
            assert!(fault(url).is_some_and(|text| text.contains(what)), "{url}")
        };
        check("nonsense", "scheme must be");
        check("ftp://a:1", "scheme must be");
        check("http://a", "host:port");
        check("http://::1", "host:port");
        check("http://a:1/x", "path");
    }
}
