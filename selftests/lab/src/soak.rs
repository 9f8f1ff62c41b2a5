// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4lab soak`: minutes of traffic over a cable that loses frames, strands completions and is cut and plugged again,
//! in real or in virtual time; afterwards: no stall, no wrong byte, no memory gone.
//!
//! `guest/soak.py` is what runs in the guests. Here are the schedule of cuts and the judgement of the reports.

use crate::lab::Lab;
use crate::memory::Memory;
use crate::runner::kernel_trouble;
use crate::spec::{ipv4, Kernel, LabSpec, NetDriver};
use crate::verbs;
use anyhow::{bail, ensure, Context, Result};
use serde_json::{json, Value};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

/// The longest stall while the cable is there, seconds.
const STALL_S: f64 = 1.0;
/// How long after the loss of carrier a gap may begin and still be of that outage.
const SLACK_S: f64 = 0.5;
/// Time that the guests take from the end of the warm-up to the begin of the soak: quiet, and counting memory.
const COUNT_S: f64 = 8.0;
/// Time that the last outage needs to be over before the end.
const REST_S: f64 = 20.0;
/// Objects of one slab cache that may come and go by themselves.
const OBJECTS: i64 = 40;
/// Share of frames that are lost, and of completions without their interrupt.
const LOSS: f64 = 1e-4;
const STRAND: f64 = 1e-4;
/// Rate of the cable in virtual time, where programs cost nothing and would fill any.
const VIRTUAL_RATE: f64 = 1e9;
/// Rate of the cable in real time: little enough that the machine is not what is measured.
const REAL_RATE: f64 = 300e6;
/// Part of the time for which programs may have waited for the processor. Beyond, the machine is too busy to judge.
const STARVED: f64 = 0.25;

/// How to soak.
pub struct Plan {
    pub net: NetDriver,
    pub kernel: Kernel,
    pub seed: u64,
    pub virtual_time: bool,
    /// Time that is judged.
    pub seconds: f64,
    /// From cut to cut.
    pub period_s: f64,
    /// From a cut to the plug.
    pub away_s: f64,
}

/// What came out.
#[derive(Debug, Default)]
pub struct Outcome {
    pub cuts: usize,
    pub records: u64,
    pub bytes: u64,
    pub echoes: u64,
    /// Longest time that echoes or records stayed away with the cable there, seconds.
    pub longest_stall: f64,
    /// Time that programs of a guest waited for the processor, in pieces of a quarter of a second at least, seconds.
    pub starved: f64,
    /// Longest time without carrier: the cut, the connection manager's work and the handshake, seconds.
    pub longest_return: f64,
    /// All that was wrong, in words.
    pub wrong: Vec<String>,
}

impl Plan {
    fn warm(&self) -> f64 {
        if self.virtual_time {
            60.0
        } else {
            25.0
        }
    }

    /// Times of the cuts after the start of soak.py, seconds: one while it warms up, then one each period.
    fn cuts(&self) -> Vec<f64> {
        let begin = self.warm() + COUNT_S;
        let mut cuts = vec![8.0];
        let mut at = begin + self.period_s / 3.0;
        while at + self.away_s + REST_S <= begin + self.seconds {
            cuts.push(at);
            at += self.period_s;
        }
        cuts
    }

    fn command(&self, host: usize) -> Vec<String> {
        let spec = LabSpec::default();
        // In real time iperf3 is the load, and the records only prove; in virtual time bursts of 256 KiB are the load.
        let (every_ms, kib, rate) = if self.virtual_time { (50, 256, 4) } else { (10, 64, 40) };
        let mut argv = vec!["/usb4lab/soak.py".to_string(), host.to_string()];
        argv.extend([self.warm(), self.seconds].map(|s| s.to_string()));
        argv.extend([every_ms, kib, rate].map(|n: u32| n.to_string()));
        argv.push(NetDriver::MTU.to_string());
        argv.extend(spec.net_args(host));
        argv.push(ipv4(0, 1 - host));
        argv
    }

