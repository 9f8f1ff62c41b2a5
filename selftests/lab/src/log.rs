// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Watching guests' kernel logs for signs of trouble.
//!
//! Each guest's console goes to a file. A [`Mark`] remembers a position; [`Mark::trouble`] gives the lines
//! after it that no healthy kernel prints.

use anyhow::{Context, Result};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// What makes a line a sign of trouble.
const SIGNS: &[&str] = &[
    "BUG:",
    // SLUB's reports carry the cache's name here.
    "BUG ",
    "Oops",
    "WARNING:",
    "Call Trace",
    "INFO: ",
    "DEBUG_LOCKS_WARN_ON",
    "lockdep",
    "possible circular locking",
    "possible recursive locking",
    "inconsistent lock state",
    "KASAN",
    "UBSAN",
    "hung task",
    "blocked for more than",
    "refcount_t",
    "Kernel panic",
    "leaked",
    "soft lockup",
    "self-detected stall",
    "detected stalls",
    "detected expedited stalls",
    "kthread starved",
    "sleeping function called",
    "scheduling while atomic",
    "workqueue lockup",
    "ODEBUG",
    "list_add corruption",
    "list_del corruption",
    "Poison overwritten",
    "Redzone overwritten",
    "Bad page state",
    "ref_tracker:",
    "unregister_netdevice: waiting",
    "general protection fault",
    "Segfault with no mm",
    "kmemleak:",
    "DMA-API:",
    "Unknown rela relocation",
    "Unknown symbol",
];

/// Lines that carry one of the signs and mean nothing.
const HARMLESS: &[&str] = &[
    "device links to tunneled native ports are missing",
    "lockdep: fixing up",
    "RCU lockdep checking is enabled",
    "Lock dependency validator",
    "kmemleak: Kernel memory leak detector initialized",
    // On kasan by our own boot word, where it is not judged.
    "kmemleak: Kernel memory leak detector disabled",
    "KernelAddressSanitizer initialized",
    "DMA-API: preallocated",
    "DMA-API: debugging enabled",
];

/// A whole report of the kernel against itself.
struct Excepted {
    /// What its head's line has.
    head: &'static [&'static str],
    /// What one of its lines has, where the head does not say enough.
    with: Option<&'static str>,
    /// What its last line has.
    last: &'static str,
    /// What none of its lines has.
    without: Option<&'static str>,
}

/// The reports that are excepted, with the cause.
const EXCEPTED: &[Excepted] = &[
    // Kernel 7.3: tb_xdp_properties_response() frees its answer when it has been sent, while the request that points to
    // it is in the control channel's queue, where the next packet from the peer is compared with it. Our own messages
    // stay in memory (net/kapi/outbox.rs): a report that names who allocated or freed in our module is ours.
    Excepted {
        head: &["BUG: KASAN: slab-use-after-free in tb_xdomain_match+"],
        with: None,
        last: RULE,
        without: Some("[usb4_rdma]"),
    },
    // Kernel 7.3: tbnet_start_xmit() asks each packet for its transport header, ARP's too, which has none.
    Excepted {
        head: &["WARNING: ", " at skb_transport_header+", "[thunderbolt_net]"],
        with: None,
        last: END,
        without: None,
    },
    // Kernel 7.3: udmabuf does not say how long a segment its device takes, so that 64 KiB count, and maps for the
    // CPU's access in segments as long as pages happen to lie side by side. Who asks for that access (a program, or
    // ib_reg_dmabuf_mr by our module) has no say in it: the device in the report is udmabuf's own, for which nothing of
    // ours maps.
    Excepted {
        head: &["WARNING: ", " at debug_dma_map_sg+"],
        with: Some("DMA-API: misc udmabuf: mapping sg segment longer than device claims to support"),
        last: END,
        without: None,
    },
];

/// What a warning ends with.
const END: &str = "---[ end trace ";

/// What KASAN prints before and after a report.
const RULE: &str = "==================";

/// Lines of context shown after the first bad one.
const CONTEXT: usize = 30;

/// A position in a log file.
#[derive(Clone, Debug)]
pub struct Mark {
    path: PathBuf,
    offset: u64,
}

impl Mark {
    /// The end of the log as it is now. A log that does not exist yet is empty.
    pub fn here(path: &Path) -> Mark {
        let offset = std::fs::metadata(path).map(|m| m.len()).unwrap_or(0);
        Mark {
            path: path.to_path_buf(),
            offset,
        }
    }

