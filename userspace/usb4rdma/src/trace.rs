// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma trace`: the module's trace events, in words, as they come.
//!
//! Packets are among them where they are asked for ([`packets`]): an event for each costs time, so they are not shown
//! otherwise.
//!
//! They are read through an instance of tracefs of our own, so that whoever else traces is not disturbed; it goes when
//! this ends, by whatever but SIGKILL.

pub mod packets;

use anyhow::{bail, ensure, Context, Result};
use nix::errno::Errno;
use nix::mount::{mount, umount, MsFlags};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use packets::Packet;
use serde::Serialize;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const TRACEFS: &str = "/sys/kernel/tracing";
const EVENTS: &str = "events/usb4_rdma";
/// The event of packets.
pub const PACKET: &str = "qp_packet";
/// KiB of events that each processor keeps until they are read: of packets there may be many.
const BUFFER: &str = "8192";
/// How often the end of a command is looked for.
const LOOK: u16 = 100;

/// One event; a line of `trace --json`, described by schema/trace.json.
#[derive(Debug, PartialEq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Event {
    /// Seconds since boot.
    pub time: f64,
    /// In whose context it happened: often not the one that the queue pair is of.
    pub process: String,
    pub event: String,
    pub device: String,
    pub queue_pair: u32,
    /// What has happened, in words.
    pub text: String,
    /// Of `qp_packet`.
    #[serde(skip)]
    pub packet: Option<Packet>,
}

/// `enum ib_qp_state`, and the events of `enum ib_event_type` that are a queue pair's.
const STATES: [&str; 7] = ["RESET", "INIT", "RTR", "RTS", "SQD", "SQE", "ERR"];
const FAULTS: [(&str, &str); 8] = [
    ("1", "fatal error"),
    ("2", "a request of the peer that makes no sense"),
    ("3", "an access of the peer that is not allowed"),
    ("4", "the first message of the peer has come"),
    ("5", "the send queue is drained"),
    ("14", "error of the shared receive queue"),
    ("15", "the shared receive queue runs low"),
    ("16", "the last receive is done"),
];

impl Event {
    /// One line of trace_pipe; None for what is none of ours.
    fn parse(line: &str) -> Option<Event> {
        // The name of a process may have any character; the CPU in brackets comes after it.
        let (head, rest) = line.rsplit_once("] ")?;
        let (process, _) = head.rsplit_once(" [")?;
        let process = process.trim().rsplit_once('-').map_or(process, |(name, _)| name);
        let mut parts = rest.splitn(3, ": ");
        let time = parts.next()?.split_whitespace().last()?.parse().ok()?;
        let event = parts.next()?.trim();
        let fields: Vec<(&str, &str)> = parts
            .next()?
            .split_whitespace()
            .filter_map(|f| f.split_once('='))
            .collect();
        let field = |name: &str| fields.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        let queue_pair = u32::from_str_radix(field("qpn")?.trim_start_matches("0x"), 16).ok()?;
        let what = field("what").unwrap_or("?");
        let state = |name: &str| {
            let number = field(name).and_then(|number| number.parse::<usize>().ok());
            number.and_then(|number| STATES.get(number)).copied().unwrap_or("?")
        };
        let place = || {
            format!(
                "(to send PSN {}, expects PSN {})",
                field("sq_psn").unwrap_or("?"),
                field("rq_psn").unwrap_or("?")
            )
        };
        let packet = Some(event).filter(|event| *event == PACKET);
        let packet = packet.and_then(|_| Packet::parse(field));
        let text = match event {
            PACKET => packet.as_ref()?.text(),
            "qp_state" => format!("state {} -> {}", state("from"), state("to")),
            "qp_drop" => format!("drops a packet, {what} so far {}", place()),
            "qp_timeout" => format!("no acknowledgement in time, {what} so far {}", place()),
            "qp_retry" => format!("goes back and sends again, {what} so far {}", place()),
            "qp_nak" => match what {
                "1" => format!("tells the peer that packets are missing {}", place()),
                "2" => "tells the peer that no receive is posted".into(),
                "3" => "refuses what the peer asks for".into(),
                "17" => format!("hears from the peer that packets are missing {}", place()),
                "18" => "hears from the peer that no receive is posted there".into(),
                "19" => "hears from the peer that it refuses a request".into(),
                other => format!("NAK {other}"),
            },
            "qp_error" => {
                let fault = FAULTS.iter().find(|(number, _)| *number == what);
                fault.map_or(format!("event {what}"), |(_, words)| words.to_string())
            }
            _ => return None,
        };
        Some(Event {
            time,
            process: process.into(),
            event: event.into(),
            device: field("dev")?.into(),
            queue_pair,
            text,
            packet,
        })
    }

