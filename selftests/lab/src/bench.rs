// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4lab bench`: our driver against the stock one, side by side, interleaved, medians.

use crate::lab::Lab;
use crate::measure::{figure, median, table, Metric};
use crate::spec::LabSpec;
use crate::verbs::{Kind, Pair};
use crate::{wires, yardstick};
use anyhow::{bail, Context, Result};
use clap::ValueEnum;
use serde_json::{json, Value};
use std::fs;
use std::path::Path;

/// A group of measurements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Suite {
    /// Network driver, against thunderbolt_net.
    Net,
    /// Verbs, against stock rxe over the same cable; with `--net ours` over our netdev, and against TCP over it too.
    Rdma,
    /// Programs that use RDMA, over ours, TCP, and stock rxe.
    Apps,
    /// One queue pair over several cables, against one cable.
    Bond,
}

/// The rdma suite's metrics.
const RDMA: [Metric; 7] = [
    Metric::Bandwidth {
        name: "write_bw_1MiB",
        program: "ib_write_bw",
        size: 1 << 20,
        count: 64,
    },
    Metric::Bandwidth {
        name: "read_bw_1MiB",
        program: "ib_read_bw",
        size: 1 << 20,
        count: 64,
    },
    Metric::Bandwidth {
        name: "send_bw_1MiB",
        program: "ib_send_bw",
        size: 1 << 20,
        count: 64,
    },
    Metric::Bandwidth {
        name: "write_bw_64KiB",
        program: "ib_write_bw",
        size: 65536,
        count: 1024,
    },
    Metric::Latency {
        name: "write_lat_64B",
        program: "ib_write_lat",
        size: 64,
        count: 1000,
    },
    Metric::Latency {
        name: "send_lat_64B",
        program: "ib_send_lat",
        size: 64,
        count: 1000,
    },
    Metric::Latency {
        name: "read_lat_64B",
        program: "ib_read_lat",
        size: 64,
        count: 1000,
    },
];
/// The bandwidth metric whose CPU time is reported too, and the name of that row.
const CPU_OF: (&str, &str) = ("write_bw_1MiB", "write_cpu_s_per_gib");

/// All values of one metric: ours and theirs.
struct Series {
    metric: String,
    unit: &'static str,
    values: [Vec<f64>; 2],
}

/// Runs a suite and writes its rows to `file`.
pub fn run(suite: Suite, runs: usize, file: Option<&Path>, ours: Kind) -> Result<()> {
    match suite {
        Suite::Rdma => {}
        Suite::Net | Suite::Apps | Suite::Bond => bail!("this suite has a runner of its own"),
    }
    if runs == 0 {
        bail!("--runs must be at least 1");
    }
    let steal_before = steal_seconds();
    let lab = Lab::up(&format!("bench-{}", std::process::id()), LabSpec::measured())?;
    let mut all: Vec<Series> = RDMA
        .iter()
        .map(|m| Series {
            metric: m.name().into(),
            unit: m.unit(),
            values: [vec![], vec![]],
        })
        .collect();
    let mut cpu = Series {
        metric: CPU_OF.1.into(),
        unit: "s/GiB",
        values: [vec![], vec![]],
    };
    for n in 0..runs {
        for (side, kind) in [ours, Kind::Rxe].into_iter().enumerate() {
            eprintln!("run {} of {runs}: {}", n + 1, kind.link_type());
            let pair = Pair::add(&lab, kind, kind)?;
            for (metric, series) in RDMA.iter().zip(&mut all) {
                let reading = metric.measure(&lab, &pair).with_context(|| metric.name())?;
                series.values[side].push(reading.value);
                if let (true, Some(seconds)) = (metric.name() == CPU_OF.0, reading.cpu_s_per_gib) {
                    cpu.values[side].push(seconds);
                }
            }
            pair.delete(&lab)?;
        }
    }
    lab.discard();
    all.push(cpu);
    let rows: Vec<Value> = all.iter().filter_map(|series| row(series, runs)).collect();
    let report = json!({
        "suite": "rdma",
        "runs": runs,
        "load": fs::read_to_string("/proc/loadavg").unwrap_or_default().trim(),
        "steal_s": steal_seconds() - steal_before,
        "unsupported": ["ring_floor_rtt"],
        "rows": rows,
    });
    keep(&report, file)?;
    print!("{}", shown(&rows));
    println!("ring_floor_rtt: not over thunderbolt_net, which this suite uses: --net ours has it");
    Ok(())
}

