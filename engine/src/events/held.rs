//! What stays in memory because somebody needs it together with something else.
//!
//! A cache may be smaller than what one step of a request needs at once. What is loaded for the step would
//! push itself out for ever; so the step's owner has its needs held until it is through.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::segment::Place;

/// Whose needs are held. Each has at most one step under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// An operation of a wave.
    Wave,
    /// The read, or the upkeep, that the shell favours.
    Favoured,
}

/// Records and pieces that are held, once they were brought.
#[derive(Debug, Default)]
pub(super) struct Held {
    records: BTreeMap<Place, Option<Bytes>>,
    windows: BTreeMap<Place, Option<Bytes>>,
}

impl Held {
    /// From now on keeps the record at `place`.
    pub(super) fn want_record(&mut self, place: Place) {
        self.records.entry(place).or_insert(None);
    }

    /// From now on keeps the piece at `place`.
    pub(super) fn want_window(&mut self, place: Place) {
        self.windows.entry(place).or_insert(None);
    }

    /// The record at `place` was brought.
    pub(super) fn bring_record(&mut self, place: Place, record: &Bytes) {
        if let Some(held) = self.records.get_mut(&place) {
            *held = Some(record.clone());
        }
    }

    /// The piece at `place` was brought, as far as it is sound.
    pub(super) fn bring_window(&mut self, place: Place, window: &Bytes) {
        if let Some(held) = self.windows.get_mut(&place) {
            *held = Some(window.clone());
        }
    }

    /// The record at `place`, if it is held and there.
    pub(super) fn record(&self, place: Place) -> Option<&Bytes> {
        self.records.get(&place)?.as_ref()
    }

    /// The piece at `place`, if it is held and there.
    pub(super) fn window(&self, place: Place) -> Option<&Bytes> {
        self.windows.get(&place)?.as_ref()
    }

    /// Leaves everything to the caches.
    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.windows.clear();
    }

    /// Bytes that are held.
    pub(super) fn bytes(&self) -> u64 {
        let held = self.records.values().chain(self.windows.values()).flatten();
        held.map(|bytes| bytes.len() as u64).sum()
    }
}
