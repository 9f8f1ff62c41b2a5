// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The way out in runs: frames of many packets without an ICRC, for a cable whose other end is the peer ([`Bth::run`],
//! `roce::runs`). A long payload is not copied: the netdev reads it in the pages of the region.
//!
//! Until it has done so the memory is lent ([`Loan`]).

use super::send::{offsets, Frame, NotBuilt, Way};
use crate::{
    kapi::{
        netdev::{FrameDone, Lent, To, TxFrame},
        revoke::Gate,
    },
    wire::{Bytes, Credit, Loan},
};
use kernel::sync::Arc;
use roce::{
    wire::{udp::PathHeaders, Bth},
    wqe::{Room, Transmit},
};

/// How much a run may have: what one IP datagram can carry, in pages.
pub(crate) const ROOM: Room = Room {
    lanes: 0,
    packets: u32::MAX,
    bytes: 15 << 12,
};

/// Payloads up to this length are copied behind the headers: `tbip::cut` would copy them too.
const COPIED: usize = tbnet::Outbound::SHORT;

/// Builds the frame of a run; `credit` is told its end. The way is not by a VLAN. The frame may borrow its payload
/// where `life` is given, in which it then is until the payload has been read.
pub(crate) fn build<C: FrameDone>(
    transmit: &Transmit,
    way: &Way<'_>,
    bytes: &impl Bytes,
    life: Option<&Arc<Gate>>,
    credit: Arc<C>,
) -> Result<Frame, NotBuilt> {
    let payload = transmit.payload.byte_len() as usize;
    if let Some(life) = life.filter(|_| payload > COPIED) {
        let (mut frame, _) = start(transmit, way, 0)?;
        let mut loan = Loan::new(life);
        if loan.is_open() && bytes.lend(&mut frame, &mut loan.lenders).map_err(NotBuilt::Fault)? {
            let (network, transport) = offsets(&way.path)?;
            let mut loan = Lent::new(loan).ok_or(NotBuilt::Lost)?;
            loan.kept.credit = Some(Credit::Frame(credit));
            return Ok(Frame::new(frame.finish_lent(network, transport, loan), To::Wire));
        }
    }
    let (mut frame, front) = start(transmit, way, payload)?;
    let to = frame.bytes().get_mut(front..).ok_or(NotBuilt::Lost)?;
    bytes.gather(0, to).map_err(NotBuilt::Fault)?;
    finish(frame, way, credit)
}

/// A frame with the headers, whose length comes with it, and room for `copied` bytes behind them.
fn start(transmit: &Transmit, way: &Way<'_>, copied: usize) -> Result<(TxFrame, usize), NotBuilt> {
    let transport = transmit.header.as_bytes();
    let len = transport.len() + transmit.payload.byte_len() as usize;
    let mut path = way.path;
    path.src_mac = way.netdev.mac();
    let headers = PathHeaders::build_run(&path, way.ip_id, len).map_err(|_| NotBuilt::Lost)?;
    let below = headers.frame().len();
    let front = below + transport.len();
    let mut frame = TxFrame::new(way.netdev, front + copied).ok_or(NotBuilt::Lost)?;
    let (lower, rest) = frame.bytes().split_at_mut_checked(below).ok_or(NotBuilt::Lost)?;
    lower.copy_from_slice(headers.frame());
    let head = rest.get_mut(..transport.len()).ok_or(NotBuilt::Lost)?;
    head.copy_from_slice(transport);
    Bth::mark_run(head);
    Ok((frame, front))
}

fn finish<C: FrameDone>(frame: TxFrame, way: &Way<'_>, credit: Arc<C>) -> Result<Frame, NotBuilt> {
    let (network, transport) = offsets(&way.path)?;
    Ok(Frame::new(frame.finish(network, transport, Some(credit)), To::Wire))
}
