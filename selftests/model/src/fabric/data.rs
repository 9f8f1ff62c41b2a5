// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The data plane: frames from Tx rings to Rx rings, along the paths the drivers set up.
//!
//! On a cable without rate and latency a doorbell moves everything posted at once, memory to memory. On a timed cable each
//! line serves the rings that have frames in turn; a frame's bytes stay where they are until it arrives, so that there is
//! one copy in both cases, and its Tx descriptor is completed then.
//!
//! Where the clock is real, waking up for every frame would cost more than the frame. A slack lets frames go that much
//! early: the rate holds on average, and a latency shorter than the slack is not felt.
//!
//! ```text
//!   posted --(line free, credit)--> on the wire --(arrives)--> delivered, Tx completed
//!      \                                  \--(no Rx descriptor)--> stalled: waits at the head of its ring
//!       `--(untimed: at once)------------------------------------> delivered, Tx completed
//! ```

use crate::cable::PortId;
use crate::calendar::Event;
use crate::fabric::Fabric;
use crate::fault::Fate;
use crate::memory::{CopyFault, Memory};
use crate::regs::paired_hop;
use crate::ring::{completed_rx, Descriptor, OnWire, Route, TxRing, CRC_ERROR, FRAME_LEN, OVERRUN};
use crate::time::Instant;

/// Most routers a path crosses.
const PATH_LENGTH: usize = 16;
/// A frame held to be overtaken goes on after this, if no other frame comes.
const REORDER_NS: u64 = 1_000_000;

/// A frame that a fault holds back.
#[derive(Clone, Debug)]
pub struct Held {
    /// NHI and Tx ring it came from.
    pub from: (usize, usize),
    due: Instant,
    /// Goes on right after the next frame of its ring.
    swaps: bool,
    bytes: Vec<u8>,
    frame: Descriptor,
    fate: Fate,
}

/// What became of a run of frames from one Tx ring: the events to raise when it is over.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    sent: bool,
    /// Rx ring that completed a descriptor, and whether the first interrupt of the run is lost.
    received: Option<(Route, bool)>,
}

/// May the next frame of a ring go?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Receiver {
    Ready,
    /// Wait for a descriptor, or for end-to-end credit.
    Busy,
    /// There is nobody: the frame is lost.
    Nobody,
}

impl<M: Memory> Fabric<M> {
    /// Moves what is posted on a Tx ring as far as it will go now.
    pub(super) fn transmit(&mut self, nhi: usize, ring: usize) {
        let tx = &self.nhis[nhi].tx[ring];
        if tx.stalled && tx.wire.is_empty() {
            // Whatever it waits for ends in retry_stalled.
            return;
        }
        match self.route(nhi, ring) {
            Some(route) if self.cables[route.cable].is_timed() => self.serve_line(route.cable, route.end),
            _ if !self.nhis[nhi].tx[ring].wire.is_empty() => {}
            route => self.transmit_now(nhi, ring, route),
        }
    }

    /// The untimed path: all posted frames, until the receiver has no room.
    fn transmit_now(&mut self, nhi: usize, ring: usize, route: Option<Route>) {
        let mut run = Run::default();
        let open = route.map(|route| self.e2e_open(nhi, ring, route));
        while self.nhis[nhi].tx[ring].ring.posted() > 0 {
            let receiver = match (route, open) {
                (Some(route), Some(open)) => self.receiver(nhi, ring, route, open),
                _ => Receiver::Nobody,
            };
            let mut fate = Fate::default();
            if let Some(route) = route {
                let faults = &mut self.cables[route.cable].faults;
                let may_overrun = faults.rules().overrun > 0.0;
                if receiver == Receiver::Ready || may_overrun {
                    fate = faults.roll();
                }
            }
            if receiver == Receiver::Busy && !self.overruns(nhi, ring, route, fate) {
                self.stall(nhi, ring);
                break;
            }
            if let (Some(route), Receiver::Ready) = (route, receiver) {
                let length = self.next_length(nhi, ring);
                let now = self.now;
                self.cables[route.cable].send(now, route.end, length);
            }
            let target = route.filter(|_| receiver == Receiver::Ready);
            self.move_frame(nhi, ring, target, fate, &mut run);
            let tx = &mut self.nhis[nhi].tx[ring];
            tx.fetch = tx.ring.hw;
        }
        self.finish(nhi, ring, run);
    }

