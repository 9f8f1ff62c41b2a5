// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Objects of the RDMA core as the safe code sees them: contexts, replies, and the handles to raise events.
//!
//! C headers: `include/rdma/{ib_verbs,uverbs_ioctl}.h`.

use super::{ibdev::IbDev, netdev::Netdev};
use core::ptr::{self, NonNull};
use kernel::{error::to_result, prelude::*};
use usb4_bindings as c;

/// The user context that a call comes from.
pub(crate) struct Context(NonNull<c::ib_ucontext>);

impl Context {
    pub(crate) fn as_ptr(&self) -> *mut c::ib_ucontext {
        self.0.as_ptr()
    }
}

/// The driver's part of a request: what came in, where the answer goes.
pub(crate) struct Udata(NonNull<c::ib_udata>);

impl Udata {
    /// `None` for a kernel caller, which has none.
    ///
    /// # Safety
    ///
    /// `udata` is null or valid while the value lives.
    pub(crate) unsafe fn new(udata: *mut c::ib_udata) -> Option<Self> {
        NonNull::new(udata).map(Self)
    }

    /// Bytes of driver data that came in.
    pub(crate) fn in_len(&self) -> usize {
        // SAFETY: Valid by `new`.
        unsafe { c::usb4_udata_inlen(self.0.as_ptr()) }
    }

    /// Bytes of driver data that may go out.
    pub(crate) fn out_len(&self) -> usize {
        // SAFETY: Valid by `new`.
        unsafe { c::usb4_udata_outlen(self.0.as_ptr()) }
    }

    /// The caller's context.
    pub(crate) fn context(&self) -> Result<Context> {
        // SAFETY: Valid by `new`.
        NonNull::new(unsafe { c::usb4_udata_context(self.0.as_ptr()) })
            .map(Context)
            .ok_or(EINVAL)
    }

    /// Writes the answer.
    pub(crate) fn reply(&self, bytes: &[u8]) -> Result {
        if bytes.len() > self.out_len() {
            return Err(EINVAL);
        }
        // SAFETY: Valid by `new`; the bytes are only read.
        to_result(unsafe { c::usb4_udata_reply(self.0.as_ptr(), bytes.as_ptr().cast_mut().cast(), bytes.len()) })
    }
}

/// Places for the caller's data and answers outside of the usual ones.
impl Udata {
    /// Reads the driver's data that came in, which may not be less.
    pub(crate) fn read(&self, to: &mut [u8]) -> Result {
        if to.len() > self.in_len() {
            return Err(EINVAL);
        }
        // SAFETY: Valid by `new`; `to` has the bytes.
        to_result(unsafe { c::usb4_udata_read(self.0.as_ptr(), to.as_mut_ptr().cast(), to.len()) })
    }

    /// Writes to the caller's memory at `address`.
    pub(crate) fn write_at(&self, address: u64, bytes: &[u8]) -> Result {
        // SAFETY: Runs in the caller's system call; the bytes are only read.
        to_result(unsafe { c::usb4_user_write(address, bytes.as_ptr().cast(), bytes.len()) })
    }
}

/// The attributes of a QP, as `modify_qp` brings them.
pub(crate) struct QpAttr<'a>(&'a mut c::ib_qp_attr);

impl<'a> QpAttr<'a> {
    /// # Safety
    ///
    /// `attr` is the core's: where it names a source GID, that attribute is alive.
    pub(crate) unsafe fn new(attr: &'a mut c::ib_qp_attr) -> Self {
        Self(attr)
    }

    /// The fields.
    pub(crate) fn fields(&self) -> &c::ib_qp_attr {
        self.0
    }

    /// The way to the peer that the address vector means, if it is RoCEv2 over `netdev`.
    pub(crate) fn path(&mut self, netdev: &Netdev) -> Option<c::usb4_path> {
        flat_path(&mut self.0.ah_attr, netdev)
    }
}

/// The way that an address vector of the core means, if it is RoCEv2 over `netdev`. The vector is the core's: where it
/// names a source GID, that attribute is alive.
pub(crate) fn flat_path(attr: &mut c::rdma_ah_attr, netdev: &Netdev) -> Option<c::usb4_path> {
    let mut facts = c::usb4_ah_facts::default();
    // SAFETY: The vector comes from the core, through the ops, or from `path_of`; the netdev is held.
    if !unsafe { c::usb4_ah_facts(attr, netdev.as_ptr(), &mut facts) } {
        return None;
    }
    let is_ours = facts.roce && (facts.at_netdev || facts.at_vlan);
    let mut path = facts.path;
    if !is_ours || (path.ipv6 != 0) == facts.to_ipv4 {
        return None;
    }
    // SAFETY: A vector of RoCE has an Ethernet address, which is copied.
    unsafe { c::usb4_ah_dmac(attr, path.dmac.as_mut_ptr()) };
    Some(path)
}

