// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Memory regions under random keys: user memory, pinned or paged, and memory of kernel callers.

use crate::{
    device::{Device, Regions},
    fast::{Ask, Fast},
    kapi::{
        self,
        dmabuf::Dmabuf,
        paged::{Miss, PagedMemory},
        revoke::{Revocable, Use},
        umem::{KernelMemory, Umem},
        uverbs::Detail,
    },
    paging::Needs,
    window::{self, Life},
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
    keys::{self, Access, Key, RegionView},
    wqe::Fault,
};
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
/// Bytes of a paged range that must be there before its transfer begins.
const AHEAD: usize = 1 << 20;
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
    /// The memory is of the kind [`Backing::Fast`].
    is_fast: bool,
    /// Windows bound to it.
    windows: Atomic<i32>,
}

/// Where the bytes of a region are.
enum Backing {
    Pinned(Arc<Umem>),
    Paged(PagedMemory),
    Dmabuf(Arc<Dmabuf>),
    /// All memory of the kernel, for its own callers: the offset is the address.
    Kernel(KernelMemory),
    /// What a kernel caller has registered by a request, if anything: asked again for every access, and the view
    /// beside it only names it.
    Fast(Pin<KBox<Fast>>),
}

/// What a region is to be from now on.
pub(crate) struct Change {
    /// The protection domain.
    pub(crate) pd: u64,
    /// Other user memory: start, length, and the address that peers know.
    pub(crate) range: Option<(u64, u64, u64)>,
    /// Other rights.
    pub(crate) access: Option<i32>,
}

/// The rights that are asked for, if they mean something to us.
fn rights(access: i32) -> Result<Access> {
    let asked = u32::from_ne_bytes(access.to_ne_bytes());
    if asked & !(RIGHTS | c::ib_access_flags_IB_ACCESS_OPTIONAL) != 0 {
        return Err(EOPNOTSUPP);
    }
    Ok(Access(asked & RIGHTS))
}

impl Region {
    /// Pins and publishes `length` bytes at `start`, known to the peer as `iova`.
    pub(crate) fn register(
        device: &Device,
        pd: u64,
        start: u64,
        length: u64,
        iova: u64,
        access: i32,
    ) -> Result<Arc<Self>> {
        let paged = c::ib_access_flags_IB_ACCESS_ON_DEMAND;
        let asked = u32::from_ne_bytes(access.to_ne_bytes());
        let rights = rights(i32::from_ne_bytes((asked & !paged).to_ne_bytes()))?;
        iova.checked_add(length).ok_or(EINVAL)?;
        let memory = if asked & paged == 0 {
            let umem = Umem::pin(device.ib(), start, length, access)?;
            Backing::Pinned(Arc::new(umem, GFP_KERNEL)?)
        } else {
            Backing::Paged(PagedMemory::register(device.ib(), start, length, access)?)
        };
        if asked & paged != 0 {
            device.on_paged_region();
        }
        Self::publish(device, pd, (iova, length), rights, |_| Ok(memory))
    }

    /// Maps and publishes a range of a dma-buf: offset, length, and the address that peers know.
    pub(crate) fn of_dmabuf(
        device: &Device,
        pd: u64,
        fd: i32,
        (offset, length, iova): (u64, u64, u64),
        access: i32,
    ) -> Result<Arc<Self>> {
        let rights = rights(access)?;
        iova.checked_add(length).ok_or(EINVAL)?;
        let memory = Arc::new(Dmabuf::map(fd, offset, length)?, GFP_KERNEL)?;
        Self::publish(device, pd, (iova, length), rights, |_| Ok(Backing::Dmabuf(memory)))
    }

    /// Puts another region in the place of this one, under its key. This one is still to be deregistered. On return no
    /// packet works with it any more. Sleeps.
    ///
    /// # Errors
    ///
    /// `EINVAL` while windows are bound to it; `EOPNOTSUPP` for a paged region, and if it would have to be written and was
    /// pinned to be read.
    pub(crate) fn change(&self, device: &Device, wanted: &Change) -> Result<Arc<Self>> {
        if !self.may_go() {
            return Err(EINVAL);
        }
        let made = self.changed(device, wanted);
        match &made {
            Ok(new) => {
                device.regions.fill(self.key() >> 8, new.clone());
                drop(self.memory.revoke());
                self.windows.store(REPLACED, Relaxed);
            }
            Err(_) => self.windows.store(0, Relaxed),
        }
        made
    }

