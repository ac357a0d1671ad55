//! Who may do what.
//!
//! [`authorize`] is the only way to an [`Authorized`] value, and log entries and reads are built
//! from nothing else. It walks the same tree of an operation that the executor walks and asks the
//! policy for each right on the way. It knows neither tokens nor passwords: the edge turns those
//! into an [`Identity`].

use std::ops::Deref;

use bytes::Bytes;
use thiserror::Error;

use crate::command::*;
use crate::key::{End, KeyRange};

/// In whose name a request is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// No credentials were given.
    Anonymous,
    /// An authenticated user.
    User {
        /// Name.
        name: Bytes,
        /// Revision of the auth store that the credentials were checked against.
        auth_revision: u64,
    },
    /// The member itself: lease expiry, alarms, its own attributes.
    Member,
}

/// The rules in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Authentication is off: everybody may do everything.
    #[default]
    Disabled,
}

/// Why a request was refused. The texts on the wire are in `grpc::status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AuthError {
    /// A right is missing.
    #[error("permission denied")]
    PermissionDenied,
}

/// Something that passed [`authorize`]. Nothing else is executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorized<T> {
    value: T,
    user: Bytes,
    auth_revision: u64,
}

impl<T> Authorized<T> {
    /// Name of the user; empty without authentication.
    pub fn user(&self) -> &[u8] {
        &self.user
    }

    /// Revision of the auth store under which it was authorised; 0 without one.
    pub fn auth_revision(&self) -> u64 {
        self.auth_revision
    }

    /// Gives up the proof.
    pub fn into_inner(self) -> T {
        self.value
    }

    fn with<U>(self, value: U) -> Authorized<U> {
        Authorized {
            value,
            user: self.user,
            auth_revision: self.auth_revision,
        }
    }
}

impl<T> Deref for Authorized<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// An authorised operation, split by how it is executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorizedOperation {
    /// Goes through the log.
    Write(Authorized<Command>),
    /// A read.
    Range(Authorized<Range>),
    /// A transaction without writes.
    ReadTxn(Authorized<Txn>),
}

impl Authorized<Operation> {
    /// Splits by kind; each part stays authorised.
    pub fn split(self) -> AuthorizedOperation {
        let Authorized {
            value,
            user,
            auth_revision,
        } = self;
        let rights = Authorized {
            value: (),
            user,
            auth_revision,
        };
        match value {
            Operation::Write(command) => AuthorizedOperation::Write(rights.with(command)),
            Operation::Range(range) => AuthorizedOperation::Range(rights.with(range)),
            Operation::ReadTxn(txn) => AuthorizedOperation::ReadTxn(rights.with(txn)),
        }
    }
}

/// Checks every right that `operation` needs.
///
/// # Errors
/// `PermissionDenied` if one is missing; nothing of the operation may then be executed.
pub fn authorize(
    operation: Operation,
    identity: &Identity,
    policy: &Policy,
) -> Result<Authorized<Operation>, AuthError> {
    let member = *identity == Identity::Member;
    if !member && policy.restricts() {
        visit_operation(&operation, &mut |right| policy.allows(identity, right))?;
    }
    let (user, auth_revision) = match identity {
        Identity::User {
            name,
            auth_revision,
        } => (name.clone(), *auth_revision),
        Identity::Anonymous | Identity::Member => (Bytes::new(), 0),
    };
    Ok(Authorized {
        value: operation,
        user,
        auth_revision,
    })
}

/// As [`authorize`], for a command.
///
/// # Errors
/// As [`authorize`].
pub fn authorize_command(
    command: Command,
    identity: &Identity,
    policy: &Policy,
) -> Result<Authorized<Command>, AuthError> {
    match authorize(Operation::Write(command), identity, policy)?.split() {
        AuthorizedOperation::Write(command) => Ok(command),
        AuthorizedOperation::Range(_) | AuthorizedOperation::ReadTxn(_) => {
            unreachable!("a write stays a write")
        }
    }
}

/// Keys that a right speaks of; borrowed, so that asking costs no allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeySpan<'a> {
    /// One key.
    Single(&'a [u8]),
    /// From the first key to before the second.
    Before(&'a [u8], &'a [u8]),
    /// From this key on.
    From(&'a [u8]),
}

impl<'a> From<&'a KeyRange> for KeySpan<'a> {
    fn from(range: &'a KeyRange) -> Self {
        match &range.end {
            End::Single => KeySpan::Single(&range.start),
            End::Before(end) => KeySpan::Before(&range.start, end),
            End::Unbounded => KeySpan::From(&range.start),
        }
    }
}

/// One thing that an operation needs to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right<'a> {
    /// See these keys.
    Read(KeySpan<'a>),
    /// Change these keys.
    Write(KeySpan<'a>),
    /// Change every key that hangs on this lease.
    WriteKeysOf(LeaseId),
    /// Be any authenticated user.
    AnyUser,
    /// Hold the root role.
    Root,
}

impl Policy {
    fn restricts(self) -> bool {
        match self {
            Policy::Disabled => false,
        }
    }

    fn allows(self, _identity: &Identity, _right: Right<'_>) -> Result<(), AuthError> {
        match self {
            Policy::Disabled => Ok(()),
        }
    }
}

type Visitor<'v> = dyn FnMut(Right<'_>) -> Result<(), AuthError> + 'v;

