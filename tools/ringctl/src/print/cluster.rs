//! Members, leadership, downgrades, alarms.

use grpc::proto::etcdserverpb::{
    AlarmResponse, AlarmType, DowngradeResponse, Member, MemberAddResponse, MemberListResponse,
    MoveLeaderResponse, ResponseHeader,
};
use prost::Message;

use crate::go::json::{Object, array};

use super::table::Table;
use super::{Answer, Text, Wire, json};

fn members_json(
    hex: bool,
    header: Option<&ResponseHeader>,
    added: Option<&Member>,
    members: &[Member],
) -> String {
    if !hex {
        return json::with_header(header)
            .option("member", added.map(json::member))
            .list("members", members, json::member)
            .end();
    }
    Object::new()
        .raw("header", &json::hex_header(header))
        .option("member", added.map(json::hex_member))
        .raw("members", &array(members, json::hex_member))
        .end()
}

fn rows(members: &[Member]) -> Vec<Vec<String>> {
    members
        .iter()
        .map(|member| {
            vec![
                format!("{:x}", member.id),
                if member.name.is_empty() {
                    "unstarted"
                } else {
                    "started"
                }
                .to_owned(),
                member.name.clone(),
                member.peer_ur_ls.join(","),
                member.client_ur_ls.join(","),
                member.is_learner.to_string(),
            ]
        })
        .collect()
}

impl Answer for MemberListResponse {
    fn simple(&self, text: &mut Text) {
        rows(&self.members)
            .iter()
            .for_each(|row| text.line(row.join(", ")));
    }

    fn json(&self, hex: bool) -> String {
        members_json(hex, self.header.as_ref(), None, &self.members)
    }

    fn fields(&self, text: &mut Text) -> bool {
        text.header(self.header.as_ref());
        for member in &self.members {
            text.id("ID", member.id);
            text.quoted("Name", member.name.as_bytes());
            member
                .peer_ur_ls
                .iter()
                .for_each(|url| text.quoted("PeerURL", url.as_bytes()));
            member
                .client_ur_ls
                .iter()
                .for_each(|url| text.quoted("ClientURL", url.as_bytes()));
            text.field("IsLearner", member.is_learner);
            text.line("");
        }
        true
    }

    fn protobuf(&self) -> Wire {
        Wire::of(self)
    }

    fn table(&self) -> Option<Table> {
        let head = [
            "ID",
            "Status",
            "Name",
            "Peer Addrs",
            "Client Addrs",
            "Is Learner",
        ];
        Some(Table::new(&head, rows(&self.members)))
    }
}

impl Answer for MemberAddResponse {
    fn simple(&self, text: &mut Text) {
        let member = self.member.clone().unwrap_or_default();
        let cluster = self.header.as_ref().map_or(0, |header| header.cluster_id);
        let learner = if member.is_learner { " as learner" } else { "" };
        text.line(format!(
            "Member {:16x} added{learner} to cluster {cluster:16x}",
            member.id
        ));
    }

    fn json(&self, hex: bool) -> String {
        members_json(
            hex,
            self.header.as_ref(),
            self.member.as_ref(),
            &self.members,
        )
    }

    fn protobuf(&self) -> Wire {
        Wire::of(self)
    }
}

/// A member was removed, updated or promoted.
#[derive(Debug)]
pub(crate) struct Changed {
    /// Which.
    pub(crate) id: u64,
    /// `removed from`, `updated in`, `promoted in`.
    pub(crate) done: &'static str,
    /// The answer's header.
    pub(crate) header: Option<ResponseHeader>,
    /// The members now.
    pub(crate) members: Vec<Member>,
}

impl Answer for Changed {
    fn simple(&self, text: &mut Text) {
        let cluster = self.header.as_ref().map_or(0, |header| header.cluster_id);
        text.line(format!(
            "Member {:16x} {} cluster {cluster:16x}",
            self.id, self.done
        ));
    }

    fn json(&self, hex: bool) -> String {
        members_json(hex, self.header.as_ref(), None, &self.members)
    }

    fn protobuf(&self) -> Wire {
        // The three answers have the same fields under the same numbers as a list of members.
        Wire::of(&MemberListResponse {
            header: self.header,
            members: self.members.clone(),
        })
    }
}

/// Leadership went from one member to another.
#[derive(Debug)]
pub(crate) struct Moved {
    /// The former leader.
    pub(crate) from: u64,
    /// The new one.
    pub(crate) to: u64,
    /// What the server says.
    pub(crate) answer: MoveLeaderResponse,
}

impl Answer for Moved {
    fn simple(&self, text: &mut Text) {
        text.line(format!(
            "Leadership transferred from {:x} to {:x}",
            self.from, self.to
        ));
    }

    fn json(&self, _: bool) -> String {
        json::with_header(self.answer.header.as_ref()).end()
    }

    fn protobuf(&self) -> Wire {
        Wire::of(&self.answer)
    }
}

/// A step of a downgrade.
#[derive(Debug)]
pub(crate) struct Downgraded {
    /// `validate`, `enable`, `cancel`.
    pub(crate) step: &'static str,
    /// What the server says.
    pub(crate) answer: DowngradeResponse,
}

impl Answer for Downgraded {
    fn simple(&self, text: &mut Text) {
        text.line(format!(
            "Downgrade {} success, cluster version {}",
            self.step, self.answer.version
        ));
    }

    fn json(&self, _: bool) -> String {
        json::with_header(self.answer.header.as_ref())
            .nonempty("version", &self.answer.version)
            .end()
    }

    fn protobuf(&self) -> Wire {
        Wire::Bytes(self.answer.encode_to_vec())
    }
}

/// The name of an alarm.
pub(crate) fn alarm_name(number: i32) -> String {
    AlarmType::try_from(number).map_or(number.to_string(), |alarm| alarm.as_str_name().to_owned())
}

impl Answer for AlarmResponse {
    fn simple(&self, text: &mut Text) {
        for alarm in &self.alarms {
            let member = if alarm.member_id == 0 {
                String::new()
            } else {
                format!("memberID:{} ", alarm.member_id)
            };
            let kind = if alarm.alarm == 0 {
                String::new()
            } else {
                format!("alarm:{} ", alarm_name(alarm.alarm))
            };
            text.line(format!("{member}{kind}").trim_end());
        }
    }

    fn json(&self, _: bool) -> String {
        json::with_header(self.header.as_ref())
            .list("alarms", &self.alarms, json::alarm)
            .end()
    }

    fn fields(&self, text: &mut Text) -> bool {
        text.header(self.header.as_ref());
        for alarm in &self.alarms {
            text.id("MemberID", alarm.member_id);
            text.field("AlarmType", alarm_name(alarm.alarm));
            text.line("");
        }
        true
    }

    fn protobuf(&self) -> Wire {
        Wire::of(self)
    }
}
