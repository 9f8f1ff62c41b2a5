// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The protocols spoken on a USB4 cable between two hosts, as pure state machines.
//!
//! Two of them. *Stock* is ThunderboltIP as `thunderbolt_net` speaks it. *Native* is ours, spoken
//! when both ends run this module: `docs/protocol.md` has every field.
//!
//! ```text
//!              stock                       native
//!   control    login::Login                rail::Rail          handle_*, poll_transmit,
//!              stock::control              native              poll_action, poll_timeout
//!   frames     stock::frame                frame               headers and markers
//!   packets    stock::reassembly           train, credit       in order, no hole, bounded
//!   lanes      one ring                    steer               which ring carries what
//!   loss                                   ledger              told to its owner, train by train
//!   no copy                                direct              windows of the receiver's own pages
//!   waiting    fifo                                            control messages for who handles them
//!   devices    jack                                    which cable takes which device, and when one goes
//! ```
//!
//! A machine decides, its caller performs. It reads no clock, allocates nothing, does no I/O and
//! never touches payload: bytes of control messages and time are handed in, messages and actions
//! are polled out. After any `handle_*` the caller drains `poll_action`, `poll_event` and
//! `poll_transmit`, and re-arms its one timer from `poll_timeout`.
//!
//! Everything is total: any bytes, in any order, at any time; no panic, no unbounded loop.

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

pub mod credit;
pub mod cut;
pub mod direct;
pub mod echo;
pub mod fifo;
pub mod frame;
pub mod jack;
pub mod ledger;
pub mod limits;
pub mod login;
pub mod moderate;
pub mod native;
pub mod rail;
pub mod reaper;
pub mod share;
pub mod span;
pub mod steer;
pub mod stock;
pub mod time;
pub mod train;
pub mod wire;
