//! What is alive at a revision, as the places of its records, and the records at such places.

use bytes::Bytes;

use super::Store;
use super::history::event_of;
use crate::events::{RECORD_HEADER_BYTES, Reader, Record};
use crate::revision::Revision;
use crate::shard::{OutlinePart, OutlineRequest, RecordPlace};
use crate::step::{Step, ready};
use crate::store::Event;

/// Leaves of one slice.
const LEAVES_PER_SLICE: usize = 16;

impl Store {
    /// A slice of what is alive at main revision `at` and was changed before it.
    pub(crate) fn outline(&mut self, request: &OutlineRequest) -> Step<OutlinePart> {
        let mut part = OutlinePart::default();
        let mut from = request.from.to_vec();
        for _ in 0..LEAVES_PER_SLICE {
            match self.outline_leaf(&from, request) {
                Step::Ready((leaf, next)) => {
                    part.places.extend(leaf.places);
                    part.records += leaf.records;
                    part.bytes += leaf.bytes;
                    match next {
                        Some(next) => from = next,
                        None => return Step::Ready(part),
                    }
                }
                // What was found is an answer.
                Step::Need(_) if from.as_slice() > request.from.as_ref() => break,
                Step::Need(need) => return Step::Need(need),
            }
        }
        part.resume = Some(Bytes::from(from));
        Step::Ready(part)
    }

    /// The versions of a leaf from the key `from` on, and where the next leaf begins.
    fn outline_leaf(
        &mut self,
        from: &[u8],
        request: &OutlineRequest,
    ) -> Step<(OutlinePart, Option<Vec<u8>>)> {
        let position = ready!(self.tree.find(&mut self.pages, from));
        let leaf = position.leaf;
        let mut part = OutlinePart::default();
        let end = Revision {
            main: request.at,
            sub: 0,
        };
        for cell in position.cell.unwrap_or_else(|cell| cell)..self.pages[leaf].len() {
            let Some(version) = ready!(self.version_at(leaf, cell, request.at)) else {
                continue;
            };
            let revision = version.modified;
            if !(request.low..end).contains(&revision) {
                continue;
            }
            part.records += 1;
            part.bytes += u64::from(version.loc.len).saturating_sub(RECORD_HEADER_BYTES as u64);
            if revision < request.high {
                part.places.push(RecordPlace {
                    revision,
                    loc: version.loc,
                });
            }
        }
        let next = self.pages[leaf].high().map(<[u8]>::to_vec);
        Step::Ready((part, next))
    }

    /// The changes whose records are at these places: the first ones, at least one.
    pub(crate) fn records(&mut self, places: &[RecordPlace]) -> Step<Vec<Event>> {
        let mut found = Vec::with_capacity(places.len());
        self.log.begin_hints(Reader::Passing);
        for (index, place) in places.iter().enumerate() {
            let need = match self.log.record_passing(place.loc, place.revision) {
                Step::Ready(bytes) => {
                    found.push(event_at(&bytes));
                    continue;
                }
                Step::Need(need) => need,
            };
            for later in &places[index + 1..] {
                if !self.log.hint_value(later.loc) {
                    break;
                }
            }
            if !found.is_empty() {
                self.log.hint(need);
                return Step::Ready(found);
            }
            let need = self.log.need_ahead(need);
            self.log.remove_hint(need);
            return Step::Need(need);
        }
        Step::Ready(found)
    }

    /// The most records that the history has of these main revisions, and the most bytes of their keys and values.
    pub(crate) fn extent(&self, from: i64, to: i64) -> (u64, u64) {
        self.log.extent(from, to)
    }
}

/// The change that a record tells, which has been checked.
fn event_at(bytes: &Bytes) -> Event {
    let record = Record::parse(bytes).expect("a record that was read");
    let (mut event, key_end) = (event_of(&record), RECORD_HEADER_BYTES + record.key.len());
    event.kv.key = bytes.slice(RECORD_HEADER_BYTES..key_end);
    event.kv.value = bytes.slice(key_end..);
    event
}
