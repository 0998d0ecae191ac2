//! The bounded queue of lines, and the one thread that writes them.

use std::{
    io::{self, Write},
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Lines that wait for the writer. The lock is never held during a write, so that nobody who logs
/// waits for a reader.
#[derive(Debug)]
pub(super) struct Queue {
    /// Bytes that may wait.
    capacity: usize,
    state: Mutex<State>,
    changed: Condvar,
    lost: AtomicU64,
}

/// The part behind the lock.
#[derive(Debug, Default)]
struct State {
    /// Whole lines.
    waiting: Vec<u8>,
    /// Lines that the writer has taken are not written yet.
    writing: bool,
    /// Lost lines that no line has reported yet.
    unreported: u64,
}

impl Queue {
    /// An empty queue. `capacity`: the bytes that may wait.
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, state: Mutex::default(), changed: Condvar::new(), lost: AtomicU64::new(0) }
    }

    /// Lines that were lost so far.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Queues a line, or loses it if there is no room.
    pub(super) fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.waiting.len() + line.len() > self.capacity {
            return self.lose(&mut state, 1);
        }
        let wakes = state.waiting.is_empty();
        state.waiting.extend_from_slice(line);
        drop(state);
        if wakes {
            self.changed.notify_all();
        }
    }

    /// Waits until all lines are written, at most for `limit`; false if some are not.
    pub(super) fn flush(&self, limit: Duration) -> bool {
        let is_busy = |state: &mut State| state.writing || !state.waiting.is_empty();
        let waited = self.changed.wait_timeout_while(self.lock(), limit, is_busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Writes lines for ever. `loss_line` makes the line that reports a number of lost ones.
    pub(super) fn write_to(&self, mut sink: impl Write, loss_line: impl Fn(u64) -> String) {
        let mut batch = Vec::new();
        // Whether a failure has cut a line, so that the next one would stand behind a part of it.
        let mut torn = false;
        loop {
            let lost = self.next(&mut batch);
            torn = torn && write(&mut sink, b"\n") == 0;
            let written = write(&mut sink, &batch);
            torn |= batch[..written].last().is_some_and(|byte| *byte != b'\n');
            if written < batch.len() {
                let lines = batch[written..].split_inclusive(|byte| *byte == b'\n').count();
                self.lose(&mut self.lock(), lines as u64);
                self.lock().unreported += lost;
            } else if lost > 0 {
                // There is room again, and here is where the lost lines would stand.
                let line = loss_line(lost);
                if write(&mut sink, line.as_bytes()) < line.len() {
                    self.lock().unreported += lost;
                }
            }
        }
    }

    /// Waits for lines and takes them. Returns the number of lines that were lost behind them.
    fn next(&self, batch: &mut Vec<u8>) -> u64 {
        batch.clear();
        let mut state = self.lock();
        state.writing = false;
        self.changed.notify_all();
        let mut state = self
            .changed
            .wait_while(state, |state| state.waiting.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(batch, &mut state.waiting);
        state.writing = true;
        std::mem::take(&mut state.unreported)
    }

    /// Counts lost lines.
    fn lose(&self, state: &mut State, lines: u64) {
        state.unreported += lines;
        self.lost.fetch_add(lines, Ordering::Relaxed);
    }

    /// Nothing panics while it holds the lock, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes until all is written or the sink fails; the bytes that it has taken.
fn write(sink: &mut impl Write, lines: &[u8]) -> usize {
    let mut written = 0;
    while written < lines.len() {
        match sink.write(&lines[written..]) {
            Ok(count) if count > 0 => written = (written + count).min(lines.len()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => break,
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use std::{
        io::{PipeReader, Read},
        sync::Arc,
        thread,
    };

    use super::*;

    const LINES: u64 = 20_000;

    /// A queue whose writer has a pipe.
    fn piped(capacity: usize) -> (Arc<Queue>, PipeReader) {
        let (reader, pipe) = io::pipe().unwrap();
        let queue = Arc::new(Queue::new(capacity));
        let writing = Arc::clone(&queue);
        thread::spawn(move || writing.write_to(pipe, |lost| format!("lost {lost}\n")));
        (queue, reader)
    }

    fn read_until(reader: &mut PipeReader, end: &str) -> String {
        let (mut read, mut piece) = (Vec::new(), [0; 4096]);
        while !read.ends_with(end.as_bytes()) {
            let length = reader.read(&mut piece).unwrap();
            assert!(length > 0);
            read.extend_from_slice(&piece[..length]);
        }
        String::from_utf8(read).unwrap()
    }

    #[test]
    fn lines_come_out_whole_and_in_order() {
        let (queue, mut reader) = piped(1 << 20);
        let lines: Vec<_> = (0..100).map(|number| format!("line {number}\n")).collect();
        for line in &lines {
            queue.push(line.as_bytes());
        }
        let text = read_until(&mut reader, "line 99\n");
        assert_eq!((text, queue.lost()), (lines.concat(), 0));
        assert!(queue.flush(Duration::from_secs(60)));
    }

    #[test]
    fn a_reader_that_stops_blocks_nobody_and_lost_lines_are_counted_and_reported() {
        let (queue, mut reader) = piped(256 * 1024);
        // More than the pipe, what is being written and the queue hold together: this ends only if
        // nobody waits for the reader.
        let line = format!("{}\n", "x".repeat(99));
        for _ in 0..LINES {
            queue.push(line.as_bytes());
        }
        let lost = queue.lost();
        assert!(lost > 0);
        assert!(!queue.flush(Duration::from_millis(1)), "the limit ends the wait");

        let (mut whole, mut reported) = (0, 0);
        while whole + reported < LINES {
            for line in read_until(&mut reader, "\n").lines() {
                match line.strip_prefix("lost ") {
                    Some(count) => reported += count.parse::<u64>().unwrap(),
                    None => whole += u64::from(line.len() == 99),
                }
            }
        }
        assert_eq!((whole + reported, reported), (LINES, lost));

        queue.push(b"room again\n");
        assert_eq!(read_until(&mut reader, "again\n"), "room again\n");
        assert_eq!(queue.lost(), lost);
    }

    #[test]
    fn lines_for_a_reader_that_has_left_are_counted_as_lost() {
        let (queue, reader) = piped(1024);
        drop(reader);
        queue.push(b"one\ntwo\n");
        assert!(queue.flush(Duration::from_secs(60)));
        assert_eq!(queue.lost(), 2);
    }

    /// A disk that takes a number of bytes, and has room again when it is told so.
    struct Disk {
        room: Arc<AtomicU64>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room.load(Ordering::SeqCst) as usize);
            if count == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room.fetch_sub(count as u64, Ordering::SeqCst);
            self.taken.lock().unwrap().extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn after_a_full_disk_the_lost_lines_are_reported_and_no_line_stands_behind_half_a_one() {
        let (room, taken) = (Arc::new(AtomicU64::new(6)), Arc::new(Mutex::default()));
        let disk = Disk { room: Arc::clone(&room), taken: Arc::clone(&taken) };
        let queue = Arc::new(Queue::new(1024));
        let writing = Arc::clone(&queue);
        thread::spawn(move || writing.write_to(disk, |lost| format!("lost {lost}\n")));
        for lines in ["one\ntwo\n", "three\n", "four\n"] {
            queue.push(lines.as_bytes());
            assert!(queue.flush(Duration::from_secs(60)));
        }
        assert_eq!(queue.lost(), 3);
        room.store(1024, Ordering::SeqCst);
        queue.push(b"five\n");
        assert!(queue.flush(Duration::from_secs(60)));
        assert_eq!(*taken.lock().unwrap(), b"one\ntw\nfive\nlost 3\n");
        assert_eq!(queue.lost(), 3);
    }
}
