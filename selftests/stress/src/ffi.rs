// SPDX-License-Identifier: GPL-2.0 OR MIT
//! libibverbs as the distribution has it: the part of its binary interface (IBVERBS_1.x, x86_64) that is used here.
//!
//! It is opened at run time. The crates that bind it need its headers, libclang and cmake to build, which the machine
//! that builds this does not have; the interface is stable, and its layouts are checked below when this is compiled.

use libloading::Library;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

/// An object of which nothing is looked at.
#[repr(C)]
pub struct Opaque {
    _private: [u8; 0],
}

#[repr(C)]
pub struct Context {
    pub device: *mut Opaque,
    pub ops: Ops,
    pub cmd_fd: c_int,
    pub async_fd: c_int,
}

/// `struct ibv_context_ops`: what the headers' inline functions call.
#[repr(C)]
pub struct Ops {
    _query: [*mut c_void; 7],
    pub alloc_mw: Option<unsafe extern "C" fn(*mut Opaque, c_int) -> *mut Mw>,
    pub bind_mw: Option<unsafe extern "C" fn(*mut Qp, *mut Mw, *mut MwBind) -> c_int>,
    pub dealloc_mw: Option<unsafe extern "C" fn(*mut Mw) -> c_int>,
    _create_cq: *mut c_void,
    pub poll_cq: Option<unsafe extern "C" fn(*mut Cq, c_int, *mut Wc) -> c_int>,
    pub req_notify_cq: Option<unsafe extern "C" fn(*mut Cq, c_int) -> c_int>,
    _cq: [*mut c_void; 7],
    pub post_srq_recv: Option<unsafe extern "C" fn(*mut Srq, *mut RecvWr, *mut *mut RecvWr) -> c_int>,
    _qp: [*mut c_void; 4],
    pub post_send: Option<unsafe extern "C" fn(*mut Qp, *mut SendWr, *mut *mut SendWr) -> c_int>,
    pub post_recv: Option<unsafe extern "C" fn(*mut Qp, *mut RecvWr, *mut *mut RecvWr) -> c_int>,
    _rest: [*mut c_void; 5],
}

#[repr(C)]
pub struct Mr {
    pub context: *mut Context,
    pub pd: *mut Opaque,
    pub addr: *mut c_void,
    pub length: usize,
    pub handle: u32,
    pub lkey: u32,
    pub rkey: u32,
}

#[repr(C)]
pub struct Mw {
    pub context: *mut Context,
    pub pd: *mut Opaque,
    pub rkey: u32,
    pub handle: u32,
    pub kind: c_int,
}

#[repr(C)]
pub struct Qp {
    pub context: *mut Context,
    _objects: [*mut c_void; 5],
    pub handle: u32,
    pub number: u32,
    pub state: c_int,
}

#[repr(C)]
pub struct Cq {
    pub context: *mut Context,
    pub channel: *mut Channel,
    pub cq_context: *mut c_void,
    pub handle: u32,
    pub cqe: c_int,
}

#[repr(C)]
pub struct Srq {
    pub context: *mut Context,
}

