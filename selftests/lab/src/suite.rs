// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4lab pyverbs`: rdma-core's own test suite over our device and over stock rxe, side by side.
//!
//! `guest/rdma-tests.py` runs the suite that the distribution ships, unchanged, each module in a process of its own.

use crate::lab::Lab;
use crate::page::{provenance, table, write_part};
use crate::runner::kernel_trouble;
use crate::spec::LabSpec;
use crate::verbs::{Device, Kind};
use anyhow::{bail, Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Seconds for one module of the suite on a loaded machine.
const MODULE_LIMIT: u32 = 240;
/// Time for the suite on a loaded machine.
const SUITE_LIMIT: Duration = Duration::from_secs(1800);
/// Modules about other makers' devices, which skip all of theirs.
const FOREIGN: [&str; 2] = ["test_mlx5", "test_efa"];

/// Why a test of the suite is skipped: what its reason contains, and what is behind it.
const REASONS: [(&str, &str); 16] = [
    ("XRCD", "XRC: no librxe offers it"),
    ("Device memory", "no librxe offers device memory"),
    (
        "renderD128",
        "dma-buf regions from a GPU: no GPU here; librxe has no reg_dmabuf_mr either",
    ),
    ("Rereg MR", "no librxe offers rereg_mr"),
    ("Raw Packet", "raw packet queue pairs: not RoCE, no librxe offers them"),
    (
        "QP type 8",
        "raw packet queue pairs, for flow steering and RSS: not RoCE, no librxe offers them",
    ),
    ("Advise MR", "no librxe of this version offers advise_mr"),
    (
        "ODP implicit",
        "on-demand paging of all memory at once: not implemented",
    ),
    ("ODP is not supported", "on-demand paging: not implemented"),
    ("Huge pages", "User-mode Linux has no huge pages"),
    ("Parent Domain", "no librxe offers parent domains"),
    ("Importing a device", "no librxe offers device import"),
    (
        "Extended CQ",
        "tag matching and mlx5 only: needs flags that no librxe offers",
    ),
    ("Multicast", "multicast: not implemented"),
    ("cuda", "needs an Nvidia GPU and its Python package"),
    ("device", "tests of other makers' devices: they want one of theirs"),
];

/// One test's name, outcome and, if it did not pass, what it said.
pub type Test = (String, String, String);

/// How a module of the suite went.
#[derive(Clone, Debug, Deserialize)]
pub struct Module {
    pub tests: Vec<Test>,
    #[serde(default)]
    pub said: String,
}

/// How the suite went, by module.
pub type Report = BTreeMap<String, Module>;

/// Numbers of tests: run, passed, skipped, failed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Count {
    pub run: usize,
    pub passed: usize,
    pub skipped: usize,
    pub failed: usize,
}

/// Runs the suite, or the given modules of it, over a device; both ends of each test are that device.
pub fn suite(lab: &Lab, device: &Device, modules: &[&str]) -> Result<Report> {
    let limit = MODULE_LIMIT.to_string();
    let mut argv = vec!["/usb4lab/rdma-tests.py", &device.name, "-", &limit];
    argv.extend(modules);
    let report: Report =
        serde_json::from_str(&lab.ok_within(device.host, &argv, SUITE_LIMIT)?).context("the suite's report")?;
    for (name, module) in &report {
        if module.tests.is_empty() {
            bail!(
                "module {name} of the suite ran no test on {}:\n{}",
                device.name,
                module.said
            );
        }
    }
    Ok(report)
}

/// The tests that failed or in which the program died, with what they said.
pub fn failures(report: &Report) -> Vec<&Test> {
    report
        .values()
        .flat_map(|module| &module.tests)
        .filter(|(_, outcome, _)| !["passed", "skipped"].contains(&outcome.as_str()))
        .collect()
}

