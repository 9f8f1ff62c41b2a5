// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What user space or a peer can keep up takes no more of the processor than its share.

use super::{long, own, Case, Context};
use crate::spec::LabSpec;
use crate::{fair, quiet};
use anyhow::Result;

pub const CASES: &[Case] = &[
    own(
        "fair_timers",
        "RNR at 10 us for ever, NAKs, timeouts of 8 us: a busy loop keeps half, SIGKILL ends it in a second",
        |context| play(context, &["rnr_1", "rnr_64", "nak_64", "timeout_64"]),
    ),
    own(
        "fair_posting",
        "datagrams to nobody and to ourselves, posting to QPs in ERR: as above",
        |context| play(context, &["ud_", "flush_"]),
    ),
    own(
        "fair_transfers",
        "READs and WRITEs without end between QPs of one host: as above",
        |context| play(context, &["read_4", "write_4", "write_64"]),
    ),
    own(
        "fair_peer",
        "a peer's datagrams, READs, WRITEs and sends without receives: as above",
        |context| play(context, &["peer_"]),
    ),
    long(own(
        "quiet_regions",
        "100,000 registrations in a loop: another's ib_write_bw keeps 0.9 of what it has beside system calls",
        |context| quiet::case(spec(context), context.ours),
    )),
];

/// Of each phase.
const SECONDS: f64 = 1.0;

fn spec(context: &Context) -> LabSpec {
    LabSpec {
        kernel: context.kernel,
        seed: context.seed,
        ..LabSpec::default()
    }
}

fn play(context: &Context, storms: &[&str]) -> Result<()> {
    fair::judge(spec(context), context.ours, storms, SECONDS)
}
