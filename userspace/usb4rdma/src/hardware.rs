// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma doctor --hardware`: what the driver takes for granted of the host interface and no lab can prove, tried on
//! the machine at hand, over a cable to another host with the module.
//!
//! Round trips of bare frames are what is tried with (`ethtool -t`, 1000 of them); counters say how they went.

use crate::facts::{ethtool, text, Facts, MODULE};
use crate::text::table;
use anyhow::{bail, ensure, Result};
use serde::Serialize;
use std::collections::BTreeMap;

/// Version of the JSON: a number that grows when a field changes its meaning or goes.
const VERSION: u32 = 1;
/// Intervals between receive interrupts that are tried, microseconds.
const INTERVALS: [u32; 2] = [0, 256];
/// The longer of them must show in the median of round trips by this, nanoseconds.
const SHOWS: u64 = 50_000;
/// Bytes of trains after which all markers of frames have been in use many times.
const ENOUGH: u64 = 10_000_000;

/// What `doctor --hardware --json` prints; schema/hardware.json describes it.
#[derive(Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Hardware {
    /// Of this format.
    pub version: u32,
    pub host: String,
    pub checks: Vec<Check>,
}

/// One assumption on one cable.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Check {
    /// Stable, documented in docs/tool.md.
    pub code: String,
    pub netdev: String,
    pub about: String,
    pub verdict: Verdict,
    pub evidence: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Holds,
    Fails,
    /// Nothing has happened yet that would show it.
    Unshown,
}

/// What was seen of a cable.
#[derive(Debug, Default)]
struct Seen {
    netdev: String,
    before: BTreeMap<String, u64>,
    after: BTreeMap<String, u64>,
    /// What the test of the rings found, by the interval between interrupts.
    trips: BTreeMap<u32, BTreeMap<String, u64>>,
    /// How often each of the module's interrupts has come.
    interrupts: Vec<u64>,
    credits: Option<u32>,
}

impl Hardware {
    /// Tries each cable. Interrupts are set and set back.
    ///
    /// # Errors
    ///
    /// No root; no cable to a host with the module.
    pub fn of(facts: &Facts) -> Result<Hardware> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "doctor --hardware needs root, as it sets interrupts and sends frames: `sudo usb4rdma doctor --hardware`"
        );
        let native = |n: &&crate::facts::Netdev| n.carrier && n.counters.get("native_peer") == Some(&1);
        let cables: Vec<_> = facts.of_cables().filter(native).collect();
        if cables.is_empty() {
            bail!(
                "no cable to a host with the module {MODULE} carries, and nothing can be tried: `usb4rdma up` on both \
                 hosts"
            );
        }
        let mut checks = vec![];
        for netdev in cables {
            let mut seen = Seen {
                netdev: netdev.name.clone(),
                before: ethtool::counters(&netdev.name)?,
                credits: facts.host.dma_credits,
                ..Seen::default()
            };
            for usecs in INTERVALS {
                if netdev.coalesce.is_some() {
                    ethtool::set_coalesce(&netdev.name, usecs, false)?;
                }
                seen.trips
                    .insert(usecs, ethtool::test(&netdev.name).unwrap_or_default());
            }
            if let Some((usecs, adaptive)) = netdev.coalesce {
                ethtool::set_coalesce(&netdev.name, if adaptive { 0 } else { usecs }, adaptive)?;
            }
            seen.after = ethtool::counters(&netdev.name)?;
            seen.interrupts = interrupts(&text("/proc/interrupts").unwrap_or_default());
            checks.extend(judge(&seen));
        }
        Ok(Hardware {
            version: VERSION,
            host: facts.host.name.clone(),
            checks,
        })
    }

    /// 2 where an assumption fails, else 0.
    pub fn status(&self) -> u8 {
        let failed = self.checks.iter().any(|check| check.verdict == Verdict::Fails);
        if failed {
            2
        } else {
            0
        }
    }

    /// For a person.
    pub fn text(&self) -> String {
        let mut rows = vec![["CODE", "NETDEV", "VERDICT", "SEEN"].map(String::from).to_vec()];
        for check in &self.checks {
            let verdict = match check.verdict {
                Verdict::Holds => "holds",
                Verdict::Fails => "FAILS",
                Verdict::Unshown => "not shown",
            };
            rows.push(vec![
                check.code.clone(),
                check.netdev.clone(),
                verdict.into(),
                check.evidence.clone(),
            ]);
        }
        let mut said = table(&rows);
        for check in self.checks.iter().filter(|check| check.verdict == Verdict::Fails) {
            said += &format!("{} fails: {}\n", check.code, check.about);
        }
        said
    }
}

