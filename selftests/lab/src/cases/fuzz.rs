// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Hostile users: what they do breaks nothing but their own work, and leaves nothing behind.
//!
//! `USB4LAB_FUZZ_SECONDS` makes them long; selftests/fuzz/README.md has the record.

use super::life::unload;
use super::{pair, Case, Context};
use crate::lab::Lab;
use crate::memory::Memory;
use crate::paths;
use crate::verbs::Device;
use anyhow::{ensure, Context as _, Result};
use std::time::Duration;

pub const CASES: &[Case] = &[
    pair(
        "fuzz_uverbs",
        "commands of /dev/infiniband with anything in them: no complaint, no memory lost",
        |context| play(context, "uverbs"),
    ),
    pair(
        "fuzz_queues",
        "shared queues with anything in them, connected: no complaint, no memory lost",
        |context| play(context, "queues"),
    ),
];

const PROGRAM: &str = "/usb4lab/usb4fuzz";
/// Seconds, if nobody says otherwise.
const SHORT: u64 = 8;
/// Objects of a slab cache that may come and go by themselves.
const SLACK: i64 = 40;
/// Seconds to fill caches before memory is compared.
const WARM: u64 = 3;

fn play(context: &Context, mode: &str) -> Result<()> {
    let lab = context.lab()?;
    let seconds = match std::env::var("USB4LAB_FUZZ_SECONDS") {
        Ok(text) => text.parse().context("USB4LAB_FUZZ_SECONDS")?,
        Err(_) => SHORT,
    };
    lab.put(0, PROGRAM, &std::fs::read(paths::fuzzer()?)?, 0o755)?;
    let run = |seconds: u64, seed: u64| -> Result<String> {
        let device = Device::add(lab, 0, context.ours, 0)?;
        let line = format!(
            "{PROGRAM} {mode} {} {seconds} {seed} > /usb4lab/usb4fuzz.log 2>&1; s=$?; tail -n 6 /usb4lab/usb4fuzz.log; exit $s",
            device.name
        );
        let ended = lab.run(0, &["/bin/sh", "-c", &line], Duration::from_secs(seconds + 120))?;
        ensure!(
            ended.status == 0,
            "the fuzzer ended with {}: {}",
            ended.status,
            ended.text()
        );
        device.delete(lab)?;
        unload(lab, 0, context.ours)?;
        Ok(ended.text())
    };
    // The seeds of a round follow each other.
    let seed = context.seed * 1_000_000;
    run(WARM, seed)?;
    forget_neighbours(lab)?;
    let before = Memory::of(lab, 0)?;
    let cpu = lab.cpu_seconds()?;
    let said = run(seconds, seed + 1000)?;
    println!(
        "{} ({:.0} CPU seconds)",
        said.lines().last().unwrap_or(""),
        lab.cpu_seconds()? - cpu
    );
    forget_neighbours(lab)?;
    before.returns(lab, 0, SLACK)
}

/// Addresses that the fuzzer made up stay in the tables of neighbours, up to a limit of the kernel's.
fn forget_neighbours(lab: &Lab) -> Result<()> {
    for state in ["all", "noarp"] {
        lab.sh(
            0,
            &format!("ip -4 neigh flush nud {state}; ip -6 neigh flush nud {state}"),
        )?;
    }
    Ok(())
}
