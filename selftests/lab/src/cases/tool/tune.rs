// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma tune` says what could be better, sets it when told to, and says how to set it back.

use super::checked;
use crate::cases::netdev::BOTH;
use crate::cases::{about_net, Case, Context};
use crate::lab::{Lab, USUAL};
use anyhow::{ensure, Result};

pub const CASES: &[Case] = &[about_net(
    "tool_tune",
    "usb4rdma tune: interrupts, rings and MTU set badly are found, left alone, then set, and faster; undone as printed",
    BOTH,
    tune,
)];

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
