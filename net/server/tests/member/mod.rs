//! What the tests of a whole member on a simulated disk share.

use std::path::PathBuf;

use engine::auth::{Identity as Caller, Policy, authorize};
use engine::command::Operation;
use ringd::identity::Identity;
use ringd::node::{Answer, Node, NodeOptions, WriteError};

/// A member with a small log and no checkpoints.
pub(crate) fn small() -> NodeOptions {
    let identity = Identity {
        cluster_id: 0xc1,
        member_id: 0x3e,
    };
    let mut options = NodeOptions::new(PathBuf::from("/data"), identity);
    options.log.record_bytes_max = 64 << 10;
    options.log.segment_bytes = 96 << 10;
    options.log.batch_bytes_target = 4 << 10;
    options.log.prewrite_bytes = 16 << 10;
    options.log.prewrite_gap_bytes = 4 << 10;
    options.checkpoints.operations = u64::MAX;
    options
}

/// Executes `operation` as the member itself.
///
/// # Errors
/// As [`Node::execute`].
pub(crate) async fn answer(node: &Node, operation: Operation) -> Result<Answer, WriteError> {
    let operation = authorize(operation, &Caller::Member, &Policy::Disabled).expect("allowed");
    node.execute(operation).await
}
