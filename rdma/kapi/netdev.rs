// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The Ethernet device below: its state, frames out, frames in.
//!
//! Frames in are seen by a netfilter ingress hook on this one netdev, before the IP stack, so nothing here needs the
//! UDP port that stock rxe may have. Frames out are built whole and given to `dev_queue_xmit`.
//!
//! C headers: `include/linux/{netdevice,skbuff,netfilter}.h`, `include/net/{route,neighbour}.h`.

use core::{
    mem::{ManuallyDrop, MaybeUninit},
    ops::Deref,
    ptr,
    ptr::NonNull,
    slice,
};
use kernel::{
    error::to_result,
    ffi::{c_uint, c_void},
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Relaxed, Release},
        Arc,
    },
    types::{NotThreadSafe, Opaque},
};
use roce::wire::udp::{Addresses, Path, ETHERNET_LEN};
use tbnet::{kapi::ndo::with_object_of, span, Netif, Piece, Port};
use usb4_bindings as c;

/// `NET_XMIT_DROP`: the queue of the netdev is full.
const NET_XMIT_DROP: i32 = 1;

/// Frames given to the stack and not yet freed by it. Each will call into this module once more.
static OUTSTANDING: Atomic<i64> = Atomic::new(0);

/// Frames of ours may be in the stack while this is there. Dropping it waits until there are none, and sleeps.
pub(crate) struct Frames(());

impl Frames {
    pub(crate) const fn new() -> Self {
        Self(())
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        while OUTSTANDING.load(Acquire) != 0 {
            // SAFETY: Process context.
            unsafe { c::usb4_sleep_ms(1) };
        }
        // The last one counted itself out from within this module: whoever ran that, a softirq or a task that was
        // preempted in it, has returned from here when every task has given up its processor by itself.
        // SAFETY: Process context.
        unsafe { c::usb4_rcu_tasks_wait() };
    }
}

/// The kernel tells of what happens to netdevs while this is there.
pub(crate) struct Events(());

impl Events {
    pub(crate) fn hear() -> Result<Self> {
        // SAFETY: `drop` takes it back.
        to_result(unsafe { c::usb4_notifier_register() })?;
        Ok(Self(()))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // SAFETY: Registered by `hear`.
        unsafe { c::usb4_notifier_unregister() };
    }
}

/// The kernel's lock over the life of all netdevs, held until this is dropped. Sleeps.
pub(crate) struct Rtnl(NotThreadSafe);

impl Rtnl {
    pub(crate) fn lock() -> Self {
        // SAFETY: Process context; `drop` unlocks.
        unsafe { c::rtnl_lock() };
        Self(NotThreadSafe)
    }

    /// If nobody has it, this thread neither.
    pub(crate) fn try_lock() -> Option<Self> {
        // SAFETY: Process context; `drop` unlocks.
        let locked = unsafe { c::rtnl_trylock() } != 0;
        locked.then(|| Self(NotThreadSafe))
    }

    /// Of a caller who has it already, and lets go of it himself.
    ///
    /// # Safety
    ///
    /// This thread holds RTNL for as long as the result lives.
    pub(crate) unsafe fn held() -> ManuallyDrop<Self> {
        ManuallyDrop::new(Self(NotThreadSafe))
    }
}

impl Drop for Rtnl {
    fn drop(&mut self) {
        // SAFETY: Locked by `lock`, by this thread.
        unsafe { c::rtnl_unlock() };
    }
}

/// An Ethernet address.
///
/// # Safety
///
/// Six bytes at `at` are readable.
unsafe fn mac_at(at: *const u8) -> [u8; 6] {
    // SAFETY: By the caller's promise.
    unsafe { ptr::read_unaligned(at.cast()) }
}

/// A held reference to a netdev.
///
/// # Invariants
///
/// The pointer is valid: the device cannot go while references exist.
pub(crate) struct Netdev(NonNull<c::net_device>);

// SAFETY: References are counted per CPU; the fields read are safe to read from anywhere.
unsafe impl Send for Netdev {}
// SAFETY: As above.
unsafe impl Sync for Netdev {}

