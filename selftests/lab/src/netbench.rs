// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4lab bench --suite net`: our network driver against thunderbolt_net, side by side, interleaved, medians.
//!
//! Each pairing of drivers has a lab of its own, all up at the same time; a round measures every one of them in turn,
//! so that a busy minute of the machine hits all alike. CPU seconds are those of both guests' processes, all included.

use crate::bench::steal_seconds;
use crate::cpu;
use crate::lab::Lab;
use crate::measure::{figure, median, table};
use crate::spec::{ipv4, LabSpec, NetDriver};
use crate::{parse, verbs};
use anyhow::{ensure, Context, Result};
use serde_json::{json, Value};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// MTUs that are tried; each pairing is measured at its best.
const MTUS: [u32; 3] = [1500, 9000, NetDriver::MTU];
/// Seconds of a TCP run, and of one that only looks for the best MTU.
const TCP_S: u32 = 4;
const TRY_S: u32 = 2;
/// Echo requests one behind the other's answer: their number, and ping's option.
const PINGS: (u32, &str) = (1000, "-A");
/// The same with time to fall asleep in between.
const RARE_PINGS: (u32, &str) = (100, "-i0.02");
/// Rate of the limited cable, bit/s, and what is carried over it. Virtual time: there it is exact, and the processor is
/// never what limits.
const RATE: f64 = 1e9;
/// Rate of a whole cable, for what is measured in virtual time.
const WHOLE: f64 = 40e9;
const LIMITED_MIB: u32 = 256;
/// Rounds of looking for the best MTU.
const TRIES: usize = 2;
const GIB: f64 = (1u64 << 30) as f64;

/// A pairing of drivers: host 0 sends, host 1 receives.
#[derive(Clone, Copy, PartialEq)]
struct Pairing {
    name: &'static str,
    drivers: [NetDriver; 2],
    /// Both ends alike: measured over a limited cable and by ping as well.
    whole: bool,
}

const STOCK: Pairing = Pairing {
    name: "stock to stock",
    drivers: [NetDriver::Stock, NetDriver::Stock],
    whole: true,
};
const NATIVE: Pairing = Pairing {
    name: "ours to ours",
    drivers: [NetDriver::Ours, NetDriver::Ours],
    whole: true,
};
const TO_STOCK: Pairing = Pairing {
    name: "ours to stock",
    drivers: [NetDriver::Ours, NetDriver::Stock],
    whole: false,
};
const FROM_STOCK: Pairing = Pairing {
    name: "stock to ours",
    drivers: [NetDriver::Stock, NetDriver::Ours],
    whole: false,
};

/// A pairing that runs, and all that was measured of it.
struct Subject {
    pairing: Pairing,
    lab: Lab,
    mtu: u32,
    gbps: Vec<f64>,
    cpu: Vec<f64>,
    rtt_us: Vec<f64>,
    exact_rtt_us: Vec<f64>,
    rare_rtt_us: Vec<f64>,
    goodput: Vec<f64>,
}

/// A demand of a figure: the ratio to stock's, or the figure itself.
#[derive(Clone, Copy)]
enum Goal {
    RatioAtLeast(f64),
    RatioAtMost(f64),
    AtLeast(f64),
}

impl Goal {
    fn met(self, ours: f64, theirs: f64) -> bool {
        match self {
            Goal::RatioAtLeast(least) => ours / theirs >= least,
            Goal::RatioAtMost(most) => ours / theirs <= most,
            Goal::AtLeast(least) => ours >= least,
        }
    }

    fn shown(self) -> String {
        match self {
            Goal::RatioAtLeast(least) => format!("ratio >= {least}"),
            Goal::RatioAtMost(most) => format!("ratio <= {most:.2}"),
            Goal::AtLeast(least) => format!(">= {least}"),
        }
    }
}

