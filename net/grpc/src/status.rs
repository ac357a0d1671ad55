//! Answers that are not successes: gRPC codes, etcd's error table, and how a message travels in a
//! header.
//!
//! Clients match on the exact text as well as on the code, so both are wire format. The one place
//! where the engine's errors become statuses is [`Status::from`].

use std::borrow::Cow;
use std::fmt;

use bytes::{BufMut, BytesMut};
use engine::command::CommandError;
use http::HeaderValue;

/// Result code of a call; the numbers are gRPC's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Code {
    /// Success.
    Ok = 0,
    /// Cancelled by the caller.
    Canceled = 1,
    /// No better code is known.
    Unknown = 2,
    /// The request is wrong whatever the state.
    InvalidArgument = 3,
    /// The caller's deadline passed.
    DeadlineExceeded = 4,
    /// What was asked for does not exist.
    NotFound = 5,
    /// What was to be created exists.
    AlreadyExists = 6,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// A quota or a buffer is exhausted.
    ResourceExhausted = 8,
    /// The state does not allow this.
    FailedPrecondition = 9,
    /// Aborted by a conflict.
    Aborted = 10,
    /// Past the valid range.
    OutOfRange = 11,
    /// The method or feature does not exist here.
    Unimplemented = 12,
    /// An invariant was broken.
    Internal = 13,
    /// Try again later, possibly elsewhere.
    Unavailable = 14,
    /// Data was lost or damaged.
    DataLoss = 15,
    /// The caller did not prove who it is.
    Unauthenticated = 16,
}

impl Code {
    /// Every code, by number.
    pub const ALL: [Code; 17] = [
        Code::Ok,
        Code::Canceled,
        Code::Unknown,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::Unauthenticated,
    ];

    /// Its name in gRPC's own libraries and their metrics.
    pub fn name(self) -> String {
        match self {
            Code::Ok => "OK".to_owned(),
            other => format!("{other:?}"),
        }
    }

    /// The number as it stands in the `grpc-status` trailer.
    pub fn header_value(self) -> HeaderValue {
        const VALUES: [&str; 17] = [
            "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15",
            "16",
        ];
        HeaderValue::from_static(VALUES[self as usize])
    }
}

/// Why a call failed. Never carries [`Code::Ok`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The code clients branch on.
    pub code: Code,
    /// The text clients match on.
    pub message: Cow<'static, str>,
}

impl Status {
    /// A status with a fixed text.
    pub const fn fixed(code: Code, message: &'static str) -> Self {
        Status {
            code,
            message: Cow::Borrowed(message),
        }
    }

    /// A status with a composed text.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Status {
            code,
            message: message.into(),
        }
    }

    /// The text as it stands in the `grpc-message` trailer: bytes outside `0x20..=0x7e` and `%` are
    /// percent-encoded. Fixed texts without such bytes are not copied.
    pub fn header_message(&self) -> HeaderValue {
        let plain = |byte: &u8| (0x20..=0x7e).contains(byte) && *byte != b'%';
        if let Cow::Borrowed(text) = self.message
            && text.as_bytes().iter().all(plain)
        {
            return HeaderValue::from_static(text);
        }
        let mut encoded = BytesMut::with_capacity(self.message.len() + 16);
        for byte in self.message.bytes() {
            if plain(&byte) {
                encoded.put_u8(byte);
            } else {
                encoded.put_slice(&[b'%', upper_hex(byte >> 4), upper_hex(byte & 15)]);
            }
        }
        HeaderValue::from_maybe_shared(encoded.freeze())
            .unwrap_or(HeaderValue::from_static("message could not be encoded"))
    }
}

fn upper_hex(nibble: u8) -> u8 {
    b"0123456789ABCDEF"[usize::from(nibble)]
}

/// Undoes the percent-encoding of a `grpc-message`; malformed escapes stay as they are.
pub fn decode_message(encoded: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    while let Some((&first, tail)) = rest.split_first() {
        let escape = match tail {
            [high, low, ..] if first == b'%' => hex_digit(*high)
                .zip(hex_digit(*low))
                .map(|(high, low)| high << 4 | low),
            _ => None,
        };
        bytes.push(escape.unwrap_or(first));
        rest = if escape.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

impl fmt::Display for Status {
    /// The form etcd uses inside a watch's `cancel_reason`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "rpc error: code = {:?} desc = {}",
            self.code, self.message
        )
    }
}

impl std::error::Error for Status {}

impl From<CommandError> for Status {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Compacted => COMPACTED,
            CommandError::FutureRevision => FUTURE_REVISION,
            CommandError::KeyNotFound => KEY_NOT_FOUND,
            CommandError::LeaseNotFound => LEASE_NOT_FOUND,
            CommandError::LeaseExists => LEASE_EXIST,
            CommandError::NoSpace => NO_SPACE,
            CommandError::Corrupt => CORRUPT,
        }
    }
}

