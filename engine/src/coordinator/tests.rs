use bytes::Bytes;

use super::*;
use crate::auth::{Identity, Policy, authorize_command};
use crate::checkpoint::{ManifestRef, Section};
use crate::entry::{EntryBuilder, RequestHead};
use crate::key::KeyRange;
use crate::shard::{Shard, shard_of};
use crate::step::Step;
use crate::store::StoreConfig;

const SHARDS: u16 = 4;

struct Engine {
    coordinator: Coordinator,
    shards: Vec<Shard>,
    index: u64,
}

impl Engine {
    fn new() -> Self {
        let shard = |number| Shard::new(StoreConfig::new(number, 1));
        Engine {
            coordinator: Coordinator::new(CoordinatorConfig { shards: SHARDS }),
            shards: (0..SHARDS).map(shard).collect(),
            index: 0,
        }
    }

    /// Executes an entry; answers with what was published and the requests that it took.
    fn apply(&mut self, commands: Vec<Command>) -> (Published, Vec<ShardRequest>) {
        self.index += 1;
        let pushed = self.coordinator.push_entry(self.index, entry_of(commands));
        pushed.expect("readable");
        let mut sent = Vec::new();
        loop {
            match self.coordinator.poll().expect("there is work") {
                CoordinatorOutput::Published(published) => return (published, sent),
                CoordinatorOutput::Frozen(_) => panic!("no freeze was asked for"),
                CoordinatorOutput::Shard { shard, request } => {
                    let Step::Ready(reply) = self.shards[usize::from(shard)].handle(&request)
                    else {
                        panic!("everything is in memory");
                    };
                    self.coordinator.on_reply(shard, reply);
                    sent.push(request);
                }
            }
        }
    }
}

/// A key of `shard`.
fn key(shard: u16, number: usize) -> Bytes {
    let keys = (0..).map(|number| Bytes::from(format!("key-{number}")));
    let mut keys = keys.filter(|key| shard_of(key, SHARDS) == shard);
    keys.nth(number).expect("there are keys in every shard")
}

fn put(key: Bytes) -> Put {
    Put {
        key,
        value: Bytes::from_static(b"value"),
        lease: LeaseId::NONE,
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    }
}

fn create(key: Bytes) -> Command {
    let range = KeyRange::single(key.clone());
    Command::Txn(Txn {
        compare: vec![Compare {
            range: range.clone(),
            relation: Relation::Equal,
            target: CompareTarget::Mod(0),
        }],
        success: vec![TxnOperation::Put(put(key))],
        failure: vec![TxnOperation::Range(Range::all(range))],
    })
}

fn succeeded(outcome: &Outcome) -> bool {
    matches!(&outcome.result, Ok(Reply::Txn(reply)) if reply.succeeded)
}

#[test]
fn plain_puts_take_one_message_per_shard() {
    let mut engine = Engine::new();
    let puts = (0..40).map(|number| Command::Put(put(key(number as u16 % SHARDS, number / 4))));
    let (published, sent) = engine.apply(puts.collect());
    assert_eq!(sent.len(), usize::from(SHARDS));
    assert!(
        sent.iter()
            .all(|request| matches!(request, ShardRequest::Apply { .. }))
    );
    let revisions: Vec<i64> = published.outcomes.iter().map(|o| o.revision).collect();
    assert_eq!(revisions, (2..42).collect::<Vec<_>>());
    assert_eq!((published.events_from, published.events_to), (2, 41));
}

#[test]
fn the_keys_of_an_entry_are_known_before_it_runs() {
    let mut engine = Engine::new();
    engine.apply(vec![Command::Put(put(key(3, 0)))]);
    let both = Command::Txn(Txn {
        compare: vec![Compare {
            range: KeyRange::single(key(0, 1)),
            relation: Relation::Equal,
            target: CompareTarget::Mod(0),
        }],
        success: vec![TxnOperation::Txn(Txn {
            compare: Vec::new(),
            success: vec![TxnOperation::Put(put(key(1, 1)))],
            failure: Vec::new(),
        })],
        failure: vec![TxnOperation::Range(Range::all(KeyRange::single(key(2, 1))))],
    });
    let delete = Command::DeleteRange(DeleteRange {
        range: KeyRange {
            start: key(1, 2),
            end: crate::key::End::Unbounded,
        },
        prev_kv: false,
    });
    let compact = Command::Compact { revision: 2 };
    let commands = vec![Command::Put(put(key(3, 1))), compact, both, delete];
    let pushed = engine.coordinator.push_entry(2, entry_of(commands));
    pushed.expect("readable");
    let mut named = Vec::new();
    let coordinator = &engine.coordinator;
    coordinator.for_each_key_ahead(&mut |shard, key| named.push((shard, key.clone())));
    let expected = [(3, 1), (0, 1), (1, 1), (2, 1), (1, 2)];
    assert_eq!(
        named,
        expected.map(|(shard, number)| (shard, key(shard, number)))
    );
}

