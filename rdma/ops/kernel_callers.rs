// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The operations that callers in the kernel use: posting, polling, their memory.

#![allow(clippy::missing_safety_doc, reason = "the contract of all ops, in ops.rs")]

use super::{errno, mr::new_mr, share, Call};
use crate::{
    ah::Ah,
    cq::Cq,
    kapi::kernel_memory::{AllMemory, Inline},
    mr::Region,
    post::{Data, Send},
    qp::Qp,
    srq::Srq,
};
use core::{ptr, slice};
use kernel::{ffi::c_int, prelude::*};
use roce::{
    abi::{Destination, KernelCqe, INLINE},
    fast::Registration,
    keys::{Access, Key},
    psn::Qpn,
};
use tbnet::kapi::kernels::not_supported;
use usb4_bindings as c;

/// The scatter list of a request.
///
/// # Safety
///
/// `list` has `count` entries during `'a`.
unsafe fn sges<'a>(list: *mut c::ib_sge, count: c_int) -> Result<&'a [c::ib_sge]> {
    match usize::try_from(count) {
        Ok(0) => Ok(&[]),
        // SAFETY: By the caller's promise.
        Ok(count) if !list.is_null() => Ok(unsafe { slice::from_raw_parts(list, count) }),
        _ => Err(EINVAL),
    }
}

/// A send in our terms.
///
/// # Safety
///
/// `wr` is a send posted to a QP of ours, `is_datagram` whether that is UD or GSI.
unsafe fn send<'a>(wr: &'a c::ib_send_wr, is_datagram: bool) -> Result<Send<'a>> {
    let call = Call::begin();
    let raw = ptr::from_ref(wr);
    let to = match wr.opcode {
        c::ib_wr_opcode_IB_WR_SEND | c::ib_wr_opcode_IB_WR_SEND_WITH_IMM if is_datagram => {
            // SAFETY: Sends on datagram QPs are the first field of an `ib_ud_wr`.
            let ud = unsafe { &*raw.cast::<c::ib_ud_wr>() };
            if ud.ah.is_null() {
                return Err(EINVAL);
            }
            // SAFETY: The caller keeps the handle, which is one of ours, during the call.
            let ah = unsafe { call.attached::<Ah>((*ud.ah.cast::<c::usb4_ah>()).inner) };
            Destination::Datagram {
                qpn: Qpn::new(ud.remote_qpn),
                qkey: ud.remote_qkey,
                vector: ah.vector().ok_or(EINVAL)?,
            }
        }
        c::ib_wr_opcode_IB_WR_SEND
        | c::ib_wr_opcode_IB_WR_SEND_WITH_IMM
        | c::ib_wr_opcode_IB_WR_SEND_WITH_INV
        | c::ib_wr_opcode_IB_WR_LOCAL_INV => Destination::Peer,
        c::ib_wr_opcode_IB_WR_RDMA_WRITE
        | c::ib_wr_opcode_IB_WR_RDMA_WRITE_WITH_IMM
        | c::ib_wr_opcode_IB_WR_RDMA_READ => {
            // SAFETY: These are the first field of an `ib_rdma_wr`.
            let rdma = unsafe { &*raw.cast::<c::ib_rdma_wr>() };
            Destination::Remote {
                va: rdma.remote_addr,
                rkey: Key(rdma.rkey),
            }
        }
        c::ib_wr_opcode_IB_WR_ATOMIC_CMP_AND_SWP | c::ib_wr_opcode_IB_WR_ATOMIC_FETCH_AND_ADD => {
            // SAFETY: These are the first field of an `ib_atomic_wr`.
            let atomic = unsafe { &*raw.cast::<c::ib_atomic_wr>() };
            Destination::Atomic {
                va: atomic.remote_addr,
                compare_add: atomic.compare_add,
                swap: atomic.swap,
                rkey: Key(atomic.rkey),
            }
        }
        c::ib_wr_opcode_IB_WR_REG_MR => {
            // SAFETY: It is the first field of an `ib_reg_wr`, whose region is one of ours.
            let (reg, mr) = unsafe {
                let reg = &*raw.cast::<c::ib_reg_wr>();
                (reg, reg.mr.as_ref().ok_or(EINVAL)?)
            };
            Destination::Register(Registration {
                key: Key(reg.key),
                base: mr.iova,
                length: mr.length,
                access: Access(u32::from_ne_bytes(reg.access.to_ne_bytes())),
            })
        }
        _ => return Err(not_supported()),
    };
    let flags = u32::from_ne_bytes(wr.send_flags.to_ne_bytes());
    // SAFETY: The list is the caller's.
    let entries = unsafe { sges(wr.sg_list, wr.num_sge)? };
    let data = if flags & INLINE == 0 {
        Data::Named(entries)
    } else {
        // SAFETY: Entries of an inline send of the kernel's name its data by address, during the call.
        Data::Inline(unsafe { Inline::new(entries) })
    };
    // SAFETY: All variants of both unions are plain numbers.
    unsafe {
        Ok(Send {
            wr_id: wr.__bindgen_anon_1.wr_id,
            opcode: wr.opcode,
            flags,
            ex: wr.ex.invalidate_rkey.to_ne_bytes(),
            to,
            data,
        })
    }
}

