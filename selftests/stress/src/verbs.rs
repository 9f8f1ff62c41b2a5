// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Objects of a device, each destroyed with its last owner or by hand before. With [`crate::ffi`] and
//! [`crate::memory`] all `unsafe` is here.
//!
//! Objects keep alive what they are made from. An object that was destroyed by hand refuses all further calls.

use crate::ffi::{self, api};
use crate::memory::Arena;
use std::ffi::{c_int, c_uint, CStr};
use std::io;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

pub const LOCAL_WRITE: u32 = 1;
pub const REMOTE_WRITE: u32 = 2;
pub const REMOTE_READ: u32 = 4;
pub const REMOTE_ATOMIC: u32 = 8;
pub const MW_BIND: u32 = 16;
pub const ON_DEMAND: u32 = 64;
pub const ALL: u32 = LOCAL_WRITE | REMOTE_WRITE | REMOTE_READ | REMOTE_ATOMIC;

/// `enum ibv_wr_opcode`.
pub mod op {
    pub const WRITE: i32 = 0;
    pub const WRITE_IMM: i32 = 1;
    pub const SEND: i32 = 2;
    pub const SEND_IMM: i32 = 3;
    pub const READ: i32 = 4;
    pub const CMP_SWAP: i32 = 5;
    pub const FETCH_ADD: i32 = 6;
    pub const LOCAL_INV: i32 = 7;
    pub const BIND: i32 = 8;
    pub const SEND_INV: i32 = 9;
}

/// `enum ibv_qp_state`.
pub mod state {
    pub const RESET: i32 = 0;
    pub const INIT: i32 = 1;
    pub const RTR: i32 = 2;
    pub const RTS: i32 = 3;
    pub const SQD: i32 = 4;
    pub const ERR: i32 = 6;
}

pub const SIGNALED: u32 = 2;
pub const INLINE: u32 = 8;
pub const FENCE: u32 = 1;

/// Has the kernel kill the command's process when this one's thread ends.
pub fn end_with_parent(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: Between fork and exec there is one system call.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
}

/// The number of an error.
pub type Errno = i32;
pub type Result<T> = std::result::Result<T, Errno>;

