// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Each fault does what it says to data frames, and nothing else; hostile guests do not hurt the model.

mod common;

use common::*;
use usb4_model::*;

const RATES: [Option<u64>; 2] = [None, Some(40_000_000_000)];

fn faulty(rate: Option<u64>, rules: Rules) -> World {
    let mut world = World::talking(&pair(Profile::Strix, 1, rate, 0), 0, 0);
    world.fabric.set_faults(None, rules, Some(42));
    world
}

/// Sends numbered frames one by one; gives the numbers and flags that arrive.
fn numbers(world: &mut World, count: u8) -> Vec<(u8, u32)> {
    let mut arrived = Vec::new();
    for number in 0..count {
        world.send(0, 1, &[number; 32]);
        world.run_ns(1_000);
        assert_eq!(world.reap(0, 1), 1, "a fault of the cable does not stop the sender");
        let frames = world.receive(1, 1);
        world.fill(1, 1, frames.len() as u32);
        // Most bytes tell the number even if one of them is damaged.
        let number = |frame: &Frame| {
            if frame.bytes[0] == frame.bytes[1] {
                frame.bytes[0]
            } else {
                frame.bytes[2]
            }
        };
        arrived.extend(frames.iter().map(|frame| (number(frame), frame.flags)));
    }
    arrived
}

