// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A jack: the place where a cable is plugged in, and the netdev that stays there when the cable is out, like an
//! adapter's port.
//!
//! ```text
//!   stack, ethtool, ip --> Netif --Cable--> Jack --Plugged--> Link, while a cable is in
//! ```
//!
//! From the first XDomain at the place to the end that [`tbip::jack`] decides. A link is one cable's session: it uses
//! the jack's lane, has a copy of what the system wants, and leaves when its XDomain goes.

use crate::{
    counters::CableCounters,
    kapi::{
        ndo::RingSizes,
        sync::{new_irq_lock, IrqLock},
        xdomain::{Place, Xdomain},
    },
    netif::{Cable, Netif},
    requested::Wanted,
    upper::Upper,
};
use kernel::{
    new_mutex,
    prelude::*,
    str::CString,
    sync::{Arc, Mutex},
};
use tbip::jack::{self, Refusal};

/// The session of a cable that is in. Any context, unless it says otherwise.
pub(crate) trait Plugged: Send + Sync {
    /// The system wants this of the cable. Returns the request's number.
    fn want(&self, wanted: Wanted) -> u64;
    /// Waits until request `generation` has been acted on and nobody uses the rings. Sleeps.
    fn wait_closed(&self, generation: u64);
    /// The rings do not work any more: begin anew.
    fn fault(&self);
    /// Megabits per second, all lanes of the cable together.
    fn speed_mbps(&self) -> u32;
    /// Lanes of the cable.
    fn width(&self) -> u32;
    /// What it counts.
    fn counters(&self) -> CableCounters;
}

/// Who keeps the jacks and sees to their ends.
pub(crate) trait Keeper: Send + Sync {
    /// Ends what is ending, soon. Any context.
    fn reap_soon(&self);
    /// Ends what is ending at a place. Sleeps, takes RTNL.
    fn reap_at(&self, place: &Place);
    /// Control messages that were of no cable of ours.
    fn strays(&self) -> u64;
}

/// What changes in a jack's life.
struct State {
    life: jack::Jack,
    /// What the system wants, cable or no cable.
    wanted: Wanted,
    /// The cable that is in.
    link: Option<Arc<dyn Plugged>>,
    /// What the cables before it have counted.
    counted: CableCounters,
}

/// A place for a cable.
#[pin_data]
pub(crate) struct Jack {
    place: Place,
    /// The cable as the kernel names it. The name goes by the place.
    name: CString,
    #[pin]
    state: IrqLock<State>,
    #[pin]
    upper: Upper,
    /// Whether [`Jack::end`] is through. Held meanwhile.
    #[pin]
    ended: Mutex<bool>,
    keeper: Arc<dyn Keeper>,
}

