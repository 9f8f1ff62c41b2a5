// SPDX-License-Identifier: GPL-2.0 OR MIT
//! usb4_rdma: an RDMA device in software over any Ethernet netdev.
//!
//! `rdma link add NAME type usb4 netdev DEV` makes a device that speaks RoCEv2 and rxe's user ABI. The transport is
//! the pure crate `roce`; the files here perform what it decides. A noun of the engine and its performer share their
//! name: `rdma/engine/qp.rs` decides, `rdma/qp.rs` performs.
//!
//! ```text
//!   system call ---> ops ---> qp ---> roce::qp ---> wire::udp::send ---> netdev, or wire::native ---> cable's lane
//!   netdev hook ---> wire::udp::recv ---> qp ---> roce::qp ---> memory (placement), cq
//!   lane's poll ---> wire::native::recv, likewise
//!   hrtimer -------> qp ---> roce::qp, then as a system call
//! ```
//!
//! All `unsafe` is in two places: `kapi/`, which wraps the kernel and names nothing of the driver, and `ops/`, where
//! the core's calls arrive as raw pointers and leave as calls of the safe files.
//!
//! Locks, outermost first: the device list (mutex), a QP's state, then one of the leaves: a CQ's state, a table's
//! slots, the device's netdev, a timer's state. docs/locking.md has them all.

use kernel::prelude::*;
use tbnet::kapi::kernels::plain;

mod kapi;

mod ah;
mod attr;
mod backing;
mod caps;
mod context;
mod counters;
mod cq;
mod device;
mod early;
mod fast;
mod graves;
mod host;
mod link;
mod mcast;
mod memory;
mod mr;
mod needs;
mod ops;
mod paging;
mod payload;
mod ports;
mod post;
mod qp;
mod srq;
mod table;
mod waiting;
mod watch;
mod window;
mod wire;
mod wq;

module! {
    type: Usb4Rdma,
    name: "usb4_rdma",
    authors: ["usb4-rdma developers"],
    description: "RDMA over USB4 and any Ethernet netdev (RoCEv2)",
    license: "Dual MIT/GPL",
    params: {
        e2e: u8 {
            default: 1,
            description: "end-to-end flow control on the cables: 0 never, 1 not on AMD hosts (default), 2 always",
        },
        trains: u8 {
            default: 1,
            description: "RDMA between two hosts of ours past the network stack: 0 no, 1 yes (default)",
        },
        lanes: u8 {
            default: 1,
            description: "RDMA by both rings that a cable may have: 0 no, 1 yes (default)",
        },
        direct: u8 {
            default: 0,
            description: "large WRITEs straight into the peer's memory by the second ring, without a copy: 0 no (default), 1 yes",
        },
    },
}

struct Usb4Rdma {
    _presence: link::Presence,
    // After the RDMA devices: they are on its netdevs.
    _net: Option<tbnet::Net>,
}

impl kernel::Module for Usb4Rdma {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        Ok(Self {
            _presence: link::Presence::new()?,
            _net: tbnet::Net::start(tbnet::Offers {
                e2e: plain(module_parameters::e2e.value()),
                trains: plain(module_parameters::trains.value()) != 0,
                lanes: plain(module_parameters::lanes.value()) != 0,
                direct: plain(module_parameters::direct.value()) != 0,
            })?,
        })
    }
}
