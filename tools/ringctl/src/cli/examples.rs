//! Examples that end each command's help. Where they need something, the example before makes it.

use super::parse::Path;

/// Stands for the program's name.
pub(crate) const PROGRAM: &str = "@";

/// The examples of the command at the end of `path`.
pub(crate) fn of(path: &Path) -> &'static [&'static str] {
    let names: Vec<&str> = path[1..].iter().map(|command| command.name).collect();
    let command = names.join(" ");
    TABLE
        .iter()
        .find(|(name, _)| *name == command)
        .map_or(&[], |(_, examples)| examples)
}

/// Command and examples.
pub(crate) const TABLE: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "@ put greeting hello",
            "@ get greeting",
            "@ endpoint status --write-out=table",
        ],
    ),
    ("alarm", &["@ alarm list", "@ alarm disarm"]),
    (
        "alarm disarm",
        &[
            "@ alarm disarm",
            "@ alarm disarm --endpoints=127.0.0.1:2379",
        ],
    ),
    (
        "alarm list",
        &["@ alarm list", "@ alarm list --write-out=json"],
    ),
    (
        "auth",
        &["@ auth status", "@ user add root:secret", "@ auth enable"],
    ),
    (
        "auth disable",
        &["@ auth disable --user=root:secret", "@ auth status"],
    ),
    ("auth enable", &["@ user add root:secret", "@ auth enable"]),
    (
        "auth status",
        &["@ auth status", "@ auth status --write-out=json"],
    ),
    ("check", &["@ check perf", "@ check datascale --load=s"]),
    (
        "check datascale",
        &[
            "@ check datascale",
            "@ check datascale --load=m --auto-compact --auto-defrag",
        ],
    ),
    (
        "check perf",
        &["@ check perf", "@ check perf --load=m --auto-compact"],
    ),
    (
        "compaction",
        &["@ compaction 1", "@ compaction --physical 2"],
    ),
    (
        "completion",
        &[
            "@ completion bash > /etc/bash_completion.d/@",
            "@ completion fish | source",
        ],
    ),
    ("defrag", &["@ defrag", "@ defrag --cluster"]),
    (
        "del",
        &[
            "@ del greeting",
            "@ del --prefix --prev-kv jobs/",
            "@ del --range a m",
        ],
    ),
    (
        "downgrade",
        &["@ downgrade validate 3.6.0", "@ downgrade cancel"],
    ),
    (
        "downgrade cancel",
        &[
            "@ downgrade cancel",
            "@ downgrade cancel --command-timeout=30s",
        ],
    ),
    (
        "downgrade enable",
        &["@ downgrade validate 3.6.0", "@ downgrade enable 3.6.0"],
    ),
    (
        "downgrade validate",
        &[
            "@ downgrade validate 3.6.0",
            "@ downgrade validate 3.6.0 --write-out=json",
        ],
    ),
    (
        "elect",
        &["@ elect leader $(hostname)", "@ elect --listen leader"],
    ),
    (
        "endpoint",
        &[
            "@ endpoint health",
            "@ endpoint status --cluster --write-out=table",
        ],
    ),
    (
        "endpoint hashkv",
        &["@ endpoint hashkv", "@ endpoint hashkv --cluster --rev=1"],
    ),
    (
        "endpoint health",
        &[
            "@ endpoint health",
            "@ endpoint health --cluster --write-out=json",
        ],
    ),
    (
        "endpoint status",
        &[
            "@ endpoint status --write-out=table",
            "@ endpoint status --cluster",
        ],
    ),
    (
        "get",
        &[
            "@ get greeting",
            "@ get --prefix jobs/ --limit=10 --keys-only",
            "@ get greeting --write-out=json",
        ],
    ),
    ("lease", &["@ lease grant 60", "@ lease list"]),
    (
        "lease grant",
        &["@ lease grant 60", "@ lease grant 60 --write-out=json"],
    ),
    (
        "lease keep-alive",
        &[
            "@ lease keep-alive 32695410dcc0ca06",
            "@ lease keep-alive --once 32695410dcc0ca06",
        ],
    ),
    (
        "lease list",
        &["@ lease list", "@ lease list --write-out=fields --hex"],
    ),
    (
        "lease revoke",
        &[
            "@ lease revoke 32695410dcc0ca06",
            "@ lease revoke 32695410dcc0ca06 --write-out=json",
        ],
    ),
    (
        "lease timetolive",
        &[
            "@ lease timetolive 32695410dcc0ca06",
            "@ lease timetolive --keys 32695410dcc0ca06",
        ],
    ),
    (
        "lock",
        &[
            "@ lock backup",
            "@ lock backup -- /usr/local/bin/backup --all",
            "@ lock --ttl=30 backup sleep 5",
        ],
    ),
    (
        "make-mirror",
        &[
            "@ make-mirror 10.0.0.2:2379",
            "@ make-mirror --prefix=jobs/ --dest-prefix=copy/ 10.0.0.2:2379",
        ],
    ),
    (
        "man",
        &["@ man /usr/local/share/man/man1", "@ man . && man ./@.1"],
    ),
    (
        "member",
        &["@ member list", "@ member list --write-out=table"],
    ),
    (
        "member add",
        &[
            "@ member add second --peer-urls=http://10.0.0.2:2380",
            "@ member add third --learner --peer-urls=http://10.0.0.3:2380",
        ],
    ),
    (
        "member list",
        &[
            "@ member list",
            "@ member list --write-out=table",
            "@ member list --consistency=s",
        ],
    ),
    (
        "member promote",
        &["@ member list", "@ member promote 8e9e05c52164694d"],
    ),
    (
        "member remove",
        &["@ member list", "@ member remove 8e9e05c52164694d"],
    ),
    (
        "member update",
        &[
            "@ member list",
            "@ member update 8e9e05c52164694d --peer-urls=http://10.0.0.2:2380",
        ],
    ),
    (
        "move-leader",
        &[
            "@ endpoint status --cluster",
            "@ move-leader 8e9e05c52164694d",
        ],
    ),
    (
        "options",
        &[
            "@ options",
            "@ --endpoints=https://10.0.0.1:2379 --cacert=ca.pem get greeting",
        ],
    ),
    (
        "put",
        &[
            "@ put greeting hello",
            "@ put --lease=32695410dcc0ca06 here soon-gone",
            "@ put config < config.json",
        ],
    ),
    (
        "role",
        &[
            "@ role add reader",
            "@ role grant-permission --prefix reader read jobs/",
        ],
    ),
    ("role add", &["@ role add reader", "@ role list"]),
    ("role delete", &["@ role delete reader", "@ role list"]),
    (
        "role get",
        &["@ role get reader", "@ role get reader --write-out=json"],
    ),
    (
        "role grant-permission",
        &[
            "@ role grant-permission reader read greeting",
            "@ role grant-permission --prefix reader readwrite jobs/",
        ],
    ),
    (
        "role list",
        &["@ role list", "@ role list --write-out=json"],
    ),
    (
        "role revoke-permission",
        &[
            "@ role revoke-permission reader greeting",
            "@ role revoke-permission --prefix reader jobs/",
        ],
    ),
    (
        "snapshot",
        &[
            "@ snapshot save backup.db",
            "@ --endpoints=10.0.0.1:2379 snapshot save backup.db",
        ],
    ),
    (
        "snapshot restore",
        &[
            "@ snapshot restore backup.db --data-dir=/var/lib/ringd",
            "@ snapshot restore backup.db --data-dir=new --bump-revision=1000000 --mark-compacted",
        ],
    ),
    (
        "snapshot save",
        &[
            "@ snapshot save backup.db",
            "@ --endpoints=10.0.0.1:2379 snapshot save backup-$(date +%F).db",
        ],
    ),
    (
        "snapshot status",
        &[
            "@ snapshot status backup.db",
            "@ snapshot status backup.db --write-out=table",
        ],
    ),
    (
        "txn",
        &[
            "@ txn --interactive",
            "printf 'mod(\"greeting\") > \"0\"\\n\\nput greeting again\\n\\nput greeting first\\n\\n' | @ txn",
        ],
    ),
    (
        "user",
        &["@ user add ann:secret", "@ user grant-role ann reader"],
    ),
    (
        "user add",
        &[
            "@ user add ann:secret",
            "@ user add ann --new-user-password=secret",
            "@ user add ann --no-password",
        ],
    ),
    ("user delete", &["@ user delete ann", "@ user list"]),
    ("user get", &["@ user get ann", "@ user get ann --detail"]),
    (
        "user grant-role",
        &["@ role add reader", "@ user grant-role ann reader"],
    ),
    (
        "user list",
        &["@ user list", "@ user list --write-out=json"],
    ),
    (
        "user passwd",
        &[
            "@ user passwd ann",
            "echo secret | @ user passwd ann --interactive=false",
        ],
    ),
    (
        "user revoke-role",
        &["@ user get ann", "@ user revoke-role ann reader"],
    ),
    ("version", &["@ version", "@ endpoint status"]),
    (
        "watch",
        &[
            "@ watch greeting",
            "@ watch --prefix jobs/ --rev=1",
            "@ watch greeting -- sh -c 'echo $ETCD_WATCH_VALUE'",
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::super::spec::Command;
    use super::super::tree::{GLOBAL, ROOT};
    use super::*;

    /// The words of the call in an example, as a shell would split it.
    fn words(example: &str) -> Vec<String> {
        let call = &example[example.find(PROGRAM).unwrap() + 1..];
        let call = call.split(['>', '|', '<', '&']).next().unwrap();
        call.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn every_example_is_a_call() {
        static TREE: Command = ROOT;
        for (command, examples) in TABLE {
            for example in *examples {
                let words = words(example);
                let invocation = parse(&TREE, GLOBAL, &words)
                    .unwrap_or_else(|(_, failure)| panic!("{command}: {example}: {failure:?}"));
                let last = invocation.path[invocation.path.len() - 1];
                assert!(last.action.is_some(), "{example}");
            }
        }
    }
}
