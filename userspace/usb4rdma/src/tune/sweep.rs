// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma tune --sweep`: settings of interrupts and rings tried one after the other on this host, each with what it
//! gives; all is put back at the end, also at Ctrl-C, but for the best with `--apply`.
//!
//! Interrupts come first, then rings with the best interrupts: all pairs would take many times as long. The depth of
//! the receive ring is also the credit that the peer has, so a sweep of rings is one of credits.

use super::{settled_round_trip, Change, Goal, VERSION};
use crate::apps::{App, AppReport, Settings};
use crate::bench::{Client, How, Test};
use crate::facts::{ethtool, Facts, Net, Netdev, Rings, MODULE};
use crate::peers::peers;
use crate::text::table;
use anyhow::{bail, ensure, Context, Result};
use serde::Serialize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// Intervals between receive interrupts that are tried beside the driver's own choice, microseconds.
const USECS: [u32; 4] = [0, 8, 32, 128];
/// Depths of the rings that are tried.
const RINGS: [u32; 5] = [256, 512, 1024, 2048, 4096];
/// What is moved for a bandwidth.
const SIZE: u64 = 1 << 20;
/// What is better by less than this may be so by chance, and is no reason to set anything.
const MARGIN: f64 = 1.05;

/// What `tune --sweep --json` prints; schema/sweep.json describes it.
#[derive(Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Sweep {
    /// Of this format.
    pub version: u32,
    pub host: String,
    pub goal: Goal,
    /// The cables' network devices, which are set alike.
    pub netdevs: Vec<String>,
    /// In the order in which they were made; the first is of what was set before.
    pub tries: Vec<Try>,
    /// The place in `tries` of the best for the goal; null where nothing tells, or it was interrupted.
    pub best: Option<usize>,
    /// What sets the best.
    pub commands: Vec<String>,
    /// Whether the best is set now; else all is as it was.
    pub applied: bool,
    /// Measured at the end, with what is set then.
    pub after: Option<Seen>,
    /// Somebody has ended it early.
    pub interrupted: bool,
    /// What could not be measured, and why.
    pub left_out: Vec<String>,
}

/// One setting and what it gives.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Try {
    /// As the words of ethtool.
    pub what: String,
    pub seen: Seen,
}

/// Figures; null where something could not be measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Seen {
    /// Nanoseconds of a round trip over the bare rings, of the slowest cable.
    pub median: Option<u64>,
    pub p99: Option<u64>,
    /// RDMA WRITE and RDMA READ of 1 MiB, Gb/s.
    pub out_gbps: Option<f64>,
    pub in_gbps: Option<f64>,
}

/// How it is gone about.
pub struct Wanted<'w> {
    pub goal: Goal,
    pub apply: bool,
    /// The host at the other end, where there are several.
    pub peer: Option<&'w str>,
    /// None: those above.
    pub usecs: &'w [u32],
    pub rings: &'w [u32],
    pub seconds: u32,
    pub runs: u32,
    /// TCP port of the agent.
    pub port: u16,
}

/// What all cables are set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Point {
    Adaptive,
    Usecs(u32),
    Rings(u32),
}

impl Point {
    fn change(self, netdev: &str) -> Change {
        let netdev = netdev.to_string();
        match self {
            Point::Adaptive => Change::Moderation {
                netdev,
                usecs: 0,
                adaptive: true,
            },
            Point::Usecs(usecs) => Change::Moderation {
                netdev,
                usecs,
                adaptive: false,
            },
            Point::Rings(depth) => Change::Rings {
                netdev,
                rx: depth,
                tx: depth,
            },
        }
    }

    fn words(self) -> String {
        match self {
            Point::Adaptive => "adaptive-rx on".into(),
            Point::Usecs(usecs) => format!("adaptive-rx off rx-usecs {usecs}"),
            Point::Rings(depth) => format!("rx {depth} tx {depth}"),
        }
    }
}

/// Settings of a cable's device as they were.
#[derive(Clone, Debug)]
struct Was {
    netdev: String,
    coalesce: Option<(u32, bool)>,
    rings: Option<Rings>,
}

