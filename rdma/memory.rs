// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The regions and windows of a device by their keys, and what a QP may reach of them.

use crate::{
    fast::{Ask, Fast},
    kapi::{ibdev::IbDev, netdev::Borrower, pure::random, sync::lock_class},
    mr::{Change, Lenders, Region},
    needs::Needs,
    table::Table,
    window::{self, Kind, Life, Window},
};
use core::sync::atomic::AtomicU64;
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc,
    },
};
use roce::{
    abi::{Bind, Local},
    fast::Registration,
    fault::Fault,
    keys::{Access, Key, Pd},
    mw::Holder,
};

/// Bytes of a paged range that must be there before its transfer begins.
const AHEAD: usize = 1 << 20;

/// Regions by the upper 24 bits of their keys: 21 bits of slot and 2 random bits.
type Regions = Table<Region, 21>;
/// Windows by the upper 24 bits of their keys: 16 bits of slot, 7 random bits and the top bit.
type Windows = Table<Window, 16>;

/// The regions and windows of a device.
#[pin_data]
pub(crate) struct Keyed {
    #[pin]
    regions: Regions,
    #[pin]
    windows: Windows,
    /// 1 once a paged region has been registered: from then on buffers may be absent.
    pages: Atomic<u32>,
}

impl Keyed {
    /// Most regions.
    pub(crate) const MAX_REGIONS: usize = Regions::CAPACITY;
    /// Most windows.
    pub(crate) const MAX_WINDOWS: usize = Windows::CAPACITY;

    /// None yet.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            regions <- Table::new(lock_class!(c"usb4_regions")),
            windows <- Table::new(lock_class!(c"usb4_windows")),
            pages: Atomic::new(0),
        })
    }

    /// Publishes the region that `make` makes for a key.
    pub(crate) fn publish(&self, make: impl FnOnce(Key) -> Result<Arc<Region>>) -> Result<Arc<Region>> {
        let slot = self.regions.reserve(random())?;
        // The low 8 bits say nothing about where; the top one is for windows.
        let number = Regions::number(slot, random()) & window::NUMBERS;
        match make(Key(number << 8 | random() & 0xff)) {
            Ok(region) => {
                if region.is_paged() {
                    self.pages.store(1, Relaxed);
                }
                self.regions.fill(number, region.clone());
                Ok(region)
            }
            Err(err) => {
                drop(self.regions.release(number));
                Err(err)
            }
        }
    }

    /// Puts another region in the place of `old`, under its key. See [`Region::change`].
    pub(crate) fn change(&self, old: &Region, ib: &IbDev, wanted: &Change) -> Result<Arc<Region>> {
        old.change(ib, wanted, |new| self.regions.fill(old.key() >> 8, new.clone()))
    }

    /// Withdraws a region that may go; on return nothing refers to its memory. Sleeps while somebody uses it.
    pub(crate) fn withdraw(&self, region: &Region) {
        if !region.is_replaced() {
            drop(self.regions.release(region.key() >> 8));
        }
        region.end();
    }

    /// The region whose key that is.
    pub(crate) fn region(&self, key: u32) -> Option<Arc<Region>> {
        self.regions.find(key >> 8).filter(|region| region.key() == key)
    }

    /// Publishes an unbound window in domain `pd`.
    pub(crate) fn publish_window(&self, pd: Pd, kind: Kind) -> Result<Arc<Window>> {
        let slot = self.windows.reserve(random())?;
        let number = window::number(Windows::number(slot, random()));
        match Window::new(pd, kind, Key(number << 8 | random() & 0xff)) {
            Ok(window) => {
                self.windows.fill(number, window.clone());
                Ok(window)
            }
            Err(err) => {
                drop(self.windows.release(number));
                Err(err)
            }
        }
    }

    /// The end of a window, bound or not.
    pub(crate) fn withdraw_window(&self, window: &Window) {
        window.close();
        drop(self.windows.release(window.key() >> 8));
    }

    /// A QP's life has ended: takes back what was bound in it alone. Process context, no lock held.
    pub(crate) fn end_life(&self, life: u64) {
        let mut slot = 0;
        while let Some((next, window)) = self.windows.next_from(slot) {
            window.on_end(life);
            slot = next;
        }
    }
}

/// The memory that a QP may reach.
#[derive(Clone, Copy)]
pub(crate) struct Memory<'a> {
    /// Of the device.
    pub(crate) keyed: &'a Keyed,
    /// In which protection domain.
    pub(crate) pd: Pd,
    /// In which life of the QP.
    pub(crate) life: &'a Life,
    /// Takes note of pages that are not there.
    pub(crate) needs: &'a Needs,
}