/// Posts the sends of a kernel caller. Without any it is user space's doorbell: its requests are in the shared ring.
#[no_mangle]
unsafe extern "C" fn usb4_op_post_send(
    qp: *mut c::ib_qp,
    mut wr: *const c::ib_send_wr,
    bad: *mut *const c::ib_send_wr,
) -> c_int {
    let call = Call::begin();
    // SAFETY: The core passes a QP of ours.
    let (ours, inner) = unsafe { (&*qp, (*qp.cast::<c::usb4_qp>()).inner) };
    if wr.is_null() {
        // SAFETY: Attached by `usb4_op_create_qp`.
        return errno(Qp::posted(&unsafe { share::<Qp>(inner) }));
    }
    // SAFETY: As above.
    let qp = unsafe { call.attached::<Qp>(inner) };
    let is_datagram = matches!(ours.qp_type, c::ib_qp_type_IB_QPT_UD | c::ib_qp_type_IB_QPT_GSI);
    let mut result = 0;
    // SAFETY: The caller's list ends with null.
    while let Some(one) = unsafe { wr.as_ref() } {
        // SAFETY: Posted to this QP.
        if let Err(err) = unsafe { send(one, is_datagram) }.and_then(|send| qp.post_send(&send)) {
            // SAFETY: The core passes a place for it.
            unsafe { *bad = wr };
            result = err.to_errno();
            break;
        }
        wr = one.next;
    }
    qp.kick();
    result
}

/// Posts a list of receives by `post`.
///
/// # Safety
///
/// `wr` is a caller's list, which ends with null, and `bad` a place for the one that fails.
unsafe fn post_each(
    mut wr: *const c::ib_recv_wr,
    bad: *mut *const c::ib_recv_wr,
    post: impl Fn(u64, &[c::ib_sge]) -> Result,
) -> c_int {
    // SAFETY: By the caller's promise.
    while let Some(one) = unsafe { wr.as_ref() } {
        // SAFETY: Both variants of the union are plain numbers; the scatter list is the caller's.
        let posted = unsafe { sges(one.sg_list, one.num_sge).map(|list| (one.__bindgen_anon_1.wr_id, list)) };
        if let Err(err) = posted.and_then(|(wr_id, list)| post(wr_id, list)) {
            // SAFETY: By the caller's promise.
            unsafe { *bad = wr };
            return err.to_errno();
        }
        wr = one.next;
    }
    0
}

