// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A connection: two queue pairs of this device, or one of ours and one of the other host's, and what goes over it.
//!
//! A connection's memory is slots. A slot is the source, or takes the result, of one request at a time, and stands for
//! the same slot at the peer, so each completion can be judged by what is in memory then.

use crate::broker;
use crate::connect::{connect_loop, to_init, to_rts, Way};
use crate::ffi::Wc;
use crate::memory::Arena;
use crate::run::Hand;
use crate::verbs::{op, state, Cq, Kind, Mr, Mw, Part, Pd, Piece, Qp, Request, Result, Srq, FENCE, INLINE, SIGNALED};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const SLOTS: usize = 8;
pub const SLOT: usize = 4096;
/// Receives have slots of their own, behind the others.
const RECVS_AT: usize = SLOTS * SLOT;
pub const MEMORY: usize = 2 * SLOTS * SLOT;
/// What fits into a request itself.
const INLINED: usize = 64;

/// What the low byte of a request's number says. Above it are 24 bits that count requests, so that a completion from
/// before a reset is known, and then the connection's number.
pub mod tag {
    pub const WINDOW: u64 = 64;
    pub const RECV: u64 = 128;
}

/// A queue pair with its memory.
pub struct End {
    pub qp: Qp,
    pub mr: Mr,
}

impl End {
    pub fn memory(&self) -> &Arc<Arena> {
        &self.mr.memory
    }

    fn piece(&self, at: usize, len: usize) -> Piece {
        Piece {
            address: self.memory().address() + at as u64,
            len,
            lkey: self.mr.lkey,
        }
    }
}

/// The other side.
pub enum Peer {
    Here(End),
    /// On the other host. Each side uses half of the slots.
    There {
        end: broker::End,
        slots: Range<usize>,
    },
    /// Not yet known: an offer is on its way.
    Awaited {
        offer: broker::End,
    },
}

#[derive(Clone, Copy)]
enum What {
    Write,
    /// The seed of what must come, if that is known.
    Read(Option<u32>),
    Send,
    /// The word before, and the one after.
    Atomic(u64, u64),
}

#[derive(Clone, Copy)]
struct Pending {
    what: What,
    opcode: i32,
    len: usize,
    seed: u32,
    wr_id: u64,
    since: Instant,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    pending: Option<Pending>,
    /// What we have put into the peer's slot, as far as is known.
    there: Option<u32>,
}

/// How far a window is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    No,
    /// With the key that it will have.
    Binding(u32),
    Yes,
    /// Being invalidated.
    Ending,
    /// A request about it failed: nothing is known.
    Unknown,
}

pub struct Window {
    pub mw: Mw,
    pub kind: i32,
    pub slot: usize,
    pub bound: Bound,
    pub key: u32,
    wr_id: u64,
    since: Instant,
}

pub struct Conn {
    pub id: u32,
    pub kind: Kind,
    pub one: End,
    pub peer: Peer,
    slots: [Slot; SLOTS],
    /// The number of each receive that is posted; 0 if it is not.
    recvs: [u64; SLOTS],
    pub windows: Vec<Window>,
    pub broken: bool,
    mtu: u8,
    count: u64,
    since: Instant,
}

/// What a connection is made from.
pub struct Parts<'a> {
    pub pd: &'a Arc<Pd>,
    pub cqs: [&'a Arc<Cq>; 2],
    pub srq: Option<&'a Arc<Srq>>,
    pub access: u32,
}

impl Parts<'_> {
    fn end(&self, hand: &mut Hand<'_>, kind: Kind) -> Result<End> {
        let memory = Arc::new(Arena::new(MEMORY).map_err(|_| libc::ENOMEM)?);
        let mr = hand.call("reg_mr", || Mr::new(self.pd, &memory, self.access))?;
        let depth = [2 * SLOTS as u32 + 4, if self.srq.is_some() { 0 } else { SLOTS as u32 }];
        let qp = hand.call("create_qp", || {
            Qp::new(self.pd, kind, self.cqs, self.srq, depth, INLINED as u32)
        })?;
        Ok(End { qp, mr })
    }
}

