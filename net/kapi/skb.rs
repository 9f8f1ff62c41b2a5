// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Packets of the stack: those to transmit, their mappings, and those that we build from received frames.
//!
//! C headers: `include/linux/{skbuff,dma-mapping,virtio_net}.h`.

use super::{
    napi::RawNapi,
    netdev::Netdev,
    pages::{Mapping, RxPage},
    xdomain::Device,
};
use core::{ptr, ptr::NonNull};
use tbip::{
    cut::MAX_SEGMENTS,
    frame::{Checksum, Eth, Gso, Segmentation},
};
use usb4_bindings as c;

/// A packet to transmit, ours to end. Dropped, it counts as lost.
pub(crate) struct TxSkb(NonNull<c::sk_buff>);

// SAFETY: An skb that only we know may move between CPUs.
unsafe impl Send for TxSkb {}

/// What a packet to transmit is, looked at once.
pub(crate) struct TxView {
    /// Bytes in all, from the Ethernet header on.
    pub(crate) len: usize,
    /// Bytes that must stay together at the front: headers as far as checksum and segmentation point.
    pub(crate) headers: usize,
    /// Metadata as the native wire carries it.
    pub(crate) meta: Eth,
    segments: [u32; MAX_SEGMENTS],
    count: usize,
}

impl TxView {
    /// Lengths of the pieces of memory that hold the packet: the linear part, then the fragments.
    pub(crate) fn segments(&self) -> &[u32] {
        self.segments.get(..self.count).unwrap_or(&[])
    }
}

/// Length of an Ethernet header.
const ETHERNET: usize = 14;

impl TxSkb {
    /// # Safety
    ///
    /// `skb` is valid and the caller gives it away.
    pub(super) unsafe fn from_raw(skb: NonNull<c::sk_buff>) -> Self {
        Self(skb)
    }

    /// Back to the stack, untouched.
    pub(super) fn into_raw(self) -> *mut c::sk_buff {
        core::mem::ManuallyDrop::new(self).0.as_ptr()
    }

    /// Looks at the packet. `None` if there is no metadata to say what it needs.
    pub(crate) fn view(&self) -> Option<TxView> {
        let mut raw = c::usb4_nd_tx::default();
        // SAFETY: The skb is ours.
        if unsafe { !c::usb4_nd_tx_view(self.0.as_ptr(), &mut raw) } {
            return None;
        }
        let mut segments = [0; MAX_SEGMENTS];
        let count = raw.frags as usize + 1;
        *segments.first_mut()? = raw.linear;
        for (index, to) in segments.get_mut(1..count)?.iter_mut().enumerate() {
            // SAFETY: The skb is ours and has that many fragments.
            *to = unsafe { c::usb4_nd_tx_frag_len(self.0.as_ptr(), index as u32) };
        }
        let mut headers = ETHERNET;
        let checksum = if raw.csum_partial != 0 {
            headers = headers.max(usize::from(raw.csum_start) + usize::from(raw.csum_offset) + 2);
            Checksum::Partial {
                start: raw.csum_start,
                offset: raw.csum_offset,
            }
        } else if raw.csum_valid != 0 {
            Checksum::Verified
        } else {
            Checksum::Unknown
        };
        let kind = match raw.gso_type & 0x7f {
            1 => Some(Gso::Tcp4),
            4 => Some(Gso::Tcp6),
            5 => Some(Gso::Udp),
            _ => None,
        };
        let gso = kind.filter(|_| raw.gso_size != 0).map(|kind| Segmentation {
            kind,
            ecn: raw.gso_type & 0x80 != 0,
            header_len: raw.header_len,
            size: raw.gso_size,
        });
        Some(TxView {
            len: raw.len as usize,
            headers: headers.max(usize::from(raw.header_len)),
            meta: Eth { checksum, gso },
            segments,
            count,
        })
    }

    /// Copies bytes from `at`. False if they are not there.
    #[must_use]
    pub(crate) fn copy(&self, at: usize, to: &mut [u8]) -> bool {
        // SAFETY: The skb is ours; `to` is writable.
        unsafe { c::usb4_nd_tx_copy(self.0.as_ptr(), at as u32, to.as_mut_ptr(), to.len() as u32) == 0 }
    }

