// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Copies into memory that a program looks at meanwhile.

use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, AtomicU8, Ordering};
use roce::place::{front, step};
use usb4_bindings as c;

/// Copies `from` to `to`, the word of 8 bytes that it ends in last, by one store where it is whole: another processor
/// that sees the new last bytes sees all others.
///
/// Programs poll the last bytes of a message in place of a completion queue, and adapters keep to that order. `memcpy`
/// has none: that of arch/um goes backwards for some addresses, and the fast strings of x86 show other processors
/// their stores in any order, though before every later store.
///
/// # Safety
///
/// `from.len()` bytes at `to` are there, and whoever else looks at them or writes there does so as with DMA.
pub(super) unsafe fn bytes(to: *mut u8, from: &[u8]) {
    let (front, mut tail) = from
        .split_at_checked(front(to.addr(), from.len()))
        .unwrap_or((from, &[]));
    // SAFETY: By the caller's promise.
    unsafe { c::usb4_mem_copy(to.cast(), front.as_ptr().cast(), front.len()) };
    let mut at = to.wrapping_add(front.len());
    loop {
        let size = step(at.addr(), tail.len());
        let Some((word, rest)) = tail.split_at_checked(size) else {
            break;
        };
        // SAFETY: In each case aligned, and within the bytes that are there; all who look at them meanwhile do so as
        // with DMA.
        unsafe {
            match *word {
                [byte] => AtomicU8::from_ptr(at).store(byte, Ordering::Release),
                [a, b] => AtomicU16::from_ptr(at.cast()).store(u16::from_ne_bytes([a, b]), Ordering::Release),
                [a, b, c, d] => {
                    let word = u32::from_ne_bytes([a, b, c, d]);
                    AtomicU32::from_ptr(at.cast()).store(word, Ordering::Release);
                }
                [a, b, c, d, e, f, g, h] => {
                    let word = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
                    AtomicU64::from_ptr(at.cast()).store(word, Ordering::Release);
                }
                _ => break,
            }
        }
        (at, tail) = (at.wrapping_add(size), rest);
    }
}

/// The same at `offset` of a page.
///
/// # Safety
///
/// The page is there, and `offset + from.len()` is inside it; else as for [`bytes`].
pub(super) unsafe fn in_page(page: *mut c::page, offset: usize, from: &[u8]) {
    // SAFETY: The page is there; it is unmapped by this thread, as the last of its mappings.
    unsafe {
        let base = c::usb4_page_map(page);
        bytes(base.cast::<u8>().wrapping_add(offset), from);
        c::usb4_page_unmap(base);
        c::usb4_page_flush(page);
    }
}