    /// For a person.
    pub fn line(&self) -> String {
        format!(
            "{:.6} {} {:#x} {}: {} [{}]\n",
            self.time, self.device, self.queue_pair, self.event, self.text, self.process
        )
    }
}

/// What is traced, and until when.
#[derive(Debug, Default)]
pub struct Wanted<'w> {
    /// Names such as `qp_state`; none: all but that of packets.
    pub events: &'w [String],
    pub device: Option<&'w str>,
    /// None: until Ctrl-C.
    pub time: Option<Duration>,
    /// Until this ends; it is started when tracing has begun.
    pub command: &'w [String],
}

/// Hands each event over as it comes, until the end or until `show` says false. How many were lost, as nobody came to
/// read them in time.
///
/// # Errors
///
/// No privilege, no tracefs, the module not loaded, no such event, a command that cannot be run.
pub fn trace(wanted: &Wanted, mut show: impl FnMut(&Event) -> Result<bool>) -> Result<u64> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "trace needs root, as it turns the module's trace events on: `sudo usb4rdma trace`"
    );
    // From here on Ctrl-C is a reason to end, and not the end.
    let signals = ends();
    signals.thread_block()?;
    let ended = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let instance = Instance::new(wanted.events)?;
    let mut pipe = instance.pipe()?;
    let start = Instant::now();
    let mut child = start_command(wanted.command)?;
    let (mut kept, mut lost) = (String::new(), 0);
    loop {
        let over = wanted.time.is_some_and(|time| start.elapsed() >= time);
        let child_over = child
            .as_mut()
            .map(|child| child.try_wait().map(|status| status.is_some()))
            .transpose()?;
        let mut fds = [
            PollFd::new(pipe.as_fd(), PollFlags::POLLIN),
            PollFd::new(ended.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::from(LOOK)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let told = fds[1].any().unwrap_or(false);
        let mut on = true;
        read(&mut pipe, &mut kept, |line| {
            lost += lost_before(line);
            let event = Event::parse(line).filter(|event| wanted.device.is_none_or(|device| device == event.device));
            on = on && event.map_or(Ok(true), |event| show(&event))?;
            Ok(on)
        })?;
        if !on || over || told || child_over == Some(true) {
            return Ok(lost);
        }
    }
}

/// The signals that end it.
fn ends() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect()
}

/// Starts a command, which gets signals as it would without us.
fn start_command(words: &[String]) -> Result<Option<Child>> {
    let Some((program, arguments)) = words.split_first() else {
        return Ok(None);
    };
    ends().thread_unblock()?;
    let child = Command::new(program).args(arguments).spawn();
    ends().thread_block()?;
    Ok(Some(child.with_context(|| format!("{program} cannot be run"))?))
}

/// Shows each whole line that has come, until there is none or `show` says false.
fn read(pipe: &mut File, kept: &mut String, mut show: impl FnMut(&str) -> Result<bool>) -> Result<()> {
    let mut bytes = [0; 65536];
    loop {
        match pipe.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(length) => kept.push_str(&String::from_utf8_lossy(&bytes[..length])),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("trace_pipe"),
        }
        let Some(end) = kept.rfind('\n') else { continue };
        for line in kept[..end].lines() {
            if !show(line)? {
                return Ok(());
            }
        }
        kept.drain(..=end);
    }
}

/// How many events were lost, where a line says so.
fn lost_before(line: &str) -> u64 {
    let number = line
        .split_once(" [LOST ")
        .and_then(|(_, rest)| rest.split_once(" EVENTS]"));
    number.and_then(|(number, _)| number.parse().ok()).unwrap_or(0)
}

/// By how much the clock of events, which counts from the boot, is behind the wall's.
pub fn behind() -> Result<Duration> {
    use nix::time::{clock_gettime, ClockId};
    let wall = Duration::from(clock_gettime(ClockId::CLOCK_REALTIME)?);
    Ok(wall.saturating_sub(Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?)))
}

/// An instance of tracefs with the events on; it goes with this.
struct Instance {
    dir: PathBuf,
    mounted: bool,
}

