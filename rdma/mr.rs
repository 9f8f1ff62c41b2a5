// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Memory regions under random keys: user memory, pinned or paged, and memory of kernel callers.

use crate::{
    backing::Backing,
    fast::{Ask, Fast},
    kapi::{
        dmabuf::Dmabuf,
        ibdev::IbDev,
        kernel_memory::AllMemory,
        netdev::Borrower,
        paged::PagedMemory,
        revoke::{Gate, Gated, Lease, Revocable, Use},
        umem::Umem,
        uverbs::Detail,
    },
};
use core::sync::atomic::AtomicU64;
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Full, Relaxed},
        Arc,
    },
};
use roce::{
    abi::Bind,
    fast::Registration,
    fault::Fault,
    keys::{self, Access, Key, Pd, RegionView},
};
use tbnet::kapi::kernels::not_supported;
use usb4_bindings as c;

/// Rights that mean something to us. Optional ones (relaxed ordering) may be asked for and change nothing.
const RIGHTS: u32 = c::ib_access_flags_IB_ACCESS_LOCAL_WRITE
    | c::ib_access_flags_IB_ACCESS_REMOTE_WRITE
    | c::ib_access_flags_IB_ACCESS_REMOTE_READ
    | c::ib_access_flags_IB_ACCESS_REMOTE_ATOMIC
    | c::ib_access_flags_IB_ACCESS_MW_BIND
    | c::ib_access_flags_IB_ACCESS_FLUSH_GLOBAL;
/// Rights that a fast registration may give: no window is bound to one.
const FAST_RIGHTS: u32 = RIGHTS & !c::ib_access_flags_IB_ACCESS_MW_BIND;
/// Rights for which pages are pinned to be written.
const WRITES: u32 = c::ib_access_flags_IB_ACCESS_LOCAL_WRITE
    | c::ib_access_flags_IB_ACCESS_REMOTE_WRITE
    | c::ib_access_flags_IB_ACCESS_REMOTE_ATOMIC
    | c::ib_access_flags_IB_ACCESS_MW_BIND;
/// In place of a number of windows: the region is going.
const GOING: i32 = i32::MIN;
/// As [`GOING`], and another has its key.
const REPLACED: i32 = i32::MIN + 1;

/// A registered range of memory. Its key is lkey and rkey at once.
#[pin_data]
pub(crate) struct Region {
    view: RegionView,
    /// Taken back by the system call that ends the region, which lets go of it there. What remains may end anywhere.
    #[pin]
    memory: Revocable<Backing>,
    /// The memory is of the kind [`Backing::Fast`]: asked again for every access, and the view beside it only names it.
    is_fast: bool,
    /// The memory is of the kind [`Backing::Paged`].
    is_paged: bool,
    /// Windows bound to it.
    windows: Atomic<i32>,
}

/// What a region is to be from now on.
pub(crate) struct Change {
    /// The protection domain.
    pub(crate) pd: Pd,
    /// Other user memory: start, length, and the address that peers know.
    pub(crate) range: Option<(u64, u64, u64)>,
    /// Other rights.
    pub(crate) access: Option<i32>,
}

/// The rights that are asked for, if they mean something to us.
fn rights(access: i32) -> Result<Access> {
    let asked = u32::from_ne_bytes(access.to_ne_bytes());
    if asked & !(RIGHTS | c::ib_access_flags_IB_ACCESS_OPTIONAL) != 0 {
        return Err(not_supported());
    }
    Ok(Access(asked & RIGHTS))
}

impl Region {
    /// `length` bytes at `start` of the calling process, pinned or paged, known to the peer as `iova`.
    pub(crate) fn of_user(
        ib: &IbDev,
        key: Key,
        pd: Pd,
        (start, length, iova): (u64, u64, u64),
        access: i32,
    ) -> Result<Arc<Self>> {
        let paged = c::ib_access_flags_IB_ACCESS_ON_DEMAND;
        let asked = u32::from_ne_bytes(access.to_ne_bytes());
        let rights = rights(i32::from_ne_bytes((asked & !paged).to_ne_bytes()))?;
        iova.checked_add(length).ok_or(EINVAL)?;
        let memory = if asked & paged == 0 {
            let umem = Umem::pin(ib, start, length, access)?;
            Backing::Pinned(Arc::new(umem, GFP_KERNEL)?)
        } else {
            Backing::Paged(PagedMemory::register(ib, start, length, access)?)
        };
        Self::new(view(key, pd, (iova, length), rights), memory)
    }