/// One constant per line, and all of them as a table.
macro_rules! table {
    ($($name:ident: $code:ident, $message:literal;)*) => {
        $(
            #[doc = concat!("`", $message, "`.")]
            pub const $name: Status = Status::fixed(Code::$code, $message);
        )*

        /// etcd's whole error table.
        pub const ETCD_ERRORS: &[Status] = &[$($name),*];
    };
}

table! {
    EMPTY_KEY: InvalidArgument, "etcdserver: key is not provided";
    KEY_NOT_FOUND: InvalidArgument, "etcdserver: key not found";
    VALUE_PROVIDED: InvalidArgument, "etcdserver: value is provided";
    LEASE_PROVIDED: InvalidArgument, "etcdserver: lease is provided";
    TOO_MANY_OPS: InvalidArgument, "etcdserver: too many operations in txn request";
    DUPLICATE_KEY: InvalidArgument, "etcdserver: duplicate key given in txn request";
    INVALID_CLIENT_API_VERSION: InvalidArgument, "etcdserver: invalid client api version";
    INVALID_SORT_OPTION: InvalidArgument, "etcdserver: invalid sort option";
    COMPACTED: OutOfRange, "etcdserver: mvcc: required revision has been compacted";
    FUTURE_REVISION: OutOfRange, "etcdserver: mvcc: required revision is a future revision";
    NO_SPACE: ResourceExhausted, "etcdserver: mvcc: database space exceeded";
    LEASE_NOT_FOUND: NotFound, "etcdserver: requested lease not found";
    LEASE_EXIST: FailedPrecondition, "etcdserver: lease already exists";
    LEASE_TTL_TOO_LARGE: OutOfRange, "etcdserver: too large lease TTL";
    WATCH_CANCELED: Canceled, "etcdserver: watch canceled";
    MEMBER_EXIST: FailedPrecondition, "etcdserver: member ID already exist";
    PEER_URL_EXISTS: FailedPrecondition, "etcdserver: Peer URLs already exists";
    MEMBER_NOT_ENOUGH_STARTED: FailedPrecondition, "etcdserver: re-configuration failed due to not enough started members";
    MEMBER_BAD_URLS: InvalidArgument, "etcdserver: given member URLs are invalid";
    MEMBER_NOT_FOUND: NotFound, "etcdserver: member not found";
    MEMBER_NOT_LEARNER: FailedPrecondition, "etcdserver: can only promote a learner member";
    LEARNER_NOT_READY: FailedPrecondition, "etcdserver: can only promote a learner member which is in sync with leader";
    TOO_MANY_LEARNERS: FailedPrecondition, "etcdserver: too many learner members in cluster";
    CLUSTER_ID_MISMATCH: FailedPrecondition, "etcdserver: cluster ID mismatch";
    REQUEST_TOO_LARGE: InvalidArgument, "etcdserver: request is too large";
    REQUEST_TOO_MANY_REQUESTS: ResourceExhausted, "etcdserver: too many requests";
    ROOT_USER_NOT_EXIST: FailedPrecondition, "etcdserver: root user does not exist";
    ROOT_ROLE_NOT_EXIST: FailedPrecondition, "etcdserver: root user does not have root role";
    USER_ALREADY_EXIST: FailedPrecondition, "etcdserver: user name already exists";
    USER_EMPTY: InvalidArgument, "etcdserver: user name is empty";
    USER_NOT_FOUND: FailedPrecondition, "etcdserver: user name not found";
    ROLE_ALREADY_EXIST: FailedPrecondition, "etcdserver: role name already exists";
    ROLE_NOT_FOUND: FailedPrecondition, "etcdserver: role name not found";
    ROLE_EMPTY: InvalidArgument, "etcdserver: role name is empty";
    AUTH_FAILED: InvalidArgument, "etcdserver: authentication failed, invalid user ID or password";
    PERMISSION_NOT_GIVEN: InvalidArgument, "etcdserver: permission not given";
    PERMISSION_DENIED: PermissionDenied, "etcdserver: permission denied";
    ROLE_NOT_GRANTED: FailedPrecondition, "etcdserver: role is not granted to the user";
    PERMISSION_NOT_GRANTED: FailedPrecondition, "etcdserver: permission is not granted to the role";
    AUTH_NOT_ENABLED: FailedPrecondition, "etcdserver: authentication is not enabled";
    INVALID_AUTH_TOKEN: Unauthenticated, "etcdserver: invalid auth token";
    INVALID_AUTH_MGMT: InvalidArgument, "etcdserver: invalid auth management";
    AUTH_OLD_REVISION: InvalidArgument, "etcdserver: revision of auth store is old";
    NO_LEADER: Unavailable, "etcdserver: no leader";
    NOT_LEADER: FailedPrecondition, "etcdserver: not leader";
    LEADER_CHANGED: Unavailable, "etcdserver: leader changed";
    NOT_CAPABLE: FailedPrecondition, "etcdserver: not capable";
    STOPPED: Unavailable, "etcdserver: server stopped";
    TIMEOUT: Unavailable, "etcdserver: request timed out";
    TIMEOUT_DUE_TO_LEADER_FAIL: Unavailable, "etcdserver: request timed out, possibly due to previous leader failure";
    TIMEOUT_DUE_TO_CONNECTION_LOST: Unavailable, "etcdserver: request timed out, possibly due to connection lost";
    TIMEOUT_WAIT_APPLIED_INDEX: Unavailable, "etcdserver: request timed out, waiting for the applied index took too long";
    UNHEALTHY: Unavailable, "etcdserver: unhealthy cluster";
    CORRUPT: DataLoss, "etcdserver: corrupt cluster";
    NOT_SUPPORTED_FOR_LEARNER: FailedPrecondition, "etcdserver: rpc not supported for learner";
    BAD_LEADER_TRANSFEREE: FailedPrecondition, "etcdserver: bad leader transferee";
    WRONG_DOWNGRADE_VERSION_FORMAT: InvalidArgument, "etcdserver: wrong downgrade target version format";
    INVALID_DOWNGRADE_TARGET_VERSION: InvalidArgument, "etcdserver: invalid downgrade target version";
    CLUSTER_VERSION_UNAVAILABLE: FailedPrecondition, "etcdserver: cluster version not found during downgrade";
    DOWNGRADE_IN_PROCESS: FailedPrecondition, "etcdserver: cluster has a downgrade job in progress";
    NO_INFLIGHT_DOWNGRADE: FailedPrecondition, "etcdserver: no inflight downgrade job";
    CANCELED: Canceled, "etcdserver: request canceled";
    DEADLINE_EXCEEDED: DeadlineExceeded, "etcdserver: context deadline exceeded";
}