fn last() -> Errno {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// What a function returned that returns 0, an error, or -1 with the error elsewhere.
fn done(code: c_int) -> Result<()> {
    match code {
        0 => Ok(()),
        -1 => Err(last()),
        code => Err(code.abs()),
    }
}

fn made<T>(raw: *mut T) -> Result<*mut T> {
    if raw.is_null() {
        return Err(last());
    }
    Ok(raw)
}

/// A pointer of the library's with whether it is destroyed.
struct Handle<T> {
    raw: *mut T,
    gone: AtomicBool,
}

// SAFETY: The library locks its objects itself; destroying is kept apart from use by who owns the wrapper.
unsafe impl<T> Send for Handle<T> {}
// SAFETY: As above.
unsafe impl<T> Sync for Handle<T> {}

impl<T> Handle<T> {
    fn new(raw: *mut T) -> Self {
        Self {
            raw,
            gone: AtomicBool::new(false),
        }
    }

    fn get(&self) -> Result<*mut T> {
        if self.gone.load(SeqCst) {
            return Err(libc::EBADF);
        }
        Ok(self.raw)
    }

    /// Destroys it once; it stays if that fails.
    fn end(&self, destroy: impl FnOnce(*mut T) -> c_int) -> Result<()> {
        if self.gone.swap(true, SeqCst) {
            return Err(libc::EBADF);
        }
        done(destroy(self.raw)).inspect_err(|_| self.gone.store(false, SeqCst))
    }

    fn is_gone(&self) -> bool {
        self.gone.load(SeqCst)
    }
}

/// Makes `close` and `Drop` of an object from the function that destroys it.
macro_rules! ends {
    ($type:ident, $destroy:expr) => {
        impl $type {
            /// Destroys it; the kernel's refusal leaves it as it was.
            pub fn close(&self) -> Result<()> {
                self.handle.end($destroy)
            }

            #[allow(dead_code)]
            pub fn is_gone(&self) -> bool {
                self.handle.is_gone()
            }
        }

        impl Drop for $type {
            fn drop(&mut self) {
                let _ = self.close();
            }
        }
    };
}

// SAFETY, for all closures below: the pointer is the library's, and `Handle::end` gives it out once.
ends!(Context, |raw| unsafe { (api().close_device)(raw) });
ends!(Pd, |raw| unsafe { (api().dealloc_pd)(raw) });
ends!(Mr, |raw| unsafe { (api().dereg_mr)(raw) });
ends!(Channel, |raw| unsafe { (api().destroy_comp_channel)(raw) });
ends!(Cq, |raw| unsafe { (api().destroy_cq)(raw) });
ends!(Srq, |raw| unsafe { (api().destroy_srq)(raw) });
ends!(Qp, |raw| unsafe { (api().destroy_qp)(raw) });
ends!(Ah, |raw| unsafe { (api().destroy_ah)(raw) });
ends!(Mw, |raw| unsafe {
    match (*(*raw).context).ops.dealloc_mw {
        Some(dealloc) => dealloc(raw),
        None => libc::EOPNOTSUPP,
    }
});

pub struct Context {
    handle: Handle<ffi::Context>,
}

impl Context {
    /// Opens the device of this name.
    pub fn open(name: &str) -> Result<Arc<Self>> {
        let mut count = 0;
        // SAFETY: The list is the library's until it is freed; it has `count` entries.
        unsafe {
            let list = made((api().get_device_list)(&mut count))?;
            let mut found = Err(libc::ENODEV);
            for index in 0..count as usize {
                let device = *list.add(index);
                if CStr::from_ptr((api().get_device_name)(device)).to_bytes() == name.as_bytes() {
                    found = made((api().open_device)(device));
                }
            }
            (api().free_device_list)(list);
            let raw = found?;
            // Asked for events by whoever polls, so nobody waits in the kernel.
            libc::fcntl((*raw).async_fd, libc::F_SETFL, libc::O_NONBLOCK);
            Ok(Arc::new(Self {
                handle: Handle::new(raw),
            }))
        }
    }

    /// The next asynchronous event, acknowledged.
    pub fn event(&self) -> Result<i32> {
        let mut event = ffi::AsyncEvent { element: 0, kind: 0 };
        let raw = self.handle.get()?;
        // SAFETY: The context lives; an event that came is acknowledged once.
        unsafe {
            done((api().get_async_event)(raw, &mut event))?;
            (api().ack_async_event)(&mut event);
        }
        Ok(event.kind)
    }

    /// Writes a command of `ib_user_verbs.h` that librxe has no call for.
    pub fn command(&self, bytes: &[u8]) -> Result<()> {
        let raw = self.handle.get()?;
        // SAFETY: The descriptor is the context's; what the kernel writes goes where the command says.
        let written = unsafe { libc::write((*raw).cmd_fd, bytes.as_ptr().cast(), bytes.len()) };
        if written < 0 {
            return Err(last());
        }
        Ok(())
    }
}

pub struct Pd {
    handle: Handle<ffi::Opaque>,
    pub context: Arc<Context>,
}

impl Pd {
    pub fn new(context: &Arc<Context>) -> Result<Arc<Self>> {
        // SAFETY: The context lives.
        let raw = made(unsafe { (api().alloc_pd)(context.handle.get()?) })?;
        Ok(Arc::new(Self {
            handle: Handle::new(raw),
            context: context.clone(),
        }))
    }
}

pub struct Mr {
    handle: Handle<ffi::Mr>,
    pub lkey: u32,
    pub rkey: u32,
    number: u32,
    pub memory: Arc<Arena>,
    pd: Arc<Pd>,
}

impl Mr {
    /// Registers all of `memory` under its own addresses.
    pub fn new(pd: &Arc<Pd>, memory: &Arc<Arena>, access: u32) -> Result<Self> {
        let at = memory.address();
        // SAFETY: The memory lives as long as the region.
        let raw = made(unsafe { (api().reg_mr)(pd.handle.get()?, at as *mut _, memory.len(), at, access as c_uint) })?;
        // SAFETY: Just made.
        let (lkey, rkey, number) = unsafe { ((*raw).lkey, (*raw).rkey, (*raw).handle) };
        Ok(Self {
            handle: Handle::new(raw),
            lkey,
            rkey,
            number,
            memory: memory.clone(),
            pd: pd.clone(),
        })
    }

    /// Registers it anew with other rights, by the kernel's command: librxe has no call for it.
    pub fn rereg_access(&self, access: u32) -> Result<()> {
        const REREG_MR: u32 = 11;
        const FLAG_ACCESS: u32 = 4;
        self.handle.get()?;
        let answer = Mutex::new([0u32; 2]);
        let mut held = answer.lock().map_err(|_| libc::EIO)?;
        let mut bytes = Vec::with_capacity(56);
        for word in [REREG_MR, (56 / 4) | ((8 / 4) << 16)] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend((held.as_mut_ptr() as u64).to_ne_bytes());
        for word in [self.number, FLAG_ACCESS] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend([0; 24]);
        for word in [0, access] {
            bytes.extend(word.to_ne_bytes());
        }
        self.pd.context.command(&bytes)
    }
}

pub struct Mw {
    handle: Handle<ffi::Mw>,
    _pd: Arc<Pd>,
}

impl Mw {
    /// A window of type 1 or 2.
    pub fn new(pd: &Arc<Pd>, kind: i32) -> Result<Self> {
        let context = pd.context.handle.get()?;
        // SAFETY: Context and domain live.
        let raw = unsafe {
            let alloc = (*context).ops.alloc_mw.ok_or(libc::EOPNOTSUPP)?;
            made(alloc(pd.handle.get()?, kind))?
        };
        // SAFETY: Just made. The headers' inline function sets these as well.
        unsafe {
            ((*raw).context, (*raw).pd, (*raw).kind) = (context, pd.handle.raw, kind);
        }
        Ok(Self {
            handle: Handle::new(raw),
            _pd: pd.clone(),
        })
    }

    pub fn rkey(&self) -> u32 {
        // SAFETY: A word of the library's object, read when it is not destroyed.
        self.handle.get().map_or(0, |raw| unsafe { (*raw).rkey })
    }

    /// As a completed bind of type 2 changes it.
    pub fn set_rkey(&self, rkey: u32) {
        if let Ok(raw) = self.handle.get() {
            // SAFETY: As above.
            unsafe { (*raw).rkey = rkey };
        }
    }

    /// `ibv_bind_mw`, for type 1.
    pub fn bind(&self, qp: &Qp, wr_id: u64, part: &Part<'_>, access: u32) -> Result<()> {
        let (mw, raw) = (self.handle.get()?, qp.handle.get()?);
        let mut bind = ffi::MwBind {
            wr_id,
            send_flags: SIGNALED,
            info: part.info(access)?,
        };
        // SAFETY: All objects live.
        unsafe {
            let call = (*(*mw).context).ops.bind_mw.ok_or(libc::EOPNOTSUPP)?;
            done(call(raw, mw, &mut bind))
        }
    }
}

/// A part of a region, to be bound.
pub struct Part<'a> {
    pub mr: &'a Mr,
    pub at: usize,
    pub len: usize,
}

