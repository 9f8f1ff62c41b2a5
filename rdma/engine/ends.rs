// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The two ends of a connection as one number in each direction, for a wire whose packets have no addresses.
//!
//! A train on a cable has a BTH, which names the queue pair that it is for, and neither IP nor UDP header. Whether it
//! comes from that queue pair's peer says the number beside it: FNV-1a, 64 bits, over the sender's GID, the receiver's
//! GID, the sender's and the receiver's QPN (3 bytes each, the highest first). Both ends compute it from their path.
//! It tells strays apart, those of a host that routes for another and those of a queue pair's former life; like an IP
//! address it is no secret.

use crate::{psn::Qpn, wire::udp::Addresses};

const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// The numbers of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// Of what we send.
    pub out: u64,
    /// Of what the peer sends.
    pub back: u64,
}

impl Ends {
    /// Those of the queue pair `own`, whose path to `peer` has these addresses.
    #[must_use]
    pub fn new(addresses: &Addresses, own: Qpn, peer: Qpn) -> Self {
        let (here, there) = (addresses.src_gid(), addresses.dst_gid());
        Self {
            out: number(&here, &there, own, peer),
            back: number(&there, &here, peer, own),
        }
    }
}

fn number(from: &[u8; 16], to: &[u8; 16], sender: Qpn, receiver: Qpn) -> u64 {
    let [_, sender @ ..] = sender.value().to_be_bytes();
    let [_, receiver @ ..] = receiver.value().to_be_bytes();
    let bytes = from.iter().chain(to).chain(&sender).chain(&receiver);
    bytes.fold(BASIS, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Addresses = Addresses::V4 {
        src: [10, 90, 0, 1],
        dst: [10, 90, 0, 2],
    };
    const THERE: Addresses = Addresses::V4 {
        src: [10, 90, 0, 2],
        dst: [10, 90, 0, 1],
    };

    #[test]
    fn what_one_sends_the_other_expects() {
        let (a, b) = (Qpn::new(0x80_0001), Qpn::new(0x80_0002));
        let (one, other) = (Ends::new(&HERE, a, b), Ends::new(&THERE, b, a));
        assert_eq!((one.out, one.back), (other.back, other.out));
        assert_ne!(one.out, one.back);
    }

    #[test]
    fn another_queue_pair_or_host_has_another_number() {
        let (a, b, c) = (Qpn::new(1), Qpn::new(2), Qpn::new(3));
        let one = Ends::new(&HERE, a, b);
        let behind = Addresses::V4 {
            src: [10, 90, 0, 1],
            dst: [10, 90, 0, 3],
        };
        for other in [
            Ends::new(&HERE, a, c),
            Ends::new(&HERE, c, b),
            Ends::new(&behind, a, b),
            Ends::new(&HERE, b, a),
        ] {
            assert!(other.out != one.out && other.back != one.back);
        }
    }

    #[test]
    fn golden() {
        let ends = Ends::new(&HERE, Qpn::new(0x80_0001), Qpn::new(0x80_0002));
        assert_eq!((ends.out, ends.back), (0x32f6_d2f8_ec5e_b2ef, 0xd257_e7bf_f418_8259));
    }
}
