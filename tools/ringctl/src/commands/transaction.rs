//! `txn`: comparisons and requests from standard input.

use std::io::{self, BufRead};

use grpc::Method;
use grpc::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use grpc::proto::etcdserverpb::request_op::Request;
use grpc::proto::etcdserverpb::{Compare, RequestOp, TxnRequest, TxnResponse};

use crate::cli::parse::parse;
use crate::cli::spec::{Action, Command};
use crate::cli::tree::TRANSACTION;
use crate::client::Repeat;
use crate::context::Context;
use crate::exit::{self, Exit, arguments};
use crate::go::quote::{quote, unquote};
use crate::go::{number, words};
use crate::out;

use super::request;

/// The commands of a transaction's lines; they have no global flags.
static COMMANDS: Command = TRANSACTION;

fn input<T>(text: impl Into<String>) -> Result<T, Exit> {
    Err(Exit::new(exit::INPUT, text))
}

pub(super) async fn run(mut context: Context) -> Result<(), Exit> {
    if !context.arguments().is_empty() {
        return arguments("txn command does not accept argument");
    }
    let (client, printer) = context.connect().await?;
    let interactive = context.invocation.truth("interactive");
    let prompt = |text: &str| {
        if interactive {
            out::line(text);
        }
    };
    prompt("compares:");
    let compare = section(comparison)?;
    prompt("success requests (get, put, del):");
    let success = section(operation)?;
    prompt("failure requests (get, put, del):");
    let failure = section(operation)?;
    let request = TxnRequest {
        compare,
        success,
        failure,
    };
    let reads_only = request
        .success
        .iter()
        .chain(&request.failure)
        .all(|op| matches!(op.request, Some(Request::RequestRange(_))));
    let repeat = if reads_only {
        Repeat::Safe
    } else {
        Repeat::Never
    };
    let answer: TxnResponse = client.unary(Method::Txn, &request, repeat, None).await?;
    printer.print(&answer)
}

/// The lines up to an empty one.
fn section<T>(read: impl Fn(&str) -> Result<T, Exit>) -> Result<Vec<T>, Exit> {
    let mut items = Vec::new();
    loop {
        let mut line = String::new();
        match io::stdin().lock().read_line(&mut line) {
            Ok(_) if line.ends_with('\n') => {}
            Ok(_) => return input("EOF"),
            Err(error) => return input(error.to_string()),
        }
        match line.trim() {
            "" => return Ok(items),
            line => items.push(read(line)?),
        }
    }
}

fn operation(line: &str) -> Result<RequestOp, Exit> {
    let words = match words::split(line) {
        Ok(words) => words,
        Err(error) => return input(error),
    };
    if words.len() < 2 {
        return input(format!("invalid txn compare request: {line}"));
    }
    let Ok(invocation) = parse(&COMMANDS, &[], &words) else {
        return input(format!("invalid txn request: {line}"));
    };
    let request = match invocation.path[invocation.path.len() - 1].action {
        Some(Action::Get) => Request::RequestRange(request::get(&invocation)?),
        Some(Action::Put) => Request::RequestPut(request::put(&invocation, None)?),
        Some(Action::Del) => Request::RequestDeleteRange(request::del(&invocation)?),
        _ => return input(format!("invalid txn request: {line}")),
    };
    Ok(RequestOp {
        request: Some(request),
    })
}

/// `mod("key") > "0"`.
fn comparison(line: &str) -> Result<Compare, Exit> {
    let Some((target, rest)) = line.split_once('(') else {
        return input(format!("malformed comparison: {line}"));
    };
    let parts = parts(rest);
    let (Some(key), Some(operator), Some(value)) = &parts else {
        let key = quote(parts.0.as_deref().unwrap_or_default());
        let (operator, value) = (parts.1.unwrap_or_default(), parts.2.unwrap_or_default());
        let value = quote(&value);
        return input(format!(
            "malformed comparison: {line}; got {target}({key}) {operator} {value}"
        ));
    };
    let number = |base| {
        let text = String::from_utf8_lossy(value);
        number::signed(&text, base)
            .map_err(|_| Exit::new(exit::INPUT, format!("invalid txn compare request: {line}")))
    };
    let (target, union) = match target {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number(10)?)),
        "c" | "create" => (
            CompareTarget::Create,
            TargetUnion::CreateRevision(number(10)?),
        ),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(10)?)),
        "val" | "value" => (
            CompareTarget::Value,
            TargetUnion::Value(value.clone().into()),
        ),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number(16)?)),
        _ => {
            return input(format!(
                "malformed comparison: {line} (unknown target {target})"
            ));
        }
    };
    let result = match operator.as_str() {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        _ => {
            return input(format!(
                "malformed comparison: {line} (unknown operator {operator})"
            ));
        }
    };
    Ok(Compare {
        result: result.into(),
        target: target.into(),
        key: key.clone().into(),
        target_union: Some(union),
        ..Compare::default()
    })
}

