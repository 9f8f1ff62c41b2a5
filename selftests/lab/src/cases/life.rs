// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Coming and going: modules, links and cables, with nothing left behind.

use super::{pair, Case, Context, Skip};
use crate::lab::Lab;
use crate::memory::Memory;
use crate::spec::ipv4;
use crate::verbs::{Device, Kind, Pair};
use anyhow::{bail, ensure, Context as _, Result};
use std::time::Duration;

pub const CASES: &[Case] = &[
    pair(
        "life_autoload",
        "rdma link add loads the module by its alias; it unloads again",
        autoload,
    ),
    pair(
        "life_rmmod_traffic",
        "rmmod while traffic runs refuses or tears down; the device works afterwards",
        rmmod_traffic,
    ),
    pair(
        "life_netdev_gone",
        "the network device goes under a connected program: the link goes with it, cleanly",
        netdev_gone,
    ),
    pair(
        "life_rxe_unload",
        "rdma_rxe comes and goes beside our link: the link works on",
        rxe_unload,
    ),
    pair(
        "life_fifty",
        "50 x link add, traffic, link del, rmmod: no object and no page stays behind",
        fifty,
    ),
    pair(
        "life_pull_replug",
        "cable pulled and plugged: thunderbolt_net and RDMA traffic come back",
        pull_replug,
    ),
];

/// Rounds of the leak test.
const ROUNDS: usize = 50;
/// Rounds that fill caches before the count begins.
const WARM: usize = 5;

fn loaded(lab: &Lab, host: usize, kind: Kind) -> Result<bool> {
    Ok(lab
        .sh(host, "cat /proc/modules")?
        .lines()
        .any(|line| line.split(' ').next() == Some(kind.module())))
}

pub(super) fn unload(lab: &Lab, host: usize, kind: Kind) -> Result<()> {
    lab.ok(host, &["rmmod", kind.module()]).map(|_| ())
}

fn autoload(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    if loaded(lab, 0, context.ours)? {
        unload(lab, 0, context.ours)?;
    }
    let device = Device::add(lab, 0, context.ours, 0)?;
    ensure!(loaded(lab, 0, context.ours)?, "the link exists without its module");
    device.delete(lab)?;
    unload(lab, 0, context.ours)?;
    ensure!(!loaded(lab, 0, context.ours)?, "the module is still loaded");
    Ok(())
}

fn rmmod_traffic(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let (serving, calling) = traffic(lab, &pair)?;
    let removed = lab.run(0, &["rmmod", context.ours.module()], Duration::from_secs(60))?;
    if removed.status == 0 {
        // Torn down: the programs must end with an error of their own, not hang.
        stop_traffic(lab)?;
        let _ = (calling.wait()?, serving.wait()?);
        ensure!(
            !loaded(lab, 0, context.ours)?,
            "rmmod said it succeeded, but the module is loaded"
        );
    } else {
        ensure!(
            removed.errors().contains("in use"),
            "rmmod failed with something else: {}",
            removed.errors()
        );
        ensure!(
            !calling.ended(),
            "rmmod refused, but traffic ended: {:?}",
            calling.wait()?.errors()
        );
        stop_traffic(lab)?;
        let _ = (calling.wait()?, serving.wait()?);
        pair.client.delete(lab)?;
    }
    lab.ok(1, &["rdma", "link", "del", &pair.server.name])?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    pair.pingpong(lab, "-c -n 50 -e", Duration::from_secs(30))?;
    pair.delete(lab)
}

fn netdev_gone(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    // Connected but silent: kernel 7.3's thunderbolt_net warns when it is unbound while it polls its ring.
    let (serving, calling) = super::errors::start_scene(lab, &pair, "idle")?;
    lab.sh(
        0,
        &format!(
            "d=$(readlink -f /sys/class/net/{0}/device); echo ${{d##*/}} > $d/driver/unbind",
            pair.client.netdev
        ),
    )?;
    let report: serde_json::Value = serde_json::from_str(&calling.ok()?)?;
    ensure!(
        report["removed"] == true,
        "the program did not notice that its device is gone: {report}"
    );
    lab.run(1, &["pkill", "-KILL", "-x", "verbs.py"], Duration::from_secs(20))?;
    let _ = serving.wait()?;
    let links = lab.ok(0, &["rdma", "link"])?;
    ensure!(
        !links.contains(&pair.client.name),
        "the link outlived its network device: {links}"
    );
    lab.sh(0, "for d in /sys/bus/thunderbolt/devices/*.*; do echo ${d##*/} > /sys/bus/thunderbolt/drivers/thunderbolt-net/bind; done; true")?;
    both_up(lab)?;
    lab.ok(1, &["rdma", "link", "del", &pair.server.name])?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    pair.pingpong(lab, "-c -n 50 -e", Duration::from_secs(30))?;
    pair.delete(lab)
}

