// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma trace` tells what happens to queue pairs and shows their packets, `usb4rdma topo` who is joined to whom.

use super::checked;
use crate::cases::netdev::BOTH;
use crate::cases::{about_net, pair, Case, Context, Skip};
use crate::lab::{Lab, USUAL};
use crate::spec::Root;
use crate::verbs::{port, wait_listen, Kind, Pair};
use crate::{paths, uml};
use anyhow::{ensure, Context as _, Result};
use base64::prelude::{Engine, BASE64_STANDARD};
use serde_json::{json, Value};
use std::io::Write;
use std::process::{Command, Stdio};

pub const CASES: &[Case] = &[
    about_net(
        "tool_trace",
        "usb4rdma trace: states of a program's queue pairs, timeouts when the cable goes; nothing of it stays",
        BOTH,
        trace,
    ),
    about_net(
        "tool_packets",
        "usb4rdma trace: packets of trains in words, and as pcapng that tshark takes for RoCEv2, one by one",
        BOTH,
        packets,
    ),
    pair(
        "tool_packets_udp",
        "the same of packets that go by UDP, to rxe",
        packets_udp,
    ),
    about_net(
        "tool_topo",
        "usb4rdma topo: what one host knows, what two know, the matrix for JACCL",
        BOTH,
        topo,
    ),
];

fn trace(context: &Context) -> Result<()> {
    super::only_ours(context)?;
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let line = |gid, words: &str| format!("ib_write_bw -F -x {gid} {words}");
    let serve = |words: &str| -> Result<_> {
        let server = lab.start(
            1,
            &format!("{} -d {}", line(pair.server.gid, words), pair.server.name),
            USUAL,
        );
        wait_listen(lab, 1, port())?;
        Ok((
            server,
            format!(
                "{} -d {} {}",
                line(pair.client.gid, words),
                pair.client.name,
                pair.server.ipv4
            ),
        ))
    };

    let (server, client) = serve("-n 100")?;
    let out = lab.sh(0, &format!("usb4rdma trace --json -- {client} | grep '^{{'"))?;
    server.ok()?;
    let events = events(&out)?;
    let states: Vec<&str> = events.iter().filter_map(|event| event["text"].as_str()).collect();
    for wanted in ["state RESET -> INIT", "state INIT -> RTR", "state RTR -> RTS"] {
        ensure!(states.contains(&wanted), "{wanted} is not among {states:?}");
    }
    ensure!(
        events[0]["process"] == "ib_write_bw" && events[0]["device"] == pair.client.name.as_str(),
        "{out}"
    );

    let (server, client) = serve("-D 30")?;
    let running = lab.start(0, &format!("{client} > /dev/null 2>&1; true"), USUAL);
    let tracing = lab.start(
        0,
        "usb4rdma trace --event qp_timeout --event qp_state --device usb4r0",
        USUAL,
    );
    lab.sh(0, "n=0; until [ -e /sys/kernel/tracing/instances/usb4rdma-* ]; do n=$((n+1)); [ $n -lt 200 ] || exit 1; sleep 0.05; done; sleep 1")?;
    lab.cable(0, "pull", None)?;
    // Seven retries, and the queue pair has failed.
    running.wait()?;
    lab.sh(1, "kill -KILL $(pidof ib_write_bw); true")?;
    server.wait()?;
    lab.sh(0, "kill -INT $(pidof usb4rdma)")?;
    let told = tracing.ok()?;
    lab.cable(0, "plug", None)?;
    ensure!(told.contains("qp_timeout: no acknowledgement in time"), "{told}");
    ensure!(
        told.contains("state RTS -> ERR") && !told.contains("qp_retry"),
        "{told}"
    );
    crate::cases::life::both_up(lab)?;
    let left = lab.sh(
        0,
        "ls /sys/kernel/tracing/instances 2>/dev/null | wc -l; usb4rdma trace --event qp_x; true",
    )?;
    ensure!(left.trim() == "0", "instances are left: {left}");
    for (words, said) in [
        (
            "usb4rdma trace --event qp_x",
            "usb4rdma: there is no event qp_x: there are qp_drop, qp_error, qp_nak, qp_packet, qp_retry, qp_state, qp_timeout\n",
        ),
        (
            "setpriv --reuid 65534 --regid 65534 --clear-groups usb4rdma trace",
            "usb4rdma: trace needs root, as it turns the module's trace events on: `sudo usb4rdma trace`\n",
        ),
    ] {
        let refused = lab.run(0, &["/bin/sh", "-c", words], USUAL)?;
        ensure!(
            refused.status == 1 && refused.errors() == said,
            "{words}: {}",
            refused.errors()
        );
    }
    pair.delete(lab)
}

