// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma report`: one tarball with everything that somebody who looks for a fault asks for.

mod redact;

use crate::doctor::Doctor;
use crate::facts::{build_id, names, text, Facts};
use crate::status::Status;
use crate::text::Paint;
use crate::top::Top;
use anyhow::{ensure, Context, Result};
use flate2::write::GzEncoder;
use flate2::Compression;
use redact::Redactor;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Lines of the kernel's log with one of these are about us.
const ABOUT: [&str; 10] = [
    "usb4",
    "thunderbolt",
    "rdma",
    "infiniband",
    "ib_",
    "bond",
    "librxe",
    "rxe",
    "DMAR",
    "iommu",
];
/// Lines of the log at most, the newest.
const LINES: usize = 2000;
/// Modules whose parameters matter.
const MODULES: [&str; 4] = ["usb4_rdma", "thunderbolt", "thunderbolt_net", "ib_core"];
const DEBUGFS: &str = "/sys/kernel/debug/usb4_rdma";

/// A file of the report: its name, and its text or why there is none.
struct Part {
    name: &'static str,
    about: &'static str,
    text: Result<String, String>,
}

/// Writes the report; what is to be said of it.
///
/// # Errors
///
/// The file is there already or cannot be written.
pub fn write(facts: &Facts, top: &Top, config: &Path, to: &Path, redacted: bool) -> Result<String> {
    let mut parts = parts(facts, top, config, redacted)?;
    let mut redactor = Redactor::new(facts);
    if redacted {
        for part in &mut parts {
            part.text = std::mem::replace(&mut part.text, Ok(String::new()))
                .map(|text| redactor.redact(&text))
                .map_err(|error| redactor.redact(&error));
        }
    }
    let mut bytes = vec![];
    pack(&parts, GzEncoder::new(&mut bytes, Compression::default()))?;
    if to == Path::new("-") {
        std::io::stdout().lock().write_all(&bytes)?;
        return Ok(String::new());
    }
    let opened = File::options().write(true).create_new(true).mode(0o600).open(to);
    let opened = opened.with_context(|| format!("{}: another name by --output", to.display()));
    opened?.write_all(&bytes).with_context(|| to.display().to_string())?;
    let names = match redacted {
        true => "names of hosts and addresses are replaced",
        false => "names of hosts and addresses are in it, `--redact` replaces them",
    };
    Ok(format!(
        "{}: {} files, {} kB; {names}\n",
        to.display(),
        parts.len() + 1,
        bytes.len() / 1000
    ))
}

/// What a report is called if nobody says.
pub fn file_name(facts: &Facts, redacted: bool) -> String {
    match redacted {
        true => "usb4rdma-report.tar.gz".into(),
        false => format!("usb4rdma-report-{}.tar.gz", facts.host.name),
    }
}

fn parts(facts: &Facts, top: &Top, config: &Path, redacted: bool) -> Result<Vec<Part>> {
    let status = Status::of(facts);
    let doctor = Doctor::of(facts);
    let json = |value: serde_json::Value| serde_json::to_string_pretty(&value).map(|text| text + "\n");
    let part = |name, about, text| Part { name, about, text };
    let queue_pairs = match redacted {
        true => Err("left out, as addresses are in it in many forms".to_string()),
        false => queue_pairs(),
    };
    Ok(vec![
        part(
            "versions.txt",
            "tool, kernel, module, distribution, the kernel's command line",
            Ok(versions()),
        ),
        part("status.txt", "`usb4rdma status`", Ok(status.text(Paint::none()))),
        part(
            "status.json",
            "`usb4rdma status --json`",
            Ok(json(serde_json::to_value(&status)?)?),
        ),
        part("doctor.txt", "`usb4rdma doctor`", Ok(doctor.text(Paint::none()))),
        part(
            "doctor.json",
            "`usb4rdma doctor --json`",
            Ok(json(serde_json::to_value(&doctor)?)?),
        ),
        part(
            "facts.json",
            "all that the tool has read, counters among it",
            Ok(json(serde_json::to_value(facts)?)?),
        ),
        part("top.txt", "`usb4rdma top --once`", Ok(top.text())),
        part(
            "top.json",
            "`usb4rdma top --once --json`",
            Ok(json(serde_json::to_value(top)?)?),
        ),
        part(
            "queue-pairs.txt",
            "the machine of each queue pair, from debugfs",
            queue_pairs,
        ),
        part("log.txt", "lines of the kernel's log that are about it", log()),
        part("parameters.txt", "parameters of modules", Ok(parameters())),
        part("modprobe.txt", "what modprobe is told of these modules", Ok(rules())),
        part("usb4rdma.toml", "the configuration file", file(config)),
        part(
            "state.json",
            "what `usb4rdma up` has done since boot",
            file(Path::new("/run/usb4rdma/state.json")),
        ),
    ])
}

