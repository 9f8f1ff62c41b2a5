// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The way in: from a frame in the hook to the engine of its QP.

use crate::{
    device::Device,
    kapi::{
        netdev::{KeptFrame, RxFrame, Verdict},
        pure,
    },
    qp::{Qp, QPN_FLAG},
};
use kernel::sync::Arc;
use roce::{
    limits::GRH_LEN,
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
/// IBTA 9.2.4: the destination of multicast packets.
pub(crate) const MULTICAST: Qpn = Qpn::new(0xff_ffff);
const ETHERTYPES: [u16; 2] = [0x0800, 0x86dd];
/// IPv6 and UDP headers and all transport headers.
const HEAD: usize = udp::IPV6_LEN + udp::UDP_LEN + 64;

/// Takes the frame if it is RoCEv2 for a QP of ours.
pub(crate) fn receive(device: &Device, frame: &RxFrame) -> Verdict {
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
    let Ok(datagram) = udp::parse_ip_udp(head, frame.len()) else {
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
    // Numbers without our flag are those of an rxe device over the same netdev.
    let number = match bth.dest {
        MULTICAST if device.groups.has(&datagram.addresses.dst_gid()) => Some(MULTICAST.value()),
        MULTICAST => None,
        GSI => device.gsi(),
        dest => Some(dest.value()).filter(|number| number & QPN_FLAG != 0),
    };
    let Some(number) = number else {
        return Verdict::Pass;
    };
    let is_group = number == MULTICAST.value();
    let qp = device.qps.find(number);
    if qp.is_none() && !is_group && !device.graves.has(number) {
        return Verdict::Taken;
    }
    match icrc(frame, head, &datagram) {
        Some((computed, carried)) if computed == carried => {}
        _ => {
            device.on_icrc_error();
            return Verdict::Taken;
        }
    }
    let len = datagram.transport.len as usize;
    let transport = transport.get(..len).unwrap_or(transport);
    if let Ok(packet) = Packet::parse(transport, len) {
        let payload = Payload { frame, start };
        if let Some(qp) = qp {
            Qp::receive(&qp, &packet, &datagram, &payload);
        } else if is_group {
            device.groups.receive(device, &packet, &datagram, &payload);
        } else if let Some(netdev) = device.netdev() {
            device.graves.receive(&packet, &datagram, &netdev, frame.tag());
        }
    }
    // A multicast is for all: an rxe device over the same netdev may have members of the group as well.
    if is_group && device.netdev().is_some_and(|netdev| netdev.has_rxe()) {
        return Verdict::Pass;
    }
    Verdict::Taken
}

/// Brings `qp` a frame once more that it could not handle when it came.
pub(crate) fn again(qp: &Arc<Qp>, frame: &RxFrame) {
    let mut head = [0; HEAD];
    let head_len = frame.len().min(HEAD);
    let Some(head) = head.get_mut(..head_len) else {
        return;
    };
    let _ = frame.copy(0, head);
    let Ok(datagram) = udp::parse_ip_udp(head, frame.len()) else {
        return;
    };
    let start = datagram.transport.offset as usize;
    let len = datagram.transport.len as usize;
    let transport = head.get(start..).unwrap_or(&[]);
    if let Ok(packet) = Packet::parse(transport.get(..len).unwrap_or(transport), len) {
        Qp::receive(qp, &packet, &datagram, &Payload { frame, start });
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

/// The payload of the packet being handled.
pub(crate) struct Payload<'a> {
    frame: &'a RxFrame,
    /// Where the BTH is.
    start: usize,
}

impl Payload<'_> {
    /// Bytes of the IP packet.
    pub(crate) fn ip_len(&self) -> u64 {
        self.frame.len() as u64
    }

    /// The VLAN that brought it, as in a path.
    pub(crate) fn tag(&self) -> u32 {
        self.frame.tag()
    }

    /// Holds on to the frame.
    pub(crate) fn keep(&self) -> KeptFrame {
        self.frame.keep()
    }

    /// What a datagram's receive begins with: the IP header at the end of 40 bytes.
    pub(crate) fn grh(&self) -> Option<[u8; GRH_LEN as usize]> {
        let mut grh = [0; GRH_LEN as usize];
        let ip_len = self.start.checked_sub(udp::UDP_LEN)?;
        let at = grh.len().checked_sub(ip_len)?;
        self.frame.copy(0, grh.get_mut(at..)?).then_some(grh)
    }

    /// Shows the bytes of a span, piece by piece, until `each` returns false.
    pub(crate) fn pieces(&self, span: Span, each: impl FnMut(&[u8]) -> bool) -> bool {
        self.frame
            .pieces(self.start + span.offset as usize, span.len as usize, each)
    }
}
