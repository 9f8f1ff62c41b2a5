// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4lab stress`: `usb4stress` on both hosts, with traffic between them, while everything below is changed under it:
//! cables, network devices, links, processes. Fails on what the programs find, on a kernel's complaint, on a hang and
//! on what is left behind at the end.
//!
//! It goes in rounds. A round's seed follows from the run's, so a round can be played by itself.

use crate::control::Output;
use crate::lab::{Lab, USUAL};
use crate::log::Mark;
use crate::memory::Memory;
use crate::paths;
use crate::runner::kernel_trouble;
use crate::spec::{ipv4, ipv6, Kernel, LabSpec, NetDriver};
use crate::tiers;
use anyhow::{bail, ensure, Context, Result};
use serde_json::{json, Value};
use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

const PROGRAM: &str = "/usb4lab/usb4stress";
/// Where a program keeps its counts, for when it is killed.
const REPORT: &str = "/run/usb4stress.json";
const DEVICE: &str = "usb4r0";
/// A round, seconds.
const ROUND: f64 = 60.0;
/// The round before memory is counted.
const WARM: f64 = 8.0;
/// What a program gets beyond its own time, seconds; and what one of its calls may take. Times a kernel's slowness.
const GRACE: u64 = 60;
const STALL: u32 = 30;
/// Objects of a slab cache that may come and go by themselves.
const SLACK: i64 = 60;
/// Status of a program that was killed.
const KILLED: i32 = 137;

/// How to stress.
pub struct Plan {
    pub name: String,
    pub kernel: Kernel,
    pub seed: u64,
    pub seconds: f64,
    /// Only this round.
    pub round: Option<u64>,
    /// Further words for the program's command line.
    pub words: String,
    /// Further words for the guests' kernel command lines.
    pub append: String,
    /// Says each round's outcome.
    pub loud: bool,
}

/// What came out.
#[derive(Default)]
pub struct Outcome {
    pub rounds: u64,
    /// What was done from outside, by name.
    pub chaos: BTreeMap<&'static str, u64>,
    /// What the programs did: `{name: {result: count}}`.
    pub counts: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Outcome {
    /// One line for a person.
    pub fn shown(&self) -> String {
        let done = |name: &str| self.counts.get(name).and_then(|c| c.get("0")).copied().unwrap_or(0);
        let tried: u64 = self
            .counts
            .iter()
            .filter(|(name, _)| name.contains("attack "))
            .chain(self.counts.iter().filter(|(name, _)| *name == "own attack"))
            .flat_map(|(_, results)| results.values())
            .sum();
        format!(
            "{} rounds; {} queue pairs, {} regions, {} windows; {} WRITEs, {} READs, {} SENDs; {tried} attempts on keys; \
             {} processes killed, {} connections between the hosts; from outside: {}",
            self.rounds,
            done("create_qp"),
            done("reg_mr"),
            done("alloc_mw"),
            done("WRITE") + done("WRITE with immediate"),
            done("READ"),
            done("SEND") + done("SEND with immediate"),
            done("victim killed") + self.chaos.get("kill").copied().unwrap_or(0),
            done("met") + done("answer"),
            self.chaos.iter().map(|(name, n)| format!("{n} {name}")).collect::<Vec<_>>().join(", ")
        )
    }

    pub fn json(&self) -> Value {
        json!({"rounds": self.rounds, "chaos": self.chaos, "counts": self.counts})
    }

    fn add(&mut self, report: &Value) {
        for (name, results) in report["counts"].as_object().into_iter().flatten() {
            for (result, count) in results.as_object().into_iter().flatten() {
                *self
                    .counts
                    .entry(name.clone())
                    .or_default()
                    .entry(result.clone())
                    .or_default() += count.as_u64().unwrap_or(0);
            }
        }
    }
}

impl Plan {
    /// Runs it in a lab of its own, whose logs stay if it fails.
    pub fn run(&self) -> Result<Outcome> {
        let spec = LabSpec {
            kernel: self.kernel,
            seed: self.seed,
            net: vec![NetDriver::Ours; 2],
            append: self.append.clone(),
            ..LabSpec::default()
        };
        let lab = Lab::up(&self.name, spec)?;
        let done = self.run_in(&lab);
        if done.is_ok() {
            lab.discard();
        }
        done
    }

