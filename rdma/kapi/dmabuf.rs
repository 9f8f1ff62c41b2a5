// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A range of a dma-buf, mapped for the CPU, which does all copying here. An exporter that cannot map its memory for
//! the CPU is refused.
//!
//! C header: `include/linux/dma-buf.h`.

use core::{
    ptr::NonNull,
    sync::atomic::{fence, AtomicU64, Ordering},
};
use kernel::{
    error::{from_err_ptr, to_result},
    prelude::*,
};
use roce::place::front;
use tbnet::kapi::kernels::not_supported;
use usb4_bindings as c;

/// A counted reference to a dma-buf.
///
/// # Invariants
///
/// Valid, and ours.
struct Buffer(NonNull<c::dma_buf>);

impl Buffer {
    /// The buffer that `fd` names in the calling process.
    fn get(fd: i32) -> Result<Self> {
        // SAFETY: No preconditions.
        let buffer = from_err_ptr(unsafe { c::usb4_dmabuf_get(fd) })?;
        NonNull::new(buffer).map(Self).ok_or(EINVAL)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: Ours by the invariant.
        unsafe { c::usb4_dmabuf_put(self.0.as_ptr()) }
    }
}

/// A buffer that the CPU works on.
struct Accessed(Buffer);

impl Accessed {
    fn begin(buffer: Buffer) -> Result<Self> {
        // SAFETY: Valid by the invariant; `drop` ends it.
        to_result(unsafe { c::usb4_dmabuf_begin(buffer.0.as_ptr()) })?;
        Ok(Self(buffer))
    }

    fn as_ptr(&self) -> *mut c::dma_buf {
        self.0 .0.as_ptr()
    }
}

impl Drop for Accessed {
    fn drop(&mut self) {
        // SAFETY: Valid by the invariant, and begun.
        unsafe { c::usb4_dmabuf_end(self.as_ptr()) }
    }
}

/// A mapped range. Dropping it unmaps, which sleeps.
///
/// # Invariants
///
/// `mapping` is that of `buffer`, and `first + len` does not pass its end.
pub(crate) struct Dmabuf {
    mapping: c::usb4_dmabuf,
    buffer: Accessed,
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
        let buffer = Buffer::get(fd)?;
        // SAFETY: Valid by the invariant.
        let size = unsafe { c::usb4_dmabuf_size(buffer.0.as_ptr()) };
        if len == 0 || offset.checked_add(len).is_none_or(|end| end > size) {
            return Err(EINVAL);
        }
        // SAFETY: As above.
        if unsafe { !c::usb4_dmabuf_has_vmap(buffer.0.as_ptr()) } {
            return Err(not_supported());
        }
        let (first, len) = (usize::try_from(offset)?, usize::try_from(len)?);
        let buffer = Accessed::begin(buffer)?;
        let mut mapping = c::usb4_dmabuf::default();
        // No device does DMA here: the buffer is mapped for the CPU, not attached. Mapped, it stays where it is.
        // SAFETY: Valid by the invariant; `drop` unmaps.
        to_result(unsafe { c::usb4_dmabuf_map(buffer.as_ptr(), &mut mapping) })?;
        Ok(Self {
            mapping,
            buffer,
            first,
            len,
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
        let (front, tail) = from.split_at_checked(front(place, from.len())).unwrap_or((from, &[]));
        // SAFETY: Both parts are inside the mapping.
        unsafe {
            c::usb4_dmabuf_write(&self.mapping, place, front.as_ptr().cast(), front.len());
            // As `place::bytes` has it, by a call that also knows a device's memory.
            fence(Ordering::Release);
            c::usb4_dmabuf_write(&self.mapping, place + front.len(), tail.as_ptr().cast(), tail.len());
        }
        true
    }

    /// Lets `act` work on the 8 bytes at offset `at` as one. `None` if they are not aligned, not inside, or in the
    /// memory of a device.
    pub(crate) fn word<T>(&self, at: usize, act: impl FnOnce(&AtomicU64) -> T) -> Option<T> {
        let place = self.place(at, 8)?;
        if place % 8 != 0 || self.mapping.iomem {
            return None;
        }
        // SAFETY: Aligned, as a mapping begins with a page, and inside; everybody else who writes there is user space,
        // a device, or us.
        Some(act(unsafe {
            AtomicU64::from_ptr(self.mapping.address.cast::<u8>().add(place).cast())
        }))
    }
}

impl Drop for Dmabuf {
    fn drop(&mut self) {
        // SAFETY: Mapped by the invariant.
        unsafe { c::usb4_dmabuf_unmap(self.buffer.as_ptr(), &self.mapping) }
    }
}
