// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What users run over a bond of cables: storage, MPI's ways, rdma_cm, each with a cable pulled in the middle; an
//! active-backup bond; three hosts in a ring with a bond to each neighbour.

use super::runs::{counter, wait_flow, FLOWS};
use super::{in_own, only_ours, BOTH, MINUTE};
use crate::bonded::{trains_by, Bond};
use crate::cases::life::both_up;
use crate::cases::{about_net, kernel, long, own, tools, Case, Context, NetLab, Skip};
use crate::duo::Run;
use crate::lab::{Lab, Running};
use crate::spec::{ipv4, LabSpec, NetDriver, Profile, Root, Topology};
use crate::verbs::{port, wait_listen, Device, Pair};
use crate::{apps, paths};
use anyhow::{anyhow, ensure, Context as _, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const TWO: NetLab = NetLab { cables: 2, ..BOTH };

pub const CASES: &[Case] = &[
    about_net(
        "group_apps",
        "rping and UCX over a bond of two cables, one of which is pulled in the middle: they end well",
        TWO,
        programs,
    ),
    about_net(
        "group_nvme",
        "an NVMe disk over a bond of two cables: one is pulled while it is written, the other while it is read",
        TWO,
        disk,
    ),
    long(own(
        "group_all_reduce",
        "all_reduce of Open MPI over UCX and a bond of two cables, which are pulled in turn: every element is right",
        all_reduce,
    )),
    about_net(
        "group_backup",
        "an active-backup bond whose ends choose different cables: queue pairs use all cables, whatever the bond chooses",
        NetLab { cables: 3, ..BOTH },
        backup,
    ),
    own(
        "group_ring",
        "three hosts in a ring, a bond to each neighbour: all pairs at once, and through the host in the middle",
        ring,
    ),
];

/// RDMA link over the bond.
const LINK: &str = "group";
/// Time that a cable is out.
const OUT: Duration = Duration::from_millis(500);

/// Plays something over a bond, made for it and undone after it.
fn over(context: &Context, mode: &'static str, act: impl FnOnce(&Lab, &Bond, &Pair) -> Result<()>) -> Result<()> {
    only_ours(context, "trains")?;
    let lab = context.lab()?;
    let bond = Bond {
        // A cable beyond the second has addresses of its own.
        cables: vec![0, 1],
        ..Bond::of_pair(lab, mode)
    };
    let outcome = bond
        .make(lab)
        .and_then(|()| bond.link(lab, context.ours, LINK))
        .and_then(|pair| act(lab, &bond, &pair));
    bond.undo(lab, Some(LINK))?;
    outcome?;
    both_up(lab)
}

/// Pulls a cable once traffic flows, and plugs it again.
fn pull(lab: &Lab, bond: &Bond, pair: &Pair, cable: usize, more: u64) -> Result<()> {
    let before = counter(lab, 0, &pair.client.name, "rcvd_pkts")?;
    wait_flow(lab, &pair.client.name, before + more)?;
    lab.cable(cable, "pull", None)?;
    thread::sleep(OUT);
    lab.cable(cable, "plug", None)?;
    bond.wait_active(lab, cable)
}

/// Lets `act` act over and over while each of some cables is pulled once. How often it was done.
fn while_pulled(lab: &Lab, bond: &Bond, pair: &Pair, cables: &[usize], act: impl Fn() -> Result<()>) -> Result<usize> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let pulling = scope.spawn(|| {
            let outcome = cables.iter().try_for_each(|cable| pull(lab, bond, pair, *cable, FLOWS));
            over.store(true, Ordering::Relaxed);
            outcome
        });
        let mut times = 0;
        let acted = loop {
            match act() {
                Ok(()) => times += 1,
                Err(error) => break Err(error),
            }
            if over.load(Ordering::Relaxed) {
                break Ok(());
            }
        };
        let pulled = pulling
            .join()
            .map_err(|_| anyhow!("the thread that pulls cables panicked"))?;
        acted.and(pulled).map(|()| times)
    })
}

/// Buffers that rping reads and writes, of nearly 64 KiB: some seconds.
const RPING: u32 = 3000;