    /// A range of a dma-buf: offset, length, and the address that peers know.
    pub(crate) fn of_dmabuf(
        key: Key,
        pd: Pd,
        fd: i32,
        (offset, length, iova): (u64, u64, u64),
        access: i32,
    ) -> Result<Arc<Self>> {
        let rights = rights(access)?;
        iova.checked_add(length).ok_or(EINVAL)?;
        let memory = Arc::new(Dmabuf::map(fd, offset, length)?, GFP_KERNEL)?;
        Self::new(view(key, pd, (iova, length), rights), Backing::Dmabuf(memory))
    }

    /// Makes another region of the same key, which `publish` puts in the place of this one. This one is still to be
    /// deregistered. On return no packet works with it any more. Sleeps.
    ///
    /// # Errors
    ///
    /// `EINVAL` while windows are bound to it; `EOPNOTSUPP` for a paged region, and if it would have to be written and
    /// was pinned to be read.
    pub(crate) fn change(&self, ib: &IbDev, wanted: &Change, publish: impl FnOnce(&Arc<Self>)) -> Result<Arc<Self>> {
        if !self.may_go() {
            return Err(EINVAL);
        }
        let made = self.changed(ib, wanted);
        match &made {
            Ok(new) => {
                publish(new);
                drop(self.memory.revoke());
                self.windows.store(REPLACED, Relaxed);
            }
            Err(_) => self.windows.store(0, Relaxed),
        }
        made
    }

    fn changed(&self, ib: &IbDev, wanted: &Change) -> Result<Arc<Self>> {
        let held = self.memory.enter().ok_or(EINVAL)?;
        if matches!(*held, Backing::Paged(_)) {
            return Err(not_supported());
        }
        let access = wanted.access.map_or(Ok(self.view.access), rights)?;
        let mut view = RegionView {
            pd: wanted.pd,
            access,
            ..self.view
        };
        let memory = if let Some((start, length, iova)) = wanted.range {
            iova.checked_add(length).ok_or(EINVAL)?;
            (view.base, view.length) = (iova, length);
            let asked = i32::from_ne_bytes(access.0.to_ne_bytes());
            Backing::Pinned(Arc::new(Umem::pin(ib, start, length, asked)?, GFP_KERNEL)?)
        } else {
            match &*held {
                Backing::Pinned(_) if access.0 & WRITES != 0 && self.view.access.0 & WRITES == 0 => {
                    return Err(not_supported())
                }
                Backing::Pinned(umem) => Backing::Pinned(umem.clone()),
                Backing::Dmabuf(buffer) => Backing::Dmabuf(buffer.clone()),
                Backing::Paged(_) => return Err(not_supported()),
                Backing::Kernel(_) | Backing::Fast(_) => return Err(EINVAL),
            }
        };
        Self::new(view, memory)
    }

    /// A region that nobody knows yet.
    fn new(view: RegionView, memory: Backing) -> Result<Arc<Self>> {
        let is_fast = matches!(memory, Backing::Fast(_));
        let is_paged = matches!(memory, Backing::Paged(_));
        Arc::pin_init(
            pin_init!(Self {
                view,
                memory <- Revocable::new(memory),
                is_fast,
                is_paged,
                windows: Atomic::new(0),
            }),
            GFP_KERNEL,
        )
    }

    /// For fast registration of up to `pages` pages of a kernel caller's memory.
    pub(crate) fn for_fast(key: Key, pd: Pd, pages: u32) -> Result<Arc<Self>> {
        let memory = Fast::new(key, pd, pages)?;
        Self::new(view(key, pd, (0, 0), Access::NONE), Backing::Fast(memory))
    }

    /// The kernel's memory for local use in `pd`, which is a kernel caller's.
    pub(crate) fn of_kernel(key: Key, pd: Pd, memory: AllMemory, access: i32) -> Result<Arc<Self>> {
        let asked = u32::from_ne_bytes(access.to_ne_bytes());
        if asked & !c::ib_access_flags_IB_ACCESS_OPTIONAL & !c::ib_access_flags_IB_ACCESS_LOCAL_WRITE != 0 {
            // A key for all of this host's memory is not given to peers.
            return Err(not_supported());
        }
        let access = Access(asked & RIGHTS);
        Self::new(view(key, pd, (0, u64::MAX), access), Backing::Kernel(memory))
    }

