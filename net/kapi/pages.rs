// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Memory that frames live in: pages of a page pool to receive into, and slots to transmit copied bytes from.
//!
//! C header: `include/net/page_pool/helpers.h`.

use super::{napi::RawNapi, xdomain::Device};
use core::{ptr::NonNull, slice};
use kernel::{page::PAGE_SIZE, prelude::*};
use tbip::direct::Part;
use usb4_bindings as c;

/// A pool of pages that the device writes to. Dropping it is not the end of the pages that the stack still has.
///
/// # Invariants
///
/// The pool is valid; only one context allocates at a time, which `&mut self` ensures.
pub(crate) struct Pool {
    raw: NonNull<c::page_pool>,
}

// SAFETY: The pool is used through `&mut self` or from the lock that holds it.
unsafe impl Send for Pool {}

impl Pool {
    /// A pool for about `frames` pages in use. Sleeps.
    pub(crate) fn new(napi: &RawNapi, dma: Device, frames: usize) -> Result<Self> {
        let size = u32::try_from(frames).map_err(|_| EINVAL)?;
        // SAFETY: The NAPI is added to a device, and the other device is valid while its handle is.
        let raw = unsafe { c::usb4_nd_pool_create(napi.as_ptr(), dma.as_ptr(), size) };
        Ok(Self {
            raw: NonNull::new(raw).ok_or(ENOMEM)?,
        })
    }

    /// A page, mapped for the device. Softirq context, or process context while the NAPI is disabled.
    pub(crate) fn page(&mut self) -> Option<RxPage> {
        // SAFETY: Valid by the invariant.
        let page = NonNull::new(unsafe { c::usb4_nd_pool_alloc(self.raw.as_ptr()) })?;
        Some(RxPage { page })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: Ours; pages still out keep it alive until they come back.
        unsafe { c::usb4_nd_pool_destroy(self.raw.as_ptr()) }
    }
}

/// A page of a [`Pool`]. Dropped, it goes back there.
///
/// # Invariants
///
/// The page is of a pool, mapped, and no other owner writes to it.
pub(crate) struct RxPage {
    page: NonNull<c::page>,
}

// SAFETY: Pages may go back from any context.
unsafe impl Send for RxPage {}
// SAFETY: What is shared of it is read only.
unsafe impl Sync for RxPage {}

impl RxPage {
    /// Where the device writes.
    pub(crate) fn address(&self) -> u64 {
        // SAFETY: A mapped page of a pool.
        unsafe { c::usb4_nd_pool_addr(self.page.as_ptr()) }
    }

    /// The first `len` bytes, as the device wrote them. The device is done with the page.
    pub(crate) fn bytes(&mut self, len: usize) -> &[u8] {
        let len = len.min(PAGE_SIZE);
        // SAFETY: A page of a pool; the kernel maps all pages of it (no highmem in these pools).
        let base = unsafe { c::usb4_nd_pool_sync_cpu(self.page.as_ptr(), len as u32) };
        // SAFETY: A page has `PAGE_SIZE` bytes and the device is done with it.
        unsafe { slice::from_raw_parts(base, len) }
    }

    /// Makes the page ready for the device again, after [`Self::bytes`] looked at `len` bytes of it.
    pub(crate) fn recycle(&mut self, len: usize) {
        // SAFETY: A mapped page of a pool.
        unsafe { c::usb4_nd_pool_sync_device(self.page.as_ptr(), len.min(PAGE_SIZE) as u32) };
    }

    /// Hands the page over to an skb.
    pub(super) fn into_raw(self) -> *mut c::page {
        core::mem::ManuallyDrop::new(self).page.as_ptr()
    }

    /// The bytes are about to be read by the CPU: by whom an skb is given to, or by [`Self::view`].
    pub(crate) fn sync(&self, len: usize) {
        // SAFETY: A mapped page of a pool.
        let _ = unsafe { c::usb4_nd_pool_sync_cpu(self.page.as_ptr(), len.min(PAGE_SIZE) as u32) };
    }

    /// The first `len` bytes of a page that the device is done with, after [`Self::sync`] or [`Self::bytes`].
    pub(crate) fn view(&self, len: usize) -> &[u8] {
        // SAFETY: A page of a pool has `PAGE_SIZE` bytes, which the kernel maps (no highmem in these pools), and the
        // device, which alone writes there, is done with it.
        unsafe { slice::from_raw_parts(c::usb4_nd_slot_bytes(self.page.as_ptr()), len.min(PAGE_SIZE)) }
    }
}

impl Drop for RxPage {
    fn drop(&mut self) {
        // SAFETY: Ours to give back.
        unsafe { c::usb4_nd_pool_put(self.page.as_ptr()) }
    }
}

/// Memory that the device may read. Dropped, it may not any more.
pub(crate) struct Mapping {
    dma: Device,
    address: u64,
    len: u32,
    skip: u64,
}

