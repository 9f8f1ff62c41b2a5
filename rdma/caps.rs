// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What the device can do: rxe's limits (verbs.md section 2) where librxe's users see them.

use roce::psn::Qpn;

/// IBTA 9.2.4: the destination of multicast packets.
pub(crate) const MULTICAST: Qpn = Qpn::new(0xff_ffff);
/// The default partition, full member.
pub(crate) const PKEY: u16 = 0xffff;
/// `rdma dev` and `ibv_devinfo` show it as the firmware.
pub(crate) const FIRMWARE: &core::ffi::CStr = c"0.1.0";
/// Work requests of a queue.
pub(crate) const MAX_WR: u32 = 1 << 20;
/// Scatter entries of a request.
pub(crate) const MAX_SGE: u32 = 32;
/// Bytes of inline data.
pub(crate) const MAX_INLINE: u32 = 512;
/// Completions of a queue. More than rxe's 32767, with which libfabric's ofi_rxm fails.
pub(crate) const MAX_CQE: u32 = (1 << 20) - 1;
/// Receives of a shared queue.
pub(crate) const MAX_SRQ_WR: u32 = 1 << 20;
/// Scatter entries of a receive in a shared queue.
pub(crate) const MAX_SRQ_SGE: u32 = 27;
/// Source addresses the core keeps for the port. Its address vectors, and those of the user ABI, name one by eight bits
/// (`struct ib_global_route`, `ib_uverbs_global_route`, `rxe_global_route`), and it refuses an address whose index is
/// not what the vector says, so that more could be listed but not used.
pub(crate) const GID_TABLE_LEN: i32 = 256;
/// IP and UDP headers, transport headers and ICRC that do not count in the RDMA MTU, as rxe reckons.
const HEADROOM: u32 = 80;
/// `IB_MTU_4096`, `IB_MTU_256`.
const MTU_CODES: [(u32, u32); 5] = [(4096, 5), (2048, 4), (1024, 3), (512, 2), (256, 1)];

/// The largest RDMA MTU in bytes for a netdev's MTU.
pub(crate) fn active_mtu(netdev_mtu: u32) -> u32 {
    let room = netdev_mtu.saturating_sub(HEADROOM);
    MTU_CODES
        .iter()
        .map(|(bytes, _)| *bytes)
        .find(|bytes| *bytes <= room)
        .unwrap_or(256)
}

/// The `enum ib_mtu` of a size.
pub(crate) fn mtu_code(bytes: u32) -> Option<u32> {
    MTU_CODES.iter().find(|(b, _)| *b == bytes).map(|(_, code)| *code)
}
