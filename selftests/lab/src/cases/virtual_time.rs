// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The same run twice in virtual time: the same kernel logs to the byte.

use super::{Bench, Case, Context};
use crate::lab::Lab;
use crate::spec::{LabSpec, Tier};
use anyhow::{bail, ensure, Context as _, Result};
use std::fs;
use std::path::Path;

pub const CASES: &[Case] = &[Case {
    name: "virtual_time_determinism",
    about: "the same scenario twice in virtual time: byte-identical kernel logs on both guests",
    bench: Bench::Own,
    tier: Tier::Fast,
    long: false,
    run: determinism,
}];

const SCENARIO: &str = include_str!("../../guest/scenario-pingpong");

fn determinism(context: &Context) -> Result<()> {
    let mut logs = Vec::new();
    let dir = std::env::temp_dir().join(format!("usb4lab-scenario-{}", std::process::id()));
    let text = SCENARIO.replace("@TYPE@", context.ours.link_type());
    fs::write(&dir, text).with_context(|| format!("{}", dir.display()))?;
    let outcome = (0..2).try_for_each(|_| -> Result<()> {
        logs.push(once(context, &dir)?);
        Ok(())
    });
    let _ = fs::remove_file(&dir);
    outcome?;
    for (host, (first, second)) in logs[0].iter().zip(&logs[1]).enumerate() {
        if let Some(line) = first.lines().zip(second.lines()).position(|(a, b)| a != b) {
            let at = |log: &str| log.lines().nth(line).unwrap_or_default().to_string();
            bail!(
                "host {host}: the two logs differ in line {}:\n  {}\n  {}",
                line + 1,
                at(first),
                at(second)
            );
        }
        ensure!(first == second, "host {host}: one run's log is longer than the other's");
    }
    Ok(())
}

/// One run; the guests' kernel logs.
fn once(context: &Context, script: &Path) -> Result<Vec<String>> {
    let spec = LabSpec {
        virtual_time: true,
        script: Some(script.to_path_buf()),
        seed: context.seed,
        kernel: context.kernel,
        ..LabSpec::default()
    };
    let lab = Lab::up(&format!("test-virtual-{}", std::process::id()), spec)?;
    let logs = (0..2)
        .map(|host| {
            let dir = lab.state.join(format!("h{host}.out"));
            let log = fs::read_to_string(dir.join("dmesg")).with_context(|| format!("{}", dir.display()))?;
            if let Some(bad) = crate::log::trouble(&log) {
                bail!("host {host}'s kernel log:\n{bad}");
            }
            Ok(log)
        })
        .collect::<Result<Vec<String>>>()?;
    lab.discard();
    Ok(logs)
}
