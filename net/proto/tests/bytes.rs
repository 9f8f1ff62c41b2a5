// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Any bytes, at any time, into every machine: no panic, no storm, no action out of turn.

#[path = "support/sim.rs"]
mod sim;

use sim::{seeds, Rng};
use tbip::frame::{Head, Header, Seq};
use tbip::login::{self, Login};
use tbip::native::{self, Abilities, Features};
use tbip::rail::{self, Rail};
use tbip::stock;
use tbip::time::Instant;
use tbip::train::{Arrival, Inbound};
use tbip::wire::{Ends, HopId, Mac, Route, Uuid};

const ENDS: Ends = Ends {
    local: Uuid([1; 16]),
    remote: Uuid([2; 16]),
    route: Route(1),
};

/// A message for the cable whose rest is any bytes; sometimes not even that.
fn message(rng: &mut Rng, protocol: Uuid, epoch: u64) -> Vec<u8> {
    let len = 68 + 4 * rng.below(30) as usize;
    let mut bytes: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
    if rng.chance(0.97) {
        bytes[..12].copy_from_slice(&[0, 0, 0, 0x80, 1, 0, 0, 0, ((len - 12) / 4) as u8, 0, 0, 0]);
        bytes[12..28].copy_from_slice(&protocol.0);
        bytes[28..44].copy_from_slice(&ENDS.remote.0);
        bytes[44..60].copy_from_slice(&ENDS.local.0);
        bytes[60..64].copy_from_slice(&(rng.below(6) as u32).to_le_bytes());
    }
    if len >= 152 && rng.chance(0.9) {
        bytes[68..72].copy_from_slice(&[1, 1, rng.below(4) as u8, 0]);
        bytes[76..80].fill(0);
        // A few epochs, often naming ours.
        bytes[80..88].copy_from_slice(&(1 + rng.below(5)).to_le_bytes());
        if rng.chance(0.7) {
            bytes[88..96].copy_from_slice(&epoch.to_le_bytes());
        }
        bytes[116] = rng.below(9) as u8;
        for lane in 0..8 {
            let at = 120 + 4 * lane;
            bytes[at..at + 4].copy_from_slice(&[rng.below(20) as u8, 0, 0, 1]);
        }
    }
    bytes
}

#[test]
fn any_messages_leave_the_rail_machine_sane() {
    seeds("bytes", 100, &[], |seed| {
        let mut rng = Rng::new(seed);
        let abilities = Abilities::ours(Mac([2; 6]), 1500, 2, 64, Features(0));
        let mut rail = Rail::new(rail::Config { ends: ENDS, abilities }, 10);
        rail.start(Instant(0));
        let mut doing = None;
        let mut now = 0u64;
        for _ in 0..400 {
            now += rng.below(50_000_000);
            let t = Instant(now);
            let bytes = message(&mut rng, native::PROTOCOL, rail.epoch());
            let _ = rail.handle_message(t, &bytes);
            rail.handle_timeout(t);
            if rng.chance(0.5) {
                match doing.take() {
                    Some(rail::Action::Allocate { .. }) if rng.chance(0.9) => {
                        rail.handle_allocated(t, Some(&[HopId(8), HopId(9)]));
                    }
                    Some(rail::Action::Allocate { .. }) => rail.handle_allocated(t, None),
                    Some(rail::Action::Open(_)) if rng.chance(0.9) => rail.handle_opened(t, Ok(())),
                    Some(rail::Action::Open(_)) => rail.handle_opened(t, Err(rail::OpenError::Busy(rng.next() as u32))),
                    Some(rail::Action::Close) => rail.handle_closed(t),
                    None => {}
                }
            }
            if let Some(action) = rail.poll_action() {
                assert!(doing.replace(action).is_none(), "two actions at once");
            }
            while rail.poll_event().is_some() {}
            let sent = std::iter::from_fn(|| rail.poll_transmit(t)).take(5).count();
            assert!(sent < 5, "a storm of messages");
            match rng.below(60) {
                0 => rail.stop(t),
                1 => rail.start(t),
                2 => rail.handle_fault(t),
                // Answers to nothing that was asked.
                3 if doing.is_none() => rail.handle_closed(t),
                _ => {}
            }
        }
    });
}

#[test]
fn any_messages_leave_the_login_machine_sane() {
    seeds("bytes", 100, &[], |seed| {
        let mut rng = Rng::new(seed);
        let config = login::Config {
            ends: ENDS,
            mac: Mac([2; 6]),
            path: HopId(8),
        };
        let mut login = Login::new(config, 0);
        login.start(Instant(0), HopId(8));
        let mut doing = None;
        let mut now = 0u64;
        for _ in 0..400 {
            now += rng.below(200_000_000);
            let t = Instant(now);
            let mut bytes = message(&mut rng, stock::PROTOCOL, 0);
            if bytes.len() >= 76 && rng.chance(0.9) {
                bytes[64..76].copy_from_slice(&[
                    rng.below(20) as u8,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    rng.below(20) as u8,
                    0,
                    0,
                    0,
                ]);
            }
            let _ = login.handle_message(t, &bytes);
            login.handle_timeout(t);
            if rng.chance(0.5) {
                match doing.take() {
                    Some(login::Action::Open { .. }) => login.handle_opened(t, rng.chance(0.8)),
                    Some(login::Action::Close) => login.handle_closed(t),
                    None => {}
                }
            }
            if let Some(action) = login.poll_action() {
                assert!(doing.replace(action).is_none(), "two actions at once");
            }
            let sent = std::iter::from_fn(|| login.poll_transmit(t)).take(5).count();
            assert!(sent < 5, "a storm of messages");
            match rng.below(60) {
                0 => login.stop(t),
                1 => login.start(t, HopId(9)),
                2 => login.handle_traffic(t),
                _ => {}
            }
        }
    });
}

#[test]
fn any_frames_leave_a_lane_sane() {
    seeds("bytes", 100, &[], |seed| {
        let mut rng = Rng::new(seed);
        let first = Seq(rng.next() as u32);
        let mut lane = Inbound::new(first, 256);
        for _ in 0..2_000 {
            let len = rng.below(64) as usize;
            let mut bytes: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
            if len >= 16 && rng.chance(0.8) {
                bytes[0] = 1 + rng.below(3) as u8;
                bytes[2..4].copy_from_slice(&(len as u16 - 16).to_le_bytes());
                let seq = first.plus(rng.below(3_000) as u32);
                bytes[4..8].copy_from_slice(&seq.0.to_le_bytes());
                bytes[13..16].copy_from_slice(&[0, 0, rng.below(3) as u8]);
            }
            let arrival = Arrival {
                sof: rng.pick(&[1, 1, 1, 0]),
                eof: rng.below(16) as u8,
                len,
                spoiled: rng.chance(0.01),
            };
            lane.handle_frame(&bytes, arrival);
            if let Ok(header) = Header::parse(&bytes, len) {
                let _ = Head::parse(&header, &bytes);
            }
            lane.handle_posted(rng.below(3) as u32);
            if lane.credit_due() {
                lane.credit();
            }
        }
    });
}
