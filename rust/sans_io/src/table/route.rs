//! Public names and where they lead: models, targets, and the choice of an instance.

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
    /// Its engines' name for it.
    pub served_name: Arc<str>,
    /// Whether its engines speak Anthropic's Messages by themselves.
    pub speaks_anthropic: bool,
    /// Whether its engines rerank as text-embeddings-inference does.
    pub speaks_tei: bool,
    /// Whether its engines know `stream_options.include_usage`.
    pub stream_usage: bool,
    /// Further names that its engines call it by, and that no client may see.
    pub redacted_names: Vec<String>,
    /// The paths that the generic proxy may reach.
    pub proxy_paths: ProxyPaths,
    /// All its instances, in every state.
    pub instances: Vec<Arc<Instance>>,
    /// Those that run.
    pub(super) running: Vec<Arc<Instance>>,
}

/// A route's link to a model.
#[derive(Debug)]
pub struct Target {
    /// Requests go to its instances.
    pub model: Arc<Model>,
    /// The name that its engines know it by.
    pub served_name: Arc<str>,
    /// `served_name` as a JSON string.
    pub served_json: Bytes,
    /// Each name of the engines' that no client may see, with what it sees instead.
    pub redacted: Arc<[(String, String)]>,
    pub(super) weight: u32,
    /// The statuses of other targets' responses upon which it is tried.
    pub(super) fallback: Vec<StatusClass>,
}

impl Target {
    fn is_running(&self) -> bool {
        !self.model.running.is_empty()
    }

    fn falls_back_for(&self, status: u16) -> bool {
        self.fallback.iter().any(|class| class.contains(status))
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

/// A public name.
#[derive(Debug)]
pub struct Route {
    /// `model` in clients' requests.
    pub name: Arc<str>,
    /// `name` as a JSON string.
    pub name_json: Bytes,
    /// Unix seconds.
    pub created: u64,
    /// Its number for ever; 0: none.
    pub number: u64,
    /// The clients that may use it.
    pub access: Access,
    /// Whether the generic proxy leads to it.
    pub generic_proxy: bool,
    /// Its purposes, by GPUStack's words.
    pub categories: Vec<String>,
    /// Its operator's description of it.
    pub meta: Option<serde_json::Value>,
    /// Its counters; they go on over every publish.
    pub metrics: Arc<RouteMetrics>,
    pub(super) targets: Vec<Arc<Target>>,
}

/// Grounds of a choice among instances.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// Instances that were tried: taken again only when there are no others.
    pub tried: &'a [Arc<str>],
    /// The status with which the targets so far have failed: only those that are there for it are
    /// chosen from.
    pub failed: Option<u16>,
    /// Milliseconds of the data plane's clock.
    pub now: u64,
}

impl Route {
    /// Whether an instance of it runs.
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

    /// Whether another target is there for responses of this status.
    pub fn has_fallback(&self, status: u16) -> bool {
        self.targets.iter().any(|target| target.falls_back_for(status) && target.is_running())
    }

    /// Chooses an instance and takes a slot on it: a target by weight among those with a running
    /// instance, then the one with fewer requests of two random ones. Instances that were tried,
    /// and ejected ones, are taken only when there are no others. Without a weighted target that
    /// runs, the first fallback that runs is the target.
    pub fn lease(
        &self,
        choice: Choice<'_>,
        random: &mut impl FnMut() -> u64,
        idle: &Arc<dyn IdleListener>,
    ) -> Option<(Lease, Arc<Target>)> {
        // A second round only when the chosen one was retired between the choice and the lease.
        for _ in 0..8 {
            let target = self.choose_target(choice, random)?;
            let instance =
                choose_instance(&target.model.running, choice.tried, choice.now, random)?;
            if let Some(lease) = Lease::take(instance, idle) {
                return Some((lease, Arc::clone(target)));
            }
        }
        None
    }

    /// A slot on the instance of this id, where it still runs and this route leads to it.
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

    fn choose_target(
        &self,
        choice: Choice<'_>,
        random: &mut impl FnMut() -> u64,
    ) -> Option<&Arc<Target>> {
        let fresh = |target: &Target| {
            target.model.running.iter().any(|instance| !choice.tried.contains(&instance.id))
        };
        if let Some(status) = choice.failed {
            let for_it = |target: &&Arc<Target>| target.falls_back_for(status);
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
