// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The network device through cables that go, peers that crash, modules that come and go, and sleep.

use super::{both_ways, load, load_traffic, paths_in_use, stop_traffic, unload, wait_out, wait_ping, BOTH};
use crate::cases::life::both_up;
use crate::cases::{about_net, long, Case, Context};
use crate::lab::Lab;
use crate::memory::Memory;
use crate::spec::ipv4;
use anyhow::{ensure, Context as _, Result};
use std::time::Instant;

pub const CASES: &[Case] = &[
    about_net(
        "net_life",
        "under load: cable pulled and plugged, module reloaded on one side, the other, both, the peer crashes",
        BOTH,
        life,
    ),
    about_net(
        "net_suspend",
        "one host sleeps and wakes (pm_test=devices), then both: the link comes back by itself",
        BOTH,
        suspend,
    ),
    long(about_net(
        "net_life_rounds",
        "20 rounds of reload on either side and 5 of the cable: no memory, no HopID stays behind",
        BOTH,
        rounds,
    )),
];

/// Rounds of the leak test, and those before that fill caches.
const ROUNDS: usize = 20;
const WARM: usize = 3;
const CABLE_ROUNDS: usize = 5;

fn life(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    replug(lab).context("cable pulled and plugged under load")?;
    for hosts in [&[0][..], &[1], &[0, 1]] {
        reload(context, hosts, true).with_context(|| format!("module reloaded under load on hosts {hosts:?}"))?;
    }
    crash(lab).context("the peer crashed under load")
}

fn replug(lab: &Lab) -> Result<()> {
    let traffic = load_traffic(lab, 30)?;
    pull(lab)?;
    stop_traffic(lab, &[0, 1], traffic)?;
    lab.cable(0, "plug", None)?;
    works(lab)
}

/// Pulls the cable and waits until both hosts have noticed.
fn pull(lab: &Lab) -> Result<()> {
    lab.cable(0, "pull", None)?;
    (0..2).try_for_each(|host| wait_out(lab, host, 0))
}

fn works(lab: &Lab) -> Result<()> {
    both_up(lab)?;
    wait_ping(lab, 0, &ipv4(0, 1), 10)?;
    both_ways(lab, 8)
}

fn reload(context: &Context, hosts: &[usize], loaded: bool) -> Result<()> {
    let lab = context.lab()?;
    let traffic = if loaded { Some(load_traffic(lab, 30)?) } else { None };
    for host in hosts {
        unload(lab, *host, context.net)?;
    }
    if let Some(traffic) = traffic {
        stop_traffic(lab, &[0, 1], traffic)?;
    }
    for host in hosts {
        load(lab, *host, context.net)?;
    }
    works(lab)
}

fn crash(lab: &Lab) -> Result<()> {
    let traffic = load_traffic(lab, 30)?;
    lab.kill(1)?;
    stop_traffic(lab, &[0], traffic)?;
    wait_out(lab, 0, 0)?;
    lab.boot(1)?;
    works(lab)
}

fn suspend(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    for host in 0..2 {
        lab.sh(
            host,
            "echo devices > /sys/power/pm_test && echo 1 > /sys/module/suspend/parameters/pm_test_delay",
        )?;
    }
    for hosts in [&[0][..], &[1], &[0, 1]] {
        let traffic = load_traffic(lab, 20)?;
        let sleeping: Vec<_> = hosts
            .iter()
            .map(|h| lab.start(*h, "echo mem > /sys/power/state", super::MINUTE))
            .collect();
        for sleep in sleeping {
            sleep.ok().with_context(|| format!("sleep of hosts {hosts:?}"))?;
        }
        let start = Instant::now();
        wait_ping(lab, 0, &ipv4(0, 1), 20).with_context(|| format!("after the sleep of hosts {hosts:?}"))?;
        eprintln!("sleep of {hosts:?}: back after {:.1} s", start.elapsed().as_secs_f64());
        stop_traffic(lab, &[0, 1], traffic)?;
        both_ways(lab, 8)?;
    }
    for host in 0..2 {
        lab.sh(host, "echo none > /sys/power/pm_test")?;
    }
    Ok(())
}

fn rounds(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    for host in 0..2 {
        // Closed TCP connections of the test programs would be counted for a minute.
        lab.sh(host, "echo 0 > /proc/sys/net/ipv4/tcp_max_tw_buckets")?;
    }
    for n in 0..WARM {
        round(context, n)?;
    }
    let paths = [paths_in_use(lab, 0)?, paths_in_use(lab, 1)?];
    ensure!(!paths[0].is_empty(), "debugfs shows no path of a link that is up");
    let before = [Memory::of(lab, 0)?, Memory::of(lab, 1)?];
    for n in 0..ROUNDS {
        round(context, n).with_context(|| format!("round {n}"))?;
    }
    for n in 0..CABLE_ROUNDS {
        pull(lab)?;
        lab.cable(0, "plug", None)?;
        works(lab).with_context(|| format!("cable round {n}"))?;
    }
    for host in 0..2 {
        before[host]
            .returns(lab, host, ROUNDS as i64 - 2)
            .with_context(|| format!("host {host} after {ROUNDS} rounds"))?;
        let now = paths_in_use(lab, host)?;
        ensure!(
            now.len() == paths[host].len(),
            "host {host}: paths in use were\n{}\nand are\n{}",
            paths[host].join("\n"),
            now.join("\n")
        );
    }
    Ok(())
}

/// Reloads one side, the other, and every third time both.
fn round(context: &Context, n: usize) -> Result<()> {
    let hosts: &[usize] = [&[0][..], &[1], &[0, 1]][n % 3];
    reload(context, hosts, false)
}
