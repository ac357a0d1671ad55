//! Every command and every flag.

use super::spec::{Action, Command, Flag, Group};

const CONSISTENCY: Flag = Flag::text(
    "consistency",
    "l",
    "l reads what is committed everywhere (linearizable), s reads this member alone (serializable)",
)
.values(&["l", "s"]);
const CLUSTER: Flag = Flag::truth(
    "cluster",
    "ask every endpoint of the member list instead of --endpoints",
);
const PEER_URLS: Flag = Flag::text(
    "peer-urls",
    "",
    "comma-separated addresses at which other members reach it",
);
const INTERACTIVE_PASSWORD: Flag = Flag::on(
    "interactive",
    "ask for the password at the terminal; =false reads standard input",
);
const PERMISSION: [Flag; 2] = [
    Flag::truth("from-key", "mean the key and every key behind it"),
    Flag::truth("prefix", "mean every key that begins with the key"),
];
const CHECK_LOADS: &[&str] = &["small", "medium", "large", "xLarge"];
const AUTO_COMPACT: Flag = Flag::truth("auto-compact", "compact the history when done");
const AUTO_DEFRAG: Flag = Flag::truth("auto-defrag", "defragment the endpoints when done");

/// Flags of every command.
pub(crate) const GLOBAL: &[Flag] = &[
    Flag::text(
        "auth-jwt-token",
        "",
        "a token to authenticate with, in place of --user and --password",
    ),
    Flag::text(
        "cacert",
        "",
        "file of the authorities that may have signed a server's certificate (PEM)",
    ),
    Flag::text("cert", "", "file of the client's certificate (PEM)"),
    Flag::duration("command-timeout", "5s", "how long a short command may take"),
    Flag::truth(
        "debug",
        "show on standard error which settings are in force",
    ),
    Flag::duration(
        "dial-timeout",
        "2s",
        "how long a connection and its login may take to come up",
    ),
    Flag::text(
        "discovery-srv",
        "",
        "domain whose SRV records name the endpoints",
    )
    .short('d'),
    Flag::text(
        "discovery-srv-name",
        "",
        "suffix of the service name that is asked for in SRV records",
    ),
    Flag::list(
        "endpoints",
        "127.0.0.1:2379",
        "where the servers listen: host:port, http://, https://, unix://",
    ),
    Flag::truth("hex", "print keys, values and ids in hexadecimal"),
    Flag::on(
        "insecure-discovery",
        "accept SRV records of servers without TLS",
    ),
    Flag::truth(
        "insecure-skip-tls-verify",
        "accept every certificate; for tests only",
    ),
    Flag::on(
        "insecure-transport",
        "connect without TLS unless the endpoint says https; =false demands TLS",
    ),
    Flag::duration(
        "keepalive-time",
        "2s",
        "how long a connection may be silent before it is probed",
    ),
    Flag::duration(
        "keepalive-timeout",
        "6s",
        "how long a probe may stay unanswered",
    ),
    Flag::text("key", "", "file of the private key to --cert (PEM)"),
    Flag::number(
        "max-recv-bytes",
        "0",
        "largest answer in bytes; 0 means 2 GiB",
    ),
    Flag::number(
        "max-request-bytes",
        "0",
        "largest request in bytes; 0 means 2 MiB",
    ),
    Flag::text("password", "", "password of --user"),
    Flag::text(
        "user",
        "",
        "name[:password] to log in with; a password that is missing is asked for",
    ),
    Flag::text(
        "write-out",
        "simple",
        "how answers are printed: fields, json, protobuf, simple or table",
    )
    .short('w')
    .values(&["fields", "json", "protobuf", "simple", "table"]),
];

/// Flags of `put`, also inside a transaction.
const PUT: &[Flag] = &[
    Flag::truth("ignore-lease", "keep the key's lease"),
    Flag::truth("ignore-value", "keep the key's value"),
    Flag::text("lease", "0", "lease (hexadecimal) to attach the key to"),
    Flag::truth("prev-kv", "also print what the key was before"),
];

