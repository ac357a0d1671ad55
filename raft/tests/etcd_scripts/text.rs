//! How etcd writes messages, entries and log lines.

use raft::{
    ChangeKind, ConfChange, Configuration, EntryKind, EntryMeta, MemberId, Message, MessageBody,
    Position, Role, SnapshotMeta, Trace, Transition, Vote, VoteRequest,
};

/// What an entry carries in a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Payload {
    Text(String),
    Change(ConfChange),
}

pub(crate) type Entry = (EntryMeta, Payload);

pub(crate) fn describe_changes(change: &ConfChange) -> String {
    let words: Vec<String> = change
        .changes
        .iter()
        .map(|step| {
            let letter = match step.kind {
                ChangeKind::AddVoter => 'v',
                ChangeKind::AddLearner => 'l',
                ChangeKind::Remove => 'r',
                ChangeKind::Update => 'u',
            };
            format!("{letter}{}", step.member.0)
        })
        .collect();
    words.join(" ")
}

pub(crate) fn describe_entry((meta, payload): &Entry) -> String {
    let name = match meta.kind {
        EntryKind::NoOp | EntryKind::Normal => "EntryNormal",
        EntryKind::ConfChange => "EntryConfChange",
        EntryKind::ConfChangeJoint => "EntryConfChangeV2",
    };
    let content = match payload {
        Payload::Text(text) => format!("{text:?}"),
        Payload::Change(change) => describe_changes(change),
    };
    let line = format!("{}/{} {name} {content}", meta.term, meta.index);
    line.trim_end().to_string()
}

pub(crate) fn describe_entry_list(entries: &[Entry]) -> String {
    match entries {
        [] => String::new(),
        [one] => format!(" Entries:[{}]", describe_entry(one)),
        many => {
            let lines: Vec<String> = many
                .iter()
                .map(|entry| format!("\n  {}", describe_entry(entry)))
                .collect();
            format!(" Entries:[{}\n]", lines.concat())
        }
    }
}

fn ids(list: &[MemberId]) -> String {
    let words: Vec<String> = list.iter().map(|id| id.0.to_string()).collect();
    format!("[{}]", words.join(" "))
}

pub(crate) fn describe_snapshot(snapshot: &SnapshotMeta) -> String {
    let configuration = &snapshot.configuration;
    format!(
        "Index:{} Term:{} ConfState:Voters:{} VotersOutgoing:{} Learners:{} LearnersNext:{} AutoLeave:{}",
        snapshot.position.index,
        snapshot.position.term,
        ids(configuration.voters.incoming.voters()),
        ids(configuration.voters.outgoing.voters()),
        ids(&configuration.learners),
        ids(&configuration.learners_next),
        configuration.auto_leave
    )
}

pub(crate) fn describe_message(message: &Message, entries: &[Entry]) -> String {
    let (mut log, mut rest) = (Position::default(), String::new());
    match &message.body {
        MessageBody::Append {
            previous, commit, ..
        } => {
            log = *previous;
            rest = commit_text(commit.0);
        }
        MessageBody::AppendAccepted { matched } => log.index = *matched,
        MessageBody::AppendRejected { rejected, hint } => {
            log = Position {
                index: *rejected,
                term: hint.term,
            };
            rest = format!(" Rejected (Hint: {})", hint.index);
        }
        MessageBody::Vote { last, .. } | MessageBody::PreVote { last, .. } => log = *last,
        MessageBody::VoteReply { granted: false }
        | MessageBody::PreVoteReply { granted: false } => {
            rest = " Rejected (Hint: 0)".to_string();
        }
        MessageBody::Heartbeat { commit, .. } => rest = commit_text(commit.0),
        MessageBody::Snapshot(snapshot) => {
            rest = format!("\n  Snapshot: {}", describe_snapshot(snapshot));
        }
        _ => {}
    }
    format!(
        "{}->{} {} Term:{} Log:{}/{}{rest}{}",
        message.from,
        message.to,
        message.body.name(),
        message.term,
        log.term,
        log.index,
        describe_entry_list(entries)
    )
}

fn commit_text(commit: u64) -> String {
    if commit == 0 {
        String::new()
    } else {
        format!(" Commit:{commit}")
    }
}

pub(crate) fn state_name(role: Role) -> &'static str {
    match role {
        Role::Follower | Role::Learner => "StateFollower",
        Role::PreCandidate => "StatePreCandidate",
        Role::Candidate => "StateCandidate",
        Role::Leader => "StateLeader",
    }
}

pub(crate) fn vote_number(vote: Vote) -> u64 {
    match vote {
        Vote::For(id) => id.0,
        Vote::None | Vote::Unknown => 0,
    }
}

