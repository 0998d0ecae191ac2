//! Routes, their targets and models, and the choice of an instance.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    seam::{ModelTimeouts, ReasoningNames, Repair, StatusClass, SystemMessages, Wake},
    table::{
        instance::{IdleListener, Instance, Lease, NoLease},
        metrics::RouteMetrics,
        outlier::Ejected,
        proxy_paths::ProxyPaths,
        wake_queue::WakeQueue,
    },
};

/// The end of a route's name that stands for any other.
const WILDCARD: char = '*';

/// A deployment.
#[derive(Debug)]
pub struct Model {
    /// Its name.
    pub name: Arc<str>,
    /// The name that its engines know it by.
    pub served_name: Arc<str>,
    /// Whether its engines speak Anthropic's Messages by themselves.
    pub speaks_anthropic: bool,
    /// Whether its engines rerank as text-embeddings-inference does.
    pub speaks_tei: bool,
    /// Whether its engines know `stream_options.include_usage`.
    pub stream_usage: bool,
    /// The system messages that a translated request may have.
    pub system_messages: SystemMessages,
    /// The names under which its engines take what an assistant thought.
    pub reasoning_names: ReasoningNames,
    /// Further names of its engines for it, which no client may see.
    pub redacted_names: Vec<String>,
    /// Fields of its engines' responses that reach clients, beside those that all do. In lower
    /// case.
    pub response_headers: Vec<String>,
    /// What is repaired in conversations that its engines take natively.
    pub repair: Vec<Repair>,
    /// The paths that the generic proxy may reach.
    pub proxy_paths: ProxyPaths,
    /// Limits of requests to its engines, in place of the server's.
    pub timeouts: ModelTimeouts,
    /// The tokens of its context, the least of what its engines have told; None: none has.
    pub context_length: Option<u64>,
    /// Requests that each of its instances is given at the same time; 0: no limit.
    pub(super) max_in_flight: u32,
    /// While nothing of it runs, requests wait for it so; None: they do not.
    pub wake: Option<Wake>,
    /// Those that wait, which survive a publish that has it again.
    pub queue: Arc<WakeQueue>,
    /// All its instances, in every state.
    pub instances: Vec<Arc<Instance>>,
    /// Those of them that run.
    pub(super) running: Vec<Arc<Instance>>,
}

impl Model {
    /// Whether this instance of it has as many requests as it is given.
    fn is_full(&self, instance: &Instance) -> bool {
        self.max_in_flight > 0 && instance.outstanding() >= self.max_in_flight
    }

    /// Counts a response of this instance of it whose status is a failure, and ejects the instance
    /// where another is not ejected. Where all others are, all fail alike, most likely for what the
    /// requests are: then those that have responded are equal again. None: nobody need be told.
    pub fn fail_by_status(&self, instance: &Instance, now: u64) -> Option<Ejected> {
        let does_better = |other: &Arc<Instance>| {
            !Arc::ptr_eq(&other.counters, &instance.counters) && !other.is_ejected(now)
        };
        if self.running.iter().any(does_better) {
            return instance.fail_by_status(now);
        }
        self.running.iter().for_each(|other| other.forgive());
        instance.fail_like_others(now)
    }

    /// Whether an instance of it runs and can be given a request.
    pub(super) fn has_room(&self) -> bool {
        self.running.iter().any(|instance| !self.is_full(instance))
    }

    /// Whether such an instance of it was not tried.
    pub(super) fn has_untried_room(&self, tried: &[Arc<str>]) -> bool {
        self.running.iter().any(|instance| !tried.contains(&instance.id) && !self.is_full(instance))
    }
}

/// A route's link to a model.
#[derive(Clone, Debug)]
pub struct Target {
    /// Requests go to its instances.
    pub model: Arc<Model>,
    /// The name that the engines know the model by, through this target.
    pub served_name: Arc<str>,
    /// `served_name` as a JSON string.
    pub served_json: Bytes,
    /// Each name of the engines' that no client may see, with the name in its place.
    pub redacted: Arc<[(String, String)]>,
    /// Its share of requests; 0: it is a fallback only.
    pub(super) weight: u32,
    /// The statuses of other targets for which it is the fallback.
    pub(super) fallback: Vec<StatusClass>,
}

impl Target {
    /// Whether an instance of it runs.
    pub(super) fn is_running(&self) -> bool {
        !self.model.running.is_empty()
    }

    /// Whether it is the fallback for this failure.
    fn falls_back_for(&self, failed: FallbackFor<'_>) -> bool {
        self.fallback.iter().any(|class| class.contains(failed.status))
            && failed.target.is_none_or(|target| !self.is_same(target))
    }

    /// The same link of a route with another public name.
    fn called(&self, public: &str) -> Self {
        let names = self.redacted.iter().map(|(name, _)| name);
        let redacted = names
            .filter(|name| *name != public)
            .map(|name| (name.clone(), public.to_owned()))
            .collect();
        Self { redacted, ..self.clone() }
    }

