//! Handles to spawned tasks.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use crate::executor::TaskId;
use crate::world::World;

/// A spawned task. Dropping the handle detaches it: the task goes on.
pub struct Task {
    world: World,
    id: TaskId,
}

impl Task {
    pub(crate) fn new(world: World, id: TaskId) -> Task {
        Task { world, id }
    }

    /// Ends the task by dropping its future: now, or when the poll it is in returns.
    pub fn cancel(&self) {
        self.world.executor().cancel(self.id);
    }

    /// Whether the task has ended in whatever way.
    pub fn is_finished(&self) -> bool {
        self.world.executor().poll_finished(self.id, None)
    }

    /// Waits until the task has ended.
    pub async fn finished(&self) {
        poll_fn(|context| {
            match self
                .world
                .executor()
                .poll_finished(self.id, Some(context.waker()))
            {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
    }
}

/// A spawned task with a result. Dropping the handle detaches the task.
///
/// As a future it yields `Some(result)`, or `None` if the task was cancelled or ended by a contained panic.
pub struct JoinHandle<T> {
    task: Task,
    result: Rc<RefCell<Option<T>>>,
}

impl<T> JoinHandle<T> {
    pub(crate) fn new(task: Task, result: Rc<RefCell<Option<T>>>) -> JoinHandle<T> {
        JoinHandle { task, result }
    }

    /// The task without its result.
    pub fn task(&self) -> &Task {
        &self.task
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        match self
            .task
            .world
            .executor()
            .poll_finished(self.task.id, Some(context.waker()))
        {
            true => Poll::Ready(self.result.borrow_mut().take()),
            false => Poll::Pending,
        }
    }
}
