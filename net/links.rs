// SPDX-License-Identifier: GPL-2.0 OR MIT
//! All links: which cable is whose, from its first service to the end of the XDomain. What the bus tells comes here.
//!
//! The bus tells of an XDomain's end with the lock of its notifiers held for reading, and a link's end waits for the
//! link's worker, which takes the domain's lock for its paths. The core removes a domain with that lock held and reads
//! the notifiers under it. Two readers stop each other only if a writer comes between them, and the only writer is this
//! module: it registers before the first link and takes the registration back after the last. Lockdep cannot know that,
//! so who waits under the notifiers' lock waits for [`Links::left`], and the worker [`Links::ender`], which holds
//! nothing, ends the links. An ended link goes by yet another worker, [`Ended`]: its drop waits for 0.1 s until the
//! core reads its last messages no more ([`crate::kapi::outbox`]), and the bus waits for whoever of another cable's
//! ends next.

use crate::{
    jacks::Jacks,
    kapi::{
        service::{CableDriver, ServiceKind},
        work::{Worker, Works},
        xdomain::{Leaving, Xdomain},
    },
    link::Link,
};
use core::mem;
use kernel::{
    new_condvar, new_mutex,
    prelude::*,
    sync::{Arc, ArcBorrow, CondVar, Mutex},
};
use tbip::{
    native::Features,
    wire::{Mac, Message},
};

/// The links of this host.
#[pin_data]
pub(crate) struct Links {
    #[pin]
    list: Mutex<KVec<Arc<Link>>>,
    /// A link has ended and is no longer on the list.
    #[pin]
    left: CondVar,
    /// Ends the links that leave.
    #[pin]
    ender: Worker<Links>,
    /// Links that have ended.
    ended: Arc<Ended>,
    /// Whether end-to-end flow control is offered.
    offers: Features,
    /// Where the cables are plugged in.
    jacks: Arc<Jacks>,
}

impl Links {
    /// No links yet. `offers`: what is offered to every native peer.
    pub(crate) fn new(offers: Features) -> Result<Arc<Self>> {
        let jacks = Jacks::new()?;
        let ended = Ended::new()?;
        let links = Arc::pin_init(
            pin_init!(Self {
                list <- new_mutex!(KVec::new(), "usb4_links"),
                left <- new_condvar!("usb4_links_left"),
                ender <- Worker::new_waiting(),
                ended,
                offers,
                jacks,
            }),
            GFP_KERNEL,
        )?;
        links.ender.own(&links);
        Ok(links)
    }

    /// Every link ends, then every jack. Nothing of the bus comes in any more.
    pub(crate) fn end(&self) {
        self.end_links(|_| true);
        self.ender.close();
        self.ended.end();
        self.jacks.end();
        drop(mem::take(&mut *self.list.lock()));
    }

    fn find(&self, is: impl Fn(&Link) -> bool) -> Option<Arc<Link>> {
        self.list.lock().iter().find(|link| is(link)).cloned()
    }

    fn of(&self, xd: &Xdomain) -> Option<Arc<Link>> {
        self.find(|link| link.xdomain() == xd)
    }

    /// The one link of a cable; made for the first of its services.
    fn share(&self, xd: Xdomain) -> Result<Arc<Link>> {
        let mut list = self.list.lock();
        if let Some(link) = list.iter().find(|link| link.xdomain() == &xd) {
            return Ok(link.clone());
        }
        let ends = xd.ends().ok_or(ENODEV)?;
        list.reserve(1, GFP_KERNEL)?;
        let jack = Jacks::plug(&self.jacks, &xd, Mac::of(&ends).0)?;
        let link = Link::new(xd, ends, self.offers, jack.clone()).inspect_err(|_| jack.unplug())?;
        list.push(link.clone(), GFP_KERNEL)?;
        jack.join(link.clone());
        Ok(link)
    }

    /// The links of the cables that `is_on` says yes to have ended at the return. Sleeps.
    fn end_links(&self, is_on: impl Fn(&Xdomain) -> bool) {
        let mut list = self.list.lock();
        loop {
            let mut any = false;
            for link in list.iter().filter(|link| is_on(link.xdomain())) {
                link.set_leaving();
                any = true;
            }
            if !any {
                return;
            }
            self.ender.kick();
            self.left.wait(&mut list);
        }
    }
}

impl Works for Links {
    fn on_work(this: ArcBorrow<'_, Self>) {
        let links = &*this;
        while let Some(link) = links.find(Link::is_leaving) {
            // On the list until it has ended: answers to its goodbye are heard, and who comes meanwhile waits as well.
            link.end();
            {
                let mut list = links.list.lock();
                if let Some(at) = list.iter().position(|other| Arc::ptr_eq(other, &link)) {
                    let last = list.len() - 1;
                    list.swap(at, last);
                    list.pop();
                }
            }
            links.left.notify_all();
            links.ended.drop_later(link);
        }
    }
}

/// Links that have ended, until they are dropped, which sleeps.
#[pin_data]
struct Ended {
    #[pin]
    list: Mutex<KVec<Arc<Link>>>,
    #[pin]
    dropper: Worker<Ended>,
}

impl Ended {
    fn new() -> Result<Arc<Self>> {
        let ended = Arc::pin_init(
            pin_init!(Self {
                list <- new_mutex!(KVec::new(), "usb4_links_ended"),
                dropper <- Worker::new_waiting(),
            }),
            GFP_KERNEL,
        )?;
        ended.dropper.own(&ended);
        Ok(ended)
    }

    /// Drops a link a little later; without memory for that, now, which sleeps.
    fn drop_later(&self, link: Arc<Link>) {
        let kept = self.list.lock().push(link, GFP_KERNEL);
        if kept.is_ok() {
            self.dropper.kick();
        }
    }

    /// At the return all are dropped. Sleeps.
    fn settle(&self) {
        self.dropper.flush();
    }

    /// The same, and none comes any more.
    fn end(&self) {
        self.dropper.close();
        self.drop_all();
    }

    fn drop_all(&self) {
        while let Some(link) = { self.list.lock().pop() } {
            drop(link);
        }
    }
}

impl Works for Ended {
    fn on_work(this: ArcBorrow<'_, Self>) {
        this.drop_all();
    }
}

impl CableDriver for Links {
    fn bind(&self, xd: Xdomain, kind: ServiceKind) -> Result {
        self.share(xd)?.offer(kind);
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

    fn gone(&self, what: &Leaving) {
        self.end_links(|xd| what.takes(xd));
        self.jacks
            .lose(|place| what.is_router_of(place) || what.is_domain_of(place));
        // Of a domain nothing is left at the return. Where a router goes the domain's lock is held.
        if self.jacks.any(|jack| what.is_domain_of(jack.place())) {
            self.ended.settle();
        }
        self.jacks.reap(|jack| what.is_domain_of(jack.place()));
    }

    fn hear(&self, message: &[u8]) {
        let link = Message::parse(message)
            .ok()
            .and_then(|parsed| self.find(|link| link.ends().received(parsed.header())));
        match link {
            Some(link) => link.deliver(message),
            None => {
                self.jacks.count_stray();
            }
        }
    }
}
