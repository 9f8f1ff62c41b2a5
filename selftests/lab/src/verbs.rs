// SPDX-License-Identifier: GPL-2.0 OR MIT
//! RDMA devices in guests and programs run over pairs of them.

use crate::control::Output;
use crate::lab::Lab;
use crate::spec::{ipv4, ipv6};
use anyhow::{bail, Context, Result};
use clap::ValueEnum;
use serde_json::Value;
use std::net::IpAddr;
use std::time::Duration;

/// TCP port that perftest and the examples use to find each other.
const PORT: u16 = 18515;

/// Which driver makes the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Ours.
    Usb4,
    /// The kernel's software RoCE.
    Rxe,
}

impl Kind {
    /// Name of the link type, and how `rdma link add` finds the module.
    pub fn link_type(self) -> &'static str {
        match self {
            Kind::Usb4 => "usb4",
            Kind::Rxe => "rxe",
        }
    }

    pub fn module(self) -> &'static str {
        match self {
            Kind::Usb4 => "usb4_rdma",
            Kind::Rxe => "rdma_rxe",
        }
    }
}

/// A device on one host, over one cable.
#[derive(Clone, Debug)]
pub struct Device {
    pub host: usize,
    pub name: String,
    pub netdev: String,
    pub cable: usize,
    pub ipv4: String,
    /// Index of the GID that carries the IPv4 address.
    pub gid: u32,
    pub gid6: u32,
}

impl Device {
    /// Adds a link over a cable. The kernel loads the module by its alias.
    pub fn add(lab: &Lab, host: usize, kind: Kind, cable: usize) -> Result<Device> {
        let netdev = lab.netdev(host, cable)?;
        let name = format!("{}r{cable}", kind.link_type());
        lab.ok(
            host,
            &[
                "rdma",
                "link",
                "add",
                &name,
                "type",
                kind.link_type(),
                "netdev",
                &netdev,
            ],
        )
        .with_context(|| format!("is {} built and in the lab? `make module`", kind.module()))?;
        let device = Device {
            host,
            name,
            netdev,
            cable,
            ipv4: ipv4(cable, host),
            gid: 0,
            gid6: 0,
        };
        device.find_gids(lab)
    }

    /// Adds a link over any netdev, which has the address; waits for its GID a little.
    pub fn over(lab: &Lab, host: usize, kind: Kind, name: &str, netdev: &str, ipv4: &str) -> Result<Device> {
        let link = ["rdma", "link", "add", name, "type", kind.link_type(), "netdev", netdev];
        lab.ok(host, &link)
            .with_context(|| format!("is {} built and in the lab? `make module`", kind.module()))?;
        Ok(Device {
            host,
            name: name.into(),
            netdev: netdev.into(),
            cable: 0,
            ipv4: ipv4.into(),
            gid: gid_index(lab, host, name, ipv4)?,
            gid6: 0,
        })
    }

    /// The same device with the GID of its IPv4 address looked up anew.
    pub fn find_gid(&self, lab: &Lab) -> Result<Device> {
        Ok(Device {
            gid: gid_index(lab, self.host, &self.name, &self.ipv4)?,
            ..self.clone()
        })
    }

    /// The same device with its GIDs looked up anew; waits for them a little.
    pub fn find_gids(&self, lab: &Lab) -> Result<Device> {
        Ok(Device {
            gid: gid_index(lab, self.host, &self.name, &self.ipv4)?,
            gid6: gid_index(lab, self.host, &self.name, &ipv6(self.cable, self.host))?,
            ..self.clone()
        })
    }

    pub fn delete(&self, lab: &Lab) -> Result<()> {
        lab.ok(self.host, &["rdma", "link", "del", &self.name]).map(|_| ())
    }
}

/// Index of the GID that carries an address; waits for it a little.
fn gid_index(lab: &Lab, host: usize, device: &str, address: &str) -> Result<u32> {
    let index = lab.ok(host, &["/usb4lab/gid", device, &gid(address)?])?;
    index.trim().parse().context("GID index")
}

