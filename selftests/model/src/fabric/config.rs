// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The control channel: configuration requests answered, XDomain packets forwarded, everything else ignored.

use crate::adapter::Kind;
use crate::cable::PortId;
use crate::control::{error, pdf, Address, Packet, Space, MAX_WORDS, TO_HOST};
use crate::fabric::Fabric;
use crate::memory::Memory;
use crate::notice::What;
use crate::ring::{completed_rx, TxRing};

/// Longest control frame: the raw ring's buffers.
const CONTROL_FRAME_LEN: usize = 256;

impl<M: Memory> Fabric<M> {
    /// Takes the packets a guest put on Tx ring 0.
    pub(super) fn receive_control(&mut self, nhi: usize) {
        let mut packets = Vec::new();
        let mut done = false;
        while self.nhis[nhi].tx[0].ring.posted() > 0 {
            let state = &self.nhis[nhi];
            let Some(memory) = &state.memory else { return };
            let ring = &state.tx[0].ring;
            let index = ring.hw;
            let descriptor = match ring.fetch(memory, index) {
                Ok(descriptor) => descriptor,
                Err(bad) => return self.bad_dma(nhi, bad.0),
            };
            let mut bytes = [0; CONTROL_FRAME_LEN];
            let parsed = match bytes.get_mut(..descriptor.length()) {
                None => Err("too long"),
                Some(bytes) => match memory.read(descriptor.address, bytes) {
                    Err(_) => Err("not in memory"),
                    Ok(()) => Packet::parse(descriptor.end_marker(), bytes).map_err(|_| "bad length or checksum"),
                },
            };
            // The descriptor could be read a moment ago; if it cannot be written, the packet counts as sent all the
            // same.
            let _ = ring.complete(memory, index, TxRing::completed(descriptor.word));
            let ring = &mut self.nhis[nhi].tx[0].ring;
            ring.hw = ring.next(index);
            ring.counters.frames += 1;
            ring.counters.bytes += descriptor.length() as u64;
            done = true;
            match parsed {
                Ok(packet) => packets.push(packet),
                Err(why) => self.notice(What::BadControl { nhi, why }),
            }
        }
        if done {
            self.raise(nhi, true, 0);
        }
        for packet in packets {
            self.handle_control(nhi, &packet);
        }
    }

    /// Sends a packet to a guest, now or when it has posted a buffer.
    pub(super) fn send_control(&mut self, nhi: usize, packet: Packet) {
        self.nhis[nhi].queue(packet);
        self.flush_control(nhi);
    }

    /// Moves waiting packets into posted buffers of Rx ring 0.
    pub(super) fn flush_control(&mut self, nhi: usize) {
        let mut done = false;
        while self.nhis[nhi].rx[0].ring.posted() > 0 {
            let state = &mut self.nhis[nhi];
            let Some(memory) = &state.memory else { return };
            let Some(packet) = state.backlog.pop_front() else { break };
            let ring = &mut state.rx[0].ring;
            let bytes = packet.to_bytes();
            let index = ring.hw;
            // Raw frames: the PDF is the end marker, the start marker must be 0.
            let word = completed_rx(bytes.len(), 0, packet.pdf, 0);
            let sent = ring.fetch(memory, index).and_then(|descriptor| {
                memory.write(descriptor.address, &bytes)?;
                ring.complete(memory, index, word)
            });
            ring.hw = ring.next(index);
            ring.counters.frames += 1;
            ring.counters.bytes += bytes.len() as u64;
            done = true;
            if let Err(bad) = sent {
                self.bad_dma(nhi, bad.0);
            }
        }
        if done {
            self.raise(nhi, false, 0);
        }
    }

    fn handle_control(&mut self, nhi: usize, packet: &Packet) {
        self.nhis[nhi].counters.control_packets += 1;
        match packet.pdf {
            pdf::READ | pdf::WRITE => self.handle_config(nhi, packet),
            pdf::XDOMAIN_REQUEST | pdf::XDOMAIN_RESPONSE => self.forward(nhi, packet),
            pdf::RESET => {
                let words = vec![TO_HOST, packet.words[1]];
                self.send_control(nhi, Packet { pdf: pdf::RESET, words });
            }
            // Acknowledgements of plug events: they are sent once and need none.
            pdf::NOTIFY | pdf::ACK => {}
            _ => self.notice(What::BadControl {
                nhi,
                why: "unknown kind",
            }),
        }
    }

    fn reply_error(&mut self, nhi: usize, route_low: u32, adapter: usize, code: u32) {
        let word = code | (adapter as u32 & 0x3f) << 8;
        self.send_control(
            nhi,
            Packet {
                pdf: pdf::NOTIFY,
                words: vec![TO_HOST, route_low, word],
            },
        );
    }

