//! The routing table: public names, models, instances; and the lease that one request has on an instance.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;

use crate::{
    seam::documents::{InstanceEntry, ModelEntry, RouteEntry, TableDocument, TargetEntry},
    table::{metrics::RouteMetrics, proxy_paths::ProxyPaths},
};

/// Where an instance listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address and port.
    Tcp(SocketAddr),
    /// A host name and port, resolved at each connect.
    Host(String, u16),
    /// A Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Reads `http://HOST:PORT` or `unix:PATH`.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            return (!path.is_empty()).then(|| Self::Unix(PathBuf::from(path)));
        }
        let authority = text.strip_prefix("http://")?.trim_end_matches('/');
        if let Ok(address) = authority.parse() {
            return Some(Self::Tcp(address));
        }
        let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "80"));
        let port = port.parse().ok()?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte)) {
            return None;
        }
        Some(
            host.parse::<IpAddr>()
                .map_or_else(|_| Self::Host(host.to_owned(), port), |ip| Self::Tcp((ip, port).into())),
        )
    }
}

impl fmt::Display for Address {
    /// As a `Host` field says it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(formatter, "{address}"),
            Self::Host(host, port) => write!(formatter, "{host}:{port}"),
            Self::Unix(_) => formatter.write_str("localhost"),
        }
    }
}

static SERIAL: AtomicU64 = AtomicU64::new(0);

/// One engine. It lives as long as a table or a lease holds it; its counters go on over every publish.
#[derive(Debug)]
pub struct Instance {
    /// Its name for ever.
    pub id: Arc<str>,
    /// The same as a number, unique in this process.
    pub serial: u64,
    /// The model it serves.
    pub model: Arc<str>,
    /// Where it listens.
    pub address: Address,
    /// The value of `Host` toward it.
    pub host: String,
    /// What it wants to be sent as `Authorization`.
    pub authorization: Option<String>,
    /// How long an idle connection to it may be used again.
    pub idle_timeout: Duration,
    /// After so many requests a connection is not used again; 0: no limit.
    pub requests_per_connection: u32,
    /// How long a cancelled, non-streamed request goes on working inside the engine.
    pub cancel_lag: Duration,
    /// Requests on it now.
    outstanding: AtomicU32,
    /// Requests since it came.
    pub requests: AtomicU64,
    /// Times that it was found faulty.
    pub faults: AtomicU64,
    /// The version of the table that retired it; 0: it serves.
    retired: AtomicU64,
    /// Milliseconds of the data plane's clock until which others are preferred.
    suspect_until: AtomicU64,
}

impl Instance {
    /// An instance that has served nothing yet; what is wrong with its entry otherwise.
    pub fn new(entry: &InstanceEntry, model: &Arc<str>) -> Result<Self, String> {
        let address = Address::parse(&entry.address)
            .ok_or_else(|| format!("instance {}: the address is neither http://HOST:PORT nor unix:PATH", entry.id))?;
        let host = address.to_string();
        if entry.api_key.as_ref().is_some_and(|key| key.bytes().any(|byte| byte.is_ascii_control())) {
            return Err(format!("instance {}: the key holds control characters", entry.id));
        }
        Ok(Self {
            id: entry.id.as_str().into(),
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            model: Arc::clone(model),
            address,
            host,
            authorization: entry.api_key.as_ref().map(|key| format!("Bearer {key}")),
            idle_timeout: Duration::from_millis(entry.idle_timeout),
            requests_per_connection: entry.requests_per_connection,
            cancel_lag: Duration::from_millis(entry.cancel_lag),
            outstanding: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            retired: AtomicU64::new(0),
            suspect_until: AtomicU64::new(0),
        })
    }

