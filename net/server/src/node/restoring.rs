//! Filling an empty member with the state of another store, before it serves anybody.

use std::time::Duration;

use engine::coordinator::{Coordinator, RestoredState};
use engine::store::Event;

use super::{Home, State};
use crate::exit::Exit;

/// How often it is looked whether the shards are ready.
const PAUSE: Duration = Duration::from_micros(100);
/// Looks before the first pause: most changes are taken at once.
const LOOKS_WITHOUT_PAUSE: usize = 4;

impl Home {
    /// Takes over changes in the order of their revisions. Returns when the shards have them; they are durable
    /// behind the next checkpoint.
    ///
    /// # Errors
    /// A change does not follow from those before it, or the disk fails.
    pub async fn restore_events(&self, events: Vec<Event>) -> Result<(), Exit> {
        self.restore(|coordinator| coordinator.restore_events(events))
            .await
    }

    /// Compacts what was taken over.
    ///
    /// # Errors
    /// The disk fails.
    pub async fn restore_compaction(&self, revision: i64) -> Result<(), Exit> {
        self.restore(|coordinator| coordinator.restore_compaction(revision))
            .await
    }

    /// Takes over what the store has beside its keys, and makes everything durable.
    ///
    /// # Errors
    /// A lease is no lease, or the disk fails.
    pub async fn restore_state(&self, state: RestoredState) -> Result<(), Exit> {
        let mut all = true;
        self.restore(|coordinator| all = coordinator.restore_state(state))
            .await?;
        if !all {
            return Err(Exit::data("the snapshot has a lease with the id 0"));
        }
        self.until(|home| home.checkpoint_is_idle()).await?;
        let before = self.checkpoint_status().count;
        self.begin_checkpoint_for_space();
        self.until(|home| home.checkpoint_status().count > before)
            .await
    }

    async fn restore(&self, change: impl FnOnce(&mut Coordinator)) -> Result<(), Exit> {
        self.until(|home| home.parts.sequencer.borrow().may_restore())
            .await?;
        self.parts.sequencer.borrow_mut().restore(change);
        self.0.work.raise();
        self.until(|home| home.parts.sequencer.borrow().coordinator().is_idle())
            .await?;
        let fault = self.parts.sequencer.borrow_mut().take_restore_fault();
        match fault {
            None => Ok(()),
            Some(fault) => Err(Exit::data(format!("the snapshot cannot be used: {fault}"))),
        }
    }

    /// Waits until `is_so`.
    async fn until(&self, is_so: impl Fn(&Home) -> bool) -> Result<(), Exit> {
        let mut looks = 0;
        while !is_so(self) {
            if let Some(failure) = self.failure() {
                return Err(Exit::from(failure));
            }
            if self.state() > State::Serving {
                return Err(Exit::internal("the member stopped"));
            }
            if self.is_disk_full() {
                return Err(Exit {
                    code: crate::exit::IO,
                    message: "there is no space left on the device of the data directory"
                        .to_owned(),
                });
            }
            looks += 1;
            match looks {
                ..=LOOKS_WITHOUT_PAUSE => self.0.world.yield_now().await,
                _ => self.0.world.sleep(PAUSE).await,
            }
        }
        Ok(())
    }
}