impl Part<'_> {
    fn info(&self, access: u32) -> Result<ffi::BindInfo> {
        Ok(ffi::BindInfo {
            mr: self.mr.handle.get()?,
            addr: self.mr.memory.address() + self.at as u64,
            length: self.len as u64,
            access: access as c_uint,
        })
    }
}

pub struct Channel {
    handle: Handle<ffi::Channel>,
    _context: Arc<Context>,
}

impl Channel {
    pub fn new(context: &Arc<Context>) -> Result<Arc<Self>> {
        // SAFETY: The context lives.
        let raw = made(unsafe { (api().create_comp_channel)(context.handle.get()?) })?;
        // SAFETY: Just made; whoever asks for an event does not wait in the kernel.
        unsafe { libc::fcntl((*raw).fd, libc::F_SETFL, libc::O_NONBLOCK) };
        Ok(Arc::new(Self {
            handle: Handle::new(raw),
            _context: context.clone(),
        }))
    }

    /// Takes and acknowledges an event, if there is one.
    pub fn event(&self) -> Result<()> {
        let (mut cq, mut context) = (null_mut(), null_mut());
        // SAFETY: The channel lives, and so do the queues that report to it: each keeps it, and is destroyed first.
        unsafe {
            done((api().get_cq_event)(self.handle.get()?, &mut cq, &mut context))?;
            (api().ack_cq_events)(cq, 1);
        }
        Ok(())
    }
}

