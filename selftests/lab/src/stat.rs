// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The counters of a lab as tables for a person.

use crate::measure::table;
use serde_json::Value;

/// Guests, cables and rings that carried something.
pub fn shown(stat: &Value) -> String {
    let fabric = &stat["fabric"];
    let mut text = table(&["host", "state", "CPU s"], &rows(&stat["hosts"], host));
    text += &format!("fabricd: {} CPU s\n", number(&stat["fabric_cpu_s"]));
    text += "\n";
    text += &table(
        &["cable", "state", "a to b", "bytes", "b to a", "bytes", "faults"],
        &rows(&fabric["cables"], cable),
    );
    text += "\n";
    let rings: Vec<Vec<String>> = list(&fabric["nhis"]).iter().flat_map(rings).collect();
    text += &table(&["ring", "frames", "bytes", "doorbells", "interrupts", "drops"], &rings);
    text
}

fn host((index, host): (usize, &Value)) -> Vec<String> {
    let state = if host["running"] == true { "running" } else { "ended" };
    vec![format!("h{index}"), state.into(), number(&host["cpu_s"])]
}

fn cable((index, cable): (usize, &Value)) -> Vec<String> {
    let faults: Vec<String> = cable["faults"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, count)| count.as_u64() != Some(0))
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    let way = |way: &str, what: &str| number(&cable[way][what]);
    vec![
        index.to_string(),
        cable["state"].as_str().unwrap_or("?").to_string(),
        way("a_to_b", "frames"),
        way("a_to_b", "bytes"),
        way("b_to_a", "frames"),
        way("b_to_a", "bytes"),
        if faults.is_empty() {
            "none".into()
        } else {
            faults.join(", ")
        },
    ]
}

/// Rings of one router, the control ring left out.
fn rings(nhi: &Value) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for direction in ["tx", "rx"] {
        for ring in list(&nhi[direction]).iter().filter(|ring| ring["ring"] != 0) {
            let name = format!("h{} nhi {} {direction} {}", nhi["host"], nhi["nhi"], ring["ring"]);
            let mut row = vec![name];
            row.extend(["frames", "bytes", "doorbells", "interrupts", "drops"].map(|key| number(&ring[key])));
            rows.push(row);
        }
    }
    rows
}

fn rows(list_value: &Value, row: impl Fn((usize, &Value)) -> Vec<String>) -> Vec<Vec<String>> {
    list(list_value).iter().enumerate().map(row).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn number(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::Number(n) if n.is_f64() => format!("{:.2}", n.as_f64().unwrap_or(0.0)),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_data_rings_and_injected_faults_are_shown() {
        let stat = json!({
            "hosts": [{"running": true, "cpu_s": 1.5}],
            "fabric_cpu_s": 0.25,
            "fabric": {
                "cables": [{"state": "up", "a_to_b": {"frames": 3, "bytes": 9}, "faults": {"drop": 2, "dup": 0}}],
                "nhis": [{"host": 0, "nhi": 0, "tx": [{"ring": 0, "frames": 7}, {"ring": 1, "frames": 5}], "rx": []}],
            },
        });
        let text = shown(&stat);
        assert!(text.contains("h0    running   1.50"), "{text}");
        assert!(text.contains("drop 2") && !text.contains("dup"), "{text}");
        assert!(text.contains("h0 nhi 0 tx 1") && !text.contains("tx 0"), "{text}");
    }

    #[test]
    fn a_lab_without_cables_has_no_rings() {
        assert!(shown(&json!({"hosts": [{"running": false, "cpu_s": 0.0}]})).contains("ended"));
    }
}