    fn next_length(&self, nhi: usize, ring: usize) -> usize {
        let state = &self.nhis[nhi];
        let tx = &state.tx[ring];
        let descriptor = state
            .memory
            .as_ref()
            .and_then(|memory| tx.ring.fetch(memory, tx.fetch).ok());
        descriptor.map_or(FRAME_LEN, Descriptor::length)
    }

    /// What is due before this may be done now.
    fn horizon(&self) -> Instant {
        self.now.after_ns(self.slack_ns)
    }

    /// A line is free, or has something new to send: it sends until it is busy or nothing is ready.
    pub(super) fn on_line_free(&mut self, cable: usize, end: usize) {
        self.cables[cable].lines[end].scheduled = false;
        self.serve_line(cable, end);
    }

    fn serve_line(&mut self, cable: usize, end: usize) {
        let early = self.send_frames(cable, end);
        let nhi = self.cables[cable].ends[end].nhi;
        for ring in (0..self.nhis[nhi].hops()).filter(|ring| early >> ring & 1 != 0) {
            let generation = self.nhis[nhi].tx[ring].ring.generation;
            self.on_arrival(nhi, ring, generation);
        }
    }

    /// Puts frames on a line while it is free. Gives the rings (a bit each) whose frames arrive within the slack.
    fn send_frames(&mut self, cable: usize, end: usize) -> u32 {
        let mut early = 0;
        while self.cables[cable].is_up() {
            if self.cables[cable].lines[end].free_at > self.horizon() {
                let line = &mut self.cables[cable].lines[end];
                if !line.scheduled {
                    line.scheduled = true;
                    // Half of what may be sent early has gone out by then.
                    let at = Instant(line.free_at.0.saturating_sub(self.slack_ns / 2));
                    self.calendar.put(at, Event::LineFree { cable, end });
                }
                break;
            }
            let Some((nhi, ring, route)) = self.next_sender(cable, end) else {
                break;
            };
            let length = self.next_length(nhi, ring);
            let fate = self.cables[cable].faults.roll();
            let arrives = self.cables[cable].send(self.now, end, length);
            self.cables[cable].lines[end].last_ring = ring;
            let tx = &mut self.nhis[nhi].tx[ring];
            let promised = tx.ring.is_e2e().then_some((route.nhi, route.ring));
            tx.wire.push_back(OnWire {
                arrives,
                fate,
                promised,
            });
            tx.fetch = tx.ring.next(tx.fetch);
            let generation = tx.ring.generation;
            if promised.is_some() {
                self.nhis[route.nhi].rx[route.ring].promised += 1;
            }
            if arrives <= self.horizon() {
                early |= 1 << ring;
            } else {
                self.calendar.put(arrives, Event::Arrival { nhi, ring, generation });
            }
        }
        early
    }

    /// The next ring in turn that has a frame for a line.
    fn next_sender(&mut self, cable: usize, end: usize) -> Option<(usize, usize, Route)> {
        let nhi = self.cables[cable].ends[end].nhi;
        let rings = self.nhis[nhi].hops() - 1;
        let last = self.cables[cable].lines[end].last_ring;
        for step in 0..rings {
            let ring = 1 + (last + step) % rings;
            let tx = &self.nhis[nhi].tx[ring];
            if tx.stalled || tx.waiting() == 0 {
                continue;
            }
            let Some(route) = self.route(nhi, ring) else { continue };
            if (route.cable, route.end) != (cable, end) {
                continue;
            }
            if self.nhis[nhi].tx[ring].ring.is_e2e() {
                let open = self.e2e_open(nhi, ring, route);
                if self.receiver(nhi, ring, route, open) != Receiver::Ready {
                    self.stall(nhi, ring);
                    continue;
                }
            }
            return Some((nhi, ring, route));
        }
        None
    }

    /// Frames on the wire have reached their receiver.
    pub(super) fn on_arrival(&mut self, nhi: usize, ring: usize, generation: u32) {
        if self.nhis[nhi].tx[ring].ring.generation != generation {
            return;
        }
        let mut run = Run::default();
        while let Some(&OnWire {
            arrives,
            fate,
            promised,
        }) = self.nhis[nhi].tx[ring].wire.front()
        {
            if arrives > self.horizon() {
                break;
            }
            let route = self.route(nhi, ring);
            if let Some((peer, target)) = promised {
                let rx = &mut self.nhis[peer].rx[target];
                rx.promised = rx.promised.saturating_sub(1);
            }
            let receiver = match route {
                Some(route) => self.receiver(nhi, ring, route, true),
                None => Receiver::Nobody,
            };
            if receiver == Receiver::Busy && !self.overruns(nhi, ring, route, fate) {
                if let Some(front) = self.nhis[nhi].tx[ring].wire.front_mut() {
                    front.promised = None;
                }
                self.stall(nhi, ring);
                break;
            }
            self.nhis[nhi].tx[ring].wire.pop_front();
            self.move_frame(nhi, ring, route.filter(|_| receiver == Receiver::Ready), fate, &mut run);
        }
        self.finish(nhi, ring, run);
    }

