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
    rings::{Rings, Wire},
};
use kernel::{prelude::*, sync::Arc};
use tbip::{limits::MIN_HOP, native::Features, rail::OpenError, wire::HopId};

/// Frames begin with SOF 1 on both wires.
const SOF: u16 = 1 << 1;

/// A stock frame ends with EOF 2.
const STOCK_EOF: u16 = 1 << 2;

/// A native frame ends with EOF 2 (head) or 3 to 15 (page).
const NATIVE_EOF: u16 = 0xfffc;

/// HopIDs that `avoid` and `busy` masks can name.
const NAMED_HOPS: u16 = 32;

/// What a link holds of the host interface and of the cable.
pub(crate) struct Rig {
    rings: Rings,
    transmit: Option<HopId>,
    open: Option<Paths>,
    // Last: the cable outlives its rings.
    xd: Xdomain,
}

impl Rig {
    /// Allocates the rings of one lane, of `sizes` or smaller. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if the host interface has no free ring.
    pub(crate) fn new(xd: &Xdomain, lane: &Arc<Lane>, native: bool, sizes: RingSizes) -> Result<Self> {
        let wake: Arc<dyn Wake> = lane.clone();
        let tx = Ring::new(xd, Way::Transmit, sizes.tx, &wake)?;
        let way = Way::Receive {
            sof: SOF,
            eof: if native { NATIVE_EOF } else { STOCK_EOF },
            pair: tx.hop(),
        };
        let rx = Ring::new(xd, way, sizes.rx, &wake)?;
        Ok(Self {
            xd: xd.clone(),
            rings: Rings { tx, rx },
            transmit: None,
            open: None,
        })
    }

    /// The rings.
    pub(crate) fn rings(&self) -> &Rings {
        &self.rings
    }

    /// Whether frames may be on the rings.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Takes a transmit HopID, none in `avoid` (bit i is HopID 8 + i) if it can be helped.
    pub(crate) fn take_transmit(&mut self, avoid: u32) -> Result<HopId> {
        self.free_transmit();
        let mut from = HopId(MIN_HOP);
        let hop = loop {
            let hop = self.xd.take_transmit_hop(from)?;
            let bit = hop.0.saturating_sub(MIN_HOP);
            if bit >= NAMED_HOPS || avoid & (1 << bit) == 0 {
                break hop;
            }
            // The next free one lies above; this one is free again for others.
            self.xd.free_transmit_hop(hop);
            from = HopId(hop.0 + 1);
        };
        self.transmit = Some(hop);
        Ok(hop)
    }

    fn free_transmit(&mut self) {
        if let Some(hop) = self.transmit.take() {
            self.xd.free_transmit_hop(hop);
        }
    }

    /// Opens the lane: the peer sends on `receive`. Frames may come from here on. Sleeps.
    ///
    /// # Errors
    ///
    /// Everything is as before. `Busy` if `receive` is taken.
    pub(crate) fn open(&mut self, lane: &Lane, wire: Wire, receive: HopId, e2e: bool) -> Result<(), OpenError> {
        let transmit = self.transmit.ok_or(OpenError::Other)?;
        if self.xd.take_receive_hop(receive).is_err() {
            let bit = receive.0.saturating_sub(MIN_HOP);
            return Err(if bit < NAMED_HOPS {
                OpenError::Busy(1 << bit)
            } else {
                OpenError::Other
            });
        }
        if lane.prepare(self.rings.clone(), wire).is_err() {
            self.xd.free_receive_hop(receive);
            return Err(OpenError::Other);
        }
        let native = matches!(wire, Wire::Native { .. });
        // A stock peer's transmit ring takes no part in flow control, so neither does ours with it.
        self.rings.tx.start(e2e && native);
        self.rings.rx.start(e2e);
        lane.begin();
        let paths = Paths {
            transmit,
            transmit_ring: self.rings.tx.hop(),
            receive,
            receive_ring: self.rings.rx.hop(),
        };
        if self.xd.enable_paths(&paths).is_err() {
            lane.quiesce();
            self.stop_rings();
            lane.finish();
            self.xd.free_receive_hop(receive);
            return Err(OpenError::Other);
        }
        self.open = Some(paths);
        Ok(())
    }

    /// Closes the lane. Returns false if the core could not bring the paths down. Sleeps.
    pub(crate) fn close(&mut self, lane: &Lane) -> bool {
        let Some(paths) = self.open.take() else {
            return true;
        };
        lane.quiesce();
        let down = self.xd.disable_paths(&paths).is_ok();
        self.stop_rings();
        lane.finish();
        self.xd.free_receive_hop(paths.receive);
        down
    }

    /// Gives the transmit HopID back; the lane is closed.
    pub(crate) fn release(&mut self) {
        self.free_transmit();
    }

    fn stop_rings(&self) {
        self.rings.rx.stop();
        self.rings.tx.stop();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.free_transmit();
    }
}

/// What we offer a native peer.
pub(crate) fn offered(e2e: bool, trains: bool) -> Features {
    let mut features = Features::RUNS;
    for (feature, wanted) in [(Features::E2E, e2e), (Features::TRAINS, trains)] {
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
