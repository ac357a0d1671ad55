//! JSON as Go's `encoding/json` writes a struct: fields in their order, bytes in base64, `<`, `>` and `&`
//! escaped. Whether a zero is written is the caller's choice, field by field.

use std::fmt::Write;

/// An object under construction.
#[derive(Debug)]
pub(crate) struct Object(String);

impl Object {
    /// `{}` so far.
    pub(crate) fn new() -> Self {
        Self(String::from("{"))
    }

    /// A field with ready JSON.
    pub(crate) fn raw(mut self, name: &str, json: &str) -> Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        push_string(&mut self.0, name);
        self.0.push(':');
        self.0.push_str(json);
        self
    }

    /// A field with ready JSON, if there is one.
    pub(crate) fn option(self, name: &str, json: Option<String>) -> Self {
        match json {
            Some(json) => self.raw(name, &json),
            None => self,
        }
    }

    /// A number, always.
    pub(crate) fn number(self, name: &str, value: impl Into<i128>) -> Self {
        self.raw(name, &value.into().to_string())
    }

    /// A number unless it is zero.
    pub(crate) fn nonzero(self, name: &str, value: impl Into<i128>) -> Self {
        match value.into() {
            0 => self,
            value => self.number(name, value),
        }
    }

    /// A text, always.
    pub(crate) fn string(self, name: &str, text: &str) -> Self {
        self.raw(name, &string(text))
    }

    /// A text unless it is empty.
    pub(crate) fn nonempty(self, name: &str, text: &str) -> Self {
        if text.is_empty() {
            self
        } else {
            self.string(name, text)
        }
    }

    /// `true`, or nothing.
    pub(crate) fn flag(self, name: &str, value: bool) -> Self {
        if value { self.raw(name, "true") } else { self }
    }

    /// Bytes unless there are none.
    pub(crate) fn bytes(self, name: &str, bytes: &[u8]) -> Self {
        if bytes.is_empty() {
            self
        } else {
            self.raw(name, &base64(bytes))
        }
    }

    /// A list unless it is empty.
    pub(crate) fn list<T>(self, name: &str, items: &[T], json: impl Fn(&T) -> String) -> Self {
        if items.is_empty() {
            self
        } else {
            self.raw(name, &array(items, json))
        }
    }

    /// The finished object.
    pub(crate) fn end(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

/// A list, also an empty one.
pub(crate) fn array<T>(items: &[T], json: impl Fn(&T) -> String) -> String {
    let items: Vec<String> = items.iter().map(json).collect();
    format!("[{}]", items.join(","))
}

/// A text.
pub(crate) fn string(text: &str) -> String {
    let mut json = String::new();
    push_string(&mut json, text);
    json
}

fn push_string(json: &mut String, text: &str) {
    json.push('"');
    for character in text.chars() {
        match character {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\r' => json.push_str("\\r"),
            '\t' => json.push_str("\\t"),
            '\x08' => json.push_str("\\b"),
            '\x0c' => json.push_str("\\f"),
            '\0'..' ' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                write!(json, "\\u{:04x}", u32::from(character)).expect("a string takes everything");
            }
            _ => json.push(character),
        }
    }
    json.push('"');
}

/// Bytes as a quoted base64 text.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("\"");
    for chunk in bytes.chunks(3) {
        let bits = chunk
            .iter()
            .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let filled = place <= chunk.len();
            let six = (bits >> (18 - 6 * place)) as usize & 63;
            text.push(if filled {
                char::from(ALPHABET[six])
            } else {
                '='
            });
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_every_remainder() {
        let check = |bytes: &[u8], text: &str| assert_eq!(base64(bytes), format!("\"{text}\""));
        check(b"", "");
        check(b"f", "Zg==");
        check(b"fo", "Zm8=");
        check(b"foo", "Zm9v");
        check(b"\xff\xfe\xfd\xfc", "//79/A==");
    }

    #[test]
    fn zeros_and_order() {
        let object = Object::new()
            .nonzero("a", 0)
            .number("b", 0)
            .string("c", "<x>\n")
            .flag("d", false)
            .list("e", &[1, 2], i32::to_string)
            .end();
        assert_eq!(object, r#"{"b":0,"c":"\u003cx\u003e\n","e":[1,2]}"#);
    }
}
