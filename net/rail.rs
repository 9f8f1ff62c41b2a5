// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The rig of a link that runs: rings, HopIDs, paths; taken and given back in the one order that holds.
//!
//! ```text
//!   Rig::new      rings allocated            (the interface is set up)
//!   take_transmit transmit HopID
//!   open          receive HopID, lane prepared (buffers posted), rings started and told of them, paths enabled
//!   close         lane quiesced, paths disabled, rings stopped, buffers dropped, receive HopID
//!   drop          transmit HopID, rings freed
//! ```
//!
//! Paths are enabled last, so that no frame comes to a ring without buffers, and disabled before the rings stop, so
//! that what is on its way has somewhere to go: a path that is full does not always come down. `thunderbolt_net` of
//! Linux 7.3 does the same. What may fail for want of memory comes before the rings run: a page that a running ring
//! has been told of is not the driver's to give up.

use crate::{
    kapi::{
        ndo::RingSizes,
        ring::{Ring, Wake, Way},
        xdomain::{Paths, Xdomain},
    },
    lane::Lane,
    rings::{Kick, Rings, Wire},
};
use kernel::{prelude::*, sync::Arc};
use tbip::{limits::MIN_HOP, native::Features, rail::OpenError, wire::HopId};

/// Frames begin with SOF 1 on both wires.
const SOF: u16 = 1 << 1;

/// A stock frame ends with EOF 2.
const STOCK_EOF: u16 = 1 << 2;

/// A native frame ends with EOF 2 (head) or 3 to 15 (page).
const NATIVE_EOF: u16 = 0xfffc;

/// Most lanes: the message lane and a direct one.
pub(crate) const LANES: usize = 2;

/// Whether a cable may have a direct lane at a host interface with so many hops. Three are those of one cable: the
/// control channel's and two lanes. Nine are enough for four cables. With others the next cable might find no ring.
const fn has_direct_lane(hop_count: u32) -> bool {
    hop_count == 3 || hop_count >= 9
}

/// HopIDs that `avoid` and `busy` masks can name.
const NAMED_HOPS: u16 = 32;

/// What a link holds of the host interface and of the cable.
pub(crate) struct Rig {
    rings: Rings,
    /// Of the direct lane, if there may be one.
    direct: Option<Rings>,
    transmit: [Option<HopId>; LANES],
    open: [Option<Paths>; LANES],
    e2e: bool,
    // Last: the cable outlives its rings.
    xd: Xdomain,
}

impl Rig {
    /// Allocates the rings of the lanes, of `sizes` or smaller. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if the host interface has no free ring for the message lane.
    pub(crate) fn new(xd: &Xdomain, lane: &Arc<Lane>, native: bool, direct: bool, sizes: RingSizes) -> Result<Self> {
        let wake: Arc<dyn Wake> = lane.clone();
        let rings = allocate(xd, &wake, native, sizes)?;
        // The rings are shared with other cables, which come first.
        let direct = direct && native && has_direct_lane(xd.hop_count());
        let direct = if direct {
            allocate(xd, &wake, native, sizes).ok()
        } else {
            None
        };
        Ok(Self {
            xd: xd.clone(),
            rings,
            direct,
            transmit: [None; LANES],
            open: [None, None],
            e2e: false,
        })
    }

    /// The rings of the message lane.
    pub(crate) fn rings(&self) -> &Rings {
        &self.rings
    }

    /// How many lanes there may be.
    pub(crate) fn lanes(&self) -> u8 {
        if self.direct.is_some() {
            2
        } else {
            1
        }
    }

    /// Whether frames may be on the rings.
    pub(crate) fn is_open(&self) -> bool {
        self.open.iter().any(Option::is_some)
    }

    /// Takes the transmit HopIDs of so many lanes, none in `avoid` (bit i is HopID 8 + i) if it can be helped.
    pub(crate) fn take_transmit(&mut self, lanes: u8, avoid: u32) -> Result<[HopId; LANES]> {
        self.free_transmit();
        let mut taken = [HopId(0); LANES];
        for index in 0..usize::from(lanes).min(LANES) {
            let hop = self.take_one(avoid)?;
            if let (Some(to), Some(place)) = (taken.get_mut(index), self.transmit.get_mut(index)) {
                *to = hop;
                *place = Some(hop);
            }
        }
        Ok(taken)
    }

    fn take_one(&self, avoid: u32) -> Result<HopId> {
        let mut from = HopId(MIN_HOP);
        loop {
            let hop = self.xd.take_transmit_hop(from)?;
            let bit = hop.0.saturating_sub(MIN_HOP);
            if bit >= NAMED_HOPS || avoid & (1 << bit) == 0 {
                return Ok(hop);
            }
            // The next free one lies above; this one is free again for others.
            self.xd.free_transmit_hop(hop);
            from = HopId(hop.0 + 1);
        }
    }

    fn free_transmit(&mut self) {
        for place in &mut self.transmit {
            if let Some(hop) = place.take() {
                self.xd.free_transmit_hop(hop);
            }
        }
    }

    /// The rings of the lanes that are used, the message lane's first.
    fn used(&self, lanes: usize) -> impl Iterator<Item = &Rings> {
        let direct = self.direct.as_ref().filter(|_| lanes > 1);
        Iterator::chain(core::iter::once(&self.rings), direct)
    }

