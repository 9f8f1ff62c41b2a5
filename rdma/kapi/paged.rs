// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Paged memory of a user: registered, not pinned. A table says which pages are there now.
//!
//! The core's `ib_umem_odp` follows the owner's page table. What it learns it tells this table, whose lock packets may
//! take: a page found in the table stays valid until the lock is released. Whoever misses a page has it brought from
//! a work item ([`PagedMemory::bring`]), as a page fault sleeps.
//!
//! C headers: `include/rdma/ib_umem_odp.h`, `include/linux/mmu_notifier.h`.

use super::{
    held::Held,
    ibdev::IbDev,
    place,
    sync::{bh_lock, lock_class, new_bh_lock, BhLock},
};
use core::{
    ptr::{self, NonNull},
    sync::atomic::AtomicU64,
};
use kernel::{
    error::to_result,
    ffi::c_void,
    prelude::*,
    workqueue::{impl_has_work, Queue, Work, WorkItem},
};
use tbnet::kapi::kernels::not_supported;
use usb4_bindings as c;

const PAGE_SHIFT: usize = kernel::page::PAGE_SHIFT;
const PAGE: usize = 1 << PAGE_SHIFT;

/// A page as the table has it: the address of its `struct page`, bit 0 if it may be written; 0 if it is not there.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Entry(usize);

impl Entry {
    fn new(page: *mut c::page, writable: bool) -> Self {
        Self(page.expose_provenance() | usize::from(writable))
    }

    fn admits(self, write: bool) -> bool {
        self.0 != 0 && (!write || self.0 & 1 != 0)
    }

    fn page(self) -> *mut c::page {
        ptr::with_exposed_provenance_mut(self.0 & !1)
    }
}

/// The table, at an address that the umem knows.
#[pin_data]
struct Table {
    #[pin]
    entries: BhLock<KVVec<Entry>>,
}

/// Why an access did not happen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Miss {
    /// A page is not there, or not for writing.
    Absent,
    /// Outside, or misaligned.
    Outside,
}

/// The umem.
///
/// # Invariants
///
/// Valid, and owned by this value.
struct Odp(NonNull<c::ib_umem_odp>);

// SAFETY: The umem has its own mutex; any thread may use it.
unsafe impl Send for Odp {}
// SAFETY: As above.
unsafe impl Sync for Odp {}

impl Drop for Odp {
    fn drop(&mut self) {
        // SAFETY: Owned, by the invariant. Its release tells the table, if it has one, that all pages are gone.
        unsafe { c::usb4_paged_release(self.0.as_ptr()) }
    }
}

/// A umem and the table that it calls into, until and while it is released.
struct Followed {
    // In the order of their end: fields are dropped from the first to the last.
    odp: Odp,
    table: Pin<KBox<Table>>,
}

impl Followed {
    /// Has the umem tell `table` from now on.
    fn new(odp: Odp, table: Pin<KBox<Table>>) -> Self {
        let this = Self { odp, table };
        let owner: *const Table = &*this.table;
        // SAFETY: The umem is valid. The table stays where it is, and goes after the umem.
        unsafe { c::usb4_paged_own(this.odp.0.as_ptr(), owner.cast_mut().cast()) };
        this
    }
}

/// Bytes that the umem and the table take for each page of a range, whether it is there or not.
const EACH: usize = size_of::<u64>() + size_of::<Entry>();

/// A range of user memory whose pages come and go. Dropping it sleeps.
pub(crate) struct PagedMemory {
    pages: Followed,
    _held: Held,
    /// Where the range begins in the first page.
    first: usize,
    len: usize,
}