/// Key, operator and value as far as they can be read.
fn parts(rest: &str) -> (Option<Vec<u8>>, Option<String>, Option<Vec<u8>>) {
    let Some((key, rest)) = unquote(rest.trim_start()) else {
        return (None, None, None);
    };
    let Some(rest) = rest.strip_prefix(')') else {
        return (Some(key), None, None);
    };
    let mut words = rest.trim_start().splitn(2, char::is_whitespace);
    let operator = words
        .next()
        .filter(|operator| !operator.is_empty())
        .map(str::to_owned);
    let value = words
        .next()
        .and_then(|rest| unquote(rest.trim_start()))
        .map(|(value, _)| value);
    (Some(key), operator, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons() {
        let check = |line: &str, target: CompareTarget, result: CompareResult, union| {
            let compare = comparison(line).unwrap();
            assert_eq!(
                (compare.target, compare.result),
                (target as i32, result as i32),
                "{line}"
            );
            assert_eq!(compare.target_union, Some(union), "{line}");
            assert_eq!(compare.key, "key1", "{line}");
        };
        check(
            r#"mod("key1") > "0""#,
            CompareTarget::Mod,
            CompareResult::Greater,
            TargetUnion::ModRevision(0),
        );
        check(
            r#"ver("key1") = "7""#,
            CompareTarget::Version,
            CompareResult::Equal,
            TargetUnion::Version(7),
        );
        check(
            r#"c("key1") != "-1""#,
            CompareTarget::Create,
            CompareResult::NotEqual,
            TargetUnion::CreateRevision(-1),
        );
        check(
            r#"val("key1") < "a\"b""#,
            CompareTarget::Value,
            CompareResult::Less,
            TargetUnion::Value("a\"b".into()),
        );
        check(
            r#"lease("key1") = "1f""#,
            CompareTarget::Lease,
            CompareResult::Equal,
            TargetUnion::Lease(31),
        );
    }

    #[test]
    fn what_is_no_comparison() {
        let check = |line: &str, expected: &str| {
            let exit = comparison(line).unwrap_err();
            assert_eq!(
                (exit.code, exit.text.as_deref()),
                (exit::INPUT, Some(expected))
            );
        };
        check("nothing", "malformed comparison: nothing");
        check(
            r#"foo("k") = "1""#,
            r#"malformed comparison: foo("k") = "1" (unknown target foo)"#,
        );
        check(
            r#"mod("k") = "x""#,
            r#"invalid txn compare request: mod("k") = "x""#,
        );
    }

    #[test]
    fn requests() {
        let kind = |line: &str| match operation(line).unwrap().request.unwrap() {
            Request::RequestPut(put) => format!("put {:?} {:?}", put.key, put.value),
            Request::RequestRange(range) => format!("get {:?} {:?}", range.key, range.range_end),
            Request::RequestDeleteRange(range) => {
                format!("del {:?} {:?}", range.key, range.range_end)
            }
            Request::RequestTxn(_) => unreachable!("a line is no transaction"),
        };
        assert_eq!(
            kind("put key1 \"two words\""),
            r#"put b"key1" b"two words""#
        );
        assert_eq!(kind("g --prefix a"), r#"get b"a" b"b""#);
        assert_eq!(kind("del k"), r#"del b"k" b"""#);
        assert_eq!(operation("put").unwrap_err().code, exit::INPUT);
        assert_eq!(
            operation("foo bar").unwrap_err().text.unwrap(),
            "invalid txn request: foo bar"
        );
        assert_eq!(
            operation("get --hex k").unwrap_err().text.unwrap(),
            "invalid txn request: get --hex k"
        );
    }
}