    /// A frame without an Rx descriptor: is it dropped (and counted), or does it wait?
    fn overruns(&mut self, nhi: usize, ring: usize, route: Option<Route>, fate: Fate) -> bool {
        let Some(route) = route else { return false };
        if !fate.overrun || self.nhis[nhi].tx[ring].ring.is_e2e() {
            return false;
        }
        self.cables[route.cable].faults.injected.overrun += 1;
        let now = self.now;
        let peer = &mut self.nhis[route.nhi];
        peer.rx[route.ring].ring.counters.drops += 1;
        let signals = peer.irq.raise(now, peer.irq.overflow_bit(route.ring));
        self.signal(route.nhi, signals);
        true
    }

    fn stall(&mut self, nhi: usize, ring: usize) {
        let tx = &mut self.nhis[nhi].tx[ring];
        if !tx.stalled {
            tx.stalled = true;
            tx.ring.counters.stalls += 1;
            self.stalled.push((nhi, ring));
        }
    }

    /// Something changed that a stalled ring may have waited for.
    pub(super) fn retry_stalled(&mut self) {
        if self.stalled.is_empty() {
            return;
        }
        for (nhi, ring) in std::mem::take(&mut self.stalled) {
            let tx = &mut self.nhis[nhi].tx[ring];
            tx.stalled = false;
            let generation = tx.ring.generation;
            self.on_arrival(nhi, ring, generation);
            self.transmit(nhi, ring);
        }
    }

    /// Forgets what a Tx ring has on the wire and gives back the credits it holds.
    pub(super) fn void_wire(&mut self, nhi: usize, ring: usize) {
        while let Some(frame) = self.nhis[nhi].tx[ring].wire.pop_front() {
            if let Some((peer, target)) = frame.promised {
                let rx = &mut self.nhis[peer].rx[target];
                rx.promised = rx.promised.saturating_sub(1);
            }
        }
        self.stalled.retain(|&waiting| waiting != (nhi, ring));
        let tx = &mut self.nhis[nhi].tx[ring];
        tx.stalled = false;
        tx.fetch = tx.ring.hw;
    }

    /// Where a Tx ring's frames end, remembered until a path or link changes.
    fn route(&mut self, nhi: usize, ring: usize) -> Option<Route> {
        if let Some((epoch, route)) = self.nhis[nhi].tx[ring].route {
            if epoch == self.route_epoch {
                return route;
            }
        }
        let route = self.find_route(nhi, ring);
        self.nhis[nhi].tx[ring].route = Some((self.route_epoch, route));
        route
    }

    /// Follows the path spaces from a Tx ring to an Rx ring.
    fn find_route(&self, nhi: usize, ring: usize) -> Option<Route> {
        let (mut at, mut adapter, mut hop) = (nhi, self.nhis[nhi].nhi_adapter(), ring);
        let mut entered = None;
        for _ in 0..PATH_LENGTH {
            let entry = self.nhis[at].adapters.get(adapter)?.path(hop)?;
            let out = entry.out_adapter();
            if out == self.nhis[at].nhi_adapter() {
                let (cable, end) = entered?;
                return Some(Route {
                    nhi: at,
                    ring: entry.next_hop(),
                    cable,
                    end,
                });
            }
            let (cable, peer, end) = self.live_link_at(PortId { nhi: at, adapter: out })?;
            entered.get_or_insert((cable, end));
            (at, adapter, hop) = (peer.nhi, peer.adapter, entry.next_hop());
        }
        None
    }

