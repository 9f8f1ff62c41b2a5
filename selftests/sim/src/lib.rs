// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A world of transport engines in virtual time.
//!
//! One seed makes one [`scenario`]: hosts, connections, memory, work requests, faults of the links
//! and of the users. The [`world`] runs it to its end in virtual time, byte for byte as on a wire
//! (headers, ICRC and all), and the [`oracle`] holds it to what must be true for every seed
//! (`protocol.md` section 6):
//!
//! - bytes are equal when a completion says so, and still are at the end;
//! - every work request completes exactly once and in order;
//! - a receive completes only when all its bytes are placed, and before its sender's completion;
//! - nothing is written outside what was addressed;
//! - atomics are carried out once, those of several queue pairs add up, and each finds what it should;
//! - local operations run once, in order, behind their fences;
//! - a message of an unreliable connection comes whole and in order or not at all, a datagram at most as
//!   often as the link delivers it, and never spoiled;
//! - who destroys its queue pair when its own work is done fails nobody;
//! - on a fair link everything completes, in time proportional to what was lost;
//! - a fault ends with the right status on both sides.
//!
//! A failure prints its seed and the command that replays it.

pub mod direct;
pub mod endpoint;
pub mod link;
pub mod oracle;
pub mod rng;
pub mod scenario;
pub mod world;

use direct::Tally;
use oracle::Failure;
use scenario::Scenario;

/// Figures of one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Hash of everything that happened, in order.
    pub trace: u64,
    /// Virtual nanoseconds.
    pub elapsed: u64,
    /// Packets delivered.
    pub packets: u64,
    /// Packets the links lost or spoiled.
    pub lost: u64,
    /// Local ACK timeouts where packets follow each other and nobody fails.
    pub timeouts: u64,
    /// What lanes have lost that tell what they lose, where hosts keep all that comes early.
    pub told: u64,
    /// And the timeouts there.
    pub told_timeouts: u64,
    /// The timeouts of such lanes where hosts keep some of it, or nothing.
    pub scarce_timeouts: u64,
    /// Work requests completed.
    pub completions: u64,
    /// What became of windows.
    pub windows: Tally,
}

/// Run one seed.
///
/// # Errors
///
/// What did not hold.
pub fn run(seed: u64) -> Result<Outcome, Failure> {
    run_scenario(&Scenario::from_seed(seed))
}

/// Run one seed with direct lanes.
///
/// # Errors
///
/// What did not hold.
pub fn run_windows(seed: u64) -> Result<Outcome, Failure> {
    run_scenario(&Scenario::with_windows(seed))
}

fn run_scenario(scenario: &Scenario) -> Result<Outcome, Failure> {
    let mut world = world::World::new(scenario);
    world.run()?;
    oracle::verdict(&mut world)?;
    Ok(world.outcome())
}

/// Failures shown of one series.
const SHOWN: usize = 8;

/// Run `count` seeds from `first` on and panic if one fails, with the command to replay it.
///
/// `SIM_SEED` in the environment runs that seed alone, `SIM_SEEDS` overrides `count`.
pub fn run_seeds(first: u64, count: u64) -> Outcome {
    run_all("seeds", first, count, run)
}

/// The same with direct lanes.
pub fn run_windows_seeds(first: u64, count: u64) -> Outcome {
    run_all("windows", first, count, run_windows)
}

fn run_all(test: &str, first: u64, count: u64, run: fn(u64) -> Result<Outcome, Failure>) -> Outcome {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let (first, count) = match number("SIM_SEED") {
        Some(seed) => (seed, 1),
        None => (first, number("SIM_SEEDS").unwrap_or(count)),
    };
    let mut total = Outcome::default();
    let mut failures = Vec::new();
    for seed in first..first + count {
        match run(seed) {
            Ok(outcome) => {
                total.trace = total.trace.rotate_left(1) ^ outcome.trace;
                total.elapsed += outcome.elapsed;
                total.packets += outcome.packets;
                total.lost += outcome.lost;
                total.timeouts += outcome.timeouts;
                total.told += outcome.told;
                total.told_timeouts += outcome.told_timeouts;
                total.scarce_timeouts += outcome.scarce_timeouts;
                total.completions += outcome.completions;
                total.windows.add(&outcome.windows);
            }
            Err(failure) => failures.push(format!(
                "seed {seed}: {failure}\n  replay: SIM_SEED={seed} cargo test -p sim --test {test} -- --nocapture"
            )),
        }
    }
    println!("{count} seeds: {total:?}");
    let shown = failures.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("\n");
    assert!(
        failures.is_empty(),
        "{} of {count} seeds failed\n{shown}",
        failures.len()
    );
    total
}
