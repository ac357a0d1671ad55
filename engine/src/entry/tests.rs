use bytes::Bytes;

use super::*;
use crate::auth::{Identity, Policy, authorize_command};
use crate::command::*;
use crate::key::KeyRange;

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn put(key: &'static str, value: &'static str) -> Put {
    Put {
        key: text(key),
        value: text(value),
        lease: LeaseId::NONE,
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    }
}

fn entry(commands: &[Command]) -> Bytes {
    let mut builder = EntryBuilder::new();
    for (index, command) in commands.iter().enumerate() {
        let head = RequestHead {
            request_id: 100 + index as u64,
            origin_member: 7,
        };
        let command = authorize_command(command.clone(), &Identity::Anonymous, &Policy::Disabled)
            .expect("auth is disabled");
        assert_eq!(builder.push(head, &command), index as u32);
    }
    assert_eq!(builder.count() as usize, commands.len());
    let len_bytes = builder.len_bytes();
    let entry = builder.finish();
    assert_eq!(entry.len(), len_bytes);
    assert!(builder.is_empty());
    entry
}

fn read(entry: Bytes) -> Result<Vec<EntryRequest>, EntryError> {
    EntryReader::new(entry)?.collect()
}

fn every_command() -> Vec<Command> {
    let range = Range {
        limit: 3,
        revision: -4,
        sort_order: SortOrder::Descend,
        sort_target: SortTarget::Value,
        serializable: true,
        keys_only: true,
        count_only: true,
        min_mod_revision: 5,
        max_mod_revision: 6,
        min_create_revision: 7,
        max_create_revision: 8,
        ..Range::all(KeyRange::from_wire(text("a"), text("b")))
    };
    let compares = [
        CompareTarget::Version(1),
        CompareTarget::Create(2),
        CompareTarget::Mod(3),
        CompareTarget::Value(text("v")),
        CompareTarget::Lease(4),
    ];
    let relations = [
        Relation::Equal,
        Relation::Greater,
        Relation::Less,
        Relation::NotEqual,
        Relation::Equal,
    ];
    let compare = compares.into_iter().zip(relations);
    let compare = compare.map(|(target, relation)| Compare {
        range: KeyRange::from_wire(text("k"), text("\0")),
        relation,
        target,
    });
    let txn = Txn {
        compare: compare.collect(),
        success: vec![
            TxnOperation::Range(range),
            TxnOperation::Put(Put {
                lease: LeaseId(-9),
                prev_kv: true,
                ..put("k", "v")
            }),
            TxnOperation::Txn(Txn {
                compare: Vec::new(),
                success: Vec::new(),
                failure: vec![TxnOperation::Range(Range::all(KeyRange::single(text(
                    "one",
                ))))],
            }),
        ],
        failure: vec![TxnOperation::DeleteRange(DeleteRange {
            range: KeyRange::single(text("gone")),
            prev_kv: true,
        })],
    };
    vec![
        Command::Put(Put {
            ignore_value: true,
            ignore_lease: true,
            ..put("key", "")
        }),
        Command::DeleteRange(DeleteRange {
            range: KeyRange::from_wire(text("a"), text("z")),
            prev_kv: false,
        }),
        Command::Txn(txn),
        Command::Compact { revision: 12 },
        Command::LeaseGrant {
            id: LeaseId(i64::MAX),
            ttl: 60,
        },
        Command::LeaseRevoke { id: LeaseId(2) },
        Command::LeaseExpire {
            ids: vec![LeaseId(3), LeaseId(4)],
        },
        Command::Alarm {
            activate: true,
            member: u64::MAX,
            alarm: Some(AlarmKind::Corrupt),
        },
        Command::Alarm {
            activate: false,
            member: 0,
            alarm: None,
        },
        Command::MemberAttributes(MemberAttributes {
            member: 5,
            name: "default".into(),
            client_urls: vec!["http://localhost:2379".into(), "unix:///tmp/s".into()],
        }),
        Command::ClusterVersion("3.7.0".into()),
    ]
}

