//! Taking over versions from elsewhere, with the numbers that they have there.

use super::Store;
use super::write::assert_key;
use crate::command::LeaseId;
use crate::events::Record;
use crate::mvcc::versions::Entry;
use crate::step::{Step, ready};
use crate::store::Event;

impl Store {
    /// Stores a change of another store as it was made there. Changes come in the order of their revisions; of a
    /// key the first one may be any, since those before it may have been compacted.
    ///
    /// The error says what does not follow from what is there; nothing is changed then.
    pub(crate) fn restore_event(&mut self, event: &Event) -> Step<Result<(), String>> {
        let (kv, revision) = (&event.kv, event.revision);
        if revision <= self.newest_event() {
            return Step::Ready(Err("it does not come behind the one before".to_owned()));
        }
        assert_key(&kv.key);
        let position = ready!(self.tree.find(&mut self.pages, &kv.key));
        let former = self.newest(&position);
        ready!(self.enter_overflow(&position));
        let live = former.and_then(Entry::live);
        let former_lease = live.map_or(LeaseId::NONE, |version| version.lease);
        ready!(self.enter_leases(&kv.key, former_lease, kv.lease));
        // Of a generation that is not known no more is said than that it was.
        let ended = live.map_or((revision.main, 1), |version| {
            (version.create, version.version)
        });
        let (create, version) = match event.tombstone {
            true => ended,
            false => (kv.create_revision, kv.version),
        };
        let follows = match (former, live) {
            _ if event.tombstone => former.is_none() || live.is_some(),
            (None, _) => (1..=revision.main).contains(&create) && version >= 1,
            (_, Some(live)) => {
                create == live.create && Some(version) == live.version.checked_add(1)
            }
            (Some(_), None) => create == revision.main && version == 1,
        };
        if !follows {
            let what = "it does not follow from the version before: created at";
            return Step::Ready(Err(format!("{what} {create}, version {version}")));
        }
        let record = Record {
            tombstone: event.tombstone,
            revision,
            create,
            version,
            lease: kv.lease,
            key: &kv.key,
            value: &kv.value,
        };
        let counted = i32::from(!event.tombstone) - i32::from(live.is_some());
        self.record(position, &record, counted);
        self.move_lease(&kv.key, former_lease, kv.lease);
        Step::Ready(Ok(()))
    }
}
