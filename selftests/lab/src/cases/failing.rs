// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Allocations that fail, one after the other: no report of the kernel's, no leak, no hang, the right errno, and it
//! works the next time. On a kernel with fault injection (`--kernel kasan`); on others the cases say that they were
//! skipped.

use super::{long, pair, Case, Context, Skip};
use crate::lab::Lab;
use crate::memory::Memory;
use crate::verbs::Device;
use anyhow::{ensure, Context as _, Result};
use serde_json::Value;
use std::time::Duration;

pub const CASES: &[Case] = &[
    pair(
        "fail_verbs_short",
        "the n-th allocation fails, in what makes and ends objects",
        |context| play(context, "objects", 0),
    ),
    long(pair(
        "fail_verbs",
        "the n-th allocation fails, in every verb, listing, posting, exit, step of rdma_cm, link add and del; no leak over 3 rounds",
        |context| play(context, "", 3),
    )),
];

const LIMIT: Duration = Duration::from_secs(1500);
/// Objects of a slab cache that may come and go by themselves over the rounds.
const SLACK: i64 = 60;

/// Plays parts of `guest/failing.py` once, and then as often as `rounds` says with memory compared over them.
fn play(context: &Context, parts: &str, rounds: usize) -> Result<()> {
    let lab = context.lab()?;
    let once = || -> Result<()> {
        let device = Device::add(lab, 0, context.ours, 0)?;
        said(lab, &format!("{} {} {parts}", device.name, device.gid))?;
        device.delete(lab)?;
        if rounds == 0 {
            return Ok(());
        }
        said(lab, &format!("{} link {}", device.netdev, context.ours.link_type()))
    };
    once()?;
    if rounds > 0 {
        // Caches fill in the first round.
        let before = Memory::of(lab, 0)?;
        for round in 0..rounds {
            once().with_context(|| format!("round {round}"))?;
        }
        before.returns(lab, 0, SLACK)?;
    }
    leaks(lab)
}

/// Runs the program; what it found wrong is an error.
fn said(lab: &Lab, arguments: &str) -> Result<()> {
    let line = format!("exec /usb4lab/failing.py {arguments}");
    let said: Value = serde_json::from_str(&lab.start(0, &line, LIMIT).ok()?)?;
    if let Some(why) = said["absent"].as_str() {
        return Err(Skip(why.into()).into());
    }
    let wrong: Vec<&str> = said["wrong"]
        .as_array()
        .context("no verdict")?
        .iter()
        .filter_map(Value::as_str)
        .collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    let figures = said["figures"].as_object().context("no figures")?;
    let sum = |n: usize| figures.values().filter_map(|f| f[n].as_u64()).sum::<u64>();
    println!(
        "  {}: {} acts, {} allocations failed, {} were errors, {} were borne",
        arguments,
        figures.len(),
        sum(1) + sum(2),
        sum(1),
        sum(2)
    );
    Ok(())
}

/// What nobody refers to any more, where the kernel looks for it.
fn leaks(lab: &Lab) -> Result<()> {
    let found = lab.sh(
        0,
        "f=/sys/kernel/debug/kmemleak; [ -e $f ] || exit 0; echo scan > $f; sleep 6; echo scan > $f; cat $f",
    )?;
    ensure!(!found.contains("unreferenced object"), "leaked:\n{found}");
    Ok(())
}
