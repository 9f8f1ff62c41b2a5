// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Safe wrappers of the kernel interfaces that the cables need and `rust/kernel` does not have.

pub mod kernels;
pub(crate) mod napi;
pub mod ndo;
pub(crate) mod netdev;
pub(crate) mod outbox;
pub mod owner;
pub(crate) mod pages;
pub(crate) mod random;
pub(crate) mod ring;
pub(crate) mod service;
pub(crate) mod skb;
pub mod sync;
pub mod timer;
pub(crate) mod work;
pub(crate) mod xdomain;
