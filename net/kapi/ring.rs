// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The rings of a host interface, with descriptors that we write ourselves.
//!
//! The core's own queueing rings the doorbell for every frame. Here descriptors are written to memory first and one
//! register write tells of all of them. The core allocates, starts, stops and frees the ring; its own head and tail
//! stay 0, so that its own completion work finds nothing to do.
//!
//! A [`Ring`] is the hardware's object, shared. A [`TxRing`] or [`RxRing`] is its one cursor: it owns, for each
//! descriptor that the hardware has, a `T` that is given back when the descriptor is.
//!
//! C headers: `include/linux/thunderbolt.h`; descriptor layout from `drivers/thunderbolt/nhi_regs.h`.

use super::xdomain::Xdomain;
use core::{
    ptr::{self, NonNull},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};
use kernel::{error::to_result, prelude::*, sync::Arc};
use usb4_bindings as c;

/// Longest frame; the descriptor's 12-bit length says 0 for it.
const MAX_FRAME: usize = 4096;

/// Fewest descriptors of a ring that is worth having.
const MIN_SIZE: u32 = 64;

/// `RING_FLAG_FRAME`: frames with markers, not raw packets.
const FRAME_MODE: u32 = 1 << 1;

const EOF_SHIFT: u32 = 12;
const SOF_SHIFT: u32 = 16;
/// In a completed receive descriptor.
const CRC_ERROR: u32 = 0x1 << 20;
const COMPLETED: u32 = 0x2 << 20;
const POSTED: u32 = 0x4 << 20;
/// In a completed receive descriptor, where `POSTED` was.
const OVERRUN: u32 = 0x4 << 20;
const INTERRUPT: u32 = 0x8 << 20;

/// A descriptor as the host interface reads and writes it; little-endian, as every host of this module is.
#[repr(C)]
struct Descriptor {
    address: u64,
    /// Length 11:0, EOF 15:12, SOF 19:16, flags 31:20.
    word: u32,
    time: u32,
}

/// Whom the interrupts of a ring concern. Called in any context, locks of the thunderbolt core held.
pub(crate) trait Wake: Send + Sync {
    /// The ring has completed something. False if that was known already.
    fn wake(&self) -> bool;
}

/// Which way a ring goes, and for a receive ring what it accepts.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    /// Sends.
    Transmit,
    /// Receives frames whose SOF and EOF have their bits set here.
    Receive {
        /// Bit i: SOF i begins a frame.
        sof: u16,
        /// Bit i: EOF i ends one.
        eof: u16,
        /// The transmit ring through which credits go back, with end-to-end flow control.
        pair: i32,
    },
}

/// What a re-scan saw of a ring.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Look {
    tail: u32,
    complete: bool,
}

/// A ring of the host interface. Freed when the last share goes, which may sleep.
///
/// # Invariants
///
/// `raw` is an allocated ring of `size` descriptors, which are at `descriptors`; it has been stopped before it is
/// freed.
pub(crate) struct Ring {
    raw: NonNull<c::tb_ring>,
    descriptors: NonNull<Descriptor>,
    size: u32,
    transmits: bool,
    wake: Arc<dyn Wake>,
    /// Interrupts come to our handler, which leaves them pending instead of masking them.
    own_vector: bool,
    running: AtomicBool,
    /// The interrupt has come and is masked until the poll is complete.
    masked: AtomicBool,
    /// The cursor's, for the re-scan.
    head: AtomicU32,
    tail: AtomicU32,
}

// SAFETY: The core locks the ring for itself; descriptors are the one cursor's.
unsafe impl Send for Ring {}
// SAFETY: As above.
unsafe impl Sync for Ring {}

