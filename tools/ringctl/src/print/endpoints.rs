//! Health, status and hashes of endpoints.

use grpc::proto::etcdserverpb::{HashKvResponse, StatusResponse};

use crate::go::json::{Object, array};
use crate::out;

use super::size::readable;
use super::table::Table;
use super::{Answer, Text, Wire, json};

/// Whether an endpoint can serve.
#[derive(Debug)]
pub(crate) struct Health {
    /// The endpoint.
    pub(crate) endpoint: String,
    /// Whether it can.
    pub(crate) healthy: bool,
    /// How long it took to say so; empty when nothing was asked.
    pub(crate) took: String,
    /// Why not.
    pub(crate) error: String,
}

impl Answer for Vec<Health> {
    fn simple(&self, text: &mut Text) {
        for health in self {
            let endpoint = &health.endpoint;
            if health.error.is_empty() {
                text.line(format!(
                    "{endpoint} is healthy: successfully committed proposal: took = {}",
                    health.took
                ));
            } else {
                out::error(&format!(
                    "{endpoint} is unhealthy: failed to commit proposal: {}",
                    health.error
                ));
            }
        }
    }

    fn json(&self, _: bool) -> String {
        list(self, |health| {
            Object::new()
                .string("endpoint", &health.endpoint)
                .raw("health", if health.healthy { "true" } else { "false" })
                .string("took", &health.took)
                .nonempty("error", &health.error)
                .end()
        })
    }

    fn fields(&self, text: &mut Text) -> bool {
        for health in self {
            text.quoted("Endpoint", health.endpoint.as_bytes());
            text.field("Health", health.healthy);
            text.field("Took", &health.took);
            text.field("Error", &health.error);
            text.line("");
        }
        true
    }

    fn protobuf(&self) -> Wire {
        Wire::Unsupported
    }

    fn table(&self) -> Option<Table> {
        let row = |health: &Health| {
            let healthy = health.healthy.to_string();
            vec![
                health.endpoint.clone(),
                healthy,
                health.took.clone(),
                health.error.clone(),
            ]
        };
        Some(Table::new(
            &["endpoint", "health", "took", "error"],
            self.iter().map(row).collect(),
        ))
    }
}

/// The state of one endpoint.
#[derive(Debug)]
pub(crate) struct Status(pub(crate) String, pub(crate) StatusResponse);

impl Status {
    fn row(&self) -> Vec<String> {
        let Status(endpoint, status) = self;
        let member = status.header.as_ref().map_or(0, |header| header.member_id);
        let downgrade = status.downgrade_info.clone().unwrap_or_default();
        let used = status
            .db_size_in_use
            .saturating_mul(100)
            .checked_div(status.db_size)
            .unwrap_or(100);
        vec![
            endpoint.clone(),
            format!("{member:x}"),
            status.version.clone(),
            status.storage_version.clone(),
            readable(status.db_size),
            readable(status.db_size_in_use),
            format!("{}%", 100 - used),
            readable(status.db_size_quota),
            (status.leader == member).to_string(),
            status.is_learner.to_string(),
            status.raft_term.to_string(),
            status.raft_index.to_string(),
            status.raft_applied_index.to_string(),
            status.errors.join(", "),
            downgrade.target_version,
            downgrade.enabled.to_string(),
        ]
    }
}

impl Answer for Vec<Status> {
    fn simple(&self, text: &mut Text) {
        self.iter()
            .for_each(|status| text.line(status.row().join(", ")));
    }

    fn json(&self, _: bool) -> String {
        list(self, |Status(endpoint, status)| {
            Object::new()
                .string("Endpoint", endpoint)
                .raw("Status", &json::status(status))
                .end()
        })
    }

    fn fields(&self, text: &mut Text) -> bool {
        for Status(endpoint, status) in self {
            let downgrade = status.downgrade_info.clone().unwrap_or_default();
            text.header(status.header.as_ref());
            text.quoted("Version", status.version.as_bytes());
            text.quoted("StorageVersion", status.storage_version.as_bytes());
            text.field("DBSize", status.db_size);
            text.field("DBSizeInUse", status.db_size_in_use);
            text.field("DBSizeQuota", status.db_size_quota);
            text.field("Leader", status.leader);
            text.field("IsLearner", status.is_learner);
            text.field("RaftIndex", status.raft_index);
            text.field("RaftAppliedIndex", status.raft_applied_index);
            text.field("Errors", format!("[{}]", status.errors.join(" ")));
            text.quoted("Endpoint", endpoint.as_bytes());
            text.quoted(
                "DowngradeTargetVersion",
                downgrade.target_version.as_bytes(),
            );
            text.field("DowngradeEnabled", downgrade.enabled);
            text.line("");
        }
        true
    }

    fn protobuf(&self) -> Wire {
        Wire::Unsupported
    }

    fn table(&self) -> Option<Table> {
        let head = [
            "endpoint",
            "ID",
            "version",
            "storage version",
            "db size",
            "in use",
            "percentage not in use",
            "quota",
            "is leader",
            "is learner",
            "raft term",
            "raft index",
            "raft applied index",
            "errors",
            "downgrade target version",
            "downgrade enabled",
        ];
        Some(Table::new(&head, self.iter().map(Status::row).collect()))
    }
}

/// The hash of one endpoint's history.
#[derive(Debug)]
pub(crate) struct Hash(pub(crate) String, pub(crate) HashKvResponse);

impl Hash {
    fn row(&self) -> Vec<String> {
        vec![
            self.0.clone(),
            self.1.hash.to_string(),
            self.1.hash_revision.to_string(),
        ]
    }
}

impl Answer for Vec<Hash> {
    fn simple(&self, text: &mut Text) {
        self.iter()
            .for_each(|hash| text.line(hash.row().join(", ")));
    }

    fn json(&self, _: bool) -> String {
        list(self, |Hash(endpoint, hash)| {
            let answer = json::with_header(hash.header.as_ref())
                .nonzero("hash", hash.hash)
                .nonzero("compact_revision", hash.compact_revision)
                .nonzero("hash_revision", hash.hash_revision)
                .end();
            Object::new()
                .string("Endpoint", endpoint)
                .raw("HashKV", &answer)
                .end()
        })
    }

    fn fields(&self, text: &mut Text) -> bool {
        for Hash(endpoint, hash) in self {
            text.header(hash.header.as_ref());
            text.quoted("Endpoint", endpoint.as_bytes());
            text.field("Hash", hash.hash);
            text.field("HashRevision", hash.hash_revision);
            text.line("");
        }
        true
    }

    fn protobuf(&self) -> Wire {
        Wire::Unsupported
    }

    fn table(&self) -> Option<Table> {
        Some(Table::new(
            &["endpoint", "hash", "hash_revision"],
            self.iter().map(Hash::row).collect(),
        ))
    }
}

/// A list that may be missing altogether.
fn list<T>(items: &[T], json: impl Fn(&T) -> String) -> String {
    if items.is_empty() {
        "null".to_owned()
    } else {
        array(items, json)
    }
}
