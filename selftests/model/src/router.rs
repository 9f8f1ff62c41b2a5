// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A host router's own configuration space. Layout: USB4 router configuration space, `drivers/thunderbolt/tb_regs.h`.

use crate::profile::Usb4Version;
use crate::space::Space;

/// Vendor and product id of the router (not of the PCI function). Neither high byte may look like a capability id
/// of a router, for the driver's capability walk ends by reading this word as a header.
const ROUTER_ID: u32 = 0x0208 << 16 | 0x0438;
const LENGTH: usize = 0x60;
/// Where the time management unit's capability is, and its words.
const TMU: usize = 0x30;
const TMU_WORDS: usize = 0x1a;
const TMU_HEADER: u32 = 0x03 << 8 | 1 << 30;

const TOPOLOGY: usize = 3;
const SLEEP_CONTROL: usize = 5;
const STATUS: usize = 6;
const OPERATION_DATA: usize = 9;
const METADATA: usize = 25;
const OPERATION: usize = 26;

/// Answers of the buffer allocation operation: (index, credits), the last one is for DMA tunnels.
const BUFFER_ALLOCATION: [(u32, u32); 5] = [(1, 0), (2, 0), (3, 0), (4, 0), (5, 14)];
const OPERATION_BUFFER_ALLOCATION: u32 = 0x33;
const OPERATION_VALID: u32 = 1 << 31;
const OPERATION_UNSUPPORTED: u32 = 1 << 30;

/// A host router, without its adapters.
#[derive(Clone, Debug)]
pub struct Router {
    space: Space,
}

impl Router {
    /// A router after reset. `uid` must differ from every other router's: XDomain identity comes from it.
    pub fn new(version: Usb4Version, uid: u64, upstream: usize) -> Self {
        let mut space = Space::new(LENGTH);
        let upstream = upstream as u32;
        let major = match version {
            Usb4Version::V1 => 0x20,
            Usb4Version::V2 => 0x40,
        };
        space.define(0, ROUTER_ID, 0);
        space.define(1, TMU as u32 | upstream << 8 | upstream << 14 | 1 << 24, 0);
        space.define(2, 0, !0);
        space.define(TOPOLOGY, 0, !0);
        space.define(4, major << 24, 0x00ff_ffff);
        space.define(SLEEP_CONTROL, 0, !0);
        space.define(STATUS, 1 << 24, 0); // ready
        space.define(7, uid as u32, 0);
        space.define(8, (uid >> 32) as u32, 0);
        space.storage(OPERATION_DATA..OPERATION + 1);
        space.storage(TMU + 1..TMU + TMU_WORDS);
        space.define(TMU, TMU_HEADER, 0);
        Router { space }
    }

    /// True once a connection manager has enumerated the router (the V bit).
    pub fn is_enumerated(&self) -> bool {
        self.space.word(TOPOLOGY) >> 31 != 0
    }

    pub fn read(&self, offset: usize) -> Option<u32> {
        self.space.read(offset)
    }

    /// A configuration write with what follows from it. False beyond the end.
    pub fn write(&mut self, offset: usize, value: u32) -> bool {
        let known = self.space.write(offset, value);
        match offset {
            SLEEP_CONTROL => {
                // The driver waits until "configuration ready" and "sleep ready" follow what it asked for.
                let follows = value >> 31 << 25 | value & 1;
                self.space.set(STATUS, 1 << 25 | 1, follows);
            }
            OPERATION if value & OPERATION_VALID != 0 => self.operate(value & 0xffff),
            _ => {}
        }
        known
    }

    fn operate(&mut self, operation: u32) {
        let mut status = operation;
        if operation == OPERATION_BUFFER_ALLOCATION {
            self.space.set(METADATA, !0, BUFFER_ALLOCATION.len() as u32);
            for (index, (id, credits)) in BUFFER_ALLOCATION.into_iter().enumerate() {
                self.space.set(OPERATION_DATA + index, !0, id | credits << 16);
            }
        } else {
            // No NVM and no DROM: a host router may do without.
            status |= OPERATION_UNSUPPORTED;
        }
        self.space.set(OPERATION, !0, status);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_and_version_cannot_be_written() {
        let mut router = Router::new(Usb4Version::V2, 0x1122_3344_5566_7788, 3);
        for offset in [0, 1, 6, 7, 8] {
            let before = router.read(offset);
            assert!(router.write(offset, !0));
            assert_eq!(router.read(offset), before);
        }
        assert!(router.write(4, !0));
        assert_eq!(router.read(4), Some(0x40ff_ffff));
        assert!(!router.is_enumerated());
        router.write(3, 1 << 31);
        assert!(router.is_enumerated());
    }

    #[test]
    fn operations_finish_at_once() {
        let mut router = Router::new(Usb4Version::V1, 1, 5);
        router.write(26, OPERATION_VALID | 0x33);
        assert_eq!(router.read(26), Some(0x33));
        assert_eq!(router.read(25), Some(5));
        assert_eq!(router.read(13), Some(14 << 16 | 5));
        router.write(26, OPERATION_VALID | 0x24);
        assert_eq!(router.read(26), Some(OPERATION_UNSUPPORTED | 0x24));
    }

    #[test]
    fn ready_bits_follow_the_request() {
        let mut router = Router::new(Usb4Version::V1, 1, 5);
        router.write(5, 1 << 31);
        assert_eq!(router.read(6), Some(1 << 24 | 1 << 25));
        router.write(5, 1);
        assert_eq!(router.read(6), Some(1 << 24 | 1));
    }
}
