//! The published table: every model and route of one moment, built from its document.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::{
    seam::{
        self, AccessPolicy, Dialect, InstanceState, MetricFamily, ModelEntry, RouteEntry,
        TargetEntry,
    },
    table::{
        engines::Engines,
        error::TableError,
        instance::{Address, Instance},
        proxy_paths::ProxyPaths,
        route::{Access, Model, Route, Target, json_string},
        unique,
        wake_queue::WakeQueue,
    },
};

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// Instances by id and address.
type KnownInstances<'a> = Map<(&'a str, Cow<'a, Address>), &'a Arc<Instance>>;

/// A published snapshot.
#[derive(Debug, Default)]
pub struct Table {
    /// 1, 2, ...; 0: the empty table before the first one.
    pub version: u64,
    /// All models.
    pub models: Vec<Arc<Model>>,
    /// All routes, in the order in which they were published.
    pub routes: Vec<Arc<Route>>,
    /// The control plane's own metrics.
    pub metrics: Vec<MetricFamily>,
    by_name: Map<Arc<str>, Arc<Route>>,
    by_number: Map<u64, Arc<Route>>,
    /// Those that are patterns, the longest first.
    patterns: Vec<Arc<Route>>,
    default_route: Option<Arc<Route>>,
    /// Whether a route needs no key.
    pub any_public: bool,
    engines: Engines,
}

impl Table {
    /// The route that is configured under this name.
    pub fn route(&self, name: &str) -> Option<&Arc<Route>> {
        self.by_name.get(name)
    }

    /// The route that serves requests which name no model; None: such requests are errors.
    pub fn default_route(&self) -> Option<&Arc<Route>> {
        self.default_route.as_ref()
    }

    /// The route that serves requests for this name: its own, else that of the longest pattern that
    /// fits, under this name.
    pub fn serving_route(&self, name: &str) -> Option<Arc<Route>> {
        if let Some(route) = self.route(name) {
            return Some(Arc::clone(route));
        }
        let fits =
            |route: &&Arc<Route>| route.prefix().is_some_and(|prefix| name.starts_with(prefix));
        self.patterns.iter().find(fits).map(|route| Arc::new(route.called(name)))
    }

    /// The route of this number.
    pub fn route_by_number(&self, number: u64) -> Option<&Arc<Route>> {
        self.by_number.get(&number)
    }

