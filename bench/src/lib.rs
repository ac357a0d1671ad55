//! `ringbench`: one lean load generator for every server that speaks etcd's API.
//!
//! The same binary drives etcd and ringd, so a ratio between two of its figures is a ratio between
//! servers. It measures from outside: latencies at the client, processor time and memory from
//! `/proc`. It refuses to know anything of either server's inside.
//!
//! Reading order: [`message`] (the calls), [`http2`] (how they travel), [`workload`] (which calls),
//! [`load`] (when they are sent, what is recorded), [`server`] and [`process`] (the server under
//! test), [`compare`] (two servers in alternating rounds). Then [`scenario`]: servers brought into a
//! state by [`fill`] with [`keys`] that need no memory here, asked by [`client`], observed by
//! [`timeline`] and [`marks`], limited by [`cgroup`], reported by [`figures`]. Apart from all that
//! stands [`machine`]: what a core of ringd gets from this machine, without a server.

#![forbid(unsafe_code)]

pub mod cgroup;
pub mod client;
pub mod compare;
pub mod figures;
pub mod fill;
pub mod http2;
pub mod keys;
pub mod load;
pub mod machine;
pub mod marks;
pub mod message;
pub mod poller;
pub mod process;
pub mod random;
pub mod report;
pub mod scenario;
pub mod server;
pub mod start;
pub mod statistics;
pub mod timeline;
pub mod workload;
