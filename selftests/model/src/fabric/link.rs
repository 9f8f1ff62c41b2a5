// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Links: training, bonding, plug events, and the hands that pull cables.

use crate::adapter::{LaneSpeed, LaneState};
use crate::cable::{PortId, State, TRAINING_NS};
use crate::calendar::Event;
use crate::control::{pdf, Packet, TO_HOST};
use crate::fabric::Fabric;
use crate::memory::Memory;
use crate::notice::What;

/// From hotplug being allowed to the first plug event. The driver resets its ports right after allowing it, and a plug
/// event before that would be followed by an unplug.
const FIRST_PLUG_NS: u64 = 300_000_000;

impl<M: Memory> Fabric<M> {
    /// Pulls a cable out, or plugs it in.
    pub fn set_plugged(&mut self, cable: usize, plugged: bool) {
        if let Some(cable) = self.cables.get_mut(cable) {
            cable.plugged = plugged;
        }
        self.evaluate_links();
    }

    /// Makes a cable train at 10 Gb/s per lane, or as it should; the link retrains.
    pub fn set_downgraded(&mut self, cable: usize, downgraded: bool) {
        let Some(entry) = self.cables.get_mut(cable) else {
            return;
        };
        if entry.downgraded != downgraded {
            entry.downgraded = downgraded;
            self.link_down(cable);
            // The unplug events go out before training begins.
            for nhi in 0..self.nhis.len() {
                self.tell_of_plugs(nhi);
            }
            self.evaluate_links();
        }
    }

    /// The cable at a port, the port at its far end, and which end of it the first is.
    pub(super) fn link_at(&self, port: PortId) -> Option<(usize, PortId, usize)> {
        self.cables.iter().enumerate().find_map(|(index, cable)| {
            let end = cable.end_at(port)?;
            Some((index, cable.ends[1 - end], end))
        })
    }

    /// As [`Fabric::link_at`], but only if the link is up.
    pub(super) fn live_link_at(&self, port: PortId) -> Option<(usize, PortId, usize)> {
        self.link_at(port).filter(|&(cable, ..)| self.cables[cable].is_up())
    }

    /// The lane state word of an adapter.
    pub(super) fn lane_status(&self, nhi: usize, adapter: usize) -> u32 {
        let port = PortId {
            nhi,
            adapter: first_lane(adapter),
        };
        let lane = &self.nhis[nhi].adapters[adapter];
        let Some((cable, ..)) = self.link_at(port) else {
            return lane.lane_status(LaneState::Unplugged, LaneSpeed::Gen3, 1);
        };
        let cable = &self.cables[cable];
        let state = match cable.state {
            State::Down => LaneState::Unplugged,
            State::Training { .. } => LaneState::Training,
            State::Up => LaneState::Up,
        };
        let width = if lane.bonded || cable.bonds_itself() { 2 } else { 1 };
        lane.lane_status(state, cable.speed(), width)
    }

    /// Brings every cable to the state its ends allow, and tells connection managers what they have not been told.
    pub(super) fn evaluate_links(&mut self) {
        for index in 0..self.cables.len() {
            let cable = &self.cables[index];
            let allowed = cable.plugged && cable.ends.iter().all(|&end| self.end_allows(end));
            match (cable.state, allowed) {
                (State::Down, true) => {
                    let until = self.now.after_ns(TRAINING_NS);
                    self.cables[index].state = State::Training { until };
                    self.calendar.put(until, Event::Links);
                }
                (State::Training { until }, true) if until <= self.now => self.link_up(index),
                (State::Training { .. } | State::Up, false) => self.link_down(index),
                _ => {}
            }
        }
        for nhi in 0..self.nhis.len() {
            self.tell_of_plugs(nhi);
        }
    }

    fn end_allows(&self, end: PortId) -> bool {
        let nhi = &self.nhis[end.nhi];
        nhi.memory.is_some() && nhi.adapters[end.adapter].link_allowed()
    }

    fn link_up(&mut self, index: usize) {
        self.cables[index].state = State::Up;
        self.route_epoch += 1;
        self.notice(What::LinkUp { cable: index });
        self.retry_stalled();
    }

    /// Takes a link down if it is not yet.
    pub(super) fn link_down(&mut self, index: usize) {
        let was = self.cables[index].state;
        self.cables[index].state = State::Down;
        if was != State::Up {
            return;
        }
        self.route_epoch += 1;
        self.cables[index].clear_lines();
        for end in self.cables[index].ends {
            for lane in [end.adapter, end.adapter + 1] {
                self.nhis[end.nhi].adapters[lane].on_link_down();
            }
        }
        self.notice(What::LinkDown { cable: index });
        // Frames that waited for the line or for the other end have nowhere to go now.
        self.retry_stalled();
        for end in self.cables[index].ends {
            for ring in 1..self.nhis[end.nhi].hops() {
                self.transmit(end.nhi, ring);
            }
        }
    }

    fn tell_of_plugs(&mut self, nhi: usize) {
        if !self.nhis[nhi].listens() {
            return;
        }
        for adapter in 1..self.nhis[nhi].adapters.len() {
            let Some(port) = self.nhis[nhi].port(adapter) else {
                continue;
            };
            let up = self.live_link_at(PortId { nhi, adapter }).is_some();
            if up == port.announced || !port.hotplug_allowed() {
                continue;
            }
            if up {
                let Some(since) = port.hotplug_since else { continue };
                let due = since.after_ns(FIRST_PLUG_NS);
                if self.now < due {
                    self.calendar.put(due, Event::Links);
                    continue;
                }
            }
            self.nhis[nhi].adapters[adapter].announced = up;
            self.notice(What::PlugEvent {
                nhi,
                adapter,
                plugged: up,
            });
            let word = adapter as u32 | u32::from(!up) << 31;
            self.send_control(
                nhi,
                Packet {
                    pdf: pdf::PLUG,
                    words: vec![TO_HOST, 0, word],
                },
            );
        }
    }

    /// A lane's width was asked for: both ends and both lanes must want two, and one must ask, to become one link.
    pub(super) fn evaluate_bonding(&mut self, nhi: usize, adapter: usize) {
        let port = PortId {
            nhi,
            adapter: first_lane(adapter),
        };
        let Some((cable, peer, _)) = self.live_link_at(port) else {
            return;
        };
        let lanes = [port, peer].map(|end| [(end.nhi, end.adapter), (end.nhi, end.adapter + 1)]);
        let lane = |(nhi, adapter): (usize, usize)| &self.nhis[nhi].adapters[adapter];
        let bonded = lane(lanes[0][0]).bonded;
        let all_dual = lanes.as_flattened().iter().all(|&at| lane(at).wants_dual());
        let asked = lane(lanes[0][0]).asks_to_bond() || lane(lanes[1][0]).asks_to_bond();
        let local_single = lanes[0].iter().all(|&at| lane(at).wants_single());
        if !bonded && all_dual && asked {
            for &(nhi, adapter) in lanes.as_flattened() {
                self.nhis[nhi].adapters[adapter].on_bonded();
            }
            self.notice(What::Bonded { cable, lanes: 2 });
        } else if bonded && local_single {
            for &(nhi, adapter) in lanes.as_flattened() {
                self.nhis[nhi].adapters[adapter].bonded = false;
            }
            self.notice(What::Bonded { cable, lanes: 1 });
        }
    }
}

/// The first lane of the port that a lane belongs to.
fn first_lane(adapter: usize) -> usize {
    if adapter % 2 == 0 {
        adapter.saturating_sub(1)
    } else {
        adapter
    }
}
