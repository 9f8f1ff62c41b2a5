// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The wire that a connected QP sends on.
//!
//! A QP asks two things of its wire: whether a packet came from its other end ([`Wire::brought`]), and to build and
//! send (`qp: fill`, `qp: send`), on UDP in packets or in runs (`roce::runs`). Datagrams have no wire of their own:
//! each brings a path and goes by UDP. Another wire is a file of its own beside `wire/udp` and another variant here:
//! the compiler then asks for it in all places.

pub(crate) mod udp;

use crate::payload::Payload;
use roce::wire::udp::Path;

/// What a connected QP sends on, and where that leads.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wire {
    /// RoCEv2: UDP over IP, through the netdev and its queue.
    Udp(Path),
}

impl Wire {
    /// Whether a packet came from the other end.
    pub(crate) fn brought(&self, payload: &Payload<'_>) -> bool {
        match self {
            Self::Udp(path) => payload.is_along(path),
        }
    }
}
