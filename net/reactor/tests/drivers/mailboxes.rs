//! Mailboxes between two cores on two threads, parked and not.

use std::time::Duration;

use reactor::{Class, RunOptions, World, mailbox, run, spawn_core};

use crate::{both, options, same_driver};

both!(
    messages_arrive_in_order,
    a_parked_core_is_woken,
    capacity_one_loses_nothing,
    the_end_of_either_side_is_seen,
    the_end_of_either_side_wakes_a_parked_core,
    nothing_stays_in_a_mailbox_without_receiver,
    heavy_traffic_both_ways_loses_no_wake,
    heavy_traffic_between_spinning_cores,
);

async fn messages_arrive_in_order(world: World) {
    const MESSAGES: u64 = 200_000;
    let driver = same_driver(&world);
    let (sender, mut receiver) = mailbox::channel::<u64>(64);
    let thread = std::thread::spawn(move || {
        run(&options(driver), |_| async move {
            for number in 0..MESSAGES {
                sender.send(number).await.unwrap();
            }
        })
        .unwrap();
    });
    let mut expected = 0;
    let mut batch = Vec::new();
    while receiver.receive_batch(&mut batch, 100).await > 0 {
        for number in batch.drain(..) {
            assert_eq!(number, expected);
            expected += 1;
        }
    }
    assert_eq!(expected, MESSAGES);
    thread.join().unwrap();
}

async fn a_parked_core_is_woken(world: World) {
    let driver = same_driver(&world);
    let (to_other, mut at_other) = mailbox::channel::<u32>(8);
    let (to_here, mut at_here) = mailbox::channel::<u32>(8);
    let thread = std::thread::spawn(move || {
        run(&options(driver), |_| async move {
            while let Some(number) = at_other.receive().await {
                to_here.send(number + 1).await.unwrap();
            }
        })
        .unwrap();
    });
    for number in 0..300 {
        if number % 30 == 0 {
            // Long enough that the other core sleeps.
            world.sleep(Duration::from_millis(2)).await;
        }
        to_other.send(number).await.unwrap();
        assert_eq!(at_here.receive().await, Some(number + 1));
    }
    drop(to_other);
    assert_eq!(at_here.receive().await, None);
    thread.join().unwrap();
}

async fn capacity_one_loses_nothing(world: World) {
    let driver = same_driver(&world);
    let (sender, mut receiver) = mailbox::channel::<u32>(1);
    let thread = std::thread::spawn(move || {
        run(&options(driver), |world| async move {
            // Two tasks share the sender and both wait for its one slot.
            let sender = std::rc::Rc::new(sender);
            let tasks = [0, 1].map(|parity| {
                let sender = std::rc::Rc::clone(&sender);
                world.spawn_joinable(Class::Request, async move {
                    for number in 0..5_000 {
                        let permit = sender.reserve().await.unwrap();
                        permit.send(2 * number + parity);
                    }
                })
            });
            for task in tasks {
                task.await.unwrap();
            }
        })
        .unwrap();
    });
    let mut next = [0, 1];
    while let Some(number) = receiver.receive().await {
        let parity = (number % 2) as usize;
        assert_eq!(number, next[parity]);
        next[parity] += 2;
    }
    assert_eq!(next, [10_000, 10_001]);
    thread.join().unwrap();
}

async fn the_end_of_either_side_is_seen(_: World) {
    let (sender, mut receiver) = mailbox::channel::<String>(2);
    sender.try_send("left".into()).unwrap();
    drop(sender);
    assert_eq!(receiver.receive().await.as_deref(), Some("left"));
    assert_eq!(receiver.receive().await, None);

    let (sender, receiver) = mailbox::channel::<String>(1);
    let permit = sender.try_reserve().unwrap();
    assert!(sender.try_reserve().is_none());
    drop(permit);
    sender.try_send("never read".into()).unwrap();
    assert_eq!(
        sender.try_send("two".into()),
        Err(mailbox::TrySendError::Full("two".into()))
    );
    drop(receiver);
    assert_eq!(sender.send("three".into()).await, Err(mailbox::Closed));
}

/// A lost wake would only be noticed by its absence.
const PATIENCE: Duration = Duration::from_secs(20);