impl Ring {
    /// A ring of at most `size` descriptors, smaller where memory is short; not started. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if there is no free ring or no memory for a small one.
    pub(crate) fn new(xd: &Xdomain, way: Way, size: u32, wake: &Arc<dyn Wake>) -> Result<Arc<Self>> {
        let mut size = size;
        loop {
            if let Some(raw) = Self::allocate(xd, way, size) {
                return Self::wrap(raw, way, size, wake);
            }
            size /= 2;
            if size < MIN_SIZE {
                return Err(ENOSPC);
            }
        }
    }

    fn allocate(xd: &Xdomain, way: Way, size: u32) -> Option<NonNull<c::tb_ring>> {
        let count = i32::try_from(size).ok()?;
        // SAFETY: The host interface is there while the link is.
        NonNull::new(unsafe {
            match way {
                Way::Transmit => c::tb_ring_alloc_tx(xd.nhi(), -1, count, FRAME_MODE),
                Way::Receive { sof, eof, pair } => {
                    c::tb_ring_alloc_rx(xd.nhi(), -1, count, FRAME_MODE, pair, sof, eof, None, ptr::null_mut())
                }
            }
        })
    }

    fn wrap(raw: NonNull<c::tb_ring>, way: Way, size: u32, wake: &Arc<dyn Wake>) -> Result<Arc<Self>> {
        // SAFETY: Allocated just now.
        let descriptors = NonNull::new(unsafe { (*raw.as_ptr()).descriptors }.cast::<Descriptor>());
        let mut ring = Self {
            raw,
            descriptors: descriptors.unwrap_or(NonNull::dangling()),
            size,
            transmits: matches!(way, Way::Transmit),
            wake: wake.clone(),
            own_vector: false,
            running: AtomicBool::new(false),
            masked: AtomicBool::new(false),
            head: AtomicU32::new(0),
            tail: AtomicU32::new(0),
        };
        // SAFETY: Allocated just now and not started.
        let taken = unsafe { c::usb4_tb_ring_take_vector(raw.as_ptr()) };
        to_result(taken)?;
        ring.own_vector = taken != 0;
        Ok(Arc::new(ring, GFP_KERNEL)?)
    }

    /// Descriptors; one less can be posted.
    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    /// The ring's number at the host interface.
    pub(crate) fn hop(&self) -> i32 {
        // SAFETY: Valid by the invariant.
        unsafe { (*self.raw.as_ptr()).hop }
    }

    /// Has the ring run, from its first descriptor on. Not while it runs. What its cursor has posted before, the
    /// hardware sees with the first doorbell after. Sleeps.
    pub(crate) fn start(&self, e2e: bool) {
        // The first poll clears what is left of former times.
        self.masked.store(self.own_vector, Ordering::Relaxed);
        // SAFETY: The ring is valid and stopped. `self` is in an `Arc` that outlives the ring's interrupts: they end
        // with `stop`, which is called before the last share goes.
        unsafe {
            c::usb4_tb_ring_flow(self.raw.as_ptr(), e2e);
            c::usb4_tb_ring_wake(
                self.raw.as_ptr(),
                Some(Self::interrupted),
                ptr::from_ref(self).cast_mut().cast(),
            );
            c::tb_ring_start(self.raw.as_ptr());
        }
        self.running.store(true, Ordering::Release);
    }

    /// Takes the ring from the hardware: nothing is read or written any more, nobody is woken. Nobody uses the cursor
    /// meanwhile. Sleeps.
    pub(crate) fn stop(&self) {
        if self.running.swap(false, Ordering::AcqRel) {
            // SAFETY: Valid and started.
            unsafe { c::usb4_tb_ring_stop(self.raw.as_ptr()) }
        }
    }

    /// At most one interrupt in `ns` nanoseconds, 0 for no limit. At once, also while the ring runs. Any context.
    pub(crate) fn set_throttle(&self, ns: u32) {
        // SAFETY: Valid by the invariant.
        unsafe { c::usb4_tb_ring_throttle(self.raw.as_ptr(), ns) }
    }

