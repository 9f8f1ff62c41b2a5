// SPDX-License-Identifier: GPL-2.0 OR MIT
//! One end of a connection: an engine, its user's memory and queues, and what the user has seen.

use crate::scenario::{Bad, EndPlan, Op, Recv, Region};
use roce::completion::{Completion, Event};
use roce::keys::{self, Access, Key};
use roce::qp::{Qp, ReadResource, SendMessage, Slots};
use roce::tombstone::Tombstone;
use roce::wqe::{Fault, Host, RecvWqe, SendWqe, Source, Span, Target};

/// The engine as the simulation builds it.
pub type Engine = Qp<Slots<Vec<SendMessage>, Vec<ReadResource>>>;

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
    /// The packet being handled, from its BTH on.
    pub packet: Vec<u8>,
    /// Completions seen, in order.
    pub send_completions: Vec<Completion>,
    pub recv_completions: Vec<Completion>,
    pub events: Vec<Event>,
    /// The first rule the engine broke in a call.
    pub broken: Option<String>,
}

/// One end.
pub struct Endpoint {
    pub engine: Engine,
    pub user: User,
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
    pub fn new(plan: &EndPlan, fill: &mut crate::rng::Rng) -> Self {
        let mut memory = vec![0; plan.memory];
        fill.fill(&mut memory);
        Self {
            plan: plan.clone(),
            memory,
            posted_sends: 0,
            posted_recvs: 0,
            taken_sends: 0,
            taken_recvs: 0,
            packet: Vec::new(),
            send_completions: Vec::new(),
            recv_completions: Vec::new(),
            events: Vec::new(),
            broken: None,
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

    fn resolve(&self, rkey: Key, va: u64, len: u32, access: Access) -> Result<usize, Fault> {
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
            slot: index as u32,
            fault: match op.bad {
                Some(Bad::Snapshot(fault)) => Some(fault),
                _ => None,
            },
            ..SendWqe::EMPTY
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

    fn check(&mut self, rkey: Key, va: u64, length: u32, access: Access) -> Result<(), Fault> {
        self.user.resolve(rkey, va, length, access).map(|_| ())
    }

    fn place(&mut self, to: Target, payload: Span) -> Result<(), Fault> {
        let user = &mut *self.user;
        let len = payload.len as usize;
        if len == 0 {
            user.broke("an empty payload was placed".into());
        }
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
}

/// A user lent to its engine, with what it knows of its peer's memory.
pub struct Lent<'a> {
    pub user: &'a mut User,
    pub peer: &'a EndPlan,
}
