// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What C calls: the functions behind the tables in `net/sys/helpers.c`.
//!
//! Each takes raw pointers apart, calls the safe code and turns its result into an errno. The core guarantees that
//! objects passed in are alive during the call, that an object's operations do not overlap its destruction, and that
//! parents outlive children (a PD its QPs and MRs, a CQ its QPs, the device everything). That is what every function
//! here asks of its caller.

#![allow(clippy::missing_safety_doc, reason = "one contract for all, above")]

mod ah;
mod fast;
mod kernel_callers;
mod mcast;
mod mr;
mod mw;
mod resource;
mod srq;

use crate::{
    caps, context, counters,
    cq::Cq,
    device::Device,
    kapi::{
        hint::hint,
        ibdev,
        netdev::{Netdev, Rtnl},
        queue, route,
        uverbs::{CqHandle, QpAttr, QpHandle, Udata},
    },
    link,
    qp::{NewQp, Qp},
    srq::Srq,
};
use core::ptr::{self, NonNull};
use kernel::{
    ffi::{c_char, c_int, c_uint, c_ulong, c_void},
    prelude::*,
    str::as_char_ptr_in_const_context,
    sync::Arc,
};
use roce::{keys::Pd, qp::QpKind};
use tbnet::kapi::kernels::not_supported;
use usb4_bindings as c;

/// A call from outside, on the stack of the function that was called. What is borrowed of the objects that came with it
/// is borrowed of this as well, and so does not outlive the call.
struct Call(());

impl Call {
    const fn begin() -> Self {
        Self(())
    }

    /// Our half of a device of the core.
    ///
    /// # Safety
    ///
    /// `ib` is a registered device of ours and stays so during the call.
    unsafe fn device(&self, ib: *mut c::ib_device) -> &Device {
        // SAFETY: By the caller's promise; all our devices keep a `Device`.
        unsafe { ibdev::kept(ib) }
    }

    /// The device and the number of a domain.
    ///
    /// # Safety
    ///
    /// `pd` is a domain of a device as [`Self::device`] takes it.
    unsafe fn domain(&self, pd: *mut c::ib_pd) -> (&Device, Pd) {
        // SAFETY: By the caller's promise; all our domains are a `usb4_pd`, numbered by `usb4_op_alloc_pd`.
        unsafe { (self.device((*pd).device), Pd((*pd.cast::<c::usb4_pd>()).number)) }
    }

    /// Borrows what [`attach`] gave.
    ///
    /// # Safety
    ///
    /// `slot` holds an attached `T`, which is not detached during the call.
    unsafe fn attached<T>(&self, slot: *mut c_void) -> &T {
        // SAFETY: By the caller's promise.
        unsafe { &*slot.cast::<T>() }
    }
}

/// Result as the core wants it.
fn errno(result: Result) -> c_int {
    result.map_or_else(|err| err.to_errno(), |()| 0)
}

/// Gives `value` to an object of the core.
fn attach<T>(slot: &mut *mut c_void, value: Arc<T>) {
    *slot = Arc::into_raw(value).cast_mut().cast();
}

/// A share of what [`attach`] gave.
///
/// # Safety
///
/// `slot` holds an attached `T`.
unsafe fn share<T>(slot: *mut c_void) -> Arc<T> {
    // SAFETY: By the caller's promise.
    let held = unsafe { Arc::from_raw(slot.cast::<T>()) };
    let share = held.clone();
    let _ = Arc::into_raw(held);
    share
}

/// Takes back what [`attach`] gave.
///
/// # Safety
///
/// `slot` holds an attached `T` and is not used again.
unsafe fn detach<T>(slot: &mut *mut c_void) -> Option<Arc<T>> {
    let raw = core::mem::replace(slot, ptr::null_mut());
    // SAFETY: By the caller's promise.
    (!raw.is_null()).then(|| unsafe { Arc::from_raw(raw.cast()) })
}

#[no_mangle]
unsafe extern "C" fn usb4_op_newlink(name: *const c_char, ndev: *mut c::net_device) -> c_int {
    let Some(ndev) = NonNull::new(ndev) else {
        return EINVAL.to_errno();
    };
    // SAFETY: The netlink code holds the netdev and passes a string.
    let (name, netdev) = unsafe { (CStr::from_char_ptr(name), Netdev::hold(ndev)) };
    errno(link::add(name, &netdev))
}