impl PagedMemory {
    /// Registers `len` bytes at `start` of the calling process for `access` (`IB_ACCESS_*`). Nothing is brought yet.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` without CONFIG_INFINIBAND_ON_DEMAND_PAGING, for huge pages, and for the whole address space;
    /// `ENOMEM` for a range of which the list of pages alone is too long.
    pub(crate) fn register(dev: &IbDev, start: u64, len: u64, access: i32) -> Result<Self> {
        let huge = access & c::ib_access_flags_IB_ACCESS_HUGETLB as i32 != 0;
        if huge || (start == 0 && len == u64::MAX) {
            return Err(not_supported());
        }
        let pages = usize::try_from(len)?.div_ceil(PAGE).saturating_add(1);
        let held = Held::take(pages.saturating_mul(EACH))?;
        let mut err = 0;
        // SAFETY: The device is alive during a call on one of its objects.
        let raw = unsafe { c::usb4_paged_get(dev.as_ptr(), start, len, access, &mut err) };
        let Some(raw) = NonNull::new(raw) else {
            to_result(i32::try_from(err)?)?;
            return Err(ENOMEM);
        };
        let odp = Odp(raw);
        let mut entries = KVVec::new();
        // SAFETY: `odp` is alive.
        let count = unsafe { c::usb4_paged_count(raw.as_ptr()) };
        entries.resize(count, Entry::default(), GFP_KERNEL)?;
        let table = KBox::pin_init(
            pin_init!(Table { entries <- new_bh_lock!(entries, c"usb4_pages") }),
            GFP_KERNEL,
        )?;
        Ok(Self {
            pages: Followed::new(odp, table),
            _held: held,
            first: usize::try_from(start)? & (PAGE - 1),
            len: usize::try_from(len)?,
        })
    }

    /// Copies out of the range, all or nothing.
    pub(crate) fn read(&self, at: usize, to: &mut [u8]) -> Result<(), Miss> {
        let mut done = 0;
        self.pieces(at, to.len(), false, |page, offset, len| {
            if let Some(piece) = to.get_mut(done..done + len) {
                // SAFETY: The page is in the table, whose lock is held, and `offset + len` is inside it.
                unsafe { c::usb4_page_read(piece.as_mut_ptr().cast(), page, offset, len) };
            }
            done += len;
        })
    }

    /// Copies into the range, all or nothing.
    pub(crate) fn write(&self, at: usize, from: &[u8]) -> Result<(), Miss> {
        let mut done = 0;
        self.pieces(at, from.len(), true, |page, offset, len| {
            if let Some(piece) = from.get(done..done + len) {
                // SAFETY: As in `read`, and the page may be written.
                unsafe { place::in_page(page, offset, piece) };
            }
            done += len;
        })
    }

    /// Lets `act` work on the 8 bytes at `at` as one.
    pub(crate) fn word<T>(&self, at: usize, act: impl FnOnce(&AtomicU64) -> T) -> Result<T, Miss> {
        if (self.first + at) % 8 != 0 {
            return Err(Miss::Outside);
        }
        let mut act = Some(act);
        let mut result = None;
        self.pieces(at, 8, true, |page, offset, _| {
            // SAFETY: The page is in the table, whose lock is held.
            let base = unsafe { c::usb4_page_map(page) };
            // SAFETY: Aligned and inside the page, which is mapped; all who write there do so as user space would.
            let word = unsafe { AtomicU64::from_ptr(base.cast::<u8>().add(offset).cast()) };
            result = act.take().map(|act| act(word));
            // SAFETY: Mapped above, by this thread, and the last of its mappings.
            unsafe { c::usb4_page_unmap(base) };
        })?;
        result.ok_or(Miss::Outside)
    }

    /// Whether a range is there.
    pub(crate) fn is_there(&self, at: usize, len: usize, write: bool) -> Result<(), Miss> {
        self.pieces(at, len, write, |_, _, _| ())
    }

    /// Brings the pages under a range. With `fault`, those that are not mapped too. Sleeps.
    ///
    /// # Errors
    ///
    /// Why the owner itself could not touch them (`EFAULT`, `EPERM`), or `EINVAL` when the owner is gone.
    pub(crate) fn bring(&self, at: usize, len: usize, write: bool, fault: bool) -> Result {
        let end = at.checked_add(len).filter(|end| *end <= self.len).ok_or(EFAULT)?;
        let first = (self.first + at) >> PAGE_SHIFT;
        let last = (self.first + end).div_ceil(PAGE);
        // SAFETY: The umem is alive, and has its table.
        to_result(unsafe { c::usb4_paged_bring(self.pages.odp.0.as_ptr(), first, last - first, write, fault) })
    }