    fn faults() -> Value {
        json!({"drop": LOSS, "strand": STRAND})
    }

    /// Runs it; the reports are left in the lab's state directory if something is wrong.
    pub fn run(&self) -> Result<Outcome> {
        let (lab, reports) = if self.virtual_time {
            self.in_virtual_time()?
        } else {
            self.in_real_time()?
        };
        for (host, report) in reports.iter().enumerate() {
            fs::write(lab.state.join(format!("soak{host}.json")), report.to_string())?;
        }
        let outcome = judge(&reports, self.cuts().len())?;
        if outcome.wrong.is_empty() {
            lab.discard();
        }
        Ok(outcome)
    }

    fn name(&self) -> String {
        format!("soak-{}", std::process::id())
    }

    fn in_virtual_time(&self) -> Result<(Lab, [Value; 2])> {
        // The schedule counts from the start of soak.py, which waits for the first carrier.
        const UP_S: f64 = 8.0;
        let ns = |seconds: f64| json!((seconds * 1e9) as u64);
        let mut events = vec![json!({"cmd": "fault", "set": Plan::faults(), "seed": self.seed, "at_ns": ns(UP_S)})];
        for cut in self.cuts() {
            let event = |op: &str, at: f64| json!({"cmd": "cable", "op": op, "cable": 0, "at_ns": ns(UP_S + at)});
            events.extend([event("pull", cut), event("plug", cut + self.away_s)]);
        }
        let commands: Vec<String> = (0..2)
            .map(|host| format!("[ $USB4LAB_HOST = {host} ] && exec {}\n", self.command(host).join(" ")))
            .collect();
        let script = std::env::temp_dir().join(format!("usb4lab-soak-{}", std::process::id()));
        fs::write(&script, commands.concat()).with_context(|| format!("{}", script.display()))?;
        let spec = LabSpec {
            kernel: self.kernel,
            virtual_time: true,
            script: Some(script.clone()),
            seed: self.seed,
            net: vec![self.net; 2],
            rate_bps: Some(VIRTUAL_RATE),
            latency_ns: Some(500),
            events,
            scenario_s: 600 + 2 * self.seconds as u64,
            ..LabSpec::default()
        };
        let up = Lab::up(&self.name(), spec);
        let _ = fs::remove_file(&script);
        let lab = up?;
        let mut reports = [Value::Null, Value::Null];
        for (host, report) in reports.iter_mut().enumerate() {
            let dir = lab.state.join(format!("h{host}.out"));
            let read = |name: &str| {
                fs::read_to_string(dir.join(name)).with_context(|| format!("{}", dir.join(name).display()))
            };
            if let Some(bad) = crate::log::trouble(&read("dmesg")?) {
                bail!("host {host}'s kernel log:\n{bad}");
            }
            *report = serde_json::from_str(read("out")?.trim())?;
        }
        Ok((lab, reports))
    }

