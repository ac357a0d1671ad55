//! Spans of a server's background activities, as its log tells them.
//!
//! A rule names a text that the log shows when an activity begins and one when it ends. It works with
//! any server that logs both; how exact it is depends on how often the log is looked at.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::str::FromStr;
use std::time::Instant;

use crate::timeline::{Mark, Span};

/// `LABEL=BEGIN..END`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The activity.
    pub label: String,
    begin: String,
    end: String,
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=').and_then(|(label, texts)| {
            let (begin, end) = texts.split_once("..")?;
            Some((label, begin, end))
        });
        match parts {
            Some((label, begin, end))
                if !label.is_empty() && !begin.is_empty() && !end.is_empty() =>
            {
                Ok(Self {
                    label: label.to_owned(),
                    begin: begin.to_owned(),
                    end: end.to_owned(),
                })
            }
            _ => Err(format!("`{text}` is not LABEL=BEGIN..END")),
        }
    }
}

/// A server's log, read as it grows.
///
/// Invariant: `open[i]` is the begin of rule `i`'s activity that has not ended.
#[derive(Debug)]
pub struct LogMarks<'a> {
    rules: &'a [Rule],
    file: File,
    /// The begin of a line whose end is not there yet.
    partial: Vec<u8>,
    open: Vec<Option<Instant>>,
}

impl<'a> LogMarks<'a> {
    /// Begins behind what the log holds now.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn open(path: &Path, rules: &'a [Rule]) -> io::Result<Self> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self {
            rules,
            file,
            partial: Vec::new(),
            open: vec![None; rules.len()],
        })
    }

    /// Reads what was added and appends the activities that have ended, as of `now`.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn poll(&mut self, now: Instant, marks: &mut Vec<Mark>) -> io::Result<()> {
        self.file.read_to_end(&mut self.partial)?;
        let Some(last) = self.partial.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(());
        };
        let lines: Vec<u8> = self.partial.drain(..=last).collect();
        for line in String::from_utf8_lossy(&lines).lines() {
            for (rule, open) in self.rules.iter().zip(&mut self.open) {
                if line.contains(&rule.begin) {
                    open.get_or_insert(now);
                } else if line.contains(&rule.end)
                    && let Some(begin) = open.take()
                {
                    marks.push(Mark {
                        label: rule.label.clone(),
                        span: Span { begin, end: now },
                    });
                }
            }
        }
        Ok(())
    }

    /// Ends what is still under way.
    pub fn finish(&mut self, now: Instant, marks: &mut Vec<Mark>) {
        for (rule, open) in self.rules.iter().zip(&mut self.open) {
            if let Some(begin) = open.take() {
                marks.push(Mark {
                    label: rule.label.clone(),
                    span: Span { begin, end: now },
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    #[test]
    fn rules_have_three_parts() {
        let rule: Rule = "gc=collection begins..collection ends".parse().unwrap();
        assert_eq!(
            (rule.label.as_str(), rule.end.as_str()),
            ("gc", "collection ends")
        );
        for text in ["gc", "gc=begin", "=a..b", "gc=..b", "gc=a.."] {
            assert!(text.parse::<Rule>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_activity_is_marked_from_its_first_line_to_its_last() {
        let path = std::env::temp_dir().join(format!("ringbench-log-{}", std::process::id()));
        let mut log = File::create(&path).unwrap();
        writeln!(log, "up\nsync begin").unwrap();
        let rules = ["sync=sync begin..sync end".parse().unwrap()];
        let mut reader = LogMarks::open(&path, &rules).unwrap();
        let begin = Instant::now();
        let second = Duration::from_secs(1);
        let mut marks = Vec::new();
        writeln!(log, "sync end").unwrap();
        write!(log, "7 sync beg").unwrap();
        reader.poll(begin, &mut marks).unwrap();
        writeln!(log, "in").unwrap();
        reader.poll(begin + second, &mut marks).unwrap();
        assert_eq!(marks, []);
        writeln!(log, "9 sync end\n9 sync begin").unwrap();
        reader.poll(begin + 2 * second, &mut marks).unwrap();
        reader.finish(begin + 5 * second, &mut marks);
        std::fs::remove_file(&path).unwrap();
        let spans: Vec<u64> = marks
            .iter()
            .map(|mark| (mark.span.end - mark.span.begin).as_secs())
            .collect();
        assert_eq!(spans, [1, 3]);
    }
}
