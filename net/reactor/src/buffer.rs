//! Memory that operations own: block-aligned buffers for files, pooled chunks for receives.
//!
//! Owns the only raw allocation of the crate. Refuses to know what a buffer is used for.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;

/// Alignment of direct I/O in address, offset and length, whatever the device claims.
pub const BLOCK_BYTES: usize = 4096;

/// Largest buffer that a pool keeps, and the most bytes one pool keeps.
const POOLED_BUFFER_BYTES_MAX: usize = 2 << 20;
const POOL_BYTES_MAX: usize = 8 << 20;

/// Initialised memory whose address and capacity are multiples of [`BLOCK_BYTES`].
///
/// Invariants
/// - `pointer` is an allocation of `capacity` initialised bytes, aligned to `BLOCK_BYTES`, owned by this value
/// - `len <= capacity`, and `capacity` is a positive multiple of `BLOCK_BYTES`
pub struct AlignedBuffer {
    pointer: NonNull<u8>,
    len: usize,
    capacity: usize,
}

// SAFETY: the buffer is a uniquely owned allocation of plain bytes; nothing about it belongs to a thread.
unsafe impl Send for AlignedBuffer {}
// SAFETY: a shared reference only gives `&[u8]`.
unsafe impl Sync for AlignedBuffer {}

impl AlignedBuffer {
    /// `len` zero bytes; the capacity is rounded up to whole blocks.
    pub fn zeroed(len: usize) -> AlignedBuffer {
        let capacity = len.max(1).next_multiple_of(BLOCK_BYTES);
        let layout = AlignedBuffer::layout(capacity);
        // SAFETY: `layout` has a size above zero.
        let pointer = unsafe { alloc_zeroed(layout) };
        let Some(pointer) = NonNull::new(pointer) else {
            handle_alloc_error(layout)
        };
        AlignedBuffer {
            pointer,
            len,
            capacity,
        }
    }

    /// A copy of `bytes`, padded with zeros to whole blocks.
    pub fn padded_from(bytes: &[u8]) -> AlignedBuffer {
        let mut buffer = AlignedBuffer::zeroed(bytes.len().next_multiple_of(BLOCK_BYTES));
        buffer[..bytes.len()].copy_from_slice(bytes);
        buffer
    }

    /// Bytes that the allocation holds.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Changes the length within the capacity; bytes that appear are whatever the allocation held.
    ///
    /// # Panics
    /// If `len` is above the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(
            len <= self.capacity,
            "length {len} above capacity {}",
            self.capacity
        );
        self.len = len;
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, BLOCK_BYTES).expect("capacity below isize::MAX")
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        // SAFETY: `pointer` was allocated with exactly this layout and is not used again.
        unsafe { dealloc(self.pointer.as_ptr(), AlignedBuffer::layout(self.capacity)) }
    }
}

