// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The bus, the module, the cables, the hosts at their other ends.

use super::{Check, Finding};
use crate::facts::{Facts, IP_SERVICE, MODULE, OUR_SERVICE, STOCK};
use crate::peers::is_name;

pub const CHECKS: &[Check] = &[
    Check {
        codes: &["no-bus"],
        run: bus,
    },
    Check {
        codes: &["module-not-installed", "module-other-kernel", "module-not-loaded"],
        run: module,
    },
    Check {
        codes: &["module-unsigned"],
        run: unsigned,
    },
    Check {
        codes: &["iommu-strict"],
        run: iommu,
    },
    Check {
        codes: &["no-cable"],
        run: no_cable,
    },
    Check {
        codes: &["stock-driver", "service-taken"],
        run: owner,
    },
    Check {
        codes: &["peer-silent", "peer-without-module", "peer-version"],
        run: peer,
    },
    Check {
        codes: &["cable-slow", "cable-one-lane", "cable-below-host"],
        run: speed,
    },
    Check {
        codes: &["name-not-unique"],
        run: names,
    },
    Check {
        codes: &["config-wrong"],
        run: config,
    },
];

/// Version of the native protocol's service, docs/protocol.md.
const SERVICE_VERSION: u32 = 1;
/// A lane below this many Gbit/s was trained by a cable that is none for USB4.
const USB4_LANE: f64 = 20.0;

fn bus(facts: &Facts) -> Vec<Finding> {
    if facts.host.bus {
        return vec![];
    }
    let text = "this kernel drives no USB4 or Thunderbolt host router: the driver thunderbolt is not loaded, or the \
                machine has none";
    vec![Finding::error("no-bus", text, "/sys/bus/thunderbolt/devices is not there").fix("modprobe thunderbolt")]
}

fn unsigned(facts: &Facts) -> Vec<Finding> {
    let host = &facts.host;
    let (Some(evidence), Some(false)) = (&host.signed_only, host.module_signed) else {
        return vec![];
    };
    if facts.loaded(MODULE) {
        return vec![];
    }
    let text = format!(
        "this kernel takes signed modules only, as with Secure Boot, and the file of {MODULE} is not signed: sign it \
         (`scripts/sign-file` of the kernel's headers) by a key that `mokutil --import` has made known at a boot"
    );
    vec![Finding::error("module-unsigned", text, evidence.clone())]
}

fn iommu(facts: &Facts) -> Vec<Finding> {
    let strict = facts
        .routers
        .iter()
        .find(|router| router.iommu_mode.as_deref() == Some("DMA"));
    let Some(router) = strict else { return vec![] };
    let text = "the IOMMU forgets each page at once, which costs processor time for every frame: the kernel's \
                parameter iommu.strict=0 has it forget many together";
    let evidence = format!("iommu_group/type of router {}: DMA", router.name);
    vec![Finding::info("iommu-strict", text, evidence)]
}

fn config(facts: &Facts) -> Vec<Finding> {
    let Some(error) = &facts.config_error else {
        return vec![];
    };
    let text = "the configuration file cannot be read, and `usb4rdma up` does nothing before that is mended \
                (docs/tool.md)";
    vec![Finding::error("config-wrong", text, error.clone())]
}

fn module(facts: &Facts) -> Vec<Finding> {
    let host = &facts.host;
    if facts.loaded(MODULE) {
        return vec![];
    }
    if host.module_installed {
        let evidence = "/proc/modules does not list it";
        let text = format!("the module {MODULE} is not loaded");
        return vec![Finding::error("module-not-loaded", text, evidence).fix(format!("modprobe {MODULE}"))];
    }
    let evidence = format!("/lib/modules/{}/modules.dep does not list it", host.kernel);
    if !host.module_for.is_empty() {
        let text = format!(
            "the module {MODULE} is installed for another kernel ({}): build it for {} with `make module \
             KDIR=/lib/modules/{}/build` and install it",
            host.module_for.join(", "),
            host.kernel,
            host.kernel
        );
        return vec![Finding::error("module-other-kernel", text, evidence)];
    }
    let text = format!(
        "the module {MODULE} is not installed for kernel {}: `make install KDIR=/lib/modules/{}/build` in the \
         project's tree (README.md, \"On real hardware\")",
        host.kernel, host.kernel
    );
    vec![Finding::error("module-not-installed", text, evidence)]
}

fn no_cable(facts: &Facts) -> Vec<Finding> {
    if !facts.host.bus || !facts.cables.is_empty() {
        return vec![];
    }
    let text = "no cable leads to another host: plug a USB4 or Thunderbolt cable (not a charging cable) into both \
                hosts; where one is plugged, unplug it at both ends and plug it again, as a link that hangs survives \
                a warm reboot";
    vec![Finding::error(
        "no-cable",
        text,
        "/sys/bus/thunderbolt/devices has no device of another host",
    )]
}

