// SPDX-License-Identifier: GPL-2.0 OR MIT
//! In virtual time: cables of a bond are cut at random moments while eight queue pairs use all of them, and come back
//! in any order. No completion has an error, every byte is right, and what is left carries on at once.

use super::super::netdev::only_ours;
use super::{long, own, Case, Context};
use crate::spec::Profile;
use crate::virtually::{Ground, Played, RATE};
use anyhow::{ensure, Context as _, Result};
use serde_json::{json, Value};

pub const CASES: &[Case] = &[
    own(
        "virtual_time_cuts",
        "eight queue pairs over four cables of which one to all are cut and come back: every byte, no pause, 12 rounds",
        |context| cuts(context, 12, Cut::Pulled),
    ),
    own(
        "virtual_time_silent",
        "the same where one to three cables lose every frame for a while, and nobody is told, 6 rounds",
        |context| cuts(context, 6, Cut::Swallows),
    ),
    long(own(
        "virtual_time_cuts_long",
        "50 rounds of virtual_time_cuts",
        |context| cuts(context, 50, Cut::Pulled),
    )),
];

/// What happens to a cable that is cut.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    /// It is pulled, and its hosts are told at once.
    Pulled,
    /// It loses every frame, of which its hosts hear nothing before they miss each other.
    Swallows,
}

const CABLES: usize = 4;
/// Of a cable, as a part of the usual rate: 500 Mbit/s. More would be more frames for the same thing.
const PART: f64 = 0.025;
/// When the hosts are long ready, ms of the fabric's clock, which is the kernels' too.
const BEGIN_MS: f64 = 20_000.0;
/// Traffic before a round's first cut may come, the time in which its cuts come, and traffic after that, ms.
const BEFORE_MS: f64 = 20.0;
const CUTTING_MS: f64 = 60.0;
const AFTER_MS: f64 = 50.0;
/// Until the first cable is plugged again, ms, and the time in which all are.
const OUT_MS: (f64, f64) = (50.0, 400.0);
const PLUGGING_MS: f64 = 100.0;
/// Windows of traffic measure the rate: when they begin, ms from the last plug, and for how long. One has too few
/// messages to tell four cables from three, 0.84 to 1.17 of the rate and 0.70 to 0.90: so the full rate has come with
/// the first from which on they have it together.
const PROBES_MS: [f64; 7] = [700.0, 1_400.0, 1_500.0, 1_600.0, 1_800.0, 2_200.0, 3_300.0];
const PROBE_MS: f64 = 6.0;
/// The same before anything is cut, one in so many ms.
const EVERY_MS: f64 = 100.0;
/// From a round's last plug to the next round.
const UNTIL_MS: f64 = 3_500.0;
/// Each fifth round cuts all cables, for less than a queue pair's timeout (8.6 s).
const ALL_EACH: usize = 5;

/// Longest time without the rate of what is left, ms: asked is 20. A cable of which nobody is told is found out by six
/// round trips without an answer, and here one takes 4 ms, as four trains of 1 ms wait for each cable; what was lost on
/// it may go by another that is found out after it.
const fn dip_ms(how: Cut) -> f64 {
    match how {
        Cut::Pulled => 20.0,
        Cut::Swallows => 50.0,
    }
}
/// Part of that rate which counts as having it, over so many ms.
const LEFT: f64 = 0.75;
const LEFT_MS: usize = 5;
/// Part of the four cables' rate that is all of it: WRITEs and SENDs one way and READs the other have 1.15 to 1.35 by
/// four, as the queue pairs happen to take turns, and 0.97 by three.
const FULL: f64 = 1.05;
/// Longest time from the last plug to the full rate, ms: 1.4 s until the core has found the host, and two windows.
const AGAIN_MS: f64 = 1_650.0;

/// What happens in a round, ms.
#[derive(Debug)]
struct Round {
    /// Cable and moment, in the order of time.
    cuts: Vec<(usize, f64)>,
    plugs: Vec<(usize, f64)>,
    /// Of traffic while cables are cut.
    window: (f64, f64),
    probes: Vec<(f64, f64)>,
}