    /// Whether it is this target, perhaps of another table.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.model.name == other.model.name && self.served_name == other.served_name
    }
}

/// The clients that may use a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody, without a key too.
    Public,
    /// Every key.
    Authed,
    /// Keys of these names or ids.
    Keys(Vec<String>),
}

/// A public name, with its targets and its access.
#[derive(Clone, Debug)]
pub struct Route {
    /// `model` in clients' requests, and in the responses to them.
    pub name: Arc<str>,
    /// The name that it is configured under: access goes by it, and requests are counted by it. It
    /// differs from `name` where it is a pattern, and a client has asked for one of its names.
    pub listed: Arc<str>,
    /// `name` as a JSON string.
    pub name_json: Bytes,
    /// The time of its creation, in Unix seconds.
    pub created: u64,
    /// Its number in paths of the generic proxy; 0: none.
    pub number: u64,
    /// The clients that may use it.
    pub access: Access,
    /// Whether the generic proxy leads to it.
    pub generic_proxy: bool,
    /// Its purposes, by GPUStack's words.
    pub categories: Vec<String>,
    /// Its operator's description of it; None: none.
    pub meta: Option<Arc<serde_json::Value>>,
    /// Its counters, which survive a publish that has it again.
    pub metrics: Arc<RouteMetrics>,
    pub(super) targets: Vec<Arc<Target>>,
}

/// The failure for which a fallback is chosen.
#[derive(Clone, Copy, Debug)]
pub struct FallbackFor<'a> {
    /// The status that it comes to.
    pub status: u16,
    /// The target that failed, which is no fallback for itself; None: no target was there.
    pub target: Option<&'a Target>,
}

/// The grounds of a choice among instances.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// Ids of the instances that were tried: taken again only when there are no others.
    pub tried: &'a [Arc<str>],
    /// The failure for which a fallback is chosen; None: a target is chosen by weight.
    pub failed: Option<FallbackFor<'a>>,
    /// The present, in milliseconds of the data plane's clock.
    pub now: u64,
}

impl Route {
    /// Whether an instance of it runs, or requests wait until one does, so that they can be served.
    pub fn is_ready(&self) -> bool {
        self.targets.iter().any(|target| {
            let may_be_woken = target.weight > 0 && target.model.is_asleep();
            (target.weight > 0 || !target.fallback.is_empty()) && target.is_running()
                || may_be_woken
        })
    }

    /// The tokens of a context that every target which may get its requests has, as far as they are
    /// known; None: none is.
    pub fn context_length(&self) -> Option<u64> {
        let serving = |target: &&Arc<Target>| target.weight > 0 || !target.fallback.is_empty();
        self.targets.iter().filter(serving).filter_map(|target| target.model.context_length).min()
    }

