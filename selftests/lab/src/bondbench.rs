// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4lab bench --suite bond`: one queue pair over several cables beside one cable of the same rate.
//!
//! Rates and latencies are of virtual time, exact whatever else the machine does; CPU time is of the machine's, without
//! a limit of rate. Grounds in turns, medians.

use crate::bench::{keep, steal_seconds};
use crate::bonded::Bond;
use crate::cases::bonds::{ringed, RING, RINGS, UNEQUAL};
use crate::lab::Lab;
use crate::load::{self, Load, Reading};
use crate::measure::{figure, median};
use crate::page;
use crate::runner::kernel_trouble;
use crate::spec::{Kernel, LabSpec, NetDriver, Profile, Topology};
use crate::verbs::Kind;
use crate::virtually::{Ground, Played, RATE};
use anyhow::{bail, ensure, Context, Result};
use serde_json::{json, Value};
use std::path::Path;

/// Cables that a figure is measured over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cables {
    One,
    Two,
    Four,
    /// Of unequal rates.
    Unequal,
    /// Faster than the rings that feed them.
    Ringed,
}

const GROUNDS: [Cables; 5] = [Cables::One, Cables::Two, Cables::Four, Cables::Unequal, Cables::Ringed];

impl Cables {
    fn name(self) -> &'static str {
        match self {
            Cables::One => "one cable",
            Cables::Two => "two cables",
            Cables::Four => "four cables",
            Cables::Unequal => "four cables of R, R, R/2 and R/4",
            Cables::Ringed => "two cables of 36G, rings of 12G",
        }
    }

    fn ground(self, seed: u64) -> Ground {
        let equal = |profile, count| Ground::of(profile, &vec![1.0; count], seed, Kernel::Lab);
        match self {
            Cables::One => equal(Profile::Intel, 1),
            Cables::Two => equal(Profile::Strix, 2),
            Cables::Four => equal(Profile::Intel, 4),
            Cables::Unequal => Ground::of(Profile::Intel, &UNEQUAL, seed, Kernel::Lab),
            Cables::Ringed => ringed(2, seed, Kernel::Lab),
        }
    }
}

/// What a figure is put beside.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Beside {
    /// The same over one cable.
    OneCable,
    /// Bits a second that somebody could carry.
    Sum(f64),
}

/// What is asked of the ratio of the two.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Asked {
    Least(f64),
    Most(f64),
}

/// A row of the report.
#[derive(Clone, Copy, Debug)]
struct Row {
    metric: &'static str,
    title: &'static str,
    scene: &'static str,
    over: Cables,
    beside: Beside,
    asked: Asked,
}

const fn row(
    metric: &'static str,
    title: &'static str,
    scene: &'static str,
    over: Cables,
    beside: Beside,
    asked: Asked,
) -> Row {
    Row {
        metric,
        title,
        scene,
        over,
        beside,
        asked,
    }
}

const WRITE: &str = "stream_write_1048576_one";
const READ: &str = "stream_read_1048576_one";
const SEND: &str = "stream_send_1048576_one";
/// R, R, R/2 and R/4.
const UNEQUAL_SUM: f64 = 2.75 * RATE;
/// Both rings of both cables.
const RINGS_SUM: f64 = 2.0 * RINGS * RING;