impl Instance {
    fn new(events: &[String]) -> Result<Instance> {
        let root = Path::new(TRACEFS);
        let mut instance = Instance {
            dir: root.join(format!("instances/usb4rdma-{}", std::process::id())),
            mounted: false,
        };
        if !root.join("events").is_dir() {
            let none: Option<&str> = None;
            mount(Some("tracefs"), root, Some("tracefs"), MsFlags::empty(), none)
                .with_context(|| format!("tracefs cannot be mounted on {TRACEFS}: this kernel has no tracing"))?;
            instance.mounted = true;
        }
        let known = crate::facts::names(root.join(EVENTS));
        ensure!(
            !known.is_empty(),
            "the module usb4_rdma has no trace events: it is not loaded (`usb4rdma up`), or the kernel has no tracing"
        );
        let known: Vec<&String> = known.iter().filter(|name| name.starts_with("qp_")).collect();
        for event in events {
            if !known.contains(&event) {
                let known: Vec<&str> = known.iter().map(|name| name.as_str()).collect();
                bail!("there is no event {event}: there are {}", known.join(", "));
            }
        }
        fs::create_dir(&instance.dir).with_context(|| instance.dir.display().to_string())?;
        // That of the wall but for its start, so that packets have a time of day.
        let clock = instance.dir.join("trace_clock");
        fs::write(&clock, "mono").with_context(|| clock.display().to_string())?;
        let chosen: Vec<&String> = if events.is_empty() {
            known.into_iter().filter(|name| *name != PACKET).collect()
        } else {
            events.iter().collect()
        };
        if chosen.iter().any(|name| *name == PACKET) {
            // With less it goes on, and more are lost.
            let _ = fs::write(instance.dir.join("buffer_size_kb"), BUFFER);
        }
        for event in chosen {
            let file = instance.dir.join(EVENTS).join(event).join("enable");
            fs::write(&file, "1").with_context(|| file.display().to_string())?;
        }
        Ok(instance)
    }

    fn pipe(&self) -> Result<File> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        options.open(self.dir.join("trace_pipe")).context("trace_pipe")
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // trace_pipe is closed by now, or the directory would stay.
        let _ = fs::remove_dir(&self.dir);
        if self.mounted {
            let _ = umount(TRACEFS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::same_as_file;

    #[test]
    fn the_schema_is_that_of_the_type() {
        same_as_file("trace.json", schemars::schema_for!(Event));
    }

    #[test]
    fn lines_of_the_kernel_become_sentences() {
        let said = |line| Event::parse(line).map(|event| event.line());
        assert_eq!(
            said("     ib_write_bw-104     [000] b....    17.733000: qp_state: dev=usb4r0 qpn=0xa400a1 from=0 to=1")
                .unwrap(),
            "17.733000 usb4r0 0xa400a1 qp_state: state RESET -> INIT [ib_write_bw]\n"
        );
        assert_eq!(
            said("   my [0] task-1-7  [001] ..s1.  9.5: qp_drop: dev=usb4r0 qpn=0x820001 sq_psn=7 rq_psn=9 what=2").unwrap(),
            "9.500000 usb4r0 0x820001 qp_drop: drops a packet, 2 so far (to send PSN 7, expects PSN 9) [my [0] task-1]\n"
        );
        assert_eq!(
            said("    <idle>-0  [001] ..s1.  9.5: qp_timeout: dev=usb4r0 qpn=0x820001 sq_psn=7 rq_psn=9 what=2")
                .unwrap(),
            "9.500000 usb4r0 0x820001 qp_timeout: no acknowledgement in time, 2 so far (to send PSN 7, expects \
             PSN 9) [<idle>]\n"
        );
        assert!(said("x-1 [0] . 1.0: qp_nak: dev=d qpn=0x1 sq_psn=0 rq_psn=0 what=18")
            .unwrap()
            .contains("no receive"));
        assert_eq!(said("x-1 [0] . 1.0: sched_switch: prev=1"), None);
        assert_eq!(said("# tracer: nop"), None);
        let gid = "00000000000000000000ffff0a550001";
        let line = format!(
            "x-1 [0] . 1.0: qp_packet: dev=d qpn=0x1 out=1 by=0 packets=1 mtu=4096 bytes=0 window=0 sport=49153 src={gid} \
             dst={gid} head=1140ffff0082000100000005000000aa"
        );
        assert!(said(&line)
            .unwrap()
            .contains("sends acknowledgement to 0x820001, PSN 5, ACK, MSN 170"));
    }

    #[test]
    fn lost_events_are_counted() {
        assert_eq!(lost_before("CPU:1 [LOST 42 EVENTS]"), 42);
        assert_eq!(lost_before("x-1 [0] . 1.0: qp_nak: dev=d"), 0);
    }
}
