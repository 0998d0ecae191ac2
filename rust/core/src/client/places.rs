//! The places of clients' connections, of which there is a budget. Who waits for his client gives
//! his place up when somebody else needs it, the longest wait first.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    future::{Future, poll_fn},
    net::IpAddr,
    pin::pin,
    rc::Rc,
    sync::{Mutex, PoisonError},
    task::{Poll, Waker},
};

/// Entries of a queue that are not worth a pruning.
const PRUNED: usize = 64;

/// The connections of one worker that wait for their clients, the longest wait first.
#[derive(Default)]
pub(crate) struct Places {
    /// Each wait with its number. An entry is void when its place waits no more, or anew.
    waits: RefCell<VecDeque<(u64, Rc<State>)>>,
    /// The number of the last wait.
    last: Cell<u64>,
    /// Places that were not given back.
    taken: Cell<usize>,
}

/// A connection's place.
pub(crate) struct Place {
    places: Rc<Places>,
    state: Rc<State>,
}

#[derive(Default)]
struct State {
    /// The number of its wait; 0: it does not wait.
    wait: Cell<u64>,
    /// The place was given to somebody else.
    lost: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Places {
    /// A place for a new connection, which does not wait for its client yet.
    pub(crate) fn take(self: &Rc<Self>) -> Place {
        self.taken.set(self.taken.get() + 1);
        Place { places: Rc::clone(self), state: Rc::default() }
    }

    /// Takes the place of the connection that waits longest; false: none waits.
    pub(crate) fn evict(&self) -> bool {
        let mut waits = self.waits.borrow_mut();
        while let Some((number, state)) = waits.pop_front() {
            if state.wait.get() == number {
                state.wait.set(0);
                state.lost.set(true);
                if let Some(waker) = state.waker.take() {
                    waker.wake();
                }
                return true;
            }
        }
        false
    }
}

impl Place {
    /// Notes that the connection waits for its client from now on.
    pub(crate) fn waits(&self) {
        if self.state.wait.get() != 0 {
            return;
        }
        let number = self.places.last.get() + 1;
        self.places.last.set(number);
        self.state.wait.set(number);
        let waits = &mut *self.places.waits.borrow_mut();
        if waits.len() > 2 * self.places.taken.get() + PRUNED {
            waits.retain(|(number, state)| state.wait.get() == *number);
        }
        waits.push_back((number, Rc::clone(&self.state)));
    }

    /// Notes that the connection is of use.
    pub(crate) fn works(&self) {
        self.state.wait.set(0);
    }

    /// Runs a connection until it ends or its place is lost.
    pub(crate) async fn run(&self, connection: impl Future<Output = ()>) {
        let mut connection = pin!(connection);
        poll_fn(|context| {
            if self.state.lost.get() {
                return Poll::Ready(());
            }
            // A connection is one task, which has one waker.
            self.state.waker.borrow_mut().get_or_insert_with(|| context.waker().clone());
            connection.as_mut().poll(context)
        })
        .await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.works();
        self.places.taken.set(self.places.taken.get() - 1);
    }
}

/// Open connections of each client's address, for a limit on them.
#[derive(Debug, Default)]
pub(crate) struct Addresses(Mutex<HashMap<IpAddr, usize>>);

impl Addresses {
    /// Counts a connection of this address. False: it has `limit` already.
    pub(crate) fn enter(&self, address: IpAddr, limit: usize) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(network(address)).or_default();
        let is_below = *count < limit;
        *count += usize::from(is_below);
        is_below
    }

    /// Counts the end of a connection that was counted.
    pub(crate) fn leave(&self, address: IpAddr) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let network = network(address);
        if let Some(count) = counts.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&network);
            }
        }
    }
}

/// What one client has to itself: an IPv4 address, or 64 bits of an IPv6 one.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_longest_wait_gives_its_place_up_and_work_is_spared() {
        let places = Rc::new(Places::default());
        let [first, second, third] = [places.take(), places.take(), places.take()];
        assert!(!places.evict(), "none of them waits yet");
        [&first, &second, &third].into_iter().for_each(Place::waits);
        first.works();
        second.works();
        second.waits();
        assert!(places.evict() && third.state.lost.get(), "it waits longest");
        assert!(places.evict() && second.state.lost.get());
        assert!(!places.evict() && !first.state.lost.get());
        third.run(std::future::pending()).await;
    }

    #[test]
    fn a_busy_connection_leaves_no_trail() {
        let places = Rc::new(Places::default());
        let (busy, _idle) = (places.take(), places.take());
        for _ in 0..10_000 {
            busy.works();
            busy.waits();
        }
        assert!(places.waits.borrow().len() <= PRUNED + 5);
    }

    #[test]
    fn an_address_has_so_many_connections_and_no_more() {
        let addresses = Addresses::default();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(addresses.enter(address("10.0.0.1"), 2));
        assert!(addresses.enter(address("::ffff:10.0.0.1"), 2), "the same one");
        assert!(!addresses.enter(address("10.0.0.1"), 2));
        assert!(addresses.enter(address("10.0.0.2"), 2));
        assert!(addresses.enter(address("2001:db8::1"), 1));
        assert!(!addresses.enter(address("2001:db8::ffff:2"), 1), "one network");
        addresses.leave(address("10.0.0.1"));
        assert!(addresses.enter(address("10.0.0.1"), 2));
    }
}