    /// Copies bytes from `at`, which must be there, and adds them up.
    pub(crate) fn copy_sum(&self, at: usize, to: &mut [u8]) -> Sum {
        // SAFETY: The skb is ours; `to` is writable. Beyond its end the kernel stops in a BUG, so callers count.
        Sum(unsafe { c::usb4_nd_tx_copy_sum(self.0.as_ptr(), at as u32, to.as_mut_ptr(), to.len() as u32) })
    }

    /// Maps bytes of segment `index` (0 is the linear part) from `offset` to its end for the device.
    pub(crate) fn map(&self, dma: Device, index: usize, offset: usize, len: usize) -> Option<Mapping> {
        let mut address = 0;
        let len = u32::try_from(len).ok()?;
        // SAFETY: The skb is ours and the segment exists; what the mapping covers lives as long as the skb, which the
        // descriptors hold.
        let (ok, skip, len) = unsafe {
            match index.checked_sub(1) {
                None => (
                    c::usb4_nd_map_linear(dma.as_ptr(), self.0.as_ptr(), offset as u32, len, &mut address),
                    0,
                    len,
                ),
                Some(frag) => (
                    c::usb4_nd_map_frag(dma.as_ptr(), self.0.as_ptr(), frag as u32, &mut address),
                    offset as u64,
                    len + offset as u32,
                ),
            }
        };
        ok.then(|| Mapping::new(dma, address, len, skip))
    }

    /// TCP may have so much of its socket on its way in this host as the socket sends in 2^-`shift` seconds; the
    /// stack's own value is 10 (`sk_pacing_shift`).
    pub(crate) fn set_pacing(&self, shift: u8) {
        // SAFETY: The skb is ours, so its socket is there.
        unsafe { c::usb4_nd_tx_pacing(self.0.as_ptr(), i32::from(shift)) }
    }

    /// The packet is on its way: time stamp for who wants it.
    pub(crate) fn timestamp(&self) {
        // SAFETY: The skb is ours.
        unsafe { c::usb4_nd_tx_timestamp(self.0.as_ptr()) }
    }

    /// The packet has been sent. `napi`: the caller is the NAPI's poll.
    pub(crate) fn done(self, napi: bool) {
        // SAFETY: Ours, and now gone.
        unsafe { c::usb4_nd_tx_done(self.into_raw(), i32::from(napi)) }
    }
}

impl Drop for TxSkb {
    fn drop(&mut self) {
        // SAFETY: Ours.
        unsafe { c::usb4_nd_tx_drop(self.0.as_ptr()) }
    }
}

/// A running Internet checksum.
#[derive(Clone, Copy, Default)]
pub(crate) struct Sum(u32);

impl Sum {
    /// Adds what was summed over bytes that begin `offset` bytes behind the start of this sum.
    #[must_use]
    pub(crate) fn add(self, more: Self, offset: usize) -> Self {
        // SAFETY: No preconditions.
        Self(unsafe { c::usb4_nd_sum_add(self.0, more.0, offset as u32) })
    }

    /// The two bytes of the checksum field.
    pub(crate) fn field(self) -> [u8; 2] {
        // SAFETY: No preconditions.
        unsafe { c::usb4_nd_sum_fold(self.0) }.to_ne_bytes()
    }
}

/// A packet that is being built from received frames. Dropped, it and its pages are gone.
pub(crate) struct RxSkb(NonNull<c::sk_buff>);

// SAFETY: An skb that only we know may move between CPUs.
unsafe impl Send for RxSkb {}

impl RxSkb {
    /// A packet with room for `linear` bytes in its linear part. In the NAPI's poll.
    pub(crate) fn new(napi: &RawNapi, linear: usize) -> Option<Self> {
        // SAFETY: The NAPI is valid, and in its poll.
        NonNull::new(unsafe { c::usb4_nd_rx_alloc(napi.as_ptr(), linear as u32) }).map(Self)
    }

