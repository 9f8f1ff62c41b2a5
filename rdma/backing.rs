// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Where the bytes of a region are, and how they are copied there and back.

use crate::{
    fast::{Ask, Fast},
    kapi::{
        dmabuf::Dmabuf,
        kernel_memory::AllMemory,
        netdev::Borrower,
        paged::{Miss, PagedMemory},
        umem::Umem,
    },
};
use core::sync::atomic::AtomicU64;
use kernel::{prelude::*, sync::Arc};
use roce::fault::Fault;

/// Memory of some kind. An access comes with what was asked about it, and with the offset that the answer gave.
trait Bytes {
    /// Copies out.
    fn copy_out(&self, ask: &Ask, at: usize, to: &mut [u8]) -> Result<(), Fault>;
    /// Copies in.
    fn copy_in(&self, ask: &Ask, at: usize, from: &[u8]) -> Result<(), Fault>;
    /// Lets `act` work on 8 bytes as one.
    fn act_on_word<T>(&self, ask: &Ask, at: usize, act: impl FnOnce(&AtomicU64) -> T) -> Result<T, Fault>;
}

/// Memory that is all there, and knows its bounds.
macro_rules! bytes_of {
    ($($memory:ty),*) => {$(
        impl Bytes for $memory {
            fn copy_out(&self, _ask: &Ask, at: usize, to: &mut [u8]) -> Result<(), Fault> {
                self.read(at, to).then_some(()).ok_or(Fault::LocalProtection)
            }

            fn copy_in(&self, _ask: &Ask, at: usize, from: &[u8]) -> Result<(), Fault> {
                self.write(at, from).then_some(()).ok_or(Fault::LocalProtection)
            }

            fn act_on_word<T>(&self, _ask: &Ask, at: usize, act: impl FnOnce(&AtomicU64) -> T) -> Result<T, Fault> {
                self.word(at, act).ok_or(Fault::RemoteInvalid)
            }
        }
    )*};
}

bytes_of!(Umem, Dmabuf, AllMemory);

/// What a miss means to the engine.
const fn missed(miss: Miss, outside: Fault) -> Fault {
    match miss {
        Miss::Absent => Fault::Absent,
        Miss::Outside => outside,
    }
}

impl Bytes for PagedMemory {
    fn copy_out(&self, _ask: &Ask, at: usize, to: &mut [u8]) -> Result<(), Fault> {
        self.read(at, to).map_err(|miss| missed(miss, Fault::LocalProtection))
    }

    fn copy_in(&self, _ask: &Ask, at: usize, from: &[u8]) -> Result<(), Fault> {
        self.write(at, from)
            .map_err(|miss| missed(miss, Fault::LocalProtection))
    }

    fn act_on_word<T>(&self, _ask: &Ask, at: usize, act: impl FnOnce(&AtomicU64) -> T) -> Result<T, Fault> {
        self.word(at, act).map_err(|miss| missed(miss, Fault::RemoteInvalid))
    }
}

/// It decides itself, with every access: its pages may be others since the question was asked.
impl Bytes for Fast {
    fn copy_out(&self, ask: &Ask, _at: usize, to: &mut [u8]) -> Result<(), Fault> {
        self.read(ask, to)
    }

    fn copy_in(&self, ask: &Ask, _at: usize, from: &[u8]) -> Result<(), Fault> {
        self.write(ask, from)
    }

    fn act_on_word<T>(&self, ask: &Ask, _at: usize, act: impl FnOnce(&AtomicU64) -> T) -> Result<T, Fault> {
        self.word(ask, act)
    }
}

/// Where the bytes of a region are.
pub(crate) enum Backing {
    Pinned(Arc<Umem>),
    Paged(PagedMemory),
    Dmabuf(Arc<Dmabuf>),
    /// All memory of the kernel, for its own callers: the offset is the address.
    Kernel(AllMemory),
    /// What a kernel caller has registered by a request, if anything.
    Fast(Pin<KBox<Fast>>),
}

/// The same for every kind of memory. A choice here, and no call through a pointer: packets come by.
macro_rules! each {
    ($backing:expr, $memory:ident => $act:expr) => {
        match $backing {
            Backing::Pinned($memory) => $act,
            Backing::Paged($memory) => $act,
            Backing::Dmabuf($memory) => $act,
            Backing::Kernel($memory) => $act,
            Backing::Fast($memory) => $act,
        }
    };
}

impl Backing {
    /// Copies out what was admitted as `ask`, at the offset that it was given.
    pub(crate) fn read(&self, ask: &Ask, at: usize, to: &mut [u8]) -> Result<(), Fault> {
        each!(self, memory => memory.copy_out(ask, at, to))
    }

    /// As [`Self::read`], the other way.
    pub(crate) fn write(&self, ask: &Ask, at: usize, from: &[u8]) -> Result<(), Fault> {
        each!(self, memory => memory.copy_in(ask, at, from))
    }

    /// As [`Self::read`], for 8 bytes as one.
    pub(crate) fn word<T>(&self, ask: &Ask, at: usize, act: impl FnOnce(&AtomicU64) -> T) -> Result<T, Fault> {
        each!(self, memory => memory.act_on_word(ask, at, act))
    }

    /// Lends a range to a frame that sends it. False if it is not of the kind that can be lent, or in too many pieces:
    /// then the frame is spoiled.
    pub(crate) fn lend(&self, at: usize, len: usize, to: &mut impl Borrower) -> bool {
        match self {
            Self::Pinned(umem) => umem.lend(at, len, to),
            Self::Paged(_) | Self::Dmabuf(_) | Self::Kernel(_) | Self::Fast(_) => false,
        }
    }

    /// Whether a range is there, of which packets may find that it is not.
    pub(crate) fn is_there(&self, at: usize, len: usize, write: bool) -> Result<(), Fault> {
        match self {
            Self::Paged(paged) => paged
                .is_there(at, len, write)
                .map_err(|miss| missed(miss, Fault::LocalProtection)),
            _ => Ok(()),
        }
    }
}
