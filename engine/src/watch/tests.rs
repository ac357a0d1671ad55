use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::command::KeyValue;
use crate::key::End;
use crate::revision::Revision;

/// SplitMix64: the draws of one run are a function of its seed.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn key(&mut self) -> Bytes {
        let len = 1 + self.below(2);
        (0..len).map(|_| b'a' + self.below(3) as u8).collect()
    }

    fn range(&mut self) -> KeyRange {
        let start = self.key();
        match self.below(3) {
            0 => KeyRange::single(start),
            1 => KeyRange {
                start,
                end: End::Unbounded,
            },
            _ => {
                let mut end = start.to_vec();
                *end.last_mut().unwrap() += 1;
                KeyRange {
                    start,
                    end: End::Before(end.into()),
                }
            }
        }
    }
}

struct Shown {
    stream: StreamId,
    spec: WatchSpec,
    events: Vec<(i64, u32)>,
    gone: bool,
}

/// The hub, the history it stands on, and what each watcher was shown.
struct World {
    hub: WatchHub,
    draw: Draw,
    history: Vec<Event>,
    applied: i64,
    in_flight: Option<(LiveQuery, Vec<Event>)>,
    streams: Vec<StreamId>,
    watchers: Vec<(WatchId, Shown)>,
    compacted: i64,
    requested: BTreeMap<StreamId, i64>,
}

impl World {
    fn new(seed: u64) -> World {
        let mut hub = WatchHub::new(1);
        hub.tail_bytes_max = 2000;
        World {
            hub,
            draw: Draw(seed),
            history: Vec::new(),
            applied: 1,
            in_flight: None,
            streams: Vec::new(),
            watchers: Vec::new(),
            compacted: 0,
            requested: BTreeMap::new(),
        }
    }

    fn write(&mut self) {
        self.applied += 1;
        for sub in 0..1 + self.draw.below(3) as u32 {
            let tombstone = self.draw.below(4) == 0;
            let kv = KeyValue {
                key: self.draw.key(),
                value: vec![b'v'; self.draw.below(60) as usize].into(),
                mod_revision: self.applied,
                ..KeyValue::default()
            };
            let revision = Revision {
                main: self.applied,
                sub,
            };
            self.history.push(Event {
                tombstone,
                revision,
                kv,
                prev_kv: None,
            });
        }
    }

    fn read(&self, from: i64, to: i64, ranges: &RangeSet) -> Vec<Event> {
        let wanted = |event: &&Event| {
            (from..=to).contains(&event.revision.main) && ranges.contains(&event.kv.key)
        };
        self.history.iter().filter(wanted).cloned().collect()
    }

    fn query(&mut self) {
        if self.in_flight.is_none()
            && let Some(query) = self.hub.live_query(self.applied)
        {
            let events = self.read(query.from, query.to, &query.ranges);
            self.in_flight = Some((query, events));
        }
    }

    fn publish(&mut self) {
        if let Some((query, events)) = self.in_flight.take() {
            self.hub.publish(query.to, events);
        }
    }

    fn create(&mut self) {
        if self.streams.is_empty() || self.draw.below(6) == 0 {
            self.streams.push(self.hub.open_stream());
        }
        let stream = self.streams[self.draw.below(self.streams.len() as u64) as usize];
        let start_revision = match self.draw.below(3) {
            0 => 0,
            1 => 1 + self.draw.below(self.applied as u64) as i64,
            _ => self.applied + self.draw.below(5) as i64,
        };
        let spec = WatchSpec {
            range: self.draw.range(),
            start_revision,
            prev_kv: self.draw.below(2) == 0,
            no_put: self.draw.below(8) == 0,
            no_delete: self.draw.below(8) == 0,
            progress_notify: self.draw.below(2) == 0,
            fragment: false,
            id: None,
        };
        let id = self.hub.create(stream, spec.clone(), self.applied).unwrap();
        let start = if start_revision > 0 {
            start_revision
        } else {
            self.applied + 1
        };
        let spec = WatchSpec {
            start_revision: start,
            ..spec
        };
        self.watchers.push((
            id,
            Shown {
                stream,
                spec,
                events: Vec::new(),
                gone: false,
            },
        ));
    }

    fn shown(&mut self, stream: StreamId, id: WatchId) -> &mut Shown {
        let found = self
            .watchers
            .iter_mut()
            .find(|(watch, shown)| *watch == id && shown.stream == stream && !shown.gone);
        &mut found.expect("output for a watcher that is not there").1
    }

    fn expected(&self, shown: &Shown, to: i64) -> Vec<(i64, u32)> {
        self.history
            .iter()
            .filter(|event| event.revision.main <= to && shown.spec.range.contains(&event.kv.key))
            .filter(|event| wanted(&shown.spec, event))
            .map(|event| (event.revision.main, event.revision.sub))
            .collect()
    }

