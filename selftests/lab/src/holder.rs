// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The process that holds a lab: its mounts, its guests, its fabric.
//!
//! Three processes in a row. The outer one leaves the caller's session and makes a process and a mount
//! namespace. The first process inside collects orphans. The holder proper starts everything and serves
//! requests. When any of the three ends, the kernel ends all that is in the namespace, so nothing of a lab
//! outlives it, however it was interrupted.
//!
//! Standard input is the lifeline: end of file there ends the lab, unless the byte `d` (detach) came first.
//! Standard output carries one JSON [`Answer`] when the lab is up or has failed to come up.

use crate::control::{self, Answer, Output, Request};
use crate::fabric::Fabric;
use crate::guest::Guest;
use crate::spec::{LabSpec, NetDriver, Tier};
use crate::{cpu, qemu, uml};
use anyhow::{bail, Context, Result};
use base64::{engine::general_purpose::STANDARD, Engine};
use nix::mount::{mount, MsFlags};
use nix::sched::{unshare, CloneFlags};
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::{fork, setsid, ForkResult, Pid};
use serde_json::{json, Value};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// Time that cables have to come up, seconds.
const LINK_SECONDS: u64 = 90;

struct Holder {
    spec: LabSpec,
    mnt: PathBuf,
    fabric: Option<Fabric>,
    guests: Vec<Guest>,
}

/// Entry of the hidden `hold` command. Never returns to its caller's session.
pub fn hold(state: &Path) -> Result<()> {
    let _ = setsid();
    unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS)
        .context("a lab needs root: it makes namespaces and mounts")?;
    // SAFETY: no threads exist yet.
    match unsafe { fork()? } {
        ForkResult::Parent { child } => wait_for(child),
        ForkResult::Child => {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
            // SAFETY: no threads exist yet.
            match unsafe { fork()? } {
                ForkResult::Parent { child } => wait_for(child),
                ForkResult::Child => {
                    let code = report(state);
                    std::process::exit(code)
                }
            }
        }
    }
}

/// Collects children until `child` ends, then exits as it did.
fn wait_for(child: Pid) -> Result<()> {
    // Only the holder proper keeps the caller's pipes, or their readers would wait for us too.
    let null = fs::File::options().read(true).write(true).open("/dev/null")?;
    for fd in 0..2 {
        // SAFETY: both descriptors are valid, and nothing else in this process uses 0 and 1.
        unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&null), fd) };
    }
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => std::process::exit(code),
            Ok(WaitStatus::Signaled(pid, _, _)) if pid == child => std::process::exit(1),
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => std::process::exit(1),
        }
    }
}

fn report(state: &Path) -> i32 {
    match run(state) {
        Ok(()) => 0,
        Err(error) => {
            answer_up(&Answer::Failed(format!("{error:#}")));
            eprintln!("{error:#}");
            control::unlink(state);
            1
        }
    }
}

fn answer_up(answer: &Answer) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{}", serde_json::to_string(answer).unwrap_or_default());
    let _ = out.flush();
}

