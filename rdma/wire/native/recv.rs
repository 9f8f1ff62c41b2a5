// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The way in: from a train that the cable's lane has brought to the engine of its QP.

use crate::{device::Device, kapi::share::KERNEL, payload::Payload, qp::Qp};
use kernel::{prelude::*, sync::Arc};
use roce::{
    lanes::{Lane, Used},
    lost::{Sent, What},
    wire::Packet,
};
use tbnet::{Client, Held, Port, Post, Told, Train};

impl Device {
    /// What a train that asks for a window is, and whose.
    fn addressed(&self, train: &Arc<Train>) -> Option<(Packet, Arc<Qp>)> {
        let packet = Packet::parse(train.front(), train.byte_len()).ok()?;
        let qp = self.qps.find(packet.bth.dest.value())?;
        (packet.bth.run && qp.is_connected()).then_some((packet, qp))
    }
}

impl Client for Device {
    fn is_there(&self, mac: [u8; 6], since: u64) -> bool {
        let lanes = self.ports.get();
        let Some(lanes) = lanes.as_ref().and_then(|lanes| lanes.enter()) else {
            return false;
        };
        let ports = || lanes.iter().filter(|port| port.reaches(mac));
        let lane = |port: &Port| Lane {
            is_first: port.is_first(),
            leads: true,
            answers: true,
        };
        // The other ring of the same cable carries as much or as little.
        if Used::of(ports().map(lane)).several.is_none() {
            return false;
        }
        let is_there = ports().any(|port| port.has_answered(since));
        if !is_there {
            ports().for_each(Port::ask);
        }
        is_there
    }

    fn sent(&self) -> u64 {
        self.ports.sent()
    }

    fn on_train(&self, train: &Arc<Train>) {
        let Ok(packet) = Packet::parse(train.front(), train.byte_len()) else {
            return;
        };
        if !packet.bth.run {
            return;
        }
        let number = packet.bth.dest.value();
        let qp = self.qps.find(number);
        let owner = qp.as_ref().map_or(&KERNEL, |qp| qp.owner());
        owner.charge(|| match &qp {
            Some(qp) if qp.is_connected() => {
                Qp::receive(qp, &packet, &Payload::of_train(train));
            }
            Some(_) => {}
            None => {
                if let Some(netdev) = self.netdev() {
                    let payload = Payload::of_train(train);
                    self.graves.receive(&packet, &netdev, |wire| wire.brought(&payload));
                }
            }
        });
    }

    fn on_lost(&self, token: u64) {
        let lost = Sent::of_token(token);
        match (self.qps.find(lost.from.value()), self.netdev()) {
            (Some(qp), _) => qp.owner().charge(|| Qp::on_lost(&qp, lost)),
            (None, Some(netdev)) if lost.what == What::Answer => self.graves.repeat(lost.from.value(), &netdev),
            _ => {}
        }
    }

    fn on_ask(&self, train: &Arc<Train>, post: &mut Post<'_>) {
        if let Some((packet, qp)) = self.addressed(train) {
            qp.owner().charge(|| Qp::on_ask(&qp, &packet, train, post));
        }
    }

    fn on_window(&self, train: &Arc<Train>, held: KBox<dyn Held>, whole: bool) -> bool {
        let done = self.addressed(train).is_some_and(|(packet, qp)| {
            let payload = Payload::of_train(train);
            qp.owner().charge(|| Qp::on_window(&qp, &packet, &payload, whole))
        });
        // Only now may the memory go.
        drop(held);
        done
    }

    fn on_told(&self, told: Told<u64>) {
        let sent = Sent::of_token(told.token);
        if let Some(qp) = self.qps.find(sent.from.value()) {
            qp.owner().charge(|| Qp::on_told(&qp, sent, told.fate));
        }
    }

    fn on_room(&self) {
        self.wake_waiting();
    }
}