    /// Appends to the linear part; no more than [`Self::new`] made room for.
    pub(crate) fn copy(&mut self, bytes: &[u8]) {
        // SAFETY: The skb is ours. Beyond its room the kernel stops in a BUG, so callers count.
        unsafe { c::usb4_nd_rx_copy(self.0.as_ptr(), bytes.as_ptr(), bytes.len() as u32) }
    }

    /// Hangs `len` bytes from `offset` of a page on the packet: at most MAX_SKB_FRAGS of them.
    pub(crate) fn page(&mut self, page: RxPage, offset: usize, len: usize) {
        page.sync(offset + len);
        // SAFETY: The skb is ours and takes the page over.
        unsafe { c::usb4_nd_rx_frag(self.0.as_ptr(), page.into_raw(), offset as u32, len as u32) }
    }

    /// Says that the packet stands for several, each with `mtu` bytes behind its Ethernet header. For TCP packets of a
    /// stock peer, which sends super-packets of its stack and does not say so; others stay as they are.
    pub(crate) fn set_super(&mut self, mtu: u32) {
        // SAFETY: The skb is ours.
        unsafe { c::usb4_nd_rx_super(self.0.as_ptr(), mtu) }
    }

    /// Sets checksum and segmentation as the peer said. False if they contradict the packet.
    #[must_use]
    pub(crate) fn set_meta(&mut self, meta: &Eth) -> bool {
        let mut raw = c::usb4_nd_rx::default();
        match meta.checksum {
            Checksum::Unknown => {}
            Checksum::Verified => raw.csum_valid = 1,
            Checksum::Partial { start, offset } => {
                raw.csum_partial = 1;
                raw.csum_start = start;
                raw.csum_offset = offset;
            }
        }
        if let Some(gso) = meta.gso {
            raw.gso_type = match gso.kind {
                Gso::Tcp4 => 1,
                Gso::Tcp6 => 4,
                Gso::Udp => 5,
            } | if gso.ecn { 0x80 } else { 0 };
            raw.gso_size = gso.size;
            raw.header_len = gso.header_len;
        }
        // SAFETY: The skb is ours.
        unsafe { c::usb4_nd_rx_meta(self.0.as_ptr(), &raw) }
    }
}

impl Drop for RxSkb {
    fn drop(&mut self) {
        // SAFETY: Ours; built in the NAPI's poll and its pages are of a pool.
        unsafe { c::usb4_nd_rx_free(self.0.as_ptr()) }
    }
}

/// Headers at the front of a received packet: what the linear part should hold.
pub(crate) fn header_len(netdev: &Netdev, front: &[u8]) -> usize {
    // SAFETY: `front` is readable, the netdev valid.
    let len = unsafe { c::usb4_nd_rx_header_len(netdev.as_ptr(), front.as_ptr(), front.len() as u32) };
    (len as usize).min(front.len())
}

/// Complete packets, in order, on their way to the stack.
pub(crate) struct Batch {
    first: *mut c::sk_buff,
    last: *mut c::sk_buff,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self {
            first: ptr::null_mut(),
            last: ptr::null_mut(),
        }
    }

    /// Appends a packet that begins with its Ethernet header (14 bytes of it in the linear part).
    pub(crate) fn push(&mut self, netdev: &Netdev, skb: RxSkb) {
        let raw = core::mem::ManuallyDrop::new(skb).0.as_ptr();
        // SAFETY: The skb is ours, and so is the last one of the chain.
        unsafe {
            c::usb4_nd_rx_finish(raw, netdev.as_ptr());
            if !self.last.is_null() {
                c::usb4_nd_rx_chain(self.last, raw);
            }
        }
        self.last = raw;
        if self.first.is_null() {
            self.first = raw;
        }
    }

    /// Gives all packets to the stack. In the NAPI's poll, without a lock that a transmission takes.
    pub(crate) fn deliver(mut self, napi: &RawNapi) {
        let first = core::mem::replace(&mut self.first, ptr::null_mut());
        self.last = ptr::null_mut();
        // SAFETY: A chain of skbs that are ours to give.
        unsafe { c::usb4_nd_rx_deliver(napi.as_ptr(), first) }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // SAFETY: A chain of skbs of ours; null is none.
        unsafe { c::usb4_nd_rx_free_chain(self.first) }
    }
}
