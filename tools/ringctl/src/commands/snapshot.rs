//! `snapshot save`.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use grpc::Method;
use grpc::proto::etcdserverpb::{SnapshotRequest, SnapshotResponse};
use tokio::time::timeout_at;

use crate::client::channel::os_text;
use crate::client::status::Status;
use crate::client::{Client, Config, Deadline, Failure};
use crate::context::{Context, client};
use crate::exit::{self, Exit, arguments};
use crate::go::duration;
use crate::log;
use crate::out;
use crate::print::size::readable;
use crate::style::Style;

/// The checksum at the end shows in the size, because everything before it is whole sectors.
const SECTOR_BYTES: u64 = 512;
const CHECKSUM_BYTES: u64 = 32;

fn interrupted(text: String) -> Exit {
    Exit::new(exit::INTERRUPTED, text)
}

pub(super) async fn save(mut context: Context) -> Result<(), Exit> {
    let [path] = context.arguments() else {
        return arguments("snapshot save expects one argument <filename>");
    };
    let path = PathBuf::from(path);
    let (config, _) = context.settings().await?;
    let deadline = if context.invocation.given("command-timeout") {
        context.deadline()
    } else {
        None
    };
    if config.endpoints.len() != 1 {
        let endpoints = config.endpoints.join(" ");
        return Err(interrupted(format!(
            "snapshot must be requested to one selected node, not multiple [{endpoints}]"
        )));
    }
    let part = PathBuf::from(format!("{}.part", path.display()));
    let saved = fetch(&config, &part, deadline).await;
    let version = match saved {
        Ok(version) => version,
        Err(exit) => {
            if part.exists()
                && let Err(error) = fs::remove_file(&part)
            {
                out::error(&format!("cannot remove {}: {error}", part.display()));
            }
            return Err(exit);
        }
    };
    fs::rename(&part, &path).map_err(|error| {
        interrupted(format!(
            "could not rename {part} to {path} (rename {part} {path}: {})",
            os_text(&error),
            part = part.display(),
            path = path.display(),
        ))
    })?;
    tell(&config, "saved", &[("path", path.display().to_string())]);
    out::line(&format!("Snapshot saved at {}", path.display()));
    if !version.is_empty() {
        out::line(&format!("Server version {version}"));
    }
    Ok(())
}

/// Speaks of progress where etcdctl does.
fn tell(config: &Config, message: &str, fields: &[(&str, String)]) {
    if config.style == Style::Etcdctl {
        log::line("info", "", message, |object| {
            fields
                .iter()
                .fold(object, |object, (name, value)| object.string(name, value))
        });
    }
}

/// Speaks of a stream that broke where etcdctl does.
fn warn(config: &Config, status: &Status) {
    if config.style == Style::Etcdctl {
        let text = "failed to receive from snapshot stream; closing";
        log::line("warn", "client", text, |object| {
            object.string("error", &status.wire_text())
        });
    }
}

/// Writes the snapshot into `part`; gives the server's storage version.
async fn fetch(config: &Config, part: &Path, deadline: Deadline) -> Result<String, Exit> {
    let client = client(config.clone()).await.map_err(|exit| Exit {
        code: exit::INTERRUPTED.max(exit.code),
        ..exit
    })?;
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(part)
        .map_err(|error| {
            let (part, error) = (part.display(), os_text(&error));
            interrupted(format!("could not open {part} (open {part}: {error})"))
        })?;
    tell(
        config,
        "created temporary db file",
        &[("path", part.display().to_string())],
    );
    let begun = Instant::now();
    let receiving = receive(config, &client, &mut file, deadline);
    let received = match deadline {
        None => receiving.await,
        Some(at) => timeout_at(at, receiving)
            .await
            .unwrap_or(Err(Failure::Deadline)),
    };
    let (bytes, version) = received.map_err(|failure| Exit::failed(exit::INTERRUPTED, &failure))?;
    if bytes % SECTOR_BYTES != CHECKSUM_BYTES {
        return Err(interrupted(format!(
            "sha256 checksum not found [bytes: {bytes}]"
        )));
    }
    file.sync_all()
        .map_err(|error| interrupted(format!("could not fsync snapshot: {error}")))?;
    let fields = [
        ("endpoint", config.endpoints[0].clone()),
        ("size", readable(bytes as i64)),
        ("took", duration::show(begun.elapsed())),
        ("etcd-version", version.clone()),
    ];
    tell(config, "fetched snapshot", &fields);
    Ok(version)
}

async fn receive(
    config: &Config,
    client: &Client,
    file: &mut File,
    deadline: Deadline,
) -> Result<(u64, String), Failure> {
    let mut call = client.start(Method::Snapshot, deadline).await?;
    call.send(&SnapshotRequest {}, client.send_bytes_max())?;
    call.finish()?;
    tell(config, "opened snapshot stream; downloading", &[]);
    let (mut bytes, mut version) = (0, None);
    loop {
        let piece = match call.next::<SnapshotResponse>().await {
            Ok(Some(piece)) => piece,
            Ok(None) => break,
            Err(status) => {
                warn(config, &status);
                let text = match version {
                    None => status.wire_text(),
                    Some(_) => format!("could not write snapshot: {status}"),
                };
                return Err(Failure::Configuration(text));
            }
        };
        if version.is_none() {
            version = Some(piece.version);
            let endpoint = config.endpoints[0].clone();
            tell(config, "fetching snapshot", &[("endpoint", endpoint)]);
        }
        let written = file.write_all(&piece.blob);
        written.map_err(|error| {
            Failure::Configuration(format!("could not write snapshot: {error}"))
        })?;
        bytes += piece.blob.len() as u64;
    }
    tell(config, "completed snapshot read; closing", &[]);
    let version = version.unwrap_or_default();
    Ok((bytes, version))
}
