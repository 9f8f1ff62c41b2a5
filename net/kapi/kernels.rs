// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What differs in Rust between the kernels that the module is built for: the one place for it, as `net/sys/compat.h`
//! is for C. Written so that no kernel has to be told from another.

use core::borrow::Borrow;
use kernel::{error::Error, uapi};

/// `EOPNOTSUPP`, which `kernel::error::code` has from 7.3 on.
pub fn not_supported() -> Error {
    Error::from_errno(-(uapi::EOPNOTSUPP as i32))
}

/// `ENETDOWN`, likewise.
pub fn net_down() -> Error {
    Error::from_errno(-(uapi::ENETDOWN as i32))
}

/// A module parameter's value: `value()` gives it from 7.3 on, and a reference to it before.
pub fn plain(value: impl Borrow<u8>) -> u8 {
    *value.borrow()
}

/// A limit of an RDMA device, in its field of `ib_device_attr`: u32 from 7.3 on, int before, which ends at its own
/// maximum.
pub trait Limit {
    /// `value`, or the greatest that the field has.
    fn limit(value: u32) -> Self;
}

impl Limit for u32 {
    fn limit(value: u32) -> Self {
        value
    }
}

impl Limit for i32 {
    fn limit(value: u32) -> Self {
        Self::try_from(value).unwrap_or(Self::MAX)
    }
}

/// `value` as the field has it.
pub fn limit<T: Limit>(value: u32) -> T {
    T::limit(value)
}
