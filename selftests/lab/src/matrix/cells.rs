// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What the matrix consists of.

/// One row of the matrix: a perftest program with its arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    operation: &'static str,
    latency: bool,
    transport: &'static str,
    size: u64,
    qps: u64,
    /// Further arguments, as the table shows them.
    options: &'static str,
}

const KIB4: u64 = 4096;
const MIB: u64 = 1 << 20;
/// Sizes of all but atomics, whose size is 8, and of datagrams, which are no longer than the MTU.
const SIZES: [u64; 3] = [8, KIB4, MIB];
const QPS: [u64; 3] = [1, 8, 64];
/// Each operation with the services that offer it.
const OPERATIONS: [(&str, &[&str]); 4] = [
    ("send", &["RC", "UC", "UD"]),
    ("write", &["RC", "UC"]),
    ("read", &["RC"]),
    ("atomic", &["RC"]),
];
/// Variants of single cells (perftest knows no events for WRITE): operation, service, size, queue pairs, options, for
/// bandwidth and for latency.
const VARIANTS: [(&str, &str, u64, u64, &str, bool, bool); 28] = [
    ("send", "RC", KIB4, 1, "-R", true, true),
    ("send", "UD", KIB4, 1, "-R", true, true),
    ("write", "RC", KIB4, 1, "-R", true, true),
    ("write", "RC", KIB4, 8, "-R", true, false),
    ("read", "RC", KIB4, 1, "-R", true, true),
    ("atomic", "RC", 8, 1, "-R", true, true),
    ("send", "RC", 200, 1, "--inline_size 220", true, true),
    ("send", "UD", 200, 1, "--inline_size 220", true, true),
    ("write", "RC", 200, 1, "--inline_size 220", true, true),
    ("write", "UC", 200, 1, "--inline_size 220", false, true),
    ("send", "RC", KIB4, 1, "--use-srq", true, true),
    ("send", "RC", KIB4, 8, "--use-srq", true, false),
    ("send", "RC", MIB, 1, "--use-srq", true, false),
    ("send", "RC", KIB4, 8, "--use-srq -R", true, false),
    ("send", "RC", KIB4, 1, "-e", true, true),
    ("send", "UD", KIB4, 1, "-e", true, true),
    ("send", "UC", KIB4, 1, "-e", true, false),
    ("read", "RC", KIB4, 1, "-e", true, true),
    ("atomic", "RC", 8, 1, "-e", true, true),
    ("read", "RC", MIB, 8, "-e", true, false),
    ("send", "RC", KIB4, 1, "-b", true, false),
    ("send", "RC", MIB, 1, "-b", true, false),
    ("send", "UC", KIB4, 1, "-b", true, false),
    ("send", "UD", KIB4, 1, "-b", true, false),
    ("write", "RC", KIB4, 1, "-b", true, false),
    ("write", "RC", MIB, 8, "-b", true, false),
    ("read", "RC", MIB, 1, "-b", true, false),
    ("atomic", "RC", 8, 1, "-b", true, false),
];

/// All cells, in the table's order.
pub fn all() -> Vec<Cell> {
    let mut cells = Vec::new();
    let mut add = |operation, latency, transport, size, qps, options| {
        cells.push(Cell {
            operation,
            latency,
            transport,
            size,
            qps,
            options,
        })
    };
    for (operation, transports) in OPERATIONS {
        for &transport in transports {
            let sizes = SIZES.into_iter().filter(|&size| match (operation, transport) {
                ("atomic", _) => size == 8,
                (_, "UD") => size <= KIB4,
                _ => true,
            });
            for size in sizes {
                for qps in QPS {
                    add(operation, false, transport, size, qps, "");
                }
                // perftest measures latency on one queue pair only.
                add(operation, true, transport, size, 1, "");
            }
        }
    }
    for (operation, transport, size, qps, options, bandwidth, latency) in VARIANTS {
        if bandwidth {
            add(operation, false, transport, size, qps, options);
        }
        if latency {
            add(operation, true, transport, size, qps, options);
        }
    }
    cells
}