impl Netdev {
    /// Takes a reference.
    ///
    /// # Safety
    ///
    /// `ndev` is a valid netdev.
    pub(crate) unsafe fn hold(ndev: NonNull<c::net_device>) -> Self {
        // SAFETY: By the caller's promise.
        unsafe { c::usb4_netdev_hold(ndev.as_ptr()) };
        Self(ndev)
    }

    pub(crate) fn as_ptr(&self) -> *mut c::net_device {
        self.0.as_ptr()
    }

    /// An Ethernet device with an address, or the loopback, whose frames have Ethernet headers too.
    pub(crate) fn is_usable(&self) -> bool {
        // SAFETY: Valid by the invariant.
        unsafe { c::usb4_netdev_usable(self.as_ptr()) }
    }

    /// A VLAN over another netdev.
    pub(crate) fn is_vlan(&self) -> bool {
        // SAFETY: Valid by the invariant.
        unsafe { c::usb4_netdev_is_vlan(self.as_ptr()) }
    }

    /// Which network namespace it is in; under RTNL it stays there.
    pub(crate) fn namespace(&self) -> usize {
        // SAFETY: Valid by the invariant; only the address counts.
        unsafe { c::usb4_netdev_namespace(self.as_ptr()) as usize }
    }

    /// What is sent on it comes to a host that takes runs of packets ([`roce::wire::Bth::run`]). Any context.
    pub(crate) fn carries_runs(&self) -> bool {
        // SAFETY: Valid by the invariant.
        unsafe { c::usb4_netdev_carries_runs(self.as_ptr()) }
    }