    /// Has the owner woken if the oldest descriptor is complete and was so at the last look. Returns whether that was
    /// news to it. For a timer: an interrupt may be lost.
    pub(crate) fn rescan(&self, look: &mut Look) -> bool {
        let (head, tail) = (self.head.load(Ordering::Acquire), self.tail.load(Ordering::Acquire));
        let complete = tail != head && self.completed(tail);
        let stuck = complete && *look == Look { tail, complete };
        *look = Look { tail, complete };
        stuck && self.wake.wake()
    }

    fn word(&self, index: u32) -> *mut u32 {
        // SAFETY: Within the descriptors: `index` is below `size`.
        unsafe { &raw mut (*self.descriptors.as_ptr().add(index.min(self.size - 1) as usize)).word }
    }

    fn completed(&self, index: u32) -> bool {
        // SAFETY: The descriptor is there while the ring is; the hardware writes it, so it is read as such.
        unsafe { ptr::read_volatile(self.word(index)) & COMPLETED != 0 }
    }

    fn next(&self, index: u32) -> u32 {
        if index + 1 < self.size {
            index + 1
        } else {
            0
        }
    }

    /// Writes a descriptor; the hardware does not know it yet.
    fn write(&self, index: u32, address: u64, word: u32) {
        let at = self.word(index).cast::<u8>();
        // SAFETY: Within the descriptors, which only the cursor writes; `word` is behind an 8-byte address.
        unsafe {
            let descriptor = at.sub(core::mem::offset_of!(Descriptor, word)).cast::<Descriptor>();
            ptr::write_volatile(&raw mut (*descriptor).address, address);
            ptr::write_volatile(&raw mut (*descriptor).time, 0);
            ptr::write_volatile(&raw mut (*descriptor).word, word);
        }
    }

    /// Shows the hardware all descriptors before `head`.
    fn doorbell(&self, head: u32) {
        let value = if self.transmits { head << 16 } else { head };
        // SAFETY: Valid by the invariant.
        unsafe {
            c::usb4_dma_wmb();
            c::usb4_tb_doorbell(self.raw.as_ptr(), value);
        }
    }

    fn unmask(&self) {
        if self.masked.swap(false, Ordering::AcqRel) {
            // SAFETY: Valid by the invariant.
            unsafe {
                if self.own_vector {
                    c::usb4_tb_ring_rearm(self.raw.as_ptr());
                } else {
                    c::usb4_tb_ring_unmask(self.raw.as_ptr());
                }
            }
        }
    }

    /// The interrupt. If it is the core's, its locks are held and it has been masked.
    ///
    /// # Safety
    ///
    /// `data` is the `Ring` that [`Ring::start`] gave.
    unsafe extern "C" fn interrupted(data: *mut c_void) {
        // SAFETY: By `start`.
        let ring = unsafe { &*data.cast::<Self>() };
        ring.masked.store(true, Ordering::Release);
        ring.wake.wake();
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.stop();
        // SAFETY: Stopped, and nobody else has it.
        unsafe { c::tb_ring_free(self.raw.as_ptr()) }
    }
}

/// What a cursor of either way has.
struct Cursor<T> {
    ring: Arc<Ring>,
    owners: KVec<Option<T>>,
    /// Next descriptor to post.
    head: u32,
    /// Next descriptor to complete.
    tail: u32,
    /// Posted since the last doorbell.
    silent: bool,
}

impl<T> Cursor<T> {
    fn new(ring: Arc<Ring>) -> Result<Self> {
        let mut owners = KVec::with_capacity(ring.size as usize, GFP_KERNEL)?;
        for _ in 0..ring.size {
            owners.push(None, GFP_KERNEL)?;
        }
        ring.head.store(0, Ordering::Relaxed);
        ring.tail.store(0, Ordering::Relaxed);
        Ok(Self {
            ring,
            owners,
            head: 0,
            tail: 0,
            silent: false,
        })
    }