pub struct Cq {
    handle: Handle<ffi::Cq>,
    context: Arc<Context>,
    pub channel: Option<Arc<Channel>>,
}

impl Cq {
    pub fn new(context: &Arc<Context>, depth: i32, channel: Option<Arc<Channel>>) -> Result<Arc<Self>> {
        let reports = match &channel {
            Some(channel) => channel.handle.get()?,
            None => null_mut(),
        };
        // SAFETY: Context and channel live.
        let raw = made(unsafe { (api().create_cq)(context.handle.get()?, depth, null_mut(), reports, 0) })?;
        Ok(Arc::new(Self {
            handle: Handle::new(raw),
            context: context.clone(),
            channel,
        }))
    }

    pub fn resize(&self, depth: i32) -> Result<()> {
        // SAFETY: The queue lives.
        done(unsafe { (api().resize_cq)(self.handle.get()?, depth) })
    }

    pub fn arm(&self, solicited: bool) -> Result<()> {
        // SAFETY: Queue and context live.
        unsafe {
            let call = (*self.context.handle.get()?)
                .ops
                .req_notify_cq
                .ok_or(libc::EOPNOTSUPP)?;
            done(call(self.handle.get()?, solicited.into()))
        }
    }

    /// Takes completions; how many.
    pub fn poll(&self, into: &mut [ffi::Wc]) -> Result<usize> {
        // SAFETY: Queue and context live; there is room for so many.
        let count = unsafe {
            let call = (*self.context.handle.get()?).ops.poll_cq.ok_or(libc::EOPNOTSUPP)?;
            call(self.handle.get()?, into.len() as c_int, into.as_mut_ptr())
        };
        usize::try_from(count).map_err(|_| libc::EIO)
    }
}

/// Where a message is, or goes.
#[derive(Clone, Copy)]
pub struct Piece {
    pub address: u64,
    pub len: usize,
    pub lkey: u32,
}

impl Piece {
    fn sge(self) -> ffi::Sge {
        ffi::Sge {
            addr: self.address,
            length: self.len as u32,
            lkey: self.lkey,
        }
    }
}

pub struct Srq {
    handle: Handle<ffi::Srq>,
    context: Arc<Context>,
    _pd: Arc<Pd>,
}

impl Srq {
    pub fn new(pd: &Arc<Pd>, depth: u32) -> Result<Arc<Self>> {
        let mut init = ffi::SrqInit {
            context: null_mut(),
            attr: ffi::SrqAttr {
                max_wr: depth,
                max_sge: 2,
                limit: 0,
            },
        };
        // SAFETY: The domain lives.
        let raw = made(unsafe { (api().create_srq)(pd.handle.get()?, &mut init) })?;
        Ok(Arc::new(Self {
            handle: Handle::new(raw),
            context: pd.context.clone(),
            _pd: pd.clone(),
        }))
    }

