// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What a carrier that keeps account of its trains has lost, sent again by whoever sent it.
//!
//! A cable's lane tells the fate of each train ([`tbip::ledger`](../../../net/proto/ledger.rs)), so nobody waits for a
//! timer, and only what is lost is sent again: requests by the requester, READ responses and acknowledgements by the
//! responder, which knows it first. The peer keeps what came ahead ([`crate::arrivals`]) until then.
//!
//! ```text
//!   post, with Sent::token --> lane:  carried                 nothing to do
//!                                     lost --> handle_lost    the run is put up, and goes before anything new
//!   NAK sequence, or a gap of responses, meanwhile            the peer's view of the same loss: waits for the lane's
//!                                                             word as long as limits::LANE_WORD, then counts as before
//! ```
//!
//! That last rule is for what the lane has carried and the peer's queue pair could not take.

use crate::attrs::{QpKind, State};
use crate::counters::Counters;
use crate::limits;
use crate::opcode::{Class, Opcode, Place};
use crate::psn::{Psn, Qpn};
use crate::qp::{Qp, Storage};
use crate::resources::Kind;
use crate::time::Instant;
use crate::wire::{Reth, Syndrome};
use crate::wqe::{Room, Source, Transmit};

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
    fn push(&mut self, psn: Psn, packets: u32) -> bool {
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

    fn first(&self) -> Option<(Psn, u32)> {
        self.runs.iter().take(self.count).copied().next()
    }

    /// Of the first one `packets` are done.
    fn advance(&mut self, packets: u32) {
        if let Some((psn, left)) = self.runs.first_mut() {
            *psn = psn.plus(packets);
            *left = left.saturating_sub(packets);
            if *left == 0 {
                self.pop();
            }
        }
    }

    fn pop(&mut self) {
        self.runs.rotate_left(1);
        self.count = self.count.saturating_sub(1);
    }
}

impl<S: Storage> Qp<S> {
    /// Who carries this queue pair's runs has lost `sent`. Poll transmits then. What was asked for or sent again since
    /// is left out. Costs no retry: where everything is lost the local ACK timeout decides.
    pub fn handle_lost(&mut self, sent: &Sent) {
        if self.config.kind != QpKind::Rc {
            return;
        }
        match sent.what {
            What::Request if matches!(self.attrs.state, State::Rts | State::Sqd) => {
                Counters::bump(&mut self.counters.lost_requests);
                if self.is_out(sent.psn, sent.packets) && !self.requester.holes.push(sent.psn, sent.packets) {
                    self.rewind();
                }
            }
            What::Request => {}
            What::Response => {
                Counters::bump(&mut self.counters.lost_responses);
                // Without a place for it the peer asks again.
                self.responder.holes.push(sent.psn, sent.packets);
            }
            What::Answer => {
                Counters::bump(&mut self.counters.lost_responses);
                self.answer_lost(sent.psn);
            }
        }
    }

    /// Whether one of these PSNs is out and not acknowledged.
    fn is_out(&self, psn: Psn, packets: u32) -> bool {
        let requester = &self.requester;
        psn.plus(packets).offset(requester.una) > 0 && psn.offset(requester.nxt) < 0
    }

    /// The next of the requests that are lost.
    pub(crate) fn lost_request(&mut self, now: Instant, room: Room) -> Option<Transmit> {
        while let Some((psn, packets)) = self.requester.holes.first() {
            let behind = self.requester.una.offset(psn).max(0).unsigned_abs();
            if behind != 0 && behind < packets {
                self.requester.holes.advance(behind);
                continue;
            }
            let slot = self.message_of(psn).filter(|_| self.is_out(psn, packets));
            let Some((slot, from)) = slot.filter(|(slot, _)| slot.wqe.fault.is_none()) else {
                self.requester.holes.pop();
                continue;
            };
            Counters::bump(&mut self.counters.sent_again);
            if slot.is_answered() {
                self.requester.holes.pop();
                self.on_sent_again(now);
                return Some(self.answered_request(&slot, from));
            }
            let packets = room
                .packets_of(self.attrs.path_mtu)
                .min(packets)
                .min(slot.end().distance(psn));
            self.requester.holes.advance(packets);
            self.on_sent_again(now);
            return Some(self.data_request(&slot, psn, packets, true));
        }
        None
    }

    /// The next READ response, or the like, that is lost.
    pub(crate) fn lost_response(&mut self, room: Room) -> Option<Transmit> {
        while let Some((psn, packets)) = self.responder.holes.first() {
            let mtu = self.attrs.path_mtu;
            let reads = &self.responder.reads;
            let slots = self.storage.reads();
            // The newest are lost most; the ring holds at most `MAX_RD_ATOMIC`.
            let slot = (0..reads.len()).rev().find_map(|index| {
                let slot = reads.at(slots, index)?;
                (psn.distance(slot.first) < slot.packets).then_some(slot)
            });
            // What is still to be sent, perhaps again, comes in its turn.
            let due = slot.filter(|slot| slot.left == 0 || psn.offset(slot.next) < 0);
            let Some(slot) = due.copied() else {
                self.responder.holes.pop();
                continue;
            };
            let skipped = psn.distance(slot.first);
            let packets = room
                .packets_of(mtu)
                .min(packets)
                .min(slot.packets.saturating_sub(skipped));
            let offset = skipped.wrapping_shl(mtu.shift());
            let len = slot.reth.length.saturating_sub(offset).min(mtu.bytes_of(packets));
            let ends = skipped.wrapping_add(packets) == slot.packets;
            let opcode = match slot.kind {
                Kind::Atomic(_) => Opcode::AtomicResponse,
                Kind::Read | Kind::Empty => Opcode::ReadResponse {
                    place: Place::of(skipped == 0, ends),
                },
            };
            let pad = (len.wrapping_neg() & 3) as u8;
            let mut header = self.response_header(opcode, psn, pad, Syndrome::ACK);
            if let Kind::Atomic(original) = slot.kind {
                header.push(&original.to_be_bytes());
            }
            let Reth { va, rkey, .. } = slot.reth;
            let va = va.wrapping_add(u64::from(offset));
            let payload = match len {
                0 => Source::None,
                _ => Source::Region { rkey, va, len },
            };
            Counters::bump(&mut self.counters.sent_again);
            self.responder.holes.advance(packets);
            return Some(Transmit {
                header,
                payload,
                pad,
                psn,
                packets,
                route: None,
            });
        }
        None
    }

    /// A response that was to be sent again has not left.
    pub(crate) fn take_back_lost(&mut self, transmit: &Transmit) {
        self.responder.holes.push(transmit.psn, transmit.packets);
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
