// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The clock and timers: those of `tbnet`.

pub(crate) use tbnet::kapi::timer::*;
