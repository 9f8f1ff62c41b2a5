// SPDX-License-Identifier: GPL-2.0 OR MIT
//! All links: which cable is whose, from its first service to the end of the XDomain. What the bus tells comes here.

use crate::{
    kapi::{
        service::{CableDriver, ServiceKind},
        xdomain::Xdomain,
    },
    link::Link,
};
use core::{
    mem,
    sync::atomic::{AtomicU64, Ordering},
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{Arc, Mutex},
};
use tbip::{native::Features, wire::Message};

/// The links of this host.
#[pin_data]
pub(crate) struct Links {
    #[pin]
    list: Mutex<KVec<Arc<Link>>>,
    /// Whether end-to-end flow control is offered.
    offers: Features,
    /// Messages that were of no cable of ours.
    strays: Arc<AtomicU64>,
}

impl Links {
    /// No links yet. `offers`: what is offered to every native peer.
    pub(crate) fn new(offers: Features) -> Result<Arc<Self>> {
        let strays = Arc::new(AtomicU64::new(0), GFP_KERNEL)?;
        Arc::pin_init(
            pin_init!(Self {
                list <- new_mutex!(KVec::new(), "usb4_links"),
                offers,
                strays,
            }),
            GFP_KERNEL,
        )
    }

    /// Every link ends. Nothing of the bus comes in any more.
    pub(crate) fn end(&self) {
        self.gone(|_| true);
        drop(mem::take(&mut *self.list.lock()));
    }

    fn find(&self, is: impl Fn(&Link) -> bool) -> Option<Arc<Link>> {
        self.list.lock().iter().find(|link| is(link)).cloned()
    }

    fn of(&self, xd: &Xdomain) -> Option<Arc<Link>> {
        self.find(|link| link.xdomain() == xd)
    }

    /// The one link of a cable: `link`, or the one that another service's probe has put on the list meanwhile.
    fn share(&self, link: Arc<Link>) -> Result<Arc<Link>> {
        let mut list = self.list.lock();
        match list.iter().find(|other| other.xdomain() == link.xdomain()) {
            Some(other) => Ok(other.clone()),
            None => {
                list.push(link.clone(), GFP_KERNEL)?;
                Ok(link)
            }
        }
    }
}

impl CableDriver for Links {
    fn bind(&self, xd: Xdomain, kind: ServiceKind) -> Result {
        let link = match self.of(&xd) {
            Some(link) => link,
            None => self.share(Link::new(xd, self.offers, self.strays.clone())?)?,
        };
        link.offer(kind);
        Ok(())
    }

    fn unbind(&self, xd: &Xdomain, kind: ServiceKind) {
        if let Some(link) = self.of(xd) {
            link.withdraw(kind);
        }
    }

    fn suspend(&self, xd: &Xdomain) {
        if let Some(link) = self.of(xd) {
            link.suspend();
        }
    }

    fn resume(&self, xd: &Xdomain) {
        if let Some(link) = self.of(xd) {
            link.resume();
        }
    }

    fn gone(&self, is_on: impl Fn(&Xdomain) -> bool) {
        while let Some(link) = self.find(|link| is_on(link.xdomain())) {
            // On the list until it has ended: answers to its goodbye are heard, and who comes meanwhile waits as well.
            link.end();
            let listed = {
                let mut list = self.list.lock();
                let at = list.iter().position(|other| Arc::ptr_eq(other, &link));
                at.and_then(|at| {
                    let last = list.len() - 1;
                    list.swap(at, last);
                    list.pop()
                })
            };
            drop(listed);
        }
    }

    fn hear(&self, message: &[u8]) {
        let link = Message::parse(message)
            .ok()
            .and_then(|parsed| self.find(|link| link.ends().received(parsed.header())));
        match link {
            Some(link) => link.deliver(message),
            None => {
                self.strays.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}
