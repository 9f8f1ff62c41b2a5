// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A queue pair grants windows, carries out what they have brought, and asks for them ([`crate::grants`]).

use crate::attrs::{QpKind, State};
use crate::counters::Counters;
use crate::grants::Part;
use crate::keys::Access;
use crate::limits;
use crate::opcode::{Class, Opcode};
use crate::qp::{Qp, Storage};
use crate::time::Instant;
use crate::wire::Packet;
use crate::wqe::{Host, Transmit};

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

    /// Where the first bytes of the payload of `transmit`, polled last, go, and how many of them may go by a window:
    /// the payload of a WRITE that begins with a page of the target, without the last piece of the message.
    #[must_use]
    #[inline(never)]
    pub fn window_of(&self, transmit: &Transmit) -> Option<Part> {
        let (Class::Rc, Opcode::Write { place, .. }) = transmit.opcode()? else {
            return None;
        };
        let (slot, _) = self.message_of(transmit.psn)?;
        let offset = transmit
            .psn
            .distance(slot.first)
            .wrapping_shl(self.attrs.path_mtu.shift());
        let address = slot.wqe.remote_va.wrapping_add(u64::from(offset));
        let len = transmit.payload.byte_len().saturating_sub(u32::from(place.ends()));
        let whole = len.wrapping_sub(len % limits::WINDOW_PAGE);
        let aligned = address & u64::from(limits::WINDOW_PAGE.wrapping_sub(1)) == 0;
        let large = slot.wqe.length >= limits::MIN_WINDOW_MESSAGE;
        let patience = limits::retry_time(self.attrs.timeout, self.attrs.retry_cnt);
        let patient = patience.is_none_or(|patience| patience >= limits::WINDOW_PATIENCE);
        (aligned && large && patient && whole >= limits::MIN_WINDOW).then_some(Part {
            key: slot.wqe.rkey,
            address,
            len: whole,
        })
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
