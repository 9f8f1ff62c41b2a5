// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What a received packet carries, in the frame that brought it.

use crate::kapi::netdev::{KeptFrame, RxFrame};
use kernel::sync::Arc;
use roce::{
    ends::Ends,
    grants::Brought,
    keys::Key,
    limits::GRH_LEN,
    wire::{
        udp::{self, Addresses, Datagram, Path},
        Bth, Packet,
    },
    wqe::Span,
};
use tbnet::Train;

/// IPv6 and UDP headers and all transport headers.
pub(crate) const HEAD: usize = udp::IPV6_LEN + udp::UDP_LEN + 64;

/// What brought a packet.
#[derive(Clone, Copy)]
enum Bearer<'a> {
    /// A datagram, of one packet or of a run.
    Datagram {
        frame: &'a RxFrame,
        /// Where the BTH is.
        start: usize,
        addresses: Addresses,
        run: bool,
    },
    /// A train on the cable.
    Train(&'a Arc<Train>),
}

/// What brought a packet, kept for later.
pub(crate) enum Kept {
    Datagram(KeptFrame),
    Train(Arc<Train>),
}

impl Kept {
    /// A share in it.
    pub(crate) fn keep(&self) -> Self {
        match self {
            Self::Datagram(frame) => Self::Datagram(frame.keep()),
            Self::Train(train) => Self::Train(train.clone()),
        }
    }
}

/// The payload of the packet being handled.
pub(crate) struct Payload<'a>(Bearer<'a>);

impl<'a> Payload<'a> {
    /// That of a frame which was parsed to `datagram`.
    pub(crate) fn new(frame: &'a RxFrame, datagram: &Datagram, run: bool) -> Self {
        Self(Bearer::Datagram {
            frame,
            start: datagram.transport.offset as usize,
            addresses: datagram.addresses,
            run,
        })
    }

    /// That of a train.
    pub(crate) fn of_train(train: &'a Arc<Train>) -> Self {
        Self(Bearer::Train(train))
    }

    /// What is in something that was found good before.
    pub(crate) fn parse(kept: &'a Kept) -> Option<(Packet, Self)> {
        match kept {
            Kept::Datagram(frame) => Self::parse_frame(frame),
            Kept::Train(train) => {
                let packet = Packet::parse(train.front(), train.byte_len()).ok()?;
                Some((packet, Self::of_train(train)))
            }
        }
    }

    fn parse_frame(frame: &'a RxFrame) -> Option<(Packet, Self)> {
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

    /// Whether it came from the other end of `path` to this one: its addresses say so, or, of a train, its `ends`.
    /// Ethernet addresses may change while a path stays the same, so they do not count.
    pub(crate) fn is_along(&self, path: &Path, ends: &Ends) -> bool {
        match &self.0 {
            Bearer::Datagram { addresses, .. } => path.tag == self.tag() && addresses.is_reverse_of(&path.addresses),
            Bearer::Train(train) => path.tag == 0 && train.meta().ends == ends.back,
        }
    }

    /// It is a run ([`Bth::run`]).
    pub(crate) fn is_run(&self) -> bool {
        match self.0 {
            Bearer::Datagram { run, .. } => run,
            Bearer::Train(_) => true,
        }
    }

    /// What of it a window has brought.
    pub(crate) fn window(&self) -> Option<Brought> {
        let Bearer::Train(train) = &self.0 else {
            return None;
        };
        let window = train.meta().window.as_ref()?;
        let (start, len) = train.by_window();
        Some(Brought {
            start: u32::try_from(start).ok()?,
            len: u32::try_from(len).ok()?,
            key: Key(window.key),
            address: window.address,
        })
    }

    /// The addresses of a datagram.
    pub(crate) fn addresses(&self) -> Option<Addresses> {
        match &self.0 {
            Bearer::Datagram { addresses, .. } => Some(*addresses),
            Bearer::Train(_) => None,
        }
    }

    /// It is a train.
    pub(crate) fn is_train(&self) -> bool {
        matches!(self.0, Bearer::Train(_))
    }

    /// Bytes of the IP packet, or of the train from the BTH on.
    pub(crate) fn byte_len(&self) -> u64 {
        match &self.0 {
            Bearer::Datagram { frame, .. } => frame.len() as u64,
            Bearer::Train(train) => train.byte_len() as u64,
        }
    }

    /// The VLAN that brought it, as in a path.
    pub(crate) fn tag(&self) -> u32 {
        match &self.0 {
            Bearer::Datagram { frame, .. } => frame.tag(),
            Bearer::Train(_) => 0,
        }
    }

    /// Holds on to what brought it.
    pub(crate) fn keep(&self) -> Kept {
        match &self.0 {
            Bearer::Datagram { frame, .. } => Kept::Datagram(frame.keep()),
            Bearer::Train(train) => Kept::Train(Arc::clone(train)),
        }
    }

    /// What a datagram's receive begins with: the IP header at the end of 40 bytes.
    pub(crate) fn grh(&self) -> Option<[u8; GRH_LEN as usize]> {
        let Bearer::Datagram { frame, start, .. } = &self.0 else {
            return None;
        };
        let mut grh = [0; GRH_LEN as usize];
        let ip_len = start.checked_sub(udp::UDP_LEN)?;
        let at = grh.len().checked_sub(ip_len)?;
        frame.copy(0, grh.get_mut(at..)?).then_some(grh)
    }

    /// Shows the bytes of a span, piece by piece, until `each` returns false.
    pub(crate) fn pieces(&self, span: Span, each: impl FnMut(&[u8]) -> bool) -> bool {
        let (at, len) = (span.offset as usize, span.len as usize);
        match &self.0 {
            Bearer::Datagram { frame, start, .. } => frame.pieces(start + at, len, each),
            Bearer::Train(train) => train.pieces(at, len, each),
        }
    }
}