/// Runs the suite; with `only_stock` the baseline alone.
pub fn run(runs: usize, only_stock: bool, file: Option<&Path>, doc: Option<&Path>) -> Result<()> {
    let pairings: &[Pairing] = if only_stock {
        &[STOCK]
    } else {
        &[STOCK, NATIVE, TO_STOCK, FROM_STOCK]
    };
    let steal_before = steal_seconds();
    let mut subjects = Vec::new();
    for pairing in pairings {
        subjects.push(Subject::up(*pairing).with_context(|| pairing.name)?);
    }
    let mut best = vec![0.0; subjects.len()];
    for _ in 0..TRIES {
        for (subject, best) in subjects.iter_mut().zip(&mut best) {
            subject.find_mtu(best).with_context(|| subject.pairing.name)?;
        }
    }
    for n in 0..runs {
        for subject in &mut subjects {
            eprintln!("run {} of {runs}: {}", n + 1, subject.pairing.name);
            subject.measure().with_context(|| subject.pairing.name)?;
        }
    }
    let rows = rows(&subjects, runs);
    let report = json!({
        "suite": "net",
        "runs": runs,
        "load": fs::read_to_string("/proc/loadavg").unwrap_or_default().trim(),
        "steal_s": steal_seconds() - steal_before,
        "mtu": subjects.iter().map(|s| (s.pairing.name.to_string(), json!(s.mtu))).collect::<serde_json::Map<_, _>>(),
        "rows": rows,
    });
    for subject in subjects {
        subject.lab.discard();
    }
    if let Some(file) = file {
        fs::write(file, serde_json::to_string_pretty(&report)? + "\n")
            .with_context(|| format!("{}", file.display()))?;
    }
    if let Some(doc) = doc {
        fs::write(doc, page(&report)).with_context(|| format!("{}", doc.display()))?;
    }
    let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
    print!("{}", table(&HEADING, &cells));
    Ok(())
}

impl Subject {
    fn up(pairing: Pairing) -> Result<Subject> {
        let name = format!("bench-{}-{}", std::process::id(), pairing.name.replace(' ', "-"));
        let spec = LabSpec {
            net: pairing.drivers.to_vec(),
            ..LabSpec::default()
        };
        Ok(Subject {
            pairing,
            lab: Lab::up(&name, spec)?,
            mtu: 1500,
            gbps: vec![],
            cpu: vec![],
            rtt_us: vec![],
            exact_rtt_us: vec![],
            rare_rtt_us: vec![],
            goodput: vec![],
        })
    }

    fn set_mtu(&self, mtu: u32) -> Result<()> {
        for host in 0..2 {
            let netdev = self.lab.netdev(host, 0)?;
            self.lab
                .ok(host, &["ip", "link", "set", &netdev, "mtu", &mtu.to_string()])?;
        }
        Ok(())
    }

    /// Leaves the MTU set that carried most in this round or one before.
    fn find_mtu(&mut self, best: &mut f64) -> Result<()> {
        for mtu in MTUS {
            self.set_mtu(mtu)?;
            let (gbps, cpu) = tcp(&self.lab, TRY_S)?;
            eprintln!(
                "{}: MTU {mtu}: {} Gbit/s, {} s/GiB",
                self.pairing.name,
                figure(gbps),
                figure(cpu)
            );
            if gbps > *best {
                (*best, self.mtu) = (gbps, mtu);
            }
        }
        self.set_mtu(self.mtu)
    }

    fn measure(&mut self) -> Result<()> {
        let (gbps, cpu) = tcp(&self.lab, TCP_S)?;
        self.gbps.push(gbps);
        self.cpu.push(cpu);
        if !self.pairing.whole {
            return Ok(());
        }
        self.rare_rtt_us.push(ping(&self.lab, RARE_PINGS)?);
        self.lab.confine(&cpu::one()?)?;
        let rtt = ping(&self.lab, PINGS);
        self.lab.confine(&cpu::usable()?)?;
        self.rtt_us.push(rtt?);
        if self.goodput.is_empty() {
            // The same every time.
            let driver = self.pairing.drivers[0];
            self.goodput.push(goodput(driver)?);
            self.exact_rtt_us.push(exact_rtt(driver)?);
        }
        Ok(())
    }
}

