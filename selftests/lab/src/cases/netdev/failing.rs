// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The network device where memory is short, and from contexts that may not wait.

use super::{only_ours, xdomain, BOTH, MINUTE};
use crate::cases::life::both_up;
use crate::cases::{about_net, long, Case, Context, Skip};
use crate::memory::Memory;
use crate::spec::ipv4;
use anyhow::{ensure, Context as _, Result};
use serde_json::Value;
use std::time::Duration;

pub const CASES: &[Case] = &[
    long(about_net(
        "fail_net",
        "allocations of the cable's driver fail: up and down, ring sizes, settings, packets; no leak over 3 rounds",
        BOTH,
        fail_net,
    )),
    about_net(
        "net_netconsole",
        "the kernel's log over the cable, under load: netpoll sends with interrupts off, from any context",
        BOTH,
        netconsole,
    ),
];

/// Longest run of the program: some fifteen rounds of up and down, each with waits for the link.
const LIMIT: Duration = Duration::from_secs(900);
const ROUNDS: usize = 3;
/// Objects of a slab cache that may come and go by themselves over the rounds.
const SLACK: i64 = 60;

fn fail_net(context: &Context) -> Result<()> {
    only_ours(context, "code of ours to fail in")?;
    let lab = context.lab()?;
    let netdev = lab.netdev(0, 0)?;
    let once = || -> Result<()> {
        let line = format!("exec /usb4lab/fail-net.py {netdev} {}", ipv4(0, 1));
        let said: Value = serde_json::from_str(&lab.start(0, &line, LIMIT).ok()?)?;
        if let Some(why) = said["absent"].as_str() {
            return Err(Skip(why.into()).into());
        }
        let wrong = said["wrong"].as_array().context("no verdict")?;
        let wrong: Vec<&str> = wrong.iter().filter_map(Value::as_str).collect();
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        let figures = said["figures"].as_object().context("no figures")?;
        let failed: u64 = figures.values().filter_map(|f| f[0].as_u64()).sum();
        ensure!(failed > 0, "no allocation failed: {figures:?}");
        println!("  {failed} allocations failed in {} acts", figures.len());
        Ok(())
    };
    once()?;
    // Caches fill in the first round.
    let before = Memory::of(lab, 0)?;
    for round in 0..ROUNDS {
        once().with_context(|| format!("round {round}"))?;
    }
    before.returns(lab, 0, SLACK)
}

/// Lines that are written to the log, and those of them that have to arrive: the network may lose some under load.
const LINES: usize = 400;
const ARRIVE: usize = 300;
const PORT: u16 = 6666;

/// Counts lines that arrive as datagrams, until the last or for half a minute; `READY` once it listens.
const LISTEN: &str = r#"python3 -c '
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", PORT)); s.settimeout(1)
open("/run/netconsole.ready", "w").close()
seen, end = set(), time.monotonic() + 30
while time.monotonic() < end and len(seen) < LINES:
    try:
        seen.update(w for w in s.recv(4096).decode(errors="replace").split() if w.startswith("usb4lab-line-"))
    except TimeoutError:
        pass
print(len(seen))'"#;

fn netconsole(context: &Context) -> Result<()> {
    only_ours(context, "fault here that is ours")?;
    let lab = context.lab()?;
    if lab.run(0, &["modprobe", "-qn", "netconsole"], MINUTE)?.status != 0 {
        return Err(Skip("this kernel has no netconsole".into()).into());
    }
    both_up(lab)?;
    let netdev = lab.netdev(0, 0)?;
    let remote = lab.netdev(1, 0)?;
    let mac = lab.ok(1, &["cat", &format!("/sys/class/net/{remote}/address")])?;
    let program = LISTEN
        .replace("PORT", &PORT.to_string())
        .replace("LINES", &LINES.to_string());
    let listening = lab.start(1, &program, MINUTE);
    lab.sh(
        1,
        "n=0; until [ -e /run/netconsole.ready ]; do n=$((n+1)); [ $n -lt 200 ] || exit 1; sleep 0.1; done",
    )?;
    let traffic = super::load_traffic(lab, 30)?;
    lab.sh(
        0,
        &format!(
            "modprobe netconsole netconsole=6665@{}/{netdev},{PORT}@{}/{}",
            ipv4(0, 0),
            ipv4(0, 1),
            mac.trim()
        ),
    )
    .with_context(|| format!("netconsole over {netdev} to {}", xdomain(lab, 0, 0).unwrap_or_default()))?;
    lab.sh(
        0,
        &format!("n=0; while [ $n -lt {LINES} ]; do echo \"<1>usb4lab-line-$n\" > /dev/kmsg; n=$((n+1)); done"),
    )?;
    let arrived: usize = listening.ok()?.trim().parse()?;
    super::stop_traffic(lab, &[0, 1], traffic)?;
    lab.ok(0, &["rmmod", "netconsole"])?;
    ensure!(arrived >= ARRIVE, "{arrived} of {LINES} lines of the log arrived");
    both_up(lab)
}
