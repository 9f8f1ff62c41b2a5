// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Packet sequence numbers and queue pair numbers: the 24-bit counters of the transport.
//!
//! All arithmetic on PSNs is here: it is modulo 2^24 (IBTA 9.7.2). Two PSNs are compared either by
//! their signed distance (half window each way) or by their unsigned distance from a base.

/// Mask of a 24-bit wire counter.
const MASK: u32 = 0x00ff_ffff;

/// A 24-bit packet sequence number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Psn(u32);

impl Psn {
    /// Half of the sequence space: the most PSNs that may be outstanding at once.
    pub const HALF: u32 = 1 << 23;

    /// The PSN with the low 24 bits of `value`.
    #[must_use]
    pub const fn new(value: u32) -> Self {
        Self(value & MASK)
    }

    /// The value, below 2^24.
    #[must_use]
    pub const fn value(self) -> u32 {
        self.0
    }

    /// The PSN `n` places later.
    #[must_use]
    pub const fn plus(self, n: u32) -> Self {
        Self::new(self.0.wrapping_add(n))
    }

    /// The next PSN.
    #[must_use]
    pub const fn next(self) -> Self {
        self.plus(1)
    }

    /// The previous PSN.
    #[must_use]
    pub const fn prev(self) -> Self {
        self.plus(MASK)
    }

    /// How many steps forward lead from `base` to this PSN (0..2^24).
    #[must_use]
    pub const fn distance(self, base: Self) -> u32 {
        self.0.wrapping_sub(base.0) & MASK
    }

    /// Signed distance from `base`: negative if this PSN lies in the half window before it.
    #[must_use]
    pub const fn offset(self, base: Self) -> i32 {
        // Shift the 24-bit difference to the top so that its bit 23 becomes the sign.
        ((self.0.wrapping_sub(base.0) << 8) as i32) >> 8
    }

    /// Whether this PSN lies in the half window before `other`.
    #[must_use]
    pub const fn before(self, other: Self) -> bool {
        self.offset(other) < 0
    }
}

/// A 24-bit queue pair number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Qpn(u32);

impl Qpn {
    /// The general services interface of every port: IBTA 13.5.1.
    pub const GSI: Self = Self(1);

    /// The queue pair number with the low 24 bits of `value`.
    #[must_use]
    pub const fn new(value: u32) -> Self {
        Self(value & MASK)
    }

    /// The value, below 2^24.
    #[must_use]
    pub const fn value(self) -> u32 {
        self.0
    }
}

/// A 24-bit message sequence number, counted by the responder (IBTA 9.7.7.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Msn(u32);

impl Msn {
    /// The MSN with the low 24 bits of `value`.
    #[must_use]
    pub const fn new(value: u32) -> Self {
        Self(value & MASK)
    }

    /// The value, below 2^24.
    #[must_use]
    pub const fn value(self) -> u32 {
        self.0
    }

    /// The next MSN.
    #[must_use]
    pub const fn next(self) -> Self {
        Self::new(self.0.wrapping_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_sequence_wraps_at_24_bits() {
        assert_eq!(Psn::new(0xff_ffff).next(), Psn::new(0));
        assert_eq!(Psn::new(0).prev(), Psn::new(0xff_ffff));
        assert_eq!(Psn::new(0x0100_0005), Psn::new(5));
        assert_eq!(Msn::new(0xff_ffff).next().value(), 0);
    }

    #[test]
    fn the_half_window_decides_what_is_old() {
        let base = Psn::new(10);
        assert!(Psn::new(9).before(base));
        assert!(!base.before(base));
        assert!(Psn::new(0xff_ffff).before(base));
        assert_eq!(base.plus(Psn::HALF).offset(base), -(1 << 23));
        assert_eq!(base.plus(Psn::HALF - 1).offset(base), (1 << 23) - 1);
    }

    proptest! {
        #[test]
        fn adding_and_measuring_agree(a: u32, n in 0u32..(1 << 24)) {
            let base = Psn::new(a);
            prop_assert_eq!(base.plus(n).distance(base), n);
            prop_assert!(base.plus(n).value() < (1 << 24));
        }

        #[test]
        fn signed_distance_is_antisymmetric(a: u32, b: u32) {
            let (a, b) = (Psn::new(a), Psn::new(b));
            if a.distance(b) != Psn::HALF {
                prop_assert_eq!(a.offset(b), -b.offset(a));
            }
            prop_assert_eq!(b.plus(a.offset(b) as u32), a);
        }
    }
}
