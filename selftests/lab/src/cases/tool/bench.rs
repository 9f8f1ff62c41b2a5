// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma bench` against `bench --serve`: every test has a figure, in each form of output.

use super::checked;
use super::up::{bare, discovered, down, up};
use crate::cases::{about_net, Case, Context};
use crate::lab::{Lab, USUAL};
use crate::verbs::wait_listen;
use anyhow::{ensure, Context as _, Result};

pub const CASES: &[Case] = &[about_net(
    "tool_bench",
    "usb4rdma bench with --serve at the other end: RDMA and TCP, bandwidth and latency; JSON, CSV, a page; refusals",
    bare(1),
    bench,
)];

/// TCP port of the agent.
const PORT: u16 = 18600;

fn bench(context: &Context) -> Result<()> {
    super::only_ours(context)?;
    let lab = context.lab()?;
    discovered(lab, 1)?;
    says(
        lab,
        1,
        "usb4rdma bench --serve",
        "no RDMA device with an address is here: `usb4rdma up`, and `usb4rdma doctor` says what is wrong",
    )?;
    up(lab, "")?;
    let peer = lab.sh(
        0,
        "usb4rdma status --json | sed -n '/peer_addresses/ {n; s/[\", ]//g; p}'",
    )?;
    let peer = peer.trim();
    says(
        lab,
        0,
        "usb4rdma bench",
        &format!("nobody answers at {peer}, port {PORT}: run `usb4rdma bench --serve` on h1: Connection refused (os error 111)"),
    )?;
    let serving = lab.start(1, "usb4rdma bench --serve", USUAL);
    wait_listen(lab, 1, PORT)?;
    // What makes no sense ends that client's turn and nothing else.
    let odd = format!("exec 3<>/dev/tcp/{peer}/{PORT}; echo '{{\"exec\":\"sh\"}}' >&3; cat <&3");
    let odd = lab.ok(0, &["bash", "-c", &odd])?;
    ensure!(odd.is_empty(), "the agent answers nonsense with {odd}");
    let out = lab.sh(
        0,
        "usb4rdma bench --size 65536 --seconds 1 --runs 1 --json - --csv /run/b.csv --html /run/b.html 2> /run/told",
    )?;
    lab.sh(1, "kill -INT $(pidof usb4rdma)")?;
    let served = serving.wait()?;
    ensure!(
        served.errors().contains("a request that makes no sense"),
        "{}",
        served.errors()
    );
    let bench = checked("bench", &out)?;
    let rows = bench["rows"].as_array().context("no rows")?;
    ensure!(
        rows.len() == 7 && bench["left_out"].as_array().is_some_and(Vec::is_empty),
        "{bench}"
    );
    let cores: f64 = lab.ok(0, &["nproc"])?.trim().parse()?;
    for row in rows {
        let median = row["median"].as_f64().context("no figure")?;
        // Of 80 Gb/s in software some; a latency below a second.
        let likely = if row["p99"].is_null() { 0.1..80.0 } else { 5.0..1e6 };
        ensure!(likely.contains(&median), "{row}");
        let busy = [&row["busy_here"], &row["busy_there"]].map(|busy| busy.as_f64().unwrap_or(99.0));
        ensure!(busy.iter().all(|busy| *busy < cores + 0.3), "{row}");
    }
    ensure!(
        bench["here"]["device"] == "usb4r0" && bench["there"]["host"] == "h1",
        "{bench}"
    );
    ensure!(bench["link"]["gbps"] == 80.0 && bench["link"]["cables"] == 1, "{bench}");
    ensure!(
        bench["here"]["module"].as_str().is_some_and(|id| id.len() == 40),
        "{bench}"
    );
    let lines = lab.sh(
        0,
        "wc -l < /run/b.csv; grep -c '<svg' /run/b.html; wc -l < /run/told; rm /run/b.csv /run/b.html /run/told",
    )?;
    ensure!(lines.split_whitespace().eq(["8", "2", "7"]), "{lines}");
    down(lab)
}

fn says(lab: &Lab, host: usize, line: &str, said: &str) -> Result<()> {
    let output = lab.run(host, &["/bin/sh", "-c", line], USUAL)?;
    ensure!(
        output.status == 1 && output.errors() == format!("usb4rdma: {said}\n"),
        "{line}: {}",
        output.errors()
    );
    Ok(())
}
