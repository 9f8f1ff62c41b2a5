// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The RoCEv2 transport engine: queue pairs as pure state machines.
//!
//! The engine decides, its caller performs. It reads no clock, allocates nothing, does no I/O
//! and never touches payload: a [`wqe::Transmit`] is header bytes plus a payload *range*, and a
//! received packet is placed by the [`wqe::Host`] the caller lends for the duration of a call.
//!
//! Time is handed in, packets are handed in, and the results are polled out:
//!
//! ```text
//!   handle_doorbell  handle_post  handle_packet  handle_timeout      (any order, any time)
//!                         |
//!                   +-----v------+    take_send, take_recv, check, place
//!                   |     Qp     | <--------------------------------------> Host
//!                   +-----+------+
//!                         |
//!   poll_completion  poll_transmit  poll_event  poll_timeout
//! ```
//!
//! After any `handle_*` the caller drains `poll_completion`, then `poll_transmit`, then
//! `poll_completion` and `poll_event` again, and finally re-arms its timer from `poll_timeout`.
//!
//! Protocol: InfiniBand Architecture Specification volume 1 (IBTA), chapter 9 and Annex A17.
//! The engine is total: any bytes, in any order, at any time; no panic, no unbounded loop.

#![cfg_attr(not(any(test, CONFIG_RUST)), no_std)]
#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]
#![cfg_attr(
    test,
    allow(
        clippy::arithmetic_side_effects,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]
#![warn(missing_docs, unreachable_pub)]

pub mod abi;
pub mod allowance;
pub mod completion;
pub mod cork;
pub mod counters;
pub mod ends;
pub mod fast;
pub mod fault;
pub mod grants;
pub mod group;
pub mod hops;
pub mod keys;
pub mod lanes;
pub mod limits;
pub mod lost;
pub mod mw;
pub mod opcode;
pub mod parking;
pub mod place;
pub mod psn;
pub mod qp;
pub mod runs;
pub mod slots;
pub mod time;
pub mod tombstone;
pub mod uses;
pub mod wire;
pub mod wqe;

mod arrivals;
mod attrs;
mod completer;
mod granted;
mod requester;
mod resend;
mod resources;
mod responder;
mod retry;
mod window;

#[cfg(test)]
mod scripted;