/// Flags of `get`, also inside a transaction.
const GET: &[Flag] = &[
    CONSISTENCY,
    Flag::truth("count-only", "count keys only (with --write-out=fields)"),
    Flag::truth("from-key", "read the key and every key behind it"),
    Flag::truth("keys-only", "leave values out"),
    Flag::number("limit", "0", "most keys to print; 0 means all"),
    Flag::number(
        "max-create-rev",
        "0",
        "leave out keys created after this revision",
    ),
    Flag::number(
        "max-mod-rev",
        "0",
        "leave out keys changed after this revision",
    ),
    Flag::number(
        "min-create-rev",
        "0",
        "leave out keys created before this revision",
    ),
    Flag::number(
        "min-mod-rev",
        "0",
        "leave out keys changed before this revision",
    ),
    Flag::text("order", "", "ASCEND or DESCEND").values(&["ASCEND", "DESCEND"]),
    Flag::truth("prefix", "read every key that begins with the key"),
    Flag::truth(
        "print-value-only",
        "leave keys out (with --write-out=simple)",
    ),
    Flag::number("rev", "0", "read as of this revision; 0 means now"),
    Flag::text("sort-by", "", "CREATE, KEY, MODIFY, VALUE or VERSION")
        .values(&["CREATE", "KEY", "MODIFY", "VALUE", "VERSION"]),
    Flag::truth("stream", "receive the answer in pieces (RangeStream)"),
];

/// Flags of `del`, also inside a transaction.
const DEL: &[Flag] = &[
    Flag::truth("from-key", "delete the key and every key behind it"),
    Flag::truth("prefix", "delete every key that begins with the key"),
    Flag::truth("prev-kv", "also print what is deleted"),
    Flag::truth("range", "delete a range without the two seconds of grace"),
];

/// Flags of `watch`, also of a line in interactive mode.
pub(crate) const WATCH: &[Flag] = &[
    Flag::truth(
        "interactive",
        "read watch and progress commands from standard input",
    )
    .short('i'),
    Flag::truth("prefix", "watch every key that begins with the key"),
    Flag::truth("prev-kv", "also print what a key was before"),
    Flag::truth(
        "progress-notify",
        "ask the server for its revision from time to time",
    ),
    Flag::number("rev", "0", "begin at this revision; 0 means now"),
];

const GET_COMMAND: Command = Command::action(
    "get",
    Group::Keys,
    Action::Get,
    "Read a key or a range of keys",
)
.arguments("[options] <key> [range_end]")
.details("With a range_end the keys from <key> up to but without [range_end] are read.")
.flags(GET);

const PUT_COMMAND: Command = Command::action("put", Group::Keys, Action::Put, "Write a key")
    .arguments("[options] <key> <value>")
    .details(
        "Without <value> the value is read from standard input. A value that begins with a dash comes \
         behind `--`.",
    )
    .flags(PUT);

const DEL_COMMAND: Command = Command::action(
    "del",
    Group::Keys,
    Action::Del,
    "Delete a key or a range of keys",
)
.arguments("[options] <key> [range_end]")
.flags(DEL);

/// The commands that a line of a transaction may be.
pub(crate) const TRANSACTION: Command = Command::commands(
    "",
    Group::Keys,
    "",
    &[DEL_COMMAND, GET_COMMAND, PUT_COMMAND],
);

const LEASE: &[Command] = &[
    Command::action("grant", Group::Keys, Action::LeaseGrant, "Create a lease").arguments("<ttl>"),
    Command::action(
        "keep-alive",
        Group::Keys,
        Action::LeaseKeepAlive,
        "Renew a lease until it is gone",
    )
    .arguments("[options] <leaseID>")
    .flags(&[Flag::truth("once", "renew once and stop")]),
    Command::action("list", Group::Keys, Action::LeaseList, "List the leases"),
    Command::action(
        "revoke",
        Group::Keys,
        Action::LeaseRevoke,
        "End a lease and delete its keys",
    )
    .arguments("<leaseID>"),
    Command::action(
        "timetolive",
        Group::Keys,
        Action::LeaseTimeToLive,
        "Show how long a lease lives",
    )
    .arguments("<leaseID> [options]")
    .flags(&[Flag::truth("keys", "also print the keys attached to it")]),
];

const MEMBER: &[Command] = &[
    Command::action(
        "add",
        Group::Cluster,
        Action::MemberAdd,
        "Add a member to the cluster",
    )
    .arguments("<memberName> [options]")
    .flags(&[
        Flag::truth("learner", "let it receive the log without a vote"),
        PEER_URLS,
    ]),
    Command::action(
        "list",
        Group::Cluster,
        Action::MemberList,
        "List the members",
    )
    .details(
        "A line has: ID, status, name, peer addresses, client addresses, whether it is a learner.",
    )
    .flags(&[CONSISTENCY]),
    Command::action(
        "promote",
        Group::Cluster,
        Action::MemberPromote,
        "Give a learner its vote",
    )
    .arguments("<memberID>"),
    Command::action(
        "remove",
        Group::Cluster,
        Action::MemberRemove,
        "Remove a member",
    )
    .arguments("<memberID>"),
    Command::action(
        "update",
        Group::Cluster,
        Action::MemberUpdate,
        "Change a member's peer addresses",
    )
    .arguments("<memberID> [options]")
    .flags(&[PEER_URLS]),
];