    /// The lanes of the cable that it is on, or of the cables below it if it is a bond, past their queues: as many as
    /// are ours. The first of each cable, then the second of each: who takes some of them in turn has as many cables.
    /// It is registered, and RTNL held.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn ports(&self, _rtnl: &Rtnl) -> Result<KVec<Port>> {
        let (mut ports, mut seconds) = (KVec::new(), KVec::new());
        let mut next = Some(self.0);
        for number in 0.. {
            let Some(netdev) = next else {
                break;
            };
            // SAFETY: Valid by the invariant, and what is below a netdev as long as RTNL is held; registered by the
            // caller's promise, and while it is below one. `Netif` is what is behind all of ours.
            if let Some([first, second]) = unsafe { with_object_of::<Netif, _>(netdev, Netif::ports) } {
                ports.push(first, GFP_KERNEL)?;
                seconds.push(second, GFP_KERNEL)?;
            }
            // SAFETY: Valid by the invariant, and RTNL is held.
            next = NonNull::new(unsafe { c::usb4_netdev_below(self.as_ptr(), number) });
        }
        for port in seconds {
            ports.push(port, GFP_KERNEL)?;
        }
        Ok(ports)
    }

    /// Not on its way out.
    pub(crate) fn is_registered(&self) -> bool {
        // SAFETY: Valid by the invariant.
        unsafe { c::usb4_netdev_is_registered(self.as_ptr()) }
    }

    /// The netdev above this one for a VLAN, given as in `Path::tag`; for none, this one. `None` if there is none, or
    /// if it is down. Any context.
    pub(crate) fn tagged(&self, tag: u32) -> Option<Self> {
        if tag == 0 {
            return Some(self.clone());
        }
        // SAFETY: Valid by the invariant. The result comes with a reference.
        NonNull::new(unsafe { c::usb4_netdev_vlan(self.as_ptr(), tag) }).map(Self)
    }

    /// Frames for a group's Ethernet address are heard from now on; to be taken back as often with [`Self::ignore`].
    pub(crate) fn hear(&self, mac: &[u8; 6]) -> Result {
        // SAFETY: Valid by the invariant; the address is copied.
        to_result(unsafe { c::dev_mc_add(self.as_ptr(), mac.as_ptr()) })
    }

    /// See [`Self::hear`].
    pub(crate) fn ignore(&self, mac: &[u8; 6]) {
        // SAFETY: As in `hear`. It fails only for what was not heard.
        let _ = unsafe { c::dev_mc_del(self.as_ptr(), mac.as_ptr()) };
    }

    /// Whether `upper` is this one, or a VLAN directly above it.
    pub(crate) fn carries(&self, upper: &Self) -> bool {
        // SAFETY: Both valid by the invariant.
        unsafe { c::usb4_netdev_carries(self.as_ptr(), upper.as_ptr()) }
    }

    /// Tells the peers its addresses. Under RTNL.
    pub(crate) fn announce(&self) {
        // SAFETY: Valid by the invariant.
        unsafe { c::usb4_netdev_announce(self.as_ptr()) }
    }

    /// The Ethernet address of the next hop between two addresses. `None` while it is not known; then it is asked for,
    /// as it is if the caller has a `doubt` about what is known. Does not sleep, but may send.
    pub(crate) fn next_hop(&self, addresses: &Addresses, doubt: bool) -> Option<[u8; 6]> {
        let (from, to) = (addresses.src_gid(), addresses.dst_gid());
        let ipv6 = matches!(addresses, Addresses::V6 { .. });
        let mut mac = [0; 6];
        // SAFETY: Valid by the invariant; the GIDs are read and the address written, with their lengths.
        let known =
            unsafe { c::usb4_next_hop(self.as_ptr(), ipv6, from.as_ptr(), to.as_ptr(), doubt, mac.as_mut_ptr()) };
        known.then_some(mac)
    }

    /// Administratively up.
    pub(crate) fn is_up(&self) -> bool {
        // SAFETY: Valid by the invariant.
        unsafe { c::usb4_netdev_is_up(self.as_ptr()) }
    }

    /// Largest IP packet in bytes.
    pub(crate) fn mtu(&self) -> u32 {
        // SAFETY: Valid by the invariant.
        unsafe { c::usb4_netdev_mtu(self.as_ptr()) }
    }

    /// Mb/s; 0 where the device does not say. Sleeps; not in an event of the netdev, whose own lock may be held there.
    pub(crate) fn speed(&self, _rtnl: &Rtnl) -> u32 {
        // SAFETY: Valid by the invariant; RTNL is held.
        unsafe { c::usb4_netdev_speed(self.as_ptr()) }
    }

    /// `enum ib_port_state` from the carrier.
    pub(crate) fn port_state(&self) -> u32 {
        // SAFETY: Valid by the invariant.
        unsafe { c::usb4_netdev_port_state(self.as_ptr()) }
    }

    /// A stock rxe device is over it. Any context.
    pub(crate) fn has_rxe(&self) -> bool {
        // SAFETY: Valid by the invariant.
        unsafe { c::usb4_rxe_is_on(self.as_ptr()) }
    }

    /// The Ethernet address.
    pub(crate) fn mac(&self) -> [u8; 6] {
        // SAFETY: An Ethernet device has six bytes there.
        unsafe { mac_at(c::usb4_netdev_address(self.as_ptr())) }
    }
}

impl Clone for Netdev {
    fn clone(&self) -> Self {
        // SAFETY: Valid by the invariant.
        unsafe { Self::hold(self.0) }
    }
}

impl PartialEq for Netdev {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Drop for Netdev {
    fn drop(&mut self) {
        // SAFETY: This reference is ours to give back.
        unsafe { c::usb4_netdev_put(self.as_ptr()) }
    }
}

/// Who hears the frames that a netdev receives.
pub(crate) trait Hears: Send + Sync + 'static {
    /// A frame has come in. Called in a softirq, which is an RCU reader.
    fn hear(&self, frame: &RxFrame) -> Verdict;
}

/// An ingress hook, which brings a netdev's frames to a `T`. Dropping it waits until no packet is in it, and sleeps.
pub(crate) struct Hook<T: Hears> {
    ops: KBox<Opaque<c::nf_hook_ops>>,
    netdev: Netdev,
    /// What `ops` points to.
    _listener: Arc<T>,
}

