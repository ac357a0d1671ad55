//! Time, tasks and cores.

use super::*;
use crate::{Class, Signal};

#[test]
fn simulated_time_costs_nothing_and_timers_fire_in_order() {
    let (mut simulation, host) = single(1, SimulationOptions::calm());
    let order = run_on(&mut simulation, host, |world| async move {
        let began = world.now();
        let order = Rc::new(RefCell::new(Vec::new()));
        let tasks: Vec<_> = [3_000, 10, 700, 10]
            .into_iter()
            .enumerate()
            .map(|(task, seconds)| {
                let (order, inner) = (Rc::clone(&order), world.clone());
                world.spawn_joinable(Class::Request, async move {
                    inner.sleep(Duration::from_secs(seconds)).await;
                    let late = inner.now().since(began) - Duration::from_secs(seconds);
                    assert!(late < Duration::from_millis(1), "{late:?} late");
                    order.borrow_mut().push(task);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        order.take()
    });
    assert_eq!(order, [1, 3, 2, 0]);
    assert!(simulation.now() > 3_000_000_000_000);
}

#[test]
fn a_loop_that_waits_for_the_clock_ends() {
    let (mut simulation, host) = single(2, SimulationOptions::calm());
    run_on(&mut simulation, host, |world| async move {
        let until = world.now() + micros(20);
        while world.now() < until {}
        let until = world.now() + Duration::from_millis(1);
        while world.now() < until {
            world.yield_now().await;
        }
    });
}

#[test]
fn clocks_drift_and_jump() {
    let (mut simulation, host) = single(3, SimulationOptions::calm());
    simulation.set_clock_drift(host, 100_000);
    let seen = Rc::new(RefCell::new((0, Duration::ZERO)));
    let slot = Rc::clone(&seen);
    simulation.start_core(host, |world| async move {
        loop {
            world.sleep(Duration::from_secs(10)).await;
            *slot.borrow_mut() = (world.now().nanos(), world.unix_time());
        }
    });
    assert_eq!(
        simulation.run_for(Duration::from_secs(105)),
        RunEnd::Deadline
    );
    let (monotonic, wall) = *seen.borrow();
    assert_eq!(monotonic / 1_000_000_000, 110, "runs a tenth fast");
    simulation.jump_wall_clock(host, -3_600_000_000_000);
    simulation.run_for(Duration::from_secs(10));
    let (later, jumped) = *seen.borrow();
    assert!(later > monotonic && later < monotonic + 12_000_000_000);
    let back = (wall - jumped).as_secs();
    assert!((3_580..3_600).contains(&back), "{back} s back");
    assert_eq!(simulation.coverage().count(FaultKind::WallClockJump), 1);
}

#[test]
fn cores_of_a_process_talk_through_mailboxes() {
    for seed in 0..20 {
        let (mut simulation, host) = single(seed, SimulationOptions::rough(seed));
        let (sender, receiver) = crate::mailbox::channel::<u64>(8);
        let received = Rc::new(RefCell::new(Vec::new()));
        let slot = Rc::clone(&received);
        simulation.start_core(host, |world| async move {
            let sender = sender;
            for number in 0..500 {
                sender.send(number).await.unwrap();
                if world.random_u64().is_multiple_of(16) {
                    world.sleep(micros(3)).await;
                }
            }
        });
        simulation.start_core(host, |_| async move {
            let mut receiver = receiver;
            while let Some(number) = receiver.receive().await {
                slot.borrow_mut().push(number);
            }
        });
        simulation.run_until(FOREVER, || received.borrow().len() == 500);
        assert_eq!(
            *received.borrow(),
            (0..500).collect::<Vec<_>>(),
            "seed {seed}"
        );
    }
}

#[test]
fn the_order_of_cores_depends_on_the_seed() {
    let order = |seed| {
        let (mut simulation, host) = single(seed, SimulationOptions::calm());
        let order = Rc::new(RefCell::new(Vec::new()));
        for core in 0..6 {
            let order = Rc::clone(&order);
            simulation.start_core(host, |_| async move { order.borrow_mut().push(core) });
        }
        simulation.run_until(FOREVER, || order.borrow().len() == 6);
        order.take()
    };
    let orders: std::collections::BTreeSet<_> = (0..50).map(order).collect();
    assert!(orders.len() > 30, "{} orders", orders.len());
}

#[test]
fn signals_reach_the_process_once() {
    let (mut simulation, host) = single(5, SimulationOptions::calm());
    simulation.signal(host, Signal::HangUp);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let slot = Rc::clone(&seen);
    let core = simulation.start_core(host, |world| async move {
        let mut signals = world.signals();
        for _ in 0..2 {
            let signal = signals.next().await.unwrap();
            slot.borrow_mut().push(signal);
        }
    });
    simulation.run_for(Duration::from_secs(1));
    assert!(!simulation.main_ended(core));
    simulation.signal(host, Signal::Terminate);
    simulation.run_for(Duration::from_secs(1));
    assert_eq!(*seen.borrow(), [Signal::HangUp, Signal::Terminate]);
    assert!(simulation.main_ended(core) && simulation.is_alive(core));
}

#[test]
fn an_idle_simulation_says_so() {
    let (mut simulation, host) = single(6, SimulationOptions::calm());
    simulation.start_core(host, |_| std::future::pending());
    assert_eq!(simulation.run_until(FOREVER, || false), RunEnd::Idle);
    let before = simulation.now();
    assert_eq!(simulation.run_for(Duration::from_secs(1)), RunEnd::Idle);
    assert_eq!(simulation.now(), before + 1_000_000_000);
    assert_eq!(simulation.step(), Step::Idle);
}
