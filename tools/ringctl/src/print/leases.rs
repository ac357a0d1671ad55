//! Leases.

use grpc::proto::etcdserverpb::{
    LeaseGrantResponse, LeaseKeepAliveResponse, LeaseLeasesResponse, LeaseRevokeResponse,
    LeaseTimeToLiveResponse, ResponseHeader,
};

use crate::go::json::{Object, array};

use super::{Answer, Text, Wire, json};

/// etcdctl takes these answers for their headers.
fn header_alone(header: Option<&ResponseHeader>) -> Wire {
    Wire::of(&header.copied().unwrap_or_default())
}

impl Answer for LeaseGrantResponse {
    fn simple(&self, text: &mut Text) {
        text.line(format!(
            "lease {:016x} granted with TTL({}s)",
            self.id, self.ttl
        ));
    }

    fn json(&self, _: bool) -> String {
        json::flat(self.header.as_ref())
            .number("ID", self.id)
            .number("TTL", self.ttl)
            .string("Error", &self.error)
            .end()
    }

    fn fields(&self, text: &mut Text) -> bool {
        text.header(self.header.as_ref());
        text.lease("ID", self.id);
        text.field("TTL", self.ttl);
        true
    }

    fn protobuf(&self) -> Wire {
        header_alone(self.header.as_ref())
    }
}

/// An ended lease.
#[derive(Debug)]
pub(crate) struct Revoked(pub(crate) i64, pub(crate) LeaseRevokeResponse);

impl Answer for Revoked {
    fn simple(&self, text: &mut Text) {
        text.line(format!("lease {:016x} revoked", self.0));
    }

    fn json(&self, _: bool) -> String {
        json::with_header(self.1.header.as_ref()).end()
    }

    fn fields(&self, text: &mut Text) -> bool {
        text.header(self.1.header.as_ref());
        true
    }

    fn protobuf(&self) -> Wire {
        Wire::NoMessage("LeaseRevokeResponse")
    }
}

impl Answer for LeaseKeepAliveResponse {
    fn simple(&self, text: &mut Text) {
        text.line(format!(
            "lease {:016x} keepalived with TTL({})",
            self.id, self.ttl
        ));
    }

    fn json(&self, _: bool) -> String {
        json::flat(self.header.as_ref())
            .number("ID", self.id)
            .number("TTL", self.ttl)
            .end()
    }

    fn fields(&self, text: &mut Text) -> bool {
        text.header(self.header.as_ref());
        text.lease("ID", self.id);
        text.field("TTL", self.ttl);
        true
    }

    fn protobuf(&self) -> Wire {
        header_alone(self.header.as_ref())
    }
}

/// How long a lease lives, with its keys if they were asked for.
#[derive(Debug)]
pub(crate) struct Remaining {
    /// What the server says.
    pub(crate) answer: LeaseTimeToLiveResponse,
    /// Whether to print the keys.
    pub(crate) keys: bool,
}

impl Answer for Remaining {
    fn simple(&self, text: &mut Text) {
        let answer = &self.answer;
        if answer.granted_ttl == 0 && answer.ttl == -1 {
            text.line(format!("lease {:016x} already expired", answer.id));
            return;
        }
        let mut line = format!(
            "lease {:016x} granted with TTL({}s), remaining({}s)",
            answer.id, answer.granted_ttl, answer.ttl
        )
        .into_bytes();
        if self.keys {
            line.extend_from_slice(b", attached keys([");
            line.extend_from_slice(&answer.keys.join(&b' '));
            line.extend_from_slice(b"])");
        }
        text.line(line);
    }

    fn json(&self, _: bool) -> String {
        let answer = &self.answer;
        json::flat(answer.header.as_ref())
            .number("id", answer.id)
            .number("ttl", answer.ttl)
            .number("granted-ttl", answer.granted_ttl)
            .raw("keys", &json::byte_strings(&answer.keys))
            .end()
    }

    fn fields(&self, text: &mut Text) -> bool {
        let answer = &self.answer;
        text.header(answer.header.as_ref());
        text.lease("ID", answer.id);
        text.field("TTL", answer.ttl);
        text.field("GrantedTTL", answer.granted_ttl);
        answer.keys.iter().for_each(|key| text.quoted("Key", key));
        true
    }

    fn protobuf(&self) -> Wire {
        header_alone(self.answer.header.as_ref())
    }
}

impl Answer for LeaseLeasesResponse {
    fn simple(&self, text: &mut Text) {
        text.line(format!("found {} leases", self.leases.len()));
        self.leases
            .iter()
            .for_each(|lease| text.line(format!("{:016x}", lease.id)));
    }

    fn json(&self, _: bool) -> String {
        let leases = array(&self.leases, |lease| {
            Object::new().number("id", lease.id).end()
        });
        json::flat(self.header.as_ref())
            .raw("leases", &leases)
            .end()
    }

    fn fields(&self, text: &mut Text) -> bool {
        text.header(self.header.as_ref());
        self.leases
            .iter()
            .for_each(|lease| text.lease("ID", lease.id));
        true
    }

    fn protobuf(&self) -> Wire {
        header_alone(self.header.as_ref())
    }
}
