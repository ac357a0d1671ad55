//! The page of metrics: what the cores have counted, what the board says, what home says now, and the process.

use std::sync::atomic::Ordering;

use engine::command::AlarmKind;
use grpc::method::Shape;
use grpc::{Code, Method};

use super::catalogue::*;
use super::core::{
    CoreMetrics, FLUSHES, FLUSHES_BELOW_ETCD, HANDLING, HASHES, MethodMetrics, RANGES, REQUESTS,
    request_type,
};
use super::instrument::{Bounds, Counter, Histogram, Snapshot};
use super::member::{HealthCheck, MemberMetrics, Phase};
use super::process::ProcessFigures;
use super::text::{Exposition, Family, Value};
use super::{ApplyKind, FileKind, Metrics};
use crate::cores::{Board, HOME};
use crate::node::{MemberFigures, Node, State};
use crate::services::ETCD_VERSION;

const NANOS_PER_SECOND: f64 = 1e9;

/// The page as it is now. What only home knows is missing once home has stopped.
pub(crate) async fn page(node: &Node) -> String {
    let figures = node.figures().await.ok();
    let page = Page {
        node,
        board: node.board(),
        metrics: &node.board().metrics,
        out: Exposition::default(),
    };
    page.write(figures.as_ref())
}

/// A page that is being written.
struct Page<'a> {
    node: &'a Node,
    board: &'a Board,
    metrics: &'a Metrics,
    out: Exposition,
}

/// Finds a number of a shard on the board.
type ShardFigure = fn(&Board, u16) -> u64;

/// As etcd labels whether something went well.
fn truth(is_true: bool) -> &'static str {
    if is_true { "true" } else { "false" }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / NANOS_PER_SECOND
}

impl<'a> Page<'a> {
    fn write(mut self, figures: Option<&MemberFigures>) -> String {
        self.server();
        if let Some(figures) = figures {
            self.consensus(figures);
        }
        self.requests();
        self.health();
        self.disk();
        self.store();
        self.network();
        self.watches_and_leases();
        self.calls();
        self.process();
        self.cores(figures);
        self.writes(figures);
        self.disk_by_core();
        self.shards();
        self.upkeep(figures);
        self.out.into_text()
    }

    fn one(&mut self, family: &'static Family, value: impl Into<Value>) {
        self.out.family(family).value(&[], value);
    }

    /// A counter of all cores together.
    fn sum(&mut self, family: &'static Family, counter: impl Fn(&CoreMetrics) -> &Counter) {
        let sum: u64 = self.counted(counter);
        self.one(family, sum);
    }

    fn counted(&self, counter: impl Fn(&CoreMetrics) -> &Counter) -> u64 {
        let cores = self.metrics.cores().iter();
        cores.map(|core| counter(core).value()).sum()
    }

    /// A histogram of all cores together.
    fn merged(
        &self,
        bounds: &'static Bounds,
        histogram: impl Fn(&CoreMetrics) -> &Histogram,
    ) -> Snapshot {
        Snapshot::of_all(bounds, self.metrics.cores().iter().map(histogram))
    }

