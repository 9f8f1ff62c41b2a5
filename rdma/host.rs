// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What the engine borrows of the kernel while it runs.

use crate::{
    cq::Sender,
    early::Waiting,
    kapi::netdev::Borrower,
    memory::Memory,
    mr::Lenders,
    payload::{Kept, Payload},
    wire::Bytes,
    wq::{RecvQueue, SendQueue},
};
use core::sync::atomic::{fence, Ordering};
use roce::{
    keys::{Access, Key},
    wqe::{AtomicOp, Early, Fault, FlushKind, Host, RecvWqe, SendWqe, Source, Span, Target},
};

/// What a QP has for its engine to borrow.
pub(crate) struct Own {
    pub(crate) sq: SendQueue,
    pub(crate) rq: RecvQueue,
    pub(crate) sender: Sender,
    pub(crate) early: Waiting<Kept>,
}

impl Own {
    /// Lends it, for a call of the engine, with the memory that the QP may reach and the packet at hand.
    pub(crate) fn lend<'a>(&'a mut self, memory: Memory<'a>, payload: Option<&'a Payload<'a>>) -> Lent<'a> {
        Lent {
            own: self,
            memory,
            payload,
        }
    }
}

/// What the engine is lent: the user's queues and memory, and the packet at hand.
pub(crate) struct Lent<'a> {
    pub(crate) own: &'a mut Own,
    memory: Memory<'a>,
    payload: Option<&'a Payload<'a>>,
}

impl Lent<'_> {
    /// Copies the payload of a packet of ours.
    pub(crate) fn gather(&self, from: Source, to: &mut [u8]) -> Result<(), Fault> {
        match from {
            Source::None => Ok(()),
            Source::Send { slot, offset, .. } => self.own.sq.gather(slot, offset, to, self.memory),
            Source::Region { rkey, va, .. } => self.memory.read(rkey, va, to, Access::REMOTE_READ),
        }
    }
}

/// The payload of a transmit, in what is lent.
pub(crate) struct PayloadOf<'a, 'b>(pub(crate) &'a Lent<'b>, pub(crate) Source);

impl Bytes for PayloadOf<'_, '_> {
    fn part(&self, at: usize, len: usize) -> Self {
        let cut = |n| u32::try_from(n).unwrap_or(0);
        Self(self.0, self.1.part(cut(at), cut(len)))
    }

    fn gather(&self, at: usize, to: &mut [u8]) -> Result<(), Fault> {
        let (Ok(at), Ok(len)) = (u32::try_from(at), u32::try_from(to.len())) else {
            return Err(Fault::LocalLength);
        };
        self.0.gather(self.1.part(at, len), to)
    }

    fn lend(&self, to: &mut impl Borrower, lenders: &mut Lenders) -> Result<bool, Fault> {
        let (memory, len) = (self.0.memory, self.1.byte_len() as usize);
        match self.1 {
            Source::None => Ok(true),
            Source::Send { slot, offset, .. } => self.0.own.sq.lend(slot, offset, len, to, lenders, memory),
            Source::Region { rkey, va, .. } => memory.lend(rkey, va, len, Access::REMOTE_READ, to, lenders),
        }
    }
}

