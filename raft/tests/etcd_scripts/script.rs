//! The form of the files: a command line, input lines, `----`, expected output up to a blank line.

/// One command with its input and expected output.
pub(crate) struct Block {
    pub(crate) line: usize,
    pub(crate) command: String,
    pub(crate) arguments: Vec<Argument>,
    pub(crate) input: String,
    pub(crate) expected: String,
}

/// `key` or `key=value` or `key=(value, value)`.
pub(crate) struct Argument {
    pub(crate) key: String,
    pub(crate) values: Vec<String>,
}

impl Block {
    pub(crate) fn values(&self, key: &str) -> Option<&[String]> {
        let found = self.arguments.iter().find(|argument| argument.key == key)?;
        Some(&found.values)
    }

    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        self.values(key)?.first().map(String::as_str)
    }

    pub(crate) fn flag(&self, key: &str) -> bool {
        match self.value(key) {
            None => false,
            Some("true") => true,
            Some("false") => false,
            Some(other) => panic!("line {}: {key}={other}", self.line),
        }
    }

    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        let text = self.value(key)?;
        Some(
            text.parse()
                .unwrap_or_else(|_| panic!("line {}: {key}={text}", self.line)),
        )
    }

    /// The arguments that are plain numbers, in order.
    pub(crate) fn ids(&self) -> Vec<u64> {
        let plain = self
            .arguments
            .iter()
            .filter(|argument| argument.values.is_empty());
        plain
            .filter_map(|argument| argument.key.parse().ok())
            .collect()
    }
}

pub(crate) fn parse(text: &str) -> Vec<Block> {
    let lines: Vec<&str> = text.lines().collect();
    let mut blocks = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let head = lines[at].trim();
        if head.is_empty() || head.starts_with('#') {
            at += 1;
            continue;
        }
        let line = at + 1;
        let (command, arguments) = parse_head(head);
        at += 1;
        let mut input = Vec::new();
        while at < lines.len() && lines[at] != "----" {
            input.push(lines[at]);
            at += 1;
        }
        at += 1;
        let mut expected = String::new();
        while at < lines.len() && !lines[at].is_empty() {
            expected.push_str(lines[at]);
            expected.push('\n');
            at += 1;
        }
        blocks.push(Block {
            line,
            command,
            arguments,
            input: input.join("\n"),
            expected,
        });
    }
    blocks
}

fn parse_head(head: &str) -> (String, Vec<Argument>) {
    let mut words = Vec::new();
    let (mut word, mut depth) = (String::new(), 0);
    for letter in head.chars() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if letter.is_whitespace() && depth == 0 {
            words.push(std::mem::take(&mut word));
        } else {
            word.push(letter);
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    let command = words.remove(0);
    let arguments = words.iter().map(|word| parse_argument(word)).collect();
    (command, arguments)
}

fn parse_argument(word: &str) -> Argument {
    let Some((key, value)) = word.split_once('=') else {
        return Argument {
            key: word.to_string(),
            values: Vec::new(),
        };
    };
    let inner = value.strip_prefix('(').and_then(|it| it.strip_suffix(')'));
    let values = match inner {
        Some(inner) => inner.split(',').map(|it| it.trim().to_string()).collect(),
        None => vec![value.to_string()],
    };
    Argument {
        key: key.to_string(),
        values,
    }
}

/// Runs the blocks until an output differs.
pub(crate) fn first_difference(
    blocks: &[Block],
    run: &mut dyn FnMut(&Block) -> String,
) -> Option<String> {
    for block in blocks {
        let actual = run(block);
        // Leading and trailing blanks of lines carry no meaning, except in indented output.
        let trimmed = |text: &str| -> Vec<String> {
            text.lines()
                .map(|line| line.trim_end().to_string())
                .collect()
        };
        if trimmed(&actual) != trimmed(&block.expected) {
            return Some(format!(
                "line {}: {}\n--- expected\n{}--- actual\n{actual}",
                block.line, block.command, block.expected
            ));
        }
    }
    None
}
