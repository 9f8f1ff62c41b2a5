// SPDX-License-Identifier: GPL-2.0 OR MIT
//! One end of a connection: an engine, its user's memory and queues, and what the user has seen.

use crate::scenario::{Bad, EndPlan, Op, Recv, Region, CELL, QKEY, SHARED, STALE};
use roce::completion::{Completion, Event};
use roce::grants::{Asks, Brought};
use roce::keys::{self, Access, Key};
use roce::limits;
use roce::psn::Qpn;
use roce::qp::{Qp, ReadResource, SendMessage, Slots};
use roce::tombstone::Tombstone;
use roce::wqe::{AtomicOp, Datagram, Early, Fault, FlushKind, Host, RecvWqe, SendOp, SendWqe, Source, Span, Target};
use std::cell::Cell;
use std::rc::Rc;

/// The engine as the simulation builds it.
pub type Engine = Qp<Slots<Vec<SendMessage>, Vec<ReadResource>>>;

/// What the GRH area of a datagram is filled with.
pub const GRH: u8 = 0x40;

/// The user's side: what the engine borrows.
#[derive(Clone, Debug)]
pub struct User {
    pub plan: EndPlan,
    pub memory: Vec<u8>,
    /// Posted so far.
    pub posted_sends: usize,
    pub posted_recvs: usize,
    /// Taken by the engine so far.
    pub taken_sends: usize,
    pub taken_recvs: usize,
    /// The packet being handled, from its BTH on, but for what a window has brought.
    pub packet: Vec<u8>,
    /// That, and where it was written.
    pub brought: Option<Brought>,
    /// Packets that came before their turn, and for how many there is room.
    pub early: Vec<(Early, Vec<u8>)>,
    pub room: usize,
    /// Completions seen, in order.
    pub send_completions: Vec<Completion>,
    pub recv_completions: Vec<Completion>,
    pub events: Vec<Event>,
    /// The first rule the engine broke in a call.
    pub broken: Option<String>,
    /// The host's shared number.
    pub shared: Rc<Cell<u64>>,
    /// Keys the peer has invalidated, in order.
    pub invalidated: Vec<Key>,
    /// Local operations carried out, in order.
    pub locals: Vec<usize>,
    /// The next access to memory by a packet finds a page absent.
    pub absent: bool,
    /// Unreliable services: the peer's send whose packet was handled last, until it is received.
    pub heard: Option<usize>,
    /// Unreliable services: the peer's sends received, by receive.
    pub received: Vec<usize>,
}

/// One end.
pub struct Endpoint {
    pub engine: Engine,
    pub user: User,
    /// The windows that it asks for.
    pub asks: Asks,
    /// Index of the host it lives on, and of the link towards its peer.
    pub host: usize,
    pub link: usize,
    /// The timer event that is scheduled, if any.
    pub armed: Option<u64>,
    /// Its peer was not ready: no request may leave before.
    pub silent_until: u64,
    /// Sends before this one have been on the wire, as far as their payload shows.
    pub begun: usize,
    /// False once it has died.
    pub alive: bool,
    /// What is left of it once its user has destroyed it.
    pub tombstone: Option<Tombstone>,
}

impl User {
    /// Memory filled from `fill`, nothing posted.
    pub fn new(plan: &EndPlan, shared: Rc<Cell<u64>>, fill: &mut crate::rng::Rng) -> Self {
        let mut memory = vec![0; plan.memory];
        fill.fill(&mut memory);
        memory[plan.cell..plan.cell + 8].copy_from_slice(&CELL.to_ne_bytes());
        Self {
            plan: plan.clone(),
            memory,
            posted_sends: 0,
            posted_recvs: 0,
            taken_sends: 0,
            taken_recvs: 0,
            packet: Vec::new(),
            brought: None,
            early: Vec::new(),
            room: usize::MAX,
            send_completions: Vec::new(),
            recv_completions: Vec::new(),
            events: Vec::new(),
            broken: None,
            shared,
            invalidated: Vec::new(),
            locals: Vec::new(),
            absent: false,
            heard: None,
            received: Vec::new(),
        }
    }

    /// The payload of a transmit.
    pub fn gather(&self, source: &Source) -> Result<&[u8], Fault> {
        match *source {
            Source::None => Ok(&[]),
            Source::Send { slot, offset, len } => {
                let op = self.plan.ops.get(slot as usize).ok_or(Fault::LocalQpOp)?;
                // A bad buffer fails from its middle on.
                if op.bad == Some(Bad::Gather) && offset + len > op.length / 2 {
                    return Err(Fault::LocalProtection);
                }
                if offset + len > op.length {
                    return Err(Fault::LocalLength);
                }
                let at = op.local + offset as usize;
                self.memory.get(at..at + len as usize).ok_or(Fault::LocalProtection)
            }
            Source::Region { rkey, va, len } => {
                if rkey == self.plan.region(Region::Vanishing).key {
                    return Err(Fault::RemoteAccess);
                }
                let at = self.resolve(rkey, va, len, Access::REMOTE_READ)?;
                self.memory.get(at..at + len as usize).ok_or(Fault::RemoteAccess)
            }
        }
    }

