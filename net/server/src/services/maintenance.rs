//! Status, Alarm, Hash, HashKV and the gRPC health service.

use bytes::Bytes;
use engine::command::{AlarmKind, Operation, Reply};
use grpc::mapping::AlarmOperation;
use grpc::mapping::request::decode;
use grpc::proto::{etcdserverpb as pb, health};
use grpc::{CallContext, Code, RequestStream, ResponseSink, Status};

use super::{
    CLUSTER_VERSION, ETCD_VERSION, EtcdService, encoded, proto_header, wire_header, write_status,
};

/// Version of the storage format that etcd reports with this release.
pub(crate) const STORAGE_VERSION: &str = "3.7.0";

impl EtcdService {
    pub(super) async fn status(&self, message: Bytes) -> Result<Bytes, Status> {
        let _request: pb::StatusRequest = decode(message)?;
        let status = self.node.status().await.map_err(write_status)?;
        let header = self.header();
        let mut errors: Vec<String> = status
            .alarms
            .iter()
            .map(|alarm| alarm_text(*alarm))
            .collect();
        if status.leader == 0 {
            errors.insert(0, grpc::status::NO_LEADER.message.to_string());
        }
        if status.damaged_places > 0 {
            errors.push(format!(
                "ringd: stored data is damaged at {} places; the log names them",
                status.damaged_places
            ));
        }
        Ok(encoded(&pb::StatusResponse {
            header: proto_header(header),
            version: ETCD_VERSION.to_owned(),
            // Tools divide by the size: it is never 0.
            db_size: status.size_bytes.max(1) as i64,
            leader: status.leader,
            raft_index: status.raft_index,
            raft_term: header.raft_term,
            raft_applied_index: status.applied_index,
            errors,
            db_size_in_use: status.size_in_use_bytes.max(1) as i64,
            is_learner: false,
            storage_version: STORAGE_VERSION.to_owned(),
            // Without a bound the flag is negative, and so is this.
            db_size_quota: status.quota_bytes.map_or(-1, |quota| quota as i64),
            downgrade_info: Some(pb::DowngradeInfo {
                enabled: false,
                target_version: String::new(),
            }),
        }))
    }

    pub(super) async fn alarm(
        &self,
        context: &CallContext,
        message: Bytes,
    ) -> Result<Bytes, Status> {
        let (header, alarms) = match AlarmOperation::decode(message)? {
            AlarmOperation::List { alarm } => {
                let mut alarms = self.node.alarms().await.map_err(write_status)?;
                alarms.retain(|(_, kind)| alarm.is_none_or(|alarm| alarm == *kind));
                (self.header(), alarms)
            }
            AlarmOperation::Nothing => (self.header(), Vec::new()),
            AlarmOperation::Change(command) => {
                let answer = self.execute(context, Operation::Write(command)).await?;
                let Reply::Alarm { alarms } = answer.reply else {
                    unreachable!("an alarm change answers with alarms")
                };
                (wire_header(answer.header), alarms)
            }
        };
        let alarms = alarms.into_iter().map(|(member, kind)| pb::AlarmMember {
            member_id: member,
            alarm: kind as i32,
        });
        Ok(encoded(&pb::AlarmResponse {
            header: proto_header(header),
            alarms: alarms.collect(),
        }))
    }

    /// The hash of this member's keys. The number is ringd's own, equal on all of its members.
    pub(super) async fn hash_kv(&self, message: Bytes) -> Result<Bytes, Status> {
        let request: pb::HashKvRequest = decode(message)?;
        let began = self.node.world().now();
        let found = self.node.hash_kv(request.revision).await;
        let took = self.node.world().now().since(began);
        self.node.metrics().hash_at_revision.observe_time(took);
        let found = found.map_err(write_status)?;
        Ok(encoded(&pb::HashKvResponse {
            header: proto_header(wire_header(found.header)),
            hash: found.hash,
            compact_revision: found.compact_revision,
            hash_revision: found.revision,
        }))
    }

    /// The same sum at the newest revision: there is no backend file to hash.
    pub(super) async fn hash(&self, message: Bytes) -> Result<Bytes, Status> {
        let _request: pb::HashRequest = decode(message)?;
        let began = self.node.world().now();
        let found = self.node.hash_kv(0).await.map_err(write_status)?;
        let took = self.node.world().now().since(began);
        self.node.metrics().hash.observe_time(took);
        Ok(encoded(&pb::HashResponse {
            header: proto_header(wire_header(found.header)),
            hash: found.hash,
        }))
    }

    /// Nothing is left to do: space is given back while the member serves, and nobody waits for it.
    pub(super) fn defragment(&self, message: Bytes) -> Result<Bytes, Status> {
        let _request: pb::DefragmentRequest = decode(message)?;
        Ok(encoded(&pb::DefragmentResponse { header: None }))
    }

