//! One node of a script: the core, its payloads, and the `Ready` that its actions add up to.

use std::collections::{BTreeMap, VecDeque};

use raft::{
    Action, ConfChange, EntryKind, EntryMeta, Input, LogIndex, MemberId, Message, MessageBody,
    Raft, Role, SnapshotMeta, StepError, Term, Trace, Vote,
};

use crate::storage::{AppendWork, ApplyWork};
use crate::text::{Entry, Level, Payload, describe_entry, describe_message, describe_snapshot};
use crate::text::{describe_trace, state_name, vote_number};

/// What a node waits to send or to hear from itself.
#[derive(Clone, Debug)]
pub(crate) enum Outgoing {
    /// To another node, with the entries of an append.
    Message(Message, Vec<Entry>),
    /// A proposal on its way to the leader.
    Proposal {
        from: MemberId,
        to: MemberId,
        kind: EntryKind,
        payload: Payload,
    },
    /// The own vote, which counts when the hard state is durable.
    OwnVote { term: Term },
    /// The own pre-vote; the lines about it are `Node::deferred`.
    OwnPreVote { term: Term },
    /// A leader's acknowledgement of its own entries.
    OwnAck { term: Term, index: LogIndex },
}

impl Outgoing {
    pub(crate) fn describe(&self, id: MemberId) -> String {
        match self {
            Outgoing::Message(message, entries) => describe_message(message, entries),
            Outgoing::Proposal {
                from,
                to,
                kind,
                payload,
            } => {
                let meta = EntryMeta {
                    index: LogIndex(0),
                    term: Term(0),
                    kind: *kind,
                    bytes: 0,
                };
                let entry = describe_entry(&(meta, payload.clone()));
                format!("{from}->{to} MsgProp Term:0 Log:0/0 Entries:[{entry}]")
            }
            Outgoing::OwnVote { term } => {
                format!("{id}->{id} MsgVoteResp Term:{term} Log:0/0")
            }
            Outgoing::OwnPreVote { term } => {
                format!("{id}->{id} MsgPreVoteResp Term:{term} Log:0/0")
            }
            Outgoing::OwnAck { term, index } => {
                format!("{id}->{id} MsgAppResp Term:{term} Log:0/{index}")
            }
        }
    }
}

/// Output with a level, as etcd's logger and handlers share it.
#[derive(Default)]
pub(crate) struct Output {
    pub(crate) text: String,
    pub(crate) level: Level,
}

impl Output {
    pub(crate) fn line(&mut self, line: &str) {
        if self.level != Level::None {
            self.text.push_str(line);
            self.text.push('\n');
        }
    }

    pub(crate) fn log(&mut self, level: Level, text: &str) {
        if level >= self.level {
            self.line(&format!("{} {text}", level.name()));
        }
    }

    /// Runs `body` with its lines indented under a title.
    pub(crate) fn section(&mut self, title: &str, body: impl FnOnce(&mut Output)) {
        self.line(title);
        let before = std::mem::take(&mut self.text);
        body(self);
        let inner = std::mem::replace(&mut self.text, before);
        for line in inner.lines() {
            self.line(&format!("  {line}"));
        }
    }
}

type Hard = (Term, Vote, LogIndex);

pub(crate) struct Node {
    pub(crate) id: MemberId,
    pub(crate) raft: Raft,
    pub(crate) now: u64,
    pub(crate) asynchronous: bool,
    pub(crate) committed_size_max: u64,
    pub(crate) payloads: BTreeMap<u64, Payload>,
    shown_soft: (u64, Role),
    shown_hard: Hard,
    /// Entries to be written, first and last.
    fresh: Option<(LogIndex, LogIndex)>,
    pub(crate) messages: Vec<Outgoing>,
    pub(crate) replies: Vec<Outgoing>,
    /// Replies that were printed already and leave the core later.
    swallow: Vec<Message>,
    deferred: Vec<Trace>,
    snapshot: Option<Box<SnapshotMeta>>,
    /// Handed out for applying.
    pub(crate) applying: LogIndex,
    /// What etcd's log would call stable.
    pub(crate) stable: LogIndex,
    pub(crate) append_work: VecDeque<AppendWork>,
    pub(crate) apply_work: VecDeque<ApplyWork>,
}

