// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What a carrier that keeps account of its trains has lost, sent again by whoever sent it.
//!
//! A cable's lane tells the fate of each train (`tbip::ledger`), so nobody waits for a timer, and only what is lost is
//! sent again: requests by the requester, READ responses and acknowledgements by the responder, which knows it first.
//! The peer keeps what came ahead ([`crate::arrivals`]) until then.
//!
//! ```text
//!   post, with Sent::token --> lane:  carried                 nothing to do
//!                                     lost --> handle_lost    the run is put up, and goes before anything new
//!   NAK sequence, or a gap of responses, meanwhile            the peer's view of the same loss: waits for the lane's
//!                                                             word as long as limits::LANE_WORD, then counts as before
//! ```
//!
//! That last rule is for what the lane has carried and the peer's queue pair could not take. Here is what is known of
//! it; what a queue pair does about it is in `resend.rs`.

use crate::limits;
use crate::opcode::{Class, Opcode};
use crate::psn::{Psn, Qpn};
use crate::wqe::Transmit;

/// Which half of a queue pair sent something, and has to send it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// The requester: a request.
    Request,
    /// The responder: READ responses and the like.
    Response,
    /// The responder: an ACK or NAK.
    Answer,
}

/// A transmit, as who carries it knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sent {
    /// Whose it is.
    pub from: Qpn,
    /// Which half's.
    pub what: What,
    /// The first PSN.
    pub psn: Psn,
    /// PSNs that it takes, at most [`limits::MAX_RUN`].
    pub packets: u32,
}

impl Sent {
    /// `transmit` of the queue pair `from`. `None` for what is never sent again: of an unreliable service.
    #[must_use]
    pub fn new(from: Qpn, transmit: &Transmit) -> Option<Self> {
        let what = match transmit.opcode()? {
            (Class::Rc, Opcode::Acknowledge) => What::Answer,
            (Class::Rc, opcode) if opcode.is_response() => What::Response,
            (Class::Rc, _) => What::Request,
            _ => return None,
        };
        Some(Self {
            from,
            what,
            psn: transmit.psn,
            packets: transmit.packets,
        })
    }

    /// As a number: QPN in bits 0 to 23, PSN in bits 24 to 47, packets less one in bits 48 to 55, half in bits 56 and
    /// 57.
    #[must_use]
    pub fn token(self) -> u64 {
        let what = match self.what {
            What::Request => 0,
            What::Response => 1,
            What::Answer => 2,
        };
        let packets = u64::from(self.packets.wrapping_sub(1) & 0xff);
        u64::from(self.from.value()) | u64::from(self.psn.value()) << 24 | packets << 48 | what << 56
    }

    /// The transmit with this number.
    #[must_use]
    pub const fn of_token(token: u64) -> Self {
        Self {
            from: Qpn::new(token as u32),
            what: match token >> 56 & 3 {
                0 => What::Request,
                1 => What::Response,
                _ => What::Answer,
            },
            psn: Psn::new((token >> 24) as u32),
            packets: ((token >> 48 & 0xff) as u32).wrapping_add(1),
        }
    }
}

/// Runs that are lost and not sent again yet, in the order in which they were sent first.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Holes {
    runs: [(Psn, u32); limits::MAX_HOLES],
    count: usize,
}

impl Holes {
    /// Forget them.
    pub(crate) fn clear(&mut self) {
        self.count = 0;
    }

    /// Another one. False if there is no place.
    pub(crate) fn push(&mut self, psn: Psn, packets: u32) -> bool {
        let known = self.runs.iter().take(self.count).any(|run| *run == (psn, packets));
        match self.runs.get_mut(self.count) {
            _ if known => true,
            Some(place) => {
                *place = (psn, packets);
                self.count = self.count.wrapping_add(1);
                true
            }
            None => false,
        }
    }

    /// The first one.
    pub(crate) fn first(&self) -> Option<(Psn, u32)> {
        self.runs.iter().take(self.count).copied().next()
    }

    /// Of the first one `packets` are done.
    pub(crate) fn advance(&mut self, packets: u32) {
        if let Some((psn, left)) = self.runs.first_mut() {
            *psn = psn.plus(packets);
            *left = left.saturating_sub(packets);
            if *left == 0 {
                self.pop();
            }
        }
    }

    /// The first one is done.
    pub(crate) fn pop(&mut self) {
        self.runs.rotate_left(1);
        self.count = self.count.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_the_transmit() {
        for what in [What::Request, What::Response, What::Answer] {
            for (qpn, psn, packets) in [(0, 0, 1), (0xff_ffff, 0xff_ffff, limits::MAX_RUN), (0x80_0001, 7, 16)] {
                let sent = Sent {
                    from: Qpn::new(qpn),
                    what,
                    psn: Psn::new(psn),
                    packets,
                };
                assert_eq!(Sent::of_token(sent.token()), sent);
            }
        }
    }

    #[test]
    fn holes_are_kept_once_and_in_order() {
        let mut holes = Holes::default();
        for n in 0..limits::MAX_HOLES as u32 {
            assert!(holes.push(Psn::new(n), 4) && holes.push(Psn::new(n), 4));
        }
        assert!(!holes.push(Psn::new(99), 1));
        holes.advance(3);
        assert_eq!(holes.first(), Some((Psn::new(3), 1)));
        holes.advance(1);
        assert_eq!(holes.first(), Some((Psn::new(1), 4)));
        assert!(holes.push(Psn::new(99), 1));
        holes.clear();
        assert_eq!(holes.first(), None);
    }
}
