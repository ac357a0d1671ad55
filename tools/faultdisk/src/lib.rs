//! A disk that loses power, for the unmodified binary on the real kernel.
//!
//! [`disk`] is a block device's content with a volatile write cache; [`filesystem`] offers it as one
//! file over FUSE; [`mount`] puts a loop device and ext4 on that file; [`member`] runs a ringd there
//! and remembers what it acknowledged. Needs root, `/dev/fuse` and a free loop device.
#![forbid(unsafe_code)]

pub mod disk;
pub mod filesystem;
pub mod member;
pub mod model;
pub mod mount;
pub mod wire;
