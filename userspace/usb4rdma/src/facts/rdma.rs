// SPDX-License-Identifier: GPL-2.0 OR MIT
//! RDMA links: from RDMA netlink; their GID tables, which netlink does not have, from sysfs.

use super::sysfs::{names, text};
use super::{Gid, RdmaLink};
use std::net::Ipv6Addr;
use std::path::Path;

/// All ports of all RDMA devices.
pub fn links(sys: &Path) -> Result<Vec<RdmaLink>, nldev::Error> {
    let mut rdma = nldev::Connection::open()?;
    let mut links = Vec::new();
    for device in rdma.devices()? {
        // A device may go while it is asked about.
        let resources = rdma.resources(device.index).unwrap_or_default();
        for port in rdma.ports(&device).unwrap_or_default() {
            links.push(RdmaLink {
                device: device.name.clone(),
                index: device.index,
                port: port.number,
                state: port.state.to_string(),
                netdev: port.netdev.map(|(_, name)| name),
                gids: gids(sys, &device.name, port.number),
                missing_file: missing_file(sys, &device.name),
                counters: rdma.statistics(device.index, port.number).unwrap_or_default(),
                resources: resources.clone(),
            });
        }
    }
    links.sort_by(|a, b| a.device.cmp(&b.device));
    Ok(links)
}

/// The entries in use of a port's GID table.
fn gids(sys: &Path, device: &str, port: u32) -> Vec<Gid> {
    let dir = sys.join(format!("class/infiniband/{device}/ports/{port}"));
    let mut gids: Vec<Gid> = names(dir.join("gids"))
        .into_iter()
        .filter_map(|index| {
            let gid: Ipv6Addr = text(dir.join("gids").join(&index))?.parse().ok()?;
            let kind = text(dir.join("gid_attrs/types").join(&index))?;
            (!gid.is_unspecified()).then(|| Gid {
                index: index.parse().unwrap_or(0),
                address: match gid.to_ipv4_mapped() {
                    Some(four) => four.to_string(),
                    None => gid.to_string(),
                },
                kind,
            })
        })
        .collect();
    gids.sort_by_key(|gid| gid.index);
    gids
}

/// The character device of an RDMA device with its number, if programs do not find it under /dev.
fn missing_file(sys: &Path, device: &str) -> Option<(String, String)> {
    let class = sys.join("class/infiniband_verbs");
    let of_device = |name: &String| text(class.join(name).join("ibdev")).as_deref() == Some(device);
    let name = names(&class).into_iter().find(of_device)?;
    let file = format!("/dev/infiniband/{name}");
    let number = text(class.join(&name).join("dev"))?;
    (!Path::new(&file).exists()).then_some((file, number))
}
