// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Every constant of the machines, with its origin.

use crate::time::Duration;

/// Longest frame of an NHI ring: 12-bit length field in the descriptor, 0 means 4096.
pub const MAX_FRAME: usize = 4096;

/// Longest Ethernet packet on either wire: `thunderbolt_net` takes 64 KiB, header included.
pub const MAX_PACKET: usize = 65_536;

/// Longest native Ethernet packet: a GSO packet of 65535 bytes of IP, Ethernet header and VLAN tag.
pub const MAX_SUPER_PACKET: usize = 65_553;

/// Most page frames of a train: what a receiver can hang on one skb (MAX_SKB_FRAGS, 17).
pub const MAX_PAGES: usize = 17;

/// Most frames of a train: its pages and the head.
pub const MAX_TRAIN: usize = MAX_PAGES + 1;

/// First HopID that is not reserved: USB4, `TB_PATH_MIN_HOPID`.
pub const MIN_HOP: u16 = 8;

/// Most lanes of a rail. Ours: more than any known NHI can give to one cable.
pub const MAX_LANES: usize = 8;

/// Fewest receive descriptors of a lane: two trains of the largest size, and the reserve.
pub const MIN_DEPTH: u16 = 40;

/// Most receive descriptors that a lane may promise: keeps sequence distances small.
pub const MAX_DEPTH: u16 = 16_384;

/// Descriptors never promised: room for credit probes, which are sent without credit.
pub const CREDIT_RESERVE: u32 = 4;

/// Time without credit before a sender probes for it. Ours: a few round trips and interrupt delays.
pub const CREDIT_PROBE: Duration = Duration::from_millis(2);

/// Longest time between two credit probes.
pub const CREDIT_PROBE_MAX: Duration = Duration::from_millis(64);

/// Most gaps of a ledger's report: it fits a CTRL head many times over. Ours: a loss of one frame in a hundred makes
/// two or three gaps in a round trip of 256 frames.
pub const REPORT_GAPS: usize = 8;

/// Shortest time without a report after which a ledger asks for one. Ours: as often as the timer looks after the ring
/// anyway ([`crate::reaper::LOOK_AFTER`]), which ticks while trains are in flight. Twice as often cost a stream of
/// WRITEs a tenth in the lab.
pub const LEDGER_PROBE_MIN: Duration = Duration::from_micros(1_000);

/// Probes of a ledger without a report from which on its lane is given up, if the peer has answered on another since
/// the first: after six round trips, or 3 ms. Ours: less than the shortest local ACK timeouts that programs use, and a
/// cable that carries nothing may look well to its host for seconds.
pub const LEDGER_ASKS: u8 = 2;

/// Trains of a ledger that may be in flight; more go without a token. Ours: half of a ring of this driver, whose
/// other half is the stack's.
pub const LEDGER_TRAINS: usize = 256;

/// Longest time between two probes of a ledger: as of credit.
pub const LEDGER_PROBE_MAX: Duration = CREDIT_PROBE_MAX;

/// Most windows that are open on a direct lane, or asked for. Ours: fewer than the markers of last frames tell apart
/// ([`crate::direct`]), and with 64 KiB each as much as a queue pair sends ahead.
pub const MAX_WINDOWS: usize = 8;

/// Time without news of a window after which its asker asks, doubling. As of the ledger.
pub const WINDOW_ASK: Duration = LEDGER_PROBE_MIN;

/// Longest time between two such asks.
pub const WINDOW_ASK_MAX: Duration = CREDIT_PROBE_MAX;

/// Time for which a window may be the oldest one that is open; then its lane is opened anew. So one is over
/// [`MAX_WINDOWS`] times that after it was granted. Ours: asks repair a lost grant many times over until then, and a
/// deregistration that waits for the window is hardly noticed by a user.
pub const WINDOW_STALL: Duration = Duration::from_millis(100);

/// Time after which a train whose window nobody speaks of is sent otherwise: a stalled lane has been opened anew by
/// then.
pub const WINDOW_LIMIT: Duration = Duration::from_millis(250);

