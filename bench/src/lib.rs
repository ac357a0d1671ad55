//! `ringbench`: one lean load generator for every server that speaks etcd's API.
//!
//! The same binary drives etcd and ringd, so a ratio between two of its figures is a ratio between
//! servers. It measures from outside: latencies at the client, processor time and memory from
//! `/proc`. It refuses to know anything of either server's inside.
//!
//! Reading order: [`message`] (the calls), [`http2`] (how they travel), [`workload`] (which calls),
//! [`load`] (when they are sent, what is recorded), [`server`] and [`process`] (the server under
//! test), [`compare`] (two servers in alternating rounds).

#![forbid(unsafe_code)]

pub mod compare;
pub mod http2;
pub mod load;
pub mod message;
pub mod process;
pub mod random;
pub mod report;
pub mod server;
pub mod start;
pub mod statistics;
pub mod workload;