impl Was {
    fn of(netdev: &Netdev) -> Was {
        Was {
            netdev: netdev.name.clone(),
            coalesce: netdev.coalesce,
            rings: netdev.rings,
        }
    }

    /// Sets back what is another now: new rings start the cable anew, so they are not set for nothing.
    fn put_back(&self) -> Result<()> {
        if let Some((usecs, adaptive)) = self.coalesce {
            // While it adapts the interval is what the driver has come to, and nothing to set.
            let now = ethtool::coalesce(&self.netdev)?;
            if now.1 != adaptive || (!adaptive && now.0 != usecs) {
                ethtool::set_coalesce(&self.netdev, if adaptive { 0 } else { usecs }, adaptive)?;
            }
        }
        if let Some(rings) = self.rings {
            if ethtool::rings(&self.netdev)? != rings {
                ethtool::set_rings(&self.netdev, rings.rx, rings.tx)?;
            }
        }
        Ok(())
    }
}

/// Puts all back when it goes, by whatever way but SIGKILL.
struct Ground<'g> {
    net: &'g Net,
    was: Vec<Was>,
    keep: bool,
}

impl Ground<'_> {
    fn set(&self, point: Point) -> Result<()> {
        for was in &self.was {
            let change = point.change(&was.netdev);
            tracing::info!("{}", change.command());
            change.make(self.net).with_context(|| change.command())?;
        }
        Ok(())
    }

    fn put_back(&self) -> Result<()> {
        let outcomes: Vec<Result<()>> = self.was.iter().map(Was::put_back).collect();
        outcomes.into_iter().collect()
    }
}

impl Drop for Ground<'_> {
    fn drop(&mut self) {
        if !self.keep {
            if let Err(error) = self.put_back() {
                eprintln!("usb4rdma: not all is as it was: {error:#}; `usb4rdma tune` tells what is set");
            }
        }
    }
}

/// What the settings are measured with.
struct Gauge {
    bench: Option<Client>,
    left_out: Vec<String>,
}

impl Gauge {
    fn see(&mut self, was: &[Was], stop: &AtomicBool) -> Seen {
        let trips: Vec<_> = was.iter().map(|was| settled_round_trip(&was.netdev, true)).collect();
        let mut seen = Seen {
            median: trips.iter().filter_map(|trip| trip.0).max(),
            p99: trips.iter().filter_map(|trip| trip.1).max(),
            ..Seen::default()
        };
        for (test, figure) in [
            (Test::RdmaWrite, &mut seen.out_gbps),
            (Test::RdmaRead, &mut seen.in_gbps),
        ] {
            let Some(bench) = &mut self.bench else { break };
            if stop.load(Ordering::Relaxed) {
                break;
            }
            match bench.figure(test, SIZE) {
                Ok(found) => *figure = Some(found),
                Err(error) => {
                    let why = format!("{}: {error:#}", test.name());
                    if !self.left_out.contains(&why) {
                        self.left_out.push(why);
                    }
                }
            }
        }
        seen
    }
}

