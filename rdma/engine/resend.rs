// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A queue pair sends again what a lane has lost, of either of its halves ([`crate::lost`]).

use crate::attrs::{QpKind, State};
use crate::counters::Counters;
use crate::lost::{Sent, What};
use crate::opcode::Place;
use crate::psn::Psn;
use crate::qp::{Qp, Storage};
use crate::time::Instant;
use crate::wire::Reth;
use crate::wqe::{Room, Transmit};

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
            let part = Reth {
                va: slot.reth.va.wrapping_add(u64::from(offset)),
                length: len,
                ..slot.reth
            };
            Counters::bump(&mut self.counters.sent_again);
            self.responder.holes.advance(packets);
            return Some(self.response(slot.kind, (psn, packets), Place::of(skipped == 0, ends), part));
        }
        None
    }

    /// A response that was to be sent again has not left.
    pub(crate) fn take_back_lost(&mut self, transmit: &Transmit) {
        self.responder.holes.push(transmit.psn, transmit.packets);
    }
}