impl Conn {
    fn new(id: u32, kind: Kind, one: End, peer: Peer, mtu: u8) -> Self {
        Self {
            id,
            kind,
            one,
            peer,
            slots: Default::default(),
            recvs: Default::default(),
            windows: Vec::new(),
            broken: false,
            mtu,
            count: 0,
            since: Instant::now(),
        }
    }

    /// Two queue pairs of this device.
    pub fn here(hand: &mut Hand<'_>, id: u32, kind: Kind, parts: &Parts<'_>) -> Result<Self> {
        let mtu = hand.rng.u8(1..6);
        let (one, two) = (parts.end(hand, kind)?, parts.end(hand, kind)?);
        let mut this = Self::new(id, kind, one, Peer::Here(two), mtu);
        this.reconnect(hand)?;
        Ok(this)
    }

    /// Answers an offer of the other host's, or makes one.
    pub fn there(hand: &mut Hand<'_>, id: u32, kind: Kind, parts: &Parts<'_>) -> Result<Self> {
        let broker = hand.run.broker.as_ref().ok_or(libc::ENOTCONN)?;
        let psn = hand.rng.u32(..1 << 24);
        let Some(offer) = broker.take_offer() else {
            let gid = hand.run.gid(&mut hand.rng).ok_or(libc::EAGAIN)?;
            let one = parts.end(hand, kind)?;
            to_init(hand, &one.qp)?;
            let offer = broker::End {
                id: hand.rng.u64(..),
                answer: false,
                kind: kind as u8,
                mtu: hand.rng.u8(1..6),
                number: one.qp.number,
                psn,
                rkey: one.mr.rkey,
                address: one.memory().address(),
                gid: gid.1,
            };
            broker.send(&offer);
            hand.tally.add("offer", 0);
            let this = Self::new(id, kind, one, Peer::Awaited { offer }, offer.mtu);
            return Ok(this);
        };
        let kind = if offer.kind == Kind::Uc as u8 {
            Kind::Uc
        } else {
            Kind::Rc
        };
        let from = hand.run.gid_towards(&offer.gid, &mut hand.rng).ok_or(libc::EAGAIN)?;
        let one = parts.end(hand, kind)?;
        to_init(hand, &one.qp)?;
        let way = way(hand, from, &offer, psn);
        to_rts(hand, &one.qp, &way)?;
        broker.send(&broker::End {
            answer: true,
            number: one.qp.number,
            psn,
            rkey: one.mr.rkey,
            address: one.memory().address(),
            gid: from.1,
            ..offer
        });
        hand.tally.add("answer", 0);
        let slots = SLOTS / 2..SLOTS;
        Ok(Self::new(id, kind, one, Peer::There { end: offer, slots }, offer.mtu))
    }

    /// Connects with who has answered; true if this one is to be given up.
    pub fn look_for_answer(&mut self, hand: &mut Hand<'_>) -> Result<bool> {
        let Peer::Awaited { offer } = self.peer else {
            return Ok(false);
        };
        let Some(end) = hand.run.broker.as_ref().and_then(|broker| broker.answer_to(offer.id)) else {
            return Ok(self.since.elapsed() > Duration::from_millis(1500));
        };
        let from = hand.run.gid_towards(&end.gid, &mut hand.rng).ok_or(libc::EAGAIN)?;
        let way = way(hand, from, &end, offer.psn);
        to_rts(hand, &self.one.qp, &way)?;
        let slots = 0..SLOTS / 2;
        self.peer = Peer::There { end, slots };
        hand.tally.add("met", 0);
        Ok(false)
    }