    fn take(&mut self, stream: StreamId, output: Output) {
        match output {
            Output::Events { watch, events, .. } => {
                assert!(!events.is_empty(), "an empty answer is a progress note");
                let shown = self.shown(stream, watch);
                for event in &events {
                    let at = (event.event.revision.main, event.event.revision.sub);
                    assert!(
                        shown.events.last().is_none_or(|last| *last < at),
                        "order at {at:?}"
                    );
                    shown.events.push(at);
                }
            }
            Output::Compacted { watch, .. } => self.shown(stream, watch).gone = true,
            Output::Progress { watch, revision } => {
                assert!(revision <= self.applied);
                if watch.is_none() {
                    assert!(
                        revision >= self.requested[&stream],
                        "progress is behind its request"
                    );
                }
                let concerned: Vec<_> = self
                    .watchers
                    .iter()
                    .filter(|(id, shown)| {
                        shown.stream == stream && !shown.gone && watch.is_none_or(|w| w == *id)
                    })
                    .collect();
                for (id, shown) in concerned {
                    assert_eq!(
                        shown.events,
                        self.expected(shown, revision),
                        "progress {revision} is ahead of watcher {id:?}"
                    );
                }
            }
            Output::CatchUp(query) => {
                if self.draw.below(8) == 0 {
                    self.hub.abandon_catch_up(&query);
                    return;
                }
                let output = if query.from < self.compacted {
                    self.hub.catch_up_compacted(&query)
                } else {
                    let to = (query.from + self.draw.below(20) as i64).min(query.to);
                    let events = self.read(query.from, to, &query.ranges);
                    self.hub.catch_up(&query, events, to + 1)
                };
                if let Some(output) = output {
                    self.take(stream, output);
                }
            }
        }
    }

    fn poll(&mut self, stream: StreamId, outputs: u64) {
        for _ in 0..outputs {
            let at_hand = match self.draw.below(2) {
                0 => self.hub.poll_at_hand(stream, 100),
                _ => None,
            };
            assert!(!matches!(at_hand, Some(Output::CatchUp(_))));
            let Some(output) = at_hand.or_else(|| self.hub.poll(stream, 100)) else {
                return;
            };
            self.take(stream, output);
        }
    }

    fn step(&mut self) {
        match self.draw.below(20) {
            0..=6 => self.write(),
            7..=9 => self.query(),
            10..=12 => self.publish(),
            13 => self.create(),
            14 if !self.watchers.is_empty() => {
                let at = self.draw.below(self.watchers.len() as u64) as usize;
                let (id, shown) = &mut self.watchers[at];
                let cancelled = self.hub.cancel(shown.stream, *id);
                assert_eq!(cancelled, !std::mem::replace(&mut shown.gone, true));
            }
            15 => self.hub.tick_progress(),
            16 if !self.streams.is_empty() => {
                let at = self.draw.below(self.streams.len() as u64) as usize;
                let stream = self.streams[at];
                self.requested.insert(stream, self.applied);
                self.hub.request_progress(stream, self.applied);
            }
            17 if self.draw.below(10) == 0 => {
                self.compacted += self.draw.below((self.applied - self.compacted) as u64) as i64;
                self.hub.compacted(self.compacted);
            }
            _ if !self.streams.is_empty() => {
                let at = self.draw.below(self.streams.len() as u64) as usize;
                let outputs = 1 + self.draw.below(4);
                self.poll(self.streams[at], outputs);
            }
            _ => {}
        }
    }

    /// Publishes everything and reads all streams to their end, going by wake-ups alone.
    fn settle(&mut self) {
        let mut woken = Vec::new();
        for _ in 0..4 {
            self.publish();
            self.query();
        }
        self.publish();
        for stream in self.streams.clone() {
            self.poll(stream, 10_000);
        }
        self.hub.take_woken(&mut woken);
        for stream in woken {
            self.poll(stream, 10_000);
        }
        for (id, shown) in &self.watchers {
            if !shown.gone {
                assert_eq!(
                    shown.events,
                    self.expected(shown, self.applied),
                    "{id:?} {:?}",
                    shown.spec
                );
            }
        }
    }
}

#[test]
fn every_watcher_is_shown_its_history_once_and_in_order() {
    for seed in 0..400 {
        let mut world = World::new(seed);
        for _ in 0..300 {
            world.step();
        }
        world.settle();
    }
}

fn spec(range: KeyRange, start_revision: i64) -> WatchSpec {
    WatchSpec {
        range,
        start_revision,
        prev_kv: false,
        no_put: false,
        no_delete: false,
        progress_notify: false,
        fragment: false,
        id: None,
    }
}