    /// Sets the limit, or the depth.
    pub fn modify(&self, limit: Option<u32>, depth: u32) -> Result<()> {
        let mut attr = ffi::SrqAttr {
            max_wr: depth,
            max_sge: 2,
            limit: limit.unwrap_or(0),
        };
        let mask = if limit.is_some() { 2 } else { 1 };
        // SAFETY: The queue lives.
        done(unsafe { (api().modify_srq)(self.handle.get()?, &mut attr, mask) })
    }

    pub fn post(&self, wr_id: u64, piece: Piece) -> Result<()> {
        let mut sge = piece.sge();
        let mut wr = ffi::RecvWr {
            wr_id,
            next: null_mut(),
            sg_list: &mut sge,
            num_sge: 1,
        };
        let mut bad = null_mut();
        // SAFETY: Queue and context live; the library copies the request.
        unsafe {
            let call = (*self.context.handle.get()?)
                .ops
                .post_srq_recv
                .ok_or(libc::EOPNOTSUPP)?;
            done(call(self.handle.get()?, &mut wr, &mut bad))
        }
    }
}

/// Kinds of queue pairs, as `enum ibv_qp_type` has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Rc = 2,
    Uc = 3,
    Ud = 4,
}

pub struct Qp {
    handle: Handle<ffi::Qp>,
    pub number: u32,
    pub kind: Kind,
    _cqs: [Arc<Cq>; 2],
    pub srq: Option<Arc<Srq>>,
    pd: Arc<Pd>,
}

/// A request to send.
pub enum Request<'a> {
    /// WRITE, READ, SEND and their kin: opcode, local piece, remote address and key.
    Data {
        opcode: i32,
        piece: Piece,
        remote: (u64, u32),
        word: u32,
    },
    /// Fetch and add, or compare and swap.
    Atomic {
        opcode: i32,
        piece: Piece,
        remote: (u64, u32),
        operands: [u64; 2],
    },
    Datagram {
        piece: Piece,
        ah: &'a Ah,
        number: u32,
        qkey: u32,
    },
    Invalidate {
        key: u32,
    },
    Bind {
        mw: &'a Mw,
        rkey: u32,
        part: Part<'a>,
        access: u32,
    },
}

impl Qp {
    pub fn new(
        pd: &Arc<Pd>,
        kind: Kind,
        cqs: [&Arc<Cq>; 2],
        srq: Option<&Arc<Srq>>,
        depth: [u32; 2],
        inline: u32,
    ) -> Result<Self> {
        let [send_cq, recv_cq] = cqs;
        let mut init = ffi::QpInit {
            qp_context: null_mut(),
            send_cq: send_cq.handle.get()?,
            recv_cq: recv_cq.handle.get()?,
            srq: match srq {
                Some(srq) => srq.handle.get()?,
                None => null_mut(),
            },
            cap: ffi::QpCap {
                max_send_wr: depth[0],
                max_recv_wr: depth[1],
                max_send_sge: 2,
                max_recv_sge: 2,
                max_inline_data: inline,
            },
            kind: kind as c_int,
            sq_sig_all: 0,
        };
        // SAFETY: All objects live.
        let raw = made(unsafe { (api().create_qp)(pd.handle.get()?, &mut init) })?;
        Ok(Self {
            // SAFETY: Just made.
            number: unsafe { (*raw).number },
            handle: Handle::new(raw),
            kind,
            _cqs: cqs.map(Arc::clone),
            srq: srq.cloned(),
            pd: pd.clone(),
        })
    }

    pub fn modify(&self, attr: &ffi::QpAttr, mask: i32) -> Result<()> {
        let mut attr = *attr;
        // SAFETY: The queue pair lives.
        done(unsafe { (api().modify_qp)(self.handle.get()?, &mut attr, mask) })
    }

    /// To a state that needs nothing else.
    pub fn to(&self, state: i32) -> Result<()> {
        let attr = ffi::QpAttr {
            state,
            ..Default::default()
        };
        self.modify(&attr, 1)
    }

