// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The way out: from what the engine wants sent to frames.

use crate::{
    kapi::{
        netdev::{FrameDone, Netdev, ReadyFrame, To, TxFrame},
        pure,
    },
    memory::Memory,
    wq::SendQueue,
};
use kernel::{prelude::*, sync::Arc};
use roce::{
    keys::Access,
    psn::Psn,
    wire::{
        icrc::Icrc,
        udp::{Path, PathHeaders, ETHERNET_LEN},
    },
    wqe::{Fault, Source, Transmit},
};

/// Frames built under one taking of the QP's lock.
pub(crate) const BATCH: usize = 16;

/// A frame and what is said about it.
struct Entry {
    frame: ReadyFrame,
    to: To,
    /// See [`Transmit::request_psn`].
    request: Option<Psn>,
}

/// Frames ready to go.
pub(crate) struct Batch {
    frames: [Option<Entry>; BATCH],
    len: usize,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self {
            frames: [const { None }; BATCH],
            len: 0,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len == BATCH
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds the frame of a transmit.
    pub(crate) fn push(&mut self, frame: ReadyFrame, to: To, request: Option<Psn>) {
        if let Some(place) = self.frames.get_mut(self.len) {
            *place = Some(Entry { frame, to, request });
            self.len += 1;
        }
    }

    /// Sends everything, up to the first request for which the netdev's queue has no room: that request's PSN. No lock
    /// held.
    pub(crate) fn send(&mut self) -> Option<Psn> {
        let mut unsent = None;
        for place in &mut self.frames {
            let Some(Entry { frame, to, request }) = place.take() else {
                continue;
            };
            // What follows an unsent request is sent again with it.
            if request.is_some() && unsent.is_some() {
                continue;
            }
            if !frame.send(to) {
                unsent = unsent.or(request);
            }
        }
        self.len = 0;
        unsent
    }
}

/// Why a packet was not built.
pub(crate) enum NotBuilt {
    /// Its payload cannot be read.
    Fault(Fault),
    /// Longer than the netdev's frames are: it will not do better until the MTU is another.
    TooLong,
    /// No memory now; a retry will come.
    Lost,
}

/// Where the frames of a QP go.
pub(crate) struct Way<'a> {
    pub(crate) netdev: &'a Netdev,
    pub(crate) path: &'a Path,
    pub(crate) ip_id: u16,
}

/// Builds the frame for one packet, which `credit` is told the end of.
pub(crate) fn build<C: FrameDone>(
    transmit: &Transmit,
    way: &Way<'_>,
    queue: &SendQueue,
    memory: Memory<'_>,
    credit: &Arc<C>,
) -> Result<ReadyFrame, NotBuilt> {
    let gather = |payload: &mut [u8]| match transmit.payload {
        Source::None => Ok(()),
        Source::Send { slot, offset, .. } => queue.gather(slot, offset, payload, memory),
        Source::Region { rkey, va, .. } => memory.read(rkey, va, payload, Access::REMOTE_READ),
    };
    build_with(transmit, way, gather, Some(credit.clone()))
}

/// Builds the frame for a packet without payload that nobody is told the end of.
pub(crate) fn build_bare(transmit: &Transmit, way: &Way<'_>) -> Result<ReadyFrame, NotBuilt> {
    build_with(transmit, way, |_| Err(Fault::LocalQpOp), None::<Arc<()>>)
}

fn build_with<C: FrameDone>(
    transmit: &Transmit,
    way: &Way<'_>,
    gather: impl FnOnce(&mut [u8]) -> Result<(), Fault>,
    credit: Option<Arc<C>>,
) -> Result<ReadyFrame, NotBuilt> {
    let transport_len = transmit.transport_len();
    let headers = PathHeaders::build(way.path, way.ip_id, transport_len).map_err(|_| NotBuilt::Lost)?;
    let below = headers.frame().len();
    let total = below + transport_len + Icrc::LEN;
    // A path MTU agreed before the netdev's shrank: drivers need not bear such a frame.
    if total > way.netdev.mtu() as usize + ETHERNET_LEN {
        return Err(NotBuilt::TooLong);
    }
    let mut frame = TxFrame::new(way.netdev, total).ok_or(NotBuilt::Lost)?;
    let transport = transmit.header.as_bytes();
    let (lower, rest) = frame.bytes().split_at_mut_checked(below).ok_or(NotBuilt::Lost)?;
    lower.copy_from_slice(headers.frame());
    let (head, rest) = rest.split_at_mut_checked(transport.len()).ok_or(NotBuilt::Lost)?;
    head.copy_from_slice(transport);
    let data_len = rest.len() - Icrc::LEN;
    let (data, trailer) = rest.split_at_mut_checked(data_len).ok_or(NotBuilt::Lost)?;
    let (payload, pad) = data
        .split_at_mut_checked(data_len - usize::from(transmit.pad))
        .ok_or(NotBuilt::Lost)?;
    if transmit.payload != Source::None {
        gather(payload).map_err(NotBuilt::Fault)?;
    }
    pad.fill(0);
    let icrc = Icrc::seed(headers.ip_udp())
        .and_then(|icrc| icrc.transport(transport))
        .map_err(|_| NotBuilt::Lost)?;
    trailer.copy_from_slice(&pure::icrc(icrc, data).finish());
    let network = u32::try_from(ETHERNET_LEN).map_err(|_| NotBuilt::Lost)?;
    let transport = network + u32::try_from(way.path.addresses.ip_len()).map_err(|_| NotBuilt::Lost)?;
    Ok(frame.finish(network, transport, credit))
}
