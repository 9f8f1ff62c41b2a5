// SPDX-License-Identifier: GPL-2.0 OR MIT
//! `usb4rdma` as a user meets it: installed, by the quick start, and when something is not as it should be.

use super::healthy;
use crate::cases::{about_net, Case, Context, NetLab, Role, Way};
use crate::lab::{Lab, USUAL};
use crate::paths;
use crate::spec::Profile;
use anyhow::{ensure, Context as _, Result};
use std::fs;
use std::path::Path;
use std::process::Command;

pub const CASES: &[Case] = &[
    about_net(
        "tool_errors",
        "wrong usage, no privilege, no cable, no module, a silent peer: one clear sentence each",
        BARE,
        errors,
    ),
    about_net(
        "tool_quickstart",
        "the commands of docs/quickstart.md, typed in on two hosts that have nothing but the module installed",
        BARE,
        quickstart,
    ),
    about_net(
        "tool_install",
        "make install DESTDIR= into a guest: the tool runs, unit and rules are valid; make uninstall leaves no file",
        BARE,
        install,
    ),
];

/// Two hosts and a cable that nobody drives.
const BARE: NetLab = NetLab {
    profile: Profile::Strix,
    cables: 1,
    roles: [Role::None, Role::None],
    hops: None,
    way: Way::TwoRings,
};

/// What is typed on host 0, its status, and the first line that is said about it.
const SAID: &[(&str, i32, &str)] = &[
    ("usb4rdma", 2, "From hosts and USB4 cables to a working RDMA cluster"),
    ("usb4rdma upp", 2, "error: unrecognized subcommand 'upp'"),
    (
        "usb4rdma up --address 10.0.0.1",
        2,
        "error: invalid value '10.0.0.1' for '--address <ADDRESS/LENGTH>': 10.0.0.1: the length of the prefix is missing, as in 10.0.0.1/24",
    ),
    (
        "usb4rdma up --address 10.0.0.x/24",
        2,
        "error: invalid value '10.0.0.x/24' for '--address <ADDRESS/LENGTH>': 10.0.0.x is no IP address",
    ),
    (
        "usb4rdma up --peer h7",
        1,
        "usb4rdma: no cable leads to a host h7: there are h1",
    ),
    (
        "setpriv --reuid 65534 --regid 65534 --clear-groups usb4rdma up",
        1,
        "usb4rdma: up needs root, as it loads modules and sets up devices: `sudo usb4rdma up`",
    ),
    (
        "printf 'bond = true\\nmtu = 1e9\\n' > /etc/usb4rdma.toml; usb4rdma up; s=$?; rm /etc/usb4rdma.toml; exit $s",
        1,
        "usb4rdma: /etc/usb4rdma.toml: line 2, column 7: invalid type: floating point `1000000000.0`, expected i64",
    ),
    (
        "usb4rdma up --config /nonexistent",
        1,
        "usb4rdma: /nonexistent: No such file or directory (os error 2)",
    ),
    (
        "usb4rdma up --mtu 70000",
        2,
        "error: invalid value '70000' for '--mtu <BYTES>': 70000 is not in 68..=65522",
    ),
    ("usb4rdma down", 0, "nothing to undo: usb4rdma up has done nothing since boot"),
    (
        "usb4rdma up --wait 2 2>&1 | grep -v ^waiting; false",
        1,
        "usb4rdma: no peer answers within 2 s: h1 offers no network yet: run `usb4rdma up` there, then here again",
    ),
    ("usb4rdma down; lsmod | grep usb4; usb4rdma status | grep module-not-loaded", 0,
        "error module-not-loaded: the module usb4_rdma is not loaded"),
    // One that is ended while it waits: what it did is known, and undone.
    (
        "usb4rdma up > /run/said 2>&1 & p=$!; until grep -q waiting /run/said; do sleep 0.1; done; kill -TERM $p; wait $p; \
         rm /run/said; usb4rdma down --dry-run",
        0,
        "rmmod usb4_rdma",
    ),
    (
        "usb4rdma down; grep -c usb4_rdma /proc/modules; ls -d /run/usb4rdma",
        2,
        "0",
    ),
    (
        "usb4rdma completions tcsh",
        2,
        "error: invalid value 'tcsh' for '<SHELL>'",
    ),
    (
        "usb4rdma man /nonexistent",
        1,
        "usb4rdma: man pages into /nonexistent: No such file or directory (os error 2)",
    ),
];