    /// End-to-end flow control lets a ring send only if the credits of its receiver find their way back to it: the Rx ring
    /// and the ring's own Rx counterpart both have it on and name each other's Tx hops.
    fn e2e_open(&self, nhi: usize, ring: usize, route: Route) -> bool {
        if !self.nhis[nhi].tx[ring].ring.is_e2e() {
            return true;
        }
        let usable = |nhi: usize, ring: usize| {
            let rx = self.nhis[nhi].rx.get(ring)?;
            (rx.ring.is_enabled() && rx.ring.is_e2e()).then(|| paired_hop(rx.ring.options()))
        };
        let Some(back) = usable(route.nhi, route.ring) else {
            return false;
        };
        let Some(home) = self.find_route(route.nhi, back) else {
            return false;
        };
        home.nhi == nhi && usable(nhi, home.ring) == Some(ring)
    }

    fn receiver(&self, nhi: usize, ring: usize, route: Route, open: bool) -> Receiver {
        let e2e = self.nhis[nhi].tx[ring].ring.is_e2e();
        let Some(rx) = self.nhis[route.nhi].rx.get(route.ring).filter(|_| route.ring > 0) else {
            return Receiver::Nobody;
        };
        if !rx.ring.is_enabled() && !e2e {
            Receiver::Nobody
        } else if open && rx.ring.posted() > if e2e { rx.promised } else { 0 } {
            Receiver::Ready
        } else {
            Receiver::Busy
        }
    }

    /// Takes the next frame of a Tx ring to its end: delivers it to `route`, if there is one, and completes its descriptor.
    fn move_frame(&mut self, nhi: usize, ring: usize, route: Option<Route>, fate: Fate, run: &mut Run) {
        let state = &self.nhis[nhi];
        let Some(memory) = &state.memory else { return };
        let index = state.tx[ring].ring.hw;
        let fetched = state.tx[ring].ring.fetch(memory, index);
        if let (Ok(frame), Some(route)) = (fetched, route) {
            self.apply_fate((nhi, ring), frame, route, fate, run);
        }
        let state = &mut self.nhis[nhi];
        let tx = &mut state.tx[ring].ring;
        tx.hw = tx.next(index);
        match (fetched, &state.memory) {
            (Ok(frame), Some(memory)) => {
                tx.counters.frames += 1;
                tx.counters.bytes += frame.length() as u64;
                tx.counters.drops += u64::from(route.is_none());
                run.sent |= frame.wants_interrupt();
                // It could be read a moment ago.
                let _ = tx.complete(memory, index, TxRing::completed(frame.word));
            }
            (Err(bad), _) => self.bad_dma(nhi, bad.0),
            _ => {}
        }
    }

    /// Delivers a frame as its fate says.
    fn apply_fate(&mut self, from: (usize, usize), frame: Descriptor, route: Route, fate: Fate, run: &mut Run) {
        if fate == Fate::default() {
            self.deliver(from, frame, None, route, fate, run);
            if !self.held.is_empty() {
                self.release_swapped(from, route, run);
            }
            return;
        }
        let injected = &mut self.cables[route.cable].faults.injected;
        if fate.drop {
            injected.drop += 1;
            return;
        }
        if fate.delay || fate.reorder {
            let delay_ns = self.cables[route.cable].faults.rules().delay_ns;
            let injected = &mut self.cables[route.cable].faults.injected;
            injected.delay += u64::from(fate.delay);
            injected.reorder += u64::from(fate.reorder && !fate.delay);
            let due = self.now.after_ns(if fate.delay { delay_ns } else { REORDER_NS });
            if self.hold(from, frame, due, !fate.delay, fate) {
                return;
            }
        }
        self.deliver(from, frame, None, route, fate, run);
        let room = self.nhis[route.nhi].rx[route.ring].ring.posted() > 0;
        if fate.duplicate && room {
            self.cables[route.cable].faults.injected.duplicate += 1;
            self.deliver(from, frame, None, route, Fate { corrupt: false, ..fate }, run);
        }
        self.release_swapped(from, route, run);
    }

    /// Puts a frame aside, bytes and all. False if its bytes are not there.
    fn hold(&mut self, from: (usize, usize), frame: Descriptor, due: Instant, swaps: bool, fate: Fate) -> bool {
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.resize(frame.length(), 0);
        let Some(memory) = &self.nhis[from.0].memory else {
            return false;
        };
        if memory.read(frame.address, &mut bytes).is_err() {
            return false;
        }
        self.held.push(Held {
            from,
            due,
            swaps,
            bytes,
            frame,
            fate,
        });
        self.calendar.put(due, Event::Release);
        true
    }

