// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Where the project's built things and the labs' state live.
//!
//! Everything has a default under `build/` of the checkout and an environment variable that overrides it: `USB4_ROOT`,
//! `USB4_ROOT_WORKLOADS`, `USB4_KERNEL`, `USB4_MODULE`, `USB4_STOCK`, `USB4_LAB_DIR`, `USB4_FABRICD`.

use crate::spec::{Kernel, Root, Tier};
use anyhow::{bail, Context, Result};
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What sets the lab up, in a checkout and beside an installed program: both are known by it.
const SETUP: &str = "selftests/setup/setup";

/// The checkout, or where the package has put this program: the nearest directory above the working directory, or above
/// the program, with the scripts that set a lab up.
pub fn project() -> Result<PathBuf> {
    let here = env::current_dir().context("no working directory")?;
    let program = env::current_exe().context("cannot find this program's own path")?;
    for start in [here.as_path(), program.as_path()] {
        if let Some(found) = start.ancestors().find(|d| d.join(SETUP).is_file()) {
            return Ok(found.to_path_buf());
        }
    }
    bail!("not inside a usb4-rdma checkout: change into it, or run the usb4lab under its target directory")
}

/// The command that makes a part of the set-up; `lab` is what every lab needs. A checkout has `make`, which builds the
/// programs as well; a package has them.
pub fn setting_up(part: &str) -> String {
    let checkout = project().is_ok_and(|dir| dir.join("Makefile").is_file());
    match (checkout, part) {
        (true, "lab") => "make setup".to_string(),
        (true, part) => format!("make setup-{part}"),
        (false, part) => format!("usb4lab setup {part}"),
    }
}

/// The script that makes a part of the set-up, ready to run. What an installed one makes is in /var/cache, not in the
/// home of whoever ran it.
pub fn setup_script(part: &str) -> Result<Command> {
    let project = project()?;
    let mut command = Command::new(project.join(SETUP));
    command.arg(part);
    if !project.join("Makefile").is_file() {
        command.env("XDG_CACHE_HOME", "/var/cache");
    }
    Ok(command)
}

/// Parent of all labs' state directories.
pub fn labs() -> Result<PathBuf> {
    match env::var_os("USB4_LAB_DIR") {
        Some(dir) => std::path::absolute(dir).context("USB4_LAB_DIR"),
        None => Ok(project()?.join("build/lab")),
    }
}

/// The Debian tree the guests run on.
pub fn root(root: Root) -> Result<PathBuf> {
    let (variable, default, what, part) = match root {
        Root::Lab => ("USB4_ROOT", "build/root", "the lab's root tree", "lab"),
        Root::Workloads => (
            "USB4_ROOT_WORKLOADS",
            "build/root-workloads",
            "the workloads' root tree",
            "workloads",
        ),
    };
    let path = chosen(variable, default)?;
    present(&path.join("usr/bin"), what, &setting_up(part))?;
    path.canonicalize().with_context(|| format!("{}", path.display()))
}

/// The fast tier's kernel and its modules.
pub struct UmlKernel {
    pub binary: PathBuf,
    /// `lib/modules` with one directory per release, where the kernel has loadable modules.
    pub modules: Option<PathBuf>,
}

/// The fast tier's kernel of the given build.
pub fn uml_kernel(kernel: Kernel) -> Result<UmlKernel> {
    let variable = match kernel {
        Kernel::Lab => "USB4_KERNEL",
        Kernel::Smp => "USB4_KERNEL_SMP",
        Kernel::Kasan => "USB4_KERNEL_KASAN",
    };
    let dir = chosen(variable, &format!("build/kernel/{}", kernel.name()))?;
    let binary = dir.join("linux");
    present(&binary, "the User-mode Linux kernel", &setting_up(kernel.name()))?;
    let modules = dir.join("lib/modules");
    let modules = modules.is_dir().then_some(modules);
    Ok(UmlKernel { binary, modules })
}

/// Directory with the distribution's kernel and modules.
pub fn stock() -> Result<PathBuf> {
    let dir = chosen("USB4_STOCK", "build/stock")?;
    present(&dir, "the distribution kernel's directory", &setting_up("stock"))?;
    Ok(dir)
}

/// Our module for the tier, if it has been built.
pub fn module(tier: Tier, kernel: Kernel) -> Result<Option<PathBuf>> {
    let built_for = match tier {
        Tier::Stock => "stock",
        Tier::Fast => kernel.name(),
    };
    let path = chosen("USB4_MODULE", &format!("build/module/{built_for}/usb4_rdma.ko"))?;
    Ok(path.is_file().then_some(path))
}

/// Whether our module has a driver for the cable's network service.
pub fn has_net_half(tier: Tier, kernel: Kernel) -> Result<bool> {
    // The driver's table of services becomes aliases of the module.
    module_says(tier, kernel, "alias=tbsvc:")
}

/// Whether our module takes a parameter.
pub fn has_parameter(tier: Tier, kernel: Kernel, name: &str) -> Result<bool> {
    module_says(tier, kernel, &format!("parm={name}:"))
}

/// Whether what `modinfo` would read in our module has a text.
fn module_says(tier: Tier, kernel: Kernel, text: &str) -> Result<bool> {
    let Some(path) = module(tier, kernel)? else {
        return Ok(false);
    };
    let bytes = std::fs::read(&path).with_context(|| format!("{}", path.display()))?;
    Ok(bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

/// The program that models routers and cables.
pub fn fabricd() -> Result<PathBuf> {
    if let Some(path) = env::var_os("USB4_FABRICD") {
        return std::path::absolute(path).context("USB4_FABRICD");
    }
    let beside = env::current_exe()?.with_file_name("fabricd");
    present(&beside, "fabricd", "cargo build --release -p fabricd -p lab")?;
    Ok(beside)
}

/// The program that plays hostile users in guests.
pub fn fuzzer() -> Result<PathBuf> {
    let beside = env::current_exe()?.with_file_name("usb4fuzz");
    present(&beside, "usb4fuzz", "make programs")?;
    Ok(beside)
}

/// The program that does everything at once in guests.
pub fn stress() -> Result<PathBuf> {
    let beside = env::current_exe()?.with_file_name("usb4stress");
    present(&beside, "usb4stress", "make programs")?;
    Ok(beside)
}

/// The management tool, which every guest of the fast tier has on its PATH; None if it has not been built.
pub fn tool() -> Result<Option<PathBuf>> {
    let beside = env::current_exe()?.with_file_name("usb4rdma");
    Ok(beside.is_file().then_some(beside))
}

fn chosen(variable: &str, default: &str) -> Result<PathBuf> {
    match env::var_os(variable) {
        Some(path) => std::path::absolute(path).with_context(|| variable.to_string()),
        None => Ok(project()?.join(default)),
    }
}

fn present(path: &Path, what: &str, command: &str) -> Result<()> {
    if !path.exists() {
        bail!("{what} is missing at {}: run `{command}` first", path.display());
    }
    Ok(())
}