/// Posts the receives of a kernel caller.
#[no_mangle]
unsafe extern "C" fn usb4_op_post_recv(
    qp: *mut c::ib_qp,
    wr: *const c::ib_recv_wr,
    bad: *mut *const c::ib_recv_wr,
) -> c_int {
    let call = Call::begin();
    // SAFETY: The core passes a QP of ours and the caller's list.
    unsafe {
        let qp = call.attached::<Qp>((*qp.cast::<c::usb4_qp>()).inner);
        post_each(wr, bad, |wr_id, list| qp.post_recv(wr_id, list))
    }
}

/// Posts the receives of a kernel caller to a shared queue.
#[no_mangle]
unsafe extern "C" fn usb4_op_post_srq_recv(
    srq: *mut c::ib_srq,
    wr: *const c::ib_recv_wr,
    bad: *mut *const c::ib_recv_wr,
) -> c_int {
    let call = Call::begin();
    // SAFETY: The core passes an SRQ of ours and the caller's list.
    unsafe {
        let srq = call.attached::<Srq>((*srq.cast::<c::usb4_srq>()).inner);
        post_each(wr, bad, |wr_id, list| srq.post(wr_id, list))
    }
}

/// Polls a kernel caller's queue.
#[no_mangle]
unsafe extern "C" fn usb4_op_poll_cq(cq: *mut c::ib_cq, count: c_int, to: *mut c::ib_wc) -> c_int {
    let call = Call::begin();
    // SAFETY: The core passes a CQ of ours.
    let cq = unsafe { call.attached::<Cq>((*cq.cast::<c::usb4_cq>()).inner) };
    let mut done = 0;
    while done < count {
        let cqe = match cq.poll() {
            Ok(Some(cqe)) => cqe,
            Ok(None) => break,
            Err(err) => return err.to_errno(),
        };
        // SAFETY: The caller has room for `count`.
        unsafe { to.offset(done as isize).write(work_completion(&cqe)) };
        done += 1;
    }
    done
}

fn work_completion(cqe: &KernelCqe) -> c::ib_wc {
    let mut flags = 0;
    for (is, flag) in [
        (cqe.has_imm, c::ib_wc_flags_IB_WC_WITH_IMM),
        (cqe.has_invalidated, c::ib_wc_flags_IB_WC_WITH_INVALIDATE),
        (
            cqe.has_grh,
            c::ib_wc_flags_IB_WC_GRH | c::ib_wc_flags_IB_WC_WITH_NETWORK_HDR_TYPE,
        ),
        (cqe.vlan.is_some(), c::ib_wc_flags_IB_WC_WITH_VLAN),
    ] {
        if is {
            flags |= flag;
        }
    }
    let network = if cqe.ipv6 {
        c::rdma_network_type_RDMA_NETWORK_IPV6
    } else {
        c::rdma_network_type_RDMA_NETWORK_IPV4
    };
    let mut wc = c::ib_wc {
        status: cqe.status,
        opcode: cqe.opcode,
        byte_len: cqe.byte_len,
        qp: ptr::with_exposed_provenance_mut(cqe.mark as usize),
        src_qp: cqe.src_qp,
        wc_flags: flags as c_int,
        port_num: 1,
        network_hdr_type: network as u8,
        vlan_id: cqe.vlan.unwrap_or(u16::MAX),
        ..Default::default()
    };
    wc.__bindgen_anon_1.wr_id = cqe.wr_id;
    wc.ex.invalidate_rkey = u32::from_ne_bytes(cqe.ex);
    wc
}

/// A key for the kernel's own memory.
#[no_mangle]
unsafe extern "C" fn usb4_op_get_dma_mr(pd: *mut c::ib_pd, access: c_int) -> *mut c::ib_mr {
    let call = Call::begin();
    // SAFETY: The core passes a PD of ours.
    let (device, number) = unsafe { call.domain(pd) };
    new_mr(|| {
        // SAFETY: Only callers in the kernel have such a PD, and they name buffers that they keep until completion. The
        // region uses the memory for accesses that its key admits, which are those of their requests.
        let memory = unsafe { AllMemory::new() };
        let make = |key| Region::of_kernel(key, number, memory, access);
        Ok((device.keyed.publish(make)?, (0, 0)))
    })
}
