//! Plain HTTP requests, and what comes back.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// An answer that has not come by then does not come.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebAnswer {
    /// Status code.
    pub code: u16,
    /// Header fields, their names in lower case.
    pub headers: BTreeMap<String, String>,
    /// Everything behind them.
    pub body: String,
}

/// Asks HOST:PORT. The request is HTTP/1.0, so the answer comes in one piece and ends with its connection.
///
/// # Errors
/// Nobody answers, or what comes is no answer.
pub fn ask(address: &str, method: &str, target: &str) -> io::Result<WebAnswer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let request = format!("{method} {target} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    parse(&text).ok_or_else(|| io::Error::other(format!("no HTTP answer: {text:?}")))
}

/// The body of what GET answers.
///
/// # Panics
/// It is not answered with 200.
pub fn get(address: &str, target: &str) -> String {
    match ask(address, "GET", target) {
        Ok(answer) if answer.code == 200 => answer.body,
        other => panic!("GET {target}: {other:?}"),
    }
}

fn parse(text: &str) -> Option<WebAnswer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let code = lines.next()?.split_whitespace().nth(1)?.parse().ok()?;
    let fields = lines.map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    });
    Some(WebAnswer {
        code,
        headers: fields.collect::<Option<_>>()?,
        body: body.to_owned(),
    })
}
