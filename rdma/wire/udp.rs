// SPDX-License-Identifier: GPL-2.0 OR MIT
//! RoCEv2 on UDP over IP: out by the queue of a netdev, in by its ingress hook.

mod flight;
mod recv;
pub(crate) mod run;
pub(crate) mod send;

pub(crate) use flight::Flight;
