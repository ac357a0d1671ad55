//! Bytes that no client should send, and ten thousand clients that send nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use interop::programs::Kind;
use interop::server::{Launch, Server, TemporaryDirectory};
use ringbench::process;
use ringbench::random::Random;
use ringbench::server::read_once;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const EMPTY_SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const GOAWAY: u8 = 7;
const RST_STREAM: u8 = 3;
/// A connection with broken bytes is closed within this time.
const CLOSE: Duration = Duration::from_secs(10);
const IDLE_CONNECTIONS: u64 = 10_000;
const IDLE_BYTES_MAX: u64 = 20 << 10;

fn start() -> (TemporaryDirectory, Server) {
    let directory = TemporaryDirectory::new();
    let server = Launch::new(Kind::under_test(), directory.path()).start();
    (directory, server)
}

fn frame(len: usize, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = (len as u32).to_be_bytes();
    let mut frame = vec![len[1], len[2], len[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

fn after_preface(frames: &[Vec<u8>]) -> Vec<u8> {
    [PREFACE, &EMPTY_SETTINGS, &frames.concat()].concat()
}

/// What the server sends back until it closes; `None` if it stays open.
fn answer_until_closed(server: &Server, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(server.endpoint()).unwrap();
    stream.set_read_timeout(Some(CLOSE)).unwrap();
    // The server may close while bytes are still under way.
    stream.write_all(bytes).ok();
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => Some(answer),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
        Err(_) => Some(answer),
    }
}

/// Kinds of the frames in an answer.
fn frame_kinds(mut answer: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = answer {
        kinds.push(*kind);
        let len = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        answer = rest.get(len..).unwrap_or_default();
    }
    kinds
}

#[test]
fn broken_frames_close_the_connection() {
    let (_directory, server) = start();
    let cases: [(&str, Vec<Vec<u8>>); 7] = [
        (
            "a frame above the announced size",
            vec![frame(0xff_ffff, 0, 0, 1, &[0; 64])],
        ),
        ("settings of five bytes", vec![frame(5, 4, 0, 0, &[0; 5])]),
        ("settings on a stream", vec![frame(0, 4, 0, 1, &[])]),
        (
            "a window update of nothing",
            vec![frame(4, 8, 0, 0, &[0; 4])],
        ),
        (
            "headers that no table explains",
            vec![frame(3, 1, 4, 1, &[0xff, 0xff, 0xff])],
        ),
        (
            "data on a stream that is not open",
            vec![frame(1, 0, 0, 5, &[0])],
        ),
        ("a stream of the server's", vec![frame(1, 1, 5, 2, &[0x82])]),
    ];
    for (name, frames) in cases {
        let Some(answer) = answer_until_closed(&server, &after_preface(&frames)) else {
            // etcd ignores some of these.
            assert_eq!(
                server.kind(),
                Kind::Etcd,
                "{name}: the connection stays open"
            );
            continue;
        };
        let kinds = frame_kinds(&answer);
        // etcd closes some of these without a word.
        let told = kinds.contains(&GOAWAY) || kinds.contains(&RST_STREAM);
        let silent = answer.is_empty() || server.kind() == Kind::Etcd;
        assert!(
            told || silent,
            "{name}: closed after frames {kinds:?} without a reason"
        );
        read_once(&server.address()).unwrap_or_else(|error| panic!("after {name}: {error}"));
    }
}

#[test]
fn garbage_harms_nobody_else() {
    let (_directory, server) = start();
    let mut random = Random::new(0xbad);
    for turn in 0..200u64 {
        let len = 1 + random.below(2000) as usize;
        let mut bytes: Vec<u8> = (0..len).map(|_| random.bits() as u8).collect();
        if turn % 2 == 0 {
            bytes = after_preface(&[bytes]);
        }
        let mut stream = TcpStream::connect(server.endpoint()).unwrap();
        stream.write_all(&bytes).ok();
    }
    read_once(&server.address()).unwrap();
}

#[test]
fn half_a_preface_waits_and_harms_nobody_else() {
    let (_directory, server) = start();
    let halves: Vec<TcpStream> = (0..PREFACE.len())
        .map(|len| {
            let mut stream = TcpStream::connect(server.endpoint()).unwrap();
            stream.write_all(&PREFACE[..len]).unwrap();
            stream
        })
        .collect();
    read_once(&server.address()).unwrap();
    // The second half makes it a connection like any other.
    for (len, mut stream) in halves.into_iter().enumerate().skip(1).step_by(7) {
        stream.set_read_timeout(Some(CLOSE)).unwrap();
        stream.write_all(&PREFACE[len..]).unwrap();
        stream.write_all(&EMPTY_SETTINGS).unwrap();
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(
            head[3], EMPTY_SETTINGS[3],
            "the first frame is the server's settings"
        );
    }
}

#[test]
fn a_wrong_preface_is_closed_or_answered() {
    let (_directory, server) = start();
    let tls_hello = [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        &[7; 512],
    ]
    .concat();
    for bytes in [
        &b"PRI * HTTP/3.0\r\n\r\nSM\r\n\r\n"[..],
        &tls_hello,
        b"GET\x00 / HTTP/1.1\r\n\r\n",
        b"NONSENSE\r\n\r\n",
    ] {
        // etcd keeps what looks like TLS.
        let answer = answer_until_closed(&server, bytes);
        let held = answer.is_none() && server.kind() == Kind::Ringd;
        let shown = String::from_utf8_lossy(&bytes[..11]);
        assert!(!held, "{shown:?} keeps its connection");
        read_once(&server.address()).unwrap();
    }
}

#[test]
fn ten_thousand_idle_connections() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    let (_directory, server) = start();
    let resident = || process::memory(server.pid()).unwrap().resident_bytes;
    let before = resident();
    let mut idle = Vec::new();
    for _ in 0..IDLE_CONNECTIONS {
        let mut stream = TcpStream::connect(server.endpoint()).unwrap();
        stream.set_read_timeout(Some(CLOSE)).unwrap();
        stream.write_all(PREFACE).unwrap();
        stream.write_all(&EMPTY_SETTINGS).unwrap();
        idle.push(stream);
    }
    for stream in &mut idle {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
    }
    let asked = Instant::now();
    read_once(&server.address()).unwrap();
    let took = asked.elapsed();
    let each = resident().saturating_sub(before) / IDLE_CONNECTIONS;
    println!("{each} bytes for each of {IDLE_CONNECTIONS} idle connections; a read took {took:?}");
    if server.kind() == Kind::Ringd {
        assert!(
            each <= IDLE_BYTES_MAX,
            "{each} bytes for each idle connection"
        );
    }
}
