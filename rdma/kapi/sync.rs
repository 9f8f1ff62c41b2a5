// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Spin locks, and the wait for packet paths: those of `tbnet`.

pub(crate) use tbnet::kapi::sync::*;
