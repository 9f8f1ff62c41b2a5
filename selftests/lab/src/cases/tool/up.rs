// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma up` on each host and nothing else, RDMA over what it made, and `down`, which leaves nothing.

use super::healthy;
use crate::cases::data::bandwidth;
use crate::cases::{about_net, own, pair, Case, Context, NetLab, Role, Way};
use crate::lab::Lab;
use crate::log::Mark;
use crate::runner::kernel_trouble;
use crate::spec::{LabSpec, NetDriver, Profile, Topology};
use crate::verbs::{Device, Pair};
use anyhow::{bail, ensure, Context as _, Result};
use serde_json::Value;
use std::time::Duration;

pub const CASES: &[Case] = &[
    about_net(
        "tool_up_one_cable",
        "usb4rdma up on two hosts, one cable: RDMA works; twice changes nothing; down leaves nothing; --dry-run prints it",
        bare(1),
        one_cable,
    ),
    about_net(
        "tool_up_two_cables",
        "the same with two cables, which are bonded; --no-bond gives each a device",
        bare(2),
        two_cables,
    ),
    about_net(
        "tool_up_four_cables",
        "the same with four cables",
        bare(4),
        four_cables,
    ),
    own(
        "tool_up_three_hosts",
        "the same with three hosts, each with a cable to the two others",
        three_hosts,
    ),
    pair(
        "tool_up_stock",
        "up takes the cables from thunderbolt_net when told to; down gives them back as they were",
        stock,
    ),
];

const MINUTE: Duration = Duration::from_secs(60);

/// Two hosts without a driver for their cables.
pub const fn bare(cables: usize) -> NetLab {
    NetLab {
        profile: Profile::Strix,
        cables,
        roles: [Role::None, Role::None],
        hops: None,
        way: Way::TwoRings,
    }
}

/// What a host's user sees of links, addresses, RDMA devices, modules and files, but for MAC addresses that the kernel
/// makes up anew each time.
fn seen(lab: &Lab, host: usize) -> Result<String> {
    let addresses = "ip -br link | awk '{print $1, $2, $NF}' | sort; ip -o addr | awk '{print $2, $3, $4}' | sort; \
                     ip -o link | sed 's/.* mtu \\([0-9]*\\) .*/\\1/'; rdma link; cut -d' ' -f1 /proc/modules | sort; \
                     find /run /etc /tmp -type f | sort | xargs ls -l --time-style=full-iso";
    lab.sh(host, addresses)
}

/// `usb4rdma up` with these words, on all hosts at once; what each says.
pub fn up(lab: &Lab, words: &str) -> Result<Vec<String>> {
    let running: Vec<_> = (0..lab.spec.hosts)
        .map(|host| lab.start(host, &format!("usb4rdma up {words}"), MINUTE))
        .collect();
    running.into_iter().map(|running| running.ok()).collect()
}

pub fn down(lab: &Lab) -> Result<()> {
    for host in 0..lab.spec.hosts {
        lab.ok(host, &["usb4rdma", "down"])?;
    }
    Ok(())
}

/// Waits until each host sees cables to `peers` others.
pub fn discovered(lab: &Lab, peers: usize) -> Result<()> {
    for host in 0..lab.spec.hosts {
        lab.sh(
            host,
            &format!(
                "n=0; until [ $(ls -d /sys/bus/thunderbolt/devices/*-*[13579] 2>/dev/null | wc -l) = {peers} ]; do n=$((n+1)); \
                 [ $n -lt 400 ] || exit 1; sleep 0.05; done"
            ),
        )
        .with_context(|| format!("host {host} does not see {peers} cables"))?;
    }
    Ok(())
}

