// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Everything at once: `usb4lab stress`, short and with a fixed seed.

use super::{Bench, Case, Context};
use crate::spec::Tier;
use crate::stress::Plan;
use anyhow::Result;

pub const CASES: &[Case] = &[
    case(
        "stress_short",
        "threads and processes use, change and end everything while cables, netdevs and links change; keys that ended open nothing",
        false,
        |context| play(context, 20.0),
    ),
    case(
        "stress_ten_minutes",
        "the same for ten minutes",
        true,
        |context| play(context, 600.0),
    ),
];

const fn case(name: &'static str, about: &'static str, long: bool, run: fn(&Context) -> Result<()>) -> Case {
    Case {
        name,
        about,
        bench: Bench::Own,
        tier: Tier::Fast,
        long,
        run,
    }
}

fn play(context: &Context, seconds: f64) -> Result<()> {
    let plan = Plan {
        name: format!("stress-{}", std::process::id()),
        kernel: context.kernel,
        seed: context.seed,
        seconds,
        round: None,
        words: String::new(),
        append: String::new(),
        loud: false,
    };
    println!("{}", plan.run()?.shown());
    Ok(())
}