// SAFETY: Registration is under netfilter's own lock.
unsafe impl<T: Hears> Send for Hook<T> {}
// SAFETY: No shared access at all.
unsafe impl<T: Hears> Sync for Hook<T> {}

impl<T: Hears> Hook<T> {
    /// From now on `listener` sees every frame that `netdev` receives.
    pub(crate) fn new(netdev: &Netdev, listener: Arc<T>) -> Result<Self> {
        let ops = KBox::new(Opaque::new(c::nf_hook_ops::default()), GFP_KERNEL)?;
        let to = (&raw const *listener).cast_mut().cast();
        // SAFETY: `ops` stays where it is until it is unregistered, and the listener is there as long; the netdev is
        // held.
        to_result(unsafe { c::usb4_hook_register(ops.get(), netdev.as_ptr(), Some(Self::receive), to) })?;
        Ok(Self {
            ops,
            netdev: netdev.clone(),
            _listener: listener,
        })
    }

    /// What netfilter calls.
    ///
    /// # Safety
    ///
    /// `listener` is what [`Self::new`] registered, and `skb` a frame or null.
    unsafe extern "C" fn receive(
        listener: *mut c_void,
        skb: *mut c::sk_buff,
        _state: *const c::nf_hook_state,
    ) -> c_uint {
        let Some(skb) = NonNull::new(skb) else {
            return c::NF_ACCEPT;
        };
        // SAFETY: The hook's drop waits for this call before it lets go of the listener; the skb belongs to the hook
        // during the call.
        let verdict = unsafe { (*listener.cast::<T>()).hear(&RxFrame::new(skb)) };
        if verdict == Verdict::Pass {
            return c::NF_ACCEPT;
        }
        // SAFETY: The stack gives a stolen skb up.
        unsafe { c::usb4_skb_consume(skb.as_ptr()) };
        c::NF_STOLEN
    }
}

impl<T: Hears> Drop for Hook<T> {
    fn drop(&mut self) {
        // SAFETY: Registered by `new`.
        unsafe { c::usb4_hook_unregister(self.ops.get(), self.netdev.as_ptr()) };
        super::sync::wait_for_packets();
    }
}

/// What became of a frame in the hook.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not ours: the stack goes on with it.
    Pass,
    /// Ours; it ends here.
    Taken,
}

/// Whom a frame reaches.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    /// Others.
    Wire,
    /// Only this host.
    Us,
    /// Others, and members of the group in this host.
    Both,
}

impl To {
    /// Whom a frame on a path reaches. `heard`: somebody in this host hears the group that it is for.
    pub(crate) fn of(path: &Path, heard: bool) -> Self {
        if path.src_mac == path.dst_mac {
            Self::Us
        } else if heard {
            Self::Both
        } else {
            Self::Wire
        }
    }
}

/// Who is told that the stack is done with a frame.
pub(crate) trait FrameDone: Send + Sync + 'static {
    /// The stack has let go of a frame. Any context but hard interrupts.
    fn on_frame_done(&self);
    /// No page of a window is written any more. Any context but hard interrupts.
    fn on_window_done(&self) {}
}

/// Nobody.
impl FrameDone for () {
    fn on_frame_done(&self) {}
}

/// A received frame, from the network header on.
pub(crate) struct RxFrame {
    skb: NonNull<c::sk_buff>,
    facts: c::usb4_skb_facts,
}

impl RxFrame {
    /// # Safety
    ///
    /// `skb` is valid, and belongs to the caller, for as long as the value lives.
    pub(crate) unsafe fn new(skb: NonNull<c::sk_buff>) -> Self {
        let mut facts = c::usb4_skb_facts::default();
        // SAFETY: By the caller's promise.
        unsafe { c::usb4_skb_facts(skb.as_ptr(), &mut facts) };
        Self { skb, facts }
    }

    /// A share of the frame. The hook that takes it lets go of its own.
    pub(crate) fn keep(&self) -> KeptFrame {
        // SAFETY: Valid by `new`; `KeptFrame` gives the reference back.
        unsafe { c::usb4_skb_keep(self.skb.as_ptr()) };
        KeptFrame(Self { ..*self })
    }

