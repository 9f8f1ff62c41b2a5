// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Pinned memory of a user, read and written page by page.
//!
//! C header: `include/rdma/ib_umem.h`.

use super::{ibdev::IbDev, netdev::Borrower, place};
use core::{
    ptr::{self, NonNull},
    sync::atomic::AtomicU64,
};
use kernel::{error::to_result, prelude::*};
use usb4_bindings as c;

const PAGE: usize = 1 << PAGE_SHIFT;
const PAGE_SHIFT: usize = kernel::page::PAGE_SHIFT;

/// A pinned range of user memory. Dropping it unpins, which sleeps.
///
/// # Invariants
///
/// `pages` are the pages of `umem`, in order, and pinned while it lives. `first + len` does not pass their end.
pub(crate) struct Umem {
    umem: NonNull<c::ib_umem>,
    pages: KVVec<*mut c::page>,
    /// Where the range begins in the first page.
    first: usize,
    len: usize,
}

// SAFETY: Pinned pages may be used, and let go, by any thread.
unsafe impl Send for Umem {}
// SAFETY: The page table is not changed after creation; the bytes of the pages are only ever copied.
unsafe impl Sync for Umem {}

impl Umem {
    /// Pins `len` bytes at `start` of the calling process for `access` (`IB_ACCESS_*`).
    pub(crate) fn pin(dev: &IbDev, start: u64, len: u64, access: i32) -> Result<Self> {
        let len_bytes = usize::try_from(len)?;
        // SAFETY: The device is alive during a call on one of its objects.
        let raw = unsafe { c::usb4_umem_get(dev.as_ptr(), start, len, access) };
        // SAFETY: Only looks at the pointer's value.
        if unsafe { c::usb4_umem_is_err(raw) } {
            // SAFETY: As above.
            let err = unsafe { c::usb4_umem_err(raw) };
            to_result(i32::try_from(err)?)?;
        }
        let umem = NonNull::new(raw).ok_or(ENOMEM)?;
        let mut this = Self {
            umem,
            pages: KVVec::new(),
            first: usize::try_from(start)? & (PAGE - 1),
            len: len_bytes,
        };
        // SAFETY: `umem` is alive.
        let count = unsafe { c::usb4_umem_page_count(umem.as_ptr()) };
        this.pages.resize(count, ptr::null_mut(), GFP_KERNEL)?;
        // SAFETY: `pages` has room for `count` pointers.
        let found = unsafe { c::usb4_umem_pages(umem.as_ptr(), this.pages.as_mut_ptr(), count) };
        let room = found.checked_mul(PAGE).and_then(|n| n.checked_sub(this.first));
        if found != count || room.is_none_or(|room| room < len_bytes) {
            return Err(EFAULT);
        }
        Ok(this)
    }

    /// Copies `to.len()` bytes from offset `at`. False if they are not all inside.
    #[must_use]
    pub(crate) fn read(&self, at: usize, to: &mut [u8]) -> bool {
        let mut done = 0;
        self.pieces(at, to.len(), |page, offset, len| {
            let Some(piece) = to.get_mut(done..done + len) else {
                return;
            };
            // SAFETY: The page is pinned and `offset + len` is inside it; `piece` has `len` bytes.
            unsafe { c::usb4_page_read(piece.as_mut_ptr().cast(), page, offset, len) };
            done += len;
        })
    }

    /// Copies `from` to offset `at`. False, and nothing written, if it does not fit.
    #[must_use]
    pub(crate) fn write(&self, at: usize, from: &[u8]) -> bool {
        let mut done = 0;
        self.pieces(at, from.len(), |page, offset, len| {
            let Some(piece) = from.get(done..done + len) else {
                return;
            };
            // SAFETY: The page is pinned and `offset + len` is inside it; `piece` has `len` bytes.
            unsafe { place::in_page(page, offset, piece) };
            done += len;
        })
    }

    /// Lends `len` bytes at offset `at` to a frame or a train. False if they are not all inside, or
    /// too many pieces.
    #[must_use]
    pub(crate) fn lend(&self, at: usize, len: usize, to: &mut impl Borrower) -> bool {
        let mut taken = true;
        let inside = self.pieces(at, len, |page, offset, len| {
            let (Some(page), Ok(offset), Ok(len)) = (NonNull::new(page), u32::try_from(offset), u32::try_from(len))
            else {
                taken = false;
                return;
            };
            // SAFETY: The page is pinned and `offset + len` is inside it. It stays so while the region does, which
            // those who lend it see to (`mr: Lenders`).
            taken = taken && unsafe { to.lend(page, offset, len) };
        });
        inside && taken
    }

    /// Lets `act` work on the 8 bytes at offset `at` as one. `None` if they are not aligned, or not inside.
    pub(crate) fn word<T>(&self, at: usize, act: impl FnOnce(&AtomicU64) -> T) -> Option<T> {
        let position = self.first.checked_add(at)?;
        if position % 8 != 0 || at.checked_add(8)? > self.len {
            return None;
        }
        let page = *self.pages.get(position >> PAGE_SHIFT)?;
        // SAFETY: The page is pinned.
        let base = unsafe { c::usb4_page_map(page) };
        // SAFETY: Aligned and inside the page, which is mapped; everybody else who writes there is user space, or us.
        let result = act(unsafe { AtomicU64::from_ptr(base.cast::<u8>().add(position & (PAGE - 1)).cast()) });
        // SAFETY: Mapped above, by this thread, and the last of its mappings.
        unsafe { c::usb4_page_unmap(base) };
        Some(result)
    }

    /// Walks the pages under a range: page, offset in it, length.
    fn pieces(&self, at: usize, len: usize, mut each: impl FnMut(*mut c::page, usize, usize)) -> bool {
        if at.checked_add(len).is_none_or(|end| end > self.len) {
            return false;
        }
        let mut position = self.first + at;
        let mut left = len;
        while left > 0 {
            let offset = position & (PAGE - 1);
            let piece = left.min(PAGE - offset);
            let Some(&page) = self.pages.get(position >> PAGE_SHIFT) else {
                return false;
            };
            each(page, offset, piece);
            position += piece;
            left -= piece;
        }
        true
    }
}

impl Drop for Umem {
    fn drop(&mut self) {
        // SAFETY: Obtained from the core and not released before.
        unsafe { c::ib_umem_release(self.umem.as_ptr()) }
    }
}