    /// Both sides from RESET to RTS again, what was under way forgotten. Not with the other host.
    pub fn reconnect(&mut self, hand: &mut Hand<'_>) -> Result<()> {
        let Peer::Here(two) = &self.peer else {
            return Err(libc::ENOTCONN);
        };
        self.broken = true;
        connect_loop(hand, &self.one.qp, &two.qp, self.mtu)?;
        self.slots = Default::default();
        self.recvs = Default::default();
        // What became of requests about windows is not known any more; a bound one stays so.
        for window in &mut self.windows {
            if matches!(window.bound, Bound::Binding(_) | Bound::Ending) {
                window.bound = Bound::Unknown;
            }
        }
        self.broken = false;
        Ok(())
    }

    fn receiver(&self) -> &End {
        match &self.peer {
            Peer::Here(two) => two,
            _ => &self.one,
        }
    }

    fn number(&mut self, tag: u64) -> u64 {
        self.count += 1;
        u64::from(self.id) << 32 | (self.count & 0xff_ffff) << 8 | tag
    }

    /// The peer's memory and key; those of a window that covers the slot, sometimes.
    fn remote(&self, hand: &mut Hand<'_>, slot: usize) -> Option<(u64, u32)> {
        match &self.peer {
            Peer::Here(two) => {
                let windows = self.windows.iter().find(|w| w.slot == slot && w.bound == Bound::Yes);
                let key = match windows {
                    Some(window) if hand.chance(70) => window.key,
                    _ => two.mr.rkey,
                };
                Some((two.memory().address(), key))
            }
            Peer::There { end, .. } => Some((end.address, end.rkey)),
            Peer::Awaited { .. } => None,
        }
    }

    /// Posts something on a slot that has nothing to do.
    pub fn post(&mut self, hand: &mut Hand<'_>) -> Result<()> {
        let usable = match &self.peer {
            Peer::There { slots, .. } => slots.clone(),
            _ => 0..SLOTS,
        };
        let slot = hand.rng.usize(usable);
        if self.broken || self.slots[slot].pending.is_some() {
            return Ok(());
        }
        let Some((base, key)) = self.remote(hand, slot) else {
            return Ok(());
        };
        let seed = hand.rng.u32(..);
        let len = match hand.rng.u32(..4) {
            0 => 64,
            1 => SLOT,
            _ => 16 + 8 * hand.rng.usize(..(SLOT - 16) / 8),
        };
        let here = self.slots[slot].there;
        let choice = match (self.kind, hand.rng.u32(..10)) {
            // What was written to the other host is read back now and then.
            (Kind::Rc, 0..=2) => op::READ,
            (Kind::Rc, 3) => op::FETCH_ADD,
            (Kind::Rc, 4) => op::CMP_SWAP,
            (_, 5) => op::SEND_IMM,
            (_, 6) => op::SEND,
            (_, 7) => op::WRITE_IMM,
            _ => op::WRITE,
        };
        let at = slot * SLOT;
        let remote = (base + at as u64, key);
        let (mut len, mut flags) = (len, SIGNALED);
        let two = match &self.peer {
            Peer::Here(two) => Some(two.memory().clone()),
            _ => None,
        };
        let memory = self.one.memory().clone();
        let what = match choice {
            op::READ => {
                let known = match &two {
                    Some(two) => {
                        two.fill(at, len, seed);
                        Some(seed)
                    }
                    None => here,
                };
                memory.fill(at, len, !seed);
                What::Read(known)
            }
            op::FETCH_ADD | op::CMP_SWAP => {
                len = 8;
                let Some(two) = &two else { return Ok(()) };
                let before = u64::from(seed) * 3;
                two.store(at, before);
                let after = if choice == op::FETCH_ADD { before + 5 } else { 5 };
                What::Atomic(before, after)
            }
            op::SEND | op::SEND_IMM => {
                memory.fill(at, len, seed);
                What::Send
            }
            _ => {
                memory.fill(at, len, seed);
                if len <= INLINED && hand.chance(50) {
                    flags |= INLINE;
                }
                What::Write
            }
        };
        if hand.chance(10) {
            flags |= FENCE;
        }
        let piece = self.one.piece(at, len);
        let request = match what {
            What::Atomic(before, _) => Request::Atomic {
                opcode: choice,
                piece,
                remote,
                operands: if choice == op::FETCH_ADD { [5, 0] } else { [before, 5] },
            },
            _ => Request::Data {
                opcode: choice,
                piece,
                remote,
                word: seed,
            },
        };
        let wr_id = self.number(slot as u64);
        hand.call("post_send", || self.one.qp.post(wr_id, &request, flags))?;
        self.slots[slot] = Slot {
            pending: Some(Pending {
                what,
                opcode: choice,
                len,
                seed,
                wr_id,
                since: Instant::now(),
            }),
            // Until it completes, either may be there.
            there: if matches!(what, What::Write | What::Atomic(..)) {
                None
            } else {
                here
            },
        };
        Ok(())
    }

