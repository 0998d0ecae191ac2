//! Routes, their targets and models, and the choice of an instance.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    seam::StatusClass,
    table::{
        instance::{IdleListener, Instance, Lease},
        metrics::RouteMetrics,
        proxy_paths::ProxyPaths,
    },
};

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
    /// Further names of its engines for it, which no client may see.
    pub redacted_names: Vec<String>,
    /// The paths that the generic proxy may reach.
    pub proxy_paths: ProxyPaths,
    /// All its instances, in every state.
    pub instances: Vec<Arc<Instance>>,
    /// Those of them that run.
    pub(super) running: Vec<Arc<Instance>>,
}

/// A route's link to a model.
#[derive(Debug)]
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
    fn is_running(&self) -> bool {
        !self.model.running.is_empty()
    }

    /// Whether an instance of it runs that was not tried.
    fn has_untried(&self, tried: &[Arc<str>]) -> bool {
        self.model.running.iter().any(|instance| !tried.contains(&instance.id))
    }

    /// Whether it is the fallback for this failure.
    fn falls_back_for(&self, failed: FallbackFor<'_>) -> bool {
        self.fallback.iter().any(|class| class.contains(failed.status))
            && failed.target.is_none_or(|target| !self.is_same(target))
    }

    /// Whether it is this target, perhaps of another table.
    fn is_same(&self, other: &Self) -> bool {
        self.model.name == other.model.name && self.served_name == other.served_name
    }
}

/// The clients that may use a route.
#[derive(Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody, without a key too.
    Public,
    /// Every key.
    Authed,
    /// Keys of these names or ids.
    Keys(Vec<String>),
}

/// A public name, with its targets and its access.
#[derive(Debug)]
pub struct Route {
    /// `model` in clients' requests.
    pub name: Arc<str>,
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
    pub meta: Option<serde_json::Value>,
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
    /// Whether an instance of it runs, so that requests can be served.
    pub fn is_ready(&self) -> bool {
        self.targets
            .iter()
            .any(|target| (target.weight > 0 || !target.fallback.is_empty()) && target.is_running())
    }

    /// Its links to models.
    pub fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.targets.iter()
    }

    /// Whether a target's engines know the model by another name than clients.
    pub fn renames(&self, target: &Target) -> bool {
        self.name != target.served_name
    }

    /// Whether a fallback for this failure runs, with an instance that was not tried.
    pub fn has_fallback(&self, failed: FallbackFor<'_>, tried: &[Arc<str>]) -> bool {
        self.targets.iter().any(|target| target.falls_back_for(failed) && target.has_untried(tried))
    }

    /// Chooses an instance and takes a slot on it; None: none runs.
    ///
    /// The target is chosen by weight among those that run. Without one, it is the first fallback
    /// that runs. Of its instances the one with fewer requests of two random ones is taken (the
    /// power of two choices). Instances that were tried, and ejected ones, are taken only when
    /// there are no others.
    pub fn lease(
        &self,
        choice: Choice<'_>,
        random: &mut impl FnMut() -> u64,
        idle: &Arc<dyn IdleListener>,
    ) -> Option<(Lease, Arc<Target>)> {
        // Another round only when the chosen instance was retired between the choice and the lease,
        // or another request has begun its trial.
        for _ in 0..8 {
            let target = self.choose_target(choice, random)?;
            let instance =
                choose_instance(&target.model.running, choice.tried, choice.now, random)?;
            if instance.admit(choice.now)
                && let Some(lease) = Lease::take(instance, idle)
            {
                return Some((lease, Arc::clone(target)));
            }
        }
        None
    }

    /// Takes a slot on the instance of this id; None: it does not run, or no target leads to it.
    pub fn lease_instance(
        &self,
        id: &str,
        idle: &Arc<dyn IdleListener>,
    ) -> Option<(Lease, Arc<Target>)> {
        self.targets.iter().find_map(|target| {
            let instance = target.model.running.iter().find(|instance| *instance.id == *id)?;
            Some((Lease::take(instance, idle)?, Arc::clone(target)))
        })
    }

    /// A target by weight, or a fallback; None: none runs.
    fn choose_target(
        &self,
        choice: Choice<'_>,
        random: &mut impl FnMut() -> u64,
    ) -> Option<&Arc<Target>> {
        let fresh = |target: &Target| target.has_untried(choice.tried);
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
        let usable = |target: &Target| if any_fresh { fresh(target) } else { target.is_running() };
        let total: u64 = self
            .targets
            .iter()
            .filter(|target| usable(target))
            .map(|target| u64::from(target.weight))
            .sum();
        let Some(mut point) = random().checked_rem(total) else {
            return self
                .targets
                .iter()
                .find(|target| !target.fallback.is_empty() && target.is_running());
        };
        self.targets.iter().filter(|target| usable(target)).find(|target| {
            let weight = u64::from(target.weight);
            let here = point < weight;
            point = point.wrapping_sub(weight);
            here
        })
    }
}

/// The better of two random instances, or the best of all if that was tried or is ejected.
fn choose_instance<'a>(
    running: &'a [Arc<Instance>],
    tried: &[Arc<str>],
    now: u64,
    random: &mut impl FnMut() -> u64,
) -> Option<&'a Arc<Instance>> {
    let cost = |instance: &Instance| {
        (tried.contains(&instance.id), instance.is_ejected(now), instance.outstanding())
    };
    match running {
        [] => None,
        [one] => Some(one),
        many => {
            let count = many.len() as u64;
            let draw = random();
            let first = (draw % count) as usize;
            let second = (first + 1 + ((draw >> 32) % (count - 1)) as usize) % many.len();
            let (first, second) = (&many[first], &many[second]);
            let better = if cost(second) < cost(first) { second } else { first };
            let (was_tried, ejected, _) = cost(better);
            if was_tried || ejected {
                many.iter().min_by_key(|instance| cost(instance))
            } else {
                Some(better)
            }
        }
    }
}
