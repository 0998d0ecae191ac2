//! A request body that waits in a file until it can go on, so that memory stays small.
//!
//! The file has no name: it is gone when its descriptor is, however the process ends. It is read
//! and written on the blocking pool, since a disk may stand still.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::task::JoinHandle;

/// Bytes that are written, or read, at a time.
const PIECE: usize = 256 * 1024;

/// Bytes in a file, and those on their way into it.
#[derive(Debug)]
pub(crate) struct Spool {
    folder: PathBuf,
    /// None before the first write, and while a job has it.
    file: Option<File>,
    job: Option<JoinHandle<io::Result<Done>>>,
    written: u64,
    read: u64,
    /// Behind what is in the file.
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
}

/// A finished job: the file, and what was read from it.
#[derive(Debug)]
struct Done {
    file: File,
    read: Option<Bytes>,
    /// Goes back to the thread that made it, so that its memory is used again there.
    _written: VecDeque<Bytes>,
}

impl Spool {
    /// An empty one, whose file will lie in this folder.
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            file: None,
            job: None,
            written: 0,
            read: 0,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
        }
    }

    /// Puts a piece behind the others.
    pub(crate) fn push(&mut self, piece: Bytes) {
        self.waiting_bytes += piece.len();
        self.waiting.push_back(piece);
    }

    /// Ready when it can take more.
    pub(crate) fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_job(context))?;
        if self.waiting_bytes >= PIECE {
            let pieces = std::mem::take(&mut self.waiting);
            let (at, file, folder) = (self.written, self.file.take(), self.folder.clone());
            self.written += self.waiting_bytes as u64;
            self.waiting_bytes = 0;
            self.job = Some(tokio::task::spawn_blocking(move || {
                let file = match file {
                    Some(file) => file,
                    None => tempfile::tempfile_in(folder)?,
                };
                let mut at = at;
                for piece in &pieces {
                    file.write_all_at(piece, at)?;
                    at += piece.len() as u64;
                }
                Ok(Done { file, read: None, _written: pieces })
            }));
            ready!(self.poll_job(context))?;
        }
        Poll::Ready(Ok(()))
    }

    /// The next piece, from the front; None: all were taken.
    pub(crate) fn poll_read(
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
            // Made here, where it is dropped: what many threads make stays with each of them.
            let mut piece = vec![0; left.min(PIECE)];
            self.job = Some(tokio::task::spawn_blocking(move || {
                file.read_exact_at(&mut piece, at)?;
                Ok(Done { file, read: Some(piece.into()), _written: VecDeque::new() })
            }));
        }
    }

    /// Waits for the job that runs, if one does; what it has read.
    fn poll_job(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        let Some(job) = &mut self.job else { return Poll::Ready(Ok(None)) };
        let done = ready!(Pin::new(job).poll(context));
        self.job = None;
        let done = done.map_err(io::Error::other)??;
        self.file = Some(done.file);
        Poll::Ready(Ok(done.read))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn what_went_in_comes_out_in_order() {
        let mut spool = Spool::new(std::env::temp_dir());
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
    async fn a_folder_that_is_missing_is_an_error() {
        let mut spool = Spool::new("/nonexistent/folder".into());
        spool.push(vec![0; PIECE].into());
        assert!(poll_fn(|context| spool.poll_write(context)).await.is_err());
    }
}
