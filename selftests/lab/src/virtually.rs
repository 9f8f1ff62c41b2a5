// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Scenes in virtual time, over one bond of all the cables between two hosts: computing takes no time there, so what is
//! measured is what the protocol costs, to the nanosecond, whatever else the machine does.

use crate::lab::Lab;
use crate::log;
use crate::parse;
use crate::spec::{Kernel, LabSpec, NetDriver, Profile, Topology};
use anyhow::{bail, ensure, Context as _, Result};
use serde_json::{json, Value};
use std::fs;

/// Of a usual cable: bits a second, and nanoseconds from end to end.
pub const RATE: f64 = 20e9;
pub const CABLE_NS: u64 = 500;

/// Joins the cables, plays messages there and back and scenes of verbs.py, tells counters.
const GROUP: &str = include_str!("../guest/scenario-group");
/// What nobody counts while no cable loses anything, however trains overtake each other.
const TROUBLE: [&str; 3] = ["local_ack_timeout_err", "completer_retry_err", "send_seq_err"];

/// Two hosts and the cables between them.
#[derive(Clone, Debug)]
pub struct Ground {
    pub profile: Profile,
    /// Bits a second of each cable.
    pub rates: Vec<f64>,
    /// Bits a second of each ring of a router, if other than the cable's.
    pub ring_rate: Option<f64>,
    pub seed: u64,
    pub kernel: Kernel,
    /// Commands to the fabric, with the time of each.
    pub events: Vec<Value>,
    /// Wall seconds that it may take.
    pub limit_s: u64,
}

impl Ground {
    /// Cables of [`RATE`] times each of the `parts`.
    pub fn of(profile: Profile, parts: &[f64], seed: u64, kernel: Kernel) -> Ground {
        Ground {
            profile,
            rates: parts.iter().map(|part| part * RATE).collect(),
            ring_rate: None,
            seed,
            kernel,
            events: Vec::new(),
            limit_s: 600,
        }
    }

    /// Plays `ibv_rc_pingpong -e` with messages of so many bytes each, then the scenes of verbs.py, one by one.
    ///
    /// # Errors
    ///
    /// A program that fails, or a lab that does not come up.
    pub fn play(&self, rounds: &[u32], scenes: &[&str]) -> Result<Played> {
        self.play_then(rounds, scenes, "")
    }

    /// The same, then lines of shell on both hosts, which find `$USB4LAB_HOST`, `$gid` of the device dev0, and the host
    /// `10.91.0.$peer`.
    ///
    /// # Errors
    ///
    /// As `play`.
    pub fn play_then(&self, rounds: &[u32], scenes: &[&str], then: &str) -> Result<Played> {
        let words = |words: Vec<String>| words.join(" ");
        let text = GROUP
            .replace("@TYPE@", "usb4")
            .replace("@CABLES@", &self.rates.len().to_string())
            .replace("@ROUNDS@", &words(rounds.iter().map(u32::to_string).collect()))
            .replace("@STREAMS@", &scenes.join(" "))
            // In its own line, as the head of the scenario names it too.
            .replace("\n@THEN@\n", &format!("\n{then}\n"));
        self.run(&text)
    }

    /// Plays a scenario; what each host printed.
    pub fn run(&self, scenario: &str) -> Result<Played> {
        let script = std::env::temp_dir().join(format!("usb4lab-group-{}", std::process::id()));
        fs::write(&script, scenario).with_context(|| format!("{}", script.display()))?;
        let most = self.rates.iter().copied().fold(0.0, f64::max);
        let slower = self.rates.iter().enumerate().filter(|(_, rate)| **rate < most);
        let rate = |(cable, rate): (usize, &f64)| json!({"cmd": "cable", "op": "rate", "cable": cable, "value": rate, "at_ns": 1});
        let spec = LabSpec {
            net: vec![NetDriver::Ours; 2],
            rate_bps: Some(most),
            ring_rate_bps: self.ring_rate,
            latency_ns: Some(CABLE_NS),
            events: slower.map(rate).chain(self.events.iter().cloned()).collect(),
            virtual_time: true,
            script: Some(script.clone()),
            scenario_s: self.limit_s,
            seed: self.seed,
            kernel: self.kernel,
            ..LabSpec::wired(self.profile, Topology::Pair, 2, self.rates.len())?
        };
        let lab = Lab::up(&format!("virtual-{}", std::process::id()), spec);
        let _ = fs::remove_file(&script);
        let lab = lab?;
        let read = |host: usize, name: &str| {
            let path = lab.state.join(format!("h{host}.out/{name}"));
            fs::read_to_string(&path).with_context(|| format!("{}", path.display()))
        };
        for host in 0..2 {
            if let Some(bad) = log::trouble(&read(host, "dmesg")?) {
                bail!("host {host}'s kernel log:\n{bad}");
            }
        }
        let said = [read(0, "out")?, read(1, "out")?];
        lab.discard();
        Ok(Played { said })
    }