impl Jack {
    /// The jack of the cable to `xd`, which is not plugged yet.
    pub(super) fn new(xd: &Xdomain, mac: [u8; 6], keeper: Arc<dyn Keeper>) -> Result<Arc<Self>> {
        let state = State {
            life: jack::Jack::Empty,
            wanted: Wanted::new(mac),
            link: None,
            counted: CableCounters::default(),
        };
        let place = xd.place();
        let name = CString::try_from(xd.name())?;
        Arc::pin_init(
            pin_init!(Self {
                place,
                name,
                state <- new_irq_lock!(state, c"usb4_jack_state"),
                upper <- Upper::new(),
                ended <- new_mutex!(false, "usb4_jack_ended"),
                keeper,
            }),
            GFP_KERNEL,
        )
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn life(&self) -> jack::Jack {
        self.state.lock().life
    }

    /// What the system wants of the cable.
    pub(crate) fn wanted(&self) -> Wanted {
        self.state.lock().wanted
    }

    /// The netdev, if it has been made.
    pub(crate) fn netif(&self) -> Option<Arc<Netif>> {
        self.upper.netif()
    }

    // A cable's session. --------------------------------------------------------------------------------------------

    /// A cable is in; its link comes with [`Jack::join`], or [`Jack::unplug`] follows.
    pub(super) fn plug(&self) -> Result<(), Refusal> {
        let netif = self.netif();
        let mut state = self.state.lock();
        state.life.plug()?;
        if let Some(netif) = netif {
            netif.set_loose(false);
        }
        Ok(())
    }

    /// `link` is the cable's. From the return on it hears what the system wants.
    pub(crate) fn join(&self, link: Arc<dyn Plugged>) {
        let mut state = self.state.lock();
        link.want(state.wanted);
        state.link = Some(link);
    }

    /// The netdev; made if there is none. The link's worker's, who may take RTNL as there is none to stop yet: neither
    /// is there one of the cable whose jack ends at the same place.
    pub(crate) fn ensure(this: &Arc<Self>, xd: &Xdomain) -> Option<Arc<Netif>> {
        this.upper.ensure(this.name(), || {
            // A netdev that goes has the name that this one is to have.
            this.keeper.reap_at(&this.place);
            Netif::new(this.clone(), xd, this.wanted().mac)
        })
    }

    /// When [`Jack::ensure`] is to be called again, if it was in vain.
    pub(crate) fn retry_at(&self) -> Option<u64> {
        self.upper.retry_at()
    }

    /// The link ends and hears of nothing any more. What was told before it still acts on.
    pub(crate) fn leave(&self) {
        let link = {
            let mut state = self.state.lock();
            let link = state.link.take();
            if let Some(link) = &link {
                state.counted = state.counted.plus(link.counters());
            }
            link
        };
        // Not under the lock: the last share may sleep.
        drop(link);
    }

    /// The cable's session is over, and nothing of it is in use.
    pub(crate) fn unplug(&self) {
        let netif = self.netif();
        if let Some(netif) = &netif {
            // Perhaps the cable went while the host slept.
            netif.resume();
        }
        let mut state = self.state.lock();
        state.life.unplug();
        if state.life.is_ending() {
            self.keeper.reap_soon();
        } else if let Some(netif) = &netif {
            netif.set_loose(true);
        }
    }

    // The end. ------------------------------------------------------------------------------------------------------

    /// The place is lost: its router is gone, or the driver leaves. Any context.
    pub(super) fn lose(&self) {
        self.state.lock().life.lose();
    }

    /// The end of the netdev, once the jack's life is ending. Once; who comes second waits for it. Sleeps, takes RTNL.
    pub(super) fn end(&self) {
        let mut ended = self.ended.lock();
        if !*ended {
            self.upper.end();
            *ended = true;
        }
    }

    /// Changes what the system wants and tells the cable that is in; the cable and its request's number.
    fn want(&self, change: impl FnOnce(&mut Wanted)) -> Option<(Arc<dyn Plugged>, u64)> {
        let mut state = self.state.lock();
        change(&mut state.wanted);
        let wanted = state.wanted;
        state.link.as_ref().map(|link| (link.clone(), link.want(wanted)))
    }
}

impl Cable for Jack {
    fn name(&self) -> &str {
        self.name.to_str().unwrap_or("?")
    }

    fn open(&self, mac: [u8; 6]) {
        self.want(|wanted| {
            wanted.open = true;
            wanted.mac = mac;
        });
    }

    fn close(&self) {
        if let Some((link, generation)) = self.want(|wanted| wanted.open = false) {
            link.wait_closed(generation);
        }
    }

    fn set_mac(&self, mac: [u8; 6]) {
        self.want(|wanted| wanted.mac = mac);
    }

    fn let_go(&self) -> bool {
        let free = self.state.lock().life.let_go().is_ok();
        if free {
            self.keeper.reap_soon();
        }
        free
    }

    fn fault(&self) {
        if let Some(link) = &self.state.lock().link {
            link.fault();
        }
    }

    fn speed_mbps(&self) -> Option<u32> {
        let state = self.state.lock();
        state.link.as_ref().map(|link| link.speed_mbps())
    }

    fn width(&self) -> u32 {
        self.state.lock().link.as_ref().map_or(0, |link| link.width())
    }

    fn counters(&self) -> CableCounters {
        let state = self.state.lock();
        let now = state.link.as_ref().map(|link| link.counters());
        let mut counters = state.counted.plus(now.unwrap_or_default());
        counters.strays = self.keeper.strays();
        counters.present = u64::from(now.is_some());
        counters
    }

    fn ring_sizes(&self) -> RingSizes {
        self.wanted().rings
    }

    fn set_ring_sizes(&self, rings: RingSizes) -> Result {
        let mut result = Ok(());
        self.want(|wanted| result = wanted.resize(rings));
        result
    }
}
