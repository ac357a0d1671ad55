//! The verbs of `interaction/`: several nodes, the messages between them, and the output.

use raft::{
    ConfChange, ConfChangeGate, Config, Configuration, EntryKind, EntryMeta, Input, LogIndex,
    MemberId, Message, MessageBody, Position, ProposeError, Raft, Restored, SnapshotMeta,
    SnapshotOutcome, Term, Transition,
};

use crate::arithmetic::parse_changes;
use crate::ready::{Node, Outgoing, Output};
use crate::script::Block;
use crate::storage::Local;
use crate::text::{
    Level, Payload, describe_entry, describe_message, describe_refused_change, state_name,
};

/// A message under way, to the node with this id.
enum Travelling {
    Message(Outgoing),
    Local(MemberId, Local),
}

impl Travelling {
    fn to(&self) -> MemberId {
        match self {
            Travelling::Message(Outgoing::Message(message, _)) => message.to,
            Travelling::Message(Outgoing::Proposal { to, .. }) => *to,
            Travelling::Message(_) => MemberId(0),
            Travelling::Local(id, Local::Released(Outgoing::Message(message, _))) => {
                assert_ne!(message.to, *id, "replies go to others");
                message.to
            }
            Travelling::Local(id, _) => *id,
        }
    }

    /// True for what does not cross the network.
    fn is_local(&self) -> bool {
        let reply = matches!(
            self,
            Travelling::Local(_, Local::Released(Outgoing::Message(..)))
        );
        matches!(self, Travelling::Local(..)) && !reply
    }

    fn describe(&self) -> String {
        match self {
            Travelling::Message(outgoing) => outgoing.describe(MemberId(0)),
            Travelling::Local(id, local) => local.describe(*id),
        }
    }
}

const ELECTION_TICKS: u64 = 3;
const HEARTBEAT_TICKS: u64 = 1;

#[derive(Default)]
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    travelling: Vec<Travelling>,
    output: Output,
}

impl Cluster {
    pub(crate) fn run(&mut self, block: &Block) -> String {
        self.output.text.clear();
        self.dispatch(block);
        if self.output.text.is_empty() {
            return "ok\n".to_string();
        }
        std::mem::take(&mut self.output.text)
    }

    fn dispatch(&mut self, block: &Block) {
        let ids = block.ids();
        let first = ids.first().copied().unwrap_or(0);
        match block.command.as_str() {
            "_breakpoint" => {}
            "log-level" => self.output.level = Level::parse(&block.arguments[0].key),
            "add-nodes" => self.add_nodes(block),
            "campaign" => self.input(first, Input::Campaign),
            "forget-leader" => self.input(first, Input::ForgetLeader),
            "transfer-leadership" => {
                let from = block.number("from").expect("from");
                let target = MemberId(block.number("to").expect("to"));
                self.input(from, Input::TransferLeader { target });
            }
            "report-unreachable" => {
                let member = MemberId(ids[1]);
                self.input(first, Input::Unreachable { member });
            }
            "report-snapshot" | "report-snapshot-status" => {
                let member = MemberId(ids[1]);
                let outcome = SnapshotOutcome::Delivered;
                self.input(first, Input::SnapshotReport { member, outcome });
            }
            "tick-election" => self.tick(first, ELECTION_TICKS),
            "tick-heartbeat" => self.tick(first, HEARTBEAT_TICKS),
            "set-randomized-election-timeout" => {
                let timeout = block.number("timeout").expect("timeout");
                self.node(first).raft.set_election_timeout(timeout);
            }
            "propose" => {
                let text = block.arguments.get(1).map_or("", |it| it.key.as_str());
                let payload = Payload::Text(text.trim_matches('"').to_string());
                self.propose(first, EntryKind::Normal, payload);
            }
            "propose-conf-change" => self.propose_change(first, block),
            "stabilize" => self.stabilize(block),
            "process-ready" => self.for_each(&self.all_or(&ids), "handling Ready", Self::ready),
            "process-append-thread" => {
                self.for_each(&self.all_or(&ids), "processing append thread", Self::append);
            }
            "process-apply-thread" => {
                self.for_each(&self.all_or(&ids), "processing apply thread", Self::apply);
            }
            "deliver-msgs" => self.deliver_command(block),
            "send-snapshot" => self.send_snapshot(first, ids[1]),
            "raft-log" => self.print_log(first),
            "raft-state" => self.print_state(),
            "status" => self.print_status(first),
            "compact" => {
                let index = LogIndex(ids[1]);
                self.input(first, Input::Compact { index });
                self.print_log(first);
            }
            other => panic!("line {}: the harness has no verb {other}", block.line),
        }
    }

