// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What the device says about itself. What it does not do is zero.

use crate::{
    caps,
    device::Qps,
    fast,
    kapi::{netdev::Netdev, paged},
    mcast,
    memory::Keyed,
};
use roce::limits;
use tbnet::kapi::kernels::limit;
use usb4_bindings as c;

/// Answers `query_device`. `guid` is in wire order.
pub(crate) fn query_device(attr: &mut c::ib_device_attr, guid: u64) {
    attr.fw_ver = 1 << 32;
    attr.sys_image_guid = guid;
    attr.max_mr_size = u64::MAX;
    attr.page_size_cap = 0xffff_f000;
    attr.vendor_id = 0x00ff_ffff;
    attr.hw_ver = 1;
    let max_qp = u32::try_from(Qps::CAPACITY).unwrap_or(u32::MAX);
    attr.max_qp = limit(max_qp);
    attr.max_qp_wr = limit(caps::MAX_WR);
    attr.device_cap_flags = (c::ib_device_cap_flags_IB_DEVICE_RC_RNR_NAK_GEN
        | c::ib_device_cap_flags_IB_DEVICE_SYS_IMAGE_GUID
        | c::ib_device_cap_flags_IB_DEVICE_SRQ_RESIZE
        | c::ib_device_cap_flags_IB_DEVICE_MEM_WINDOW
        | c::ib_device_cap_flags_IB_DEVICE_MEM_WINDOW_TYPE_2B
        | c::ib_device_cap_flags_IB_DEVICE_MEM_MGT_EXTENSIONS
        | c::ib_device_cap_flags_IB_DEVICE_FLUSH_GLOBAL
        | c::ib_device_cap_flags_IB_DEVICE_ATOMIC_WRITE) as u64;
    attr.kernel_cap_flags = u64::from(c::ib_kernel_cap_flags_IBK_ALLOW_USER_UNREG);
    if paged::is_possible() {
        attr.kernel_cap_flags |= u64::from(c::ib_kernel_cap_flags_IBK_ON_DEMAND_PAGING);
        attr.odp_caps = odp_caps();
    }
    attr.max_send_sge = limit(caps::MAX_SGE);
    attr.max_recv_sge = limit(caps::MAX_SGE);
    attr.max_sge_rd = limit(caps::MAX_SGE);
    attr.max_cq = 1 << 20;
    attr.max_cqe = limit(caps::MAX_CQE);
    attr.max_mr = limit(u32::try_from(Keyed::MAX_REGIONS).unwrap_or(u32::MAX));
    attr.max_pd = 1 << 20;
    attr.max_ah = limit(u32::from(i16::MAX.unsigned_abs()));
    attr.max_mw = limit(u32::try_from(Keyed::MAX_WINDOWS).unwrap_or(u32::MAX));
    attr.atomic_cap = c::ib_atomic_cap_IB_ATOMIC_HCA;
    attr.max_srq = 1 << 20;
    attr.max_srq_wr = limit(caps::MAX_SRQ_WR);
    attr.max_srq_sge = limit(caps::MAX_SRQ_SGE);
    let rd_atomic = u32::try_from(limits::MAX_RD_ATOMIC).unwrap_or(u32::MAX);
    attr.max_qp_rd_atom = limit(rd_atomic);
    attr.max_qp_init_rd_atom = limit(rd_atomic);
    attr.max_res_rd_atom = limit(rd_atomic.saturating_mul(max_qp));
    attr.max_mcast_grp = limit(count(mcast::MAX_GROUPS));
    attr.max_mcast_qp_attach = limit(count(mcast::MAX_ATTACH));
    attr.max_total_mcast_qp_attach = limit(count(mcast::MAX_TOTAL));
    attr.max_fast_reg_page_list_len = fast::MAX_PAGES;
    attr.max_pkeys = 1;
    attr.local_ca_ack_delay = 15;
}

/// What paged regions serve for: everything but windows and FLUSH, which says more than that a page is there.
fn odp_caps() -> c::ib_odp_caps {
    let datagram = c::ib_odp_transport_cap_bits_IB_ODP_SUPPORT_SEND
        | c::ib_odp_transport_cap_bits_IB_ODP_SUPPORT_RECV
        | c::ib_odp_transport_cap_bits_IB_ODP_SUPPORT_SRQ_RECV;
    let unreliable = datagram | c::ib_odp_transport_cap_bits_IB_ODP_SUPPORT_WRITE;
    let reliable = unreliable
        | c::ib_odp_transport_cap_bits_IB_ODP_SUPPORT_READ
        | c::ib_odp_transport_cap_bits_IB_ODP_SUPPORT_ATOMIC
        | c::ib_odp_transport_cap_bits_IB_ODP_SUPPORT_ATOMIC_WRITE;
    c::ib_odp_caps {
        general_caps: u64::from(c::ib_odp_general_cap_bits_IB_ODP_SUPPORT),
        per_transport_caps: c::ib_odp_caps__bindgen_ty_1 {
            rc_odp_caps: reliable,
            uc_odp_caps: unreliable,
            ud_odp_caps: datagram,
            xrc_odp_caps: 0,
        },
    }
}

