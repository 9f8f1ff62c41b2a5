// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Fast registration for kernel callers: the pages of a region come from `map_mr_sg`, its key and rights from a request
//! in a send queue. `roce::fast` decides.
//!
//! The caller lists the pages before it posts the request, in any context. The request takes the list over when its
//! turn comes. Bytes are copied under the region's lock: once the invalidation of a key is complete, nobody reads or
//! writes through it.

use crate::kapi::{
    kernel_memory::{KernelPage, KernelPages},
    sync::{new_bh_lock, new_irq_lock, BhLock, IrqLock},
};
use core::sync::atomic::AtomicU64;
use kernel::prelude::*;
use roce::{
    fast::{FastRegion, Pages, Registration},
    keys::{Access, Key, Pd},
    wqe::Fault,
};

/// Pages of a region at most: 4 MiB of the smallest.
pub(crate) const MAX_PAGES: u32 = 1024;

/// An access to be decided.
#[derive(Clone, Copy)]
pub(crate) struct Ask {
    pub(crate) key: Key,
    pub(crate) pd: Pd,
    pub(crate) va: u64,
    pub(crate) len: u32,
    pub(crate) needed: Access,
}

impl Ask {
    /// What it means that there is nothing to be had.
    pub(crate) fn refused(&self) -> Fault {
        if self.needed.is_remote() {
            Fault::RemoteAccess
        } else {
            Fault::LocalProtection
        }
    }
}

/// Pages listed for the next registration.
struct Staged {
    memory: KernelPages,
    /// Listed since the last registration.
    fresh: bool,
}

/// What the key reaches now.
struct Active {
    region: FastRegion,
    pages: Pages,
    memory: KernelPages,
}

/// A region for fast registration.
#[pin_data]
pub(crate) struct Fast {
    #[pin]
    staged: IrqLock<Staged>,
    /// Taken under a QP's lock; `staged` is taken under it.
    #[pin]
    active: BhLock<Active>,
}

impl Fast {
    /// A free region for `most` pages.
    pub(crate) fn new(key: Key, pd: Pd, most: u32) -> Result<Pin<KBox<Self>>> {
        if most == 0 || most > MAX_PAGES {
            return Err(EINVAL);
        }
        let most = usize::try_from(most)?;
        let staged = Staged {
            memory: KernelPages::new(most)?,
            fresh: false,
        };
        let active = Active {
            region: FastRegion::new(key, pd),
            pages: Pages::default(),
            memory: KernelPages::new(most)?,
        };
        KBox::pin_init(
            pin_init!(Self {
                staged <- new_irq_lock!(staged, c"usb4_fast_staged"),
                active <- new_bh_lock!(active, c"usb4_fast"),
            }),
            GFP_KERNEL,
        )
    }

    /// Begins a new list, of pages of `page_size` bytes. Any context.
    pub(crate) fn begin(&self, page_size: u32) {
        let mut staged = self.staged.lock();
        staged.memory.restart(page_size);
        staged.fresh = true;
    }

    /// Adds a page to the list. Any context.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if it is full.
    pub(crate) fn add(&self, page: KernelPage) -> Result {
        self.staged.lock().memory.add(page)
    }

    /// Carries a registration out, with the newest list. Under a QP's lock.
    pub(crate) fn register(&self, wanted: &Registration, pd: Pd) -> Result<(), Fault> {
        let mut guard = self.active.lock();
        let active = &mut *guard;
        let mut staged = self.staged.lock();
        let memory = if staged.fresh { &staged.memory } else { &active.memory };
        let pages = Pages::new(memory.page_size(), wanted.base).ok_or(Fault::Bind)?;
        active.region.register(wanted, pd, pages.room(memory.count()))?;
        active.pages = pages;
        if staged.fresh {
            staged.fresh = false;
            core::mem::swap(&mut active.memory, &mut staged.memory);
        }
        Ok(())
    }

    /// Takes the key back. Under a QP's lock.
    pub(crate) fn invalidate(&self, key: Key, pd: Pd) -> Result<(), Fault> {
        self.active.lock().region.invalidate(key, pd)
    }

    /// Whether an access is admitted now.
    pub(crate) fn check(&self, ask: &Ask) -> Result<(), Fault> {
        self.active.lock().offset_of(ask).map(drop)
    }

    /// The first address that the key reaches, or reached last.
    pub(crate) fn base(&self) -> u64 {
        self.active.lock().region.base()
    }

    /// Copies out, if that is admitted.
    pub(crate) fn read(&self, ask: &Ask, to: &mut [u8]) -> Result<(), Fault> {
        let mut done = 0;
        self.copy(ask, to.len(), |memory, page, offset, len| {
            let part = to.get_mut(done..done + len);
            done += len;
            part.is_some_and(|part| memory.read(page, offset, part))
        })
    }

    /// Copies in, if that is admitted.
    pub(crate) fn write(&self, ask: &Ask, from: &[u8]) -> Result<(), Fault> {
        let mut done = 0;
        self.copy(ask, from.len(), |memory, page, offset, len| {
            let part = from.get(done..done + len);
            done += len;
            part.is_some_and(|part| memory.write(page, offset, part))
        })
    }

    /// Lets `act` work on 8 bytes as one, if that is admitted.
    pub(crate) fn word<T>(&self, ask: &Ask, act: impl FnOnce(&AtomicU64) -> T) -> Result<T, Fault> {
        let active = self.active.lock();
        let (page, offset, len) = active.pages.piece(active.offset_of(ask)?, 8);
        if page >= active.memory.count() {
            return Err(Fault::LocalProtection);
        }
        if len < 8 {
            return Err(Fault::RemoteInvalid);
        }
        active.memory.word(page, offset, act).ok_or(Fault::RemoteInvalid)
    }

    /// Calls `each` with page, offset and length of every piece of an access that is admitted.
    fn copy(
        &self,
        ask: &Ask,
        len: usize,
        mut each: impl FnMut(&KernelPages, usize, usize, usize) -> bool,
    ) -> Result<(), Fault> {
        let active = self.active.lock();
        let mut at = active.offset_of(ask)?;
        let mut left = len;
        while left > 0 {
            let (page, offset, piece) = active.pages.piece(at, left);
            if !each(&active.memory, page, offset, piece) {
                return Err(Fault::LocalProtection);
            }
            at += piece as u64;
            left -= piece;
        }
        Ok(())
    }
}

impl Active {
    fn offset_of(&self, ask: &Ask) -> Result<u64, Fault> {
        self.region.check(ask.key, ask.pd, ask.va, ask.len, ask.needed)
    }
}
