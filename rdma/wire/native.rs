// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Runs of packets as trains on a cable's lane: past the stack, without IP and UDP headers, without an ICRC.
//!
//! ```text
//!   out   qp/transmits -> post -> Port::post: head frame and pages, one doorbell for what one fill has posted
//!   in    lane's poll -> recv: on_train -> qp: receive, as a packet of UDP
//! ```
//!
//! A payload above 2 KiB of pinned memory is read by the DMA where it is, and lent until then ([`Loan`]). What is
//! copied is copied under the lane's lock into its slots.

mod recv;

use super::{udp::send::NotBuilt, Bytes, Loan};
use crate::kapi::{
    netdev::{FrameDone, Pieces},
    revoke::Gate,
};
use kernel::{prelude::*, sync::Arc};
use roce::{
    lost::Sent,
    psn::Qpn,
    time::Instant,
    wire::Bth,
    wqe::{Room, Transmit},
};
use tbnet::{NotSent, Outbound, Port, Roce};

/// Most bytes of transport headers.
const FRONT: usize = 64;

/// How much a train may have on one of so many lanes.
pub(crate) fn room(port: &Port, lanes: u32) -> Room {
    Room {
        packets: u32::MAX,
        bytes: u32::try_from(port.most()).unwrap_or(0),
        lanes,
    }
}

/// Posts a train of the queue pair `from` at `now`, for packets of `mtu` between the ends `ends`; `credit` is told its
/// end, if it borrows its payload, which it may where `life` is given. Returns its bytes.
pub(crate) fn post<C: FrameDone>(
    port: &Port,
    transmit: &Transmit,
    (now, from, mtu, ends): (Instant, u32, u32, u64),
    bytes: &impl Bytes,
    life: Option<&Arc<Gate>>,
    credit: impl FnOnce() -> Arc<C>,
) -> Result<u64, NotBuilt> {
    let mut front = [0; FRONT];
    let headers = transmit.header.as_bytes();
    let front = front.get_mut(..headers.len()).ok_or(NotBuilt::Lost)?;
    front.copy_from_slice(headers);
    Bth::mark_run(front);
    let payload = transmit.payload.byte_len() as usize;
    let mut pieces = Pieces::new();
    let mut loan = None;
    if let Some(life) = life.filter(|_| payload > Outbound::SHORT) {
        let mut open = Loan::new(life);
        if open.is_open() && bytes.lend(&mut pieces, &mut open.lenders).map_err(NotBuilt::Fault)? {
            open.credit = Some(credit());
            loan = Some(KBox::new(open, GFP_ATOMIC | __GFP_NOWARN).map_err(|_| NotBuilt::Lost)?);
        }
    }
    let lent = loan.is_some();
    let out = Outbound {
        meta: Roce {
            packets: u16::try_from(transmit.packets).map_err(|_| NotBuilt::Lost)?,
            mtu: u16::try_from(mtu).map_err(|_| NotBuilt::Lost)?,
            header_len: u16::try_from(headers.len()).map_err(|_| NotBuilt::Lost)?,
            ends,
            account: None,
            window: None,
        },
        now: now.0,
        token: Sent::new(Qpn::new(from), transmit).map(Sent::token),
        front,
        payload,
        pieces: if lent { pieces.get() } else { &[] },
    };
    let held = loan.map(|loan| -> KBox<dyn tbnet::Held> { loan });
    match port.post(&out, held, |at, to: &mut [u8]| bytes.gather(at, to)) {
        Ok(()) => Ok((headers.len() + payload) as u64),
        Err(NotSent::Busy) => Err(NotBuilt::Lost),
        Err(NotSent::Uncopied(fault)) => Err(NotBuilt::Fault(fault)),
    }
}
