//! How far one shard of a walk in key order is, and which key comes next of all shards.

use bytes::Bytes;

/// What is to be asked of a shard.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LaneState {
    /// Ask for keys behind this one; `None`: from the start.
    Resume(Option<Bytes>),
    /// It was asked.
    Asked,
    /// It has no more keys.
    Through,
}

/// The shard with the smallest of the first keys that were brought; none while a shard that has brought none
/// may still bring a smaller one, or if all are through.
pub(super) fn next_lane<'a>(
    lanes: impl Iterator<Item = (Option<&'a Bytes>, &'a LaneState)>,
) -> Option<usize> {
    let mut smallest: Option<(usize, &Bytes)> = None;
    for (index, (key, state)) in lanes.enumerate() {
        match key {
            None if *state != LaneState::Through => return None,
            None => {}
            Some(key) if smallest.is_none_or(|(_, best)| key < best) => {
                smallest = Some((index, key));
            }
            Some(_) => {}
        }
    }
    smallest.map(|(index, _)| index)
}