    /// The EtherType.
    pub(crate) fn ethertype(&self) -> u16 {
        self.facts.protocol
    }

    /// Bytes in the frame.
    pub(crate) fn len(&self) -> usize {
        self.facts.len as usize
    }

    /// The VLAN, as in `Path::tag`. A tag with number 0 is only a priority.
    pub(crate) fn tag(&self) -> u32 {
        match self.facts.vlan_id {
            0 => 0,
            id => u32::from(self.facts.vlan_proto) << 16 | u32::from(id),
        }
    }

    /// One whole datagram for this host, or for a group, with all bytes reachable. In a hook.
    pub(crate) fn is_plain(&self) -> bool {
        self.facts.whole && self.is_for_us()
    }

    /// For us or for a group. A VLAN may have an Ethernet address of its own.
    fn is_for_us(&self) -> bool {
        if self.tag() == 0 {
            return self.facts.to_host;
        }
        // SAFETY: Valid by `new`; hooks are RCU readers, so the VLAN and its address stay.
        let address = unsafe { c::usb4_skb_vlan_address(self.skb.as_ptr()) };
        if address.is_null() {
            return false;
        }
        // SAFETY: An Ethernet address of a VLAN, which stays by the above.
        let address = unsafe { mac_at(address) };
        // SAFETY: The one in the frame's header.
        let destination = unsafe { mac_at(c::usb4_skb_destination(self.skb.as_ptr())) };
        self.facts.to_host || self.facts.to_other && address == destination
    }

    /// Copies bytes from `at`. False if they are not all there.
    #[must_use]
    pub(crate) fn copy(&self, at: usize, to: &mut [u8]) -> bool {
        let mut done = 0;
        self.pieces(at, to.len(), |piece| {
            if let Some(to) = to.get_mut(done..done + piece.len()) {
                to.copy_from_slice(piece);
            }
            done += piece.len();
            true
        })
    }

    /// Shows bytes `at..at + len`, piece by piece, until `each` returns false. False if it did, or the frame is short.
    pub(crate) fn pieces(&self, at: usize, len: usize, each: impl FnMut(&[u8]) -> bool) -> bool {
        let mut index = 0;
        let segments = core::iter::from_fn(|| {
            let mut size = 0;
            // SAFETY: Valid by `new`.
            let base = unsafe { c::usb4_skb_segment(self.skb.as_ptr(), index, &mut size) };
            index += 1;
            // SAFETY: The segment has `size` readable bytes, and nobody writes received frames.
            (!base.is_null()).then(|| unsafe { slice::from_raw_parts(base, size as usize) })
        });
        span::pieces(segments, at, len, each)
    }
}

/// A received frame that outlives its hook.
pub(crate) struct KeptFrame(RxFrame);

// SAFETY: Nobody changes a frame that was taken off the stack; its references are counted.
unsafe impl Send for KeptFrame {}

impl Deref for KeptFrame {
    type Target = RxFrame;

    fn deref(&self) -> &RxFrame {
        &self.0
    }
}

impl Drop for KeptFrame {
    fn drop(&mut self) {
        // SAFETY: The reference of `keep`.
        unsafe { c::usb4_skb_consume(self.0.skb.as_ptr()) }
    }
}

/// What is kept of those whose pages a frame has borrowed, until it has been read.
#[repr(C)]
pub(crate) struct Lent<L> {
    head: Opaque<c::usb4_loan>,
    pub(crate) kept: L,
}

// SAFETY: The head is the stack's until it calls back.
unsafe impl<L: Send> Send for Lent<L> {}

impl<L> Lent<L> {
    /// Keeps `kept`; `None` when memory is short, and it is dropped.
    pub(crate) fn new(kept: L) -> Option<KBox<Self>> {
        let head = Opaque::uninit();
        KBox::new(Self { head, kept }, GFP_ATOMIC | __GFP_NOWARN).ok()
    }
}

