// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The smoke on the distribution's own kernel.

use super::{Bench, Case, Context};
use crate::spec::{ipv4, Profile, Tier};
use crate::verbs::Pair;
use anyhow::Result;
use std::time::Duration;

pub const CASES: &[Case] = &[Case {
    name: "stock_smoke",
    about: "distribution kernel: ping, our link on both hosts, devinfo, validated pingpong, send bandwidth",
    bench: Bench::Pair(Profile::Strix, 1),
    tier: Tier::Stock,
    long: false,
    run: smoke,
}];

fn smoke(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let limit = Duration::from_secs(300);
    lab.ok(0, &["ping", "-c", "5", "-i", "0.2", "-W", "5", &ipv4(0, 1)])?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    super::data::devinfo(lab, &pair.client)?;
    super::data::devinfo(lab, &pair.server)?;
    pair.pingpong(lab, "-c -n 200 -e", limit)?;
    super::data::bandwidth(lab, &pair, "ib_send_bw", 65536, 50, limit)?;
    pair.delete(lab)?;
    for host in 0..2 {
        lab.ok(host, &["rmmod", context.ours.module()])?;
    }
    Ok(())
}
