//! What the device holds: a durable image, and writes in its volatile cache.
//!
//! A write is in the cache until a flush that arrives after it has completed. At a power cut each
//! sector of each cached write is kept or lost on its own. Faults are counted from the moment they
//! are armed.

use std::time::Duration;

/// The unit that survives or is lost.
pub const SECTOR_BYTES: usize = 512;

/// Why an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputOutputError;

/// What to do to later operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// The write with this number fails, 1 is the next.
    pub fail_write: Option<u64>,
    /// The flush with this number fails.
    pub fail_flush: Option<u64>,
    /// The power fails when the write with this number has completed, so that it is not flushed.
    pub cut_after_write: Option<u64>,
    /// Every write takes this long.
    pub write_delay: Duration,
    /// Every flush takes this long.
    pub flush_delay: Duration,
}

/// How often things happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Writes.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Operations that were made to fail.
    pub failures: u64,
    /// Sectors lost in power cuts.
    pub sectors_lost: u64,
    /// Un-flushed sectors that survived power cuts.
    pub sectors_kept: u64,
}

/// See the module.
///
/// Invariant: `visible` is `durable` with all of `cached` applied in order.
pub struct Disk {
    durable: Vec<u8>,
    visible: Vec<u8>,
    cached: Vec<(usize, Vec<u8>)>,
    faults: Faults,
    counts: Counts,
    powered: bool,
    random: u64,
}

impl Disk {
    /// A disk of zeros.
    pub fn new(bytes: usize, seed: u64) -> Disk {
        Disk {
            durable: vec![0; bytes],
            visible: vec![0; bytes],
            cached: Vec::new(),
            faults: Faults::default(),
            counts: Counts::default(),
            powered: true,
            random: seed,
        }
    }

    /// Size in bytes.
    pub fn len(&self) -> usize {
        self.visible.len()
    }

    /// Whether the disk has no room at all.
    pub fn is_empty(&self) -> bool {
        self.visible.is_empty()
    }

    /// How often things happened.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Arms faults; counting starts anew.
    pub fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// The faults that are armed.
    pub fn faults(&self) -> Faults {
        self.faults
    }

    /// Up to `len` bytes at `offset`.
    ///
    /// # Errors
    /// Without power.
    pub fn read(&self, offset: usize, len: usize) -> Result<&[u8], InputOutputError> {
        if !self.powered {
            return Err(InputOutputError);
        }
        let start = offset.min(self.visible.len());
        Ok(&self.visible[start..(start + len).min(self.visible.len())])
    }

    /// Writes into the cache.
    ///
    /// # Errors
    /// Without power, beyond the end, or as armed; nothing is written then.
    pub fn write(&mut self, offset: usize, data: &[u8]) -> Result<(), InputOutputError> {
        let end = offset + data.len();
        if !self.powered || end > self.visible.len() {
            return Err(InputOutputError);
        }
        self.counts.writes += 1;
        if strikes(&mut self.faults.fail_write) {
            self.counts.failures += 1;
            return Err(InputOutputError);
        }
        self.visible[offset..end].copy_from_slice(data);
        self.cached.push((offset, data.to_vec()));
        if strikes(&mut self.faults.cut_after_write) {
            self.powered = false;
        }
        Ok(())
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// Without power, or as armed; what was cached stays cached then.
    pub fn flush(&mut self) -> Result<(), InputOutputError> {
        if !self.powered {
            return Err(InputOutputError);
        }
        self.counts.flushes += 1;
        if strikes(&mut self.faults.fail_flush) {
            self.counts.failures += 1;
            return Err(InputOutputError);
        }
        for (offset, data) in self.cached.drain(..) {
            self.durable[offset..offset + data.len()].copy_from_slice(&data);
        }
        Ok(())
    }

    /// Whether operations can succeed.
    pub fn is_powered(&self) -> bool {
        self.powered
    }

    /// From now on every operation fails.
    pub fn cut_power(&mut self) {
        self.powered = false;
    }

    /// Power is back: of each cached write some sectors survive.
    pub fn restore_power(&mut self) {
        for (offset, data) in std::mem::take(&mut self.cached) {
            // Some writes are lost or kept whole, most are torn.
            let keep_percent = [0, 100, 50, 50, 90, 10][(self.draw() % 6) as usize];
            for (index, sector) in data.chunks(SECTOR_BYTES).enumerate() {
                if self.draw() % 100 < keep_percent {
                    let at = offset + index * SECTOR_BYTES;
                    self.durable[at..at + sector.len()].copy_from_slice(sector);
                    self.counts.sectors_kept += 1;
                } else {
                    self.counts.sectors_lost += 1;
                }
            }
        }
        self.visible.copy_from_slice(&self.durable);
        self.faults = Faults::default();
        self.powered = true;
    }

    /// SplitMix64.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Counts an armed fault down; `true` when its turn has come.
fn strikes(countdown: &mut Option<u64>) -> bool {
    match countdown {
        Some(1) => {
            *countdown = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flushed_sectors_survive_and_cached_ones_are_drawn() {
        let mut disk = Disk::new(64 * SECTOR_BYTES, 7);
        disk.write(0, &[1; SECTOR_BYTES]).unwrap();
        disk.flush().unwrap();
        disk.write(SECTOR_BYTES, &[2; 40 * SECTOR_BYTES]).unwrap();
        disk.cut_power();
        assert_eq!(disk.read(0, 1), Err(InputOutputError));
        assert_eq!(disk.write(0, &[9]), Err(InputOutputError));
        disk.restore_power();
        assert_eq!(disk.read(0, SECTOR_BYTES).unwrap(), [1; SECTOR_BYTES]);
        let counts = disk.counts();
        assert_eq!(counts.sectors_kept + counts.sectors_lost, 40);
    }

    #[test]
    fn an_armed_cut_strikes_between_a_write_and_its_flush() {
        let mut disk = Disk::new(64 * SECTOR_BYTES, 7);
        disk.set_faults(Faults {
            cut_after_write: Some(2),
            ..Faults::default()
        });
        disk.write(0, &[1; SECTOR_BYTES]).unwrap();
        disk.flush().unwrap();
        assert!(disk.is_powered());
        disk.write(SECTOR_BYTES, &[2; 40 * SECTOR_BYTES]).unwrap();
        assert_eq!(disk.flush(), Err(InputOutputError));
        assert!(!disk.is_powered());
        disk.restore_power();
        let counts = disk.counts();
        assert_eq!(counts.sectors_kept + counts.sectors_lost, 40);
    }

    #[test]
    fn the_nth_operation_fails_once() {
        let mut disk = Disk::new(SECTOR_BYTES, 1);
        disk.set_faults(Faults {
            fail_write: Some(2),
            fail_flush: Some(1),
            ..Faults::default()
        });
        assert_eq!(disk.write(0, &[1]), Ok(()));
        assert_eq!(disk.write(0, &[2]), Err(InputOutputError));
        assert_eq!(disk.flush(), Err(InputOutputError));
        assert_eq!(disk.flush(), Ok(()));
        assert_eq!(disk.read(0, 1).unwrap(), [1]);
    }
}
