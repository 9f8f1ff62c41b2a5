// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The rings of a lane, one to transmit and one to receive, and the wire that is spoken on them.

use crate::kapi::ring::Ring;
use kernel::sync::Arc;
use tbip::{rail::Plan, stock::Settings};

/// The rings of a lane. Who starts and stops them is the link; who posts is the netdev.
#[derive(Clone)]
pub(crate) struct Rings {
    /// Sends.
    pub(crate) tx: Arc<Ring>,
    /// Receives.
    pub(crate) rx: Arc<Ring>,
}

/// Who does what a poll cannot, as it sleeps: the link's worker.
pub(crate) trait Kick: Send + Sync {
    /// There is something to do. Any context.
    fn kick(&self);
}

/// What is spoken on a lane that is open.
#[derive(Clone, Copy)]
pub(crate) enum Wire {
    /// ThunderboltIP.
    Stock {
        /// What the peer offers.
        settings: Settings,
    },
    /// Ours.
    Native {
        /// What has been agreed.
        plan: Plan,
        /// Which of the cable's lanes it is.
        lane: u8,
        /// Trains go by two.
        has_two: bool,
    },
}
