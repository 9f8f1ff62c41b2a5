// SPDX-License-Identifier: GPL-2.0 OR MIT
//! One guest: its process, its channel, and the programs run in it.

use crate::agent::Agent;
use crate::control::Output;
use crate::{
    cpu, log, qemu,
    spec::{LabSpec, Tier},
    uml,
};
use anyhow::{bail, Context, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// Longest wait for a guest's agent, on a loaded machine.
const BOOT: Duration = Duration::from_secs(120);
/// The same under an emulator.
const BOOT_EMULATED: Duration = Duration::from_secs(600);
/// Wait for one answer of an agent that may not listen yet.
const SYNC: Duration = Duration::from_millis(300);
/// File that a fast-tier guest makes when its agent is about to start.
const AGENT: &str = "usb4lab/x/agent";
/// Where a fast-tier guest has file systems of its own.
const GUESTS_OWN: [&str; 5] = ["/run/", "/tmp/", "/dev/", "/sys/", "/proc/"];
/// Bytes of a command beyond which it goes into a file: a serial line holds 4096 before it throttles.
const LONG_COMMAND: usize = 1024;
/// What a program gets beyond its own time limit before the guest counts as stuck.
const GRACE: Duration = Duration::from_secs(15);

/// A guest of a lab, running or not.
pub struct Guest {
    pub host: usize,
    tier: Tier,
    slowness: u32,
    /// Directory of the guest's overlay: `root` is what it sees.
    dir: PathBuf,
    pub console: PathBuf,
    running: Mutex<Option<Running>>,
    next_exec: AtomicU64,
}

struct Running {
    child: Child,
    /// None in virtual time.
    agent: Option<std::sync::Arc<Mutex<Agent>>>,
}

/// How to start a guest and where its agent is heard.
pub struct Launch {
    pub command: Command,
    pub channel: Option<UnixStream>,
}

impl Guest {
    /// A guest that has not been started.
    pub fn new(spec: &LabSpec, host: usize, dir: PathBuf, console: PathBuf) -> Guest {
        Guest {
            host,
            tier: spec.tier,
            slowness: spec.kernel.slowness(),
            dir,
            console,
            running: Mutex::new(None),
            next_exec: AtomicU64::new(1),
        }
    }

    /// What the guest sees as its root, on the fast tier.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Starts the guest's process; does not wait for it.
    pub fn spawn(&self, spec: &LabSpec, mnt: &Path) -> Result<()> {
        let mut running = self.lock();
        if running.is_some() {
            bail!("host {} is running already", self.host);
        }
        let _ = fs::remove_file(self.root().join(AGENT));
        let mut launch = match self.tier {
            Tier::Fast => uml::launch(spec, self.host, &self.root(), &self.console)?,
            Tier::Stock => qemu::launch(spec, self.host, mnt, &self.console)?,
        };
        let child = launch
            .command
            .spawn()
            .with_context(|| format!("starting host {}", self.host))?;
        drop(launch.command);
        let agent = launch
            .channel
            .map(|stream| std::sync::Arc::new(Mutex::new(Agent::new(stream))));
        *running = Some(Running { child, agent });
        Ok(())
    }

    /// Waits until the guest's agent answers.
    pub fn wait_agent(&self) -> Result<()> {
        let until = Instant::now()
            + match self.tier {
                Tier::Fast => BOOT * self.slowness,
                Tier::Stock => BOOT_EMULATED,
            };
        let agent = self.agent()?;
        let mut agent = agent.lock().unwrap_or_else(|e| e.into_inner());
        loop {
            // Asking before the agent listens would pile up questions in the serial line until it throttles,
            // and User-mode Linux does not always come back from that.
            let listens = self.tier == Tier::Stock || self.root().join(AGENT).exists();
            if listens && agent.sync(SYNC).unwrap_or(false) {
                return Ok(());
            }
            if !self.alive() {
                bail!("host {} ended while it booted; {}", self.host, self.last_words());
            }
            if Instant::now() > until {
                bail!("host {} did not come up; {}", self.host, self.last_words());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Runs a program to its end. `timeout` ends it with status 124.
    pub fn exec(&self, argv: &[String], timeout: Duration) -> Result<Output> {
        let id = self.next_exec.fetch_add(1, Ordering::Relaxed);
        let mut full: Vec<String> = ["/bin/sh", "/usb4lab/run"].map(String::from).to_vec();
        if self.tier == Tier::Fast {
            full.push(format!("/usb4lab/x/{id}"));
        } else {
            full.push("-".into());
        }
        full.push(timeout.as_secs().max(1).to_string());
        if self.tier == Tier::Fast && argv.iter().map(String::len).sum::<usize>() > LONG_COMMAND {
            let script = format!("/usb4lab/x/{id}.sh");
            self.put(&script, format!("exec {}\n", quoted(argv)).as_bytes(), 0o755)?;
            full.extend(["/bin/sh".to_string(), script]);
        } else {
            full.extend_from_slice(argv);
        }
        let agent = self.agent()?;
        let pid = agent
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .start(&full, self.tier == Tier::Stock)?;
        let until = Instant::now() + timeout + GRACE;
        let output = match self.tier {
            Tier::Fast => self.await_files(id, until),
            Tier::Stock => self.await_agent(&agent, pid, until),
        }?;
        if self.tier == Tier::Fast {
            // The agent keeps a record of each program until asked for it; the program itself has ended.
            let _ = agent.lock().unwrap_or_else(|e| e.into_inner()).poll(pid);
        }
        Ok(output)
    }

    /// Puts a file into the guest.
    pub fn put(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        if self.tier == Tier::Fast {
            if GUESTS_OWN.iter().any(|dir| path.starts_with(dir)) {
                // The host's side of these is below a mount of the guest's: put it beside and let the guest move it.
                let id = self.next_exec.fetch_add(1, Ordering::Relaxed);
                let beside = format!("/usb4lab/x/{id}.put");
                self.put(&beside, content, mode)?;
                let moved = self.exec(&["mv", &beside, path].map(String::from), Duration::from_secs(20))?;
                if moved.status != 0 {
                    bail!("host {}: {path}: {}", self.host, moved.errors().trim());
                }
                return Ok(());
            }
            let to = self.root().join(path.trim_start_matches('/'));
            let new = to.with_extension("usb4lab-new");
            fs::write(&new, content).with_context(|| format!("host {}: {path}", self.host))?;
            fs::set_permissions(&new, fs::Permissions::from_mode(mode))?;
            fs::rename(&new, &to)?;
            return Ok(());
        }
        let agent = self.agent()?;
        agent
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .write_file(path, content)?;
        let chmod = [String::from("chmod"), format!("{mode:o}"), path.to_string()];
        self.exec(&chmod, Duration::from_secs(20)).map(|_| ())
    }

    /// Ends the guest at once, as pulling its plug would.
    pub fn kill(&self) {
        let mut running = self.lock();
        if let Some(mut run) = running.take() {
            for pid in cpu::tree(run.child.id()) {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), nix::sys::signal::SIGKILL);
            }
            let _ = run.child.wait();
            // User-mode Linux would take its own leavings for a running guest of that name.
            let _ = fs::remove_dir_all(self.root().join("tmp/.uml"));
        }
    }

    /// Whether the guest's process exists.
    pub fn alive(&self) -> bool {
        match self.lock().as_mut() {
            Some(run) => matches!(run.child.try_wait(), Ok(None)),
            None => false,
        }
    }

    /// The guest's process and its descendants' CPU seconds.
    pub fn cpu_seconds(&self) -> f64 {
        let pid = self.lock().as_ref().map(|run| run.child.id());
        pid.map(cpu::seconds).unwrap_or(0.0)
    }

    fn await_files(&self, id: u64, until: Instant) -> Result<Output> {
        let base = self.root().join("usb4lab/x");
        let file = |end: &str| base.join(format!("{id}.{end}"));
        let mut pause = Duration::from_millis(1);
        loop {
            if let Ok(status) = fs::read_to_string(file("rc")) {
                let output = Output {
                    status: status.trim().parse().context("exit status")?,
                    stdout: fs::read(file("out")).unwrap_or_default(),
                    stderr: fs::read(file("err")).unwrap_or_default(),
                };
                for end in ["rc", "out", "err", "sh"] {
                    let _ = fs::remove_file(file(end));
                }
                return Ok(output);
            }
            self.check_progress(until)?;
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(8));
        }
    }

    fn await_agent(&self, agent: &Mutex<Agent>, pid: i64, until: Instant) -> Result<Output> {
        let mut pause = Duration::from_millis(10);
        loop {
            if let Some(done) = agent.lock().unwrap_or_else(|e| e.into_inner()).poll(pid)? {
                return Ok(Output {
                    status: done.status,
                    stdout: done.stdout,
                    stderr: done.stderr,
                });
            }
            self.check_progress(until)?;
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    fn check_progress(&self, until: Instant) -> Result<()> {
        if !self.alive() {
            bail!(
                "host {} ended while a program ran in it; {}",
                self.host,
                self.last_words()
            );
        }
        if Instant::now() > until {
            bail!(
                "host {} is stuck: a program outlived its time limit; {}",
                self.host,
                self.last_words()
            );
        }
        Ok(())
    }

    fn last_words(&self) -> String {
        format!(
            "its console {} ends:\n{}",
            self.console.display(),
            log::tail(&self.console, 15)
        )
    }

    fn agent(&self) -> Result<std::sync::Arc<Mutex<Agent>>> {
        match self.lock().as_ref() {
            Some(Running { agent: Some(agent), .. }) => Ok(agent.clone()),
            Some(_) => bail!(
                "host {} runs in virtual time and takes no commands; use a scenario script",
                self.host
            ),
            None => bail!("host {} is not running; {}", self.host, self.last_words()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// A command as one line of shell.
fn quoted(argv: &[String]) -> String {
    let words: Vec<String> = argv
        .iter()
        .map(|word| format!("'{}'", word.replace('\'', r"'\''")))
        .collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_keeps_every_character() {
        assert_eq!(quoted(&["a b".into(), "it's $HOME".into()]), r"'a b' 'it'\''s $HOME'");
    }
}