impl Mapping {
    /// `len` bytes mapped at `address`, of which the first `skip` do not count.
    pub(super) fn new(dma: Device, address: u64, len: u32, skip: u64) -> Self {
        Self {
            dma,
            address,
            len,
            skip,
        }
    }

    /// Where the device finds the first byte that was asked for.
    pub(crate) fn address(&self) -> u64 {
        self.address + self.skip
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: Mapped by `TxSkb::map` or `Piece::map`; the descriptor that held it is done.
        unsafe { c::usb4_nd_unmap(self.dma.as_ptr(), self.address, self.len) }
    }
}

/// Memory that the device may write. Dropped, it may not any more, and what it has written is there for everybody.
pub(crate) struct Target {
    dma: Device,
    address: u64,
    len: u32,
}

impl Target {
    /// Where the device finds it.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // SAFETY: Mapped by `Piece::map_target`; the descriptor that held it is done, or its ring stopped.
        unsafe { c::usb4_nd_unmap_target(self.dma.as_ptr(), self.address, self.len) }
    }
}

/// Bytes in a page that somebody else has.
#[derive(Clone, Copy)]
pub struct Piece {
    page: NonNull<c::page>,
    offset: u32,
    len: u32,
}

// SAFETY: The page may be mapped by any thread.
unsafe impl Send for Piece {}

impl Piece {
    /// `len` bytes at `offset` of a page, 1 to 4096.
    ///
    /// # Safety
    ///
    /// They are inside the page, which is there until whatever this is given to has read it.
    pub unsafe fn new(page: NonNull<c::page>, offset: u32, len: u32) -> Self {
        Self { page, offset, len }
    }

    /// As what decides about windows knows it.
    pub(crate) fn part(&self) -> Part {
        Part {
            page: self.page.as_ptr() as u64,
            len: self.len(),
        }
    }

    /// Whether it is all of a page.
    pub(crate) fn is_page(&self) -> bool {
        self.offset == 0 && self.len() == PAGE_SIZE
    }

    /// Maps them for the device to write to.
    pub(crate) fn map_target(&self, dma: Device) -> Option<Target> {
        let mut address = 0;
        // SAFETY: As in `map`.
        let ok =
            unsafe { c::usb4_nd_map_target(dma.as_ptr(), self.page.as_ptr(), self.offset, self.len, &mut address) };
        ok.then_some(Target {
            dma,
            address,
            len: self.len,
        })
    }

    /// How many bytes.
    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    /// Maps them for the device.
    pub(crate) fn map(&self, dma: Device) -> Option<Mapping> {
        let mut address = 0;
        // SAFETY: The page is there, by `new`; the device is valid while its handle is.
        let ok = unsafe { c::usb4_nd_map_page(dma.as_ptr(), self.page.as_ptr(), self.offset, self.len, &mut address) };
        ok.then(|| Mapping::new(dma, address, self.len, 0))
    }
}

/// Pages to transmit copied bytes from, one for each descriptor of a ring, mapped for as long as they are here.
pub(crate) struct Slots {
    dma: Device,
    pages: KVec<Slot>,
}

struct Slot {
    page: NonNull<c::page>,
    address: u64,
}

// SAFETY: The pages are ours alone.
unsafe impl Send for Slots {}

impl Slots {
    /// `count` slots. Sleeps.
    pub(crate) fn new(dma: Device, count: usize) -> Result<Self> {
        let mut slots = Self {
            dma,
            pages: KVec::with_capacity(count, GFP_KERNEL)?,
        };
        for _ in 0..count {
            let mut address = 0;
            // SAFETY: The device is valid while its handle is.
            let page = NonNull::new(unsafe { c::usb4_nd_slot_alloc(dma.as_ptr(), &mut address) }).ok_or(ENOMEM)?;
            slots.pages.push(Slot { page, address }, GFP_KERNEL)?;
        }
        Ok(slots)
    }

    /// The bytes of slot `index`, which no descriptor in flight may name.
    pub(crate) fn bytes(&mut self, index: usize) -> &mut [u8] {
        let Some(slot) = self.pages.get(index) else {
            return &mut [];
        };
        // SAFETY: A page of ours; no other reference exists, by `&mut self`.
        unsafe { slice::from_raw_parts_mut(c::usb4_nd_slot_bytes(slot.page.as_ptr()), PAGE_SIZE) }
    }

    /// The address of slot `index` for the device, its first `len` bytes ready to be read by it.
    pub(crate) fn ready(&mut self, index: usize, len: usize) -> u64 {
        let Some(slot) = self.pages.get(index) else {
            return 0;
        };
        // SAFETY: Mapped by `new`.
        unsafe { c::usb4_nd_slot_sync(self.dma.as_ptr(), slot.address, len.min(PAGE_SIZE) as u32) };
        slot.address
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        for slot in &self.pages {
            // SAFETY: Made by `new`; the ring is stopped or has been drained.
            unsafe { c::usb4_nd_slot_free(self.dma.as_ptr(), slot.page.as_ptr(), slot.address) };
        }
    }
}