const ENDPOINT: &[Command] = &[
    Command::action(
        "hashkv",
        Group::Cluster,
        Action::EndpointHashkv,
        "Hash the key history of each endpoint",
    )
    .flags(&[Flag::number(
        "rev",
        "0",
        "hash up to this revision; 0 means all",
    )]),
    Command::action(
        "health",
        Group::Cluster,
        Action::EndpointHealth,
        "Check whether each endpoint can serve",
    ),
    Command::action(
        "status",
        Group::Cluster,
        Action::EndpointStatus,
        "Show version, sizes and raft state of each endpoint",
    ),
];

const AUTH: &[Command] = &[
    Command::action(
        "disable",
        Group::Authentication,
        Action::AuthDisable,
        "Switch authentication off",
    ),
    Command::action(
        "enable",
        Group::Authentication,
        Action::AuthEnable,
        "Switch authentication on",
    ),
    Command::action(
        "status",
        Group::Authentication,
        Action::AuthStatus,
        "Show whether authentication is on",
    ),
];

const USER: &[Command] = &[
    Command::action("add", Group::Authentication, Action::UserAdd, "Add a user")
        .arguments("<user name or user:password> [options]")
        .flags(&[
            INTERACTIVE_PASSWORD,
            Flag::text("new-user-password", "", "the new user's password"),
            Flag::truth("no-password", "add a user who logs in by certificate only"),
        ]),
    Command::action(
        "delete",
        Group::Authentication,
        Action::UserDelete,
        "Delete a user",
    )
    .arguments("<user name>"),
    Command::action(
        "get",
        Group::Authentication,
        Action::UserGet,
        "Show the roles of a user",
    )
    .arguments("<user name> [options]")
    .flags(&[Flag::truth(
        "detail",
        "also show the permissions of each role",
    )]),
    Command::action(
        "grant-role",
        Group::Authentication,
        Action::UserGrantRole,
        "Give a role to a user",
    )
    .arguments("<user name> <role name>"),
    Command::action(
        "list",
        Group::Authentication,
        Action::UserList,
        "List the users",
    ),
    Command::action(
        "passwd",
        Group::Authentication,
        Action::UserPassword,
        "Change a user's password",
    )
    .arguments("<user name> [options]")
    .flags(&[INTERACTIVE_PASSWORD]),
    Command::action(
        "revoke-role",
        Group::Authentication,
        Action::UserRevokeRole,
        "Take a role from a user",
    )
    .arguments("<user name> <role name>"),
];

const ROLE: &[Command] = &[
    Command::action("add", Group::Authentication, Action::RoleAdd, "Add a role")
        .arguments("<role name>"),
    Command::action(
        "delete",
        Group::Authentication,
        Action::RoleDelete,
        "Delete a role",
    )
    .arguments("<role name>"),
    Command::action(
        "get",
        Group::Authentication,
        Action::RoleGet,
        "Show the permissions of a role",
    )
    .arguments("<role name>"),
    Command::action(
        "grant-permission",
        Group::Authentication,
        Action::RoleGrantPermission,
        "Let a role read or write keys",
    )
    .arguments("[options] <role name> <permission type> <key> [endkey]")
    .flags(&PERMISSION),
    Command::action(
        "list",
        Group::Authentication,
        Action::RoleList,
        "List the roles",
    ),
    Command::action(
        "revoke-permission",
        Group::Authentication,
        Action::RoleRevokePermission,
        "Take keys from a role",
    )
    .arguments("<role name> <key> [endkey]")
    .flags(&PERMISSION),
];