fn events(lines: &str) -> Result<Vec<Value>> {
    let events: Vec<Value> = lines
        .lines()
        .map(|line| checked("trace", line))
        .collect::<Result<_>>()?;
    ensure!(!events.is_empty(), "no events:\n{lines}");
    Ok(events)
}

/// Bytes of each of the messages that are looked at, and how many of them there are.
const SIZE: u32 = 20_000;
const COUNT: u32 = 5;

fn packets(context: &Context) -> Result<()> {
    super::only_ours(context)?;
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let seen = captured(lab, &pair)?;
    ensure!(
        seen.iter()
            .any(|packet| packet.comment.contains("in a train of 20000 bytes")),
        "{seen:?}"
    );
    pair.delete(lab)
}

fn packets_udp(context: &Context) -> Result<()> {
    super::only_ours(context)?;
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, Kind::Rxe)?;
    let seen = captured(lab, &pair)?;
    ensure!(seen.iter().all(|packet| packet.comment.is_empty()), "{seen:?}");
    pair.delete(lab)
}

/// What tshark says of a packet.
#[derive(Debug)]
struct Seen {
    opcode: u8,
    psn: u32,
    /// Of the IP packet.
    length: u32,
    reth_length: String,
    msn: String,
    comment: String,
}

/// WRITEs of one host to the other, as both forms of the trace have them.
fn captured(lab: &Lab, pair: &Pair) -> Result<Vec<Seen>> {
    let run = |trace: &str| -> Result<String> {
        let words = format!("ib_write_bw -F -n {COUNT} -s {SIZE} -m 4096");
        let server = lab.start(
            1,
            &format!("{words} -d {} -x {}", pair.server.name, pair.server.gid),
            USUAL,
        );
        wait_listen(lab, 1, port())?;
        let client = format!(
            "{words} -d {} -x {} {}",
            pair.client.name, pair.client.gid, pair.server.ipv4
        );
        let said = lab.sh(0, &format!("{trace} -- {client}"))?;
        server.ok()?;
        Ok(said)
    };
    let out = run("usb4rdma trace --event qp_packet --json")?;
    let lines: String = out
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| format!("{line}\n"))
        .collect();
    let told = events(&lines)?;
    let texts: Vec<&str> = told.iter().filter_map(|event| event["text"].as_str()).collect();
    for wanted in ["sends WRITE", "gets acknowledgement", ", 20000 bytes at 0x"] {
        ensure!(texts.iter().any(|text| text.contains(wanted)), "no {wanted}: {texts:?}");
    }

    run("usb4rdma trace --pcap /run/packets.pcapng 2> /run/told")?;
    ensure!(!lab.sh(0, "cat /run/told")?.contains("lost"), "events were lost");
    let file =
        BASE64_STANDARD.decode(lab.sh(0, "base64 -w0 /run/packets.pcapng; rm /run/packets.pcapng /run/told")?)?;
    let seen = tshark(&file)?;
    // SEND may be among them: perftest exchanges nothing by it, but a later one may.
    let writes: Vec<&Seen> = seen
        .iter()
        .filter(|packet| (0x06..=0x0a).contains(&packet.opcode))
        .collect();
    let begun: Vec<&&Seen> = writes
        .iter()
        .filter(|packet| [0x06, 0x0a].contains(&packet.opcode))
        .collect();
    ensure!(begun.len() as u32 >= COUNT, "{seen:?}");
    ensure!(
        begun.iter().all(|packet| packet.reth_length == SIZE.to_string()),
        "{seen:?}"
    );
    // 4096, 4096, 4096, 4096, 3616: headers of IP, UDP, BTH, and ICRC are 44 bytes.
    let last = writes.iter().filter(|packet| packet.opcode == 0x08);
    ensure!(
        last.clone().count() as u32 >= COUNT && last.clone().all(|packet| packet.length == 3616 + 44),
        "{seen:?}"
    );
    let psns: Vec<u32> = writes.iter().map(|packet| packet.psn).collect();
    ensure!(
        psns.windows(2).all(|two| two[1] == (two[0] + 1) & 0x00ff_ffff),
        "PSNs do not follow each other: {psns:?}"
    );
    let answers = seen.iter().filter(|packet| packet.opcode == 0x11);
    ensure!(
        answers.clone().count() > 0 && answers.clone().all(|packet| !packet.msn.is_empty()),
        "{seen:?}"
    );
    Ok(seen)
}

