// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Adapters of a host router: two lanes per USB4 port and the NHI, with their configuration and path spaces.
//!
//! Numbers: 0 control, 1 and 2 the lanes of port 0, 3 and 4 those of port 1, and so on; the NHI adapter is the last.

use crate::profile::Usb4Version;
use crate::space::Space;
use crate::time::Instant;

const LENGTH: usize = 0x60;
const ADAPTER_ID: u32 = 0x0208 << 16 | 0x1022;
const TOTAL_BUFFERS: u32 = 120 << 20;
/// HopIDs of a lane adapter, and the room of its path space, if nothing else is asked for.
pub const LANE_HOPS: usize = 32;
/// Credits of the control path, hop 0 of a lane.
const CONTROL_CREDITS: u32 = 2 << 17;

const BASIC_4: usize = 4;
const BASIC_5: usize = 5;
/// The highest HopID that comes in, and 11 bits higher that which goes out.
const MOST_HOP: u32 = 0x7ff;
const PHY: usize = 0x10;
const PHY_STATE: usize = PHY + 1;
const LANE_TMU: usize = 0x18;
const LANE_TMU_WORDS: usize = 10;
const USB4_PORT: usize = 0x30;
const SIDEBAND: usize = USB4_PORT + 1;
const PORT_STATUS: usize = USB4_PORT + 18;
const PORT_CONTROL: usize = USB4_PORT + 19;

const DISABLE_HOTPLUG: u32 = 1 << 31;
const LANE_DISABLE: u32 = 1 << 14;
const LANE_BOND: u32 = 1 << 15;
const DOWNSTREAM_PORT_RESET: u32 = 1;
const WIDTH_SINGLE: u32 = 1;
const WIDTH_DUAL: u32 = 3;

/// What an adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Control,
    /// First lane of a USB4 port: the one that has the port's capability, paths and plug events.
    Lane0,
    Lane1,
    Nhi,
}

/// State a lane reports, as the cable has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneState {
    Unplugged,
    Training,
    Up,
}

/// Speed of one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneSpeed {
    Gen2,
    Gen3,
    Gen4,
}

impl LaneSpeed {
    fn code(self) -> u32 {
        match self {
            LaneSpeed::Gen2 => 8,
            LaneSpeed::Gen3 => 4,
            LaneSpeed::Gen4 => 2,
        }
    }

    /// Line rate of a lane in bits per second.
    pub fn bits_per_second(self) -> u64 {
        match self {
            LaneSpeed::Gen2 => 10_000_000_000,
            LaneSpeed::Gen3 => 20_000_000_000,
            LaneSpeed::Gen4 => 40_000_000_000,
        }
    }
}

/// Entry of a path space: where frames that arrive on a hop go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathEntry(pub [u32; 2]);

impl PathEntry {
    pub fn is_enabled(self) -> bool {
        self.0[0] >> 31 != 0
    }

    pub fn next_hop(self) -> usize {
        (self.0[0] & 0x7ff) as usize
    }

    pub fn out_adapter(self) -> usize {
        (self.0[0] >> 11 & 0x3f) as usize
    }
}

/// One adapter.
#[derive(Clone, Debug)]
pub struct Adapter {
    kind: Kind,
    space: Space,
    paths: Vec<PathEntry>,
    /// The connection manager was told of a plug and not yet of an unplug.
    pub announced: bool,
    /// When plug events were last allowed (the DHP bit cleared).
    pub hotplug_since: Option<Instant>,
    /// Lanes work as one link.
    pub bonded: bool,
}

impl Adapter {
    /// An adapter after reset.
    pub fn new(kind: Kind, number: usize, hops: usize, version: Usb4Version) -> Self {
        let mut space = Space::new(LENGTH);
        let mut paths = Vec::new();
        space.define(0, ADAPTER_ID, 0);
        space.define(3, (number as u32) << 20, 0);
        match kind {
            Kind::Control => {}
            Kind::Lane0 | Kind::Lane1 => {
                paths = vec![PathEntry::default(); LANE_HOPS];
                paths[0].0[0] = CONTROL_CREDITS;
                Self::define_lane(&mut space, kind, version);
            }
            Kind::Nhi => {
                paths = vec![PathEntry::default(); hops];
                let most = hops as u32 - 1;
                space.define(2, 2, 0);
                space.define(BASIC_4, TOTAL_BUFFERS, 0x8000_03ff);
                space.define(BASIC_5, most | most << 11, 0xffc0_0000);
            }
        }
        Adapter {
            kind,
            space,
            paths,
            announced: false,
            hotplug_since: None,
            bonded: false,
        }
    }

