// SPDX-License-Identifier: GPL-2.0 OR MIT
//! In virtual time: the same run twice gives the same kernel logs to the byte; latency and goodput without a processor.

use super::netdev::only_ours;
use super::{long, own, Case, Context};
use crate::lab::Lab;
use crate::parse;
use crate::spec::{LabSpec, Profile};
use crate::virtually::{Ground, CABLE_NS, RATE};
use anyhow::{bail, ensure, Context as _, Result};
use serde_json::json;
use std::fs;
use std::path::Path;

pub mod bond;
pub mod cuts;

pub const CASES: &[Case] = &[
    own(
        "virtual_time_determinism",
        "the same scenario twice in virtual time: byte-identical kernel logs on both guests",
        determinism,
    ),
    own(
        "virtual_time_latency",
        "where the processor takes no time: latency near that of the bare rings, goodput near the rate, one way and both",
        latency,
    ),
    own(
        "virtual_time_loss",
        "where the processor takes no time and frames are lost: no queue pair waits for its timer, a stream goes on",
        loss,
    ),
];

const SCENARIO: &str = include_str!("../../guest/scenario-pingpong");

fn determinism(context: &Context) -> Result<()> {
    let mut logs = Vec::new();
    let dir = std::env::temp_dir().join(format!("usb4lab-scenario-{}", std::process::id()));
    let text = SCENARIO.replace("@TYPE@", context.ours.link_type());
    fs::write(&dir, text).with_context(|| format!("{}", dir.display()))?;
    let outcome = (0..2).try_for_each(|_| -> Result<()> {
        logs.push(once(context, &dir)?);
        Ok(())
    });
    let _ = fs::remove_file(&dir);
    outcome?;
    for (host, (first, second)) in logs[0].iter().zip(&logs[1]).enumerate() {
        if let Some(line) = first.lines().zip(second.lines()).position(|(a, b)| a != b) {
            let at = |log: &str| log.lines().nth(line).unwrap_or_default().to_string();
            bail!(
                "host {host}: the two logs differ in line {}:\n  {}\n  {}",
                line + 1,
                at(first),
                at(second)
            );
        }
        ensure!(first == second, "host {host}: one run's log is longer than the other's");
    }
    Ok(())
}

const LATENCY: &str = include_str!("../../guest/scenario-latency");
/// A bare round trip takes at most so much of the cable's own, there and back: any interval between interrupts shows.
/// Measured: 1.28.
const BARE: f64 = 1.5;
/// A round of small messages takes at most so many round trips of a bare frame. What it takes beyond one is no wire:
/// each reading of the clock by a process takes 256 ns of virtual time, so one more in the post at each end shows.
/// Measured: 1.64.
const ROUND: f64 = 1.75;
/// Least part of the rate that long messages carry, one way at a time. Measured: 0.950.
const GOODPUT: f64 = 0.94;
/// The streams of the scenario: what of, how many ways, and the least part of the rate of those ways. Measured: 0.953,
/// 0.936, 0.954, 0.935.
const STREAMS: [(&str, f64, f64); 4] = [
    ("64 KiB one way", 1.0, 0.94),
    ("64 KiB both ways", 2.0, 0.92),
    ("1 MiB one way", 1.0, 0.94),
    ("1 MiB both ways", 2.0, 0.92),
];

