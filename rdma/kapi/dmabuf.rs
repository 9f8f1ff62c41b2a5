// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A range of a dma-buf, mapped for the CPU, which does all copying here. An exporter that cannot map its memory for the
//! CPU is refused.
//!
//! C header: `include/linux/dma-buf.h`.

use core::{ptr, sync::atomic::AtomicU64};
use kernel::{error::to_result, prelude::*};
use usb4_bindings as c;

/// A mapped range. Dropping it unmaps, which sleeps.
///
/// # Invariants
///
/// `mapping` is mapped, and `first + len` does not pass its end.
pub(crate) struct Dmabuf {
    mapping: c::usb4_dmabuf,
    first: usize,
    len: usize,
}

// SAFETY: A mapping may be used, and let go, by any thread.
unsafe impl Send for Dmabuf {}
// SAFETY: The mapping is not changed after creation; its bytes are only ever copied.
unsafe impl Sync for Dmabuf {}

impl Dmabuf {
    /// Maps `len` bytes at `offset` of the buffer that `fd` names in the calling process. Sleeps.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if the exporter has no mapping for the CPU, `EINVAL` if the range is not inside.
    pub(crate) fn map(fd: i32, offset: u64, len: u64) -> Result<Self> {
        let mut mapping = c::usb4_dmabuf::default();
        // SAFETY: Fills `mapping` in if it succeeds.
        to_result(unsafe { c::usb4_dmabuf_map(&mut mapping, fd, offset, len) })?;
        Ok(Self {
            mapping,
            first: usize::try_from(offset)?,
            len: usize::try_from(len)?,
        })
    }

    fn place(&self, at: usize, len: usize) -> Option<usize> {
        let end = at.checked_add(len)?;
        (end <= self.len).then_some(self.first.checked_add(at)?)
    }

    /// Copies `to.len()` bytes from offset `at`. False if they are not all inside.
    #[must_use]
    pub(crate) fn read(&self, at: usize, to: &mut [u8]) -> bool {
        let Some(place) = self.place(at, to.len()) else {
            return false;
        };
        // SAFETY: Inside the mapping.
        unsafe { c::usb4_dmabuf_read(&self.mapping, place, to.as_mut_ptr().cast(), to.len()) };
        true
    }

    /// Copies `from` to offset `at`. False, and nothing written, if it does not fit.
    #[must_use]
    pub(crate) fn write(&self, at: usize, from: &[u8]) -> bool {
        let Some(place) = self.place(at, from.len()) else {
            return false;
        };
        // SAFETY: Inside the mapping.
        unsafe { c::usb4_dmabuf_write(&self.mapping, place, from.as_ptr().cast(), from.len()) };
        true
    }

    /// Lets `act` work on the 8 bytes at offset `at` as one. `None` if they are not aligned, not inside, or in the memory
    /// of a device.
    pub(crate) fn word<T>(&self, at: usize, act: impl FnOnce(&AtomicU64) -> T) -> Option<T> {
        let place = self.place(at, 8)?;
        if place % 8 != 0 || self.mapping.iomem {
            return None;
        }
        // SAFETY: Aligned, as a mapping begins with a page, and inside; everybody else who writes there is user space, a
        // device, or us.
        Some(act(unsafe {
            AtomicU64::from_ptr(self.mapping.address.cast::<u8>().add(place).cast())
        }))
    }
}

impl Drop for Dmabuf {
    fn drop(&mut self) {
        // SAFETY: Mapped by the invariant.
        unsafe { c::usb4_dmabuf_unmap(ptr::from_mut(&mut self.mapping)) }
    }
}
