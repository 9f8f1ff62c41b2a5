// SPDX-License-Identifier: GPL-2.0 OR MIT
//! tbnet: the Ethernet device on the rings of USB4 cables.
//!
//! Binds the cable's services in place of `thunderbolt_net` and makes a netdev for each place that had a cable. With a
//! peer that runs this module it speaks its own wire, with any other ThunderboltIP. What is said and when decides the
//! pure crate `tbip`; the files here perform.
//!
//! ```text
//!   bus, control channel --> links --> link --> session --> tbip::{login, rail}
//!                              |         |         |--> rail --> kapi::{ring, xdomain}
//!                              |         v
//!                            jacks --> jack --> tbip::jack
//!                                        |
//!   stack <--> netif --> lane --> tx, rx <--> kapi::ring
//! ```
//!
//! All `unsafe` is in `kapi/`.

use kernel::{prelude::*, sync::Arc};

pub mod kapi;

mod client;
mod counters;
mod direct;
mod inbox;
mod jack;
mod jacks;
mod lane;
mod link;
mod links;
mod netif;
mod port;
mod rail;
mod requested;
mod rescan;
mod rings;
mod rx;
mod session;
mod tx;
mod upper;

pub use client::{Client, Held, NotSent, Outbound, Post, Train, WindowOut};
pub use kapi::pages::Piece;
pub use netif::Netif;
pub use port::Port;
pub use tbip::{
    direct::{Fate, Told},
    fifo::Fifo,
    frame::Roce,
    span,
};

use links::Links;
use tbip::stock::Settings;

/// Prefix of messages in the kernel's log.
const __LOG_PREFIX: &[u8] = b"usb4_rdma\0";

/// What we offer a peer of ours.
pub struct Offers {
    /// End-to-end flow control: 0 never, 1 unless a host interface is AMD's, on which a sender may stop for good, 2
    /// always.
    pub e2e: u8,
    /// Runs of queue pairs go past the stack.
    pub trains: bool,
    /// They go by a second lane of the cable too.
    pub lanes: bool,
    /// Their payload goes by windows, for which the second lane is then.
    pub direct: bool,
}

/// Our presence on the cables. Dropping it gives every cable back, and sleeps.
pub struct Net {
    // In the order of their end; see `drop`.
    presence: Option<kapi::service::Presence<Links>>,
    handlers: Option<kapi::service::Handlers<Links>>,
    links: Arc<Links>,
    _queue: kapi::work::Queue,
}

impl Net {
    /// Takes the cables. `None` if another driver has them: then the module goes on without, and nothing of ours shows
    /// on any cable.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn start(offers: Offers) -> Result<Option<Self>> {
        let queue = kapi::work::Queue::new()?;
        let e2e = match offers.e2e {
            0 => false,
            1 => !kapi::service::is_amd_host(),
            _ => true,
        };
        let offers = rail::offered(e2e, &offers);
        let links = Links::new(offers)?;
        let presence = match kapi::service::Presence::new(links.clone(), Settings::ours(e2e), offers) {
            Ok(presence) => presence,
            Err(EEXIST) => {
                pr_info!(
                    "another driver (thunderbolt_net) has the USB4 cables; RDMA works over its devices. To give the \
                     cables to usb4_rdma: rmmod thunderbolt_net, reload usb4_rdma, install \
                     net/modprobe.d/usb4-rdma.conf\n"
                );
                return Ok(None);
            }
            Err(err) => {
                // Services may have been bound before it failed.
                links.end();
                if err == ENOMEM {
                    return Err(err);
                }
                pr_warn!("no USB4 cables: {:?}; RDMA works over other devices\n", err);
                return Ok(None);
            }
        };
        let mut net = Self {
            presence: Some(presence),
            handlers: None,
            links,
            _queue: queue,
        };
        if let Some(presence) = &net.presence {
            net.handlers = Some(kapi::service::Handlers::new(presence)?);
        }
        Ok(Some(net))
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if let Some(presence) = &self.presence {
            presence.unbind();
        }
        // Goodbyes are said and heard here.
        self.links.end();
        self.presence = None;
        self.handlers = None;
    }
}
