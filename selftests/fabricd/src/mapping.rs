// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Guest memory mapped into this process: the only unsafe code of the program.
//!
//! A guest shares its memory as file descriptors and writes it whenever it likes. So no Rust reference ever points into
//! a mapping: words go through atomics, bulk data through raw copies that may tear, and every address is checked
//! against the mapped ranges first. A guest that truncates its memory file can still kill the process (SIGBUS); the
//! guests of a lab are ours, and the lab reports it.

use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;

use rustix::mm::{MapFlags, ProtFlags};
use usb4_model::{BadAddress, CopyFault, Memory};

/// A shared mapping of part of a file.
///
/// # Invariants
/// `base` is the start of `length` bytes that stay mapped until drop, writable if `writable`.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    length: usize,
    writable: bool,
}

// SAFETY: the mapping belongs to the process, not to a thread, and all access is by atomics or raw copies.
unsafe impl Send for Mapping {}
// SAFETY: as above; shared access from several threads races only on bytes that the guest races on anyway.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `length` bytes of a file from `offset`.
    ///
    /// # Errors
    /// What mmap says.
    pub fn new(file: BorrowedFd<'_>, offset: u64, length: usize, writable: bool) -> std::io::Result<Mapping> {
        let protection = if writable {
            ProtFlags::READ | ProtFlags::WRITE
        } else {
            ProtFlags::READ
        };
        // SAFETY: a fresh address range chosen by the kernel; nothing else refers to it.
        let base =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, protection, MapFlags::SHARED, file, offset)? };
        let base = NonNull::new(base.cast()).ok_or_else(|| std::io::Error::other("mapped at address 0"))?;
        Ok(Mapping { base, length, writable })
    }

    fn pointer(&self, offset: usize, length: usize) -> Option<*mut u8> {
        if offset.checked_add(length)? > self.length {
            return None;
        }
        // SAFETY: offset is within the mapping, by the check above.
        Some(unsafe { self.base.as_ptr().add(offset) })
    }

    /// The atomic at an offset; `None` if it is not inside, not aligned or not writable.
    fn atomic<T>(&self, offset: usize) -> Option<&T> {
        let pointer = self.pointer(offset, size_of::<T>())?.cast::<T>();
        if !pointer.is_aligned() || !self.writable {
            return None;
        }
        // SAFETY: aligned, inside the mapping, writable, and alive as long as self. T is one of the atomics below,
        // whose bit patterns are all valid and which tolerate changes from outside.
        Some(unsafe { &*pointer })
    }

    pub fn atomic_u16(&self, offset: usize) -> Option<&AtomicU16> {
        self.atomic(offset)
    }

    pub fn atomic_u32(&self, offset: usize) -> Option<&AtomicU32> {
        self.atomic(offset)
    }

    pub fn atomic_u64(&self, offset: usize) -> Option<&AtomicU64> {
        self.atomic(offset)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by new() and nothing refers to it any more.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.length) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Part of a guest's memory.
#[derive(Clone, Debug)]
pub struct Region {
    pub address: u64,
    pub mapping: Arc<Mapping>,
}

impl Region {
    fn end(&self) -> u64 {
        self.address.saturating_add(self.mapping.length as u64)
    }
}

/// A guest's memory by DMA address. Clones share the mappings, which go when the last clone does.
#[derive(Clone, Debug, Default)]
pub struct GuestMemory {
    /// By address, without overlap.
    regions: Vec<Region>,
}

impl GuestMemory {
    pub fn new(regions: Vec<Region>) -> Self {
        let mut memory = GuestMemory::default();
        for region in regions {
            memory.insert(region);
        }
        memory
    }

    /// Adds a region, in place of all that overlap it.
    pub fn insert(&mut self, region: Region) {
        self.regions
            .retain(|other| other.end() <= region.address || other.address >= region.end());
        let index = self.regions.partition_point(|other| other.address < region.address);
        self.regions.insert(index, region);
    }

    /// Removes what lies inside a range.
    pub fn remove(&mut self, address: u64, length: u64) {
        let end = address.saturating_add(length);
        self.regions
            .retain(|region| region.address < address || region.end() > end);
    }