/// A frame being built, then sent. Dropped unsent, it is freed.
pub(crate) struct TxFrame {
    skb: NonNull<c::sk_buff>,
    bytes: NonNull<u8>,
    len: usize,
    /// Bytes behind those, in pages of others.
    lent: usize,
}

// SAFETY: An skb that only we know may move between CPUs.
unsafe impl Send for TxFrame {}

impl TxFrame {
    /// A frame of `len` bytes, all to be written; `None` when memory is short.
    pub(crate) fn new(netdev: &Netdev, len: usize) -> Option<Self> {
        let size = u32::try_from(len).ok()?;
        // SAFETY: The netdev is held.
        let skb = NonNull::new(unsafe { c::usb4_skb_alloc(size, netdev.as_ptr()) })?;
        // SAFETY: The skb has `size` bytes of tail room.
        let bytes = unsafe { c::usb4_skb_put(skb.as_ptr(), size) };
        Some(Self {
            skb,
            bytes: NonNull::new(bytes)?,
            len,
            lent: 0,
        })
    }

    /// The bytes from the Ethernet header on.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: Ours alone, `len` long. The memory comes from C, which the compiler cannot look into, so that bytes
        // not yet written have values as well, whatever they are; whoever builds a frame writes all of them.
        unsafe { slice::from_raw_parts_mut(self.bytes.as_ptr(), self.len) }
    }

    /// Makes the frame complete: header offsets, and whom to tell when the stack is done with it, if anybody.
    pub(crate) fn finish<C: FrameDone>(self, network: u32, transport: u32, credit: Option<Arc<C>>) -> ReadyFrame {
        OUTSTANDING.fetch_add(1, Relaxed);
        let credit = credit.map_or(ptr::null_mut(), |who| Arc::into_raw(who).cast_mut().cast());
        // SAFETY: The skb is ours; `done`, as the skb's destructor, takes the reference back.
        unsafe {
            c::usb4_skb_send_prepare(self.skb.as_ptr(), network, transport, Some(Self::done::<C>), credit);
        }
        ReadyFrame(self)
    }

    /// As [`Self::finish`], of a frame with pages that are lent: `loan` is dropped when the stack has read the last of
    /// them.
    pub(crate) fn finish_lent<L: Send>(self, network: u32, transport: u32, loan: KBox<Lent<L>>) -> ReadyFrame {
        OUTSTANDING.fetch_add(1, Relaxed);
        let loan = KBox::into_raw(loan).cast();
        // SAFETY: The skb is ours. The loan begins with its head and is alive until `back` takes it, which the skb
        // calls once.
        unsafe {
            c::usb4_skb_send_prepare(self.skb.as_ptr(), network, transport, None, ptr::null_mut());
            c::usb4_skb_borrow(self.skb.as_ptr(), loan, Some(Self::back::<L>));
        }
        ReadyFrame(self)
    }

    /// Nobody reads the pages of a frame any more.
    ///
    /// # Safety
    ///
    /// `head` is that of a `Lent<L>` that [`Self::finish_lent`] has prepared, and this is called once for it.
    unsafe extern "C" fn back<L: Send>(head: *mut c::usb4_loan) {
        // SAFETY: By the caller's promise; the head is the first field.
        drop(unsafe { KBox::from_raw(head.cast::<Lent<L>>()) });
        OUTSTANDING.fetch_sub(1, Release);
    }

    /// The destructor of an skb: the stack is done with it.
    ///
    /// # Safety
    ///
    /// [`Self::finish`] has prepared `skb`, with a `C`, and this is called once for it.
    unsafe extern "C" fn done<C: FrameDone>(skb: *mut c::sk_buff) {
        // SAFETY: By the caller's promise.
        let credit = unsafe { c::usb4_skb_credit(skb) }.cast::<C>();
        if !credit.is_null() {
            // SAFETY: By the caller's promise it came from `Arc::into_raw`, and is taken back this once.
            unsafe { Arc::from_raw(credit) }.on_frame_done();
        }
        OUTSTANDING.fetch_sub(1, Release);
    }
}

