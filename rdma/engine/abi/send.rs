// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Sends: an `rxe_send_wqe`, read and written.

use super::places::message_len;
use super::{bytes_at, put, u32_at, u64_at, Bind, Local, Place, Places, Sge, Vector};
use super::{FENCE, INLINE, SEND_HEADER, SEND_LENGTH, SIGNALED, SOLICITED, VECTOR};
use crate::fast::Registration;
use crate::fault::Fault;
use crate::keys::{Access, Key};
use crate::limits::ATOMIC_LEN;
use crate::psn::Qpn;
use crate::wire::FlushKind;
use crate::wqe::{AtomicOp, Datagram, SendOp, SendWqe};
use core::ops::DerefMut;

/// `IB_WR_REG_MR`.
const REGISTER: u32 = 0x20;

/// Where the fields of the header are. What an operation needs lies in a union: from 24 on they overlap.
mod at {
    pub(super) const WR_ID: usize = 0;
    pub(super) const OPCODE: usize = 12;
    pub(super) const FLAGS: usize = 16;
    /// Immediate data, or a key.
    pub(super) const EX: usize = 20;
    /// Of a WRITE, READ, atomic, FLUSH.
    pub(super) const VA: usize = 24;
    pub(super) const RKEY: usize = 32;
    pub(super) const COMPARE_ADD: usize = 32;
    pub(super) const SWAP: usize = 40;
    pub(super) const ATOMIC_RKEY: usize = 48;
    pub(super) const FLUSH_LENGTH: usize = 32;
    pub(super) const FLUSH_RKEY: usize = 36;
    pub(super) const FLUSH_KIND: usize = 40;
    /// Of a datagram.
    pub(super) const QPN: usize = 24;
    pub(super) const QKEY: usize = 28;
    pub(super) const AH: usize = 36;
    /// Of a window's bind, and of a registration.
    pub(super) const BASE: usize = 24;
    pub(super) const BOUND: usize = 32;
    pub(super) const REGION: usize = 40;
    pub(super) const WINDOW: usize = 44;
    pub(super) const NEW_KEY: usize = 48;
    pub(super) const ACCESS: usize = 52;
    /// Of all.
    pub(super) const SGES: usize = 196;
}

/// Where a send that this host writes goes.
#[derive(Clone, Copy, Debug)]
pub enum Destination {
    /// To the peer as a message.
    Peer,
    /// To the peer's memory.
    Remote {
        /// First address.
        va: u64,
        /// The peer's key.
        rkey: Key,
    },
    /// To eight bytes of the peer's memory.
    Atomic {
        /// Their address.
        va: u64,
        /// What they are compared with, or what is added.
        compare_add: u64,
        /// What they become.
        swap: u64,
        /// The peer's key.
        rkey: Key,
    },
    /// To this host alone: memory is put under a key.
    Register(Registration),
    /// As a datagram.
    Datagram {
        /// The receiver.
        qpn: Qpn,
        /// Its Q_Key.
        qkey: u32,
        /// The way to it.
        vector: Vector,
    },
}

/// The header of a send that this host writes.
#[derive(Clone, Copy, Debug)]
pub struct SendHeader {
    /// The poster's identifier.
    pub wr_id: u64,
    /// `IB_WR_*`.
    pub opcode: u32,
    /// `IB_SEND_*`.
    pub flags: u32,
    /// Immediate data, or the key to invalidate.
    pub ex: [u8; 4],
    /// Where it goes.
    pub to: Destination,
    /// Bytes of the message.
    pub length: u32,
    /// Entries of its scatter list.
    pub sges: u32,
}

impl SendHeader {
    /// The bytes that [`Places::take_send`] reads.
    #[must_use]
    pub fn bytes(&self) -> [u8; SEND_HEADER] {
        let mut out = [0; SEND_HEADER];
        put(&mut out, at::WR_ID, &self.wr_id.to_ne_bytes());
        put(&mut out, at::OPCODE, &self.opcode.to_ne_bytes());
        put(&mut out, at::FLAGS, &self.flags.to_ne_bytes());
        put(&mut out, at::EX, &self.ex);
        match &self.to {
            Destination::Peer => {}
            Destination::Remote { va, rkey } => {
                put(&mut out, at::VA, &va.to_ne_bytes());
                put(&mut out, at::RKEY, &rkey.0.to_ne_bytes());
            }
            Destination::Atomic {
                va,
                compare_add,
                swap,
                rkey,
            } => {
                put(&mut out, at::VA, &va.to_ne_bytes());
                put(&mut out, at::COMPARE_ADD, &compare_add.to_ne_bytes());
                put(&mut out, at::SWAP, &swap.to_ne_bytes());
                put(&mut out, at::ATOMIC_RKEY, &rkey.0.to_ne_bytes());
            }
            Destination::Register(wanted) => {
                put(&mut out, at::EX, &wanted.key.0.to_ne_bytes());
                put(&mut out, at::BASE, &wanted.base.to_ne_bytes());
                put(&mut out, at::BOUND, &wanted.length.to_ne_bytes());
                put(&mut out, at::ACCESS, &wanted.access.0.to_ne_bytes());
            }
            Destination::Datagram { qpn, qkey, vector } => {
                put(&mut out, at::QPN, &qpn.value().to_ne_bytes());
                put(&mut out, at::QKEY, &qkey.to_ne_bytes());
                put(&mut out, VECTOR, &vector.bytes());
            }
        }
        put(&mut out, SEND_LENGTH, &self.length.to_ne_bytes());
        put(&mut out, at::SGES, &self.sges.to_ne_bytes());
        out
    }
}

