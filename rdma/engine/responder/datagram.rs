// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The receiver of datagrams. IBTA 9.8.3: a message is one packet, and who sent it is told by it.

use crate::attrs::State;
use crate::completion::{Completion, Queue, WcOpcode};
use crate::counters::Counters;
use crate::fault::{Fault, WcStatus};
use crate::limits;
use crate::opcode::{Opcode, Place};
use crate::qp::{Qp, Storage};
use crate::wire::Packet;
use crate::wqe::{Host, RecvWqe, Target};

impl<S: Storage> Qp<S> {
    /// Handle a datagram. What does not fit is dropped without a word, as IBTA wants it.
    pub(crate) fn handle_datagram(&mut self, packet: &Packet, host: &mut impl Host) {
        let ready = matches!(self.attrs.state, State::Rtr | State::Rts | State::Sqd | State::Sqe);
        let (Opcode::Send { place: Place::Only, .. }, Some(deth)) = (packet.opcode, packet.deth) else {
            return Counters::bump(&mut self.counters.dropped);
        };
        if !ready
            || deth.qkey != self.qkey()
            || packet.payload.len > self.attrs.path_mtu.bytes()
            || self.responder.done.is_some()
        {
            return Counters::bump(&mut self.counters.dropped);
        }
        let Some(recv) = self.next_recv(host) else {
            return Counters::bump(&mut self.counters.dropped);
        };
        match deliver(packet, &recv, host) {
            Ok(byte_len) => {
                self.responder.done = Some(Completion {
                    queue: Queue::Recv,
                    wr_id: recv.wr_id,
                    slot: recv.slot,
                    status: WcStatus::Success,
                    opcode: WcOpcode::Recv,
                    byte_len,
                    imm: packet.imm,
                    invalidated: None,
                    src_qpn: Some(deth.src),
                    solicited: packet.bth.solicited,
                    signalled: true,
                    qpn: self.config.qpn,
                });
            }
            Err(Fault::Absent) => self.responder.keep_for_next(Some(recv)),
            Err(fault) => {
                self.fail_recv(recv, fault.status());
                self.enter_error();
            }
        }
    }
}

/// Put the datagram into `recv`: the GRH area, then the payload. The result is their length.
fn deliver(packet: &Packet, recv: &RecvWqe, host: &mut impl Host) -> Result<u32, Fault> {
    if let Some(fault) = recv.fault {
        return Err(fault);
    }
    let total = packet
        .payload
        .len
        .checked_add(limits::GRH_LEN)
        .filter(|total| *total <= recv.length)
        .ok_or(Fault::LocalLength)?;
    host.place_grh(recv.slot)?;
    if packet.payload.len > 0 {
        let to = Target::Recv {
            slot: recv.slot,
            offset: limits::GRH_LEN,
        };
        host.place(to, packet.payload)?;
    }
    Ok(total)
}