/// `usb4lab pyverbs`: the whole suite over ours and over rxe in one lab; the table, into docs/verbs.md if `write`.
pub fn run(ours: Kind, modules: &[String], write: bool) -> Result<()> {
    let lab = Lab::up(
        &format!("pyverbs-{}", std::process::id()),
        LabSpec {
            memory_mib: 1024,
            ..LabSpec::default()
        },
    )?;
    let marks = lab.marks();
    let modules: Vec<&str> = modules.iter().map(String::as_str).collect();
    let mut reports = Vec::new();
    for kind in [ours, Kind::Rxe] {
        eprintln!("the suite over {}", kind.link_type());
        let device = Device::add(&lab, 0, kind, 0)?;
        reports.push(suite(&lab, &device, &modules)?);
        device.delete(&lab)?;
    }
    let kernel = lab.ok(0, &["uname", "-r"])?.trim().to_string();
    let packages = lab.ok(0, &["dpkg-query", "-W", "-f", "${Version}", "python3-pyverbs"])?;
    if let Some(trouble) = kernel_trouble(&marks)? {
        bail!("a kernel complained during the suite:\n{trouble}");
    }
    lab.discard();
    let [own, theirs] = reports.as_slice() else {
        bail!("two reports expected");
    };
    let mut text = format!(
        "rdma-core's own suite, {} of Debian's python3-pyverbs, all {} modules, kernel {kernel} (User-mode Linux), both drivers in one lab, one after the other. {}.\n\n",
        packages.trim(),
        own.len(),
        provenance()
    );
    text += &compared(own, theirs);
    text += "\nSkipped with ours:\n\n";
    text += &skips(own, theirs);
    println!("{text}");
    if write {
        write_part("verbs.md", "pyverbs", "usb4lab pyverbs --write", &text)?;
    }
    judge(own, theirs)
}

/// An error where rxe does better.
fn judge(own: &Report, theirs: &Report) -> Result<()> {
    let (own_sum, their_sum) = (sum(own.values()), sum(theirs.values()));
    let known: Vec<&String> = failures(theirs).into_iter().map(|(name, ..)| name).collect();
    let worse: Vec<String> = failures(own)
        .into_iter()
        .filter(|(name, ..)| !known.contains(&name))
        .map(|(name, outcome, text)| format!("{name}: {outcome}\n{text}"))
        .collect();
    if !worse.is_empty() {
        bail!(
            "{} tests fail with ours and not with rxe:\n{}",
            worse.len(),
            worse.join("\n")
        );
    }
    if own_sum.passed < their_sum.passed {
        bail!("{} tests pass with ours, {} with rxe", own_sum.passed, their_sum.passed);
    }
    Ok(())
}

fn sum<'a>(modules: impl Iterator<Item = &'a Module>) -> Count {
    let mut count = Count::default();
    for (_, outcome, _) in modules.flat_map(|module| &module.tests) {
        count.run += 1;
        match outcome.as_str() {
            "passed" => count.passed += 1,
            "skipped" => count.skipped += 1,
            _ => count.failed += 1,
        }
    }
    count
}

fn foreign(name: &str) -> bool {
    FOREIGN.iter().any(|start| name.starts_with(start))
}

/// The table of both reports by module; modules of other makers in one row.
fn compared(own: &Report, theirs: &Report) -> String {
    let row = |name: String, counts: [Count; 2]| {
        let mut cells = vec![name];
        for count in counts {
            cells.extend([count.run, count.passed, count.skipped, count.failed].map(|n| n.to_string()));
        }
        cells
    };
    let pick = |report: &Report, wanted: &dyn Fn(&str) -> bool| {
        sum(report.iter().filter(|(name, _)| wanted(name)).map(|(_, module)| module))
    };
    let mut rows = Vec::new();
    for name in own.keys().filter(|name| !foreign(name)) {
        let counts = [own, theirs].map(|report| pick(report, &|n| n == name));
        rows.push(row(name.trim_start_matches("test_").to_string(), counts));
    }
    let others = own.keys().filter(|name| foreign(name)).count();
    if others > 0 {
        let counts = [own, theirs].map(|report| pick(report, &foreign));
        rows.push(row(format!("mlx5, efa ({others} modules)"), counts));
    }
    rows.push(row(
        "**all**".into(),
        [own, theirs].map(|report| pick(report, &|_| true)),
    ));
    let heading = [
        "module",
        "ours: run",
        "passed",
        "skipped",
        "failed",
        "rxe: run",
        "passed",
        "skipped",
        "failed",
    ];
    let mut text = table(&heading, &rows);
    for (name, report) in [("ours", own), ("rxe", theirs)] {
        for (test, outcome, said) in failures(report) {
            let last = said.lines().last().unwrap_or_default();
            text += &format!("\n{name}: `{test}` {outcome}: {last}\n");
        }
    }
    text
}