    /// Posts receives where there are none.
    pub fn post_recvs(&mut self, hand: &mut Hand<'_>) -> Result<()> {
        if self.receiver().qp.srq.is_some() || self.broken {
            return Ok(());
        }
        for slot in 0..SLOTS {
            if self.recvs[slot] != 0 || hand.chance(30) {
                continue;
            }
            let wr_id = self.number(tag::RECV + slot as u64);
            let end = self.receiver();
            let piece = end.piece(RECVS_AT + slot * SLOT, SLOT);
            hand.call("post_recv", || end.qp.post_recv(wr_id, piece))?;
            self.recvs[slot] = wr_id;
        }
        Ok(())
    }

    /// Judges a completion; the key that it has ended, if one.
    pub fn complete(&mut self, hand: &mut Hand<'_>, wc: &Wc) -> Option<(u32, usize)> {
        let (code, ok) = (wc.wr_id & 0xff, wc.status == 0);
        if code >= tag::RECV {
            let slot = (code - tag::RECV) as usize % SLOTS;
            if self.recvs[slot] != wc.wr_id {
                return None;
            }
            self.recvs[slot] = 0;
            hand.tally.add("completion RECV", wc.status);
            self.broken |= !ok;
            // With an immediate WRITE nothing is put there.
            if ok && wc.opcode == RECEIVED {
                check_message(
                    hand,
                    self.receiver().memory(),
                    RECVS_AT + slot * SLOT,
                    wc.byte_len as usize,
                );
            }
            return None;
        }
        if code >= tag::WINDOW {
            return self.complete_window(hand, wc);
        }
        let slot = code as usize % SLOTS;
        // Else a reset has forgotten it meanwhile.
        let pending = self.slots[slot].pending.filter(|pending| pending.wr_id == wc.wr_id)?;
        self.slots[slot].pending = None;
        hand.tally.add(name(pending.opcode), wc.status);
        self.broken |= !ok;
        if ok {
            self.check(hand, slot, pending);
        }
        None
    }

    fn check(&mut self, hand: &mut Hand<'_>, slot: usize, done: Pending) {
        let at = slot * SLOT;
        let memory = self.one.memory();
        let there = match &self.peer {
            Peer::Here(two) if self.kind == Kind::Rc => Some(two.memory()),
            _ => None,
        };
        let wrong = match done.what {
            What::Write => {
                self.slots[slot].there = (self.kind == Kind::Rc).then_some(done.seed);
                there.and_then(|there| there.differs(at, done.len, done.seed))
            }
            What::Read(Some(seed)) if there.is_some() => memory.differs(at, done.len, seed),
            // Of what was written there, a part may have been longer or shorter.
            What::Read(Some(seed)) => (memory.seed(at) != Some(seed)).then(|| format!("not the pattern of {seed:#x}")),
            What::Atomic(before, after) => {
                let found = (memory.load(at), there.map(|there| there.load(at)));
                (found != (before, Some(after))).then(|| format!("{found:x?}, not {before:x} and {after:x}"))
            }
            What::Read(None) | What::Send => None,
        };
        if let Some(wrong) = wrong {
            let place = if matches!(self.peer, Peer::Here(_)) {
                "here"
            } else {
                "there"
            };
            hand.run.violation(format!(
                "{} to a peer {place} on queue pair {:#x}, completed: {wrong}",
                name(done.opcode),
                self.one.qp.number
            ));
        }
    }