/// tshark of the workloads' root, or of this machine.
fn tshark(file: &[u8]) -> Result<Vec<Seen>> {
    let mut command = Command::new("tshark");
    match paths::root(Root::Workloads)
        .ok()
        .filter(|root| root.join("usr/bin/tshark").exists())
    {
        Some(root) => uml::enter(&mut command, &root),
        None if Command::new("tshark").arg("--version").output().is_ok() => {}
        None => {
            let why = "no tshark, neither in the workloads' root (`make setup-workloads`) nor on this machine";
            return Err(Skip(why.into()).into());
        }
    }
    command.args(["-r", "-", "-n", "-Y", "infiniband", "-T", "fields", "-E", "separator=;"]);
    for field in [
        "infiniband.bth.opcode",
        "infiniband.bth.psn",
        "ip.len",
        "infiniband.reth.dmalen",
        "infiniband.aeth.msn",
        "frame.comment",
    ] {
        command.args(["-e", field]);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("tshark")?;
    child.stdin.take().context("no standard input")?.write_all(file)?;
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success() && !said.is_empty(),
        "tshark: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said.lines()
        .map(seen)
        .collect::<Option<_>>()
        .with_context(|| said.clone())
}

fn seen(line: &str) -> Option<Seen> {
    let fields: Vec<&str> = line.splitn(6, ';').collect();
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    Some(Seen {
        opcode: u8::try_from(number(fields.first()?)?).ok()?,
        psn: number(fields.get(1)?)?,
        length: number(fields.get(2)?)?,
        reth_length: number(fields.get(3)?).map_or(String::new(), |length| length.to_string()),
        msn: (*fields.get(4)?).into(),
        comment: (*fields.get(5)?).into(),
    })
}

fn topo(context: &Context) -> Result<()> {
    super::only_ours(context)?;
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let topos: Vec<String> = (0..2).map(|host| one(lab, host)).collect::<Result<_>>()?;
    lab.put(0, "/run/h1.json", topos[1].as_bytes(), 0o644)?;
    let joined = checked("topo", &lab.ok(0, &["usb4rdma", "topo", "--json", "/run/h1.json"])?)?;
    let cables = joined["cables"].as_array().context("no list")?;
    ensure!(cables.len() == 1 && joined["hosts"] == json!(["h0", "h1"]), "{joined}");
    ensure!(cables[0]["ends"][1]["rdma"] == pair.server.name.as_str(), "{joined}");
    ensure!(cables[0]["ends"][1]["address"] == pair.server.ipv4.as_str(), "{joined}");
    let matrix = lab.ok(0, &["usb4rdma", "topo", "/run/h1.json", "--format", "jaccl"])?;
    let matrix: Value = serde_json::from_str(&matrix)?;
    ensure!(
        matrix == json!([[null, pair.client.name], [pair.server.name, null]]),
        "{matrix}"
    );
    let refused = lab.run(0, &["usb4rdma", "topo", "--format", "jaccl"], USUAL)?;
    ensure!(
        refused.errors().starts_with("usb4rdma: h1 to h0: "),
        "{}",
        refused.errors()
    );
    let text = lab.ok(0, &["usb4rdma", "topo", "/run/h1.json"])?;
    ensure!(text.contains(&format!("1x 80 Gb/s {}", pair.client.name)), "{text}");
    let refused = lab.run(0, &["usb4rdma", "topo", "/etc/passwd"], USUAL)?;
    let said = "usb4rdma: /etc/passwd is not what `usb4rdma topo --json` prints: ";
    ensure!(
        refused.status == 1 && refused.errors().starts_with(said),
        "{}",
        refused.errors()
    );
    lab.sh(0, "rm /run/h1.json")?;
    pair.delete(lab)
}

fn one(lab: &Lab, host: usize) -> Result<String> {
    let text = lab.ok(host, &["usb4rdma", "topo", "--json"])?;
    checked("topo", &text)?;
    Ok(text)
}
