// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The network device of a cable that is out: it stays, with all that was made of it, and the next cable takes it over.

use super::runs::{counter, wait_flow, FLOWS};
use super::{load, only_ours, unload, wait_no_netdev, wait_out, wait_ping, xdomain, NetLab, BOTH, MINUTE};
use crate::cases::life::both_up;
use crate::cases::{about_net, long, Case, Context};
use crate::lab::{Lab, Running};
use crate::memory::Memory;
use crate::spec::{ipv4, NetDriver};
use crate::verbs::{self, Device, Pair};
use anyhow::{ensure, Context as _, Result};
use std::time::Duration;

pub const CASES: &[Case] = &[
    about_net(
        "port_rounds",
        "cable pulled, peer without power, modules reloaded: netdev, MAC, addresses, bond and RDMA links are the same, 3 rounds",
        TWO,
        |context| rounds(context, 3),
    ),
    long(about_net(
        "port_rounds_long",
        "50 rounds of port_rounds, and no memory stays behind",
        TWO,
        |context| rounds(context, 50),
    )),
    about_net(
        "port_qp",
        "queue pairs outlive a cable that is out for a second, every byte compared, and end by their retries if it is longer",
        BOTH,
        queue_pairs,
    ),
    about_net(
        "port_let_go",
        "ip link del, rmmod and the end of the host interface take the netdev of a cable that is out; a new one has its name",
        BOTH,
        goes,
    ),
    about_net(
        "port_other_peer",
        "the peer changes its driver while the cable is out, and back: the netdev serves either",
        BOTH,
        other_peer,
    ),
];

/// Cable 0 has addresses and an RDMA link, cable 1 is in a bond that has both. Not an active-backup bond: when its
/// active cable changes the core lists the GIDs of its RDMA link anew, whoever made that, and an index may become
/// another.
const TWO: NetLab = NetLab { cables: 2, ..BOTH };
/// Rounds that fill caches before the count of memory begins.
const WARM: usize = 3;

/// Gives a host's netdevs what they are to keep. May be done again.
fn set_up(lab: &Lab, host: usize) -> Result<()> {
    let [plain, bonded] = [lab.netdev(host, 0)?, lab.netdev(host, 1)?];
    let number = host + 1;
    lab.sh(
        host,
        &format!(
            "set -e
             ip link set {plain} alias 'the first'
             ip addr replace 10.111.0.{number}/24 dev {plain}
             ethtool -G {plain} rx 256 tx 128
             ethtool -C {plain} adaptive-rx off rx-usecs 20
             [ -e /sys/class/net/bond0 ] || ip link add bond0 type bond mode balance-xor miimon 20
             if ! [ -e /sys/class/net/{bonded}/master ]; then
                 ip addr flush dev {bonded}; ip link set {bonded} down; ip link set {bonded} master bond0
             fi
             ip addr replace 10.110.0.{number}/24 dev bond0; ip link set bond0 mtu 9000 up
             [ -e /sys/class/infiniband/plain ] || rdma link add plain type usb4 netdev {plain}
             [ -e /sys/class/infiniband/bonded ] || rdma link add bonded type usb4 netdev bond0"
        ),
    )
    .map(|_| ())
    .with_context(|| format!("setting host {host} up"))
}

/// Undoes [`set_up`].
fn tear_down(lab: &Lab) -> Result<()> {
    for host in 0..2 {
        lab.sh(
            host,
            "rdma link del plain; rdma link del bonded; ip link del bond0; true",
        )?;
        let plain = lab.netdev(host, 0)?;
        lab.sh(
            host,
            &format!("ip addr del 10.111.0.{}/24 dev {plain}; ethtool -G {plain} rx 512 tx 512; ethtool -C {plain} adaptive-rx on", host + 1),
        )?;
    }
    both_up(lab)
}