    /// What all cables carry, bits a second.
    pub fn sum(&self) -> f64 {
        self.rates.iter().sum()
    }
}

/// What the hosts printed.
pub struct Played {
    pub said: [String; 2],
}

impl Played {
    /// Microseconds of each of `ibv_rc_pingpong`'s rounds, run by run.
    pub fn pingpongs(&self) -> Vec<f64> {
        self.said[0].lines().filter_map(parse::round_us).collect()
    }

    /// What each scene of verbs.py reported at an end; nothing may have gone wrong in any.
    ///
    /// # Errors
    ///
    /// A completion with an error, or a report that is none.
    pub fn reports(&self, host: usize) -> Result<Vec<Value>> {
        let lines = self.said[host].lines().filter(|line| line.starts_with('{'));
        lines
            .map(|line| {
                let report: Value = serde_json::from_str(line).with_context(|| line.to_string())?;
                ensure!(report["bad"] == 0, "{line}");
                Ok(report)
            })
            .collect()
    }

    /// Bits a second that each stream carried, both ways together.
    ///
    /// # Errors
    ///
    /// As `reports`; a stream that is missing at one end.
    pub fn goodputs(&self) -> Result<Vec<f64>> {
        let ends = [self.reports(0)?, self.reports(1)?];
        ensure!(
            ends[0].len() == ends[1].len(),
            "streams are missing in\n{}",
            self.said[0]
        );
        ends[0]
            .iter()
            .zip(&ends[1])
            .filter(|(out, _)| out["bytes"].is_number())
            .map(|(out, back)| {
                let seconds = number(out, "seconds")?.max(number(back, "seconds")?);
                Ok(8.0 * (number(out, "bytes")? + number(back, "bytes")?) / seconds)
            })
            .collect()
    }

    /// Microseconds of a round of each scene that goes there and back.
    ///
    /// # Errors
    ///
    /// As `reports`.
    pub fn rounds_us(&self) -> Result<Vec<f64>> {
        let reports = self.reports(0)?;
        let rounds = reports.iter().filter(|report| report["rounds"].is_number());
        rounds
            .map(|report| Ok(1e6 * number(report, "seconds")? / number(report, "rounds")?))
            .collect()
    }

    /// A counter of a host's device at the end.
    ///
    /// # Errors
    ///
    /// A scenario that did not tell it.
    pub fn counter(&self, host: usize, name: &str) -> Result<u64> {
        let (start, text) = (format!("counter {name} "), &self.said[host]);
        let line = text.lines().find_map(|line| line.strip_prefix(&start));
        let line = line.with_context(|| format!("no {start}in\n{text}"))?;
        line.trim().parse().with_context(|| line.to_string())
    }

    /// Insists that all went as trains, and that nobody counted trouble.
    ///
    /// # Errors
    ///
    /// What was counted.
    pub fn untroubled(&self) -> Result<()> {
        for host in 0..2 {
            for name in TROUBLE {
                let count = self.counter(host, name)?;
                ensure!(count == 0, "host {host}: {name} {count}");
            }
            let [runs, trains] = [self.counter(host, "sent_runs")?, self.counter(host, "sent_trains")?];
            ensure!(
                trains > 0 && runs == trains,
                "host {host}: {trains} of {runs} runs went as trains"
            );
        }
        Ok(())
    }
}

fn number(report: &Value, name: &str) -> Result<f64> {
    report[name].as_f64().with_context(|| format!("no {name} in {report}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn played(said: [&str; 2]) -> Played {
        Played {
            said: said.map(String::from),
        }
    }

    #[test]
    fn a_stream_both_ways_is_as_slow_as_its_slower_end() {
        let played = played([
            "PING\n{\"bytes\": 1000, \"seconds\": 2.0, \"bad\": 0}\n{\"rounds\": 10, \"seconds\": 1e-4, \"bad\": 0}",
            "{\"bytes\": 500, \"seconds\": 4.0, \"bad\": 0}\n{\"rounds\": 10, \"seconds\": 1e-4, \"bad\": 0}",
        ]);
        assert_eq!(played.goodputs().unwrap(), [3000.0]);
        assert!((played.rounds_us().unwrap()[0] - 10.0).abs() < 1e-9);
    }

    #[test]
    fn what_went_wrong_and_what_is_missing_are_errors() {
        let bad = "{\"bytes\": 1000, \"seconds\": 2.0, \"bad\": 1}";
        assert!(played([bad, bad]).goodputs().is_err());
        let counted = "counter sent_runs 7\ncounter sent_trains 6\n";
        assert_eq!(played([counted, counted]).counter(1, "sent_trains").unwrap(), 6);
        assert!(played([counted, counted]).untroubled().is_err());
    }
}