impl Deref for AlignedBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len <= capacity` initialised bytes, borrowed for as long as `self`.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.len) }
    }
}

impl fmt::Debug for AlignedBuffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "AlignedBuffer({} of {} bytes)",
            self.len, self.capacity
        )
    }
}

/// Buffers of one core that wait for reuse, by power-of-two capacity.
#[derive(Default)]
pub(crate) struct BufferPool {
    free: Vec<Vec<AlignedBuffer>>,
    bytes: usize,
}

impl BufferPool {
    /// A buffer of `len` bytes with unspecified (initialised) contents.
    pub(crate) fn take(&mut self, len: usize) -> AlignedBuffer {
        let capacity = len.max(BLOCK_BYTES).next_power_of_two();
        if capacity > POOLED_BUFFER_BYTES_MAX {
            return AlignedBuffer::zeroed(len);
        }
        let mut buffer = match self
            .free
            .get_mut(BufferPool::class(capacity))
            .and_then(Vec::pop)
        {
            Some(buffer) => {
                self.bytes -= buffer.capacity();
                buffer
            }
            None => AlignedBuffer::zeroed(capacity),
        };
        buffer.set_len(len);
        buffer
    }

    /// Keeps the buffer for reuse unless the pool is full or the size is unusual.
    pub(crate) fn give(&mut self, buffer: AlignedBuffer) {
        let capacity = buffer.capacity();
        if !capacity.is_power_of_two()
            || capacity > POOLED_BUFFER_BYTES_MAX
            || self.bytes + capacity > POOL_BYTES_MAX
        {
            return;
        }
        let class = BufferPool::class(capacity);
        if self.free.len() <= class {
            self.free.resize_with(class + 1, Vec::new);
        }
        self.bytes += capacity;
        self.free[class].push(buffer);
    }

    fn class(capacity: usize) -> usize {
        (capacity / BLOCK_BYTES).trailing_zeros() as usize
    }
}

/// Chunks into which sockets receive, shared by a driver and the buffers it handed out.
#[derive(Clone)]
pub struct ChunkPool {
    shared: Rc<ChunkPoolShared>,
}

struct ChunkPoolShared {
    chunk_bytes: usize,
    free_max: usize,
    free: RefCell<Vec<Box<[u8]>>>,
}

impl ChunkPool {
    /// A pool of chunks of `chunk_bytes`, of which at most `free_max` are kept for reuse.
    pub fn new(chunk_bytes: usize, free_max: usize) -> ChunkPool {
        let free = RefCell::new(Vec::new());
        ChunkPool {
            shared: Rc::new(ChunkPoolShared {
                chunk_bytes,
                free_max,
                free,
            }),
        }
    }

    /// A chunk with unspecified (initialised) contents.
    pub fn take(&self) -> Box<[u8]> {
        let pooled = self.shared.free.borrow_mut().pop();
        pooled.unwrap_or_else(|| vec![0; self.shared.chunk_bytes].into_boxed_slice())
    }

    /// Gives a chunk back without having filled it.
    pub fn give(&self, chunk: Box<[u8]>) {
        let mut free = self.shared.free.borrow_mut();
        if chunk.len() == self.shared.chunk_bytes && free.len() < self.shared.free_max {
            free.push(chunk);
        }
    }

    /// The first `len` bytes of `chunk` as a received buffer, which returns the chunk here when dropped.
    pub fn filled(&self, chunk: Box<[u8]>, len: usize) -> ReceiveBuffer {
        assert!(
            len <= chunk.len(),
            "{len} bytes received into a chunk of {}",
            chunk.len()
        );
        ReceiveBuffer {
            chunk,
            len,
            pool: Some(self.clone()),
        }
    }
}

/// Bytes that a socket received. Dropping it returns the memory to the pool it came from.
pub struct ReceiveBuffer {
    chunk: Box<[u8]>,
    len: usize,
    pool: Option<ChunkPool>,
}

impl ReceiveBuffer {
    /// The end of the stream: no bytes and no memory.
    pub fn empty() -> ReceiveBuffer {
        ReceiveBuffer {
            chunk: Box::default(),
            len: 0,
            pool: None,
        }
    }
}

impl From<Vec<u8>> for ReceiveBuffer {
    fn from(bytes: Vec<u8>) -> ReceiveBuffer {
        ReceiveBuffer {
            len: bytes.len(),
            chunk: bytes.into_boxed_slice(),
            pool: None,
        }
    }
}

impl Deref for ReceiveBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.chunk[..self.len]
    }
}

impl Drop for ReceiveBuffer {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            pool.give(std::mem::take(&mut self.chunk));
        }
    }
}

impl fmt::Debug for ReceiveBuffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ReceiveBuffer({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_zero() {
        for len in [0, 1, 4095, 4096, 4097, 100_000] {
            let buffer = AlignedBuffer::zeroed(len);
            assert_eq!(buffer.as_ptr() as usize % BLOCK_BYTES, 0);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.capacity() % BLOCK_BYTES, 0);
            assert!(buffer.iter().all(|&byte| byte == 0));
        }
        let padded = AlignedBuffer::padded_from(b"abc");
        assert_eq!(
            (&padded[..3], padded.len(), padded[3]),
            (&b"abc"[..], BLOCK_BYTES, 0)
        );
    }

    #[test]
    fn a_buffer_may_move_to_another_thread() {
        let mut buffer = AlignedBuffer::zeroed(10);
        buffer.fill(3);
        let thread = std::thread::spawn(move || {
            buffer.set_len(20);
            buffer[9] + buffer[19]
        });
        assert_eq!(thread.join().unwrap(), 3);
    }

    #[test]
    #[should_panic(expected = "above capacity")]
    fn a_length_stays_within_the_capacity() {
        AlignedBuffer::zeroed(1).set_len(BLOCK_BYTES + 1);
    }

    #[test]
    fn the_pool_gives_memory_back_within_its_bound() {
        let mut pool = BufferPool::default();
        let buffer = pool.take(5000);
        assert_eq!((buffer.len(), buffer.capacity()), (5000, 8192));
        let address = buffer.as_ptr();
        pool.give(buffer);
        assert_eq!(pool.bytes, 8192);
        let again = pool.take(8192);
        assert_eq!((again.as_ptr(), pool.bytes), (address, 0));
        for _ in 0..20 {
            pool.give(AlignedBuffer::zeroed(1 << 20));
        }
        assert_eq!(pool.bytes, POOL_BYTES_MAX);
        pool.give(pool_sized_wrongly());
        assert_eq!(pool.bytes, POOL_BYTES_MAX);
    }

    fn pool_sized_wrongly() -> AlignedBuffer {
        AlignedBuffer::zeroed(3 * BLOCK_BYTES)
    }

    #[test]
    fn chunks_return_to_their_pool() {
        let pool = ChunkPool::new(64, 2);
        let filled = pool.filled(pool.take(), 5);
        let address = filled.as_ptr();
        assert_eq!(filled.len(), 5);
        drop(filled);
        let again = pool.take();
        assert_eq!(again.as_ptr(), address);
        let many: Vec<_> = (0..5).map(|_| pool.filled(pool.take(), 64)).collect();
        drop(many);
        assert_eq!(
            pool.shared.free.borrow().len(),
            2,
            "no more than its bound is kept"
        );
        drop(pool);
        assert_eq!(&*ReceiveBuffer::from(vec![1, 2]), [1, 2]);
        assert!(ReceiveBuffer::empty().is_empty());
    }
}
