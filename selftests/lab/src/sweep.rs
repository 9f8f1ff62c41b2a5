// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4lab sweep`: our verbs device against stock rxe over the same netdev, at every size from 8 B to 1 MiB.
//!
//! The two take turns a program at a time, so that what else the machine does falls on both.

use crate::lab::Lab;
use crate::measure::{figure, median, table};
use crate::page;
use crate::spec::LabSpec;
use crate::verbs::{Kind, Pair};
use anyhow::{bail, ensure, Context, Result};
use serde_json::{json, Value};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Time limit of one program on a loaded machine.
const LIMIT: Duration = Duration::from_secs(120);
/// Powers of four from 8 B, and 1 MiB.
const SIZES: [u64; 10] = [8, 32, 128, 512, 2048, 8192, 32 << 10, 128 << 10, 512 << 10, 1 << 20];
/// What fits a datagram at MTU 4096.
const SMALL: [u64; 6] = [8, 32, 128, 512, 2048, 4096];
/// Bytes that a bandwidth run moves, and messages it moves at least and at most.
const VOLUME: u64 = 24 << 20;
const MESSAGES: [u64; 2] = [24, 6000];
/// Bytes of a latency run, and its round trips.
const LAT_VOLUME: u64 = 8 << 20;
const TRIPS: [u64; 2] = [20, 300];

/// A program with its arguments, run at several sizes.
struct Series {
    name: &'static str,
    program: &'static str,
    arguments: &'static str,
    sizes: &'static [u64],
}

impl Series {
    fn is_latency(&self) -> bool {
        self.program.ends_with("_lat")
    }

    fn unit(&self) -> &'static str {
        match self.is_latency() {
            true => "us",
            false => "MiB/s",
        }
    }

    fn count(&self, size: u64) -> u64 {
        let (volume, [least, most]) = match self.is_latency() {
            true => (LAT_VOLUME, TRIPS),
            false => (VOLUME, MESSAGES),
        };
        let count = (volume / size).clamp(least, most);
        // perftest counts by queue pair.
        match self.arguments.contains("-q 64") {
            true => (count / 64).max(5),
            false => count,
        }
    }
}

const fn series(name: &'static str, program: &'static str, arguments: &'static str, sizes: &'static [u64]) -> Series {
    Series {
        name,
        program,
        arguments,
        sizes,
    }
}

const ALL: [Series; 14] = [
    series("send_bw", "ib_send_bw", "", &SIZES),
    series("write_bw", "ib_write_bw", "", &SIZES),
    series("read_bw", "ib_read_bw", "", &SIZES),
    series("send_bw both ways", "ib_send_bw", "-b", &[8, 4096, 1 << 20]),
    series(
        "write_bw both ways, 64 QPs",
        "ib_write_bw",
        "-b -q 64",
        &[8, 4096, 1 << 20],
    ),
    series("send_bw UC", "ib_send_bw", "-c UC", &SMALL),
    series("send_bw UD", "ib_send_bw", "-c UD", &SMALL),
    series("send_lat", "ib_send_lat", "", &SIZES),
    series("write_lat", "ib_write_lat", "", &SIZES),
    series("read_lat", "ib_read_lat", "", &SIZES),
    series("send_lat, events", "ib_send_lat", "-e", &SIZES),
    series("read_lat, events", "ib_read_lat", "-e", &SIZES),
    series("send_lat UC", "ib_send_lat", "-c UC", &[8, 4096]),
    series("send_lat UD", "ib_send_lat", "-c UD", &[8, 4096]),
];

/// How a sweep is made.
pub struct Sweep {
    pub runs: usize,
    /// Only series whose names contain it.
    pub only: Option<String>,
    /// Only this size.
    pub size: Option<u64>,
    pub json: Option<PathBuf>,
    /// Put the table into docs/benchmarks.md.
    pub write: bool,
}

/// Values of one series at one size, ours and theirs, by run.
#[derive(Default)]
struct Cell {
    values: [Vec<f64>; 2],
    /// CPU seconds of both hosts, by run.
    cpu: [Vec<f64>; 2],
    /// Runs that failed.
    failed: [usize; 2],
}

/// One reading.
struct Reading {
    value: f64,
    cpu: f64,
}

impl Sweep {
    /// Runs it.
    ///
    /// # Errors
    ///
    /// Nothing to run, or, at the end, a program that failed with our device. rxe's failures are only told.
    pub fn run(&self) -> Result<()> {
        let chosen: Vec<&Series> = ALL
            .iter()
            .filter(|s| self.only.as_ref().is_none_or(|only| s.name.contains(only.as_str())))
            .collect();
        if chosen.is_empty() || self.runs == 0 {
            bail!("nothing to run");
        }
        let before = page::provenance();
        let lab = Lab::up(&format!("sweep-{}", std::process::id()), LabSpec::measured())?;
        let mut cells: BTreeMap<(usize, u64), Cell> = BTreeMap::new();
        for n in 0..self.runs {
            for (index, series) in chosen.iter().enumerate() {
                eprintln!("run {} of {}: {}", n + 1, self.runs, series.name);
                // Who begins changes from run to run.
                let order = if n % 2 == 0 { [0, 1] } else { [1, 0] };
                for side in order {
                    let kind = [Kind::Usb4, Kind::Rxe][side];
                    let pair = Pair::add(&lab, kind, kind)?;
                    for size in series.sizes.iter().filter(|s| self.size.is_none_or(|only| only == **s)) {
                        let cell = cells.entry((index, *size)).or_default();
                        match measure(&lab, &pair, series, *size) {
                            Ok(reading) => {
                                cell.values[side].push(reading.value);
                                cell.cpu[side].push(reading.cpu);
                            }
                            Err(error) => {
                                eprintln!("{} {size} B, {}: {error:#}", series.name, kind.link_type());
                                cell.failed[side] += 1;
                            }
                        }
                    }
                    pair.delete(&lab)?;
                }
            }
        }
        lab.discard();
        self.report(&before, &chosen, &cells)?;
        let failed: usize = cells.values().map(|cell| cell.failed[0]).sum();
        ensure!(failed == 0, "{failed} runs with our device failed");
        Ok(())
    }