/// Everything about a host's netdevs and RDMA links that a cable has no part in, as text.
fn state(lab: &Lab, host: usize) -> Result<String> {
    let names = [xdomain(lab, host, 0)?, xdomain(lab, host, 1)?];
    lab.sh(
        host,
        &format!(
            "for cable in {}; do
                 d=$(/usb4lab/netdev $cable) || exit 1
                 echo \"$cable $d $(cd /sys/class/net/$d && cat ifindex address mtu ifalias tx_queue_len flags | tr '\\n' ' ') $(readlink /sys/class/net/$d/master)\"
                 ethtool -g $d; ethtool -c $d | grep -i -e adaptive -e rx-usecs:
             done
             ip -br addr | sed 's/  *[A-Z]* */ /'
             rdma link | sed 's/state.*netdev/netdev/'
             for d in /sys/class/infiniband/*; do
                 echo \"$d $(cat $d/node_guid)\"
                 for n in 0 1 2 3 4 5 6 7; do
                     echo \"$n $(cat $d/ports/1/gids/$n $d/ports/1/gid_attrs/ndevs/$n $d/ports/1/gid_attrs/types/$n 2>/dev/null | tr '\\n' ' ')\"
                 done
             done",
            names.join(" ")
        ),
    )
}

/// Name and Ethernet address of each cable's netdev: what a host has again after its module was reloaded, or it booted.
fn identity(lab: &Lab, host: usize) -> Result<Vec<String>> {
    (0..2)
        .map(|cable| {
            let netdev = lab.netdev(host, cable)?;
            let mac = lab.ok(host, &["cat", &format!("/sys/class/net/{netdev}/address")])?;
            Ok(format!("{netdev} {}", mac.trim()))
        })
        .collect()
}

fn same(what: &str, host: usize, before: &str, after: &str) -> Result<()> {
    let only_in = |text: &str, other: &str| -> String {
        let other: Vec<&str> = other.lines().collect();
        let lines = text.lines().filter(|line| !other.contains(line));
        lines.map(|line| format!("\n{line}")).collect()
    };
    ensure!(
        before == after,
        "{what}: on host {host} it was{}\nand is{}",
        only_in(before, after),
        only_in(after, before)
    );
    Ok(())
}

/// What a host shows of a cable that is out.
fn shows_out(lab: &Lab, host: usize, cable: usize, device: &str) -> Result<()> {
    let netdev = lab.netdev(host, cable)?;
    let port = format!("/sys/class/infiniband/{device}/ports/1/state");
    let no = |what: &str| format!("{{ echo '{what}'; exit 1; }}");
    lab.sh(
        host,
        &format!(
            "n=0; until grep -q DOWN {port}; do n=$((n+1)); [ $n -lt 60 ] || {}; sleep 0.05; done
             rdma link show {device}/1 | grep -q 'state DOWN' || {}
             [ \"$(cat /sys/class/net/{netdev}/carrier)\" = 0 ] || {}
             ethtool {netdev} | grep -q 'Link detected: no' || {}
             ethtool {netdev} | grep -q 'Speed: Unknown' || {}
             ethtool -S {netdev} | grep -q 'cable_present: 0' || {}
             ethtool -t {netdev} > /dev/null 2>&1 && {}
             ethtool -i {netdev} | grep -q 'bus-info: {}$' || {}
             cat /sys/kernel/debug/usb4_rdma/{device}/qps > /dev/null || {}",
            no("the RDMA port is up"),
            no("rdma link says that the port is up"),
            no("carrier"),
            no("ethtool says that there is a link"),
            no("ethtool knows a speed"),
            no("a cable is counted"),
            no("the test is passed"),
            xdomain(lab, host, cable)?,
            no("no name of the cable"),
            no("no list of queue pairs"),
        ),
    )
    .map(|_| ())
    .with_context(|| format!("host {host}, whose cable {cable} is out"))
}

/// Waits until both cables carry, RDMA ports and all.
fn carries(lab: &Lab) -> Result<()> {
    for host in 0..2 {
        for (cable, device) in [(0, "plain"), (1, "bonded")] {
            let netdev = lab.netdev(host, cable)?;
            lab.sh(
                host,
                &format!(
                    "n=0; until [ \"$(cat /sys/class/net/{netdev}/carrier)\" = 1 ] && grep -q ACTIVE /sys/class/infiniband/{device}/ports/1/state; do n=$((n+1)); [ $n -lt 600 ] || exit 1; sleep 0.05; done"
                ),
            )
            .with_context(|| format!("host {host}: cable {cable} does not carry again"))?;
        }
    }
    wait_ping(lab, 0, "10.111.0.2", 10)?;
    wait_ping(lab, 0, "10.110.0.2", 10)
}

/// Pingpongs over both RDMA links, by GID indices that were looked up before.
fn talks(lab: &Lab, pairs: &[Pair; 2]) -> Result<()> {
    pairs
        .iter()
        .try_for_each(|pair| pair.pingpong(lab, "-c -n 50 -e", MINUTE).map(drop))
}

/// The devices over both links.
fn devices(lab: &Lab) -> Result<[Pair; 2]> {
    let device = |host: usize, name: &str, netdev: String, cable, ipv4: String, gid: &str| -> Result<Device> {
        let gid = format!("0000:0000:0000:0000:0000:ffff:0a{gid}:000{}", host + 1);
        Ok(Device {
            host,
            name: name.into(),
            netdev,
            cable,
            ipv4,
            gid: lab.ok(host, &["/usb4lab/gid", name, &gid])?.trim().parse()?,
            gid6: 0,
        })
    };
    let plain = |host| {
        device(
            host,
            "plain",
            lab.netdev(host, 0)?,
            0,
            format!("10.111.0.{}", host + 1),
            "6f",
        )
    };
    let bonded = |host| {
        device(
            host,
            "bonded",
            "bond0".into(),
            1,
            format!("10.110.0.{}", host + 1),
            "6e",
        )
    };
    Ok([
        Pair {
            client: plain(0)?,
            server: plain(1)?,
        },
        Pair {
            client: bonded(0)?,
            server: bonded(1)?,
        },
    ])
}

fn rounds(context: &Context, count: usize) -> Result<()> {
    only_ours(context, "netdev that outlives its cable")?;
    let lab = context.lab()?;
    let begun = (0..2)
        .try_for_each(|host| set_up(lab, host))
        .and_then(|()| carries(lab));
    let outcome = begun.and_then(|()| {
        // Closed TCP connections of the test programs would be counted for a minute.
        lab.sh(0, "echo 0 > /proc/sys/net/ipv4/tcp_max_tw_buckets")?;
        let mut before = None;
        for n in 0..count {
            if n == WARM {
                before = Some(Memory::of(lab, 0)?);
            }
            round(context, lab).with_context(|| format!("round {n}"))?;
        }
        before.map_or(Ok(()), |before| before.returns(lab, 0, count as i64 - 10))
    });
    tear_down(lab).and(outcome)
}

fn round(context: &Context, lab: &Lab) -> Result<()> {
    let pairs = devices(lab)?;
    let before = [state(lab, 0)?, state(lab, 1)?];
    let identities = [identity(lab, 0)?, identity(lab, 1)?];
    for cable in 0..2 {
        lab.cable(cable, "pull", None)?;
    }
    for (host, before) in before.iter().enumerate() {
        for (cable, device) in [(0, "plain"), (1, "bonded")] {
            wait_out(lab, host, cable)?;
            shows_out(lab, host, cable, device)?;
        }
        same("cables out", host, before, &state(lab, host)?)?;
    }
    for cable in 0..2 {
        lab.cable(cable, "plug", None)?;
    }
    carries(lab).context("cables plugged again")?;
    for (host, before) in before.iter().enumerate() {
        same("cables plugged again", host, before, &state(lab, host)?)?;
    }
    talks(lab, &pairs).context("cables plugged again")?;

    lab.kill(1)?;
    (0..2).try_for_each(|cable| wait_out(lab, 0, cable))?;
    same("the peer has no power", 0, &before[0], &state(lab, 0)?)?;
    lab.boot(1)?;
    came_back(lab, &[1], &before, &identities).context("the peer has booted")?;

    for hosts in [&[1][..], &[0], &[0, 1]] {
        let before = [state(lab, 0)?, state(lab, 1)?];
        for host in hosts {
            unload(lab, *host, context.net)?;
        }
        for host in hosts {
            load(lab, *host, context.net)?;
        }
        came_back(lab, hosts, &before, &identities).with_context(|| format!("module reloaded on hosts {hosts:?}"))?;
    }
    Ok(())
}

/// Sets hosts up that have lost everything, and looks that they are who they were, and that the others are as they
/// were.
fn came_back(lab: &Lab, lost: &[usize], before: &[String; 2], identities: &[Vec<String>; 2]) -> Result<()> {
    // Each waits for the other's carrier.
    match lost {
        [host] => lab.net_up(*host)?,
        _ => both_up(lab)?,
    }
    lost.iter().try_for_each(|host| set_up(lab, *host))?;
    carries(lab)?;
    for host in 0..2 {
        let (was, is) = (&identities[host], identity(lab, host)?);
        ensure!(*was == is, "host {host}: the netdevs were {was:?} and are {is:?}");
        if !lost.contains(&host) {
            same("a peer that came back", host, &before[host], &state(lab, host)?)?;
        }
    }
    talks(lab, &devices(lab)?)
}

/// Time that the cable is out, and how long the queue pairs' timeouts last: 8 tries of 4.3 s. The hosts need some
/// seconds to find each other, on a busy machine ten.
const OUT: Duration = Duration::from_secs(1);
const PATIENT: u32 = 20;
/// Timeouts that do not last so long: 8 tries of 16 ms.
const IMPATIENT: u32 = 12;
/// Seconds after the port is up within which a stream flows: a quarter of the patient timeout.
const SOON_S: u32 = 1;

fn queue_pairs(context: &Context) -> Result<()> {
    only_ours(context, "RDMA past the stack")?;
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let mut downs = 0;
    let out = || -> Result<()> {
        lab.cable(0, "pull", None)?;
        std::thread::sleep(OUT);
        lab.cable(0, "plug", None)
    };
    for program in ["ib_write_bw", "ib_read_bw", "ib_send_bw"] {
        let (serving, calling) = traffic(lab, &pair, program, &format!("-u {PATIENT} -D 20"))?;
        out()?;
        flows_soon(lab, &pair).context(program)?;
        let said = calling.wait()?;
        let served = serving.wait()?;
        ensure!(
            said.status == 0 && served.status == 0 && !said.text().contains("Failed status"),
            "{program} did not outlive a cable that was out for a second:\n{}{}{}{}",
            said.text(),
            said.errors(),
            served.text(),
            served.errors()
        );
        downs += 1;
    }
    // The programs of this scene have timeouts of 8.6 s, and compare every byte.
    let before = counter(lab, 0, &pair.client.name, "rcvd_pkts")?;
    let flows = || wait_flow(lab, &pair.client.name, before + FLOWS);
    let (client, server) = std::thread::scope(|scope| {
        let cable = scope.spawn(|| {
            // Without a cable they could not connect.
            flows()?;
            out()
        });
        let said = pair.scene_within(lab, "sizes", 5 * MINUTE)?;
        cable
            .join()
            .map_err(|_| anyhow::anyhow!("the cable's thread panicked"))??;
        anyhow::Ok(said)
    })?;
    downs += 1;
    let wrong = [&client["wrong"], &server["wrong"]];
    ensure!(
        wrong == [&serde_json::json!([]); 2],
        "client: {}, server: {}",
        wrong[0],
        wrong[1]
    );
    let counted = counter(lab, 0, &pair.client.name, "link_downed")?;
    ensure!(
        counted == downs,
        "the cable was out {downs} times, link_downed is {counted}"
    );

    let (serving, calling) = traffic(lab, &pair, "ib_write_bw", &format!("-u {IMPATIENT} -D 60"))?;
    lab.cable(0, "pull", None)?;
    let said = calling.wait()?;
    lab.run(1, &["pkill", "-KILL", "ib_write_bw"], Duration::from_secs(20))?;
    let _ = serving.wait();
    ensure!(
        format!("{}{}", said.text(), said.errors()).contains("Failed status 12"),
        "a queue pair whose cable was out did not end by its retries: {}{}",
        said.text(),
        said.errors()
    );
    wait_out(lab, 0, 0)?;
    lab.cable(0, "plug", None)?;
    wait_ping(lab, 0, &ipv4(0, 1), 20)?;
    pair.pingpong(lab, "-c -n 50 -e", MINUTE)?;
    pair.delete(lab)
}

/// Insists that a stream flows soon after the port is up again, long before its timer could have come.
fn flows_soon(lab: &Lab, pair: &Pair) -> Result<()> {
    let device = &pair.client.name;
    let flows = format!(
        "cd /sys/class/infiniband/{device}/ports/1; n=0; until grep -q ACTIVE state; do n=$((n+1)); [ $n -lt 600 ] || exit 1; \
         sleep 0.05; done; read a < hw_counters/rcvd_pkts; sleep {SOON_S}; read b < hw_counters/rcvd_pkts; echo $((b-a))"
    );
    let came = lab.sh(0, &flows)?;
    ensure!(
        came.trim().parse::<u64>()? > 10,
        "{} packets came in the {SOON_S} s after the port was up",
        came.trim()
    );
    Ok(())
}

/// A stream of 64 KiB that flows when this returns.
fn traffic(lab: &Lab, pair: &Pair, program: &str, arguments: &str) -> Result<(Running, Running)> {
    let line = |device: &Device| format!("{program} -d {} -x {} -F -s 65536 {arguments}", device.name, device.gid);
    let before = counter(lab, 0, &pair.client.name, "rcvd_pkts")?;
    let serving = lab.start(1, &line(&pair.server), 2 * MINUTE);
    verbs::wait_listen(lab, 1, verbs::port())?;
    let calling = lab.start(0, &format!("{} {}", line(&pair.client), pair.server.ipv4), 2 * MINUTE);
    if let Err(never) = wait_flow(lab, &pair.client.name, before + FLOWS) {
        let said = calling.wait()?;
        return Err(never.context(format!("{}{}", said.text(), said.errors())));
    }
    Ok((serving, calling))
}

/// Lets go of a netdev whose cable is out.
pub(super) fn let_go(lab: &Lab, host: usize, netdev: &str) -> Result<()> {
    // A moment after the cable's end.
    lab.sh(
        host,
        &format!(
            "n=0; until ip link del {netdev}; do n=$((n+1)); [ $n -lt 40 ] || exit 1; sleep 0.05; done; \
             [ ! -e /sys/class/net/{netdev} ]"
        ),
    )
    .map(|_| ())
    .with_context(|| format!("host {host}: ip link del {netdev}"))
}

fn goes(context: &Context) -> Result<()> {
    only_ours(context, "netdev that outlives its cable")?;
    let lab = context.lab()?;
    let cable = xdomain(lab, 0, 0)?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let netdev = &pair.client.netdev;
    let mac = || lab.ok(0, &["cat", &format!("/sys/class/net/{netdev}/address")]);
    let was = mac()?;
    let pull = || lab.cable(0, "pull", None).and_then(|()| wait_out(lab, 0, 0));
    let works = || -> Result<()> {
        lab.cable(0, "plug", None)?;
        both_up(lab)?;
        ensure!(lab.netdev(0, 0)? == *netdev && mac()? == was, "another netdev came");
        wait_ping(lab, 0, &ipv4(0, 1), 20)
    };
    let refused = lab.run(0, &["ip", "link", "del", netdev], MINUTE)?;
    ensure!(
        refused.status != 0 && refused.errors().contains("Operation not supported"),
        "ip link del with a cable in: status {}, {}",
        refused.status,
        refused.errors()
    );
    pair.pingpong(lab, "-c -n 50 -e", MINUTE)?;
    // Let go of.
    pull()?;
    let_go(lab, 0, netdev)?;
    let links = lab.ok(0, &["rdma", "link"])?;
    ensure!(
        !links.contains(&pair.client.name),
        "the RDMA link outlived its netdev: {links}"
    );
    works().context("after ip link del")?;
    // Over and over, while cables come and go: it is let go of, or not.
    let stop = "/run/let-go.stop";
    lab.sh(0, &format!("rm -f {stop}"))?;
    let line = format!("while [ ! -e {stop} ]; do ip link del {netdev} 2>/dev/null && echo gone; done; true");
    let deleting = lab.start(0, &line, 3 * MINUTE);
    for _ in 0..4 {
        pull()?;
        lab.cable(0, "plug", None)?;
        std::thread::sleep(Duration::from_secs(3));
    }
    lab.sh(0, &format!(": > {stop}"))?;
    let times = deleting.ok()?.lines().count();
    println!("{netdev} was let go of {times} times while cables came and went");
    works().context("after ip link del over and over")?;
    // From a namespace that ends it comes back.
    pull()?;
    lab.sh(
        0,
        &format!(
            "ip netns add away && ip link set {netdev} netns away && ip netns del away && n=0; \
             until [ -e /sys/class/net/{netdev} ]; do n=$((n+1)); [ $n -lt 100 ] || exit 1; sleep 0.05; done"
        ),
    )
    .context("the namespace of the netdev ended")?;
    works().context("after the end of a namespace")?;
    // The module.
    pull()?;
    unload(lab, 0, context.net)?;
    wait_no_netdev(lab, 0, &cable)?;
    load(lab, 0, context.net)?;
    works().context("after rmmod")?;
    // The host interface.
    pull()?;
    let interface = lab.sh(
        0,
        &format!("d=$(readlink -f /sys/class/net/{netdev}/device/../..); echo ${{d##*/}} > $d/driver/unbind; echo ${{d##*/}}"),
    )?;
    wait_no_netdev(lab, 0, &cable)?;
    lab.sh(
        0,
        &format!("echo {} > /sys/bus/pci/drivers/thunderbolt/bind", interface.trim()),
    )?;
    works().context("after the host interface was unbound")?;
    lab.ok(1, &["rdma", "link", "del", &pair.server.name])?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    pair.pingpong(lab, "-c -n 50 -e", MINUTE)?;
    pair.delete(lab)
}

fn other_peer(context: &Context) -> Result<()> {
    only_ours(context, "netdev that outlives its cable")?;
    let lab = context.lab()?;
    let device = Device::add(lab, 0, context.ours, 0)?;
    let facts = || {
        lab.sh(
            0,
            &format!(
                "cat /sys/class/net/{0}/ifindex /sys/class/net/{0}/address; ip -br addr show dev {0} | sed 's/  *[A-Z]* */ /'; rdma link | sed 's/state.*netdev/netdev/'",
                device.netdev
            ),
        )
    };
    let before = facts()?;
    for driver in [NetDriver::Stock, NetDriver::Ours] {
        lab.cable(0, "pull", None)?;
        wait_out(lab, 0, 0)?;
        let now = lab.ok(1, &["cat", "/run/net-driver"])?;
        lab.ok(1, &["rmmod", now.trim()])?;
        load(lab, 1, driver)?;
        lab.cable(0, "plug", None)?;
        lab.net_up(1)?;
        wait_ping(lab, 0, &ipv4(0, 1), 20).with_context(|| format!("the peer has {}", driver.name()))?;
        same(driver.name(), 0, &before, &facts()?)?;
    }
    let server = Device::add(lab, 1, context.ours, 0)?;
    let pair = Pair { client: device, server };
    pair.pingpong(lab, "-c -n 50 -e", MINUTE)?;
    pair.delete(lab)
}
