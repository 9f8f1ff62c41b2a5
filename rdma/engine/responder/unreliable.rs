// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The responder of an unreliable connection: no answers, no repetition. IBTA 9.8.2.
//!
//! A message of which a packet is missing is dropped whole; its receive serves the next message.

use super::{Incoming, Refusal};
use crate::attrs::State;
use crate::counters::Counters;
use crate::fault::WcStatus;
use crate::limits;
use crate::opcode::Opcode;
use crate::qp::{Qp, Storage};
use crate::wire::Packet;
use crate::wqe::Host;

impl<S: Storage> Qp<S> {
    /// Handle a packet of an unreliable connection.
    pub(crate) fn handle_unreliable(&mut self, packet: &Packet, host: &mut impl Host) {
        let (Opcode::Send { place, .. } | Opcode::Write { place, .. }) = packet.opcode else {
            return Counters::bump(&mut self.counters.dropped);
        };
        match self.attrs.state {
            State::Rtr | State::Rts | State::Sqd | State::Sqe => {}
            State::Reset | State::Init | State::Err => return Counters::bump(&mut self.counters.dropped),
        }
        if self.attrs.state == State::Rtr {
            self.establish();
        }
        let psn = packet.bth.psn;
        let next = psn.plus(packet.packets);
        let expected = self.responder.expected;
        if psn != expected {
            let behind = expected.distance(psn);
            if behind <= limits::UNRELIABLE_GHOSTS {
                // A copy, or late: it must neither be delivered again nor spoil what is under way.
                Counters::bump(&mut self.counters.duplicate_requests);
                return;
            }
            Counters::bump(&mut self.counters.out_of_sequence);
        }
        if place.starts() {
            self.responder.abandon();
            self.responder.expected = psn;
        } else if psn != expected || matches!(self.responder.incoming, Incoming::Idle) {
            // The rest of a message that has lost a packet.
            self.responder.abandon();
            self.responder.expected = next;
            return Counters::bump(&mut self.counters.dropped);
        }
        let Err(refusal) = self.carry_out(packet, host) else {
            return;
        };
        if let Refusal::Absent(recv) = refusal {
            return self.responder.keep_for_next(recv);
        }
        self.responder.expected = next;
        match refusal {
            // Our own fault: the receive fails, and the queue pair with it.
            Refusal::Fatal {
                recv: Some((recv, status)),
                ..
            } if is_local(status) => {
                self.responder.incoming = Incoming::Idle;
                self.fail_recv(recv, status);
                self.enter_error();
            }
            Refusal::Fatal {
                recv: Some((recv, _)), ..
            } => {
                self.responder.incoming = Incoming::Idle;
                self.responder.spare = Some(recv);
                Counters::bump(&mut self.counters.dropped);
            }
            Refusal::Fatal { recv: None, .. } | Refusal::NotReady | Refusal::Busy | Refusal::Absent(_) => {
                self.responder.abandon();
                Counters::bump(&mut self.counters.dropped);
            }
        }
    }
}

impl super::Responder {
    /// Give up the message under way; its receive is kept for the next.
    fn abandon(&mut self) {
        if let Incoming::Send { recv, .. } = core::mem::take(&mut self.incoming) {
            self.spare = Some(recv);
        }
    }
}

/// Whether a receive failed for a reason of its owner.
const fn is_local(status: WcStatus) -> bool {
    matches!(
        status,
        WcStatus::LocalProtection | WcStatus::LocalLength | WcStatus::LocalQpOp
    )
}
