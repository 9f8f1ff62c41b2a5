// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4lab deep`: all cases on all kernels, and the record of it in docs/tiers.md.

use crate::page;
use crate::paths;
use crate::runner::{self, Plan, Tally, Verdict, Which};
use crate::spec::{Kernel, NetDriver, Tier};
use crate::verbs::Kind;
use anyhow::{Context, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

/// What cases run on: one of our kernels, or the distribution's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Ground {
    Lab,
    Smp,
    Kasan,
    Stock,
}

const GROUNDS: [Ground; 4] = [Ground::Lab, Ground::Smp, Ground::Kasan, Ground::Stock];

impl Ground {
    fn name(self) -> &'static str {
        match self {
            Ground::Stock => "stock",
            other => other.kernel().name(),
        }
    }

    fn kernel(self) -> Kernel {
        match self {
            Ground::Smp => Kernel::Smp,
            Ground::Kasan => Kernel::Kasan,
            Ground::Lab | Ground::Stock => Kernel::Lab,
        }
    }
}

/// What a run on one ground gave.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Run {
    /// Date, commit, machine.
    about: String,
    minutes: f64,
    cases: Vec<Row>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Row {
    case: String,
    verdict: Verdict,
}

/// The latest run on each ground.
type Record = BTreeMap<Ground, Run>;

/// Runs the cases that match on the grounds, all of both if none is given; true if none failed.
pub fn run(grounds: &[Ground], filter: Option<String>, seed: u64, write: bool) -> Result<bool> {
    let mut failed = 0;
    let grounds = if grounds.is_empty() { &GROUNDS[..] } else { grounds };
    for ground in grounds {
        println!("== {}", ground.name());
        let start = Instant::now();
        let tally = runner::run(&Plan {
            filter: filter.clone(),
            seed,
            tier: if *ground == Ground::Stock {
                Tier::Stock
            } else {
                Tier::Fast
            },
            kernel: ground.kernel(),
            ours: Kind::Usb4,
            net: NetDriver::Ours,
            which: Which::Every,
        })?;
        failed += tally.failed;
        if write {
            keep(*ground, &tally, start.elapsed().as_secs_f64() / 60.0)?;
        }
    }
    Ok(failed == 0)
}

/// Puts a run in place of the ground's last one, in the record and on the page.
fn keep(ground: Ground, tally: &Tally, minutes: f64) -> Result<()> {
    let path = record_file()?;
    let mut record: Record = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{}", path.display()))?,
        Err(_) => Record::new(),
    };
    let cases = tally
        .results
        .iter()
        .map(|(case, verdict)| Row {
            case: case.clone(),
            verdict: verdict.clone(),
        })
        .collect();
    let run = Run {
        about: page::provenance(),
        minutes,
        cases,
    };
    record.insert(ground, run);
    fs::write(&path, serde_json::to_string_pretty(&record)?).with_context(|| format!("{}", path.display()))?;
    page::write_part("tiers.md", "record", "make check-deep", &shown(&record))
}

fn record_file() -> Result<PathBuf> {
    Ok(paths::project()?.join("build/deep.json"))
}

/// The record as text: when and where, a table of all cases, the reasons.
fn shown(record: &Record) -> String {
    let mut text = String::new();
    for (ground, run) in record {
        let count = |wanted: fn(&Verdict) -> bool| run.cases.iter().filter(|row| wanted(&row.verdict)).count();
        text += &format!(
            "- {}: {} passed, {} failed, {} skipped in {:.0} minutes; {}\n",
            ground.name(),
            count(|v| *v == Verdict::Passed),
            count(|v| matches!(v, Verdict::Failed(_))),
            count(|v| matches!(v, Verdict::Skipped(_))),
            run.minutes,
            run.about
        );
    }
    let mut names: Vec<&str> = Vec::new();
    for row in record.values().flat_map(|run| &run.cases) {
        if !names.contains(&row.case.as_str()) {
            names.push(&row.case);
        }
    }
    let rows: Vec<Vec<String>> = names
        .iter()
        .map(|name| {
            let cells = record.values().map(|run| cell(run, name).to_string());
            std::iter::once(name.to_string()).chain(cells).collect()
        })
        .collect();
    let heading: Vec<&str> = std::iter::once("case").chain(record.keys().map(|g| g.name())).collect();
    text += "\n";
    text += &page::table(&heading, &rows);
    let mut reasons = Vec::new();
    for (ground, run) in record {
        for row in &run.cases {
            let (word, said) = match &row.verdict {
                Verdict::Passed => continue,
                Verdict::Failed(said) => ("failed", said),
                Verdict::Skipped(said) => ("skipped", said),
            };
            let first = said.lines().next().unwrap_or_default();
            reasons.push(format!("- {} on {}, {word}: {first}", row.case, ground.name()));
        }
    }
    if !reasons.is_empty() {
        text += &format!("\n{}\n", reasons.join("\n"));
    }
    text
}

/// The worst that came of a case: leaks are counted once for each lab.
fn cell(run: &Run, name: &str) -> &'static str {
    let of_case = || run.cases.iter().filter(|row| row.case == name).map(|row| &row.verdict);
    if of_case().any(|v| matches!(v, Verdict::Failed(_))) {
        return "FAILED";
    }
    match of_case().next() {
        Some(Verdict::Skipped(_)) => "skipped",
        Some(_) => "ok",
        None => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(cases: &[(&str, Verdict)]) -> Run {
        let cases = cases
            .iter()
            .map(|(case, verdict)| Row {
                case: case.to_string(),
                verdict: verdict.clone(),
            })
            .collect();
        Run {
            about: "today, commit x".into(),
            minutes: 2.0,
            cases,
        }
    }

    #[test]
    fn each_ground_has_a_column_and_each_failure_its_reason() {
        let record = Record::from([
            (
                Ground::Lab,
                ran(&[("a", Verdict::Passed), ("b", Verdict::Failed("lost\nmore".into()))]),
            ),
            (
                Ground::Smp,
                ran(&[("a", Verdict::Skipped("one processor".into())), ("c", Verdict::Passed)]),
            ),
        ]);
        let text = shown(&record);
        assert!(text.contains("| case | lab | smp |"), "{text}");
        assert!(
            text.contains("| a | ok | skipped |\n| b | FAILED |  |\n| c |  | ok |"),
            "{text}"
        );
        assert!(text.contains("- lab: 1 passed, 1 failed, 0 skipped"), "{text}");
        assert!(
            text.contains("- b on lab, failed: lost\n- a on smp, skipped: one processor"),
            "{text}"
        );
    }

    #[test]
    fn one_leaking_lab_makes_the_row_fail() {
        let run = ran(&[("l", Verdict::Passed), ("l", Verdict::Failed("kmemleak".into()))]);
        assert_eq!(cell(&run, "l"), "FAILED");
    }
}
