//! Reading the change history.

use bytes::Bytes;

use super::{Event, EventChunk, EventQuery, Store};
use crate::command::KeyValue;
use crate::events::{Cursor, Loc};
use crate::step::{Step, ready};

/// Most records that one call looks at; it ends behind the revision that reaches this.
const RECORDS_WALKED_MAX: usize = 16 * 1024;

/// A chunk under construction.
struct Collector {
    events: Vec<Event>,
    bytes: usize,
    /// Events of complete revisions.
    complete: usize,
    /// First revision that is not complete.
    next: i64,
}

impl Store {
    /// Reads a chunk of the history in revision order.
    ///
    /// Each call makes progress but may cover less than asked for: go on at `next`.
    pub fn events(&mut self, query: &EventQuery<'_>) -> Step<EventChunk> {
        let mut found = Collector {
            events: Vec::new(),
            bytes: 0,
            complete: 0,
            next: query.from,
        };
        match self.collect_events(query, &mut found) {
            Step::Ready(()) => {}
            // Whole revisions that were found are an answer; the caller comes back for the rest.
            Step::Need(_) if found.next > query.from => found.events.truncate(found.complete),
            Step::Need(need) => return Step::Need(need),
        }
        Step::Ready(EventChunk {
            events: found.events,
            next: found.next,
        })
    }

    fn collect_events(&mut self, query: &EventQuery<'_>, found: &mut Collector) -> Step<()> {
        let mut cursor = self.log.seek(query.from);
        let mut walked = 0;
        while let Some((loc, record)) = self.log.at(cursor) {
            let main = record.revision.main;
            if main > query.to {
                break;
            }
            if main > found.next {
                found.complete = found.events.len();
                found.next = main;
                if found.bytes >= query.bytes_max || walked >= RECORDS_WALKED_MAX {
                    return Step::Ready(());
                }
            }
            walked += 1;
            if query
                .ranges
                .is_none_or(|ranges| ranges.contains(record.key))
            {
                let event = ready!(self.event(query, cursor, loc));
                found.bytes += event.kv.key.len() + event.kv.value.len();
                found.bytes += event
                    .prev_kv
                    .as_ref()
                    .map_or(0, |kv| kv.key.len() + kv.value.len());
                found.events.push(event);
            }
            cursor = self.log.behind(cursor, loc);
        }
        found.next = found.next.max(query.to.saturating_add(1));
        Step::Ready(())
    }

    /// The event of the record at `cursor`.
    fn event(&mut self, query: &EventQuery<'_>, cursor: Cursor, loc: Loc) -> Step<Event> {
        ready!(self.log.enter(loc));
        let key = self.log.key(loc).expect("the record at the cursor");
        let (_, record) = self.log.at(cursor).expect("the record at the cursor");
        let (tombstone, revision) = (record.tombstone, record.revision);
        let creation = !tombstone && record.version == 1;
        let kv = match tombstone {
            true => KeyValue {
                key: key.clone(),
                mod_revision: revision.main,
                ..KeyValue::default()
            },
            false => KeyValue {
                key: key.clone(),
                value: Bytes::new(),
                create_revision: record.create,
                mod_revision: revision.main,
                version: record.version,
                lease: record.lease,
            },
        };
        let value = match tombstone {
            true => Bytes::new(),
            false => self.log.value(loc).expect("the record at the cursor"),
        };
        let before = revision.main - 1;
        let prev_kv = match query.prev_kv && !creation && before >= self.compact_revision {
            true => ready!(self.key_value_at(&key, before)),
            false => None,
        };
        Step::Ready(Event {
            tombstone,
            revision,
            kv: KeyValue { value, ..kv },
            prev_kv,
        })
    }
}
