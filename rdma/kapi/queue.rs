// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Rings in memory shared with user space: rxe's `rxe_queue_buf` (verbs.md section 2).
//!
//! A header of 384 bytes, then the slots. One side owns the producer index, the other the consumer index; both are
//! kept masked. Each side reads only the other's index, masks it, and keeps its own in private memory: what user space
//! writes over ours changes nothing here.

use super::{
    held::Held,
    uverbs::{Context, Udata},
};
use core::{mem::ManuallyDrop, ptr::NonNull};
use kernel::{error::to_result, prelude::*, sync::Arc};
use usb4_bindings as c;

const LOG2_ELEM_SIZE: usize = 0;
const INDEX_MASK: usize = 4;
const PRODUCER: usize = 128;
const CONSUMER: usize = 256;
const DATA: usize = 384;
/// A slot is never smaller than this.
const CACHE_LINE: usize = 64;
const PAGE_MASK: usize = (1 << kernel::page::PAGE_SHIFT) - 1;

/// Zeroed, page aligned memory that user space may map.
///
/// # Invariants
///
/// `base` is a `vmalloc_user` area of `size` bytes.
struct Memory {
    base: NonNull<u8>,
    size: usize,
    _held: Held,
}

// SAFETY: Plain memory, only ever copied or accessed atomically.
unsafe impl Send for Memory {}
// SAFETY: As above.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(size: usize) -> Result<Self> {
        let size = size.checked_add(PAGE_MASK).ok_or(EINVAL)? & !PAGE_MASK;
        let held = Held::take(size)?;
        // SAFETY: No preconditions; may sleep.
        let base = NonNull::new(unsafe { c::usb4_vmalloc_user(size) }.cast::<u8>()).ok_or(ENOMEM)?;
        Ok(Self {
            base,
            size,
            _held: held,
        })
    }

    /// The address of `len` bytes at `at`, if they are inside.
    fn at(&self, at: usize, len: usize) -> Option<*mut u8> {
        let end = at.checked_add(len)?;
        // SAFETY: Inside the area by the comparison.
        (end <= self.size).then(|| unsafe { self.base.as_ptr().add(at) })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: From `vmalloc_user`, freed once. Mapped pages live on with their mapping.
        unsafe { c::vfree(self.base.as_ptr().cast()) }
    }
}

/// What user space needs to map a ring: `mminfo`, 16 bytes.
#[derive(Clone, Copy, Default)]
pub(crate) struct MapInfo {
    offset: u64,
    size: u32,
}

impl MapInfo {
    /// The bytes of `mminfo`.
    pub(crate) fn bytes(&self) -> [u8; 16] {
        let mut out = [0; 16];
        let (offset, rest) = out.split_at_mut(8);
        offset.copy_from_slice(&self.offset.to_ne_bytes());
        if let Some(size) = rest.get_mut(..4) {
            size.copy_from_slice(&self.size.to_ne_bytes());
        }
        out
    }
}

/// The offer of a ring's memory to `mmap`; withdrawn on drop, which sleeps.
///
/// # Invariants
///
/// `entry` is inserted in its context and owned by the core's reference count.
pub(crate) struct Mapping {
    entry: NonNull<c::usb4_mmap>,
    pub(crate) info: MapInfo,
}

