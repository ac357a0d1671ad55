//! A minimal HTTP/2 client for unary gRPC calls, built for little CPU per call.
//!
//! It owns framing, header compression and flow control of one connection. It refuses to know about
//! time, scheduling and what the messages mean. Requests are written from prebuilt parts; frames of
//! many calls leave in one write and arrive in one read.
//!
//! Left out on purpose: TLS, server push, priorities and request streams of more than one message.

mod connection;
mod hpack;
mod tables;

pub use connection::{Address, Completion, Connection, RequestHead, TRANSPORT_ERROR};
