//! The routes that lead to the same engines.
//!
//! What counts is an engine's address, not the name of a model: two models may be two names of one
//! engine. A request that is not read, or that picks an adapter beside `model`, can reach whatever
//! the engine serves.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use crate::table::{
    instance::Address,
    route::{Model, Route, Target},
};

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// The models of a table by the engines that they share, and the routes to them.
#[derive(Debug, Default)]
pub(super) struct Engines {
    /// The groups of each model, by its name: one of its own, and one for each set of models that
    /// share an engine with it.
    groups: Map<Arc<str>, Vec<usize>>,
    /// The links into the models of each group: a route's index, and its target's.
    links: Vec<Vec<(usize, usize)>>,
}

impl Engines {
    /// Takes time in proportion to the number of instances and targets.
    pub(super) fn new(models: &[Arc<Model>], routes: &[Arc<Route>]) -> Self {
        let mut groups: Map<Arc<str>, Vec<usize>> = models
            .iter()
            .enumerate()
            .map(|(index, model)| (Arc::clone(&model.name), vec![index]))
            .collect();
        let mut count = models.len();
        for set in sharing(models) {
            for index in set {
                groups.entry(Arc::clone(&models[index].name)).or_default().push(count);
            }
            count += 1;
        }
        let mut links = vec![Vec::new(); count];
        for (index, route) in routes.iter().enumerate() {
            for (at, target) in route.targets().enumerate() {
                for group in groups.get(&target.model.name).into_iter().flatten() {
                    links[*group].push((index, at));
                }
            }
        }
        Self { groups, links }
    }

    /// The links to the engines of a route's targets under another name than that target's, with
    /// the routes that they belong to. One may come more than once.
    pub(super) fn beside<'a>(
        &'a self,
        routes: &'a [Arc<Route>],
        route: &'a Route,
    ) -> impl Iterator<Item = (&'a Arc<Route>, &'a Arc<Target>)> {
        route.targets().flat_map(move |own| {
            let groups = self.groups.get(&own.model.name).into_iter().flatten();
            let links = groups.flat_map(|group| &self.links[*group]);
            let links = links.filter_map(|(index, at)| {
                let other = routes.get(*index)?;
                Some((other, other.targets().nth(*at)?))
            });
            links.filter(|(_, target)| target.served_name != own.served_name)
        })
    }
}

/// Every set of two or more models that have an engine in common, by their indices.
fn sharing(models: &[Arc<Model>]) -> impl Iterator<Item = Vec<usize>> {
    let mut first: Map<Place<'_>, usize> = Map::default();
    let mut shared: Map<Place<'_>, Vec<usize>> = Map::default();
    for (index, model) in models.iter().enumerate() {
        for instance in &model.instances {
            let place = Place::of(&instance.address);
            let known = *first.entry(place.clone()).or_insert(index);
            if known != index {
                let set = shared.entry(place).or_insert_with(|| vec![known]);
                if set.last() != Some(&index) {
                    set.push(index);
                }
            }
        }
    }
    // Two models of many engines each are one set, not one for each engine.
    let sets: HashSet<_, foldhash::fast::RandomState> = shared.into_values().collect();
    sets.into_iter()
}

/// An address as it is compared. Names are not resolved: two of one machine are two places.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place<'a> {
    /// This machine, however it is written.
    Here(u16),
    /// Another one.
    Ip(IpAddr, u16),
    /// In lower case.
    Host(String, u16),
    Unix(&'a Path),
}

impl<'a> Place<'a> {
    fn of(address: &'a Address) -> Self {
        match address {
            Address::Tcp(address) => {
                let ip = address.ip().to_canonical();
                // A client that connects to no address connects to its own machine.
                let here = ip.is_unspecified() || LOOPBACK.contains(&ip);
                if here { Self::Here(address.port()) } else { Self::Ip(ip, address.port()) }
            }
            Address::Host(name, port) => {
                let name = name.trim_end_matches('.').to_ascii_lowercase();
                if name == "localhost" { Self::Here(*port) } else { Self::Host(name, *port) }
            }
            Address::Unix(path) => Self::Unix(path),
        }
    }
}

