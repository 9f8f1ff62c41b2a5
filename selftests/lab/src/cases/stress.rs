// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Everything at once: `usb4lab stress`, short and with a fixed seed.

use super::{Bench, Case, Context};
use crate::spec::Tier;
use crate::stress::Plan;
use anyhow::Result;

pub const CASES: &[Case] = &[Case {
    name: "stress_short",
    about: "threads and processes use, change and end everything while cables, netdevs and links change; keys that ended open nothing",
    bench: Bench::Own,
    tier: Tier::Fast,
    long: false,
    run: short,
}];

/// Seconds that are judged; as long again goes into starting, warming up and counting.
const SHORT: f64 = 20.0;

fn short(context: &Context) -> Result<()> {
    let plan = Plan {
        name: format!("stress-{}", std::process::id()),
        kernel: context.kernel,
        seed: context.seed,
        seconds: SHORT,
        round: None,
        words: String::new(),
        loud: false,
    };
    println!("{}", plan.run()?.shown());
    Ok(())
}
