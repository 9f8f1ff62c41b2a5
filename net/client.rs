// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What a lane and its client give each other: runs of queue pairs' packets, as trains of their own, past the stack.
//!
//! ```text
//!   client --Port::post--> tx lock: descriptors, no doorbell        poll: Rx::poll gives a train
//!   client --Port::ring--> tx lock: one doorbell for all                  --Client::on_train--> client, no lane lock
//!                                                                         --Client::on_room---> client, who had none
//! ```
//!
//! A cable's device has one client at most. It shares ring and credit with the packets of the stack ([`tbip::share`]).

use crate::kapi::pages::{Piece, RxPage};
use kernel::{prelude::*, sync::Arc};
use tbip::{
    cut::COPY_WHOLE,
    direct::Told,
    frame::{Header, Roce},
    limits::MAX_PAGES,
    span,
};

/// Posts the pages of a window ([`Client::on_ask`]).
pub type Post<'a> = dyn FnMut(&[Piece], &[Piece], KBox<dyn Held>) -> bool + 'a;

/// Whose trains go by a lane.
pub trait Client: Send + Sync {
    /// A train has come. In the poll, a softirq, which is an RCU reader; no lock of the lane is held but the client's
    /// place. Whoever wants to keep the train takes a share.
    fn on_train(&self, train: &Arc<Train>);
    /// There is room, which `Port::has_room` did not find. As above.
    fn on_room(&self);
    /// The train with this token has not come to the peer ([`Outbound::token`]). As above, or in process context when
    /// the cable ends.
    fn on_lost(&self, token: u64);
    /// A train has come whose payload is to go by a window ([`Train::meta`]). `post` has the DMA write the next frames
    /// to the pages of the target that are given first, all of them, and holds on to what is given last until none is
    /// written any more. The rest of the target is given second: it is written when the train is carried out, and no
    /// later window may have been there before. False if it could not; then nothing is written. To be called once, or
    /// not at all; the client's locks may be held.
    fn on_ask(&self, train: &Arc<Train>, post: &mut Post<'_>);
    /// The window of a train is over, and nothing is written to it any more; if it is `whole`, all of it is there.
    /// Whether the train was carried out. As [`Self::on_lost`]; whoever let it be posted is told, though he has left
    /// the lane.
    fn on_window(&self, train: &Arc<Train>, held: KBox<dyn Held>, whole: bool) -> bool;
    /// What became of a train that asked for a window. As [`Self::on_lost`]; whoever asked is told, though he has left
    /// the lane.
    fn on_told(&self, told: Told<u64>);
    /// Whether the host with this Ethernet address has told of trains since then, in nanoseconds, by any lane of the
    /// client's, if several cables lead there. If not, it is asked by all ([`crate::Port::ask`]). As `on_train`.
    fn is_there(&self, mac: [u8; 6], since: u64) -> bool;
    /// Trains that it has sent by all its lanes, ever. As `on_train`.
    fn sent(&self) -> u64;
}

/// What a train out reads until it has gone. Dropped then, in any context but hard interrupts, the transmit side's lock
/// held.
pub trait Held: Send {}

/// What a train out is, beside its bytes.
#[derive(Clone, Copy)]
pub struct Outbound<'a> {
    /// Packets and ends; its headers are `front`. The lane puts its account in.
    pub meta: Roce,
    /// What [`Client::on_lost`] is told if it is lost. None: nobody is told. So it is where more trains are on their
    /// way than the lane keeps account of.
    pub token: Option<u64>,
    /// Now, in nanoseconds.
    pub now: u64,
    /// Transport headers, from the BTH on.
    pub front: &'a [u8],
    /// Bytes of the payload.
    pub payload: usize,
    /// Where the payload is, if the DMA reads it there; else it is copied.
    pub pieces: &'a [Piece],
}

impl Outbound<'_> {
    /// Longest payload that is copied for being short, lent or not.
    pub const SHORT: usize = COPY_WHOLE;
}

