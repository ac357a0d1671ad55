//! Go's double-quoted strings.

use std::fmt::Write;

/// Quotes bytes as `%q` does: what is no text becomes `\x..`.
pub(crate) fn quote(bytes: &[u8]) -> String {
    let mut quoted = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            push(&mut quoted, character);
        }
        for byte in chunk.invalid() {
            hex(&mut quoted, *byte);
        }
    }
    quoted.push('"');
    quoted
}

/// Quotes one character in single quotes.
pub(crate) fn quote_character(character: char) -> String {
    let mut quoted = String::from("'");
    match character {
        '\'' => quoted.push_str("\\'"),
        '"' => quoted.push('"'),
        _ => push(&mut quoted, character),
    }
    quoted.push('\'');
    quoted
}

/// Quotes a list of words: `["a" "b"]`.
pub(crate) fn quote_list(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quote(word.as_bytes())).collect();
    format!("[{}]", words.join(" "))
}

fn push(quoted: &mut String, character: char) {
    match character {
        '"' => quoted.push_str("\\\""),
        '\\' => quoted.push_str("\\\\"),
        '\x07' => quoted.push_str("\\a"),
        '\x08' => quoted.push_str("\\b"),
        '\x0c' => quoted.push_str("\\f"),
        '\n' => quoted.push_str("\\n"),
        '\r' => quoted.push_str("\\r"),
        '\t' => quoted.push_str("\\t"),
        '\x0b' => quoted.push_str("\\v"),
        '\0'..' ' | '\x7f' => hex(quoted, character as u8),
        _ if printable(character) => quoted.push(character),
        '\0'..='\u{ffff}' => write(quoted, format_args!("\\u{:04x}", u32::from(character))),
        _ => write(quoted, format_args!("\\U{:08x}", u32::from(character))),
    }
}

fn hex(quoted: &mut String, byte: u8) {
    write(quoted, format_args!("\\x{byte:02x}"));
}

fn write(quoted: &mut String, text: std::fmt::Arguments<'_>) {
    quoted.write_fmt(text).expect("a string takes everything");
}

/// Whether a terminal shows it; behind another character, so that marks count as shown.
fn printable(character: char) -> bool {
    let pair: String = ['a', character].iter().collect();
    pair.escape_debug().eq(pair.chars())
}

/// Reads a quoted string at the beginning of `text`; gives its bytes and what is behind it.
pub(crate) fn unquote(text: &str) -> Option<(Vec<u8>, &str)> {
    if let Some(raw) = text.strip_prefix('`') {
        let (inside, behind) = raw.split_once('`')?;
        return Some((inside.as_bytes().to_vec(), behind));
    }
    let mut rest = text.strip_prefix('"')?;
    let mut bytes = Vec::new();
    loop {
        let character = rest.chars().next()?;
        rest = &rest[character.len_utf8()..];
        match character {
            '"' => return Some((bytes, rest)),
            '\n' => return None,
            '\\' => rest = escape(rest, &mut bytes)?,
            _ => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

fn escape<'a>(rest: &'a str, bytes: &mut Vec<u8>) -> Option<&'a str> {
    let kind = *rest.as_bytes().first()?;
    let number = |from: usize, len: usize, base: u32| -> Option<u32> {
        let digits = rest.get(from..from + len)?;
        let plain = digits.chars().all(|digit| digit.is_digit(base));
        plain
            .then(|| u32::from_str_radix(digits, base).ok())
            .flatten()
    };
    let length = match kind {
        b'x' => {
            bytes.push(u8::try_from(number(1, 2, 16)?).ok()?);
            3
        }
        b'0'..=b'7' => {
            bytes.push(u8::try_from(number(0, 3, 8)?).ok()?);
            3
        }
        b'u' | b'U' => {
            let len = if kind == b'u' { 4 } else { 8 };
            let character = char::from_u32(number(1, len, 16)?)?;
            bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            1 + len
        }
        _ => {
            bytes.push(simple(kind)?);
            1
        }
    };
    rest.get(length..)
}

fn simple(kind: u8) -> Option<u8> {
    Some(match kind {
        b'a' => 7,
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 11,
        b'\\' | b'"' => kind,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let check = |bytes: &[u8], quoted: &str| {
            assert_eq!(quote(bytes), quoted);
            assert_eq!(unquote(quoted), Some((bytes.to_vec(), "")), "{quoted}");
        };
        check(b"plain", "\"plain\"");
        check(b"a\"b\\c\n\t\x00\x7f", r#""a\"b\\c\n\t\x00\x7f""#);
        check("äöü €".as_bytes(), "\"äöü €\"");
        check(b"\xff\xfe", r#""\xff\xfe""#);
        check("\u{200b}\u{a0}".as_bytes(), r#""\u200b\u00a0""#);
    }

    #[test]
    fn what_is_behind_stays() {
        assert_eq!(unquote(r#""k") > 1"#), Some((b"k".to_vec(), ") > 1")));
        assert_eq!(unquote("`raw\\n`x"), Some((b"raw\\n".to_vec(), "x")));
    }

    #[test]
    fn what_is_no_quoted_string() {
        for text in [
            "",
            "k",
            "\"open",
            r#""\q""#,
            r#""\x1""#,
            r#""\ud800""#,
            r#""\x+1""#,
        ] {
            assert_eq!(unquote(text), None, "{text}");
        }
    }
}