    fn in_flight(&self) -> u32 {
        let (head, tail) = (self.head, self.tail);
        if head >= tail {
            head - tail
        } else {
            self.ring.size - tail + head
        }
    }

    fn room(&self) -> usize {
        (self.ring.size - 1 - self.in_flight()) as usize
    }

    fn post(&mut self, address: u64, word: u32, owner: T) -> Result<(), T> {
        if self.room() == 0 {
            return Err(owner);
        }
        let Some(slot) = self.owners.get_mut(self.head as usize) else {
            return Err(owner);
        };
        *slot = Some(owner);
        self.ring.write(self.head, address, word);
        self.head = self.ring.next(self.head);
        self.silent = true;
        Ok(())
    }

    fn doorbell(&mut self) {
        if self.silent {
            self.silent = false;
            self.ring.head.store(self.head, Ordering::Release);
            self.ring.doorbell(self.head);
        }
    }

    fn has_completed(&self) -> bool {
        self.tail != self.head && self.ring.completed(self.tail)
    }

    fn reap(&mut self) -> Option<(T, u32)> {
        if !self.has_completed() {
            return None;
        }
        // SAFETY: No preconditions. Nothing of the frame is read before the descriptor was seen completed.
        unsafe { c::usb4_dma_rmb() };
        // SAFETY: As in `Ring::completed`.
        let word = unsafe { ptr::read_volatile(self.ring.word(self.tail)) };
        self.pop().map(|owner| (owner, word))
    }

    /// From the first descriptor on again, of a ring that has been stopped. What was posted is dropped.
    fn restart(&mut self) {
        while self.pop().is_some() {}
        (self.head, self.tail, self.silent) = (0, 0, false);
        self.ring.head.store(0, Ordering::Relaxed);
        self.ring.tail.store(0, Ordering::Relaxed);
    }

    fn pop(&mut self) -> Option<T> {
        if self.tail == self.head {
            return None;
        }
        let owner = self.owners.get_mut(self.tail as usize).and_then(Option::take);
        self.tail = self.ring.next(self.tail);
        self.ring.tail.store(self.tail, Ordering::Release);
        owner
    }
}

/// The cursor of a transmit ring. One per ring; the hardware must be done with the ring before this is dropped.
pub(crate) struct TxRing<T>(Cursor<T>);

impl<T> TxRing<T> {
    /// The cursor of `ring`, which is going to be started.
    pub(crate) fn new(ring: Arc<Ring>) -> Result<Self> {
        Ok(Self(Cursor::new(ring)?))
    }

    /// Descriptors; one less can be posted.
    pub(crate) fn size(&self) -> usize {
        self.0.ring.size as usize
    }

    /// Frames that can be posted now.
    pub(crate) fn room(&self) -> usize {
        self.0.room()
    }

    /// Frames that the hardware has, or has completed and were not reaped.
    pub(crate) fn in_flight(&self) -> usize {
        self.0.in_flight() as usize
    }

    /// Posts the frame of `len` bytes (1 to 4096) at the DMA address `at`. `interrupt`: wake when it has gone. The
    /// hardware sees it after [`TxRing::doorbell`].
    ///
    /// # Errors
    ///
    /// Gives `owner` back when there is no room.
    pub(crate) fn post(&mut self, at: u64, len: usize, sof: u8, eof: u8, interrupt: bool, owner: T) -> Result<(), T> {
        let length = (len % MAX_FRAME) as u32;
        let marks = (u32::from(eof & 15) << EOF_SHIFT) | (u32::from(sof & 15) << SOF_SHIFT);
        let flags = if interrupt { POSTED | INTERRUPT } else { POSTED };
        self.0.post(at, length | marks | flags, owner)
    }

    /// Tells the hardware of everything posted: one register write, or none.
    pub(crate) fn doorbell(&mut self) {
        self.0.doorbell();
    }

