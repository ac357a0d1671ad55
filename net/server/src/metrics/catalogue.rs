//! Every metric there is: name, type, labels, and what it means.
//!
//! `docs/METRICS.md` has the same table with how to read it.

use super::text::{Family, Kind};

macro_rules! families {
    ($($constant:ident $name:literal $kind:ident $labels:tt $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $constant: Family = Family {
                name: $name,
                kind: Kind::$kind,
                labels: &$labels,
                help: $help,
            };
        )*

        /// All of them, in the order of the page.
        pub static ALL: &[&Family] = &[$(&$constant),*];
    };
}

families! {
    // Etcd's names: the server.
    SERVER_VERSION "etcd_server_version" Gauge ["server_version"]
        "1 for the release of etcd whose surface this member has.";
    CLUSTER_VERSION "etcd_cluster_version" Gauge ["cluster_version"]
        "1 for the version that the cluster has agreed on.";
    SERVER_ID "etcd_server_id" Gauge ["server_id"]
        "1 for the id of this member, in hexadecimal digits.";
    HAS_LEADER "etcd_server_has_leader" Gauge []
        "1 while a leader is known.";
    IS_LEADER "etcd_server_is_leader" Gauge []
        "1 while this member leads.";
    IS_LEARNER "etcd_server_is_learner" Gauge []
        "1 while this member receives and does not vote.";
    LEADER_CHANGES "etcd_server_leader_changes_seen_total" Counter []
        "How often another leader than before was seen.";
    PROPOSALS_COMMITTED "etcd_server_proposals_committed_total" Gauge []
        "Index of the last committed entry of the log.";
    PROPOSALS_APPLIED "etcd_server_proposals_applied_total" Gauge []
        "Index of the last applied entry of the log.";
    PROPOSALS_PENDING "etcd_server_proposals_pending" Gauge []
        "Writes that wait for their outcome.";
    PROPOSALS_FAILED "etcd_server_proposals_failed_total" Counter []
        "Writes that got no outcome: refused because too many wait or nobody leads, or not in time.";
    APPLY_DURATION "etcd_server_apply_duration_seconds" Histogram ["version", "op", "success"]
        "From commit to visible, of the entry that a request was in; each request counts.";
    SLOW_APPLIES "etcd_server_slow_apply_total" Counter []
        "Entries that took longer than 100 ms from commit to visible.";
    RANGE_DURATION "etcd_server_range_duration_seconds" Histogram ["success"]
        "How long ranges took to read.";
    REQUEST_DURATION "etcd_server_request_duration_seconds" Histogram ["type", "success"]
        "From the arrival of a request to its answer.";
    CLIENT_REQUESTS "etcd_server_client_requests_total" Counter ["type", "client_api_version"]
        "Calls by the version that their client says it speaks.";
    QUOTA_BYTES "etcd_server_quota_backend_bytes" Gauge []
        "The quota; 0 is none.";
    HEALTH_SUCCESS "etcd_server_health_success" Counter []
        "How often /health said yes.";
    HEALTH_FAILURES "etcd_server_health_failures" Counter []
        "How often /health said no.";
    HEALTHCHECK "etcd_server_healthcheck" Gauge ["type", "name"]
        "1 if this check of /livez or /readyz went well the last time.";
    HEALTHCHECKS "etcd_server_healthchecks_total" Counter ["type", "name", "status"]
        "Checks of /livez and /readyz by their result.";

    // Etcd's names: disk, store, network.
    WAL_FSYNC "etcd_disk_wal_fsync_duration_seconds" Histogram []
        "How long the log took to be flushed; the write before it is in the same operation.";
    WAL_BYTES "etcd_disk_wal_write_bytes_total" Gauge []
        "Bytes written to the log in this life.";
    BACKEND_COMMIT "etcd_disk_backend_commit_duration_seconds" Histogram []
        "How long files of the store took to be flushed.";
    DB_SIZE "etcd_mvcc_db_total_size_in_bytes" Gauge []
        "Size of the store.";
    DB_SIZE_IN_USE "etcd_mvcc_db_total_size_in_use_in_bytes" Gauge []
        "Bytes of the store that are live.";
    PUTS "etcd_mvcc_put_total" Counter []
        "Puts, those in transactions among them.";
    DELETES "etcd_mvcc_delete_total" Counter []
        "Deletes of a range, those in transactions among them.";
    RANGES_TOTAL "etcd_mvcc_range_total" Counter []
        "Ranges, those in transactions among them.";
    TXNS "etcd_mvcc_txn_total" Counter []
        "Transactions of more than one operation that may write.";
    HASH_DURATION "etcd_mvcc_hash_duration_seconds" Histogram []
        "How long Hash took.";
    HASH_REVISION_DURATION "etcd_mvcc_hash_rev_duration_seconds" Histogram []
        "How long HashKV took.";
    CLIENT_RECEIVED "etcd_network_client_grpc_received_bytes_total" Counter []
        "Bytes of messages from clients, without framing.";
    CLIENT_SENT "etcd_network_client_grpc_sent_bytes_total" Counter []
        "Bytes of messages to clients, without framing.";
    PEER_SENT "etcd_network_peer_sent_bytes_total" Counter ["To"]
        "Bytes to each other member; no series without one.";
    PEER_RECEIVED "etcd_network_peer_received_bytes_total" Counter ["From"]
        "Bytes from each other member; no series without one.";
    PEER_FAILURES "etcd_network_peer_sent_failures_total" Counter ["To"]
        "Messages that did not reach another member; no series without one.";
    PEER_ROUND_TRIP "etcd_network_peer_round_trip_time_seconds" Histogram ["To"]
        "Round trips to each other member; no series without one.";

    // Etcd's names: what it calls debugging.
    CURRENT_REVISION "etcd_debugging_mvcc_current_revision" Gauge []
        "The newest visible revision.";
    COMPACT_REVISION "etcd_debugging_mvcc_compact_revision" Gauge []
        "Reads below are refused; -1 before the first compaction.";
    KEYS "etcd_debugging_mvcc_keys_total" Gauge []
        "Keys, deleted ones that are still readable among them.";
    EVENTS "etcd_debugging_mvcc_events_total" Counter []
        "Events sent to watchers.";
    WATCHERS "etcd_debugging_mvcc_watcher_total" Gauge []
        "Watchers.";
    WATCH_STREAMS "etcd_debugging_mvcc_watch_stream_total" Gauge []
        "Open watch streams.";
    COMPACTION_LAST "etcd_debugging_mvcc_db_compaction_last" Gauge []
        "When the last pass ended, in seconds since 1970; 0 before one did.";
    LEASES_GRANTED "etcd_debugging_lease_granted_total" Counter []
        "Leases granted.";
    LEASES_REVOKED "etcd_debugging_lease_revoked_total" Counter []
        "Leases that ended, by a client or by their time.";
    LEASES_RENEWED "etcd_debugging_lease_renewed_total" Counter []
        "Renewals of leases.";
    LEASES_EXPIRED "etcd_debugging_server_lease_expired_total" Counter []
        "Leases that ended by their time.";
    LEASE_TTL "etcd_debugging_lease_ttl_total" Histogram []
        "Times to live of granted leases, in seconds.";
    ALARMS "etcd_debugging_server_alarms" Gauge ["server_id", "alarm_type"]
        "1 for each raised alarm.";

    // gRPC.
    GRPC_STARTED "grpc_server_started_total" Counter ["grpc_type", "grpc_service", "grpc_method"]
        "Calls that began.";
    GRPC_HANDLED "grpc_server_handled_total" Counter ["grpc_type", "grpc_service", "grpc_method", "grpc_code"]
        "Calls that ended, by code.";
    GRPC_RECEIVED "grpc_server_msg_received_total" Counter ["grpc_type", "grpc_service", "grpc_method"]
        "Messages from clients.";
    GRPC_SENT "grpc_server_msg_sent_total" Counter ["grpc_type", "grpc_service", "grpc_method"]
        "Messages to clients.";
    GRPC_HANDLING "grpc_server_handling_seconds" Histogram ["grpc_type", "grpc_service", "grpc_method"]
        "How long calls took. Only with --metrics=extensive.";

    // The process.
    FD_USED "os_fd_used" Gauge []
        "Open file descriptors.";
    FD_LIMIT "os_fd_limit" Gauge []
        "Most file descriptors that may be open.";
    PROCESS_CPU "process_cpu_seconds_total" Counter []
        "Processor time of the process, its own and the kernel's.";
    PROCESS_OPEN_FDS "process_open_fds" Gauge []
        "Open file descriptors.";
    PROCESS_MAX_FDS "process_max_fds" Gauge []
        "Most file descriptors that may be open.";
    PROCESS_VIRTUAL "process_virtual_memory_bytes" Gauge []
        "Address space in use.";
    PROCESS_RESIDENT "process_resident_memory_bytes" Gauge []
        "Memory in use.";
    PROCESS_START "process_start_time_seconds" Gauge []
        "When the process began, in seconds since 1970.";

    // ringd's own: the member and its cores.
    BUILD "ringd_build_info" Gauge ["version"]
        "1 for the version of ringd.";
    STATE "ringd_member_state" Gauge ["state"]
        "1 for the state that the member is in: starting, serving, stopping, stopped or failed.";
    CORE_BUSY "ringd_core_busy_seconds_total" Counter ["core"]
        "Time that a core did not sleep, as it last told home.";
    CORE_CONNECTIONS "ringd_core_connections" Gauge ["core"]
        "Connections that a core serves.";
    CORE_GRPC "ringd_core_grpc_started_total" Counter ["core"]
        "Calls that began on a core.";
    CORE_CALLS "ringd_core_calls_total" Counter ["core", "to"]
        "Calls from one core to another.";
    CORE_HOPS "ringd_core_call_duration_seconds" Histogram ["core"]
        "How long a core waits for the answer of another one. One call in 64 is timed.";

    // ringd's own: the way of a write.
    PHASES "ringd_write_phase_duration_seconds" Histogram ["phase"]
        "How long entries spend in each phase: queue, log, apply.";
    ENTRY_REQUESTS "ringd_entry_requests" Histogram []
        "Requests that share an entry of the log.";
    QUEUE_REQUESTS "ringd_write_queue_requests" Gauge []
        "Requests that wait for an entry.";
    QUEUE_BYTES "ringd_write_queue_bytes" Gauge []
        "Their bytes; refused beyond 64 MiB.";
    LOG_RECORDS "ringd_log_records_in_flight" Gauge []
        "Records of the log that are written and not yet flushed.";
    LOG_QUEUE "ringd_log_queue_bytes" Gauge []
        "Bytes of entries that wait for a record.";
    HELD_BACK "ringd_changes_held_back" Gauge []
        "1 while changes wait because a shard outruns its disk.";

    // ringd's own: disk, shards, upkeep.
    DISK_FLUSH "ringd_disk_flush_duration_seconds" Histogram ["core", "file"]
        "How long flushes took, with the write before them if both left as one.";
    DISK_WRITTEN "ringd_disk_written_bytes_total" Counter ["core", "file"]
        "Bytes written.";
    DISK_READS "ringd_disk_reads_total" Counter ["core", "file"]
        "Reads: what was not in memory, and scrubbing.";
    DISK_READ "ringd_disk_read_bytes_total" Counter ["core", "file"]
        "Bytes read.";
    SHARD_CORE "ringd_shard_core" Gauge ["shard"]
        "Number of the core that a shard lives on.";
    SHARD_BYTES "ringd_shard_size_bytes" Gauge ["shard"]
        "Size of a shard's pages and events.";
    SHARD_IN_USE "ringd_shard_in_use_bytes" Gauge ["shard"]
        "Bytes of them that are live.";
    SHARD_KEYS "ringd_shard_keys" Gauge ["shard"]
        "Keys, deleted ones that are still readable among them.";
    SHARD_CACHE "ringd_shard_page_cache_bytes" Gauge ["shard"]
        "How much a shard's page cache may hold.";
    SHARD_DIRTY "ringd_shard_page_cache_dirty_bytes" Gauge ["shard"]
        "How much of it only a checkpoint can free.";
    CHECKPOINTS "ringd_checkpoint_duration_seconds" Histogram []
        "How long checkpoints took.";
    CHECKPOINT_BYTES "ringd_checkpoint_page_bytes_total" Counter []
        "Bytes of changed pages that checkpoints wrote.";
    CHECKPOINT_INDEX "ringd_checkpoint_index" Gauge []
        "Index of the last entry in the last checkpoint: a start replays what came after it.";
    COMPACTIONS "ringd_compaction_duration_seconds" Histogram []
        "How long passes of compactions took.";
    COMPACTION_RUNS "ringd_compaction_running" Gauge []
        "1 while a pass of a compaction is under way.";
    COLLECTIONS "ringd_collection_duration_seconds" Histogram []
        "How long collections of event segments took.";
    COLLECTION_RUNS "ringd_collection_running" Gauge []
        "1 while event segments are collected.";
    DAMAGED "ringd_damaged_places" Gauge []
        "Places of stored data that the scrub found damaged.";
    LEASES "ringd_leases" Gauge []
        "Leases there are.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const KINDS: [&str; 3] = ["counter", "gauge", "histogram"];
    const PAGE: &str = include_str!("../../../../docs/METRICS.md");

    /// Name, type and labels of the rows of the page's tables of metrics.
    fn documented() -> BTreeSet<(String, String, String)> {
        let rows = PAGE.lines().filter(|line| line.starts_with("| `"));
        let rows = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<&str>>());
        let of_metrics = rows.filter(|cells| KINDS.contains(&cells[2]));
        of_metrics
            .map(|cells| {
                let [name, kind, labels] = [cells[1], cells[2], cells[3]].map(str::to_owned);
                (name.replace('`', ""), kind, labels.replace('`', ""))
            })
            .collect()
    }

    #[test]
    fn the_page_of_metrics_says_what_there_is() {
        let there: BTreeSet<_> = ALL
            .iter()
            .map(|family| {
                let kind = family.kind.name().to_owned();
                (family.name.to_owned(), kind, family.labels.join(", "))
            })
            .collect();
        assert_eq!(there.len(), ALL.len(), "a name stands twice");
        let documented = documented();
        let missing: Vec<_> = there.difference(&documented).collect();
        let invented: Vec<_> = documented.difference(&there).collect();
        assert!(
            missing.is_empty() && invented.is_empty(),
            "docs/METRICS.md lacks {missing:#?} and tells of {invented:#?}"
        );
    }

    #[test]
    fn our_own_names_follow_the_rules_for_names() {
        for family in ALL.iter().filter(|f| f.name.starts_with("ringd_")) {
            let is_total = family.name.ends_with("_total");
            assert_eq!(is_total, family.kind == Kind::Counter, "{}", family.name);
            assert!(family.help.ends_with('.'), "{}", family.name);
        }
    }
}