/// The whole story, with whatever cables the lab has.
fn story(lab: &Lab, words: &str, judge: impl Fn(usize, &Value) -> Result<()>) -> Result<()> {
    discovered(lab, lab.spec.ends_of(0).len())?;
    let before: Vec<String> = (0..lab.spec.hosts).map(|host| seen(lab, host)).collect::<Result<_>>()?;
    up(lab, words)?;
    let mut statuses = Vec::new();
    for host in 0..lab.spec.hosts {
        let status = healthy(lab, host)?;
        judge(host, &status)?;
        statuses.push(status);
    }
    for pair in pairs(&statuses)? {
        let rate = bandwidth(lab, &pair, "ib_write_bw", 65536, 300, MINUTE)
            .with_context(|| format!("{} to {}", pair.client.host, pair.server.host))?;
        eprintln!(
            "host {} to {} by {} over {}: {rate:.0} MiB/s",
            pair.client.host, pair.server.host, pair.client.name, pair.client.netdev
        );
    }
    let between: Vec<String> = (0..lab.spec.hosts).map(|host| seen(lab, host)).collect::<Result<_>>()?;
    for (host, said) in up(lab, words)?.iter().enumerate() {
        ensure!(
            said.starts_with("everything is up already\n"),
            "host {host} the second time: {said}"
        );
        same(host, "a second up", &between[host], &seen(lab, host)?)?;
    }
    down(lab)?;
    for (host, before) in before.iter().enumerate() {
        same(host, "down", before, &seen(lab, host)?)?;
    }
    Ok(())
}

fn same(host: usize, what: &str, before: &str, after: &str) -> Result<()> {
    ensure!(
        before == after,
        "host {host}: {what} changed what there is\nbefore:\n{before}\nafter:\n{after}"
    );
    Ok(())
}

/// The RDMA devices of both hosts of each pair, from what `status` says of the lower one's peers.
pub fn pairs(statuses: &[Value]) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for (host, status) in statuses.iter().enumerate() {
        for peer in status["peers"].as_array().into_iter().flatten() {
            let other = statuses
                .iter()
                .position(|status| status["host"] == peer["name"])
                .context("a strange peer")?;
            if other < host {
                continue;
            }
            let address = peer["link"]["peer_addresses"][0]
                .as_str()
                .context("no address of the peer")?;
            let far = statuses[other]["peers"].as_array().into_iter().flatten();
            let far = far.clone().find(|far| {
                let own = far["link"]["addresses"][0].as_str().unwrap_or_default();
                own.split('/').next() == Some(address)
            });
            pairs.push(Pair {
                client: device(host, peer)?,
                server: device(other, far.with_context(|| format!("no host has {address}"))?)?,
            });
        }
    }
    ensure!(!pairs.is_empty(), "no pairs in {statuses:?}");
    Ok(pairs)
}

fn device(host: usize, peer: &Value) -> Result<Device> {
    let text = |value: &Value| {
        value
            .as_str()
            .map(String::from)
            .with_context(|| format!("host {host}: {peer}"))
    };
    let address = text(&peer["link"]["addresses"][0])?;
    let ipv4 = address.split('/').next().unwrap_or_default().to_string();
    let gids = peer["rdma"]["gids"].as_array().into_iter().flatten();
    let gid = gids
        .clone()
        .find(|gid| gid["address"] == ipv4.as_str())
        .context("no GID of IPv4")?;
    Ok(Device {
        host,
        name: text(&peer["rdma"]["device"])?,
        netdev: text(&peer["link"]["netdev"])?,
        cable: 0,
        gid: gid["index"].as_u64().context("index")? as u32,
        gid6: 0,
        ipv4,
    })
}

/// Fails unless the host has one peer over a bond of so many cables, none for one.
fn one_peer(status: &Value, cables: usize) -> Result<()> {
    let peers = status["peers"].as_array().context("peers")?;
    ensure!(peers.len() == 1, "{status}");
    ensure!(
        peers[0]["cables"].as_array().is_some_and(|c| c.len() == cables),
        "{status}"
    );
    let bond = peers[0]["link"]["bond_mode"].is_string();
    ensure!(bond == (cables > 1), "{cables} cables: {}", peers[0]["link"]);
    Ok(())
}

fn one_cable(context: &Context) -> Result<()> {
    super::only_ours(context)?;
    let lab = context.lab()?;
    story(lab, "", |_, status| one_peer(status, 1))?;
    by_hand(lab)
}

/// What `--dry-run` prints on one host, typed in, goes with `up` on the other.
fn by_hand(lab: &Lab) -> Result<()> {
    let upping = lab.start(0, "usb4rdma up", MINUTE);
    let printed = lab.ok(1, &["usb4rdma", "up", "--dry-run"])?;
    ensure!(printed.contains("modprobe usb4_rdma\n"), "{printed}");
    lab.sh(1, "modprobe usb4_rdma; n=0; until [ -e /sys/class/net/usb4net0 ]; do n=$((n+1)); [ $n -lt 200 ] || exit 1; sleep 0.05; done")?;
    lab.sh(1, &printed)?;
    upping.ok()?;
    for host in 0..2 {
        super::until(lab, host, &[])?;
    }
    lab.ok(0, &["usb4rdma", "down"])?;
    lab.sh(1, "rdma link del usb4r0; rmmod usb4_rdma").map(|_| ())
}