fn rxe_unload(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    if context.ours == Kind::Rxe {
        return Err(Skip("ours is rxe".into()).into());
    }
    let pair = Pair::add(lab, context.ours, context.ours)?;
    for host in 0..2 {
        // Both drivers carry rxe's driver id, and rxe takes all devices of that id with it when it goes.
        lab.sh(host, "modprobe rdma_rxe && rmmod rdma_rxe")?;
        let back = format!(
            "n=0; until [ -e /sys/class/infiniband/{} ]; do n=$((n+1)); [ $n -lt 200 ] || exit 1; sleep 0.05; done",
            pair.client.name
        );
        lab.sh(host, &back)
            .with_context(|| format!("our link on host {host} did not survive"))?;
    }
    let [client, server] = [&pair.client, &pair.server].map(|d| d.find_gids(lab));
    let pair = Pair {
        client: client?,
        server: server?,
    };
    pair.pingpong(lab, "-c -n 50 -e", Duration::from_secs(30))?;
    pair.delete(lab)
}

/// Endless traffic between the pair, running.
fn traffic(lab: &Lab, pair: &Pair) -> Result<(crate::lab::Running, crate::lab::Running)> {
    let limit = Duration::from_secs(120);
    let line = |d: &Device| format!("ib_write_bw -d {} -x {} -F -s 65536 -D 60", d.name, d.gid);
    let serving = lab.start(1, &line(&pair.server), limit);
    crate::verbs::wait_listen(lab, 1, crate::verbs::port())?;
    let calling = lab.start(0, &format!("{} {}", line(&pair.client), pair.server.ipv4), limit);
    let counter = format!("/sys/class/net/{}/statistics/tx_packets", pair.client.netdev);
    let flowing = format!("a=$(cat {counter}); n=0; until [ $(($(cat {counter}) - a)) -gt 200 ]; do n=$((n+1)); [ $n -lt 300 ] || exit 1; sleep 0.05; done");
    if let Err(error) = lab.sh(0, &flowing) {
        stop_traffic(lab)?;
        let said = calling.wait()?;
        bail!("no traffic started: {error:#}\n{}{}", said.text(), said.errors());
    }
    Ok((serving, calling))
}

fn stop_traffic(lab: &Lab) -> Result<()> {
    for host in 0..2 {
        lab.run(host, &["pkill", "-KILL", "ib_write_bw"], Duration::from_secs(30))?;
    }
    Ok(())
}

/// Objects of one cache that may come and go by themselves: per-CPU magazines and deferred frees.
const SLACK_OBJECTS: i64 = ROUNDS as i64 - 10;

fn fifty(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    for host in 0..2 {
        // Closed TCP connections of the test programs would be counted for a minute.
        lab.sh(host, "echo 0 > /proc/sys/net/ipv4/tcp_max_tw_buckets")?;
    }
    for _ in 0..WARM {
        round(lab, context.ours)?;
    }
    let before = [Memory::of(lab, 0)?, Memory::of(lab, 1)?];
    for n in 0..ROUNDS {
        round(lab, context.ours).with_context(|| format!("round {n}"))?;
    }
    for (host, before) in before.iter().enumerate() {
        before
            .returns(lab, host, SLACK_OBJECTS)
            .with_context(|| format!("host {host} after {ROUNDS} rounds"))?;
    }
    Ok(())
}

fn round(lab: &Lab, kind: Kind) -> Result<()> {
    let pair = Pair::add(lab, kind, kind)?;
    pair.pingpong(lab, "-c -n 10 -e", Duration::from_secs(30))?;
    pair.delete(lab)?;
    unload(lab, 0, kind)?;
    unload(lab, 1, kind)
}

fn pull_replug(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    pair.pingpong(lab, "-c -n 50 -e", Duration::from_secs(30))?;
    lab.cable(0, "pull", None)?;
    for host in 0..2 {
        lab.sh(host, "n=0; while ls /sys/class/net | grep -q thunderbolt; do n=$((n+1)); [ $n -lt 400 ] || exit 1; sleep 0.05; done")
            .with_context(|| format!("host {host} did not notice that the cable is gone"))?;
        let links = lab.ok(host, &["rdma", "link"])?;
        ensure!(
            !links.contains("netdev thunderbolt"),
            "a link outlived its network device on host {host}: {links}"
        );
    }
    lab.cable(0, "plug", None)?;
    both_up(lab)?;
    lab.ok(0, &["ping", "-c", "3", "-i", "0.1", "-W", "2", &ipv4(0, 1)])?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    pair.pingpong(lab, "-c -n 200 -e", Duration::from_secs(60))?;
    pair.delete(lab)
}

/// Brings the cables of both hosts up.
pub fn both_up(lab: &Lab) -> Result<()> {
    std::thread::scope(|scope| {
        let other = scope.spawn(|| lab.net_up(1));
        lab.net_up(0)?;
        other
            .join()
            .map_err(|_| anyhow::anyhow!("bringing host 1 up panicked"))?
    })
}