#[no_mangle]
unsafe extern "C" fn usb4_op_dellink(ib: *mut c::ib_device) {
    let call = Call::begin();
    // SAFETY: The core passes a device of ours.
    unsafe { call.device(ib) }.leave();
}

#[no_mangle]
extern "C" fn usb4_op_relink() {
    link::relink();
}

#[no_mangle]
extern "C" fn usb4_op_renew() {
    link::renew(route::take_all());
}

#[no_mangle]
unsafe extern "C" fn usb4_op_netdev_event(event: c_ulong, ndev: *mut c::net_device) -> c_int {
    if let Some(ndev) = NonNull::new(ndev) {
        // SAFETY: The notifier passes a netdev.
        let netdev = unsafe { Netdev::hold(ndev) };
        // SAFETY: Notifiers of netdevs are called under RTNL.
        let rtnl = unsafe { Rtnl::held() };
        link::netdev_event(&rtnl, u32::try_from(event).unwrap_or(0), &netdev);
    }
    0 // NOTIFY_DONE
}

#[no_mangle]
unsafe extern "C" fn usb4_op_dealloc_driver(ib: *mut c::ib_device) {
    // SAFETY: The core calls this at the end of a device of ours.
    if let Some(device) = unsafe { ibdev::take::<Device>(ib) } {
        link::end(&device);
    }
}

#[no_mangle]
unsafe extern "C" fn usb4_op_get_netdev(ib: *mut c::ib_device, _port: u32) -> *mut c::net_device {
    let call = Call::begin();
    // SAFETY: The core passes a device of ours.
    match unsafe { call.device(ib) }.netdev() {
        // The caller gets our reference.
        Some(netdev) => core::mem::ManuallyDrop::new(netdev).as_ptr(),
        None => ptr::null_mut(),
    }
}

#[no_mangle]
unsafe extern "C" fn usb4_op_query_device(
    ib: *mut c::ib_device,
    attr: *mut c::ib_device_attr,
    udata: *mut c::ib_udata,
) -> c_int {
    // SAFETY: The core passes a device of ours, its answer's place, and the caller's data or null.
    unsafe {
        if Udata::new(udata).is_some_and(|u| u.in_len() != 0 || u.out_len() != 0) {
            return EINVAL.to_errno();
        }
        context::query_device(&mut *attr, (*ib).node_guid);
    }
    0
}

#[no_mangle]
unsafe extern "C" fn usb4_op_query_port(ib: *mut c::ib_device, _port: u32, attr: *mut c::ib_port_attr) -> c_int {
    let call = Call::begin();
    // SAFETY: The core passes a device of ours and its answer's place.
    let (device, attr) = unsafe { (call.device(ib), &mut *attr) };
    let netdev = device.netdev();
    let mbps = netdev.as_ref().map_or(0, |netdev| device.speed(netdev));
    context::query_port(netdev.as_ref(), mbps, attr);
    0
}

#[no_mangle]
unsafe extern "C" fn usb4_op_query_pkey(_ib: *mut c::ib_device, _port: u32, index: u16, pkey: *mut u16) -> c_int {
    // SAFETY: The core passes the answer's place.
    unsafe { *pkey = caps::PKEY };
    if index == 0 {
        0
    } else {
        EINVAL.to_errno()
    }
}

#[no_mangle]
unsafe extern "C" fn usb4_op_port_immutable(
    _ib: *mut c::ib_device,
    _port: u32,
    immutable: *mut c::ib_port_immutable,
) -> c_int {
    // SAFETY: The core passes the answer's place.
    context::port_immutable(unsafe { &mut *immutable });
    0
}

#[no_mangle]
unsafe extern "C" fn usb4_op_fw_str(_ib: *mut c::ib_device, to: *mut c_char) {
    let text = caps::FIRMWARE.to_bytes_with_nul();
    // SAFETY: The core passes IB_FW_VERSION_NAME_MAX (32) bytes; the text is shorter.
    unsafe { ptr::copy_nonoverlapping(text.as_ptr(), to.cast(), text.len().min(32)) }
}