/// One batch of work, as etcd's `Ready` shows it.
pub(crate) struct Ready {
    pub(crate) hard: Option<Hard>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) committed: Vec<Entry>,
    pub(crate) snapshot: Option<Box<SnapshotMeta>>,
    pub(crate) messages: Vec<Outgoing>,
    pub(crate) replies: Vec<Outgoing>,
}

impl Node {
    pub(crate) fn new(id: MemberId, raft: Raft) -> Node {
        let status = raft.status();
        Node {
            id,
            now: 0,
            asynchronous: false,
            committed_size_max: u64::MAX,
            payloads: BTreeMap::new(),
            shown_soft: (0, Role::Follower),
            shown_hard: (status.term, status.vote, status.commit),
            fresh: None,
            messages: Vec::new(),
            replies: Vec::new(),
            swallow: Vec::new(),
            deferred: Vec::new(),
            snapshot: None,
            applying: status.applied,
            stable: status.last.index,
            append_work: VecDeque::new(),
            apply_work: VecDeque::new(),
            raft,
        }
    }

    pub(crate) fn entry(&self, meta: EntryMeta) -> Entry {
        let payload = match self.payloads.get(&meta.index.0) {
            Some(payload) => payload.clone(),
            None if meta.kind.changes_membership() => Payload::Change(ConfChange::default()),
            None => Payload::Text(String::new()),
        };
        (meta, payload)
    }

    pub(crate) fn entries(&self, first: LogIndex, last: LogIndex) -> Vec<Entry> {
        let metas = self.raft.entries(first, last);
        metas.map(|meta| self.entry(meta)).collect()
    }

    /// Feeds the core and takes what it says; entries that came along keep their payloads.
    pub(crate) fn step(&mut self, input: Input<'_>, carried: &[Entry], output: &mut Output) {
        let outcome = self.raft.step(input);
        self.take_actions(carried, output);
        match outcome {
            Ok(()) => {}
            Err(StepError::UnknownSender { .. }) => {
                output.line("raft: cannot step as peer not found");
            }
            Err(error) => output.line(&error.to_string()),
        }
    }

    pub(crate) fn take_actions(&mut self, carried: &[Entry], output: &mut Output) {
        self.raft.check();
        let mut actions = Vec::new();
        self.raft.drain_actions(&mut actions);
        self.forget_voided(&actions);
        self.take_traces(output);
        for action in actions {
            match action {
                Action::Append {
                    first,
                    last,
                    truncates,
                } => self.note_append(first, last, truncates, carried),
                Action::Send(message) => self.note_message(message),
                Action::InstallSnapshot(snapshot) => {
                    self.payloads.clear();
                    self.fresh = None;
                    self.applying = snapshot.position.index;
                    self.snapshot = Some(snapshot);
                }
                _ => {}
            }
        }
    }

    /// The core drops held acknowledgements of entries that are being replaced.
    fn forget_voided(&mut self, actions: &[Action]) {
        for action in actions {
            if let Action::Append {
                first,
                truncates: true,
                ..
            } = action
            {
                self.swallow.retain(|message| {
                    !matches!(message.body, MessageBody::AppendAccepted { matched } if matched >= *first)
                });
            }
        }
    }

    fn take_traces(&mut self, output: &mut Output) {
        let mut traces = Vec::new();
        self.raft.drain_traces(&mut traces);
        let mut defer = false;
        for trace in traces {
            match &trace {
                Trace::VoteReceived { from, name, .. }
                    if *from == self.id && *name == "MsgPreVoteResp" =>
                {
                    defer = true;
                    let term = self.raft.status().term.next();
                    self.replies.push(Outgoing::OwnPreVote { term });
                }
                Trace::Became {
                    role: Role::Candidate,
                    term,
                } => self.replies.push(Outgoing::OwnVote { term: *term }),
                Trace::ReplyHeld(message) => {
                    self.swallow.push((**message).clone());
                    let reply = Outgoing::Message((**message).clone(), Vec::new());
                    self.replies.push(reply);
                }
                _ => {}
            }
            if defer {
                self.deferred.push(trace);
            } else {
                self.print(&trace, output);
            }
        }
    }