    /// Lets frames go that wait for this one of their ring to overtake them.
    fn release_swapped(&mut self, from: (usize, usize), route: Route, run: &mut Run) {
        while let Some(index) = self.held.iter().position(|held| held.swaps && held.from == from) {
            let held = self.held.remove(index);
            self.deliver_held(held, route, run);
        }
    }

    /// Lets frames go whose time has come.
    pub(super) fn release_held(&mut self) {
        while let Some(index) = self.held.iter().position(|held| held.due <= self.now) {
            let held = self.held.remove(index);
            let (nhi, ring) = held.from;
            let mut run = Run::default();
            if let Some(route) = self.route(nhi, ring) {
                self.deliver_held(held, route, &mut run);
            }
            self.finish(nhi, ring, run);
        }
    }

    fn deliver_held(&mut self, held: Held, route: Route, run: &mut Run) {
        let Held {
            from,
            bytes,
            frame,
            fate,
            ..
        } = held;
        let rx = self.nhis[route.nhi].rx.get(route.ring);
        if rx.is_some_and(|rx| rx.ring.posted() > 0) {
            self.deliver(from, frame, Some(&bytes), route, fate, run);
        } else if let Some(rx) = self.nhis[route.nhi].rx.get_mut(route.ring) {
            rx.ring.counters.drops += 1;
        }
        self.spare.push(bytes);
    }

    /// Writes one frame into the next Rx descriptor, which must be posted. Its bytes are `bytes`, or the sender's memory.
    fn deliver(
        &mut self,
        from: (usize, usize),
        frame: Descriptor,
        bytes: Option<&[u8]>,
        route: Route,
        fate: Fate,
        run: &mut Run,
    ) {
        let peer = &self.nhis[route.nhi];
        let rx = &peer.rx[route.ring];
        let (Some(source), Some(memory)) = (&self.nhis[from.0].memory, &peer.memory) else {
            return;
        };
        if !rx.accepts(frame.start_marker(), frame.end_marker()) {
            self.nhis[route.nhi].rx[route.ring].ring.counters.drops += 1;
            return;
        }
        let index = rx.ring.hw;
        let buffer = match rx.ring.fetch(memory, index) {
            Ok(buffer) => buffer,
            Err(bad) => return self.bad_dma(route.nhi, bad.0),
        };
        let length = frame.length().min(rx.ring.buffer_len());
        let copied = match bytes {
            None => memory.copy_from(buffer.address, source, frame.address, length),
            Some(bytes) => memory
                .write(buffer.address, &bytes[..length])
                .map_err(CopyFault::Target),
        };
        match copied {
            Ok(()) => {}
            Err(CopyFault::Source(bad)) => return self.bad_dma(from.0, bad.0),
            Err(CopyFault::Target(bad)) => {
                self.nhis[route.nhi].rx[route.ring].ring.counters.drops += 1;
                return self.bad_dma(route.nhi, bad.0);
            }
        }
        let mut flags = if frame.length() > length { OVERRUN } else { 0 };
        if fate.corrupt {
            flags |= CRC_ERROR;
            let faults = &mut self.cables[route.cable].faults;
            faults.injected.corrupt += 1;
            let at = buffer.address + faults.below(length) as u64;
            let mut byte = [0];
            let _ = memory.read(at, &mut byte);
            let _ = memory.write(at, &[byte[0] ^ 0x55]);
        }
        let word = completed_rx(length, frame.start_marker(), frame.end_marker(), flags);
        let stored = rx.ring.complete(memory, index, word);
        let ring = &mut self.nhis[route.nhi].rx[route.ring].ring;
        ring.hw = ring.next(index);
        ring.counters.frames += 1;
        ring.counters.bytes += length as u64;
        if let Err(bad) = stored {
            return self.bad_dma(route.nhi, bad.0);
        }
        if !buffer.wants_interrupt() {
            return;
        }
        if fate.strand {
            self.cables[route.cable].faults.injected.strand += 1;
        } else {
            run.received.get_or_insert((route, fate.lost_irq));
        }
    }

    /// Raises the events of a run of frames.
    fn finish(&mut self, nhi: usize, ring: usize, run: Run) {
        if run.sent {
            self.raise(nhi, true, ring);
        }
        match run.received {
            Some((route, false)) => self.raise(route.nhi, false, route.ring),
            Some((route, true)) => {
                self.cables[route.cable].faults.injected.lost_irq += 1;
                let irq = &mut self.nhis[route.nhi].irq;
                irq.raise_lost(irq.ring_bit(false, route.ring));
            }
            None => {}
        }
    }
}