#[no_mangle]
unsafe extern "C" fn usb4_op_alloc_ucontext(_context: *mut c::ib_ucontext, udata: *mut c::ib_udata) -> c_int {
    // SAFETY: The core passes the caller's data.
    match unsafe { Udata::new(udata) } {
        Some(udata) if udata.in_len() != 0 => EINVAL.to_errno(),
        _ => 0,
    }
}

#[no_mangle]
unsafe extern "C" fn usb4_op_dealloc_ucontext(_context: *mut c::ib_ucontext) {}

#[no_mangle]
unsafe extern "C" fn usb4_op_mmap(context: *mut c::ib_ucontext, vma: *mut c::vm_area_struct) -> c_int {
    // SAFETY: The arguments are those of the op.
    errno(unsafe { queue::map(context, vma) })
}

#[no_mangle]
unsafe extern "C" fn usb4_op_mmap_free(entry: *mut c::rdma_user_mmap_entry) {
    // SAFETY: All entries are made by `queue`.
    unsafe { queue::mapping_released(entry) }
}

#[no_mangle]
unsafe extern "C" fn usb4_op_alloc_pd(pd: *mut c::ib_pd, _udata: *mut c::ib_udata) -> c_int {
    let call = Call::begin();
    // SAFETY: The PD was allocated by the core with our size.
    unsafe { (*pd.cast::<c::usb4_pd>()).number = call.device((*pd).device).new_serial() };
    0
}

#[no_mangle]
unsafe extern "C" fn usb4_op_dealloc_pd(_pd: *mut c::ib_pd, _udata: *mut c::ib_udata) -> c_int {
    0
}

#[no_mangle]
unsafe extern "C" fn usb4_op_create_cq(
    cq: *mut c::ib_cq,
    attr: *const c::ib_cq_init_attr,
    attrs: *mut c::uverbs_attr_bundle,
) -> c_int {
    let call = Call::begin();
    // SAFETY: The core passes a zeroed CQ of our size, its wishes, and the caller's data (null for a kernel caller).
    let (ours, attr, udata) = unsafe {
        (
            &mut *cq.cast::<c::usb4_cq>(),
            &*attr,
            Udata::new(c::usb4_attrs_udata(attrs)),
        )
    };
    let Some(handle) = NonNull::new(cq) else {
        return EINVAL.to_errno();
    };
    if attr.flags != 0 {
        return not_supported().to_errno();
    }
    // SAFETY: `usb4_op_destroy_cq` closes the queue, which drops the handle.
    match Cq::create(unsafe { CqHandle::new(handle) }, attr.cqe, udata.as_ref()) {
        Ok(new) => {
            ours.ib.cqe = c_int::try_from(new.capacity()).unwrap_or(c_int::MAX);
            attach(&mut ours.inner, new);
            0
        }
        Err(err) => {
            if err == EINVAL {
                // SAFETY: The parent is alive.
                let device = unsafe { call.device(ours.ib.device) };
                hint!(
                    device.ib(),
                    "no CQ of {} completions: 1 to {} are possible",
                    attr.cqe,
                    caps::MAX_CQE
                );
            }
            err.to_errno()
        }
    }
}

#[no_mangle]
unsafe extern "C" fn usb4_op_destroy_cq(cq: *mut c::ib_cq, _udata: *mut c::ib_udata) -> c_int {
    // SAFETY: The core destroys a CQ once, when no QP uses it.
    if let Some(cq) = unsafe { detach::<Cq>(&mut (*cq.cast::<c::usb4_cq>()).inner) } {
        cq.close();
    }
    0
}

#[no_mangle]
unsafe extern "C" fn usb4_op_resize_cq(cq: *mut c::ib_cq, cqe: c_uint, udata: *mut c::ib_udata) -> c_int {
    let call = Call::begin();
    // SAFETY: The core passes a CQ of ours and the caller's data.
    let (ours, udata) = unsafe { (&mut *cq.cast::<c::usb4_cq>(), Udata::new(udata)) };
    let Some(udata) = udata else {
        return not_supported().to_errno();
    };
    // SAFETY: Attached by `usb4_op_create_cq`.
    match unsafe { call.attached::<Cq>(ours.inner) }.resize(cqe, &udata) {
        Ok(capacity) => {
            ours.ib.cqe = c_int::try_from(capacity).unwrap_or(c_int::MAX);
            0
        }
        Err(err) => err.to_errno(),
    }
}