/// TCP goodput over a cable of `RATE`, as a part of it, with the driver on both ends. In virtual time.
fn goodput(driver: NetDriver) -> Result<f64> {
    let serve = "exec /usb4lab/stream.py serve 7001".to_string();
    let send = format!("exec /usb4lab/stream.py send {} 7001 {LIMITED_MIB} send", ipv4(0, 1));
    let [_, text] = in_virtual_time(driver, RATE, [send, serve])?;
    let report: Value = serde_json::from_str(text.trim())?;
    let number = |key: &str| report[key].as_f64().with_context(|| format!("{report}"));
    Ok(number("bytes")? * 8.0 / number("seconds")? / RATE)
}

/// The median round trip of echoes, microseconds, with the driver on both ends. In virtual time, where programs and
/// kernels cost nothing: what is left is the cable and what the driver waits for.
fn exact_rtt(driver: NetDriver) -> Result<f64> {
    let (count, every) = PINGS;
    let call = format!("exec ping -c {count} {every} {}", ipv4(0, 1));
    let [text, _] = in_virtual_time(driver, WHOLE, [call, "exec sleep 30".to_string()])?;
    round_trip(&text, count)
}

/// Plays two hosts' commands over a cable of `rate_bps` in virtual time; what they print.
fn in_virtual_time(driver: NetDriver, rate_bps: f64, commands: [String; 2]) -> Result<[String; 2]> {
    let spec = LabSpec::default();
    let up = |host: usize| {
        format!(
            "/usb4lab/net-up 60 {} {} >&2",
            NetDriver::MTU,
            spec.net_args(host).join(" ")
        )
    };
    let [call, serve] = commands;
    let script = format!(
        "set -e\nif [ $USB4LAB_HOST = 1 ]; then\n{}\n{serve}\nfi\n{}\nsleep 3\n{call}\n",
        up(1),
        up(0)
    );
    let path = std::env::temp_dir().join(format!("usb4lab-bench-{}", std::process::id()));
    fs::write(&path, script).with_context(|| format!("{}", path.display()))?;
    let lab = Lab::up(
        &format!("bench-{}-virtual", std::process::id()),
        LabSpec {
            virtual_time: true,
            script: Some(path.clone()),
            net: vec![driver; 2],
            rate_bps: Some(rate_bps),
            latency_ns: Some(500),
            ..spec.clone()
        },
    );
    let _ = fs::remove_file(&path);
    let lab = lab?;
    let said = |host: usize| fs::read_to_string(lab.state.join(format!("h{host}.out/out")));
    let said = [said(0)?, said(1)?];
    lab.discard();
    Ok(said)
}

/// A TCP stream that has ended.
pub struct Stream {
    pub bits_s: f64,
    pub bytes: f64,
    /// CPU seconds of host 0, which sent, and of host 1, the programs' start included.
    pub cpu: [f64; 2],
}

/// One TCP stream from host 0 to host 1: Gbit/s, and CPU seconds of both hosts for each GiB.
pub fn tcp(lab: &Lab, seconds: u32) -> Result<(f64, f64)> {
    let stream = stream(lab, seconds)?;
    Ok((stream.bits_s / 1e9, stream.cpu.iter().sum::<f64>() * GIB / stream.bytes))
}

