//! The places of clients' connections, of which there is a budget. Who waits for his client gives
//! his place up when somebody else needs it: strangers first, then idle connections of those with a
//! key, then their requests that do not come on, responses of engines, and tunnels last; of each kind
//! the longest wait first. Who is new needs a moment for his first request, and by TLS some ways to
//! and fro: for so long his place is not given away, and while there are many like him, others wait
//! to be accepted.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, VecDeque},
    future::{Future, poll_fn},
    net::IpAddr,
    pin::pin,
    rc::Rc,
    sync::{Mutex, PoisonError},
    task::{Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;

/// Entries of a queue that are not worth a pruning.
const PRUNED: usize = 64;
/// The time in which the client of an engine's response must take something of it, or something must
/// move in a tunnel, before its place can be given away. It is longer than the way to most clients
/// and back.
const STALLED: Duration = Duration::from_millis(250);
/// The time that a new client has to send something before its place can be given away. Its request
/// follows its connection at once, unless its machine is busy in that moment.
const NEW: Duration = Duration::from_millis(10);
/// The same for its TLS handshake and the begin of its first request: two ways to a client at the
/// other end of the world and back.
const SHAKING: Duration = Duration::from_millis(500);
/// So many of all places may be taken by clients in that time before nobody with a key makes room
/// for more of them.
const NEW_SHARE: usize = 4;
/// A shorter wait is that of a newcomer, or between two requests,
const YOUNG: Duration = Duration::from_secs(1);
/// and a longer one that of a client which does not come on at all.
const STUCK: Duration = Duration::from_secs(5);
/// Bytes of a body that count as progress. A client that sends fewer at a time still waits.
pub(crate) const PROGRESS: usize = 1024;

/// Why a connection waits for its client: the worth of its place, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The client has not sent a request yet.
    New,
    /// The client has shown no good key.
    Stranger,
    /// The client has shown a good key, and has no request at present.
    Idle,
    /// A request with a good key waits for its client, and no engine has responded to it: its body
    /// does not come, or a page of this server's own is not taken.
    Unserved,
    /// An engine's response to a request with a good key is not taken.
    Stalled,
    /// In a tunnel of a client with a good key nothing moves.
    Tunnel,
}

/// Waits with their numbers, the longest first. One is void when its place waits no more, or anew.
type Queue = VecDeque<(u64, Rc<State>)>;