    /// What the engines of this route serve beside it: each other name of theirs that this table
    /// has, with the route of that name. One may come more than once.
    pub fn beside<'a>(
        &'a self,
        route: &'a Route,
    ) -> impl Iterator<Item = (&'a Arc<Route>, &'a Arc<Target>)> {
        self.engines.beside(&self.routes, route)
    }

    /// The table after a publish, and the instances that it leaves out. Instances of the same id and
    /// address, and routes of the same name, keep their counters. Fails for a document that
    /// contradicts itself.
    pub fn replaced_by(&self, document: seam::Table) -> Result<(Self, LeftOut), TableError> {
        unique::check(&document)?;
        let version = self.version + 1;
        let known = self.known_instances();
        let queues = self.queues();
        let models: Vec<Arc<Model>> = document
            .models
            .into_iter()
            .map(|entry| build_model(entry, &known, &queues))
            .collect::<Result<_, _>>()?;
        let mut models_by_name = Map::default();
        for model in &models {
            models_by_name.entry(&*model.name).or_insert(model);
        }
        let mut routes = Vec::with_capacity(document.routes.len());
        for entry in document.routes {
            routes.push(Arc::new(self.build_route(entry, &models_by_name)?));
        }
        let by_name: Map<_, _> =
            routes.iter().map(|route| (Arc::clone(&route.name), Arc::clone(route))).collect();
        let default_route = match document.default_route {
            None => None,
            Some(name) => {
                let found = by_name.get(name.as_str()).map(Arc::clone);
                Some(found.ok_or(TableError::NoDefaultRoute { route: name })?)
            }
        };
        let by_number = routes
            .iter()
            .filter(|route| route.number > 0)
            .map(|route| (route.number, Arc::clone(route)))
            .collect();
        let mut patterns: Vec<_> =
            routes.iter().filter(|route| route.is_pattern()).map(Arc::clone).collect();
        patterns.sort_by_key(|route| std::cmp::Reverse(route.listed.len()));
        let any_public = routes.iter().any(|route| route.access == Access::Public);
        let table = Self {
            version,
            engines: Engines::new(&models, &routes),
            models,
            routes,
            metrics: document.metrics,
            by_name,
            by_number,
            patterns,
            default_route,
            any_public,
        };
        // Nothing fails from here on, so a document that was rejected has changed nothing.
        table.serving().for_each(|instance| instance.serve_again());
        let left_out = self.missing_from(&table);
        Ok((table, left_out))
    }

    fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.models.iter().flat_map(|model| &model.instances)
    }

    /// The instances that run.
    fn serving(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.models.iter().flat_map(|model| &model.running)
    }

    /// All instances by id and address. Of equal ones the first.
    fn known_instances(&self) -> KnownInstances<'_> {
        let mut known = Map::default();
        for instance in self.instances() {
            known.entry((&*instance.id, Cow::Borrowed(&instance.address))).or_insert(instance);
        }
        known
    }

    /// The wake queues of all models, by their names.
    fn queues(&self) -> Map<&str, &Arc<WakeQueue>> {
        self.models.iter().map(|model| (&*model.name, &model.queue)).collect()
    }

    /// Whether the wait for a model may be over under `next`: something of it runs there, an instance
    /// of it is gone, or it is not waited for as it is here.
    pub fn frees_waiting(&self, next: &Self) -> bool {
        let asleep = |model: &&Arc<Model>| model.is_asleep();
        let waits: Map<&str, &Arc<Model>> =
            next.models.iter().filter(asleep).map(|model| (&*model.name, model)).collect();
        let goes_on = |model: &Arc<Model>| {
            waits.get(&*model.name).is_some_and(|next| {
                let has = |old: &Arc<Instance>| next.instances.iter().any(|one| one.id == old.id);
                next.wake == model.wake && model.instances.iter().all(has)
            })
        };
        self.models.iter().filter(asleep).any(|model| !goes_on(model))
    }

    fn build_route(
        &self,
        entry: RouteEntry,
        models: &Map<&str, &Arc<Model>>,
    ) -> Result<Route, TableError> {
        let mut targets = Vec::with_capacity(entry.targets.len());
        for target in entry.targets {
            let model = models.get(&*target.model).ok_or_else(|| TableError::NoModel {
                route: entry.name.clone(),
                model: target.model.clone(),
            })?;
            targets.push(Arc::new(build_target(target, model, &entry.name)));
        }
        let access = match entry.access_policy {
            AccessPolicy::Public => Access::Public,
            AccessPolicy::Authed => Access::Authed,
            AccessPolicy::AllowedKeys => Access::Keys(entry.allowed_keys),
        };
        let metrics =
            self.route(&entry.name).map_or_else(Arc::default, |known| Arc::clone(&known.metrics));
        let name: Arc<str> = entry.name.as_str().into();
        Ok(Route {
            name_json: json_string(&name),
            listed: Arc::clone(&name),
            name,
            created: entry.created,
            number: entry.number,
            access,
            generic_proxy: entry.generic_proxy,
            categories: entry.categories,
            meta: entry.meta.map(Arc::new),
            metrics,
            targets,
        })
    }

    /// The instances that serve under this table and do not under `next`.
    fn missing_from(&self, next: &Self) -> LeftOut {
        let serves_on: HashSet<u64, foldhash::fast::RandomState> =
            next.serving().map(|instance| instance.serial).collect();
        let instances =
            self.serving().filter(|old| !serves_on.contains(&old.serial)).cloned().collect();
        LeftOut { instances, version: next.version }
    }
}

/// The instances that a new table leaves out.
#[must_use = "they serve until they are retired"]
#[derive(Debug)]
pub struct LeftOut {
    instances: Vec<Arc<Instance>>,
    /// The new table's.
    version: u64,
}

impl LeftOut {
    /// Retires them; returns those that are idle already. To be called when the new table is in
    /// force: a request that found a retired instance in the newest table would have no other.
    pub fn retire(self) -> Vec<Arc<Instance>> {
        let version = self.version;
        self.instances.into_iter().filter(|instance| instance.retire(version)).collect()
    }
}

fn build_model(
    entry: ModelEntry,
    known: &KnownInstances<'_>,
    queues: &Map<&str, &Arc<WakeQueue>>,
) -> Result<Arc<Model>, TableError> {
    let name: Arc<str> = entry.name.as_str().into();
    let mut instances = Vec::with_capacity(entry.instances.len());
    let mut running = Vec::new();
    let context_length = entry.instances.iter().filter_map(|one| one.context_length).min();
    for instance_entry in entry.instances {
        let address = Address::parse(&instance_entry.address);
        let known = address
            .and_then(|address| known.get(&(&*instance_entry.id, Cow::Owned(address))).copied());
        let instance = Instance::following(known, &instance_entry, &name)?;
        if instance_entry.state == InstanceState::Running {
            running.push(Arc::clone(&instance));
        }
        instances.push(instance);
    }
    let queue = queues.get(&*entry.name).map_or_else(Arc::default, |known| Arc::clone(known));
    Ok(Arc::new(Model {
        name,
        speaks_anthropic: entry.dialects.contains(&Dialect::Anthropic),
        speaks_tei: entry.dialects.contains(&Dialect::Tei),
        served_name: entry.served_name.into(),
        stream_usage: entry.stream_usage,
        system_messages: entry.system_messages,
        reasoning_names: entry.reasoning_names,
        redacted_names: entry.redacted_names,
        repair: entry.repair,
        response_headers: entry
            .response_headers
            .into_iter()
            .map(|name| name.to_ascii_lowercase())
            .collect(),
        timeouts: entry.timeouts,
        context_length,
        max_in_flight: entry.max_in_flight,
        wake: entry.wake,
        queue,
        proxy_paths: ProxyPaths::new(&entry.proxy_denied, entry.proxy_allowed.as_deref()),
        instances,
        running,
    }))
}

