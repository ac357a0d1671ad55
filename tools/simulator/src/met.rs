//! What the stores of the runs went through: a campaign that never met a thing says nothing about it.

use std::collections::BTreeMap;

/// How often each thing happened.
#[derive(Clone, Debug, Default)]
pub struct Met(BTreeMap<&'static str, u64>);

/// A line of the member's log, and what it stands for.
const LINES: [(&str, &str); 10] = [
    ("checkpoint ends", "checkpoint"),
    ("compaction ends", "pass of a compaction"),
    ("segment collection ends", "collection of segments"),
    ("auto compaction is done", "compaction by itself"),
    (
        "the disk is full: only deletes and compaction are taken",
        "full disk",
    ),
    ("alarm raised", "alarm raised"),
    ("alarm cleared", "alarm cleared"),
    (
        "no file can be created: too many are open",
        "file that could not be opened",
    ),
    ("scrub ends", "scrub"),
    ("recovered the log", "restart"),
];

/// What has a beginning and an end in the log, and a crash between them.
const CUTS: [(&str, &str); 3] = [
    ("checkpoint", "crash in a checkpoint"),
    ("compaction", "crash in the pass of a compaction"),
    ("segment collection", "crash in a collection"),
];

impl Met {
    /// All that may be met.
    pub fn names() -> impl Iterator<Item = &'static str> {
        let lines = LINES.iter().map(|(_, name)| *name);
        lines.chain(CUTS.iter().map(|(_, name)| *name))
    }

    /// How often it happened.
    pub fn count(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Adds what another run met.
    pub fn merge(&mut self, other: &Met) {
        for (name, count) in &other.0 {
            *self.0.entry(name).or_default() += count;
        }
    }

    /// Adds a life, by how often each line had been written before it and after it.
    pub(crate) fn life(
        &mut self,
        before: &BTreeMap<String, u64>,
        after: &BTreeMap<String, u64>,
        stopped: bool,
    ) {
        let written = |line: &str| {
            let count = |lines: &BTreeMap<String, u64>| lines.get(line).copied().unwrap_or(0);
            count(after) - count(before)
        };
        for (line, name) in LINES {
            *self.0.entry(name).or_default() += written(line);
        }
        for (what, name) in CUTS {
            let open = written(&format!("{what} begins")) > written(&format!("{what} ends"));
            *self.0.entry(name).or_default() += u64::from(open && !stopped);
        }
    }
}

impl std::fmt::Display for Met {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, count) in &self.0 {
            writeln!(f, "  {name}: {count}")?;
        }
        Ok(())
    }
}