    /// Whether a request has been under way for longer than its timeouts allow, which is a completion lost.
    pub fn overdue(&self, limit: Duration) -> Option<&'static str> {
        if self.broken || self.kind != Kind::Rc {
            return None;
        }
        let slots = self.slots.iter().filter_map(|slot| slot.pending);
        let late = slots
            .filter(|p| p.since.elapsed() > limit)
            .map(|p| name(p.opcode))
            .next();
        let windows = self
            .windows
            .iter()
            .filter(|w| matches!(w.bound, Bound::Binding(_) | Bound::Ending));
        late.or(windows
            .filter(|w| w.since.elapsed() > limit)
            .map(|_| "request about a window")
            .next())
    }

    /// Makes, binds, ends windows of the peer's memory. The key that ended at once, if one.
    pub fn window(&mut self, hand: &mut Hand<'_>, pd: &Arc<Pd>) -> Result<Option<(u32, usize)>> {
        if self.broken || !matches!(self.peer, Peer::Here(_)) {
            return Ok(None);
        }
        if self.windows.len() < 3 {
            let kind = 1 + hand.rng.i32(0..2);
            let mw = hand.call("alloc_mw", || Mw::new(pd, kind))?;
            self.windows.push(Window {
                mw,
                kind,
                slot: hand.rng.usize(..SLOTS),
                bound: Bound::No,
                key: 0,
                wr_id: 0,
                since: Instant::now(),
            });
        }
        let index = hand.rng.usize(..self.windows.len());
        let wr_id = self.number(tag::WINDOW);
        let Peer::Here(two) = &self.peer else {
            return Ok(None);
        };
        let window = &mut self.windows[index];
        match window.bound {
            Bound::No | Bound::Yes if window.bound == Bound::No || hand.chance(30) => {
                // A window of type 2 is bound once; then it must be invalidated first.
                if window.bound == Bound::Yes && window.kind == 2 {
                    return Ok(None);
                }
                let part = Part {
                    mr: &two.mr,
                    at: window.slot * SLOT,
                    len: SLOT,
                };
                let access = crate::verbs::ALL & !crate::verbs::LOCAL_WRITE;
                if window.kind == 1 {
                    hand.call("bind_mw", || window.mw.bind(&two.qp, wr_id, &part, access))?;
                    window.bound = Bound::Binding(window.mw.rkey());
                } else {
                    let rkey = window.mw.rkey() & !0xff | window.mw.rkey().wrapping_add(1) & 0xff;
                    let bind = Request::Bind {
                        mw: &window.mw,
                        rkey,
                        part,
                        access,
                    };
                    hand.call("post_send", || two.qp.post(wr_id, &bind, SIGNALED))?;
                    window.bound = Bound::Binding(rkey);
                }
                (window.wr_id, window.since) = (wr_id, Instant::now());
            }
            Bound::Yes if window.kind == 2 && hand.chance(60) => {
                let key = window.key;
                if hand.chance(50) {
                    hand.call("post_send", || {
                        two.qp.post(wr_id, &Request::Invalidate { key }, SIGNALED)
                    })?;
                } else {
                    // By the peer, with a message.
                    let slot = hand.rng.usize(..SLOTS);
                    if self.slots[slot].pending.is_some() {
                        return Ok(None);
                    }
                    let seed = hand.rng.u32(..);
                    self.one.memory().fill(slot * SLOT, 64, seed);
                    let send = Request::Data {
                        opcode: op::SEND_INV,
                        piece: self.one.piece(slot * SLOT, 64),
                        remote: (0, 0),
                        word: key,
                    };
                    hand.call("post_send", || self.one.qp.post(wr_id, &send, SIGNALED))?;
                }
                window.bound = Bound::Ending;
                (window.wr_id, window.since) = (wr_id, Instant::now());
            }
            Bound::Yes | Bound::Unknown => {
                let window = self.windows.remove(index);
                hand.call("dealloc_mw", || window.mw.close())?;
                return Ok((window.bound == Bound::Yes).then_some((window.key, window.slot)));
            }
            _ => {}
        }
        Ok(None)
    }

    fn complete_window(&mut self, hand: &mut Hand<'_>, wc: &Wc) -> Option<(u32, usize)> {
        hand.tally.add("completion of a window's", wc.status);
        let window = self.windows.iter_mut().find(|window| window.wr_id == wc.wr_id)?;
        self.broken |= wc.status != 0;
        let before = (window.key != 0).then_some((window.key, window.slot));
        match (window.bound, wc.status) {
            (Bound::Binding(key), 0) => {
                window.mw.set_rkey(key);
                (window.bound, window.key) = (Bound::Yes, key);
                before.filter(|(old, _)| *old != key)
            }
            (Bound::Ending, 0) => {
                (window.bound, window.key) = (Bound::No, 0);
                before
            }
            _ => {
                window.bound = Bound::Unknown;
                None
            }
        }
    }

    /// Whether a key is, or may be, one of this connection's.
    pub fn owns(&self, key: u32) -> bool {
        let windows = self
            .windows
            .iter()
            .any(|w| w.key == key || w.bound == Bound::Binding(key) || w.mw.rkey() == key);
        let two = match &self.peer {
            Peer::Here(two) => two.mr.rkey == key,
            _ => false,
        };
        self.one.mr.rkey == key || two || windows
    }

    /// Puts one of its queue pairs into another state, or through several.
    pub fn shake(&mut self, hand: &mut Hand<'_>) -> Result<()> {
        let first = hand.chance(50);
        let qp = match &self.peer {
            Peer::Here(two) if first => &two.qp,
            _ => &self.one.qp,
        };
        match hand.rng.u32(..8) {
            0 | 1 => {
                hand.call("modify ERR", || qp.to(state::ERR))?;
                self.broken = true;
            }
            2 => {
                hand.call("modify RESET", || qp.to(state::RESET))?;
                self.broken = true;
            }
            3 if self.kind == Kind::Rc && hand.call("modify SQD", || qp.to(state::SQD)).is_ok() => {
                hand.call("modify RTS", || qp.to(state::RTS))?;
            }
            4 | 5 => {
                hand.call("query_qp", || qp.query())?;
            }
            _ => {}
        }
        if self.broken && hand.chance(70) && matches!(self.peer, Peer::Here(_)) {
            self.reconnect(hand)?;
        }
        Ok(())
    }
}

