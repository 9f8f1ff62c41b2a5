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
    lane::Lanes,
    rings::{Kick, Rings, Wire},
    Offers,
};
use kernel::{prelude::*, sync::Arc};
use tbip::{
    limits::MIN_HOP,
    native::Features,
    rail::{OpenError, Plan},
    steer::{has_second, Second, LANES},
    stock::Settings,
    wire::HopId,
};

/// Frames begin with SOF 1 on both wires.
const SOF: u16 = 1 << 1;

/// A stock frame ends with EOF 2.
const STOCK_EOF: u16 = 1 << 2;

/// A native frame ends with EOF 2 (head) or 3 to 15 (page).
const NATIVE_EOF: u16 = 0xfffc;

/// What is spoken on a cable.
#[derive(Clone, Copy)]
pub(crate) enum Spoken<'a> {
    /// ThunderboltIP, with what the peer offers.
    Stock(Settings),
    /// Ours, as agreed.
    Native(&'a Plan),
}

impl Spoken<'_> {
    /// What the second lane is for.
    fn second(&self) -> Option<Second> {
        match self {
            Self::Stock(_) => None,
            Self::Native(plan) => Second::of(plan.features),
        }
    }

    fn wire(&self, lane: u8, has_two: bool) -> Wire {
        match *self {
            Self::Stock(settings) => Wire::Stock { settings },
            Self::Native(plan) => Wire::Native {
                plan: *plan,
                lane,
                has_two,
            },
        }
    }
}

/// HopIDs that `avoid` and `busy` masks can name.
const NAMED_HOPS: u16 = 32;

/// Transmit HopIDs, the first lane's first.
#[derive(Default)]
pub(crate) struct Hops {
    hops: [HopId; LANES],
    count: usize,
}

impl Hops {
    pub(crate) fn as_slice(&self) -> &[HopId] {
        self.hops.get(..self.count).unwrap_or(&[])
    }
}

/// What a link holds of the host interface and of the cable.
pub(crate) struct Rig {
    first: Rings,
    /// Of the second lane, if there may be one, and what it is for.
    second: Option<(Rings, Second)>,
    transmit: [Option<HopId>; LANES],
    open: [Option<Paths>; LANES],
    /// The second lane has been prepared.
    uses_second: bool,
    e2e: bool,
    // Last: the cable outlives its rings.
    xd: Xdomain,
}

impl Rig {
    /// Allocates the rings of `lanes`, of `sizes` or smaller. `offers`: what we offer a native peer; none to a stock
    /// one. Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOSPC` if the host interface has no free ring for the first lane.
    pub(crate) fn new(xd: &Xdomain, lanes: &Lanes, offers: Option<Features>, sizes: RingSizes) -> Result<Self> {
        let native = offers.is_some();
        let [first, second] = lanes;
        let wake: Arc<dyn Wake> = first.clone();
        let rings = allocate(xd, &wake, native, sizes)?;
        let role = offers.and_then(Second::of).filter(|_| has_second(xd.hop_count()));
        // The rings are shared with other cables, which come first.
        let second = role.and_then(|role| {
            let wake = match role {
                Second::Windows => wake,
                Second::Trains => second.clone(),
            };
            Some((allocate(xd, &wake, native, sizes).ok()?, role))
        });
        Ok(Self {
            xd: xd.clone(),
            first: rings,
            second,
            transmit: [None; LANES],
            open: [None, None],
            uses_second: false,
            e2e: false,
        })
    }

    /// The rings that are to be looked at from time to time: those that packets and trains come by.
    pub(crate) fn rings(&self) -> impl Iterator<Item = &Rings> {
        self.used().take(self.prepared())
    }

    /// Receive descriptors of a lane.
    pub(crate) fn depth(&self) -> u32 {
        self.first.rx.size() - 1
    }

    /// How many lanes there may be.
    pub(crate) fn lanes(&self) -> u8 {
        if self.second.is_some() {
            2
        } else {
            1
        }
    }

    /// Whether trains go by the second lane.
    pub(crate) fn has_two(&self) -> bool {
        self.uses_second && self.second.as_ref().is_some_and(|(_, role)| *role == Second::Trains)
    }

    /// Whether frames may be on the rings.
    pub(crate) fn is_open(&self) -> bool {
        self.open.iter().any(Option::is_some)
    }

