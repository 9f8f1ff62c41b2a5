// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The distribution's own kernel: the smoke on one processor, load on two, where it preempts.

use super::{Bench, Case, Context};
use crate::lab::{Lab, Running};
use crate::spec::{ipv4, Profile, Tier};
use crate::verbs::{wait_listen, Device, Pair};
use anyhow::{ensure, Context as _, Result};
use std::time::Duration;

pub const CASES: &[Case] = &[
    Case {
        name: "stock_smoke",
        about: "distribution kernel: ping, our link on both hosts, devinfo, validated pingpong, send bandwidth",
        bench: Bench::Pair(Profile::Strix, 1),
        tier: Tier::Stock,
        long: false,
        run: smoke,
    },
    under_load(
        "stock_flows",
        "two processors: WRITE, READ and SEND flows in both directions at once, RC, UC and UD",
        flows,
    ),
    under_load(
        "stock_churn",
        "two processors: three programs at a time connect, exchange 20 messages and end, beside a flow",
        churn,
    ),
    under_load(
        "stock_removal",
        "two processors: the link deleted and the module unloaded under flows, then the cable pulled",
        removal,
    ),
];

/// Time limit of anything under the emulator.
const LIMIT: Duration = Duration::from_secs(300);
/// Ports of the programs here, one each.
const PORTS: u16 = 18600;
/// Programs that each of the three of `churn` runs one after the other.
const CONNECTIONS: usize = 20;
/// Rounds of `removal`.
const ROUNDS: usize = 3;

const fn under_load(name: &'static str, about: &'static str, run: fn(&Context) -> Result<()>) -> Case {
    Case {
        name,
        about,
        bench: Bench::PairSmp(Profile::Strix, 1),
        tier: Tier::Stock,
        long: false,
        run,
    }
}

fn smoke(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    lab.ok(0, &["ping", "-c", "5", "-i", "0.2", "-W", "5", &ipv4(0, 1)])?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    super::data::devinfo(lab, &pair.client)?;
    super::data::devinfo(lab, &pair.server)?;
    pair.pingpong(lab, "-c -n 200 -e", LIMIT)?;
    super::data::bandwidth(lab, &pair, "ib_send_bw", 65536, 50, LIMIT)?;
    pair.delete(lab)?;
    unload(context)
}

fn unload(context: &Context) -> Result<()> {
    for host in 0..2 {
        context.lab()?.ok(host, &["rmmod", context.ours.module()])?;
    }
    Ok(())
}

/// One perftest program between the pair for so many seconds, the caller first, then the one that serves.
fn flow(lab: &Lab, pair: &Pair, port: u16, program: &str, seconds: u32) -> Result<[Running; 2]> {
    let line = |d: &Device| format!("{program} -d {} -x {} -p {port} -F -D {seconds}", d.name, d.gid);
    let serving = lab.start(pair.server.host, &line(&pair.server), LIMIT);
    wait_listen(lab, pair.server.host, port)?;
    let call = format!("{} {}", line(&pair.client), pair.server.ipv4);
    Ok([lab.start(pair.client.host, &call, LIMIT), serving])
}

fn flows(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let mut running = Vec::new();
    let (there, back) = (&pair, &pair.turned());
    let programs = [
        (there, "ib_write_bw -s 65536"),
        (back, "ib_write_bw -s 65536"),
        (there, "ib_read_bw -s 65536"),
        (back, "ib_send_bw -s 4096"),
        (there, "ib_send_bw -c UD -s 1024"),
        (back, "ib_write_bw -c UC -s 16384"),
    ];
    for (port, (pair, program)) in (PORTS..).zip(programs) {
        running.push((program, flow(lab, pair, port, program, 15)?));
    }
    for (program, ends) in running {
        for end in ends {
            end.ok().with_context(|| program.to_string())?;
        }
    }
    pair.pingpong(lab, "-c -n 100 -e", LIMIT)?;
    pair.delete(lab)?;
    unload(context)
}

fn churn(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let beside = flow(lab, &pair, PORTS, "ib_write_bw -s 65536", 30)?;
    let mut programs = Vec::new();
    for port in PORTS + 1..PORTS + 4 {
        let line = |d: &Device| format!("ibv_rc_pingpong -d {} -g {} -p {port} -c -e -n 20", d.name, d.gid);
        let serve = format!(
            "n=0; while [ $n -lt {CONNECTIONS} ]; do {} > /dev/null || exit 1; n=$((n+1)); done",
            line(&pair.server)
        );
        // Whoever calls before the other listens is refused and calls again.
        let call = format!(
            "n=0; t=0; while [ $n -lt {CONNECTIONS} ]; do if {} {} > /dev/null 2>&1; then n=$((n+1)); \
             else t=$((t+1)); [ $t -lt 400 ] || exit 1; sleep 0.05; fi; done",
            line(&pair.client),
            pair.server.ipv4
        );
        programs.push(lab.start(1, &serve, LIMIT));
        programs.push(lab.start(0, &call, LIMIT));
    }
    for program in programs {
        program.ok()?;
    }
    for end in beside {
        end.ok().context("the flow beside the connections")?;
    }
    pair.delete(lab)?;
    unload(context)
}

fn removal(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    for round in 0..ROUNDS {
        let pair = Pair::add(lab, context.ours, context.ours)?;
        let running = [
            flow(lab, &pair, PORTS, "ib_write_bw -s 65536", 120)?,
            flow(lab, &pair.turned(), PORTS + 1, "ib_read_bw -s 65536", 120)?,
        ];
        flowing(lab, &pair.client)?;
        let host = round % 2;
        let device = if host == 0 { &pair.client } else { &pair.server };
        lab.ok(host, &["rdma", "link", "del", &device.name])?;
        for host in 0..2 {
            lab.run(host, &["pkill", "-KILL", "ib_"], LIMIT)?;
        }
        for end in running.into_iter().flatten() {
            end.wait()?;
        }
        lab.ok(host, &["rmmod", context.ours.module()])?;
        let other = if host == 0 { &pair.server } else { &pair.client };
        other.delete(lab)?;
        lab.ok(1 - host, &["rmmod", context.ours.module()])?;
    }
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let running = flow(lab, &pair, PORTS, "ib_write_bw -s 65536", 120)?;
    flowing(lab, &pair.client)?;
    lab.cable(0, "pull", None)?;
    let gone =
        "n=0; while ls /sys/class/net | grep -q thunderbolt; do n=$((n+1)); [ $n -lt 400 ] || exit 1; sleep 0.1; done";
    for host in 0..2 {
        lab.sh(host, gone)?;
        lab.run(host, &["pkill", "-KILL", "ib_"], LIMIT)?;
    }
    for end in running {
        end.wait()?;
    }
    lab.cable(0, "plug", None)?;
    super::life::both_up(lab)?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    pair.pingpong(lab, "-c -n 100 -e", LIMIT)?;
    pair.delete(lab)?;
    unload(context)
}

/// Waits until packets leave through the device's netdev.
fn flowing(lab: &Lab, device: &Device) -> Result<()> {
    let counter = format!("/sys/class/net/{}/statistics/tx_packets", device.netdev);
    let line = format!(
        "a=$(cat {counter}); n=0; until [ $(($(cat {counter}) - a)) -gt 200 ]; do n=$((n+1)); [ $n -lt 300 ] || exit 1; \
         sleep 0.1; done"
    );
    let seen = lab.run(device.host, &["/bin/sh", "-c", &line], LIMIT)?;
    ensure!(
        seen.status == 0,
        "no traffic on host {}: {}",
        device.host,
        seen.errors()
    );
    Ok(())
}