/// What is sent, and reads pages of others where they are.
pub(crate) trait Borrower {
    /// Puts a piece of a page behind what it has. False if it has too many.
    ///
    /// # Safety
    ///
    /// `page` is alive, and `len` bytes at `offset` are inside it: now, for a frame, which holds on to the page; for a
    /// train, whose lender has to see to it, until it has gone.
    unsafe fn lend(&mut self, page: NonNull<c::page>, offset: u32, len: u32) -> bool;
}

impl Borrower for TxFrame {
    unsafe fn lend(&mut self, page: NonNull<c::page>, offset: u32, len: u32) -> bool {
        // SAFETY: The skb is ours; the page by the caller's promise.
        let done = unsafe { c::usb4_skb_add_page(self.skb.as_ptr(), page.as_ptr(), offset, len) };
        self.lent += if done { len as usize } else { 0 };
        done
    }
}

/// The pieces of pages that a train on a cable is to carry.
pub(crate) struct Pieces {
    pieces: [MaybeUninit<Piece>; Self::MOST],
    count: usize,
}

impl Pieces {
    /// Most of one train.
    const MOST: usize = 17;

    /// None.
    pub(crate) const fn new() -> Self {
        Self {
            pieces: [const { MaybeUninit::uninit() }; Self::MOST],
            count: 0,
        }
    }

    /// Those that were lent.
    pub(crate) fn get(&self) -> &[Piece] {
        // SAFETY: The first `count` were written.
        unsafe { slice::from_raw_parts(self.pieces.as_ptr().cast(), self.count) }
    }
}

impl Borrower for Pieces {
    unsafe fn lend(&mut self, page: NonNull<c::page>, offset: u32, len: u32) -> bool {
        let Some(place) = self.pieces.get_mut(self.count) else {
            return false;
        };
        // SAFETY: By the caller's promise.
        place.write(unsafe { Piece::new(page, offset, len) });
        self.count += 1;
        true
    }
}

impl Drop for TxFrame {
    fn drop(&mut self) {
        // SAFETY: Ours, given to nobody.
        unsafe { c::usb4_skb_free(self.skb.as_ptr()) }
    }
}

/// A frame that is complete.
pub(crate) struct ReadyFrame(TxFrame);

impl ReadyFrame {
    /// Bytes of the IP packet.
    pub(crate) fn ip_len(&self) -> u64 {
        (self.0.len + self.0.lent - ETHERNET_LEN) as u64
    }

    /// Gives the frame to the netdev, or back to ourselves, or both. False if the netdev's queue had no room for it. No
    /// lock held.
    pub(crate) fn send(self, to: To) -> bool {
        let frame = core::mem::ManuallyDrop::new(self.0);
        let skb = frame.skb;
        if to == To::Us {
            // SAFETY: The skb is complete, and taken over.
            unsafe { to_us(skb) };
            return true;
        }
        if to == To::Both {
            // SAFETY: The skb is complete.
            if let Some(copy) = NonNull::new(unsafe { c::usb4_skb_clone(skb.as_ptr()) }) {
                // SAFETY: As complete, and taken over.
                unsafe { to_us(copy) };
            }
        }
        // SAFETY: The skb is complete, and taken over. Other results tell of congestion ahead or of a netdev that is
        // down: retries are for that.
        unsafe { c::usb4_skb_xmit(skb.as_ptr()) != NET_XMIT_DROP }
    }
}

/// Has a frame come in as if the wire had brought it, to the netdev that has the hook.
///
/// # Safety
///
/// `skb` is a complete frame with a netdev, and is given up.
unsafe fn to_us(skb: NonNull<c::sk_buff>) {
    let skb = skb.as_ptr();
    // SAFETY: By the caller's promise.
    unsafe {
        c::usb4_skb_turn(skb);
        if c::usb4_skb_is_in_vlan(skb) {
            c::usb4_skb_lower(skb);
        }
        c::usb4_skb_rx(skb);
    }
}
