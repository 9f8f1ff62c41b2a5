// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Whether a program's bytes went by RDMA: what the RDMA devices and the cables have counted before and after.

use super::Settings;
use crate::facts::Facts;
use anyhow::{Context, Result};
use serde::Serialize;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Fewer bytes than this are what programs tell each other before they begin.
const SOME: u64 = 1 << 16;
/// RDMA is used where it carries this many times what the stack carries.
const MOSTLY: u64 = 8;

/// What was seen.
#[derive(Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Proof {
    pub verdict: Verdict,
    pub seconds: f64,
    /// Of all programs of this host, both ways: by RDMA devices of ours, and by the network stack over the cables.
    pub rdma_bytes: u64,
    pub stack_bytes: u64,
    /// The command's exit status, if one was run.
    pub status: Option<i32>,
    /// The verdict in words.
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It went by RDMA.
    Rdma,
    /// By RDMA, and a good part by the stack.
    Both,
    /// By the stack alone.
    Tcp,
    /// Nothing went over the cables.
    Nothing,
}

impl Proof {
    pub fn status(&self) -> u8 {
        match (self.verdict, self.status) {
            (_, Some(1..)) | (Verdict::Tcp | Verdict::Nothing, _) => 2,
            (Verdict::Both, _) => 1,
            (Verdict::Rdma, _) => 0,
        }
    }

    fn judge(before: &Facts, after: &Facts, seconds: f64, status: Option<i32>) -> Proof {
        let (rdma_bytes, stack_bytes) = moved(before, after);
        let verdict = match (rdma_bytes >= SOME, stack_bytes >= SOME) {
            (true, _) if rdma_bytes >= stack_bytes.saturating_mul(MOSTLY) => Verdict::Rdma,
            (true, _) => Verdict::Both,
            (false, true) => Verdict::Tcp,
            (false, false) => Verdict::Nothing,
        };
        let (rdma, stack) = (size(rdma_bytes), size(stack_bytes));
        let mut text = match verdict {
            Verdict::Rdma => format!("RDMA is used: {rdma} by RDMA, {stack} by the network stack, in {seconds:.1} s"),
            Verdict::Both => format!(
                "RDMA is used for a part: {rdma} by RDMA, {stack} by the network stack, in {seconds:.1} s: another \
                 program's, or the settings do not reach all of its processes"
            ),
            Verdict::Tcp => format!(
                "RDMA is not used: {stack} went over the cables by the network stack and {rdma} by RDMA, in \
                 {seconds:.1} s: `usb4rdma doctor --app` without a command prints the settings; they are for both hosts"
            ),
            Verdict::Nothing => format!(
                "nothing went over the cables in {seconds:.1} s ({rdma} by RDMA, {stack} by the network stack): does \
                 the program name the peer by its address on the cable?"
            ),
        };
        if let Some(failed @ 1..) = status {
            text += &format!("; the command ended with status {failed}");
        }
        Proof {
            verdict,
            seconds,
            rdma_bytes,
            stack_bytes,
            status,
            text,
        }
    }
}

/// Bytes by RDMA and by the stack, both ways. RDMA without trains goes through the network devices and is in their
/// counts too.
fn moved(before: &Facts, after: &Facts) -> (u64, u64) {
    let links = |facts: &Facts| -> u64 {
        let ours = facts.rdma.iter().filter(|link| link.is_ours());
        ours.map(|link| sum(&link.counters, &["sent_bytes", "rcvd_bytes"]))
            .sum()
    };
    let ports = |facts: &Facts, names: &[&str]| -> u64 {
        let ports = facts.netdevs.iter().filter(|netdev| netdev.is_port());
        ports.map(|port| sum(&port.counters, names)).sum()
    };
    let grown = |count: &dyn Fn(&Facts) -> u64| count(after).saturating_sub(count(before));
    let rdma = grown(&links);
    let trains = grown(&|facts| ports(facts, &["tx_rdma_bytes", "rx_rdma_bytes"]));
    let packets = grown(&|facts| ports(facts, &["tx_bytes", "rx_bytes"]));
    (rdma, packets.saturating_sub(rdma.saturating_sub(trains)))
}

fn sum(counters: &std::collections::BTreeMap<String, u64>, names: &[&str]) -> u64 {
    names.iter().filter_map(|name| counters.get(*name)).sum()
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{} kB", bytes / 1000),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

/// Runs a command with a pair's settings, as far as nobody has set others, and judges what went over meanwhile.
///
/// # Errors
///
/// The command cannot be run, or the facts not be read.
pub fn command(
    settings: &Settings,
    words: &[String],
    quiet: bool,
    mut look: impl FnMut() -> Result<Facts>,
) -> Result<Proof> {
    let (program, arguments) = words.split_first().context("no command")?;
    let before = look()?;
    let start = Instant::now();
    let mut command = Command::new(program);
    command.args(arguments);
    for variable in &settings.environment {
        if std::env::var_os(&variable.name).is_none() {
            command.env(&variable.name, &variable.value);
        }
    }
    if quiet {
        // Standard output is for the JSON.
        command.stdout(Stdio::from(
            std::os::fd::AsFd::as_fd(&std::io::stderr()).try_clone_to_owned()?,
        ));
    }
    let status = command.status().with_context(|| format!("{program} cannot be run"))?;
    let seconds = start.elapsed().as_secs_f64();
    let status = status.code().unwrap_or(128);
    Ok(Proof::judge(&before, &look()?, seconds, Some(status)))
}

/// Judges what goes over in a time.
///
/// # Errors
///
/// The facts cannot be read.
pub fn during(time: std::time::Duration, mut look: impl FnMut() -> Result<Facts>) -> Result<Proof> {
    let before = look()?;
    std::thread::sleep(time);
    Ok(Proof::judge(&before, &look()?, time.as_secs_f64(), None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::healthy;

    /// A healthy host that has sent these bytes by RDMA, of these in trains, and has these in its device's count.
    fn host(rdma: u64, trains: u64, packets: u64) -> Facts {
        let mut facts = healthy();
        facts.rdma[0].counters.insert("sent_bytes".into(), rdma);
        facts.netdevs[0].counters.insert("tx_rdma_bytes".into(), trains);
        facts.netdevs[0].counters.insert("rx_bytes".into(), packets);
        facts
    }

    #[test]
    fn bytes_tell_how_they_went() {
        let verdict = |rdma: u64, trains: u64, packets: u64| {
            Proof::judge(&host(7, 7, 7), &host(rdma + 7, trains + 7, packets + 7), 1.0, None).verdict
        };
        assert_eq!(verdict(1 << 30, 1 << 30, 4000), Verdict::Rdma);
        // In runs, through the device's queue.
        assert_eq!(verdict(1 << 30, 0, (1 << 30) + 4000), Verdict::Rdma);
        assert_eq!(verdict(1 << 30, 1 << 30, 1 << 29), Verdict::Both);
        assert_eq!(verdict(300, 300, 1 << 30), Verdict::Tcp);
        assert_eq!(verdict(300, 300, 1000), Verdict::Nothing);
    }

    #[test]
    fn the_worst_is_the_exit_status() {
        let status = |after: Facts, status| Proof::judge(&healthy(), &after, 1.0, status).status();
        let good = || host(1 << 30, 1 << 30, 0);
        assert_eq!(status(good(), None), 0);
        assert_eq!(status(good(), Some(0)), 0);
        assert_eq!(status(good(), Some(3)), 2);
        assert_eq!(status(host(1 << 30, 1 << 30, 1 << 30), Some(0)), 1);
        assert_eq!(status(host(0, 0, 1 << 30), Some(0)), 2);
    }
}
