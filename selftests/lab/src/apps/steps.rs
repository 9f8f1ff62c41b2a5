// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The part of the suite beyond all_reduce: an exchange, torch's steps, llama.cpp's tokens; each by RDMA and TCP on
//! each ground.

use super::{Ground, GROUNDS};
use crate::lab::Lab;
use crate::measure::{figure, median};
use crate::page;
use crate::verbs::Pair;
use crate::workloads::{self, Way};
use anyhow::{ensure, Context, Result};
use serde_json::{json, Value};
use std::time::Duration;

/// One line of the table.
struct Item {
    metric: &'static str,
    shown: &'static str,
    unit: &'static str,
    /// More is better, as of tokens in a second; of times, less is.
    more: bool,
}

const fn time(metric: &'static str, shown: &'static str, unit: &'static str) -> Item {
    Item {
        metric,
        shown,
        unit,
        more: false,
    }
}

const ITEMS: [Item; 8] = [
    time("exchange_10KiB_p50", "exchange of 10 KiB, median", "us"),
    time("exchange_10KiB_p99", "exchange of 10 KiB, 99 of 100", "us"),
    time("exchange_16KiB_p50", "exchange of 16 KiB, median", "us"),
    time("exchange_16KiB_p99", "exchange of 16 KiB, 99 of 100", "us"),
    time("torch_tp_step", "torch, tensor-parallel decoding, a step", "ms"),
    time("torch_ddp_step", "torch, DDP training, a step", "ms"),
    time("torch_fsdp_step", "torch, FSDP2 training, a step", "ms"),
    Item {
        metric: "llama_tokens",
        shown: "llama.cpp, half of its layers by RPC",
        unit: "tokens/s",
        more: true,
    },
];

const WAYS: [Way; 2] = [Way::Rdma, Way::Tcp];
/// Rounds of an exchange.
const ROUNDS: u32 = 10_000;
/// Seconds of each kind of step.
const SECONDS: u32 = 5;
const TOKENS: u32 = 256;
/// Limit of one start of torch.
const LIMIT: Duration = Duration::from_secs(240);
/// Faster or slower by less than this is even: what two runs of the same differ by.
const EVEN: f64 = 1.1;

/// What was measured: by ground, way and item. What went wrong with others' drivers is told below the table.
#[derive(Default)]
pub struct Steps {
    values: [[[Vec<f64>; ITEMS.len()]; WAYS.len()]; GROUNDS.len()],
    wrong: Vec<String>,
}

impl Steps {
    /// All items on a ground, by both ways, once.
    ///
    /// # Errors
    ///
    /// What goes wrong on our ground, and what does not compile anywhere.
    pub fn measure(&mut self, lab: &Lab, pair: &Pair, ground: Ground) -> Result<()> {
        workloads::compile_exchange(lab)?;
        for (n, way) in WAYS.into_iter().enumerate() {
            let name = ground.name(way.into());
            eprintln!("  steps: {name}");
            let into = &mut self.values[ground as usize][n];
            if let Err(error) = once(lab, pair, ground, way, into) {
                let error = error.context(name);
                if ground == Ground::Ours {
                    return Err(error);
                }
                self.wrong.push(format!("{error:#}"));
            }
        }
        Ok(())
    }

    pub fn rows(&self, runs: usize) -> Vec<Value> {
        let against = [
            ("", Ground::Stock, Way::Rdma),
            ("_vs_tcp", Ground::Ours, Way::Tcp),
            ("_vs_stock_tcp", Ground::Stock, Way::Tcp),
        ];
        let mut rows = Vec::new();
        for (n, item) in ITEMS.iter().enumerate() {
            for (suffix, ground, way) in against {
                let (own, other) = (self.of(Ground::Ours, Way::Rdma, n), self.of(ground, way, n));
                let both = median(own).zip(median(other));
                rows.push(json!({
                    "metric": format!("{}{suffix}", item.metric),
                    "ours": both.map(|(a, _)| a),
                    "theirs": both.map(|(_, b)| b),
                    "ratio": both.map(|(a, b)| a / b),
                    "unit": item.unit,
                    "peer": ground.name(way.into()),
                    "runs": runs,
                    "values": {"ours": own, "theirs": other},
                }));
            }
        }
        rows
    }

