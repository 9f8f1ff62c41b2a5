// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma tune` says what could be better, sets it when told to, and says how to set it back.

use super::checked;
use super::up::{bare, discovered, down, up};
use crate::cases::netdev::BOTH;
use crate::cases::{about_net, Case, Context};
use crate::lab::{Lab, USUAL};
use crate::verbs::wait_listen;
use anyhow::{ensure, Context as _, Result};
use std::time::Duration;

pub const CASES: &[Case] = &[
    about_net(
        "tool_tune",
        "usb4rdma tune: interrupts, rings and MTU set badly are found, left alone, then set, and faster; undone as \
         printed",
        BOTH,
        tune,
    ),
    about_net(
        "tool_sweep",
        "usb4rdma tune --sweep: interrupts and rings tried, with bandwidth where bench --serve answers; all is put \
         back, also at Ctrl-C; the best is set with --apply",
        bare(1),
        sweep,
    ),
];

/// A sweep has twelve bandwidths of a second each; where ten programs wait for each processor perftest takes 10 s to
/// measure one, and is run again where it says 0.
const MINUTES: Duration = Duration::from_secs(400);

/// What a user sees of the three; an interval that adapts is not compared.
fn seen(lab: &Lab) -> Result<String> {
    lab.sh(
        0,
        "ethtool -c usb4net0 | awk '/^Adaptive/ {print; on = $3 == \"on\"} /^rx-usecs:/ && !on'; \
         ethtool -g usb4net0 | grep -e ^RX: -e ^TX:; \
         cat /sys/class/net/usb4net0/mtu",
    )
}

fn tune(context: &Context) -> Result<()> {
    super::only_ours(context)?;
    let lab = context.lab()?;
    lab.ok(0, &["ip", "link", "set", "usb4net0", "mtu", "65522"])?;
    let good = seen(lab)?;
    lab.sh(
        0,
        "ethtool -C usb4net0 adaptive-rx off rx-usecs 128; ethtool -G usb4net0 rx 128 tx 128; \
         ip link set usb4net0 mtu 9000",
    )?;
    crate::cases::life::both_up(lab)?;
    let bad = seen(lab)?;
    let said = lab.ok(0, &["usb4rdma", "tune"])?;
    let commands = "what `usb4rdma tune --apply` would do:\n    ethtool -C usb4net0 adaptive-rx on\n    ethtool -G \
                    usb4net0 rx 512 tx 512\n    ip link set usb4net0 mtu 65522\n";
    ensure!(said.ends_with(commands), "{said}");
    ensure!(seen(lab)? == bad, "changed without --apply");
    let user = "setpriv --reuid 65534 --regid 65534 --clear-groups usb4rdma tune --apply";
    let refused = lab.run(0, &["/bin/sh", "-c", user], USUAL)?;
    let words = "usb4rdma: tune --apply needs root, as it sets up devices: `sudo usb4rdma tune --apply`\n";
    ensure!(refused.status == 1 && refused.errors() == words, "{}", refused.errors());

    let done = checked("tune", &lab.ok(0, &["usb4rdma", "tune", "--apply", "--json"])?)?;
    let is = seen(lab)?;
    ensure!(
        done["applied"] == true && is == good,
        "{is}\nis not what it was:\n{good}"
    );
    let trip = &done["round_trips"][0];
    let (before, after) = (trip["before_median"].as_f64(), trip["after_median"].as_f64());
    eprintln!("round trip of {before:?} ns before, {after:?} after");
    ensure!(
        before > Some(100_000.0) && after < before,
        "with interrupts at once it is not faster: {trip}"
    );
    ensure!(
        lab.ok(0, &["usb4rdma", "tune"])?.ends_with("nothing to set\n"),
        "not all is set"
    );
    for setting in done["settings"].as_array().into_iter().flatten() {
        if let Some(undo) = setting["undo"].as_str() {
            lab.sh(0, undo)?;
        }
    }
    ensure!(seen(lab)? == bad, "undone as printed, it is {}", seen(lab)?);
    lab.sh(0, "usb4rdma tune --apply | grep -q 'To undo it:'")?;
    ensure!(seen(lab)? == good, "{}", seen(lab)?);
    crate::cases::life::both_up(lab)
}

/// A sweep with the settings of `words`, which tell no more than one ring and two intervals.
fn swept(lab: &Lab, words: &str) -> Result<serde_json::Value> {
    let line = format!("usb4rdma tune --sweep --usecs 0 --usecs 128 --ring 256 --runs 1 --json {words}");
    let output = lab.run(0, &["/bin/sh", "-c", &line], MINUTES)?;
    ensure!(output.status == 0, "{line}: {}", output.errors());
    checked("sweep", &output.text())
}