/// One TCP stream from host 0 to host 1.
pub fn stream(lab: &Lab, seconds: u32) -> Result<Stream> {
    let serving = lab.start(1, "iperf3 -s -1", Duration::from_secs(60));
    verbs::wait_listen(lab, 1, 5201)?;
    let before = lab.cpu_of_pair()?;
    let report = lab.ok(0, &["iperf3", "-J", "-t", &seconds.to_string(), "-c", &ipv4(0, 1)])?;
    let after = lab.cpu_of_pair()?;
    serving.ok()?;
    let (bits_s, bytes) = parse::iperf(&report)?;
    ensure!(bytes > 0.0, "iperf3 moved nothing");
    Ok(Stream {
        bits_s,
        bytes,
        cpu: [after[0] - before[0], after[1] - before[1]],
    })
}

/// The median round trip of echo requests with default settings, microseconds.
fn ping(lab: &Lab, (count, every): (u32, &str)) -> Result<f64> {
    let text = lab.ok(0, &["ping", "-c", &count.to_string(), every, "-W", "2", &ipv4(0, 1)])?;
    round_trip(&text, count)
}

/// The median of what ping printed.
fn round_trip(text: &str, count: u32) -> Result<f64> {
    let times = parse::ping_times_us(text);
    ensure!(times.len() as u32 * 10 >= count * 9, "pings were lost:\n{text}");
    median(&times).context("no echo came back")
}

fn rows(subjects: &[Subject], runs: usize) -> Vec<Value> {
    let values = |pairing: Pairing, of: fn(&Subject) -> &Vec<f64>| -> Vec<f64> {
        let subject = subjects.iter().find(|s| s.pairing == pairing);
        subject.map(|s| of(s).clone()).unwrap_or_default()
    };
    type Of = fn(&Subject) -> &Vec<f64>;
    let (gbps, cpu): (Of, Of) = (|s| &s.gbps, |s| &s.cpu);
    let (rtt, rare): (Of, Of) = (|s| &s.rtt_us, |s| &s.rare_rtt_us);
    let (exact, goodput): (Of, Of) = (|s| &s.exact_rtt_us, |s| &s.goodput);
    let wanted: [(&str, &str, Pairing, Of, Goal); 10] = [
        ("tcp_stream_gbps", "Gbit/s", NATIVE, gbps, Goal::RatioAtLeast(3.0)),
        ("cpu_s_per_gib", "s/GiB", NATIVE, cpu, Goal::RatioAtMost(1.0 / 3.0)),
        ("ping_rtt", "us", NATIVE, rtt, Goal::RatioAtMost(1.0 / 3.0)),
        ("ping_rtt_virtual", "us", NATIVE, exact, Goal::RatioAtMost(1.0 / 3.0)),
        ("ping_rtt_rare", "us", NATIVE, rare, Goal::RatioAtMost(1.0 / 3.0)),
        ("goodput_of_rate", "of R", NATIVE, goodput, Goal::AtLeast(0.93)),
        ("to_stock_tcp_gbps", "Gbit/s", TO_STOCK, gbps, Goal::RatioAtLeast(1.0)),
        ("to_stock_cpu_s_per_gib", "s/GiB", TO_STOCK, cpu, Goal::RatioAtMost(1.0)),
        (
            "from_stock_tcp_gbps",
            "Gbit/s",
            FROM_STOCK,
            gbps,
            Goal::RatioAtLeast(1.0),
        ),
        (
            "from_stock_cpu_s_per_gib",
            "s/GiB",
            FROM_STOCK,
            cpu,
            Goal::RatioAtMost(1.0),
        ),
    ];
    let mut rows = Vec::new();
    for (metric, unit, pairing, of, goal) in wanted {
        let (ours, theirs) = (values(pairing, of), values(STOCK, of));
        let (mine, stock) = (median(&ours), median(&theirs));
        let both = mine.zip(stock);
        rows.push(json!({
            "metric": metric,
            "unit": unit,
            "ours": mine,
            "theirs": stock,
            "ratio": both.map(|(a, b)| a / b),
            "goal": goal.shown(),
            "met": both.map(|(a, b)| goal.met(a, b)),
            "peer": "thunderbolt_net",
            "runs": runs,
            "values": {"ours": ours, "theirs": theirs},
        }));
    }
    rows
}

