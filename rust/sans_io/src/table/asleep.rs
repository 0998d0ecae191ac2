//! Requests for models of which nothing runs, but soon can: whether they wait, and for which model.

use std::sync::Arc;

use crate::table::{
    instance::{IdleListener, Lease, NoLease},
    route::{Choice, Model, Route, Target, by_weight, lease_on},
    wake_queue::Place,
};

impl Model {
    /// Whether nothing of it runs, and requests may wait until something does.
    pub fn is_asleep(&self) -> bool {
        self.wake.is_some() && self.running.is_empty()
    }

    /// Whether a request may begin to wait for it.
    fn has_place(&self) -> bool {
        let has_place = self.wake.is_some_and(|wake| self.queue.waiting() < wake.queue);
        has_place && self.running.is_empty()
    }

    /// Takes a place among the requests that wait for it; None: there is none.
    pub fn enter_queue(&self) -> Option<Place> {
        self.queue.enter(self.wake?.queue)
    }
}

impl Route {
    /// The target for whose model a request has to wait; None: it need not, or finds no place.
    ///
    /// The target is chosen by weight among those that have an instance with room and those for
    /// which a request may wait: it has to wait only where the lot falls on one of the latter. A
    /// request that has fallen back does not wait.
    pub fn asleep(
        &self,
        choice: Choice<'_>,
        random: &mut impl FnMut() -> u64,
    ) -> Option<&Arc<Target>> {
        if choice.failed.is_some() || self.asleep_target().is_none() {
            return None;
        }
        let usable = |target: &Target| {
            target.model.has_place() || target.model.has_untried_room(choice.tried)
        };
        by_weight(&self.targets, usable, random).filter(|target| target.model.is_asleep())
    }

    /// The first target with a weight whose model is asleep, whether or not a place is free.
    pub fn asleep_target(&self) -> Option<&Arc<Target>> {
        self.targets.iter().find(|target| target.weight > 0 && target.model.is_asleep())
    }

    /// The target whose model is asleep, and the instance of this id with it.
    pub fn asleep_instance(&self, id: &str) -> Option<&Arc<Target>> {
        self.targets.iter().find(|target| {
            let has_it = || target.model.instances.iter().any(|instance| *instance.id == *id);
            target.model.is_asleep() && has_it()
        })
    }

    /// What has become, in this table, of a target that a request waits for; None: it is gone, or
    /// nobody waits for it any more.
    pub fn awaited(&self, target: &Target) -> Option<&Arc<Target>> {
        let found = self.targets.iter().find(|found| found.weight > 0 && found.is_same(target))?;
        (found.is_running() || found.model.is_asleep()).then_some(found)
    }

    /// The same of an instance that a request waits for, by its id.
    pub fn awaited_instance(&self, id: &str) -> Option<&Arc<Target>> {
        let runs =
            |target: &&Arc<Target>| target.model.running.iter().any(|instance| *instance.id == *id);
        self.targets.iter().find(runs).or_else(|| self.asleep_instance(id))
    }

