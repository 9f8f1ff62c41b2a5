// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Wire formats of RoCEv2: transport headers, ICRC, and the Ethernet, IP and UDP headers below them.
//!
//! Multi-byte fields are big-endian except the ICRC (IBTA 9.1.2, Annex A17). Everything here is a
//! pure function of bytes.

mod aeth;
mod atomic;
mod bth;
mod deth;
pub(crate) mod feth;
mod header;
pub mod icrc;
mod packet;
mod reth;
pub mod udp;

pub use aeth::{Aeth, NakCode, Syndrome};
pub use atomic::AtomicEth;
pub use bth::Bth;
pub use deth::Deth;
pub use feth::FlushKind;
pub use header::HeaderBuf;
pub use packet::{Packet, Span};
pub use reth::Reth;

/// Why bytes are not a packet we can handle. All of these mean: drop and count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WireError {
    /// Shorter than its headers say.
    Truncated,
    /// A version field is not one we speak.
    Version,
    /// A length field contradicts another.
    Length,
    /// Not UDP, a fragment, or an ether type that is not IP.
    Protocol,
    /// The IPv4 header checksum is wrong.
    Checksum,
    /// Of a service class we do not speak.
    Class,
}