fn errors(context: &Context) -> Result<()> {
    super::only_ours(context)?;
    let lab = context.lab()?;
    super::up::discovered(lab, 1)?;
    // A host whose bus driver was there before it had a name tells the name with its next service.
    lab.sh(1, "modprobe usb4_rdma; rmmod usb4_rdma")?;
    let name = "/sys/bus/thunderbolt/devices/0-1/device_name";
    lab.sh(
        0,
        &format!("n=0; until grep -q h1 {name}; do n=$((n+1)); [ $n -lt 400 ] || exit 1; sleep 0.05; done"),
    )
    .context("h1 does not tell its name")?;
    for (line, status, said) in SAID {
        says(lab, line, *status, said)?;
    }
    let module = "/lib/modules/$(uname -r)/updates/usb4_rdma.ko";
    let kernel = lab.ok(0, &["uname", "-r"])?;
    let kernel = kernel.trim();
    lab.sh(0, &format!("mv {module} /run && depmod"))?;
    let outcome = says(
        lab,
        "usb4rdma up",
        1,
        &format!(
            "usb4rdma: the module usb4_rdma is not installed for kernel {kernel}: `make install \
             KDIR=/lib/modules/{kernel}/build` in the project's tree (README.md, \"On real hardware\")"
        ),
    );
    lab.sh(0, &format!("mv /run/usb4_rdma.ko {module} && depmod"))?;
    outcome?;
    lab.cable(0, "pull", None)?;
    lab.sh(
        0,
        "n=0; while [ -e /sys/bus/thunderbolt/devices/0-1 ]; do n=$((n+1)); [ $n -lt 200 ] || exit 1; sleep 0.05; done",
    )?;
    let outcome = says(
        lab,
        "usb4rdma up --wait 0",
        1,
        "usb4rdma: no cable leads to another host: plug a USB4 or Thunderbolt cable (not a charging cable) into both \
         hosts; where one is plugged, unplug it at both ends and plug it again, as a link that hangs survives a warm \
         reboot",
    );
    lab.cable(0, "plug", None)?;
    super::up::discovered(lab, 1)?;
    outcome
}

/// Fails unless a line typed on host 0 ends with the status and begins to say what it should.
fn says(lab: &Lab, line: &str, status: i32, said: &str) -> Result<()> {
    let output = lab.run(0, &["/bin/sh", "-c", line], USUAL)?;
    let all = output.text() + &output.errors();
    ensure!(
        output.status == status && all.lines().next() == Some(said),
        "`{line}` ends with status {}, not {status}, and says\n{all}\nwhere it should say\n{said}",
        output.status
    );
    Ok(())
}

/// The boxes of a page that are typed in: for whom, and the lines. Others are somebody else's, or nobody's
/// (docs/CONTRIBUTING.md, "The book").
fn boxes(page: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = vec![];
    let mut open = false;
    for line in page.lines().map(str::trim) {
        match line.strip_prefix("```") {
            Some(_) if open => open = false,
            Some(info) => {
                open = true;
                let who = info.strip_prefix("sh ").unwrap_or_default();
                found.push((who.to_string(), String::new()));
            }
            None if open => {
                if let Some((_, lines)) = found.last_mut() {
                    *lines += &format!("{line}\n");
                }
            }
            None => {}
        }
    }
    found.retain(|(who, _)| ["both", "first", "second"].contains(&who.as_str()));
    found
}

fn quickstart(context: &Context) -> Result<()> {
    super::only_ours(context)?;
    let lab = context.lab()?;
    super::up::discovered(lab, 1)?;
    let page = fs::read_to_string(paths::project()?.join("docs/quickstart.md"))?;
    let boxes = boxes(&page);
    ensure!(boxes.len() == 4, "{} boxes", boxes.len());
    let mut serving = None;
    for (who, lines) in &boxes {
        match who.as_str() {
            "both" => {
                let running: Vec<_> = (0..2).map(|host| lab.start(host, lines, USUAL)).collect();
                for running in running {
                    running.ok()?;
                }
            }
            "second" => {
                serving = Some(lab.start(1, lines, USUAL));
                crate::verbs::wait_listen(lab, 1, crate::verbs::port())?;
            }
            "first" => {
                let status = healthy(lab, 0)?;
                let address = status["peers"][0]["link"]["peer_addresses"][0]
                    .as_str()
                    .context("no address")?;
                let table = lab.ok(0, &["usb4rdma", "status"])?;
                ensure!(
                    table.contains(&format!(" {address} ")),
                    "the table lacks {address}:\n{table}"
                );
                let said = lab.sh(0, &lines.replace("ADDRESS", address))?;
                ensure!(said.contains("BW average[Gb/sec]"), "{said}");
            }
            other => anyhow::bail!("a box for {other:?}"),
        }
    }
    serving.context("no server")?.ok()?;
    for host in 0..2 {
        lab.ok(host, &["usb4rdma", "down"])?;
    }
    Ok(())
}

