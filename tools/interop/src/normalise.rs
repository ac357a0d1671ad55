//! Taking out of an output what may differ between two servers that behave alike: ids, addresses,
//! times, sizes of files and positions in the consensus log. Everything else stays.

use serde_json::Value;

/// Numbers behind these marks are consensus positions, file sizes or times.
const BLANKED_BEHIND: [&str; 18] = [
    "\"raft_term\":",
    "\"raftTerm\":",
    "\"raftIndex\":",
    "\"raftAppliedIndex\":",
    "\"dbSize\":",
    "\"dbSizeInUse\":",
    "\"RaftTerm\" : ",
    "\"RaftIndex\" : ",
    "\"RaftAppliedIndex\" : ",
    "\"DBSize\" : ",
    "\"DBSizeInUse\" : ",
    "took = ",
    "\"took\":\"",
    "\"Took\" : \"",
    "\"Took\" : ",
    "]. took ",
    "received message larger than max (",
    "remaining(",
];

/// Members of a client's log line that are the same for the same behaviour.
const LOG_MEMBERS_KEPT: [&str; 5] = ["level", "msg", "method", "attempt", "error"];

/// Texts of one server and the words that stand for them.
#[derive(Debug, Clone, Default)]
pub struct Normaliser {
    words: Vec<(String, String)>,
}

impl Normaliser {
    /// Replaces `text` by `word` from now on; longer texts are replaced first.
    pub fn replace(&mut self, text: impl Into<String>, word: impl Into<String>) {
        self.words.push((text.into(), word.into()));
        self.words
            .sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
    }

    /// Replaces an id in all its printed forms.
    pub fn replace_id(&mut self, id: u64, word: &str) {
        self.replace(id.to_string(), word);
        self.replace(format!("{id:x}"), word);
        self.replace(format!("{id:016x}"), word);
    }

    /// The text with everything taken out that may differ.
    pub fn apply(&self, text: &str) -> String {
        let text = without_stack(text);
        let mut lines: Vec<String> = text.lines().map(|line| self.line(line)).collect();
        if text.ends_with('\n') {
            lines.push(String::new());
        }
        lines.join("\n")
    }

    fn line(&self, line: &str) -> String {
        let mut line = match client_log(line) {
            Some(kept) => kept,
            None => line.to_owned(),
        };
        for (text, word) in &self.words {
            line = line.replace(text, word);
        }
        for mark in BLANKED_BEHIND {
            line = blank_behind(&line, mark);
        }
        let line = blank_session_keys(&sort_attached_keys(&line));
        collapse_table(&blank_times_in_table(&line))
    }
}

/// The keys of a lease have no promised order.
fn sort_attached_keys(line: &str) -> String {
    const MARK: &str = "attached keys([";
    let Some((before, behind)) = line.split_once(MARK) else {
        return line.to_owned();
    };
    let Some((keys, rest)) = behind.split_once(']') else {
        return line.to_owned();
    };
    let mut keys: Vec<&str> = keys.split(' ').collect();
    keys.sort_unstable();
    format!("{before}{MARK}{}]{rest}", keys.join(" "))
}

/// Keys of locks and elections end in the id of a lease that nobody named.
fn blank_session_keys(line: &str) -> String {
    const DIGITS: std::ops::RangeInclusive<usize> = 15..=16;
    let Some((before, behind)) = line.split_once('/') else {
        return line.to_owned();
    };
    let end = behind
        .find(|character: char| !character.is_ascii_hexdigit())
        .unwrap_or(behind.len());
    let (id, rest) = behind.split_at(end);
    if DIGITS.contains(&id.len()) {
        format!("{before}/*{rest}")
    } else {
        format!("{before}/{}", blank_session_keys(behind))
    }
}