    /// Takes the transmit HopIDs of so many lanes, none in `avoid` (bit i is HopID 8 + i) if it can be helped. As many
    /// as there are.
    pub(crate) fn take_transmit(&mut self, lanes: u8, avoid: u32) -> Hops {
        self.free_transmit();
        let mut taken = Hops::default();
        while taken.count < usize::from(lanes).min(LANES) {
            let Ok(hop) = self.take_one(avoid) else {
                break;
            };
            if let (Some(to), Some(place)) = (taken.hops.get_mut(taken.count), self.transmit.get_mut(taken.count)) {
                *to = hop;
                *place = Some(hop);
            }
            taken.count += 1;
        }
        taken
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

    /// The rings of the lanes that are used, the first lane's first.
    fn used(&self) -> impl Iterator<Item = &Rings> {
        let second = self
            .second
            .as_ref()
            .filter(|_| self.uses_second)
            .map(|(rings, _)| rings);
        Iterator::chain(core::iter::once(&self.first), second)
    }

    /// Opens `lanes`: the peer sends on `receive`. Frames may come from here on. Sleeps.
    ///
    /// # Errors
    ///
    /// Everything is as before. `Busy` if one of `receive` is taken; `Lanes` if the first lane can be had and the
    /// second cannot, as where the connection manager has no buffers of a router on the way left for it
    /// (`tb_dma_reserve_credits`; a cable between two hosts has 14 for each path).
    pub(crate) fn open(
        &mut self,
        lanes: &Lanes,
        spoken: Spoken<'_>,
        receive: &[HopId],
        e2e: bool,
        kick: &Arc<dyn Kick>,
    ) -> Result<(), OpenError> {
        let role = self.second.as_ref().map(|(_, role)| *role);
        self.uses_second = receive.len() > 1 && role.is_some() && role == spoken.second();
        let receive = receive.get(..self.used().count()).ok_or(OpenError::Other)?;
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
        if self.prepare(lanes, spoken, kick).is_err() {
            self.free_receive(receive);
            return Err(OpenError::Other);
        }
        self.e2e = e2e;
        for rings in self.used() {
            // A stock peer's transmit ring takes no part in flow control, so neither does ours with it.
            rings.tx.start(e2e && matches!(spoken, Spoken::Native(_)));
            rings.rx.start(e2e);
        }
        for lane in lanes.iter().take(self.prepared()) {
            lane.begin();
        }
        let mut open = [const { None }; LANES];
        let mut failed = None;
        let each = Iterator::zip(self.used(), Iterator::zip(self.transmit.iter(), receive));
        for (at, (to, (rings, (transmit, receive)))) in Iterator::zip(open.iter_mut(), each).enumerate() {
            let Some(transmit) = *transmit else {
                failed = Some(at);
                break;
            };
            let paths = Paths {
                transmit,
                transmit_ring: rings.tx.hop(),
                receive: *receive,
                receive_ring: rings.rx.hop(),
            };
            if self.xd.enable_paths(&paths).is_err() {
                failed = Some(at);
                break;
            }
            *to = Some(paths);
        }
        self.open = open;
        if let Some(at) = failed {
            let _ = self.shut(lanes);
            self.free_receive(receive);
            return Err(match u8::try_from(at) {
                Ok(had) if had > 0 => OpenError::Lanes(had),
                _ => OpenError::Other,
            });
        }
        Ok(())
    }

    /// How many lanes have been prepared: a ring of windows is the first lane's.
    fn prepared(&self) -> usize {
        match self.has_two() {
            true => LANES,
            false => 1,
        }
    }

    fn prepare(&self, lanes: &Lanes, spoken: Spoken<'_>, kick: &Arc<dyn Kick>) -> Result {
        let [first, second] = lanes;
        let other = self.second.as_ref().filter(|_| self.uses_second);
        let windows = other
            .filter(|(_, role)| *role == Second::Windows)
            .map(|(rings, _)| rings);
        first.prepare(self.first.clone(), windows, spoken.wire(0, self.has_two()), kick)?;
        if let Some((rings, Second::Trains)) = other {
            second
                .prepare(rings.clone(), None, spoken.wire(1, true), kick)
                .inspect_err(|_| first.abandon())?;
        }
        Ok(())
    }

    fn free_receive(&self, hops: &[HopId]) {
        for hop in hops {
            self.xd.free_receive_hop(*hop);
        }
    }

    /// Lane, paths, rings, buffers. Returns the receive HopIDs of the paths, and whether they came down.
    fn shut(&mut self, lanes: &Lanes) -> ([Option<HopId>; LANES], bool) {
        let prepared = self.prepared();
        for lane in lanes.iter().take(prepared) {
            lane.quiesce();
        }
        let mut down = true;
        let mut hops = [None; LANES];
        for (to, paths) in hops.iter_mut().zip(self.open.iter_mut()) {
            if let Some(paths) = paths.take() {
                down &= self.xd.disable_paths(&paths).is_ok();
                *to = Some(paths.receive);
            }
        }
        for rings in self.used() {
            rings.rx.stop();
            rings.tx.stop();
        }
        for lane in lanes.iter().take(prepared) {
            lane.finish();
        }
        self.uses_second = false;
        (hops, down)
    }

    /// Closes the lanes. Returns false if the core could not bring the paths down. Sleeps.
    pub(crate) fn close(&mut self, lanes: &Lanes) -> bool {
        if !self.is_open() {
            return true;
        }
        let (hops, down) = self.shut(lanes);
        for hop in hops.into_iter().flatten() {
            self.xd.free_receive_hop(hop);
        }
        down
    }

    /// Has the receive ring of the direct lane give back all that is posted, and opens it anew. Sleeps.
    pub(crate) fn reset_direct(&self, lanes: &Lanes) {
        let Some((rings, Second::Windows)) = self.second.as_ref().filter(|_| self.open.iter().all(Option::is_some))
        else {
            return;
        };
        let [lane, _] = lanes;
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

/// What we offer a native peer: windows take the second lane for themselves.
pub(crate) fn offered(e2e: bool, offers: &Offers) -> Features {
    let mut features = Features::RUNS;
    for (feature, wanted) in [
        (Features::E2E, e2e),
        (Features::TRAINS, offers.trains),
        (Features::LANES, offers.trains && offers.lanes && !offers.direct),
        (Features::DIRECT, offers.trains && offers.direct),
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
