// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Which states a modify leads to: drawn from the code, and compared with what the documentation says.

use super::*;
use crate::attrs::QpKind;

const STATES: [(State, &str); 7] = [
    (State::Reset, "RESET"),
    (State::Init, "INIT"),
    (State::Rtr, "RTR"),
    (State::Rts, "RTS"),
    (State::Sqd, "SQD"),
    (State::Sqe, "SQE"),
    (State::Err, "ERR"),
];

/// Whether a modify with all attributes given leads a queue pair of `kind` from `from` to `to`.
fn leads(kind: QpKind, from: State, to: State) -> bool {
    let config = QpConfig {
        kind,
        ..QpConfig::new(Qpn::new(17))
    };
    let slots = Slots {
        sends: vec![SendMessage::EMPTY; 4],
        reads: vec![ReadResource::EMPTY; 4],
    };
    let mut qp = Qp::new(config, slots);
    qp.attrs.state = from;
    let modify = Modify {
        state: Some(to),
        path_mtu: Some(Mtu::B1024),
        dest_qpn: Some(Qpn::new(18)),
        qkey: Some(0),
        rq_psn: Some(Psn::new(1)),
        sq_psn: Some(Psn::new(2)),
        max_rd_atomic: Some(1),
        max_dest_rd_atomic: Some(1),
        min_rnr_timer: Some(1),
        timeout: Some(14),
        retry_cnt: Some(7),
        rnr_retry: Some(7),
        access: Some(Access::NONE),
        sqd_event: false,
    };
    match qp.modify(Instant(0), &modify) {
        Ok(()) => {
            assert_eq!(qp.attrs.state, to);
            true
        }
        Err(refused) => {
            assert_eq!((refused, qp.attrs.state), (ModifyError::Transition, from));
            false
        }
    }
}

#[test]
fn the_states_that_a_modify_leads_to_are_those_of_the_documentation() {
    let mut drawn = String::new();
    for (from, name) in STATES {
        let mut line = format!("//!   {name:<7}");
        for (to, name) in STATES {
            let leads = [QpKind::Rc, QpKind::Uc, QpKind::Ud, QpKind::Gsi].map(|kind| leads(kind, from, to));
            assert!(
                leads.iter().all(|other| *other == leads[0]),
                "{from:?} to {to:?}: {leads:?}"
            );
            line += &if leads[0] { format!(" {name:<5}") } else { " ".repeat(6) };
        }
        drawn += line.trim_end();
        drawn.push('\n');
    }
    let source = include_str!("../qp.rs");
    assert!(
        source.contains(&drawn),
        "in the documentation of qp.rs should stand\n{drawn}"
    );
}