fn install(context: &Context) -> Result<()> {
    super::only_ours(context)?;
    let lab = context.lab()?;
    let tree = lab.state.join("installed");
    make("install", &tree)?;
    let outcome = installed(lab, &tree);
    make("uninstall", &tree)?;
    let left = files(&tree)?;
    fs::remove_dir_all(&tree)?;
    outcome?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

pub fn make(target: &str, tree: &Path) -> Result<()> {
    let output = Command::new("make")
        .args(["--no-print-directory", "-s", target])
        .arg(format!("DESTDIR={}", tree.display()))
        .current_dir(paths::project()?)
        .output()
        .context("make")?;
    ensure!(
        output.status.success(),
        "make {target}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// All files below a directory.
fn files(dir: &Path) -> Result<Vec<String>> {
    let mut found = vec![];
    for entry in fs::read_dir(dir)?.flatten() {
        match entry.file_type()?.is_dir() {
            true => found.extend(files(&entry.path())?),
            false => found.push(entry.path().display().to_string()),
        }
    }
    Ok(found)
}

/// The tree as an archive.
pub fn pack(tree: &Path) -> Result<Vec<u8>> {
    let mut tar = Command::new("tar");
    let packed = tar.arg("-C").arg(tree).args(["-cz", "."]).output().context("tar")?;
    ensure!(
        packed.status.success(),
        "tar: {}",
        String::from_utf8_lossy(&packed.stderr)
    );
    Ok(packed.stdout)
}

/// Copies the tree onto a guest and looks at it there.
fn installed(lab: &Lab, tree: &Path) -> Result<()> {
    lab.put(0, "/run/installed.tar.gz", &pack(tree)?, 0o644)?;
    lab.sh(
        0,
        "rm /usr/bin/usb4rdma; tar -C / --no-same-owner -xzf /run/installed.tar.gz; rm /run/installed.tar.gz",
    )?;
    lab.ok(0, &["usb4rdma", "--version"])?;
    lab.ok(
        0,
        &[
            "systemd-analyze",
            "verify",
            "--man=no",
            "/usr/lib/systemd/system/usb4rdma.service",
        ],
    )?;
    lab.sh(
        0,
        "test -s /usr/share/doc/usb4rdma/usb4rdma.toml && ! test -e /etc/usb4rdma.toml",
    )?;
    lab.ok(0, &["udevadm", "verify", "/usr/lib/udev/rules.d/90-usb4rdma.rules"])?;
    let wants = lab.sh(0, "udevadm test --action=add /sys/bus/thunderbolt/devices/0-1 2>&1")?;
    ensure!(
        wants.contains("SYSTEMD_WANTS=usb4rdma.service"),
        "the rule does not start the unit:\n{wants}"
    );
    let rules = lab.ok(0, &["modprobe", "-c"])?;
    ensure!(
        rules.contains("blacklist thunderbolt_net"),
        "modprobe does not know the rule"
    );
    let completions = ". /usr/share/bash-completion/completions/usb4rdma && complete -p usb4rdma";
    lab.ok(0, &["bash", "-c", completions])?;
    let page = lab.ok(0, &["cat", "/usr/share/man/man1/usb4rdma-up.1"])?;
    ensure!(page.contains(".TH") && page.contains("dry"), "the man page:\n{page}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boxes_of_a_page_are_found() {
        let page = "a\n```sh both\nx y\n```\n1. b\n\n   ```sh first\n   z\n   ```\n```sh not-run\nn\n```\n";
        let found = boxes(page);
        assert_eq!(found, [("both".into(), "x y\n".into()), ("first".into(), "z\n".into())]);
    }
}
