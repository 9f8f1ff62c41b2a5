// SPDX-License-Identifier: GPL-2.0 OR MIT
//! One look at everything that counts.

use crate::facts::{text, Facts};
use nix::unistd::{sysconf, SysconfVar};
use nldev::QueuePair;
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

/// What was counted up to a moment.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Seconds, of any clock.
    pub at: f64,
    pub facts: Facts,
    pub cpu: Cpu,
    /// With the name of the device of each.
    pub queue_pairs: Vec<(String, QueuePair)>,
    /// The processes that have queue pairs: name and seconds of CPU time.
    pub processes: BTreeMap<u32, (String, f64)>,
}

/// Seconds that the processors of this host have spent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cpu {
    pub cores: u32,
    pub busy: f64,
    /// Of these, in softirqs, where packets and interrupts are worked on.
    pub softirq: f64,
}

impl Sample {
    /// Looks. Queue pairs and processes that go meanwhile are left out.
    pub fn take(facts: Facts) -> Sample {
        let mut sample = Sample {
            at: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0.0, |since| since.as_secs_f64()),
            cpu: Cpu::now(),
            ..Sample::default()
        };
        if let Ok(mut rdma) = nldev::Connection::open() {
            for link in facts.rdma.iter().filter(|link| link.is_ours()) {
                let found = rdma.queue_pairs(link.index).unwrap_or_default();
                sample
                    .queue_pairs
                    .extend(found.into_iter().map(|qp| (link.device.clone(), qp)));
            }
        }
        for pid in sample.queue_pairs.iter().filter_map(|(_, qp)| qp.pid) {
            let stat = text(format!("/proc/{pid}/stat")).unwrap_or_default();
            if let Some(process) = process(&stat, ticks()) {
                sample.processes.insert(pid, process);
            }
        }
        sample.facts = facts;
        let ports = sample.facts.netdevs.iter_mut().filter(|netdev| netdev.is_port());
        for netdev in ports.filter(|netdev| netdev.counters.is_empty()) {
            // The stock driver has no counters of its own.
            for counter in ["tx_bytes", "rx_bytes", "tx_packets", "rx_packets"] {
                let count = text(format!("/sys/class/net/{}/statistics/{counter}", netdev.name));
                netdev
                    .counters
                    .extend(count.and_then(|count| Some((counter.to_string(), count.parse().ok()?))));
            }
        }
        sample
    }
}

/// Ticks a second of what /proc counts in.
fn ticks() -> f64 {
    match sysconf(SysconfVar::CLK_TCK) {
        Ok(Some(ticks)) if ticks > 0 => ticks as f64,
        _ => 100.0,
    }
}

impl Cpu {
    /// Up to now.
    pub fn now() -> Cpu {
        Cpu::parse(&text("/proc/stat").unwrap_or_default(), ticks())
    }

    /// Cores that were busy since then.
    pub fn busy_since(&self, then: &Cpu, time: std::time::Duration) -> f64 {
        (self.busy - then.busy).max(0.0) / time.as_secs_f64().max(1e-6)
    }

    /// Of /proc/stat.
    fn parse(stat: &str, ticks: f64) -> Cpu {
        let cores = stat
            .lines()
            .filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "))
            .count();
        let all = stat.lines().find(|line| line.starts_with("cpu ")).unwrap_or_default();
        let spent: Vec<f64> = all.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
        let of = |n: usize| spent.get(n).copied().unwrap_or(0.0) / ticks;
        // user, nice, system, idle, iowait, irq, softirq, steal; guests' time is in user's.
        let busy = [0, 1, 2, 5, 6, 7].map(of).iter().sum();
        Cpu {
            cores: u32::try_from(cores).unwrap_or(1),
            busy,
            softirq: of(6),
        }
    }
}

/// Name and CPU seconds of a process, from its stat file: the name is in brackets and may have any in it.
fn process(stat: &str, ticks: f64) -> Option<(String, f64)> {
    let (start, rest) = stat.rsplit_once(") ")?;
    let (_, name) = start.split_once('(')?;
    let fields: Vec<f64> = rest.split(' ').map(|n| n.parse().unwrap_or(0.0)).collect();
    Some((name.to_string(), (fields.get(11)? + fields.get(12)?) / ticks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_busy_when_they_neither_idle_nor_wait() {
        let cpu = Cpu::parse("cpu  100 10 200 5000 70 5 85 0 0 0\ncpu0 1\ncpu1 2\nintr 9\n", 100.0);
        assert_eq!((cpu.cores, cpu.busy, cpu.softirq), (2, 4.0, 0.85));
    }

    #[test]
    fn a_process_may_have_brackets_in_its_name() {
        let stat = "179 (a) b) R 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20";
        assert_eq!(process(stat, 100.0), Some(("a) b".into(), 2.0)));
        assert_eq!(process("", 100.0), None);
    }
}
