// SPDX-License-Identifier: GPL-2.0 OR MIT
//! RDMA netlink (netlink family 20, client `NLDEV`): what iproute2's `rdma` speaks with the kernel.
//!
//! A [`Connection`] asks and gives typed answers. What it asks with is a [`Message`]: an operation of
//! `enum rdma_nldev_command` and attributes of `enum rdma_nldev_attr`, both of `rdma/rdma_netlink.h`. The message
//! types work without a socket, so that they can be tested against recorded bytes.
//!
//! ```no_run
//! let mut rdma = nldev::Connection::open()?;
//! for device in rdma.devices()? {
//!     for port in rdma.ports(&device)? {
//!         println!("{} {:?} over {:?}", device.name, port.state, port.netdev);
//!     }
//! }
//! rdma.add_link("usb4r0", "usb4", "usb4net0")?;
//! # Ok::<(), nldev::Error>(())
//! ```
//!
//! | request | needs privilege | method |
//! |---|---|---|
//! | GET | no | [`Connection::devices`] |
//! | PORT_GET | no | [`Connection::ports`] |
//! | NEWLINK, DELLINK | CAP_NET_ADMIN | [`Connection::add_link`], [`Connection::delete_link`] |
//! | STAT_GET | no | [`Connection::statistics`] |
//! | RES_GET | no | [`Connection::resources`] |
//! | RES_QP_GET | for the driver's own attributes | [`Connection::queue_pairs`] |
//! | SYS_GET | no | [`Connection::system`] |

#![forbid(unsafe_code)]

mod answers;
mod connection;
mod message;

pub use answers::{Device, NetnsMode, Port, PortState, QueuePair, System};
pub use connection::{Connection, Error};
pub use message::{attribute, operation, Attributes, Message};