/// How often each interrupt of the module has come, all processors together.
fn interrupts(text: &str) -> Vec<u64> {
    let ours = text.lines().filter(|line| line.trim_end().ends_with(MODULE));
    ours.map(|line| {
        let words = line.split_whitespace().skip(1);
        words.map_while(|word| word.parse::<u64>().ok()).sum()
    })
    .collect()
}

fn judge(seen: &Seen) -> Vec<Check> {
    let grown = |names: &[&str]| -> u64 {
        let of = |counters: &BTreeMap<String, u64>| names.iter().filter_map(|n| counters.get(*n)).sum::<u64>();
        of(&seen.after).saturating_sub(of(&seen.before))
    };
    let ever = |name: &str| seen.after.get(name).copied().unwrap_or(0);
    let of_trips = |word: &str| -> u64 {
        let of = |found: &BTreeMap<String, u64>| {
            found
                .iter()
                .filter(|(name, _)| name.contains(word))
                .map(|(_, n)| *n)
                .sum::<u64>()
        };
        seen.trips.values().map(of).sum()
    };
    let median = |usecs: u32| {
        let found = seen.trips.get(&usecs)?;
        let time = found
            .iter()
            .find(|(name, _)| name.contains("median"))
            .map(|(_, time)| *time)?;
        (time > 0).then_some(time)
    };
    let (begun, ended) = (of_trips("begun"), of_trips("ended"));
    let verdict = |holds: bool| if holds { Verdict::Holds } else { Verdict::Fails };
    let check = |code: &str, verdict: Verdict, evidence: String, about: &str| Check {
        code: code.into(),
        netdev: seen.netdev.clone(),
        about: about.into(),
        verdict,
        evidence,
    };
    let shown = |holds: bool| if ended > 0 { verdict(holds) } else { Verdict::Unshown };
    let odd = grown(&["rx_bad_metadata", "rx_stray_frames"]);
    let damaged = grown(&[
        "rx_crc_errors",
        "rx_overrun_errors",
        "rx_length_errors",
        "rx_missed_frames",
    ]);
    let stranded = grown(&["stranded_completions"]);
    let lent = ever("tx_zerocopy_bytes");
    let trains = ever("rx_rdma_bytes");
    let errors = ever("rx_bad_metadata") + ever("rx_stray_frames");
    let late = median(INTERVALS[1]).zip(median(INTERVALS[0]));
    let coming = seen.interrupts.iter().filter(|count| **count > 0).count();
    vec![
        check(
            "frames-return",
            verdict(begun > 0 && begun == ended),
            format!("{ended} of {begun} round trips of single frames"),
            "frames are lost on the way: the cable, or the paths through the routers",
        ),
        check(
            "markers-reported",
            shown(odd == 0),
            format!("{odd} frames with markers that make no sense, of {ended}"),
            "the host interface does not report the markers of frames as they were sent: the native protocol cannot \
             work; `modprobe thunderbolt_net` in place of the module does",
        ),
        check(
            "markers-all",
            if trains < ENOUGH {
                Verdict::Unshown
            } else {
                verdict(errors == 0)
            },
            format!(
                "{} MB of trains received since boot, {errors} odd frames; all 15 markers are in use by them",
                trains / 1_000_000
            ),
            "the receive ring does not take all 15 markers",
        ),
        check(
            "frames-whole",
            shown(damaged == 0),
            format!("{damaged} damaged, too long or missing"),
            "frames come damaged: the cable, or a size that the host interface does not take",
        ),
        check(
            "completions-in-order",
            shown(stranded == 0),
            format!("{stranded} completions that only the re-scan has found"),
            "completions come late or out of order: the driver's re-scan finds them, by its timer, which costs latency",
        ),
        check(
            "any-offset",
            if lent == 0 {
                Verdict::Unshown
            } else {
                verdict(ever("tx_map_errors") == 0)
            },
            format!("{} MB sent from where they were since boot", lent / 1_000_000),
            "the host interface does not send from any offset in a page",
        ),
        check(
            "interrupts-held",
            match late {
                Some((late, at_once)) => verdict(late >= at_once + SHOWS),
                None => Verdict::Unshown,
            },
            match late {
                Some((late, at_once)) => format!(
                    "median round trip {:.1} us with {} us between interrupts, {:.1} us with none",
                    late as f64 / 1000.0,
                    INTERVALS[1],
                    at_once as f64 / 1000.0
                ),
                None => "no round trips".into(),
            },
            "the interval between interrupts has no effect: the register is elsewhere or its step is not 256 ns; \
             adaptive moderation does nothing then",
        ),
        check(
            "interrupt-per-ring",
            verdict(coming >= 2),
            format!("{coming} of {} interrupts of {MODULE} have come", seen.interrupts.len()),
            "the rings share an interrupt: each looks at what is the other's",
        ),
        check(
            "credits-of-paths",
            Verdict::Unshown,
            format!(
                "thunderbolt.dma_credits {}: no counter tells whether more would be faster, `usb4rdma bench` does",
                seen.credits.map_or("?".into(), |credits| credits.to_string())
            ),
            "",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::same_as_file;

    fn counts(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
        counts.iter().map(|(name, count)| (name.to_string(), *count)).collect()
    }

    fn trips(median: u64, ended: u64) -> BTreeMap<String, u64> {
        counts(&[
            ("round trip, median, ns", median),
            ("round trips begun", 1000),
            ("round trips ended", ended),
        ])
    }

    fn good() -> Seen {
        Seen {
            netdev: "usb4net0".into(),
            after: counts(&[("tx_zerocopy_bytes", 1 << 30), ("rx_rdma_bytes", 1 << 30)]),
            trips: [(0, trips(30_000, 1000)), (256, trips(160_000, 1000))].into(),
            interrupts: vec![2, 4],
            credits: Some(14),
            ..Seen::default()
        }
    }

    fn verdicts(seen: &Seen, wanted: Verdict) -> Vec<String> {
        let found = judge(seen).into_iter().filter(|check| check.verdict == wanted);
        found.map(|check| check.code).collect()
    }

    #[test]
    fn the_schema_is_that_of_the_type() {
        same_as_file("hardware.json", schemars::schema_for!(Hardware));
    }

    #[test]
    fn a_good_machine_leaves_only_the_credits_open() {
        assert_eq!(verdicts(&good(), Verdict::Fails), [""; 0]);
        assert_eq!(verdicts(&good(), Verdict::Unshown), ["credits-of-paths"]);
    }

    #[test]
    fn each_fault_is_told_by_its_code() {
        let with = |change: fn(&mut Seen)| {
            let mut seen = good();
            change(&mut seen);
            verdicts(&seen, Verdict::Fails)
        };
        let counted = |name: &'static str| {
            let mut seen = good();
            seen.after.insert(name.into(), 3);
            verdicts(&seen, Verdict::Fails)
        };
        assert_eq!(
            with(|seen| seen.trips.extend([(0, trips(30_000, 999))])),
            ["frames-return"]
        );
        assert_eq!(
            with(|seen| seen.trips.extend([(256, trips(40_000, 1000))])),
            ["interrupts-held"]
        );
        assert_eq!(with(|seen| seen.interrupts = vec![9]), ["interrupt-per-ring"]);
        assert_eq!(counted("rx_stray_frames"), ["markers-reported", "markers-all"]);
        assert_eq!(counted("rx_crc_errors"), ["frames-whole"]);
        assert_eq!(counted("stranded_completions"), ["completions-in-order"]);
        assert_eq!(counted("tx_map_errors"), ["any-offset"]);
    }

    #[test]
    fn what_was_not_tried_is_not_shown() {
        let seen = Seen {
            trips: [(0, trips(0, 0)), (256, trips(0, 0))].into(),
            after: BTreeMap::new(),
            ..good()
        };
        assert_eq!(verdicts(&seen, Verdict::Fails), ["frames-return"]);
        assert_eq!(verdicts(&seen, Verdict::Unshown).len(), 7);
    }

    #[test]
    fn interrupts_of_the_module_are_counted() {
        let text =
            "     CPU0  CPU1\n 129: 135  1  PCI-MSIX 0  thunderbolt\n 131:   2   3  PCI-MSIX 2-edge  usb4_rdma\n";
        assert_eq!(interrupts(text), [5]);
    }

    #[test]
    fn every_code_is_in_the_documentation() {
        let page = include_str!("../../../docs/tool.md");
        for check in judge(&good()) {
            assert!(
                page.contains(&format!("| `{}` |", check.code)),
                "docs/tool.md lacks {}",
                check.code
            );
        }
    }
}