/// Writes the parts into a tar archive, with a list of them first.
fn pack(parts: &[Part], into: impl Write) -> Result<()> {
    let mut list = "Made by `usb4rdma report`.\n\n".to_string();
    for Part { name, about, text } in parts {
        list += &match text {
            Ok(_) => format!("{name}: {about}\n"),
            Err(error) => format!("{name}: {about}: not here: {error}\n"),
        };
    }
    let mut archive = tar::Builder::new(into);
    let there = parts
        .iter()
        .filter_map(|part| Some((part.name, part.text.as_ref().ok()?)));
    for (name, text) in std::iter::once(("README.txt", &list)).chain(there) {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, format!("usb4rdma-report/{name}"), text.as_bytes())?;
    }
    archive.into_inner()?.flush()?;
    Ok(())
}

fn file(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn versions() -> String {
    let of = |name: &str, path: &str| text(path).map_or(String::new(), |text| format!("{name}: {text}\n"));
    let mut said = format!("usb4rdma {}\n", env!("CARGO_PKG_VERSION"));
    said += &of("kernel", "/proc/version");
    said += &of("command line", "/proc/cmdline");
    said += &of("tainted", "/proc/sys/kernel/tainted");
    for module in MODULES {
        for file in ["version", "srcversion", "taint"] {
            said += &of(&format!("{module} {file}"), &format!("/sys/module/{module}/{file}"));
        }
        if let Some(id) = build_id(module) {
            said += &format!("{module} build id: {id}\n");
        }
    }
    said + &of("distribution", "/etc/os-release")
}

fn queue_pairs() -> Result<String, String> {
    let devices = fs::read_dir(DEBUGFS).map_err(|error| format!("{DEBUGFS}: {error}"))?;
    let mut said = String::new();
    for device in devices.flatten() {
        said += &format!(
            "{}\n{}",
            device.file_name().to_string_lossy(),
            file(&device.path().join("qps"))?
        );
    }
    Ok(said)
}

/// The newest lines of the kernel's log that are about us, with their times.
fn log() -> Result<String, String> {
    let failed = |error: std::io::Error| format!("/dev/kmsg: {error}");
    let mut options = File::options();
    let mut log = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")
        .map_err(failed)?;
    let mut found = vec![];
    let mut record = [0; 8192];
    loop {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(length) => found.extend(line(&String::from_utf8_lossy(&record[..length]))),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            // Some were overwritten meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    let first = found.len().saturating_sub(LINES);
    Ok(found.split_off(first).concat())
}

/// A record of /dev/kmsg as a line, if it is about us.
fn line(record: &str) -> Option<String> {
    let (head, text) = record.split_once(';')?;
    let micros: u64 = head.split(',').nth(2)?.parse().ok()?;
    let text = text.lines().next()?;
    let ours = ABOUT.iter().any(|word| text.contains(word));
    ours.then(|| format!("[{:5}.{:06}] {text}\n", micros / 1_000_000, micros % 1_000_000))
}

fn parameters() -> String {
    let mut said = String::new();
    for module in MODULES {
        let dir = format!("/sys/module/{module}/parameters");
        for name in names(&dir) {
            let value = text(format!("{dir}/{name}")).unwrap_or_else(|| "?".into());
            said += &format!("{module}.{name} = {value}\n");
        }
    }
    said
}

/// Lines of modprobe's files that name one of the modules.
fn rules() -> String {
    let mut said = String::new();
    for dir in ["/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d"] {
        for name in names(dir) {
            let content = text(format!("{dir}/{name}")).unwrap_or_default();
            let ours = |line: &&str| MODULES.iter().any(|module| line.contains(module)) && !line.starts_with('#');
            for line in content.lines().filter(ours) {
                said += &format!("{dir}/{name}: {line}\n");
            }
        }
    }
    said
}

/// Fails where there would be nothing to report.
///
/// # Errors
///
/// Not root: half of it cannot be read.
pub fn root() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "report needs root, as it reads the kernel's log and the queue pairs: `sudo usb4rdma report`"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_log_are_chosen() {
        assert_eq!(
            line("6,339,5140900,-;usb4_rdma: usb4net0: up\n SUBSYSTEM=net\n").as_deref(),
            Some("[    5.140900] usb4_rdma: usb4net0: up\n")
        );
        assert_eq!(line("6,1,2,-;random: crng init done\n"), None);
        assert_eq!(line("nonsense"), None);
    }

    #[test]
    fn the_archive_has_what_is_there_and_says_what_is_not() {
        let part = |name, text| Part {
            name,
            about: "a thing",
            text,
        };
        let parts = [part("a.txt", Ok("hello\n".into())), part("b.txt", Err("no".into()))];
        let mut bytes = vec![];
        pack(&parts, &mut bytes).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let read = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (entry.path().unwrap().display().to_string(), text)
        };
        let found: Vec<(String, String)> = archive.entries().unwrap().map(read).collect();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].0, "usb4rdma-report/README.txt");
        assert!(found[0].1.contains("b.txt: a thing: not here: no\n"));
        assert_eq!(found[1], ("usb4rdma-report/a.txt".to_string(), "hello\n".to_string()));
    }
}
