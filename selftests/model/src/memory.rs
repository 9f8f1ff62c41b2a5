// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Guest memory as the model's DMA sees it.
//!
//! A guest may hand over any address at any time, so every access can fail; nothing here may panic on what a guest
//! does.

/// The address range is not in the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadAddress(pub u64);

/// Memory that a device may read and write by DMA address.
///
/// The guest writes the same memory at the same time. Loads and stores of words are single accesses; bulk copies may
/// tear.
pub trait Memory {
    /// Reads bytes at `address`.
    ///
    /// # Errors
    /// [`BadAddress`] if any byte of the range is not mapped; then nothing is read.
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), BadAddress>;

    /// Writes bytes at `address`.
    ///
    /// # Errors
    /// [`BadAddress`] if any byte of the range is not mapped or it is read-only; then nothing is written.
    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), BadAddress>;

    /// Copies `length` bytes from `source` at `from` to `address`: the one copy a frame makes.
    ///
    /// # Errors
    /// [`CopyFault`] names the side whose range is not mapped; then nothing is copied.
    fn copy_from(&self, address: u64, source: &Self, from: u64, length: usize) -> Result<(), CopyFault>;

    /// Loads an aligned little-endian 32-bit word (acquire).
    ///
    /// # Errors
    /// [`BadAddress`] if it is not mapped or not aligned.
    fn load_u32(&self, address: u64) -> Result<u32, BadAddress>;

    /// Stores an aligned little-endian 32-bit word after all earlier writes (release).
    ///
    /// # Errors
    /// [`BadAddress`] if it is not mapped or not aligned.
    fn store_u32(&self, address: u64, value: u32) -> Result<(), BadAddress>;
}

/// Which side of a copy was not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyFault {
    Source(BadAddress),
    Target(BadAddress),
}

/// Plain memory for tests and simulations: a shared byte vector that starts at address 0.
#[derive(Clone, Debug, Default)]
pub struct TestMemory(std::rc::Rc<std::cell::RefCell<Vec<u8>>>);

impl TestMemory {
    /// Memory of `length` zero bytes. Clones share the bytes.
    pub fn new(length: usize) -> Self {
        TestMemory(std::rc::Rc::new(std::cell::RefCell::new(vec![0; length])))
    }

    /// A copy of the bytes at `address`.
    ///
    /// # Panics
    /// If the range is not mapped: a mistake of the test.
    pub fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.read(address, &mut bytes).expect("test reads mapped memory");
        bytes
    }
}

fn range(address: u64, length: usize, limit: usize) -> Result<core::ops::Range<usize>, BadAddress> {
    let start = usize::try_from(address).map_err(|_| BadAddress(address))?;
    let end = start
        .checked_add(length)
        .filter(|&end| end <= limit)
        .ok_or(BadAddress(address))?;
    Ok(start..end)
}

impl Memory for TestMemory {
    fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), BadAddress> {
        let memory = self.0.borrow();
        let range = range(address, bytes.len(), memory.len())?;
        bytes.copy_from_slice(&memory[range]);
        Ok(())
    }

    fn write(&self, address: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        let mut memory = self.0.borrow_mut();
        let range = range(address, bytes.len(), memory.len())?;
        memory[range].copy_from_slice(bytes);
        Ok(())
    }

    fn copy_from(&self, address: u64, source: &Self, from: u64, length: usize) -> Result<(), CopyFault> {
        let mut bytes = vec![0; length];
        source.read(from, &mut bytes).map_err(CopyFault::Source)?;
        self.write(address, &bytes).map_err(CopyFault::Target)
    }

    fn load_u32(&self, address: u64) -> Result<u32, BadAddress> {
        let mut bytes = [0; 4];
        if address % 4 != 0 {
            return Err(BadAddress(address));
        }
        self.read(address, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn store_u32(&self, address: u64, value: u32) -> Result<(), BadAddress> {
        if address % 4 != 0 {
            return Err(BadAddress(address));
        }
        self.write(address, &value.to_le_bytes())
    }
}
