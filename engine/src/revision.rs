//! Revisions: the store-wide order of changes.

/// `main` steps by one per write transaction; `sub` orders the changes inside it, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// Store-wide revision; an empty store is at 1, the first change gets 2.
    pub main: i64,
    /// Order inside the transaction.
    pub sub: u32,
}
