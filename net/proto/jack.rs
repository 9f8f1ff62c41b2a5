// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A jack: where a cable is plugged in, and the life of the network device that belongs to the place.
//!
//! ```text
//!             plug                       lose
//!   Empty <---------> Plugged ------------------> Doomed
//!     |      unplug                                 | unplug
//!     +------------- let_go, lose --------------> Ending
//! ```
//!
//! The device stays while no cable is in, and the next cable takes it over, whoever is at its other end. It goes when
//! the user lets go of it, which he may only while no cable is in; and when the place is lost: the router is gone, or
//! the driver leaves. Then a cable that is in has its session closed first. A jack that ends takes no cable any more:
//! one that comes to the same place meanwhile gets a new jack. Its device is made after all that end at the place have
//! ended, so that it can have the same name.

use crate::wire::Route;

/// Highest number of a router's port; a route to something further away has more bits.
const MAX_PORT: u32 = 63;

/// Where a jack is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Jack {
    /// No cable is in.
    Empty,
    /// A cable has a session.
    Plugged,
    /// As [`Jack::Plugged`], and the place is lost: it ends with the session.
    Doomed,
    /// The device is to be taken away, or is being so.
    Ending,
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// A cable is in.
    Plugged,
    /// The jack ends.
    Ending,
}

impl Jack {
    /// A cable begins its session.
    ///
    /// # Errors
    ///
    /// Another cable's is not over, or the jack ends. Nothing has changed.
    pub fn plug(&mut self) -> Result<(), Refusal> {
        match self {
            Self::Empty => {
                *self = Self::Plugged;
                Ok(())
            }
            Self::Plugged | Self::Doomed => Err(Refusal::Plugged),
            Self::Ending => Err(Refusal::Ending),
        }
    }

    /// The cable's session is over, and nothing of it is in use.
    pub fn unplug(&mut self) {
        match self {
            Self::Plugged => *self = Self::Empty,
            Self::Doomed => *self = Self::Ending,
            Self::Empty | Self::Ending => {}
        }
    }

    /// The user lets go of the device.
    ///
    /// # Errors
    ///
    /// A cable is in, or somebody else has begun the end. Nothing has changed.
    pub fn let_go(&mut self) -> Result<(), Refusal> {
        match self {
            Self::Empty => {
                *self = Self::Ending;
                Ok(())
            }
            Self::Plugged | Self::Doomed => Err(Refusal::Plugged),
            Self::Ending => Err(Refusal::Ending),
        }
    }

    /// The place is lost.
    pub fn lose(&mut self) {
        match self {
            Self::Empty => *self = Self::Ending,
            Self::Plugged => *self = Self::Doomed,
            Self::Doomed | Self::Ending => {}
        }
    }

    /// Whether a cable has a session.
    #[must_use]
    pub fn is_plugged(self) -> bool {
        matches!(self, Self::Plugged | Self::Doomed)
    }

    /// Whether the device is to be taken away now.
    #[must_use]
    pub fn is_ending(self) -> bool {
        self == Self::Ending
    }
}

/// Domains that are looked at for ports: host interfaces of one host.
const DOMAINS: u32 = 16;

/// Number for the name of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Number {
    /// The port's own, or if it has none [`Number::others`].
    pub own: u32,
    /// The first that is no port's own.
    pub others: u32,
}

/// The number of a cable's device: that of its port among the USB4 ports of this host's own routers, by domain, then by
/// port. So it does not depend on what is plugged in where, or came first. What is plugged into a hub has none.
/// `ports_below(domain, n)`: the ports of a domain's own router with numbers below n.
#[must_use]
pub fn number(domain: u32, route: Route, ports_below: impl Fn(u32, u32) -> u32) -> Number {
    let mut before = 0u32;
    let mut others = 0u32;
    for at in 0..DOMAINS {
        let count = ports_below(at, u32::MAX);
        if at < domain {
            before = before.saturating_add(count);
        }
        others = others.saturating_add(count);
    }
    let port = u32::try_from(route.0).ok().filter(|port| *port <= MAX_PORT);
    let own = port.map(|port| before.saturating_add(ports_below(domain, port)));
    Number {
        own: own.unwrap_or(others),
        others,
    }
}

/// Who takes a cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Choice {
    /// The jack with this index.
    Take(usize),
    /// A new one.
    Make,
    /// Nobody: another cable has a session there.
    Busy,
}

/// Which of the jacks takes a cable; of each: whether it is at the cable's place, and where in its life.
#[must_use]
pub fn choose(jacks: impl Iterator<Item = (bool, Jack)>) -> Choice {
    for (index, (here, jack)) in jacks.enumerate() {
        match jack {
            Jack::Empty if here => return Choice::Take(index),
            Jack::Plugged | Jack::Doomed if here => return Choice::Busy,
            _ => {}
        }
    }
    Choice::Make
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cable_takes_the_jack_of_its_place() {
        let jacks = [(false, Jack::Empty), (true, Jack::Empty)];
        assert_eq!(choose(jacks.into_iter()), Choice::Take(1));
        assert_eq!(choose([(false, Jack::Empty)].into_iter()), Choice::Make);
    }

    #[test]
    fn a_device_has_the_number_of_its_port() {
        // Domain 0 has the ports 1 and 3, domain 1 has port 1, as hosts of two makers have them.
        let ports_below = |domain, n| match domain {
            0 => [1, 3].into_iter().filter(|port| *port < n).count() as u32,
            1 => u32::from(1 < n),
            _ => 0,
        };
        let number = |domain, route| number(domain, Route::new(route), ports_below);
        assert_eq!(number(0, 1), Number { own: 0, others: 3 });
        assert_eq!(number(0, 3), Number { own: 1, others: 3 });
        assert_eq!(number(1, 1), Number { own: 2, others: 3 });
        // Behind a hub at port 1.
        assert_eq!(number(0, 0x301), Number { own: 3, others: 3 });
    }

    #[test]
    fn a_jack_that_ends_has_a_successor() {
        let jacks = [(true, Jack::Ending), (false, Jack::Plugged)];
        assert_eq!(choose(jacks.into_iter()), Choice::Make);
        // The successor's.
        let jacks = [(true, Jack::Ending), (true, Jack::Empty)];
        assert_eq!(choose(jacks.into_iter()), Choice::Take(1));
        let jacks = [(true, Jack::Ending), (true, Jack::Plugged)];
        assert_eq!(choose(jacks.into_iter()), Choice::Busy);
    }

    #[test]
    fn a_device_is_let_go_of_without_a_cable_only() {
        let mut jack = Jack::Empty;
        assert_eq!(jack.plug(), Ok(()));
        assert_eq!(jack.let_go(), Err(Refusal::Plugged));
        jack.unplug();
        assert_eq!(jack.let_go(), Ok(()));
        assert_eq!(jack.let_go(), Err(Refusal::Ending));
        assert_eq!(jack.plug(), Err(Refusal::Ending));
        jack.unplug();
        assert!(jack.is_ending());
    }

    #[test]
    fn a_lost_place_waits_for_its_session() {
        let mut jack = Jack::Empty;
        assert_eq!(jack.plug(), Ok(()));
        jack.lose();
        assert!(jack.is_plugged() && !jack.is_ending());
        assert_eq!(jack.let_go(), Err(Refusal::Plugged));
        jack.unplug();
        assert!(jack.is_ending());
    }
}