/// Time from a request to its grant from which on windows are not worth asking for: what is asked for waits behind
/// others' packets, and eight windows in that time are less than trains would have had. Ours: many times what it takes
/// on an idle lane, a fraction of what a ring full of TCP's packets takes on a slow cable.
pub const WINDOW_SLOW: Duration = Duration::from_millis(4);

/// Time until one is asked for again then, doubling with each that is slow.
pub const WINDOW_PAUSE: Duration = Duration::from_millis(50);

/// Longest such time: the few that are asked for in vain cost less than a thirtieth of it.
pub const WINDOW_PAUSE_MAX: Duration = Duration::from_millis(1_000);

/// Time after which a granter that waits for the first frame of a generation begins another, doubling: many round
/// trips.
pub const START_REPEAT: Duration = Duration::from_millis(8);

/// Longest time between two of those.
pub const START_REPEAT_MAX: Duration = Duration::from_millis(64);

/// Time for which a direct lane must have granted windows for it to begin anew at once after a reset.
pub const RESET_SOON: Duration = Duration::from_millis(1_000);

/// Longest time for which it grants none after a reset. Ours: a peer, or a cable, that breaks the lane each time has it
/// stop the ring and map its pages anew once a second, in place of once in a round trip.
pub const RESET_PAUSE_MAX: Duration = Duration::from_millis(1_000);

/// Time between two ThunderboltIP logins until the link is up. `thunderbolt_net` waits 4.5 s after
/// a time-out of 0.5 s; a request every second costs nothing and finds it sooner.
pub const LOGIN_RETRY: Duration = Duration::from_millis(1_000);

/// How long our own accepted login is taken as known to a peer that logs in anew. Longer than a
/// login exchange takes, shorter than the peer's next try (5 s).
pub const LOGIN_HOLDOFF: Duration = Duration::from_millis(3_000);

/// Shortest time between two ThunderboltIP requests of ours.
pub const LOGIN_GAP: Duration = Duration::from_millis(100);

/// A request with a lower number than one that came less than this ago is late. Longer than the control
/// channel keeps a message, shorter than a reloaded peer, which numbers anew, waits to try again.
pub const LOGIN_LATE: Duration = Duration::from_millis(2_000);

/// Time that a link must have been up before what comes over it proves anything. A stock peer that
/// is about to tear down may come up for a moment.
pub const LOGIN_SETTLE: Duration = Duration::from_millis(1_000);

/// Time between two logins on a link that is up and has brought nothing yet. A stock peer that tore
/// down while we logged in waits for a login for ever.
pub const LOGIN_REFRESH: Duration = Duration::from_millis(5_000);

/// Time between two logouts: `TBNET_LOGOUT_TIMEOUT`.
pub const LOGOUT_RETRY: Duration = Duration::from_millis(1_000);

/// Most logouts sent for one session: `TBNET_LOGOUT_RETRIES`.
pub const LOGOUT_TRIES: u8 = 10;

/// Time after which rings that could not be opened are tried again.
pub const OPEN_RETRY: Duration = Duration::from_millis(1_000);

/// Shortest time between two control messages of a rail: the control channel is shared, and has
/// ten receive buffers (`TB_CTL_RX_PKG_COUNT`).
pub const STATUS_GAP: Duration = Duration::from_millis(5);

/// First time between two control messages while the handshake makes no progress; doubles.
pub const STATUS_RETRY: Duration = Duration::from_millis(20);

/// Longest time between two control messages while the handshake makes no progress.
pub const STATUS_RETRY_MAX: Duration = Duration::from_millis(640);

/// Time between two control messages of a rail that is up.
pub const KEEPALIVE: Duration = Duration::from_millis(500);

/// Silence after which the peer is taken for dead: six keepalives.
pub const DEAD: Duration = Duration::from_millis(3_000);

/// Time between two BYE.
pub const BYE_RETRY: Duration = Duration::from_millis(50);

/// Most BYE sent: a departing side does not wait for a dead peer.
pub const BYE_TRIES: u8 = 4;
