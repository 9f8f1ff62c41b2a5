// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What a guest's kernel holds, and whether it is given back.

use crate::lab::Lab;
use crate::parse;
use anyhow::{ensure, Context as _, Result};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What a kernel holds, after dropping what it may drop.
pub struct Memory {
    slabs: BTreeMap<String, i64>,
    /// Free pages, and those of the caches of which nothing is said.
    free_kib: i64,
    info: BTreeMap<String, i64>,
    vmalloc: usize,
    /// Network devices whose references a checker follows.
    tracked: i64,
}

/// References that the checker remembers of each network device when they were given back, each in a [`TRACKER`].
const REMEMBERED: i64 = 128;
/// The cache of what a followed reference takes.
const TRACKER: &str = "kmalloc-32";
/// A piece of the store in which checkers keep each stack once and for good, KiB. It only grows, so it counts as free.
const POOL_KIB: i64 = 16;
/// Heads of packets that the network stack keeps in its per-processor caches, in use or not.
const HEADS: i64 = 160;
/// Memory that may move by itself, KiB.
const SLACK_KIB: i64 = 6 << 10;

/// Caches of which nothing is said by how many objects they have. Those of files and directories follow what programs
/// touch, not what drivers hold.
const OTHERS: &[&str] = &[
    "dentry",
    "inode",
    "radix_tree",
    "filp",
    "kernfs",
    "buffer_head",
    "vm_area",
    "anon_vma",
    "maple",
    "kmalloc-rcl",
    // What kmemleak and the checker of objects know about the others.
    "kmemleak",
    "debug_objects",
    // Unmapped areas are given back in one go now and then; those in use are counted below.
    "vmap_area",
];
/// Entries of /proc/meminfo that are named where memory is gone: those that changed by as much, KiB.
const CHANGE_KIB: i64 = 512;

/// Time in which what has ended is freed. kfree_rcu, by which objects of user space's handles go, collects for 5 s,
/// waits for a grace period and frees in a work item; namespaces and sockets end in work items some time after their
/// last user.
const SETTLE: Duration = Duration::from_secs(20);
/// Allocating functions that are named for a cache that grew.
const NAMED: usize = 4;

impl Memory {
    /// What the guest holds now, after dropping what it may drop.
    pub fn of(lab: &Lab, host: usize) -> Result<Memory> {
        lab.sh(
            host,
            "sync; echo 3 > /proc/sys/vm/drop_caches; sleep 0.3; echo 3 > /proc/sys/vm/drop_caches; \
                  for c in /sys/kernel/slab/*/shrink; do echo 1 > $c; done 2>/dev/null; true",
        )?;
        let file = |name: &str| lab.ok(host, &["cat", &format!("/proc/{name}")]);
        let tracked = lab.sh(
            host,
            "[ ! -d /sys/kernel/debug/ref_tracker ] || ls /sys/class/net | wc -l",
        )?;
        let pools = lab.sh(
            host,
            "sed -n 's/^pools: //p' /sys/kernel/debug/stackdepot/stats 2>/dev/null || true",
        )?;
        let read = Memory::read(&file("slabinfo")?, &file("meminfo")?, &file("vmallocinfo")?)?;
        Ok(Memory {
            tracked: tracked.trim().parse().unwrap_or(0),
            free_kib: read.free_kib + pools.trim().parse().unwrap_or(0) * POOL_KIB,
            ..read
        })
    }

    /// Reads the three files of /proc.
    pub fn read(slabinfo: &str, meminfo: &str, vmallocinfo: &str) -> Result<Memory> {
        let info = parse::meminfo(meminfo);
        let kib = parse::slab_kib(slabinfo);
        let others: i64 = kib.iter().filter(|(name, _)| is_other(name)).map(|(_, kib)| kib).sum();
        Ok(Memory {
            slabs: parse::slabs(slabinfo),
            free_kib: info.get("MemFree").context("MemFree")? + others,
            info,
            // Areas that are free and not unmapped yet stand in the file as well.
            vmalloc: vmallocinfo.lines().filter(|line| !line.contains("unpurged")).count(),
            tracked: 0,
        })
    }

