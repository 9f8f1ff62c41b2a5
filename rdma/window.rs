// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Memory windows: keys of their own for parts of regions, bound and taken back by requests in a send queue.
//!
//! ```text
//!   type 1:  bind (any time, length 0 takes back)          any QP of the domain
//!   type 2B: unbound --bind--> bound --invalidate--> unbound    the QP that bound it
//! ```
//!
//! The low 8 bits of a window's key are its owner's; each bind may change them. A region cannot go while windows are
//! bound to it.

use crate::{
    device::{Device, Windows},
    kapi::{
        self,
        sync::{new_bh_lock, BhLock},
    },
    mr::{Memory, Region},
};
use kernel::{prelude::*, sync::Arc};
use roce::{
    abi::{Bind, Local},
    keys::{Access, Key},
    wqe::Fault,
};

/// Keys of windows have it, those of regions do not.
const WINDOW_FLAG: u32 = 0x8000_0000;
/// Rights that a window may give. The owner's own, which changes nothing, may be asked for.
const RIGHTS: u32 = Access::REMOTE_WRITE
    .with(Access::LOCAL_WRITE)
    .with(Access::REMOTE_READ)
    .with(Access::REMOTE_ATOMIC)
    .with(Access::FLUSH_GLOBAL)
    .0;

/// Whether a key is a window's, if it is anybody's.
pub(crate) fn is_window(key: Key) -> bool {
    key.0 & WINDOW_FLAG != 0
}

/// Who may bind and use a window.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Type1,
    Type2,
}

/// What a window shows.
struct Bound {
    region: Arc<Region>,
    base: u64,
    length: u64,
    access: Access,
    /// The QP that bound it.
    qp: u32,
}

/// Guarded by the window's lock, which is taken under a QP's.
struct State {
    key: Key,
    bound: Option<Bound>,
    /// No binding any more.
    closed: bool,
}

impl State {
    fn unbind(&mut self) {
        if let Some(bound) = self.bound.take() {
            bound.region.on_unbind();
        }
    }
}

/// A memory window.
#[pin_data]
pub(crate) struct Window {
    number: u32,
    pd: u32,
    kind: Kind,
    #[pin]
    state: BhLock<State>,
}

impl Window {
    /// An unbound window in domain `pd`.
    pub(crate) fn create(device: &Device, pd: u32, kind: Kind) -> Result<Arc<Self>> {
        let slot = device.windows.reserve(kapi::pure::random())?;
        let number = Windows::number(slot, kapi::pure::random()) & (u32::MAX >> 8) | WINDOW_FLAG >> 8;
        let key = Key(number << 8 | kapi::pure::random() & 0xff);
        let made = Arc::pin_init(
            pin_init!(Self {
                number,
                pd,
                kind,
                state <- new_bh_lock!(State { key, bound: None, closed: false }, c"usb4_window"),
            }),
            GFP_KERNEL,
        );
        match made {
            Ok(window) => {
                device.windows.fill(number, window.clone());
                Ok(window)
            }
            Err(err) => {
                drop(device.windows.release(number));
                Err(err)
            }
        }
    }

    /// The key as it is.
    pub(crate) fn key(&self) -> u32 {
        self.state.lock().key.0
    }

    /// The end of a window, bound or not.
    pub(crate) fn close(&self, device: &Device) {
        {
            let mut state = self.state.lock();
            state.closed = true;
            state.unbind();
        }
        drop(device.windows.release(self.number));
    }

    /// The region behind, and the offset in it, of a peer's access through `key`.
    pub(crate) fn admit(
        &self,
        key: Key,
        memory: &Memory<'_>,
        va: u64,
        len: u32,
        needed: Access,
    ) -> Result<(Arc<Region>, usize), Fault> {
        let state = self.state.lock();
        let bound = state.bound.as_ref().ok_or(Fault::RemoteAccess)?;
        let theirs = match self.kind {
            Kind::Type1 => self.pd == memory.pd,
            Kind::Type2 => bound.qp == memory.qp,
        };
        let offset = va.checked_sub(bound.base).ok_or(Fault::RemoteAccess)?;
        let inside = offset
            .checked_add(u64::from(len))
            .is_some_and(|end| end <= bound.length);
        if state.key != key || !theirs || !inside || !needed.is_remote() || !bound.access.allows(needed) {
            return Err(Fault::RemoteAccess);
        }
        let at = bound.region.offset_of(va, len).ok_or(Fault::RemoteAccess)?;
        Ok((bound.region.clone(), at))
    }

    fn bind(&self, wanted: &Bind, memory: &Memory<'_>) -> Result<(), Fault> {
        // Looked for before the window's lock is taken: tables' locks are leaves.
        let region = memory.device.regions.find(wanted.region.0 >> 8);
        let mut state = self.state.lock();
        let free = self.kind == Kind::Type1 || state.bound.is_none();
        if state.closed || state.key != wanted.window || self.pd != memory.pd || !free {
            return Err(Fault::Bind);
        }
        if wanted.access & !RIGHTS != 0 {
            return Err(Fault::Bind);
        }
        let bound = if wanted.length == 0 && self.kind == Kind::Type1 {
            None
        } else {
            let region = region.ok_or(Fault::Bind)?;
            let access = Access(wanted.access);
            if wanted.length == 0 || !region.on_bind(wanted, self.pd, access) {
                return Err(Fault::Bind);
            }
            Some(Bound {
                region,
                base: wanted.base,
                length: wanted.length,
                access,
                qp: memory.qp,
            })
        };
        state.unbind();
        state.bound = bound;
        state.key = Key(state.key.0 & !0xff | wanted.new.0 & 0xff);
        Ok(())
    }

    fn invalidate(&self, key: Key, memory: &Memory<'_>) -> bool {
        let mut state = self.state.lock();
        let ours = state.bound.as_ref().is_some_and(|bound| bound.qp == memory.qp);
        if self.kind != Kind::Type2 || state.key != key || !ours {
            return false;
        }
        state.unbind();
        true
    }
}

impl Memory<'_> {
    /// Takes the key of a window back that this QP's owner had given. False if there is none that can be.
    pub(crate) fn invalidate_window(&self, key: Key) -> bool {
        self.device
            .windows
            .find(key.0 >> 8)
            .is_some_and(|window| window.invalidate(key, self))
    }

    /// Carries a local request out.
    pub(crate) fn local(&self, wanted: &Local) -> Result<(), Fault> {
        match wanted {
            Local::Invalidate(key) => self.invalidate(*key).then_some(()).ok_or(Fault::LocalQpOp),
            Local::Bind(wanted) => self
                .device
                .windows
                .find(wanted.window.0 >> 8)
                .ok_or(Fault::Bind)?
                .bind(wanted, self),
            Local::Register(wanted) => self.register(wanted),
        }
    }
}