fn owner(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![];
    for cable in &facts.cables {
        let driver = facts.netdev_of(&cable.name).and_then(|netdev| netdev.driver.as_deref());
        if driver.is_some_and(|driver| driver != MODULE) {
            let text = format!(
                "{STOCK} drives cable {}: RDMA goes over its network device, by packets of 4 KiB; {MODULE} drives it \
                 natively, but takes the connections over it down when it takes it over",
                cable.name
            );
            let netdev = facts.netdev_of(&cable.name).map_or("", |netdev| &netdev.name);
            let evidence = format!("ethtool -i {netdev}: driver {}", driver.unwrap_or_default());
            found.push(Finding::warning("stock-driver", text, evidence).fix("usb4rdma up --yes"));
        }
        for service in [OUR_SERVICE, IP_SERVICE].iter().filter_map(|key| cable.service(key)) {
            let Some(driver) = &service.driver else { continue };
            if driver != MODULE && driver != "thunderbolt-net" {
                let text = format!(
                    "the driver {driver} has the service {} of the host at cable {}: {MODULE} gets no rings there",
                    service.key, cable.name
                );
                let evidence = format!("/sys/bus/thunderbolt/devices/{}.*/driver: {driver}", cable.name);
                found.push(Finding::error("service-taken", text, evidence));
            }
        }
    }
    found
}

fn peer(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![];
    for cable in &facts.cables {
        let at = format!("{} (cable {})", cable.peer_name, cable.name);
        let listed: Vec<&str> = cable.services.iter().map(|service| service.key.as_str()).collect();
        let evidence = format!(
            "/sys/bus/thunderbolt/devices/{}.*/key: {}",
            cable.name,
            if listed.is_empty() {
                "none".into()
            } else {
                listed.join(", ")
            }
        );
        match (cable.service(OUR_SERVICE), cable.service(IP_SERVICE)) {
            (None, None) => {
                let text = format!(
                    "{at} offers no network over its cable: run `usb4rdma up` there, or load {MODULE} or {STOCK} there"
                );
                found.push(Finding::error("peer-silent", text, evidence));
            }
            (None, Some(_)) => {
                let text = format!(
                    "{at} does not have {MODULE}: the cable speaks ThunderboltIP, and RDMA goes by packets of 4 KiB; \
                     install and load {MODULE} there"
                );
                found.push(Finding::warning("peer-without-module", text, evidence));
            }
            (Some(service), _) if service.version != SERVICE_VERSION => {
                let text = format!(
                    "{at} has {MODULE} with version {} of the protocol, this tool knows version {SERVICE_VERSION}: \
                     install the same release on both hosts",
                    service.version
                );
                found.push(Finding::warning("peer-version", text, evidence));
            }
            _ => {}
        }
    }
    found
}

fn speed(facts: &Facts) -> Vec<Finding> {
    let mut found = vec![];
    for cable in &facts.cables {
        let lane = cable.tx_speed.min(cable.rx_speed);
        let lanes = cable.tx_lanes.min(cable.rx_lanes);
        let best = facts.router(&cable.router).map_or(lane, |router| router.lane_speed());
        let evidence = format!(
            "/sys/bus/thunderbolt/devices/{}: tx {} Gb/s x {}, rx {} Gb/s x {}; the router reaches {best} Gb/s x 2",
            cable.name, cable.tx_speed, cable.tx_lanes, cable.rx_speed, cable.rx_lanes
        );
        if lanes == 0 || lane == 0.0 {
            continue;
        }
        if lane < USB4_LANE && lane < best {
            let text = format!(
                "cable {} runs at {lane} Gb/s a lane where {best} are possible: unplug it at both ends and plug it \
                 again; a network plug (RJ45) or a passive cable that was there at plug time also does this",
                cable.name
            );
            found.push(Finding::warning("cable-slow", text, evidence));
        } else if lanes < 2 {
            let text = format!(
                "cable {} runs on one lane of two: unplug it at both ends and plug it again, or try another cable",
                cable.name
            );
            found.push(Finding::warning("cable-one-lane", text, evidence));
        } else if lane < best {
            let text = format!(
                "cable {} runs at {lane} Gb/s a lane, this host reaches {best}: as fast as the other host or the cable \
                 allows",
                cable.name
            );
            found.push(Finding::info("cable-below-host", text, evidence));
        }
    }
    found
}

/// Names that do not tell hosts apart: their cables cannot be bonded.
fn names(facts: &Facts) -> Vec<Finding> {
    let own = &facts.host.name;
    let mut found = vec![];
    if facts.cables.is_empty() {
        return found;
    }
    let text = |who: &str, name: &str| {
        format!(
            "{who} is called {name:?}, which does not tell it from others: its cables are not bonded, and addresses \
             change with the cable; give it a name of its own \
             (`hostnamectl set-hostname`)"
        )
    };
    if !is_name(own) {
        let evidence = format!("uname -n: {own}");
        found.push(Finding::warning("name-not-unique", text("this host", own), evidence));
    }
    for cable in &facts.cables {
        let peer = &cable.peer_name;
        if !is_name(peer) || (peer == own && is_name(own)) {
            let who = format!("the host at cable {}", cable.name);
            let evidence = format!("/sys/bus/thunderbolt/devices/{}/device_name: {peer}", cable.name);
            found.push(Finding::warning("name-not-unique", text(&who, peer), evidence));
        }
    }
    found
}