    /// Opens the lanes: the peer sends on `receive`. Frames may come from here on. Sleeps.
    ///
    /// # Errors
    ///
    /// Everything is as before. `Busy` if one of `receive` is taken.
    pub(crate) fn open(
        &mut self,
        lane: &Lane,
        wire: Wire,
        receive: &[HopId],
        e2e: bool,
        kick: &Arc<dyn Kick>,
    ) -> Result<(), OpenError> {
        let lanes = receive.len().min(usize::from(self.lanes()));
        let receive = receive.get(..lanes).ok_or(OpenError::Other)?;
        for (at, hop) in receive.iter().enumerate() {
            if self.xd.take_receive_hop(*hop).is_err() {
                self.free_receive(receive.get(..at).unwrap_or(&[]));
                let bit = hop.0.saturating_sub(MIN_HOP);
                return Err(if bit < NAMED_HOPS {
                    OpenError::Busy(1 << bit)
                } else {
                    OpenError::Other
                });
            }
        }
        let direct = self.direct.as_ref().filter(|_| lanes > 1);
        if lane.prepare(self.rings.clone(), direct, wire, kick).is_err() {
            self.free_receive(receive);
            return Err(OpenError::Other);
        }
        let native = matches!(wire, Wire::Native { .. });
        self.e2e = e2e;
        for rings in self.used(lanes) {
            // A stock peer's transmit ring takes no part in flow control, so neither does ours with it.
            rings.tx.start(e2e && native);
            rings.rx.start(e2e);
        }
        lane.begin();
        let mut open = [const { None }; LANES];
        let mut failed = false;
        let each = Iterator::zip(self.used(lanes), Iterator::zip(self.transmit.iter(), receive));
        for (to, (rings, (transmit, receive))) in Iterator::zip(open.iter_mut(), each) {
            let Some(transmit) = *transmit else {
                failed = true;
                break;
            };
            let paths = Paths {
                transmit,
                transmit_ring: rings.tx.hop(),
                receive: *receive,
                receive_ring: rings.rx.hop(),
            };
            if self.xd.enable_paths(&paths).is_err() {
                failed = true;
                break;
            }
            *to = Some(paths);
        }
        self.open = open;
        if failed {
            let _ = self.shut(lane);
            self.free_receive(receive);
            return Err(OpenError::Other);
        }
        Ok(())
    }

    fn free_receive(&self, hops: &[HopId]) {
        for hop in hops {
            self.xd.free_receive_hop(*hop);
        }
    }

    /// Lane, paths, rings, buffers. Returns the receive HopIDs of the paths, and whether they came down.
    fn shut(&mut self, lane: &Lane) -> ([Option<HopId>; LANES], bool) {
        lane.quiesce();
        let mut down = true;
        let mut hops = [None; LANES];
        for (to, paths) in hops.iter_mut().zip(self.open.iter_mut()) {
            if let Some(paths) = paths.take() {
                down &= self.xd.disable_paths(&paths).is_ok();
                *to = Some(paths.receive);
            }
        }
        for rings in self.used(LANES) {
            rings.rx.stop();
            rings.tx.stop();
        }
        lane.finish();
        (hops, down)
    }

    /// Closes the lanes. Returns false if the core could not bring the paths down. Sleeps.
    pub(crate) fn close(&mut self, lane: &Lane) -> bool {
        if !self.is_open() {
            return true;
        }
        let (hops, down) = self.shut(lane);
        for hop in hops.into_iter().flatten() {
            self.xd.free_receive_hop(hop);
        }
        down
    }

    /// Has the receive ring of the direct lane give back all that is posted, and opens it anew. Sleeps.
    pub(crate) fn reset_direct(&self, lane: &Lane) {
        let Some(rings) = self.direct.as_ref().filter(|_| self.open.iter().all(Option::is_some)) else {
            return;
        };
        lane.quiesce_direct();
        rings.rx.stop();
        lane.reset_direct();
        rings.rx.start(self.e2e);
        lane.begin_direct();
    }

    /// Gives the transmit HopIDs back; the lanes are closed.
    pub(crate) fn release(&mut self) {
        self.free_transmit();
    }
}

/// The rings of one lane.
fn allocate(xd: &Xdomain, wake: &Arc<dyn Wake>, native: bool, sizes: RingSizes) -> Result<Rings> {
    let tx = Ring::new(xd, Way::Transmit, sizes.tx, wake)?;
    let way = Way::Receive {
        sof: SOF,
        eof: if native { NATIVE_EOF } else { STOCK_EOF },
        pair: tx.hop(),
    };
    let rx = Ring::new(xd, way, sizes.rx, wake)?;
    Ok(Rings { tx, rx })
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.free_transmit();
    }
}

/// What we offer a native peer.
pub(crate) fn offered(e2e: bool, trains: bool, direct: bool) -> Features {
    let mut features = Features::RUNS;
    for (feature, wanted) in [
        (Features::E2E, e2e),
        (Features::TRAINS, trains),
        (Features::DIRECT, trains && direct),
    ] {
        if wanted {
            features = features.with(feature);
        }
    }
    features
}

/// Whether a native lane has end-to-end flow control.
pub(crate) fn agreed_e2e(features: Features) -> bool {
    features.has(Features::E2E)
}
