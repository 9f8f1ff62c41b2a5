// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Short soaks; the long ones are `usb4lab soak`.

use crate::cases::{long, Bench, Case, Context, Skip};
use crate::paths;
use crate::soak::Plan;
use crate::spec::{NetDriver, Tier};
use anyhow::{bail, Result};

pub const CASES: &[Case] = &[
    Case {
        name: "net_soak_virtual",
        about:
            "three minutes of virtual time with loss, strands and a cut each minute: no stall, no wrong byte, no leak",
        bench: Bench::Own,
        tier: Tier::Fast,
        long: false,
        run: in_virtual_time,
    },
    long(Case {
        name: "net_soak_real",
        about: "two minutes of iperf3 in real time with loss, strands and four cuts: no stall, no wrong byte, no leak",
        bench: Bench::Own,
        tier: Tier::Fast,
        long: true,
        run: in_real_time,
    }),
];

fn in_virtual_time(context: &Context) -> Result<()> {
    soak(context, true, 180.0, 60.0)
}

fn in_real_time(context: &Context) -> Result<()> {
    soak(context, false, 120.0, 30.0)
}

fn soak(context: &Context, virtual_time: bool, seconds: f64, period_s: f64) -> Result<()> {
    if context.net == NetDriver::Ours && !paths::has_net_half(Tier::Fast, context.kernel)? {
        return Err(Skip("the module that is built has no network half".into()).into());
    }
    let plan = Plan {
        net: context.net,
        kernel: context.kernel,
        seed: context.seed,
        virtual_time,
        seconds,
        period_s,
        away_s: 2.0,
    };
    let outcome = plan.run()?;
    if !outcome.wrong.is_empty() {
        bail!("{}\n{}", outcome.wrong.join("\n"), outcome.shown());
    }
    Ok(())
}