/// The connections of one worker that wait for their clients.
#[derive(Default)]
pub(crate) struct Places {
    /// One queue for each kind of wait.
    waits: RefCell<[Queue; 6]>,
    /// The number of the last wait.
    last: Cell<u64>,
    /// Places that were not given back.
    taken: Cell<usize>,
    /// Those of them that have neither waited nor worked yet,
    untried: Cell<usize>,
    /// and those that wait for their first request.
    new: Cell<usize>,
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
    /// What it waits as, or did the last time; None: it has neither waited nor worked yet.
    kind: Cell<Option<Wait>>,
    /// Since when it waits, or did the last time; None: it never has.
    since: Cell<Option<Instant>>,
    /// When something came for which it had waited; None: nothing has.
    came_on: Cell<Option<Instant>>,
    /// The client has sent a request, or something else that is of use.
    has_worked: Cell<bool>,
    /// The client needs a handshake before its first request.
    shakes_hands: Cell<bool>,
    /// The place was given to somebody else.
    lost: Cell<bool>,
    /// The connection sees by itself that its place is lost.
    ends_by_itself: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Places {
    /// A place for a new connection, which does not wait for its client yet.
    pub(crate) fn take(self: &Rc<Self>) -> Place {
        self.taken.set(self.taken.get() + 1);
        self.untried.set(self.untried.get() + 1);
        Place { places: Rc::clone(self), state: Rc::default() }
    }

    /// Whether there are connections of which nobody knows yet what came on them.
    pub(crate) fn has_untried(&self) -> bool {
        self.untried.get() > 0
    }

    /// Whether a place could be given away now.
    pub(crate) fn has_waiting(&self) -> bool {
        self.waits.borrow_mut().iter_mut().any(|queue| first(queue).is_some())
    }

    /// Whether nobody's place could be given away now, but soon that of one who is new.
    pub(crate) fn has_only_new(&self) -> bool {
        self.new.get() > 0 && self.worth_least().is_none()
    }

    /// Takes the place that is worth least: that of the connection which waits longest. One that has
    /// hardly begun to wait is spared, where one that is worth more does not come on at all. False:
    /// none waits, or only those that are new and some that are worth more.
    pub(crate) fn evict(&self) -> bool {
        let Some(taken) = self.worth_least() else { return false };
        let Some((_, state)) = self.waits.borrow_mut()[taken].pop_front() else { return false };
        self.end_wait(&state);
        state.lost.set(true);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        true
    }

    /// The queue whose first is worth least.
    fn worth_least(&self) -> Option<usize> {
        let waits = &mut *self.waits.borrow_mut();
        let ages = waits.each_mut().map(|queue| first(queue).map(State::waited));
        // Else strangers would take the places of all who have a key, one connection for each.
        let spares_known = self.new.get() > self.taken.get() / NEW_SHARE;
        let least = ages.iter().position(Option::is_some);
        let least = least.filter(|at| *at <= Wait::Stranger as usize || !spares_known);
        let is_stuck = |at: &usize| ages[*at].is_some_and(|age| age >= STUCK);
        let stuck = [Wait::Unserved as usize, Wait::Stalled as usize].into_iter().find(is_stuck);
        least.filter(|at| stuck.is_none() || ages[*at] >= Some(YOUNG)).or(stuck)
    }

    /// Notes that a connection waits no more.
    fn end_wait(&self, state: &State) {
        if state.wait.take() != 0 && state.kind.get() == Some(Wait::New) {
            self.new.set(self.new.get() - 1);
        }
    }
}

/// The connection of a queue that waits longest, if its place may be given away.
fn first(queue: &mut Queue) -> Option<&State> {
    while queue.front().is_some_and(|(number, state)| state.wait.get() != *number) {
        queue.pop_front();
    }
    let (_, state) = queue.front()?;
    let spared = match state.kind.get() {
        Some(Wait::New) if state.shakes_hands.get() => SHAKING,
        Some(Wait::New) => NEW,
        Some(Wait::Stalled | Wait::Tunnel) => STALLED,
        // An upload that comes steadily has such waits between its pieces.
        Some(Wait::Unserved) if state.has_come_on() => STALLED,
        _ => Duration::ZERO,
    };
    (state.waited() >= spared).then_some(state)
}

impl State {
    /// The time of its wait.
    fn waited(&self) -> Duration {
        self.since.get().map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Whether something has just come for which it had waited.
    fn has_come_on(&self) -> bool {
        self.came_on.get().is_some_and(|came| came.elapsed() < STALLED)
    }
}

impl Place {
    /// Notes that the connection waits for its client from now on, unless it did before. Until it is
    /// of use, that is one wait of one who is new, however often something comes in it.
    pub(crate) fn waits(&self, kind: Wait) {
        let state = &self.state;
        let kind = if state.has_worked.get() { kind } else { Wait::New };
        let waited = state.wait.get() != 0 && state.kind.get() == Some(kind);
        if waited || state.lost.get() {
            return;
        }
        self.is_tried();
        self.places.end_wait(state);
        let number = self.places.last.get() + 1;
        self.places.last.set(number);
        state.wait.set(number);
        state.kind.set(Some(kind));
        state.since.set(Some(Instant::now()));
        let new = &self.places.new;
        new.set(new.get() + usize::from(kind == Wait::New));
        let waits = &mut self.places.waits.borrow_mut()[kind as usize];
        if waits.len() > 2 * self.places.taken.get() + PRUNED {
            waits.retain(|(number, state)| state.wait.get() == *number);
        }
        waits.push_back((number, Rc::clone(state)));
    }

