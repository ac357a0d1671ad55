//! The configuration file as a list of keys with their lines: YAML, of which JSON is a part.
//!
//! Knows the language, not the flags. Nested mappings become keys with dots. What could mean two things is a mistake:
//! a key twice, an alias, a tag, a second document.

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput};

/// Largest configuration file, bytes.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// Deepest mapping; etcd's deepest key has four parts.
const DEPTH_MAX: usize = 8;

/// One key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Keys of nested mappings with dots between them.
    pub key: String,
    /// Line of the key, from 1 on.
    pub line: usize,
    /// What it is set to.
    pub value: Value,
}

/// A value of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing, `null` or `~`: as if the key were not there.
    Nothing,
    /// A text, number or boolean, as it is written.
    Scalar(String),
    /// A list of these.
    List(Vec<String>),
}

/// What is wrong with the text, and in which line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// From 1 on.
    pub line: usize,
    /// A sentence.
    pub what: String,
}

/// Reads a file's text. Keys stand in their order.
///
/// # Errors
/// All keys that stand twice and the like, or the first breach of the language.
pub fn parse(text: &str) -> Result<Vec<Entry>, Vec<Mistake>> {
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        line: 1,
        entries: Vec::new(),
        mistakes: Vec::new(),
    };
    if let Err(mistake) = reader.document() {
        reader.mistakes.push(mistake);
    }
    if reader.mistakes.is_empty() {
        Ok(reader.entries)
    } else {
        Err(reader.mistakes)
    }
}

struct Reader<'text> {
    parser: Parser<'text, StrInput<'text>>,
    /// Line of the last event.
    line: usize,
    entries: Vec<Entry>,
    mistakes: Vec<Mistake>,
}

impl<'text> Reader<'text> {
    fn next(&mut self) -> Result<Event<'text>, Mistake> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => {
                self.line = span.start.line();
                Ok(event)
            }
            Some(Err(error)) => Err(Mistake {
                line: error.marker().line(),
                what: error.info().to_owned(),
            }),
            None => Ok(Event::StreamEnd),
        }
    }

    fn mistake(&self, what: impl Into<String>) -> Mistake {
        Mistake {
            line: self.line,
            what: what.into(),
        }
    }

    fn document(&mut self) -> Result<(), Mistake> {
        loop {
            match self.next()? {
                Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
                // A file of nothing but comments.
                Event::StreamEnd => return Ok(()),
                Event::MappingStart(_, None) => break,
                Event::Scalar(text, ScalarStyle::Plain, _, None) if is_nothing(&text) => {
                    return self.end();
                }
                _ => return Err(self.mistake("the file has to hold KEY: VALUE lines")),
            }
        }
        self.mapping("", 1)?;
        self.end()
    }

    fn end(&mut self) -> Result<(), Mistake> {
        loop {
            match self.next()? {
                Event::StreamEnd => return Ok(()),
                Event::DocumentEnd | Event::Nothing => {}
                _ => return Err(self.mistake("a second document begins here; only one is read")),
            }
        }
    }

    fn mapping(&mut self, prefix: &str, depth: usize) -> Result<(), Mistake> {
        loop {
            let key = match self.next()? {
                Event::MappingEnd => return Ok(()),
                Event::Scalar(key, _, _, None) => format!("{prefix}{key}"),
                _ => return Err(self.mistake("a key has to be a plain text")),
            };
            let line = self.line;
            let value = match self.next()? {
                Event::Scalar(text, ScalarStyle::Plain, _, None) if is_nothing(&text) => {
                    Value::Nothing
                }
                Event::Scalar(text, _, _, None) => Value::Scalar(text.into_owned()),
                Event::SequenceStart(_, None) => Value::List(self.list(&key)?),
                Event::MappingStart(_, None) if depth < DEPTH_MAX => {
                    self.mapping(&format!("{key}."), depth + 1)?;
                    continue;
                }
                Event::MappingStart(..) => return Err(self.mistake("keys are nested too deep")),
                _ => return Err(self.mistake(format!("{key}: tags and aliases are not read"))),
            };
            match self.entries.iter().find(|entry| entry.key == key) {
                Some(first) => self.mistakes.push(Mistake {
                    line,
                    what: format!("{key} stands in line {} already", first.line),
                }),
                None => self.entries.push(Entry { key, line, value }),
            }
        }
    }

    fn list(&mut self, key: &str) -> Result<Vec<String>, Mistake> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                Event::SequenceEnd => return Ok(items),
                Event::Scalar(text, _, _, None) => items.push(text.into_owned()),
                _ => return Err(self.mistake(format!("{key}: a list holds plain texts"))),
            }
        }
    }
}

fn is_nothing(text: &str) -> bool {
    matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let entries = match parse(text) {
            Ok(entries) => entries,
            Err(mistakes) => {
                let texts = mistakes.iter();
                let texts = texts.map(|mistake| format!("{}: {}", mistake.line, mistake.what));
                return texts.collect::<Vec<_>>().join("\n");
            }
        };
        let texts = entries.iter().map(|entry| {
            let value = match &entry.value {
                Value::Nothing => "nothing".to_owned(),
                Value::Scalar(text) => format!("{text:?}"),
                Value::List(items) => format!("{items:?}"),
            };
            format!("{}: {} = {value}", entry.line, entry.key)
        });
        texts.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn keys_with_their_lines() {
        let text = "# a comment\nname: 'a b'\n\nsocket-options:\n  reuse-port: true\nlog-outputs: [stderr, /x]\n\
                    cors:\nwal-dir: \"\"\n";
        let expected = "2: name = \"a b\"\n5: socket-options.reuse-port = \"true\"\n6: log-outputs = [\"stderr\", \
                        \"/x\"]\n7: cors = nothing\n8: wal-dir = \"\"";
        assert_eq!(shown(text), expected);
        let json = "{\"name\": \"a\",\n \"max-txn-ops\": 7}";
        assert_eq!(shown(json), "1: name = \"a\"\n2: max-txn-ops = \"7\"");
        for nothing in ["", "# only a comment\n", "---\n", "null\n"] {
            assert_eq!(shown(nothing), "", "{nothing:?}");
        }
    }

    #[test]
    fn mistakes_name_their_line() {
        for (text, expected) in [
            (
                "a: 1\nb: 2\na: 3\nb: 4\n",
                "3: a stands in line 1 already\n4: b stands in line 2 already",
            ),
            ("just a text\n", "1: the file has to hold KEY: VALUE lines"),
            ("- a\n", "1: the file has to hold KEY: VALUE lines"),
            (
                "a: 1\n---\nb: 2\n",
                "2: a second document begins here; only one is read",
            ),
            ("a: &x 1\nb: *x\n", "2: b: tags and aliases are not read"),
            ("a: !!int 1\n", "1: a: tags and aliases are not read"),
            ("a: [[b]]\n", "1: a: a list holds plain texts"),
            ("[a]: b\n", "1: a key has to be a plain text"),
        ] {
            assert_eq!(shown(text), expected, "{text:?}");
        }
        assert!(
            shown("name: a\nx: [a\n").starts_with("3: "),
            "{}",
            shown("name: a\nx: [a\n")
        );
        let deep: String = (0..20)
            .map(|depth| format!("{}k:\n", " ".repeat(depth)))
            .collect();
        let deep = format!("{deep}{}v\n", " ".repeat(20));
        assert!(shown(&deep).contains("nested too deep"), "{}", shown(&deep));
    }
}