/// Cells that hold how long something took.
fn blank_times_in_table(line: &str) -> String {
    if !line.starts_with('│') {
        return line.to_owned();
    }
    let cells = line.split('│').map(|cell| {
        let number = cell.trim().trim_end_matches(['m', 'µ', 's']);
        let is_time = cell.trim().ends_with('s') && number.parse::<f64>().is_ok();
        if is_time { " * " } else { cell }
    });
    cells.collect::<Vec<_>>().join("│")
}

/// A crash of the client itself: what it says, without the addresses of its stack.
fn without_stack(text: &str) -> &str {
    match text.split_once("\n\ngoroutine ") {
        Some((message, _)) if message.contains("panic: ") => message,
        _ => text,
    }
}

/// The comparable part of a JSON log line that a client wrote to standard error.
fn client_log(line: &str) -> Option<String> {
    if !line.starts_with("{\"level\":") {
        return None;
    }
    let Ok(Value::Object(members)) = serde_json::from_str(line) else {
        return None;
    };
    let kept: serde_json::Map<String, Value> = members
        .into_iter()
        .filter(|(name, _)| LOG_MEMBERS_KEPT.contains(&name.as_str()))
        .collect();
    Some(Value::Object(kept).to_string())
}

/// Replaces the word behind each `mark` by `*`.
fn blank_behind(line: &str, mark: &str) -> String {
    let mut blanked = String::new();
    let mut rest = line;
    while let Some(at) = rest.find(mark) {
        let (before, behind) = rest.split_at(at + mark.len());
        blanked.push_str(before);
        blanked.push('*');
        let end = behind
            .find(|character: char| !character.is_alphanumeric() && !matches!(character, '.' | 'µ'))
            .unwrap_or(behind.len());
        rest = &behind[end..];
    }
    blanked + rest
}

/// Widths of table columns follow the widths of ids and addresses.
fn collapse_table(line: &str) -> String {
    let is_table = line.starts_with(['│', '┌', '├', '└', '|', '+']);
    if !is_table {
        return line.to_owned();
    }
    let mut collapsed = String::new();
    for character in line.chars() {
        let repeats = collapsed.ends_with(character) && matches!(character, ' ' | '─' | '-');
        if !repeats {
            collapsed.push(character);
        }
    }
    collapsed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_positions_and_times_disappear() {
        let mut normaliser = Normaliser::default();
        normaliser.replace_id(0x2a, "MEMBER");
        normaliser.replace("127.0.0.1:99", "CLIENT");
        let check = |input: &str, expected: &str| assert_eq!(normaliser.apply(input), expected);
        check(
            "{\"member_id\":42,\"revision\":3,\"raft_term\":2}",
            "{\"member_id\":MEMBER,\"revision\":3,\"raft_term\":*}",
        );
        check(
            "\"Revision\" : 3\n\"RaftTerm\" : 2\n",
            "\"Revision\" : 3\n\"RaftTerm\" : *\n",
        );
        check(
            "127.0.0.1:99 is healthy: took = 2.63µs",
            "CLIENT is healthy: took = *",
        );
        check("000000000000002a, started", "MEMBER, started");
        check("attached keys([b a])", "attached keys([a b])");
        check("panic: bad\n\ngoroutine 1 [running]:\n0x12", "panic: bad");
        check("┌─────┬──┐", "┌─┬─┐");
        check("│ a │ 4.02ms │", "│ a │ * │");
        check("lock/694d81417acd4754", "lock/*");
        check("/short/beef/x", "/short/beef/x");
        check("member[a]. took 21.4ms", "member[a]. took *");
    }

    #[test]
    fn a_clients_log_line_keeps_its_error() {
        let line = r#"{"level":"warn","ts":"2026","target":"x","msg":"m","error":"e"}"#;
        assert_eq!(
            Normaliser::default().apply(line),
            r#"{"error":"e","level":"warn","msg":"m"}"#
        );
    }

    #[test]
    fn a_real_difference_stays() {
        let normaliser = Normaliser::default();
        assert_ne!(
            normaliser.apply("{\"revision\":3,\"raft_term\":2}"),
            normaliser.apply("{\"revision\":4,\"raft_term\":2}")
        );
    }
}
