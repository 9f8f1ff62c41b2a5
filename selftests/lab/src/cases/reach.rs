// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Whom a device reaches, and how: groups, VLANs, namespaces.

use super::{pair, Case, Context};
use crate::lab::Lab;
use crate::verbs::{Device, Kind, Pair};
use anyhow::{ensure, Context as _, Result};
use std::time::Duration;

pub const CASES: &[Case] = &[
    pair(
        "reach_multicast",
        "UD multicast: members on one device, and mckey between hosts, ours with ours and with rxe",
        multicast,
    ),
    pair(
        "reach_vlan",
        "addresses of VLANs above the netdev: RC, rdma_cm, loopback, ours with ours and with rxe",
        vlan,
    ),
    pair(
        "reach_transit",
        "RC and rdma_cm through a router whose netdevs have devices of their own",
        transit,
    ),
    pair(
        "reach_bridge",
        "a device over a bridge, and another over a port of it: neither takes what is for others",
        bridge,
    ),
    pair(
        "reach_address",
        "Ethernet addresses change at both ends under RC, rdma_cm and UD",
        address,
    ),
    pair(
        "reach_loopback",
        "a device over lo: RC, UC, UD, rdma_cm; what a link cannot be over is said in the log",
        loopback,
    ),
    pair(
        "reach_mtu",
        "rdma_cm between netdevs of different MTU, ours with ours and with rxe",
        mtu,
    ),
    pair(
        "reach_taken",
        "a link whose name or netdev is taken harms neither, and one whose netdev moves away meanwhile does not stay",
        taken,
    ),
    pair(
        "reach_netdev",
        "the device follows its netdev: name, MTU, carrier, speed, another namespace, the end",
        netdev,
    ),
    pair(
        "reach_namespaces",
        "devices in network namespaces that are kept apart, and moved",
        namespaces,
    ),
    pair(
        "device_regions",
        "dma-buf regions of two exporters, regions registered anew, and errors for what is not there",
        regions,
    ),
    pair(
        "device_events",
        "every asynchronous event, from COMM_EST to DEVICE_FATAL",
        events,
    ),
    pair(
        "device_watched",
        "trace events, the listing in debugfs, details in rdma resource, counters",
        watched,
    ),
];

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

/// Plays a step of `netdevs`, which uses host 0 alone.
fn follow(context: &Context, step: &str) -> Result<()> {
    let line = format!("/usb4lab/netdevs {step}");
    context.lab()?.start(0, &line, 2 * MINUTE).ok().map(drop)
}

fn vlan(context: &Context) -> Result<()> {
    follow(context, "vlan")?;
    follow(context, "vlan rxe")
}

fn transit(context: &Context) -> Result<()> {
    follow(context, "transit")
}

fn bridge(context: &Context) -> Result<()> {
    follow(context, "bridge")
}

fn address(context: &Context) -> Result<()> {
    follow(context, "address")
}

fn loopback(context: &Context) -> Result<()> {
    follow(context, "lo")
}

fn mtu(context: &Context) -> Result<()> {
    follow(context, "mtu")?;
    follow(context, "mtu rxe")
}

fn taken(context: &Context) -> Result<()> {
    follow(context, "again")?;
    follow(context, "moved")
}

fn netdev(context: &Context) -> Result<()> {
    follow(context, "follow")
}

fn namespaces(context: &Context) -> Result<()> {
    follow(context, "exclusive")
}

fn events(context: &Context) -> Result<()> {
    follow(context, "events")
}

fn regions(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let device = Device::add(lab, 0, context.ours, 0)?;
    for scene in ["dmabuf", "rereg", "absent"] {
        play(lab, &device, scene, "")?;
    }
    device.delete(lab)
}

fn watched(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    for host in 0..2 {
        lab.sh(
            host,
            "t=/sys/kernel/tracing; [ -d $t/events ] || mount -t tracefs tracefs $t; : > $t/trace; \
             echo 1 > $t/events/usb4_rdma/enable",
        )?;
    }
    pair.scene(lab, "bad_rkey")?;
    pair.scene(lab, "missing_receive")?;
    let told = |host: usize, what: &str| -> Result<()> {
        let trace = lab.ok(host, &["cat", "/sys/kernel/tracing/trace"])?;
        ensure!(trace.contains(what), "host {host} traced no `{what}`:\n{trace}");
        Ok(())
    };
    // The caller's part, then the server's: what they sent and received, and where it brought them.
    for what in ["qp_nak: dev=", "what=19", "what=18", "from=3 to=6", "qp_retry: dev="] {
        told(0, what)?;
    }
    for what in ["what=3", "what=2", "qp_error: dev=", "from=3 to=6"] {
        told(1, what)?;
    }
    for host in 0..2 {
        lab.sh(host, "echo 0 > /sys/kernel/tracing/events/usb4_rdma/enable")?;
    }
    let counted = lab.ok(
        0,
        &["rdma", "statistic", "show", "link", &format!("{}/1", pair.client.name)],
    )?;
    for name in [
        "retry_rnr_exceeded_err 1",
        "rcvd_error_naks 1",
        "icrc_err 0",
        "link_downed 0",
    ] {
        ensure!(counted.contains(name), "`{name}` is not among the counters: {counted}");
    }
    ensure!(!counted.contains("sent_bytes 0 "), "nothing was sent: {counted}");
    let (serving, calling) = super::errors::start_scene(lab, &pair, "idle")?;
    let resource = |kind: &str| lab.ok(0, &["rdma", "resource", "show", kind, "-dd"]);
    for (kind, detail) in [("qp", "drv_rnr_retry"), ("cq", "drv_unread"), ("mr", "drv_windows")] {
        let shown = resource(kind)?;
        ensure!(shown.contains(detail), "no {detail} in: {shown}");
    }
    let list = format!("/sys/kernel/debug/usb4_rdma/{}/qps", pair.client.name);
    let listed = lab.ok(0, &["cat", &list])?;
    for what in [
        " Rc pd ",
        " Gsi pd ",
        "  requester ",
        "  responder ",
        "state: Rts",
        "  counters ",
    ] {
        ensure!(listed.contains(what), "no `{what}` in: {listed}");
    }
    for host in 0..2 {
        lab.run(host, &["pkill", "-KILL", "-x", "verbs.py"], MINUTE)?;
    }
    let _ = (serving.wait()?, calling.wait()?);
    pair.delete(lab)?;
    lab.sh(0, &format!("! [ -e {list} ]"))
        .context("the listing outlived its device")?;
    Ok(())
}
