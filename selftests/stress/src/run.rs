// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What the threads of a run share, and what each has of its own.

use crate::broker::Broker;
use crate::ring::Ring;
use crate::tally::Tally;
use crate::verbs::{Errno, Result};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

/// A source address of the device: its index and itself.
pub type Gid = (u8, [u64; 2]);

pub struct Run {
    pub device: String,
    pub start: Instant,
    pub until: Instant,
    /// The time is over, or something is wrong.
    stop: AtomicBool,
    /// The device has gone: all is closed, and opened again when it is back.
    removed: AtomicBool,
    pub tally: Mutex<Tally>,
    wrong: Mutex<Vec<String>>,
    pub ring: Ring,
    pub gids: RwLock<Vec<Gid>>,
    pub broker: Option<Broker>,
    /// Time that this process did not get the processor, milliseconds.
    pub starved: AtomicU64,
    /// This process has one thread, so it may fork.
    pub forks: bool,
}

impl Run {
    pub fn new(device: &str, seconds: f64, ring: Ring, broker: Option<Broker>, forks: bool) -> Self {
        let start = Instant::now();
        Self {
            device: device.into(),
            start,
            until: start + Duration::from_secs_f64(seconds),
            stop: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            tally: Mutex::default(),
            wrong: Mutex::default(),
            ring,
            gids: RwLock::default(),
            broker,
            starved: AtomicU64::new(0),
            forks,
        }
    }

    /// Whether the run goes on.
    pub fn goes_on(&self) -> bool {
        !self.stop.load(SeqCst) && Instant::now() < self.until
    }

    /// Whether the device is there as it was opened, and the run goes on.
    pub fn session_goes_on(&self) -> bool {
        self.goes_on() && !self.removed.load(SeqCst)
    }

    pub fn begin_session(&self) {
        self.removed.store(false, SeqCst);
    }

    pub fn end_session(&self) {
        self.removed.store(true, SeqCst);
    }

    /// Something that must not be: said at once, and the end of the run.
    pub fn violation(&self, text: String) {
        eprintln!("violation at {:.3} s: {text}", self.start.elapsed().as_secs_f64());
        self.stop.store(true, SeqCst);
        if let Ok(mut wrong) = self.wrong.lock() {
            wrong.push(text);
        }
    }

    pub fn violations(&self) -> Vec<String> {
        self.wrong.lock().map(|wrong| wrong.clone()).unwrap_or_default()
    }

    pub fn starved(&self) -> Duration {
        Duration::from_millis(self.starved.load(SeqCst))
    }

    /// The addresses of the device, as sysfs has them now.
    pub fn look_up_gids(&self) {
        let port = format!("/sys/class/infiniband/{}/ports/1", self.device);
        let read = |name: String| std::fs::read_to_string(format!("{port}/{name}")).unwrap_or_default();
        let mut found = Vec::new();
        for index in 0..12u8 {
            if read(format!("gid_attrs/types/{index}")).trim() == "RoCE v2" {
                if let Some(gid) = parse_gid(read(format!("gids/{index}")).trim()) {
                    found.push((index, gid));
                }
            }
        }
        if let Ok(mut gids) = self.gids.write() {
            *gids = found;
        }
    }

    pub fn gid(&self, rng: &mut fastrand::Rng) -> Option<Gid> {
        let gids = self.gids.read().ok()?;
        (!gids.is_empty()).then(|| gids[rng.usize(..gids.len())])
    }

    /// An address of ours of the same family as the peer's.
    pub fn gid_towards(&self, peer: &[u64; 2], rng: &mut fastrand::Rng) -> Option<Gid> {
        let gids = self.gids.read().ok()?;
        let alike: Vec<Gid> = gids.iter().copied().filter(|(_, gid)| gid[0] == peer[0]).collect();
        (!alike.is_empty()).then(|| alike[rng.usize(..alike.len())])
    }
}

/// Eight groups of four digits; None for the empty address.
fn parse_gid(text: &str) -> Option<[u64; 2]> {
    let mut bytes = [0u8; 16];
    let mut groups = text.split(':');
    for pair in bytes.chunks_mut(2) {
        pair.copy_from_slice(&u16::from_str_radix(groups.next()?, 16).ok()?.to_be_bytes());
    }
    let half = |at: usize| u64::from_ne_bytes(std::array::from_fn(|index| bytes[at + index]));
    let gid = [half(0), half(8)];
    (gid[1] != 0).then_some(gid)
}

/// What the watchdog knows of a thread.
pub struct Beat {
    pub name: String,
    /// Milliseconds after the start at which the present call began.
    since: AtomicU64,
    doing: Mutex<&'static str>,
    pub steps: AtomicU64,
}

impl Beat {
    pub fn new(name: String) -> Self {
        Self {
            name,
            since: AtomicU64::new(0),
            doing: Mutex::new(""),
            steps: AtomicU64::new(0),
        }
    }

    fn set(&self, run: &Run, doing: &'static str) {
        self.since.store(run.start.elapsed().as_millis() as u64, SeqCst);
        if let Ok(mut now) = self.doing.lock() {
            *now = doing;
        }
        self.steps.fetch_add(1, SeqCst);
    }

    /// What the thread has been doing for how long; None if it has ended.
    pub fn doing(&self, run: &Run) -> Option<(&'static str, Duration)> {
        let doing = self.doing.lock().map(|doing| *doing).unwrap_or("");
        let since = self.since.load(SeqCst);
        let age = (run.start.elapsed().as_millis() as u64).saturating_sub(since);
        (!doing.is_empty()).then(|| (doing, Duration::from_millis(age)))
    }
}

/// A thread's own: chance, counts, and the watchdog's view of it.
pub struct Hand<'a> {
    pub run: &'a Run,
    pub rng: fastrand::Rng,
    pub tally: Tally,
    pub beat: &'a Beat,
}

impl<'a> Hand<'a> {
    pub fn new(run: &'a Run, beat: &'a Beat, seed: u64) -> Self {
        Self {
            run,
            rng: fastrand::Rng::with_seed(seed),
            tally: Tally::default(),
            beat,
        }
    }

    /// Calls a verb: the watchdog sees it, and its result is counted.
    pub fn call<T>(&mut self, name: &'static str, verb: impl FnOnce() -> Result<T>) -> Result<T> {
        self.beat.set(self.run, name);
        let result = verb();
        self.beat.set(self.run, "own work");
        self.tally.add(name, result.as_ref().err().copied().unwrap_or(0));
        if matches!(result, Err(libc::EIO | libc::ENODEV)) {
            self.run.end_session();
        }
        result
    }

    pub fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(..100) < percent
    }

    /// Gives what was counted to the run.
    pub fn hand_in(&mut self) {
        if let Ok(mut all) = self.run.tally.lock() {
            all.take(&mut self.tally);
        }
    }
}

impl Drop for Hand<'_> {
    fn drop(&mut self) {
        self.hand_in();
        self.beat.set(self.run, "");
    }
}

/// Errors that mean that there is no room, or not now.
pub fn is_shortage(errno: Errno) -> bool {
    matches!(errno, libc::ENOMEM | libc::EAGAIN | libc::EBUSY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gids_are_read_as_sysfs_shows_them() {
        let gid = parse_gid("0000:0000:0000:0000:0000:ffff:0a5a:0001").unwrap();
        assert_eq!(gid[1].to_ne_bytes(), [0, 0, 0xff, 0xff, 10, 90, 0, 1]);
        assert_eq!(parse_gid("0000:0000:0000:0000:0000:0000:0000:0000"), None);
        assert_eq!(parse_gid(""), None);
    }
}