impl Round {
    /// One that begins at a time and cuts `count` cables.
    fn of(dice: &mut fastrand::Rng, begin: f64, count: usize) -> Round {
        let moments = |dice: &mut fastrand::Rng, from: f64, within: f64| {
            let mut cables: Vec<usize> = (0..CABLES).collect();
            dice.shuffle(&mut cables);
            let mut times: Vec<f64> = (0..count).map(|_| from + dice.f64() * within).collect();
            times.sort_by(f64::total_cmp);
            (cables, times)
        };
        let (cables, times) = moments(dice, begin + BEFORE_MS, CUTTING_MS);
        let cuts: Vec<(usize, f64)> = cables[..count].iter().copied().zip(times).collect();
        let window = (begin, begin + BEFORE_MS + CUTTING_MS + AFTER_MS);
        let out = OUT_MS.0 + dice.f64() * (OUT_MS.1 - OUT_MS.0);
        let (_, times) = moments(dice, window.1 + out, PLUGGING_MS);
        let mut cables = cables[..count].to_vec();
        dice.shuffle(&mut cables);
        let plugs: Vec<(usize, f64)> = cables.into_iter().zip(times).collect();
        let last = plugs.last().map_or(window.1, |(_, at)| *at);
        let probes = PROBES_MS.map(|at| (last + at, last + at + PROBE_MS)).to_vec();
        Round {
            cuts,
            plugs,
            window,
            probes,
        }
    }

    /// The last plug.
    fn last(&self) -> f64 {
        self.plugs.last().map_or(self.window.1, |(_, at)| *at)
    }

    /// What was measured after it.
    fn probes_of<'a>(&self, told: &'a Told) -> impl Iterator<Item = &'a Window> {
        let span = self.last()..self.end();
        told.windows
            .iter()
            .filter(move |window| span.contains(&window.start_ms))
    }

    fn end(&self) -> f64 {
        self.plugs.last().map_or(self.window.1, |(_, at)| at + UNTIL_MS)
    }

    fn events(&self, how: Cut) -> impl Iterator<Item = Value> + '_ {
        let event = move |(cable, ms): &(usize, f64), ends: bool| {
            let at_ns = ms * 1e6;
            match (how, ends) {
                (Cut::Pulled, false) => json!({"cmd": "cable", "op": "pull", "cable": cable, "at_ns": at_ns}),
                (Cut::Pulled, true) => json!({"cmd": "cable", "op": "plug", "cable": cable, "at_ns": at_ns}),
                (Cut::Swallows, false) => {
                    json!({"cmd": "fault", "set": {"drop": 1.0}, "cable": cable, "at_ns": at_ns})
                }
                (Cut::Swallows, true) => json!({"cmd": "fault", "clear": true, "cable": cable, "at_ns": at_ns}),
            }
        };
        let cuts = self.cuts.iter().map(move |cut| event(cut, false));
        cuts.chain(self.plugs.iter().map(move |plug| event(plug, true)))
    }
}

/// Windows that measure the rate before anything is cut.
fn first_probes() -> Vec<(f64, f64)> {
    let start = |n: u32| BEGIN_MS - f64::from(10 - n) * EVERY_MS;
    (0..9).map(|n| (start(n), start(n) + PROBE_MS)).collect()
}

fn rounds_of(seed: u64, count: usize, how: Cut) -> Vec<Round> {
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut begin = BEGIN_MS;
    (0..count)
        .map(|n| {
            let cut = if how == Cut::Pulled && n % ALL_EACH == ALL_EACH - 1 {
                CABLES
            } else {
                1 + n % (CABLES - 1)
            };
            let round = Round::of(&mut dice, begin, cut);
            begin = round.end();
            round
        })
        .collect()
}

fn cuts(context: &Context, count: usize, how: Cut) -> Result<()> {
    only_ours(context, "trains")?;
    let rounds = rounds_of(context.seed, count, how);
    let windows: Vec<String> = first_probes()
        .into_iter()
        .chain(
            rounds
                .iter()
                .flat_map(|round| std::iter::once(round.window).chain(round.probes.iter().copied())),
        )
        .map(|(from, to)| format!("{from:.3}-{to:.3}"))
        .collect();
    let then = format!(
        "if [ \"$USB4LAB_HOST\" = 1 ]; then /usb4lab/cuts.py serve 18515 dev0 \"$gid\"; \
         else sleep 1; /usb4lab/cuts.py call \"10.91.0.$peer\" 18515 dev0 \"$gid\" {}; fi",
        windows.join(" ")
    );
    let ground = Ground {
        events: rounds.iter().flat_map(|round| round.events(how)).collect(),
        limit_s: 120 + 20 * count as u64,
        ..Ground::of(Profile::Intel, &[PART; CABLES], context.seed, context.kernel)
    };
    judge(&rounds, how, &ground.play_then(&[], &[], &then)?)
}