    /// Runs it in a lab that is up and whose network driver is ours.
    pub fn run_in(&self, lab: &Lab) -> Result<Outcome> {
        let marks = lab.marks();
        let program = fs::read(paths::stress()?)?;
        for host in 0..2 {
            lab.put(host, PROGRAM, &program, 0o755)?;
        }
        let mut outcome = Outcome::default();
        self.round(lab, &marks, 0, WARM, &mut Outcome::default())?;
        let before = self.memory(lab)?;
        let rounds = (self.seconds / ROUND).ceil().max(1.0);
        let length = self.seconds / rounds;
        for round in 1..=rounds as u64 {
            if self.round.is_some_and(|only| only != round) {
                continue;
            }
            let start = Instant::now();
            self.round(lab, &marks, round, length, &mut outcome).with_context(|| {
                format!(
                    "round {round} of {rounds}; replay: usb4lab stress --kernel {} --seed {} --minutes {} --round {round}",
                    self.kernel.name(),
                    self.seed,
                    self.seconds / 60.0
                )
            })?;
            outcome.rounds += 1;
            if self.loud {
                println!(
                    "round {round} of {rounds}, {:.0} s: {}",
                    start.elapsed().as_secs_f64(),
                    outcome.shown()
                );
            }
        }
        self.clear(lab)?;
        for (host, before) in before.iter().enumerate() {
            before
                .returns(lab, host, SLACK)
                .with_context(|| format!("host {host} at the end"))?;
        }
        if let Some(leaks) = tiers::leaks(lab)? {
            bail!("kmemleak lists\n{leaks}");
        }
        tiers::still_checking(lab)?;
        if let Some(trouble) = kernel_trouble(&marks)? {
            bail!("a kernel complained:\n{trouble}");
        }
        for what in [
            "WRITE",
            "READ",
            "SEND",
            "create_qp",
            "reg_mr",
            "attack by key",
            "own attack",
        ] {
            ensure!(
                outcome.counts.contains_key(what),
                "no {what} at all: {}",
                outcome.json()
            );
        }
        Ok(outcome)
    }

    /// Ends every program and link, and what the kernels keep of them for a time. `ip neigh flush` lists entries and
    /// then deletes them, and fails if their device goes in between; what stays counts as held.
    fn clear(&self, lab: &Lab) -> Result<()> {
        for host in 0..2 {
            lab.sh(
                host,
                "pkill -KILL usb4stress; while pgrep usb4stress > /dev/null; do sleep 0.1; done; \
                 ! [ -e /sys/class/infiniband/usb4r0 ] || rdma link del usb4r0; \
                 echo 0 > /proc/sys/net/ipv4/tcp_max_tw_buckets; rm -f /dev/shm/usb4stress.*; \
                 for s in all noarp; do ip -4 neigh flush nud $s; ip -6 neigh flush nud $s; done; true",
            )?;
        }
        Ok(())
    }

    /// What the kernels hold with no link and no program.
    fn memory(&self, lab: &Lab) -> Result<[Memory; 2]> {
        self.clear(lab)?;
        // What the kernel frees by kfree_rcu may wait for 5 s to be freed with others.
        thread::sleep(Duration::from_secs(8));
        let both = [Memory::of(lab, 0)?, Memory::of(lab, 1)?];
        // KASAN keeps each stack that allocated or freed, once and for good, in pages that are gone from the free ones.
        // A minute took 9 MiB so, it is believed: no cache of objects had grown.
        Ok(match self.kernel {
            Kernel::Kasan => both.map(Memory::of_objects),
            Kernel::Lab | Kernel::Smp => both,
        })
    }

