//! Watch streams: create watchers of all kinds, note what they are shown, resume after a crash.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use engine::key::KeyRange;
use engine::testing::Workload;
use engine::watch::{Output, WatchId, WatchSpec};
use reactor::World;
use reactor::sim::Random;
use ringd::node::{Node, WatchStream};

use crate::history::{Gap, Shown, Watched};
use crate::member::{Busy, Phase, Shared};

/// Watchers that a stream keeps open.
const WATCHERS_MAX: usize = 6;
/// How long a stream waits for its watchers to be shown everything.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// A stream's draws and its watchers, over all lives.
pub struct WatcherState {
    /// Draws ranges.
    pub workload: Workload,
    /// Draws everything else.
    pub random: Random,
    /// Positions of its live watchers in the history.
    pub live: Vec<usize>,
}

struct Stream<'a> {
    stream: WatchStream,
    shared: &'a Shared,
    number: usize,
    /// Position in the history by the stream's id.
    watchers: BTreeMap<WatchId, usize>,
    /// Whole-stream progress notes: the highest revision.
    progress: i64,
}

/// One watch stream of one life.
pub async fn run_watcher(world: World, node: Node, shared: Rc<Shared>, number: usize) {
    let _busy = Busy::new(&shared);
    let mut stream = Stream {
        stream: node.open_watch_stream(),
        shared: &shared,
        number,
        watchers: BTreeMap::new(),
        progress: 0,
    };
    stream.resume();
    while shared.phase.get() == Phase::Serving {
        stream.change();
        let (wait, bytes_max) = {
            let random = &mut shared.watchers.borrow_mut()[number].random;
            (
                Duration::from_nanos(random.below(20_000_000)),
                [1, 200, 1 << 20][random.index(3)],
            )
        };
        match world.timeout(wait, stream.stream.next(bytes_max)).await {
            Ok(Some(output)) => stream.take(output),
            Ok(None) => return,
            Err(_elapsed) => {}
        }
    }
    stream.drain(&world, &node).await;
}

