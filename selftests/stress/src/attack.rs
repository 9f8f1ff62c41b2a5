// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Attackers: they own nothing that a peer may reach, know every key that is or was somebody's, and try them all.
//!
//! So nothing may ever open for them, whether a key was given to somebody anew meanwhile or not, and the books of who
//! owns what need not be asked.

use crate::connect::{some_opcode, Outcome, Probe};
use crate::ring::Known;
use crate::run::{is_shortage, Hand};
use crate::verbs::{Context, Pd, Result};
use std::sync::Arc;
use std::time::Duration;

/// Queue pairs made in one go while a number is hunted.
const THROWS: usize = 200;

/// Attacks until the session ends.
pub fn attack(hand: &mut Hand<'_>, context: &Arc<Context>) {
    while hand.run.session_goes_on() {
        if let Err(errno) = session(hand, context) {
            if !is_shortage(errno) && hand.run.session_goes_on() {
                // Addresses may be away for a moment; the verbs' counts tell of the rest.
                hand.tally.add("attacker begins anew", errno);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        hand.hand_in();
    }
}

fn session(hand: &mut Hand<'_>, context: &Arc<Context>) -> Result<()> {
    let pd = hand.call("alloc_pd", || Pd::new(context))?;
    let mut probe = Probe::new(hand, &pd)?;
    for _ in 0..200 {
        if !hand.run.session_goes_on() {
            break;
        }
        match hand.rng.u32(..10) {
            0..=3 => {
                if let Some(known) = hand.run.ring.pick(&mut hand.rng) {
                    let opcode = some_opcode(&mut hand.rng);
                    let outcome = probe.attempt(hand, known, opcode)?;
                    judge(hand, "attack by key", known, outcome);
                }
            }
            4 => {
                let known = hand.run.ring.pick(&mut hand.rng);
                if let Some(known) = known.filter(|known| known.number != 0) {
                    let outcome = probe.attempt_at(hand, known, crate::verbs::op::READ)?;
                    judge(hand, "attack by number", known, outcome);
                }
            }
            _ => hunt(hand, &mut probe)?,
        }
        std::thread::sleep(Duration::from_micros(hand.rng.u64(..2000)));
    }
    Ok(())
}

/// Makes queue pairs until one has the number of a dead one whose windows live, and tries those.
fn hunt(hand: &mut Hand<'_>, probe: &mut Probe) -> Result<()> {
    let widows = hand.run.ring.widows();
    for _ in 0..THROWS {
        if widows.is_empty() || !hand.run.session_goes_on() {
            return Ok(());
        }
        let qp = probe.another(hand)?;
        let number = qp.number;
        let Some(first) = widows.iter().find(|known| known.number == number) else {
            hand.call("destroy_qp", || qp.close())?;
            continue;
        };
        hand.tally.add("number came again", 0);
        probe.adopt(qp);
        let all: Vec<Known> = widows.iter().copied().filter(|k| k.number == first.number).collect();
        for known in all {
            let opcode = some_opcode(&mut hand.rng);
            let outcome = probe.attempt(hand, known, opcode)?;
            judge(hand, "attack by window", known, outcome);
        }
    }
    Ok(())
}

fn judge(hand: &mut Hand<'_>, how: &'static str, known: Known, outcome: Outcome) {
    match outcome {
        Outcome::Refused(status) => hand.tally.add(how, status),
        Outcome::Unknown => hand.tally.add(how, -1),
        Outcome::Opened => {
            hand.tally.add(how, 0);
            hand.run.violation(format!(
                "{how}: key {:#x} of queue pair {:#x} opened memory at {:#x} for another domain",
                known.key, known.number, known.address
            ));
        }
    }
}