    /// The owner of the oldest frame, if it has gone.
    pub(crate) fn reap(&mut self) -> Option<T> {
        self.0.reap().map(|(owner, _)| owner)
    }

    /// Whether the oldest frame has gone.
    pub(crate) fn has_completed(&self) -> bool {
        self.0.has_completed()
    }

    /// Whether the newest frame has not gone yet.
    pub(crate) fn is_busy(&self) -> bool {
        let Cursor { ring, head, .. } = &self.0;
        let newest = head.checked_sub(1).unwrap_or(ring.size - 1);
        self.in_flight() != 0 && !ring.completed(newest)
    }

    /// Lets the interrupt come again. Then ask [`TxRing::has_completed`] once more: what completed before may make
    /// none.
    pub(crate) fn poll_complete(&self) {
        self.0.ring.unmask();
    }
}

/// A received frame as its descriptor tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    /// Bytes, 1 to 4096.
    pub(crate) len: u16,
    /// Start marker.
    pub(crate) sof: u8,
    /// End marker.
    pub(crate) eof: u8,
    /// The frame is damaged.
    pub(crate) crc_error: bool,
    /// The frame did not fit.
    pub(crate) overrun: bool,
}

impl Completion {
    fn new(word: u32) -> Self {
        let len = (word & 0xfff) as u16;
        Self {
            len: if len == 0 { MAX_FRAME as u16 } else { len },
            sof: ((word >> SOF_SHIFT) & 15) as u8,
            eof: ((word >> EOF_SHIFT) & 15) as u8,
            crc_error: word & CRC_ERROR != 0,
            overrun: word & OVERRUN != 0,
        }
    }
}

/// The cursor of a receive ring. One per ring; the hardware must be done with the ring before this is dropped.
pub(crate) struct RxRing<T>(Cursor<T>);

impl<T> RxRing<T> {
    /// The cursor of `ring`, which is going to be started.
    pub(crate) fn new(ring: Arc<Ring>) -> Result<Self> {
        Ok(Self(Cursor::new(ring)?))
    }

    /// Descriptors; one less can be posted.
    pub(crate) fn size(&self) -> usize {
        self.0.ring.size as usize
    }

    /// From the first descriptor on again, of a ring that has been stopped. What was posted is dropped.
    pub(crate) fn restart(&mut self) {
        self.0.restart();
    }

    /// Whether no buffer is posted.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.in_flight() == 0
    }

    /// Buffers that can be posted now.
    pub(crate) fn room(&self) -> usize {
        self.0.room()
    }

    /// Posts the 4096 bytes at the DMA address `at`. The hardware sees them after [`RxRing::doorbell`].
    ///
    /// # Errors
    ///
    /// Gives `owner` back when there is no room.
    pub(crate) fn post(&mut self, at: u64, owner: T) -> Result<(), T> {
        self.0.post(at, POSTED | INTERRUPT, owner)
    }

    /// The same for bytes that are of no interest before others have come behind them: no interrupt tells of them.
    ///
    /// # Errors
    ///
    /// As [`RxRing::post`].
    pub(crate) fn post_quiet(&mut self, at: u64, owner: T) -> Result<(), T> {
        self.0.post(at, POSTED, owner)
    }

    /// Tells the hardware of everything posted: one register write, or none.
    pub(crate) fn doorbell(&mut self) {
        self.0.doorbell();
    }

    /// The oldest buffer's owner and what is in it, if a frame has come.
    pub(crate) fn reap(&mut self) -> Option<(T, Completion)> {
        self.0.reap().map(|(owner, word)| (owner, Completion::new(word)))
    }

    /// Whether a frame has come.
    pub(crate) fn has_completed(&self) -> bool {
        self.0.has_completed()
    }

    /// Lets the interrupt come again. Then ask [`RxRing::has_completed`] once more: what came before may make none.
    pub(crate) fn poll_complete(&self) {
        self.0.ring.unmask();
    }
}
