// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Fast registration: regions whose memory, bounds and rights come and go by requests of a send queue.
//! IBTA 10.6.3.4 and 11.4.1.
//!
//! ```text
//!         REGISTER (new low 8 bits of the key)
//!   free ------------------------------------> valid
//!    ^                                           |
//!    +-------------------------------------------+
//!      LOCAL INVALIDATE, or the peer's SEND with invalidate
//! ```
//!
//! [`FastRegion`] says what a key admits, [`Pages`] where its bytes are. The memory itself is the host's.

use crate::fault::Fault;
use crate::keys::{self, Access, Key, Pd, RegionView};

/// The bits of a key that belong to its owner; the rest says which region is meant.
const OWNED: u32 = 0xff;

/// What a registration asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The key from now on: the region's, with low 8 bits that are the owner's choice.
    pub key: Key,
    /// First address, as the peer knows it.
    pub base: u64,
    /// Length in bytes.
    pub length: u64,
    /// Rights.
    pub access: Access,
}

/// A region for fast registration.
#[derive(Clone, Copy, Debug)]
pub struct FastRegion {
    view: RegionView,
}

impl FastRegion {
    /// A free region of domain `pd` that will answer to `key`.
    #[must_use]
    pub const fn new(key: Key, pd: Pd) -> Self {
        Self {
            view: RegionView {
                key,
                pd,
                base: 0,
                length: 0,
                access: Access::NONE,
                valid: false,
            },
        }
    }

    /// The key it answers to, or answered to last.
    #[must_use]
    pub const fn key(&self) -> Key {
        self.view.key
    }

    /// The first address that the key admits, or admitted last.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.view.base
    }

    /// Carry a REGISTER of a queue pair of domain `pd` out; `room` is how many bytes its pages hold from the first
    /// one named on.
    ///
    /// # Errors
    ///
    /// [`Fault::Bind`] (memory management operation error), and nothing has changed: the region is not free, the key
    /// is another region's, the domain differs, or the range does not fit.
    pub const fn register(&mut self, wanted: &Registration, pd: Pd, room: u64) -> Result<(), Fault> {
        let ours = self.view.key.0 & !OWNED == wanted.key.0 & !OWNED && self.view.pd.0 == pd.0;
        if self.view.valid || !ours || wanted.length > room || wanted.base.checked_add(wanted.length).is_none() {
            return Err(Fault::Bind);
        }
        self.view = RegionView {
            key: wanted.key,
            pd,
            base: wanted.base,
            length: wanted.length,
            access: wanted.access,
            valid: true,
        };
        Ok(())
    }

    /// Take the key back, as the owner or the peer asks. That it is free already is fine: both may ask at once.
    ///
    /// # Errors
    ///
    /// [`Fault::RemoteInvalid`]: another key, or another domain.
    pub fn invalidate(&mut self, key: Key, pd: Pd) -> Result<(), Fault> {
        if self.view.key != key || self.view.pd != pd {
            return Err(Fault::RemoteInvalid);
        }
        self.view.valid = false;
        Ok(())
    }

    /// Decide an access, as [`keys::check`].
    ///
    /// # Errors
    ///
    /// As [`keys::check`].
    pub const fn check(&self, key: Key, pd: Pd, va: u64, length: u32, needed: Access) -> Result<u64, Fault> {
        keys::check(&self.view, key, pd, va, length, needed)
    }
}

/// How a range lies in a list of pages of one size: it begins somewhere in the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// Binary logarithm of the page size.
    shift: u32,
    /// Where the range begins in the first page.
    first: u64,
}

impl Pages {
    /// Pages of `size` bytes under a range that begins at address `base`; its low bits are the offset in the first
    /// page. `None` if the size is not a power of two.
    #[must_use]
    pub const fn new(size: u32, base: u64) -> Option<Self> {
        if !size.is_power_of_two() {
            return None;
        }
        Some(Self {
            shift: size.trailing_zeros(),
            first: base & (size as u64).wrapping_sub(1),
        })
    }

    /// Bytes from the range's beginning to the end of the last of `count` pages.
    #[must_use]
    pub const fn room(&self, count: usize) -> u64 {
        let Some(bytes) = (count as u64).checked_mul(self.size()) else {
            return u64::MAX;
        };
        bytes.saturating_sub(self.first)
    }

    /// The piece of `at..at + len` that lies in one page: the page's index, the offset in it, and the piece's length.
    #[must_use]
    pub fn piece(&self, at: u64, len: usize) -> (usize, usize, usize) {
        let position = at.wrapping_add(self.first);
        let offset = position & self.size().wrapping_sub(1);
        let left = self.size().wrapping_sub(offset);
        let len = usize::try_from(left).map_or(len, |left| len.min(left));
        // Both fit: an index beyond what there can be finds no page, and the offset is below the page size.
        let index = usize::try_from(position.wrapping_shr(self.shift)).unwrap_or(usize::MAX);
        (index, usize::try_from(offset).unwrap_or(0), len)
    }

