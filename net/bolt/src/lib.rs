//! bbolt database files, as etcd keeps and sends them.
//!
//! This crate owns the format: what a page, a bucket and a meta page look like, what is believed of a file that
//! somebody else wrote, and how a file is laid out so that it can be written forwards, once, while it is being
//! read by a client. It refuses to know files, sockets and threads: it reads through [`Source`], and what it
//! writes is handed out in pieces by [`Writer::take`].
//!
//! ```text
//! Plan (counts and bytes per bucket) ──> Writer ── bucket, push … finish ──> take: pieces of the file, in order
//! Source ──> Database ── walk ──> Item (bucket, entry, end), all of it checked on the way
//! ```
//!
//! [`etcd`] says what is in a database of etcd's, and what a snapshot file adds to it.
//!
//! The format, the rules by field and the layout of what is written: `docs/internals/bolt.md`.
#![forbid(unsafe_code)]

mod claims;
mod database;
mod error;
pub mod etcd;
mod format;
mod node;
mod plan;
mod walk;
mod writer;

pub use database::{Database, Source};
pub use error::{ReadError, WriteError};
pub use format::{KEY_BYTES_MAX, Meta, PAGE_BYTES};
pub use node::NODE_BYTES_MAX;
pub use plan::{BucketPlan, Plan};
pub use walk::{Item, Walk};
pub use writer::{OUTPUT_BYTES_WANTED, VALUE_BYTES_MAX, Writer};