    /// One round: programs on both hosts, changes from outside until they end.
    fn round(&self, lab: &Lab, marks: &[Mark], round: u64, seconds: f64, outcome: &mut Outcome) -> Result<()> {
        for host in 0..2 {
            mend(lab, host)?;
        }
        let seed = self.seed * 1000 + round;
        let (end, over) = (
            Instant::now() + Duration::from_secs_f64(seconds),
            AtomicBool::new(false),
        );
        let kills = [AtomicUsize::new(0), AtomicUsize::new(0)];
        let mut chaos = Chaos {
            lab,
            rng: fastrand::Rng::with_seed(seed),
            counts: &mut outcome.chaos,
        };
        let (changed, reports) = thread::scope(|scope| {
            let programs = [0, 1].map(|host| {
                let (over, kills) = (&over, &kills[host]);
                scope.spawn(move || {
                    let reports = self.program(lab, host, seed, end, kills);
                    if reports.is_err() {
                        over.store(true, SeqCst);
                    }
                    reports
                })
            });
            let changed = (|| -> Result<()> {
                while Instant::now() + Duration::from_secs(2) < end && !over.load(SeqCst) {
                    thread::sleep(Duration::from_millis(chaos.rng.u64(50..900)));
                    let killed = chaos.change()?;
                    if let Some(host) = killed {
                        kills[host].fetch_add(1, SeqCst);
                        lab.sh(host, "pkill -KILL -o usb4stress || true")?;
                    }
                    if let Some(trouble) = kernel_trouble(marks)? {
                        bail!("a kernel complained:\n{trouble}");
                    }
                }
                Ok(())
            })();
            if changed.is_err() {
                for host in 0..2 {
                    let _ = lab.run(host, &["pkill", "-KILL", "usb4stress"], USUAL);
                }
            }
            (changed, programs.map(|program| program.join()))
        });
        // A kernel's complaint explains more than what programs say of its consequences.
        if let Some(trouble) = kernel_trouble(marks)? {
            bail!("a kernel complained:\n{trouble}");
        }
        for (host, report) in reports.into_iter().enumerate() {
            let report = report.map_err(|_| anyhow::anyhow!("the thread of host {host} panicked"))?;
            if changed.is_ok() {
                for report in report? {
                    outcome.add(&report);
                }
            }
        }
        changed
    }

    /// Runs the program on a host until the round ends, again each time that it was killed; its reports.
    fn program(&self, lab: &Lab, host: usize, seed: u64, end: Instant, kills: &AtomicUsize) -> Result<Vec<Value>> {
        let mut reports = Vec::new();
        for turn in 0.. {
            let left = end.saturating_duration_since(Instant::now()).as_secs_f64();
            if left < 1.0 && turn > 0 {
                break;
            }
            let (seed, left) = (seed * 100 + turn, left.max(1.0));
            let peer = ipv4(0, 1 - host);
            let line = format!(
                "rm -f {REPORT}; exec nice -n 5 {PROGRAM} {DEVICE} --seconds {left:.1} --seed {seed} --peer {peer} --report {REPORT} --stall {} {}",
                STALL * self.kernel.slowness(),
                self.words
            );
            let killed = kills.load(SeqCst);
            let limit = Duration::from_secs(left as u64 + GRACE * u64::from(self.kernel.slowness()));
            let start = Instant::now();
            let ended: Output = lab.run(host, &["/bin/sh", "-c", &line], limit)?;
            let report = lab.run(host, &["cat", REPORT], USUAL)?;
            match ended.status {
                0 => {}
                KILLED if kills.load(SeqCst) > killed => {}
                status => {
                    let log = lab.state.join(format!("h{host}.stress.log"));
                    fs::write(&log, ended.errors() + &ended.text())?;
                    if start.elapsed() >= limit {
                        // Where everybody is, into the kernel's log.
                        let _ = lab.run(host, &["sh", "-c", "echo w > /proc/sysrq-trigger"], USUAL);
                        bail!("host {host}: the program hangs, seed {seed}; blocked tasks are in the console's log");
                    }
                    let said = ended.errors();
                    let said: Vec<&str> = said.lines().take(40).collect();
                    bail!(
                        "host {host}: usb4stress ended with {status}, seed {seed}; {}\n{}",
                        log.display(),
                        said.join("\n")
                    );
                }
            }
            // A program killed in its first seconds has written none.
            if let Ok(report) = serde_json::from_str(&report.text()) {
                reports.push(report);
            }
        }
        Ok(reports)
    }
}

/// The command that gives the network device of a host its addresses and its RDMA link back.
fn mending(lab: &Lab, host: usize) -> [String; 4] {
    [
        "/usb4lab/mend".into(),
        lab.spec.mtu.to_string(),
        format!("{}/24", ipv4(0, host)),
        format!("{}/64", ipv6(0, host)),
    ]
}

fn mend(lab: &Lab, host: usize) -> Result<()> {
    let words = mending(lab, host);
    lab.ok(host, &words.each_ref().map(String::as_str)).map(drop)
}

/// Changes from outside.
struct Chaos<'a> {
    lab: &'a Lab,
    rng: fastrand::Rng,
    counts: &'a mut BTreeMap<&'static str, u64>,
}

