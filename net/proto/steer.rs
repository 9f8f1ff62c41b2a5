// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Which lanes a cable has, and what goes by each.
//!
//! A host interface has a number of hops; hop 0 is the control channel's, every other is a transmit and a receive ring.
//! The rings are shared by the cables at its ports. A cable has one lane or two:
//!
//! | both ends offer | lane 0 | lane 1 |
//! |---|---|---|
//! | neither | everything | |
//! | [`Features::LANES`] | everything | trains of queue pairs |
//! | [`Features::DIRECT`] | everything | windows of raw pages that the receiver has granted |
//!
//! A ring carries about 12 Gb/s on the hosts that were measured, whatever the cable carries, so a second one nearly
//! doubles what queue pairs have of it. Where both features are offered lane 1 has windows.

use crate::native::Features;

/// Most lanes of a cable.
pub const LANES: usize = 2;

/// What the second lane of a cable is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Second {
    /// Trains of queue pairs, as the first lane's.
    Trains,
    /// Granted windows of raw pages.
    Windows,
}

impl Second {
    /// Of a cable whose ends have these features in common; of one end, by what it offers. None: there is no such lane.
    #[must_use]
    pub const fn of(features: Features) -> Option<Self> {
        if !features.has(Features::TRAINS) {
            None
        } else if features.has(Features::DIRECT) {
            Some(Self::Windows)
        } else if features.has(Features::LANES) {
            Some(Self::Trains)
        } else {
            None
        }
    }
}

/// Whether a cable may have a second lane at a host interface with so many hops. Three are those of one cable: the
/// control channel's and two lanes. Nine are enough for four cables. With others the next cable might find no ring.
#[must_use]
pub const fn has_second(hop_count: u32) -> bool {
    hop_count == 3 || hop_count >= 9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_lane_is_for_what_both_ends_offer() {
        let (trains, lanes, direct) = (Features::TRAINS, Features::LANES, Features::DIRECT);
        assert_eq!(Second::of(trains), None);
        assert_eq!(Second::of(trains.with(lanes)), Some(Second::Trains));
        assert_eq!(Second::of(trains.with(direct)), Some(Second::Windows));
        assert_eq!(Second::of(trains.with(lanes).with(direct)), Some(Second::Windows));
        assert_eq!(
            Second::of(lanes.with(direct)),
            None,
            "queue pairs send nothing by the cable's rings"
        );
        // One end offers the one, the other end the other.
        let common = trains.with(lanes).common(trains.with(direct));
        assert_eq!(Second::of(common), None);
    }

    #[test]
    fn no_cable_takes_the_ring_of_another() {
        for (hops, has) in [(2, false), (3, true), (4, false), (8, false), (9, true), (12, true)] {
            assert_eq!(has_second(hops), has, "{hops} hops");
        }
    }
}
