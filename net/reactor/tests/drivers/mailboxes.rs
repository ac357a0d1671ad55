//! Mailboxes between two cores on two threads, parked and not.

use std::time::Duration;

use reactor::{Class, World, mailbox, run};

use crate::{both, options, same_driver};

both!(
    messages_arrive_in_order,
    a_parked_core_is_woken,
    capacity_one_loses_nothing,
    the_end_of_either_side_is_seen,
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