/// Changes of a network device: `$d` is its name, `$r` a number, `$w` a short while. What a line does it undoes, or
/// `mend`.
const CHANGES: &[(&str, &str)] = &[
    ("MAC", "ip link set $d address 02:00:00:00:$((r % 90 + 10)):$((r / 90 % 90 + 10))"),
    ("MTU", "for m in 1500 4200 2048 65522; do ip link set $d mtu $m; sleep 0.0$((r % 9)); done"),
    ("name", "ip link set $d name x$((r % 7)); sleep $w; ip link set x$((r % 7)) name $d"),
    ("namespace", "ip netns add s$r; ip link set $d netns s$r; sleep $w; ip netns exec s$r ip link set $d netns 1; ip netns del s$r"),
    ("namespace's end", "ip netns add s$r; ip link set $d netns s$r; sleep $w; ip netns del s$r"),
    ("down and up", "ip link set $d down; sleep $w; ip link set $d up"),
    ("address", "ip addr flush dev $d; sleep $w; ip addr add 10.91.$((r % 200)).1/24 dev $d"),
    ("link del and add", "rdma link del usb4r0; sleep $w; rdma link add usb4r0 type usb4 netdev $d"),
    (
        "other link",
        "ip link add v$r type veth peer name w$r; ip link set v$r up; rdma link add o$r type usb4 netdev v$r; sleep $w; \
         [ $((r % 2)) = 0 ] || rdma link del o$r; ip link del v$r",
    ),
    ("VLAN", "ip link add link $d name l$r type vlan id $((r % 4000 + 1)); ip addr add 10.92.0.1/24 dev l$r; ip link set l$r up; sleep $w; ip link del l$r"),
    ("caches", "echo 3 > /proc/sys/vm/drop_caches"),
];

impl Chaos<'_> {
    /// One change; the host whose program is to be killed, if that is it.
    fn change(&mut self) -> Result<Option<usize>> {
        let host = self.rng.usize(..2);
        let away = Duration::from_millis(self.rng.u64(20..1200));
        match self.rng.u32(..100) {
            0..=19 => {
                self.count("cable");
                self.lab.cable(0, "pull", None)?;
                thread::sleep(away);
                self.lab.cable(0, "plug", None)?;
                thread::sleep(Duration::from_millis(300));
            }
            20..=24 => {
                self.count("frames lost and doubled");
                self.lab.faults(
                    json!({"drop": 5e-3, "dup": 5e-3, "reorder": 1e-2, "strand": 1e-3}),
                    self.rng.u64(..),
                )?;
                thread::sleep(away);
                self.lab.clear_faults()?;
            }
            25..=29 => {
                self.count("kill");
                return Ok(Some(host));
            }
            _ => {
                let (name, line) = CHANGES[self.rng.usize(..CHANGES.len())];
                self.count(name);
                let line = format!(
                    "d=$(/usb4lab/netdev 0-1) || exit 0; r={}; w=0.{:03}; {line}; exec {}",
                    self.rng.u32(1..60_000),
                    away.as_millis().min(999),
                    mending(self.lab, host).join(" ")
                );
                self.lab.sh(host, &line).with_context(|| format!("change of {name}"))?;
                return Ok(None);
            }
        }
        for host in 0..2 {
            mend(self.lab, host)?;
        }
        Ok(None)
    }

    fn count(&mut self, name: &'static str) {
        *self.counts.entry(name).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_reports_add_up() {
        let mut outcome = Outcome::default();
        for _ in 0..2 {
            outcome.add(&json!({"counts": {"WRITE": {"0": 3, "5": 1}, "own attack": {"10": 2}}}));
        }
        assert_eq!(outcome.counts["WRITE"]["0"], 6);
        assert!(outcome.shown().contains("6 WRITEs"));
        assert!(outcome.shown().contains("4 attempts on keys"));
    }
}
