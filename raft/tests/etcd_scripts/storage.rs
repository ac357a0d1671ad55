//! The append and apply threads of asynchronous scripts.

use raft::{Input, LogIndex, MemberId, Position, SnapshotMeta, Term, Vote};

use crate::ready::{Node, Outgoing, Output, Ready};
use crate::text::{Entry, describe_entry_list, describe_snapshot, vote_number};

/// One batch for the disk.
pub(crate) struct AppendWork {
    text: String,
    hard: Option<(Term, Vote)>,
    snapshot: Option<Position>,
    responses: Vec<Local>,
}

/// One batch for the state machine.
pub(crate) struct ApplyWork {
    entries: Vec<Entry>,
}

/// A message that a node's own threads send.
#[derive(Clone, Debug)]
pub(crate) enum Local {
    /// Something the core waits to send, or to hear from itself.
    Released(Outgoing),
    /// The log is written up to here.
    Appended { term: Term, position: Position },
    /// Entries are applied.
    Applied { entries: Vec<Entry> },
}

impl Local {
    pub(crate) fn describe(&self, id: MemberId) -> String {
        match self {
            Local::Released(outgoing) => outgoing.describe(id),
            Local::Appended { term, position } => format!(
                "AppendThread->{id} MsgStorageAppendResp Term:{term} Log:{}/{}",
                position.term, position.index
            ),
            Local::Applied { entries } => format!(
                "ApplyThread->{id} MsgStorageApplyResp Term:0 Log:0/0{}",
                describe_entry_list(entries)
            ),
        }
    }
}

fn list(responses: &[String]) -> String {
    if responses.is_empty() {
        return String::new();
    }
    let lines: Vec<String> = responses
        .iter()
        .map(|response| format!("\n  {}", response.replace('\n', "\n  ")))
        .collect();
    format!(" Responses:[{}\n]", lines.concat())
}

fn hard_text(ready: &Ready) -> String {
    let Some((term, vote, commit)) = ready.hard else {
        return "Term:0 Log:0/0".to_string();
    };
    let mut text = format!("Term:{term} Log:0/0");
    if commit.0 > 0 {
        text.push_str(&format!(" Commit:{commit}"));
    }
    if vote_number(vote) > 0 {
        text.push_str(&format!(" Vote:{}", vote_number(vote)));
    }
    text
}

fn snapshot_text(snapshot: Option<&SnapshotMeta>) -> String {
    snapshot.map_or(String::new(), |snapshot| {
        format!("\n  Snapshot: {}", describe_snapshot(snapshot))
    })
}

impl Node {
    /// Queues the disk and apply work of a `Ready` and returns how it is printed.
    pub(crate) fn queue_work(&mut self, ready: &Ready) -> Vec<String> {
        let id = self.id;
        let mut lines = Vec::new();
        let writes = ready.hard.is_some()
            || !ready.entries.is_empty()
            || ready.snapshot.is_some()
            || !ready.replies.is_empty();
        if writes {
            let mut responses: Vec<Local> =
                ready.replies.iter().cloned().map(Local::Released).collect();
            let last = self.raft.status().last;
            let hard = ready.hard.map(|(term, vote, _)| (term, vote));
            let snapshot = ready.snapshot.as_ref().map(|it| it.position);
            if last.index > self.stable || snapshot.is_some() {
                responses.push(Local::Appended {
                    term: self.raft.status().term,
                    position: last,
                });
            }
            let text = format!(
                "{id}->AppendThread MsgStorageAppend {}{}{}",
                hard_text(ready),
                describe_entry_list(&ready.entries),
                snapshot_text(ready.snapshot.as_deref())
            );
            let described: Vec<String> = responses.iter().map(|it| it.describe(id)).collect();
            lines.push(format!("{text}{}", list(&described)));
            self.append_work.push_back(AppendWork {
                text,
                hard,
                snapshot,
                responses,
            });
        }
        if !ready.committed.is_empty() {
            let entries = describe_entry_list(&ready.committed);
            let response = Local::Applied {
                entries: ready.committed.clone(),
            };
            lines.push(format!(
                "{id}->ApplyThread MsgStorageApply Term:0 Log:0/0{entries}{}",
                list(&[response.describe(id)])
            ));
            self.apply_work.push_back(ApplyWork {
                entries: ready.committed.clone(),
            });
        }
        lines
    }