// SAFETY: The entry is handled under the core's locks.
unsafe impl Send for Mapping {}
// SAFETY: As above; there is no shared access to it at all.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(context: &Context, memory: &Arc<Memory>) -> Result<Self> {
        // All that may fail comes before the insertion.
        let size = u32::try_from(memory.size)?;
        let entry = KBox::new(
            c::usb4_mmap {
                inner: core::ptr::null_mut(),
                ..Default::default()
            },
            GFP_KERNEL,
        )?;
        let entry = NonNull::from(KBox::leak(entry));
        // SAFETY: `entry` is valid; the core takes it over if it succeeds.
        let inserted = unsafe {
            (*entry.as_ptr()).inner = Arc::into_raw(memory.clone()).cast_mut().cast();
            c::rdma_user_mmap_entry_insert(context.as_ptr(), &raw mut (*entry.as_ptr()).entry, memory.size)
        };
        if let Err(err) = to_result(inserted) {
            // SAFETY: Not inserted, so still ours alone.
            unsafe { free_entry(entry.as_ptr()) };
            return Err(err);
        }
        // SAFETY: The entry is alive.
        let offset = unsafe { c::usb4_mmap_offset(&raw const (*entry.as_ptr()).entry) };
        Ok(Self {
            entry,
            info: MapInfo { offset, size },
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: Inserted by `new` and removed once.
        unsafe { c::rdma_user_mmap_entry_remove(&raw mut (*self.entry.as_ptr()).entry) }
    }
}

/// Frees an entry and its hold on the memory.
///
/// # Safety
///
/// `entry` comes from [`Mapping::new`] and nobody uses it any more.
unsafe fn free_entry(entry: *mut c::usb4_mmap) {
    // SAFETY: By the caller's promise.
    let entry = unsafe { KBox::from_raw(entry) };
    // SAFETY: `inner` is an `Arc<Memory>` given away by `Mapping::new`.
    drop(unsafe { Arc::<Memory>::from_raw(entry.inner.cast()) });
}

/// The core has let go of a mapping's entry.
///
/// # Safety
///
/// `entry` is the entry of a [`Mapping`].
pub(crate) unsafe fn mapping_released(entry: *mut c::rdma_user_mmap_entry) {
    // SAFETY: The entry is the first field of the `usb4_mmap` that `Mapping::new` made.
    unsafe { free_entry(entry.cast()) }
}

/// Maps the ring that `vma` asks for.
///
/// # Safety
///
/// The arguments are those of the `mmap` op.
pub(crate) unsafe fn map(context: *mut c::ib_ucontext, vma: *mut c::vm_area_struct) -> Result {
    // SAFETY: By the caller's promise.
    let entry = unsafe { c::rdma_user_mmap_entry_get(context, vma) };
    if entry.is_null() {
        return Err(EINVAL);
    }
    // SAFETY: The entry is the first field of a `usb4_mmap`, held by the reference just taken.
    let memory = ManuallyDrop::new(unsafe { Arc::<Memory>::from_raw((*entry.cast::<c::usb4_mmap>()).inner.cast()) });
    // SAFETY: The area is from `vmalloc_user`; the core checked that the sizes agree.
    let mapped = unsafe { c::remap_vmalloc_range(vma, memory.base.as_ptr().cast(), 0) };
    // SAFETY: Taken above.
    unsafe { c::rdma_user_mmap_entry_put(entry) };
    to_result(mapped)
}

/// A ring of slots.
pub(crate) struct Ring {
    memory: Arc<Memory>,
    mask: u32,
    elem_log2: u32,
}

impl Ring {
    /// A ring that can hold `capacity` elements of `elem_len` bytes, with at least `min_slots` slots, which nobody else
    /// maps.
    pub(crate) fn private(capacity: u32, elem_len: usize, min_slots: u32) -> Result<Self> {
        let slots = capacity
            .checked_add(1)
            .and_then(u32::checked_next_power_of_two)
            .ok_or(EINVAL)?
            .max(min_slots);
        let elem = elem_len.max(CACHE_LINE).next_power_of_two();
        let data = elem.checked_mul(usize::try_from(slots)?).ok_or(EINVAL)?;
        let memory = Arc::new(Memory::new(data.checked_add(DATA).ok_or(EINVAL)?)?, GFP_KERNEL)?;
        let ring = Self {
            memory,
            mask: slots - 1,
            elem_log2: elem.trailing_zeros(),
        };
        ring.store(LOG2_ELEM_SIZE, ring.elem_log2);
        ring.store(INDEX_MASK, ring.mask);
        Ok(ring)
    }

