// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The PCI function of an NHI: configuration space, BAR sizing and MSI-X.
//!
//! BAR 0 is the NHI's registers, BAR 2 the MSI-X table (offset 0) and pending bits (0x800).

use crate::profile::NhiProfile;
use crate::regs::{BAR0_LEN, VECTORS};

/// Bytes of configuration space; what is beyond the first 256 reads as 0.
pub const CONFIG_LEN: usize = 4096;
/// Size of BAR 2.
pub const BAR2_LEN: u64 = 0x1000;
/// Offset of the MSI-X capability.
pub const MSIX: usize = 0xa0;

const PM: usize = 0x40;
const EXPRESS: usize = 0x50;
const PENDING: u64 = 0x800;
const MSIX_ENABLE: u8 = 0x80;
const MSIX_MASK_ALL: u8 = 0x40;
const ENTRY_MASKED: u32 = 1;

/// A PCI function with its write masks.
#[derive(Clone, Debug)]
pub struct Function {
    config: [u8; 256],
    writable: [u8; 256],
    entries: [[u32; 4]; VECTORS],
    pending: u32,
}

/// A message-signalled interrupt as the guest programmed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    pub address: u64,
    pub data: u32,
}

impl Function {
    pub fn new(profile: &NhiProfile) -> Self {
        let mut function = Function {
            config: [0; 256],
            writable: [0; 256],
            // Vectors are masked after reset.
            entries: [[0, 0, 0, ENTRY_MASKED]; VECTORS],
            pending: 0,
        };
        let id = [profile.vendor.to_le_bytes(), profile.device.to_le_bytes()].concat();
        function.put(0x00, &id);
        // Command and cache line size are storage; capabilities list; revision 1, class USB4 host interface.
        function.put(0x06, &[0x10, 0x00, 0x01, 0x40, 0x03, 0x0c]);
        function.put(0x2c, &id);
        function.put(0x34, &[PM as u8]);
        // 64-bit memory BARs 0 and 2.
        function.put(0x10, &[0x04]);
        function.put(0x18, &[0x04]);
        function.put(PM, &[0x01, EXPRESS as u8, 0x03, 0x00]);
        // PCI Express version 2, root complex integrated endpoint.
        function.put(EXPRESS, &[0x10, MSIX as u8, 0x92, 0x00, 0x01, 0x80, 0x00, 0x00]);
        let last = (profile.vectors - 1) as u8;
        function.put(
            MSIX,
            &[0x11, 0x00, last, 0x00, 2, 0, 0, 0, 2, (PENDING >> 8) as u8, 0, 0],
        );
        for offset in [0x04, 0x05, 0x0c, 0x0d, 0x3c, PM + 4, PM + 5, EXPRESS + 8, EXPRESS + 9] {
            function.writable[offset] = 0xff;
        }
        // Power state D0 and D3hot only, PME status clears itself.
        function.writable[PM + 4] = 0x03;
        function.writable[PM + 5] = 0x01;
        function.writable[MSIX + 3] = MSIX_ENABLE | MSIX_MASK_ALL;
        for (bar, length) in [(0x10, BAR0_LEN), (0x18, BAR2_LEN)] {
            let mask = (!(length - 1)).to_le_bytes();
            function.writable[bar..bar + 8].copy_from_slice(&mask);
        }
        function
    }

    fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.config[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Reads configuration space.
    pub fn config_read(&self, offset: usize, bytes: &mut [u8]) {
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = offset
                .checked_add(index)
                .and_then(|at| self.config.get(at))
                .copied()
                .unwrap_or(0);
        }
    }

    /// Writes configuration space by its masks. Gives the vectors that this unmasked while they were pending.
    #[must_use]
    pub fn config_write(&mut self, offset: usize, bytes: &[u8]) -> Vec<usize> {
        for (index, &byte) in bytes.iter().enumerate() {
            let Some(at) = offset.checked_add(index).filter(|&at| at < self.config.len()) else {
                break;
            };
            let mask = self.writable[at];
            self.config[at] = self.config[at] & !mask | byte & mask;
        }
        self.take_unmasked()
    }

