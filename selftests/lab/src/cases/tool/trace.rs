// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma trace` tells what happens to queue pairs, `usb4rdma topo` who is joined to whom.

use super::checked;
use crate::cases::netdev::BOTH;
use crate::cases::{about_net, Case, Context};
use crate::lab::{Lab, USUAL};
use crate::verbs::{port, wait_listen, Pair};
use anyhow::{ensure, Context as _, Result};
use serde_json::{json, Value};

pub const CASES: &[Case] = &[
    about_net(
        "tool_trace",
        "usb4rdma trace: states of a program's queue pairs, timeouts when the cable goes; nothing of it stays",
        BOTH,
        trace,
    ),
    about_net(
        "tool_topo",
        "usb4rdma topo: what one host knows, what two know, the matrix for JACCL",
        BOTH,
        topo,
    ),
];

fn trace(context: &Context) -> Result<()> {
    super::only_ours(context)?;
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let line = |gid, words: &str| format!("ib_write_bw -F -x {gid} {words}");
    let serve = |words: &str| -> Result<_> {
        let server = lab.start(
            1,
            &format!("{} -d {}", line(pair.server.gid, words), pair.server.name),
            USUAL,
        );
        wait_listen(lab, 1, port())?;
        Ok((
            server,
            format!(
                "{} -d {} {}",
                line(pair.client.gid, words),
                pair.client.name,
                pair.server.ipv4
            ),
        ))
    };

    let (server, client) = serve("-n 100")?;
    let out = lab.sh(0, &format!("usb4rdma trace --json -- {client} | grep '^{{'"))?;
    server.ok()?;
    let events = events(&out)?;
    let states: Vec<&str> = events.iter().filter_map(|event| event["text"].as_str()).collect();
    for wanted in ["state RESET -> INIT", "state INIT -> RTR", "state RTR -> RTS"] {
        ensure!(states.contains(&wanted), "{wanted} is not among {states:?}");
    }
    ensure!(
        events[0]["process"] == "ib_write_bw" && events[0]["device"] == pair.client.name.as_str(),
        "{out}"
    );

    let (server, client) = serve("-D 30")?;
    let running = lab.start(0, &format!("{client} > /dev/null 2>&1; true"), USUAL);
    let tracing = lab.start(
        0,
        "usb4rdma trace --event qp_timeout --event qp_state --device usb4r0",
        USUAL,
    );
    lab.sh(0, "n=0; until [ -e /sys/kernel/tracing/instances/usb4rdma-* ]; do n=$((n+1)); [ $n -lt 200 ] || exit 1; sleep 0.05; done; sleep 1")?;
    lab.cable(0, "pull", None)?;
    // Seven retries, and the queue pair has failed.
    running.wait()?;
    lab.sh(1, "kill -KILL $(pidof ib_write_bw); true")?;
    server.wait()?;
    lab.sh(0, "kill -INT $(pidof usb4rdma)")?;
    let told = tracing.ok()?;
    lab.cable(0, "plug", None)?;
    ensure!(told.contains("qp_timeout: no acknowledgement in time"), "{told}");
    ensure!(
        told.contains("state RTS -> ERR") && !told.contains("qp_retry"),
        "{told}"
    );
    crate::cases::life::both_up(lab)?;
    let left = lab.sh(
        0,
        "ls /sys/kernel/tracing/instances 2>/dev/null | wc -l; usb4rdma trace --event qp_x; true",
    )?;
    ensure!(left.trim() == "0", "instances are left: {left}");
    for (words, said) in [
        (
            "usb4rdma trace --event qp_x",
            "usb4rdma: there is no event qp_x: there are qp_drop, qp_error, qp_nak, qp_retry, qp_state, qp_timeout\n",
        ),
        (
            "setpriv --reuid 65534 --regid 65534 --clear-groups usb4rdma trace",
            "usb4rdma: trace needs root, as it turns the module's trace events on: `sudo usb4rdma trace`\n",
        ),
    ] {
        let refused = lab.run(0, &["/bin/sh", "-c", words], USUAL)?;
        ensure!(
            refused.status == 1 && refused.errors() == said,
            "{words}: {}",
            refused.errors()
        );
    }
    pair.delete(lab)
}

fn events(lines: &str) -> Result<Vec<Value>> {
    let events: Vec<Value> = lines
        .lines()
        .map(|line| checked("trace", line))
        .collect::<Result<_>>()?;
    ensure!(!events.is_empty(), "no events:\n{lines}");
    Ok(events)
}

fn topo(context: &Context) -> Result<()> {
    super::only_ours(context)?;
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let topos: Vec<String> = (0..2).map(|host| one(lab, host)).collect::<Result<_>>()?;
    lab.put(0, "/run/h1.json", topos[1].as_bytes(), 0o644)?;
    let joined = checked("topo", &lab.ok(0, &["usb4rdma", "topo", "--json", "/run/h1.json"])?)?;
    let cables = joined["cables"].as_array().context("no list")?;
    ensure!(cables.len() == 1 && joined["hosts"] == json!(["h0", "h1"]), "{joined}");
    ensure!(cables[0]["ends"][1]["rdma"] == pair.server.name.as_str(), "{joined}");
    ensure!(cables[0]["ends"][1]["address"] == pair.server.ipv4.as_str(), "{joined}");
    let matrix = lab.ok(0, &["usb4rdma", "topo", "/run/h1.json", "--format", "jaccl"])?;
    let matrix: Value = serde_json::from_str(&matrix)?;
    ensure!(
        matrix == json!([[null, pair.client.name], [pair.server.name, null]]),
        "{matrix}"
    );
    let refused = lab.run(0, &["usb4rdma", "topo", "--format", "jaccl"], USUAL)?;
    ensure!(
        refused.errors().starts_with("usb4rdma: h1 to h0: "),
        "{}",
        refused.errors()
    );
    let text = lab.ok(0, &["usb4rdma", "topo", "/run/h1.json"])?;
    ensure!(text.contains(&format!("1x 80 Gb/s {}", pair.client.name)), "{text}");
    let refused = lab.run(0, &["usb4rdma", "topo", "/etc/passwd"], USUAL)?;
    let said = "usb4rdma: /etc/passwd is not what `usb4rdma topo --json` prints: ";
    ensure!(
        refused.status == 1 && refused.errors().starts_with(said),
        "{}",
        refused.errors()
    );
    lab.sh(0, "rm /run/h1.json")?;
    pair.delete(lab)
}

fn one(lab: &Lab, host: usize) -> Result<String> {
    let text = lab.ok(host, &["usb4rdma", "topo", "--json"])?;
    checked("topo", &text)?;
    Ok(text)
}