    /// As [`Self::private`], for user space to map.
    pub(crate) fn new(context: &Context, capacity: u32, elem_len: usize, min_slots: u32) -> Result<(Self, Mapping)> {
        let ring = Self::private(capacity, elem_len, min_slots)?;
        let mapping = Mapping::new(context, &ring.memory)?;
        Ok((ring, mapping))
    }

    /// A ring for the caller: user space maps it, a kernel caller shares it.
    pub(crate) fn offered(
        udata: Option<&Udata>,
        capacity: u32,
        elem_len: usize,
        min_slots: u32,
    ) -> Result<(Self, Option<Mapping>)> {
        match udata {
            Some(udata) => {
                Self::new(&udata.context()?, capacity, elem_len, min_slots).map(|(ring, mapping)| (ring, Some(mapping)))
            }
            None => Ok((Self::private(capacity, elem_len, min_slots)?, None)),
        }
    }

    /// The same ring for its other side.
    pub(crate) fn share(&self) -> Self {
        Self {
            memory: self.memory.clone(),
            ..*self
        }
    }

    /// Elements that fit.
    pub(crate) fn capacity(&self) -> u32 {
        self.mask
    }

    /// The slot after `index`.
    pub(crate) fn next(&self, index: u32) -> u32 {
        index.wrapping_add(1) & self.mask
    }

    /// Elements from `consumer` to `producer`.
    pub(crate) fn distance(&self, consumer: u32, producer: u32) -> u32 {
        producer.wrapping_sub(consumer) & self.mask
    }

    /// User space's producer index.
    pub(crate) fn producer(&self) -> u32 {
        self.load(PRODUCER) & self.mask
    }

    /// User space's consumer index.
    pub(crate) fn consumer(&self) -> u32 {
        self.load(CONSUMER) & self.mask
    }

    /// Publishes our producer index, and with it the slots before it.
    pub(crate) fn publish_producer(&self, index: u32) {
        self.store(PRODUCER, index);
    }

    /// Sets user space's producer index, in a ring that it has not mapped yet.
    pub(crate) fn publish_user_producer(&self, index: u32) {
        self.store(PRODUCER, index);
    }

    /// Publishes our consumer index: user space may write the slots before it again.
    pub(crate) fn publish_consumer(&self, index: u32) {
        self.store(CONSUMER, index);
    }

    /// Copies out bytes of a slot. User space may be writing them; the copy is what counts.
    pub(crate) fn read(&self, slot: u32, at: usize, to: &mut [u8]) {
        if let Some(from) = self.bytes(slot, at, to.len()) {
            // SAFETY: `from` has `to.len()` bytes, of memory that does not overlap `to`.
            unsafe { c::usb4_mem_copy(to.as_mut_ptr().cast(), from.cast(), to.len()) }
        }
    }

    /// Copies bytes into a slot.
    pub(crate) fn write(&self, slot: u32, at: usize, from: &[u8]) {
        if let Some(to) = self.bytes(slot, at, from.len()) {
            // SAFETY: `to` has `from.len()` bytes, of memory that does not overlap `from`.
            unsafe { c::usb4_mem_copy(to.cast(), from.as_ptr().cast(), from.len()) }
        }
    }

    fn bytes(&self, slot: u32, at: usize, len: usize) -> Option<*mut u8> {
        if at.checked_add(len)? > 1 << self.elem_log2 {
            return None;
        }
        let slot = usize::try_from(slot & self.mask).ok()?;
        self.memory.at(DATA + (slot << self.elem_log2) + at, len)
    }

    fn load(&self, at: usize) -> u32 {
        let Some(word) = self.memory.at(at, 4) else { return 0 };
        // SAFETY: Aligned, inside the header.
        unsafe { c::usb4_load_acquire(word.cast()) }
    }

    fn store(&self, at: usize, value: u32) {
        if let Some(word) = self.memory.at(at, 4) {
            // SAFETY: Aligned, inside the header.
            unsafe { c::usb4_store_release(word.cast(), value) }
        }
    }
}