    /// Walks the pages under a range, once all are known to be there.
    fn pieces(
        &self,
        at: usize,
        len: usize,
        write: bool,
        mut each: impl FnMut(*mut c::page, usize, usize),
    ) -> Result<(), Miss> {
        let end = at
            .checked_add(len)
            .filter(|end| *end <= self.len)
            .ok_or(Miss::Outside)?;
        if len == 0 {
            return Ok(());
        }
        let entries = self.pages.table.entries.lock();
        let first = (self.first + at) >> PAGE_SHIFT;
        let last = (self.first + end).div_ceil(PAGE);
        let under = entries.get(first..last).ok_or(Miss::Outside)?;
        if !under.iter().all(|entry| entry.admits(write)) {
            return Err(Miss::Absent);
        }
        let mut offset = (self.first + at) & (PAGE - 1);
        let mut left = len;
        for entry in under {
            let piece = left.min(PAGE - offset);
            each(entry.page(), offset, piece);
            offset = 0;
            left -= piece;
        }
        Ok(())
    }
}

/// A page of the table has come. Under the umem's mutex.
///
/// # Safety
///
/// `owner` is what `usb4_paged_own` was given, and its umem is alive.
#[no_mangle]
unsafe extern "C" fn usb4_op_page_here(owner: *mut c_void, index: usize, page: *mut c::page, writable: bool) {
    // SAFETY: The umem's owner is a table that outlives it.
    let table = unsafe { &*owner.cast::<Table>() };
    if let Some(entry) = table.entries.lock().get_mut(index) {
        *entry = Entry::new(page, writable);
    }
}

/// Pages of the table are going. Under the umem's mutex; on return nobody uses them.
///
/// # Safety
///
/// As for [`usb4_op_page_here`].
#[no_mangle]
unsafe extern "C" fn usb4_op_pages_gone(owner: *mut c_void, first: usize, count: usize) {
    // SAFETY: The umem's owner is a table that outlives it.
    let table = unsafe { &*owner.cast::<Table>() };
    let mut entries = table.entries.lock();
    if let Some(range) = entries.get_mut(first..first.saturating_add(count)) {
        range.fill(Entry::default());
    }
}

/// Whether the kernel can page at all.
pub(crate) fn is_possible() -> bool {
    // SAFETY: No preconditions.
    unsafe { c::usb4_paged_possible() }
}

/// The module's work queue for page faults. Dropping it waits for all of them.
pub(crate) struct Paging(());

impl Paging {
    pub(crate) fn start() -> Result<Self> {
        // SAFETY: Called once, at the module's start.
        to_result(unsafe { c::usb4_paging_start() })?;
        Ok(Self(()))
    }
}

impl Drop for Paging {
    fn drop(&mut self) {
        // SAFETY: Started, and nobody is left who could queue.
        unsafe { c::usb4_paging_stop() }
    }
}

/// Something to be done where one may sleep.
#[pin_data]
struct Errand<F: FnOnce() + Send + Unpin + 'static> {
    #[pin]
    work: Work<Errand<F>>,
    #[pin]
    act: BhLock<Option<F>>,
}

impl_has_work! {
    impl{F: FnOnce() + Send + Unpin + 'static} HasWork<Self> for Errand<F> { self.work }
}

impl<F: FnOnce() + Send + Unpin + 'static> WorkItem for Errand<F> {
    type Pointer = Pin<KBox<Self>>;

    fn run(this: Pin<KBox<Self>>) {
        let act = this.act.lock().take();
        if let Some(act) = act {
            act();
        }
    }
}

/// Runs `act` from the work queue for page faults, while [`Paging`] lives. Any context but hard interrupts.
///
/// # Errors
///
/// `ENOMEM`; then `act` is dropped.
pub(crate) fn run_errand<F: FnOnce() + Send + Unpin + 'static>(act: F) -> Result {
    let class = lock_class!(c"usb4_errand");
    let errand = KBox::pin_init(
        pin_init!(Errand {
            work <- Work::new(class.name(), class.key()),
            act <- bh_lock(Some(act), lock_class!(c"usb4_errand_act")),
        }),
        GFP_ATOMIC,
    )?;
    // SAFETY: The queue is there while devices are, as it is the module's last to go.
    let queue: &Queue = unsafe { Queue::from_raw(c::usb4_paging_queue().cast()) };
    queue.enqueue(errand);
    Ok(())
}
