// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What sysfs says of the USB4 bus. The root of the tree is given, so that tests make one of their own.

use super::{Cable, Router, Service};
use std::fs;
use std::path::{Path, PathBuf};

/// A file's text without the line end; None if it is not there.
pub fn text(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim_end().to_string())
}

/// The last part of where a symbolic link leads.
pub fn link_name(path: impl AsRef<Path>) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    target.file_name().map(|name| name.to_string_lossy().into_owned())
}

/// Names in a directory, sorted; none if it is not there.
pub fn names(dir: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Where the bus has its devices.
pub fn bus_dir(sys: &Path) -> PathBuf {
    sys.join("bus/thunderbolt/devices")
}

/// The host routers of this machine, and the cables to other hosts.
pub fn bus(sys: &Path) -> (Vec<Router>, Vec<Cable>) {
    let dir = bus_dir(sys);
    let names = names(&dir);
    let routers: Vec<Router> = names
        .iter()
        .filter(|name| name.ends_with("-0"))
        .map(|name| router(&dir, name))
        .collect();
    let is_cable = |name: &&String| uevent(&dir, name, "DEVTYPE").as_deref() == Some("thunderbolt_xdomain");
    let cables = names
        .iter()
        .filter(is_cable)
        .map(|name| cable(&dir, name, &routers, &names))
        .collect();
    (routers, cables)
}

/// An option of a bond: the first word of its file, the name of a choice.
pub fn bond_option(sys: &Path, netdev: &str, option: &str) -> Option<String> {
    let value = text(sys.join("class/net").join(netdev).join("bonding").join(option))?;
    value.split_whitespace().next().map(String::from)
}

fn router(dir: &Path, name: &str) -> Router {
    let file = |attribute: &str| text(dir.join(name).join(attribute));
    let domain = name.split('-').next().unwrap_or_default();
    let protection = text(dir.join(format!("domain{domain}/iommu_dma_protection")));
    Router {
        name: name.to_string(),
        uuid: file("unique_id").unwrap_or_default(),
        generation: file("generation").and_then(|g| g.parse().ok()).unwrap_or(0),
        usb4_version: uevent(dir, name, "USB4_VERSION"),
        iommu_protection: protection.map(|value| value == "1"),
        // The domain's parent is the host interface, a PCI device.
        iommu_mode: fs::canonicalize(dir.join(format!("domain{domain}")))
            .ok()
            .and_then(|domain| text(domain.parent()?.join("iommu_group/type"))),
    }
}

fn cable(dir: &Path, name: &str, routers: &[Router], all: &[String]) -> Cable {
    let file = |attribute: &str| text(dir.join(name).join(attribute));
    let number = |attribute: &str| file(attribute).and_then(|lanes| lanes.parse().ok()).unwrap_or(0);
    let speed = |attribute: &str| file(attribute).map_or(0.0, |text| gigabits(&text));
    let own = format!("{}-0", name.split('-').next().unwrap_or_default());
    let services = all
        .iter()
        .filter(|n| n.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')));
    Cable {
        name: name.to_string(),
        router: routers
            .iter()
            .find(|r| r.name == own)
            .map_or(String::new(), |r| r.uuid.clone()),
        peer: file("unique_id").unwrap_or_default(),
        peer_name: file("device_name").unwrap_or_default(),
        tx_speed: speed("tx_speed"),
        tx_lanes: number("tx_lanes"),
        rx_speed: speed("rx_speed"),
        rx_lanes: number("rx_lanes"),
        services: services.map(|name| service(dir, name)).collect(),
    }
}

fn service(dir: &Path, name: &str) -> Service {
    let file = |attribute: &str| text(dir.join(name).join(attribute));
    let number = |attribute: &str| file(attribute).map_or(0, |text| number(&text));
    Service {
        key: file("key").unwrap_or_default(),
        version: number("prtcvers"),
        revision: number("prtcrevs"),
        settings: number("prtcstns"),
        driver: link_name(dir.join(name).join("driver")),
    }
}

/// A number as sysfs writes it, `0x` before hexadecimal ones.
fn number(text: &str) -> u32 {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.unwrap_or(0)
}

/// `20.0 Gb/s` as a number.
fn gigabits(text: &str) -> f64 {
    text.split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or(0.0)
}

/// A value of a device's uevent file.
fn uevent(dir: &Path, name: &str, key: &str) -> Option<String> {
    let text = text(dir.join(name).join("uevent"))?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    value.map(String::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree as kernel 7.3 shows it, with one router, one cable and one service.
    fn tree() -> PathBuf {
        let root = std::env::temp_dir().join(format!("usb4rdma-sysfs-{}", std::process::id()));
        let put = |file: &str, text: &str| {
            let path = root.join("bus/thunderbolt/devices").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("domain0/iommu_dma_protection", "0\n");
        put("0-0/unique_id", "01000100-5187-8000-ffff-ffffffffffff\n");
        put("0-0/generation", "4\n");
        put(
            "0-0/uevent",
            "DEVTYPE=thunderbolt_device\nUSB4_VERSION=2.0\nUSB4_TYPE=host\n",
        );
        put("0-1/uevent", "DEVTYPE=thunderbolt_xdomain\n");
        put("0-1/unique_id", "01000200-5187-8000-ffff-ffffffffffff\n");
        put("0-1/device_name", "h1\n");
        for way in ["tx", "rx"] {
            put(&format!("0-1/{way}_speed"), "20.0 Gb/s\n");
            put(&format!("0-1/{way}_lanes"), "2\n");
        }
        put("0-1.0/key", "usb4rdma\n");
        put("0-1.0/prtcvers", "1\n");
        put("0-1.0/prtcstns", "0x00000018\n");
        put("0-3/uevent", "DEVTYPE=thunderbolt_device\n");
        root
    }

    #[test]
    fn the_bus_is_read() {
        let root = tree();
        let (routers, cables) = bus(&root);
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(routers.len(), 1);
        assert_eq!((routers[0].generation, routers[0].lane_speed()), (4, 40.0));
        assert_eq!(routers[0].iommu_protection, Some(false));
        let [cable] = cables.as_slice() else {
            panic!("{cables:?}");
        };
        assert_eq!((cable.name.as_str(), cable.peer_name.as_str()), ("0-1", "h1"));
        assert_eq!(cable.router, "01000100-5187-8000-ffff-ffffffffffff");
        assert_eq!(cable.rate(), 40.0);
        assert_eq!(cable.service("usb4rdma").map(|s| s.settings), Some(0x18));
    }

    #[test]
    fn a_host_without_the_bus_has_no_cables() {
        assert_eq!(bus(Path::new("/nonexistent")), (vec![], vec![]));
    }
}