    /// The state that the kernel says it is in.
    pub fn query(&self) -> Result<i32> {
        let mut attr = ffi::QpAttr::default();
        let mut init = std::mem::MaybeUninit::<ffi::QpInit>::zeroed();
        // SAFETY: The queue pair lives; both answers have room.
        done(unsafe { (api().query_qp)(self.handle.get()?, &mut attr, 1, init.as_mut_ptr()) })?;
        Ok(attr.state)
    }

    pub fn post_recv(&self, wr_id: u64, piece: Piece) -> Result<()> {
        let mut sge = piece.sge();
        let mut wr = ffi::RecvWr {
            wr_id,
            next: null_mut(),
            sg_list: &mut sge,
            num_sge: 1,
        };
        let mut bad = null_mut();
        // SAFETY: Queue pair and context live; the library copies the request.
        unsafe {
            let call = (*self.pd.context.handle.get()?).ops.post_recv.ok_or(libc::EOPNOTSUPP)?;
            done(call(self.handle.get()?, &mut wr, &mut bad))
        }
    }

    pub fn post(&self, wr_id: u64, send: &Request<'_>, flags: u32) -> Result<()> {
        let mut sge = ffi::Sge::default();
        let mut wr = ffi::SendWr::new(wr_id, 0, flags as c_uint);
        let with = |wr: &mut ffi::SendWr, sge: &mut ffi::Sge, piece: &Piece| {
            *sge = piece.sge();
            (wr.sg_list, wr.num_sge) = (sge, 1);
        };
        match send {
            Request::Data {
                opcode,
                piece,
                remote,
                word,
            } => {
                with(&mut wr, &mut sge, piece);
                (wr.opcode, wr.imm_or_key) = (*opcode, *word);
                wr.wr = [remote.0, remote.1.into(), 0, 0];
            }
            Request::Atomic {
                opcode,
                piece,
                remote,
                operands,
            } => {
                with(&mut wr, &mut sge, piece);
                wr.opcode = *opcode;
                wr.wr = [remote.0, operands[0], operands[1], remote.1.into()];
            }
            Request::Datagram {
                piece,
                ah,
                number,
                qkey,
            } => {
                with(&mut wr, &mut sge, piece);
                wr.opcode = op::SEND;
                let address = u64::from(*number) | u64::from(*qkey) << 32;
                wr.wr = [ah.handle.get()? as u64, address, 0, 0];
            }
            Request::Invalidate { key } => (wr.opcode, wr.imm_or_key) = (op::LOCAL_INV, *key),
            Request::Bind { mw, rkey, part, access } => {
                wr.opcode = op::BIND;
                (wr.mw, wr.mw_rkey, wr.bind) = (mw.handle.get()?, *rkey, part.info(*access)?);
            }
        }
        let mut bad = null_mut();
        // SAFETY: Queue pair, context and what the request names live; the library copies the request.
        unsafe {
            let call = (*self.pd.context.handle.get()?).ops.post_send.ok_or(libc::EOPNOTSUPP)?;
            done(call(self.handle.get()?, &mut wr, &mut bad))
        }
    }

    pub fn attach(&self, gid: &[u64; 2]) -> Result<()> {
        // SAFETY: The queue pair lives.
        done(unsafe { (api().attach_mcast)(self.handle.get()?, gid, 0) })
    }

    pub fn detach(&self, gid: &[u64; 2]) -> Result<()> {
        // SAFETY: As above.
        done(unsafe { (api().detach_mcast)(self.handle.get()?, gid, 0) })
    }
}

pub struct Ah {
    handle: Handle<ffi::Opaque>,
    _pd: Arc<Pd>,
}

impl Ah {
    pub fn new(pd: &Arc<Pd>, attr: &ffi::AhAttr) -> Result<Self> {
        let mut attr = *attr;
        // SAFETY: The domain lives.
        let raw = made(unsafe { (api().create_ah)(pd.handle.get()?, &mut attr) })?;
        Ok(Self {
            handle: Handle::new(raw),
            _pd: pd.clone(),
        })
    }
}
