// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma report`: everything is in it, and nothing of names and addresses if so wanted.

use super::checked;
use crate::cases::netdev::BOTH;
use crate::cases::{about_net, Case, Context};
use crate::lab::{Lab, USUAL};
use crate::verbs::Pair;
use anyhow::{ensure, Result};

pub const CASES: &[Case] = &[about_net(
    "tool_report",
    "usb4rdma report: a tarball with all parts, as they are on the host; --redact leaves no name and no address in it",
    BOTH,
    report,
)];

/// What a report has, on a host where all of it can be had.
const PARTS: [&str; 13] = [
    "README.txt",
    "doctor.json",
    "doctor.txt",
    "facts.json",
    "log.txt",
    "modprobe.txt",
    "parameters.txt",
    "queue-pairs.txt",
    "status.json",
    "status.txt",
    "top.json",
    "top.txt",
    "versions.txt",
];

fn report(context: &Context) -> Result<()> {
    super::only_ours(context)?;
    let lab = context.lab()?;
    let pair = Pair::add(lab, context.ours, context.ours)?;
    let said = lab.sh(0, "cd /run && usb4rdma report && tar -xzf usb4rdma-report-h0.tar.gz")?;
    ensure!(said.starts_with("usb4rdma-report-h0.tar.gz: 15 files, "), "{said}");
    let files = lab.sh(0, "ls /run/usb4rdma-report")?;
    ensure!(files.split_whitespace().eq(PARTS), "{files}");
    for (verb, file) in [
        ("status", "status.json"),
        ("doctor", "doctor.json"),
        ("top", "top.json"),
    ] {
        checked(verb, &part(lab, file)?)?;
    }
    for (file, word) in [
        ("README.txt", "usb4rdma.toml: the configuration file: not here: "),
        ("versions.txt", "kernel: Linux version 7.3"),
        ("status.txt", "health: nothing is wrong"),
        ("facts.json", pair.client.ipv4.as_str()),
        ("log.txt", "usb4_rdma"),
        ("parameters.txt", "thunderbolt.dma_credits = "),
        ("queue-pairs.txt", "qp 0x"),
        ("top.txt", "nothing to send"),
    ] {
        let text = part(lab, file)?;
        ensure!(text.contains(word), "{file} lacks {word:?}:\n{text}");
    }
    refused(lab)?;
    lab.sh(
        0,
        "cd /run && rm -r usb4rdma-report usb4rdma-report-h0.tar.gz && usb4rdma report --redact --output r.tar.gz && \
         tar -xzf r.tar.gz",
    )?;
    let all = lab.sh(0, "cat /run/usb4rdma-report/*")?;
    let mac = lab.ok(0, &["cat", &format!("/sys/class/net/{}/address", pair.client.netdev)])?;
    let uuid = lab.ok(0, &["cat", "/sys/bus/thunderbolt/devices/0-0/unique_id"])?;
    for secret in [
        &pair.client.ipv4,
        "10.90.",
        mac.trim(),
        uuid.trim(),
        "\"h0\"",
        "\"h1\"",
        "h0,",
    ] {
        ensure!(!all.contains(secret), "{secret} is in the redacted report");
    }
    ensure!(all.contains("host-1, kernel ") && all.contains("ipv4-1/"), "{all}");
    for (verb, file) in [
        ("status", "status.json"),
        ("doctor", "doctor.json"),
        ("top", "top.json"),
    ] {
        checked(verb, &part(lab, file)?)?;
    }
    lab.sh(
        0,
        "cd /run && rm -r usb4rdma-report r.tar.gz && usb4rdma report --output - | tar -tz | grep -q status.json",
    )?;
    pair.delete(lab)
}

fn part(lab: &Lab, file: &str) -> Result<String> {
    lab.ok(0, &["cat", &format!("/run/usb4rdma-report/{file}")])
}

fn refused(lab: &Lab) -> Result<()> {
    for (line, said) in [
        (
            "cd /run && usb4rdma report",
            "usb4rdma: usb4rdma-report-h0.tar.gz: another name by --output: File exists (os error 17)\n",
        ),
        (
            "setpriv --reuid 65534 --regid 65534 --clear-groups usb4rdma report",
            "usb4rdma: report needs root, as it reads the kernel's log and the queue pairs: `sudo usb4rdma report`\n",
        ),
    ] {
        let output = lab.run(0, &["/bin/sh", "-c", line], USUAL)?;
        ensure!(
            output.status == 1 && output.errors() == said,
            "{line}: {}",
            output.errors()
        );
    }
    Ok(())
}
