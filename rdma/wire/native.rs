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

use super::{udp::send::NotBuilt, Bytes, Credit, Loan};
use crate::kapi::{
    netdev::{FrameDone, Pieces},
    revoke::Gate,
};
use kernel::{prelude::*, sync::Arc};
use roce::{
    grants::{Part, Went, Windows},
    lost::Sent,
    psn::Qpn,
    time::Instant,
    wire::Bth,
    wqe::{Room, Transmit},
};
use tbnet::{Client, NotSent, Outbound, Port, Roce, WindowOut};

/// Most pages of a window.
pub(crate) const MOST_PAGES: u32 = WindowOut::MOST as u32;

/// Most bytes of transport headers.
const FRONT: usize = 64;

/// A lane's windows, as the engine asks for them.
pub(crate) struct WindowsOf<'a>(pub(crate) &'a Port);

impl Windows for WindowsOf<'_> {
    fn is_worth(&self) -> bool {
        self.0.has_windows()
    }

    fn has_room(&self) -> bool {
        self.0.has_window_room()
    }
}

/// How much a train may have on one of so many lanes.
pub(crate) fn room(port: &Port, lanes: u32) -> Room {
    Room {
        packets: u32::MAX,
        bytes: u32::try_from(port.most()).unwrap_or(0),
        lanes,
    }
}

/// Posts a train of the queue pair `from` at `now`, for packets of `mtu` between the ends `ends`; `credit` is told its
/// end, if it borrows its payload, which it may where `life` is given. For the first bytes of it a window is asked for
/// if there is one in `window`, with who is told of it. Returns its bytes, and how it has gone.
#[inline(never)]
pub(crate) fn post<C: FrameDone>(
    port: &Port,
    transmit: &Transmit,
    (now, from, mtu, ends): (Instant, u32, u32, u64),
    bytes: &impl Bytes,
    life: Option<&Arc<Gate>>,
    credit: impl Fn() -> Arc<C>,
    window: Option<(Part, Arc<dyn Client>)>,
) -> Result<(u64, Went), NotBuilt> {
    let mut front = [0; FRONT];
    let headers = transmit.header.as_bytes();
    let front = front.get_mut(..headers.len()).ok_or(NotBuilt::Lost)?;
    front.copy_from_slice(headers);
    Bth::mark_run(front);
    let all = transmit.payload.byte_len() as usize;
    let mut went = Went::Plain;
    if let (Some(window), Some(life)) = (window, life) {
        went = ask(
            port,
            transmit,
            (now, from, mtu, ends),
            bytes,
            life,
            &credit,
            window,
            front,
        )?;
        if went == Went::Asking {
            return Ok(((headers.len() + all) as u64, went));
        }
    }
    let payload = all;
    let mut pieces = Pieces::new();
    let mut loan = None;
    if let Some(life) = life.filter(|_| payload > Outbound::SHORT) {
        let mut open = Loan::new(life);
        if open.is_open() && bytes.lend(&mut pieces, &mut open.lenders).map_err(NotBuilt::Fault)? {
            open.credit = Some(Credit::Frame(credit()));
            loan = Some(KBox::new(open, GFP_ATOMIC | __GFP_NOWARN).map_err(|_| NotBuilt::Lost)?);
        }
    }
    let lent = loan.is_some();
    let out = Outbound {
        meta: meta(transmit, mtu, ends)?,
        now: now.0,
        token: Sent::new(Qpn::new(from), transmit).map(Sent::token),
        front,
        payload,
        pieces: if lent { pieces.get() } else { &[] },
    };
    let held = loan.map(|loan| -> KBox<dyn tbnet::Held> { loan });
    match port.post(&out, held, |at, to: &mut [u8]| bytes.gather(at, to)) {
        Ok(()) => Ok(((headers.len() + payload) as u64, went)),
        Err(NotSent::Busy | NotSent::Unfit) => Err(NotBuilt::Lost),
        Err(NotSent::Uncopied(fault)) => Err(NotBuilt::Fault(fault)),
    }
}

fn meta(transmit: &Transmit, mtu: u32, ends: u64) -> Result<Roce, NotBuilt> {
    let header_len = transmit.header.as_bytes().len();
    Ok(Roce {
        packets: u16::try_from(transmit.packets).map_err(|_| NotBuilt::Lost)?,
        mtu: u16::try_from(mtu).map_err(|_| NotBuilt::Lost)?,
        header_len: u16::try_from(header_len).map_err(|_| NotBuilt::Lost)?,
        ends,
        account: None,
        window: None,
    })
}

/// Pieces and what keeps them, if they can be lent.
type Lent<C> = Option<(Pieces, KBox<Loan<C>>)>;

/// Posts a train that asks for a window for the first bytes of its payload. If it cannot go so nothing is posted:
/// memory that is not whole pages here, or no room for a window now.
#[inline(never)]
#[expect(clippy::too_many_arguments, reason = "those of its caller")]
fn ask<C: FrameDone>(
    port: &Port,
    transmit: &Transmit,
    (now, from, mtu, ends): (Instant, u32, u32, u64),
    bytes: &impl Bytes,
    life: &Arc<Gate>,
    credit: &impl Fn() -> Arc<C>,
    (part, client): (Part, Arc<dyn Client>),
    front: &[u8],
) -> Result<Went, NotBuilt> {
    let all = transmit.payload.byte_len() as usize;
    let len = part.len as usize;
    let Some(rest) = all.checked_sub(len) else {
        return Ok(Went::Unfit);
    };
    let lend = |at, len| -> Result<Lent<C>, NotBuilt> {
        let mut pieces = Pieces::new();
        let mut open = Loan::new(life);
        let part = bytes.part(at, len);
        if !open.is_open() || !part.lend(&mut pieces, &mut open.lenders).map_err(NotBuilt::Fault)? {
            return Ok(None);
        }
        let mut open = KBox::new(open, GFP_ATOMIC | __GFP_NOWARN).map_err(|_| NotBuilt::Lost)?;
        open.credit = Some(Credit::Frame(credit()));
        Ok(Some((pieces, open)))
    };
    let Some((pages, pages_held)) = lend(0, len)? else {
        return Ok(Went::Unfit);
    };
    let (tail, tail_held) = match rest > Outbound::SHORT {
        true => lend(len, rest)?,
        false => None,
    }
    .unzip();
    let out = Outbound {
        meta: meta(transmit, mtu, ends)?,
        now: now.0,
        token: Sent::new(Qpn::new(from), transmit).map(Sent::token),
        front,
        payload: rest,
        pieces: tail.as_ref().map_or(&[], Pieces::get),
    };
    let window = WindowOut {
        target: (part.key.0, part.address),
        pieces: pages.get(),
        held: pages_held,
        client,
    };
    let held = tail_held.map(|loan| -> KBox<dyn tbnet::Held> { loan });
    match port.post_window(&out, window, held, |at, to: &mut [u8]| bytes.gather(len + at, to)) {
        Ok(()) => Ok(Went::Asking),
        Err(NotSent::Busy) => Ok(Went::Plain),
        Err(NotSent::Unfit) => Ok(Went::Unfit),
        Err(NotSent::Uncopied(fault)) => Err(NotBuilt::Fault(fault)),
    }
}
