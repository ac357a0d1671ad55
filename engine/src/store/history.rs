//! Reading the change history.

use bytes::Bytes;

use super::interrupted::{Progress, Question};
use super::{Event, EventChunk, EventQuery, Store};
use crate::command::KeyValue;
use crate::events::{Reader, Record};
use crate::revision::Revision;
use crate::step::{Step, ready};

/// Most records that one call looks at; it ends behind the revision that reaches this.
const RECORDS_WALKED_MAX: usize = 16 * 1024;

/// A chunk under construction.
#[derive(Debug)]
pub(super) struct Found {
    events: Vec<Event>,
    bytes: usize,
    walked: usize,
    /// Events of complete revisions.
    complete: usize,
    /// First revision that is not complete.
    next: i64,
    /// Everything below was looked at.
    at: Revision,
}

impl Found {
    fn from(main: i64) -> Self {
        Found {
            events: Vec::new(),
            bytes: 0,
            walked: 0,
            complete: 0,
            next: main,
            at: Revision { main, sub: 0 },
        }
    }
}

impl Store {
    /// Reads a chunk of the history in revision order.
    ///
    /// Each call makes progress but may cover less than asked for: go on at `next`.
    pub fn events(&mut self, query: &EventQuery<'_>) -> Step<EventChunk> {
        let mut found = self.resumed(query);
        self.log.begin_hints(match query.passing {
            true => Reader::Passing,
            false => Reader::Point,
        });
        let collected = self.collect_events(query, &mut found);
        if query.passing
            && let Step::Need(need) = collected
        {
            self.log.want_passing(need);
        }
        match collected {
            Step::Ready(()) => {}
            // Whole revisions that were found are an answer; the caller comes back for the rest.
            Step::Need(need) if found.next > query.from => {
                self.log.hint(need);
                found.events.truncate(found.complete);
            }
            Step::Need(need) => {
                let question = Question::events(query);
                self.interrupted.keep(question, Progress::Events(found));
                return Step::Need(need);
            }
        }
        Step::Ready(EventChunk {
            events: found.events,
            next: found.next,
        })
    }

    /// What an earlier attempt found, or nothing yet.
    fn resumed(&mut self, query: &EventQuery<'_>) -> Found {
        if !self.interrupted.is_empty()
            && let Some(Progress::Events(found)) = self.interrupted.take(&Question::events(query))
        {
            return found;
        }
        Found::from(query.from)
    }

    fn collect_events(&mut self, query: &EventQuery<'_>, found: &mut Found) -> Step<()> {
        let mut cursor = ready!(self.log.seek(found.at));
        while let Some((loc, record)) = ready!(self.log.read(cursor, query.to)) {
            let revision = record.revision;
            let main = revision.main;
            if main > query.to {
                break;
            }
            if main > found.next {
                found.complete = found.events.len();
                found.next = main;
                if found.bytes >= query.bytes_max || found.walked >= RECORDS_WALKED_MAX {
                    return Step::Ready(());
                }
            }
            if query
                .ranges
                .is_none_or(|ranges| ranges.contains(record.key))
            {
                let (mut event, key_len) = (event_of(&record), record.key.len());
                let bytes = self.log.key_and_value(cursor, loc, key_len);
                ready!(self.fill(query, &mut event, bytes));
                found.bytes += bytes_of(&event.kv) + event.prev_kv.as_ref().map_or(0, bytes_of);
                found.events.push(event);
            }
            found.walked += 1;
            found.at = behind(revision);
            cursor = self.log.behind(cursor, loc);
        }
        found.next = found.next.max(query.to.saturating_add(1));
        Step::Ready(())
    }

    /// Gives an event its key and value, and brings the key-value before it.
    fn fill(
        &mut self,
        query: &EventQuery<'_>,
        event: &mut Event,
        bytes: (Bytes, Bytes),
    ) -> Step<()> {
        (event.kv.key, event.kv.value) = bytes;
        let creation = !event.tombstone && event.kv.version == 1;
        let before = event.revision.main - 1;
        if query.prev_kv && !creation && before >= self.compact_revision {
            let key = event.kv.key.clone();
            event.prev_kv = ready!(self.key_value_at(&key, before));
        }
        Step::Ready(())
    }
}

/// The event that a record tells, without its bytes.
pub(super) fn event_of(record: &Record<'_>) -> Event {
    let mut kv = KeyValue {
        mod_revision: record.revision.main,
        ..KeyValue::default()
    };
    if !record.tombstone {
        kv.create_revision = record.create;
        kv.version = record.version;
        kv.lease = record.lease;
    }
    Event {
        tombstone: record.tombstone,
        revision: record.revision,
        kv,
        prev_kv: None,
    }
}

/// The least revision above `revision`.
pub(super) fn behind(revision: Revision) -> Revision {
    match revision.sub.checked_add(1) {
        Some(sub) => Revision { sub, ..revision },
        None => Revision {
            main: revision.main.saturating_add(1),
            sub: 0,
        },
    }
}

fn bytes_of(kv: &KeyValue) -> usize {
    kv.key.len() + kv.value.len()
}
