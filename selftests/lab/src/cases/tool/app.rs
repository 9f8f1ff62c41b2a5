// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma doctor --app`: the settings that it prints work as they are, and it tells RDMA from TCP.

use super::checked;
use super::up::{bare, discovered, down, up};
use crate::cases::{about_net, Case, Context};
use crate::lab::{Lab, USUAL};
use crate::verbs::wait_listen;
use anyhow::{ensure, Context as _, Result};
use serde_json::Value;

pub const CASES: &[Case] = &[about_net(
    "tool_app",
    "usb4rdma doctor --app: perftest, UCX and libfabric with the printed settings go by RDMA, which is told from TCP",
    bare(1),
    app,
)];

fn app(context: &Context) -> Result<()> {
    super::only_ours(context)?;
    let lab = context.lab()?;
    discovered(lab, 1)?;
    up(lab, "")?;
    for (name, missing) in [
        ("perftest", ""),
        ("ucx", ""),
        ("libfabric", ""),
        (
            "torch",
            "the Python module torch is not installed here (pip install torch)",
        ),
        (
            "nccl",
            "the library libnccl.so or librccl.so is not installed here (NVIDIA's NCCL or ROCm's RCCL)",
        ),
    ] {
        let (report, status) = report(lab, 0, name, "")?;
        ensure!(
            status == i32::from(!missing.is_empty()),
            "{name}: status {status}: {report}"
        );
        ensure!(
            report["missing"][0].as_str().unwrap_or_default() == missing,
            "{name}: {report}"
        );
        ensure!(report["pairs"][0]["device"] == "usb4r0", "{name}: {report}");
    }
    perftest(lab)?;
    ucx(lab)?;
    libfabric(lab)?;
    let (quiet, status) = report(lab, 0, "torch", "--during 0.5")?;
    ensure!(quiet["proof"]["verdict"] == "nothing" && status == 2, "{quiet}");
    let refused = lab.run(0, &["usb4rdma", "doctor", "--app", "ucx", "--peer", "h7"], USUAL)?;
    let said = "usb4rdma: no cable leads to a host h7: there are h1\n";
    ensure!(refused.status == 1 && refused.errors() == said, "{}", refused.errors());
    lab.ok(0, &["rdma", "link", "del", "usb4r0"])?;
    let refused = lab.run(0, &["usb4rdma", "doctor", "--app", "ucx"], USUAL)?;
    let said = "usb4rdma: no RDMA device with an address leads to another host: `usb4rdma up`, and `usb4rdma doctor` \
                says what is wrong\n";
    ensure!(refused.status == 1 && refused.errors() == said, "{}", refused.errors());
    down(lab)
}

/// What is reported of an app, held to its schema, and the exit status.
fn report(lab: &Lab, host: usize, app: &str, words: &str) -> Result<(Value, i32)> {
    let line = format!("usb4rdma doctor --app {app} --json {words}");
    let output = lab.run(host, &["/bin/sh", "-c", &line], USUAL)?;
    let value = checked("app", &output.text()).with_context(|| format!("{line}: {}", output.errors()))?;
    Ok((value, output.status))
}

/// The last of the lines that are printed for this host, or for the peer.
fn printed(lab: &Lab, app: &str, whose: &str) -> Result<String> {
    let (report, _) = report(lab, 0, app, "")?;
    let lines = report["pairs"][0][whose].as_array().context("no lines")?;
    Ok(lines.last().and_then(Value::as_str).context("no line")?.to_string())
}

/// Judged while it runs, by itself.
fn perftest(lab: &Lab) -> Result<()> {
    let server = lab.start(1, &format!("{} -D 3", printed(lab, "perftest", "on_peer")?), USUAL);
    wait_listen(lab, 1, crate::verbs::port())?;
    let client = lab.start(0, &format!("{} -D 3", printed(lab, "perftest", "here")?), USUAL);
    let sent = "rdma statistic show link usb4r0/1 | awk '/sent_trains/ {print $2}'";
    lab.sh(
        0,
        &format!("n=0; until [ $({sent}) -gt 20 ]; do n=$((n+1)); [ $n -lt 200 ] || exit 1; sleep 0.05; done"),
    )?;
    let (seen, status) = report(lab, 0, "perftest", "--during 1")?;
    ensure!(seen["proof"]["verdict"] == "rdma" && status == 0, "{seen}");
    client.ok()?;
    server.ok().map(|_| ())
}

/// With the settings, and with somebody else's, which are kept.
fn ucx(lab: &Lab) -> Result<()> {
    let here = printed(lab, "ucx", "here")?.replace("-n 1000", "-n 100");
    for (env, verdict, wanted) in [("", "rdma", 0), ("UCX_TLS=tcp,self UCX_NET_DEVICES=usb4net0", "tcp", 2)] {
        // Without a terminal it waits for mpirun.
        let line = |words: &str| format!("{env} usb4rdma doctor --app ucx --json -- script -qec '{words}' /dev/null");
        let server = lab.start(1, &line("ucx_perftest"), USUAL);
        wait_listen(lab, 1, 13337)?;
        let client = lab.run(0, &["/bin/sh", "-c", &line(&here)], USUAL)?;
        let report = checked("app", &client.text()).with_context(|| client.errors())?;
        let proof = &report["proof"];
        ensure!(
            proof["verdict"] == verdict && client.status == wanted,
            "{env}: {proof}: {}",
            client.errors()
        );
        ensure!(client.errors().contains("Final:"), "{}", client.errors());
        let served = server.wait()?;
        ensure!(served.status == wanted, "{env}: {}{}", served.text(), served.errors());
        let said = if verdict == "rdma" {
            "RDMA is used: "
        } else {
            "RDMA is not used: "
        };
        ensure!(
            proof["text"].as_str().is_some_and(|text| text.starts_with(said)),
            "{proof}"
        );
    }
    Ok(())
}

/// Its passive side may end badly, as the case `tools_libfabric` has it.
fn libfabric(lab: &Lab) -> Result<()> {
    let more = "-S 65536 -I 20";
    let server = lab.start(1, &format!("{} {more}", printed(lab, "libfabric", "on_peer")?), USUAL);
    wait_listen(lab, 1, 47592)?;
    let here = printed(lab, "libfabric", "here")?.replace("-e rdm", &format!("-e rdm {more}"));
    let (report, status) = report(lab, 0, "libfabric", &format!("-- {here}"))?;
    ensure!(report["proof"]["verdict"] == "rdma" && status == 0, "{report}");
    server.wait().map(|_| ())
}