    /// The log from its first line on.
    pub fn start(path: &Path) -> Mark {
        Mark {
            path: path.to_path_buf(),
            offset: 0,
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Everything written since the mark.
    pub fn since(&self) -> Result<String> {
        let mut file = File::open(&self.path).with_context(|| format!("log {}", self.path.display()))?;
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
    }

    /// The troubling part of what was written since the mark, with some context, or None.
    pub fn trouble(&self) -> Result<Option<String>> {
        Ok(trouble(&self.since()?))
    }
}

/// The first troubling line of `text` with what follows it, or None.
pub fn trouble(text: &str) -> Option<String> {
    let lines = without_excepted(text);
    let first = lines.iter().position(|line| is_trouble(line))?;
    let end = lines.len().min(first + CONTEXT);
    Some(lines[first..end].join("\n"))
}

/// The lines that belong to no report that is excepted.
pub fn without_excepted(text: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let all: Vec<&str> = text.lines().collect();
    let mut at = 0;
    while let Some(line) = all.get(at) {
        let end = EXCEPTED
            .iter()
            .find(|report| report.head.iter().all(|part| line.contains(part)))
            .and_then(|report| report.end(&all[at..]));
        match end {
            Some(end) => at += end,
            None => {
                lines.push(*line);
                at += 1;
            }
        }
    }
    lines
}

impl Excepted {
    /// Lines of the report that `lines` begin with, or None if it lacks what it must have or has what it must not have.
    fn end(&self, lines: &[&str]) -> Option<usize> {
        let last = lines.iter().skip(1).position(|line| line.contains(self.last));
        let end = last.map_or(lines.len(), |last| last + 2);
        let has = |word: &str| lines[..end].iter().any(|line| line.contains(word));
        (self.with.is_none_or(has) && !self.without.is_some_and(has)).then_some(end)
    }
}

fn is_trouble(line: &str) -> bool {
    SIGNS.iter().any(|sign| line.contains(sign)) && !HARMLESS.iter().any(|fine| line.contains(fine))
}

/// The last `count` lines of a file, for error messages.
pub fn tail(path: &Path, count: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).replace('\r', "");
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_found_with_its_trace() {
        let log = "[1.0] fine\n[2.0] WARNING: CPU: 0 PID: 1 at foo.c:1\n[2.1] Call Trace:\n[2.2]  foo\n";
        let shown = trouble(log).unwrap();
        assert!(shown.starts_with("[2.0] WARNING:") && shown.ends_with("foo"));
    }

    /// Heads of reports as the kernel's checkers print them.
    #[test]
    fn what_the_checkers_say_is_trouble() {
        for head in [
            "BUG kmalloc-64 (Tainted: G           O     ): Poison overwritten",
            "BUG: KASAN: slab-use-after-free in usb4_op_pages_gone+0x1/0x2 [usb4_rdma]",
            "WARNING: possible circular locking dependency detected",
            "WARNING: suspicious RCU usage",
            "INFO: trying to register non-static key.",
            "BUG: sleeping function called from invalid context at kernel/workqueue.c:1",
            "ODEBUG: free active (active state 0) object: 0000000000000000 object type: timer_list hint: f+0x0/0x1",
            "DMA-API: thunderbolt 0000:00:00.0: device driver has pending DMA allocations while released from device",
            "rcu: INFO: rcu_sched detected stalls on CPUs/tasks:",
            "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [ib_write_bw:1]",
            "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
            "list_del corruption, 0000000000000000->next is LIST_POISON1",
            "unregister_netdevice: waiting for usb4net0 to become free. Usage count = 2",
        ] {
            assert_eq!(
                trouble(&format!("[    1.0] {head}")).as_deref(),
                Some(&*format!("[    1.0] {head}"))
            );
        }
    }

    #[test]
    fn an_excepted_report_hides_nothing_but_itself() {
        let rule = "=".repeat(66);
        let own = "BUG: KASAN: slab-use-after-free in tb_xdomain_match+0x1f0/0x24e";
        let report = |head: &str| format!("{rule}\n{head}\nCall Trace:\n [<0>] f\n{rule}\n");
        assert_eq!(trouble(&report(own)), None);
        let other = "BUG: KASAN: slab-use-after-free in usb4_op_pages_gone+0x1/0x2";
        let shown = trouble(&(report(own) + &report(other))).unwrap();
        assert!(shown.starts_with(other), "{shown}");
        let freed_by_us = format!("{rule}\n{own}\nFreed by task 7:\n [<0>] usb4_free+0x1/0x2 [usb4_rdma]\n{rule}\n");
        assert!(trouble(&freed_by_us).unwrap().starts_with(own));
        let end = "---[ end trace 0000000000000000 ]---\n";
        let stock =
            "WARNING: include/linux/skbuff.h:3075 at skb_transport_header+0x4a/0x5c [thunderbolt_net], CPU#1: a/1\n";
        assert_eq!(trouble(&format!("{stock}Call Trace:\n{end}fine\n")), None);
        let ours = stock.replace("thunderbolt_net", "usb4_rdma");
        assert!(trouble(&format!("{ours}Call Trace:\n{end}")).is_some());
        assert!(trouble(&(report(own) + "WARNING: late\n"))
            .unwrap()
            .starts_with("WARNING: late"));
    }

    #[test]
    fn a_segment_that_is_too_long_is_udmabufs_only_on_its_own_device() {
        let head = "WARNING: kernel/dma/debug.c:1231 at debug_dma_map_sg+0x272/0x3bf, CPU#0: one.py/357\n";
        let said = "mapping sg segment longer than device claims to support [len=77824] [max=65536]\n";
        let report = |who: &str, by: &str| format!("{head}DMA-API: {who}: {said}Call Trace:\n{by}\n{END}0 ]---\n");
        let ours = "begin_cpu_udmabuf+0x3a/0x80\nusb4_dmabuf_begin+0x1/0x2 [usb4_rdma]";
        assert_eq!(trouble(&report("misc udmabuf", "begin_cpu_udmabuf+0x3a/0x80")), None);
        assert_eq!(trouble(&report("misc udmabuf", ours)), None);
        assert!(trouble(&report("thunderbolt 0000:00:00.0", ours)).is_some());
    }

    #[test]
    fn the_known_harmless_line_is_not_trouble() {
        assert_eq!(
            trouble("thunderbolt 0000:00:00.0: device links to tunneled native ports are missing!"),
            None
        );
    }

    #[test]
    fn marks_see_only_what_comes_later() {
        let path = std::env::temp_dir().join(format!("usb4lab-mark-{}", std::process::id()));
        std::fs::write(&path, "BUG: old\n").unwrap();
        let mark = Mark::here(&path);
        assert_eq!(mark.trouble().unwrap(), None);
        std::fs::write(&path, "BUG: old\nKASAN: new\n").unwrap();
        assert_eq!(mark.trouble().unwrap().unwrap(), "KASAN: new");
        std::fs::remove_file(&path).unwrap();
    }
}