#[test]
fn ids_are_unique_on_a_stream() {
    let mut hub = WatchHub::new(1);
    let stream = hub.open_stream();
    let any = || spec(KeyRange::single("a".into()), 0);
    assert_eq!(hub.create(stream, any(), 1), Ok(WatchId(0)));
    let wanted = WatchSpec {
        id: Some(WatchId(1)),
        ..any()
    };
    assert_eq!(hub.create(stream, wanted.clone(), 1), Ok(WatchId(1)));
    assert_eq!(hub.create(stream, wanted, 1), Err(CreateError::DuplicateId));
    assert_eq!(hub.create(stream, any(), 1), Ok(WatchId(2)));
    assert!(hub.cancel(stream, WatchId(0)));
    assert!(!hub.cancel(stream, WatchId(0)));
    hub.close_stream(stream);
    assert_eq!(hub.watcher_count(), 0);
}

#[test]
fn a_start_below_the_compaction_ends_the_watcher() {
    let mut hub = WatchHub::new(9);
    hub.compacted(5);
    let stream = hub.open_stream();
    hub.create(stream, spec(KeyRange::single("a".into()), 4), 9)
        .unwrap();
    assert!(matches!(
        hub.poll(stream, 1),
        Some(Output::Compacted {
            watch: WatchId(0),
            compact_revision: 5
        })
    ));
    hub.create(stream, spec(KeyRange::single("a".into()), 5), 9)
        .unwrap();
    assert!(matches!(
        hub.poll(stream, 1),
        Some(Output::CatchUp(CatchUp { from: 5, to: 9, .. }))
    ));
}

#[test]
fn nobody_watching_costs_nothing() {
    let mut hub = WatchHub::new(1);
    assert!(hub.live_query(100).is_none());
    assert_eq!(hub.published(), 100);
}

#[test]
fn what_needs_history_is_left_for_the_poll_that_may_ask_for_it() {
    let mut hub = WatchHub::new(9);
    let stream = hub.open_stream();
    let key = || KeyRange::single("a".into());
    hub.create(stream, spec(key(), 0), 9).unwrap();
    hub.create(stream, spec(key(), 4), 9).unwrap();
    hub.create(stream, spec(key(), 0), 9).unwrap();
    publish(&mut hub, 10, "a");
    let mut order = Vec::new();
    assert!(hub.poll_at_hand(stream, 1).is_none());
    assert_eq!(hub.waiting(stream), 3);
    let Some(Output::CatchUp(query)) = hub.poll(stream, 1) else {
        panic!("the second watcher is behind");
    };
    while let Some(Output::Events { watch, events, .. }) = hub.poll_at_hand(stream, 1) {
        order.push((watch, events.len()));
    }
    assert_eq!(order, [(WatchId(0), 1), (WatchId(2), 1)]);
    assert_eq!(hub.waiting(stream), 0);
    assert_eq!((query.from, query.to), (4, 10));
}

#[test]
fn watchers_of_one_key_are_shown_the_same_list() {
    let mut hub = WatchHub::new(1);
    let streams = [hub.open_stream(), hub.open_stream()];
    for stream in streams {
        for _ in 0..3 {
            hub.create(stream, spec(KeyRange::single("a".into()), 0), 1)
                .unwrap();
        }
    }
    for revision in 2..4 {
        publish(&mut hub, revision, "a");
    }
    let mut woken = Vec::new();
    hub.take_woken(&mut woken);
    assert_eq!(woken, streams, "one wake each");
    let mut lists = Vec::new();
    for stream in streams {
        while let Some(Output::Events { events, .. }) = hub.poll(stream, 1000) {
            lists.push(events);
        }
    }
    assert_eq!(lists.len(), 6);
    for list in &lists {
        assert_eq!(list.len(), 2);
        assert!(list.is_same(&lists[0]));
    }
    publish(&mut hub, 4, "a");
    let Some(Output::Events { events, .. }) = hub.poll(streams[0], 1000) else {
        panic!("a new event");
    };
    assert!(!events.is_same(&lists[0]));
}

#[test]
fn the_id_of_a_closed_stream_finds_nothing() {
    let mut hub = WatchHub::new(1);
    let first = hub.open_stream();
    hub.close_stream(first);
    let second = hub.open_stream();
    assert_ne!(first, second);
    let any = || spec(KeyRange::single("a".into()), 0);
    assert_eq!(
        hub.create(first, any(), 1),
        Err(CreateError::DuplicateId),
        "a watcher on a stream that is closed"
    );
    hub.create(second, any(), 1).unwrap();
    hub.close_stream(first);
    publish(&mut hub, 2, "a");
    assert!(hub.poll(first, 1).is_none());
    assert!(matches!(hub.poll(second, 1), Some(Output::Events { .. })));
}

/// Publishes one put.
fn publish(hub: &mut WatchHub, revision: i64, key: &'static str) {
    let event = Event {
        tombstone: false,
        revision: Revision {
            main: revision,
            sub: 0,
        },
        kv: KeyValue {
            key: key.into(),
            mod_revision: revision,
            ..KeyValue::default()
        },
        prev_kv: None,
    };
    hub.live_query(revision);
    hub.publish(revision, vec![event]);
}
