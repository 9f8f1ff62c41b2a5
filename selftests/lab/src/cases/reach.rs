// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Whom a device reaches, and how: groups, VLANs, namespaces.

use super::{pair, Case, Context};
use crate::lab::Lab;
use crate::verbs::{Device, Kind, Pair};
use anyhow::{ensure, Context as _, Result};
use std::time::Duration;

pub const CASES: &[Case] = &[pair(
    "reach_multicast",
    "UD multicast: members on one device, and mckey between hosts, ours with ours and with rxe",
    multicast,
)];

const MINUTE: Duration = Duration::from_secs(60);

/// Plays a scene of `one.py` on a device; nothing may be wrong.
pub fn play(lab: &Lab, device: &Device, scene: &str, argument: &str) -> Result<()> {
    let line = format!("/usb4lab/one.py {scene} {} {} {argument}", device.name, device.gid);
    let said = lab.start(device.host, &line, MINUTE).ok()?;
    ensure!(said.trim() == "[]", "{scene}: {}", said.trim());
    Ok(())
}

fn multicast(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let device = Device::add(lab, 0, context.ours, 0)?;
    play(lab, &device, "mcast", &device.gid6.to_string())?;
    device.delete(lab)?;
    for (client, server) in [(context.ours, context.ours), (context.ours, Kind::Rxe)] {
        let pair = Pair::add(lab, client, server)?;
        for pair in [&pair, &pair.turned()] {
            mckey(lab, pair).with_context(|| format!("{client:?} with {server:?}"))?;
        }
        pair.delete(lab)?;
    }
    Ok(())
}

/// The client sends to an IPv4 group that the server joins.
fn mckey(lab: &Lab, pair: &Pair) -> Result<()> {
    const COUNT: u32 = 10;
    let hearing = lab.start(
        pair.server.host,
        &format!(
            "stdbuf -oL timeout 40 mckey -m 239.1.2.3 -b {} -C {COUNT} -S 900 > /run/mckey; cat /run/mckey; \
             grep -q 'return status 0' /run/mckey",
            pair.server.ipv4
        ),
        MINUTE,
    );
    let joined = lab.sh(
        pair.server.host,
        "n=0; until grep -q 'receiving data' /run/mckey; do n=$((n+1)); [ $n -lt 400 ] || exit 1; sleep 0.05; done",
    );
    if joined.is_ok() {
        // mckey leaves with its last completion, and rxe drops then what it has not sent: more than are waited for.
        let sends = format!(
            "timeout 30 mckey -m 239.1.2.3 -s -b {} -C {} -S 900",
            pair.client.ipv4,
            10 * COUNT
        );
        lab.sh(pair.client.host, &sends)?;
    }
    let heard = hearing.ok()?;
    lab.sh(pair.server.host, "rm -f /run/mckey")?;
    ensure!(
        joined.is_ok() && heard.contains("data transfers complete"),
        "the group was not heard: {heard}"
    );
    Ok(())
}
