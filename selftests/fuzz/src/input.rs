// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Decisions out of bytes. Past the end everything is zero.

/// The bytes that are left.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of `data`.
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `len` bytes, or what there is.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let taken = self.take(N);
        out[..taken.len()].copy_from_slice(taken);
        out
    }

    /// The next byte.
    pub fn u8(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// One of `list`, by a byte.
    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[usize::from(self.u8()) % list.len()]
    }

    /// A number that is often near a border and sometimes any.
    pub fn length(&mut self) -> u32 {
        const OFTEN: [u32; 16] = [
            0,
            1,
            7,
            8,
            9,
            255,
            256,
            257,
            1024,
            3072,
            4095,
            4096,
            4097,
            0x8000,
            1 << 31,
            (1 << 31) + 1,
        ];
        let code = self.u8();
        match code {
            0..=127 => u32::from(code) * 8,
            128..=223 => OFTEN[usize::from(code) % OFTEN.len()],
            224..=247 => u32::from(self.u16()),
            _ => self.u32(),
        }
    }
}
