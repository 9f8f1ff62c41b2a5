// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The network device under the standard tools: ethtool, vlan, bridge, namespaces.

use super::{both_ways, counters, grown, only_ours, ping, set_mtu, transfer, wait_ping, xdomain, BOTH};
use crate::cases::life::both_up;
use crate::cases::{about_net, Case, Context};
use crate::lab::Lab;
use crate::netbench;
use crate::parse;
use crate::spec::{ipv4, NetDriver};
use anyhow::{ensure, Context as _, Result};

pub const CASES: &[Case] = &[
    about_net(
        "net_ethtool",
        "driver info, counters, ring sizes, coalescing, features off and on, true link speed, MAC",
        BOTH,
        ethtool,
    ),
    about_net(
        "net_bridge_vlan_netns",
        "the network device in a vlan, a bridge and another namespace",
        BOTH,
        bridge_vlan_netns,
    ),
];

fn ethtool(context: &Context) -> Result<()> {
    only_ours(context, "ring sizes and coalescing")?;
    let lab = context.lab()?;
    let netdev = lab.netdev(0, 0)?;
    let dev = netdev.as_str();
    let tool = |arguments: &str| lab.sh(0, &format!("ethtool {}", arguments.replace("DEV", dev)));

    let info = tool("-i DEV")?;
    ensure!(info.contains("driver: usb4"), "driver info:\n{info}");
    let before = [counters(lab, 0, 0)?, counters(lab, 1, 0)?];
    transfer(lab, 0, &ipv4(0, 1), 16, "send")?;
    let after = [counters(lab, 0, 0)?, counters(lab, 1, 0)?];
    for (host, way) in [(0, "tx"), (1, "rx")] {
        let moved = grown(&before[host], &after[host], &format!("{way}_zerocopy_bytes"))?
            + grown(&before[host], &after[host], &format!("{way}_copied_bytes"))?;
        ensure!(
            moved >= 16 << 20,
            "host {host} counted {moved} bytes ({way}) of a transfer of 16 MiB"
        );
    }

    let trips = tool("-t DEV")?;
    ensure!(
        trips.contains("PASS") && parse::round_trip(&trips)? > 0.0,
        "round trips over the rings:\n{trips}"
    );

    let rings = tool("-g DEV")?;
    ensure!(rings.contains("RX:") && rings.contains("TX:"), "ring sizes:\n{rings}");
    for size in [64, 1024, 256] {
        tool(&format!("-G DEV rx {size} tx {size}")).with_context(|| format!("rings of {size}"))?;
        let shown = tool("-g DEV")?;
        ensure!(
            shown.contains(&size.to_string()),
            "rings of {size} were accepted but not made:\n{shown}"
        );
        wait_ping(lab, 0, &ipv4(0, 1), 10)?;
        both_ways(lab, 8)?;
    }
    let refused = lab.run(0, &["ethtool", "-G", dev, "rx", "1000000"], super::MINUTE)?;
    ensure!(refused.status != 0, "a ring of a million descriptors was accepted");

    let coalescing = tool("-c DEV")?;
    ensure!(
        coalescing.contains("Adaptive RX: on"),
        "coalescing is not adaptive by default:\n{coalescing}"
    );
    tool("-C DEV adaptive-rx off rx-usecs 40")?;
    let coalescing = tool("-c DEV")?;
    ensure!(
        coalescing.contains("Adaptive RX: off") && coalescing.contains("rx-usecs:\t40"),
        "coalescing after -C:\n{coalescing}"
    );
    both_ways(lab, 4)?;
    tool("-C DEV adaptive-rx on")?;

    for feature in ["tso", "gso", "gro", "sg", "tx", "rx"] {
        for state in ["off", "on"] {
            // Some are fixed, which is no error.
            lab.run(0, &["ethtool", "-K", dev, feature, state], super::MINUTE)?;
            both_ways(lab, 4).with_context(|| format!("{feature} {state}"))?;
        }
    }

    speed(lab, dev)?;
    mac(lab, dev)
}

/// The link's speed is lanes times speed of a lane, as the bus shows them.
fn speed(lab: &Lab, dev: &str) -> Result<()> {
    let dir = format!("/sys/bus/thunderbolt/devices/{}", xdomain(lab, 0, 0)?);
    let text = lab.sh(
        0,
        &format!("cat {dir}/tx_speed {dir}/tx_lanes; cat /sys/class/net/{dev}/speed"),
    )?;
    let mut numbers = text.lines().map(|l| {
        l.split_whitespace()
            .next()
            .and_then(|w| w.parse::<f64>().ok())
            .unwrap_or(-1.0)
    });
    let mut next = || numbers.next().unwrap_or(-1.0);
    let (lane, lanes, shown) = (next(), next(), next());
    ensure!(
        shown == lane * lanes * 1000.0,
        "the link has {lanes} lanes of {lane} Gb/s, and its speed is {shown} Mb/s"
    );
    Ok(())
}

