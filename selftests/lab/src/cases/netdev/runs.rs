// SPDX-License-Identifier: GPL-2.0 OR MIT
//! RDMA in runs, which a cable between two of our own network devices carries without an ICRC, and where it must not be
//! so: as trains on the cable's rings, past the network stack (`trains_*`), or as datagrams on the netdev's queue
//! (`runs_*`).

use super::{only_ours, BOTH, MINUTE};
use crate::bonded::{trains_by, Bond};
use crate::cases::life::both_up;
use crate::cases::{self, about_net, data, faults, long, Case, Context, NetLab};
use crate::lab::Lab;
use crate::spec::ipv4;
use crate::verbs::{wait_listen, Device, Kind, Pair};
use crate::{measure::median, netbench, parse};
use anyhow::{anyhow, ensure, Context as _, Result};
use serde_json::{json, Value};
use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

/// RDMA by one ring of the cable, on which no train overtakes another.
const ONE: NetLab = NetLab {
    way: cases::Way::OneRing,
    ..BOTH
};
/// RDMA on the netdev's queue.
const QUEUE: NetLab = NetLab {
    way: cases::Way::Queue,
    ..BOTH
};

pub const CASES: &[Case] = &[
    about_net(
        "trains_data",
        "all operations with every byte compared, bandwidth at odd sizes, in trains; with rxe, in packets",
        BOTH,
        |context| operations(context, TRAINS),
    ),
    about_net(
        "trains_sizes",
        "SEND, WRITE and READ of 1 B to 64 MiB in flight at once, in pieces at any place: every byte, and the guards",
        ONE,
        |context| sizes(context, "sizes"),
    ),
    long(about_net(
        "trains_sizes_long",
        "the same, each size twelve times and 48,000 messages of any size",
        ONE,
        |context| sizes(context, "sizes_long"),
    )),
    about_net(
        "trains_reads",
        "200,000 READs of 64 B to 2 KiB, 16 under way: every byte, and no timer",
        ONE,
        reads,
    ),
    about_net(
        "trains_both",
        "WRITEs, then SENDs both ways at once: nothing lost for want of credit, and no timer",
        ONE,
        |context| both(context, 4),
    ),
    long(about_net(
        "trains_both_long",
        "the same, a minute each",
        ONE,
        |context| both(context, 60),
    )),
    about_net(
        "rings_sizes",
        "as trains_sizes, by both rings of the cable, whose trains overtake each other: every byte, and no timer",
        BOTH,
        |context| sizes(context, "sizes"),
    ),
    about_net(
        "rings_both",
        "as trains_both, by both rings: both carry trains, and no timer",
        BOTH,
        |context| both(context, 4),
    ),
    about_net(
        "trains_faults",
        "trains over a cable that loses, damages and doubles frames: pingpong -c and bandwidth",
        BOTH,
        |context| damaged(context, TRAINS),
    ),
    about_net(
        "trains_lent",
        "a train that waits for the cable carries what was sent, whatever ends before it has gone",
        BOTH,
        |context| lent(context, TRAINS),
    ),
    about_net(
        "trains_address",
        "both ends' Ethernet addresses change under a stream: it goes on, and by trains again",
        BOTH,
        address,
    ),
    about_net(
        "trains_stuck",
        "a cable that takes trains and sends none: a killed program is gone when the cable has begun anew, after 5 s",
        BOTH,
        stuck,
    ),
    about_net(
        "trains_share",
        "a stream of WRITEs, one of TCP and a ping over one cable: each has its share",
        BOTH,
        share,
    ),
    about_net(
        "runs_data",
        "all operations with every byte compared, bandwidth at odd sizes, in runs; with rxe, in packets",
        QUEUE,
        |context| operations(context, RUNS),
    ),
    about_net(
        "runs_faults",
        "runs over a cable that loses, damages and doubles frames: pingpong -c and bandwidth",
        QUEUE,
        |context| damaged(context, RUNS),
    ),
    about_net(
        "runs_lent",
        "a frame that waits for the cable carries what was sent, whatever ends before it has gone",
        QUEUE,
        |context| lent(context, RUNS),
    ),
    about_net(
        "runs_behind",
        "the host at the cable's other end only routes: the queue pair finds out and sends packets",
        BOTH,
        behind,
    ),
    about_net(
        "runs_bond",
        "a bond of two cables carries the trains of reliable and of unreliable connections",
        NetLab { cables: 2, ..BOTH },
        bonds,
    ),
];