    /// Notes that the client begins to shake hands.
    pub(crate) fn shakes_hands(&self) {
        self.state.shakes_hands.set(true);
    }

    /// Whether the place was given to somebody else, so that the connection is to end.
    pub(crate) fn is_lost(&self) -> bool {
        self.state.lost.get()
    }

    /// Whether the connection ends by itself when its place is lost; else `run` drops it.
    pub(crate) fn ends_by_itself(&self, does: bool) {
        let state = &self.state;
        // What came before it could see that its place is lost, it serves.
        state.ends_by_itself.set(does || state.lost.get() && state.ends_by_itself.get());
    }

    /// Notes that the connection is of use, since what it waited for has come.
    pub(crate) fn comes_on(&self) {
        self.state.came_on.set(Some(Instant::now()));
        self.works();
    }

    /// Notes that the connection is of use.
    pub(crate) fn works(&self) {
        self.is_tried();
        self.places.end_wait(&self.state);
        self.state.has_worked.set(true);
    }

    fn is_tried(&self) {
        if self.state.kind.get().is_none() {
            self.state.kind.set(Some(Wait::Stranger));
            self.places.untried.set(self.places.untried.get() - 1);
        }
    }

    /// Runs a connection until it ends or its place is lost; see `ends_by_itself`.
    pub(crate) async fn run(&self, connection: impl Future<Output = ()>) {
        let mut connection = pin!(connection);
        poll_fn(|context| {
            if self.state.lost.get() && !self.state.ends_by_itself.get() {
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
        // A void entry of a queue may outlive the connection, whose task the waker keeps.
        self.state.waker.take();
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

    /// A connection's place that has served a request.
    fn take(places: &Rc<Places>) -> Place {
        let place = places.take();
        place.works();
        place
    }

    #[tokio::test]
    async fn what_a_connection_has_begun_in_the_moment_of_its_eviction_it_ends_by_itself() {
        for ends_by_itself in [true, false] {
            let places = Rc::new(Places::default());
            let place = take(&places);
            place.waits(Wait::Idle);
            place.ends_by_itself(ends_by_itself);
            let (mut polls, mut served) = (0, false);
            let connection = poll_fn(|context| {
                polls += 1;
                if polls == 1 {
                    assert!(places.evict());
                    // It has found a request.
                    place.works();
                    place.ends_by_itself(false);
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                served = true;
                Poll::Ready(())
            });
            place.run(connection).await;
            assert_eq!(served, ends_by_itself);
        }
    }

    #[tokio::test]
    async fn the_longest_wait_gives_its_place_up_and_work_is_spared() {
        let places = Rc::new(Places::default());
        let [first, second, third] = [(); 3].map(|()| places.take());
        assert!(places.has_untried() && !places.evict(), "none of them waits yet");
        for place in [&first, &second, &third] {
            place.works();
            place.waits(Wait::Stranger);
        }
        first.works();
        second.works();
        second.waits(Wait::Stranger);
        assert!(!places.has_untried() && places.has_waiting());
        assert!(places.evict() && third.state.lost.get(), "it waits longest");
        assert!(places.evict() && second.state.lost.get());
        assert!(!places.evict() && !first.state.lost.get());
        third.run(std::future::pending()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_go_before_those_with_a_key_and_these_before_their_requests() {
        let places = Rc::new(Places::default());
        let [stalled, unserved, idle, stranger, young] = [(); 5].map(|()| take(&places));
        stalled.waits(Wait::Stalled);
        unserved.waits(Wait::Unserved);
        idle.waits(Wait::Idle);
        stranger.waits(Wait::Stranger);
        tokio::time::advance(STALLED / 2).await;
        young.waits(Wait::Stranger);
        young.waits(Wait::Stalled);
        assert!(places.evict() && stranger.state.lost.get());
        assert!(places.evict() && idle.state.lost.get());
        assert!(places.evict() && unserved.state.lost.get());
        assert!(!places.has_waiting() && !places.evict(), "it may yet come on");
        tokio::time::advance(STALLED / 2).await;
        assert!(places.evict() && stalled.state.lost.get());
        assert!(!places.evict() && !young.state.lost.get());
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_comes_steadily_is_spared_and_one_that_has_stopped_is_not() {
        let places = Rc::new(Places::default());
        let [upload, half] = [take(&places), take(&places)];
        for _ in 0..9 {
            upload.comes_on();
            upload.waits(Wait::Unserved);
            tokio::time::advance(STALLED / 2).await;
            assert!(!places.has_waiting() && !places.evict());
        }
        half.waits(Wait::Unserved);
        tokio::time::advance(STALLED / 2).await;
        assert!(places.evict() && upload.state.lost.get());
        assert!(places.evict() && half.state.lost.get());
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_is_spared_where_somebody_is_stuck() {
        let places = Rc::new(Places::default());
        let [stuck, tunnel, idle, newcomer] = [(); 4].map(|()| take(&places));
        stuck.waits(Wait::Stalled);
        tunnel.waits(Wait::Tunnel);
        tokio::time::advance(STUCK).await;
        idle.waits(Wait::Idle);
        newcomer.waits(Wait::Stranger);
        assert!(places.evict() && stuck.state.lost.get());
        assert!(places.evict() && newcomer.state.lost.get());
        assert!(places.evict() && idle.state.lost.get());
        assert!(places.evict() && tunnel.state.lost.get());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_new_has_his_time_and_costs_none_with_a_key_his_place() {
        for (shakes_hands, time) in [(false, NEW), (true, SHAKING)] {
            let places = Rc::new(Places::default());
            let new = || {
                let place = places.take();
                if shakes_hands {
                    place.shakes_hands();
                }
                place.waits(Wait::Stranger);
                place
            };
            let idle = [(); 4].map(|()| take(&places));
            for place in &idle {
                place.waits(Wait::Idle);
            }
            let first = new();
            assert!(places.evict() && idle[0].state.lost.get(), "it is one of five");
            let second = new();
            assert!(!places.evict() && places.has_only_new(), "of six there are two");
            second.works();
            second.waits(Wait::Stranger);
            assert!(places.evict() && second.state.lost.get(), "it has had its request");
            let third = new();
            tokio::time::advance(time).await;
            // However often something comes, it is one wait.
            first.waits(Wait::Stranger);
            let fourth = new();
            assert!(places.evict() && first.state.lost.get() && !fourth.state.lost.get());
            assert!(places.evict() && third.state.lost.get());
            drop((first, second, third));
            assert!(places.evict() && idle[1].state.lost.get(), "of five, one is new");
            drop(fourth);
            assert!(!places.has_only_new());
            assert!(places.evict() && idle[2].state.lost.get());
        }
    }

    #[tokio::test]
    async fn a_lost_place_is_not_given_away_again() {
        let places = Rc::new(Places::default());
        let [lost, spared] = [take(&places), take(&places)];
        lost.waits(Wait::Idle);
        assert!(places.evict());
        lost.works();
        lost.waits(Wait::Stranger);
        assert!(!places.evict());
        // This one looks by itself whether a request has come in the last moment.
        spared.ends_by_itself(true);
        spared.waits(Wait::Idle);
        assert!(places.evict() && spared.is_lost());
        spared.run(std::future::ready(())).await;
    }

    #[test]
    fn a_busy_connection_leaves_no_trail() {
        let places = Rc::new(Places::default());
        let (busy, idle) = (take(&places), take(&places));
        for _ in 0..10_000 {
            busy.works();
            busy.waits(Wait::Idle);
        }
        assert!(places.waits.borrow()[Wait::Idle as usize].len() <= PRUNED + 5);
        drop((busy, idle));
        assert!(!places.has_untried());
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
