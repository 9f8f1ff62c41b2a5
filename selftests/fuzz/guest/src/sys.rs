// SPDX-License-Identifier: GPL-2.0 OR MIT
//! System calls. All `unsafe` is here.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

/// `RDMA_VERBS_IOCTL`.
const VERBS_IOCTL: libc::c_ulong = 0xc018_1b01;

/// Where our memory is, if that is free: an address of which no part is one of the program's own, so that a spoiled
/// address of an answer hits nothing. Then a program that breaks is a finding.
const PLACE: usize = 1 << 36;
/// Bytes of nobody's behind memory of ours.
const BEHIND: usize = 1 << 16;

/// Writes a command.
pub fn command(file: &File, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: The kernel reads the bytes. Addresses in them are of `Arena`s, which live, or of nothing.
    let done = unsafe { libc::write(file.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Runs a method; the kernel may write into `header`.
pub fn method(file: &File, header: &mut [u64]) -> io::Result<()> {
    // SAFETY: The header's length is in its first two bytes, which the caller keeps within `header`, or it is refused
    // for what lies behind: the kernel copies in, and writes back into attributes that it has copied.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), VERBS_IOCTL, header.as_mut_ptr()) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Closes a descriptor that the kernel gave us in an answer.
pub fn close(fd: RawFd) {
    if fd > 2 {
        // SAFETY: The table gives each descriptor out once.
        drop(unsafe { File::from_raw_fd(fd) });
    }
}

/// Closes all descriptors but the standard ones: commands whose answer went astray made some that nobody knows of.
///
/// # Errors
///
/// Of `close_range`.
pub fn close_all() -> io::Result<()> {
    // SAFETY: Between rounds nobody has a file open.
    let done = unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Memory of ours, or shared with a device, that anything may be written to at any time by the kernel.
pub struct Arena {
    base: *mut u8,
    len: usize,
    mapped: usize,
}

// SAFETY: Plain memory; every access is volatile and a byte or word each.
unsafe impl Send for Arena {}
// SAFETY: As above.
unsafe impl Sync for Arena {}

impl Arena {
    /// Memory of our own. What lies behind is nobody's: a region registered too long reaches nothing of this program.
    pub fn new(len: usize) -> io::Result<Self> {
        let mut this = Self::map(None, len + BEHIND, 0)?;
        // SAFETY: The second part of the mapping just made, which nothing refers to.
        let closed = unsafe { libc::mprotect(this.base.add(len).cast(), BEHIND, libc::PROT_NONE) };
        if closed != 0 {
            return Err(io::Error::last_os_error());
        }
        this.len = len;
        Ok(this)
    }

    /// What a device shares at `offset`.
    pub fn shared(file: &File, len: usize, offset: u64) -> io::Result<Self> {
        Self::map(Some(file), len, offset)
    }

    fn map(file: Option<&File>, len: usize, offset: u64) -> io::Result<Self> {
        let (flags, fd, place) = match file {
            Some(file) => (libc::MAP_SHARED, file.as_raw_fd(), 0),
            None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, PLACE),
        };
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let offset = offset as libc::off_t;
        let place = std::ptr::without_provenance_mut(place);
        // SAFETY: A new mapping where nothing is: the place is a wish.
        let base = unsafe { libc::mmap(place, len, access, flags, fd, offset) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            base: base.cast(),
            len,
            mapped: len,
        })
    }

    /// Its address.
    pub fn address(&self) -> u64 {
        self.base as u64
    }

    /// Its length.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Writes bytes, as far as there is room.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            if at + index < self.len {
                // SAFETY: Inside the mapping.
                unsafe { self.base.add(at + index).write_volatile(*byte) }
            }
        }
    }

    /// Reads a word; 0 outside.
    pub fn word(&self, at: usize) -> u32 {
        if at % 4 != 0 || at + 4 > self.len {
            return 0;
        }
        // SAFETY: Inside the mapping, and aligned as its base is to a page.
        unsafe { self.base.add(at).cast::<u32>().read_volatile() }
    }

    /// Reads two words as one.
    pub fn double(&self, at: usize) -> u64 {
        u64::from(self.word(at)) | u64::from(self.word(at + 4)) << 32
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: Mapped by `map`, unmapped once.
        unsafe { libc::munmap(self.base.cast(), self.mapped) };
    }
}