/// A local ACK timeout of 8.6 s, for perftest: a host that does not get the processor so long is no lost train.
const PATIENT: u32 = 21;
/// Network behind the second host.
const BEHIND: [&str; 2] = ["10.79.0.1", "10.79.0.2"];
/// The same as a GID's last groups.
const BEHIND_GID: &str = "0000:0000:0000:0000:0000:ffff:0a4f:0002";

/// One of a device's counters.
pub(in crate::cases) fn counter(lab: &Lab, host: usize, device: &str, name: &str) -> Result<u64> {
    let path = format!("/sys/class/infiniband/{device}/ports/1/hw_counters/{name}");
    lab.ok(host, &["cat", &path])?.trim().parse().context(path)
}

/// Packets after which a program's traffic is under way: its queue pairs are connected. Of a stream of WRITEs the
/// sender receives one ACK in 16 trains.
pub(in crate::cases) const FLOWS: u64 = 20;

/// Waits until host 0's device has received so many packets. How long a program takes until it sends is the machine's
/// affair: what is to happen in the middle of its traffic waits for the traffic, not for a time.
pub(in crate::cases) fn wait_flow(lab: &Lab, device: &str, packets: u64) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(60);
    let begun = Instant::now();
    while counter(lab, 0, device, "rcvd_pkts")? < packets {
        ensure!(begun.elapsed() < LIMIT, "{device} has no traffic after {LIMIT:?}");
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// How packets go, by what counts them.
#[derive(Clone, Copy)]
struct Way {
    runs: bool,
    trains: bool,
}

const TRAINS: Way = Way {
    runs: true,
    trains: true,
};
const RUNS: Way = Way {
    runs: true,
    trains: false,
};

/// Insists that both ends of a pair have sent this way.
fn ensure_way(lab: &Lab, pair: &Pair, way: Way) -> Result<()> {
    for device in [&pair.client, &pair.server] {
        if device.name.starts_with(Kind::Usb4.link_type()) {
            for (name, wanted) in [("sent_runs", way.runs), ("sent_trains", way.trains)] {
                let sent = counter(lab, device.host, &device.name, name)?;
                ensure!(
                    (sent > 0) == wanted,
                    "{} on host {}: {name} {sent}",
                    device.name,
                    device.host
                );
            }
        }
    }
    Ok(())
}

fn operations(context: &Context, way: Way) -> Result<()> {
    only_ours(context, "runs")?;
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    data::check_operations(lab, &pair)?;
    for mtu in [256, 1024, 4096] {
        pair.pingpong(lab, &format!("-c -n 100 -s 100003 -m {mtu}"), MINUTE)?;
    }
    for program in ["ib_send_bw", "ib_write_bw", "ib_read_bw"] {
        for size in [1, 2049, 4097, 61_441, 1 << 20] {
            data::bandwidth(lab, &pair, program, size, 100, MINUTE)?;
        }
    }
    pair.example(lab, "ibv_uc_pingpong", "-n 100 -s 20000", MINUTE)?;
    pair.example(lab, "ibv_ud_pingpong", "-n 100", MINUTE)?;
    ensure_way(lab, &pair, way)?;
    pair.delete(lab)?;
    let mixed = Pair::add(lab, context.ours, Kind::Rxe)?;
    // It tries runs, hears nothing, and goes on with packets.
    mixed.pingpong(lab, "-c -n 100", MINUTE)?;
    mixed.turned().pingpong(lab, "-c -n 100", MINUTE)?;
    mixed.delete(lab)
}

/// What a device never counts on a cable that loses nothing, and stays.
const NEVER: [&str; 2] = ["link_downed", "local_ack_timeout_err"];
/// Nor these by one ring, unless a receiver was not ready: what was on its way then is out of sequence. By two rings
/// trains overtake each other, and where a host's processor is late with one ring, what is missing is reported.
const NEVER_BUT_RNR: [&str; 4] = [
    "rcvd_seq_err",
    "out_of_seq_request",
    "response_gaps",
    "duplicate_request",
];
/// What its netdev never counts: frames that came where none had room, or did not come.
const NEVER_OF_NET: [&str; 7] = [
    "rx_missed_frames",
    "rx_overrun_errors",
    "rx_stray_frames",
    "rx_length_errors",
    "rx_bad_metadata",
    "rx_no_memory",
    "tx_timeouts",
];

/// Lets `act` act on a pair just added; then neither end may have counted a loss, nor a timer. What it has counted
/// instead is in the error.
fn untroubled<T>(lab: &Lab, pair: &Pair, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let ends = [&pair.client, &pair.server];
    let of_net = |device: &Device| -> Result<BTreeMap<String, u64>> {
        let text = lab.sh(device.host, &format!("ethtool -S {}", device.netdev))?;
        Ok(parse::ethtool_counters(&text))
    };
    let ordered = lab.spec.append != cases::Way::TwoRings.parameters();
    let before = [of_net(ends[0])?, of_net(ends[1])?];
    let done = act()?;
    let mut bad = Vec::new();
    for (device, before) in ends.into_iter().zip(before) {
        let after = of_net(device)?;
        let ready = counter(lab, device.host, &device.name, "rcvd_rnr_err")? == 0
            && counter(lab, device.host, &device.name, "send_rnr_err")? == 0;
        for name in NEVER.iter().chain(NEVER_BUT_RNR.iter().filter(|_| ready && ordered)) {
            let count = counter(lab, device.host, &device.name, name)?;
            if count != 0 {
                bad.push(format!("host {}: {name} {count}", device.host));
            }
        }
        for name in NEVER_OF_NET {
            let grown = after.get(name).context(name)?.wrapping_sub(before[name]);
            if grown != 0 {
                bad.push(format!("host {}: {name} {grown} more", device.host));
            }
        }
    }
    ensure!(bad.is_empty(), "{}", bad.join(", "));
    Ok(done)
}

/// Plays a scene that compares bytes, by trains; what the client's side reports.
fn compared(lab: &Lab, pair: &Pair, scene: &str) -> Result<Value> {
    let (client, server) = untroubled(lab, pair, || {
        let begun = Instant::now();
        let (client, server) = pair.scene_within(lab, scene, 10 * MINUTE)?;
        let taken = begun.elapsed().as_secs_f64();
        println!("{taken:.1} s, the slowest {}", client["slowest"]);
        Ok((client, server))
    })?;
    let wrong = [&client["wrong"], &server["wrong"]];
    ensure!(wrong == [&json!([]); 2], "client: {}, server: {}", wrong[0], wrong[1]);
    ensure_way(lab, pair, TRAINS)?;
    Ok(client)
}

/// Streams of SENDs and of WRITEs, both ways at once, so many seconds each.
fn both(context: &Context, seconds: u64) -> Result<()> {
    only_ours(context, "trains")?;
    let lab = context.lab()?;
    // A frame that finds no descriptor at the other end is lost, and does not wait on the cable.
    lab.faults(json!({"overrun": 1.0}), context.seed)?;
    for program in ["ib_write_bw", "ib_send_bw"] {
        let pair = Pair::add(lab, context.ours, context.ours)?;
        let arguments = format!("-b -s 65536 -u {PATIENT} -D {seconds}");
        untroubled(lab, &pair, || {
            pair.perftest(lab, program, &arguments, MINUTE + Duration::from_secs(seconds))
        })?;
        for device in [&pair.client, &pair.server] {
            let trains = counter(lab, device.host, &device.name, "sent_trains")?;
            println!("{program}: host {} has sent {trains} trains", device.host);
            ensure!(trains > 250 * seconds, "host {} has sent {trains} trains", device.host);
        }
        pair.delete(lab)?;
    }
    Ok(())
}

fn sizes(context: &Context, scene: &str) -> Result<()> {
    only_ours(context, "trains")?;
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let said = compared(lab, &pair, scene)?;
    println!("{} messages, {} bytes", said["messages"], said["bytes"]);
    ensure!(said["messages"].as_u64() > Some(1000), "{said}");
    pair.delete(lab)
}

fn reads(context: &Context) -> Result<()> {
    only_ours(context, "trains")?;
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let said = compared(lab, &pair, "reads")?;
    ensure!(said["reads"] == json!(200_000), "{said}");
    pair.delete(lab)
}

fn damaged(context: &Context, way: Way) -> Result<()> {
    only_ours(context, "runs")?;
    // A ring does not reorder, so a frame that is late is a train lost, and of trains of 16 frames soon every one.
    let sets = [json!({"drop": 0.01}), json!({"corrupt": 0.01}), json!({"dup": 0.02})];
    let programs = ["ib_write_bw", "ib_read_bw", "ib_send_bw"];
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    faults::under_faults(context, &pair, &sets, &programs)?;
    ensure_way(lab, &pair, way)?;
    pair.delete(lab)
}

/// Milliseconds that frames wait on their way out.
const WAIT_MS: u32 = 400;

/// What was lent ends in all ways while its frames wait: in the queue, or on the cable, whose fabric reads a frame's
/// bytes when it arrives.
fn lent(context: &Context, way: Way) -> Result<()> {
    only_ours(context, "runs")?;
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let queue = |op: &str, what: &str| format!("tc qdisc {op} dev {} root {what}", pair.client.netdev);
    if way.trains {
        lab.cable(0, "latency", Some(f64::from(WAIT_MS) * 1e6))?;
    } else {
        lab.sh(0, &queue("add", &format!("netem delay {WAIT_MS}ms")))?;
    }
    let mut came = 0;
    for scene in [
        "lent_error",
        "lent_reset",
        "lent_destroy",
        "lent_deregister",
        "lent_read_reset",
        "lent_read_destroy",
        "lent_read_deregister",
    ] {
        let (_, served) = pair.scene(lab, scene)?;
        ensure!(served["wrong"] == json!([]), "{scene}: {served}");
        came += usize::from(served["came"] == json!(true));
    }
    // Else nothing waited when the ends came, and nothing was tried.
    ensure!(came > 3, "only {came} messages came");
    if way.trains {
        lab.cable(0, "latency", Some(0.0))?;
    } else {
        lab.sh(0, &queue("del", ""))?;
    }
    ensure_way(lab, &pair, way)?;
    pair.delete(lab)
}

/// Time after which trains go to a new address. A second where the machine has time for the guests; the stream goes on
/// for longer.
const ADDRESSED: Duration = Duration::from_secs(4);

fn address(context: &Context) -> Result<()> {
    only_ours(context, "trains")?;
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let trains = || counter(lab, 0, &pair.client.name, "sent_trains");
    beside(lab, &pair, 12, || {
        for (host, mac) in [(0, "02:00:5e:00:53:0a"), (1, "02:00:5e:00:53:0b")] {
            thread::sleep(Duration::from_millis(1500));
            let netdev = lab.netdev(host, 0)?;
            lab.ok(host, &["ip", "link", "set", &netdev, "address", mac])?;
        }
        // The peers tell each other twice a second; those of this host's trains that go now were built before.
        thread::sleep(Duration::from_millis(500));
        let (before, begun) = (trains()?, Instant::now());
        while trains()? == before {
            ensure!(begun.elapsed() < ADDRESSED, "no trains {ADDRESSED:?} after the change");
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    })?;
    ensure_way(lab, &pair, TRAINS)?;
    pair.delete(lab)
}

fn stuck(context: &Context) -> Result<()> {
    only_ours(context, "trains")?;
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let stream = |device: &Device, peer: &str| {
        format!(
            "exec timeout -s KILL 40 ib_write_bw -d {} -s 65536 -D 30 {peer}",
            device.name
        )
    };
    let serving = lab.start(1, &stream(&pair.server, ""), MINUTE);
    wait_listen(lab, 1, 18515)?;
    let sending = lab.start(0, &stream(&pair.client, &ipv4(0, 1)), MINUTE);
    let dev = &pair.client.netdev;
    let timeouts =
        || Ok::<_, anyhow::Error>(parse::ethtool_counters(&lab.sh(0, &format!("ethtool -S {dev}"))?)["tx_timeouts"]);
    let before = timeouts()?;
    // Slower than the program: the ring is full of trains. Then a frame takes six seconds and a half.
    lab.cable(0, "rate", Some(1e8))?;
    // The device's own count, not the cable's, which has those of former cases.
    while counter(lab, 0, &pair.client.name, "sent_trains")? < 100 {
        thread::sleep(Duration::from_millis(100));
        ensure!(!sending.ended(), "the stream ended before it began");
    }
    lab.cable(0, "rate", Some(5e3))?;
    // No packet of the stack may be on the ring: its queue has a watchdog of its own.
    lab.sh(0, &format!("tc qdisc add dev {dev} root netem loss 100%"))?;
    let waited = lab.sh(
        0,
        "pkill -KILL -x ib_write_bw; n=0; while pgrep -x ib_write_bw > /dev/null; do sleep 0.1; n=$((n+1)); done; echo $n",
    )?;
    lab.sh(0, &format!("tc qdisc del dev {dev} root"))?;
    lab.cable(0, "rate", Some(0.0))?;
    lab.sh(1, "pkill -KILL -x ib_write_bw")?;
    sending.wait()?;
    serving.wait()?;
    // The line is busy with the frame that it has, whose time was decided when it began.
    thread::sleep(Duration::from_secs(7));
    let tenths: u32 = waited.trim().parse().context(waited)?;
    let timeouts = timeouts()? - before;
    // A memory that ended at once was not being read: nothing was tried.
    ensure!(
        (10..100).contains(&tenths) && timeouts == 1,
        "gone after {tenths} tenths of a second, tx_timeouts {timeouts}"
    );
    pair.delete(lab)
}

/// Lets `act` act while a stream of WRITEs runs, for so many seconds in all. What the stream says of its own speed is
/// not heard: perftest says 0 where a busy machine spoils its estimate of the clock.
fn beside(lab: &Lab, pair: &Pair, seconds: u32, act: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = counter(lab, 0, &pair.client.name, "rcvd_pkts")?;
    thread::scope(|scope| {
        let stream = scope.spawn(|| pair.perftest(lab, "ib_write_bw", &format!("-s 65536 -D {seconds}"), MINUTE));
        let acted = wait_flow(lab, &pair.client.name, before + FLOWS).and_then(|()| act());
        stream.join().map_err(|_| anyhow!("the stream's thread panicked"))??;
        acted
    })
}

fn share(context: &Context) -> Result<()> {
    only_ours(context, "trains")?;
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    // Both want all of it.
    lab.cable(0, "rate", Some(1e9))?;
    let (mut rdma, mut tcp, mut round) = (0.0, 0.0, 0.0);
    let mib = f64::from(1 << 20);
    let sent = || -> Result<f64> {
        let text = lab.sh(0, &format!("ethtool -S {}", pair.client.netdev))?;
        Ok(parse::ethtool_counters(&text)["tx_rdma_bytes"] as f64 / mib)
    };
    beside(lab, &pair, 9, || {
        thread::sleep(Duration::from_secs(1));
        let (before, begun) = (sent()?, Instant::now());
        tcp = netbench::tcp(lab, 3)?.0 * 1e9 / 8.0 / mib;
        rdma = (sent()? - before) / begun.elapsed().as_secs_f64();
        let times = parse::ping_times_us(&lab.sh(0, &format!("ping -c 20 -i 0.02 {}", ipv4(0, 1)))?);
        round = median(&times).context("no ping was answered")?;
        Ok(())
    })?;
    lab.cable(0, "rate", Some(0.0))?;
    let said = format!("WRITE {rdma:.0} MiB/s and TCP {tcp:.0} of 119; beside WRITE alone, a ping takes {round:.0} us");
    println!("{said}");
    // A ping waits for what is on the ring before it, of which half is the client's, 256 frames of 33 us, and for as
    // many of the other ring, which has the line in turn.
    ensure!(rdma > 25.0 && tcp > 12.0 && round < 30_000.0, "{said}");
    pair.delete(lab)
}

fn behind(context: &Context) -> Result<()> {
    only_ours(context, "runs")?;
    let lab = context.lab()?;
    let [router, far] = BEHIND;
    lab.sh(
        1,
        &format!(
            "ip netns add far && ip link add f0 mtu 4200 type veth peer name f1 mtu 4200 && ip link set f1 netns far && \
             ip addr add {router}/24 dev f0 && ip link set f0 up && ip -n far link set lo up && \
             ip -n far addr add {far}/24 dev f1 && ip -n far link set f1 up && \
             ip -n far route add default via {router} && sysctl -qw net.ipv4.ip_forward=1 && \
             ip netns exec far rdma link add b0 type usb4 netdev f1"
        ),
    )?;
    lab.sh(0, &format!("ip route add {far} via {}", ipv4(0, 1)))?;
    let device = Device::add(lab, 0, context.ours, 0)?;
    let gid = lab.ok(1, &["ip", "netns", "exec", "far", "/usb4lab/gid", "b0", BEHIND_GID])?;
    for said in ["-c -n 200", "-c -n 20 -s 60000"] {
        let server = format!(
            "exec ip netns exec far ibv_rc_pingpong {said} -p 18600 -d b0 -g {}",
            gid.trim()
        );
        let serving = lab.start(1, &server, MINUTE);
        lab.sh(1, "ip netns exec far /usb4lab/wait-listen 18600")?;
        lab.ok_within(
            0,
            &[
                "sh",
                "-c",
                &format!(
                    "ibv_rc_pingpong {said} -p 18600 -d {} -g {} {far}",
                    device.name, device.gid
                ),
            ],
            MINUTE,
        )?;
        serving.ok()?;
    }
    let far_runs = lab.ok(
        1,
        &[
            "sh",
            "-c",
            "ip netns exec far rdma statistic show link b0/1 | grep sent_runs",
        ],
    )?;
    ensure!(
        far_runs.contains("sent_runs 0"),
        "the host behind has sent runs: {far_runs}"
    );
    // Another queue pair, to the router itself, is not concerned.
    let near = Device::add(lab, 1, context.ours, 0)?;
    let pair = Pair {
        client: device,
        server: near,
    };
    pair.pingpong(lab, "-c -n 100", MINUTE)?;
    ensure_way(lab, &pair, TRAINS)?;
    pair.delete(lab)?;
    lab.sh(0, &format!("ip route del {far}"))?;
    lab.sh(1, "ip netns del far; sysctl -qw net.ipv4.ip_forward=0")?;
    Ok(())
}

fn bonds(context: &Context) -> Result<()> {
    only_ours(context, "runs")?;
    let lab = context.lab()?;
    for mode in BONDS {
        let bond = Bond::of_pair(lab, mode);
        let outcome = over_bond(lab, context.ours, &bond).with_context(|| mode.to_string());
        bond.undo(lab, Some("bondr0"))?;
        outcome?;
        both_up(lab)?;
    }
    Ok(())
}

/// Modes that need no switch and come up by themselves.
const BONDS: [&str; 3] = ["balance-xor", "balance-rr", "802.3ad"];

fn over_bond(lab: &Lab, kind: Kind, bond: &Bond) -> Result<()> {
    bond.make(lab)?;
    let pair = bond.link(lab, kind, "bondr0")?;
    let before = [trains_by(lab, 0, 0)?, trains_by(lab, 0, 1)?];
    // What is overtaken is lost to an unreliable connection, which would wait for ever: its trains keep to one cable.
    for program in ["ibv_rc_pingpong -c", "ibv_uc_pingpong"] {
        pair.example(lab, program, "-n 300 -s 1000000", MINUTE)?;
    }
    for host in 0..2 {
        let runs = counter(lab, host, "bondr0", "sent_runs")?;
        let trains = counter(lab, host, "bondr0", "sent_trains")?;
        ensure!(
            runs > 100 && trains == runs,
            "host {host} has sent {runs} runs, {trains} of them past the stack"
        );
    }
    for (cable, before) in before.into_iter().enumerate() {
        let trains = trains_by(lab, 0, cable)?.saturating_sub(before);
        ensure!(trains > 100, "{trains} trains went by cable {cable}");
    }
    Ok(())
}
