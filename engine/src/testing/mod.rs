//! What tests of the engine share, also with the simulator: a naive etcd to compare with, a source
//! of random requests, and a whole engine on one thread.

mod disk;
mod node;
mod oracle;
mod random;
mod snapshot;
mod workload;

pub use disk::DiskConfig;
pub use node::{List, Node, NodeConfig};
pub use oracle::Oracle;
pub use random::Random;
pub use snapshot::Snapshot;
pub use workload::{Workload, authorized};

pub use crate::defect::Defect;
pub use crate::planted::{Bug, with_planted};