fn build_target(entry: TargetEntry, model: &Arc<Model>, route: &str) -> Target {
    let served_name = entry.served_name.map_or_else(|| Arc::clone(&model.served_name), Arc::from);
    let names = [&*served_name, &*model.served_name]
        .into_iter()
        .chain(model.redacted_names.iter().map(String::as_str));
    let mut redacted: Vec<_> = names
        .filter(|name| *name != route)
        .map(|name| (name.to_owned(), route.to_owned()))
        .collect();
    redacted.dedup();
    Target {
        redacted: redacted.into(),
        model: Arc::clone(model),
        served_json: json_string(&served_name),
        served_name,
        weight: entry.weight,
        fallback: entry.fallback,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Mutex, atomic::Ordering},
        time::Duration,
    };

    use super::*;
    use crate::{
        seam::{InstanceEntry, StatusClass},
        table::{Choice, Ejected, FallbackFor, IdleListener, Lease, NoLease},
        test_support,
    };

    #[derive(Debug, Default)]
    struct Idle(Mutex<Vec<(String, u64)>>);

    impl IdleListener for Idle {
        fn idle(&self, instance: &Instance, version: u64) {
            self.0.lock().unwrap().push((instance.id.to_string(), version));
        }
    }

    fn instance(id: &str, state: &str) -> serde_json::Value {
        let mut entry = test_support::instance(id, &format!("unix:/run/{id}.sock"));
        entry["state"] = state.into();
        entry
    }

    fn document(
        models: &[(&str, &[(&str, &str)])],
        routes: &[(&str, &[(&str, u32)])],
    ) -> seam::Table {
        let models = models.iter().map(|(name, instances)| {
            let instances = instances.iter().map(|(id, state)| instance(id, state)).collect();
            test_support::model(name, name, instances)
        });
        let routes = routes.iter().map(|(name, targets)| {
            let target = |(model, weight): &(&str, u32)| test_support::target(model, *weight);
            test_support::route(name, targets.iter().map(target).collect())
        });
        test_support::read(test_support::table(models.collect(), routes.collect()))
    }

    fn random() -> impl FnMut() -> u64 {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        }
    }

    const ANY: Choice<'static> = Choice { tried: &[], failed: None, now: 0 };

    #[test]
    fn the_least_loaded_of_two_is_taken_and_leases_come_back() {
        let idle: Arc<dyn IdleListener> = Arc::new(Idle::default());
        let (table, _) = Table::default()
            .replaced_by(document(
                &[("m", &[("a", "running"), ("b", "running")])],
                &[("r", &[("m", 1)])],
            ))
            .unwrap();
        let route = table.route("r").unwrap();
        let mut random = random();
        let leases: Vec<_> =
            (0..10).map(|_| route.lease(ANY, &mut random, &idle).unwrap().0).collect();
        let mut counts: Vec<_> = table.instances().map(|instance| instance.outstanding()).collect();
        assert_eq!(counts, [5, 5], "with two instances the choice is always between both");
        drop(leases);
        counts = table.instances().map(|instance| instance.outstanding()).collect();
        assert_eq!(counts, [0, 0]);
    }

    #[test]
    fn of_patterns_the_longest_that_fits_serves_a_name_that_no_route_has() {
        let routes = ["claude-haiku", "*", "claude-*", "claude-opus-*", "gpt-*", "a/*"];
        let mut models = vec![];
        for name in routes {
            let mut model = test_support::model(name, "engine-s", vec![instance(name, "running")]);
            model["redacted_names"] = serde_json::json!(["/files/engine-s", "claude-3"]);
            models.push(model);
        }
        let entries = routes
            .map(|name| test_support::route(name, vec![test_support::target(name, 1)]))
            .to_vec();
        let document = test_support::read(test_support::table(models, entries));
        let (table, _) = Table::default().replaced_by(document).unwrap();
        for (name, listed) in [
            ("claude-haiku", "claude-haiku"),
            ("claude-haiku-4-5", "claude-*"),
            ("claude-", "claude-*"),
            ("claude-3", "claude-*"),
            ("claude", "*"),
            ("claude-opus-4", "claude-opus-*"),
            ("claude-opus", "claude-*"),
            ("gpt-5", "gpt-*"),
            ("GPT-5", "*"),
            ("a/b", "a/*"),
            ("", "*"),
            ("\u{1F600}\"", "*"),
            ("claude-*", "claude-*"),
        ] {
            let route = table.serving_route(name).unwrap();
            assert_eq!((&*route.name, &*route.listed), (name, listed));
            assert_eq!(route.name_json, serde_json::to_string(name).unwrap());
            let configured = table.route(listed).unwrap();
            assert!(Arc::ptr_eq(&route.metrics, &configured.metrics), "{name} is counted there");
            assert_eq!(route.access, configured.access);
            let target = route.targets().next().unwrap();
            assert!(target.redacted.iter().all(|(from, to)| to == name && from != name), "{name}");
            assert_eq!(target.redacted.len(), if name == "claude-3" { 2 } else { 3 });
            assert_eq!(&*target.model.name, listed);
        }
        assert!(Arc::ptr_eq(&table.serving_route("gpt-*").unwrap(), table.route("gpt-*").unwrap()));
        let exact = document_of_one_route("m");
        let (table, _) = Table::default().replaced_by(exact).unwrap();
        assert!(table.serving_route("n").is_none());
    }

    fn document_of_one_route(name: &str) -> seam::Table {
        document(&[("m", &[("a", "running")])], &[(name, &[("m", 1)])])
    }

    #[test]
    fn a_context_is_as_long_as_the_shortest_of_those_that_may_serve() {
        let model = |name: &str, lengths: &[Option<u64>]| {
            let instances = lengths.iter().enumerate().map(|(number, length)| {
                let mut entry = instance(&format!("{name}-{number}"), "running");
                entry["context_length"] = (*length).into();
                entry
            });
            test_support::model(name, name, instances.collect())
        };
        let models = vec![
            model("short", &[None, Some(4096), Some(8192)]),
            model("long", &[Some(131_072)]),
            model("silent", &[None]),
        ];
        let mut standby = test_support::target("short", 0);
        let idle = standby.clone();
        standby["fallback"] = serde_json::json!(["5xx"]);
        let routes = [
            ("short", vec![test_support::target("short", 1)]),
            ("both", vec![test_support::target("long", 1), test_support::target("short", 1)]),
            ("safe", vec![test_support::target("long", 1), standby]),
            ("long", vec![test_support::target("long", 1), idle]),
            ("half", vec![test_support::target("long", 1), test_support::target("silent", 1)]),
            ("silent", vec![test_support::target("silent", 1)]),
        ];
        let routes = routes.into_iter().map(|(name, targets)| test_support::route(name, targets));
        let document = test_support::read(test_support::table(models, routes.collect()));
        let (table, _) = Table::default().replaced_by(document).unwrap();
        for (route, length) in [
            ("short", Some(4096)),
            ("both", Some(4096)),
            ("safe", Some(4096)),
            ("long", Some(131_072)),
            ("half", Some(131_072)),
            ("silent", None),
        ] {
            assert_eq!(table.route(route).unwrap().context_length(), length, "{route}");
        }
    }

    #[test]
    fn tried_and_ejected_instances_are_the_last_resort() {
        let idle: Arc<dyn IdleListener> = Arc::new(Idle::default());
        let (table, _) = Table::default()
            .replaced_by(document(
                &[("m", &[("a", "running"), ("b", "running"), ("c", "running")])],
                &[("r", &[("m", 1)])],
            ))
            .unwrap();
        let route = table.route("r").unwrap();
        let mut random = random();
        let ejected = table.instances().find(|instance| &*instance.id == "b").unwrap();
        assert_eq!(ejected.fail(10), Some(Ejected::Briefly));
        assert_eq!(ejected.fail(10), None, "it is reported once");
        for _ in 0..50 {
            let (lease, _) = route
                .lease(Choice { tried: &["a".into()], now: 10, ..ANY }, &mut random, &idle)
                .unwrap();
            assert_eq!(&*lease.instance().id, "c");
            let all: [Arc<str>; 3] = ["a".into(), "b".into(), "c".into()];
            assert!(
                route.lease(Choice { tried: &all, now: 10, ..ANY }, &mut random, &idle).is_ok()
            );
        }
    }

    /// The route `r` to two instances, and `a` of them, which is out since the time 0.
    fn one_of_two_is_out() -> (Table, Arc<Instance>) {
        let (table, _) = Table::default()
            .replaced_by(document(
                &[("m", &[("a", "running"), ("b", "running")])],
                &[("r", &[("m", 1)])],
            ))
            .unwrap();
        let out = Arc::clone(table.instances().find(|instance| &*instance.id == "a").unwrap());
        while !out.is_out() {
            out.fail(0);
        }
        (table, out)
    }

    #[test]
    fn an_instance_that_is_out_is_tried_by_one_request_behind_its_pause() {
        let idle: Arc<dyn IdleListener> = Arc::new(Idle::default());
        let (table, out) = one_of_two_is_out();
        let route = table.route("r").unwrap();
        let mut random = random();
        let mut chosen = |now| {
            let (lease, _) = route.lease(Choice { now, ..ANY }, &mut random, &idle).unwrap();
            lease.instance().id.to_string()
        };
        assert!((0..20).all(|_| chosen(9_999) == "b"));
        let trials = (0..20).filter(|_| chosen(10_000) == "a").count();
        assert_eq!(trials, 1, "the trial has not come to an end");
        out.succeed();
        assert!((0..20).any(|_| chosen(10_000) == "a"));
    }

    #[test]
    fn behind_a_trial_that_lasts_the_load_decides_about_the_next() {
        let idle: Arc<dyn IdleListener> = Arc::new(Idle::default());
        let (table, _) = one_of_two_is_out();
        let route = table.route("r").unwrap();
        let mut random = random();
        let mut lease = |now| route.lease(Choice { now, ..ANY }, &mut random, &idle).unwrap().0;
        // An answer of many minutes, which may come whole at its end.
        let trial = (0..20).map(|_| lease(10_000)).find(|one| &*one.instance().id == "a").unwrap();
        let at_b: Vec<_> = (0..2).map(|_| lease(19_999)).collect();
        assert!(at_b.iter().all(|one| &*one.instance().id == "b"));
        assert_eq!(&*lease(20_000).instance().id, "a", "it has the least to do");
        assert_eq!(&*lease(20_000).instance().id, "b", "one more has tried it");
        drop(at_b);
        assert!((0..20).all(|_| &*lease(30_000).instance().id == "b"), "it has nothing to do");
        drop(trial);
    }

    #[test]
    fn instances_that_all_fail_by_status_are_equal_and_those_that_are_dead_are_not() {
        let states = ["a", "b", "c", "dead"].map(|id| (id, "running"));
        let (table, _) = Table::default()
            .replaced_by(document(&[("m", &states), ("n", &[("d", "running")])], &[]))
            .unwrap();
        let model = &table.models[0];
        let [a, b, c, dead] = [0, 1, 2, 3].map(|number| &model.instances[number]);
        for _ in 0..9 {
            dead.fail(0);
        }
        for instance in [a, b] {
            for _ in 0..9 {
                model.fail_by_status(instance, 0);
            }
            assert!(instance.is_out() && instance.is_ejected(0));
        }
        assert_eq!(model.fail_by_status(c, 0), Some(Ejected::Still), "it is told of");
        assert_eq!([a, b, c, dead].map(|one| one.is_ejected(0)), [false, false, false, true]);
        assert_eq!([a, b, c, dead].map(|one| one.is_out()), [true, true, false, true]);
        assert!(a.admit(0) && a.is_ejected(0), "one request tries it");
        assert!(a.succeed() && !a.is_out());
        assert_eq!(model.fail_by_status(c, 0), None, "it was told of a moment ago");
        assert!(c.is_ejected(0), "another does better");
        let failures = [a, b, c].map(|one| one.counters.failures.load(Ordering::Relaxed));
        assert_eq!(failures, [9, 9, 2], "all are counted");
    }

    #[test]
    fn the_last_instance_of_a_model_is_never_out_of_the_choice() {
        let idle: Arc<dyn IdleListener> = Arc::new(Idle::default());
        let (table, _) = Table::default()
            .replaced_by(document(
                &[("m", &[("a", "running"), ("b", "running")]), ("n", &[("c", "running")])],
                &[("r", &[("m", 1)]), ("s", &[("n", 1)])],
            ))
            .unwrap();
        for instance in table.instances() {
            while !instance.is_out() {
                instance.fail(0);
            }
        }
        let mut random = random();
        for now in [0, 10_000, 20_000, 100_000] {
            for route in ["r", "s"] {
                let choice = Choice { now, ..ANY };
                assert!(table.route(route).unwrap().lease(choice, &mut random, &idle).is_ok());
            }
        }
    }

    /// A table of route `r` over these instances of model `m`, each of which is given two requests.
    fn limited(instances: &[(&str, &str)]) -> Table {
        let mut document = document(&[("m", instances)], &[("r", &[("m", 1)])]);
        document.models[0].max_in_flight = 2;
        Table::default().replaced_by(document).unwrap().0
    }

    #[test]
    fn a_full_instance_gets_nothing_more_and_the_next_one_does() {
        let idle: Arc<dyn IdleListener> = Arc::new(Idle::default());
        let table = limited(&[("a", "running"), ("b", "running"), ("c", "running")]);
        let route = table.route("r").unwrap();
        let mut random = random();
        let all: [Arc<str>; 2] = ["a".into(), "b".into()];
        let choice = Choice { tried: &all, ..ANY };
        let mut leases: Vec<_> =
            (0..6).map(|_| route.lease(choice, &mut random, &idle).unwrap().0).collect();
        let counts: Vec<_> = table.instances().map(|instance| instance.outstanding()).collect();
        assert_eq!(counts, [2, 2, 2], "also those that were tried, where there is no other");
        assert_eq!(route.lease(ANY, &mut random, &idle).unwrap_err(), NoLease::Full);
        assert_eq!(route.lease_instance("a", &idle).unwrap_err(), NoLease::Full);
        let freed = leases.pop().unwrap().instance().id.clone();
        let (lease, _) = route.lease(ANY, &mut random, &idle).unwrap();
        assert_eq!(lease.instance().id, freed);
        assert!(route.is_ready(), "it is busy, not down");
    }

    #[test]
    fn a_limit_holds_however_many_threads_ask_at_once() {
        let table = limited(&[("a", "running")]);
        let instance = table.instances().next().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let idle: Arc<dyn IdleListener> = Arc::new(Idle::default());
                    for _ in 0..2_000 {
                        let leases: Vec<_> =
                            (0..3).map(|_| Lease::take(instance, 2, &idle)).collect();
                        assert!(leases.iter().filter(|lease| lease.is_ok()).count() <= 2);
                    }
                });
            }
        });
        assert_eq!(instance.outstanding(), 0, "what was too much was taken back");
    }

    #[test]
    fn a_fallback_for_4xx_is_none_where_the_others_are_only_full() {
        let idle: Arc<dyn IdleListener> = Arc::new(Idle::default());
        let mut document = document(
            &[("m", &[("a", "running")]), ("n", &[("b", "running")])],
            &[("r", &[("m", 1), ("n", 0)])],
        );
        document.models[0].max_in_flight = 1;
        document.routes[0].targets[1].fallback = vec![StatusClass::ClientError];
        let (table, _) = Table::default().replaced_by(document).unwrap();
        let route = table.route("r").unwrap();
        let mut random = random();
        let _held = route.lease(ANY, &mut random, &idle).unwrap();
        assert_eq!(route.lease(ANY, &mut random, &idle).unwrap_err(), NoLease::Full);
    }

    #[test]
    fn weights_share_requests_among_the_targets_that_run() {
        let idle: Arc<dyn IdleListener> = Arc::new(Idle::default());
        let models: &[(&str, &[(&str, &str)])] =
            &[("m", &[("a", "running")]), ("n", &[("b", "running")]), ("o", &[("c", "starting")])];
        let (table, _) = Table::default()
            .replaced_by(document(models, &[("r", &[("m", 3), ("n", 1), ("o", 100)])]))
            .unwrap();
        let mut random = random();
        let mut count = 0;
        for _ in 0..4000 {
            let (lease, _) = table.route("r").unwrap().lease(ANY, &mut random, &idle).unwrap();
            count += usize::from(&*lease.instance().id == "a");
        }
        assert!((2800..3200).contains(&count), "{count} of 4000");
    }

    #[test]
    fn a_fallback_is_chosen_for_its_statuses_and_when_nothing_else_runs() {
        let idle: Arc<dyn IdleListener> = Arc::new(Idle::default());
        let route = |main: &str| {
            let mut document = document(
                &[("m", &[("a", main)]), ("n", &[("b", "running")])],
                &[("r", &[("m", 1), ("n", 0)])],
            );
            document.routes[0].targets[1].fallback = vec![StatusClass::ServerError];
            Table::default().replaced_by(document).unwrap().0
        };
        let mut random = random();
        let mut chosen = |table: &Table, failed| {
            let leased =
                table.route("r").unwrap().lease(Choice { failed, ..ANY }, &mut random, &idle);
            leased.ok().map(|(lease, _)| lease.instance().id.to_string())
        };
        let both = route("running");
        let status = |status| FallbackFor { status, target: None };
        let has_fallback =
            |failed, tried: &[Arc<str>]| both.route("r").unwrap().has_fallback(failed, tried);
        assert!(has_fallback(status(503), &[]) && !has_fallback(status(429), &[]));
        assert!(!has_fallback(status(503), &["b".into()]), "all of it was tried");
        let itself = both.route("r").unwrap().targets().last().map(|target| &**target);
        assert!(
            !has_fallback(FallbackFor { status: 503, target: itself }, &[]),
            "a target is no fallback for itself"
        );
        for _ in 0..20 {
            assert_eq!(chosen(&both, None).as_deref(), Some("a"));
        }
        assert_eq!(chosen(&both, Some(status(502))).as_deref(), Some("b"));
        assert_eq!(chosen(&both, Some(status(404))), None);
        let down = route("error");
        assert!(down.route("r").unwrap().is_ready());
        assert_eq!(chosen(&down, None).as_deref(), Some("b"));
    }

    #[test]
    fn a_retired_instance_gets_nothing_new_and_is_reported_idle_once() {
        let listener = Arc::new(Idle::default());
        let idle: Arc<dyn IdleListener> = listener.clone();
        let (one, _) = Table::default()
            .replaced_by(document(&[("m", &[("a", "running")])], &[("r", &[("m", 1)])]))
            .unwrap();
        let mut random = random();
        let (lease, _) = one.route("r").unwrap().lease(ANY, &mut random, &idle).unwrap();
        let (two, left_out) =
            one.replaced_by(document(&[("m", &[("a", "error")])], &[("r", &[("m", 1)])])).unwrap();
        let unhurt = one.route("r").unwrap().lease(ANY, &mut random, &idle);
        assert!(unhurt.is_ok(), "the old table is the newest until the new one is in force");
        drop(unhurt);
        assert!(left_out.retire().is_empty(), "a request is still on it");
        assert!(
            one.route("r").unwrap().lease(ANY, &mut random, &idle).is_err(),
            "not even by the old table"
        );
        assert!(!two.route("r").unwrap().is_ready());
        listener.0.lock().unwrap().clear();
        drop(lease);
        assert_eq!(*listener.0.lock().unwrap(), [("a".to_owned(), 2)]);
        let (three, left_out) = two
            .replaced_by(document(&[("m", &[("a", "running")])], &[("r", &[("m", 1)])]))
            .unwrap();
        assert!(left_out.retire().is_empty());
        assert!(
            three.route("r").unwrap().lease(ANY, &mut random, &idle).is_ok(),
            "it may come back to service"
        );
        let (_, left_out) = three.replaced_by(document(&[], &[])).unwrap();
        assert_eq!(left_out.retire().len(), 1);
    }

    #[test]
    fn an_instance_that_goes_on_failing_is_told_of_again() {
        let (table, _) = Table::default()
            .replaced_by(document(&[("m", &[("a", "running")])], &[("r", &[("m", 1)])]))
            .unwrap();
        let instance = table.instances().next().unwrap();
        // A failure every half second: the first, the one that puts it out, and one now and then.
        let failures = (0..100).map(|number| number * 500);
        let told: Vec<u64> = failures.filter(|now| instance.fail(*now).is_some()).collect();
        assert_eq!(told, [0, 2_000, 12_000, 22_000, 32_000, 42_000]);
        assert_eq!(instance.counters.failures.load(Ordering::Relaxed), 100);
    }

    #[test]
    fn an_instance_that_is_out_and_back_all_the_time_is_told_of_now_and_then() {
        let (table, _) = Table::default()
            .replaced_by(document(&[("m", &[("a", "running")])], &[("r", &[("m", 1)])]))
            .unwrap();
        let instance = table.instances().next().unwrap();
        // A request every 10 ms for half a minute, of which the sixth of each six succeeds.
        let (mut out, mut brief, mut back) = (0, 0, 0);
        for number in 0..3_000 {
            if number % 6 == 5 {
                back += u32::from(instance.succeed());
                continue;
            }
            match instance.fail(number * 10) {
                Some(Ejected::Out { .. }) => out += 1,
                Some(_) => brief += 1,
                None => {}
            }
        }
        assert_eq!((out, back), (3, 3));
        assert!(brief <= 30, "one a second at most, not {brief}");
    }

    #[test]
    fn a_changed_setting_takes_effect_and_the_counters_go_on() {
        let idle: Arc<dyn IdleListener> = Arc::new(Idle::default());
        let published = |before: &Table, change: &dyn Fn(&mut InstanceEntry)| {
            let mut document = document(&[("m", &[("a", "running")])], &[("r", &[("m", 1)])]);
            change(&mut document.models[0].instances[0]);
            before.replaced_by(document).unwrap().0
        };
        let one = published(&Table::default(), &|_| {});
        let (lease, _) = one.route("r").unwrap().lease(ANY, &mut random(), &idle).unwrap();
        lease.instance().fail(0);
        let same = published(&one, &|_| {});
        assert!(Arc::ptr_eq(lease.instance(), same.instances().next().unwrap()));
        let changes: [&dyn Fn(&mut InstanceEntry); 5] = [
            &|entry| entry.api_key = Some("new".to_owned()),
            &|entry| entry.idle_timeout = Duration::from_secs(77),
            &|entry| entry.requests_per_connection = 77,
            &|entry| entry.closes_after_stream = true,
            &|entry| entry.cancel_lag = Duration::from_secs(77),
        ];
        for change in changes {
            let table = published(&same, change);
            let instance = table.instances().next().unwrap();
            let seen = [
                instance.authorization.as_deref() == Some("Bearer new"),
                instance.idle_timeout == Duration::from_secs(77),
                instance.requests_per_connection == 77,
                instance.closes_after_stream,
                instance.cancel_lag == Duration::from_secs(77),
            ];
            assert_eq!(seen.into_iter().filter(|seen| *seen).count(), 1);
            assert_eq!(instance.serial, lease.instance().serial);
            let counters = &instance.counters;
            assert_eq!((instance.outstanding(), counters.failures.load(Ordering::Relaxed)), (1, 1));
            assert!(instance.is_ejected(999) && instance.retired().is_none());
        }
        let elsewhere = published(&same, &|entry| entry.address = "unix:/run/b.sock".to_owned());
        assert_eq!(elsewhere.instances().next().unwrap().outstanding(), 0, "it is another engine");
    }

    #[test]
    fn an_instance_that_comes_back_goes_on_counting() {
        let listener = Arc::new(Idle::default());
        let idle: Arc<dyn IdleListener> = listener.clone();
        let publish = |before: &Table, state| {
            let document = document(&[("m", &[("a", state)])], &[("r", &[("m", 1)])]);
            let (table, left_out) = before.replaced_by(document).unwrap();
            left_out.retire();
            table
        };
        let one = publish(&Table::default(), "running");
        let (lease, _) = one.route("r").unwrap().lease(ANY, &mut random(), &idle).unwrap();
        let away = publish(&one, "unreachable");
        let back = publish(&away, "running");
        let instance = back.instances().next().unwrap();
        assert_eq!(instance.outstanding(), 1, "a request from before still runs there");
        assert_eq!(instance.counters.requests.load(Ordering::Relaxed), 1);
        drop(lease);
        assert_eq!(instance.outstanding(), 0);
        assert!(listener.0.lock().unwrap().is_empty(), "it is in service, so nobody waits for it");
        assert!(back.route("r").unwrap().lease(ANY, &mut random(), &idle).is_ok());
    }

    #[test]
    fn a_rejected_document_brings_nothing_back_into_service() {
        let (one, _) = Table::default()
            .replaced_by(document(&[("m", &[("a", "running")])], &[("r", &[("m", 1)])]))
            .unwrap();
        let (away, left_out) = one.replaced_by(document(&[("m", &[("a", "error")])], &[])).unwrap();
        left_out.retire();
        let wrong = document(&[("m", &[("a", "running")])], &[("r", &[("n", 1)])]);
        assert!(away.replaced_by(wrong).is_err());
        assert_eq!(away.instances().next().unwrap().retired(), Some(2));
    }

    /// With a search among all instances for each of them this takes a minute and more.
    #[test]
    fn fifty_thousand_instances_are_published_again_and_again() {
        let models: Vec<String> = (0..5_000).map(|number| format!("m{number}")).collect();
        let publish = |before: &Table, state: &'static str| {
            let ids: Vec<String> = (0..50_000).map(|number| format!("i{number}")).collect();
            let entries: Vec<Vec<(&str, &str)>> = ids
                .chunks(10)
                .map(|ids| ids.iter().map(|id| (id.as_str(), state)).collect())
                .collect();
            let named: Vec<_> =
                models.iter().zip(&entries).map(|(name, ids)| (name.as_str(), &ids[..])).collect();
            let targets: Vec<_> = models.iter().map(|name| [(name.as_str(), 1)]).collect();
            let routes: Vec<_> = models
                .iter()
                .zip(&targets)
                .map(|(name, targets)| (name.as_str(), &targets[..]))
                .collect();
            before.replaced_by(document(&named, &routes)).unwrap()
        };
        let (one, _) = publish(&Table::default(), "running");
        let (same, left_out) = publish(&one, "running");
        assert!(left_out.retire().is_empty());
        assert!(one.instances().zip(same.instances()).all(|(old, new)| Arc::ptr_eq(old, new)));
        let (_, left_out) = publish(&same, "error");
        assert_eq!(left_out.retire().len(), 50_000);
    }

    #[test]
    fn a_document_that_contradicts_itself_is_rejected() {
        assert!(
            Table::default()
                .replaced_by(document(&[], &[("r", &[("m", 1)])]))
                .unwrap_err()
                .to_string()
                .contains("no model m")
        );
    }
}
