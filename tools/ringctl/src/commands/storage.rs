//! `compaction` and `defrag`.

use std::time::Instant;

use grpc::Method;
use grpc::proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DefragmentRequest, DefragmentResponse,
};

use crate::client::Repeat;
use crate::context::{Context, client};
use crate::exit::{self, Exit, arguments};
use crate::go::{duration, number};
use crate::out;

use super::endpoint;

pub(super) async fn compaction(mut context: Context) -> Result<(), Exit> {
    let [revision] = context.arguments() else {
        return arguments("compaction command needs 1 argument");
    };
    let revision = number::signed(revision, 10).map_err(|error| Exit::new(exit::ERROR, error))?;
    let physical = context.invocation.truth("physical");
    let (client, _) = context.connect().await?;
    let request = CompactionRequest { revision, physical };
    let _: CompactionResponse = client
        .unary(Method::Compact, &request, Repeat::Never, context.deadline())
        .await?;
    out::line(&format!("compacted revision {revision}"));
    Ok(())
}

pub(super) async fn defrag(mut context: Context) -> Result<(), Exit> {
    let (config, _) = context.settings().await?;
    let mut failed = None;
    for endpoint in endpoint::chosen(&context, &config).await? {
        let client = client(config.only(&endpoint)).await?;
        let begun = Instant::now();
        let answer: Result<DefragmentResponse, _> = client
            .unary(
                Method::Defragment,
                &DefragmentRequest {},
                Repeat::Never,
                context.deadline(),
            )
            .await;
        let took = duration::show(begun.elapsed());
        match answer {
            Ok(_) => out::line(&format!(
                "Finished defragmenting etcd member[{endpoint}]. took {took}"
            )),
            Err(failure) => {
                out::error(&format!(
                    "Failed to defragment etcd member[{endpoint}]. took {took}. ({})",
                    failure.reason()
                ));
                failed = Some(failure);
            }
        }
    }
    match failed {
        None => Ok(()),
        Some(failure) => Err(Exit::silent(Exit::failed(exit::ERROR, &failure).code)),
    }
}
