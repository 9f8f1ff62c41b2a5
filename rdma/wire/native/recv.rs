// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The way in: from a train that the cable's lane has brought to the engine of its QP.

use crate::{device::Device, kapi::share::KERNEL, payload::Payload, qp::Qp};
use kernel::sync::Arc;
use roce::{
    lost::{Sent, What},
    wire::Packet,
};
use tbnet::{Client, Train};

impl Client for Device {
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

    fn on_room(&self) {
        self.wake_waiting();
    }
}