#[rustfmt::skip]
const ROWS: [Row; 15] = [
    row("write_bw_2_over_1", "WRITE 1 MiB", WRITE, Cables::Two, Beside::OneCable, Asked::Least(1.9)),
    row("read_bw_2_over_1", "READ 1 MiB", READ, Cables::Two, Beside::OneCable, Asked::Least(1.9)),
    row("send_bw_2_over_1", "SEND 1 MiB", SEND, Cables::Two, Beside::OneCable, Asked::Least(1.9)),
    row("write_bw_4_over_1", "WRITE 1 MiB", WRITE, Cables::Four, Beside::OneCable, Asked::Least(3.8)),
    row("read_bw_4_over_1", "READ 1 MiB", READ, Cables::Four, Beside::OneCable, Asked::Least(3.8)),
    row("send_bw_4_over_1", "SEND 1 MiB", SEND, Cables::Four, Beside::OneCable, Asked::Least(3.8)),
    row("write_bw_64KiB_4_over_1", "WRITE 64 KiB", "stream_write_65536_one", Cables::Four, Beside::OneCable,
        Asked::Least(3.0)),
    row("write_imm_lat_16KiB_4_over_1", "WRITE_WITH_IMM 16 KiB, a round", "rounds_16384", Cables::Four,
        Beside::OneCable, Asked::Most(0.6)),
    row("write_imm_lat_64B_4_over_1", "WRITE_WITH_IMM 64 B, a round", "rounds_64", Cables::Four, Beside::OneCable,
        Asked::Most(1.1)),
    row("write_bw_unequal_over_sum", "WRITE 1 MiB", WRITE, Cables::Unequal, Beside::Sum(UNEQUAL_SUM),
        Asked::Least(0.92)),
    row("read_bw_unequal_over_sum", "READ 1 MiB", READ, Cables::Unequal, Beside::Sum(UNEQUAL_SUM),
        Asked::Least(0.92)),
    row("send_bw_unequal_over_sum", "SEND 1 MiB", SEND, Cables::Unequal, Beside::Sum(UNEQUAL_SUM),
        Asked::Least(0.92)),
    row("write_bw_rings_over_sum", "WRITE 1 MiB", WRITE, Cables::Ringed, Beside::Sum(RINGS_SUM), Asked::Least(0.95)),
    row("read_bw_rings_over_sum", "READ 1 MiB", READ, Cables::Ringed, Beside::Sum(RINGS_SUM), Asked::Least(0.95)),
    row("send_bw_rings_over_sum", "SEND 1 MiB", SEND, Cables::Ringed, Beside::Sum(RINGS_SUM), Asked::Least(0.95)),
];

impl Row {
    fn is_latency(&self) -> bool {
        matches!(self.asked, Asked::Most(_))
    }

    fn unit(&self) -> &'static str {
        if self.is_latency() {
            "us"
        } else {
            "Gbit/s"
        }
    }

    /// Whether a ground has to be measured for it.
    fn needs(&self, cables: Cables) -> bool {
        cables == self.over || cables == Cables::One && self.beside == Beside::OneCable
    }
}

/// All values of a scene over a ground, round by round.
#[derive(Debug)]
struct Series {
    over: Cables,
    scene: &'static str,
    values: Vec<f64>,
}

/// Everything that was measured.
#[derive(Debug, Default)]
struct Measured {
    series: Vec<Series>,
    /// CPU time of both guests over one cable, and over four, s/GiB; none if it was not measured.
    cpu: [Vec<f64>; 2],
}

/// The load whose CPU time is told, its row, and what is asked.
const CPU_LOAD: &str = "write_bw_1MiB";
const CPU_ROW: &str = "cpu_4_over_1";
const CPU_ASKED: Asked = Asked::Most(1.1);
/// Cables in each of its labs.
const CPU_CABLES: [usize; 2] = [1, 4];

/// Runs the suite; its rows to `file`, its tables into docs/benchmarks.md. With `exact` only what is of virtual time.
///
/// # Errors
///
/// A program that fails, a queue pair that counts trouble, a kernel that complains.
pub fn run(runs: usize, exact: bool, file: Option<&Path>, write: bool) -> Result<()> {
    ensure!(runs > 0, "--runs must be at least 1");
    let before = page::provenance();
    let steal_before = steal_seconds();
    let mut measured = Measured::default();
    for n in 0..runs {
        // Who begins changes from run to run.
        for turn in 0..GROUNDS.len() {
            let cables = GROUNDS[(n + turn) % GROUNDS.len()];
            eprintln!("run {} of {runs}: {}", n + 1, cables.name());
            measured.play(cables, n as u64 + 1).with_context(|| cables.name())?;
        }
    }
    let load = load::ALL.iter().find(|load| load.name == CPU_LOAD).context(CPU_LOAD)?;
    let mut counts = [None, None];
    for n in 0..if exact { 0 } else { runs } {
        for turn in 0..2 {
            let index = (n + turn) % 2;
            eprintln!("run {} of {runs}: CPU over {} cables", n + 1, CPU_CABLES[index]);
            let reading = cpu_over(CPU_CABLES[index], load, &mut counts[index])?;
            measured.cpu[index].push(reading.cpu.iter().sum());
        }
    }
    let provenance = format!("{before}; load at the end {}; {runs} runs", page::load());
    let rows = measured.rows(runs)?;
    keep(
        &json!({
            "suite": "bond",
            "runs": runs,
            "provenance": provenance,
            "load": page::load(),
            "steal_s": steal_seconds() - steal_before,
            "unsupported": if exact { vec![CPU_ROW] } else { vec![] },
            "rows": rows,
        }),
        file,
    )?;
    let (timeless, cpu): (Vec<&Value>, Vec<&Value>) = rows.iter().partition(|row| row["metric"] != CPU_ROW);
    for (part, rows) in [("bond", timeless), ("bond-cpu", cpu)] {
        if rows.is_empty() {
            continue;
        }
        let text = format!("{provenance}.\n\n{}", shown(&rows));
        println!("{text}");
        if write {
            page::write_part("benchmarks.md", part, "usb4lab bench --suite bond --write", &text)?;
        }
    }
    Ok(())
}