/// Tries all; `told` hears of each try as it ends.
///
/// # Errors
///
/// No root, no cable to a host with the module, the kernel refuses a setting, or `--apply` for bandwidth where nobody
/// at the other end measures it. All is put back then.
pub fn sweep(net: &Net, facts: &Facts, wanted: &Wanted, mut told: impl FnMut(&Try)) -> Result<Sweep> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "tune --sweep needs root, as it tries settings: `sudo usb4rdma tune --sweep`"
    );
    let was = cables(facts, wanted.peer)?;
    let pair = AppReport::of(facts, App::Perftest, wanted.peer);
    let bench = pair.and_then(|report| connect(facts, report.pair()?, wanted));
    let mut gauge = Gauge {
        left_out: bench
            .as_ref()
            .err()
            .map(|why| format!("bandwidth: {why:#}"))
            .into_iter()
            .collect(),
        bench: bench.ok(),
    };
    ensure!(
        gauge.bench.is_some() || !wanted.apply || wanted.goal == Goal::Latency,
        "which settings are best for bandwidth cannot be told, and nothing is set: {}",
        gauge.left_out.join("; ")
    );
    // From here on Ctrl-C is a reason to put all back and to end.
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        signal_hook::flag::register(signal, stop.clone())?;
    }
    let mut ground = Ground { net, was, keep: false };
    let mut sweep = Sweep {
        version: VERSION,
        host: facts.host.name.clone(),
        goal: wanted.goal,
        netdevs: ground.was.iter().map(|was| was.netdev.clone()).collect(),
        tries: vec![],
        best: None,
        commands: vec![],
        applied: false,
        after: None,
        interrupted: false,
        left_out: vec![],
    };
    let mut made = vec![None];
    sweep.add("as it was".into(), gauge.see(&ground.was, &stop), &mut told);
    let mut chosen = vec![];
    for points in [interrupts(&ground.was, wanted.usecs), rings(&ground.was, wanted.rings)] {
        let base = best(&sweep.tries, 0, wanted.goal).unwrap_or(0);
        let before = sweep.tries.len();
        for point in points {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            ground.set(point)?;
            let seen = gauge.see(&ground.was, &stop);
            let with: Vec<String> = chosen
                .iter()
                .chain([&point])
                .map(|point: &Point| point.words())
                .collect();
            sweep.add(with.join(", "), seen, &mut told);
            made.push(Some(point));
        }
        // The rings are tried with the interrupts that have turned out best, or with those that were there.
        let found = best(&sweep.tries, base, wanted.goal).filter(|found| *found >= before);
        match found.and_then(|found| made[found]) {
            Some(point) => {
                chosen.push(point);
                ground.set(point)?;
            }
            None => put_back_but(&ground, &chosen)?,
        }
    }
    sweep.interrupted = stop.load(Ordering::Relaxed);
    if !sweep.interrupted {
        sweep.best = best(&sweep.tries, 0, wanted.goal);
        let commands = |was: &Was| {
            chosen
                .iter()
                .map(|point| point.change(&was.netdev).command())
                .collect::<Vec<_>>()
        };
        sweep.commands = ground.was.iter().flat_map(commands).collect();
        sweep.applied = wanted.apply && !chosen.is_empty();
        ground.keep = sweep.applied;
    }
    if !sweep.applied {
        ground.put_back()?;
    }
    if !sweep.interrupted {
        sweep.after = Some(gauge.see(&ground.was, &stop));
    }
    sweep.left_out = gauge.left_out;
    Ok(sweep)
}

/// All as it was, less what has been chosen already.
fn put_back_but(ground: &Ground, chosen: &[Point]) -> Result<()> {
    ground.put_back()?;
    chosen.iter().try_for_each(|point| ground.set(*point))
}

/// The devices of the cables to the peer, which carry and have a host with the module at the end.
fn cables(facts: &Facts, name: Option<&str>) -> Result<Vec<Was>> {
    let mut all = peers(facts);
    if let Some(name) = name {
        all.retain(|peer| peer.is(facts, name));
        ensure!(!all.is_empty(), "no cable leads to a host {name}");
    }
    let native = |netdev: &&Netdev| {
        let ours = netdev.driver.as_deref() == Some(MODULE);
        ours && netdev.carrier && netdev.counters.get("native_peer") == Some(&1)
    };
    all.retain(|peer| {
        peer.cables
            .iter()
            .filter_map(|cable| facts.netdev_of(cable))
            .any(|one| native(&one))
    });
    let names: Vec<&str> = all.iter().map(|peer| peer.name.as_str()).collect();
    match names.as_slice() {
        [] => bail!(
            "no cable to a host with the module {MODULE} carries, and nothing can be tried: `usb4rdma up` on both hosts"
        ),
        [_] => {}
        names => bail!("there are several peers: say by --peer which of {}", names.join(", ")),
    }
    let cables = all.iter().flat_map(|peer| &peer.cables);
    let netdevs = cables.filter_map(|cable| facts.netdev_of(cable)).filter(native);
    Ok(netdevs.map(Was::of).collect())
}

fn connect(facts: &Facts, settings: &Settings, wanted: &Wanted) -> Result<Client> {
    let how = How {
        seconds: wanted.seconds,
        runs: wanted.runs,
        sizes: vec![],
        address: None,
        port: wanted.port,
    };
    Client::connect(facts, settings, how)
}

