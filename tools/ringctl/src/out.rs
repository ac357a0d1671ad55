//! Standard output and standard error.

use std::io::{self, ErrorKind, Write};
use std::process;

/// What a shell shows for a process that wrote to a closed pipe.
const BROKEN_PIPE: i32 = 141;

/// Writes to standard output at once. A reader that has gone ends the program without a word.
pub(crate) fn write(bytes: &[u8]) {
    let mut output = io::stdout().lock();
    if let Err(error) = output.write_all(bytes).and_then(|()| output.flush()) {
        if error.kind() == ErrorKind::BrokenPipe {
            process::exit(BROKEN_PIPE);
        }
        self::error(&format!("Error: cannot write to standard output: {error}"));
        process::exit(i32::from(crate::exit::IO));
    }
}

/// Writes a line to standard output.
pub(crate) fn line(text: &str) {
    write(format!("{text}\n").as_bytes());
}

/// Writes a line to standard error. If that fails there is nobody left to tell.
pub(crate) fn error(text: &str) {
    io::stderr()
        .lock()
        .write_all(format!("{text}\n").as_bytes())
        .ok();
}
