//! What may stand only once in a table: the names of models and routes, the ids of instances, the
//! numbers of routes.

use std::{collections::HashSet, hash::Hash};

use crate::{seam, table::error::TableError};

/// Fails at the first that stands twice, with its place in the document.
pub(super) fn check(document: &seam::Table) -> Result<(), TableError> {
    let mut models = Seen::default();
    let mut instances = Seen::default();
    for (number, model) in document.models.iter().enumerate() {
        models.add(&*model.name, || format!("models[{number}].name"))?;
        for (index, instance) in model.instances.iter().enumerate() {
            instances.add(&*instance.id, || format!("models[{number}].instances[{index}].id"))?;
        }
    }
    let mut routes = Seen::default();
    let mut numbers = Seen::default();
    for (index, route) in document.routes.iter().enumerate() {
        routes.add(&*route.name, || format!("routes[{index}].name"))?;
        if route.number > 0 {
            numbers.add(route.number, || format!("routes[{index}].number"))?;
        }
    }
    Ok(())
}

struct Seen<T>(HashSet<T, foldhash::fast::RandomState>);

impl<T> Default for Seen<T> {
    fn default() -> Self {
        Self(HashSet::default())
    }
}

impl<T: Copy + Eq + Hash + ToString> Seen<T> {
    fn add(&mut self, value: T, place: impl FnOnce() -> String) -> Result<(), TableError> {
        if self.0.insert(value) {
            return Ok(());
        }
        Err(TableError::Twice { place: place(), value: value.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::{
        table::{Table, TableError},
        test_support,
    };

    /// Two models, two instances each, and a route to each, with a change.
    fn published(change: impl FnOnce(&mut Value)) -> Option<String> {
        let instance = |id: &str| test_support::instance(id, &format!("unix:/run/{id}.sock"));
        let model = |name: &str| {
            let instances = vec![instance(&format!("{name}-0")), instance(&format!("{name}-1"))];
            test_support::model(name, name, instances)
        };
        let route = |name: &str, number: u64| {
            let mut route = test_support::route(name, vec![test_support::target("a", 1)]);
            route["number"] = number.into();
            route
        };
        let mut table = test_support::table(
            vec![model("a"), model("b")],
            vec![route("r", 1), route("s", 2), route("t", 0), route("u", 0)],
        );
        change(&mut table);
        Table::default().replaced_by(test_support::read(table)).err().map(|error| error.to_string())
    }

    #[test]
    fn what_may_stand_once_and_stands_twice_is_rejected_with_its_place() {
        assert_eq!(published(|_| ()), None);
        for (place, pointer, value) in [
            ("models[1].name", "/models/1/name", json!("a")),
            ("models[0].instances[1].id", "/models/0/instances/1/id", json!("a-0")),
            ("models[1].instances[0].id", "/models/1/instances/0/id", json!("a-1")),
            ("routes[1].name", "/routes/1/name", json!("r")),
            ("routes[2].number", "/routes/2/number", json!(2)),
        ] {
            let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let error = published(|table| *table.pointer_mut(pointer).unwrap() = value);
            assert_eq!(error, Some(format!("{place}: {shown} stands twice")));
        }
    }

    #[test]
    fn a_rejected_table_leaves_the_one_before() {
        let twice = TableError::Twice { place: "models[1].name".to_owned(), value: "m".to_owned() };
        let model = || test_support::model("m", "m", vec![]);
        let document = test_support::table(vec![model(), model()], vec![]);
        let right = test_support::read(test_support::table(vec![model()], vec![]));
        let before = Table::default().replaced_by(right).unwrap().0;
        assert_eq!(before.replaced_by(test_support::read(document)).unwrap_err(), twice);
        assert_eq!(before.models.len(), 1);
    }
}
