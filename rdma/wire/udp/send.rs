// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The way out: from what the engine wants sent to frames.

use crate::kapi::{
    netdev::{FrameDone, Netdev, ReadyFrame, To, TxFrame},
    pure,
};
use kernel::sync::Arc;
use roce::{
    psn::Psn,
    wire::{
        icrc::Icrc,
        udp::{Path, PathHeaders, ETHERNET_LEN},
    },
    wqe::{Fault, Source, Transmit},
};

/// Frames built under one taking of the QP's lock.
pub(crate) const BATCH: usize = 16;

/// A frame, and whom it reaches.
pub(crate) struct Frame {
    frame: ReadyFrame,
    to: To,
}

impl Frame {
    pub(super) fn new(frame: ReadyFrame, to: To) -> Self {
        Self { frame, to }
    }

    /// Bytes of the IP packet.
    pub(crate) fn ip_len(&self) -> u64 {
        self.frame.ip_len()
    }

    /// Gives it to the netdev. False if its queue had no room. No lock held.
    pub(crate) fn send(self) -> bool {
        self.frame.send(self.to)
    }
}

/// A frame of a batch.
struct Entry {
    frame: Frame,
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
    pub(crate) fn push(&mut self, frame: Frame, request: Option<Psn>) {
        if let Some(place) = self.frames.get_mut(self.len) {
            *place = Some(Entry { frame, request });
            self.len += 1;
        }
    }

    /// Sends everything, up to the first request for which the netdev's queue has no room: that request's PSN. No lock
    /// held.
    pub(crate) fn send(&mut self) -> Option<Psn> {
        let mut unsent = None;
        for place in &mut self.frames {
            let Some(Entry { frame, request }) = place.take() else {
                continue;
            };
            // What follows an unsent request is sent again with it.
            if request.is_some() && unsent.is_some() {
                continue;
            }
            if !frame.send() {
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
    /// No memory now, or the VLAN is gone or down; a retry will come.
    Lost,
}

/// Where a packet goes: out by a netdev, or by the VLAN above it that the path names.
pub(crate) struct Way<'a> {
    pub(crate) netdev: &'a Netdev,
    pub(crate) path: Path,
    pub(crate) ip_id: u16,
}

/// Where the IP and the UDP header are in a frame.
pub(super) fn offsets(path: &Path) -> Result<(u32, u32), NotBuilt> {
    let network = u32::try_from(ETHERNET_LEN).map_err(|_| NotBuilt::Lost)?;
    let ip_len = u32::try_from(path.addresses.ip_len()).map_err(|_| NotBuilt::Lost)?;
    Ok((network, network + ip_len))
}

/// Builds the frame of a packet, whose payload `gather` copies. `heard` says whether somebody in this host hears a
/// group.
pub(crate) fn build<C: FrameDone>(
    transmit: &Transmit,
    way: Way<'_>,
    gather: impl FnOnce(&mut [u8]) -> Result<(), Fault>,
    heard: impl FnOnce(&[u8; 16]) -> bool,
    credit: Option<Arc<C>>,
) -> Result<Frame, NotBuilt> {
    let Way {
        netdev,
        mut path,
        ip_id,
    } = way;
    let in_vlan = if path.tag == 0 { None } else { netdev.tagged(path.tag) };
    let out = if path.tag == 0 { Some(netdev) } else { in_vlan.as_ref() };
    let out = out.ok_or(NotBuilt::Lost)?;
    path.src_mac = out.mac();
    let transport_len = transmit.transport_len();
    let headers = PathHeaders::build(&path, ip_id, transport_len).map_err(|_| NotBuilt::Lost)?;
    let below = headers.frame().len();
    let total = below + transport_len + Icrc::LEN;
    // A path MTU agreed before the netdev's shrank: drivers need not bear such a frame.
    if total > out.mtu() as usize + ETHERNET_LEN {
        return Err(NotBuilt::TooLong);
    }
    let mut frame = TxFrame::new(out, total).ok_or(NotBuilt::Lost)?;
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
    let (network, transport) = offsets(&path)?;
    let [first, ..] = path.dst_mac;
    let heard = first & 1 != 0 && heard(&path.addresses.dst_gid());
    Ok(Frame {
        frame: frame.finish(network, transport, credit),
        to: To::of(&path, heard),
    })
}