    /// The only member leads, and can hand over to nobody else.
    pub(super) fn move_leader(&self, message: Bytes) -> Result<Bytes, Status> {
        let request: pb::MoveLeaderRequest = decode(message)?;
        if !self.node.has_leader() {
            return Err(grpc::status::NOT_LEADER);
        }
        if request.target_id != self.node.header().member_id {
            return Err(grpc::status::BAD_LEADER_TRANSFEREE);
        }
        Ok(encoded(&pb::MoveLeaderResponse { header: None }))
    }

    /// Whether a downgrade to a version could begin. None can be begun yet, so there is none to cancel.
    pub(super) async fn downgrade(&self, message: Bytes) -> Result<Bytes, Status> {
        use pb::downgrade_request::DowngradeAction;
        let request: pb::DowngradeRequest = decode(message)?;
        let version = self.cluster_version().await;
        let version = version.ok_or(grpc::status::CLUSTER_VERSION_UNAVAILABLE)?;
        let (major, minor) = minor_version(version).unwrap_or_default();
        match DowngradeAction::try_from(request.action) {
            Ok(DowngradeAction::Validate) => {
                let target = minor_version(&request.version);
                let target = target.ok_or(grpc::status::WRONG_DOWNGRADE_VERSION_FORMAT)?;
                if target != (major, minor - 1) {
                    return Err(grpc::status::INVALID_DOWNGRADE_TARGET_VERSION);
                }
            }
            // As in etcd, none need be there.
            Ok(DowngradeAction::Cancel) => {}
            Ok(DowngradeAction::Enable) => {
                let text = "ringd: Downgrade ENABLE is not supported yet";
                return Err(Status::fixed(Code::Unimplemented, text));
            }
            Err(_) => return Err(Status::fixed(Code::Unknown, "etcdserver: unknown method")),
        }
        Ok(encoded(&pb::DowngradeResponse {
            header: proto_header(self.header()),
            version: format!("{major}.{minor}"),
        }))
    }

    pub(super) fn health_check(&self, message: Bytes) -> Result<Bytes, Status> {
        let request: health::HealthCheckRequest = decode(message)?;
        if !request.service.is_empty() {
            return Err(Status::new(Code::NotFound, "unknown service"));
        }
        Ok(encoded(&health::HealthCheckResponse {
            status: self.serving_status() as i32,
        }))
    }

    pub(super) fn health_list(&self, message: Bytes) -> Result<Bytes, Status> {
        let _request: health::HealthListRequest = decode(message)?;
        let whole = health::HealthCheckResponse {
            status: self.serving_status() as i32,
        };
        Ok(encoded(&health::HealthListResponse {
            statuses: [(String::new(), whole)].into(),
        }))
    }

    /// Tells the state once, and its end when the server stops.
    pub(super) async fn health_watch(
        &self,
        context: CallContext,
        mut requests: RequestStream,
        mut responses: ResponseSink,
    ) -> Result<(), Status> {
        use health::health_check_response::ServingStatus;
        let Some(message) = requests.next().await? else {
            return Ok(());
        };
        let request: health::HealthCheckRequest = decode(message)?;
        let status = if request.service.is_empty() {
            self.serving_status()
        } else {
            ServingStatus::ServiceUnknown
        };
        responses
            .send(encoded(&health::HealthCheckResponse {
                status: status as i32,
            }))
            .await?;
        context.shutdown.begun().await;
        let end = health::HealthCheckResponse {
            status: ServingStatus::NotServing as i32,
        };
        responses.send(encoded(&end)).await
    }

    fn serving_status(&self) -> health::health_check_response::ServingStatus {
        use health::health_check_response::ServingStatus;
        if self.shutdown.has_begun() {
            ServingStatus::NotServing
        } else {
            ServingStatus::Serving
        }
    }

    /// The cluster version once it is agreed on.
    pub(super) async fn cluster_version(&self) -> Option<&'static str> {
        let is_set = self.node.cluster_version_is_set().await;
        is_set.unwrap_or(false).then_some(CLUSTER_VERSION)
    }
}

/// Major and minor number of a semantic version, whose patch may be missing.
fn minor_version(text: &str) -> Option<(i64, i64)> {
    let (numbers, suffix) = match text.find(['-', '+']) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let parts: Vec<&str> = numbers.split('.').collect();
    if !(2..=3).contains(&parts.len()) || parts.len() == 2 && !suffix.is_empty() {
        return None;
    }
    let number = |part: &&str| part.parse::<i64>().ok().filter(|number| *number >= 0);
    let numbers: Option<Vec<i64>> = parts.iter().map(number).collect();
    numbers.map(|numbers| (numbers[0], numbers[1]))
}

/// An alarm in the words of etcd's Status, which leave out a member 0.
fn alarm_text((member, kind): (u64, AlarmKind)) -> String {
    let kind = match kind {
        AlarmKind::NoSpace => "NOSPACE",
        AlarmKind::Corrupt => "CORRUPT",
    };
    match member {
        0 => format!("alarm:{kind}"),
        _ => format!("memberID:{member} alarm:{kind}"),
    }
}