fn mac(lab: &Lab, dev: &str) -> Result<()> {
    let before = lab.sh(0, &format!("cat /sys/class/net/{dev}/address"))?;
    lab.ok(0, &["ip", "link", "set", dev, "address", "02:00:5e:00:53:01"])?;
    lab.ok(1, &["ip", "neigh", "flush", "dev", &lab.netdev(1, 0)?])?;
    wait_ping(lab, 1, &ipv4(0, 0), 10)?;
    lab.ok(0, &["ip", "link", "set", dev, "address", before.trim()])?;
    lab.ok(1, &["ip", "neigh", "flush", "dev", &lab.netdev(1, 0)?])?;
    wait_ping(lab, 1, &ipv4(0, 0), 10)
}

fn bridge_vlan_netns(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let outcome = vlan(lab)
        .context("vlan")
        .and_then(|()| bridge(lab).context("bridge"))
        .and_then(|()| namespace(lab).context("namespace"));
    for host in 0..2 {
        lab.sh(
            host,
            "ip link del v100 2>/dev/null; ip link del br0 2>/dev/null; ip netns del inner 2>/dev/null; true",
        )?;
    }
    outcome?;
    both_up(lab)?;
    wait_ping(lab, 0, &ipv4(0, 1), 10)
}

fn vlan(lab: &Lab) -> Result<()> {
    set_mtu(lab, 0, 9000)?;
    for host in 0..2 {
        let dev = lab.netdev(host, 0)?;
        lab.sh(
            host,
            &format!(
                "ip link add link {dev} name v100 type vlan id 100 && ip addr add 10.100.0.{}/24 dev v100 && ip link set v100 up",
                host + 1
            ),
        )?;
    }
    wait_ping(lab, 0, "10.100.0.2", 10)?;
    ping(lab, 0, "10.100.0.2", 8900, true)?;
    transfer(lab, 0, "10.100.0.2", 16, "send")?;
    transfer(lab, 1, "10.100.0.1", 16, "sendfile")?;
    for host in 0..2 {
        lab.ok(host, &["ip", "link", "del", "v100"])?;
    }
    Ok(())
}

/// Host 0 bridges the cable with a namespace of its own.
fn bridge(lab: &Lab) -> Result<()> {
    let dev = lab.netdev(0, 0)?;
    lab.sh(
        0,
        &format!(
            "ip netns add inner && ip link add br0 type bridge && ip link set {dev} master br0 && ip link set br0 mtu 9000 up && \
             ip link add out0 type veth peer name in0 netns inner && ip link set out0 mtu 9000 master br0 up && \
             ip netns exec inner ip link set in0 mtu 9000 up && ip netns exec inner ip addr add 10.101.0.1/24 dev in0"
        ),
    )?;
    let far = lab.netdev(1, 0)?;
    lab.ok(1, &["ip", "addr", "add", "10.101.0.2/24", "dev", &far])?;
    lab.sh(
        0,
        "n=0; until ip netns exec inner ping -q -c 1 -W 1 10.101.0.2; do n=$((n+1)); [ $n -lt 20 ] || exit 1; done",
    )?;
    lab.sh(0, "ip netns exec inner ping -c 3 -i 0.05 -s 8900 -M do -W 2 10.101.0.2")?;
    let serving = lab.start(1, "/usb4lab/stream.py serve 7001 2", super::MINUTE);
    crate::verbs::wait_listen(lab, 1, 7001)?;
    for mode in ["send", "sendfile"] {
        lab.sh(
            0,
            &format!("ip netns exec inner /usb4lab/stream.py send 10.101.0.2 7001 16 {mode}"),
        )?;
    }
    serving.ok()?;
    lab.ok(1, &["ip", "addr", "del", "10.101.0.2/24", "dev", &far])?;
    lab.sh(
        0,
        &format!("ip link set {dev} nomaster && ip link del br0 && ip netns del inner"),
    )
    .map(|_| ())
}

/// Host 0's network device moves to another namespace and comes back when that ends.
fn namespace(lab: &Lab) -> Result<()> {
    let dev = lab.netdev(0, 0)?;
    lab.sh(
        0,
        &format!(
            "ip netns add inner && ip link set {dev} netns inner && ip netns exec inner ip link set {dev} up && \
             ip netns exec inner ip addr add {}/24 dev {dev}",
            ipv4(0, 0)
        ),
    )?;
    lab.sh(
        0,
        &format!(
            "n=0; until ip netns exec inner ping -q -c 1 -W 1 {}; do n=$((n+1)); [ $n -lt 20 ] || exit 1; done",
            ipv4(0, 1)
        ),
    )?;
    let serving = lab.start(1, "/usb4lab/stream.py serve 7001", super::MINUTE);
    crate::verbs::wait_listen(lab, 1, 7001)?;
    lab.sh(
        0,
        &format!(
            "ip netns exec inner /usb4lab/stream.py send {} 7001 16 send",
            ipv4(0, 1)
        ),
    )?;
    serving.ok()?;
    lab.ok(0, &["ip", "netns", "del", "inner"])?;
    lab.sh(
        0,
        &format!("n=0; until [ -e /sys/class/net/{dev} ]; do n=$((n+1)); [ $n -lt 100 ] || exit 1; sleep 0.05; done"),
    )
    .context("the network device did not come back from the namespace that ended")?;
    both_up(lab)?;
    wait_ping(lab, 0, &ipv4(0, 1), 10)?;
    set_mtu(lab, 0, NetDriver::MTU)?;
    netbench::tcp(lab, 1)?;
    set_mtu(lab, 0, 9000)
}
