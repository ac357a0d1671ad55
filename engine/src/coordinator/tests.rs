use bytes::Bytes;

use super::*;
use crate::auth::{Identity, Policy, authorize_command};
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
        let mut builder = EntryBuilder::new();
        for command in commands {
            let command = authorize_command(command, &Identity::Member, &Policy::Disabled);
            builder.push(RequestHead::default(), &command.expect("allowed"));
        }
        self.index += 1;
        let pushed = self.coordinator.push_entry(self.index, builder.finish());
        pushed.expect("readable");
        let mut sent = Vec::new();
        loop {
            match self.coordinator.poll().expect("there is work") {
                CoordinatorOutput::Published(published) => return (published, sent),
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
