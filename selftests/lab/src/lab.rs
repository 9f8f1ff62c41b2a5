// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A lab as the commands and the test cases see it.

use crate::control::{ask, Answer, Output, Request};
use crate::log::Mark;
use crate::spec::{LabSpec, Tier};
use crate::{cpu, log, paths};
use anyhow::{bail, Context, Result};
use base64::{engine::general_purpose::STANDARD, Engine};
use nix::sched::CpuSet;
use serde_json::{json, Value};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Usual time limit of a program in a guest.
pub const USUAL: Duration = Duration::from_secs(60);

/// File in the state directory with the holder's process id.
const PID: &str = "holder.pid";

/// A running lab. Dropping one that was started here and not detached ends it.
pub struct Lab {
    pub spec: LabSpec,
    pub state: PathBuf,
    owned: Option<(Child, ChildStdin)>,
}

impl Lab {
    /// Starts a lab and waits until its cables carry. In virtual time: until its scenarios have ended.
    pub fn up(name: &str, spec: LabSpec) -> Result<Lab> {
        spec.check()?;
        if !nix::unistd::geteuid().is_root() {
            bail!("a lab needs root: it makes namespaces and mounts (try sudo)");
        }
        let state = state_dir(name)?;
        if ask(&state, &Request::Stat).is_ok() {
            bail!("lab {name} is running already: use another --name, or `usb4lab down --name {name}`");
        }
        fs::create_dir_all(&state).with_context(|| format!("{}", state.display()))?;
        for old in fs::read_dir(&state)?.flatten() {
            if old.path().extension().is_some_and(|e| e == "log") {
                fs::remove_file(old.path())?;
            }
        }
        fs::write(state.join("lab.json"), serde_json::to_string_pretty(&spec)?)?;
        // The running program, even if a build has replaced its file meanwhile.
        let mut child = Command::new("/proc/self/exe")
            .arg("hold")
            .arg(&state)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(state.join("holder.log"))?)
            .spawn()
            .context("starting the lab's holder")?;
        fs::write(state.join(PID), child.id().to_string())?;
        let lifeline = child.stdin.take().context("holder without a lifeline")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("holder without output")?).read_line(&mut line)?;
        let lab = Lab {
            spec,
            state,
            owned: Some((child, lifeline)),
        };
        match serde_json::from_str(&line) {
            Ok(Answer::Done(result)) => lab.check_scenario(&result).map(|()| lab),
            Ok(Answer::Failed(error)) => bail!("{error}"),
            Err(_) => bail!(
                "the lab's holder ended early: {}",
                log::tail(&lab.state.join("holder.log"), 10)
            ),
        }
    }

    /// A lab that another command has started and that takes commands.
    pub fn attach(name: &str) -> Result<Lab> {
        let lab = Lab::named(name)?;
        if lab.spec.virtual_time {
            bail!("lab {name} runs in virtual time and takes no commands: put them into its --script");
        }
        Ok(lab)
    }

    /// Ends the lab of this name, whatever it is doing; false if it was not running.
    pub fn down_named(name: &str) -> Result<bool> {
        let lab = Lab::named(name)?;
        if lab.running() {
            lab.down()?;
            return Ok(true);
        }
        // It may be booting, or play a scenario: the holder's end is the end of everything in it.
        let pid: u32 = fs::read_to_string(lab.state.join(PID))
            .ok()
            .and_then(|t| t.trim().parse().ok())
            .unwrap_or(0);
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        let words: Vec<&str> = command.split('\0').collect();
        if words.get(1) != Some(&"hold") || words.get(2).map(Path::new) != Some(&lab.state) {
            return Ok(false);
        }
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::SIGKILL)?;
        Ok(true)
    }

    /// The lab of this name as its state directory describes it.
    fn named(name: &str) -> Result<Lab> {
        let state = state_dir(name)?;
        let text = fs::read_to_string(state.join("lab.json"))
            .with_context(|| format!("there is no lab {name}: start it with `usb4lab up --name {name}`"))?;
        Ok(Lab {
            spec: serde_json::from_str(&text)?,
            state,
            owned: None,
        })
    }

    pub fn running(&self) -> bool {
        ask(&self.state, &Request::Stat).is_ok()
    }

    /// Lets the lab live on after this process.
    pub fn detach(mut self) -> Result<()> {
        if let Some((_, mut lifeline)) = self.owned.take() {
            lifeline.write_all(b"d").context("the lab's holder went away")?;
        }
        Ok(())
    }

    /// Ends the lab.
    pub fn down(mut self) -> Result<()> {
        let asked = ask(&self.state, &Request::Down);
        if self.owned.is_some() {
            self.end();
            return Ok(());
        }
        asked.map(|_| ())
    }

    /// Ends a lab that was started here and removes its state, logs included.
    pub fn discard(mut self) {
        self.end();
        let _ = fs::remove_dir_all(&self.state);
    }

    /// Runs a program in a guest to its end, whatever its status.
    pub fn run(&self, host: usize, argv: &[&str], timeout: Duration) -> Result<Output> {
        let argv = argv.iter().map(|s| s.to_string()).collect();
        exec(&self.state, host, argv, self.patience(timeout))
    }

    /// Runs a program in a guest and insists on status 0; its output.
    pub fn ok(&self, host: usize, argv: &[&str]) -> Result<String> {
        self.ok_within(host, argv, USUAL)
    }

    /// As `ok`, with another time limit.
    pub fn ok_within(&self, host: usize, argv: &[&str], timeout: Duration) -> Result<String> {
        let output = self.run(host, argv, timeout)?;
        check(host, &argv.join(" "), &output, self.patience(timeout))?;
        Ok(output.text())
    }

    /// Runs a line of shell in a guest and insists on status 0; its output.
    pub fn sh(&self, host: usize, line: &str) -> Result<String> {
        let output = self.run(host, &["/bin/sh", "-c", line], USUAL)?;
        check(host, line, &output, self.patience(USUAL))?;
        Ok(output.text())
    }

    /// Starts a program in a guest; it runs beside what follows.
    pub fn start(&self, host: usize, line: &str, timeout: Duration) -> Running {
        let (state, argv) = (
            self.state.clone(),
            vec!["/bin/sh".to_string(), "-c".into(), line.to_string()],
        );
        let timeout = self.patience(timeout);
        let thread = thread::spawn(move || exec(&state, host, argv, timeout));
        Running {
            host,
            line: line.to_string(),
            timeout,
            thread,
        }
    }

    /// A time limit of the lab kernel as this lab's kernel needs it.
    fn patience(&self, timeout: Duration) -> Duration {
        match self.spec.tier {
            Tier::Fast => timeout * self.spec.kernel.slowness(),
            Tier::Stock => timeout,
        }
    }

    /// Puts a file into a guest.
    pub fn put(&self, host: usize, path: &str, content: &[u8], mode: u32) -> Result<()> {
        let content = STANDARD.encode(content);
        ask(
            &self.state,
            &Request::Put {
                host,
                path: path.into(),
                content,
                mode,
            },
        )
        .map(|_| ())
    }

    /// Sends the fabric a command.
    pub fn fabric(&self, body: Value) -> Result<Value> {
        ask(&self.state, &Request::Fabric { body })
    }

    /// Changes a cable: `pull`, `plug`, `rate`, `latency`, `downgrade`, `restore`.
    pub fn cable(&self, cable: usize, op: &str, value: Option<f64>) -> Result<()> {
        let mut body = json!({"cmd": "cable", "op": op, "cable": cable});
        if let Some(value) = value {
            body["value"] = json!(value);
        }
        self.fabric(body).map(|_| ())
    }

    /// Sets faults on all cables.
    pub fn faults(&self, set: Value, seed: u64) -> Result<()> {
        self.fabric(json!({"cmd": "fault", "set": set, "cable": null, "seed": seed}))
            .map(|_| ())
    }

    pub fn clear_faults(&self) -> Result<()> {
        self.fabric(json!({"cmd": "fault", "clear": true})).map(|_| ())
    }

    pub fn stat(&self) -> Result<Value> {
        ask(&self.state, &Request::Stat)
    }

    /// CPU seconds that all guests have used so far.
    pub fn cpu_seconds(&self) -> Result<f64> {
        Ok(self.cpu_of_hosts()?.iter().sum())
    }

    /// The same of hosts 0 and 1, each.
    pub fn cpu_of_pair(&self) -> Result<[f64; 2]> {
        match self.cpu_of_hosts()?.as_slice() {
            [a, b, ..] => Ok([*a, *b]),
            _ => bail!("this lab has no second host"),
        }
    }

    fn cpu_of_hosts(&self) -> Result<Vec<f64>> {
        let stat = self.stat()?;
        let hosts = stat["hosts"].as_array().context("stat without hosts")?;
        Ok(hosts.iter().map(|h| h["cpu_s"].as_f64().unwrap_or(0.0)).collect())
    }

    /// Has the whole lab, guests and cables, run on some of the machine's processors only.
    pub fn confine(&self, to: &CpuSet) -> Result<()> {
        let path = self.state.join(PID);
        let holder = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
        cpu::confine(
            holder.trim().parse().with_context(|| format!("{}", path.display()))?,
            to,
        )
    }

    /// Ends a guest as a power cut would.
    pub fn kill(&self, host: usize) -> Result<()> {
        ask(&self.state, &Request::Kill { host }).map(|_| ())
    }

    /// Starts a guest that was killed; its cables are not brought up.
    pub fn boot(&self, host: usize) -> Result<()> {
        ask(&self.state, &Request::Boot { host }).map(|_| ())
    }

    /// Gives the cables' network devices of a guest their addresses and waits for carrier.
    pub fn net_up(&self, host: usize) -> Result<()> {
        let (mtu, cables) = (self.spec.mtu.to_string(), self.spec.net_args(host));
        let mut argv = vec!["/usb4lab/net-up", "60", &mtu];
        argv.extend(cables.iter().map(String::as_str));
        self.ok_within(host, &argv, Duration::from_secs(90)).map(|_| ())
    }

    /// The network device of a cable in a guest.
    pub fn netdev(&self, host: usize, cable: usize) -> Result<String> {
        let ends = self.spec.ends_of(host);
        let (_, end) = ends
            .iter()
            .find(|(c, _)| *c == cable)
            .with_context(|| format!("cable {cable} does not reach host {host}"))?;
        Ok(self.ok(host, &["/usb4lab/netdev", &end.xdomain()])?.trim().to_string())
    }

    /// Waits until a host's echo requests are answered.
    pub fn wait_ping(&self, from: usize, address: &str, seconds: u32) -> Result<()> {
        let tries = seconds * 2;
        self.sh(
            from,
            &format!(
                "n=0; until ping -q -c 1 -W 0.5 {address} > /dev/null 2>&1; do n=$((n+1)); [ $n -lt {tries} ] || exit 1; sleep 0.05; done"
            ),
        )
        .map(|_| ())
        .with_context(|| format!("host {from} does not reach {address} within {seconds} s"))
    }

    /// Positions at the end of all guests' logs.
    pub fn marks(&self) -> Vec<Mark> {
        (0..self.spec.hosts).map(|h| Mark::here(&self.console(h))).collect()
    }

    pub fn console(&self, host: usize) -> PathBuf {
        self.state.join(format!("h{host}.console.log"))
    }

    fn check_scenario(&self, result: &Value) -> Result<()> {
        let Some(codes) = result["status"].as_array() else {
            return Ok(());
        };
        match codes.iter().position(|code| code != 0) {
            None => Ok(()),
            Some(host) => bail!(
                "the scenario failed on host {host} with status {}; its output is in {}",
                codes[host],
                self.state.join(format!("h{host}.out")).display()
            ),
        }
    }

    fn end(&mut self) {
        if let Some((mut child, lifeline)) = self.owned.take() {
            drop(lifeline);
            let _ = child.wait();
            crate::control::unlink(&self.state);
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.end();
    }
}

