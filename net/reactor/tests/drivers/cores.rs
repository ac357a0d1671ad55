//! Further cores of the process: their start, their end, what goes wrong with either.

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

use reactor::{RunOptions, World, mailbox, spawn_core};

use crate::{both, options, same_driver};

both!(
    a_further_core_runs_beside_the_first,
    a_core_that_cannot_start_says_so,
    a_panic_comes_out_of_join,
);

async fn a_further_core_runs_beside_the_first(world: World) {
    let kind = world.driver_kind();
    let (to_other, mut at_other) = mailbox::channel::<u32>(1);
    let (to_here, mut at_here) = mailbox::channel::<(u32, String)>(1);
    let core = spawn_core("second", options(same_driver(&world)), move |other| {
        assert_eq!(other.driver_kind(), kind);
        // Not `Send`: it is made where it is used.
        let name = std::rc::Rc::new(thread::current().name().unwrap().to_owned());
        async move {
            while let Some(number) = at_other.receive().await {
                let answer = (number + 1, String::clone(&name));
                to_here.send(answer).await.unwrap();
            }
        }
    })
    .unwrap();
    for number in 0..100 {
        to_other.send(number).await.unwrap();
        let answer = at_here.receive().await;
        assert_eq!(answer, Some((number + 1, "second".to_owned())));
    }
    assert!(!core.is_finished());
    drop(to_other);
    assert_eq!(at_here.receive().await, None);
    core.join();
}

async fn a_core_that_cannot_start_says_so(world: World) {
    let began = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&began);
    let nowhere = RunOptions {
        pin_to: Some(usize::MAX),
        ..options(same_driver(&world))
    };
    let error = spawn_core("nowhere", nowhere, move |_| async move {
        flag.store(true, Ordering::Relaxed);
    })
    .err()
    .unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(!began.load(Ordering::Relaxed));
}

async fn a_panic_comes_out_of_join(world: World) {
    let started = Arc::new(Barrier::new(2));
    let there = Arc::clone(&started);
    let core = spawn_core(
        "doomed",
        options(same_driver(&world)),
        move |_| async move {
            there.wait();
            panic!("as planned");
        },
    )
    .unwrap();
    started.wait();
    let panic = catch_unwind(AssertUnwindSafe(|| core.join())).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"as planned"));
}
