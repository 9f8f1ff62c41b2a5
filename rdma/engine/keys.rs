// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Memory keys and the one rule that admits an access to a registered region.
//!
//! The kernel's host and the simulation's host both decide with [`check`], so what is tested is
//! what runs. C header: `rdma/ib_verbs.h` (access bits).

use crate::fault::Fault;

/// A local or remote memory key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Key(pub u32);

/// A protection domain: a number that no other ever has, and that is no address, length or life beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pd(pub u64);

/// Access rights, or the rights an operation needs: a set of bits with the values of
/// `enum ib_access_flags`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Access(pub u32);

impl Access {
    /// No right; what a local read needs.
    pub const NONE: Self = Self(0);
    /// The owner may have results and receives written here.
    pub const LOCAL_WRITE: Self = Self(1);
    /// The peer may WRITE.
    pub const REMOTE_WRITE: Self = Self(2);
    /// The peer may READ.
    pub const REMOTE_READ: Self = Self(4);
    /// The peer may run atomics.
    pub const REMOTE_ATOMIC: Self = Self(8);
    /// The peer may FLUSH for global visibility.
    pub const FLUSH_GLOBAL: Self = Self(0x100);
    /// The peer may FLUSH for persistence.
    pub const FLUSH_PERSISTENT: Self = Self(0x200);

    /// Whether every right of `needed` is in this set.
    #[must_use]
    pub const fn allows(self, needed: Self) -> bool {
        self.0 & needed.0 == needed.0
    }

    /// The union of two sets.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether this asks for a right of the peer, so that a refusal is the peer's fault.
    #[must_use]
    pub const fn is_remote(self) -> bool {
        const REMOTE: u32 = Access::REMOTE_WRITE.0
            | Access::REMOTE_READ.0
            | Access::REMOTE_ATOMIC.0
            | Access::FLUSH_GLOBAL.0
            | Access::FLUSH_PERSISTENT.0;
        self.0 & REMOTE != 0
    }
}

/// What the rule needs to know about a region.
#[derive(Clone, Copy, Debug)]
pub struct RegionView {
    /// The full key the region answers to (lkey or rkey, whichever was presented).
    pub key: Key,
    /// Protection domain, as the caller numbers them.
    pub pd: Pd,
    /// First address of the region in the address space the key names.
    pub base: u64,
    /// Length in bytes.
    pub length: u64,
    /// Rights granted at registration.
    pub access: Access,
    /// False once invalidated or being deregistered.
    pub valid: bool,
}

/// Decide an access of `length` bytes at `va` through `key` by a queue pair of domain `pd`;
/// the result is the offset into the region.
///
/// # Errors
///
/// [`Fault::RemoteAccess`] if a remote right was asked for, else [`Fault::LocalProtection`]: key or
/// domain differ, a right is missing, or the range leaves the region.
pub const fn check(region: &RegionView, key: Key, pd: Pd, va: u64, length: u32, needed: Access) -> Result<u64, Fault> {
    let refused = Err(if needed.is_remote() {
        Fault::RemoteAccess
    } else {
        Fault::LocalProtection
    });
    if !region.valid || region.key.0 != key.0 || region.pd.0 != pd.0 || !region.access.allows(needed) {
        return refused;
    }
    let Some(offset) = va.checked_sub(region.base) else {
        return refused;
    };
    let Some(end) = offset.checked_add(length as u64) else {
        return refused;
    };
    if end > region.length {
        return refused;
    }
    Ok(offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REGION: RegionView = RegionView {
        key: Key(0x1234),
        pd: Pd(7),
        base: 0x1000,
        length: 0x100,
        access: Access::LOCAL_WRITE.with(Access::REMOTE_READ),
        valid: true,
    };

    #[test]
    fn the_whole_region_is_reachable_and_not_a_byte_more() {
        let read = |va, len| check(&REGION, Key(0x1234), Pd(7), va, len, Access::REMOTE_READ);
        assert_eq!(read(0x1000, 0x100), Ok(0));
        assert_eq!(read(0x10ff, 1), Ok(0xff));
        assert_eq!(read(0x1100, 0), Ok(0x100));
        assert_eq!(read(0x1000, 0x101), Err(Fault::RemoteAccess));
        assert_eq!(read(0xfff, 1), Err(Fault::RemoteAccess));
        assert_eq!(read(u64::MAX, u32::MAX), Err(Fault::RemoteAccess));
    }

    #[test]
    fn a_refusal_is_local_or_remote_by_what_was_asked() {
        let by = |pd, key, needed| check(&REGION, key, Pd(pd), 0x1000, 1, needed);
        assert_eq!(by(8, Key(0x1234), Access::REMOTE_READ), Err(Fault::RemoteAccess));
        assert_eq!(by(7, Key(0x1235), Access::LOCAL_WRITE), Err(Fault::LocalProtection));
        assert_eq!(by(7, Key(0x1234), Access::REMOTE_WRITE), Err(Fault::RemoteAccess));
        assert_eq!(by(7, Key(0x1234), Access::LOCAL_WRITE), Ok(0));
        let dead = RegionView { valid: false, ..REGION };
        assert!(check(&dead, Key(0x1234), Pd(7), 0x1000, 1, Access::NONE).is_err());
    }

    proptest! {
        #[test]
        fn an_admitted_range_lies_inside(base: u64, length: u64, va: u64, len: u32) {
            let region = RegionView { base, length, ..REGION };
            if let Ok(offset) = check(&region, Key(0x1234), Pd(7), va, len, Access::NONE) {
                prop_assert!(u128::from(offset) + u128::from(len) <= u128::from(length));
                prop_assert_eq!(base.wrapping_add(offset), va);
            }
        }
    }
}
