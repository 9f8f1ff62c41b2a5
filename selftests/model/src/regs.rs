// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The NHI's register map (BAR 0), as numbers and as a decoder. Layout: `drivers/thunderbolt/nhi_regs.h`.

/// Size of BAR 0 in bytes.
pub const BAR0_LEN: u64 = 0x4_0000;
/// Most hops this register map has room for: three bits each in two status words, two bits each in 64.
pub const MAX_HOPS: usize = 21;
/// Interrupt vectors of an NHI.
pub const VECTORS: usize = 16;

const TX_RINGS: u32 = 0;
const RX_RINGS: u32 = 0x8000;
const TX_OPTIONS: u32 = 0x1_9800;
const RX_OPTIONS: u32 = 0x2_9800;
const STATUS: u32 = 0x3_7800;
const STATUS_CLEAR: u32 = 0x3_7808;
const ENABLE: u32 = 0x3_8200;
const ENABLE_CLEAR: u32 = 0x3_8208;
const THROTTLE: u32 = 0x3_8c00;
const VECTOR_OF: u32 = 0x3_8c40;
const CAPS: u32 = 0x3_9640;
const DMA_MISC: u32 = 0x3_9864;
const RESET: u32 = 0x3_9898;

/// Ring options: the ring is running.
pub const RING_ENABLE: u32 = 1 << 31;
/// Ring options: frames end by PDF only and carry their checksum.
pub const RING_RAW: u32 = 1 << 30;
/// Ring options: end-to-end flow control.
pub const RING_E2E: u32 = 1 << 28;
/// DMA_MISC: reading the status does not clear it.
pub const DISABLE_AUTO_CLEAR: u32 = 1 << 17;

/// Hop that an Rx ring with end-to-end flow control sends its credits by: options bits 22:12.
pub fn paired_hop(options: u32) -> usize {
    (options >> 12 & 0x7ff) as usize
}

/// A register of BAR 0. Ring numbers are below the `hops` given to [`decode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    Ring {
        transmit: bool,
        ring: usize,
        field: RingField,
    },
    Options {
        transmit: bool,
        ring: usize,
    },
    Mask {
        transmit: bool,
        ring: usize,
    },
    Status(usize),
    StatusClear(usize),
    Enable(usize),
    EnableClear(usize),
    Throttle(usize),
    /// Vector numbers of eight interrupts, four bits each.
    VectorOf(usize),
    Caps,
    DmaMisc,
    Reset,
    /// Nothing of this model: reads as 0, ignores writes.
    Reserved,
}

/// A word of a ring's 16-byte register block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingField {
    BaseLow,
    BaseHigh,
    Doorbell,
    Size,
}

/// Which register is at byte `offset` of BAR 0.
pub fn decode(offset: u32, hops: usize) -> Register {
    let ring_block = |base: u32| -> Option<(usize, RingField)> {
        let (ring, field) = entry(offset, base, 16, hops)?;
        let field = match field {
            0 => RingField::BaseLow,
            4 => RingField::BaseHigh,
            8 => RingField::Doorbell,
            _ => RingField::Size,
        };
        Some((ring, field))
    };
    if offset % 4 != 0 {
        return Register::Reserved;
    }
    if let Some((ring, field)) = ring_block(TX_RINGS) {
        return Register::Ring {
            transmit: true,
            ring,
            field,
        };
    }
    if let Some((ring, field)) = ring_block(RX_RINGS) {
        return Register::Ring {
            transmit: false,
            ring,
            field,
        };
    }
    for (base, transmit) in [(TX_OPTIONS, true), (RX_OPTIONS, false)] {
        match entry(offset, base, 32, hops) {
            Some((ring, 0)) => return Register::Options { transmit, ring },
            Some((ring, 4)) => return Register::Mask { transmit, ring },
            _ => {}
        }
    }
    let word = |base: u32, count: usize| entry(offset, base, 4, count).map(|(index, _)| index);
    if let Some(index) = word(STATUS, 2) {
        Register::Status(index)
    } else if let Some(index) = word(STATUS_CLEAR, 2) {
        Register::StatusClear(index)
    } else if let Some(index) = word(ENABLE, 2) {
        Register::Enable(index)
    } else if let Some(index) = word(ENABLE_CLEAR, 2) {
        Register::EnableClear(index)
    } else if let Some(index) = word(THROTTLE, VECTORS) {
        Register::Throttle(index)
    } else if let Some(index) = word(VECTOR_OF, (2 * hops).div_ceil(8)) {
        Register::VectorOf(index)
    } else {
        match offset {
            CAPS => Register::Caps,
            DMA_MISC => Register::DmaMisc,
            RESET => Register::Reset,
            _ => Register::Reserved,
        }
    }
}

/// Entry number and byte within it, if `offset` is in a table of `count` entries of `stride` bytes at `base`.
fn entry(offset: u32, base: u32, stride: u32, count: usize) -> Option<(usize, u32)> {
    let within = offset.checked_sub(base)?;
    let index = (within / stride) as usize;
    (index < count).then_some((index, within % stride))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_where_the_driver_looks_for_them() {
        assert_eq!(
            decode(0x18, 3),
            Register::Ring {
                transmit: true,
                ring: 1,
                field: RingField::Doorbell
            }
        );
        assert_eq!(
            decode(0x802c, 3),
            Register::Ring {
                transmit: false,
                ring: 2,
                field: RingField::Size
            }
        );
        assert_eq!(decode(0x8030, 3), Register::Reserved);
        assert_eq!(
            decode(0x19820, 12),
            Register::Options {
                transmit: true,
                ring: 1
            }
        );
        assert_eq!(
            decode(0x29824, 12),
            Register::Mask {
                transmit: false,
                ring: 1
            }
        );
        assert_eq!(decode(0x37804, 12), Register::Status(1));
        assert_eq!(decode(0x37808, 12), Register::StatusClear(0));
        assert_eq!(decode(0x38208, 12), Register::EnableClear(0));
        assert_eq!(decode(0x38c3c, 12), Register::Throttle(15));
        assert_eq!(decode(0x38c44, 12), Register::VectorOf(1));
        assert_eq!(decode(0x39898, 12), Register::Reset);
        assert_eq!(decode(0xffff_fffc, 21), Register::Reserved);
    }
}