impl Stream<'_> {
    /// Creates again what the last life had.
    fn resume(&mut self) {
        let live = self.shared.watchers.borrow()[self.number].live.clone();
        for at in live {
            let watched = self.shared.history.borrow().watches[at].clone();
            let spec = WatchSpec {
                range: watched.range,
                start_revision: watched.next,
                prev_kv: watched.prev_kv,
                no_put: watched.no_put,
                no_delete: watched.no_delete,
                progress_notify: at % 2 == 0,
                fragment: at % 3 == 0,
                id: None,
            };
            self.create(spec, Some(at));
        }
        let is_auditor = self.number == 0 && self.watchers.is_empty();
        if is_auditor {
            self.create(whole_history(), None);
        }
    }

    fn create(&mut self, spec: WatchSpec, resumed: Option<usize>) {
        let (id, revision) = match self.stream.create(spec.clone()) {
            Ok(created) => created,
            Err(error) => {
                let mut history = self.shared.history.borrow_mut();
                if !spec.range.is_empty() && spec.id.is_none() {
                    history.violation(format!("{spec:?} was refused: {error:?}"));
                }
                return;
            }
        };
        let at = resumed.unwrap_or_else(|| {
            let start = if spec.start_revision == 0 {
                revision + 1
            } else {
                spec.start_revision
            };
            let mut history = self.shared.history.borrow_mut();
            history.watches.push(Watched {
                range: spec.range,
                prev_kv: spec.prev_kv,
                no_put: spec.no_put,
                no_delete: spec.no_delete,
                start,
                next: start,
                events: Vec::new(),
                gaps: Vec::new(),
                progress: Vec::new(),
                answers: 0,
                cancelled: false,
            });
            let at = history.watches.len() - 1;
            self.shared.watchers.borrow_mut()[self.number].live.push(at);
            at
        });
        if self.watchers.insert(id, at).is_some() {
            let mut history = self.shared.history.borrow_mut();
            history.violation(format!("watch id {} is used twice", id.0));
        }
    }

    /// Now and then: another watcher, one less, or a question for progress.
    fn change(&mut self) {
        let choice = self.shared.watchers.borrow_mut()[self.number]
            .random
            .below(40);
        match choice {
            0..3 if self.watchers.len() < WATCHERS_MAX => {
                let spec = self.draw_spec();
                self.create(spec, None);
            }
            3 => self.cancel_one(),
            4 => self.stream.request_progress(),
            _ => {}
        }
    }

    fn draw_spec(&self) -> WatchSpec {
        let revision = self.shared.history.borrow().revision_seen;
        let mut watchers = self.shared.watchers.borrow_mut();
        let WatcherState {
            workload, random, ..
        } = &mut watchers[self.number];
        let start_revision = match random.below(4) {
            0 => 0,
            1 => revision + 1 + random.below(40) as i64,
            _ => 1 + random.below(revision as u64) as i64,
        };
        WatchSpec {
            range: workload.keys(),
            start_revision,
            prev_kv: random.below(2) == 0,
            no_put: random.below(6) == 0,
            no_delete: random.below(6) == 0,
            progress_notify: random.below(2) == 0,
            fragment: random.below(2) == 0,
            id: None,
        }
    }

    /// Cancels a watcher, never the one that audits the whole history.
    fn cancel_one(&mut self) {
        let chosen = {
            let state = &mut self.shared.watchers.borrow_mut()[self.number];
            let auditor = state.live.first().copied().filter(|_| self.number == 0);
            let others = self.watchers.iter().filter(|(_, at)| Some(**at) != auditor);
            let candidates: Vec<WatchId> = others.map(|(id, _)| *id).collect();
            let random = &mut state.random;
            if candidates.is_empty() {
                return;
            }
            candidates[random.index(candidates.len())]
        };
        let cancelled = self.stream.cancel(chosen);
        let at = self.watchers.remove(&chosen);
        let mut history = self.shared.history.borrow_mut();
        if !cancelled {
            history.violation(format!("live watcher {} could not be cancelled", chosen.0));
        }
        if let Some(at) = at {
            history.watches[at].cancelled = true;
            self.shared.watchers.borrow_mut()[self.number]
                .live
                .retain(|live| *live != at);
        }
    }

    fn take(&mut self, output: Output) {
        match output {
            Output::Events {
                watch,
                events,
                prev_kv,
                revision,
                ..
            } => {
                let Some(at) = self.known(watch) else { return };
                let mut history = self.shared.history.borrow_mut();
                let watched = &mut history.watches[at];
                watched.answers += 1;
                let answer = watched.answers;
                for shared in &events {
                    let event = &shared.event;
                    watched.events.push(Shown {
                        revision: event.revision.main,
                        tombstone: event.tombstone,
                        kv: event.kv.clone(),
                        prev_kv: event.prev_kv.clone().filter(|_| prev_kv),
                        answer,
                    });
                }
                let last = events.last().map(|shared| shared.event.revision.main);
                watched.next = watched.next.max(last.map_or(0, |last| last + 1));
                if last.is_none_or(|last| last > revision) {
                    history.violation(format!("an answer of revision {revision} shows {last:?}"));
                }
                history.revision_seen = history.revision_seen.max(last.unwrap_or(0));
            }
            Output::Compacted {
                watch,
                compact_revision,
            } => {
                let Some(at) = self.known(watch) else { return };
                self.watchers.remove(&watch);
                self.jump(at, compact_revision);
            }
            Output::Progress {
                watch: Some(watch),
                revision,
            } => {
                if let Some(at) = self.known(watch) {
                    self.note_progress(at, revision);
                }
            }
            Output::Progress {
                watch: None,
                revision,
            } => {
                self.progress = self.progress.max(revision);
                for at in self.watchers.values().copied().collect::<Vec<_>>() {
                    self.note_progress(at, revision);
                }
            }
            Output::CatchUp(query) => {
                let mut history = self.shared.history.borrow_mut();
                history.violation(format!("a client was shown {query:?}"));
            }
        }
    }

    fn known(&self, watch: WatchId) -> Option<usize> {
        let at = self.watchers.get(&watch).copied();
        if at.is_none() {
            let mut history = self.shared.history.borrow_mut();
            history.violation(format!(
                "watcher {} is cancelled and was shown something",
                watch.0
            ));
        }
        at
    }

    fn note_progress(&self, at: usize, revision: i64) {
        let watched = &mut self.shared.history.borrow_mut().watches[at];
        watched.progress.push((watched.events.len(), revision));
        watched.next = watched.next.max(revision + 1);
    }

    /// The watcher's next revision was compacted: it goes on at the compact revision.
    fn jump(&mut self, at: usize, compact_revision: i64) {
        let spec = {
            let mut history = self.shared.history.borrow_mut();
            let watched = &mut history.watches[at];
            let (from, position) = (watched.next, watched.events.len());
            watched.gaps.push(Gap {
                from,
                to: compact_revision,
                position,
            });
            watched.next = watched.next.max(compact_revision);
            let spec = WatchSpec {
                range: watched.range.clone(),
                start_revision: watched.next,
                prev_kv: watched.prev_kv,
                no_put: watched.no_put,
                no_delete: watched.no_delete,
                progress_notify: false,
                fragment: false,
                id: None,
            };
            if from >= compact_revision {
                history.violation(format!(
                    "a watcher at {from} was ended by a compaction at {compact_revision}"
                ));
            }
            spec
        };
        self.create(spec, Some(at));
    }

    /// Nothing is written any more: every watcher is shown everything, and progress says so.
    async fn drain(&mut self, world: &World, node: &Node) {
        let deadline = world.now().nanos() + DRAIN_MAX.as_nanos() as u64;
        while self.shared.phase.get() == Phase::Quiet {
            let revision = node.applied().revision;
            // There is no progress for a stream without watchers.
            if self.progress >= revision || self.watchers.is_empty() {
                return;
            }
            if world.now().nanos() > deadline {
                let mut history = self.shared.history.borrow_mut();
                let progress = self.progress;
                return history.violation(format!(
                    "a stream was not shown everything up to {revision} within {DRAIN_MAX:?}: \
                     its progress is {progress}"
                ));
            }
            self.stream.request_progress();
            let wait = Duration::from_millis(20);
            match world.timeout(wait, self.stream.next(1 << 20)).await {
                Ok(Some(output)) => self.take(output),
                Ok(None) => return,
                Err(_elapsed) => {}
            }
        }
    }
}

fn whole_history() -> WatchSpec {
    WatchSpec {
        range: KeyRange::from_wire(Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
        start_revision: 1,
        prev_kv: true,
        no_put: false,
        no_delete: false,
        progress_notify: true,
        fragment: false,
        id: None,
    }
}