    /// Lets `act` work on the part that requests register, of a region that is for it.
    pub(crate) fn with_fast<R>(&self, act: impl FnOnce(&Fast) -> R) -> Option<R> {
        match &*self.memory.enter()? {
            Backing::Fast(fast) => Some(act(fast)),
            _ => None,
        }
    }

    /// Whether the region may go: no window is bound to it, and from now on none will be.
    pub(crate) fn may_go(&self) -> bool {
        self.windows.cmpxchg(0, GOING, Full).is_ok() || self.is_replaced()
    }

    /// Whether another has its key.
    pub(crate) fn is_replaced(&self) -> bool {
        self.windows.load(Relaxed) == REPLACED
    }

    /// The end of a region that may go; on return nothing refers to its memory. Sleeps while somebody uses it.
    pub(crate) fn end(&self) {
        drop(self.memory.revoke());
    }

    /// Whether packets may find that its pages are not there.
    pub(crate) fn is_paged(&self) -> bool {
        self.is_paged
    }

    /// The address that its first byte has for peers.
    pub(crate) fn base(&self) -> u64 {
        self.view.base
    }

    /// Bytes from an offset to the end.
    pub(crate) fn len_from(&self, at: usize) -> usize {
        usize::try_from(self.view.length).map_or(0, |length| length.saturating_sub(at))
    }

    /// Brings the pages under a range of a paged region. Sleeps.
    pub(crate) fn bring(&self, at: usize, len: usize, write: bool) -> Result {
        match &*self.memory.enter().ok_or(EINVAL)? {
            Backing::Paged(paged) => paged.bring(at, len, write, true),
            _ => Ok(()),
        }
    }

    /// Carries out the owner's advice that `len` bytes at `va` will be used soon. Sleeps.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` for a region that is not paged, `EFAULT` outside of it, `EPERM` to write what is read-only.
    pub(crate) fn advise(&self, pd: Pd, va: u64, len: u32, write: bool, fault: bool) -> Result {
        let memory = self.memory.enter().ok_or(EINVAL)?;
        let Backing::Paged(paged) = &*memory else {
            return Err(not_supported());
        };
        let at = self.offset_of(va, len).filter(|_| self.view.pd == pd).ok_or(EFAULT)?;
        if write && !self.view.access.allows(Access::LOCAL_WRITE) {
            return Err(EPERM);
        }
        paged.bring(at, usize::try_from(len)?, write, fault)
    }

    /// Our own attributes in `rdma resource show mr -dd`.
    pub(crate) fn details(&self) -> [Detail; 4] {
        [
            Detail::hex(c"base", self.view.base),
            Detail::hex(c"access", u64::from(self.view.access.0)),
            Detail::hex(c"pd", self.view.pd.0),
            Detail::dec(c"windows", u64::try_from(self.windows.load(Relaxed)).unwrap_or(0)),
        ]
    }

    /// The key.
    pub(crate) fn key(&self) -> u32 {
        self.view.key.0
    }

    /// A window is to be bound as `wanted`. True if the region admits it; then [`Self::on_unbind`] is owed.
    pub(crate) fn on_bind(&self, wanted: &Bind, pd: Pd, access: Access) -> bool {
        let writes = Access::REMOTE_WRITE.with(Access::REMOTE_ATOMIC);
        let may_write = access.0 & writes.0 == 0 || self.view.access.allows(Access::LOCAL_WRITE);
        let bindable = self.view.access.0 & c::ib_access_flags_IB_ACCESS_MW_BIND != 0;
        let inside = wanted
            .base
            .checked_sub(self.view.base)
            .and_then(|offset| offset.checked_add(wanted.length))
            .is_some_and(|end| end <= self.view.length);
        if self.view.key != wanted.region || self.view.pd != pd || !bindable || !may_write || !inside {
            return false;
        }
        let mut count = self.windows.load(Relaxed);
        while count >= 0 {
            match self.windows.cmpxchg(count, count + 1, Full) {
                Ok(_) => return true,
                Err(now) => count = now,
            }
        }
        false
    }

    /// A window is bound no more.
    pub(crate) fn on_unbind(&self) {
        self.windows.fetch_sub(1, Full);
    }

