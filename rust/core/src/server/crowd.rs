//! What a connection of HTTP/2 holds of responses that its client does not take, beyond what each
//! has a share for by itself: tasks that wait, and pages that have left their tasks and lie in
//! front of a window, where nobody but this counts them.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use crate::{
    budget::{Budget, NoRoom, RoomWait, Share},
    worker::Worker,
};

/// What each response that is not taken holds in memory, in bytes: its task and what hyper has of
/// it, and the part of it that is in no sum by itself.
const UNREAD: u64 = 24 * 1024;
/// The same of one whose task has ended: its head, and what hyper has of its stream.
const LEFT: u64 = 2 * 1024;
/// So much of it each connection may have without a share of the memory of all requests.
const FREE: u64 = 4 * UNREAD;

/// The responses of a connection that its client does not take.
pub(super) struct Crowds {
    pub(super) worker: Rc<Worker>,
    /// Those without a key, and those with one.
    kinds: [Crowd; 2],
    /// Of the connection's task.
    waker: RefCell<Option<Waker>>,
}

/// Those of one kind of caller.
#[derive(Default)]
struct Crowd {
    /// Streams whose tasks wait.
    unread: Cell<usize>,
    /// Streams whose tasks have ended, and what is left of them, in bytes.
    left: Cell<usize>,
    left_bytes: Cell<u64>,
    /// Those of them without a body, which lie in front of a socket that takes nothing.
    bodiless: Cell<usize>,
    /// The part of the memory of all requests that all of them take.
    room: RefCell<Share>,
    wait: RefCell<RoomWait>,
}

impl Crowds {
    pub(super) fn new(worker: &Rc<Worker>) -> Rc<Self> {
        let (kinds, waker) = <([Crowd; 2], RefCell<Option<Waker>>)>::default();
        Rc::new(Self { worker: Rc::clone(worker), kinds, waker })
    }

    /// Whether a client takes nothing of some stream whose task runs.
    pub(super) fn has_unread(&self) -> bool {
        self.kinds.iter().any(|crowd| crowd.unread.get() > 0)
    }

    /// Counts a stream of which nothing is taken from now on. `keyed`: its caller has a good key.
    pub(super) fn enter(&self, keyed: bool) {
        let unread = &self.crowd(keyed).unread;
        unread.set(unread.get() + 1);
    }

    /// Counts it no more.
    pub(super) fn leave(&self, keyed: bool) {
        let crowd = self.crowd(keyed);
        crowd.unread.set(crowd.unread.get() - 1);
        crowd.shrink();
    }

    /// Takes memory for one of them. Fails where there was none for a while. `wait`: its own.
    pub(super) fn poll_room(
        &self,
        context: &mut Context<'_>,
        keyed: bool,
        wait: &mut RoomWait,
    ) -> Result<(), NoRoom> {
        self.crowd(keyed).poll_room(context, self.worker.memory(keyed), wait).inspect_err(
            |NoRoom| {
                self.worker.note_cut_unread(1);
            },
        )
    }

    /// Counts a stream whose task has ended, as long as hyper has something of it. `held`: bytes of
    /// its body. `is_blocked`: the socket takes nothing. Gives what `taken` gets in the end; 0: it
    /// is not called.
    pub(super) fn leave_behind(&self, keyed: bool, held: u64, is_blocked: bool) -> u64 {
        let crowd = self.crowd(keyed);
        let bytes = if held > 0 { LEFT + held } else { 0 };
        if bytes > 0 {
            crowd.left.set(crowd.left.get() + 1);
            crowd.left_bytes.set(crowd.left_bytes.get() + bytes);
        } else if is_blocked {
            crowd.bodiless.set(crowd.bodiless.get() + 1);
        }
        // Nobody else may have something for the connection's task to do.
        if crowd.needs_room()
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
        bytes
    }

    /// Counts such a stream no more.
    pub(super) fn taken(&self, keyed: bool, bytes: u64) {
        let crowd = self.crowd(keyed);
        crowd.left.set(crowd.left.get() - 1);
        crowd.left_bytes.set(crowd.left_bytes.get() - bytes);
        crowd.shrink();
    }

    /// Takes memory for what streams have left behind. Fails where there was none for a while: then
    /// the connection has to end, since nothing else takes it back. For the connection's task.
    pub(super) fn poll_left(
        &self,
        context: &mut Context<'_>,
        is_blocked: bool,
    ) -> Result<(), NoRoom> {
        self.waker.borrow_mut().get_or_insert_with(|| context.waker().clone());
        for (keyed, crowd) in [false, true].into_iter().zip(&self.kinds) {
            if !is_blocked && crowd.bodiless.take() > 0 {
                crowd.shrink();
            }
            let left = crowd.left.get() + crowd.bodiless.get();
            if left == 0 || !crowd.needs_room() {
                continue;
            }
            let wait = &mut *crowd.wait.borrow_mut();
            let room = crowd.poll_room(context, self.worker.memory(keyed), wait);
            room.inspect_err(|NoRoom| self.worker.note_cut_unread(left as u64))?;
        }
        Ok(())
    }

    fn crowd(&self, keyed: bool) -> &Crowd {
        &self.kinds[usize::from(keyed)]
    }
}

impl Crowd {
    /// The memory that it takes beyond what is free, in bytes.
    fn bytes(&self) -> u64 {
        let count = |count: &Cell<usize>| count.get() as u64;
        let left = self.left_bytes.get() + count(&self.bodiless) * LEFT;
        (count(&self.unread) * UNREAD + left).saturating_sub(FREE)
    }

    fn needs_room(&self) -> bool {
        self.bytes() > self.room.borrow().bytes()
    }

    fn shrink(&self) {
        self.room.borrow_mut().shrink(self.bytes());
    }

    fn poll_room(
        &self,
        context: &mut Context<'_>,
        memory: &Arc<Budget>,
        wait: &mut RoomWait,
    ) -> Result<(), NoRoom> {
        let (held, room) = (self.bytes(), &mut *self.room.borrow_mut());
        match wait.poll(context, || held <= room.bytes() || room.grow(memory, held)) {
            Poll::Ready(Err(NoRoom)) => Err(NoRoom),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }
}
