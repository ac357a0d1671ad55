//! Words of a line that is typed into `txn` or `watch -i`.

use super::quote::unquote;

fn space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r' | '\x0c')
}

/// Splits a line: single quotes hold words together, double quotes also know escapes; what is neither
/// reaches up to the next space.
///
/// # Errors
/// A double-quoted word has an escape that does not exist.
pub(crate) fn split(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut rest = line;
    while let Some(first) = rest.chars().next() {
        let end = match first {
            _ if space(first) => 0,
            '"' => double_quoted(rest),
            '\'' => rest[1..].find('\'').map_or(0, |at| at + 2),
            _ => rest.find(space).unwrap_or(rest.len()),
        };
        // An open quote and a space begin no word.
        if end == 0 {
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let (word, behind) = rest.split_at(end);
        words.push(match first {
            '"' => {
                let (bytes, _) = unquote(word).ok_or("bad quoted string")?;
                String::from_utf8(bytes).map_err(|_| "a quoted word is no UTF-8 text")?
            }
            '\'' => word[1..word.len() - 1].to_owned(),
            _ => word.to_owned(),
        });
        rest = behind;
    }
    Ok(words)
}

/// The length of a double-quoted word, 0 if it stays open.
fn double_quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let check =
            |line: &str, expected: &[&str]| assert_eq!(split(line).unwrap(), expected, "{line}");
        check("", &[]);
        check("put a b", &["put", "a", "b"]);
        check("  put 'two words' \"a\\nb\"", &["put", "two words", "a\nb"]);
        check(
            "put key1 \"overwrote-key1\"",
            &["put", "key1", "overwrote-key1"],
        );
        check("a'b c'd", &["a'b", "c'd"]);
        check("x \"open", &["x", "open"]);
        check("''", &[""]);
    }

    #[test]
    fn an_unknown_escape_is_refused() {
        assert!(split(r#"put a "\q""#).is_err());
    }
}
