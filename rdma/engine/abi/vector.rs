// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Address vectors in sends: `struct rxe_av` (C header: `rdma/rdma_user_rxe.h`) as far as we look at it.

use super::{bytes_at, put, u32_at};

/// Where the fields are.
mod at {
    pub(super) const PORT: usize = 0;
    pub(super) const NETWORK: usize = 1;
    pub(super) const DMAC: usize = 2;
    pub(super) const DGID: usize = 8;
    pub(super) const FLOW_LABEL: usize = 24;
    pub(super) const SGID_INDEX: usize = 28;
    pub(super) const HOP_LIMIT: usize = 29;
    pub(super) const TRAFFIC_CLASS: usize = 30;
}

/// The family of a vector's addresses: `RXE_NETWORK_TYPE_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Network(u8);

impl Network {
    /// IPv4.
    pub const IPV4: Self = Self(1);
    /// IPv6.
    pub const IPV6: Self = Self(2);
}

/// Where a send goes. Anything may be in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vector {
    /// The family of both addresses.
    pub network: Network,
    /// The Ethernet address of the peer or of the next hop.
    pub dmac: [u8; 6],
    /// The peer's address; an IPv4 one is mapped.
    pub dgid: [u8; 16],
    /// IPv6 flow label.
    pub flow_label: u32,
    /// Our address, by its place in the GID table.
    pub sgid_index: u8,
    /// IP hop limit.
    pub hop_limit: u8,
    /// IP traffic class.
    pub traffic_class: u8,
}

impl Vector {
    /// Bytes in a send.
    pub const LEN: usize = 88;

    /// Reads the vector of a send.
    #[must_use]
    pub fn parse(raw: &[u8; Self::LEN]) -> Self {
        let byte = |at| u8::from_ne_bytes(bytes_at(raw, at));
        Self {
            network: Network(byte(at::NETWORK)),
            dmac: bytes_at(raw, at::DMAC),
            dgid: bytes_at(raw, at::DGID),
            flow_label: u32_at(raw, at::FLOW_LABEL),
            sgid_index: byte(at::SGID_INDEX),
            hop_limit: byte(at::HOP_LIMIT),
            traffic_class: byte(at::TRAFFIC_CLASS),
        }
    }

    /// The bytes that [`Self::parse`] reads; the rest is zero.
    #[must_use]
    pub fn bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        put(&mut out, at::PORT, &[1]);
        put(&mut out, at::NETWORK, &[self.network.0]);
        put(&mut out, at::DMAC, &self.dmac);
        put(&mut out, at::DGID, &self.dgid);
        put(&mut out, at::FLOW_LABEL, &self.flow_label.to_ne_bytes());
        put(&mut out, at::SGID_INDEX, &[self.sgid_index]);
        put(&mut out, at::HOP_LIMIT, &[self.hop_limit]);
        put(&mut out, at::TRAFFIC_CLASS, &[self.traffic_class]);
        out
    }
}
