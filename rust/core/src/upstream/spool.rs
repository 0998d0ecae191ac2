//! A file for the part of a request body that memory may not hold.
//!
//! The file has no name, so that it is gone with its descriptor, however the process ends. It is
//! read and written on the blocking pool, since a disk may stand still.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::FileExt,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;

use crate::{
    blocking::Job,
    body_limits::Rooms,
    budget::{NoRoom, Share},
    failure::Failure,
    upstream::replay,
};

/// Bytes of one read or write.
const PIECE: usize = 256 * 1024;

/// A queue of bytes, the front of it in a file.
#[derive(Debug)]
pub(super) struct Spool {
    rooms: Rc<Rooms>,
    /// The file's part of what all files may hold. A job has it as long as it has the file, which
    /// is there until the job ends, whether or not somebody waits for it.
    room: Share,
    /// None before the first write, and while a job has it.
    file: Option<File>,
    /// The running read or write.
    job: Option<Job<io::Result<Done>>>,
    /// Bytes written to the file, those of the running job included.
    written: u64,
    /// Bytes read from the file.
    read: u64,
    /// The pieces behind those in the file.
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
}

/// A finished job.
#[derive(Debug)]
struct Done {
    file: File,
    room: Share,
    /// The piece that was read; None: the job was a write.
    read: Option<Bytes>,
    /// The pieces that were written. They are freed by the thread that allocated them, which can
    /// use their memory again.
    _written: VecDeque<Bytes>,
}

impl Spool {
    /// An empty queue.
    pub(super) fn new(rooms: Rc<Rooms>) -> Self {
        Self {
            rooms,
            room: Share::default(),
            file: None,
            job: None,
            written: 0,
            read: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
        }
    }

    /// Adds a piece behind the others, or to the last if both are small.
    pub(super) fn push(&mut self, piece: Bytes) {
        self.waiting_bytes += piece.len();
        if let Some(piece) = replay::join(self.waiting.back_mut(), piece) {
            self.waiting.push_back(piece);
        }
    }

    /// Ready when more may be pushed. Fails with `Spool` where the file cannot be written, or with
    /// `SpoolFull`.
    pub(super) fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        ready!(self.poll_job(context)).map_err(Failure::Spool)?;
        if self.waiting_bytes >= PIECE {
            let length = self.written + self.waiting_bytes as u64;
            ready!(self.room.poll_grow(context, &self.rooms.spool, length))
                .map_err(|NoRoom| Failure::SpoolFull)?;
            let pieces = std::mem::take(&mut self.waiting);
            let folder = self.rooms.spool_folder.clone();
            let (at, file) = (self.written, self.file.take());
            let room = std::mem::take(&mut self.room);
            self.written = length;
            self.waiting_bytes = 0;
            self.job = Some(self.rooms.blocking.run(move || {
                let file = match file {
                    Some(file) => file,
                    None => tempfile::tempfile_in(folder)?,
                };
                let mut at = at;
                for piece in &pieces {
                    file.write_all_at(piece, at)?;
                    at += piece.len() as u64;
                }
                Ok(Done { file, room, read: None, _written: pieces })
            }));
            ready!(self.poll_job(context)).map_err(Failure::Spool)?;
        }
        Poll::Ready(Ok(()))
    }

    /// Takes the next piece from the front; None: all were taken. Fails where the
    /// file cannot be read.
    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Bytes>>> {
        loop {
            if let Some(read) = ready!(self.poll_job(context))? {
                self.read += read.len() as u64;
                return Poll::Ready(Ok(Some(read)));
            }
            let left = usize::try_from(self.written - self.read).unwrap_or(usize::MAX);
            let Some(file) = self.file.take_if(|_| left > 0) else {
                let piece = self.waiting.pop_front();
                self.waiting_bytes -= piece.as_ref().map_or(0, Bytes::len);
                return Poll::Ready(Ok(piece));
            };
            let at = self.read;
            // Allocated by this thread, which frees it, too: the allocator keeps memory by thread.
            let mut piece = vec![0; left.min(PIECE)];
            let room = std::mem::take(&mut self.room);
            self.job = Some(self.rooms.blocking.run(move || {
                file.read_exact_at(&mut piece, at)?;
                let read = Some(piece.into());
                Ok(Done { file, room, read, _written: VecDeque::new() })
            }));
        }
    }

    /// Waits for the running job, if there is one; gives the piece that it has read.
    fn poll_job(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let Some(job) = &mut self.job else { return Poll::Ready(Ok(None)) };
        let done = ready!(Pin::new(job).poll(context));
        self.job = None;
        let done = done.map_err(io::Error::other)??;
        self.file = Some(done.file);
        self.room = done.room;
        Poll::Ready(Ok(done.read))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::{budget::Budget, upstream::intake::tests::rooms};

    #[tokio::test]
    async fn pieces_come_out_in_the_order_in_which_they_went_in() {
        let mut spool = Spool::new(Rc::new(rooms()));
        let pieces: Vec<Bytes> = (0..100_u8).map(|byte| vec![byte; 10_007].into()).collect();
        for piece in &pieces {
            spool.push(piece.clone());
            poll_fn(|context| spool.poll_write(context)).await.unwrap();
        }
        assert!(spool.written > 500_000 && spool.waiting_bytes < PIECE);
        let mut found = Vec::new();
        while let Some(piece) = poll_fn(|context| spool.poll_read(context)).await.unwrap() {
            found.extend_from_slice(&piece);
        }
        assert_eq!(found, pieces.concat());
    }

    #[tokio::test]
    async fn single_bytes_wait_together() {
        let mut spool = Spool::new(Rc::new(rooms()));
        let bytes: Vec<u8> = (0..20_000_u32).map(|number| number as u8).collect();
        for byte in &bytes {
            spool.push(Bytes::copy_from_slice(&[*byte]));
        }
        assert!(spool.waiting.len() < 10 && spool.waiting.iter().flatten().eq(&bytes));
    }

    #[tokio::test]
    async fn a_folder_that_is_missing_is_an_error() {
        let folder = Rooms { spool_folder: "/nonexistent/folder".into(), ..rooms() };
        let mut spool = Spool::new(Rc::new(folder));
        spool.push(vec![0; PIECE].into());
        let written = poll_fn(|context| spool.poll_write(context)).await;
        assert!(matches!(written, Err(Failure::Spool(_))));
    }

    #[tokio::test]
    async fn files_are_bounded_in_sum_and_their_room_comes_back() {
        let rooms = Rc::new(Rooms { spool: Budget::new(2 * PIECE as u64).0, ..rooms() });
        let (mut first, mut second) = (Spool::new(Rc::clone(&rooms)), Spool::new(rooms));
        for spool in [&mut first, &mut second] {
            spool.push(vec![0; PIECE].into());
            poll_fn(|context| spool.poll_write(context)).await.unwrap();
        }
        first.push(vec![0; PIECE].into());
        let full = poll_fn(|context| first.poll_write(context)).await;
        assert!(matches!(full, Err(Failure::SpoolFull)));
        drop(second);
        poll_fn(|context| first.poll_write(context)).await.unwrap();
    }
}