/// The skips of `own` by reason: how many, where, whether rxe skips them too, and what is behind it.
fn skips(own: &Report, theirs: &Report) -> String {
    let mut by_reason: BTreeMap<&str, Vec<&Test>> = BTreeMap::new();
    for test in own
        .values()
        .flat_map(|module| &module.tests)
        .filter(|t| t.1 == "skipped")
    {
        let why = REASONS
            .iter()
            .find(|(part, _)| test.2.contains(part))
            .map_or(test.2.as_str(), |(_, why)| why);
        by_reason.entry(why).or_default().push(test);
    }
    let skipped_too = |name: &str| {
        theirs
            .values()
            .flat_map(|module| &module.tests)
            .any(|(n, outcome, _)| n == name && outcome == "skipped")
    };
    let rows: Vec<Vec<String>> = by_reason
        .into_iter()
        .map(|(why, tests)| {
            let mut places: Vec<&str> = tests
                .iter()
                .filter_map(|(name, ..)| name.split('.').find(|part| part.contains("test_")))
                .map(|module| if foreign(module) { "other makers'" } else { module })
                .map(|module| module.trim_start_matches("test_").trim_start_matches("setUpClass ("))
                .collect();
            places.sort_unstable();
            places.dedup();
            let too = tests.iter().filter(|(name, ..)| skipped_too(name)).count();
            vec![
                why.to_string(),
                tests.len().to_string(),
                too.to_string(),
                places.join(", "),
            ]
        })
        .collect();
    table(&["reason", "tests", "of them skipped with rxe too", "in"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(text: &str) -> Report {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn reports_are_put_side_by_side() {
        let own = report(
            r#"{"test_mr": {"tests": [["test_mr.A.a", "passed", ""], ["test_mr.A.b", "skipped", "Create XRCD is not supported"]]},
                "test_mlx5_cq": {"tests": [["test_mlx5_cq.B.a", "skipped", "Can not run the test over non MLX5 device"]]}}"#,
        );
        let text = compared(&own, &own);
        assert!(text.contains("| mr | 2 | 1 | 1 | 0 | 2 | 1 | 1 | 0 |"), "{text}");
        assert!(text.contains("| mlx5, efa (1 modules) | 1 | 0 | 1 | 0 |"), "{text}");
        let text = skips(&own, &own);
        assert!(text.contains("| XRC: no librxe offers it | 1 | 1 | mr |"), "{text}");
        assert!(judge(&own, &own).is_ok());
    }

    #[test]
    fn a_failure_that_rxe_does_not_have_is_an_error() {
        let good = report(r#"{"test_mr": {"tests": [["t", "passed", ""]]}}"#);
        let bad = report(r#"{"test_mr": {"tests": [["t", "crashed", "boom"]]}}"#);
        let skipped = report(r#"{"test_mr": {"tests": [["t", "skipped", "no"]]}}"#);
        assert!(judge(&bad, &good).unwrap_err().to_string().contains("crashed"));
        assert!(judge(&skipped, &good).is_err());
        assert!(judge(&bad, &bad).is_ok());
    }
}
