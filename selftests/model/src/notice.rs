// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What happened, in words: for the log of whoever serves the fabric. Nothing in the model depends on it.

use core::fmt;

use crate::time::Instant;

/// One line of the fabric's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub at: Instant,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    GuestCame {
        nhi: usize,
    },
    GuestGone {
        nhi: usize,
    },
    RouterReset {
        nhi: usize,
    },
    LinkUp {
        cable: usize,
    },
    LinkDown {
        cable: usize,
    },
    Bonded {
        cable: usize,
        lanes: u32,
    },
    PlugEvent {
        nhi: usize,
        adapter: usize,
        plugged: bool,
    },
    PathSet {
        nhi: usize,
        adapter: usize,
        hop: usize,
        words: [u32; 2],
    },
    RingSet {
        nhi: usize,
        transmit: bool,
        ring: usize,
        options: u32,
    },
    BadDma {
        nhi: usize,
        address: u64,
    },
    BadControl {
        nhi: usize,
        why: &'static str,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.at.0 / 1_000_000_000, self.at.0 / 1_000 % 1_000_000);
        write!(f, "{seconds:5}.{micros:06} ")?;
        match &self.what {
            What::GuestCame { nhi } => write!(f, "nhi {nhi}: guest came"),
            What::GuestGone { nhi } => write!(f, "nhi {nhi}: guest gone"),
            What::RouterReset { nhi } => write!(f, "nhi {nhi}: host router reset"),
            What::LinkUp { cable } => write!(f, "cable {cable}: up"),
            What::LinkDown { cable } => write!(f, "cable {cable}: down"),
            What::Bonded { cable, lanes } => write!(f, "cable {cable}: {lanes} lanes wide"),
            What::PlugEvent { nhi, adapter, plugged } => {
                let what = if *plugged { "plug" } else { "unplug" };
                write!(f, "nhi {nhi}: {what} event, adapter {adapter}")
            }
            What::PathSet {
                nhi,
                adapter,
                hop,
                words: [first, second],
            } => {
                let (next, out, on) = (first & 0x7ff, first >> 11 & 0x3f, first >> 31);
                write!(
                    f,
                    "nhi {nhi}: path adapter {adapter} hop {hop} -> adapter {out} hop {next} enabled {on} ({second:#x})"
                )
            }
            What::RingSet {
                nhi,
                transmit,
                ring,
                options,
            } => {
                let what = if *transmit { "tx" } else { "rx" };
                write!(f, "nhi {nhi}: {what} ring {ring} options {options:#x}")
            }
            What::BadDma { nhi, address } => write!(f, "nhi {nhi}: DMA to unmapped address {address:#x}"),
            What::BadControl { nhi, why } => write!(f, "nhi {nhi}: control message: {why}"),
        }
    }
}