    /// Requests on it now.
    pub fn outstanding(&self) -> u32 {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// The version that retired it, if one did.
    pub fn retired(&self) -> Option<u64> {
        match self.retired.load(Ordering::SeqCst) {
            0 => None,
            version => Some(version),
        }
    }

    /// Retires it; true when no request is on it, so that it is idle at once.
    fn retire(&self, version: u64) -> bool {
        self.retired.store(version, Ordering::SeqCst);
        self.outstanding.load(Ordering::SeqCst) == 0
    }

    /// Prefers others for a while; true when it was not suspect before.
    pub fn suspect(&self, now: u64, until: u64) -> bool {
        self.faults.fetch_add(1, Ordering::Relaxed);
        self.suspect_until.swap(until, Ordering::Relaxed) <= now
    }

    fn is_suspect(&self, now: u64) -> bool {
        self.suspect_until.load(Ordering::Relaxed) > now
    }

    fn same_engine(&self, entry: &InstanceEntry) -> bool {
        *self.id == *entry.id && Address::parse(&entry.address).as_ref() == Some(&self.address)
    }
}

/// One request's hold on an instance. Dropping it gives the slot back.
#[derive(Debug)]
pub struct Lease {
    instance: Arc<Instance>,
    idle: Arc<dyn IdleListener>,
}

/// Who is told that a retired instance has become idle.
pub trait IdleListener: fmt::Debug + Send + Sync {
    /// The last request of `instance`, retired by table `version`, has ended.
    fn idle(&self, instance: &Instance, version: u64);
}

impl Lease {
    /// Takes a slot. It increments first and reads `retired` afterwards, so that a request with an old table cannot
    /// slip onto an instance that was already seen idle. None: it is retired.
    pub fn take(instance: &Arc<Instance>, idle: &Arc<dyn IdleListener>) -> Option<Self> {
        instance.outstanding.fetch_add(1, Ordering::SeqCst);
        let lease = Self { instance: Arc::clone(instance), idle: Arc::clone(idle) };
        if instance.retired().is_some() {
            return None;
        }
        instance.requests.fetch_add(1, Ordering::Relaxed);
        Some(lease)
    }

    /// The instance.
    pub fn instance(&self) -> &Arc<Instance> {
        &self.instance
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.instance.outstanding.fetch_sub(1, Ordering::SeqCst) == 1
            && let Some(version) = self.instance.retired()
        {
            self.idle.idle(&self.instance, version);
        }
    }
}

/// A deployment.
#[derive(Debug)]
pub struct Model {
    /// Its name.
    pub name: Arc<str>,
    /// What its engines call it.
    pub served_name: Arc<str>,
    /// Whether its engines speak Anthropic's Messages by themselves.
    pub speaks_anthropic: bool,
    /// Whether its engines rerank as text-embeddings-inference does.
    pub speaks_tei: bool,
    /// Whether its engines know `stream_options.include_usage`.
    pub stream_usage: bool,
    /// Further names that its engines call it by, and that no client may see.
    pub hidden_names: Vec<String>,
    /// What the generic proxy may reach.
    pub proxy_paths: ProxyPaths,
    /// All its instances, in every state.
    pub instances: Vec<(Arc<Instance>, String)>,
    /// Those that run.
    running: Vec<Arc<Instance>>,
}

/// Where a route leads.
#[derive(Debug)]
pub struct Target {
    /// To instances of this model.
    pub model: Arc<Model>,
    /// By this name, which its engines know.
    pub served_name: Arc<str>,
    /// The same as a JSON string.
    pub served_json: Bytes,
    /// Each name of the engines' that no client may see, with what it sees instead.
    pub hidden: Arc<[(String, String)]>,
    weight: u32,
    /// The status classes (4, 5) of other targets' answers upon which it is tried.
    fallback: Vec<u16>,
}

impl Target {
    fn is_running(&self) -> bool {
        !self.model.running.is_empty()
    }
}

/// Who may use a route.
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
    /// What clients send in `model`.
    pub name: Arc<str>,
    /// The same as a JSON string.
    pub name_json: Bytes,
    /// Unix seconds.
    pub created: u64,
    /// Its number for ever; 0: none.
    pub number: u64,
    /// Who may use it.
    pub access: Access,
    /// Whether the generic proxy leads to it.
    pub generic_proxy: bool,
    /// What it is for, by GPUStack's words.
    pub categories: Vec<String>,
    /// What its operator says of it.
    pub meta: Option<serde_json::Value>,
    /// Its counters; they go on over every publish.
    pub metrics: Arc<RouteMetrics>,
    targets: Vec<Arc<Target>>,
}

/// What a choice of an instance goes by.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// Instances that were tried: taken again only when there are no others.
    pub tried: &'a [Arc<str>],
    /// The status with which the targets so far have failed: only those that are there for it are chosen from.
    pub failed: Option<u16>,
    /// Milliseconds of the data plane's clock.
    pub now: u64,
}

impl Route {
    /// Whether an instance of it runs.
    pub fn is_ready(&self) -> bool {
        self.targets.iter().any(|target| (target.weight > 0 || !target.fallback.is_empty()) && target.is_running())
    }

