use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use reactor::sim::{Simulation, SimulationOptions};
use reactor::{Class, World};

use super::link::{Callee, CalleeEnd, Caller, CallerEnd, link};
use crate::local::Flag;

/// Answers each request after a random while, some after a call of its own to the next core: leaves depend on
/// nobody, so the ring of cores may wait for each other in a circle and must not stop.
async fn answer_all(world: World, end: CalleeEnd<u64, u64>, onward: Option<Rc<TestLink>>) {
    let wanted = Rc::new(Flag::default());
    let mut callee = Callee::new(end, wanted.clone());
    let answers = callee.answers().clone();
    drop(world.spawn(Class::Request, async move {
        loop {
            wanted.wait().await;
            answers.flush();
        }
    }));
    let mut last = 0;
    while std::future::poll_fn(|context| callee.poll_requests(context)).await {
        while let Some((answer, number)) = callee.next_request() {
            let sequence = number & 0xffff;
            assert_eq!(sequence, last + 1, "requests arrive in their order");
            last = sequence;
            let (world, onward) = (world.clone(), onward.clone());
            drop(world.clone().spawn(Class::Request, async move {
                let nanos = world.random_u64() % 20_000;
                world.sleep(Duration::from_nanos(nanos)).await;
                if let Some(onward) = onward.filter(|_| number % 3 == 0) {
                    onward.ask().await;
                }
                answer.answer(number * 2);
            }));
        }
    }
}

/// A caller with numbered questions.
struct TestLink {
    caller: Caller<u64, u64, crate::local::Responder<Option<u64>>>,
    last: Cell<u64>,
}

impl TestLink {
    fn start(world: &World, end: CallerEnd<u64, u64>) -> Rc<TestLink> {
        let wanted = Rc::new(Flag::default());
        let link = Rc::new(TestLink {
            caller: Caller::new(end, wanted.clone()),
            last: Cell::new(0),
        });
        let sender = link.clone();
        drop(world.spawn(Class::Request, async move {
            loop {
                wanted.wait().await;
                sender.caller.flush();
            }
        }));
        let taker = link.clone();
        drop(world.spawn(Class::Consensus, async move {
            while std::future::poll_fn(|context| taker.caller.poll_responses(context)).await {
                while let Some((waiter, response)) = taker.caller.next_response() {
                    waiter.answer(response);
                }
            }
        }));
        link
    }

    async fn ask(&self) -> Option<u64> {
        let number = self.last.get() + 1;
        self.last.set(number);
        let (responder, waiting) = crate::local::one_shot();
        if self.caller.call(responder, number).is_err() {
            return None;
        }
        let response = waiting.await.flatten();
        if let Some(response) = response {
            assert_eq!(response, number * 2, "the answer to another question");
        }
        response
    }
}

const CORES: usize = 3;
const QUESTIONS: u64 = 200;

/// Every core asks every other one, over leaf links; and over onward links, whose answers need leaf links.
fn run_ring(seed: u64, capacity: usize) -> u64 {
    let mut simulation = Simulation::new(seed, SimulationOptions::calm());
    let host = simulation.add_host("member");
    let answered = Rc::new(Cell::new(0));
    let mut callers: Vec<Vec<_>> = (0..CORES).map(|_| Vec::new()).collect();
    let mut callees: Vec<Vec<_>> = (0..CORES).map(|_| Vec::new()).collect();
    let pairs = (0..CORES).flat_map(|from| (0..CORES).map(move |to| (from, to)));
    for (from, to) in pairs.filter(|(from, to)| from != to) {
        let (leaf_caller, leaf_callee) = link(capacity);
        let (caller, callee) = link(capacity);
        callers[from].push((leaf_caller, caller));
        callees[to].push((leaf_callee, callee));
    }
    for (callers, callees) in callers.into_iter().zip(callees) {
        let answered = answered.clone();
        simulation.start_core(host, |world| async move {
            let mut leaves = Vec::new();
            for (leaf, caller) in callers {
                leaves.push(TestLink::start(&world, leaf));
                let link = TestLink::start(&world, caller);
                for _ in 0..QUESTIONS {
                    let (link, answered) = (link.clone(), answered.clone());
                    drop(world.spawn(Class::Request, async move {
                        assert!(link.ask().await.is_some(), "answered");
                        answered.set(answered.get() + 1);
                    }));
                }
            }
            for (leaf, callee) in callees {
                let onward = leaves[world.random_u64() as usize % leaves.len()].clone();
                let (leaf, callee) = (
                    answer_all(world.clone(), leaf, None),
                    answer_all(world.clone(), callee, Some(onward)),
                );
                drop(world.spawn(Class::Request, leaf));
                drop(world.spawn(Class::Request, callee));
            }
        });
    }
    simulation.run_for(Duration::from_secs(10));
    answered.get()
}

