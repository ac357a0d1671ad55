//! What a server answers when it does not do what it was asked.

use std::fmt;

/// The number of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) u32);

impl Code {
    pub(crate) const OK: Code = Code(0);
    pub(crate) const UNKNOWN: Code = Code(2);
    pub(crate) const DEADLINE_EXCEEDED: Code = Code(4);
    pub(crate) const RESOURCE_EXHAUSTED: Code = Code(8);
    pub(crate) const UNIMPLEMENTED: Code = Code(12);
    pub(crate) const INTERNAL: Code = Code(13);
    pub(crate) const UNAVAILABLE: Code = Code(14);
    pub(crate) const UNAUTHENTICATED: Code = Code(16);
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 17] = [
            "OK",
            "Canceled",
            "Unknown",
            "InvalidArgument",
            "DeadlineExceeded",
            "NotFound",
            "AlreadyExists",
            "PermissionDenied",
            "ResourceExhausted",
            "FailedPrecondition",
            "Aborted",
            "OutOfRange",
            "Unimplemented",
            "Internal",
            "Unavailable",
            "DataLoss",
            "Unauthenticated",
        ];
        match NAMES.get(self.0 as usize) {
            Some(name) => f.write_str(name),
            None => write!(f, "Code({})", self.0),
        }
    }
}

/// A status that is not OK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Status {
    /// What kind of error it is.
    pub(crate) code: Code,
    /// What the server says.
    pub(crate) message: String,
}

impl Status {
    /// A status.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, message }
    }

    /// Whether the store said it, rather than the way to it.
    pub(crate) fn is_etcds(&self) -> bool {
        self.message.starts_with("etcdserver: ")
    }

    /// The text with its code.
    pub(crate) fn wire_text(&self) -> String {
        format!("rpc error: code = {} desc = {}", self.code, self.message)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_etcds() {
            f.write_str(&self.message)
        } else {
            f.write_str(&self.wire_text())
        }
    }
}

/// Decodes the percent-encoded `grpc-message`; what is no encoding stays.
pub(crate) fn decode_message(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, behind @ ..] = rest {
        let digit = |at: usize| {
            behind
                .get(at)
                .and_then(|byte| char::from(*byte).to_digit(16))
        };
        match (*first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                rest = &behind[2..];
            }
            (byte, ..) => {
                bytes.push(byte);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_decoded() {
        let check =
            |text: &str, expected: &str| assert_eq!(decode_message(text.as_bytes()), expected);
        check("plain", "plain");
        check("a%20b%3a", "a b:");
        check("%", "%");
        check("%2", "%2");
        check("%zz%C3%A4", "%zzä");
    }

    #[test]
    fn the_stores_texts_stand_alone() {
        let code = Code(5);
        assert_eq!(
            Status::new(code, "etcdserver: lease not found").to_string(),
            "etcdserver: lease not found"
        );
        assert_eq!(
            Status::new(code, "gone").to_string(),
            "rpc error: code = NotFound desc = gone"
        );
        assert_eq!(
            Status::new(Code(99), "x").to_string(),
            "rpc error: code = Code(99) desc = x"
        );
    }
}
