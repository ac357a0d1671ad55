//! Shards that move from one core to another, with their files and what is known of them.
//!
//! A shard leaves when nothing of it is under way: no request of the coordinator, no read that waits, no load, no
//! I/O of its own. From the moment it is asked to leave it begins nothing new: reads that wait already are
//! answered here, however often shards move, and so are those that find all they need in memory; others are sent
//! on. The files stay open and locked on the way.

use std::rc::Rc;
use std::time::Duration;

use engine::shard::Shard;
use reactor::DetachedFile;
use wal::io::FileName;

use super::{Host, Shards, Upkeep};

/// A file that is not free although nothing of its shard is under way is tried again after this.
const DETACH_PAUSE: Duration = Duration::from_micros(100);

/// A shard that could not leave within this time stays.
const PREPARATION_MAX: Duration = Duration::from_millis(20);

/// A shard on its way.
pub struct TravellingShard {
    number: u16,
    shard: Shard,
    upkeep: Upkeep,
    files: Vec<(FileName, DetachedFile)>,
}

impl TravellingShard {
    /// Which shard it is.
    pub fn number(&self) -> u16 {
        self.number
    }
}

impl Shards {
    /// Begins nothing new in `shard` but what the coordinator asks, and waits until the rest is through; false,
    /// and it stays, if that takes too long. Writes go on meanwhile.
    ///
    /// # Panics
    /// If the shard does not live here.
    pub async fn prepare(&self, shard: u16) -> bool {
        self.busy_host(shard).leaving = true;
        let is_ready = || self.busy_host(shard).is_unread() && self.disk.is_idle(shard);
        let ready = self.departure.until(is_ready);
        if self.world.timeout(PREPARATION_MAX, ready).await.is_ok() {
            return true;
        }
        self.busy_host(shard).leaving = false;
        self.background.raise();
        self.upkeep.raise();
        false
    }

    /// Lets `shard` go, once nothing of it is under way. The coordinator has nothing under way in it, and sends
    /// it nothing more.
    ///
    /// # Panics
    /// If the shard does not live here.
    pub async fn give(self: &Rc<Self>, shard: u16) -> Box<TravellingShard> {
        {
            let mut host = self.busy_host(shard);
            host.leaving = true;
            self.step_back(shard, &mut host);
        }
        let is_quiet = || self.busy_host(shard).is_quiet() && self.disk.is_idle(shard);
        let files = loop {
            self.departure.until(is_quiet).await;
            match self.disk.detach(shard) {
                Some(files) => break files,
                None => self.world.sleep(DETACH_PAUSE).await,
            }
        };
        let Some(host) = self.hosts[usize::from(shard)].take() else {
            panic!("shard {shard} left twice");
        };
        let Host {
            shard: left,
            upkeep,
            ..
        } = *host;
        Box::new(TravellingShard {
            number: shard,
            shard: left,
            upkeep,
            files,
        })
    }

    /// Something of a shard has ended: it may be able to leave.
    pub(super) fn stir(&self, host: &Host) {
        if host.leaving {
            self.departure.notify();
        }
    }

    /// Makes `host` the place of a shard.
    pub(super) fn settle(&self, shard: u16, mut host: Host) {
        self.gauge(shard, &mut host);
        let before = self.hosts[usize::from(shard)].replace(Some(Box::new(host)));
        assert!(before.is_none(), "shard {shard} is here already");
        self.board.set_owner(shard, self.core);
    }

    /// Hosts a shard from now on.
    pub fn take(&self, travelling: Box<TravellingShard>) {
        let TravellingShard {
            number,
            shard,
            upkeep,
            files,
        } = *travelling;
        self.disk.attach(files);
        let mut host = Host::new(shard, upkeep);
        // What found no room elsewhere tries again here: a call to do so may have missed it on its way.
        host.shard.retry_space();
        self.settle(number, host);
        self.populated.raise();
        self.background.raise();
        self.upkeep.raise();
    }
}

impl Host {
    /// Whether no reader waits for anything.
    fn is_unread(&self) -> bool {
        self.reads.is_empty() && self.queue.is_empty() && !self.scrub.is_under_way()
    }

    /// Whether nobody waits for anything.
    fn is_quiet(&self) -> bool {
        self.changes.is_empty() && self.is_unread() && self.loads.is_empty()
    }
}