impl Cell {
    pub fn program(&self) -> String {
        format!("ib_{}_{}", self.operation, if self.latency { "lat" } else { "bw" })
    }

    pub fn transport(&self) -> &'static str {
        self.transport
    }

    pub fn qps(&self) -> u64 {
        self.qps
    }

    pub fn options(&self) -> &'static str {
        self.options
    }

    pub fn size_name(&self) -> String {
        match self.size {
            MIB => "1 MiB".into(),
            KIB4 => "4 KiB".into(),
            bytes => format!("{bytes} B"),
        }
    }

    /// The cell's name, unique.
    pub fn label(&self) -> String {
        let text = format!(
            "{} {} {} {} QPs {}",
            self.program(),
            self.transport,
            self.size_name(),
            self.qps,
            self.options
        );
        text.trim_end().to_string()
    }

    pub fn is_latency(&self) -> bool {
        self.latency
    }

    pub fn uses_cm(&self) -> bool {
        self.options.split(' ').any(|word| word == "-R")
    }

    /// SENDs of several packets, of a service that sends again.
    pub fn has_resends_of_sends(&self) -> bool {
        self.operation == "send" && self.transport == "RC" && self.size > KIB4
    }

    /// Small messages are counted, large ones weighed.
    pub fn counts_messages(&self) -> bool {
        self.size < KIB4
    }

    pub fn unit(&self) -> &'static str {
        match (self.latency, self.counts_messages()) {
            (true, _) => "us",
            (false, true) => "1000 messages/s",
            (false, false) => "MiB/s",
        }
    }

    /// What perftest is given beside device, GID and address.
    pub fn arguments(&self) -> String {
        let mut text = format!("-n {}", self.count());
        if self.operation != "atomic" {
            text += &format!(" -s {}", self.size);
        }
        if self.transport != "RC" {
            text += &format!(" -c {}", self.transport);
        }
        if self.qps > 1 {
            text += &format!(" -q {}", self.qps);
        }
        format!("{text} {}", self.options).trim_end().to_string()
    }

    /// Messages of each queue pair: little, for there are hundreds of cells, and no more than receives that perftest
    /// posts at the start, for unreliable services lose what finds none.
    fn count(&self) -> u64 {
        if self.latency {
            return match self.size {
                MIB => 10,
                _ => 100,
            };
        }
        match (self.size, self.qps) {
            (MIB, 1) => 20,
            (MIB, _) => 5,
            (_, 1) => 500,
            (_, 8) => 100,
            _ => 20,
        }
    }

    /// More than 64 MiB to move.
    pub fn is_heavy(&self) -> bool {
        self.size * self.qps * self.count() > 64 * MIB
    }

    /// Seconds that the run may take.
    pub fn limit(&self) -> u64 {
        if self.is_heavy() {
            60
        } else {
            20
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_combination_is_there_once() {
        let cells = all();
        let labels: HashSet<String> = cells.iter().map(Cell::label).collect();
        assert_eq!(labels.len(), cells.len());
        // send 8, write 6, read 3 and atomic 1 pairs of service and size, each thrice for bandwidth and once for
        // latency.
        let variants: usize = VARIANTS.iter().map(|v| usize::from(v.5) + usize::from(v.6)).sum();
        assert_eq!(cells.len(), 18 * 4 + variants);
        assert!(labels.contains("ib_send_bw UC 1 MiB 64 QPs"));
        assert!(!labels.iter().any(|l| l.contains("UD 1 MiB")));
    }

    #[test]
    fn arguments_are_perftests() {
        let cells = all();
        let of = |label: &str| cells.iter().find(|c| c.label() == label).unwrap().arguments();
        assert_eq!(of("ib_send_bw UD 4 KiB 8 QPs"), "-n 100 -s 4096 -c UD -q 8");
        assert_eq!(of("ib_atomic_lat RC 8 B 1 QPs -R"), "-n 100 -R");
        assert_eq!(
            of("ib_write_lat UC 200 B 1 QPs --inline_size 220"),
            "-n 100 -s 200 -c UC --inline_size 220"
        );
    }
}