/// The addresses that `localhost` stands for.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

#[cfg(test)]
mod tests {
    use crate::{table::Table, test_support};

    /// Each model with its engines' addresses has a route of its own name.
    fn table(models: &[(&str, &[&str])]) -> Table {
        let entry = |(name, addresses): &(&str, &[&str])| {
            let instances = addresses.iter().enumerate().map(|(index, address)| {
                test_support::instance(&format!("{name}-{index}"), address)
            });
            test_support::model(name, &format!("served-{name}"), instances.collect())
        };
        let route = |(name, _): &(&str, &[&str])| {
            test_support::route(name, vec![test_support::target(name, 1)])
        };
        let (models, routes) =
            (models.iter().map(entry).collect(), models.iter().map(route).collect());
        let document = test_support::read(test_support::table(models, routes));
        Table::default().replaced_by(document).unwrap().0
    }

    fn beside(table: &Table, name: &str) -> Vec<String> {
        let route = table.route(name).unwrap();
        let mut names: Vec<_> =
            table.beside(route).map(|(other, _)| other.name.to_string()).collect();
        names.sort();
        names.dedup();
        names
    }

    #[test]
    fn models_at_one_address_are_beside_each_other_however_it_is_written() {
        for (one, other, same) in [
            ("http://127.0.0.1:8000", "http://127.0.0.1:8000", true),
            ("http://127.0.0.1:8000", "http://localhost:8000", true),
            ("http://127.0.0.1:8000", "http://LOCALHOST.:8000", true),
            ("http://127.0.0.1:8000", "http://[::1]:8000", true),
            ("http://127.0.0.1:8000", "http://0.0.0.0:8000", true),
            ("http://127.0.0.1:8000", "http://[::ffff:127.0.0.1]:8000", true),
            ("http://127.0.0.1:8000", "http://127.0.0.1:8001", false),
            ("http://127.0.0.1:8000", "http://127.0.0.2:8000", false),
            ("http://engine.local:80", "http://Engine.local", true),
            ("http://engine.local:80", "http://engine2.local:80", false),
            ("unix:/run/e.sock", "unix:/run//e.sock", true),
            ("unix:/run/e.sock", "unix:/run/f.sock", false),
        ] {
            let table = table(&[("a", &[one]), ("b", &[other])]);
            let found: &[&str] = if same { &["b"] } else { &[] };
            assert_eq!(beside(&table, "a"), found, "{one} {other}");
        }
    }

    #[test]
    fn one_engine_of_many_is_enough() {
        let (x, y, z) = ("http://10.0.0.1:1", "http://10.0.0.2:1", "http://10.0.0.3:1");
        let table = table(&[("a", &[x, y]), ("b", &[y, z]), ("c", &[z]), ("d", &[x, y])]);
        assert_eq!(beside(&table, "a"), ["b", "d"]);
        assert_eq!(beside(&table, "b"), ["a", "c", "d"]);
        assert_eq!(beside(&table, "c"), ["b"]);
    }

    #[test]
    fn the_same_thing_under_another_public_name_is_not_beside_it() {
        let models = vec![test_support::model(
            "m",
            "m",
            vec![test_support::instance("m-0", "unix:/run/m.sock")],
        )];
        let mut tuned = test_support::target("m", 1);
        tuned["served_name"] = "tuned".into();
        let routes = vec![
            test_support::route("m", vec![test_support::target("m", 1)]),
            test_support::route("alias", vec![test_support::target("m", 1)]),
            test_support::route("m:tuned", vec![tuned]),
        ];
        let document = test_support::read(test_support::table(models, routes));
        let table = Table::default().replaced_by(document).unwrap().0;
        assert_eq!(beside(&table, "m"), ["m:tuned"]);
        assert_eq!(beside(&table, "m:tuned"), ["alias", "m"]);
    }
}
