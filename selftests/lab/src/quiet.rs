// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What a user who registers memory in a loop does to others: `ib_write_bw` between the hosts alone, beside a program
//! that makes as many system calls without our device, and beside one that registers and deregisters
//! (`guest/churn.py`).
//!
//! Beside the second it has its share of the processor, so the third against the second says what the device does to
//! those who are not its users. On a host with several processors the loops have the last to themselves, and the first
//! counts.

use crate::fair;
use crate::lab::Lab;
use crate::measure::{figure, median};
use crate::parse;
use crate::spec::LabSpec;
use crate::verbs::{Kind, Pair};
use anyhow::{ensure, Context, Result};
use std::time::Duration;

/// Registrations in all.
const ROUNDS: u64 = 100_000;
/// Readings of each kind at least and at most, however many registrations they are.
const READINGS: [usize; 2] = [5, 40];
/// Part of the bandwidth that is kept.
const KEPT: f64 = 0.9;
/// Messages of a reading.
const MESSAGES: &str = "-s 65536 -n 3000";
const LIMIT: Duration = Duration::from_secs(180);

/// What runs beside the bandwidth test.
const BESIDE: [&str; 3] = ["", "calls", "regions"];

/// Bandwidths in MiB/s: medians alone, beside system calls, beside registrations.
pub struct Quiet {
    pub medians: [f64; 3],
    pub registrations: u64,
    pub processors: usize,
    pub readings: usize,
}

impl Quiet {
    /// What is kept of what could be expected.
    pub fn kept(&self) -> f64 {
        let [alone, calls, regions] = self.medians;
        regions / if self.processors > 1 { alone } else { calls }
    }

    pub fn shown(&self) -> String {
        let [alone, calls, regions] = self.medians.map(figure);
        format!(
            "ib_write_bw {alone} MiB/s alone, {calls} beside system calls, {regions} beside {} registrations ({} readings, {} processors): {:.2}",
            self.registrations,
            self.readings,
            self.processors,
            self.kept()
        )
    }

    pub fn judge(&self) -> Result<()> {
        ensure!(self.kept() >= KEPT, "less than {KEPT} is kept: {}", self.shown());
        Ok(())
    }
}

/// Measures on a pair, whose client's host has the loops.
pub fn measure(lab: &Lab, pair: &Pair) -> Result<Quiet> {
    let processors = lab.ok(pair.client.host, &["nproc"])?.trim().parse().context("nproc")?;
    let mut values: [Vec<f64>; 3] = Default::default();
    let mut registrations = 0;
    while values[2].len() < READINGS[1] && (values[2].len() < READINGS[0] || registrations < ROUNDS) {
        // Who begins changes from round to round.
        let first = values[2].len();
        for n in 0..BESIDE.len() {
            let which = (first + n) % BESIDE.len();
            let (value, count) = reading(lab, pair, BESIDE[which], processors)?;
            values[which].push(value);
            registrations += if BESIDE[which] == "regions" { count } else { 0 };
        }
    }
    Ok(Quiet {
        medians: values.each_ref().map(|values| median(values).unwrap_or(0.0)),
        registrations,
        processors,
        readings: values[2].len(),
    })
}

/// The bandwidth beside a loop, and how often the loop went round.
fn reading(lab: &Lab, pair: &Pair, beside: &str, processors: usize) -> Result<(f64, u64)> {
    let host = pair.client.host;
    let churning = match beside {
        "" => None,
        _ => {
            lab.sh(host, "rm -f /run/churning")?;
            let device = if beside == "calls" { "" } else { &pair.client.name };
            let line = format!("exec taskset -c {} /usb4lab/churn.py {beside} {device}", processors - 1);
            let running = lab.start(host, &line, LIMIT);
            let started = lab.sh(
                host,
                "n=0; until [ -e /run/churning ]; do n=$((n+1)); [ $n -lt 400 ] || exit 1; sleep 0.05; done",
            );
            if let Err(error) = started {
                stop(lab, host)?;
                return Err(running
                    .ok()
                    .err()
                    .unwrap_or(error)
                    .context("the loop does not go round"));
            }
            Some(running)
        }
    };
    let measured = bandwidth(lab, pair, processors);
    let count = match churning {
        None => 0,
        Some(running) => {
            stop(lab, host)?;
            running.ok()?.trim().parse().context("what the loop counted")?
        }
    };
    Ok((measured?, count))
}

/// Tells the loop to end, if it still runs.
fn stop(lab: &Lab, host: usize) -> Result<()> {
    lab.run(host, &["pkill", "-TERM", "-x", "churn.py"], Duration::from_secs(20))?;
    Ok(())
}

fn bandwidth(lab: &Lab, pair: &Pair, processors: usize) -> Result<f64> {
    let line =
        |device: &crate::verbs::Device| format!("ib_write_bw -d {} -x {} -F {MESSAGES}", device.name, device.gid);
    let server = line(&pair.server);
    let mut client = format!("{} {}", line(&pair.client), pair.server.ipv4);
    if processors > 1 {
        client = format!("taskset -c 0-{} {client}", processors - 2);
    }
    for _ in 0..3 {
        let text = pair.run(lab, &server, &client, LIMIT)?;
        let rows = parse::bandwidth(&text)?;
        let value = rows.first().context("empty table")?.mib_s;
        // A busy machine spoils perftest's estimate of the clock now and then.
        if value > 0.0 && value.is_finite() {
            return Ok(value);
        }
    }
    anyhow::bail!("ib_write_bw reported nonsense three times")
}

/// A case: beside registrations others keep their bandwidth.
pub fn case(spec: LabSpec, kind: Kind) -> Result<()> {
    let lab = fair::lab(spec)?;
    let pair = Pair::add(&lab, kind, kind)?;
    let quiet = measure(&lab, &pair)?;
    println!("  {}", quiet.shown());
    quiet.judge()?;
    pair.delete(&lab)?;
    lab.discard();
    Ok(())
}