    pub fn shown(&self) -> String {
        let mut heading = vec!["".to_string(), "in".into()];
        for ground in GROUNDS {
            heading.extend(WAYS.map(|way| ground.name(way.into()).to_string()));
        }
        heading.push("of our two ways".into());
        let heading: Vec<&str> = heading.iter().map(String::as_str).collect();
        let cells: Vec<Vec<String>> = ITEMS.iter().enumerate().map(|(n, item)| self.line(n, item)).collect();
        let mut text = page::table(&heading, &cells);
        for wrong in &self.wrong {
            let first = wrong.lines().next().unwrap_or_default();
            text += &format!("\n- went wrong: {first}");
        }
        text
    }

    fn of(&self, ground: Ground, way: Way, item: usize) -> &[f64] {
        &self.values[ground as usize][usize::from(way == Way::Tcp)][item]
    }

    fn line(&self, n: usize, item: &Item) -> Vec<String> {
        let mut cells = vec![item.shown.to_string(), item.unit.to_string()];
        for ground in GROUNDS {
            let of = WAYS.map(|way| median(self.of(ground, way, n)));
            cells.extend(of.map(|value| value.map_or_else(|| "-".into(), figure)));
        }
        let own = WAYS.map(|way| median(self.of(Ground::Ours, way, n)));
        cells.push(match own {
            [Some(rdma), Some(tcp)] => verdict(if item.more { rdma / tcp } else { tcp / rdma }),
            _ => "-".into(),
        });
        cells
    }
}

/// Which of two is faster, `times` being how much faster RDMA is.
fn verdict(times: f64) -> String {
    match times {
        t if t >= EVEN => format!("RDMA, {t:.2} times as fast"),
        t if t > 1.0 / EVEN => format!("even ({t:.2})"),
        t => format!("TCP, {:.2} times as fast", 1.0 / t),
    }
}

/// All items once, in their order.
fn once(lab: &Lab, pair: &Pair, ground: Ground, way: Way, into: &mut [Vec<f64>; ITEMS.len()]) -> Result<()> {
    let mut got = Vec::new();
    for bytes in [10 << 10, 16 << 10] {
        let seen = workloads::exchange(lab, pair, way, bytes, ROUNDS)?;
        got.extend([seen.p50, seen.p99]);
    }
    for (script, names) in [("steps", &["tp", "ddp"][..]), ("fsdp", &["fsdp"])] {
        let program = format!("python3 /usb4lab/torch-{script}.py {SECONDS}");
        let line = workloads::open_mpi(pair, ground.kind(), way, 1, "", &program);
        let said = workloads::told(lab, &line, LIMIT)?;
        for name in names {
            got.push(said[name]["ms"].as_f64().with_context(|| said.to_string())?);
        }
    }
    let shared = workloads::llama(lab, pair, Some(way), TOKENS)?;
    let by_rdma = shared.activated.iter().all(|count| *count > 0);
    ensure!(
        by_rdma == (way == Way::Rdma),
        "llama.cpp: {:?} of {way:?}",
        shared.activated
    );
    got.push(shared.per_second);
    for (value, into) in got.into_iter().zip(into) {
        into.push(value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_faster_is_said_of_times_and_of_rates() {
        let mut steps = Steps::default();
        steps.values[0][0][0] = vec![50.0];
        steps.values[0][1][0] = vec![100.0];
        steps.values[0][0][7] = vec![50.0];
        steps.values[0][1][7] = vec![100.0];
        steps.values[1][0][7] = vec![10.0];
        steps.wrong.push("rxe: no\nmore".into());
        let text = steps.shown();
        assert!(
            text.contains("| us | 50.0 | 100 | - | - | RDMA, 2.00 times as fast |"),
            "{text}"
        );
        assert!(
            text.contains("| tokens/s | 50.0 | 100 | 10.0 | - | TCP, 2.00 times as fast |"),
            "{text}"
        );
        assert!(text.ends_with("- went wrong: rxe: no"), "{text}");
        let rows = steps.rows(1);
        assert_eq!(rows[1]["metric"], "exchange_10KiB_p50_vs_tcp");
        assert_eq!((&rows[1]["ratio"], &rows[21]["ratio"]), (&json!(0.5), &json!(5.0)));
    }

    #[test]
    fn what_is_within_a_tenth_is_even() {
        assert_eq!(verdict(1.05), "even (1.05)");
        assert_eq!(verdict(0.95), "even (0.95)");
        assert_eq!(verdict(1.5), "RDMA, 1.50 times as fast");
    }
}