    /// Where it leads.
    pub fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.targets.iter()
    }

    /// Whether a target's engines know the model by another name than clients.
    pub fn renames(&self, target: &Target) -> bool {
        self.name != target.served_name
    }

    /// Whether another target is there for answers of this status.
    pub fn has_fallback(&self, status: u16) -> bool {
        self.targets.iter().any(|target| target.fallback.contains(&(status / 100)) && target.is_running())
    }

    /// Chooses an instance and takes a slot on it: a target by weight among those with a running instance, then the one
    /// with fewer requests of two random ones. Instances that were tried, and suspects, are taken only when there are no
    /// others. Without a weighted target that runs, the first fallback that runs is the target.
    pub fn lease(
        &self,
        choice: Choice<'_>,
        random: &mut impl FnMut() -> u64,
        idle: &Arc<dyn IdleListener>,
    ) -> Option<(Lease, Arc<Target>)> {
        // A second round only when the chosen one was retired between the choice and the lease.
        for _ in 0..8 {
            let target = self.choose_target(choice, random)?;
            let instance = choose_instance(&target.model.running, choice.tried, choice.now, random)?;
            if let Some(lease) = Lease::take(instance, idle) {
                return Some((lease, Arc::clone(target)));
            }
        }
        None
    }

    /// A slot on the instance of this id, where it still runs and this route leads to it.
    pub fn lease_instance(&self, id: &str, idle: &Arc<dyn IdleListener>) -> Option<(Lease, Arc<Target>)> {
        self.targets.iter().find_map(|target| {
            let instance = target.model.running.iter().find(|instance| *instance.id == *id)?;
            Some((Lease::take(instance, idle)?, Arc::clone(target)))
        })
    }

    fn choose_target(&self, choice: Choice<'_>, random: &mut impl FnMut() -> u64) -> Option<&Arc<Target>> {
        let fresh = |target: &Target| target.model.running.iter().any(|instance| !choice.tried.contains(&instance.id));
        if let Some(status) = choice.failed {
            let for_it = |target: &&Arc<Target>| target.fallback.contains(&(status / 100));
            return self.targets.iter().filter(for_it).find(|target| fresh(target));
        }
        if let [target] = self.targets.as_slice()
            && target.weight > 0
        {
            return Some(target);
        }
        let any_fresh = self.targets.iter().any(|target| target.weight > 0 && fresh(target));
        let usable = |target: &Target| if any_fresh { fresh(target) } else { target.is_running() };
        let total: u64 =
            self.targets.iter().filter(|target| usable(target)).map(|target| u64::from(target.weight)).sum();
        let Some(mut point) = random().checked_rem(total) else {
            return self.targets.iter().find(|target| !target.fallback.is_empty() && target.is_running());
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
    let cost = |instance: &Instance| (tried.contains(&instance.id), instance.is_suspect(now), instance.outstanding());
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
            let (was_tried, suspect, _) = cost(better);
            if was_tried || suspect { many.iter().min_by_key(|instance| cost(instance)) } else { Some(better) }
        }
    }
}

fn build_target(entry: TargetEntry, model: &Arc<Model>, route: &str) -> Result<Target, String> {
    let class = |name: &String| match name.as_str() {
        "4xx" => Ok(4),
        "5xx" => Ok(5),
        other => Err(format!("route {route}: there is no status class {other}")),
    };
    let served_name = entry.served_name.map_or_else(|| Arc::clone(&model.served_name), Arc::from);
    let names = [&*served_name, &*model.served_name].into_iter().chain(model.hidden_names.iter().map(String::as_str));
    let mut hidden: Vec<_> =
        names.filter(|name| *name != route).map(|name| (name.to_owned(), route.to_owned())).collect();
    hidden.dedup();
    Ok(Target {
        hidden: hidden.into(),
        model: Arc::clone(model),
        served_json: json_string(&served_name),
        served_name,
        weight: entry.weight,
        fallback: entry.fallback.iter().map(class).collect::<Result<_, _>>()?,
    })
}

fn json_string(text: &str) -> Bytes {
    serde_json::Value::from(text).to_string().into()
}

/// A published snapshot.
#[derive(Debug, Default)]
pub struct Table {
    /// 1, 2, ...; 0 is the empty table before the first.
    pub version: u64,
    /// All models.
    pub models: Vec<Arc<Model>>,
    /// All routes, in the order in which they were published.
    pub routes: Vec<Arc<Route>>,
    /// The control plane's own metrics.
    pub metrics: String,
    by_name: HashMap<Arc<str>, Arc<Route>, foldhash::fast::RandomState>,
    by_number: HashMap<u64, Arc<Route>, foldhash::fast::RandomState>,
    /// Whether a route asks for no key.
    pub any_public: bool,
}