    /// Its links to models.
    pub fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.targets.iter()
    }

    /// Whether it serves every name that begins as it says.
    pub fn is_pattern(&self) -> bool {
        self.prefix().is_some()
    }

    /// What the names begin with that it serves; None: it is no pattern.
    pub(super) fn prefix(&self) -> Option<&str> {
        self.listed.strip_suffix(WILDCARD)
    }

    /// A pattern as the route of one of its names.
    pub(super) fn called(&self, name: &str) -> Self {
        let targets = self.targets.iter().map(|target| Arc::new(target.called(name)));
        Self {
            name: name.into(),
            name_json: json_string(name),
            targets: targets.collect(),
            ..self.clone()
        }
    }

    /// Whether a target's engines know the model by another name than clients.
    pub fn renames(&self, target: &Target) -> bool {
        self.name != target.served_name
    }

    /// Whether a fallback for this failure runs, with an instance that was not tried and is not
    /// full.
    pub fn has_fallback(&self, failed: FallbackFor<'_>, tried: &[Arc<str>]) -> bool {
        self.targets
            .iter()
            .any(|target| target.falls_back_for(failed) && target.model.has_untried_room(tried))
    }

    /// Chooses an instance and takes a slot on it. Fails where none runs, or all that run are full.
    ///
    /// The target is chosen by weight among those that run and are not full. Where none runs, it is
    /// the first fallback that does. Of its instances the one with fewer requests of two random ones is taken (the
    /// power of two choices). Instances that were tried, and ejected ones, are taken only when
    /// there are no others.
    pub fn lease(
        &self,
        choice: Choice<'_>,
        random: &mut impl FnMut() -> u64,
        idle: &Arc<dyn IdleListener>,
    ) -> Result<(Lease, Arc<Target>), NoLease> {
        // Another round only when the chosen instance was retired or filled between the choice and the
        // lease, or another request has begun its trial.
        for _ in 0..8 {
            let Some(target) = self.choose_target(choice, random) else { break };
            let Some(instance) = choose_instance(&target.model, choice, random) else { break };
            if instance.admit(choice.now)
                && let Ok(lease) = Lease::take(instance, target.model.max_in_flight, idle)
            {
                return Ok((lease, Arc::clone(target)));
            }
        }
        let may_serve = |target: &&Arc<Target>| {
            choice.failed.is_none_or(|failed| target.falls_back_for(failed))
        };
        let full = |target: &Arc<Target>| target.is_running() && !target.model.has_room();
        let any_full = self.targets.iter().filter(may_serve).any(full);
        Err(if any_full { NoLease::Full } else { NoLease::NotRunning })
    }

    /// Takes a slot on the instance of this id. Fails with `NotRunning` where no target leads to
    /// it, too.
    pub fn lease_instance(
        &self,
        id: &str,
        idle: &Arc<dyn IdleListener>,
    ) -> Result<(Lease, Arc<Target>), NoLease> {
        let found = self.targets.iter().find_map(|target| {
            let instance = target.model.running.iter().find(|instance| *instance.id == *id)?;
            Some((target, instance))
        });
        let (target, instance) = found.ok_or(NoLease::NotRunning)?;
        let lease = Lease::take(instance, target.model.max_in_flight, idle)?;
        Ok((lease, Arc::clone(target)))
    }

    /// A target by weight, or a fallback; None: none runs, or none that is not full.
    fn choose_target(
        &self,
        choice: Choice<'_>,
        random: &mut impl FnMut() -> u64,
    ) -> Option<&Arc<Target>> {
        let fresh = |target: &Target| target.model.has_untried_room(choice.tried);
        if let Some(failed) = choice.failed {
            let for_it = |target: &&Arc<Target>| target.falls_back_for(failed);
            return self.targets.iter().filter(for_it).find(|target| fresh(target));
        }
        if let [target] = self.targets.as_slice()
            && target.weight > 0
        {
            return Some(target);
        }
        let any_fresh = self.targets.iter().any(|target| target.weight > 0 && fresh(target));
        let usable =
            |target: &Target| if any_fresh { fresh(target) } else { target.model.has_room() };
        by_weight(&self.targets, usable, random).or_else(|| {
            // Where those with a weight are only full, a fallback has to be one for a 503.
            let is_full = |target: &Arc<Target>| target.weight > 0 && target.is_running();
            let stands_in =
                |target: &&Arc<Target>| !target.fallback.is_empty() && target.model.has_room();
            let any_full = self.targets.iter().any(is_full);
            self.targets.iter().filter(|_| !any_full).find(stands_in)
        })
    }
}

/// A text as a JSON string.
pub(super) fn json_string(text: &str) -> Bytes {
    serde_json::Value::from(text).to_string().into()
}

/// One of the targets that are usable, by weight; None: none with a weight is.
pub(super) fn by_weight<'a>(
    targets: &'a [Arc<Target>],
    usable: impl Fn(&Target) -> bool,
    random: &mut impl FnMut() -> u64,
) -> Option<&'a Arc<Target>> {
    let usable = || targets.iter().filter(|target| usable(target));
    let total: u64 = usable().map(|target| u64::from(target.weight)).sum();
    let mut point = random().checked_rem(total)?;
    usable().find(|target| {
        let weight = u64::from(target.weight);
        let here = point < weight;
        point = point.wrapping_sub(weight);
        here
    })
}

/// A slot on an instance of this target; None: none runs, or all are full.
pub(super) fn lease_on(
    target: &Target,
    choice: Choice<'_>,
    random: &mut impl FnMut() -> u64,
    idle: &Arc<dyn IdleListener>,
) -> Option<Lease> {
    (0..8).find_map(|_| {
        let instance = choose_instance(&target.model, choice, random)?;
        instance
            .admit(choice.now)
            .then(|| Lease::take(instance, target.model.max_in_flight, idle).ok())?
    })
}

/// The better of two random instances, or the best of all if that was tried, is ejected or full;
/// None: all are full.
fn choose_instance<'a>(
    model: &'a Model,
    choice: Choice<'_>,
    random: &mut impl FnMut() -> u64,
) -> Option<&'a Arc<Instance>> {
    let cost = |instance: &Instance| {
        let was_tried = choice.tried.contains(&instance.id);
        let (ejected, load) = (instance.is_ejected(choice.now), instance.outstanding());
        (model.is_full(instance), was_tried, ejected, load)
    };
    match model.running.as_slice() {
        [] => None,
        [one] => (!model.is_full(one)).then_some(one),
        many => {
            let count = many.len() as u64;
            let draw = random();
            let first = (draw % count) as usize;
            let second = (first + 1 + ((draw >> 32) % (count - 1)) as usize) % many.len();
            let (first, second) = (&many[first], &many[second]);
            let better = if cost(second) < cost(first) { second } else { first };
            let (is_full, was_tried, ejected, _) = cost(better);
            if is_full || was_tried || ejected {
                let best = many.iter().min_by_key(|instance| cost(instance));
                best.filter(|instance| !model.is_full(instance))
            } else {
                Some(better)
            }
        }
    }
}