    fn changed(&self, device: &Device, wanted: &Change) -> Result<Arc<Self>> {
        let held = self.memory.enter().ok_or(EINVAL)?;
        if matches!(*held, Backing::Paged(_)) {
            return Err(EOPNOTSUPP);
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
            Backing::Pinned(Arc::new(Umem::pin(device.ib(), start, length, asked)?, GFP_KERNEL)?)
        } else {
            match &*held {
                Backing::Pinned(_) if access.0 & WRITES != 0 && self.view.access.0 & WRITES == 0 => {
                    return Err(EOPNOTSUPP)
                }
                Backing::Pinned(umem) => Backing::Pinned(umem.clone()),
                Backing::Dmabuf(buffer) => Backing::Dmabuf(buffer.clone()),
                Backing::Paged(_) => return Err(EOPNOTSUPP),
                Backing::Kernel(_) | Backing::Fast(_) => return Err(EINVAL),
            }
        };
        Self::new(view, memory)
    }

    /// A region that nobody knows yet.
    fn new(view: RegionView, memory: Backing) -> Result<Arc<Self>> {
        let is_fast = matches!(memory, Backing::Fast(_));
        Arc::pin_init(
            pin_init!(Self {
                view,
                memory <- Revocable::new(memory),
                is_fast,
                windows: Atomic::new(0),
            }),
            GFP_KERNEL,
        )
    }

    /// Publishes a key for fast registration of up to `pages` pages of a kernel caller's memory.
    pub(crate) fn for_fast(device: &Device, pd: u64, pages: u32, memory: KernelMemory) -> Result<Arc<Self>> {
        Self::publish(device, pd, (0, 0), Access::NONE, |key| {
            Ok(Backing::Fast(Fast::new(key, pd, pages, memory)?))
        })
    }

    /// Publishes the kernel's memory for local use in `pd`, which is a kernel caller's.
    pub(crate) fn of_kernel(device: &Device, pd: u64, memory: KernelMemory, access: i32) -> Result<Arc<Self>> {
        let asked = u32::from_ne_bytes(access.to_ne_bytes());
        if asked & !c::ib_access_flags_IB_ACCESS_OPTIONAL & !c::ib_access_flags_IB_ACCESS_LOCAL_WRITE != 0 {
            // A key for all of this host's memory is not given to peers.
            return Err(EOPNOTSUPP);
        }
        let access = Access(asked & RIGHTS);
        Self::publish(device, pd, (0, u64::MAX), access, |_| Ok(Backing::Kernel(memory)))
    }