fn programs(context: &Context) -> Result<()> {
    over(context, "balance-xor", |lab, bond, pair| {
        let to = &pair.server.ipv4;
        let rping = Run {
            id: "rping".into(),
            server: format!("rping -s -V -S 60000 -C {RPING}"),
            client: format!("rping -c -a {to} -V -S 60000 -C {RPING}"),
            listen: "cm:7174".into(),
            limit: 120,
        };
        let ucx = tools::ucx_run(
            pair,
            "tag_bw 64 KiB",
            "UCX_TLS=rc_verbs,ud_verbs:aux",
            "-n 20000",
            "-t tag_bw -n 20000 -s 65536",
        );
        for (cable, run) in [rping, ucx].into_iter().enumerate() {
            let times = while_pulled(lab, bond, pair, &[cable], || {
                pair.play_all(lab, std::slice::from_ref(&run)).map(drop)
            })
            .with_context(|| run.id.clone())?;
            println!("{}: {times} times while cable {cable} was pulled", run.id);
        }
        Ok(())
    })
}

/// MiB of the disk.
const DISK: u32 = 128;
/// Packets after which one phase of it or the other is well under way.
const DISK_FLOWS: u64 = 200;

fn disk(context: &Context) -> Result<()> {
    over(context, "balance-xor", |lab, bond, pair| {
        thread::scope(|scope| {
            let disk = scope.spawn(|| kernel::disk(context, pair, DISK, ""));
            // It is written, then read, for some seconds each.
            let pulled = [1, 0]
                .iter()
                .try_for_each(|cable| pull(lab, bond, pair, *cable, DISK_FLOWS));
            disk.join().map_err(|_| anyhow!("the disk's thread panicked"))??;
            pulled
        })
    })
}

/// What two ranks of Python and UCX's buffers need, MiB.
const RANKS_MIB: u32 = 1024;

fn all_reduce(context: &Context) -> Result<()> {
    only_ours(context, "trains")?;
    if let Err(error) = paths::root(Root::Workloads) {
        return Err(Skip(format!("no Open MPI: {error:#}")).into());
    }
    let spec = LabSpec {
        net: vec![NetDriver::Ours; 2],
        root: Root::Workloads,
        memory_mib: RANKS_MIB,
        kernel: context.kernel,
        seed: context.seed,
        ..LabSpec::wired(Profile::Strix, Topology::Pair, 2, 2)?
    };
    in_own(spec, "all-reduce", |lab| {
        let bond = Bond::of_pair(lab, "balance-xor");
        bond.make(lab)?;
        let pair = bond.link(lab, context.ours, LINK)?;
        apps::join(lab, &[pair.client.ipv4.clone(), pair.server.ipv4.clone()])?;
        let times = while_pulled(lab, &bond, &pair, &[1, 0], || apps::reduce_over(lab, &pair).map(drop))?;
        println!("{times} times all sizes while both cables were pulled");
        bond.undo(lab, Some(LINK))
    })
}

/// Seconds of a stream that runs while the bonds choose.
const STREAM_S: u32 = 8;
/// Trains that each cable has carried when it is in use.
const USED: u64 = 50;