    fn report(&self, before: &str, chosen: &[&Series], cells: &BTreeMap<(usize, u64), Cell>) -> Result<()> {
        let rows: Vec<Value> = cells
            .iter()
            .map(|((index, size), cell)| row(chosen[*index], *size, cell))
            .collect();
        let heading = ["series", "bytes", "unit", "ours", "rxe", "ours/rxe", "CPU ours/rxe"];
        let shown: Vec<Vec<String>> = rows.iter().map(cells_of).collect();
        print!("{}", table(&heading, &shown));
        if let Some(file) = &self.json {
            let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
            let report = json!({"suite": "sweep", "runs": self.runs, "load": load.trim(), "rows": rows});
            fs::write(file, serde_json::to_string_pretty(&report)? + "\n")
                .with_context(|| file.display().to_string())?;
        }
        if self.write {
            let text = format!(
                "Medians of {}, the two taking turns over the same stock thunderbolt_net cable. CPU is that of both hosts, the programs' start \
                 and their polling included. {before}; load at the end {}.\n\n{}",
                self.runs,
                page::load(),
                page::table(&heading, &shown)
            );
            page::write_part("benchmarks.md", "sweep", "usb4lab sweep --write", &text)?;
        }
        Ok(())
    }
}

/// Runs one program; again where it reports nonsense, as perftest does when a busy machine spoils its estimate of the
/// clock.
fn measure(lab: &Lab, pair: &Pair, series: &Series, size: u64) -> Result<Reading> {
    let arguments = format!("{} -s {size} -n {}", series.arguments, series.count(size));
    for _ in 0..4 {
        let before = lab.cpu_seconds()?;
        let text = pair.perftest(lab, series.program, &arguments, LIMIT)?;
        let cpu = lab.cpu_seconds()? - before;
        let value = match series.is_latency() {
            true => typical(&text),
            false => rate(&text).map(|messages| messages * size as f64 / (1 << 20) as f64),
        };
        if let Some(value) = value.filter(|value| *value > 0.0 && value.is_finite()) {
            return Ok(Reading { value, cpu });
        }
    }
    bail!("nonsense four times: the machine is too busy to measure")
}

/// The fields of the line of figures.
fn fields(text: &str) -> Option<Vec<f64>> {
    text.lines()
        .map(|line| {
            line.split_whitespace()
                .map(str::parse::<f64>)
                .collect::<Result<Vec<_>, _>>()
        })
        .filter_map(Result::ok)
        .find(|fields| fields.len() >= 5)
}

/// Messages a second of a bandwidth run: the last column, which has more digits than the MiB/s.
fn rate(text: &str) -> Option<f64> {
    Some(fields(text)?.last()? * 1e6)
}

/// Typical latency in microseconds.
fn typical(text: &str) -> Option<f64> {
    fields(text)?.get(4).copied()
}

fn row(series: &Series, size: u64, cell: &Cell) -> Value {
    let [ours, theirs] = [0, 1].map(|side| median(&cell.values[side]));
    let [ours_cpu, theirs_cpu] = [0, 1].map(|side| median(&cell.cpu[side]));
    let ratio = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| a / b);
    json!({
        "series": series.name,
        "bytes": size,
        "unit": series.unit(),
        "ours": ours,
        "theirs": theirs,
        "ratio": ratio(ours, theirs),
        "cpu_ratio": ratio(ours_cpu, theirs_cpu),
        "values": {"ours": cell.values[0], "theirs": cell.values[1]},
        "cpu": {"ours": cell.cpu[0], "theirs": cell.cpu[1]},
        "failed": {"ours": cell.failed[0], "theirs": cell.failed[1]},
    })
}

fn cells_of(row: &Value) -> Vec<String> {
    let text = |key: &str| row[key].as_str().unwrap_or_default().to_string();
    let number = |key: &str| row[key].as_f64().map_or("-".into(), figure);
    let reading = |key: &str| match row["failed"][key].as_u64() {
        None | Some(0) => number(key),
        Some(failed) => format!("{} ({failed} failed)", number(key)),
    };
    vec![
        text("series"),
        row["bytes"].to_string(),
        text("unit"),
        reading("ours"),
        reading("theirs"),
        number("ratio"),
        number("cpu_ratio"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_latencies_are_read_from_the_line_of_figures() {
        let bw = " #bytes ...\n 8          3000             0.09               0.02   \t\t     0.003203\n";
        assert_eq!(rate(bw), Some(3203.0));
        let lat = " 8       500          128.44         19709.85      1448.52  \t       2018.78     \t2687.93\t\t1.0 \t\t2.0\n";
        assert_eq!(typical(lat), Some(1448.52));
        assert_eq!(typical("nothing"), None);
    }

    #[test]
    fn volumes_are_bounded() {
        let bw = &ALL[0];
        assert_eq!([8, 8192, 1 << 20].map(|s| bw.count(s)), [6000, 3072, 24]);
    }
}