/// Completes a path that names its source by index. `None` if there is no such source on `netdev`.
pub(crate) fn path_of(ib: &IbDev, wanted: &c::usb4_path, netdev: &Netdev) -> Option<c::usb4_path> {
    // SAFETY: The device is held.
    let source = NonNull::new(unsafe { c::usb4_gid_attr(ib.as_ptr(), wanted.sgid_index) }.cast_mut())?;
    let mut attr = c::rdma_ah_attr::default();
    // SAFETY: Both are valid; the source's attribute is held until it is put below.
    unsafe { c::usb4_ah_attr_set(&mut attr, wanted, source.as_ptr()) };
    let path = flat_path(&mut attr, netdev);
    // SAFETY: Taken above.
    unsafe { c::usb4_gid_attr_put(source.as_ptr()) };
    path
}

/// Whether `gid` is an address of the device on `netdev`. Any context.
pub(crate) fn is_our_gid(ib: &IbDev, netdev: &Netdev, gid: &[u8; 16]) -> bool {
    // SAFETY: The device and the netdev are held.
    unsafe { c::usb4_gid_is_ours(ib.as_ptr(), netdev.as_ptr(), gid.as_ptr()) }
}

/// The UDP source port of a connection, as the core reckons it.
pub(crate) fn udp_sport(flow_label: u32, qpn: u32, dest_qpn: u32) -> u16 {
    // SAFETY: A pure function.
    unsafe { c::usb4_udp_sport(flow_label, qpn, dest_qpn) }
}

/// An address vector, kept to answer queries.
///
/// # Invariants
///
/// Holds no pointer to the core's objects.
pub(crate) struct AhAttr(c::rdma_ah_attr);

// SAFETY: Plain values by the invariant.
unsafe impl Send for AhAttr {}

impl AhAttr {
    /// Keeps a copy.
    pub(crate) fn keep(attr: &c::rdma_ah_attr) -> Self {
        let mut kept = c::rdma_ah_attr::default();
        // SAFETY: Both are valid; the pointer in them is dropped by the callee.
        unsafe { c::usb4_ah_keep(&mut kept, attr) };
        Self(kept)
    }

    /// Fills in an answer.
    pub(crate) fn answer(&self, attr: &mut c::rdma_ah_attr) {
        *attr = self.0;
    }
}

/// The attributes of a QP, kept to answer queries.
///
/// # Invariants
///
/// Holds no pointer to the core's objects.
#[derive(Default)]
pub(crate) struct KeptAttr(c::ib_qp_attr);

// SAFETY: Plain values by the invariant.
unsafe impl Send for KeptAttr {}

impl KeptAttr {
    /// Takes the address vector over.
    pub(crate) fn keep_path(&mut self, attr: &QpAttr<'_>) {
        // SAFETY: Both are valid; the pointer in them is dropped by the callee.
        unsafe { c::usb4_ah_keep(&mut self.0.ah_attr, &attr.0.ah_attr) }
    }

    /// The plain fields.
    pub(crate) fn fields(&mut self) -> &mut c::ib_qp_attr {
        &mut self.0
    }

    /// Keeps only what was fixed at creation.
    pub(crate) fn forget(&mut self) {
        let cap = self.0.cap;
        self.0 = c::ib_qp_attr {
            cap,
            ..Default::default()
        };
    }

    /// Fills in an answer.
    pub(crate) fn answer(&self, attr: &mut c::ib_qp_attr) {
        *attr = self.0;
    }
}

/// The core's table of transitions of a QP of a type and the attributes they need and allow.
pub(crate) fn modify_is_allowed(from: u32, to: u32, kind: u32, mask: u32) -> bool {
    let mask = i32::from_ne_bytes(mask.to_ne_bytes());
    if from > c::ib_qp_state_IB_QPS_ERR || to > c::ib_qp_state_IB_QPS_ERR {
        return false;
    }
    // SAFETY: A pure function of numbers, which are in range.
    unsafe { c::usb4_qp_modify_ok(from, to, kind, mask) }
}

/// The core's half of a completion queue.
///
/// # Invariants
///
/// Valid until the queue's destruction, which takes it away from its holder first.
#[derive(Clone, Copy)]
pub(crate) struct CqHandle(NonNull<c::ib_cq>);