fn latency(context: &Context) -> Result<()> {
    only_ours(context, "round trips over the bare rings")?;
    let text = LATENCY.replace("@TYPE@", context.ours.link_type());
    let played = Ground::of(Profile::Strix, &[1.0], context.seed, context.kernel).run(&text)?;
    let said = &played.said[0];
    let bare = parse::round_trip(said)? / 1000.0;
    let rounds = played.pingpongs();
    let &[small, long] = &rounds[..] else {
        bail!("not two pingpongs in\n{said}");
    };
    println!("bare rings {bare} us, 64 B {small} us, 1 MiB {long} us a round");
    let streams = played.goodputs()?;
    ensure!(streams.len() == STREAMS.len(), "streams are missing in\n{said}");
    let mut goodputs = Vec::new();
    for (&(name, ways, least), bits) in STREAMS.iter().zip(streams) {
        let goodput = bits / (ways * RATE);
        println!("WRITEs of {name}: {goodput:.4} of the cable's rate");
        goodputs.push((name, goodput, least));
    }
    let cable = 2.0 * CABLE_NS as f64 / 1000.0;
    ensure!(
        bare <= BARE * cable,
        "a bare round trip takes {bare} us, the cable {cable}"
    );
    ensure!(
        small <= ROUND * bare,
        "a round of 64 B takes {small} us, over the bare rings {bare}"
    );
    let goodput = 2.0 * 8.0 * f64::from(1 << 20) / (long * 1e-6) / RATE;
    ensure!(
        goodput >= GOODPUT,
        "long messages carry {goodput:.3} of the cable's rate"
    );
    for (name, goodput, least) in goodputs {
        ensure!(
            goodput >= least,
            "a stream of WRITEs of {name} has {goodput:.4} of the cable's rate"
        );
    }
    Ok(())
}

const LOSS: &str = include_str!("../../guest/scenario-loss");
/// Seconds at which the first stream begins, and from which frames are lost, when those without loss are over.
const LOSS_AT: [u64; 2] = [12, 20];
/// Part of the frames that is lost.
const LOST: f64 = 1e-3;
/// Least part of its speed that a stream keeps. A frame lost is a train of 17 sent again: 1.7 % are lost so.
const KEPT: f64 = 0.9;

fn loss(context: &Context) -> Result<()> {
    only_ours(context, "trains")?;
    let text = LOSS
        .replace("@TYPE@", context.ours.link_type())
        .replace("@AT@", &LOSS_AT[0].to_string())
        .replace("@FROM@", &LOSS_AT[1].to_string());
    let faults =
        json!({"cmd": "fault", "set": {"drop": LOST}, "seed": context.seed, "at_ns": LOSS_AT[1] * 1_000_000_000});
    let ground = Ground {
        events: vec![faults],
        ..Ground::of(Profile::Strix, &[1.0], context.seed, context.kernel)
    };
    let played = ground.run(&text)?;
    let of_both = |name: &str| -> Result<u64> { Ok(played.counter(0, name)? + played.counter(1, name)?) };
    let [timeouts, again, trains] = [
        of_both("local_ack_timeout_err")?,
        of_both("sent_again")?,
        of_both("sent_trains")?,
    ];
    println!("{trains} trains, {again} sent again, {timeouts} timeouts");
    let speeds = played.goodputs()?;
    let &[writes, reads, lossy_writes, lossy_reads] = &speeds[..] else {
        bail!("not four streams in\n{}", played.said[0]);
    };
    for (name, kept) in [("WRITE", lossy_writes / writes), ("READ", lossy_reads / reads)] {
        println!("{name} of 64 KiB keeps {kept:.3} of its speed when one frame in a thousand is lost");
        ensure!(kept >= KEPT, "{name} of 64 KiB keeps {kept:.3} of its speed");
    }
    ensure!(
        again > 0 && timeouts == 0,
        "{again} trains sent again, {timeouts} timeouts"
    );
    Ok(())
}

fn spec(context: &Context, script: &Path) -> LabSpec {
    LabSpec {
        virtual_time: true,
        script: Some(script.to_path_buf()),
        seed: context.seed,
        kernel: context.kernel,
        ..LabSpec::default()
    }
}

/// One run; the guests' kernel logs.
fn once(context: &Context, script: &Path) -> Result<Vec<String>> {
    let lab = Lab::up(&format!("test-virtual-{}", std::process::id()), spec(context, script))?;
    let logs = (0..2)
        .map(|host| {
            let dir = lab.state.join(format!("h{host}.out"));
            let log = fs::read_to_string(dir.join("dmesg")).with_context(|| format!("{}", dir.display()))?;
            if let Some(bad) = crate::log::trouble(&log) {
                bail!("host {host}'s kernel log:\n{bad}");
            }
            Ok(log)
        })
        .collect::<Result<Vec<String>>>()?;
    lab.discard();
    Ok(logs)
}
