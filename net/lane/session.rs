// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The lane in a link's session, from [`Lane::prepare`] to [`Lane::finish`]. All sleep, on the link's worker.

use super::{mac_number, set_throttle, Lane, Peer};
use crate::{
    direct::Direct,
    kapi::random::random_u64,
    rings::{Kick, Rings, Wire},
    rx::Rx,
    tx::Tx,
};
use core::sync::atomic::Ordering;
use kernel::{prelude::*, sync::Arc};
use tbip::{moderate::Load, native::Features, stock::Settings};

impl Lane {
    /// There are rings, which do not run yet: makes all that they need and posts the receive buffers. What can fail
    /// fails here, where no hardware knows of a page.
    /// `direct` are those of the direct lane; `kick` is kicked when [`Self::take_broken`] has something to tell.
    pub(crate) fn prepare(&self, rings: Rings, direct: Option<&Rings>, wire: Wire, kick: &Arc<dyn Kick>) -> Result {
        let dma = self.dma;
        let direct = match direct {
            // Without memory for it the cable goes on by trains: the peer, which is told of no generation, asks for
            // nothing.
            Some(rings) => Direct::new(rings, dma, self.napi.raw(), random_u64() as u32).ok(),
            None => None,
        };
        let tx = Tx::new(rings.tx.clone(), &wire, dma)?;
        let (rx, credit) = Rx::new(rings.rx.clone(), &wire, dma, self.napi.raw())?;
        let peer = match wire {
            Wire::Native { .. } => Peer::Native,
            Wire::Stock { settings } if settings.has(Settings::FRAMES_64K) => Peer::Stock64k,
            Wire::Stock { .. } => Peer::Stock,
        };
        self.peer.store(peer as u8, Ordering::Relaxed);
        let runs = matches!(wire, Wire::Native { plan, .. } if plan.features.has(Features::RUNS));
        if self.is_first {
            self.netdev.set_runs(runs);
        }
        if let Wire::Native { plan, .. } = wire {
            self.most_pages.store(plan.max_pages, Ordering::Relaxed);
        }
        self.credit.store(credit.0, Ordering::Relaxed);
        self.have.store(rx.have().0, Ordering::Relaxed);
        {
            let mut side = self.rx.lock();
            side.path = Some(rx);
            side.load = Load::new();
        }
        {
            let mut side = self.tx.lock();
            side.path = Some(tx);
            side.live = false;
            side.stopped = true;
        }
        self.config.lock().rings = Some(rings);
        let has_direct = direct.is_some();
        if has_direct {
            *self.kick.lock() = Some(kick.clone());
        }
        self.direct.lock().path = direct;
        self.has_direct.store(has_direct, Ordering::Relaxed);
        Ok(())
    }

    /// The rings run: the hardware is told of the buffers. Frames may come from the return on.
    pub(crate) fn begin(&self) {
        {
            let mut side = self.rx.lock();
            side.runs = true;
            if let Some(rx) = &mut side.path {
                rx.begin();
            }
        }
        self.tx.lock().runs = true;
        self.direct.lock().runs = true;
        {
            let config = self.config.lock();
            if let Some(rings) = &config.rings {
                set_throttle(&rings.rx, config.coalesce.rx_usecs);
                set_throttle(&rings.tx, config.coalesce.tx_usecs);
            }
        }
        self.napi.enable();
        self.napi.schedule();
    }

    /// The peer takes frames.
    pub(crate) fn go(&self) {
        let wanted = {
            let mut side = self.tx.lock();
            side.live = true;
            side.stopped = false;
            core::mem::take(&mut side.wanted)
        };
        if self.is_first {
            self.netdev.set_carrier(true);
            self.netdev.wake_queue();
        }
        if let (true, Some(client)) = (wanted, &*self.client.lock()) {
            client.on_room();
        }
    }

    /// Trains may go to the peer, which has this Ethernet address; or none may.
    pub(crate) fn set_reach(&self, mac: Option<[u8; 6]>) {
        self.silent.store(false, Ordering::Relaxed);
        self.reaches.store(mac.map_or(0, mac_number), Ordering::Relaxed);
    }

    /// The peer takes no frames any more.
    pub(crate) fn halt(&self) {
        if self.is_first {
            self.netdev.set_carrier(false);
        }
        // Before the queue is stopped: a poll on another processor wakes a live one that has room.
        {
            let mut side = self.tx.lock();
            side.live = false;
            side.stopped = true;
        }
        self.set_reach(None);
        if self.is_first {
            self.netdev.disable_queue();
        }
    }

    /// Undoes [`Lane::prepare`] where [`Lane::begin`] does not follow.
    pub(crate) fn abandon(&self) {
        let rings = self.config.lock().rings.take();
        drop(rings);
        self.finish();
    }

    /// From the return on nobody touches the rings.
    pub(crate) fn quiesce(&self) {
        self.halt();
        self.napi.disable();
        // The last poll lets interrupts through after the core has counted it as done, perhaps on another processor,
        // and the timer looks at what is on its way: both see under the locks that the rings are about to stop.
        self.rx.lock().runs = false;
        self.tx.lock().runs = false;
        self.direct.lock().runs = false;
        let rings = self.config.lock().rings.take();
        drop(rings);
    }

    /// The rings are stopped: gives up what they had.
    pub(crate) fn finish(&self) {
        if let Some(tx) = &mut self.tx.lock().path {
            tx.lose();
        }
        self.tell_lost();
        if let Some(direct) = &mut self.direct.lock().path {
            direct.lose();
        }
        self.end_windows();
        self.tell_direct();
        self.has_direct.store(false, Ordering::Relaxed);
        let rx = self.rx.lock().path.take();
        let tx = self.tx.lock().path.take();
        let direct = self.direct.lock().path.take();
        let kick = self.kick.lock().take();
        // Not under the locks: this sleeps.
        drop((rx, tx, direct, kick));
        self.peer.store(Peer::None as u8, Ordering::Relaxed);
        if self.is_first {
            self.netdev.reset_sent();
            self.netdev.set_runs(false);
        }
    }
}
