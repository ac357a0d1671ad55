//! What the fuzz targets check, one module per decoder.
//!
//! Each `check` takes whatever bytes the fuzzer thought of. It must return: a panic, an abort, a hang
//! or a gigabyte of memory is a finding. Beyond that, each target says what a decoder owes when it
//! accepts something. Each `seeds` gives a few inputs that pass, so that the search starts inside
//! the format; they are written by the formats' own encoders and so never fall behind them.
//!
//! Inputs that once failed lie in `findings/<target>/` and are run first.
#![forbid(unsafe_code)]

pub mod answer;
pub mod bolt;
pub mod canary;
pub mod checkpoint;
pub mod connection;
pub mod entry;
pub mod event_record;
pub mod log_record;
pub mod page;
pub mod recovery;
pub mod request;
pub mod seeds;
pub mod superblock;

/// Makes inputs to begin with.
pub type Seeds = fn() -> Vec<Vec<u8>>;

/// Every target but the canary, with its seeds.
pub const TARGETS: &[(&str, Seeds)] = &[
    ("superblock", superblock::seeds),
    ("log_record", log_record::seeds),
    ("recovery", recovery::seeds),
    ("page", page::seeds),
    ("event_record", event_record::seeds),
    ("checkpoint", checkpoint::seeds),
    ("entry", entry::seeds),
    ("request", request::seeds),
    ("answer", answer::seeds),
    ("connection", connection::seeds),
    ("bolt", bolt::seeds),
];

/// The salt of every image that the targets make.
pub const SALT: u64 = 0x5a17_5a17_0bad_cafe;

/// Splits off the first byte, which steers a target.
fn steered(data: &[u8]) -> Option<(u8, &[u8])> {
    data.split_first().map(|(steering, rest)| (*steering, rest))
}

/// `input` behind the byte that steers its target.
fn steer(steering: u8, input: &[u8]) -> Vec<u8> {
    let mut data = vec![steering];
    data.extend_from_slice(input);
    data
}