/// Answers `query_port` of a device over `netdev` of so many Mb/s, or of one whose netdev has gone.
pub(crate) fn query_port(netdev: Option<&Netdev>, mbps: u32, attr: &mut c::ib_port_attr) {
    attr.max_mtu = code(4096);
    attr.gid_tbl_len = caps::GID_TABLE_LEN;
    attr.port_cap_flags = c::ib_port_capability_mask_bits_IB_PORT_CM_SUP;
    attr.max_msg_sz = limits::MAX_MESSAGE_LEN;
    attr.pkey_tbl_len = 1;
    attr.max_vl_num = 1;
    let Some(netdev) = netdev else {
        // The netdev has gone and the device follows it: a dead port until then, not an error in the log.
        attr.state = c::ib_port_state_IB_PORT_DOWN;
        attr.active_mtu = code(256);
        attr.phys_state = c::ib_port_phys_state_IB_PORT_PHYS_STATE_DISABLED as u8;
        let (speed, width) = rate(0);
        (attr.active_speed, attr.active_width) = (speed as u16, width as u8);
        return;
    };
    attr.state = netdev.port_state();
    attr.active_mtu = code(caps::active_mtu(netdev.mtu()));
    attr.phys_mtu = netdev.mtu();
    attr.phys_state = if attr.state == c::ib_port_state_IB_PORT_ACTIVE {
        c::ib_port_phys_state_IB_PORT_PHYS_STATE_LINK_UP as u8
    } else if netdev.is_up() {
        c::ib_port_phys_state_IB_PORT_PHYS_STATE_POLLING as u8
    } else {
        c::ib_port_phys_state_IB_PORT_PHYS_STATE_DISABLED as u8
    };
    let (speed, width) = rate(mbps);
    (attr.active_speed, attr.active_width) = (speed as u16, width as u8);
}

/// Answers `get_port_immutable`.
pub(crate) fn port_immutable(immutable: &mut c::ib_port_immutable) {
    immutable.core_cap_flags = c::RDMA_CORE_PORT_IBA_ROCE_UDP_ENCAP;
    immutable.pkey_tbl_len = 1;
    immutable.gid_tbl_len = caps::GID_TABLE_LEN;
    immutable.max_mad_size = c::IB_MGMT_MAD_SIZE;
}

/// The smallest InfiniBand rate (`enum ib_port_speed`, `enum ib_port_width`) that is not below `mbps`.
fn rate(mbps: u32) -> (u32, u32) {
    match mbps {
        0..=2_500 => (c::ib_port_speed_IB_SPEED_SDR, c::ib_port_width_IB_WIDTH_1X),
        2_501..=10_000 => (c::ib_port_speed_IB_SPEED_FDR10, c::ib_port_width_IB_WIDTH_1X),
        10_001..=20_000 => (c::ib_port_speed_IB_SPEED_DDR, c::ib_port_width_IB_WIDTH_4X),
        20_001..=25_000 => (c::ib_port_speed_IB_SPEED_EDR, c::ib_port_width_IB_WIDTH_1X),
        25_001..=40_000 => (c::ib_port_speed_IB_SPEED_FDR10, c::ib_port_width_IB_WIDTH_4X),
        40_001..=50_000 => (c::ib_port_speed_IB_SPEED_EDR, c::ib_port_width_IB_WIDTH_2X),
        50_001..=100_000 => (c::ib_port_speed_IB_SPEED_EDR, c::ib_port_width_IB_WIDTH_4X),
        100_001..=200_000 => (c::ib_port_speed_IB_SPEED_HDR, c::ib_port_width_IB_WIDTH_4X),
        _ => (c::ib_port_speed_IB_SPEED_NDR, c::ib_port_width_IB_WIDTH_4X),
    }
}

/// A number of things as the core has it.
fn count(things: usize) -> u32 {
    u32::try_from(things).unwrap_or(u32::MAX)
}

fn code(bytes: u32) -> u32 {
    caps::mtu_code(bytes).unwrap_or(1)
}