    /// Where `len` bytes at `va` are, if they are all inside.
    pub(crate) fn offset_of(&self, va: u64, len: u32) -> Option<usize> {
        let offset = va.checked_sub(self.view.base)?;
        let end = offset.checked_add(u64::from(len))?;
        (end <= self.view.length).then_some(usize::try_from(offset).ok()?)
    }

    /// The offset of an access, if the rule admits it; nothing that counts for a fast region, which is asked again.
    pub(crate) fn admit(&self, ask: &Ask) -> Result<usize, Fault> {
        if self.is_fast {
            return self
                .with_fast(|fast| fast.check(ask))
                .unwrap_or(Err(ask.refused()))
                .map(|()| 0);
        }
        let offset = keys::check(&self.view, ask.key, ask.pd, ask.va, ask.len, ask.needed)?;
        usize::try_from(offset).map_err(|_| Fault::LocalProtection)
    }

    /// The memory, for an access that was admitted.
    fn enter(&self, ask: &Ask) -> Result<Use<'_, Backing>, Fault> {
        self.memory.enter().ok_or(ask.refused())
    }

    /// Copies out what was admitted as `ask`, at the offset that it was given.
    pub(crate) fn read(&self, ask: &Ask, at: usize, to: &mut [u8]) -> Result<(), Fault> {
        self.enter(ask)?.read(ask, at, to)
    }

    /// As [`Self::read`], the other way.
    pub(crate) fn write(&self, ask: &Ask, at: usize, from: &[u8]) -> Result<(), Fault> {
        self.enter(ask)?.write(ask, at, from)
    }

    /// As [`Self::read`], for 8 bytes as one.
    pub(crate) fn word<T>(&self, ask: &Ask, at: usize, act: impl FnOnce(&AtomicU64) -> T) -> Result<T, Fault> {
        self.enter(ask)?.word(ask, at, act)
    }

    /// Lends `len` bytes of what was admitted as `ask`. See [`Backing::lend`]. The region does not end before `lenders`
    /// is dropped.
    pub(crate) fn lend(
        this: &Arc<Self>,
        ask: &Ask,
        at: usize,
        len: usize,
        to: &mut impl Borrower,
        lenders: &mut Lenders,
    ) -> Result<bool, Fault> {
        let lent = this.enter(ask)?.lend(at, len, to);
        Ok(lent && lenders.add(this))
    }

    /// Whether the first `len` bytes of what was admitted as `ask` are there.
    pub(crate) fn is_there(&self, ask: &Ask, at: usize, len: usize, write: bool) -> Result<(), Fault> {
        self.enter(ask)?.is_there(at, len, write)
    }

    /// Carries a fast registration out, of a region that is for it.
    pub(crate) fn on_register(&self, wanted: &Registration, pd: Pd) -> Result<(), Fault> {
        let optional = c::ib_access_flags_IB_ACCESS_OPTIONAL;
        if wanted.access.0 & !FAST_RIGHTS & !optional != 0 {
            return Err(Fault::Bind);
        }
        let wanted = Registration {
            access: Access(wanted.access.0 & FAST_RIGHTS),
            ..*wanted
        };
        self.with_fast(|fast| fast.register(&wanted, pd))
            .unwrap_or(Err(Fault::Bind))
    }
}

impl Gated for Region {
    fn gate(&self) -> &Gate {
        self.memory.gate()
    }
}

/// Regions that one frame borrows from at most. Scatter-gather lists mostly lie in one.
const LENDERS: usize = 4;

/// The regions that a frame borrows from. None of them ends before this is dropped, so what the frame carries is what
/// the owner had there while it was registered.
#[derive(Default)]
pub(crate) struct Lenders([Option<Lease<Region>>; LENDERS]);

impl Lenders {
    /// Adds a region. False if it is ending, or there are too many.
    fn add(&mut self, region: &Arc<Region>) -> bool {
        if self.0.iter().flatten().any(|lease| lease.is_of(region)) {
            return true;
        }
        let free = self.0.iter_mut().find(|place| place.is_none());
        free.is_some_and(|place| {
            *place = Lease::enter(region);
            place.is_some()
        })
    }
}

/// What names a region.
const fn view(key: Key, pd: Pd, (base, length): (u64, u64), access: Access) -> RegionView {
    RegionView {
        key,
        pd,
        base,
        length,
        access,
        valid: true,
    }
}
