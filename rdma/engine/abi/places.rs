// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What is kept of requests that are taken and not yet complete.

use super::{put, u32_at, u64_at, Local, SGE_LEN};
use crate::fault::Fault;
use crate::keys::Key;
use crate::limits::MAX_MESSAGE_LEN;
use core::ops::DerefMut;

/// One scatter entry: `rxe_sge`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sge {
    /// First address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// The key of the memory.
    pub lkey: Key,
}

impl Sge {
    const ADDR: usize = 0;
    const LENGTH: usize = 8;
    const LKEY: usize = 12;

    /// Reads an entry. Anything may be in it.
    #[must_use]
    pub fn parse(raw: &[u8; SGE_LEN]) -> Self {
        Self {
            addr: u64_at(raw, Self::ADDR),
            len: u32_at(raw, Self::LENGTH),
            lkey: Key(u32_at(raw, Self::LKEY)),
        }
    }

    /// The bytes that [`Self::parse`] reads.
    #[must_use]
    pub fn bytes(&self) -> [u8; SGE_LEN] {
        let mut out = [0; SGE_LEN];
        put(&mut out, Self::ADDR, &self.addr.to_ne_bytes());
        put(&mut out, Self::LENGTH, &self.len.to_ne_bytes());
        put(&mut out, Self::LKEY, &self.lkey.0.to_ne_bytes());
        out
    }
}

/// What is kept of a taken request, beside its scatter list or inline data.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    sges: usize,
    inline_len: Option<usize>,
    local: Option<Local>,
}

/// Requests taken, in places reused in turn: they complete in the order in which they were taken.
///
/// The memory is the caller's: `places` has a [`Place`] each, `sges` and `inline` the same number of entries
/// and bytes for each. A slice that is too short makes faults of requests, no worse.
#[derive(Debug)]
pub struct Places<P, S, I> {
    places: P,
    sges: S,
    inline: I,
    sges_each: usize,
    inline_each: usize,
    /// Taken and not completed.
    busy: u32,
    next: u32,
    count: u32,
    /// The requests are those of a caller in the kernel.
    for_kernel: bool,
}