    fn node(&mut self, id: u64) -> &mut Node {
        &mut self.nodes[id as usize - 1]
    }

    fn all_or(&self, ids: &[u64]) -> Vec<u64> {
        if ids.is_empty() {
            (1..=self.nodes.len() as u64).collect()
        } else {
            ids.to_vec()
        }
    }

    fn input(&mut self, id: u64, input: Input<'_>) {
        self.nodes[id as usize - 1].step(input, &[], &mut self.output);
    }

    fn tick(&mut self, id: u64, ticks: u64) {
        for _ in 0..ticks {
            self.node(id).now += 1;
            let now_nanos = self.node(id).now;
            self.input(id, Input::Tick { now_nanos });
        }
    }

    fn add_nodes(&mut self, block: &Block) {
        let list = |key| -> Vec<MemberId> {
            let values = block.values(key).unwrap_or_default();
            values
                .iter()
                .map(|value| MemberId(value.parse().expect("an id")))
                .collect()
        };
        let configuration = Configuration::new(&list("voters"), &list("learners"));
        let index = LogIndex(block.number("index").unwrap_or(0));
        let term = Term(u64::from(index.0 > 0));
        for _ in 0..block.ids()[0] {
            let id = MemberId(self.nodes.len() as u64 + 1);
            let mut config = Config::new(id, id.0);
            config.election_timeout_nanos = ELECTION_TICKS;
            config.heartbeat_interval_nanos = HEARTBEAT_TICKS;
            config.pre_vote = block.flag("prevote");
            config.check_quorum = block.flag("checkquorum");
            config.campaign_at_start = false;
            config.step_down_on_removal = block.flag("step-down-on-removal");
            config.conf_change_gate = if block.flag("disable-conf-change-validation") {
                ConfChangeGate::Unchecked
            } else {
                ConfChangeGate::EarlierApplied
            };
            config.message_bytes_max = u64::MAX;
            config.uncommitted_bytes_max = u64::MAX;
            config.in_flight_bytes_max = u64::MAX;
            let inflight = block.number("inflight").unwrap_or(1 << 30);
            config.in_flight_messages_max = inflight as usize;
            config.checkpoint_raises_term = false;
            config.trace = true;
            let restored = Restored {
                checkpoint: Position { index, term },
                commit: index,
                applied: index,
                configuration: configuration.clone(),
                ..Restored::default()
            };
            let raft = Raft::new(config, restored).expect("an empty log");
            let mut node = Node::new(id, raft);
            node.asynchronous = block.flag("async-storage-writes");
            if let Some(size) = block.number("max-committed-size-per-ready") {
                node.committed_size_max = size;
            }
            node.take_actions(&[], &mut self.output);
            let peers: Vec<String> = configuration
                .voters
                .voters()
                .map(|voter| voter.0.to_string())
                .collect();
            let status = node.raft.status();
            let line = format!(
                "newRaft {id} [peers: [{}], term: {}, commit: {}, applied: {}, lastindex: {}, lastterm: {}]",
                peers.join(","),
                status.term,
                status.commit,
                status.applied,
                status.last.index,
                status.last.term
            );
            self.output.log(Level::Info, &line);
            self.nodes.push(node);
        }
    }

    // ---- proposals ----

    fn propose_change(&mut self, id: u64, block: &Block) {
        let transition = match block.value("transition") {
            None | Some("auto") => Transition::Auto,
            Some("implicit") => Transition::JointImplicit,
            Some("explicit") => Transition::JointExplicit,
            Some(other) => panic!("unknown transition {other}"),
        };
        let change = ConfChange {
            transition,
            changes: parse_changes(&block.input),
        };
        let kind = if block.flag("v1") {
            EntryKind::ConfChange
        } else {
            EntryKind::ConfChangeJoint
        };
        self.propose(id, kind, Payload::Change(change));
    }

