// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Attributes of a QP between the core's terms and the engine's.

use crate::{
    caps,
    kapi::uverbs::{modify_is_allowed, KeptAttr, QpAttr},
};
use kernel::prelude::*;
use roce::{
    keys::Access,
    psn::{Psn, Qpn},
    qp::{Modify, Mtu, QpKind, State},
    wire::udp::{Addresses, Path},
};
use usb4_bindings as c;

/// Why an address vector means no path.
pub(crate) const NO_PATH: &str =
    "the source is no RoCEv2 address of the netdev or of a VLAN directly above it, or not of the destination's family";

/// The engine's path from the core's. Its own Ethernet address is put in where a frame is built (`wire::udp::send`).
pub(crate) fn path(flat: &c::usb4_path, src_port: u16) -> Path {
    let v4 = |gid: &[u8; 16]| {
        let [.., a, b, c, d] = *gid;
        [a, b, c, d]
    };
    Path {
        src_mac: [0; 6],
        dst_mac: flat.dmac,
        addresses: if flat.ipv6 != 0 {
            Addresses::V6 {
                src: flat.sgid,
                dst: flat.dgid,
            }
        } else {
            Addresses::V4 {
                src: v4(&flat.sgid),
                dst: v4(&flat.dgid),
            }
        },
        src_port,
        traffic_class: flat.traffic_class,
        hop_limit: flat.hop_limit,
        flow_label: flat.flow_label,
        tag: flat.tag,
    }
}

/// Checks the attributes of a modify and puts them in the engine's terms. `port_mtu` is for datagrams; a connection has
/// the MTU that it is told.
///
/// # Errors
///
/// Why not, for the log.
pub(crate) fn read_modify(
    is: State,
    kind: QpKind,
    attr: &QpAttr<'_>,
    mask: u32,
    port_mtu: u32,
) -> Result<Modify, &'static str> {
    let fields = attr.fields();
    let has = |bit: u32| mask & bit != 0;
    let is = u32::from(is as u8);
    let from = if has(c::ib_qp_attr_mask_IB_QP_CUR_STATE) {
        fields.cur_qp_state
    } else {
        is
    };
    let to = if has(c::ib_qp_attr_mask_IB_QP_STATE) {
        fields.qp_state
    } else {
        is
    };
    if from != is {
        return Err("it is not in the state that the caller takes it to be in");
    }
    if !modify_is_allowed(from, to, u32::from(kind as u8), mask) {
        return Err("no such transition, or not with these attributes");
    }
    if has(c::ib_qp_attr_mask_IB_QP_PORT) && fields.port_num != 1 {
        return Err("the only port is 1");
    }
    if has(c::ib_qp_attr_mask_IB_QP_PKEY_INDEX) && fields.pkey_index != 0 {
        return Err("the only index of a P_Key is 0");
    }
    let state = match to {
        0 => State::Reset,
        1 => State::Init,
        2 => State::Rtr,
        3 => State::Rts,
        4 => State::Sqd,
        5 => State::Sqe,
        6 => State::Err,
        _ => return Err("no such state"),
    };
    let path_mtu = if has(c::ib_qp_attr_mask_IB_QP_PATH_MTU) {
        Some(Mtu::from_enum(fields.path_mtu).ok_or("no such path MTU")?)
    } else if kind.is_datagram() && state == State::Rtr {
        caps::mtu_code(port_mtu).and_then(Mtu::from_enum)
    } else {
        None
    };
    let byte = |bit: u32, value: u8| has(bit).then_some(value);
    let rights = Access::REMOTE_WRITE
        .with(Access::REMOTE_READ)
        .with(Access::REMOTE_ATOMIC)
        .with(Access::FLUSH_GLOBAL)
        .with(Access::FLUSH_PERSISTENT)
        .0;
    let asked = u32::from_ne_bytes(fields.qp_access_flags.to_ne_bytes());
    Ok(Modify {
        state: has(c::ib_qp_attr_mask_IB_QP_STATE).then_some(state),
        path_mtu,
        dest_qpn: has(c::ib_qp_attr_mask_IB_QP_DEST_QPN).then(|| Qpn::new(fields.dest_qp_num)),
        qkey: (has(c::ib_qp_attr_mask_IB_QP_QKEY) && kind == QpKind::Ud).then_some(fields.qkey),
        rq_psn: has(c::ib_qp_attr_mask_IB_QP_RQ_PSN).then(|| Psn::new(fields.rq_psn)),
        sq_psn: has(c::ib_qp_attr_mask_IB_QP_SQ_PSN).then(|| Psn::new(fields.sq_psn)),
        max_rd_atomic: byte(c::ib_qp_attr_mask_IB_QP_MAX_QP_RD_ATOMIC, fields.max_rd_atomic),
        max_dest_rd_atomic: byte(c::ib_qp_attr_mask_IB_QP_MAX_DEST_RD_ATOMIC, fields.max_dest_rd_atomic),
        min_rnr_timer: byte(c::ib_qp_attr_mask_IB_QP_MIN_RNR_TIMER, fields.min_rnr_timer),
        timeout: byte(c::ib_qp_attr_mask_IB_QP_TIMEOUT, fields.timeout),
        retry_cnt: byte(c::ib_qp_attr_mask_IB_QP_RETRY_CNT, fields.retry_cnt),
        rnr_retry: byte(c::ib_qp_attr_mask_IB_QP_RNR_RETRY, fields.rnr_retry),
        access: has(c::ib_qp_attr_mask_IB_QP_ACCESS_FLAGS).then_some(Access(asked & rights)),
        sqd_event: has(c::ib_qp_attr_mask_IB_QP_EN_SQD_ASYNC_NOTIFY) && fields.en_sqd_async_notify != 0,
    })
}

/// Remembers attributes for queries.
pub(crate) fn keep(kept: &mut KeptAttr, new: &c::ib_qp_attr, mask: u32) {
    let has = |bit: u32| mask & bit != 0;
    let kept = kept.fields();
    if has(c::ib_qp_attr_mask_IB_QP_QKEY) {
        kept.qkey = new.qkey;
    }
    if has(c::ib_qp_attr_mask_IB_QP_DEST_QPN) {
        kept.dest_qp_num = new.dest_qp_num;
    }
    if has(c::ib_qp_attr_mask_IB_QP_ACCESS_FLAGS) {
        kept.qp_access_flags = new.qp_access_flags;
    }
    if has(c::ib_qp_attr_mask_IB_QP_MAX_QP_RD_ATOMIC) {
        kept.max_rd_atomic = new.max_rd_atomic;
    }
    if has(c::ib_qp_attr_mask_IB_QP_MAX_DEST_RD_ATOMIC) {
        kept.max_dest_rd_atomic = new.max_dest_rd_atomic;
    }
    if has(c::ib_qp_attr_mask_IB_QP_MIN_RNR_TIMER) {
        kept.min_rnr_timer = new.min_rnr_timer;
    }
    if has(c::ib_qp_attr_mask_IB_QP_TIMEOUT) {
        kept.timeout = new.timeout;
    }
    if has(c::ib_qp_attr_mask_IB_QP_RETRY_CNT) {
        kept.retry_cnt = new.retry_cnt;
    }
    if has(c::ib_qp_attr_mask_IB_QP_RNR_RETRY) {
        kept.rnr_retry = new.rnr_retry;
    }
}