const CHECK: &[Command] = &[
    Command::action(
        "datascale",
        Group::Utility,
        Action::CheckDatascale,
        "Measure the memory that a data set needs",
    )
    .arguments("[options]")
    .details("The first endpoint is measured.")
    .flags(&[
        AUTO_COMPACT,
        AUTO_DEFRAG,
        Flag::text("load", "s", "size of the data set: s, m, l or xl").values(CHECK_LOADS),
        Flag::text(
            "prefix",
            "/etcdctl-check-datascale/",
            "prefix of the keys that are written",
        ),
    ]),
    Command::action(
        "perf",
        Group::Utility,
        Action::CheckPerf,
        "Measure for a minute whether writes keep up with a load",
    )
    .arguments("[options]")
    .flags(&[
        AUTO_COMPACT,
        AUTO_DEFRAG,
        Flag::text("load", "s", "load to keep up with: s, m, l or xl").values(CHECK_LOADS),
        Flag::text(
            "prefix",
            "/etcdctl-check-perf/",
            "prefix of the keys that are written",
        ),
    ]),
];

const DOWNGRADE: &[Command] = &[
    Command::action(
        "cancel",
        Group::Cluster,
        Action::DowngradeCancel,
        "Stop a downgrade",
    ),
    Command::action(
        "enable",
        Group::Cluster,
        Action::DowngradeEnable,
        "Begin a downgrade",
    )
    .arguments("<TARGET_VERSION>"),
    Command::action(
        "validate",
        Group::Cluster,
        Action::DowngradeValidate,
        "Check whether a downgrade is possible",
    )
    .arguments("<TARGET_VERSION>"),
];

/// Flags of `snapshot restore`, handed on as they are.
pub(crate) const RESTORE: &[Flag] = &[
    Flag::unsigned(
        "bump-revision",
        "0",
        "raise the revision by so much; with --mark-compacted",
    ),
    Flag::text("data-dir", "", "the directory to make (default NAME.etcd)"),
    Flag::text(
        "initial-advertise-peer-urls",
        "http://localhost:2380",
        "the member's peer URLs",
    ),
    Flag::text(
        "initial-cluster",
        "",
        "the cluster, this member alone (default NAME=PEER-URLS)",
    ),
    Flag::text(
        "initial-cluster-token",
        "etcd-cluster",
        "the cluster's token",
    ),
    Flag::truth(
        "mark-compacted",
        "compact everything up to the new revision; with --bump-revision",
    ),
    Flag::text("name", "default", "the member's name"),
    Flag::truth(
        "skip-hash-check",
        "take a file without the hash at its end, such as a copied database",
    ),
    Flag::text(
        "wal-dir",
        "",
        "not supported: the log stands in the data directory",
    ),
];

const MIRROR: &[Flag] = &[
    Flag::text("dest-cacert", "", "like --cacert, for the destination"),
    Flag::text("dest-cert", "", "like --cert, for the destination"),
    Flag::on(
        "dest-insecure-transport",
        "like --insecure-transport, for the destination",
    ),
    Flag::text("dest-key", "", "like --key, for the destination"),
    Flag::text("dest-password", "", "like --password, for the destination"),
    Flag::text(
        "dest-prefix",
        "",
        "prefix that takes the place of --prefix in the destination",
    ),
    Flag::text("dest-user", "", "like --user, for the destination"),
    Flag::unsigned("max-txn-ops", "128", "most changes in one transaction"),
    Flag::truth("no-dest-prefix", "leave the prefix out in the destination"),
    Flag::text("prefix", "", "copy keys with this prefix only"),
    Flag::number(
        "rev",
        "0",
        "copy changes from this revision on instead of everything",
    ),
];

