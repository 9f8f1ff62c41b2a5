// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A link: a cable with a peer, from its first service to the end of the XDomain.
//!
//! ```text
//!   bus (probe, remove, suspend, ...)  --request-->  Requests --+
//!   Jack (open, stop, ...)             --want, wait-->  |       +--worker--> Session --> Rig, Lane
//!   control channel                    --message-->  Inbox    --+
//! ```
//!
//! Nobody but the worker acts. Others request, and wait until the request has become actual where they must. The netdev
//! is the jack's, which outlives the cable; the link uses its lane.
//!
//! On unplug the bus removes the services, then the XDomain ([`Link::end`]): the worker closes what is open, and the
//! netdev stays without carrier, until the next cable is plugged in at the same place.
//!
//! Nothing on the bus waits for RTNL under a lock that the worker may want: netdevs are made by the worker.

use crate::{
    counters::CableCounters,
    inbox::Inbox,
    jack::{Jack, Plugged},
    kapi::{
        service::ServiceKind,
        timer::sleep_ms,
        work::{Worker, Works},
        xdomain::Xdomain,
    },
    netif::Netif,
    requested::{Requested, Requests, Wanted},
    rescan::Rescan,
    rings::Kick,
    session::{now, Port, Session},
};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{Arc, ArcBorrow, Mutex},
};
use tbip::{native::Features, time::Instant, wire::Ends};

/// Longest wait for the end of a goodbye.
const GOODBYE_MS: u32 = 400;

/// A cable with a peer.
#[pin_data]
pub(crate) struct Link {
    xd: Xdomain,
    ends: Ends,
    offers: Features,
    jack: Arc<Jack>,
    #[pin]
    requests: Requests,
    #[pin]
    inbox: Inbox,
    #[pin]
    session: Mutex<Session>,
    /// The XDomain goes, or we do: [`Link::end`] is to be called.
    leaving: AtomicBool,
    #[pin]
    rescan: Rescan,
    #[pin]
    worker: Worker<Link>,
    send_errors: AtomicU64,
}

impl Link {
    /// The link of the cable to `xd`, which is plugged into `jack`. `offers`: what is offered to a native peer.
    pub(crate) fn new(xd: Xdomain, ends: Ends, offers: Features, jack: Arc<Jack>) -> Result<Arc<Self>> {
        let wanted = jack.wanted();
        let inbox = Inbox::new()?;
        let session = Session::new()?;
        let link = Arc::pin_init(
            pin_init!(Self {
                xd,
                ends,
                offers,
                jack,
                requests <- Requests::new(wanted),
                inbox <- inbox,
                session <- new_mutex!(session, "usb4_link_session"),
                leaving: AtomicBool::new(false),
                rescan <- Rescan::new(),
                worker <- Worker::new(),
                send_errors: AtomicU64::new(0),
            }),
            GFP_KERNEL,
        )?;
        link.worker.own(&link);
        link.rescan.settle();
        Ok(link)
    }

    pub(crate) fn xdomain(&self) -> &Xdomain {
        &self.xd
    }

    pub(crate) fn ends(&self) -> &Ends {
        &self.ends
    }

    /// Requests something of the worker. Returns the request's number. Any context.
    fn request(&self, change: impl FnOnce(&mut Requested)) -> u64 {
        let generation = self.requests.change(change);
        self.worker.kick();
        generation
    }

    // The bus. ------------------------------------------------------------------------------------------------------

    /// The peer offers a service.
    pub(crate) fn offer(&self, kind: ServiceKind) {
        self.request(|requested| match kind {
            ServiceKind::Stock(settings) => requested.stock = Some(settings),
            ServiceKind::Native => requested.native = true,
        });
    }

    /// The peer's service is no more.
    pub(crate) fn withdraw(&self, kind: ServiceKind) {
        self.request(|requested| match kind {
            ServiceKind::Stock(_) => requested.stock = None,
            ServiceKind::Native => requested.native = false,
        });
    }

