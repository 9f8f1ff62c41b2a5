// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The network driver under test, `--net ours` or `--net stock`: what the cases about it share.

pub mod bond;
pub mod data;
pub mod direct;
pub mod failing;
pub mod group;
pub mod last;
pub mod life;
pub mod peer;
pub mod port;
pub mod rings;
pub mod runs;
pub mod soak;
pub mod tools;

use super::{Context, NetLab, Role, Way};
use crate::lab::{Lab, Running};
use crate::runner;
use crate::spec::{ipv4, LabSpec, NetDriver, Profile};
use crate::tiers::still_checking;
use crate::{parse, verbs};
use anyhow::{bail, ensure, Context as _, Result};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// TCP port of the checksummed transfers.
const PORT: u16 = 7001;
const MINUTE: Duration = Duration::from_secs(60);

/// The driver under test on both hosts, one cable, two rings a router.
pub(super) const BOTH: NetLab = NetLab {
    profile: Profile::Strix,
    cables: 1,
    roles: [Role::Tested, Role::Tested],
    hops: None,
    way: Way::TwoRings,
};

/// A lab of the case's own, whose kernels are heard at the end.
pub(super) fn in_own(spec: LabSpec, name: &str, act: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    let lab = Lab::up(&format!("test-{name}-{}", std::process::id()), spec)?;
    let marks = lab.marks();
    let outcome = act(&lab);
    if let Some(trouble) = runner::kernel_trouble(&marks)? {
        bail!(
            "a kernel complained:\n{trouble}\n{}",
            outcome.err().map_or(String::new(), |e| format!("{e:#}"))
        );
    }
    outcome?;
    still_checking(&lab)?;
    lab.discard();
    Ok(())
}

/// Sets the MTU of a cable's network devices on both hosts.
fn set_mtu(lab: &Lab, cable: usize, mtu: u32) -> Result<()> {
    for host in 0..2 {
        let netdev = lab.netdev(host, cable)?;
        lab.ok(host, &["ip", "link", "set", &netdev, "mtu", &mtu.to_string()])?;
    }
    Ok(())
}

/// A checksummed transfer to the host that has `address`; what the sender reports. `mode` as stream.py has it.
fn transfer(lab: &Lab, from: usize, address: &str, mib: u32, mode: &str) -> Result<Value> {
    let to = 1 - from;
    let serving = lab.start(to, &format!("/usb4lab/stream.py serve {PORT}"), 2 * MINUTE);
    verbs::wait_listen(lab, to, PORT)?;
    let (port, mib) = (PORT.to_string(), mib.to_string());
    let sent = lab.run(
        from,
        &["/usb4lab/stream.py", "send", address, &port, &mib, mode],
        2 * MINUTE,
    )?;
    if sent.status != 0 {
        lab.run(to, &["pkill", "-KILL", "stream.py"], Duration::from_secs(20))?;
        let served = serving.wait()?;
        bail!(
            "the transfer of {mib} MiB to {address} by {mode} failed:\n{}{}{}{}",
            sent.text(),
            sent.errors(),
            served.text(),
            served.errors()
        );
    }
    serving.ok()?;
    Ok(serde_json::from_str(sent.text().trim())?)
}

/// A checksummed transfer each way.
fn both_ways(lab: &Lab, mib: u32) -> Result<()> {
    for from in 0..2 {
        transfer(lab, from, &ipv4(0, 1 - from), mib, "send")?;
    }
    Ok(())
}

/// Echo requests of `size` bytes, whole, none lost; without fragments if `whole`.
fn ping(lab: &Lab, from: usize, address: &str, size: u32, whole: bool) -> Result<()> {
    let size = size.to_string();
    let mut argv = vec!["ping", "-c", "3", "-i", "0.02", "-W", "3", "-s", &size];
    if whole {
        argv.extend(["-M", "do"]);
    }
    argv.push(address);
    lab.ok(from, &argv).map(|_| ())
}

/// Waits until echo requests are answered again.
fn wait_ping(lab: &Lab, from: usize, address: &str, seconds: u32) -> Result<()> {
    lab.wait_ping(from, address, seconds)
}

/// Counters of a host's network device.
fn counters(lab: &Lab, host: usize, cable: usize) -> Result<BTreeMap<String, u64>> {
    let netdev = lab.netdev(host, cable)?;
    Ok(parse::ethtool_counters(&lab.ok(host, &["ethtool", "-S", &netdev])?))
}

/// Loads a network driver, by the script that the guest's first program uses.
fn load(lab: &Lab, host: usize, driver: NetDriver) -> Result<()> {
    lab.ok(host, &["/usb4lab/net-driver", driver.name()]).map(|_| ())
}

/// Removes a network driver.
fn unload(lab: &Lab, host: usize, driver: NetDriver) -> Result<()> {
    let Some(module) = driver.module() else {
        return Ok(());
    };
    lab.ok(host, &["rmmod", module])
        .map(|_| ())
        .with_context(|| format!("host {host}: {module} does not go"))
}