    fn in_real_time(&self) -> Result<(Lab, [Value; 2])> {
        let spec = LabSpec {
            kernel: self.kernel,
            seed: self.seed,
            net: vec![self.net; 2],
            mtu: NetDriver::MTU,
            rate_bps: Some(REAL_RATE),
            ..LabSpec::default()
        };
        let lab = Lab::up(&self.name(), spec)?;
        let marks = lab.marks();
        let limit = Duration::from_secs_f64(self.warm() + self.seconds + 120.0);
        lab.faults(Plan::faults(), self.seed)?;
        let running = [0, 1].map(|host| lab.start(host, &self.command(host).join(" "), limit));
        let start = Instant::now();
        let until = |seconds: f64| {
            thread::sleep(Duration::from_secs_f64(seconds).saturating_sub(start.elapsed()));
        };
        let load = || -> Result<()> {
            until(self.warm() + COUNT_S + 2.0);
            let serving = lab.start(1, "iperf3 -s -1", limit);
            verbs::wait_listen(&lab, 1, 5201)?;
            let seconds = (self.seconds - COUNT_S - 4.0).max(1.0) as u64;
            let calling = lab.run(0, &["iperf3", "-t", &seconds.to_string(), "-c", &ipv4(0, 1)], limit)?;
            let served = serving.wait()?;
            ensure!(
                calling.status == 0,
                "iperf3 did not last:\n{}{}{}",
                calling.text(),
                calling.errors(),
                served.errors()
            );
            Ok(())
        };
        let loaded = thread::scope(|scope| -> Result<Result<()>> {
            let load = scope.spawn(load);
            for cut in self.cuts() {
                until(cut);
                lab.cable(0, "pull", None)?;
                until(cut + self.away_s);
                lab.cable(0, "plug", None)?;
            }
            load.join().map_err(|_| anyhow::anyhow!("the load panicked"))
        })?;
        let [zero, one] = running.map(|r| r.ok());
        let reports = [serde_json::from_str(zero?.trim())?, serde_json::from_str(one?.trim())?];
        loaded?;
        if let Some(trouble) = kernel_trouble(&marks)? {
            bail!("a kernel complained:\n{trouble}");
        }
        Ok((lab, reports))
    }
}

impl Outcome {
    /// One line for a person.
    pub fn shown(&self) -> String {
        format!(
            "{} cuts, {} echoes, {} records ({} MiB) compared; longest stall with the cable there {:.2} s; without carrier at most {:.1} s, \
             the cut included; guests starved of the processor for {:.1} s",
            self.cuts,
            self.echoes,
            self.records,
            self.bytes >> 20,
            self.longest_stall,
            self.longest_return,
            self.starved
        )
    }
}

/// Times between which a host had no carrier.
fn outages(report: &Value) -> Vec<(f64, f64)> {
    let mut down = Vec::new();
    let mut since = None;
    for event in report["events"].as_array().into_iter().flatten() {
        let at = event[0].as_f64().unwrap_or(0.0);
        match (event[1] == true, since) {
            (true, Some(from)) => {
                down.push((from, at));
                since = None;
            }
            (false, None) => since = Some(at),
            _ => {}
        }
    }
    down.extend(since.map(|from| (from, f64::INFINITY)));
    down
}

/// Intervals of a report.
fn intervals(report: &Value, key: &str) -> Vec<(f64, f64)> {
    let number = |value: &Value| value.as_f64().unwrap_or(0.0);
    let list = report[key].as_array().into_iter().flatten();
    list.map(|pair| (number(&pair[0]), number(&pair[1]))).collect()
}

/// The part of a gap that no outage explains: what follows the last outage in it.
fn stall(gap: (f64, f64), outages: &[(f64, f64)]) -> f64 {
    let ended = outages
        .iter()
        .filter(|(from, _)| *from >= gap.0 - SLACK_S && *from <= gap.1)
        .map(|(_, to)| *to)
        .fold(gap.0, f64::max);
    (gap.1 - ended).max(0.0)
}

