// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What a device counts, and what `ethtool -S` shows of it.

/// A struct of counts, and their sum with another's.
macro_rules! counts {
    ($(#[$about:meta])* pub(crate) struct $name:ident { $($(#[$doc:meta])* pub(crate) $count:ident: u64,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Default)]
        pub(crate) struct $name {
            $($(#[$doc])* pub(crate) $count: u64,)*
        }

        impl $name {
            /// What both have counted.
            pub(crate) fn plus(self, other: Self) -> Self {
                Self {
                    $($count: self.$count.wrapping_add(other.$count),)*
                }
            }
        }
    };
}

counts! {
/// Transmit side of a lane. Kept across sessions of the cable.
pub(crate) struct TxCounters {
    /// Packets given to the ring; a super-packet is one.
    pub(crate) packets: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Bytes of packets that the CPU copied into frames.
    pub(crate) copied: u64,
    /// Bytes of packets that the DMA read where they were.
    pub(crate) zerocopy: u64,
    /// Frames of all kinds.
    pub(crate) frames: u64,
    /// Register writes that told the hardware of them.
    pub(crate) doorbells: u64,
    /// Packets that came when the cable did not carry.
    pub(crate) dropped: u64,
    /// Packets that no frames can carry.
    pub(crate) errors: u64,
    /// Packets whose memory the DMA could not be shown.
    pub(crate) map_errors: u64,
    /// Packets of so many small pieces that they were copied whole.
    pub(crate) scattered: u64,
    /// Times the queue was stopped, or a queue pair had to wait, for want of descriptors.
    pub(crate) ring_full: u64,
    /// The same for want of credit.
    pub(crate) no_credit: u64,
    /// Frames that carried nothing but credit.
    pub(crate) credits: u64,
    /// Frames that asked for credit.
    pub(crate) probes: u64,
    /// Frames of the test of round trips, and answers to the peer's.
    pub(crate) echoes: u64,
    /// Frames that were to raise an interrupt when sent.
    pub(crate) interrupts: u64,
    /// Times the stack complained that nothing went out.
    pub(crate) timeouts: u64,
    /// Trains of queue pairs, past the stack.
    pub(crate) trains: u64,
    /// Their bytes, from the BTH on.
    pub(crate) train_bytes: u64,
    /// Those of them that the peer did not get.
    pub(crate) lost_trains: u64,
    /// Frames that told the peer what has come.
    pub(crate) reports: u64,
    /// Frames that asked it what has come.
    pub(crate) asks: u64,
    /// How often the lane was given up, as the peer answered on another alone.
    pub(crate) given_up: u64,
    /// Frames with business of the direct lane.
    pub(crate) grants: u64,
    /// Bytes of trains that the DMA read for a window.
    pub(crate) window_bytes: u64,
}
}

counts! {
/// Receive side of a lane. Kept across sessions of the cable.
pub(crate) struct RxCounters {
    /// Packets given to the stack; a super-packet is one.
    pub(crate) packets: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Bytes of packets that the CPU copied out of frames.
    pub(crate) copied: u64,
    /// Bytes of packets that are where the DMA wrote them.
    pub(crate) zerocopy: u64,
    /// Frames of all kinds.
    pub(crate) frames: u64,
    /// Polls that found something.
    pub(crate) polls: u64,
    /// Packets dropped for want of memory.
    pub(crate) no_memory: u64,
    /// Pages that the pool did not have when a descriptor was to be posted.
    pub(crate) no_page: u64,
    /// Packets whose metadata contradict them.
    pub(crate) bad_meta: u64,
    /// Trains of queue pairs while the device has no RDMA link, or for want of memory.
    pub(crate) other_kind: u64,
    /// Frames with a wrong CRC.
    pub(crate) crc: u64,
    /// Frames longer than a page.
    pub(crate) overrun: u64,
    /// Frames or packets whose lengths or counts contradict each other.
    pub(crate) length: u64,
    /// Frames dropped because others are missing before them, and frames known to be missing.
    pub(crate) missed: u64,
    /// Frames with markers or headers that make no sense, or of another life of the cable.
    pub(crate) stray: u64,
    /// Trains of queue pairs, past the stack.
    pub(crate) trains: u64,
    /// Their bytes, from the BTH on.
    pub(crate) train_bytes: u64,
    /// Bytes of trains that the DMA wrote to their target, in whole windows.
    pub(crate) window_bytes: u64,
    /// Windows that came to nothing.
    pub(crate) void_windows: u64,
    /// Times the direct lane was opened anew.
    pub(crate) lane_resets: u64,
}
}

counts! {
/// What a cable counts beside its device.
pub(crate) struct CableCounters {
    /// Completions found by the re-scan.
    pub(crate) stranded: u64,
    /// Control messages dropped because too many waited.
    pub(crate) messages_dropped: u64,
    /// Control messages that could not be sent.
    pub(crate) send_errors: u64,
    /// Control messages of no cable of ours; all cables together.
    pub(crate) strays: u64,
    /// Cables that are in: 0 or 1.
    pub(crate) present: u64,
}
}

/// Names for `ethtool -S`, at most 31 bytes each, in the order of [`fill`].
pub(crate) const NAMES: &[&str] = &[
    "tx_packets",
    "tx_bytes",
    "tx_copied_bytes",
    "tx_zerocopy_bytes",
    "tx_frames",
    "tx_doorbells",
    "tx_dropped",
    "tx_errors",
    "tx_map_errors",
    "tx_scattered",
    "tx_ring_full",
    "tx_no_credit",
    "tx_credit_frames",
    "tx_probe_frames",
    "tx_echo_frames",
    "tx_interrupt_frames",
    "tx_timeouts",
    "tx_rdma_trains",
    "tx_rdma_bytes",
    "tx_rdma_lost",
    "tx_report_frames",
    "tx_ask_frames",
    "tx_given_up",
    "tx_grant_frames",
    "tx_direct_bytes",
    "rx_packets",
    "rx_bytes",
    "rx_copied_bytes",
    "rx_zerocopy_bytes",
    "rx_frames",
    "rx_polls",
    "rx_no_memory",
    "rx_no_page",
    "rx_bad_metadata",
    "rx_other_kind",
    "rx_crc_errors",
    "rx_overrun_errors",
    "rx_length_errors",
    "rx_missed_frames",
    "rx_stray_frames",
    "rx_rdma_trains",
    "rx_rdma_bytes",
    "rx_direct_bytes",
    "rx_void_windows",
    "rx_direct_resets",
    "stranded_completions",
    "control_dropped",
    "control_send_errors",
    "control_strays",
    "cable_present",
    "coalesce_usecs",
    "native_peer",
];

/// Writes the numbers of [`NAMES`] to `to`. `usecs` is the interrupt interval in force, `native` whether the peer is
/// ours.
pub(crate) fn fill(to: &mut [u64], tx: &TxCounters, rx: &RxCounters, cable: &CableCounters, usecs: u64, native: bool) {
    let values = [
        tx.packets,
        tx.bytes,
        tx.copied,
        tx.zerocopy,
        tx.frames,
        tx.doorbells,
        tx.dropped,
        tx.errors,
        tx.map_errors,
        tx.scattered,
        tx.ring_full,
        tx.no_credit,
        tx.credits,
        tx.probes,
        tx.echoes,
        tx.interrupts,
        tx.timeouts,
        tx.trains,
        tx.train_bytes,
        tx.lost_trains,
        tx.reports,
        tx.asks,
        tx.given_up,
        tx.grants,
        tx.window_bytes,
        rx.packets,
        rx.bytes,
        rx.copied,
        rx.zerocopy,
        rx.frames,
        rx.polls,
        rx.no_memory,
        rx.no_page,
        rx.bad_meta,
        rx.other_kind,
        rx.crc,
        rx.overrun,
        rx.length,
        rx.missed,
        rx.stray,
        rx.trains,
        rx.train_bytes,
        rx.window_bytes,
        rx.void_windows,
        rx.lane_resets,
        cable.stranded,
        cable.messages_dropped,
        cable.send_errors,
        cable.strays,
        cable.present,
        usecs,
        u64::from(native),
    ];
    const _: () = assert!(NAMES.len() == 52);
    for (to, value) in to.iter_mut().zip(values) {
        *to = value;
    }
}
