//! Buffers of one thread that go from hand to hand instead of being allocated for every request.

use std::cell::RefCell;

/// Bytes of a fresh buffer: one TLS record, and more than almost any head.
pub(crate) const BUFFER_BYTES: usize = 16 * 1024;

/// Most buffers that wait for their next use.
const MAX_WAITING: usize = 16;

/// A stack of empty buffers. Not shared between threads.
#[derive(Default)]
pub struct Buffers(RefCell<Vec<Vec<u8>>>);

impl Buffers {
    /// An empty buffer with room for [`BUFFER_BYTES`].
    pub(crate) fn take(&self) -> Vec<u8> {
        self.0.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES))
    }

    /// Takes a buffer back; what is in it is forgotten. One of another size is let go.
    pub(crate) fn give(&self, mut buffer: Vec<u8>) {
        let mut waiting = self.0.borrow_mut();
        if buffer.capacity() == BUFFER_BYTES && waiting.len() < MAX_WAITING {
            buffer.clear();
            waiting.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_comes_back_is_empty_and_of_the_usual_size() {
        let buffers = Buffers::default();
        let mut used = buffers.take();
        used.extend_from_slice(b"secret");
        buffers.give(used);
        let mut grown = buffers.take();
        assert_eq!((grown.len(), grown.capacity()), (0, BUFFER_BYTES));
        grown.resize(BUFFER_BYTES + 1, 0);
        buffers.give(grown);
        assert_eq!(buffers.take().capacity(), BUFFER_BYTES);
    }
}
