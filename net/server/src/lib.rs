//! The server: joins the pure cores to the edge.
//!
//! Reading order: [`config`] (what is asked for), [`serve`] (the process), [`node`] (a running member),
//! [`cores`] (what its cores have in common), [`shards`] and [`disk`] (what executes the engine's and the log's requests), [`services`] (the
//! client API), [`metrics`] (what all of them count). Nothing depends on this crate but the binary `ringd` and the simulator, which runs
//! the same [`node::Node`] on simulated worlds.
#![forbid(unsafe_code)]

pub mod config;
pub mod cores;
pub mod disk;
pub mod etcdutl;
pub mod exit;
pub mod identity;
pub mod inspect;
pub mod local;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod node;
pub mod notify;
pub mod peer;
pub mod planted;
pub mod restore;
pub mod salvage;
pub mod serve;
pub mod services;
pub mod shards;