#[test]
fn a_put_has_the_documented_bytes() {
    let entry = entry(&[Command::Put(Put {
        lease: LeaseId(0x0102),
        prev_kv: true,
        ..put("key", "value")
    })]);
    let expected = [
        &[1, 0, 0, 0, 1, 0, 0, 0][..],
        &[57, 0, 0, 0, 1, 0, 0, 0],
        &[100, 0, 0, 0, 0, 0, 0, 0],
        &[7, 0, 0, 0, 0, 0, 0, 0],
        &[0; 8],
        &[9, 2, 1, 0, 0, 0, 0, 0, 0],
        &[3, 0, 0, 0],
        b"key",
        &[5, 0, 0, 0],
        b"value",
    ]
    .concat();
    assert_eq!(entry.as_ref(), expected);
}

#[test]
fn every_command_comes_back() {
    let commands = every_command();
    let requests = read(entry(&commands)).expect("what was written can be read");
    assert_eq!(requests.len(), commands.len());
    for (index, (request, command)) in requests.iter().zip(&commands).enumerate() {
        assert_eq!(request.position as usize, index);
        assert_eq!(request.head.request_id, 100 + index as u64);
        assert_eq!(request.head.origin_member, 7);
        assert_eq!(request.command, *command);
    }
}

#[test]
fn user_and_auth_revision_come_back() {
    let identity = Identity::User {
        name: text("alice"),
        auth_revision: 17,
    };
    let command = Command::Compact { revision: 3 };
    let command = authorize_command(command, &identity, &Policy::Disabled).expect("allowed");
    let mut builder = EntryBuilder::new();
    builder.push(RequestHead::default(), &command);
    let requests = read(builder.finish()).expect("readable");
    assert_eq!(requests[0].user.as_ref(), b"alice");
    assert_eq!(requests[0].auth_revision, 17);
}

#[test]
fn keys_and_values_are_slices_of_the_entry() {
    let entry = entry(&[Command::Put(put("key", "value"))]);
    let requests = read(entry.clone()).expect("readable");
    let Command::Put(put) = &requests[0].command else {
        panic!("a put stays a put");
    };
    let within = entry.as_ptr_range();
    assert!(within.contains(&put.key.as_ptr()));
    assert!(within.contains(&put.value.as_ptr()));
}

#[test]
fn unknown_versions_and_kinds_say_so() {
    let good = entry(&[Command::Put(put("key", "value"))]);
    let mut newer = good.to_vec();
    newer[0] = 9;
    let error = read(newer.into()).expect_err("unknown version");
    assert_eq!(error, EntryError::UnknownVersion { version: 9 });
    assert!(error.to_string().contains("run a newer ringd"));

    let mut kind = good.to_vec();
    kind[ENTRY_HEADER_BYTES + 4] = 200;
    let error = read(kind.into()).expect_err("unknown kind");
    let expected = EntryError::UnknownKind {
        position: 0,
        kind: 200,
    };
    assert_eq!(error, expected);
}

#[test]
fn every_cut_is_an_error() {
    let good = entry(&every_command());
    for len in 0..good.len() {
        assert!(read(good.slice(..len)).is_err(), "cut to {len} bytes");
    }
    let mut longer = good.to_vec();
    longer.push(0);
    assert!(matches!(
        read(longer.into()),
        Err(EntryError::Trailing { .. })
    ));
}

#[test]
fn damaged_bytes_never_panic() {
    let good = entry(&every_command());
    for offset in 0..good.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff, good[offset] ^ 4] {
            let mut damaged = good.to_vec();
            damaged[offset] = value;
            let _requests = read(damaged.into());
        }
    }
}

#[test]
fn empty_and_oversized_keys_are_refused() {
    for len in [0, KEY_BYTES_MAX + 1] {
        let command = Command::Put(Put {
            key: vec![b'k'; len].into(),
            ..put("", "")
        });
        assert!(matches!(
            read(entry(&[command])),
            Err(EntryError::Invalid { what, .. }) if what == "key length"
        ));
    }
}

#[test]
fn transactions_nest_down_to_the_limit() {
    let nested = |depth: usize| {
        let mut txn = Txn {
            compare: Vec::new(),
            success: Vec::new(),
            failure: Vec::new(),
        };
        for _ in 1..depth {
            txn = Txn {
                compare: Vec::new(),
                success: vec![TxnOperation::Txn(txn)],
                failure: Vec::new(),
            };
        }
        read(entry(&[Command::Txn(txn)]))
    };
    assert!(nested(TXN_DEPTH_MAX).is_ok());
    assert!(nested(TXN_DEPTH_MAX + 1).is_err());
}
