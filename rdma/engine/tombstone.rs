// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What remains of a destroyed queue pair: enough to acknowledge what it had carried out.
//!
//! An application destroys its queue pair when its own work is complete. If the last ACK was lost
//! the peer asks again, and would fail although everything arrived. The caller keeps the [`Tombstone`]
//! for as long as the peer may retry and hands it the packets that come for the old number.

use crate::attrs::{QpKind, State};
use crate::limits;
use crate::opcode::{Class, Opcode};
use crate::psn::{Msn, Psn, Qpn};
use crate::qp::{Qp, Storage};
use crate::responder::Answer;
use crate::wire::{Aeth, Bth, HeaderBuf, Packet, Syndrome};
use crate::wqe::{Source, Transmit};

/// The responder's memory of a destroyed reliable queue pair.
#[derive(Clone, Copy, Debug)]
pub struct Tombstone {
    dest: Qpn,
    expected: Psn,
    /// The newest SEND or WRITE carried out.
    acked: Psn,
    msn: Msn,
    /// The error NAK that ended it.
    last_word: Option<Answer>,
}

impl Tombstone {
    /// The peer's queue pair: from it alone packets may come.
    #[must_use]
    pub const fn dest(&self) -> Qpn {
        self.dest
    }

    /// The answer to `packet`, which was addressed to the queue pair that was: an ACK to a SEND or
    /// WRITE that had been carried out and asks for one, or the NAK that ended it. Everything else has
    /// no answer; nor have READs and atomics that had been carried out, whose data is gone.
    #[must_use]
    pub fn answer(&self, packet: &Packet) -> Option<Transmit> {
        if packet.class != Class::Rc || packet.opcode.is_response() {
            return None;
        }
        let answer = match self.last_word {
            Some(word) if !packet.bth.psn.before(word.psn) => word,
            _ if !packet.bth.psn.before(self.expected) => return None,
            _ => match packet.opcode {
                Opcode::Send { .. } | Opcode::SendInvalidate { .. } | Opcode::Write { .. }
                    if packet.bth.ack_request =>
                {
                    Answer {
                        psn: self.acked,
                        syndrome: Syndrome::ACK,
                    }
                }
                _ => return None,
            },
        };
        Some(self.say(answer))
    }

    /// What the queue pair said last, or may have said: who carried it has lost it ([`crate::lost`]).
    #[must_use]
    pub fn repeat(&self) -> Transmit {
        self.say(self.last_word.unwrap_or(Answer {
            psn: self.acked,
            syndrome: Syndrome::ACK,
        }))
    }

    fn say(&self, answer: Answer) -> Transmit {
        let mut header = HeaderBuf::new();
        let bth = Bth {
            opcode: Opcode::Acknowledge.encode_rc(),
            solicited: false,
            migrated: false,
            run: false,
            pad: 0,
            pkey: limits::DEFAULT_PKEY,
            dest: self.dest,
            ack_request: false,
            psn: answer.psn,
        };
        header.push(&bth.bytes());
        let aeth = Aeth {
            syndrome: answer.syndrome,
            msn: self.msn,
        };
        header.push(&aeth.bytes());
        Transmit {
            header,
            payload: Source::None,
            pad: 0,
            psn: answer.psn,
            packets: 1,
            route: None,
        }
    }
}

impl<S: Storage> Qp<S> {
    /// What to keep when this queue pair is destroyed, or nothing if no peer can be waiting: it is
    /// not reliable, or never received.
    pub fn tombstone(&self) -> Option<Tombstone> {
        if self.config.kind != QpKind::Rc || matches!(self.attrs.state, State::Reset | State::Init) {
            return None;
        }
        self.responder.epitaph(self.attrs.dest_qpn)
    }
}

impl crate::responder::Responder {
    /// Its part of the tombstone, if it has carried anything out or refused something.
    fn epitaph(&self, dest: Qpn) -> Option<Tombstone> {
        if !self.is_used() {
            return None;
        }
        Some(Tombstone {
            dest,
            expected: self.expected(),
            acked: self.acked(),
            msn: self.msn(),
            last_word: self.last_word(),
        })
    }
}