fn judge(reports: &[Value; 2], cuts: usize) -> Result<Outcome> {
    let count = |report: &Value, key: &str| report[key].as_u64().unwrap_or(0);
    let mut outcome = Outcome {
        cuts,
        records: count(&reports[1], "records"),
        bytes: count(&reports[1], "bytes"),
        echoes: count(&reports[0], "echoes"),
        ..Outcome::default()
    };
    // A gap in which a guest did not get to run says nothing about the driver before the guest runs again.
    let starved: Vec<(f64, f64)> = reports.iter().flat_map(|r| intervals(r, "starved")).collect();
    let down: Vec<(f64, f64)> = reports.iter().flat_map(outages).chain(starved.clone()).collect();
    for (report, what) in reports.iter().zip(["echo", "record"]) {
        let at = |key: &str| report[key].as_f64().with_context(|| format!("report without {key}"));
        let (begin, end) = (at("begin")?, at("end")?);
        for gap in intervals(report, "gaps") {
            if gap.0 < begin || gap.1 > end {
                continue;
            }
            let stalled = stall(gap, &down);
            outcome.longest_stall = outcome.longest_stall.max(stalled);
            if stalled > STALL_S {
                outcome.wrong.push(format!(
                    "no {what} for {stalled:.2} s with the cable there, {:.1} s after the begin",
                    gap.1 - begin
                ));
            }
        }
    }
    let judged = reports[0]["end"].as_f64().unwrap_or(0.0) - reports[0]["begin"].as_f64().unwrap_or(0.0);
    outcome.starved = starved
        .iter()
        .map(|(from, to)| to - from)
        .fold(0.0, |sum, one| sum + one);
    if outcome.starved > 2.0 * STARVED * judged {
        outcome.wrong.push(format!(
            "the guests were starved of the processor for {:.0} s: the machine is too busy to judge",
            outcome.starved
        ));
    }
    for report in reports {
        let seen = outages(report);
        if seen.len() < cuts {
            outcome.wrong.push(format!(
                "host {} lost carrier {} times in {cuts} cuts",
                report["host"],
                seen.len()
            ));
        }
        for (from, to) in seen {
            outcome.longest_return = outcome.longest_return.max(to - from);
        }
        outcome.memory(report)?;
    }
    if outcome.records == 0 || outcome.echoes == 0 {
        outcome.wrong.push("nothing was carried".into());
    }
    for (list, what) in [
        (&reports[1]["wrong"], "wrong record"),
        (&reports[0]["breaks"], "TCP connection broke"),
    ] {
        for one in list.as_array().into_iter().flatten() {
            outcome.wrong.push(format!("{what}: {one}"));
        }
    }
    Ok(outcome)
}

impl Outcome {
    fn memory(&mut self, report: &Value) -> Result<()> {
        let of = |key: &str| -> Result<Memory> {
            let text = |file: &str| report[key][file].as_str().unwrap_or_default();
            Memory::read(text("slabinfo"), text("meminfo"), text("vmallocinfo"))
        };
        if let Err(error) = of("before")?.compare(&of("after")?, OBJECTS) {
            self.wrong.push(format!("host {}: {error:#}", report["host"]));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_counts_from_the_return_of_carrier() {
        let down = [(10.0, 15.0), (10.2, 15.5)];
        assert!((stall((10.0, 16.0), &down) - 0.5).abs() < 1e-9);
        assert!((stall((20.0, 21.5), &down) - 1.5).abs() < 1e-9);
        // Carrier that never went does not excuse a gap.
        assert!((stall((9.0, 12.0), &[]) - 3.0).abs() < 1e-9);
        // Nor does time without the processor that was over long before.
        assert!((stall((20.0, 22.0), &[(18.0, 19.0)]) - 2.0).abs() < 1e-9);
        // An outage that goes on does.
        assert_eq!(stall((10.0, 12.0), &[(10.1, f64::INFINITY)]), 0.0);
    }

    #[test]
    fn outages_are_between_loss_and_return() {
        let report = json!({"events": [[1.0, true], [5.0, false], [9.0, true], [11.0, false]]});
        assert_eq!(outages(&report), [(5.0, 9.0), (11.0, f64::INFINITY)]);
    }

    #[test]
    fn cuts_leave_time_to_return() {
        let plan = Plan {
            net: NetDriver::Ours,
            kernel: Kernel::Lab,
            seed: 1,
            virtual_time: true,
            seconds: 3600.0,
            period_s: 60.0,
            away_s: 2.0,
        };
        let cuts = plan.cuts();
        assert_eq!(cuts.len(), 61);
        assert!(cuts[60] + 2.0 + REST_S <= plan.warm() + COUNT_S + 3600.0);
    }
}