impl Table {
    /// The route of this public name.
    pub fn route(&self, name: &str) -> Option<&Arc<Route>> {
        self.by_name.get(name)
    }

    /// The route of this number.
    pub fn route_by_number(&self, number: u64) -> Option<&Arc<Route>> {
        self.by_number.get(&number)
    }

    /// The routes that lead to this model.
    pub fn routes_to<'a>(&'a self, model: &'a Model) -> impl Iterator<Item = &'a Arc<Route>> {
        self.routes.iter().filter(|route| route.targets().any(|target| target.model.name == model.name))
    }

    /// The table after a publish, and the instances that it retires and that are idle already. Instances and routes of
    /// the same identity are carried over with their counters.
    pub fn replaced_by(&self, document: TableDocument) -> Result<(Self, Vec<Arc<Instance>>), String> {
        let version = self.version + 1;
        let models: Vec<Arc<Model>> =
            document.models.into_iter().map(|entry| self.build_model(entry)).collect::<Result<_, _>>()?;
        let mut routes = Vec::with_capacity(document.routes.len());
        for entry in document.routes {
            routes.push(Arc::new(self.build_route(entry, &models)?));
        }
        let by_name: HashMap<_, _, _> =
            routes.iter().map(|route| (Arc::clone(&route.name), Arc::clone(route))).collect();
        if by_name.len() != routes.len() {
            return Err("two routes have the same name".to_owned());
        }
        let by_number =
            routes.iter().filter(|route| route.number > 0).map(|route| (route.number, Arc::clone(route))).collect();
        let any_public = routes.iter().any(|route| route.access == Access::Public);
        let table = Self { version, models, routes, metrics: document.metrics, by_name, by_number, any_public };
        let idle = self.retire_missing_from(&table);
        Ok((table, idle))
    }

    fn instances(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.models.iter().flat_map(|model| model.instances.iter().map(|(instance, _)| instance))
    }

    fn build_model(&self, entry: ModelEntry) -> Result<Arc<Model>, String> {
        let name: Arc<str> = entry.name.as_str().into();
        let mut instances = Vec::with_capacity(entry.instances.len());
        let mut running = Vec::new();
        for instance_entry in entry.instances {
            let serves = instance_entry.state == "running";
            let known = self.instances().find(|known| known.same_engine(&instance_entry));
            // A retired one may come back to service only as a new object: an old lease must not report it idle again.
            let instance = match known.filter(|known| !serves || known.retired().is_none()) {
                Some(known) => Arc::clone(known),
                None => Arc::new(Instance::new(&instance_entry, &name)?),
            };
            if serves {
                running.push(Arc::clone(&instance));
            }
            instances.push((instance, instance_entry.state));
        }
        let speaks = |dialect: &str| entry.dialects.iter().any(|spoken| spoken == dialect);
        Ok(Arc::new(Model {
            name,
            speaks_anthropic: speaks("anthropic"),
            speaks_tei: speaks("tei"),
            served_name: entry.served_name.into(),
            stream_usage: entry.stream_usage,
            hidden_names: entry.hidden_names,
            proxy_paths: ProxyPaths::new(&entry.proxy_denied, entry.proxy_allowed.as_deref()),
            instances,
            running,
        }))
    }

    fn build_route(&self, entry: RouteEntry, models: &[Arc<Model>]) -> Result<Route, String> {
        let mut targets = Vec::with_capacity(entry.targets.len());
        for target in entry.targets {
            let model = models
                .iter()
                .find(|model| *model.name == *target.model)
                .ok_or_else(|| format!("route {}: there is no model {}", entry.name, target.model))?;
            targets.push(Arc::new(build_target(target, model, &entry.name)?));
        }
        let access = match entry.access_policy.as_str() {
            "public" => Access::Public,
            "authed" => Access::Authed,
            "allowed_keys" => Access::Keys(entry.allowed_keys),
            other => return Err(format!("route {}: there is no access policy {other}", entry.name)),
        };
        let metrics = self.route(&entry.name).map_or_else(Arc::default, |known| Arc::clone(&known.metrics));
        Ok(Route {
            name_json: json_string(&entry.name),
            name: entry.name.into(),
            created: entry.created,
            number: entry.number,
            access,
            generic_proxy: entry.generic_proxy,
            categories: entry.categories,
            meta: entry.meta,
            metrics,
            targets,
        })
    }

