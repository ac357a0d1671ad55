//! Tasks, timers, priorities, wakes from other threads.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use reactor::{Class, Elapsed, PanicPolicy, RunOptions, World, run, spawn_core};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{both, options, same_driver};

both!(
    timers_fire_in_order,
    dropped_timers_do_not_fire,
    a_timeout_drops_the_future,
    tasks_end_and_are_joined,
    cancelled_tasks_drop_their_futures,
    classes_run_by_rank_and_nobody_starves,
    background_work_leaves_room_for_timers,
    wakes_from_another_thread_arrive,
    an_idle_core_uses_no_processor_time,
    a_spinning_core_calms_down,
    a_core_knows_how_long_it_has_worked,
    looking_for_work_is_no_work,
    stopping_drops_everything,
    random_numbers_and_clocks,
);

async fn timers_fire_in_order(world: World) {
    let order = Rc::new(RefCell::new(Vec::new()));
    let mut tasks = Vec::new();
    for delay in [30, 10, 20, 10, 0] {
        let (clone, order) = (world.clone(), Rc::clone(&order));
        tasks.push(world.spawn_joinable(Class::Request, async move {
            let began = clone.now();
            clone.sleep(Duration::from_millis(delay)).await;
            assert!(clone.now().since(began) >= Duration::from_millis(delay));
            order.borrow_mut().push(delay);
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*order.borrow(), [0, 10, 10, 20, 30]);
}

async fn dropped_timers_do_not_fire(world: World) {
    for _ in 0..1000 {
        let mut sleep = Box::pin(world.sleep(Duration::from_secs(3600)));
        std::future::poll_fn(|context| {
            assert!(sleep.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
    }
    assert_eq!(world.next_timer(), None);
}

async fn a_timeout_drops_the_future(world: World) {
    let held = Rc::new(());
    let inside = Rc::clone(&held);
    let never = async move {
        std::future::pending::<()>().await;
        drop(inside);
    };
    assert_eq!(
        world.timeout(Duration::from_millis(5), never).await,
        Err(Elapsed)
    );
    assert_eq!(Rc::strong_count(&held), 1);
    assert_eq!(
        world.timeout(Duration::from_secs(60), async { 7 }).await,
        Ok(7)
    );
}

async fn tasks_end_and_are_joined(world: World) {
    let before = world.live_tasks();
    let task = world.spawn_joinable(Class::Background, async { 40 + 2 });
    assert!(!task.task().is_finished());
    assert_eq!(task.await, Some(42));
    let task = world.spawn(Class::Consensus, async {});
    task.finished().await;
    assert!(task.is_finished());
    assert_eq!(world.live_tasks(), before);
}

async fn cancelled_tasks_drop_their_futures(world: World) {
    let held = Rc::new(());
    let inside = Rc::clone(&held);
    let task = world.spawn_joinable(Class::Request, async move {
        std::future::pending::<()>().await;
        drop(inside);
    });
    world.yield_now().await;
    assert_eq!(Rc::strong_count(&held), 2);
    task.task().cancel();
    assert_eq!(Rc::strong_count(&held), 1);
    assert_eq!(task.await, None);

    // A task may cancel itself: it ends when its poll returns.
    let own: Rc<RefCell<Option<reactor::Task>>> = Rc::default();
    let inside = Rc::clone(&own);
    let steps = Rc::new(Cell::new(0));
    let counter = Rc::clone(&steps);
    let clone = world.clone();
    let task = world.spawn(Class::Request, async move {
        inside.borrow().as_ref().unwrap().cancel();
        counter.set(1);
        clone.yield_now().await;
        counter.set(2);
    });
    *own.borrow_mut() = Some(task);
    world.sleep(Duration::from_millis(1)).await;
    assert_eq!(steps.get(), 1);
    assert!(own.borrow().as_ref().unwrap().is_finished());
}

async fn classes_run_by_rank_and_nobody_starves(world: World) {
    let order = Rc::new(RefCell::new(Vec::new()));
    for class in [Class::Background, Class::Request, Class::Consensus] {
        let order = Rc::clone(&order);
        world.spawn(class, async move { order.borrow_mut().push(class) });
    }
    // A task of the highest class that is always runnable.
    let clone = world.clone();
    let greedy = world.spawn(Class::Consensus, async move {
        loop {
            clone.yield_now().await;
        }
    });
    world.sleep(Duration::from_millis(20)).await;
    greedy.cancel();
    assert_eq!(
        *order.borrow(),
        [Class::Consensus, Class::Request, Class::Background]
    );
}

async fn background_work_leaves_room_for_timers(world: World) {
    let clone = world.clone();
    let work = world.spawn(Class::Background, async move {
        loop {
            let until = Instant::now() + Duration::from_micros(300);
            while Instant::now() < until {}
            clone.yield_if_due().await;
        }
    });
    let mut slept = Vec::new();
    for _ in 0..51 {
        let began = world.now();
        world.sleep(Duration::from_millis(1)).await;
        slept.push(world.now().since(began));
    }
    work.cancel();
    slept.sort();
    // A slice and the kernel's own delays: far from the 100 ms of a starving loop. The longest one says more about
    // who else wants the processor.
    let median = slept[slept.len() / 2];
    assert!(median < Duration::from_millis(60), "{slept:?}");
}

async fn wakes_from_another_thread_arrive(_: World) {
    for round in 0..200 {
        let slot: Arc<Mutex<(bool, Option<Waker>)>> = Arc::default();
        let remote = Arc::clone(&slot);
        let thread = std::thread::spawn(move || {
            if round % 2 == 0 {
                std::thread::sleep(Duration::from_micros(300));
            }
            let mut slot = remote.lock().unwrap();
            slot.0 = true;
            if let Some(waker) = slot.1.take() {
                drop(slot);
                waker.wake();
            }
        });
        std::future::poll_fn(|context| {
            let mut slot = slot.lock().unwrap();
            if slot.0 {
                return Poll::Ready(());
            }
            slot.1 = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
        thread.join().unwrap();
    }
}

/// Processor time of this thread.
fn thread_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let nanos = text.split_whitespace().next().unwrap().parse().unwrap();
    Duration::from_nanos(nanos)
}

async fn an_idle_core_uses_no_processor_time(world: World) {
    let began = thread_time();
    world.sleep(Duration::from_millis(500)).await;
    let used = thread_time() - began;
    assert!(used < Duration::from_millis(5), "{used:?}");
}

async fn a_spinning_core_calms_down(world: World) {
    let driver = same_driver(&world);
    let used = std::thread::spawn(move || {
        let spinning = RunOptions {
            spin: Duration::from_micros(200),
            ..options(driver)
        };
        run(&spinning, |world| async move {
            let began = thread_time();
            for _ in 0..300 {
                world.sleep(Duration::from_millis(1)).await;
            }
            thread_time() - began
        })
        .unwrap()
    });
    // Spinning before each of the 300 sleeps would use 60 ms.
    let used = used.join().unwrap();
    assert!(used < Duration::from_millis(40), "{used:?}");
}

async fn stopping_drops_everything(world: World) {
    let driver = same_driver(&world);
    std::thread::spawn(move || {
        let held = Rc::new(());
        let inside = Rc::clone(&held);
        run(&options(driver), |world| async move {
            for _ in 0..10 {
                let (inside, clone) = (Rc::clone(&inside), world.clone());
                world.spawn(Class::Request, async move {
                    clone.sleep(Duration::from_secs(100)).await;
                    drop(inside);
                });
            }
            world.yield_now().await;
        })
        .unwrap();
        assert_eq!(Rc::strong_count(&held), 1);
    })
    .join()
    .unwrap();
}

async fn random_numbers_and_clocks(world: World) {
    assert_ne!(world.random_u64(), world.random_u64());
    let (monotonic, wall) = (world.now(), world.unix_time());
    world.sleep(Duration::from_millis(2)).await;
    assert!(world.now() > monotonic && world.unix_time() > wall);
    assert!(wall > Duration::from_secs(1_600_000_000));
}

#[test]
fn a_contained_panic_ends_one_task() {
    let options = RunOptions {
        panics: PanicPolicy::Propagate,
        ..RunOptions::default()
    };
    run(&options, |world| async move {
        let task = world.spawn_contained(Class::Request, async { panic!("only this one") });
        task.finished().await;
        world.sleep(Duration::from_millis(1)).await;
    })
    .unwrap();
}

#[test]
#[should_panic(expected = "the whole core")]
fn another_panic_ends_the_core() {
    let options = RunOptions {
        panics: PanicPolicy::Propagate,
        ..RunOptions::default()
    };
    run(&options, |world| async move {
        world
            .spawn(Class::Request, async { panic!("the whole core") })
            .finished()
            .await;
        std::future::pending::<()>().await;
    })
    .unwrap();
}

/// Processor time of the calling thread.
fn processor_nanos() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for the result (clock_gettime(2)).
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

async fn a_core_knows_how_long_it_has_worked(world: World) {
    let millis = |nanos: u64| nanos as f64 / 1e6;
    let before = world.busy_nanos();
    world.sleep(Duration::from_millis(100)).await;
    let asleep = world.busy_nanos() - before;
    assert!(asleep < 50_000_000, "{} ms asleep", millis(asleep));

    let began = world.now();
    while world.now().since(began) < Duration::from_millis(30) {}
    let busy = world.busy_nanos() - before;
    assert!(busy >= 30_000_000, "{} ms at work", millis(busy));

    // Most of this work is done by the very calls that park the core.
    let (before, used_before) = (world.busy_nanos(), processor_nanos());
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    let listener = world.listen(&any.into()).await.unwrap();
    let mut sending = world.connect(listener.local_address()).await.unwrap();
    let mut receiving = listener.accept().await.unwrap();
    let bytes = vec![7; 64 << 10];
    let sender = world.spawn_joinable(Class::Request, async move {
        for _ in 0..1_000 {
            sending.write_all(&bytes).await.unwrap();
        }
        sending.close().await.unwrap();
    });
    let mut buffer = vec![0; 64 << 10];
    while receiving.read(&mut buffer).await.unwrap() > 0 {}
    sender.await.unwrap();
    let (busy, used) = (world.busy_nanos() - before, processor_nanos() - used_before);
    assert!(
        busy + 1_000_000 >= used,
        "{} ms busy, but {} ms of processor time",
        millis(busy),
        millis(used)
    );
}

async fn looking_for_work_is_no_work(world: World) {
    let options = RunOptions {
        spin: Duration::from_millis(20),
        ..options(same_driver(&world))
    };
    let core = spawn_core("spinning", options, |world| async move {
        let (before, used_before) = (world.busy_nanos(), processor_nanos());
        // Fewer and fewer of them are looked through.
        for _ in 0..12 {
            world.sleep(Duration::from_millis(25)).await;
        }
        let (busy, used) = (world.busy_nanos() - before, processor_nanos() - used_before);
        assert!(used > 2_000_000, "{used} ns: it did not look for work");
        assert!(busy < used / 2, "{busy} ns busy of {used} ns used");
    });
    core.unwrap().join();
}
