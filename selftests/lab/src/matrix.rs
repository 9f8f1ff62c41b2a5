// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4lab matrix`: perftest in all its variants, between our driver, stock rxe and both, one table.

mod cells;

use crate::duo::{Played, Run};
use crate::lab::Lab;
use crate::measure::{figure, median};
use crate::page::{load, provenance, table, write_part};
use crate::parse;
use crate::runner::kernel_trouble;
use crate::spec::LabSpec;
use crate::verbs::{port, Kind, Pair};
use anyhow::{bail, Result};
use cells::Cell;
use std::collections::BTreeMap;
use std::time::Instant;

/// Cells that are played in one column before the next.
const PORTION: usize = 12;

/// Who calls whom: client, server, the column's name.
fn pairings(ours: Kind) -> [(Kind, Kind, &'static str); 4] {
    [
        (ours, ours, "ours to ours"),
        (Kind::Rxe, Kind::Rxe, "rxe to rxe"),
        (ours, Kind::Rxe, "ours to rxe"),
        (Kind::Rxe, ours, "rxe to ours"),
    ]
}

/// What became of one cell in one column.
#[derive(Default)]
struct Readings {
    values: Vec<f64>,
    failures: Vec<String>,
    /// Why runs did not count and were repeated.
    repeats: Vec<&'static str>,
}

/// What became of one run.
enum Outcome {
    Value(f64),
    Failed(String),
    /// It says nothing of the devices and does not count.
    Repeat(&'static str),
}

/// Runs the matrix `runs` times; the table, into docs/benchmarks.md if `write`. `filter` selects cells by their
/// labels. An error if a cell with our driver failed that works between two rxe, or
/// if a kernel complained but between two rxe.
pub fn run(ours: Kind, runs: usize, filter: &str, write: bool) -> Result<()> {
    let cells: Vec<Cell> = cells::all()
        .into_iter()
        .filter(|c| c.label().contains(filter))
        .collect();
    if cells.is_empty() || runs == 0 {
        bail!("nothing to run: no cell's label contains {filter:?}");
    }
    let start = Instant::now();
    let before = provenance();
    let lab = Lab::up(
        &format!("matrix-{}", std::process::id()),
        LabSpec {
            memory_mib: 1536,
            ..LabSpec::measured()
        },
    )?;
    let kernel = lab.ok(0, &["uname", "-r"])?.trim().to_string();
    let mut readings: BTreeMap<(usize, usize), Readings> = BTreeMap::new();
    let mut complaints = Vec::new();
    let page = |readings: &BTreeMap<(usize, usize), Readings>, now: &str| {
        format!(
            "perftest of Debian trixie, kernel {kernel} (User-mode Linux, one processor a host), two hosts and one software USB4 cable, \
             netdev MTU 9000. {before}; load at the end {}; {:.0} s; {}{now}.\n\n{}",
            load(),
            start.elapsed().as_secs_f64(),
            match runs {
                1 => "one run a cell".to_string(),
                n => format!("medians of {n} runs, the columns in turn"),
            },
            shown(&cells, readings, runs)
        )
    };
    let save = |text: &str| write_part("benchmarks.md", "matrix", "usb4lab matrix --write", text);
    // The heavy ones last: what was measured so far is on the page while they run. The columns in turn for each
    // portion, so that a busy moment of the machine meets all of them.
    let mut order: Vec<usize> = (0..cells.len()).collect();
    order.sort_by_key(|&n| cells[n].is_heavy());
    for (n, portion) in (0..runs).flat_map(|_| order.chunks(PORTION)).enumerate() {
        let at = start.elapsed().as_secs_f64();
        eprintln!("[{at:4.0} s] {} of {} cells", n * PORTION, runs * cells.len());
        for (column, (client, server, name)) in pairings(ours).into_iter().enumerate() {
            let marks = lab.marks();
            play(&lab, &cells, portion, (client, server), |cell, outcome| {
                let readings = readings.entry((cell, column)).or_default();
                match outcome {
                    Outcome::Value(value) => readings.values.push(value),
                    Outcome::Failed(why) => {
                        eprintln!("{name}: {}: {why}", cells[cell].label());
                        readings.failures.push(why);
                    }
                    Outcome::Repeat(why) => readings.repeats.push(why),
                }
            })?;
            let complaint = kernel_trouble(&marks)?.map(|text| format!("{name}: {text}"));
            match complaint {
                Some(text) if client == Kind::Rxe && server == Kind::Rxe => eprintln!("rxe's own: {text}"),
                complaint => complaints.extend(complaint),
            }
        }
        if write {
            save(&page(&readings, "; **not finished**"))?;
        }
    }
    lab.discard();
    let text = page(&readings, "");
    println!("{text}");
    if write {
        save(&text)?;
    }
    if !complaints.is_empty() {
        bail!("a kernel complained during the matrix:\n{}", complaints.join("\n"));
    }
    worse(&cells, &readings)
}

/// An error for cells with our driver that fail where rxe alone does not.
fn worse(cells: &[Cell], readings: &BTreeMap<(usize, usize), Readings>) -> Result<()> {
    let failed = |cell: usize, column: usize| readings.get(&(cell, column)).is_some_and(|r| !r.failures.is_empty());
    let bad: Vec<String> = (0..cells.len())
        .filter(|&n| !failed(n, 1) && [0, 2, 3].iter().any(|&column| failed(n, column)))
        .map(|n| cells[n].label())
        .collect();
    if bad.is_empty() {
        return Ok(());
    }
    bail!(
        "{} cells fail with ours and not between two rxe: {}",
        bad.len(),
        bad.join("; ")
    )
}

/// Plays cells between two kinds of device and tells what became of each.
fn play(
    lab: &Lab,
    cells: &[Cell],
    numbers: &[usize],
    (client, server): (Kind, Kind),
    mut tell: impl FnMut(usize, Outcome),
) -> Result<()> {
    let pair = Pair::add(lab, client, server)?;
    let mut left = numbers.to_vec();
    for attempt in 1..=ATTEMPTS {
        let runs: Vec<Run> = left.iter().map(|&n| command(&cells[n], n, &pair)).collect();
        let mut again = Vec::new();
        for (n, played) in left.into_iter().zip(pair.play(lab, &runs)?) {
            match outcome(&cells[n], client, &played) {
                Outcome::Repeat(why) if attempt == ATTEMPTS => tell(n, Outcome::Failed(why.into())),
                outcome => {
                    if matches!(outcome, Outcome::Repeat(_)) {
                        again.push(n);
                    }
                    tell(n, outcome);
                }
            }
        }
        left = again;
        if left.is_empty() {
            break;
        }
    }
    pair.delete(lab)
}

/// A busy machine spoils perftest's estimate of the clock now and then.
const NONSENSE: &str = "perftest reported nonsense";
/// With -R perftest connects twice, and its second call may come before its server listens again.
const OWN_RACE: &str = "RDMA_CM_EVENT_REJECTED; error: 8";
/// docs/verbs.md, "What rxe does wrong as a sender".
const RXE_RESENDS: &str = "rxe's fault when it sends again";
/// Runs of a cell that meets one of these.
const ATTEMPTS: usize = 6;

fn command(cell: &Cell, number: usize, pair: &Pair) -> Run {
    let line = |device: &crate::verbs::Device| {
        format!(
            "exec {} -d {} -x {} -F {}",
            cell.program(),
            device.name,
            device.gid,
            cell.arguments()
        )
    };
    Run {
        id: number.to_string(),
        server: line(&pair.server),
        client: format!("{} {}", line(&pair.client), pair.server.ipv4),
        // With rdma_cm perftest waits for the caller with rdma_cm on the same port.
        listen: match cell.uses_cm() {
            true => format!("cm:{}", port()),
            false => format!("tcp:{}", port()),
        },
        limit: cell.limit(),
    }
}

/// What became of a run of a cell whose requests `client` sent.
fn outcome(cell: &Cell, client: Kind, played: &Played) -> Outcome {
    if let Some(trouble) = played.trouble() {
        if trouble.contains(OWN_RACE) {
            return Outcome::Repeat(OWN_RACE);
        }
        let refused = ["Failed status 9:", "Failed status 11:"]
            .iter()
            .any(|s| trouble.contains(s))
            || trouble.contains("Failed status 5:") && trouble.contains("Failed status 1:");
        if client == Kind::Rxe && cell.has_resends_of_sends() && refused {
            return Outcome::Repeat(RXE_RESENDS);
        }
        return Outcome::Failed(reason(&trouble, played));
    }
    let value = if cell.is_latency() {
        parse::latency(&played.client.out).map(|row| row.typical_us)
    } else {
        parse::bandwidth(&played.client.out).map(|rows| match cell.counts_messages() {
            true => rows[0].mega_messages_s * 1000.0,
            false => rows[0].mib_s,
        })
    };
    match value {
        Ok(value) if value > 0.0 && value.is_finite() => Outcome::Value(value),
        Ok(_) => Outcome::Repeat(NONSENSE),
        Err(_) => Outcome::Failed("perftest printed no table".into()),
    }
}

/// The line that tells most, of a run that failed.
fn reason(trouble: &str, played: &Played) -> String {
    let telling = ["Failed status", "Completion with error", "ailed", "rror", "nable"];
    let found = telling
        .iter()
        .find_map(|part| trouble.lines().find(|line| line.contains(part)));
    match (found, played.client.status) {
        (Some(line), _) => line.trim().to_string(),
        (None, 124) => format!("time limit of {:.0} s", played.seconds),
        (None, status) => format!("status {status}, server {}", played.server.status),
    }
}

fn shown(cells: &[Cell], readings: &BTreeMap<(usize, usize), Readings>, runs: usize) -> String {
    let mut rows = Vec::new();
    let mut notes = Vec::new();
    for (n, cell) in cells.iter().enumerate() {
        let mut values = [None; 4];
        let mut row = vec![
            cell.program().to_string(),
            cell.transport().into(),
            cell.size_name(),
            cell.qps().to_string(),
        ];
        row.extend([cell.options().to_string(), cell.unit().into()]);
        for (column, value) in values.iter_mut().enumerate() {
            let Some(readings) = readings.get(&(n, column)) else {
                row.push("-".into());
                continue;
            };
            *value = median(&readings.values);
            row.push(match (*value, readings.failures.len()) {
                (None, _) => "FAILED".into(),
                (Some(v), 0) => figure(v),
                (Some(v), failed) => format!("{} ({failed} of {runs} FAILED)", figure(v)),
            });
            let mut note = |what: &str, why: &str| {
                notes.push(format!(
                    "- {}, {}: {what}{why}",
                    cell.label(),
                    pairings(Kind::Usb4)[column].2
                ));
            };
            readings.failures.iter().for_each(|why| note("failed: ", why));
            readings.repeats.iter().for_each(|why| note("repeated: ", why));
        }
        row.push(match values {
            [Some(ours), Some(theirs), ..] => format!("{:.2}", ours / theirs),
            _ => "-".into(),
        });
        rows.push(row);
    }
    let mut heading = vec!["program", "service", "size", "QPs", "options", "unit"];
    heading.extend(pairings(Kind::Usb4).map(|(_, _, name)| name));
    heading.push("ours/rxe");
    let mut text = table(&heading, &rows);
    if !notes.is_empty() {
        text += &format!("\nFailures, and runs that were repeated:\n\n{}\n", notes.join("\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_in_its_cell_and_below() {
        let cells: Vec<Cell> = cells::all().into_iter().take(1).collect();
        let mut readings = BTreeMap::new();
        for column in 0..4 {
            let failed = column == 2;
            readings.insert(
                (0, column),
                Readings {
                    values: if failed { vec![] } else { vec![2.0 + column as f64] },
                    failures: if failed { vec!["it broke".into()] } else { vec![] },
                    repeats: vec![],
                },
            );
        }
        let text = shown(&cells, &readings, 1);
        assert!(text.contains("| 2.00 | 3.00 | FAILED | 5.00 | 0.67 |"), "{text}");
        assert!(text.contains("ours to rxe: failed: it broke"), "{text}");
        assert!(worse(&cells, &readings).is_err());
        readings.entry((0, 1)).or_default().failures.push("theirs too".into());
        assert!(worse(&cells, &readings).is_ok());
    }
}
