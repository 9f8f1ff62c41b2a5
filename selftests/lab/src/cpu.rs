// SPDX-License-Identifier: GPL-2.0 OR MIT
//! CPU time of a process and everything below it, from /proc.

use std::collections::HashMap;
use std::fs;

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