/// Too many entries wait to be applied. etcd sends its client-side error value here, which carries
/// no code, hence `Unknown`.
pub const TOO_MANY_REQUESTS: Status = Status::fixed(Code::Unknown, "etcdserver: too many requests");

/// A membership change without enough started members; `Unknown` for the same reason.
pub const NOT_ENOUGH_STARTED_MEMBERS: Status = Status::fixed(
    Code::Unknown,
    "etcdserver: re-configuration failed due to not enough started members",
);

/// RangeStream with an order other than the default.
pub const RANGE_STREAM_SORT: Status = Status::fixed(
    Code::Unimplemented,
    "RangeStream does not support custom sort orders",
);

/// RangeStream with a bound on revisions.
pub const RANGE_STREAM_FILTERS: Status = Status::fixed(
    Code::Unimplemented,
    "RangeStream does not support revision filters",
);

/// The deadline of `grpc-timeout` passed while the call ran.
pub const CONTEXT_DEADLINE_EXCEEDED: Status =
    Status::fixed(Code::DeadlineExceeded, "context deadline exceeded");

/// The caller went away while the call ran.
pub const CONTEXT_CANCELED: Status = Status::fixed(Code::Canceled, "context canceled");

/// A watch with an empty range; travels as a `cancel_reason`.
pub const WATCH_RANGE_EMPTY: &str = "mvcc: watcher range is empty";

/// A watch with an id in use on its stream; travels as a `cancel_reason`.
pub const WATCH_DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_complete_and_unambiguous() {
        assert_eq!(ETCD_ERRORS.len(), 63);
        let mut texts: Vec<&str> = ETCD_ERRORS.iter().map(|s| s.message.as_ref()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), 63);
        assert!(texts.iter().all(|text| text.starts_with("etcdserver: ")));
        assert!(ETCD_ERRORS.iter().all(|status| status.code != Code::Ok));
    }

    #[test]
    fn codes_have_their_numbers() {
        for (code, number) in [
            (Code::Ok, "0"),
            (Code::Canceled, "1"),
            (Code::InvalidArgument, "3"),
            (Code::OutOfRange, "11"),
            (Code::Unavailable, "14"),
            (Code::Unauthenticated, "16"),
        ] {
            assert_eq!(code.header_value(), number);
        }
    }

    #[test]
    fn messages_are_percent_encoded() {
        let check = |text: &'static str, expected: &str| {
            for status in [
                Status::fixed(Code::Unknown, text),
                Status::new(Code::Unknown, text.to_owned()),
            ] {
                let header = status.header_message();
                assert_eq!(header, expected);
                assert_eq!(decode_message(header.as_bytes()), text);
            }
        };
        check("etcdserver: no leader", "etcdserver: no leader");
        check("", "");
        check("100 %", "100 %25");
        check("a\nb", "a%0Ab");
        check("\u{e9}", "%C3%A9");
        assert_eq!(decode_message(b"%zz%4"), "%zz%4");
    }

    #[test]
    fn cancel_reasons_read_as_go_prints_them() {
        assert_eq!(
            PERMISSION_DENIED.to_string(),
            "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
        );
    }
}