    fn propose(&mut self, id: u64, kind: EntryKind, payload: Payload) {
        let node = &mut self.nodes[id as usize - 1];
        let outcome = match &payload {
            Payload::Text(text) => node.raft.propose(kind, text.len() as u64),
            Payload::Change(change) => {
                let bytes = change.encode().len() as u64;
                node.raft.propose_conf_change(kind, change, bytes)
            }
        };
        match outcome {
            Ok(entry) => {
                node.payloads.insert(entry.index.0, payload);
                node.take_actions(&[], &mut self.output);
            }
            Err(ProposeError::NotLeader { leader: Some(to) }) => {
                node.messages.push(Outgoing::Proposal {
                    from: node.id,
                    to,
                    kind,
                    payload,
                });
            }
            Err(
                error @ (ProposeError::ConfChangePending { .. }
                | ProposeError::JointNotLeft
                | ProposeError::NotJoint),
            ) => {
                let Payload::Change(change) = &payload else {
                    panic!("a text is no membership change");
                };
                let configuration = node.raft.configuration().clone();
                let line = describe_refused_change(node.id, change, &configuration, &error);
                self.output.log(Level::Info, &line);
                self.propose(id, EntryKind::Normal, Payload::Text(String::new()));
            }
            Err(_) => self.output.line("raft proposal dropped"),
        }
    }

    // ---- work ----

    fn for_each(&mut self, ids: &[u64], what: &str, work: fn(&mut Self, u64)) {
        for id in ids {
            if ids.len() == 1 {
                work(self, *id);
            } else {
                self.section(&format!("> {id} {what}"), |cluster| work(cluster, *id));
            }
        }
    }

    fn section(&mut self, title: &str, body: impl FnOnce(&mut Self)) {
        let mut output = std::mem::take(&mut self.output);
        self.output.level = output.level;
        body(self);
        let inner = std::mem::take(&mut self.output);
        output.section(title, |section| section.text = inner.text);
        self.output = output;
    }

    fn ready(&mut self, id: u64) {
        let node = &mut self.nodes[id as usize - 1];
        let ready = node.take_ready(&mut self.output);
        if node.asynchronous {
            let sent = ready.messages.into_iter().map(Travelling::Message);
            self.travelling.extend(sent);
            return;
        }
        node.apply(&ready.committed, &mut self.output);
        for outgoing in ready.messages.iter().chain(&ready.replies) {
            if matches!(outgoing, Outgoing::Message(..) | Outgoing::Proposal { .. }) {
                self.travelling.push(Travelling::Message(outgoing.clone()));
            }
        }
        node.advance(&ready, &mut self.output);
    }

    fn append(&mut self, id: u64) {
        let node = &mut self.nodes[id as usize - 1];
        let responses = node.process_append(&mut self.output);
        self.send_local(id, responses);
    }

    fn apply(&mut self, id: u64) {
        let node = &mut self.nodes[id as usize - 1];
        let responses = node.process_apply(&mut self.output);
        self.send_local(id, responses);
    }

    fn send_local(&mut self, id: u64, responses: Vec<Local>) {
        let from = MemberId(id);
        let sent = responses.into_iter().map(|it| Travelling::Local(from, it));
        self.travelling.extend(sent);
    }

    fn stabilize(&mut self, block: &Block) {
        let ids = self.all_or(&block.ids());
        let level = self.output.level;
        if let Some(name) = block.value("log-level") {
            self.output.level = Level::parse(name);
        }
        while self.stabilize_once(&ids) {}
        self.output.level = level;
    }

    fn stabilize_once(&mut self, ids: &[u64]) -> bool {
        let mut worked = false;
        for id in ids {
            if self.node(*id).has_ready() {
                worked = true;
                self.section(&format!("> {id} handling Ready"), |it| it.ready(*id));
            }
        }
        for id in ids {
            let waits = |message: &Travelling| message.to() == MemberId(*id);
            if self.travelling.iter().any(waits) {
                worked = true;
                self.section(&format!("> {id} receiving messages"), |it| {
                    it.deliver(*id, None, false);
                });
            }
        }
        for id in ids {
            if !self.node(*id).append_work.is_empty() {
                worked = true;
                self.section(&format!("> {id} processing append thread"), |it| {
                    while !it.node(*id).append_work.is_empty() {
                        it.append(*id);
                    }
                });
            }
        }
        for id in ids {
            if !self.node(*id).apply_work.is_empty() {
                worked = true;
                self.section(&format!("> {id} processing apply thread"), |it| {
                    while !it.node(*id).apply_work.is_empty() {
                        it.apply(*id);
                    }
                });
            }
        }
        worked
    }

