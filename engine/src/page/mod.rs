//! Tree pages.

mod reference;

pub use reference::PageRef;