/// Calls `visit` with every right that `operation` needs, in the order of execution, until one is
/// refused. Both branches of a transaction count: which one runs is known too late.
///
/// # Errors
/// The first refusal.
pub fn visit_operation(operation: &Operation, visit: &mut Visitor<'_>) -> Result<(), AuthError> {
    match operation {
        Operation::Write(command) => visit_command(command, visit),
        Operation::Range(range) => visit(Right::Read((&range.range).into())),
        Operation::ReadTxn(txn) => visit_txn(txn, visit),
    }
}

fn visit_command(command: &Command, visit: &mut Visitor<'_>) -> Result<(), AuthError> {
    match command {
        Command::Put(put) => visit_put(put, visit),
        Command::DeleteRange(delete) => visit_delete(delete, visit),
        Command::Txn(txn) => visit_txn(txn, visit),
        Command::LeaseGrant { .. } => visit(Right::AnyUser),
        Command::LeaseRevoke { id } => {
            visit(Right::AnyUser)?;
            visit(Right::WriteKeysOf(*id))
        }
        Command::Compact { .. }
        | Command::LeaseExpire { .. }
        | Command::Alarm { .. }
        | Command::MemberAttributes(_)
        | Command::ClusterVersion(_) => visit(Right::Root),
    }
}

fn visit_put(put: &Put, visit: &mut Visitor<'_>) -> Result<(), AuthError> {
    let key = KeySpan::Single(&put.key);
    visit(Right::Write(key))?;
    if put.prev_kv {
        visit(Right::Read(key))?;
    }
    if put.lease != LeaseId::NONE {
        visit(Right::WriteKeysOf(put.lease))?;
    }
    Ok(())
}

fn visit_delete(delete: &DeleteRange, visit: &mut Visitor<'_>) -> Result<(), AuthError> {
    let keys = KeySpan::from(&delete.range);
    visit(Right::Write(keys))?;
    if delete.prev_kv {
        visit(Right::Read(keys))?;
    }
    Ok(())
}

fn visit_txn(txn: &Txn, visit: &mut Visitor<'_>) -> Result<(), AuthError> {
    for compare in &txn.compare {
        visit(Right::Read((&compare.range).into()))?;
    }
    for operation in txn.success.iter().chain(&txn.failure) {
        match operation {
            TxnOperation::Range(range) => visit(Right::Read((&range.range).into()))?,
            TxnOperation::Put(put) => visit_put(put, visit)?,
            TxnOperation::DeleteRange(delete) => visit_delete(delete, visit)?,
            TxnOperation::Txn(nested) => visit_txn(nested, visit)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn rights(operation: &Operation) -> Vec<String> {
        let mut seen = Vec::new();
        visit_operation(operation, &mut |right| {
            seen.push(format!("{right:?}"));
            Ok(())
        })
        .expect("the visitor allows everything");
        seen
    }

    #[test]
    fn a_transaction_asks_for_both_branches_and_every_level() {
        let put = |name, prev_kv, lease| Put {
            key: key(name),
            value: Bytes::new(),
            lease: LeaseId(lease),
            prev_kv,
            ignore_value: false,
            ignore_lease: false,
        };
        let txn = Txn {
            compare: vec![Compare {
                range: KeyRange::from_wire(key("a"), key("c")),
                relation: Relation::Equal,
                target: CompareTarget::Version(0),
            }],
            success: vec![TxnOperation::Txn(Txn {
                compare: Vec::new(),
                success: vec![TxnOperation::Put(put("k", true, 7))],
                failure: Vec::new(),
            })],
            failure: vec![TxnOperation::DeleteRange(DeleteRange {
                range: KeyRange::from_wire(key("z"), key("\0")),
                prev_kv: false,
            })],
        };
        assert_eq!(
            rights(&Operation::Write(Command::Txn(txn))),
            [
                "Read(Before([97], [99]))",
                "Write(Single([107]))",
                "Read(Single([107]))",
                "WriteKeysOf(LeaseId(7))",
                "Write(From([122]))",
            ]
        );
    }

    #[test]
    fn a_refusal_ends_the_walk() {
        let mut asked = 0;
        let outcome = visit_operation(
            &Operation::Write(Command::LeaseRevoke { id: LeaseId(3) }),
            &mut |_| {
                asked += 1;
                Err(AuthError::PermissionDenied)
            },
        );
        assert_eq!(outcome, Err(AuthError::PermissionDenied));
        assert_eq!(asked, 1);
    }

    #[test]
    fn the_user_travels_with_the_operation() {
        let identity = Identity::User {
            name: key("alice"),
            auth_revision: 4,
        };
        let range = Operation::Range(Range::all(KeyRange::single(key("k"))));
        let range = authorize(range, &identity, &Policy::Disabled).expect("auth is disabled");
        let AuthorizedOperation::Range(range) = range.split() else {
            panic!("a range stays a range");
        };
        assert_eq!(range.user(), b"alice");
        assert_eq!(range.auth_revision(), 4);
    }
}
