// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Sends out of an `rxe_send_wqe`.

use super::places::message_len;
use super::{bytes_at, u32_at, u64_at, Bind, Local, Place, Places, Sge};
use super::{FENCE, INLINE, SEND_HEADER, SEND_LENGTH, SIGNALED, SOLICITED};
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
        let flags = u32_at(raw, 16);
        let op = operation(raw, self.is_for_kernel());
        let kept = self.keep_send(slot, op, raw, read);
        let op = op.unwrap_or(SendOp::Send);
        let rkey_at = match op {
            SendOp::Atomic(_) => 48,
            SendOp::Flush(_) => 36,
            _ => 32,
        };
        SendWqe {
            wr_id: u64_at(raw, 0),
            op,
            length: kept.unwrap_or(0),
            remote_va: u64_at(raw, 24),
            rkey: Key(u32_at(raw, rkey_at)),
            imm: bytes_at(raw, 20),
            signalled: signal_all || flags & SIGNALED != 0,
            solicited: flags & SOLICITED != 0,
            fence: flags & FENCE != 0,
            datagram: Datagram {
                dest: Qpn::new(u32_at(raw, 24)),
                qkey: u32_at(raw, 28),
                ah: u32_at(raw, 36),
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
        let is_inline = u32_at(raw, 16) & INLINE != 0;
        let sges = u32_at(raw, 196);
        match op.ok_or(Fault::LocalQpOp)? {
            SendOp::Read | SendOp::Atomic(_) if is_inline => Err(Fault::LocalQpOp),
            op if op.is_local() => {
                self.keep_local(slot, local(raw));
                Ok(0)
            }
            SendOp::Flush(_) => Ok(u32_at(raw, 32)),
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
    Some(match u32_at(raw, 12) {
        0 => SendOp::Write,
        1 => SendOp::WriteImm,
        2 => SendOp::Send,
        3 => SendOp::SendImm,
        4 => SendOp::Read,
        5 => SendOp::Atomic(AtomicOp::CompareSwap {
            compare: u64_at(raw, 32),
            swap: u64_at(raw, 40),
        }),
        6 => SendOp::Atomic(AtomicOp::FetchAdd { add: u64_at(raw, 32) }),
        7 => SendOp::LocalInvalidate,
        8 => SendOp::BindWindow,
        9 => SendOp::SendInvalidate {
            key: Key(u32_at(raw, 20)),
        },
        14 => {
            let [placement, level] = bytes_at(raw, 40);
            SendOp::Flush(FlushKind { placement, level })
        }
        15 => SendOp::AtomicWrite,
        REGISTER if for_kernel => SendOp::Register,
        _ => return None,
    })
}

/// The rest of a request that is carried out here.
fn local(raw: &[u8; SEND_HEADER]) -> Option<Local> {
    match u32_at(raw, 12) {
        7 => Some(Local::Invalidate(Key(u32_at(raw, 20)))),
        8 => Some(Local::Bind(Bind {
            base: u64_at(raw, 24),
            length: u64_at(raw, 32),
            region: Key(u32_at(raw, 40)),
            window: Key(u32_at(raw, 44)),
            new: Key(u32_at(raw, 48)),
            access: u32_at(raw, 52),
        })),
        // No form of user space's: what callers in the kernel write, who alone may ask for it.
        REGISTER => Some(Local::Register(Registration {
            key: Key(u32_at(raw, 20)),
            base: u64_at(raw, 24),
            length: u64_at(raw, 32),
            access: Access(u32_at(raw, 52)),
        })),
        _ => None,
    }
}
