// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Memory windows: keys of their own for parts of regions, bound and taken back by requests in a send queue.
//! `roce::mw` decides.
//!
//! A region cannot go while windows are bound to it. What a QP's own windows show ends with its life, by destruction or
//! RESET, and the region may go then.

use crate::{
    device::{Device, Windows},
    kapi::{
        self,
        sync::{new_bh_lock, BhLock},
    },
    mr::{Memory, Region},
};
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};
use roce::{
    abi::{Bind, Local},
    keys::{Access, Key},
    mw::{self, Holder},
    wqe::Fault,
};

pub(crate) use roce::mw::Kind;

/// Keys of windows have it, those of regions do not.
const WINDOW_FLAG: u32 = 0x8000_0000;

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
    /// The first of a QP.
    pub(crate) fn new(device: &Device) -> Self {
        Self {
            serial: Atomic::new(device.new_serial()),
            binds: Atomic::new(0),
        }
    }

    /// Begins another. The result is the old one's serial, if it may have left windows for [`end`].
    pub(crate) fn renew(&self, device: &Device) -> Option<u64> {
        let old = self.serial.xchg(device.new_serial(), Relaxed);
        (self.binds.xchg(0, Relaxed) != 0).then_some(old)
    }

    /// As it is now.
    pub(crate) fn serial(&self) -> u64 {
        self.serial.load(Relaxed)
    }
}

/// A life has ended: takes back what was bound in it alone. Process context, no lock held.
pub(crate) fn end(device: &Device, life: u64) {
    let mut slot = 0;
    while let Some((next, window)) = device.windows.next_from(slot) {
        window.state.lock().on_end(life);
        slot = next;
    }
}

/// A memory window.
#[pin_data]
pub(crate) struct Window {
    number: u32,
    kind: Kind,
    /// Taken under a QP's.
    #[pin]
    state: BhLock<mw::Window<Bound>>,
}

impl Window {
    /// An unbound window in domain `pd`.
    pub(crate) fn create(device: &Device, pd: u64, kind: Kind) -> Result<Arc<Self>> {
        let slot = device.windows.reserve(kapi::pure::random())?;
        let number = Windows::number(slot, kapi::pure::random()) & (u32::MAX >> 8) | WINDOW_FLAG >> 8;
        let key = Key(number << 8 | kapi::pure::random() & 0xff);
        let window = mw::Window::new(pd, kind, key);
        let made = Arc::pin_init(
            pin_init!(Self {
                number,
                kind,
                state <- new_bh_lock!(window, c"usb4_window"),
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
        self.state.lock().key().0
    }

    /// The end of a window, bound or not.
    pub(crate) fn close(&self, device: &Device) {
        self.state.lock().close();
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
        let Bound(region) = state.admit(key, memory.holder(), va, len, needed)?;
        let at = region.offset_of(va, len).ok_or(Fault::RemoteAccess)?;
        Ok((region.clone(), at))
    }

    fn bind(&self, wanted: &Bind, memory: &Memory<'_>) -> Result<(), Fault> {
        // Looked for before the window's lock is taken: tables' locks are leaves.
        let region = memory.device.regions.find(wanted.region.0 >> 8);
        if self.kind == Kind::Type2 {
            memory.life.binds.store(1, Relaxed);
        }
        self.state.lock().bind(wanted, memory.holder(), |access| {
            region
                .filter(|region| region.on_bind(wanted, memory.pd, access))
                .map(Bound)
        })
    }

    fn invalidate(&self, key: Key, memory: &Memory<'_>) -> bool {
        self.state.lock().invalidate(key, memory.holder())
    }
}

impl Memory<'_> {
    fn holder(&self) -> Holder {
        Holder {
            pd: self.pd,
            life: self.life.serial(),
        }
    }

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
