//! Log entries: a batch of requests.
//!
//! What is accepted can be written again, and then reads the same.

use bytes::Bytes;
use engine::auth::{Identity, Policy, authorize_command};
use engine::command::*;
use engine::entry::{EntryBuilder, EntryError, EntryReader, EntryRequest, RequestHead};
use engine::key::KeyRange;

/// Reads `data` as an entry.
pub fn check(data: &[u8]) {
    match read(Bytes::copy_from_slice(data)) {
        Ok(requests) => {
            let again = read(write(&requests)).expect("what was accepted can be written");
            assert_eq!(again, requests);
        }
        Err(error) => drop(error.to_string()),
    }
}

fn read(entry: Bytes) -> Result<Vec<EntryRequest>, EntryError> {
    let reader = EntryReader::new(entry)?;
    // By its full name: an iterator has another `count`.
    let count = EntryReader::count(&reader);
    let requests = reader.collect::<Result<Vec<_>, _>>()?;
    assert_eq!(requests.len(), count as usize);
    Ok(requests)
}

fn write(requests: &[EntryRequest]) -> Bytes {
    let mut builder = EntryBuilder::new();
    for request in requests {
        let identity = Identity::User {
            name: request.user.clone(),
            auth_revision: request.auth_revision,
        };
        let command = authorize_command(request.command.clone(), &identity, &Policy::Disabled)
            .expect("nothing is refused without authentication");
        builder.push(request.head, &command);
    }
    builder.finish()
}

/// The bytes of an entry with these commands.
pub(crate) fn entry(commands: &[Command]) -> Bytes {
    let requests: Vec<EntryRequest> = commands
        .iter()
        .map(|command| EntryRequest {
            position: 0,
            head: RequestHead {
                request_id: 5,
                origin_member: 7,
            },
            user: Bytes::new(),
            auth_revision: 0,
            command: command.clone(),
        })
        .collect();
    write(&requests)
}

/// What the log gives back for `command`: the command itself, or an error.
pub(crate) fn through_the_log(command: &Command) -> Result<Command, EntryError> {
    let mut requests = read(entry(std::slice::from_ref(command)))?;
    Ok(requests.remove(0).command)
}

/// An empty entry, each command, and all of them.
pub fn seeds() -> Vec<Vec<u8>> {
    let commands = commands();
    let mut seeds = vec![entry(&[]).to_vec(), entry(&commands).to_vec()];
    for command in commands {
        seeds.push(entry(&[command]).to_vec());
    }
    seeds
}

fn commands() -> Vec<Command> {
    let key = || Bytes::from_static(b"key");
    let put = Put {
        key: key(),
        value: Bytes::from_static(b"value"),
        lease: LeaseId(4),
        prev_kv: true,
        ignore_value: false,
        ignore_lease: false,
    };
    let delete = DeleteRange {
        range: KeyRange::from_wire(key(), Bytes::from_static(b"\0")),
        prev_kv: true,
    };
    let range = Range {
        limit: 3,
        revision: 4,
        sort_order: SortOrder::Descend,
        sort_target: SortTarget::Mod,
        min_mod_revision: 2,
        count_only: true,
        ..Range::all(KeyRange::from_wire(key(), Bytes::from_static(b"z")))
    };
    let compare = |relation, target| Compare {
        range: KeyRange::single(key()),
        relation,
        target,
    };
    let inner = Txn {
        compare: Vec::new(),
        success: vec![TxnOperation::Range(range.clone())],
        failure: Vec::new(),
    };
    let txn = Txn {
        compare: vec![
            compare(Relation::Equal, CompareTarget::Version(1)),
            compare(Relation::Less, CompareTarget::Value(key())),
            compare(Relation::NotEqual, CompareTarget::Lease(9)),
        ],
        success: vec![
            TxnOperation::Put(put.clone()),
            TxnOperation::Range(range),
            TxnOperation::Txn(inner),
        ],
        failure: vec![TxnOperation::DeleteRange(delete.clone())],
    };
    vec![
        Command::Put(put),
        Command::DeleteRange(delete),
        Command::Txn(txn),
        Command::Compact { revision: 12 },
        Command::LeaseGrant {
            id: LeaseId(3),
            ttl: 60,
        },
        Command::LeaseRevoke { id: LeaseId(3) },
        Command::LeaseExpire {
            ids: vec![LeaseId(3), LeaseId(4)],
        },
        Command::Alarm {
            activate: true,
            member: 1,
            alarm: Some(AlarmKind::NoSpace),
        },
        Command::MemberAttributes(MemberAttributes {
            member: 1,
            name: "default".into(),
            client_urls: vec!["http://localhost:2379".into()],
        }),
        Command::ClusterVersion("3.7.0".into()),
    ]
}