impl Measured {
    /// Plays what any row needs of a ground.
    fn play(&mut self, cables: Cables, seed: u64) -> Result<()> {
        let mut scenes: Vec<&'static str> = Vec::new();
        for row in ROWS.iter().filter(|row| row.needs(cables)) {
            if !scenes.contains(&row.scene) {
                scenes.push(row.scene);
            }
        }
        let played = cables.ground(seed).play(&[], &scenes)?;
        played.untroubled()?;
        let latency = |scene: &&str| ROWS.iter().any(|row| row.scene == *scene && row.is_latency());
        let (rounds, streams): (Vec<&str>, Vec<&str>) = scenes.into_iter().partition(latency);
        let bits = played.goodputs()?.into_iter().map(|bits| bits / 1e9).collect();
        self.add(cables, &streams, bits, &played)?;
        self.add(cables, &rounds, played.rounds_us()?, &played)
    }

    fn add(&mut self, over: Cables, scenes: &[&'static str], values: Vec<f64>, played: &Played) -> Result<()> {
        ensure!(
            scenes.len() == values.len(),
            "scenes are missing in\n{}",
            played.said[0]
        );
        for (&scene, value) in scenes.iter().zip(values) {
            match self.find_mut(over, scene) {
                Some(series) => series.values.push(value),
                None => self.series.push(Series {
                    over,
                    scene,
                    values: vec![value],
                }),
            }
        }
        Ok(())
    }

    fn find_mut(&mut self, over: Cables, scene: &str) -> Option<&mut Series> {
        self.series.iter_mut().find(|s| (s.over, s.scene) == (over, scene))
    }

    fn values(&self, over: Cables, scene: &str) -> Result<&[f64]> {
        let series = self.series.iter().find(|s| (s.over, s.scene) == (over, scene));
        series
            .map(|s| s.values.as_slice())
            .with_context(|| format!("{scene} was not measured over {}", over.name()))
    }

    fn rows(&self, runs: usize) -> Result<Vec<Value>> {
        let mut rows = Vec::new();
        for row in &ROWS {
            let ours = self.values(row.over, row.scene)?;
            let (theirs, peer) = match row.beside {
                Beside::OneCable => (self.values(Cables::One, row.scene)?.to_vec(), "one cable"),
                Beside::Sum(bits) => (vec![bits / 1e9], "the sum of the rates"),
            };
            rows.extend(compared(
                row.metric,
                &format!("{}, {}", row.title, row.over.name()),
                row.unit(),
                peer,
                ours,
                &theirs,
                row.asked,
                runs,
            ));
        }
        let [one, four] = &self.cpu;
        rows.extend(compared(
            CPU_ROW,
            "CPU of WRITE 1 MiB, four cables without a rate",
            "s/GiB",
            "one cable",
            four,
            one,
            CPU_ASKED,
            runs,
        ));
        Ok(rows)
    }
}

/// A row of medians beside each other; none where a side was not measured.
#[allow(clippy::too_many_arguments)] // a row has as many cells
fn compared(
    metric: &str,
    title: &str,
    unit: &str,
    peer: &str,
    ours: &[f64],
    theirs: &[f64],
    asked: Asked,
    runs: usize,
) -> Option<Value> {
    let (a, b) = (median(ours)?, median(theirs)?);
    let ratio = a / b;
    let (asked, met) = match asked {
        Asked::Least(least) => (json!({"at_least": least}), ratio >= least),
        Asked::Most(most) => (json!({"at_most": most}), ratio <= most),
    };
    Some(json!({
        "metric": metric,
        "title": title,
        "ours": a,
        "theirs": b,
        "ratio": ratio,
        "asked": asked,
        "met": met,
        "unit": unit,
        "peer": peer,
        "runs": runs,
        "values": {"ours": ours, "theirs": theirs},
    }))
}

fn shown(rows: &[&Value]) -> String {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
    let number = |v: &Value| figure(v.as_f64().unwrap_or(f64::NAN));
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|r| {
            let asked = match (&r["asked"]["at_least"], &r["asked"]["at_most"]) {
                (Value::Null, most) => format!("at most {most}"),
                (least, _) => format!("at least {least}"),
            };
            vec![
                text(&r["metric"]),
                text(&r["title"]),
                text(&r["unit"]),
                number(&r["ours"]),
                format!("{} ({})", number(&r["theirs"]), text(&r["peer"])),
                format!("{:.3}", r["ratio"].as_f64().unwrap_or(f64::NAN)),
                format!("{asked}{}", if r["met"] == true { "" } else { ": missed" }),
            ]
        })
        .collect();
    page::table(&["row", "what", "unit", "several", "beside", "ratio", "asked"], &cells)
}