    /// Retires every instance that served under this table and does not under `next`; returns those that are idle.
    fn retire_missing_from(&self, next: &Self) -> Vec<Arc<Instance>> {
        let serving = |table: &Self| -> Vec<Arc<Instance>> {
            table.models.iter().flat_map(|model| model.running.iter().cloned()).collect()
        };
        let next_serving = serving(next);
        serving(self)
            .into_iter()
            .filter(|old| !next_serving.iter().any(|new| Arc::ptr_eq(old, new)))
            .filter(|old| old.retire(next.version))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Debug, Default)]
    struct Idle(Mutex<Vec<(String, u64)>>);

    impl IdleListener for Idle {
        fn idle(&self, instance: &Instance, version: u64) {
            self.0.lock().unwrap().push((instance.id.to_string(), version));
        }
    }

    fn entry(id: &str, state: &str) -> InstanceEntry {
        InstanceEntry {
            id: id.to_owned(),
            address: format!("unix:/run/{id}.sock"),
            state: state.to_owned(),
            api_key: None,
            idle_timeout: 4000,
            requests_per_connection: 0,
            cancel_lag: 0,
        }
    }

    fn document(models: &[(&str, &[(&str, &str)])], routes: &[(&str, &[(&str, u32)])]) -> TableDocument {
        TableDocument {
            models: models
                .iter()
                .map(|(name, instances)| ModelEntry {
                    name: (*name).to_owned(),
                    served_name: (*name).to_owned(),
                    backend: "external".to_owned(),
                    dialects: vec![],
                    stream_usage: false,
                    hidden_names: vec![],
                    proxy_denied: vec![],
                    proxy_allowed: None,
                    instances: instances.iter().map(|(id, state)| entry(id, state)).collect(),
                })
                .collect(),
            routes: routes
                .iter()
                .map(|(name, targets)| RouteEntry {
                    name: (*name).to_owned(),
                    created: 0,
                    targets: targets
                        .iter()
                        .map(|(model, weight)| TargetEntry {
                            model: (*model).to_owned(),
                            weight: *weight,
                            served_name: None,
                            fallback: vec![],
                        })
                        .collect(),
                    categories: vec![],
                    generic_proxy: false,
                    number: 0,
                    access_policy: "authed".to_owned(),
                    allowed_keys: vec![],
                    meta: None,
                })
                .collect(),
            metrics: String::new(),
        }
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
    fn addresses_are_read_in_all_their_forms() {
        let shown = |text: &str| Address::parse(text).map(|address| address.to_string());
        assert_eq!(shown("http://127.0.0.1:8000").as_deref(), Some("127.0.0.1:8000"));
        assert_eq!(shown("http://[::1]:8000/").as_deref(), Some("[::1]:8000"));
        assert_eq!(shown("http://engine.local:81").as_deref(), Some("engine.local:81"));
        assert_eq!(shown("http://engine").as_deref(), Some("engine:80"));
        assert_eq!(shown("unix:/run/e.sock").as_deref(), Some("localhost"));
        for wrong in ["https://a:1", "http://", "http://a:b", "http://a/b:1", "unix:", "127.0.0.1:8000", "http://a b:1"]
        {
            assert_eq!(Address::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_least_loaded_of_two_is_taken_and_leases_come_back() {
        let idle: Arc<dyn IdleListener> = Arc::new(Idle::default());
        let (table, _) = Table::default()
            .replaced_by(document(&[("m", &[("a", "running"), ("b", "running")])], &[("r", &[("m", 1)])]))
            .unwrap();
        let route = table.route("r").unwrap();
        let mut random = random();
        let leases: Vec<_> = (0..10).map(|_| route.lease(ANY, &mut random, &idle).unwrap().0).collect();
        let mut counts: Vec<_> = table.instances().map(|instance| instance.outstanding()).collect();
        assert_eq!(counts, [5, 5], "with two instances the choice is always between both");
        drop(leases);
        counts = table.instances().map(|instance| instance.outstanding()).collect();
        assert_eq!(counts, [0, 0]);
    }

    #[test]
    fn tried_and_suspect_instances_are_the_last_resort() {
        let idle: Arc<dyn IdleListener> = Arc::new(Idle::default());
        let (table, _) = Table::default()
            .replaced_by(document(
                &[("m", &[("a", "running"), ("b", "running"), ("c", "running")])],
                &[("r", &[("m", 1)])],
            ))
            .unwrap();
        let route = table.route("r").unwrap();
        let mut random = random();
        let suspect = table.instances().find(|instance| &*instance.id == "b").unwrap();
        assert!(suspect.suspect(10, 1000));
        assert!(!suspect.suspect(10, 1000), "it is told once");
        for _ in 0..50 {
            let (lease, _) = route.lease(Choice { tried: &["a".into()], now: 10, ..ANY }, &mut random, &idle).unwrap();
            assert_eq!(&*lease.instance().id, "c");
            let all: [Arc<str>; 3] = ["a".into(), "b".into(), "c".into()];
            assert!(route.lease(Choice { tried: &all, now: 10, ..ANY }, &mut random, &idle).is_some());
        }
    }

    #[test]
    fn weights_share_requests_among_the_targets_that_run() {
        let idle: Arc<dyn IdleListener> = Arc::new(Idle::default());
        let models: &[(&str, &[(&str, &str)])] =
            &[("m", &[("a", "running")]), ("n", &[("b", "running")]), ("o", &[("c", "starting")])];
        let (table, _) =
            Table::default().replaced_by(document(models, &[("r", &[("m", 3), ("n", 1), ("o", 100)])])).unwrap();
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
            let mut document =
                document(&[("m", &[("a", main)]), ("n", &[("b", "running")])], &[("r", &[("m", 1), ("n", 0)])]);
            document.routes[0].targets[1].fallback = vec!["5xx".to_owned()];
            Table::default().replaced_by(document).unwrap().0
        };
        let mut random = random();
        let mut chosen = |table: &Table, failed| {
            let leased = table.route("r").unwrap().lease(Choice { failed, ..ANY }, &mut random, &idle);
            leased.map(|(lease, _)| lease.instance().id.to_string())
        };
        let both = route("running");
        assert!(both.route("r").unwrap().has_fallback(503) && !both.route("r").unwrap().has_fallback(429));
        for _ in 0..20 {
            assert_eq!(chosen(&both, None).as_deref(), Some("a"));
        }
        assert_eq!(chosen(&both, Some(502)).as_deref(), Some("b"));
        assert_eq!(chosen(&both, Some(404)), None);
        let down = route("error");
        assert!(down.route("r").unwrap().is_ready());
        assert_eq!(chosen(&down, None).as_deref(), Some("b"));
    }

    #[test]
    fn a_retired_instance_gets_nothing_new_and_is_reported_idle_once() {
        let listener = Arc::new(Idle::default());
        let idle: Arc<dyn IdleListener> = listener.clone();
        let (one, _) =
            Table::default().replaced_by(document(&[("m", &[("a", "running")])], &[("r", &[("m", 1)])])).unwrap();
        let mut random = random();
        let (lease, _) = one.route("r").unwrap().lease(ANY, &mut random, &idle).unwrap();
        let (two, idle_now) = one.replaced_by(document(&[("m", &[("a", "error")])], &[("r", &[("m", 1)])])).unwrap();
        assert!(idle_now.is_empty(), "a request is still on it");
        assert!(one.route("r").unwrap().lease(ANY, &mut random, &idle).is_none(), "not even by the old table");
        assert!(!two.route("r").unwrap().is_ready());
        listener.0.lock().unwrap().clear();
        drop(lease);
        assert_eq!(*listener.0.lock().unwrap(), [("a".to_owned(), 2)]);
        let (three, idle_now) =
            two.replaced_by(document(&[("m", &[("a", "running")])], &[("r", &[("m", 1)])])).unwrap();
        assert!(idle_now.is_empty());
        assert!(three.route("r").unwrap().lease(ANY, &mut random, &idle).is_some(), "it may come back to service");
        let (_, idle_now) = three.replaced_by(TableDocument::default()).unwrap();
        assert_eq!(idle_now.len(), 1);
    }

    #[test]
    fn a_document_that_contradicts_itself_is_refused() {
        assert!(Table::default().replaced_by(document(&[], &[("r", &[("m", 1)])])).unwrap_err().contains("no model m"));
        assert!(
            Table::default().replaced_by(document(&[("m", &[])], &[("r", &[("m", 1)]), ("r", &[("m", 1)])])).is_err()
        );
    }
}