pub(crate) fn describe_conf_change(change: &ConfChange) -> String {
    let transition = match change.transition {
        Transition::Auto => "ConfChangeTransitionAuto",
        Transition::JointImplicit => "ConfChangeTransitionJointImplicit",
        Transition::JointExplicit => "ConfChangeTransitionJointExplicit",
    };
    let mut text = format!("transition:{transition}");
    for step in &change.changes {
        let kind = match step.kind {
            ChangeKind::AddVoter => "ConfChangeAddNode",
            ChangeKind::Remove => "ConfChangeRemoveNode",
            ChangeKind::Update => "ConfChangeUpdateNode",
            ChangeKind::AddLearner => "ConfChangeAddLearnerNode",
        };
        text.push_str(&format!(
            " changes:{{type:{kind} node_id:{}}}",
            step.member.0
        ));
    }
    text
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) enum Level {
    #[default]
    Debug,
    Info,
    Warn,
    Error,
    Fatal,
    None,
}

impl Level {
    pub(crate) fn parse(text: &str) -> Level {
        match text.to_ascii_lowercase().as_str() {
            "debug" => Level::Debug,
            "info" => Level::Info,
            "warn" => Level::Warn,
            "error" => Level::Error,
            "fatal" => Level::Fatal,
            "none" => Level::None,
            other => panic!("unknown log level {other}"),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Level::Debug => "DEBUG",
            Level::Info => "INFO",
            Level::Warn => "WARN",
            Level::Error => "ERROR",
            Level::Fatal => "FATAL",
            Level::None => "NONE",
        }
    }
}

fn request_text(id: MemberId, request: &VoteRequest, verb: &str, word: &str) -> String {
    format!(
        "{id} [logterm: {}, index: {}, vote: {}] {verb} {} {word} {} [logterm: {}, index: {}] at term {}",
        request.own.term,
        request.own.index,
        vote_number(request.vote),
        request.name,
        request.from,
        request.theirs.term,
        request.theirs.index,
        request.term
    )
}

/// The lines etcd logs for a transition; none for those it does not log.
pub(crate) fn describe_trace(id: MemberId, trace: &Trace) -> Vec<(Level, String)> {
    let one = |level, text| vec![(level, text)];
    match trace {
        Trace::ConfigurationSwitched(configuration) => one(
            Level::Info,
            format!("{id} switched to configuration {configuration}"),
        ),
        Trace::Became { role, term } => {
            let name = match role {
                Role::Follower | Role::Learner => "follower",
                Role::PreCandidate => "pre-candidate",
                Role::Candidate => "candidate",
                Role::Leader => "leader",
            };
            one(Level::Info, format!("{id} became {name} at term {term}"))
        }
        Trace::ElectionStarted { term } => one(
            Level::Info,
            format!("{id} is starting a new election at term {term}"),
        ),
        Trace::Unpromotable => one(
            Level::Warn,
            format!("{id} is unpromotable and can not campaign"),
        ),
        Trace::CampaignBlocked { term } => one(
            Level::Warn,
            format!(
                "{id} cannot campaign at term {term} since there are still pending configuration changes to apply"
            ),
        ),
        Trace::VoteRequested {
            name,
            to,
            term,
            last,
        } => one(
            Level::Info,
            format!(
                "{id} [logterm: {}, index: {}] sent {name} request to {to} at term {term}",
                last.term, last.index
            ),
        ),
        Trace::HigherTermSeen {
            own,
            name,
            from,
            term,
        } => one(
            Level::Info,
            format!(
                "{id} [term: {own}] received a {name} message with higher term from {from} [term: {term}]"
            ),
        ),
        Trace::LowerTermIgnored {
            own,
            name,
            from,
            term,
        } => one(
            Level::Info,
            format!(
                "{id} [term: {own}] ignored a {name} message with lower term from {from} [term: {term}]"
            ),
        ),
        Trace::LeaderProtected {
            request,
            remaining_nanos,
        } => one(
            Level::Info,
            format!(
                "{}: lease is not expired (remaining ticks: {remaining_nanos})",
                request_text(id, request, "ignored", "from")
            ),
        ),
        Trace::VoteCast(request) => one(Level::Info, request_text(id, request, "cast", "for")),
        Trace::VoteRefused(request) => {
            one(Level::Info, request_text(id, request, "rejected", "from"))
        }
        Trace::VoteReceived {
            name,
            from,
            granted,
            term,
        } => {
            let what = if *granted { "" } else { " rejection" };
            one(
                Level::Info,
                format!("{id} received {name}{what} from {from} at term {term}"),
            )
        }
        Trace::VotesCounted {
            name,
            granted,
            refused,
        } => one(
            Level::Info,
            format!("{id} has received {granted} {name} votes and {refused} vote rejections"),
        ),
        Trace::QuorumLost => one(
            Level::Warn,
            format!("{id} stepped down to follower since quorum is not active"),
        ),
        Trace::LeaderForgotten { leader, term } => one(
            Level::Info,
            format!("{id} forgetting leader {leader} at term {term}"),
        ),
        Trace::AutoLeave(configuration) => one(
            Level::Info,
            format!("initiating automatic transition out of joint configuration {configuration}"),
        ),
        other => describe_replication(id, other),
    }
}