#[repr(C)]
pub struct Channel {
    pub context: *mut Context,
    pub fd: c_int,
    pub refcnt: c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct QpCap {
    pub max_send_wr: u32,
    pub max_recv_wr: u32,
    pub max_send_sge: u32,
    pub max_recv_sge: u32,
    pub max_inline_data: u32,
}

#[repr(C)]
pub struct QpInit {
    pub qp_context: *mut c_void,
    pub send_cq: *mut Cq,
    pub recv_cq: *mut Cq,
    pub srq: *mut Srq,
    pub cap: QpCap,
    pub kind: c_int,
    pub sq_sig_all: c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct GlobalRoute {
    pub dgid: [u64; 2],
    pub flow_label: u32,
    pub sgid_index: u8,
    pub hop_limit: u8,
    pub traffic_class: u8,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct AhAttr {
    pub grh: GlobalRoute,
    pub dlid: u16,
    pub sl: u8,
    pub src_path_bits: u8,
    pub static_rate: u8,
    pub is_global: u8,
    pub port_num: u8,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct QpAttr {
    pub state: c_int,
    pub cur_state: c_int,
    pub path_mtu: c_int,
    pub path_mig_state: c_int,
    pub qkey: u32,
    pub rq_psn: u32,
    pub sq_psn: u32,
    pub dest_qp_num: u32,
    pub access: c_uint,
    pub cap: QpCap,
    pub ah: AhAttr,
    pub alt_ah: AhAttr,
    pub pkey_index: u16,
    pub alt_pkey_index: u16,
    pub en_sqd_async_notify: u8,
    pub sq_draining: u8,
    pub max_rd_atomic: u8,
    pub max_dest_rd_atomic: u8,
    pub min_rnr_timer: u8,
    pub port_num: u8,
    pub timeout: u8,
    pub retry_cnt: u8,
    pub rnr_retry: u8,
    pub alt_port_num: u8,
    pub alt_timeout: u8,
    pub rate_limit: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Sge {
    pub addr: u64,
    pub length: u32,
    pub lkey: u32,
}

/// `struct ibv_mw_bind_info`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct BindInfo {
    pub mr: *mut Mr,
    pub addr: u64,
    pub length: u64,
    pub access: c_uint,
}

/// `struct ibv_mw_bind`.
#[repr(C)]
pub struct MwBind {
    pub wr_id: u64,
    pub send_flags: c_uint,
    pub info: BindInfo,
}

/// `struct ibv_send_wr`; the union of what the kinds of requests need is spelled out as words.
#[repr(C)]
pub struct SendWr {
    pub wr_id: u64,
    pub next: *mut SendWr,
    pub sg_list: *mut Sge,
    pub num_sge: c_int,
    pub opcode: c_int,
    pub send_flags: c_uint,
    /// Immediate data, or the key to invalidate.
    pub imm_or_key: u32,
    /// rdma: address, key. atomic: address, operands, key. ud: handle, number and Q_Key.
    pub wr: [u64; 4],
    _xrc: u64,
    pub mw: *mut Mw,
    pub mw_rkey: u32,
    pub bind: BindInfo,
}

impl SendWr {
    pub fn new(wr_id: u64, opcode: c_int, send_flags: c_uint) -> Self {
        Self {
            wr_id,
            next: std::ptr::null_mut(),
            sg_list: std::ptr::null_mut(),
            num_sge: 0,
            opcode,
            send_flags,
            imm_or_key: 0,
            wr: [0; 4],
            _xrc: 0,
            mw: std::ptr::null_mut(),
            mw_rkey: 0,
            bind: BindInfo {
                mr: std::ptr::null_mut(),
                addr: 0,
                length: 0,
                access: 0,
            },
        }
    }
}

#[repr(C)]
pub struct RecvWr {
    pub wr_id: u64,
    pub next: *mut RecvWr,
    pub sg_list: *mut Sge,
    pub num_sge: c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Wc {
    pub wr_id: u64,
    pub status: c_int,
    pub opcode: c_int,
    pub vendor_err: u32,
    pub byte_len: u32,
    pub imm_or_key: u32,
    pub qp_num: u32,
    pub src_qp: u32,
    pub flags: c_uint,
    pub pkey_index: u16,
    pub slid: u16,
    pub sl: u8,
    pub dlid_path_bits: u8,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct SrqAttr {
    pub max_wr: u32,
    pub max_sge: u32,
    pub limit: u32,
}

#[repr(C)]
pub struct SrqInit {
    pub context: *mut c_void,
    pub attr: SrqAttr,
}

#[repr(C)]
pub struct AsyncEvent {
    pub element: u64,
    pub kind: c_int,
}

macro_rules! layout {
    ($($type:ty: $size:expr;)*) => { $(const _: () = assert!(size_of::<$type>() == $size);)* };
}
layout! {
    Ops: 256; Mr: 48; Mw: 32; QpCap: 20; QpInit: 64; GlobalRoute: 24; AhAttr: 32; QpAttr: 144; Sge: 16;
    BindInfo: 32; MwBind: 48; SendWr: 128; RecvWr: 32; Wc: 48; SrqAttr: 12; SrqInit: 24; AsyncEvent: 16;
}
const _: () = assert!(std::mem::offset_of!(Context, cmd_fd) == 264 && std::mem::offset_of!(Qp, number) == 52);
const _: () = assert!(std::mem::offset_of!(SendWr, bind) == 96 && std::mem::offset_of!(QpAttr, ah) == 56);
const _: () = assert!(std::mem::offset_of!(Ops, post_send) == 200 && std::mem::offset_of!(Ops, poll_cq) == 88);

/// Declares the functions and how each is found.
macro_rules! library {
    ($($name:ident($($arg:ty),*) -> $ret:ty = $symbol:literal;)*) => {
        /// The functions of the library.
        pub struct Api { $(pub $name: unsafe extern "C" fn($($arg),*) -> $ret,)* }

        impl Api {
            fn load(library: &'static Library) -> Result<Self, libloading::Error> {
                // SAFETY: The types are those of the library's stable interface, which the name versions.
                unsafe { Ok(Self { $($name: *library.get(concat!($symbol, "\0").as_bytes())?,)* }) }
            }
        }
    };
}

library! {
    get_device_list(*mut c_int) -> *mut *mut Opaque = "ibv_get_device_list";
    free_device_list(*mut *mut Opaque) -> () = "ibv_free_device_list";
    get_device_name(*mut Opaque) -> *const c_char = "ibv_get_device_name";
    open_device(*mut Opaque) -> *mut Context = "ibv_open_device";
    close_device(*mut Context) -> c_int = "ibv_close_device";
    get_async_event(*mut Context, *mut AsyncEvent) -> c_int = "ibv_get_async_event";
    ack_async_event(*mut AsyncEvent) -> () = "ibv_ack_async_event";
    alloc_pd(*mut Context) -> *mut Opaque = "ibv_alloc_pd";
    dealloc_pd(*mut Opaque) -> c_int = "ibv_dealloc_pd";
    reg_mr(*mut Opaque, *mut c_void, usize, u64, c_uint) -> *mut Mr = "ibv_reg_mr_iova2";
    dereg_mr(*mut Mr) -> c_int = "ibv_dereg_mr";
    create_comp_channel(*mut Context) -> *mut Channel = "ibv_create_comp_channel";
    destroy_comp_channel(*mut Channel) -> c_int = "ibv_destroy_comp_channel";
    create_cq(*mut Context, c_int, *mut c_void, *mut Channel, c_int) -> *mut Cq = "ibv_create_cq";
    resize_cq(*mut Cq, c_int) -> c_int = "ibv_resize_cq";
    destroy_cq(*mut Cq) -> c_int = "ibv_destroy_cq";
    get_cq_event(*mut Channel, *mut *mut Cq, *mut *mut c_void) -> c_int = "ibv_get_cq_event";
    ack_cq_events(*mut Cq, c_uint) -> () = "ibv_ack_cq_events";
    create_srq(*mut Opaque, *mut SrqInit) -> *mut Srq = "ibv_create_srq";
    modify_srq(*mut Srq, *mut SrqAttr, c_int) -> c_int = "ibv_modify_srq";
    destroy_srq(*mut Srq) -> c_int = "ibv_destroy_srq";
    create_qp(*mut Opaque, *mut QpInit) -> *mut Qp = "ibv_create_qp";
    modify_qp(*mut Qp, *mut QpAttr, c_int) -> c_int = "ibv_modify_qp";
    query_qp(*mut Qp, *mut QpAttr, c_int, *mut QpInit) -> c_int = "ibv_query_qp";
    destroy_qp(*mut Qp) -> c_int = "ibv_destroy_qp";
    create_ah(*mut Opaque, *mut AhAttr) -> *mut Opaque = "ibv_create_ah";
    destroy_ah(*mut Opaque) -> c_int = "ibv_destroy_ah";
    attach_mcast(*mut Qp, *const [u64; 2], u16) -> c_int = "ibv_attach_mcast";
    detach_mcast(*mut Qp, *const [u64; 2], u16) -> c_int = "ibv_detach_mcast";
}

/// The library, opened once and never closed.
pub fn api() -> &'static Api {
    static API: OnceLock<Api> = OnceLock::new();
    API.get_or_init(|| {
        // SAFETY: Its constructors do nothing that matters here; nobody has it open in another form.
        let library = unsafe { Library::new("libibverbs.so.1") }.expect("the guest has libibverbs");
        Api::load(Box::leak(Box::new(library))).expect("libibverbs has all that it should")
    })
}
