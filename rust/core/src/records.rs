//! The queues toward the control plane: a record of each finished request, and events to act on
//! soon.

use std::{
    collections::HashMap,
    mem::{Discriminant, discriminant},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crossbeam_queue::ArrayQueue;
use rustix::event::{EventfdFlags, eventfd};
use tracing::{debug, error, info, warn};

use sans_io::seam::{Event, Polled, Record};

/// The most records of one poll.
const BATCH: usize = 10_000;

/// The most events about instances that have failed, which nobody must know of.
const FAILED_INSTANCES: usize = 1_024;

/// The queues, and the descriptor that is readable when they should be polled.
#[derive(Debug)]
pub(crate) struct Records {
    queue: ArrayQueue<Record>,
    /// Records lost since the last poll.
    dropped: AtomicU64,
    events: Mutex<Events>,
    /// An eventfd.
    wake: OwnedFd,
    /// Whether `wake` was signalled since the last poll, so that it is signalled once.
    awake: AtomicBool,
}

impl Records {
    /// Empty queues. `capacity`: of records. Fails without a free descriptor.
    pub(crate) fn new(capacity: usize) -> std::io::Result<Self> {
        Ok(Self {
            queue: ArrayQueue::new(capacity.max(2)),
            dropped: AtomicU64::new(0),
            events: Mutex::default(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            awake: AtomicBool::new(false),
        })
    }

    /// Readable when `poll` should be called soon.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Queues a record; false when the queue is full and the record is lost.
    pub(crate) fn push(&self, record: Record) -> bool {
        let is_queued = self.queue.push(record).is_ok();
        if !is_queued {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        if self.queue.len() * 2 >= self.queue.capacity() {
            self.wake_up();
        }
        is_queued
    }

    /// Logs and queues an event; false when it is lost. One that tells a state never is.
    pub(crate) fn event(&self, event: Event) -> bool {
        log(&event);
        let is_queued = self.lock_events().push(event);
        self.wake_up();
        is_queued
    }

    /// Takes all events, and records up to [`BATCH`].
    pub(crate) fn poll(&self) -> Polled {
        // The signal is taken before the flag is cleared: a flag that stays set without a signal
        // would swallow all later ones. And it is cleared before the queues are read, so that
        // whatever is queued meanwhile signals once more.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        self.awake.store(false, Ordering::SeqCst);
        let events = std::mem::take(&mut *self.lock_events()).waiting;
        let records: Vec<_> = std::iter::from_fn(|| self.queue.pop()).take(BATCH).collect();
        if self.queue.len() * 2 >= self.queue.capacity() {
            self.wake_up();
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            warn!(dropped, "usage records lost: nobody fetched them in time");
        }
        Polled { finished: records.len(), records, dropped, events }
    }

    /// Makes `wake` readable, unless it is.
    fn wake_up(&self) {
        if !self.awake.swap(true, Ordering::SeqCst) {
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }

    /// Nothing panics while it holds the lock, so a poisoned one is as good as any.
    fn lock_events(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an event is about: its kind, and the instance or model, if it is about one.
type Subject = (Discriminant<Event>, String);

/// The events that wait, the oldest first: one for each subject, the newest. So there are never
/// more of them than instances and models that the control plane itself has published, and a few.
#[derive(Debug, Default)]
struct Events {
    waiting: Vec<Event>,
    /// Their places.
    places: HashMap<Subject, usize>,
    /// Those of them that tell of a failed instance.
    failed: usize,
}

impl Events {
    /// Adds an event, in the place of an older one of its subject; false when it is lost.
    fn push(&mut self, event: Event) -> bool {
        let (instance, is_failure) = match &event {
            Event::InstanceIdle { instance, .. } => (instance.clone(), false),
            Event::InstanceFailed { instance, .. } => (instance.clone(), true),
            Event::ModelWanted { model } => (model.clone(), false),
            Event::CertificateRenewed
            | Event::CertificateRefused { .. }
            | Event::Drained { .. } => (String::new(), false),
        };
        let subject = (discriminant(&event), instance);
        let place = self.places.get(&subject).and_then(|place| self.waiting.get_mut(*place));
        if let Some(place) = place {
            *place = event;
            return true;
        }
        if is_failure && self.failed >= FAILED_INSTANCES {
            return false;
        }
        self.failed += usize::from(is_failure);
        self.places.insert(subject, self.waiting.len());
        self.waiting.push(event);
        true
    }
}

/// Logs an event.
fn log(event: &Event) {
    match event {
        Event::InstanceIdle { instance, version } => debug!(instance, version, "instance idle"),
        Event::InstanceFailed { instance, reason } => warn!(instance, reason, "instance failed"),
        // A client may cause it at any rate; what follows from it is told.
        Event::ModelWanted { model } => debug!(model, "a request waits for a model to wake"),
        Event::CertificateRenewed => {
            info!("TLS certificate renewed: new connections get the new one");
        }
        Event::CertificateRefused { reason } => {
            error!(reason, "changed TLS files cannot be used; the old certificate stays");
        }
        Event::Drained { cut: 0 } => info!("drained"),
        Event::Drained { cut } => warn!(cut, "drained; requests were cut"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sans_io::seam::End;

    fn record(request_id: &str) -> Record {
        Record {
            started: 1.5,
            request_id: request_id.into(),
            key: None,
            route: Some("r".into()),
            instance: None,
            path: "/v1/completions",
            status: 200,
            attempts: 1,
            first_frame_ms: 2.5,
            duration_ms: 3.5,
            bytes_in: 4,
            bytes_out: 5,
            input_tokens: Some(0),
            cached_tokens: None,
            output_tokens: Some(8),
            stream: true,
            end: End::EngineDied,
        }
    }

    fn readable(records: &Records) -> bool {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut fds = [PollFd::new(&records.wake, PollFlags::IN)];
        poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn a_half_full_queue_wakes_and_a_full_one_drops_and_counts() {
        let records = Records::new(4).unwrap();
        assert!(records.push(record("1")));
        assert!(!readable(&records));
        assert!(records.push(record("2")));
        assert!(readable(&records));
        assert!(records.push(record("3")) && records.push(record("4")));
        assert!(!records.push(record("5")));
        let polled = records.poll();
        assert_eq!((polled.records.len(), polled.dropped), (4, 1));
        assert!(!readable(&records));
        assert_eq!(records.poll().dropped, 0);
    }

    #[test]
    fn an_event_wakes_at_once() {
        let records = Records::new(4).unwrap();
        records.event(Event::Drained { cut: 3 });
        assert!(readable(&records));
        assert_eq!(records.poll().events, [Event::Drained { cut: 3 }]);
    }

    #[test]
    fn no_signal_is_lost_to_a_reader_who_polls_only_when_woken() {
        const EVENTS: u64 = 1_000_000;
        let records = Records::new(4).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                (0..EVENTS).for_each(|cut| assert!(records.event(Event::Drained { cut })));
            });
            let mut newest = None;
            loop {
                let written = writer.is_finished();
                if readable(&records) {
                    newest = records.poll().events.pop().or(newest);
                } else if written {
                    break;
                }
            }
            assert_eq!(newest, Some(Event::Drained { cut: EVENTS - 1 }));
        });
    }

    #[test]
    fn of_each_subject_the_newest_event_waits_and_states_are_never_lost() {
        let records = Records::new(4).unwrap();
        let failed = |number: usize, reason: &str| Event::InstanceFailed {
            instance: number.to_string(),
            reason: reason.to_owned(),
        };
        for reason in ["first", "second"] {
            for number in 0..FAILED_INSTANCES {
                assert!(records.event(failed(number, reason)));
            }
        }
        assert!(!records.event(failed(FAILED_INSTANCES, "one too many")));
        for number in 0..2 * FAILED_INSTANCES {
            let instance = number.to_string();
            assert!(records.event(Event::InstanceIdle { instance, version: 7 }));
        }
        assert!(records.event(Event::Drained { cut: 1 }));
        let events = records.poll().events;
        assert_eq!(events.len(), 3 * FAILED_INSTANCES + 1);
        assert_eq!(events[0], failed(0, "second"));
        assert_eq!(events.last(), Some(&Event::Drained { cut: 1 }));
        assert!(records.event(failed(FAILED_INSTANCES, "there is room again")));
    }

    #[test]
    fn documents_have_the_shape_that_python_reads() {
        let records = Records::new(4).unwrap();
        records.push(record("id"));
        records.event(Event::InstanceIdle { instance: "i".to_owned(), version: 7 });
        assert_eq!(
            serde_json::to_string(&records.poll()).unwrap(),
            r#"{"finished":1,"records":[[1.5,"id","","r","","/v1/completions",200,1,2.5,3.5,4,5,0,null,8,true,"engine_died"]],"dropped":0,"events":[{"type":"instance_idle","instance":"i","version":7}]}"#
        );
    }
}