const HEADING: [&str; 7] = ["metric", "unit", "ours", "stock", "ours/stock", "goal", "met"];

fn cells(row: &Value) -> Vec<String> {
    let text = |key: &str| row[key].as_str().unwrap_or_default().to_string();
    let number = |key: &str| row[key].as_f64().map_or("-".into(), figure);
    let met = match row["met"].as_bool() {
        Some(true) => "yes",
        Some(false) => "no",
        None => "-",
    };
    vec![
        text("metric"),
        text("unit"),
        number("ours"),
        number("theirs"),
        number("ratio"),
        text("goal"),
        met.into(),
    ]
}

/// The page of results.
fn page(report: &Value) -> String {
    let mut page = String::from(
        "# The network driver, measured\n\n\
         Written by `make bench-net` (`usb4lab bench --suite net`), never by hand. Two User-mode Linux guests with one processor each and an unlimited\n\
         software cable; four such labs run at the same time, one for each pairing of drivers, and are measured in turn. Ratios count: the machine is not\n\
         a network. `ours` and `stock` (thunderbolt_net on both hosts) are medians.\n\n",
    );
    let _ = writeln!(page, "| {} |", HEADING.join(" | "));
    let _ = writeln!(page, "|{}", "---|".repeat(HEADING.len()));
    for row in report["rows"].as_array().into_iter().flatten() {
        let _ = writeln!(page, "| {} |", cells(row).join(" | "));
    }
    let _ = write!(
        page,
        "\n- `tcp_stream_gbps`, `cpu_s_per_gib`: one iperf3 stream of {TCP_S} s; CPU time of both guests, all included, for each GiB. Each pairing has its \
         best MTU of {MTUS:?}: {}.\n\
         - `ping_rtt`: median of {} echoes, each sent when the one before is answered (`ping {}`), default settings, the whole lab on one processor: \
         to wake a sleeping processor of the machine takes longer than all else on the way.\n\
         - `ping_rtt_virtual`: the same in virtual time, where programs and kernels cost nothing: the cable, and what the driver waits for.\n\
         - `ping_rtt_rare`: median of {} echoes 0.02 s apart, the lab on all processors. Most of it is the machine's: sleeping processors woken four \
         times, and cold caches on the way through two kernels, for both drivers alike.\n\
         - `goodput_of_rate`: TCP goodput of {LIMITED_MIB} MiB over a cable of R = {} Mbit/s, as a part of R, in virtual time. The cable's own coding takes 4.5 %.\n\
         - `to_stock`, `from_stock`: our driver on one host, thunderbolt_net on the other, against thunderbolt_net on both.\n\
         - {} runs each; load average at the end {}; {:.0} s of CPU time were stolen by the machine's host.\n",
        report["mtu"],
        PINGS.0,
        PINGS.1,
        RARE_PINGS.0,
        RATE / 1e6,
        report["runs"],
        report["load"].as_str().unwrap_or("?"),
        report["steal_s"].as_f64().unwrap_or(0.0),
    );
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_compare_the_right_way() {
        assert!(Goal::RatioAtLeast(3.0).met(3.0, 1.0) && !Goal::RatioAtLeast(3.0).met(2.9, 1.0));
        assert!(Goal::RatioAtMost(0.5).met(1.0, 2.0) && !Goal::RatioAtMost(0.5).met(1.1, 2.0));
        assert!(Goal::AtLeast(0.93).met(0.93, 0.1) && !Goal::AtLeast(0.93).met(0.9, 0.1));
    }

    #[test]
    fn a_page_says_what_was_not_measured() {
        let row = json!({"metric": "m", "unit": "u", "ours": null, "theirs": 2.0, "goal": "g", "met": null});
        let page = page(&json!({"rows": [row], "runs": 1, "mtu": {}}));
        assert!(page.contains("| m | u | - | 2.00 | - | g | - |"), "{page}");
    }
}