    /// Reads a word of BAR 2.
    pub fn bar2_read(&self, offset: u64) -> u32 {
        if offset == PENDING {
            return self.pending;
        }
        let (entry, word) = ((offset / 16) as usize, (offset % 16 / 4) as usize);
        self.entries.get(entry).map_or(0, |entry| entry[word])
    }

    /// Writes a word of BAR 2. Gives the vectors that this unmasked while they were pending.
    #[must_use]
    pub fn bar2_write(&mut self, offset: u64, value: u32) -> Vec<usize> {
        let (entry, word) = ((offset / 16) as usize, (offset % 16 / 4) as usize);
        if let Some(entry) = self.entries.get_mut(entry) {
            entry[word] = value;
        }
        self.take_unmasked()
    }

    fn is_masked(&self, vector: usize) -> bool {
        self.config[MSIX + 3] & MSIX_MASK_ALL != 0 || self.entries[vector][3] & ENTRY_MASKED != 0
    }

    fn take_unmasked(&mut self) -> Vec<usize> {
        if self.pending == 0 || self.config[MSIX + 3] & MSIX_ENABLE == 0 {
            return Vec::new();
        }
        let ready = |&vector: &usize| self.pending >> vector & 1 != 0 && !self.is_masked(vector);
        let vectors: Vec<usize> = (0..VECTORS).filter(ready).collect();
        for &vector in &vectors {
            self.pending &= !(1 << vector);
        }
        vectors
    }

    /// The message for a vector, if one may be sent now. A masked vector's pending bit is set instead.
    pub fn message(&mut self, vector: usize) -> Option<Message> {
        if vector >= VECTORS || self.config[MSIX + 3] & MSIX_ENABLE == 0 {
            return None;
        }
        if self.is_masked(vector) {
            self.pending |= 1 << vector;
            return None;
        }
        let [low, high, data, _] = self.entries[vector];
        Some(Message {
            address: u64::from(high) << 32 | u64::from(low),
            data,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Profile, Usb4Version};

    fn function() -> Function {
        Function::new(&Profile::Strix.nhi(0, Usb4Version::V2))
    }

    fn word(function: &Function, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        function.config_read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn bars_answer_sizing() {
        let mut function = function();
        assert!(function.config_write(0x10, &[0xff; 8]).is_empty());
        assert_eq!(word(&function, 0x10), !(BAR0_LEN as u32 - 1) | 4);
        assert_eq!(word(&function, 0x14), !0);
        assert!(function.config_write(0x18, &[0xff; 8]).is_empty());
        assert_eq!(word(&function, 0x18), !(BAR2_LEN as u32 - 1) | 4);
        assert_eq!(word(&function, 0x00), 0x158d_1022);
        assert_eq!(word(&function, 0x08), 0x0c03_4001);
        assert_eq!(word(&function, 0x1000), 0);
    }

    #[test]
    fn capabilities_are_a_chain_that_ends() {
        let function = function();
        let mut at = word(&function, 0x34) as usize & 0xff;
        let mut ids = Vec::new();
        while at != 0 {
            ids.push(word(&function, at) & 0xff);
            at = word(&function, at) as usize >> 8 & 0xff;
        }
        assert_eq!(ids, [0x01, 0x10, 0x11]);
    }

    #[test]
    fn a_masked_vector_is_sent_when_it_is_unmasked() {
        let mut function = function();
        assert_eq!(function.message(3), None);
        assert!(function.config_write(MSIX + 2, &[0, MSIX_ENABLE]).is_empty());
        assert!(function.bar2_write(0x30, 0xfee0_0000).is_empty());
        assert!(function.bar2_write(0x38, 77).is_empty());
        assert_eq!(function.message(3), None);
        assert_eq!(function.bar2_read(PENDING), 8);
        assert_eq!(function.bar2_write(0x3c, 0), [3]);
        assert_eq!(
            function.message(3),
            Some(Message {
                address: 0xfee0_0000,
                data: 77
            })
        );
        assert_eq!(function.bar2_read(PENDING), 0);
    }
}