    fn publish(
        device: &Device,
        pd: u64,
        (base, length): (u64, u64),
        access: Access,
        memory: impl FnOnce(Key) -> Result<Backing>,
    ) -> Result<Arc<Self>> {
        let slot = device.regions.reserve(kapi::pure::random())?;
        // The low 8 bits say nothing about where; the top one is for windows.
        let number = Regions::number(slot, kapi::pure::random()) & 0x7f_ffff;
        let key = Key(number << 8 | kapi::pure::random() & 0xff);
        let view = RegionView {
            key,
            pd,
            base,
            length,
            access,
            valid: true,
        };
        let made = memory(key).and_then(|memory| Self::new(view, memory));
        match made {
            Ok(region) => {
                device.regions.fill(number, region.clone());
                Ok(region)
            }
            Err(err) => {
                drop(device.regions.release(number));
                Err(err)
            }
        }
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

    fn is_replaced(&self) -> bool {
        self.windows.load(Relaxed) == REPLACED
    }

    /// Withdraws a region that may go; on return nothing refers to its memory. Sleeps while somebody uses it.
    pub(crate) fn deregister(device: &Device, region: &Self) {
        if !region.is_replaced() {
            drop(device.regions.release(region.key() >> 8));
        }
        drop(region.memory.revoke());
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
    pub(crate) fn advise(&self, pd: u64, va: u64, len: u32, write: bool, fault: bool) -> Result {
        let memory = self.memory.enter().ok_or(EINVAL)?;
        let Backing::Paged(paged) = &*memory else {
            return Err(EOPNOTSUPP);
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
            Detail::hex(c"pd", self.view.pd),
            Detail::dec(c"windows", u64::try_from(self.windows.load(Relaxed)).unwrap_or(0)),
        ]
    }

    /// The key.
    pub(crate) fn key(&self) -> u32 {
        self.view.key.0
    }

    /// A window is to be bound as `wanted`. True if the region admits it; then [`Self::on_unbind`] is owed.
    pub(crate) fn on_bind(&self, wanted: &Bind, pd: u64, access: Access) -> bool {
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
    fn admit(&self, ask: &Ask) -> Result<usize, Fault> {
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
    fn read(&self, ask: &Ask, at: usize, to: &mut [u8]) -> Result<(), Fault> {
        let done = match &*self.enter(ask)? {
            Backing::Pinned(umem) => umem.read(at, to),
            Backing::Paged(paged) => return paged.read(at, to).map_err(|miss| missed(miss, Fault::LocalProtection)),
            Backing::Dmabuf(buffer) => buffer.read(at, to),
            Backing::Kernel(memory) => memory.read(at, to),
            Backing::Fast(fast) => return fast.read(ask, to),
        };
        done.then_some(()).ok_or(Fault::LocalProtection)
    }

    /// As [`Self::read`], the other way.
    fn write(&self, ask: &Ask, at: usize, from: &[u8]) -> Result<(), Fault> {
        let done = match &*self.enter(ask)? {
            Backing::Pinned(umem) => umem.write(at, from),
            Backing::Paged(paged) => {
                return paged
                    .write(at, from)
                    .map_err(|miss| missed(miss, Fault::LocalProtection))
            }
            Backing::Dmabuf(buffer) => buffer.write(at, from),
            Backing::Kernel(memory) => memory.write(at, from),
            Backing::Fast(fast) => return fast.write(ask, from),
        };
        done.then_some(()).ok_or(Fault::LocalProtection)
    }

    /// As [`Self::read`], for 8 bytes as one.
    fn word<T>(&self, ask: &Ask, at: usize, act: impl FnOnce(&AtomicU64) -> T) -> Result<T, Fault> {
        let done = match &*self.enter(ask)? {
            Backing::Pinned(umem) => umem.word(at, act),
            Backing::Paged(paged) => return paged.word(at, act).map_err(|miss| missed(miss, Fault::RemoteInvalid)),
            Backing::Dmabuf(buffer) => buffer.word(at, act),
            Backing::Kernel(memory) => memory.word(at, act),
            Backing::Fast(fast) => return fast.word(ask, act),
        };
        done.ok_or(Fault::RemoteInvalid)
    }
}

/// What a miss means to the engine.
const fn missed(miss: Miss, outside: Fault) -> Fault {
    match miss {
        Miss::Absent => Fault::Absent,
        Miss::Outside => outside,
    }
}

/// The memory that a QP may reach.
#[derive(Clone, Copy)]
pub(crate) struct Memory<'a> {
    /// Whose regions.
    pub(crate) device: &'a Device,
    /// In which protection domain.
    pub(crate) pd: u64,
    /// In which life of the QP.
    pub(crate) life: &'a Life,
    /// Takes note of pages that are not there.
    pub(crate) needs: &'a Needs,
}

impl Memory<'_> {
    /// Whether an access would be admitted, and the memory is there.
    pub(crate) fn check(&self, key: Key, va: u64, len: u32, needed: Access) -> Result<(), Fault> {
        let ask = self.ask(key, va, len, needed);
        let (region, at) = self.reach(&ask)?;
        let memory = region.enter(&ask)?;
        let Backing::Paged(paged) = &*memory else {
            return Ok(());
        };
        let write = needed.allows(Access::REMOTE_WRITE);
        let len = len as usize;
        // What a transfer touches first; the rest is brought as it comes.
        paged
            .is_there(at, len.min(AHEAD), write)
            .map_err(|miss| self.note(&region, at, len, write, missed(miss, Fault::LocalProtection)))
    }

    /// Copies out of a region.
    pub(crate) fn read(&self, key: Key, va: u64, to: &mut [u8], needed: Access) -> Result<(), Fault> {
        let ask = self.ask(key, va, length(to.len())?, needed);
        let (region, at) = self.reach(&ask)?;
        let done = region.read(&ask, at, to);
        done.map_err(|fault| self.note(&region, at, to.len(), false, fault))
    }

    /// Copies into a region.
    pub(crate) fn write(&self, key: Key, va: u64, from: &[u8], needed: Access) -> Result<(), Fault> {
        let ask = self.ask(key, va, length(from.len())?, needed);
        let (region, at) = self.reach(&ask)?;
        let done = region.write(&ask, at, from);
        done.map_err(|fault| self.note(&region, at, from.len(), true, fault))
    }

    /// Lets `act` work on 8 bytes as one.
    pub(crate) fn word<T>(
        &self,
        key: Key,
        va: u64,
        needed: Access,
        act: impl FnOnce(&AtomicU64) -> T,
    ) -> Result<T, Fault> {
        let ask = self.ask(key, va, 8, needed);
        let (region, at) = self.reach(&ask)?;
        let done = region.word(&ask, at, act);
        done.map_err(|fault| self.note(&region, at, 8, true, fault))
    }

    /// Takes note of pages that are absent, if that is the fault.
    fn note(&self, region: &Arc<Region>, at: usize, len: usize, write: bool, fault: Fault) -> Fault {
        match fault {
            Fault::Absent => self.needs.miss(region, at, len, write),
            other => other,
        }
    }

    /// Whether the peer may flush the whole of what a key names.
    pub(crate) fn check_whole(&self, key: Key, needed: Access) -> Result<(), Fault> {
        let region = self.device.regions.find(key.0 >> 8).ok_or(Fault::RemoteAccess)?;
        let base = region.with_fast(Fast::base).unwrap_or(region.view.base);
        region.admit(&self.ask(key, base, 0, needed)).map(drop)
    }

    fn ask(&self, key: Key, va: u64, len: u32, needed: Access) -> Ask {
        Ask {
            key,
            pd: self.pd,
            va,
            len,
            needed,
        }
    }

    /// The region that a key names, directly or through a window, and the offset of an access that is admitted.
    fn reach(&self, ask: &Ask) -> Result<(Arc<Region>, usize), Fault> {
        let refused = ask.refused();
        let number = ask.key.0 >> 8;
        if window::is_window(ask.key) {
            let window = self.device.windows.find(number).ok_or(refused)?;
            return window
                .admit(ask.key, self, ask.va, ask.len, ask.needed)
                .map_err(|_| refused);
        }
        let region = self.device.regions.find(number).ok_or(refused)?;
        let at = region.admit(ask)?;
        Ok((region, at))
    }

    /// Takes a key back: one that a request of this QP's domain registered, or a window of this QP. False if there is
    /// none that can be.
    pub(crate) fn invalidate(&self, key: Key) -> bool {
        if window::is_window(key) {
            return self.invalidate_window(key);
        }
        let region = self.device.regions.find(key.0 >> 8);
        let done = region.and_then(|region| region.with_fast(|fast| fast.invalidate(key, self.pd)));
        done.is_some_and(|done| done.is_ok())
    }

    /// Carries a registration out.
    pub(crate) fn register(&self, wanted: &Registration) -> Result<(), Fault> {
        let optional = c::ib_access_flags_IB_ACCESS_OPTIONAL;
        if wanted.access.0 & !FAST_RIGHTS & !optional != 0 {
            return Err(Fault::Bind);
        }
        let wanted = Registration {
            access: Access(wanted.access.0 & FAST_RIGHTS),
            ..*wanted
        };
        let region = self.device.regions.find(wanted.key.0 >> 8).ok_or(Fault::Bind)?;
        region
            .with_fast(|fast| fast.register(&wanted, self.pd))
            .unwrap_or(Err(Fault::Bind))
    }
}

fn length(len: usize) -> Result<u32, Fault> {
    u32::try_from(len).map_err(|_| Fault::LocalLength)
}
