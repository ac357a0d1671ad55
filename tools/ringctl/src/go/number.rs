//! Integers and booleans as flags and arguments spell them, with the error texts of `strconv`.

use super::quote::quote;

/// Why a text is no number: printed as etcdctl prints it.
fn failure(function: &str, text: &str, what: &str) -> String {
    format!(
        "strconv.{function}: parsing {}: {what}",
        quote(text.as_bytes())
    )
}

const SYNTAX: &str = "invalid syntax";
const RANGE: &str = "value out of range";

/// The digits of `text` and their base. Base 0 follows the prefix and allows underscores between digits.
fn digits(text: &str, base: u32) -> Option<(String, u32)> {
    if base != 0 {
        return Some((text.to_owned(), base));
    }
    let lower = text.to_ascii_lowercase();
    let (rest, base) = match lower.as_bytes() {
        [b'0', b'x', ..] => (&lower[2..], 16),
        [b'0', b'b', ..] => (&lower[2..], 2),
        [b'0', b'o', ..] => (&lower[2..], 8),
        [b'0', _, ..] => (&lower[1..], 8),
        _ => (lower.as_str(), 10),
    };
    let prefixed = base != 10;
    let trimmed = if prefixed {
        rest.strip_prefix('_').unwrap_or(rest)
    } else {
        rest
    };
    let misplaced = trimmed.starts_with('_') || trimmed.ends_with('_') || trimmed.contains("__");
    (!misplaced).then(|| (trimmed.replace('_', ""), base))
}

/// The magnitude of `text` without a sign, as far as 128 bits hold it.
fn magnitude(text: &str, base: u32) -> Option<u128> {
    let (digits, base) = digits(text, base)?;
    if digits.is_empty() {
        return None;
    }
    digits.chars().try_fold(0u128, |value, digit| {
        let digit = digit.to_digit(base)?;
        Some(
            value
                .saturating_mul(u128::from(base))
                .saturating_add(u128::from(digit)),
        )
    })
}

/// A signed number; base 0 takes the base from the prefix.
pub(crate) fn signed(text: &str, base: u32) -> Result<i64, String> {
    let fail = |what| Err(failure("ParseInt", text, what));
    let (negative, rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let Some(value) = magnitude(rest, base) else {
        return fail(SYNTAX);
    };
    let value = i128::try_from(value).unwrap_or(i128::MAX);
    match i64::try_from(if negative { -value } else { value }) {
        Ok(value) => Ok(value),
        Err(_) => fail(RANGE),
    }
}

/// A number without a sign.
pub(crate) fn unsigned(text: &str, base: u32) -> Result<u64, String> {
    match magnitude(text, base).map(u64::try_from) {
        Some(Ok(value)) => Ok(value),
        Some(Err(_)) => Err(failure("ParseUint", text, RANGE)),
        None => Err(failure("ParseUint", text, SYNTAX)),
    }
}

/// A truth value.
pub(crate) fn truth(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(failure("ParseBool", text, SYNTAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_base() {
        let check = |text: &str, base, expected: Result<i64, &str>| {
            assert_eq!(
                signed(text, base),
                expected.map_err(str::to_owned),
                "{text}"
            );
        };
        check("12", 10, Ok(12));
        check("-9223372036854775808", 10, Ok(i64::MIN));
        check("7fffffffffffffff", 16, Ok(i64::MAX));
        check("0x1F", 0, Ok(31));
        check("010", 0, Ok(8));
        check("1_0", 0, Ok(10));
        check("0", 0, Ok(0));
        check(
            "1_0",
            10,
            Err("strconv.ParseInt: parsing \"1_0\": invalid syntax"),
        );
        check(
            "",
            10,
            Err("strconv.ParseInt: parsing \"\": invalid syntax"),
        );
        check(
            "--1",
            10,
            Err("strconv.ParseInt: parsing \"--1\": invalid syntax"),
        );
        check(
            "9223372036854775808",
            10,
            Err("strconv.ParseInt: parsing \"9223372036854775808\": value out of range"),
        );
    }

    #[test]
    fn numbers_without_a_sign() {
        assert_eq!(unsigned("ff", 16), Ok(255));
        assert!(unsigned("-1", 16).is_err_and(|text| text.ends_with("invalid syntax")));
        assert!(
            unsigned("10000000000000000", 16)
                .is_err_and(|text| text.ends_with("value out of range"))
        );
    }
}
