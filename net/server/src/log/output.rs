//! One output: a bounded queue that any core may fill, and the thread that empties it.
//!
//! A thread, because standard error may be a pipe that nobody reads: a write to it then blocks for as long as that
//! lasts, which only a thread of its own can afford.

use std::io::{self, Write};
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_queue::ArrayQueue;

use super::line::{self, Head};
use crate::config::{LogFormat, LogLevel};

/// Most lines that wait for one output.
const LINES_MAX: usize = 8192;
/// Most bytes of these; one line may go beyond.
const BYTES_MAX: usize = 4 << 20;
/// Lines are written together up to about so many bytes.
const BATCH_BYTES: usize = 64 << 10;
/// Between two looks whether a thread has ended.
const END_PAUSE: Duration = Duration::from_millis(1);

/// What cores and thread share.
#[derive(Debug)]
struct Shared {
    lines: ArrayQueue<Arc<str>>,
    bytes: AtomicUsize,
    /// Lines that found no room, or could not be written.
    dropped: AtomicU64,
    closing: AtomicBool,
}

/// The side that any core may write to.
#[derive(Clone, Debug)]
pub struct Queue {
    shared: Arc<Shared>,
    thread: Thread,
}

/// The thread.
#[derive(Debug)]
pub struct Writer {
    queue: Queue,
    thread: JoinHandle<()>,
}

/// Starts the thread of an output.
///
/// # Errors
/// The system has no thread to give.
pub fn start(
    name: &str,
    output: impl Write + Send + 'static,
    format: LogFormat,
) -> io::Result<(Queue, Writer)> {
    let shared = Arc::new(Shared {
        lines: ArrayQueue::new(LINES_MAX),
        bytes: AtomicUsize::new(0),
        dropped: AtomicU64::new(0),
        closing: AtomicBool::new(false),
    });
    let taken = shared.clone();
    let builder = thread::Builder::new().name(format!("ringd-log-{name}"));
    let thread = builder.spawn(move || run(&taken, output, format))?;
    let queue = Queue {
        shared,
        thread: thread.thread().clone(),
    };
    let writer = Writer {
        queue: queue.clone(),
        thread,
    };
    Ok((queue, writer))
}

impl Queue {
    /// Leaves a line for the thread, or counts it as dropped where there is no room.
    pub fn push(&self, line: Arc<str>) {
        let len = line.len();
        let has_room = self.shared.bytes.fetch_add(len, Ordering::Relaxed) < BYTES_MAX;
        if !has_room || self.shared.lines.push(line).is_err() {
            self.shared.bytes.fetch_sub(len, Ordering::Relaxed);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
        self.thread.unpark();
    }
}

impl Writer {
    /// Waits until everything is written, at most so long; the thread of an output that takes nothing stays behind.
    pub fn finish(self, limit: Duration) {
        self.queue.shared.closing.store(true, Ordering::Release);
        self.queue.thread.unpark();
        let begin = Instant::now();
        while !self.thread.is_finished() && begin.elapsed() < limit {
            thread::sleep(END_PAUSE);
        }
    }
}

fn run(shared: &Shared, mut output: impl Write, format: LogFormat) {
    let mut batch = Vec::new();
    loop {
        // Before the look at the queue: what is logged before the end is written.
        let closing = shared.closing.load(Ordering::Acquire);
        batch.clear();
        let mut lines = 0;
        let dropped = shared.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            batch.extend_from_slice(dropped_line(dropped, format).as_bytes());
        }
        while batch.len() < BATCH_BYTES
            && let Some(line) = shared.lines.pop()
        {
            shared.bytes.fetch_sub(line.len(), Ordering::Relaxed);
            batch.extend_from_slice(line.as_bytes());
            lines += 1;
        }
        if batch.is_empty() {
            if closing {
                return;
            }
            thread::park();
            continue;
        }
        if output
            .write_all(&batch)
            .and_then(|()| output.flush())
            .is_err()
        {
            // There is nowhere to say so until the output works again.
            shared.dropped.fetch_add(dropped + lines, Ordering::Relaxed);
            if closing {
                return;
            }
            thread::park();
        }
    }
}

/// Says how many lines are missing.
fn dropped_line(dropped: u64, format: LogFormat) -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let head = Head {
        level: LogLevel::Warn,
        unix_time: since.unwrap_or_default(),
        place: Location::caller(),
        message: "log lines were dropped because the output did not take them",
    };
    line::text(format, &head, &[("count", dropped.into())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::sync::mpsc;

    /// Takes nothing until it is told to.
    struct Gate {
        open: mpsc::Receiver<()>,
        taken: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.open.recv().is_err() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.taken.send(bytes.to_vec()).ok();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_output_that_takes_nothing_holds_nobody_up_and_the_loss_is_told() {
        let (open, gate) = mpsc::channel();
        let (taken, written) = mpsc::channel();
        let gate = Gate { open: gate, taken };
        let (queue, writer) = start("test", gate, LogFormat::Json).unwrap();
        let lines = 3 * LINES_MAX;
        for number in 0..lines {
            queue.push(format!("{number}\n").into());
        }
        for _ in 0..lines {
            open.send(()).unwrap();
        }
        writer.finish(Duration::from_secs(10));
        let text: Vec<u8> = written.try_iter().flatten().collect();
        let text = String::from_utf8(text).unwrap();
        let (mut kept, mut dropped) = (0, 0);
        for line in text.lines() {
            match serde_json::from_str::<serde_json::Value>(line).unwrap() {
                serde_json::Value::Number(_) => kept += 1,
                line => {
                    assert_eq!(line["level"], "warn");
                    dropped += line["count"].as_u64().unwrap();
                }
            }
        }
        assert!(dropped > 0);
        assert_eq!(kept + dropped, lines as u64);
    }

    #[test]
    fn bytes_have_a_bound_too() {
        let (open, gate) = mpsc::channel::<()>();
        let (taken, _written) = mpsc::channel();
        let gate = Gate { open: gate, taken };
        let (queue, writer) = start("test", gate, LogFormat::Json).unwrap();
        let line: Arc<str> = "x".repeat(1 << 20).into();
        for _ in 0..100 {
            queue.push(line.clone());
        }
        assert!(queue.shared.bytes.load(Ordering::Relaxed) <= BYTES_MAX + (1 << 20));
        assert!(queue.shared.dropped.load(Ordering::Relaxed) >= 90);
        drop(open);
        writer.finish(Duration::from_secs(10));
    }

    #[test]
    fn a_pipe_gets_every_line_in_order() {
        let (mut reader, sink) = io::pipe().unwrap();
        let (queue, writer) = start("test", sink, LogFormat::Json).unwrap();
        let mut expected = String::new();
        for number in 0..1000 {
            let line = format!("line {number}\n");
            expected.push_str(&line);
            queue.push(line.into());
        }
        writer.finish(Duration::from_secs(10));
        drop(queue);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, expected);
    }
}