/// An address as sysfs shows the GID that carries it.
fn gid(address: &str) -> Result<String> {
    let bytes = match address.parse::<IpAddr>()? {
        IpAddr::V4(four) => four.to_ipv6_mapped().octets(),
        IpAddr::V6(six) => six.octets(),
    };
    let groups: Vec<String> = bytes
        .chunks(2)
        .map(|pair| format!("{:02x}{:02x}", pair[0], pair[1]))
        .collect();
    Ok(groups.join(":"))
}

/// A device on each of two hosts. The server's side is passive.
#[derive(Clone, Debug)]
pub struct Pair {
    pub client: Device,
    pub server: Device,
}

impl Pair {
    /// Adds links of the given kinds on hosts 0 (client) and 1 (server) over cable 0.
    pub fn add(lab: &Lab, client: Kind, server: Kind) -> Result<Pair> {
        let server = Device::add(lab, 1, server, 0)?;
        Ok(Pair {
            client: Device::add(lab, 0, client, 0)?,
            server,
        })
    }

    /// The same devices with the roles exchanged.
    pub fn turned(&self) -> Pair {
        Pair {
            client: self.server.clone(),
            server: self.client.clone(),
        }
    }

    pub fn delete(&self, lab: &Lab) -> Result<()> {
        self.client.delete(lab)?;
        self.server.delete(lab)
    }

    /// Runs `ibv_rc_pingpong` with `arguments` on both sides; the client's output. `-c` validates on both.
    pub fn pingpong(&self, lab: &Lab, arguments: &str, timeout: Duration) -> Result<String> {
        self.example(lab, "ibv_rc_pingpong", arguments, timeout)
    }

    /// Runs one of the pingpong examples of libibverbs.
    pub fn example(&self, lab: &Lab, program: &str, arguments: &str, timeout: Duration) -> Result<String> {
        let line = |d: &Device| format!("{program} -d {} -g {} {arguments}", d.name, d.gid);
        self.run(
            lab,
            &line(&self.server),
            &format!("{} {}", line(&self.client), self.server.ipv4),
            timeout,
        )
    }

    /// Runs `rping`: a connection by rdma_cm, then READ and WRITE of `count` buffers, compared.
    pub fn rping(&self, lab: &Lab, count: u32, timeout: Duration) -> Result<()> {
        let serving = lab.start(self.server.host, &format!("rping -s -V -C {count}"), timeout);
        // Nothing outside shows when it listens: a connection refused is tried again.
        let call = format!(
            "n=0; until rping -c -a {} -V -C {count}; do n=$((n+1)); [ $n -lt 20 ] || exit 1; sleep 0.3; done",
            self.server.ipv4
        );
        let called = lab.run(self.client.host, &["/bin/sh", "-c", &call], timeout)?;
        if called.status != 0 {
            lab.run(self.server.host, &["pkill", "-KILL", "rping"], Duration::from_secs(20))?;
            bail!("rping: status {}\n{}{}", called.status, called.text(), called.errors());
        }
        serving.ok().map(|_| ())
    }

    /// As `pingpong`, over IPv6 GIDs.
    pub fn pingpong6(&self, lab: &Lab, arguments: &str, timeout: Duration) -> Result<String> {
        let line = |d: &Device| format!("ibv_rc_pingpong -d {} -g {} {arguments}", d.name, d.gid6);
        self.run(
            lab,
            &line(&self.server),
            &format!("{} {}", line(&self.client), self.server.ipv4),
            timeout,
        )
    }

    /// Runs a perftest program; the client's output.
    pub fn perftest(&self, lab: &Lab, program: &str, arguments: &str, timeout: Duration) -> Result<String> {
        let line = |d: &Device| format!("{program} -d {} -x {} -F {arguments}", d.name, d.gid);
        self.run(
            lab,
            &line(&self.server),
            &format!("{} {}", line(&self.client), self.server.ipv4),
            timeout,
        )
    }