    /// Fails if the guest still holds more than `self` and `slack` objects of each cache when what ended had its time.
    pub fn returns(&self, lab: &Lab, host: usize, slack: i64) -> Result<()> {
        let settled = Instant::now() + SETTLE;
        loop {
            let Err(error) = self.compare(&Memory::of(lab, host)?, slack) else {
                return Ok(());
            };
            if Instant::now() > settled {
                return Err(error.context(allocations(lab, host)));
            }
            lab.sh(host, "sleep 2")?;
        }
    }

    fn changed(&self, later: &Memory) -> String {
        let changes = later.info.iter().filter_map(|(name, now)| {
            let more = now - self.info.get(name)?;
            (more.abs() >= CHANGE_KIB).then(|| format!("{name} {more:+}"))
        });
        changes.collect::<Vec<_>>().join(", ")
    }

    /// The same without the count of free pages, for a kernel whose checker keeps a store that only grows.
    pub fn of_objects(self) -> Memory {
        Memory { free_kib: 0, ..self }
    }

    /// Fails if `later` holds more than comes and goes by itself: of each slab cache `slack` objects.
    pub fn compare(&self, later: &Memory, slack: i64) -> Result<()> {
        let grown: Vec<String> = later
            .slabs
            .iter()
            .filter_map(|(name, objects)| {
                let more = objects - self.slabs.get(name).copied().unwrap_or(0);
                // The network stack keeps some heads of packets by itself.
                let slack = match name.as_str() {
                    name if name.contains("skbuff_") => slack.max(HEADS),
                    // kmemleak sees each one that is lost, on the kernel that follows references.
                    TRACKER => slack + later.tracked * REMEMBERED,
                    _ => slack,
                };
                (more >= slack && !is_other(name)).then(|| format!("{name} +{more}"))
            })
            .collect();
        ensure!(grown.is_empty(), "slab caches grew: {}", grown.join(", "));
        let lost = self.free_kib - later.free_kib;
        ensure!(
            lost < SLACK_KIB,
            "{lost} KiB of free memory are gone; of /proc/meminfo changed, KiB: {}",
            self.changed(later)
        );
        let areas = later.vmalloc as i64 - self.vmalloc as i64;
        ensure!(areas < slack, "{areas} more vmalloc areas");
        Ok(())
    }
}

fn is_other(cache: &str) -> bool {
    OTHERS.iter().any(|other| cache.contains(other))
}

/// Who allocated most of what lives, where the guest's kernel keeps that (boot word `slab_debug=U`, whole or by cache).
fn allocations(lab: &Lab, host: usize) -> String {
    let line = format!(
        "cd /sys/kernel/debug/slab && for c in kmalloc*; do \
         grep -H '^ *[0-9]' $c/alloc_traces 2>/dev/null | head -n {NAMED} | cut -c 1-100; done"
    );
    match lab.sh(host, &line) {
        Ok(text) if !text.trim().is_empty() => format!("most objects by who allocated them:\n{}", text.trim_end()),
        _ => "who allocated what was not kept (boot word slab_debug=U)".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_of_a_cache_is_a_leak_and_file_caches_are_not() {
        let memory = |objects: i64, name: &str| Memory {
            slabs: BTreeMap::from([(name.to_string(), objects)]),
            free_kib: 1000,
            info: BTreeMap::new(),
            vmalloc: 10,
            tracked: 0,
        };
        assert!(memory(10, "kmalloc-64").compare(&memory(60, "kmalloc-64"), 40).is_err());
        assert!(memory(10, "kmalloc-64").compare(&memory(20, "kmalloc-64"), 40).is_ok());
        assert!(memory(10, "dentry").compare(&memory(600, "dentry"), 40).is_ok());
        let tracking = |memory: Memory| Memory { tracked: 3, ..memory };
        assert!(memory(10, TRACKER).compare(&memory(400, TRACKER), 40).is_err());
        assert!(memory(10, TRACKER).compare(&tracking(memory(400, TRACKER)), 40).is_ok());
        assert!(memory(10, TRACKER)
            .compare(&tracking(memory(600, TRACKER)), 40)
            .is_err());
    }
}
