// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Memory windows: keys of their own for parts of regions, bound and taken back by requests in a send queue.
//! `roce::mw` decides.
//!
//! A region cannot go while windows are bound to it. What a QP's own windows show ends with its life, by destruction or
//! RESET, and the region may go then.

use crate::{
    kapi::sync::{new_bh_lock, BhLock},
    mr::Region,
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};
use roce::{
    abi::Bind,
    fault::Fault,
    keys::{Access, Key, Pd},
    mw::{self, Holder},
};

pub(crate) use roce::mw::Kind;

/// Keys of windows have it, those of regions do not.
const WINDOW_FLAG: u32 = 0x8000_0000;

/// The bits of a key above its lowest 8 that a region's number may have.
pub(crate) const NUMBERS: u32 = !WINDOW_FLAG >> 8;

/// A window's number, with the bits of `any`.
pub(crate) fn number(any: u32) -> u32 {
    any & NUMBERS | WINDOW_FLAG >> 8
}

/// Whether a key is a window's, if it is anybody's.
pub(crate) fn is_window(key: Key) -> bool {
    key.0 & WINDOW_FLAG != 0
}

/// A region that counts a window. Dropping it, in any context, counts it out.
struct Bound(Arc<Region>);

impl Drop for Bound {
    fn drop(&mut self) {
        self.0.on_unbind();
    }
}

/// The life of a QP, as its windows know it. Changed under the QP's lock.
pub(crate) struct Life {
    /// Given to nothing else of the device ever.
    serial: Atomic<u64>,
    /// 1 once a window of type 2 may have been bound in it.
    binds: Atomic<u32>,
}

impl Life {
    /// The first of a QP. `serial` is given to nothing else of the device ever.
    pub(crate) fn new(serial: u64) -> Self {
        Self {
            serial: Atomic::new(serial),
            binds: Atomic::new(0),
        }
    }

    /// Begins another. The result is the old one's serial, if it may have left windows to be told of its end.
    pub(crate) fn renew(&self, serial: u64) -> Option<u64> {
        let old = self.serial.xchg(serial, Relaxed);
        (self.binds.xchg(0, Relaxed) != 0).then_some(old)
    }

    /// A window of type 2 may be bound in it.
    pub(crate) fn binds(&self) {
        self.binds.store(1, Relaxed);
    }

    /// As it is now.
    pub(crate) fn serial(&self) -> u64 {
        self.serial.load(Relaxed)
    }
}

/// A memory window.
#[pin_data]
pub(crate) struct Window {
    kind: Kind,
    /// Taken under a QP's.
    #[pin]
    state: BhLock<mw::Window<Bound>>,
}

impl Window {
    /// An unbound window in domain `pd`.
    pub(crate) fn new(pd: Pd, kind: Kind, key: Key) -> Result<Arc<Self>> {
        let window = mw::Window::new(pd, kind, key);
        Arc::pin_init(
            pin_init!(Self {
                kind,
                state <- new_bh_lock!(window, c"usb4_window"),
            }),
            GFP_KERNEL,
        )
    }

    /// Whether it belongs to the QP that bound it.
    pub(crate) fn is_of_a_qp(&self) -> bool {
        self.kind == Kind::Type2
    }

    /// The key as it is.
    pub(crate) fn key(&self) -> u32 {
        self.state.lock().key().0
    }

    /// Unbinds it, for good.
    pub(crate) fn close(&self) {
        self.state.lock().close();
    }

    /// A QP's life has ended.
    pub(crate) fn on_end(&self, life: u64) {
        self.state.lock().on_end(life);
    }

    /// The region behind, and the offset in it, of an access of `holder`'s peer through `key`.
    pub(crate) fn admit(
        &self,
        key: Key,
        holder: Holder,
        va: u64,
        len: u32,
        needed: Access,
    ) -> Result<(Arc<Region>, usize), Fault> {
        let state = self.state.lock();
        let Bound(region) = state.admit(key, holder, va, len, needed)?;
        let at = region.offset_of(va, len).ok_or(Fault::RemoteAccess)?;
        Ok((region.clone(), at))
    }

    /// Shows a part of `region` from now on, if there is one that admits it.
    pub(crate) fn bind(&self, wanted: &Bind, holder: Holder, region: Option<Arc<Region>>) -> Result<(), Fault> {
        self.state.lock().bind(wanted, holder, |access| {
            region
                .filter(|region| region.on_bind(wanted, holder.pd, access))
                .map(Bound)
        })
    }

    /// Takes the key back that `holder`'s owner had given. False if there is none that can be.
    pub(crate) fn invalidate(&self, key: Key, holder: Holder) -> bool {
        self.state.lock().invalidate(key, holder)
    }
}
