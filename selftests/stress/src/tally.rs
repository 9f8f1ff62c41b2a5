// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What was done, and how it ended: counts by name and result.

use serde_json::{json, Map, Value};
use std::collections::BTreeMap;

#[derive(Default)]
pub struct Tally(BTreeMap<(&'static str, i32), u64>);

impl Tally {
    /// One more `name` that ended with `result`: 0, or an error's or status's number.
    pub fn add(&mut self, name: &'static str, result: i32) {
        *self.0.entry((name, result)).or_default() += 1;
    }

    /// Adds another's counts and empties it.
    pub fn take(&mut self, other: &mut Tally) {
        for (key, count) in std::mem::take(&mut other.0) {
            *self.0.entry(key).or_default() += count;
        }
    }

    /// `{name: {result: count}}`.
    pub fn report(&self) -> Value {
        let mut out = Map::new();
        for ((name, result), count) in &self.0 {
            out.entry(*name).or_insert_with(|| json!({}))[result.to_string()] = json!(count);
        }
        Value::Object(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_by_name_and_result() {
        let (mut one, mut two) = (Tally::default(), Tally::default());
        one.add("create_qp", 0);
        two.add("create_qp", 0);
        two.add("create_qp", 12);
        one.take(&mut two);
        assert_eq!(one.report(), json!({"create_qp": {"0": 2, "12": 1}}));
        assert_eq!(two.report(), json!({}));
    }
}
