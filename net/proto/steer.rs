// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Which ring carries what.
//!
//! An NHI has a number of hops; hop 0 is the control channel, every other is a transmit and a
//! receive ring. The rings of an NHI are shared by the cables at its ports.
//!
//! | lanes of a rail | lane 0 | lanes from 1 on |
//! |---|---|---|
//! | 1 | message | |
//! | 2 or more | message | direct |
//!
//! Everything that is a train goes by the message lane: Ethernet, small RDMA, control. Direct lanes
//! carry windows of raw pages that the receiver has granted, if both sides have the feature. Without
//! a direct lane such a window goes as trains.

use crate::limits::MAX_LANES;
use crate::native::Features;

/// A lane of a rail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(pub u8);

impl Lane {
    /// The message lane.
    pub const MESSAGE: Self = Self(0);
}

/// What a lane is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Trains.
    Message,
    /// Granted windows of raw pages.
    Direct,
}

/// What is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// An Ethernet packet.
    Ethernet,
    /// Transport packets in a train.
    Transport,
    /// Credits and grants.
    Control,
    /// A granted window; its number spreads windows over the direct lanes.
    Window(u32),
}

/// Lanes that each of `rails` cables at one NHI with `hop_count` hops can have; 0 if there are more
/// cables than rings. A cable takes its lanes when it comes, so the last may find less.
#[must_use]
pub fn lanes_per_rail(hop_count: u16, rails: u16) -> u8 {
    let usable = hop_count.saturating_sub(1);
    let each = usable.checked_div(rails.max(1)).unwrap_or(0);
    each.min(MAX_LANES as u16) as u8
}

/// The lanes of one rail and which of them work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steering {
    lanes: u8,
    direct: bool,
    /// Bit i: direct lane i is void and being re-synchronised.
    down: u8,
}

impl Steering {
    /// A rail with `lanes` lanes (1 to 8) and the features common to both sides.
    #[must_use]
    pub fn new(lanes: u8, features: Features) -> Self {
        Self {
            lanes: lanes.clamp(1, MAX_LANES as u8),
            direct: features.has(Features::DIRECT),
            down: 0,
        }
    }

    /// Lanes in all.
    #[must_use]
    pub const fn lanes(&self) -> u8 {
        self.lanes
    }

    /// What `lane` is for; `None` if there is no such lane or nothing goes by it.
    #[must_use]
    pub const fn role(&self, lane: Lane) -> Option<Role> {
        match lane.0 {
            0 => Some(Role::Message),
            n if n < self.lanes && self.direct => Some(Role::Direct),
            _ => None,
        }
    }

    /// The direct lane `lane` works or does not. The message lane is the rail: it has no such state.
    pub fn set_working(&mut self, lane: Lane, working: bool) {
        if self.role(lane) == Some(Role::Direct) {
            let bit = 1u8.checked_shl(u32::from(lane.0)).unwrap_or(0);
            if working {
                self.down &= !bit;
            } else {
                self.down |= bit;
            }
        }
    }

    /// The lane for `class`; `None` if a window has no direct lane and must go as trains.
    #[must_use]
    pub fn lane(&self, class: Class) -> Option<Lane> {
        match class {
            Class::Ethernet | Class::Transport | Class::Control => Some(Lane::MESSAGE),
            Class::Window(n) => self.direct_lane(n),
        }
    }

    /// The `n`th working direct lane, round and round.
    fn direct_lane(&self, n: u32) -> Option<Lane> {
        let working = |lane: &u8| {
            let bit = 1u8.checked_shl(u32::from(*lane)).unwrap_or(0);
            self.role(Lane(*lane)) == Some(Role::Direct) && self.down & bit == 0
        };
        let count = (1..self.lanes).filter(working).count() as u32;
        let index = n.checked_rem(count)?;
        (1..self.lanes).filter(working).nth(index as usize).map(Lane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_hops_make_two_lanes_and_two_make_one() {
        assert_eq!(lanes_per_rail(3, 1), 2);
        assert_eq!(lanes_per_rail(2, 1), 1);
        assert_eq!(lanes_per_rail(1, 1), 0);
        assert_eq!(lanes_per_rail(0, 0), 0);
    }

    #[test]
    fn cables_at_one_nhi_share_its_rings() {
        assert_eq!(lanes_per_rail(12, 2), 5);
        assert_eq!(lanes_per_rail(3, 2), 1);
        assert_eq!(lanes_per_rail(2, 2), 0);
        assert_eq!(lanes_per_rail(200, 1), 8);
    }

    #[test]
    fn one_ring_is_a_message_lane_only() {
        let s = Steering::new(1, Features::DIRECT);
        assert_eq!(s.lane(Class::Ethernet), Some(Lane::MESSAGE));
        assert_eq!(s.lane(Class::Window(5)), None);
        assert_eq!(s.role(Lane(1)), None);
    }

    #[test]
    fn windows_go_round_the_direct_lanes_and_trains_never_do() {
        let s = Steering::new(4, Features::DIRECT);
        let lanes: Vec<_> = (0..6).map(|n| s.lane(Class::Window(n)).unwrap().0).collect();
        assert_eq!(lanes, [1, 2, 3, 1, 2, 3]);
        for class in [Class::Ethernet, Class::Transport, Class::Control] {
            assert_eq!(s.lane(class), Some(Lane::MESSAGE));
        }
    }

    #[test]
    fn without_the_feature_there_is_no_direct_lane() {
        let s = Steering::new(2, Features(0));
        assert_eq!(s.role(Lane(1)), None);
        assert_eq!(s.lane(Class::Window(0)), None);
    }

    #[test]
    fn a_lane_that_is_down_is_passed_over() {
        let mut s = Steering::new(3, Features::DIRECT);
        s.set_working(Lane(1), false);
        assert_eq!(s.lane(Class::Window(0)), Some(Lane(2)));
        s.set_working(Lane(2), false);
        assert_eq!(s.lane(Class::Window(0)), None);
        s.set_working(Lane(1), true);
        assert_eq!(s.lane(Class::Window(7)), Some(Lane(1)));
        s.set_working(Lane::MESSAGE, false);
        s.set_working(Lane(200), false);
        assert_eq!(s.lane(Class::Ethernet), Some(Lane::MESSAGE));
    }
}