fn run(state: &Path) -> Result<()> {
    let text = fs::read_to_string(state.join("lab.json")).context("reading the lab's description")?;
    let spec: LabSpec = serde_json::from_str(&text)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("private mounts")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).context("the namespace's own /proc")?;
    let mnt = state.join("mnt");
    fs::create_dir_all(&mnt)?;
    mount(Some("tmpfs"), &mnt, Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).context("the lab's tmpfs")?;
    watch_lifeline();

    let fabric_dir = mnt.join("fabric");
    let fabric = match spec.cables.is_empty() {
        true => None,
        false => Some(Fabric::start(&spec, &fabric_dir, &state.join("fabricd.log"))?),
    };
    let guests: Vec<Guest> = (0..spec.hosts)
        .map(|h| {
            Guest::new(
                &spec,
                h,
                mnt.join(format!("h{h}")),
                state.join(format!("h{h}.console.log")),
            )
        })
        .collect();
    let holder = Arc::new(Holder {
        spec,
        mnt,
        fabric,
        guests,
    });
    holder.prepare(&fabric_dir)?;
    for guest in &holder.guests {
        guest.spawn(&holder.spec, &holder.mnt)?;
    }
    if holder.spec.virtual_time {
        let result = holder.scenario(state)?;
        answer_up(&Answer::Done(result));
        return Ok(());
    }
    if let Err(error) = holder.bring_up(&(0..holder.spec.hosts).collect::<Vec<_>>()) {
        // In order, or the guests' last words are complaints about a vanished fabric.
        holder.end();
        return Err(error);
    }
    let listener = control::listen(state)?;
    answer_up(&Answer::Done(json!({"pid": std::process::id()})));
    for stream in listener.incoming().flatten() {
        let holder = holder.clone();
        let state = state.to_path_buf();
        thread::spawn(move || holder.serve(&stream, &state));
    }
    Ok(())
}

/// Ends this process, and so the lab, when the one who started it goes away.
fn watch_lifeline() {
    thread::spawn(|| {
        let mut byte = [0u8; 1];
        loop {
            match std::io::stdin().read(&mut byte) {
                Ok(1) if byte[0] == b'd' => return,
                Ok(1) => {}
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                _ => std::process::exit(0),
            }
        }
    });
}

impl Holder {
    fn prepare(&self, fabric_dir: &Path) -> Result<()> {
        match self.spec.tier {
            Tier::Fast => {
                let common = self.mnt.join("common");
                uml::common_layer(&self.spec, &common)?;
                for guest in &self.guests {
                    let dir = self.mnt.join(format!("h{}", guest.host));
                    uml::mount_root(&self.spec, &common, &dir, fabric_dir)?;
                    uml::depmod(&guest.root())?;
                }
                Ok(())
            }
            Tier::Stock => qemu::prepare(&self.spec, &self.mnt),
        }
    }

    /// Waits for the agents of `hosts` and brings their cables up, all at once.
    fn bring_up(&self, hosts: &[usize]) -> Result<()> {
        self.each(hosts, |guest| guest.wait_agent())?;
        self.each(hosts, |guest| {
            let cables = self.spec.net_args(guest.host);
            if cables.is_empty() || self.spec.net.contains(&NetDriver::None) {
                return Ok(());
            }
            let mut argv = vec![
                "/usb4lab/net-up".to_string(),
                LINK_SECONDS.to_string(),
                self.spec.mtu.to_string(),
            ];
            argv.extend(cables);
            let output = guest.exec(&argv, Duration::from_secs(LINK_SECONDS + 30))?;
            if output.status != 0 {
                bail!(
                    "host {}: the cables did not come up: {}\nsee {} and fabricd.log beside it",
                    guest.host,
                    output.errors().trim(),
                    guest.console.display()
                );
            }
            Ok(())
        })
    }

    fn each(&self, hosts: &[usize], work: impl Fn(&Guest) -> Result<()> + Sync) -> Result<()> {
        thread::scope(|scope| {
            let work = &work;
            let running: Vec<_> = hosts
                .iter()
                .filter_map(|h| self.guests.get(*h))
                .map(|guest| scope.spawn(move || work(guest)))
                .collect();
            for thread in running {
                thread
                    .join()
                    .map_err(|_| anyhow::anyhow!("a thread of the holder panicked"))??;
            }
            Ok(())
        })
    }