#[no_mangle]
unsafe extern "C" fn usb4_op_req_notify_cq(cq: *mut c::ib_cq, flags: c::ib_cq_notify_flags) -> c_int {
    let call = Call::begin();
    // SAFETY: The core passes a CQ of ours.
    let cq = unsafe { call.attached::<Cq>((*cq.cast::<c::usb4_cq>()).inner) };
    let solicited_only = flags & c::ib_cq_notify_flags_IB_CQ_SOLICITED_MASK == c::ib_cq_notify_flags_IB_CQ_SOLICITED;
    let missed = cq.arm(solicited_only);
    c_int::from(missed && flags & c::ib_cq_notify_flags_IB_CQ_REPORT_MISSED_EVENTS != 0)
}

/// The engine's name of a QP type.
fn kind(of: c::ib_qp_type) -> Option<QpKind> {
    match of {
        c::ib_qp_type_IB_QPT_GSI => Some(QpKind::Gsi),
        c::ib_qp_type_IB_QPT_RC => Some(QpKind::Rc),
        c::ib_qp_type_IB_QPT_UC => Some(QpKind::Uc),
        c::ib_qp_type_IB_QPT_UD => Some(QpKind::Ud),
        _ => None,
    }
}

#[no_mangle]
unsafe extern "C" fn usb4_op_create_qp(
    qp: *mut c::ib_qp,
    init: *mut c::ib_qp_init_attr,
    udata: *mut c::ib_udata,
) -> c_int {
    let call = Call::begin();
    // SAFETY: The core passes a zeroed QP of our size, its wishes, and the caller's data or null.
    let (ours, init, udata) = unsafe { (&mut *qp.cast::<c::usb4_qp>(), &mut *init, Udata::new(udata)) };
    let Some(handle) = NonNull::new(qp) else {
        return EINVAL.to_errno();
    };
    if init.send_cq.is_null() || init.recv_cq.is_null() || ours.ib.pd.is_null() {
        return not_supported().to_errno();
    }
    let other = !init.xrcd.is_null() || !init.rwq_ind_tbl.is_null();
    if other || init.create_flags != 0 {
        return not_supported().to_errno();
    }
    let Some(kind) = kind(init.qp_type) else {
        return not_supported().to_errno();
    };
    // SAFETY: The parents are alive, and stay so while the QP is. `usb4_op_destroy_qp` closes the QP, which drops
    // the handle.
    let new = unsafe {
        NewQp {
            device: ibdev::share(ours.ib.device),
            pd: Pd((*ours.ib.pd.cast::<c::usb4_pd>()).number),
            send_cq: share::<Cq>((*init.send_cq.cast::<c::usb4_cq>()).inner),
            recv_cq: share::<Cq>((*init.recv_cq.cast::<c::usb4_cq>()).inner),
            srq: (!init.srq.is_null()).then(|| share::<Srq>((*init.srq.cast::<c::usb4_srq>()).inner)),
            handle: QpHandle::new(handle),
            kind,
            signal_all: init.sq_sig_type == c::ib_sig_type_IB_SIGNAL_ALL_WR,
        }
    };
    match Qp::create(new, &mut init.cap, udata.as_ref()) {
        Ok(new) => {
            ours.ib.qp_num = if kind == QpKind::Gsi { 1 } else { new.number() };
            attach(&mut ours.inner, new);
            0
        }
        Err(err) => {
            if err == EINVAL {
                let cap = &init.cap;
                hint!(
                    // SAFETY: The parent is alive.
                    unsafe { call.device(ours.ib.device) }.ib(),
                    "no QP of {} sends in {} pieces or {} inline bytes, {} receives in {} pieces: most are {}, {}, {}; \
                     or it is of another user ABI",
                    cap.max_send_wr,
                    cap.max_send_sge,
                    cap.max_inline_data,
                    cap.max_recv_wr,
                    cap.max_recv_sge,
                    caps::MAX_WR,
                    caps::MAX_SGE,
                    caps::MAX_INLINE
                );
            }
            err.to_errno()
        }
    }
}

