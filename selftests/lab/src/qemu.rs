// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The stock tier: the distribution's unmodified kernel under QEMU, with routers over vfio-user.
//!
//! QEMU comes from the lab root and runs in a chroot there. A guest's root is an initramfs packed from the same
//! root. The agent is heard on a virtio-serial port, the console goes to a file.

use crate::guest::Launch;
use crate::uml::{bind, channel, enter, write_scripts};
use crate::{paths, spec::LabSpec};
use anyhow::{bail, Context, Result};
use nix::mount::{mount, MsFlags};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Time that a kernel under working KVM needs to print its first line, with room.
const KVM_PROOF: Duration = Duration::from_secs(5);

/// Builds the root that QEMU runs in and the guests' initramfs; finds out whether KVM works.
pub fn prepare(spec: &LabSpec, mnt: &Path) -> Result<()> {
    let dir = mnt.join("qemu");
    let (upper, work, root) = (dir.join("upper"), dir.join("work"), dir.join("root"));
    for made in [&upper, &work, &root] {
        fs::create_dir_all(made)?;
    }
    let lower = paths::root(spec.root)?;
    if !lower.join("usr/bin/qemu-system-x86_64").exists() {
        bail!("the lab root has no QEMU: run `{}` first", paths::setting_up("stock"));
    }
    let own = upper.join("usb4lab");
    write_scripts(&own)?;
    for made in ["stock", "fabric", "x"] {
        fs::create_dir_all(own.join(made))?;
    }
    if let Some(module) = paths::module(spec.tier, spec.kernel)? {
        fs::copy(module, own.join("usb4_rdma.ko"))?;
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.display(),
        work.display()
    );
    let none: Option<&str> = None;
    mount(
        Some("overlay"),
        &root,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .context("overlay")?;
    mount(Some("proc"), &root.join("proc"), Some("proc"), MsFlags::empty(), none)?;
    mount(Some("tmpfs"), &root.join("tmp"), Some("tmpfs"), MsFlags::empty(), none)?;
    mount(
        Some("/dev"),
        &root.join("dev"),
        none,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        none,
    )?;
    bind(&paths::stock()?.canonicalize()?, &root.join("usb4lab/stock"))?;
    if !spec.cables.is_empty() {
        bind(&mnt.join("fabric"), &root.join("usb4lab/fabric"))?;
    }
    let mut pack = Command::new("/bin/bash");
    pack.args(["/usb4lab/mkinitramfs", "/usb4lab/stock", "/run/initramfs"])
        .env_clear();
    pack.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    enter(&mut pack, &root);
    let output = pack.output().context("packing the initramfs")?;
    if !output.status.success() {
        bail!(
            "packing the initramfs failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    if kvm_works(&root)? {
        fs::write(root.join("tmp/kvm"), "")?;
    }
    Ok(())
}

/// The command that boots a guest.
pub fn launch(spec: &LabSpec, host: usize, mnt: &Path, console: &Path) -> Result<Launch> {
    let root = mnt.join("qemu/root");
    let log = File::options().create(true).append(true).open(console)?;
    let kvm = root.join("tmp/kvm").exists();
    let mut command = qemu(kvm, spec.memory_mib.max(1024));
    command.args(["-smp", &spec.processors().to_string()]);
    // no_timer_check: while it boots the kernel counts the timer's ticks in a loop, and panics ("IO-APIC + timer
    // doesn't work") if they are late, as they are where the emulator does not get the processor in that very moment.
    let mut append = format!(
        "console=ttyS0 loglevel=7 no_timer_check nokaslr mitigations=off tsc=reliable panic=-1 rdinit=/usb4lab/init \
         usb4lab_agent=virtio usb4lab_host={host} usb4lab_net={} {}",
        spec.net_of(host).name(),
        spec.append
    );
    if spec.iommu {
        // It must come before the devices behind it.
        command.args(["-device", "intel-iommu,caching-mode=on"]);
        append += " intel_iommu=on iommu=nopt iommu.strict=1";
    }
    command.args(["-initrd", "/run/initramfs", "-append", &append]);
    command.args(["-chardev", "socket,id=agent,fd=3", "-device", "virtio-serial-pci"]);
    command.args(["-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]);
    if !spec.cables.is_empty() {
        for nhi in 0..spec.nhis {
            let socket = format!("/usb4lab/fabric/h{host}n{nhi}.sock");
            command.arg("-device").arg(format!(
                "{{\"driver\":\"vfio-user-pci\",\"socket\":{{\"path\":\"{socket}\",\"type\":\"unix\"}}}}"
            ));
        }
    }
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0);
    let stream = channel(&mut command)?;
    enter(&mut command, &root);
    Ok(Launch {
        command,
        channel: Some(stream),
    })
}

/// What every QEMU here has: no defaults, the console on standard output, the distribution's kernel.
fn qemu(kvm: bool, memory_mib: u32) -> Command {
    let mut command = Command::new("/usr/bin/qemu-system-x86_64");
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("TMPDIR", "/tmp");
    match kvm {
        true => command.args(["-accel", "kvm", "-cpu", "host"]),
        false => command.args(["-accel", "tcg,thread=multi", "-cpu", "Nehalem"]),
    };
    command
        .arg("-object")
        .arg(format!("memory-backend-memfd,id=m,size={memory_mib}M,share=on"))
        .args(["-machine", "q35,memory-backend=m", "-m"])
        .arg(format!("{memory_mib}M"))
        .args(["-nodefaults", "-display", "none", "-no-reboot", "-monitor", "none"])
        .args(["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"])
        .args(["-kernel", "/usb4lab/stock/vmlinux"]);
    command
}

/// Whether a guest really runs under KVM: on some machines /dev/kvm opens and guests hang.
fn kvm_works(root: &Path) -> Result<bool> {
    if File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(false);
    }
    let output = root.join("tmp/kvm-proof");
    let mut command = qemu(true, 256);
    command.args(["-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1"]);
    command
        .stdin(Stdio::null())
        .stdout(File::create(&output)?)
        .stderr(Stdio::null());
    enter(&mut command, root);
    let mut child = command.spawn().context("trying KVM")?;
    let until = Instant::now() + KVM_PROOF;
    let works = loop {
        if fs::read(&output)
            .unwrap_or_default()
            .windows(13)
            .any(|w| w == b"Linux version")
        {
            break true;
        }
        if Instant::now() > until || child.try_wait()?.is_some() {
            break false;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let _ = child.kill();
    let _ = child.wait();
    Ok(works)
}