    fn handle_config(&mut self, nhi: usize, packet: &Packet) {
        let Some(&address) = packet.words.get(2) else {
            return self.notice(What::BadControl {
                nhi,
                why: "request without address",
            });
        };
        if packet.route() != 0 {
            return self.refuse_foreign(nhi, packet);
        }
        let address = Address(address);
        let (space, adapter) = (address.space(), address.adapter());
        if space != Space::Router && adapter >= self.nhis[nhi].adapters.len() {
            return self.reply_error(nhi, 0, adapter, error::NO_SUCH_ADAPTER);
        }
        // The driver checks that answers from the router's own space name the upstream adapter.
        let answered = match space {
            Space::Router => address.with_adapter(self.nhis[nhi].nhi_adapter()),
            _ => address,
        };
        let mut words = vec![TO_HOST, 0, answered.0];
        let range = address.offset()..address.offset() + address.length();
        let done = if packet.pdf == pdf::READ {
            let mut data = range
                .map_while(|offset| self.read_config(nhi, space, adapter, offset))
                .collect::<Vec<_>>();
            words.append(&mut data);
            words.len() == 3 + address.length() && words.len() <= MAX_WORDS
        } else {
            let data = packet.words.get(3..).unwrap_or(&[]);
            data.len() >= address.length()
                && range
                    .zip(data)
                    .all(|(offset, &value)| self.write_config(nhi, space, adapter, offset, value))
        };
        if !done {
            return self.reply_error(nhi, 0, adapter, error::BAD_SPACE);
        }
        self.send_control(nhi, Packet { pdf: packet.pdf, words });
        if packet.pdf == pdf::WRITE {
            self.evaluate_links();
        }
    }

    /// A request to something behind a port. There are host routers only, so another domain is there or nothing.
    fn refuse_foreign(&mut self, nhi: usize, packet: &Packet) {
        let adapter = (packet.route() & 0x3f) as usize;
        let (route_low, code) = match self.nhis[nhi].port(adapter) {
            None => (0, error::NO_SUCH_ADAPTER),
            Some(_) if self.live_link_at(PortId { nhi, adapter }).is_none() => (packet.words[1], error::NOT_CONNECTED),
            Some(_) => (packet.words[1], error::FOREIGN_DOMAIN),
        };
        self.reply_error(nhi, route_low, adapter, code);
    }

    fn read_config(&self, nhi: usize, space: Space, adapter: usize, offset: usize) -> Option<u32> {
        let state = &self.nhis[nhi];
        match space {
            Space::Router => state.router.read(offset),
            Space::Adapter if state.adapters[adapter].is_lane_status(offset) => Some(self.lane_status(nhi, adapter)),
            Space::Adapter => state.adapters[adapter].read(offset),
            Space::Path => state.adapters[adapter].read_path(offset),
            // Path counters are not modelled.
            Space::Counters => Some(0),
        }
    }

    fn write_config(&mut self, nhi: usize, space: Space, adapter: usize, offset: usize, value: u32) -> bool {
        let now = self.now;
        let state = &mut self.nhis[nhi];
        match space {
            Space::Router => state.router.write(offset, value),
            Space::Adapter => {
                let known = state.adapters[adapter].write(now, offset, value);
                if state.adapters[adapter].is_lane_status(offset) {
                    self.evaluate_bonding(nhi, adapter);
                }
                known
            }
            Space::Path => {
                let Some(entry) = state.adapters[adapter].write_path(offset, value) else {
                    return false;
                };
                self.route_epoch += 1;
                if offset % 2 == 1 {
                    self.notice(What::PathSet {
                        nhi,
                        adapter,
                        hop: offset / 2,
                        words: entry.0,
                    });
                    self.retry_stalled();
                }
                true
            }
            Space::Counters => true,
        }
    }

    /// Sends an XDomain packet on to the peer. On a dead link it is refused, for a silent loss costs the sender
    /// seconds.
    fn forward(&mut self, nhi: usize, packet: &Packet) {
        let adapter = (packet.route() & 0x3f) as usize;
        if let Some((_, peer, _)) = self.live_link_at(PortId { nhi, adapter }) {
            let mut words = packet.words.clone();
            words[0] = TO_HOST;
            words[1] = peer.adapter as u32;
            self.send_control(peer.nhi, Packet { pdf: packet.pdf, words });
        } else if self.nhis[nhi]
            .adapters
            .get(adapter)
            .is_some_and(|lane| lane.kind() == Kind::Lane0)
        {
            self.reply_error(nhi, packet.words[1], adapter, error::NOT_CONNECTED);
        }
    }
}
