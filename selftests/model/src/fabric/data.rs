// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The data plane: frames from Tx rings to Rx rings, along the paths the drivers set up.
//!
//! On a cable without rate and latency a doorbell moves everything posted at once, memory to memory. On a timed cable
//! each line serves the rings that have frames in turn; a frame's bytes stay where they are until it arrives, so that
//! there is one copy in both cases, and its Tx descriptor is completed then.
//!
//! A rate of the rings ([`crate::Topology`]) holds each Tx ring to it: a ring gives the line its next frame when its
//! DMA is done with the one before. That is enough for the Rx rings too, as a path leads from one ring to one ring.
//!
//! Where the clock is real, waking up for every frame would cost more than the frame. A slack lets frames go that much
//! early: the rate holds on average, and a latency shorter than the slack is not felt.
//!
//! ```text
//!   posted --(line and ring free, credit)--> on the wire --(arrives)--> delivered, Tx completed
//!      \                                           \--(no Rx descriptor)--> stalled: waits at the head of its ring
//!       `--(untimed: at once)---------------------------------------------> delivered, Tx completed
//! ```

use crate::calendar::{Calendar, Event};
use crate::fabric::deliver::Run;
use crate::fabric::route::Receiver;
use crate::fabric::Fabric;
use crate::fault::Fate;
use crate::memory::Memory;
use crate::pace::Pace;
use crate::ring::{Descriptor, OnWire, Route, FRAME_LEN};
use crate::time::Instant;

impl<M: Memory> Fabric<M> {
    /// Moves what is posted on a Tx ring as far as it will go now.
    pub(super) fn transmit(&mut self, nhi: usize, ring: usize) {
        let state = &self.nhis[nhi];
        let tx = &state.tx[ring];
        // Whatever a stalled ring waits for ends in retry_stalled.
        if state.memory.is_none() || tx.stalled && tx.wire.is_empty() {
            return;
        }
        match self.route(nhi, ring) {
            Some(route) if self.ring_rate.is_some() || self.cables[route.cable].is_timed() => {
                self.serve_line(route.cable, route.end)
            }
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
        self.cables[cable].lines[end].pace.scheduled = false;
        self.serve_line(cable, end);
    }

    /// The DMA of a ring is free: the ring gives its line what it has.
    pub(super) fn on_ring_free(&mut self, nhi: usize, ring: usize) {
        self.nhis[nhi].tx[ring].pace.scheduled = false;
        self.transmit(nhi, ring);
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
            if !self.is_free(self.cables[cable].lines[end].pace) {
                let event = Event::LineFree { cable, end };
                wake(
                    &mut self.cables[cable].lines[end].pace,
                    self.slack_ns,
                    event,
                    &mut self.calendar,
                );
                break;
            }
            let Some((nhi, ring, route)) = self.next_sender(cable, end) else {
                break;
            };
            let length = self.next_length(nhi, ring);
            let fate = self.cables[cable].faults.roll();
            let tx = &mut self.nhis[nhi].tx[ring];
            let start = self.now.max(tx.pace.free_at);
            if self.ring_rate.is_some() {
                tx.pace.take(start, length as u128 * 8 * 1_000_000_000, self.ring_rate);
            }
            let arrives = self.cables[cable].send(start, end, length);
            self.cables[cable].lines[end].last_ring = ring;
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

    /// May what has this pace take something now?
    fn is_free(&self, pace: Pace) -> bool {
        pace.free_at <= self.horizon()
    }

    /// The next ring in turn that has a frame for a line. A ring that is busy is woken for when it is free.
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
            if !self.is_free(self.nhis[nhi].tx[ring].pace) {
                let event = Event::RingFree { nhi, ring };
                wake(
                    &mut self.nhis[nhi].tx[ring].pace,
                    self.slack_ns,
                    event,
                    &mut self.calendar,
                );
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
        let tx = &self.nhis[nhi].tx[ring];
        if tx.wire.is_empty() && tx.waiting() > 0 && self.route(nhi, ring).is_none() {
            // The path went away meanwhile: the rest is lost, too, and no line will ask for it.
            self.transmit(nhi, ring);
        }
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
        tx.pace.clear();
    }
}

/// Puts the event that tells of the end of a busy time on the calendar, once.
fn wake(pace: &mut Pace, slack_ns: u64, event: Event, calendar: &mut Calendar) {
    if !pace.scheduled {
        pace.scheduled = true;
        // Half of what may be sent early has gone out by then.
        calendar.put(Instant(pace.free_at.0.saturating_sub(slack_ns / 2)), event);
    }
}