    /// Has so many HopIDs, at most [`LANE_HOPS`]; those below 8 are not for paths between hosts.
    pub fn set_hop_ids(&mut self, count: usize) {
        let most = count.clamp(1, LANE_HOPS) as u32 - 1;
        self.space.set(BASIC_5, MOST_HOP | MOST_HOP << 11, most | most << 11);
    }

    fn define_lane(space: &mut Space, kind: Kind, version: Usb4Version) {
        let most = LANE_HOPS as u32 - 1;
        let speeds = match version {
            Usb4Version::V1 => 0xc,
            Usb4Version::V2 => 0xe,
        };
        space.define(1, PHY as u32, 0);
        space.define(2, 1, 0);
        space.define(BASIC_4, TOTAL_BUFFERS, 0x8000_03ff);
        space.define(BASIC_5, most | most << 11 | DISABLE_HOTPLUG, 0xffc0_0000);
        space.define(PHY, LANE_TMU as u32 | 1 << 8 | speeds << 16 | 3 << 20, 0);
        // Bits 31:16 but 31:30 are computed on each read: speed, width and state belong to the cable.
        space.define(PHY_STATE, 0xc | WIDTH_SINGLE << 4, 0xc000_ffff);
        space.storage(LANE_TMU + 1..LANE_TMU + LANE_TMU_WORDS);
        let next = if kind == Kind::Lane0 { USB4_PORT as u32 } else { 0 };
        space.define(LANE_TMU, next | 3 << 8, 0);
        if kind == Kind::Lane0 {
            space.define(USB4_PORT, 6 << 8, 0);
            space.storage(SIDEBAND..PORT_STATUS);
            space.define(PORT_STATUS, 1 << 8, 0); // bonding enabled, not a Thunderbolt 3 link
            space.define(PORT_CONTROL, 0, !0);
        }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn is_lane(&self) -> bool {
        matches!(self.kind, Kind::Lane0 | Kind::Lane1)
    }

    /// Plug events are allowed.
    pub fn hotplug_allowed(&self) -> bool {
        self.space.word(BASIC_5) & DISABLE_HOTPLUG == 0
    }

    /// Nothing on this side keeps the link down.
    pub fn link_allowed(&self) -> bool {
        self.space.word(PORT_CONTROL) & DOWNSTREAM_PORT_RESET == 0 && self.space.word(PHY_STATE) & LANE_DISABLE == 0
    }

    /// Both lanes of the link are asked for, or only one.
    pub fn wants_dual(&self) -> bool {
        self.space.word(PHY_STATE) >> 4 & 3 == WIDTH_DUAL
    }

    pub fn wants_single(&self) -> bool {
        self.space.word(PHY_STATE) >> 4 & 3 == WIDTH_SINGLE
    }

    /// The driver asked to bond now.
    pub fn asks_to_bond(&self) -> bool {
        self.space.word(PHY_STATE) & LANE_BOND != 0
    }

    /// Bonding was done: its request bit clears itself.
    pub fn on_bonded(&mut self) {
        self.bonded = true;
        self.space.set(PHY_STATE, LANE_BOND, 0);
    }

    /// The link went down: the target width returns to single.
    pub fn on_link_down(&mut self) {
        self.bonded = false;
        self.space.set(PHY_STATE, LANE_BOND | 3 << 4, WIDTH_SINGLE << 4);
    }

    /// Lane state word with what the cable says put in.
    pub fn lane_status(&self, state: LaneState, speed: LaneSpeed, width: u32) -> u32 {
        let stored = self.space.word(PHY_STATE);
        let code = match state {
            _ if stored & LANE_DISABLE != 0 => 0,
            LaneState::Training => 1,
            LaneState::Up => 2,
            LaneState::Unplugged => 7,
        };
        stored & !0x3fff_0000 | speed.code() << 16 | width << 20 | code << 26
    }

    /// Is this the word that [`Adapter::lane_status`] computes?
    pub fn is_lane_status(&self, offset: usize) -> bool {
        self.is_lane() && offset == PHY_STATE
    }

    /// A word of the adapter space; `None` beyond the end, and always for the control adapter, which has none.
    pub fn read(&self, offset: usize) -> Option<u32> {
        (self.kind != Kind::Control).then(|| self.space.read(offset)).flatten()
    }

    /// A configuration write. False beyond the end.
    pub fn write(&mut self, now: Instant, offset: usize, value: u32) -> bool {
        if self.kind == Kind::Control {
            return false;
        }
        let allowed_before = self.hotplug_allowed();
        let known = self.space.write(offset, value);
        if self.is_lane() && !allowed_before && self.hotplug_allowed() {
            self.hotplug_since = Some(now);
        }
        if self.kind == Kind::Lane0 && offset == SIDEBAND {
            self.answer_sideband(value);
        }
        known
    }

    /// Sideband transactions end at once: the router's own port answers, there is no retimer and no other target.
    fn answer_sideband(&mut self, value: u32) {
        const PENDING: u32 = 1 << 31;
        const NO_RESPONSE: u32 = 1 << 25;
        const RESULT_CODE: u32 = 1 << 26;
        if value & PENDING == 0 {
            return;
        }
        if value >> 16 & 7 == 0 {
            self.space.set(SIDEBAND, PENDING | NO_RESPONSE | RESULT_CODE, 0);
        } else {
            self.space.set(SIDEBAND, PENDING | NO_RESPONSE, NO_RESPONSE);
        }
    }

    /// Word `offset` of the path space (two words per hop).
    pub fn read_path(&self, offset: usize) -> Option<u32> {
        self.paths.get(offset / 2).map(|entry| entry.0[offset % 2])
    }

    /// Writes a word of the path space; the "pending packets" bit is always 0. Gives the entry, `None` beyond the end.
    pub fn write_path(&mut self, offset: usize, value: u32) -> Option<PathEntry> {
        const PENDING: u32 = 1 << 28;
        let entry = self.paths.get_mut(offset / 2)?;
        entry.0[offset % 2] = if offset % 2 == 1 { value & !PENDING } else { value };
        Some(*entry)
    }

    /// Where frames on `hop` go.
    pub fn path(&self, hop: usize) -> Option<PathEntry> {
        self.paths.get(hop).copied().filter(|entry| entry.is_enabled())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_a_chain_that_ends() {
        for kind in [Kind::Lane0, Kind::Lane1] {
            let adapter = Adapter::new(kind, 1, 12, Usb4Version::V1);
            let mut offset = adapter.read(1).unwrap() as usize & 0xff;
            let mut ids = Vec::new();
            while offset != 0 {
                let header = adapter.read(offset).unwrap();
                ids.push(header >> 8 & 0xff);
                offset = (header & 0xff) as usize;
            }
            assert_eq!(ids, if kind == Kind::Lane0 { vec![1, 3, 6] } else { vec![1, 3] });
        }
    }

    #[test]
    fn the_nhi_adapter_has_one_hop_per_ring() {
        let adapter = Adapter::new(Kind::Nhi, 3, 3, Usb4Version::V2);
        assert_eq!(adapter.read(5).map(|word| word & 0x7ff), Some(2));
        assert!(adapter.read_path(5).is_some());
        assert!(adapter.read_path(6).is_none());
    }

    #[test]
    fn hotplug_is_off_until_the_driver_allows_it() {
        let mut adapter = Adapter::new(Kind::Lane0, 1, 3, Usb4Version::V2);
        assert!(!adapter.hotplug_allowed());
        adapter.write(Instant(7), 5, 0);
        assert!(adapter.hotplug_allowed());
        assert_eq!(adapter.hotplug_since, Some(Instant(7)));
    }

    #[test]
    fn sideband_answers_for_the_router_only() {
        let mut adapter = Adapter::new(Kind::Lane0, 1, 3, Usb4Version::V2);
        adapter.write(Instant(0), SIDEBAND, 1 << 31);
        assert_eq!(adapter.read(SIDEBAND), Some(0));
        adapter.write(Instant(0), SIDEBAND, 1 << 31 | 2 << 16);
        assert_eq!(adapter.read(SIDEBAND), Some(1 << 25 | 2 << 16));
    }
}
