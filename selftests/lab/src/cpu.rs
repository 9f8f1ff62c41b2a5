// SPDX-License-Identifier: GPL-2.0 OR MIT
//! CPU time, processors and priority of processes.

use anyhow::{ensure, Context, Result};
use nix::errno::Errno;
use nix::sched::{sched_getaffinity, sched_setaffinity, CpuSet};
use nix::time::{clock_gettime, ClockId};
use nix::unistd::Pid;
use std::collections::HashMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

/// One line of /proc/PID/stat as far as needed here.
struct Stat {
    parent: u32,
    /// User and system time, own and of children already waited for, in clock ticks.
    ticks: u64,
}

/// CPU seconds that a process and its descendants have used. User-mode Linux runs user code in child processes.
pub fn seconds(pid: u32) -> f64 {
    let all = snapshot();
    let ticks: u64 = below(&all, pid)
        .iter()
        .filter_map(|p| all.get(p))
        .map(|s| s.ticks)
        .sum();
    ticks as f64 / ticks_per_second()
}

/// A process and its descendants.
pub fn tree(pid: u32) -> Vec<u32> {
    below(&snapshot(), pid)
}

/// The processors that this program may use.
pub fn usable() -> Result<CpuSet> {
    sched_getaffinity(Pid::from_raw(0)).context("which processors may be used")
}

/// Their numbers.
fn numbers() -> Result<Vec<usize>> {
    let usable = usable()?;
    let all: Vec<usize> = (0..CpuSet::count()).filter(|&n| usable.is_set(n) == Ok(true)).collect();
    ensure!(!all.is_empty(), "no processor may be used");
    Ok(all)
}

/// One processor alone.
fn only(number: usize) -> Result<CpuSet> {
    let mut one = CpuSet::new();
    one.set(number)?;
    Ok(one)
}

/// One of those processors alone: the last, which serves fewer of the machine's interrupts than the first.
pub fn one() -> Result<CpuSet> {
    let all = numbers()?;
    only(all[all.len() - 1])
}

/// Has a program and its children run on one of those processors: the `nth`, counted round.
pub fn pin(command: &mut Command, nth: usize) -> Result<()> {
    let all = numbers()?;
    let one = only(all[nth % all.len()])?;
    // SAFETY: The closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(move || Ok(sched_setaffinity(Pid::from_raw(0), &one)?)) };
    Ok(())
}

/// Has the calling thread run on one of those processors: the `nth`, counted round.
pub fn move_to(nth: usize) -> Result<()> {
    let all = numbers()?;
    sched_setaffinity(Pid::from_raw(0), &only(all[nth % all.len()])?).context("moving to a processor")
}

/// How fast the processor is that this thread runs on: units of work, whatever they are, in a second of its own time.
/// What shares a core or its power changes it from one moment to the next.
pub fn pace() -> Result<f64> {
    const UNITS: u64 = 500_000;
    let spent = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
    let start = spent()?;
    let mut value = 1u64;
    for n in 0..UNITS {
        value = std::hint::black_box(value.rotate_left(5) ^ n);
    }
    std::hint::black_box(value);
    Ok(UNITS as f64 / (spent()? - start).as_secs_f64().max(1e-6))
}

/// Confines a process and its descendants, and those that they start later, to some processors.
pub fn confine(pid: u32, to: &CpuSet) -> Result<()> {
    for process in tree(pid) {
        for thread in fs::read_dir(format!("/proc/{process}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let Some(thread) = thread.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            match sched_setaffinity(Pid::from_raw(thread), to) {
                // It ended meanwhile.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error).with_context(|| format!("confining thread {thread}")),
            }
        }
    }
    Ok(())
}

/// Has a program preempt all ordinary ones: what plays hardware does not wait for those who poll it. Without the
/// privilege it runs as they do.
pub fn as_hardware(command: &mut Command) {
    let first = || {
        let param = libc::sched_param { sched_priority: 1 };
        // SAFETY: The structure is there for the call, which touches this process alone.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_RR, &param) };
        Ok(())
    };
    // SAFETY: The closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(first) };
}

fn below(all: &HashMap<u32, Stat>, pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(all.iter().filter(|(_, s)| s.parent == parent).map(|(p, _)| *p));
        next += 1;
    }
    found
}

fn snapshot() -> HashMap<u32, Stat> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return HashMap::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| Some((pid, parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect()
}

/// Fields after the command name, which is in parentheses and may hold anything.
fn parse(line: &str) -> Option<Stat> {
    let (_, rest) = line.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |n: usize| fields.get(n)?.parse::<u64>().ok();
    Some(Stat {
        parent: number(1)? as u32,
        ticks: number(11)? + number(12)? + number(13)? + number(14)?,
    })
}

fn ticks_per_second() -> f64 {
    // SAFETY: sysconf has no preconditions.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    if ticks > 0 {
        ticks as f64
    } else {
        100.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_is_skipped() {
        let line = "12 (a b) c) S 7 12 12 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 5 6 7";
        let stat = parse(line).unwrap();
        assert_eq!((stat.parent, stat.ticks), (7, 100));
    }

    #[test]
    fn this_process_is_in_its_own_tree() {
        assert!(tree(std::process::id()).contains(&std::process::id()));
    }
}
