// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Safe wrappers of the kernel interfaces that this module uses and `rust/kernel` does not have.

pub(crate) mod dmabuf;
pub(crate) mod global;
pub(crate) mod held;
pub(crate) mod hint;
pub(crate) mod ibdev;
pub(crate) mod kernel_memory;
pub(crate) mod netdev;
pub(crate) mod paged;
mod place;
pub(crate) mod pure;
pub(crate) mod queue;
pub(crate) mod revoke;
pub(crate) mod route;
pub(crate) mod share;
pub(crate) mod sync;
pub(crate) mod tasklet;
pub(crate) mod timer;
pub(crate) mod trace;
pub(crate) mod umem;
pub(crate) mod uverbs;