impl<P, S, I> Places<P, S, I>
where
    P: DerefMut<Target = [Place]>,
    S: DerefMut<Target = [Sge]>,
    I: DerefMut<Target = [u8]>,
{
    /// Room for as many requests as `places` has, each with `sges_each` scatter entries or `inline_each` bytes.
    pub fn new(places: P, sges: S, inline: I, sges_each: usize, inline_each: usize) -> Self {
        let count = u32::try_from(places.len()).unwrap_or(u32::MAX);
        Self {
            places,
            sges,
            inline,
            sges_each,
            inline_each,
            busy: 0,
            next: 0,
            count,
            for_kernel: false,
        }
    }

    /// The requests are those of a caller in the kernel, who may ask for more than user space.
    #[must_use]
    pub fn for_kernel(mut self) -> Self {
        self.for_kernel = true;
        self
    }

    pub(super) fn is_for_kernel(&self) -> bool {
        self.for_kernel
    }

    /// How many requests fit.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether none fits now.
    pub fn is_full(&self) -> bool {
        self.busy >= self.count
    }

    /// The place for the next request.
    pub(super) fn take(&mut self) -> u32 {
        let slot = self.next;
        self.next = slot.wrapping_add(1);
        if self.next >= self.count {
            self.next = 0;
        }
        self.busy = self.busy.saturating_add(1);
        slot
    }

    /// The oldest place is free again.
    pub fn complete(&mut self) {
        self.busy = self.busy.saturating_sub(1);
    }

    /// All are free.
    pub fn clear(&mut self) {
        self.busy = 0;
    }

    /// What a taken request asks of this host alone.
    pub fn local(&self, slot: u32) -> Option<Local> {
        self.places.get(slot as usize)?.local
    }

    /// Whether a taken request carries its data.
    pub fn is_inline(&self, slot: u32) -> bool {
        self.places
            .get(slot as usize)
            .is_some_and(|place| place.inline_len.is_some())
    }

    pub(super) fn keep_local(&mut self, slot: u32, local: Option<Local>) {
        if let Some(place) = self.places.get_mut(slot as usize) {
            *place = Place {
                local,
                ..Place::default()
            };
        }
    }

    pub(super) fn keep_inline(
        &mut self,
        slot: u32,
        len: u32,
        at: usize,
        mut read: impl FnMut(usize, &mut [u8]),
    ) -> Result<u32, Fault> {
        let size = len as usize;
        if size > self.inline_each {
            return Err(Fault::LocalLength);
        }
        let start = (slot as usize).wrapping_mul(self.inline_each);
        let data = self.inline.get_mut(start..).and_then(|rest| rest.get_mut(..size));
        read(at, data.ok_or(Fault::LocalQpOp)?);
        let place = self.places.get_mut(slot as usize).ok_or(Fault::LocalQpOp)?;
        *place = Place {
            inline_len: Some(size),
            ..Place::default()
        };
        Ok(len)
    }

    /// Keeps a scatter list; the result is the sum of its lengths.
    pub(super) fn keep_sges(
        &mut self,
        slot: u32,
        count: u32,
        at: usize,
        mut read: impl FnMut(usize, &mut [u8]),
    ) -> Result<u64, Fault> {
        let count = count as usize;
        if count > self.sges_each {
            return Err(Fault::LocalQpOp);
        }
        let start = (slot as usize).wrapping_mul(self.sges_each);
        let list = self.sges.get_mut(start..).and_then(|rest| rest.get_mut(..count));
        let mut total = 0u64;
        let mut at = at;
        for sge in list.ok_or(Fault::LocalQpOp)? {
            let mut raw = [0; SGE_LEN];
            read(at, &mut raw);
            *sge = Sge::parse(&raw);
            total = total.saturating_add(u64::from(sge.len));
            at = at.wrapping_add(SGE_LEN);
        }
        let place = self.places.get_mut(slot as usize).ok_or(Fault::LocalQpOp)?;
        *place = Place {
            sges: count,
            ..Place::default()
        };
        Ok(total)
    }

    /// Calls `each` with the parts of the scatter list under `offset..offset + len`: key, address, length,
    /// in order and never empty.
    ///
    /// # Errors
    ///
    /// Those of `each`; [`Fault::LocalLength`] if the list ends before.
    pub fn parts(
        &self,
        slot: u32,
        offset: u32,
        len: usize,
        mut each: impl FnMut(Key, u64, usize) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let place = self.places.get(slot as usize).ok_or(Fault::LocalQpOp)?;
        let start = (slot as usize).wrapping_mul(self.sges_each);
        let list = self.sges.get(start..).and_then(|rest| rest.get(..place.sges));
        let mut skip = offset;
        let mut left = len;
        for sge in list.ok_or(Fault::LocalQpOp)? {
            if left == 0 {
                break;
            }
            let Some(room) = sge.len.checked_sub(skip).filter(|room| *room > 0) else {
                skip = skip.saturating_sub(sge.len);
                continue;
            };
            let part = left.min(room as usize);
            each(sge.lkey, sge.addr.wrapping_add(u64::from(skip)), part)?;
            skip = 0;
            left = left.saturating_sub(part);
        }
        if left == 0 {
            Ok(())
        } else {
            Err(Fault::LocalLength)
        }
    }

    /// Gathers message bytes: from the inline data, or through `read`, which copies from a key's address.
    ///
    /// # Errors
    ///
    /// As [`Self::parts`].
    pub fn gather(
        &self,
        slot: u32,
        offset: u32,
        to: &mut [u8],
        mut read: impl FnMut(Key, u64, &mut [u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let place = self.places.get(slot as usize).ok_or(Fault::LocalQpOp)?;
        if let Some(len) = place.inline_len {
            let start = (slot as usize).wrapping_mul(self.inline_each);
            let data = self.inline.get(start..).and_then(|rest| rest.get(..len));
            let from = data
                .ok_or(Fault::LocalQpOp)?
                .get(offset as usize..)
                .and_then(|rest| rest.get(..to.len()))
                .ok_or(Fault::LocalLength)?;
            to.copy_from_slice(from);
            return Ok(());
        }
        let len = to.len();
        let mut rest = to;
        self.parts(slot, offset, len, |key, va, len| {
            let (part, later) = core::mem::take(&mut rest)
                .split_at_mut_checked(len)
                .ok_or(Fault::LocalLength)?;
            rest = later;
            read(key, va, part)
        })
    }

    /// Scatters message bytes through `write`, which copies to a key's address.
    ///
    /// # Errors
    ///
    /// As [`Self::parts`].
    pub fn scatter(
        &self,
        slot: u32,
        offset: u32,
        from: &[u8],
        mut write: impl FnMut(Key, u64, &[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut rest = from;
        self.parts(slot, offset, from.len(), |key, va, len| {
            let (part, later) = rest.split_at_checked(len).ok_or(Fault::LocalLength)?;
            rest = later;
            write(key, va, part)
        })
    }
}

/// A message's length, if it may have it.
pub(super) fn message_len(total: u64) -> Result<u32, Fault> {
    match u32::try_from(total) {
        Ok(len) if len <= MAX_MESSAGE_LEN => Ok(len),
        _ => Err(Fault::LocalLength),
    }
}