/// The whole tree, in alphabetical order as help lists it.
pub(crate) const ROOT: Command = Command::commands("", Group::Utility, "Command line of ringd and of every etcd v3 server", &[
    Command::commands("alarm", Group::Cluster, "List and clear alarms", &[
        Command::action("disarm", Group::Cluster, Action::AlarmDisarm, "Clear every alarm"),
        Command::action("list", Group::Cluster, Action::AlarmList, "List the alarms"),
    ]),
    Command::commands("auth", Group::Authentication, "Switch authentication on or off", AUTH),
    Command::commands("check", Group::Utility, "Measure a cluster", CHECK),
    Command::action("compaction", Group::Keys, Action::Compaction, "Forget the history before a revision")
        .arguments("[options] <revision>")
        .flags(&[Flag::truth("physical", "wait until the space is free")]),
    Command::action("completion", Group::Utility, Action::Completion, "Print a completion script for a shell")
        .arguments("[bash|zsh|fish|powershell]"),
    Command::action("defrag", Group::Cluster, Action::Defrag, "Give unused space of the endpoints back")
        .flags(&[CLUSTER]),
    DEL_COMMAND,
    Command::commands("downgrade", Group::Cluster, "Go back to the previous minor version", DOWNGRADE)
        .arguments("<TARGET_VERSION>"),
    Command::action("elect", Group::Concurrency, Action::Elect, "Take part in an election, or watch one")
        .arguments("<election-name> [proposal]")
        .flags(&[Flag::truth("listen", "watch who is elected").short('l')]),
    Command::commands("endpoint", Group::Cluster, "Health, status and hashes of endpoints", ENDPOINT).shared(&[CLUSTER]),
    GET_COMMAND,
    Command::commands("lease", Group::Keys, "Grant, renew, list and revoke leases", LEASE),
    Command::action("lock", Group::Concurrency, Action::Lock, "Hold a lock, alone or while a command runs")
        .arguments("<lockname> [exec-command arg1 arg2 ...]")
        .details("The command finds the lock's key and revision in ETCD_LOCK_KEY and ETCD_LOCK_REV.")
        .flags(&[Flag::number("ttl", "10", "seconds after which the lock is free when this process has died")]),
    Command::action("make-mirror", Group::Utility, Action::MakeMirror, "Copy keys to another cluster and keep them up to date")
        .arguments("[options] <destination>")
        .flags(MIRROR),
    Command::action("man", Group::Utility, Action::Man, "Write man pages into a folder")
        .arguments("<folder>")
        .own(),
    Command::commands("member", Group::Cluster, "List and change the members", MEMBER),
    Command::action("move-leader", Group::Cluster, Action::MoveLeader, "Hand leadership to another member")
        .arguments("<transferee-member-id>"),
    Command::action("options", Group::Utility, Action::Options, "List the flags that every command has"),
    PUT_COMMAND,
    Command::commands("role", Group::Authentication, "Manage roles", ROLE),
    Command::commands("snapshot", Group::Cluster, "Back a member up", &[
        Command::action("restore", Group::Cluster, Action::SnapshotRestore, "Build a data directory of ringd from a snapshot file")
            .arguments("<filename>")
            .details("It is the program ringd that does it, from the folder of this one or else from PATH.")
            .flags(RESTORE)
            .own(),
        Command::action("save", Group::Cluster, Action::SnapshotSave, "Save a member's state into a file")
            .arguments("<filename>"),
        Command::action("status", Group::Cluster, Action::SnapshotStatus, "Print what a snapshot file holds")
            .arguments("<filename>")
            .own(),
    ]),
    Command::action("txn", Group::Keys, Action::Txn, "Compare and change keys in one transaction")
        .arguments("[options]")
        .details(
            "Standard input has three parts, each ended by an empty line: comparisons, what is done if all of \
             them hold, what is done if one does not. A comparison is `mod(\"key\") > \"0\"` with ver, create, \
             mod, value or lease before the key and =, !=, < or > behind it; the rest are get, put and del \
             commands.",
        )
        .flags(&[Flag::truth("interactive", "say what is expected next").short('i')]),
    Command::commands("user", Group::Authentication, "Manage users", USER),
    Command::action("version", Group::Utility, Action::Version, "Print the version"),
    Command::action("watch", Group::Keys, Action::Watch, "Print changes of keys as they happen")
        .arguments("[options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]")
        .details(
            "Behind `--` stands a command that is run for each change; it finds the change in \
             ETCD_WATCH_REVISION, ETCD_WATCH_EVENT_TYPE, ETCD_WATCH_KEY and ETCD_WATCH_VALUE.",
        )
        .flags(WATCH),
]);

/// The order in which etcdctl names commands that a word may have meant.
pub(crate) const SUGGESTION_ORDER: [&str; 24] = [
    "get",
    "put",
    "del",
    "txn",
    "compaction",
    "alarm",
    "defrag",
    "endpoint",
    "move-leader",
    "watch",
    "version",
    "lease",
    "member",
    "snapshot",
    "make-mirror",
    "lock",
    "elect",
    "auth",
    "user",
    "role",
    "check",
    "completion",
    "downgrade",
    "options",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_sorted_and_complete() {
        fn walk(command: &Command) {
            assert!(
                command.commands.is_sorted_by_key(|below| below.name),
                "{}",
                command.name
            );
            assert!(
                command.flags.is_sorted_by_key(|flag| flag.name),
                "flags of {}",
                command.name
            );
            assert_eq!(
                command.action.is_none(),
                !command.commands.is_empty(),
                "{}",
                command.name
            );
            command.commands.iter().for_each(walk);
        }
        walk(&ROOT);
        assert!(GLOBAL.is_sorted_by_key(|flag| flag.name));
    }
}