    fn print(&self, trace: &Trace, output: &mut Output) {
        for (level, line) in describe_trace(self.id, trace) {
            output.log(level, &line);
        }
    }

    fn note_append(&mut self, first: LogIndex, last: LogIndex, truncates: bool, carried: &[Entry]) {
        if truncates {
            self.payloads.split_off(&first.0);
            self.stable = self.stable.min(first.previous());
        }
        for (meta, payload) in carried {
            if meta.index >= first && meta.index <= last {
                self.payloads.insert(meta.index.0, payload.clone());
            }
        }
        let start = match self.fresh {
            Some((start, _)) if truncates => start.min(first),
            Some((start, _)) => start,
            None => first,
        };
        self.fresh = Some((start, last));
        if self.raft.is_leader() {
            let term = self.raft.status().term;
            self.replies.push(Outgoing::OwnAck { term, index: last });
        }
    }

    fn note_message(&mut self, message: Message) {
        if let Some(place) = self.swallow.iter().position(|it| *it == message) {
            self.swallow.remove(place);
            return;
        }
        let entries = match &message.body {
            MessageBody::Append {
                previous, count, ..
            } => self.entries(previous.index.next(), LogIndex(previous.index.0 + count)),
            _ => Vec::new(),
        };
        let is_reply = matches!(
            message.body,
            MessageBody::AppendAccepted { .. }
                | MessageBody::AppendRejected { .. }
                | MessageBody::VoteReply { .. }
                | MessageBody::PreVoteReply { .. }
        );
        let outgoing = Outgoing::Message(message, entries);
        if is_reply {
            self.replies.push(outgoing);
        } else {
            self.messages.push(outgoing);
        }
    }

    fn soft(&self) -> (u64, Role) {
        let status = self.raft.status();
        let role = match status.role {
            Role::Learner => Role::Follower,
            role => role,
        };
        (status.leader.map_or(0, |id| id.0), role)
    }

    pub(crate) fn hard(&self) -> Hard {
        let status = self.raft.status();
        (status.term, status.vote, status.commit)
    }

    fn applicable(&self) -> Vec<Entry> {
        if self.snapshot.is_some() || self.raft.log().pending_snapshot().is_some() {
            return Vec::new();
        }
        let commit = self.raft.status().commit;
        let end = if self.asynchronous {
            commit.min(self.stable)
        } else {
            commit
        };
        let mut size = 0;
        let mut page = Vec::new();
        for entry in self.entries(self.applying.next(), end) {
            size += 8 + entry.0.bytes;
            if !page.is_empty() && size > self.committed_size_max {
                break;
            }
            page.push(entry);
        }
        page
    }

    pub(crate) fn has_ready(&self) -> bool {
        self.soft() != self.shown_soft
            || self.hard() != self.shown_hard
            || self.fresh.is_some()
            || self.snapshot.is_some()
            || !self.messages.is_empty()
            || !self.replies.is_empty()
            || !self.applicable().is_empty()
    }

    /// Takes the batch and prints it.
    pub(crate) fn take_ready(&mut self, output: &mut Output) -> Ready {
        let soft = self.soft();
        let soft_changed = soft != self.shown_soft;
        self.shown_soft = soft;
        let hard = self.hard();
        let before = self.shown_hard;
        let hard_changed = hard != before;
        self.shown_hard = hard;
        let entries = match self.fresh.take() {
            Some((first, _)) => self.entries(first, self.raft.status().last.index),
            None => Vec::new(),
        };
        let committed = self.applicable();
        if let Some((meta, _)) = committed.last() {
            self.applying = meta.index;
        }
        let ready = Ready {
            hard: hard_changed.then_some(hard),
            entries,
            committed,
            snapshot: self.snapshot.take(),
            messages: std::mem::take(&mut self.messages),
            replies: std::mem::take(&mut self.replies),
        };
        let must_sync = !ready.entries.is_empty() || hard.0 != before.0 || hard.1 != before.1;
        if soft_changed || self.shows(&ready) {
            output.line(&format!("Ready MustSync={must_sync}:"));
        } else {
            output.line("<empty Ready>");
        }
        if soft_changed {
            output.line(&format!("Lead:{} State:{}", soft.0, state_name(soft.1)));
        }
        self.print_ready(&ready, output);
        ready
    }

