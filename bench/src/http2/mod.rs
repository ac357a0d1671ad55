//! A minimal HTTP/2 client for gRPC calls and streams, built for little CPU per call.
//!
//! It owns framing, header compression and flow control of one connection. It refuses to know about
//! time, scheduling and what the messages mean. Requests are written from prebuilt parts; frames of
//! many calls leave in one write and arrive in one read.
//!
//! Left out on purpose: TLS, server push, priorities, and ending a stream before its connection.

mod connection;
mod hpack;
mod tables;

pub use connection::{
    Address, Completion, Connection, RequestHead, StreamId, TRANSPORT_ERROR, Windows,
};