impl Host for Lent<'_> {
    fn take_send(&mut self) -> Option<SendWqe> {
        self.own.sq.take(self.memory)
    }

    fn take_recv(&mut self) -> Option<RecvWqe> {
        self.own.rq.take()
    }

    fn keep(&mut self, early: Early) -> bool {
        // What a window has brought is only true in its turn.
        self.payload
            .filter(|payload| payload.window().is_none())
            .is_some_and(|payload| self.own.early.keep(early, payload.byte_len(), || payload.keep()))
    }

    fn check(&mut self, rkey: Key, va: u64, length: u32, access: Access) -> Result<(), Fault> {
        self.memory.check(rkey, va, length, access)
    }

    fn place_grh(&mut self, slot: u32) -> Result<(), Fault> {
        let payload = self.payload.ok_or(Fault::LocalQpOp)?;
        let grh = payload.grh().ok_or(Fault::LocalQpOp)?;
        let [version, ..] = grh;
        self.own.sender = Sender {
            ipv6: version != 0,
            tag: payload.tag(),
        };
        self.own.rq.scatter(slot, 0, &grh, self.memory)
    }

    fn place(&mut self, to: Target, payload: Span) -> Result<(), Fault> {
        let source = self.payload.ok_or(Fault::LocalQpOp)?;
        let mut done = 0u32;
        let mut payload = payload;
        if let Some(window) = source.window() {
            payload = window.rest(to, payload)?;
            self.memory
                .check(window.key, window.address, window.len, Access::REMOTE_WRITE)?;
            done = window.len;
            if payload.len == 0 {
                return Ok(());
            }
        }
        let mut result = Ok(());
        let whole = source.pieces(payload, |piece| {
            result = match to {
                Target::Recv { slot, offset } => {
                    self.own.rq.scatter(slot, offset.wrapping_add(done), piece, self.memory)
                }
                Target::ReadResult { slot, offset } => {
                    self.own.sq.scatter(slot, offset.wrapping_add(done), piece, self.memory)
                }
                Target::Region { rkey, va } => {
                    let va = va.wrapping_add(u64::from(done));
                    self.memory.write(rkey, va, piece, Access::REMOTE_WRITE)
                }
            };
            done = done.wrapping_add(u32::try_from(piece.len()).unwrap_or(0));
            result.is_ok()
        });
        result?;
        whole.then_some(()).ok_or(Fault::LocalLength)
    }

    fn atomic(&mut self, op: AtomicOp, rkey: Key, va: u64) -> Result<u64, Fault> {
        self.memory.word(rkey, va, Access::REMOTE_ATOMIC, |word| match op {
            AtomicOp::CompareSwap { compare, swap } => word
                .compare_exchange(compare, swap, Ordering::SeqCst, Ordering::SeqCst)
                .unwrap_or_else(|found| found),
            AtomicOp::FetchAdd { add } => word.fetch_add(add, Ordering::SeqCst),
        })
    }

    fn atomic_result(&mut self, slot: u32, value: u64) -> Result<(), Fault> {
        self.own.sq.store(slot, value, self.memory)
    }

    fn atomic_write(&mut self, rkey: Key, va: u64, payload: Span) -> Result<(), Fault> {
        let mut bytes = [0; 8];
        let mut done = 0;
        let whole = self.payload.ok_or(Fault::LocalQpOp)?.pieces(payload, |piece| {
            let Some(to) = bytes.get_mut(done..done + piece.len()) else {
                return false;
            };
            to.copy_from_slice(piece);
            done += piece.len();
            true
        });
        if !whole || done != bytes.len() {
            return Err(Fault::RemoteInvalid);
        }
        let value = u64::from_ne_bytes(bytes);
        self.memory.word(rkey, va, Access::REMOTE_WRITE, |word| {
            word.store(value, Ordering::SeqCst);
        })
    }

    fn flush(&mut self, rkey: Key, va: u64, length: u32, kind: FlushKind) -> Result<(), Fault> {
        const GLOBAL: u8 = 1;
        const PERSISTENT: u8 = 2;
        let mut needed = Access::NONE;
        if kind.placement & GLOBAL != 0 {
            needed = needed.with(Access::FLUSH_GLOBAL);
        }
        if kind.placement & PERSISTENT != 0 {
            // No region has this right: none is known to be on persistent memory.
            needed = needed.with(Access::FLUSH_PERSISTENT);
        }
        if !needed.is_remote() {
            return Err(Fault::RemoteInvalid);
        }
        match kind.level {
            0 => self.memory.check(rkey, va, length, needed),
            1 => self.memory.check_whole(rkey, needed),
            _ => Err(Fault::RemoteInvalid),
        }?;
        // What the CPU has copied is in its caches, which everybody sees, in order after this.
        fence(Ordering::SeqCst);
        Ok(())
    }

    fn invalidate(&mut self, key: Key) -> Result<(), Fault> {
        self.memory.invalidate(key).then_some(()).ok_or(Fault::RemoteInvalid)
    }

    fn local(&mut self, slot: u32) -> Result<(), Fault> {
        let wanted = self.own.sq.local(slot).ok_or(Fault::LocalQpOp)?;
        self.memory.local(&wanted)
    }
}