    fn shows(&self, ready: &Ready) -> bool {
        let foreign = |outgoing: &Outgoing| {
            self.asynchronous
                || matches!(outgoing, Outgoing::Message(..) | Outgoing::Proposal { .. })
        };
        ready.hard.is_some()
            || !ready.entries.is_empty()
            || !ready.committed.is_empty()
            || ready.snapshot.is_some()
            || ready.messages.iter().chain(&ready.replies).any(foreign)
    }

    fn print_ready(&mut self, ready: &Ready, output: &mut Output) {
        if let Some(hard) = ready.hard {
            output.line(&format!("HardState {}", describe_hard(hard)));
        }
        if !ready.entries.is_empty() {
            output.line("Entries:");
            for entry in &ready.entries {
                output.line(&describe_entry(entry));
            }
        }
        if let Some(snapshot) = &ready.snapshot {
            output.line(&format!("Snapshot {}", describe_snapshot(snapshot)));
        }
        if !ready.committed.is_empty() {
            output.line("CommittedEntries:");
            for entry in &ready.committed {
                output.line(&describe_entry(entry));
            }
        }
        let mut lines: Vec<String> = Vec::new();
        let visible = |outgoing: &&Outgoing| {
            matches!(outgoing, Outgoing::Message(..) | Outgoing::Proposal { .. })
        };
        for outgoing in ready.messages.iter().filter(visible) {
            lines.push(outgoing.describe(self.id));
        }
        if self.asynchronous {
            lines.extend(self.queue_work(ready));
        } else {
            for outgoing in ready.replies.iter().filter(visible) {
                lines.push(outgoing.describe(self.id));
            }
        }
        if !lines.is_empty() {
            output.line("Messages:");
            for line in lines {
                output.line(&line);
            }
        }
    }

    /// Applies membership changes among `entries`.
    pub(crate) fn apply(&mut self, entries: &[Entry], output: &mut Output) {
        for (_, payload) in entries {
            if let Payload::Change(change) = payload {
                if let Err(error) = self.raft.apply_conf_change(change) {
                    output.line(&error.to_string());
                }
                self.take_actions(&[], output);
            }
        }
    }

    /// The end of a synchronous `Ready`: everything in it is durable and applied.
    pub(crate) fn advance(&mut self, ready: &Ready, output: &mut Output) {
        if let Some((term, vote, _)) = ready.hard {
            let input = Input::HardStateDurable { term, vote };
            self.step(input, &[], output);
        }
        self.print_deferred(output);
        if let Some(snapshot) = &ready.snapshot {
            let position = snapshot.position;
            self.stable = position.index;
            self.step(Input::SnapshotInstalled { position }, &[], output);
        }
        if let Some((meta, _)) = ready.entries.last() {
            self.stable = meta.index;
            let (index, term) = (meta.index, meta.term);
            self.step(Input::Durable { index, term }, &[], output);
        }
        if let Some((meta, _)) = ready.committed.last() {
            let index = meta.index;
            self.step(Input::Applied { index }, &[], output);
        }
    }

    pub(crate) fn print_deferred(&mut self, output: &mut Output) {
        for trace in std::mem::take(&mut self.deferred) {
            self.print(&trace, output);
        }
    }
}

pub(crate) fn describe_hard((term, vote, commit): Hard) -> String {
    let vote = match vote_number(vote) {
        0 => String::new(),
        id => format!(" Vote:{id}"),
    };
    format!("Term:{term}{vote} Commit:{commit}")
}