impl Memory<'_> {
    /// Whether buffers may be absent: any region of the device ever was paged.
    pub(crate) fn may_be_absent(&self) -> bool {
        self.keyed.pages.load(Relaxed) != 0
    }

    /// Whether an access would be admitted, and the memory is there.
    pub(crate) fn check(&self, key: Key, va: u64, len: u32, needed: Access) -> Result<(), Fault> {
        let ask = self.ask(key, va, len, needed);
        let (region, at) = self.reach(&ask)?;
        let write = needed.allows(Access::REMOTE_WRITE);
        let len = len as usize;
        // What a transfer touches first; the rest is brought as it comes.
        let there = region.is_there(&ask, at, len.min(AHEAD), write);
        there.map_err(|fault| self.note(&region, at, len, write, fault))
    }

    /// Copies out of a region.
    pub(crate) fn read(&self, key: Key, va: u64, to: &mut [u8], needed: Access) -> Result<(), Fault> {
        let ask = self.ask(key, va, length(to.len())?, needed);
        let (region, at) = self.reach(&ask)?;
        let done = region.read(&ask, at, to);
        done.map_err(|fault| self.note(&region, at, to.len(), false, fault))
    }

    /// Lends a range of a region to a frame that sends it. See [`crate::backing::Backing::lend`]. False for what a
    /// window opens as well: it ends by a request, which cannot wait until the frame has been read.
    pub(crate) fn lend(
        &self,
        key: Key,
        va: u64,
        len: usize,
        needed: Access,
        to: &mut impl Borrower,
        lenders: &mut Lenders,
    ) -> Result<bool, Fault> {
        if window::is_window(key) {
            return Ok(false);
        }
        let ask = self.ask(key, va, length(len)?, needed);
        let (region, at) = self.reach(&ask)?;
        Region::lend(&region, &ask, at, len, to, lenders)
    }

    /// Copies into a region.
    pub(crate) fn write(&self, key: Key, va: u64, from: &[u8], needed: Access) -> Result<(), Fault> {
        let ask = self.ask(key, va, length(from.len())?, needed);
        let (region, at) = self.reach(&ask)?;
        let done = region.write(&ask, at, from);
        done.map_err(|fault| self.note(&region, at, from.len(), true, fault))
    }

    /// Lets `act` work on 8 bytes as one.
    pub(crate) fn word<T>(
        &self,
        key: Key,
        va: u64,
        needed: Access,
        act: impl FnOnce(&AtomicU64) -> T,
    ) -> Result<T, Fault> {
        let ask = self.ask(key, va, 8, needed);
        let (region, at) = self.reach(&ask)?;
        let done = region.word(&ask, at, act);
        done.map_err(|fault| self.note(&region, at, 8, true, fault))
    }

    /// Takes note of pages that are absent, if that is the fault.
    fn note(&self, region: &Arc<Region>, at: usize, len: usize, write: bool, fault: Fault) -> Fault {
        match fault {
            Fault::Absent => self.needs.miss(region, at, len, write),
            other => other,
        }
    }

    /// Whether the peer may flush the whole of what a key names.
    pub(crate) fn check_whole(&self, key: Key, needed: Access) -> Result<(), Fault> {
        let region = self.named(key).ok_or(Fault::RemoteAccess)?;
        let base = region.with_fast(Fast::base).unwrap_or(region.base());
        region.admit(&self.ask(key, base, 0, needed)).map(drop)
    }

    fn ask(&self, key: Key, va: u64, len: u32, needed: Access) -> Ask {
        Ask {
            key,
            pd: self.pd,
            va,
            len,
            needed,
        }
    }

    fn holder(&self) -> Holder {
        Holder {
            pd: self.pd,
            life: self.life.serial(),
        }
    }

    /// The region whose number a key has. Whether the key is right, the region says.
    fn named(&self, key: Key) -> Option<Arc<Region>> {
        self.keyed.regions.find(key.0 >> 8)
    }

    /// The window whose number a key has. Whether the key is right, the window says.
    fn named_window(&self, key: Key) -> Option<Arc<Window>> {
        self.keyed.windows.find(key.0 >> 8)
    }

    /// The region that a key names, directly or through a window, and the offset of an access that is admitted.
    fn reach(&self, ask: &Ask) -> Result<(Arc<Region>, usize), Fault> {
        let refused = ask.refused();
        if window::is_window(ask.key) {
            let window = self.named_window(ask.key).ok_or(refused)?;
            return window
                .admit(ask.key, self.holder(), ask.va, ask.len, ask.needed)
                .map_err(|_| refused);
        }
        let region = self.named(ask.key).ok_or(refused)?;
        let at = region.admit(ask)?;
        Ok((region, at))
    }

    /// Takes a key back: one that a request of this QP's domain registered, or a window of this QP. False if there is
    /// none that can be.
    pub(crate) fn invalidate(&self, key: Key) -> bool {
        if window::is_window(key) {
            let window = self.named_window(key);
            return window.is_some_and(|window| window.invalidate(key, self.holder()));
        }
        let done = self
            .named(key)
            .and_then(|region| region.with_fast(|fast| fast.invalidate(key, self.pd)));
        done.is_some_and(|done| done.is_ok())
    }

    /// Carries a local request out.
    pub(crate) fn local(&self, wanted: &Local) -> Result<(), Fault> {
        match wanted {
            Local::Invalidate(key) => self.invalidate(*key).then_some(()).ok_or(Fault::LocalQpOp),
            Local::Bind(wanted) => self.bind(wanted),
            Local::Register(wanted) => self.register(wanted),
        }
    }

    fn bind(&self, wanted: &Bind) -> Result<(), Fault> {
        let window = self.named_window(wanted.window).ok_or(Fault::Bind)?;
        // Looked for before the window's lock is taken: tables' locks are leaves.
        let region = self.named(wanted.region);
        if window.is_of_a_qp() {
            self.life.binds();
        }
        window.bind(wanted, self.holder(), region)
    }

    fn register(&self, wanted: &Registration) -> Result<(), Fault> {
        let region = self.named(wanted.key).ok_or(Fault::Bind)?;
        region.on_register(wanted, self.pd)
    }
}

fn length(len: usize) -> Result<u32, Fault> {
    u32::try_from(len).map_err(|_| Fault::LocalLength)
}