#[no_mangle]
unsafe extern "C" fn usb4_op_modify_qp(
    qp: *mut c::ib_qp,
    attr: *mut c::ib_qp_attr,
    mask: c_int,
    _udata: *mut c::ib_udata,
) -> c_int {
    // SAFETY: The core passes a QP of ours and its wishes, with the source GID held.
    let (qp, attr) = unsafe { (share::<Qp>((*qp.cast::<c::usb4_qp>()).inner), QpAttr::new(&mut *attr)) };
    errno(Qp::modify(&qp, attr, mask))
}

#[no_mangle]
unsafe extern "C" fn usb4_op_query_qp(
    qp: *mut c::ib_qp,
    attr: *mut c::ib_qp_attr,
    _mask: c_int,
    init: *mut c::ib_qp_init_attr,
) -> c_int {
    let call = Call::begin();
    // SAFETY: The core passes a QP of ours and the answers' places.
    let (ours, attr, init) = unsafe { (&*qp.cast::<c::usb4_qp>(), &mut *attr, &mut *init) };
    // SAFETY: Attached by `usb4_op_create_qp`.
    let inner = unsafe { call.attached::<Qp>(ours.inner) };
    inner.query(attr);
    init.event_handler = ours.ib.event_handler;
    init.qp_context = ours.ib.qp_context;
    init.send_cq = ours.ib.send_cq;
    init.recv_cq = ours.ib.recv_cq;
    init.srq = ours.ib.srq;
    init.qp_type = ours.ib.qp_type;
    init.cap = attr.cap;
    init.sq_sig_type = if inner.signal_all() {
        c::ib_sig_type_IB_SIGNAL_ALL_WR
    } else {
        c::ib_sig_type_IB_SIGNAL_REQ_WR
    };
    0
}

#[no_mangle]
unsafe extern "C" fn usb4_op_destroy_qp(qp: *mut c::ib_qp, _udata: *mut c::ib_udata) -> c_int {
    // SAFETY: The core destroys a QP once.
    if let Some(qp) = unsafe { detach::<Qp>(&mut (*qp.cast::<c::usb4_qp>()).inner) } {
        Qp::flush(&qp);
        qp.close();
    }
    0
}

/// The counters' descriptions, as the core keeps them.
struct Descriptions([c::rdma_stat_desc; counters::NAMES.len()]);

// SAFETY: Constant text.
unsafe impl Sync for Descriptions {}

static DESCRIPTIONS: Descriptions = {
    let mut descriptions = [c::rdma_stat_desc {
        name: ptr::null(),
        flags: 0,
        priv_: ptr::null(),
    }; counters::NAMES.len()];
    let mut at = 0;
    while at < descriptions.len() {
        descriptions[at].name = as_char_ptr_in_const_context(counters::NAMES[at]);
        at += 1;
    }
    Descriptions(descriptions)
};

#[no_mangle]
unsafe extern "C" fn usb4_op_alloc_stats(_ib: *mut c::ib_device, _port: u32) -> *mut c::rdma_hw_stats {
    let count = c_int::try_from(counters::NAMES.len()).unwrap_or(0);
    // SAFETY: The descriptions live as long as the module.
    unsafe { c::usb4_stats_alloc(DESCRIPTIONS.0.as_ptr(), count) }
}

#[no_mangle]
unsafe extern "C" fn usb4_op_get_stats(
    ib: *mut c::ib_device,
    stats: *mut c::rdma_hw_stats,
    port: u32,
    _index: c_int,
) -> c_int {
    let call = Call::begin();
    if stats.is_null() || port == 0 {
        return EINVAL.to_errno();
    }
    // SAFETY: The core passes a device of ours and what `usb4_op_alloc_stats` made.
    unsafe {
        for (at, value) in (0..).zip(call.device(ib).totals()) {
            c::usb4_stats_set(stats, at, value);
        }
        c::usb4_stats_count(stats)
    }
}
