//! The chunks that the kernel fills on receives: a ring of provided buffers.
//!
//! The kernel picks a chunk only when bytes have arrived. A chunk that it picked leaves to the stream, and another
//! takes its place in the ring at once, so slow readers cannot empty it.
//!
//! Invariants
//! - slot `i` of `lent` is the chunk that the ring entry with buffer id `i` points at, and only the kernel uses it
//! - `tail` counts the entries ever published, modulo 2^16

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use super::ring::Ring;
use crate::buffer::{AlignedBuffer, ChunkPool, ReceiveBuffer};

/// Chunks in the ring (a power of two) and their size.
const CHUNKS: u16 = 128;
const CHUNK_BYTES: usize = 16 << 10;

/// The buffer group's number: there is only this one.
pub(super) const GROUP: u16 = 0;

pub(super) struct ReceiveRing {
    /// `CHUNKS` entries that the kernel reads; the first one's reserved field is the tail.
    entries: AlignedBuffer,
    lent: Vec<NonNull<[u8]>>,
    pool: ChunkPool,
    tail: u16,
}

impl ReceiveRing {
    /// Registers the chunks with the ring. Must be dropped after the ring.
    pub(super) fn new(ring: &Ring) -> io::Result<ReceiveRing> {
        const { assert!(CHUNKS.is_power_of_two()) };
        let mut entries = AlignedBuffer::zeroed(CHUNKS as usize * size_of::<BufRingEntry>());
        let address = entries.as_mut_ptr() as u64;
        // SAFETY: the entries are page-aligned, large enough, and stay allocated until after the ring is closed
        // (io_uring_register_buf_ring(3)).
        unsafe {
            ring.submitter()
                .register_buf_ring_with_flags(address, CHUNKS, GROUP, 0)
        }
        .map_err(|error| {
            let text = format!("io_uring: provided buffers: {error} (needs Linux 5.19)");
            io::Error::new(error.kind(), text)
        })?;
        let pool = ChunkPool::new(CHUNK_BYTES, CHUNKS as usize);
        let mut receive = ReceiveRing {
            entries,
            lent: Vec::new(),
            pool,
            tail: 0,
        };
        for id in 0..CHUNKS {
            let chunk = lend(receive.pool.take());
            receive.lent.push(chunk);
            receive.publish(id);
        }
        Ok(receive)
    }

    /// The chunk `id`, which the kernel filled with `len` bytes.
    pub(super) fn take(&mut self, id: u16, len: usize) -> ReceiveBuffer {
        let next = lend(self.pool.take());
        let filled = std::mem::replace(&mut self.lent[id as usize], next);
        self.publish(id);
        // SAFETY: the pointer came from `lend`, and the kernel gave it back with the completion.
        let chunk = unsafe { Box::from_raw(filled.as_ptr()) };
        self.pool.filled(chunk, len)
    }

    /// Gives the kernel the chunk `id` again, which it picked and did not fill.
    pub(super) fn publish(&mut self, id: u16) {
        let chunk = self.lent[id as usize];
        let base = self.entries.as_mut_ptr().cast::<BufRingEntry>();
        let index = self.tail & (CHUNKS - 1);
        // SAFETY: the index is below `CHUNKS`, so the entry lies within `entries`; the kernel does not read it before
        // the tail says so.
        let entry = unsafe { &mut *base.add(index as usize) };
        entry.set_addr(chunk.as_ptr().cast::<u8>() as u64);
        entry.set_len(chunk.len() as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: `base` points at the first entry, whose reserved field is the tail; it is aligned and shared with the
        // kernel only (io_uring_register_buf_ring(3)).
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// Gives all memory away for good, because the kernel may still write to it.
    pub(super) fn leak(&mut self) {
        self.lent.clear();
        std::mem::forget(std::mem::replace(
            &mut self.entries,
            AlignedBuffer::zeroed(1),
        ));
    }
}

impl Drop for ReceiveRing {
    fn drop(&mut self) {
        for chunk in self.lent.drain(..) {
            // SAFETY: the pointer came from `lend`; the ring is closed, so the kernel writes there no more.
            drop(unsafe { Box::from_raw(chunk.as_ptr()) });
        }
    }
}

/// The chunk as a bare pointer: while the kernel may write to it there is no Rust reference to it.
fn lend(chunk: Box<[u8]>) -> NonNull<[u8]> {
    NonNull::from(Box::leak(chunk))
}
