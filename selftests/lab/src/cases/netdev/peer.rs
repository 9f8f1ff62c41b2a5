// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The driver under test beside and against thunderbolt_net.

use super::{both_ways, load, load_traffic, only_ours, ping, set_mtu, stop_traffic, unload, wait_ping, BOTH};
use crate::cases::life::both_up;
use crate::cases::{about_net, long, Case, Context, NetLab, Role};
use crate::lab::Lab;
use crate::spec::{ipv4, ipv6, NetDriver};
use anyhow::{ensure, Context as _, Result};

/// No network driver at the start.
const BARE: NetLab = NetLab {
    roles: [Role::None, Role::None],
    ..BOTH
};

pub const CASES: &[Case] = &[
    about_net(
        "net_stock_peer",
        "ours against thunderbolt_net: started in both orders, restarted on either side, packets of all sizes",
        BARE,
        stock_peer,
    ),
    long(about_net(
        "net_coexist",
        "thunderbolt_net holds the cable: ours says so and leaves it alone, and the other way round",
        BARE,
        coexist,
    )),
];

fn stock_peer(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let drivers = [context.net, NetDriver::Stock];
    for first in 0..2 {
        load(lab, first, drivers[first])?;
        // The first one logs in and is not answered.
        lab.sh(first, "sleep 2")?;
        load(lab, 1 - first, drivers[1 - first])?;
        both_up(lab).with_context(|| format!("host {first} started first"))?;
        carries(lab)?;
        for host in [1 - first, first] {
            restart(lab, host, drivers[host])
                .with_context(|| format!("{} restarted on host {host}", drivers[host].name()))?;
        }
        for (host, driver) in drivers.into_iter().enumerate() {
            unload(lab, host, driver)?;
        }
    }
    Ok(())
}

fn carries(lab: &Lab) -> Result<()> {
    set_mtu(lab, 0, NetDriver::MTU)?;
    for size in [0, 56, 1472, 4030, 4042, 4043, 8126, 8127, 16384, 65480] {
        ping(lab, 0, &ipv4(0, 1), size, true)?;
    }
    ping(lab, 1, &ipv6(0, 0), 65460, true)?;
    both_ways(lab, 32)?;
    set_mtu(lab, 0, 1500)?;
    both_ways(lab, 8)?;
    set_mtu(lab, 0, 9000)
}

fn restart(lab: &Lab, host: usize, driver: NetDriver) -> Result<()> {
    // thunderbolt_net 7.3 warns when it goes while it polls its ring.
    lab.sh(host, "sleep 0.2")?;
    unload(lab, host, driver)?;
    load(lab, host, driver)?;
    both_up(lab)?;
    wait_ping(lab, 0, &ipv4(0, 1), 10)?;
    both_ways(lab, 8)
}

fn coexist(context: &Context) -> Result<()> {
    only_ours(context, "second driver beside it")?;
    let lab = context.lab()?;
    for (first, second) in [(NetDriver::Stock, NetDriver::Ours), (NetDriver::Ours, NetDriver::Stock)] {
        for host in 0..2 {
            load(lab, host, first)?;
        }
        both_up(lab)?;
        let before = [lab.netdev(0, 0)?, lab.netdev(1, 0)?];
        let wanted = if first == NetDriver::Stock {
            "thunderbolt"
        } else {
            "usb4net"
        };
        for netdev in &before {
            ensure!(
                netdev.starts_with(wanted),
                "{} made a network device {netdev}",
                first.name()
            );
        }
        lab.ok(0, &["dmesg", "-C"])?;
        // Ours loads beside thunderbolt_net, for its verbs. thunderbolt_net does not load where the service is taken.
        let mut loaded = Vec::new();
        for host in 0..2 {
            let word = lab.run(host, &["/usb4lab/net-driver", second.name()], super::MINUTE)?;
            ensure!(
                word.status == 0 || second == NetDriver::Stock,
                "ours does not load beside thunderbolt_net: {}",
                word.errors()
            );
            if word.status == 0 {
                loaded.push(host);
            }
        }
        lab.sh(0, "sleep 2")?;
        if second == NetDriver::Ours {
            let said = lab.ok(0, &["dmesg"])?;
            ensure!(
                said.contains("thunderbolt_net") || said.contains("thunderbolt-net"),
                "nothing in the kernel log says that thunderbolt_net holds the cable:\n{said}"
            );
        }
        carries_on(lab, &before)?;
        // A cable that comes later goes to the one that was there first, and one driver only takes it.
        lab.cable(0, "pull", None)?;
        for host in 0..2 {
            super::wait_out(lab, host, 0)?;
        }
        lab.cable(0, "plug", None)?;
        both_up(lab)?;
        carries_on(lab, &before)?;
        for host in loaded {
            unload(lab, host, second)?;
        }
        carries_on(lab, &before)?;
        let traffic = load_traffic(lab, 20)?;
        stop_traffic(lab, &[0, 1], traffic)?;
        lab.sh(0, "sleep 0.2")?;
        for host in 0..2 {
            unload(lab, host, first)?;
        }
    }
    Ok(())
}

/// The network devices are those of `before`, alone, and carry.
fn carries_on(lab: &Lab, before: &[String; 2]) -> Result<()> {
    for (host, netdev) in before.iter().enumerate() {
        ensure!(
            lab.netdev(host, 0)? == *netdev,
            "host {host}: the cable went to another driver"
        );
        let all = lab.sh(host, "ls /sys/class/net | grep -c -e thunderbolt -e usb4net")?;
        ensure!(all.trim() == "1", "host {host} has {} network devices", all.trim());
    }
    wait_ping(lab, 0, &ipv4(0, 1), 10)
}