#[test]
fn operations_are_changes_and_requests_without() {
    let mut engine = Engine::new();
    let several = Command::Txn(Txn {
        compare: Vec::new(),
        success: (0..SHARDS)
            .map(|shard| TxnOperation::Put(put(key(shard, 7))))
            .collect(),
        failure: Vec::new(),
    });
    let puts = (0..3).map(|number| Command::Put(put(key(0, number))));
    let (published, _) = engine.apply(puts.chain([several, create(key(0, 0))]).collect());
    assert_eq!(published.requests, 5);
    assert_eq!(published.operations, 3 + 4 + 1);
}

#[test]
fn guarded_requests_of_one_shard_take_one_message_even_on_one_key() {
    let mut engine = Engine::new();
    let (published, sent) = engine.apply(vec![create(key(1, 0)), create(key(1, 0))]);
    assert!(matches!(sent[..], [ShardRequest::Execute(_)]));
    assert!(succeeded(&published.outcomes[0]));
    assert!(!succeeded(&published.outcomes[1]));
    assert_eq!(published.outcomes[1].revision, 2);
}

#[test]
fn a_wave_over_shards_is_cut_before_a_key_it_writes() {
    let mut engine = Engine::new();
    let commands = vec![create(key(0, 0)), create(key(1, 0)), create(key(0, 0))];
    let (published, sent) = engine.apply(commands);
    let executes = |request: &&ShardRequest| matches!(request, ShardRequest::Execute(_));
    assert_eq!(sent.len(), 5, "evaluate twice, apply twice, execute");
    assert_eq!(sent.iter().filter(executes).count(), 1);
    let winners: Vec<bool> = published.outcomes.iter().map(succeeded).collect();
    assert_eq!(winners, [true, true, false]);
}

#[test]
fn a_no_op_moves_only_the_index() {
    let mut engine = Engine::new();
    let before = engine.coordinator.apply_hash();
    engine
        .coordinator
        .push_entry(1, Bytes::new())
        .expect("an empty entry is a no-op");
    let Some(CoordinatorOutput::Published(published)) = engine.coordinator.poll() else {
        panic!("a no-op needs no shard");
    };
    let applied = Applied {
        index: 1,
        revision: 1,
    };
    assert_eq!(published.applied, applied);
    assert!(published.outcomes.is_empty());
    assert!(published.events_from > published.events_to);
    assert_ne!(engine.coordinator.apply_hash(), before);
    assert!(engine.coordinator.poll().is_none());
}

#[test]
fn an_unreadable_entry_changes_nothing() {
    let mut engine = Engine::new();
    let garbage = Bytes::from_static(&[9; 20]);
    let refused = engine.coordinator.push_entry(1, garbage);
    assert!(matches!(refused, Err(EntryError::UnknownVersion { .. })));
    assert!(engine.coordinator.poll().is_none());
    let (published, _) = engine.apply(vec![Command::Put(put(key(0, 0)))]);
    assert_eq!(published.applied.index, 1);
}

#[test]
fn a_first_compaction_at_zero_passes_as_in_etcd() {
    let mut engine = Engine::new();
    let compact = |revision| Command::Compact { revision };
    let (published, _) = engine.apply(vec![compact(0), compact(0), compact(2)]);
    let results: Vec<_> = published
        .outcomes
        .into_iter()
        .map(|outcome| outcome.result)
        .collect();
    let expected = [
        Ok(Reply::Compact),
        Err(CommandError::Compacted),
        Err(CommandError::FutureRevision),
    ];
    assert_eq!(results, expected);
    assert_eq!(published.compacted, Some(0));
}

/// Answers `request` from the shard it is for.
fn answer(engine: &mut Engine, shard: u16, request: &ShardRequest) {
    let Step::Ready(reply) = engine.shards[usize::from(shard)].handle(request) else {
        panic!("everything is in memory");
    };
    engine.coordinator.on_reply(shard, reply);
}

fn entry_of(commands: Vec<Command>) -> Bytes {
    let mut builder = EntryBuilder::new();
    for command in commands {
        let command = authorize_command(command, &Identity::Member, &Policy::Disabled);
        builder.push(RequestHead::default(), &command.expect("allowed"));
    }
    builder.finish()
}

#[test]
fn a_freeze_stands_between_two_entries() {
    let mut engine = Engine::new();
    // Two waves: the third request touches what the first writes.
    let first = entry_of(vec![
        create(key(0, 0)),
        create(key(1, 0)),
        create(key(0, 0)),
    ]);
    let second = entry_of(vec![Command::Put(put(key(2, 0)))]);
    let coordinator = &mut engine.coordinator;
    coordinator.push_entry(1, first).expect("readable");
    coordinator.push_entry(2, second).expect("readable");
    let mut published = Vec::new();
    let mut frozen = None;
    let mut asked = Vec::new();
    let mut sent = 0;
    loop {
        while let Some(output) = engine.coordinator.poll() {
            match output {
                CoordinatorOutput::Published(done) => published.push(done.applied.index),
                CoordinatorOutput::Frozen(state) => frozen = Some((state, published.len())),
                CoordinatorOutput::Shard { shard, request } => {
                    let freezes = matches!(request, ShardRequest::Freeze { .. });
                    assert_eq!(freezes, published.len() == 1 && frozen.is_none());
                    if let ShardRequest::Freeze { id, attachment } = &request {
                        assert_eq!(*id, 5);
                        assert_eq!(attachment.is_empty(), shard != 0);
                    }
                    sent += 1;
                    // In the middle of the first entry.
                    if sent == 1 {
                        engine.coordinator.freeze(5);
                    }
                    asked.push((shard, request));
                }
            }
        }
        let Some((shard, request)) = asked.pop() else {
            break;
        };
        answer(&mut engine, shard, &request);
    }
    assert_eq!(published, [1, 2]);
    let (state, after) = frozen.expect("all shards have answered");
    assert_eq!(after, 1, "before the second entry");
    let applied = Applied {
        index: 1,
        revision: 3,
    };
    assert_eq!((state.id, state.applied), (5, applied));
    assert_eq!(state.compact_revision, -1);
    assert_ne!(state.apply_hash, engine.coordinator.apply_hash());
}

