//! The streams of a hub, found by place.

use std::collections::{BTreeMap, VecDeque};

use super::{WatchId, WatcherKey};

/// A watch stream: the watchers of one RPC. Its place in the hub below, the generation of the place above; an id is
/// never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u64);

impl StreamId {
    fn new(place: usize, generation: u32) -> StreamId {
        StreamId(u64::from(generation) << 32 | place as u64)
    }

    fn place(self) -> usize {
        self.0 as u32 as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

#[derive(Debug, Default)]
pub(super) struct StreamState {
    pub(super) watchers: BTreeMap<WatchId, WatcherKey>,
    /// Watchers that may have something to be shown.
    pub(super) ready: VecDeque<WatcherKey>,
    pub(super) next_id: i64,
    /// A progress note for the stream is due once this revision is published and shown.
    pub(super) progress_requested: Option<i64>,
    pub(super) woken: bool,
}

#[derive(Debug)]
struct Place {
    /// Of the stream that is here, or of the next one.
    generation: u32,
    state: Option<StreamState>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Streams {
    places: Vec<Place>,
    free: Vec<u32>,
}

impl Streams {
    pub(super) fn open(&mut self) -> StreamId {
        let place = self
            .free
            .pop()
            .map_or(self.places.len(), |place| place as usize);
        if place == self.places.len() {
            self.places.push(Place {
                generation: 1,
                state: None,
            });
        }
        let entry = &mut self.places[place];
        entry.state = Some(StreamState::default());
        StreamId::new(place, entry.generation)
    }

    pub(super) fn close(&mut self, id: StreamId) -> Option<StreamState> {
        let entry = self.places.get_mut(id.place())?;
        if entry.generation != id.generation() {
            return None;
        }
        let state = entry.state.take()?;
        // A place whose generations are used up is not used again.
        if let Some(next) = entry.generation.checked_add(1) {
            entry.generation = next;
            self.free.push(id.place() as u32);
        }
        Some(state)
    }

    pub(super) fn get(&self, id: StreamId) -> Option<&StreamState> {
        let entry = self.places.get(id.place())?;
        (entry.generation == id.generation())
            .then_some(entry.state.as_ref())
            .flatten()
    }

    pub(super) fn get_mut(&mut self, id: StreamId) -> Option<&mut StreamState> {
        let entry = self.places.get_mut(id.place())?;
        (entry.generation == id.generation())
            .then_some(entry.state.as_mut())
            .flatten()
    }
}
