// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma doctor`: each fault is made, found by its code, mended by the command that was printed, and then nothing
//! is found any more.

use super::{codes, json, json_and_status};
use crate::cases::netdev::BOTH;
use crate::cases::{about_net, Case, Context, NetLab};
use crate::lab::{Lab, USUAL};
use anyhow::{bail, ensure, Context as _, Result};
use serde_json::Value;

pub const CASES: &[Case] = &[
    about_net(
        "tool_doctor",
        "usb4rdma doctor on one cable: a fault for each check, found, mended by the printed command, silent afterwards",
        BOTH,
        one_cable,
    ),
    about_net(
        "tool_doctor_bond",
        "the same for what is wrong with two cables: bonds, subnets",
        NetLab { cables: 2, ..BOTH },
        two_cables,
    ),
];

/// Between two looks at something that takes its time.
const POLL: std::time::Duration = std::time::Duration::from_millis(100);

/// How a fault ends.
enum Mend {
    /// By the command that the finding with the code has.
    Printed,
    /// By this one on host 0, or on host 1.
    By(&'static str),
    There(&'static str),
}

/// A fault: its code, the exit status of the doctor, what makes it on host 0, what ends it.
struct Fault {
    code: &'static str,
    status: i32,
    make: &'static str,
    mend: Mend,
}

const fn fault(code: &'static str, status: i32, make: &'static str, mend: Mend) -> Fault {
    Fault {
        code,
        status,
        make,
        mend,
    }
}

/// Faults of a host with one cable, `usb4net0` and `usb4r0`.
const ONE: &[Fault] = &[
    fault(
        "netdev-down",
        2,
        "ip link set usb4net0 down; ip link set usb4net0 mtu 9000",
        Mend::Printed,
    ),
    fault("mtu-low", 1, "ip link set usb4net0 mtu 1500", Mend::Printed),
    fault("no-address", 2, "ip -4 addr flush dev usb4net0", Mend::Printed),
    fault("no-rdma-link", 2, "rdma link del usb4r0", Mend::Printed),
    fault(
        "interrupts-late",
        1,
        "ethtool -C usb4net0 adaptive-rx off rx-usecs 128",
        Mend::Printed,
    ),
    fault(
        "rxe-beside",
        1,
        "rdma link add rxe0 type rxe netdev usb4net0",
        Mend::Printed,
    ),
    fault("no-device-file", 2, "rm /dev/infiniband/uverbs*", Mend::Printed),
    fault(
        "librxe-missing",
        2,
        "mkdir -p /run/kept; mv /usr/lib/*/libibverbs/librxe* /run/kept",
        Mend::By("mv /run/kept/librxe* /usr/lib/*/libibverbs"),
    ),
    fault(
        "config-wrong",
        2,
        "echo 'bonds = true' > /etc/usb4rdma.toml",
        Mend::By("rm /etc/usb4rdma.toml"),
    ),
    fault("name-not-unique", 1, "hostname localhost", Mend::By("hostname h0")),
    fault(
        "peer-unreachable",
        2,
        "true",
        Mend::There("rmmod usb4_rdma; usb4rdma up > /dev/null"),
    ),
    fault(
        "no-netdev",
        2,
        "ip netns add inner; ip link set usb4net0 netns inner",
        Mend::Printed,
    ),
    fault("module-not-loaded", 2, "rmmod usb4_rdma", Mend::Printed),
    fault(
        "module-not-installed",
        2,
        "rmmod usb4_rdma; mv /lib/modules/$(uname -r)/updates/usb4_rdma.ko /run; depmod",
        Mend::By("mv /run/usb4_rdma.ko /lib/modules/$(uname -r)/updates; depmod"),
    ),
    fault(
        "module-other-kernel",
        2,
        "rmmod usb4_rdma; mv /lib/modules/$(uname -r)/updates/usb4_rdma.ko /run; depmod; mkdir /lib/modules/1.0; \
         echo updates/usb4_rdma.ko: > /lib/modules/1.0/modules.dep",
        Mend::By("rm -r /lib/modules/1.0; mv /run/usb4_rdma.ko /lib/modules/$(uname -r)/updates; depmod"),
    ),
];

/// Faults of a host whose two cables are bonded.
const TWO: &[Fault] = &[
    fault("bond-incomplete", 2, "ip link set usb4net1 nomaster", Mend::Printed),
    fault(
        "rdma-below-bond",
        2,
        "rdma link del usb4r0; rdma link add usb4r0 type usb4 netdev usb4net0",
        Mend::Printed,
    ),
    fault("netdev-down", 2, "ip link set usb4bond0 down", Mend::Printed),
];

fn one_cable(context: &Context) -> Result<()> {
    super::only_ours(context)?;
    let lab = context.lab()?;
    fresh(lab)?;
    settle(lab)?;
    memlock(lab)?;
    for fault in ONE {
        play(lab, fault).with_context(|| fault.code)?;
    }
    cables(lab)
}

fn two_cables(context: &Context) -> Result<()> {
    super::only_ours(context)?;
    let lab = context.lab()?;
    fresh(lab)?;
    settle(lab)?;
    for fault in TWO {
        play(lab, fault).with_context(|| fault.code)?;
    }
    primary(lab)?;
    same_subnet(lab)
}

/// Takes away what the lab set up itself, so that all there is comes from the tool.
fn fresh(lab: &Lab) -> Result<()> {
    for host in 0..2 {
        lab.sh(host, "rmmod usb4_rdma")?;
    }
    Ok(())
}

/// Brings both hosts up as a user does where anything is missing, and waits until neither finds anything.
fn settle(lab: &Lab) -> Result<()> {
    let well = |host| -> Result<bool> { Ok(codes(&json(lab, host, "doctor")?["findings"]).is_empty()) };
    if well(0)? && well(1)? {
        return Ok(());
    }
    let running: Vec<_> = (0..2).map(|host| lab.start(host, "usb4rdma up", USUAL)).collect();
    for running in running {
        running.ok()?;
    }
    for host in 0..2 {
        quiet(lab, host)?;
    }
    Ok(())
}

/// Waits until the doctor finds nothing; its status is 0 then.
fn quiet(lab: &Lab, host: usize) -> Result<()> {
    super::until_doctor(lab, host, &[])?;
    lab.ok(host, &["usb4rdma", "doctor"]).map(|_| ())
}

/// Waits for a finding of the code, with this exit status; the finding.
fn found(lab: &Lab, host: usize, code: &str, status: i32) -> Result<Value> {
    let start = std::time::Instant::now();
    loop {
        let (doctor, ended) = json_and_status(lab, host, "doctor")?;
        let findings = doctor["findings"].as_array().cloned().unwrap_or_default();
        let finding = findings.into_iter().find(|finding| finding["code"] == code);
        match finding {
            Some(finding) if ended == status => return Ok(finding),
            _ if start.elapsed() < USUAL / 4 => std::thread::sleep(POLL),
            _ => bail!("status {ended}, not {status} by {code}: {}", doctor["findings"]),
        }
    }
}

fn play(lab: &Lab, fault: &Fault) -> Result<()> {
    if fault.code == "peer-unreachable" {
        lab.sh(1, "ip addr flush dev usb4net0")?;
    }
    lab.sh(0, fault.make)?;
    let finding = found(lab, 0, fault.code, fault.status)?;
    match fault.mend {
        Mend::Printed => {
            let command = finding["fix"]
                .as_str()
                .with_context(|| format!("no command: {finding}"))?;
            lab.sh(0, command)?;
            gone(lab, fault.code)?;
        }
        Mend::By(command) => {
            ensure!(finding["fix"].is_null(), "a command where none helps: {finding}");
            lab.sh(0, command)?;
        }
        Mend::There(command) => lab.sh(1, command).map(|_| ())?,
    }
    // What else the fault took with it.
    settle(lab)
}

/// The printed command alone must end what it is for.
fn gone(lab: &Lab, code: &str) -> Result<()> {
    let start = std::time::Instant::now();
    loop {
        let now = codes(&json(lab, 0, "doctor")?["findings"]);
        if !now.iter().any(|found| found == code) {
            return Ok(());
        }
        ensure!(
            start.elapsed() < USUAL / 4,
            "the printed command does not help: {now:?}"
        );
        std::thread::sleep(POLL);
    }
}

/// A user who may lock 8 MiB; the command raises the limit of the shell that it is typed in.
fn memlock(lab: &Lab) -> Result<()> {
    let doctor = "setpriv --reuid 65534 --regid 65534 --clear-groups usb4rdma doctor --json";
    let line = format!(
        "ulimit -l 8192; {doctor} > /run/first; fix=$(python3 -c \
         'import json; print([f[\"fix\"] for f in json.load(open(\"/run/first\"))[\"findings\"] if f[\"code\"] == \"memlock-low\"][0])'); \
         eval \"$fix\"; {doctor} | grep -c memlock-low; rm /run/first; true"
    );
    let left = lab.sh(0, &line).context("memlock-low")?;
    // The code is always in the list of what was checked.
    ensure!(left.trim() == "1", "memlock-low after its command:\n{left}");
    Ok(())
}

/// What the other host and the cable do.
fn cables(lab: &Lab) -> Result<()> {
    lab.ok(1, &["ip", "link", "set", "usb4net0", "down"])?;
    found(lab, 0, "no-carrier", 2)?;
    lab.ok(1, &["ip", "link", "set", "usb4net0", "up"])?;
    settle(lab)?;
    lab.ok(1, &["rmmod", "usb4_rdma"])?;
    found(lab, 0, "peer-silent", 2)?;
    settle(lab)?;
    // The device outlives the cable: what was set up is there again when the cable is back, slower.
    lab.cable(0, "downgrade", None)?;
    found(lab, 0, "cable-slow", 1)?;
    lab.cable(0, "restore", None)?;
    settle(lab)?;
    lab.cable(0, "pull", None)?;
    found(lab, 0, "no-cable", 2)?;
    lab.cable(0, "plug", None)?;
    settle(lab)
}

/// Bonds that use one cable at a time, each its own: nothing passes until both name the same one.
fn primary(lab: &Lab) -> Result<()> {
    let turn = "for n in 0 1; do ip link set usb4net$n nomaster; done; ip link set usb4bond0 down; \
                ip link set usb4bond0 type bond mode active-backup; \
                for n in 0 1; do ip link set usb4net$n master usb4bond0; done; ip link set usb4bond0 up";
    for host in 0..2 {
        lab.sh(host, turn)?;
    }
    let far = lab.netdev(1, 0)?;
    lab.sh(1, &format!("ip link set usb4bond0 type bond primary {far}"))?;
    lab.sh(
        0,
        &format!("ip link set usb4bond0 type bond active_slave {}", lab.netdev(0, 1)?),
    )?;
    found(lab, 0, "bond-primary", 2)?;
    let finding = found(lab, 0, "peer-unreachable", 2);
    ensure!(finding.is_ok(), "something passed between two cables");
    let finding = found(lab, 0, "bond-primary", 2)?;
    lab.sh(0, finding["fix"].as_str().context("no command")?)?;
    for host in 0..2 {
        quiet(lab, host)?;
    }
    Ok(())
}

/// Both cables without a bond, in one subnet.
fn same_subnet(lab: &Lab) -> Result<()> {
    for host in 0..2 {
        lab.ok(host, &["usb4rdma", "down"])?;
    }
    let running: Vec<_> = (0..2)
        .map(|host| lab.start(host, "usb4rdma up --no-bond", USUAL))
        .collect();
    for running in running {
        running.ok()?;
    }
    quiet(lab, 0)?;
    lab.sh(
        0,
        "for n in 0 1; do ip addr add 10.99.0.$((n+1))/24 dev usb4net$n; done",
    )?;
    let finding = found(lab, 0, "same-subnet", 1)?;
    lab.sh(0, finding["fix"].as_str().context("no command")?)?;
    gone(lab, "same-subnet")?;
    quiet(lab, 0)
}