/// A program that runs in a guest.
pub struct Running {
    host: usize,
    line: String,
    timeout: Duration,
    thread: JoinHandle<Result<Output>>,
}

impl Running {
    /// Waits for the end, whatever the status.
    pub fn wait(self) -> Result<Output> {
        self.thread
            .join()
            .map_err(|_| anyhow::anyhow!("the thread that ran {:?} panicked", self.line))?
    }

    /// Waits for the end and insists on status 0; the output.
    pub fn ok(self) -> Result<String> {
        let (host, line, timeout) = (self.host, self.line.clone(), self.timeout);
        let output = self.wait()?;
        check(host, &line, &output, timeout)?;
        Ok(output.text())
    }

    pub fn ended(&self) -> bool {
        self.thread.is_finished()
    }
}

fn exec(state: &Path, host: usize, argv: Vec<String>, timeout: Duration) -> Result<Output> {
    let answer = ask(
        state,
        &Request::Exec {
            host,
            argv,
            timeout_s: timeout.as_secs(),
        },
    )?;
    Ok(serde_json::from_value(answer)?)
}

fn check(host: usize, what: &str, output: &Output, timeout: Duration) -> Result<()> {
    let said = || format!("{}{}", output.text(), output.errors());
    match output.status {
        0 => Ok(()),
        124 | 137 => bail!(
            "host {host}: `{what}` did not end within {} s\n{}",
            timeout.as_secs(),
            said().trim_end()
        ),
        status => bail!(
            "host {host}: `{what}` ended with status {status}\n{}",
            said().trim_end()
        ),
    }
}

/// Where a lab of this name keeps its state.
pub fn state_dir(name: &str) -> Result<PathBuf> {
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        bail!("a lab's name is a plain word, not {name:?}");
    }
    Ok(paths::labs()?.join(name))
}