/// Runs the rdma suite over our own netdev and writes its rows to `file`, its table into docs/benchmarks.md.
pub fn over_ours(runs: usize, file: Option<&Path>, write: bool) -> Result<()> {
    let report = wires::measure(runs)?;
    keep(&report.json(), file)?;
    if write {
        yardstick::write(&report)?;
    }
    print!("{}", with_cpu(&report.rows()));
    if !report.udp {
        println!("rows _vs_udp: the module that is built has no parameter `trains`");
    }
    Ok(())
}

/// Writes a report to the file that was asked for.
pub fn keep(report: &Value, file: Option<&Path>) -> Result<()> {
    let Some(file) = file else {
        return Ok(());
    };
    fs::write(file, serde_json::to_string_pretty(report)? + "\n").with_context(|| format!("{}", file.display()))
}

fn row(series: &Series, runs: usize) -> Option<Value> {
    let (ours, theirs) = (median(&series.values[0])?, median(&series.values[1])?);
    Some(json!({
        "metric": series.metric,
        "ours": ours,
        "theirs": theirs,
        "ratio": ours / theirs,
        "unit": series.unit,
        "peer": "rdma_rxe",
        "runs": runs,
        "values": {"ours": series.values[0], "theirs": series.values[1]},
    }))
}

fn shown(rows: &[Value]) -> String {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
    let number = |v: &Value| figure(v.as_f64().unwrap_or(f64::NAN));
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|r| {
            vec![
                text(&r["metric"]),
                text(&r["unit"]),
                number(&r["ours"]),
                number(&r["theirs"]),
                number(&r["ratio"]),
            ]
        })
        .collect();
    table(&["metric", "unit", "ours", "rxe", "ratio"], &cells)
}

/// Rows that carry CPU time.
fn with_cpu(rows: &[Value]) -> String {
    let text = |v: &Value| v.as_str().unwrap_or("-").to_string();
    let number = |v: &Value| v.as_f64().map_or_else(|| "-".into(), figure);
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|r| {
            let mut row = vec![text(&r["metric"]), text(&r["unit"])];
            row.extend(["ours", "theirs", "ratio"].map(|key| number(&r[key])));
            row.extend(["ours", "theirs", "ratio"].map(|key| number(&r["cpu"][key])));
            row.push(text(&r["cpu"]["unit"]));
            row
        })
        .collect();
    let heading = [
        "metric",
        "unit",
        "ours",
        "theirs",
        "ratio",
        "CPU ours",
        "CPU theirs",
        "ratio",
        "CPU in",
    ];
    table(&heading, &cells)
}

/// CPU time that the machine's own host took away, seconds since boot.
pub fn steal_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: f64 = stat
        .split_whitespace()
        .nth(8)
        .and_then(|t| t.parse().ok())
        .unwrap_or(0.0);
    ticks / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_carries_medians_and_their_ratio() {
        let series = Series {
            metric: "m".into(),
            unit: "us",
            values: [vec![1.0, 9.0, 2.0], vec![4.0, 4.0, 4.0]],
        };
        let row = row(&series, 3).unwrap();
        assert_eq!((row["ours"].as_f64(), row["ratio"].as_f64()), (Some(2.0), Some(0.5)));
        assert!(shown(&[row]).contains("0.50"));
    }
}