#[test]
fn dropped_frames_are_gone_and_their_descriptors_completed() {
    for rate in RATES {
        let mut world = faulty(
            rate,
            Rules {
                drop: 0.25,
                ..Rules::default()
            },
        );
        let arrived = numbers(&mut world, 200);
        let dropped = world.fabric.cables()[0].faults.injected.drop;
        assert!((30..70).contains(&dropped), "{dropped}");
        assert_eq!(arrived.len() as u64 + dropped, 200);
        assert!(arrived.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}

#[test]
fn corrupt_frames_carry_the_flag_and_a_changed_byte() {
    for rate in RATES {
        let mut world = faulty(
            rate,
            Rules {
                corrupt: 1.0,
                ..Rules::default()
            },
        );
        world.send(0, 1, &[9; 64]);
        world.run_ns(1_000);
        let frames = world.receive(1, 1);
        assert_eq!(frames[0].flags, 3);
        assert_eq!(frames[0].bytes.iter().filter(|&&byte| byte != 9).count(), 1);
    }
}

#[test]
fn duplicates_arrive_right_behind_the_original() {
    for rate in RATES {
        let mut world = faulty(
            rate,
            Rules {
                duplicate: 1.0,
                ..Rules::default()
            },
        );
        let arrived = numbers(&mut world, 3);
        assert_eq!(arrived, [(0, 2), (0, 2), (1, 2), (1, 2), (2, 2), (2, 2)]);
    }
}

#[test]
fn delayed_frames_are_overtaken_and_arrive() {
    for rate in RATES {
        let mut world = faulty(
            rate,
            Rules {
                delay: 0.2,
                delay_ns: 5_500,
                ..Rules::default()
            },
        );
        let mut arrived = numbers(&mut world, 100);
        world.run_ms(1);
        arrived.extend(world.receive(1, 1).iter().map(|frame| (frame.bytes[0], frame.flags)));
        assert!(arrived.windows(2).any(|pair| pair[0].0 > pair[1].0));
        arrived.sort_unstable();
        assert_eq!(arrived, (0..100).map(|number| (number, 2)).collect::<Vec<_>>());
    }
}

#[test]
fn reordered_frames_change_places_with_the_next() {
    for rate in RATES {
        let mut world = faulty(
            rate,
            Rules {
                reorder: 1.0,
                ..Rules::default()
            },
        );
        world.send(0, 1, &[1; 32]);
        world.run_ns(1_000);
        assert!(world.receive(1, 1).is_empty());
        world.fabric.set_faults(None, Rules::default(), None);
        world.send(0, 1, &[2; 32]);
        world.run_ns(1_000);
        let order: Vec<u8> = world.receive(1, 1).iter().map(|frame| frame.bytes[0]).collect();
        assert_eq!(order, [2, 1]);
        // Alone, it goes on after a while.
        world.fabric.set_faults(
            None,
            Rules {
                reorder: 1.0,
                ..Rules::default()
            },
            None,
        );
        world.send(0, 1, &[3; 32]);
        world.run_ms(2);
        assert_eq!(world.receive(1, 1)[0].bytes[0], 3);
    }
}

#[test]
fn a_stranded_completion_is_there_without_an_interrupt() {
    for rate in RATES {
        let mut world = faulty(
            rate,
            Rules {
                strand: 1.0,
                ..Rules::default()
            },
        );
        world.send(0, 1, &[1; 32]);
        world.run_ms(1);
        assert_eq!(world.interrupts_of(1, false, 1), 0);
        assert_eq!(world.read(1, 0x37800) >> 4 & 1, 0, "no status either");
        assert_eq!(world.receive(1, 1).len(), 1);
        world.fabric.set_faults(None, Rules::default(), None);
        world.send(0, 1, &[2; 32]);
        world.run_ms(1);
        assert_eq!(world.interrupts_of(1, false, 1), 1);
    }
}

#[test]
fn a_lost_interrupt_leaves_the_status_set() {
    for rate in RATES {
        let mut world = faulty(
            rate,
            Rules {
                lost_irq: 1.0,
                ..Rules::default()
            },
        );
        world.send(0, 1, &[1; 32]);
        world.run_ms(1);
        assert_eq!(world.interrupts_of(1, false, 1), 0);
        assert_eq!(world.read(1, 0x37800) >> 4 & 1, 1);
        world.fabric.set_faults(None, Rules::default(), None);
        world.send(0, 1, &[2; 32]);
        world.run_ms(1);
        assert_eq!(world.interrupts_of(1, false, 1), 0, "the bit is set already");
        world.acknowledge(1, false, 1);
        assert_eq!(world.interrupts_of(1, false, 1), 1, "and tells after the clear");
    }
}

#[test]
fn an_overrun_drops_instead_of_waiting() {
    for rate in RATES {
        let mut world = faulty(
            rate,
            Rules {
                overrun: 1.0,
                ..Rules::default()
            },
        );
        for _ in 0..2 {
            for number in 0..10 {
                world.send(0, 1, &[number; 32]);
            }
            world.run_ms(1);
            assert_eq!(world.reap(0, 1), 10);
        }
        assert_eq!(world.receive(1, 1).len(), RING as usize - 1);
        assert_eq!(world.fabric.cables()[0].faults.injected.overrun, 5);
        assert_eq!(world.read(1, 0x37800) >> 7 & 1, 1, "overflow status");
    }
}

#[test]
fn faults_leave_the_control_channel_alone() {
    let all = Rules {
        drop: 1.0,
        corrupt: 1.0,
        duplicate: 1.0,
        lost_irq: 1.0,
        ..Rules::default()
    };
    let mut world = faulty(None, all);
    assert!(world.config_read(0, 2, 0, 0, 5).is_ok());
    world.send_control(0, 6, &[1 << 31, 1, 7]);
    assert_eq!(world.take_control(1).len(), 1);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let rules = Rules {
            drop: 0.1,
            duplicate: 0.1,
            delay: 0.1,
            delay_ns: 3_000,
            reorder: 0.1,
            ..Rules::default()
        };
        let mut world = faulty(Some(40_000_000_000), rules);
        world.fabric.set_faults(None, rules, Some(seed));
        let mut all = Vec::new();
        for number in 0..200 {
            world.send(0, 1, &[number; 32]);
            world.run_ns(700);
            world.reap(0, 1);
            let frames = world.receive(1, 1);
            world.fill(1, 1, frames.len() as u32);
            all.push((frames, world.fabric.next_event()));
        }
        all
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

/// A linear congruential generator is random enough to annoy.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 32) as u32
    }
}

#[test]
fn no_guest_can_make_the_model_panic() {
    for seed in 0..60 {
        let mut noise = Noise(seed);
        let rate = RATES[seed as usize % 2];
        let profile = if seed % 4 < 2 { Profile::Strix } else { Profile::Intel };
        let mut world = World::talking(&pair(profile, 1, rate, 100), if seed % 3 == 0 { E2E } else { 0 }, 0);
        let everything = Rules {
            drop: 0.1,
            corrupt: 0.2,
            duplicate: 0.2,
            delay: 0.2,
            delay_ns: 1_000,
            reorder: 0.2,
            strand: 0.1,
            lost_irq: 0.1,
            overrun: 0.1,
        };
        world.fabric.set_faults(None, everything, Some(seed));
        let interesting = [
            0x0, 0x10, 0x20, 0x8000, 0x8010, 0x8020, 0x19800, 0x19820, 0x29800, 0x29820, 0x37808, 0x38200,
        ];
        for _ in 0..3_000 {
            let nhi = noise.next() as usize % 2;
            let offset = match noise.next() % 4 {
                0 => noise.next() % 0x4_0000,
                _ => interesting[noise.next() as usize % interesting.len()] + 4 * (noise.next() % 4),
            };
            let value = match noise.next() % 4 {
                0 => noise.next(),
                1 => noise.next() % 32,
                2 => (noise.next() % 32) << 16,
                _ => 0xd000_1000 | (noise.next() & 0xf),
            };
            match noise.next() % 16 {
                0 => drop(world.fabric.mmio_read(world.now, nhi, offset)),
                1 => {
                    let at = u64::from(noise.next() % 0x2_0000);
                    let bytes = [noise.next().to_le_bytes(), noise.next().to_le_bytes()].concat();
                    world.drivers[nhi].memory.write(at, &bytes).unwrap();
                }
                2 => world.run_ns(u64::from(noise.next() % 5_000)),
                3 => {
                    // A control packet with a good checksum and anything inside.
                    let words: Vec<u32> = (0..2 + noise.next() % 20)
                        .map(|index| if index < 2 { noise.next() % 4 } else { noise.next() })
                        .collect();
                    let packet = usb4_model::control::Packet {
                        pdf: (noise.next() % 12) as u8,
                        words,
                    };
                    let bytes = packet.to_bytes();
                    let word = bytes.len() as u32 | u32::from(packet.pdf) << 12 | 0xc << 20;
                    let memory = &world.drivers[nhi].memory;
                    memory.write(0x1_0000, &bytes).unwrap();
                    memory
                        .write(0, &[0x1_0000_u64.to_le_bytes(), u64::from(word).to_le_bytes()].concat())
                        .unwrap();
                    for (offset, value) in [(0x19800, 0), (0, 0), (4, 0), (12, 16), (0x19800, 3 << 30), (8, 1 << 16)] {
                        world.fabric.mmio_write(world.now, nhi, offset, value);
                    }
                }
                _ => world.fabric.mmio_write(world.now, nhi, offset, value),
            }
        }
        world.run_ms(10);
        world.fabric.take_notices();
    }
}
