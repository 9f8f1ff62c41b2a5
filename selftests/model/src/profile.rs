// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Kinds of machine: what a host's NHIs look like to a driver.

use crate::adapter::LANE_HOPS;
use crate::regs::VECTORS;

/// USB4 major version the routers report. It decides how the driver resets a router and how fast a link is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Usb4Version {
    /// Gen 3 lanes (20 Gb/s), bonded by the driver's exchange over the cable: seven seconds to a carrier.
    V1,
    /// Gen 4 lanes (40 Gb/s) that come up as one, and a host router reset: under three seconds.
    #[default]
    V2,
}

/// A machine to imitate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// AMD Strix Halo: two NHIs of one port and 3 hops each, so two usable rings per NHI.
    #[default]
    Strix,
    /// A discrete two-port controller with 12 hops. Its vendor is not 8086, which would switch the driver to
    /// auto-clearing interrupts.
    Intel,
}

/// The numbers of a profile that the model needs, for one NHI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NhiProfile {
    pub vendor: u16,
    pub device: u16,
    /// Rings per direction, ring 0 included: the driver's `hop_count`.
    pub hops: usize,
    pub version: Usb4Version,
    /// MSI-X vectors, at most 16 and no fewer than the driver's minimum of 6.
    pub vectors: usize,
    /// HopIDs of each lane adapter, of which 8 are not for paths between hosts.
    pub hop_ids: usize,
}

impl Profile {
    /// NHIs in a host and ports of each.
    pub fn shape(self) -> (usize, usize) {
        match self {
            Profile::Strix => (2, 1),
            Profile::Intel => (1, 2),
        }
    }

    /// The look of a host's NHI number `index`.
    pub fn nhi(self, index: usize, version: Usb4Version) -> NhiProfile {
        let (vendor, device, hops) = match self {
            Profile::Strix if index % 2 == 0 => (0x1022, 0x158d, 3),
            Profile::Strix => (0x1022, 0x158e, 3),
            // ASMedia's host controller id: any vendor that the driver has no quirk for.
            Profile::Intel => (0x1b21, 0x2425, 12),
        };
        NhiProfile {
            vendor,
            device,
            hops,
            version,
            vectors: VECTORS,
            hop_ids: LANE_HOPS,
        }
    }
}
