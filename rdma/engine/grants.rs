// SPDX-License-Identifier: GPL-2.0 OR MIT
//! WRITEs whose payload the DMA puts into the target before their turn.
//!
//! A cable's direct lane (`tbip::direct`) writes the payload of a run to memory when its frames come; the packets of the
//! run are carried out when the window is whole. What is written out of its turn must not be seen, nor be written over,
//! by anything that has an earlier one. So of a queue pair
//!
//! ```text
//!   expected                                      end
//!   ---|----------|------------|-------------------|------> PSN
//!      | window 1 | window 2   | window 3          |
//!      the oldest is carried out first             the next window begins here, or there is none
//! ```
//!
//! - A window is granted where everything before it has been carried out, or is in windows that are granted: they are
//!   filled in that order. Nothing else is still to be written that a window could overtake.
//! - While one is open, packets of those PSNs that come otherwise are dropped as if lost: what the window is to write
//!   would be written after their turn, when the peer may have been told that they are done.
//! - One that comes to nothing, or whose packets are not carried out in their turn (RNR, for instance), takes all behind
//!   it along: they are dropped as their frames come in, and the sender sends them again, in order.
//! - The last piece of a message never goes by a window. It comes with the train, and is placed in its turn: who polls
//!   the last byte sees all others.
//!
//! What comes to nothing leaves in the target what it may: of a message that is not complete IBTA promises nothing.

use crate::attrs::{QpKind, State};
use crate::counters::Counters;
use crate::keys::Access;
use crate::opcode::Opcode;
use crate::psn::Psn;
use crate::qp::{Qp, Storage};
use crate::time::Instant;
use crate::wire::Packet;
use crate::wqe::Host;

/// The windows of a responder that are open.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Grants {
    open: u8,
    /// One past the last PSN of them.
    end: Psn,
    /// None that is open is carried out any more.
    void: bool,
    /// The packets at hand are those of the oldest.
    turn: bool,
}

impl Grants {
    fn admits(&self, expected: Psn, psn: Psn) -> bool {
        match self.open {
            0 => psn == expected,
            u8::MAX => false,
            _ => !self.void && psn == self.end,
        }
    }

    fn add(&mut self, end: Psn) {
        self.open = self.open.saturating_add(1);
        self.end = end;
    }

    /// The oldest is over.
    fn over(&mut self, carried_out: bool) {
        self.open = self.open.saturating_sub(1);
        self.void = self.open != 0 && (self.void || !carried_out);
    }

    /// None that is open is carried out any more: the life of the queue pair has ended.
    pub(crate) fn end(&mut self) {
        self.void = self.open != 0;
    }

    /// Whether these packets, which did not come by a window, are those of one.
    pub(crate) fn hold(&self, expected: Psn, psn: Psn, packets: u32) -> bool {
        if self.open == 0 || self.turn {
            return false;
        }
        let next = psn.plus(packets);
        next.offset(expected) > 0 && psn.offset(self.end) < 0
    }
}

impl<S: Storage> Qp<S> {
    /// The run as a packet of so many, if it is one that may go by a window: a WRITE of a reliable connection.
    fn window_run(&self, packet: &Packet) -> Option<Packet> {
        let Opcode::Write { place, .. } = packet.opcode else {
            return None;
        };
        let mtu = self.attrs.path_mtu;
        let run = packet.run(mtu.packets(packet.payload.len));
        (self.config.kind == QpKind::Rc && run.is_sound() && run.has_length(place, mtu)).then_some(run)
    }

    /// Whether a window may be granted for `packet`, a run of which all is to be received as far as the queue pair is
    /// concerned. Key, address and rights of the window itself are the caller's to check. [`Qp::handle_granted`] then.
    pub fn may_grant(&self, packet: &Packet) -> bool {
        let receives = matches!(self.attrs.state, State::Rtr | State::Rts | State::Sqd | State::Sqe);
        let writable = self.attrs.access.allows(Access::REMOTE_WRITE);
        let grants = &self.responder.grants;
        let in_turn = grants.admits(self.responder.expected(), packet.bth.psn);
        receives && writable && in_turn && !self.responder.is_quiet() && self.window_run(packet).is_some()
    }

    /// A window has been granted for `packet`: its pages may be written from now on.
    pub fn handle_granted(&mut self, packet: &Packet) {
        if let Some(run) = self.window_run(packet) {
            self.responder.grants.add(run.bth.psn.plus(run.packets));
        }
    }

    /// The oldest window is whole, and nothing is written by it any more: its `packet` is handed in, in place of
    /// [`Qp::handle_packet`]. Whether it was carried out; if not, it is to be sent again.
    pub fn handle_window(&mut self, now: Instant, packet: &Packet, host: &mut impl Host) -> bool {
        let expected = self.responder.expected();
        let in_turn = !self.responder.grants.void && packet.bth.psn == expected;
        let run = self.window_run(packet).filter(|_| in_turn);
        let carried_out = run.is_some_and(|run| {
            self.responder.grants.turn = true;
            Counters::bump(&mut self.counters.received);
            self.handle_request(now, &run, host);
            self.responder.grants.turn = false;
            self.responder.expected() == run.bth.psn.plus(run.packets)
        });
        self.responder.grants.over(carried_out);
        carried_out
    }

    /// The oldest window came to nothing, and nothing is written by it any more.
    pub fn handle_void_window(&mut self) {
        self.responder.grants.over(false);
    }
}