fn interrupts(was: &[Was], usecs: &[u32]) -> Vec<Point> {
    let all = || -> Option<Vec<(u32, bool)>> { was.iter().map(|was| was.coalesce).collect() };
    let Some(now) = all() else { return vec![] };
    let usecs = if usecs.is_empty() { &USECS } else { usecs };
    let points = std::iter::once(Point::Adaptive).chain(usecs.iter().map(|usecs| Point::Usecs(*usecs)));
    let is = |point: Point| {
        now.iter().all(|(usecs, adaptive)| match point {
            Point::Adaptive => *adaptive,
            Point::Usecs(wanted) => !*adaptive && *usecs == wanted,
            Point::Rings(_) => false,
        })
    };
    points.filter(|point| !is(*point)).collect()
}

fn rings(was: &[Was], depths: &[u32]) -> Vec<Point> {
    let all = || -> Option<Vec<Rings>> { was.iter().map(|was| was.rings).collect() };
    let Some(now) = all() else { return vec![] };
    let most = now
        .iter()
        .map(|rings| rings.rx_max.min(rings.tx_max))
        .min()
        .unwrap_or(0);
    let depths = if depths.is_empty() { &RINGS } else { depths };
    let is = |depth: u32| now.iter().all(|rings| rings.rx == depth && rings.tx == depth);
    let depths = depths.iter().filter(|depth| **depth <= most && !is(**depth));
    depths.map(|depth| Point::Rings(*depth)).collect()
}

/// The place of the best of those from `base` on, which is `base` where none is better by enough; None if nothing
/// tells.
fn best(tries: &[Try], base: usize, goal: Goal) -> Option<usize> {
    let score = |at: usize| -> Option<f64> {
        let seen = &tries.get(at)?.seen;
        match goal {
            Goal::Bandwidth => Some(seen.out_gbps? + seen.in_gbps?),
            // More is better here too.
            Goal::Latency => Some(1e9 / seen.median? as f64),
        }
    };
    let of_base = score(base)?;
    let scores = (base + 1..tries.len()).filter_map(|at| Some((at, score(at)?)));
    let found = scores.max_by(|a, b| a.1.total_cmp(&b.1));
    Some(
        found
            .filter(|(_, score)| *score > of_base * MARGIN)
            .map_or(base, |(at, _)| at),
    )
}

impl Sweep {
    fn add(&mut self, what: String, seen: Seen, told: &mut impl FnMut(&Try)) {
        let made = Try { what, seen };
        told(&made);
        self.tries.push(made);
    }

    /// For a person.
    pub fn text(&self) -> String {
        let headings = ["SETTING", "ROUND TRIP, US", "P99", "OUT, GB/S", "IN, GB/S"];
        let mut rows = vec![headings.map(String::from).to_vec()];
        rows.extend(self.tries.iter().map(Try::cells));
        if let Some(seen) = self.after.clone() {
            let what = if self.applied { "now, as set" } else { "now, as before" };
            rows.push(
                Try {
                    what: what.into(),
                    seen,
                }
                .cells(),
            );
        }
        let mut text = table(&rows) + "\n";
        for what in &self.left_out {
            text += &format!("left out: {what}\n");
        }
        let goal = match self.goal {
            Goal::Bandwidth => "bandwidth",
            Goal::Latency => "latency",
        };
        let commands: String = self.commands.iter().map(|command| format!("    {command}\n")).collect();
        text + &match self.best {
            _ if self.interrupted => "ended early; all is as it was\n".into(),
            None => format!("what is best for {goal} cannot be told; all is as it was\n"),
            Some(_) if self.commands.is_empty() => {
                format!("nothing is better for {goal} than what was there by more than chance\n")
            }
            Some(best) if self.applied => format!(
                "set, as best for {goal}: {}; it lasts until the next boot:\n{commands}",
                self.tries[best].what
            ),
            Some(best) => format!(
                "best for {goal}: {}; all is as it was. What `usb4rdma tune --sweep --apply` would leave set:\n{commands}",
                self.tries[best].what
            ),
        }
    }
}

