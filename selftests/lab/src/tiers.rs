// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Which cases run on which kernel, and what the checkers of a kernel say when the case is over.
//!
//! `make check` runs on the smp kernel what [`chosen`] names (`make check-smp` nothing else), CI on the kasan kernel
//! too (`make check-kasan`), `make check-deep` all cases on all kernels but those that [`missing`] names with a reason.

use crate::lab::Lab;
use crate::spec::Kernel;
use anyhow::{bail, Result};
use std::time::Duration;

/// On smp: what creates, destroys and races, and one of each path of data.
const SMP: &[&str] = &[
    "net_rdma_over_ours",
    "net_life",
    "port_let_go",
    "trains_data",
    "trains_sizes",
    "trains_lent",
    "rings_sizes",
    "last_group",
    "group_cut",
    "data_operations",
    "device_regions",
    "services_ours",
    "device_events",
    "error_dead_process",
    "keys",
    "paging",
    "life_rmmod_traffic",
    "life_netdev_gone",
    "fuzz_queues",
    "stress_short",
];

/// On kasan: what reaches freed or foreign memory if anything does. Without fuzz_uverbs and fuzz_queues, which compare
/// slab caches: KASAN's quarantine counts freed objects as live, and one run in three had kmalloc-96 grow by 60.
const KASAN: &[&str] = &[
    "net_rdma_over_ours",
    "net_life",
    "port_let_go",
    "trains_data",
    "trains_sizes",
    "rings_sizes",
    "data_operations",
    "device_regions",
    "keys",
    "paging",
    "life_rmmod_traffic",
    "fail_verbs_short",
    "stress_short",
];

/// What cannot run on a kernel, and why.
const MISSING: &[(Kernel, &str, &str)] = &[
    (Kernel::Smp, "virtual_time_latency", NO_VIRTUAL_TIME),
    (Kernel::Smp, "virtual_time_loss", NO_VIRTUAL_TIME),
    (Kernel::Smp, "virtual_time_group", NO_VIRTUAL_TIME),
    (Kernel::Smp, "virtual_time_unequal", NO_VIRTUAL_TIME),
    (Kernel::Smp, "virtual_time_rings", NO_VIRTUAL_TIME),
    (Kernel::Smp, "virtual_time_spread", NO_VIRTUAL_TIME),
    (Kernel::Smp, "virtual_time_cuts", NO_VIRTUAL_TIME),
    (Kernel::Smp, "virtual_time_cuts_long", NO_VIRTUAL_TIME),
    (Kernel::Smp, "virtual_time_silent", NO_VIRTUAL_TIME),
    (Kernel::Smp, "virtual_time_determinism", NO_VIRTUAL_TIME),
    (Kernel::Smp, "net_soak_virtual", NO_VIRTUAL_TIME),
    (Kernel::Smp, "net_suspend", "arch/um has suspend on one processor only"),
    (Kernel::Smp, "nvme_over_rdma", NVMET),
    (Kernel::Smp, "nvme_with_rxe", NVMET),
    (Kernel::Smp, "group_nvme", NVMET),
];

const NO_VIRTUAL_TIME: &str = "arch/um has virtual time on one processor only";
const NVMET: &str =
    "lockdep reports nvmet of kernel 7.3 against the connection manager (docs/verbs.md) and is off then";

/// The cases of a kernel that every change has to pass; None stands for all but the long ones.
pub fn chosen(kernel: Kernel) -> Option<&'static [&'static str]> {
    match kernel {
        Kernel::Lab => None,
        Kernel::Smp => Some(SMP),
        Kernel::Kasan => Some(KASAN),
    }
}

/// Why a case cannot run on a kernel, None if it can.
pub fn missing(kernel: Kernel, case: &str) -> Option<&'static str> {
    if kernel != Kernel::Lab && ["fair_", "quiet_"].iter().any(|family| case.starts_with(family)) {
        return Some("shares of a processor's time, most of which the kernel's checkers take here");
    }
    let found = MISSING.iter().find(|(k, name, _)| *k == kernel && *name == case);
    found.map(|(_, _, reason)| *reason)
}

/// Fails if a checker turned itself off: what comes after would prove nothing.
pub fn still_checking(lab: &Lab) -> Result<()> {
    if lab.spec.kernel != Kernel::Smp {
        return Ok(());
    }
    for host in 0..lab.spec.hosts {
        let alive = "grep -q 'debug_locks: *1$' /proc/lockdep_stats || { echo lockdep; exit 1; }";
        let said = lab.run(host, &["/bin/sh", "-c", alive], Duration::from_secs(20))?;
        if said.status != 0 {
            bail!("host {host}: {} has turned itself off", said.text().trim());
        }
    }
    Ok(())
}

/// Memory that nothing points to any more: kmemleak's list after two scans, or None.
///
/// On smp only: clang's large code model puts variables into `.lbss`, which arch/um's linker script leaves out of what
/// kmemleak scans, so that on kasan all that hangs on them is listed.
pub fn leaks(lab: &Lab) -> Result<Option<String>> {
    if lab.spec.kernel != Kernel::Smp {
        return Ok(None);
    }
    // kmemleak lists what is older than 5 s and looks the same in two scans.
    let scan = "f=/sys/kernel/debug/kmemleak; sleep 6; echo scan > $f; echo scan > $f; cat $f";
    let mut found = Vec::new();
    for host in 0..lab.spec.hosts {
        let list = lab.ok_within(host, &["/bin/sh", "-c", scan], Duration::from_secs(120))?;
        if !list.trim().is_empty() {
            found.push(format!("host {host}:\n{}", list.trim_end()));
        }
    }
    Ok((!found.is_empty()).then(|| found.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases;

    #[test]
    fn the_lists_name_cases_that_exist() {
        let known: Vec<&str> = cases::all().iter().map(|c| c.name).collect();
        let named = SMP.iter().chain(KASAN).chain(MISSING.iter().map(|(_, name, _)| name));
        for name in named {
            assert!(known.contains(name), "there is no case {name}");
        }
    }

    #[test]
    fn what_is_chosen_can_run() {
        for kernel in [Kernel::Smp, Kernel::Kasan] {
            for name in chosen(kernel).unwrap() {
                assert_eq!(missing(kernel, name), None, "{name} on {}", kernel.name());
            }
        }
    }
}
