// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What the simulations share: seeded randomness, the loop over seeds, a control channel with faults.
//!
//! A failure prints its seed. To replay it: `TBIP_SEED=<seed> cargo test -p tbip --test <file>`.
//! `TBIP_SEEDS=<count>` runs that many seeds instead of the default.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};

/// A stream of random numbers: SplitMix64.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x2545_f491_4f6c_dd1d)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, or 0.
    pub fn below(&mut self, n: u64) -> u64 {
        if n == 0 {
            0
        } else {
            self.next() % n
        }
    }

    pub fn chance(&mut self, p: f64) -> bool {
        ((self.next() >> 11) as f64) < p * (1u64 << 53) as f64
    }

    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }
}

/// Run `test` for `default` seeds and for those of `kept` that once failed; name the seed that fails.
pub fn seeds(file: &str, default: u64, kept: &[u64], test: impl Fn(u64)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let (first, count) = match number("TBIP_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("TBIP_SEEDS").unwrap_or(default)),
    };
    let kept = if count == 1 { &[] } else { kept };
    for seed in (first..first + count).chain(kept.iter().copied()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(seed))) {
            eprintln!("seed {seed} failed; replay: TBIP_SEED={seed} cargo test -p tbip --test {file}");
            resume_unwind(panic);
        }
    }
}

pub const MS: u64 = 1_000_000;

/// What the control channel does to messages.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub loss: f64,
    pub dup: f64,
    /// Longest delay; messages overtake each other.
    pub delay: u64,
}

impl Weather {
    pub const FAIR: Self = Self {
        loss: 0.0,
        dup: 0.0,
        delay: MS,
    };

    pub fn foul(rng: &mut Rng) -> Self {
        Self {
            loss: rng.pick(&[0.0, 0.02, 0.2, 0.5]),
            dup: rng.pick(&[0.0, 0.1, 0.5]),
            delay: rng.pick(&[MS / 10, 5 * MS, 50 * MS, 400 * MS]),
        }
    }
}

/// The control channel between two sides. Messages carry the sender's view of the route and are
/// delivered with the receiver's, as the fabric does it.
pub struct Channel {
    pub weather: Weather,
    routes: [u64; 2],
    queue: BTreeMap<(u64, u64), (usize, Vec<u8>)>,
    serial: u64,
}

impl Channel {
    /// `routes[i]` is where side i sees the other.
    pub fn new(weather: Weather, routes: [u64; 2]) -> Self {
        Self {
            weather,
            routes,
            queue: BTreeMap::new(),
            serial: 0,
        }
    }

    /// Side `from` sends `bytes`.
    pub fn send(&mut self, rng: &mut Rng, now: u64, from: usize, bytes: &[u8]) {
        let to = 1 - from;
        let mut bytes = bytes.to_vec();
        let route = self.routes[to];
        let high = (route >> 32) as u32 | 1 << 31;
        bytes[..4].copy_from_slice(&high.to_le_bytes());
        bytes[4..8].copy_from_slice(&(route as u32).to_le_bytes());
        let copies = if rng.chance(self.weather.loss) {
            0
        } else {
            1 + u64::from(rng.chance(self.weather.dup))
        };
        for _ in 0..copies {
            let at = now + 1 + rng.below(self.weather.delay);
            self.serial += 1;
            self.queue.insert((at, self.serial), (to, bytes.clone()));
        }
    }

    /// When the next message arrives.
    pub fn next(&self) -> Option<u64> {
        self.queue.keys().next().map(|(at, _)| *at)
    }

    /// A message that has arrived.
    pub fn receive(&mut self, now: u64) -> Option<(usize, Vec<u8>)> {
        let first = self.queue.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}