/// Waits until a host has no network device of a cable.
fn wait_no_netdev(lab: &Lab, host: usize, xdomain: &str) -> Result<()> {
    lab.sh(
        host,
        &format!("n=0; while /usb4lab/netdev {xdomain} > /dev/null 2>&1; do n=$((n+1)); [ $n -lt 400 ] || exit 1; sleep 0.05; done"),
    )
    .map(|_| ())
    .with_context(|| format!("host {host} keeps the network device of {xdomain}"))
}

/// Waits until a host has noticed that a cable is out. thunderbolt_net's network device is gone then; ours is there,
/// without carrier.
fn wait_out(lab: &Lab, host: usize, cable: usize) -> Result<()> {
    let xdomain = xdomain(lab, host, cable)?;
    let told = format!(
        "n=0; while [ -e /sys/bus/thunderbolt/devices/{xdomain} ]; do n=$((n+1)); [ $n -lt 400 ] || {{ echo it does not notice; exit 1; }}; sleep 0.05; done; \
         d=$(/usb4lab/netdev {xdomain} 2>/dev/null) || exit 0; \
         case $(readlink /sys/class/net/$d/device/driver /sys/class/net/$d/device) in *thunderbolt-net) echo $d stays; exit 1;; esac; \
         [ \"$(cat /sys/class/net/$d/carrier 2>/dev/null)\" != 1 ] || {{ echo $d has carrier; exit 1; }}"
    );
    lab.sh(host, &told)
        .map(|_| ())
        .with_context(|| format!("host {host}, whose cable {cable} is out"))
}

/// The name under which a host knows the peer at the other end of a cable.
fn xdomain(lab: &Lab, host: usize, cable: usize) -> Result<String> {
    let ends = lab.spec.ends_of(host);
    let end = ends.iter().find(|(c, _)| *c == cable).map(|(_, end)| end.xdomain());
    end.with_context(|| format!("cable {cable} does not reach host {host}"))
}

/// TCP from host 0 to host 1 that goes on for `seconds`, flowing when this returns.
fn load_traffic(lab: &Lab, seconds: u32) -> Result<(Running, Running)> {
    let limit = Duration::from_secs(u64::from(seconds) + 60);
    let serving = lab.start(1, "iperf3 -s -1", limit);
    verbs::wait_listen(lab, 1, 5201)?;
    let calling = lab.start(0, &format!("iperf3 -t {seconds} -c {}", ipv4(0, 1)), limit);
    let counter = format!("/sys/class/net/{}/statistics/tx_bytes", lab.netdev(0, 0)?);
    lab.sh(
        0,
        &format!(
            "a=$(cat {counter}); n=0; until [ $(($(cat {counter}) - a)) -gt 4000000 ]; do n=$((n+1)); [ $n -lt 200 ] || exit 1; sleep 0.05; done"
        ),
    )
    .context("no traffic started")?;
    Ok((serving, calling))
}

/// Ends what `load_traffic` started, on the hosts that live.
fn stop_traffic(lab: &Lab, hosts: &[usize], traffic: (Running, Running)) -> Result<()> {
    for host in hosts {
        lab.run(*host, &["pkill", "-KILL", "iperf3"], Duration::from_secs(30))?;
    }
    let _ = (traffic.0.wait(), traffic.1.wait());
    Ok(())
}

/// The routers' paths in use: lines of the ports' path tables in debugfs but those of hop 0.
fn paths_in_use(lab: &Lab, host: usize) -> Result<Vec<String>> {
    let text = lab.sh(
        host,
        "cd /sys/kernel/debug/thunderbolt && for f in */port*/path; do [ -e $f ] && sed \"s|^|$f |\" $f; done; true",
    )?;
    let in_use = |line: &&str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // FILE HOP OFFSET IN_HOP_ID VALUE; the first word of an entry has the valid bit 31.
        matches!(words.as_slice(), [_, hop, offset, .., value]
            if *hop != "0" && *offset == "0" && value.len() == 10 && value.as_bytes()[2] >= b'8')
    };
    Ok(text.lines().filter(in_use).map(String::from).collect())
}

/// The driver under test must be ours for what stock does not offer.
pub(super) fn only_ours(context: &Context, what: &str) -> Result<()> {
    if context.net != NetDriver::Ours {
        return Err(super::Skip(format!("thunderbolt_net has no {what}")).into());
    }
    Ok(())
}

/// Fails unless a counter of `before` has grown.
fn grown(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>, name: &str) -> Result<u64> {
    let of = |counters: &BTreeMap<String, u64>| {
        counters.get(name).copied().with_context(|| {
            format!(
                "no counter {name}; there are: {}",
                counters.keys().cloned().collect::<Vec<_>>().join(" ")
            )
        })
    };
    let (before, after) = (of(before)?, of(after)?);
    ensure!(after >= before, "{name} went from {before} to {after}");
    Ok(after - before)
}