fn describe_replication(id: MemberId, trace: &Trace) -> Vec<(Level, String)> {
    let one = |level, text| vec![(level, text)];
    match trace {
        Trace::AppendRefused {
            own,
            previous,
            from,
        } => one(
            Level::Debug,
            format!(
                "{id} [logterm: {own}, index: {}] rejected MsgApp [logterm: {}, index: {}] from {from}",
                previous.index, previous.term, previous.index
            ),
        ),
        Trace::ConflictFound { existing, term } => vec![
            (
                Level::Info,
                format!(
                    "found conflict at index {} [existing term: {}, conflicting term: {term}]",
                    existing.index, existing.term
                ),
            ),
            (
                Level::Info,
                format!("replace the unstable entries from index {}", existing.index),
            ),
        ],
        Trace::RejectionReceived {
            from,
            rejected,
            hint,
        } => one(
            Level::Debug,
            format!(
                "{id} received MsgAppResp(rejected, hint: (index {}, term {})) from {from} for index {rejected}",
                hint.index, hint.term
            ),
        ),
        Trace::ProgressDecreased { member, progress } => one(
            Level::Debug,
            format!("{id} decreased progress of {member} to [{progress}]"),
        ),
        Trace::SnapshotSent {
            member,
            first_index,
            commit,
            position,
            before,
            after,
        } => vec![
            (
                Level::Debug,
                format!(
                    "{id} [firstindex: {first_index}, commit: {commit}] sent snapshot[index: {}, term: {}] to {member} [{before}]",
                    position.index, position.term
                ),
            ),
            (
                Level::Debug,
                format!("{id} paused sending replication messages to {member} [{after}]"),
            ),
        ],
        Trace::SnapshotWithheld { member } => one(
            Level::Debug,
            format!("ignore sending snapshot to {member} since it is not recently active"),
        ),
        Trace::SnapshotRecovered { member, progress } => one(
            Level::Debug,
            format!(
                "{id} recovered from needing snapshot, resumed sending replication messages to {member} [{progress}]"
            ),
        ),
        Trace::SnapshotReported {
            member,
            delivered,
            progress,
        } => {
            let what = if *delivered {
                "snapshot succeeded"
            } else {
                "snapshot failed"
            };
            one(
                Level::Debug,
                format!(
                    "{id} {what}, resumed sending replication messages to {member} [{progress}]"
                ),
            )
        }
        Trace::Unreachable { member, progress } => one(
            Level::Debug,
            format!(
                "{id} failed to send message to {member} because it is unreachable [{progress}]"
            ),
        ),
        other => describe_snapshot_trace(id, other),
    }
}

fn describe_snapshot_trace(id: MemberId, trace: &Trace) -> Vec<(Level, String)> {
    let one = |text| vec![(Level::Info, text)];
    let at = |position: &Position| format!("[index: {}, term: {}]", position.index, position.term);
    match trace {
        Trace::SnapshotRestoring {
            commit,
            applied,
            durable,
            undurable_count,
            position,
        } => one(format!(
            "log [committed={commit}, applied={applied}, applying={applied}, unstable.offset={offset}, unstable.offsetInProgress={offset}, len(unstable.Entries)={undurable_count}] starts to restore snapshot {}",
            at(position),
            offset = durable.0 + 1,
        )),
        Trace::SnapshotRestored {
            commit,
            last,
            position,
        } => vec![
            (
                Level::Info,
                format!(
                    "{id} [commit: {commit}, lastindex: {}, lastterm: {}] restored snapshot {}",
                    last.index,
                    last.term,
                    at(position)
                ),
            ),
            (
                Level::Info,
                format!("{id} [commit: {commit}] restored snapshot {}", at(position)),
            ),
        ],
        Trace::SnapshotMatched {
            commit,
            last,
            position,
        } => one(format!(
            "{id} [commit: {commit}, lastindex: {}, lastterm: {}] fast-forwarded commit to snapshot {}",
            last.index,
            last.term,
            at(position)
        )),
        Trace::SnapshotIgnored { commit, position } => one(format!(
            "{id} [commit: {commit}] ignored snapshot {}",
            at(position)
        )),
        _ => Vec::new(),
    }
}

pub(crate) fn describe_refused_change(
    id: MemberId,
    change: &ConfChange,
    configuration: &Configuration,
    why: &dyn std::fmt::Display,
) -> String {
    format!(
        "{id} ignoring conf change {} at config {configuration}: {why}",
        describe_conf_change(change)
    )
}