/// The part of a train's payload that goes by a window: the first of it.
pub struct WindowOut<'a> {
    /// Key and address of the target.
    pub target: (u32, u64),
    /// Where it is, page by page.
    pub pieces: &'a [Piece],
    /// What it reads until it has gone.
    pub held: KBox<dyn Held>,
    /// Who is told what became of it, whoever is the lane's client by then.
    pub client: Arc<dyn Client>,
}

impl WindowOut<'_> {
    /// Most pages.
    pub const MOST: usize = 16;
}

/// Why a train was not sent.
pub enum NotSent<E> {
    /// No room, no credit, no peer; or memory that the device cannot be shown.
    Busy,
    /// The pieces of its window are not whole pages, as many as a window has.
    Unfit,
    /// Its payload could not be copied.
    Uncopied(E),
}

/// A train that has come.
pub struct Train {
    meta: Roce,
    /// Where the transport headers begin in the head frame, and the end of its inline bytes.
    front: usize,
    end: usize,
    head: Option<RxPage>,
    head_len: usize,
    pages: [Option<(RxPage, usize)>; MAX_PAGES],
    count: usize,
    /// Bytes in the pages.
    page_bytes: usize,
}

impl Train {
    pub(crate) const EMPTY: Self = Self {
        meta: Roce {
            packets: 0,
            mtu: 0,
            header_len: 0,
            ends: 0,
            account: None,
            window: None,
        },
        front: 0,
        end: 0,
        head: None,
        head_len: 0,
        pages: [const { None }; MAX_PAGES],
        count: 0,
        page_bytes: 0,
    };

    /// Fills an empty one: a head frame of `head_len` bytes with `header`, and its pages.
    pub(crate) fn fill(
        &mut self,
        meta: Roce,
        header: &Header,
        (head, head_len): (RxPage, usize),
        pages: impl Iterator<Item = (RxPage, usize)>,
    ) {
        self.meta = meta;
        self.front = Header::LEN + meta.wire_len();
        self.end = Header::LEN + usize::from(header.inline_len);
        self.head = Some(head);
        self.head_len = head_len;
        self.count = 0;
        self.page_bytes = 0;
        for (place, (page, len)) in self.pages.iter_mut().zip(pages) {
            page.sync(len);
            *place = Some((page, len));
            self.count += 1;
            self.page_bytes += len;
        }
    }

    /// Takes its frames' pages out, and how much of them was looked at.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = (RxPage, usize)> + '_ {
        let (head_len, count) = (self.head_len, core::mem::take(&mut self.count));
        let head = self.head.take().map(|page| (page, head_len));
        let pages = self.pages.iter_mut().take(count).filter_map(Option::take);
        Iterator::chain(pages, head)
    }

    /// What it is.
    pub fn meta(&self) -> &Roce {
        &self.meta
    }

    /// Its transport headers, and what payload is behind them in the head frame.
    pub fn front(&self) -> &[u8] {
        let head = self.head.as_ref().map_or(&[][..], |page| page.view(self.end));
        head.get(self.front..).unwrap_or(&[])
    }

    /// Bytes in all, from the BTH on.
    pub fn byte_len(&self) -> usize {
        self.end.saturating_sub(self.front) + self.page_bytes + self.by_window().1
    }

    /// The bytes that go by a window: where they begin, from the BTH on, and how many they are.
    pub fn by_window(&self) -> (usize, usize) {
        self.meta
            .window
            .as_ref()
            .map_or((0, 0), |window| (usize::from(self.meta.header_len), window.byte_len()))
    }

    /// Shows bytes `at..at + len`, piece by piece, until `each` returns false. False if it did, the train is short, or
    /// some of them go by a window.
    pub fn pieces(&self, at: usize, len: usize, each: impl FnMut(&[u8]) -> bool) -> bool {
        let (start, by_window) = self.by_window();
        let at = match at.checked_sub(by_window) {
            _ if by_window == 0 || at + len <= start => at,
            Some(rest) if rest >= start => rest,
            _ => return false,
        };
        let pages = self.pages.iter().take(self.count).flatten();
        let pages = pages.map(|(page, len)| page.view(*len));
        let all = Iterator::chain(core::iter::once(self.front()), pages);
        span::pieces(all, at, len, each)
    }
}
