// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma`, the management tool, on hosts and cables of the lab.

pub mod app;
pub mod bench;
pub mod boot;
pub mod config;
pub mod doctor;
pub mod hardware;
pub mod install;
pub mod report;
pub mod status;
pub mod top;
pub mod torch;
pub mod trace;
pub mod tune;
pub mod up;

use super::Context as Given;
use crate::lab::Lab;
use crate::{paths, schema};
use anyhow::{ensure, Context, Result};
use serde_json::Value;

/// What a verb of the tool prints with `--json`, held to its schema.
fn json(lab: &Lab, host: usize, verb: &str) -> Result<Value> {
    json_and_status(lab, host, verb).map(|(value, _)| value)
}

/// The same with the exit status.
fn json_and_status(lab: &Lab, host: usize, verb: &str) -> Result<(Value, i32)> {
    let output = lab.run(host, &["usb4rdma", verb, "--json"], crate::lab::USUAL)?;
    let value =
        checked(verb, &output.text()).with_context(|| format!("host {host}: {}{}", output.text(), output.errors()))?;
    Ok((value, output.status))
}

/// What a verb has printed with `--json`, held to its schema.
fn checked(verb: &str, text: &str) -> Result<Value> {
    let value: Value = serde_json::from_str(text).with_context(|| format!("usb4rdma {verb} --json"))?;
    let file = paths::project()?.join(format!("userspace/usb4rdma/schema/{verb}.json"));
    let schema = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    schema::check(&serde_json::from_str(&schema)?, &value).with_context(|| format!("usb4rdma {verb} --json"))?;
    Ok(value)
}

/// The codes of what is wrong, in the order in which they were told.
fn codes(findings: &Value) -> Vec<String> {
    let findings = findings.as_array().into_iter().flatten();
    findings
        .filter_map(|finding| finding["code"].as_str())
        .map(String::from)
        .collect()
}

/// Fails unless the host finds nothing wrong.
fn healthy(lab: &Lab, host: usize) -> Result<Value> {
    let status = json(lab, host, "status")?;
    ensure!(
        codes(&status["health"]).is_empty(),
        "host {host} is not well: {}",
        status["health"]
    );
    Ok(status)
}

/// Waits until the host's status tells these codes and no other; changes of cables take their time.
fn until(lab: &Lab, host: usize, wanted: &[&str]) -> Result<()> {
    until_of(lab, host, ("status", "health"), wanted)
}

/// The same of the doctor.
fn until_doctor(lab: &Lab, host: usize, wanted: &[&str]) -> Result<()> {
    until_of(lab, host, ("doctor", "findings"), wanted)
}

fn until_of(lab: &Lab, host: usize, (verb, list): (&str, &str), wanted: &[&str]) -> Result<()> {
    let start = std::time::Instant::now();
    loop {
        let found = codes(&json(lab, host, verb)?[list]);
        if found == wanted {
            return Ok(());
        }
        ensure!(
            start.elapsed() < crate::lab::USUAL,
            "{verb} on host {host} tells {found:?} and not {wanted:?}"
        );
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

/// Cases where the module drives the cables.
fn only_ours(context: &Given) -> Result<()> {
    super::netdev::only_ours(context, "module of ours below it")
}
