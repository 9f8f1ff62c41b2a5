// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The way in: from a frame in the hook to the engine of its QP.

use crate::{
    caps::MULTICAST,
    device::Device,
    kapi::{
        netdev::{Hears, RxFrame, Verdict},
        pure,
        share::KERNEL,
    },
    payload::{Payload, HEAD},
    qp::{Qp, QPN_FLAG},
};
use kernel::sync::Arc;
use roce::{
    psn::Qpn,
    wire::{
        icrc::Icrc,
        udp::{self, Datagram},
        Bth, Packet, WireError,
    },
    wqe::Span,
};

/// IBTA 3.9: the queue pair of management datagrams.
const GSI: Qpn = Qpn::new(1);
const ETHERTYPES: [u16; 2] = [0x0800, 0x86dd];

impl Hears for Device {
    fn hear(&self, frame: &RxFrame) -> Verdict {
        receive(self, frame)
    }
}

/// Takes the frame if it is RoCEv2, addressed to this device, and for a QP of ours. What only passes through, to
/// another host or to another address of this one, belongs to the stack, which routes or bridges it.
fn receive(device: &Device, frame: &RxFrame) -> Verdict {
    if !ETHERTYPES.contains(&frame.ethertype()) || !frame.is_plain() {
        return Verdict::Pass;
    }
    let mut head = [0; HEAD];
    let head_len = frame.len().min(HEAD);
    let Some(head) = head.get_mut(..head_len) else {
        return Verdict::Pass;
    };
    if !frame.copy(0, head) {
        return Verdict::Pass;
    }
    let head = &*head;
    let Ok(mut datagram) = udp::parse_ip_udp(head, frame.len()) else {
        return Verdict::Pass;
    };
    if datagram.dst_port != udp::PORT {
        return Verdict::Pass;
    }
    let start = datagram.transport.offset as usize;
    let transport = head.get(start..).unwrap_or(&[]);
    let Some(Ok(bth)) = transport.first_chunk::<{ Bth::LEN }>().map(Bth::parse) else {
        return Verdict::Pass;
    };
    if bth.run {
        // Only a cable's CRC stands in for an ICRC.
        if !device.netdev().is_some_and(|netdev| netdev.carries_runs()) {
            return Verdict::Pass;
        }
        datagram = datagram.run();
    }
    let whole = transport.get(..datagram.transport.len as usize).unwrap_or(transport);
    let incoming = Incoming {
        device,
        frame,
        head,
        transport: whole,
        datagram: &datagram,
        run: bth.run,
    };
    // Numbers without our flag are those of an rxe device over the same netdev.
    let number = match bth.dest {
        MULTICAST | GSI if bth.run => None,
        MULTICAST => return incoming.to_group(),
        GSI => device.gsi(),
        dest => Some(dest.value()).filter(|number| number & QPN_FLAG != 0),
    };
    match number {
        Some(number) => incoming.to_number(number),
        None => Verdict::Pass,
    }
}

/// A RoCEv2 frame whose ICRC has not been looked at.
struct Incoming<'a> {
    device: &'a Device,
    frame: &'a RxFrame,
    /// What the frame begins with, from the IP header on.
    head: &'a [u8],
    /// Of that, the transport.
    transport: &'a [u8],
    datagram: &'a Datagram,
    /// It has none.
    run: bool,
}

impl Incoming<'_> {
    /// For a queue pair, or one that is no more.
    fn to_number(&self, number: u32) -> Verdict {
        let qp = self.device.qps.find(number);
        let owner = qp.as_ref().map_or(&KERNEL, |qp| qp.owner());
        owner.charge(|| self.to_qp(number, qp.as_ref()))
    }

    /// Takes a frame for the queue pair with that number, or for the grave of one.
    fn to_qp(&self, number: u32, qp: Option<&Arc<Qp>>) -> Verdict {
        let knows_path = match qp {
            Some(qp) => qp.is_connected(),
            None => self.device.graves.has(number),
        };
        // A connected QP takes what comes from its peer to its own address: only where that is not so, the table of the
        // device's addresses is asked.
        if !knows_path && !self.is_ours() {
            return Verdict::Pass;
        }
        if qp.is_none() && !knows_path {
            // Nobody has the number: its ICRC, which costs more than all else, need not be right.
            return Verdict::Taken;
        }
        let mut heard = false;
        if self.is_intact() {
            if let Some(packet) = self.packet() {
                heard = match qp {
                    Some(qp) => Qp::receive(qp, &packet, &self.payload()),
                    None => self.device.netdev().is_some_and(|netdev| {
                        let payload = self.payload();
                        self.device
                            .graves
                            .receive(&packet, &netdev, |wire| wire.brought(&payload))
                    }),
                };
            }
        } else if self.is_ours() {
            self.device.on_icrc_error();
        }
        if !heard && knows_path && !self.is_ours() {
            return Verdict::Pass;
        }
        Verdict::Taken
    }

    /// For the members of a group. Others hear it as well: the stack, the other ports of a bridge, an rxe device over
    /// the same netdev.
    fn to_group(&self) -> Verdict {
        if self.device.groups.has(&self.datagram.addresses.dst_gid()) {
            if !self.is_intact() {
                self.device.on_icrc_error();
            } else if let Some(packet) = self.packet() {
                let payload = self.payload();
                self.device.groups.members(&self.datagram.addresses.dst_gid(), |qpn| {
                    if let Some(qp) = self.device.qps.find(qpn) {
                        Qp::receive_group(&qp, &packet, &payload);
                    }
                });
            }
        }
        Verdict::Pass
    }

    /// Whether the destination is an address of the device, in the VLAN that brought the frame.
    fn is_ours(&self) -> bool {
        self.device
            .has_address(&self.datagram.addresses.dst_gid(), self.frame.tag())
    }

    fn is_intact(&self) -> bool {
        self.run || icrc(self.frame, self.head, self.datagram).is_some_and(|(computed, carried)| computed == carried)
    }

    fn packet(&self) -> Option<Packet> {
        Packet::parse(self.transport, self.datagram.transport.len as usize).ok()
    }

    fn payload(&self) -> Payload<'_> {
        Payload::new(self.frame, self.datagram, self.run)
    }
}

/// The ICRC as it should be and as it is.
fn icrc(frame: &RxFrame, head: &[u8], datagram: &Datagram) -> Option<([u8; 4], [u8; 4])> {
    let Span { offset, len } = datagram.transport;
    let (start, len) = (offset as usize, len as usize);
    let begin =
        |bth: &[u8]| -> Result<Icrc, WireError> { Icrc::seed(head.get(..start).unwrap_or(&[]))?.transport(bth) };
    let bth = head.get(start..start + Bth::LEN)?;
    let mut state = begin(bth).ok()?;
    let whole = frame.pieces(start + Bth::LEN, len.checked_sub(Bth::LEN)?, |piece| {
        state = pure::icrc(state, piece);
        true
    });
    let mut carried = [0; 4];
    (whole && frame.copy(start + len, &mut carried)).then_some((state.finish(), carried))
}
