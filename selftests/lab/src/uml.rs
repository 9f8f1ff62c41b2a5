// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The fast tier: a User-mode Linux guest on an overlay of the lab root.
//!
//! Each guest sees the Debian tree through hostfs; what it writes goes to a tmpfs. The kernel binary needs the
//! tree's C library, so it runs in a chroot there.

use crate::guest::Launch;
use crate::spec::{Kernel, LabSpec};
use crate::{cpu, paths};
use anyhow::{bail, Context, Result};
use nix::mount::{mount, MsFlags};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{symlink, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Scripts that every guest gets under /usb4lab.
const SCRIPTS: &[(&str, &str)] = &[
    ("init", include_str!("../guest/init")),
    ("systemd", include_str!("../guest/systemd")),
    ("pin", include_str!("../guest/pin")),
    ("run", include_str!("../guest/run")),
    ("net-up", include_str!("../guest/net-up")),
    ("net-driver", include_str!("../guest/net-driver")),
    ("netdev", include_str!("../guest/netdev")),
    ("gid", include_str!("../guest/gid")),
    ("clean", include_str!("../guest/clean")),
    ("wait-listen", include_str!("../guest/wait-listen")),
    ("mend", include_str!("../guest/mend")),
    ("mkinitramfs", include_str!("../guest/mkinitramfs")),
    ("netdevs", include_str!("../guest/netdevs")),
    ("keys.py", include_str!("../guest/keys.py")),
    ("one.py", include_str!("../guest/one.py")),
    ("caps.py", include_str!("../guest/caps.py")),
    ("nvme", include_str!("../guest/nvme")),
    ("soak.py", include_str!("../guest/soak.py")),
    ("churn.py", include_str!("../guest/churn.py")),
    ("failing.py", include_str!("../guest/failing.py")),
    ("failnth.py", include_str!("../guest/failnth.py")),
    ("fail-net.py", include_str!("../guest/fail-net.py")),
    ("fail-module.py", include_str!("../guest/fail-module.py")),
    ("cm.py", include_str!("../guest/cm.py")),
    ("storms.py", include_str!("../guest/storms.py")),
    ("stream.py", include_str!("../guest/stream.py")),
    ("verbs.py", include_str!("../guest/verbs.py")),
    ("cuts.py", include_str!("../guest/cuts.py")),
    ("allreduce.py", include_str!("../guest/allreduce.py")),
    ("torch-allreduce.py", include_str!("../guest/torch-allreduce.py")),
    ("exchange.c", include_str!("../guest/exchange.c")),
    ("uc.py", include_str!("../guest/uc.py")),
    ("mpi.c", include_str!("../guest/mpi.c")),
    ("torch-steps.py", include_str!("../guest/torch-steps.py")),
    ("torch-fsdp.py", include_str!("../guest/torch-fsdp.py")),
    ("duo.py", include_str!("../guest/duo.py")),
    ("rdma-tests.py", include_str!("../guest/rdma-tests.py")),
];

/// File descriptors of the guest's channel, in and out.
const CHANNEL: [i32; 2] = [3, 4];

/// Builds the layer that all guests of a lab share: scripts, kernel modules, our module, the management tool.
pub fn common_layer(spec: &LabSpec, dir: &Path) -> Result<()> {
    let own = dir.join("usb4lab");
    write_scripts(&own)?;
    fs::write(own.join("cpuinfo"), first_cpu(&fs::read_to_string("/proc/cpuinfo")?))?;
    if let Some(script) = &spec.script {
        fs::copy(script, own.join("scenario")).with_context(|| format!("scenario {}", script.display()))?;
        fs::set_permissions(own.join("scenario"), fs::Permissions::from_mode(0o755))?;
    }
    if let Some(tool) = paths::tool()? {
        let to = dir.join("usr/bin");
        fs::create_dir_all(&to)?;
        fs::copy(&tool, to.join("usb4rdma")).with_context(|| format!("{}", tool.display()))?;
    }
    let kernel = paths::uml_kernel(spec.kernel)?;
    File::create(own.join("linux"))?;
    let module = paths::module(spec.tier, spec.kernel)?;
    let Some(modules) = kernel.modules else {
        if let Some(module) = module {
            fs::copy(&module, own.join("usb4_rdma.ko"))?;
        }
        return Ok(());
    };
    let to = dir.join("usr/lib/modules");
    fs::create_dir_all(&to)?;
    symlink("usr/lib", dir.join("lib"))?;
    for release in fs::read_dir(&modules)?.flatten() {
        let to = to.join(release.file_name());
        copy_tree(&release.path(), &to)?;
        if let Some(module) = &module {
            fs::create_dir_all(to.join("updates"))?;
            fs::copy(module, to.join("updates/usb4_rdma.ko"))?;
        }
    }
    Ok(())
}

/// Puts the guests' scripts into a directory.
pub fn write_scripts(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir.join("x"))?;
    for (name, text) in SCRIPTS {
        fs::write(dir.join(name), text)?;
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Mounts one guest's root from the lab root, the common layer and a fresh upper directory.
pub fn mount_root(spec: &LabSpec, common: &Path, dir: &Path, fabric: &Path) -> Result<()> {
    let (upper, work, root) = (dir.join("upper"), dir.join("work"), dir.join("root"));
    for made in [&upper, &work, &root] {
        fs::create_dir_all(made)?;
    }
    let lower = paths::root(spec.root)?;
    let options = format!(
        "lowerdir={}:{},upperdir={},workdir={}",
        common.display(),
        lower.display(),
        upper.display(),
        work.display()
    );
    mount(
        Some("overlay"),
        &root,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .context("mounting the guest's overlay: the running kernel needs overlayfs")?;
    let none: Option<&str> = None;
    mount(Some("proc"), &root.join("proc"), Some("proc"), MsFlags::empty(), none)?;
    mount(Some("tmpfs"), &root.join("tmp"), Some("tmpfs"), MsFlags::empty(), none)?;
    mount(
        Some("/dev"),
        &root.join("dev"),
        none,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        none,
    )?;
    bind(&paths::uml_kernel(spec.kernel)?.binary, &root.join("usb4lab/linux"))?;
    if !spec.cables.is_empty() {
        fs::create_dir_all(root.join("usb4lab/fabric"))?;
        bind(fabric, &root.join("usb4lab/fabric"))?;
    }
    Ok(())
}

/// Indexes the modules of a guest's root, so that aliases load them.
pub fn depmod(root: &Path) -> Result<()> {
    let Ok(releases) = fs::read_dir(root.join("usr/lib/modules")) else {
        return Ok(());
    };
    for release in releases.flatten() {
        let mut command = Command::new("/usr/sbin/depmod");
        command.arg(release.file_name()).env_clear();
        enter(&mut command, root);
        let output = command.output().context("depmod in the lab root")?;
        if !output.status.success() {
            bail!("depmod failed: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    Ok(())
}

/// The command that boots a guest.
pub fn launch(spec: &LabSpec, host: usize, root: &Path, console: &Path) -> Result<Launch> {
    let log = File::options().create(true).append(true).open(console)?;
    let mut command = Command::new("/usb4lab/linux");
    command
        .arg(format!("mem={}M", spec.memory_mib.max(spec.kernel.least_memory_mib())))
        .args(boot_words(spec))
        .args([
            "root=/dev/root",
            "rootfstype=hostfs",
            "rootflags=/",
            "rw",
            "init=/usb4lab/init",
        ])
        .args(["con=null", "con0=null,fd:1", "virtio_pcidev.max_delay_us=10000000"])
        .arg(format!("umid=h{host}"))
        .arg(format!("usb4lab_host={host}"))
        .arg(format!("usb4lab_net={}", spec.net_of(host).name()))
        .args(spec.append.split_whitespace());
    if !spec.cables.is_empty() {
        for nhi in 0..spec.nhis {
            command.arg(format!("virtio_uml.device=/usb4lab/fabric/h{host}n{nhi}.sock:1234"));
        }
    }
    command
        .env_clear()
        .env("HOME", "/tmp")
        .env("TMPDIR", "/tmp")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    if spec.pinned {
        cpu::pin(&mut command, host)?;
    }
    if spec.virtual_time {
        command
            .arg(format!("time-travel=ext:{host}:/usb4lab/fabric/tt"))
            .arg("usb4lab_scenario=1");
        enter(&mut command, root);
        return Ok(Launch { command, channel: None });
    }
    command.arg(format!("ssl0=fd:{},fd:{}", CHANNEL[0], CHANNEL[1]));
    let stream = channel(&mut command)?;
    enter(&mut command, root);
    Ok(Launch {
        command,
        channel: Some(stream),
    })
}

/// What a kernel is told beside what all are told.
fn boot_words(spec: &LabSpec) -> Vec<String> {
    match spec.kernel {
        Kernel::Lab => vec!["seccomp=auto".into()],
        Kernel::Smp => vec![
            "seccomp=auto".into(),
            format!("ncpus={}", spec.processors()),
            // Consistency checks, red zones, poison. Who allocated and freed last costs a walk of the stack each time:
            // of one cache alone, which grew now and then at the end of a case when nothing waited for what is freed
            // late.
            "slab_debug=FZP;FZPU,kmalloc-128".into(),
        ],
        // The stub that runs programs under seccomp dies at once when clang has compiled it.
        // KASAN would fall silent after its first report, which may be one that log.rs excepts. kmemleak is not judged
        // there (tiers.rs), and complains of its own allocations where cases have allocations fail.
        Kernel::Kasan => ["seccomp=off", "kasan_multi_shot", "kmemleak=off"]
            .map(String::from)
            .to_vec(),
    }
}

/// Gives the command one end of a stream as descriptors 3 and 4; the other end.
pub fn channel(command: &mut Command) -> Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    // SAFETY: only async-signal-safe calls run between fork and exec; the closure owns the stream.
    unsafe {
        command.pre_exec(move || {
            // Out of the way of the target numbers first: dup2 onto itself would keep close-on-exec.
            let high = libc::fcntl(theirs.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 64);
            if high < 0 {
                return Err(std::io::Error::last_os_error());
            }
            for number in CHANNEL {
                if libc::dup2(high, number) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
    Ok(ours)
}

/// Makes the command run with `root` as its root directory.
pub fn enter(command: &mut Command, root: &Path) {
    let root: PathBuf = root.to_path_buf();
    // SAFETY: chroot and chdir are async-signal-safe; the path was made before the fork.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::chroot(&root)?;
            nix::unistd::chdir("/")?;
            Ok(())
        });
    }
}

/// Binds a file or directory to a place that exists.
pub fn bind(from: &Path, to: &Path) -> Result<()> {
    let none: Option<&str> = None;
    mount(Some(from), to, none, MsFlags::MS_BIND, none)
        .with_context(|| format!("binding {} to {}", from.display(), to.display()))
}

/// The first processor's part of /proc/cpuinfo. User-mode Linux lacks "cpu MHz", which perftest reads.
fn first_cpu(cpuinfo: &str) -> String {
    cpuinfo.split("\n\n").next().unwrap_or_default().to_string() + "\n\n"
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)
        .with_context(|| format!("{}", from.display()))?
        .flatten()
    {
        let kind = entry.file_type()?;
        let to = to.join(entry.file_name());
        if kind.is_dir() {
            copy_tree(&entry.path(), &to)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_processor_is_shown() {
        assert_eq!(
            first_cpu("processor: 0\ncpu MHz: 1\n\nprocessor: 1\n"),
            "processor: 0\ncpu MHz: 1\n\n"
        );
    }
}
