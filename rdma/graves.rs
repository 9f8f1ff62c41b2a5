// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What a device remembers of destroyed QPs, so that a peer whose last ACK was lost gets it still.
//!
//! A grave keeps its QP's number out of use. It goes when it is old, when there are too many, or with the device.

use crate::{
    kapi::{
        netdev::Netdev,
        sync::{new_bh_lock, BhLock},
        timer::now,
    },
    wire::{
        udp::send::{self, Way},
        Wire,
    },
};
use kernel::{prelude::*, sync::Arc};
use roce::{
    fault::Fault,
    tombstone::Tombstone,
    wire::{udp::Path, Packet},
    wqe::Transmit,
};

/// Graves of a device at most.
const COUNT: usize = 256;
/// Nanoseconds a grave lasts: longer than a peer with common timeouts and seven retries asks.
const AGE: u64 = 8_000_000_000;

/// One destroyed QP.
struct Grave {
    number: u32,
    until: u64,
    wire: Wire,
    stone: Tombstone,
    ip_id: u16,
}

/// The graves, the oldest first from `oldest` on.
struct Ring {
    graves: KVVec<Grave>,
    oldest: usize,
}

/// The destroyed QPs of a device.
#[pin_data]
pub(crate) struct Graves {
    #[pin]
    ring: BhLock<Ring>,
}

impl Graves {
    /// No graves, and room for all there may be.
    pub(crate) fn new() -> Result<impl PinInit<Self>> {
        let graves = KVVec::with_capacity(COUNT, GFP_KERNEL)?;
        Ok(pin_init!(Self {
            ring <- new_bh_lock!(Ring { graves, oldest: 0 }, c"usb4_graves"),
        }))
    }

    /// Remembers a QP. The result is the number of another that is forgotten for it.
    pub(crate) fn bury(&self, number: u32, wire: Wire, stone: Tombstone) -> Option<u32> {
        let grave = Grave {
            number,
            until: now().saturating_add(AGE),
            wire,
            stone,
            ip_id: 0,
        };
        let mut ring = self.ring.lock();
        let Err(full) = ring.graves.push_within_capacity(grave) else {
            return None;
        };
        let at = ring.oldest;
        ring.oldest = (at + 1) % COUNT;
        let place = ring.graves.get_mut(at)?;
        Some(core::mem::replace(place, full.0).number)
    }

    /// Answers a packet for a destroyed QP, if it has an answer. Its ICRC is right, or it needs none; it came over
    /// `netdev`. False if it does not come from that QP's peer, as `brought` says of the QP's wire.
    pub(crate) fn receive(&self, packet: &Packet, netdev: &Netdev, brought: impl FnOnce(&Wire) -> bool) -> bool {
        let mut theirs = true;
        self.speak(packet.bth.dest.value(), netdev, |grave| {
            theirs = brought(&grave.wire);
            grave.stone.answer(packet).filter(|_| theirs)
        }) && theirs
    }

    /// The last answer of a destroyed QP has been lost: it is given once more, over `netdev`.
    pub(crate) fn repeat(&self, number: u32, netdev: &Netdev) {
        self.speak(number, netdev, |grave| Some(grave.stone.repeat()));
    }

    /// Sends what `of` says of a grave, unless it is too old. False if there is none of this number.
    fn speak(&self, number: u32, netdev: &Netdev, of: impl FnOnce(&Grave) -> Option<Transmit>) -> bool {
        let (transmit, path, ip_id) = {
            let mut ring = self.ring.lock();
            let Some(grave) = ring.graves.iter_mut().find(|grave| grave.number == number) else {
                return false;
            };
            let Some(transmit) = of(grave).filter(|_| grave.until >= now()) else {
                return true;
            };
            grave.ip_id = grave.ip_id.wrapping_add(1);
            (transmit, grave.wire.path, grave.ip_id)
        };
        let way = Way { netdev, path, ip_id };
        // An ACK without payload, to one peer, and nobody is told the end of it.
        let gather = |_: &mut [u8]| Err(Fault::LocalQpOp);
        if let Ok(frame) = send::build(&transmit, way, gather, |_| false, None::<Arc<()>>) {
            frame.send();
        }
        true
    }

    /// Leads to where the next hops are now. A grave of whose peer's change nobody was told keeps the old address: it
    /// lasts for [`AGE`] only, and unlike a QP it has no timeout that would have it look.
    pub(crate) fn renew(&self, look_up: &mut impl FnMut(&Path, bool) -> Option<[u8; 6]>) {
        let now = now();
        for at in 0..COUNT {
            let found = match self.ring.lock().graves.get(at) {
                Some(grave) if grave.until < now => continue,
                Some(grave) => grave.wire.path,
                None => return,
            };
            // Without the lock: a look-up may send.
            let Some(hop) = look_up(&found, false) else {
                continue;
            };
            // Another may lie there since.
            if let Some(grave) = self.ring.lock().graves.get_mut(at) {
                if grave.wire.path.leads_as(&found) {
                    grave.wire.path.dst_mac = hop;
                }
            }
        }
    }

    /// Whether a QP of this number is remembered.
    pub(crate) fn has(&self, number: u32) -> bool {
        self.ring.lock().graves.iter().any(|grave| grave.number == number)
    }
}