async fn the_end_of_either_side_wakes_a_parked_core(world: World) {
    const ROUNDS: u32 = 30;
    type Ends = (mailbox::Sender<u32>, mailbox::Receiver<u32>);
    let (to_other, mut at_other) = mailbox::channel::<Ends>(1);
    let core = spawn_core(
        "dropping",
        options(same_driver(&world)),
        move |world| async move {
            while let Some((sender, receiver)) = at_other.receive().await {
                // Long enough for the first core to park.
                world.sleep(Duration::from_micros(300)).await;
                drop(sender);
                world.sleep(Duration::from_micros(300)).await;
                drop(receiver);
            }
        },
    )
    .unwrap();
    for _ in 0..ROUNDS {
        let (to_here, mut at_here) = mailbox::channel(1);
        let (to_there, at_there) = mailbox::channel(1);
        to_there.try_send(1).unwrap();
        to_other.send((to_here, at_there)).await.unwrap();
        assert_eq!(world.timeout(PATIENCE, at_here.receive()).await, Ok(None));
        let full = world.timeout(PATIENCE, to_there.send(2)).await;
        assert_eq!(full, Ok(Err(mailbox::Closed)));
    }
    drop(to_other);
    core.join();
}

async fn nothing_stays_in_a_mailbox_without_receiver(_: World) {
    let message = std::sync::Arc::new(());
    let (sender, receiver) = mailbox::channel(2);
    let permit = sender.try_reserve().unwrap();
    sender.try_send(std::sync::Arc::clone(&message)).unwrap();
    drop(receiver);
    assert_eq!(std::sync::Arc::strong_count(&message), 1);
    permit.send(std::sync::Arc::clone(&message));
    assert_eq!(std::sync::Arc::strong_count(&message), 1);
}

/// One link between two cores: requests go there, answers come back.
struct Link {
    sender: mailbox::Sender<u64>,
    receiver: mailbox::Receiver<u64>,
}

fn link(capacity: usize) -> (Link, Link) {
    let (to_there, at_there) = mailbox::channel(capacity);
    let (to_here, at_here) = mailbox::channel(capacity);
    let here = Link {
        sender: to_there,
        receiver: at_here,
    };
    let there = Link {
        sender: to_here,
        receiver: at_there,
    };
    (here, there)
}

/// Answers everything until the other side ends; sometimes alone, sometimes in batches.
async fn answer(mut link: Link) {
    let mut batch = Vec::new();
    while link.receiver.receive_batch(&mut batch, 3).await > 0 {
        for number in batch.drain(..) {
            link.sender.send(!number).await.unwrap();
        }
    }
}

/// Sends `messages` numbers and checks that each is answered in order. Now and then it lets both cores fall asleep.
async fn ask(world: World, link: Link, messages: u64) {
    let Link {
        sender,
        mut receiver,
    } = link;
    let clone = world.clone();
    let sending = world.spawn_joinable(Class::Request, async move {
        for number in 0..messages {
            sender.send(number).await.unwrap();
            match clone.random_u64() % 256 {
                0 => {
                    clone
                        .sleep(Duration::from_micros(clone.random_u64() % 100))
                        .await
                }
                1..8 => clone.yield_now().await,
                _ => {}
            }
        }
    });
    for number in 0..messages {
        let answer = world.timeout(PATIENCE, receiver.receive()).await;
        assert_eq!(answer, Ok(Some(!number)));
    }
    sending.await.unwrap();
}

/// Both cores ask and answer on several links at once, down to a capacity of one.
async fn check_traffic(world: World, options: RunOptions) {
    const MESSAGES: u64 = 4_000;
    let mut mine = Vec::new();
    let mut theirs = Vec::new();
    for capacity in [1, 1, 2, 64] {
        let (asking, answering) = link(capacity);
        mine.push((true, asking));
        theirs.push((false, answering));
        let (asking, answering) = link(capacity);
        mine.push((false, answering));
        theirs.push((true, asking));
    }
    let run_all = |world: World, links: Vec<(bool, Link)>| async move {
        let mut tasks = Vec::new();
        for (asks, link) in links {
            let clone = world.clone();
            tasks.push(world.spawn_joinable(Class::Request, async move {
                match asks {
                    true => ask(clone, link, MESSAGES).await,
                    false => answer(link).await,
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
    };
    let other = spawn_core("other", options, move |world| run_all(world, theirs)).unwrap();
    run_all(world, mine).await;
    other.join();
}

async fn heavy_traffic_both_ways_loses_no_wake(world: World) {
    let options = options(same_driver(&world));
    check_traffic(world, options).await;
}

async fn heavy_traffic_between_spinning_cores(world: World) {
    let options = RunOptions {
        spin: Duration::from_micros(20),
        ..options(same_driver(&world))
    };
    check_traffic(world, options).await;
}
