// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A small fixed buffer for the transport headers of one packet.

/// Room for the longest header chain: BTH 12 + AtomicETH 28, rounded up.
const CAPACITY: usize = 48;

/// Transport header bytes, BTH first.
#[derive(Clone, Copy, Debug)]
pub struct HeaderBuf {
    bytes: [u8; CAPACITY],
    len: u8,
}

impl HeaderBuf {
    /// An empty buffer.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: [0; CAPACITY],
            len: 0,
        }
    }

    /// The bytes written so far.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }

    /// Append `part`. The header chains of this crate always fit; more is cut off.
    #[inline]
    pub(crate) fn push(&mut self, part: &[u8]) {
        let start = usize::from(self.len);
        let room = self.bytes.get_mut(start..).and_then(|rest| rest.get_mut(..part.len()));
        if let Some(room) = room {
            room.copy_from_slice(part);
            self.len = start.wrapping_add(part.len()) as u8;
        }
    }
}

impl Default for HeaderBuf {
    fn default() -> Self {
        Self::new()
    }
}

impl AsRef<[u8]> for HeaderBuf {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_appended_and_never_overflow() {
        let mut buf = HeaderBuf::new();
        buf.push(&[1, 2]);
        buf.push(&[3]);
        assert_eq!(buf.as_bytes(), [1, 2, 3]);
        buf.push(&[0; 46]);
        assert_eq!(buf.as_bytes().len(), 3);
        buf.push(&[9; 45]);
        assert_eq!(buf.as_ref().len(), 48);
    }
}
