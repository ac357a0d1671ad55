//! `make-mirror`.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use grpc::Method;
use grpc::proto::etcdserverpb::request_op::Request;
use grpc::proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp,
    TxnRequest, TxnResponse,
};
use grpc::proto::mvccpb::Event;
use grpc::proto::mvccpb::event::EventType;
use tokio::time::sleep;

use crate::client::watch::{Seen, Spec, Watch};
use crate::client::{Client, Config, Failure, Repeat, tls};
use crate::context::{Context, client};
use crate::exit::{self, Exit, arguments};
use crate::out;
use crate::prefix::prefix_range;

/// Keys in one read of the first copy.
const BATCH_KEYS: i64 = 1000;
/// How often the number of changes is printed.
const REPORT: Duration = Duration::from_secs(30);

/// Which keys go where.
#[derive(Debug)]
struct Mirror {
    source: Rc<Client>,
    destination: Client,
    prefix: Vec<u8>,
    destination_prefix: Vec<u8>,
    operations_max: usize,
    copied: Cell<u64>,
}

pub(super) async fn run(mut context: Context) -> Result<(), Exit> {
    let [destination] = context.arguments() else {
        return arguments("make-mirror takes one destination argument");
    };
    let destination = destination.clone();
    let flags = &context.invocation;
    let tls = tls::Options {
        certificate: flags.text("dest-cert"),
        key: flags.text("dest-key"),
        authorities: flags.text("dest-cacert"),
        insecure_transport: flags.truth("dest-insecure-transport"),
        ..tls::Options::default()
    };
    let login = context.login("dest-user", "dest-password", "Destination Password: ")?;
    let (config, _) = context.settings().await?;
    let target = Config {
        tls: tls::load(&tls).map_err(|text| Exit::new(exit::ARGUMENTS, text))?,
        login,
        ..config.only(&destination)
    };
    let flags = &context.invocation;
    let (prefix, renamed) = (flags.text("prefix"), flags.text("dest-prefix"));
    let without = flags.truth("no-dest-prefix");
    if without && !renamed.is_empty() {
        return arguments(
            "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one",
        );
    }
    let same = !without && renamed.is_empty();
    let mirror = Mirror {
        destination: client(target).await?,
        source: Rc::new(client(config).await?),
        destination_prefix: if same { prefix.clone() } else { renamed }.into_bytes(),
        prefix: prefix.into_bytes(),
        operations_max: usize::try_from(flags.unsigned("max-txn-ops"))
            .unwrap_or(usize::MAX)
            .max(1),
        copied: Cell::new(0),
    };
    let begin = flags.number("rev") - 1;
    tokio::select! {
        copied = mirror.copy(begin) => Ok(copied?),
        () = mirror.report() => Ok(()),
    }
}

impl Mirror {
    async fn report(&self) {
        loop {
            sleep(REPORT).await;
            out::line(&self.copied.get().to_string());
        }
    }

    async fn copy(&self, begin: i64) -> Result<(), Failure> {
        let revision = if begin > 0 {
            begin
        } else {
            self.everything().await?
        };
        self.changes(revision + 1).await
    }

    /// The key in the destination.
    fn renamed(&self, key: &[u8]) -> Bytes {
        let behind = key.strip_prefix(&self.prefix[..]).unwrap_or(key);
        [&self.destination_prefix, behind].concat().into()
    }

    /// Copies all keys as they are at one revision, which it gives.
    async fn everything(&self) -> Result<i64, Failure> {
        let (mut key, range_end) = prefix_range(&self.prefix);
        let mut revision = 0;
        loop {
            let request = RangeRequest {
                key: key.into(),
                range_end: range_end.clone().into(),
                limit: BATCH_KEYS,
                revision,
                ..RangeRequest::default()
            };
            let answer: RangeResponse = self
                .source
                .unary(Method::Range, &request, Repeat::Safe, None)
                .await?;
            if revision == 0 {
                revision = answer.header.map_or(0, |header| header.revision);
            }
            for kv in &answer.kvs {
                let request = PutRequest {
                    key: self.renamed(&kv.key),
                    value: kv.value.clone(),
                    ..PutRequest::default()
                };
                let _: PutResponse = self
                    .destination
                    .unary(Method::Put, &request, Repeat::Never, None)
                    .await?;
                self.copied.set(self.copied.get() + 1);
            }
            match answer.kvs.last() {
                Some(last) if answer.more => key = [&last.key[..], b"\0"].concat(),
                _ => return Ok(revision),
            }
        }
    }

    /// Follows the changes from `revision` on.
    async fn changes(&self, revision: i64) -> Result<(), Failure> {
        let (key, range_end) = prefix_range(&self.prefix);
        let mut watch = Watch::new(self.source.clone());
        let spec = Spec {
            key: key.into(),
            range_end: range_end.into(),
            revision,
            ..Spec::default()
        };
        watch.add(spec).await?;
        loop {
            let answer = match watch.next().await? {
                Seen::Answer(_, answer) => answer,
                Seen::Ended(_, reason) => {
                    return Err(Failure::Configuration(
                        reason.unwrap_or("watch ended".to_owned()),
                    ));
                }
            };
            if answer.compact_revision != 0 {
                let text = "etcdserver: mvcc: required revision has been compacted";
                return Err(Failure::Configuration(text.to_owned()));
            }
            // One transaction there for each one here, as far as its size allows.
            for change in answer
                .events
                .chunk_by(|left, right| revision_of(left) == revision_of(right))
            {
                for operations in change.chunks(self.operations_max) {
                    self.apply(operations).await?;
                }
            }
        }
    }

    async fn apply(&self, events: &[Event]) -> Result<(), Failure> {
        let success = events.iter().filter_map(|event| {
            let kv = event.kv.as_ref()?;
            let key = self.renamed(&kv.key);
            let request = if event.r#type == EventType::Delete as i32 {
                Request::RequestDeleteRange(DeleteRangeRequest {
                    key,
                    ..DeleteRangeRequest::default()
                })
            } else {
                Request::RequestPut(PutRequest {
                    key,
                    value: kv.value.clone(),
                    ..PutRequest::default()
                })
            };
            Some(RequestOp {
                request: Some(request),
            })
        });
        let request = TxnRequest {
            success: success.collect(),
            ..TxnRequest::default()
        };
        let _: TxnResponse = self
            .destination
            .unary(Method::Txn, &request, Repeat::Never, None)
            .await?;
        self.copied.set(self.copied.get() + events.len() as u64);
        Ok(())
    }
}

fn revision_of(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}