fn backup(context: &Context) -> Result<()> {
    over(context, "active-backup", |lab, bond, pair| {
        let devices = |cable: usize| -> Result<[String; 2]> { Ok([lab.netdev(0, cable)?, lab.netdev(1, cable)?]) };
        let cables = [devices(0)?, devices(1)?];
        let choose = |host: usize, cable: usize| -> Result<()> {
            let dev = &cables[cable][host];
            lab.sh(
                host,
                &format!(
                    "ip link set {0} type bond active_slave {dev} && [ \"$(cat /sys/class/net/{0}/bonding/active_slave)\" = {dev} ]",
                    bond.netdev
                ),
            )
            .map(|_| ())
            .with_context(|| format!("host {host} does not choose {dev}"))
        };
        let by = || -> Result<[u64; 2]> { Ok([trains_by(lab, 0, 0)?, trains_by(lab, 0, 1)?]) };
        let used = |before: [u64; 2], when: &str| -> Result<()> {
            let after = by()?;
            let trains = [after[0] - before[0], after[1] - before[1]];
            println!("{when}: {trains:?} trains by the two cables");
            ensure!(
                trains.iter().all(|trains| *trains > USED),
                "{when}: {trains:?} trains by the two cables"
            );
            Ok(())
        };
        for host in 0..2 {
            lab.sh(host, &format!("echo > /sys/class/net/{}/bonding/primary", bond.netdev))?;
        }
        // The same cable at both ends: IP passes, and a queue pair uses both.
        (0..2).try_for_each(|host| choose(host, 0))?;
        lab.wait_ping(0, &pair.server.ipv4, 10)?;
        let before = by()?;
        pair.pingpong(lab, "-c -n 300 -s 1000000 -m 4096", MINUTE)?;
        used(before, "both ends chose cable 0")?;
        // Then another at one end, under a stream.
        let (serving, calling) = stream(lab, &meeting(pair))?;
        choose(1, 1)?;
        let before = by()?;
        thread::sleep(Duration::from_secs(1));
        used(before, "the ends chose different cables under a stream")?;
        calling.ok()?;
        serving.ok()?;
        let passes = lab.run(
            0,
            &["ping", "-c", "3", "-i", "0.2", "-W", "1", &pair.server.ipv4],
            MINUTE,
        )?;
        println!("split, echo requests over the bond: status {}", passes.status);
        // A queue pair that is made while they differ: nothing of IP passes, nor does ARP, so the hosts are told each
        // other's address. The core lists the GIDs of an active-backup bond
        // anew when that chooses.
        for host in 0..2 {
            let mac = lab.ok(1 - host, &["cat", &format!("/sys/class/net/{}/address", bond.netdev)])?;
            lab.sh(
                host,
                &format!(
                    "ip neigh replace {} lladdr {} nud permanent dev {}",
                    bond.address(1 - host),
                    mac.trim(),
                    bond.netdev
                ),
            )?;
        }
        let made = meeting(&Pair {
            client: pair.client.find_gid(lab)?,
            server: pair.server.find_gid(lab)?,
        });
        let before = by()?;
        made.pingpong(lab, "-c -n 300 -s 1000000 -m 4096", MINUTE)
            .context("made while the ends differ")?;
        used(before, "made while the ends differ")?;
        // What keeps IP whole: `primary`, of the same cable at both ends.
        (0..2).try_for_each(|host| bond.prefer(lab, host, 0))?;
        lab.wait_ping(0, &pair.server.ipv4, 10).context("with `primary`")?;
        lab.cable(0, "pull", None)?;
        lab.wait_ping(0, &pair.server.ipv4, 10)
            .context("with `primary`, whose cable is out")?;
        lab.cable(0, "plug", None)?;
        bond.wait_active(lab, 0)?;
        lab.wait_ping(0, &pair.server.ipv4, 10)
            .context("with `primary`, whose cable is back")?;
        for host in 0..2 {
            lab.sh(
                host,
                &format!("ip neigh del {} dev {}", bond.address(1 - host), bond.netdev),
            )?;
        }
        let pair = Pair {
            client: pair.client.find_gid(lab)?,
            server: pair.server.find_gid(lab)?,
        };
        pair.pingpong(lab, "-c -n 100", MINUTE).map(drop)
    })
}

/// A stream of WRITEs for some seconds, which flows when this returns.
fn stream(lab: &Lab, pair: &Pair) -> Result<(Running, Running)> {
    let line = |d: &Device| format!("ib_write_bw -d {} -x {} -F -s 1048576 -D {STREAM_S}", d.name, d.gid);
    let before = counter(lab, 0, &pair.client.name, "rcvd_pkts")?;
    let serving = lab.start(1, &line(&pair.server), MINUTE);
    wait_listen(lab, 1, port())?;
    let calling = lab.start(0, &format!("{} {}", line(&pair.client), pair.server.ipv4), MINUTE);
    wait_flow(lab, &pair.client.name, before + FLOWS)?;
    Ok((serving, calling))
}

/// The same devices, whose programs meet over the third cable: over the bond they cannot while its ends differ.
fn meeting(pair: &Pair) -> Pair {
    Pair {
        client: pair.client.clone(),
        server: Device {
            ipv4: ipv4(2, 1),
            ..pair.server.clone()
        },
    }
}

