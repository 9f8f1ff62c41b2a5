// SPDX-License-Identifier: GPL-2.0 OR MIT
//! All jacks: which one takes a cable, and their ends.
//!
//! A jack's end takes RTNL. Who finds out that it is due may hold RTNL (`ip link del`) or the domain's lock (a hub
//! goes), so a worker does it.

use crate::{
    jack::{Jack, Keeper},
    kapi::{
        work::{Worker, Works},
        xdomain::{Place, Xdomain},
    },
};
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{Arc, ArcBorrow, Mutex},
};
use tbip::jack::{choose, Choice};

/// The jacks of this host.
#[pin_data]
pub(crate) struct Jacks {
    #[pin]
    list: Mutex<KVec<Arc<Jack>>>,
    #[pin]
    worker: Worker<Jacks>,
    /// Control messages that were of no cable of ours.
    strays: AtomicU64,
}

impl Jacks {
    /// No jacks yet.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let jacks = Arc::pin_init(
            pin_init!(Self {
                list <- new_mutex!(KVec::new(), "usb4_jacks"),
                worker <- Worker::new(),
                strays: AtomicU64::new(0),
            }),
            GFP_KERNEL,
        )?;
        jacks.worker.own(&jacks);
        Ok(jacks)
    }

    /// The jack of the cable to `xd`, where it is plugged in from now on; `mac` is the netdev's address if it is new.
    ///
    /// # Errors
    ///
    /// `EBUSY` if another cable is in.
    pub(crate) fn plug(this: &Arc<Self>, xd: &Xdomain, mac: [u8; 6]) -> Result<Arc<Jack>> {
        let place = xd.place();
        let mut list = this.list.lock();
        loop {
            let jack = match choose(list.iter().map(|jack| (*jack.place() == place, jack.life()))) {
                Choice::Take(at) => list.get(at).ok_or(EINVAL)?.clone(),
                Choice::Make => {
                    let jack = Jack::new(xd, mac, this.clone())?;
                    list.push(jack.clone(), GFP_KERNEL)?;
                    jack
                }
                Choice::Busy => return Err(EBUSY),
            };
            // Not if the user has let go of it just now: then another takes the cable.
            if jack.plug().is_ok() {
                return Ok(jack);
            }
        }
    }

    /// The places that `is_lost` says yes to are lost. Their ends may be some time off, if there are cables, and take
    /// RTNL, so they are not waited for. May be called with the domain's lock held.
    pub(crate) fn lose(&self, is_lost: impl Fn(&Place) -> bool) {
        let list = self.list.lock();
        for jack in list.iter().filter(|jack| is_lost(jack.place())) {
            jack.lose();
        }
        drop(list);
        self.reap_soon();
    }

    /// Whether there is one that `is` says yes to.
    pub(crate) fn any(&self, is: impl Fn(&Jack) -> bool) -> bool {
        self.list.lock().iter().any(|jack| is(jack))
    }

    /// Ends what is ending, of those that `which` says yes to. Sleeps, takes RTNL.
    pub(crate) fn reap(&self, which: impl Fn(&Jack) -> bool) {
        let is_due = |jack: &Arc<Jack>| jack.life().is_ending() && which(jack);
        loop {
            let Some(jack) = self.list.lock().iter().find(|jack| is_due(jack)).cloned() else {
                return;
            };
            // On the list until it has ended: who comes meanwhile waits as well.
            jack.end();
            let listed = {
                let mut list = self.list.lock();
                let at = list.iter().position(|other| Arc::ptr_eq(other, &jack));
                at.and_then(|at| list.remove(at).ok())
            };
            drop(listed);
        }
    }

    /// Every jack ends; no cable is in any.
    pub(crate) fn end(&self) {
        self.lose(|_| true);
        self.reap(|_| true);
        self.worker.close();
    }

    /// A control message was of no cable of ours.
    pub(crate) fn count_stray(&self) {
        self.strays.fetch_add(1, Ordering::Relaxed);
    }
}

impl Keeper for Jacks {
    fn reap_soon(&self) {
        self.worker.kick();
    }

    fn reap_at(&self, place: &Place) {
        self.reap(|jack| jack.place() == place);
    }

    fn strays(&self) -> u64 {
        self.strays.load(Ordering::Relaxed)
    }
}

impl Works for Jacks {
    fn on_work(this: ArcBorrow<'_, Self>) {
        this.reap(|_| true);
    }
}
