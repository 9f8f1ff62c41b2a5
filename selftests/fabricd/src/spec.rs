// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The specification of a fabric: a JSON file.

use serde::Deserialize;
use usb4_model::{CableShape, HostShape, Profile, Topology, Usb4Version};

/// Rate and latency of a cable in virtual time, if the specification gives none. Every frame must take time there, or
/// two guests exchange messages for ever in the same nanosecond.
const VIRTUAL_RATE: u64 = 40_000_000_000;
const VIRTUAL_LATENCY_NS: u64 = 500;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    #[serde(default)]
    pub frontend: Frontend,
    #[serde(default)]
    pub virtual_time: bool,
    #[serde(default)]
    profile: ProfileName,
    #[serde(default = "default_version")]
    usb4_version: u8,
    hosts: Vec<Host>,
    #[serde(default)]
    cables: Vec<Cable>,
    #[serde(default)]
    seed: u64,
    /// Overrides the profile's number of rings.
    hops: Option<usize>,
    /// Bits per second of each ring's DMA, whatever its cable's rate.
    ring_rate_bps: Option<f64>,
    /// Overrides the profile's number of HopIDs of each lane adapter.
    hop_ids: Option<usize>,
    /// Commands of the control socket with the time of each in `at_ns`.
    #[serde(default)]
    pub events: Vec<serde_json::Value>,
}

/// How guests reach their NHIs.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub enum Frontend {
    #[default]
    #[serde(rename = "vhost-user")]
    VhostUser,
    #[serde(rename = "vfio-user")]
    VfioUser,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ProfileName {
    #[default]
    Strix,
    Intel,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Host {
    nhis: Option<usize>,
    ports_per_nhi: Option<usize>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cable {
    a: [usize; 3],
    b: [usize; 3],
    /// JSON writers differ in whether 40e9 is an integer.
    rate_bps: Option<f64>,
    latency_ns: Option<f64>,
}

fn default_version() -> u8 {
    2
}

impl Spec {
    /// Reads a specification.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Spec, String> {
        let spec: Spec = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if !(1..=2).contains(&spec.usb4_version) {
            return Err(format!("usb4_version {}: 1 or 2", spec.usb4_version));
        }
        if spec.virtual_time && spec.frontend != Frontend::VhostUser {
            return Err("virtual_time needs the vhost-user front-end".into());
        }
        Ok(spec)
    }

    pub fn topology(&self) -> Topology {
        let profile = match self.profile {
            ProfileName::Strix => Profile::Strix,
            ProfileName::Intel => Profile::Intel,
        };
        let (nhis, ports) = profile.shape();
        let host = |host: &Host| HostShape {
            nhis: host.nhis.unwrap_or(nhis),
            ports_per_nhi: host.ports_per_nhi.unwrap_or(ports),
        };
        Topology {
            profile,
            version: if self.usb4_version == 1 {
                Usb4Version::V1
            } else {
                Usb4Version::V2
            },
            hosts: self.hosts.iter().map(host).collect(),
            cables: self.cables.iter().map(|cable| self.cable(cable)).collect(),
            seed: self.seed,
            hops: self.hops,
            ring_rate: self.ring_rate_bps.map(|rate| rate as u64).filter(|&rate| rate > 0),
            hop_ids: self.hop_ids,
        }
    }

    fn cable(&self, cable: &Cable) -> CableShape {
        let rate = cable.rate_bps.map(|rate| rate as u64).filter(|&rate| rate > 0);
        let latency = cable.latency_ns.map(|latency| latency as u64);
        let (rate, latency) = if self.virtual_time {
            (
                Some(rate.unwrap_or(VIRTUAL_RATE)),
                latency.unwrap_or(VIRTUAL_LATENCY_NS),
            )
        } else {
            (rate, latency.unwrap_or(0))
        };
        let end = |[host, nhi, port]: [usize; 3]| (host, nhi, port);
        CableShape {
            ends: [end(cable.a), end(cable.b)],
            rate,
            latency_ns: latency,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_profiles() {
        let spec = r#"{"hosts":[{},{"nhis":1}],"cables":[{"a":[0,1,0],"b":[1,0,0],"rate_bps":40e9}]}"#;
        let topology = Spec::parse(spec).unwrap().topology();
        assert_eq!(
            topology.hosts[0],
            HostShape {
                nhis: 2,
                ports_per_nhi: 1
            }
        );
        assert_eq!(topology.hosts[1].nhis, 1);
        assert_eq!(topology.cables[0].rate, Some(40_000_000_000));
        assert_eq!(topology.cables[0].latency_ns, 0);
        assert_eq!(topology.version, Usb4Version::V2);
        assert_eq!(topology.ring_rate, None);
        let paced = r#"{"hosts":[{}],"ring_rate_bps":12e9}"#;
        assert_eq!(Spec::parse(paced).unwrap().topology().ring_rate, Some(12_000_000_000));
    }

    #[test]
    fn virtual_time_gives_every_frame_a_wire_time() {
        let spec = r#"{"virtual_time":true,"hosts":[{},{}],"cables":[{"a":[0,0,0],"b":[1,0,0],"rate_bps":null}]}"#;
        let topology = Spec::parse(spec).unwrap().topology();
        assert_eq!(
            (topology.cables[0].rate, topology.cables[0].latency_ns),
            (Some(VIRTUAL_RATE), VIRTUAL_LATENCY_NS)
        );
    }

    #[test]
    fn mistakes_are_refused() {
        assert!(Spec::parse(r#"{"hosts":[],"speed":3}"#).is_err());
        assert!(Spec::parse(r#"{"hosts":[],"usb4_version":3}"#).is_err());
        assert!(Spec::parse(r#"{"hosts":[],"virtual_time":true,"frontend":"vfio-user"}"#).is_err());
    }
}