    /// Writes one batch; the answers are on their way.
    pub(crate) fn process_append(&mut self, output: &mut Output) -> Vec<Local> {
        let Some(work) = self.append_work.pop_front() else {
            output.line("no append work to perform");
            return Vec::new();
        };
        output.line("Processing:");
        output.line(&work.text);
        output.line("Responses:");
        for response in &work.responses {
            output.line(&response.describe(self.id));
        }
        let own_vote = work
            .responses
            .iter()
            .any(|response| matches!(response, Local::Released(Outgoing::OwnVote { .. })));
        // A candidate hears of its durable vote by the message to itself, others at once.
        if let Some((term, vote)) = work.hard
            && !own_vote
        {
            self.step(Input::HardStateDurable { term, vote }, &[], output);
        }
        if let Some(position) = work.snapshot {
            self.step(Input::SnapshotInstalled { position }, &[], output);
        }
        work.responses
    }

    /// Applies one batch.
    pub(crate) fn process_apply(&mut self, output: &mut Output) -> Vec<Local> {
        let Some(work) = self.apply_work.pop_front() else {
            output.line("no apply work to perform");
            return Vec::new();
        };
        let entries = describe_entry_list(&work.entries);
        let response = Local::Applied {
            entries: work.entries.clone(),
        };
        output.line("Processing:");
        output.line(&format!(
            "{}->ApplyThread MsgStorageApply Term:0 Log:0/0{entries}",
            self.id
        ));
        output.line("Responses:");
        output.line(&response.describe(self.id));
        self.apply(&work.entries, output);
        vec![response]
    }

    /// What etcd logs about an own message of an earlier term, which it ignores.
    fn stale_local(&self, local: &Local) -> Option<String> {
        let (id, own) = (self.id, self.raft.term());
        let (name, term) = match local {
            Local::Released(Outgoing::OwnVote { term }) => ("MsgVoteResp", *term),
            Local::Released(Outgoing::OwnAck { term, .. }) => ("MsgAppResp", *term),
            Local::Appended { term, .. } if *term < own => {
                return Some(format!(
                    "{id} [term: {own}] ignored entry appends from a MsgStorageAppendResp message with lower term [term: {term}]"
                ));
            }
            _ => return None,
        };
        (term < own).then(|| {
            format!(
                "{id} [term: {own}] ignored a {name} message with lower term from {id} [term: {term}]"
            )
        })
    }

    /// A message of the node's own threads, or to itself, arrives.
    pub(crate) fn receive_local(&mut self, local: &Local, output: &mut Output) {
        if let Some(line) = self.stale_local(local) {
            output.log(crate::text::Level::Info, &line);
            return;
        }
        match local {
            Local::Released(Outgoing::OwnVote { term }) => {
                let status = self.raft.status();
                if status.term == *term {
                    let vote = status.vote;
                    let input = Input::HardStateDurable { term: *term, vote };
                    self.step(input, &[], output);
                }
            }
            Local::Released(Outgoing::OwnPreVote { .. }) => self.print_deferred(output),
            Local::Released(Outgoing::OwnAck { term, index }) => {
                let (index, term) = (*index, *term);
                self.step(Input::Durable { index, term }, &[], output);
            }
            Local::Released(_) => {}
            Local::Appended { position, .. } => {
                if position.index <= self.stable {
                    let index = position.index;
                    let line =
                        format!("entry at index {index} missing from unstable log; ignoring");
                    output.log(crate::text::Level::Info, &line);
                    return;
                }
                if !self.raft.log().holds(*position) {
                    return;
                }
                self.stable = position.index;
                let Position { index, term } = *position;
                self.step(Input::Durable { index, term }, &[], output);
            }
            Local::Applied { entries } => {
                let index = entries.last().map_or(LogIndex(0), |(meta, _)| meta.index);
                self.step(Input::Applied { index }, &[], output);
            }
        }
    }
}