/// What the caller measured.
#[derive(Debug)]
struct Told {
    windows: Vec<Window>,
    /// Bytes that completed in a millisecond, in the order of time.
    by_ms: Vec<(u64, f64)>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    start_ms: f64,
    bytes: f64,
    seconds: f64,
    carriers: u64,
}

impl Window {
    /// Bytes a millisecond.
    fn rate(&self) -> f64 {
        self.bytes / (1e3 * self.seconds)
    }

    /// One window more to the sum of bytes and seconds.
    fn add((bytes, seconds): (f64, f64), window: &Window) -> (f64, f64) {
        (bytes + window.bytes, seconds + window.seconds)
    }
}

impl Told {
    fn read(report: &Value) -> Result<Told> {
        let list = |name: &str| {
            report[name]
                .as_array()
                .with_context(|| format!("no {name} in {report}"))
        };
        let cell = |row: &Value, n: usize| row[n].as_f64().with_context(|| format!("{row}"));
        let window = |row: &Value| -> Result<Window> {
            Ok(Window {
                start_ms: cell(row, 0)?,
                bytes: cell(row, 1)?,
                seconds: cell(row, 2)?,
                carriers: cell(row, 3)? as u64,
            })
        };
        Ok(Told {
            windows: list("windows")?.iter().map(window).collect::<Result<_>>()?,
            by_ms: list("by_ms")?
                .iter()
                .map(|row| Ok((cell(row, 0)? as u64, cell(row, 1)?)))
                .collect::<Result<_>>()?,
        })
    }

    /// Bytes that completed from one millisecond up to another.
    fn between(&self, from: u64, to: u64) -> f64 {
        let inside = self.by_ms.iter().filter(|(ms, _)| (from..to).contains(ms));
        inside.map(|(_, bytes)| bytes).sum()
    }

    /// Milliseconds from a moment until the bytes come at a rate (bytes a millisecond); None if not before `to`.
    fn recovers(&self, from: f64, to: f64, rate: f64) -> Option<f64> {
        let enough = LEFT * rate * LEFT_MS as f64;
        let mut at = from as u64 + 1;
        while at + LEFT_MS as u64 <= to as u64 {
            if self.between(at, at + LEFT_MS as u64) >= enough {
                return Some((at as f64 - from).max(0.0));
            }
            at += 1;
        }
        None
    }
}

/// How a round went, ms.
#[derive(Debug, PartialEq)]
struct Found {
    /// From a cut to the rate of what is left, the longest of the round; None where nothing was left.
    dip: Option<f64>,
    /// From the last plug to the full rate, as far as the windows tell; None if it did not come.
    again: Option<f64>,
    /// The same to the last cable's carrier.
    carrier: Option<f64>,
}

fn look(round: &Round, told: &Told, full: f64) -> Found {
    let mut dip = (round.cuts.len() < CABLES).then_some(0.0_f64);
    for (n, (_, at)) in round.cuts.iter().enumerate() {
        let left = (CABLES - 1 - n) as f64 / CABLES as f64;
        let next = round.cuts.get(n + 1).map(|(_, at)| *at);
        let until = next.unwrap_or(round.window.1);
        match told.recovers(*at, until, left * full) {
            Some(ms) => dip = dip.map(|dip| dip.max(ms)),
            // The next cut came first: what it leaves is judged by itself.
            None if next.is_some() => {}
            None => dip = dip.map(|dip| dip.max(until - at)),
        }
    }
    let last = round.last();
    let probes = || round.probes_of(told);
    let after = |window: &Window| window.start_ms + PROBE_MS - last;
    Found {
        dip,
        again: (0..probes().count()).find_map(|n| {
            let (bytes, seconds) = probes().skip(n).fold((0.0, 0.0), Window::add);
            let first = probes().nth(n).filter(|window| window.carriers == CABLES as u64)?;
            (bytes >= FULL * PART * RATE * CABLES as f64 / 8.0 * seconds).then(|| after(first))
        }),
        carrier: probes().find(|w| w.carriers == CABLES as u64).map(after),
    }
}