impl<P, S, I> Places<P, S, I>
where
    P: DerefMut<Target = [Place]>,
    S: DerefMut<Target = [Sge]>,
    I: DerefMut<Target = [u8]>,
{
    /// Takes a send into the next place. `raw` is its header, `read` copies bytes from further on in it.
    /// The caller has seen that there is room. With `signal_all` it completes visibly whatever it asks.
    pub fn take_send(
        &mut self,
        raw: &[u8; SEND_HEADER],
        signal_all: bool,
        read: impl FnMut(usize, &mut [u8]),
    ) -> SendWqe {
        let slot = self.take();
        let flags = u32_at(raw, at::FLAGS);
        let op = operation(raw, self.is_for_kernel());
        let kept = self.keep_send(slot, op, raw, read);
        let op = op.unwrap_or(SendOp::Send);
        let rkey_at = match op {
            SendOp::Atomic(_) => at::ATOMIC_RKEY,
            SendOp::Flush(_) => at::FLUSH_RKEY,
            _ => at::RKEY,
        };
        SendWqe {
            wr_id: u64_at(raw, at::WR_ID),
            op,
            length: kept.unwrap_or(0),
            remote_va: u64_at(raw, at::VA),
            rkey: Key(u32_at(raw, rkey_at)),
            imm: bytes_at(raw, at::EX),
            signalled: signal_all || flags & SIGNALED != 0,
            solicited: flags & SOLICITED != 0,
            fence: flags & FENCE != 0,
            datagram: Datagram {
                dest: Qpn::new(u32_at(raw, at::QPN)),
                qkey: u32_at(raw, at::QKEY),
                ah: u32_at(raw, at::AH),
            },
            slot,
            fault: kept.err(),
        }
    }

    /// Keeps what the operation needs; the result is the message's length.
    fn keep_send(
        &mut self,
        slot: u32,
        op: Option<SendOp>,
        raw: &[u8; SEND_HEADER],
        read: impl FnMut(usize, &mut [u8]),
    ) -> Result<u32, Fault> {
        // What an earlier request left here is not this one's.
        self.keep_local(slot, None);
        let is_inline = u32_at(raw, at::FLAGS) & INLINE != 0;
        let sges = u32_at(raw, at::SGES);
        match op.ok_or(Fault::LocalQpOp)? {
            SendOp::Read | SendOp::Atomic(_) if is_inline => Err(Fault::LocalQpOp),
            op if op.is_local() => {
                self.keep_local(slot, local(raw));
                Ok(0)
            }
            SendOp::Flush(_) => Ok(u32_at(raw, at::FLUSH_LENGTH)),
            SendOp::AtomicWrite => self.keep_inline(slot, ATOMIC_LEN, SEND_HEADER, read),
            SendOp::Atomic(_) => match self.keep_sges(slot, sges, SEND_HEADER, read).and_then(message_len)? {
                ATOMIC_LEN.. => Ok(ATOMIC_LEN),
                _ => Err(Fault::LocalLength),
            },
            _ if is_inline => self.keep_inline(slot, u32_at(raw, SEND_LENGTH), SEND_HEADER, read),
            _ => self.keep_sges(slot, sges, SEND_HEADER, read).and_then(message_len),
        }
    }
}

/// What a request asks for, if we know it.
fn operation(raw: &[u8; SEND_HEADER], for_kernel: bool) -> Option<SendOp> {
    Some(match u32_at(raw, at::OPCODE) {
        0 => SendOp::Write,
        1 => SendOp::WriteImm,
        2 => SendOp::Send,
        3 => SendOp::SendImm,
        4 => SendOp::Read,
        5 => SendOp::Atomic(AtomicOp::CompareSwap {
            compare: u64_at(raw, at::COMPARE_ADD),
            swap: u64_at(raw, at::SWAP),
        }),
        6 => SendOp::Atomic(AtomicOp::FetchAdd {
            add: u64_at(raw, at::COMPARE_ADD),
        }),
        7 => SendOp::LocalInvalidate,
        8 => SendOp::BindWindow,
        9 => SendOp::SendInvalidate {
            key: Key(u32_at(raw, at::EX)),
        },
        14 => {
            let [placement, level] = bytes_at(raw, at::FLUSH_KIND);
            SendOp::Flush(FlushKind { placement, level })
        }
        15 => SendOp::AtomicWrite,
        REGISTER if for_kernel => SendOp::Register,
        _ => return None,
    })
}

/// The rest of a request that is carried out here.
fn local(raw: &[u8; SEND_HEADER]) -> Option<Local> {
    match u32_at(raw, at::OPCODE) {
        7 => Some(Local::Invalidate(Key(u32_at(raw, at::EX)))),
        8 => Some(Local::Bind(Bind {
            base: u64_at(raw, at::BASE),
            length: u64_at(raw, at::BOUND),
            region: Key(u32_at(raw, at::REGION)),
            window: Key(u32_at(raw, at::WINDOW)),
            new: Key(u32_at(raw, at::NEW_KEY)),
            access: u32_at(raw, at::ACCESS),
        })),
        // No form of user space's: what callers in the kernel write, who alone may ask for it.
        REGISTER => Some(Local::Register(Registration {
            key: Key(u32_at(raw, at::EX)),
            base: u64_at(raw, at::BASE),
            length: u64_at(raw, at::BOUND),
            access: Access(u32_at(raw, at::ACCESS)),
        })),
        _ => None,
    }
}
