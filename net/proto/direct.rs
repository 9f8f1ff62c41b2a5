// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Windows of a direct lane: payload that the DMA puts where it belongs, without a copy at either end.
//!
//! Receive descriptors are used up in the order in which they were posted, and no header steers a frame. So the
//! receiver posts the pages of the target themselves, in an order that both sides know.
//!
//! ```text
//!   Asker (sends the payload)                                Granter (has the target)
//!     train with a Request, message lane  ------------------>  may it?  descriptors posted: the window
//!                                         <------------------  Grant: what became of the last requests
//!     frames of the window, direct lane   ==================>  one page each; the last one says which window it was
//!                                         <------------------  Grant: whole, or void
//! ```
//!
//! The train that asks is the one whose payload begins with the window; what follows is not whole pages of the target,
//! and comes along with it. It is delivered when the window is whole, so nothing else has to come after the frames.
//!
//! A [`Grant`] tells the whole state, of the last [`KNOWN`] requests. Any one of them may be lost: the next makes up
//! for it, and whoever misses one asks ([`Ask`]).
//!
//! **A window granted is a debt.** Its descriptors are posted, and those of the next ones behind them. An asker who has
//! nothing to send any more, because he gave up waiting for it, sends void frames in its place.
//!
//! **Where a frame lands.** SOF is 1. EOF of frame n since the lane was opened is 3 + n mod 4, of the last frame of
//! window w it is 7 + w mod 9; a void frame has 2. Nothing on a ring overtakes. If the last frame of a window is in its
//! place, none before it was lost. Fewer than nine windows are open at a time, so the last frame of another one, that
//! many frames have been lost before, has another EOF. Hence a window that ends as it should has every frame in its
//! place, and one that does not shows at its last frame at the latest.
//!
//! **When it shows** the lane is void: the granter has its ring stopped, which gives all descriptors back at once
//! whatever the peer does, and opened anew. The same happens where a window makes no progress. Between the two, frames
//! of the former life go into a page that nobody reads, until one comes that names the new life ([`Start`]).

mod asker;
mod granter;

pub use asker::{Asker, Fate, Heard, Told, Window};
pub use granter::{Frame, Granter, Part};

use crate::limits::{MAX_FRAME, MAX_WINDOWS};
use crate::wire::{Reader, WireError};

/// Requests of which a grant tells what became.
pub const KNOWN: u32 = 32;

/// EOF of a frame that stands for a page that will not be sent.
pub const EOF_VOID: u8 = 2;

/// EOF of the first frame inside a window, and how many different ones there are.
const EOF_INNER: u8 = 3;
const INNERS: u32 = 4;

/// EOF of the last frame of the first window, and how many different ones there are: more than windows can be open.
const EOF_LAST: u8 = 7;
const LASTS: u32 = 9;
const _: () = assert!(MAX_WINDOWS < LASTS as usize && EOF_LAST as u32 + LASTS == 16);

/// Bytes of a page, which a frame of a window fills.
const PAGE: u64 = MAX_FRAME as u64;

/// EOF of frame `frame` since the lane was opened, inside a window or, as window `last`, at its end.
#[must_use]
pub(crate) const fn marker(frame: u32, last: Option<u32>) -> u8 {
    // Below 16, so it fits.
    match last {
        Some(window) => EOF_LAST.wrapping_add((window % LASTS) as u8),
        None => EOF_INNER.wrapping_add((frame % INNERS) as u8),
    }
}

/// What a train asks for, behind its metadata: 24 bytes.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | number: one more than that of the request before |
/// | 4 | 4 | generation of the lane, as the granter has told it |
/// | 8 | 2 | frames of the window, at most 64 |
/// | 10 | 2 | 0 |
/// | 12 | 4 | key of the target |
/// | 16 | 8 | address of the window's first byte, a multiple of 4096 |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its number.
    pub number: u32,
    /// Of the lane.
    pub generation: u32,
    /// Of the window.
    pub frames: u16,
    /// Key of the target.
    pub key: u32,
    /// Of the window's first byte.
    pub address: u64,
}

impl Request {
    /// Length on the wire.
    pub const LEN: usize = 24;
    /// Most frames of a window.
    pub const MAX_FRAMES: u16 = 64;

    /// Of the target.
    #[must_use]
    pub const fn for_target(self, key: u32, address: u64) -> Self {
        Self { key, address, ..self }
    }

    /// Bytes of the window.
    #[must_use]
    pub const fn byte_len(&self) -> usize {
        (self.frames as usize).saturating_mul(MAX_FRAME)
    }