    const fn size(&self) -> u64 {
        1u64.wrapping_shl(self.shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PD: Pd = Pd(3);
    const OTHER: Pd = Pd(PD.0 + 1);
    const KEY: Key = Key(0x0012_3400);
    const WANTED: Registration = Registration {
        key: Key(0x0012_3401),
        base: 0x1234,
        length: 0x2000,
        access: Access::REMOTE_READ,
    };

    fn valid() -> FastRegion {
        let mut region = FastRegion::new(KEY, PD);
        region.register(&WANTED, PD, 0x2dcc).unwrap();
        region
    }

    #[test]
    fn nothing_is_admitted_before_a_registration_and_after_an_invalidation() {
        let read = |region: &FastRegion, key| region.check(key, PD, 0x1234, 1, Access::REMOTE_READ);
        let free = FastRegion::new(KEY, PD);
        assert!(read(&free, KEY).is_err());
        let mut region = valid();
        assert_eq!(read(&region, WANTED.key), Ok(0));
        assert!(read(&region, KEY).is_err(), "the key of before");
        assert_eq!(region.invalidate(WANTED.key, PD), Ok(()));
        assert!(read(&region, WANTED.key).is_err());
        assert_eq!(region.invalidate(WANTED.key, PD), Ok(()), "again");
    }

    #[test]
    fn a_registration_gives_what_it_says_and_no_more() {
        let region = valid();
        let ask = |va, len, access| region.check(WANTED.key, PD, va, len, access);
        assert_eq!(ask(0x1234, 0x2000, Access::REMOTE_READ), Ok(0));
        assert!(ask(0x1234, 0x2001, Access::REMOTE_READ).is_err());
        assert!(ask(0x1233, 1, Access::REMOTE_READ).is_err());
        assert!(ask(0x1234, 1, Access::REMOTE_WRITE).is_err());
        assert!(region.check(WANTED.key, OTHER, 0x1234, 1, Access::REMOTE_READ).is_err());
    }

    #[test]
    fn a_registration_that_makes_no_sense_changes_nothing() {
        let mut region = valid();
        assert_eq!(region.register(&WANTED, PD, u64::MAX), Err(Fault::Bind), "not free");
        region.invalidate(WANTED.key, PD).unwrap();
        let mut refused = |wanted: Registration, pd, room| {
            assert_eq!(region.register(&wanted, pd, room), Err(Fault::Bind));
            assert_eq!(region.key(), WANTED.key);
        };
        refused(WANTED, OTHER, u64::MAX);
        refused(WANTED, PD, 0x1fff);
        refused(
            Registration {
                key: Key(0x0012_3501),
                ..WANTED
            },
            PD,
            u64::MAX,
        );
        refused(
            Registration {
                base: u64::MAX,
                ..WANTED
            },
            PD,
            u64::MAX,
        );
        assert_eq!(region.invalidate(KEY, PD), Err(Fault::RemoteInvalid));
        assert_eq!(region.invalidate(WANTED.key, OTHER), Err(Fault::RemoteInvalid));
    }

    #[test]
    fn a_page_size_is_a_power_of_two() {
        assert_eq!(Pages::new(0, 0), None);
        assert_eq!(Pages::new(4097, 0), None);
        assert!(Pages::new(1 << 31, u64::MAX).is_some());
    }

    proptest! {
        /// Against the obvious way: a list of the bytes' addresses.
        #[test]
        fn pieces_cover_a_range_in_order(shift in 0u32..14, base: u64, at in 0u64..40_000, len in 0usize..40_000) {
            let pages = Pages::new(1 << shift, base).unwrap();
            let first = base % (1 << shift);
            let (mut done, mut steps) = (0, 0);
            while done < len {
                let (index, offset, piece) = pages.piece(at + done as u64, len - done);
                let position = first + at + done as u64;
                prop_assert_eq!((index as u64) * (1 << shift) + offset as u64, position);
                prop_assert!(piece > 0 && offset + piece <= 1 << shift);
                done += piece;
                steps += 1;
                if steps > 64 { break; }
            }
            prop_assert!(done <= len);
        }

        #[test]
        fn what_fits_has_a_page(shift in 0u32..14, base: u64, count in 1usize..20) {
            let pages = Pages::new(1 << shift, base).unwrap();
            let room = pages.room(count);
            prop_assert!(room > 0);
            prop_assert_eq!(pages.piece(room - 1, 1).0, count - 1);
            prop_assert_eq!(pages.piece(room, 1).0, count);
        }
    }
}