    /// Nothing is on the cable from the return on. Sleeps.
    pub(crate) fn suspend(&self) {
        if let Some(netif) = self.jack.netif() {
            netif.suspend();
        }
        let generation = self.request(|requested| requested.suspended = true);
        self.requests.wait_closed(generation);
        self.wait_silent(generation);
    }

    /// Undoes [`Link::suspend`].
    pub(crate) fn resume(&self) {
        self.request(|requested| requested.suspended = false);
        if let Some(netif) = self.jack.netif() {
            netif.resume();
        }
    }

    /// A control message of the peer has come.
    pub(crate) fn deliver(&self, bytes: &[u8]) {
        self.inbox.put(bytes);
        self.worker.kick();
    }

    /// The link is to end.
    pub(crate) fn set_leaving(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether the link is to end.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// The end: rings, goodbye, worker; the jack is free for another cable. Once, by the worker of [`crate::links`].
    pub(crate) fn end(&self) {
        let generation = self.request(|requested| requested.dying = true);
        self.requests.wait_closed(generation);
        self.wait_silent(generation);
        self.jack.leave();
        // Who asked for something before that waits for the answer.
        self.worker.flush();
        self.worker.close();
        self.rescan.close();
        self.jack.unplug();
    }

    fn name(&self) -> &str {
        self.xd.name().to_str().unwrap_or("?")
    }

    /// Waits for the end of the goodbye, but not for a peer that does not answer.
    fn wait_silent(&self, generation: u64) {
        for _ in 0..GOODBYE_MS / 2 {
            if self.requests.is_silent(generation) || self.xd.is_dead() {
                return;
            }
            sleep_ms(2);
        }
    }
}

impl Plugged for Link {
    fn want(&self, wanted: Wanted) -> u64 {
        self.request(|requested| requested.want(wanted))
    }

    fn wait_closed(&self, generation: u64) {
        self.requests.wait_closed(generation);
    }

    fn fault(&self) {
        self.request(|requested| {
            requested.fault = true;
            // A stock link knows no epochs; it logs out and in.
            requested.restart |= !requested.native;
        });
    }

    fn speed_mbps(&self) -> u32 {
        self.xd.lane_gbps() * 1_000 * self.xd.width()
    }

    fn width(&self) -> u32 {
        self.xd.width()
    }

    fn counters(&self) -> CableCounters {
        CableCounters {
            stranded: self.rescan.stranded(),
            messages_dropped: self.inbox.dropped(),
            send_errors: self.send_errors.load(Ordering::Relaxed),
            ..CableCounters::default()
        }
    }
}

impl Kick for Link {
    fn kick(&self) {
        self.worker.kick();
    }
}

impl Works for Link {
    fn on_work(this: ArcBorrow<'_, Self>) {
        let link = &*this;
        let mut session = link.session.lock();
        let requested = link.requests.take();
        let may_have_netif = !requested.dying && requested.kind().is_some();
        let netif = if may_have_netif {
            Jack::ensure(&link.jack, &link.xd)
        } else {
            link.jack.netif()
        };
        let port = Port {
            name: link.name(),
            xd: &link.xd,
            ends: &link.ends,
            offers: link.offers,
            inbox: &link.inbox,
            rescan: &link.rescan,
            lanes: netif.as_deref().map(Netif::rail),
            send_errors: &link.send_errors,
            kick: Arc::<Self>::from(this),
        };
        let mut due = session.run(&port, &requested);
        if !requested.dying {
            due = [due, link.jack.retry_at().map(Instant)].into_iter().flatten().min();
        }
        link.requests
            .report(&requested, session.is_closed(), session.is_silent());
        let more = !link.inbox.is_empty();
        if let Some(due) = due {
            link.worker.after(due.since(now()).0);
        }
        if more {
            link.worker.kick();
        }
    }
}
