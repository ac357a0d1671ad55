//! What was appended, and the state after each entry.

use std::rc::Rc;

use bytes::Bytes;
use engine::auth::AuthorizedOperation;
use engine::command::{AlarmKind, Command, KeyValue, LeaseId, Operation, Put, Range};
use engine::entry::{EntryBuilder, RequestHead};
use engine::testing::{Defect, Node, NodeConfig, Oracle, Workload, authorized};

use crate::reader::everything;

/// Leases are drawn from these numbers.
pub(crate) const LEASES: i64 = 6;

/// An entry of the log.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub(crate) term: u64,
    pub(crate) data: Bytes,
    commands: Vec<Command>,
}

/// The state after an entry.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// Chain over the effects.
    pub(crate) apply_hash: u64,
    /// Hash of what is readable now.
    pub(crate) hash: u32,
    /// The naive etcd.
    pub(crate) oracle: Rc<Oracle>,
    /// All keys.
    pub(crate) kvs: Vec<KeyValue>,
}

/// The log as it was appended, and what it leads to.
///
/// Invariant: `states[i]` is the state after the first `i` entries; there may be entries without a state,
/// those that are not committed.
#[derive(Debug)]
pub(crate) struct Truth {
    seed: u64,
    given: Vec<Given>,
    states: Vec<State>,
    node: Node,
    oracle: Oracle,
}

/// The bytes of an entry of these commands.
pub(crate) fn entry_of(commands: &[Command]) -> Bytes {
    let mut builder = EntryBuilder::new();
    for (number, command) in (1..).zip(commands) {
        let operation = authorized(Operation::Write(command.clone()));
        let AuthorizedOperation::Write(command) = operation else {
            unreachable!("a write stays a write");
        };
        let head = RequestHead {
            request_id: number,
            origin_member: 2,
        };
        builder.push(head, &command);
    }
    builder.finish()
}

/// A put without options.
pub(crate) fn put(key: impl Into<Bytes>, value: impl Into<Bytes>, lease: LeaseId) -> Command {
    Command::Put(Put {
        key: key.into(),
        value: value.into(),
        lease,
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    })
}

fn empty_node(seed: u64) -> Node {
    let mut node = Node::new(NodeConfig {
        shards: crate::settings::SHARDS,
        seed,
        missing: None,
        defect: Defect::None,
    });
    node.stop_maintenance();
    node
}

impl Truth {
    pub(crate) fn new(seed: u64) -> Truth {
        let mut truth = Truth {
            seed,
            given: Vec::new(),
            states: Vec::new(),
            node: empty_node(seed),
            oracle: Oracle::new(),
        };
        truth.note_state();
        truth
    }

    fn note_state(&mut self) {
        let revision = self.oracle.revision();
        let hash = self.node.hash(revision).expect("the newest revision");
        let kvs = self.oracle.range(&Range::all(everything()));
        self.states.push(State {
            apply_hash: self.node.coordinator().apply_hash(),
            hash,
            oracle: Rc::new(self.oracle.clone()),
            kvs: kvs.expect("the newest revision").kvs,
        });
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> u64 {
        self.given.len() as u64
    }

    /// Entries that have a state.
    pub(crate) fn stated(&self) -> u64 {
        self.states.len() as u64 - 1
    }

    /// Entry `index`, from 1.
    pub(crate) fn given(&self, index: u64) -> Option<&Given> {
        self.given.get((index as usize).checked_sub(1)?)
    }

    /// The state after entry `index`.
    pub(crate) fn state(&self, index: u64) -> Option<&State> {
        self.states.get(index as usize)
    }

    /// An entry of random commands in the newest stated state.
    pub(crate) fn entry(&self, workload: &mut Workload, long: bool) -> (Bytes, Vec<Command>) {
        let count = [1, 1, 2, 3][workload.random().index(4)];
        let commands: Vec<Command> = (0..count).map(|_| self.command(workload, long)).collect();
        (entry_of(&commands), commands)
    }

    fn command(&self, workload: &mut Workload, long: bool) -> Command {
        let draw = workload.random().below(100);
        if draw < 55 {
            let mut key = workload.key().to_vec();
            if long {
                // Leaves are full after few of them.
                key.resize(600, b'.');
            }
            let len = [10, 10, 50, 100, 300, 300, 1500, 3500][workload.random().index(8)];
            let fill = workload.random().below(250) as u8;
            let leases = self.oracle.leases();
            let lease = match leases.first() {
                Some((lease, _)) if workload.random().one_in(3) => *lease,
                _ => LeaseId::NONE,
            };
            return put(key, vec![fill; len], lease);
        }
        if draw < 61 {
            let (compacted, revision) = (self.oracle.compact_revision(), self.oracle.revision());
            let near = (revision - 6).max(compacted).max(1);
            let revision = workload.random().between(near, revision);
            return Command::Compact { revision };
        }
        loop {
            let command = workload.command(&self.oracle);
            // An alarm for damage would end all writing.
            let ends_writing = matches!(
                command,
                Command::Alarm {
                    activate: true,
                    alarm: Some(AlarmKind::Corrupt),
                    ..
                }
            );
            if !ends_writing {
                return command;
            }
        }
    }

    /// Entry `index` is now this one; what stood there and behind is gone.
    ///
    /// # Panics
    /// If a state is replaced.
    pub(crate) fn give(&mut self, index: u64, term: u64, data: Bytes, commands: Vec<Command>) {
        assert!(index > self.stated(), "entry {index} is committed");
        self.given.truncate(index as usize - 1);
        assert_eq!(self.len() + 1, index, "entries come without gaps");
        self.given.push(Given {
            term,
            data,
            commands,
        });
    }

    /// Executes entries up to `index`.
    pub(crate) fn execute(&mut self, index: u64) {
        while self.stated() < index {
            let given = self.given[self.states.len() - 1].clone();
            for command in &given.commands {
                let _answer = self.oracle.apply(command);
            }
            self.node
                .apply(given.data)
                .expect("an entry that was built here");
            self.note_state();
        }
    }

    /// A crash left the log up to `index`.
    pub(crate) fn cut(&mut self, index: u64) {
        self.given.truncate(index as usize);
        if self.stated() > index {
            let through = index;
            *self = Truth {
                given: std::mem::take(&mut self.given),
                ..Truth::new(self.seed)
            };
            self.execute(through);
        }
    }
}