/// CPU time of a load over a bond of so many cables without a rate, in a lab of its own.
fn cpu_over(cables: usize, load: &Load, count: &mut Option<u64>) -> Result<Reading> {
    let spec = LabSpec {
        net: vec![NetDriver::Ours; 2],
        pinned: true,
        ..LabSpec::wired(Profile::Intel, Topology::Pair, 2, cables)?
    };
    let lab = Lab::up(&format!("bond-{}", std::process::id()), spec)?;
    let marks = lab.marks();
    let bond = Bond::of_pair(&lab, "balance-xor");
    bond.make(&lab)?;
    let pair = bond.link(&lab, Kind::Usb4, "bonded")?;
    let reading = load.measure(&lab, &pair, count)?;
    bond.undo(&lab, Some("bonded"))?;
    if let Some(trouble) = kernel_trouble(&marks)? {
        bail!("a kernel complained:\n{trouble}");
    }
    lab.discard();
    Ok(reading)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> Measured {
        let mut measured = Measured::default();
        for row in &ROWS {
            for cables in GROUNDS.into_iter().filter(|cables| row.needs(*cables)) {
                if measured.values(cables, row.scene).is_err() {
                    measured.series.push(Series {
                        over: cables,
                        scene: row.scene,
                        values: vec![1.0, 3.0, 2.0],
                    });
                }
            }
        }
        measured
    }

    #[test]
    fn rows_are_medians_beside_one_cable_and_beside_the_sum() {
        let mut measured = measured();
        measured.find_mut(Cables::Four, WRITE).unwrap().values = vec![7.8];
        let rows = measured.rows(3).unwrap();
        assert_eq!(rows.len(), ROWS.len(), "no row of what was not measured");
        let named = |name: &str| rows.iter().find(|row| row["metric"] == name).unwrap();
        assert_eq!(named("write_bw_4_over_1")["ratio"], 3.9);
        assert_eq!(named("write_bw_4_over_1")["met"], true);
        assert_eq!(named("read_bw_4_over_1")["met"], false);
        assert_eq!(named("write_bw_rings_over_sum")["theirs"], 48.0);
        let table = shown(&[named("write_bw_4_over_1"), named("read_bw_4_over_1")]);
        assert!(table.contains("| 3.900 | at least 3.8 |"), "{table}");
        assert!(table.contains("| 1.000 | at least 3.8: missed |"), "{table}");
    }

    #[test]
    fn the_cpu_row_is_there_when_it_was_measured() {
        let mut measured = measured();
        measured.cpu = [vec![0.5], vec![0.6]];
        let rows = measured.rows(1).unwrap();
        let row = rows.last().unwrap();
        assert_eq!((&row["metric"], &row["met"]), (&json!(CPU_ROW), &json!(false)));
    }

    #[test]
    fn the_sums_are_those_of_the_grounds() {
        assert_eq!(Cables::Unequal.ground(1).sum(), UNEQUAL_SUM);
        assert_eq!(RINGS_SUM, 48e9);
    }
}
