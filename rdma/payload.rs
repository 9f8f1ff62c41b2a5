// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What a received packet carries, in the frame that brought it.

use crate::kapi::netdev::{KeptFrame, RxFrame};
use roce::{
    limits::GRH_LEN,
    wire::{
        udp::{self, Addresses, Datagram, Path},
        Bth, Packet,
    },
    wqe::Span,
};

/// IPv6 and UDP headers and all transport headers.
pub(crate) const HEAD: usize = udp::IPV6_LEN + udp::UDP_LEN + 64;

/// The payload of the packet being handled.
pub(crate) struct Payload<'a> {
    frame: &'a RxFrame,
    /// Where the BTH is.
    start: usize,
    addresses: Addresses,
    run: bool,
}

impl<'a> Payload<'a> {
    /// That of a frame which was parsed to `datagram`.
    pub(crate) fn new(frame: &'a RxFrame, datagram: &Datagram, run: bool) -> Self {
        Self {
            frame,
            start: datagram.transport.offset as usize,
            addresses: datagram.addresses,
            run,
        }
    }

    /// What is in a frame that was found good before.
    pub(crate) fn parse(frame: &'a RxFrame) -> Option<(Packet, Self)> {
        let mut head = [0; HEAD];
        let head_len = frame.len().min(HEAD);
        let head = head.get_mut(..head_len)?;
        let _ = frame.copy(0, head);
        let datagram = udp::parse_ip_udp(head, frame.len()).ok()?;
        let transport = head.get(datagram.transport.offset as usize..)?;
        let run = transport.first_chunk().and_then(|bth| Bth::parse(bth).ok())?.run;
        let datagram = if run { datagram.run() } else { datagram };
        let len = datagram.transport.len as usize;
        let packet = Packet::parse(transport.get(..len).unwrap_or(transport), len).ok()?;
        Some((packet, Self::new(frame, &datagram, run)))
    }

    /// Whether it came from the other end of `path` to this one. Ethernet addresses may change while a path stays the
    /// same, so they do not count.
    pub(crate) fn is_along(&self, path: &Path) -> bool {
        path.tag == self.tag() && self.addresses.is_reverse_of(&path.addresses)
    }

    /// It is a run ([`Bth::run`]).
    pub(crate) fn is_run(&self) -> bool {
        self.run
    }

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