    /// Waits until all guests' scripts have ended, ends the guests and copies what their scenarios left to the state
    /// directory.
    fn scenario(&self, state: &Path) -> Result<Value> {
        let limit = self.spec.scenario_s;
        let until = Instant::now() + Duration::from_secs(limit);
        let rc = |guest: &Guest| fs::read_to_string(guest.root().join("usb4lab/x/rc")).unwrap_or_default();
        while self.guests.iter().any(|guest| !rc(guest).ends_with('\n')) {
            if let Some(guest) = self.guests.iter().find(|guest| !guest.alive()) {
                bail!(
                    "host {} ended before its scenario did; see {}",
                    guest.host,
                    guest.console.display()
                );
            }
            if Instant::now() > until {
                bail!("the scenario did not end within {limit} s; see {}", state.display());
            }
            thread::sleep(Duration::from_millis(20));
        }
        self.end();
        let mut codes = Vec::new();
        for guest in &self.guests {
            let from = guest.root().join("usb4lab/x");
            let to = state.join(format!("h{}.out", guest.host));
            let _ = fs::remove_dir_all(&to);
            fs::create_dir_all(&to)?;
            for entry in fs::read_dir(&from)?.flatten() {
                fs::copy(entry.path(), to.join(entry.file_name()))?;
            }
            let code: i32 = rc(guest)
                .trim()
                .parse()
                .with_context(|| format!("exit status of host {}", guest.host))?;
            codes.push(code);
        }
        Ok(json!({"status": codes}))
    }

    fn serve(&self, stream: &UnixStream, state: &Path) {
        let mut line = String::new();
        if BufReader::new(stream).read_line(&mut line).is_err() || line.is_empty() {
            return;
        }
        let down = matches!(serde_json::from_str(&line), Ok(Request::Down));
        let answer = match serde_json::from_str(&line)
            .map_err(anyhow::Error::from)
            .and_then(|r| self.handle(r))
        {
            Ok(value) => Answer::Done(value),
            Err(error) => Answer::Failed(format!("{error:#}")),
        };
        if down {
            control::unlink(state);
        }
        if let Ok(text) = serde_json::to_string(&answer) {
            let mut stream = stream;
            let _ = stream.write_all((text + "\n").as_bytes());
        }
        if down {
            std::process::exit(0);
        }
    }

    fn handle(&self, request: Request) -> Result<Value> {
        match request {
            Request::Exec { host, argv, timeout_s } => {
                let output: Output = self.guest(host)?.exec(&argv, Duration::from_secs(timeout_s))?;
                Ok(serde_json::to_value(output)?)
            }
            Request::Put {
                host,
                path,
                content,
                mode,
            } => {
                self.guest(host)?.put(&path, &STANDARD.decode(content)?, mode)?;
                Ok(Value::Null)
            }
            Request::Fabric { body } => match &self.fabric {
                Some(fabric) => fabric.ask(&body),
                None => bail!("this lab has no cables: start one with --cables 1"),
            },
            Request::Stat => self.stat(),
            Request::Kill { host } => {
                self.guest(host)?.kill();
                Ok(Value::Null)
            }
            Request::Boot { host } => {
                self.guest(host)?.spawn(&self.spec, &self.mnt)?;
                self.guest(host)?.wait_agent()?;
                Ok(Value::Null)
            }
            Request::Down => {
                self.end();
                Ok(Value::Null)
            }
        }
    }

    fn stat(&self) -> Result<Value> {
        let hosts: Vec<Value> = self
            .guests
            .iter()
            .map(|g| json!({"running": g.alive(), "cpu_s": g.cpu_seconds()}))
            .collect();
        let mut stat = json!({"hosts": hosts});
        if let Some(fabric) = &self.fabric {
            stat["fabric_cpu_s"] = json!(cpu::seconds(fabric.pid()));
            match fabric.ask(&json!({"cmd": "stat"})) {
                Ok(counters) => stat["fabric"] = counters,
                Err(error) => stat["fabric"] = json!({"error": format!("{error:#}")}),
            }
        }
        Ok(stat)
    }

    fn end(&self) {
        for guest in &self.guests {
            guest.kill();
        }
        if let Some(fabric) = &self.fabric {
            fabric.stop();
        }
    }

    fn guest(&self, host: usize) -> Result<&Guest> {
        self.guests
            .get(host)
            .with_context(|| format!("this lab has hosts 0 to {}", self.guests.len() - 1))
    }
}