    // ---- messages ----

    fn deliver_command(&mut self, block: &Block) {
        let kind = block.value("type").map(str::to_string);
        let mut delivered = 0;
        for argument in &block.arguments {
            if argument.key == "drop" {
                for id in &argument.values {
                    let id = id.parse().expect("an id");
                    delivered += self.deliver(id, kind.as_deref(), true);
                }
            } else if let Ok(id) = argument.key.parse() {
                delivered += self.deliver(id, kind.as_deref(), false);
            }
        }
        if delivered == 0 {
            self.output.line("no messages");
        }
    }

    fn deliver(&mut self, id: u64, kind: Option<&str>, drop: bool) -> usize {
        let mut kept = Vec::new();
        let mut arrived = Vec::new();
        for message in std::mem::take(&mut self.travelling) {
            let named = kind.is_none_or(|kind| message.describe().contains(&format!(" {kind} ")));
            let survives = drop && message.is_local();
            if message.to() == MemberId(id) && named && !survives {
                arrived.push(message);
            } else {
                kept.push(message);
            }
        }
        self.travelling = kept;
        let count = arrived.len();
        for message in arrived {
            let text = message.describe();
            if drop {
                self.output.line(&format!("dropped: {text}"));
            } else {
                self.output.line(&text);
                self.receive(id, message);
            }
        }
        count
    }

    fn receive(&mut self, id: u64, message: Travelling) {
        let outgoing = match message {
            Travelling::Message(outgoing)
            | Travelling::Local(_, Local::Released(outgoing @ Outgoing::Message(..))) => outgoing,
            Travelling::Local(_, local) => {
                self.nodes[id as usize - 1].receive_local(&local, &mut self.output);
                return;
            }
        };
        match outgoing {
            Outgoing::Message(message, entries) => {
                let metas: Vec<EntryMeta> = entries.iter().map(|(meta, _)| *meta).collect();
                let input = Input::Message {
                    message,
                    entries: &metas,
                };
                self.nodes[id as usize - 1].step(input, &entries, &mut self.output);
            }
            Outgoing::Proposal { kind, payload, .. } => self.propose(id, kind, payload),
            other => panic!("{other:?} does not cross the network"),
        }
    }

    fn send_snapshot(&mut self, from: u64, to: u64) {
        let status = self.node(from).raft.status();
        let index = status.applied;
        let term = self.node(from).raft.log().term_at(index);
        let snapshot = SnapshotMeta {
            position: Position {
                index,
                term: term.expect("the applied entry"),
            },
            configuration: status.configuration,
        };
        let message = Message {
            from: MemberId(from),
            to: MemberId(to),
            term: status.term,
            body: MessageBody::Snapshot(Box::new(snapshot)),
        };
        self.output.line(&describe_message(&message, &[]));
        let outgoing = Outgoing::Message(message, Vec::new());
        self.travelling.push(Travelling::Message(outgoing));
    }

    // ---- questions ----

    fn print_log(&mut self, id: u64) {
        let node = &self.nodes[id as usize - 1];
        let (first, last) = (node.raft.log().first_index(), node.raft.log().durable());
        let entries = node.entries(first, last);
        if entries.is_empty() {
            let line = format!("log is empty: first index={first}, last index={last}");
            self.output.line(&line);
        }
        for entry in &entries {
            self.output.line(&describe_entry(entry));
        }
    }

    fn print_state(&mut self) {
        for node in &self.nodes {
            let status = node.raft.status();
            let part = if status.configuration.voters.contains(node.id) {
                "Voter"
            } else {
                "Non-Voter"
            };
            self.output.line(&format!(
                "{}: {} ({part}) Term:{} Lead:{}",
                node.id,
                state_name(status.role),
                status.term,
                status.leader.map_or(0, |id| id.0)
            ));
        }
    }

    fn print_status(&mut self, id: u64) {
        let node = &self.nodes[id as usize - 1];
        for (member, progress) in node.raft.progress() {
            self.output.line(&format!("{member}: {progress}"));
        }
    }
}
