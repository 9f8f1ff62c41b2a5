// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Frames of a stock peer under loss, corruption, duplicates and swaps: what comes out of reassembly
//! is what was sent, once, and every frame is accounted for.

#[path = "support/sim.rs"]
mod sim;

use sim::{seeds, Rng};
use tbip::stock::frame::{Header, Segments};
use tbip::stock::reassembly::{Arrival, Frame, Reassembler};

struct Sent {
    bytes: Vec<u8>,
    spoiled: bool,
}

/// Packet `id`: its bytes tell where they belong.
fn packet(id: u16, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(u64::from(id));
    (0..len).map(|_| rng.next() as u8).collect()
}

#[test]
fn packets_come_out_as_they_went_in_or_not_at_all() {
    seeds("frames_sim", 150, &[], |seed| {
        let mut rng = Rng::new(seed);
        let (loss, corrupt) = (rng.pick(&[0.0, 0.01, 0.2]), rng.pick(&[0.0, 0.01, 0.1]));
        let (dup, swap) = (rng.pick(&[0.0, 0.01, 0.1]), rng.pick(&[0.0, 0.01, 0.1]));
        let mut lens = vec![];
        let mut wire: Vec<Sent> = vec![];
        for id in 0..60u16 {
            let len = rng.pick(&[60, 4084, 4085, 9_000, 20_000]);
            lens.push(len);
            let bytes = packet(id, len);
            for s in Segments::new(len, id).unwrap() {
                if rng.chance(loss) {
                    continue;
                }
                let payload = &bytes[s.offset..s.offset + s.header.size as usize];
                for _ in 0..1 + u32::from(rng.chance(dup)) {
                    let mut bytes = [&s.header.bytes()[..], payload].concat();
                    let spoiled = rng.chance(corrupt);
                    if spoiled {
                        let at = rng.below(bytes.len() as u64) as usize;
                        bytes[at] ^= 0x55;
                    }
                    wire.push(Sent { bytes, spoiled });
                    let n = wire.len();
                    if n > 1 && rng.chance(swap) {
                        wire.swap(n - 1, n - 2);
                    }
                }
            }
        }
        let mut r = Reassembler::new();
        let (mut open, mut pieces) = (Vec::<u8>::new(), 0u64);
        let (mut taken, mut aborted, mut dropped) = (0u64, 0u64, 0u64);
        let mut delivered = vec![];
        for sent in &wire {
            let arrival = Arrival {
                len: sent.bytes.len(),
                crc_error: sent.spoiled,
                overrun: false,
            };
            let verdict = r.handle_frame(&sent.bytes, arrival);
            if verdict.abort.is_some() {
                aborted += pieces;
                open.clear();
                pieces = 0;
            }
            match verdict.frame {
                Frame::Piece { offset, len, last } => {
                    assert_eq!(offset, open.len());
                    open.extend(&sent.bytes[Header::LEN..Header::LEN + len]);
                    pieces += 1;
                    if last {
                        let id = Header::parse(&sent.bytes).unwrap().id;
                        assert!(open == packet(id, lens[usize::from(id)]), "packet {id} was changed");
                        delivered.push(id);
                        taken += pieces;
                        open.clear();
                        pieces = 0;
                    }
                }
                Frame::Dropped(_) => dropped += 1,
            }
        }
        assert_eq!(wire.len() as u64, taken + aborted + dropped + pieces);
        assert_eq!(r.counters().packets, delivered.len() as u64);
        if loss + corrupt + dup + swap == 0.0 {
            assert_eq!(delivered, (0..60).collect::<Vec<u16>>());
        } else if dup == 0.0 {
            // A packet of one frame that comes twice is two packets; ThunderboltIP cannot tell.
            delivered.sort_unstable();
            let n = delivered.len();
            delivered.dedup();
            assert_eq!(delivered.len(), n, "delivered twice");
        }
    });
}
