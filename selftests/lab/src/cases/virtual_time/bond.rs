// SPDX-License-Identifier: GPL-2.0 OR MIT
//! In virtual time: one queue pair over several cables.

use super::super::netdev::only_ours;
use super::{own, Case, Context};
use crate::spec::Profile;
use crate::virtually::Ground;
use anyhow::{ensure, Context as _, Result};

pub const CASES: &[Case] = &[
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
        "virtual_time_rings",
        "where the processor takes no time: one cable and two whose rings are slower than they have the sum of the rings",
        rings,
    ),
    own(
        "virtual_time_spread",
        "where the processor takes no time: a message of 16 KiB by itself takes all cables, one of 64 B no longer",
        spread,
    ),
];

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
pub const UNEQUAL: [f64; 4] = [1.0, 1.0, 0.5, 0.25];
/// Measured: 0.939 of all; 0.347, four times the slowest, where every lane's ring may be half full of trains.
const UNEQUAL_STREAMS: [Stream; 4] = [
    stream("stream_write_65536_one", "WRITEs of 64 KiB", 1.0, 0.92),
    stream("stream_write_1048576_one", "WRITEs of 1 MiB", 1.0, 0.92),
    stream("stream_read_1048576_one", "READs of 1 MiB", 1.0, 0.92),
    stream("stream_send_1048576_one", "SENDs of 1 MiB", 1.0, 0.92),
];
/// Both ways over two cables, whatever the length. Measured: 0.952. Four lose more while nothing is moderated yet.
const BOTH_OVER_TWO: f64 = 0.93;

fn group(context: &Context) -> Result<()> {
    only_ours(context, "trains")?;
    for (profile, cables) in GROUPS {
        let ground = Ground::of(profile, &vec![1.0; cables], context.seed, context.kernel);
        let streams = GROUP_STREAMS.map(|stream| match (cables, stream.ways > 1.0) {
            (2, true) => Stream {
                least: BOTH_OVER_TWO,
                ..stream
            },
            _ => stream,
        });
        streams_of(&ground, &streams, ground.sum(), "their rate").with_context(|| format!("{cables} cables"))?;
    }
    Ok(())
}

fn unequal(context: &Context) -> Result<()> {
    only_ours(context, "trains")?;
    let ground = Ground::of(Profile::Intel, &UNEQUAL, context.seed, context.kernel);
    streams_of(&ground, &UNEQUAL_STREAMS, ground.sum(), "their rate")
}

/// The regime of real machines: cables of 36 Gbit/s, whose rings move 12 each.
pub const FAST: f64 = 36e9;
pub const RING: f64 = 12e9;
/// Rings of a cable that carry trains: its two message lanes (docs/protocol.md, "Two rings of a cable").
pub const RINGS: f64 = 2.0;
/// Measured: 0.990 to 0.999 of one cable's rings and of two cables', one way and both.
const RING_STREAMS: [Stream; 4] = [
    stream("stream_write_1048576_one", "WRITEs of 1 MiB", 1.0, 0.95),
    stream("stream_write_1048576_both", "WRITEs of 1 MiB both ways", 2.0, 0.95),
    stream("stream_read_1048576_one", "READs of 1 MiB", 1.0, 0.95),
    stream("stream_send_1048576_one", "SENDs of 1 MiB", 1.0, 0.95),
];

/// Cables faster than their rings.
pub fn ringed(cables: usize, seed: u64, kernel: crate::spec::Kernel) -> Ground {
    Ground {
        rates: vec![FAST; cables],
        ring_rate: Some(RING),
        ..Ground::of(Profile::Strix, &[], seed, kernel)
    }
}

fn rings(context: &Context) -> Result<()> {
    only_ours(context, "trains")?;
    for cables in [1, 2] {
        let ground = ringed(cables, context.seed, context.kernel);
        let all = RINGS * RING * cables as f64;
        streams_of(&ground, &RING_STREAMS, all, "their rings' rate").with_context(|| format!("{cables} cables"))?;
    }
    Ok(())
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
        let ground = Ground::of(Profile::Intel, &vec![1.0; cables], context.seed, context.kernel);
        let played = ground.play(&SPREAD.map(|(bytes, _)| bytes), &[])?;
        played.untroubled()?;
        let rounds = played.pingpongs();
        ensure!(
            rounds.len() == SPREAD.len(),
            "pingpongs are missing in\n{}",
            played.said[0]
        );
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

/// Plays the streams, and judges each by the part of `all`, bits a second one way, that it has.
fn streams_of(ground: &Ground, streams: &[Stream], all: f64, whose: &str) -> Result<()> {
    let scenes: Vec<&str> = streams.iter().map(|stream| stream.scene).collect();
    let played = ground.play(&[], &scenes)?;
    let goodputs = played.goodputs()?;
    ensure!(
        goodputs.len() == streams.len(),
        "streams are missing in\n{}",
        played.said[0]
    );
    let mut poor = Vec::new();
    for (stream, goodput) in streams.iter().zip(goodputs) {
        let part = goodput / (stream.ways * all);
        println!("{} cables, {}: {part:.4} of {whose}", ground.rates.len(), stream.name);
        if part < stream.least {
            poor.push(stream.name);
        }
    }
    played.untroubled()?;
    ensure!(poor.is_empty(), "too slow: {}", poor.join(", "));
    Ok(())
}
