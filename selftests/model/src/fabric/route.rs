// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Where frames go, and whether they may: paths, end-to-end flow control, the receiver's room.

use crate::cable::PortId;
use crate::fabric::Fabric;
use crate::memory::Memory;
use crate::regs::paired_hop;
use crate::ring::Route;

/// Most routers a path crosses.
const PATH_LENGTH: usize = 16;

/// May the next frame of a ring go?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiver {
    Ready,
    /// Wait for a descriptor, or for end-to-end credit.
    Busy,
    /// There is nobody: the frame is lost.
    Nobody,
}

impl<M: Memory> Fabric<M> {
    /// Where a Tx ring's frames end, remembered until a path or link changes.
    pub(super) fn route(&mut self, nhi: usize, ring: usize) -> Option<Route> {
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

    /// End-to-end flow control lets a ring send only if the credits of its receiver find their way back to it: the Rx
    /// ring and the ring's own Rx counterpart both have it on and name each other's Tx hops.
    pub(super) fn e2e_open(&self, nhi: usize, ring: usize, route: Route) -> bool {
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

    pub(super) fn receiver(&self, nhi: usize, ring: usize, route: Route, open: bool) -> Receiver {
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
}