#[test]
fn a_ring_of_cores_never_stops_however_small_the_mailboxes() {
    for capacity in [1, 2, 7, 1024] {
        for seed in 0..8 {
            let expected = (CORES * (CORES - 1)) as u64 * QUESTIONS;
            assert_eq!(
                run_ring(seed, capacity),
                expected,
                "capacity {capacity}, seed {seed}"
            );
        }
    }
}

#[test]
fn whoever_waits_hears_that_the_other_core_is_gone() {
    let mut simulation = Simulation::new(1, SimulationOptions::calm());
    let host = simulation.add_host("member");
    let heard = Rc::new(RefCell::new(Vec::new()));
    let (caller, callee) = link::<u64, u64>(2);
    let responses = heard.clone();
    simulation.start_core(host, |world| async move {
        let link = TestLink::start(&world, caller);
        for number in 0..5 {
            let (link, responses) = (link.clone(), responses.clone());
            drop(world.spawn(Class::Request, async move {
                assert_eq!(link.ask().await, None);
                responses.borrow_mut().push(number);
            }));
        }
    });
    simulation.start_core(host, |world| async move {
        let mut callee = Callee::new(callee, Rc::new(Flag::default()));
        assert!(std::future::poll_fn(|context| callee.poll_requests(context)).await);
        // One is dropped without an answer, the others were never taken.
        drop(callee.next_request());
        world.sleep(Duration::from_millis(1)).await;
    });
    simulation.run_for(Duration::from_secs(1));
    let mut responses = heard.take();
    responses.sort_unstable();
    assert_eq!(responses, [0, 1, 2, 3, 4]);
}

fn poll_now<T>(poll: impl FnOnce(&Context<'_>) -> Poll<T>) -> Option<T> {
    match poll(&Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

#[test]
fn what_is_said_in_one_turn_travels_together() {
    let (caller, callee) = link::<u64, u64>(100);
    let (calls_wait, answers_wait) = (Rc::new(Flag::default()), Rc::new(Flag::default()));
    let caller: Caller<u64, u64, u64> = Caller::new(caller, calls_wait.clone());
    let mut callee = Callee::new(callee, answers_wait.clone());
    let is_raised = |flag: &Flag| {
        let mut context = Context::from_waker(Waker::noop());
        std::pin::pin!(flag.wait()).poll(&mut context).is_ready()
    };
    for round in 0..10 {
        assert!(!is_raised(&calls_wait));
        for number in 0..3 {
            assert!(caller.call(number, round * 10 + number).is_ok());
        }
        assert!(is_raised(&calls_wait));
        assert_eq!(poll_now(|context| callee.poll_requests(context)), None);
        caller.flush();
        assert_eq!(
            poll_now(|context| callee.poll_requests(context)),
            Some(true)
        );
        for number in 0..3 {
            let (answer, request) = callee.next_request().expect("all of them came");
            assert_eq!(request, round * 10 + number);
            answer.answer(request + 1);
        }
        assert!(callee.next_request().is_none());
        assert_eq!(poll_now(|context| caller.poll_responses(context)), None);
        assert!(is_raised(&answers_wait));
        callee.answers().flush();
        assert_eq!(
            poll_now(|context| caller.poll_responses(context)),
            Some(true)
        );
        for number in 0..3 {
            let response = Some(round * 10 + number + 1);
            assert_eq!(caller.next_response(), Some((number, response)));
        }
        assert_eq!(caller.next_response(), None);
    }
    // Much of it does not wait.
    for number in 0..40 {
        assert!(caller.call(number, number).is_ok());
    }
    assert_eq!(
        poll_now(|context| callee.poll_requests(context)),
        Some(true)
    );
    let came = std::iter::from_fn(|| callee.next_request()).count();
    assert_eq!(came, 32);
}
