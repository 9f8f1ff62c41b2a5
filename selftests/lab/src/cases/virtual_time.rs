// SPDX-License-Identifier: GPL-2.0 OR MIT
//! In virtual time: the same run twice gives the same kernel logs to the byte; latency and goodput without a processor.

use super::netdev::only_ours;
use super::{own, Case, Context};
use crate::lab::Lab;
use crate::parse;
use crate::spec::{LabSpec, NetDriver, Profile, Topology};
use anyhow::{bail, ensure, Context as _, Result};
use serde_json::{json, Value};
use std::fs;
use std::path::Path;

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
    own(
        "virtual_time_group",
        "where the processor takes no time: one queue pair over two and over four cables of a bond has the rate of all",
        group,
    ),
    own(
        "virtual_time_unequal",
        "where the processor takes no time: one queue pair over four cables of unequal rates has the sum of them",
        unequal,
    ),
    own(
        "virtual_time_spread",
        "where the processor takes no time: a message of 16 KiB by itself takes all cables, one of 64 B no longer",
        spread,
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
/// Of the cable: bits a second, and nanoseconds from end to end.
const RATE: f64 = 20e9;
const CABLE_NS: u64 = 500;
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
    let script = std::env::temp_dir().join(format!("usb4lab-latency-{}", std::process::id()));
    let text = LATENCY.replace("@TYPE@", context.ours.link_type());
    fs::write(&script, text).with_context(|| format!("{}", script.display()))?;
    let spec = LabSpec {
        net: vec![NetDriver::Ours; 2],
        rate_bps: Some(RATE),
        latency_ns: Some(CABLE_NS),
        ..spec(context, &script)
    };
    let lab = Lab::up(&format!("test-latency-{}", std::process::id()), spec);
    let _ = fs::remove_file(&script);
    let lab = lab?;
    let said_by = |host: usize| {
        let path = lab.state.join(format!("h{host}.out/out"));
        fs::read_to_string(&path).with_context(|| format!("{}", path.display()))
    };
    let said = said_by(0)?;
    let bare = parse::round_trip(&said)? / 1000.0;
    let rounds: Vec<f64> = said.lines().filter_map(parse::round_us).collect();
    let &[small, long] = &rounds[..] else {
        bail!("not two pingpongs in\n{said}");
    };
    println!("bare rings {bare} us, 64 B {small} us, 1 MiB {long} us a round");
    let ends = [streams(&said)?, streams(&said_by(1)?)?];
    ensure!(
        ends.iter().all(|end| end.len() == STREAMS.len()),
        "streams are missing in\n{said}"
    );
    let mut goodputs = Vec::new();
    for ((&(name, ways, least), out), back) in STREAMS.iter().zip(&ends[0]).zip(&ends[1]) {
        let goodput = 8.0 * (out.0 + back.0) / out.1.max(back.1) / (ways * RATE);
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
    lab.discard();
    Ok(())
}

/// Bytes and seconds of each stream that an end has sent.
fn streams(said: &str) -> Result<Vec<(f64, f64)>> {
    let lines = said.lines().filter(|line| line.starts_with('{'));
    let number = |value: &Value| value.as_f64().context("no number in a stream's report");
    lines
        .map(|line| {
            let report: Value = serde_json::from_str(line)?;
            ensure!(report["bad"] == 0, "{line}");
            Ok((number(&report["bytes"])?, number(&report["seconds"])?))
        })
        .collect()
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
    let script = std::env::temp_dir().join(format!("usb4lab-loss-{}", std::process::id()));
    let text = LOSS
        .replace("@TYPE@", context.ours.link_type())
        .replace("@AT@", &LOSS_AT[0].to_string())
        .replace("@FROM@", &LOSS_AT[1].to_string());
    fs::write(&script, text).with_context(|| format!("{}", script.display()))?;
    let faults =
        json!({"cmd": "fault", "set": {"drop": LOST}, "seed": context.seed, "at_ns": LOSS_AT[1] * 1_000_000_000});
    let spec = LabSpec {
        net: vec![NetDriver::Ours; 2],
        rate_bps: Some(RATE),
        latency_ns: Some(CABLE_NS),
        events: vec![faults],
        ..spec(context, &script)
    };
    let lab = Lab::up(&format!("test-loss-{}", std::process::id()), spec);
    let _ = fs::remove_file(&script);
    let lab = lab?;
    let mut counts = [0u64; 3];
    let mut said = Vec::new();
    for host in 0..2 {
        let path = lab.state.join(format!("h{host}.out/out"));
        let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        for (sum, name) in counts
            .iter_mut()
            .zip(["local_ack_timeout_err", "sent_again", "sent_trains"])
        {
            let start = format!("counter {name} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&start));
            *sum += line
                .with_context(|| format!("no {start}in\n{text}"))?
                .trim()
                .parse::<u64>()?;
        }
        said.push(text);
    }
    let [timeouts, again, trains] = counts;
    println!("{trains} trains, {again} sent again, {timeouts} timeouts");
    let speeds: Vec<f64> = streams(&said[0])?
        .iter()
        .map(|(bytes, seconds)| bytes / seconds)
        .collect();
    let &[writes, reads, lossy_writes, lossy_reads] = &speeds[..] else {
        bail!("not four streams in\n{}", said[0]);
    };
    for (name, kept) in [("WRITE", lossy_writes / writes), ("READ", lossy_reads / reads)] {
        println!("{name} of 64 KiB keeps {kept:.3} of its speed when one frame in a thousand is lost");
        ensure!(kept >= KEPT, "{name} of 64 KiB keeps {kept:.3} of its speed");
    }
    ensure!(
        again > 0 && timeouts == 0,
        "{again} trains sent again, {timeouts} timeouts"
    );
    lab.discard();
    Ok(())
}

const GROUP: &str = include_str!("../../guest/scenario-group");
/// Cables of a bond, and the profile that has as many.
const GROUPS: [(Profile, usize); 2] = [(Profile::Strix, 2), (Profile::Intel, 4)];
/// A stream of the scenario.
struct Stream {
    /// As the guests' program knows it.
    scene: &'static str,
    name: &'static str,
    ways: f64,
    /// The least part of all cables' rate of those ways.
    least: f64,
}

const fn stream(scene: &'static str, name: &'static str, ways: f64, least: f64) -> Stream {
    Stream {
        scene,
        name,
        ways,
        least,
    }
}

/// Measured with two cables: 0.952 one way and both, 0.953 of READs and SENDs; with four: 0.951, both ways 0.844 to
/// 0.948 and 0.941 to 0.952, 0.950 and 0.952. Both ways 1 ms of 14 is over before interrupts are moderated.
const GROUP_STREAMS: [Stream; 7] = [
    stream("stream_write_65536_one", "WRITEs of 64 KiB one way", 1.0, 0.93),
    stream("stream_write_65536_both", "WRITEs of 64 KiB both ways", 2.0, 0.82),
    stream("stream_write_1048576_one", "WRITEs of 1 MiB one way", 1.0, 0.93),
    stream("stream_write_1048576_both", "WRITEs of 1 MiB both ways", 2.0, 0.93),
    stream("stream_read_65536_one", "READs of 64 KiB", 1.0, 0.92),
    stream("stream_read_1048576_one", "READs of 1 MiB", 1.0, 0.92),
    stream("stream_send_1048576_one", "SENDs of 1 MiB", 1.0, 0.92),
];
/// Rates of four unequal cables, as parts of the usual one.
const UNEQUAL: [f64; 4] = [1.0, 1.0, 0.5, 0.25];
/// Measured: 0.939 of all; 0.347, four times the slowest, where every lane's ring may be half full of trains.
const UNEQUAL_STREAMS: [Stream; 4] = [
    stream("stream_write_65536_one", "WRITEs of 64 KiB", 1.0, 0.92),
    stream("stream_write_1048576_one", "WRITEs of 1 MiB", 1.0, 0.92),
    stream("stream_read_1048576_one", "READs of 1 MiB", 1.0, 0.92),
    stream("stream_send_1048576_one", "SENDs of 1 MiB", 1.0, 0.92),
];
/// Both ways over two cables, whatever the length. Measured: 0.952. Four lose more while nothing is moderated yet.
const BOTH_OVER_TWO: f64 = 0.93;
/// What nobody counts while no cable loses anything, however trains overtake each other.
const TROUBLE: [&str; 3] = ["local_ack_timeout_err", "completer_retry_err", "send_seq_err"];

fn group(context: &Context) -> Result<()> {
    only_ours(context, "trains")?;
    for (profile, cables) in GROUPS {
        let streams = GROUP_STREAMS.map(|stream| match (cables, stream.ways > 1.0) {
            (2, true) => Stream {
                least: BOTH_OVER_TWO,
                ..stream
            },
            _ => stream,
        });
        group_of(context, profile, &vec![1.0; cables], &streams).with_context(|| format!("{cables} cables"))?;
    }
    Ok(())
}

fn unequal(context: &Context) -> Result<()> {
    only_ours(context, "trains")?;
    group_of(context, Profile::Intel, &UNEQUAL, &UNEQUAL_STREAMS)
}

/// Bytes of the messages that go there and back, and what a round over four cables takes at most of one cable's.
/// Measured: 1.00 to 1.42, 0.74, 0.40. Each lane's interrupt costs its poll a register write, which is waited for 500
/// ns.
const SPREAD: [(u32, f64); 3] = [(64, 1.6), (16384, 0.8), (65536, 0.5)];
/// And a round of the first over one cable, us: an interval between interrupts, on either lane, shows. Measured: 2.1.
const PROMPT: f64 = 2.5;

fn spread(context: &Context) -> Result<()> {
    only_ours(context, "trains")?;
    let rounds_over = |cables: usize| -> Result<Vec<f64>> {
        let said = scene(
            context,
            Profile::Intel,
            &vec![1.0; cables],
            &SPREAD.map(|(bytes, _)| bytes),
            &[],
        )?;
        untroubled(&said)?;
        let rounds: Vec<f64> = said[0].lines().filter_map(parse::round_us).collect();
        ensure!(rounds.len() == SPREAD.len(), "pingpongs are missing in\n{}", said[0]);
        Ok(rounds)
    };
    let (one, four) = (rounds_over(1)?, rounds_over(4)?);
    ensure!(one[0] <= PROMPT, "a round of 64 B takes {} us", one[0]);
    for (((bytes, most), one), four) in SPREAD.iter().zip(one).zip(four) {
        let part = four / one;
        println!("a round of {bytes} B: {one} us over one cable, {four} over four, {part:.2}");
        ensure!(
            part <= *most,
            "a round of {bytes} B over four cables takes {part:.2} of one cable's"
        );
    }
    Ok(())
}

/// Plays a scenario over one cable for each of the `rates`, which are parts of [`RATE`]; what each guest said.
fn scene(context: &Context, profile: Profile, rates: &[f64], rounds: &[u32], scenes: &[Stream]) -> Result<[String; 2]> {
    let script = std::env::temp_dir().join(format!("usb4lab-group-{}", std::process::id()));
    let words = |words: Vec<String>| words.join(" ");
    let text = GROUP
        .replace("@TYPE@", context.ours.link_type())
        .replace("@CABLES@", &rates.len().to_string())
        .replace("@ROUNDS@", &words(rounds.iter().map(u32::to_string).collect()))
        .replace(
            "@STREAMS@",
            &words(scenes.iter().map(|stream| stream.scene.to_string()).collect()),
        );
    fs::write(&script, text).with_context(|| format!("{}", script.display()))?;
    let rate = |(cable, part): (usize, &f64)| json!({"cmd": "cable", "op": "rate", "cable": cable, "value": part * RATE, "at_ns": 1});
    let spec = LabSpec {
        net: vec![NetDriver::Ours; 2],
        rate_bps: Some(RATE),
        latency_ns: Some(CABLE_NS),
        events: rates
            .iter()
            .enumerate()
            .filter(|(_, part)| **part < 1.0)
            .map(rate)
            .collect(),
        virtual_time: true,
        script: Some(script.clone()),
        seed: context.seed,
        kernel: context.kernel,
        ..LabSpec::wired(profile, Topology::Pair, 2, rates.len())?
    };
    let lab = Lab::up(&format!("test-group-{}", std::process::id()), spec);
    let _ = fs::remove_file(&script);
    let lab = lab?;
    let said_by = |host: usize| {
        let path = lab.state.join(format!("h{host}.out/out"));
        fs::read_to_string(&path).with_context(|| format!("{}", path.display()))
    };
    let said = [said_by(0)?, said_by(1)?];
    lab.discard();
    Ok(said)
}

/// Insists that all went as trains, and that nobody counted trouble.
fn untroubled(said: &[String; 2]) -> Result<()> {
    for text in said {
        let count = |name: &str| -> Result<u64> {
            let start = format!("counter {name} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&start));
            Ok(line.with_context(|| format!("no {start}in\n{text}"))?.trim().parse()?)
        };
        for name in TROUBLE {
            ensure!(count(name)? == 0, "{name} {}", count(name)?);
        }
        let [runs, trains] = [count("sent_runs")?, count("sent_trains")?];
        ensure!(trains > 0 && runs == trains, "{trains} of {runs} runs went as trains");
    }
    Ok(())
}

/// Plays the streams over one cable for each of the `rates`, which are parts of [`RATE`].
fn group_of(context: &Context, profile: Profile, rates: &[f64], streams_of: &[Stream]) -> Result<()> {
    let said = scene(context, profile, rates, &[], streams_of)?;
    let ends = [streams(&said[0])?, streams(&said[1])?];
    ensure!(
        ends.iter().all(|end| end.len() == streams_of.len()),
        "streams are missing in\n{}",
        said[0]
    );
    let all = rates.iter().sum::<f64>() * RATE;
    let mut poor = Vec::new();
    for ((stream, out), back) in streams_of.iter().zip(&ends[0]).zip(&ends[1]) {
        let goodput = 8.0 * (out.0 + back.0) / out.1.max(back.1) / (stream.ways * all);
        println!("{} cables, {}: {goodput:.4} of their rate", rates.len(), stream.name);
        if goodput < stream.least {
            poor.push(stream.name);
        }
    }
    untroubled(&said)?;
    ensure!(poor.is_empty(), "too slow: {}", poor.join(", "));
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
