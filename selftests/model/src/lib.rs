// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A software USB4 fabric that stock drivers accept: host routers with their NHIs, and cables between them.
//!
//! The model is a pure function of its inputs. Guests' register accesses, the time and an operator's commands go into
//! [`Fabric`]; DMA goes through [`Memory`], interrupts come out of [`Fabric::take_interrupts`]. Nothing here does I/O,
//! reads a clock, starts a thread or is unsafe, so the same code serves guests in real time, guests in virtual time and
//! tests.
//!
//! ```text
//!   guest --MMIO--> Fabric --+-- Nhi: rings, Interrupts, Router, Adapters (config and path spaces)
//!   time ---step-->          +-- Cable: state, rate, latency, Faults
//!   operator ------>         +-- Calendar: what is due when
//!          <--interrupts, notices--
//! ```
//!
//! Terms: *NHI* the PCI function with the descriptor rings; *router* the host router behind it, with *adapters*; *hop*
//! an entry of an adapter's path space, and on the NHI adapter a ring. Nothing was compared with real hardware. The
//! stock driver that the model is made for: `drivers/thunderbolt` of Linux 7.x.

#![forbid(unsafe_code)]

pub mod adapter;
pub mod cable;
mod calendar;
pub mod control;
pub mod fabric;
pub mod fault;
pub mod irq;
pub mod memory;
pub mod nhi;
pub mod notice;
pub mod pace;
pub mod pci;
pub mod profile;
pub mod regs;
pub mod ring;
pub mod router;
pub mod space;
pub mod time;

pub use fabric::{CableShape, Fabric, HostShape, Interrupt, Topology, TopologyError};
pub use fault::{Fate, Injected, Rules};
pub use memory::{BadAddress, CopyFault, Memory, TestMemory};
pub use notice::{Notice, What};
pub use pci::Function;
pub use profile::{NhiProfile, Profile, Usb4Version};
pub use time::Instant;