/// Entries that use everything the coordinator keeps.
fn history() -> Vec<Vec<Command>> {
    let leased = |number, lease| {
        Command::Put(Put {
            lease: LeaseId(lease),
            ..put(key(number as u16 % SHARDS, number))
        })
    };
    let grant = |id| Command::LeaseGrant {
        id: LeaseId(id),
        ttl: 60,
    };
    let alarm = |activate| Command::Alarm {
        activate,
        member: 3,
        alarm: Some(AlarmKind::NoSpace),
    };
    let member = MemberAttributes {
        member: 3,
        name: "three".to_owned(),
        client_urls: vec!["http://three:2379".to_owned()],
    };
    vec![
        vec![grant(1), grant(2), grant(3)],
        vec![leased(0, 1), leased(1, 1), leased(2, 2), leased(3, 3)],
        vec![Command::MemberAttributes(member)],
        vec![Command::ClusterVersion("3.7.0".to_owned())],
        vec![Command::Compact { revision: 3 }, alarm(true)],
        vec![leased(4, 2)],
        vec![
            Command::LeaseRevoke { id: LeaseId(1) },
            Command::LeaseRevoke { id: LeaseId(1) },
        ],
        vec![alarm(false), create(key(0, 0)), create(key(1, 9))],
        vec![leased(5, 1), leased(5, 2), grant(2), grant(1)],
        vec![
            Command::Compact { revision: 3 },
            Command::Compact { revision: 6 },
        ],
        vec![Command::LeaseExpire {
            ids: vec![LeaseId(2), LeaseId(3)],
        }],
        vec![],
    ]
}

#[test]
fn a_restored_coordinator_goes_on_as_if_it_had_applied_everything() {
    let entries = history();
    let mut whole = Engine::new();
    let published: Vec<Published> = entries.iter().map(|e| whole.apply(e.clone()).0).collect();
    for cut in 0..=entries.len() {
        let mut engine = Engine::new();
        for entry in &entries[..cut] {
            engine.apply(entry.clone());
        }
        engine.coordinator.freeze(1);
        let (mut kept, mut frozen) = (Bytes::new(), None);
        while let Some(output) = engine.coordinator.poll() {
            match output {
                CoordinatorOutput::Shard { shard, request } => {
                    if let (0, ShardRequest::Freeze { attachment, .. }) = (shard, &request) {
                        kept = attachment.to_bytes();
                    }
                    answer(&mut engine, shard, &request);
                }
                CoordinatorOutput::Frozen(state) => frozen = Some(state),
                CoordinatorOutput::Published(_) => panic!("nothing was pushed"),
            }
        }
        let frozen = frozen.expect("all shards have answered");
        let section = frozen.section(vec![ManifestRef::default(); usize::from(SHARDS)]);
        let config = CoordinatorConfig { shards: SHARDS };
        let restored = Coordinator::restore(config, frozen.applied.index, &section, &kept);
        engine.coordinator = restored.expect("readable");
        for (entry, expected) in entries[cut..].iter().zip(&published[cut..]) {
            assert_eq!(engine.apply(entry.clone()).0, *expected, "cut at {cut}");
        }
        let (one, other) = (&engine.coordinator, &whole.coordinator);
        assert_eq!(one.apply_hash(), other.apply_hash(), "cut at {cut}");
        assert_eq!(one.applied(), other.applied());
        assert_eq!(one.compact_revision(), other.compact_revision());
        assert_eq!(one.leases(), other.leases());
        assert_eq!(one.alarms(), other.alarms());
        assert!(one.members().eq(other.members()));
        assert_eq!(one.cluster_version(), other.cluster_version());
    }
}

#[test]
#[should_panic(expected = "entry 4 follows 4")]
fn a_restored_coordinator_takes_the_next_entry_only() {
    let section = Section {
        revision: 1,
        compact_revision: -1,
        apply_hash: 0,
        manifests: vec![ManifestRef::default(); usize::from(SHARDS)],
    };
    let config = CoordinatorConfig { shards: SHARDS };
    let attachment = attachment::encode(&Meta::default()).to_bytes();
    let restored = Coordinator::restore(config, 4, &section, &attachment);
    let pushed = restored.expect("readable").push_entry(4, Bytes::new());
    pushed.expect("not reached");
}
