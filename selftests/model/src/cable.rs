// SPDX-License-Identifier: GPL-2.0 OR MIT
//! A cable between two USB4 ports: its state, speed and the time frames spend on it.
//!
//! ```text
//!          both ends willing, plugged             100 ms
//!   Down -----------------------------> Training --------> Up
//!    ^                                      |               |
//!    `--------------------------------------+---------------'   unplugged, port reset, lane disabled, guest gone
//! ```

use crate::adapter::LaneSpeed;
use crate::fault::Faults;
use crate::pace::Pace;
use crate::profile::Usb4Version;
use crate::time::Instant;

/// How long a link trains.
pub const TRAINING_NS: u64 = 100_000_000;

/// One end of a cable: a port's first lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortId {
    pub nhi: usize,
    pub adapter: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Down,
    Training { until: Instant },
    Up,
}

/// A cable.
#[derive(Clone, Debug)]
pub struct Cable {
    pub ends: [PortId; 2],
    pub plugged: bool,
    pub state: State,
    /// Line rate in bits per second; `None`: frames take no time.
    pub rate: Option<u64>,
    pub latency_ns: u64,
    /// Trained at 10 Gb/s per lane, as a bad cable would.
    pub downgraded: bool,
    pub faults: Faults,
    /// The direction out of each end.
    pub lines: [Line; 2],
    version: Usb4Version,
}

/// One direction of a cable.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// When the transmitter is busy.
    pub pace: Pace,
    /// Ring that sent last, for round robin.
    pub last_ring: usize,
    pub frames: u64,
    pub bytes: u64,
}

impl Cable {
    pub fn new(ends: [PortId; 2], rate: Option<u64>, latency_ns: u64, version: Usb4Version, seed: u64) -> Self {
        Cable {
            ends,
            plugged: true,
            state: State::Down,
            rate,
            latency_ns,
            downgraded: false,
            faults: Faults::new(seed),
            lines: Default::default(),
            version,
        }
    }

    pub fn is_up(&self) -> bool {
        self.state == State::Up
    }

    /// The end at a port: 0 or 1.
    pub fn end_at(&self, port: PortId) -> Option<usize> {
        self.ends.iter().position(|&end| end == port)
    }

    /// Frames take time on this cable.
    pub fn is_timed(&self) -> bool {
        self.line_rate().is_some() || self.latency_ns > 0
    }

    /// Speed of each lane.
    pub fn speed(&self) -> LaneSpeed {
        match self.version {
            _ if self.downgraded => LaneSpeed::Gen2,
            Usb4Version::V1 => LaneSpeed::Gen3,
            Usb4Version::V2 => LaneSpeed::Gen4,
        }
    }

    /// Gen 4 lanes are one link from the start; older ones are bonded by the drivers.
    pub fn bonds_itself(&self) -> bool {
        self.speed() == LaneSpeed::Gen4
    }

    /// Bits per second a frame is sent at: the set rate, never more than two downgraded lanes carry.
    fn line_rate(&self) -> Option<u64> {
        let rate = self.rate.filter(|&rate| rate > 0)?;
        Some(if self.downgraded {
            rate.min(2 * LaneSpeed::Gen2.bits_per_second())
        } else {
            rate
        })
    }

    /// Puts a frame of `length` bytes on the line out of `end`, at `start` or when the line is free; gives its arrival
    /// at the other end.
    ///
    /// A frame is cut into packets of 256 bytes with a 4-byte header each; 128b/132b coding makes the rest of the
    /// overhead.
    pub fn send(&mut self, start: Instant, end: usize, length: usize) -> Instant {
        let rate = self.line_rate();
        let line = &mut self.lines[end];
        line.frames += 1;
        line.bytes += length as u64;
        let bytes = length as u64 + 4 * length.div_ceil(256) as u64;
        let nanobits = u128::from(bytes) * 8 * 1_000_000_000 * 132 / 128;
        line.pace.take(start.max(line.pace.free_at), nanobits, rate);
        line.pace.free_at.after_ns(self.latency_ns)
    }

    /// The link went down: what was on the line is gone and its clock starts anew.
    pub fn clear_lines(&mut self) {
        for line in &mut self.lines {
            line.pace.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cable(rate: Option<u64>, latency_ns: u64) -> Cable {
        let end = |nhi| PortId { nhi, adapter: 1 };
        Cable::new([end(0), end(1)], rate, latency_ns, Usb4Version::V2, 0)
    }

    #[test]
    fn frames_queue_behind_each_other_at_the_line_rate() {
        let mut cable = cable(Some(40_000_000_000), 500);
        // 4096 bytes in 16 packets: 4160 bytes, 33,280 bits, 858 ns with coding.
        assert_eq!(cable.send(Instant(0), 0, 4096), Instant(858 + 500));
        assert_eq!(cable.send(Instant(0), 0, 4096), Instant(2 * 858 + 500));
        assert_eq!(cable.send(Instant(0), 1, 4096), Instant(858 + 500));
    }

    #[test]
    fn rounding_does_not_add_up() {
        let mut cable = cable(Some(30_000_000_000), 0);
        let last = (0..1000).fold(Instant(0), |_, _| cable.send(Instant(0), 0, 4096));
        assert_eq!(last.0, 1000 * 4160 * 8 * 132 / 128 / 30);
    }

    #[test]
    fn a_downgraded_cable_is_slow_and_says_so() {
        let mut cable = cable(Some(40_000_000_000), 0);
        cable.downgraded = true;
        assert_eq!(cable.speed(), LaneSpeed::Gen2);
        assert_eq!(cable.send(Instant(0), 0, 4096), Instant(1716));
    }

    #[test]
    fn no_rate_takes_no_time() {
        let mut cable = cable(None, 0);
        assert!(!cable.is_timed());
        assert_eq!(cable.send(Instant(5), 0, 4096), Instant(5));
    }
}
