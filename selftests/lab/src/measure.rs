// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Measurements over a pair of devices, and how readings of two drivers are put side by side.

use crate::lab::Lab;
use crate::parse;
use crate::verbs::Pair;
use anyhow::{bail, ensure, Context, Result};
use std::time::Duration;

/// Time limit of one measurement on a loaded machine.
const LIMIT: Duration = Duration::from_secs(180);
const GIB: f64 = (1u64 << 30) as f64;

/// Something to measure with one run of a perftest program.
#[derive(Clone, Copy, Debug)]
pub enum Metric {
    /// Average of `count` messages, MiB/s.
    Bandwidth {
        name: &'static str,
        program: &'static str,
        size: u64,
        count: u64,
    },
    /// Typical half round trip (reads: whole), microseconds.
    Latency {
        name: &'static str,
        program: &'static str,
        size: u64,
        count: u64,
    },
    /// Round trip of the validated pingpong example, microseconds.
    PingPong { name: &'static str, count: u64 },
}

/// One result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    pub value: f64,
    /// CPU seconds of both hosts for each GiB moved; bandwidth only.
    pub cpu_s_per_gib: Option<f64>,
}

impl Metric {
    pub fn name(&self) -> &'static str {
        match self {
            Metric::Bandwidth { name, .. } | Metric::Latency { name, .. } | Metric::PingPong { name, .. } => name,
        }
    }

    pub fn unit(&self) -> &'static str {
        match self {
            Metric::Bandwidth { .. } => "MiB/s",
            Metric::Latency { .. } | Metric::PingPong { .. } => "us",
        }
    }

    /// Runs the program; again if it reported nonsense, as perftest does when a busy machine spoils its estimate of the
    /// clock.
    pub fn measure(&self, lab: &Lab, pair: &Pair) -> Result<Reading> {
        for _ in 0..3 {
            let reading = self.once(lab, pair)?;
            if reading.value > 0.0 && reading.value.is_finite() {
                return Ok(reading);
            }
        }
        bail!(
            "{} reported nonsense three times: the machine is too busy to measure",
            self.name()
        )
    }

    fn once(&self, lab: &Lab, pair: &Pair) -> Result<Reading> {
        match *self {
            Metric::Bandwidth {
                program, size, count, ..
            } => {
                let before = lab.cpu_seconds()?;
                let text = pair.perftest(lab, program, &format!("-n {count} -s {size}"), LIMIT)?;
                let cpu = lab.cpu_seconds()? - before;
                let rows = parse::bandwidth(&text)?;
                let row = rows.first().context("empty table")?;
                ensure!(
                    row.bytes == size && row.iterations == count,
                    "{program} reported {row:?}"
                );
                Ok(Reading {
                    value: row.mib_s,
                    cpu_s_per_gib: Some(cpu * GIB / (size * count) as f64),
                })
            }
            Metric::Latency {
                program, size, count, ..
            } => {
                let text = pair.perftest(lab, program, &format!("-n {count} -s {size}"), LIMIT)?;
                Ok(Reading {
                    value: parse::latency(&text)?.typical_us,
                    cpu_s_per_gib: None,
                })
            }
            Metric::PingPong { count, .. } => {
                let result = parse::pingpong(&pair.pingpong(lab, &format!("-c -n {count}"), LIMIT)?)?;
                ensure!(
                    result.iterations == count,
                    "the pingpong stopped after {}",
                    result.iterations
                );
                Ok(Reading {
                    value: result.us_per_iteration,
                    cpu_s_per_gib: None,
                })
            }
        }
    }
}

/// The middle value; the lower of two middles' mean for even counts.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// Lines of a table with a heading, columns aligned: the first to the left, the others to the right.
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    let line = |cells: Vec<&str>| {
        let mut text = String::new();
        for (n, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            text += &if n == 0 {
                format!("{cell:<width$}")
            } else {
                format!("  {cell:>width$}")
            };
        }
        text.trim_end().to_string() + "\n"
    };
    let rule: Vec<String> = widths.iter().map(|w| "-".repeat(*w)).collect();
    let mut text = line(heading.to_vec()) + &line(rule.iter().map(String::as_str).collect());
    for row in rows {
        text += &line(row.iter().map(String::as_str).collect());
    }
    text
}

/// A number with as many digits as it deserves.
pub fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn tables_align() {
        let text = table(
            &["what", "ours"],
            &[vec!["send".into(), "1.50".into()], vec!["w".into(), "128".into()]],
        );
        assert_eq!(text, "what  ours\n----  ----\nsend  1.50\nw      128\n");
    }

    #[test]
    fn figures_are_short() {
        assert_eq!([figure(137.2), figure(28.46), figure(1.234)], ["137", "28.5", "1.23"]);
    }
}