    fn find(&self, address: u64, length: usize) -> Option<(&Mapping, usize)> {
        let index = self
            .regions
            .partition_point(|region| region.address <= address)
            .checked_sub(1)?;
        let region = &self.regions[index];
        let offset = usize::try_from(address - region.address).ok()?;
        let fits = offset.checked_add(length)? <= region.mapping.length;
        fits.then_some((&*region.mapping, offset))
    }

    fn readable(&self, address: u64, length: usize) -> Result<*const u8, BadAddress> {
        let found = self
            .find(address, length)
            .and_then(|(mapping, offset)| mapping.pointer(offset, length));
        found.map(<*mut u8>::cast_const).ok_or(BadAddress(address))
    }

    fn writable(&self, address: u64, length: usize) -> Result<*mut u8, BadAddress> {
        let found = self.find(address, length).filter(|(mapping, _)| mapping.writable);
        found
            .and_then(|(mapping, offset)| mapping.pointer(offset, length))
            .ok_or(BadAddress(address))
    }

    pub fn atomic_u16(&self, address: u64) -> Option<&AtomicU16> {
        let (mapping, offset) = self.find(address, 2)?;
        mapping.atomic_u16(offset)
    }

    pub fn atomic_u32(&self, address: u64) -> Option<&AtomicU32> {
        let (mapping, offset) = self.find(address, 4)?;
        mapping.atomic_u32(offset)
    }
}

impl Memory for GuestMemory {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), BadAddress> {
        let from = self.readable(address, bytes.len())?;
        // SAFETY: the range is mapped, and bytes is our own memory, which no guest mapping overlaps.
        unsafe { std::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        let to = self.writable(address, bytes.len())?;
        // SAFETY: the range is mapped writable, and bytes is our own memory, which no guest mapping overlaps.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    fn copy_from(&self, address: u64, source: &Self, from: u64, length: usize) -> Result<(), CopyFault> {
        let from = source.readable(from, length).map_err(CopyFault::Source)?;
        let to = self.writable(address, length).map_err(CopyFault::Target)?;
        // SAFETY: both ranges are mapped; copy() allows them to overlap, as they may when both NHIs are of one guest.
        unsafe { std::ptr::copy(from, to, length) };
        Ok(())
    }

    fn load_u32(&self, address: u64) -> Result<u32, BadAddress> {
        let word = self.atomic_u32(address).ok_or(BadAddress(address))?;
        Ok(u32::from_le(word.load(Ordering::Acquire)))
    }

    fn store_u32(&self, address: u64, value: u32) -> Result<(), BadAddress> {
        let word = self.atomic_u32(address).ok_or(BadAddress(address))?;
        word.store(value.to_le(), Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn memory(address: u64, length: usize) -> GuestMemory {
        let file = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, length as u64).unwrap();
        let mapping = Arc::new(Mapping::new(file.as_fd(), 0, length, true).unwrap());
        GuestMemory::new(vec![Region { address, mapping }])
    }

    #[test]
    fn only_mapped_addresses_work() {
        let memory = memory(0x1000, 0x2000);
        assert!(memory.write(0x1000, &[1, 2, 3]).is_ok());
        let mut bytes = [0; 3];
        assert!(memory.read(0x1000, &mut bytes).is_ok());
        assert_eq!(bytes, [1, 2, 3]);
        assert_eq!(memory.read(0xfff, &mut bytes), Err(BadAddress(0xfff)));
        assert_eq!(memory.read(0x2ffe, &mut bytes), Err(BadAddress(0x2ffe)));
        assert_eq!(memory.read(u64::MAX, &mut bytes), Err(BadAddress(u64::MAX)));
        assert_eq!(memory.load_u32(0x1002), Err(BadAddress(0x1002)));
        assert!(memory.load_u32(0x2ffc).is_ok());
    }

    #[test]
    fn removed_regions_are_gone() {
        let mut memory = memory(0x1000, 0x1000);
        memory.remove(0x1000, 0x1000);
        assert!(memory.load_u32(0x1000).is_err());
    }
}