    /// Starts `server`, waits until it listens, runs `client`; both must succeed.
    pub fn run(&self, lab: &Lab, server: &str, client: &str, timeout: Duration) -> Result<String> {
        let serving = lab.start(self.server.host, server, timeout);
        let output = match wait_listen(lab, self.server.host, PORT) {
            Ok(()) => lab.run(self.client.host, &["/bin/sh", "-c", client], timeout),
            Err(error) => Err(error),
        };
        let good = matches!(&output, Ok(Output { status: 0, .. }));
        if !good {
            // The server may wait for ever for a client that gave up.
            let program = server.split_whitespace().next().unwrap_or_default();
            let _ = lab.run(self.server.host, &["pkill", "-KILL", program], Duration::from_secs(20));
        }
        let served = serving.wait();
        let output = output.with_context(|| format!("the server {server:?} {}", told(&served)))?;
        let both = || -> Result<String> {
            let served = served.as_ref().map_err(|e| anyhow::anyhow!("{e:#}"))?;
            Ok(format!(
                "host {}: `{client}` status {}\n{}{}host {}: `{server}` status {}\n{}{}",
                self.client.host,
                output.status,
                output.text(),
                output.errors(),
                self.server.host,
                served.status,
                served.text(),
                served.errors()
            ))
        };
        if !good || served.as_ref().is_ok_and(|s| s.status != 0) || served.is_err() {
            let late = if output.status == 124 {
                format!(" (time limit {} s)", timeout.as_secs())
            } else {
                String::new()
            };
            bail!("the two programs did not both succeed{late}:\n{}", both()?.trim_end());
        }
        Ok(output.text())
    }

    /// Plays a scene of `verbs.py`; what the caller's and the server's side report.
    pub fn scene(&self, lab: &Lab, scene: &str) -> Result<(Value, Value)> {
        self.scene_within(lab, scene, Duration::from_secs(120))
    }

    /// The same where it may take longer.
    pub fn scene_within(&self, lab: &Lab, scene: &str, timeout: Duration) -> Result<(Value, Value)> {
        let line = format!(
            "/usb4lab/verbs.py serve {PORT} {} {} {scene}",
            self.server.name, self.server.gid
        );
        let serving = lab.start(self.server.host, &line, timeout);
        let called = wait_listen(lab, self.server.host, PORT)
            .and_then(|()| lab.run(self.client.host, &["/bin/sh", "-c", &self.call_line(scene)], timeout));
        if !matches!(&called, Ok(Output { status: 0, .. })) {
            let _ = lab.run(
                self.server.host,
                &["pkill", "-KILL", "-x", "verbs.py"],
                Duration::from_secs(20),
            );
        }
        let served = serving.wait();
        let called = called.with_context(|| format!("scene {scene}: the server {}", told(&served)))?;
        let served = served?;
        if called.status != 0 || served.status != 0 {
            bail!(
                "scene {scene} could not be played:\nclient: {}\nserver: {}",
                called.errors(),
                served.errors()
            );
        }
        Ok((
            serde_json::from_str(&called.text())?,
            serde_json::from_str(&served.text())?,
        ))
    }

    /// The client's command of a scene.
    pub fn call_line(&self, scene: &str) -> String {
        format!(
            "/usb4lab/verbs.py call {} {PORT} {} {} {scene}",
            self.server.ipv4, self.client.name, self.client.gid
        )
    }

    /// The server's command of a scene.
    pub fn serve_line(&self, scene: &str) -> String {
        format!(
            "/usb4lab/verbs.py serve {PORT} {} {} {scene}",
            self.server.name, self.server.gid
        )
    }
}

/// How a server ended, for the error of whoever waited for it in vain.
fn told(served: &Result<Output>) -> String {
    match served {
        Ok(output) => format!(
            "had status {} and said\n{}{}",
            output.status,
            output.text(),
            output.errors()
        ),
        Err(error) => format!("did not run: {error:#}"),
    }
}

/// Waits until a program in a guest listens on the port.
pub fn wait_listen(lab: &Lab, host: usize, port: u16) -> Result<()> {
    lab.ok(host, &["/usb4lab/wait-listen", &port.to_string()])
        .map(|_| ())
        .with_context(|| format!("nothing listens on port {port} of host {host}"))
}

/// The port that programs of a pair use.
pub fn port() -> u16 {
    PORT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gids_are_spelled_as_sysfs_does() {
        assert_eq!(gid("10.90.0.1").unwrap(), "0000:0000:0000:0000:0000:ffff:0a5a:0001");
        assert_eq!(gid("fd00:90::2").unwrap(), "fd00:0090:0000:0000:0000:0000:0000:0002");
    }
}
