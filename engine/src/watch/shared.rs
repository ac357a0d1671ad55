//! Events as they are shared by all who are shown them.

use std::cell::OnceCell;
use std::ops::Deref;
use std::rc::Rc;
use std::slice;

use bytes::Bytes;

use crate::store::Event;

/// An event as it is shared by all who are shown it, with room for its encodings.
#[derive(Debug)]
pub struct SharedEvent {
    /// The change.
    pub event: Event,
    /// Its encoding without and with the previous key-value, made once by whoever sends it first.
    pub encoded: [OnceCell<Bytes>; 2],
}

impl SharedEvent {
    /// Wraps an event.
    pub fn new(event: Event) -> Rc<SharedEvent> {
        Rc::new(SharedEvent {
            event,
            encoded: Default::default(),
        })
    }

    pub(super) fn bytes(&self) -> usize {
        let previous = self.event.prev_kv.as_ref();
        self.event.kv.key.len()
            + self.event.kv.value.len()
            + previous.map_or(0, |kv| kv.key.len() + kv.value.len())
            + 64
    }
}

/// The events of one answer. Most answers have one, which needs no memory of its own.
#[derive(Debug)]
pub struct EventList(List);

#[derive(Debug)]
enum List {
    One(Rc<SharedEvent>),
    Several(Vec<Rc<SharedEvent>>),
}

impl EventList {
    /// Of no events.
    pub(super) fn new() -> EventList {
        EventList(List::Several(Vec::new()))
    }

    pub(super) fn push(&mut self, event: Rc<SharedEvent>) {
        match &mut self.0 {
            List::One(first) => {
                self.0 = List::Several(vec![Rc::clone(first), event]);
            }
            List::Several(events) if events.capacity() == 0 => self.0 = List::One(event),
            List::Several(events) => events.push(event),
        }
    }

    /// Whether both are lists of the very same shared events.
    pub fn is_same(&self, other: &EventList) -> bool {
        self.len() == other.len() && self.iter().zip(other).all(|(a, b)| Rc::ptr_eq(a, b))
    }
}

impl FromIterator<Rc<SharedEvent>> for EventList {
    fn from_iter<I: IntoIterator<Item = Rc<SharedEvent>>>(events: I) -> EventList {
        EventList(List::Several(events.into_iter().collect()))
    }
}

impl Deref for EventList {
    type Target = [Rc<SharedEvent>];

    fn deref(&self) -> &[Rc<SharedEvent>] {
        match &self.0 {
            List::One(event) => slice::from_ref(event),
            List::Several(events) => events,
        }
    }
}

impl<'a> IntoIterator for &'a EventList {
    type Item = &'a Rc<SharedEvent>;
    type IntoIter = slice::Iter<'a, Rc<SharedEvent>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