    fn member(&self) -> &'a MemberMetrics {
        &self.metrics.member
    }

    fn server(&mut self) {
        let own = [env!("CARGO_PKG_VERSION")];
        self.out.family(&BUILD).value(&own, true);
        self.out
            .family(&SERVER_VERSION)
            .value(&[ETCD_VERSION], true);
        let id = format!("{:x}", self.node.identity().member_id);
        self.out.family(&SERVER_ID).value(&[&id], true);
        let state = self.board.visible.state();
        let mut states = self.out.family(&STATE);
        for (name, of) in [
            ("starting", State::Starting),
            ("serving", State::Serving),
            ("stopping", State::Stopping),
            ("stopped", State::Stopped),
            ("failed", State::Failed),
        ] {
            states.value(&[name], of == state);
        }
        self.one(&HAS_LEADER, self.board.visible.has_leader());
        self.one(&LEADER_CHANGES, self.metrics.member.leader_changes.value());
        let quota = self.node.options().quota_bytes.unwrap_or(0);
        self.one(&QUOTA_BYTES, quota);
    }

    fn consensus(&mut self, figures: &MemberFigures) {
        let mut version = self.out.family(&CLUSTER_VERSION);
        if let Some(agreed) = &figures.cluster_version {
            // Without its patch, as in etcd.
            let minor = agreed
                .rsplit_once('.')
                .map_or(&agreed[..], |(minor, _)| minor);
            version.value(&[minor], true);
        }
        self.one(&IS_LEADER, figures.is_leader);
        self.one(&IS_LEARNER, figures.is_learner);
        self.one(&PROPOSALS_COMMITTED, figures.committed_index);
        self.one(&PROPOSALS_APPLIED, figures.applied_index);
        self.one(&PROPOSALS_PENDING, figures.pending);
        let id = format!("{:x}", self.node.identity().member_id);
        let mut alarms = self.out.family(&ALARMS);
        for (member, kind) in &figures.alarms {
            let member = match member {
                0 => id.clone(),
                member => format!("{member:x}"),
            };
            let kind = match kind {
                AlarmKind::NoSpace => "NOSPACE",
                AlarmKind::Corrupt => "CORRUPT",
            };
            alarms.value(&[&member, kind], true);
        }
        self.one(&LEASES, figures.leases);
    }

    fn requests(&mut self) {
        let metrics = self.metrics;
        self.one(&PROPOSALS_FAILED, metrics.member.proposals_failed.value());
        let mut applies = self.out.family(&APPLY_DURATION);
        for kind in ApplyKind::ALL {
            for success in [true, false] {
                let snapshot = metrics.member.applies(kind, success).snapshot();
                if snapshot.count() > 0 {
                    applies.histogram(&["v3", &kind.name(), truth(success)], &snapshot);
                }
            }
        }
        self.one(&SLOW_APPLIES, metrics.member.slow_applies.value());
        let ranges = [1, 0].map(|at| self.merged(&RANGES, |core| &core.ranges[at]));
        let mut durations = self.out.family(&RANGE_DURATION);
        for (snapshot, success) in ranges.iter().zip([true, false]) {
            if snapshot.count() > 0 {
                durations.histogram(&[truth(success)], snapshot);
            }
        }
        let mut requests = self.out.family(&REQUEST_DURATION);
        for method in Method::ALL {
            let Some(name) = request_type(*method) else {
                continue;
            };
            for (at, success) in [(1, true), (0, false)] {
                let cores = metrics.cores().iter();
                let timed = cores.filter_map(|core| core.method(*method).requests.as_ref());
                let snapshot = Snapshot::of_all(&REQUESTS, timed.map(|requests| &requests[at]));
                if snapshot.count() > 0 {
                    requests.histogram(&[name, truth(success)], &snapshot);
                }
            }
        }
        self.client_requests();
    }

    fn client_requests(&mut self) {
        let mut clients = self.out.family(&CLIENT_REQUESTS);
        for (is_stream, name) in [(false, "unary"), (true, "stream")] {
            let mut sums: Vec<(Option<usize>, u64)> = Vec::new();
            for core in self.metrics.cores() {
                for (at, (minor, count)) in core.client_requests(is_stream).enumerate() {
                    match sums.get_mut(at) {
                        Some((_, sum)) => *sum += count,
                        None => sums.push((minor, count)),
                    }
                }
            }
            for (minor, count) in sums.into_iter().filter(|(_, count)| *count > 0) {
                let version = match minor {
                    Some(minor) => format!("3.{minor}"),
                    None => "unknown".to_owned(),
                };
                clients.value(&[name, &version], count);
            }
        }
    }

    fn health(&mut self) {
        let metrics = self.member();
        self.one(&HEALTH_SUCCESS, metrics.health_successes.value());
        self.one(&HEALTH_FAILURES, metrics.health_failures.value());
        let mut last = self.out.family(&HEALTHCHECK);
        for check in HealthCheck::ALL {
            let results = metrics.check(check);
            if results.succeeded.value() + results.failed.value() > 0 {
                let went_well = results.last.load(Ordering::Relaxed);
                last.value(&[check.question(), check.name()], went_well);
            }
        }
        let mut totals = self.out.family(&HEALTHCHECKS);
        for check in HealthCheck::ALL {
            let results = metrics.check(check);
            for (status, count) in [
                ("success", results.succeeded.value()),
                ("error", results.failed.value()),
            ] {
                totals.value(&[check.question(), check.name(), status], count);
            }
        }
    }

    fn disk(&mut self) {
        for (family, kind) in [
            (&WAL_FSYNC, FileKind::Log),
            (&BACKEND_COMMIT, FileKind::Store),
        ] {
            let flushes = self.merged(&FLUSHES, |core| &core.files(kind).flushes);
            let mut family = self.out.family(family);
            family.histogram_from(&[], &flushes, FLUSHES_BELOW_ETCD);
        }
        self.sum(&WAL_BYTES, |core| &core.files(FileKind::Log).written_bytes);
    }

    fn store(&mut self) {
        let sizes = self.board.sizes(self.node.shards());
        self.one(&DB_SIZE, sizes.bytes);
        self.one(&DB_SIZE_IN_USE, sizes.bytes_in_use);
        let member = self.member();
        self.one(&PUTS, member.puts.value());
        self.one(&DELETES, member.deletes.value());
        let ranges = self.counted(|core| &core.range_operations);
        self.one(&RANGES_TOTAL, ranges + member.ranges.value());
        self.one(&TXNS, member.txns.value());
        let hashes = self.merged(&HASHES, |core| &core.hash);
        self.out.family(&HASH_DURATION).histogram(&[], &hashes);
        let hashes = self.merged(&HASHES, |core| &core.hash_at_revision);
        let mut family = self.out.family(&HASH_REVISION_DURATION);
        family.histogram(&[], &hashes);
        let visible = &self.board.visible;
        self.one(&CURRENT_REVISION, visible.revision());
        let compact_revision = match visible.compact_revision() {
            0 => -1,
            revision => revision,
        };
        self.one(&COMPACT_REVISION, compact_revision);
        self.one(&KEYS, sizes.keys);
    }

    fn network(&mut self) {
        self.sum(&CLIENT_RECEIVED, |core| &core.received_bytes);
        self.sum(&CLIENT_SENT, |core| &core.sent_bytes);
        // Of a member without others there is nothing to say.
        for family in [&PEER_SENT, &PEER_RECEIVED, &PEER_FAILURES, &PEER_ROUND_TRIP] {
            self.out.family(family);
        }
    }

    fn watches_and_leases(&mut self) {
        self.sum(&EVENTS, |core| &core.watch_events);
        let cores = self.metrics.cores();
        let watchers: u64 = cores.iter().map(|core| core.watchers.value()).sum();
        let streams: u64 = cores.iter().map(|core| core.watch_streams.value()).sum();
        self.one(&WATCHERS, watchers);
        self.one(&WATCH_STREAMS, streams);
        let member = self.member();
        self.one(&LEASES_GRANTED, member.leases_granted.value());
        self.one(&LEASES_REVOKED, member.leases_revoked.value());
        self.one(&LEASES_RENEWED, member.leases_renewed.value());
        self.one(&LEASES_EXPIRED, member.leases_expired.value());
        let times = member.lease_seconds.snapshot();
        self.out.family(&LEASE_TTL).histogram(&[], &times);
    }

    /// What is counted of calls, by method.
    fn calls(&mut self) {
        self.by_method(&GRPC_STARTED, |method| &method.started);
        self.by_method(&GRPC_RECEIVED, |method| &method.received);
        self.by_method(&GRPC_SENT, |method| &method.sent);
        let cores = self.metrics.cores();
        let mut handled = self.out.family(&GRPC_HANDLED);
        for method in Method::ALL {
            let [shape, service, name] = method_labels(*method);
            for code in Code::ALL {
                let ended =
                    |core: &CoreMetrics| core.method(*method).handled[code as usize].value();
                let count: u64 = cores.iter().map(ended).sum();
                handled.value(&[shape, service, name, &code.name()], count);
            }
        }
        if self.metrics.is_extensive() {
            let mut handling = self.out.family(&GRPC_HANDLING);
            for method in Method::ALL {
                let histograms = cores.iter().map(|core| &core.method(*method).handling);
                let snapshot = Snapshot::of_all(&HANDLING, histograms);
                handling.histogram(&method_labels(*method), &snapshot);
            }
        }
    }

    fn by_method(&mut self, family: &'static Family, counter: impl Fn(&MethodMetrics) -> &Counter) {
        let mut samples = self.out.family(family);
        for method in Method::ALL {
            let cores = self.metrics.cores().iter();
            let count: u64 = cores
                .map(|core| counter(core.method(*method)).value())
                .sum();
            samples.value(&method_labels(*method), count);
        }
    }

    fn process(&mut self) {
        let figures = ProcessFigures::read();
        for (family, value) in [
            (&FD_USED, figures.open_descriptors),
            (&FD_LIMIT, figures.descriptors_max),
            (&PROCESS_OPEN_FDS, figures.open_descriptors),
            (&PROCESS_MAX_FDS, figures.descriptors_max),
            (&PROCESS_VIRTUAL, figures.virtual_bytes),
            (&PROCESS_RESIDENT, figures.resident_bytes),
        ] {
            let mut family = self.out.family(family);
            if let Some(value) = value {
                family.value(&[], value);
            }
        }
        for (family, value) in [
            (&PROCESS_CPU, figures.cpu_seconds),
            (&PROCESS_START, figures.start_seconds),
        ] {
            let mut family = self.out.family(family);
            if let Some(value) = value {
                family.value(&[], value);
            }
        }
    }

    fn cores(&mut self, figures: Option<&MemberFigures>) {
        let board = self.board;
        let names: Vec<String> = (0..board.cores()).map(|core| core.to_string()).collect();
        let mut busy = self.out.family(&CORE_BUSY);
        for (core, name) in (0..).zip(&names) {
            let nanos = match figures {
                Some(figures) if core == HOME => figures.busy_nanos,
                _ => board.core(core).busy_nanos(),
            };
            busy.value(&[name], seconds(nanos));
        }
        let mut connections = self.out.family(&CORE_CONNECTIONS);
        for (core, name) in (0..).zip(&names) {
            connections.value(&[name], board.core(core).connections() as u64);
        }
        let mut started = self.out.family(&CORE_GRPC);
        for (core, name) in self.metrics.cores().iter().zip(&names) {
            let methods = Method::ALL.iter();
            let count: u64 = methods
                .map(|method| core.method(*method).started.value())
                .sum();
            started.value(&[name], count);
        }
        let mut calls = self.out.family(&CORE_CALLS);
        for (core, name) in self.metrics.cores().iter().zip(&names) {
            for (to, to_name) in (0..).zip(&names).filter(|(_, to_name)| *to_name != name) {
                calls.value(&[name, to_name], core.calls_to(to));
            }
        }
        let mut hops = self.out.family(&CORE_HOPS);
        for (core, name) in self.metrics.cores().iter().zip(&names) {
            hops.histogram(&[name], &core.hops.snapshot());
        }
    }

    /// The way of a write.
    fn writes(&mut self, figures: Option<&MemberFigures>) {
        let member = self.member();
        let mut phases = self.out.family(&PHASES);
        for phase in Phase::ALL {
            phases.histogram(&[phase.name()], &member.phase(phase).snapshot());
        }
        let requests = member.entry_requests.snapshot();
        self.out.family(&ENTRY_REQUESTS).histogram(&[], &requests);
        if let Some(figures) = figures {
            self.one(&QUEUE_REQUESTS, figures.queue_requests);
            self.one(&QUEUE_BYTES, figures.queue_bytes);
            self.one(&LOG_RECORDS, figures.log_records_in_flight);
            self.one(&LOG_QUEUE, figures.log_queue_bytes);
        }
        let is_behind = self.board.is_behind(self.node.shards());
        self.one(&HELD_BACK, is_behind);
    }

    fn disk_by_core(&mut self) {
        let cores = self.metrics.cores().iter();
        let named: Vec<(String, &CoreMetrics)> = cores
            .enumerate()
            .map(|(number, core)| (number.to_string(), core))
            .collect();
        // Only home has the log and the superblock.
        let files = |core: &str| match core {
            "0" => &FileKind::ALL[..],
            _ => &[FileKind::Store],
        };
        let mut flushes = self.out.family(&DISK_FLUSH);
        for (name, core) in &named {
            for kind in files(name) {
                let snapshot = core.files(*kind).flushes.snapshot();
                flushes.histogram(&[name, kind.name()], &snapshot);
            }
        }
        for family in [&DISK_WRITTEN, &DISK_READS, &DISK_READ] {
            let mut samples = self.out.family(family);
            for (name, core) in &named {
                for kind in files(name) {
                    let counts = core.files(*kind);
                    let counter = match family.name {
                        written if written == DISK_WRITTEN.name => &counts.written_bytes,
                        reads if reads == DISK_READS.name => &counts.reads,
                        _ => &counts.read_bytes,
                    };
                    samples.value(&[name, kind.name()], counter.value());
                }
            }
        }
    }

    fn shards(&mut self) {
        let board = self.board;
        let of_shard: [(&'static Family, ShardFigure); 6] = [
            (&SHARD_CORE, |board, shard| board.owner(shard).into()),
            (&SHARD_BYTES, |board, shard| {
                board.gauges(shard).sizes().bytes
            }),
            (&SHARD_IN_USE, |board, shard| {
                board.gauges(shard).sizes().bytes_in_use
            }),
            (&SHARD_KEYS, |board, shard| board.gauges(shard).sizes().keys),
            (&SHARD_CACHE, |board, shard| {
                board.gauges(shard).dirty().cache_bytes
            }),
            (&SHARD_DIRTY, |board, shard| {
                board.gauges(shard).dirty().dirty_bytes
            }),
        ];
        for (family, value) in of_shard {
            let mut samples = self.out.family(family);
            for shard in 0..self.node.shards() {
                samples.value(&[&shard.to_string()], value(board, shard));
            }
        }
    }

    fn upkeep(&mut self, figures: Option<&MemberFigures>) {
        let member = self.member();
        let checkpoints = member.checkpoints.snapshot();
        self.out.family(&CHECKPOINTS).histogram(&[], &checkpoints);
        self.one(&CHECKPOINT_BYTES, member.checkpoint_bytes.value());
        let compactions = member.compactions.snapshot();
        self.out.family(&COMPACTIONS).histogram(&[], &compactions);
        let passing = !self.board.passes_are_done(self.node.shards());
        self.one(&COMPACTION_RUNS, passing);
        self.one(&COMPACTION_LAST, member.compacted_at.value());
        let collections = member.collections.snapshot();
        self.out.family(&COLLECTIONS).histogram(&[], &collections);
        let collecting = self.board.is_collecting(self.node.shards());
        self.one(&COLLECTION_RUNS, collecting);
        if let Some(figures) = figures {
            self.one(&CHECKPOINT_INDEX, figures.checkpoint_index);
            self.one(&DAMAGED, figures.damaged_places);
        }
    }
}

fn method_labels(method: Method) -> [&'static str; 3] {
    let shape = match method.shape() {
        Shape::Unary => "unary",
        Shape::ServerStream => "server_stream",
        Shape::Bidirectional => "bidi_stream",
    };
    [shape, method.service(), method.name()]
}