fn judge(rounds: &[Round], how: Cut, played: &Played) -> Result<()> {
    let reports = played.reports(0)?;
    let told = Told::read(reports.last().context("the caller told nothing")?)?;
    let first = told.windows.iter().take(first_probes().len());
    let (bytes, seconds) = first.fold((0.0, 0.0), Window::add);
    ensure!(bytes > 0.0, "nothing was carried before the first cut");
    let full = bytes / (1e3 * seconds);
    let part = 8.0 * 1e3 * full / (PART * RATE * CABLES as f64);
    println!("before the first cut {part:.3} of the four cables' rate, WRITEs, READs and SENDs together");
    let mut wrong = Vec::new();
    let (mut dips, mut agains, mut carriers) = (Vec::new(), Vec::new(), Vec::new());
    for (n, round) in rounds.iter().enumerate() {
        let found = look(round, &told, full);
        let rates: Vec<String> = round
            .probes_of(&told)
            .map(|w| format!("{:.2} by {}", w.rate() / full, w.carriers))
            .collect();
        println!("round {n}: {} cut, {found:?}, {}", round.cuts.len(), rates.join(", "));
        if found.dip.is_some_and(|dip| dip > dip_ms(how)) {
            wrong.push(format!("round {n}: a dip of {:?} ms", found.dip));
        }
        if found.again.is_none_or(|again| again > AGAIN_MS) {
            wrong.push(format!("round {n}: the full rate after {:?} ms", found.again));
        }
        dips.extend(found.dip);
        agains.extend(found.again);
        carriers.extend(found.carrier);
    }
    let range = |values: &[f64]| {
        let ends = [f64::min, f64::max].map(|pick| values.iter().copied().reduce(pick).unwrap_or(f64::NAN));
        format!("{:.0} to {:.0} ms", ends[0], ends[1])
    };
    println!(
        "dips {}; carrier {} after the last plug, full rate {}",
        range(&dips),
        range(&carriers),
        range(&agains)
    );
    for host in 0..2 {
        let counts = [
            "local_ack_timeout_err",
            "completer_retry_err",
            "sent_again",
            "sent_trains",
        ]
        .map(|name| played.counter(host, name).map(|count| format!("{name} {count}")));
        println!(
            "host {host}: {}",
            counts.into_iter().collect::<Result<Vec<_>>>()?.join(", ")
        );
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_rounds_which_do_not_overlap() {
        let rounds = rounds_of(7, 20, Cut::Pulled);
        assert_eq!(format!("{rounds:?}"), format!("{:?}", rounds_of(7, 20, Cut::Pulled)));
        for round in &rounds {
            let sorted = |list: &[(usize, f64)]| {
                let mut cables: Vec<usize> = list.iter().map(|(cable, _)| *cable).collect();
                cables.sort_unstable();
                cables
            };
            assert_eq!(sorted(&round.cuts), sorted(&round.plugs));
            let (from, to) = round.window;
            assert!(round.cuts.iter().all(|(_, at)| (from..to).contains(at)));
            assert!(round.plugs.iter().all(|(_, at)| *at > to));
        }
        assert!(rounds.windows(2).all(|two| two[0].end() <= two[1].window.0));
        assert_eq!(rounds[4].cuts.len(), CABLES);
    }

    #[test]
    fn a_pause_and_a_rate_that_stays_low_are_found() {
        let round = Round {
            cuts: vec![(0, 1000.0)],
            plugs: vec![(0, 1200.0)],
            window: (980.0, 1100.0),
            probes: Vec::new(),
        };
        let window = |start_ms: f64, bytes: f64, carriers| Window {
            start_ms,
            bytes,
            seconds: 0.01,
            carriers,
        };
        // Of the cables in such a window.
        let all = PART * RATE * CABLES as f64 / 8.0 * 0.01;
        // 100 bytes a millisecond; nothing for 12 ms from the cut on, then what three cables carry.
        let by_ms = (980..1000)
            .map(|ms| (ms, 100.0))
            .chain((1012..1100).map(|ms| (ms, 75.0)));
        let told = Told {
            windows: vec![
                window(1250.0, 0.9 * all, 3),
                window(1300.0, 0.9 * all, 4),
                window(1350.0, 1.15 * all, 4),
            ],
            by_ms: by_ms.collect(),
        };
        let found = look(&round, &told, 100.0);
        assert_eq!(found.again, Some(150.0 + PROBE_MS));
        assert_eq!(found.carrier, Some(100.0 + PROBE_MS));
        let dip = found.dip.unwrap();
        assert!((10.0..13.0).contains(&dip), "{dip}");
        let silent = Told {
            windows: Vec::new(),
            by_ms: Vec::new(),
        };
        assert_eq!(look(&round, &silent, 100.0).dip, Some(100.0));
    }
}