impl Try {
    fn cells(&self) -> Vec<String> {
        let micros = |time: Option<u64>| time.map_or("-".into(), |time| format!("{:.1}", time as f64 / 1000.0));
        let rate = |rate: Option<f64>| rate.map_or("-".into(), |rate| format!("{rate:.2}"));
        let Seen {
            median,
            p99,
            out_gbps,
            in_gbps,
        } = self.seen;
        vec![
            self.what.clone(),
            micros(median),
            micros(p99),
            rate(out_gbps),
            rate(in_gbps),
        ]
    }

    /// For a person, as it comes.
    pub fn line(&self) -> String {
        let cells = self.cells();
        format!("{}: {} us, {} out, {} in", cells[0], cells[1], cells[3], cells[4])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::same_as_file;

    #[test]
    fn the_schema_is_that_of_the_type() {
        same_as_file("sweep.json", schemars::schema_for!(Sweep));
    }

    fn was() -> Vec<Was> {
        let rings = Rings {
            rx: 512,
            rx_max: 1024,
            tx: 512,
            tx_max: 4096,
        };
        vec![Was {
            netdev: "usb4net0".into(),
            coalesce: Some((7, true)),
            rings: Some(rings),
        }]
    }

    fn made(median: u64, gbps: Option<f64>) -> Try {
        Try {
            what: "x".into(),
            seen: Seen {
                median: Some(median),
                p99: None,
                out_gbps: gbps,
                in_gbps: gbps,
            },
        }
    }

    #[test]
    fn what_is_set_already_or_cannot_be_is_not_tried() {
        assert_eq!(interrupts(&was(), &[]), [0, 8, 32, 128].map(Point::Usecs));
        assert_eq!(interrupts(&was(), &[5]), [Point::Usecs(5)]);
        assert_eq!(rings(&was(), &[]), [256, 1024].map(Point::Rings));
        let mut fixed = was();
        fixed[0].coalesce = Some((8, false));
        assert_eq!(interrupts(&fixed, &[0, 8]), [Point::Adaptive, Point::Usecs(0)]);
        // Two cables that are set otherwise: each setting is new for one of them.
        fixed.extend(was());
        assert_eq!(interrupts(&fixed, &[8]).len(), 2);
        fixed[0].coalesce = None;
        assert_eq!(interrupts(&fixed, &[8]), []);
    }

    #[test]
    fn the_best_is_better_by_more_than_chance() {
        let tries = [made(100, Some(10.0)), made(97, Some(10.4)), made(50, Some(9.0))];
        assert_eq!(best(&tries, 0, Goal::Latency), Some(2));
        assert_eq!(best(&tries, 0, Goal::Bandwidth), Some(0));
        assert_eq!(best(&tries, 2, Goal::Bandwidth), Some(2));
        let with = [&tries[..], &[made(60, Some(12.0))]].concat();
        assert_eq!(best(&with, 0, Goal::Bandwidth), Some(3));
        assert_eq!(best(&with, 2, Goal::Latency), Some(2));
        assert_eq!(best(&[made(100, None), made(50, None)], 0, Goal::Bandwidth), None);
    }

    #[test]
    fn the_table_says_what_is_set_at_the_end() {
        let mut sweep = Sweep {
            version: VERSION,
            host: "h0".into(),
            goal: Goal::Latency,
            netdevs: vec!["usb4net0".into()],
            tries: vec![made(36_100, None), made(20_000, Some(12.0))],
            best: Some(1),
            commands: vec![Point::Usecs(0).change("usb4net0").command()],
            applied: false,
            after: Some(Seen::default()),
            interrupted: false,
            left_out: vec!["bandwidth: nobody answers".into()],
        };
        sweep.tries[0].what = "as it was".into();
        let text = sweep.text();
        assert!(
            text.contains("as it was       36.1            -    -          -\n"),
            "{text}"
        );
        assert!(
            text.ends_with("    ethtool -C usb4net0 adaptive-rx off rx-usecs 0\n"),
            "{text}"
        );
        assert!(
            text.contains("all is as it was. What") && text.contains("left out: bandwidth"),
            "{text}"
        );
        sweep.applied = true;
        assert!(sweep.text().contains("set, as best for latency: x; it lasts"));
        sweep.interrupted = true;
        assert!(sweep.text().ends_with("ended early; all is as it was\n"));
    }
}
