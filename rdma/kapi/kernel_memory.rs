// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Memory of callers in the kernel, who name it by its addresses.

use super::place;
use core::{ptr, sync::atomic::AtomicU64};
use kernel::prelude::*;
use usb4_bindings as c;

/// Inline data is copied by pieces of this size.
const PIECE: usize = 64;

/// Copies out of memory that may be written meanwhile, as by DMA.
///
/// # Safety
///
/// `to.len()` bytes at `from` are a kernel caller's, and there.
unsafe fn copy_out(from: usize, to: &mut [u8]) {
    let from = ptr::with_exposed_provenance::<u8>(from);
    // SAFETY: By the caller's promise.
    unsafe { c::usb4_mem_copy(to.as_mut_ptr().cast(), from.cast(), to.len()) };
}

/// As [`copy_out`], the other way.
///
/// # Safety
///
/// As for [`copy_out`].
unsafe fn copy_in(to: usize, from: &[u8]) {
    let to = ptr::with_exposed_provenance_mut::<u8>(to);
    // SAFETY: By the caller's promise.
    unsafe { place::bytes(to, from) };
}

/// Lets `act` work on 8 bytes as one. `None` if they are not aligned.
///
/// # Safety
///
/// 8 bytes at `at` are a kernel caller's, and there.
unsafe fn word<T>(at: usize, act: impl FnOnce(&AtomicU64) -> T) -> Option<T> {
    // SAFETY: Aligned, and there by the caller's promise; all who write there meanwhile do so as DMA would.
    (at % 8 == 0).then(|| act(unsafe { AtomicU64::from_ptr(ptr::with_exposed_provenance_mut(at)) }))
}

/// All memory of the kernel, under a key that only requests of kernel callers in one domain can use: `get_dma_mr`. An
/// offset is an address.
///
/// # Invariants
///
/// Whatever reads, writes or works on words through this does so for such a request, whose caller keeps what it names
/// until its completion.
pub(crate) struct AllMemory(());

impl AllMemory {
    /// # Safety
    ///
    /// The caller vouches for all that gets the value: they use only addresses that requests name as the invariant
    /// says.
    pub(crate) unsafe fn new() -> Self {
        Self(())
    }

    /// Copies from an address.
    pub(crate) fn read(&self, at: usize, to: &mut [u8]) -> bool {
        // SAFETY: By the invariant.
        unsafe { copy_out(at, to) };
        true
    }

    /// Copies to an address.
    pub(crate) fn write(&self, at: usize, from: &[u8]) -> bool {
        // SAFETY: By the invariant.
        unsafe { copy_in(at, from) };
        true
    }

    /// Lets `act` work on the 8 bytes at an address as one. `None` if it is not aligned.
    pub(crate) fn word<T>(&self, at: usize, act: impl FnOnce(&AtomicU64) -> T) -> Option<T> {
        // SAFETY: By the invariant.
        unsafe { word(at, act) }
    }
}

/// Data that a request brings along, in the kernel's memory.
///
/// # Invariants
///
/// Each entry names bytes that are there during `'a`.
pub(crate) struct Inline<'a>(&'a [c::ib_sge]);

impl<'a> Inline<'a> {
    /// # Safety
    ///
    /// Each entry of the list names bytes by their address in the kernel, and they are there during `'a`.
    pub(crate) unsafe fn new(list: &'a [c::ib_sge]) -> Self {
        Self(list)
    }

    /// The entries that name it.
    pub(crate) fn entries(&self) -> &'a [c::ib_sge] {
        self.0
    }

    /// Shows a copy of it, piece by piece.
    pub(crate) fn pieces(&self, mut each: impl FnMut(&[u8])) -> Result {
        for entry in self.0 {
            let first = usize::try_from(entry.addr)?;
            let len = usize::try_from(entry.length)?;
            for at in (0..len).step_by(PIECE) {
                let mut piece = [0; PIECE];
                if let Some(piece) = piece.get_mut(..(len - at).min(PIECE)) {
                    // SAFETY: Inside of the entry, so there by the invariant.
                    unsafe { copy_out(first.wrapping_add(at), piece) };
                    each(piece);
                }
            }
        }
        Ok(())
    }
}

/// A page of a kernel caller's memory, to be put into [`KernelPages`].
pub(crate) struct KernelPage(usize);

impl KernelPage {
    /// # Safety
    ///
    /// A page begins at `address`, as long as those of the list that it is for, and its owner keeps it while a key can
    /// reach the list.
    pub(crate) unsafe fn new(address: u64) -> Result<Self> {
        Ok(Self(usize::try_from(address)?))
    }
}

/// Pages of a kernel caller's memory, in an order of his own.
///
/// # Invariants
///
/// At each address is a page of `page_size` bytes, which stays while a key can reach it.
pub(crate) struct KernelPages {
    addresses: KVVec<usize>,
    page_size: u32,
}

impl KernelPages {
    /// None, and room for `most`.
    pub(crate) fn new(most: usize) -> Result<Self> {
        Ok(Self {
            addresses: KVVec::with_capacity(most, GFP_KERNEL)?,
            page_size: 0,
        })
    }

    /// Begins anew, with pages of `page_size` bytes.
    pub(crate) fn restart(&mut self, page_size: u32) {
        self.addresses.clear();
        self.page_size = page_size;
    }

    /// Adds a page. Takes no memory.
    ///
    /// # Errors
    ///
    /// `ENOMEM` if there is no room.
    pub(crate) fn add(&mut self, page: KernelPage) -> Result {
        self.addresses.push_within_capacity(page.0).map_err(|_| ENOMEM)
    }

    /// Bytes of each.
    pub(crate) fn page_size(&self) -> u32 {
        self.page_size
    }

    /// How many.
    pub(crate) fn count(&self) -> usize {
        self.addresses.len()
    }

    /// Where `len` bytes at an offset in a page are, if they are inside of it.
    fn place(&self, page: usize, offset: usize, len: usize) -> Option<usize> {
        let end = offset.checked_add(len)?;
        let address = *self.addresses.get(page)?;
        (end <= self.page_size as usize).then(|| address.wrapping_add(offset))
    }

    /// Copies out of a page. False if that does not reach so far.
    #[must_use]
    pub(crate) fn read(&self, page: usize, offset: usize, to: &mut [u8]) -> bool {
        let Some(place) = self.place(page, offset, to.len()) else {
            return false;
        };
        // SAFETY: Inside of a page, which is there by the invariant.
        unsafe { copy_out(place, to) };
        true
    }

    /// Copies into a page. False if it does not reach so far.
    #[must_use]
    pub(crate) fn write(&self, page: usize, offset: usize, from: &[u8]) -> bool {
        let Some(place) = self.place(page, offset, from.len()) else {
            return false;
        };
        // SAFETY: As in `read`.
        unsafe { copy_in(place, from) };
        true
    }

    /// Lets `act` work on 8 bytes of a page as one. `None` if they are not aligned, or not inside.
    pub(crate) fn word<T>(&self, page: usize, offset: usize, act: impl FnOnce(&AtomicU64) -> T) -> Option<T> {
        let place = self.place(page, offset, 8)?;
        // SAFETY: As in `read`.
        unsafe { word(place, act) }
    }
}
