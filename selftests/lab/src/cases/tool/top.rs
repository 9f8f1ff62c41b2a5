// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma top` and `status --watch` beside a load of which perftest says how much it is.

use super::checked;
use crate::cases::netdev::BOTH;
use crate::cases::{about_net, Case, Context};
use crate::lab::{Lab, Running, USUAL};
use crate::parse;
use crate::verbs::{port, wait_listen, Pair};
use anyhow::{ensure, Context as _, Result};
use serde_json::Value;

pub const CASES: &[Case] = &[about_net(
    "tool_top",
    "usb4rdma top under load: rates as perftest has them, program, CPU; who is idle says why; status --watch tells changes",
    BOTH,
    top,
)];

fn top(context: &Context) -> Result<()> {
    super::only_ours(context)?;
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let idle = look(lab, "0.5")?;
    ensure!(idle["rails"][0]["idle"] == "nothing to send", "before the load: {idle}");
    // Nothing but the kernel's own.
    let pairs = idle["queue_pairs"].as_array().context("no list")?;
    ensure!(pairs.iter().all(|pair| pair["kind"] == "GSI"), "{idle}");

    let (server, client) = load(lab, &pair, 4, "-D 4")?;
    let under = look(lab, "2")?;
    let text = client.ok()?;
    server.ok()?;
    let rate = parse::bandwidth(&text)?.first().context("no rate")?.mib_s * 8.0 * 1.048_576e-3;
    let rail = &under["rails"][0];
    let pairs = under["queue_pairs"].as_array().context("no list")?;
    let busy: Vec<&Value> = pairs.iter().filter(|pair| pair["kind"] == "RC").collect();
    let of_pairs: f64 = busy.iter().filter_map(|pair| pair["out_gbps"].as_f64()).sum();
    let of_rail = rail["out_gbps"].as_f64().context("no rate of the rail")?;
    eprintln!("perftest {rate:.2} Gb/s, top {of_rail:.2} of the rail, {of_pairs:.2} of its queue pairs");
    ensure!(
        (0.6..1.67).contains(&(of_rail / rate)),
        "perftest has {rate} Gb/s: {under}"
    );
    ensure!(
        (0.9..1.1).contains(&(of_pairs / of_rail)),
        "queue pairs and rail differ: {under}"
    );
    ensure!(
        busy.len() == 4 && rail["idle"].is_null() && rail["peer"] == "h1",
        "{under}"
    );
    for one in busy {
        let moved = one["idle"].is_null() && one["out_gbps"].as_f64() > Some(0.0);
        ensure!(
            moved && one["program"] == "ib_write_bw" && one["state"] == "RTS",
            "{one}"
        );
        ensure!(
            one["cpu"].as_f64() > Some(0.02) && one["messages_per_second"].as_f64() > Some(1.0),
            "{one}"
        );
    }
    let cores: f64 = lab.ok(0, &["nproc"])?.trim().parse()?;
    let busy = under["cpu"]["busy"].as_f64();
    ensure!(busy > Some(0.1) && busy < Some(cores + 0.1), "{under}");
    ensure!(under["cpu"]["cores"].as_f64() == Some(cores), "{under}");

    // The cable goes: what is posted waits, and it is said for what.
    let (server, client) = load(lab, &pair, 1, "-D 20 -u 20")?;
    lab.cable(0, "pull", None)?;
    lab.sh(0, "n=0; while ip link show usb4net0 | grep -q LOWER_UP; do n=$((n+1)); [ $n -lt 200 ] || exit 1; sleep 0.05; done")?;
    let out = lab.ok(0, &["usb4rdma", "top", "--once"])?;
    ensure!(
        out.contains("no cable to another host") && out.contains("ib_write_bw") && out.contains("the port is down"),
        "without the cable:\n{out}"
    );
    for (host, running) in [(0, client), (1, server)] {
        lab.sh(host, "kill -KILL $(pidof ib_write_bw)")?;
        running.wait()?;
    }
    watch(lab)?;
    pair.delete(lab)?;
    let refused = lab.run(0, &["usb4rdma", "top"], USUAL)?;
    ensure!(
        refused.errors() == "usb4rdma: top draws on a terminal, and this is none: `usb4rdma top --once`, or --json\n",
        "{}",
        refused.errors()
    );
    // On a terminal: `script` has one.
    let drawn = lab.sh(
        0,
        "(sleep 1; printf q) | script -qec 'stty cols 130 rows 20; usb4rdma top' /dev/null",
    )?;
    ensure!(
        drawn.contains("blank pauses, q quits") && drawn.contains("usb4net0"),
        "{drawn:?}"
    );
    Ok(())
}

/// One look of host 0, held to its schema.
fn look(lab: &Lab, seconds: &str) -> Result<Value> {
    let out = lab.ok(0, &["usb4rdma", "top", "--once", "--json", "--interval", seconds])?;
    checked("top", &out)
}

/// WRITEs of 64 KiB from host 0, which have begun.
fn load(lab: &Lab, pair: &Pair, qps: usize, words: &str) -> Result<(Running, Running)> {
    let line = |gid| format!("ib_write_bw -F -q {qps} -s 65536 -x {gid} {words}");
    let server = lab.start(1, &format!("{} -d {}", line(pair.server.gid), pair.server.name), USUAL);
    wait_listen(lab, 1, port())?;
    let client = format!("{} -d {} {}", line(pair.client.gid), pair.client.name, pair.server.ipv4);
    let client = lab.start(0, &client, USUAL);
    let sent = "rdma statistic show link usb4r0/1 | awk '/sent_trains/ {print $2}'";
    lab.sh(
        0,
        &format!("a=$({sent}); n=0; until [ $({sent}) -gt $((a+20)) ]; do n=$((n+1)); [ $n -lt 200 ] || exit 1; sleep 0.05; done"),
    )?;
    Ok((server, client))
}

/// A line for each change, and none where nothing changes.
fn watch(lab: &Lab) -> Result<()> {
    let watching = lab.start(0, "timeout 4 usb4rdma status --watch --json; true", USUAL);
    std::thread::sleep(std::time::Duration::from_secs(1));
    lab.cable(0, "plug", None)?;
    let out = watching.ok()?;
    let lines: Vec<Value> = out.lines().map(|line| checked("status", line)).collect::<Result<_>>()?;
    let first = lines.first().context("nothing was said")?;
    ensure!(
        super::codes(&first["health"])
            .first()
            .is_some_and(|code| code == "no-cable"),
        "{first}"
    );
    let last = lines.last().context("nothing was said")?;
    ensure!(last["peers"][0]["cables"][0]["carrier"] == true, "{last}");
    ensure!((2..6).contains(&lines.len()), "{} lines:\n{out}", lines.len());
    Ok(())
}
