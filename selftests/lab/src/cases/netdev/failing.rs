// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The network device where memory is short, and from contexts that may not wait.

use super::{load, only_ours, unload, wait_no_netdev, wait_out, wait_ping, xdomain, BOTH, MINUTE};
use crate::cases::life::both_up;
use crate::cases::{about_net, long, Case, Context, Skip};
use crate::lab::Lab;
use crate::memory::Memory;
use crate::spec::ipv4;
use crate::verbs::Device;
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
    long(about_net(
        "fail_cable",
        "allocations fail while the cable is pulled, and while it is plugged: it goes, and carries again; no leak over 2 rounds",
        BOTH,
        fail_cable,
    )),
    long(about_net(
        "fail_module",
        "every allocation of the module's load and unload fails once, with a cable that is there; no leak",
        BOTH,
        fail_module,
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
        let said = fail_net_py(lab, &format!("{netdev} {}", ipv4(0, 1)))?;
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

/// Rounds of [`fail_cable`] after the one that fills caches.
const CABLE_ROUNDS: usize = 2;
/// What fails while the cable is pulled or plugged: percent of the allocations, and how many at most. First all of
/// them, so many, with which the link is taken down or made a little further each time; then some by chance.
const CABLE_FAILURES: [(u32, u32); 11] = [
    (100, 1),
    (100, 2),
    (100, 3),
    (100, 5),
    (100, 8),
    (100, 13),
    (100, 21),
    (1, 200),
    (3, 200),
    (10, 200),
    (30, 200),
];
/// Time in which allocations of a plugged cable fail. The hosts find each other in about a second of it.
const PLUGGED: Duration = Duration::from_secs(4);

/// Runs a guest's `fail-net.py`.
fn fail_net_py(lab: &Lab, arguments: &str) -> Result<Value> {
    let line = format!("exec /usb4lab/fail-net.py {arguments}");
    let said: Value = serde_json::from_str(&lab.start(0, &line, LIMIT).ok()?)?;
    match said["absent"].as_str() {
        Some(why) => Err(Skip(why.into()).into()),
        None => Ok(said),
    }
}

/// Has allocations of host 0 fail during `act`; how many did.
fn amid_failures(lab: &Lab, (percent, times): (u32, u32), act: impl FnOnce() -> Result<()>) -> Result<u64> {
    fail_net_py(lab, &format!("arm {percent} {times}"))?;
    let done = act();
    let said = fail_net_py(lab, &format!("judge {times}"))?;
    done?;
    let wrong = said["wrong"].as_array().context("no verdict")?;
    let wrong: Vec<&str> = wrong.iter().filter_map(Value::as_str).collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    said["failed"].as_u64().context("no figure")
}

fn fail_cable(context: &Context) -> Result<()> {
    only_ours(context, "code of ours to fail in")?;
    let lab = context.lab()?;
    let cable = xdomain(lab, 0, 0)?;
    let plug = || lab.cable(0, "plug", None);
    let pull = || -> Result<()> {
        lab.cable(0, "pull", None)?;
        (0..2).try_for_each(|host| wait_out(lab, host, 0))
    };
    let works = || -> Result<()> {
        both_up(lab)?;
        wait_ping(lab, 0, &ipv4(0, 1), 20)
    };
    let once = || -> Result<()> {
        let (mut pulled, mut plugged, mut bare) = (0, 0, 0);
        for (turn, failures) in CABLE_FAILURES.into_iter().enumerate() {
            let name = || format!("{} % of the allocations, {} at most", failures.0, failures.1);
            let device = Device::add(lab, 0, context.ours, 0)?;
            pulled += amid_failures(lab, failures, pull).with_context(|| format!("pulled, {}", name()))?;
            plug()?;
            works().with_context(|| format!("pulled, {}, then plugged", name()))?;
            pull()?;
            // The netdev that stays is taken over by turns with a new one, with whose RDMA link the old one goes.
            if turn % 2 == 0 {
                device.delete(lab)?;
            } else {
                super::port::let_go(lab, 0, &device.netdev)?;
            }
            plugged += amid_failures(lab, failures, || {
                plug()?;
                std::thread::sleep(PLUGGED);
                Ok(())
            })
            .with_context(|| format!("plugged, {}", name()))?;
            let taken = format!("ethtool -S $(/usb4lab/netdev {cable}) | grep -q 'cable_present: 1'");
            if lab.run(0, &["/bin/sh", "-c", &taken], MINUTE)?.status != 0 {
                // Nobody asks a driver again that had no memory for a cable: it must be plugged again.
                bare += 1;
                pull()?;
                plug()?;
            }
            works().with_context(|| format!("plugged, {}", name()))?;
            pull().and_then(|()| plug()).and_then(|()| works())?;
        }
        println!(
            "  {pulled} allocations failed in pulls, {plugged} in plugs, after {bare} of which nobody had the cable"
        );
        ensure!(plugged > 0, "no allocation failed in a plug");
        Ok(())
    };
    once()?;
    let before = Memory::of(lab, 0)?;
    for round in 0..CABLE_ROUNDS {
        once().with_context(|| format!("round {round}"))?;
    }
    before.returns(lab, 0, SLACK)
}

fn fail_module(context: &Context) -> Result<()> {
    only_ours(context, "module of ours to load")?;
    let lab = context.lab()?;
    let module = context.net.module().context("the driver has no module")?;
    let reload = |between: &dyn Fn() -> Result<()>| -> Result<()> {
        unload(lab, 0, context.net)?;
        wait_no_netdev(lab, 0, &xdomain(lab, 0, 0)?)?;
        between()?;
        load(lab, 0, context.net)?;
        both_up(lab)?;
        wait_ping(lab, 0, &ipv4(0, 1), 20)
    };
    reload(&|| Ok(()))?;
    let before = Memory::of(lab, 0)?;
    reload(&|| {
        let line = format!("exec /usb4lab/fail-module.py {module}");
        let said: Value = serde_json::from_str(&lab.start(0, &line, LIMIT).ok()?)?;
        if let Some(why) = said["absent"].as_str() {
            load(lab, 0, context.net)?;
            return Err(Skip(why.into()).into());
        }
        let wrong = said["wrong"].as_array().context("no verdict")?;
        let wrong: Vec<&str> = wrong.iter().filter_map(Value::as_str).collect();
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        println!("  allocations, errors, borne: {}", said["figures"]);
        Ok(())
    })?;
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