    /// Takes a slot on an instance of the target that a request has waited for. Fails as
    /// [`Route::lease`] does.
    pub fn lease_awaited(
        &self,
        target: &Target,
        choice: Choice<'_>,
        random: &mut impl FnMut() -> u64,
        idle: &Arc<dyn IdleListener>,
    ) -> Result<(Lease, Arc<Target>), NoLease> {
        let target = self.awaited(target).ok_or(NoLease::NotRunning)?;
        let lease = lease_on(target, choice, random, idle);
        let full = || target.is_running() && !target.model.has_room();
        lease
            .map(|lease| (lease, Arc::clone(target)))
            .ok_or_else(|| if full() { NoLease::Full } else { NoLease::NotRunning })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::{
        table::{FallbackFor, Table},
        test_support,
    };

    #[derive(Debug)]
    struct Nobody;

    impl IdleListener for Nobody {
        fn idle(&self, _: &crate::table::Instance, _: u64) {}
    }

    const ANY: Choice<'static> = Choice { tried: &[], failed: None, now: 0 };

    /// A model of this name with one instance in this state. `queue`: the requests that may wait.
    fn model(name: &str, state: &str, queue: Option<u32>) -> Value {
        let mut instance = test_support::instance(name, &format!("unix:/run/{name}.sock"));
        instance["state"] = state.into();
        let mut model = test_support::model(name, name, vec![instance]);
        model["wake"] = queue.map_or(Value::Null, |queue| json!({"queue": queue, "timeout": 1.0}));
        model
    }

    /// The table behind `before`, whose route `r` has these weights at these models.
    fn table(before: &Table, models: Vec<Value>, weights: &[u32]) -> Table {
        let names: Vec<_> = models.iter().map(|model| model["name"].clone()).collect();
        let targets = names.iter().zip(weights).map(|(name, weight)| {
            let mut target = test_support::target(name.as_str().unwrap(), *weight);
            if *weight == 0 {
                target["fallback"] = json!(["5xx"]);
            }
            target
        });
        let routes = vec![test_support::route("r", targets.collect())];
        let document = test_support::read(test_support::table(models, routes));
        before.replaced_by(document).unwrap().0
    }

    fn random() -> impl FnMut() -> u64 {
        let mut state = 7_u64;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040);
            state >> 33
        }
    }

    /// How often the lot falls on each model: none stands for no wait.
    fn lots(table: &Table, choice: Choice<'_>) -> HashMap<String, u32> {
        let (mut random, mut lots) = (random(), HashMap::new());
        for _ in 0..1_000 {
            let asleep = table.route("r").unwrap().asleep(choice, &mut random);
            let name = asleep.map_or("none", |target| &*target.model.name);
            *lots.entry(name.to_owned()).or_default() += 1;
        }
        lots
    }

    #[test]
    fn a_model_that_sleeps_has_its_share_of_the_requests_as_long_as_there_are_places() {
        let models = vec![model("a", "running", None), model("b", "sleeping", Some(1))];
        let table = table(&Table::default(), models, &[3, 1]);
        let found = lots(&table, ANY);
        assert!((200..300).contains(&found["b"]), "{found:?}");
        let place = table.route("r").unwrap().asleep_target().unwrap().model.enter_queue();
        assert_eq!(lots(&table, ANY), HashMap::from([("none".to_owned(), 1_000)]));
        drop(place);
        assert!(lots(&table, ANY).contains_key("b"));
    }

    #[test]
    fn a_request_waits_only_for_what_is_asleep_and_has_a_weight() {
        let none = HashMap::from([("none".to_owned(), 1_000)]);
        for (state, queue, weight) in [
            ("running", Some(9), 1),
            ("error", None, 1),
            ("sleeping", Some(0), 1),
            ("waking", Some(9), 0),
        ] {
            let one = table(&Table::default(), vec![model("a", state, queue)], &[weight]);
            assert_eq!(lots(&one, ANY), none, "{state} {queue:?} {weight}");
        }
        let one = table(&Table::default(), vec![model("a", "error", Some(9))], &[1]);
        assert_eq!(lots(&one, ANY)["a"], 1_000);
        let failed = Some(FallbackFor { status: 503, target: None });
        assert_eq!(lots(&one, Choice { failed, ..ANY }), none);
    }

    #[test]
    fn a_route_to_a_model_that_may_be_waited_for_is_ready() {
        for (queue, ready) in [(Some(9), true), (None, false)] {
            let one = table(&Table::default(), vec![model("a", "sleeping", queue)], &[1]);
            assert_eq!(one.route("r").unwrap().is_ready(), ready);
        }
    }

    #[test]
    fn who_has_waited_gets_the_model_that_he_has_waited_for() {
        let idle: Arc<dyn IdleListener> = Arc::new(Nobody);
        let both = |state| vec![model("a", "running", None), model("b", state, Some(9))];
        let asleep = table(&Table::default(), both("sleeping"), &[1, 1]);
        let target = Arc::clone(asleep.route("r").unwrap().asleep_target().unwrap());
        let place = target.model.enter_queue().unwrap();
        let lease = |table: &Table| {
            let leased =
                table.route("r").unwrap().lease_awaited(&target, ANY, &mut random(), &idle);
            leased.map(|(lease, _)| lease.instance().id.to_string())
        };
        assert_eq!(lease(&asleep), Err(NoLease::NotRunning));
        let awake = table(&asleep, both("running"), &[1, 1]);
        assert_eq!(lease(&awake).as_deref(), Ok("b"));
        let queue = &awake.route("r").unwrap().awaited(&target).unwrap().model.queue;
        assert_eq!(queue.waiting(), 1, "the places survive a publish");
        drop(place);
        assert_eq!(queue.waiting(), 0);
        let gone = table(&awake, vec![model("a", "running", None)], &[1]);
        assert!(gone.route("r").unwrap().awaited(&target).is_none());
        let given_up = vec![model("a", "running", None), model("b", "error", None)];
        let given_up = table(&awake, given_up, &[1, 1]);
        assert!(given_up.route("r").unwrap().awaited(&target).is_none());
    }

    #[test]
    fn a_table_frees_those_who_wait_where_their_model_is_no_longer_asleep_as_it_was() {
        let of = |before: &Table, state, queue| table(before, vec![model("b", state, queue)], &[1]);
        let asleep = of(&Table::default(), "sleeping", Some(9));
        for (state, queue, frees) in [
            ("sleeping", Some(9), false),
            ("waking", Some(9), false),
            ("running", Some(9), true),
            ("error", None, true),
            ("waking", Some(8), true),
        ] {
            assert_eq!(
                asleep.frees_waiting(&of(&asleep, state, queue)),
                frees,
                "{state} {queue:?}"
            );
        }
        assert!(asleep.frees_waiting(&table(&asleep, vec![], &[])));
    }
}
