//! Users and roles.

use grpc::proto::authpb::Permission;
use grpc::proto::authpb::permission::Type;
use grpc::proto::etcdserverpb::{
    AuthRoleGetResponse, AuthRoleListResponse, AuthStatusResponse, AuthUserGetResponse,
    AuthUserListResponse, ResponseHeader,
};

use crate::go::json::string;
use crate::go::quote::quote;
use crate::prefix::prefix_end;

use super::{Answer, Text, Wire, json};

/// The role that may do everything.
const ROOT: &str = "root";
/// The end of a range without end.
const NO_END: &[u8] = b"\0";

/// A change without details.
#[derive(Debug)]
pub(crate) struct Done {
    /// What `simple` prints.
    pub(crate) simple: Vec<u8>,
    /// The header of the answer.
    pub(crate) header: Option<ResponseHeader>,
}

impl Answer for Done {
    fn simple(&self, text: &mut Text) {
        text.line(&self.simple);
    }

    fn json(&self, _: bool) -> String {
        json::with_header(self.header.as_ref()).end()
    }

    fn fields(&self, text: &mut Text) -> bool {
        text.header(self.header.as_ref());
        true
    }

    fn protobuf(&self) -> Wire {
        // Every such answer is a message with nothing but its header under number 1.
        Wire::of(&AuthRoleListResponse {
            header: self.header,
            roles: Vec::new(),
        })
    }
}

/// The permissions of a role.
#[derive(Debug)]
pub(crate) struct Role(pub(crate) String, pub(crate) AuthRoleGetResponse);

fn may(permission: &Permission, wanted: Type) -> bool {
    let kind = permission.perm_type;
    kind == Type::Readwrite as i32 || kind == wanted as i32
}

fn keys(text: &mut Text, permission: &Permission) {
    let (key, end) = (&permission.key[..], &permission.range_end[..]);
    let mut line = b"\t".to_vec();
    if end.is_empty() {
        line.extend_from_slice(key);
        return text.line(line);
    }
    line.push(b'[');
    line.extend_from_slice(key);
    line.extend_from_slice(b", ");
    if end == NO_END {
        line.extend_from_slice(b"<open ended>");
    } else {
        line.extend_from_slice(end);
        line.push(b')');
    }
    if !key.is_empty() && prefix_end(key) == end {
        line.extend_from_slice(b" (prefix ");
        line.extend_from_slice(key);
        line.push(b')');
    }
    text.line(line);
}

impl Answer for Role {
    fn simple(&self, text: &mut Text) {
        let Role(name, role) = self;
        text.line(format!("Role {name}"));
        for (head, wanted) in [("KV Read:", Type::Read), ("KV Write:", Type::Write)] {
            text.line(head);
            if name == ROOT && role.perm.is_empty() {
                text.line("\t[, <open ended>");
            }
            role.perm
                .iter()
                .filter(|permission| may(permission, wanted))
                .for_each(|permission| keys(text, permission));
        }
    }

    fn json(&self, _: bool) -> String {
        json::with_header(self.1.header.as_ref())
            .list("perm", &self.1.perm, json::permission)
            .end()
    }

    fn fields(&self, text: &mut Text) -> bool {
        text.header(self.1.header.as_ref());
        for permission in &self.1.perm {
            let kind = Type::try_from(permission.perm_type).map_or("", |kind| kind.as_str_name());
            text.field("PermType", format!(" {kind}"));
            text.quoted("Key", &permission.key);
            text.quoted("RangeEnd", &permission.range_end);
        }
        true
    }

    fn protobuf(&self) -> Wire {
        Wire::of(&self.1)
    }
}

impl Answer for AuthRoleListResponse {
    fn simple(&self, text: &mut Text) {
        self.roles.iter().for_each(|role| text.line(role));
    }

    fn json(&self, _: bool) -> String {
        json::with_header(self.header.as_ref())
            .list("roles", &self.roles, |role| string(role))
            .end()
    }

    fn fields(&self, text: &mut Text) -> bool {
        text.header(self.header.as_ref());
        let roles: String = self
            .roles
            .iter()
            .map(|role| format!(" {}", quote(role.as_bytes())))
            .collect();
        text.line(format!("\"Roles\" :{roles}"));
        true
    }

    fn protobuf(&self) -> Wire {
        Wire::of(self)
    }
}

/// The roles of a user.
#[derive(Debug)]
pub(crate) struct User(pub(crate) String, pub(crate) AuthUserGetResponse);

impl Answer for User {
    fn simple(&self, text: &mut Text) {
        let roles: String = self.1.roles.iter().map(|role| format!(" {role}")).collect();
        text.line(format!("User: {}", self.0));
        text.line(format!("Roles:{roles}"));
    }

    fn json(&self, _: bool) -> String {
        json::with_header(self.1.header.as_ref())
            .list("roles", &self.1.roles, |role| string(role))
            .end()
    }

    fn protobuf(&self) -> Wire {
        Wire::of(&self.1)
    }
}

impl Answer for AuthUserListResponse {
    fn simple(&self, text: &mut Text) {
        self.users.iter().for_each(|user| text.line(user));
    }

    fn json(&self, _: bool) -> String {
        json::with_header(self.header.as_ref())
            .list("users", &self.users, |user| string(user))
            .end()
    }

    fn protobuf(&self) -> Wire {
        Wire::of(self)
    }
}

impl Answer for AuthStatusResponse {
    fn simple(&self, text: &mut Text) {
        text.line(format!("Authentication Status: {}", self.enabled));
        text.line(format!("AuthRevision: {}", self.auth_revision));
    }

    fn json(&self, _: bool) -> String {
        json::with_header(self.header.as_ref())
            .flag("enabled", self.enabled)
            .nonzero("authRevision", self.auth_revision)
            .end()
    }

    fn protobuf(&self) -> Wire {
        Wire::of(self)
    }
}