/// `IBV_WC_RECV`.
pub const RECEIVED: i32 = 128;

/// A message says itself what must be in it.
pub fn check_message(hand: &mut Hand<'_>, memory: &Arena, at: usize, len: usize) {
    let wrong = match memory.seed(at) {
        Some(seed) => memory.differs(at, len, seed),
        None => Some(format!("begins with {:#x}", memory.load(at))),
    };
    if let Some(wrong) = wrong {
        hand.run
            .violation(format!("a message of {len} bytes that nobody sent: {wrong}"));
    }
}

fn way(hand: &mut Hand<'_>, from: crate::run::Gid, peer: &broker::End, psn: u32) -> Way {
    Way {
        from,
        to: peer.gid,
        number: peer.number,
        psns: [peer.psn, psn],
        mtu: peer.mtu,
        timeout: hand.rng.u8(12..15),
        rnr_timer: hand.rng.u8(1..16),
    }
}

fn name(opcode: i32) -> &'static str {
    match opcode {
        op::WRITE => "WRITE",
        op::WRITE_IMM => "WRITE with immediate",
        op::SEND => "SEND",
        op::SEND_IMM => "SEND with immediate",
        op::READ => "READ",
        op::CMP_SWAP => "compare and swap",
        op::FETCH_ADD => "fetch and add",
        _ => "request",
    }
}