    /// Decode a request.
    ///
    /// # Errors
    ///
    /// [`WireError::Length`] for a window of no frames or too many, [`WireError::Value`] for an address that is not
    /// that of a page, or whose window goes round the end of memory.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let request = Self {
            number: r.u32()?,
            generation: r.u32()?,
            frames: r.u16()?,
            key: {
                let _: [u8; 2] = r.bytes()?;
                r.u32()?
            },
            address: r.u64()?,
        };
        if request.frames == 0 || request.frames > Self::MAX_FRAMES {
            return Err(WireError::Length);
        }
        let aligned = request.address % PAGE == 0;
        if !aligned || request.address.checked_add(request.byte_len() as u64).is_none() {
            return Err(WireError::Value);
        }
        Ok(request)
    }

    /// Encode the request.
    #[must_use]
    pub const fn bytes(&self) -> [u8; Self::LEN] {
        let [a, b, c, d] = self.number.to_le_bytes();
        let [e, f, g, h] = self.generation.to_le_bytes();
        let [i, j] = self.frames.to_le_bytes();
        let [m, n, o, p] = self.key.to_le_bytes();
        let [q, r, s, t, u, v, w, x] = self.address.to_le_bytes();
        [a, b, c, d, e, f, g, h, i, j, 0, 0, m, n, o, p, q, r, s, t, u, v, w, x]
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum State {
    /// No window: it was refused, or did not come.
    #[default]
    Denied,
    /// Its window is open.
    Open,
    /// Its window is whole, and the train was delivered.
    Whole,
    /// Its window came to nothing, and the train was not delivered.
    Void,
}

impl State {
    const fn bits(self) -> u64 {
        match self {
            Self::Denied => 0,
            Self::Open => 1,
            Self::Whole => 2,
            Self::Void => 3,
        }
    }

    const fn of_bits(bits: u64) -> Self {
        match bits & 3 {
            0 => Self::Denied,
            1 => Self::Open,
            2 => Self::Whole,
            _ => Self::Void,
        }
    }
}

/// What a granter tells, behind operation 1 of a CTRL head: 20 bytes.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | generation: another one with each opening of the lane |
/// | 4 | 4 | answered: number of the newest request that has been decided, and with it all before |
/// | 8 | 8 | state of request answered - i in bits 2i and 2i + 1: 0 denied, 1 open, 2 whole, 3 void |
/// | 16 | 1 | bit 0: waits for a frame that names the generation |
/// | 17 | 3 | 0 |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Of the lane.
    pub generation: u32,
    /// Newest request that has been decided.
    pub answered: u32,
    /// Of the last requests, two bits each.
    states: u64,
    /// Waits for a [`Start`].
    pub waits: bool,
}

impl Grant {
    /// Length on the wire.
    pub const LEN: usize = 20;

    const WAITS: u8 = 1;

    /// What became of request `number`. `None` if it has not been decided, or so long ago that nothing is told.
    #[must_use]
    pub fn state(&self, number: u32) -> Option<State> {
        let age = self.answered.wrapping_sub(number);
        let bits = self.states.checked_shr(age.checked_mul(2)?)?;
        (age < KNOWN).then(|| State::of_bits(bits))
    }

    /// Decode a grant. Bytes behind it are a later version's.
    ///
    /// # Errors
    ///
    /// [`WireError::Truncated`].
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let grant = Self {
            generation: r.u32()?,
            answered: r.u32()?,
            states: r.u64()?,
            waits: r.u8()? & Self::WAITS != 0,
        };
        let _: [u8; 3] = r.bytes()?;
        Ok(grant)
    }

    /// Encode the grant.
    #[must_use]
    pub const fn bytes(&self) -> [u8; Self::LEN] {
        let [a, b, c, d] = self.generation.to_le_bytes();
        let [e, f, g, h] = self.answered.to_le_bytes();
        let [i, j, k, l, m, n, o, p] = self.states.to_le_bytes();
        let flags = if self.waits { Self::WAITS } else { 0 };
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, flags, 0, 0, 0]
    }
}

/// What an asker tells who misses an answer, behind operation 2 of a CTRL head: 8 bytes.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | generation that it knows |
/// | 4 | 4 | asked: number of its newest request; what has not come up to that is lost |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Of the lane.
    pub generation: u32,
    /// Its newest request.
    pub asked: u32,
}

impl Ask {
    /// Length on the wire.
    pub const LEN: usize = 8;

    /// Decode it. Bytes behind it are a later version's.
    ///
    /// # Errors
    ///
    /// [`WireError::Truncated`].
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        Ok(Self {
            generation: r.u32()?,
            asked: r.u32()?,
        })
    }

    /// Encode it.
    #[must_use]
    pub const fn bytes(&self) -> [u8; Self::LEN] {
        let [a, b, c, d] = self.generation.to_le_bytes();
        let [e, f, g, h] = self.asked.to_le_bytes();
        [a, b, c, d, e, f, g, h]
    }
}

/// The first frame of a generation on the direct lane, SOF 1, EOF 2: 8 bytes, the generation and its complement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start(pub u32);

impl Start {
    /// Length on the wire.
    pub const LEN: usize = 8;

    /// Decode it. `None` if it is another frame.
    #[must_use]
    pub fn parse(eof: u8, frame: &[u8]) -> Option<Self> {
        let bytes: [u8; Self::LEN] = frame.try_into().ok()?;
        let [a, b, c, d, rest @ ..] = bytes;
        let generation = u32::from_le_bytes([a, b, c, d]);
        (eof == EOF_VOID && u32::from_le_bytes(rest) == !generation).then_some(Self(generation))
    }

    /// Encode it.
    #[must_use]
    pub const fn bytes(&self) -> [u8; Self::LEN] {
        let [a, b, c, d] = self.0.to_le_bytes();
        let [e, f, g, h] = (!self.0).to_le_bytes();
        [a, b, c, d, e, f, g, h]
    }
}

#[cfg(test)]
mod tests;
