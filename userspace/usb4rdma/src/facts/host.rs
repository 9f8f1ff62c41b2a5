// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The machine itself: names, modules, limits, settings.

use super::sysfs::{bus_dir, names, text};
use super::{Host, Netdev, MODULE};
use nix::sys::resource::{getrlimit, Resource, RLIM_INFINITY};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Settings of the IPv4 stack that matter where several cables are in one subnet.
const SYSCTLS: [&str; 3] = ["rp_filter", "arp_ignore", "arp_announce"];
/// Programs that set up network devices by themselves, and the directory of each while it runs.
const MANAGERS: [(&str, &str); 2] = [
    ("NetworkManager", "/run/NetworkManager"),
    ("systemd-networkd", "/run/systemd/netif/links"),
];
/// Where libibverbs looks for its drivers.
const PROVIDERS: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/libibverbs",
    "/usr/lib/aarch64-linux-gnu/libibverbs",
    "/usr/lib64/libibverbs",
    "/usr/lib/libibverbs",
];

pub fn read(sys: &Path) -> Host {
    let kernel = kernel();
    let name = nix::unistd::gethostname().map_or(String::new(), |name| name.to_string_lossy().into_owned());
    Host {
        module_installed: modules().iter().any(|m| m == MODULE) || installed(&kernel, MODULE),
        module_for: elsewhere(&kernel),
        signed_only: signed_only(),
        module_signed: signed(&kernel),
        root: nix::unistd::geteuid().is_root(),
        name,
        kernel,
        bus: bus_dir(sys).is_dir(),
        memlock: match getrlimit(Resource::RLIMIT_MEMLOCK) {
            Ok((soft, _)) if soft != RLIM_INFINITY => Some(soft),
            _ => None,
        },
        sysctl: BTreeMap::new(),
        managers: MANAGERS
            .iter()
            .filter(|(_, dir)| Path::new(dir).exists())
            .map(|(name, _)| name.to_string())
            .collect(),
        governors: governors(sys),
        dma_credits: text(sys.join("module/thunderbolt/parameters/dma_credits")).and_then(|n| n.parse().ok()),
        librxe: librxe(),
    }
}

/// The files that say what sets a processor's clock.
pub fn governor_files(sys: &Path) -> Vec<PathBuf> {
    let cpus = sys.join("devices/system/cpu");
    let file = |name: String| cpus.join(name).join("cpufreq/scaling_governor");
    let is_cpu = |name: &String| name.strip_prefix("cpu").is_some_and(|n| n.parse::<u32>().is_ok());
    names(&cpus)
        .into_iter()
        .filter(is_cpu)
        .map(file)
        .filter(|file| file.exists())
        .collect()
}

fn governors(sys: &Path) -> Vec<String> {
    let mut found: Vec<String> = governor_files(sys).into_iter().filter_map(text).collect();
    found.sort();
    found.dedup();
    found
}

/// Modules that are loaded.
pub fn modules() -> Vec<String> {
    let text = text("/proc/modules").unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split(' ').next())
        .map(String::from)
        .collect()
}

/// The running kernel's release.
fn kernel() -> String {
    nix::sys::utsname::uname().map_or(String::new(), |u| u.release().to_string_lossy().into_owned())
}

/// Whether modprobe would find a module for the running kernel, or it is built in.
pub fn module_installed(module: &str) -> bool {
    installed(&kernel(), module)
}

/// The same for any kernel, by the indices that modprobe reads.
fn installed(kernel: &str, module: &str) -> bool {
    let dir = PathBuf::from("/lib/modules").join(kernel);
    let file = format!("/{module}.ko");
    let lists = |index: &str| {
        text(dir.join(index)).is_some_and(|text| {
            text.lines()
                .any(|line| line.split(':').next().is_some_and(|path| path.contains(&file)))
        })
    };
    lists("modules.dep") || lists("modules.builtin")
}

/// The build id of a loaded module, from the note that the linker makes.
pub fn build_id(module: &str) -> Option<String> {
    // What is before it: the lengths of name and id, a kind, and the name.
    const HEADER: usize = 16;
    let note = std::fs::read(format!("/sys/module/{module}/notes/.note.gnu.build-id")).ok()?;
    Some(note.iter().skip(HEADER).map(|byte| format!("{byte:02x}")).collect())
}

/// What has the kernel take signed modules only.
fn signed_only() -> Option<String> {
    let lockdown = text("/sys/kernel/security/lockdown").unwrap_or_default();
    if ["[integrity]", "[confidentiality]"]
        .iter()
        .any(|mode| lockdown.contains(mode))
    {
        return Some(format!("/sys/kernel/security/lockdown: {lockdown}"));
    }
    let enforced = text("/sys/module/module/parameters/sig_enforce")?;
    (enforced == "Y").then(|| "/sys/module/module/parameters/sig_enforce: Y".into())
}

/// Whether the module's file ends as signed ones do.
fn signed(kernel: &str) -> Option<bool> {
    let dir = PathBuf::from("/lib/modules").join(kernel);
    let index = text(dir.join("modules.dep"))?;
    let file = format!("/{MODULE}.ko");
    let path = index
        .lines()
        .find_map(|line| line.split(':').next().filter(|path| path.ends_with(&file)))?;
    let bytes = std::fs::read(dir.join(path)).ok()?;
    Some(bytes.ends_with(b"~Module signature appended~\n"))
}

/// Other kernels whose modules have ours among them.
fn elsewhere(kernel: &str) -> Vec<String> {
    names("/lib/modules")
        .into_iter()
        .filter(|other| other != kernel && installed(other, MODULE))
        .collect()
}

/// Whether librxe is where libibverbs looks; None where libibverbs itself is not installed.
fn librxe() -> Option<bool> {
    let dirs: Vec<&str> = PROVIDERS.into_iter().filter(|dir| Path::new(dir).is_dir()).collect();
    if dirs.is_empty() {
        return None;
    }
    Some(
        dirs.iter()
            .any(|dir| names(dir).iter().any(|name| name.starts_with("librxe"))),
    )
}

/// The settings of `all` and of the cables' devices, and those above them.
pub fn sysctls(netdevs: &[Netdev]) -> BTreeMap<String, String> {
    let devices = netdevs.iter().map(|netdev| netdev.name.as_str());
    let mut found = BTreeMap::new();
    for device in std::iter::once("all").chain(devices) {
        for key in SYSCTLS {
            if let Some(value) = text(format!("/proc/sys/net/ipv4/conf/{device}/{key}")) {
                found.insert(format!("{device}.{key}"), value);
            }
        }
    }
    found
}
