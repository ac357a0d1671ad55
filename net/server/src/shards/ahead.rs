//! Pages that entries to come will need, loaded while those before them are executed.
//!
//! Nobody waits for these loads: they may be given up at any time, and damage that one of them meets is for
//! whoever needs the page. They take no room that a change or a read wants, and what they bring is bounded
//! by what the page cache keeps until it is used.
//!
//! Keys of entries that were executed meanwhile are forgotten, so that what waits here keeps no entry in memory
//! that the pipeline has done with.

use std::collections::VecDeque;
use std::collections::btree_map::Entry;
use std::rc::Rc;

use bytes::Bytes;
use engine::shard::Ahead;
use reactor::Class;

use super::{HINTED_LOADS_MAX, Host, Shards};

/// Most keys of one shard that wait to be looked for; further ones are left to the entry itself.
const KEYS_MAX: usize = 16 << 10;

/// What a shard is to look for.
///
/// Invariant: in the order of the entries, and no more than [`KEYS_MAX`].
#[derive(Debug, Default)]
pub(super) struct KeysAhead {
    keys: VecDeque<(u64, Bytes)>,
}

impl KeysAhead {
    /// Forgets keys of entries up to `applied`.
    fn forget(&mut self, applied: u64) {
        while self
            .keys
            .front()
            .is_some_and(|(index, _)| *index <= applied)
        {
            self.keys.pop_front();
        }
    }

    /// What they need cannot be read: whoever needs it will say so. Also ends the search for a key that leads
    /// through it.
    pub(super) fn clear(&mut self) {
        self.keys.clear();
    }
}

impl Shards {
    /// Whether it helps to say what entries to come will need: some shard here has pages that are not in memory.
    pub fn lack_pages(&self) -> bool {
        (0..self.count()).any(|shard| {
            let host = self.host(shard);
            host.is_some_and(|host| host.shard.lacks_pages())
        })
    }

    /// Entry `index` will touch `key`. Nothing is loaded before [`Shards::load_ahead`].
    pub fn note_ahead(&self, shard: u16, index: u64, key: &Bytes) {
        if let Some(mut host) = self.host(shard)
            && host.ahead.keys.len() < KEYS_MAX
        {
            host.ahead.keys.push_back((index, key.clone()));
        }
    }

    /// Begins to load what was noted, except for entries up to `applied`.
    pub fn load_ahead(self: &Rc<Self>, applied: u64) {
        for shard in 0..self.count() {
            if let Some(mut host) = self.host(shard) {
                host.ahead.forget(applied);
                self.go_on_ahead(shard, &mut host);
            }
        }
    }

    /// Begins further loads for entries to come, as far as there is room.
    pub(super) fn go_on_ahead(self: &Rc<Self>, shard: u16, host: &mut Host) {
        if host.leaving || !host.shard.lacks_pages() {
            host.ahead.clear();
            return;
        }
        while host.loads.len() < HINTED_LOADS_MAX
            && host.favoured.is_none()
            && let Some((_, key)) = host.ahead.keys.front()
        {
            let (need, is_leaf) = match host.shard.look_for(key, host.loads.len()) {
                Ahead::Resident => {
                    host.ahead.keys.pop_front();
                    continue;
                }
                Ahead::Leaf(need) => (need, true),
                Ahead::Inner(need) => (need, false),
                Ahead::NoRoom => return,
            };
            if let Entry::Vacant(load) = host.loads.entry(need) {
                load.insert(Vec::new());
                self.load(shard, host, need, Class::Request);
            }
            if !is_leaf {
                // The same key again, when that page is here.
                return;
            }
            host.ahead.keys.pop_front();
        }
    }
}
