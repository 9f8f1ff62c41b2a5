// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A host under systemd with the tool installed: after a power cut RDMA is up by itself, with systemd-networkd or
//! NetworkManager beside it.

use super::install::{make, pack};
use super::until;
use crate::cases::data::bandwidth;
use crate::cases::{long, own, Case, Context, Skip};
use crate::lab::{Lab, USUAL};
use crate::log::Mark;
use crate::paths;
use crate::runner::kernel_trouble;
use crate::spec::{LabSpec, NetDriver, Profile, Root, Topology};
use anyhow::{bail, ensure, Context as _, Result};
use std::time::Duration;

// Four boots, two of them of systemd: 50 s.
pub const CASES: &[Case] = &[
    long(own(
        "tool_boot",
        "make install on a host under systemd: after power cuts and plugs RDMA is up by itself, systemd-networkd beside \
         it",
        |context| boot(context, &NETWORKD),
    )),
    long(own(
        "tool_boot_nm",
        "the same with NetworkManager beside it, of the workloads' root",
        |context| boot(context, &NETWORK_MANAGER),
    )),
];

/// What sets up network devices by itself.
struct Manager {
    root: Root,
    services: &'static str,
    /// A file of its own by which it takes every device that it manages.
    greedy: (&'static str, &'static str),
    /// Prints `active`, and how it sees our device.
    asked: &'static str,
    /// Ends well when it has taken a device that it manages: then it would have taken ours.
    takes: &'static str,
}

const NETWORKD: Manager = Manager {
    root: Root::Lab,
    services: "systemd-networkd.service",
    greedy: ("/etc/systemd/network/20-greedy.network", GREEDY),
    asked: "systemctl is-active systemd-networkd; networkctl --no-pager --no-legend list usb4net0",
    takes: "ip link add other type bond && ip link set other up; n=0; \
            until ip -br addr show other | grep -q 192.0.2.9; do n=$((n+1)); [ $n -lt 200 ] || exit 1; sleep 0.05; done; \
            ip link del other",
};

const NETWORK_MANAGER: Manager = Manager {
    root: Root::Workloads,
    services: "dbus.socket dbus.service NetworkManager.service",
    greedy: (
        "/etc/NetworkManager/system-connections/greedy.nmconnection",
        GREEDY_CONNECTION,
    ),
    asked: "systemctl is-active NetworkManager; nmcli -t -f DEVICE,STATE device | grep usb4net0",
    takes:
        "ip link add other type veth peer name rehto && ip link set rehto up && nmcli device set other managed yes; \
            n=0; until ip -br addr show other | grep -q 192.0.2.9; do n=$((n+1)); [ $n -lt 200 ] || exit 1; sleep 0.1; \
            done; ip link del other",
};

/// A connection for every Ethernet device that NetworkManager manages.
const GREEDY_CONNECTION: &str = "[connection]\nid=greedy\ntype=ethernet\nautoconnect=true\n[ipv4]\nmethod=manual\n\
                                 address1=192.0.2.9/24\n[ipv6]\nmethod=disabled\n";
/// A network that systemd-networkd would give to every device that it manages; it takes away what it did not give.
const GREEDY: &str = "[Match]\nName=*\n[Network]\nAddress=192.0.2.9/24\nLinkLocalAddressing=no\n\
                      ConfigureWithoutCarrier=yes\n";
const MINUTE: Duration = Duration::from_secs(60);

fn boot(context: &Context, manager: &Manager) -> Result<()> {
    super::only_ours(context)?;
    if let Err(why) = paths::root(manager.root) {
        return Err(Skip(format!("{why:#}")).into());
    }
    let spec = LabSpec {
        kernel: context.kernel,
        seed: context.seed,
        net: vec![NetDriver::None; 2],
        root: manager.root,
        ..LabSpec::wired(Profile::Strix, Topology::Pair, 2, 1)?
    };
    let lab = Lab::up(&format!("test-boot-{}", std::process::id()), spec)?;
    let tree = lab.state.join("installed");
    make("install", &tree)?;
    lab.put(1, "/run/installed.tar.gz", &pack(&tree)?, 0o644)?;
    lab.sh(
        1,
        &format!(
            "rm /usr/bin/usb4rdma; tar -C / --no-same-owner -xzf /run/installed.tar.gz; echo h1 > /etc/hostname; \
             mkdir -p $(dirname {}); echo {} > /usb4lab/x/systemd; sync",
            manager.greedy.0, manager.services
        ),
    )?;
    // NetworkManager reads no connection that others may read.
    lab.put(1, manager.greedy.0, manager.greedy.1.as_bytes(), 0o600)?;
    lab.sh(1, "chmod 644 /etc/systemd/network/* 2>/dev/null; sync")?;
    let there = lab.start(0, "usb4rdma up --wait 90", 2 * MINUTE);
    power_cut(&lab)?;
    there.ok()?;
    well(&lab, manager)?;
    // A second one, and the other host is not touched.
    power_cut(&lab)?;
    well(&lab, manager)?;
    // A plug.
    lab.cable(0, "pull", None)?;
    until(&lab, 1, &["no-cable"])?;
    lab.cable(0, "plug", None)?;
    well(&lab, manager)?;
    lab.ok(1, &["usb4rdma", "down"])?;
    lab.ok(0, &["usb4rdma", "down"])?;
    let logs: Vec<Mark> = (0..2).map(|host| Mark::start(&lab.console(host))).collect();
    if let Some(trouble) = kernel_trouble(&logs)? {
        bail!("a kernel complained:\n{trouble}");
    }
    lab.discard();
    Ok(())
}

fn power_cut(lab: &Lab) -> Result<()> {
    lab.kill(1)?;
    lab.boot(1)
}

/// RDMA works between the two, and the manager has left it alone.
fn well(lab: &Lab, manager: &Manager) -> Result<()> {
    for host in [1, 0] {
        until(lab, host, &[])?;
    }
    let seen = lab.sh(1, manager.asked)?;
    ensure!(seen.starts_with("active\n") && seen.contains("unmanaged"), "{seen}");
    // It is greedy indeed, of devices that are not ours.
    lab.sh(1, manager.takes)
        .with_context(|| format!("{} does not take what is not ours", manager.services))?;
    let ours = lab.ok(1, &["ip", "-br", "addr", "show", "usb4net0"])?;
    ensure!(ours.contains("10.85.") && !ours.contains("192.0.2.9"), "{ours}");
    let statuses = [super::healthy(lab, 0)?, super::healthy(lab, 1)?];
    for pair in super::up::pairs(&statuses)? {
        let rate = bandwidth(lab, &pair, "ib_write_bw", 65536, 300, USUAL)?;
        eprintln!("{rate:.0} MiB/s");
    }
    Ok(())
}
