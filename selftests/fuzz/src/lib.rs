// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What a fuzzer drives: any bytes become packets, work requests and calls, and something must hold.
//!
//! A target is a function of bytes that panics when it finds something. `libfuzzer/` searches with coverage;
//! `tests/replay.rs` runs what it has found worth keeping (`corpus/`) in every `cargo test`.

pub mod cable;
pub mod corpus;
pub mod input;
pub mod native;
pub mod pair;
pub mod side;

pub mod user;

/// A target: its name, which is also the name of its corpus, and the function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 4] = [
    ("wire", wire),
    ("wqe", wqe),
    ("tbip", cable::run),
    ("native", native::run),
];

/// Two engines whose users are honest and whose cable is not: packets are lost, doubled, spoiled, made up.
pub fn wire(data: &[u8]) {
    pair::run(data, false);
}

/// Two engines whose users write anything into their queues, and change it while it is read.
pub fn wqe(data: &[u8]) {
    pair::run(data, true);
}
