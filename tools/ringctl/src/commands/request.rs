//! Flags and arguments of `get`, `put` and `del` to requests, also for the lines of a transaction.

use std::io::Read;
use std::time::Duration;

use grpc::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use grpc::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest};

use crate::cli::parse::Invocation;
use crate::exit::{self, Exit, arguments};
use crate::go::number;
use crate::go::quote::quote;
use crate::out;
use crate::prefix::{from_key, prefix_range};

/// The time in which a deletion of a range can be thought over.
const GRACE: Duration = Duration::from_secs(2);

fn feature<T>(text: String) -> Result<T, Exit> {
    Err(Exit::new(exit::FEATURE, text))
}

/// Whether `--consistency` asks for the member's own state.
pub(crate) fn serializable(consistency: &str) -> Result<bool, Exit> {
    match consistency {
        "s" => Ok(true),
        "l" => Ok(false),
        _ => feature(format!(
            "unknown consistency flag {}",
            quote(consistency.as_bytes())
        )),
    }
}

/// The keys that arguments and `--prefix`, `--from-key` mean.
fn keys(invocation: &Invocation) -> Result<(Vec<u8>, Vec<u8>), Exit> {
    let (prefix, from) = (invocation.truth("prefix"), invocation.truth("from-key"));
    let words = &invocation.arguments;
    let key = words[0].as_bytes();
    if words.len() > 1 && (prefix || from) {
        return arguments(
            "too many arguments, only accept one argument when `--prefix` or `--from-key` is set",
        );
    }
    Ok(match words.get(1) {
        _ if prefix => prefix_range(key),
        _ if from => from_key(key),
        Some(end) => (key.to_vec(), end.as_bytes().to_vec()),
        None => (key.to_vec(), Vec::new()),
    })
}

const BOTH: &str = "`--prefix` and `--from-key` cannot be set at the same time, choose one";

/// A read.
pub(crate) fn get(invocation: &Invocation) -> Result<RangeRequest, Exit> {
    if invocation.arguments.is_empty() {
        return arguments(
            "get command needs one argument as key and an optional argument as range_end",
        );
    }
    if invocation.truth("prefix") && invocation.truth("from-key") {
        return arguments(BOTH);
    }
    if invocation.truth("keys-only") && invocation.truth("count-only") {
        return arguments(
            "`--keys-only` and `--count-only` cannot be set at the same time, choose one",
        );
    }
    let serializable = serializable(&invocation.text("consistency"))?;
    let (key, range_end) = keys(invocation)?;
    let (sort_order, sort_target) = sorting(invocation)?;
    let bound = |name: &str| invocation.number(name).max(0);
    Ok(RangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        limit: invocation.number("limit"),
        revision: bound("rev"),
        sort_order: sort_order.into(),
        sort_target: sort_target.into(),
        serializable,
        keys_only: invocation.truth("keys-only"),
        count_only: invocation.truth("count-only"),
        min_create_revision: bound("min-create-rev"),
        max_create_revision: upper(invocation, "Create")?,
        min_mod_revision: bound("min-mod-rev"),
        max_mod_revision: upper(invocation, "Mod")?,
    })
}

/// The upper bound of a pair of revision flags.
fn upper(invocation: &Invocation, what: &str) -> Result<i64, Exit> {
    let flag = |bound: &str| invocation.number(&format!("{bound}-{}-rev", what.to_lowercase()));
    let (min, max) = (flag("min"), flag("max"));
    if max > 0 && min > max {
        return feature(format!("getMin{what}Rev(={min}) > getMax{what}Rev(={max})"));
    }
    Ok(max.max(0))
}

fn sorting(invocation: &Invocation) -> Result<(SortOrder, SortTarget), Exit> {
    let (order, target) = (invocation.text("order"), invocation.text("sort-by"));
    let sort_order = match order.to_uppercase().as_str() {
        "" => SortOrder::None,
        "ASCEND" => SortOrder::Ascend,
        "DESCEND" => SortOrder::Descend,
        _ => return feature(format!("bad sort order {order}")),
    };
    let sort_target = match target.to_uppercase().as_str() {
        "" | "KEY" => SortTarget::Key,
        "CREATE" => SortTarget::Create,
        "MODIFY" => SortTarget::Mod,
        "VALUE" => SortTarget::Value,
        "VERSION" => SortTarget::Version,
        _ => return feature(format!("bad sort target {target}")),
    };
    // Keys come in ascending order by themselves.
    Ok(match (sort_order, sort_target) {
        (SortOrder::Ascend, SortTarget::Key) => (SortOrder::None, SortTarget::Key),
        sorting => sorting,
    })
}

/// A write; a value that is missing comes from `input` if there is any.
pub(crate) fn put(
    invocation: &Invocation,
    input: Option<&mut dyn Read>,
) -> Result<PutRequest, Exit> {
    const ARGUMENTS: &str = "put command needs 1 argument and input from stdin or 2 arguments";
    let words = &invocation.arguments;
    let Some(key) = words.first() else {
        return arguments(ARGUMENTS);
    };
    let ignore_value = invocation.truth("ignore-value");
    if ignore_value && words.len() > 1 {
        return arguments("put command needs only 1 argument when 'ignore-value' is set");
    }
    let value = match words.get(1) {
        _ if ignore_value => Vec::new(),
        Some(value) => value.clone().into_bytes(),
        None => {
            let mut value = Vec::new();
            let read = input.map_or(Ok(0), |input| input.read_to_end(&mut value));
            if read.is_err() || value.is_empty() {
                return arguments(ARGUMENTS);
            }
            value
        }
    };
    let lease = match number::signed(&invocation.text("lease"), 16) {
        Ok(lease) => lease,
        Err(error) => return arguments(format!("bad lease ID ({error}), expecting ID in Hex")),
    };
    Ok(PutRequest {
        key: key.clone().into(),
        value: value.into(),
        lease,
        prev_kv: invocation.truth("prev-kv"),
        ignore_value,
        ignore_lease: invocation.truth("ignore-lease"),
    })
}

/// A deletion; a range without `--range` waits first.
pub(crate) fn del(invocation: &Invocation) -> Result<DeleteRangeRequest, Exit> {
    let words = &invocation.arguments;
    if words.is_empty() || words.len() > 2 {
        return arguments(
            "del command needs one argument as key and an optional argument as range_end",
        );
    }
    if invocation.truth("prefix") && invocation.truth("from-key") {
        return arguments(BOTH);
    }
    let (key, range_end) = keys(invocation)?;
    if let (Some(end), false) = (words.get(1), invocation.truth("range")) {
        let (key, end) = (quote(words[0].as_bytes()), quote(end.as_bytes()));
        out::error(&format!(
            "Warning: Keys between {key} and {end} will be deleted. Please interrupt the command within next 2 seconds \
             to cancel. You can provide `--range` flag to avoid the delay."
        ));
        std::thread::sleep(GRACE);
    }
    Ok(DeleteRangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        prev_kv: invocation.truth("prev-kv"),
    })
}
