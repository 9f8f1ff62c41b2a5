// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The end of a frame's way: its fate, the copy into the receiver's buffer, the completions and their events.

use crate::calendar::Event;
use crate::fabric::Fabric;
use crate::fault::Fate;
use crate::memory::{CopyFault, Memory};
use crate::ring::{completed_rx, Descriptor, Route, TxRing, CRC_ERROR, OVERRUN};
use crate::time::Instant;

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
pub(super) struct Run {
    sent: bool,
    /// Rx ring that completed a descriptor, and whether the first interrupt of the run is lost.
    received: Option<(Route, bool)>,
}

impl<M: Memory> Fabric<M> {
    /// Takes the next frame of a Tx ring to its end: delivers it to `route`, if there is one, and completes its
    /// descriptor.
    pub(super) fn move_frame(&mut self, nhi: usize, ring: usize, route: Option<Route>, fate: Fate, run: &mut Run) {
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

    /// Writes one frame into the next Rx descriptor, which must be posted. Its bytes are `bytes`, or the sender's
    /// memory.
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
    pub(super) fn finish(&mut self, nhi: usize, ring: usize, run: Run) {
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
