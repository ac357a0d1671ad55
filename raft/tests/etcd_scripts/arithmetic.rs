//! The verbs of `quorum/` and `confchange/`.

use raft::{
    Change, ChangeKind, Configuration, Joint, LogIndex, Majority, MemberId, Membership, VoteResult,
};

use crate::script::Block;

fn voters(block: &Block, key: &str) -> Option<Vec<MemberId>> {
    let values = block.values(key)?;
    if values == ["zero"] {
        return Some(Vec::new());
    }
    Some(
        values
            .iter()
            .map(|value| MemberId(value.parse().expect("an id")))
            .collect(),
    )
}

/// Ids in the order in which the values of `votes` or `idx` belong to them: each id once, the
/// first configuration first.
fn in_order(first: &[MemberId], second: &[MemberId]) -> Vec<MemberId> {
    let mut order: Vec<MemberId> = Vec::new();
    for id in first.iter().chain(second) {
        if !order.contains(id) {
            order.push(*id);
        }
    }
    order
}

pub(crate) fn quorum(block: &Block) -> String {
    let first = voters(block, "cfg").unwrap_or_default();
    let second = voters(block, "cfgj");
    let order = in_order(&first, second.as_deref().unwrap_or_default());
    let joint = Joint {
        incoming: Majority::new(&first),
        outgoing: Majority::new(second.as_deref().unwrap_or_default()),
    };
    match block.command.as_str() {
        "vote" => {
            let values = block.values("votes").unwrap_or_default();
            let vote = |id: MemberId| {
                let place = order.iter().position(|it| *it == id)?;
                match values[place].as_str() {
                    "y" => Some(true),
                    "n" => Some(false),
                    _ => None,
                }
            };
            let result = match second {
                Some(_) => joint.vote(vote),
                None => joint.incoming.vote(vote),
            };
            match result {
                VoteResult::Won => "VoteWon\n".to_string(),
                VoteResult::Lost => "VoteLost\n".to_string(),
                VoteResult::Pending => "VotePending\n".to_string(),
            }
        }
        "committed" => {
            let values = block.values("idx").unwrap_or_default();
            let known = |id: MemberId| -> Option<u64> {
                let place = order.iter().position(|it| *it == id)?;
                values.get(place)?.parse().ok()
            };
            committed_text(&joint, second.is_some(), &known)
        }
        other => panic!("line {}: unknown command {other}", block.line),
    }
}

/// A bar per voter: how many others it is ahead of; `?` where nothing is known.
fn committed_text(
    joint: &Joint,
    is_joint: bool,
    known: &dyn Fn(MemberId) -> Option<u64>,
) -> String {
    let everyone: Vec<MemberId> = joint.voters().collect();
    let mut text = String::new();
    if everyone.is_empty() {
        text.push_str("<empty majority quorum>");
    } else {
        text.push_str(&" ".repeat(everyone.len()));
        text.push_str("    idx\n");
        for id in &everyone {
            let own = known(*id);
            let behind = |other: &&MemberId| known(**other).unwrap_or(0) < own.unwrap_or(0);
            let ahead = everyone.iter().filter(behind).count();
            match own {
                None => {
                    text.push('?');
                    text.push_str(&" ".repeat(everyone.len()));
                }
                Some(_) => {
                    text.push_str(&"x".repeat(ahead));
                    text.push('>');
                    text.push_str(&" ".repeat(everyone.len() - ahead));
                }
            }
            text.push_str(&format!(" {:>5}    (id={})\n", own.unwrap_or(0), id.0));
        }
    }
    let reached = |id: MemberId| LogIndex(known(id).unwrap_or(0));
    let index = if is_joint {
        joint.committed(reached)
    } else {
        joint.incoming.committed(reached)
    };
    match index {
        Some(index) => text.push_str(&format!("{index}\n")),
        None => text.push_str("∞\n"),
    }
    text
}

/// `v1 l2 r3 u4`: add voter, add learner, remove, update.
pub(crate) fn parse_changes(text: &str) -> Vec<Change> {
    text.split_whitespace()
        .map(|word| {
            let (letter, id) = word.split_at(1);
            let kind = match letter {
                "v" => ChangeKind::AddVoter,
                "l" => ChangeKind::AddLearner,
                "r" => ChangeKind::Remove,
                "u" => ChangeKind::Update,
                other => panic!("unknown change {other}"),
            };
            let member = MemberId(id.parse().expect("an id"));
            Change { kind, member }
        })
        .collect()
}

/// One configuration, changed step by step; each command stands for one more log entry.
pub(crate) struct Changer {
    membership: Membership,
    last: u64,
}

impl Changer {
    pub(crate) fn new() -> Changer {
        Changer {
            membership: Membership::new(Configuration::default(), LogIndex(0), 10, 1 << 20),
            last: 0,
        }
    }

    pub(crate) fn run(&mut self, block: &Block) -> String {
        let changes = parse_changes(&block.input);
        let next = LogIndex(self.last);
        self.last += 1;
        let outcome = match block.command.as_str() {
            "simple" => self.membership.simple(&changes, next),
            "enter-joint" => {
                let auto_leave = block.flag("autoleave");
                self.membership.enter_joint(auto_leave, &changes, next)
            }
            "leave-joint" => self.membership.leave_joint(),
            other => panic!("line {}: unknown command {other}", block.line),
        };
        self.membership.check();
        if let Err(error) = outcome {
            return format!("{error}\n");
        }
        let mut text = format!("{}\n", self.membership.configuration);
        for (id, progress) in self.membership.progress.iter() {
            text.push_str(&format!("{}: {progress}\n", id.0));
        }
        text
    }
}
