//! A worker's buffers that reads go through, so that a connection holds what was really received,
//! and nothing while it waits.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

/// The most that one read brings, in bytes.
pub(crate) const READ: usize = 16 * 1024;
/// The same of a read from a sender that fills those.
const READ_LARGE: usize = 64 * 1024;
/// The size of a block of short reads, in bytes.
const BLOCK: usize = 8 * 1024;

/// One worker's buffers.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// What one read brings, before its length is known.
    read: RefCell<Box<[u8]>>,
    /// The rest of the last block, for short reads.
    block: RefCell<BytesMut>,
    /// What one large read brings; empty: the last one has taken it along.
    large: RefCell<BytesMut>,
}

impl Default for Scratch {
    fn default() -> Self {
        let read = RefCell::new(vec![0; READ].into());
        Self { read, block: RefCell::default(), large: RefCell::default() }
    }
}

impl Scratch {
    /// Reads once, and puts what came behind the bytes in `buffer`. Gives their number; 0: the end.
    pub(crate) fn poll_read(
        &self,
        io: Pin<&mut impl AsyncRead>,
        context: &mut Context<'_>,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        let reading = &mut *self.read.borrow_mut();
        let mut room = ReadBuf::new(reading);
        ready!(io.poll_read(context, &mut room))?;
        let filled = room.filled();
        if buffer.is_empty() {
            *buffer = self.copy(filled);
        } else {
            buffer.extend_from_slice(filled);
        }
        Poll::Ready(Ok(filled.len()))
    }

    /// As `poll_read`, from a sender that has much to send: what fills most of a large read is not
    /// copied.
    pub(crate) fn poll_read_large(
        &self,
        io: Pin<&mut impl AsyncRead>,
        context: &mut Context<'_>,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        // The bytes behind which these ones belong are as good as none in a body, and few in a head.
        if buffer.len() > READ {
            return self.poll_read(io, context, buffer);
        }
        let block = &mut *self.large.borrow_mut();
        block.clear();
        block.reserve(READ_LARGE);
        block.extend_from_slice(buffer);
        let count = ready!(poll_read_buf(io, context, block))?;
        // Whoever holds a piece of the block holds all of it.
        *buffer = if block.len() < READ_LARGE / 2 {
            BytesMut::from(&**block)
        } else {
            std::mem::take(block)
        };
        Poll::Ready(Ok(count))
    }

    /// A copy of what was read. Short ones share a block, which costs less than memory of their
    /// own, and is held as long as one of them.
    fn copy(&self, read: &[u8]) -> BytesMut {
        if read.len() > BLOCK / 4 {
            return BytesMut::from(read);
        }
        let block = &mut *self.block.borrow_mut();
        if block.capacity() < read.len() {
            *block = BytesMut::with_capacity(BLOCK);
        }
        block.extend_from_slice(read);
        block.split()
    }
}
