//! What a member logs, for tests that read it.

use std::cell::RefCell;
use std::rc::Rc;

use reactor::World;
use ringd::log::Logger;
use ringd::node::{Node, NodeOptions};

/// The lines of all lives.
pub(crate) type Lines = Rc<RefCell<Vec<String>>>;

/// The lines with this message.
pub(crate) fn matching(lines: &Lines, message: &str) -> Vec<String> {
    let message = format!("\"msg\":\"{message}\"");
    let lines = lines.borrow();
    let matching = lines.iter().filter(|line| line.contains(&message));
    matching.cloned().collect()
}

/// A member that serves and logs into `lines`.
pub(crate) async fn open(world: &World, options: &NodeOptions, lines: &Lines) -> Node {
    let lines = lines.clone();
    let logger = Logger::with(move |line| lines.borrow_mut().push(line.to_owned()));
    let opened = Node::open(world.clone(), options.clone(), Rc::new(logger)).await;
    let node = opened.unwrap_or_else(|error| panic!("{error}"));
    node.ready().await.expect("ready");
    node
}