    /// Where in the memory a range of a region is.
    pub(crate) fn resolve(&self, rkey: Key, va: u64, len: u32, access: Access) -> Result<usize, Fault> {
        let regions = self.plan.regions();
        let region = regions.iter().find(|r| r.key == rkey).ok_or(Fault::RemoteAccess)?;
        keys::check(region, rkey, crate::scenario::PD, va, len, access).map(|offset| offset as usize)
    }

    /// Remember that the engine broke a rule.
    pub fn broke(&mut self, rule: String) {
        self.broken.get_or_insert(rule);
    }

    fn send(&self, index: usize) -> Op {
        self.plan.ops[index]
    }

    fn recv(&self, index: usize) -> Recv {
        self.plan.recvs[index]
    }
}

/// The peer's base address and memory length, for remote addresses.
pub fn remote_va(peer: &EndPlan, op: &Op) -> u64 {
    match op.bad {
        // The last byte lies one past the end.
        Some(Bad::Misaligned) => peer.base_va + op.remote as u64 + 4,
        Some(Bad::Bounds) => peer.base_va + peer.memory as u64 + 1 - u64::from(op.length),
        _ => peer.base_va + op.remote as u64,
    }
}

impl Host for Lent<'_> {
    fn take_send(&mut self) -> Option<SendWqe> {
        let user = &mut *self.user;
        let index = user.taken_sends;
        if index >= user.posted_sends {
            return None;
        }
        user.taken_sends += 1;
        let op = user.send(index);
        let rkey = match op.bad {
            Some(Bad::Key) => Key(0xdead),
            _ => self.peer.region(op.region).key,
        };
        Some(SendWqe {
            wr_id: index as u64,
            op: op.op,
            length: op.length,
            remote_va: remote_va(self.peer, &op),
            rkey,
            imm: op.imm,
            signalled: op.signalled,
            solicited: op.solicited,
            fence: op.fence,
            datagram: Datagram {
                dest: self.peer_qpn,
                qkey: QKEY,
                ah: self.peer_qpn.value(),
            },
            slot: index as u32,
            fault: match op.bad {
                Some(Bad::Snapshot(fault)) => Some(fault),
                _ => None,
            },
        })
    }

    fn take_recv(&mut self) -> Option<RecvWqe> {
        let user = &mut *self.user;
        let index = user.taken_recvs;
        if index >= user.posted_recvs {
            return None;
        }
        user.taken_recvs += 1;
        let recv = user.recv(index);
        Some(RecvWqe {
            wr_id: index as u64,
            length: recv.length,
            slot: index as u32,
            fault: (recv.bad == Some(Bad::BadRecv)).then_some(Fault::LocalQpOp),
        })
    }

    fn keep(&mut self, early: Early) -> bool {
        let user = &mut *self.user;
        if user.brought.is_some() {
            return false;
        }
        if user.early.iter().any(|(other, _)| *other == early) {
            user.broke(format!("{early:?} is kept twice"));
        }
        let kept = user.early.len() < user.room;
        if kept {
            user.early.push((early, user.packet.clone()));
        }
        kept
    }

    fn check(&mut self, rkey: Key, va: u64, length: u32, access: Access) -> Result<(), Fault> {
        self.page()?;
        self.user.resolve(rkey, va, length, access).map(|_| ())
    }

    fn place(&mut self, to: Target, payload: Span) -> Result<(), Fault> {
        self.page()?;
        let user = &mut *self.user;
        if payload.len == 0 {
            user.broke("an empty payload was placed".into());
        }
        let (mut to, mut payload) = (to, payload);
        if let (Some(brought), Target::Region { rkey, va }) = (user.brought, to) {
            payload = brought.rest(to, payload)?;
            user.resolve(rkey, va, brought.len, Access::REMOTE_WRITE)?;
            payload.offset -= brought.len;
            to = Target::Region {
                rkey,
                va: va + u64::from(brought.len),
            };
            if payload.len == 0 {
                return Ok(());
            }
        }
        let len = payload.len as usize;
        let at = match to {
            Target::Recv { slot, offset } => {
                let recv = user.recv(slot as usize);
                if slot as usize + 1 != user.taken_recvs {
                    user.broke(format!("receive {slot} is not the newest taken"));
                }
                if offset + payload.len > recv.length {
                    user.broke(format!("receive {slot} overrun"));
                    return Err(Fault::LocalLength);
                }
                if recv.bad == Some(Bad::Recv) {
                    return Err(Fault::LocalProtection);
                }
                recv.local + offset as usize
            }
            Target::Region { rkey, va } => user.resolve(rkey, va, payload.len, Access::REMOTE_WRITE)?,
            Target::ReadResult { slot, offset } => {
                let op = user.send(slot as usize);
                if (slot as usize) < user.send_completions.len() || slot as usize >= user.taken_sends {
                    user.broke(format!("READ {slot} is not in flight"));
                }
                if offset + payload.len > op.length {
                    user.broke(format!("READ {slot} overrun"));
                    return Err(Fault::LocalLength);
                }
                if op.bad == Some(Bad::Result) {
                    return Err(Fault::LocalProtection);
                }
                op.local + offset as usize
            }
        };
        let from = payload.offset as usize;
        let Some(bytes) = user.packet.get(from..from + len) else {
            user.broke("payload lies outside the packet".into());
            return Err(Fault::LocalLength);
        };
        match user.memory.get_mut(at..at + len) {
            Some(room) => room.copy_from_slice(bytes),
            None => user.broke("placement lies outside the memory".into()),
        }
        Ok(())
    }

    fn place_grh(&mut self, slot: u32) -> Result<(), Fault> {
        self.page()?;
        let user = &mut *self.user;
        let recv = user.recv(slot as usize);
        if slot as usize + 1 != user.taken_recvs || recv.length < limits::GRH_LEN {
            user.broke(format!("no room for a GRH in receive {slot}"));
            return Err(Fault::LocalLength);
        }
        user.memory[recv.local..recv.local + limits::GRH_LEN as usize].fill(GRH);
        Ok(())
    }

    fn atomic(&mut self, op: AtomicOp, rkey: Key, va: u64) -> Result<u64, Fault> {
        self.page()?;
        let act = |value: u64| match op {
            AtomicOp::CompareSwap { compare, swap } if value == compare => swap,
            AtomicOp::CompareSwap { .. } => value,
            AtomicOp::FetchAdd { add } => value.wrapping_add(add),
        };
        let user = &mut *self.user;
        if rkey == Key(SHARED) {
            let value = user.shared.get();
            user.shared.set(act(value));
            return Ok(value);
        }
        let at = user.resolve(rkey, va, 8, Access::REMOTE_ATOMIC)?;
        if at != user.plan.cell {
            user.broke(format!("an atomic at {at}"));
        }
        let mut value = [0; 8];
        value.copy_from_slice(&user.memory[at..at + 8]);
        let value = u64::from_ne_bytes(value);
        user.memory[at..at + 8].copy_from_slice(&act(value).to_ne_bytes());
        Ok(value)
    }

    fn atomic_result(&mut self, slot: u32, value: u64) -> Result<(), Fault> {
        self.page()?;
        let user = &mut *self.user;
        let op = user.send(slot as usize);
        if (slot as usize) < user.send_completions.len() || slot as usize >= user.taken_sends {
            user.broke(format!("atomic {slot} is not in flight"));
        }
        user.memory[op.local..op.local + 8].copy_from_slice(&value.to_ne_bytes());
        Ok(())
    }

    fn atomic_write(&mut self, rkey: Key, va: u64, payload: Span) -> Result<(), Fault> {
        self.place(Target::Region { rkey, va }, payload)
    }

    fn flush(&mut self, rkey: Key, va: u64, length: u32, kind: FlushKind) -> Result<(), Fault> {
        self.page()?;
        if kind.placement != 3 {
            self.user.broke(format!("{kind:?} was not asked for"));
        }
        self.user.resolve(rkey, va, length, Access::FLUSH_GLOBAL).map(|_| ())
    }

    fn invalidate(&mut self, key: Key) -> Result<(), Fault> {
        if key == Key(STALE) {
            return Err(Fault::RemoteInvalid);
        }
        self.user.invalidated.push(key);
        Ok(())
    }

    fn local(&mut self, slot: u32) -> Result<(), Fault> {
        let user = &mut *self.user;
        let slot = slot as usize;
        let op = user.send(slot);
        let done = user.send_completions.len();
        if user.locals.last().is_some_and(|last| *last >= slot) {
            user.broke(format!("local operation {slot} out of order"));
        }
        let before = &user.plan.ops[done..slot];
        if op.op == SendOp::LocalInvalidate && !before.iter().all(|op| op.op.is_local()) {
            user.broke(format!("key invalidated at {slot} when {done} sends were complete"));
        }
        if op.fence && user.plan.ops[done..slot].iter().any(|op| op.op.is_answered()) {
            user.broke(format!("local operation {slot} did not wait at its fence"));
        }
        user.locals.push(slot);
        if op.bad == Some(Bad::Local) {
            return Err(Fault::LocalProtection);
        }
        Ok(())
    }
}

/// A user lent to its engine, with what it knows of its peer's memory.
pub struct Lent<'a> {
    pub user: &'a mut User,
    pub peer: &'a EndPlan,
    pub peer_qpn: Qpn,
}

impl Lent<'_> {
    /// Memory is touched: an absent page is there from now on.
    fn page(&mut self) -> Result<(), Fault> {
        if std::mem::take(&mut self.user.absent) {
            return Err(Fault::Absent);
        }
        Ok(())
    }
}