/// Cables between each two hosts.
const BETWEEN: usize = 2;

fn ring(context: &Context) -> Result<()> {
    only_ours(context, "trains")?;
    let spec = LabSpec {
        net: vec![NetDriver::Ours; 3],
        kernel: context.kernel,
        seed: context.seed,
        ..LabSpec::wired(Profile::Intel, Topology::Ring, 3, BETWEEN)?
    };
    in_own(spec, "ring", |lab| {
        let ends = |cable: usize| [lab.spec.cables[cable].a.host, lab.spec.cables[cable].b.host];
        let bonds: Vec<Bond> = (0..3)
            .map(|n| {
                let hosts = ends(BETWEEN * n);
                Bond {
                    netdev: format!("bond{}{}", hosts[0], hosts[1]),
                    hosts,
                    cables: (BETWEEN * n..BETWEEN * (n + 1)).collect(),
                    net: 120 + n as u8,
                    mode: "balance-xor",
                }
            })
            .collect();
        let mut pairs = Vec::new();
        for (n, bond) in bonds.iter().enumerate() {
            bond.make(lab)?;
            pairs.push(bond.link(lab, context.ours, &format!("r{n}"))?);
        }
        all_at_once(lab, &pairs).context("a bond to each neighbour")?;
        for bond in &bonds {
            for cable in &bond.cables {
                let trains = trains_by(lab, bond.hosts[0], *cable)?;
                ensure!(trains > USED, "{trains} trains by cable {cable} of {}", bond.netdev);
            }
        }
        // Hosts 0 and 1 lose theirs, and reach each other by what both have with host 2, which passes packets on.
        let (away, [far, near]) = (&bonds[0], [&bonds[1], &bonds[2]]);
        ensure!(
            (away.hosts, far.hosts, near.hosts) == ([0, 1], [1, 2], [2, 0]),
            "another ring: {bonds:?}"
        );
        lab.sh(2, "sysctl -qw net.ipv4.ip_forward=1")?;
        lab.sh(
            0,
            &format!("ip route add 10.{}.0.0/24 via {}", far.net, near.address(2)),
        )?;
        lab.sh(
            1,
            &format!("ip route add 10.{}.0.0/24 via {}", near.net, far.address(2)),
        )?;
        let routed = Pair {
            client: pairs[2].server.clone(),
            server: pairs[1].client.clone(),
        };
        for cable in &away.cables {
            lab.cable(*cable, "pull", None)?;
        }
        lab.wait_ping(0, &routed.server.ipv4, 10)?;
        all_at_once(lab, &[pairs[1].clone(), pairs[2].clone(), routed.clone()]).context("through the middle")?;
        routed.rping(lab, 50, MINUTE).context("rdma_cm through the middle")?;
        for cable in &away.cables {
            lab.cable(*cable, "plug", None)?;
            away.wait_active(lab, *cable)?;
        }
        pairs.push(routed);
        // Host 1 serves the first pair and the one through the middle: these two take turns.
        all_at_once(lab, &pairs[..3]).context("the cables are back")?;
        all_at_once(lab, &pairs[1..]).context("through the middle, with all cables in")?;
        for (n, bond) in bonds.iter().enumerate() {
            bond.undo(lab, Some(&format!("r{n}")))?;
        }
        Ok(())
    })
}

/// Messages whose bytes both ends compare, over all pairs at once.
fn all_at_once(lab: &Lab, pairs: &[Pair]) -> Result<()> {
    thread::scope(|scope| {
        let running: Vec<_> = pairs
            .iter()
            .map(|pair| scope.spawn(move || pair.pingpong(lab, "-c -n 300 -s 200000 -m 4096", 2 * MINUTE)))
            .collect();
        running.into_iter().zip(pairs).try_for_each(|(thread, pair)| {
            let said = thread.join().map_err(|_| anyhow!("a pair's thread panicked"))?;
            said.map(drop).with_context(|| {
                format!(
                    "hosts {} and {}, {}",
                    pair.client.host, pair.server.host, pair.client.name
                )
            })
        })
    })
}