// SAFETY: The core's handlers may be called from any CPU.
unsafe impl Send for CqHandle {}

impl CqHandle {
    /// # Safety
    ///
    /// The holder drops the handle before the queue is gone.
    pub(crate) unsafe fn new(cq: NonNull<c::ib_cq>) -> Self {
        Self(cq)
    }

    /// Tells the owner that completions are there.
    pub(crate) fn complete(&self) {
        // SAFETY: Valid by the invariant.
        unsafe { c::usb4_cq_complete(self.0.as_ptr()) }
    }

    /// Tells the owner that completions were lost.
    pub(crate) fn overrun(&self) {
        // SAFETY: Valid by the invariant.
        unsafe {
            c::usb4_ib_event(
                (*self.0.as_ptr()).device,
                self.0.as_ptr(),
                ptr::null_mut(),
                c::ib_event_type_IB_EVENT_CQ_ERR,
            )
        }
    }
}

/// The core's half of a shared receive queue.
///
/// # Invariants
///
/// Valid until the queue's destruction, which takes it away from its holder first.
pub(crate) struct SrqHandle(NonNull<c::ib_srq>);

// SAFETY: The core's handlers may be called from any CPU.
unsafe impl Send for SrqHandle {}

impl SrqHandle {
    /// # Safety
    ///
    /// The holder drops the handle before the queue is gone.
    pub(crate) unsafe fn new(srq: NonNull<c::ib_srq>) -> Self {
        Self(srq)
    }

    /// Tells the owner that few receives are left.
    pub(crate) fn limit_reached(&self) {
        // SAFETY: Valid by the invariant.
        unsafe { c::usb4_srq_limit_event(self.0.as_ptr()) }
    }
}

/// An asynchronous event of a QP.
#[derive(Clone, Copy)]
pub(crate) enum QpEvent {
    Fatal,
    AccessError,
    RequestError,
    CommEstablished,
    SqDrained,
    LastWqe,
}

impl QpEvent {
    /// The `enum ib_event_type`.
    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Fatal => c::ib_event_type_IB_EVENT_QP_FATAL,
            Self::AccessError => c::ib_event_type_IB_EVENT_QP_ACCESS_ERR,
            Self::RequestError => c::ib_event_type_IB_EVENT_QP_REQ_ERR,
            Self::CommEstablished => c::ib_event_type_IB_EVENT_COMM_EST,
            Self::SqDrained => c::ib_event_type_IB_EVENT_SQ_DRAINED,
            Self::LastWqe => c::ib_event_type_IB_EVENT_QP_LAST_WQE_REACHED,
        }
    }
}

/// The core's half of a QP.
///
/// # Invariants
///
/// Valid until the QP's destruction, which takes it away from its holder first.
pub(crate) struct QpHandle(NonNull<c::ib_qp>);

// SAFETY: The core's handlers may be called from any CPU.
unsafe impl Send for QpHandle {}

/// The core's half of a QP as a plain number, which a completion carries back to it.
#[derive(Clone, Copy)]
pub(crate) struct QpMark(pub(crate) u64);

impl QpHandle {
    /// What completions carry.
    pub(crate) fn mark(&self) -> QpMark {
        QpMark(self.0.as_ptr() as u64)
    }

    /// # Safety
    ///
    /// The holder drops the handle before the QP is gone.
    pub(crate) unsafe fn new(qp: NonNull<c::ib_qp>) -> Self {
        Self(qp)
    }

    /// Tells the owner.
    pub(crate) fn raise(&self, event: QpEvent) {
        // SAFETY: Valid by the invariant.
        unsafe {
            c::usb4_ib_event(
                (*self.0.as_ptr()).device,
                ptr::null_mut(),
                self.0.as_ptr(),
                event.code(),
            )
        }
    }
}

/// An attribute of ours of an object that `rdma resource` lists.
#[repr(transparent)]
pub(crate) struct Detail(c::usb4_detail);

impl Detail {
    /// Shown as a decimal number.
    pub(crate) fn dec(name: &'static CStr, value: u64) -> Self {
        Self::new(name, value, false)
    }

    /// Shown as a hexadecimal number.
    pub(crate) fn hex(name: &'static CStr, value: u64) -> Self {
        Self::new(name, value, true)
    }

    fn new(name: &'static CStr, value: u64, hex: bool) -> Self {
        Self(c::usb4_detail {
            name: name.as_char_ptr(),
            value,
            hex,
        })
    }
}
