// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The wires that a connected QP sends on.
//!
//! ```text
//!   train   a run of packets on the cable's lane (`native`)    the peer is at the cable's other end, and takes them
//!   run     one UDP datagram of a run (`udp/run`)              the netdev says so: a bond of cables, an older peer
//!   packet  RoCEv2 (`udp/send`)                                anything else
//! ```
//!
//! Which it is `qp/transmits: fill` asks each time, so nothing is to be told when it changes, and the ends need not
//! change at once: all three are taken at any time, if they come from the other end ([`Wire::brought`]). PSNs mean the
//! same on all. Datagrams have no wire of their own: each brings a path and goes by UDP.

pub(crate) mod native;
pub(crate) mod udp;

use crate::{
    kapi::{
        netdev::{Borrower, FrameDone},
        revoke::{Gate, Lease},
    },
    mr::Lenders,
    payload::Payload,
};
use kernel::sync::Arc;
use roce::{ends::Ends, wire::udp::Path, wqe::Fault};

/// Where the peer of a connected QP is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wire {
    /// Through the netdev.
    pub(crate) path: Path,
    /// The two queue pairs, as trains name them.
    pub(crate) ends: Ends,
}

impl Wire {
    /// Whether a packet came from the other end.
    pub(crate) fn brought(&self, payload: &Payload<'_>) -> bool {
        payload.is_along(&self.path, &self.ends)
    }
}

/// How a payload comes into what carries it.
pub(crate) trait Bytes: Sized {
    /// The `len` bytes of it from `at` on.
    fn part(&self, at: usize, len: usize) -> Self;
    /// Copies what is at `at`.
    fn gather(&self, at: usize, to: &mut [u8]) -> Result<(), Fault>;
    /// Lends it. False if it cannot be lent; then the borrower is spoiled.
    fn lend(&self, to: &mut impl Borrower, lenders: &mut Lenders) -> Result<bool, Fault>;
}

/// What a frame or a train with a lent payload keeps until it has been read.
///
/// Until then neither the region nor what the QP does comes to an end: a frame that waits for the cable would carry to
/// the peer, as a message or as an answer, what the program has put there since. The region's deregistration waits for
/// it, and so do RESET, destruction, and in ERR the completions.
pub(crate) struct Loan<C: FrameDone> {
    pub(crate) lenders: Lenders,
    /// Of the life of the QP that has sent it.
    life: Option<Lease<Gate>>,
    /// Who is told then, once it is complete.
    pub(crate) credit: Option<Credit<C>>,
}

/// What a [`Loan`] is for, and who is told of its end.
pub(crate) enum Credit<C: FrameDone> {
    /// A frame that is sent.
    Frame(Arc<C>),
    /// A window that has been granted.
    Window(Arc<C>),
}

impl<C: FrameDone> Loan<C> {
    /// In the life of a QP, of nobody yet.
    pub(crate) fn new(life: &Arc<Gate>) -> Self {
        Self {
            lenders: Lenders::default(),
            life: Lease::enter(life),
            credit: None,
        }
    }

    /// Whether the life goes on.
    pub(crate) fn is_open(&self) -> bool {
        self.life.is_some()
    }
}

impl<C: FrameDone> Drop for Loan<C> {
    fn drop(&mut self) {
        // Whoever hears of it finds the memory given back.
        self.lenders = Lenders::default();
        self.life = None;
        match &self.credit {
            Some(Credit::Frame(owner)) => owner.on_frame_done(),
            Some(Credit::Window(owner)) => owner.on_window_done(),
            None => {}
        }
    }
}

impl<C: FrameDone> tbnet::Held for Loan<C> {}
