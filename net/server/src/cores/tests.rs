use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use reactor::sim::{Simulation, SimulationOptions};
use reactor::{Class, World};

use super::link::{Answer, Callee, CalleeEnd, Caller, CallerEnd, link};

/// Answers each request after a random while, some after a call of its own to the next core: leaves depend on
/// nobody, so the ring of cores may wait for each other in a circle and must not stop.
async fn answer_all(world: World, end: CalleeEnd<u64, u64>, onward: Option<Rc<TestLink>>) {
    let mut callee = Callee::new(end);
    let mut requests: Vec<(Answer<u64>, u64)> = Vec::new();
    let mut last = 0;
    while std::future::poll_fn(|context| callee.poll_requests(context, &mut requests, 3)).await {
        for (answer, number) in requests.drain(..) {
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
        let link = Rc::new(TestLink {
            caller: Caller::new(end),
            last: Cell::new(0),
        });
        let taker = link.clone();
        drop(world.spawn(Class::Consensus, async move {
            let mut responses = Vec::new();
            while std::future::poll_fn(|context| {
                taker.caller.poll_responses(context, &mut responses, 2)
            })
            .await
            {
                for (waiter, response) in responses.drain(..) {
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
        let mut callee = Callee::new(callee);
        let mut requests = Vec::new();
        assert!(
            std::future::poll_fn(|context| callee.poll_requests(context, &mut requests, 1)).await
        );
        // One is dropped without an answer, the others were never taken.
        drop(requests);
        world.sleep(Duration::from_millis(1)).await;
    });
    simulation.run_for(Duration::from_secs(1));
    let mut responses = heard.take();
    responses.sort_unstable();
    assert_eq!(responses, [0, 1, 2, 3, 4]);
}