fn two_cables(context: &Context) -> Result<()> {
    super::only_ours(context)?;
    let lab = context.lab()?;
    story(lab, "", |_, status| one_peer(status, 2))?;
    story(lab, "--no-bond", |host, status| {
        let peers = status["peers"].as_array().context("peers")?;
        let all_plain = peers.iter().all(|peer| peer["link"]["bond_mode"].is_null());
        ensure!(peers.len() == 2 && all_plain, "host {host} without a bond: {status}");
        Ok(())
    })
}

fn four_cables(context: &Context) -> Result<()> {
    super::only_ours(context)?;
    story(context.lab()?, "", |_, status| one_peer(status, 4))
}

fn three_hosts(context: &Context) -> Result<()> {
    super::only_ours(context)?;
    let spec = LabSpec {
        kernel: context.kernel,
        seed: context.seed,
        net: vec![NetDriver::None; 3],
        ..LabSpec::wired(Profile::Strix, Topology::Mesh, 3, 1)?
    };
    let lab = Lab::up(&format!("test-three-{}", std::process::id()), spec)?;
    story(&lab, "", |host, status| {
        let names: Vec<&str> = status["peers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|p| p["name"].as_str())
            .collect();
        let others: Vec<String> = (0..3)
            .filter(|other| *other != host)
            .map(|other| format!("h{other}"))
            .collect();
        ensure!(names == others, "host {host} has the peers {names:?}");
        Ok(())
    })?;
    let logs: Vec<Mark> = (0..3).map(|host| Mark::start(&lab.console(host))).collect();
    if let Some(trouble) = kernel_trouble(&logs)? {
        bail!("a kernel complained:\n{trouble}");
    }
    lab.discard();
    Ok(())
}

fn stock(context: &Context) -> Result<()> {
    let lab = context.lab()?;
    let netdev = lab.netdev(0, 0)?;
    // With a module of ours beside it and a link over it, as README.md has it.
    for host in 0..2 {
        lab.sh(
            host,
            &format!("rdma link add over_stock type usb4 netdev {}", lab.netdev(host, 0)?),
        )?;
    }
    let before: Vec<String> = (0..2).map(|host| seen(lab, host)).collect::<Result<_>>()?;
    let refused = lab.run(0, &["usb4rdma", "up"], MINUTE)?;
    let said = refused.errors();
    ensure!(
        refused.status == 1 && said.contains(&netdev) && said.contains("`usb4rdma up --yes`"),
        "without --yes: status {}: {said}",
        refused.status
    );
    same(0, "a refusal", &before[0], &seen(lab, 0)?)?;
    // The doctor's word for it, and its command, on one host and then on the other.
    for host in 0..2 {
        let found = super::json(lab, host, "doctor")?;
        let finding = found["findings"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|f| f["code"] == "stock-driver");
        let fix = finding
            .and_then(|finding| finding["fix"].as_str())
            .context("no finding stock-driver")?;
        lab.sh(host, fix)?;
        let found = super::codes(&super::json(lab, 0, "doctor")?["findings"]);
        ensure!(
            found.contains(&"peer-without-module".into()) == (host == 0),
            "{found:?}"
        );
    }
    let mut statuses = Vec::new();
    for host in 0..2 {
        let status = healthy(lab, host)?;
        ensure!(status["peers"][0]["cables"][0]["wire"] == "native", "{status}");
        statuses.push(status);
    }
    let rate = bandwidth(lab, &pairs(&statuses)?[0], "ib_write_bw", 65536, 300, MINUTE)?;
    eprintln!("after the change of drivers: {rate:.0} MiB/s");
    down(lab)?;
    crate::cases::life::both_up(lab)?;
    for (host, before) in before.iter().enumerate() {
        same(host, "down", before, &seen(lab, host)?)?;
    }
    for host in 0..2 {
        lab.ok(host, &["rdma", "link", "del", "over_stock"])?;
    }
    Ok(())
}