fn sweep(context: &Context) -> Result<()> {
    super::only_ours(context)?;
    let lab = context.lab()?;
    discovered(lab, 1)?;
    let refused = lab.run(0, &["usb4rdma", "tune", "--sweep"], USUAL)?;
    let said = "usb4rdma: no cable to a host with the module usb4_rdma carries, and nothing can be tried: `usb4rdma \
                up` on both hosts\n";
    ensure!(refused.status == 1 && refused.errors() == said, "{}", refused.errors());
    up(lab, "")?;
    lab.sh(0, "ethtool -C usb4net0 adaptive-rx off rx-usecs 200")?;
    let before = seen(lab)?;
    // Nobody measures bandwidth at the other end: round trips are tried, and nothing is chosen for bandwidth.
    let found = swept(lab, "")?;
    ensure!(
        found["best"].is_null() && found["tries"][0]["seen"]["out_gbps"].is_null(),
        "{found}"
    );
    ensure!(
        found["left_out"][0]
            .as_str()
            .is_some_and(|why| why.contains("usb4rdma bench --serve")),
        "{found}"
    );
    ensure!(seen(lab)? == before, "not all is put back: {}", seen(lab)?);
    let refused = lab.run(0, &["usb4rdma", "tune", "--sweep", "--apply"], USUAL)?;
    ensure!(
        refused.status == 1
            && refused
                .errors()
                .starts_with("usb4rdma: which settings are best for bandwidth cannot"),
        "{}",
        refused.errors()
    );

    let serving = lab.start(1, "usb4rdma bench --serve", MINUTES);
    wait_listen(lab, 1, 18600)?;
    let found = swept(lab, "")?;
    let tries = found["tries"].as_array().context("no tries")?;
    let words: Vec<&str> = tries.iter().filter_map(|made| made["what"].as_str()).collect();
    ensure!(
        words[..4]
            == [
                "as it was",
                "adaptive-rx on",
                "adaptive-rx off rx-usecs 0",
                "adaptive-rx off rx-usecs 128"
            ]
            && words.len() == 5
            && words[4].ends_with("rx 256 tx 256"),
        "{words:?}"
    );
    for name in ["median", "p99", "out_gbps", "in_gbps"] {
        let all = tries.iter().map(|made| &made["seen"]).chain([&found["after"]]);
        let told = all
            .filter(|seen| seen[name].as_f64().is_some_and(|figure| figure > 0.0))
            .count();
        // perftest now and then says 0 of a run that has moved gigabytes (bench/run.rs); on a machine with ten programs
        // to a processor it does so five times on end, and then a bandwidth is missing.
        let least = if name.ends_with("gbps") { 1 } else { tries.len() + 1 };
        ensure!(told >= least, "{name}: {found}");
    }
    ensure!(found["applied"] == false && seen(lab)? == before, "{found}");

    // Ctrl-C in the middle of it. One run of each: three take a minute until the interval is tried.
    let running = lab.start(
        0,
        "usb4rdma tune --sweep --usecs 8 --runs 1 2> /run/told > /run/said; echo $? > /run/status",
        MINUTES,
    );
    lab.sh(
        0,
        "n=0; until grep -q 'rx-usecs 8' /run/told; do n=$((n+1)); [ $n -lt 600 ] || exit 1; sleep 0.1; done; \
         kill -INT $(pidof usb4rdma)",
    )?;
    running.wait()?;
    let ended = lab.sh(
        0,
        "cat /run/status; tail -n 1 /run/said; rm /run/status /run/said /run/told",
    )?;
    ensure!(ended == "130\nended early; all is as it was\n", "{ended}");
    ensure!(seen(lab)? == before, "after Ctrl-C it is {}", seen(lab)?);

    lab.sh(1, "kill -INT $(pidof usb4rdma)")?;
    serving.wait()?;

    // 200 us between interrupts cost each round trip as much: what is best is set, and stays.
    let found = swept(lab, "--for latency --apply")?;
    let best = found["best"].as_u64().context("nothing is best")?;
    let median = |seen: &serde_json::Value| seen["median"].as_f64().unwrap_or(f64::INFINITY);
    let (was, is) = (median(&found["tries"][0]["seen"]), median(&found["after"]));
    eprintln!("round trip of {was} ns before, {is} after, by {}", found["commands"]);
    ensure!(best > 0 && found["applied"] == true && is < was, "{found}");
    ensure!(seen(lab)? != before, "it says that it is set, and it is not");
    lab.sh(
        0,
        "ethtool -C usb4net0 adaptive-rx off rx-usecs 200; ethtool -G usb4net0 rx 512 tx 512",
    )?;
    down(lab)
}
