//! The value of a flag.

use std::time::Duration;

use crate::go::{duration, number};

use super::spec::{Flag, Kind};

/// A checked value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each holds what its kind says")]
pub(crate) enum Value {
    Truth(bool),
    Text(String),
    List(Vec<String>),
    Number(i64),
    Unsigned(u64),
    Duration(Duration),
}

/// Reads `text` as what the flag takes.
pub(crate) fn read(flag: &Flag, text: &str) -> Result<Value, String> {
    Ok(match flag.kind {
        Kind::Truth => Value::Truth(number::truth(text)?),
        Kind::Text => Value::Text(text.to_owned()),
        Kind::List => Value::List(list(text)?),
        Kind::Number => Value::Number(number::signed(text, 0)?),
        Kind::Unsigned => Value::Unsigned(number::unsigned(text, 0)?),
        Kind::Duration => Value::Duration(duration::parse(text)?),
    })
}

/// One line of comma-separated texts; double quotes hold commas.
fn list(text: &str) -> Result<Vec<String>, String> {
    let mut items = Vec::new();
    if text.is_empty() {
        return Ok(items);
    }
    let mut rest = text;
    loop {
        let (item, behind) = match rest.strip_prefix('"') {
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                if let Some(column) = rest[..end].find('"') {
                    let column = text.len() - rest.len() + column + 1;
                    return Err(format!(
                        "parse error on line 1, column {column}: bare \" in non-quoted-field"
                    ));
                }
                (rest[..end].to_owned(), &rest[end..])
            }
            Some(quoted) => quoted_item(quoted)?,
        };
        items.push(item);
        match behind.strip_prefix(',') {
            Some(behind) => rest = behind,
            None => return Ok(items),
        }
    }
}

fn quoted_item(mut rest: &str) -> Result<(String, &str), String> {
    let mut item = String::new();
    loop {
        let Some((before, behind)) = rest.split_once('"') else {
            return Err(
                "parse error on line 1: extraneous or missing \" in quoted-field".to_owned(),
            );
        };
        item.push_str(before);
        match behind.strip_prefix('"') {
            Some(behind) => {
                item.push('"');
                rest = behind;
            }
            None if behind.is_empty() || behind.starts_with(',') => return Ok((item, behind)),
            None => {
                return Err(
                    "parse error on line 1: extraneous or missing \" in quoted-field".to_owned(),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let check =
            |text: &str, expected: &[&str]| assert_eq!(list(text).unwrap(), expected, "{text}");
        check("", &[]);
        check("a", &["a"]);
        check("a,b,", &["a", "b", ""]);
        check("\"a,b\",c", &["a,b", "c"]);
        check("\"a\"\"b\"", &["a\"b"]);
        assert!(list("a\"b").is_err());
        assert!(list("\"a").is_err());
        assert!(list("\"a\"b").is_err());
    }
}
